//! Who may ask, how, and what `kubectl` shows of cluster DNS.

// Each test binary uses its own part of this room.
#![allow(dead_code)]

use super::{CLUSTER_DNS, Stage, WITHIN_SECS};
use crate::support::{World, wait_for};

/// Pods of each node, a pod on the node's network and the nodes themselves are answered over UDP and TCP.
pub fn every_place_is_answered_by_both_transports(world: &'static World) {
    let stage = Stage::set(world, "places");
    let space = stage.space;
    space.shell("on-2", "node-2");
    space.pod(
        "host",
        "node-2",
        ", command: [sleep, \"3600\"]",
        ", hostNetwork: true, terminationGracePeriodSeconds: 0",
    );
    space.ready("host");
    let name = format!("web.{}.svc.cluster.local", space.name);
    let expected = space.field("svc/web", ".spec.clusterIP");
    let pods = ["on-1", "on-2", "host"].map(|pod| format!("pod/{}/{pod}", space.name));
    for place in pods.iter().map(String::as_str).chain(["node-1", "node-2"]) {
        for transport in ["+notcp", "+tcp"] {
            let argv = ["dig", "+short", "+tries=2", "+time=5", transport, &format!("@{CLUSTER_DNS}"), &name];
            assert_eq!(world.at(place, &argv).out.trim(), expected, "{place} {transport}");
        }
    }
    stage.remove();
}

/// The Service with its three ports, both nodes behind it, a DNS pod on each.
pub fn kubectl_shows_what_users_expect(world: &'static World) {
    let get = |what: &str| world.kubectl(&format!("-n kube-system get {what} --no-headers")).out;
    let service = get("svc kube-dns");
    assert!(service.contains(CLUSTER_DNS) && service.contains("53/UDP,53/TCP,9153/TCP"), "{service}");
    let listed = wait_for("all endpoints", WITHIN_SECS, || {
        let path = "{range .subsets[*]}{range .addresses[*]}{.ip} {end}{range .ports[*]}{.name}={.port} {end}{end}";
        let said = world
            .kubectl_words(&["-n", "kube-system", "get", "endpoints", "kube-dns", "-o", &format!("jsonpath={path}")])
            .out;
        said.contains("172.18.0.12").then_some(said)
    });
    for part in ["172.18.0.11", "172.18.0.12", "dns=53", "dns-tcp=53", "metrics=9153"] {
        assert!(listed.contains(part), "{part} in {listed}");
    }
    for node in ["node-1", "node-2"] {
        wait_for("a DNS pod that is Ready", WITHIN_SECS, || {
            let row = get(&format!("pod portolan-{node}"));
            let fields: Vec<String> = row.split_whitespace().map(str::to_owned).collect();
            (fields.get(1)? == "1/1" && fields.get(2)? == "Running").then_some(())
        });
    }
    let yaml = world.kubectl("-n kube-system get cm coredns -o yaml").done();
    assert!(yaml.contains("pods insecure") && yaml.contains("forward . /etc/resolv.conf"), "{yaml}");
}
