//! ConfigMap, Secret, Node, Lease, Event, Binding.

use serde_json::Value;

use super::check::{Check, at};
use crate::names;
use crate::value::{entries, items, member, text};

/// Largest content of a ConfigMap or Secret, in bytes.
const CONTENT_MAX: usize = 1024 * 1024;
/// Longest note of an event, in bytes.
const NOTE_MAX: usize = 1024;

pub(super) fn config_map(object: &Value, check: &mut Check) {
    let mut size = 0;
    for list in ["data", "binaryData"] {
        for (key, value) in entries(object, list) {
            check.named(&format!("{list}[{key}]"), key, names::config_key(key));
            if list == "data" && member(at(object, "binaryData"), key).is_some() {
                check.invalid(format!("data[{key}]"), key.as_str(), "duplicate of key present in binaryData");
            }
            size += value.as_str().map_or(0, str::len);
        }
    }
    if size > CONTENT_MAX {
        check.too_long("", CONTENT_MAX);
    }
}

pub(super) fn config_map_update(old: &Value, new: &Value, check: &mut Check) {
    keeps_immutable(old, new, &["data", "binaryData"], check);
}

pub(super) fn secret(object: &Value, check: &mut Check) {
    let mut size = 0;
    for (key, value) in entries(object, "data") {
        check.named(&format!("data[{key}]"), key, names::config_key(key));
        // Base64 has four characters for three bytes.
        size += value.as_str().map_or(0, |text| text.len() / 4 * 3);
    }
    if size > CONTENT_MAX {
        check.too_long("data", CONTENT_MAX);
    }
    let needed: &[&str] = match text(object, "type") {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in needed {
        if member(at(object, "data"), key).is_none() {
            check.required(format!("data[{key}]"), "");
        }
    }
}

pub(super) fn secret_update(old: &Value, new: &Value, check: &mut Check) {
    check.immutable(old, new, "/type");
    keeps_immutable(old, new, &["data"], check);
}

/// What was marked immutable stays, and stays marked.
fn keeps_immutable(old: &Value, new: &Value, content: &[&str], check: &mut Check) {
    if old.get("immutable") != Some(&Value::Bool(true)) {
        return;
    }
    if new.get("immutable") != Some(&Value::Bool(true)) {
        check.forbidden("immutable", "field is immutable when `immutable` is set");
    }
    for field in content {
        if member(old, field) != member(new, field) {
            check.forbidden(*field, "field is immutable when `immutable` is set");
        }
    }
}

pub(super) fn node(object: &Value, check: &mut Check) {
    let spec = at(object, "spec");
    for (index, cidr) in items(spec, "podCIDRs").iter().enumerate() {
        if cidr.as_str().unwrap_or_default().parse::<ipnet::IpNet>().is_err() {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            check.invalid(format!("spec.podCIDRs[{index}]"), cidr.clone(), detail);
        }
    }
    for (index, taint) in items(spec, "taints").iter().enumerate() {
        let path = format!("spec.taints[{index}]");
        let (key, value) = (text(taint, "key"), text(taint, "value"));
        check.named(&format!("{path}.key"), key, names::qualified_name(key));
        check.named(&format!("{path}.value"), value, names::label_value(value));
        check.one_of(taint, "effect", &path, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
    }
}

/// A node's pod range is given once.
pub(super) fn node_update(old: &Value, new: &Value, check: &mut Check) {
    let (before, after) = (items(at(old, "spec"), "podCIDRs"), items(at(new, "spec"), "podCIDRs"));
    if !before.is_empty() && before != after {
        check.forbidden("spec.podCIDRs", "node updates may not change podCIDR except from \"\" to valid");
    }
    let (before, after) = (text(at(old, "spec"), "providerID"), text(at(new, "spec"), "providerID"));
    if !before.is_empty() && before != after {
        check.forbidden("spec.providerID", "node updates may not change providerID except from \"\" to valid");
    }
}

pub(super) fn lease(object: &Value, check: &mut Check) {
    let spec = at(object, "spec");
    if spec.get("holderIdentity").and_then(Value::as_str) == Some("") {
        check.invalid("spec.holderIdentity", "", "must not be empty");
    }
    if let Some(secs) = spec.get("leaseDurationSeconds").and_then(Value::as_i64).filter(|secs| *secs <= 0) {
        check.invalid("spec.leaseDurationSeconds", secs, "must be greater than 0");
    }
    check.not_negative(spec, "leaseTransitions", "spec");
}

/// An event lies in the namespace of what it is about; about cluster-wide objects in `default`.
pub(super) fn event(object: &Value, check: &mut Check) {
    let about = text(at(object, "involvedObject"), "namespace");
    let namespace = text(at(object, "metadata"), "namespace");
    let is_right = match about {
        "" => matches!(namespace, "" | "default" | "kube-system"),
        about => namespace.is_empty() || about == namespace,
    };
    if !is_right {
        check.invalid("involvedObject.namespace", about, "does not match event.namespace");
    }
}

/// An event of `events.k8s.io/v1`: says who, what and when, and uses no member of the old form.
pub(super) fn new_event(object: &Value, check: &mut Check) {
    let about = text(at(object, "regarding"), "namespace");
    let namespace = text(at(object, "metadata"), "namespace");
    if !about.is_empty() && !namespace.is_empty() && about != namespace {
        check.invalid("regarding.namespace", about, "does not match event.namespace");
    }
    if member(object, "eventTime").is_none() {
        check.required("eventTime", "");
    }
    match text(object, "reportingController") {
        "" => check.required("reportingController", ""),
        name => check.named("reportingController", name, names::qualified_name(name)),
    }
    for (field, max) in [("reportingInstance", 128), ("action", 128), ("reason", 128)] {
        match text(object, field) {
            "" => check.required(field, ""),
            said if said.len() > max => check.invalid(field, said, format!("can have at most {max} characters")),
            _ => {}
        }
    }
    if text(object, "note").len() > NOTE_MAX {
        check.invalid("note", "", "can have at most 1024 characters");
    }
    if !matches!(text(object, "type"), "Normal" | "Warning") {
        check.invalid("type", text(object, "type"), "has invalid value: ");
    }
    for field in ["deprecatedFirstTimestamp", "deprecatedLastTimestamp", "deprecatedCount"] {
        if member(object, field).is_some() {
            check.invalid(field, at(object, field).clone(), "needs to be unset");
        }
    }
}

pub(super) fn binding(object: &Value, check: &mut Check) {
    let target = at(object, "target");
    check.one_of_if_set(target, "kind", "target", &["Node", "<empty>"]);
    if text(target, "name").is_empty() {
        check.required("target.name", "");
    }
}
