//! Evidence: what one node's kernel did with a flow, or what its plan would do. What agents answer, and what is told.
//!
//! ```text
//!  CLI ──► POST /portolan/v1/trace            Watch       every node listens, and says so
//!      ──► POST /portolan/v1/trace/ID/probe   Probe       one node sends ──► Probed
//!      ──► GET  /portolan/v1/trace/ID         -           ──► Seen, as soon as something is
//!      ──► POST /portolan/v1/trace/ID/end     -           ──► NodeEvidence
//! ```
//!
//! A watch that nobody ends, ends itself. Times are microseconds of the node's own clock since its watch began; clocks of
//! two nodes are never compared. Sources: `nf_tables.h` (`NFTA_TRACE_*`), `nfnetlink_conntrack.h`.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use portolan_dataplane::meaning::RuleTold;
pub use portolan_dataplane::way::{Act, Hook};
use portolan_model::verdict::Outcome;
use portolan_model::{NsName, ObjectRef, Proto, Text};
use serde::{Deserialize, Serialize};

/// Asks an agent to listen for one flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Watch {
    /// Which packets.
    pub flow: Flow,
    /// The watch ends itself after this many milliseconds; at most 600,000.
    pub lasts_ms: u64,
    /// How many connections are wanted (`--count`); later ones are left out.
    pub count: u32,
}

/// Which packets belong to a flow, whatever NAT makes of their addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "camelCase")]
pub enum Flow {
    /// TCP connections whose SYN has this sequence number, and answers that acknowledge it. NAT leaves both as they are.
    Sequence {
        /// As on the wire.
        number: u32,
    },
    /// UDP packets whose payload begins with these 8 bytes, and answers by the flow's conntrack entry.
    Payload {
        /// In hexadecimal, 16 digits.
        begins: String,
    },
    /// The next connections of others: first packets between these, before or after NAT.
    #[serde(rename_all = "camelCase")]
    Live {
        /// Transport.
        proto: Proto,
        /// Their sources; empty: anyone.
        sources: Vec<IpAddr>,
        /// Where they are sent to, and where NAT may send them.
        destinations: Vec<SocketAddr>,
    },
}

/// Answer to a [`Watch`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Watching {
    /// Names the watch in later requests.
    pub id: String,
}

/// How far a watch is: answer of `GET /portolan/v1/trace/ID?known=N&withinMs=M`, which comes as soon as there are more than
/// N packets, or after M milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// Every packet until now, as it came in or was sent, in order.
    pub packets: Vec<(Direction, Header)>,
}

/// Asks a node to send one packet, from a pod or from itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// The pod that sends; `None`: the node itself.
    pub pod: Option<NsName>,
    /// Where to.
    pub to: Target,
    /// Transport: TCP or UDP.
    pub proto: Proto,
    /// What marks the packet: a [`Flow::Sequence`] or [`Flow::Payload`].
    pub flow: Flow,
    /// Client's port; `None`: the kernel chooses.
    pub source_port: Option<u16>,
    /// How long an answer is waited for.
    pub patience_ms: u64,
    /// Address families that a name may resolve to, the first preferred; empty: IPv4, then IPv6.
    #[serde(default)]
    pub families: Vec<portolan_model::Family>,
}

/// Where a probe goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// An address.
    Address(SocketAddr),
    /// A name and a port: asked of DNS first, as a program there would.
    Name(String, u16),
}

/// What the sender saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probed {
    /// How the name was found; `None` for an address.
    pub dns: Option<DnsTold>,
    /// The client's own end; `None` if nothing was sent.
    pub local: Option<SocketAddr>,
    /// Where it was sent.
    pub remote: Option<SocketAddr>,
    /// What came of it.
    pub end: ProbeEnd,
    /// From sending to the answer, microseconds.
    pub took_us: u64,
}

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum ProbeEnd {
    /// TCP: the connection stood. UDP: something came back.
    Answered,
    /// TCP: a reset. UDP: ICMP port unreachable. `by` is who said so, where the kernel tells.
    Refused {
        /// Sender of the reset or ICMP error.
        by: Option<IpAddr>,
    },
    /// ICMP host or net unreachable, or no route at all.
    Unreachable {
        /// Sender of the ICMP error; `None`: the sender's own kernel.
        by: Option<IpAddr>,
        /// In the kernel's words.
        why: String,
    },
    /// Nothing came back in time.
    Silence,
    /// The name leads nowhere; nothing was sent.
    NoName,
    /// It could not be sent: why.
    NotSent {
        /// The step and the kernel's words.
        why: String,
    },
}

/// A name's way through DNS, as a program's resolver goes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsTold {
    /// As asked for.
    pub name: String,
    /// It stands in the sender's own `/etc/hosts`: no server was asked.
    #[serde(default)]
    pub hosts: bool,
    /// Every query, in order; A and AAAA of a name go out together.
    pub queries: Vec<DnsQuery>,
    /// Addresses it leads to, in the order of the answer.
    pub addresses: Vec<IpAddr>,
}

/// One query and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsQuery {
    /// The name with the search domain it was tried with, no final dot.
    pub name: String,
    /// `A` or `AAAA`.
    pub record: String,
    /// Server asked.
    pub server: IpAddr,
    /// `NOERROR`, `NXDOMAIN`, …; `timeout` if nobody answered, `unreachable` if the server's port or host was refused or
    /// no route leads there, `garbled` if the answer is none that can be read.
    pub answer: String,
    /// Names that CNAMEs led through, in order.
    pub aliases: Vec<String>,
    /// Addresses in the answer.
    pub addresses: Vec<IpAddr>,
    /// Lowest TTL of the answer's records in seconds.
    pub ttl_secs: Option<u32>,
    /// Microseconds.
    pub took_us: u64,
}

/// Whether evidence was seen or is foreseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// The kernel said so, step by step.
    Kernel,
    /// The kernel cannot tell of its rules here (iptables-legacy): no steps, the rest is the kernel's.
    KernelWithoutRules,
    /// By the plan alone: nothing was sent.
    Plan,
}

/// How a node writes its rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Backend {
    /// By iptables; kube-proxy's chains.
    Iptables,
    /// By nf_tables; our own table.
    Nftables,
}

/// What one node tells of a flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeEvidence {
    /// The node.
    pub node: Text,
    /// Where this comes from.
    pub source: Source,
    /// How its rules are written.
    pub backend: Backend,
    /// Packets, in the order they came.
    pub passages: Vec<Passage>,
    /// Events were lost: something may be missing here.
    pub lost: bool,
}

/// One packet's way through one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Passage {
    /// Towards the destination, or back.
    pub direction: Direction,
    /// As it came in, or was sent.
    pub entered: Header,
    /// As it was last seen here, after all rules that it met.
    pub left: Header,
    /// Interface it came in by; `None`: a process on this node sent it.
    pub came_by: Option<Text>,
    /// Interface it went out by; `None`: it was for this node, or went nowhere.
    pub went_by: Option<Text>,
    /// When it entered.
    pub at_us: u64,
    /// Rules and policies, in order. Chains in which no rule matched have none.
    pub steps: Vec<Step>,
    /// Where the rules left it.
    pub fate: Fate,
    /// Its conntrack entry; `None` if there is none.
    pub flow: Option<FlowEntry>,
    /// The route to where it goes after NAT.
    pub route: Option<RouteTold>,
    /// What the oracle allows for it here; empty for answers, and where the snapshot says nothing.
    #[serde(default)]
    pub allowed: Vec<Outcome>,
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    /// From FROM to TO.
    Forth,
    /// The answer.
    Back,
}

/// A packet's addresses at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// Source. Where it is foreseen, port 0 is one that the kernel would choose.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
    /// Transport.
    pub proto: Proto,
}

/// Where the rules of a node left a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Fate {
    /// It left by an interface.
    Sent,
    /// A process on this node got it.
    Taken,
    /// A rule or policy dropped or refused it: the last step that decided.
    Stopped,
    /// No rule stopped it and it came to no later hook: the kernel's routing did (no route, blackhole, reverse path).
    Vanished,
}

/// One rule or policy that a packet met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// When.
    pub at_us: u64,
    /// Of the kernel's.
    pub hook: Hook,
    /// nf_tables family and name, such as `ip nat`.
    pub table: Text,
    /// Chain.
    pub chain: Text,
    /// The kernel's number of the rule; `None` for a policy, and where it is foreseen.
    pub handle: Option<u64>,
    /// Its place in the chain from 0; `None` for a policy, or if the rule is gone meanwhile.
    pub index: Option<usize>,
    /// The rule and what it is there for; `None` for a policy.
    pub rule: Option<RuleTold>,
    /// What became of the packet there.
    pub act: Act,
    /// The packet's destination after it, where it changed.
    pub rewritten: Option<Header>,
}

/// A conntrack entry, in the words of `conntrack -L`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowEntry {
    /// What the client sent.
    pub original: Header,
    /// What answers look like.
    pub reply: Header,
    /// The kernel's number, as `conntrack -L -o id` prints it.
    pub id: u32,
    /// Seconds until it is forgotten.
    pub timeout_secs: u32,
    /// An answer was seen.
    pub answered: bool,
    /// It was there before the packet: no rule of a nat table was asked.
    pub older: bool,
}

/// A route, and who brought it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteTold {
    /// The prefix that matched; `None` where the kernel does not say.
    pub prefix: Option<IpNet>,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Interface.
    pub link: Option<Text>,
    /// What it does.
    pub kind: RouteWay,
    /// The object it is there for: a Pod, a Node.
    pub object: Option<ObjectRef>,
    /// The BGP peer that told of it, and the node that this is.
    pub told_by: Option<(IpAddr, Option<Text>)>,
    /// Seconds since it was written; `None` if that is not known.
    pub age_secs: Option<u64>,
}

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RouteWay {
    /// On, out of the interface.
    Forward,
    /// To a process here.
    Local,
    /// Dropped.
    Blackhole,
    /// Refused: `unreachable`, `prohibit`, or none matched.
    Unreachable,
}
