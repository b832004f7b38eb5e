//! What asking looks like from outside: health, counts, times; for metrics, status and explain.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::corefile::config::ForwardConfig;
use crate::forward::step::Peer;
use crate::wire::Rcode;

/// How a server stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Asked in the policy's order.
    Fit,
    /// Failed or kept silent and has not answered since: asked last.
    Suspect,
    /// Failed `max_fails` times in a row: asked only if all are down.
    Down,
    /// Brings our queries back to us: not asked.
    Looping,
}

/// One group now.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct GroupView<'a> {
    pub config: &'a ForwardConfig,
    pub counts: GroupCounts,
    /// Clients that wait now.
    pub waiting: usize,
    pub servers: Vec<ServerView<'a>>,
}

/// One server now.
#[derive(Clone, Debug)]
pub struct ServerView<'a> {
    /// Who.
    pub peer: Arc<Peer>,
    /// How it stands.
    pub health: Health,
    /// Failures in a row.
    pub fails: u32,
    /// Within which 95 of 100 replies come; `None`: too few came so far.
    pub p95: Option<Duration>,
    /// Since the start.
    pub counts: &'a ServerCounts,
}

/// Counts of a group since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupCounts {
    /// Questions that were put.
    pub asked: u64,
    /// Clients who joined a question under way.
    pub joined: u64,
    /// Clients refused for too many at once (`coredns_forward_max_concurrent_rejects_total`).
    pub rejected: u64,
    /// Questions put while every server was down (`coredns_forward_healthcheck_broken_total`).
    pub all_down: u64,
    /// Questions that went to a second server because the first was slow.
    pub hedges: u64,
    /// Of those, answered by the second first.
    pub hedges_won: u64,
    /// Questions that nobody answered.
    pub silent: u64,
}

/// Counts of a server since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerCounts {
    /// Queries sent, without probes.
    pub sent: u64,
    /// Times that it was silent for longer than it ought to be.
    pub silent: u64,
    /// Connections or sockets that failed.
    pub failed: u64,
    /// Replies that were not for what was asked: wrong ID, question or form.
    pub forged: u64,
    /// Probes that failed (`coredns_proxy_healthcheck_failures_total`).
    pub probes_failed: u64,
    /// Replies by code (`coredns_proxy_request_duration_seconds`).
    pub replies: BTreeMap<Rcode, Durations>,
}

/// A histogram with CoreDNS's bounds: 0.25 ms and fifteen doublings of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    /// How many took at most each bound, and longer than the one before.
    pub counts: [u64; 16],
    /// All, those beyond the last bound included.
    pub count: u64,
    /// Their sum.
    pub sum: Duration,
}

impl Durations {
    /// The upper bound of bucket `at`, 0 to 15.
    pub fn bound(at: usize) -> Duration {
        Duration::from_micros(250) * (1 << at.min(15))
    }

    pub(super) fn record(&mut self, took: Duration) {
        if let Some(at) = (0..self.counts.len()).find(|at| took <= Self::bound(*at)) {
            self.counts[at] += 1;
        }
        self.count += 1;
        self.sum += took;
    }
}
