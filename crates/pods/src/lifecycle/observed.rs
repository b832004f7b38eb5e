//! What the node has seen of one pod.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Probe;

use super::backoff::delay_of;
use crate::shim::state::Run;

/// The last state of everything about one pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    pub sandbox: Sandbox,
    /// When making the sandbox failed last, and why.
    pub sandbox_failed: Option<(Timestamp, String)>,
    /// The last two runs of each container, oldest first.
    pub runs: Vec<Run>,
    /// By container name.
    pub images: BTreeMap<String, ImageState>,
    pub probes: BTreeMap<ProbeKey, Tally>,
    /// Runs that were asked to stop, by run id.
    pub stopping: BTreeMap<String, Stopping>,
    /// Containers that cannot be put together (a missing ConfigMap), when and why.
    pub config_failed: BTreeMap<String, (Timestamp, String)>,
    /// The object is gone from the cluster.
    pub gone: bool,
    /// Network, sandbox and folder are taken down.
    pub torn_down: bool,
}

/// The pod's namespaces and addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    #[default]
    Missing,
    Ready {
        ips: Vec<IpAddr>,
    },
}

/// Where a container's image stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageState {
    Pulling,
    Ready {
        id: String,
    },
    /// `attempts` failures so far; `retry_at` is when to ask again.
    Failed {
        message: String,
        is_name_bad: bool,
        attempts: u32,
        retry_at: Timestamp,
        since: Timestamp,
    },
}

impl ImageState {
    /// After so many failures in a row: the wait is 10 s doubling to 300 s.
    pub fn failed_after(attempts: u32, message: String, is_name_bad: bool, now: Timestamp) -> Self {
        Self::Failed { message, is_name_bad, attempts, retry_at: now + delay_of(attempts), since: now }
    }
}

/// A run on its way to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopping {
    pub since: Timestamp,
    pub grace_secs: i64,
}

/// Which probe of which container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProbeKey {
    pub container: String,
    pub kind: ProbeKind,
}

/// The three probes of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

impl ProbeKind {
    /// As messages write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Readiness => "readiness",
            Self::Liveness => "liveness",
        }
    }
}

/// A probe's results in a row, for one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub attempt: u32,
    pub successes: i32,
    pub failures: i32,
    /// successThreshold was reached last.
    pub passed: bool,
    /// failureThreshold was reached last.
    pub failed: bool,
}

impl Tally {
    /// Counts one result of `probe` for run `attempt`.
    pub fn count(self, attempt: u32, is_success: bool, probe: &Probe) -> Self {
        let mut tally = if self.attempt == attempt { self } else { Self { attempt, ..Self::default() } };
        if is_success {
            tally.successes = tally.successes.saturating_add(1);
            tally.failures = 0;
            if tally.successes >= probe.success_threshold.unwrap_or(1).max(1) {
                (tally.passed, tally.failed) = (true, false);
            }
        } else {
            tally.failures = tally.failures.saturating_add(1);
            tally.successes = 0;
            if tally.failures >= probe.failure_threshold.unwrap_or(3).max(1) {
                (tally.passed, tally.failed) = (false, true);
            }
        }
        tally
    }
}
