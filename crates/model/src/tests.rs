//! The law of this room: any order, split, doubling or pause of events ends in the same snapshot as one from scratch.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use proptest::prelude::*;

use crate::*;

fn settings() -> Arc<Settings> {
    Arc::new(Settings {
        node: "node-1".into(),
        cluster_cidrs: vec![net("10.244.0.0/16"), net("fd00:10:244::/56")],
        service_cidrs: vec![net("10.96.0.0/12")],
        cluster_dns: vec![],
        cluster_domain: "cluster.local".into(),
        proxy: Default::default(),
    })
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a literal prefix")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

fn from_scratch(facts: &Facts) -> Snapshot {
    resolve(facts, &Snapshot::empty(settings()), &facts.all()).0
}

fn web() -> NsName {
    NsName::new("default", "web")
}

fn web_service() -> Service {
    let port = ServicePortFact { name: "http".into(), proto: Proto::Tcp, port: 80, node_port: 0 };
    Service { cluster_ips: vec![ip("10.96.0.20")], ports: vec![port], ..Service::default() }
}

fn slice(addrs: &[&str]) -> Slice {
    Slice {
        service: web(),
        family: Family::of(ip(addrs.first().unwrap_or(&"10.244.0.1"))),
        ports: vec![SlicePort { name: "http".into(), proto: Proto::Tcp, port: 8080 }],
        endpoints: addrs.iter().map(|a| EndpointFact::ready_at(ip(a))).collect(),
    }
}

fn targets(snapshot: &Snapshot) -> Vec<String> {
    snapshot.services[&web()].ports[0].endpoints.iter().map(Endpoint::target).collect()
}

#[test]
fn endpoints_are_sorted_as_text_and_merged_over_slices() {
    let mut facts = Facts::default();
    facts.apply_all([
        Fact::Service(web(), Some(web_service())),
        Fact::Slice(NsName::new("default", "web-1"), Some(slice(&["10.0.0.9", "10.0.0.10"]))),
        Fact::Slice(NsName::new("default", "web-2"), Some(slice(&["10.0.0.9"]))),
        Fact::Slice(NsName::new("default", "web-6"), Some(slice(&["fd00::1"]))),
    ]);
    assert_eq!(targets(&from_scratch(&facts)), ["10.0.0.10:8080", "10.0.0.9:8080", "[fd00::1]:8080"]);
}

#[test]
fn a_running_endpoint_wins_over_a_terminating_one_with_its_address_in_either_order() {
    for terminating_first in [true, false] {
        let mut dying = slice(&["10.0.0.9"]);
        dying.endpoints[0].terminating = true;
        let (a, b) = if terminating_first { ("web-1", "web-2") } else { ("web-2", "web-1") };
        let mut facts = Facts::default();
        facts.apply_all([
            Fact::Service(web(), Some(web_service())),
            Fact::Slice(NsName::new("default", a), Some(dying)),
            Fact::Slice(NsName::new("default", b), Some(slice(&["10.0.0.9"]))),
        ]);
        let snapshot = from_scratch(&facts);
        let endpoints = &snapshot.services[&web()].ports[0].endpoints;
        assert_eq!(endpoints.len(), 1);
        assert!(!endpoints[0].terminating);
    }
}

#[test]
fn a_slice_that_moves_to_another_service_touches_both() {
    let mut facts = Facts::default();
    let key = NsName::new("default", "s");
    facts.apply(Fact::Slice(key.clone(), Some(slice(&["10.0.0.9"]))));
    let other = Slice { service: NsName::new("default", "other"), ..slice(&["10.0.0.9"]) };
    let touched = facts.apply(Fact::Slice(key, Some(other)));
    assert_eq!(touched.services.into_iter().collect::<Vec<_>>(), [NsName::new("default", "other"), web()]);
}

#[test]
fn the_same_value_again_touches_nothing() {
    let mut facts = Facts::default();
    assert!(!facts.apply(Fact::Service(web(), Some(web_service()))).is_empty());
    assert!(facts.apply(Fact::Service(web(), Some(web_service()))).is_empty());
}

#[test]
fn own_block_is_a_blackhole_and_a_peer_cannot_take_it() {
    let mut facts = Facts::default();
    let own = Node { pod_cidrs: vec![net("10.244.0.0/26")], ..Node::default() };
    let stolen = LearnedRoute::via(ip("172.18.0.12"), ip("172.18.0.12"));
    facts.apply_all([
        Fact::Node("node-1".into(), Some(own)),
        Fact::Learned(net("10.244.0.0/26"), Some(stolen.clone())),
        Fact::Learned(net("10.244.0.64/26"), Some(stolen)),
        Fact::Attachment(
            NsName::new("default", "a"),
            Some(Attachment {
                link: IfName("cali1".into()),
                addresses: vec![ip("10.244.0.1")],
                host_ports: Vec::new(),
            }),
        ),
    ]);
    let routes = from_scratch(&facts).routes;
    assert_eq!(routes[&net("10.244.0.0/26")].kind, RouteKind::Blackhole);
    assert_eq!(routes[&net("10.244.0.64/26")].kind, RouteKind::Via { gateway: ip("172.18.0.12") });
    assert_eq!(routes[&net("10.244.0.1/32")].kind, RouteKind::Link { link: IfName("cali1".into()) });
}

#[test]
fn one_endpoint_among_a_thousand_services_changes_one_view_and_shares_the_rest() {
    let mut facts = Facts::default();
    for n in 0..1000 {
        facts.apply(Fact::Service(NsName::new("default", format!("s{n}")), Some(web_service())));
    }
    facts.apply(Fact::Service(web(), Some(web_service())));
    let before = from_scratch(&facts);
    let touched = facts.apply(Fact::Slice(NsName::new("default", "web-1"), Some(slice(&["10.0.0.9"]))));
    let (after, delta) = resolve(&facts, &before, &touched);
    assert_eq!(delta.services.len(), 1);
    let shared = after.services.iter().filter(|(k, v)| before.services.get(*k).is_some_and(|b| Arc::ptr_eq(b, v)));
    assert_eq!(shared.count(), 1000);
}

fn any_ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u8..8).prop_map(|n| IpAddr::from([10, 244, 0, n])),
        (0u16..4).prop_map(|n| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n])),
    ]
}

fn any_endpoint() -> impl Strategy<Value = EndpointFact> {
    (any_ip(), any::<[bool; 3]>(), proptest::option::of(0u8..3)).prop_map(
        |(addr, [ready, serving, terminating], host)| {
            let hostname = host.map(|n| Text::from(format!("h{n}")));
            EndpointFact { ready, serving, terminating, hostname, ..EndpointFact::ready_at(addr) }
        },
    )
}

fn any_slice() -> impl Strategy<Value = Slice> {
    (0u8..3, any::<bool>(), proptest::collection::vec(any_endpoint(), 0..4), 1u16..3).prop_map(
        |(svc, v6, endpoints, port)| Slice {
            service: NsName::new("default", format!("s{svc}")),
            family: if v6 { Family::V6 } else { Family::V4 },
            ports: vec![SlicePort { name: "http".into(), proto: Proto::Tcp, port }],
            endpoints,
        },
    )
}

fn any_fact() -> impl Strategy<Value = Fact> {
    let key = |prefix: &'static str| (0u8..3).prop_map(move |n| NsName::new("default", format!("{prefix}{n}")));
    let block = || (0u8..3).prop_map(|n| net(&format!("10.244.0.{}/26", u32::from(n) * 64)));
    let node =
        proptest::option::of(block()).prop_map(|b| Node { pod_cidrs: b.into_iter().collect(), ..Node::default() });
    let attachment = (any_ip(), 0u8..3).prop_map(|(addr, n)| Attachment {
        link: IfName(format!("cali{n}").into()),
        addresses: vec![addr],
        host_ports: Vec::new(),
    });
    let claim =
        (1u8..3, any::<bool>()).prop_map(|(n, confirmed)| BlockClaim { node: format!("node-{n}").into(), confirmed });
    let learned = any_ip().prop_map(|addr| LearnedRoute::via(addr, addr));
    prop_oneof![
        (0u8..3, proptest::option::of(Just(()))).prop_map(|(n, v)| Fact::Namespace(format!("ns{n}").into(), v)),
        (1u8..3, proptest::option::of(node)).prop_map(|(n, v)| Fact::Node(format!("node-{n}").into(), v)),
        (key("s"), proptest::option::of(Just(web_service()))).prop_map(|(k, v)| Fact::Service(k, v)),
        (key("slice"), proptest::option::of(any_slice())).prop_map(|(k, v)| Fact::Slice(k, v)),
        (key("p"), proptest::option::of(Just(Pod::default()))).prop_map(|(k, v)| Fact::Pod(k, v)),
        (key("p"), proptest::option::of(attachment)).prop_map(|(k, v)| Fact::Attachment(k, v)),
        (block(), proptest::option::of(learned)).prop_map(|(k, v)| Fact::Learned(k, v)),
        (any_ip(), proptest::option::of(Just(()))).prop_map(|(addr, v)| Fact::InterfaceAddress(addr, v)),
        (0u8..2, proptest::option::of(Just(IpPool::of(net("10.244.0.0/16")))))
            .prop_map(|(n, v)| Fact::IpPool(format!("pool-{n}").into(), v)),
        (block(), proptest::option::of(claim)).prop_map(|(k, v)| Fact::Block(k, v)),
    ]
}

/// What `fact` is about: its table and key.
fn subject(fact: &Fact) -> String {
    match fact {
        Fact::Namespace(k, _) => format!("namespace {k}"),
        Fact::Node(k, _) => format!("node {k}"),
        Fact::Service(k, _) => format!("service {k}"),
        Fact::Slice(k, _) => format!("slice {k}"),
        Fact::Pod(k, _) => format!("pod {k}"),
        Fact::Attachment(k, _) => format!("attachment {k}"),
        Fact::Learned(k, _) => format!("learned {k}"),
        Fact::IpPool(k, _) => format!("pool {k}"),
        Fact::Reservation(k, _) => format!("reservation {k}"),
        Fact::Block(k, _) => format!("block {k}"),
        Fact::BgpConfiguration(k, _) => format!("BGP configuration {k}"),
        Fact::BgpPeer(k, _) => format!("BGP peer {k}"),
        Fact::BgpFilter(k, _) => format!("BGP filter {k}"),
        Fact::InterfaceAddress(addr, _) => format!("interface address {addr}"),
    }
}

/// The last event about each subject.
fn last_words(history: &[Fact]) -> Vec<Fact> {
    let mut last = std::collections::BTreeMap::new();
    for fact in history {
        last.insert(subject(fact), fact.clone());
    }
    last.into_values().collect()
}

/// Takes `history` in batches of the sizes in `splits` (0 is a pause), resolving after each.
fn run(history: &[Fact], splits: &[usize]) -> Snapshot {
    let mut facts = Facts::default();
    let mut snapshot = Snapshot::empty(settings());
    let mut rest = history;
    let mut splits = splits.iter().copied().chain(std::iter::repeat(usize::MAX));
    loop {
        let (batch, tail) = rest.split_at(splits.next().expect("endless").min(rest.len()));
        let touched = facts.apply_all(batch.iter().cloned());
        let (after, delta) = resolve(&facts, &snapshot, &touched);
        assert_eq!(delta.is_empty(), after == snapshot, "the delta says exactly whether something differs");
        snapshot = after;
        rest = tail;
        if rest.is_empty() {
            return snapshot;
        }
    }
}

proptest! {
    #[test]
    fn any_order_split_and_doubling_ends_as_from_scratch(
        history in proptest::collection::vec(any_fact(), 0..40),
        splits in proptest::collection::vec(0usize..6, 0..20),
        shuffled in any::<prop::sample::Index>(),
    ) {
        let mut facts = Facts::default();
        let mut settled = last_words(&history);
        facts.apply_all(settled.iter().cloned());
        let scratch = from_scratch(&facts);
        prop_assert_eq!(&run(&history, &splits), &scratch);
        let doubled: Vec<Fact> = history.iter().flat_map(|f| [f.clone(), f.clone()]).collect();
        prop_assert_eq!(&run(&doubled, &splits), &scratch);
        settled.reverse();
        if !settled.is_empty() {
            let by = shuffled.index(settled.len());
            settled.rotate_left(by);
        }
        prop_assert_eq!(&run(&settled, &splits), &scratch);
    }
}
