//! One group of servers: who is in it, who is fit, and in which order they are asked.
//!
//! ```text
//!  Fit ──silence, failure──► Suspect (asked last; `. NS` until it answers)
//!   ▲                           │ max_fails failures in a row
//!   └──────── any answer ───────┴──► Down (not asked unless all are)
//!  Looping: brings our queries back; not asked while that stands
//! ```
//!
//! A slow answer alone makes a server suspect, not down: only failed probes and connections count as failures.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::corefile::config::{Policy, Target};
use crate::forward::latency::Latency;
use crate::forward::loops::LoopWatch;
use crate::forward::step::{GroupConfig, Peer, Way};
use crate::forward::view::{GroupCounts, Health, ServerCounts};
use crate::forward::{Exchange, Ids};
use crate::wire::Transport;

/// Hedges saved up for when a server turns slow, in tenths.
const HEDGES_SAVED: u32 = 100;
/// What one hedge costs, in tenths: so at most one question in ten has one.
const HEDGE_COSTS: u32 = 10;

#[derive(Debug)]
pub(super) struct Group {
    pub(super) config: GroupConfig,
    pub(super) servers: Vec<Server>,
    pub(super) counts: GroupCounts,
    /// Clients that wait.
    pub(super) waiting: usize,
    /// Questions under way.
    pub(super) flights: usize,
    /// What each file of the group's targets names.
    files: BTreeMap<String, Vec<SocketAddr>>,
    turn: usize,
    hedges_saved: u32,
}

#[derive(Debug)]
pub(super) struct Server {
    pub(super) uid: u64,
    pub(super) peer: Arc<Peer>,
    /// Failures in a row.
    pub(super) fails: u32,
    pub(super) probe: Option<Probe>,
    pub(super) watch: Option<LoopWatch>,
    pub(super) latency: Latency,
    pub(super) counts: ServerCounts,
}

/// A server that owes an answer since it failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    /// Under way.
    pub(super) exchange: Option<Exchange>,
    pub(super) id: u16,
    /// When it counts as failed, or the next is sent.
    pub(super) act_at: Duration,
}

impl Group {
    pub(super) fn new(config: GroupConfig, uids: &mut u64) -> Self {
        let mut group = Self {
            config,
            servers: Vec::new(),
            counts: GroupCounts::default(),
            waiting: 0,
            flights: 0,
            files: BTreeMap::new(),
            turn: 0,
            hedges_saved: 0,
        };
        group.rebuild(uids);
        group
    }

    /// Its identity across reloads.
    pub(super) fn is_same_as(&self, other: &GroupConfig) -> bool {
        self.config.forward.from == other.forward.from && self.config.forward.to == other.forward.to
    }

    /// Takes a new configuration of the same identity; gives the servers that are gone.
    pub(super) fn reconfigure(&mut self, config: GroupConfig, uids: &mut u64) -> Vec<Server> {
        self.config = config;
        self.rebuild(uids)
    }

    /// The servers that `file` names now; gives those that are gone.
    pub(super) fn set_file(&mut self, file: &str, addrs: &[SocketAddr], uids: &mut u64) -> Vec<Server> {
        if !self.config.forward.to.iter().any(|target| matches!(target, Target::File(path) if path == file)) {
            return Vec::new();
        }
        self.files.insert(file.to_owned(), addrs.to_vec());
        self.rebuild(uids)
    }

    fn rebuild(&mut self, uids: &mut u64) -> Vec<Server> {
        let mut old = std::mem::take(&mut self.servers);
        for peer in self.peers() {
            if self.servers.iter().any(|server| *server.peer == peer) {
                continue;
            }
            let known = old.iter().position(|server| *server.peer == peer).map(|at| old.remove(at));
            self.servers.push(known.unwrap_or_else(|| {
                *uids += 1;
                Server::new(*uids, peer)
            }));
        }
        old
    }

    fn peers(&self) -> Vec<Peer> {
        let forward = &self.config.forward;
        let of = |target: Target| Peer { target, tls: forward.tls.clone(), expire: forward.expire };
        let plain = |addrs: &Vec<SocketAddr>| addrs.iter().map(|addr| of(Target::Plain(*addr))).collect::<Vec<Peer>>();
        let peers = forward.to.iter().flat_map(|target| match target {
            Target::File(path) => self.files.get(path).map(plain).unwrap_or_default(),
            other => vec![of(other.clone())],
        });
        peers.collect()
    }

    pub(super) fn server(&self, peer: &Peer) -> Option<&Server> {
        self.servers.iter().find(|server| *server.peer == *peer)
    }

    pub(super) fn server_mut(&mut self, peer: &Peer) -> Option<&mut Server> {
        self.servers.iter_mut().find(|server| *server.peer == *peer)
    }

    /// Whom to ask, in order: the fit, then the suspect; those that are down only if there is nobody else, one of them
    /// by chance first. Never one that loops.
    pub(super) fn order(&mut self, ids: Ids<'_>) -> VecDeque<Arc<Peer>> {
        let max_fails = self.config.forward.max_fails;
        let of = |health: Health| -> Vec<Arc<Peer>> {
            let fitting = self.servers.iter().filter(|server| server.health(max_fails) == health);
            fitting.map(|server| server.peer.clone()).collect()
        };
        let (mut fit, mut suspect, mut down) = (of(Health::Fit), of(Health::Suspect), of(Health::Down));
        if fit.is_empty() && suspect.is_empty() {
            self.counts.all_down += u64::from(!down.is_empty());
            shuffle(&mut down, ids);
            return down.into();
        }
        self.turn = self.turn.wrapping_add(1);
        match self.config.forward.policy {
            Policy::Sequential => {}
            Policy::Random => {
                shuffle(&mut fit, ids);
                shuffle(&mut suspect, ids);
            }
            Policy::RoundRobin if fit.is_empty() => {}
            Policy::RoundRobin => {
                let by = (self.turn - 1) % fit.len();
                fit.rotate_left(by);
            }
        }
        fit.into_iter().chain(suspect).collect()
    }

    /// Every server loops.
    pub(super) fn is_all_loops(&self) -> bool {
        self.servers.iter().all(Server::loops)
    }

    /// What carries a client's query to `peer`.
    pub(super) fn way(&self, peer: &Peer, transport: Transport) -> Way {
        let forward = &self.config.forward;
        match peer.target {
            Target::Tls(_) => Way::Tls,
            Target::Https { .. } => Way::Https,
            _ if forward.force_tcp || transport == Transport::Tcp && !forward.prefer_udp => Way::Tcp,
            _ => Way::Udp,
        }
    }

    /// A question was put: a tenth of a hedge is saved.
    pub(super) fn save_hedge(&mut self) {
        self.hedges_saved = (self.hedges_saved + 1).min(HEDGES_SAVED);
    }

    /// Whether one question may go to a second server now.
    pub(super) fn take_hedge(&mut self) -> bool {
        let may = self.hedges_saved >= HEDGE_COSTS;
        if may {
            self.hedges_saved -= HEDGE_COSTS;
            self.counts.hedges += 1;
        }
        may
    }
}

impl Server {
    fn new(uid: u64, peer: Peer) -> Self {
        Self {
            uid,
            peer: Arc::new(peer),
            fails: 0,
            probe: None,
            watch: None,
            latency: Latency::default(),
            counts: ServerCounts::default(),
        }
    }

    pub(super) fn loops(&self) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.loops)
    }

    pub(super) fn health(&self, max_fails: u32) -> Health {
        match () {
            () if self.loops() => Health::Looping,
            () if max_fails > 0 && self.fails >= max_fails => Health::Down,
            () if self.probe.is_some() => Health::Suspect,
            () => Health::Fit,
        }
    }
}

/// Fisher and Yates' order by chance.
fn shuffle<T>(list: &mut [T], ids: Ids<'_>) {
    for last in (1..list.len()).rev() {
        list.swap(last, usize::from(ids()) % (last + 1));
    }
}
