//! The lab's processes as the machine's /proc shows them: what each is, its memory, its CPU time. Spec: proc(5).
//!
//! ```text
//!  keeper ─► init ─┬─► API server, upstream, agents
//!                  └─► shim ─► sandbox, containers
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use serde::Serialize;

use crate::client::Lab;
use crate::error::LabError;

/// What a process of a lab is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The API server and the controllers.
    ApiServer,
    /// The agent of the node of this name.
    Agent(String),
    /// An agent's child that takes its cluster DNS away when the agent dies and none follows.
    Guard,
    /// The process outside the lab that holds the API's listener.
    Keeper,
    /// The lab's PID 1.
    Init,
    /// The resolver and web echo of `outside`.
    Upstream,
    /// Parent of a pod's processes.
    Shim,
    /// The process that holds a pod's namespaces.
    Sandbox,
    /// A pod's own program, by the name it has.
    Container(String),
    /// Anything else, by name: what an agent runs, or a shell somebody opened.
    Other(String),
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// On the machine.
    pub pid: i32,
    pub role: Role,
}

impl Lab {
    /// The keeper and everything below it.
    ///
    /// # Errors
    /// The keeper is not known, or /proc cannot be read.
    pub fn processes(&self) -> Result<Vec<Process>, LabError> {
        let keeper = self.keeper_pid()?;
        let children = children_of_all();
        let mut found = Vec::new();
        let mut waiting = vec![(keeper, false)];
        while let Some((pid, below_shim)) = waiting.pop() {
            let role = role(&command_line(pid), below_shim);
            let is_in_pod = below_shim || role == Role::Shim;
            waiting.extend(children.get(&pid).into_iter().flatten().map(|child| (*child, is_in_pod)));
            found.push(Process { pid, role });
        }
        Ok(found)
    }
}

impl Process {
    /// Its share of memory in KiB: a page that n processes map counts 1/n in each. `None` if it ended or may not be read.
    pub fn pss_kib(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.trim().strip_suffix(" kB")?.trim().parse().ok()
    }

    /// CPU time of the process and of the children it waited for; in steps of a clock tick (10 ms).
    pub fn cpu(&self) -> Duration {
        // SAFETY: a plain number in, a plain number out.
        let ticks_per_sec = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
        let times = stat(self.pid).unwrap_or_default();
        // utime, stime, cutime, cstime: fields 14 to 17, counted from 3 here.
        let ticks: f64 = times.iter().skip(11).take(4).filter_map(|field| field.parse::<f64>().ok()).sum();
        Duration::from_secs_f64(ticks / ticks_per_sec)
    }

    /// How long it has been there.
    pub fn age(&self) -> Option<Duration> {
        // SAFETY: a plain number in, a plain number out.
        let ticks_per_sec = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
        // starttime: field 22, counted from 3 here, in ticks since the machine's boot.
        let started: f64 = stat(self.pid)?.get(19)?.parse().ok()?;
        let uptime = fs::read_to_string("/proc/uptime").ok()?;
        let now: f64 = uptime.split(' ').next()?.parse().ok()?;
        Duration::try_from_secs_f64(now - started / ticks_per_sec).ok()
    }
}

fn children_of_all() -> BTreeMap<i32, Vec<i32>> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process that ended meanwhile has no parent.
        if let Some(parent) = stat(pid).and_then(|fields| fields.get(1)?.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    children
}

/// The fields of /proc/PID/stat from the third (state) on; the second may hold anything.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = text.get(text.rfind(')')? + 2..)?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

fn command_line(pid: i32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// What a command line says; the lab writes its own, and knows of others whether they are below a shim.
fn role(words: &[String], below_shim: bool) -> Role {
    let word = |at: usize| words.get(at).map(String::as_str).unwrap_or_default();
    match word(1) {
        "pod-sandbox" => return Role::Sandbox,
        _ if below_shim => return Role::Container(program(word(0))),
        "lab-keeper" => return Role::Keeper,
        "lab-init" => return Role::Init,
        "lab-upstream" => return Role::Upstream,
        "server" => return Role::ApiServer,
        "agent" => return Role::Agent(words.iter().skip_while(|w| *w != "--node").nth(1).cloned().unwrap_or_default()),
        "dns-guard" => return Role::Guard,
        "pod-shim" => return Role::Shim,
        _ => {}
    }
    Role::Other(program(word(0)))
}

/// The last part of a path; `nginx: master process nginx -g …` is `nginx: master`.
fn program(first: &str) -> String {
    if let Some((name, title)) = first.split_once(": ") {
        return format!("{name}: {}", title.split(' ').next().unwrap_or_default());
    }
    first.rsplit('/').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str, below_shim: bool) -> Role {
        role(&line.split(' ').map(str::to_owned).collect::<Vec<_>>(), below_shim)
    }

    #[test]
    fn a_process_is_known_by_its_command_line_and_by_who_is_above_it() {
        let table = [
            ("portolan lab-keeper /state", false, Role::Keeper),
            ("portolan lab-init /state", false, Role::Init),
            ("portolan server --data-dir /data", false, Role::ApiServer),
            ("portolan agent --node node-2 --node-ip 172.18.0.12", false, Role::Agent("node-2".into())),
            ("portolan dns-guard", false, Role::Guard),
            ("portolan pod-shim /dir", false, Role::Shim),
            ("portolan pod-sandbox", true, Role::Sandbox),
            ("portolan server", true, Role::Container("portolan".into())),
            ("/usr/sbin/iptables-restore --noflush", false, Role::Other("iptables-restore".into())),
        ];
        for (line, below_shim, expected) in table {
            assert_eq!(said(line, below_shim), expected, "{line}");
        }
        let title = ["nginx: master process nginx -g daemon off;".to_owned()];
        assert_eq!(role(&title, true), Role::Container("nginx: master".into()));
    }

    #[test]
    fn this_process_has_memory_cpu_time_and_an_age() {
        let own = Process { pid: std::process::id() as i32, role: Role::Keeper };
        assert!(own.pss_kib().is_some_and(|kib| kib > 100));
        assert!(own.age().is_some_and(|age| age < Duration::from_secs(3600)));
        assert_eq!(Process { pid: i32::MAX, role: Role::Keeper }.pss_kib(), None);
    }
}
