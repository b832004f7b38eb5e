//! Step 8: links, routes and BGP on a node.

use serde_json::Value;

use super::StepError;
use super::stage::{Stage, status_of};
use crate::lab::Place;

pub(super) fn pod_network(stage: &mut Stage) -> Result<(), StepError> {
    let node = Place::node("node-1");
    let block = block(stage, "node-2");
    let gateway = stage.lab.node_address("node-2");
    let file = stage.example("hostnetwork.yaml");
    stage.kubectl(&["apply", "-f", &file])?;
    stage.wait("a hostNetwork pod runs on node-1", |stage| stage.ready_pods("app=host-shell").len() == 1)?;
    if stage.sabotaged() {
        stage.run_at(&node, &["ip", "route", "del", &block])?;
    }
    let links = stage.at(&node, &["ip", "-br", "link"])?;
    stage.at(&node, &["ip", "-br", "-4", "addr"])?;
    let routes = stage.at(&node, &["ip", "route"])?;
    let local = local_pods(stage);
    let veths = links.text.lines().filter(|l| l.starts_with("cali")).count();
    stage.check(
        &format!("one cali… veth for each of the {} pods of this node", local.len()),
        veths == local.len() && veths > 0,
    )?;
    stage.check(
        "and a /32 route out of it",
        local.iter().all(|ip| routes.has_line(&[&format!("{ip} dev cali"), "scope link"])),
    )?;
    stage.check(&format!("the other node's block: {block} via {gateway} dev eth0"), {
        routes.has_line(&[&format!("{block} via {gateway} dev eth0")])
    })?;
    let status = stage.portolan(&["node", "status", "--node", "node-1"])?;
    stage.check(
        "brought by a BGP session",
        status.has_line(&[&gateway, "Established"]) && status.has_line(&[&block, &gateway]),
    )?;
    inside_a_pod(stage)?;
    leaving(stage)
}

fn inside_a_pod(stage: &mut Stage) -> Result<(), StepError> {
    let inside = stage.in_pod("shell", &["ip", "route"])?;
    stage.check("in the pod every way leads to 169.254.1.1", inside.has("default via 169.254.1.1 dev eth0"))?;
    let Some(far) = stage.nginx_pods().into_iter().find(|p| p.node == "node-2") else {
        return stage.check("one nginx pod runs on node-2", false);
    };
    let url = format!("http://{}/?walk-8", far.ip);
    let got = stage.in_pod("shell", &status_of(&url))?;
    stage.check("a pod on the other node answers", got.has("200"))
}

/// What the host outside sees of a pod, and of a pod that shares the node's network.
fn leaving(stage: &mut Stage) -> Result<(), StepError> {
    let node_ip = stage.lab.node_address("node-1");
    let url = format!("http://{}/", stage.lab.outside_address());
    for (pod, what) in [
        ("host-shell", "a hostNetwork pod leaves by eth0 with the node's address"),
        ("shell", "what leaves the cluster from a pod does so as the node"),
    ] {
        let got = stage.kubectl(&["exec", pod, "--", "curl", "-s", "--max-time", "3", &url])?;
        stage.check(what, got.has(&node_ip))?;
    }
    Ok(())
}

fn block(stage: &Stage, node: &str) -> String {
    stage.get(&["node", node])["spec"]["podCIDR"].as_str().unwrap_or("no podCIDR").to_owned()
}

/// Addresses of node-1's pods with a network of their own.
fn local_pods(stage: &Stage) -> Vec<String> {
    let list = stage.get(&["pods", "-A", "--field-selector", "spec.nodeName=node-1"]);
    let own = |pod: &&Value| pod["spec"]["hostNetwork"] != true;
    let items = list["items"].as_array().into_iter().flatten();
    items.filter(own).filter_map(|pod| pod["status"]["podIP"].as_str().map(str::to_owned)).collect()
}
