//! The lab's processes in the words of the tables.

use std::os::fd::OwnedFd;
use std::time::Duration;

use portolan_lab::{Lab, Role};

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
    let named = |process: portolan_lab::Process| Process { pid: process.pid, role: role(&process.role) };
    Ok(lab.processes()?.into_iter().map(named).collect())
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

fn role(role: &Role) -> String {
    match role {
        Role::ApiServer => SERVER.to_owned(),
        Role::Agent(node) => format!("agent of {node}"),
        Role::Keeper => "keeper".to_owned(),
        Role::Init => "lab init".to_owned(),
        Role::Upstream => "upstream resolver of `outside`".to_owned(),
        Role::Guard => "guard of cluster DNS".to_owned(),
        Role::Shim => "shim".to_owned(),
        Role::Sandbox => "sandbox".to_owned(),
        Role::Container(name) => name.replacen(": ", ", ", 1),
        Role::Other(name) => format!("other: {name}"),
    }
}

/// The process's share of memory in KiB: pages that n processes map count 1/n each.
pub fn pss_kib(pid: i32) -> Option<u64> {
    plain(pid).pss_kib()
}

/// CPU time of a process and of the children it waited for; in steps of a clock tick (10 ms).
pub fn cpu(pid: i32) -> Duration {
    plain(pid).cpu()
}

fn plain(pid: i32) -> portolan_lab::Process {
    portolan_lab::Process { pid, role: Role::Other(String::new()) }
}
