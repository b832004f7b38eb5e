//! Questions about a Pod that several controllers ask.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition};

pub fn node_name(pod: &Pod) -> Option<&str> {
    let name = pod.spec.as_ref()?.node_name.as_deref()?;
    (!name.is_empty()).then_some(name)
}

pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

pub fn phase(pod: &Pod) -> &str {
    let status = pod.status.as_ref();
    status.and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// Succeeded or Failed: it will not run again.
pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Counts towards the replicas of its owner: neither finished nor on its way out.
pub fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_terminating(pod)
}

pub fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_)
}

pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Since when the Ready condition is as it is.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let changed = condition(pod, "Ready")?.last_transition_time.as_ref();
    changed.map(|time| time.0)
}

pub fn addresses(pod: &Pod) -> impl Iterator<Item = &str> {
    let status = pod.status.as_ref();
    let many = status.and_then(|status| status.pod_ips.as_ref());
    let many = many.filter(|ips| !ips.is_empty());
    let one = status.filter(|_| many.is_none()).and_then(|status| status.pod_ip.as_deref());
    let many = many.into_iter().flatten().map(|ip| ip.ip.as_str());
    many.chain(one).filter(|ip| !ip.is_empty())
}

/// Whether a pod has been ready long enough (`minReadySeconds`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Availability {
    Available,
    /// Will be then, if it stays ready.
    From(Timestamp),
    Unready,
}

pub fn availability(pod: &Pod, min_ready_secs: i32, now: Timestamp) -> Availability {
    if !is_ready(pod) {
        return Availability::Unready;
    }
    if min_ready_secs <= 0 {
        return Availability::Available;
    }
    let since = ready_since(pod).unwrap_or(now);
    let from = since + SignedDuration::from_secs(i64::from(min_ready_secs));
    if from <= now { Availability::Available } else { Availability::From(from) }
}
