//! Labs beside each other, labs of many nodes, labs that crashed; and what `status` says of one.
//!
//! Each test has a /run of its own, so that the labs in it are all the labs there are.

mod support;

use std::fs::{self, File};
use std::path::PathBuf;

use portolan_lab::{Lab, state_root};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::UnshareFlags;
use serde_json::Value;
use support::{Said, ensure_nginx, kubectl, portolan, portolan_says, turn, wait_for, with_input};

/// The calling thread's own empty /run, and the turn to run labs. Labs that a failed test leaves end with this.
struct OwnRun {
    _turn: File,
}

impl OwnRun {
    fn new() -> OwnRun {
        let turn = turn();
        // SAFETY: the mount namespace is this thread's alone; no descriptor is closed.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.expect("root may");
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).expect("its own namespace");
        mount("ptl-t-run", "/run", "tmpfs", MountFlags::empty(), None).expect("its own namespace");
        ensure_nginx();
        OwnRun { _turn: turn }
    }

    fn up(&self, name: &str, nodes: usize) -> Lab {
        portolan_says(&format!("up --name {name} --nodes {nodes} --detach")).done();
        Lab::open(&folder(name)).expect("it is up")
    }
}

impl Drop for OwnRun {
    fn drop(&mut self) {
        // What a test that failed left; one that passed left nothing.
        let _ = portolan_says("down --all");
    }
}

fn folder(name: &str) -> PathBuf {
    state_root().join(name)
}

/// What stands where labs keep their state.
fn left() -> Vec<String> {
    let entries = fs::read_dir(state_root()).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn kill(pid: i32) {
    // SAFETY: plain numbers; the process is one that this test's lab started.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0, "process {pid}");
}

fn status(name: &str) -> (Option<i32>, Value) {
    let said = portolan_says(&format!("status --name {name} --output json"));
    (said.code, serde_json::from_str(&said.out).unwrap_or(Value::Null))
}

/// Waits until `status` is content.
#[track_caller]
fn well(name: &str) -> Value {
    let mut last = Value::Null;
    let (_, report) = wait_for(&format!("lab {name} to be well, last {:#}", last["problems"]), 120, || {
        let (code, report) = status(name);
        last = report.clone();
        (code == Some(0)).then_some((code, report))
    });
    report
}

fn kubectl_of(lab: &Lab, args: &str, input: &str) -> Said {
    let mut command = std::process::Command::new(kubectl());
    command.env("KUBECONFIG", lab.kubeconfig()).env("HOME", folder(&lab.config().name));
    command.args(args.split_whitespace());
    with_input(command, input)
}

#[test]
fn two_labs_side_by_side_know_nothing_of_each_other_and_commands_ask_which() {
    let run = OwnRun::new();
    let (one, two) = (run.up("t-one", 1), run.up("t-two", 1));
    for command in ["status", "shell node-1 -- true", "down"] {
        let said = portolan_says(command).refused(2);
        assert!(said.contains("t-one, t-two") && said.contains("--name"), "{command}: {said}");
    }
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: mine }\n";
    let mut apply = portolan();
    apply.args(["apply", "-f", "-"]);
    let said = with_input(apply, manifest).refused(2);
    assert!(said.contains("t-one, t-two") && said.contains("KUBECONFIG"), "{said}");
    kubectl_of(&one, "apply -f -", manifest).done();
    assert!(!kubectl_of(&two, "get configmap mine", "").ok(), "the other lab's objects are its own");
    // Both LANs have the same addresses; a mark on one node is not on the other's.
    portolan_says("shell --name t-one node-1 -- ip address add 192.0.2.1/32 dev lo").done();
    assert!(portolan_says("shell --name t-one node-1 -- ip address show dev lo").done().contains("192.0.2.1"));
    assert!(!portolan_says("shell --name t-two node-1 -- ip address show dev lo").done().contains("192.0.2.1"));
    well("t-one");
    well("t-two");
    portolan_says("down --name t-one").done();
    let said = portolan_says("status").done();
    assert!(said.starts_with("lab t-two: all is well\n"), "the one that is up needs no name: {said}");
    portolan_says("down").done();
    assert_eq!(portolan_says("status").refused(1), "portolan: no lab is up; `portolan up` starts one\n");
    assert_eq!(left(), Vec::<String>::new());
}

#[test]
fn a_crashed_lab_is_swept_by_the_next_command_and_its_name_is_free() {
    let run = OwnRun::new();
    let lab = run.up("t-crash", 1);
    kill(lab.keeper_pid().expect("it is up"));
    wait_for("the name to be free", 20, || Lab::open(&folder("t-crash")).is_err().then_some(()));
    assert!(folder("t-crash").exists(), "a keeper that is killed cannot tidy up: this test would show nothing");
    let said = portolan_says("status").refused(1);
    assert!(said.starts_with("portolan: lab t-crash had crashed; what it left is removed\n"), "{said}");
    assert_eq!(left(), Vec::<String>::new());
    let lab = run.up("t-crash", 1);
    kill(lab.init_pid().expect("it is up"));
    wait_for("the keeper to tidy up", 20, || left().is_empty().then_some(()));
    let said = portolan_says("down --name t-crash").refused(1);
    assert!(said.contains("no lab named \"t-crash\" is up"), "{said}");
}

#[test]
fn down_all_ends_every_lab_and_clears_what_a_crashed_one_left() {
    let run = OwnRun::new();
    run.up("t-a", 1);
    run.up("t-b", 1);
    let crashed = run.up("t-c", 1);
    kill(crashed.keeper_pid().expect("it is up"));
    wait_for("the name to be free", 20, || Lab::open(&folder("t-c")).is_err().then_some(()));
    let said = portolan_says("down --all");
    assert_eq!((said.code, said.out.as_str()), (Some(0), "t-a is down\nt-b is down\n"), "{}", said.err);
    assert!(said.err.contains("lab t-c had crashed"), "{}", said.err);
    assert_eq!(left(), Vec::<String>::new());
    assert_eq!(portolan_says("down --all").done(), "", "and there is nothing to do then");
}

#[test]
fn a_lab_of_twenty_nodes_has_a_full_mesh() {
    let run = OwnRun::new();
    run.up("t-twenty", 20);
    let report = well("t-twenty");
    let nodes = report["nodes"].as_array().expect("nodes");
    let blocks: std::collections::BTreeSet<&str> =
        nodes.iter().filter_map(|node| node["podCidrs"][0].as_str()).collect();
    assert_eq!((nodes.len(), blocks.len()), (20, 20), "each has a block of its own");
    for node in nodes {
        assert_eq!((&node["bgp"]["established"], &node["bgp"]["routes"]), (&19.into(), &19.into()), "{node:#}");
    }
    let text = portolan_says("status").done();
    assert!(text.lines().all(|line| line.chars().count() <= 80 || line.starts_with("export ")), "{text}");
}

#[test]
fn status_tells_what_is_not_right_and_shows_the_rest_all_the_same() {
    let run = OwnRun::new();
    let lab = run.up("t-status", 2);
    let report = well("t-status");
    let of_kind = |kind: &str| {
        let processes = report["cost"]["processes"].as_array().expect("rows").iter();
        let row = processes.clone().find(|row| row["kind"] == kind).expect("the kind").clone();
        (row["count"].as_u64(), row["memoryKib"].as_u64().is_some_and(|kib| kib > 1000))
    };
    assert_eq!((of_kind("API server"), of_kind("agents")), ((Some(1), true), (Some(2), true)));
    assert_eq!(report["nodes"][0]["dns"]["upstreams"].as_array().map(Vec::len), Some(1), "{:#}", report["nodes"][0]);

    let service = "apiVersion: v1\nkind: Service\nmetadata: { name: web }\n\
                   spec: { ports: [{ port: 80 }], selector: { app: web } }\n";
    kubectl_of(&lab, "apply -f -", service).done();
    let report = wait_for("the Service to be the last change or one of its slice", 30, || {
        let (code, report) = status("t-status");
        let change = &report["lastChange"];
        let is_it = change["object"].as_str().is_some_and(|object| object.contains("default/web"));
        (code == Some(1) && is_it && change["programmedAfterMillis"].is_number()).then_some(report)
    });
    assert_eq!(report["problems"], serde_json::json!(["Service default/web has no ready endpoint"]));
    assert!(report["lastChange"]["ageSeconds"].as_u64().is_some_and(|age| age < 60), "{:#}", report["lastChange"]);
    kubectl_of(&lab, "delete service web", "").done();

    let pod = "apiVersion: v1\nkind: Pod\nmetadata: { name: lost }\n\
               spec: { containers: [{ name: main, image: \"no-such-image:1\" }] }\n";
    kubectl_of(&lab, "apply -f -", pod).done();
    wait_for("the pod to be named with its reason", 30, || {
        let said = portolan_says("status");
        (said.code == Some(1) && said.out.contains("pod default/lost on node-") && said.out.contains("ImagePull"))
            .then_some(())
    });
    kubectl_of(&lab, "delete pod lost --force --grace-period=0", "");
    well("t-status");

    lab.signal("agent-node-2", libc::SIGSTOP).expect("it runs");
    let (code, report) = status("t-status");
    assert_eq!(code, Some(1));
    let problems = report["problems"].to_string();
    assert!(problems.contains("the agent of node-2 does not answer"), "{problems}");
    assert_eq!(report["nodes"][1]["dns"], Value::Null, "nothing is made up for a node that was not heard");
    assert_eq!(report["nodes"][0]["dns"]["serving"], true, "the other node is shown all the same");
    lab.signal("agent-node-2", libc::SIGCONT).expect("it is there");
    well("t-status");
    lab.signal("apiserver", libc::SIGSTOP).expect("it runs");
    let (code, report) = status("t-status");
    lab.signal("apiserver", libc::SIGCONT).expect("it is there");
    let problems = report["problems"].to_string();
    assert!(code == Some(1) && problems.contains("the API server does not answer"), "{problems}");
    assert_eq!((report["pods"].clone(), report["cost"]["memoryKib"].is_u64()), (Value::Null, true));
}
