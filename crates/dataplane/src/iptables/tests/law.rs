//! The law: any order, split or doubling of facts ends in the same rules as one from scratch, the changes written on the
//! way add up to the whole, and one endpoint costs what one endpoint costs.

use std::collections::BTreeSet;

use portolan_model::{
    Delta, Fact, Facts, Family, NsName, Proto, ProxySettings, Service, ServiceKind, Snapshot, resolve,
};
use proptest::prelude::*;

use crate::iptables::{Chain, Change, Desired, Options, RuleSet, names};
use crate::tests::any_world::{any_settings, any_whole_world};
use crate::tests::history::any_history;
use crate::tests::world::{
    attachment, endpoint, host_port, ip, name, own_node, port, slice, snapshot, snapshot_with, whole,
};

/// A kernel that does as it is told.
#[derive(Default, Debug, PartialEq)]
struct Kernel(RuleSet);

impl Kernel {
    fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match change.clone() {
                Change::Set { chain, rules } => self.0.insert(chain, rules),
                Change::Remove { chain } => self.0.remove(&chain),
            };
        }
    }
}

/// An agent: facts come in portions, rules go out as changes.
struct Agent {
    facts: Facts,
    snapshot: Snapshot,
    desired: Desired,
    kernel: Kernel,
}

impl Agent {
    fn new(family: Family, options: Options) -> Self {
        Self::under(&ProxySettings::default(), family, options)
    }

    fn under(proxy: &ProxySettings, family: Family, options: Options) -> Self {
        let desired = Desired::new(family, options);
        let snapshot = snapshot_with(proxy, &[]);
        Self { facts: Facts::default(), snapshot, desired, kernel: Kernel::default() }
    }

    fn take(&mut self, facts: &[Fact]) -> Vec<Change> {
        let touched = self.facts.apply_all(facts.iter().cloned());
        let (snapshot, delta) = resolve(&self.facts, &self.snapshot, &touched);
        self.snapshot = snapshot;
        let changes = self.desired.update(&self.snapshot, &delta);
        self.kernel.apply(&changes);
        changes
    }
}

fn services(facts: &[Fact]) -> BTreeSet<NsName> {
    facts.iter().filter_map(|f| if let Fact::Service(key, _) = f { Some(key.clone()) } else { None }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_split_and_doubling_ends_as_from_scratch(
        (portions, last) in any_history(any_whole_world),
        proxy in any_settings(),
        limit in 0usize..12,
    ) {
        let scratch = snapshot_with(&proxy, &last);
        for family in Family::BOTH {
            let options = Options { comment_limit: limit, ..Options::default() };
            let mut agent = Agent::under(&proxy, family, options.clone());
            for portion in &portions {
                agent.take(portion);
            }
            let desired = Desired::of(family, options, &scratch);
            prop_assert_eq!(&agent.kernel.0, &desired.chains());
            prop_assert_eq!(&agent.desired, &desired);
        }
    }

    #[test]
    fn an_update_without_news_writes_nothing(facts in any_whole_world()) {
        let mut agent = Agent::new(Family::V4, Options::default());
        agent.take(&facts);
        prop_assert_eq!(agent.take(&facts), vec![]);
        let snapshot = agent.snapshot.clone();
        prop_assert_eq!(agent.desired.update(&snapshot, &Delta::all(&snapshot)), vec![]);
    }
}

fn written(changes: &[Change]) -> Vec<&str> {
    changes.iter().map(|change| &*change.chain().name).collect()
}

fn big_cluster(services: usize) -> Vec<Fact> {
    let mut facts = vec![own_node()];
    for index in 0..services {
        let service = Service {
            kind: ServiceKind::NodePort,
            cluster_ips: vec![ip(&format!("10.96.{}.{}", index / 250, index % 250 + 1))],
            ports: vec![port("http", Proto::Tcp, 80, 30000 + index as u16)],
            ..Service::default()
        };
        facts.push(Fact::Service(name(index), Some(service)));
        facts.push(slice(&name(index), Family::V4, vec![endpoint("10.244.0.5", "node-1")]));
    }
    facts
}

#[test]
fn one_endpoint_more_writes_its_services_list_and_its_own_chain_whatever_the_cluster() {
    let more = slice(&name(1), Family::V4, vec![endpoint("10.244.0.5", "node-1"), endpoint("10.244.1.6", "node-2")]);
    let fewer = slice(&name(1), Family::V4, vec![endpoint("10.244.0.5", "node-1")]);
    for services in [2, 500] {
        let mut agent = Agent::new(Family::V4, Options::default());
        agent.take(&big_cluster(services));
        let changes = agent.take(std::slice::from_ref(&more));
        let names = written(&changes);
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(names[0].starts_with("KUBE-SEP-") && names[1].starts_with("KUBE-SVC-"), "{names:?}");
        let changes = agent.take(std::slice::from_ref(&fewer));
        assert!(matches!(&changes[..], [Change::Remove { .. }, Change::Set { .. }]), "{changes:?}");
    }
}

#[test]
fn the_first_endpoint_also_turns_the_refusal_into_a_way() {
    let mut agent = Agent::new(Family::V4, Options::default());
    agent.take(&big_cluster(3));
    agent.take(&[slice(&name(1), Family::V4, vec![])]);
    let changes = agent.take(&[slice(&name(1), Family::V4, vec![endpoint("10.244.0.5", "node-1")])]);
    let shared: Vec<Chain> =
        changes.iter().map(|c| c.chain().clone()).filter(|c| names::SHARED.contains(&&*c.name)).collect();
    let expected = [
        Chain::filter(names::EXTERNAL_SERVICES),
        Chain::filter(names::SERVICES),
        Chain::nat(names::NODE_PORTS),
        Chain::nat(names::SERVICES),
    ];
    assert_eq!(shared, expected);
    assert_eq!(changes.len(), 4 + 3, "SVC, EXT and SEP beside the shared ones");
}

#[test]
fn a_service_that_goes_takes_all_its_chains_along() {
    let facts = whole();
    for family in Family::BOTH {
        let mut agent = Agent::new(family, Options::default());
        agent.take(&facts);
        let gone: Vec<Fact> = services(&facts).into_iter().map(|key| Fact::Service(key, None)).collect();
        agent.take(&gone);
        let left: Vec<&Chain> = agent.kernel.0.keys().filter(|chain| names::is_of_service(&chain.name)).collect();
        assert_eq!(left, Vec::<&Chain>::new());
        let others: Vec<Fact> = facts.iter().filter(|fact| !matches!(fact, Fact::Service(..))).cloned().collect();
        assert_eq!(agent.kernel.0, Desired::of(family, Options::default(), &snapshot(&others)).chains());
    }
}

#[test]
fn a_host_port_more_writes_its_pods_chain_and_the_way_to_it_and_nothing_else() {
    let mut agent = Agent::new(Family::V4, Options::default());
    agent.take(&big_cluster(50));
    let pod = attachment(5, vec![host_port(Proto::Tcp, 9090, None)]);
    assert_eq!(written(&agent.take(&[attachment(5, vec![])])), Vec::<&str>::new());
    let changes = agent.take(&[pod]);
    let names = written(&changes);
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names[0].starts_with("CNI-DN-") && names[1] == names::HOST_PORTS, "{names:?}");
}
