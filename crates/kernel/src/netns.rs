//! Namespaces: making network namespaces, working in another one, entering before exec.
//!
//! A network namespace belongs to a thread. Nothing here changes the namespace of a thread that
//! outlives the call: [`create`] and [`run_in`] work on threads of their own. Never by
//! `ip netns exec`, which remounts /sys and hides the cgroups. Spec: setns(2), namespaces(7).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    #[error("cannot open the namespace {}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot make a network namespace: {0}; this needs root or CAP_SYS_ADMIN")]
    Create(io::Error),
    #[error("cannot enter the network namespace: {0}")]
    Enter(io::Error),
}

const OWN_NETNS: &str = "/proc/thread-self/ns/net";

/// The network namespace of the calling thread.
pub fn current() -> Result<OwnedFd, NetnsError> {
    open(Path::new(OWN_NETNS))
}

/// Opens a namespace by its file: `/proc/PID/ns/net`, or a bind mount of one.
pub fn open(path: &Path) -> Result<OwnedFd, NetnsError> {
    let file = File::open(path).map_err(|source| NetnsError::Open { path: path.to_owned(), source })?;
    Ok(file.into())
}

/// A new, empty network namespace; it lives as long as the descriptor or something in it.
pub fn create() -> Result<OwnedFd, NetnsError> {
    on_fresh_thread(|| {
        // SAFETY: unshare takes no pointers; this thread ends with the closure.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Err(NetnsError::Create(io::Error::last_os_error()));
        }
        current()
    })
}

/// Runs `work` on a fresh thread inside the namespace; processes it spawns start there too.
pub fn run_in<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    on_fresh_thread(|| {
        set(netns, libc::CLONE_NEWNET).map_err(NetnsError::Enter)?;
        Ok(work())
    })
}

/// A number that tells namespaces apart: the inode in nsfs.
pub fn id(netns: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(File::from(netns.try_clone_to_owned()?).metadata()?.ino())
}

fn on_fresh_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// The namespaces a child process enters between fork and exec.
///
/// Entered in this order: user, mount, UTS, IPC, network, cgroup, PID. A PID namespace takes effect
/// for the children of the process that enters, not for itself.
#[derive(Debug, Default)]
pub struct Entry {
    pub user: Option<OwnedFd>,
    pub mount: Option<OwnedFd>,
    pub uts: Option<OwnedFd>,
    pub ipc: Option<OwnedFd>,
    pub net: Option<OwnedFd>,
    pub cgroup: Option<OwnedFd>,
    pub pid: Option<OwnedFd>,
}

impl Entry {
    /// The namespaces of a running process, those named by `kinds` (`"mnt"`, `"net"`, `"uts"`, …).
    pub fn of_process(pid: u32, kinds: &[&str]) -> Result<Entry, NetnsError> {
        let mut entry = Entry::default();
        for kind in kinds {
            let fd = Some(open(Path::new(&format!("/proc/{pid}/ns/{kind}")))?);
            match *kind {
                "user" => entry.user = fd,
                "mnt" => entry.mount = fd,
                "uts" => entry.uts = fd,
                "ipc" => entry.ipc = fd,
                "net" => entry.net = fd,
                "cgroup" => entry.cgroup = fd,
                "pid" => entry.pid = fd,
                other => {
                    let source = io::Error::new(io::ErrorKind::InvalidInput, "no such kind of namespace");
                    return Err(NetnsError::Open { path: other.into(), source });
                }
            }
        }
        Ok(entry)
    }

    /// Enters them all. Async-signal-safe: only setns, so it may be called in `Command::pre_exec`.
    /// The calling process must have one thread.
    pub fn enter(&self) -> io::Result<()> {
        let wanted = [
            (&self.user, libc::CLONE_NEWUSER),
            (&self.mount, libc::CLONE_NEWNS),
            (&self.uts, libc::CLONE_NEWUTS),
            (&self.ipc, libc::CLONE_NEWIPC),
            (&self.net, libc::CLONE_NEWNET),
            (&self.cgroup, libc::CLONE_NEWCGROUP),
            (&self.pid, libc::CLONE_NEWPID),
        ];
        for (fd, kind) in wanted {
            if let Some(fd) = fd {
                set(fd.as_fd(), kind)?;
            }
        }
        Ok(())
    }

    /// A second set of descriptors for the same namespaces.
    pub fn try_clone(&self) -> io::Result<Entry> {
        let clone = |fd: &Option<OwnedFd>| fd.as_ref().map(OwnedFd::try_clone).transpose();
        Ok(Entry {
            user: clone(&self.user)?,
            mount: clone(&self.mount)?,
            uts: clone(&self.uts)?,
            ipc: clone(&self.ipc)?,
            net: clone(&self.net)?,
            cgroup: clone(&self.cgroup)?,
            pid: clone(&self.pid)?,
        })
    }
}

fn set(namespace: BorrowedFd<'_>, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the borrow; setns takes no pointers.
    if unsafe { libc::setns(namespace.as_raw_fd(), kind) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Netlink;

    #[test]
    fn a_new_namespace_holds_loopback_only_and_leaves_the_callers_alone() {
        let before = id(current().unwrap().as_fd()).unwrap();
        let made = create().unwrap();
        let names = run_in(made.as_fd(), || {
            Netlink::open().unwrap().links().unwrap().into_iter().map(|l| l.name).collect::<Vec<_>>()
        });
        assert_eq!(names.unwrap(), ["lo"]);
        assert_ne!(id(made.as_fd()).unwrap(), before);
        assert_eq!(id(current().unwrap().as_fd()).unwrap(), before);
    }

    #[test]
    fn a_child_of_run_in_starts_in_the_namespace() {
        let made = create().unwrap();
        let seen = run_in(made.as_fd(), || {
            std::process::Command::new("readlink").arg("/proc/self/ns/net").output().unwrap().stdout
        });
        let expected = format!("net:[{}]\n", id(made.as_fd()).unwrap());
        assert_eq!(String::from_utf8(seen.unwrap()).unwrap(), expected);
    }

    #[test]
    fn a_path_that_is_not_there_is_named_in_the_error() {
        let error = open(Path::new("/nowhere/net")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/net"), "{error}");
    }
}
