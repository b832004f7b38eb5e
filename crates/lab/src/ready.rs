//! Waiting until every node of the lab is Ready, as the Kubernetes API tells it.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

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
    let api: Api<Node> = Api::all(client(lab).await?);
    loop {
        let missing = match tokio::time::timeout(Duration::from_secs(5), api.list(&ListParams::default())).await {
            Ok(Ok(list)) => unready(names, &list.items),
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
}
