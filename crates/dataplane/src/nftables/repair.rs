//! Repair: from the table that the kernel holds to the one it must hold. Read at start, after an error, and when another
//! hand was in the table; a kernel that is as planned needs nothing.

use std::collections::BTreeMap;

use portolan_model::Text;

use crate::nftables::changes::{Transaction, Writing};
use crate::nftables::fixed::Skeleton;
use crate::nftables::lang::{Element, Key, Set, Step, Table};
use crate::nftables::names::LAYOUT;
use crate::nftables::plan::{Desired, Wanted};

/// What brings a kernel to the planned state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repair {
    /// Empty if the kernel is as planned.
    pub transaction: Transaction,
}

impl Repair {
    /// What `kernel` needs to become `desired`: as few steps as can be. Chains, sets and elements in the table that
    /// nobody planned go. A table that is laid out in another way is made anew, all in one.
    pub fn of(desired: &Desired, kernel: &Table) -> Self {
        let held = skeleton_of(kernel);
        let wanted = desired.wanted();
        let mut transaction = Transaction::default();
        if fits(&held, desired.skeleton()) {
            let writing = differences(wanted, kernel);
            held.becomes(desired.skeleton(), writing, &mut transaction);
        } else {
            transaction.push(Step::DeleteTable, None);
            transaction.push(Step::AddTable, None);
            let nothing = Table { chains: BTreeMap::new(), sets: BTreeMap::new(), ..kernel.clone() };
            Skeleton::default().becomes(desired.skeleton(), differences(wanted, &nothing), &mut transaction);
        }
        Self { transaction }
    }

    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.transaction.is_empty()
    }
}

fn skeleton_of(kernel: &Table) -> Skeleton {
    let sets = kernel.sets.iter().map(|(name, set)| (name.clone(), set.shape.clone())).collect();
    Skeleton { chains: kernel.chains.clone(), sets }
}

/// It is our layout, and whatever bears a name of ours is what we would make.
fn fits(held: &Skeleton, wanted: &Skeleton) -> bool {
    let same_shape = |(name, shape)| held.sets.get(name).is_none_or(|it| it == shape);
    let same_base = |(name, chain): (&Text, &crate::nftables::lang::Chain)| {
        held.chains.get(name).is_none_or(|it| it.base == chain.base)
    };
    held.sets.contains_key(LAYOUT) && wanted.sets.iter().all(same_shape) && wanted.chains.iter().all(same_base)
}

fn differences(wanted: BTreeMap<Text, BTreeMap<Key, Wanted>>, kernel: &Table) -> Writing {
    let mut writing = Writing::default();
    let none = BTreeMap::new();
    for (name, set) in kernel.sets.iter().filter(|(_, set)| set.shape.dynamic.is_none()) {
        let wanted = wanted.get(name).unwrap_or(&none);
        for (key, held) in &set.elements {
            let is_right = wanted.get(key).is_some_and(|it| (it.data, &it.comment) == (held.0, &held.1));
            if !is_right {
                let owner = wanted.get(key).and_then(|it| it.owner.as_ref());
                writing.take_out(name, *key, owner);
            }
        }
    }
    for (name, owner, element) in missing(wanted, &kernel.sets) {
        writing.put_in(&name, element, owner.as_ref());
    }
    writing
}

type Missing = (Text, Option<crate::nftables::service::Owner>, Element);

/// What the kernel lacks or has wrong, by service port: cluster DNS and the API server's Service first.
fn missing(wanted: BTreeMap<Text, BTreeMap<Key, Wanted>>, held: &BTreeMap<Text, Set>) -> Vec<Missing> {
    let mut found = Vec::new();
    for (name, elements) in wanted {
        let held = held.get(&name);
        for (key, it) in elements {
            let is_right = held
                .and_then(|set| set.elements.get(&key))
                .is_some_and(|held| (it.data, &it.comment) == (held.0, &held.1));
            if !is_right {
                found.push((name.clone(), it.owner, Element { key, data: it.data, comment: it.comment }));
            }
        }
    }
    let is_first = |owner: &Option<crate::nftables::service::Owner>| {
        owner.as_ref().is_none_or(|owner| crate::nftables::changes::is_first(&owner.service))
    };
    found.sort_by(|a, b| {
        let place = |it: &Missing| (!is_first(&it.1), it.1.clone(), it.0.clone());
        place(a).cmp(&place(b))
    });
    found
}
