//! Rules that stand for one thing each: who owns what two claim, whom affinity lets go, DNS of this node, the size of it.

use portolan_model::verdict::{Arrival, Outcome, Packet};
use portolan_model::{Delta, Fact, Facts, Family, Proto, Service, ServiceKind, Snapshot, resolve};

use super::kernel::Kernel;
use crate::nftables::lang::{Data, Key, Statement, Step};
use crate::nftables::names::Door;
use crate::nftables::trace::{World, chances, walk};
use crate::nftables::{Changes, Desired, DnsPath, Options, Target};
use crate::tests::world::{empty, endpoint, ip, name, own_node, port, rich, slice, snapshot, whole};

fn claimant(index: usize, external: &str) -> Vec<Fact> {
    let service = Service {
        cluster_ips: vec![ip(&format!("10.96.0.{}", 20 + index))],
        external_ips: vec![ip(external)],
        ports: vec![port("http", Proto::Tcp, 80, 0)],
        ..Service::default()
    };
    let pod = endpoint(&format!("10.244.1.{index}"), "node-2");
    vec![Fact::Service(name(index), Some(service)), slice(&name(index), Family::V4, vec![pod])]
}

/// Facts come in, steps go out into a kernel.
struct Agent {
    facts: Facts,
    snapshot: Snapshot,
    desired: Desired,
    kernel: Kernel,
}

impl Agent {
    fn new() -> Self {
        let desired = Desired::new(Family::V4, Options::default());
        Self { facts: Facts::default(), snapshot: empty(), desired, kernel: Kernel::new(Family::V4) }
    }

    fn take(&mut self, facts: &[Fact]) -> Changes {
        let touched = self.facts.apply_all(facts.iter().cloned());
        let (snapshot, delta) = resolve(&self.facts, &self.snapshot, &touched);
        self.snapshot = snapshot;
        let changes = self.desired.update(&self.snapshot, &delta);
        self.kernel.apply(&changes.transaction);
        changes
    }

    fn endpoint_of(&self, addr: &str, port: u16) -> Option<Data> {
        let key = Key::DestSlot(ip(addr), Proto::Tcp, port, 0);
        self.kernel.dump().sets["endpoints"].elements.get(&key).and_then(|(data, _)| *data)
    }
}

#[test]
fn an_external_address_that_two_claim_is_the_first_ones_and_the_other_is_complained_of() {
    let mut agent = Agent::new();
    assert_eq!(agent.take(&claimant(2, "203.0.113.1")).complaints, vec![]);
    let second = agent.take(&claimant(1, "203.0.113.1"));
    assert_eq!(agent.endpoint_of("203.0.113.1", 80), Some(Data::Endpoint(ip("10.244.1.1"), 8080)));
    let [complaint] = second.complaints.as_slice() else { panic!("{:?}", second.complaints) };
    assert_eq!(complaint.object.key, name(2));
    let words = "203.0.113.1:80/tcp of default/svc-2:http belongs to default/svc-1:http";
    assert!(complaint.message.contains(words), "{}", complaint.message);
    let gone = agent.take(&[Fact::Service(name(1), None)]);
    assert_eq!(gone.complaints, vec![]);
    assert_eq!(agent.endpoint_of("203.0.113.1", 80), Some(Data::Endpoint(ip("10.244.1.2"), 8080)));
}

#[test]
fn a_cluster_ip_goes_before_any_claim_to_it() {
    let mut agent = Agent::new();
    agent.take(&claimant(1, "10.96.0.22"));
    assert_eq!(agent.endpoint_of("10.96.0.22", 80), Some(Data::Endpoint(ip("10.244.1.1"), 8080)));
    let changes = agent.take(&claimant(2, "203.0.113.2"));
    assert_eq!(agent.endpoint_of("10.96.0.22", 80), Some(Data::Endpoint(ip("10.244.1.2"), 8080)));
    assert_eq!(changes.complaints.len(), 1);
}

#[test]
fn each_element_step_names_the_service_port_that_caused_it() {
    let mut agent = Agent::new();
    agent.take(&claimant(1, "203.0.113.1"));
    let changes = agent.take(&claimant(2, "203.0.113.2"));
    for (index, step) in changes.transaction.steps().iter().enumerate() {
        let owner = changes.transaction.owner(index).map(|owner| owner.to_string());
        let is_element = matches!(step, Step::AddElements(..) | Step::DeleteElements(..));
        assert_eq!(owner, is_element.then(|| "default/svc-2:http".to_owned()), "{step:?}");
    }
}

#[test]
fn clients_of_an_endpoint_that_leaves_are_let_go_and_no_others() {
    let service = Service {
        kind: ServiceKind::NodePort,
        cluster_ips: vec![ip("10.96.0.20")],
        ports: vec![port("http", Proto::Tcp, 80, 30000)],
        affinity_secs: Some(60),
        ..Service::default()
    };
    let pods = |numbers: &[u8]| {
        let list = numbers.iter().map(|number| endpoint(&format!("10.244.1.{number}"), "node-2")).collect();
        slice(&name(0), Family::V4, list)
    };
    let mut agent = Agent::new();
    assert_eq!(agent.take(&[Fact::Service(name(0), Some(service.clone())), pods(&[1, 2, 3])]).left, vec![]);
    assert_eq!(agent.take(&[pods(&[1, 2, 3, 4])]).left, vec![]);
    let left = agent.take(&[pods(&[2, 3, 4])]).left;
    let gone = Target { addr: ip("10.244.1.1"), port: 8080 };
    assert!(matches!(left.as_slice(), [(_, target)] if *target == gone), "{left:?}");
    let id = left[0].0;
    assert!(!agent.desired.binds(id, gone));
    assert!(agent.desired.binds(id, Target { addr: ip("10.244.1.2"), port: 8080 }));
    // Without affinity nobody is bound.
    let without = agent.take(&[Fact::Service(name(0), Some(Service { affinity_secs: None, ..service }))]);
    assert_eq!(without.left.len(), 3);
    assert!(!agent.kernel.dump().sets.keys().any(|name| name.starts_with("affinity")));
}

#[test]
fn dns_of_this_node_is_kept_out_of_conntrack_until_it_stops() {
    let snapshot = snapshot(&rich());
    for family in Family::BOTH {
        let mut desired = Desired::new(family, Options::default());
        assert!(desired.set_dns(DnsPath::ThisNode).is_empty(), "told before the first update");
        desired.update(&snapshot, &Delta::all(&snapshot));
        let options = Options { dns: DnsPath::ThisNode, ..Options::default() };
        assert_eq!(desired.table(), Desired::of(family, options, &snapshot).table());
        let notrack = |desired: &Desired| {
            let rules = desired.table().chains.into_values().flat_map(|chain| chain.rules);
            rules.filter(|rule| rule.statements.last() == Some(&Statement::NoTrack)).count()
        };
        assert_eq!(notrack(&desired), 2 * 2 * 2, "two ways, two protocols, two hooks");
        assert!(desired.set_dns(DnsPath::ThisNode).is_empty());
        let steps = desired.set_dns(DnsPath::Service);
        assert!(!steps.is_empty() && steps.transaction.element_count() == 0);
        assert_eq!(desired.table(), Desired::of(family, Options::default(), &snapshot).table());
    }
}

#[test]
fn chains_are_few_whatever_the_number_of_services() {
    let mut facts = whole();
    for index in 100..180 {
        let service = Service {
            cluster_ips: vec![ip(&format!("10.97.0.{index}"))],
            ports: vec![port("http", Proto::Tcp, 80, 0)],
            ..Service::default()
        };
        let pods = (0..index - 99).map(|pod| endpoint(&format!("10.244.9.{pod}"), "node-2")).collect();
        facts.extend([Fact::Service(name(index), Some(service)), slice(&name(index), Family::V4, pods)]);
    }
    let table =
        Desired::of(Family::V4, Options { dns: DnsPath::ThisNode, ..Options::default() }, &snapshot(&facts)).table();
    let doors = Door::ALL.map(Door::name);
    let counts = table.sets.keys().filter(|set| {
        let end = doors.iter().filter_map(|door| set.strip_prefix(door)?.strip_prefix('-'));
        end.into_iter().any(|end| end.split('-').all(|part| part.parse::<u32>().is_ok()))
    });
    let counts = counts.count();
    assert!(counts > 80, "{counts}");
    assert!(table.chains.len() <= 20 + counts, "{} chains, {counts} counts and groups", table.chains.len());
    let longest = table.chains.values().map(|chain| chain.rules.len()).max();
    assert!(longest <= Some(64), "a packet meets {longest:?} rules in one chain");
}

#[test]
fn a_new_zone_of_our_node_plans_every_service_again() {
    let near = |zone: &str, addr: &str| {
        let mut near = endpoint(addr, "node-2");
        near.zone_hints = vec![zone.into()];
        near
    };
    let mut agent = Agent::new();
    let mut facts = claimant(0, "203.0.113.1");
    facts.truncate(1);
    facts.extend([own_node(), slice(&name(0), Family::V4, vec![near("z1", "10.244.1.6"), near("z2", "10.244.1.7")])]);
    agent.take(&facts);
    assert_eq!(agent.endpoint_of("10.96.0.20", 80), Some(Data::Endpoint(ip("10.244.1.6"), 8080)));
    let Fact::Node(key, Some(mut node)) = own_node() else { unreachable!("own_node is a Node") };
    node.zone = Some("z2".into());
    agent.take(&[Fact::Node(key, Some(node))]);
    assert_eq!(agent.endpoint_of("10.96.0.20", 80), Some(Data::Endpoint(ip("10.244.1.7"), 8080)));
}

#[test]
fn who_was_sent_to_an_endpoint_is_not_refused_for_a_service_that_claims_its_address() {
    let mut facts = claimant(1, "203.0.113.1");
    facts.extend(claimant(2, "10.244.1.1").into_iter().take(1));
    let Some(Fact::Service(_, Some(unserved))) = facts.last_mut() else { unreachable!("it was put there") };
    unserved.ports = vec![port("http", Proto::Tcp, 8080, 0)];
    let snapshot = snapshot(&facts);
    let desired = Desired::of(Family::V4, Options::default(), &snapshot);
    let packet = Packet {
        src: ip("10.244.0.5"),
        dst: ip("10.96.0.21"),
        proto: Proto::Tcp,
        dport: 80,
        arrival: Arrival::by("veth1"),
    };
    let walk = |dst, dport| {
        chances(&walk(&desired.table(), &World::of(&snapshot, &desired), &Packet { dst, dport, ..packet }))
    };
    let sent = Outcome::Dnat { to: "10.244.1.1:8080".parse().expect("a literal address"), masquerade: false };
    assert_eq!(walk(packet.dst, 80), [(sent, 1.0)].into());
    assert_eq!(walk(ip("10.244.1.1"), 8080), [(Outcome::Reject, 1.0)].into());
}
