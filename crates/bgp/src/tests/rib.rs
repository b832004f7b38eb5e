//! The RIB: which path wins, and the law.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use proptest::prelude::*;

use super::network::{net, node};
use crate::LearnedRoute;
use crate::rib::{Path, Rib};

fn path(i: u8) -> Path {
    Path {
        gateway: node(i),
        local_pref: 100,
        as_path_len: 0,
        origin: 0,
        med: 0,
        external: false,
        router_id: Ipv4Addr::new(192, 0, 2, i),
    }
}

#[test]
fn the_better_path_wins_by_each_rule_in_turn() {
    let rows: [(&str, Path); 6] = [
        ("higher LOCAL_PREF", Path { local_pref: 200, as_path_len: 9, ..path(9) }),
        ("shorter AS_PATH", Path { as_path_len: 1, origin: 2, ..path(9) }),
        ("lower ORIGIN", Path { as_path_len: 2, origin: 0, med: 50, ..path(9) }),
        ("lower MED", Path { as_path_len: 2, origin: 1, med: 5, ..path(9) }),
        ("eBGP before iBGP", Path { as_path_len: 2, origin: 1, med: 10, external: true, ..path(9) }),
        (
            "lower router id",
            Path { as_path_len: 2, origin: 1, med: 10, router_id: Ipv4Addr::new(1, 1, 1, 1), ..path(9) },
        ),
    ];
    let prefix = net("10.244.1.0/26");
    for (rule, better) in rows {
        let mut rib = Rib::default();
        rib.announce(node(2), prefix, Path { as_path_len: 2, origin: 1, med: 10, ..path(2) });
        rib.announce(node(9), prefix, better);
        rib.settle(&BTreeMap::new());
        assert_eq!(rib.routes()[&prefix].peer, node(9), "{rule}");
    }
}

#[test]
fn equal_paths_are_told_apart_by_the_peers_address() {
    let prefix = net("fd00::/64");
    for order in [[2, 3], [3, 2]] {
        let mut rib = Rib::default();
        for i in order {
            rib.announce(node(i), prefix, Path { gateway: node(i), ..path(1) });
        }
        rib.settle(&BTreeMap::new());
        assert_eq!(rib.routes()[&prefix].peer, node(2));
    }
}

#[derive(Clone, Debug)]
enum Op {
    Announce(u8, u8, u32),
    Withdraw(u8, u8),
    Drop(u8),
    Own(u8, bool),
    Settle,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let one = prop_oneof![
        4 => (1..4_u8, 0..6_u8, 99..102_u32).prop_map(|(peer, prefix, pref)| Op::Announce(peer, prefix, pref)),
        2 => (1..4_u8, 0..6_u8).prop_map(|(peer, prefix)| Op::Withdraw(peer, prefix)),
        1 => (1..4_u8).prop_map(Op::Drop),
        1 => (0..6_u8, any::<bool>()).prop_map(|(prefix, own)| Op::Own(prefix, own)),
        2 => Just(Op::Settle),
    ];
    proptest::collection::vec(one, 0..60)
}

fn prefix(i: u8) -> IpNet {
    net(&format!("10.244.{i}.0/26"))
}

/// Runs `ops`, each `times` times, and returns what the changes add up to.
fn play(ops: &[Op], times: usize) -> (Rib, BTreeMap<IpNet, crate::Export>, BTreeMap<IpNet, LearnedRoute>) {
    let (mut rib, mut own, mut sum) = (Rib::default(), BTreeMap::new(), BTreeMap::new());
    for op in ops.iter().flat_map(|op| std::iter::repeat_n(op, times)).chain([&Op::Settle]) {
        match op {
            Op::Announce(peer, p, pref) => {
                rib.announce(node(*peer), prefix(*p), Path { local_pref: *pref, ..path(*peer) })
            }
            Op::Withdraw(peer, p) => rib.withdraw(node(*peer), prefix(*p)),
            Op::Drop(peer) => rib.drop_peer(node(*peer)),
            Op::Own(p, is_own) => {
                match is_own {
                    true => own.insert(prefix(*p), crate::Export::default()).is_none(),
                    false => own.remove(&prefix(*p)).is_some(),
                };
                rib.touch(prefix(*p));
            }
            Op::Settle => {
                for (prefix, route) in rib.settle(&own) {
                    match route {
                        Some(route) => sum.insert(prefix, route),
                        None => sum.remove(&prefix),
                    };
                }
            }
        }
    }
    (rib, own, sum)
}

/// The same final paths told once, backwards, to an empty RIB.
fn from_scratch(ops: &[Op], own: &BTreeMap<IpNet, crate::Export>) -> BTreeMap<IpNet, LearnedRoute> {
    let mut last: BTreeMap<(IpAddr, IpNet), Path> = BTreeMap::new();
    for op in ops {
        match op {
            Op::Announce(peer, p, pref) => {
                last.insert((node(*peer), prefix(*p)), Path { local_pref: *pref, ..path(*peer) });
            }
            Op::Withdraw(peer, p) => {
                last.remove(&(node(*peer), prefix(*p)));
            }
            Op::Drop(peer) => last.retain(|(who, _), _| *who != node(*peer)),
            Op::Own(..) | Op::Settle => {}
        }
    }
    let mut rib = Rib::default();
    for ((peer, prefix), path) in last.into_iter().rev() {
        rib.announce(peer, prefix, path);
    }
    rib.settle(own);
    rib.routes().clone()
}

proptest! {
    #[test]
    fn any_order_split_or_doubling_of_routes_ends_as_one_start_from_scratch(ops in ops()) {
        let (rib, own, sum) = play(&ops, 1);
        prop_assert_eq!(rib.routes(), &sum, "the changes do not add up to the state");
        prop_assert_eq!(rib.routes(), &from_scratch(&ops, &own));
        let (doubled, _, doubled_sum) = play(&ops, 2);
        prop_assert_eq!(doubled.routes(), &sum);
        prop_assert_eq!(&doubled_sum, &sum);
    }
}
