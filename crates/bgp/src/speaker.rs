//! The speaker: all sessions of one node behind one door.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use ipnet::IpNet;
use portolan_model::LearnedRoute;

use crate::config::{Asn, Export, PeerConfig, SpeakerConfig};
use crate::peer::{Context, Peer};
use crate::rib::Rib;

/// All sessions of one node: a full mesh of iBGP, and routers of the fabric if wanted.
///
/// Every call returns what is to be done, in order. Time never runs inside: hand in [`Input::Timer`] when
/// [`next_deadline`](Self::next_deadline) is reached, after the bytes that sockets hold by then, so that a node that was
/// late to read does not take its peers for silent.
#[derive(Debug)]
pub struct Speaker {
    config: SpeakerConfig,
    peers: BTreeMap<IpAddr, Peer>,
    conns: BTreeMap<ConnId, IpAddr>,
    exports: BTreeMap<IpNet, Export>,
    rib: Rib,
}

/// A TCP connection, numbered by the caller. A number is used once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// Who dialled a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// The peer did.
    Inbound,
    /// We did.
    Outbound,
}

/// What happened outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A connection from or to `peer`'s address, port 179, is up.
    Connected {
        /// The other end's address.
        peer: IpAddr,
        /// A number not used before.
        conn: ConnId,
        /// Who dialled.
        direction: Direction,
    },
    /// An [`Effect::Connect`] did not work out. Must come within some seconds where nothing answers: until then the peer
    /// is not dialled again.
    ConnectFailed {
        /// Who was dialled.
        peer: IpAddr,
        /// Why, for people.
        reason: String,
    },
    /// Bytes came in, cut anywhere.
    Bytes {
        /// On which connection.
        conn: ConnId,
        /// At least one byte.
        data: Vec<u8>,
    },
    /// The other end closed or reset the connection, or reading or writing failed.
    Closed {
        /// Which connection.
        conn: ConnId,
    },
    /// The way to a peer is down (BFD), or its node is: its session ends and its routes go now, without grace.
    PeerDown {
        /// Which peer.
        peer: IpAddr,
        /// Why, for people.
        reason: String,
    },
    /// The deadline was reached.
    Timer,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Connect to `peer`, port 179, from our own LAN address; then [`Input::Connected`] or [`Input::ConnectFailed`].
    Connect {
        /// Whom to dial.
        peer: IpAddr,
    },
    /// Write whole messages.
    Send {
        /// Where.
        conn: ConnId,
        /// One BGP message.
        bytes: Vec<u8>,
    },
    /// Close the connection once what was sent before is written. Its number is over; no [`Input::Closed`] is needed.
    Close {
        /// Which one.
        conn: ConnId,
    },
    /// The best paths to these prefixes changed, or there is none any more: [`portolan_model::Fact::Learned`] of each. A
    /// prefix stands once in a batch.
    Learned(Vec<(IpNet, Option<LearnedRoute>)>),
    /// A line for the log.
    Log {
        /// How loud.
        level: LogLevel,
        /// About whom.
        peer: Option<IpAddr>,
        /// What.
        message: String,
    },
}

/// How loud a line of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// A decision and its reason.
    Debug,
    /// State changed.
    Info,
    /// A person should look.
    Warn,
}

/// A session's state (RFC 4271 §8.2.2), the further the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SessionState {
    /// Nothing is under way.
    Idle,
    /// We are dialling.
    Connect,
    /// We wait to dial again, or for the peer to.
    Active,
    /// Our OPEN is out.
    OpenSent,
    /// Both OPENs are in order.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

impl fmt::Display for SessionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// One peer's session, as `node status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionStatus {
    /// The peer's address.
    pub peer: IpAddr,
    /// Its AS, as configured.
    pub asn: Asn,
    /// Where the session stands.
    pub state: SessionState,
    /// The peer's BGP Identifier, once it told.
    pub router_id: Option<Ipv4Addr>,
    /// Who dialled.
    pub direction: Option<Direction>,
    /// Since when the session is up.
    pub established_at: Option<Instant>,
    /// Hold time agreed on.
    pub hold_time_secs: Option<u16>,
    /// The peer said that it told everything (End-of-RIB of each family).
    pub complete: bool,
    /// Prefixes that the peer told us and that we could use.
    pub prefixes_received: usize,
    /// Prefixes that we told the peer.
    pub prefixes_sent: usize,
    /// Why the last session or attempt ended; `None` while a session is up.
    pub last_error: Option<String>,
}

impl Speaker {
    /// A speaker without peers.
    pub fn new(config: SpeakerConfig) -> Self {
        Self { config, peers: BTreeMap::new(), conns: BTreeMap::new(), exports: BTreeMap::new(), rib: Rib::default() }
    }

    /// Its settings.
    pub fn config(&self) -> &SpeakerConfig {
        &self.config
    }

    /// The peers that there shall be. New ones are dialled, ones that went are told (Cease) and forgotten, ones whose
    /// settings changed start anew. An address of our own is left out. An empty map ends all sessions for good.
    pub fn set_peers(&mut self, peers: &BTreeMap<IpAddr, PeerConfig>, now: Instant) -> Vec<Effect> {
        let own = self.config.next_hops;
        let stays = |address: &IpAddr, peer: &Peer| peers.get(address) == Some(peer.config());
        let gone: Vec<IpAddr> = self.peers.iter().filter(|(a, p)| !stays(a, p)).map(|(a, _)| *a).collect();
        self.run(now, |speaker, cx| {
            for address in gone {
                if let Some(peer) = speaker.remove(&address) {
                    peer.stop(cx);
                }
            }
            for (address, config) in peers.iter().filter(|(address, _)| !own.contains(**address)) {
                speaker.entry(*address).or_insert_with(|| Peer::start(*address, config.clone(), cx));
            }
        })
    }

    /// Own prefixes: each peer is told what changed, and only that.
    pub fn set_exports(&mut self, exports: &BTreeMap<IpNet, Export>, now: Instant) -> Vec<Effect> {
        let prefixes: BTreeMap<IpNet, Export> = exports.iter().map(|(p, export)| (p.trunc(), export.clone())).collect();
        for prefix in prefixes.keys().chain(self.exports.keys()) {
            if prefixes.contains_key(prefix) != self.exports.contains_key(prefix) {
                self.rib.touch(*prefix);
            }
        }
        let mut effects = self.unannounceable(&prefixes);
        self.exports = prefixes;
        effects.extend(self.run(now, |peers, cx| peers.values_mut().for_each(|peer| peer.advertise(cx))));
        effects
    }

    /// Takes in what happened outside.
    pub fn handle(&mut self, input: Input, now: Instant) -> Vec<Effect> {
        match input {
            Input::Connected { peer, conn, direction } => self.connected(peer, conn, direction, now),
            Input::ConnectFailed { peer, reason } => {
                self.with_peer(Some(peer), now, |peer, cx| peer.connect_failed(reason, cx))
            }
            Input::Bytes { conn, data } => {
                let peer = self.conns.get(&conn).copied();
                self.with_peer(peer, now, |peer, cx| peer.bytes(conn, &data, cx))
            }
            Input::Closed { conn } => {
                let peer = self.conns.remove(&conn);
                self.with_peer(peer, now, |peer, cx| peer.closed(conn, cx))
            }
            Input::PeerDown { peer, reason } => self.with_peer(Some(peer), now, |peer, cx| peer.down(&reason, cx)),
            Input::Timer => self.run(now, |peers, cx| peers.values_mut().for_each(|peer| peer.tick(cx))),
        }
    }

    /// When [`Input::Timer`] is wanted next; may lie in the past if it is late already.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.peers.values().filter_map(Peer::next_deadline).min()
    }

    /// All sessions, by peer.
    pub fn sessions(&self) -> Vec<SessionStatus> {
        self.peers.values().map(|peer| peer.status(&self.rib)).collect()
    }

    /// The routes in use (Loc-RIB without own prefixes), by prefix: the sum of all [`Effect::Learned`] so far.
    pub fn routes(&self) -> &BTreeMap<IpNet, LearnedRoute> {
        self.rib.routes()
    }

    /// Own prefixes.
    pub fn exports(&self) -> &BTreeMap<IpNet, Export> {
        &self.exports
    }

    fn connected(&mut self, peer: IpAddr, conn: ConnId, direction: Direction, now: Instant) -> Vec<Effect> {
        if !self.peers.contains_key(&peer) {
            let message = format!("closed a connection from or to {peer}, which is no peer of this node");
            return vec![Effect::Close { conn }, Effect::Log { level: LogLevel::Debug, peer: Some(peer), message }];
        }
        self.conns.insert(conn, peer);
        self.with_peer(Some(peer), now, |peer, cx| peer.connected(conn, direction, cx))
    }

    fn with_peer(
        &mut self,
        peer: Option<IpAddr>,
        now: Instant,
        act: impl FnOnce(&mut Peer, &mut Context<'_>),
    ) -> Vec<Effect> {
        self.run(now, |peers, cx| {
            if let Some(peer) = peer.and_then(|address| peers.get_mut(&address)) {
                act(peer, cx);
            }
        })
    }

    /// Lets `act` work, then chooses best paths once for all that it changed.
    fn run(&mut self, now: Instant, act: impl FnOnce(&mut BTreeMap<IpAddr, Peer>, &mut Context<'_>)) -> Vec<Effect> {
        let mut effects = Vec::new();
        let (config, exports, rib) = (&self.config, &self.exports, &mut self.rib);
        act(&mut self.peers, &mut Context { config, exports, rib, effects: &mut effects, now });
        let changes = self.rib.settle(&self.exports);
        if !changes.is_empty() {
            effects.push(Effect::Learned(changes));
        }
        for effect in &effects {
            if let Effect::Close { conn } = effect {
                self.conns.remove(conn);
            }
        }
        effects
    }

    /// Complains of new prefixes whose family has no next hop.
    fn unannounceable(&self, prefixes: &BTreeMap<IpNet, Export>) -> Vec<Effect> {
        let new = prefixes.keys().filter(|prefix| !self.exports.contains_key(prefix));
        let mute = new.filter(|prefix| !self.config.next_hops.has(portolan_model::Family::of(prefix.addr())));
        let complain = |prefix: &IpNet| Effect::Log {
            level: LogLevel::Warn,
            peer: None,
            message: format!("{prefix} cannot be announced: this node has no address of its family; give the node one"),
        };
        mute.map(complain).collect()
    }
}
