//! What the agent counts of itself: shown by its API, asked for by benchmarks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Counters of the core; written by its thread, read by the node's API.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    programmed: AtomicBool,
    batches: AtomicU64,
    last_batch_micros: AtomicU64,
    restores: AtomicU64,
    chains_written: AtomicU64,
    routes_written: AtomicU64,
    failures: AtomicU64,
}

impl Progress {
    pub(crate) fn programmed(&self) {
        self.programmed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_programmed(&self) -> bool {
        self.programmed.load(Ordering::Relaxed)
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

    pub(crate) fn routes(&self, written: usize) {
        self.routes_written.fetch_add(written as u64, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "programmed": self.is_programmed(),
            "batches": self.batches.load(Ordering::Relaxed),
            "lastBatchMicros": self.last_batch_micros.load(Ordering::Relaxed),
            "iptablesRestores": self.restores.load(Ordering::Relaxed),
            "chainsWritten": self.chains_written.load(Ordering::Relaxed),
            "routesWritten": self.routes_written.load(Ordering::Relaxed),
            "writeFailures": self.failures.load(Ordering::Relaxed),
        })
    }

    /// The counters in the Prometheus text format.
    pub(crate) fn metrics(&self) -> String {
        let rows = [
            ("portolan_core_batches_total", "Batches of events taken in.", &self.batches),
            ("portolan_iptables_restores_total", "Runs of iptables-restore.", &self.restores),
            ("portolan_iptables_chains_written_total", "Chains written or removed.", &self.chains_written),
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
