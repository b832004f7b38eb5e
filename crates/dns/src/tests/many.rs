//! A Service of many endpoints: what changes one by one is found as if it had been taken from scratch, by every name.

use portolan_model::{EndpointFact, Fact, Facts, NsName, Service, ServiceKind, Snapshot, resolve};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{Seen, asked, at, config, name, namespace, service, settings, slice};
use crate::Records;
use crate::records::Found;

/// Endpoints that may be there: over the number from which on hostnames have an index, under several pieces.
const MOST: u8 = 200;

/// The `n`-th endpoint: every second one has a hostname, some of them share one in different cases.
fn endpoint(n: u8) -> EndpointFact {
    let hostname = match n % 4 {
        0 => None,
        1 => Some(format!("p-{n}")),
        2 => Some(format!("P-{}", n - 1)),
        _ => Some(format!("shared-{}", n / 40)),
    };
    EndpointFact { hostname: hostname.map(Into::into), ..at(&format!("10.244.1.{n}")) }
}

fn facts(there: &[bool]) -> Vec<Fact> {
    let endpoints = (0..MOST).filter(|n| there[usize::from(*n)]).map(endpoint).collect();
    vec![slice("big", "a", &[("db", 5432)], endpoints)]
}

fn labels(n: u8) -> Vec<String> {
    let hostname = endpoint(n).hostname.map(|text| text.to_string());
    [Some(format!("10-244-1-{n}")), hostname].into_iter().flatten().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn endpoints_that_come_and_go_leave_what_scratch_would_hold(
        first in vec(any::<bool>(), usize::from(MOST)),
        batches in vec(vec(0..MOST, 1..12), 1..12),
    ) {
        let mut there = first;
        let mut all = Facts::default();
        let base = [namespace("default"), service("big", ServiceKind::Headless, &[], &[])];
        let touched = all.apply_all(base.into_iter().chain(facts(&there)));
        let (mut snapshot, delta) = resolve(&all, &Snapshot::empty(settings()), &touched);
        let mut records = Records::new(config());
        records.update(&snapshot, &delta);
        records.mark_synced();
        for batch in batches {
            for n in batch {
                there[usize::from(n)] ^= true;
            }
            let touched = all.apply_all(facts(&there));
            let (after, delta) = resolve(&all, &snapshot, &touched);
            records.update(&after, &delta);
            snapshot = after;
        }
        let scratch = Records::from_snapshot(config(), &snapshot);
        prop_assert_eq!(records.dump(), scratch.dump());
        let listing = scratch.listing();
        for label in (0..MOST).flat_map(labels) {
            let owner = name(&format!("{label}.big.default.svc.cluster.local"));
            let listed = listing.node(owner.key().as_bytes());
            let seen = asked(&records, &owner.to_string(), "A");
            let addresses = listed.and_then(|node| node.set(crate::Rtype::A)).map_or(0, |set| set.data.len());
            prop_assert_eq!(seen.answers.len(), addresses, "{} {:?}", label, seen);
            if label.ends_with('7') {
                prop_assert_eq!(records.find(&owner) == Found::Nothing, listed.is_none(), "{}", label);
            }
        }
        for text in ["big.default.svc.cluster.local", "_db._tcp.big.default.svc.cluster.local"] {
            for rtype in ["A", "SRV"] {
                prop_assert_eq!(asked(&records, text, rtype), asked(&scratch, text, rtype));
            }
        }
    }
}

#[test]
fn a_service_that_moves_from_one_slice_to_another_is_never_gone_in_between() {
    let mut all = Facts::default();
    let ready = vec![at("10.244.1.1"), at("10.244.1.2")];
    all.apply_all([namespace("default"), service("big", ServiceKind::Headless, &[], &[])]);
    all.apply(slice("big", "a", &[("db", 5432)], ready.clone()));
    let (before, _) = resolve(&all, &Snapshot::empty(settings()), &all.all());
    let mut records = Records::from_snapshot(config(), &before);
    let held = records.clone();
    // Both slices change in one batch, as they are told together.
    let gone = Fact::Slice(NsName::new("default", "big-a"), None);
    let touched = all.apply_all([gone, slice("big", "b", &[("db", 5432)], ready)]);
    let (after, delta) = resolve(&all, &before, &touched);
    let changes = records.update(&after, &delta);
    assert!(changes.is_empty(), "the same endpoints in another slice are no change: {changes:?}");
    for records in [&held, &records] {
        let seen: Seen = asked(records, "big.default.svc.cluster.local", "A");
        assert_eq!(seen.answers.len(), 2);
    }
}

#[test]
fn a_service_that_is_replaced_by_another_of_its_name_leaves_nothing_behind() {
    let mut all = Facts::default();
    all.apply_all([namespace("default"), service("big", ServiceKind::ClusterIp, &["10.96.0.20"], &[])]);
    all.apply(slice("big", "a", &[], vec![at("10.244.1.1")]));
    let (mut snapshot, _) = resolve(&all, &Snapshot::empty(settings()), &all.all());
    let mut records = Records::from_snapshot(config(), &snapshot);
    let external = Service { kind: ServiceKind::ExternalName("example.com".into()), ..Service::default() };
    for spec in [Some(external), None] {
        let touched = all.apply(Fact::Service(NsName::new("default", "big"), spec));
        let (after, delta) = resolve(&all, &snapshot, &touched);
        records.update(&after, &delta);
        snapshot = after;
        assert_eq!(records.dump(), Records::from_snapshot(config(), &snapshot).dump());
        assert!(!records.dump().contains("PTR"), "{}", records.dump());
    }
    assert_eq!(records.len(), 0);
}
