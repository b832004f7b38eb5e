//! Cluster DNS on the wire: listeners, the task behind them, connections to upstreams.
//!
//! ```text
//!  udp/tcp :53 ──► listen ──┐
//!  upstream sockets ────────┼─► task: dns::Server ──► effects ──► sockets
//!  snapshots, resolv.conf ──┘
//! ```
//!
//! Deciding is `portolan_dns`'s; this room carries bytes. It knows no Kubernetes object and no agent.

mod listen;
mod task;
mod upstream;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use portolan_dns::records::Records;
use portolan_dns::zone::ZoneConfig;
use portolan_model::{Delta, Snapshot};
use tokio::sync::{mpsc, oneshot};
use tracing::info;

pub use listen::Listener;
pub use task::run;

/// Why DNS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The address is taken, or not ours.
    #[error("cannot bind {addr}/{transport}: {source}; stop the other DNS server there or choose another address")]
    Bind {
        /// Where.
        addr: SocketAddr,
        /// `udp` or `tcp`.
        transport: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The cluster domain is no name.
    #[error("the cluster domain {domain:?} is no DNS name: {reason}")]
    Domain {
        /// As given.
        domain: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// What the DNS task is told by others.
pub enum Told {
    /// A new snapshot, what changed in it, and whether the cluster was told whole.
    Snapshot(Arc<Snapshot>, Delta, bool),
    /// One more address to answer at.
    Listen(Listener),
    /// Asks for all records, as they are answered from.
    Records(oneshot::Sender<Records>),
    /// Asks for the counters.
    Status(oneshot::Sender<serde_json::Value>),
}

/// Serves a snapshot that never changes, until the process ends: `portolan dns -f`.
///
/// # Errors
/// The address cannot be bound; the cluster domain is no name.
pub async fn serve_snapshot(
    snapshot: Snapshot,
    listen: SocketAddr,
    resolv_conf: &Path,
    ttl_secs: u32,
) -> Result<(), DnsError> {
    let mut config = zone_config(&snapshot)?;
    config.ttl_secs = ttl_secs;
    let records = Records::from_snapshot(config, &snapshot);
    let listener = Listener::bind(listen).await?;
    info!(%listen, "cluster DNS answers");
    let (_told, from_others) = mpsc::unbounded_channel();
    run(records, vec![listener], resolv_conf.to_owned(), vec![listen.ip()], from_others).await;
    Ok(())
}

/// The zone's settings as a snapshot's cluster has them.
pub fn zone_config(snapshot: &Snapshot) -> Result<ZoneConfig, DnsError> {
    ZoneConfig::from_settings(&snapshot.settings).map_err(|reason| DnsError::Domain {
        domain: snapshot.settings.cluster_domain.to_string(),
        reason: reason.to_string(),
    })
}
