//! What agents tell of a packet in nftables mode, each claim held against a witness of its own: see `witness.rs`.

mod support;
mod witnesses;

use portolan_lab::ProxyMode;
use portolan_story::evidence::Backend;
use support::World;
use witnesses::Rules;

fn world() -> &'static World {
    support::world_with("witness-nft", |config| config.proxy_mode = ProxyMode::Nftables)
}

/// The rules of a chain as nft lists them.
fn nft_lines(world: &World, node: &str, table: &str, chain: &str) -> Vec<String> {
    let words: Vec<&str> = ["nft", "list", "chain"].into_iter().chain(table.split(' ')).chain([chain]).collect();
    let listed = world.at(node, &words).done();
    let inside = listed.lines().map(str::trim).filter(|line| !line.is_empty());
    let head = |line: &&str| {
        line.starts_with("table ") || line.starts_with("chain ") || line.starts_with("type ") || *line == "}"
    };
    inside.filter(|line| !head(line)).map(str::to_owned).collect()
}

#[test]
fn every_claim_about_a_packet_is_borne_out_by_links_conntrack_routes_and_rules() {
    let world = world();
    let scene = witnesses::scene(world, "claims");
    // nft writes some numbers in other words; what a rule does stands behind its last match.
    let rules = Rules { lines: nft_lines, reads_alike: |told, line| verdict_of(told) == verdict_of(line) };
    for case in scene.cases() {
        witnesses::hold(world, &scene, &case, Backend::Nftables, &rules);
    }
}

fn verdict_of(rule: &str) -> Option<&str> {
    rule.split(" comment ").next()?.split_whitespace().next_back()
}
