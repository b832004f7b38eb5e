//! Agreement: for every packet, what the rules may do is what the oracle allows, and what it allows can happen, with the
//! same chance for every endpoint.

use portolan_model::verdict::{Allowed, Mode, Outcome, Packet, judge, judge_bound};
use portolan_model::{Family, Snapshot};
use proptest::prelude::*;

use crate::iptables::trace::{World, chances, walk};
use crate::iptables::{Desired, DnsPath, Options, RuleSet};
use crate::tests::any_world::{any_settings, any_whole_world};
use crate::tests::packets::{every_third, packets};
use crate::tests::world::{all_settings, rich, snapshot, snapshot_with, whole};

/// What the walk of one packet gets wrong, if anything.
fn disagreement(rules: &RuleSet, world: &World, packet: &Packet, allowed: &Allowed) -> Option<String> {
    let found = chances(&walk(rules, world, packet));
    let only_endpoints = allowed.iter().all(|outcome| matches!(outcome, Outcome::Dnat { .. }));
    let forbidden = found.keys().find(|outcome| !allowed.contains(outcome));
    let share = 1.0 / allowed.len() as f64;
    let is_fair = |outcome| found.get(outcome).is_some_and(|chance| (chance - share).abs() < 1e-6);
    let unfair = allowed.iter().find(|outcome| only_endpoints && !is_fair(outcome));
    let sum: f64 = found.values().sum();
    let wrong = forbidden.is_some() || unfair.is_some() || (sum - 1.0).abs() > 1e-9;
    wrong.then(|| format!("{packet:?}: rules give {found:?}, allowed {allowed:?}"))
}

/// Packets of clients that `recent` remembers must come to where the oracle binds them.
fn forgotten(snapshot: &Snapshot, rules: &RuleSet, world: &World, packet: &Packet) -> Option<String> {
    for way in walk(rules, world, packet) {
        let Outcome::Dnat { to, .. } = way.outcome else { continue };
        let steps = way.path.iter().rev();
        let Some(last) = steps.into_iter().find(|step| step.chain.name.starts_with("KUBE-SEP-")) else { continue };
        let remembers = rules[&last.chain][last.index].to_string().contains("--set");
        let world = World { remembered_by: Some(last.chain.name.clone()), ..world.clone() };
        let again = chances(&walk(rules, &world, packet));
        let bound = judge_bound(snapshot, packet, Mode::Iptables, to);
        if remembers && again.keys().any(|outcome| !bound.contains(outcome)) {
            return Some(format!("{packet:?}: remembered by {}, sent to {again:?}", last.chain.name));
        }
    }
    None
}

/// All disagreements over all packets of a world, found as they are asked for.
pub fn disagreements(snapshot: &Snapshot, desired: &Desired, rules: &RuleSet) -> impl Iterator<Item = String> {
    over(packets(snapshot, desired.family()), snapshot, desired, rules)
}

fn over(packets: Vec<Packet>, snapshot: &Snapshot, desired: &Desired, rules: &RuleSet) -> impl Iterator<Item = String> {
    let world = World::of(snapshot, desired);
    packets.into_iter().flat_map(move |packet| {
        let allowed = judge(snapshot, &packet, Mode::Iptables);
        let wrong = disagreement(rules, &world, &packet, &allowed);
        wrong.or_else(|| forgotten(snapshot, rules, &world, &packet))
    })
}

fn agree(snapshot: &Snapshot, family: Family, dns: DnsPath) -> Option<String> {
    let desired = Desired::of(family, Options { dns, ..Options::default() }, snapshot);
    disagreements(snapshot, &desired, &desired.with_hooks()).next()
}

#[test]
fn every_packet_of_the_rich_world_meets_what_the_oracle_allows() {
    let snapshot = snapshot(&rich());
    for family in Family::BOTH {
        assert_eq!(agree(&snapshot, family, DnsPath::ThisNode), None);
        assert_eq!(agree(&snapshot, family, DnsPath::Service), None);
    }
}

#[test]
fn every_packet_of_the_whole_world_meets_what_the_oracle_allows_under_each_setting() {
    for (turn, (setting, proxy)) in all_settings().into_iter().enumerate() {
        let snapshot = snapshot_with(&proxy, &whole());
        for family in Family::BOTH {
            let options = Options { dns: DnsPath::ThisNode, ..Options::default() };
            let desired = Desired::of(family, options, &snapshot);
            let packets = every_third(&snapshot, family, turn);
            assert_eq!(over(packets, &snapshot, &desired, &desired.with_hooks()).next(), None, "{setting}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_packet_of_any_world_meets_what_the_oracle_allows(
        facts in any_whole_world(),
        proxy in any_settings(),
        ours in any::<bool>(),
        turn in 0..3usize,
    ) {
        let snapshot = snapshot_with(&proxy, &facts);
        let dns = if ours { DnsPath::ThisNode } else { DnsPath::Service };
        for family in Family::BOTH {
            let desired = Desired::of(family, Options { dns, ..Options::default() }, &snapshot);
            let packets = every_third(&snapshot, family, turn);
            let found = over(packets, &snapshot, &desired, &desired.with_hooks()).next();
            prop_assert!(found.is_none(), "{family:?} {dns:?} {proxy:?}: {}", found.unwrap_or_default());
        }
    }
}
