//! Words: spans of time, names and lists as a story writes them, and the name that was probably meant.

use std::net::SocketAddr;

use portolan_model::NsName;

use crate::evidence::Header;

/// Microseconds for people: `40 µs`, `0.31 ms`, `12 ms`, `1.2 s`.
pub fn micros(us: u64) -> String {
    let ms = us as f64 / 1_000.0;
    match us {
        0..100 => format!("{us} µs"),
        100..10_000 => format!("{ms:.2} ms"),
        10_000..1_000_000 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1_000.0),
    }
}

/// Seconds for people: `41 s`, `5 min`, `3 h`, `2 d`.
pub fn seconds(secs: u64) -> String {
    match secs {
        0..120 => format!("{secs} s"),
        120..7_200 => format!("{} min", secs / 60),
        7_200..172_800 => format!("{} h", secs / 3_600),
        _ => format!("{} d", secs / 86_400),
    }
}

/// How long since `then`, in the words of [`seconds`]; clocks that disagree make no negative ages.
pub fn since(then: i64, now: i64) -> String {
    seconds(u64::try_from(now - then).unwrap_or(0))
}

/// `1 endpoint`, `2 endpoints`.
pub fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// `a`, `a and b`, `a, b and 3 more`: at most `most` of them by name.
pub fn list(names: &[String], most: usize) -> String {
    let (shown, rest) = names.split_at(names.len().min(most));
    match (shown, rest) {
        ([], _) => String::new(),
        ([one], []) => one.clone(),
        ([first @ .., last], []) => format!("{} and {last}", first.join(", ")),
        (shown, rest) => format!("{} and {} more", shown.join(", "), rest.len()),
    }
}

/// Source and destination: `10.244.0.5:37266 → 10.96.7.7:80`.
pub fn header(header: &Header) -> String {
    format!("{} → {}", socket(header.src), socket(header.dst))
}

/// An address without its port where that is 0, as of a sender that has not chosen one.
pub fn socket(addr: SocketAddr) -> String {
    match addr.port() {
        0 => addr.ip().to_string(),
        _ => addr.to_string(),
    }
}

/// A name without its namespace where that is `home`.
pub fn short(key: &NsName, home: &str) -> String {
    match *key.namespace == *home {
        true => key.name.to_string(),
        false => key.to_string(),
    }
}

/// Those of `known` that `typed` is probably a slip of, nearest first; none if nothing is near.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let limit = (typed.chars().count() / 3).clamp(1, 3);
    let mut near: Vec<(usize, &str)> = known.into_iter().map(|name| (distance(typed, name), name)).collect();
    near.retain(|(far, _)| *far <= limit);
    near.sort();
    near.dedup();
    near.into_iter().map(|(_, name)| name).collect()
}

/// How many letters are to be put in, taken out, changed or swapped with the next one (Damerau's distance, each place once).
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let width = to.len() + 1;
    let mut table = vec![0; (from.len() + 1) * width];
    for (i, j) in (0..=from.len()).flat_map(|i| (0..width).map(move |j| (i, j))) {
        let at = |i: usize, j: usize| table[i * width + j];
        let best = match (i, j) {
            (0, _) => j,
            (_, 0) => i,
            _ => {
                let change = at(i - 1, j - 1) + usize::from(from[i - 1] != to[j - 1]);
                let best = change.min(at(i - 1, j) + 1).min(at(i, j - 1) + 1);
                let is_swap = i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1];
                if is_swap { best.min(at(i - 2, j - 2) + 1) } else { best }
            }
        };
        table[i * width + j] = best;
    }
    table[from.len() * width + to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time_are_short() {
        let rows = [(90, "90 µs"), (312, "0.31 ms"), (12_345, "12 ms"), (1_234_567, "1.2 s")];
        rows.iter().for_each(|(us, text)| assert_eq!(micros(*us), *text));
        let rows = [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h"), (200_000, "2 d")];
        rows.iter().for_each(|(secs, text)| assert_eq!(seconds(*secs), *text));
        assert_eq!(since(100, 90), "0 s", "a clock that is ahead makes no negative age");
    }

    #[test]
    fn lists_name_a_few_and_count_the_rest() {
        let names = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>();
        assert_eq!(list(&names(1), 2), "0");
        assert_eq!(list(&names(2), 2), "0 and 1");
        assert_eq!(list(&names(5), 2), "0, 1 and 3 more");
    }

    #[test]
    fn a_slip_finds_the_name_that_was_meant() {
        let known = ["web", "api", "database", "wbx"];
        assert_eq!(nearest("wbe", known), ["wbx", "web"]);
        assert_eq!(nearest("databsae", known), ["database"]);
        assert!(nearest("frontend", known).is_empty());
    }
}
