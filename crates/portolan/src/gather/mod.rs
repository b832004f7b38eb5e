//! What there is to know of a cluster, from its API or from files: facts to plan with, and notes to explain with.
//!
//! ```text
//!  API: lists of five kinds, at once ─┐                        ┌─► Facts    (ingest, as an agent does)
//!                                     ├─► values ─► gathered ──┼─► Objects  (why a pod is not ready, what a selector asks)
//!  files: -f ─────────────────────────┘                        └─► host ports
//! ```
//!
//! What a node's own kernel and BGP know is no part of it: agents are asked for that, or it is derived.

pub mod agents;
mod notes;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::try_join_all;
use jiff::Timestamp;
use kube::Client;
use portolan_ingest::{Event, Object, host_ports, ingest};
use portolan_model::{Complaint, Facts, HostPort, NsName};
use portolan_story::objects::Objects;
use serde_json::Value;

use crate::failure::Failure;

/// The kinds that carry facts: API path, `apiVersion` and `kind`, which items of a list do not say themselves.
const KINDS: [(&str, &str, &str); 5] = [
    ("/api/v1/namespaces", "v1", "Namespace"),
    ("/api/v1/nodes", "v1", "Node"),
    ("/api/v1/services", "v1", "Service"),
    ("/api/v1/pods", "v1", "Pod"),
    ("/apis/discovery.k8s.io/v1/endpointslices", "discovery.k8s.io/v1", "EndpointSlice"),
];

/// A server that takes longer for a list counts as one that does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A cluster as its objects describe it.
#[derive(Clone, Debug)]
pub struct Gathered {
    /// What planners ask for; no attachments and no learned routes.
    pub facts: Facts,
    /// What only people ask for.
    pub notes: Objects,
    /// Of each pod that has any.
    pub host_ports: BTreeMap<NsName, Vec<HostPort>>,
    /// What is wrong with single objects.
    pub complaints: Vec<Complaint>,
    /// When it was gathered; ages count from here.
    pub now: Timestamp,
}

/// All objects of a cluster.
///
/// # Errors
/// The API server does not answer, or answers what is no list of objects.
pub async fn from_cluster(client: &Client) -> Result<Gathered, Failure> {
    let mut objects = Vec::new();
    for value in values_of_cluster(client).await? {
        let kind = value["kind"].as_str().unwrap_or_default();
        let read = Object::from_value(&value);
        let object = read.map_err(|e| Failure::no(format!("the API server's {kind} {}: {e}", name_of(&value))))?;
        objects.extend(object.map(|object| (value, object)));
    }
    Ok(gathered(objects, Timestamp::now()))
}

/// The same objects as the API gives them, for who would change them.
///
/// # Errors
/// As [`from_cluster`].
pub async fn values_of_cluster(client: &Client) -> Result<Vec<Value>, Failure> {
    let lists = try_join_all(KINDS.map(|(path, version, kind)| list(client, path, version, kind))).await?;
    Ok(lists.into_iter().flatten().collect())
}

/// All of these objects, as files hold them: facts are drawn from them with their defaults.
///
/// # Errors
/// One has not the shape of its kind.
pub fn from_values(values: Vec<Value>) -> Result<Gathered, Failure> {
    let mut objects = Vec::new();
    for value in values {
        let object = crate::render::object(value.clone())?;
        objects.extend(object.map(|object| (value, object)));
    }
    Ok(gathered(objects, Timestamp::now()))
}

/// The same objects told in three ways. Pure.
fn gathered(objects: Vec<(Value, Object)>, now: Timestamp) -> Gathered {
    let mut facts = Facts::default();
    let mut notes = Objects::default();
    let mut host_ports_of = BTreeMap::new();
    for (value, object) in &objects {
        notes::add(&mut notes, object, value);
        if let Object::Pod(pod) = object {
            let ports = host_ports(pod);
            if !ports.is_empty() {
                host_ports_of.insert(object.reference().key, ports);
            }
        }
    }
    let (_, complaints) = ingest(&mut facts, objects.into_iter().map(|(_, object)| Event::Value(object)));
    Gathered { facts, notes, host_ports: host_ports_of, complaints, now }
}

/// Items of one list, each told its kind.
async fn list(client: &Client, path: &str, version: &str, kind: &str) -> Result<Vec<Value>, Failure> {
    let request = http::Request::get(path).body(Vec::new()).map_err(Failure::input)?;
    let failed = |why: String| Failure::no(format!("cannot list {kind}s of the cluster: {why}"));
    let mut list = match tokio::time::timeout(PATIENCE, client.request::<Value>(request)).await {
        Ok(Ok(list)) => list,
        Ok(Err(kube::Error::Api(status))) => return Err(failed(status.message)),
        Ok(Err(error)) => return Err(failed(agents::chain(&error))),
        Err(_) => return Err(failed(format!("no answer within {} s", PATIENCE.as_secs()))),
    };
    let items = list.get_mut("items").map(Value::take);
    let Some(Value::Array(mut items)) = items else { return Err(failed("the answer is no list".to_owned())) };
    for item in &mut items {
        item["apiVersion"] = version.into();
        item["kind"] = kind.into();
    }
    Ok(items)
}

fn name_of(value: &Value) -> &str {
    value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn objects() -> Vec<Value> {
        vec![
            json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node-1" },
                "status": { "addresses": [{ "type": "InternalIP", "address": "172.18.0.11" }] } }),
            json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web", "resourceVersion": "7" },
                "spec": { "selector": { "app": "web" }, "clusterIP": "10.96.0.5", "ports": [{ "port": 80, "targetPort": "http" }] } }),
            json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web-1" },
                "spec": { "nodeName": "node-1", "containers": [{ "name": "main", "image": "x", "ports": [{ "containerPort": 8080, "hostPort": 80 }] }] } }),
            json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" }, "spec": {} }),
        ]
    }

    #[test]
    fn one_object_becomes_a_fact_a_note_and_its_host_ports() {
        let gathered = from_values(objects()).expect("objects");
        let (web, pod) = (NsName::new("default", "web"), NsName::new("default", "web-1"));
        assert_eq!(gathered.facts.services[&web].ports[0].port, 80);
        assert_eq!(gathered.notes.services[&web].target_ports["" as &str], "http");
        assert_eq!(gathered.notes.services[&web].version, 7);
        assert_eq!(gathered.facts.pods[&pod].node.as_deref(), Some("node-1"));
        assert_eq!(gathered.host_ports[&pod][0].host_port, 80);
        assert!(gathered.complaints.is_empty(), "{:?}", gathered.complaints);
    }

    #[test]
    fn an_object_of_the_wrong_shape_is_named() {
        let bad =
            json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" }, "spec": { "ports": 3 } });
        let error = from_values(vec![bad]).expect_err("no list of ports");
        assert!(error.to_string().starts_with("Service web: "), "{error}");
    }
}
