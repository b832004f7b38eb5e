//! Meaning: every rule and element says what it is there for, and whose it is.

use portolan_model::verdict::{Arrival, Packet};
use portolan_model::{Family, ObjectKind, ObjectRef, Proto, ProxySettings, Snapshot};
use proptest::prelude::*;

use crate::meaning::{Meaning, RuleTold};
use crate::nftables::in_place::{in_place, owner_of};
use crate::nftables::lang::{Field, Rule, Sign, Statement};
use crate::nftables::meaning::{told, told_way};
use crate::nftables::trace::{Tracer, Way, World};
use crate::nftables::{Desired, DnsPath, Options};
use crate::tests::any_world::{any_settings, any_whole_world};
use crate::tests::packets::packets;
use crate::tests::told::Told;
use crate::tests::world::{POD_LINK, all_settings, ip, name, net, snapshot_with, whole};

#[test]
fn every_rule_of_every_chain_has_a_meaning() {
    for (setting, proxy) in all_settings() {
        let snapshot = snapshot_with(&proxy, &whole());
        for family in Family::BOTH {
            let options = Options { dns: DnsPath::ThisNode, ..Options::default() };
            let desired = Desired::of(family, options, &snapshot);
            for (name, chain) in desired.table().chains {
                for rule in &chain.rules {
                    let told = told(&desired, &snapshot, &name, rule, None);
                    let fits = match told.meaning {
                        Meaning::Foreign => false,
                        Meaning::Plumbing => name.starts_with("remember"),
                        _ => true,
                    };
                    assert!(fits, "{setting}: {name}: {told:?}");
                }
            }
        }
    }
}

#[test]
fn every_element_of_every_set_is_in_place_for_its_service_or_pod() {
    for (setting, proxy) in all_settings() {
        let snapshot = snapshot_with(&proxy, &whole());
        for family in Family::BOTH {
            let desired = Desired::of(family, Options::default(), &snapshot);
            let services = snapshot.services.keys().map(|key| (ObjectKind::Service, key.clone()));
            let pods = snapshot.attachments.keys().map(|key| (ObjectKind::Pod, key.clone()));
            let node = portolan_model::NsName::new("", snapshot.settings.node.clone());
            let objects = services.chain(pods).chain([(ObjectKind::Node, node)]);
            let mut found: Vec<(String, String)> = Vec::new();
            for object in objects.map(|(kind, key)| ObjectRef { kind, key }) {
                for place in in_place(&desired, &snapshot, &object) {
                    assert!(place.told.objects.contains(&object), "{setting}: {object}: {place:?}");
                    assert!(!matches!(place.told.meaning, Meaning::Plumbing | Meaning::Foreign), "{place:?}");
                    found.push((place.name.to_string(), place.told.text.to_string()));
                }
            }
            found.sort();
            found.dedup();
            let count: usize = desired.table().sets.values().map(|set| set.elements.len()).sum();
            assert_eq!(found.len(), count, "{setting}: elements told, and those in the table");
        }
    }
}

/// The first packet of whose way something is told wrongly.
fn objection(snapshot: &Snapshot, desired: &Desired, packets: impl Iterator<Item = Packet>) -> Option<String> {
    let (table, world) = (desired.table(), World::of(snapshot, desired));
    let tracer = Tracer::new(&table, &world);
    let mut packets = packets.filter(|packet| packet.is_sent() || packet.src != packet.dst);
    packets.find_map(|packet| {
        tracer.walk(&packet).into_iter().find_map(|way| {
            let told = told_way((desired, &table), snapshot, &way, &packet, 40000);
            let told: Vec<RuleTold> = told.into_iter().filter_map(|(_, told)| told).collect();
            assert_eq!(told.len(), way.path.len());
            Told { snapshot, packet: &packet, outcome: way.outcome, rules: &told }.objection()
        })
    })
}

#[test]
fn the_rules_on_every_packets_way_tell_what_becomes_of_it_and_why() {
    for (turn, (setting, proxy)) in all_settings().into_iter().enumerate() {
        let snapshot = snapshot_with(&proxy, &whole());
        for family in Family::BOTH {
            let options = Options { dns: DnsPath::ThisNode, ..Options::default() };
            let desired = Desired::of(family, options, &snapshot);
            let some = packets(&snapshot, family).into_iter().skip(turn % 5).step_by(5);
            assert_eq!(objection(&snapshot, &desired, some), None, "{setting}");
        }
    }
}

#[test]
fn each_place_leads_back_to_its_objects_and_so_do_chains_sets_and_elements() {
    let snapshot = snapshot_with(&ProxySettings::default(), &whole());
    for family in Family::BOTH {
        let desired = Desired::of(family, Options::default(), &snapshot);
        let mut count = 0;
        for key in snapshot.services.keys() {
            let object = ObjectRef { kind: ObjectKind::Service, key: key.clone() };
            for place in in_place(&desired, &snapshot, &object) {
                let key = place.told.text.split(" comment ").next().expect("a key");
                for text in
                    [place.to_string(), format!("{} {}", place.name, place.told.text), format!("{} {key}", place.name)]
                {
                    let found = owner_of(&desired, &snapshot, &text);
                    assert!(found.contains(&place), "{text}: {found:?}");
                    let same = found.iter().all(|it| (&it.name, &it.told.text) == (&place.name, &place.told.text));
                    assert!(same, "{text}: {found:?}");
                }
                assert!(owner_of(&desired, &snapshot, key).contains(&place), "{key}");
                assert!(owner_of(&desired, &snapshot, &place.name).contains(&place), "{}", place.name);
                count += 1;
            }
        }
        assert!(count > 100, "{count} places");
        let word = if family == Family::V4 { "ip" } else { "ip6" };
        let svc_5 = ObjectRef { kind: ObjectKind::Service, key: name(5) };
        for text in ["pick-cluster-ips-3".to_owned(), format!("table {word} portolan pick-cluster-ips-3")] {
            let rules = owner_of(&desired, &snapshot, &text);
            assert_eq!(rules.iter().map(|rule| rule.number).collect::<Vec<_>>(), [Some(1), Some(2)]);
        }
        let three = owner_of(&desired, &snapshot, "services 5");
        assert_eq!(three.iter().map(|place| place.told.objects.clone()).collect::<Vec<_>>(), [vec![svc_5]]);
        for nothing in ["", "nobodys", "services 900", "services x", "endpoints 10.96.0.20 . tcp", "1.2.3.4 . tcp . 80"]
        {
            assert_eq!(owner_of(&desired, &snapshot, nothing), [], "{nothing}");
        }
    }
}

#[test]
fn what_another_hand_put_into_our_table_is_foreign() {
    let snapshot = snapshot_with(&ProxySettings::default(), &whole());
    let desired = Desired::of(Family::V4, Options::default(), &snapshot);
    let to = Statement::Net(Sign::Is, Field::Destination, net("10.96.0.20/32"));
    let rows = [
        ("services", vec![to.clone(), Statement::Accept]),
        ("services", vec![Statement::Goto("external".into())]),
        ("external", vec![to.clone(), Statement::MarkOr(0x4000)]),
        ("pick-cluster-ips-2", vec![Statement::Accept]),
        ("filter-forward", vec![Statement::Accept]),
        ("filter-forward", vec![to.clone(), Statement::Drop]),
        ("filter-input", vec![Statement::StateNew, Statement::Drop]),
        ("nat-postrouting", vec![Statement::Masquerade { fully_random: false }]),
        ("nat-prerouting", vec![Statement::Jump("theirs".into())]),
        ("firewall", vec![to, Statement::Return]),
        ("raw-output", vec![Statement::NoTrack]),
        ("remember", vec![Statement::Drop]),
        ("theirs", vec![Statement::MarkOr(0x4000)]),
    ];
    for (chain, statements) in rows {
        let told = told(&desired, &snapshot, chain, &Rule::new(statements), None);
        assert_eq!((told.meaning, told.objects), (Meaning::Foreign, vec![]), "{chain}: {}", told.text);
    }
}

#[test]
fn a_remembered_client_is_told_to_be_bound() {
    let snapshot = snapshot_with(&ProxySettings::default(), &whole());
    for (dst, dport, src) in [("10.96.0.22", 80, "10.244.0.77"), ("172.18.0.11", 30002, "10.244.0.77")] {
        let desired = Desired::of(Family::V4, Options::default(), &snapshot);
        let (table, world) = (desired.table(), World::of(&snapshot, &desired));
        let arrival = Arrival::by(POD_LINK);
        let client = Packet { src: ip(src), dst: ip(dst), proto: Proto::Tcp, dport, arrival };
        let tracer = Tracer::new(&table, &world);
        let sent = |way: &Way| -> Vec<(String, bool)> {
            let told = told_way((&desired, &table), &snapshot, way, &client, 40000).into_iter();
            let sent = told.filter_map(|(_, told)| match told?.meaning {
                Meaning::SendsTo { endpoint, bound, .. } => Some((endpoint.to_string(), bound)),
                _ => None,
            });
            sent.collect()
        };
        let ways = tracer.walk(&client);
        let first: Vec<_> = ways.iter().flat_map(sent).collect();
        assert_eq!(first, [("10.244.0.5:8080".to_owned(), false), ("10.244.1.6:8080".to_owned(), false)]);
        let clients = ways[1].remembered.iter().copied().collect();
        let again: Vec<_> = tracer.walk_of_clients(&client, &clients).iter().flat_map(sent).collect();
        assert_eq!(again, [("10.244.1.6:8080".to_owned(), true)]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_on_the_way_tell_it_rightly_in_any_world(
        facts in any_whole_world(),
        proxy in any_settings(),
        turn in 0..7usize,
    ) {
        let snapshot = snapshot_with(&proxy, &facts);
        for family in Family::BOTH {
            let desired = Desired::of(family, Options::default(), &snapshot);
            let some = packets(&snapshot, family).into_iter().skip(turn).step_by(7);
            prop_assert_eq!(objection(&snapshot, &desired, some), None, "{:?} {:?}", family, proxy);
        }
    }
}
