//! A lab leaves nothing on the machine, however it ends, and changes nothing of the machine's own while it is up.
//!
//! With real agents, real pods and kubectl; the lab's own tests do the same with a toy server.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use portolan_lab::{Lab, state_root};
use support::{Said, deb_bin, ensure_nginx, kubectl, portolan, portolan_says, turn, wait_for};

/// What of the machine's own a lab could change.
#[derive(Debug, PartialEq)]
struct Machine {
    mounts: String,
    links: String,
    routes: String,
    rules: String,
    settings: String,
    cgroups: BTreeSet<PathBuf>,
    files: BTreeSet<PathBuf>,
}

impl Machine {
    fn now(name: &str) -> Machine {
        let settings =
            ["net/ipv4/ip_forward", "net/netfilter/nf_conntrack_max", "kernel/hostname", "net/ipv4/conf/all/rp_filter"];
        let said =
            |program: &Path, args: &[&str]| Said::from(Command::new(program).args(args).output().expect("it runs")).out;
        let saved = ["iptables-save", "ip6tables-save"].map(|program| said(&deb_bin().join(program), &[]));
        let mut cgroups = BTreeSet::new();
        folders(Path::new("/sys/fs/cgroup"), 6, &mut cgroups);
        let mut files = BTreeSet::new();
        folders(&state_root().join(name), 4, &mut files);
        files.extend(
            fs::read_dir(state_root()).into_iter().flatten().flatten().map(|e| e.path()).filter(|p| is_of(p, name)),
        );
        Machine {
            // Mount ids and peer groups are renumbered by others' mounts; what is mounted where is not.
            mounts: read("/proc/self/mounts"),
            links: said(&deb_bin().join("ip"), &["-o", "address"]),
            routes: said(&deb_bin().join("ip"), &["route", "show", "table", "all"]),
            rules: saved.concat().lines().filter(|line| !line.starts_with('#')).map(without_counters).collect(),
            settings: settings.map(|name| read(&format!("/proc/sys/{name}"))).concat(),
            cgroups,
            files,
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn is_of(path: &Path, name: &str) -> bool {
    path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name))
}

fn without_counters(line: &str) -> String {
    line.split(" [").next().unwrap_or_default().to_owned() + "\n"
}

fn folders(dir: &Path, depth: usize, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        if depth > 0 {
            folders(&entry.path(), depth - 1, found);
        }
        found.insert(entry.path());
    }
}

/// A process and all below it.
fn tree(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children: String =
        tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default()).collect();
    let below = children.split_whitespace().filter_map(|pid| pid.parse().ok()).flat_map(tree);
    std::iter::once(pid).chain(below).collect()
}

fn pid_namespace(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

/// The PID namespaces of these processes that are not our own, held open so that no other gets their numbers.
fn held_namespaces(pids: &[i32]) -> BTreeMap<PathBuf, File> {
    let own = pid_namespace(std::process::id().cast_signed());
    let open = |pid: &i32| Some((pid_namespace(*pid)?, File::open(format!("/proc/{pid}/ns/pid")).ok()?));
    pids.iter().filter_map(open).filter(|(name, _)| Some(name) != own.as_ref()).collect()
}

/// One that has ended and waits for the machine's init to ask how lives no more.
fn lives(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn all_pids() -> Vec<i32> {
    fs::read_dir("/proc")
        .expect("proc")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Tests of this binary take turns too.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Brings a lab up from the command line, runs nginx in it, ends it by `end` and looks at the machine before, during and
/// after.
fn leaves_nothing(name: &str, end: impl FnOnce(&Lab)) {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let _turn = turn();
    ensure_nginx();
    let before = Machine::now(name);
    let said = portolan_says(&format!("up --detach --name {name}")).done();
    let lab = Lab::open(&state_root().join(name)).expect("it is up");
    let kubeconfig = lab.kubeconfig();
    assert!(said.contains(&format!("export KUBECONFIG={}", kubeconfig.display())), "{said}");
    let home = tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder");
    let run = |args: &str| -> Said {
        let mut command = Command::new(kubectl());
        command.args(args.split_whitespace()).env("KUBECONFIG", &kubeconfig).env("HOME", home.path());
        command.output().expect("kubectl runs").into()
    };
    run("create deployment web --image=nginx:latest --replicas=3").done();
    run("expose deployment web --port=80 --type=NodePort").done();
    run("rollout status deployment/web --timeout=40s").done();
    let pids = tree(lab.keeper_pid().expect("a keeper"));
    assert!(pids.len() > 15, "keeper, init, server, upstream, two agents, shims and nginx: {}", pids.len());
    let namespaces = held_namespaces(&pids);
    assert!(namespaces.len() > 3, "init's and those of pods: {namespaces:?}");
    let during = Machine::now(name);
    let own_network =
        |m: &Machine| (m.mounts.clone(), m.links.clone(), m.routes.clone(), m.rules.clone(), m.settings.clone());
    assert_eq!(own_network(&during), own_network(&before), "while it is up");
    end(&lab);
    wait_for("the end of all its processes", 15, || (!pids.iter().any(|pid| lives(*pid))).then_some(()));
    let is_inside = |pid: &i32| lives(*pid) && pid_namespace(*pid).is_some_and(|name| namespaces.contains_key(&name));
    let inside: Vec<String> =
        all_pids().iter().filter(|pid| is_inside(pid)).map(|pid| read(&format!("/proc/{pid}/cmdline"))).collect();
    assert_eq!(inside, [""; 0], "processes in its namespaces");
    assert_eq!(settled(name, &before), before);
}

/// The machine once it is as `before`, or after ten seconds as it is: the kernel takes down what nobody holds in its
/// own time.
fn settled(name: &str, before: &Machine) -> Machine {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let now = Machine::now(name);
        if now == *before || Instant::now() > until {
            return now;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn kill(pid: i32) {
    let killed = Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill runs");
    assert!(killed.success());
}

#[test]
fn ctrl_c_ends_a_lab_that_is_not_detached_in_order() {
    let name = "t-left-ctrl-c";
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let _turn = turn();
    ensure_nginx();
    let before = Machine::now(name);
    let mut up = portolan().args(["up", "--name", name]).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(up.stdout.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("export KUBECONFIG=")), "it says where the cluster is once it is up");
    let pids = tree(up.id().cast_signed());
    assert!(pids.len() > 6, "keeper, init, server, upstream, agents: {pids:?}");
    let interrupted = Command::new("kill").args(["-INT", &up.id().to_string()]).status().expect("kill runs");
    assert!(interrupted.success());
    assert!(up.wait().expect("it ends").success());
    assert!(!pids.iter().any(|pid| lives(*pid)), "the lab had ended before `up` did");
    assert_eq!(settled(name, &before), before);
}

#[test]
fn down_leaves_nothing() {
    leaves_nothing("t-left-down", |_| drop(portolan_says("down --name t-left-down").done()));
}

#[test]
fn sigkill_of_the_labs_init_leaves_nothing_and_the_name_is_free() {
    let name = "t-left-init";
    leaves_nothing(name, |lab| {
        kill(lab.init_pid().expect("an init"));
        wait_for("the end of the lab", 10, || Lab::open(&state_root().join(name)).is_err().then_some(()));
        portolan_says(&format!("up --detach --name {name}")).done();
        portolan_says(&format!("down --name {name}")).done();
    });
}

#[test]
fn after_sigkill_of_the_keeper_only_files_are_left_and_the_next_lab_of_that_name_takes_them() {
    let name = "t-left-keeper";
    leaves_nothing(name, |lab| {
        kill(lab.keeper_pid().expect("a keeper"));
        wait_for("the end of the lab", 10, || Lab::open(&state_root().join(name)).is_err().then_some(()));
        assert!(state_root().join(name).exists(), "nobody was left to remove them");
        portolan_says(&format!("up --detach --name {name}")).done();
        portolan_says(&format!("down --name {name}")).done();
    });
}
