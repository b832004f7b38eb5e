//! The law of revisions: whatever users do to a template, its history is that of a list.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::tests::{cluster, condition, set_image, sets};
use crate::fixture::Cluster;
use crate::object::{Id, Kind};

const RESTARTED: &str = "kubectl.kubernetes.io/restartedAt";

/// What users do to a Deployment.
#[derive(Clone, Debug)]
enum Step {
    Image(u8),
    /// `kubectl rollout restart`, at another time each.
    Restart(u8),
    /// `kubectl rollout undo --to-revision`, by its place in the history.
    Undo(u8),
    Scale(u8),
    Pause,
    Resume,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4u8).prop_map(Step::Image),
        1 => (0..3u8).prop_map(Step::Restart),
        3 => any::<u8>().prop_map(Step::Undo),
        1 => (1..4u8).prop_map(Step::Scale),
        1 => Just(Step::Pause),
        1 => Just(Step::Resume),
    ]
}

/// The oracle: templates by revision, the newest last.
struct History {
    rows: Vec<(i64, String)>,
    limit: usize,
}

impl History {
    /// A template runs: it is the newest revision, and stands in the list once.
    fn runs(&mut self, template: &str) {
        let newest = self.rows.last().map_or(0, |(revision, _)| *revision);
        if self.rows.last().is_none_or(|(_, last)| last != template) {
            self.rows.retain(|(_, known)| known != template);
            self.rows.push((newest + 1, template.to_owned()));
        }
        let surplus = self.rows.len().saturating_sub(self.limit + 1);
        self.rows.drain(..surplus);
    }

    fn knows(&self, template: &str) -> bool {
        self.rows.iter().any(|(_, known)| known == template)
    }
}

/// A template in short: image and time of restart.
fn in_short(object: &Value) -> String {
    let template = &object["spec"]["template"];
    let image = template["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
    let restarted = template["metadata"]["annotations"][RESTARTED].as_str().unwrap_or_default();
    format!("{image} {restarted}")
}

/// Revision and template of each ReplicaSet, by revision.
fn kept(cluster: &Cluster) -> Vec<(i64, String)> {
    let sets = cluster.api.objects.iter().filter(|(id, _)| id.kind == Kind::ReplicaSet);
    let mut rows: Vec<(i64, String)> = sets
        .map(|(_, set)| {
            let revision = set["metadata"]["annotations"]["deployment.kubernetes.io/revision"].as_str();
            (revision.and_then(|text| text.parse().ok()).unwrap_or(0), in_short(set))
        })
        .collect();
    rows.sort();
    rows
}

/// Puts the template of a revision back, as `kubectl rollout undo` does.
fn undo(cluster: &mut Cluster, id: &Id, revision: i64) {
    let text = revision.to_string();
    let of_revision = |set: &&Value| set["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == text;
    let mut sets = cluster.api.objects.iter().filter(|(id, _)| id.kind == Kind::ReplicaSet).map(|(_, set)| set);
    let mut template = sets.find(of_revision).expect("the revision is kept")["spec"]["template"].clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove("pod-template-hash");
    }
    cluster.edit(id, |object| object["spec"]["template"] = template);
}

fn restart(cluster: &mut Cluster, id: &Id, at: &str) {
    cluster.edit(id, |object| object["spec"]["template"]["metadata"]["annotations"] = json!({ RESTARTED: at }));
}

fn take(cluster: &mut Cluster, id: &Id, step: &Step, history: &History) {
    match step {
        Step::Image(number) => set_image(cluster, id, &format!("image-{number}")),
        Step::Restart(number) => restart(cluster, id, &format!("{number}")),
        Step::Undo(place) => {
            let (revision, _) = history.rows[usize::from(*place) % history.rows.len()];
            undo(cluster, id, revision);
        }
        Step::Scale(replicas) => cluster.edit(id, |object| object["spec"]["replicas"] = json!(replicas)),
        Step::Pause => cluster.edit(id, |object| object["spec"]["paused"] = json!(true)),
        Step::Resume => cluster.edit(id, |object| object["spec"]["paused"] = json!(false)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_history_of_a_deployment_is_the_list_of_what_it_ran(
        steps in proptest::collection::vec(step(), 1..9),
        limit in 0..4usize,
    ) {
        let mut cluster = cluster();
        let id = cluster.deployment("web", 2);
        cluster.edit(&id, |object| object["spec"]["revisionHistoryLimit"] = json!(limit));
        cluster.live();
        let mut history = History { rows: Vec::new(), limit };
        history.runs(&in_short(&cluster.api.objects[&id]));
        for step in steps.iter().chain([&Step::Resume]) {
            take(&mut cluster, &id, step, &history);
            cluster.live();
            let object = &cluster.api.objects[&id];
            let template = in_short(object);
            // A paused Deployment makes no set; one that is there already is numbered all the same.
            if object["spec"]["paused"] != true || history.knows(&template) {
                history.runs(&template);
            }
            prop_assert_eq!(kept(&cluster), history.rows.clone(), "after {:?}", step);
        }
        let object = &cluster.api.objects[&id];
        let newest = history.rows.last().map(|(revision, _)| revision.to_string());
        prop_assert_eq!(object["metadata"]["annotations"]["deployment.kubernetes.io/revision"].as_str(), newest.as_deref());
        for (revision, replicas, _) in sets(&cluster) {
            let wanted = if Some(revision.to_string()) == newest { object["spec"]["replicas"].as_i64() } else { Some(0) };
            prop_assert_eq!(Some(replicas), wanted, "revision {}", revision);
        }
        cluster.assert_at_rest();
    }
}

#[test]
fn a_restart_is_a_revision_of_its_own_with_new_pods() {
    let mut cluster = cluster();
    let id = cluster.deployment("web", 2);
    cluster.live();
    let before = cluster.pod_ids();
    restart(&mut cluster, &id, "2026-11-22T12:00:00Z");
    cluster.live();
    assert_eq!(sets(&cluster), [(1, 0, "one".to_owned()), (2, 2, "one".to_owned())]);
    assert!(cluster.pod_ids().iter().all(|pod| !before.contains(pod)));
}

#[test]
fn a_late_rollout_that_is_undone_is_good_again_at_once() {
    let mut cluster = cluster();
    let id = cluster.deployment("web", 2);
    cluster.edit(&id, |object| object["spec"]["progressDeadlineSeconds"] = json!(5));
    cluster.live();
    set_image(&mut cluster, &id, "two");
    // Nobody makes the new pods ready.
    cluster.settle();
    cluster.advance(5);
    cluster.settle();
    assert_eq!(condition(&cluster, &id, "Progressing"), ("False".into(), "ProgressDeadlineExceeded".into()));
    undo(&mut cluster, &id, 1);
    cluster.live();
    assert_eq!(condition(&cluster, &id, "Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
    assert_eq!(sets(&cluster), [(2, 0, "two".to_owned()), (3, 2, "one".to_owned())]);
    cluster.assert_at_rest();
}
