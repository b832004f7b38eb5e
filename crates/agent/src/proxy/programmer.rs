//! Brings what the cluster says of Services into the kernel, in every family, and tells who waits for it: metrics, health
//! checks, balancers. Both the agent's core and the proxy alone have one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use portolan_dataplane::iptables::DnsPath;
use portolan_ingest::{Event, Object};
use portolan_kernel::nft_monitor::NftEvent;
use portolan_model::{Delta, Family, NsName, Snapshot};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tracing::debug;

use crate::proxy::checks::Asked;
use crate::proxy::events::{FAILED_TO_PROGRAM, Notice};
use crate::proxy::flows::FlowKeeper;
use crate::proxy::guarded::{Guarded, Outcome};
use crate::proxy::health::Health;
use crate::proxy::metrics::{FamilyMetrics, Metrics, micros_of};
use crate::proxy::tally::Tally;
use crate::proxy::writer::{Plan, Writer, Wrote};
use crate::proxy::{Mode, leftovers};

/// When the pod or Service behind an EndpointSlice last changed, as its controller noted.
const TRIGGER_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// A comparison reads all rules: others who change theirs all the time must not keep us busy with it.
const COMPARE_EVERY: Duration = Duration::from_secs(1);

/// What is shared with those who serve what the programmer knows.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Arc<Health>,
    pub(crate) asked: watch::Sender<Asked>,
    pub(crate) notices: UnboundedSender<Notice>,
}

impl Shared {
    /// Of these families; a change that waits longer than `limit` is unhealthy.
    pub(crate) fn new(families: &[Family], limit: Duration) -> (Self, UnboundedReceiver<Notice>) {
        let (notices, received) = unbounded_channel();
        let health = Arc::new(Health::new(families.iter().copied(), limit));
        (Self { metrics: Arc::default(), health, asked: watch::Sender::default(), notices }, received)
    }
}

/// When things are done again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// How long a Service that was refused waits for another try.
    pub(crate) retry_after: Duration,
    /// Writes follow each other at this distance at the least; what comes meanwhile is taken together.
    pub(crate) min_interval: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { retry_after: Duration::from_secs(30), min_interval: Duration::from_millis(10) }
    }
}

/// The writers of all families and what is told of them.
pub(crate) struct Programmer {
    writers: Vec<Guarded>,
    shared: Shared,
    tally: Tally,
    /// Of the changes that are not written yet.
    triggers: Vec<SystemTime>,
    /// Older changes were programmed by a predecessor, or by nobody that is measured here.
    started: SystemTime,
    /// A snapshot was taken in: from then on only what changed is looked at.
    begun: bool,
    min_interval: Duration,
    last_write: Option<Instant>,
    /// Families whose rules are to be compared, and when.
    doubted: BTreeMap<Family, Instant>,
    /// When they last were for doubt.
    compared: BTreeMap<Family, Instant>,
    /// The mode that was here before, until what it left is removed.
    predecessor: Option<Mode>,
    /// `None`: conntrack is not looked at.
    flows: Option<FlowKeeper>,
}

impl Programmer {
    pub(crate) fn new(writers: Vec<Box<dyn Writer>>, shared: Shared, pace: Pace) -> Self {
        let Pace { retry_after, min_interval } = pace;
        Self {
            writers: writers.into_iter().map(|writer| Guarded::new(writer, retry_after)).collect(),
            shared,
            tally: Tally::default(),
            triggers: Vec::new(),
            started: SystemTime::now(),
            begun: false,
            min_interval,
            last_write: None,
            doubted: BTreeMap::new(),
            compared: BTreeMap::new(),
            predecessor: None,
            flows: None,
        }
    }

    /// It is the service proxy of a real kernel: once its rules are there, what `predecessor` left goes (between the two,
    /// packets find either's), and stale UDP flows go after each write.
    pub(crate) fn take_charge(&mut self, predecessor: Mode) {
        self.predecessor = Some(predecessor);
        self.flows = Some(FlowKeeper::default());
    }

    /// The rules of `family` as planned; `None` where there are none.
    pub(crate) fn plan(&self, family: Family) -> Option<Plan<'_>> {
        self.writers.iter().find(|writer| writer.family() == family).map(Guarded::plan)
    }

    /// The kernel refuses the rules of `service` in some family; it is tried again after a while.
    pub(crate) fn is_left_out(&self, service: &NsName) -> bool {
        self.writers.iter().any(|writer| writer.is_left_out(service))
    }

    /// Whether the first write found the rules of `service` otherwise than planned in some family; `None`: not known.
    pub(crate) fn differed(&self, service: &NsName) -> Option<bool> {
        let mut all = self.writers.iter().map(|writer| writer.differed().includes(service));
        all.try_fold(false, |any, one| Some(any | one?))
    }

    pub(crate) fn set_dns(&mut self, path: DnsPath) {
        self.writers.iter_mut().for_each(|writer| writer.set_dns(path));
    }

    /// Another hand may have been in the rules of `family`: all is compared, at once and then every so often at most.
    pub(crate) fn doubt(&mut self, family: Family) {
        let now = Instant::now();
        let compared = self.compared.get(&family).map_or(now, |last| *last + COMPARE_EVERY);
        self.doubted.entry(family).or_insert(compared.max(now));
    }

    /// Somebody changed nf_tables.
    pub(crate) fn edited(&mut self, events: &[NftEvent]) {
        for index in 0..self.writers.len() {
            // Each is to hear all of them: our own writes are known by what was heard.
            let others = events.iter().filter(|event| self.writers[index].concerns(event)).count();
            if others > 0 {
                debug!(family = ?self.writers[index].family(), "another hand was in the rules");
                self.doubt(self.writers[index].family());
            }
        }
    }

    /// When something is to be done though nothing comes: a Service that was refused, a comparison.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.writers.iter().filter_map(Guarded::deadline).chain(self.doubted.values().copied()).min()
    }

    /// How long to wait before the next write, were it to come now.
    pub(crate) fn pause(&self) -> Duration {
        self.last_write.map(|last| self.min_interval.saturating_sub(last.elapsed())).unwrap_or_default()
    }

    /// An event came.
    pub(crate) fn saw(&mut self, event: &Event, now: SystemTime) {
        let (Event::Value(object) | Event::Gone(object)) = event;
        for writer in &self.writers {
            let metrics = self.shared.metrics.of(writer.family());
            match object {
                Object::Service(_) => metrics.service_changes.came(),
                Object::EndpointSlice(_) => metrics.endpoint_changes.came(),
                _ => continue,
            }
            metrics.last_queued.store(micros_of(now), Ordering::Relaxed);
        }
        self.triggers.extend(trigger(object).filter(|at| *at > self.started));
    }

    /// Writes what changed. `false`: a family failed, and is to be tried again.
    pub(crate) fn update(&mut self, snapshot: &Snapshot, delta: &Delta) -> bool {
        let all = (!self.begun).then(|| Delta::all(snapshot));
        let delta = all.as_ref().unwrap_or(delta);
        self.begun = true;
        if !delta.services.is_empty() {
            self.last_write = Some(Instant::now());
        }
        let Shared { health, .. } = &self.shared;
        health.node(snapshot);
        health.queued(SystemTime::now());
        self.tally.update(snapshot, delta);
        let mut written = true;
        for index in 0..self.writers.len() {
            let began = Instant::now();
            self.compare_if_doubted(index, began);
            let outcome = self.writers[index].update(snapshot, delta, began);
            let family = self.writers[index].family();
            written &= outcome.wrote.is_some();
            self.note(family, began.elapsed(), outcome);
        }
        self.flows.iter_mut().for_each(|flows| flows.expect(delta));
        if written {
            self.sweep_flows(snapshot);
            self.triggers.clear();
            self.predecessor.take().into_iter().for_each(|mode| drop(leftovers::remove(mode)));
        }
        self.ask(snapshot);
        written
    }

    fn sweep_flows(&mut self, snapshot: &Snapshot) {
        let Some(swept) = self.flows.as_mut().and_then(|flows| flows.sweep(snapshot)) else { return };
        for (family, deleted) in [(Family::V4, swept.v4), (Family::V6, swept.v6)] {
            let metrics = self.shared.metrics.of(family);
            metrics.conntrack.observe(swept.took);
            metrics.conntrack_deleted.fetch_add(deleted, Ordering::Relaxed);
        }
    }

    fn compare_if_doubted(&mut self, index: usize, now: Instant) {
        let family = self.writers[index].family();
        if self.doubted.get(&family).is_some_and(|due| *due <= now) {
            self.doubted.remove(&family);
            self.compared.insert(family, now);
            self.writers[index].doubt();
        }
    }

    fn note(&self, family: Family, took: Duration, outcome: Outcome) {
        let metrics = self.shared.metrics.of(family);
        let no_local = self.tally.no_local(family);
        metrics.no_local_internal.store(no_local.internal, Ordering::Relaxed);
        metrics.no_local_external.store(no_local.external, Ordering::Relaxed);
        if let Some(wrote) = outcome.wrote {
            self.note_written(metrics, took, wrote);
            self.shared.health.updated(family, SystemTime::now());
        }
        for refusal in outcome.refusals {
            let message = format!("the kernel refuses its rules, and it is left out: {}", refusal.reason);
            let notice = Notice { service: refusal.service, reason: FAILED_TO_PROGRAM, message };
            // Without a listener the process is ending.
            let _ = self.shared.notices.send(notice);
        }
    }

    fn note_written(&self, metrics: &FamilyMetrics, took: Duration, wrote: Wrote) {
        let now = SystemTime::now();
        metrics.sync.observe(took);
        match wrote {
            Wrote::Compared => metrics.full_sync.observe(took),
            Wrote::Changes => metrics.partial_sync.observe(took),
        }
        metrics.last_sync.store(micros_of(now), Ordering::Relaxed);
        metrics.service_changes.pending.store(0, Ordering::Relaxed);
        metrics.endpoint_changes.pending.store(0, Ordering::Relaxed);
        for trigger in &self.triggers {
            metrics.programming.observe(now.duration_since(*trigger).unwrap_or_default());
        }
    }

    /// Tells those who answer balancers.
    fn ask(&self, snapshot: &Snapshot) {
        let by_family = Family::BOTH.into_iter().map(|family| snapshot.node_port_addresses(family));
        let addresses = by_family.collect::<Option<Vec<_>>>().map(|lists| lists.concat());
        self.shared.asked.send_if_modified(|asked| {
            let changed = *asked.checks != self.tally.checks || asked.addresses != addresses;
            if changed {
                *asked = Asked { checks: Arc::new(self.tally.checks.clone()), addresses };
            }
            changed
        });
    }
}

/// When what an EndpointSlice tells of happened.
pub(crate) fn trigger(object: &Object) -> Option<SystemTime> {
    let Object::EndpointSlice(slice) = object else { return None };
    let noted = slice.metadata.annotations.as_ref()?.get(TRIGGER_ANNOTATION)?;
    noted.parse::<Timestamp>().ok().map(SystemTime::from)
}
