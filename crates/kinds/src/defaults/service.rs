//! A Service's defaults.

use serde_json::{Value, json};

use super::{default, default_pointer, elements, object_at};
use crate::value::{Object, is_unset};

pub(super) fn service(object: &mut Object) {
    if let Some(status) = object_at(object, "status") {
        default_pointer(status, "loadBalancer", json!({}));
    }
    let Some(spec) = object_at(object, "spec") else {
        return;
    };
    default(spec, "type", "ClusterIP");
    affinity(spec);
    for port in elements(spec, "ports") {
        default(port, "protocol", "TCP");
        if let (true, Some(number)) = (is_unset(port, "targetPort"), port.get("port").cloned()) {
            port.insert("targetPort".into(), number);
        }
    }
    policies(spec);
    cluster_ips(spec);
}

fn affinity(spec: &mut Object) {
    default(spec, "sessionAffinity", "None");
    match spec["sessionAffinity"].as_str() {
        Some("None") => {
            spec.remove("sessionAffinityConfig");
        }
        Some("ClientIP") => {
            if let Some(client_ip) = object_at(spec, "sessionAffinityConfig").and_then(|c| object_at(c, "clientIP")) {
                default_pointer(client_ip, "timeoutSeconds", 10800);
            }
        }
        _ => {}
    }
}

fn policies(spec: &mut Object) {
    let kind = spec["type"].as_str().unwrap_or_default().to_owned();
    if kind == "ExternalName" {
        return;
    }
    default_pointer(spec, "internalTrafficPolicy", "Cluster");
    default_pointer(spec, "ipFamilyPolicy", "SingleStack");
    let has_external_ips = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty());
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") || has_external_ips {
        default(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default_pointer(spec, "allocateLoadBalancerNodePorts", true);
    }
}

/// `clusterIP` is the first of `clusterIPs`: who gives one gives the other.
fn cluster_ips(spec: &mut Object) {
    let first = spec.get("clusterIPs").and_then(|ips| ips.get(0)).cloned();
    match (is_unset(spec, "clusterIP"), first) {
        (false, None) => {
            let ip = spec["clusterIP"].clone();
            spec.insert("clusterIPs".into(), json!([ip]));
        }
        (true, Some(first)) => {
            spec.insert("clusterIP".into(), first);
        }
        _ => {}
    }
}
