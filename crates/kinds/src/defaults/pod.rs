//! The defaults of pods and pod templates.

use serde_json::{Value, json};

use super::{default, default_pointer, elements, existing, object_at};
use crate::value::{Object, is_unset};

pub(super) fn pod(object: &mut Object) {
    if let Some(spec) = object_at(object, "spec") {
        for list in ["containers", "initContainers"] {
            elements(spec, list).for_each(requests_from_limits);
        }
        pod_spec(spec);
    }
    if let Some(status) = existing(object, "status") {
        address_lists(status);
    }
}

/// Defaults of a pod's or a template's spec.
pub(super) fn pod_spec(spec: &mut Object) {
    default_pointer(spec, "enableServiceLinks", true);
    default(spec, "restartPolicy", "Always");
    default(spec, "dnsPolicy", "ClusterFirst");
    default_pointer(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "schedulerName", "default-scheduler");
    object_at(spec, "securityContext");
    service_account(spec);
    let is_host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in elements(spec, list) {
            self::container(container);
            if is_host_network {
                elements(container, "ports").for_each(host_port);
            }
        }
    }
    elements(spec, "volumes").for_each(volume);
}

/// The old name of `serviceAccountName` follows it.
fn service_account(spec: &mut Object) {
    let pair = |spec: &Object, from: &str| spec.get(from).filter(|_| !is_unset(spec, from)).cloned();
    if let Some(name) = pair(spec, "serviceAccountName") {
        spec.insert("serviceAccount".into(), name);
    } else if let Some(name) = pair(spec, "serviceAccount") {
        spec.insert("serviceAccountName".into(), name);
    }
}

fn container(container: &mut Object) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = pull_policy(image);
    default(container, "imagePullPolicy", policy);
    default(container, "terminationMessagePath", "/dev/termination-log");
    default(container, "terminationMessagePolicy", "File");
    object_at(container, "resources");
    elements(container, "ports").for_each(|port| default(port, "protocol", "TCP"));
    for env in elements(container, "env") {
        if let Some(field) = existing(env, "valueFrom").and_then(|from| existing(from, "fieldRef")) {
            default(field, "apiVersion", "v1");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = existing(container, name) {
            self::probe(probe);
        }
    }
    if let Some(lifecycle) = existing(container, "lifecycle") {
        for name in ["postStart", "preStop"] {
            if let Some(handler) = existing(lifecycle, name) {
                self::handler(handler);
            }
        }
    }
}

/// `Always` for `:latest` and for no tag at all, else `IfNotPresent`.
fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.split_once(':') {
        None | Some((_, "latest" | "")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn probe(probe: &mut Object) {
    default(probe, "timeoutSeconds", 1);
    default(probe, "periodSeconds", 10);
    default(probe, "successThreshold", 1);
    default(probe, "failureThreshold", 3);
    handler(probe);
    if let Some(grpc) = existing(probe, "grpc") {
        default_pointer(grpc, "service", "");
    }
}

fn handler(handler: &mut Object) {
    if let Some(http) = existing(handler, "httpGet") {
        default(http, "path", "/");
        default(http, "scheme", "HTTP");
    }
}

/// On the host's network a port is the host's port.
fn host_port(port: &mut Object) {
    if let (true, Some(number)) = (is_unset(port, "hostPort"), port.get("containerPort").cloned()) {
        port.insert("hostPort".into(), number);
    }
}

fn volume(volume: &mut Object) {
    let has_source = volume.iter().any(|(key, value)| key != "name" && !value.is_null());
    if !has_source {
        volume.insert("emptyDir".into(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = existing(volume, source) {
            default_pointer(source, "defaultMode", 0o644);
        }
    }
    if let Some(path) = existing(volume, "hostPath") {
        default_pointer(path, "type", "");
    }
    let projected = existing(volume, "projected").into_iter().flat_map(|p| elements(p, "sources"));
    for source in projected {
        if let Some(token) = existing(source, "serviceAccountToken") {
            default_pointer(token, "expirationSeconds", 3600);
        }
    }
}

/// A limit without a request asks for as much.
fn requests_from_limits(container: &mut Object) {
    let Some(resources) = existing(container, "resources") else {
        return;
    };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else {
        return;
    };
    if let Some(requests) = object_at(resources, "requests") {
        for (name, amount) in limits {
            requests.entry(name).or_insert(amount);
        }
    }
}

/// `podIP` is the first of `podIPs`, `hostIP` the first of `hostIPs`: who sets one sets the other.
fn address_lists(status: &mut Object) {
    for (one, many) in [("podIP", "podIPs"), ("hostIP", "hostIPs")] {
        let first = status.get(many).and_then(|list| list.get(0)).and_then(|entry| entry.get("ip")).cloned();
        match (is_unset(status, one), first) {
            (false, None) => {
                let ip = status[one].clone();
                status.insert(many.into(), json!([{ "ip": ip }]));
            }
            (true, Some(first)) => {
                status.insert(one.into(), first);
            }
            _ => {}
        }
    }
}
