//! A network of speakers in memory. Each end of a connection has a queue; a seed picks which queue moves next and where
//! bytes are cut, so that a seed is one interleaving. Time moves only when nothing is left to deliver.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::{
    ConnId, Direction, Effect, Input, LearnedRoute, NextHops, PeerConfig, SessionState, Speaker, SpeakerConfig,
};

/// Numbers that look random and are the same for the same seed (xorshift64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// One of `0..bound`.
    pub fn roll(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits fit") % bound
    }
}

struct End {
    owner: IpAddr,
    other: ConnId,
    inbox: VecDeque<Input>,
}

pub struct Network {
    pub now: Instant,
    pub dice: Dice,
    pub speakers: BTreeMap<IpAddr, Speaker>,
    /// What each node's Learned effects add up to.
    pub learned: BTreeMap<IpAddr, BTreeMap<IpNet, LearnedRoute>>,
    /// Every message sent, by sender.
    pub sent: Vec<(IpAddr, Vec<u8>)>,
    /// Learned effects so far.
    pub learned_count: usize,
    /// Nodes whose cable is out: what they send and get is lost without a word.
    pub unplugged: BTreeSet<IpAddr>,
    dials: Vec<(IpAddr, IpAddr)>,
    ends: BTreeMap<ConnId, End>,
    next_conn: u64,
}

/// Node `i`'s address; the higher `i`, the higher its BGP Identifier.
pub fn node(i: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, i))
}

pub fn net(text: &str) -> IpNet {
    text.parse().expect("tests write prefixes right")
}

/// The blocks of node `i`, one per family.
pub fn blocks(i: u8) -> BTreeSet<IpNet> {
    [net(&format!("10.244.{i}.0/26")), net(&format!("fd00:10:244:{i}::/122"))].into()
}

/// Prefixes told plainly.
pub fn exports(prefixes: &BTreeSet<IpNet>) -> BTreeMap<IpNet, crate::Export> {
    prefixes.iter().map(|prefix| (*prefix, crate::Export::default())).collect()
}

pub fn config(i: u8) -> SpeakerConfig {
    let next_hops = NextHops { v4: Some(Ipv4Addr::new(192, 0, 2, i)), v6: Some(v6(i)) };
    let mut config = SpeakerConfig::new(Ipv4Addr::new(192, 0, 2, i), next_hops);
    config.hold_time_secs = 9;
    config
}

pub fn v6(i: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(i))
}

pub fn peers(of: impl IntoIterator<Item = u8>) -> BTreeMap<IpAddr, PeerConfig> {
    of.into_iter().map(|i| (node(i), PeerConfig::new(crate::Asn::CLUSTER))).collect()
}

impl Network {
    pub fn new(seed: u64) -> Self {
        Self {
            now: Instant::now(),
            dice: Dice::new(seed),
            speakers: BTreeMap::new(),
            learned: BTreeMap::new(),
            sent: Vec::new(),
            learned_count: 0,
            unplugged: BTreeSet::new(),
            dials: Vec::new(),
            ends: BTreeMap::new(),
            next_conn: 0,
        }
    }

    /// Nodes 1 to `count`, each a peer of all others, each with its blocks.
    pub fn mesh(seed: u64, count: u8) -> Self {
        let mut network = Self::new(seed);
        for i in 1..=count {
            network.add(i);
        }
        for i in 1..=count {
            network.set_peers(i, (1..=count).filter(|other| *other != i));
            network.set_exports(i, &blocks(i));
        }
        network
    }

    pub fn add(&mut self, i: u8) {
        self.speakers.insert(node(i), Speaker::new(config(i)));
        self.learned.insert(node(i), BTreeMap::new());
    }

    pub fn set_peers(&mut self, i: u8, of: impl IntoIterator<Item = u8>) {
        let now = self.now;
        let effects = self.speaker(i).set_peers(&peers(of), now);
        self.carry_out(node(i), effects);
    }

    pub fn set_exports(&mut self, i: u8, prefixes: &BTreeSet<IpNet>) {
        let now = self.now;
        let effects = self.speaker(i).set_exports(&exports(prefixes), now);
        self.carry_out(node(i), effects);
    }

    pub fn speaker(&mut self, i: u8) -> &mut Speaker {
        self.speakers.get_mut(&node(i)).expect("tests name nodes that are there")
    }

    /// Delivers one thing, if there is any.
    pub fn step(&mut self) -> bool {
        let ready: Vec<ConnId> = self.ends.iter().filter(|(_, e)| !e.inbox.is_empty()).map(|(c, _)| *c).collect();
        let choices = ready.len() + self.dials.len();
        if choices == 0 {
            return false;
        }
        let pick = self.dice.roll(choices);
        match ready.get(pick) {
            Some(conn) => self.deliver(*conn),
            None => self.connect(pick - ready.len()),
        }
        true
    }

    /// Delivers all there is.
    pub fn settle(&mut self) {
        let mut steps = 0;
        while self.step() {
            steps += 1;
            assert!(steps < 1_000_000, "the network never gets quiet");
        }
    }

    /// Lets `span` pass, with every timer in its time.
    pub fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        self.settle();
        while let Some((at, who)) = self.next_timer().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            let now = self.now;
            let speaker = self.speakers.get_mut(&who).expect("its own timer");
            let effects = speaker.handle(Input::Timer, now);
            self.carry_out(who, effects);
            self.settle();
        }
        self.now = end;
    }

    /// Resets one connection, if there is any: what is under way on it is lost.
    pub fn cut_one(&mut self) {
        let all: Vec<ConnId> = self.ends.keys().copied().collect();
        if all.is_empty() {
            return;
        }
        let conn = all[self.dice.roll(all.len())];
        let other = self.ends[&conn].other;
        for end in [conn, other] {
            if let Some(end_state) = self.ends.get_mut(&end) {
                end_state.inbox.retain(|input| matches!(input, Input::Connected { .. }));
                end_state.inbox.push_back(Input::Closed { conn: end });
            }
        }
    }

    /// Node `i` dies; `told` says whether its kernel still closes its connections.
    pub fn kill(&mut self, i: u8, told: bool) {
        let owned: Vec<ConnId> = self.ends.iter().filter(|(_, e)| e.owner == node(i)).map(|(c, _)| *c).collect();
        for conn in owned {
            let other = self.ends.remove(&conn).expect("just listed").other;
            if let Some(end) = self.ends.get_mut(&other).filter(|_| told) {
                end.inbox.push_back(Input::Closed { conn: other });
            }
        }
        self.dials.retain(|(from, _)| *from != node(i));
        self.speakers.remove(&node(i));
        self.learned.remove(&node(i));
    }

    /// Every node has one session with each of its peers, and the routes of all of them.
    pub fn check_full_mesh(&self, context: &str) {
        for (address, speaker) in &self.speakers {
            for session in speaker.sessions() {
                assert_eq!(session.state, SessionState::Established, "{context}: {address} with {}", session.peer);
                assert!(session.complete, "{context}: {address} got no End-of-RIB from {}", session.peer);
            }
            assert_eq!(speaker.routes(), &self.expected(*address), "{context}: routes of {address}");
            assert_eq!(&self.learned[address], speaker.routes(), "{context}: effects of {address} do not add up");
        }
        let sessions: usize = self.speakers.values().map(|speaker| speaker.sessions().len()).sum();
        assert_eq!(self.ends.len(), sessions, "{context}: connections left over");
    }

    /// What the node at `address` must have learned: its peers' exports, next hop the peer.
    pub fn expected(&self, address: IpAddr) -> BTreeMap<IpNet, LearnedRoute> {
        let mut routes = BTreeMap::new();
        for session in self.speakers[&address].sessions() {
            let Some(peer) = self.speakers.get(&session.peer) else { continue };
            let hops = peer.config().next_hops;
            for prefix in peer.exports().keys() {
                let gateway = match prefix {
                    IpNet::V4(_) => IpAddr::V4(hops.v4.expect("test nodes have both")),
                    IpNet::V6(_) => IpAddr::V6(hops.v6.expect("test nodes have both")),
                };
                routes.insert(*prefix, LearnedRoute::via(gateway, session.peer));
            }
        }
        routes
    }

    fn next_timer(&self) -> Option<(Instant, IpAddr)> {
        self.speakers.iter().filter_map(|(who, speaker)| speaker.next_deadline().map(|at| (at, *who))).min()
    }

    fn deliver(&mut self, conn: ConnId) {
        let end = self.ends.get_mut(&conn).expect("picked among those there");
        let owner = end.owner;
        let mut input = end.inbox.pop_front().expect("picked for having something");
        if let Input::Bytes { data, .. } = &mut input {
            let cut = 1 + self.dice.roll(data.len());
            let rest = data.split_off(cut);
            if !rest.is_empty() {
                end.inbox.push_front(Input::Bytes { conn, data: rest });
            }
        }
        if matches!(input, Input::Closed { .. }) {
            self.ends.remove(&conn);
        }
        let now = self.now;
        let effects = self.speakers.get_mut(&owner).expect("ends of dead nodes are gone").handle(input, now);
        self.carry_out(owner, effects);
    }

    fn connect(&mut self, index: usize) {
        let (from, to) = self.dials.swap_remove(index);
        if !self.speakers.contains_key(&to) || self.unplugged.contains(&from) || self.unplugged.contains(&to) {
            let input = Input::ConnectFailed { peer: to, reason: "no route to host".to_owned() };
            let now = self.now;
            let effects = self.speakers.get_mut(&from).expect("dials of dead nodes are gone").handle(input, now);
            self.carry_out(from, effects);
            return;
        }
        let (ours, theirs) = (ConnId(self.next_conn), ConnId(self.next_conn + 1));
        self.next_conn += 2;
        self.add_end(ours, theirs, from, to, Direction::Outbound);
        self.add_end(theirs, ours, to, from, Direction::Inbound);
    }

    fn add_end(&mut self, conn: ConnId, other: ConnId, owner: IpAddr, peer: IpAddr, direction: Direction) {
        let inbox = VecDeque::from([Input::Connected { peer, conn, direction }]);
        self.ends.insert(conn, End { owner, other, inbox });
    }

    fn carry_out(&mut self, owner: IpAddr, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Connect { peer } => self.dials.push((owner, peer)),
                Effect::Send { conn, bytes } => self.send(owner, conn, bytes),
                Effect::Close { conn } => self.close(conn),
                Effect::Learned(batch) => {
                    batch.into_iter().for_each(|(prefix, route)| self.learn(owner, prefix, route))
                }
                Effect::Log { .. } => {}
            }
        }
    }

    fn send(&mut self, owner: IpAddr, conn: ConnId, data: Vec<u8>) {
        assert!(data.len() <= 4096, "a message of {} bytes", data.len());
        self.sent.push((owner, data.clone()));
        let other = self.ends.get(&conn).expect("a speaker sends on open connections only").other;
        let lost = self.unplugged.contains(&owner);
        if let Some(end) = self.ends.get_mut(&other).filter(|end| !lost && !self.unplugged.contains(&end.owner)) {
            end.inbox.push_back(Input::Bytes { conn: other, data });
        }
    }

    fn close(&mut self, conn: ConnId) {
        let end = self.ends.remove(&conn).expect("a speaker closes a connection once");
        let lost = self.unplugged.contains(&end.owner);
        if let Some(other) =
            self.ends.get_mut(&end.other).filter(|other| !lost && !self.unplugged.contains(&other.owner))
        {
            other.inbox.push_back(Input::Closed { conn: end.other });
        }
    }

    fn learn(&mut self, owner: IpAddr, prefix: IpNet, route: Option<LearnedRoute>) {
        self.learned_count += 1;
        let learned = self.learned.get_mut(&owner).expect("every node has a table");
        let old = learned.get(&prefix).cloned();
        assert_ne!(old, route, "{owner} repeats what it said of {prefix}");
        match route {
            Some(route) => learned.insert(prefix, route),
            None => learned.remove(&prefix),
        };
    }
}
