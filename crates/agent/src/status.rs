//! What the agent counts of itself: shown by its API, asked for by benchmarks.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use portolan_ingest::Event;
use portolan_model::ObjectRef;
use tokio::sync::watch;

use crate::drain::Applied;

/// Counters of the core; written by its thread, read by the node's API.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    programmed: AtomicBool,
    batches: AtomicU64,
    last_batch_micros: AtomicU64,
    restores: AtomicU64,
    chains_written: AtomicU64,
    transactions: AtomicU64,
    steps_written: AtomicU64,
    routes_written: AtomicU64,
    failures: AtomicU64,
    last_change: Mutex<Option<LastChange>>,
    applied: watch::Sender<Applied>,
    answers_for: Mutex<BTreeSet<IpAddr>>,
}

/// A change of an object, as the watch told it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    object: ObjectRef,
    /// The object's resourceVersion; 0 if it is no number.
    revision: u64,
    seen: SystemTime,
}

#[derive(Clone, Debug)]
struct LastChange {
    change: Change,
    /// From when it was seen until the kernel had it; `None` while it has not.
    programmed_after: Option<Duration>,
}

impl Change {
    pub(crate) fn of(event: &Event, seen: SystemTime) -> Self {
        let (Event::Value(object) | Event::Gone(object)) = event;
        let revision = object.revision().and_then(|text| text.parse().ok()).unwrap_or_default();
        Self { object: object.reference(), revision, seen }
    }
}

impl Progress {
    /// A change was seen. The newest by revision is kept: a list at start tells old ones in any order.
    pub(crate) fn saw(&self, change: Change) {
        let mut last = self.last_change();
        if last.as_ref().is_none_or(|last| last.change.revision <= change.revision) {
            *last = Some(LastChange { change, programmed_after: None });
        }
    }

    /// Everything seen until now is in the kernel.
    pub(crate) fn settled(&self, now: SystemTime) {
        if let Some(last) = self.last_change().as_mut() {
            let took = now.duration_since(last.change.seen).unwrap_or_default();
            last.programmed_after.get_or_insert(took);
        }
    }

    fn last_change(&self) -> std::sync::MutexGuard<'_, Option<LastChange>> {
        self.last_change.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn programmed(&self) {
        self.programmed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_programmed(&self) -> bool {
        self.programmed.load(Ordering::Relaxed)
    }

    /// What the kernel was told last without a refusal.
    pub(crate) fn applied(&self, applied: Applied) {
        self.applied.send_replace(applied);
    }

    /// To hear of what is applied.
    pub(crate) fn watch_applied(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    /// Addresses of load balancers that this node answers for.
    pub(crate) fn answers_for(&self, addresses: &BTreeSet<IpAddr>) {
        *self.answers_for.lock().unwrap_or_else(PoisonError::into_inner) = addresses.clone();
    }

    pub(crate) fn batch(&self, took: Duration) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.last_batch_micros.store(micros, Ordering::Relaxed);
    }

    pub(crate) fn restored(&self, chains: usize) {
        self.restores.fetch_add(1, Ordering::Relaxed);
        self.chains_written.fetch_add(chains as u64, Ordering::Relaxed);
    }

    /// nf_tables took a transaction.
    pub(crate) fn transacted(&self, steps: usize) {
        self.transactions.fetch_add(1, Ordering::Relaxed);
        self.steps_written.fetch_add(steps as u64, Ordering::Relaxed);
    }

    pub(crate) fn routes(&self, written: usize) {
        self.routes_written.fetch_add(written as u64, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "programmed": self.is_programmed(),
            "slicesProgrammed": self.applied.borrow().slices,
            "batches": self.batches.load(Ordering::Relaxed),
            "lastBatchMicros": self.last_batch_micros.load(Ordering::Relaxed),
            "iptablesRestores": self.restores.load(Ordering::Relaxed),
            "chainsWritten": self.chains_written.load(Ordering::Relaxed),
            "nftablesTransactions": self.transactions.load(Ordering::Relaxed),
            "nftablesStepsWritten": self.steps_written.load(Ordering::Relaxed),
            "routesWritten": self.routes_written.load(Ordering::Relaxed),
            "writeFailures": self.failures.load(Ordering::Relaxed),
            "answersFor": *self.answers_for.lock().unwrap_or_else(PoisonError::into_inner),
            "lastChange": self.last_change().as_ref().map(LastChange::json),
        })
    }

    /// The counters in the Prometheus text format.
    pub(crate) fn metrics(&self) -> String {
        let rows = [
            ("portolan_core_batches_total", "Batches of events taken in.", &self.batches),
            ("portolan_iptables_restores_total", "Runs of iptables-restore.", &self.restores),
            ("portolan_iptables_chains_written_total", "Chains written or removed.", &self.chains_written),
            ("portolan_nftables_transactions_total", "Transactions of nf_tables.", &self.transactions),
            ("portolan_nftables_steps_written_total", "Steps in them.", &self.steps_written),
            ("portolan_routes_written_total", "Routes added, changed or removed.", &self.routes_written),
            ("portolan_write_failures_total", "Kernel writes that failed.", &self.failures),
        ];
        rows.iter()
            .map(|(name, help, value)| {
                format!("# HELP {name} {help}\n# TYPE {name} counter\n{name} {}\n", value.load(Ordering::Relaxed))
            })
            .collect()
    }
}

impl LastChange {
    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "object": self.change.object.to_string(),
            "revision": self.change.revision,
            "seenAt": Timestamp::try_from(self.change.seen).ok().map(|at| at.to_string()),
            "programmedAfterMicros": self.programmed_after.map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
        })
    }
}

#[cfg(test)]
mod tests {
    use portolan_model::{NsName, ObjectKind};

    use super::*;

    fn change(name: &str, revision: u64, secs: u64) -> Change {
        let object = ObjectRef { kind: ObjectKind::Service, key: NsName::new("default", name) };
        Change { object, revision, seen: SystemTime::UNIX_EPOCH + Duration::from_secs(secs) }
    }

    fn last(progress: &Progress) -> (String, serde_json::Value) {
        let json = progress.json();
        (
            json["lastChange"]["object"].as_str().unwrap_or_default().to_owned(),
            json["lastChange"]["programmedAfterMicros"].clone(),
        )
    }

    #[test]
    fn the_last_change_is_the_newest_by_revision_and_not_the_last_told() {
        let progress = Progress::default();
        assert_eq!(progress.json()["lastChange"], serde_json::Value::Null);
        progress.saw(change("new", 9, 1));
        progress.saw(change("old", 3, 2));
        assert_eq!(last(&progress).0, "Service default/new");
        progress.saw(change("newer", 10, 3));
        assert_eq!(last(&progress).0, "Service default/newer");
    }

    #[test]
    fn a_change_counts_as_programmed_once_the_kernel_has_it_and_for_good() {
        let progress = Progress::default();
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        progress.saw(change("web", 1, 1));
        assert_eq!(last(&progress).1, serde_json::Value::Null);
        progress.settled(at(1012));
        progress.settled(at(9000));
        assert_eq!(last(&progress).1, 12_000);
    }
}
