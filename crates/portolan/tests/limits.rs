//! `up --limits`: what a container may use holds, and the lab's cgroups are gone with it, however it ends.
//!
//! On cgroup v1 or hybrid, which this machine has to be; v2 is shown over a tree of plain files in the rooms themselves.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Said, ensure_nginx, kubectl, portolan_says, turn, wait_for, with_input};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A lab from the command line, taken down when dropped.
struct Limited {
    name: &'static str,
}

impl Limited {
    fn up(name: &'static str) -> Limited {
        portolan_says(&format!("up --detach --name {name} --nodes 1 --limits --pod-pids-limit 40")).done();
        Limited { name }
    }

    fn dir(&self) -> PathBuf {
        portolan_lab::state_root().join(self.name)
    }

    fn kubectl_command(&self, args: &str) -> Command {
        let mut command = Command::new(kubectl());
        command.env("KUBECONFIG", self.dir().join("admin.kubeconfig")).env("HOME", self.dir());
        command.args(args.split_whitespace());
        command
    }

    fn kubectl(&self, args: &str) -> Said {
        let output: Output = self.kubectl_command(args).output().expect("kubectl runs");
        output.into()
    }

    /// A pod that runs a shell script once, with these resources in flow style.
    fn pod(&self, name: &str, script: &str, resources: &str) {
        let manifest = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\nspec:\n  restartPolicy: Never\n  \
             terminationGracePeriodSeconds: 0\n  containers:\n  - name: main\n    image: nginx:latest\n    \
             imagePullPolicy: IfNotPresent\n    command: [sh, -c, '{script}']\n    resources: {resources}\n"
        );
        with_input(self.kubectl_command("apply -f -"), &manifest).done();
    }

    fn json(&self, what: &str) -> Value {
        serde_json::from_str(&self.kubectl(&format!("get {what} -o json")).out).unwrap_or(Value::Null)
    }

    fn ready(&self, pod: &str) {
        self.kubectl(&format!("wait --for=condition=Ready pod/{pod} --timeout=60s")).done();
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        // Down already where the test went well.
        portolan_says(&format!("down --name {}", self.name));
    }
}

/// A cgroup of somebody else's, whose name begins as the lab's does.
struct Foreign(PathBuf);

impl Foreign {
    fn make(path: &str) -> Foreign {
        fs::create_dir(path).expect("a cgroup");
        Foreign(path.into())
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // A test that failed shows why; this is not it.
        let _ = fs::remove_dir(&self.0);
    }
}

/// All cgroups whose path has the word.
fn cgroups(word: &str) -> BTreeSet<PathBuf> {
    fn below(dir: &Path, word: &str, found: &mut BTreeSet<PathBuf>) {
        for child in fs::read_dir(dir).into_iter().flatten().flatten() {
            if child.file_type().is_ok_and(|kind| kind.is_dir()) {
                below(&child.path(), word, found);
                let path = child.path();
                found.extend(path.to_string_lossy().contains(word).then_some(path.clone()));
            }
        }
    }
    let mut found = BTreeSet::new();
    below(Path::new("/sys/fs/cgroup"), word, &mut found);
    found
}

/// The lab's cgroups that a process is in.
fn cgroups_of(pid: i32) -> Vec<PathBuf> {
    let holds = |dir: &PathBuf| {
        let inside = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        inside.lines().any(|line| line == pid.to_string())
    };
    cgroups("portolan-t-limits-").into_iter().filter(holds).collect()
}

/// The CPU quotas of these cgroups, in µs.
fn quotas(dirs: &[PathBuf]) -> Vec<String> {
    let texts = dirs.iter().filter_map(|dir| fs::read_to_string(dir.join("cpu.cfs_quota_us")).ok());
    texts.map(|text| text.trim().to_owned()).collect()
}

/// CPU time of a process so far, in clock ticks. proc_pid_stat(5).
fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat[stat.rfind(')').expect("a name") + 2..].split(' ').collect();
    [11, 12].map(|at| fields[at].parse::<u64>().expect("a number")).iter().sum()
}

/// The process whose command line ends in the word.
fn process(word: &str) -> i32 {
    wait_for("the container's process", 30, || {
        let pids = fs::read_dir("/proc").expect("proc").flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
        let line = |pid: i32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        pids.into_iter().find(|pid| {
            let line = line(*pid);
            let text = String::from_utf8_lossy(&line);
            text.starts_with("sh\0-c\0") && text.contains(word)
        })
    })
}

#[test]
fn limits_hold_and_down_leaves_no_cgroup() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let _turn = turn();
    ensure_nginx();
    let lab = Limited::up("t-limits");
    let node = lab.json("node node-1");
    let conditions = node["status"]["conditions"].as_array().expect("conditions");
    let own = conditions.iter().find(|row| row["type"] == "LimitsEnforced").expect("it is said");
    assert_eq!(own["status"], "True", "{own}");

    // Unlimited, it would end by its own limit and with another code, not with the machine's memory.
    lab.pod("hog", r#"ulimit -v 500000; awk "BEGIN { x = \"a\"; while (1) x = x x }""#, "{ limits: { memory: 32Mi } }");
    lab.pod("loop", "while :; do :; done # portolan-loop", "{ limits: { cpu: 200m } }");
    lab.pod("many", "for i in $(seq 80); do sleep 300 & done; echo all 80; wait", "{}");

    lab.pod("huge", "sleep 300", "{ requests: { cpu: 1000 } }");
    wait_for("the scheduler's word", 30, || {
        let said = lab.kubectl("describe pod huge").out;
        let is_told = said.lines().any(|line| {
            line.contains("FailedScheduling") && line.contains("0/1 nodes are available: 1 Insufficient cpu.")
        });
        is_told.then_some(())
    });
    assert_eq!(lab.json("pod huge")["status"]["phase"], "Pending");

    let ended = wait_for("the hog's end", 60, || {
        let pod = lab.json("pod hog");
        Some(pod["status"]["containerStatuses"][0]["state"]["terminated"].clone()).filter(|end| !end.is_null())
    });
    assert_eq!((&ended["reason"], &ended["exitCode"]), (&"OOMKilled".into(), &137.into()), "{ended}");

    lab.ready("loop");
    let pid = process("portolan-loop");
    // On a busy machine its share of the CPU may be below the limit in any case: so the kernel is asked as well.
    assert_eq!(quotas(&cgroups_of(pid)), ["20000"], "200m of each 100 ms");
    let (begun, before) = (Instant::now(), ticks(pid));
    std::thread::sleep(Duration::from_secs(4));
    let used = (ticks(pid) - before) as f64 / 100.0 / begun.elapsed().as_secs_f64();
    // What it asks for is a whole CPU; a busy machine may give it less than its limit, never much more.
    assert!(used < 0.3, "0.2 of a CPU is its limit, it had {used}");
    assert!(used > 0.02, "it runs: {used}");

    let log = wait_for("the limit of processes", 60, || {
        let log = lab.kubectl("logs many").out;
        log.contains("fork").then_some(log)
    });
    assert!(!log.contains("all 80"), "{log}");
    let inside = lab.kubectl("exec loop -- cat /proc/self/cgroup").done();
    assert!(inside.lines().any(|line| line.contains(":memory:") && line.ends_with("/main-0")), "an exec too: {inside}");

    let of_loop = cgroups_of(pid);
    assert_eq!(of_loop.len(), 3, "memory, cpu, pids: {of_loop:?}");
    lab.kubectl("delete pod loop --timeout=30s").done();
    wait_for("the pod's cgroups to go with it", 20, || of_loop.iter().all(|dir| !dir.exists()).then_some(()));
    assert!(!cgroups("portolan-t-limits-").is_empty(), "the lab's own are there");
    portolan_says("down --name t-limits").done();
    assert_eq!(cgroups("portolan-t-limits-"), BTreeSet::new());
}

/// A child of a process.
fn child(pid: i32) -> i32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("it runs");
    children.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("it has a child")
}

#[test]
fn after_a_kill_the_cgroups_of_that_lab_go_and_no_others() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let _turn = turn();
    ensure_nginx();
    let others = Foreign::make("/sys/fs/cgroup/cpu/portolan-t-limits-killedx");
    // The keeper removes them when its init ends; when it is killed itself, the next command does.
    for victim in ["init", "keeper"] {
        let lab = Limited::up("t-limits-killed");
        lab.pod("stays", "sleep 300", "{ limits: { memory: 32Mi, cpu: 100m } }");
        lab.ready("stays");
        assert!(!cgroups("portolan-t-limits-killed-").is_empty());
        let keeper = fs::read_to_string(lab.dir().join("keeper.pid")).expect("written");
        let keeper: i32 = keeper.trim().parse().expect("a pid");
        let doomed = if victim == "init" { child(keeper) } else { keeper };
        // SAFETY: plain numbers; the process is the lab's.
        unsafe { libc::kill(doomed, libc::SIGKILL) };
        // Processes are gone when the kernel has ended the lab's PID 1.
        wait_for(&format!("nothing left after the end of {victim}"), 60, || {
            if victim == "keeper" {
                portolan_says("status --name t-limits-killed");
            }
            cgroups("portolan-t-limits-killed-").is_empty().then_some(())
        });
        assert!(others.0.exists());
        wait_for("the lab's files to go", 60, || (!lab.dir().exists()).then_some(()));
    }
}
