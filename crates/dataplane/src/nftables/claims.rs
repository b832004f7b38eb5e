//! Claims: what only one service port may have, and who has it. A ClusterIP goes before any other claim; among equals the
//! smallest key owns, and the others stand in line.

use std::collections::BTreeMap;

use crate::nftables::lang::Key;
use crate::nftables::service::Owner;

/// Who claims what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    owners: BTreeMap<Key, Line>,
}

/// How strong a claim is: the first goes before the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Rank {
    Own,
    /// An external address: whoever says so.
    Said,
}

/// Nearly everything is claimed once; no list is kept for that.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    One(Claim),
    /// Two or more, sorted.
    Many(Vec<Claim>),
}

type Claim = (Rank, Owner);

impl Claims {
    /// Who has it.
    pub fn owner(&self, key: &Key) -> Option<&Owner> {
        self.owners.get(key).map(|line| &line.first().1)
    }

    /// `who` asks for it. Returns who had it, if `who` takes it from them.
    pub fn claim(&mut self, key: Key, rank: Rank, who: &Owner) -> Option<Owner> {
        let claim = (rank, who.clone());
        let Some(line) = self.owners.get_mut(&key) else {
            self.owners.insert(key, Line::One(claim));
            return None;
        };
        let before = line.first().1.clone();
        line.join(claim);
        (line.first().1 != before).then_some(before)
    }

    /// `who` no longer asks for it. Returns who has it now, if `who` had it.
    pub fn release(&mut self, key: Key, who: &Owner) -> Option<Owner> {
        let line = self.owners.get_mut(&key)?;
        let had = line.first().1 == *who;
        match line {
            Line::One(only) if only.1 == *who => {
                self.owners.remove(&key);
                None
            }
            Line::One(_) => None,
            Line::Many(all) => {
                all.retain(|(_, one)| one != who);
                if let [only] = all.as_slice() {
                    *line = Line::One(only.clone());
                }
                had.then(|| line.first().1.clone())
            }
        }
    }
}

impl Line {
    fn first(&self) -> &Claim {
        match self {
            Self::One(only) => only,
            Self::Many(all) => &all[0],
        }
    }

    fn join(&mut self, claim: Claim) {
        let mut all = match self {
            Self::One(only) => vec![only.clone()],
            Self::Many(all) => std::mem::take(all),
        };
        all.retain(|(_, one)| *one != claim.1);
        let place = all.partition_point(|other| *other < claim);
        all.insert(place, claim.clone());
        *self = match all.len() {
            1 => Self::One(claim),
            _ => Self::Many(all),
        };
    }
}
