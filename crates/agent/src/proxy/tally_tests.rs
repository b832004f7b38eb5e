//! The sums follow each change and end as if counted anew.

use std::sync::Arc;

use portolan_model::{
    EndpointFact, Fact, Facts, Service, ServiceKind, ServicePortFact, Settings, Slice, SlicePort, resolve,
};

use super::*;

/// A cluster that takes in one fact after the other, with its tally.
struct World {
    facts: Facts,
    snapshot: Snapshot,
    tally: Tally,
}

impl World {
    fn new() -> Self {
        let settings = Settings {
            node: "node-1".into(),
            cluster_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            proxy: Default::default(),
        };
        Self { facts: Facts::default(), snapshot: Snapshot::empty(Arc::new(settings)), tally: Tally::default() }
    }

    fn take(&mut self, fact: Fact) {
        let touched = self.facts.apply(fact);
        let (after, delta) = resolve(&self.facts, &self.snapshot, &touched);
        self.snapshot = after;
        self.tally.update(&self.snapshot, &delta);
    }

    fn service(&mut self, change: impl FnOnce(&mut Service)) {
        let mut service = Service {
            kind: ServiceKind::LoadBalancer,
            cluster_ips: vec!["10.96.0.1".parse().expect("v4"), "fd00::1".parse().expect("v6")],
            load_balancer_ips: vec!["192.0.2.1".parse().expect("v4")],
            ports: vec![ServicePortFact {
                name: "http".into(),
                proto: portolan_model::Proto::Tcp,
                port: 80,
                node_port: 0,
            }],
            external_policy: ExternalPolicy::Local,
            health_check_node_port: 30999,
            ..Service::default()
        };
        change(&mut service);
        self.take(Fact::Service(key(), Some(service)));
    }

    fn endpoints(&mut self, endpoints: Vec<EndpointFact>) {
        let ports = vec![SlicePort { name: "http".into(), proto: portolan_model::Proto::Tcp, port: 8080 }];
        let slice = Slice { service: key(), family: Family::V4, ports, endpoints };
        self.take(Fact::Slice(key(), Some(slice)));
    }

    fn external(&self) -> (u64, u64) {
        (self.tally.no_local(Family::V4).external, self.tally.no_local(Family::V6).external)
    }
}

fn key() -> NsName {
    NsName::new("default", "web")
}

fn on(node: &str, last: u8) -> EndpointFact {
    EndpointFact { node: Some(node.into()), ..EndpointFact::ready_at(std::net::Ipv4Addr::new(10, 244, 0, last).into()) }
}

#[test]
fn only_ready_endpoints_of_this_node_answer_a_balancer() {
    let mut world = World::new();
    world.service(|_| {});
    assert_eq!(world.tally.checks.get(&key()), Some(&Check { port: 30999, local: 0 }));
    let draining = EndpointFact { ready: false, terminating: true, ..on("node-1", 3) };
    world.endpoints(vec![on("node-1", 1), on("node-2", 2), draining]);
    assert_eq!(world.tally.checks[&key()].local, 1);
    world.service(|service| service.health_check_node_port = 0);
    assert_eq!(world.tally.checks.get(&key()), None);
    world.service(|service| service.labelled_headless = true);
    assert_eq!(world.tally.checks.get(&key()), None, "another's Service");
}

#[test]
fn endpoints_elsewhere_only_count_under_policy_local_and_none_at_all_do_not() {
    let mut world = World::new();
    world.service(|_| {});
    assert_eq!(world.external(), (0, 0), "no endpoints at all");
    world.endpoints(vec![on("node-2", 2)]);
    assert_eq!(world.external(), (1, 0));
    world.service(|service| service.internal_local = true);
    assert_eq!(world.tally.no_local(Family::V4), NoLocal { internal: 1, external: 1 });
    world.endpoints(vec![on("node-2", 2), on("node-1", 1)]);
    assert_eq!(world.tally.no_local(Family::V4), NoLocal::default());
    world.endpoints(vec![on("node-2", 2)]);
    world.service(|service| service.external_policy = ExternalPolicy::Cluster);
    assert_eq!(world.tally.no_local(Family::V4), NoLocal::default());
    world.service(|_| {});
    world.take(Fact::Service(key(), None));
    assert_eq!(world.external(), (0, 0));
}
