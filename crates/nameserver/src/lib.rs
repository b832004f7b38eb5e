//! Cluster DNS on the wire: listeners, the task behind them, connections to upstreams.
//!
//! ```text
//!  udp/tcp :53 ──► listen ──► Site::answer_now ──► reply
//!                    │ later      ▲ each new site
//!                    ▼            │
//!  upstream sockets ─► task: dns::Server ──► effects ──► sockets
//!                       ▲
//!  Handle: zones, pods, configuration; files
//! ```
//!
//! [`start`] gives a [`Handle`]; whoever holds it feeds the nameserver and asks it. Deciding is `portolan_dns`'s; this room
//! carries bytes. It knows no Kubernetes API and no agent.

mod files;
mod handle;
mod listen;
mod metrics;
mod pages;
mod programming;
mod task;
pub mod upstream;

use std::net::SocketAddr;
use std::path::Path;

use portolan_dns::{Corefile, Name};
use portolan_model::{Settings, Snapshot};

pub use handle::{ConfigError, Handle, Listen, Options, Source};
pub use listen::Listener;
pub use portolan_dns::explain::{Explanation, Inquiry};
pub use portolan_dns::{ClientPod, PodsChange};
pub use programming::ProgrammedKind;

/// Why DNS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The address is taken, or not ours.
    #[error("cannot bind {addr}/{transport}: {source}; {}", way_out(source))]
    Bind {
        /// Where.
        addr: SocketAddr,
        /// `udp` or `tcp`.
        transport: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The machine lacks descriptors or threads.
    #[error("cannot start the threads that answer: {0}; raise the limits of open files and of processes")]
    Threads(std::io::Error),
    /// The cluster domain is no name.
    #[error("the cluster domain {domain:?} is no DNS name: {reason}")]
    Domain {
        /// As given.
        domain: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

fn way_out(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrNotAvailable => "this machine does not have it; choose an address that `ip addr` shows",
        std::io::ErrorKind::PermissionDenied => "ports below 1024 are root's; be root or choose another port",
        _ => "stop the other DNS server there or choose another address",
    }
}

/// Starts a nameserver in this runtime. It knows nothing of the cluster yet: until [`Handle::zones`] was told the whole,
/// names of the cluster that it does not know are SERVFAIL.
///
/// # Errors
/// An address cannot be bound; the cluster domain is no name; the configuration cannot be used.
pub async fn start(options: Options) -> Result<Handle, DnsError> {
    task::start(options, None).await
}

/// As [`start`], for a cluster that is known in full already: no query hears that its name is not known yet. What changes
/// is told by [`Handle::zones`].
///
/// # Errors
/// As [`start`].
pub async fn start_knowing(options: Options, snapshot: &Snapshot) -> Result<Handle, DnsError> {
    task::start(options, Some(snapshot)).await
}

/// The configuration that Portolan comes with, for a cluster of these settings.
///
/// # Errors
/// The cluster domain is no name.
pub fn shipped(settings: &Settings, ttl_secs: u32, resolv_conf: &Path) -> Result<Corefile, DnsError> {
    let zone = Name::parse(&settings.cluster_domain).map_err(|reason| domain_error(settings, &reason))?;
    Ok(Corefile::shipped(&zone, ttl_secs, &resolv_conf.to_string_lossy()))
}

fn domain_error(settings: &Settings, reason: &dyn std::fmt::Display) -> DnsError {
    DnsError::Domain { domain: settings.cluster_domain.to_string(), reason: reason.to_string() }
}
