//! Waiting until every node of the lab is Ready, as the Kubernetes API tells it, and has a route to the pods of each other,
//! as its agent tells it: a Node is Ready before its BGP sessions stand.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::Value;

use crate::client::Lab;
use crate::error::LabError;

const PAUSE: Duration = Duration::from_millis(50);
/// A process that ended this often will not come up by waiting.
const HOPELESS_RESTARTS: u32 = 6;

/// Returns when all of `names` are Ready; `Err` after `patience` or when a process keeps ending.
pub(crate) fn nodes(lab: &Lab, names: &[String], patience: Duration) -> Result<(), LabError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| LabError::Api(e.to_string()))?;
    runtime.block_on(await_nodes(lab, names, patience))
}

async fn await_nodes(lab: &Lab, names: &[String], patience: Duration) -> Result<(), LabError> {
    let until = Instant::now() + patience;
    let client = client(lab).await?;
    let api: Api<Node> = Api::all(client.clone());
    loop {
        let missing = match tokio::time::timeout(Duration::from_secs(5), api.list(&ListParams::default())).await {
            Ok(Ok(list)) => match unready(names, &list.items) {
                none if none.is_empty() => without_routes(&client, names).await,
                some => some,
            },
            Ok(Err(error)) => format!("the API server does not answer: {error}"),
            Err(_) => "the API server takes more than 5 s to list the nodes".to_owned(),
        };
        if missing.is_empty() {
            return Ok(());
        }
        if let Some(name) = hopeless(lab)? {
            return Err(LabError::NotStarted { reason: format!("{name} keeps ending; {missing}") });
        }
        if Instant::now() > until {
            return Err(LabError::NotStarted { reason: format!("after {} s: {missing}", patience.as_secs()) });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn client(lab: &Lab) -> Result<Client, LabError> {
    let failed = |e: &dyn std::fmt::Display| LabError::Api(e.to_string());
    let kubeconfig = Kubeconfig::read_from(lab.kubeconfig()).map_err(|e| failed(&e))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    Client::try_from(config.map_err(|e| failed(&e))?).map_err(|e| failed(&e))
}

/// Which of the names are not Ready, as a sentence; empty if all are.
fn unready(names: &[String], nodes: &[Node]) -> String {
    let missing: Vec<_> = names
        .iter()
        .filter(|name| !nodes.iter().any(|node| node.metadata.name.as_ref() == Some(name) && is_ready(node)))
        .map(String::as_str)
        .collect();
    if missing.is_empty() { String::new() } else { format!("not Ready: {}", missing.join(", ")) }
}

/// The first of the names that does not know its way to all others yet, as a sentence; empty if all do.
async fn without_routes(client: &Client, names: &[String]) -> String {
    for name in names {
        let known = match agent_status(client, name).await {
            Ok(status) => peers_with_routes(&status),
            Err(error) => return format!("the agent of {name} does not answer: {error}"),
        };
        if known + 1 < names.len() {
            return format!("{name} has routes to {known} of {} other nodes", names.len() - 1);
        }
    }
    String::new()
}

async fn agent_status(client: &Client, node: &str) -> Result<Value, kube::Error> {
    let path = format!("/api/v1/nodes/{node}/proxy/portolan/v1/status");
    let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
    client.request(request).await
}

fn peers_with_routes(status: &Value) -> usize {
    let routes = status["bgp"]["routes"].as_array().into_iter().flatten();
    routes.filter_map(|route| route["peer"].as_str()).collect::<BTreeSet<_>>().len()
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

fn hopeless(lab: &Lab) -> Result<Option<String>, LabError> {
    let units = lab.status()?.units;
    Ok(units.into_iter().find(|unit| unit.restarts >= HOPELESS_RESTARTS).map(|unit| unit.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, ready: &str) -> Node {
        let json = serde_json::json!({
            "metadata": {"name": name},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_node_that_is_absent_or_not_ready_is_named() {
        let names = ["node-1", "node-2", "node-3"].map(str::to_owned);
        let nodes = [node("node-1", "True"), node("node-2", "False")];
        assert_eq!(unready(&names, &nodes), "not Ready: node-2, node-3");
        assert_eq!(unready(&names[..1], &nodes), "");
    }

    #[test]
    fn a_peer_counts_once_however_many_blocks_it_told_of() {
        let route = |prefix: &str, peer: &str| serde_json::json!({"prefix": prefix, "peer": peer});
        let routes = [
            route("10.244.0.64/26", "172.18.0.12"),
            route("10.244.1.0/26", "172.18.0.12"),
            route("10.244.2.0/26", "172.18.0.13"),
        ];
        assert_eq!(peers_with_routes(&serde_json::json!({ "bgp": { "routes": routes } })), 2);
        assert_eq!(peers_with_routes(&serde_json::json!({ "bgp": null })), 0);
    }
}
