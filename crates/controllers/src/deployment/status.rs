//! Status of a Deployment: counts, Available and Progressing.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Rollout, available};
use crate::plan::Write;
use crate::replica_set::positive;

impl Rollout<'_> {
    /// All pods are of the new template, and all are available.
    pub(super) fn is_complete(&self) -> bool {
        let desired = self.desired();
        let Some(new) = &self.new else {
            return false;
        };
        let is_seen = observed(new) >= new.metadata.generation.unwrap_or(0);
        let total: i32 = self.sets().map(|set| existing(set)).sum();
        is_seen && existing(new) == desired && total == desired && available(new) == desired
    }

    /// The write that brings the status up to date, and when the deadline must be looked at.
    pub(super) fn status(&self) -> (Option<Write>, Option<Timestamp>) {
        let old = self.deployment.status.clone().unwrap_or_default();
        let mut status = self.counts(&old);
        let mut conditions = old.conditions.clone().unwrap_or_default();
        set_condition(&mut conditions, self.availability(&status), self.now);
        let wake_at = self.progress(&old, &status, &mut conditions);
        status.conditions = Some(conditions).filter(|all| !all.is_empty());
        if status == old {
            return (None, wake_at);
        }
        let mut updated = Deployment::clone(self.deployment);
        updated.status = Some(status);
        (Some(Write::replace_status(updated)), wake_at)
    }

    fn counts(&self, old: &DeploymentStatus) -> DeploymentStatus {
        let total: i32 = self.sets().map(|set| existing(set)).sum();
        let ready: i32 = self.sets().map(|set| ready(set)).sum();
        let available: i32 = self.sets().map(|set| available(set)).sum();
        let updated = self.new.as_ref().map_or(0, |new| existing(new));
        let wanted: i32 = total.max(self.desired());
        DeploymentStatus {
            observed_generation: self.deployment.metadata.generation,
            replicas: positive(total),
            updated_replicas: positive(updated),
            ready_replicas: positive(ready),
            available_replicas: positive(available),
            unavailable_replicas: positive(wanted - available),
            collision_count: old.collision_count,
            conditions: None,
            terminating_replicas: None,
        }
    }

    fn availability(&self, status: &DeploymentStatus) -> DeploymentCondition {
        let minimum = self.desired() - self.bounds().1;
        match status.available_replicas.unwrap_or(0) >= minimum {
            true => condition(
                "Available",
                "True",
                "MinimumReplicasAvailable",
                "Deployment has minimum availability.".to_owned(),
            ),
            false => condition(
                "Available",
                "False",
                "MinimumReplicasUnavailable",
                "Deployment does not have minimum availability.".to_owned(),
            ),
        }
    }

    fn progress(
        &self,
        old: &DeploymentStatus,
        status: &DeploymentStatus,
        conditions: &mut Vec<DeploymentCondition>,
    ) -> Option<Timestamp> {
        let spec = self.deployment.spec.as_ref()?;
        let deadline_secs = spec.progress_deadline_seconds.unwrap_or(600);
        if deadline_secs == i32::MAX {
            conditions.retain(|one| one.type_ != "Progressing");
            return None;
        }
        if spec.paused == Some(true) {
            let message = "Deployment is paused".to_owned();
            let paused = condition("Progressing", "Unknown", "DeploymentPaused", message);
            set_condition(conditions, paused, self.now);
            return None;
        }
        let new = self.new.as_ref()?;
        let name = new.metadata.name.as_deref().unwrap_or_default();
        let known = find(conditions, "Progressing").cloned();
        let deadline = SignedDuration::from_secs(i64::from(deadline_secs));
        let next = self.next_progress(name, known.as_ref(), old, status, deadline);
        if let Some(next) = next {
            touch_condition(conditions, next, self.now);
        }
        let current = find(conditions, "Progressing")?;
        let is_waiting = !self.is_complete() && current.status != "False";
        let is_settled = current.reason.as_deref() == Some("NewReplicaSetAvailable");
        let since = current.last_update_time.as_ref().map(|time| time.0);
        since.filter(|_| is_waiting && !is_settled).map(|since| since + deadline)
    }

    /// The Progressing condition to come; `None` leaves it as it is.
    fn next_progress(
        &self,
        name: &str,
        known: Option<&DeploymentCondition>,
        old: &DeploymentStatus,
        status: &DeploymentStatus,
        deadline: SignedDuration,
    ) -> Option<DeploymentCondition> {
        let progressing = |status, reason, message| condition("Progressing", status, reason, message);
        let message = known.and_then(|known| known.message.as_deref());
        let is_about_it = message.is_some_and(|message| message.contains(&format!("\"{name}\"")));
        let reason = known.and_then(|known| known.reason.as_deref());
        let complete = || {
            let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
            progressing("True", "NewReplicaSetAvailable", message)
        };
        if !is_about_it {
            let message = format!("Created new replica set \"{name}\"");
            return Some(match self.is_complete() {
                true => complete(),
                false => progressing("True", "NewReplicaSetCreated", message),
            });
        }
        if reason == Some("NewReplicaSetAvailable") {
            return None;
        }
        if self.is_complete() {
            return Some(complete());
        }
        if has_progressed(old, status) {
            let message = format!("ReplicaSet \"{name}\" is progressing.");
            return Some(progressing("True", "ReplicaSetUpdated", message));
        }
        let since = known.and_then(|known| known.last_update_time.as_ref());
        let is_late = since.is_some_and(|since| since.0 + deadline <= self.now);
        (is_late && reason != Some("ProgressDeadlineExceeded")).then(|| {
            let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
            progressing("False", "ProgressDeadlineExceeded", message)
        })
    }
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let grows = |old: Option<i32>, new: Option<i32>| new.unwrap_or(0) > old.unwrap_or(0);
    let others = |status: &DeploymentStatus| status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0);
    grows(old.updated_replicas, new.updated_replicas)
        || grows(old.ready_replicas, new.ready_replicas)
        || grows(old.available_replicas, new.available_replicas)
        || others(new) < others(old)
}

fn existing(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

fn ready(set: &ReplicaSet) -> i32 {
    let status = set.status.as_ref();
    status.and_then(|status| status.ready_replicas).unwrap_or(0)
}

fn observed(set: &ReplicaSet) -> i64 {
    let status = set.status.as_ref();
    status.and_then(|status| status.observed_generation).unwrap_or(0)
}

fn condition(type_: &str, status: &str, reason: &str, message: String) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: None,
        last_update_time: None,
    }
}

fn find<'a>(conditions: &'a [DeploymentCondition], type_: &str) -> Option<&'a DeploymentCondition> {
    conditions.iter().find(|one| one.type_ == type_)
}

/// Sets a condition unless it says the same already.
fn set_condition(conditions: &mut Vec<DeploymentCondition>, next: DeploymentCondition, now: Timestamp) {
    let known = find(conditions, &next.type_);
    let says_same = known.is_some_and(|known| known.status == next.status && known.reason == next.reason);
    if !says_same {
        touch_condition(conditions, next, now);
    }
}

/// Sets a condition with a fresh update time; the transition time moves with the status only.
fn touch_condition(conditions: &mut Vec<DeploymentCondition>, mut next: DeploymentCondition, now: Timestamp) {
    let known = find(conditions, &next.type_).cloned();
    next.last_update_time = Some(Time(now));
    next.last_transition_time =
        known.filter(|known| known.status == next.status).map_or(Some(Time(now)), |known| known.last_transition_time);
    conditions.retain(|one| one.type_ != next.type_);
    conditions.push(next);
}
