//! A watcher: a place in the ring and its prefix's bell.
//!
//! Watchers hold no queue of their own. Who falls behind the ring is told so and must list again, so a
//! slow reader costs nobody memory.

use std::sync::{Arc, RwLock};

use tokio::sync::watch::Receiver;

use crate::memory::Memory;
use crate::{Event, Index};

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The past that was asked for is forgotten; list again.
    #[error("too old resource version: {asked} ({oldest})")]
    Expired { asked: u64, oldest: u64 },
    #[error("the store is closed")]
    Closed,
}

/// Ordered events of one prefix.
pub struct Watch<I: Index> {
    pub(crate) memory: Arc<RwLock<Memory<I>>>,
    pub(crate) bell: Receiver<u64>,
    pub(crate) prefix: String,
    pub(crate) seen: u64,
}

impl<I: Index> Watch<I> {
    /// Waits for the next batch of events under the prefix; never an empty one. Safe to cancel.
    pub async fn next(&mut self) -> Result<Vec<Arc<Event<I>>>, WatchError> {
        loop {
            self.bell.borrow_and_update();
            let batch = self.pending()?;
            if !batch.is_empty() {
                return Ok(batch);
            }
            self.bell.changed().await.map_err(|_| WatchError::Closed)?;
        }
    }

    /// Everything up to this revision has been seen, events of other prefixes included: the newest there is, if nothing
    /// waits to be told.
    pub fn seen(&mut self) -> u64 {
        let memory = self.memory.read().expect("no thread panics holding the store's memory");
        let waits = memory.ring.after(self.seen).any(|event| event.key().starts_with(&self.prefix));
        if !waits && self.seen >= memory.ring.oldest_start() {
            self.seen = memory.revision();
        }
        self.seen
    }

    fn pending(&mut self) -> Result<Vec<Arc<Event<I>>>, WatchError> {
        let memory = self.memory.read().expect("no thread panics holding the store's memory");
        let oldest = memory.ring.oldest_start();
        if self.seen < oldest {
            return Err(WatchError::Expired { asked: self.seen, oldest });
        }
        let batch =
            memory.ring.after(self.seen).filter(|event| event.key().starts_with(&self.prefix)).cloned().collect();
        self.seen = memory.revision();
        Ok(batch)
    }
}
