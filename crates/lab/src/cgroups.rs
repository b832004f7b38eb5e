//! The lab's own cgroups, below which its pods get theirs: found, made before the lab starts, removed after it ended.
//!
//! ```text
//!  v1, hybrid: below our own cgroup of each hierarchy, so that its limits go on holding
//!    /sys/fs/cgroup/memory/<own>/portolan-NAME-PID   /sys/fs/cgroup/cpu/…   /sys/fs/cgroup/pids/…
//!  v2: below the nearest cgroup above us that hands memory, cpu and pids down (one with processes cannot)
//!    /sys/fs/cgroup/<ancestor>/portolan-NAME-PID
//! ```
//!
//! No other cgroup is touched. The folders are written down before they are made: whoever finds a dead lab's files
//! removes them. cgroups(7), Linux admin-guide cgroup-v1 and cgroup-v2.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The controllers that containers' limits need.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];
/// Killed processes are gone from a cgroup within moments, on a busy machine within seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a lab has in the way of limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limits {
    /// Nobody asked for them.
    #[default]
    NotAsked,
    /// They were asked for and cannot be: why.
    Refused(String),
    /// By controller, or one that is `unified`: the lab's own folders.
    Below(Vec<(String, PathBuf)>),
}

impl Limits {
    /// Decides where the lab's folders are to be.
    pub(crate) fn find(name: &str) -> Limits {
        if !rustix::process::geteuid().is_root() {
            let reason = "an ordinary user's cgroups cannot be limited; run the lab as root";
            return Limits::Refused(reason.to_owned());
        }
        let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"));
        let found = read("/proc/self/mountinfo").and_then(|mounts| {
            let own = read("/proc/self/cgroup")?;
            let handed_down = |dir: &Path| fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
            places(&mounts, &own, handed_down)
        });
        let leaf = format!("{}{}", prefix(name), std::process::id());
        let below = |places: Vec<(String, PathBuf)>| places.into_iter().map(|(kind, dir)| (kind, dir.join(&leaf)));
        found.map_or_else(Limits::Refused, |places| Limits::Below(below(places).collect()))
    }

    /// Makes the folders; those that cannot be used are removed again.
    pub(crate) fn make(self, name: &str) -> Limits {
        let Limits::Below(dirs) = &self else { return self };
        for (kind, dir) in dirs {
            if let Err(error) = make(kind, dir) {
                let reason = format!("cannot make the cgroup {}: {error}", dir.display());
                self.clear(name);
                return Limits::Refused(reason);
            }
        }
        self
    }

    /// Removes the lab's folders and all below them, and nothing that is not named as this lab's.
    pub(crate) fn clear(&self, name: &str) {
        let Limits::Below(dirs) = self else { return };
        let until = Instant::now() + PATIENCE;
        for (_, dir) in dirs {
            let is_own = dir.file_name().is_some_and(|own| own.to_string_lossy().starts_with(&prefix(name)));
            if is_own {
                remove_tree(dir, until);
            }
        }
    }

    /// What agents are told.
    pub(crate) fn flags(&self, pod_pids: u32) -> Vec<String> {
        match self {
            Limits::NotAsked => Vec::new(),
            Limits::Refused(reason) => vec!["--limits-refused".to_owned(), reason.clone()],
            Limits::Below(dirs) => {
                let pairs: Vec<String> = dirs.iter().map(|(kind, dir)| format!("{kind}={}", dir.display())).collect();
                let pids = pod_pids.to_string();
                vec!["--limits-below".to_owned(), pairs.join(","), "--pod-pids-limit".to_owned(), pids]
            }
        }
    }
}

fn prefix(name: &str) -> String {
    format!("portolan-{name}-")
}

fn make(kind: &str, dir: &Path) -> std::io::Result<()> {
    fs::create_dir(dir)?;
    if kind == UNIFIED {
        let all: Vec<String> = CONTROLLERS.iter().map(|controller| format!("+{controller}")).collect();
        fs::write(dir.join("cgroup.subtree_control"), all.join(" "))?;
    }
    Ok(())
}

/// Only folders can be removed in a cgroup file system, and only those without processes.
fn remove_tree(dir: &Path, until: Instant) {
    for child in fs::read_dir(dir).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&child.path(), until);
        }
    }
    while fs::remove_dir(dir).is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY)) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
}

const UNIFIED: &str = "unified";

/// A cgroup hierarchy's mount.
struct Mount<'a> {
    /// The cgroup that is shown at `at`.
    root: &'a str,
    at: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl Mount<'_> {
    /// Where a cgroup of this hierarchy is in the file system.
    fn path(&self, cgroup: &str) -> PathBuf {
        let below = cgroup.strip_prefix(self.root.trim_end_matches('/')).unwrap_or(cgroup);
        Path::new(self.at).join(below.trim_start_matches('/'))
    }
}

/// The folders to make ours below, by controller or `unified`; `handed_down` reads a cgroup's subtree_control.
fn places(mountinfo: &str, own: &str, handed_down: impl Fn(&Path) -> String) -> Result<Vec<(String, PathBuf)>, String> {
    let mounts: Vec<Mount<'_>> = mountinfo.lines().filter_map(mount).collect();
    let v1 = |controller: &str| {
        mounts.iter().find(|mount| mount.kind == "cgroup" && mount.options.split(',').any(|o| o == controller))
    };
    let found: Vec<_> = CONTROLLERS.iter().filter_map(|name| Some((*name, v1(name)?))).collect();
    if found.is_empty() {
        return unified(&mounts, own, handed_down).map(|dir| vec![(UNIFIED.to_owned(), dir)]);
    }
    if let Some(absent) = CONTROLLERS.iter().find(|name| v1(name).is_none()) {
        return Err(format!("the cgroup controller {absent} is not mounted"));
    }
    let place = |(name, mount): &(&str, &Mount<'_>)| {
        let cgroup = own_cgroup(own, name).ok_or_else(|| format!("/proc/self/cgroup does not name {name}"))?;
        Ok(((*name).to_owned(), mount.path(cgroup)))
    };
    found.iter().map(place).collect()
}

/// From our own cgroup upwards, the first that hands all controllers down.
fn unified(mounts: &[Mount<'_>], own: &str, handed_down: impl Fn(&Path) -> String) -> Result<PathBuf, String> {
    let mount = mounts.iter().find(|mount| mount.kind == "cgroup2").ok_or("no cgroup hierarchy is mounted")?;
    let cgroup = own_cgroup(own, "").ok_or("/proc/self/cgroup does not name the unified hierarchy")?;
    let has_all = |dir: &&Path| {
        let down = handed_down(dir);
        CONTROLLERS.iter().all(|name| down.split_whitespace().any(|word| word == *name))
    };
    let own = mount.path(cgroup);
    let above = own.ancestors().take_while(|dir| dir.starts_with(mount.at));
    let fitting = above.into_iter().find(has_all).map(Path::to_path_buf);
    fitting.ok_or_else(|| {
        format!("no cgroup from {} upwards hands memory, cpu and pids down (cgroup.subtree_control)", own.display())
    })
}

/// One line of proc_pid_mountinfo(5), if it is a cgroup hierarchy's.
fn mount(line: &str) -> Option<Mount<'_>> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, at) = (before.next()?, before.next()?);
    let mut after = after.split(' ');
    let (kind, _, options) = (after.next()?, after.next()?, after.next()?);
    kind.starts_with("cgroup").then_some(Mount { root, at, kind, options })
}

/// Our cgroup in a v1 controller's hierarchy; with no name, in the unified one.
fn own_cgroup<'a>(own: &'a str, controller: &str) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        controllers.split(',').any(|name| name == controller).then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /outer /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const HYBRID_OWN: &str = "8:pids:/\n4:memory:/outer/me\n1:cpu,cpuacct:/user.slice\n0::/\n";
    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n";
    const V2_OWN: &str = "0::/user.slice/user-0.slice/session-3.scope\n";

    #[test]
    fn on_v1_and_hybrid_the_lab_is_below_our_own_cgroups() {
        let found = places(HYBRID, HYBRID_OWN, |_| String::new()).expect("found");
        let shown: Vec<String> = found.iter().map(|(kind, dir)| format!("{kind}={}", dir.display())).collect();
        assert_eq!(
            shown,
            [
                "memory=/sys/fs/cgroup/memory/me",
                "cpu=/sys/fs/cgroup/cpu,cpuacct/user.slice",
                "pids=/sys/fs/cgroup/pids/"
            ]
        );
        let without = HYBRID.replace("rw,pids", "rw,freezer");
        let error = places(&without, HYBRID_OWN, |_| String::new()).expect_err("pids is not there");
        assert_eq!(error, "the cgroup controller pids is not mounted");
    }

    #[test]
    fn on_v2_the_lab_is_below_the_nearest_cgroup_that_hands_all_controllers_down() {
        let down = |dir: &Path| match dir.to_str().expect("text") {
            "/sys/fs/cgroup" | "/sys/fs/cgroup/user.slice" => "cpuset cpu io memory pids\n".to_owned(),
            "/sys/fs/cgroup/user.slice/user-0.slice" => "memory pids\n".to_owned(),
            _ => String::new(),
        };
        let found = places(V2, V2_OWN, down).expect("found");
        assert_eq!(found, [("unified".to_owned(), PathBuf::from("/sys/fs/cgroup/user.slice"))]);
        let error = places(V2, V2_OWN, |_| "memory\n".to_owned()).expect_err("cpu is not handed down");
        assert!(error.contains("session-3.scope upwards"), "{error}");
        assert_eq!(places("", "", |_| String::new()), Err("no cgroup hierarchy is mounted".to_owned()));
    }

    #[test]
    fn only_what_is_named_as_the_labs_own_is_removed() {
        let tree = tempfile::tempdir().expect("a folder");
        let made = |leaf: &str| {
            let dir = tree.path().join(leaf);
            fs::create_dir_all(dir.join("podu/c-0")).expect("made");
            dir
        };
        let (own, others) = (made("portolan-lab-7"), made("portolan-lab2-7"));
        let limits = Limits::Below(vec![("memory".into(), own.clone()), ("cpu".into(), others.clone())]);
        limits.clear("lab");
        assert!(!own.exists() && others.join("podu/c-0").exists());
    }

    #[test]
    fn over_a_v2_tree_the_lab_hands_all_controllers_down() {
        let tree = tempfile::tempdir().expect("a folder");
        let dir = tree.path().join("portolan-lab-7");
        let limits = Limits::Below(vec![(UNIFIED.to_owned(), dir.clone())]);
        assert_eq!(limits.clone().make("lab"), limits);
        let down = fs::read_to_string(dir.join("cgroup.subtree_control")).expect("written");
        assert_eq!(down, "+memory +cpu +pids");
        let line = limits.flags(9).join(" ");
        assert_eq!(line, format!("--limits-below unified={} --pod-pids-limit 9", dir.display()));
        // There already: another's.
        assert!(matches!(limits.make("lab"), Limits::Refused(reason) if reason.contains("portolan-lab-7")));
    }
}
