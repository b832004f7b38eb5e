//! `portolan agent`: one node.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use portolan_agent::Limits;
use portolan_pods::{CgroupRoots, NodeLimits};

use crate::failure::Failure;
use crate::settings::{BalancerArgs, ClusterArgs};

/// Command line of a node's agent.
#[derive(Args, Clone, Debug)]
pub struct AgentArgs {
    /// Name of the Node object
    #[arg(long)]
    node: String,
    /// The node's addresses on the LAN, one per family
    #[arg(long, value_name = "IP", required = true, value_delimiter = ',')]
    node_ip: Vec<IpAddr>,
    /// How to reach the API server
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Where the node keeps pods, leases and sockets
    #[arg(long, value_name = "DIR", default_value = "/run/portolan")]
    state_dir: PathBuf,
    /// Where container images are kept
    #[arg(long, value_name = "DIR")]
    image_store: PathBuf,
    /// The link to the other nodes
    #[arg(long, value_name = "NAME", default_value = "eth0")]
    lan_interface: String,
    /// Certificate of the node's own HTTPS API
    #[arg(long, value_name = "FILE")]
    tls_cert: PathBuf,
    /// Its key
    #[arg(long, value_name = "FILE")]
    tls_key: PathBuf,
    /// Authority whose client certificates the node's API takes
    #[arg(long, value_name = "FILE")]
    client_ca: PathBuf,
    /// The node's resolv.conf: upstreams of its DNS
    #[arg(long, value_name = "FILE", default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,
    /// How rules of Services are written
    #[arg(long, value_enum, default_value_t = crate::proxy::ModeArg::Auto)]
    proxy_mode: crate::proxy::ModeArg,
    /// Seconds between two renewals of the node's Lease
    #[arg(long, value_name = "SECS", default_value_t = 10)]
    heartbeat_secs: u64,
    /// Seconds without a word after which a BGP session is over; at least 3
    #[arg(long, value_name = "SECS", default_value_t = 90, value_parser = clap::value_parser!(u16).range(3..))]
    bgp_hold_secs: u16,
    /// Largest packet on pods' links, in bytes; unset takes the LAN link's
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u32>,
    #[command(flatten)]
    registries: crate::image::RegistryArgs,
    /// Limit containers by cgroups below these folders: memory=DIR,cpu=DIR,pids=DIR, or unified=DIR
    #[arg(long, value_name = "DIRS", value_parser = parse_limits, conflicts_with = "limits_refused")]
    limits_below: Option<CgroupRoots>,
    /// Most processes and threads of a pod, where containers are limited
    #[arg(long, value_name = "N", default_value_t = portolan_lab::DEFAULT_POD_PIDS)]
    pod_pids_limit: u32,
    /// Say on the Node why limits that were asked for are not enforced
    #[arg(long, value_name = "REASON", hide = true)]
    limits_refused: Option<String>,
    /// Ask for images at this socket instead of asking registries from here
    #[arg(long, value_name = "SOCKET", hide = true)]
    image_broker: Option<PathBuf>,
    #[command(flatten)]
    balancer: BalancerArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

fn parse_limits(text: &str) -> Result<CgroupRoots, String> {
    CgroupRoots::parse(text).ok_or_else(|| "write memory=DIR,cpu=DIR,pids=DIR, or unified=DIR".to_owned())
}

/// Runs the node until the process is told to end.
///
/// # Errors
/// The kubeconfig or certificates cannot be read, or the kernel lacks something.
pub async fn run(args: AgentArgs) -> Result<(), Failure> {
    args.balancer.check(&args.cluster)?;
    let client = crate::client::connect_from_afar(args.kubeconfig).await?;
    let exe = std::env::current_exe().map_err(|e| Failure::machine(format!("cannot find this program: {e}")))?;
    let proxy_mode = crate::proxy::in_force(args.proxy_mode.wanted());
    let config = portolan_agent::Config {
        settings: crate::proxy::settings_of(args.cluster.settings(&args.node), proxy_mode),
        proxy_mode,
        addresses: args.node_ip,
        state_dir: args.state_dir,
        image_store: args.image_store,
        lan_interface: args.lan_interface,
        balancer_pools: args.balancer.lb_pool,
        tls_cert: args.tls_cert,
        tls_key: args.tls_key,
        client_ca: args.client_ca,
        resolv_conf: args.resolv_conf,
        heartbeat: Duration::from_secs(args.heartbeat_secs),
        bgp_hold_time_secs: args.bgp_hold_secs,
        mtu_bytes: args.mtu,
        limits: match (args.limits_below, args.limits_refused) {
            (Some(roots), _) => Limits::Enforced(NodeLimits { roots, pod_pids: args.pod_pids_limit.into() }),
            (None, Some(reason)) => Limits::Refused(reason),
            (None, None) => Limits::NotAsked,
        },
        registries: args.registries.options(),
        image_broker: args.image_broker,
        dns_ttl_secs: crate::settings::DNS_TTL_SECS,
        exe,
    };
    portolan_agent::run(client, config, crate::process::told_to_end()).await.map_err(Failure::machine)
}
