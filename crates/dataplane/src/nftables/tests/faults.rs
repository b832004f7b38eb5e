//! Planted faults: a table broken on purpose. The agreement test is worth something only if it finds each of them.

use portolan_model::{EndpointFact, ExternalPolicy, Fact, Family, Proto, Service, ServiceKind};

use super::agree::{disagreement, judged};
use crate::nftables::lang::{Data, Field, Key, Rule, Sign, Statement, Table};
use crate::nftables::{Desired, Options};
use crate::tests::world::{endpoint, ip, name, net, port, slice, snapshot, whole};

/// The whole world, and what else may go wrong: a balancer of policy Local with affinity; one that lets in the node's
/// network only; a ClusterIP with a port that is a node port with affinity; an external address without endpoints.
fn world() -> Vec<Fact> {
    let plain = |index: usize, port_number: u16| Service {
        cluster_ips: vec![ip(&format!("10.96.0.{}", 24 + index)), ip(&format!("fd00:10:96::{}", 24 + index))],
        ports: vec![port("http", Proto::Tcp, port_number, 0)],
        ..Service::default()
    };
    let local = Service {
        kind: ServiceKind::LoadBalancer,
        load_balancer_ips: vec![ip("198.51.100.16"), ip("2001:db8:f::16")],
        ports: vec![port("http", Proto::Tcp, 80, 30016)],
        external_policy: ExternalPolicy::Local,
        affinity_secs: Some(60),
        ..plain(16, 80)
    };
    let balancers = ["198.51.100.17", "198.51.100.18", "2001:db8:f::17", "2001:db8:f::18"];
    let guarded = Service {
        load_balancer_ips: balancers.map(ip).to_vec(),
        source_ranges: vec![net("172.18.0.0/24"), net("fd00:18::/64")],
        ..plain(17, 80)
    };
    let unserved = Service { external_ips: vec![ip("203.0.113.19"), ip("2001:db8:e::19")], ..plain(19, 80) };
    let mut facts = whole();
    for (index, service) in [(16, local), (17, guarded), (18, plain(18, 30010)), (19, unserved)] {
        facts.push(Fact::Service(name(index), Some(service)));
    }
    let all = [("10.244.0.5", "node-1"), ("10.244.0.77", "node-1"), ("10.244.1.6", "node-2")];
    let all = all.into_iter().chain([("fd00:10:244::5", "node-1"), ("fd00:10:244::4d", "node-1")]);
    let all: Vec<EndpointFact> =
        all.chain([("fd00:10:244:1::6", "node-2")]).map(|(addr, node)| endpoint(addr, node)).collect();
    for (index, family) in [16, 17, 18].into_iter().flat_map(|index| Family::BOTH.map(|family| (index, family))) {
        let own = all.iter().filter(|endpoint| Family::of(endpoint.addr) == family).cloned().collect();
        facts.push(slice(&name(index), family, own));
    }
    facts
}

/// Changes every rule that `is` picks; at least one must be there.
fn change(table: &mut Table, is: impl Fn(&str, &Rule) -> bool, how: impl Fn(&mut Rule)) {
    let mut found = 0;
    for (name, chain) in &mut table.chains {
        for rule in chain.rules.iter_mut().filter(|rule| is(name, rule)) {
            how(rule);
            found += 1;
        }
    }
    assert!(found > 0, "the fault found no rule to break");
}

fn take_away(table: &mut Table, is: impl Fn(&str, &Rule) -> bool) {
    let count = |table: &Table| table.chains.values().map(|chain| chain.rules.len()).sum::<usize>();
    let before = count(table);
    for (name, chain) in &mut table.chains {
        chain.rules.retain(|rule| !is(name, rule));
    }
    assert!(count(table) < before, "the fault found no rule to take away");
}

/// Takes a statement out of the rules that have it.
fn loosen(table: &mut Table, chain: &str, is: impl Fn(&Statement) -> bool) {
    let has = |name: &str, rule: &Rule| name == chain && rule.statements.iter().any(&is);
    change(table, has, |rule| rule.statements.retain(|statement| !is(statement)));
}

fn swap(table: &mut Table, from: Statement, to: Statement) {
    let has = |_: &str, rule: &Rule| rule.statements.contains(&from);
    change(table, has, |rule| rule.statements.iter_mut().filter(|s| **s == from).for_each(|s| *s = to.clone()));
}

fn empty(table: &mut Table, set: &str) {
    let set = table.sets.get_mut(set).expect("the set is there");
    assert!(!set.elements.is_empty(), "the fault found no element to take out");
    set.elements.clear();
}

/// The same for those of the sets that are there.
fn empty_all(table: &mut Table, sets: &[&str]) {
    let there: Vec<&str> = sets.iter().copied().filter(|set| table.sets.contains_key(*set)).collect();
    assert!(!there.is_empty(), "the fault found no set to empty");
    there.iter().for_each(|set| empty(table, set));
}

/// Turns the chain's rules upside down.
fn reverse(table: &mut Table, chain: &str) {
    let chain = table.chains.get_mut(chain).expect("the chain is there");
    assert!(chain.rules.len() > 1, "the fault found no order to turn");
    chain.rules.reverse();
}

fn modulus(table: &mut Table, from: u32, to: u32) {
    let random =
        |statement: &Statement| matches!(statement, Statement::DnatFrom(key, _) if key.contains(&Field::Random(from)));
    change(
        table,
        |_, rule| rule.statements.iter().any(random),
        |rule| {
            for statement in &mut rule.statements {
                if let Statement::DnatFrom(key, _) = statement {
                    key.iter_mut().filter(|field| **field == Field::Random(from)).for_each(|f| *f = Field::Random(to));
                }
            }
        },
    );
}

/// Changes the elements of a set.
fn rekey(table: &mut Table, set: &str, how: impl Fn(Key, Option<Data>) -> (Key, Option<Data>)) {
    let set = table.sets.get_mut(set).expect("the set is there");
    let old = std::mem::take(&mut set.elements);
    let new = old.iter().map(|(key, (data, comment))| {
        let (key, data) = how(*key, *data);
        (key, (data, comment.clone()))
    });
    set.elements = new.collect();
    assert_ne!(set.elements, old, "the fault found no element to change");
}

fn move_all(table: &mut Table, from: &str, to: &str) {
    let elements = std::mem::take(&mut table.sets.get_mut(from).expect("the set is there").elements);
    assert!(!elements.is_empty(), "the fault found no element to move");
    table.sets.get_mut(to).expect("the other set is there").elements.extend(elements);
}

fn says(rule: &Rule, comment: &str) -> bool {
    rule.comment.as_deref() == Some(comment)
}

fn marks(rule: &Rule) -> bool {
    rule.statements.iter().any(|statement| matches!(statement, Statement::MarkOr(_)))
}

fn from_pods(statement: &Statement) -> bool {
    matches!(statement, Statement::Net(Sign::Is, Field::Source, _))
}

type Fault = (&'static str, fn(&mut Table));

const FAULTS: [Fault; 37] = [
    ("REJECT becomes DROP", |t| swap(t, Statement::Reject, Statement::Drop)),
    ("DROP for want of local endpoints becomes REJECT", |t| move_all(t, "no-local-endpoints", "no-endpoints")),
    ("the same at node ports", |t| move_all(t, "node-ports-no-local-endpoints", "node-ports-no-endpoints")),
    ("nobody is refused for want of endpoints", |t| empty(t, "no-endpoints")),
    ("other ports of a ClusterIP are let pass", |t| empty(t, "cluster-ips")),
    ("addresses that no Service has are let pass", |t| take_away(t, |_, r| says(r, "an address that no Service has"))),
    ("external traffic is not marked", |t| take_away(t, |chain, rule| chain == "external" && marks(rule))),
    ("node port traffic is not marked", |t| take_away(t, |chain, rule| chain == "node-ports" && marks(rule))),
    ("the node's own external traffic is not marked", |t| {
        loosen(t, "external-local", |s| matches!(s, Statement::MarkOr(_)))
    }),
    ("ClusterIP traffic from outside is not marked", |t| {
        take_away(t, |chain, rule| chain.starts_with("pick-cluster-ips-") && marks(rule))
    }),
    ("pods are marked, others not", |t| {
        let flip = |rule: &mut Rule| {
            if let Some(Statement::Net(sign, ..)) = rule.statements.first_mut() {
                *sign = Sign::Is;
            }
        };
        change(t, |chain, rule| chain.starts_with("pick-cluster-ips-") && marks(rule), flip);
    }),
    ("clients with affinity are not marked at a ClusterIP", |t| {
        take_away(t, |chain, rule| chain == "services" && marks(rule))
    }),
    ("affinity before masquerade", |t| reverse(t, "node-ports")),
    ("affinity after the pick", |t| reverse(t, "external-local-to-cluster")),
    ("the mark is not honoured", |t| take_away(t, |_, rule| says(rule, "marked on the way in"))),
    ("hairpins are lost", |t| empty(t, "hairpin")),
    ("all pod traffic is masqueraded", |t| {
        loosen(t, "nat-postrouting", |s| matches!(s, Statement::Net(Sign::Not, Field::Destination, _)))
    }),
    ("a modulus one too high", |t| modulus(t, 2, 3)),
    ("a modulus one too low", |t| modulus(t, 3, 2)),
    ("a slot out of range", |t| {
        rekey(t, "endpoints", |key, data| match key {
            Key::DestSlot(addr, proto, port, 1) => (Key::DestSlot(addr, proto, port, 7), data),
            other => (other, data),
        })
    }),
    ("a destination counted wrong", |t| move_all(t, "cluster-ips-1", "cluster-ips-2")),
    ("an endpoint's port is the Service's", |t| {
        rekey(t, "node-port-endpoints", |key, data| match data {
            Some(Data::Endpoint(addr, _)) => (key, Some(Data::Endpoint(addr, 80))),
            other => (key, other),
        })
    }),
    ("pods take the local list", |t| take_away(t, |chain, rule| chain == "external-local" && says(rule, "from a pod"))),
    ("pods take the local list at node ports", |t| {
        take_away(t, |chain, rule| chain == "node-ports-local" && says(rule, "from a pod"))
    }),
    ("everybody takes the cluster list", |t| loosen(t, "external-local", from_pods)),
    ("source ranges are not enforced", |t| empty(t, "guarded")),
    ("nobody is within the source ranges", |t| empty_all(t, &["allowed-24", "allowed-64"])),
    ("balancers' own addresses are not let in", |t| empty_all(t, &["allowed-32", "allowed-128"])),
    ("the firewall looks after DNAT", |t| {
        for chain in t.chains.values_mut().filter_map(|chain| chain.base.as_mut()).filter(|base| base.priority == -110)
        {
            chain.priority = -90;
        }
    }),
    ("forwarded packets are not sent on", |t| take_away(t, |chain, _| chain == "nat-prerouting")),
    ("the node's own packets are not sent on", |t| take_away(t, |chain, _| chain == "nat-output")),
    ("node ports answer at any address", |t| {
        loosen(t, "services", |s| *s == Statement::Local(Sign::Is, Field::Destination))
    }),
    ("node ports answer on loopback", |t| {
        loosen(t, "services", |s| matches!(s, Statement::Net(Sign::Not, Field::Destination, _)))
    }),
    ("host ports are not asked", |t| empty(t, "host-ports")),
    ("clients are not remembered", |t| take_away(t, |chain, _| chain == "remember")),
    ("clients of one Service are another's", |t| rekey(t, "affinity-node-ports", |key, _| (key, Some(Data::Id(1))))),
    ("a ClusterIP's port is taken for a node port", |t| {
        take_away(t, |chain, rule| chain == "remember" && rule.statements.last() == Some(&Statement::Return))
    }),
];

#[test]
fn every_planted_fault_is_found_in_both_families() {
    let snapshot = snapshot(&world());
    let mut missed = Vec::new();
    for family in Family::BOTH {
        let desired = Desired::of(family, Options::default(), &snapshot);
        let judged = judged(&snapshot, family);
        assert_eq!(disagreement(&snapshot, &desired, &desired.table(), &judged), None, "without a fault");
        for (fault, plant) in FAULTS {
            let mut table = desired.table();
            plant(&mut table);
            if disagreement(&snapshot, &desired, &table, &judged).is_none() {
                missed.push((family, fault));
            }
        }
    }
    assert_eq!(missed, [], "nobody noticed these");
}
