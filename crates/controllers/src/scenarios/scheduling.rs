//! Where pods are placed, and what is said when they are not.

use serde_json::{Value, json};

use crate::fixture::Cluster;
use crate::object::{Id, Kind};

fn pod(cluster: &mut Cluster, name: &str, spec: Value) -> Id {
    let mut spec = spec;
    if spec["containers"].is_null() {
        spec["containers"] = json!([{"name": "c"}]);
    }
    let body = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
    cluster.create(Kind::Pod, body)
}

fn placed(cluster: &Cluster, id: &Id) -> Value {
    cluster.api.objects[id]["spec"]["nodeName"].clone()
}

fn message(cluster: &Cluster, id: &Id) -> String {
    let condition = &cluster.api.objects[id]["status"]["conditions"][0];
    assert_eq!(condition["type"], "PodScheduled");
    assert_eq!(condition["reason"], "Unschedulable");
    condition["message"].as_str().unwrap().to_owned()
}

fn warnings(cluster: &Cluster) -> usize {
    let notes = cluster.writes.iter().filter_map(|write| write.on_success.as_ref());
    notes.filter(|note| note.reason == "FailedScheduling" && note.is_warning).count()
}

#[test]
fn the_fewest_siblings_count_before_the_fewest_pods() {
    let mut cluster = Cluster::new();
    cluster.node("n1");
    cluster.node("n2");
    for number in 0..3 {
        pod(&mut cluster, &format!("load-{number}"), json!({"nodeName": "n1"}));
    }
    cluster.deployment("web", 2);
    cluster.live();
    let web = cluster.pods().into_iter().filter(|pod| pod.metadata.generate_name.is_some());
    let mut nodes: Vec<String> = web.map(|pod| pod.spec.unwrap().node_name.unwrap()).collect();
    nodes.sort();
    assert_eq!(nodes, ["n1", "n2"]);
    let lone = pod(&mut cluster, "lone", json!({}));
    cluster.settle();
    assert_eq!(placed(&cluster, &lone), "n2", "fewest pods");
}

#[test]
fn a_pod_without_a_place_is_told_why_once_and_placed_when_one_comes() {
    let mut cluster = Cluster::new();
    let id = pod(&mut cluster, "p", json!({}));
    cluster.settle();
    assert_eq!(message(&cluster, &id), "no nodes available to schedule pods");
    for name in ["n1", "n2"] {
        let node = cluster.node(name);
        cluster.edit(&node, |node| node["spec"]["unschedulable"] = json!(true));
    }
    cluster.settle();
    assert_eq!(message(&cluster, &id), "0/2 nodes are available: 2 node(s) were unschedulable.");
    let told = warnings(&cluster);
    cluster.heartbeat("n1");
    cluster.settle();
    assert_eq!(warnings(&cluster), told);
    cluster.edit(&Id::new(Kind::Node, "", "n2"), |node| node["spec"]["unschedulable"] = json!(false));
    cluster.settle();
    assert_eq!(placed(&cluster, &id), "n2");
    cluster.assert_at_rest();
}

#[test]
fn each_filter_refuses_with_its_words() {
    let affinity = |key: &str, operator: &str, values: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]}}}});
    let ports =
        |number: i32| json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": number}]}]});
    let selector = "1 node(s) didn't match Pod's node affinity/selector";
    let taint = json!({"spec": {"taints": [{"key": "team", "value": "x", "effect": "NoSchedule"}]}});
    let none = json!({});
    let rows = [
        (none.clone(), json!({}), None),
        (none.clone(), json!({"nodeSelector": {"disk": "ssd"}}), Some(selector)),
        (none.clone(), json!({"nodeSelector": {"kubernetes.io/hostname": "n1"}}), None),
        (none.clone(), affinity("disk", "In", json!(["ssd"])), Some(selector)),
        (none.clone(), affinity("disk", "DoesNotExist", json!([])), None),
        (none.clone(), affinity("kubernetes.io/hostname", "NotIn", json!(["n1"])), Some(selector)),
        (taint.clone(), json!({}), Some("1 node(s) had untolerated taint {team: x}")),
        (taint.clone(), json!({"tolerations": [{"key": "team", "value": "x"}]}), None),
        (
            taint,
            json!({"tolerations": [{"key": "team", "value": "y"}]}),
            Some("1 node(s) had untolerated taint {team: x}"),
        ),
        (none.clone(), ports(8080), Some("1 node(s) didn't have free ports for the requested pod ports")),
        (none.clone(), ports(8081), None),
        (json!({"status": {"allocatable": {"pods": "1"}}}), json!({}), Some("1 Too many pods")),
        (
            none,
            json!({"hostNetwork": true, "containers": [{"name": "c", "ports": [{"containerPort": 8080}]}]}),
            Some("1 node(s) didn't have free ports for the requested pod ports"),
        ),
    ];
    for (node, spec, refusal) in rows {
        let mut cluster = Cluster::new();
        let id = cluster.node("n1");
        cluster.edit(&id, |body| {
            for (part, fields) in node.as_object().unwrap() {
                for (key, value) in fields.as_object().unwrap() {
                    body[part][key] = value.clone();
                }
            }
        });
        let mut taken = ports(8080);
        taken["nodeName"] = json!("n1");
        pod(&mut cluster, "taken", taken);
        let id = pod(&mut cluster, "p", spec.clone());
        cluster.settle();
        match refusal {
            None => assert_eq!(placed(&cluster, &id), "n1", "{spec}"),
            Some(words) => {
                let wanted = format!("0/1 nodes are available: {words}.");
                assert_eq!(message(&cluster, &id), wanted);
            }
        }
    }
}

#[test]
fn a_node_that_is_not_ready_gets_no_pods() {
    let mut cluster = Cluster::new();
    let node = cluster.node("n1");
    cluster.edit(&node, |node| node["status"]["conditions"][0]["status"] = json!("False"));
    let id = pod(&mut cluster, "p", json!({}));
    cluster.settle();
    let wanted = "0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }.";
    assert_eq!(message(&cluster, &id), wanted);
    cluster.edit(&node, |node| node["status"]["conditions"][0]["status"] = json!("True"));
    cluster.settle();
    assert_eq!(placed(&cluster, &id), "n1");
}

#[test]
fn another_scheduler_and_gates_are_respected() {
    let mut cluster = Cluster::new();
    cluster.node("n1");
    let foreign = pod(&mut cluster, "a", json!({"schedulerName": "other"}));
    let gated = pod(&mut cluster, "b", json!({"schedulingGates": [{"name": "wait"}]}));
    cluster.settle();
    assert_eq!(placed(&cluster, &foreign), Value::Null);
    assert_eq!(placed(&cluster, &gated), Value::Null);
    cluster.edit(&gated, |pod| pod["spec"]["schedulingGates"] = json!([]));
    cluster.settle();
    assert_eq!(placed(&cluster, &gated), "n1");
}

#[test]
fn a_pod_that_asks_for_more_than_is_left_waits_until_it_is_there() {
    let mut cluster = Cluster::new();
    for name in ["n1", "n2"] {
        let node = cluster.node(name);
        cluster.edit(&node, |node| node["status"]["allocatable"] = json!({"cpu": "1", "memory": "1Gi", "pods": "10"}));
    }
    let asks = |cpu: &str, memory: &str| json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]});
    let first = pod(&mut cluster, "a", asks("600m", "1Mi"));
    let second = pod(&mut cluster, "b", asks("600m", "1Mi"));
    cluster.settle();
    assert_ne!(placed(&cluster, &first), placed(&cluster, &second), "one on each node");
    let third = pod(&mut cluster, "c", asks("600m", "1Mi"));
    let large = pod(&mut cluster, "d", asks("600m", "2Gi"));
    cluster.settle();
    assert_eq!(message(&cluster, &third), "0/2 nodes are available: 2 Insufficient cpu.");
    assert_eq!(message(&cluster, &large), "0/2 nodes are available: 2 Insufficient cpu, 2 Insufficient memory.");
    let now = cluster.now;
    cluster.api.delete(&first, "Background", Some(0), now);
    cluster.settle();
    assert_ne!(placed(&cluster, &third), Value::Null);
    assert_eq!(message(&cluster, &large), "0/2 nodes are available: 2 Insufficient cpu, 2 Insufficient memory.");
    cluster.edit(&Id::new(Kind::Node, "", "n1"), |node| {
        node["status"]["allocatable"] = json!({"cpu": "4", "memory": "4Gi", "pods": "10"});
    });
    cluster.settle();
    assert_eq!(placed(&cluster, &large), "n1");
    cluster.assert_at_rest();
}

#[test]
fn a_host_port_that_gets_free_lets_the_next_pod_in() {
    let mut cluster = Cluster::new();
    cluster.node("n1");
    let ports = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    let first = pod(&mut cluster, "a", ports.clone());
    cluster.settle();
    let second = pod(&mut cluster, "b", ports);
    cluster.settle();
    assert_eq!(placed(&cluster, &second), Value::Null);
    let now = cluster.now;
    cluster.api.delete(&first, "Background", Some(0), now);
    cluster.settle();
    assert_eq!(placed(&cluster, &second), "n1");
}
