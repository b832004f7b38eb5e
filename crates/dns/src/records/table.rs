//! Services by the two labels of a query, in a table that is cheap to read and to share.
//!
//! ```text
//!  hash of labels ──► shard (top bits) ──► slot (low bits, then the next) ──► Service
//!                     an Arc each          16 bytes: hash, Service
//! ```
//!
//! A lookup touches one line of slots and the Service, and for a name that is not there the slots alone: each slot keeps
//! its whole hash. A clone shares all shards; a change copies one of them and the list of shards.

use std::hash::BuildHasher;
use std::sync::Arc;

use crate::records::mixer::Mixer;
use crate::records::service::Service;

/// Services for each shard on average before there are twice as many shards.
const CROWD: usize = 48;
/// Slots of a new shard; a power of two, as all counts of slots and shards.
const FEWEST: usize = 4;

/// Services by their labels.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    shards: Arc<[Shard]>,
    len: usize,
}

/// Slots with open addressing; a quarter of them at least is empty.
#[derive(Clone, Debug)]
struct Shard {
    slots: Arc<[Slot]>,
    len: usize,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    hash: u64,
    service: Option<Arc<Service>>,
}

impl Default for Table {
    fn default() -> Self {
        Self { shards: Arc::from([Shard::default()].as_slice()), len: 0 }
    }
}

impl Default for Shard {
    fn default() -> Self {
        Self::with_room(FEWEST)
    }
}

impl Table {
    /// How many Services are in it.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The Service of these labels, in lower case.
    pub(crate) fn get(&self, labels: &[u8]) -> Option<&Arc<Service>> {
        let hash = hash(labels);
        self.shard(hash).alike(hash).find(|service| *service.labels == *labels)
    }

    /// A Service that [`Self::get`] will most likely find for `labels`, by their hash alone: to bring its memory near.
    pub(crate) fn likely(&self, labels: &[u8]) -> Option<&Arc<Service>> {
        let hash = hash(labels);
        self.shard(hash).alike(hash).next()
    }

    /// All of them, in no order.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.shards.iter().flat_map(|shard| shard.slots.iter().filter_map(|slot| slot.service.as_ref()))
    }

    /// Puts `service` in, in place of the one that has its labels.
    pub(crate) fn put(&mut self, service: Arc<Service>) {
        if self.len >= self.shards.len() * CROWD {
            self.double();
        }
        let hash = hash(&service.labels);
        let place = self.place(hash);
        let is_new = Arc::make_mut(&mut self.shards)[place].put(hash, service);
        self.len += usize::from(is_new);
    }

    /// Takes the Service of these labels away, if it is there.
    pub(crate) fn take(&mut self, labels: &[u8]) {
        let hash = hash(labels);
        let place = self.place(hash);
        if self.shards[place].find(hash, labels).is_some() {
            Arc::make_mut(&mut self.shards)[place].take(hash, labels);
            self.len -= 1;
        }
    }

    fn shard(&self, hash: u64) -> &Shard {
        &self.shards[self.place(hash)]
    }

    fn place(&self, hash: u64) -> usize {
        // The bits above those of the slots; a shard has far fewer than 2^32.
        (hash >> 32) as usize & (self.shards.len() - 1)
    }

    fn double(&mut self) {
        let mut shards = vec![Shard::default(); self.shards.len() * 2];
        let last = shards.len() - 1;
        for shard in &*self.shards {
            for slot in &*shard.slots {
                if let Some(service) = &slot.service {
                    shards[(slot.hash >> 32) as usize & last].put(slot.hash, service.clone());
                }
            }
        }
        self.shards = shards.into();
    }
}

impl Shard {
    fn with_room(slots: usize) -> Self {
        Self { slots: vec![Slot::default(); slots].into(), len: 0 }
    }

    /// Places of the slots where a hash may be, in order, up to the first empty one.
    fn places(&self, hash: u64) -> impl Iterator<Item = usize> {
        let last = self.slots.len() - 1;
        let first = hash as usize;
        (0..=last).map(move |step| first.wrapping_add(step) & last)
    }

    /// Services with this hash: nearly always the one that is looked for, or none.
    fn alike(&self, hash: u64) -> impl Iterator<Item = &Arc<Service>> {
        let slots = self.places(hash).map(|place| &self.slots[place]);
        let there = slots.map_while(|slot| Some((slot.hash, slot.service.as_ref()?)));
        there.filter(move |(other, _)| *other == hash).map(|(_, service)| service)
    }

    fn find(&self, hash: u64, labels: &[u8]) -> Option<usize> {
        let mut taken = self.places(hash).take_while(|place| self.slots[*place].service.is_some());
        taken.find(|place| {
            let slot = &self.slots[*place];
            slot.hash == hash && slot.service.as_ref().is_some_and(|service| *service.labels == *labels)
        })
    }

    /// `true`: there was none with its labels.
    fn put(&mut self, hash: u64, service: Arc<Service>) -> bool {
        if let Some(place) = self.find(hash, &service.labels) {
            Arc::make_mut(&mut self.slots)[place].service = Some(service);
            return false;
        }
        if (self.len + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        let free = self.places(hash).find(|place| self.slots[*place].service.is_none());
        let free = free.expect("a quarter of the slots is empty");
        Arc::make_mut(&mut self.slots)[free] = Slot { hash, service: Some(service) };
        self.len += 1;
        true
    }

    fn grow(&mut self) {
        let mut grown = Self::with_room(self.slots.len() * 2);
        for slot in &*self.slots {
            if let Some(service) = &slot.service {
                grown.put(slot.hash, service.clone());
            }
        }
        *self = grown;
    }

    /// Takes one out; those behind it that were pushed on by it move up, so that no search ends too early.
    fn take(&mut self, hash: u64, labels: &[u8]) {
        let Some(mut hole) = self.find(hash, labels) else { return };
        let slots = Arc::make_mut(&mut self.slots);
        let last = slots.len() - 1;
        slots[hole] = Slot::default();
        self.len -= 1;
        let mut next = (hole + 1) & last;
        while slots[next].service.is_some() {
            let home = slots[next].hash as usize & last;
            // It may stand at the hole if that is no further from its home than where it is.
            if (hole.wrapping_sub(home) & last) <= (next.wrapping_sub(home) & last) {
                slots.swap(hole, next);
                hole = next;
            }
            next = (next + 1) & last;
        }
    }
}

fn hash(labels: &[u8]) -> u64 {
    Mixer.hash_one(labels)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use portolan_model::{NsName, ServiceView};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::records::labels_of;

    fn service(number: u16) -> Arc<Service> {
        let key = NsName::new("ns", format!("svc-{number}"));
        let labels = labels_of([&*key.name, &*key.namespace]).expect("two labels");
        let view = ServiceView { key, spec: Arc::default(), ports: Vec::new(), hosts: Vec::new() };
        Arc::new(Service::updated(None, &view, &labels).0)
    }

    /// Every Service is found by its labels, and nothing else is there.
    fn holds(table: &Table, plain: &BTreeMap<u16, Arc<Service>>, all: &[Arc<Service>]) {
        assert_eq!((table.len(), table.values().count()), (plain.len(), plain.len()));
        for (number, service) in all.iter().enumerate() {
            let (found, wanted) = (table.get(&service.labels), plain.get(&(number as u16)));
            assert_eq!(found.map(Arc::as_ptr), wanted.map(Arc::as_ptr), "{:?}", service.key);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_holds_what_a_plain_map_holds_and_its_clones_what_they_held(
            steps in vec((any::<bool>(), 0..400u16), 0..1200),
        ) {
            let all: Vec<Arc<Service>> = (0..400).map(service).collect();
            let (mut table, mut plain) = (Table::default(), BTreeMap::new());
            let mut before = (table.clone(), plain.clone());
            for (at, (puts, number)) in steps.into_iter().enumerate() {
                match puts {
                    true => {
                        // Another value under the same labels takes the place.
                        let new = Arc::new((*all[usize::from(number)]).clone());
                        table.put(new.clone());
                        plain.insert(number, new);
                    }
                    false => {
                        table.take(&all[usize::from(number)].labels);
                        plain.remove(&number);
                    }
                }
                if at % 300 == 150 {
                    holds(&before.0, &before.1, &all);
                    before = (table.clone(), plain.clone());
                }
            }
            holds(&before.0, &before.1, &all);
            holds(&table, &plain, &all);
        }
    }

    #[test]
    fn a_change_copies_one_shard_and_leaves_the_others_shared() {
        let mut table = Table::default();
        (0..2000).for_each(|number| table.put(service(number)));
        let held = table.clone();
        table.put(service(7));
        let shared = table.shards.iter().zip(&*held.shards).filter(|(new, old)| Arc::ptr_eq(&new.slots, &old.slots));
        assert_eq!((shared.count() + 1, table.shards.len()), (held.shards.len(), 64));
        assert!(table.shards.iter().all(|shard| shard.len * 4 <= shard.slots.len() * 3));
    }
}
