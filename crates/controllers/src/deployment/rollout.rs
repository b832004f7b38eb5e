//! The two strategies: RollingUpdate and Recreate, one step at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Rollout, available, replicas};
use crate::plan::Write;
use crate::pod;

impl Rollout<'_> {
    pub(super) fn desired(&self) -> i32 {
        let spec = self.deployment.spec.as_ref();
        spec.and_then(|spec| spec.replicas).unwrap_or(1)
    }

    pub(super) fn is_recreate(&self) -> bool {
        let spec = self.deployment.spec.as_ref();
        let strategy = spec.and_then(|spec| spec.strategy.as_ref());
        strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
    }

    /// `(maxSurge, maxUnavailable)` in pods. Surge rounds up, unavailable down; both zero would
    /// stand still, so then one pod may be missing.
    pub(super) fn bounds(&self) -> (i32, i32) {
        if self.is_recreate() {
            return (0, self.desired());
        }
        let spec = self.deployment.spec.as_ref();
        let strategy = spec.and_then(|spec| spec.strategy.as_ref());
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.clone());
        let rolling = rolling.unwrap_or_default();
        let quarter = || IntOrString::String("25%".to_owned());
        let desired = self.desired();
        let surge = resolve(&rolling.max_surge.unwrap_or_else(quarter), desired, Rounding::Up);
        let missing = resolve(&rolling.max_unavailable.unwrap_or_else(quarter), desired, Rounding::Down);
        match (surge, missing) {
            (0, 0) => (0, 1.min(desired)),
            (surge, missing) => (surge, missing.min(desired)),
        }
    }

    pub(super) fn max_replicas(&self) -> i32 {
        match self.desired() {
            0 => 0,
            desired => desired + self.bounds().0,
        }
    }

    pub(super) fn total(&self) -> i32 {
        self.sets().map(|set| replicas(set)).sum()
    }

    pub(super) fn sets(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new)
    }

    /// Up with the new set while there is room, else down with the old ones.
    pub(super) fn roll(&self) -> Vec<Write> {
        let desired = self.desired();
        let own = self.new.as_ref().map_or(0, |new| replicas(new));
        let room = (self.max_replicas() - self.total()).max(0);
        let target = match own > desired {
            true => desired,
            false => own + room.min(desired - own),
        };
        match &self.new {
            None => vec![self.create_new(target)],
            Some(new) if target != own => vec![self.scale(new, target)],
            Some(new) => self.shrink_old(new),
        }
    }

    /// First what is broken anyway, then as much as the available pods allow.
    fn shrink_old(&self, new: &ReplicaSet) -> Vec<Write> {
        let min_available = self.desired() - self.bounds().1;
        let missing_in_new = replicas(new) - available(new);
        let mut allowance = (self.total() - min_available - missing_in_new).max(0);
        let mut targets = BTreeMap::new();
        for (index, set) in self.old.iter().enumerate() {
            let broken = (replicas(set) - available(set)).clamp(0, allowance);
            allowance -= broken;
            targets.insert(index, replicas(set) - broken);
        }
        let all_available: i32 = self.sets().map(|set| available(set)).sum();
        let mut spare = (all_available - min_available).max(0).min(allowance);
        for target in targets.values_mut() {
            let down = (*target).min(spare);
            spare -= down;
            *target -= down;
        }
        let changed = self.old.iter().enumerate();
        let changed = changed.filter(|(index, set)| targets[index] != replicas(set));
        changed.map(|(index, set)| self.scale(set, targets[&index])).collect()
    }

    /// The new set starts when the last pod of the old ones is gone.
    pub(super) fn recreate(&self) -> Vec<Write> {
        let running = self.old.iter().filter(|set| replicas(set) > 0);
        let down: Vec<Write> = running.map(|set| self.scale(set, 0)).collect();
        if !down.is_empty() {
            return down;
        }
        if self.old.iter().any(|set| self.has_running_pods(set)) {
            return Vec::new();
        }
        match &self.new {
            None => vec![self.create_new(self.desired())],
            Some(new) if replicas(new) != self.desired() => vec![self.scale(new, self.desired())],
            Some(_) => Vec::new(),
        }
    }

    fn has_running_pods(&self, set: &ReplicaSet) -> bool {
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        self.world.owned::<Pod>(uid).any(|pod| !pod::is_finished(pod))
    }
}

enum Rounding {
    Up,
    Down,
}

/// A count, or a percentage of `total`.
fn resolve(value: &IntOrString, total: i32, rounding: Rounding) -> i32 {
    let text = match value {
        IntOrString::Int(count) => return (*count).max(0),
        IntOrString::String(text) => text,
    };
    let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
    let scaled = percent.max(0) * i64::from(total);
    let pods = match rounding {
        Rounding::Up => (scaled + 99) / 100,
        Rounding::Down => scaled / 100,
    };
    i32::try_from(pods).unwrap_or(i32::MAX)
}
