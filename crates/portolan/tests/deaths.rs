//! What outlives what: pods, connections and objects through the deaths of agents, of the API server and of a node.
//!
//! Requests run without a pause from network namespaces of pods while processes are killed with -9. They are sent by the
//! test's own children: `kubectl exec` would end with the agent.

mod support;

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use portolan_lab::Place;
use serde_json::Value;
use support::{Space, World, wait_for};

/// Deaths are told apart only one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn world() -> (&'static World, MutexGuard<'static, ()>) {
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    (support::world("t-deaths"), turn)
}

/// Requests after which a loop has shown something.
const ENOUGH: usize = 20;

/// One loop of requests from a pod's network, until told to end.
struct Requests {
    child: Child,
    stop: PathBuf,
    _dir: tempfile::TempDir,
}

/// What a loop saw: the time of each failure, from the loop's start.
#[derive(Debug)]
struct Seen {
    asked: usize,
    failed: Vec<Duration>,
}

impl Requests {
    fn begin(space: Space, pod: &str, command: &str) -> Requests {
        let dir = tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder");
        let stop = dir.path().join("stop");
        let script = format!(
            "until [ -e {} ]; do if {command} >/dev/null 2>&1; then echo ok; else echo failed $(date +%s%3N); fi; done",
            stop.display()
        );
        let place = Place::Pod { namespace: space.name.to_owned(), name: pod.to_owned() };
        let mut command = space.world.lab().command(&place, "sh").expect("the pod is there");
        let log = std::fs::File::create(dir.path().join("log")).expect("a log");
        let child = command.args(["-c", &script]).stdin(Stdio::null()).stdout(log).spawn().expect("it starts");
        Requests { child, stop, _dir: dir }
    }

    fn http(space: Space, pod: &str, address: &str) -> Requests {
        Requests::begin(space, pod, &format!("curl -sf --max-time 2 http://{address}/"))
    }

    fn dns(space: Space, pod: &str, name: &str) -> Requests {
        Requests::begin(space, pod, &format!("timeout 1 drill {name} @10.96.0.10 A | grep -q 'rcode: NOERROR'"))
    }

    /// Waits until `more` requests than by now have ended.
    fn go_on(&self, more: usize) {
        let count = || std::fs::read_to_string(self.stop.with_file_name("log")).map_or(0, |log| log.lines().count());
        let wanted = count() + more;
        wait_for("requests to go on", 20, || (count() >= wanted).then_some(()));
    }

    fn end(mut self) -> Seen {
        std::fs::write(&self.stop, "").expect("written");
        self.child.wait().expect("it ends");
        let log = std::fs::read_to_string(self.stop.with_file_name("log")).expect("a log");
        let millis = |line: &str| line.strip_prefix("failed ").and_then(|t| t.parse().ok()).map(Duration::from_millis);
        Seen { asked: log.lines().count(), failed: log.lines().filter_map(millis).collect() }
    }
}

/// Two replicas behind a Service, and a shell on each node.
struct Stage {
    space: Space,
    cluster_ip: String,
}

impl Stage {
    fn set(world: &'static World, name: &'static str) -> Stage {
        let space = world.space(name);
        space.deployment("web", 2);
        space.kubectl("expose deployment web --port=80").done();
        space.shell("on-1", "node-1");
        space.shell("on-2", "node-2");
        for node in ["node-1", "node-2"] {
            space.programmed("web", node, 2);
        }
        let cluster_ip = space.field("svc/web", ".spec.clusterIP");
        Stage { space, cluster_ip }
    }

    /// Requests from both nodes that have begun to be answered.
    fn requests(&self) -> [Requests; 2] {
        let both = ["on-1", "on-2"].map(|pod| Requests::http(self.space, pod, &self.cluster_ip));
        both.iter().for_each(|requests| requests.go_on(3));
        both
    }

    /// What must not change when something else dies: uid, restarts, container, start and address of each pod.
    fn pods(&self) -> Vec<String> {
        let list = self.space.json("pods");
        let text = |pod: &Value| {
            let status = &pod["status"]["containerStatuses"][0];
            let (meta, ip) = (&pod["metadata"], &pod["status"]["podIP"]);
            format!(
                "{} {} {ip} {} {} {}",
                meta["name"], meta["uid"], status["restartCount"], status["containerID"], status["state"]
            )
        };
        let mut all: Vec<String> = list["items"].as_array().expect("pods").iter().map(text).collect();
        all.sort();
        all
    }

    fn remove(self) {
        self.space.world.kubectl(&format!("delete namespace {} --timeout=30s", self.space.name)).done();
    }
}

/// Process numbers of all nginx masters in the lab.
fn nginx_pids(world: &World) -> String {
    world.at("init", &["sh", "-c", "grep -l '^nginx: master' /proc/[0-9]*/cmdline | sort"]).out
}

fn agent(world: &World, node: &str) -> i32 {
    wait_for("the agent's process", 10, || world.lab().pid(&format!("agent-{node}")).ok().flatten())
}

fn kill_agent(world: &World, node: &str) {
    world.lab().signal(&format!("agent-{node}"), libc::SIGKILL).expect("killed");
}

/// Waits until another agent than `before` has programmed its node and answers DNS; returns what it says of itself.
fn back(world: &World, node: &str, before: i32) -> Value {
    wait_for(&format!("another agent on {node}"), 20, || {
        let now = world.lab().pid(&format!("agent-{node}")).ok().flatten()?;
        let status = world.node_status(node);
        let programmed = status["core"]["programmed"] == true && status["bgp"]["sessions"][0]["state"] == "Established";
        (now != before && programmed && !status["dns"].is_null()).then_some(status)
    })
}

#[track_caller]
fn all_answered(who: &str, seen: &Seen) {
    println!("{who}: {} requests, {} failed", seen.asked, seen.failed.len());
    assert!(seen.asked >= ENOUGH, "{who}: only {} requests, which shows little", seen.asked);
    assert!(seen.failed.is_empty(), "{who}: {seen:?}");
}

fn wrote_nothing(node: &str, status: &Value) {
    let core = &status["core"];
    assert_eq!((&core["iptablesRestores"], &core["routesWritten"]), (&0.into(), &0.into()), "{node}: {core}");
}

#[test]
fn an_agents_death_touches_no_pod_and_no_request_and_its_successor_writes_nothing() {
    let (world, _turn) = world();
    let stage = Stage::set(world, "agent");
    let (pods, pids, before) = (stage.pods(), nginx_pids(world), agent(world, "node-1"));
    let rules = |world: &World| world.at("node-1", &["sh", "-c", "iptables-save | grep -v '^#'; ip route"]).out;
    let kernel = rules(world);
    let requests = stage.requests();
    let name = format!("web.{}.svc.cluster.local", stage.space.name);
    let lookups = ["on-1", "on-2"].map(|pod| Requests::dns(stage.space, pod, &name));
    lookups.iter().for_each(|lookups| lookups.go_on(3));
    kill_agent(world, "node-1");
    let killed = Instant::now();
    let status = back(world, "node-1", before);
    println!("another agent had programmed its node {:?} after the death", killed.elapsed());
    requests.iter().chain(&lookups).for_each(|requests| requests.go_on(ENOUGH));
    let [here, there] = requests.map(Requests::end);
    all_answered("a pod on the agent's node", &here);
    all_answered("a pod on the other node", &there);
    let [here, there] = lookups.map(Requests::end);
    all_answered("lookups on the other node", &there);
    let gap = here.failed.first().zip(here.failed.last()).map_or(Duration::ZERO, |(first, last)| *last - *first);
    println!("lookups on the agent's node: {} asked, {} failed, within {gap:?}", here.asked, here.failed.len());
    assert!(gap < Duration::from_secs(5), "lookups fail during the restart only: {here:?}");
    assert_eq!(stage.pods(), pods);
    assert_eq!(nginx_pids(world), pids);
    assert_eq!(rules(world), kernel);
    wrote_nothing("node-1", &status);
    // The new agent is the pods' own again: it answers for them, and ends them.
    assert_eq!(stage.space.exec("on-1", &["echo", "here"]).done(), "here\n");
    stage.remove();
}

#[test]
fn an_agent_that_is_told_to_end_leaves_dns_to_the_other_node() {
    let (world, _turn) = world();
    let stage = Stage::set(world, "told");
    let (pods, before) = (stage.pods(), agent(world, "node-1"));
    let mirror = |world: &World| {
        world.kubectl("-n kube-system get pod portolan-node-1 --ignore-not-found -o jsonpath={.metadata.uid}").out
    };
    let uid = mirror(world);
    let name = format!("web.{}.svc.cluster.local", stage.space.name);
    let lookups = Requests::dns(stage.space, "on-1", &name);
    lookups.go_on(3);
    world.lab().signal("agent-node-1", libc::SIGTERM).expect("told");
    back(world, "node-1", before);
    lookups.go_on(ENOUGH);
    let seen = lookups.end();
    println!("lookups on the agent's node: {} asked, {} failed", seen.asked, seen.failed.len());
    // One may be on its way while the address goes, and one while it comes back.
    let gap = seen.failed.first().zip(seen.failed.last()).map_or(Duration::ZERO, |(first, last)| *last - *first);
    assert!(seen.failed.len() <= 2 && gap < Duration::from_secs(3), "{seen:?}");
    wait_for("the successor's DNS pod, which is another", 10, || {
        let now = mirror(world);
        (!now.is_empty() && now != uid).then_some(())
    });
    let status = world.lab().status().expect("the lab answers");
    let unit = status.units.iter().find(|unit| unit.name == "agent-node-1").expect("it is there");
    assert_eq!(unit.last_end.as_deref(), Some("exit code 0"));
    assert_eq!(stage.pods(), pods);
    stage.remove();
}

#[test]
fn all_agents_may_die_at_once() {
    let (world, _turn) = world();
    let stage = Stage::set(world, "agents");
    let (pods, pids) = (stage.pods(), nginx_pids(world));
    let nodes = ["node-1", "node-2"];
    let before = nodes.map(|node| agent(world, node));
    let requests = stage.requests();
    nodes.iter().for_each(|node| kill_agent(world, node));
    for (node, before) in nodes.iter().zip(before) {
        wrote_nothing(node, &back(world, node, before));
    }
    requests.iter().for_each(|requests| requests.go_on(ENOUGH));
    for (node, seen) in nodes.iter().zip(requests.map(Requests::end)) {
        all_answered(node, &seen);
    }
    assert_eq!((stage.pods(), nginx_pids(world)), (pods, pids));
    // And what comes next is followed: a third replica is reached on both nodes.
    stage.space.kubectl("scale deployment web --replicas=3").done();
    nodes.iter().for_each(|node| drop(stage.space.programmed("web", node, 3)));
    stage.remove();
}

#[test]
fn objects_survive_the_death_of_the_api_server_and_agents_go_on() {
    let (world, _turn) = world();
    let stage = Stage::set(world, "server");
    let agents = ["node-1", "node-2"].map(|node| agent(world, node));
    let objects = || world.json("ns,nodes,svc,deploy,rs,pods,cm,secret,sa,endpointslices -A");
    let uids = |list: &Value| -> Vec<String> {
        let mut all: Vec<String> =
            list["items"].as_array().into_iter().flatten().map(|o| o["metadata"]["uid"].to_string()).collect();
        all.sort();
        all
    };
    let (pods, before) = (stage.pods(), uids(&objects()));
    assert!(before.len() > 20, "{before:?}");
    let requests = stage.requests();
    world.lab().signal("apiserver", libc::SIGKILL).expect("killed");
    let killed = Instant::now();
    // Written by kubectl while the server is away: it waits in the listener's queue.
    stage.space.kubectl("create configmap after --from-literal=a=b").done();
    println!("kubectl created an object {:?} after the death", killed.elapsed());
    let after = uids(&objects());
    assert!(before.iter().all(|uid| after.contains(uid)), "objects were lost");
    requests.iter().for_each(|requests| requests.go_on(ENOUGH));
    for (pod, seen) in ["on-1", "on-2"].iter().zip(requests.map(Requests::end)) {
        all_answered(pod, &seen);
    }
    assert_eq!(stage.pods(), pods);
    assert_eq!(["node-1", "node-2"].map(|node| agent(world, node)), agents, "no agent ended with it");
    stage.space.kubectl("scale deployment web --replicas=3").done();
    ["node-1", "node-2"].iter().for_each(|node| drop(stage.space.programmed("web", node, 3)));
    stage.remove();
}

#[test]
fn a_stopped_nodes_route_is_withdrawn_and_its_pods_leave_until_it_is_back() {
    let (world, _turn) = world();
    let stage = Stage::set(world, "node");
    let block = world.field("node/node-2", ".spec.podCIDR");
    let route = format!("{block} via 172.18.0.12 dev eth0");
    let routes = || world.at("node-1", &["ip", "route"]).out;
    assert!(routes().contains(&route), "{}", routes());
    let lost = stage.space.field("pods -l app=web", ".items[?(@.spec.nodeName==\"node-2\")].status.podIP");
    world.lab().stop_node(2).expect("stopped");
    let stopped = Instant::now();
    wait_for("its pods leave the endpoints", 25, || {
        let now = stage.space.endpoints("web");
        (!now.is_empty() && !now.contains(&lost)).then_some(())
    });
    println!("its pods had left the endpoints after {:?}", stopped.elapsed());
    stage.space.programmed("web", "node-1", 1);
    wait_for("its route is withdrawn", 25, || (!routes().contains(&block)).then_some(()));
    println!("its route was withdrawn after {:?}", stopped.elapsed());
    let bgp = &world.node_status("node-1")["bgp"];
    assert!(
        bgp["routes"].as_array().is_some_and(Vec::is_empty) && bgp["sessions"][0]["state"] != "Established",
        "{bgp}"
    );
    let requests = Requests::http(stage.space, "on-1", &stage.cluster_ip);
    requests.go_on(ENOUGH);
    all_answered("requests while it is away", &requests.end());
    let nodes = world.kubectl("get nodes --no-headers").done();
    assert!(nodes.lines().any(|line| line.starts_with("node-2") && line.contains("NotReady")), "{nodes}");
    world.lab().start_node(2).expect("started");
    let started = Instant::now();
    wait_for("its route", 25, || routes().contains(&route).then_some(()));
    world.kubectl("wait --for=condition=Ready node/node-2 --timeout=20s").done();
    stage.space.programmed("web", "node-1", 2);
    stage.space.programmed("web", "node-2", 2);
    println!("its route and its pods were back after {:?}", started.elapsed());
    stage.space.ready("on-2");
    let requests = stage.requests();
    requests.iter().for_each(|requests| requests.go_on(ENOUGH));
    for (pod, seen) in ["on-1", "on-2"].iter().zip(requests.map(Requests::end)) {
        all_answered(pod, &seen);
    }
    stage.remove();
}
