//! One node: what the cluster says becomes rules, records, routes and pods, and nothing else does.
//!
//! ```text
//!  API server ──► source ──┐                        ┌─► rules, routes ──► kernel
//!  pods: attach, detach ───┼─► core (one thread) ───┼─► dns (task) ◄──► :53
//!  bgp (task) ◄──► :179 ───┘                        └─► bgp, network: peers, blocks
//!  pods ◄──► shims          api ◄── API server, :10250
//! ```
//!
//! This room wires pure rooms to sockets, files and the kernel; it decides nothing that a test without them could not
//! judge. It learns the cluster from the Kubernetes API alone. Killed at any time, it starts again from what the
//! kernel, the ledger and the pods' shims hold, and writes only what differs.

mod announce;
mod api;
mod bgp;
mod cluster_dns;
mod core;
mod corefile;
pub mod dns_explain;
mod dns_pods;
#[cfg(test)]
mod dns_pods_tests;
pub mod dns_source;
mod drain;
mod exec;
mod flows;
pub mod guard;
mod history;
mod last_known;
mod names;
mod network;
mod node;
mod pod_api;
mod pod_watch;
mod portforward;
pub mod proxy;
mod remote;
mod routes;
mod rules;
mod source;
mod spdy;
mod status;
pub mod trace;
mod why;

pub use portolan_nameserver as dns;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::runtime::watcher;
use portolan_bgp::{NextHops, SpeakerConfig};
use portolan_dataplane::conntrack::ConntrackSettings;
use portolan_ingest::Object;
use portolan_kernel::sysctl::{self, Key};
use portolan_kernel::{Netlink, Network};
use portolan_model::{Family, ObjectKind, Settings};
use portolan_pods::NodeLimits;
use portolan_pods::image::PullOptions;
use tokio::sync::{mpsc, watch};
use tracing::warn;

use crate::core::{Core, Listeners, ToCore};
use crate::corefile::{Configuration, InForce};
use crate::drain::{Drain, Peers, ServiceSink};
use crate::guard::Guard;
use crate::last_known::Freshness;
use crate::names::Names;
use crate::network::ClusterNetwork;
use crate::node::NodeIdentity;
use crate::proxy::{Backend, HealthPage, Pace, Programmer, Recorder, ServiceMetrics, Shared};
use crate::routes::RouteWriter;
use crate::status::Progress;

/// What an operator sets for a node.
#[derive(Clone, Debug)]
pub struct Config {
    /// Ranges and names of the cluster, and our own name.
    pub settings: Settings,
    /// This node's addresses on the LAN, one per family.
    pub addresses: Vec<IpAddr>,
    /// How rules of Services are written.
    pub proxy_mode: proxy::Mode,
    /// Where pods, leases and sockets are kept; survives the agent, not the machine.
    pub state_dir: PathBuf,
    /// The store of container images.
    pub image_store: PathBuf,
    /// The link to the other nodes.
    pub lan_interface: String,
    /// Ranges of load balancers' addresses that nodes answer for on the LAN; empty: others do.
    pub balancer_pools: Vec<IpNet>,
    /// Certificate of the node's own API, PEM.
    pub tls_cert: PathBuf,
    /// Its key, PEM.
    pub tls_key: PathBuf,
    /// Authority of client certificates, PEM.
    pub client_ca: PathBuf,
    /// Upstreams of this node's DNS.
    pub resolv_conf: PathBuf,
    /// Between two renewals of the node's Lease.
    pub heartbeat: Duration,
    /// Hold time proposed to BGP peers, at least 3 s.
    pub bgp_hold_time_secs: u16,
    /// MTU of pods' links in bytes; `None` takes the LAN link's.
    pub mtu_bytes: Option<u32>,
    /// Which registries may be asked for images.
    pub registries: PullOptions,
    /// Whether and how containers are limited.
    pub limits: Limits,
    /// Socket of who fetches images for this node; `None`: it reaches registries itself.
    pub image_broker: Option<PathBuf>,
    /// TTL of cluster records in seconds.
    pub dns_ttl_secs: u32,
    /// This program, which pods' shims are made from.
    pub exe: PathBuf,
}

/// Whether containers' limits are enforced.
#[derive(Clone, Debug)]
pub enum Limits {
    /// Nobody asked for it.
    NotAsked,
    /// It was asked for and cannot be: why.
    Refused(String),
    /// By cgroups below these.
    Enforced(NodeLimits),
}

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A file or folder that must be there is not.
    #[error("{what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On which.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The kernel refused something basic.
    #[error("the kernel: {0}")]
    Kernel(#[from] portolan_kernel::NetlinkError),
    /// nf_tables cannot be reached.
    #[error(transparent)]
    Nft(#[from] portolan_kernel::nft::NftError),
    /// The service proxy cannot run.
    #[error(transparent)]
    Proxy(#[from] proxy::ProxyError),
    /// The link to the LAN is not there.
    #[error("there is no link {name}; name the link to the other nodes with --lan-interface")]
    NoLan {
        /// As configured.
        name: String,
    },
    /// Nobody can be answered on the LAN.
    #[error("{0}")]
    Lan(String),
    /// DNS cannot be served.
    #[error(transparent)]
    Dns(#[from] dns::DnsError),
    /// Addresses of pods are not known.
    #[error("{0}")]
    Ledger(String),
    /// The node's API cannot be served.
    #[error("the node's API: {0}")]
    Api(String),
}

/// How the names of pods' links begin on the node.
const POD_LINK: &str = "cali";
/// How long routes outlive a BGP session that broke without a word: an agent is back by then.
const STALE_GRACE: Duration = Duration::from_secs(8);

/// kube-proxy's bit 14: asks for masquerade.
const MASQUERADE_MARK: u32 = 0x4000;
/// Where a node answers `/healthz`, as kube-proxy does.
const HEALTHZ_PORT: u16 = 10256;
/// How long a change may wait for being programmed in a healthy node.
const HEALTHY_WITHIN: Duration = Duration::from_secs(60);

/// Runs the node until `stop`. Rules, routes and pods stay; cluster DNS is left to other nodes.
pub fn run(
    client: Client,
    config: Config,
    stop: impl Future<Output = ()> + Send + 'static,
) -> BoxFuture<'static, Result<(), AgentError>> {
    let stop = stop.boxed();
    async move { Agent::start(client, config).await?.serve(stop).await }.boxed()
}

/// What the rest of the agent needs of the nameserver.
struct Dns {
    handle: dns::Handle,
    freshness: Arc<Freshness>,
    is_recalled: bool,
    in_force: Arc<Mutex<InForce>>,
}

struct Agent {
    client: Client,
    config: Config,
    identity: NodeIdentity,
    core: ToCore,
    progress: Arc<Progress>,
    dns: Dns,
    to_bgp: mpsc::UnboundedSender<bgp::Command>,
    network: Arc<ClusterNetwork>,
    services: ServiceMetrics,
    /// `None` where DNS is another's.
    guard: Option<Guard>,
}

impl Agent {
    /// Everything that needs no cluster: state, sockets, the core's thread.
    async fn start(client: Client, config: Config) -> Result<Self, AgentError> {
        std::fs::create_dir_all(&config.state_dir).map_err(|source| AgentError::File {
            what: "cannot make",
            path: config.state_dir.clone(),
            source,
        })?;
        let guard = (!config.settings.cluster_dns.is_empty())
            .then(|| Guard::start(&config, &families(&config.settings)))
            .transpose()?;
        prepare_node(&config)?;
        let mtu_bytes = lan_mtu(&config)?;
        let progress = Arc::new(Progress::default());
        let (to_core, inputs) = std::sync::mpsc::channel();
        let core = ToCore(to_core);
        let names = names::start(&config, &progress).await?;
        let Names { handle: dns, feed, freshness, is_recalled, in_force, .. } = names;
        if guard.is_some() {
            let configuration = Configuration {
                client: client.clone(),
                node: config.settings.node.to_string(),
                handle: dns.clone(),
                shipped: names.shipped,
                state_dir: config.state_dir.clone(),
                in_force: in_force.clone(),
            };
            tokio::spawn(configuration.follow(names.kept));
        }
        let (to_bgp, commands) = mpsc::unbounded_channel();
        let (blocks_sender, blocks) = watch::channel(Vec::new());
        let (answers, elected) = announce::Answers::new(config.balancer_pools.clone());
        if !config.balancer_pools.is_empty() {
            announce::start(&config.lan_interface, elected).map_err(AgentError::Lan)?;
        }
        let others_answer = guard.as_ref().map(Guard::words);
        let (bgp, of_core) = (to_bgp.clone(), freshness.clone());
        let listeners = Listeners { dns: feed, freshness: of_core, bgp, blocks: blocks_sender, answers, others_answer };
        let services = spawn_core(&client, &config, &progress, listeners, (core.clone(), inputs))?;
        if let Some(bgp) = bgp_config(&config) {
            tokio::spawn(bgp::run(bgp, commands, core.clone()));
        }
        let drain = Drain {
            client: client.clone(),
            node: config.settings.node.clone(),
            applied: progress.watch_applied(),
            selectors: Arc::default(),
            peers: Peers::open(&config)?,
        };
        let asking = names::pods(&config, dns.clone());
        let network = ClusterNetwork::open(&config.state_dir, blocks, core.clone(), mtu_bytes, drain, asking)
            .map_err(AgentError::Ledger)?;
        let identity = NodeIdentity {
            name: config.settings.node.to_string(),
            addresses: config.addresses.clone(),
            heartbeat: config.heartbeat,
            limits: config.limits.clone(),
        };
        let network = Arc::new(network);
        let dns = Dns { handle: dns, freshness, is_recalled, in_force };
        Ok(Self { client, config, identity, core, progress, dns, to_bgp, network, services, guard })
    }

    /// Everything that follows the cluster.
    async fn serve(self, stop: BoxFuture<'static, ()>) -> Result<(), AgentError> {
        self.follow_cluster();
        let kubelet = pod_watch::start(&self.client, &self.config, self.network.clone())?;
        let Dns { handle: dns, freshness, is_recalled, .. } = &self.dns;
        tokio::spawn(node::keep_alive(self.client.clone(), self.identity.clone(), freshness.clone()));
        let cluster_dns = Arc::new(cluster_dns::ClusterDns {
            client: self.client.clone(),
            identity: self.identity.clone(),
            addresses: self.config.settings.cluster_dns.clone(),
            progress: self.progress.clone(),
            core: self.core.clone(),
            dns: dns.clone(),
            is_recalled: *is_recalled,
        });
        let answering = cluster_dns.clone();
        let answering = tokio::spawn(async move { answering.answer_at_cluster_address().await });
        let Self { config, core, progress, dns, to_bgp, services, guard, .. } = self;
        let fixed = Arc::new(trace::Fixed::of(&config));
        let Dns { handle: dns, freshness, in_force, .. } = dns;
        let traces = Arc::default();
        let api = api::NodeApi { kubelet, progress, services, dns, freshness, in_force, to_bgp, core, fixed, traces };
        tokio::select! {
            ended = api::serve(api, &config) => ended,
            () = stop => {
                answering.abort();
                cluster_dns.leave().await;
                if let Some(guard) = guard {
                    guard.dismiss().await;
                }
                Ok(())
            }
        }
    }

    fn follow_cluster(&self) {
        let everything = watcher::Config::default();
        let (client, core) = (&self.client, &self.core);
        let follow = source::follow::<Namespace>;
        tokio::spawn(follow(
            client.clone(),
            everything.clone(),
            ObjectKind::Namespace,
            Object::Namespace,
            core.clone(),
        ));
        let follow = source::follow::<Node>;
        tokio::spawn(follow(client.clone(), everything.clone(), ObjectKind::Node, Object::Node, core.clone()));
        let follow = source::follow::<Service>;
        let sink = ServiceSink { core: core.clone(), selectors: self.network.selectors() };
        tokio::spawn(follow(client.clone(), everything.clone(), ObjectKind::Service, Object::Service, sink));
        let follow = source::follow::<EndpointSlice>;
        tokio::spawn(follow(
            client.clone(),
            everything,
            ObjectKind::EndpointSlice,
            Object::EndpointSlice,
            core.clone(),
        ));
    }
}

fn spawn_core(
    client: &Client,
    config: &Config,
    progress: &Arc<Progress>,
    listeners: Listeners,
    (to_core, inputs): (ToCore, std::sync::mpsc::Receiver<core::Input>),
) -> Result<ServiceMetrics, AgentError> {
    let settings = Arc::new(config.settings.clone());
    let families = families(&settings);
    let mut network: Box<dyn Network> = Box::new(Netlink::open()?);
    let dns = cluster_dns::path_at_start(&mut *network, &settings.cluster_dns)?;
    let backend = Backend { mode: config.proxy_mode, masquerade_mark: MASQUERADE_MARK, dns };
    let (shared, notices) = Shared::new(&families, HEALTHY_WITHIN);
    let (writers, ports) = proxy::writers(&families, &backend, &shared, progress)?;
    let mut programmer = Programmer::new(writers, shared.clone(), Pace::default());
    programmer.take_charge(backend.mode.other());
    let (edited, flushed) = (to_core.clone(), to_core);
    let heard = move |events| edited.0.send(core::Input::Edited(events)).is_ok();
    let flushed = move |family| flushed.0.send(core::Input::Doubt(family)).is_ok();
    proxy::watch_rules(&backend, &families, &ports, heard, flushed)?;
    let routes = RouteWriter::open(network, &config.lan_interface, progress.clone())?;
    let core = Core::new(settings, programmer, routes, listeners, progress.clone());
    answer_about_services(client, config, &shared, notices);
    std::thread::Builder::new()
        .name("core".to_owned())
        .spawn(move || core.run(&inputs))
        .map_err(|source| AgentError::File { what: "cannot start a thread for", path: "core".into(), source })?;
    Ok(ServiceMetrics { metrics: shared.metrics, families })
}

/// Families of the cluster's pods: those that have rules.
fn families(settings: &Settings) -> Vec<Family> {
    let mut families: Vec<Family> = settings.cluster_cidrs.iter().map(|net| Family::of(net.addr())).collect();
    families.sort();
    families.dedup();
    families
}

/// What a node answers to balancers and supervisors, and what it tells those who look after Services.
fn answer_about_services(
    client: &Client,
    config: &Config,
    shared: &Shared,
    notices: mpsc::UnboundedReceiver<proxy::Notice>,
) {
    let Shared { health, metrics, .. } = shared.clone();
    for addr in &config.addresses {
        let page = HealthPage { health: health.clone(), metrics: metrics.clone() };
        proxy::serve_patiently("health checks", (*addr, HEALTHZ_PORT).into(), proxy::health_router(page));
    }
    tokio::spawn(proxy::serve_checks(shared.asked.subscribe(), health, shared.notices.clone()));
    tokio::spawn(proxy::record(notices, Recorder::Cluster(client.clone(), config.settings.node.clone())));
}

/// The mesh runs over the first address; a node without an IPv4 address has no BGP Identifier and no mesh.
fn bgp_config(config: &Config) -> Option<bgp::BgpConfig> {
    let local = *config.addresses.first()?;
    let next_hops = NextHops::of(&config.addresses);
    let mut speaker = SpeakerConfig::new(next_hops.v4?, next_hops);
    speaker.hold_time_secs = config.bgp_hold_time_secs;
    speaker.connect_retry = Duration::from_millis(200);
    speaker.connect_retry_max = Duration::from_secs(2);
    speaker.accept_within = config.settings.cluster_cidrs.clone();
    Some(bgp::BgpConfig { local, speaker, stale_grace: STALE_GRACE })
}

/// Settings of this network namespace that a node cannot do without. Links of pods that a former agent made follow ours.
fn prepare_node(config: &Config) -> Result<(), AgentError> {
    let loopback = u8::from(proxy::opens_loopback(&config.settings, config.proxy_mode));
    let links = Netlink::open()?.links()?;
    let of_pods = links.iter().map(|link| link.name.as_str()).filter(|name| name.starts_with(POD_LINK));
    let routed = of_pods.chain(["all"]).map(|link| (Key::RouteLocalnet(link), loopback));
    for (key, value) in routed.chain([(Key::Ipv4Forward, 1), (Key::Ipv6Forwarding("all"), 1)]) {
        if let Err(error) = sysctl::set(key, value) {
            warn!(%error, "a setting of the node was not written");
        }
    }
    proxy::set_conntrack(&ConntrackSettings::default());
    Ok(())
}

fn lan_mtu(config: &Config) -> Result<u32, AgentError> {
    let links = Netlink::open()?.links()?;
    let lan = links.iter().find(|link| link.name == config.lan_interface);
    let lan = lan.ok_or_else(|| AgentError::NoLan { name: config.lan_interface.clone() })?;
    Ok(config.mtu_bytes.unwrap_or(lan.mtu_bytes))
}
