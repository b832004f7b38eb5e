//! Settings: what each of the proxy's settings changes for a packet, and nothing else.

use super::*;
use crate::names::IfName;
use crate::proxy::{DetectLocal, NodePortAddresses, ProxySettings};

fn set(change: impl FnOnce(&mut ProxySettings)) -> World {
    World::new().with(|w| change(&mut w.settings.proxy))
}

fn nets(texts: &[&str]) -> NodePortAddresses {
    NodePortAddresses::Within(texts.iter().map(|text| text.parse().expect("a literal prefix")).collect())
}

/// What a packet from `src` by `arrival` to the ClusterIP of a Service with one endpoint meets.
fn masqueraded_to_cluster_ip(detect: &DetectLocal, src: [&str; 2], arrival: Arrival) -> [bool; 2] {
    let world = set(|p| p.detect_local = detect.clone()).with(|w| w.endpoints = on(THERE, "node-2"));
    let snapshot = world.snapshot();
    [0, 1].map(|family| {
        let packet = Packet { arrival, ..packet(&snapshot, src[family], CLUSTER_IP[family], 80) };
        let allowed = judge(&snapshot, &packet, Mode::Iptables);
        assert_eq!(judge(&snapshot, &packet, Mode::Nftables), allowed);
        allowed == Allowed::from([Masqueraded(THERE).outcome(family)])
    })
}

#[test]
fn each_detector_tells_pods_by_its_own_sign() {
    let bridge = DetectLocal::BridgeInterface(IfName("br0".into()));
    let prefix = DetectLocal::InterfaceNamePrefix("veth".into());
    let remote_pod = ["10.244.1.99", "fd00:10:244:1::99"];
    // Detector; what it makes of: a pod by veth1, a pod by br0, another node's pod by eth0, a stranger by veth1, the node.
    let rows = [
        (DetectLocal::ClusterCidr, [false, false, false, true, true]),
        (DetectLocal::NodeCidr, [false, false, true, true, true]),
        (bridge, [true, false, true, true, true]),
        (prefix, [false, true, true, false, true]),
        (DetectLocal::Nothing, [false, false, false, false, false]),
        (DetectLocal::BridgeInterface(IfName("".into())), [false, false, false, false, false]),
    ];
    for (detect, expected) in rows {
        let found = [
            (OTHER_POD, Arrival::by("veth1")),
            (OTHER_POD, Arrival::by("br0")),
            (remote_pod, Arrival::by("eth0")),
            (OUTSIDE, Arrival::by("veth1")),
            (NODE, Arrival::Sent),
        ]
        .map(|(src, arrival)| masqueraded_to_cluster_ip(&detect, src, arrival));
        assert_eq!(found, expected.map(|masqueraded| [masqueraded; 2]), "{detect:?}");
    }
}

/// As with a bridge that has the first address of the node's range.
#[test]
fn an_address_of_the_node_that_the_detector_takes_for_a_pods_is_a_pods() {
    let bridge = ["10.244.0.1", "fd00:10:244::1"];
    let world = set(|p| p.detect_local = DetectLocal::NodeCidr).with(|w| {
        w.service.external_policy = ExternalPolicy::Local;
        w.others = both(bridge).into_iter().map(|addr| Fact::InterfaceAddress(addr, Some(()))).collect();
    });
    world.check(bridge, NODE, 30080, &[To(HERE), To(THERE)]);
    world.check(bridge, CLUSTER_IP, 80, &[To(HERE), To(THERE)]);
    world.check(NODE, NODE, 30080, &[Masqueraded(HERE), Masqueraded(THERE)]);
}

#[test]
fn a_detector_whose_datum_is_missing_detects_nothing() {
    let world = set(|p| p.detect_local = DetectLocal::NodeCidr).with(|w| w.node.pod_cidrs.clear());
    world.check(OUTSIDE, CLUSTER_IP, 80, &[To(HERE), To(THERE)]);
    let local = world.with(|w| w.service.external_policy = ExternalPolicy::Local);
    local.check(OTHER_POD, NODE, 30080, &[To(HERE)]);
    local.check(NODE, NODE, 30080, &[Masqueraded(HERE), Masqueraded(THERE)]);
}

#[test]
fn masquerade_all_concerns_the_cluster_ip_alone() {
    let world = set(|p| p.masquerade_all = true).with(|w| w.service.external_policy = ExternalPolicy::Local);
    for from in [OTHER_POD, NODE, OUTSIDE] {
        world.check(from, CLUSTER_IP, 80, &[Masqueraded(HERE), Masqueraded(THERE)]);
    }
    world.check(OUTSIDE, NODE, 30080, &[To(HERE)]);
    world.check(OTHER_POD, NODE, 30080, &[To(HERE), To(THERE)]);
}

#[test]
fn node_ports_answer_on_the_listed_addresses_alone() {
    let second = ["172.19.0.11", "fd00:19::11"];
    let rows = [
        (NodePortAddresses::Every, [true, true]),
        (NodePortAddresses::Primary, [true, false]),
        (nets(&["172.18.0.0/24", "fd00:18::/64"]), [true, false]),
        (nets(&["172.19.0.0/24", "fd00:19::/64", "127.0.0.0/8"]), [false, true]),
        (nets(&["172.18.0.0/24", "0.0.0.0/0", "::/0"]), [true, true]),
        (nets(&[]), [true, true]),
        (nets(&["192.0.2.0/24", "2001:db8::/32"]), [false, false]),
    ];
    for (addresses, expected) in rows {
        let world = set(|p| p.node_ports_on = addresses.clone()).with(|w| {
            w.others = both(second).into_iter().map(|addr| Fact::InterfaceAddress(addr, Some(()))).collect();
        });
        for (to, answers) in [NODE, second].into_iter().zip(expected) {
            let wanted: &[Wanted] = if answers { &[Masqueraded(HERE), Masqueraded(THERE)] } else { &[On] };
            world.check(OUTSIDE, to, 30080, wanted);
        }
    }
}

#[test]
fn a_list_of_one_family_leaves_the_other_open() {
    let snapshot = set(|p| p.node_ports_on = nets(&["192.0.2.0/24"])).snapshot();
    assert_eq!(snapshot.node_port_addresses(Family::V4), Some(vec![]));
    assert_eq!(snapshot.node_port_addresses(Family::V6), None);
}

#[test]
fn node_ports_on_loopback_need_ipv4_the_setting_and_a_list_that_holds_it() {
    let rows = [
        (true, NodePortAddresses::Every, true),
        (false, NodePortAddresses::Every, false),
        (true, NodePortAddresses::Primary, false),
        (true, nets(&["172.18.0.0/24", "::1/128"]), false),
        (true, nets(&["127.0.0.0/8", "::1/128"]), true),
        (false, nets(&["127.0.0.0/8"]), false),
    ];
    for (localhost, addresses, answers) in rows {
        let world = set(|p| (p.localhost_node_ports, p.node_ports_on) = (localhost, addresses.clone()));
        let snapshot = world.snapshot();
        let ask = |mode, addr| judge(&snapshot, &packet(&snapshot, addr, addr, 30080), mode);
        let sent: Allowed = [HERE, THERE].map(|pair| Masqueraded(pair).outcome(0)).into();
        let wanted = if answers { sent } else { Allowed::from([On.outcome(0)]) };
        assert_eq!(ask(Mode::Iptables, "127.0.0.1"), wanted, "{localhost} {addresses:?}");
        assert_eq!(ask(Mode::Nftables, "127.0.0.1"), Allowed::from([On.outcome(0)]));
        assert_eq!(ask(Mode::Iptables, "::1"), Allowed::from([On.outcome(1)]));
        // Where nothing opens loopback, closing it to strangers is the kernel's business, as ever.
        let stranger = judge(&snapshot, &packet(&snapshot, OUTSIDE[0], "127.0.0.1", 22), Mode::Iptables);
        let wanted = if answers { Outcome::Drop } else { On.outcome(0) };
        assert_eq!(stranger, Allowed::from([wanted]));
    }
}

#[test]
fn without_egress_snat_pods_keep_their_address_everywhere() {
    let world = set(|p| p.egress_snat = false);
    world.check(OTHER_POD, OUTSIDE, 443, &[On]);
    world.with(|w| w.endpoints = on(OUTSIDE, "node-2")).check(OTHER_POD, CLUSTER_IP, 80, &[To(OUTSIDE)]);
}

#[test]
fn a_named_proxy_takes_exactly_the_services_that_name_it() {
    let served = [Masqueraded(HERE), Masqueraded(THERE)];
    for (own, label, expected) in [
        (None, None, &served[..]),
        (None, Some("edge"), &[On]),
        (Some("edge"), Some("edge"), &served[..]),
        (Some("edge"), Some("other"), &[On]),
        (Some("edge"), None, &[On]),
    ] {
        let world =
            set(|p| p.service_proxy_name = own.map(Into::into)).with(|w| w.service.proxy_name = label.map(Into::into));
        world.check(OUTSIDE, CLUSTER_IP, 80, expected);
    }
}

#[test]
fn addresses_of_the_service_range_that_nobody_has_are_let_be_or_dropped() {
    let nobodys = ["10.96.0.99", "fd00:10:96::99"];
    let ranges = ["10.96.0.0/12", "fd00:10:96::/112"].map(|net| net.parse().expect("a literal prefix"));
    let world = World::new().with(|w| w.settings.service_cidrs = ranges.to_vec());
    for from in [OUTSIDE, NODE] {
        world.check_in(Mode::Iptables, from, nobodys, 80, &[On]);
        world.check_in(Mode::Nftables, from, nobodys, 80, &[Dropped]);
    }
    world.check_in(Mode::Iptables, OTHER_POD, nobodys, 80, &[OnMasqueraded]);
    world.check_in(Mode::Nftables, OTHER_POD, CLUSTER_IP, 81, &[Refused]);
}

#[test]
fn a_bound_client_goes_where_it_is_bound_while_that_endpoint_may_be_used() {
    let world = World::new().with(|w| w.service.affinity_secs = Some(60));
    let ask = |world: &World, from: [&str; 2], to: [&str; 2], port, bound: [&str; 2]| {
        let snapshot = world.snapshot();
        let bound = SocketAddr::new(ip(bound[0]), 8080);
        let packet = packet(&snapshot, from[0], to[0], port);
        let allowed = judge_bound(&snapshot, &packet, Mode::Iptables, bound);
        assert_eq!(judge_bound(&snapshot, &packet, Mode::Nftables, bound), allowed);
        allowed
    };
    let wanted = |list: &[Wanted]| -> Allowed { list.iter().map(|w| w.outcome(0)).collect() };
    assert_eq!(ask(&world, OTHER_POD, CLUSTER_IP, 80, THERE), wanted(&[To(THERE)]));
    assert_eq!(ask(&world, OUTSIDE, NODE, 30080, HERE), wanted(&[Masqueraded(HERE)]));
    assert_eq!(ask(&world, OTHER_POD, CLUSTER_IP, 80, OUTSIDE), wanted(&[To(HERE), To(THERE)]));
    let local = world.with(|w| w.service.external_policy = ExternalPolicy::Local);
    assert_eq!(ask(&local, OUTSIDE, NODE, 30080, THERE), wanted(&[To(HERE)]), "bound to what policy Local rules out");
    let unbound = World::new();
    assert_eq!(ask(&unbound, OTHER_POD, CLUSTER_IP, 80, THERE), wanted(&[To(HERE), To(THERE)]), "no affinity");
}

#[test]
fn the_smallest_key_owns_an_external_destination_that_two_claim_and_a_cluster_ip_goes_before() {
    let port = ServicePortFact { name: "http".into(), proto: Proto::Tcp, port: 80, node_port: 0 };
    let other = |name: &str, cluster_ip: [&str; 2], external_ips: Vec<IpAddr>| {
        let service =
            Service { cluster_ips: both(cluster_ip), external_ips, ports: vec![port.clone()], ..Service::default() };
        let key = NsName::new("default", name);
        let slices = Family::BOTH.map(|family| {
            let endpoints = on(OTHER_POD, "node-1").into_iter().filter(|e| Family::of(e.addr) == family).collect();
            let ports = vec![SlicePort { name: "http".into(), proto: Proto::Tcp, port: 8080 }];
            let slice = Slice { service: key.clone(), family, ports, endpoints };
            Fact::Slice(NsName::new("default", format!("{name}-{family:?}")), Some(slice))
        });
        [vec![Fact::Service(key.clone(), Some(service))], slices.to_vec()].concat()
    };
    let elsewhere = ["10.96.0.30", "fd00:10:96::30"];
    let own = [Masqueraded(HERE), Masqueraded(THERE)];
    let first = World::new().with(|w| w.others = other("aaa", elsewhere, both(EXTERNAL_IP)));
    first.check(OUTSIDE, EXTERNAL_IP, 80, &[Masqueraded(OTHER_POD)]);
    let last = World::new().with(|w| w.others = other("zzz", elsewhere, both(BALANCER_IP)));
    last.check(OUTSIDE, BALANCER_IP, 80, &own);
    let refused = World::new().with(|w| {
        w.others = other("aaa", elsewhere, vec![]);
        w.others.retain(|fact| !matches!(fact, Fact::Slice(..)));
        let Some(Fact::Service(_, Some(service))) = w.others.first_mut() else { panic!("the Service stands first") };
        service.external_ips = both(EXTERNAL_IP);
    });
    for (mode, from) in [(Mode::Iptables, OUTSIDE), (Mode::Nftables, OUTSIDE), (Mode::Nftables, NODE)] {
        refused.check_in(mode, from, EXTERNAL_IP, 80, &[Refused]);
    }
    let thief = World::new().with(|w| w.others = other("aaa", elsewhere, both(CLUSTER_IP)));
    thief.check(OUTSIDE, CLUSTER_IP, 80, &own);
    // Its own claim from outside counts, the other's does not, where the ClusterIP itself has no endpoint.
    let again = thief.with(|w| {
        w.service.internal_local = true;
        w.service.external_ips = both(CLUSTER_IP);
        w.endpoints = on(THERE, "node-2");
    });
    again.check(OUTSIDE, CLUSTER_IP, 80, &[Dropped, Masqueraded(THERE)]);
}
