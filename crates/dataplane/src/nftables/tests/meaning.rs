//! Meaning: every rule and element says what it is there for, and whose it is.

use portolan_model::verdict::Packet;
use portolan_model::{Family, ObjectKind, ObjectRef, Snapshot};
use proptest::prelude::*;

use crate::meaning::{Meaning, RuleTold};
use crate::nftables::in_place::in_place;
use crate::nftables::meaning::{told, told_way};
use crate::nftables::trace::{Tracer, World};
use crate::nftables::{Desired, DnsPath, Options};
use crate::tests::any_world::{any_settings, any_whole_world};
use crate::tests::packets::packets;
use crate::tests::told::Told;
use crate::tests::world::{all_settings, snapshot_with, whole};

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
