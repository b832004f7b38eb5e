//! The most frequent among many names, in little room: what a pod asks for in vain.
//!
//! ```text
//!  name ──► has a seat? its count grows ─── no: the seat of the rarest is taken over, its count included
//! ```
//!
//! A name that is asked for more often than one in [`SEATS`] queries has a seat for certain; its count may be too high by
//! what the seat's former name had, never too low. Spec: "space-saving", Metwally, Agrawal and El Abbadi (2005).

use smallvec::SmallVec;

use crate::name::Name;

/// Names that are kept of a pod.
pub const SEATS: usize = 16;

/// Up to [`SEATS`] names with their counts.
#[derive(Debug, Default)]
pub(super) struct Frequent {
    seats: Vec<Seat>,
}

#[derive(Debug)]
struct Seat {
    /// Labels of a packet, without the root, as they were asked for first.
    labels: SmallVec<[u8; 36]>,
    count: u64,
}

impl Frequent {
    /// Counts a name; `labels` are its labels as in a packet, without the root.
    pub(super) fn count(&mut self, labels: &[u8]) {
        if let Some(seat) = self.seats.iter_mut().find(|seat| seat.labels.eq_ignore_ascii_case(labels)) {
            seat.count += 1;
        } else if self.seats.len() < SEATS {
            self.seats.push(Seat { labels: labels.into(), count: 1 });
        } else if let Some(rarest) = self.seats.iter_mut().min_by_key(|seat| seat.count) {
            rarest.labels.clear();
            rarest.labels.extend_from_slice(labels);
            rarest.count += 1;
        }
    }

    /// The names, absolute, the most frequent first.
    pub(super) fn names(&self) -> Vec<(Name, u64)> {
        let name = |seat: &Seat| Some((Name::from_wire(&[&seat.labels[..], &[0]].concat())?, seat.count));
        let mut names: Vec<_> = self.seats.iter().filter_map(name).collect();
        names.sort_by(|(a, a_count), (b, b_count)| b_count.cmp(a_count).then_with(|| a.key().cmp(&b.key())));
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Vec<u8> {
        let name = Name::parse(text).expect("a name");
        let wire = name.as_wire();
        wire[..wire.len() - 1].to_vec()
    }

    fn told(frequent: &Frequent) -> Vec<(String, u64)> {
        frequent.names().into_iter().map(|(name, count)| (name.to_string(), count)).collect()
    }

    #[test]
    fn names_are_told_by_how_often_they_came() {
        let mut frequent = Frequent::default();
        for name in ["b.example", "a.example", "B.Example", "c.example", "b.example"] {
            frequent.count(&labels(name));
        }
        let told = told(&frequent);
        let wanted = [("b.example.", 3), ("a.example.", 1), ("c.example.", 1)];
        assert_eq!(told, wanted.map(|(name, count)| (name.to_owned(), count)));
    }

    #[test]
    fn names_that_come_once_do_not_drive_out_one_that_comes_often() {
        let mut frequent = Frequent::default();
        for number in 0..5000 {
            frequent.count(&labels(&format!("once-{number}.example")));
            if number % 8 == 0 {
                frequent.count(&labels("often.example"));
            }
        }
        let told = told(&frequent);
        assert_eq!(told.len(), SEATS);
        assert_eq!(told[0].0, "often.example.");
        assert!(told[0].1 >= 625, "never too low: {told:?}");
        let sum: u64 = told.iter().map(|(_, count)| count).sum();
        assert_eq!(sum, 5625, "each query is in some seat");
    }
}
