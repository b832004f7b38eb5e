//! `make bench`, trace and flows: how long a packet's story takes, what it costs others, what is kept to tell it.
//!
//! ```text
//!  each mode: lab of two nodes ─► others' connections, a watch armed or not ─► traces, flows ─► 64 generations ─► tables (stdout)
//! ```
//!
//! Commands are run as a user runs them, from the process's start to its end. What the rows mean stands in
//! `docs/performance.md`. Needs root and what `make deps` fetches. `PORTOLAN_BENCH_QUICK=1` takes few samples, to try the
//! bench itself.

#[path = "../lab/cluster.rs"]
#[allow(dead_code, reason = "shared with the bench of the lab")]
mod cluster;
#[path = "../proxy/connect.rs"]
#[allow(dead_code, reason = "shared with the bench of the proxy")]
mod connect;
#[path = "../../../story/tests/generations.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the test of the goal")]
mod generations;
#[path = "../proxy/goals.rs"]
#[allow(dead_code, reason = "shared with the bench of the proxy")]
mod goals;
mod healthy;
#[path = "../lab/machine.rs"]
#[allow(dead_code, reason = "shared with the bench of the lab")]
mod machine;
mod others;
#[path = "../proxy/place.rs"]
#[allow(dead_code, reason = "shared with the bench of the proxy")]
mod place;
#[path = "../lab/procs.rs"]
#[allow(dead_code, reason = "shared with the bench of the lab")]
mod procs;
#[path = "../lab/sight.rs"]
#[allow(dead_code, reason = "shared with the bench of the lab")]
mod sight;
#[path = "../lab/stats.rs"]
#[allow(dead_code, reason = "shared with the bench of the lab")]
mod stats;
#[path = "../proxy/world.rs"]
#[allow(dead_code, reason = "shared with the bench of the proxy")]
mod world;

use std::path::{Path, PathBuf};
use std::time::Duration;

use portolan_lab::{Attachment, LabConfig, LabHandle, ProxyMode};
use portolan_pods::image::{Store, nginx_from};
use tokio::runtime::Runtime;

use crate::goals::{Asked, Goals};
use crate::healthy::Healthy;
use crate::others::Others;
use crate::stats::{Report, three_digits};

/// What went wrong, in words; the bench ends at the first error.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What the pods run.
pub const NGINX: &str = "nginx:latest";
const NODES: usize = 2;
const MODES: [(ProxyMode, &str); 2] = [(ProxyMode::Iptables, "iptables"), (ProxyMode::Nftables, "nftables")];

/// How often each thing is measured.
#[derive(Clone, Copy)]
struct Counts {
    traces: usize,
    rounds: usize,
    /// Of churn, before 64 generations are weighed.
    generations: u32,
}

const WHOLE: Counts = Counts { traces: 100, rounds: 60, generations: 1000 };
const QUICK: Counts = Counts { traces: 5, rounds: 3, generations: 100 };

fn main() -> Outcome<()> {
    let counts = if std::env::var_os("PORTOLAN_BENCH_QUICK").is_some() { QUICK } else { WHOLE };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let from =
        |variable: &str, default: &str| std::env::var_os(variable).map_or_else(|| root.join(default), PathBuf::from);
    let bin = from("PORTOLAN_DEB_BIN", "target/deb/bin");
    let images = from("PORTOLAN_IMAGES", "target/images");
    // Another provider can only be there if a library installed one before main.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let began = machine::Moment::now();
    let mut report = Report::default();
    machine::describe(&mut report, &bin);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    Bench { counts, bin, images, runtime }.run()?.say(&mut report);
    began.say_load(&mut report, Duration::ZERO);
    print!("{}", report.text());
    Ok(())
}

struct Bench {
    counts: Counts,
    bin: PathBuf,
    images: PathBuf,
    runtime: Runtime,
}

/// A lab in one mode, and what reaches it.
pub struct Ground<'a> {
    pub lab: &'a LabHandle,
    pub mode: &'static str,
    pub runtime: &'a Runtime,
    /// Debian's programs.
    pub bin: &'a Path,
}

/// All that one run showed.
struct Measured {
    healthy: Vec<Healthy>,
    others: Vec<Others>,
    generations: Generations,
}

/// What a node keeps to say why.
struct Generations {
    churned: u32,
    bytes: usize,
}

impl Bench {
    fn run(&self) -> Outcome<Measured> {
        progress("64 generations at 1,000 Services");
        let generations = self.generations();
        self.ensure_nginx()?;
        let mut measured = Measured { healthy: Vec::new(), others: Vec::new(), generations };
        for (proxy_mode, mode) in MODES {
            progress(&format!("a lab in {mode} mode"));
            let lab = self.up(proxy_mode, mode)?;
            let ground = Ground { lab: &lab, mode, runtime: &self.runtime, bin: &self.bin };
            measured.others.push(others::measure(&ground, self.counts.rounds)?);
            measured.healthy.push(healthy::measure(&ground, self.counts.traces)?);
            lab.down()?;
        }
        Ok(measured)
    }

    /// Alone in the process: the allocator counts everybody's bytes.
    fn generations(&self) -> Generations {
        let churned = self.counts.generations;
        let (without, _) = generations::cost(false, churned);
        let (with, _node) = generations::cost(true, churned);
        Generations { churned, bytes: with - without }
    }

    fn ensure_nginx(&self) -> Outcome<()> {
        let store = Store::open(&self.images)?;
        if store.find(NGINX).is_none() {
            store.build_from_host(&nginx_from(&self.bin.with_file_name("root")))?;
        }
        Ok(())
    }

    fn up(&self, proxy_mode: ProxyMode, mode: &str) -> Outcome<LabHandle> {
        let name = format!("bench-trace-{mode}-{}", std::process::id());
        let mut config = LabConfig::new(&name, NODES, env!("CARGO_BIN_EXE_portolan").into(), self.images.clone());
        config.iptables_dir = Some(self.bin.clone());
        config.proxy_mode = proxy_mode;
        Ok(portolan_lab::up(&config, Attachment::Attached)?)
    }
}

impl Measured {
    fn say(&self, report: &mut Report) {
        let mut goals = Goals::default();
        self.healthy.iter().for_each(|healthy| healthy.goals(&mut goals));
        self.others.iter().for_each(|others| others.goals(&mut goals));
        let asked = Asked::at_most(" MB", "-", 10.0, None);
        let megabytes = self.generations.bytes as f64 / 1e6;
        goals.add("64 generations at 1,000 Services of 10 endpoints, steady churn", asked, megabytes);
        goals.say(report);
        Healthy::say(&self.healthy, report);
        self.others.iter().for_each(|others| others.say(report));
        report.line(&format!(
            "\nAfter {} generations of churn a node keeps {} MB more of the heap than one without a history.",
            self.generations.churned,
            three_digits(megabytes)
        ));
    }
}

/// Standard output is the report's.
pub fn progress(text: &str) {
    eprintln!("bench: {text}");
}
