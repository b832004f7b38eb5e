//! Pods: first status, quality of service, what admission adds, binding, graceful deletion.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::time_text;
use crate::object::{child_mut, meta_mut, text};

/// Seconds a pod stays on a node that went away, as kube-apiserver's admission sets it.
const TOLERATION_SECS: u32 = 300;

pub fn prepare_create(pod: &mut Value) {
    let quality = quality_of_service(pod);
    pod["status"] = json!({ "phase": "Pending", "qosClass": quality });
    let spec = child_mut(pod, "spec");
    let account = ["serviceAccountName", "serviceAccount"].iter().find_map(|name| spec.get(*name)?.as_str());
    let account = account.filter(|name| !name.is_empty()).unwrap_or("default").to_owned();
    spec.insert("serviceAccountName".into(), account.clone().into());
    spec.insert("serviceAccount".into(), account.into());
    spec.entry("priority").or_insert(0.into());
    spec.entry("preemptionPolicy").or_insert("PreemptLowerPriority".into());
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    if let Some(list) = tolerations.as_array_mut() {
        for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
            add_toleration(list, key);
        }
    }
}

fn add_toleration(list: &mut Vec<Value>, key: &str) {
    let covers = |toleration: &Value| {
        let (its_key, effect) = (text(toleration, "/key"), text(toleration, "/effect"));
        (its_key.is_empty() || its_key == key) && (effect.is_empty() || effect == "NoExecute")
    };
    if !list.iter().any(covers) {
        list.push(
            json!({ "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECS }),
        );
    }
}

/// Guaranteed: every container limits cpu and memory to what it requests. BestEffort: none says anything.
fn quality_of_service(pod: &Value) -> &'static str {
    let lists =
        ["/spec/containers", "/spec/initContainers"].map(|pointer| pod.pointer(pointer).and_then(Value::as_array));
    let containers: Vec<&Value> = lists.into_iter().flatten().flatten().collect();
    let amount = |container: &Value, sort: &str, resource: &str| {
        let amount = container.get("resources")?.get(sort)?.get(resource)?;
        (*amount != Value::Null).then(|| amount.clone())
    };
    let says_nothing = containers.iter().all(|container| {
        ["cpu", "memory"]
            .iter()
            .all(|resource| amount(container, "requests", resource).or(amount(container, "limits", resource)).is_none())
    });
    let is_exact = containers.iter().all(|container| {
        ["cpu", "memory"].iter().all(|resource| {
            let limit = amount(container, "limits", resource);
            limit.is_some() && amount(container, "requests", resource).is_none_or(|request| Some(request) == limit)
        })
    });
    match (says_nothing, is_exact) {
        (true, _) => "BestEffort",
        (_, true) => "Guaranteed",
        _ => "Burstable",
    }
}

/// The pod, bound to a node.
pub fn bound(mut pod: Value, node: &str, now: Timestamp) -> Value {
    child_mut(&mut pod, "spec").insert("nodeName".into(), node.into());
    let condition = json!({ "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": time_text(now) });
    let status = child_mut(&mut pod, "status");
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    if let Some(list) = conditions.as_array_mut() {
        list.retain(|condition| text(condition, "/type") != "PodScheduled");
        list.push(condition);
    }
    pod
}

/// Seconds the pod is given to end: none when no node runs it.
pub fn grace_secs(pod: &Value, asked: Option<i64>) -> i64 {
    let is_over = matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
    if text(pod, "/spec/nodeName").is_empty() || is_over {
        return 0;
    }
    let own = pod.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    asked.or(own).unwrap_or(30).max(0)
}

/// Marks the pod as ending. A pod that ends already may only be hurried.
pub fn mark_deleting(pod: &mut Value, grace_secs: i64, now: Timestamp) {
    let meta = meta_mut(pod);
    let before = meta.get("deletionGracePeriodSeconds").and_then(Value::as_i64);
    if meta.contains_key("deletionTimestamp") && before.is_none_or(|before| before <= grace_secs) {
        return;
    }
    let end = now + SignedDuration::from_secs(grace_secs);
    meta.insert("deletionTimestamp".into(), time_text(end).into());
    meta.insert("deletionGracePeriodSeconds".into(), grace_secs.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        let both = |cpu: &str| json!({ "cpu": cpu, "memory": "1Gi" });
        for (resources, expected) in [
            (json!({}), "BestEffort"),
            (json!({ "limits": both("1") }), "Guaranteed"),
            (json!({ "limits": both("1"), "requests": both("1") }), "Guaranteed"),
            (json!({ "limits": both("2"), "requests": both("1") }), "Burstable"),
            (json!({ "requests": { "cpu": "1" } }), "Burstable"),
        ] {
            let pod = json!({ "spec": { "containers": [{ "resources": resources.clone() }] } });
            assert_eq!(quality_of_service(&pod), expected, "{resources}");
        }
    }

    #[test]
    fn a_pod_without_a_node_gets_no_grace_and_an_ending_pod_can_only_be_hurried() {
        let now: Timestamp = "2026-11-22T11:00:00Z".parse().expect("a time");
        let pod = json!({ "spec": { "terminationGracePeriodSeconds": 7 } });
        assert_eq!(grace_secs(&pod, Some(5)), 0);
        let mut bound = bound(pod, "node-1", now);
        assert_eq!(grace_secs(&bound, None), 7);
        assert_eq!(grace_secs(&bound, Some(5)), 5);
        mark_deleting(&mut bound, 7, now);
        assert_eq!(bound["metadata"]["deletionTimestamp"], "2026-11-22T11:00:07Z");
        mark_deleting(&mut bound, 9, now);
        assert_eq!(bound["metadata"]["deletionGracePeriodSeconds"], 7);
        mark_deleting(&mut bound, 0, now);
        assert_eq!(bound["metadata"]["deletionGracePeriodSeconds"], 0);
    }
}
