//! Flags of the service proxy, named as kube-proxy names them. What a flag says, a configuration file says as well; one
//! of the two is used.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use portolan_agent::proxy::Mode;
use portolan_dataplane::conntrack::ConntrackSettings;
use portolan_model::{DetectLocal, IfName, NodePortAddresses};

use crate::failure::Failure;
use crate::proxy::config;
use crate::proxy::mode::{ModeArg, at_hand};
use crate::proxy::wanted::{Wanted, WantedMode, parse_duration};

/// What decides which rules there are.
#[derive(Args, Clone, Debug)]
pub struct ProxyFlags {
    /// A KubeProxyConfiguration, in place of most flags below
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name of our Node object; the machine's name by default
    #[arg(long, visible_alias = "hostname-override", value_name = "NAME")]
    node: Option<String>,
    /// How rules are written
    #[arg(long, value_enum, default_value_t = ModeArg::Auto, conflicts_with = "config")]
    proxy_mode: ModeArg,
    /// Pods' addresses, one range per family
    #[arg(
        long,
        value_name = "CIDR",
        default_value = "10.244.0.0/16",
        value_delimiter = ',',
        conflicts_with = "config"
    )]
    cluster_cidr: Vec<String>,
    /// Services' addresses, one range per family; without --config 10.96.0.0/12 by default
    #[arg(long, visible_alias = "service-cluster-ip-range", value_name = "CIDR", value_delimiter = ',')]
    service_cidr: Option<Vec<String>>,
    /// Masquerade whatever goes to a ClusterIP, pods' packets too
    #[arg(long, conflicts_with = "config")]
    masquerade_all: bool,
    /// How a packet is known to come from a pod of this node
    #[arg(long, value_enum, ignore_case = true, default_value_t = DetectLocalArg::ClusterCidr, conflicts_with = "config")]
    detect_local_mode: DetectLocalArg,
    /// The bridge that pods' packets come by, with --detect-local-mode BridgeInterface
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pod_bridge_interface: Option<String>,
    /// How names of pods' links begin, with --detect-local-mode InterfaceNamePrefix
    #[arg(long, value_name = "PREFIX", conflicts_with = "config")]
    pod_interface_name_prefix: Option<String>,
    /// Where node ports answer: ranges of the node's addresses, or `primary`; by default on every address in iptables
    /// mode, on the Node's own in nftables mode
    #[arg(long, value_name = "CIDR", value_delimiter = ',', conflicts_with = "config")]
    nodeport_addresses: Option<Vec<String>>,
    /// Node ports answer on 127.0.0.1 too (iptables mode)
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true",
          action = clap::ArgAction::Set, conflicts_with = "config")]
    iptables_localhost_nodeports: bool,
    /// Which bit of a packet's mark asks for masquerade
    #[arg(long, visible_alias = "nftables-masquerade-bit", value_name = "BIT", default_value_t = 14,
          value_parser = clap::value_parser!(u8).range(0..32), conflicts_with = "config")]
    iptables_masquerade_bit: u8,
    #[command(flatten)]
    timing: TimingFlags,
    #[command(flatten)]
    servers: ServerFlags,
    #[command(flatten)]
    conntrack: ConntrackFlags,
}

/// When things are done.
#[derive(Args, Clone, Debug)]
struct TimingFlags {
    /// How long a Service that the kernel refused waits for another try; twice as long may a change wait before /healthz
    /// says so. Nothing is written again without need
    #[arg(long, visible_alias = "nftables-sync-period", value_name = "DURATION", value_parser = duration,
          conflicts_with = "config")]
    iptables_sync_period: Option<Duration>,
    /// Least time between two writes; without it a change is written at once, and then every 10 ms at most
    #[arg(long, visible_alias = "nftables-min-sync-period", value_name = "DURATION", value_parser = duration,
          conflicts_with = "config")]
    iptables_min_sync_period: Option<Duration>,
}

/// Who is answered.
#[derive(Args, Clone, Debug)]
struct ServerFlags {
    /// Where /healthz and /livez answer; empty: nowhere
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:10256", conflicts_with = "config")]
    healthz_bind_address: String,
    /// Where /metrics, /proxyMode and /configz answer; empty: nowhere
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:10249", conflicts_with = "config")]
    metrics_bind_address: String,
    /// End if one of these addresses cannot be bound, instead of trying again
    #[arg(long, conflicts_with = "config")]
    bind_address_hard_fail: bool,
}

/// What conntrack is set to at start.
#[derive(Args, Clone, Debug)]
struct ConntrackFlags {
    /// Most conntrack entries per CPU core; 0 leaves the limit
    #[arg(long, value_name = "N", default_value_t = ConntrackSettings::default().max_per_core, conflicts_with = "config")]
    conntrack_max_per_core: u32,
    /// Least limit of conntrack entries, whatever --conntrack-max-per-core says
    #[arg(long, value_name = "N", default_value_t = ConntrackSettings::default().min, conflicts_with = "config")]
    conntrack_min: u32,
    /// How long an established TCP flow may be idle; 0 leaves the kernel's own
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration, conflicts_with = "config")]
    conntrack_tcp_timeout_established: Duration,
    /// How long a TCP flow may be in CLOSE_WAIT; 0 leaves the kernel's own
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration, conflicts_with = "config")]
    conntrack_tcp_timeout_close_wait: Duration,
    /// Take packets outside of the TCP window as a flow's own
    #[arg(long, conflicts_with = "config")]
    conntrack_tcp_be_liberal: bool,
    /// How long a UDP flow without an answer is kept; 0 leaves the kernel's own
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration, conflicts_with = "config")]
    conntrack_udp_timeout: Duration,
    /// How long a UDP flow with answers is kept; 0 leaves the kernel's own
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration, conflicts_with = "config")]
    conntrack_udp_timeout_stream: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DetectLocalArg {
    /// Its source is in --cluster-cidr
    #[value(name = "ClusterCIDR")]
    ClusterCidr,
    /// Its source is in our Node's spec.podCIDRs
    #[value(name = "NodeCIDR")]
    NodeCidr,
    /// It came by --pod-bridge-interface
    #[value(name = "BridgeInterface")]
    BridgeInterface,
    /// It came by a link of --pod-interface-name-prefix
    #[value(name = "InterfaceNamePrefix")]
    InterfaceNamePrefix,
}

impl ProxyFlags {
    /// What is wanted, by the file or by flags. Prints what of the file is not supported.
    ///
    /// # Errors
    /// A file or a flag whose value means nothing.
    pub fn wanted(&self) -> Result<Wanted, Failure> {
        let mut wanted = match &self.config {
            Some(path) => {
                let read = config::read(path, in_force)?;
                read.unsupported.iter().for_each(|line| eprintln!("Warning: --config {}: {line}", path.display()));
                read.wanted
            }
            None => self.by_flags()?,
        };
        wanted.node = self.node.clone().or(wanted.node);
        let flag = |message| Failure::input(format!("--service-cidr: {message}"));
        match (&self.service_cidr, &self.config) {
            (Some(texts), _) => wanted.service_cidrs = ranges(texts.iter().map(String::as_str)).map_err(flag)?,
            (None, Some(_)) => {}
            (None, None) => wanted.service_cidrs = ranges(["10.96.0.0/12"]).map_err(flag)?,
        }
        Ok(wanted)
    }

    fn by_flags(&self) -> Result<Wanted, Failure> {
        let named = |flag: &'static str| move |message: String| Failure::input(format!("{flag}: {message}"));
        let node_ports_on = self.nodeport_addresses.as_deref().map(node_ports_on).transpose();
        Ok(Wanted {
            mode: self.proxy_mode.wanted(),
            cluster_cidrs: ranges(self.cluster_cidr.iter().map(String::as_str)).map_err(named("--cluster-cidr"))?,
            detect_local: self.detect_local()?,
            masquerade_all: self.masquerade_all,
            node_ports_on: node_ports_on.map_err(named("--nodeport-addresses"))?,
            localhost_node_ports: self.iptables_localhost_nodeports,
            masquerade_bit: self.iptables_masquerade_bit,
            sync_period: self.timing.iptables_sync_period,
            min_sync_period: self.timing.iptables_min_sync_period,
            healthz: address(&self.servers.healthz_bind_address).map_err(named("--healthz-bind-address"))?,
            metrics: address(&self.servers.metrics_bind_address).map_err(named("--metrics-bind-address"))?,
            bind_hard_fail: self.servers.bind_address_hard_fail,
            conntrack: ConntrackSettings {
                max_per_core: self.conntrack.conntrack_max_per_core,
                min: self.conntrack.conntrack_min,
                tcp_established_timeout: self.conntrack.conntrack_tcp_timeout_established,
                tcp_close_wait_timeout: self.conntrack.conntrack_tcp_timeout_close_wait,
                tcp_be_liberal: self.conntrack.conntrack_tcp_be_liberal,
                udp_timeout: self.conntrack.conntrack_udp_timeout,
                udp_stream_timeout: self.conntrack.conntrack_udp_timeout_stream,
            },
            ..Wanted::default()
        })
    }

    fn detect_local(&self) -> Result<DetectLocal, Failure> {
        let needs = |flag: &str| Failure::input(format!("--detect-local-mode: this mode needs {flag}; add it"));
        Ok(match self.detect_local_mode {
            DetectLocalArg::ClusterCidr => DetectLocal::ClusterCidr,
            DetectLocalArg::NodeCidr => DetectLocal::NodeCidr,
            DetectLocalArg::BridgeInterface => {
                let name = self.pod_bridge_interface.as_deref().ok_or_else(|| needs("--pod-bridge-interface"))?;
                DetectLocal::BridgeInterface(IfName(name.into()))
            }
            DetectLocalArg::InterfaceNamePrefix => {
                let prefix = self.pod_interface_name_prefix.as_deref();
                DetectLocal::InterfaceNamePrefix(prefix.ok_or_else(|| needs("--pod-interface-name-prefix"))?.into())
            }
        })
    }
}

/// The mode that follows from what is wanted, on this machine.
pub fn in_force(wanted: WantedMode) -> Mode {
    match wanted {
        WantedMode::Given(mode) => mode,
        WantedMode::Auto => at_hand(),
    }
}

/// Ranges of addresses; empty texts are none.
pub fn ranges<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Vec<IpNet>, String> {
    let texts = texts.into_iter().map(str::trim).filter(|text| !text.is_empty());
    texts.map(|text| text.parse().map_err(|e| format!("{text:?}: {e}; write a range such as 10.0.0.0/8"))).collect()
}

/// `nodePortAddresses`.
pub fn node_ports_on(texts: &[String]) -> Result<NodePortAddresses, String> {
    match texts {
        [only] if only == "primary" => Ok(NodePortAddresses::Primary),
        _ if texts.iter().any(|text| text == "primary") => Err("`primary` stands alone, or not at all".to_owned()),
        _ => Ok(match ranges(texts.iter().map(String::as_str))? {
            none if none.is_empty() => NodePortAddresses::Every,
            ranges => NodePortAddresses::Within(ranges),
        }),
    }
}

fn address(text: &str) -> Result<Option<SocketAddr>, String> {
    match text {
        "" => Ok(None),
        _ => text
            .parse()
            .map(Some)
            .map_err(|_| format!("{text:?} is no address and port; write one such as 0.0.0.0:10256")),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write a duration such as 30s, 1h30m or 0s".to_owned())
}
