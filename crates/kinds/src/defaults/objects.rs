//! The defaults of kinds that have few.

use k8s_openapi::ByteString;
use serde_json::{Value, json};

use super::{default, default_pointer, elements, existing, object_at};
use crate::value::{Object, is_unset};

/// The label by which selectors find a namespace by its name (KEP-2161).
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub(super) fn namespace(object: &mut Object) {
    if let Some(metadata) = object_at(object, "metadata") {
        let name = metadata.get("name").and_then(Value::as_str).filter(|name| !name.is_empty()).map(str::to_owned);
        if let (Some(name), Some(labels)) = (name, object_at(metadata, "labels")) {
            labels.insert(NAMESPACE_NAME_LABEL.into(), name.into());
        }
    }
    if let Some(status) = object_at(object, "status") {
        default(status, "phase", "Active");
    }
}

/// `podCIDR` is the first of `podCIDRs`; what a node has it can give.
pub(super) fn node(object: &mut Object) {
    if let Some(spec) = existing(object, "spec") {
        let first = spec.get("podCIDRs").and_then(|list| list.get(0)).cloned();
        match (is_unset(spec, "podCIDR"), first) {
            (false, None) => {
                let cidr = spec["podCIDR"].clone();
                spec.insert("podCIDRs".into(), json!([cidr]));
            }
            (true, Some(first)) => {
                spec.insert("podCIDR".into(), first);
            }
            _ => {}
        }
    }
    if let Some(status) = existing(object, "status")
        && let Some(capacity) = status.get("capacity").filter(|capacity| capacity.is_object()).cloned()
    {
        default_pointer(status, "allocatable", capacity);
    }
}

/// `stringData` is written into `data`, and is never read back.
pub(super) fn secret(object: &mut Object) {
    default(object, "type", "Opaque");
    let Some(Value::Object(texts)) = object.remove("stringData") else {
        return;
    };
    if texts.is_empty() {
        return;
    }
    if let Some(data) = object_at(object, "data") {
        for (key, text) in texts {
            let bytes = ByteString(text.as_str().unwrap_or_default().as_bytes().to_vec());
            data.insert(key, serde_json::to_value(bytes).expect("base64 text is JSON"));
        }
    }
}

pub(super) fn endpoints(object: &mut Object) {
    for subset in elements(object, "subsets") {
        elements(subset, "ports").for_each(|port| default(port, "protocol", "TCP"));
    }
}

pub(super) fn endpoint_slice(object: &mut Object) {
    for port in elements(object, "ports") {
        default_pointer(port, "name", "");
        default_pointer(port, "protocol", "TCP");
    }
    default_pointer(object, "endpoints", json!([]));
    default_pointer(object, "ports", json!([]));
}
