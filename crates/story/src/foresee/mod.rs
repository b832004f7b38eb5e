//! Foresee: where a packet would go, by the rules and routes that each node plans. Nothing is sent.
//!
//! ```text
//!  FROM ─► its node: rules (all ways that chance may take) ─► routes ─► next node … ─► a pod, a process, a host, nowhere
//!                                                      the answer ◄─ conntrack's un-NAT, node by node, back ◄─┘
//! ```
//!
//! The evidence is of the same shape as what kernels tell, so one telling serves both; it has no times, and port 0 is a
//! port that the kernel would choose. What listens where cannot be known here: what reaches an address counts as
//! delivered.

mod back;
mod roads;
pub mod steps;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use portolan_model::verdict::{Arrival, Outcome, Packet, judge};
use portolan_model::{Family, NsName, Proto, Text};

use crate::evidence::{Direction, Fate, FlowEntry, Header, NodeEvidence, Passage, RouteTold, Source};
use crate::place::Sender;
use crate::story::End;
use crate::world::{NodeView, World};
use roads::Road;

/// More hops than this is a loop: the kernel's TTL would end it too.
const MOST_HOPS: usize = 12;

/// A packet that is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Who sends it.
    pub from: Origin,
    /// Where to.
    pub to: SocketAddr,
    /// Transport.
    pub proto: Proto,
    /// The client's port; 0: any.
    pub source_port: u16,
}

/// Where a packet begins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// At a place that people name.
    Place(Sender),
    /// Any pod of this node, none in particular: it is nobody's endpoint.
    AnyPodOf(Text),
}

/// One way that it may go.
#[derive(Clone, Debug, PartialEq)]
pub struct Way {
    /// How likely, 0 to 1.
    pub chance: f64,
    /// What the rules of each node made of it, in the order of the nodes.
    pub outcomes: Vec<(Text, Outcome)>,
    /// Where it came to.
    pub landing: Landing,
    /// How that ends, its answer included.
    pub end: End,
    /// Node by node, in the order the packet came there.
    pub evidence: Vec<NodeEvidence>,
}

/// Where a packet came to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Landing {
    /// A pod.
    Pod {
        /// Which; `None`: one that the cluster's objects do not name.
        pod: Option<NsName>,
        /// Its node.
        node: Text,
        /// Address and port there.
        at: SocketAddr,
    },
    /// A process of a node, or a pod on its network.
    Node {
        /// Which.
        node: Text,
        /// Address and port there.
        at: SocketAddr,
    },
    /// The host outside.
    Outside(SocketAddr),
    /// It left the cluster for an address of which nothing is known.
    Away(SocketAddr),
    /// A rule refused or dropped it.
    Stopped {
        /// On which node.
        node: Text,
        /// The sender is told.
        is_refused: bool,
    },
    /// No route led on, or only to nobody: an address of the cluster that no pod, node or Service has.
    Nowhere {
        /// The last node it was on; `None`: it found no way from the host outside.
        node: Option<Text>,
        /// Where it was to go.
        to: SocketAddr,
    },
}

/// It cannot be sent at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// The sender is not in the cluster.
    #[error("{0} is not in the cluster")]
    NoSender(String),
    /// It has no address of the family that it sends to.
    #[error("{sender} has no {} address to send to {to} from", if to.is_ipv6() { "IPv6" } else { "IPv4" })]
    NoAddress {
        /// Who.
        sender: String,
        /// Where to.
        to: SocketAddr,
    },
}

/// All ways of a packet, the likeliest first; they add up to 1.
///
/// # Errors
/// The sender is not there, or has no address of that family.
pub fn foresee(world: &World, question: &Question) -> Result<Vec<Way>, NotSent> {
    let walk = Walk { world, proto: question.proto };
    let start = walk.start(question)?;
    let mut ways = match start {
        Start::At(stop, header) => walk.on(stop, header, Trail::default()),
        Start::Inside(landing) => vec![Trail::default().ends(landing, End::Delivered)],
        Start::NoRoute => {
            vec![Trail::default().ends(Landing::Nowhere { node: None, to: question.to }, End::Unroutable)]
        }
    };
    ways.sort_by(|a, b| b.chance.total_cmp(&a.chance));
    Ok(ways)
}

/// How a packet came to a node.
#[derive(Clone, Debug)]
struct Stop {
    node: Text,
    /// `None`: a process on the node sends it.
    came_by: Option<Text>,
}

enum Start {
    At(Stop, Header),
    /// A pod speaks to itself: no node hears of it.
    Inside(Landing),
    NoRoute,
}

/// What happened until now.
#[derive(Clone, Debug)]
struct Trail {
    chance: f64,
    outcomes: Vec<(Text, Outcome)>,
    passages: Vec<(Text, Passage)>,
}

impl Default for Trail {
    fn default() -> Self {
        Self { chance: 1.0, outcomes: Vec::new(), passages: Vec::new() }
    }
}

impl Trail {
    fn ends(self, landing: Landing, end: End) -> Way {
        Way { chance: self.chance, outcomes: self.outcomes, landing, end, evidence: Vec::new() }
    }
}

#[derive(Clone, Copy)]
struct Walk<'a> {
    world: &'a World,
    proto: Proto,
}

impl Walk<'_> {
    fn start(&self, question: &Question) -> Result<Start, NotSent> {
        let to = question.to;
        let header =
            |src: IpAddr| Header { src: SocketAddr::new(src, question.source_port), dst: to, proto: self.proto };
        match &question.from {
            Origin::Place(Sender::Pod(key)) if self.world.pod_at(to.ip()) == Some(key) => {
                let (stop, _) = self.pods_start(key, to)?;
                Ok(Start::Inside(Landing::Pod { pod: Some(key.clone()), node: stop.node, at: to }))
            }
            Origin::Place(Sender::Pod(key)) => self.pods_start(key, to).map(|(stop, src)| Start::At(stop, header(src))),
            Origin::Place(Sender::Node(node)) => {
                self.nodes_start(node, to).map(|(stop, src)| Start::At(stop, header(src)))
            }
            Origin::AnyPodOf(node) => self.any_pods_start(node, to).map(|(stop, src)| Start::At(stop, header(src))),
            Origin::Place(Sender::Outside) => {
                let src = self.own_address(&self.world.cluster().outside.addresses, "outside", to)?;
                let by = roads::from_outside(self.world, to.ip());
                let stop = |node| Stop { node, came_by: Some(self.world.cluster().lan_link.clone()) };
                Ok(by.map_or(Start::NoRoute, |node| Start::At(stop(node), header(src))))
            }
        }
    }

    fn pods_start(&self, key: &NsName, to: SocketAddr) -> Result<(Stop, IpAddr), NotSent> {
        let missing = || NotSent::NoSender(format!("pod {key}"));
        let pod = self.world.cluster().facts.pods.get(key).ok_or_else(missing)?;
        let node = pod.node.clone().ok_or_else(missing)?;
        if pod.host_network {
            return self.nodes_start(&node, to);
        }
        let view = self.world.view(&node).ok_or_else(|| NotSent::NoSender(format!("node {node}")))?;
        let src = self.own_address(&pod.addresses, &format!("pod {key}"), to)?;
        let link = view.snapshot.attachments.get(key).ok_or_else(missing)?.link.0.clone();
        Ok((Stop { node, came_by: Some(link) }, src))
    }

    /// A node sends to its own addresses from themselves, and to others from its first.
    fn nodes_start(&self, node: &Text, to: SocketAddr) -> Result<(Stop, IpAddr), NotSent> {
        let view = self.world.view(node).ok_or_else(|| NotSent::NoSender(format!("node {node}")))?;
        let primary = || view.snapshot.primary_address(Family::of(to.ip()));
        let src = Some(to.ip()).filter(|addr| view.holds(*addr)).or_else(primary);
        let src = src.ok_or_else(|| NotSent::NoAddress { sender: format!("node {node}"), to })?;
        Ok((Stop { node: node.clone(), came_by: None }, src))
    }

    fn any_pods_start(&self, node: &Text, to: SocketAddr) -> Result<(Stop, IpAddr), NotSent> {
        let view = self.world.view(node).ok_or_else(|| NotSent::NoSender(format!("node {node}")))?;
        let block = view.snapshot.node_cidr(Family::of(to.ip()));
        let free = block.and_then(|block| block.hosts().skip(1).take(4096).find(|addr| self.is_free(*addr)));
        let src = free.ok_or_else(|| NotSent::NoAddress { sender: format!("a pod of node {node}"), to })?;
        Ok((Stop { node: node.clone(), came_by: Some("cali".into()) }, src))
    }

    fn is_free(&self, addr: IpAddr) -> bool {
        let facts = &self.world.cluster().facts;
        let is_endpoint = || facts.slices.values().flat_map(|slice| &slice.endpoints).any(|e| e.addr == addr);
        self.world.pod_at(addr).is_none() && !is_endpoint()
    }

    fn own_address(&self, addresses: &[IpAddr], sender: &str, to: SocketAddr) -> Result<IpAddr, NotSent> {
        let found = addresses.iter().copied().find(|addr| Family::of(*addr) == Family::of(to.ip()));
        found.ok_or_else(|| NotSent::NoAddress { sender: sender.to_owned(), to })
    }

    /// All ways on from a node that the packet just came to.
    fn on(&self, stop: Stop, entered: Header, trail: Trail) -> Vec<Way> {
        let Some(view) = self.world.view(&stop.node).filter(|_| trail.passages.len() < MOST_HOPS) else {
            let landing = Landing::Nowhere { node: Some(stop.node), to: entered.dst };
            return vec![self.told(trail, landing, End::Unroutable)];
        };
        let packet = packet(&entered, stop.came_by.as_deref());
        let allowed = match trail.passages.iter().any(|(node, _)| *node == stop.node) {
            true => Vec::new(),
            false => judge(&view.snapshot, &packet, self.world.mode()).into_iter().collect(),
        };
        let mut ways = Vec::new();
        for passed in view.pass(&packet) {
            let mut trail = trail.clone();
            trail.chance *= passed.chance;
            trail.outcomes.push((stop.node.clone(), passed.outcome));
            let left = steps::after(&view.snapshot, &entered, passed.outcome);
            let is_tracked = !passed.is_untracked;
            let passage = Passage {
                direction: Direction::Forth,
                entered,
                left,
                came_by: stop.came_by.clone(),
                went_by: None,
                at_us: 0,
                steps: passed.steps,
                fate: Fate::Stopped,
                flow: is_tracked.then(|| flow(entered, left)),
                route: None,
                allowed: allowed.clone(),
            };
            ways.extend(self.after_rules(&stop, view, passage, passed.outcome, trail));
        }
        ways
    }

    fn after_rules(
        &self,
        stop: &Stop,
        view: &NodeView,
        passage: Passage,
        outcome: Outcome,
        mut trail: Trail,
    ) -> Vec<Way> {
        let node = stop.node.clone();
        let is_refused = outcome == Outcome::Reject;
        if is_refused || outcome == Outcome::Drop {
            trail.passages.push((node.clone(), passage));
            let end = if is_refused { End::Refused } else { End::Dropped };
            return vec![self.told(trail, Landing::Stopped { node, is_refused }, end)];
        }
        let to = passage.left.dst;
        let (road, route) = roads::from_node(self.world, &node, view, to.ip());
        let (fate, went_by) = match &road {
            Road::Here => (Fate::Taken, None),
            Road::Nowhere => (Fate::Vanished, None),
            Road::Pod { link, .. } => (Fate::Sent, Some(link.clone())),
            Road::Node(_) | Road::Outside | Road::Away | Road::Nobody => {
                (Fate::Sent, Some(self.world.cluster().lan_link.clone()))
            }
        };
        let left = passage.left;
        let passage = Passage { fate, went_by, route: Some(route), ..passage };
        trail.passages.push((node.clone(), passage));
        let landing = match road {
            Road::Node(next) => {
                let came_by = Some(self.world.cluster().lan_link.clone());
                return self.on(Stop { node: next, came_by }, left, trail);
            }
            Road::Here => Landing::Node { node, at: to },
            Road::Pod { pod, .. } => Landing::Pod { pod: Some(pod), node, at: to },
            Road::Outside => Landing::Outside(to),
            Road::Away => Landing::Away(to),
            Road::Nowhere => return vec![self.told(trail, Landing::Nowhere { node: Some(node), to }, End::Unroutable)],
            Road::Nobody => return vec![self.told(trail, Landing::Nowhere { node: Some(node), to }, End::Unanswered)],
        };
        let end = self.answer(&mut trail, &landing);
        vec![self.told(trail, landing, end)]
    }

    fn told(&self, mut trail: Trail, landing: Landing, end: End) -> Way {
        let passages = std::mem::take(&mut trail.passages);
        Way { evidence: self.by_node(passages), ..trail.ends(landing, end) }
    }

    /// Passages of one node stand together, nodes in the order they were come to.
    fn by_node(&self, passages: Vec<(Text, Passage)>) -> Vec<NodeEvidence> {
        let mut all: Vec<NodeEvidence> = Vec::new();
        for (node, passage) in passages {
            match all.iter_mut().find(|evidence| evidence.node == node) {
                Some(evidence) => evidence.passages.push(passage),
                None => all.push(NodeEvidence {
                    node,
                    source: Source::Plan,
                    backend: self.world.cluster().backend,
                    passages: vec![passage],
                    lost: false,
                }),
            }
        }
        all
    }
}

/// As the rules are asked about it.
fn packet(header: &Header, came_by: Option<&str>) -> Packet {
    Packet {
        src: header.src.ip(),
        dst: header.dst.ip(),
        proto: header.proto,
        dport: header.dst.port(),
        arrival: came_by.map_or(Arrival::Sent, Arrival::by),
    }
}

fn flow(entered: Header, left: Header) -> FlowEntry {
    FlowEntry { original: entered, reply: reversed(left), id: 0, timeout_secs: 0, answered: false, older: false }
}

/// The header of an answer.
fn reversed(header: Header) -> Header {
    Header { src: header.dst, dst: header.src, proto: header.proto }
}

impl Landing {
    /// The address where it arrived; `None` if it did not.
    pub fn at(&self) -> Option<SocketAddr> {
        match self {
            Self::Pod { at, .. } | Self::Node { at, .. } | Self::Outside(at) | Self::Away(at) => Some(*at),
            Self::Stopped { .. } | Self::Nowhere { .. } => None,
        }
    }
}

/// A route that is only a passing thought: no prefix, no link.
fn no_route(kind: crate::evidence::RouteWay) -> RouteTold {
    RouteTold { prefix: None, gateway: None, link: None, kind, object: None, told_by: None, age_secs: None }
}
