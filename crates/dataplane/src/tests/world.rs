//! Worlds: small clusters built from facts by hand, and every setting of the proxy.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use portolan_model::{
    Attachment, DetectLocal, EndpointFact, ExternalPolicy, Fact, Facts, Family, HostPort, IfName, Node,
    NodePortAddresses, NsName, Proto, ProxySettings, Service, ServiceKind, ServicePortFact, Settings, Slice, SlicePort,
    Snapshot, resolve,
};

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().expect("a literal prefix")
}

/// The link that packets of local pods come in by, the bridge they may come in by instead, and the LAN's.
pub(crate) const POD_LINK: &str = "veth1";
pub(crate) const BRIDGE: &str = "br0";
pub(crate) const LAN: &str = "eth0";

pub(crate) fn settings() -> Arc<Settings> {
    settings_with(ProxySettings::default())
}

pub(crate) fn settings_with(proxy: ProxySettings) -> Arc<Settings> {
    Arc::new(Settings {
        node: "node-1".into(),
        cluster_cidrs: vec![net("10.244.0.0/16"), net("fd00:10:244::/56")],
        service_cidrs: vec![net("10.96.0.0/12"), net("fd00:10:96::/112")],
        cluster_dns: vec![ip("10.96.0.10"), ip("fd00:10:96::a")],
        cluster_domain: "cluster.local".into(),
        proxy,
    })
}

pub(crate) fn empty() -> Snapshot {
    Snapshot::empty(settings())
}

pub(crate) fn snapshot(facts: &[Fact]) -> Snapshot {
    snapshot_with(&ProxySettings::default(), facts)
}

pub(crate) fn snapshot_with(proxy: &ProxySettings, facts: &[Fact]) -> Snapshot {
    let mut all = Facts::default();
    all.apply_all(facts.iter().cloned());
    resolve(&all, &Snapshot::empty(settings_with(proxy.clone())), &all.all()).0
}

pub(crate) fn own_node() -> Fact {
    Fact::Node("node-1".into(), Some(own_node_in(Some("z1"))))
}

pub(crate) fn own_node_in(zone: Option<&str>) -> Node {
    let addresses = vec![ip("172.18.0.11"), ip("fd00:18::11")];
    let pod_cidrs = vec![net("10.244.0.0/24"), net("fd00:10:244::/64")];
    Node { addresses, pod_cidrs, ready: true, zone: zone.map(Into::into), ..Node::default() }
}

/// Each setting away from its default, alone and with others.
pub(crate) fn all_settings() -> Vec<(&'static str, ProxySettings)> {
    let default = ProxySettings::default;
    let detect = |detect_local| ProxySettings { detect_local, ..default() };
    let on = |node_ports_on| ProxySettings { node_ports_on, ..default() };
    let within = |nets: &[&str]| NodePortAddresses::Within(nets.iter().map(|text| net(text)).collect());
    let bridge = || DetectLocal::BridgeInterface(IfName(BRIDGE.into()));
    vec![
        ("default", default()),
        ("node range", detect(DetectLocal::NodeCidr)),
        ("bridge", detect(bridge())),
        ("link prefix", detect(DetectLocal::InterfaceNamePrefix("veth".into()))),
        ("no detector", detect(DetectLocal::Nothing)),
        ("no name of a bridge", detect(DetectLocal::BridgeInterface(IfName("".into())))),
        ("masquerade all", ProxySettings { masquerade_all: true, ..default() }),
        ("masquerade all, no detector", ProxySettings { masquerade_all: true, ..detect(DetectLocal::Nothing) }),
        ("node ports on primary", on(NodePortAddresses::Primary)),
        ("node ports on a list", on(within(&["172.19.0.0/24", "fd00:19::/64"]))),
        ("node ports on a list with loopback", on(within(&["172.18.0.0/15", "127.0.0.0/8", "::1/128"]))),
        ("node ports on IPv4's list", on(within(&["172.18.0.0/24"]))),
        ("no localhost node ports", ProxySettings { localhost_node_ports: false, ..default() }),
        ("no egress SNAT", ProxySettings { egress_snat: false, ..default() }),
        ("for another proxy", ProxySettings { service_proxy_name: Some("other".into()), ..default() }),
        (
            "much at once",
            ProxySettings {
                masquerade_all: true,
                egress_snat: false,
                localhost_node_ports: false,
                node_ports_on: within(&["127.0.0.0/8", "172.18.0.0/24"]),
                ..detect(bridge())
            },
        ),
    ]
}

pub(crate) fn name(index: usize) -> NsName {
    NsName::new("default", format!("svc-{index}"))
}

pub(crate) fn port(name: &str, proto: Proto, port: u16, node_port: u16) -> ServicePortFact {
    ServicePortFact { name: name.into(), proto, port, node_port }
}

/// A slice of Service `service` with one TCP port named `http` at 8080.
pub(crate) fn slice(service: &NsName, family: Family, endpoints: Vec<EndpointFact>) -> Fact {
    let ports = vec![SlicePort { name: "http".into(), proto: Proto::Tcp, port: 8080 }];
    let key = NsName::new(service.namespace.clone(), format!("{}-{family:?}", service.name));
    Fact::Slice(key, Some(Slice { service: service.clone(), family, ports, endpoints }))
}

pub(crate) fn endpoint(addr: &str, node: &str) -> EndpointFact {
    let pod = NsName::new("default", format!("at-{}", addr.replace([':', '.'], "-")));
    EndpointFact { node: Some(node.into()), pod: Some(pod), ..EndpointFact::ready_at(ip(addr)) }
}

/// A pod of this node with these host ports, at `10.244.0.N` and `fd00:10:244::N` (N in hexadecimal there).
pub(crate) fn attachment(last: u8, host_ports: Vec<HostPort>) -> Fact {
    let addresses = vec![ip(&format!("10.244.0.{last}")), ip(&format!("fd00:10:244::{last:x}"))];
    let pod = Attachment { link: IfName(POD_LINK.into()), addresses, host_ports };
    Fact::Attachment(NsName::new("default", format!("pod-{last}")), Some(pod))
}

pub(crate) fn host_port(proto: Proto, host_port: u16, host_addr: Option<&str>) -> HostPort {
    HostPort { proto, host_addr: host_addr.map(ip), host_port, pod_port: 8080 }
}

pub(crate) fn draining(endpoint: EndpointFact) -> EndpointFact {
    EndpointFact { ready: false, serving: true, terminating: true, ..endpoint }
}

/// A world with a bit of everything, for goldens and planted faults.
pub(crate) fn rich() -> Vec<Fact> {
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

/// The rich world and what it lacks: a second network, host ports, three protocols on one number, named ports with
/// numbers of their own, hints, a Service for another proxy, external destinations that two claim.
pub(crate) fn whole() -> Vec<Fact> {
    let mut facts = rich();
    facts.extend(["172.18.0.11", "172.19.0.11", "fd00:18::11", "fd00:19::11"].map(on_interface));
    facts.extend(["10.244.0.1", "fd00:10:244::1"].map(on_interface));
    facts
        .push(attachment(5, vec![host_port(Proto::Tcp, 9090, None), host_port(Proto::Udp, 9090, Some("172.18.0.11"))]));
    facts.push(attachment(77, vec![host_port(Proto::Sctp, 9090, None), host_port(Proto::Tcp, 30007, None)]));
    facts.extend(service_of_ports(10));
    facts.extend(hinted(11));
    let claims = |index: usize, change: fn(&mut Service)| {
        let mut service = Service {
            cluster_ips: vec![ip(&format!("10.96.0.{}", 20 + index)), ip(&format!("fd00:10:96::{:x}", 20 + index))],
            ports: vec![port("http", Proto::Tcp, 80, 0)],
            ..Service::default()
        };
        change(&mut service);
        let own = [endpoint("10.244.1.8", "node-2"), endpoint("fd00:10:244:1::8", "node-2")];
        let slices = own.map(|e| slice(&name(index), Family::of(e.addr), vec![e]));
        [vec![Fact::Service(name(index), Some(service))], slices.to_vec()].concat()
    };
    // Keys are in the order of texts: svc-1, svc-12, svc-13, svc-14, svc-2. A ClusterIP goes before any claim.
    facts.extend(claims(12, |s| s.external_ips = vec![ip("203.0.113.1"), ip("2001:db8:f::1"), ip("10.96.0.22")]));
    facts.extend(claims(13, |s| s.load_balancer_ips = vec![ip("203.0.113.13"), ip("2001:db8:e::13")]));
    facts.extend(claims(14, |s| s.external_ips = vec![ip("203.0.113.13"), ip("2001:db8:e::13"), ip("172.18.0.11")]));
    facts.extend(claims(15, |s| s.proxy_name = Some("other".into())));
    facts
}

pub(crate) fn on_interface(addr: &str) -> Fact {
    Fact::InterfaceAddress(ip(addr), Some(()))
}

/// Port 80 of three protocols, and a named port that is 9001 in one slice and 9002 in the other.
fn service_of_ports(index: usize) -> Vec<Fact> {
    let service = Service {
        kind: ServiceKind::NodePort,
        cluster_ips: vec![ip("10.96.0.30"), ip("fd00:10:96::30")],
        ports: vec![
            port("http", Proto::Tcp, 80, 30010),
            port("http", Proto::Udp, 80, 30010),
            port("http", Proto::Sctp, 80, 30010),
            port("metrics", Proto::Tcp, 90, 30011),
        ],
        affinity_secs: Some(10),
        ..Service::default()
    };
    let mut facts = vec![Fact::Service(name(index), Some(service))];
    for (number, (v4, v6, node)) in
        [("10.244.0.5", "fd00:10:244::5", "node-1"), ("10.244.1.6", "fd00:10:244:1::6", "node-2")]
            .into_iter()
            .enumerate()
    {
        let named = |name: &str, proto, port| SlicePort { name: name.into(), proto, port };
        let mut ports = [Proto::Tcp, Proto::Udp, Proto::Sctp].map(|proto| named("http", proto, 8080)).to_vec();
        ports.push(named("metrics", Proto::Tcp, 9001 + number as u16));
        for addr in [v4, v6] {
            let endpoints = vec![endpoint(addr, node)];
            let slice = Slice { service: name(index), family: Family::of(ip(addr)), ports: ports.clone(), endpoints };
            let key = NsName::new("default", format!("svc-{index}-{number}-{:?}", slice.family));
            facts.push(Fact::Slice(key, Some(slice)));
        }
    }
    facts
}

/// Endpoints in two zones, each with its hint.
fn hinted(index: usize) -> Vec<Fact> {
    let service = Service {
        cluster_ips: vec![ip("10.96.0.31"), ip("fd00:10:96::31")],
        ports: vec![port("http", Proto::Tcp, 80, 0)],
        ..Service::default()
    };
    let near = |addr: &str, zone: &str| EndpointFact { zone_hints: vec![zone.into()], ..endpoint(addr, "node-2") };
    let v4 = vec![near("10.244.1.6", "z1"), near("10.244.1.7", "z2")];
    let v6 = vec![near("fd00:10:244:1::6", "z1"), near("fd00:10:244:1::7", "z2")];
    vec![
        Fact::Service(name(index), Some(service)),
        slice(&name(index), Family::V4, v4),
        slice(&name(index), Family::V6, v6),
    ]
}
