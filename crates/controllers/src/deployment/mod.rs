//! Deployment → ReplicaSets: one per version of the pod template, rolled over in steps.
//!
//! ```text
//! Deployment ─► claim ─► find or make the new ReplicaSet ─► paused / resized / strategy ─► history, status
//! ```
//!
//! Each reconcile takes one step; the change it causes calls the next. A rollout never falls below
//! `replicas - maxUnavailable` available pods, nor climbs above `replicas + maxSurge`.
//! Behaviour: Kubernetes' API conventions for apps/v1 and `kubectl rollout`.

mod rollout;
mod scaling;
mod status;
mod template;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use serde_json::json;

use crate::object::{Id, Kind, Object};
use crate::plan::{Note, Plan, Write};
use crate::world::World;
use crate::{owner, selector};

const COMPONENT: &str = "deployment-controller";
const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const TEMPLATE_HASH: &str = "pod-template-hash";

/// A Deployment with its ReplicaSets, oldest first.
struct Rollout<'a> {
    deployment: &'a Arc<Deployment>,
    /// The one whose template is the Deployment's.
    new: Option<Arc<ReplicaSet>>,
    old: Vec<Arc<ReplicaSet>>,
    world: &'a World,
    now: Timestamp,
}

pub fn reconcile(world: &World, id: &Id, now: Timestamp) -> Plan {
    let Some(deployment) = world.get::<Deployment>(id) else {
        return Plan::idle();
    };
    let is_leaving = deployment.metadata.deletion_timestamp.is_some();
    if is_leaving || world.is_namespace_terminating(&id.namespace) {
        return Plan::idle();
    }
    let claims = claims(world, deployment);
    if !claims.is_empty() {
        return Plan::of(claims);
    }
    let rollout = Rollout::of(world, deployment, now);
    let mut writes = rollout.step();
    if writes.iter().any(|write| write.action.id().as_ref() == Some(id)) {
        return Plan::of(writes); // a second write of the Deployment would be of an old version
    }
    let (status, wake_at) = rollout.status();
    writes.extend(status);
    Plan::of(writes).wake(wake_at)
}

fn claims(world: &World, deployment: &Deployment) -> Vec<Write> {
    let Some(spec) = &deployment.spec else {
        return Vec::new();
    };
    let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
    let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
    let takes = |set: &ReplicaSet| selector::matches(&spec.selector, set.metadata.labels.as_ref());
    let sets = world.list::<ReplicaSet>(namespace);
    let claim = |set: &Arc<ReplicaSet>| {
        let meta = &set.metadata;
        let is_leaving = meta.deletion_timestamp.is_some();
        match owner::controller_of(meta) {
            None if takes(set) && !is_leaving => {
                let reference = owner::controller_reference(Kind::Deployment, &deployment.metadata);
                Some(owner::adopt(Kind::ReplicaSet, meta, reference))
            }
            Some(owner) if owner.uid == uid && !takes(set) => Some(owner::release(Kind::ReplicaSet, meta, uid)),
            _ => None,
        }
    };
    sets.filter_map(claim).collect()
}

impl<'a> Rollout<'a> {
    fn of(world: &'a World, deployment: &'a Arc<Deployment>, now: Timestamp) -> Self {
        let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
        let mut sets: Vec<Arc<ReplicaSet>> =
            world.owned::<ReplicaSet>(uid).filter(|set| owner::is_controlled_by(&set.metadata, uid)).cloned().collect();
        sets.sort_by(|a, b| age(a).cmp(&age(b)));
        let wanted = deployment.spec.as_ref().map(|spec| &spec.template);
        let new = sets.iter().position(|set| {
            let own = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
            own.zip(wanted).is_some_and(|(own, wanted)| template::is_same(own, wanted))
        });
        let new = new.map(|index| sets.remove(index));
        Rollout { deployment, new, old: sets, world, now }
    }

    fn step(&self) -> Vec<Write> {
        let is_paused = self.deployment.spec.as_ref().is_some_and(|spec| spec.paused == Some(true));
        if self.new.is_some() {
            let noted = self.note_revision();
            if !noted.is_empty() {
                return noted;
            }
        }
        if is_paused || self.is_resized() {
            return self.resize();
        }
        let steps = match self.is_recreate() {
            true => self.recreate(),
            false => self.roll(),
        };
        if steps.is_empty() && self.is_complete() {
            return self.forget_history();
        }
        steps
    }

    /// The ReplicaSet for the current template, with as many pods as may be started now.
    fn create_new(&self, replicas: i32) -> Write {
        let revision = self.next_revision().to_string();
        let set = template::replica_set(self.deployment, replicas, &revision, self.max_replicas());
        let name = set.metadata.name.clone().unwrap_or_default();
        let id = Id::of(Kind::ReplicaSet, &set.metadata);
        if self.world.object(&id).is_some() {
            return self.count_collision();
        }
        let message = format!("Scaled up replica set {name} from 0 to {replicas}");
        let subject = Object::Deployment(self.deployment.clone());
        let failure = format!("Failed to create new replica set \"{name}\": {{error}}");
        let write =
            Write::create(set).telling_failure(Note::warning(COMPONENT, &subject, "ReplicaSetCreateError", failure));
        match replicas {
            0 => write,
            _ => write.telling(Note::normal(COMPONENT, &subject, "ScalingReplicaSet", message)),
        }
    }

    /// The name is taken by a set with another template: the next hash will differ.
    fn count_collision(&self) -> Write {
        let mut deployment = Deployment::clone(self.deployment);
        let status = deployment.status.get_or_insert_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        Write::replace_status(deployment)
    }

    fn next_revision(&self) -> i64 {
        self.old.iter().map(|set| revision(set)).max().unwrap_or(0) + 1
    }

    /// Keeps the revision and the Deployment's annotations on the new set, and the revision on the
    /// Deployment: `kubectl rollout history` reads both.
    fn note_revision(&self) -> Vec<Write> {
        let Some(new) = &self.new else {
            return Vec::new();
        };
        let revision = revision(new).max(self.next_revision()).to_string();
        let mut writes = Vec::new();
        let mut wanted = template::copied_annotations(self.deployment);
        wanted.insert(REVISION.to_owned(), revision.clone());
        let known = new.metadata.annotations.clone().unwrap_or_default();
        let min_ready = self.deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        let own_min_ready = new.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        let is_noted = wanted.iter().all(|(key, value)| known.get(key) == Some(value));
        if !is_noted || min_ready.unwrap_or(0) != own_min_ready.unwrap_or(0) {
            let body = json!({
                "metadata": {"annotations": wanted},
                "spec": {"minReadySeconds": min_ready},
            });
            writes.push(Write::patch(Id::of(Kind::ReplicaSet, &new.metadata), body));
        }
        if annotation(&self.deployment.metadata.annotations, REVISION) != Some(revision.as_str()) {
            let id = Id::of(Kind::Deployment, &self.deployment.metadata);
            let body = json!({"metadata": {"annotations": {REVISION: revision}}});
            writes.push(Write::patch(id, body));
        }
        writes
    }

    /// Empty sets beyond `revisionHistoryLimit`, the oldest revisions first.
    fn forget_history(&self) -> Vec<Write> {
        let spec = self.deployment.spec.as_ref();
        let limit = spec.and_then(|spec| spec.revision_history_limit).unwrap_or(10);
        let limit = usize::try_from(limit).unwrap_or(0);
        let mut empty: Vec<&Arc<ReplicaSet>> =
            self.old.iter().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
        empty.sort_by_key(|set| revision(set));
        let surplus = empty.len().saturating_sub(limit);
        empty
            .into_iter()
            .take(surplus)
            .filter(|set| is_empty(set))
            .map(|set| Write::delete(Kind::ReplicaSet, &set.metadata))
            .collect()
    }
}

fn age(set: &ReplicaSet) -> (Option<Timestamp>, Option<&str>) {
    let created = set.metadata.creation_timestamp.as_ref();
    (created.map(|time| time.0), set.metadata.name.as_deref())
}

fn is_empty(set: &ReplicaSet) -> bool {
    let has_seen = set.status.as_ref().is_some_and(|status| status.replicas == 0);
    replicas(set) == 0 && has_seen
}

fn annotation<'a>(annotations: &'a Option<selector::Labels>, key: &str) -> Option<&'a str> {
    annotations.as_ref()?.get(key).map(String::as_str)
}

fn revision(set: &ReplicaSet) -> i64 {
    let text = annotation(&set.metadata.annotations, REVISION);
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// `spec.replicas` of a set.
fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn available(set: &ReplicaSet) -> i32 {
    let status = set.status.as_ref();
    status.and_then(|status| status.available_replicas).unwrap_or(0)
}

#[cfg(test)]
mod revision_laws;
#[cfg(test)]
mod tests;
