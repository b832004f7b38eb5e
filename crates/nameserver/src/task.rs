//! The one task that owns the server of `portolan_dns`: what cannot be answered at once passes through it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portolan_dns::forward::{Exchange, ForwardConfig};
use portolan_dns::records::Records;
use portolan_dns::resolvconf;
use portolan_dns::server::{Effect, Server, Token};
use portolan_dns::wire::Transport;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

use crate::Told;
use crate::listen::Listener;
use crate::upstream::{ask_tcp, ask_udp};

/// DNS over UDP never exceeds this.
pub(crate) const DATAGRAM_BYTES: usize = 65_535;
/// How often resolv.conf is looked at: new upstreams are asked within 5 s of a change.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A client that has no answer by now gets none: the forwarder gave up long ago.
const CLIENT_LIFE: Duration = Duration::from_secs(15);

pub(crate) enum Event {
    Udp { from: SocketAddr, socket: Arc<UdpSocket>, packet: Vec<u8> },
    Tcp { packet: Vec<u8>, reply: oneshot::Sender<Vec<u8>> },
    Upstream { exchange: Exchange, packet: Vec<u8> },
    Failed { exchange: Exchange },
}

enum Client {
    Udp { to: SocketAddr, socket: Arc<UdpSocket> },
    Tcp(oneshot::Sender<Vec<u8>>),
}

/// Serves until the senders of `told` are gone and no listener is left; that is, as long as the process lives.
pub async fn run(
    records: Records,
    listeners: Vec<Listener>,
    resolv_conf: PathBuf,
    own: Vec<IpAddr>,
    mut told: mpsc::UnboundedReceiver<Told>,
) {
    let (events, mut from_sockets) = mpsc::unbounded_channel();
    let listening = listeners.iter().filter_map(Listener::address).collect();
    listeners.into_iter().for_each(|listener| listener.open(&events));
    let mut task = Task {
        server: Server::new(records, ForwardConfig::default(), Vec::new()),
        clients: BTreeMap::new(),
        exchanges: BTreeMap::new(),
        next_token: 0,
        started: Instant::now(),
        events,
        resolv_conf: Watched { path: resolv_conf, own, text: None },
        listening,
        replies: Replies::default(),
    };
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut open = true;
    loop {
        let deadline = task.deadline();
        tokio::select! {
            Some(event) = from_sockets.recv() => task.event(event),
            message = told.recv(), if open => match message {
                Some(message) => task.told(message),
                None => open = false,
            },
            _ = look.tick() => task.look(),
            () = tokio::time::sleep_until(deadline.into()) => {
                let now = task.now();
                let effects = task.server.tick(now, &mut random_id);
                task.carry_out(effects);
            }
        }
    }
}

struct Task {
    server: Server,
    clients: BTreeMap<Token, (Client, Instant)>,
    exchanges: BTreeMap<Exchange, tokio::task::AbortHandle>,
    next_token: u64,
    started: Instant,
    events: mpsc::UnboundedSender<Event>,
    resolv_conf: Watched,
    /// Addresses that are answered at, UDP and TCP.
    listening: Vec<IpAddr>,
    replies: Replies,
}

/// Replies by their RCODE (RFC 1035 §4.1.1).
#[derive(Default)]
struct Replies {
    no_error: u64,
    serv_fail: u64,
    nx_domain: u64,
    other: u64,
}

impl Replies {
    fn count(&mut self, reply: &[u8]) {
        let rcode = reply.get(3).map(|flags| flags & 0xf);
        *match rcode {
            Some(0) => &mut self.no_error,
            Some(2) => &mut self.serv_fail,
            Some(3) => &mut self.nx_domain,
            _ => &mut self.other,
        } += 1;
    }
}

/// A file whose content is compared each time it is looked at.
struct Watched {
    path: PathBuf,
    own: Vec<IpAddr>,
    text: Option<String>,
}

impl Task {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn deadline(&self) -> Instant {
        let far = self.started + self.now() + Duration::from_secs(60);
        self.server.next_deadline().map_or(far, |at| self.started + at)
    }

    fn told(&mut self, message: Told) {
        match message {
            Told::Snapshot(snapshot, delta, whole) => {
                let records = self.server.records_mut();
                if !records.update(&snapshot, &delta).names.is_empty() {
                    records.set_serial(serial_now());
                }
                if whole {
                    records.mark_synced();
                }
            }
            Told::Listen(listener) => {
                self.listening.extend(listener.address());
                listener.open(&self.events);
            }
            Told::Records(reply) => {
                // The asker may have gone.
                let _ = reply.send(self.server.records_mut().clone());
            }
            Told::Status(reply) => {
                // The asker may have gone.
                let _ = reply.send(self.status());
            }
        }
    }

    fn status(&self) -> serde_json::Value {
        let counts = self.server.counts();
        let upstreams: Vec<String> = self.server.upstreams().iter().map(|u| u.addr.to_string()).collect();
        serde_json::json!({
            "queries": counts.queries, "fromZones": counts.from_zones, "fromCache": counts.from_cache,
            "forwarded": counts.forwarded, "refused": counts.refused, "unanswered": counts.unanswered,
            "upstreams": upstreams, "listening": self.listening,
            "replies": {
                "NOERROR": self.replies.no_error, "SERVFAIL": self.replies.serv_fail,
                "NXDOMAIN": self.replies.nx_domain, "other": self.replies.other,
            },
        })
    }

    fn event(&mut self, event: Event) {
        let now = self.now();
        let effects = match event {
            Event::Udp { from, socket, packet } => {
                let token = self.client(Client::Udp { to: from, socket });
                self.query(token, &packet, Transport::Udp, now)
            }
            Event::Tcp { packet, reply } => {
                let token = self.client(Client::Tcp(reply));
                self.query(token, &packet, Transport::Tcp, now)
            }
            Event::Upstream { exchange, packet } => self.server.handle_upstream(exchange, &packet, now, &mut random_id),
            Event::Failed { exchange } => {
                self.exchanges.remove(&exchange);
                self.server.handle_failure(exchange, now, &mut random_id)
            }
        };
        self.carry_out(effects);
    }

    fn query(&mut self, token: Token, packet: &[u8], transport: Transport, now: Duration) -> Vec<Effect> {
        self.server.handle_query(token, packet, transport, now, &mut random_id)
    }

    fn client(&mut self, client: Client) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        self.clients.insert(token, (client, Instant::now()));
        token
    }

    /// Forgets clients whose query got silence for an answer, then looks whether the upstreams changed.
    fn look(&mut self) {
        self.clients.retain(|_, (_, since)| since.elapsed() < CLIENT_LIFE);
        let text = match std::fs::read_to_string(&self.resolv_conf.path) {
            Ok(text) => text,
            Err(error) => {
                debug!(%error, "cannot read {}; the upstreams stay", self.resolv_conf.path.display());
                return;
            }
        };
        if self.resolv_conf.text.as_ref() == Some(&text) {
            return;
        }
        let (conf, mut complaints) = resolvconf::parse(&text);
        let (upstreams, loops) = resolvconf::upstreams(&conf, &self.resolv_conf.own);
        complaints.extend(loops);
        complaints.iter().for_each(|complaint| warn!("{complaint}"));
        info!(?upstreams, "upstreams read from {}", self.resolv_conf.path.display());
        self.resolv_conf.text = Some(text);
        let now = self.now();
        let effects = self.server.set_upstreams(upstreams, now, &mut random_id);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Reply { token, bytes } => self.reply(token, bytes),
                Effect::SendUdp { exchange, upstream, bytes } => {
                    let asking = ask_udp(exchange, upstream, bytes, self.events.clone());
                    self.exchanges.insert(exchange, tokio::spawn(asking).abort_handle());
                }
                Effect::SendTcp { exchange, upstream, bytes } => {
                    let asking = ask_tcp(exchange, upstream, bytes, self.events.clone());
                    self.exchanges.insert(exchange, tokio::spawn(asking).abort_handle());
                }
                Effect::Close(exchange) => {
                    if let Some(task) = self.exchanges.remove(&exchange) {
                        task.abort();
                    }
                }
            }
        }
    }

    fn reply(&mut self, token: Token, bytes: Vec<u8>) {
        self.replies.count(&bytes);
        match self.clients.remove(&token) {
            Some((Client::Udp { to, socket }, _)) => match socket.try_send_to(&bytes, to) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    tokio::spawn(async move { socket.send_to(&bytes, to).await });
                }
                Err(error) => debug!(%to, %error, "a reply could not be sent"),
            },
            Some((Client::Tcp(reply), _)) => {
                // The client may have hung up.
                let _ = reply.send(bytes);
            }
            None => {}
        }
    }
}

/// The zones' serial: the time of their last change, in seconds since 1970 modulo 2^32 (RFC 1982).
fn serial_now() -> u32 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs() & u64::from(u32::MAX)).unwrap_or_default()
}

/// A transaction id that nobody can guess.
fn random_id() -> u16 {
    rand::random()
}
