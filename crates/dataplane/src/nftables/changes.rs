//! Changes: steps in an order that the kernel takes, each with the service port that caused it.
//!
//! ```text
//!  sets and chains that are new ─► elements out ─► elements in ─► rules ─► chains and sets that are gone
//! ```

use std::collections::BTreeSet;

use portolan_model::{Complaint, NsName, Text};

use crate::nftables::lang::{Element, Key, Step};
use crate::nftables::service::Owner;
use crate::nftables::slots::Target;

/// Steps that the kernel takes all or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    steps: Vec<Step>,
    /// As many as steps.
    owners: Vec<Option<Owner>>,
}

/// What an update changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// For the kernel; empty if nothing is to be done.
    pub transaction: Transaction,
    /// Id and endpoint that no longer go together: clients bound so must be let go after the transaction.
    pub left: Vec<(u32, Target)>,
    /// What this update found wrong: a destination that two Services claim.
    pub complaints: Vec<Complaint>,
}

impl Transaction {
    /// In order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The service port that caused the step at `index`; `None`: no single one.
    pub fn owner(&self, index: usize) -> Option<&Owner> {
        self.owners.get(index)?.as_ref()
    }

    /// The service ports that caused steps, one for each such step.
    pub fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.owners.iter().flatten()
    }

    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Elements put in or taken out.
    pub fn element_count(&self) -> usize {
        self.steps.iter().map(elements_in).sum()
    }

    /// One step more at its end.
    pub fn push(&mut self, step: Step, owner: Option<Owner>) {
        self.steps.push(step);
        self.owners.push(owner);
    }

    /// The same as several of about `most` elements each, to be sent in order. The first makes the table whole and carries
    /// cluster DNS and the API server's Service; each leaves whole Services behind it. A Service that also loses elements
    /// goes with the first, so that what moves from one to another is out before it is in.
    pub fn in_chunks(self, most: usize) -> Vec<Transaction> {
        let Parts { mut first, services, last } = Parts::of(self);
        let mut chunks = Vec::new();
        let mut size = first.element_count();
        for (service, steps) in services {
            let more: usize = steps.iter().map(|(step, _)| elements_in(step)).sum();
            if size > 0 && size + more > most && !is_first(&service) {
                chunks.push(std::mem::take(&mut first));
                size = 0;
            }
            size += more;
            for (step, owner) in steps {
                first.push(step, Some(owner));
            }
        }
        for step in last {
            first.push(step, None);
        }
        chunks.push(first);
        chunks.retain(|chunk| !chunk.is_empty());
        chunks
    }

    fn parts(self) -> impl Iterator<Item = (Step, Option<Owner>)> {
        self.steps.into_iter().zip(self.owners)
    }
}

impl Changes {
    /// Nothing for the kernel to do.
    pub fn is_empty(&self) -> bool {
        self.transaction.is_empty()
    }

    /// The transaction in portions: see [`Transaction::in_chunks`].
    pub fn in_chunks(self, most: usize) -> Vec<Transaction> {
        self.transaction.in_chunks(most)
    }
}

/// A transaction taken apart: what must come at once, Services that only gain elements, removal of sets and chains.
#[derive(Default)]
struct Parts {
    first: Transaction,
    services: Vec<(NsName, Vec<(Step, Owner)>)>,
    last: Vec<Step>,
}

impl Parts {
    fn of(transaction: Transaction) -> Self {
        let is_loser = |(step, owner): (&Step, &Option<Owner>)| match (step, owner) {
            (Step::DeleteElements(..), Some(owner)) => Some(owner.service.clone()),
            _ => None,
        };
        let losers: BTreeSet<NsName> = transaction.steps.iter().zip(&transaction.owners).filter_map(is_loser).collect();
        let mut parts = Self::default();
        for (step, owner) in transaction.parts() {
            match owner {
                Some(owner) if !losers.contains(&owner.service) => parts.gain(owner, step),
                owner => match step {
                    Step::DeleteSet(_) | Step::DeleteChain(_) => parts.last.push(step),
                    step => parts.first.push(step, owner),
                },
            }
        }
        parts
    }

    fn gain(&mut self, owner: Owner, step: Step) {
        match self.services.last_mut() {
            Some((service, steps)) if *service == owner.service => steps.push((step, owner)),
            _ => self.services.push((owner.service.clone(), vec![(step, owner)])),
        }
    }
}

/// Cluster DNS and the API server: what everything else in a cluster needs first.
pub fn is_first(service: &NsName) -> bool {
    matches!((&*service.namespace, &*service.name), ("kube-system", "kube-dns") | ("default", "kubernetes"))
}

fn elements_in(step: &Step) -> usize {
    match step {
        Step::AddElements(_, elements) => elements.len(),
        Step::DeleteElements(_, keys) => keys.len(),
        _ => 0,
    }
}

/// Element steps of one transaction as they are found: neighbours of one set and owner become one step.
#[derive(Default)]
pub(super) struct Writing {
    out: Vec<(Text, Vec<Key>, Option<Owner>)>,
    into: Vec<(Text, Vec<Element>, Option<Owner>)>,
}

impl Writing {
    pub(super) fn take_out(&mut self, set: &Text, key: Key, owner: Option<&Owner>) {
        match self.out.last_mut() {
            Some((same, keys, by)) if same == set && by.as_ref() == owner => keys.push(key),
            _ => self.out.push((set.clone(), vec![key], owner.cloned())),
        }
    }

    pub(super) fn put_in(&mut self, set: &Text, element: Element, owner: Option<&Owner>) {
        match self.into.last_mut() {
            Some((same, elements, by)) if same == set && by.as_ref() == owner => elements.push(element),
            last => {
                // A cold start holds a list for each Service and set: room to grow in all of them is megabytes.
                if let Some((_, whole, _)) = last {
                    whole.shrink_to_fit();
                }
                self.into.push((set.clone(), vec![element], owner.cloned()));
            }
        }
    }

    /// All that goes, then all that comes.
    pub(super) fn finish(self, transaction: &mut Transaction) {
        for (set, keys, owner) in self.out {
            transaction.push(Step::DeleteElements(set, keys), owner);
        }
        for (set, elements, owner) in self.into {
            transaction.push(Step::AddElements(set, elements), owner);
        }
    }
}
