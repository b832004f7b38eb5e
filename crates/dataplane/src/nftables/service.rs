//! Service: what one service port asks for, and the elements that make it so.
//!
//! ```text
//!  ServiceView + Around ──► Fragment: destinations, two lists of endpoints in slots, affinity, source ranges
//!  Fragment + what it lost to others ──► elements: destination in door-N, destination.slot in endpoints, …
//! ```

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use portolan_model::{
    Endpoint, ExternalPolicy, Family, Proto, ProxySettings, ServicePort, ServicePortKey, ServiceView, Text,
};

use crate::choose::{Chosen, Place};
use crate::nftables::claims::Rank;
use crate::nftables::lang::{Data, Key};
use crate::nftables::names::{self, Door, SetId};
use crate::nftables::slots::{Target, carry};

/// The service port that something stands for.
pub type Owner = Arc<ServicePortKey>;

/// What a service port's elements depend on beside the Service and its endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// Whose elements.
    pub family: Family,
    /// Where we are.
    pub place: Place,
    /// First address of our Node.
    pub node_ip: Option<IpAddr>,
    /// What the operator set.
    pub proxy: ProxySettings,
}

/// What sort of destination it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The ClusterIP with the port.
    ClusterIp,
    /// An external or load balancer address with the port.
    External,
    /// The same, open to the Service's source ranges only.
    Guarded,
    /// A port of the node.
    NodePort,
}

/// Where clients send to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// `A . proto . port`, or `proto . port`.
    pub key: Key,
    /// Its sort.
    pub kind: Kind,
}

/// How long a client stays with its endpoint, and the ids its Service may go by there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// Since the last connection.
    pub timeout_secs: u32,
    /// Ids of the cluster list, the one to take first first.
    pub cluster_ids: [u32; 2],
    /// Ids of the local list.
    pub local_ids: [u32; 2],
}

/// What one service port asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// `ns/name:port`.
    pub comment: Text,
    /// The Service's own name and address, at the first of its ports.
    pub cluster_ip: Option<(IpAddr, Text)>,
    /// Each once.
    pub destinations: Vec<Destination>,
    /// Endpoints of the cluster list by slot.
    pub cluster: Vec<Target>,
    /// Endpoints of the local list by slot.
    pub local: Vec<Target>,
    /// Some endpoint could serve, here or elsewhere.
    pub any: bool,
    /// ClusterIP traffic takes the local list.
    pub internal_local: bool,
    /// External traffic from outside takes the local list.
    pub external_local: bool,
    /// Session affinity, if asked for.
    pub affinity: Option<Affinity>,
    /// Sources that may use guarded destinations.
    pub sources: Vec<IpNet>,
}

/// One element before it gets a set's name and a comment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Elem {
    /// Where.
    pub set: SetId,
    /// Its key.
    pub key: Key,
    /// Its data, in a map.
    pub data: Option<Data>,
}

/// The slots a list has now, to be kept as far as can be: of the cluster list and the local one.
pub type Held<'a> = (&'a [Target], &'a [Target]);

/// The fragments of a Service in one family, by port; none if the family or the proxy is not the Service's.
pub fn fragments<'a>(
    view: &ServiceView,
    around: &Surroundings,
    held: impl Fn(&ServicePortKey) -> Held<'a>,
) -> Vec<(ServicePortKey, Fragment)> {
    let Some(cluster_ip) = proxied_ip(view, around) else { return Vec::new() };
    let mut ports: Vec<&ServicePort> = view.ports.iter().collect();
    ports.sort_by(|a, b| a.key.cmp(&b.key));
    ports.dedup_by(|later, first| later.key == first.key);
    let mut found = Vec::with_capacity(ports.len());
    for port in ports {
        let mut fragment = fragment(view, port, cluster_ip, around, held(&port.key));
        if found.is_empty() {
            fragment.cluster_ip = Some((cluster_ip, names::comment(&view.key.to_string())));
        }
        found.push((port.key.clone(), fragment));
    }
    found
}

/// The ClusterIP of the family, if this proxy is to act on the Service there at all.
fn proxied_ip(view: &ServiceView, around: &Surroundings) -> Option<IpAddr> {
    let ip = view.spec.cluster_ips.iter().copied().find(|ip| Family::of(*ip) == around.family);
    ip.filter(|_| view.spec.is_proxied(&around.proxy))
}

fn fragment(view: &ServiceView, port: &ServicePort, ip: IpAddr, around: &Surroundings, held: Held<'_>) -> Fragment {
    let spec = &view.spec;
    let chosen = Chosen::new(view, port, around.family, &around.place);
    let targets = |list: &[&Endpoint]| -> Vec<Target> {
        list.iter().map(|endpoint| Target { addr: endpoint.addr, port: endpoint.port }).collect()
    };
    let sources = sources(view, around);
    Fragment {
        comment: names::comment(&port.key.to_string()),
        cluster_ip: None,
        destinations: destinations(view, port, ip, around.family, !sources.is_empty()),
        cluster: carry(held.0, &targets(&chosen.cluster)),
        local: carry(held.1, &targets(&chosen.local)),
        any: chosen.any,
        internal_local: spec.internal_local,
        external_local: spec.external_policy == ExternalPolicy::Local,
        affinity: spec.affinity_secs.map(|timeout_secs| Affinity::new(&port.key, timeout_secs)),
        sources,
    }
}

/// ClusterIP, external addresses, balancer addresses, node port: the first of equal destinations counts.
fn destinations(view: &ServiceView, port: &ServicePort, ip: IpAddr, family: Family, guarded: bool) -> Vec<Destination> {
    let spec = &port.spec;
    let balancer = if guarded { Kind::Guarded } else { Kind::External };
    let mut found: Vec<Destination> = Vec::with_capacity(2);
    let mut add = |key, kind| {
        if found.iter().all(|known| known.key != key) {
            found.push(Destination { key, kind });
        }
    };
    add(Key::Dest(ip, spec.proto, spec.port), Kind::ClusterIp);
    let of_family =
        |ips: &'_ [IpAddr]| -> Vec<IpAddr> { ips.iter().copied().filter(|ip| Family::of(*ip) == family).collect() };
    for ip in of_family(&view.spec.external_ips) {
        add(Key::Dest(ip, spec.proto, spec.port), Kind::External);
    }
    for ip in of_family(&view.spec.load_balancer_ips) {
        add(Key::Dest(ip, spec.proto, spec.port), balancer);
    }
    if spec.node_port != 0 {
        add(Key::Port(spec.proto, spec.node_port), Kind::NodePort);
    }
    found
}

/// Ranges of the family; none, if everybody may come. Where the node's own address is among them the balancer's
/// addresses are too: a node that holds such an address uses it as its source.
fn sources(view: &ServiceView, around: &Surroundings) -> Vec<IpNet> {
    let of_family = |net: &&IpNet| Family::of(net.addr()) == around.family;
    let mut nets: Vec<IpNet> = view.spec.source_ranges.iter().filter(of_family).map(IpNet::trunc).collect();
    if nets.iter().any(|net| net.prefix_len() == 0) {
        return Vec::new();
    }
    if around.node_ip.is_some_and(|ip| nets.iter().any(|net| net.contains(&ip))) {
        let own = view.spec.load_balancer_ips.iter().filter(|ip| Family::of(**ip) == around.family);
        nets.extend(own.map(|ip| IpNet::from(*ip)));
    }
    nets.sort();
    nets.dedup();
    nets
}

impl Fragment {
    /// Everything that no two service ports may have at once: its destinations, its Service's address, its ids.
    pub fn claims(&self) -> impl Iterator<Item = (Key, Rank)> {
        let address = self.cluster_ip.iter().map(|(ip, _)| (Key::Addr(*ip), Rank::Own));
        let destinations = self.destinations.iter().map(|destination| match destination.kind {
            Kind::ClusterIp | Kind::NodePort => (destination.key, Rank::Own),
            Kind::External | Kind::Guarded => (destination.key, Rank::Said),
        });
        let ids = self.affinity.iter().flat_map(|affinity| affinity.cluster_ids.into_iter().chain(affinity.local_ids));
        address.chain(destinations).chain(ids.map(|id| (Key::Id(id), Rank::Own)))
    }

    /// The ids it goes by: the first that it did not lose to another, for the cluster list and the local one.
    pub fn ids(&self, is_lost: &dyn Fn(&Key) -> bool) -> [Option<u32>; 2] {
        let first = |ids: [u32; 2]| ids.into_iter().find(|id| !is_lost(&Key::Id(*id)));
        match &self.affinity {
            Some(affinity) => [first(affinity.cluster_ids), first(affinity.local_ids)],
            None => [None, None],
        }
    }

    /// Clients may be bound to these: id and endpoint.
    pub fn bindings(&self, is_lost: &dyn Fn(&Key) -> bool) -> Vec<(u32, Target)> {
        let [cluster, local] = self.ids(is_lost);
        let of = |id: Option<u32>, list: &[Target]| -> Vec<(u32, Target)> {
            id.into_iter().flat_map(|id| list.iter().map(move |target| (id, *target))).collect()
        };
        [of(cluster, &self.cluster), of(local, &self.local)].concat()
    }

    /// Its elements, in the order of their sets; `is_lost` says which of its claims are another's.
    pub fn elements(&self, is_lost: &dyn Fn(&Key) -> bool) -> Vec<Elem> {
        let [cluster_id, local_id] = self.ids(is_lost);
        let mut out = Writer { elems: Vec::with_capacity(2 * self.cluster.len() + 8) };
        let cluster = List { targets: &self.cluster, id: cluster_id };
        let local = List { targets: &self.local, id: local_id };
        for destination in self.destinations.iter().filter(|destination| !is_lost(&destination.key)) {
            self.destination(destination, &cluster, &local, &mut out);
        }
        if let Some((ip, _)) = self.cluster_ip.as_ref().filter(|(ip, _)| !is_lost(&Key::Addr(*ip))) {
            out.member(SetId::ClusterIps, Key::Addr(*ip));
        }
        for list in [&cluster, &local] {
            out.list(list, self.affinity.map(|affinity| affinity.timeout_secs));
        }
        out.elems.sort_unstable();
        out.elems.dedup();
        out.elems
    }

    fn destination(&self, destination: &Destination, cluster: &List<'_>, local: &List<'_>, out: &mut Writer) {
        let key = destination.key;
        let is_node_port = destination.kind == Kind::NodePort;
        if !self.any {
            out.member(if is_node_port { SetId::NodePortsNoEndpoints } else { SetId::NoEndpoints }, key);
            return;
        }
        let is_local = self.is_local(destination.kind);
        if is_local && local.targets.is_empty() {
            out.member(if is_node_port { SetId::NodePortsNoLocalEndpoints } else { SetId::NoLocalEndpoints }, key);
        }
        if destination.kind == Kind::Guarded {
            self.guard(key, out);
        }
        if let Some(class) = class(destination.kind, is_local) {
            out.member(class, key);
        }
        for (door, takes_local) in doors(destination.kind, is_local) {
            out.way(*door, key, if *takes_local { local } else { cluster });
        }
    }

    /// Every way from a destination to a list: the door, the destination, and whether it is the local list.
    pub fn ways(&self) -> impl Iterator<Item = (Door, Key, bool)> {
        self.destinations.iter().flat_map(|destination| {
            let doors = doors(destination.kind, self.is_local(destination.kind)).iter();
            doors.map(|(door, takes_local)| (*door, destination.key, *takes_local))
        })
    }

    fn is_local(&self, kind: Kind) -> bool {
        match kind {
            Kind::ClusterIp => self.internal_local,
            _ => self.external_local,
        }
    }

    fn guard(&self, key: Key, out: &mut Writer) {
        let Key::Dest(ip, proto, port) = key else { return };
        out.member(SetId::Guarded, key);
        for net in &self.sources {
            out.member(SetId::Allowed(net.prefix_len()), Key::DestFrom(ip, proto, port, net.addr()));
        }
    }
}

/// The set that says what sort of destination it is; ClusterIPs need none.
fn class(kind: Kind, is_local: bool) -> Option<SetId> {
    match (kind, is_local) {
        (Kind::ClusterIp, _) => None,
        (Kind::External | Kind::Guarded, false) => Some(SetId::External),
        (Kind::External | Kind::Guarded, true) => Some(SetId::ExternalLocal),
        (Kind::NodePort, false) => Some(SetId::NodePorts),
        (Kind::NodePort, true) => Some(SetId::NodePortsLocal),
    }
}

/// The doors of a destination, and which of them lead to the local list.
fn doors(kind: Kind, is_local: bool) -> &'static [(Door, bool)] {
    match (kind, is_local) {
        (Kind::ClusterIp, false) => &[(Door::ClusterIps, false)],
        (Kind::ClusterIp, true) => &[(Door::ClusterIps, true)],
        (Kind::External | Kind::Guarded, false) => &[(Door::External, false)],
        (Kind::External | Kind::Guarded, true) => {
            &[(Door::ExternalLocalToCluster, false), (Door::ExternalLocalToLocal, true)]
        }
        (Kind::NodePort, false) => &[(Door::NodePorts, false)],
        (Kind::NodePort, true) => &[(Door::NodePortsLocalToCluster, false), (Door::NodePortsLocalToLocal, true)],
    }
}

/// A list with the id of its clients, if it has affinity.
struct List<'a> {
    targets: &'a [Target],
    id: Option<u32>,
}

struct Writer {
    elems: Vec<Elem>,
}

impl Writer {
    fn member(&mut self, set: SetId, key: Key) {
        self.elems.push(Elem { set, key, data: None });
    }

    fn entry(&mut self, set: SetId, key: Key, data: Data) {
        self.elems.push(Elem { set, key, data: Some(data) });
    }

    /// From a destination through `door` to the list.
    fn way(&mut self, door: Door, key: Key, list: &List<'_>) {
        let count = list.targets.len() as u32;
        if count == 0 {
            return;
        }
        self.member(SetId::Count(door, count), key);
        if count > names::MOST_DIRECT {
            self.member(SetId::Group(door, names::group(count).1), key);
        }
        if let Some(id) = list.id {
            self.entry(SetId::Affinity(door), key, Data::Id(id));
        }
        for (slot, target) in list.targets.iter().enumerate() {
            self.entry(door.endpoints(), slot_key(key, slot as u32), Data::Endpoint(target.addr, target.port));
        }
    }

    fn list(&mut self, list: &List<'_>, timeout_secs: Option<u32>) {
        for target in list.targets {
            self.member(SetId::Hairpin, Key::Pair(target.addr, target.addr));
        }
        if let (Some(id), Some(seconds), false) = (list.id, timeout_secs, list.targets.is_empty()) {
            self.member(SetId::Timeout(seconds), Key::Id(id));
        }
    }
}

/// The key of one slot of a destination.
pub fn slot_key(destination: Key, slot: u32) -> Key {
    match destination {
        Key::Dest(ip, proto, port) => Key::DestSlot(ip, proto, port, slot),
        Key::Port(proto, port) => Key::PortSlot(proto, port, slot),
        other => other,
    }
}

impl Affinity {
    fn new(key: &ServicePortKey, timeout_secs: u32) -> Self {
        let ids = |list: u8| [id(key, list, 0), id(key, list, 1)];
        Self { timeout_secs, cluster_ids: ids(0), local_ids: ids(1) }
    }
}

/// 32 bits of FNV-1a over what names a list; never 0, which means no priority, nor all ones.
fn id(key: &ServicePortKey, list: u8, turn: u8) -> u32 {
    let proto = match key.proto {
        Proto::Tcp => 6u8,
        Proto::Udp => 17,
        Proto::Sctp => 132,
    };
    let service = &key.service;
    let parts = [service.namespace.as_bytes(), &[0], service.name.as_bytes(), &[0], key.port.as_bytes()];
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.into_iter().flatten().chain(&[0, proto, list, turn]) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    // The high half is stirred best; the low one is folded in.
    ((hash >> 32) as u32 ^ hash as u32).clamp(1, u32::MAX - 1)
}
