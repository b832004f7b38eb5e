//! Connections to upstreams: what `portolan_dns::forward` wants sent goes out here, and what comes back goes to whoever
//! holds the receiver.
//!
//! ```text
//!  Sending ──► Dialer ─┬─ Udp    a socket and a random port for each query (RFC 5452)
//!                      ├─ Tcp    a few connections per server, many queries at once on each (RFC 7766)
//!                      ├─ Tls    the same under TLS (RFC 7858)
//!                      └─ Https  one connection per server, a stream for each query (RFC 8484)
//!  replies, failures ──► Heard
//! ```
//!
//! A connection that breaks fails its exchanges at once. Nothing here decides whom to ask, or what a reply is worth.

mod https;
mod reuse;
mod stream;
mod tls;
mod udp;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use portolan_dns::corefile::config::Target;
use portolan_dns::forward::Exchange;
use portolan_dns::forward::step::{Peer, Sending, Way};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tracing::debug;

use reuse::Reuse;
pub(crate) use reuse::Reused;
use stream::Lines;
use tls::Configs;

/// UDP sockets at once; more queries wait for one, as long as whoever asks waits.
const SOCKETS: usize = 4096;
/// Peers whose connections are remembered while nobody uses them.
const IDLE_PEERS: usize = 64;

/// What became of a [`Sending`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A datagram, or a message of a stream without its length.
    Reply {
        /// The attempt that it came for.
        exchange: Exchange,
        /// The message.
        bytes: Vec<u8>,
    },
    /// It could not be sent, or the connection broke.
    Failed {
        /// The attempt.
        exchange: Exchange,
        /// What failed, at which server.
        why: String,
    },
}

/// All sockets and connections to upstreams.
pub struct Dialer {
    heard: mpsc::Sender<Heard>,
    sockets: Arc<Semaphore>,
    open: BTreeMap<Exchange, Open>,
    lines: BTreeMap<(Arc<Peer>, Way), Lines>,
    https: BTreeMap<Arc<Peer>, https::Client>,
    /// Of every server that was asked since the start.
    reuse: BTreeMap<(Arc<Peer>, Way), Arc<Reuse>>,
    tls: Configs,
}

/// How an exchange is forgotten.
enum Open {
    Task(AbortHandle),
    Line(stream::Ticket),
}

impl Dialer {
    /// A dialer whose news come by `heard`. A slow reader holds back the upstreams, never the memory.
    pub fn new(heard: mpsc::Sender<Heard>) -> Self {
        Self {
            heard,
            sockets: Arc::new(Semaphore::new(SOCKETS)),
            open: BTreeMap::new(),
            lines: BTreeMap::new(),
            https: BTreeMap::new(),
            reuse: BTreeMap::new(),
            tls: Configs::default(),
        }
    }

    /// Sends a query; what comes of it is heard. Needs a runtime of tokio's.
    pub fn send(&mut self, sending: Sending) {
        let exchange = sending.exchange;
        let open = match (&sending.peer.target, sending.way) {
            (Target::Plain(addr), Way::Udp) => {
                self.reuse_of(&sending.peer, Way::Udp).count(false);
                let (addr, sockets, heard) = (*addr, self.sockets.clone(), self.heard.clone());
                Open::Task(tokio::spawn(udp::ask(sending, addr, sockets, heard)).abort_handle())
            }
            (Target::Plain(addr) | Target::Tls(addr), way @ (Way::Tcp | Way::Tls)) => {
                match self.line(&sending.peer.clone(), way, *addr) {
                    Ok(lines) => Open::Line(lines.send(sending)),
                    Err(why) => return self.fail(exchange, &sending.peer, &why),
                }
            }
            (Target::Https { .. }, Way::Https) => match self.http(&sending.peer.clone()) {
                Ok(client) => Open::Task(client.send(sending)),
                Err(why) => return self.fail(exchange, &sending.peer, &why),
            },
            (_, way) => return self.fail(exchange, &sending.peer, &format!("cannot be asked by {way:?}")),
        };
        self.open.insert(exchange, open);
    }

    /// Forgets an exchange: its socket is closed; of its stream, its reply is of no use.
    pub fn close(&mut self, exchange: Exchange) {
        match self.open.remove(&exchange) {
            Some(Open::Task(task)) => task.abort(),
            Some(Open::Line(ticket)) => ticket.forget(exchange),
            None => {}
        }
    }

    /// How often connections were there already, by server and way.
    pub(crate) fn reused(&self) -> Vec<Reused> {
        self.reuse.iter().map(|((peer, way), reuse)| reuse.read(peer.to_string(), *way)).collect()
    }

    fn reuse_of(&mut self, peer: &Arc<Peer>, way: Way) -> Arc<Reuse> {
        self.reuse.entry((peer.clone(), way)).or_default().clone()
    }

    fn line(&mut self, peer: &Arc<Peer>, way: Way, addr: SocketAddr) -> Result<&mut Lines, String> {
        if self.lines.len() > IDLE_PEERS {
            self.lines.retain(|_, lines| !lines.is_idle());
        }
        let key = (peer.clone(), way);
        if !self.lines.contains_key(&key) {
            let tls = match way {
                Way::Tls => Some(self.tls.connector(&peer.tls, addr, None).map_err(|error| error.to_string())?),
                _ => None,
            };
            let lines = Lines::new(addr, tls, peer.expire, self.heard.clone(), self.reuse_of(peer, way));
            self.lines.insert(key.clone(), lines);
        }
        Ok(self.lines.get_mut(&key).expect("it was put there above"))
    }

    fn http(&mut self, peer: &Arc<Peer>) -> Result<&https::Client, String> {
        if self.https.len() > IDLE_PEERS {
            self.https.retain(|_, client| !client.is_idle());
        }
        if !self.https.contains_key(peer) {
            let reuse = self.reuse_of(peer, Way::Https);
            let client = https::Client::new(peer, &mut self.tls, self.heard.clone(), reuse)?;
            self.https.insert(peer.clone(), client);
        }
        Ok(&self.https[peer])
    }

    fn fail(&self, exchange: Exchange, peer: &Peer, why: &str) {
        let why = format!("{peer}: {why}");
        let heard = self.heard.clone();
        tokio::spawn(async move { tell_failure(&heard, exchange, why).await });
    }
}

async fn tell(heard: &mpsc::Sender<Heard>, exchange: Exchange, bytes: Vec<u8>) {
    // Whoever asked may be gone with the process.
    let _ = heard.send(Heard::Reply { exchange, bytes }).await;
}

async fn tell_failure(heard: &mpsc::Sender<Heard>, exchange: Exchange, why: String) {
    debug!(%why, "an upstream cannot be asked");
    // Whoever asked may be gone with the process.
    let _ = heard.send(Heard::Failed { exchange, why }).await;
}
