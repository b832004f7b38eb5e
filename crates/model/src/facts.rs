//! Facts: keyed tables of what the cluster, the node and the RIB told us, exactly as told.
//!
//! An event is a value or `None` (gone). Applying one says what it touched; nothing is decided here.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::names::{Family, IfName, NsName, Proto, Text};
use crate::network::{BgpConfiguration, BgpFilter, BgpPeer, BlockClaim, IpPool};
use crate::proxy::ProxySettings;
use crate::selector::Labels;

/// A Node of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its InternalIP addresses, in the order of `status.addresses`.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`, one per family.
    pub pod_cidrs: Vec<IpNet>,
    /// Condition `Ready` is `True`.
    pub ready: bool,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Text>,
    /// Being deleted, or tainted `ToBeDeletedByClusterAutoscaler`: balancers are to send nothing new here.
    pub leaving: bool,
    /// Label `node.kubernetes.io/exclude-from-external-load-balancers`: balancers are to send nothing here.
    pub excluded_from_balancers: bool,
    /// Labels that selectors of the pod network may ask for: all, but those that only people read.
    pub labels: Labels,
    /// Annotation `projectcalico.org/ASNumber`: its own AS.
    pub asn: Option<u32>,
    /// Annotation `projectcalico.org/RouteReflectorClusterID`: it is a route reflector of this cluster (RFC 4456).
    pub reflector_of: Option<Ipv4Addr>,
}

/// A Service as its spec says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// `spec.type`, with `clusterIP: None` as a kind of its own.
    pub kind: ServiceKind,
    /// `spec.clusterIPs`; empty for headless and ExternalName.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` whose ipMode is VIP or unset.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`; empty means everyone.
    pub source_ranges: Vec<IpNet>,
    /// `spec.ports`, in the object's order.
    pub ports: Vec<ServicePortFact>,
    /// `spec.internalTrafficPolicy` is `Local`.
    pub internal_local: bool,
    /// `spec.externalTrafficPolicy`.
    pub external_policy: ExternalPolicy,
    /// `spec.sessionAffinity: ClientIP` with its timeout in seconds (1..=86400).
    pub affinity_secs: Option<u32>,
    /// `spec.healthCheckNodePort`, 0 meaning none: where a balancer asks whether this node has endpoints.
    pub health_check_node_port: u16,
    /// Label `service.kubernetes.io/service-proxy-name`: the proxy it is for; DNS serves it all the same.
    pub proxy_name: Option<Text>,
    /// Labelled `service.kubernetes.io/headless`: for no proxy.
    pub labelled_headless: bool,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            kind: ServiceKind::ClusterIp,
            cluster_ips: Vec::new(),
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            source_ranges: Vec::new(),
            ports: Vec::new(),
            internal_local: false,
            external_policy: ExternalPolicy::Cluster,
            affinity_secs: None,
            health_check_node_port: 0,
            proxy_name: None,
            labelled_headless: false,
        }
    }
}

impl Service {
    /// A proxy with these settings programs it: no headless, no ExternalName, no Service of another proxy.
    pub fn is_proxied(&self, settings: &ProxySettings) -> bool {
        let has_kind = !matches!(self.kind, ServiceKind::Headless | ServiceKind::ExternalName(_));
        has_kind && !self.labelled_headless && self.proxy_name == settings.service_proxy_name
    }
}

/// What sort of Service it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ServiceKind {
    ClusterIp,
    NodePort,
    LoadBalancer,
    /// `clusterIP: None`.
    Headless,
    /// The target name, as written.
    ExternalName(Text),
}

/// `spec.externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ExternalPolicy {
    Cluster,
    Local,
}

/// One entry of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePortFact {
    /// Port name; empty if the port has none.
    pub name: Text,
    /// Transport.
    pub proto: Proto,
    /// The Service's own port, 1..=65535.
    pub port: u16,
    /// `nodePort`, 0 meaning none.
    pub node_port: u16,
}

/// One EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// The Service it belongs to (label `kubernetes.io/service-name`, same namespace).
    pub service: NsName,
    /// `addressType`; FQDN slices never become facts.
    pub family: Family,
    /// Named, numbered ports. Ports without a number are left out.
    pub ports: Vec<SlicePort>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointFact>,
}

/// One port of a slice: the number that the endpoints listen on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlicePort {
    /// Name that pairs it with the Service's port; empty if none.
    pub name: Text,
    /// Transport.
    pub proto: Proto,
    /// Port number at the endpoint.
    pub port: u16,
}

/// One endpoint of a slice. Only the first address counts (KEP-0752).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointFact {
    /// Its address.
    pub addr: IpAddr,
    /// `conditions.ready`; unset counts as true.
    pub ready: bool,
    /// `conditions.serving`; unset counts as true.
    pub serving: bool,
    /// `conditions.terminating`; unset counts as false.
    pub terminating: bool,
    /// `nodeName`.
    pub node: Option<Text>,
    /// `zone`.
    pub zone: Option<Text>,
    /// `hostname`, a DNS label.
    pub hostname: Option<Text>,
    /// The Pod behind it (`targetRef`).
    pub pod: Option<NsName>,
    /// `hints.forZones`.
    pub zone_hints: Vec<Text>,
    /// `hints.forNodes`.
    pub node_hints: Vec<Text>,
}

impl EndpointFact {
    /// A ready endpoint at `addr` and nothing more: what tests start from.
    pub fn ready_at(addr: IpAddr) -> Self {
        Self {
            addr,
            ready: true,
            serving: true,
            terminating: false,
            node: None,
            zone: None,
            hostname: None,
            pod: None,
            zone_hints: Vec::new(),
            node_hints: Vec::new(),
        }
    }
}

/// A Pod, as far as names and addresses go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// `metadata.uid`.
    pub uid: Text,
    /// `spec.nodeName`; `None` until it is scheduled.
    pub node: Option<Text>,
    /// `status.podIPs`.
    pub addresses: Vec<IpAddr>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// Phase Succeeded or Failed: its addresses are free again.
    pub finished: bool,
}

/// A pod attached to this node's network: what the CNI side did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Host end of its veth.
    pub link: IfName,
    /// Its addresses, one per family.
    pub addresses: Vec<IpAddr>,
    /// `ports[].hostPort` of its containers.
    pub host_ports: Vec<HostPort>,
}

/// A port of the node that leads to a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostPort {
    /// Transport.
    pub proto: Proto,
    /// `hostIP`; `None`: every address of the node.
    pub host_addr: Option<IpAddr>,
    /// Port of the node.
    pub host_port: u16,
    /// Port of the pod.
    pub pod_port: u16,
}

/// A prefix our RIB chose, by its next hops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnedRoute {
    /// Next hop, on the LAN.
    pub gateway: IpAddr,
    /// Next hops that are as good (ECMP), ascending, without `gateway`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<IpAddr>,
    /// The BGP peer that told us of `gateway`.
    pub peer: IpAddr,
    /// The kernel's metric, where a filter sets one (`setPriority`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
}

impl LearnedRoute {
    /// A route with one next hop and no metric.
    pub fn via(gateway: IpAddr, peer: IpAddr) -> Self {
        Self { gateway, others: Vec::new(), peer, metric: None }
    }

    /// All next hops, the best first.
    pub fn gateways(&self) -> impl Iterator<Item = IpAddr> + '_ {
        std::iter::once(self.gateway).chain(self.others.iter().copied())
    }
}

/// One event: a key and its new value, or `None` when it is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Fact {
    Namespace(Text, Option<()>),
    Node(Text, Option<Node>),
    Service(NsName, Option<Service>),
    Slice(NsName, Option<Slice>),
    Pod(NsName, Option<Pod>),
    Attachment(NsName, Option<Attachment>),
    Learned(IpNet, Option<LearnedRoute>),
    IpPool(Text, Option<IpPool>),
    /// `IPReservation`: ranges whose addresses are given to nobody.
    Reservation(Text, Option<Vec<IpNet>>),
    Block(IpNet, Option<BlockClaim>),
    BgpConfiguration(Text, Option<BgpConfiguration>),
    BgpPeer(Text, Option<BgpPeer>),
    BgpFilter(Text, Option<BgpFilter>),
    /// An address on an interface of this node.
    InterfaceAddress(IpAddr, Option<()>),
}

/// All facts. Values are shared: cloning the tables is cheap.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct Facts {
    pub namespaces: OrdSet<Text>,
    pub nodes: OrdMap<Text, Arc<Node>>,
    pub services: OrdMap<NsName, Arc<Service>>,
    pub slices: OrdMap<NsName, Arc<Slice>>,
    /// Slices by the Service they belong to.
    pub slices_of: OrdMap<NsName, OrdSet<NsName>>,
    pub pods: OrdMap<NsName, Arc<Pod>>,
    pub attachments: OrdMap<NsName, Arc<Attachment>>,
    pub learned: OrdMap<IpNet, Arc<LearnedRoute>>,
    pub interface_addresses: OrdSet<IpAddr>,
    pub pools: OrdMap<Text, Arc<IpPool>>,
    pub reservations: OrdMap<Text, Arc<Vec<IpNet>>>,
    pub blocks: OrdMap<IpNet, Arc<BlockClaim>>,
    pub bgp_configurations: OrdMap<Text, Arc<BgpConfiguration>>,
    pub bgp_peers: OrdMap<Text, Arc<BgpPeer>>,
    pub bgp_filters: OrdMap<Text, Arc<BgpFilter>>,
}

/// Keys whose facts changed and that `resolve` must look at again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Touched {
    pub namespaces: BTreeSet<Text>,
    pub nodes: BTreeSet<Text>,
    pub services: BTreeSet<NsName>,
    pub pods: BTreeSet<NsName>,
    pub attachments: BTreeSet<NsName>,
    pub learned: BTreeSet<IpNet>,
    pub interface_addresses: BTreeSet<IpAddr>,
    pub pools: BTreeSet<Text>,
    pub reservations: BTreeSet<Text>,
    pub blocks: BTreeSet<IpNet>,
    pub bgp_configurations: BTreeSet<Text>,
    pub bgp_peers: BTreeSet<Text>,
    pub bgp_filters: BTreeSet<Text>,
}

impl Touched {
    /// Nothing to look at.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what another event touched.
    pub fn merge(&mut self, other: Self) {
        self.namespaces.extend(other.namespaces);
        self.nodes.extend(other.nodes);
        self.services.extend(other.services);
        self.pods.extend(other.pods);
        self.attachments.extend(other.attachments);
        self.learned.extend(other.learned);
        self.interface_addresses.extend(other.interface_addresses);
        self.pools.extend(other.pools);
        self.reservations.extend(other.reservations);
        self.blocks.extend(other.blocks);
        self.bgp_configurations.extend(other.bgp_configurations);
        self.bgp_peers.extend(other.bgp_peers);
        self.bgp_filters.extend(other.bgp_filters);
    }
}

impl Facts {
    /// Takes one event in. A value equal to what is known touches nothing.
    pub fn apply(&mut self, fact: Fact) -> Touched {
        let mut touched = Touched::default();
        match fact {
            Fact::Namespace(name, value) => {
                let known = self.namespaces.contains(&name);
                if known != value.is_some() {
                    match value {
                        Some(()) => self.namespaces.insert(name.clone()),
                        None => self.namespaces.remove(&name),
                    };
                    touched.namespaces.insert(name);
                }
            }
            Fact::Node(key, value) => put(&mut self.nodes, key, value, &mut touched.nodes),
            Fact::Service(key, value) => put(&mut self.services, key, value, &mut touched.services),
            Fact::Slice(key, value) => self.apply_slice(key, value, &mut touched.services),
            Fact::Pod(key, value) => put(&mut self.pods, key, value, &mut touched.pods),
            Fact::Attachment(key, value) => put(&mut self.attachments, key, value, &mut touched.attachments),
            Fact::Learned(key, value) => put(&mut self.learned, key, value, &mut touched.learned),
            Fact::IpPool(key, value) => put(&mut self.pools, key, value, &mut touched.pools),
            Fact::Reservation(key, value) => put(&mut self.reservations, key, value, &mut touched.reservations),
            Fact::Block(key, value) => put(&mut self.blocks, key, value, &mut touched.blocks),
            Fact::BgpConfiguration(key, value) => {
                put(&mut self.bgp_configurations, key, value, &mut touched.bgp_configurations);
            }
            Fact::BgpPeer(key, value) => put(&mut self.bgp_peers, key, value, &mut touched.bgp_peers),
            Fact::BgpFilter(key, value) => put(&mut self.bgp_filters, key, value, &mut touched.bgp_filters),
            Fact::InterfaceAddress(addr, value) => {
                let known = match value {
                    Some(()) => self.interface_addresses.insert(addr).is_some(),
                    None => self.interface_addresses.remove(&addr).is_none(),
                };
                if !known {
                    touched.interface_addresses.insert(addr);
                }
            }
        }
        touched
    }

    /// Takes many events in.
    pub fn apply_all(&mut self, facts: impl IntoIterator<Item = Fact>) -> Touched {
        let mut touched = Touched::default();
        for fact in facts {
            touched.merge(self.apply(fact));
        }
        touched
    }

    /// Everything there is, as touched: what a start from scratch resolves.
    pub fn all(&self) -> Touched {
        Touched {
            namespaces: self.namespaces.iter().cloned().collect(),
            nodes: self.nodes.keys().cloned().collect(),
            services: self.services.keys().cloned().collect(),
            pods: self.pods.keys().cloned().collect(),
            attachments: self.attachments.keys().cloned().collect(),
            learned: self.learned.keys().cloned().collect(),
            interface_addresses: self.interface_addresses.iter().copied().collect(),
            pools: self.pools.keys().cloned().collect(),
            reservations: self.reservations.keys().cloned().collect(),
            blocks: self.blocks.keys().copied().collect(),
            bgp_configurations: self.bgp_configurations.keys().cloned().collect(),
            bgp_peers: self.bgp_peers.keys().cloned().collect(),
            bgp_filters: self.bgp_filters.keys().cloned().collect(),
        }
    }

    fn apply_slice(&mut self, key: NsName, value: Option<Slice>, services: &mut BTreeSet<NsName>) {
        let old = self.slices.get(&key).cloned();
        if old.as_deref() == value.as_ref() {
            return;
        }
        if let Some(old) = old {
            self.unlink_slice(&old.service, &key);
            services.insert(old.service.clone());
        }
        match value {
            Some(slice) => {
                services.insert(slice.service.clone());
                self.slices_of.entry(slice.service.clone()).or_default().insert(key.clone());
                self.slices.insert(key, Arc::new(slice));
            }
            None => {
                self.slices.remove(&key);
            }
        }
    }

    fn unlink_slice(&mut self, service: &NsName, slice: &NsName) {
        if let Some(set) = self.slices_of.get_mut(service) {
            set.remove(slice);
            if set.is_empty() {
                self.slices_of.remove(service);
            }
        }
    }
}

fn put<K: Ord + Clone, V: PartialEq>(
    table: &mut OrdMap<K, Arc<V>>,
    key: K,
    value: Option<V>,
    touched: &mut BTreeSet<K>,
) {
    if table.get(&key).map(|v| &**v) == value.as_ref() {
        return;
    }
    match value {
        Some(value) => table.insert(key.clone(), Arc::new(value)),
        None => table.remove(&key),
    };
    touched.insert(key);
}
