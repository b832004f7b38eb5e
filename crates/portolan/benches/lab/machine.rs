//! What the figures were taken on, and how busy it was with other things.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::stats::Report;

/// Command, machine, kernel, date: a figure without them says nothing.
pub fn describe(report: &mut Report, deb_bin: &Path) {
    let cpu_info = read("/proc/cpuinfo");
    let model = cpu_info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let memory = read("/proc/meminfo");
    let mem_total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    let iptables = Command::new(deb_bin.join("iptables")).arg("--version").output();
    let iptables = iptables.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned()).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mem_gib = mem_total.trim().trim_end_matches("kB").trim().parse::<f64>().unwrap_or_default() / 1024.0 / 1024.0;
    report.line(&format!("- date: {} (UTC)", jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M")));
    report.line(&format!(
        "- machine: {cores} cores of{}, {mem_gib:.0} GiB",
        model.replacen("\t:", "", 1).replacen(':', "", 1)
    ));
    report.line(&format!("- kernel: {}", read("/proc/sys/kernel/osrelease").trim()));
    report.line(&format!("- iptables: {iptables}"));
    report.line(&format!(
        "- build: {}",
        if cfg!(debug_assertions) { "dev profile (not for publication)" } else { "release profile" }
    ));
}

/// The kubectl on PATH, else the one that `make deps` fetched.
pub fn kubectl(deb_bin: &Path) -> Outcome<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).chain([deb_bin.to_owned()]).map(|dir| dir.join("kubectl")).find(|p| p.is_file());
    found.ok_or_else(|| "kubectl is not on PATH; run `make deps`".into())
}

/// Where the run began: time, and CPU time that the machine had spent in all.
pub struct Moment {
    at: Instant,
    busy_ticks: f64,
    own_ticks: f64,
    load: String,
}

impl Moment {
    pub fn now() -> Self {
        let (busy_ticks, own_ticks) = ticks();
        Self { at: Instant::now(), busy_ticks, own_ticks, load: load() }
    }

    /// How much of the machine's CPU time others took: the noise in the figures.
    pub fn say_load(&self, report: &mut Report, labs_cpu: Duration) {
        let (busy, own) = ticks();
        let (busy, own) = ((busy - self.busy_ticks) / 100.0, (own - self.own_ticks) / 100.0 + labs_cpu.as_secs_f64());
        let secs = self.at.elapsed().as_secs();
        report.line(&format!(
            "\nThe run took {secs} s. The machine's CPUs worked {:.0} s of it in all, {:.0} s of that for the bench and its labs; \
             load average {} at its begin, {} at its end.",
            busy, own, self.load, load()
        ));
    }
}

/// Clock ticks that all CPUs worked, and those of this process and the children it waited for. proc(5).
fn ticks() -> (f64, f64) {
    let all = read("/proc/stat");
    let fields: Vec<f64> =
        all.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    // user, nice, system, (idle, iowait), irq, softirq
    let busy = [0, 1, 2, 5, 6].iter().filter_map(|at| fields.get(*at)).sum();
    let own = crate::procs::cpu(std::process::id() as i32).as_secs_f64() * 100.0;
    (busy, own)
}

fn load() -> String {
    read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
