//! Step 8: links, routes and BGP on a node.

use serde_json::Value;

use super::needs::Need;
use super::said::Link;
use super::stage::{Stage, status_of};
use super::{Step, StepError};
use crate::lab::Place;

pub(super) const POD_NETWORK: Step = Step {
    number: 8,
    title: "Links, routes, BGP: the pod network",
    about: "\
How does a packet get from pod to pod? That is the work of a network plugin: Calico in the notes; here the agent does it, \
in Calico's way. A pod hangs on its node by a veth pair, two interfaces that act like the ends of a cable: one is the \
pod's eth0, the other stays on the node with a name like cali….

A route says which way packets to some addresses go. The node has one to each of its pods (/32: one address) and one to \
each other node's block of 64 pod addresses (/26). Nodes tell each other their blocks by BGP, the protocol by which routers \
exchange routes. Packets between pods travel as they are, not wrapped into others and with both addresses unchanged.",
    read_on: &[
        Link {
            term: "Cluster Networking",
            url: "https://kubernetes.io/docs/concepts/cluster-administration/networking/",
        },
        Link {
            term: "The Kubernetes network model",
            url: "https://kubernetes.io/docs/concepts/services-networking/",
        },
    ],
    needs: &[Need::Pods, Need::Shell],
    gives: &[],
    perform: pod_network,
};

fn pod_network(stage: &mut Stage) -> Result<(), StepError> {
    let block = block(stage, "node-2");
    stage.say("First one more pod, with `hostNetwork: true`: it has no network of its own and uses the node's.");
    let file = stage.example("hostnetwork.yaml");
    stage.kubectl(&["apply", "-f", &file])?;
    stage.wait("host-network-pod-runs", "a hostNetwork pod runs on node-1", |stage| {
        stage.ready_pods("app=host-shell").len() == 1
    })?;
    if stage.sabotaged() {
        stage.run_at(&Place::node("node-1"), &["ip", "route", "del", &block])?;
    }
    on_the_node(stage, &block)?;
    inside_a_pod(stage)?;
    leaving(stage)
}

fn on_the_node(stage: &mut Stage, block: &str) -> Result<(), StepError> {
    let node = Place::node("node-1");
    let gateway = stage.lab.node_address("node-2");
    stage.say("The links of node-1. eth0 is on the LAN; behind the @ of each cali… stands its other end, in a pod:");
    let links = stage.at(&node, &["ip", "-br", "link"])?;
    let local = local_pods(stage);
    let veths = links.text.lines().filter(|l| l.starts_with("cali")).count();
    let claim = format!("one cali… veth for each of the {} pods of this node", local.len());
    stage.check("veth-per-pod", &claim, veths == local.len() && veths > 0)?;
    stage.say("The cali… ends have no address; the node's is on eth0, and lo also has that of cluster DNS:");
    stage.at(&node, &["ip", "-br", "-4", "addr"])?;
    stage.say(
        "Its routes. `dev cali…` leads to one pod. `via` names the next host: node-2, for the pods there; `proto bgp` says who brought that route, and `proto 80` are the agent's own. `blackhole` drops packets to an address of the own block that no pod has.",
    );
    let routes = stage.at(&node, &["ip", "route"])?;
    stage.check("route-per-pod", "a /32 route into each veth", {
        local.iter().all(|ip| routes.has_line(&[&format!("{ip} dev cali"), "scope link"]))
    })?;
    let other = routes.has_line(&[&format!("{block} via {gateway} dev eth0")]);
    stage.check("route-to-other-node", &format!("the other node's block: {block} via {gateway} dev eth0"), other)?;
    stage.say("The BGP session that brought it. Established is BGP's word for: both sides talk.");
    let status = stage.portolan(&["node", "status", "--node", "node-1"])?;
    let brought = status.has_line(&[&gateway, "Established"]) && status.has_line(&[block, &gateway]);
    stage.check("bgp-brought-it", "brought by a BGP session", brought)
}

fn inside_a_pod(stage: &mut Stage) -> Result<(), StepError> {
    stage.say(
        "Inside a pod it looks the same in each: every way leads to 169.254.1.1. No interface has that address; the node \
         answers for it (proxy ARP), takes the packets and looks at its own routes.",
    );
    let inside = stage.in_pod("shell", &["ip", "route"])?;
    let gateway = inside.has("default via 169.254.1.1 dev eth0");
    stage.check("pod-gateway", "in the pod every way leads to 169.254.1.1", gateway)?;
    let far = stage.an_nginx_pod(Some("node-2"))?;
    stage
        .say("From there to a pod on node-2, by the pod's own address: out of the veth, through node-1, over the LAN.");
    let url = format!("http://{}/?walk-8", far.ip);
    let got = stage.in_pod("shell", &status_of(&url))?;
    stage.check("other-nodes-pod-answers", "a pod on the other node answers", got.has("200"))
}

/// What the host outside sees of a pod, and of a pod that shares the node's network.
fn leaving(stage: &mut Stage) -> Result<(), StepError> {
    stage.say(
        "Out of the cluster. Outside knows no way to pods, so what a pod sends there leaves with its node's address (SNAT). \
         A web server on outside answers with the address that it was asked from:",
    );
    let node_ip = stage.lab.node_address("node-1");
    let url = format!("http://{}/", stage.lab.outside_address());
    for (name, pod, claim) in [
        ("host-network-leaves-as-node", "host-shell", "a hostNetwork pod leaves by eth0 with the node's address"),
        ("pod-leaves-as-node", "shell", "what leaves the cluster from a pod does so as the node"),
    ] {
        let got = stage.in_pod(pod, &["curl", "-s", "--max-time", "3", &url])?;
        stage.check(name, claim, got.has(&node_ip))?;
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
