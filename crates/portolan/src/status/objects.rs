//! Pods and Services of the cluster, counted. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::gather::Objects;

/// Some, and how many of them are ready.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Count {
    pub ready: usize,
    /// Without those that ran to their end.
    pub total: usize,
}

/// All pods of the cluster.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pods {
    pub total: usize,
    pub ready: usize,
    /// `status.phase` and how many have it.
    pub phases: BTreeMap<String, usize>,
    /// Those that should be ready and are not.
    pub not_ready: Vec<NotReady>,
}

/// A pod that is not ready.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NotReady {
    pub namespace: String,
    pub name: String,
    /// `None`: not scheduled.
    pub node: Option<String>,
    /// As `kubectl get pods` says it: `CrashLoopBackOff`, `Unschedulable`, `Terminating`.
    pub reason: String,
}

/// All Services of the cluster.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Services {
    pub total: usize,
    /// `spec.type` and how many have it; `Headless` are those without a cluster IP.
    pub types: BTreeMap<String, usize>,
    pub endpoints_ready: usize,
    /// `namespace/name` of those that a request would find nobody behind.
    pub without_endpoints: Vec<String>,
}

pub fn pods(objects: &Objects) -> Pods {
    let mut phases: BTreeMap<String, usize> = BTreeMap::new();
    for pod in &objects.pods {
        *phases.entry(pod["status"]["phase"].as_str().unwrap_or("Unknown").to_owned()).or_default() += 1;
    }
    let mut not_ready: Vec<NotReady> =
        objects.pods.iter().filter(|pod| !has_succeeded(pod) && !is_ready(pod)).map(not_ready).collect();
    not_ready.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    Pods {
        total: objects.pods.len(),
        ready: objects.pods.iter().filter(|pod| is_ready(pod)).count(),
        phases,
        not_ready,
    }
}

pub fn on_node(pods: &[Value], node: &str) -> Count {
    let here = || pods.iter().filter(|pod| pod["spec"]["nodeName"] == *node && !has_succeeded(pod));
    Count { ready: here().filter(|pod| is_ready(pod)).count(), total: here().count() }
}

fn has_succeeded(pod: &Value) -> bool {
    pod["status"]["phase"] == "Succeeded"
}

fn is_ready(pod: &Value) -> bool {
    rows(&pod["status"]["conditions"]).any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn not_ready(pod: &Value) -> NotReady {
    let (namespace, name) = namespaced(pod);
    let node = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()).map(str::to_owned);
    NotReady { namespace, name, node, reason: reason(pod) }
}

/// The word that a person would look for.
fn reason(pod: &Value) -> String {
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return "Terminating".to_owned();
    }
    let status = &pod["status"];
    let containers = || ["initContainerStatuses", "containerStatuses"].into_iter().flat_map(|all| rows(&status[all]));
    let of_state = |state: &'static str| {
        let reasons = containers().filter_map(move |c| c["state"][state]["reason"].as_str());
        reasons.map(str::to_owned).find(|reason| reason != "Completed")
    };
    let unscheduled = rows(&status["conditions"]).find(|c| c["type"] == "PodScheduled" && c["status"] == "False");
    let unscheduled = unscheduled.and_then(|c| c["reason"].as_str()).map(str::to_owned);
    let running = status["phase"] == "Running";
    let phase = || status["phase"].as_str().unwrap_or("Pending").to_owned();
    of_state("waiting")
        .or_else(|| of_state("terminated"))
        .or(unscheduled)
        .or_else(|| status["reason"].as_str().map(str::to_owned))
        .unwrap_or_else(|| if running { "its readiness is not given".to_owned() } else { phase() })
}

pub fn services(objects: &Objects) -> Services {
    let mut types: BTreeMap<String, usize> = BTreeMap::new();
    let mut behind: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for slice in &objects.endpoint_slices {
        let (namespace, _) = namespaced(slice);
        let Some(service) = slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str() else { continue };
        let ready = rows(&slice["endpoints"]).filter(|endpoint| endpoint["conditions"]["ready"] != false);
        let addresses = ready.flat_map(|e| rows(&e["addresses"])).filter_map(Value::as_str).map(str::to_owned);
        behind.entry((namespace, service.to_owned())).or_default().extend(addresses);
    }
    for service in &objects.services {
        *types.entry(type_of(service).to_owned()).or_default() += 1;
    }
    let with_addresses = objects.services.iter().filter(|service| type_of(service) != "ExternalName");
    let keys: Vec<(String, String)> = with_addresses.map(namespaced).collect();
    let ready = |key: &(String, String)| behind.get(key).map_or(0, BTreeSet::len);
    let mut without_endpoints: Vec<String> =
        keys.iter().filter(|key| ready(key) == 0).map(|(namespace, name)| format!("{namespace}/{name}")).collect();
    without_endpoints.sort();
    Services { total: objects.services.len(), types, endpoints_ready: keys.iter().map(ready).sum(), without_endpoints }
}

fn type_of(service: &Value) -> &str {
    match (service["spec"]["type"].as_str().unwrap_or("ClusterIP"), service["spec"]["clusterIP"].as_str()) {
        ("ClusterIP", Some("None")) => "Headless",
        (other, _) => other,
    }
}

impl Pods {
    /// A pod that ends is on its way, not wrong.
    pub fn problems(&self) -> Vec<String> {
        let wrong = self.not_ready.iter().filter(|pod| pod.reason != "Terminating");
        wrong.map(NotReady::to_string).collect()
    }
}

impl std::fmt::Display for NotReady {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let node = self.node.as_ref().map_or(String::new(), |node| format!(" on {node}"));
        write!(f, "pod {}/{}{node} is not ready: {}", self.namespace, self.name, self.reason)
    }
}

impl Services {
    pub fn problems(&self) -> Vec<String> {
        self.without_endpoints.iter().map(|name| format!("Service {name} has no ready endpoint")).collect()
    }
}

fn namespaced(object: &Value) -> (String, String) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

fn rows(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
