//! Services: ports, type, addresses, policies.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::check::{Check, at};
use crate::names;
use crate::value::{is_unset, items, member, text};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
pub(super) const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
/// Longest session affinity, in seconds: a day.
const AFFINITY_MAX_SECS: i64 = 86400;

pub(super) fn service(object: &Value, check: &mut Check) {
    let spec = at(object, "spec");
    check.one_of(spec, "type", "spec", &TYPES);
    check.labels(spec, "selector", "spec");
    ports(spec, check);
    match text(spec, "type") {
        "ExternalName" => external_name(spec, check),
        _ => {
            cluster_ips(spec, check);
            families(spec, check);
        }
    }
    affinity(spec, check);
    external_ips(spec, check);
    policies(spec, check);
    load_balancer(spec, check);
}

fn is_headless(spec: &Value) -> bool {
    text(spec, "clusterIP") == "None" || items(spec, "clusterIPs").first().is_some_and(|ip| ip == "None")
}

fn ports(spec: &Value, check: &mut Check) {
    let ports = items(spec, "ports");
    if ports.is_empty() && !is_headless(spec) && text(spec, "type") != "ExternalName" {
        check.required("spec.ports", "");
    }
    let mut names_seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        port_name(port, &path, ports.len() > 1, &mut names_seen, check);
        check.port(port, "port", &path);
        check.one_of(port, "protocol", &path, &PROTOCOLS);
        if let Some(target) = member(port, "targetPort") {
            check.port_or_name(target, &format!("{path}.targetPort"));
        }
        node_port(spec, port, &path, check);
        let protocol_label = text(port, "appProtocol");
        if !protocol_label.is_empty() {
            check.named(&format!("{path}.appProtocol"), protocol_label, names::qualified_name(protocol_label));
        }
    }
    port_doubles(ports, check);
}

fn port_name<'a>(port: &'a Value, path: &str, is_needed: bool, seen: &mut BTreeSet<&'a str>, check: &mut Check) {
    let name = text(port, "name");
    match (name, is_needed) {
        ("", true) => check.required(format!("{path}.name"), ""),
        ("", false) => {}
        (name, _) => {
            check.named(&format!("{path}.name"), name, names::dns1123_label(name));
            if !seen.insert(name) {
                check.duplicate(format!("{path}.name"), name);
            }
        }
    }
}

fn node_port(spec: &Value, port: &Value, path: &str, check: &mut Check) {
    let number = port.get("nodePort").and_then(Value::as_i64).unwrap_or(0);
    if number == 0 {
        return;
    }
    if text(spec, "type") == "ClusterIP" {
        check.forbidden(format!("{path}.nodePort"), "may not be used when `type` is 'ClusterIP'");
    } else {
        check.port(port, "nodePort", path);
    }
}

/// The same port, and the same node port, only once per protocol.
fn port_doubles(ports: &[Value], check: &mut Check) {
    let (mut seen, mut node_seen) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let protocol = text(port, "protocol");
        let number = |key: &str| port.get(key).and_then(Value::as_i64).unwrap_or(0);
        if !seen.insert((protocol, number("port"))) {
            let double = json!({ "port": number("port"), "protocol": protocol });
            check.duplicate(format!("spec.ports[{index}]"), double);
        }
        let node_port = number("nodePort");
        if node_port != 0 && !node_seen.insert((protocol, node_port)) {
            check.duplicate(format!("spec.ports[{index}].nodePort"), node_port);
        }
    }
}

fn external_name(spec: &Value, check: &mut Check) {
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let is_empty_list = spec.get(field).and_then(Value::as_array).is_some_and(Vec::is_empty);
        if !is_empty_list && member(spec, field).is_some_and(|value| *value != "") {
            check.forbidden(format!("spec.{field}"), "may not be set for ExternalName services");
        }
    }
    let name = text(spec, "externalName");
    match name.strip_suffix('.').unwrap_or(name) {
        "" => check.required("spec.externalName", ""),
        name => check.named("spec.externalName", name, names::dns1123_subdomain(name)),
    }
}

fn cluster_ips(spec: &Value, check: &mut Check) {
    let ips = items(spec, "clusterIPs");
    let first = text(spec, "clusterIP");
    if ips.first().is_some_and(|ip| !first.is_empty() && *ip != first) {
        check.invalid("spec.clusterIPs", at(spec, "clusterIPs").clone(), "first value must match `clusterIP`");
    }
    if ips.len() > 2 {
        check.invalid("spec.clusterIPs", at(spec, "clusterIPs").clone(), "may only hold up to 2 values");
    }
    let mut families = Vec::new();
    for (index, ip) in ips.iter().enumerate() {
        let (path, ip) = (format!("spec.clusterIPs[{index}]"), ip.as_str().unwrap_or_default());
        match ip {
            "None" => headless(spec, &path, ips.len(), check),
            ip => families.extend(check.ip(&path, ip).map(|ip| ip.is_ipv4())),
        }
    }
    if families.len() == 2 && families[0] == families[1] {
        let detail = "may specify no more than one IP for each IP family";
        check.invalid("spec.clusterIPs", at(spec, "clusterIPs").clone(), detail);
    }
}

fn headless(spec: &Value, path: &str, count: usize, check: &mut Check) {
    let kind = text(spec, "type");
    if matches!(kind, "NodePort" | "LoadBalancer") {
        check.invalid(path, "None", format!("may not be set to 'None' for {kind} services"));
    } else if count > 1 {
        check.invalid(path, "None", "'None' must be the first and only value");
    }
}

fn families(spec: &Value, check: &mut Check) {
    check.one_of_if_set(spec, "ipFamilyPolicy", "spec", &["SingleStack", "PreferDualStack", "RequireDualStack"]);
    let mut seen = BTreeSet::new();
    for (index, family) in items(spec, "ipFamilies").iter().enumerate() {
        let (path, family) = (format!("spec.ipFamilies[{index}]"), family.as_str().unwrap_or_default());
        if !matches!(family, "IPv4" | "IPv6") {
            check.not_supported(&path, family, &["IPv4", "IPv6"]);
        }
        if !seen.insert(family) {
            check.duplicate(&path, family);
        }
    }
    for (index, (ip, family)) in items(spec, "clusterIPs").iter().zip(items(spec, "ipFamilies")).enumerate() {
        let Some(ip) = ip.as_str().and_then(|ip| ip.parse::<IpAddr>().ok()) else {
            continue;
        };
        let has = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        if family != has {
            let detail = format!("expected an {} value as indicated by `ipFamilies[{index}]`", text_of(family));
            check.invalid(format!("spec.clusterIPs[{index}]"), ip.to_string(), detail);
        }
    }
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn affinity(spec: &Value, check: &mut Check) {
    check.one_of(spec, "sessionAffinity", "spec", &["ClientIP", "None"]);
    let timeout = spec.pointer("/sessionAffinityConfig/clientIP/timeoutSeconds").and_then(Value::as_i64);
    if let (Some(secs), "ClientIP") = (timeout, text(spec, "sessionAffinity"))
        && !(1..=AFFINITY_MAX_SECS).contains(&secs)
    {
        let detail = format!("must be greater than 0 and less than {AFFINITY_MAX_SECS}");
        check.invalid("spec.sessionAffinityConfig.clientIP.timeoutSeconds", secs, detail);
    }
}

fn external_ips(spec: &Value, check: &mut Check) {
    for (index, ip) in items(spec, "externalIPs").iter().enumerate() {
        let (path, text) = (format!("spec.externalIPs[{index}]"), text_of(ip));
        if let Some(ip) = check.ip(&path, text) {
            not_special(ip, text, &path, check);
        }
    }
}

/// An address behind a Service must be one that a packet can be sent to.
pub(super) fn not_special(ip: IpAddr, text: &str, path: &str, check: &mut Check) {
    if ip.is_unspecified() {
        check.invalid(path, text, format!("may not be unspecified ({text})"));
    }
    if ip.is_loopback() {
        check.invalid(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    let (is_link_local, is_link_local_multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip.segments()[0] & 0xff0f == 0xff02),
    };
    if is_link_local {
        check.invalid(path, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if is_link_local_multicast {
        check.invalid(path, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

fn policies(spec: &Value, check: &mut Check) {
    check.one_of_if_set(spec, "internalTrafficPolicy", "spec", &["Cluster", "Local"]);
    let policy = text(spec, "externalTrafficPolicy");
    let is_external =
        matches!(text(spec, "type"), "NodePort" | "LoadBalancer") || !items(spec, "externalIPs").is_empty();
    if !policy.is_empty() && !is_external {
        let detail = "may only be set for externally-accessible services";
        check.invalid("spec.externalTrafficPolicy", policy, detail);
    } else {
        check.one_of_if_set(spec, "externalTrafficPolicy", "spec", &["Cluster", "Local"]);
    }
    let health_port = spec.get("healthCheckNodePort").and_then(Value::as_i64).unwrap_or(0);
    if health_port != 0 && (text(spec, "type") != "LoadBalancer" || policy != "Local") {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        check.invalid("spec.healthCheckNodePort", health_port, detail);
    }
}

fn load_balancer(spec: &Value, check: &mut Check) {
    let is_balancer = text(spec, "type") == "LoadBalancer";
    for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if member(spec, field).is_some() && !is_balancer {
            check.forbidden(format!("spec.{field}"), "may only be used when `type` is 'LoadBalancer'");
        }
    }
    let ranges = items(spec, "loadBalancerSourceRanges");
    if !ranges.is_empty() && !is_balancer {
        check.forbidden("spec.LoadBalancerSourceRanges", "may only be used when `type` is 'LoadBalancer'");
    }
    for (index, range) in ranges.iter().enumerate() {
        if text_of(range).trim().parse::<ipnet::IpNet>().is_err() {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            check.invalid(format!("spec.loadBalancerSourceRanges[{index}]"), range.clone(), detail);
        }
    }
}

/// A ClusterIP stays as long as the Service has one.
pub(super) fn update(old: &Value, new: &Value, check: &mut Check) {
    let (old, new) = (at(old, "spec"), at(new, "spec"));
    if text(old, "type") == "ExternalName" || text(new, "type") == "ExternalName" {
        return;
    }
    let is_set = |spec: &Value| spec.as_object().is_some_and(|spec| !is_unset(spec, "clusterIP"));
    if is_set(old) && text(old, "clusterIP") != text(new, "clusterIP") {
        check.invalid("spec.clusterIPs[0]", at(new, "clusterIPs").clone(), "may not change once set");
    }
}
