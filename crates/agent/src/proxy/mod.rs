//! The service proxy alone: what Services and EndpointSlices say becomes rules of this network namespace.
//!
//! ```text
//!  files or a live cluster ──► Input ──► Keeper: ingest ──► resolve ──► a Writer per family ──► kernel
//!  kernel: interface addresses ──┘         (one thread)
//! ```
//!
//! This is kube-proxy's job and nothing beside it: no routes, no DNS, no pods. The agent's core does the same as one of its
//! jobs and shares the writers. It must never know where objects come from.

mod checks;
mod cluster;
mod events;
mod flows;
mod guarded;
mod health;
mod http;
mod interfaces;
mod keeper;
mod leftovers;
mod metrics;
mod nft;
mod programmer;
mod tally;
mod watch;
mod writer;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use portolan_dataplane::conntrack::ConntrackSettings;
use portolan_dataplane::iptables::{DnsPath, Options};
use portolan_dataplane::nftables;
use portolan_kernel::iptables::{Family as ToolFamily, Tool};
use portolan_kernel::nft::{Nft, NftError};
use portolan_kernel::nft_monitor::NftEvent;
use portolan_kernel::sysctl::{self, Key};
use portolan_kernel::{Monitor, Netlink, NetlinkError};
use portolan_model::{Fact, Family, Settings, Snapshot};
use serde_json::Value;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::rules::RuleWriter;
use crate::status::Progress;

pub(crate) use checks::serve as serve_checks;
pub use events::Recorder;
pub(crate) use events::{Notice, record};
pub(crate) use flows::apply_settings as set_conntrack;
pub(crate) use http::{HealthPage, health_router, serve_patiently};
pub use keeper::Input;
use keeper::Keeper;
pub(crate) use metrics::{Metrics, ServiceMetrics};
use nft::NftWriter;
pub(crate) use programmer::{Pace, Programmer, Shared, trigger};
pub(crate) use watch::OwnWrites;
pub(crate) use writer::{Differed, Plan, WriteError, Writer, Wrote};

/// How rules are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// kube-proxy's chains, by the iptables programs.
    Iptables,
    /// Our own tables, by netlink alone.
    Nftables,
}

/// Removes every rule of ours from the calling thread's network namespace, of all modes; gives what could not be removed.
pub fn clean_up() -> Vec<String> {
    [Mode::Iptables, Mode::Nftables].into_iter().flat_map(leftovers::remove).collect()
}

impl Mode {
    /// The one that may have been here before.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Iptables => Self::Nftables,
            Self::Nftables => Self::Iptables,
        }
    }

    /// As kube-proxy names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

/// What the proxy is told at start; fixed while it runs.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// Ranges of the cluster, our node's name, and the settings that decide what becomes of a packet.
    pub settings: Settings,
    /// How rules are written.
    pub mode: Mode,
    /// Which families have rules.
    pub families: Vec<Family>,
    /// The mark that asks for masquerade: one bit.
    pub masquerade_mark: u32,
    /// Writes follow each other at this distance at the least; `None`: as the mode does well.
    pub min_interval: Option<Duration>,
    /// How long a Service that was refused waits for another try, and half of what a change may wait before the proxy
    /// counts as unhealthy.
    pub sync_period: Duration,
    /// Where `/healthz` and `/livez` answer; `None`: nowhere.
    pub healthz: Option<SocketAddr>,
    /// Where `/metrics`, `/proxyMode` and `/configz` answer; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// An address that cannot be bound ends the process; otherwise it is tried again.
    pub bind_hard_fail: bool,
    /// What conntrack is set to at start.
    pub conntrack: ConntrackSettings,
    /// The configuration in force as `/configz` shows it.
    pub shown: Value,
}

/// Why the proxy cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The kernel refused something basic.
    #[error("the kernel: {0}")]
    Kernel(#[from] NetlinkError),
    /// No thread could be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// nf_tables cannot be reached.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// An address is taken.
    #[error("{0}")]
    Bind(String),
}

/// The service proxy of a network namespace, programmed by nobody yet.
pub struct Proxy {
    config: ProxyConfig,
    keeper: Keeper,
    shared: Shared,
    notices: UnboundedReceiver<Notice>,
    /// Netlink ports of our own writes.
    ports: Vec<u32>,
}

impl Proxy {
    /// A proxy for the calling thread's network namespace. All its work has to be done in that namespace.
    ///
    /// # Errors
    /// The kernel does not tell the addresses of its interfaces.
    pub fn open(config: ProxyConfig) -> Result<Self, ProxyError> {
        prepare(&config);
        let progress = Arc::new(Progress::default());
        let (shared, notices) = Shared::new(&config.families, config.sync_period * 2);
        let (writers, ports) = writers(&config.families, &config.backend(), &shared, &progress)?;
        let mut pace = Pace { retry_after: config.sync_period, ..Pace::default() };
        pace.min_interval = config.min_interval.unwrap_or(pace.min_interval);
        let mut programmer = Programmer::new(writers, shared.clone(), pace);
        programmer.take_charge(config.mode.other());
        let mut keeper = Keeper::new(config.settings.clone(), programmer, progress);
        keeper.begin_with(interfaces::Interfaces::default().look(&mut Netlink::open()?)?);
        Ok(Self { config, keeper, shared, notices, ports })
    }

    /// Has the cluster of `client` tell `inputs` of this node's Services. To be called inside a runtime.
    pub fn follow_cluster(&self, client: &kube::Client, inputs: &Sender<Input>) {
        cluster::follow(client, &self.config.settings, inputs);
    }

    /// Writes what `inputs` ask for and ends. `false`: the rules were not written; the log says why.
    pub fn once(mut self, inputs: impl IntoIterator<Item = Input>) -> bool {
        self.keeper.take(inputs)
    }

    /// Programs what `inputs` ask for, and answers those who ask about it, until `stop`. Rules stay.
    ///
    /// # Errors
    /// An address cannot be bound and must be, or no thread can be started.
    pub async fn serve(
        self,
        sender: Sender<Input>,
        inputs: Receiver<Input>,
        recorder: Recorder,
        stop: impl Future<Output = ()>,
    ) -> Result<(), ProxyError> {
        self.answer().await?;
        let Self { config, keeper, shared, notices, ports } = self;
        tokio::spawn(serve_checks(shared.asked.subscribe(), shared.health.clone(), shared.notices.clone()));
        tokio::spawn(record(notices, recorder));
        let (edited, flushed) = (sender.clone(), sender.clone());
        watch_rules(
            &config.backend(),
            &config.families,
            &ports,
            move |events| edited.send(Input::Edited(events)).is_ok(),
            move |family| flushed.send(Input::Doubt(family)).is_ok(),
        )?;
        follow_interfaces(sender)?;
        let work = move || keeper.run(&inputs);
        std::thread::Builder::new().name("proxy".to_owned()).spawn(work).map_err(ProxyError::Thread)?;
        stop.await;
        Ok(())
    }

    async fn answer(&self) -> Result<(), ProxyError> {
        let Shared { health, metrics, .. } = self.shared.clone();
        let page = http::MetricsPage {
            metrics: metrics.clone(),
            families: self.config.families.clone(),
            mode: self.config.mode.name(),
            config: Arc::new(self.config.shown.clone()),
        };
        let servers = [
            ("health checks", self.config.healthz, health_router(HealthPage { health, metrics })),
            ("metrics", self.config.metrics, http::metrics_router(page)),
        ];
        for (what, addr, router) in servers {
            let Some(addr) = addr else { continue };
            match self.config.bind_hard_fail {
                false => serve_patiently(what, addr, router),
                true => {
                    let listener = http::bind(what, addr).await.map_err(ProxyError::Bind)?;
                    tokio::spawn(http::run(listener, router));
                }
            }
        }
        Ok(())
    }
}

/// Which backend writes, and what it is told beside the proxy's settings.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    pub(crate) mode: Mode,
    pub(crate) masquerade_mark: u32,
    /// Who answers cluster DNS at the start.
    pub(crate) dns: DnsPath,
}

impl ProxyConfig {
    fn backend(&self) -> Backend {
        Backend { mode: self.mode, masquerade_mark: self.masquerade_mark, dns: DnsPath::Service }
    }
}

/// One for each family.
pub(crate) type Writers = Vec<Box<dyn Writer>>;

/// A writer for each family, and the netlink ports they write from.
pub(crate) fn writers(
    families: &[Family],
    backend: &Backend,
    shared: &Shared,
    progress: &Arc<Progress>,
) -> Result<(Writers, Vec<u32>), NftError> {
    let (mut writers, mut ports) = (Writers::new(), Vec::new());
    let Backend { mode, masquerade_mark, dns } = *backend;
    for family in families.iter().copied() {
        let (progress, metrics) = (progress.clone(), shared.metrics.clone());
        match mode {
            Mode::Iptables => {
                let drop_invalid = !flows::is_liberal();
                let options = Options { masquerade_mark, dns, drop_invalid, ..Options::default() };
                let tool = Arc::new(Tool::from_environment());
                writers.push(Box::new(RuleWriter::new(family, options, tool, progress, metrics)));
            }
            Mode::Nftables => {
                let nft = Nft::open()?;
                ports.push(nft.port());
                let options = nftables::Options { masquerade_mark, dns, ..nftables::Options::default() };
                writers.push(Box::new(NftWriter::new(family, options, Box::new(nft), progress, metrics)));
            }
        }
    }
    Ok((writers, ports))
}

/// Notices other hands in our rules, in the calling thread's network namespace.
pub(crate) fn watch_rules(
    backend: &Backend,
    families: &[Family],
    ports: &[u32],
    edited: impl Fn(Vec<NftEvent>) -> bool + Send + 'static,
    flushed: impl Fn(Family) -> bool + Send + 'static,
) -> Result<(), ProxyError> {
    let tool = Tool::from_environment();
    let is_legacy = || tool.version(ToolFamily::V4).is_ok_and(|version| version.contains("legacy"));
    match backend.mode == Mode::Iptables && is_legacy() {
        true => watch::canaries(tool, families.to_vec(), flushed),
        false => watch::nf_tables(ports, edited),
    }
}

/// Tells `inputs` which addresses come to interfaces of the calling thread's network namespace, and go, while it is
/// listened to; on a thread of its own.
fn follow_interfaces(inputs: Sender<Input>) -> Result<(), ProxyError> {
    let mut monitor = Monitor::open()?;
    let mut network = Netlink::open()?;
    let tell = move |facts: Vec<Fact>| facts.into_iter().all(|fact| inputs.send(Input::Fact(fact)).is_ok());
    let work = move || {
        if let Err(error) = interfaces::follow(&mut monitor, &mut network, tell) {
            tracing::warn!(%error, "addresses that come to this node's interfaces are not noticed any more");
        }
    };
    std::thread::Builder::new().name("interfaces".to_owned()).spawn(work).map_err(ProxyError::Thread)?;
    Ok(())
}

/// Makes the settings of the calling thread's network namespace that the rules rely on, and those of conntrack; what needs
/// more rights than the rules do. What cannot be set is logged.
pub fn prepare(config: &ProxyConfig) {
    flows::apply_settings(&config.conntrack);
    let opens_loopback = config.families.contains(&Family::V4) && opens_loopback(&config.settings, config.mode);
    if opens_loopback && let Err(error) = sysctl::set(Key::RouteLocalnet("all"), 1) {
        tracing::warn!(%error, "node ports do not answer on 127.0.0.1");
    }
}

/// Node ports answer on 127.0.0.1, so the kernel must route it. Nowhere else may it: the rule that closes it to strangers
/// stands exactly then.
pub(crate) fn opens_loopback(settings: &Settings, mode: Mode) -> bool {
    mode == Mode::Iptables && Snapshot::empty(Arc::new(settings.clone())).opens_loopback(Family::V4)
}
