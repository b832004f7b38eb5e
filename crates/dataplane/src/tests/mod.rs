//! What the tests of both backends share, and what must hold of it.

pub(crate) mod any_world;
pub(crate) mod history;
pub(crate) mod packets;
pub(crate) mod told;
pub(crate) mod world;

use std::collections::BTreeSet;

use portolan_model::Family;
use portolan_model::verdict::{Mode, Outcome, judge};
use proptest::prelude::*;

use any_world::{any_settings, any_whole_world};
use packets::packets;
use world::{all_settings, snapshot_with, whole};

/// Worlds in which everything came out the same would prove nothing.
#[test]
fn the_whole_world_knows_every_outcome_in_both_modes_and_families() {
    for mode in [Mode::Iptables, Mode::Nftables] {
        for family in Family::BOTH {
            let mut seen = BTreeSet::new();
            for (_, proxy) in all_settings() {
                let snapshot = snapshot_with(&proxy, &whole());
                let outcomes = packets(&snapshot, family).into_iter().step_by(7);
                seen.extend(outcomes.flat_map(|packet| judge(&snapshot, &packet, mode)).map(|outcome| match outcome {
                    Outcome::Dnat { masquerade, .. } => (0, masquerade),
                    Outcome::Untouched { masquerade } => (1, masquerade),
                    Outcome::Reject => (2, false),
                    Outcome::Drop => (3, false),
                }));
            }
            assert_eq!(seen.len(), 6, "{mode:?} {family:?} {seen:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_packet_of_any_world_has_an_outcome(facts in any_whole_world(), proxy in any_settings()) {
        let snapshot = snapshot_with(&proxy, &facts);
        for packet in Family::BOTH.into_iter().flat_map(|family| packets(&snapshot, family)).step_by(11) {
            prop_assert!(!judge(&snapshot, &packet, Mode::Iptables).is_empty());
            prop_assert!(!judge(&snapshot, &packet, Mode::Nftables).is_empty());
        }
    }
}
