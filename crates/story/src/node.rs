//! What another program must know of a node to plan what it plans: the answer of `GET /portolan/v1/settings`.

use std::net::IpAddr;

use portolan_dataplane::iptables::{self, DnsPath};
use portolan_dataplane::nftables;
use portolan_model::{Family, Settings, Text};
use serde::{Deserialize, Serialize};

use crate::evidence::Backend;

/// A node's settings, as its agent runs with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSettings {
    /// Ranges and names of the cluster, the node's own name, and what its proxy is told.
    pub settings: Settings,
    /// How its rules are written.
    pub backend: Backend,
    /// iptables mode by iptables-legacy: its kernel tells of no rules.
    pub legacy: bool,
    /// Families that have rules.
    pub families: Vec<Family>,
    /// The mark that asks for masquerade: one bit.
    pub masquerade_mark: u32,
    /// Ports of masqueraded flows are chosen at random.
    pub random_ports: bool,
    /// iptables mode: forwarded packets that conntrack calls invalid are dropped.
    pub drop_invalid: bool,
    /// iptables mode: above so many endpoints rules of single endpoints have no comments.
    pub comment_limit: usize,
    /// Who answers cluster DNS, now.
    pub dns: DnsAnswered,
    /// Its link to the other nodes.
    pub lan_interface: Text,
    /// Its addresses there, one per family.
    pub addresses: Vec<IpAddr>,
}

/// Who answers at the cluster DNS address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DnsAnswered {
    /// This node, past conntrack.
    ThisNode,
    /// The Service's endpoints.
    Service,
}

impl From<DnsPath> for DnsAnswered {
    fn from(path: DnsPath) -> Self {
        match path {
            DnsPath::ThisNode => Self::ThisNode,
            DnsPath::Service => Self::Service,
        }
    }
}

impl From<DnsAnswered> for DnsPath {
    fn from(who: DnsAnswered) -> Self {
        match who {
            DnsAnswered::ThisNode => Self::ThisNode,
            DnsAnswered::Service => Self::Service,
        }
    }
}

impl NodeSettings {
    /// What its iptables planner is told.
    pub fn iptables_options(&self) -> iptables::Options {
        iptables::Options {
            masquerade_mark: self.masquerade_mark,
            random_fully: self.random_ports,
            drop_invalid: self.drop_invalid,
            dns: self.dns.into(),
            comment_limit: self.comment_limit,
        }
    }

    /// What its nftables planner is told.
    pub fn nftables_options(&self) -> nftables::Options {
        nftables::Options {
            masquerade_mark: self.masquerade_mark,
            fully_random: self.random_ports,
            dns: self.dns.into(),
        }
    }
}
