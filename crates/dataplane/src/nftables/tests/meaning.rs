//! Meaning: every rule and element says what it is there for, and whose it is.

use portolan_model::{Family, ObjectKind, ObjectRef};

use crate::meaning::Meaning;
use crate::nftables::in_place::in_place;
use crate::nftables::meaning::told;
use crate::nftables::{Desired, DnsPath, Options};
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
