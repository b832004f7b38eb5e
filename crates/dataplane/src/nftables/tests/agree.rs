//! Agreement: for every packet, what the table may do is what the oracle allows, and what it allows can happen, with the
//! same chance for every endpoint.

use portolan_model::verdict::{Allowed, Mode, Outcome, Packet, judge, judge_bound};
use portolan_model::{Family, Snapshot};
use proptest::prelude::*;

use crate::nftables::lang::Table;
use crate::nftables::trace::{Tracer, World, chances};
use crate::nftables::{Desired, DnsPath, Options};
use crate::tests::any_world::{any_settings, any_whole_world};
use crate::tests::packets::packets;
use crate::tests::world::{all_settings, rich, snapshot, snapshot_with, whole};

/// What the walk of one packet gets wrong, if anything.
fn wrong(tracer: &Tracer<'_>, packet: &Packet, allowed: &Allowed) -> Option<String> {
    let found = chances(&tracer.walk(packet));
    let forbidden = found.keys().find(|outcome| !allowed.contains(outcome));
    let share = 1.0 / allowed.len() as f64;
    let is_fair = |outcome| found.get(outcome).is_some_and(|chance| (chance - share).abs() < 1e-6);
    let unfair = allowed.iter().find(|outcome| only_endpoints(allowed) && !is_fair(outcome));
    let sum: f64 = found.values().sum();
    let wrong = forbidden.is_some() || unfair.is_some() || (sum - 1.0).abs() > 1e-9;
    wrong.then(|| format!("{packet:?}: the table gives {found:?}, allowed {allowed:?}"))
}

fn only_endpoints(allowed: &Allowed) -> bool {
    allowed.iter().all(|outcome| matches!(outcome, Outcome::Dnat { .. }))
}

/// A client that the kernel remembers must come to the endpoint it came to before, and to no other; where the Service asks
/// for affinity, it must be remembered.
fn forgotten(snapshot: &Snapshot, tracer: &Tracer<'_>, packet: &Packet, allowed: &Allowed) -> Option<String> {
    for way in tracer.walk(packet) {
        if way.remembered.is_empty() && allowed.len() == 1 {
            continue;
        }
        let Outcome::Dnat { to, .. } = way.outcome else { continue };
        let bound = judge_bound(snapshot, packet, Mode::Nftables, to);
        let is_free = bound == *allowed && only_endpoints(allowed) && allowed.len() > 1;
        if is_free && !way.remembered.is_empty() {
            return Some(format!("{packet:?}: remembered as {:?}, and nobody asked for it", way.remembered));
        }
        let clients = way.remembered.into_iter().collect();
        let again = chances(&tracer.walk_of_clients(packet, &clients));
        if again.keys().any(|outcome| !bound.contains(outcome)) {
            return Some(format!("{packet:?}: came to {to}, then to {again:?}, should to {bound:?}"));
        }
    }
    None
}

/// Every packet of a world with what the oracle allows it. Nothing comes in from the address it goes to.
pub fn judged(snapshot: &Snapshot, family: Family) -> Vec<(Packet, Allowed)> {
    let all = packets(snapshot, family).into_iter().filter(|packet| packet.is_sent() || packet.src != packet.dst);
    all.map(|packet| (packet, judge(snapshot, &packet, Mode::Nftables))).collect()
}

/// What is wrong with the first of these packets that meets something wrong.
pub fn disagreement(
    snapshot: &Snapshot,
    desired: &Desired,
    table: &Table,
    judged: &[(Packet, Allowed)],
) -> Option<String> {
    let world = World::of(snapshot, desired);
    let tracer = Tracer::new(table, &world);
    judged.iter().find_map(|(packet, allowed)| {
        wrong(&tracer, packet, allowed).or_else(|| forgotten(snapshot, &tracer, packet, allowed))
    })
}

fn agree(snapshot: &Snapshot, family: Family, dns: DnsPath) -> Option<String> {
    let desired = Desired::of(family, Options { dns, ..Options::default() }, snapshot);
    disagreement(snapshot, &desired, &desired.table(), &judged(snapshot, family))
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
fn every_packet_of_the_whole_world_meets_what_the_oracle_allows_under_every_setting() {
    // Each setting is asked about every fifth packet, another fifth each time.
    for (turn, (setting, proxy)) in all_settings().into_iter().enumerate() {
        let snapshot = snapshot_with(&proxy, &whole());
        for family in Family::BOTH {
            let desired = Desired::of(family, Options::default(), &snapshot);
            let some: Vec<(Packet, Allowed)> =
                judged(&snapshot, family).into_iter().skip(turn % 5).step_by(5).collect();
            let found = disagreement(&snapshot, &desired, &desired.table(), &some);
            assert_eq!(found, None, "{setting}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_packet_of_any_world_meets_what_the_oracle_allows(
        facts in any_whole_world(),
        proxy in any_settings(),
        ours in any::<bool>(),
    ) {
        let snapshot = snapshot_with(&proxy, &facts);
        let dns = if ours { DnsPath::ThisNode } else { DnsPath::Service };
        for family in Family::BOTH {
            let found = agree(&snapshot, family, dns);
            prop_assert_eq!(found, None, "{:?} {:?} {:?}", family, dns, proxy);
        }
    }
}
