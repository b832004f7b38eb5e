//! What a user waits for and pays, beside the goal that was set for it: the program itself is run, from start to end.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use portolan_lab::{Lab, LabConfig, state_root};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::cluster::{self, NAMESPACE, first_answer, is_ready};
use crate::stats::{Report, Samples, millis, three_digits};
use crate::{Outcome, progress};

/// Of the lab that is brought up, applied to and left idle.
const FEW_NODES: usize = 3;
const MANY_NODES: usize = 20;
const MANY_PODS: usize = 100;
/// Before a lab counts as idle.
const SETTLE: Duration = Duration::from_secs(5);
/// How long a lab is watched while it idles.
const IDLE: Duration = Duration::from_secs(30);
/// Between two looks at the API.
const LOOK: Duration = Duration::from_millis(5);
const CROWD_PATIENCE: Duration = Duration::from_secs(180);
/// The walk's files, as the notes have them.
const NOTES: [&str; 2] = ["notes-deployment.yaml", "ngx-svc.yaml"];
const DEPLOYMENT: &str = "nginx-deployment";
const SERVICE: &str = "ngx-svc";

/// Everything measured here; empty until it is.
#[derive(Default)]
pub struct Goals {
    up: Samples,
    answered: Samples,
    idle: Option<Idle>,
    crowd: Option<Crowd>,
}

/// A lab that nobody uses.
struct Idle {
    pss_kib: u64,
    /// Of one CPU, all processes together.
    cpu_percent: f64,
}

/// A lab of many nodes and pods.
struct Crowd {
    nodes_ready: Duration,
    /// From the POST of the Deployment on.
    pods_ready: Duration,
    pss_kib: u64,
    cpu: Duration,
}

/// What is run, and how often.
pub struct Goal<'a> {
    pub runtime: &'a Runtime,
    pub config: &'a LabConfig,
    pub deb_bin: &'a Path,
    pub ups: usize,
    pub applies: usize,
}

impl Goal<'_> {
    pub fn measure(&self) -> Outcome<Goals> {
        let mut goals = Goals::default();
        for round in 1..=self.ups {
            progress(&format!("up to {FEW_NODES} Ready nodes, {round} of {}", self.ups));
            goals.up.push(self.up(FEW_NODES)?);
            if round < self.ups {
                self.down()?;
            }
        }
        let lab = self.lab()?;
        progress(&format!("{FEW_NODES} idle nodes, for {} s", IDLE.as_secs()));
        goals.idle = Some(idle(&lab)?);
        let client = self.runtime.block_on(cluster::connect(&lab.kubeconfig()))?;
        for round in 1..=self.applies {
            progress(&format!("apply of the notes' files to first answer, {round} of {}", self.applies));
            goals.answered.push(self.apply(&lab, &client)?);
            self.runtime.block_on(remove(&client))?;
        }
        self.down()?;
        progress(&format!("{MANY_NODES} nodes and {MANY_PODS} pods"));
        goals.crowd = Some(self.crowd()?);
        self.down()?;
        Ok(goals)
    }

    fn name(&self) -> String {
        format!("{}-goal", self.config.name)
    }

    fn lab(&self) -> Outcome<Lab> {
        Ok(Lab::open(&state_root().join(self.name()))?)
    }

    fn program(&self) -> Command {
        let mut command = Command::new(&self.config.exe);
        command.env("PORTOLAN_DEB_BIN", self.deb_bin).env("PORTOLAN_IMAGES", &self.config.image_store);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// From the program's start to its end, which is when the nodes are Ready.
    fn up(&self, nodes: usize) -> Outcome<Duration> {
        let mut up = self.program();
        up.args(["up", "--detach", "--name", &self.name(), "--nodes", &nodes.to_string()]);
        timed(&mut up)
    }

    fn down(&self) -> Outcome<()> {
        timed(self.program().args(["down", "--name", &self.name()])).map(drop)
    }

    /// From the start of `portolan apply` to the first answer through the ClusterIP, from inside node-1.
    fn apply(&self, lab: &Lab, client: &Client) -> Outcome<Duration> {
        let node = crate::procs::node_netns(lab, "node-1")?;
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/walk");
        let mut apply = self.program();
        apply.arg("apply").env("KUBECONFIG", lab.kubeconfig()).stderr(Stdio::null());
        for file in NOTES {
            apply.arg("-f").arg(folder.join(file));
        }
        let start = Instant::now();
        let mut applying = apply.spawn()?;
        let address = self.runtime.block_on(service_address(client))?;
        let answered = first_answer(&node, SocketAddr::new(address, 80))?;
        let status = applying.wait()?;
        if !status.success() {
            return Err(format!("portolan apply: {status}").into());
        }
        Ok(answered - start)
    }

    fn crowd(&self) -> Outcome<Crowd> {
        let nodes_ready = self.up(MANY_NODES)?;
        let lab = self.lab()?;
        let client = self.runtime.block_on(cluster::connect(&lab.kubeconfig()))?;
        let pods_ready = self.runtime.block_on(many_pods(&client))?;
        let processes = lab.processes()?;
        Ok(Crowd {
            nodes_ready,
            pods_ready,
            pss_kib: processes.iter().filter_map(portolan_lab::Process::pss_kib).sum(),
            cpu: processes.iter().map(portolan_lab::Process::cpu).sum(),
        })
    }
}

fn timed(command: &mut Command) -> Outcome<Duration> {
    let start = Instant::now();
    let status = command.status()?;
    if !status.success() {
        return Err(format!("{command:?}: {status}").into());
    }
    Ok(start.elapsed())
}

fn idle(lab: &Lab) -> Outcome<Idle> {
    std::thread::sleep(SETTLE);
    let cpu = || -> Outcome<Duration> { Ok(lab.processes()?.iter().map(portolan_lab::Process::cpu).sum()) };
    let (before, start) = (cpu()?, Instant::now());
    std::thread::sleep(IDLE);
    let spent = cpu()?.saturating_sub(before);
    let pss_kib = lab.processes()?.iter().filter_map(portolan_lab::Process::pss_kib).sum();
    Ok(Idle { pss_kib, cpu_percent: 100.0 * spent.as_secs_f64() / start.elapsed().as_secs_f64() })
}

async fn service_address(client: &Client) -> Outcome<IpAddr> {
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let until = Instant::now() + crate::sight::PATIENCE;
    while Instant::now() < until {
        let address = services.get_opt(SERVICE).await?.and_then(|service| service.spec?.cluster_ip);
        if let Some(address) = address.and_then(|text| text.parse().ok()) {
            return Ok(address);
        }
        tokio::time::sleep(LOOK).await;
    }
    Err(format!("Service {SERVICE} has no address").into())
}

/// Removes what the notes' files made and waits until nothing of it is left.
async fn remove(client: &Client) -> Outcome<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    // nginx is its pod's first process, and a signal that comes before it handles it is lost until the grace period ends.
    pods_ready(client, 2, crate::sight::PATIENCE).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    services.delete(SERVICE, &DeleteParams::default()).await?;
    deployments.delete(DEPLOYMENT, &DeleteParams::background()).await?;
    pods_ready(client, 0, crate::sight::PATIENCE).await.map(drop)
}

async fn many_pods(client: &Client) -> Outcome<Duration> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let deployment = serde_json::from_value(json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "crowd"},
        "spec": {
            "replicas": MANY_PODS, "selector": {"matchLabels": {"app": "crowd"}},
            "template": {
                "metadata": {"labels": {"app": "crowd"}},
                "spec": {"containers": [{"name": "nginx", "image": crate::NGINX}]},
            },
        },
    }))?;
    let start = Instant::now();
    deployments.create(&PostParams::default(), &deployment).await?;
    Ok(pods_ready(client, MANY_PODS, CROWD_PATIENCE).await? - start)
}

/// When exactly `count` pods were there, all Ready.
async fn pods_ready(client: &Client, count: usize, patience: Duration) -> Outcome<Instant> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let until = Instant::now() + patience;
    loop {
        let list = pods.list(&ListParams::default()).await?.items;
        if list.len() == count && list.iter().all(is_ready) {
            return Ok(Instant::now());
        }
        if Instant::now() > until {
            let unready: Vec<String> = list.iter().filter(|pod| !is_ready(pod)).map(ResourceExt::name_any).collect();
            return Err(format!("after {patience:?} {} pods, not ready: {unready:?}", list.len()).into());
        }
        // A list of many pods costs the API server more than one of few.
        tokio::time::sleep(LOOK * (1 + count as u32 / 2)).await;
    }
}

impl Goals {
    /// `replaced`: pod deleted to replacement reachable through its Service.
    pub fn say(&self, report: &mut Report, replaced: &Samples) {
        report.heading("the goals");
        let mut rows = vec![
            duration("`up` to three Ready nodes", Duration::from_secs(2), &self.up),
            duration("apply of the notes' files to first answer", Duration::from_secs(1), &self.answered),
            duration("pod deleted to replacement reachable through its Service", Duration::from_millis(500), replaced),
        ];
        if let Some(idle) = &self.idle {
            rows.push(figure("three idle nodes: memory (PSS, MB)", 150.0, idle.pss_kib as f64 * 1024.0 / 1e6));
            rows.push(figure("three idle nodes: CPU (% of one, all processes)", 1.0, idle.cpu_percent));
        }
        if let Some(crowd) = &self.crowd {
            let both = crowd.nodes_ready + crowd.pods_ready;
            let what = format!("{MANY_NODES} nodes and {MANY_PODS} pods, from nothing to Ready (s)");
            rows.push(figure(&what, 20.0, both.as_secs_f64()));
        }
        report.table(&["what", "goal", "measured", "slowest", "n", "measured / goal"], &rows);
        if let Some(crowd) = &self.crowd {
            report.line(&format!(
                "\nThe {MANY_NODES} nodes were Ready after {} s and the {MANY_PODS} nginx pods {} s later; all processes had then used \
                 {} s of CPU time and had {} MiB of memory.",
                three_digits(crowd.nodes_ready.as_secs_f64()),
                three_digits(crowd.pods_ready.as_secs_f64()),
                three_digits(crowd.cpu.as_secs_f64()),
                three_digits(crowd.pss_kib as f64 / 1024.0),
            ));
        }
    }
}

/// A row in milliseconds: the median counts.
fn duration(what: &str, goal: Duration, samples: &Samples) -> Vec<String> {
    let median = samples.median();
    vec![
        format!("{what} (ms)"),
        format!("{:.0}", millis(goal)),
        three_digits(millis(median)),
        three_digits(millis(samples.percentile(100))),
        samples.len().to_string(),
        three_digits(median.as_secs_f64() / goal.as_secs_f64()),
    ]
}

/// A row of one look.
fn figure(what: &str, goal: f64, measured: f64) -> Vec<String> {
    let cells =
        [three_digits(goal), three_digits(measured), "-".to_owned(), "1".to_owned(), three_digits(measured / goal)];
    [vec![what.to_owned()], cells.to_vec()].concat()
}
