//! The speaker's sockets: TCP port 179 on the LAN, one task that owns the state machine.
//!
//! ```text
//!  Node objects ──► peers, exports ─┐
//!  TCP (accept, dial, bytes) ───────┼─► Speaker::handle ──► effects ──► TCP, Learned ──► core
//! ```
//!
//! A session that breaks without a word may be an agent that restarts, whose pods still answer: its routes stay for
//! [`BgpConfig::stale_grace`] unless the Node itself is gone. A withdrawal that the peer sends takes effect at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use portolan_bgp::{Asn, ConnId, Effect, Export, Input, LogLevel, PeerConfig, SessionState, Speaker, SpeakerConfig};
use portolan_model::LearnedRoute;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

const BGP_PORT: u16 = 179;
/// How long a dial may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// What the speaker's task is told.
pub(crate) enum Command {
    /// The other nodes' addresses, and our own blocks.
    Cluster {
        /// Peers of the full mesh.
        peers: BTreeSet<IpAddr>,
        /// Prefixes to announce.
        exports: BTreeSet<IpNet>,
    },
    /// Asks for the sessions and routes, as the node's API shows them.
    Status(oneshot::Sender<serde_json::Value>),
}

/// Settings of the speaker's task.
pub(crate) struct BgpConfig {
    /// Our own LAN address, which sockets are bound to.
    pub(crate) local: IpAddr,
    /// The state machine's settings.
    pub(crate) speaker: SpeakerConfig,
    /// How long routes outlive a session that broke without a word.
    pub(crate) stale_grace: Duration,
}

/// Hears what the best path to a prefix is now.
pub(crate) trait RouteSink: Send + 'static {
    /// The best path to a prefix changed.
    fn learned(&self, prefix: IpNet, route: Option<LearnedRoute>);
    /// Each peer has told everything, or had time enough to.
    fn settled(&self);
}

enum Wire {
    Inbound(TcpStream, SocketAddr),
    Outbound(IpAddr, std::io::Result<TcpStream>),
    Bytes(ConnId, Vec<u8>),
    Closed(ConnId),
}

struct Task<S> {
    speaker: Speaker,
    config: BgpConfig,
    sink: S,
    peers: BTreeSet<IpAddr>,
    writers: HashMap<ConnId, mpsc::UnboundedSender<Vec<u8>>>,
    wire: mpsc::UnboundedSender<Wire>,
    next_conn: u64,
    /// What the core was told last.
    told: BTreeMap<IpNet, LearnedRoute>,
    /// Routes whose session broke, and when they go.
    stale: BTreeMap<IpNet, Instant>,
    started: Instant,
    settled: bool,
}

/// Runs the speaker until the process ends.
pub(crate) async fn run(config: BgpConfig, mut commands: mpsc::UnboundedReceiver<Command>, sink: impl RouteSink) {
    let (wire, mut from_wire) = mpsc::unbounded_channel();
    listen(config.local, wire.clone());
    let speaker = Speaker::new(config.speaker.clone());
    let mut task = Task {
        speaker,
        config,
        sink,
        wire,
        peers: BTreeSet::new(),
        writers: HashMap::new(),
        next_conn: 0,
        told: BTreeMap::new(),
        stale: BTreeMap::new(),
        started: Instant::now(),
        settled: false,
    };
    loop {
        let deadline = task.next_deadline();
        tokio::select! {
            command = commands.recv() => match command {
                Some(command) => task.command(command),
                None => return,
            },
            Some(event) = from_wire.recv() => task.wire(event),
            () = tokio::time::sleep_until(deadline.into()) => task.tick(),
        }
    }
}

/// Accepts peers; a port that is taken is said and tried again.
fn listen(local: IpAddr, wire: mpsc::UnboundedSender<Wire>) {
    tokio::spawn(async move {
        let listener = loop {
            match TcpListener::bind((local, BGP_PORT)).await {
                Ok(listener) => break listener,
                Err(error) => {
                    warn!(%error, "cannot bind {local}:{BGP_PORT}/tcp for BGP; peers are only dialled until that port is free");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        };
        while let Ok((stream, from)) = listener.accept().await {
            if wire.send(Wire::Inbound(stream, from)).is_err() {
                return;
            }
        }
    });
}

impl<S: RouteSink> Task<S> {
    fn next_deadline(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(1);
        let stale = self.stale.values().min().copied();
        self.speaker.next_deadline().into_iter().chain(stale).fold(far, Instant::min)
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Cluster { peers, exports } => {
                let configs = peers.iter().map(|p| (*p, PeerConfig::new(Asn::CLUSTER))).collect();
                self.peers = peers;
                let now = Instant::now();
                let mut effects =
                    self.speaker.set_exports(&exports.into_iter().map(|p| (p, Export::default())).collect(), now);
                effects.extend(self.speaker.set_peers(&configs, now));
                self.carry_out(effects);
            }
            Command::Status(reply) => {
                // The asker may have gone; then nobody misses the answer.
                let _ = reply.send(self.status());
            }
        }
    }

    fn wire(&mut self, event: Wire) {
        let input = match event {
            Wire::Inbound(stream, from) => {
                let conn = self.attach(stream);
                Input::Connected { peer: from.ip(), conn, direction: portolan_bgp::Direction::Inbound }
            }
            Wire::Outbound(peer, Ok(stream)) => {
                let conn = self.attach(stream);
                Input::Connected { peer, conn, direction: portolan_bgp::Direction::Outbound }
            }
            Wire::Outbound(peer, Err(error)) => {
                debug!(%peer, %error, "cannot reach the peer yet");
                Input::ConnectFailed { peer, reason: error.to_string() }
            }
            Wire::Bytes(conn, data) => Input::Bytes { conn, data },
            Wire::Closed(conn) => {
                self.writers.remove(&conn);
                Input::Closed { conn }
            }
        };
        let effects = self.speaker.handle(input, Instant::now());
        self.carry_out(effects);
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let effects = self.speaker.handle(Input::Timer, now);
        self.carry_out(effects);
        let expired: Vec<IpNet> = self.stale.iter().filter(|(_, at)| **at <= now).map(|(p, _)| *p).collect();
        for prefix in expired {
            self.stale.remove(&prefix);
            self.tell(prefix, None);
        }
        self.look_whether_settled(now);
    }

    /// The core holds back the removal of routes that a former agent left until this says that we know them all.
    fn look_whether_settled(&mut self, now: Instant) {
        let complete = !self.peers.is_empty() && self.speaker.sessions().iter().all(|s| s.complete);
        if !self.settled && (complete || now > self.started + self.config.stale_grace) {
            self.settled = true;
            self.sink.settled();
        }
    }

    fn attach(&mut self, stream: TcpStream) -> ConnId {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        let (writer, outgoing) = mpsc::unbounded_channel();
        self.writers.insert(conn, writer);
        // BGP messages are small and answers are waited for.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "TCP_NODELAY was refused");
        }
        let (reader, sink) = stream.into_split();
        tokio::spawn(read_all(conn, reader, self.wire.clone()));
        tokio::spawn(write_all(sink, outgoing));
        conn
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Connect { peer } => self.dial(peer),
                Effect::Send { conn, bytes } => {
                    if let Some(writer) = self.writers.get(&conn) {
                        // A closed writer shows itself as Closed from the reader.
                        let _ = writer.send(bytes);
                    }
                }
                Effect::Close { conn } => drop(self.writers.remove(&conn)),
                Effect::Learned(batch) => batch.into_iter().for_each(|(prefix, route)| self.learned(prefix, route)),
                Effect::Log { level, peer, message } => log(level, peer, &message),
            }
        }
    }

    fn learned(&mut self, prefix: IpNet, route: Option<LearnedRoute>) {
        if route.is_none() && self.session_broke(&prefix) {
            self.stale.insert(prefix, Instant::now() + self.config.stale_grace);
            return;
        }
        self.stale.remove(&prefix);
        self.tell(prefix, route);
    }

    /// Is the route lost because its peer's session is down, while the peer is still a node of the cluster?
    fn session_broke(&self, prefix: &IpNet) -> bool {
        let Some(told) = self.told.get(prefix) else { return false };
        let up = |s: &portolan_bgp::SessionStatus| s.peer == told.peer && s.state == SessionState::Established;
        self.peers.contains(&told.peer) && !self.speaker.sessions().iter().any(up)
    }

    fn tell(&mut self, prefix: IpNet, route: Option<LearnedRoute>) {
        match &route {
            Some(route) if self.told.get(&prefix) == Some(route) => return,
            Some(route) => drop(self.told.insert(prefix, route.clone())),
            None => drop(self.told.remove(&prefix)),
        }
        self.sink.learned(prefix, route);
    }

    fn dial(&self, peer: IpAddr) {
        let (local, wire) = (self.config.local, self.wire.clone());
        tokio::spawn(async move {
            let dialled = tokio::time::timeout(DIAL_TIMEOUT, dial(local, peer)).await;
            let outcome = dialled.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
            // The task may be over; then nobody waits for this connection.
            let _ = wire.send(Wire::Outbound(peer, outcome));
        });
    }

    fn status(&self) -> serde_json::Value {
        let sessions: Vec<_> = self.speaker.sessions().iter().map(session_json).collect();
        let route = |(prefix, route): (&IpNet, &LearnedRoute)| {
            serde_json::json!({
                "prefix": prefix, "gateway": route.gateway, "peer": route.peer, "stale": self.stale.contains_key(prefix),
            })
        };
        serde_json::json!({
            "asn": self.config.speaker.asn.0,
            "routerId": self.config.speaker.router_id,
            "exports": self.speaker.exports().keys().collect::<Vec<_>>(),
            "sessions": sessions,
            "routes": self.told.iter().map(route).collect::<Vec<_>>(),
        })
    }
}

fn session_json(session: &portolan_bgp::SessionStatus) -> serde_json::Value {
    serde_json::json!({
        "peer": session.peer,
        "asn": session.asn.0,
        "state": session.state.to_string(),
        "uptimeSecs": session.established_at.map(|at| at.elapsed().as_secs()),
        "prefixesReceived": session.prefixes_received,
        "prefixesSent": session.prefixes_sent,
        "lastError": session.last_error,
    })
}

async fn dial(local: IpAddr, peer: IpAddr) -> std::io::Result<TcpStream> {
    let socket = match peer {
        IpAddr::V4(_) => TcpSocket::new_v4()?,
        IpAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if local.is_ipv4() == peer.is_ipv4() {
        socket.bind((local, 0).into())?;
    }
    socket.connect((peer, BGP_PORT).into()).await
}

async fn read_all(conn: ConnId, mut reader: tokio::net::tcp::OwnedReadHalf, wire: mpsc::UnboundedSender<Wire>) {
    let mut buffer = vec![0; 65536];
    while let Ok(length @ 1..) = reader.read(&mut buffer).await {
        if wire.send(Wire::Bytes(conn, buffer[..length].to_vec())).is_err() {
            return;
        }
    }
    // The task may be over; then nobody asks.
    let _ = wire.send(Wire::Closed(conn));
}

/// Ends when the speaker drops its side; then the connection is shut.
async fn write_all(mut sink: tokio::net::tcp::OwnedWriteHalf, mut outgoing: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(bytes) = outgoing.recv().await {
        if sink.write_all(&bytes).await.is_err() {
            return;
        }
    }
    // The peer may have closed first.
    let _ = sink.shutdown().await;
}

fn log(level: LogLevel, peer: Option<IpAddr>, message: &str) {
    let peer = peer.map(|p| p.to_string()).unwrap_or_default();
    match level {
        LogLevel::Debug => debug!(peer, "{message}"),
        LogLevel::Info => info!(peer, "{message}"),
        LogLevel::Warn => warn!(peer, "{message}"),
    }
}
