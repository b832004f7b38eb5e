//! What readers see: every live entry in key order, and the ring of what changed lately.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::ring::{Ring, RingLimits};
use crate::{Entry, Event, Key, Range, RangeError};

#[derive(Debug)]
pub struct Memory<I> {
    entries: BTreeMap<Key, Entry<I>>,
    pub ring: Ring<I>,
    revision: u64,
}

impl<I> Memory<I> {
    pub fn new(entries: BTreeMap<Key, Entry<I>>, revision: u64, limits: RingLimits) -> Self {
        Memory { entries, ring: Ring::starting_after(revision, limits), revision }
    }

    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn get(&self, key: &str) -> Option<&Entry<I>> {
        self.entries.get(key)
    }

    /// Takes one committed revision's events.
    pub fn apply(&mut self, revision: u64, events: Vec<Event<I>>) {
        self.revision = revision;
        for event in events {
            match &event.now {
                Some(entry) => self.entries.insert(entry.key.clone(), entry.clone()),
                None => self.entries.remove(event.key()),
            };
            self.ring.push(Arc::new(event));
        }
    }

    pub fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Range<I> {
        let mut found = self.from(prefix, after).take(limit.saturating_add(1));
        let entries: Vec<_> = found.by_ref().take(limit).cloned().collect();
        Range { more: found.next().is_some(), entries, revision: self.revision }
    }

    /// The state at an older revision, by undoing what the ring remembers.
    pub fn range_at(&self, prefix: &str, after: Option<&str>, limit: usize, at: u64) -> Result<Range<I>, RangeError> {
        if at > self.revision {
            return Err(RangeError::Ahead { asked: at, newest: self.revision });
        }
        if at < self.ring.oldest_start() {
            return Err(RangeError::Expired { asked: at, oldest: self.ring.oldest_start() });
        }
        let mut then: BTreeMap<Key, Entry<I>> =
            self.from(prefix, None).map(|entry| (entry.key.clone(), entry.clone())).collect();
        for event in self.ring.after(at).rev().filter(|event| event.key().starts_with(prefix)) {
            match &event.before {
                Some(entry) => then.insert(entry.key.clone(), entry.clone()),
                None => then.remove(event.key()),
            };
        }
        let mut found = then.into_values().filter(|entry| after.is_none_or(|after| &*entry.key > after));
        let entries: Vec<_> = found.by_ref().take(limit).collect();
        Ok(Range { more: found.next().is_some(), entries, revision: at })
    }

    fn from<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> impl Iterator<Item = &'a Entry<I>> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.entries
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(_, entry)| entry)
    }
}
