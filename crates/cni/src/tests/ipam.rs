use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use portolan_model::Family;
use proptest::prelude::*;

use crate::ipam::{Handle, IpamError, Ledger, LedgerError, Timestamp};

fn net(text: &str) -> IpNet {
    text.parse().expect("tests write prefixes right")
}

fn addrs(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("tests write addresses right")).collect()
}

fn handle(i: u8) -> Handle {
    Handle::new("default", &format!("web-{i}"), &format!("uid-{i}"))
}

fn ledger(blocks: &[&str]) -> Ledger {
    let mut ledger = Ledger::default();
    ledger.set_blocks(&blocks.iter().map(|block| net(block)).collect::<Vec<_>>());
    ledger
}

fn assign(ledger: &mut Ledger, i: u8, now: u64) -> Vec<IpAddr> {
    ledger.assign(&handle(i), &[Family::V4], Timestamp(now)).expect("an address is free")
}

#[test]
fn a_pod_gets_one_address_of_each_family_and_keeps_it() {
    let mut ledger = ledger(&["10.244.1.0/26", "fd00:10:244:1::/122"]);
    let both = Family::BOTH;
    let first = ledger.assign(&handle(1), &both, Timestamp(0)).expect("the block is empty");
    assert_eq!(first, addrs(&["10.244.1.1", "fd00:10:244:1::1"]));
    let before = ledger.clone();
    assert_eq!(ledger.assign(&handle(1), &both, Timestamp(99)), Ok(first));
    assert_eq!(ledger, before, "asking again changes nothing");
    assert_eq!(ledger.assign(&handle(2), &both, Timestamp(0)), Ok(addrs(&["10.244.1.2", "fd00:10:244:1::2"])));
}

#[test]
fn a_pod_recreated_under_its_name_is_another_holder() {
    let mut ledger = ledger(&["10.244.1.0/26"]);
    let (old, new) = (Handle::new("default", "db-0", "a"), Handle::new("default", "db-0", "b"));
    let one = ledger.assign(&old, &[Family::V4], Timestamp(0)).expect("free");
    let two = ledger.assign(&new, &[Family::V4], Timestamp(0)).expect("free");
    assert_ne!(one, two);
    ledger.release(&old, Timestamp(0));
    assert_eq!(ledger.addresses_of(&new), two);
}

#[test]
fn all_64_addresses_are_lent_and_the_first_one_last() {
    let mut ledger = ledger(&["10.244.1.64/26"]);
    let lent: Vec<IpAddr> = (0..64).flat_map(|i| assign(&mut ledger, i, 0)).collect();
    assert_eq!(lent.iter().collect::<BTreeSet<_>>().len(), 64);
    assert_eq!(lent.first().copied(), Some(addrs(&["10.244.1.65"])[0]));
    assert_eq!(lent.last().copied(), Some(addrs(&["10.244.1.64"])[0]));
    let error = ledger.assign(&handle(64), &[Family::V4], Timestamp(0)).expect_err("nothing is left");
    let expected = "cannot give a pod an IPv4 address: all 64 addresses of 10.244.1.64/26 are lent; \
                    delete pods on this node or move them to another node";
    assert_eq!(error.to_string(), expected);
    assert_eq!(assign(&mut ledger, 7, 0), [lent[7]], "who has one still gets it");
}

#[test]
fn a_further_block_is_used_when_the_first_is_full() {
    let mut ledger = ledger(&["10.244.1.0/31"]);
    assign(&mut ledger, 0, 0);
    assign(&mut ledger, 1, 0);
    ledger.set_blocks(&[net("10.244.1.0/31"), net("10.244.9.0/26")]);
    assert_eq!(assign(&mut ledger, 2, 0), addrs(&["10.244.9.1"]));
}

#[test]
fn a_freed_address_rests_its_time_and_is_then_the_lowest_again() {
    let mut ledger = ledger(&["10.244.1.0/26"]);
    assign(&mut ledger, 1, 0);
    assert_eq!(ledger.release(&handle(1), Timestamp(100)), addrs(&["10.244.1.1"]));
    assert_eq!(assign(&mut ledger, 2, 129), addrs(&["10.244.1.2"]));
    assert_eq!(assign(&mut ledger, 3, 130), addrs(&["10.244.1.1"]));
    assert!(ledger.cooling().is_empty());
}

#[test]
fn with_nothing_else_free_the_longest_rested_address_is_lent_early() {
    let mut ledger = ledger(&["10.244.1.0/30"]);
    for i in 0..4 {
        assign(&mut ledger, i, 0);
    }
    ledger.release(&handle(2), Timestamp(10));
    ledger.release(&handle(0), Timestamp(11));
    assert_eq!(assign(&mut ledger, 8, 12), addrs(&["10.244.1.3"]));
    assert_eq!(assign(&mut ledger, 9, 12), addrs(&["10.244.1.1"]));
}

#[test]
fn a_clock_that_was_set_back_keeps_no_address_away() {
    let mut ledger = ledger(&["10.244.1.0/26"]);
    assign(&mut ledger, 1, 5000);
    ledger.release(&handle(1), Timestamp(5000));
    assert_eq!(assign(&mut ledger, 2, 10), addrs(&["10.244.1.1"]));
}

#[test]
fn an_error_in_one_family_lends_nothing_of_the_other() {
    let mut ledger = ledger(&["10.244.1.0/26"]);
    let before = ledger.clone();
    let result = ledger.assign(&handle(1), &Family::BOTH, Timestamp(0));
    assert_eq!(result, Err(IpamError::NoBlock { family: Family::V6 }));
    assert_eq!(ledger, before);
}

#[test]
fn a_changed_block_leaves_leases_alone_and_names_them() {
    let mut ledger = ledger(&["10.244.1.0/26"]);
    assign(&mut ledger, 1, 0);
    assign(&mut ledger, 2, 0);
    ledger.release(&handle(2), Timestamp(0));
    let stray = ledger.set_blocks(&[net("10.244.7.5/26")]);
    assert_eq!(stray.iter().map(|(address, _)| *address).collect::<Vec<_>>(), addrs(&["10.244.1.1"]));
    assert!(ledger.cooling().is_empty(), "what left with its block is not ours to lend");
    assert_eq!(assign(&mut ledger, 3, 0), addrs(&["10.244.7.1"]));
    ledger.release(&handle(1), Timestamp(0));
    assert!(ledger.cooling().is_empty());
}

#[test]
fn reclaim_takes_back_what_no_living_pod_holds() {
    let mut ledger = ledger(&["10.244.1.0/26"]);
    (1..=3).for_each(|i| drop(assign(&mut ledger, i, 0)));
    let freed = ledger.reclaim(&[handle(2), handle(9)].into(), Timestamp(5));
    let expected: Vec<_> = addrs(&["10.244.1.1", "10.244.1.3"]).into_iter().zip([handle(1), handle(3)]).collect();
    assert_eq!(freed, expected);
    assert_eq!(ledger.leases().len(), 1);
}

#[test]
fn the_written_form_is_read_back_and_stays_as_it_is() {
    let mut ledger = ledger(&["10.244.1.0/26", "fd00::/122"]);
    ledger.assign(&handle(1), &Family::BOTH, Timestamp(7)).expect("free");
    assign(&mut ledger, 2, 8);
    ledger.release(&handle(2), Timestamp(9));
    let expected = r#"{
  "version": 1,
  "coolDownSecs": 30,
  "blocks": [
    "10.244.1.0/26",
    "fd00::/122"
  ],
  "leases": {
    "10.244.1.1": {
      "handle": {
        "pod": {
          "namespace": "default",
          "name": "web-1"
        },
        "uid": "uid-1"
      },
      "since": 7
    },
    "fd00::1": {
      "handle": {
        "pod": {
          "namespace": "default",
          "name": "web-1"
        },
        "uid": "uid-1"
      },
      "since": 7
    }
  },
  "cooling": {
    "10.244.1.2": 9
  }
}"#;
    assert_eq!(ledger.to_json(), expected);
    assert_eq!(Ledger::from_json(expected).expect("our own form"), ledger);
}

#[test]
fn one_pod_changes_one_entry_per_family_however_many_are_there() {
    let mut ledger = ledger(&["10.244.1.0/26", "fd00::/122"]);
    for i in 0..50 {
        ledger.assign(&handle(i), &Family::BOTH, Timestamp(0)).expect("free");
    }
    let before: BTreeSet<String> = ledger.to_json().lines().map(str::to_owned).collect();
    ledger.assign(&handle(50), &Family::BOTH, Timestamp(0)).expect("free");
    let new: Vec<String> = ledger.to_json().lines().filter(|line| !before.contains(*line)).map(str::to_owned).collect();
    // Two addresses; the pod's name and UID in both.
    assert_eq!(new.len(), 2 + 2 + 2, "{new:?}");
    let usage = ledger.usage();
    assert_eq!((usage[0].leased, usage[0].size, usage[1].leased, usage[1].cooling), (51, 64, 51, 0));
    ledger.release(&handle(3), Timestamp(1));
    assert_eq!((ledger.usage()[1].leased, ledger.usage()[1].cooling), (50, 1));
}

#[test]
fn a_ledger_of_another_version_or_that_contradicts_itself_is_refused() {
    let of_v2 = r#"{"version": 2, "somethingNew": true}"#;
    assert!(matches!(Ledger::from_json(of_v2), Err(LedgerError::Version { found: 2 })));
    assert!(matches!(Ledger::from_json("{"), Err(LedgerError::Parse(_))));
    let mut ledger = ledger(&["10.244.1.0/26"]);
    assign(&mut ledger, 1, 0);
    let broken = ledger.to_json().replace("\"cooling\": {}", "\"cooling\": {\"10.244.1.1\": 3}");
    assert!(matches!(Ledger::from_json(&broken), Err(LedgerError::LentAndFree { .. })));
}

#[derive(Clone, Debug)]
enum Op {
    Assign(u8),
    Release(u8),
    Reclaim(Vec<u8>),
    Wait(u64),
    Restart,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let one = prop_oneof![
        6 => (0..12_u8).prop_map(Op::Assign),
        4 => (0..12_u8).prop_map(Op::Release),
        1 => proptest::collection::vec(0..12_u8, 0..12).prop_map(Op::Reclaim),
        2 => (0..40_u64).prop_map(Op::Wait),
        2 => Just(Op::Restart),
    ];
    proptest::collection::vec(one, 0..80)
}

/// Runs `ops` on a ledger of 8 and 16 addresses for 12 pods; `restarts` says whether `Restart` writes and reads.
fn play(ops: &[Op], restarts: bool, times: usize) -> Ledger {
    let mut ledger = ledger(&["10.244.1.0/29", "fd00::/124"]);
    let mut now = 1000;
    for op in ops {
        for _ in 0..times {
            match op {
                Op::Assign(i) => drop(ledger.assign(&handle(*i), &Family::BOTH, Timestamp(now))),
                Op::Release(i) => drop(ledger.release(&handle(*i), Timestamp(now))),
                Op::Reclaim(live) => drop(ledger.reclaim(&live.iter().map(|i| handle(*i)).collect(), Timestamp(now))),
                Op::Restart if restarts => ledger = Ledger::from_json(&ledger.to_json()).expect("our own form"),
                Op::Restart | Op::Wait(_) => {}
            }
        }
        if let Op::Wait(secs) = op {
            now += secs;
        }
    }
    ledger
}

proptest! {
    /// The ledger against the plainest model of it: who asked and was not released holds one address per family, nobody
    /// else's.
    #[test]
    fn no_address_is_ever_lent_twice(ops in ops()) {
        let mut ledger = ledger(&["10.244.1.0/29", "fd00::/124"]);
        let mut model: BTreeMap<Handle, Vec<IpAddr>> = BTreeMap::new();
        let mut now = 1000;
        for op in &ops {
            match op {
                Op::Assign(i) => match ledger.assign(&handle(*i), &Family::BOTH, Timestamp(now)) {
                    Ok(got) => {
                        let others = model.iter().filter(|(who, _)| **who != handle(*i)).flat_map(|(_, held)| held);
                        prop_assert!(others.clone().all(|held| !got.contains(held)), "lent twice: {:?}", got);
                        let held = model.entry(handle(*i)).or_insert_with(|| got.clone());
                        prop_assert_eq!(held, &got);
                    }
                    Err(_) => prop_assert_eq!(model.len(), 8, "refused while addresses are left"),
                },
                Op::Release(i) => {
                    let freed = ledger.release(&handle(*i), Timestamp(now));
                    prop_assert_eq!(freed, model.remove(&handle(*i)).unwrap_or_default());
                }
                Op::Reclaim(live) => {
                    let live: BTreeSet<Handle> = live.iter().map(|i| handle(*i)).collect();
                    ledger.reclaim(&live, Timestamp(now));
                    model.retain(|who, _| live.contains(who));
                }
                Op::Wait(secs) => now += secs,
                Op::Restart => {}
            }
            prop_assert_eq!(ledger.leases().len(), model.len() * 2);
        }
    }

    #[test]
    fn doubled_events_and_restarts_end_as_the_same_ledger(ops in ops()) {
        let plain = play(&ops, false, 1);
        prop_assert_eq!(&play(&ops, true, 1), &plain, "a restart shows");
        prop_assert_eq!(&play(&ops, true, 2), &plain, "a doubled event shows");
    }
}
