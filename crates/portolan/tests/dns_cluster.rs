//! Cluster DNS on every node, in iptables mode: deaths of agents, and what other nodes do for theirs.

mod support;

#[path = "dns_cluster/mod.rs"]
mod dns_cluster;
#[path = "support/load.rs"]
mod load;

use portolan_lab::ProxyMode;
use support::World;

const LAB: &str = "t-dns-cluster";

fn world() -> &'static World {
    support::world_with(LAB, |config| config.proxy_mode = ProxyMode::Iptables)
}

#[test]
fn deaths_of_agents_cost_their_pods_little_and_others_nothing() {
    let world = world();
    dns_cluster::places::kubectl_shows_what_users_expect(world);
    dns_cluster::places::every_place_is_answered_by_both_transports(world);
    dns_cluster::a_guard_is_small_and_made_again(world);
    dns_cluster::a_death_costs_lookups_for_at_most_the_restart(world);
    dns_cluster::names_are_answered_while_the_api_server_is_away(world);
    dns_cluster::without_a_successor_the_other_node_answers(world);
    dns_cluster::config::a_config_map_is_taken_over_and_a_wrong_one_is_told_of(world, LAB);
}
