//! The lab's processes as the machine's /proc shows them: memory, CPU time, namespaces. Spec: proc(5).

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::time::Duration;

use portolan_lab::Lab;

use crate::Outcome;

/// Role of the control plane's process.
pub const SERVER: &str = "API server and controllers";

/// One process of the lab, or of a pod in it.
#[derive(Debug, Clone)]
pub struct Process {
    pub pid: i32,
    /// What it is, in the words of the table.
    pub role: String,
}

/// The keeper and everything below it.
pub fn of_lab(lab: &Lab) -> Outcome<Vec<Process>> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process that ended meanwhile has no parent.
        if let Some(parent) = stat(pid).and_then(|fields| fields.get(1)?.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut waiting = vec![lab.keeper_pid()?];
    while let Some(pid) = waiting.pop() {
        waiting.extend(children.get(&pid).into_iter().flatten());
        found.push(Process { pid, role: role(pid) });
    }
    Ok(found)
}

/// The one process of the lab with this role.
pub fn with_role(lab: &Lab, role: &str) -> Outcome<Process> {
    let found = of_lab(lab)?.into_iter().find(|process| process.role == role);
    found.ok_or_else(|| format!("the lab has no {role}").into())
}

/// The network namespace of a node.
pub fn node_netns(lab: &Lab, node: &str) -> Outcome<OwnedFd> {
    let agent = with_role(lab, &format!("agent of {node}"))?;
    Ok(portolan_kernel::netns::open(format!("/proc/{}/ns/net", agent.pid).as_ref())?)
}

fn role(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<String> =
        line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let word = |at: usize| words.get(at).map(String::as_str).unwrap_or_default();
    match (word(0), word(1)) {
        (first, _) if first.starts_with("nginx: master") => "nginx, master".to_owned(),
        (first, _) if first.starts_with("nginx: worker") => "nginx, worker".to_owned(),
        (_, "lab-keeper") => "keeper".to_owned(),
        (_, "lab-init") => "lab init".to_owned(),
        (_, "lab-upstream") => "upstream resolver of `outside`".to_owned(),
        (_, "server") => SERVER.to_owned(),
        (_, "agent") => format!("agent of {}", word(3)),
        (_, "pod-shim") => "shim".to_owned(),
        (_, "pod-sandbox") => "sandbox".to_owned(),
        (first, _) => format!("other: {first}"),
    }
}

/// The process's share of memory in KiB: pages that n processes map count 1/n each.
pub fn pss_kib(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

/// CPU time of a process and of the children it waited for; in steps of a clock tick (10 ms).
pub fn cpu(pid: i32) -> Duration {
    // SAFETY: a plain number in, a plain number out.
    let ticks_per_sec = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    let times = stat(pid).unwrap_or_default();
    // utime, stime, cutime, cstime: fields 14 to 17, counted from 3 here.
    let ticks: f64 = times.iter().skip(11).take(4).filter_map(|field| field.parse::<f64>().ok()).sum();
    Duration::from_secs_f64(ticks / ticks_per_sec)
}

/// The fields of /proc/PID/stat from the third (state) on; the second may hold anything.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = &text[text.rfind(')')? + 2..];
    Some(rest.split_whitespace().map(str::to_owned).collect())
}
