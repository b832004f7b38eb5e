//! The verdict oracle: what may become of a connection's first packet at one node. Slow, plain, and written from the
//! documents before the planners that it judges.
//!
//! ```text
//!  Snapshot + Packet ──► who owns (dst, dport)? ClusterIP, then external, then node port, then host port
//!                    ──► endpoints by policy ──► Allowed (a set of outcomes)
//! ```
//!
//! It must never know rules, chains, sets or marks: only what Services promise. Where the two modes of a proxy differ by
//! design, [`Mode`] says whose promise is asked for; where a mode may do one or the other, the set holds both.
//!
//! Sources: Kubernetes "Virtual IPs and Service Proxies"; KEP-1669 (terminating endpoints), KEP-2086 (internal policy),
//! KEP-2433 and KEP-4444 (topology), KEP-3866 (which source addresses are rewritten); the CNI plugin portmap (host ports).

mod case;
mod host_ports;
mod scene;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::names::{Family, Proto};
use crate::snapshot::Snapshot;

use scene::Scene;

/// The first packet of a connection, as it comes to this node or leaves a process on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Packet {
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// Transport.
    pub proto: Proto,
    /// Destination port.
    pub dport: u16,
    /// How it came to the node's rules.
    pub arrival: Arrival,
}

/// How a packet came to the node's rules. What is sent bears an address of the node; what arrives does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arrival {
    /// A process on this node sends it, or a pod on its host network.
    Sent,
    /// It came in by this interface.
    By(Link),
}

/// The name of an interface as part of a packet: 15 bytes at most, copied like a number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    bytes: [u8; 15],
    len: u8,
}

/// Whose promise is asked for, where the two modes of a service proxy differ by design.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// What goes to no known port of a ClusterIP, or to an address nobody has, is let be; node ports may answer on
    /// 127.0.0.1; what the node itself sends to a foreign external address without endpoints leaves it.
    Iptables,
    /// A ClusterIP's other ports are refused and addresses nobody has are dropped; node ports never answer on loopback.
    Nftables,
}

/// What may become of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// Sent to an endpoint.
    Dnat {
        /// The endpoint.
        to: SocketAddr,
        /// It sees this node's address instead of the client's.
        masquerade: bool,
    },
    /// Refused, and the sender is told.
    Reject,
    /// Dropped in silence.
    Drop,
    /// Goes on to the destination it names.
    Untouched {
        /// The destination sees this node's address instead of the pod's.
        masquerade: bool,
    },
}

/// All outcomes that are right for one packet. A backend may pick any, and must be able to pick every `Dnat`.
pub type Allowed = BTreeSet<Outcome>;

/// What may become of `packet` at the node whose snapshot this is; its client has not been seen before.
pub fn judge(snapshot: &Snapshot, packet: &Packet, mode: Mode) -> Allowed {
    Scene { snapshot, packet, mode, bound: None }.judge()
}

/// The same for a client that session affinity binds to the endpoint `bound` of the packet's service port: it goes there
/// as long as that endpoint may be used for this packet, and anywhere otherwise. A Service without affinity binds nobody.
pub fn judge_bound(snapshot: &Snapshot, packet: &Packet, mode: Mode, bound: SocketAddr) -> Allowed {
    Scene { snapshot, packet, mode, bound: Some(bound) }.judge()
}

impl Packet {
    /// The family of its addresses.
    pub fn family(&self) -> Family {
        Family::of(self.dst)
    }

    /// A process on this node sends it.
    pub fn is_sent(&self) -> bool {
        self.arrival == Arrival::Sent
    }
}

impl Arrival {
    /// By the interface of this name.
    pub fn by(link: &str) -> Self {
        Self::By(Link::new(link))
    }

    /// The interface it came in by, if it came in.
    pub fn link(&self) -> Option<&str> {
        match self {
            Self::Sent => None,
            Self::By(link) => Some(link.as_str()),
        }
    }
}

impl Link {
    /// The interface of this name; what exceeds 15 bytes is cut off, as no interface has such a name.
    pub fn new(name: &str) -> Self {
        let end = (0..=name.len().min(15)).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
        let mut bytes = [0; 15];
        bytes[..end].copy_from_slice(&name.as_bytes()[..end]);
        Self { bytes, len: end as u8 }
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).expect("cut from a string at a character's border")
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `addr` is on an interface of this node: loopback, or an address that its kernel or its Node object told of.
pub fn is_node_address(snapshot: &Snapshot, addr: IpAddr) -> bool {
    let of_node = snapshot.own_node().is_some_and(|node| node.addresses.contains(&addr));
    addr.is_loopback() || of_node || snapshot.interface_addresses.contains(&addr)
}

/// `addr` is a pod's, as far as one can tell by the cluster's range.
pub fn in_pod_range(snapshot: &Snapshot, addr: IpAddr) -> bool {
    snapshot.cluster_cidr(Family::of(addr)).is_some_and(|range| range.contains(&addr))
}

#[cfg(test)]
#[path = "verdict_tests/mod.rs"]
mod tests;
