//! What agents tell of a packet, each claim held against a witness of its own: packet sockets on every link, conntrack's
//! table, `ip route get`, `iptables-save` and `nft`. In iptables mode; `witness_nftables.rs` does the same in the other.

mod support;
mod witnesses;

use std::sync::{Mutex, MutexGuard, PoisonError};

use portolan_story::evidence::{Backend, Direction, Fate, Flow, Hook};
use support::World;
use witnesses::{Case, Rules, watch_and_send};

/// One at a time: an agent that is killed takes the watches of all with it.
static TURN: Mutex<()> = Mutex::new(());

fn world() -> (&'static World, MutexGuard<'static, ()>) {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    (support::world("witness"), turn)
}

/// The lines of a chain in `iptables-save`: what a rule must read like, at its place.
fn iptables_lines(world: &World, node: &str, table: &str, chain: &str) -> Vec<String> {
    let table = table.strip_prefix("ip ").expect("an IPv4 table");
    let saved = world.at(node, &["iptables-save", "-t", table]).done();
    let begins = format!("-A {chain} ");
    saved.lines().filter_map(|line| line.strip_prefix(&begins)).map(str::to_owned).collect()
}

const RULES: Rules = Rules { lines: iptables_lines, reads_alike: |told, line| told == line };

#[test]
fn every_claim_about_a_packet_is_borne_out_by_links_conntrack_routes_and_rules() {
    let (world, _turn) = world();
    let scene = witnesses::scene(world, "claims");
    for case in scene.cases() {
        witnesses::hold(world, &scene, &case, Backend::Iptables, &RULES);
    }
}

#[test]
fn a_packet_that_a_foreign_rule_drops_is_told_with_that_rule_raw() {
    let (world, _turn) = world();
    let scene = witnesses::scene(world, "foreign");
    let rule =
        ["-s", &scene.client_ip, "-p", "tcp", "--dport", "80", "-m", "comment", "--comment", "not ours", "-j", "DROP"];
    let edit = |verb: &str| {
        let words: Vec<&str> = ["iptables", verb, "FORWARD"].iter().chain(rule.iter()).copied().collect();
        world.at("node-1", &words).done();
    };
    edit("-I");
    let case = Case { name: "dropped", to: scene.service(), from: "client", nodes: &["node-1"] };
    let told = watch_and_send(world, &scene, &case, 1_000);
    edit("-D");
    let passage = &told[0].evidence.passages[0];
    let last = passage.steps.last().expect("a rule ended it");
    assert_eq!((&passage.fate, passage.direction, last.hook), (&Fate::Stopped, Direction::Forth, Hook::Forward));
    let rule = last.rule.as_ref().expect("it is read");
    assert_eq!(rule.meaning, portolan_dataplane::meaning::Meaning::Foreign);
    let text = format!("-s {}/32 -p tcp -m tcp --dport 80 -m comment --comment \"not ours\" -j DROP", scene.client_ip);
    assert_eq!(&*rule.text, text);
    assert_eq!(passage.flow, None, "what is dropped is not tracked");
}

#[test]
fn an_agent_that_is_killed_in_the_middle_of_a_watch_leaves_no_table() {
    let (world, _turn) = world();
    let trapped = || world.at("node-1", &["nft", "list", "tables"]).done().contains("portolan-trace");
    let id = witnesses::begin(world, "node-1", &Flow::Sequence { number: 7 }, 600_000);
    assert!(trapped(), "{id} listens");
    world.lab().signal("agent-node-1", libc::SIGKILL).expect("it runs");
    support::wait_for("the trap to go with its agent", 30, || (!trapped()).then_some(()));
    support::wait_for("the next agent", 60, || {
        let begun = witnesses::try_begin(world, "node-1", &Flow::Sequence { number: 7 }, 600_000)?;
        Some(witnesses::end(world, "node-1", &begun))
    });
    support::wait_for("the trap to go with its watch", 30, || (!trapped()).then_some(()));
}

#[test]
fn watches_end_themselves_are_counted_and_refused_by_what_is_wrong() {
    let (world, _turn) = world();
    let raw = |flow: &str, lasts: &str| {
        let body = format!("{{\"flow\": {flow}, \"lastsMs\": {lasts}, \"count\": 1}}");
        world.kubectl_in("-v=8 create --raw /api/v1/nodes/node-2/proxy/portolan/v1/trace -f -", &body)
    };
    let sequence = "{\"by\": \"sequence\", \"number\": 7}";
    let refused = raw(sequence, "600001");
    assert!(!refused.ok() && refused.err.contains("lastsMs"), "{}", refused.err);
    let refused = raw("{\"by\": \"payload\", \"begins\": \"xyz\"}", "1000");
    assert!(!refused.ok() && refused.err.contains("flow.begins"), "{}", refused.err);
    let short = witnesses::begin(world, "node-2", &Flow::Sequence { number: 7 }, 300);
    let many: Vec<String> =
        (0..15).map(|_| witnesses::begin(world, "node-2", &Flow::Sequence { number: 7 }, 600_000)).collect();
    support::wait_for("the short watch to end itself", 30, || {
        let tables = world.at("node-2", &["nft", "list", "tables"]).done();
        (!tables.contains(&short)).then_some(())
    });
    let last = witnesses::begin(world, "node-2", &Flow::Sequence { number: 7 }, 600_000);
    let refused = raw(sequence, "1000");
    assert!(!refused.ok() && refused.err.contains("16"), "{}", refused.err);
    for id in many.iter().chain([&last]) {
        witnesses::end(world, "node-2", id);
    }
    let gone = world.kubectl_in(&format!("-v=8 create --raw {}/{short}/end -f -", witnesses::path("node-2")), "");
    assert!(!gone.ok() && gone.err.contains("has ended"), "{}", gone.err);
}
