//! Scenarios of rollouts.

use serde_json::{Value, json};

use crate::fixture::Cluster;
use crate::object::{Id, Kind};

pub(super) fn cluster() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.node("n1");
    cluster.node("n2");
    cluster
}

pub(super) fn set_image(cluster: &mut Cluster, id: &Id, image: &str) {
    cluster.edit(id, |object| {
        object["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
    });
}

/// `(revision, spec.replicas, image)` of each set.
pub(super) fn sets(cluster: &Cluster) -> Vec<(i64, i64, String)> {
    let sets = cluster.api.objects.iter();
    let sets = sets.filter(|(id, _)| id.kind == Kind::ReplicaSet);
    let mut rows: Vec<(i64, i64, String)> = sets
        .map(|(_, set)| {
            let revision = &set["metadata"]["annotations"]["deployment.kubernetes.io/revision"];
            let image = &set["spec"]["template"]["spec"]["containers"][0]["image"];
            (
                revision.as_str().unwrap().parse().unwrap(),
                set["spec"]["replicas"].as_i64().unwrap(),
                image.as_str().unwrap().to_owned(),
            )
        })
        .collect();
    rows.sort();
    rows
}

pub(super) fn condition(cluster: &Cluster, id: &Id, type_: &str) -> (String, String) {
    let status = &cluster.api.objects[id]["status"]["conditions"];
    let found = status.as_array().unwrap().iter();
    let found = found.clone().find(|one| one["type"] == type_).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&found["status"]), text(&found["reason"]))
}

fn notes(cluster: &Cluster, reason: &str) -> Vec<String> {
    let notes = cluster.writes.iter().filter_map(|write| write.on_success.as_ref());
    let notes = notes.filter(|note| note.reason == reason);
    notes.map(|note| note.message.clone()).collect()
}

#[test]
fn a_deployment_becomes_one_set_and_its_pods_on_both_nodes() {
    let mut cluster = cluster();
    let id = cluster.deployment("web", 4);
    cluster.live();
    assert_eq!(sets(&cluster), [(1, 4, "one".to_owned())]);
    let placed = cluster.pods().into_iter().map(|pod| pod.spec.unwrap().node_name.unwrap());
    let mut placed: Vec<String> = placed.collect();
    placed.sort();
    assert_eq!(placed, ["n1", "n1", "n2", "n2"]);
    let body = &cluster.api.objects[&id];
    let status = &body["status"];
    for count in ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"] {
        assert_eq!(status[count], 4, "{count}");
    }
    assert_eq!(status["observedGeneration"], body["metadata"]["generation"]);
    assert_eq!(status["unavailableReplicas"], Value::Null);
    assert_eq!(condition(&cluster, &id, "Available").0, "True");
    assert_eq!(condition(&cluster, &id, "Progressing").1, "NewReplicaSetAvailable");
    let name = cluster.api.objects.keys().find(|id| id.kind == Kind::ReplicaSet);
    let name = name.unwrap().name.clone();
    let said = format!("Scaled up replica set {name} from 0 to 4");
    assert_eq!(notes(&cluster, "ScalingReplicaSet"), [said]);
    assert_eq!(notes(&cluster, "SuccessfulCreate").len(), 4);
    cluster.assert_at_rest();
}

#[test]
fn pods_of_a_set_carry_the_hash_that_is_in_its_name() {
    let mut cluster = cluster();
    cluster.deployment("web", 1);
    cluster.live();
    let set = cluster.api.objects.keys().find(|id| id.kind == Kind::ReplicaSet);
    let hash = set.unwrap().name.strip_prefix("web-").unwrap().to_owned();
    let pod = cluster.pods().remove(0);
    assert_eq!(pod.metadata.labels.unwrap()["pod-template-hash"], hash);
    assert!(hash.len() <= 10 && hash.chars().all(|c| !"aeiou013".contains(c)), "{hash}");
}

/// Rolls with the agents acting between any two tasks, and watches the bounds.
fn roll_within(strategy: Value, replicas: i32, least: usize, most: usize) {
    let mut cluster = cluster();
    let id = cluster.deployment("web", replicas);
    cluster.edit(&id, |object| object["spec"]["strategy"] = strategy.clone());
    cluster.live();
    set_image(&mut cluster, &id, "two");
    for _ in 0..5000 {
        cluster.hear_all();
        let Some(task) = cluster.tasks.pop_first() else {
            if !cluster.agents() {
                break;
            }
            continue;
        };
        cluster.run(task);
        let pods = cluster.pods();
        let living = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let living: Vec<_> = living.collect();
        let ready = living.iter().filter(|pod| crate::pod::is_ready(pod)).count();
        assert!(ready >= least, "{ready} ready pods, {strategy}");
        assert!(living.len() <= most, "{} pods, {strategy}", living.len());
    }
    let rows = sets(&cluster);
    let replicas = i64::from(replicas);
    assert_eq!(rows, [(1, 0, "one".to_owned()), (2, replicas, "two".to_owned())]);
    cluster.assert_at_rest();
}

#[test]
fn a_rollout_keeps_between_max_unavailable_and_max_surge() {
    let rolling = |surge: Value, missing: Value| json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": missing}});
    roll_within(rolling(json!("25%"), json!("25%")), 10, 8, 13);
    roll_within(rolling(json!(1), json!(0)), 4, 4, 5);
    roll_within(rolling(json!(0), json!(2)), 5, 3, 5);
    roll_within(rolling(json!(0), json!(0)), 3, 2, 3);
    roll_within(rolling(json!("100%"), json!("0%")), 3, 3, 6);
    roll_within(json!(null), 2, 2, 3);
}

#[test]
fn recreate_starts_the_new_pods_when_the_last_old_one_is_gone() {
    let mut cluster = cluster();
    let id = cluster.deployment("web", 2);
    cluster.edit(&id, |object| object["spec"]["strategy"] = json!({"type": "Recreate"}));
    cluster.live();
    set_image(&mut cluster, &id, "two");
    cluster.settle();
    assert_eq!(sets(&cluster), [(1, 0, "one".to_owned())], "old pods still end");
    cluster.live();
    assert_eq!(sets(&cluster), [(1, 0, "one".to_owned()), (2, 2, "two".to_owned())]);
    cluster.assert_at_rest();
}

#[test]
fn scaling_changes_the_one_set_and_says_so() {
    let mut cluster = cluster();
    let id = cluster.deployment("web", 2);
    cluster.live();
    cluster.edit(&id, |object| object["spec"]["replicas"] = json!(5));
    cluster.live();
    cluster.edit(&id, |object| object["spec"]["replicas"] = json!(1));
    cluster.live();
    assert_eq!(sets(&cluster), [(1, 1, "one".to_owned())]);
    assert_eq!(cluster.pod_ids().len(), 1);
    let said = notes(&cluster, "ScalingReplicaSet");
    assert!(said[1].ends_with("from 2 to 5") && said[2].ends_with("from 5 to 1"), "{said:?}");
    cluster.assert_at_rest();
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_shared_out_by_size() {
    let mut cluster = cluster();
    let id = cluster.deployment("web", 10);
    cluster.live();
    set_image(&mut cluster, &id, "two");
    cluster.settle();
    assert_eq!(sets(&cluster), [(1, 8, "one".to_owned()), (2, 5, "two".to_owned())]);
    cluster.edit(&id, |object| object["spec"]["replicas"] = json!(20));
    cluster.hear_all();
    cluster.run(crate::plan::Task::Deployment(id.clone()));
    assert_eq!(sets(&cluster), [(1, 15, "one".to_owned()), (2, 10, "two".to_owned())]);
    cluster.live();
    assert_eq!(sets(&cluster), [(1, 0, "one".to_owned()), (2, 20, "two".to_owned())]);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut cluster = cluster();
    let id = cluster.deployment("web", 2);
    cluster.live();
    cluster.edit(&id, |object| object["spec"]["paused"] = json!(true));
    set_image(&mut cluster, &id, "two");
    cluster.edit(&id, |object| object["spec"]["replicas"] = json!(3));
    cluster.live();
    assert_eq!(sets(&cluster), [(1, 3, "one".to_owned())]);
    assert_eq!(condition(&cluster, &id, "Progressing").1, "DeploymentPaused");
    cluster.edit(&id, |object| object["spec"]["paused"] = json!(false));
    cluster.live();
    assert_eq!(sets(&cluster)[1], (2, 3, "two".to_owned()));
    cluster.assert_at_rest();
}

#[test]
fn going_back_to_an_old_template_takes_its_set_with_a_new_revision() {
    let mut cluster = cluster();
    let id = cluster.deployment("web", 2);
    cluster.live();
    set_image(&mut cluster, &id, "two");
    cluster.live();
    set_image(&mut cluster, &id, "one");
    cluster.live();
    assert_eq!(sets(&cluster), [(2, 0, "two".to_owned()), (3, 2, "one".to_owned())]);
    let annotations = &cluster.api.objects[&id]["metadata"]["annotations"];
    assert_eq!(annotations["deployment.kubernetes.io/revision"], "3");
    cluster.assert_at_rest();
}

#[test]
fn history_beyond_the_limit_is_forgotten_oldest_first() {
    let mut cluster = cluster();
    let id = cluster.deployment("web", 1);
    cluster.edit(&id, |object| object["spec"]["revisionHistoryLimit"] = json!(1));
    cluster.live();
    for image in ["two", "three", "four"] {
        set_image(&mut cluster, &id, image);
        cluster.live();
    }
    assert_eq!(sets(&cluster), [(3, 0, "three".to_owned()), (4, 1, "four".to_owned())]);
    cluster.assert_at_rest();
}

#[test]
fn a_rollout_without_progress_is_called_late_after_its_deadline_and_recovers() {
    let mut cluster = Cluster::new();
    let id = cluster.deployment("web", 1);
    cluster.settle();
    assert_eq!(condition(&cluster, &id, "Available").0, "False");
    cluster.advance(599);
    cluster.settle();
    assert_ne!(condition(&cluster, &id, "Progressing").0, "False");
    cluster.advance(1);
    cluster.settle();
    let late = ("False".to_owned(), "ProgressDeadlineExceeded".to_owned());
    assert_eq!(condition(&cluster, &id, "Progressing"), late);
    cluster.assert_at_rest();
    cluster.node("n1");
    cluster.live();
    let good = ("True".to_owned(), "NewReplicaSetAvailable".to_owned());
    assert_eq!(condition(&cluster, &id, "Progressing"), good);
}

#[test]
fn a_pod_counts_as_available_after_min_ready_seconds() {
    let mut cluster = cluster();
    let id = cluster.deployment("web", 1);
    cluster.edit(&id, |object| object["spec"]["minReadySeconds"] = json!(10));
    cluster.live();
    let status = |cluster: &Cluster| cluster.api.objects[&id]["status"].clone();
    assert_eq!(status(&cluster)["readyReplicas"], 1);
    assert_eq!(status(&cluster)["availableReplicas"], Value::Null);
    cluster.advance(10);
    cluster.settle();
    assert_eq!(status(&cluster)["availableReplicas"], 1);
}

#[test]
fn a_set_that_has_our_name_but_another_template_is_avoided() {
    let mut cluster = cluster();
    let id = cluster.deployment("web", 1);
    cluster.live();
    let set = cluster.api.objects.keys().find(|id| id.kind == Kind::ReplicaSet).unwrap().clone();
    cluster.edit(&set, |set| {
        set["spec"]["template"]["spec"]["containers"][0]["image"] = json!("foreign");
    });
    cluster.live();
    assert_eq!(cluster.api.objects[&id]["status"]["collisionCount"], 1);
    assert_eq!(sets(&cluster).last().unwrap(), &(2, 1, "one".to_owned()));
    cluster.assert_at_rest();
}
