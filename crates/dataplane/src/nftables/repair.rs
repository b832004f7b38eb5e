//! Repair: from the table that the kernel holds to the one it must hold. Read at start, after an error, and when another
//! hand was in the table; a kernel that is as planned needs nothing.

use std::collections::BTreeMap;

use portolan_model::Text;

use crate::nftables::changes::{self, Transaction, Writing};
use crate::nftables::fixed::Skeleton;
use crate::nftables::lang::{Chain, Element, Key, Set, Step, Table};
use crate::nftables::names::LAYOUT;
use crate::nftables::plan::{Desired, Wanted};
use crate::nftables::service::Owner;

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
        if !fits(&held, desired.skeleton()) {
            return Self::anew(desired);
        }
        let mut transaction = Transaction::default();
        held.becomes(desired.skeleton(), differences(desired, &kernel.sets), &mut transaction);
        Self { transaction }
    }

    /// The whole table in place of whatever the kernel holds.
    pub fn anew(desired: &Desired) -> Self {
        let mut transaction = Transaction::default();
        transaction.push(Step::DeleteTable, None);
        transaction.push(Step::AddTable, None);
        let writing = differences(desired, &BTreeMap::new());
        Skeleton::default().becomes(desired.skeleton(), writing, &mut transaction);
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
    let same_base = |(name, chain): (&Text, &Chain)| held.chains.get(name).is_none_or(|it| it.base == chain.base);
    held.sets.contains_key(LAYOUT) && wanted.sets.iter().all(same_shape) && wanted.chains.iter().all(same_base)
}

fn differences(desired: &Desired, held: &BTreeMap<Text, Set>) -> Writing {
    let wanted = desired.wanted();
    let mut writing = Writing::default();
    let none = BTreeMap::new();
    // A set of another hand goes as a whole.
    let ours = |name: &Text, set: &Set| set.shape.dynamic.is_none() && desired.skeleton().sets.contains_key(name);
    for (name, set) in held.iter().filter(|(name, set)| ours(name, set)) {
        let wanted = wanted.get(name).unwrap_or(&none);
        for (key, held) in &set.elements {
            let it = wanted.get(key);
            if !it.is_some_and(|it| it.is(held)) {
                writing.take_out(name, *key, it.and_then(|it| it.owner.as_ref()));
            }
        }
    }
    for (name, owner, element) in missing(wanted, held) {
        writing.put_in(&name, element, owner.as_ref());
    }
    writing
}

type Missing = (Text, Option<Owner>, Element);

/// What the kernel lacks or has wrong, by service port: cluster DNS and the API server's Service first.
fn missing(wanted: BTreeMap<Text, BTreeMap<Key, Wanted>>, held: &BTreeMap<Text, Set>) -> Vec<Missing> {
    let mut found: Vec<Missing> = Vec::new();
    for (name, elements) in wanted {
        let held = held.get(&name);
        for (key, it) in elements {
            let is_right = held.and_then(|set| set.elements.get(&key)).is_some_and(|held| it.is(held));
            if !is_right {
                found.push((name.clone(), it.owner, Element { key, data: it.data, comment: it.comment }));
            }
        }
    }
    let is_first = |owner: &Option<Owner>| owner.as_ref().is_none_or(|owner| changes::is_first(&owner.service));
    found.sort_by(|a, b| (!is_first(&a.1), &a.1, &a.0).cmp(&(!is_first(&b.1), &b.1, &b.0)));
    found
}
