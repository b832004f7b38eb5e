//! The snapshot: facts resolved into what planners ask for, and the delta between two of them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::facts::{Attachment, Node, Pod, Service, ServicePortFact};
use crate::names::{Family, IfName, NsName, ObjectRef, Proto, Text};
use crate::network::{BgpConfiguration, BgpFilter, BgpPeer, BlockClaim, IpPool};
use crate::proxy::{NodePortAddresses, ProxySettings};

/// What an operator sets for a node; fixed while the agent runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The node we are.
    pub node: Text,
    /// All pods' ranges, one per family: the local detector of the proxy and the exclusion of SNAT.
    pub cluster_cidrs: Vec<IpNet>,
    /// Service ranges.
    pub service_cidrs: Vec<IpNet>,
    /// Addresses of the kube-dns Service that this node answers itself; empty where DNS is another's.
    pub cluster_dns: Vec<IpAddr>,
    /// Cluster domain without the final dot, such as `cluster.local`.
    pub cluster_domain: Text,
    /// What the service proxy does.
    pub proxy: ProxySettings,
}

/// The cluster as one node must act on it. Cheap to clone; maps share what did not change.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Operator's settings.
    pub settings: Arc<Settings>,
    /// All nodes.
    pub nodes: OrdMap<Text, Arc<Node>>,
    /// Namespaces that exist (pod records and NODATA ask).
    pub namespaces: OrdSet<Text>,
    /// Services with their endpoints.
    pub services: OrdMap<NsName, Arc<ServiceView>>,
    /// Pods of the whole cluster.
    pub pods: OrdMap<NsName, Arc<Pod>>,
    /// Pods attached to this node.
    pub attachments: OrdMap<NsName, Arc<Attachment>>,
    /// Routes this node's main table must hold.
    pub routes: OrdMap<IpNet, Arc<Route>>,
    /// Addresses on this node's interfaces, as told by its kernel; empty where nobody looked.
    pub interface_addresses: OrdSet<IpAddr>,
    /// Ranges that pods get addresses of; empty in a cluster whose Nodes' podCIDRs are all there is.
    pub pools: OrdMap<Text, Arc<IpPool>>,
    /// Ranges whose addresses are given to nobody.
    pub reservations: OrdMap<Text, Arc<Vec<IpNet>>>,
    /// Blocks of all nodes, those that are only about to be held too.
    pub blocks: OrdMap<IpNet, Arc<BlockClaim>>,
    /// Settings of BGP, by name: `default` and `node.NAME`.
    pub bgp_configurations: OrdMap<Text, Arc<BgpConfiguration>>,
    /// Who talks to whom, beside the mesh.
    pub bgp_peers: OrdMap<Text, Arc<BgpPeer>>,
    /// What of routes is told and taken.
    pub bgp_filters: OrdMap<Text, Arc<BgpFilter>>,
}

impl Snapshot {
    /// The snapshot of a cluster nobody told us anything of.
    pub fn empty(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            nodes: OrdMap::new(),
            namespaces: OrdSet::new(),
            services: OrdMap::new(),
            pods: OrdMap::new(),
            attachments: OrdMap::new(),
            routes: OrdMap::new(),
            interface_addresses: OrdSet::new(),
            pools: OrdMap::new(),
            reservations: OrdMap::new(),
            blocks: OrdMap::new(),
            bgp_configurations: OrdMap::new(),
            bgp_peers: OrdMap::new(),
            bgp_filters: OrdMap::new(),
        }
    }

    /// Our own Node, once it is known.
    pub fn own_node(&self) -> Option<&Arc<Node>> {
        self.nodes.get(&self.settings.node)
    }

    /// This node's blocks: those it holds for certain; where there are no pools, its Node's podCIDRs.
    pub fn own_blocks(&self) -> Vec<IpNet> {
        self.blocks_of(&self.settings.node)
    }

    /// The blocks of a node, as [`own_blocks`](Self::own_blocks).
    pub fn blocks_of(&self, node: &Text) -> Vec<IpNet> {
        if self.pools.is_empty() {
            return self
                .nodes
                .get(node)
                .map(|node| node.pod_cidrs.iter().map(IpNet::trunc).collect())
                .unwrap_or_default();
        }
        let held = self.blocks.iter().filter(|(_, claim)| claim.confirmed && claim.node == *node);
        held.map(|(block, _)| *block).collect()
    }

    /// The pool that an address is of: that with the longest range.
    pub fn pool_of(&self, addr: IpAddr) -> Option<(&Text, &Arc<IpPool>)> {
        let holding = self.pools.iter().filter(|(_, pool)| pool.cidr.contains(&addr));
        holding.max_by_key(|(_, pool)| pool.cidr.prefix_len())
    }

    /// Addresses on this node's interfaces of `family`: those its kernel told, else those of its Node object.
    pub fn local_addresses(&self, family: Family) -> Vec<IpAddr> {
        let told = self.interface_addresses.iter().copied();
        let of_node = self.own_node().into_iter().flat_map(|node| node.addresses.iter().copied());
        let mut all: Vec<IpAddr> = told.chain(of_node).filter(|addr| Family::of(*addr) == family).collect();
        all.sort();
        all.dedup();
        all
    }

    /// Our own Node's first address of `family`.
    pub fn primary_address(&self, family: Family) -> Option<IpAddr> {
        self.own_node()?.addresses.iter().copied().find(|addr| Family::of(*addr) == family)
    }

    /// Our own Node's pod range of `family`.
    pub fn node_cidr(&self, family: Family) -> Option<IpNet> {
        self.own_node()?.pod_cidrs.iter().copied().find(|net| Family::of(net.addr()) == family)
    }

    /// The addresses of `family` on which node ports answer, loopback among them if it is listed; `None`: every local
    /// one. As in kube-proxy a list that says nothing of a family, or holds its whole range, means every one.
    pub fn node_port_addresses(&self, family: Family) -> Option<Vec<IpAddr>> {
        match &self.settings.proxy.node_ports_on {
            NodePortAddresses::Every => None,
            NodePortAddresses::Primary => Some(self.primary_address(family).into_iter().collect()),
            NodePortAddresses::Within(ranges) => {
                let ranges: Vec<&IpNet> = ranges.iter().filter(|net| Family::of(net.addr()) == family).collect();
                let is_whole = ranges.is_empty() || ranges.iter().any(|net| net.prefix_len() == 0);
                let is_listed = |addr: &IpAddr| ranges.iter().any(|net| net.contains(addr));
                let mut all = self.local_addresses(family);
                all.push(loopback(family));
                all.retain(is_listed);
                all.sort();
                all.dedup();
                (!is_whole).then_some(all)
            }
        }
    }

    /// Node ports are to answer on 127.0.0.1 too, in a mode that can (iptables): the kernel must route it
    /// (`route_localnet`), and it must be closed to packets from elsewhere. Never in IPv6.
    pub fn opens_loopback(&self, family: Family) -> bool {
        let lists_loopback =
            || self.node_port_addresses(family).is_none_or(|list| list.iter().any(IpAddr::is_loopback));
        family == Family::V4 && self.settings.proxy.localhost_node_ports && lists_loopback()
    }

    /// The cluster's pod range of `family`.
    pub fn cluster_cidr(&self, family: Family) -> Option<IpNet> {
        self.settings.cluster_cidrs.iter().copied().find(|net| Family::of(net.addr()) == family)
    }
}

/// 127.0.0.1 or ::1.
fn loopback(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Family::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}

/// A Service joined with all its slices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceView {
    /// Its key.
    pub key: NsName,
    /// Its spec.
    pub spec: Arc<Service>,
    /// Its ports, in the object's order, each with the endpoints that listen for it.
    pub ports: Vec<ServicePort>,
    /// Its endpoints as hosts, ports aside: what DNS answers. One entry per address and name, sorted.
    pub hosts: Vec<Host>,
}

/// The identity of a service port: what kube-proxy calls the service port name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServicePortKey {
    /// The Service.
    pub service: NsName,
    /// Port name; empty if none.
    pub port: Text,
    /// Transport.
    pub proto: Proto,
}

/// Text form `ns/name:port`, or `ns/name` for a port without a name: what hashes and comments use.
impl fmt::Display for ServicePortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port.is_empty() {
            true => write!(f, "{}", self.service),
            false => write!(f, "{}:{}", self.service, self.port),
        }
    }
}

/// One port of a Service with its endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Who it is.
    pub key: ServicePortKey,
    /// Port, node port.
    pub spec: ServicePortFact,
    /// Endpoints of both families, merged over all slices by address and port, sorted as plain text of `ip:port`
    /// (kube-proxy's order: 10.0.0.10 before 10.0.0.9). A running entry wins over a terminating one. Port 53 of cluster
    /// DNS is without this node's own while another node's is ready.
    pub endpoints: Vec<Endpoint>,
}

/// Where a packet may be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Address.
    pub addr: IpAddr,
    /// Port at the endpoint.
    pub port: u16,
    /// Ready for new connections.
    pub ready: bool,
    /// Still answers, even if terminating.
    pub serving: bool,
    /// Its pod is going away.
    pub terminating: bool,
    /// The node it runs on.
    pub node: Option<Text>,
    /// The Pod behind it.
    pub pod: Option<NsName>,
    /// Zone hints.
    pub zone_hints: Vec<Text>,
    /// Node hints.
    pub node_hints: Vec<Text>,
}

impl Endpoint {
    /// `ip:port`, IPv6 in brackets: as comments, hashes and DNAT targets write it.
    pub fn target(&self) -> String {
        std::net::SocketAddr::new(self.addr, self.port).to_string()
    }
}

/// An endpoint as DNS sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host {
    /// Address.
    pub addr: IpAddr,
    /// `hostname` of the endpoint, if it has one.
    pub hostname: Option<Text>,
    /// Ready: in DNS.
    pub ready: bool,
    /// The Pod behind it.
    pub pod: Option<NsName>,
    /// Ports it offers: name, transport, number. Sorted. Hosts of one slice share them.
    pub ports: Arc<[crate::facts::SlicePort]>,
}

/// One route of the node's main table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Where to.
    pub kind: RouteKind,
    /// Why it is there.
    pub cause: RouteCause,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RouteKind {
    /// Out of `link`, scope link: a pod of this node.
    Link {
        /// Host end of the pod's veth.
        link: IfName,
    },
    /// Over the LAN by a next hop.
    Via {
        /// Next hop.
        gateway: IpAddr,
    },
    /// Dropped: addresses of our own block that no pod has.
    Blackhole,
}

/// Which object a route stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RouteCause {
    /// A local pod, or our own Node's block.
    Object(ObjectRef),
    /// A BGP peer's announcement.
    Bgp {
        /// The peer that told us.
        peer: IpAddr,
    },
}

/// Keys of the entries that differ between two snapshots (added, changed or gone).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Delta {
    pub namespaces: BTreeSet<Text>,
    pub nodes: BTreeSet<Text>,
    pub services: BTreeSet<NsName>,
    pub pods: BTreeSet<NsName>,
    pub attachments: BTreeSet<NsName>,
    pub routes: BTreeSet<IpNet>,
    /// Addresses came to interfaces of this node, or went.
    pub interface_addresses: BTreeSet<IpAddr>,
    pub pools: BTreeSet<Text>,
    pub reservations: BTreeSet<Text>,
    pub blocks: BTreeSet<IpNet>,
    pub bgp_configurations: BTreeSet<Text>,
    pub bgp_peers: BTreeSet<Text>,
    pub bgp_filters: BTreeSet<Text>,
}

impl Delta {
    /// Nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Everything in `snapshot`, as if all of it were new: what a planner starts from.
    pub fn all(snapshot: &Snapshot) -> Self {
        Self {
            namespaces: snapshot.namespaces.iter().cloned().collect(),
            nodes: snapshot.nodes.keys().cloned().collect(),
            services: snapshot.services.keys().cloned().collect(),
            pods: snapshot.pods.keys().cloned().collect(),
            attachments: snapshot.attachments.keys().cloned().collect(),
            routes: snapshot.routes.keys().cloned().collect(),
            interface_addresses: snapshot.interface_addresses.iter().copied().collect(),
            pools: snapshot.pools.keys().cloned().collect(),
            reservations: snapshot.reservations.keys().cloned().collect(),
            blocks: snapshot.blocks.keys().copied().collect(),
            bgp_configurations: snapshot.bgp_configurations.keys().cloned().collect(),
            bgp_peers: snapshot.bgp_peers.keys().cloned().collect(),
            bgp_filters: snapshot.bgp_filters.keys().cloned().collect(),
        }
    }
}
