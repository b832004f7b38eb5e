//! A child as the first process of new namespaces; for an ordinary user with a user namespace around them.
//!
//! ```text
//!  parent ── clone(NEWUSER | NEWPID | NEWNS | NEWNET | …) ──► child, without ids yet: waits
//!     ├─ uid_map, gid_map: itself for one id, by newuidmap and newgidmap for ranges
//!     └─ "go" by a pipe ─────────────────────────────────────► works as uid 0 of its namespaces
//! ```
//!
//! The parent must have one thread: the child is a copy of it that may do anything a program may. Spec:
//! user_namespaces(7) on who may write which map.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::identity::{IdRange, Identity, OwnIds};
use crate::process::{self, Ended};
use crate::refusal::{Refused, Step};

/// The namespaces of a lab.
const ROOMS: libc::c_int =
    libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;

/// Which cgroups the new process sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cgroups {
    /// From its own down.
    Own,
    /// The machine's; an ordinary user's lab sees its own all the same, for it may write nowhere else.
    OfMachine,
}

/// The first process in namespaces of its own.
pub(crate) struct Isolated {
    pid: libc::pid_t,
    ended: Option<Ended>,
}

impl Isolated {
    /// Starts `work` as PID 1 of new namespaces; what it returns is its exit code.
    ///
    /// To be called in a process with one thread.
    pub(crate) fn start(
        identity: &Identity,
        cgroups: Cgroups,
        work: impl FnOnce() -> i32,
    ) -> Result<Isolated, Refused> {
        let of_pipe = |e: rustix::io::Errno| failed(Step::Clone, "pipe")(e.into());
        let (go_read, go_write) = pipe_with(PipeFlags::CLOEXEC).map_err(of_pipe)?;
        let rooms = match (identity.is_rootless(), cgroups) {
            (true, _) => ROOMS | libc::CLONE_NEWCGROUP | libc::CLONE_NEWUSER,
            (false, Cgroups::Own) => ROOMS | libc::CLONE_NEWCGROUP,
            (false, Cgroups::OfMachine) => ROOMS,
        };
        let pid = clone(rooms).map_err(failed(Step::Clone, "clone of new namespaces"))?;
        if pid == 0 {
            drop(go_write);
            let code = if is_told_to_go(&go_read) { work() } else { 127 };
            // SAFETY: ends this copy without running what its parent left for its own end.
            unsafe { libc::_exit(code) };
        }
        let mut child = Isolated { pid, ended: None };
        let mapped = map(identity, pid).and_then(|()| {
            rustix::io::write(&go_write, b"g").map(drop).map_err(|e| failed(Step::Map, "a word to the child")(e.into()))
        });
        if mapped.is_err() {
            child.kill();
            child.wait();
        }
        mapped.map(|()| child)
    }

    pub(crate) fn kill(&self) {
        if self.ended.is_none() {
            process::signal(self.pid, libc::SIGKILL);
        }
    }

    pub(crate) fn wait(&mut self) -> Option<Ended> {
        self.reap(0)
    }

    /// How it ended, if it did.
    pub(crate) fn try_wait(&mut self) -> Option<Ended> {
        self.reap(libc::WNOHANG)
    }

    fn reap(&mut self, flags: libc::c_int) -> Option<Ended> {
        while self.ended.is_none() {
            let mut status = 0;
            // SAFETY: `status` outlives the call; the child is ours and not reaped yet.
            match unsafe { libc::waitpid(self.pid, &mut status, flags) } {
                0 => break,
                -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                -1 => break,
                _ => self.ended = Some(Ended::of(status)),
            }
        }
        self.ended
    }
}

/// fork(2), with the child in new namespaces.
fn clone(rooms: libc::c_int) -> io::Result<libc::pid_t> {
    // A process started by us must not print what we have buffered.
    let _ = io::Write::flush(&mut io::stdout());
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: without a stack and without CLONE_VM this is fork; the caller has one thread, so the copy is whole. The
    // order of the last arguments differs between architectures, but all are null.
    let pid = unsafe { libc::syscall(libc::SYS_clone, rooms | libc::SIGCHLD, nothing, nothing, nothing, nothing) };
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(pid as libc::pid_t) }
}

/// False when the parent is gone or could not map our ids.
fn is_told_to_go(go: &OwnedFd) -> bool {
    let mut word = [0];
    loop {
        match rustix::io::read(go, &mut word) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other == Ok(1),
        }
    }
}

fn map(identity: &Identity, pid: libc::pid_t) -> Result<(), Refused> {
    match identity {
        Identity::Root => Ok(()),
        Identity::OneId { own } => map_one(own, pid),
        Identity::Ranges { own, uids, gids, newuidmap, newgidmap } => {
            map_range(newuidmap, pid, own.uid, uids)?;
            map_range(newgidmap, pid, own.gid, gids)
        }
    }
}

fn map_one(own: &OwnIds, pid: libc::pid_t) -> Result<(), Refused> {
    // Without `deny` the kernel takes no gid map from an ordinary user: leaving a group can give rights.
    let files = [
        ("setgroups", "deny".to_owned()),
        ("gid_map", format!("0 {} 1", own.gid)),
        ("uid_map", format!("0 {} 1", own.uid)),
    ];
    for (name, text) in files {
        let path = format!("/proc/{pid}/{name}");
        fs::write(&path, text).map_err(failed(Step::Map, &format!("writing {path}")))?;
    }
    Ok(())
}

fn map_range(program: &Path, pid: libc::pid_t, own: u32, range: &IdRange) -> Result<(), Refused> {
    let words = [pid.to_string(), "0".into(), own.to_string(), "1".into(), "1".into()];
    let mut command = Command::new(program);
    command.args(words).args([range.first, range.count].map(|n| n.to_string())).stdin(Stdio::null());
    let name = program.display();
    let output = command.output().map_err(failed(Step::Map, &format!("starting {name}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(Refused { step: Step::Map, detail: format!("{name}: {}: {said}", output.status), errno: None })
}

/// Wraps an I/O error with what was tried.
pub(crate) fn failed(step: Step, what: &str) -> impl FnOnce(io::Error) -> Refused {
    let what = what.to_owned();
    move |e| Refused { step, detail: format!("{what}: {e}"), errno: e.raw_os_error() }
}

/// Whether this process is in a user namespace other than the machine's first.
pub(crate) fn in_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().ne(["0", "0", "4294967295"])
}
