//! The law: any order, split or doubling of facts ends in the same table as one from scratch, up to the order within
//! lists; the steps on the way add up to the whole; one endpoint costs what one endpoint costs.

use std::collections::{BTreeMap, BTreeSet};

use portolan_model::{Delta, Fact, Facts, Family, Proto, Service, ServiceKind, Snapshot, resolve};
use proptest::prelude::*;

use super::kernel::Kernel;
use crate::nftables::lang::{Data, Key, Step, Table};
use crate::nftables::{Changes, Desired, Options};
use crate::tests::any_world::any_world;
use crate::tests::history::any_history;
use crate::tests::world::{empty, endpoint, ip, name, own_node, port, slice, snapshot};

/// An agent: facts come in portions, steps go out.
struct Agent {
    facts: Facts,
    snapshot: Snapshot,
    desired: Desired,
    kernel: Kernel,
}

impl Agent {
    fn new(family: Family) -> Self {
        let desired = Desired::new(family, Options::default());
        Self { facts: Facts::default(), snapshot: empty(), desired, kernel: Kernel::new(family) }
    }

    fn take(&mut self, facts: &[Fact]) -> Changes {
        let touched = self.facts.apply_all(facts.iter().cloned());
        let (snapshot, delta) = resolve(&self.facts, &self.snapshot, &touched);
        self.snapshot = snapshot;
        let changes = self.desired.update(&self.snapshot, &delta);
        self.kernel.apply(&changes.transaction);
        changes
    }
}

/// Endpoints by map and destination.
type Lists = BTreeMap<(String, Key), BTreeSet<Option<Data>>>;

/// A table without the order of endpoints within their lists.
fn unordered(mut table: Table) -> (Table, Lists) {
    let mut lists = Lists::new();
    for (name, set) in &mut table.sets {
        set.elements.retain(|key, (data, _)| {
            let destination = match *key {
                Key::DestSlot(addr, proto, port, _) => Key::Dest(addr, proto, port),
                Key::PortSlot(proto, port, _) => Key::Port(proto, port),
                _ => return true,
            };
            lists.entry((name.to_string(), destination)).or_default().insert(*data)
        });
        set.elements.retain(|key, _| !matches!(key, Key::DestSlot(..) | Key::PortSlot(..)));
    }
    (table, lists)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_split_and_doubling_ends_as_from_scratch((portions, last) in any_history(any_world)) {
        let scratch = snapshot(&last);
        for family in Family::BOTH {
            let mut agent = Agent::new(family);
            for portion in &portions {
                agent.take(portion);
            }
            prop_assert_eq!(agent.kernel.dump(), agent.desired.table());
            let desired = Desired::of(family, Options::default(), &scratch);
            prop_assert_eq!(unordered(agent.kernel.dump()), unordered(desired.table()));
        }
    }

    #[test]
    fn an_update_without_news_writes_nothing(facts in any_world()) {
        let mut agent = Agent::new(Family::V4);
        agent.take(&facts);
        prop_assert_eq!(agent.take(&facts), Changes::default());
        let snapshot = agent.snapshot.clone();
        prop_assert_eq!(agent.desired.update(&snapshot, &Delta::all(&snapshot)), Changes::default());
    }
}

fn elements(changes: &Changes) -> Vec<String> {
    let mut found = Vec::new();
    for step in changes.transaction.steps() {
        match step {
            Step::AddElements(set, elements) => elements.iter().for_each(|_| found.push(format!("+{set}"))),
            Step::DeleteElements(set, keys) => keys.iter().for_each(|_| found.push(format!("-{set}"))),
            other => found.push(format!("{other:?}").chars().take_while(|c| c.is_alphabetic()).collect()),
        }
    }
    found
}

fn pods(count: usize) -> Vec<portolan_model::EndpointFact> {
    (0..count).map(|index| endpoint(&format!("10.244.{}.{}", 1 + index / 200, 1 + index % 200), "node-2")).collect()
}

/// Services of one port each with a node port; the first has `endpoints`, the second one more, the third two more, and so
/// on from the fourth.
fn big_cluster(services: usize, endpoints: usize) -> Vec<Fact> {
    let mut facts = vec![own_node()];
    for index in 0..services {
        let service = Service {
            kind: ServiceKind::NodePort,
            cluster_ips: vec![ip(&format!("10.96.{}.{}", index / 250, index % 250 + 1))],
            ports: vec![port("http", Proto::Tcp, 80, 30000 + index as u16)],
            ..Service::default()
        };
        facts.push(Fact::Service(name(index), Some(service)));
        facts.push(slice(&name(index), Family::V4, pods(endpoints + index % 3)));
    }
    facts
}

#[test]
fn one_endpoint_more_or_fewer_is_three_elements_a_destination_whatever_the_cluster_and_the_list() {
    for (services, length) in [(9, 2), (500, 2), (9, 150)] {
        let mut agent = Agent::new(Family::V4);
        agent.take(&big_cluster(services, length));
        let mut more = pods(length + 1);
        more.push(endpoint("10.244.200.1", "node-2"));
        let count = |n: usize| format!("cluster-ips-{n}");
        let changes = agent.take(&[slice(&name(1), Family::V4, more)]);
        let steps = elements(&changes);
        assert_eq!(steps.len(), 2 * 3 + 1, "{length}: {steps:?}");
        assert!(
            steps.contains(&format!("-{}", count(length + 1))) && steps.contains(&format!("+{}", count(length + 2)))
        );
        // The first of the list goes: the last takes its slot.
        let mut fewer = pods(length + 2);
        fewer.remove(0);
        let steps = elements(&agent.take(&[slice(&name(2), Family::V4, fewer)]));
        assert_eq!(steps.len(), 2 * 5, "{steps:?}");
    }
}
