//! A pod's cgroups: made by its shim below the node's, joined by its containers, removed with them.
//!
//! ```text
//!  ROOT (of the lab)/pod<uid>  pids.max
//!                     └── <container>-<attempt>  memory, cpu; the container's processes and those of its execs
//! ```
//!
//! A process joins itself just before it becomes the container's program, so nothing of it runs outside. libcontainer is
//! not asked to: it would make folders in every hierarchy there is, and none of them would be named as ours.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use crate::limits::{Controller, Limits, NodeLimits, may_be_absent, oom_file, oom_kills, pod_files};

/// Processes that were killed are gone from a cgroup within moments.
const PATIENCE: Duration = Duration::from_millis(500);

/// The name of a pod's cgroup, as kubelet has it.
pub fn pod_name(uid: &str) -> String {
    format!("pod{uid}")
}

/// Removes a pod's cgroups if they are there; what is still in them is dying, and waited for a little.
pub fn remove_pod(limits: &NodeLimits, uid: &str) {
    for (_, root) in limits.roots.dirs() {
        remove_tree(&root.join(pod_name(uid)), Instant::now() + PATIENCE);
    }
}

/// Only folders can be removed in a cgroup file system, and only those without processes.
fn remove_tree(dir: &Path, until: Instant) {
    for child in fs::read_dir(dir).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&child.path(), until);
        }
    }
    while fs::remove_dir(dir).is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY)) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A pod's cgroups as its shim holds them: by descriptor, for the paths are out of its sight.
pub struct PodCgroups {
    dirs: Vec<(Controller, OwnedFd)>,
}

impl PodCgroups {
    /// Makes the pod's cgroups; called before the shim hides the hierarchies.
    pub fn make(limits: &NodeLimits, uid: &str) -> io::Result<Self> {
        let mut dirs = Vec::new();
        for (controller, root) in limits.roots.dirs() {
            let dir = root.join(pod_name(uid));
            make(&dir, pod_files(controller, limits.pod_pids))?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            dirs.push((controller, rustix::fs::open(&dir, flags, Mode::empty())?));
        }
        Ok(Self { dirs })
    }

    /// Makes a container's cgroups with its limits.
    pub fn make_run(&self, id: &str, limits: &Limits) -> io::Result<()> {
        self.run_dirs(id).try_for_each(|(controller, dir)| make(&dir, limits.files(controller)))
    }

    /// The files by which a process joins; it writes `0` to each.
    pub fn doors(&self, id: &str) -> io::Result<Vec<File>> {
        self.run_dirs(id).map(|(_, dir)| File::options().write(true).open(dir.join("cgroup.procs"))).collect()
    }

    /// Whether a process of the container was killed for memory.
    pub fn was_oom_killed(&self, id: &str) -> bool {
        let counted = |(controller, dir): (Controller, PathBuf)| {
            let text = fs::read_to_string(dir.join(oom_file(controller)?)).ok()?;
            Some(oom_kills(&text))
        };
        self.run_dirs(id).filter_map(counted).any(|count| count > 0)
    }

    /// Removes a container's cgroups, when it has ended.
    pub fn remove_run(&self, id: &str) {
        let until = Instant::now() + PATIENCE;
        self.run_dirs(id).for_each(|(_, dir)| remove_tree(&dir, until));
    }

    fn run_dirs<'a>(&'a self, id: &'a str) -> impl Iterator<Item = (Controller, PathBuf)> + 'a {
        let below = move |(controller, fd): &(Controller, OwnedFd)| {
            (*controller, PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())).join(id))
        };
        self.dirs.iter().map(below)
    }
}

/// A cgroup with these files written. One that is there is taken as it is: an earlier shim's.
fn make(dir: &Path, files: Vec<(&'static str, String)>) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(named(dir, error)),
        _ => {}
    }
    for (file, text) in files {
        let path = dir.join(file);
        if may_be_absent(file) && !path.exists() {
            continue;
        }
        fs::write(&path, &text).map_err(|error| named(&path, error))?;
    }
    Ok(())
}

fn named(path: &Path, error: io::Error) -> io::Error {
    let shown: PathBuf = path.components().rev().take(3).collect::<Vec<_>>().into_iter().rev().collect();
    io::Error::new(error.kind(), format!("cgroup {}: {error}", shown.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::CgroupRoots;

    /// A folder that looks like a cgroup v2 file system as far as files and folders go.
    #[test]
    fn over_a_v2_tree_the_pod_hands_controllers_down_and_its_container_gets_the_limits() {
        let tree = tempfile::tempdir().expect("a folder");
        let limits = NodeLimits { roots: CgroupRoots::V2 { unified: tree.path().into() }, pod_pids: 7 };
        let pod = PodCgroups::make(&limits, "u-1").expect("made");
        let read = |path: &str| fs::read_to_string(tree.path().join(path)).unwrap_or_else(|e| format!("{path}: {e}"));
        assert_eq!(read("podu-1/cgroup.subtree_control"), "+memory +cpu +pids");
        assert_eq!(read("podu-1/pids.max"), "7");
        let container = Limits { memory_bytes: Some(1 << 20), cpu_limit_milli: Some(500), cpu_request_milli: 250 };
        pod.make_run("c-0", &container).expect("made");
        assert_eq!(read("podu-1/c-0/memory.max"), "1048576");
        assert_eq!(read("podu-1/c-0/cpu.max"), "50000 100000");
        assert!(!tree.path().join("podu-1/c-0/memory.swap.max").exists(), "a kernel without swap accounting has none");
        fs::write(tree.path().join("podu-1/c-0/memory.events"), "oom 1\noom_kill 1\n").expect("written");
        assert!(pod.was_oom_killed("c-0"));
        assert!(!pod.was_oom_killed("c-1"));
        fs::write(tree.path().join("podu-1/c-0/cgroup.procs"), "").expect("written");
        assert_eq!(pod.doors("c-0").expect("opens").len(), 1);
    }

    #[test]
    fn a_root_that_is_not_there_is_named() {
        let limits = NodeLimits { roots: CgroupRoots::V2 { unified: "/nonexistent/portolan".into() }, pod_pids: 7 };
        let error = PodCgroups::make(&limits, "u").map(|_| ()).expect_err("not there").to_string();
        assert!(error.contains("portolan/podu"), "{error}");
    }
}
