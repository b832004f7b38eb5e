//! Meaning: every rule says what it is there for, and whose it is.

use portolan_model::verdict::Packet;
use portolan_model::{Family, Snapshot};
use proptest::prelude::*;

use crate::iptables::meaning::{told, told_line, told_way};
use crate::iptables::trace::{World, walk};
use crate::iptables::{Desired, DnsPath, Options, names, saved};
use crate::meaning::{Meaning, RuleTold};
use crate::tests::any_world::{any_settings, any_whole_world};
use crate::tests::packets::packets;
use crate::tests::told::Told;
use crate::tests::world::{all_settings, snapshot_with, whole};

/// Rules of ours that no packet's way depends on: they unset the mark, or only count what falls through.
fn is_plumbing(chain: &str, text: &str) -> bool {
    (chain == names::POSTROUTING && text == "-j MARK --set-xmark 0x4000/0x0")
        || text.starts_with("-m comment --comment \"other traffic to ")
}

/// Rules whose meaning is a fallback, and lines that are not told as they were said.
fn wrongly_told(desired: &Desired, snapshot: &Snapshot) -> Vec<String> {
    let mut wrong = Vec::new();
    for (chain, rules) in desired.with_hooks() {
        assert_eq!(desired.rules(&chain).as_ref(), Some(&rules), "{}", chain.name);
        for rule in &rules {
            let told = told(desired, snapshot, &chain, rule, None);
            let fits = match told.meaning {
                Meaning::Foreign => false,
                Meaning::Plumbing => is_plumbing(&chain.name, &told.text),
                _ => true,
            };
            let line = format!("-A {} {}", chain.name, saved::line(desired.family(), rule));
            let again = told_line(desired, snapshot, chain.table, &line, None);
            if !fits || again != Some((chain.clone(), told.clone())) {
                wrong.push(format!("{line}\n  told {told:?}\n  from its line {again:?}"));
            }
        }
    }
    wrong
}

#[test]
fn every_rule_of_every_chain_has_a_meaning_and_is_told_the_same_from_the_kernels_line() {
    for (setting, proxy) in all_settings() {
        let snapshot = snapshot_with(&proxy, &whole());
        for family in Family::BOTH {
            let options = Options { dns: DnsPath::ThisNode, ..Options::default() };
            let desired = Desired::of(family, options.clone(), &snapshot);
            assert_eq!(wrongly_told(&desired, &snapshot).join("\n"), "", "{setting}");
            let bare = Desired::of(family, Options { comment_limit: 0, ..options }, &snapshot);
            assert_eq!(wrongly_told(&bare, &snapshot).join("\n"), "", "{setting}, without comments of endpoints");
        }
    }
}

/// The first packet of whose way something is told wrongly.
fn objection(snapshot: &Snapshot, desired: &Desired, mut packets: impl Iterator<Item = Packet>) -> Option<String> {
    let (rules, world) = (desired.with_hooks(), World::of(snapshot, desired));
    packets.find_map(|packet| {
        walk(&rules, &world, &packet).into_iter().find_map(|way| {
            let told = told_way((desired, &rules), snapshot, &way, &packet, 40000);
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
        limit in prop::sample::select(vec![0, 1000]),
        turn in 0..7usize,
    ) {
        let snapshot = snapshot_with(&proxy, &facts);
        for family in Family::BOTH {
            let options = Options { comment_limit: limit, ..Options::default() };
            let desired = Desired::of(family, options, &snapshot);
            prop_assert_eq!(wrongly_told(&desired, &snapshot).join("\n"), "");
            let some = packets(&snapshot, family).into_iter().skip(turn).step_by(7);
            prop_assert_eq!(objection(&snapshot, &desired, some), None, "{:?} {:?}", family, proxy);
        }
    }
}
