//! Tables: the columns kubectl prints, as kube-apiserver's printers fill them.
//!
//! One function per kind turns an object into cells; the columns' names stand beside it. `now` is a
//! parameter, for ages.

mod core;
mod network;
mod pod;
mod workload;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::object::text;
use crate::registry::Resource;
use crate::request::Query;

/// A heading. Wide columns show only with `-o wide`.
struct Column {
    name: &'static str,
    /// OpenAPI type: `string` or `integer`.
    kind: &'static str,
    wide: bool,
}

const fn narrow(name: &'static str) -> Column {
    Column { name, kind: "string", wide: false }
}

const fn wide(name: &'static str) -> Column {
    Column { name, kind: "string", wide: true }
}

const fn count(name: &'static str) -> Column {
    Column { name, kind: "integer", wide: false }
}

/// How one kind is shown.
struct Printer {
    columns: &'static [Column],
    cells: fn(&Value, Timestamp) -> Vec<Value>,
}

/// A kind without a printer of its own: name and age.
const PLAIN: Printer =
    Printer { columns: &[narrow("Name"), narrow("Age")], cells: |object, now| vec![name(object), age(object, now)] };

fn printer(kind: &str) -> Printer {
    match kind {
        "Pod" => pod::PRINTER,
        "Service" => network::SERVICE,
        "Endpoints" => network::ENDPOINTS,
        "EndpointSlice" => network::ENDPOINT_SLICE,
        "Node" => core::NODE,
        "Namespace" => core::NAMESPACE,
        "ConfigMap" => core::CONFIG_MAP,
        "Secret" => core::SECRET,
        "ServiceAccount" => core::SERVICE_ACCOUNT,
        "Event" => core::EVENT,
        "Lease" => core::LEASE,
        "Deployment" => workload::DEPLOYMENT,
        "ReplicaSet" => workload::REPLICA_SET,
        _ => PLAIN,
    }
}

/// A `meta.k8s.io/v1 Table` of objects of one kind.
pub fn table(resource: &Resource, objects: &[Value], version: &str, query: &Query, now: Timestamp) -> Value {
    let printer = printer(resource.kind);
    let columns: Vec<Value> = printer.columns.iter().map(definition).collect();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let mut row = json!({ "cells": (printer.cells)(object, now) });
            match query.get("includeObject") {
                Some("None") => {}
                Some("Object") => row["object"] = object.clone(),
                _ => row["object"] = partial(object),
            }
            row
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": { "resourceVersion": version },
        "columnDefinitions": columns, "rows": rows,
    })
}

/// `PartialObjectMetadata`.
pub fn partial(object: &Value) -> Value {
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.get("metadata") })
}

fn definition(column: &Column) -> Value {
    let format = if column.name == "Name" { "name" } else { "" };
    json!({
        "name": column.name, "type": column.kind, "format": format,
        "description": "", "priority": i32::from(column.wide),
    })
}

fn name(object: &Value) -> Value {
    text(object, "/metadata/name").into()
}

fn age(object: &Value, now: Timestamp) -> Value {
    since(text(object, "/metadata/creationTimestamp"), now).into()
}

/// Time since an RFC 3339 time, in kubectl's short form.
fn since(time: &str, now: Timestamp) -> String {
    match time.parse::<Timestamp>() {
        Ok(then) => short_duration(now.duration_since(then).as_secs()),
        Err(_) => "<unknown>".into(),
    }
}

/// Two figures at most: `59s`, `3m5s`, `90m`, `5h12m`, `3d4h`, `400d`.
fn short_duration(secs: i64) -> String {
    let two = |big: i64, unit: char, small: i64, small_unit: char| match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit}{small}{small_unit}"),
    };
    let (minutes, hours, days) = (secs / 60, secs / 3600, secs / 86_400);
    match secs {
        ..=-2 => "<invalid>".into(),
        -1 => "0s".into(),
        0..120 => format!("{secs}s"),
        120..600 => two(minutes, 'm', secs % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, 'd', hours % 24, 'h'),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

/// Items of a list at a pointer.
fn items<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + Clone {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default().iter()
}

fn integer(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

fn or_none(text: String) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// Labels as `a=b,c=d`.
fn pairs(object: &Value, pointer: &str) -> String {
    let labels = object.pointer(pointer).and_then(Value::as_object);
    let pair = |(key, value): (&String, &Value)| format!("{key}={}", value.as_str().unwrap_or_default());
    labels.into_iter().flatten().map(pair).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{self, RESOURCES};

    #[test]
    fn ages_are_short() {
        for (secs, expected) in [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (185, "3m5s"),
            (5400, "90m"),
            (18_720, "5h12m"),
            (36_000, "10h"),
            (273_600, "3d4h"),
            (34_560_000, "400d"),
            (94_608_000, "3y"),
        ] {
            assert_eq!(short_duration(secs), expected, "{secs}");
        }
    }

    #[test]
    fn every_kind_fills_every_column_even_from_nothing() {
        let now = Timestamp::UNIX_EPOCH;
        for row in RESOURCES {
            let printer = printer(row.kind);
            let cells = (printer.cells)(&json!({}), now);
            assert_eq!(cells.len(), printer.columns.len(), "{}", row.kind);
        }
    }

    fn cells(plural: &str, object: Value) -> Vec<String> {
        let now = "2026-11-22T11:05:00Z".parse().expect("a time");
        let cells = (printer(registry::row(plural).kind).cells)(&object, now);
        cells.into_iter().map(|cell| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned)).collect()
    }

    #[test]
    fn services_show_as_kubectl_users_know_them() {
        let meta = json!({ "name": "web", "creationTimestamp": "2026-11-22T11:00:00Z" });
        for (spec, expected) in [
            (
                json!({ "type": "NodePort", "clusterIP": "10.96.1.2", "clusterIPs": ["10.96.1.2"], "selector": { "app": "web" },
                    "ports": [{ "port": 80, "nodePort": 30080, "protocol": "TCP" }, { "port": 53, "protocol": "UDP" }] }),
                ["web", "NodePort", "10.96.1.2", "<none>", "80:30080/TCP,53/UDP", "5m", "app=web"],
            ),
            (
                json!({ "type": "ExternalName", "externalName": "ylzhong.top" }),
                ["web", "ExternalName", "<none>", "ylzhong.top", "<none>", "5m", "<none>"],
            ),
            (
                json!({ "type": "LoadBalancer", "clusterIP": "10.96.1.2", "ports": [{ "port": 80, "protocol": "TCP" }] }),
                ["web", "LoadBalancer", "10.96.1.2", "<pending>", "80/TCP", "5m", "<none>"],
            ),
        ] {
            assert_eq!(cells("services", json!({ "metadata": meta, "spec": spec })), expected);
        }
    }

    #[test]
    fn pods_show_their_trouble_before_their_phase() {
        let pod = |status: Value| json!({ "metadata": { "name": "a" }, "spec": { "containers": [{ "name": "x" }, { "name": "y" }] }, "status": status });
        for (status, expected) in [
            (json!({ "phase": "Pending" }), ["0/2", "Pending", "0"]),
            (
                json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }], "containerStatuses": [
                    { "name": "x", "ready": true, "restartCount": 0, "state": { "running": {} } },
                    { "name": "y", "ready": true, "restartCount": 1, "state": { "running": {} },
                      "lastState": { "terminated": { "finishedAt": "2026-11-22T11:04:50Z" } } }] }),
                ["2/2", "Running", "1 (10s ago)"],
            ),
            (
                json!({ "phase": "Running", "containerStatuses": [
                    { "name": "x", "ready": false, "restartCount": 3, "state": { "waiting": { "reason": "CrashLoopBackOff" } } }] }),
                ["0/2", "CrashLoopBackOff", "3"],
            ),
            (
                json!({ "phase": "Pending", "initContainerStatuses": [
                    { "name": "i", "restartCount": 0, "state": { "terminated": { "exitCode": 2 } } }] }),
                ["0/2", "Init:ExitCode:2", "0"],
            ),
        ] {
            assert_eq!(cells("pods", pod(status))[1..4], expected);
        }
        let mut ending = pod(json!({ "phase": "Running" }));
        ending["metadata"]["deletionTimestamp"] = "2026-11-22T11:05:30Z".into();
        assert_eq!(cells("pods", ending)[2], "Terminating");
    }
}
