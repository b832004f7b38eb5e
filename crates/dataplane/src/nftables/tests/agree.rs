//! Agreement: for every packet, what the table may do is what the oracle allows, and what it allows can happen, with the
//! same chance for every endpoint.

use portolan_model::verdict::{Allowed, Mode, Outcome, Packet, judge, judge_bound};
use portolan_model::{Family, Snapshot};
use proptest::prelude::*;

use crate::nftables::lang::Table;
use crate::nftables::trace::{World, chances, walk};
use crate::nftables::{Desired, DnsPath, Options};
use crate::tests::any_world::{any_settings, any_whole_world};
use crate::tests::packets::packets;
use crate::tests::world::{all_settings, rich, snapshot, snapshot_with, whole};

/// What the walk of one packet gets wrong, if anything.
fn disagreement(table: &Table, world: &World, packet: &Packet, allowed: &Allowed) -> Option<String> {
    let found = chances(&walk(table, world, packet));
    let only_endpoints = allowed.iter().all(|outcome| matches!(outcome, Outcome::Dnat { .. }));
    let forbidden = found.keys().find(|outcome| !allowed.contains(outcome));
    let share = 1.0 / allowed.len() as f64;
    let is_fair = |outcome| found.get(outcome).is_some_and(|chance| (chance - share).abs() < 1e-6);
    let unfair = allowed.iter().find(|outcome| only_endpoints && !is_fair(outcome));
    let sum: f64 = found.values().sum();
    let wrong = forbidden.is_some() || unfair.is_some() || (sum - 1.0).abs() > 1e-9;
    wrong.then(|| format!("{packet:?}: the table gives {found:?}, allowed {allowed:?}"))
}

/// A client that the kernel remembers must come to the endpoint it came to before, and to no other; where the Service asks
/// for affinity, it must be remembered.
fn forgotten(snapshot: &Snapshot, table: &Table, world: &World, packet: &Packet) -> Option<String> {
    for way in walk(table, world, packet) {
        let Outcome::Dnat { to, .. } = way.outcome else { continue };
        let bound = judge_bound(snapshot, packet, Mode::Nftables, to);
        let world = World { clients: way.remembered.into_iter().collect(), ..world.clone() };
        let again = chances(&walk(table, &world, packet));
        if again.keys().any(|outcome| !bound.contains(outcome)) {
            return Some(format!("{packet:?}: came to {to}, then to {again:?}, should to {bound:?}"));
        }
    }
    None
}

/// All disagreements over all packets of a world, found as they are asked for.
pub fn disagreements(snapshot: &Snapshot, desired: &Desired, table: &Table) -> impl Iterator<Item = String> {
    let world = World::of(snapshot, desired);
    // Nothing comes in from the address it goes to.
    let packets =
        packets(snapshot, desired.family()).into_iter().filter(|packet| packet.is_sent() || packet.src != packet.dst);
    packets.flat_map(move |packet| {
        let allowed = judge(snapshot, &packet, Mode::Nftables);
        let wrong = disagreement(table, &world, &packet, &allowed);
        wrong.or_else(|| forgotten(snapshot, table, &world, &packet))
    })
}

fn agree(snapshot: &Snapshot, family: Family, dns: DnsPath) -> Vec<String> {
    let desired = Desired::of(family, Options { dns, ..Options::default() }, snapshot);
    disagreements(snapshot, &desired, &desired.table()).collect()
}

#[test]
fn every_packet_of_the_rich_world_meets_what_the_oracle_allows() {
    let snapshot = snapshot(&rich());
    for family in Family::BOTH {
        assert_eq!(agree(&snapshot, family, DnsPath::ThisNode), Vec::<String>::new());
        assert_eq!(agree(&snapshot, family, DnsPath::Service), Vec::<String>::new());
    }
}

#[test]
fn every_packet_of_the_whole_world_meets_what_the_oracle_allows_under_every_setting() {
    for (setting, proxy) in all_settings() {
        let snapshot = snapshot_with(&proxy, &whole());
        for family in Family::BOTH {
            assert_eq!(agree(&snapshot, family, DnsPath::Service).first(), None, "{setting}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

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
            prop_assert!(found.is_empty(), "{family:?} {dns:?} {proxy:?}: {}", found[0]);
        }
    }
}
