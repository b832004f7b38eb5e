//! A Service that the kernel refuses hurts only itself: it is left out, the rest goes in.
//!
//! ```text
//!  Snapshot ─► less those left out ─► Writer ─┬─ taken
//!                    ▲                        ├─ refused for Service X ─► X is left out ─┐
//!                    │                        └─ refused, no word of whom ─► halves ─────┤
//!                    └───────────────────────────────────────────────────────────────────┘
//! ```
//!
//! One that is left out is tried again when it changes, and after a while. Whoever looks after the cluster hears of it once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use portolan_dataplane::iptables::DnsPath;
use portolan_kernel::nft_monitor::NftEvent;
use portolan_model::{Delta, Family, NsName, Snapshot};
use tracing::warn;

use crate::proxy::writer::{Differed, Plan, WriteError, Writer, Wrote};

/// A writer with the Services that its kernel refused.
pub(crate) struct Guarded {
    writer: Box<dyn Writer>,
    left_out: BTreeMap<NsName, LeftOut>,
    /// Those of which it was said; forgotten when the kernel takes one, or it changes.
    told: BTreeSet<NsName>,
    /// How long one that was refused waits for another try.
    retry_after: Duration,
}

struct LeftOut {
    until: Instant,
}

/// A Service that the kernel refused, told once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) service: NsName,
    pub(crate) reason: String,
}

/// What an update came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// How it was written; `None`: it was not, and is to be tried again.
    pub(crate) wrote: Option<Wrote>,
    /// Attempts that failed.
    pub(crate) failures: u64,
    /// News for whoever looks after the cluster.
    pub(crate) refusals: Vec<Refusal>,
}

impl Guarded {
    pub(crate) fn new(writer: Box<dyn Writer>, retry_after: Duration) -> Self {
        Self { writer, left_out: BTreeMap::new(), told: BTreeSet::new(), retry_after }
    }

    pub(crate) fn family(&self) -> Family {
        self.writer.family()
    }

    pub(crate) fn set_dns(&mut self, path: DnsPath) {
        self.writer.set_dns(path);
    }

    pub(crate) fn doubt(&mut self) {
        self.writer.doubt();
    }

    pub(crate) fn concerns(&mut self, event: &NftEvent) -> bool {
        self.writer.concerns(event)
    }

    pub(crate) fn plan(&self) -> Plan<'_> {
        self.writer.plan()
    }

    /// The kernel refused its rules.
    pub(crate) fn is_left_out(&self, service: &NsName) -> bool {
        self.left_out.contains_key(service)
    }

    /// What the first update found to differ.
    pub(crate) fn differed(&self) -> &Differed {
        self.writer.differed()
    }

    /// When a Service that was left out is to be tried again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.left_out.values().map(|left| left.until).min()
    }

    /// Writes what changed, without those that the kernel refuses.
    pub(crate) fn update(&mut self, snapshot: &Snapshot, delta: &Delta, now: Instant) -> Outcome {
        let mut delta = delta.clone();
        self.told.retain(|key| !delta.services.contains(key));
        let due: Vec<NsName> = self
            .left_out
            .iter()
            .filter(|(key, left)| delta.services.contains(*key) || left.until <= now)
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            self.left_out.remove(&key);
            delta.services.insert(key);
        }
        let mut attempt = Attempt { full: snapshot, now, failures: 0, refusals: Vec::new() };
        let wrote = self.write(&mut attempt, &delta);
        if wrote.is_some() {
            let left_out = &self.left_out;
            self.told.retain(|key| left_out.contains_key(key));
        }
        Outcome { wrote, failures: attempt.failures, refusals: attempt.refusals }
    }

    fn write(&mut self, attempt: &mut Attempt, delta: &Delta) -> Option<Wrote> {
        let mut delta = delta.clone();
        let mut tried = self.try_write(attempt, &delta);
        if matches!(tried, Err(WriteError::Culprit { .. } | WriteError::Refused { .. })) {
            // Another program may have been in between: nobody is blamed for one refusal.
            tried = self.try_write(attempt, &delta);
        }
        loop {
            match tried {
                Ok(wrote) => return Some(wrote),
                Err(WriteError::Culprit { service, reason }) if !self.left_out.contains_key(&service) => {
                    delta.services.insert(service.clone());
                    self.leave_out(attempt, service, reason);
                    tried = self.try_write(attempt, &delta);
                }
                Err(WriteError::Refused { reason }) => {
                    let suspects: Vec<NsName> = self.suspects(attempt.full, &delta);
                    return self.search(attempt, &delta, suspects, &reason);
                }
                Err(error) => {
                    warn!(%error, family = ?self.writer.family(), "the rules were not written; all are compared and written again");
                    return None;
                }
            }
        }
    }

    fn try_write(&mut self, attempt: &mut Attempt, delta: &Delta) -> Result<Wrote, WriteError> {
        let mut snapshot = attempt.full.clone();
        self.left_out.keys().for_each(|key| drop(snapshot.services.remove(key)));
        let wrote = self.writer.update(&snapshot, delta);
        attempt.failures += u64::from(wrote.is_err());
        wrote
    }

    /// Who may be to blame: those that changed, and if that was all or none of them, every Service.
    fn suspects(&self, snapshot: &Snapshot, delta: &Delta) -> Vec<NsName> {
        let changed = delta.services.iter().filter(|key| snapshot.services.contains_key(*key));
        let suspects: Vec<NsName> = changed.cloned().collect();
        match suspects.is_empty() {
            true => snapshot.services.keys().cloned().collect(),
            false => suspects,
        }
    }

    /// Finds the Services that the kernel refuses without naming them: without all suspects it must take the rest; then they
    /// come back by halves.
    fn search(&mut self, attempt: &mut Attempt, delta: &Delta, suspects: Vec<NsName>, reason: &str) -> Option<Wrote> {
        let suspects: Vec<NsName> = suspects.into_iter().filter(|key| !self.left_out.contains_key(key)).collect();
        let until = attempt.now + self.retry_after;
        self.left_out.extend(suspects.iter().map(|key| (key.clone(), LeftOut { until })));
        let mut delta = delta.clone();
        delta.services.extend(suspects.iter().cloned());
        if let Err(error) = self.try_write(attempt, &delta) {
            warn!(%error, family = ?self.writer.family(), "the rules were not written; all are compared and written again");
            self.left_out.retain(|key, _| !suspects.contains(key));
            return None;
        }
        let mut groups = vec![suspects];
        while let Some(mut group) = groups.pop() {
            if self.admit(attempt, &group) {
                continue;
            }
            match group.len() {
                1 => self.leave_out(attempt, group.remove(0), reason.to_owned()),
                half => {
                    let other = group.split_off(half / 2);
                    groups.extend([other, group]);
                }
            }
        }
        // The last group may have failed: what stands must be whole.
        self.try_write(attempt, &Delta::default()).ok()
    }

    /// Tries with `group`; if the kernel refuses, it is left out again.
    fn admit(&mut self, attempt: &mut Attempt, group: &[NsName]) -> bool {
        let services: BTreeSet<NsName> = group.iter().cloned().collect();
        let delta = Delta { services, ..Delta::default() };
        self.left_out.retain(|key, _| !group.contains(key));
        if self.try_write(attempt, &delta).is_ok() {
            return true;
        }
        let until = attempt.now + self.retry_after;
        self.left_out.extend(group.iter().map(|key| (key.clone(), LeftOut { until })));
        // What was tried leaves the plan again; should this fail too, the next try compares everything.
        let _ = self.try_write(attempt, &delta);
        false
    }

    fn leave_out(&mut self, attempt: &mut Attempt, service: NsName, reason: String) {
        warn!(%service, %reason, family = ?self.writer.family(), "the Service is left out; the others are programmed");
        self.left_out.insert(service.clone(), LeftOut { until: attempt.now + self.retry_after });
        if self.told.insert(service.clone()) {
            attempt.refusals.push(Refusal { service, reason });
        }
    }
}

/// One update on its way.
struct Attempt<'a> {
    /// As the cluster is, with those left out.
    full: &'a Snapshot,
    now: Instant,
    failures: u64,
    refusals: Vec<Refusal>,
}

#[cfg(test)]
#[path = "guarded_tests.rs"]
mod tests;
