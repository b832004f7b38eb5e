//! Names, labels, annotations, owners and finalizers: what every object has.

use serde_json::Value;

use super::check::{Check, at};
use crate::names;
use crate::value::{entries, group_version_kind, items, text};

/// Largest size of all annotations together, in bytes.
const ANNOTATIONS_MAX: usize = 256 * 1024;

pub(super) fn create(object: &Value, check: &mut Check) {
    let kind = group_version_kind(object).1;
    if matches!(kind, "Status" | "DeleteOptions" | "Scale") {
        return;
    }
    let metadata = at(object, "metadata");
    let rule = rule_of(kind);
    let (name, prefix) = (text(metadata, "name"), text(metadata, "generateName"));
    if !prefix.is_empty() {
        check.named("metadata.generateName", prefix, rule(&names::mask_trailing_dash(prefix)));
    }
    match (name, prefix) {
        ("", "") => check.required("metadata.name", "name or generateName is required"),
        ("", _) => {}
        (name, _) => check.named("metadata.name", name, rule(name)),
    }
    common(metadata, check);
}

pub(super) fn update(old: &Value, new: &Value, check: &mut Check) {
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        // What an update does not say, the API server keeps.
        if !text(at(new, "metadata"), field).is_empty() {
            check.immutable(old, new, &format!("/metadata/{field}"));
        }
    }
    common(at(new, "metadata"), check);
}

/// The rule that a kind's names follow.
fn rule_of(kind: &str) -> fn(&str) -> Vec<String> {
    match kind {
        "Service" => names::dns1035_label,
        "Namespace" => names::dns1123_label,
        "Event" => names::path_segment,
        _ => names::dns1123_subdomain,
    }
}

fn common(metadata: &Value, check: &mut Check) {
    let namespace = text(metadata, "namespace");
    if !namespace.is_empty() {
        check.named("metadata.namespace", namespace, names::dns1123_label(namespace));
    }
    check.labels(metadata, "labels", "metadata");
    annotations(metadata, check);
    owners(metadata, check);
    for (index, finalizer) in items(metadata, "finalizers").iter().enumerate() {
        let name = finalizer.as_str().unwrap_or_default();
        check.named(&format!("metadata.finalizers[{index}]"), name, names::qualified_name(name));
    }
}

fn annotations(metadata: &Value, check: &mut Check) {
    let mut size = 0;
    for (key, value) in entries(metadata, "annotations") {
        check.named("metadata.annotations", key, names::qualified_name(&key.to_lowercase()));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_MAX {
        check.too_long("metadata.annotations", ANNOTATIONS_MAX);
    }
}

fn owners(metadata: &Value, check: &mut Check) {
    let mut controller: Option<&str> = None;
    for (index, owner) in items(metadata, "ownerReferences").iter().enumerate() {
        let path = format!("metadata.ownerReferences[{index}]");
        for (field, detail) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if text(owner, field).is_empty() {
                check.invalid(format!("{path}.{field}"), "", detail);
            }
        }
        if owner.get("controller") == Some(&Value::Bool(true)) {
            if let Some(first) = controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {}",
                    text(owner, "name")
                );
                check.invalid("metadata.ownerReferences", at(metadata, "ownerReferences").clone(), detail);
            }
            controller = Some(text(owner, "name"));
        }
    }
}
