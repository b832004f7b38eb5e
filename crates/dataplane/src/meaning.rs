//! Meaning: what a rule is there for, in the words of Kubernetes. Each backend says it of its own rules.

use std::fmt;
use std::net::SocketAddr;

use portolan_model::{NsName, ObjectRef, Proto, ServicePortKey, Text};
use serde::{Deserialize, Serialize};

/// What a rule is there for, and whose fault it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "camelCase")]
pub enum Meaning {
    /// Leads from the kernel's own chains, or from one of ours, to where something is decided.
    Leads,
    /// The packet's destination is this service port.
    #[serde(rename_all = "camelCase")]
    Claims {
        /// Whose.
        service: ServicePortKey,
        /// By which of its addresses.
        door: Door,
    },
    /// One of its endpoints is chosen, by chance or affinity; the destination is not written yet (KUBE-SVC to KUBE-SEP).
    #[serde(rename_all = "camelCase")]
    Chooses {
        /// Whose endpoint.
        service: ServicePortKey,
        /// Which.
        endpoint: SocketAddr,
        /// It was chosen since the client had it before.
        bound: bool,
    },
    /// The destination becomes this endpoint's address.
    #[serde(rename_all = "camelCase")]
    SendsTo {
        /// Whose endpoint.
        service: ServicePortKey,
        /// Which.
        endpoint: SocketAddr,
        /// This rule chose it too, since the client had it before; false where a rule before it chose.
        #[serde(default)]
        bound: bool,
    },
    /// The destination becomes a local pod's address: a host port.
    HostPort {
        /// The pod.
        pod: NsName,
        /// Where it is.
        to: SocketAddr,
    },
    /// The source is to become this node's address.
    #[serde(rename_all = "camelCase")]
    MarksMasquerade {
        /// Whose rule; `None` where Services share it.
        service: Option<ServicePortKey>,
        /// Why.
        because: Masqueraded,
    },
    /// The source becomes this node's address.
    Masquerades {
        /// Why.
        because: Masqueraded,
    },
    /// The source would become this node's address; it does not.
    KeepsSource,
    /// Refused, and the sender is told.
    #[serde(rename_all = "camelCase")]
    Refuses {
        /// Whose rule; `None`: an address of the Service range that no port claims.
        service: Option<ServicePortKey>,
        /// Why.
        because: TurnedAway,
    },
    /// Dropped in silence.
    #[serde(rename_all = "camelCase")]
    Drops {
        /// Whose rule.
        service: Option<ServicePortKey>,
        /// Why.
        because: TurnedAway,
    },
    /// Let through where a later rule might not.
    Lets,
    /// Conntrack does not see it: cluster DNS, answered by this node.
    KeepsUntracked,
    /// The client is remembered, or asked for, by session affinity.
    Remembers {
        /// Whose clients.
        service: ServicePortKey,
    },
    /// Ours, and nothing that the packet's way depends on.
    Plumbing,
    /// Somebody else's.
    Foreign,
}

/// By which address a Service was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Door {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// `spec.externalIPs`.
    External,
    /// `status.loadBalancer.ingress`.
    LoadBalancer,
    /// A port of the node.
    NodePort,
}

/// Why a source address is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Masqueraded {
    /// `! -s <cluster range>`: the sender of a ClusterIP's packet is no pod.
    NotFromPod,
    /// It came by an external door with policy Cluster: the answer must pass this node again.
    External,
    /// The node itself sends to an external door of policy Local: it may be sent on to any node, and must be answered here.
    FromNode,
    /// A pod reaches itself and must not see its own address.
    Hairpin,
    /// `--masquerade-all`.
    All,
    /// A pod's packet leaves the cluster.
    LeavesCluster,
    /// A host port reached from its own pod or node.
    HostPort,
    /// Marked before, for a reason that this rule does not know.
    Marked,
}

/// Why a packet is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TurnedAway {
    /// No endpoint anywhere can take it.
    NoEndpoints,
    /// There are endpoints, but none on this node, and the policy is Local.
    NoLocalEndpoints,
    /// The client is in none of `spec.loadBalancerSourceRanges`.
    SourceRange,
    /// No port of that ClusterIP is this one, or nobody has that address.
    NoSuchPort,
    /// Loopback is closed to what comes from elsewhere.
    Loopback,
    /// Conntrack calls it invalid.
    Invalid,
}

impl Meaning {
    /// The service port it speaks of.
    pub fn service(&self) -> Option<&ServicePortKey> {
        match self {
            Self::Claims { service, .. }
            | Self::Chooses { service, .. }
            | Self::SendsTo { service, .. }
            | Self::Remembers { service } => Some(service),
            Self::MarksMasquerade { service, .. } | Self::Refuses { service, .. } | Self::Drops { service, .. } => {
                service.as_ref()
            }
            _ => None,
        }
    }
}

/// A packet as it comes to a rule: what a rule for many Services is asked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Source.
    pub src: SocketAddr,
    /// Destination, as rules wrote it until now.
    pub dst: SocketAddr,
    /// Destination as it came in, or was sent.
    pub original_dst: SocketAddr,
    /// Transport.
    pub proto: Proto,
    /// Destination after this base chain: what a DNAT in it made of the packet.
    pub after: SocketAddr,
}

/// A rule as it is shown to people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleTold {
    /// In the words of the field: a line of `iptables-save` without `-A CHAIN`, or a rule as `nft list` prints it.
    pub text: Text,
    /// What it is there for.
    pub meaning: Meaning,
    /// Objects that caused it, nearest first: the Service, the EndpointSlice, the Pod.
    pub objects: Vec<ObjectRef>,
}

/// A rule, or an element of a set or map, where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InPlace {
    /// `nat`, `filter`, `raw` of iptables; `ip portolan`, `ip6 portolan` of nf_tables.
    pub table: Text,
    /// The chain, the set or the map.
    pub name: Text,
    /// A rule's place in its chain from 1, as `iptables -L --line-numbers` counts; `None`: an element.
    pub number: Option<usize>,
    /// What it says and what it is there for.
    pub told: RuleTold,
}

/// `nat KUBE-SEP-… 2`, or `ip portolan endpoints { 10.96.0.20 . tcp . 80 . 0 … }`.
impl fmt::Display for InPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            Some(number) => write!(f, "{} {} {number}", self.table, self.name),
            None => write!(f, "{} {} {{ {} }}", self.table, self.name, self.told.text),
        }
    }
}
