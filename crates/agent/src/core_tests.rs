//! The core over a kernel in memory: what is written when, what a restart costs, and the law.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use portolan_dataplane::iptables::{DnsPath, Options};
use portolan_ingest::{Event, Object};
use portolan_kernel::fake::{FakeNetwork, FakeRules};
use portolan_kernel::iptables::Family as ToolFamily;
use portolan_kernel::{LinkKind, Network, Rules};
use portolan_model::{Attachment, Family, IfName, LearnedRoute, NsName, ObjectKind, Settings};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

#[path = "history_tests.rs"]
mod history;
#[path = "why_tests.rs"]
mod why;

use super::{Core, Input, Listeners, Question, View};
use crate::announce::Answers;
use crate::guard::Word;
use crate::last_known::{Feed, Freshness};
use crate::proxy::{Pace, Programmer, Shared};
use crate::routes::RouteWriter;
use crate::rules::RuleWriter;
use crate::status::Progress;

/// A node's kernel that outlives the agents that write to it.
struct Kernel {
    network: FakeNetwork,
    rules: FakeRules,
}

impl Kernel {
    fn new() -> Self {
        let network = FakeNetwork::new();
        network.add_link("eth0", LinkKind::Veth);
        network.add_link("cali0", LinkKind::Veth);
        Self { network, rules: FakeRules::new() }
    }

    /// Everything of ours in it, in an order of its own.
    fn state(&self) -> (String, Vec<String>) {
        let mut network = self.network.clone();
        let mut routes: Vec<String> = network
            .routes()
            .expect("in memory")
            .iter()
            .map(|r| format!("{} {:?} {:?} {:?}", r.dst, r.kind, r.gateway, r.oif))
            .collect();
        routes.sort();
        (self.rules.save_all(ToolFamily::V4).expect("in memory"), routes)
    }

    fn writes(&self) -> (usize, usize) {
        (self.rules.restores().len(), self.network.writes())
    }
}

/// An agent's core and the ends of its channels, which must stay open.
struct Agent {
    core: Core,
    _end: mpsc::UnboundedReceiver<crate::bgp::Command>,
    /// What the guard of cluster DNS hears.
    word: watch::Receiver<Word>,
}

impl Agent {
    fn start(kernel: &Kernel) -> Self {
        let settings = Arc::new(Settings {
            node: "node-1".into(),
            cluster_cidrs: vec!["10.244.0.0/16".parse().expect("a prefix")],
            service_cidrs: vec!["10.96.0.0/12".parse().expect("a prefix")],
            cluster_dns: vec!["10.96.0.10".parse().expect("an address")],
            cluster_domain: "cluster.local".into(),
            proxy: Default::default(),
        });
        let progress = Arc::new(Progress::default());
        let dns = Feed::start(crate::dns::Handle::ended(), &settings, None);
        let freshness = Arc::new(Freshness::new(None));
        let (words, word) = watch::channel(Word::Others);
        let (bgp, bgp_end) = mpsc::unbounded_channel();
        let listeners = Listeners {
            dns,
            bgp,
            blocks: watch::channel(Vec::new()).0,
            answers: Answers::new(Vec::new()).0,
            others_answer: Some(words),
            freshness,
        };
        let (shared, _notices) = Shared::new(&[Family::V4], Duration::from_secs(60));
        let rules = Arc::new(kernel.rules.clone());
        let rules = RuleWriter::new(Family::V4, Options::default(), rules, progress.clone(), shared.metrics.clone());
        let proxy = Programmer::new(vec![Box::new(rules)], shared, Pace::default());
        let routes = RouteWriter::open(Box::new(kernel.network.clone()), "eth0", progress.clone()).expect("in memory");
        Self { core: Core::new(settings, proxy, routes, listeners, progress), _end: bgp_end, word }
    }

    fn take(&mut self, batch: impl IntoIterator<Item = Input>) -> bool {
        self.core.take(batch.into_iter().collect())
    }
}

fn object(value: Value) -> Object {
    Object::from_value(&value).expect("well-shaped").expect("a kind with facts")
}

fn node(name: &str, block: &str) -> Object {
    object(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDRs": [block]}}))
}

fn service(name: &str, last: u8) -> Object {
    let spec = json!({"clusterIP": format!("10.96.0.{last}"), "ports": [{"name": "http", "port": 80}]});
    object(
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec}),
    )
}

fn slice(service: &str, addresses: &[u8]) -> Object {
    let endpoints: Vec<Value> = addresses.iter().map(|n| json!({"addresses": [format!("10.244.0.{n}")]})).collect();
    object(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": service, "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": 80}], "endpoints": endpoints,
    }))
}

fn value(object: Object) -> Input {
    Input::Cluster(Event::Value(object), SystemTime::UNIX_EPOCH)
}

fn told_whole() -> Vec<Input> {
    [ObjectKind::Node, ObjectKind::Service, ObjectKind::EndpointSlice, ObjectKind::Pod].map(Input::Synced).into()
}

fn learned(third: u8) -> Input {
    let route = LearnedRoute::via("172.18.0.12".parse().expect("v4"), "172.18.0.12".parse().expect("v4"));
    Input::Learned(format!("10.244.{third}.0/26").parse().expect("a prefix"), Some(route))
}

fn attached(last: u8) -> Input {
    let addresses = vec![format!("10.244.0.{last}").parse().expect("v4")];
    let attachment = Attachment { link: IfName("cali0".into()), addresses, host_ports: Vec::new() };
    Input::Attachment(NsName::new("default", "web"), Some(attachment), None)
}

/// A cluster of one Service with two endpoints, a local pod and another node's block.
fn cluster() -> Vec<Input> {
    let mut inputs = vec![
        value(node("node-1", "10.244.0.0/26")),
        value(service("web", 20)),
        value(slice("web", &[1, 2])),
        attached(1),
        learned(1),
    ];
    inputs.extend(told_whole());
    inputs.push(Input::DnsPath(DnsPath::ThisNode, None));
    inputs
}

#[test]
fn no_rule_is_written_while_one_kind_is_not_told_whole() {
    for missing in told_whole() {
        let kernel = Kernel::new();
        let mut agent = Agent::start(&kernel);
        agent.take([value(service("web", 20)), value(slice("web", &[1]))]);
        let is_missing = |input: &Input| format!("{input:?}") == format!("{missing:?}");
        agent.take(told_whole().into_iter().filter(|input| !is_missing(input)));
        assert_eq!(kernel.rules.restores().len(), 0, "{missing:?}");
        agent.take([missing]);
        assert_eq!(kernel.rules.restores().len(), 1);
    }
}

#[test]
fn no_rule_is_written_before_the_cluster_was_told_whole() {
    let kernel = Kernel::new();
    let mut agent = Agent::start(&kernel);
    agent.take([
        value(service("web", 20)),
        Input::Synced(ObjectKind::Service),
        Input::Synced(ObjectKind::Node),
        Input::Synced(ObjectKind::Pod),
    ]);
    assert_eq!(kernel.rules.restores().len(), 0);
    agent.take([value(slice("web", &[1])), Input::Synced(ObjectKind::EndpointSlice)]);
    assert_eq!(kernel.rules.restores().len(), 1);
    assert!(kernel.rules.restores()[0].contains("--to-destination 10.244.0.1:80"));
}

#[test]
fn a_restart_over_a_right_kernel_writes_nothing() {
    let kernel = Kernel::new();
    assert!(Agent::start(&kernel).take(cluster()));
    let (before, writes) = (kernel.state(), kernel.writes());
    let mut again = Agent::start(&kernel);
    assert!(again.take(cluster()));
    again.take([Input::RoutesSettled]);
    assert_eq!(kernel.state(), before);
    assert_eq!(kernel.writes(), writes, "not one restore, not one route");
}

#[test]
fn routes_of_a_former_agent_stay_until_bgp_has_settled() {
    let kernel = Kernel::new();
    Agent::start(&kernel).take(cluster());
    let with_block = kernel.state().1;
    let mut again = Agent::start(&kernel);
    again.take(cluster().into_iter().filter(|input| !matches!(input, Input::Learned(..))));
    assert_eq!(kernel.state().1, with_block, "the peer may only not have spoken yet");
    again.take([Input::RoutesSettled]);
    assert_eq!(kernel.state().1.len(), with_block.len() - 1, "now it is known to be gone");
}

#[test]
fn a_refused_write_is_made_good_and_nothing_is_lost() {
    let kernel = Kernel::new();
    let mut agent = Agent::start(&kernel);
    agent.take(cluster());
    kernel.rules.refuse_next("Another app is currently holding the xtables lock");
    assert!(!agent.take([value(slice("web", &[1, 2, 3]))]), "the core is told to try again");
    assert!(agent.take([]), "and then it is as wanted");
    let scratch = Kernel::new();
    let mut other = Agent::start(&scratch);
    other.take(cluster());
    other.take([value(slice("web", &[1, 2, 3]))]);
    assert_eq!(kernel.state(), scratch.state());
}

#[test]
fn a_version_counts_as_applied_when_the_kernel_has_its_rules() {
    let kernel = Kernel::new();
    let mut agent = Agent::start(&kernel);
    let applied = agent.core.progress.watch_applied();
    let version = || applied.borrow().slices;
    agent.take([value(service("web", 20)), value(slice("web", &[1])), Input::SlicesSeen(7)]);
    assert_eq!(version(), 0, "nothing is written before the cluster was told whole");
    agent.take(told_whole());
    assert_eq!(version(), 7);
    kernel.rules.refuse_next("Another app is currently holding the xtables lock");
    agent.take([value(slice("web", &[1, 2])), Input::SlicesSeen(9)]);
    assert_eq!(version(), 7, "the kernel refused it");
    agent.take([]);
    assert_eq!(version(), 9);
    kernel.network.refuse_next(libc::EBUSY);
    agent.take([learned(3), value(slice("web", &[2])), Input::SlicesSeen(12)]);
    assert_eq!(version(), 12, "a route that is refused keeps no rule back");
    agent.take([Input::SlicesSeen(11)]);
    assert_eq!(version(), 12, "never back");
    assert_eq!(applied.borrow().facts.slices.len(), 1);
}

#[test]
fn dns_is_left_when_the_rules_send_queries_to_other_nodes_only() {
    let kernel = Kernel::new();
    let mut agent = Agent::start(&kernel);
    let endpoints = |nodes: &[&str]| {
        let row = |node: &&str| json!({"addresses": [format!("172.18.0.1{}", &node[5..])], "nodeName": node});
        value(object(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "kube-dns", "namespace": "default", "labels": {"kubernetes.io/service-name": "kube-dns"}},
            "ports": [{"name": "http", "port": 80}], "endpoints": nodes.iter().map(row).collect::<Vec<_>>(),
        })))
    };
    let leave = |agent: &mut Agent| {
        let (sender, mut answer) = tokio::sync::oneshot::channel();
        agent.take([Input::DnsPath(DnsPath::Service, Some(sender))]);
        answer.try_recv().expect("the core answers at once")
    };
    agent.take(cluster());
    let dns = value(object(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "kube-dns", "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.10", "ports": [{"name": "http", "port": 53}]},
    })));
    agent.take([dns, endpoints(&["node-1"])]);
    assert!(!leave(&mut agent), "this node is the only endpoint");
    assert_eq!(*agent.word.borrow(), Word::Alone);
    agent.take([endpoints(&["node-1", "node-2"])]);
    assert!(leave(&mut agent), "rules lead to the other one alone");
    assert_eq!(*agent.word.borrow(), Word::Others);
    agent.take([endpoints(&["node-2"])]);
    kernel.rules.refuse_next("Another app is currently holding the xtables lock");
    agent.take([endpoints(&["node-2", "node-3"])]);
    assert!(leave(&mut agent), "tried again, and taken");
    agent.take([endpoints(&["node-1"])]);
    assert!(!leave(&mut agent));
    assert_eq!(*agent.word.borrow(), Word::Alone);
}

#[test]
fn a_refused_route_is_tried_again() {
    let kernel = Kernel::new();
    let mut agent = Agent::start(&kernel);
    kernel.network.refuse_next(libc::ENETUNREACH);
    assert!(!agent.take(cluster()));
    assert!(agent.take([]));
    assert_eq!(kernel.state().1.len(), 3, "pod, block, learned");
}

#[test]
fn one_endpoint_is_one_restore_of_two_chains_and_no_route() {
    let kernel = Kernel::new();
    let mut agent = Agent::start(&kernel);
    agent.take(cluster());
    agent.take((0..100).map(|n| value(service(&format!("s{n}"), 100 + n))));
    let (restores, routes) = kernel.writes();
    agent.take([value(slice("web", &[1, 2, 3]))]);
    assert_eq!(kernel.writes(), (restores + 1, routes));
    let text = kernel.rules.restores().pop().expect("one more");
    let chains: Vec<&str> = text.lines().filter(|line| line.starts_with(':')).collect();
    assert_eq!(chains.len(), 2, "the Service's chain and the new endpoint's: {chains:?}");
}

fn any_input() -> impl Strategy<Value = Input> {
    let slices = (0u8..3, proptest::collection::vec(1u8..6, 0..4), any::<bool>());
    prop_oneof![
        (0u8..3, any::<bool>()).prop_map(|(n, there)| told(service(&format!("s{n}"), 20 + n), there)),
        slices.prop_map(|(n, addresses, there)| told(slice(&format!("s{n}"), &addresses), there)),
        (0u8..4).prop_map(|n| told(node("node-1", &format!("10.244.{n}.0/26")), true)),
        (0u8..4).prop_map(learned),
        (0u8..4).prop_map(|n| Input::Learned(format!("10.244.{n}.0/26").parse().expect("a prefix"), None)),
        (1u8..6).prop_map(attached),
        Just(()).prop_map(|()| Input::Attachment(NsName::new("default", "web"), None, None)),
        any::<bool>().prop_map(|here| Input::DnsPath(if here { DnsPath::ThisNode } else { DnsPath::Service }, None)),
    ]
}

fn told(object: Object, there: bool) -> Input {
    Input::Cluster(if there { Event::Value(object) } else { Event::Gone(object) }, SystemTime::UNIX_EPOCH)
}

fn copy(input: &Input) -> Input {
    match input {
        Input::Cluster(event, seen) => Input::Cluster(event.clone(), *seen),
        Input::Synced(kind) => Input::Synced(*kind),
        Input::SlicesSeen(version) => Input::SlicesSeen(*version),
        Input::Attachment(key, value, _) => Input::Attachment(key.clone(), value.clone(), None),
        Input::Learned(prefix, route) => Input::Learned(*prefix, route.clone()),
        Input::RoutesSettled => Input::RoutesSettled,
        Input::Doubt(family) => Input::Doubt(*family),
        Input::Edited(events) => Input::Edited(events.clone()),
        Input::DnsPath(path, _) => Input::DnsPath(*path, None),
        Input::Ask(_) => Input::Ask(Question(Box::new(|_| ()))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// One by one, doubled, with a restart or refusals in between: the kernel ends as if all had come at once.
    #[test]
    fn any_split_restart_or_refusal_ends_in_the_same_kernel(
        history in proptest::collection::vec(any_input(), 0..30),
        restart_at in 0usize..30,
        refuse_at in 0usize..30,
    ) {
        let whole = Kernel::new();
        let mut agent = Agent::start(&whole);
        agent.take(history.iter().map(copy).chain(told_whole()).chain([Input::RoutesSettled]));
        agent.take([]);

        let stepwise = Kernel::new();
        let mut agent = Agent::start(&stepwise);
        agent.take(told_whole());
        for (at, input) in history.iter().enumerate() {
            if at == restart_at {
                agent = Agent::start(&stepwise);
                agent.take(history[..at].iter().map(copy).chain(told_whole()));
            }
            if at == refuse_at {
                stepwise.rules.refuse_next("no");
                stepwise.network.refuse_next(libc::EBUSY);
            }
            agent.take([copy(input), copy(input)]);
        }
        agent.take([Input::RoutesSettled]);
        // What was refused is made good when the core tries again.
        for _ in 0..3 {
            agent.take([]);
        }
        prop_assert_eq!(stepwise.state(), whole.state());
    }
}

#[test]
fn a_question_is_answered_after_what_came_with_it_was_written() {
    let kernel = Kernel::new();
    let mut agent = Agent::start(&kernel);
    let (sender, mut answer) = tokio::sync::oneshot::channel();
    let rules = kernel.rules.clone();
    let ask = Question(Box::new(move |view: &View<'_>| {
        let written = rules.restores().iter().any(|text| text.contains("--to-destination 10.244.0.1:80"));
        let planned = view.proxy.plan(Family::V4).map(|plan| plan.dns());
        let _ = sender.send((view.snapshot.services.len(), planned, written));
    }));
    let events = [value(node("node-1", "10.244.0.0/26")), value(service("web", 1)), value(slice("web", &[1]))];
    agent.take([Input::Ask(ask)].into_iter().chain(events).chain(told_whole()));
    assert_eq!(answer.try_recv(), Ok((1, Some(DnsPath::Service), true)));
}
