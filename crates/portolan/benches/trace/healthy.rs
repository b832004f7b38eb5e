//! A healthy packet's story, and all connections, as a user waits for them: the program from its start to its end.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::cluster::{self, NAMESPACE};
use crate::goals::{Asked, Goals};
use crate::sight::PATIENCE;
use crate::stats::{Report, Samples, millis};
use crate::{Ground, NGINX, Outcome, progress};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
const TRACE: [&str; 3] = ["trace", "pod/client", "svc/web:80"];
const FLOWS: [&str; 2] = ["flows", "svc/web"];
/// One question to one agent, and its answer.
const ONE_QUESTION: [&str; 4] = ["node", "status", "--node", "node-1"];
const NO_QUESTION: [&str; 1] = ["--version"];

/// What one mode showed.
pub struct Healthy {
    mode: &'static str,
    trace: Samples,
    flows: Samples,
    one_question: Samples,
    no_question: Samples,
}

/// A client on node-1, a server on node-2, a Service between them.
pub fn measure(ground: &Ground<'_>, count: usize) -> Outcome<Healthy> {
    let client = ground.runtime.block_on(cluster::connect(&ground.lab.kubeconfig()))?;
    ground.runtime.block_on(make(&client))?;
    await_delivery(ground)?;
    let mut healthy = Healthy {
        mode: ground.mode,
        trace: Samples::default(),
        flows: Samples::default(),
        one_question: Samples::default(),
        no_question: Samples::default(),
    };
    progress(&format!("{count} traces in {} mode", ground.mode));
    for _ in 0..count {
        healthy.trace.push(run(ground, &TRACE)?);
        healthy.flows.push(run(ground, &FLOWS)?);
        healthy.one_question.push(run(ground, &ONE_QUESTION)?);
        healthy.no_question.push(run(ground, &NO_QUESTION)?);
    }
    Ok(healthy)
}

async fn make(client: &Client) -> Outcome<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let pod = |name: &str, node: &str, more: Value| -> Outcome<Pod> {
        let mut container = json!({"name": "main", "image": NGINX});
        if let (Some(to), Some(more)) = (container.as_object_mut(), more.as_object().cloned()) {
            to.extend(more);
        }
        Ok(serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"nodeName": node, "containers": [container]},
        }))?)
    };
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}]},
    }))?;
    pods.create(&PostParams::default(), &pod("client", "node-1", json!({"command": ["sleep", "3600"]}))?).await?;
    pods.create(&PostParams::default(), &pod("web", "node-2", json!({}))?).await?;
    Api::<Service>::namespaced(client.clone(), NAMESPACE).create(&PostParams::default(), &service).await?;
    Ok(())
}

fn await_delivery(ground: &Ground<'_>) -> Outcome<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        match run(ground, &TRACE) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

/// From the program's start to its end; it has to say yes.
fn run(ground: &Ground<'_>, args: &[&str]) -> Outcome<Duration> {
    let mut command = Command::new(&ground.lab.config().exe);
    command.env("KUBECONFIG", ground.lab.kubeconfig()).args(args).stdin(Stdio::null());
    let start = Instant::now();
    let said = command.output()?;
    let took = start.elapsed();
    match said.status.success() {
        true => Ok(took),
        false => {
            let words = [said.stdout, said.stderr].concat();
            Err(format!("portolan {}: {}", args.join(" "), String::from_utf8_lossy(&words).trim()).into())
        }
    }
}

impl Healthy {
    pub fn goals(&self, goals: &mut Goals) {
        let asked = Asked::at_most(" ms", "-", 200.0, None);
        let what = format!("trace of a healthy packet over two nodes, {} mode: p95, process start to end", self.mode);
        goals.add(&what, asked, millis(self.trace.percentile(95)));
    }

    pub fn say(all: &[Self], report: &mut Report) {
        report.heading("commands, process start to end (a lab of two nodes)");
        let rows = all.iter().flat_map(|it| {
            [
                (format!("**`trace pod/client svc/web:80`, {} mode**", it.mode), &it.trace),
                (format!("`flows svc/web`, {} mode", it.mode), &it.flows),
                (format!("limit: one question to one agent (`node status`), {} mode", it.mode), &it.one_question),
                (format!("limit: the program alone (`--version`), {} mode", it.mode), &it.no_question),
            ]
        });
        let rows: Vec<(String, &Samples)> = rows.collect();
        let rows: Vec<(&str, &Samples)> = rows.iter().map(|(name, samples)| (name.as_str(), *samples)).collect();
        report.distributions(&rows);
    }
}
