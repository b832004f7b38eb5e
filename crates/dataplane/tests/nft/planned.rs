//! What the planner wants, and what a kernel that was told holds, in a world with Services of every shape.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use portolan_dataplane::nftables::{Desired, Options, Repair, Transaction, render};
use portolan_kernel::netns;
use portolan_model::{
    EndpointFact, ExternalPolicy, Fact, Facts, Family, Node, NsName, Proto, ProxySettings, Service, ServiceKind,
    ServicePortFact, Settings, Slice, SlicePort, Snapshot, resolve,
};

use crate::read_back::in_kernel;
use crate::{says, transact};

/// Elements in one transaction: small, so that a start takes several.
const CHUNK: usize = 40;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

fn key(index: u8) -> NsName {
    NsName::new("default", format!("svc-{index}"))
}

#[derive(Clone, Copy, PartialEq)]
enum Affinity {
    Some,
    None,
}

fn service(index: u8, affinity: Affinity) -> Service {
    let proto = [Proto::Tcp, Proto::Udp, Proto::Sctp][usize::from(index % 3)];
    let port = ServicePortFact { name: "http".into(), proto, port: 80, node_port: 30000 + u16::from(index) };
    let ranges: &[&str] =
        if index.is_multiple_of(2) { &["192.0.2.0/24", "172.18.0.11/32", "2001:db8::/32"] } else { &[] };
    Service {
        kind: ServiceKind::LoadBalancer,
        cluster_ips: vec![ip(&format!("10.96.0.{}", 20 + index)), ip(&format!("fd00:10:96::{}", 20 + index))],
        external_ips: vec![ip(&format!("203.0.113.{index}")), ip(&format!("2001:db8:e::{index}"))],
        load_balancer_ips: vec![ip(&format!("198.51.100.{index}")), ip(&format!("2001:db8:f::{index}"))],
        source_ranges: ranges.iter().map(|range| range.parse().expect("a literal prefix")).collect(),
        ports: vec![port],
        internal_local: index.is_multiple_of(5),
        external_policy: if index.is_multiple_of(4) { ExternalPolicy::Local } else { ExternalPolicy::Cluster },
        affinity_secs: (affinity == Affinity::Some && index.is_multiple_of(3)).then_some(10800),
        ..Service::default()
    }
}

fn slice(index: u8, family: Family, count: u8) -> Fact {
    let proto = [Proto::Tcp, Proto::Udp, Proto::Sctp][usize::from(index % 3)];
    let endpoint = |n: u8| {
        let addr = match family {
            Family::V4 => format!("10.244.{index}.{n}"),
            Family::V6 => format!("fd00:244:{index}::{n}"),
        };
        let node = Some(if n.is_multiple_of(2) { "node-1" } else { "node-2" }.into());
        EndpointFact { node, ..EndpointFact::ready_at(ip(&addr)) }
    };
    let ports = vec![SlicePort { name: "http".into(), proto, port: 8080 }];
    let slice = Slice { service: key(index), family, ports, endpoints: (1..=count).map(endpoint).collect() };
    Fact::Slice(NsName::new("default", format!("svc-{index}-{family:?}")), Some(slice))
}

fn facts(affinity: Affinity) -> Vec<Fact> {
    let node = Node { addresses: vec![ip("172.18.0.11"), ip("fd00:18::11")], ready: true, ..Node::default() };
    let mut facts = vec![Fact::Node("node-1".into(), Some(node))];
    for index in 0..12 {
        facts.push(Fact::Service(key(index), Some(service(index, affinity))));
        let count = [0, 1, 2, 3, 20, 40][usize::from(index % 6)];
        facts.extend(Family::BOTH.map(|family| slice(index, family, count)));
    }
    facts
}

fn world(affinity: Affinity) -> (Facts, Snapshot) {
    let net = |text: &str| text.parse().expect("a literal prefix");
    let settings = Settings {
        node: "node-1".into(),
        cluster_cidrs: vec![net("10.244.0.0/16"), net("fd00:244::/32")],
        service_cidrs: vec![net("10.96.0.0/16"), net("fd00:10:96::/112")],
        cluster_dns: vec![ip("10.96.0.10"), ip("fd00:10:96::10")],
        cluster_domain: "cluster.local".into(),
        proxy: ProxySettings::default(),
    };
    let mut all = Facts::default();
    all.apply_all(facts(affinity));
    let snapshot = resolve(&all, &Snapshot::empty(Arc::new(settings)), &all.all()).0;
    (all, snapshot)
}

fn carry_out(space: &OwnedFd, family: Family, transaction: &Transaction) {
    transact(space, family, transaction.steps()).unwrap_or_else(|error| panic!("{error}: {:?}", transaction.steps()));
}

/// A kernel told by a start in chunks, and the planner that told it.
fn started(family: Family, snapshot: &Snapshot) -> (OwnedFd, Desired) {
    let space = netns::create().expect("as root");
    let mut desired = Desired::new(family, Options::default());
    let changes = desired.update(snapshot, &portolan_model::Delta::all(snapshot));
    let chunks = changes.in_chunks(CHUNK);
    assert!(chunks.len() > 3, "a start in {} chunks", chunks.len());
    for chunk in &chunks {
        carry_out(&space, family, chunk);
    }
    (space, desired)
}

fn assert_as_planned(space: &OwnedFd, desired: &Desired) {
    let read = in_kernel(space, desired.family()).expect("the table is there");
    assert_eq!(read.unread, []);
    assert_eq!(read.table, desired.table());
    assert!(Repair::of(desired, &read.to_compare()).is_empty(), "a kernel that is right is let be");
}

#[test]
fn the_kernel_holds_what_is_planned_after_a_start_in_chunks_and_after_each_change() {
    let (mut facts, mut snapshot) = world(Affinity::Some);
    for family in Family::BOTH {
        let (space, mut desired) = started(family, &snapshot);
        assert_as_planned(&space, &desired);
        let changes = [
            vec![slice(3, family, 2)],
            vec![slice(4, family, 17), slice(5, family, 0)],
            vec![Fact::Service(key(6), None), Fact::Service(key(7), Some(service(8, Affinity::Some)))],
            (0..12).map(|index| Fact::Service(key(index), Some(service(index, Affinity::None)))).collect(),
            (0..12).map(|index| Fact::Service(key(index), None)).collect(),
        ];
        let before = (facts.clone(), snapshot.clone());
        for change in changes {
            let touched = facts.apply_all(change);
            let (after, delta) = resolve(&facts, &snapshot, &touched);
            let changes = desired.update(&after, &delta);
            carry_out(&space, family, &changes.transaction);
            snapshot = after;
            assert_as_planned(&space, &desired);
        }
        (facts, snapshot) = before;
    }
}

/// Affinity of IPv6 is the one thing that nft 1.0.6 cannot load (see `render`).
#[test]
fn nft_loads_what_is_planned_from_its_text() {
    for (family, affinity) in [(Family::V4, Affinity::Some), (Family::V6, Affinity::None)] {
        let desired = Desired::of(family, Options::default(), &world(affinity).1);
        let space = netns::create().expect("as root");
        let text = render::full(&desired.table());
        says(&space, &["-f", "-"], &text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_as_planned(&space, &desired);
    }
}

#[test]
fn what_another_hand_did_is_mended() {
    let (_, snapshot) = world(Affinity::Some);
    let family = Family::V4;
    let (space, desired) = started(family, &snapshot);
    let edits = [
        "add rule ip portolan services counter accept",
        "insert rule ip portolan nat-postrouting ip saddr 10.0.0.1 accept",
        "flush chain ip portolan external",
        "flush map ip portolan endpoints",
        "add element ip portolan cluster-ips { 192.0.2.1 }",
        "add element ip portolan cluster-ips-1 { 10.96.0.200 . icmp . 0 }",
        "add set ip portolan ranges { type ipv4_addr; flags interval; }",
        "add chain ip portolan strict { type filter hook input priority 5; policy drop; }",
        "add chain ip portolan filter-input { policy drop; }",
        "delete table ip portolan",
    ];
    for edit in edits {
        says(&space, &[edit], "").unwrap_or_else(|error| panic!("{edit}: {error}"));
        let found = in_kernel(&space, family)
            .map_or_else(|| Desired::new(family, Options::default()).table(), |read| read.to_compare());
        let repair = Repair::of(&desired, &found);
        assert!(!repair.is_empty(), "{edit} is not seen");
        carry_out(&space, family, &repair.transaction);
        assert_as_planned(&space, &desired);
    }
}
