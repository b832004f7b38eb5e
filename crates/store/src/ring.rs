//! The recent past: events in revision order, bounded by count and bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::Event;

/// How much of the past is kept.
#[derive(Debug, Clone, Copy)]
pub struct RingLimits {
    pub events: usize,
    pub bytes: usize,
}

impl Default for RingLimits {
    fn default() -> Self {
        RingLimits { events: 20_000, bytes: 64 << 20 }
    }
}

#[derive(Debug)]
pub struct Ring<I> {
    events: VecDeque<Arc<Event<I>>>,
    bytes: usize,
    /// Everything up to and including this revision is forgotten.
    forgotten: u64,
    limits: RingLimits,
}

impl<I> Ring<I> {
    /// A ring that starts after `revision`.
    pub fn starting_after(revision: u64, limits: RingLimits) -> Self {
        Ring { events: VecDeque::new(), bytes: 0, forgotten: revision, limits }
    }

    pub fn push(&mut self, event: Arc<Event<I>>) {
        self.bytes += weight(&event);
        self.events.push_back(event);
        while self.events.len() > self.limits.events || (self.bytes > self.limits.bytes && self.events.len() > 1) {
            let Some(oldest) = self.events.front().map(|event| event.revision) else { return };
            self.forget(oldest);
        }
    }

    /// Drops everything up to and including `revision`: a revision is kept whole or not at all.
    pub fn forget(&mut self, revision: u64) {
        while let Some(event) = self.events.front() {
            if event.revision > revision {
                break;
            }
            self.bytes -= weight(event);
            self.events.pop_front();
        }
        self.forgotten = self.forgotten.max(revision);
    }

    /// The revision after which the ring knows everything.
    pub fn oldest_start(&self) -> u64 {
        self.forgotten
    }

    /// Events after `revision`, oldest first.
    pub fn after(&self, revision: u64) -> impl DoubleEndedIterator<Item = &Arc<Event<I>>> {
        let start = self.events.partition_point(|event| event.revision <= revision);
        self.events.range(start..)
    }
}

/// What an event counts for, in bytes.
pub fn weight<I>(event: &Event<I>) -> usize {
    event.now.as_ref().map_or(0, |entry| entry.value.len()) + 200
}
