//! libcontainer, called from here only: create, start, exec.
//!
//! What stands between its `clone` and our program's `exec` is `Payload`: it undoes what a Rust process sets
//! for itself (SIGPIPE ignored), takes the terminal, and ties the container's life to the shim's.

use std::error::Error;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::default::get_executor;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};

use super::fake_ids;
use crate::ids::IdSpace;

/// A process's standard files.
pub struct Stdio {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// All three are one terminal, which becomes the process's own.
    pub is_terminal: bool,
}

/// Where libcontainer keeps its own notes, below a pod's folder.
pub fn notes_dir(pod_dir: &Path) -> PathBuf {
    pod_dir.join("oci")
}

/// Creates and starts the container of `bundle`; returns the pid of its init, a child of this process.
pub fn start(pod_dir: &Path, id: &str, bundle: &Path, stdio: Stdio, doors: &[File]) -> Result<i32, String> {
    let mut container =
        builder(pod_dir, id, stdio, doors)?.as_init(bundle).with_systemd(false).build().map_err(reason)?;
    container.start().map_err(reason)?;
    let pid = container.pid().ok_or("the container has no init process")?;
    Ok(pid.as_raw())
}

/// Runs another process in a container; returns its pid, a child of this process.
pub fn exec(pod_dir: &Path, id: &str, process: &Path, stdio: Stdio, doors: &[File]) -> Result<i32, String> {
    let pid = builder(pod_dir, id, stdio, doors)?
        .as_tenant()
        .with_process(Some(process))
        .with_detach(true)
        .build()
        .map_err(reason)?;
    Ok(pid.as_raw())
}

fn builder(pod_dir: &Path, id: &str, stdio: Stdio, doors: &[File]) -> Result<ContainerBuilder, String> {
    let doors = doors.iter().map(AsRawFd::as_raw_fd).collect();
    ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_executor(Payload { tty: stdio.is_terminal, doors, ids: IdSpace::current() })
        .with_root_path(notes_dir(pod_dir))
        .map_err(reason)?
        .with_stdin(stdio.stdin)
        .with_stdout(stdio.stdout)
        .with_stderr(stdio.stderr)
        .validate_id()
        .map_err(reason)
}

/// The whole chain of causes, for the top one says little; a cause that repeats its parent is left out.
fn reason(error: impl Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        let deeper_text = deeper.to_string();
        if !text.contains(&deeper_text) {
            text = format!("{text}: {deeper_text}");
        }
        cause = deeper.source();
    }
    text
}

#[derive(Clone)]
struct Payload {
    tty: bool,
    /// Open `cgroup.procs` of the cgroups to join; the builder's caller holds them.
    doors: Vec<RawFd>,
    ids: IdSpace,
}

impl Executor for Payload {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        for door in &self.doors {
            // SAFETY: the descriptor is open in this copy of the shim. `0` is the process that writes.
            if unsafe { libc::write(*door, c"0".as_ptr().cast(), 1) } != 1 {
                let error = std::io::Error::last_os_error();
                return Err(ExecutorError::Other(format!("cannot join the container's cgroup: {error}")));
            }
        }
        // SAFETY: plain system calls on values of our own; this process has one thread.
        unsafe {
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
            // What whoever started the node ignores (a shell does for its background jobs), a program would inherit, and
            // a shell in the container could not even trap it. KILL, STOP and those of the C library refuse, rightly.
            for signal in 1..=libc::SIGRTMAX() {
                libc::signal(signal, libc::SIG_DFL);
            }
            if self.tty && libc::ioctl(0, libc::TIOCSCTTY, 0) != 0 {
                return Err(ExecutorError::Other("cannot take the terminal".to_owned()));
            }
        }
        if self.ids == IdSpace::One {
            fake_ids::install().map_err(|e| ExecutorError::Other(format!("cannot install the one-uid filter: {e}")))?;
        }
        // After the change of user, which would have cleared it.
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        get_executor().exec(spec)
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let process = spec.process().as_ref();
        let args = process.and_then(|process| process.args().as_ref());
        let Some(program) = args.and_then(|args| args.first()) else {
            return Err(invalid("no command is given, neither by the pod nor by the image".to_owned()));
        };
        let env = process.and_then(|process| process.env().as_ref());
        let path = env.and_then(|env| env.iter().find_map(|entry| entry.strip_prefix("PATH="))).unwrap_or_default();
        find_program(program, path).map(|_| ()).map_err(invalid)
    }
}

fn invalid(message: String) -> ExecutorValidationError {
    ExecutorValidationError::ArgValidationError(message)
}

/// Runs within the container's root.
fn find_program(program: &str, path: &str) -> Result<PathBuf, String> {
    let candidates: Vec<PathBuf> = if program.contains('/') {
        vec![PathBuf::from(program)]
    } else {
        path.split(':').map(|folder| Path::new(folder).join(program)).collect()
    };
    let found = candidates.iter().find(|candidate| candidate.is_file());
    let Some(found) = found else {
        return Err(if program.contains('/') {
            format!("exec: {program:?}: no such file in the image")
        } else {
            format!("exec: {program:?}: executable file not found in $PATH")
        });
    };
    let mode = fs::metadata(found).map(|meta| meta.permissions().mode()).unwrap_or(0);
    if mode & 0o111 == 0 {
        return Err(format!("exec: {program:?}: permission denied, the file is not executable"));
    }
    Ok(found.clone())
}
