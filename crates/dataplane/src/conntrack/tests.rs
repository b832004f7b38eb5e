//! Which UDP flows go, in rows: a world, what changes in it, a flow, and whether it is stale.

use std::sync::Arc;

use portolan_model::{
    EndpointFact, ExternalPolicy, Fact, Facts, Node, NodePortAddresses, ProxySettings, Service, ServiceKind,
    ServicePortFact, Settings, Slice, SlicePort, resolve,
};

use super::*;

/// One Service `dns` with a UDP and a TCP port 53, its endpoints at port 5353.
#[derive(Clone)]
struct World {
    settings: ProxySettings,
    service: Option<Service>,
    endpoints: Vec<EndpointFact>,
    more: Vec<Fact>,
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn key() -> NsName {
    NsName::new("kube-system", "dns")
}

fn pod(addr: &str) -> EndpointFact {
    EndpointFact { node: Some("node-2".into()), ..EndpointFact::ready_at(ip(addr)) }
}

fn service() -> Service {
    let port = |name: &str, proto| ServicePortFact { name: name.into(), proto, port: 53, node_port: 30053 };
    Service {
        kind: ServiceKind::LoadBalancer,
        cluster_ips: vec![ip("10.96.0.10"), ip("fd00:96::10")],
        external_ips: vec![ip("203.0.113.1")],
        load_balancer_ips: vec![ip("198.51.100.1")],
        ports: vec![port("dns", Proto::Udp), port("dns-tcp", Proto::Tcp)],
        ..Service::default()
    }
}

impl World {
    fn new(endpoints: &[&str]) -> Self {
        let endpoints = endpoints.iter().map(|addr| pod(addr)).collect();
        Self { settings: ProxySettings::default(), service: Some(service()), endpoints, more: Vec::new() }
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn snapshot(&self) -> Snapshot {
        let settings = Settings {
            node: "node-1".into(),
            cluster_cidrs: vec![],
            service_cidrs: vec![],
            cluster_dns: vec![],
            cluster_domain: "cluster.local".into(),
            proxy: self.settings.clone(),
        };
        let node = Node { addresses: vec![ip("172.18.0.11"), ip("fd00:18::11")], ..Node::default() };
        let mut facts = Facts::default();
        facts.apply(Fact::Node("node-1".into(), Some(node)));
        facts.apply(Fact::InterfaceAddress(ip("172.18.0.11"), Some(())));
        facts.apply(Fact::InterfaceAddress(ip("192.0.2.11"), Some(())));
        facts.apply(Fact::Service(key(), self.service.clone()));
        for family in Family::BOTH {
            let endpoints = self.endpoints.iter().filter(|e| Family::of(e.addr) == family).cloned().collect();
            let port = |name: &str, proto| SlicePort { name: name.into(), proto, port: 5353 };
            let ports = vec![port("dns", Proto::Udp), port("dns-tcp", Proto::Tcp)];
            let slice = Slice { service: key(), family, ports, endpoints };
            facts.apply(Fact::Slice(NsName::new("kube-system", format!("dns-{family:?}")), Some(slice)));
        }
        facts.apply_all(self.more.clone());
        let empty = Snapshot::empty(Arc::new(settings));
        resolve(&facts, &empty, &facts.all()).0
    }
}

/// What is stale after the second world followed the first.
fn after(before: &World, then: &World) -> Stale {
    let mut flows = Flows::new();
    let first = before.snapshot();
    flows.update(&first, &Delta::all(&first));
    let second = then.snapshot();
    flows.update(&second, &between(&first, &second))
}

fn between(first: &Snapshot, second: &Snapshot) -> Delta {
    let mut delta = Delta::all(second);
    delta.services.extend(first.services.keys().cloned());
    delta
}

/// `udp 10.96.0.10:53 10.1.0.1:5353`: protocol, where it was sent, who answers.
fn flow(text: &str) -> Flow {
    let words: Vec<&str> = text.split(' ').collect();
    let protocol = if words[0] == "udp" { 17 } else { 6 };
    Flow { protocol, to: words[1].parse().expect("a socket"), answered_by: words[2].parse().expect("a socket") }
}

fn check(stale: &Stale, rows: &[(&str, bool)]) {
    for (text, expected) in rows {
        assert_eq!(stale.matches(&flow(text)), *expected, "{text} by {stale:?}");
    }
}

#[test]
fn flows_to_an_endpoint_that_is_gone_are_stale_on_every_address() {
    let both = ["10.1.0.1", "10.1.0.2", "fd00:1::1", "fd00:1::2"];
    let stale = after(&World::new(&both), &World::new(&["10.1.0.2", "fd00:1::2"]));
    check(
        &stale,
        &[
            ("udp 10.96.0.10:53 10.1.0.1:5353", true),
            ("udp 203.0.113.1:53 10.1.0.1:5353", true),
            ("udp 198.51.100.1:53 10.1.0.1:5353", true),
            ("udp [fd00:96::10]:53 [fd00:1::1]:5353", true),
            ("udp 172.18.0.11:30053 10.1.0.1:5353", true),
            ("udp [fd00:18::11]:30053 [fd00:1::1]:5353", true),
            // The other endpoint serves.
            ("udp 10.96.0.10:53 10.1.0.2:5353", false),
            ("udp [fd00:96::10]:53 [fd00:1::2]:5353", false),
            ("udp 172.18.0.11:30053 10.1.0.2:5353", false),
            // Its port alone does not make an endpoint.
            ("udp 10.96.0.10:53 10.1.0.2:5354", true),
            // Another protocol, another port of the address, another address with the port.
            ("tcp 10.96.0.10:53 10.1.0.1:5353", false),
            ("udp 10.96.0.10:54 10.1.0.1:5353", false),
            ("udp 10.96.0.11:53 10.1.0.1:5353", false),
            // Straight to the pod, and from the pod to somebody.
            ("udp 10.1.0.1:5353 10.1.0.1:5353", false),
            ("udp 192.0.2.99:53 192.0.2.99:53", false),
        ],
    );
}

#[test]
fn node_ports_count_on_addresses_where_they_answer() {
    let (before, then) = (World::new(&["10.1.0.1"]), World::new(&["10.1.0.2"]));
    let at = |addr: &str| format!("udp {addr}:30053 10.1.0.1:5353");
    let on = |how: NodePortAddresses| {
        let set = |world: &World| world.clone().with(|w| w.settings.node_ports_on = how.clone());
        let stale = after(&set(&before), &set(&then));
        ["172.18.0.11", "192.0.2.11", "127.0.0.1", "172.18.0.12", "8.8.8.8"].map(|addr| stale.matches(&flow(&at(addr))))
    };
    assert_eq!(on(NodePortAddresses::Every), [true, true, true, false, false]);
    assert_eq!(on(NodePortAddresses::Primary), [true, false, false, false, false]);
    let range = "192.0.2.0/24".parse().expect("a prefix");
    assert_eq!(on(NodePortAddresses::Within(vec![range])), [false, true, false, false, false]);
}

#[test]
fn the_last_endpoint_gone_takes_its_flows_with_it() {
    let stale = after(&World::new(&["10.1.0.1"]), &World::new(&[]));
    check(&stale, &[("udp 10.96.0.10:53 10.1.0.1:5353", true), ("udp 172.18.0.11:30053 10.1.0.1:5353", true)]);
}

/// A flow that began before there were rules answers from the Service's own address, which is nobody.
#[test]
fn flows_that_were_never_rewritten_are_stale_once_a_service_has_the_address() {
    let none = World::new(&["10.1.0.1"]).with(|world| world.service = None);
    let early = ("udp 10.96.0.10:53 10.96.0.10:53", true);
    check(&after(&none, &World::new(&["10.1.0.1"])), &[early, ("udp 10.96.0.10:53 10.1.0.1:5353", false)]);
    check(&after(&World::new(&[]), &World::new(&["10.1.0.1"])), &[early]);
}

#[test]
fn a_service_that_is_gone_leaves_no_flow_behind_and_touches_nobody_elses() {
    let whole = World::new(&["10.1.0.1"]);
    let rows = [
        ("udp 10.96.0.10:53 10.1.0.1:5353", true),
        ("udp 172.18.0.11:30053 10.1.0.1:5353", true),
        // Not rewritten: the address is somebody else's now, or a process's on the node.
        ("udp 203.0.113.1:53 203.0.113.1:53", false),
        ("udp 172.18.0.11:30053 172.18.0.11:30053", false),
    ];
    check(&after(&whole, &whole.clone().with(|world| world.service = None)), &rows);
    for change in [
        (|service| service.kind = ServiceKind::Headless) as fn(&mut Service),
        |service| service.proxy_name = Some("other".into()),
        |service| service.labelled_headless = true,
    ] {
        let changed = whole.clone().with(|world| change(world.service.as_mut().expect("it has one")));
        check(&after(&whole, &changed), &rows);
    }
}

#[test]
fn an_address_or_a_port_that_moved_is_let_go() {
    let whole = World::new(&["10.1.0.1"]);
    let moved = whole.clone().with(|world| {
        let service = world.service.as_mut().expect("it has one");
        service.cluster_ips[0] = ip("10.96.0.20");
        service.ports[0].node_port = 30054;
        service.load_balancer_ips.clear();
    });
    check(
        &after(&whole, &moved),
        &[
            ("udp 10.96.0.10:53 10.1.0.1:5353", true),
            ("udp 172.18.0.11:30053 10.1.0.1:5353", true),
            ("udp 198.51.100.1:53 10.1.0.1:5353", true),
            ("udp 10.96.0.20:53 10.1.0.1:5353", false),
            ("udp 172.18.0.11:30054 10.1.0.1:5353", false),
            ("udp 203.0.113.1:53 10.1.0.1:5353", false),
        ],
    );
}

/// Policy, topology and draining choose for new flows only.
#[test]
fn flows_to_an_endpoint_that_serves_stay() {
    let whole = World::new(&["10.1.0.1", "10.1.0.2"]);
    let stays = [("udp 10.96.0.10:53 10.1.0.1:5353", false), ("udp 172.18.0.11:30053 10.1.0.1:5353", false)];
    let draining = whole.clone().with(|world| {
        world.endpoints[0].ready = false;
        world.endpoints[0].terminating = true;
    });
    let local = whole.clone().with(|world| {
        let service = world.service.as_mut().expect("it has one");
        service.internal_local = true;
        service.external_policy = ExternalPolicy::Local;
    });
    let hinted = whole.clone().with(|world| {
        world.endpoints[0].zone_hints = vec!["far".into()];
        world.endpoints[1].zone_hints = vec!["near".into()];
    });
    for then in [draining.clone(), local, hinted] {
        check(&after(&whole, &then), &stays);
        // Even if everything is looked at anew.
        check(&after(&World::new(&[]), &then), &stays);
    }
    let silent = draining.with(|world| world.endpoints[0].serving = false);
    check(&after(&whole, &silent), &stays.map(|(text, _)| (text, true)));
    let not_ready = whole.clone().with(|world| {
        world.endpoints[0].ready = false;
        world.endpoints[0].serving = false;
    });
    check(&after(&whole, &not_ready), &stays.map(|(text, _)| (text, true)));
}

#[test]
fn nothing_is_looked_at_without_need() {
    let whole = World::new(&["10.1.0.1"]);
    let more = World::new(&["10.1.0.1", "10.1.0.2"]);
    let tcp =
        |world: &World| world.clone().with(|world| _ = world.service.as_mut().expect("it has one").ports.remove(0));
    assert!(after(&whole, &whole).is_empty(), "nothing changed");
    assert!(after(&whole, &more).is_empty(), "an endpoint more");
    assert!(after(&tcp(&whole), &tcp(&World::new(&[]))).is_empty(), "TCP alone");
    assert!(!after(&more, &whole).is_empty(), "an endpoint less");
}

#[test]
fn where_two_services_claim_an_address_the_endpoints_of_either_stay() {
    let other = NsName::new("default", "other");
    let mut second = service();
    second.cluster_ips = vec![ip("10.96.0.30")];
    let slice = Slice {
        service: other.clone(),
        family: Family::V4,
        ports: vec![SlicePort { name: "dns".into(), proto: Proto::Udp, port: 5353 }],
        endpoints: vec![pod("10.1.0.9")],
    };
    let more = vec![Fact::Service(other, Some(second)), Fact::Slice(NsName::new("default", "other-1"), Some(slice))];
    let before = World::new(&["10.1.0.1", "10.1.0.2"]).with(|world| world.more = more.clone());
    let then = World::new(&["10.1.0.2"]).with(|world| world.more = more.clone());
    let rows = [
        ("udp 203.0.113.1:53 10.1.0.1:5353", true),
        ("udp 203.0.113.1:53 10.1.0.9:5353", false),
        ("udp 10.96.0.10:53 10.1.0.9:5353", true),
    ];
    check(&after(&before, &then), &rows);
    // One of them gone: the address is still the other's.
    let gone = then.clone().with(|world| world.service = None);
    check(
        &after(&then, &gone),
        &[("udp 203.0.113.1:53 10.1.0.2:5353", true), ("udp 203.0.113.1:53 10.1.0.9:5353", false)],
    );
}

/// Any order of the same changes ends with the same memory.
#[test]
fn what_is_remembered_depends_on_the_world_alone() {
    let worlds = [
        World::new(&["10.1.0.1"]),
        World::new(&[]),
        World::new(&["10.1.0.2"]).with(|w| w.service = None),
        World::new(&["10.1.0.2"]),
    ];
    let mut flows = Flows::new();
    let mut before = worlds[0].snapshot();
    for world in &worlds {
        let snapshot = world.snapshot();
        flows.update(&snapshot, &between(&before, &snapshot));
        before = snapshot.clone();
        let mut fresh = Flows::new();
        fresh.update(&snapshot, &Delta::all(&snapshot));
        assert_eq!((&flows.fronts, &flows.owners), (&fresh.fronts, &fresh.owners));
    }
}
