//! `portolan server`: the API server and the controllers in one process.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ipnet::IpNet;

use crate::failure::Failure;
use crate::process::told_to_end;
use crate::settings::{BalancerArgs, ClusterArgs};

/// Command line of the control plane.
#[derive(Args, Clone, Debug)]
pub struct ServerArgs {
    /// Where objects are kept
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Where the certificate authority and the server's certificate are, or will be made
    #[arg(long, value_name = "DIR")]
    pki_dir: PathBuf,
    /// Address and port to listen on; repeats
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Vec<SocketAddr>,
    /// A listening socket inherited from the parent process, by number; repeats
    #[arg(long, value_name = "FD")]
    listen_fd: Vec<RawFd>,
    /// Address behind the Service `kubernetes`
    #[arg(long, value_name = "IP")]
    advertise: IpAddr,
    /// Seconds without a heartbeat after which a node counts as unreachable
    #[arg(long, value_name = "SECS", default_value_t = 40)]
    node_grace_secs: u64,
    #[command(flatten)]
    balancer: BalancerArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Ports that a Service of type NodePort may have.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;
/// Blocks that nodes get: Calico's sizes.
const NODE_MASK_V4: u8 = 26;
const NODE_MASK_V6: u8 = 122;

/// Serves until the process is told to end.
///
/// # Errors
/// The address is taken, the data cannot be read, the certificates cannot be made.
pub async fn run(args: ServerArgs) -> Result<(), Failure> {
    args.balancer.check(&args.cluster)?;
    let listeners = listeners(&args)?;
    let pki = pki(&args)?;
    let local = listeners
        .first()
        .and_then(|l| l.local_addr().ok())
        .ok_or_else(|| Failure::input("give --listen or --listen-fd"))?;
    let config = portolan_apiserver::Config {
        listeners,
        data_dir: args.data_dir.clone(),
        pki: pki.server_files(),
        service_cidrs: args.cluster.service_cidr.clone(),
        node_port_range: NODE_PORTS,
        cluster_domain: args.cluster.cluster_domain.clone(),
        advertise: args.advertise,
    };
    let server = portolan_apiserver::serve(config).await.map_err(Failure::no)?;
    let client = admin(&pki, local).await?;
    let controllers = portolan_controllers::run(client, controller_config(&args.cluster.cluster_cidr, &args));
    tokio::select! {
        ended = controllers => ended.map_err(|e| Failure::no(format!("the controllers ended: {e}"))),
        () = server.stopped() => Err(Failure::no("the API server ended")),
        () = told_to_end() => Ok(()),
    }
}

fn controller_config(cluster_cidrs: &[IpNet], args: &ServerArgs) -> portolan_controllers::Config {
    portolan_controllers::Config {
        cluster_cidrs: cluster_cidrs.to_vec(),
        node_mask_v4: NODE_MASK_V4,
        node_mask_v6: NODE_MASK_V6,
        cluster_dns: args.cluster.cluster_dns.clone(),
        cluster_domain: args.cluster.cluster_domain.clone(),
        balancer_pools: args.balancer.lb_pool.clone(),
        node_monitor_grace: Duration::from_secs(args.node_grace_secs),
    }
}

fn listeners(args: &ServerArgs) -> Result<Vec<TcpListener>, Failure> {
    let mut listeners = Vec::new();
    for addr in &args.listen {
        let bound = TcpListener::bind(addr)
            .map_err(|e| Failure::machine(format!("cannot bind {addr}/tcp: {e}; stop what uses it or set --listen")))?;
        listeners.push(bound);
    }
    for fd in &args.listen_fd {
        // SAFETY: the parent process says that this number is a listening socket meant for us; nothing else owns it.
        listeners.push(unsafe { TcpListener::from_raw_fd(*fd) });
    }
    Ok(listeners)
}

fn pki(args: &ServerArgs) -> Result<portolan_apiserver::pki::Pki, Failure> {
    let mut names: Vec<String> =
        ["127.0.0.1", "::1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
            .map(str::to_owned)
            .to_vec();
    names.push(format!("kubernetes.default.svc.{}", args.cluster.cluster_domain));
    names.push(args.advertise.to_string());
    names.extend(args.listen.iter().map(|addr| addr.ip()).filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string()));
    names.extend(args.cluster.service_cidr.iter().filter_map(|net| net.hosts().next()).map(|ip| ip.to_string()));
    portolan_apiserver::pki::ensure(&args.pki_dir, &names).map_err(Failure::no)
}

/// The controllers' own client, with an administrator's certificate.
async fn admin(pki: &portolan_apiserver::pki::Pki, local: SocketAddr) -> Result<kube::Client, Failure> {
    let host = if local.ip().is_unspecified() { "127.0.0.1".to_owned() } else { local.ip().to_string() };
    let keys = pki.client("system:kube-controller-manager", &["system:masters"]).map_err(Failure::no)?;
    let text = pki.kubeconfig(&format!("https://{host}:{}", local.port()), &keys);
    let parsed = kube::config::Kubeconfig::from_yaml(&text).map_err(Failure::no)?;
    let config = kube::Config::from_custom_kubeconfig(parsed, &Default::default()).await.map_err(Failure::no)?;
    kube::Client::try_from(config).map_err(Failure::no)
}
