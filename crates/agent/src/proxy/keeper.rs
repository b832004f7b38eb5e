//! The proxy's one thread: takes events in, resolves them, has the writers write.
//!
//! Events that came together are taken together; the first one is never made to wait. Nothing is programmed until
//! Services and EndpointSlices have each been told whole once, so that a start never takes away rules that a half-read
//! cluster does not explain.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use portolan_ingest::{Event, ingest};
use portolan_kernel::nft_monitor::NftEvent;
use portolan_model::{Delta, Fact, Facts, Family, ObjectKind, Settings, Snapshot, Touched, resolve};
use tracing::{info, warn};

use crate::proxy::Programmer;
use crate::status::{Change, Progress};

/// How long a write that failed waits before everything is compared and written again.
const RETRY: Duration = Duration::from_secs(1);
/// Kinds that must have been told whole before the first write.
const NEEDED: [ObjectKind; 2] = [ObjectKind::Service, ObjectKind::EndpointSlice];

/// What a keeper is told.
#[derive(Debug)]
pub enum Input {
    /// A watch event, and when it came.
    Cluster(Event, SystemTime),
    /// A fact that no object of the cluster states: an attachment, an interface's address.
    Fact(Fact),
    /// All objects of a kind have been told.
    Synced(ObjectKind),
    /// Another hand may have been in the rules of this family.
    Doubt(Family),
    /// Somebody changed nf_tables.
    Edited(Vec<NftEvent>),
}

/// Keeps the rules of a network namespace as the cluster says.
pub struct Keeper {
    facts: Facts,
    snapshot: Arc<Snapshot>,
    synced: BTreeSet<ObjectKind>,
    programmer: Programmer,
    progress: Arc<Progress>,
}

impl Keeper {
    pub(crate) fn new(settings: Settings, programmer: Programmer, progress: Arc<Progress>) -> Self {
        Self {
            facts: Facts::default(),
            snapshot: Arc::new(Snapshot::empty(Arc::new(settings))),
            synced: BTreeSet::new(),
            programmer,
            progress,
        }
    }

    /// Facts known before anything else is.
    pub(crate) fn begin_with(&mut self, facts: Vec<Fact>) {
        self.take(facts.into_iter().map(Input::Fact));
    }

    /// Runs until every sender is gone. Rules stay.
    pub fn run(mut self, inputs: &Receiver<Input>) {
        let mut retry_at: Option<Instant> = None;
        loop {
            let wake_at = retry_at.into_iter().chain(self.programmer.deadline()).min();
            let first = match wake_at {
                Some(at) => inputs.recv_timeout(at.saturating_duration_since(Instant::now())),
                None => inputs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let batch: Vec<Input> = match first {
                Ok(input) => std::iter::once(input).chain(inputs.try_iter()).collect(),
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let began = Instant::now();
            let written = self.take(batch);
            self.progress.batch(began.elapsed());
            retry_at = (!written).then(|| Instant::now() + RETRY);
            std::thread::sleep(self.programmer.pause());
        }
    }

    /// Takes a batch in and writes what follows from it. `false` if a write failed and is to be tried again.
    pub fn take(&mut self, batch: impl IntoIterator<Item = Input>) -> bool {
        let mut touched = Touched::default();
        for input in batch {
            match input {
                Input::Cluster(event, seen) => {
                    self.progress.saw(Change::of(&event, seen));
                    self.programmer.saw(&event, seen);
                    let (found, complaints) = ingest(&mut self.facts, [event]);
                    complaints.iter().for_each(|c| warn!(object = %c.object, reason = %c.reason, "{}", c.message));
                    touched.merge(found);
                }
                Input::Fact(fact) => touched.merge(self.facts.apply(fact)),
                Input::Synced(kind) => drop(self.synced.insert(kind)),
                Input::Doubt(family) => self.programmer.doubt(family),
                Input::Edited(events) => self.programmer.edited(&events),
            }
        }
        let (after, delta) = resolve(&self.facts, &self.snapshot, &touched);
        self.snapshot = Arc::new(after);
        self.write(&delta)
    }

    fn write(&mut self, delta: &Delta) -> bool {
        if !NEEDED.iter().all(|kind| self.synced.contains(kind)) {
            return true;
        }
        let written = self.programmer.update(&self.snapshot, delta);
        if written && !self.progress.is_programmed() {
            info!(services = self.snapshot.services.len(), "the proxy is programmed");
            self.progress.programmed();
        }
        written
    }
}
