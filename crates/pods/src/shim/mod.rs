//! The shim: one small process per pod, parent of its containers, so that an agent's death touches no pod.
//!
//! ```text
//!  agent ── shim.sock (framed JSON, fds by SCM_RIGHTS) ──► shim ─┬─► sandbox   (holds net, ipc, uts namespaces)
//!    ▲                                                           ├─► container init … (libcontainer)
//!    └── state.json (atomic rename), logs/ ◄─────────────────────┴─► exec'd processes
//! ```
//!
//! The shim is single-threaded and blocking: libcontainer clones without exec in between, which is
//! safe in no other kind of process. It is the only caller of libcontainer. Its mounts live in a mount
//! namespace of its own and its children die with it, so that nothing is left when it is killed. It knows
//! no Kubernetes: what to run comes ready as an OCI runtime spec.
//! Protocol and state carry a version number from the first day on.

mod attach;
pub mod client;
mod fake_ids;
mod isolate;
mod logfile;
pub mod protocol;
mod runtime;
mod sandbox;
mod server;
pub mod state;
mod stdio;
pub mod wire;

pub(crate) use logfile::rotated;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// Takes the hidden subcommands `pod-shim` and `pod-sandbox`. Call it first in `main`, before any
/// thread exists; `args` are all arguments, the program's name included. `None`: not ours.
pub fn reexec(args: &[OsString]) -> Option<ExitCode> {
    match args.get(1)?.to_str()? {
        "pod-shim" => Some(server::main(PathBuf::from(args.get(2)?))),
        "pod-sandbox" => Some(sandbox::main(&args[2..])),
        _ => None,
    }
}
