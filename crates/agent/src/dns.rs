//! The sockets of cluster DNS: one task that owns the server of `portolan_dns`, and the sockets around it.
//!
//! ```text
//!  udp/tcp :53 ──► Command::Query ─┐
//!  upstream sockets ──► Upstream ──┼─► dns::Server ──► effects ──► sockets
//!  core ──► Snapshot, Delta ───────┤
//!  resolv.conf (looked at each second) ┘
//! ```
//!
//! Listeners are bound once and live as long as the process. A query to an upstream has a socket and a random port of
//! its own (RFC 5452).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use portolan_dns::forward::{Exchange, ForwardConfig};
use portolan_dns::records::Records;
use portolan_dns::resolvconf;
use portolan_dns::server::{Effect, Server, Token};
use portolan_dns::wire::Transport;
use portolan_dns::zone::ZoneConfig;
use portolan_model::{Delta, Snapshot};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

/// How often resolv.conf is looked at: new upstreams are asked within 5 s of a change.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a TCP client may take for its next query.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// A client that has no answer by now gets none: the forwarder gave up long ago.
const CLIENT_LIFE: Duration = Duration::from_secs(15);
/// TCP clients served at once.
const TCP_CLIENTS: usize = 256;
/// Bursts must not be lost: the default of 208 KiB is a few hundred queries.
const RECEIVE_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// DNS over UDP never exceeds this.
const DATAGRAM_BYTES: usize = 65_535;

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
pub(crate) enum Told {
    /// A new snapshot, what changed in it, and whether the cluster was told whole.
    Snapshot(Arc<Snapshot>, Delta, bool),
    /// One more address to answer at.
    Listen(Listener),
    /// Asks for all records, as they are answered from.
    Records(oneshot::Sender<Records>),
    /// Asks for the counters.
    Status(oneshot::Sender<serde_json::Value>),
}

enum Event {
    Udp { from: SocketAddr, socket: Arc<UdpSocket>, packet: Vec<u8> },
    Tcp { packet: Vec<u8>, reply: oneshot::Sender<Vec<u8>> },
    Upstream { exchange: Exchange, packet: Vec<u8> },
    Failed { exchange: Exchange },
}

enum Client {
    Udp { to: SocketAddr, socket: Arc<UdpSocket> },
    Tcp(oneshot::Sender<Vec<u8>>),
}

/// The listeners of one address, both transports.
pub(crate) struct Listener {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
}

impl Listener {
    /// Binds UDP and TCP on `addr`.
    pub(crate) async fn bind(addr: SocketAddr) -> Result<Self, DnsError> {
        let failed = |transport| move |source| DnsError::Bind { addr, transport, source };
        let udp = UdpSocket::bind(addr).await.map_err(failed("udp"))?;
        if let Err(error) = rustix::net::sockopt::set_socket_recv_buffer_size(&udp, RECEIVE_BUFFER_BYTES) {
            debug!(%error, "the receive buffer stays at its default");
        }
        let tcp = TcpListener::bind(addr).await.map_err(failed("tcp"))?;
        Ok(Self { udp: Arc::new(udp), tcp })
    }

    fn address(&self) -> Option<IpAddr> {
        self.udp.local_addr().ok().map(|addr| addr.ip())
    }

    fn open(self, events: &mpsc::UnboundedSender<Event>) {
        tokio::spawn(receive(self.udp, events.clone()));
        tokio::spawn(accept(self.tcp, events.clone()));
    }
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
pub(crate) fn zone_config(snapshot: &Snapshot) -> Result<ZoneConfig, DnsError> {
    ZoneConfig::from_settings(&snapshot.settings).map_err(|reason| DnsError::Domain {
        domain: snapshot.settings.cluster_domain.to_string(),
        reason: reason.to_string(),
    })
}

/// Serves until the senders of `told` are gone and no listener is left; that is, as long as the process lives.
pub(crate) async fn run(
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

async fn receive(socket: Arc<UdpSocket>, events: mpsc::UnboundedSender<Event>) {
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                let packet = buffer[..length].to_vec();
                if events.send(Event::Udp { from, socket: socket.clone(), packet }).is_err() {
                    return;
                }
            }
            // An ICMP error about an earlier reply; the socket goes on.
            Err(error) => debug!(%error, "receiving a query"),
        }
    }
}

async fn accept(listener: TcpListener, events: mpsc::UnboundedSender<Event>) {
    let seats = Arc::new(tokio::sync::Semaphore::new(TCP_CLIENTS));
    while let Ok(seat) = seats.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let events = events.clone();
                tokio::spawn(async move {
                    // A client that breaks off is done.
                    let _ = serve_tcp(stream, events).await;
                    drop(seat);
                });
            }
            Err(error) => {
                debug!(%error, "accepting a DNS client");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve_tcp(mut stream: TcpStream, events: mpsc::UnboundedSender<Event>) -> std::io::Result<()> {
    loop {
        let length = tokio::time::timeout(TCP_IDLE, stream.read_u16()).await??;
        let mut packet = vec![0; usize::from(length)];
        tokio::time::timeout(TCP_IDLE, stream.read_exact(&mut packet)).await??;
        let (reply, answer) = oneshot::channel();
        if events.send(Event::Tcp { packet, reply }).is_err() {
            return Ok(());
        }
        let Ok(bytes) = answer.await else { return Ok(()) };
        let length = u16::try_from(bytes.len()).expect("a DNS message is never longer than 65,535 bytes");
        let framed = [&length.to_be_bytes()[..], &bytes].concat();
        stream.write_all(&framed).await?;
    }
}

async fn ask_udp(exchange: Exchange, upstream: SocketAddr, query: Vec<u8>, events: mpsc::UnboundedSender<Event>) {
    // Whoever asked may be gone with the process.
    if let Err(error) = exchange_udp(exchange, upstream, &query, &events).await {
        debug!(%upstream, %error, "the upstream cannot be asked");
        let _ = events.send(Event::Failed { exchange });
    }
}

/// Hands in every datagram until the exchange is closed: a forged one must not keep the real one out.
async fn exchange_udp(
    exchange: Exchange,
    upstream: SocketAddr,
    query: &[u8],
    events: &mpsc::UnboundedSender<Event>,
) -> std::io::Result<()> {
    let any: SocketAddr = if upstream.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let _ = events.send(Event::Upstream { exchange, packet: buffer[..length].to_vec() });
    }
}

async fn ask_tcp(exchange: Exchange, upstream: SocketAddr, query: Vec<u8>, events: mpsc::UnboundedSender<Event>) {
    let event = match exchange_tcp(upstream, &query).await {
        Ok(packet) => Event::Upstream { exchange, packet },
        Err(error) => {
            debug!(%upstream, %error, "the upstream cannot be asked over TCP");
            Event::Failed { exchange }
        }
    };
    let _ = events.send(event);
}

async fn exchange_tcp(upstream: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    let length = u16::try_from(query.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], query].concat()).await?;
    let length = stream.read_u16().await?;
    let mut packet = vec![0; usize::from(length)];
    stream.read_exact(&mut packet).await?;
    Ok(packet)
}
