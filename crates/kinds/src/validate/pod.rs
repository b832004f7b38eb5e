//! Pods and pod templates: containers, volumes, and what of a running pod may change.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::check::{Check, at};
use super::probe;
use super::service::PROTOCOLS;
use crate::names;
use crate::quantity::Quantity;
use crate::value::{entries, items, member, text};

const RESTART_POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];
const DNS_POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const UPDATE_RULE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(super) fn pod(object: &Value, check: &mut Check) {
    spec(at(object, "spec"), "spec", check);
}

/// A pod's or a template's spec below `path`.
pub(super) fn spec(spec: &Value, path: &str, check: &mut Check) {
    let volumes = volumes(spec, path, check);
    let mut container_names = BTreeSet::new();
    let list = format!("{path}.containers");
    if items(spec, "containers").is_empty() {
        check.required(&list, "");
    }
    for (index, container) in items(spec, "containers").iter().enumerate() {
        let at = format!("{list}[{index}]");
        self::container(container, &at, &volumes, &mut container_names, check);
        probe::handlers(container, &at, check);
    }
    for (index, container) in items(spec, "initContainers").iter().enumerate() {
        let at = format!("{path}.initContainers[{index}]");
        self::container(container, &at, &volumes, &mut container_names, check);
        if text(container, "restartPolicy") != "Always" {
            probe::none_for_init(container, &at, check);
        }
    }
    host_ports(spec, path, check);
    check.one_of(spec, "restartPolicy", path, &RESTART_POLICIES);
    check.one_of(spec, "dnsPolicy", path, &DNS_POLICIES);
    check.not_negative(spec, "terminationGracePeriodSeconds", path);
    check.labels(spec, "nodeSelector", path);
    names_of(spec, path, check);
    dns_config(spec, path, check);
    tolerations(spec, path, check);
}

fn names_of(spec: &Value, path: &str, check: &mut Check) {
    type Rule = fn(&str) -> Vec<String>;
    let rules: [(&str, Rule); 4] = [
        ("hostname", names::dns1123_label),
        ("subdomain", names::dns1123_label),
        ("nodeName", names::dns1123_subdomain),
        ("serviceAccountName", names::dns1123_subdomain),
    ];
    for (field, rule) in rules {
        let name = text(spec, field);
        if !name.is_empty() {
            check.named(&format!("{path}.{field}"), name, rule(name));
        }
    }
    if let Some(secs) = spec.get("activeDeadlineSeconds").and_then(Value::as_i64).filter(|secs| *secs < 1) {
        check.invalid(format!("{path}.activeDeadlineSeconds"), secs, "must be between 1 and 2147483647, inclusive");
    }
}

/// Names of the volumes.
fn volumes<'a>(spec: &'a Value, path: &str, check: &mut Check) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    for (index, volume) in items(spec, "volumes").iter().enumerate() {
        let at = format!("{path}.volumes[{index}]");
        let name = text(volume, "name");
        if name.is_empty() {
            check.required(format!("{at}.name"), "");
        } else {
            check.named(&format!("{at}.name"), name, names::dns1123_label(name));
            if !seen.insert(name) {
                check.duplicate(format!("{at}.name"), name);
            }
        }
        volume_source(volume, &at, check);
    }
    seen
}

fn volume_source(volume: &Value, path: &str, check: &mut Check) {
    let sources: Vec<&String> = volume
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(k, v)| *k != "name" && !v.is_null())
        .map(|(k, _)| k)
        .collect();
    if sources.is_empty() {
        check.required(path, "must specify a volume type");
    }
    for extra in sources.iter().skip(1) {
        check.forbidden(format!("{path}.{extra}"), "may not specify more than 1 volume type");
    }
    let needed =
        [("configMap", "name"), ("secret", "secretName"), ("hostPath", "path"), ("persistentVolumeClaim", "claimName")];
    for (source, field) in needed {
        if member(volume, source).is_some_and(|source| text(source, field).is_empty()) {
            check.required(format!("{path}.{source}.{field}"), "");
        }
    }
}

fn container<'a>(
    container: &'a Value,
    path: &str,
    volumes: &BTreeSet<&str>,
    seen: &mut BTreeSet<&'a str>,
    check: &mut Check,
) {
    let name = text(container, "name");
    if name.is_empty() {
        check.required(format!("{path}.name"), "");
    } else {
        check.named(&format!("{path}.name"), name, names::dns1123_label(name));
        if !seen.insert(name) {
            check.duplicate(format!("{path}.name"), name);
        }
    }
    let image = text(container, "image");
    if image.is_empty() {
        check.required(format!("{path}.image"), "");
    } else if image != image.trim() {
        check.invalid(format!("{path}.image"), image, "must not have leading or trailing whitespace");
    }
    check.one_of(container, "imagePullPolicy", path, &PULL_POLICIES);
    check.one_of_if_set(container, "terminationMessagePolicy", path, &["FallbackToLogsOnError", "File"]);
    container_ports(container, path, check);
    env(container, path, check);
    mounts(container, path, volumes, check);
    resources(container, path, check);
}

fn container_ports(container: &Value, path: &str, check: &mut Check) {
    let mut seen = BTreeSet::new();
    for (index, port) in items(container, "ports").iter().enumerate() {
        let at = format!("{path}.ports[{index}]");
        let name = text(port, "name");
        if !name.is_empty() {
            check.named(&format!("{at}.name"), name, names::port_name(name));
            if !seen.insert(name) {
                check.duplicate(format!("{at}.name"), name);
            }
        }
        match port.get("containerPort").and_then(Value::as_i64).unwrap_or(0) {
            0 => check.required(format!("{at}.containerPort"), ""),
            _ => check.port(port, "containerPort", &at),
        }
        if port.get("hostPort").and_then(Value::as_i64).unwrap_or(0) != 0 {
            check.port(port, "hostPort", &at);
        }
        check.one_of(port, "protocol", &at, &PROTOCOLS);
        let ip = text(port, "hostIP");
        if !ip.is_empty() {
            check.ip(&format!("{at}.hostIP"), ip);
        }
    }
}

/// No two containers of a pod take the same port of the host.
fn host_ports(spec: &Value, path: &str, check: &mut Check) {
    let is_host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    let mut seen = BTreeSet::new();
    for (index, container) in items(spec, "containers").iter().enumerate() {
        for (port_index, port) in items(container, "ports").iter().enumerate() {
            let number = |key: &str| port.get(key).and_then(Value::as_i64).unwrap_or(0);
            let host_port = number("hostPort");
            let at = format!("{path}.containers[{index}].ports[{port_index}]");
            if host_port == 0 {
                continue;
            }
            if !seen.insert((text(port, "protocol"), text(port, "hostIP"), host_port)) {
                check.duplicate(format!("{at}.hostPort"), host_port);
            }
            if is_host_network && host_port != number("containerPort") {
                check.invalid(
                    format!("{at}.containerPort"),
                    number("containerPort"),
                    "must match `hostPort` when `hostNetwork` is true",
                );
            }
        }
    }
}

fn env(container: &Value, path: &str, check: &mut Check) {
    for (index, env) in items(container, "env").iter().enumerate() {
        let at = format!("{path}.env[{index}]");
        let name = text(env, "name");
        match name {
            "" => check.required(format!("{at}.name"), ""),
            name => check.named(&format!("{at}.name"), name, names::env_name(name)),
        }
        if let Some(from) = member(env, "valueFrom") {
            value_from(env, from, &format!("{at}.valueFrom"), check);
        }
    }
}

fn value_from(env: &Value, from: &Value, path: &str, check: &mut Check) {
    let count = from.as_object().map_or(0, |from| from.values().filter(|source| !source.is_null()).count());
    match count {
        0 => {
            let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
            check.invalid(path, "", detail);
        }
        1 => {}
        _ => check.invalid(path, "", "may not have more than one field specified at a time"),
    }
    if !text(env, "value").is_empty() && count > 0 {
        check.invalid(path, "", "may not be specified when `value` is not empty");
    }
    for source in ["configMapKeyRef", "secretKeyRef"] {
        for field in ["name", "key"] {
            if member(from, source).is_some_and(|source| text(source, field).is_empty()) {
                check.required(format!("{path}.{source}.{field}"), "");
            }
        }
    }
    if member(from, "fieldRef").is_some_and(|field| text(field, "fieldPath").is_empty()) {
        check.required(format!("{path}.fieldRef.fieldPath"), "");
    }
}

fn mounts(container: &Value, path: &str, volumes: &BTreeSet<&str>, check: &mut Check) {
    let mut seen = BTreeSet::new();
    for (index, mount) in items(container, "volumeMounts").iter().enumerate() {
        let at = format!("{path}.volumeMounts[{index}]");
        match text(mount, "name") {
            "" => check.required(format!("{at}.name"), ""),
            name if volumes.contains(name) => {}
            name => check.not_found(format!("{at}.name"), name),
        }
        match text(mount, "mountPath") {
            "" => check.required(format!("{at}.mountPath"), ""),
            place if seen.insert(place) => {}
            place => check.invalid(format!("{at}.mountPath"), place, "must be unique"),
        }
        let sub_path = text(mount, "subPath");
        if sub_path.starts_with('/') {
            check.invalid(format!("{at}.subPath"), sub_path, "must be a relative path");
        }
        if sub_path.split('/').any(|part| part == "..") {
            check.invalid(format!("{at}.subPath"), sub_path, "must not contain '..'");
        }
    }
}

fn resources(container: &Value, path: &str, check: &mut Check) {
    let resources = at(container, "resources");
    for list in ["limits", "requests"] {
        for (name, amount) in entries(resources, list) {
            let at = format!("{path}.resources.{list}[{name}]");
            check.named(&at, name, names::qualified_name(name));
            match quantity(amount) {
                Some(amount) if amount >= Quantity::default() => {}
                Some(_) => check.invalid(at, amount.clone(), "must be greater than or equal to 0"),
                None => check.invalid(at, amount.clone(), crate::quantity::QuantityError.to_string()),
            }
        }
    }
    for (name, request) in entries(resources, "requests") {
        let limit = member(at(resources, "limits"), name).and_then(quantity);
        if let (Some(asked), Some(limit)) = (quantity(request), limit)
            && asked > limit
        {
            let detail = format!("must be less than or equal to {name} limit of {}", shown(&resources["limits"][name]));
            check.invalid(format!("{path}.resources.requests"), request.clone(), detail);
        }
    }
}

fn quantity(amount: &Value) -> Option<Quantity> {
    shown(amount).parse().ok()
}

fn shown(amount: &Value) -> String {
    amount.as_str().map_or_else(|| amount.to_string(), str::to_owned)
}

fn dns_config(spec: &Value, path: &str, check: &mut Check) {
    let config = at(spec, "dnsConfig");
    let servers = items(config, "nameservers");
    if text(spec, "dnsPolicy") == "None" && servers.is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        check.required(format!("{path}.dnsConfig.nameservers"), detail);
    }
    if servers.len() > 3 {
        check.invalid(
            format!("{path}.dnsConfig.nameservers"),
            at(config, "nameservers").clone(),
            "must not have more than 3 nameservers",
        );
    }
    for (index, server) in servers.iter().enumerate() {
        check.ip(&format!("{path}.dnsConfig.nameservers[{index}]"), server.as_str().unwrap_or_default());
    }
    for (index, option) in items(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            check.required(format!("{path}.dnsConfig.options[{index}]"), "must not be empty");
        }
    }
}

fn tolerations(spec: &Value, path: &str, check: &mut Check) {
    for (index, toleration) in items(spec, "tolerations").iter().enumerate() {
        let at = format!("{path}.tolerations[{index}]");
        let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
        if !key.is_empty() {
            check.named(&format!("{at}.key"), key, names::qualified_name(key));
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            check.invalid(format!("{at}.operator"), operator, detail);
        }
        check.one_of_if_set(toleration, "operator", &at, &["Equal", "Exists"]);
        check.one_of_if_set(toleration, "effect", &at, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
    }
}

/// Of a pod that exists only images, a deadline and more tolerations may change.
pub(super) fn update(old: &Value, new: &Value, check: &mut Check) {
    let (before, after) = (at(old, "spec"), at(new, "spec"));
    let kept = items(before, "tolerations").iter().all(|toleration| items(after, "tolerations").contains(toleration));
    if !kept {
        check.forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds");
    }
    if masked(before, before) != masked(after, before) {
        check.forbidden("spec", UPDATE_RULE);
    }
}

/// A spec with all that may change taken from `like`.
fn masked(spec: &Value, like: &Value) -> Value {
    let mut spec = spec.clone();
    let Some(members) = spec.as_object_mut() else {
        return spec;
    };
    for list in ["containers", "initContainers"] {
        let images = items(like, list).iter().map(|container| at(container, "image").clone());
        let containers = members.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for (container, image) in containers.filter_map(Value::as_object_mut).zip(images) {
            container.insert("image".into(), image);
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        members.insert(field.into(), at(like, field).clone());
    }
    let grace = |secs: Option<&Value>| secs.and_then(Value::as_i64);
    let before = grace(like.get("terminationGracePeriodSeconds"));
    if before.is_some_and(|secs| secs < 0) && grace(members.get("terminationGracePeriodSeconds")) == Some(1) {
        members.insert("terminationGracePeriodSeconds".into(), json!(before));
    }
    spec
}
