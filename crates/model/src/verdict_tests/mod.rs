//! Tests of the oracle: one row for each promise of the documents, both families where they differ in nothing else.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

mod endpoints;
mod flows;
mod host_ports;
mod settings;

use super::*;
use crate::facts::{
    Attachment, EndpointFact, ExternalPolicy, Fact, Facts, HostPort, Node, Service, ServiceKind, ServicePortFact,
    Slice, SlicePort,
};
use crate::names::NsName;
use crate::resolve::resolve;
use crate::snapshot::Settings;

const CLUSTER_IP: [&str; 2] = ["10.96.0.20", "fd00:10:96::20"];
const EXTERNAL_IP: [&str; 2] = ["203.0.113.1", "2001:db8:e::1"];
const BALANCER_IP: [&str; 2] = ["198.51.100.1", "2001:db8:f::1"];
const NODE: [&str; 2] = ["172.18.0.11", "fd00:18::11"];
const OUTSIDE: [&str; 2] = ["192.0.2.7", "2001:db8:1::7"];
const HERE: [&str; 2] = ["10.244.0.5", "fd00:10:244::5"];
const THERE: [&str; 2] = ["10.244.1.6", "fd00:10:244:1::6"];
const OTHER_POD: [&str; 2] = ["10.244.0.77", "fd00:10:244::77"];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

fn both(texts: [&str; 2]) -> Vec<IpAddr> {
    texts.map(ip).to_vec()
}

/// A cluster with one Service whose endpoints are told by hand.
struct World {
    service: Service,
    endpoints: Vec<EndpointFact>,
    settings: Settings,
    node: Node,
    /// Beside these: other Services, pods attached here, addresses on interfaces.
    others: Vec<Fact>,
}

impl World {
    /// One ready endpoint on this node, one on another; node port 30080, an external IP, a balancer.
    fn new() -> Self {
        let port = ServicePortFact { name: "http".into(), proto: Proto::Tcp, port: 80, node_port: 30080 };
        let service = Service {
            kind: ServiceKind::LoadBalancer,
            cluster_ips: both(CLUSTER_IP),
            external_ips: both(EXTERNAL_IP),
            load_balancer_ips: both(BALANCER_IP),
            ports: vec![port],
            ..Service::default()
        };
        let settings = Settings {
            node: "node-1".into(),
            cluster_cidrs: vec![
                "10.244.0.0/16".parse().expect("a literal prefix"),
                "fd00:10:244::/56".parse().expect("a literal prefix"),
            ],
            service_cidrs: vec![],
            cluster_dns: vec![],
            cluster_domain: "cluster.local".into(),
            proxy: Default::default(),
        };
        let pod_cidrs = vec![
            "10.244.0.0/24".parse().expect("a literal prefix"),
            "fd00:10:244::/64".parse().expect("a literal prefix"),
        ];
        let node = Node { addresses: both(NODE), pod_cidrs, zone: Some("z1".into()), ..Node::default() };
        let endpoints = [on(HERE, "node-1"), on(THERE, "node-2")].concat();
        Self { service, endpoints, settings, node, others: vec![] }
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn snapshot(&self) -> Snapshot {
        let key = NsName::new("default", "web");
        let mut facts = Facts::default();
        facts.apply(Fact::Service(key.clone(), Some(self.service.clone())));
        for family in Family::BOTH {
            let endpoints = self.endpoints.iter().filter(|e| Family::of(e.addr) == family).cloned().collect();
            let ports = vec![SlicePort { name: "http".into(), proto: Proto::Tcp, port: 8080 }];
            let slice = Slice { service: key.clone(), family, ports, endpoints };
            facts.apply(Fact::Slice(NsName::new("default", format!("web-{family:?}")), Some(slice)));
        }
        facts.apply(Fact::Node("node-1".into(), Some(self.node.clone())));
        facts.apply_all(self.others.iter().cloned());
        resolve(&facts, &Snapshot::empty(Arc::new(self.settings.clone())), &facts.all()).0
    }

    /// What happens to packets from `from` to `to`, in both modes and families alike: endpoints as their pair in
    /// [`HERE`]….
    fn check(&self, from: [&str; 2], to: [&str; 2], dport: u16, expected: &[Wanted]) {
        for mode in [Mode::Iptables, Mode::Nftables] {
            self.check_in(mode, from, to, dport, expected);
        }
    }

    fn check_in(&self, mode: Mode, from: [&str; 2], to: [&str; 2], dport: u16, expected: &[Wanted]) {
        let snapshot = self.snapshot();
        for family in 0..2 {
            let packet = packet(&snapshot, from[family], to[family], dport);
            let expected: Allowed = expected.iter().map(|wanted| wanted.outcome(family)).collect();
            assert_eq!(judge(&snapshot, &packet, mode), expected, "{mode:?} {packet:?}");
        }
    }
}

/// A TCP packet as it would come: sent if its source is the node's, by a link of a pod or of the LAN if not.
fn packet(snapshot: &Snapshot, src: &str, dst: &str, dport: u16) -> Packet {
    let (src, dst) = (ip(src), ip(dst));
    let arrival = match () {
        () if is_node_address(snapshot, src) => Arrival::Sent,
        () if in_pod_range(snapshot, src) => Arrival::by("veth1"),
        () => Arrival::by("eth0"),
    };
    Packet { src, dst, proto: Proto::Tcp, dport, arrival }
}

fn on(addrs: [&str; 2], node: &str) -> Vec<EndpointFact> {
    addrs.map(|addr| EndpointFact { node: Some(node.into()), ..EndpointFact::ready_at(ip(addr)) }).to_vec()
}

fn draining(endpoints: Vec<EndpointFact>) -> Vec<EndpointFact> {
    let drain = |e| EndpointFact { ready: false, terminating: true, ..e };
    endpoints.into_iter().map(drain).collect()
}

#[derive(Clone, Copy)]
enum Wanted {
    To([&'static str; 2]),
    Masqueraded([&'static str; 2]),
    Refused,
    Dropped,
    On,
    OnMasqueraded,
}

use Wanted::*;

impl Wanted {
    fn outcome(self, family: usize) -> Outcome {
        let target = |pair: [&str; 2]| SocketAddr::new(ip(pair[family]), 8080);
        match self {
            To(pair) => Outcome::Dnat { to: target(pair), masquerade: false },
            Masqueraded(pair) => Outcome::Dnat { to: target(pair), masquerade: true },
            Refused => Outcome::Reject,
            Dropped => Outcome::Drop,
            On => Outcome::Untouched { masquerade: false },
            OnMasqueraded => Outcome::Untouched { masquerade: true },
        }
    }
}

#[test]
fn a_pod_reaches_a_cluster_ip_under_its_own_address_but_by_hairpin() {
    let world = World::new();
    world.check(OTHER_POD, CLUSTER_IP, 80, &[To(HERE), To(THERE)]);
    world.check(HERE, CLUSTER_IP, 80, &[Masqueraded(HERE), To(THERE)]);
}

#[test]
fn node_and_outside_reach_a_cluster_ip_masqueraded() {
    let world = World::new();
    world.check(NODE, CLUSTER_IP, 80, &[Masqueraded(HERE), Masqueraded(THERE)]);
    world.check(OUTSIDE, CLUSTER_IP, 80, &[Masqueraded(HERE), Masqueraded(THERE)]);
}

#[test]
fn without_a_pod_range_nobody_is_masqueraded_to_a_cluster_ip() {
    let world = World::new().with(|w| w.settings.cluster_cidrs.clear());
    world.check(OUTSIDE, CLUSTER_IP, 80, &[To(HERE), To(THERE)]);
}

#[test]
fn external_policy_cluster_masquerades_everyone() {
    let world = World::new();
    for (to, port) in [(EXTERNAL_IP, 80), (BALANCER_IP, 80), (NODE, 30080)] {
        for from in [OTHER_POD, NODE, OUTSIDE] {
            world.check(from, to, port, &[Masqueraded(HERE), Masqueraded(THERE)]);
        }
    }
}

#[test]
fn external_policy_local_keeps_the_client_and_gives_insiders_the_whole_list() {
    let world = World::new().with(|w| w.service.external_policy = ExternalPolicy::Local);
    for (to, port) in [(EXTERNAL_IP, 80), (BALANCER_IP, 80), (NODE, 30080)] {
        world.check(OUTSIDE, to, port, &[To(HERE)]);
        world.check(OTHER_POD, to, port, &[To(HERE), To(THERE)]);
        world.check(NODE, to, port, &[Masqueraded(HERE), Masqueraded(THERE)]);
    }
    world.check(OUTSIDE, CLUSTER_IP, 80, &[Masqueraded(HERE), Masqueraded(THERE)]);
}

#[test]
fn external_policy_local_without_local_endpoint_drops_what_comes_from_outside_only() {
    let world = World::new().with(|w| {
        w.service.external_policy = ExternalPolicy::Local;
        w.endpoints = on(THERE, "node-2");
    });
    world.check(OUTSIDE, NODE, 30080, &[Dropped]);
    world.check(OTHER_POD, NODE, 30080, &[To(THERE)]);
    world.check(NODE, NODE, 30080, &[Masqueraded(THERE)]);
}

#[test]
fn internal_policy_local_touches_the_cluster_ip_alone() {
    let world = World::new().with(|w| w.service.internal_local = true);
    world.check(OTHER_POD, CLUSTER_IP, 80, &[To(HERE)]);
    world.check(OUTSIDE, NODE, 30080, &[Masqueraded(HERE), Masqueraded(THERE)]);
    let elsewhere = World::new().with(|w| {
        w.service.internal_local = true;
        w.endpoints = on(THERE, "node-2");
    });
    elsewhere.check(OTHER_POD, CLUSTER_IP, 80, &[Dropped]);
}

#[test]
fn no_endpoint_anywhere_refuses_on_every_address() {
    let not_ready = |e: EndpointFact| EndpointFact { ready: false, ..e };
    let rows = [vec![], on(HERE, "node-1").into_iter().map(not_ready).collect()];
    for endpoints in rows {
        let world = World::new().with(|w| w.endpoints = endpoints);
        for (to, port) in [(CLUSTER_IP, 80), (EXTERNAL_IP, 80), (BALANCER_IP, 80), (NODE, 30080)] {
            world.check(OTHER_POD, to, port, &[Refused]);
            world.check(OUTSIDE, to, port, &[Refused]);
        }
        world.check(NODE, CLUSTER_IP, 80, &[Refused]);
        world.check_in(Mode::Iptables, NODE, EXTERNAL_IP, 80, &[Refused, On]);
        world.check_in(Mode::Nftables, NODE, EXTERNAL_IP, 80, &[Refused]);
    }
}

#[test]
fn draining_endpoints_are_used_when_no_other_is_ready_each_list_for_itself() {
    let world = World::new().with(|w| {
        w.service.external_policy = ExternalPolicy::Local;
        w.endpoints = [draining(on(HERE, "node-1")), on(THERE, "node-2")].concat();
    });
    world.check(OTHER_POD, CLUSTER_IP, 80, &[To(THERE)]);
    world.check(OUTSIDE, NODE, 30080, &[To(HERE)]);
    let all = World::new().with(|w| w.endpoints = draining([on(HERE, "node-1"), on(THERE, "node-2")].concat()));
    all.check(OTHER_POD, CLUSTER_IP, 80, &[To(HERE), To(THERE)]);
}

#[test]
fn hints_narrow_the_list_only_if_every_ready_endpoint_has_one() {
    let hinted = |zones: [&'static str; 2]| {
        World::new().with(|w| {
            for endpoint in &mut w.endpoints {
                let zone = if endpoint.node.as_deref() == Some("node-1") { zones[0] } else { zones[1] };
                endpoint.zone_hints = [zone].iter().filter(|z| !z.is_empty()).map(|z| (*z).into()).collect();
            }
        })
    };
    hinted(["z1", "z2"]).check(OTHER_POD, CLUSTER_IP, 80, &[To(HERE)]);
    hinted(["z2", "z1"]).check(OTHER_POD, CLUSTER_IP, 80, &[To(THERE)]);
    hinted(["z1", ""]).check(OTHER_POD, CLUSTER_IP, 80, &[To(HERE), To(THERE)]);
    hinted(["z2", "z2"]).check(OTHER_POD, CLUSTER_IP, 80, &[To(HERE), To(THERE)]);
    let by_node = hinted(["z1", "z2"]).with(|w| {
        w.endpoints.iter_mut().for_each(|e| {
            e.node_hints =
                if e.node.as_deref() == Some("node-2") { vec!["node-1".into()] } else { vec!["node-2".into()] };
        })
    });
    by_node.check(OTHER_POD, CLUSTER_IP, 80, &[To(THERE)]);
}

#[test]
fn source_ranges_guard_the_balancer_address_alone() {
    let ranged = |ranges: &[&str]| {
        let ranges = ranges.iter().map(|range| range.parse().expect("a literal prefix")).collect();
        World::new().with(|w| w.service.source_ranges = ranges)
    };
    let listed = ranged(&["192.0.2.0/24", "2001:db8:1::/64"]);
    let everyone = [Masqueraded(HERE), Masqueraded(THERE)];
    listed.check(OUTSIDE, BALANCER_IP, 80, &everyone);
    listed.check(OTHER_POD, BALANCER_IP, 80, &[Dropped]);
    listed.check(NODE, BALANCER_IP, 80, &[Dropped]);
    listed.check(BALANCER_IP, BALANCER_IP, 80, &[Dropped]);
    listed.check(OTHER_POD, EXTERNAL_IP, 80, &everyone);
    listed.check(OTHER_POD, NODE, 30080, &everyone);
    let with_node = ranged(&["172.18.0.0/24", "fd00:18::/64"]);
    with_node.check(BALANCER_IP, BALANCER_IP, 80, &everyone);
    with_node.check(OUTSIDE, BALANCER_IP, 80, &[Dropped]);
}

#[test]
fn node_ports_answer_on_ipv4_loopback_but_never_on_ipv6s() {
    let snapshot = World::new().snapshot();
    let at = |mode, addr| judge(&snapshot, &packet(&snapshot, addr, addr, 30080), mode);
    let v4: Allowed = [HERE, THERE].map(|pair| Masqueraded(pair).outcome(0)).into();
    assert_eq!(at(Mode::Iptables, "127.0.0.1"), v4);
    assert_eq!(at(Mode::Nftables, "127.0.0.1"), Allowed::from([On.outcome(0)]));
    for mode in [Mode::Iptables, Mode::Nftables] {
        assert_eq!(at(mode, "::1"), Allowed::from([On.outcome(1)]));
    }
    let stranger = packet(&snapshot, OUTSIDE[0], "127.0.0.1", 22);
    assert_eq!(judge(&snapshot, &stranger, Mode::Iptables), Allowed::from([Outcome::Drop]));
}

#[test]
fn services_that_are_not_this_proxys_are_left_alone() {
    let rows: [fn(&mut Service); 3] = [
        |s| s.proxy_name = Some("other".into()),
        |s| (s.kind, s.cluster_ips) = (ServiceKind::Headless, vec![]),
        |s| s.kind = ServiceKind::ExternalName("example.test".into()),
    ];
    for change in rows {
        let world = World::new().with(|w| change(&mut w.service));
        world.check(OUTSIDE, CLUSTER_IP, 80, &[On]);
        world.check(OUTSIDE, NODE, 30080, &[On]);
    }
}

#[test]
fn a_family_without_a_cluster_ip_has_no_rules() {
    let snapshot = World::new().with(|w| w.service.cluster_ips.truncate(1)).snapshot();
    for mode in [Mode::Iptables, Mode::Nftables] {
        let packet = packet(&snapshot, OUTSIDE[1], NODE[1], 30080);
        assert_eq!(judge(&snapshot, &packet, mode), Allowed::from([On.outcome(1)]));
    }
}

#[test]
fn what_pods_send_out_of_the_cluster_is_masqueraded_and_nothing_else() {
    let world = World::new();
    world.check(OTHER_POD, OUTSIDE, 443, &[OnMasqueraded]);
    world.check(OTHER_POD, THERE, 443, &[On]);
    world.check(OTHER_POD, NODE, 443, &[On]);
    world.check(NODE, OUTSIDE, 443, &[On]);
    world.check(OUTSIDE, THERE, 443, &[On]);
}

#[test]
fn an_endpoint_on_this_nodes_own_network_sees_the_client() {
    let world = World::new().with(|w| w.endpoints = on(NODE, "node-1"));
    world.check(OUTSIDE, CLUSTER_IP, 80, &[To(NODE)]);
    world.check(OTHER_POD, CLUSTER_IP, 80, &[To(NODE)]);
    world.check(NODE, CLUSTER_IP, 80, &[Masqueraded(NODE)]);
}

/// An external IP may be a node's own address, where another Service's endpoint listens on the host network.
#[test]
fn an_endpoint_whose_address_another_service_refuses_may_be_refused_with_it() {
    let port = ServicePortFact { name: "".into(), proto: Proto::Tcp, port: 8080, node_port: 0 };
    let external_ips = both(NODE);
    let cluster_ips = both(["10.96.0.30", "fd00:10:96::30"]);
    let other = Service { cluster_ips, external_ips, ports: vec![port], ..Service::default() };
    let world = World::new().with(|w| {
        w.endpoints = on(NODE, "node-1");
        w.others = vec![Fact::Service(NsName::new("default", "other"), Some(other))];
    });
    world.check(OUTSIDE, CLUSTER_IP, 80, &[To(NODE), Refused]);
    world.check(OUTSIDE, NODE, 8080, &[Refused]);
}

#[test]
fn an_endpoint_at_a_guarded_balancers_own_address_may_be_closed_to_all_in_iptables_mode() {
    let world = |port: u16, ranges: &[&str]| {
        World::new().with(|w| {
            w.service.ports[0].port = port;
            w.service.load_balancer_ips = both(NODE);
            w.service.source_ranges = ranges.iter().map(|net| net.parse().expect("a literal prefix")).collect();
            w.endpoints = on(NODE, "node-1");
        })
    };
    // What is let in by its source too: the rule that closes the address looks when all others have been sent on.
    for ranges in [["192.0.2.0/24", "2001:db8:1::/64"], ["198.18.0.0/15", "2001:db8:bb::/64"]] {
        let guarded = world(8080, &ranges);
        guarded.check_in(Mode::Iptables, OUTSIDE, CLUSTER_IP, 8080, &[To(NODE), Dropped]);
    }
    let let_in = ["192.0.2.0/24", "2001:db8:1::/64"];
    world(8080, &let_in).check_in(Mode::Nftables, OUTSIDE, CLUSTER_IP, 8080, &[To(NODE)]);
    world(80, &let_in).check(OUTSIDE, CLUSTER_IP, 80, &[To(NODE)]);
    world(8080, &[]).check(OUTSIDE, CLUSTER_IP, 8080, &[To(NODE)]);
}

#[test]
fn a_pod_reaches_an_endpoint_outside_the_pods_range_masqueraded() {
    let world = World::new().with(|w| w.endpoints = on(OUTSIDE, "node-2"));
    world.check(OTHER_POD, CLUSTER_IP, 80, &[Masqueraded(OUTSIDE)]);
}

#[test]
fn cluster_dns_may_be_answered_by_the_node_or_by_its_service() {
    let world = World::new().with(|w| w.settings.cluster_dns = both(CLUSTER_IP));
    world.check(OTHER_POD, CLUSTER_IP, 80, &[To(HERE), To(THERE), On]);
}

#[test]
fn an_unknown_port_of_a_service_address_is_left_alone_or_refused() {
    World::new().check_in(Mode::Iptables, OUTSIDE, CLUSTER_IP, 81, &[On]);
    for from in [OUTSIDE, OTHER_POD, NODE] {
        World::new().check_in(Mode::Nftables, from, CLUSTER_IP, 81, &[Refused]);
    }
    World::new().check(OUTSIDE, NODE, 30081, &[On]);
    World::new().check(OUTSIDE, EXTERNAL_IP, 81, &[On]);
}
