//! What an operator sets for a speaker and for each of its peers.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use portolan_model::Family;

/// An autonomous system number, four octets (RFC 6793).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asn(pub u32);

impl Asn {
    /// The cluster's default: the first of the 16-bit private numbers (RFC 6996), as Calico uses.
    pub const CLUSTER: Self = Self(64512);
}

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AS{}", self.0)
    }
}

/// Our own addresses on the LAN, which peers get as next hop. A family without one is not offered to peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextHops {
    /// Next hop of IPv4 prefixes.
    pub v4: Option<Ipv4Addr>,
    /// Next hop of IPv6 prefixes: a global or unique local address.
    pub v6: Option<Ipv6Addr>,
}

impl NextHops {
    /// Those of a node with `addresses` (a Node's InternalIPs): the first of each family.
    pub fn of(addresses: &[IpAddr]) -> Self {
        let mut found = Self::default();
        for address in addresses {
            match address {
                IpAddr::V4(v4) => found.v4 = found.v4.or(Some(*v4)),
                IpAddr::V6(v6) => found.v6 = found.v6.or(Some(*v6)),
            }
        }
        found
    }

    /// Whether prefixes of `family` can be announced.
    pub fn has(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4.is_some(),
            Family::V6 => self.v6.is_some(),
        }
    }

    /// Whether `address` is one of ours.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.v4 == Some(v4),
            IpAddr::V6(v6) => self.v6 == Some(v6),
        }
    }
}

/// Settings of a node's speaker; fixed while it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpeakerConfig {
    /// Our AS.
    pub asn: Asn,
    /// BGP Identifier: unique among the nodes, not zero. A node's IPv4 address serves.
    pub router_id: Ipv4Addr,
    /// Our addresses on the LAN.
    pub next_hops: NextHops,
    /// Hold time that we propose: 0 (never expires, no keepalives) or at least 3. A session uses the lower of both
    /// sides' and sends a KEEPALIVE each third of it.
    pub hold_time_secs: u16,
    /// Wait before the first new attempt to connect; doubles with each failure.
    pub connect_retry: Duration,
    /// The wait stops growing here.
    pub connect_retry_max: Duration,
    /// Prefixes outside all of these are not taken from peers. Empty takes everything.
    pub accept_within: Vec<IpNet>,
}

impl SpeakerConfig {
    /// The field's defaults: AS 64512, hold time 90 s (RFC 4271 §10), attempts after 1 s, at most 10 s apart.
    pub fn new(router_id: Ipv4Addr, next_hops: NextHops) -> Self {
        Self {
            asn: Asn::CLUSTER,
            router_id,
            next_hops,
            hold_time_secs: 90,
            connect_retry: Duration::from_secs(1),
            connect_retry_max: Duration::from_secs(10),
            accept_within: Vec::new(),
        }
    }

    /// Wait before the next attempt after `failures` in a row.
    pub(crate) fn retry_after(&self, failures: u32) -> Duration {
        let grown = self.connect_retry.saturating_mul(1 << failures.min(16));
        grown.min(self.connect_retry_max)
    }

    /// Whether a prefix from a peer is inside what we take.
    pub(crate) fn accepts(&self, prefix: &IpNet) -> bool {
        self.accept_within.is_empty() || self.accept_within.iter().any(|range| range.contains(prefix))
    }
}

/// Settings of one peer, keyed by its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its AS: ours for the mesh of nodes (iBGP), another for a router of the fabric (eBGP).
    pub asn: Asn,
}
