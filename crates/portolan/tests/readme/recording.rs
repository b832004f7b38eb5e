//! A recording: all that the walk prints below one heading.
//!
//! Compared by mask. Lines of one command's output are compared in any order and each once, as the order of addresses,
//! how often a change is seen under way, and how much is left out differ from run to run.

use crate::Block;
use crate::mask::mask;

/// What begins a heading of the walk.
const HEADING: &str = "── ";
/// How output stands below its command.
const OUTPUT: &str = "    ";
/// Printed once for each change that a command happens to see.
const UNDER_WAY: &str = "    Waiting for ";

/// The heading that a block's info string names: `text walk: Step 4` is `Step 4`.
pub fn heading(info: &str) -> Option<&str> {
    info.strip_prefix("text walk: ")
}

/// The lines of the walk below the block's heading, and the heading.
pub fn of(block: &Block, walk: &str) -> Vec<String> {
    let name = heading(&block.info).expect("a recording has a heading");
    let begins = |line: &&str| line.strip_prefix(HEADING).is_some_and(|rest| rest.starts_with(name));
    let mut lines = walk.lines().skip_while(|line| !begins(line));
    let first = lines.next().unwrap_or_else(|| panic!("the walk has no heading {name}"));
    let rest = lines.take_while(|line| !line.starts_with(HEADING));
    let mut section: Vec<String> = [first].into_iter().chain(rest).map(|line| line.trim_end().to_owned()).collect();
    while section.last().is_some_and(String::is_empty) {
        section.pop();
    }
    section
}

/// Panics with the first line that differs.
pub fn holds(block: &Block, walk: &str) {
    let (shown, printed) = (comparable(&block.lines), comparable(&of(block, walk)));
    let page = block.page.display();
    for (place, line) in shown.iter().enumerate() {
        let other = printed.get(place).map_or("nothing more", String::as_str);
        assert_eq!(line, other, "{page}:{}: left is what `{}` shows, right what the walk prints", block.at, block.info);
    }
    assert_eq!(shown.len(), printed.len(), "{page}:{}: the walk prints more under `{}`", block.at, block.info);
}

/// The lines masked, those of each output sorted.
fn comparable(lines: &[String]) -> Vec<String> {
    let same_each_time = |line: &&str| !line.starts_with(UNDER_WAY) && line.trim() != "…";
    let kept: Vec<&str> = lines.iter().map(String::as_str).filter(same_each_time).collect();
    let alike = |a: &&str, b: &&str| a.starts_with(OUTPUT) && b.starts_with(OUTPUT);
    let mut comparable = Vec::new();
    for run in kept.chunk_by(alike) {
        let mut masked: Vec<String> = run.iter().map(|line| mask(line)).collect();
        masked.sort();
        masked.dedup();
        comparable.extend(masked);
    }
    comparable
}

#[test]
fn an_output_in_another_order_is_the_same_and_another_word_is_not() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let one = lines("  $ ip route\n    a\n    b\n  ✔ so");
    assert_eq!(comparable(&one), comparable(&lines("  $ ip route\n    b\n    a\n  ✔ so")));
    assert_ne!(comparable(&one), comparable(&lines("  $ ip route\n    b\n    c\n  ✔ so")));
    assert_ne!(comparable(&one), comparable(&lines("  $ ip route\n    a\n    b\n  ✔ not so")));
    assert_eq!(comparable(&one), comparable(&lines("  $ ip route\n    Waiting for it\n    a\n    b\n  ✔ so")));
}
