//! The configuration of cluster DNS, changed by its ConfigMap.

// Each test binary uses its own part of this room.
#![allow(dead_code)]

use std::time::{Duration, Instant};

use super::{CLUSTER_DNS, Stage, WITHIN_SECS, agent_pid, answers_again, end, go_on, kill_agent};
use crate::load::Load;
use crate::support::{World, portolan_says, wait_for};

const NODES: [&str; 2] = ["node-1", "node-2"];

/// A change is in force on every node within seconds and costs no query; a wrong one changes nothing and is told of.
pub fn a_config_map_is_taken_over_and_a_wrong_one_is_told_of(world: &'static World, lab: &str) {
    let stage = Stage::set(world, "config");
    let shipped = corefile(world);
    assert!(shipped.contains("kubernetes cluster.local in-addr.arpa ip6.arpa {"), "{shipped}");
    let loads = stage.lookups("web");
    go_on(&loads);
    let began = Instant::now();
    let changed = shipped.replacen("ttl 30", "ttl 17", 1);
    write(world, &changed);
    in_force(&stage, 17);
    println!("a changed ConfigMap was in force on both nodes after {:?}", began.elapsed());
    write(world, &changed.replace("    loop", "    loup"));
    let told = wait_for("an Event on the ConfigMap", WITHIN_SECS, || {
        let events = world.kubectl(
            "-n kube-system get events --field-selector reason=CorefileRefused -o jsonpath={.items[*].message}",
        );
        (!events.out.is_empty()).then_some(events.out)
    });
    assert!(told.contains("Corefile:") && told.contains("loup"), "line and word: {told}");
    let status = wait_for("status to say so", WITHIN_SECS, || {
        let said = portolan_says(&format!("status --name {lab}"));
        said.out.contains("goes on with its older configuration").then_some(said)
    });
    assert_eq!(status.code, Some(1));
    in_force(&stage, 17);
    go_on(&loads);
    no_query_is_lost(loads);
    // What was in force is kept through a death too, though the ConfigMap is still wrong.
    let before = agent_pid(world, "node-1");
    kill_agent(world, "node-1");
    answers_again(world, "node-1", before);
    in_force(&stage, 17);
    let events = world.kubectl("-n kube-system get events --field-selector reason=CorefileRefused --no-headers").out;
    assert_eq!(events.lines().count(), 1, "the nodes tell of it together, and once: {events}");
    let loads = stage.lookups("web");
    write(world, &shipped);
    in_force(&stage, 30);
    no_query_is_lost(loads);
    wait_for("status to be well", WITHIN_SECS, || portolan_says(&format!("status --name {lab}")).ok().then_some(()));
    stage.remove();
}

fn no_query_is_lost(loads: Vec<Load>) {
    go_on(&loads);
    assert_eq!(end(loads), Duration::ZERO, "a change of the configuration costs no query");
}

fn corefile(world: &World) -> String {
    wait_for("the ConfigMap", WITHIN_SECS, || {
        let text = world.kubectl("-n kube-system get configmap coredns -o jsonpath={.data.Corefile}").out;
        (!text.is_empty()).then_some(text)
    })
}

fn write(world: &World, text: &str) {
    let patch = serde_json::json!({ "data": { "Corefile": text } }).to_string();
    world.kubectl_words(&["-n", "kube-system", "patch", "configmap", "coredns", "--type=merge", "-p", &patch]).done();
}

/// Waits until both nodes answer as a configuration says whose `ttl` is this.
fn in_force(stage: &Stage, ttl_secs: u32) {
    let name = format!("web.{}.svc.cluster.local", stage.space.name);
    for node in NODES {
        wait_for(&format!("{ttl_secs} s of {node}"), WITHIN_SECS, || {
            let argv = ["dig", "+noall", "+answer", "+tries=1", "+time=2", &format!("@{CLUSTER_DNS}"), &name, "A"];
            let said = stage.space.world.at(node, &argv).out;
            (said.split_whitespace().nth(1) == Some(ttl_secs.to_string().as_str())).then_some(())
        });
    }
}
