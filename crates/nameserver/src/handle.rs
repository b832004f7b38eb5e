//! The door to a running nameserver: whoever starts it tells it by this what the cluster, its pods and its configuration
//! are, and asks how it does.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use portolan_dns::explain::{Explanation, Inquiry};
use portolan_dns::records::Records;
use portolan_dns::{Corefile, PodsChange, Site};
use portolan_model::{Delta, Settings, Snapshot};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::Listener;
use crate::programming::{ProgrammedKind, Programming};

/// What a nameserver is started with.
pub struct Options {
    /// Ranges and names of the cluster.
    pub settings: Arc<Settings>,
    /// Addresses at which this DNS answers: an upstream at one of
    /// them would be a loop. Which Service is the zones' NS is told by `settings.cluster_dns`.
    pub own: Vec<IpAddr>,
    /// The configuration.
    pub corefile: Corefile,
    /// Folder that file names in the configuration are relative to.
    pub base: PathBuf,
    /// Where to answer.
    pub listen: Listen,
    /// Addresses that pages without an address of their own (`health`, `ready :8181`) are served at, `prometheus :9153` at
    /// those in `own` too; empty: all of them at every address of the machine.
    pub pages: Vec<IpAddr>,
    /// Threads that answer; 0: one for each core.
    pub threads: usize,
}

/// Where a nameserver answers.
pub enum Listen {
    /// At these, bound already, and at what [`Handle::listen`] brings. A query to a port that no block of the configuration
    /// names goes to the blocks of port 53.
    At(Vec<Listener>),
    /// At each block's port, at the addresses that it is bound to or, where it names none, at these (none: all). A new
    /// configuration opens and closes listeners.
    AsWritten(Vec<IpAddr>),
}

/// Why a configuration was not taken over: the one before stays in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// All that is wrong, a line each, with file and line where it has one.
    #[error("{}", .0.join("\n"))]
    Refused(Vec<String>),
    /// The nameserver has ended.
    #[error("the nameserver has ended; start it again")]
    Ended,
}

/// How good what we were told of the cluster is, as its teller knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Since when nobody confirmed what we hold; `None`: it is confirmed all the time.
    pub silent_since: Option<Instant>,
    /// Why this DNS shall be called not ready, such as data that are too old; `None`: nothing is against it.
    pub unready: Option<String>,
}

/// What the task is told.
pub(crate) enum Told {
    Zones(Arc<Snapshot>, Box<Delta>, bool),
    Pods(PodsChange),
    Source(Source),
    Listen(Listener),
    Configure(Box<Corefile>, oneshot::Sender<Result<(), ConfigError>>),
    Records(oneshot::Sender<Records>),
    Status(oneshot::Sender<Value>),
    Metrics(oneshot::Sender<String>),
}

/// A running nameserver. Clones are the same one; it ends with the runtime it was started in.
#[derive(Clone)]
pub struct Handle {
    told: mpsc::UnboundedSender<Told>,
    site: Arc<SiteCell>,
}

impl Handle {
    pub(crate) fn new(told: mpsc::UnboundedSender<Told>, site: Arc<SiteCell>) -> Self {
        Self { told, site }
    }

    /// A handle of a nameserver that has ended: what it is told goes nowhere, and it tells nothing.
    pub fn ended() -> Self {
        Self { told: mpsc::unbounded_channel().0, site: Arc::new(SiteCell::new(Site::nothing())) }
    }

    /// The cluster is now `snapshot`; `delta` names what differs from what was told last. `whole`: the cluster was read in
    /// full, from now on what is not there does not exist.
    pub fn zones(&self, snapshot: Arc<Snapshot>, delta: Delta, whole: bool) {
        self.tell(Told::Zones(snapshot, Box::new(delta), whole));
    }

    /// Pods of this node came, went or changed.
    pub fn pods(&self, change: PodsChange) {
        self.tell(Told::Pods(change));
    }

    /// How good the teller's knowledge is.
    pub fn source(&self, source: Source) {
        self.tell(Told::Source(source));
    }

    /// A change of endpoints that was told took this long from its cause until it was answerable.
    pub fn programmed(&self, kind: ProgrammedKind, took: Duration) {
        self.site.programming.observe(kind, took);
    }

    /// A configuration was refused before it came here: it could not be read.
    pub fn refused_configuration(&self) {
        self.site.programming.refuse();
    }

    /// Answers at one more address.
    pub fn listen(&self, listener: Listener) {
        self.tell(Told::Listen(listener));
    }

    /// Takes a configuration over, all of it or nothing. No query is lost.
    ///
    /// # Errors
    /// What is wrong with it: a file that cannot be read, a port that is taken.
    pub async fn configure(&self, corefile: Corefile) -> Result<(), ConfigError> {
        self.ask(|reply| Told::Configure(Box::new(corefile), reply)).await.unwrap_or(Err(ConfigError::Ended))
    }

    /// The cluster's records, after all that was told before; `None`: it has ended.
    pub async fn records(&self) -> Option<Records> {
        self.ask(Told::Records).await
    }

    /// Counters, upstreams and listeners, for `status`; null if it has ended.
    pub async fn status(&self) -> Value {
        self.ask(Told::Status).await.unwrap_or(Value::Null)
    }

    /// Metrics in Prometheus' text format; empty if it has ended.
    pub async fn metrics_text(&self) -> String {
        let text = self.ask(Told::Metrics).await;
        text.map(|text| text + &self.site.programming.text()).unwrap_or_default()
    }

    /// What a client's lookup gets, and why. Asks no upstream.
    pub fn explain(&self, inquiry: &Inquiry) -> Explanation {
        portolan_dns::explain::explain(&self.site.load(), inquiry, self.site.now())
    }

    /// The cluster was read in full and nothing speaks against being asked.
    pub fn is_ready(&self) -> bool {
        self.unready().is_empty()
    }

    /// Why it is not ready: the plugins that are not, and what its teller has against it. Empty: it is.
    pub fn unready(&self) -> Vec<String> {
        let site = self.site.load();
        let has_cluster = site.config().blocks.iter().any(|block| block.kubernetes.is_some());
        let unread = (has_cluster && !site.records().is_synced()).then(|| "kubernetes".to_owned());
        unread.into_iter().chain(self.site.source().unready).collect()
    }

    /// How long to go on answering after being told to end: the longest `lameduck` of the configuration.
    pub fn lameduck(&self) -> Duration {
        let site = self.site.load();
        let times = site.config().blocks.iter().filter_map(|block| block.health.as_ref());
        times.map(|health| health.lameduck).max().unwrap_or_default()
    }

    /// What answers at this moment.
    pub fn site(&self) -> Arc<Site> {
        self.site.load()
    }

    fn tell(&self, told: Told) {
        // A task that is gone means that the process is ending.
        let _ = self.told.send(told);
    }

    async fn ask<T>(&self, told: impl FnOnce(oneshot::Sender<T>) -> Told) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.tell(told(reply));
        answer.await.ok()
    }
}

/// The site in force, for many readers: they keep their own pointer and look only at a number for each packet.
pub(crate) struct SiteCell {
    generation: AtomicU64,
    site: RwLock<Arc<Site>>,
    source: RwLock<Source>,
    /// What only the teller can tell.
    pub(crate) programming: Programming,
    started: Instant,
}

impl SiteCell {
    pub(crate) fn new(site: Site) -> Self {
        Self {
            generation: AtomicU64::new(0),
            site: RwLock::new(Arc::new(site)),
            source: RwLock::default(),
            programming: Programming::default(),
            started: Instant::now(),
        }
    }

    /// Time as all of the nameserver counts it.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Differs after each change. A reader that sees a new number calls [`SiteCell::load`].
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The site in force.
    pub(crate) fn load(&self) -> Arc<Site> {
        self.site.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn store(&self, site: Site) {
        *self.site.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(site);
        self.generation.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn set_source(&self, source: Source) {
        *self.source.write().unwrap_or_else(PoisonError::into_inner) = source;
    }

    pub(crate) fn source(&self) -> Source {
        self.source.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
