//! How old what we know may be: when the cluster was last heard, and what follows for readiness.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;

use crate::dns;

/// Silence up to this is none: Leases are renewed each few seconds at most.
const SILENT_AFTER: Duration = Duration::from_secs(25);
/// What is older is no good ground for an answer, as long as another node may know better.
const STALE_AFTER: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// When the cluster was heard last. Shared by all who hear it.
#[derive(Debug)]
pub(crate) struct Freshness {
    heard: Mutex<Heard>,
    /// The cluster was told whole: readiness is not to wait for the next look.
    whole: Notify,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    /// By this process, or by the one that left what was recalled; `None`: by nobody.
    pub(super) last: Option<Instant>,
    /// The cluster was told whole to this process.
    pub(super) told: bool,
}

impl Freshness {
    /// `confirmed` is when what was recalled was; `None` if nothing was.
    pub(crate) fn new(confirmed: Option<SystemTime>) -> Self {
        let age = confirmed.map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
        // A monotonic clock may not reach back that far: then it is old in any case.
        let last = age.and_then(|age| Instant::now().checked_sub(age));
        Self { heard: Mutex::new(Heard { last, told: false }), whole: Notify::new() }
    }

    /// The API server answered, or a watch told something.
    pub(crate) fn heard(&self) {
        self.lock().last = Some(Instant::now());
    }

    /// The cluster was told whole.
    pub(crate) fn told(&self) {
        *self.lock() = Heard { last: Some(Instant::now()), told: true };
        self.whole.notify_one();
    }

    pub(crate) fn is_told(&self) -> bool {
        self.lock().told
    }

    /// Until when what is known held.
    pub(crate) fn confirmed(&self) -> SystemTime {
        let age = self.age(Instant::now());
        age.and_then(|age| SystemTime::now().checked_sub(age)).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// How long nobody confirmed what is known; `None`: nothing is known.
    pub(crate) fn age(&self, now: Instant) -> Option<Duration> {
        self.lock().last.map(|last| now.saturating_duration_since(last))
    }

    /// In the Prometheus text format; nothing while nothing is known.
    pub(crate) fn metrics(&self) -> String {
        let Some(age) = self.age(Instant::now()) else { return String::new() };
        let help = "How long ago the API server last confirmed what cluster DNS answers from.";
        let name = "portolan_dns_state_age_seconds";
        format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {:.3}\n", age.as_secs_f64())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        let age = self.age(Instant::now());
        serde_json::json!({ "ageSecs": age.map(|age| age.as_secs()), "recalled": !self.is_told() && age.is_some() })
    }

    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the nameserver is to say of it.
pub(super) fn source(heard: Heard, now: Instant) -> dns::Source {
    let age = heard.last.map(|last| now.saturating_duration_since(last));
    let unready = match age {
        None => Some("the cluster was never read".to_owned()),
        Some(age) if age > STALE_AFTER => Some(format!("what is known of the cluster is {} s old", age.as_secs())),
        Some(_) if !heard.told => Some("the cluster is being read; names are answered from what was known".to_owned()),
        Some(_) => None,
    };
    dns::Source { silent_since: heard.last.filter(|_| age.is_some_and(|age| age > SILENT_AFTER)), unready }
}

/// Keeps the nameserver told, until the process ends.
pub(crate) async fn watch_over(freshness: Arc<Freshness>, handle: dns::Handle) {
    let mut said = None;
    loop {
        let heard = *freshness.lock();
        let now = source(heard, Instant::now());
        if said.as_ref() != Some(&now) {
            handle.source(now.clone());
            said = Some(now);
        }
        // Either way it is time to look.
        let _ = tokio::time::timeout(LOOK_EVERY, freshness.whole.notified()).await;
    }
}
