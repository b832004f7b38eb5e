//! Change: objects to be applied and to be deleted, and the objects that there would be then. Pure but for reading.
//!
//! ```text
//!  objects ─► applied as `portolan apply` would, deleted ─► EndpointSlices as their controller would write them ─► objects'
//! ```
//!
//! Of the controllers only that one is followed: what a Deployment would make of its Pods depends on schedulers and
//! kubelets, so it is said and not guessed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ipnet::IpNet;
use portolan_kinds::patch;
use serde_json::Value;

use crate::apply::{LAST_APPLIED, three_way};
use crate::explain::slices;
use crate::failure::Failure;

/// What is to be changed.
#[derive(Clone, Debug)]
pub struct Change {
    applied: Vec<Value>,
    removed: Vec<Key>,
}

/// Names an object: kind, namespace (empty for cluster-wide kinds), name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    kind: String,
    namespace: String,
    name: String,
}

/// Kinds that packets' ways depend on, with the words for them in `--without`.
const FOLLOWED: [(&str, &[&str]); 5] = [
    ("Service", &["svc", "service"]),
    ("Pod", &["po", "pod"]),
    ("Node", &["no", "node"]),
    ("EndpointSlice", &["endpointslice"]),
    ("Namespace", &["ns", "namespace"]),
];

/// Kinds that make Pods.
const MAKERS: [&str; 7] =
    ["Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "CronJob", "ReplicationController"];

impl Change {
    /// Reads manifests of `with` and names of `without`; what names no namespace is in `namespace`.
    ///
    /// # Errors
    /// A file cannot be read or parsed, an object has no name, or a word names no object.
    pub fn read(with: &[PathBuf], without: &[String], namespace: &str) -> Result<Self, Failure> {
        let mut applied = Vec::new();
        let mut removed = Vec::new();
        for mut value in crate::apply::read(with)? {
            let key = Key::of(&value, namespace);
            if key.kind.is_empty() || key.name.is_empty() {
                let what = if key.kind.is_empty() { "an object" } else { key.kind.as_str() };
                return Err(Failure::input(format!(
                    "--with: {what} has no kind or no metadata.name; a change needs both"
                )));
            }
            if value.get("$patch").and_then(Value::as_str) == Some("delete") {
                removed.push(key);
                continue;
            }
            if !key.namespace.is_empty() {
                value["metadata"]["namespace"] = key.namespace.as_str().into();
            }
            applied.push(value);
        }
        for text in without {
            removed.push(Key::parse(text, namespace)?);
        }
        Ok(Self { applied, removed })
    }

    /// The objects that there would be, and what was assumed or not followed.
    ///
    /// # Errors
    /// What is to be deleted is not there, or an object cannot be changed so.
    pub fn made(&self, before: &[Value], ranges: &[IpNet]) -> Result<(Vec<Value>, Vec<String>), Failure> {
        let mut notes = Vec::new();
        let mut objects: BTreeMap<Key, Value> =
            before.iter().map(|value| (Key::of(value, "default"), value.clone())).collect();
        for key in &self.removed {
            if objects.remove(key).is_none() {
                return Err(Failure::input(format!("--without: there is no {key}")));
            }
            remove_slices_of(key, &mut objects);
        }
        for value in &self.applied {
            let key = Key::of(value, "default");
            notes.extend(unfollowed(&key));
            if !FOLLOWED.iter().any(|(kind, _)| *kind == key.kind) {
                continue;
            }
            let merged = match objects.get(&key) {
                Some(live) => merged(&key, live, value)?,
                None => stand_in(&key, value.clone(), &objects, ranges, &mut notes),
            };
            objects.insert(key, merged);
        }
        let after = slices::follow(before, objects.into_values().collect(), &mut notes)?;
        Ok((after, notes))
    }
}

/// A Service's slices go with it.
fn remove_slices_of(key: &Key, objects: &mut BTreeMap<Key, Value>) {
    if key.kind != "Service" {
        return;
    }
    let is_its = |at: &Key, value: &Value| {
        let label = value.pointer("/metadata/labels/kubernetes.io~1service-name").and_then(Value::as_str);
        at.kind == "EndpointSlice" && at.namespace == key.namespace && label == Some(&key.name)
    };
    objects.retain(|at, value| !is_its(at, value));
}

fn unfollowed(key: &Key) -> Option<String> {
    match key.kind.as_str() {
        kind if FOLLOWED.iter().any(|(known, _)| *known == kind) => None,
        kind if MAKERS.contains(&kind) => Some(format!(
            "{key}: the Pods that it would make or end are not followed; give them as Pods, or --without them"
        )),
        _ => Some(format!("{key}: no packet's way depends on it")),
    }
}

fn merged(key: &Key, live: &Value, manifest: &Value) -> Result<Value, Failure> {
    let annotation = live.pointer("/metadata/annotations").and_then(|all| all.get(LAST_APPLIED));
    let last =
        annotation.and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
    let patch = three_way(&last, manifest);
    let version = live["apiVersion"].as_str().unwrap_or_default();
    patch::strategic(version, &key.kind, live, &patch).map_err(|e| Failure::input(format!("--with: {key}: {e}")))
}

/// A new Service gets addresses and node ports from the server: others stand for them, and it is said.
fn stand_in(
    key: &Key,
    mut value: Value,
    objects: &BTreeMap<Key, Value>,
    ranges: &[IpNet],
    notes: &mut Vec<String>,
) -> Value {
    let kind = value.pointer("/spec/type").and_then(Value::as_str).unwrap_or("ClusterIP").to_owned();
    if key.kind != "Service" || kind == "ExternalName" {
        return value;
    }
    let has_address = value.pointer("/spec/clusterIP").or(value.pointer("/spec/clusterIPs")).is_some();
    if !has_address && let Some(addr) = free_address(objects, ranges) {
        value["spec"]["clusterIP"] = addr.as_str().into();
        value["spec"]["clusterIPs"] = vec![Value::from(addr.as_str())].into();
        notes.push(format!("{key}: the server will give it a ClusterIP; {addr} stands for it here"));
    }
    if kind == "NodePort" || kind == "LoadBalancer" {
        let mut used = used_node_ports(objects.values());
        used.extend(used_node_ports([&value]));
        for port in value.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if port.get("nodePort").is_none()
                && let Some(free) = (30000..=32767).rev().find(|n| !used.contains(n))
            {
                port["nodePort"] = free.into();
                used.push(free);
                notes.push(format!("{key}: the server will give it a node port; {free} stands for it here"));
            }
        }
    }
    if kind == "LoadBalancer" && value.pointer("/status/loadBalancer/ingress").is_none() {
        notes.push(format!("{key}: the address that a load balancer will give it is not followed"));
    }
    value
}

fn used_node_ports<'a>(objects: impl IntoIterator<Item = &'a Value>) -> Vec<u64> {
    let ports = objects.into_iter().filter_map(|value| value.pointer("/spec/ports")?.as_array());
    ports.flatten().filter_map(|port| port["nodePort"].as_u64()).collect()
}

/// The last address of the first range that no Service has.
fn free_address(objects: &BTreeMap<Key, Value>, ranges: &[IpNet]) -> Option<String> {
    let used: Vec<&str> = objects.values().filter_map(|value| value.pointer("/spec/clusterIP")?.as_str()).collect();
    let last = |range: &IpNet| match range {
        IpNet::V4(net) => {
            let end = u32::from(net.broadcast());
            (1..=u32::from(u16::MAX))
                .map(move |n| std::net::Ipv4Addr::from(end.saturating_sub(n)).to_string())
                .collect()
        }
        IpNet::V6(net) => {
            let end = u128::from(net.broadcast());
            (1..=u128::from(u16::MAX)).map(move |n| std::net::Ipv6Addr::from(end - n).to_string()).collect::<Vec<_>>()
        }
    };
    last(ranges.first()?).into_iter().find(|addr| !used.contains(&addr.as_str()))
}

impl Key {
    fn of(value: &Value, namespace: &str) -> Self {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let kind = text("/kind");
        let own = text("/metadata/namespace");
        let namespace = match is_cluster_wide(&kind) {
            true => String::new(),
            false if own.is_empty() => namespace.to_owned(),
            false => own,
        };
        Self { kind, namespace, name: text("/metadata/name") }
    }

    /// `svc/NAME`, `pod/NAMESPACE/NAME`.
    fn parse(text: &str, namespace: &str) -> Result<Self, Failure> {
        let bad = |why: &str| {
            Failure::input(format!(
                "--without {text}: {why}; say svc/NAME, pod/NAME, endpointslice/NAME (with NAMESPACE/ before NAME) or node/NAME"
            ))
        };
        let parts: Vec<&str> = text.split('/').collect();
        let (word, rest) = parts.split_first().ok_or_else(|| bad("it is empty"))?;
        let kind = FOLLOWED.iter().find(|(_, words)| words.contains(word)).map(|(kind, _)| *kind);
        let kind = kind.ok_or_else(|| bad("no packet's way depends on such an object"))?;
        let (namespace, name) = match (rest, is_cluster_wide(kind)) {
            ([name], true) => ("", *name),
            ([name], false) => (namespace, *name),
            ([namespace, name], false) => (*namespace, *name),
            _ => return Err(bad("that is not how it is named")),
        };
        if name.is_empty() {
            return Err(bad("it has no name"));
        }
        Ok(Self { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

fn is_cluster_wide(kind: &str) -> bool {
    matches!(kind, "Node" | "Namespace")
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.namespace.is_empty() {
            true => write!(f, "{} {}", self.kind, self.name),
            false => write!(f, "{} {}/{}", self.kind, self.namespace, self.name),
        }
    }
}
