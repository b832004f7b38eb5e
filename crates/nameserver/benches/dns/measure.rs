//! The rounds: every case at every server in turn, again and again, so that a busy moment of the machine hits all alike.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::generator::{Generator, Pace, Run};
use crate::servers::{FULL, Kind, LOAD_CORE, Programs, STEADY, Server, dnsperf, pin};
use crate::zone::{Case, Zone};
use crate::{Counts, Outcome};

/// One row's figures, each the median of its rounds.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub per_second: f64,
    pub per_cpu_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// Of all rounds.
    pub wrong: u64,
    pub lost: u64,
}

#[derive(Default)]
pub struct Measured {
    pub full: BTreeMap<(Kind, Case), Figures>,
    pub steady: BTreeMap<Kind, Figures>,
    pub dnsperf: BTreeMap<Kind, f64>,
    pub private_kib: BTreeMap<Kind, u64>,
    pub idle_kib: u64,
    pub took: Duration,
}

type Runs<K> = BTreeMap<K, Vec<(Run, Duration)>>;

pub fn run(counts: Counts, programs: &Programs, zone: &Zone, folder: &Path) -> Outcome<Measured> {
    let start = Instant::now();
    let mut measured = Measured::default();
    {
        let idle = Server::idle(programs, folder)?;
        measured.idle_kib = idle.private_kib();
    }
    pin(LOAD_CORE)?;
    let queries = folder.join("queries.txt");
    std::fs::write(&queries, zone.dnsperf_file())?;
    let mut servers = Vec::new();
    for kind in Kind::asked_for() {
        eprintln!("bench: starting {kind:?}");
        servers.push(Server::start(kind, programs, zone, counts, folder)?);
    }
    let (mut full, mut steady, mut perf) = (Runs::new(), Runs::new(), BTreeMap::<Kind, Vec<f64>>::new());
    for round in 0..counts.rounds {
        eprintln!("bench: round {} of {}", round + 1, counts.rounds);
        for case in Case::ALL {
            let questions = zone.questions(case);
            for server in servers.iter().filter(|server| server.kind.answers(case)) {
                let seen = one(server, |to| to.run(&questions, FULL, counts.each))?;
                full.entry((server.kind, case)).or_default().push(seen);
            }
        }
        let questions = zone.questions(Case::Hits);
        for server in &servers {
            let seen = one(server, |to| to.run(&questions, STEADY, counts.each))?;
            steady.entry(server.kind).or_default().push(seen);
            perf.entry(server.kind).or_default().extend(dnsperf(programs, server.kind.addr(), &queries, counts.each));
        }
    }
    measured.full = full.into_iter().map(|(key, runs)| (key, figures(&runs, FULL))).collect();
    measured.steady = steady.into_iter().map(|(key, runs)| (key, figures(&runs, STEADY))).collect();
    measured.dnsperf = perf.into_iter().map(|(key, rates)| (key, median(rates))).collect();
    measured.private_kib = servers.iter().map(|server| (server.kind, server.private_kib())).collect();
    measured.took = start.elapsed();
    Ok(measured)
}

fn one(server: &Server, load: impl FnOnce(Generator) -> Outcome<Run>) -> Outcome<(Run, Duration)> {
    let before = server.cpu();
    let run = load(Generator::connect(server.kind.addr())?)?;
    Ok((run, server.cpu().saturating_sub(before)))
}

fn figures(runs: &[(Run, Duration)], pace: Pace) -> Figures {
    let of = |figure: &dyn Fn(&Run, Duration) -> f64| median(runs.iter().map(|(run, cpu)| figure(run, *cpu)).collect());
    // At a steady pace batches are small: what an answer takes then is no measure of what could be.
    let is_full = matches!(pace, Pace::UnderWay(_));
    Figures {
        per_second: of(&|run, _| run.per_second()),
        per_cpu_second: if is_full { of(&|run, cpu| run.right as f64 / cpu.as_secs_f64()) } else { f64::NAN },
        p50_us: of(&|run, _| run.percentile(50)),
        p99_us: of(&|run, _| run.percentile(99)),
        wrong: runs.iter().map(|(run, _)| run.wrong).sum(),
        lost: runs.iter().map(|(run, _)| run.lost).sum(),
    }
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or(f64::NAN)
}
