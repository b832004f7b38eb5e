//! Nodes, namespaces, configuration, events, leases.

use serde_json::Value;

use super::{Printer, age, count, integer, items, name, narrow, or_none, since, wide};
use crate::object::text;

pub const NODE: Printer = Printer {
    columns: &[
        narrow("Name"),
        narrow("Status"),
        narrow("Roles"),
        narrow("Age"),
        narrow("Version"),
        wide("Internal-IP"),
        wide("External-IP"),
        wide("OS-Image"),
        wide("Kernel-Version"),
        wide("Container-Runtime"),
    ],
    cells: |node, now| {
        let info = |member: &str| match text(node, &format!("/status/nodeInfo/{member}")) {
            "" => Value::from("<unknown>"),
            said => said.into(),
        };
        vec![
            name(node),
            node_status(node).into(),
            or_none(roles(node)),
            age(node, now),
            text(node, "/status/nodeInfo/kubeletVersion").into(),
            or_none(address(node, "InternalIP")),
            or_none(address(node, "ExternalIP")),
            info("osImage"),
            info("kernelVersion"),
            info("containerRuntimeVersion"),
        ]
    },
};

fn node_status(node: &Value) -> String {
    let ready = items(node, "/status/conditions").find(|condition| text(condition, "/type") == "Ready");
    let mut said = match ready.map(|condition| text(condition, "/status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        said.push_str(",SchedulingDisabled");
    }
    said
}

fn roles(node: &Value) -> String {
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    let role = |label: &String| Some(label.strip_prefix("node-role.kubernetes.io/")?.to_owned());
    labels.into_iter().flatten().filter_map(|(label, _)| role(label)).collect::<Vec<_>>().join(",")
}

fn address(node: &Value, kind: &str) -> String {
    let found = items(node, "/status/addresses").find(|address| text(address, "/type") == kind);
    found.map(|address| text(address, "/address").to_owned()).unwrap_or_default()
}

pub const NAMESPACE: Printer = Printer {
    columns: &[narrow("Name"), narrow("Status"), narrow("Age")],
    cells: |namespace, now| vec![name(namespace), text(namespace, "/status/phase").into(), age(namespace, now)],
};

fn size(object: &Value, member: &str) -> usize {
    object.get(member).and_then(Value::as_object).map_or(0, serde_json::Map::len)
}

pub const CONFIG_MAP: Printer = Printer {
    columns: &[narrow("Name"), count("Data"), narrow("Age")],
    cells: |map, now| vec![name(map), (size(map, "data") + size(map, "binaryData")).into(), age(map, now)],
};

pub const SECRET: Printer = Printer {
    columns: &[narrow("Name"), narrow("Type"), count("Data"), narrow("Age")],
    cells: |secret, now| {
        vec![name(secret), text(secret, "/type").into(), size(secret, "data").into(), age(secret, now)]
    },
};

pub const SERVICE_ACCOUNT: Printer = Printer {
    columns: &[narrow("Name"), count("Secrets"), narrow("Age")],
    cells: |account, now| vec![name(account), items(account, "/secrets").count().into(), age(account, now)],
};

pub const LEASE: Printer = Printer {
    columns: &[narrow("Name"), narrow("Holder"), narrow("Age")],
    cells: |lease, now| vec![name(lease), text(lease, "/spec/holderIdentity").into(), age(lease, now)],
};

pub const EVENT: Printer = Printer {
    columns: &[
        narrow("Last Seen"),
        narrow("Type"),
        narrow("Reason"),
        narrow("Object"),
        wide("Subobject"),
        wide("Source"),
        narrow("Message"),
        wide("First Seen"),
        wide("Count"),
        wide("Name"),
    ],
    cells: |event, now| {
        let first_of = |pointers: &[&str]| {
            pointers.iter().map(|pointer| text(event, pointer)).find(|time| !time.is_empty()).unwrap_or_default()
        };
        let last =
            first_of(&["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"]);
        let first = first_of(&["/firstTimestamp", "/eventTime", "/metadata/creationTimestamp"]);
        let series = [integer(event, "/series/count"), integer(event, "/count")].into_iter().find(|count| *count > 0);
        vec![
            since(last, now).into(),
            text(event, "/type").into(),
            text(event, "/reason").into(),
            about(event).into(),
            text(event, "/involvedObject/fieldPath").into(),
            source(event).into(),
            text(event, "/message").trim().into(),
            since(first, now).into(),
            series.unwrap_or(1).to_string().into(),
            name(event),
        ]
    },
};

fn about(event: &Value) -> String {
    let kind = text(event, "/involvedObject/kind").to_lowercase();
    match text(event, "/involvedObject/name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    }
}

fn source(event: &Value) -> String {
    let component = [text(event, "/source/component"), text(event, "/reportingComponent")];
    let component = component.into_iter().find(|name| !name.is_empty()).unwrap_or_default();
    let host = [text(event, "/source/host"), text(event, "/reportingInstance")];
    match host.into_iter().find(|name| !name.is_empty()) {
        Some(host) => format!("{component}, {host}"),
        None => component.to_owned(),
    }
}
