//! Names: sets, maps and chains of the table, and the shape of each set.
//!
//! A *door* is a way into a list of endpoints: what sort of destination it is, and which of the two lists it leads to.
//! Destinations stand in one set per door and count of endpoints, since a chain's `numgen` has a fixed modulus.

use portolan_model::{Family, Text};

use crate::nftables::lang::{Field, SetShape, Type};

/// The table, in families `ip` and `ip6`.
pub const TABLE: &str = "portolan";
/// Base chains that keep cluster DNS out of conntrack while this node answers it: what comes, and what the node sends.
pub const DNS_CHAINS: [&str; 2] = ["raw-prerouting", "raw-output"];
/// An empty set that says how the rest is laid out; a table without it is made anew.
pub const LAYOUT: &str = "layout-1";
/// Clients and the endpoints they stay with; filled by the kernel.
pub const CLIENTS: &str = "affinity-clients";
/// Clients remembered at once; about 200 bytes of kernel memory each.
pub const MOST_CLIENTS: u32 = 262_144;
/// Counts up to this have a rule in their door's own chain; higher ones are reached by way of a group.
pub const MOST_DIRECT: u32 = 16;

/// A way into a list of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Door {
    ClusterIps,
    /// External and load balancer addresses of policy Cluster.
    External,
    /// Those of policy Local: what pods and the node itself send there.
    ExternalLocalToCluster,
    /// Those of policy Local: what comes from outside.
    ExternalLocalToLocal,
    NodePorts,
    NodePortsLocalToCluster,
    NodePortsLocalToLocal,
}

impl Door {
    /// All doors.
    pub const ALL: [Self; 7] = [
        Self::ClusterIps,
        Self::External,
        Self::ExternalLocalToCluster,
        Self::ExternalLocalToLocal,
        Self::NodePorts,
        Self::NodePortsLocalToCluster,
        Self::NodePortsLocalToLocal,
    ];

    /// As it stands in names of sets and chains.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClusterIps => "cluster-ips",
            Self::External => "external",
            Self::ExternalLocalToCluster => "external-local-to-cluster",
            Self::ExternalLocalToLocal => "external-local-to-local",
            Self::NodePorts => "node-ports",
            Self::NodePortsLocalToCluster => "node-ports-local-to-cluster",
            Self::NodePortsLocalToLocal => "node-ports-local-to-local",
        }
    }

    /// Its destinations are addresses with ports; else ports of the node.
    pub fn is_by_address(self) -> bool {
        !matches!(self, Self::NodePorts | Self::NodePortsLocalToCluster | Self::NodePortsLocalToLocal)
    }

    /// The map that holds its endpoints.
    pub fn endpoints(self) -> SetId {
        match self {
            Self::ClusterIps | Self::External | Self::ExternalLocalToCluster => SetId::Endpoints,
            Self::ExternalLocalToLocal => SetId::EndpointsLocal,
            Self::NodePorts | Self::NodePortsLocalToCluster => SetId::NodePortEndpoints,
            Self::NodePortsLocalToLocal => SetId::NodePortEndpointsLocal,
        }
    }

    /// What of a packet names a destination behind it.
    pub fn key(self) -> Vec<Field> {
        match self.is_by_address() {
            true => vec![Field::Destination, Field::Proto, Field::Port],
            false => vec![Field::Proto, Field::Port],
        }
    }

    /// The same of what the client sent, before DNAT.
    pub fn original_key(self) -> Vec<Field> {
        match self.is_by_address() {
            true => vec![Field::OriginalDestination, Field::Proto, Field::OriginalPort],
            false => vec![Field::Proto, Field::OriginalPort],
        }
    }

    fn key_types(self) -> Vec<Type> {
        match self.is_by_address() {
            true => vec![Type::Addr, Type::Proto, Type::Port],
            false => vec![Type::Proto, Type::Port],
        }
    }

    /// The chain that sends what matched on to one of `count` endpoints.
    pub fn pick_chain(self, count: u32) -> Text {
        format!("pick-{}-{count}", self.name()).into()
    }

    /// The chain of the group of counts that `count` belongs to.
    pub fn group_chain(self, count: u32) -> Text {
        let (first, last) = group(count);
        format!("group-{}-{first}-{last}", self.name()).into()
    }
}

/// First and last count of the group that `count` belongs to: 17-32, 33-64 and so on.
pub fn group(count: u32) -> (u32, u32) {
    let last = count.next_power_of_two();
    (last / 2 + 1, last)
}

/// Which set or map, without its name. The order is that in which a Service's elements are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetId {
    /// Destination and slot to endpoint: address destinations, their own or the cluster list.
    Endpoints,
    /// The local lists of address destinations of policy Local.
    EndpointsLocal,
    /// The same for node ports.
    NodePortEndpoints,
    /// The local lists of node ports of policy Local.
    NodePortEndpointsLocal,
    /// Each endpoint's address with itself: an endpoint that came back to itself.
    Hairpin,
    /// Ids whose clients are remembered for so many seconds.
    Timeout(u32),
    /// Destination to the id of its clients.
    Affinity(Door),
    /// Destinations with so many endpoints.
    Count(Door, u32),
    /// Destinations with so many endpoints or a few less, named by the highest count of the group.
    Group(Door, u32),
    /// Class: all ClusterIPs.
    ClusterIps,
    /// Class: external destinations of policy Cluster.
    External,
    /// Class: external destinations of policy Local.
    ExternalLocal,
    /// Class: node ports of policy Cluster.
    NodePorts,
    /// Class: node ports of policy Local.
    NodePortsLocal,
    /// Destinations nobody serves anywhere: refused.
    NoEndpoints,
    /// Destinations nobody serves here: dropped.
    NoLocalEndpoints,
    /// Node ports nobody serves anywhere.
    NodePortsNoEndpoints,
    /// Node ports nobody serves here.
    NodePortsNoLocalEndpoints,
    /// Load balancer destinations with source ranges.
    Guarded,
    /// Destination and source net of this length that may use it.
    Allowed(u8),
    /// Addresses on which node ports answer, where it is not every local one.
    NodePortAddresses,
    /// Ports of the node that lead to one of its pods.
    HostPorts,
    /// The same at one of the node's addresses.
    HostPortsAt,
}

impl SetId {
    /// Sets that are there even if empty.
    pub const ALWAYS: [Self; 14] = [
        Self::Endpoints,
        Self::EndpointsLocal,
        Self::NodePortEndpoints,
        Self::NodePortEndpointsLocal,
        Self::Hairpin,
        Self::ClusterIps,
        Self::External,
        Self::ExternalLocal,
        Self::NodePorts,
        Self::NodePortsLocal,
        Self::NoEndpoints,
        Self::NoLocalEndpoints,
        Self::NodePortsNoEndpoints,
        Self::NodePortsNoLocalEndpoints,
    ];

    /// It is there only while something is in it.
    pub fn comes_and_goes(self) -> bool {
        !Self::ALWAYS.contains(&self) && self != Self::NodePortAddresses
    }

    /// Its name.
    pub fn name(self) -> Text {
        match self {
            Self::Endpoints => "endpoints".into(),
            Self::EndpointsLocal => "endpoints-local".into(),
            Self::NodePortEndpoints => "node-port-endpoints".into(),
            Self::NodePortEndpointsLocal => "node-port-endpoints-local".into(),
            Self::Hairpin => "hairpin".into(),
            Self::Timeout(seconds) => format!("affinity-{seconds}").into(),
            Self::Affinity(door) => format!("affinity-{}", door.name()).into(),
            Self::Count(door, count) => format!("{}-{count}", door.name()).into(),
            Self::Group(door, last) => format!("{}-{}-{last}", door.name(), last / 2 + 1).into(),
            Self::ClusterIps => "cluster-ips".into(),
            Self::External => "external".into(),
            Self::ExternalLocal => "external-local".into(),
            Self::NodePorts => "node-ports".into(),
            Self::NodePortsLocal => "node-ports-local".into(),
            Self::NoEndpoints => "no-endpoints".into(),
            Self::NoLocalEndpoints => "no-local-endpoints".into(),
            Self::NodePortsNoEndpoints => "node-ports-no-endpoints".into(),
            Self::NodePortsNoLocalEndpoints => "node-ports-no-local-endpoints".into(),
            Self::Guarded => "guarded".into(),
            Self::Allowed(bits) => format!("allowed-{bits}").into(),
            Self::NodePortAddresses => "node-port-addresses".into(),
            Self::HostPorts => "host-ports".into(),
            Self::HostPortsAt => "host-ports-at".into(),
        }
    }

    /// Its shape; the same in both families.
    pub fn shape(self) -> SetShape {
        let destination = || Door::ClusterIps.key_types();
        let port = || Door::NodePorts.key_types();
        let set = |key| SetShape { key, data: None, dynamic: None };
        let endpoint = |key| SetShape { key, data: Some(vec![Type::Addr, Type::Port]), dynamic: None };
        let slots = |mut key: Vec<Type>| {
            key.push(Type::Slot);
            endpoint(key)
        };
        match self {
            Self::Endpoints | Self::EndpointsLocal => slots(destination()),
            Self::NodePortEndpoints | Self::NodePortEndpointsLocal => slots(port()),
            Self::HostPorts => endpoint(port()),
            Self::HostPortsAt => endpoint(destination()),
            Self::Hairpin => set(vec![Type::Addr, Type::Addr]),
            Self::Timeout(_) => set(vec![Type::Id]),
            Self::Affinity(door) => SetShape { key: door.key_types(), data: Some(vec![Type::Id]), dynamic: None },
            Self::Count(door, _) | Self::Group(door, _) => set(door.key_types()),
            Self::ClusterIps | Self::NodePortAddresses => set(vec![Type::Addr]),
            Self::External | Self::ExternalLocal | Self::NoEndpoints | Self::NoLocalEndpoints | Self::Guarded => {
                set(destination())
            }
            Self::NodePorts | Self::NodePortsLocal | Self::NodePortsNoEndpoints | Self::NodePortsNoLocalEndpoints => {
                set(port())
            }
            Self::Allowed(_) => set(vec![Type::Addr, Type::Proto, Type::Port, Type::Addr]),
        }
    }
}

/// The shape of [`CLIENTS`].
pub fn clients_shape() -> SetShape {
    SetShape {
        key: vec![Type::Addr, Type::Proto, Type::Id],
        data: Some(vec![Type::Addr, Type::Port]),
        dynamic: Some(MOST_CLIENTS),
    }
}

/// The shape of [`LAYOUT`].
pub fn layout_shape() -> SetShape {
    SetShape { key: vec![Type::Id], data: None, dynamic: None }
}

/// Bits of a whole address.
pub fn address_bits(family: Family) -> u8 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

/// A comment as the kernel keeps it: at most 128 bytes.
pub fn comment(text: &str) -> Text {
    let end = (0..=text.len().min(128)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].into()
}
