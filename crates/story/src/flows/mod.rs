//! Flows: live connections in the words of Kubernetes, as the conntrack tables of all nodes know them.
//!
//! ```text
//!  agent of node-1: entries ─► Names (its snapshot) ─► NodeFlows ─┐
//!  agent of node-2: entries ─► Names (its snapshot) ─► NodeFlows ─┼─► joined ─► Flow, each once ─► text, JSON
//!                                          `Only`: what travels ──┘
//! ```
//!
//! Two nodes that a connection passes know it by two entries. What left the first is what came to the second, so the
//! entries join by their tuples, and who wants one Service's alone asks twice: for the entries that name it, and then for
//! those that join to them. Conntrack does not say which Service a connection was made to: its first destination does, by the
//! snapshot of now. This room reads no table itself. Spec of an entry: `nfnetlink_conntrack.h`.

mod answer;
mod changes;
mod join;
mod names;
mod rates;
mod rest;
mod text;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use portolan_dataplane::meaning::Door;
use portolan_model::{NsName, Proto, ServicePortKey, Text};
use serde::{Deserialize, Serialize};

use crate::evidence::Header;

pub use answer::{add, answer};
pub use changes::{Change, What, changes};
pub use join::{ends, joined};
pub use names::Names;
pub use rates::{EndpointRate, NodeRates, Opened, Rate, Rates, ServiceRate, TOP_SCHEMA, merged};
pub use rest::{Nameless, name_rest};
pub use text::{change_line, rates_text, table};

/// Version of [`Flows`]' shape.
pub const SCHEMA: &str = "portolan.flows/v1";

/// A conntrack entry with ports, as a kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// What the client sent, as it came to this node.
    pub original: Header,
    /// What answers look like, as they come to this node.
    pub reply: Header,
    /// In the kernel's words, such as `ESTABLISHED`; `None` for UDP.
    pub state: Option<Text>,
    /// An answer was seen.
    pub answered: bool,
    /// Seconds until it is forgotten, if no packet comes.
    pub timeout_secs: u32,
    /// Bytes from the client and to it; `None` where the node does not count them (`nf_conntrack_acct`).
    pub carried: Option<(u64, u64)>,
    /// Seconds since it began; `None` where the node does not note it (`nf_conntrack_timestamp`).
    pub age_secs: Option<u64>,
}

/// The header of a packet from the client as it leaves this node: what answers look like, turned round.
pub(crate) fn left(reply: &Header) -> Header {
    Header { src: reply.dst, dst: reply.src, proto: reply.proto }
}

/// Which flows are asked for; all that are set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Only {
    /// Made to this Service.
    pub service: Option<NsName>,
    /// From this pod or to it.
    pub pod: Option<NsName>,
    /// Known to this node.
    pub node: Option<Text>,
}

/// What an agent is asked: `POST /portolan/v1/flows`. Without `joining`, for its entries that `only` names; a Service is
/// found by its addresses and a pod by its own, so that others' connections travel nowhere. With it, for those
/// that came in, or left, with one of these headers: the rest of connections that another node told of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ask {
    /// Which.
    pub only: Only,
    /// The addresses of that pod, which not every node knows; none where it has its node's.
    pub addresses: Vec<IpAddr>,
    /// Headers, as [`ends`] finds them.
    pub joining: Vec<Header>,
}

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Who {
    /// A pod, by its own address; or one with its node's address, where it is an endpoint of the Service that was asked.
    Pod {
        /// Which.
        pod: NsName,
        /// Where it runs.
        node: Option<Text>,
    },
    /// A node: a process on it, or a pod with its node's address.
    Node {
        /// Which.
        name: Text,
    },
    /// An address of the pods' range, and no pod that is known has it.
    Gone,
    /// None of the cluster's.
    Outside,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Party {
    /// Who has the address, as far as the snapshot of now says.
    pub who: Who,
    /// Address and port.
    pub at: SocketAddr,
}

/// What a client sent to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum SentTo {
    /// A service port.
    #[serde(rename_all = "camelCase")]
    Service {
        /// Which.
        service: ServicePortKey,
        /// By which of its addresses.
        door: Door,
    },
    /// A port of a node that leads to a pod.
    HostPort {
        /// Which pod.
        pod: NsName,
    },
    /// The address itself: no Service has it.
    Itself,
}

/// One node's conntrack entry with names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeFlow {
    /// What the client sent, as it came to this node.
    pub original: Header,
    /// What answers look like, as they come to this node.
    pub reply: Header,
    /// In the kernel's words; `None` for UDP.
    pub state: Option<Text>,
    /// An answer was seen.
    pub answered: bool,
    /// Seconds until it is forgotten, if no packet comes.
    pub timeout_secs: u32,
    /// Bytes from the client and to it.
    pub carried: Option<(u64, u64)>,
    /// Seconds since it began.
    pub age_secs: Option<u64>,
    /// Who has `original.src`.
    pub client: Who,
    /// What `original.dst` is.
    pub sent_to: SentTo,
    /// Who has `reply.src`.
    pub endpoint: Who,
}

/// What one node answers: `GET /portolan/v1/flows`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeFlows {
    /// The node.
    pub node: Text,
    /// Entries with ports in its table, those included that nobody asked for.
    pub tracked: usize,
    /// Those asked for.
    pub flows: Vec<NodeFlow>,
}

/// A connection, told once though several nodes know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// Transport.
    pub proto: Proto,
    /// Who began it, as far back as a node saw it.
    pub client: Party,
    /// What it was sent to.
    pub sent_to: SentTo,
    /// The address it was sent to.
    pub to: SocketAddr,
    /// Who answers, as far on as a node saw it.
    pub endpoint: Party,
    /// In the words of the kernel of the node that saw it first; `None` for UDP.
    pub state: Option<Text>,
    /// An answer was seen.
    pub answered: bool,
    /// Seconds until every node has forgotten it, if no packet comes.
    pub timeout_secs: u32,
    /// Bytes from the client and to it; `None` where nobody counts them.
    pub carried: Option<(u64, u64)>,
    /// Seconds since it began; `None` where nobody notes it.
    pub age_secs: Option<u64>,
    /// Where addresses were rewritten, in the order of the way there. Answers are turned back by the same entries.
    pub nat: Vec<Nat>,
    /// Nodes that know it, in the order of the way there.
    pub nodes: Vec<Text>,
}

/// What one node rewrites of a connection's packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Nat {
    /// The node.
    pub node: Text,
    /// The destination, before and after.
    pub destination: Option<(SocketAddr, SocketAddr)>,
    /// The source, before and after.
    pub source: Option<(SocketAddr, SocketAddr)>,
}

/// What `portolan flows --output json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flows {
    /// [`SCHEMA`].
    pub schema: Text,
    /// Connections, by client.
    pub flows: Vec<Flow>,
    /// Nodes that did not answer: theirs are missing.
    pub silent: Vec<Silent>,
}

/// A node that did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Silent {
    /// Which.
    pub node: Text,
    /// Why, in one line.
    pub why: String,
}

impl Who {
    /// It is this pod.
    pub fn is_pod(&self, key: &NsName) -> bool {
        matches!(self, Self::Pod { pod, .. } if pod == key)
    }

    /// The node that has the address, or that the pod runs on.
    pub fn node(&self) -> Option<&Text> {
        match self {
            Self::Pod { node, .. } => node.as_ref(),
            Self::Node { name } => Some(name),
            Self::Gone | Self::Outside => None,
        }
    }
}

impl SentTo {
    /// It is a port of this Service.
    pub fn is_service(&self, key: &NsName) -> bool {
        matches!(self, Self::Service { service, .. } if service.service == *key)
    }
}

impl Only {
    /// Whether `node` is to be asked for what is named. A Service or pod may be named by another node's entries alone.
    pub fn asks_first(&self, node: &Text) -> bool {
        let is_named = self.service.is_some() || self.pod.is_some();
        is_named || self.node.as_ref().is_none_or(|wanted| wanted == node)
    }

    /// A joined connection is one of those asked for.
    pub fn keeps(&self, flow: &Flow) -> bool {
        self.service.as_ref().is_none_or(|key| flow.sent_to.is_service(key))
            && self.pod.as_ref().is_none_or(|key| flow.client.who.is_pod(key) || flow.endpoint.who.is_pod(key))
            && self.node.as_ref().is_none_or(|name| flow.nodes.contains(name))
    }
}

impl Flow {
    /// What tells it from others at one time: as it was first seen.
    pub fn key(&self) -> (Proto, SocketAddr, SocketAddr) {
        (self.proto, self.client.at, self.to)
    }
}
