//! The lab: a whole cluster of virtual nodes on one machine, in namespaces, without a trace.
//!
//! ```text
//!  machine     up ──► keeper ─ holds the name's lock and the API listener (127.0.0.1:PORT)
//!                       │ PDEATHSIG
//!  ┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄│┄┄┄┄┄┄ new PID, mount, net, UTS, IPC, cgroup namespaces, and for an
//!                       │       ordinary user a user namespace around them ┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄
//!  lab init (PID 1)  ◄──┘   bridge `lan0`, 172.18.0.0/24; starts, restarts, reaps; control socket
//!     ├── outside    172.18.0.1   upstream DNS, web echo; the nodes' default gateway
//!     ├── apiserver  172.18.0.2   `portolan server` with the machine's listener
//!     ├── node-1     172.18.0.11  `portolan agent`; shims and pods
//!     └── node-2     172.18.0.12
//! ```
//!
//! A place (node, outside, API server) is a network, mount and UTS namespace with its own /run and
//! /etc. Init holds the namespaces by descriptor, so no process is needed to keep one alive; whoever
//! wants in asks init for the descriptors and enters by setns. When init dies the kernel ends every
//! process inside and with them interfaces, rules and mounts; when the keeper dies init dies.
//!
//! Nothing in the machine's own network namespace is ever changed. This room starts programs by their
//! command lines and knows nothing of what they do.

mod cgroups;
mod checks;
mod client;
mod commands;
mod config;
mod control;
mod credentials;
mod error;
mod etc;
mod fetcher;
mod ground;
mod identity;
mod init;
mod isolated;
mod keeper;
mod lan;
mod lock;
mod place;
mod process;
mod processes;
mod ready;
mod refusal;
mod topology;
mod unit;
mod up;
mod upstream;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

pub use cgroups::Limits;
pub use client::{Captured, Lab, find, list, sweep};
pub use config::{Attachment, DEFAULT_NAME, DEFAULT_POD_PIDS, IpFamily, LabConfig, ProxyMode, Ready};
pub use control::{NodeStatus, Place, Status, UnitStatus};
pub use error::LabError;
pub use ground::state_root;
pub use identity::{IdRange, Identity, OwnIds, Rootless};
pub use processes::{Process, Role};
pub use topology::{HostSpec, LAN, OUTSIDE_ADDRESSES, Topology};
pub use up::{LabHandle, up};

/// Runs a hidden subcommand if `args` (with or without the program's name in front) asks for one.
///
/// To be called first thing in `main`: the keeper and init must have one thread.
pub fn reexec(args: &[OsString]) -> Option<ExitCode> {
    let known = |at: usize| args.get(at).is_some_and(|arg| arg.to_str().is_some_and(|a| a.starts_with("lab-")));
    let at = [0, 1].into_iter().find(|at| known(*at))?;
    let dir = Path::new(args.get(at + 1)?);
    match args[at].to_str()? {
        "lab-keeper" => Some(keeper::run(dir)),
        "lab-init" => Some(init::run(dir)),
        "lab-check" => Some(checks::run(dir)),
        "lab-upstream" => Some(upstream::run(dir)),
        _ => None,
    }
}
