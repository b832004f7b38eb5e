//! Small pieces of process handling: descriptors at fixed numbers, signals as a descriptor.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Gives the child the descriptors at the given numbers (3 and up), open across exec.
///
/// The descriptors live as long as the command.
pub(crate) fn pass(command: &mut Command, descriptors: Vec<(OwnedFd, RawFd)>) {
    let place = move || {
        // Out of the way first: a source may have the number of another's target.
        for (fd, target) in &descriptors {
            move_to(fd.as_raw_fd(), *target)?;
        }
        Ok(())
    };
    // SAFETY: `place` makes system calls only (fcntl, dup2, close): async-signal-safe.
    unsafe { command.pre_exec(place) };
}

/// Duplicates `fd` to exactly `target`, without close-on-exec. Sources must be above all targets,
/// which [`high`] sees to.
fn move_to(fd: RawFd, target: RawFd) -> io::Result<()> {
    // SAFETY: plain descriptor numbers.
    if unsafe { libc::dup2(fd, target) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The same open file at a number no target of [`pass`] uses.
pub(crate) fn high(fd: OwnedFd) -> io::Result<OwnedFd> {
    const ABOVE_ALL_TARGETS: libc::c_int = 20;
    // SAFETY: the descriptor is open; the new one is owned by the result alone.
    unsafe {
        let new = libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, ABOVE_ALL_TARGETS);
        if new < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(new))
    }
}

/// Takes over a descriptor that the parent passed at this number, and closes it at the next exec.
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl fails with EBADF if nothing is open there; else the caller is its only owner, as
    // each number is taken once, at start.
    unsafe {
        if libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(number))
    }
}

/// Blocks the signals and gives a non-blocking descriptor that is readable when one waits.
pub(crate) fn signals(wanted: &[libc::c_int]) -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before use and outlives the calls.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in wanted {
            libc::sigaddset(&mut set, *signal);
        }
        if libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// The signals that wait in a descriptor of [`signals`].
pub(crate) fn read_signals(fd: &OwnedFd) -> Vec<libc::c_int> {
    const SIZE: usize = size_of::<libc::signalfd_siginfo>();
    let mut found = Vec::new();
    let mut buffer = [0u8; SIZE];
    while rustix::io::read(fd, &mut buffer) == Ok(SIZE) {
        // ssi_signo is the first field, a u32.
        found.push(u32::from_ne_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]) as libc::c_int);
    }
    found
}

/// Blocks no signal: a program must not inherit what init blocks to read by [`signals`], or nobody could end it in order.
pub(crate) fn block_none() -> io::Result<()> {
    // SAFETY: the set is initialised by sigemptyset before use; both calls are async-signal-safe.
    let failed = unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut()) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Asks the kernel to end this process when the thread that made it ends.
pub(crate) fn die_with_parent() -> io::Result<()> {
    // SAFETY: prctl with plain numbers.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Code(i32),
    Signal(i32),
}

impl Ended {
    /// From waitpid's status.
    pub(crate) fn of(status: libc::c_int) -> Ended {
        if libc::WIFSIGNALED(status) {
            return Ended::Signal(libc::WTERMSIG(status));
        }
        Ended::Code(libc::WEXITSTATUS(status))
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Code(code) => write!(f, "exit code {code}"),
            Ended::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// The next child of this process that ended, without waiting.
pub(crate) fn reap() -> Option<(i32, Ended)> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    if pid <= 0 {
        return None;
    }
    Some((pid, Ended::of(status)))
}

/// The processes whose parent this is.
pub(crate) fn children(parent: i32) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

/// `None` for zombies and processes that are gone.
pub(crate) fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name may hold anything, so count from its closing bracket.
    let mut fields = stat[stat.rfind(')')? + 2..].split(' ');
    let is_zombie = fields.next()? == "Z";
    let parent = fields.next()?.parse().ok()?;
    (!is_zombie).then_some(parent)
}

/// Signals a process; one that is gone already is no error.
pub(crate) fn signal(pid: i32, number: libc::c_int) {
    // SAFETY: kill takes plain numbers.
    unsafe { libc::kill(pid, number) };
}
