//! What the node has seen of one pod.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Probe};

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
    /// It leaves its Services: whatever its probes say, it is not ready.
    pub leaving: bool,
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
        why: PullFailure,
        attempts: u32,
        retry_at: Timestamp,
        since: Timestamp,
    },
}

impl ImageState {
    /// After so many failures in a row: the wait is 10 s doubling to 300 s.
    pub fn failed_after(attempts: u32, message: String, why: PullFailure, now: Timestamp) -> Self {
        Self::Failed { message, why, attempts, retry_at: now + delay_of(attempts), since: now }
    }

    /// Until then a failed pull is shown as the error it was, afterwards as the back-off that it led to.
    pub fn backs_off_at(&self) -> Option<Timestamp> {
        match self {
            Self::Failed { since, why: PullFailure::Pull, .. } => Some(*since + ERROR_SHOWN),
            _ => None,
        }
    }
}

/// Long enough to be seen by who looks now and then, shorter than the shortest back-off.
const ERROR_SHOWN: SignedDuration = SignedDuration::from_secs(5);

/// Why there is no image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullFailure {
    /// Its registry did not give it, or there is none.
    Pull,
    /// Its name is none.
    Name,
    /// It is not here, and the policy forbids to fetch it.
    Never,
}

/// imagePullPolicy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl PullPolicy {
    /// As the container says; the API server has filled in the default by tag.
    pub fn of(container: &Container) -> Self {
        match container.image_pull_policy.as_deref() {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            _ => Self::IfNotPresent,
        }
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
