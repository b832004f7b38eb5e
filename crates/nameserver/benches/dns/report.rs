//! What was measured, as Markdown, and the goals beside it.

use std::fmt::Write;
use std::fs;

use crate::Counts;
use crate::measure::{Figures, Measured};
use crate::servers::{Kind, Programs};
use crate::zone::Case;

pub fn text(counts: Counts, programs: &Programs, measured: &Measured) -> String {
    let mut out = machine(counts, programs, measured);
    for case in Case::ALL {
        full(&mut out, case, measured);
    }
    steady(&mut out, measured);
    memory(&mut out, measured);
    goals(&mut out, measured);
    out
}

fn machine(counts: Counts, programs: &Programs, measured: &Measured) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let secs = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let build = if cfg!(debug_assertions) { "dev profile (not for publication)" } else { "release profile" };
    let ours = match &programs.portolan {
        Some(_) => "`portolan dns -f`",
        None => "the nameserver alone, in the bench's own program: target/release/portolan is not there",
    };
    format!(
        "- command: `scripts/bench.sh dns`\n- date: {secs} (seconds since 1970, UTC)\n- machine: servers on one core, load on another, of{}\n\
         - kernel: {}\n- build: {build}; ours is {ours}\n- {} Services in {} namespaces; {} rounds of {} ms each, medians; \
         the run took {} s; load average {}; cores that this process may use: {cores}\n",
        model.replacen("\t:", "", 1),
        read("/proc/sys/kernel/osrelease").trim(),
        counts.services,
        counts.namespaces,
        counts.rounds,
        counts.each.as_millis(),
        measured.took.as_secs(),
        read("/proc/loadavg").trim(),
    )
}

fn table(out: &mut String, heading: &str, columns: &[&str], rows: &[Vec<String>]) {
    let _ = writeln!(out, "\n### {heading}\n\n| {} |\n|---|{}", columns.join(" | "), "---:|".repeat(columns.len() - 1));
    for row in rows {
        let _ = writeln!(out, "| {} |", row.join(" | "));
    }
}

fn thousands(value: f64) -> String {
    if value.is_finite() { format!("{:.0} k", value / 1000.0) } else { "-".into() }
}

fn micros(value: f64) -> String {
    if value.is_finite() { format!("{value:.0}") } else { "-".into() }
}

fn full(out: &mut String, case: Case, measured: &Measured) {
    let bare = measured.full.get(&(Kind::Bare, Case::Hits)).map_or(f64::NAN, |figures| figures.per_cpu_second);
    let rows: Vec<Vec<String>> = Kind::ALL
        .into_iter()
        .filter_map(|kind| measured.full.get(&(kind, case)).map(|figures| (kind, figures)))
        .map(|(kind, f)| {
            vec![
                kind.words().to_owned(),
                thousands(f.per_cpu_second),
                format!("{:.2}", f.per_cpu_second / bare),
                thousands(f.per_second),
                micros(f.p50_us),
                micros(f.p99_us),
                format!("{} / {}", f.wrong, f.lost),
            ]
        })
        .collect();
    let columns =
        ["server", "answers per CPU second", "of the limit", "answers per second", "p50 µs", "p99 µs", "wrong / lost"];
    table(out, &format!("{}, 128 under way", case.words()), &columns, &rows);
}

fn steady(out: &mut String, measured: &Measured) {
    let row = |kind: Kind| -> Option<Vec<String>> {
        let f = measured.steady.get(&kind)?;
        let perf = measured.dnsperf.get(&kind).copied().unwrap_or(f64::NAN);
        let lost = format!("{} / {}", f.wrong, f.lost);
        Some(vec![kind.words().to_owned(), micros(f.p50_us), micros(f.p99_us), lost, thousands(perf)])
    };
    let rows: Vec<Vec<String>> = Kind::ALL.into_iter().filter_map(row).collect();
    let columns = ["server", "p50 µs", "p99 µs", "wrong / lost", "dnsperf -c 10 -q 100, answers per second"];
    table(out, "20,000 queries a second, A of Services", &columns, &rows);
}

fn memory(out: &mut String, measured: &Measured) {
    let row = |(kind, kib): (&Kind, &u64)| vec![kind.words().to_owned(), format!("{:.1}", *kib as f64 / 1024.0)];
    let mut rows: Vec<Vec<String>> = measured.private_kib.iter().map(row).collect();
    rows.push(vec!["Portolan with nothing to serve".into(), format!("{:.1}", measured.idle_kib as f64 / 1024.0)]);
    table(out, "private memory after the run", &["server", "MiB"], &rows);
}

fn goals(out: &mut String, measured: &Measured) {
    let nothing = Figures { per_cpu_second: f64::NAN, p99_us: f64::NAN, ..Figures::default() };
    let at = |kind, case| measured.full.get(&(kind, case)).unwrap_or(&nothing).per_cpu_second;
    let (ours, bare) = (at(Kind::Ours, Case::Hits), at(Kind::Bare, Case::Hits));
    let beyond = measured.private_kib.get(&Kind::Ours).map_or(f64::NAN, |kib| *kib as f64 - measured.idle_kib as f64);
    let steady = measured.steady.get(&Kind::Ours).unwrap_or(&nothing).p99_us;
    let nsd = at(Kind::Nsd, Case::Hits);
    let misses = at(Kind::Ours, Case::Absent);
    let (cached, unbound) = (at(Kind::OursForwarding, Case::Hits), at(Kind::Unbound, Case::Hits));
    let row = |what: &str, must: &str, value: String, holds: bool| {
        vec![what.to_owned(), must.to_owned(), value, if holds { "yes" } else { "**no**" }.to_owned()]
    };
    let rows = [
        row("answers per CPU second", "300 k, aim 330 k", thousands(ours), ours >= 300_000.0),
        row("share of the bare loop", "0.7", format!("{:.2}", ours / bare), ours / bare >= 0.7),
        row("against NSD in the same run", "ahead", format!("{:.2}", ours / nsd), ours > nsd),
        row("NXDOMAIN against hits", "as fast (0.95)", format!("{:.2}", misses / ours), misses / ours >= 0.95),
        row("p99 at 20,000/s", "1000 µs", micros(steady), steady < 1000.0),
        row(
            "private memory beyond the idle program",
            "12 MiB",
            format!("{:.1}", beyond / 1024.0),
            beyond < 12.0 * 1024.0,
        ),
        row("cached forwarding against unbound's", "0.5", format!("{:.2}", cached / unbound), cached / unbound >= 0.5),
    ];
    table(out, "the goals", &["goal", "must", "measured", "reached"], &rows);
}
