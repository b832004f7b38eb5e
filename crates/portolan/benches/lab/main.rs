//! `make bench`: how long a lab takes for what a user waits for, beside the limit of the same kernel work, in one run.
//!
//! ```text
//!  bare limits ─► the goals (the program itself) ─► up, down ─► apply, delete a pod ─► endpoint changes at 10 and at 1000 Services ─► tables (stdout)
//! ```
//!
//! Everything is measured from outside by what the kernel and the API tell: rules by nf_tables notifications inside a
//! node, answers by requests from inside a node, objects by a watch. The agents measure nothing of themselves. What the
//! rows mean stands in `docs/performance.md`. Needs root and what `make deps` fetches. `PORTOLAN_BENCH_QUICK=1` takes
//! few samples, to try the bench itself.

mod bare;
mod bring_up;
mod change;
mod cluster;
mod copied;
mod goals;
mod machine;
mod memory;
mod nft;
mod procs;
mod sight;
mod stats;
mod workload;

use std::path::{Path, PathBuf};
use std::time::Duration;

use portolan_kernel::iptables::Tool;
use portolan_lab::{LabConfig, LabHandle};
use portolan_pods::image::{Image, Store, nginx_from};
use tokio::runtime::Runtime;

use crate::bring_up::Phases;
use crate::change::{Changed, Changing, NodeSeen, Place};
use crate::goals::{Goal, Goals};
use crate::memory::Memory;
use crate::nft::RuleEvents;
use crate::stats::{Report, Samples, millis, three_digits};
use crate::workload::{Applied, By, Replaced, Workload};

/// What went wrong, in words; the bench ends at the first error.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What the pods run.
pub const NGINX: &str = "nginx:latest";
const NODES: usize = 2;
/// Services in the cluster, all counted, while an endpoint changes.
const FEW_SERVICES: usize = 10;
const MANY_SERVICES: usize = 1000;

/// How often each thing is measured.
struct Counts {
    bare: usize,
    ups: usize,
    applies: usize,
    deletes: usize,
    changes: usize,
}

impl Counts {
    fn from_environment() -> Self {
        match std::env::var_os("PORTOLAN_BENCH_QUICK") {
            Some(_) => Self { bare: 3, ups: 1, applies: 1, deletes: 1, changes: 5 },
            None => Self { bare: 20, ups: 7, applies: 10, deletes: 15, changes: 200 },
        }
    }
}

fn main() -> Outcome<()> {
    // Another provider can only be there if a library installed one before main.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let bench = Bench::new()?;
    let mut report = Report::default();
    bench.run(&mut report)?;
    print!("{}", report.text());
    Ok(())
}

struct Bench {
    runtime: Runtime,
    counts: Counts,
    config: LabConfig,
    image: Image,
    deb_bin: PathBuf,
}

impl Bench {
    fn new() -> Outcome<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
        let from = |variable: &str, default: &str| {
            std::env::var_os(variable).map_or_else(|| root.join(default), PathBuf::from)
        };
        let deb_bin = from("PORTOLAN_DEB_BIN", "target/deb/bin");
        let images = from("PORTOLAN_IMAGES", "target/images");
        let image = nginx(&images, &deb_bin)?;
        let name = format!("bench-{}", std::process::id());
        let mut config = LabConfig::new(&name, NODES, env!("CARGO_BIN_EXE_portolan").into(), images);
        config.iptables_dir = Some(deb_bin.clone());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        Ok(Self { runtime, counts: Counts::from_environment(), config, image, deb_bin })
    }

    fn run(&self, report: &mut Report) -> Outcome<()> {
        let began = machine::Moment::now();
        machine::describe(report, &self.deb_bin);
        let bare = self.bare()?;
        let goals = self.goals()?;
        let mut phases = Phases::default();
        for round in 1..self.counts.ups {
            progress(&format!("up and down, {round} of {}", self.counts.ups));
            let lab = bring_up::up(&self.runtime, &self.config, &mut phases)?;
            bring_up::down(lab, &mut phases)?;
        }
        let lab = bring_up::up(&self.runtime, &self.config, &mut phases)?;
        let measured = self.in_lab(&lab)?;
        bring_up::down(lab, &mut phases)?;
        goals.say(report, &measured.replaced.reachable);
        say_up(report, &phases, &bare);
        measured.say(report, &bare);
        began.say_load(report, phases.labs_cpu);
        Ok(())
    }

    /// The limits, before any lab runs.
    fn bare(&self) -> Outcome<Bare> {
        progress("bare limits");
        std::fs::create_dir_all(portolan_lab::state_root())?;
        let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(portolan_lab::state_root().join(".."))?;
        let times = |measure: &dyn Fn(usize) -> Outcome<Duration>| {
            (0..self.counts.bare).map(measure).collect::<Outcome<Samples>>()
        };
        let exe = &self.config.exe;
        let pod = |number: usize| bare::pod(&self.runtime, exe, &self.image, &dir.path().join(format!("pod-{number}")));
        pod(self.counts.bare)?; // fills the page cache
        Ok(Bare {
            process: times(&|_| bare::process(exe))?,
            places: times(&|_| bare::places(2 + NODES as u8))?,
            pod: times(&pod)?,
        })
    }

    fn goals(&self) -> Outcome<Goals> {
        let Counts { ups, applies, .. } = self.counts;
        let (runtime, config, deb_bin) = (&self.runtime, &self.config, &self.deb_bin);
        Goal { runtime, config, deb_bin, ups, applies }.measure()
    }

    fn in_lab(&self, lab: &LabHandle) -> Outcome<Measured> {
        let mut measured = Measured::default();
        let node = |name: &str| -> Outcome<NodeSeen> {
            let netns = procs::node_netns(lab, name)?;
            let rules = RuleEvents::listen(&netns)?;
            Ok(NodeSeen { netns, rules, agent: procs::with_role(lab, &format!("agent of {name}"))? })
        };
        let nodes = [node("node-1")?, node("node-2")?];
        measured.memory.take("after `up`", lab)?;
        self.pods(lab, &nodes[0], &mut measured)?;
        self.changes(lab, &nodes, &mut measured)?;
        Ok(measured)
    }

    fn pods(&self, lab: &LabHandle, node: &NodeSeen, measured: &mut Measured) -> Outcome<()> {
        let workload = Workload::new(&self.runtime, lab.kubeconfig(), node.netns.try_clone()?, &node.rules)?;
        let kubectl = machine::kubectl(&self.deb_bin)?;
        workload.apply(By::Post, &mut Applied::default())?; // fills caches
        workload.remove()?;
        for round in 1..=self.counts.applies {
            progress(&format!("apply to first answer, {round} of {}", self.counts.applies));
            workload.apply(By::Post, &mut measured.posted)?;
            workload.remove()?;
            workload.apply(By::Kubectl(&kubectl), &mut measured.applied)?;
            workload.remove()?;
        }
        workload.apply(By::Post, &mut Applied::default())?;
        for round in 1..=self.counts.deletes {
            progress(&format!("pod deleted to replacement reachable, {round} of {}", self.counts.deletes));
            workload.replace(&mut measured.replaced)?;
        }
        workload.settled(2)?;
        measured.memory.take("with 2 nginx pods", lab)
    }

    fn changes(&self, lab: &LabHandle, nodes: &[NodeSeen], measured: &mut Measured) -> Outcome<()> {
        let client = self.runtime.block_on(cluster::connect(&lab.kubeconfig()))?;
        let server = procs::with_role(lab, procs::SERVER)?;
        let tool = Tool { dir: Some(self.deb_bin.clone()), env: Vec::new() };
        let place = Place { runtime: &self.runtime, nodes, server, tool, disk: lab.config().state_dir.clone() };
        let mut changing = Changing::new(place, client)?;
        for services in [FEW_SERVICES, MANY_SERVICES] {
            progress(&format!("{services} Services"));
            changing.fill(services)?;
            progress(&format!("endpoint change to rule, {} times at {services} Services", self.counts.changes));
            measured.changed.push((services, changing.measure(self.counts.changes)?));
        }
        measured.memory.take(&format!("and {MANY_SERVICES} Services"), lab)
    }
}

/// The image, packed from Debian's nginx if the store has none.
fn nginx(images: &Path, deb_bin: &Path) -> Outcome<Image> {
    let store = Store::open(images)?;
    if let Some(image) = store.find(NGINX) {
        return Ok(image);
    }
    Ok(store.build_from_host(&nginx_from(&deb_bin.with_file_name("root")))?)
}

struct Bare {
    process: Samples,
    places: Samples,
    pod: Samples,
}

/// All that one lab showed.
#[derive(Default)]
struct Measured {
    posted: Applied,
    applied: Applied,
    replaced: Replaced,
    changed: Vec<(usize, Changed)>,
    memory: Memory,
}

fn say_up(report: &mut Report, phases: &Phases, bare: &Bare) {
    report.heading("`up` to Ready nodes (2 nodes)");
    report.distributions(&[
        ("processes started", &phases.processes_started),
        ("API answers", &phases.api_answered),
        ("**both nodes Ready**", &phases.nodes_ready),
        ("CPU time of the lab's processes until then", &phases.cpu),
        ("`down`, until nothing is left", &phases.down),
        ("limit: the 4 places bare (network, mount and UTS namespaces, bridge, veths)", &bare.places),
        ("limit: one process of `portolan` from fork to exit", &bare.process),
    ]);
}

impl Measured {
    fn say(&self, report: &mut Report, bare: &Bare) {
        for (how, applied) in [("two POSTs", &self.posted), ("`kubectl apply -f`", &self.applied)] {
            report.heading(&format!("apply to first answer: 2 nginx pods and their Service, by {how}"));
            report.distributions(&[
                ("objects accepted", &applied.accepted),
                ("first pod scheduled", &applied.scheduled),
                ("first pod Ready", &applied.ready),
                ("first ready endpoint in the slice", &applied.endpoint),
                ("its rule on node-1", &applied.rule),
                ("**first answer through the ClusterIP, from node-1**", &applied.answered),
                ("limit: one nginx by shim alone until port 80 answers", &bare.pod),
            ]);
            report.line("");
            say_ratio(report, "first answer / bare nginx", &applied.answered, bare.pod.median());
        }
        report.heading("pod deleted to replacement reachable");
        report.distributions(&[
            ("replacement scheduled", &self.replaced.scheduled),
            ("it answers at its own address, from node-1", &self.replaced.answers),
            ("its rule on node-1", &self.replaced.rule),
            ("**reachable through the Service (both of these)**", &self.replaced.reachable),
            ("limit: one nginx by shim alone until port 80 answers", &bare.pod),
        ]);
        report.line("");
        say_ratio(report, "reachable / bare nginx", &self.replaced.reachable, bare.pod.median());
        self.changed.iter().for_each(|(services, changed)| say_changed(report, *services, changed));
        self.memory.say(report);
    }
}

fn say_ratio(report: &mut Report, what: &str, ours: &Samples, limit: Duration) {
    report.line(&format!("Medians, {what}: {}.", three_digits(millis(ours.median()) / millis(limit))));
}

fn say_changed(report: &mut Report, services: usize, changed: &Changed) {
    report.heading(&format!("endpoint change to rule, {services} Services"));
    report.distributions(&[
        ("PATCH acknowledged", &changed.acknowledged),
        ("watch event at another client", &changed.watched),
        ("**rule in node-1's kernel**", &changed.first_node),
        ("rule in both nodes' kernels", &changed.both_nodes),
        ("limit: bare API write and watch (a ConfigMap, which no node follows)", &changed.bare_write),
        ("limit: one `iptables-restore --noflush` of the same chains by hand, until its rule", &changed.bare_restore),
        ("limit: 1 KiB appended and synced on the store's disk", &changed.durable_write),
    ]);
    let limit = changed.bare_write.median() + changed.bare_restore.median();
    report.line("");
    report.line(&format!(
        "Medians, rule in node-1's kernel / (bare write and watch + bare restore): {}. CPU time per change: {} ms of an agent \
         (its iptables-restore included), {} ms of the API server (the ConfigMap included).",
        three_digits(millis(changed.first_node.median()) / millis(limit)),
        three_digits(millis(changed.agent_cpu)),
        three_digits(millis(changed.server_cpu)),
    ));
}

/// Standard output is the report's.
fn progress(text: &str) {
    eprintln!("bench: {text}");
}
