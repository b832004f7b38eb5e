//! The embedded engine: one writer thread owns the order of things.
//!
//! The writer drains what is waiting, checks each transaction against memory plus what the group
//! already did, writes the group with one fsync, then shows it to readers and answers. If the log
//! fails, the engine takes no further writes: what is on disk is then unknown.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::bells::{Bells, Changed};
use crate::log::{Log, LogError};
use crate::memory::Memory;
use crate::ring::{RingLimits, weight};
use crate::{
    Change, Committed, Entry, Event, Expect, Index, Key, Op, Put, Range, RangeError, Store, TxnError, TxnFuture, Watch,
    WatchError,
};

/// Most transactions one fsync may carry.
const GROUP_MAX: usize = 256;

#[derive(Debug, Clone, Copy)]
pub struct EngineOptions {
    /// Past events kept for watchers, by count.
    pub ring_events: usize,
    /// The same, by bytes of their values.
    pub ring_bytes: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        let limits = RingLimits::default();
        EngineOptions { ring_events: limits.events, ring_bytes: limits.bytes }
    }
}

struct Request<I: Index> {
    ops: Vec<Op<I>>,
    answer: oneshot::Sender<Result<Committed<I>, TxnError>>,
}

pub struct Engine<I: Index> {
    memory: Arc<RwLock<Memory<I>>>,
    requests: Option<mpsc::UnboundedSender<Request<I>>>,
    bells: Arc<Bells>,
    writer: Option<JoinHandle<()>>,
}

impl<I: Index> Engine<I> {
    /// Opens or creates the store in the folder `path`; reads every object into memory.
    pub fn open(path: &Path, options: EngineOptions) -> Result<Engine<I>, LogError> {
        let log = Log::open(path)?;
        let (entries, revision) = log.load()?;
        let limits = RingLimits { events: options.ring_events, bytes: options.ring_bytes };
        let memory = Arc::new(RwLock::new(Memory::new(entries, revision, limits)));
        let (requests, inbox) = mpsc::unbounded_channel();
        let bells = Arc::new(Bells::new(limits));
        let writer = Writer { log, memory: memory.clone(), bells: bells.clone(), revision };
        let thread = std::thread::Builder::new().name("store-writer".into()).spawn(move || writer.run(inbox));
        let writer = thread.map_err(|source| LogError::Open { path: path.to_owned(), source: source.into() })?;
        Ok(Engine { memory, requests: Some(requests), bells, writer: Some(writer) })
    }

    fn read<T>(&self, look: impl FnOnce(&Memory<I>) -> T) -> T {
        look(&self.memory.read().expect("no thread panics holding the store's memory"))
    }
}

impl<I: Index> Store<I> for Engine<I> {
    fn txn(&self, ops: Vec<Op<I>>) -> TxnFuture<I> {
        let (answer, wait) = oneshot::channel();
        let sent = match &self.requests {
            Some(requests) => requests.send(Request { ops, answer }).is_ok(),
            None => false,
        };
        Box::pin(async move {
            if !sent {
                return Err(TxnError::Closed);
            }
            wait.await.unwrap_or(Err(TxnError::Closed))
        })
    }

    fn get(&self, key: &str) -> Option<Entry<I>> {
        self.read(|memory| memory.get(key).cloned())
    }

    fn range(&self, prefix: &str, after: Option<&str>, limit: usize, at: Option<u64>) -> Result<Range<I>, RangeError> {
        self.read(|memory| match at {
            Some(at) if at != memory.revision() => memory.range_at(prefix, after, limit, at),
            _ => Ok(memory.range(prefix, after, limit)),
        })
    }

    fn watch(&self, prefix: &str, after: u64) -> Result<Watch<I>, WatchError> {
        let oldest = self.read(|memory| memory.ring.oldest_start());
        if after < oldest {
            return Err(WatchError::Expired { asked: after, oldest });
        }
        let bell = self.bells.listen(prefix).ok_or(WatchError::Closed)?;
        Ok(Watch { memory: self.memory.clone(), bell, prefix: prefix.to_owned(), seen: after })
    }

    fn compact(&self, revision: u64) {
        let mut memory = self.memory.write().expect("no thread panics holding the store's memory");
        memory.ring.forget(revision);
    }

    fn revision(&self) -> u64 {
        self.read(Memory::revision)
    }
}

impl<I: Index> Drop for Engine<I> {
    fn drop(&mut self) {
        self.requests.take();
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has already failed every request; nothing is left to report.
            let _ = writer.join();
        }
    }
}

struct Writer<I: Index> {
    log: Log,
    memory: Arc<RwLock<Memory<I>>>,
    bells: Arc<Bells>,
    revision: u64,
}

impl<I: Index> Drop for Writer<I> {
    /// However the writer ended: nothing more will come.
    fn drop(&mut self) {
        self.bells.close();
    }
}

/// Where a transaction's outcome goes.
type Answer<I> = oneshot::Sender<Result<Committed<I>, TxnError>>;

/// A group under way: what its transactions did so far, unseen by readers.
struct Group<I: Index> {
    /// Last state of each touched key.
    touched: HashMap<Key, Option<Entry<I>>>,
    revisions: Vec<(u64, Vec<Event<I>>)>,
    answers: Vec<(Answer<I>, Committed<I>)>,
}

impl<I: Index> Writer<I> {
    fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Request<I>>) {
        let mut waiting = Vec::new();
        while inbox.blocking_recv_many(&mut waiting, GROUP_MAX) > 0 {
            if let Err(problem) = self.write(std::mem::take(&mut waiting)) {
                tracing::error!(%problem, "the store's log failed; no further writes are taken");
                return refuse_all(inbox, &problem.to_string());
            }
        }
    }

    fn write(&mut self, requests: Vec<Request<I>>) -> Result<(), LogError> {
        let mut group = Group { touched: HashMap::new(), revisions: Vec::new(), answers: Vec::new() };
        for Request { ops, answer } in requests {
            match self.try_txn(&mut group, ops) {
                Ok(committed) => group.answers.push((answer, committed)),
                // Who asked may have gone away; the answer is then nobody's.
                Err(refused) => drop(answer.send(Err(refused))),
            }
        }
        if let Err(problem) = self.persist(&group) {
            for (answer, _) in group.answers {
                drop(answer.send(Err(TxnError::Log(problem.to_string()))));
            }
            return Err(problem);
        }
        self.show(group);
        Ok(())
    }

    fn persist(&self, group: &Group<I>) -> Result<(), LogError> {
        if group.touched.is_empty() {
            return Ok(());
        }
        self.log.commit(self.revision, group.touched.iter().map(|(key, entry)| (&**key, entry.as_ref())))
    }

    fn show(&self, group: Group<I>) {
        let events = || group.revisions.iter().flat_map(|(_, events)| events);
        let changed: Vec<(Key, usize)> = events().map(|event| (event.key().into(), weight(event))).collect();
        {
            let mut memory = self.memory.write().expect("no thread panics holding the store's memory");
            for (revision, events) in group.revisions {
                memory.apply(revision, events);
            }
        }
        let changed: Vec<_> = changed.iter().map(|(key, bytes)| Changed { key, bytes: *bytes }).collect();
        self.bells.ring(self.revision, &changed);
        for (answer, committed) in group.answers {
            drop(answer.send(Ok(committed)));
        }
    }

    fn try_txn(&mut self, group: &mut Group<I>, ops: Vec<Op<I>>) -> Result<Committed<I>, TxnError> {
        let found = self.check(group, &ops)?;
        let writes = ops.iter().any(|op| !matches!(op.change, Change::Check));
        if !writes {
            return Ok(Committed { revision: self.revision, entries: ops.iter().map(|_| None).collect() });
        }
        self.revision += 1;
        let revision = self.revision;
        let mut events = Vec::new();
        let mut entries = Vec::new();
        for (op, before) in ops.into_iter().zip(found) {
            let (now, answer) = match op.change {
                Change::Put(put) => {
                    let entry = put.into_entry(op.key.clone(), revision);
                    (Some(entry.clone()), Some(entry))
                }
                Change::Delete => (None, before.clone()),
                Change::Check => {
                    entries.push(None);
                    continue;
                }
            };
            entries.push(answer);
            if now.is_none() && before.is_none() {
                continue;
            }
            group.touched.insert(op.key, now.clone());
            events.push(Event { revision, before, now });
        }
        group.revisions.push((revision, events));
        Ok(Committed { revision, entries })
    }

    /// The present entry under each operation's key, if all expectations hold.
    fn check(&self, group: &Group<I>, ops: &[Op<I>]) -> Result<Vec<Option<Entry<I>>>, TxnError> {
        let memory = self.memory.read().expect("no thread panics holding the store's memory");
        let present = |op: &Op<I>| match group.touched.get(&op.key) {
            Some(entry) => entry.clone(),
            None => memory.get(&op.key).cloned(),
        };
        ops.iter()
            .enumerate()
            .map(|(at, op)| {
                let entry = present(op);
                let found = entry.as_ref().map(|entry| entry.revision);
                match op.expect.holds(found) {
                    true => Ok(entry),
                    false => Err(TxnError::Unexpected { op: at, key: op.key.clone(), expected: op.expect, found }),
                }
            })
            .collect()
    }
}

impl Expect {
    fn holds(self, found: Option<u64>) -> bool {
        match self {
            Expect::Any => true,
            Expect::Absent => found.is_none(),
            Expect::Present => found.is_some(),
            Expect::Revision(wanted) => found == Some(wanted),
        }
    }
}

impl<I> Put<I> {
    fn into_entry(self, key: Key, revision: u64) -> Entry<I> {
        let mut value = self.value;
        if let Some(at) = self.revision_at {
            let at = at as usize;
            value.splice(at..at, revision.to_string().into_bytes());
        }
        Entry { key, value: Bytes::from(value), revision, revision_at: self.revision_at, index: self.index }
    }
}

fn refuse_all<I: Index>(mut inbox: mpsc::UnboundedReceiver<Request<I>>, problem: &str) {
    while let Some(request) = inbox.blocking_recv() {
        drop(request.answer.send(Err(TxnError::Log(problem.to_owned()))));
    }
}
