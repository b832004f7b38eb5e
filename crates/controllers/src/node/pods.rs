//! The pods of one node: unready when it is unreachable, evicted when it stays so, removed when
//! it is no more.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{COMPONENT, NOT_READY, UNREACHABLE, condition, taints};
use crate::object::{Id, Kind, Object};
use crate::plan::{Alive, Note, Plan, Write};
use crate::pod;
use crate::world::World;

/// How long a pod without a word on it stays on a node that is not ready or unreachable.
const DEFAULT_TOLERATION_SECS: i64 = 300;
/// Reason of a Ready condition set here; what bears it is undone when the node is back.
const UNREADY_REASON: &str = "NodeNotReady";
/// A mirror pod belongs to its agent: it is not evicted.
const MIRROR: &str = "kubernetes.io/config.mirror";

pub fn reconcile(world: &World, name: &str, now: Timestamp) -> Plan {
    let Some(node) = world.node(name) else {
        let orphans = world.pods_on(name).map(|pod| remove(pod, name));
        return Plan::of(orphans.collect());
    };
    let mut plan = Plan::idle();
    for pod in world.pods_on(name).filter(|pod| !pod::is_finished(pod)) {
        plan.writes.extend(readiness(node, pod, now));
        if !pod::is_terminating(pod) && !is_mirror(pod) {
            match leave_at(node, pod, now) {
                Some(at) if at <= now => plan.writes.push(evict(pod)),
                at => plan = plan.wake(at),
            }
        }
    }
    plan
}

fn remove(pod: &Arc<Pod>, node: &str) -> Write {
    let node = Alive { id: Id::new(Kind::Node, "", node), uid: None };
    Write::delete(Kind::Pod, &pod.metadata).at_once().unless_alive(vec![node])
}

fn is_mirror(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.is_some_and(|all| all.contains_key(MIRROR))
}

fn readiness(node: &Node, pod: &Arc<Pod>, now: Timestamp) -> Option<Write> {
    let state = condition(node, "Ready").map(|ready| ready.status.as_str());
    let ready = pod::condition(pod, "Ready")?;
    let is_ours = ready.status == "False" && ready.reason.as_deref() == Some(UNREADY_REASON);
    let (status, reason) = match state {
        Some("Unknown") if ready.status == "True" => ("False", Some(UNREADY_REASON.to_owned())),
        Some("True") if is_ours && containers_ready(pod) => ("True", None),
        _ => return None,
    };
    let mut updated = Pod::clone(pod);
    let conditions = updated.status.as_mut()?.conditions.as_mut()?;
    let own = conditions.iter_mut().find(|one| one.type_ == "Ready")?;
    own.status = status.to_owned();
    own.reason = reason;
    own.last_transition_time = Some(Time(now));
    Some(Write::replace_status(updated))
}

fn containers_ready(pod: &Pod) -> bool {
    pod::condition(pod, "ContainersReady").is_none_or(|one| one.status == "True")
}

/// When the pod has to leave because of NoExecute taints; `None`: never.
fn leave_at(node: &Node, pod: &Pod, now: Timestamp) -> Option<Timestamp> {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_ref());
    let tolerations = tolerations.map(Vec::as_slice).unwrap_or_default();
    let taints = taints(node).iter();
    let taints = taints.filter(|taint| taint.effect == "NoExecute");
    taints.filter_map(|taint| leave_for(taint, tolerations, now)).min()
}

fn leave_for(taint: &Taint, tolerations: &[Toleration], now: Timestamp) -> Option<Timestamp> {
    let added = taint.time_added.as_ref().map_or(now, |time| time.0);
    let after = |secs: i64| added + SignedDuration::from_secs(secs.max(0));
    let matching: Vec<&Toleration> = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
    if matching.is_empty() {
        let has_grace = matches!(taint.key.as_str(), NOT_READY | UNREACHABLE);
        return Some(match has_grace {
            true => after(DEFAULT_TOLERATION_SECS),
            false => now,
        });
    }
    let limits = matching.iter().filter_map(|one| one.toleration_seconds);
    limits.min().map(after)
}

/// core/v1 Toleration: an empty key with Exists tolerates all, an empty effect any effect.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    let key = toleration.key.as_deref().unwrap_or_default();
    let is_any_value = toleration.operator.as_deref() == Some("Exists");
    if key.is_empty() {
        return is_any_value;
    }
    let value = |value: &Option<String>| value.clone().unwrap_or_default();
    key == taint.key && (is_any_value || value(&toleration.value) == value(&taint.value))
}

fn evict(pod: &Arc<Pod>) -> Write {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let message = format!("Marking for deletion Pod {namespace}/{name}");
    let subject = Object::Pod(pod.clone());
    let note = Note::normal(COMPONENT, &subject, "TaintManagerEviction", message);
    Write::delete(Kind::Pod, &pod.metadata).telling(note)
}
