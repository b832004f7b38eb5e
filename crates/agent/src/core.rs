//! The heart of a node: one thread that takes events in, plans, and writes to the kernel.
//!
//! ```text
//!  Input ──► ingest ──► resolve ──► plan (rules, routes) ──► kernel
//!                          └──────► (Snapshot, Delta) ──► DNS, BGP, the LAN
//! ```
//!
//! Events that came together are taken together; the first one is never made to wait. Nothing is programmed until
//! Services, EndpointSlices, Nodes and this node's pods have each been told whole once, so that a start never takes away
//! rules that a half-read cluster does not explain.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime};

use ipnet::IpNet;
use portolan_dataplane::iptables::DnsPath;
use portolan_ingest::{Event, ingest};
use portolan_kernel::nft_monitor::NftEvent;
use portolan_model::{
    Attachment, Delta, Endpoint, Fact, Facts, Family, LearnedRoute, NsName, ObjectKind, ServiceView, Settings,
    Snapshot, Touched, resolve,
};
use portolan_story::history::History;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{oneshot, watch};
use tracing::{info, warn};

use crate::announce::Answers;
use crate::drain::Applied;
use crate::guard::Word;
use crate::history;
use crate::last_known::{Feed, Freshness};
use crate::proxy::Programmer;
use crate::routes::RouteWriter;
use crate::status::{Change, Progress};

/// How long a write that failed waits before everything is compared and written again.
const RETRY: Duration = Duration::from_secs(1);
/// Kinds that must have been told whole before the first write.
const NEEDED: [ObjectKind; 4] = [ObjectKind::Service, ObjectKind::EndpointSlice, ObjectKind::Node, ObjectKind::Pod];

/// What the core is told.
#[derive(Debug)]
pub(crate) enum Input {
    /// A watch event, and when it came.
    Cluster(Event, SystemTime),
    /// All objects of a kind have been told.
    Synced(ObjectKind),
    /// Every EndpointSlice up to this resourceVersion has been told.
    SlicesSeen(u64),
    /// A pod was attached to this node's network, or detached. The sender hears when its route was written.
    Attachment(NsName, Option<Attachment>, Option<oneshot::Sender<()>>),
    /// The best path to a prefix changed.
    Learned(IpNet, Option<LearnedRoute>),
    /// Another hand may have been in the rules of this family.
    Doubt(Family),
    /// Somebody changed nf_tables.
    Edited(Vec<NftEvent>),
    /// Routes of a former agent that nobody claimed until now may go.
    RoutesSettled,
    /// This node's DNS answers at the cluster address, or does not. The sender hears when the rules say so, and whether
    /// they send nobody's queries to this node as one of the Service's endpoints.
    DnsPath(DnsPath, Option<oneshot::Sender<bool>>),
    /// Somebody asks what this node knows and has planned. Answered after all else that came with it is written.
    Ask(Question),
}

impl Input {
    /// The API server is the one who said it.
    fn is_of_cluster(&self) -> bool {
        matches!(self, Self::Cluster(..) | Self::Synced(_) | Self::SlicesSeen(_))
    }
}

/// What this node knows and has planned, at one moment between two writes.
pub(crate) struct View<'a> {
    /// What was in place when, and because of what.
    pub(crate) history: &'a History,
    /// Which routes the kernel does not take.
    pub(crate) routes: &'a RouteWriter,
    /// The cluster has been told whole, and the rules were written.
    pub(crate) programmed: bool,
    /// What follows from them.
    pub(crate) snapshot: &'a Arc<Snapshot>,
    /// The rules that follow from that.
    pub(crate) proxy: &'a Programmer,
}

/// A question to the core; it takes its answer away itself.
pub(crate) struct Question(Box<dyn FnOnce(&View<'_>) + Send>);

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Question")
    }
}

/// Those who hear of each new snapshot.
pub(crate) struct Listeners {
    /// The DNS server: what changed, and whether the cluster has been told whole.
    pub(crate) dns: Feed,
    /// When the cluster was heard.
    pub(crate) freshness: Arc<Freshness>,
    /// The BGP speaker: peers and exports.
    pub(crate) bgp: UnboundedSender<crate::bgp::Command>,
    /// The pod network: this node's own blocks.
    pub(crate) blocks: watch::Sender<Vec<IpNet>>,
    /// The LAN: addresses of load balancers that this node answers for.
    pub(crate) answers: Answers,
    /// The guard of cluster DNS: whether another node answers. `None` where DNS is another's.
    pub(crate) others_answer: Option<watch::Sender<Word>>,
}

/// The core's state; [`Core::run`] is its thread.
pub(crate) struct Core {
    facts: Facts,
    snapshot: Arc<Snapshot>,
    synced: BTreeSet<ObjectKind>,
    proxy: Programmer,
    routes: RouteWriter,
    listeners: Listeners,
    progress: Arc<Progress>,
    programmed: bool,
    slices_seen: u64,
    mesh: (BTreeSet<IpAddr>, BTreeSet<IpNet>),
    history: History,
}

impl Core {
    pub(crate) fn new(
        settings: Arc<Settings>,
        proxy: Programmer,
        routes: RouteWriter,
        listeners: Listeners,
        progress: Arc<Progress>,
    ) -> Self {
        Self {
            history: history::begin(&settings),
            facts: Facts::default(),
            snapshot: Arc::new(Snapshot::empty(settings)),
            synced: BTreeSet::new(),
            proxy,
            routes,
            listeners,
            progress,
            programmed: false,
            slices_seen: 0,
            mesh: (BTreeSet::new(), BTreeSet::new()),
        }
    }

    /// Runs until every sender is gone.
    pub(crate) fn run(mut self, inputs: &Receiver<Input>) {
        let mut retry_at: Option<Instant> = None;
        loop {
            let wake_at = retry_at.into_iter().chain(self.proxy.deadline()).min();
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
            std::thread::sleep(self.proxy.pause());
        }
    }

    /// Takes a batch in and writes what follows from it. `false` if a write failed and is to be tried again.
    fn take(&mut self, batch: Vec<Input>) -> bool {
        let mut touched = Touched::default();
        let (mut paths, mut waiting, mut waiting_for_dns) = (Vec::new(), Vec::new(), Vec::new());
        let mut questions = Vec::new();
        let came = SystemTime::now();
        if batch.iter().any(Input::is_of_cluster) {
            self.listeners.freshness.heard();
        }
        for input in batch {
            match input {
                Input::Cluster(event, seen) => {
                    self.progress.saw(Change::of(&event, seen));
                    self.history.saw(history::told(&event, seen, &self.facts));
                    self.proxy.saw(&event, seen);
                    self.listeners.dns.saw(&event, seen);
                    let (found, complaints) = ingest(&mut self.facts, [event]);
                    complaints.iter().for_each(|c| warn!(object = %c.object, reason = %c.reason, "{}", c.message));
                    touched.merge(found);
                }
                Input::Attachment(key, value, written) => {
                    let before = self.snapshot.attachments.get(&key).map(|link| &**link);
                    self.history.saw(history::linked(&key, value.as_ref(), before, came));
                    touched.merge(self.facts.apply(Fact::Attachment(key, value)));
                    waiting.extend(written);
                }
                Input::Learned(prefix, value) => {
                    self.history.saw(history::learned(prefix, value.as_ref(), came));
                    touched.merge(self.facts.apply(Fact::Learned(prefix, value)));
                }
                Input::Synced(kind) => drop(self.synced.insert(kind)),
                Input::SlicesSeen(version) => self.slices_seen = self.slices_seen.max(version),
                Input::RoutesSettled => self.routes.settled(),
                Input::Doubt(family) => self.proxy.doubt(family),
                Input::Edited(events) => self.proxy.edited(&events),
                Input::DnsPath(path, written) => {
                    paths.push(path);
                    waiting_for_dns.extend(written);
                }
                Input::Ask(question) => questions.push(question),
            }
        }
        let (after, delta) = resolve(&self.facts, &self.snapshot, &touched);
        self.snapshot = Arc::new(after);
        self.history.resolved(&delta);
        self.tell(&delta);
        paths.into_iter().for_each(|path| self.proxy.set_dns(path));
        let written = self.write(&delta);
        if written && self.programmed {
            self.progress.settled(SystemTime::now());
        }
        // After the rules: who is asked to send packets here must find them there.
        if self.programmed {
            self.listeners.answers.update(&self.snapshot, &delta, &self.progress);
        }
        for sender in waiting {
            // Whoever waits may have given up.
            let _ = sender.send(());
        }
        let is_left = written && !self.is_dns_endpoint();
        for sender in waiting_for_dns {
            let _ = sender.send(is_left);
        }
        let view = View {
            history: &self.history,
            routes: &self.routes,
            programmed: self.programmed,
            snapshot: &self.snapshot,
            proxy: &self.proxy,
        };
        questions.into_iter().for_each(|Question(ask)| ask(&view));
        written
    }

    /// Is this node one of the endpoints to which rules send queries for the cluster DNS address?
    fn is_dns_endpoint(&self) -> bool {
        let node = &self.snapshot.settings.node;
        let mut endpoints = self.snapshot.services.values().flat_map(|service| self.dns_endpoints(service));
        endpoints.any(|endpoint| endpoint.node.as_ref() == Some(node))
    }

    /// Endpoints of port 53, if it is the Service at the cluster DNS address.
    fn dns_endpoints<'a>(&self, service: &'a ServiceView) -> impl Iterator<Item = &'a Endpoint> {
        let is_dns = service.spec.cluster_ips.iter().any(|ip| self.snapshot.settings.cluster_dns.contains(ip));
        let ports = service.ports.iter().filter(move |port| is_dns && port.spec.port == 53);
        ports.flat_map(|port| &port.endpoints)
    }

    /// Has the guard know whether it would be of use.
    fn tell_guard(&self, delta: &Delta) {
        let Some(words) = &self.listeners.others_answer else { return };
        let settings = &self.snapshot.settings;
        for service in delta.services.iter().filter_map(|key| self.snapshot.services.get(key)) {
            if !service.spec.cluster_ips.iter().any(|ip| settings.cluster_dns.contains(ip)) {
                continue;
            }
            let is_other = |endpoint: &Endpoint| endpoint.ready && endpoint.node.as_ref() != Some(&settings.node);
            let word = if self.dns_endpoints(service).any(is_other) { Word::Others } else { Word::Alone };
            words.send_if_modified(|known| {
                let is_news = *known != word && *known != Word::Dismissed;
                *known = if is_news { word } else { *known };
                is_news
            });
        }
    }

    fn tell(&mut self, delta: &Delta) {
        let whole = self.is_told_whole();
        if whole && !self.listeners.freshness.is_told() {
            self.listeners.freshness.told();
        }
        self.tell_guard(delta);
        self.listeners.dns.tell(&self.snapshot, delta, whole);
        let mesh = (self.peers(), self.exports());
        if mesh != self.mesh {
            self.mesh = mesh.clone();
            self.listeners.blocks.send_replace(mesh.1.iter().copied().collect());
            // A listener that is gone means the process is ending.
            let _ = self.listeners.bgp.send(crate::bgp::Command::Cluster { peers: mesh.0, exports: mesh.1 });
        }
    }

    fn is_told_whole(&self) -> bool {
        NEEDED.iter().all(|kind| self.synced.contains(kind))
    }

    /// The other nodes' first addresses of our own first address's family.
    fn peers(&self) -> BTreeSet<IpAddr> {
        let own = self.snapshot.own_node().and_then(|n| n.addresses.first().copied());
        let others = self.snapshot.nodes.iter().filter(|(name, _)| **name != self.snapshot.settings.node);
        others
            .filter_map(|(_, node)| {
                node.addresses.iter().find(|a| own.is_some_and(|o| o.is_ipv4() == a.is_ipv4())).copied()
            })
            .collect()
    }

    fn exports(&self) -> BTreeSet<IpNet> {
        self.snapshot.own_node().map(|node| node.pod_cidrs.iter().copied().collect()).unwrap_or_default()
    }

    fn write(&mut self, delta: &Delta) -> bool {
        let began = SystemTime::now();
        let routed = self.routes.update(&self.snapshot, delta);
        if !self.is_told_whole() {
            self.remember(began, false);
            return routed;
        }
        let ruled = self.proxy.update(&self.snapshot, delta);
        self.remember(began, ruled);
        if ruled {
            self.progress.applied(Applied { facts: self.facts.clone(), slices: self.slices_seen });
        }
        let written = routed && ruled;
        if !self.programmed && written {
            self.programmed = true;
            info!(services = self.snapshot.services.len(), "the node is programmed");
            self.progress.programmed();
        }
        written
    }
}

impl Core {
    fn remember(&mut self, began: SystemTime, ruled: bool) {
        let Self { snapshot, routes, proxy, programmed, history, .. } = self;
        let written = history::Written { snapshot, began, routes, proxy, ruled, programmed: *programmed };
        history::wrote(history, &written);
    }
}

/// The sender's side, for watches and others.
#[derive(Clone)]
pub(crate) struct ToCore(pub(crate) Sender<Input>);

impl ToCore {
    pub(crate) fn send(&self, input: Input) {
        // The core ends only with the process.
        let _ = self.0.send(input);
    }

    /// Has the core answer `question` between two writes; `None` if the core has ended. What is asked holds everything
    /// else up, so it copies out what it needs and works on that elsewhere.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&View<'_>) -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, answer) = oneshot::channel();
        // Whoever asked may have given up.
        self.send(Input::Ask(Question(Box::new(move |view| drop(sender.send(question(view)))))));
        answer.await.ok()
    }
}

impl crate::source::Sink for ToCore {
    fn event(&self, event: Event) {
        self.send(Input::Cluster(event, SystemTime::now()));
    }

    fn synced(&self, kind: ObjectKind) {
        self.send(Input::Synced(kind));
    }

    fn seen(&self, kind: ObjectKind, version: u64) {
        if kind == ObjectKind::EndpointSlice {
            self.send(Input::SlicesSeen(version));
        }
    }
}

impl crate::bgp::RouteSink for ToCore {
    fn learned(&self, prefix: IpNet, route: Option<LearnedRoute>) {
        self.send(Input::Learned(prefix, route));
    }

    fn settled(&self) {
        self.send(Input::RoutesSettled);
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
