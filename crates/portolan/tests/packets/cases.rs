//! The table: what Services promise, a case for each promise.
//!
//! Sources: Kubernetes "Virtual IPs and Service Proxies", "Service" (traffic policies, source ranges), KEP-1669
//! (terminating endpoints), KEP-2086 (internal policy), KEP-2433 and KEP-4444 (hints), KEP-3866 (what nftables refuses).

use portolan_model::{DetectLocal, IfName, NodePortAddresses};
use serde_json::json;

use super::case::As::{Itself, Node};
use super::case::Expect::{Dropped, Refused};
use super::case::{Case, POD_RANGES, case, flow, reach};
use super::ground::{OWN_VIP, own_vip, second_addresses};
use super::objects::To::{Balancer, ClusterIp, External, NodePort, NodePortAtLoopback, NodePortAtSecond, OtherPort};
use super::objects::{self, Service, To, balancer, service};

pub fn all() -> Vec<Case> {
    let mut all = Vec::new();
    all.extend(selection());
    all.extend(choice());
    all.extend(hints());
    all.extend(addresses());
    all.extend(node_ports());
    all.extend(source_ranges());
    all.extend(policies());
    all.extend(masquerade());
    all.push(host_ports());
    all
}

fn every_way(number: u8) -> [To; 4] {
    [ClusterIp(number), NodePort(number), External(number), Balancer(number)]
}

fn external_ways(number: u8) -> [To; 3] {
    [NodePort(number), External(number), Balancer(number)]
}

/// Which Services and endpoints count at all.
fn selection() -> Vec<Case> {
    let proxy_name = "service.kubernetes.io/service-proxy-name";
    vec![
        case("a Service of another proxy, a headless one and one so labelled have no rules")
            .service(service(10).label(proxy_name, "other").endpoints("a1"))
            .service(service(11).label("service.kubernetes.io/headless", "").endpoints("a1"))
            .service(service(12).spec(json!({ "clusterIP": "None", "clusterIPs": ["None"] })).endpoints("a1"))
            .service(service(13).endpoints("a1"))
            .with(flow("a2", ClusterIp(10), reach("world", Itself)).in_nftables(Dropped))
            .with(flow("a2", ClusterIp(11), reach("world", Itself)).in_nftables(Dropped))
            .with(flow("a2", ClusterIp(12), reach("world", Itself)).in_nftables(Dropped))
            .flow("a2", ClusterIp(13), reach("a1", Itself)),
        case("a Service takes the endpoints of its port's name, each at the number that its slice gives")
            .service(service(10).endpoints("a1").endpoints_at(8081, "b1"))
            .service(service(11).misnamed().endpoints("a1"))
            .flow("a2", ClusterIp(10), reach("a1:8080 b1:8081", Itself))
            .flow("a2", ClusterIp(11), Refused),
        case("an endpoint that two slices list counts once, and as running if one of them says so")
            .service(service(10).endpoints("a1 terminating").endpoints("a1, b1"))
            .flow("a2", ClusterIp(10), reach("a1 b1", Itself)),
    ]
}

/// Which endpoints are chosen.
fn choice() -> Vec<Case> {
    vec![
        case("endpoints that are not ready get nothing while others are")
            .service(service(10).everywhere().endpoints("a1, a2 unready, b1 terminating, b2 dying"))
            .usual("a2 outside node-1", &every_way(10), "a1"),
        case("when all ready ones are gone those that still serve while they end take over, wherever they are")
            .service(service(10).everywhere().endpoints("a1 terminating, a2 unready, b1 terminating, b2 dying"))
            .usual("a2 outside node-1", &every_way(10), "a1 b1"),
        case("here only ending ones, elsewhere running ones: each list falls back for itself")
            .service(service(10).everywhere().external_local().endpoints("a1 terminating, b1"))
            .each("a2", &external_ways(10), &reach("b1", Itself))
            .each("node-1", &external_ways(10), &reach("b1", Node))
            .each("outside", &external_ways(10), &reach("a1", Itself))
            .flow("a2", ClusterIp(10), reach("b1", Itself))
            .service(service(11).spec(json!({ "internalTrafficPolicy": "Local" })).endpoints("a1 terminating, b1"))
            .flow("a2", ClusterIp(11), reach("a1", Itself))
            .service(service(12).spec(json!({ "internalTrafficPolicy": "Local" })).endpoints("a1 terminating, a2, b1"))
            .flow("a1", ClusterIp(12), reach("a2", Itself)),
        case("a Service that nobody serves refuses on every address")
            .service(service(10).everywhere())
            .service(service(11).everywhere().external_local().endpoints("a1 unready, b1 dying"))
            .each("a2 outside", &every_way(10), &Refused)
            .each("a2 outside", &every_way(11), &Refused)
            .each("node-1", &[ClusterIp(10), NodePort(10), NodePort(11)], &Refused)
            .with(flow("node-1", External(10), reach("world", Itself)).in_nftables(Refused))
            .with(flow("node-1", Balancer(10), reach("world", Itself)).in_nftables(Refused)),
        case("served, but not here: policy Local drops where running elsewhere does not help")
            .service(service(10).everywhere().external_local().endpoints("b1, a1 unready"))
            .each("outside", &external_ways(10), &Dropped)
            .each("a2", &every_way(10), &reach("b1", Itself))
            .each("node-1", &every_way(10), &reach("b1", Node))
            .flow("outside", ClusterIp(10), reach("b1", Node))
            .service(service(11).everywhere().spec(json!({ "internalTrafficPolicy": "Local" })).endpoints("b1"))
            .each("a2 outside node-1", &[ClusterIp(11)], &Dropped)
            .usual("a2 outside node-1", &external_ways(11), "b1"),
    ]
}

/// Hints of topology.
fn hints() -> Vec<Case> {
    vec![
        case("zone hints keep packets in the node's zone, if every ready endpoint has one")
            .service(service(10).node_port().endpoints("a1 zone=west, b1 zone=east, b2 zone=east, a2 unready"))
            .usual("a2 outside", &[ClusterIp(10), NodePort(10)], "b1 b2")
            .service(service(11).endpoints("a1 zone=west, b1 zone=east, b2"))
            .flow("a2", ClusterIp(11), reach("a1 b1 b2", Itself))
            .service(service(12).endpoints("a1 zone=west, b1 zone=north"))
            .flow("a2", ClusterIp(12), reach("a1 b1", Itself)),
        case("node hints come before zone hints")
            .service(service(10).endpoints("a1 node=node-1 zone=west, b1 node=node-2 zone=east"))
            .flow("a2", ClusterIp(10), reach("a1", Itself))
            .service(service(11).endpoints("a1 node=node-3 zone=west, b1 node=node-2 zone=east"))
            .flow("a2", ClusterIp(11), reach("b1", Itself))
            .service(service(12).endpoints("a1 node=node-1, b1"))
            .flow("a2", ClusterIp(12), reach("a1 b1", Itself)),
        case("a node without a zone takes no notice of zone hints")
            .without_zone()
            .service(service(10).endpoints("a1 zone=west, b1 zone=east"))
            .flow("a2", ClusterIp(10), reach("a1 b1", Itself)),
        case("neither policy Local nor the fallback to ending endpoints asks for hints")
            .service(service(10).node_port().external_local().endpoints("a1 zone=west, b1 zone=east"))
            .flow("outside", NodePort(10), reach("a1", Itself))
            .flow("a2", NodePort(10), reach("b1", Itself))
            .service(service(11).endpoints("a1 terminating zone=west, b1 terminating zone=east"))
            .flow("a2", ClusterIp(11), reach("a1 b1", Itself)),
    ]
}

/// Addresses that belong to a Service, and those that only look so.
fn addresses() -> Vec<Case> {
    vec![
        case("a ClusterIP answers everybody")
            .service(service(10).endpoints("a1, b1"))
            .flow("a2", ClusterIp(10), reach("a1 b1", Itself))
            .flow("node-1", ClusterIp(10), reach("a1 b1", Node))
            .flow("outside", ClusterIp(10), reach("a1 b1", Node))
            .service(service(11).endpoints("a1"))
            .flow("b1", ClusterIp(11), reach("a1", Itself)),
        case("who is its own endpoint is answered as by the node")
            .service(service(10).everywhere().endpoints("a1"))
            .each("a1", &every_way(10), &reach("a1", Node))
            .service(service(11).everywhere().external_local().endpoints("a1"))
            .each("a1", &every_way(11), &reach("a1", Node)),
        case("a port that a ClusterIP does not have, and an address that nobody has")
            .service(service(10).endpoints("a1"))
            .with(flow("a2", OtherPort(10), reach("world", Itself)).in_nftables(Refused))
            .with(flow("outside", OtherPort(10), reach("world", Itself)).in_nftables(Refused))
            .with(flow("node-1", OtherPort(10), reach("world", Itself)).in_nftables(Refused))
            .with(flow("a2", ClusterIp(99), reach("world", Itself)).in_nftables(Dropped))
            .with(flow("outside", ClusterIp(99), reach("world", Itself)).in_nftables(Dropped))
            .with(flow("node-1", ClusterIp(99), reach("world", Itself)).in_nftables(Dropped)),
        case("a balancer of its own kind gets what is sent to its address")
            .service(service(10).everywhere().ip_mode("Proxy").endpoints("a1"))
            .each("a2 outside node-1", &[Balancer(10)], &reach("world", Itself))
            .usual("a2 outside node-1", &[ClusterIp(10), NodePort(10), External(10)], "a1")
            .service(service(11).everywhere().ip_mode("VIP").endpoints("a1"))
            .usual("a2 outside node-1", &[Balancer(11)], "a1"),
        case("a balancer's address that the node has itself")
            .service(service(OWN_VIP).everywhere().endpoints("a1"))
            .usual("a2 outside node-1", &[Balancer(OWN_VIP)], "a1"),
        case("a balancer's address that the node has itself, and nobody serves")
            .service(service(OWN_VIP).everywhere())
            .each("a2 outside node-1", &[Balancer(OWN_VIP)], &Refused),
    ]
}

/// Where node ports answer.
fn node_ports() -> Vec<Case> {
    let second = |settings: &mut portolan_model::ProxySettings| {
        let ranges = ["172.19.0.0/24", "fd00:19::/64"].map(|net| net.parse().expect("a literal prefix"));
        settings.node_ports_on = NodePortAddresses::Within(ranges.into());
    };
    let everywhere = |settings: &mut portolan_model::ProxySettings| {
        let ranges = ["0.0.0.0/0", "::/0"].map(|net| net.parse().expect("a literal prefix"));
        settings.node_ports_on = NodePortAddresses::Within(ranges.into());
    };
    // Programs of the node listen at number 1's node port: they get what is not the Service's.
    let own = reach("node-1", Itself);
    let served = || service(1).node_port().endpoints("a1");
    vec![
        case("node ports answer on every address in iptables mode, on the node's own in nftables mode")
            .service(served())
            .usual("a2 outside node-1", &[NodePort(1)], "a1")
            .with(flow("outside", NodePortAtSecond(1), reach("a1", Node)).in_nftables(own.clone()))
            .with(
                flow("outside", NodePortAtSecond(1), reach("a1", Node))
                    .in_nftables(own.clone())
                    .source(second_addresses("outside")),
            )
            .with(flow("a2", NodePortAtSecond(1), reach("a1", Node)).in_nftables(own.clone())),
        case("node ports answer on loopback in iptables mode, for IPv4")
            .service(served())
            .with(flow("node-1", NodePortAtLoopback(1), reach("a1", Node)).in_nftables(own.clone()).v4())
            .with(flow("node-1", NodePortAtLoopback(1), own.clone()).v6()),
        case("node ports do not answer on loopback if told so")
            .flags("--iptables-localhost-nodeports=false", |settings| settings.localhost_node_ports = false)
            .service(served())
            .flow("node-1", NodePortAtLoopback(1), own.clone())
            .usual("a2 outside node-1", &[NodePort(1)], "a1"),
        case("node ports answer on the addresses that lie in the ranges")
            .flags("--nodeport-addresses 172.19.0.0/24,fd00:19::/64", second)
            .service(served())
            .service(service(2).node_port())
            .usual("a2 outside node-1", &[NodePortAtSecond(1)], "a1")
            .each("a2 outside node-1", &[NodePort(1)], &own)
            .flow("node-1", NodePortAtLoopback(1), own.clone())
            .flow("outside", NodePortAtSecond(2), Refused),
        case("node ports answer on the node's own address if told so")
            .flags("--nodeport-addresses primary", |settings| settings.node_ports_on = NodePortAddresses::Primary)
            .service(served())
            .usual("a2 outside node-1", &[NodePort(1)], "a1")
            .each("a2 outside", &[NodePortAtSecond(1)], &own),
        case("node ports answer everywhere if the ranges hold everything")
            .flags("--nodeport-addresses 0.0.0.0/0,::/0", everywhere)
            .service(served())
            .usual("a2 outside node-1", &[NodePort(1), NodePortAtSecond(1)], "a1")
            .with(flow("node-1", NodePortAtLoopback(1), reach("a1", Node)).in_nftables(own.clone()).v4()),
        case("a node port that nobody serves, and one that nobody serves here")
            .service(service(1).node_port())
            .service(service(2).node_port().external_local().endpoints("b1"))
            .each("a2 outside node-1", &[NodePort(1)], &Refused)
            .flow("outside", NodePort(2), Dropped)
            .flow("a2", NodePort(2), reach("b1", Itself)),
    ]
}

/// loadBalancerSourceRanges.
fn source_ranges() -> Vec<Case> {
    let listed = |service: Service| {
        service.ranges(&["172.18.0.40/32", " fd00:18::40/128 ", "10.244.1.2/32", "fd00:10:244:1::2/128"])
    };
    let with_node = |service: Service| service.ranges(&["172.18.0.0/27", "fd00:18::/123"]);
    vec![
        case(
            "a balancer's address lets in whom its ranges list, pods too, and drops others; other addresses do not ask",
        )
        .service(listed(service(10).everywhere()).endpoints("a2, b1"))
        .with(flow("outside", Balancer(10), reach("a2 b1", Node)).client(40))
        .with(flow("outside", Balancer(10), Dropped).client(41))
        .flow("a1", Balancer(10), reach("a2 b1", Node))
        .flow("a3", Balancer(10), Dropped)
        .flow("node-1", Balancer(10), Dropped)
        .with(flow("outside", External(10), reach("a2 b1", Node)).client(41))
        .with(flow("outside", NodePort(10), reach("a2 b1", Node)).client(41))
        .with(flow("outside", ClusterIp(10), reach("a2 b1", Node)).client(41)),
        case("source ranges and policy Local together")
            .service(listed(service(10).everywhere().external_local()).endpoints("a2, b1"))
            .with(flow("outside", Balancer(10), reach("a2", Itself)).client(40))
            .with(flow("outside", Balancer(10), Dropped).client(41))
            .flow("a1", Balancer(10), reach("a2 b1", Itself)),
        case("with the node's address in a range the balancer's own address is let in")
            .service(with_node(service(10).everywhere()).endpoints("a1"))
            .service(listed(service(11).everywhere()).endpoints("a1"))
            .flow("node-1", Balancer(10), reach("a1", Node))
            .with(flow("outside", Balancer(10), reach("a1", Node)).borrowed(balancer(10)))
            .with(flow("outside", Balancer(11), Dropped).borrowed(balancer(11)))
            .with(flow("outside", Balancer(10), Dropped).client(41)),
        case("a node that has the balancer's address reaches it from itself")
            .service(with_node(service(OWN_VIP).everywhere()).endpoints("a1"))
            .with(flow("node-1", Balancer(OWN_VIP), reach("a1", Node)).source(own_vip())),
    ]
}

/// Traffic policies, with running endpoints here and elsewhere.
fn policies() -> Vec<Case> {
    vec![
        case("external policy Cluster: anywhere, as the node")
            .service(service(10).everywhere().endpoints("a1, b1"))
            .each("a2 outside node-1", &external_ways(10), &reach("a1 b1", Node)),
        case("external policy Local: from outside to here and as the client, from inside anywhere")
            .service(service(10).everywhere().external_local().endpoints("a1, b1"))
            .each("outside", &external_ways(10), &reach("a1", Itself))
            .each("a2", &external_ways(10), &reach("a1 b1", Itself))
            .each("node-1", &external_ways(10), &reach("a1 b1", Node))
            .flow("outside", ClusterIp(10), reach("a1 b1", Node)),
        case("internal policy Local: the ClusterIP to here, all else anywhere")
            .service(service(10).everywhere().spec(json!({ "internalTrafficPolicy": "Local" })).endpoints("a1, b1"))
            .flow("a2", ClusterIp(10), reach("a1", Itself))
            .flow("node-1", ClusterIp(10), reach("a1", Node))
            .flow("outside", ClusterIp(10), reach("a1", Node))
            .each("a2 outside node-1", &external_ways(10), &reach("a1 b1", Node)),
    ]
}

/// Who is rewritten, for each way to tell pods and with all rewritten: thirty flows each.
fn masquerade() -> Vec<Case> {
    let detectors: [(&str, &str, &[&str], DetectLocal); 4] = [
        ("by the cluster's range", "", &["a1", "a3", "b1"], DetectLocal::ClusterCidr),
        ("by the node's range", "--detect-local-mode NodeCIDR", &["a1", "a3"], DetectLocal::NodeCidr),
        (
            "by their bridge",
            "--detect-local-mode BridgeInterface --pod-bridge-interface cbr0",
            &["a3"],
            DetectLocal::BridgeInterface(IfName("cbr0".into())),
        ),
        (
            "by their links' names",
            "--detect-local-mode InterfaceNamePrefix --pod-interface-name-prefix cali",
            &["a1"],
            DetectLocal::InterfaceNamePrefix("cali".into()),
        ),
    ];
    let mut all = Vec::new();
    for (name, flags, pods, detect) in detectors {
        let told =
            case(format!("pods are told {name}")).flags(flags, |settings| settings.detect_local = detect.clone());
        all.push(masquerade_flows(told, pods, false));
        let told = case(format!("pods are told {name}, all masqueraded"))
            .flags(flags, |settings| settings.detect_local = detect)
            .flags("--masquerade-all", |settings| settings.masquerade_all = true);
        all.push(masquerade_flows(told, pods, true));
    }
    for (range, families) in [(POD_RANGES[1], [true, false]), (POD_RANGES[0], [false, true])] {
        let none = case("nothing tells pods in one family").pod_ranges(range);
        all.push(masquerade_flows(none, &[], false).families(families));
        let none = case("nothing tells pods in one family, all masqueraded")
            .pod_ranges(range)
            .flags("--masquerade-all", |settings| settings.masquerade_all = true);
        all.push(masquerade_flows(none, &[], true).families(families));
    }
    all
}

fn masquerade_flows(mut made: Case, pods: &[&str], with_all: bool) -> Case {
    made = made
        .service(service(10).everywhere().endpoints("a2, b2"))
        .service(service(11).everywhere().external_local().endpoints("a2, b2"))
        .service(service(12).everywhere().endpoints("a2"))
        .service(service(13).everywhere().external_local().endpoints("a2"));
    for from in ["a1", "a3", "b1", "node-1", "outside"] {
        let is_pod = pods.contains(&from);
        let is_told = !pods.is_empty() && !is_pod;
        let inside = if with_all || is_told || from == "node-1" { Node } else { Itself };
        // What comes from node-2 must go back by node-1: its pods are asked nothing here.
        let (cluster, local, everywhere) = match from {
            "b1" => (12, 13, "a2"),
            _ => (10, 11, "a2 b2"),
        };
        made = made.flow(from, ClusterIp(cluster), reach(everywhere, inside));
        made = made.flow(from, ClusterIp(local), reach(everywhere, inside));
        made = made.each(from, &external_ways(cluster), &reach(everywhere, Node));
        let expected = match (from, is_pod) {
            ("node-1", _) => reach(everywhere, Node),
            (_, true) => reach(everywhere, Itself),
            (_, false) => reach("a2", Itself),
        };
        made = made.each(from, &external_ways(local), &expected);
    }
    made
}

/// A pod's hostPort: before node ports, and for whoever does not come from the pod itself as the client.
fn host_ports() -> Case {
    case("a port of the node leads to the pod that asked for it")
        .object(objects::pod_with_host_port("a1", 9001))
        .flow("outside", To::Node(9001), reach("a1", Itself))
        .flow("a2", To::Node(9001), reach("a1", Itself))
        .flow("b1", To::Node(9001), reach("a1", Itself))
        .flow("a1", To::Node(9001), reach("a1", Node))
        .flow("node-1", To::Node(9001), reach("a1", Node))
}
