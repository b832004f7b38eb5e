//! A shim's own surroundings: a mount namespace in which the machine's cgroups are out of sight.
//!
//! No limits are enforced here, and libcontainer would otherwise make a cgroup directory per container
//! that outlives a kill -9 of everything. With no hierarchy in its mount table it makes none
//! (libcgroups 0.7: the v1 manager with no controllers). In a user namespace the old mounts are locked;
//! there cgroup2 is mounted over them, whose refusal the library forgives when rootless.

use std::ffi::CString;
use std::io;
use std::path::PathBuf;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::thread::UnshareFlags;

use crate::limits::NodeLimits;

const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Moves the calling process, which must be single-threaded, into its own mount and cgroup namespace.
///
/// One that joins its containers to cgroups stays in the cgroup namespace it is in: from a new one nobody can be moved
/// to a cgroup beside it (cgroup2's mount option nsdelegate).
pub fn enter(limited: Option<&NodeLimits>) -> io::Result<()> {
    let own = if limited.is_some() { UnshareFlags::empty() } else { UnshareFlags::NEWCGROUP };
    // SAFETY: this process has one thread and shares no file table.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | own) }?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    if hide_cgroups().is_ok() {
        return Ok(());
    }
    rustix::mount::mount("cgroup2", CGROUP_ROOT, "cgroup2", MountFlags::empty(), None)?;
    Ok(())
}

fn hide_cgroups() -> io::Result<()> {
    for place in cgroup_mounts()?.into_iter().rev() {
        rustix::mount::unmount(&place, UnmountFlags::DETACH)?;
    }
    if !std::path::Path::new(CGROUP_ROOT).exists() {
        return Ok(());
    }
    let options = CString::new("mode=755,size=64k").expect("no zero byte in it");
    Ok(rustix::mount::mount("tmpfs", CGROUP_ROOT, "tmpfs", MountFlags::empty(), options.as_c_str())?)
}

/// Mount points of any cgroup hierarchy, in mount order. proc_pid_mountinfo(5).
fn cgroup_mounts() -> io::Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let is_cgroup = |line: &&str| {
        line.split_once(" - ").is_some_and(|(_, kind)| kind.starts_with("cgroup ") || kind.starts_with("cgroup2 "))
    };
    Ok(table.lines().filter(is_cgroup).filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect())
}
