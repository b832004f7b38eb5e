//! Resizing: a new `spec.replicas` in the middle of a rollout is shared out by size.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use serde_json::json;

use super::{COMPONENT, DESIRED_REPLICAS, MAX_REPLICAS, Rollout, annotation, available, replicas};
use crate::object::{Id, Kind, Object};
use crate::plan::{Note, Write};

impl Rollout<'_> {
    /// Whether a running set was sized for another `spec.replicas`.
    pub(super) fn is_resized(&self) -> bool {
        let desired = self.desired();
        let mut running = self.sets().filter(|set| replicas(set) > 0);
        running.any(|set| {
            let noted = annotation(&set.metadata.annotations, DESIRED_REPLICAS);
            let noted: Option<i32> = noted.and_then(|text| text.parse().ok());
            noted.is_some_and(|noted| noted != desired)
        })
    }

    pub(super) fn resize(&self) -> Vec<Write> {
        let running: Vec<&Arc<ReplicaSet>> = self.sets().filter(|set| replicas(set) > 0).collect();
        match (running.as_slice(), &self.new) {
            ([only], _) => self.scale_if_needed(only, self.desired()).into_iter().collect(),
            ([], Some(new)) => self.scale_if_needed(new, self.desired()).into_iter().collect(),
            ([], None) => Vec::new(),
            (_, Some(new)) if self.is_saturated(new) => {
                let old = self.old.iter();
                old.filter_map(|set| self.scale_if_needed(set, 0)).collect()
            }
            _ if self.is_recreate() => Vec::new(),
            _ => self.share_out(running),
        }
    }

    fn is_saturated(&self, new: &ReplicaSet) -> bool {
        let desired = self.desired();
        let noted = annotation(&new.metadata.annotations, DESIRED_REPLICAS);
        replicas(new) == desired
            && available(new) == desired
            && noted.and_then(|text| text.parse().ok()) == Some(desired)
    }

    /// Adds or takes pods in proportion to the sets' sizes; what rounding leaves goes to the
    /// largest, the newest among equals.
    fn share_out(&self, mut running: Vec<&Arc<ReplicaSet>>) -> Vec<Write> {
        running.reverse();
        running.sort_by_key(|set| std::cmp::Reverse(replicas(set)));
        let total = self.total();
        let allowed = self.max_replicas();
        let mut left = allowed - total;
        let mut targets: Vec<i32> = Vec::new();
        for set in &running {
            let share = f64::from(replicas(set)) * f64::from(allowed) / f64::from(total.max(1));
            let change = share.round() as i32 - replicas(set);
            let change = match left >= 0 {
                true => change.clamp(0, left),
                false => change.clamp(left, 0),
            };
            left -= change;
            targets.push(replicas(set) + change);
        }
        if let Some(largest) = targets.first_mut() {
            *largest = (*largest + left).max(0);
        }
        let sized = running.into_iter().zip(targets);
        sized.filter_map(|(set, target)| self.scale_if_needed(set, target)).collect()
    }

    /// Also when only the annotations are out of date: else the set looks resized for ever.
    fn scale_if_needed(&self, set: &ReplicaSet, target: i32) -> Option<Write> {
        let noted = annotation(&set.metadata.annotations, DESIRED_REPLICAS);
        let is_noted = noted == Some(self.desired().to_string().as_str());
        let is_sized = replicas(set) == target;
        (!is_sized || !is_noted).then(|| self.scale(set, target))
    }

    pub(super) fn scale(&self, set: &ReplicaSet, target: i32) -> Write {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let from = replicas(set);
        let body = json!({
            "metadata": {
                "resourceVersion": set.metadata.resource_version,
                "annotations": {
                    DESIRED_REPLICAS: self.desired().to_string(),
                    MAX_REPLICAS: self.max_replicas().to_string(),
                },
            },
            "spec": {"replicas": target},
        });
        let write = Write::patch(Id::of(Kind::ReplicaSet, &set.metadata), body);
        if from == target {
            return write;
        }
        let direction = if target > from { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {name} from {from} to {target}");
        let subject = Object::Deployment(self.deployment.clone());
        write.telling(Note::normal(COMPONENT, &subject, "ScalingReplicaSet", message))
    }
}
