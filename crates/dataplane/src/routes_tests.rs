//! Tests of the routes: the law, the kernel's form of each kind, refusals, repair.

use std::collections::BTreeMap;
use std::sync::Arc;

use portolan_model::{Attachment, Fact, Facts, LearnedRoute, Node, NsName, Settings, resolve};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn net(text: &str) -> IpNet {
    text.parse().expect("a literal prefix")
}

fn empty() -> Snapshot {
    Snapshot::empty(Arc::new(Settings {
        node: "node-1".into(),
        cluster_cidrs: vec![net("10.244.0.0/16"), net("fd00:10:244::/56")],
        service_cidrs: vec![],
        cluster_dns: vec![],
        cluster_domain: "cluster.local".into(),
        proxy: Default::default(),
    }))
}

fn pod(name: &str, addrs: &[&str]) -> Fact {
    let addresses = addrs.iter().map(|addr| addr.parse().expect("a literal address")).collect();
    let attachment = Attachment { link: IfName(format!("cali{name}").into()), addresses, host_ports: Vec::new() };
    Fact::Attachment(NsName::new("default", name), Some(attachment))
}

fn blocks(cidrs: &[&str]) -> Fact {
    let pod_cidrs = cidrs.iter().map(|cidr| net(cidr)).collect();
    Fact::Node("node-1".into(), Some(Node { pod_cidrs, ..Node::default() }))
}

fn learned(dst: &str, gateway: &str) -> Fact {
    let gateway = gateway.parse().expect("a literal address");
    Fact::Learned(net(dst), Some(LearnedRoute::via(gateway, gateway)))
}

/// An agent with a kernel that does as it is told.
struct Agent {
    facts: Facts,
    snapshot: Snapshot,
    shadow: Shadow,
    kernel: BTreeMap<IpNet, WantedRoute>,
}

impl Agent {
    fn new() -> Self {
        Self { facts: Facts::default(), snapshot: empty(), shadow: Shadow::new(), kernel: BTreeMap::new() }
    }

    fn take(&mut self, facts: impl IntoIterator<Item = Fact>) -> Vec<RouteChange> {
        let touched = self.facts.apply_all(facts);
        let (snapshot, delta) = resolve(&self.facts, &self.snapshot, &touched);
        self.snapshot = snapshot;
        let changes = self.shadow.update(&self.snapshot, &delta);
        for change in &changes {
            match change {
                RouteChange::Replace(route) => self.kernel.insert(route.dst, route.clone()),
                RouteChange::Remove(route) => self.kernel.remove(&route.dst),
            };
        }
        changes
    }
}

#[test]
fn pods_blocks_and_learned_prefixes_become_routes_in_both_families() {
    let mut agent = Agent::new();
    agent.take([
        blocks(&["10.244.0.0/26", "fd00:10:244::/122"]),
        pod("a", &["10.244.0.5", "fd00:10:244::5"]),
        learned("10.244.1.0/26", "172.18.0.12"),
        learned("fd00:10:244:1::/122", "fd00:18::12"),
    ]);
    let route = |dst: &str, hop: Hop, protocol| WantedRoute { dst: net(dst), hop, protocol };
    let via = |gateway: &str| Hop::Via(gateway.parse().expect("a literal address"));
    let link = || Hop::Link(IfName("calia".into()));
    let found: Vec<WantedRoute> = agent.shadow.routes().cloned().collect();
    assert_eq!(
        found,
        [
            route("10.244.0.0/26", Hop::Blackhole, PROTO_NODE),
            route("10.244.0.5/32", link(), PROTO_NODE),
            route("10.244.1.0/26", via("172.18.0.12"), PROTO_BGP),
            route("fd00:10:244::/122", Hop::Blackhole, PROTO_NODE),
            route("fd00:10:244::5/128", link(), PROTO_NODE),
            route("fd00:10:244:1::/122", via("fd00:18::12"), PROTO_BGP),
        ]
    );
}

#[test]
fn one_pod_writes_one_route_for_each_of_its_addresses() {
    let mut agent = Agent::new();
    agent.take([blocks(&["10.244.0.0/26"])]);
    agent.take((0..200).map(|n| pod(&format!("p{n}"), &[&format!("10.244.9.{n}")])));
    let changes = agent.take([pod("new", &["10.244.0.6"])]);
    assert_eq!(changes.iter().map(RouteChange::dst).collect::<Vec<_>>(), [net("10.244.0.6/32")]);
    assert_eq!(agent.take([pod("new", &["10.244.0.6"])]), vec![]);
    let gone = agent.take([Fact::Attachment(NsName::new("default", "new"), None)]);
    assert!(matches!(&gone[..], [RouteChange::Remove(route)] if route.dst == net("10.244.0.6/32")), "{gone:?}");
}

#[test]
fn a_refused_route_is_tried_again_until_it_is_gone_or_taken() {
    let mut agent = Agent::new();
    agent.take([pod("a", &["10.244.0.5"]), pod("b", &["10.244.0.6"])]);
    agent.shadow.refused(net("10.244.0.5/32"));
    agent.shadow.refused(net("10.244.0.6/32"));
    agent.take([Fact::Attachment(NsName::new("default", "b"), None)]);
    assert!(agent.shadow.has_refused());
    let again = agent.shadow.retry();
    assert_eq!(again.iter().map(RouteChange::dst).collect::<Vec<_>>(), [net("10.244.0.5/32")]);
    assert!(!agent.shadow.has_refused());
}

#[test]
fn repair_takes_out_strays_puts_in_what_is_missing_and_leaves_others_alone() {
    let mut agent = Agent::new();
    agent.take([blocks(&["10.244.0.0/26"]), pod("a", &["10.244.0.5"]), learned("10.244.1.0/26", "172.18.0.12")]);
    let mut found: Vec<WantedRoute> = agent.shadow.routes().cloned().collect();
    assert_eq!(agent.shadow.repair(&found), vec![]);
    let foreign = WantedRoute { dst: net("10.9.0.0/16"), hop: Hop::Blackhole, protocol: 4 };
    let stray = WantedRoute { dst: net("10.244.7.0/26"), hop: Hop::Blackhole, protocol: PROTO_BGP };
    let missing = found.remove(1);
    found.extend([foreign, stray.clone()]);
    let expected = vec![RouteChange::Remove(stray), RouteChange::Replace(missing)];
    assert_eq!(agent.shadow.repair(&found), expected);
}

fn any_fact() -> impl Strategy<Value = Fact> {
    let gone = |name: &str| Fact::Attachment(NsName::new("default", name), None);
    select(vec![
        pod("a", &["10.244.0.5", "fd00:10:244::5"]),
        pod("a", &["10.244.0.6"]),
        pod("b", &["10.244.0.6"]),
        gone("a"),
        gone("b"),
        blocks(&["10.244.0.0/26", "fd00:10:244::/122"]),
        blocks(&["10.244.1.0/26"]),
        Fact::Node("node-1".into(), None),
        learned("10.244.1.0/26", "172.18.0.12"),
        learned("10.244.1.0/26", "172.18.0.13"),
        learned("10.244.0.6/32", "172.18.0.13"),
        Fact::Learned(net("10.244.1.0/26"), None),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_split_and_doubling_ends_as_from_scratch(facts in vec(any_fact(), 0..20), size in 1usize..5) {
        let mut stepwise = Agent::new();
        for portion in facts.chunks(size) {
            stepwise.take(portion.to_vec());
            stepwise.take(portion.to_vec());
        }
        let mut scratch = Agent::new();
        scratch.take(facts);
        prop_assert_eq!(&stepwise.shadow, &scratch.shadow);
        prop_assert_eq!(&stepwise.kernel, &stepwise.shadow.routes().map(|r| (r.dst, r.clone())).collect());
    }
}
