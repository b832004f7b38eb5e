//! The defaults of Deployment and ReplicaSet.

use serde_json::Value;

use super::pod::pod_spec;
use super::{default, default_pointer, object_at};
use crate::value::Object;

pub(super) fn deployment(object: &mut Object) {
    let Some(spec) = object_at(object, "spec") else {
        return;
    };
    default_pointer(spec, "replicas", 1);
    default_pointer(spec, "revisionHistoryLimit", 10);
    default_pointer(spec, "progressDeadlineSeconds", 600);
    if let Some(strategy) = object_at(spec, "strategy") {
        default(strategy, "type", "RollingUpdate");
        if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
            rolling_update(strategy);
        }
    }
    template(spec);
}

fn rolling_update(strategy: &mut Object) {
    if let Some(rolling) = object_at(strategy, "rollingUpdate") {
        default_pointer(rolling, "maxUnavailable", "25%");
        default_pointer(rolling, "maxSurge", "25%");
    }
}

pub(super) fn replica_set(object: &mut Object) {
    let Some(spec) = object_at(object, "spec") else {
        return;
    };
    default_pointer(spec, "replicas", 1);
    template(spec);
}

fn template(spec: &mut Object) {
    let Some(template) = object_at(spec, "template") else {
        return;
    };
    object_at(template, "metadata");
    if let Some(pod) = object_at(template, "spec") {
        pod_spec(pod);
    }
}
