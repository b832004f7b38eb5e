//! The Kubernetes REST API over the store, as plain `kubectl` speaks it.
//!
//! ```text
//!  TLS ─► handler ─► authn, authz ─► request ─► rest ─► strategy, kinds, alloc ─► store
//!                                      │          └──► table, object (bytes out)
//!                                      ├─► discovery, OpenAPI
//!                                      └─► nodes (logs, exec, proxy to a node's own server)
//! ```
//! Kinds are rows of data in [`registry`]; what a kind needs beyond its row stands in [`strategy`] and
//! [`table`]. Objects are kept as bytes and a small index; they are parsed when written.
//!
//! This room must never know how a Service is routed or a pod is run: it stores wishes and reports.
//!
//! Sources: Kubernetes API conventions (kubernetes/community, sig-architecture), KEP-3352 aggregated
//! discovery, KEP-3157 streaming lists, KEP-3070 ClusterIP bands.

pub mod alloc;
pub mod authn;
pub mod authz;
mod body;
mod bootstrap;
pub mod discovery;
mod handler;
mod node_links;
mod nodes;
pub mod object;
pub mod pki;
pub mod registry;
pub mod request;
mod rest;
pub mod selector;
mod server;
pub mod status;
pub mod strategy;
mod table;
pub mod view;

use std::net::{IpAddr, TcpListener};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnet::IpNet;

pub use server::{Server, serve};

/// How to serve.
pub struct Config {
    /// Bound sockets; every one serves the same API over TLS.
    pub listeners: Vec<TcpListener>,
    /// The store lies in its subfolder `store`. One server per folder.
    pub data_dir: PathBuf,
    pub pki: pki::ServerFiles,
    /// At most one per address family, the default family first; `10.96.0.0/12`.
    pub service_cidrs: Vec<IpNet>,
    /// `30000..=32767`.
    pub node_port_range: RangeInclusive<u16>,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// The address behind the `kubernetes` Service. Its port is that of the listener with this address,
    /// else 6443.
    pub advertise: IpAddr,
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot create the data folder {path}: {source}")]
    DataDir { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] portolan_store::LogError),
    #[error("cannot use a listener: {0}")]
    Listen(std::io::Error),
    #[error("cannot read {path}: {problem}; make the certificates first (pki::ensure)")]
    Pem { path: PathBuf, problem: String },
    #[error("cannot set up TLS: {0}; remove the certificates' folder to make new ones")]
    Tls(String),
    #[error("cannot make the first objects of the cluster: {0}")]
    Bootstrap(String),
    #[error("opening the store failed: {0}")]
    Panicked(String),
}
