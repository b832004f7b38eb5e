//! Rules that were there when a packet came, and are gone: where they stood in their chains.
//!
//! A chain of ours is written whole: all its rules go in one transaction, in their order, and with them the numbers that the
//! kernel names them by. Heard while a watch is on, so that nothing is to be remembered at other times.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use portolan_kernel::nft_rules::{RuleChange, RuleWatch};
use tracing::debug;

use super::passages::TABLE_PREFIX;

/// Rules remembered by one watch.
const MOST_RULES: usize = 200_000;
/// The kernel changes the rules a moment before it tells of it: so long one that is in neither is waited for.
const TOLD_WITHIN: Duration = Duration::from_millis(200);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Rules that went while it was listened.
#[derive(Default)]
pub(crate) struct Former {
    /// `None`: the kernel gives no socket; nothing is remembered then.
    rules: Option<RuleWatch>,
    /// By family, table and number.
    gone: HashMap<(u8, String, u64), Stood>,
}

/// Where a rule stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stood {
    /// From 0.
    pub(crate) index: usize,
    /// How many rules the chain had.
    pub(crate) count: usize,
}

impl Former {
    /// Listens from now on.
    pub(crate) fn open() -> Self {
        let rules = RuleWatch::open();
        let rules = rules.inspect_err(|error| debug!(%error, "rules that go during a trace have no names")).ok();
        Self { rules, gone: HashMap::new() }
    }

    /// To be polled.
    pub(crate) fn watch(&self) -> Option<&RuleWatch> {
        self.rules.as_ref()
    }

    /// Takes in what waits.
    pub(crate) fn read(&mut self) {
        let Some(rules) = &mut self.rules else { return };
        match rules.read() {
            Ok(transactions) => transactions.iter().for_each(|changes| self.take(changes)),
            Err(error) => {
                debug!(%error, "rules that go during a trace have no names any more");
                self.rules = None;
            }
        }
    }

    /// One transaction.
    fn take(&mut self, changes: &[RuleChange]) {
        let went: Vec<&RuleChange> =
            changes.iter().filter(|change| !change.came && !change.table.starts_with(TABLE_PREFIX)).collect();
        if self.gone.len() + went.len() > MOST_RULES {
            self.gone.clear();
        }
        let mut counts: HashMap<(u8, &str, &str), usize> = HashMap::new();
        for change in &went {
            *counts.entry((change.family, &change.table, &change.chain)).or_default() += 1;
        }
        let mut next: HashMap<(u8, &str, &str), usize> = HashMap::new();
        for change in &went {
            let chain = (change.family, &*change.table, &*change.chain);
            let index = next.entry(chain).or_default();
            let stood = Stood { index: *index, count: counts[&chain] };
            *index += 1;
            self.gone.insert((change.family, change.table.clone(), change.handle), stood);
        }
    }

    /// Where a rule stood that is not in its chain any more. Blocks for a moment if that is not told yet.
    pub(crate) fn find(&mut self, family: u8, table: &str, handle: u64) -> Option<Stood> {
        let until = Instant::now() + TOLD_WITHIN;
        let key = (family, table.to_owned(), handle);
        loop {
            self.read();
            match self.gone.get(&key) {
                Some(stood) => return Some(*stood),
                None if self.rules.is_none() || Instant::now() > until => return None,
                None => std::thread::sleep(LOOK_AGAIN),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(table: &str, chain: &str, handle: u64, came: bool) -> RuleChange {
        RuleChange { family: 2, table: table.to_owned(), chain: chain.to_owned(), handle, came }
    }

    #[test]
    fn a_chain_that_is_written_anew_leaves_the_places_of_its_former_rules() {
        let mut former = Former::default();
        let gone = [(10, "SVC"), (11, "SVC"), (4, "SEP"), (12, "SVC")];
        let gone = gone.map(|(handle, chain)| change("nat", chain, handle, false));
        let came = [20, 21].map(|handle| change("nat", "SVC", handle, true));
        former.take(&[&gone[..], &came[..]].concat());
        former.take(&[change("nat", "SVC", 20, false), change("nat", "SVC", 21, false)]);
        for (handle, stood) in [(10, (0, 3)), (12, (2, 3)), (4, (0, 1)), (21, (1, 2))] {
            let (index, count) = stood;
            assert_eq!(former.find(2, "nat", handle), Some(Stood { index, count }), "{handle}");
        }
        assert_eq!(former.find(2, "nat", 30), None);
        assert_eq!(former.find(10, "nat", 10), None, "the other family's numbers are its own");
    }
}
