//! ReplicaSet → Pods: keeps as many active pods as asked for.
//!
//! A pod that is terminating or finished does not count, so its replacement comes at once.
//! Surplus goes in Kubernetes' order: not yet placed, not ready, crowded, young first.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::object::{Id, Kind, Object};
use crate::plan::{Note, Plan, Write};
use crate::pod::{self, Availability};
use crate::world::World;
use crate::{owner, selector};

const COMPONENT: &str = "replicaset-controller";
/// Kubernetes' burst: the rest follows in the next round.
const BURST: usize = 500;

pub fn reconcile(world: &World, id: &Id, now: Timestamp) -> Plan {
    let Some(set) = world.get::<ReplicaSet>(id) else {
        return Plan::idle();
    };
    if set.metadata.deletion_timestamp.is_some() || world.is_namespace_terminating(&id.namespace) {
        return Plan::idle();
    }
    let claims = claims(world, set);
    if !claims.is_empty() {
        return Plan::of(claims);
    }
    let pods = active_pods(world, set);
    let writes = scale(world, set, &pods);
    if !writes.is_empty() {
        return Plan::of(writes);
    }
    let (status, wake_at) = status(set, &pods, now);
    if set.status.as_ref() == Some(&status) {
        return Plan::idle().wake(wake_at);
    }
    let mut updated = ReplicaSet::clone(set);
    updated.status = Some(status);
    Plan::of(vec![Write::replace_status(updated)]).wake(wake_at)
}

/// Adopts matching orphans, lets go of own pods that match no longer.
fn claims(world: &World, set: &ReplicaSet) -> Vec<Write> {
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let Some(spec) = &set.spec else {
        return Vec::new();
    };
    let takes = |pod: &Pod| selector::matches(&spec.selector, pod.metadata.labels.as_ref());
    let strays = world
        .owned::<Pod>(uid)
        .filter(|pod| owner::is_controlled_by(&pod.metadata, uid))
        .filter(|pod| !takes(pod) && !pod::is_terminating(pod))
        .map(|pod| owner::release(Kind::Pod, &pod.metadata, uid));
    let orphans = world
        .list::<Pod>(namespace)
        .filter(|pod| owner::controller_of(&pod.metadata).is_none())
        .filter(|pod| takes(pod) && pod::is_active(pod))
        .map(|pod| {
            let reference = owner::controller_reference(Kind::ReplicaSet, &set.metadata);
            owner::adopt(Kind::Pod, &pod.metadata, reference)
        });
    strays.chain(orphans).collect()
}

fn active_pods(world: &World, set: &ReplicaSet) -> Vec<Arc<Pod>> {
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let owned = world.owned::<Pod>(uid);
    owned.filter(|pod| owner::is_controlled_by(&pod.metadata, uid) && pod::is_active(pod)).cloned().collect()
}

fn wanted(set: &ReplicaSet) -> usize {
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas);
    usize::try_from(replicas.unwrap_or(1)).unwrap_or(0)
}

fn scale(world: &World, set: &Arc<ReplicaSet>, pods: &[Arc<Pod>]) -> Vec<Write> {
    let wanted = wanted(set);
    let subject = Object::ReplicaSet(set.clone());
    if pods.len() < wanted {
        let count = (wanted - pods.len()).min(BURST);
        return (0..count).map(|_| create_pod(set, &subject)).collect();
    }
    let surplus = (pods.len() - wanted).min(BURST);
    let ranked = rank(world, set, pods);
    let doomed = ranked.iter().take(surplus);
    doomed.map(|pod| delete_pod(pod, &subject)).collect()
}

fn create_pod(set: &ReplicaSet, subject: &Object) -> Write {
    let template = set.spec.as_ref().and_then(|spec| spec.template.clone());
    let template = template.unwrap_or_default();
    let wanted = template.metadata.unwrap_or_default();
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let pod = Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: set.metadata.namespace.clone(),
            labels: wanted.labels,
            annotations: wanted.annotations,
            finalizers: wanted.finalizers,
            owner_references: Some(vec![owner::controller_reference(Kind::ReplicaSet, &set.metadata)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    };
    let created = "Created pod: {name}".to_owned();
    let failed = "Error creating: {error}".to_owned();
    Write::create(pod)
        .telling(Note::normal(COMPONENT, subject, "SuccessfulCreate", created))
        .telling_failure(Note::warning(COMPONENT, subject, "FailedCreate", failed))
}

fn delete_pod(pod: &Pod, subject: &Object) -> Write {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let message = format!("Deleted pod: {name}");
    let note = Note::normal(COMPONENT, subject, "SuccessfulDelete", message);
    Write::delete(Kind::Pod, &pod.metadata).telling(note)
}

/// The pods in the order in which they are given up.
fn rank(world: &World, set: &ReplicaSet, pods: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
    let crowd = siblings_by_node(world, set);
    let mut ranked = pods.to_vec();
    ranked.sort_by_cached_key(|pod| {
        let node = pod::node_name(pod);
        let ready = pod::is_ready(pod);
        let neighbours = node.and_then(|node| crowd.get(node)).copied();
        let phase = match pod::phase(pod) {
            "Pending" => 0,
            "Unknown" => 1,
            _ => 2,
        };
        (
            (node.is_some(), phase, ready, deletion_cost(pod)),
            Reverse(neighbours.unwrap_or(0)),
            Reverse(pod::ready_since(pod).filter(|_| ready)),
            Reverse(restarts(pod)),
            Reverse(pod.metadata.creation_timestamp.clone()),
            pod.metadata.name.clone(),
        )
    });
    ranked
}

/// Ready pods per node of all ReplicaSets with the same owner: a rollout's new pods count as
/// neighbours of the old.
fn siblings_by_node(world: &World, set: &ReplicaSet) -> BTreeMap<String, usize> {
    let family: Vec<&str> = match owner::controller_of(&set.metadata) {
        None => vec![set.metadata.uid.as_deref().unwrap_or_default()],
        Some(parent) => world.owned::<ReplicaSet>(&parent.uid).filter_map(|set| set.metadata.uid.as_deref()).collect(),
    };
    let mut counts = BTreeMap::new();
    for pod in family.iter().flat_map(|uid| world.owned::<Pod>(uid)) {
        if let Some(node) = pod::node_name(pod).filter(|_| pod::is_active(pod)) {
            *counts.entry(node.to_owned()).or_default() += 1;
        }
    }
    counts
}

fn deletion_cost(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    let cost = annotations.and_then(|all| all.get("controller.kubernetes.io/pod-deletion-cost"));
    cost.and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref();
    let statuses = statuses.and_then(|status| status.container_statuses.as_ref());
    let counts = statuses.into_iter().flatten().map(|one| one.restart_count);
    counts.max().unwrap_or(0)
}

fn status(set: &ReplicaSet, pods: &[Arc<Pod>], now: Timestamp) -> (ReplicaSetStatus, Option<Timestamp>) {
    let spec = set.spec.clone().unwrap_or_default();
    let template = spec.template.and_then(|template| template.metadata);
    let labels = template.and_then(|meta| meta.labels).unwrap_or_default();
    let mut ready = 0;
    let mut available = 0;
    let mut wake_at: Option<Timestamp> = None;
    for pod in pods {
        ready += i32::from(pod::is_ready(pod));
        match pod::availability(pod, spec.min_ready_seconds.unwrap_or(0), now) {
            Availability::Available => available += 1,
            Availability::From(at) => wake_at = Some(wake_at.map_or(at, |other| other.min(at))),
            Availability::Unready => {}
        }
    }
    let labelled = pods.iter().filter(|pod| selector::pairs_match(&labels, pod.metadata.labels.as_ref()));
    let status = ReplicaSetStatus {
        replicas: count(pods.len()),
        fully_labeled_replicas: positive(count(labelled.count())),
        ready_replicas: positive(ready),
        available_replicas: positive(available),
        observed_generation: set.metadata.generation,
        conditions: set.status.as_ref().and_then(|old| old.conditions.clone()),
        terminating_replicas: None,
    };
    (status, wake_at)
}

fn count(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

/// Counts of zero are left out, as Kubernetes does.
pub(crate) fn positive(count: i32) -> Option<i32> {
    (count > 0).then_some(count)
}
