//! Slots: where in a list each endpoint stands. A change of one endpoint moves one other at most.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// An endpoint as a list holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Its address.
    pub addr: IpAddr,
    /// Its port.
    pub port: u16,
}

impl Target {
    /// Both in one.
    pub fn socket(self) -> SocketAddr {
        SocketAddr::new(self.addr, self.port)
    }
}

/// `wanted` in the order that costs least after `held`: who stays keeps its slot, newcomers take free slots or follow at
/// the end, and the last move into what is free then. A pick without a newcomer moves nobody who need not move.
pub fn carry(held: &[Target], wanted: &[Target]) -> Vec<Target> {
    if held.is_empty() || held == wanted {
        return wanted.to_vec();
    }
    let mut missing: BTreeSet<Target> = wanted.iter().copied().collect();
    let mut slots: Vec<Option<Target>> = held.iter().map(|held| missing.take(held)).collect();
    let mut newcomers = wanted.iter().copied().filter(|target| missing.contains(target));
    for slot in slots.iter_mut().filter(|slot| slot.is_none()) {
        *slot = newcomers.next();
    }
    slots.extend(newcomers.map(Some));
    close_gaps(slots)
}

fn close_gaps(mut slots: Vec<Option<Target>>) -> Vec<Target> {
    let mut gap = 0;
    while let Some(first) = slots[gap..].iter().position(Option::is_none) {
        gap += first;
        // The last that is taken moves into the gap; if none is left behind it, the list ends here.
        let last = slots.pop().flatten();
        if let Some(last) = last {
            slots[gap] = Some(last);
        }
        gap = gap.min(slots.len());
    }
    slots.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(numbers: &[u16]) -> Vec<Target> {
        numbers.iter().map(|port| Target { addr: "10.244.0.1".parse().expect("an address"), port: *port }).collect()
    }

    #[test]
    fn one_change_moves_one_slot() {
        let rows: [(&[u16], &[u16], &[u16]); 9] = [
            (&[], &[1, 2], &[1, 2]),
            (&[2, 1], &[1, 2], &[2, 1]),
            (&[1, 2, 3], &[2, 3], &[3, 2]),
            (&[1, 2, 3], &[1, 2], &[1, 2]),
            (&[1, 2, 3], &[1, 4, 3], &[1, 4, 3]),
            (&[1, 2, 3], &[3], &[3]),
            (&[1, 2, 3, 4, 5], &[2, 4], &[4, 2]),
            (&[3, 1], &[0, 1, 2, 3], &[3, 1, 0, 2]),
            (&[1, 2], &[], &[]),
        ];
        for (held, wanted, carried) in rows {
            assert_eq!(carry(&targets(held), &targets(wanted)), targets(carried), "{held:?} to {wanted:?}");
        }
    }
}
