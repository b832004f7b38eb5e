//! Revisions, ranges and watch over a durable log.
//!
//! ```text
//!  txn(ops) ──► writer thread ──► log (fjall, one fsync per group) ──► memory ──► ring ──► watchers
//!                check against                                        BTreeMap   past
//!                memory + group                                       get/range  events
//! ```
//!
//! Every write gets one revision: a number that only grows, shared by all keys. A write is answered,
//! and seen by readers and watchers, only after the log holds it on disk.
//!
//! This room knows keys, bytes and revisions. It must never know what a Pod is; what a reader wants to
//! know about a value without parsing it travels beside the bytes as the caller's own [`Index`].
//!
//! Two engines may stand behind [`Store`]: the embedded one here, and etcd (mod_revision compares in
//! one transaction, memory fed by its watch), which is why `txn` is the only call that waits.

mod bells;
mod engine;
mod log;
mod memory;
mod ring;
mod watch;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

pub use engine::{Engine, EngineOptions};
pub use log::LogError;
pub use watch::{Watch, WatchError};

/// A path-like key, `/registry/pods/default/web-0`. Keys sort by their bytes.
pub type Key = Arc<str>;

/// What the caller wants to know of a value without parsing it again.
pub trait Index: Send + Sync + Sized + 'static {
    /// Rebuilds the index from stored bytes, when the log is opened.
    fn of(key: &str, value: &[u8]) -> Self;
}

/// One stored value.
#[derive(Debug)]
pub struct Entry<I> {
    pub key: Key,
    /// The bytes as stored, the revision's digits included when [`Put::revision_at`] was given.
    pub value: Bytes,
    /// Revision of the write that put these bytes here.
    pub revision: u64,
    /// Where the revision's decimal digits stand in `value`.
    pub revision_at: Option<u32>,
    pub index: Arc<I>,
}

impl<I> Clone for Entry<I> {
    fn clone(&self) -> Self {
        Entry {
            key: self.key.clone(),
            value: self.value.clone(),
            revision: self.revision,
            revision_at: self.revision_at,
            index: self.index.clone(),
        }
    }
}

impl<I> Entry<I> {
    /// The same bytes saying another revision, as a deletion's last state does.
    pub fn value_at(&self, revision: u64) -> Bytes {
        let Some(at) = self.revision_at else {
            return self.value.clone();
        };
        let at = at as usize;
        let end = at + self.revision.to_string().len();
        let mut bytes = Vec::with_capacity(self.value.len() + 4);
        bytes.extend_from_slice(&self.value[..at]);
        bytes.extend_from_slice(revision.to_string().as_bytes());
        bytes.extend_from_slice(&self.value[end..]);
        bytes.into()
    }
}

/// What must hold of a key for the transaction to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    Any,
    Absent,
    Present,
    /// The key's present revision.
    Revision(u64),
}

/// New bytes for a key.
#[derive(Debug)]
pub struct Put<I> {
    pub value: Vec<u8>,
    /// Byte offset at which the writer inserts the new revision's decimal digits.
    pub revision_at: Option<u32>,
    pub index: Arc<I>,
}

#[derive(Debug)]
pub enum Change<I> {
    Put(Put<I>),
    Delete,
    /// Nothing changes; only the expectation is checked.
    Check,
}

#[derive(Debug)]
pub struct Op<I> {
    pub key: Key,
    pub expect: Expect,
    pub change: Change<I>,
}

/// What a transaction left behind.
#[derive(Debug)]
pub struct Committed<I> {
    pub revision: u64,
    /// One per operation, in order: the new entry of a `Put`, the last one of a `Delete`.
    pub entries: Vec<Option<Entry<I>>>,
}

#[derive(Debug, thiserror::Error)]
pub enum TxnError {
    /// `op` counts from 0 into the transaction; nothing of it was done.
    #[error("{key} is not as expected ({expected:?}, found revision {found:?})")]
    Unexpected { op: usize, key: Key, expected: Expect, found: Option<u64> },
    #[error("cannot write to the store's log: {0}; the store takes no further writes, restart the server")]
    Log(String),
    #[error("the store is closed")]
    Closed,
}

/// Entries under a prefix, in key order.
#[derive(Debug)]
pub struct Range<I> {
    pub entries: Vec<Entry<I>>,
    /// The revision this answer holds for.
    pub revision: u64,
    /// More keys stand behind the limit.
    pub more: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    #[error("revision {asked} is older than the oldest kept, {oldest}")]
    Expired { asked: u64, oldest: u64 },
    #[error("revision {asked} lies ahead of the newest, {newest}")]
    Ahead { asked: u64, newest: u64 },
}

/// One changed key. Put: `now` is some. Created: `before` is none. Deleted: `now` is none.
#[derive(Debug)]
pub struct Event<I> {
    pub revision: u64,
    pub before: Option<Entry<I>>,
    pub now: Option<Entry<I>>,
}

impl<I> Event<I> {
    pub fn key(&self) -> &str {
        match (&self.now, &self.before) {
            (Some(entry), _) | (None, Some(entry)) => &entry.key,
            (None, None) => "",
        }
    }
}

pub type TxnFuture<I> = Pin<Box<dyn Future<Output = Result<Committed<I>, TxnError>> + Send>>;

/// All that the API server needs of a store.
pub trait Store<I: Index>: Send + Sync + 'static {
    /// All or nothing; answered when durable. One transaction has one revision.
    fn txn(&self, ops: Vec<Op<I>>) -> TxnFuture<I>;
    fn get(&self, key: &str) -> Option<Entry<I>>;
    /// Keys that start with `prefix` and are greater than `after`; `at` asks for an older revision.
    fn range(&self, prefix: &str, after: Option<&str>, limit: usize, at: Option<u64>) -> Result<Range<I>, RangeError>;
    /// Events of keys under `prefix` after revision `after`.
    fn watch(&self, prefix: &str, after: u64) -> Result<Watch<I>, WatchError>;
    /// Forgets past events up to and including `revision`.
    fn compact(&self, revision: u64);
    /// The newest revision.
    fn revision(&self) -> u64;
}
