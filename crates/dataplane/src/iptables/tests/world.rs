//! Worlds: small clusters built from facts, by hand and by chance.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use portolan_model::verdict::Packet;
use portolan_model::{
    EndpointFact, ExternalPolicy, Fact, Facts, Family, Node, NsName, Proto, Service, ServiceKind, ServicePortFact,
    Settings, Slice, SlicePort, Snapshot, resolve,
};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

pub fn net(text: &str) -> IpNet {
    text.parse().expect("a literal prefix")
}

pub fn settings() -> Arc<Settings> {
    Arc::new(Settings {
        node: "node-1".into(),
        cluster_cidrs: vec![net("10.244.0.0/16"), net("fd00:10:244::/56")],
        service_cidrs: vec![net("10.96.0.0/12"), net("fd00:10:96::/112")],
        cluster_dns: vec![ip("10.96.0.10"), ip("fd00:10:96::a")],
        cluster_domain: "cluster.local".into(),
        proxy: Default::default(),
    })
}

pub fn empty() -> Snapshot {
    Snapshot::empty(settings())
}

pub fn snapshot(facts: &[Fact]) -> Snapshot {
    let mut all = Facts::default();
    all.apply_all(facts.iter().cloned());
    resolve(&all, &empty(), &all.all()).0
}

pub fn own_node() -> Fact {
    let addresses = vec![ip("172.18.0.11"), ip("fd00:18::11")];
    Fact::Node("node-1".into(), Some(Node { addresses, ready: true, zone: Some("z1".into()), ..Node::default() }))
}

pub fn name(index: usize) -> NsName {
    NsName::new("default", format!("svc-{index}"))
}

pub fn port(name: &str, proto: Proto, port: u16, node_port: u16) -> ServicePortFact {
    ServicePortFact { name: name.into(), proto, port, node_port }
}

/// A slice of Service `service` with one TCP port named `http` at 8080.
pub fn slice(service: &NsName, family: Family, endpoints: Vec<EndpointFact>) -> Fact {
    let ports = vec![SlicePort { name: "http".into(), proto: Proto::Tcp, port: 8080 }];
    let key = NsName::new(service.namespace.clone(), format!("{}-{family:?}", service.name));
    Fact::Slice(key, Some(Slice { service: service.clone(), family, ports, endpoints }))
}

pub fn endpoint(addr: &str, node: &str) -> EndpointFact {
    EndpointFact { node: Some(node.into()), ..EndpointFact::ready_at(ip(addr)) }
}

pub fn draining(endpoint: EndpointFact) -> EndpointFact {
    EndpointFact { ready: false, serving: true, terminating: true, ..endpoint }
}

/// A world with a bit of everything, for goldens and planted faults.
pub fn rich() -> Vec<Fact> {
    let mut facts = vec![own_node()];
    let http = |node_port| vec![port("http", Proto::Tcp, 80, node_port)];
    let mut add = |index: usize, service: Service, endpoints: Vec<EndpointFact>| {
        let cluster_ips = vec![ip(&format!("10.96.0.{}", 20 + index)), ip(&format!("fd00:10:96::{:x}", 20 + index))];
        facts.push(Fact::Service(name(index), Some(Service { cluster_ips, ..service })));
        for family in Family::BOTH {
            let own = endpoints.iter().filter(|e| Family::of(e.addr) == family).cloned().collect();
            facts.push(slice(&name(index), family, own));
        }
    };
    let pods = vec![
        endpoint("10.244.0.5", "node-1"),
        endpoint("10.244.1.6", "node-2"),
        endpoint("fd00:10:244::5", "node-1"),
        endpoint("fd00:10:244:1::6", "node-2"),
    ];
    let remote: Vec<EndpointFact> = pods.iter().filter(|e| e.node == Some("node-2".into())).cloned().collect();
    let outer = Service {
        external_ips: vec![ip("203.0.113.1"), ip("2001:db8:e::1")],
        load_balancer_ips: vec![ip("198.51.100.1"), ip("2001:db8:f::1")],
        source_ranges: vec![net("192.0.2.0/24"), net("172.18.0.0/24"), net("2001:db8:1::/64")],
        ..Service::default()
    };
    add(0, Service { ports: http(0), ..Service::default() }, pods.clone());
    add(1, Service { ports: http(30001), kind: ServiceKind::LoadBalancer, ..outer.clone() }, pods.clone());
    let local = Service {
        ports: http(30002),
        kind: ServiceKind::NodePort,
        external_policy: ExternalPolicy::Local,
        ..Service::default()
    };
    add(2, Service { affinity_secs: Some(10800), ..local.clone() }, pods.clone());
    add(3, Service { ports: http(30003), kind: ServiceKind::NodePort, ..Service::default() }, vec![]);
    add(4, Service { internal_local: true, ports: http(30004), ..local.clone() }, remote.clone());
    let three = [pods.clone(), vec![endpoint("10.244.1.7", "node-2"), endpoint("fd00:10:244:1::7", "node-2")]].concat();
    add(5, Service { ports: http(0), ..Service::default() }, three);
    add(
        6,
        Service { ports: http(0), ..Service::default() },
        vec![draining(pods[0].clone()), draining(pods[2].clone())],
    );
    add(7, Service { ports: http(30007), kind: ServiceKind::NodePort, ..Service::default() }, pods);
    facts
}

/// Every packet worth asking about: all sources to all destinations there are, on all their ports.
pub fn packets(snapshot: &Snapshot, family: Family) -> Vec<Packet> {
    let mut ports = vec![53, 9999];
    let mut destinations = vec!["10.244.0.5", "10.96.0.99", "198.18.0.9", "172.18.0.11", "172.18.0.12", "127.0.0.1"];
    destinations.extend(["fd00:10:244::5", "fd00:10:96::99", "2001:db8::9", "fd00:18::11", "fd00:18::12", "::1"]);
    let mut destinations: Vec<IpAddr> = destinations.into_iter().map(ip).collect();
    let mut sources = vec!["10.244.0.5", "10.244.0.77", "10.244.1.6", "172.18.0.11", "172.18.0.12", "192.0.2.7"];
    sources.extend(["198.51.100.1", "fd00:10:244::5", "fd00:10:244::77", "fd00:18::11", "2001:db8:1::7"]);
    let mut sources: Vec<IpAddr> = sources.into_iter().map(ip).collect();
    for view in snapshot.services.values() {
        let spec = &view.spec;
        destinations.extend(spec.cluster_ips.iter().chain(&spec.external_ips).chain(&spec.load_balancer_ips));
        sources.extend(&spec.load_balancer_ips);
        ports.extend(view.ports.iter().flat_map(|p| [p.spec.port, p.spec.node_port]).filter(|p| *p != 0));
    }
    for list in [&mut destinations, &mut sources] {
        list.retain(|addr| Family::of(*addr) == family);
        list.sort();
        list.dedup();
    }
    ports.sort();
    ports.dedup();
    let mut packets = Vec::new();
    for (src, dst) in sources.iter().flat_map(|src| destinations.iter().map(move |dst| (*src, *dst))) {
        for dport in &ports {
            packets.extend([Proto::Tcp, Proto::Udp].map(|proto| Packet { src, dst, proto, dport: *dport }));
        }
    }
    let lo = if family == Family::V4 { ip("127.0.0.1") } else { ip("::1") };
    packets.extend(ports.iter().map(|dport| Packet { src: lo, dst: lo, proto: Proto::Tcp, dport: *dport }));
    packets
}

/// Facts of a small cluster: its Node, up to four Services, their slices.
pub fn any_world() -> impl Strategy<Value = Vec<Fact>> {
    let services: Vec<_> = (0..4).map(|index| proptest::option::weighted(0.8, any_service(index))).collect();
    let zone = select(vec![None, Some("z1"), Some("z2")]);
    (services, zone, any::<bool>()).prop_map(|(services, zone, known)| {
        let mut facts: Vec<Fact> = services.into_iter().flatten().flatten().collect();
        if known {
            let addresses = vec![ip("172.18.0.11"), ip("fd00:18::11")];
            let node = Node { addresses, ready: true, zone: zone.map(Into::into), ..Node::default() };
            facts.push(Fact::Node("node-1".into(), Some(node)));
        }
        facts
    })
}

/// One Service with its slices. Addresses and node ports follow `index`, so that no two Services claim the same.
pub fn any_service(index: usize) -> impl Strategy<Value = Vec<Fact>> {
    let slices = proptest::collection::vec(any_slice(index), 0..3);
    (any_spec(index), slices).prop_map(move |(spec, slices)| {
        let mut facts = vec![Fact::Service(name(index), Some(spec))];
        for (number, slice) in slices.into_iter().enumerate() {
            facts.push(Fact::Slice(NsName::new("default", format!("slice-{index}-{number}")), Some(slice)));
        }
        facts
    })
}

fn any_spec(index: usize) -> impl Strategy<Value = Service> {
    let kinds = vec![
        ServiceKind::ClusterIp,
        ServiceKind::NodePort,
        ServiceKind::LoadBalancer,
        ServiceKind::LoadBalancer,
        ServiceKind::Headless,
        ServiceKind::ExternalName("example.test".into()),
    ];
    let own = 10 + index;
    let both = |v4: &str, v6: &str| vec![ip(&format!("{v4}{own}")), ip(&format!("{v6}{own:x}"))];
    let ranges = ["192.0.2.0/24", "172.18.0.0/24", "10.244.0.0/24", "2001:db8:1::/64", "fd00:18::/64"];
    let addresses = (
        select(kinds),
        subsequence(both("10.96.0.", "fd00:10:96::"), 1..=2),
        subsequence(both("203.0.113.", "2001:db8:e::"), 0..=2),
        subsequence(both("198.51.100.", "2001:db8:f::"), 0..=2),
        subsequence(ranges.map(net).to_vec(), 0..=3),
    );
    let policies = (
        any::<bool>(),
        select(vec![ExternalPolicy::Cluster, ExternalPolicy::Local]),
        select(vec![None, None, Some(10800)]),
        proptest::bool::weighted(0.05),
        subsequence(vec![0usize, 1, 2], 1..=3),
    );
    (addresses, policies).prop_map(move |(addresses, policies)| {
        let (kind, cluster_ips, external_ips, load_balancer_ips, source_ranges) = addresses;
        let (internal_local, external_policy, affinity_secs, is_foreign, ports) = policies;
        let is_virtual = !matches!(kind, ServiceKind::Headless | ServiceKind::ExternalName(_));
        let is_open = matches!(kind, ServiceKind::NodePort | ServiceKind::LoadBalancer);
        let is_balanced = kind == ServiceKind::LoadBalancer;
        Service {
            cluster_ips: if is_virtual { cluster_ips } else { vec![] },
            external_ips,
            load_balancer_ips: if is_balanced { load_balancer_ips } else { vec![] },
            source_ranges: if is_balanced { source_ranges } else { vec![] },
            ports: ports.into_iter().map(|n| numbered_port(n, index, is_open)).collect(),
            internal_local,
            external_policy,
            affinity_secs,
            proxy_name: is_foreign.then(|| "other".into()),
            health_check_node_port: 0,
            labelled_headless: false,
            kind,
        }
    })
}

/// Port 2 is UDP on the number of port 0: other protocol, other service port.
fn numbered_port(number: usize, index: usize, is_open: bool) -> ServicePortFact {
    let node_port = if is_open { (30000 + index * 10 + number) as u16 } else { 0 };
    match number {
        0 => port("http", Proto::Tcp, 80, node_port),
        1 => port("", Proto::Tcp, 53, node_port),
        _ => port("http", Proto::Udp, 80, node_port),
    }
}

fn any_slice(index: usize) -> impl Strategy<Value = Slice> {
    let endpoints = proptest::collection::vec(any_endpoint(), 0..5);
    (select(Family::BOTH.to_vec()), endpoints).prop_map(move |(family, endpoints)| {
        let named = |name: &str, proto, port| SlicePort { name: name.into(), proto, port };
        let mut seen = Vec::new();
        let mut own = Vec::new();
        for ((v4, v6), endpoint) in endpoints {
            let addr = if family == Family::V4 { ip(v4) } else { ip(v6) };
            if !seen.contains(&addr) {
                seen.push(addr);
                own.push(EndpointFact { addr, ..endpoint });
            }
        }
        let ports = vec![named("http", Proto::Tcp, 8080), named("", Proto::Tcp, 53), named("http", Proto::Udp, 8080)];
        Slice { service: name(index), family, ports, endpoints: own }
    })
}

/// Where an endpoint is; the pair is its address in each family.
type Spot = ((&'static str, &'static str), EndpointFact);

fn any_endpoint() -> impl Strategy<Value = Spot> {
    let spots = vec![
        ("10.244.0.5", "fd00:10:244::5", "node-1"),
        ("10.244.0.10", "fd00:10:244::10", "node-1"),
        ("10.244.1.6", "fd00:10:244:1::6", "node-2"),
        ("10.244.1.7", "fd00:10:244:1::7", "node-2"),
        ("172.18.0.11", "fd00:18::11", "node-1"),
        ("172.18.0.12", "fd00:18::12", "node-2"),
        ("192.0.2.200", "2001:db8:1::c8", ""),
    ];
    // ready, serving, terminating; running ones more often.
    let states =
        vec![(true, true, false), (true, true, false), (true, true, false), (false, true, true), (false, false, true)];
    let zones = select(vec![vec![], vec!["z1"], vec!["z1"], vec!["z2"]]);
    let nodes = select(vec![vec![], vec![], vec!["node-1"], vec!["node-2"]]);
    (select(spots), select(states), zones, nodes).prop_map(|((v4, v6, node), state, zones, nodes)| {
        let texts = |list: Vec<&str>| list.into_iter().map(Into::into).collect();
        let endpoint = EndpointFact {
            ready: state.0,
            serving: state.1,
            terminating: state.2,
            node: (!node.is_empty()).then(|| node.into()),
            zone_hints: texts(zones),
            node_hints: texts(nodes),
            ..EndpointFact::ready_at(ip(v4))
        };
        ((v4, v6), endpoint)
    })
}
