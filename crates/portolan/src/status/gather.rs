//! Asking: lab init, /proc, the API server, and each node's agent through it. All at once, none for longer than a while.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use kube::Client;
use portolan_lab::{Lab, Role};
use serde_json::Value;

use crate::failure::Failure;
use crate::process::block_on;

/// A part that takes longer is shown as one that does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Everything that was found, as it was found.
pub struct Observed {
    pub kubeconfig: PathBuf,
    /// The address at which each node's DNS should answer.
    pub cluster_dns: IpAddr,
    /// What lab init says: nodes and processes.
    pub lab: portolan_lab::Status,
    /// The API server's lists, or why there are none.
    pub objects: Result<Objects, String>,
    /// What each node's agent says of itself, or why it does not.
    pub agents: BTreeMap<String, Result<Value, String>>,
    pub processes: Vec<Cost>,
    /// Since the lab's keeper was started.
    pub up_for: Duration,
    pub now: Timestamp,
}

/// Items of the API's lists.
#[derive(Default)]
pub struct Objects {
    pub nodes: Vec<Value>,
    pub pods: Vec<Value>,
    pub services: Vec<Value>,
    pub endpoint_slices: Vec<Value>,
}

/// What a process costs.
pub struct Cost {
    pub role: Role,
    /// Its share of memory; `None` if it ended meanwhile or may not be looked at.
    pub pss_kib: Option<u64>,
    pub cpu: Duration,
}

/// Looks at everything once.
///
/// # Errors
/// The lab itself does not answer.
pub fn gather(lab: &Lab) -> Result<Observed, Failure> {
    let status = lab.status().map_err(Failure::no)?;
    let nodes: Vec<String> = status.nodes.iter().filter(|node| node.plugged).map(|node| node.name.clone()).collect();
    let (objects, agents) = block_on(async {
        let client = crate::client::connect(Some(lab.kubeconfig())).await?;
        Ok(tokio::join!(objects(&client), agents(&client, &nodes)))
    })?;
    let processes = lab.processes().map_err(Failure::no)?;
    let up_for = processes.iter().find(|p| p.role == Role::Keeper).and_then(portolan_lab::Process::age);
    let cost =
        |process: portolan_lab::Process| Cost { pss_kib: process.pss_kib(), cpu: process.cpu(), role: process.role };
    Ok(Observed {
        kubeconfig: lab.kubeconfig(),
        cluster_dns: lab.config().cluster_dns,
        lab: status,
        objects,
        agents,
        processes: processes.into_iter().map(cost).collect(),
        up_for: up_for.unwrap_or_default(),
        now: Timestamp::now(),
    })
}

async fn objects(client: &Client) -> Result<Objects, String> {
    let (nodes, pods, services, endpoint_slices) = tokio::join!(
        get(client, "/api/v1/nodes"),
        get(client, "/api/v1/pods"),
        get(client, "/api/v1/services"),
        get(client, "/apis/discovery.k8s.io/v1/endpointslices"),
    );
    let items = |list: Value| match list {
        Value::Object(mut list) => list.remove("items").and_then(|items| items.as_array().cloned()).unwrap_or_default(),
        _ => Vec::new(),
    };
    Ok(Objects {
        nodes: items(nodes?),
        pods: items(pods?),
        services: items(services?),
        endpoint_slices: items(endpoint_slices?),
    })
}

async fn agents(client: &Client, nodes: &[String]) -> BTreeMap<String, Result<Value, String>> {
    let ask = |node: String| async move {
        let answer = get(client, &format!("/api/v1/nodes/{node}/proxy/portolan/v1/status")).await;
        (node, answer)
    };
    join_all(nodes.iter().cloned().map(ask)).await.into_iter().collect()
}

async fn get(client: &Client, path: &str) -> Result<Value, String> {
    let request = http::Request::get(path).body(Vec::new()).map_err(|e| e.to_string())?;
    match tokio::time::timeout(PATIENCE, client.request::<Value>(request)).await {
        Ok(Ok(value)) => Ok(value),
        // The status that the API server answers says it best.
        Ok(Err(kube::Error::Api(status))) => Err(status.message),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}
