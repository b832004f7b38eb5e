//! Services, Endpoints, EndpointSlices.

use serde_json::Value;

use super::{Printer, age, integer, items, name, narrow, or_none, pairs, wide};
use crate::object::text;

pub const SERVICE: Printer = Printer {
    columns: &[
        narrow("Name"),
        narrow("Type"),
        narrow("Cluster-IP"),
        narrow("External-IP"),
        narrow("Port(s)"),
        narrow("Age"),
        wide("Selector"),
    ],
    cells: |service, now| {
        vec![
            name(service),
            text(service, "/spec/type").into(),
            or_none(cluster_ip(service)),
            external_ip(service).into(),
            or_none(ports(service)),
            age(service, now),
            or_none(pairs(service, "/spec/selector")),
        ]
    },
};

fn cluster_ip(service: &Value) -> String {
    match text(service, "/spec/clusterIPs/0") {
        "" => text(service, "/spec/clusterIP").to_owned(),
        first => first.to_owned(),
    }
}

fn external_ip(service: &Value) -> String {
    let outside: Vec<&str> = items(service, "/spec/externalIPs").filter_map(Value::as_str).collect();
    let balanced = items(service, "/status/loadBalancer/ingress");
    let balanced = balanced.map(|ingress| [text(ingress, "/ip"), text(ingress, "/hostname")].concat());
    match text(service, "/spec/type") {
        "ExternalName" => text(service, "/spec/externalName").to_owned(),
        "LoadBalancer" => {
            let all: Vec<String> = balanced.chain(outside.iter().map(|ip| (*ip).to_owned())).collect();
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        _ if outside.is_empty() => "<none>".into(),
        _ => outside.join(","),
    }
}

fn ports(service: &Value) -> String {
    let one = |port: &Value| {
        let (number, node_port) = (integer(port, "/port"), integer(port, "/nodePort"));
        let protocol = text(port, "/protocol");
        match node_port {
            0 => format!("{number}/{protocol}"),
            _ => format!("{number}:{node_port}/{protocol}"),
        }
    };
    items(service, "/spec/ports").map(one).collect::<Vec<_>>().join(",")
}

pub const ENDPOINTS: Printer = Printer {
    columns: &[narrow("Name"), narrow("Endpoints"), narrow("Age")],
    cells: |endpoints, now| vec![name(endpoints), or_none(address_ports(endpoints)), age(endpoints, now)],
};

/// The first three `address:port`, and how many more.
fn address_ports(endpoints: &Value) -> String {
    let mut all = Vec::new();
    for subset in items(endpoints, "/subsets") {
        let ports: Vec<i64> = items(subset, "/ports").map(|port| integer(port, "/port")).collect();
        for address in items(subset, "/addresses").map(|address| text(address, "/ip")) {
            if ports.is_empty() {
                all.push(address.to_owned());
            }
            all.extend(ports.iter().map(|port| host_port(address, *port)));
        }
    }
    shortened(&all)
}

fn host_port(address: &str, port: i64) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

fn shortened(all: &[String]) -> String {
    match all.len() {
        0..=3 => all.join(","),
        more => format!("{} + {} more...", all[..3].join(","), more - 3),
    }
}

pub const ENDPOINT_SLICE: Printer = Printer {
    columns: &[narrow("Name"), narrow("AddressType"), narrow("Ports"), narrow("Endpoints"), narrow("Age")],
    cells: |slice, now| {
        let unset = |text: String| if text.is_empty() { Value::from("<unset>") } else { text.into() };
        let ports: Vec<String> = items(slice, "/ports")
            .map(|port| port.get("port").and_then(Value::as_i64).map_or("*".into(), |port| port.to_string()))
            .collect();
        let addresses: Vec<String> = items(slice, "/endpoints")
            .flat_map(|endpoint| items(endpoint, "/addresses"))
            .filter_map(|address| address.as_str().map(str::to_owned))
            .collect();
        vec![
            name(slice),
            text(slice, "/addressType").into(),
            unset(shortened(&ports)),
            unset(shortened(&addresses)),
            age(slice, now),
        ]
    },
};
