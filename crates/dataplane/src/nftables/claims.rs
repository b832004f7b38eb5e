//! Claims: what only one service port may have, and who has it. A ClusterIP goes before any other claim; among equals the
//! smallest key owns, and the others stand in line.

use std::collections::hash_map::{DefaultHasher, Entry};
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;

use crate::nftables::lang::Key;
use crate::nftables::service::Owner;

/// Who claims what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Hashed the same way in every run.
    owners: HashMap<Key, Claim, BuildHasherDefault<DefaultHasher>>,
    /// What two or more claim, with all of them, sorted: rare.
    contested: BTreeMap<Key, Vec<Claim>>,
}

/// How strong a claim is: the first goes before the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Rank {
    Own,
    /// An external address: whoever says so.
    Said,
}

type Claim = (Rank, Owner);

impl Claims {
    /// Who has it.
    pub fn owner(&self, key: &Key) -> Option<&Owner> {
        self.owners.get(key).map(|(_, owner)| owner)
    }

    /// Of these keys that `who` claims, those that another has, and who.
    pub fn lost(&self, keys: impl Iterator<Item = Key>, who: &Owner) -> Vec<(Key, Owner)> {
        if self.contested.is_empty() {
            return Vec::new();
        }
        let other = |key: &Key| Some(&self.contested.get(key)?.first()?.1).filter(|other| *other != who);
        keys.filter_map(|key| Some((key, other(&key)?.clone()))).collect()
    }

    /// `who` asks for it. Returns who had it, if `who` takes it from them.
    pub fn claim(&mut self, key: Key, rank: Rank, who: &Owner) -> Option<Owner> {
        let claim = (rank, who.clone());
        let mut held = match self.owners.entry(key) {
            Entry::Vacant(free) => {
                free.insert(claim);
                return None;
            }
            Entry::Occupied(held) => held,
        };
        let line = self.contested.entry(key).or_insert_with(|| vec![held.get().clone()]);
        line.retain(|(_, one)| one != who);
        let place = line.partition_point(|other| *other < claim);
        line.insert(place, claim);
        let (_, before) = held.insert(line[0].clone());
        let (_, after) = held.get();
        (before != *after).then_some(before)
    }

    /// `who` no longer asks for it. Returns who has it now, if `who` had it.
    pub fn release(&mut self, key: Key, who: &Owner) -> Option<Owner> {
        let had = self.owners.get(&key).is_some_and(|(_, owner)| owner == who);
        let Some(line) = self.contested.get_mut(&key) else {
            if had {
                self.owners.remove(&key);
            }
            return None;
        };
        line.retain(|(_, one)| one != who);
        let first = line.first().cloned();
        if line.len() < 2 {
            self.contested.remove(&key);
        }
        let first = first?;
        self.owners.insert(key, first.clone());
        had.then_some(first.1)
    }
}
