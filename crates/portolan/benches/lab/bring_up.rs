//! `up`: from nothing to Ready nodes, in its phases, and `down`.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client};
use portolan_lab::{Attachment, Lab, LabConfig, LabHandle, Ready};
use tokio::runtime::Runtime;

use crate::sight::PATIENCE;
use crate::stats::Samples;
use crate::{Outcome, cluster, procs};

/// Between two looks at the nodes: the resolution of the last two phases.
const PAUSE: Duration = Duration::from_millis(5);

/// Each counted from the call of `up`.
#[derive(Default)]
pub struct Phases {
    pub processes_started: Samples,
    pub api_answered: Samples,
    pub nodes_ready: Samples,
    /// CPU time of all the lab's processes until then.
    pub cpu: Samples,
    pub down: Samples,
    /// Of all labs, from `up` to `down`: the bench cannot wait for processes of another PID namespace.
    pub labs_cpu: Duration,
}

/// Brings the lab up once and adds what it took.
pub fn up(runtime: &Runtime, config: &LabConfig, phases: &mut Phases) -> Outcome<LabHandle> {
    let config = LabConfig { ready: Ready::Started, ..config.clone() };
    let start = Instant::now();
    let lab = portolan_lab::up(&config, Attachment::Attached)?;
    phases.processes_started.push(start.elapsed());
    let client = runtime.block_on(cluster::connect(&lab.kubeconfig()))?;
    let (answered, ready) = runtime.block_on(await_ready(client, config.nodes))?;
    phases.api_answered.push(answered - start);
    phases.nodes_ready.push(ready - start);
    phases.cpu.push(cpu(&lab)?);
    Ok(lab)
}

/// Takes it down and adds what that took.
pub fn down(lab: LabHandle, phases: &mut Phases) -> Outcome<()> {
    phases.labs_cpu += cpu(&lab)?;
    let start = Instant::now();
    lab.down()?;
    phases.down.push(start.elapsed());
    Ok(())
}

fn cpu(lab: &Lab) -> Outcome<Duration> {
    Ok(procs::of_lab(lab)?.iter().map(|process| procs::cpu(process.pid)).sum())
}

/// When the API answered first, and when all nodes were Ready.
async fn await_ready(client: Client, count: usize) -> Outcome<(Instant, Instant)> {
    let nodes: Api<Node> = Api::all(client);
    let until = Instant::now() + PATIENCE;
    let mut answered = None;
    while Instant::now() < until {
        if let Ok(list) = nodes.list(&ListParams::default()).await {
            let now = Instant::now();
            answered.get_or_insert(now);
            if list.items.iter().filter(|node| is_ready(node)).count() == count {
                return Ok((answered.unwrap_or(now), now));
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(format!("{count} nodes were not Ready within {PATIENCE:?}").into())
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}
