//! The pod network as its operators set it: pools, blocks, and BGP, by the resources that Calico's users know.
//!
//! ```text
//!  IPPool, IPReservation ──► which addresses pods get         BlockAffinity ──► whose block is where
//!  BGPConfiguration, BGPPeer, BGPFilter ──► who talks BGP to whom, and of what
//! ```
//!
//! Plain values, as told; who joins them is `resolve` (routes), `peering` (sessions) and `portolan_cni` (addresses). Names and
//! meanings are those of `crd.projectcalico.org/v1`. A field that this network does not have (IPIP) is a complaint of
//! `ingest`, and no value here.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::names::{NsName, Text};
use crate::selector::Selector;

/// An `IPPool`: a range that pods (or load balancers) get addresses of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpPool {
    /// `spec.cidr`, without host bits.
    pub cidr: IpNet,
    /// `spec.blockSize`: prefix length of its blocks, 20..=32 (default 26) or 116..=128 (default 122).
    pub block_len: u8,
    /// `spec.vxlanMode`.
    pub vxlan: Encapsulated,
    /// `spec.natOutgoing`: what leaves all pools gets the node's address.
    pub nat_outgoing: bool,
    /// `spec.disabled`: no new address is taken from it.
    pub disabled: bool,
    /// `spec.disableBGPExport`: peers outside the mesh of nodes are not told of it.
    pub hidden_from_peers: bool,
    /// `spec.nodeSelector`: nodes that may take blocks of it.
    pub nodes: Selector,
    /// `spec.namespaceSelector`: namespaces whose pods may have its addresses.
    pub namespaces: Selector,
    /// `spec.allowedUses` has `Workload`.
    pub for_pods: bool,
    /// `spec.assignmentMode: Manual`: only pods that name it get its addresses.
    pub on_request: bool,
}

/// When packets between pods of two nodes are wrapped (VXLAN, RFC 7348).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Encapsulated {
    /// Never: the LAN carries pods' addresses.
    #[default]
    Never,
    /// Only to nodes outside the own subnet.
    CrossSubnet,
    /// To all other nodes.
    Always,
}

/// A `BlockAffinity`: a block that a node holds, or is about to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockClaim {
    /// `spec.node`.
    pub node: Text,
    /// `spec.state` is `confirmed`: only then it is routed.
    pub confirmed: bool,
}

/// A `BGPConfiguration`. That named `default` is the cluster's; one named `node.NAME` adds to it for one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BgpConfiguration {
    /// `spec.nodeToNodeMeshEnabled`; unset is true.
    pub mesh: Option<bool>,
    /// `spec.asNumber`; unset is 64512.
    pub asn: Option<u32>,
    /// `spec.serviceClusterIPs[].cidr`.
    pub cluster_ips: Vec<IpNet>,
    /// `spec.serviceExternalIPs[].cidr`.
    pub external_ips: Vec<IpNet>,
    /// `spec.serviceLoadBalancerIPs[].cidr`.
    pub load_balancer_ips: Vec<IpNet>,
    /// `spec.listenPort`; unset is 179.
    pub listen_port: Option<u16>,
    /// `spec.communities`: names of values.
    pub communities: Vec<(Text, Community)>,
    /// `spec.prefixAdvertisements`: communities, named or not, of what lies inside a range.
    pub advertisements: Vec<(IpNet, Vec<Text>)>,
    /// `spec.nodeMeshPassword.secretKeyRef`.
    pub mesh_password: Option<SecretKey>,
    /// `spec.nodeMeshMaxRestartTime`, in seconds; unset is 120.
    pub mesh_restart_secs: Option<u16>,
}

/// A `BGPPeer`: who is to talk to whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BgpPeer {
    /// `spec.node`, or by `spec.nodeSelector`; neither: every node.
    pub nodes: PeerNodes,
    /// `spec.peerIP` with its port, or the nodes of `spec.peerSelector`.
    pub to: PeerTarget,
    /// `spec.asNumber`; of nodes their own.
    pub asn: Option<u32>,
    /// `spec.localASNumber`: as who we present ourselves.
    pub local_asn: Option<u32>,
    /// `spec.keepOriginalNextHop`, `spec.nextHopMode`.
    pub next_hop: NextHopMode,
    /// `spec.password.secretKeyRef` (TCP-MD5, RFC 2385).
    pub password: Option<SecretKey>,
    /// `spec.sourceAddress: None`: the kernel chooses the session's source address.
    pub any_source: bool,
    /// `spec.maxRestartTime`, in seconds; unset is 120.
    pub restart_secs: Option<u16>,
    /// `spec.keepaliveTime`, in seconds; the hold time is three of them.
    pub keepalive_secs: Option<u16>,
    /// `spec.numAllowedLocalASNumbers`: how often our own AS may stand in a path.
    pub own_as_allowed: u8,
    /// `spec.ttlSecurity`: the peer is at most so many hops away (GTSM, RFC 5082).
    pub ttl_hops: Option<u8>,
    /// `spec.reachableBy`: the gateway on the LAN that leads to the peer.
    pub reachable_by: Option<IpAddr>,
    /// `spec.filters`: names of filters, in order; the first rule that fits decides.
    pub filters: Vec<Text>,
    /// BFD (RFC 5880): annotation `portolan.io/bfd` of the peer, `MIN_MS` or `MIN_MS x MULTIPLIER`.
    pub bfd: Option<BfdTimes>,
}

/// Which nodes have a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerNodes {
    /// Every node.
    All,
    /// One, by name.
    Named(Text),
    /// Those with fitting labels.
    Chosen(Selector),
}

/// With whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerTarget {
    /// A router at this address and port.
    Address(IpAddr, u16),
    /// Nodes with fitting labels.
    Nodes(Selector),
}

/// What a peer is told as next hop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NextHopMode {
    /// Ours to eBGP peers and for own prefixes; else as it came (RFC 4271 §5.1.3).
    #[default]
    Auto,
    /// Always ours.
    OwnAddress,
    /// As it came, also to eBGP peers.
    Kept,
}

/// A key of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SecretKey {
    /// The Secret; without a namespace in the resource it is the agent's own.
    pub secret: NsName,
    /// The key in its data.
    pub key: Text,
}

/// BFD's times as one side asks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BfdTimes {
    /// Between two packets, in milliseconds; both ways.
    pub interval_ms: u32,
    /// So many missing ones are the end.
    pub multiplier: u8,
}

/// A community of any kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Community {
    /// `64512:7` (RFC 1997).
    Standard(u32),
    /// `64512:1:2` (RFC 8092).
    Large(u32, u32, u32),
}

/// A `BGPFilter`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BgpFilter {
    /// `spec.importV4` and `spec.importV6`, each rule for prefixes of its family.
    pub import: Vec<FilterRule>,
    /// `spec.exportV4` and `spec.exportV6`.
    pub export: Vec<FilterRule>,
}

/// One rule of a filter. What it does not name fits everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterRule {
    /// The family it is for.
    pub family: crate::names::Family,
    /// `cidr` and `matchOperator`.
    pub prefix: Option<(IpNet, PrefixMatch)>,
    /// `prefixLength`: from, to. Only with a `cidr`.
    pub lengths: Option<(u8, u8)>,
    /// `source: RemotePeers`: only what peers told us.
    pub from_peers: bool,
    /// `interface`: the link that it leads out of; `*` stands for any text.
    pub link: Option<Text>,
    /// `communities.values`: it carries one of them.
    pub communities: Vec<Community>,
    /// `asPathPrefix`: its path begins so.
    pub path_begins: Vec<u32>,
    /// `priority`: the kernel's metric of the route.
    pub metric: Option<u32>,
    /// `action: Accept`.
    pub accept: bool,
    /// `operations`, carried out on what is accepted.
    pub operations: Vec<FilterOperation>,
}

/// How a rule's `cidr` is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum PrefixMatch {
    Equal,
    NotEqual,
    In,
    NotIn,
}

/// What a rule changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FilterOperation {
    /// `addCommunity`.
    AddCommunity(Community),
    /// `prependASPath`.
    Prepend(Vec<u32>),
    /// `setPriority`: the kernel's metric.
    SetMetric(u32),
}

impl IpPool {
    /// A pool with the field's defaults: /26 or /122 blocks, no VXLAN, no SNAT, for all nodes and namespaces.
    pub fn of(cidr: IpNet) -> Self {
        Self {
            cidr: cidr.trunc(),
            block_len: if cidr.addr().is_ipv4() { 26 } else { 122 },
            vxlan: Encapsulated::Never,
            nat_outgoing: false,
            disabled: false,
            hidden_from_peers: false,
            nodes: Selector::all(),
            namespaces: Selector::all(),
            for_pods: true,
            on_request: false,
        }
    }
}

impl BgpPeer {
    /// A router that every node has a session with.
    pub fn router(address: IpAddr, asn: u32) -> Self {
        Self {
            nodes: PeerNodes::All,
            to: PeerTarget::Address(address, 179),
            asn: Some(asn),
            local_asn: None,
            next_hop: NextHopMode::Auto,
            password: None,
            any_source: false,
            restart_secs: None,
            keepalive_secs: None,
            own_as_allowed: 0,
            ttl_hops: None,
            reachable_by: None,
            filters: Vec::new(),
            bfd: None,
        }
    }
}
