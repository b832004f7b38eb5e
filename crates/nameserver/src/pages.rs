//! Pages about this DNS over HTTP: `/health`, `/ready` and `/metrics`, at the addresses that the configuration names.
//!
//! A page whose address cannot be bound is told of once and tried again each second: names are answered all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use portolan_dns::Corefile;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::AbortHandle;
use tracing::{info, warn};

use crate::Handle;

/// What a page is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Health,
    Metrics,
    Ready {
        /// It may be taken back.
        continuously: bool,
    },
}

/// The pages at work. Dropped, they are closed.
pub(crate) struct Pages {
    handle: Handle,
    /// For pages without an address of their own: of health and readiness, and of metrics too.
    addresses: (Vec<IpAddr>, Vec<IpAddr>),
    wanted: BTreeMap<SocketAddr, BTreeSet<Kind>>,
    open: BTreeMap<SocketAddr, (BTreeSet<Kind>, AbortHandle)>,
    complained: BTreeSet<SocketAddr>,
}

impl Pages {
    pub(crate) fn new(handle: Handle, addresses: (Vec<IpAddr>, Vec<IpAddr>)) -> Self {
        Self { handle, addresses, wanted: BTreeMap::new(), open: BTreeMap::new(), complained: BTreeSet::new() }
    }

    /// Moves to what `config` names.
    pub(crate) fn configure(&mut self, config: &Corefile) {
        self.wanted.clear();
        for (kind, addr) in named(config) {
            for addr in self.addresses_of(kind, addr) {
                self.wanted.entry(addr).or_default().insert(kind);
            }
        }
        let wanted = &self.wanted;
        self.open.retain(|addr, (kinds, task)| {
            let stays = wanted.get(addr) == Some(kinds);
            if !stays {
                task.abort();
            }
            stays
        });
        self.complained.clear();
        self.look();
    }

    /// Opens what is not open yet.
    pub(crate) fn look(&mut self) {
        for (addr, kinds) in &self.wanted {
            if self.open.contains_key(addr) {
                continue;
            }
            match bind(*addr) {
                Ok(listener) => {
                    let names: Vec<&str> = kinds.iter().map(|kind| kind.path()).collect();
                    info!(%addr, "pages: {}", names.join(", "));
                    let router = router(self.handle.clone(), kinds);
                    let task = tokio::spawn(async move { drop(axum::serve(listener, router).await) });
                    self.open.insert(*addr, (kinds.clone(), task.abort_handle()));
                    self.complained.remove(addr);
                }
                Err(error) if self.complained.insert(*addr) => complain(*addr, kinds, &error),
                Err(_) => {}
            }
        }
    }

    fn addresses_of(&self, kind: Kind, addr: SocketAddr) -> Vec<SocketAddr> {
        let of_kind = if kind == Kind::Metrics { &self.addresses.1 } else { &self.addresses.0 };
        match addr.ip().is_unspecified() && !of_kind.is_empty() {
            true => of_kind.iter().map(|ip| SocketAddr::new(*ip, addr.port())).collect(),
            false => vec![addr],
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.open.values().for_each(|(_, task)| task.abort());
    }
}

impl Kind {
    fn path(self) -> &'static str {
        match self {
            Self::Health => "/health",
            Self::Metrics => "/metrics",
            Self::Ready { .. } => "/ready",
        }
    }
}

fn named(config: &Corefile) -> impl Iterator<Item = (Kind, SocketAddr)> {
    config.blocks.iter().flat_map(|block| {
        let health = block.health.as_ref().map(|health| (Kind::Health, health.listen));
        let ready = block.ready.as_ref().map(|ready| (Kind::Ready { continuously: ready.continuously }, ready.listen));
        health.into_iter().chain(ready).chain(block.metrics.map(|addr| (Kind::Metrics, addr)))
    })
}

/// Tells once of an address that cannot be had for now.
fn complain(addr: SocketAddr, kinds: &BTreeSet<Kind>, error: &std::io::Error) {
    let names: Vec<&str> = kinds.iter().map(|kind| kind.path()).collect();
    let names = names.join(", ");
    // An agent puts the cluster's address on `lo` a little later.
    if error.kind() == std::io::ErrorKind::AddrNotAvailable {
        info!("{names} will be served at {addr} when this machine has that address");
        return;
    }
    warn!(
        "cannot serve {names} at {addr}: {error}; names are answered all the same; stop what is there or name another \
         address in the Corefile"
    );
}

/// An address may come to this machine later, or be left in TIME-WAIT by who had it before.
fn bind(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(64)
}

struct Asked {
    handle: Handle,
    continuously: bool,
    /// It was ready once.
    was_ready: AtomicBool,
}

fn router(handle: Handle, kinds: &BTreeSet<Kind>) -> Router {
    let continuously = kinds.contains(&Kind::Ready { continuously: true });
    let once = Kind::Ready { continuously: false };
    let state = Arc::new(Asked { handle, continuously, was_ready: AtomicBool::new(false) });
    let mut router = Router::new();
    // Of two blocks with one address the stricter is right.
    for kind in kinds.iter().filter(|kind| !continuously || **kind != once) {
        router = match kind {
            Kind::Health => router.route("/health", get(async || "OK")),
            Kind::Metrics => router.route("/metrics", get(metrics)),
            Kind::Ready { .. } => router.route("/ready", get(ready)),
        };
    }
    router.with_state(state)
}

async fn metrics(State(asked): State<Arc<Asked>>) -> ([(&'static str, &'static str); 1], String) {
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], asked.handle.metrics_text().await)
}

async fn ready(State(asked): State<Arc<Asked>>) -> (StatusCode, String) {
    let reasons = asked.handle.unready();
    if reasons.is_empty() {
        asked.was_ready.store(true, Ordering::Relaxed);
    }
    if reasons.is_empty() || !asked.continuously && asked.was_ready.load(Ordering::Relaxed) {
        return (StatusCode::OK, "OK".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n"))
}
