//! Cluster DNS through deaths: of an agent with and without a successor, in a lab of two nodes.

pub mod config;
pub mod places;

use std::time::{Duration, Instant};

use crate::load::{ENOUGH, Load, Seen};
use crate::support::{Space, World, wait_for};
use portolan_lab::Place;

/// On however loaded a machine.
const WITHIN_SECS: u64 = 60;
/// Measured it is a few hundred ms on a quiet machine.
const LONGEST_SILENCE: Duration = Duration::from_secs(10);
/// Loads of 66 lookups a second each.
const LOADS: usize = 3;
const CLUSTER_DNS: &str = "10.96.0.10";

/// A pod on node-1 and names to ask for.
pub struct Stage {
    pub space: Space,
}

impl Stage {
    pub fn set(world: &'static World, name: &'static str) -> Stage {
        let space = world.space(name);
        space.deployment("web", 2);
        space.kubectl("expose deployment web --port=80").done();
        space.kubectl("expose deployment web --name=headless --port=80 --cluster-ip=None").done();
        space.shell("on-1", "node-1");
        dns_endpoints(world, 2);
        let stage = Stage { space };
        // Written every few seconds: what is younger is SERVFAIL for a moment after a restart.
        let headless = stage.headless_addresses();
        wait_for("the state of DNS on disk", WITHIN_SECS, || stage.is_on_disk(&headless).then_some(()));
        stage
    }

    /// Some 200 lookups a second from the pod on node-1.
    pub fn lookups(&self, service: &str) -> Vec<Load> {
        let name = format!("{service}.{}.svc.cluster.local", self.space.name);
        let pod = Place::Pod { namespace: self.space.name.to_owned(), name: "on-1".to_owned() };
        (0..LOADS).map(|_| Load::dns(self.space.world.lab(), &pod, &name)).collect()
    }

    pub fn remove(self) {
        self.space.world.kubectl(&format!("delete namespace {} --timeout=60s", self.space.name)).done();
    }
}

pub fn go_on(loads: &[Load]) {
    loads.iter().for_each(|load| load.go_on(ENOUGH));
}

/// Ends them; no answer was ever a wrong one. The longest time in which any was without an answer.
pub fn end(loads: Vec<Load>) -> Duration {
    let seen: Vec<Seen> = loads.into_iter().map(Load::end).collect();
    seen.iter().for_each(Seen::report);
    for failed in seen.iter().flat_map(|seen| &seen.failed) {
        let reason = failed.outcome.as_ref().expect_err("it failed");
        assert!(!reason.starts_with("answered code"), "a wrong answer: {reason}");
    }
    seen.iter().map(Seen::gap).max().unwrap_or_default()
}

/// Waits until the Service has that many endpoints and node-1's rules know.
pub fn dns_endpoints(world: &World, count: usize) {
    wait_for(&format!("{count} endpoints of kube-dns"), WITHIN_SECS, || {
        let listed = world.kubectl("-n kube-system get endpoints kube-dns -o jsonpath={.subsets[*].addresses[*].ip}");
        (listed.out.split_whitespace().count() == count).then_some(())
    });
}

pub fn agent_pid(world: &World, node: &str) -> i32 {
    let unit = format!("agent-{node}");
    wait_for(&format!("the agent of {node}"), WITHIN_SECS, || world.lab().pid(&unit).ok().flatten())
}

pub fn kill_agent(world: &World, node: &str) {
    world.lab().signal(&format!("agent-{node}"), libc::SIGKILL).expect("killed");
}

/// Waits until another agent than `before` says that it answers at the cluster's address.
pub fn answers_again(world: &World, node: &str, before: i32) {
    wait_for(&format!("another agent of {node} to answer"), WITHIN_SECS, || {
        let status = world.node_status(node);
        let listening = status["dns"]["listening"].as_array().cloned().unwrap_or_default();
        let answers = status["core"]["programmed"] == true && listening.contains(&CLUSTER_DNS.into());
        (agent_pid(world, node) != before && answers && is_local(world, node)).then_some(())
    });
}

/// The address is on `lo` and queries for it stay out of conntrack.
pub fn is_local(world: &World, node: &str) -> bool {
    let on_lo = world.at(node, &["ip", "addr", "show", "dev", "lo"]).done().contains(CLUSTER_DNS);
    let by_iptables = world.at(node, &["iptables-save", "-t", "raw"]).out.contains("--notrack");
    let tables = world.at(node, &["nft", "list", "table", "ip", "portolan"]).out;
    let untracked = by_iptables || tables.lines().any(|line| line.contains("notrack"));
    on_lo && untracked
}

/// Pids, in the lab's, of the guards on a node.
pub fn guards(world: &World, node: &str) -> Vec<String> {
    let own = world.at(node, &["readlink", "/proc/self/ns/net"]).done();
    let listed = world.at("init", &["sh", "-c", "grep -l dns-guard /proc/[0-9]*/cmdline; true"]).done();
    let pids = listed.lines().filter_map(|line| line.strip_prefix("/proc/")?.strip_suffix("/cmdline"));
    let is_here = |pid: &&str| world.at("init", &["readlink", &format!("/proc/{pid}/ns/net")]).out == own;
    let is_guard = |pid: &&str| {
        let line = world.at("init", &["cat", &format!("/proc/{pid}/cmdline")]).out;
        line.split('\0').nth(1) == Some("dns-guard")
    };
    pids.filter(is_guard).filter(is_here).map(str::to_owned).collect()
}

/// The agent is killed and comes back: its pods miss lookups for as long as that takes, and nothing is left to others.
pub fn a_death_costs_lookups_for_at_most_the_restart(world: &'static World) {
    let stage = Stage::set(world, "restart");
    let before = agent_pid(world, "node-1");
    wait_for("a guard", WITHIN_SECS, || (guards(world, "node-1").len() == 1).then_some(()));
    let loads = stage.lookups("web");
    go_on(&loads);
    kill_agent(world, "node-1");
    answers_again(world, "node-1", before);
    // Longer than a guard's patience: one that took its successor's things would have done so by now.
    std::thread::sleep(Duration::from_secs(3));
    assert!(is_local(world, "node-1"), "what a successor holds stays");
    go_on(&loads);
    let gap = end(loads);
    println!("longest time without an answer while an agent was killed and came back: {gap:?}");
    assert!(gap < LONGEST_SILENCE, "{gap:?}");
    wait_for("one guard, the successor's", WITHIN_SECS, || (guards(world, "node-1").len() == 1).then_some(()));
    stage.remove();
}

/// The agent is killed and none comes: the guard leaves DNS to the other node, until one comes.
pub fn without_a_successor_the_other_node_answers(world: &'static World) {
    let stage = Stage::set(world, "alone");
    let before = agent_pid(world, "node-1");
    let loads = stage.lookups("web");
    go_on(&loads);
    // No agent starts without it.
    world.at("node-1", &["mv", "/run/lab/kubeconfig", "/run/lab/kubeconfig.away"]).done();
    kill_agent(world, "node-1");
    let killed = Instant::now();
    wait_for("the guard to act", WITHIN_SECS, || (!is_local(world, "node-1")).then_some(()));
    println!("left to the other node after {:?}", killed.elapsed());
    go_on(&loads);
    let gap = end(loads);
    println!("longest time without an answer until the other node did: {gap:?}");
    assert!(gap < LONGEST_SILENCE, "{gap:?}");
    wait_for("the guard to end", WITHIN_SECS, || guards(world, "node-1").is_empty().then_some(()));
    let loads = stage.lookups("web");
    go_on(&loads);
    world.at("node-1", &["mv", "/run/lab/kubeconfig.away", "/run/lab/kubeconfig"]).done();
    answers_again(world, "node-1", before);
    go_on(&loads);
    let gap = end(loads);
    println!("longest time without an answer when its agent came back: {gap:?}");
    assert!(gap < Duration::from_secs(2), "its own node answers again without a pause to speak of: {gap:?}");
    stage.remove();
}

/// A guard is small, and another takes its place when it dies.
pub fn a_guard_is_small_and_made_again(world: &'static World) {
    let guard = wait_for("a guard", WITHIN_SECS, || guards(world, "node-2").pop());
    let status = world.at("init", &["cat", &format!("/proc/{guard}/status")]).done();
    let of = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("KiB")
    };
    println!("a guard's memory: {} KiB of its own, {} KiB with what it shares", of("RssAnon:"), of("VmRSS:"));
    // Relocations of the program itself, nearly all of it: an optimised one has fewer.
    assert!(of("RssAnon:") < 8192, "{status}");
    world.at("init", &["kill", "-9", &guard]).done();
    let next = wait_for("another guard", WITHIN_SECS, || guards(world, "node-2").pop().filter(|pid| *pid != guard));
    assert_ne!(next, guard);
    assert!(is_local(world, "node-2"), "nothing is touched while the agent lives");
}

/// The API server is away and an agent restarts: what was known is answered, what was not is no absence.
pub fn names_are_answered_while_the_api_server_is_away(world: &'static World) {
    let stage = Stage::set(world, "away");
    let headless = stage.headless_addresses();
    let before = agent_pid(world, "node-1");
    world.lab().signal("apiserver", libc::SIGSTOP).expect("stopped");
    kill_agent(world, "node-1");
    wait_for("another agent", WITHIN_SECS, || (agent_pid(world, "node-1") != before).then_some(()));
    let loads: Vec<Load> = ["web", "headless"].iter().flat_map(|name| stage.lookups(name)).collect();
    go_on(&loads);
    assert_eq!(stage.dig("headless"), ("NOERROR".to_owned(), headless), "endpoints and all");
    assert_eq!(stage.dig("nobody").0, "SERVFAIL", "it may have come since");
    end(loads);
    let loads = stage.lookups("headless");
    go_on(&loads);
    world.lab().signal("apiserver", libc::SIGCONT).expect("goes on");
    wait_for("absences to be known again", WITHIN_SECS, || (stage.dig("nobody").0 == "NXDOMAIN").then_some(()));
    go_on(&loads);
    let gap = end(loads);
    assert_eq!(gap, Duration::ZERO, "while the cluster is read anew, names stay");
    wait_for("the DNS pod to count its restart", WITHIN_SECS, || {
        let row = world.kubectl("-n kube-system get pod portolan-node-1 --no-headers").out;
        let fields: Vec<&str> = row.split_whitespace().collect();
        (fields.get(1..3) == Some(&["1/1", "Running"][..]) && fields.get(3) != Some(&"0")).then_some(())
    });
    stage.remove();
}

impl Stage {
    /// Code and addresses that a lookup from the pod on node-1 gets.
    fn dig(&self, service: &str) -> (String, Vec<String>) {
        let place = format!("pod/{}/on-1", self.space.name);
        let name = format!("{service}.{}.svc.cluster.local", self.space.name);
        let said =
            self.space.world.at(&place, &["dig", "+tries=1", "+time=2", &format!("@{CLUSTER_DNS}"), &name, "A"]).out;
        let code = said.split("status: ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or("none");
        let rows =
            said.lines().filter(|line| line.starts_with(&name)).filter_map(|line| line.split_whitespace().last());
        let mut addresses: Vec<String> = rows.map(str::to_owned).collect();
        addresses.sort();
        (code.to_owned(), addresses)
    }

    fn headless_addresses(&self) -> Vec<String> {
        let found =
            wait_for("both addresses", WITHIN_SECS, || Some(self.dig("headless")).filter(|(_, all)| all.len() == 2));
        assert_eq!(found.0, "NOERROR");
        found.1
    }

    /// The file of node-1 names this stage's Services with these addresses.
    fn is_on_disk(&self, addresses: &[String]) -> bool {
        let said = self.space.world.at("node-1", &["sh", "-c", "gzip -dc /run/portolan/dns-state.gz"]).out;
        let has = |what: &str| said.lines().any(|line| line.contains(what) && line.contains(self.space.name));
        let is_named = |address: &String| said.contains(&format!("\"{address}\""));
        has("\"Service\"") && has("\"Slice\"") && addresses.iter().all(is_named)
    }
}
