//! Worlds by chance: small clusters and settings that property tests draw.

use portolan_model::{
    DetectLocal, EndpointFact, ExternalPolicy, Fact, Family, HostPort, IfName, NodePortAddresses, NsName, Proto,
    ProxySettings, Service, ServiceKind, ServicePortFact, Slice, SlicePort,
};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::world::{BRIDGE, attachment, ip, name, net, on_interface, own_node_in, port};

/// Facts of a small cluster: its Node, up to four Services, their slices.
pub(crate) fn any_world() -> impl Strategy<Value = Vec<Fact>> {
    let services: Vec<_> = (0..4).map(|index| proptest::option::weighted(0.8, any_service(index))).collect();
    let zone = select(vec![None, Some("z1"), Some("z2")]);
    (services, zone, any::<bool>()).prop_map(|(services, zone, known)| {
        let mut facts: Vec<Fact> = services.into_iter().flatten().flatten().collect();
        if known {
            facts.push(Fact::Node("node-1".into(), Some(own_node_in(zone))));
        }
        facts
    })
}

/// External destinations that several Services may claim: a common one, a ClusterIP of `svc-2`, the node's own address.
const CLAIMED: [&str; 6] =
    ["203.0.113.99", "2001:db8:e::99", "10.96.0.12", "fd00:10:96::c", "172.18.0.11", "fd00:18::11"];

/// The same with what the node has beside: attached pods with host ports, addresses on interfaces, and Services that
/// claim one external destination together.
pub(crate) fn any_whole_world() -> impl Strategy<Value = Vec<Fact>> {
    let claims = (subsequence(CLAIMED.map(ip).to_vec(), 0..=2), any::<bool>());
    let addresses = ["172.18.0.11", "172.19.0.11", "10.244.0.1", "fd00:18::11", "fd00:19::11", "fd00:10:244::1"];
    let addresses = addresses.map(on_interface).to_vec();
    let node = (any_host_ports(5), any_host_ports(77), subsequence(addresses, 0..=6));
    (any_world(), proptest::collection::vec(claims, 4), node).prop_map(|(mut facts, claims, node)| {
        let services =
            facts.iter_mut().filter_map(|fact| if let Fact::Service(_, spec) = fact { spec.as_mut() } else { None });
        for (service, (claimed, by_balancer)) in services.zip(claims) {
            let list = if by_balancer { &mut service.load_balancer_ips } else { &mut service.external_ips };
            list.extend(claimed);
        }
        let (first, second, addresses) = node;
        facts.extend(first.into_iter().chain(second).chain(addresses));
        facts
    })
}

/// A pod with some host ports, or none. Their numbers follow the pod, so that no two pods claim the same; two are node
/// ports of `svc-0` and `svc-1` too.
fn any_host_ports(last: u8) -> impl Strategy<Value = Option<Fact>> {
    let first = if last == 5 { 30000 } else { 30012 };
    let at = |proto, number, addr: Option<&str>| HostPort {
        proto,
        host_addr: addr.map(ip),
        host_port: number,
        pod_port: 8080,
    };
    let ports = vec![
        at(Proto::Tcp, 9000 + u16::from(last), None),
        at(Proto::Udp, 9000 + u16::from(last), Some("172.18.0.11")),
        at(Proto::Sctp, 9000 + u16::from(last), Some("fd00:18::11")),
        at(if last == 5 { Proto::Tcp } else { Proto::Udp }, first, None),
    ];
    proptest::option::of(subsequence(ports, 0..=4)).prop_map(move |ports| ports.map(|ports| attachment(last, ports)))
}

/// Settings of a proxy, all fields at once.
pub(crate) fn any_settings() -> impl Strategy<Value = ProxySettings> {
    let detect = vec![
        DetectLocal::ClusterCidr,
        DetectLocal::NodeCidr,
        DetectLocal::BridgeInterface(IfName(BRIDGE.into())),
        DetectLocal::InterfaceNamePrefix("veth".into()),
        DetectLocal::Nothing,
    ];
    let ranges = ["172.18.0.0/24", "172.19.0.0/24", "127.0.0.0/8", "fd00:18::/64", "fd00:19::/64", "::1/128", "::/0"];
    let on = prop_oneof![
        Just(NodePortAddresses::Every),
        Just(NodePortAddresses::Primary),
        subsequence(ranges.map(net).to_vec(), 0..=4).prop_map(NodePortAddresses::Within),
    ];
    let name = select(vec![None, None, None, Some("other")]);
    (select(detect), any::<bool>(), on, any::<bool>(), name, any::<bool>()).prop_map(
        |(detect_local, masquerade_all, node_ports_on, localhost_node_ports, name, egress_snat)| ProxySettings {
            detect_local,
            masquerade_all,
            node_ports_on,
            localhost_node_ports,
            service_proxy_name: name.map(Into::into),
            egress_snat,
        },
    )
}

/// One Service with its slices. Addresses and node ports follow `index`, so that no two Services claim the same.
pub(crate) fn any_service(index: usize) -> impl Strategy<Value = Vec<Fact>> {
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
        subsequence(vec![0usize, 1, 2, 3], 1..=3),
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

/// Ports 2 and 3 are UDP and SCTP on the number of port 0: other protocol, other service port.
fn numbered_port(number: usize, index: usize, is_open: bool) -> ServicePortFact {
    let node_port = if is_open { (30000 + index * 10 + number) as u16 } else { 0 };
    match number {
        0 => port("http", Proto::Tcp, 80, node_port),
        1 => port("", Proto::Tcp, 53, node_port),
        2 => port("http", Proto::Udp, 80, node_port),
        _ => port("signal", Proto::Sctp, 80, node_port),
    }
}

fn any_slice(index: usize) -> impl Strategy<Value = Slice> {
    let endpoints = proptest::collection::vec(any_endpoint(), 0..5);
    (select(Family::BOTH.to_vec()), endpoints, select(vec![9001, 9002])).prop_map(move |(family, endpoints, number)| {
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
        let mut ports =
            vec![named("http", Proto::Tcp, 8080), named("", Proto::Tcp, 53), named("http", Proto::Udp, 8080)];
        ports.push(named("signal", Proto::Sctp, number));
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
