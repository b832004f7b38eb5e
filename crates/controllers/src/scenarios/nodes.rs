//! Nodes come, fall silent, come back, and go.

use serde_json::{Value, json};

use crate::fixture::Cluster;
use crate::object::{Id, Kind};

fn node_id(name: &str) -> Id {
    Id::new(Kind::Node, "", name)
}

fn ready(cluster: &Cluster, node: &str) -> Value {
    cluster.api.objects[&node_id(node)]["status"]["conditions"][0]["status"].clone()
}

fn taints(cluster: &Cluster, node: &str) -> Vec<String> {
    let taints = cluster.api.objects[&node_id(node)]["spec"]["taints"].clone();
    let taints = taints.as_array().cloned().unwrap_or_default();
    let text = |taint: &Value| format!("{}:{}", taint["key"].as_str().unwrap(), taint["effect"].as_str().unwrap());
    taints.iter().map(text).collect()
}

/// Two nodes, both heard, a Deployment of four over them.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new();
    for name in ["n1", "n2"] {
        cluster.node(name);
        cluster.heartbeat(name);
    }
    cluster.deployment("web", 4);
    cluster.service("web", "web");
    cluster.live();
    cluster
}

fn ready_endpoints(cluster: &Cluster) -> usize {
    let slices = cluster.api.objects.iter();
    let slices = slices.filter(|(id, _)| id.kind == Kind::EndpointSlice && id.namespace == "default");
    let endpoints = slices.flat_map(|(_, slice)| slice["endpoints"].as_array().unwrap().clone());
    endpoints.filter(|one| one["conditions"]["ready"] == true).count()
}

#[test]
fn nodes_get_the_first_free_blocks_and_keep_them() {
    let mut cluster = Cluster::new();
    cluster.config.cluster_cidrs.push("fd00:10:244::/56".parse().unwrap());
    for name in ["b", "a", "c"] {
        cluster.node(name);
        cluster.settle();
    }
    let block = |cluster: &Cluster, name: &str| cluster.api.objects[&node_id(name)]["spec"].clone();
    assert_eq!(block(&cluster, "b")["podCIDRs"], json!(["10.244.0.0/26", "fd00:10:244::/122"]));
    assert_eq!(block(&cluster, "a")["podCIDRs"], json!(["10.244.0.64/26", "fd00:10:244::40/122"]));
    assert_eq!(block(&cluster, "c")["podCIDR"], "10.244.0.128/26");
    let now = cluster.now;
    cluster.api.delete(&node_id("a"), "Background", None, now);
    cluster.node("d");
    cluster.settle();
    assert_eq!(block(&cluster, "d")["podCIDR"], "10.244.0.64/26");
    assert_eq!(block(&cluster, "b")["podCIDR"], "10.244.0.0/26");
    cluster.assert_at_rest();
}

#[test]
fn a_silent_node_is_unknown_tainted_and_its_pods_leave_the_endpoints() {
    let mut cluster = cluster();
    assert_eq!(ready_endpoints(&cluster), 4);
    cluster.advance(39);
    cluster.heartbeat("n1");
    cluster.settle();
    assert_eq!(ready(&cluster, "n2"), "True");
    cluster.advance(1);
    cluster.settle();
    assert_eq!(ready(&cluster, "n2"), "Unknown");
    assert_eq!(ready(&cluster, "n1"), "True");
    let wanted = ["node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"];
    assert_eq!(taints(&cluster, "n2"), wanted);
    assert_eq!(ready_endpoints(&cluster), 2);
    cluster.assert_at_rest();
}

#[test]
fn a_node_that_is_heard_again_is_as_before() {
    let mut cluster = cluster();
    cluster.advance(40);
    cluster.heartbeat("n1");
    cluster.settle();
    assert_eq!(ready(&cluster, "n2"), "Unknown");
    cluster.heartbeat("n2");
    cluster.settle();
    assert_eq!(ready(&cluster, "n2"), "True");
    assert!(taints(&cluster, "n2").is_empty());
    assert_eq!(ready_endpoints(&cluster), 4);
    cluster.assert_at_rest();
}

#[test]
fn pods_on_an_unreachable_node_are_evicted_after_the_toleration_and_replaced() {
    let mut cluster = cluster();
    cluster.advance(40);
    cluster.heartbeat("n1");
    cluster.settle();
    let leaving = |cluster: &Cluster| {
        let pods = cluster.pods();
        pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some()).count()
    };
    for _ in 0..29 {
        cluster.advance(10);
        cluster.heartbeat("n1");
        cluster.settle();
        assert_eq!(leaving(&cluster), 0);
    }
    cluster.advance(10);
    cluster.heartbeat("n1");
    cluster.settle();
    assert_eq!(leaving(&cluster), 2);
    assert_eq!(cluster.pod_ids().len(), 6, "replaced at once");
}

#[test]
fn a_toleration_says_how_long_a_pod_stays() {
    let toleration = |secs: Value| json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": secs}]);
    for (tolerations, is_mirror, stays) in [
        (toleration(json!(5)), false, false),
        (toleration(Value::Null), false, true),
        (json!([{"operator": "Exists"}]), false, true),
        (toleration(json!(5)), true, true),
    ] {
        let mut cluster = Cluster::new();
        cluster.node("n1");
        cluster.heartbeat("n1");
        let annotations = match is_mirror {
            true => json!({"kubernetes.io/config.mirror": "x"}),
            false => json!({}),
        };
        let id = cluster.create(
            Kind::Pod,
            json!({
                "metadata": {"name": "p", "namespace": "default", "annotations": annotations},
                "spec": {"nodeName": "n1", "tolerations": tolerations, "containers": [{"name": "c"}]},
            }),
        );
        cluster.settle();
        cluster.advance(40);
        cluster.settle();
        cluster.advance(5);
        cluster.settle();
        let deleted = &cluster.api.objects[&id]["metadata"]["deletionTimestamp"];
        assert_eq!(deleted.is_null(), stays, "{tolerations}");
    }
}

#[test]
fn pods_of_a_node_that_is_deleted_are_removed_and_replaced_elsewhere() {
    let mut cluster = cluster();
    let now = cluster.now;
    cluster.api.delete(&node_id("n2"), "Background", None, now);
    cluster.live();
    let nodes = cluster.pods().into_iter().map(|pod| pod.spec.unwrap().node_name.unwrap());
    assert_eq!(nodes.collect::<Vec<String>>(), ["n1"; 4]);
    cluster.assert_at_rest();
}

#[test]
fn a_pod_seen_before_its_node_is_left_alone() {
    let mut cluster = Cluster::new();
    cluster.settle();
    cluster.node("n1");
    let id = cluster.create(
        Kind::Pod,
        json!({"metadata": {"name": "dns", "namespace": "default"}, "spec": {"nodeName": "n1", "containers": [{"name": "c"}]}}),
    );
    while cluster.hear(Kind::Pod).is_some() {}
    while let Some(task) = cluster.tasks.pop_first() {
        cluster.run(task);
    }
    assert!(cluster.api.objects.contains_key(&id));
}

#[test]
fn silence_while_we_were_deaf_is_forgiven() {
    let mut cluster = cluster();
    cluster.advance(300);
    let now = cluster.now;
    cluster.world.forgive_silence(now);
    cluster.settle();
    assert_eq!(ready(&cluster, "n1"), "True");
    cluster.advance(40);
    cluster.settle();
    assert_eq!(ready(&cluster, "n1"), "Unknown");
}
