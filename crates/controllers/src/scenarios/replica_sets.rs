//! ReplicaSets: replacement, the order of giving up, adoption.

use serde_json::{Value, json};

use crate::fixture::Cluster;
use crate::object::{Id, Kind};

fn set(cluster: &mut Cluster, replicas: i32) -> Id {
    cluster.create(
        Kind::ReplicaSet,
        json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c"}]}},
            },
        }),
    )
}

fn bare_pod(cluster: &mut Cluster, name: &str, labels: Value) -> Id {
    cluster.create(
        Kind::Pod,
        json!({
            "metadata": {"name": name, "namespace": "default", "labels": labels},
            "spec": {"containers": [{"name": "c"}]},
        }),
    )
}

#[test]
fn a_terminating_or_finished_pod_is_replaced_at_once() {
    for phase in [None, Some("Failed"), Some("Succeeded")] {
        let mut cluster = Cluster::new();
        cluster.node("n1");
        set(&mut cluster, 2);
        cluster.live();
        let victim = cluster.pod_ids()[0].clone();
        match phase {
            Some(phase) => cluster.edit(&victim, |pod| pod["status"]["phase"] = json!(phase)),
            None => {
                let now = cluster.now;
                cluster.api.delete(&victim, "Background", None, now);
            }
        }
        cluster.settle();
        assert_eq!(cluster.pod_ids().len(), 3, "{phase:?}: the old one is still there");
        cluster.assert_at_rest();
    }
}

#[test]
fn surplus_goes_in_kubernetes_order() {
    // Each row: two pods that differ in one thing; the first is given up.
    let status = |ready: &str, since: &str, restarts: i32| {
        json!({
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since}],
            "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": restarts}],
        })
    };
    let early = "2024-05-01T10:00:00Z";
    let late = "2024-05-01T11:00:00Z";
    let rows = [
        (
            "unplaced first",
            json!({"status": {"phase": "Pending"}}),
            json!({"spec": {"nodeName": "n1"}, "status": {"phase": "Pending"}}),
        ),
        (
            "pending first",
            json!({"status": {"phase": "Pending"}, "spec": {"nodeName": "n1"}}),
            json!({"spec": {"nodeName": "n1"}, "status": status("False", early, 0)}),
        ),
        (
            "unready first",
            json!({"status": status("False", early, 0), "spec": {"nodeName": "n1"}}),
            json!({"spec": {"nodeName": "n1"}, "status": status("True", early, 0)}),
        ),
        (
            "cheap first",
            json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-5"}}, "spec": {"nodeName": "n1"}, "status": status("True", early, 0)}),
            json!({"spec": {"nodeName": "n1"}, "status": status("True", late, 0)}),
        ),
        (
            "just ready first",
            json!({"spec": {"nodeName": "n1"}, "status": status("True", late, 0)}),
            json!({"spec": {"nodeName": "n1"}, "status": status("True", early, 0)}),
        ),
        (
            "often restarted first",
            json!({"spec": {"nodeName": "n1"}, "status": status("True", early, 3)}),
            json!({"spec": {"nodeName": "n1"}, "status": status("True", early, 1)}),
        ),
    ];
    for (row, given_up, kept) in rows {
        for is_reversed in [false, true] {
            let mut cluster = Cluster::new();
            let mut pair = [("given-up", &given_up), ("kept", &kept)];
            if is_reversed {
                pair.reverse();
            }
            for (name, more) in pair {
                let id = bare_pod(&mut cluster, name, json!({"app": "web"}));
                cluster.edit(&id, |pod| {
                    for (part, fields) in more.as_object().unwrap() {
                        for (key, value) in fields.as_object().unwrap() {
                            pod[part][key] = value.clone();
                        }
                    }
                });
            }
            set(&mut cluster, 1);
            cluster.settle();
            let doomed: Vec<String> = cluster
                .writes
                .iter()
                .filter_map(|write| write.on_success.as_ref())
                .filter(|note| note.reason == "SuccessfulDelete")
                .map(|note| note.message.clone())
                .collect();
            assert_eq!(doomed, ["Deleted pod: given-up"], "{row}");
        }
    }
}

#[test]
fn the_fuller_node_gives_up_first() {
    let mut cluster = Cluster::new();
    cluster.node("n1");
    let id = set(&mut cluster, 2);
    cluster.live();
    cluster.node("n2");
    cluster.edit(&id, |set| set["spec"]["replicas"] = json!(3));
    cluster.live();
    cluster.edit(&id, |set| set["spec"]["replicas"] = json!(2));
    cluster.live();
    let nodes = cluster.pods().into_iter().map(|pod| pod.spec.unwrap().node_name.unwrap());
    let mut nodes: Vec<String> = nodes.collect();
    nodes.sort();
    assert_eq!(nodes, ["n1", "n2"]);
}

#[test]
fn a_matching_orphan_is_adopted_and_a_pod_that_no_longer_matches_is_let_go() {
    let mut cluster = Cluster::new();
    cluster.node("n1");
    let orphan = bare_pod(&mut cluster, "orphan", json!({"app": "web"}));
    set(&mut cluster, 2);
    cluster.live();
    assert_eq!(cluster.pod_ids().len(), 2);
    let owner = cluster.api.objects[&orphan]["metadata"]["ownerReferences"][0].clone();
    assert_eq!((&owner["kind"], &owner["controller"]), (&json!("ReplicaSet"), &json!(true)));
    cluster.edit(&orphan, |pod| pod["metadata"]["labels"] = json!({"app": "other"}));
    cluster.live();
    assert_eq!(cluster.pod_ids().len(), 3);
    assert_eq!(cluster.api.objects[&orphan]["metadata"]["ownerReferences"], json!([]));
    cluster.assert_at_rest();
}

#[test]
fn status_counts_what_is_there() {
    let mut cluster = Cluster::new();
    cluster.node("n1");
    let id = set(&mut cluster, 3);
    cluster.live();
    let pod = cluster.pod_ids()[0].clone();
    cluster.set_ready(&pod, false);
    cluster.settle();
    let status = &cluster.api.objects[&id]["status"];
    assert_eq!(status["replicas"], 3);
    assert_eq!(status["fullyLabeledReplicas"], 3);
    assert_eq!(status["readyReplicas"], 2);
    assert_eq!(status["availableReplicas"], 2);
    assert_eq!(status["observedGeneration"], 1);
}
