//! The part of the table of faults that rules decide, where nodes write nftables: the same causes in the same words.

mod support;

// What iptables mode alone is asked for stays unused here.
#[allow(dead_code)]
#[path = "trace/faults.rs"]
mod faults;
#[allow(dead_code)]
#[path = "trace/kernel.rs"]
mod kernel;
#[path = "trace/live.rs"]
mod live;
#[path = "trace/world.rs"]
mod world;

use portolan_lab::ProxyMode;
use portolan_story::evidence::Source;
use portolan_story::story::{End, Stage};

/// Of the table, by the name of its Service.
const ASKED: [&str; 6] = ["selector", "port", "sick", "outer", "inner", "ranged"];

#[test]
fn faults_have_the_same_causes_where_nodes_write_nftables() {
    let lab = support::world_with("trace-nft", |config| {
        config.balancer_pools = vec!["172.18.0.192/28".parse().expect("a prefix")];
        config.proxy_mode = ProxyMode::Nftables;
    });
    let space = world::space(lab);
    kernel::begin(space);
    world::endpoints(space, "open", 1);
    let told = world::delivered(lab, "pod/client svc/open");
    assert_eq!(told.story.source, Source::Kernel, "the kernel told it");
    let stages: Vec<Stage> = told.story.hops.iter().map(|hop| hop.stage).collect();
    assert!([Stage::Service, Stage::Dnat, Stage::Route].iter().all(|stage| stages.contains(stage)), "{stages:?}");
    live::follows(lab, space);
    live::waits_in_vain(lab);
    let table: Vec<_> = faults::table().into_iter().filter(|fault| ASKED.contains(&fault.service)).collect();
    assert_eq!(table.len(), ASKED.len());
    faults::all(lab, space, &table);
    world::ends(lab, "pod/client svc/open:81", End::Refused, &["no port 81"]);
    kernel::foreign_drop(lab, space);
    kernel::stale_entry(lab, space);
}
