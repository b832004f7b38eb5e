//! Options: what kube-proxy's configuration may change in the rules. Fixed while the agent runs, but for DNS.

use std::net::IpAddr;

use portolan_model::Family;

/// Options of the iptables planner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The mark that asks for masquerade: one bit, bit 14 by default.
    pub masquerade_mark: u32,
    /// Masquerade whatever goes to a ClusterIP, pods' packets too.
    pub masquerade_all: bool,
    /// Ports of masqueraded flows chosen at random (iptables 1.6.2 and up).
    pub random_fully: bool,
    /// Node ports answer on 127.0.0.1 too. IPv4 only; the agent must set `route_localnet`.
    pub localhost_node_ports: bool,
    /// Where node ports answer.
    pub node_ports_on: NodePortsOn,
    /// Drop forwarded packets that conntrack calls invalid; off where `nf_conntrack_tcp_be_liberal` is set.
    pub drop_invalid: bool,
    /// Masquerade what pods send out of the cluster.
    pub egress_snat: bool,
    /// Who answers at the cluster DNS address.
    pub dns: DnsPath,
    /// Above so many endpoints, comments are left off the rules of single endpoints, as kube-proxy does.
    pub comment_limit: usize,
}

/// Addresses on which node ports answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortsOn {
    /// Every address of the node.
    EveryAddress,
    /// These, chosen by `nodePortAddresses`.
    Addresses(Vec<IpAddr>),
}

/// Who answers at the cluster DNS address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsPath {
    /// This node, on its own `lo`: port 53 stays out of conntrack.
    ThisNode,
    /// The Service's endpoints, by its rules as any other.
    Service,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            masquerade_mark: 0x4000,
            masquerade_all: false,
            random_fully: true,
            localhost_node_ports: true,
            node_ports_on: NodePortsOn::EveryAddress,
            drop_invalid: true,
            egress_snat: true,
            dns: DnsPath::Service,
            comment_limit: 1000,
        }
    }
}

impl Options {
    /// Node ports answer on loopback, so loopback must be closed to packets from elsewhere.
    pub fn closes_loopback(&self, family: Family) -> bool {
        let loopback_listed = match &self.node_ports_on {
            NodePortsOn::EveryAddress => true,
            NodePortsOn::Addresses(list) => list.iter().any(|addr| addr.is_loopback()),
        };
        family == Family::V4 && self.localhost_node_ports && loopback_listed
    }
}
