//! `make bench`, the service proxy: ours beside kube-proxy's layouts, in one run on one machine.
//!
//! ```text
//!  cold loads ─► changes ─► resync ─► connect times ─► iptables ─► conntrack ─► memory ─► API to packet ─► tables (stdout)
//! ```
//!
//! Everything happens in network namespaces of this run. What kube-proxy would write is generated here (see `rivals`).
//! What the rows mean stands in `docs/performance.md`. Needs root and what `make deps` fetches. `PORTOLAN_BENCH_QUICK=1`
//! takes small clusters and few samples, to try the bench itself.

mod api;
mod change;
#[path = "../lab/cluster.rs"]
#[allow(dead_code, reason = "shared with the bench of the lab")]
mod cluster;
mod connect;
mod flows;
mod goals;
mod lists;
mod load;
#[path = "../lab/machine.rs"]
#[allow(dead_code, reason = "shared with the bench of the lab")]
mod machine;
mod memory;
mod netfilter;
mod ours;
mod place;
#[path = "../lab/procs.rs"]
#[allow(dead_code, reason = "shared with the bench of the lab")]
mod procs;
mod resync;
mod rivals;
#[path = "../lab/sight.rs"]
#[allow(dead_code, reason = "shared with the bench of the lab")]
mod sight;
#[path = "../lab/stats.rs"]
#[allow(dead_code, reason = "shared with the bench of the lab")]
mod stats;
mod world;

use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::time::Duration;

use portolan_lab::ProxyMode;

use crate::api::ApiToPacket;
use crate::change::Changes;
use crate::connect::{Connects, Way};
use crate::goals::{Asked, Goals};
use crate::load::{Loads, Mine, Theirs};
use crate::place::Place;
use crate::resync::Resync;
use crate::rivals::nft::Version;
use crate::stats::Report;
use crate::world::{PORT, SERVER, Size, TARGET, cluster_ip};

/// What went wrong, in words; the bench ends at the first error.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How much of each thing is measured.
#[derive(Clone, Copy)]
struct Counts {
    /// Services where changes are compared: few, as many as the rivals have, very many.
    few: u32,
    many: u32,
    most: u32,
    cold: usize,
    changes: u32,
    rival_changes: u32,
    connect_rounds: usize,
    list_changes: u32,
    flows: u16,
    flow_rounds: usize,
    api_changes: usize,
}

const WHOLE: Counts = Counts {
    few: 1000,
    many: 10_000,
    most: 30_000,
    cold: 5,
    changes: 1000,
    rival_changes: 5,
    connect_rounds: 40,
    list_changes: 9,
    flows: 20_000,
    flow_rounds: 5,
    api_changes: 1000,
};
const QUICK: Counts = Counts {
    few: 100,
    many: 1000,
    most: 3000,
    cold: 2,
    changes: 20,
    rival_changes: 2,
    connect_rounds: 5,
    list_changes: 2,
    flows: 2000,
    flow_rounds: 2,
    api_changes: 20,
};

const DIRECT: &str = "direct, no rules at all";
const ONLY: &str = "ours, the only Service";
const LAST: &str = "**ours, the last of many**";

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [child, services, endpoints] = &args[..]
        && child == memory::CHILD
    {
        return memory::child(services, endpoints);
    }
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
    let measured = Bench { counts, bin, images }.run()?;
    measured.say(&mut report, counts);
    began.say_load(&mut report, Duration::ZERO);
    print!("{}", report.text());
    Ok(())
}

struct Bench {
    counts: Counts,
    bin: PathBuf,
    images: PathBuf,
}

/// All that one run showed.
struct Measured {
    loads: Loads,
    changes: Changes,
    resync: Resync,
    programs: Vec<resync::Program>,
    connects: Connects,
    lists: lists::Lists,
    stale: flows::Stale,
    peak: memory::Peak,
    api: Vec<ApiToPacket>,
}

impl Bench {
    /// Ours before the rivals: what a big rival leaves behind slows what comes after it.
    fn run(&self) -> Outcome<Measured> {
        let Counts { few, many, most, cold, .. } = self.counts;
        let mut loads = Loads::default();
        let peak = memory::measure(Size::new(many, 10))?;
        let stale = flows::measure(&self.bin, self.counts.flows, self.counts.flow_rounds)?;
        let only = loads.ours(Size::new(1, 2), 1)?;
        let mut at_few = loads.ours(Size::new(few, 2), cold)?;
        let mut at_many = loads.ours(Size::new(many, 2), cold)?;
        drop(loads.ours(Size::new(many, 10), cold)?);
        let mut at_most = loads.ours(Size::new(most, 2), cold)?;
        let resync = Resync::of(&mut at_many)?;
        let exe = Path::new(env!("CARGO_BIN_EXE_portolan"));
        let twice = |mode| resync::Program::of(exe, &self.bin, mode, Size::new(few, 2));
        let programs = ["nftables", "iptables"].map(twice).into_iter().collect::<Outcome<_>>()?;
        let mut changes = Changes::default();
        changes.ours(&mut [&mut at_few, &mut at_most], self.counts.changes)?;
        let rivals = self.rivals(&mut loads, &mut changes)?;
        let connects = self.connects(&only, &at_many, &rivals)?;
        let lists = lists::measure(&self.bin, Size::new(many, 2), self.counts.list_changes)?;
        drop((only, at_few, at_many, at_most, rivals));
        let ground = api::Ground { exe, images: self.images.clone(), bin: &self.bin };
        let modes = [ProxyMode::Nftables, ProxyMode::Iptables];
        let api =
            modes.map(|mode| ground.measure(mode, self.counts.api_changes)).into_iter().collect::<Outcome<_>>()?;
        Ok(Measured { loads, changes, resync, programs, connects, lists, stale, peak, api })
    }

    fn rivals(&self, loads: &mut Loads, changes: &mut Changes) -> Outcome<Vec<Theirs>> {
        let mut rivals = Vec::new();
        for version in [Version::V1_36, Version::V1_35] {
            let theirs = loads.rival(&self.bin, version, Size::new(self.counts.many, 2))?;
            changes.rival(&self.bin, &theirs, self.counts.rival_changes)?;
            rivals.push(theirs);
        }
        Ok(rivals)
    }

    fn connects(&self, only: &Mine, at_many: &Mine, rivals: &[Theirs]) -> Outcome<Connects> {
        progress("connect times");
        let bare = Place::new()?;
        let last = |size: Size| SocketAddrV4::new(cluster_ip(size.last()), PORT);
        let mut ways = vec![
            Way { name: DIRECT.into(), place: &bare, to: SocketAddrV4::new(SERVER, TARGET) },
            Way { name: ONLY.into(), place: &only.place, to: last(only.size) },
            Way { name: LAST.into(), place: &at_many.place, to: last(at_many.size) },
        ];
        for theirs in rivals {
            ways.push(Way { name: rival_name(theirs.version), place: &theirs.place, to: last(theirs.size) });
        }
        Ok(Connects { taken: connect::measure(&ways, self.counts.connect_rounds)? })
    }
}

fn rival_name(version: Version) -> String {
    format!("kube-proxy {version}'s nftables layout, the last of many")
}

impl Measured {
    fn say(&self, report: &mut Report, counts: Counts) {
        let mut goals = Goals::default();
        self.loads.goals(&mut goals);
        self.changes.goals(&mut goals, counts.few, counts.most);
        self.resync.goals(&mut goals);
        self.programs.iter().for_each(|program| program.goals(&mut goals));
        self.connect_goals(&mut goals);
        self.lists.goals(&mut goals);
        self.stale.goals(&mut goals);
        self.peak.goals(&mut goals);
        self.api.iter().for_each(|api| api.goals(&mut goals));
        goals.say(report);
        self.loads.say(report);
        self.changes.say(report);
        self.resync.say(report);
        self.programs.iter().for_each(|program| program.say(report));
        self.connects.say(report);
        self.lists.say(report);
        self.stale.say(report);
        self.peak.say(report);
        ApiToPacket::say(&self.api, report);
    }

    fn connect_goals(&self, goals: &mut Goals) {
        let only = Asked::at_most("x", "1.02x", 1.15, Some(1.05));
        self.connects.goal(
            goals,
            "connect time, last of many against the only one, nftables (minima)",
            [LAST, ONLY],
            only,
        );
        for version in [Version::V1_35, Version::V1_36] {
            let asked = Asked::at_most("x", "0.95x", 1.05, Some(0.95));
            let what = format!("connect time against kube-proxy {version}'s nftables layout (minima)");
            self.connects.goal(goals, &what, [LAST, &rival_name(version)], asked);
        }
        let asked = Asked::at_most("x", "1.36x", 1.6, None);
        self.connects.goal(goals, "connect time against direct (minima)", [LAST, DIRECT], asked);
    }
}

/// Standard output is the report's.
pub fn progress(text: &str) {
    eprintln!("bench: {text}");
}
