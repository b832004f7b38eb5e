//! What an operator sets for a speaker and for each of its peers.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use portolan_model::Family;
use portolan_model::network::{Community, FilterRule, NextHopMode};

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
    /// Learned prefixes outside all of these are not told to other peers. Empty: every one may be.
    pub relay_within: Vec<IpNet>,
    /// We reflect routes between peers of our AS (RFC 4456), as a member of this cluster. `None`: we do not.
    pub cluster_id: Option<Ipv4Addr>,
    /// Most next hops of one route (ECMP), at least 1.
    pub max_gateways: usize,
    /// This process follows another one whose routes still stand in the kernel. `None`: the node begins from nothing.
    pub restarted: Option<Restarted>,
}

/// What a former life of this speaker left behind (RFC 4724 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restarted {
    /// Packets of these families went on being forwarded by the routes that were in the kernel: read it, never guess.
    pub forwarding: Families,
    /// Peers that have not told everything by then are no longer waited for.
    pub wait: Duration,
}

/// Address families of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Families {
    /// IPv4 unicast.
    pub v4: bool,
    /// IPv6 unicast.
    pub v6: bool,
}

impl Families {
    /// Both.
    pub const BOTH: Self = Self { v4: true, v6: true };
    /// None.
    pub const NONE: Self = Self { v4: false, v6: false };

    /// Whether `family` is one of them.
    pub fn has(self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
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
            relay_within: Vec::new(),
            cluster_id: None,
            max_gateways: 64,
            restarted: None,
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

/// Rules of a filter, in order: the first that fits decides. What none fits is accepted as it is.
pub type Policy = Arc<[FilterRule]>;

/// Settings of one peer, keyed by its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its AS: ours for the mesh of nodes (iBGP), another for a router of the fabric (eBGP).
    pub asn: Asn,
    /// As who we present ourselves, if not by [`SpeakerConfig::asn`].
    pub local_asn: Option<Asn>,
    /// Other addresses that its connections may come from.
    pub also_from: Vec<IpAddr>,
    /// Hold time that we propose to it, if not [`SpeakerConfig::hold_time_secs`].
    pub hold_time_secs: Option<u16>,
    /// We never dial it.
    pub passive: bool,
    /// It is a client of our route reflection (RFC 4456).
    pub client: bool,
    /// Next hop that it is told.
    pub next_hop: NextHopMode,
    /// How often our own AS may stand in the AS_PATH of what it tells us.
    pub own_as_allowed: u8,
    /// Decides on what it tells us.
    pub import: Policy,
    /// Decides on what we tell it.
    pub export: Policy,
    /// How long each side keeps the other's routes after a session broke (RFC 4724), in seconds; 0: not at all.
    pub restart_secs: u16,
    /// All paths are told, and several are taken (RFC 7911), if the peer can do so too.
    pub add_path: bool,
    /// It is no node of the mesh: it is not told prefixes that are `mesh_only`.
    pub outside_mesh: bool,
    /// Families that we offer it, of those that we have an address of.
    pub families: Families,
    /// More prefixes than these end the session, which is dialled again after a while.
    pub max_prefixes: u32,
}

impl PeerConfig {
    /// A peer with the field's defaults: graceful restart of 120 s, both families, no filters, at most 2,000,000 prefixes.
    pub fn new(asn: Asn) -> Self {
        Self {
            asn,
            local_asn: None,
            also_from: Vec::new(),
            hold_time_secs: None,
            passive: false,
            client: false,
            next_hop: NextHopMode::Auto,
            own_as_allowed: 0,
            import: Policy::default(),
            export: Policy::default(),
            restart_secs: 120,
            add_path: false,
            outside_mesh: false,
            families: Families::BOTH,
            max_prefixes: 2_000_000,
        }
    }
}

/// How an own prefix is told to peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Export {
    /// Communities that it carries.
    pub communities: Vec<Community>,
    /// Only nodes of the mesh are told.
    pub mesh_only: bool,
    /// It stands for all that lies inside it: that is not told to anybody, but for what is `specific`.
    pub aggregate: bool,
    /// It is told although an aggregate covers it.
    pub specific: bool,
    /// The kernel's metric of it, which filters may ask for.
    pub metric: Option<u32>,
}
