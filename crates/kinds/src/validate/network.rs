//! Endpoints and EndpointSlices.

use std::collections::BTreeSet;

use serde_json::Value;

use super::check::Check;
use super::service::{PROTOCOLS, not_special};
use crate::names;
use crate::value::{items, member, text};

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;

pub(super) fn endpoint_slice(object: &Value, check: &mut Check) {
    let family = text(object, "addressType");
    match family {
        "" => check.required("addressType", ""),
        "IPv4" | "IPv6" | "FQDN" => {}
        other => check.not_supported("addressType", other, &["FQDN", "IPv4", "IPv6"]),
    }
    let endpoints = items(object, "endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        check.too_many("endpoints", endpoints.len(), MAX_ENDPOINTS);
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        self::endpoint(endpoint, &format!("endpoints[{index}]"), family, check);
    }
    slice_ports(object, check);
}

fn endpoint(endpoint: &Value, path: &str, family: &str, check: &mut Check) {
    let addresses = items(endpoint, "addresses");
    if addresses.is_empty() {
        check.required(format!("{path}.addresses"), "must contain at least 1 address");
    }
    if addresses.len() > MAX_ADDRESSES {
        check.too_many(format!("{path}.addresses"), addresses.len(), MAX_ADDRESSES);
    }
    for (index, address) in addresses.iter().enumerate() {
        self::address(address.as_str().unwrap_or_default(), &format!("{path}.addresses[{index}]"), family, check);
    }
    let node = text(endpoint, "nodeName");
    if !node.is_empty() {
        check.named(&format!("{path}.nodeName"), node, names::dns1123_subdomain(node));
    }
    let hostname = text(endpoint, "hostname");
    if !hostname.is_empty() {
        check.named(&format!("{path}.hostname"), hostname, names::dns1123_label(hostname));
    }
}

fn address(address: &str, path: &str, family: &str, check: &mut Check) {
    if family == "FQDN" {
        return check.named(path, address, names::dns1123_subdomain(address));
    }
    let Some(ip) = check.ip(path, address) else {
        return;
    };
    match (family, ip.is_ipv4()) {
        ("IPv4", false) => check.invalid(path, address, "must be a valid IPv4 address"),
        ("IPv6", true) => check.invalid(path, address, "must be a valid IPv6 address"),
        _ => not_special(ip, address, path, check),
    }
}

fn slice_ports(object: &Value, check: &mut Check) {
    let ports = items(object, "ports");
    if ports.len() > MAX_PORTS {
        check.too_many("ports", ports.len(), MAX_PORTS);
    }
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("ports[{index}]");
        let name = text(port, "name");
        if !name.is_empty() {
            check.named(&format!("{path}.name"), name, names::dns1123_label(name));
        }
        if !seen.insert(name) {
            check.duplicate(format!("{path}.name"), name);
        }
        check.one_of(port, "protocol", &path, &PROTOCOLS);
        if member(port, "port").is_some() {
            check.port(port, "port", &path);
        }
    }
}

pub(super) fn endpoint_slice_update(old: &Value, new: &Value, check: &mut Check) {
    check.immutable(old, new, "/addressType");
}

pub(super) fn endpoints(object: &Value, check: &mut Check) {
    for (index, subset) in items(object, "subsets").iter().enumerate() {
        let path = format!("subsets[{index}]");
        if items(subset, "addresses").is_empty() && items(subset, "notReadyAddresses").is_empty() {
            check.required(&path, "must specify `addresses` or `notReadyAddresses`");
        }
        for list in ["addresses", "notReadyAddresses"] {
            for (at, address) in items(subset, list).iter().enumerate() {
                let (path, ip) = (format!("{path}.{list}[{at}].ip"), text(address, "ip"));
                if let Some(parsed) = check.ip(&path, ip) {
                    not_special(parsed, ip, &path, check);
                }
            }
        }
        subset_ports(subset, &path, check);
    }
}

fn subset_ports(subset: &Value, path: &str, check: &mut Check) {
    let ports = items(subset, "ports");
    for (index, port) in ports.iter().enumerate() {
        let path = format!("{path}.ports[{index}]");
        match text(port, "name") {
            "" if ports.len() > 1 => check.required(format!("{path}.name"), ""),
            "" => {}
            name => check.named(&format!("{path}.name"), name, names::dns1123_label(name)),
        }
        check.port(port, "port", &path);
        check.one_of(port, "protocol", &path, &PROTOCOLS);
    }
}
