//! Ways of packets through a cluster of two nodes, in both modes; and drawn clusters, held against the oracle.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use portolan_model::verdict::{Outcome, judge};
use portolan_model::{ExternalPolicy, Fact, Pod, Proto, ProxySettings, Service, ServiceKind};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::{Landing, Origin, Question, Way, foresee, packet};
use crate::evidence::{Act, Backend, Direction, Fate, Header, RouteWay};
use crate::fixture::{ip, key, node, pod, service, slices, world};
use crate::place::Sender;
use crate::story::End;
use crate::world::World;

const BOTH: [Backend; 2] = [Backend::Iptables, Backend::Nftables];

/// client and a on node-1, b on node-2, host on node-1's network. web: a, b; one: a; none: nobody; near: b, Local; lb: b,
/// Local, with a balancer's address.
fn facts() -> Vec<Fact> {
    let mut facts = vec![node(1), node(2), pod("client", 1, 5), pod("a", 1, 6), pod("b", 2, 6)];
    let addresses = vec![ip("172.18.0.11"), ip("fd00:18::11")];
    let host = Pod { node: Some("node-1".into()), addresses, host_network: true, ..Pod::default() };
    facts.push(Fact::Pod(key("host"), Some(host)));
    let mut add = |name: &str, service: Service, pods: &[&str]| {
        let slices = slices(name, &facts, pods);
        facts.push(Fact::Service(key(name), Some(service)));
        facts.extend(slices);
    };
    let local = |service: Service| Service { external_policy: ExternalPolicy::Local, ..service };
    let balanced =
        Service { kind: ServiceKind::LoadBalancer, load_balancer_ips: vec![ip("172.18.0.200")], ..service(15, 30005) };
    add("web", service(11, 30001), &["a", "b"]);
    add("one", service(12, 0), &["a"]);
    add("none", service(13, 30003), &[]);
    add("near", local(service(14, 30004)), &["b"]);
    add("lb", local(balanced), &["b"]);
    facts
}

fn ways(world: &World, from: &str, to: &str) -> Vec<Way> {
    let from = Origin::Place(Sender::parse(from, "default").expect(from));
    let to = to.parse().expect("an address and a port");
    foresee(world, &Question { from, to, proto: Proto::Tcp, source_port: 0 }).expect("it can be sent")
}

/// `0.50 node-1 > node-2: b 10.244.1.6:8080 as 172.18.0.11, delivered`
fn told(way: &Way) -> String {
    let nodes: Vec<&str> = way.evidence.iter().map(|evidence| &*evidence.node).collect();
    let mut forth = way.evidence.iter().flat_map(|e| &e.passages).filter(|p| p.direction == Direction::Forth);
    let last = forth.next_back().map(|passage| passage.left);
    let seen = last.map(|header| format!(" as {}", header.src.ip())).unwrap_or_default();
    let landing = match &way.landing {
        Landing::Pod { pod, at, .. } => format!("{} {at}{seen}", pod.as_ref().map_or("?", |pod| &pod.name)),
        Landing::Node { node, at } => format!("{node} {at}{seen}"),
        Landing::Outside(at) => format!("outside {at}{seen}"),
        Landing::Away(at) => format!("away {at}{seen}"),
        Landing::Stopped { node, .. } => format!("stopped on {node}"),
        Landing::Nowhere { to, .. } => format!("nowhere {to}"),
    };
    format!("{:.2} {}: {landing}, {:?}", way.chance, nodes.join(" > "), way.end)
}

#[test]
fn packets_come_where_services_promise() {
    let rows: &[(&str, &str, &[&str])] = &[
        (
            "pod/client",
            "10.96.0.11:80",
            &[
                "0.50 node-1: a 10.244.0.6:8080 as 10.244.0.5, Delivered",
                "0.50 node-1 > node-2: b 10.244.1.6:8080 as 10.244.0.5, Delivered",
            ],
        ),
        (
            "pod/client",
            "[fd00:10:96::11]:80",
            &[
                "0.50 node-1: a [fd00:10:244::6]:8080 as fd00:10:244::5, Delivered",
                "0.50 node-1 > node-2: b [fd00:10:244:1::6]:8080 as fd00:10:244::5, Delivered",
            ],
        ),
        ("pod/a", "10.96.0.12:80", &["1.00 node-1: a 10.244.0.6:8080 as 172.18.0.11, Delivered"]),
        ("node/node-2", "10.96.0.12:80", &["1.00 node-2 > node-1: a 10.244.0.6:8080 as 172.18.0.12, Delivered"]),
        ("pod/host", "10.96.0.12:80", &["1.00 node-1: a 10.244.0.6:8080 as 172.18.0.11, Delivered"]),
        ("pod/client", "10.96.0.13:80", &["1.00 node-1: stopped on node-1, Refused"]),
        ("pod/client", "10.244.1.6:8080", &["1.00 node-1 > node-2: b 10.244.1.6:8080 as 10.244.0.5, Delivered"]),
        ("pod/a", "10.244.0.6:8080", &["1.00 : a 10.244.0.6:8080, Delivered"]),
        ("pod/client", "10.244.1.9:80", &["1.00 node-1 > node-2: nowhere 10.244.1.9:80, Unroutable"]),
        ("pod/client", "10.244.9.9:80", &["1.00 node-1: nowhere 10.244.9.9:80, Unanswered"]),
        ("pod/client", "172.18.0.12:22", &["1.00 node-1 > node-2: node-2 172.18.0.12:22 as 172.18.0.11, Delivered"]),
        ("pod/client", "172.18.0.1:80", &["1.00 node-1: outside 172.18.0.1:80 as 172.18.0.11, Delivered"]),
        ("pod/client", "8.8.8.8:53", &["1.00 node-1: away 8.8.8.8:53 as 172.18.0.11, Delivered"]),
        ("node/node-1", "127.0.0.1:22", &["1.00 node-1: node-1 127.0.0.1:22 as 127.0.0.1, Delivered"]),
        ("outside", "172.18.0.12:30004", &["1.00 node-2: b 10.244.1.6:8080 as 172.18.0.1, Delivered"]),
        ("outside", "172.18.0.11:30004", &["1.00 node-1: stopped on node-1, Dropped"]),
        ("outside", "172.18.0.200:80", &["1.00 node-2: b 10.244.1.6:8080 as 172.18.0.1, Delivered"]),
        ("outside", "10.96.0.12:80", &["1.00 node-1: a 10.244.0.6:8080 as 172.18.0.11, Delivered"]),
        ("outside", "10.244.0.6:8080", &["1.00 : nowhere 10.244.0.6:8080, Unroutable"]),
        (
            "outside",
            "172.18.0.12:30001",
            &[
                "0.50 node-2: b 10.244.1.6:8080 as 172.18.0.12, Delivered",
                "0.50 node-2 > node-1: a 10.244.0.6:8080 as 172.18.0.12, Delivered",
            ],
        ),
        (
            "pod/client",
            "172.18.0.12:30001",
            &[
                "0.50 node-1 > node-2: b 10.244.1.6:8080 as 172.18.0.12, Delivered",
                "0.50 node-1 > node-2: a 10.244.0.6:8080 as 172.18.0.12, Delivered",
            ],
        ),
    ];
    for backend in BOTH {
        let world = world(backend, &facts(), ProxySettings::default());
        for (from, to, expected) in rows {
            let mut found: Vec<String> = ways(&world, from, to).iter().map(told).collect();
            found.sort();
            let mut expected = expected.to_vec();
            expected.sort_unstable();
            assert_eq!(found, expected, "{backend:?} {from} {to}");
        }
    }
}

#[test]
fn the_answer_comes_back_by_conntrack_on_every_node_that_rewrote_something() {
    for backend in BOTH {
        let world = world(backend, &facts(), ProxySettings::default());
        // Masqueraded by node-2, since it comes by a node port, and sent back to node-1.
        let all = ways(&world, "outside", "172.18.0.12:30001");
        let way = all.iter().find(|way| way.evidence.len() == 2).expect("the endpoint on node-1");
        let header = |src: &str, dst: &str| {
            let at = |text: &str| text.parse().expect("an address and a port");
            Header { src: at(src), dst: at(dst), proto: Proto::Tcp }
        };
        let [there, here] = &way.evidence[..] else { panic!("two nodes") };
        let directions = |e: &crate::evidence::NodeEvidence| e.passages.iter().map(|p| p.direction).collect::<Vec<_>>();
        assert_eq!(directions(there), [Direction::Forth, Direction::Back], "{backend:?}");
        assert_eq!(directions(here), [Direction::Forth, Direction::Back], "{backend:?}");
        let back = &there.passages[1];
        assert_eq!(back.entered, header("10.244.0.6:8080", "172.18.0.12:0"));
        assert_eq!(back.left, header("172.18.0.12:30001", "172.18.0.1:0"));
        assert_eq!(back.flow.as_ref().map(|flow| flow.original), Some(header("172.18.0.1:0", "172.18.0.12:30001")));
        assert_eq!(here.passages[1].entered, here.passages[1].left, "node-1 rewrote nothing");
    }
}

#[test]
fn each_step_tells_the_rule_and_what_it_rewrote() {
    for (backend, table) in [(Backend::Iptables, "ip nat"), (Backend::Nftables, "ip portolan")] {
        let world = world(backend, &facts(), ProxySettings::default());
        let all = ways(&world, "node/node-2", "10.96.0.12:80");
        let passage = &all[0].evidence[0].passages[0];
        let dnat = passage.steps.iter().find(|s| s.rewritten.is_some()).expect("a rule rewrites the destination");
        assert_eq!(
            (dnat.rewritten.map(|h| h.dst.to_string()).as_deref(), &*dnat.table),
            (Some("10.244.0.6:8080"), table)
        );
        let sends =
            dnat.rule.as_ref().map(|rule| (rule.meaning.service().map(ToString::to_string), rule.objects.len()));
        assert_eq!(sends, Some((Some("default/one:http".to_owned()), 2)), "{backend:?}: the Service and the Pod");
        let last = passage.steps.iter().rev().find(|s| s.rewritten.is_some()).expect("a rule masquerades");
        assert_eq!(last.rewritten.map(|h| h.src.ip()), None.or(Some(ip("172.18.0.12"))));
        let rules = passage.steps.iter().filter(|s| s.act != Act::Policy { accepts: true });
        assert!(rules.clone().count() > 0);
        assert!(rules.into_iter().all(|s| s.rule.as_ref().is_some_and(|rule| !rule.text.is_empty())));
        assert_eq!((passage.fate.clone(), passage.went_by.as_deref()), (Fate::Sent, Some("eth0")));
        let route = passage.route.as_ref().expect("a route");
        assert_eq!(route.prefix.map(|net| net.to_string()).as_deref(), Some("10.244.0.0/24"));
        assert_eq!(route.told_by, Some((ip("172.18.0.11"), Some("node-1".into()))));
        assert_eq!(passage.allowed, [Outcome::Dnat { to: dnat.rewritten.expect("found").dst, masquerade: true }]);
        let stray = &ways(&world, "pod/client", "10.244.1.9:80")[0].evidence[1].passages[0];
        assert_eq!(stray.fate, Fate::Vanished);
        assert_eq!(stray.route.as_ref().map(|route| route.kind), Some(RouteWay::Blackhole));
    }
}

#[test]
fn what_cannot_be_sent_is_told() {
    let world = world(Backend::Iptables, &facts(), ProxySettings::default());
    let from = Origin::Place(Sender::Pod(key("nobody")));
    let question = Question { from, to: "10.96.0.11:80".parse().expect("literal"), proto: Proto::Tcp, source_port: 0 };
    let error = foresee(&world, &question).expect_err("nobody sends nothing");
    assert_eq!(error.to_string(), "pod default/nobody is not in the cluster");
}

/// What may become of a packet in the whole cluster, by the oracle and by who has which address; no rule is looked at.
fn promised(world: &World, at: &str, came_by: Option<&str>, header: Header, hops: usize, found: &mut BTreeSet<String>) {
    let node = at.into();
    let view = world.view(&node).expect("a node of the world");
    for outcome in judge(&view.snapshot, &packet(&header, came_by), world.mode()) {
        let (to, masquerade) = match outcome {
            Outcome::Dnat { to, masquerade } => (to, masquerade),
            Outcome::Untouched { masquerade } => (header.dst, masquerade),
            Outcome::Reject | Outcome::Drop => {
                found.insert(format!("{outcome:?} on {at}"));
                continue;
            }
        };
        let own = view.snapshot.primary_address(portolan_model::Family::of(to.ip())).filter(|_| masquerade);
        let left = Header { src: own.map_or(header.src, |addr| SocketAddr::new(addr, 0)), dst: to, ..header };
        let owner =
            world.cluster().facts.pods.values().find(|pod| !pod.host_network && pod.addresses.contains(&to.ip()));
        let of_block = |number: usize| ip_in_block(to.ip(), number);
        let next =
            match owner.and_then(|pod| pod.node.as_deref()).or_else(|| world.node_at(to.ip()).map(|name| &**name)) {
                Some(name) => Some(name.to_owned()),
                None => [1, 2].into_iter().find(|number| of_block(*number)).map(|number| format!("node-{number}")),
            };
        match next {
            Some(next) if next != at && hops > 0 => promised(world, &next, Some("eth0"), left, hops - 1, found),
            Some(_) if owner.is_some() || world.node_at(to.ip()).is_some() => {
                found.insert(format!("{to} as {}", left.src.ip()));
            }
            Some(_) => {
                found.insert(format!("nowhere {to}"));
            }
            None => {
                found.insert(format!("out {to} as {}", left.src.ip()));
            }
        }
    }
}

fn ip_in_block(addr: std::net::IpAddr, number: usize) -> bool {
    let Fact::Node(_, Some(node)) = node(number) else { return false };
    node.pod_cidrs.iter().any(|block| block.contains(&addr))
}

fn foreseen(way: &Way) -> String {
    let mut forth = way.evidence.iter().flat_map(|e| &e.passages).filter(|p| p.direction == Direction::Forth);
    let left = forth.next_back().map(|passage| passage.left).expect("it was on some node");
    match &way.landing {
        Landing::Pod { at, .. } | Landing::Node { at, .. } => format!("{at} as {}", left.src.ip()),
        Landing::Outside(to) | Landing::Away(to) => format!("out {to} as {}", left.src.ip()),
        Landing::Stopped { node, is_refused } => format!("{} on {node}", if *is_refused { "Reject" } else { "Drop" }),
        Landing::Nowhere { to, .. } if way.end == End::Unanswered => format!("out {to} as {}", left.src.ip()),
        Landing::Nowhere { to, .. } => format!("nowhere {to}"),
    }
}

/// Clusters of two nodes with up to three Services of any kind, whose endpoints are among five pods.
fn any_facts() -> impl Strategy<Value = Vec<Fact>> {
    let names = ["client", "a", "b", "c"];
    let services: Vec<_> = (0..3u8)
        .map(|index| {
            let kinds = select(vec![ServiceKind::ClusterIp, ServiceKind::NodePort, ServiceKind::LoadBalancer]);
            let pods = subsequence(names.to_vec(), 0..=4);
            (kinds, pods, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(move |draw| (index, draw))
        })
        .collect();
    services.prop_map(|services| {
        let mut facts = vec![node(1), node(2), pod("client", 1, 5), pod("a", 1, 6), pod("b", 2, 6), pod("c", 2, 7)];
        for (index, (kind, pods, external_local, internal_local, has_external_ip)) in services {
            let name = format!("svc-{index}");
            let slices = slices(&name, &facts, &pods);
            let is_balanced = kind == ServiceKind::LoadBalancer;
            let node_port = if kind == ServiceKind::ClusterIp { 0 } else { 30000 + u16::from(index) };
            let policy = if external_local { ExternalPolicy::Local } else { ExternalPolicy::Cluster };
            let service = Service {
                load_balancer_ips: if is_balanced { vec![ip(&format!("172.18.0.20{index}"))] } else { Vec::new() },
                external_ips: if has_external_ip { vec![ip(&format!("203.0.113.{index}"))] } else { Vec::new() },
                external_policy: policy,
                internal_local,
                kind,
                ..service(20 + index, node_port)
            };
            facts.push(Fact::Service(key(&name), Some(service)));
            facts.extend(slices);
        }
        facts
    })
}

fn questions() -> Vec<(&'static str, String)> {
    let senders = ["pod/client", "pod/b", "node/node-1", "node/node-2", "outside"];
    let mut goals =
        vec!["10.244.0.6:8080".to_owned(), "10.244.1.99:80".into(), "172.18.0.12:22".into(), "8.8.8.8:53".into()];
    for index in 0..3 {
        goals.extend([
            format!("10.96.0.2{index}:80"),
            format!("[fd00:10:96::2{index}]:80"),
            format!("10.96.0.2{index}:81"),
        ]);
        goals.extend([format!("172.18.0.20{index}:80"), format!("203.0.113.{index}:80")]);
        goals.extend(["172.18.0.11", "172.18.0.12"].map(|node| format!("{node}:3000{index}")));
    }
    senders.into_iter().flat_map(|from| goals.iter().map(move |to| (from, to.clone()))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is foreseen is promised; and where the promise leaves no choice but an endpoint's, all of it is foreseen.
    #[test]
    fn what_is_foreseen_is_what_the_oracle_promises(facts in any_facts()) {
        for backend in BOTH {
            let world = world(backend, &facts, ProxySettings::default());
            for (from, to) in questions() {
                let ways = ways(&world, from, &to);
                let sum: f64 = ways.iter().map(|way| way.chance).sum();
                prop_assert!((sum - 1.0).abs() < 1e-9, "{backend:?} {from} {to}: ways add up to {sum}");
                let Some(first) = ways[0].evidence.first() else { continue };
                let entered = &first.passages[0];
                let mut promised_all = BTreeSet::new();
                promised(&world, &first.node, entered.came_by.as_deref(), entered.entered, 4, &mut promised_all);
                let found: BTreeSet<String> = ways.iter().map(foreseen).collect();
                prop_assert!(found.is_subset(&promised_all), "{backend:?} {from} {to}: {found:?}, promised {promised_all:?}");
                let is_choice = entered.allowed.iter().all(|outcome| matches!(outcome, Outcome::Dnat { .. }));
                let endpoints = |all: &BTreeSet<String>| all.iter().filter(|text| text.contains(":8080 as")).count();
                prop_assert!(!is_choice || endpoints(&found) == endpoints(&promised_all), "{backend:?} {from} {to}: {found:?}, promised {promised_all:?}");
            }
        }
    }
}
