//! Meshes of speakers: they converge whatever the order of things, and lose no more than they must.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::IpNet;

use super::network::{Network, blocks, net, node};
use crate::SessionState;

const SECOND: Duration = Duration::from_secs(1);

fn updates(network: &Network) -> usize {
    network.sent.iter().filter(|(_, bytes)| bytes[18] == 2).count()
}

#[test]
fn nodes_that_all_dial_at_once_converge_without_waiting_for_any_timer() {
    for count in [2, 3, 5] {
        for seed in 0..200 {
            let mut network = Network::mesh(seed, count);
            network.settle();
            network.check_full_mesh(&format!("{count} nodes, seed {seed}"));
        }
    }
}

#[test]
fn lost_connections_at_any_moment_heal_to_the_same_routes() {
    for seed in 0..200 {
        let mut network = Network::mesh(seed, 3);
        for _ in 0..20 {
            for _ in 0..network.dice.roll(30) {
                network.step();
            }
            network.cut_one();
            if network.dice.roll(4) == 0 {
                network.pass(SECOND);
            }
        }
        network.pass(SECOND * 60);
        network.check_full_mesh(&format!("seed {seed}"));
    }
}

#[test]
fn a_mesh_left_alone_keeps_its_sessions_and_sends_keepalives_only() {
    let mut network = Network::mesh(1, 3);
    network.settle();
    network.sent.clear();
    network.pass(SECOND * 60);
    network.check_full_mesh("after a minute");
    assert!(network.sent.iter().all(|(_, bytes)| bytes[18] == 4), "something else than KEEPALIVE was sent");
    // Six ends of three sessions, one KEEPALIVE per third of nine seconds.
    assert_eq!(network.sent.len(), 6 * 20);
}

#[test]
fn a_node_whose_agent_dies_is_withdrawn_at_once_and_learned_again_when_it_is_back() {
    for seed in 0..50 {
        let mut network = Network::mesh(seed, 3);
        network.settle();
        network.kill(3, true);
        network.settle();
        assert_eq!(network.learned[&node(1)], network.expected(node(1)), "seed {seed}: only node 2 is left");
        network.pass(SECOND * 20);
        network.add(3);
        network.set_peers(3, [1, 2]);
        network.set_exports(3, &blocks(3));
        network.settle();
        network.pass(SECOND);
        network.check_full_mesh(&format!("seed {seed}"));
    }
}

#[test]
fn a_silent_peer_loses_its_routes_when_the_hold_time_is_over_and_not_before() {
    let mut network = Network::mesh(7, 2);
    network.settle();
    network.unplugged.insert(node(2));
    network.pass(SECOND * 8);
    assert!(!network.learned[&node(1)].is_empty(), "withdrawn before nine seconds of silence");
    network.pass(SECOND * 2);
    assert!(network.learned[&node(1)].is_empty());
    let status = &network.speakers[&node(1)].sessions()[0];
    assert_ne!(status.state, SessionState::Established);
    network.unplugged.clear();
    network.pass(SECOND * 30);
    network.check_full_mesh("plugged in again");
}

#[test]
fn a_node_that_lost_power_and_is_back_gets_its_sessions_within_the_hold_time() {
    for seed in 0..50 {
        let mut network = Network::mesh(seed, 3);
        network.settle();
        network.kill(3, false);
        network.pass(SECOND);
        network.add(3);
        network.set_exports(3, &blocks(3));
        network.set_peers(3, [1, 2]);
        network.pass(SECOND * 25);
        network.check_full_mesh(&format!("seed {seed}"));
    }
}

#[test]
fn a_withdrawn_prefix_costs_one_update_and_one_change_per_peer() {
    let mut network = Network::mesh(3, 4);
    let many: BTreeSet<IpNet> = (0..200).map(|i| net(&format!("10.250.{i}.0/26"))).collect();
    network.set_exports(1, &many);
    network.settle();
    network.check_full_mesh("before");
    let (sent, learned) = (updates(&network), network.learned_count);
    let mut fewer = many.clone();
    fewer.remove(&net("10.250.77.0/26"));
    network.set_exports(1, &fewer);
    network.settle();
    network.check_full_mesh("after");
    assert_eq!(updates(&network) - sent, 3);
    assert_eq!(network.learned_count - learned, 3);
    network.set_exports(1, &fewer);
    network.set_peers(1, [2, 3, 4]);
    network.settle();
    assert_eq!(updates(&network) - sent, 3, "what did not change is not told again");
}

#[test]
fn many_prefixes_share_few_updates() {
    let mut network = Network::mesh(5, 2);
    network.settle();
    let sent = updates(&network);
    let v4 = (0..10_000_u32).map(|i| net(&format!("10.{}.{}.{}/26", i / 1024, i / 4 % 256, i % 4 * 64)));
    let v6 = (0..1_000_u32).map(|i| net(&format!("fd00:{:x}::/64", i + 1)));
    network.set_exports(1, &v4.chain(v6).collect());
    network.settle();
    network.check_full_mesh("10,000 and 1,000 prefixes");
    // 800 of 5 bytes and 444 of 9 bytes fit 4000 bytes: 13 and 3 messages, and one withdrawal per family.
    assert_eq!(updates(&network) - sent, 13 + 3 + 2);
}

#[test]
fn learned_routes_are_never_passed_on() {
    let mut network = Network::new(9);
    for i in [1, 2, 3] {
        network.add(i);
        network.set_exports(i, &blocks(i));
    }
    network.set_peers(1, [2]);
    network.set_peers(2, [1, 3]);
    network.set_peers(3, [2]);
    network.settle();
    network.check_full_mesh("a line of three");
    assert!(!network.learned[&node(1)].contains_key(&net("10.244.3.0/26")));
}

#[test]
fn a_peer_that_is_no_longer_wanted_is_told_so_and_forgotten() {
    let mut network = Network::mesh(11, 3);
    network.settle();
    network.set_peers(1, [2]);
    network.settle();
    assert!(!network.learned[&node(1)].contains_key(&net("10.244.3.0/26")));
    assert!(!network.learned[&node(3)].contains_key(&net("10.244.1.0/26")));
    let status = network.speakers[&node(3)].sessions();
    assert_eq!(status[0].last_error.as_deref(), Some("the peer closed: Peer De-configured (6/3)"));
    network.pass(SECOND * 30);
    assert!(network.learned[&node(3)].contains_key(&net("10.244.2.0/26")), "the other session goes on");
    network.set_peers(1, [2, 3]);
    network.pass(SECOND * 30);
    network.check_full_mesh("wanted again");
}

#[test]
fn two_nodes_with_one_block_are_each_others_alternative() {
    let shared = net("10.244.9.0/26");
    let mut network = Network::mesh(13, 3);
    network.set_exports(1, &[shared].into());
    network.set_exports(2, &[shared].into());
    network.settle();
    assert_eq!(network.learned[&node(3)][&shared].peer, node(1), "the lowest BGP Identifier wins");
    assert!(!network.learned[&node(1)].contains_key(&shared), "our own block is ours");
    network.kill(1, true);
    network.settle();
    assert_eq!(network.learned[&node(3)][&shared].peer, node(2));
    network.set_exports(2, &BTreeSet::new());
    network.settle();
    assert!(!network.learned[&node(3)].contains_key(&shared));
}

/// The law: the way to the final peers and exports does not show in the end.
#[test]
fn any_order_split_or_doubling_of_settings_ends_as_one_start_from_scratch() {
    for seed in 0..100 {
        let mut network = Network::new(seed);
        (1..=3).for_each(|i| network.add(i));
        for _ in 0..30 {
            let i = u8::try_from(1 + network.dice.roll(3)).expect("1 to 3");
            match network.dice.roll(4) {
                0 => {
                    let some = (1..=3).filter(|other| *other != i && network.dice.roll(2) == 0).collect::<Vec<_>>();
                    network.set_peers(i, some);
                }
                1 => {
                    let of = u8::try_from(1 + network.dice.roll(5)).expect("1 to 5");
                    network.set_exports(i, &blocks(of));
                    network.set_exports(i, &blocks(of));
                }
                2 => network.set_exports(i, &BTreeSet::new()),
                _ => (0..network.dice.roll(40)).for_each(|_| {
                    network.step();
                }),
            }
        }
        for i in [3, 1, 2] {
            network.set_exports(i, &blocks(i));
            network.set_peers(i, (1..=3).filter(|other| *other != i));
        }
        network.pass(SECOND * 60);
        network.check_full_mesh(&format!("seed {seed}"));
        let mut scratch = Network::mesh(seed, 3);
        scratch.settle();
        assert_eq!(network.learned, scratch.learned, "seed {seed}");
    }
}
