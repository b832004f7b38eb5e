//! Everything may die: each process of a lab is killed with -9 under load, and what should survive survives.
//!
//! Load never pauses: new connections to a Service's ClusterIP from pods and from a node and to its node port from another
//! node, and lookups from pods. [`ROWS`] says for each death what may change and for whom. `PORTOLAN_DEATH_ROUNDS` sets how
//! often the table is gone through. Keeper and init, with which a whole lab ends, are in `nothing_left.rs`.

mod support;

#[path = "support/load.rs"]
mod load;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config, ResourceExt};
use load::{ENOUGH, Load, Seen};
use portolan_lab::Place;
use serde_json::Value;
use support::{Space, World, wait_for};

/// Deaths are told apart only one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn world() -> (&'static World, MutexGuard<'static, ()>) {
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    (support::world("t-deaths"), turn)
}

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Doomed {
    Agent,
    AllAgents,
    ApiServer,
    Upstream,
    Container,
    Sandbox,
    Shim,
}

/// What becomes of the pod that a death is aimed at.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pod {
    /// None is: no pod may notice.
    Untouched,
    /// Same pod, same sandbox, same address; the container runs again.
    Restarted,
    /// Same pod in another sandbox, as after kubelet's `SandboxChanged`.
    MadeAnew,
}

struct Row {
    doomed: Doomed,
    /// Whose lookups may fail, for as long as the agent there is away.
    deaf: &'static [&'static str],
    pod: Pod,
}

const ROWS: [Row; 7] = [
    Row { doomed: Doomed::Agent, deaf: &["on-1"], pod: Pod::Untouched },
    Row { doomed: Doomed::AllAgents, deaf: &["on-1", "on-2"], pod: Pod::Untouched },
    Row { doomed: Doomed::ApiServer, deaf: &[], pod: Pod::Untouched },
    Row { doomed: Doomed::Upstream, deaf: &[], pod: Pod::Untouched },
    Row { doomed: Doomed::Container, deaf: &[], pod: Pod::Restarted },
    Row { doomed: Doomed::Sandbox, deaf: &[], pod: Pod::MadeAnew },
    Row { doomed: Doomed::Shim, deaf: &[], pod: Pod::MadeAnew },
];

/// Lookups of a node fail no longer than this for its agent's death; measured it is a few hundred ms on a quiet machine.
const LONGEST_SILENCE: Duration = Duration::from_secs(10);
/// All that dies is back by then, on however loaded a machine.
const BACK_WITHIN_SECS: u64 = 40;
const NODES: [&str; 2] = ["node-1", "node-2"];

/// Pods that nothing is aimed at, behind a Service, and a shell on each node.
struct Stage {
    space: Space,
    cluster_ip: String,
    node_port: String,
}

impl Stage {
    fn set(world: &'static World, name: &'static str) -> Stage {
        let space = world.space(name);
        space.deployment("web", 2);
        space.kubectl("expose deployment web --port=80 --type=NodePort").done();
        space.shell("on-1", "node-1");
        space.shell("on-2", "node-2");
        NODES.iter().for_each(|node| drop(space.programmed("web", node, 2)));
        let node_port = space.field("svc/web", ".spec.ports[0].nodePort");
        Stage { space, cluster_ip: space.field("svc/web", ".spec.clusterIP"), node_port }
    }

    fn pod(&self, name: &str) -> Place {
        Place::Pod { namespace: self.space.name.to_owned(), name: name.to_owned() }
    }

    /// New connections to the Service from two pods, and from both nodes: to the ClusterIP, and to the other's node port.
    fn requests(&self) -> Vec<Load> {
        let lab = self.space.world.lab();
        let cluster_ip = format!("{}:80", self.cluster_ip);
        let node_port = format!("172.18.0.11:{}", self.node_port);
        vec![
            Load::http(lab, &self.pod("on-1"), &cluster_ip),
            Load::http(lab, &self.pod("on-2"), &cluster_ip),
            Load::http(lab, &Place::Node(1), &cluster_ip),
            Load::http(lab, &Place::Node(2), &node_port),
            Load::http(lab, &Place::Outside, &node_port),
        ]
    }

    fn lookups(&self, pod: &str) -> Load {
        let name = format!("web.{}.svc.cluster.local", self.space.name);
        Load::dns(self.space.world.lab(), &self.pod(pod), &name)
    }

    /// What must not change when something else dies: uid, restarts, container, start and address of each pod.
    fn pods(&self) -> BTreeMap<String, String> {
        let said = self.space.kubectl("get pods -o json").done();
        let list: Value = serde_json::from_str(&said).expect("JSON");
        let row = |pod: &Value| {
            let status = &pod["status"]["containerStatuses"][0];
            let ip = &pod["status"]["podIP"];
            let facts =
                [&pod["metadata"]["uid"], ip, &status["restartCount"], &status["containerID"], &status["state"]];
            (text(&pod["metadata"]["name"]), facts.map(Value::to_string).join(" "))
        };
        list["items"].as_array().expect("pods").iter().map(row).collect()
    }

    fn remove(self) {
        self.space.world.kubectl(&format!("delete namespace {} --timeout=60s", self.space.name)).done();
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A pod that a death is aimed at, with a Service of its own.
struct Victim {
    space: Space,
    name: String,
    uid: String,
    ip: String,
    /// Shim, sandbox and container, in the lab's PID namespace.
    processes: [String; 3],
}

impl Victim {
    fn make(space: Space, name: &str) -> Victim {
        space.pod(name, "node-2", "", "");
        space.ready(name);
        space.kubectl(&format!("expose pod {name} --port=80")).done();
        space.programmed(name, "node-1", 1);
        let uid = space.field(&format!("pod/{name}"), ".metadata.uid");
        let ip = space.field(&format!("pod/{name}"), ".status.podIP");
        let processes = processes(space.world, &uid).expect("it runs");
        Victim { space, name: name.to_owned(), uid, ip, processes }
    }

    fn requests(&self) -> Load {
        let to = self.space.field(&format!("svc/{}", self.name), ".spec.clusterIP");
        Load::http(self.space.world.lab(), &Place::Node(1), &format!("{to}:80"))
    }

    /// Waits until the pod runs again with all its processes, and says what of it is still the same.
    fn back(&self, how: Pod) {
        let (space, name) = (self.space, &self.name);
        let [shim, sandbox, container] = &self.processes;
        let status = wait_for(&format!("pod {name} to be Ready again"), BACK_WITHIN_SECS, || {
            let pod = space.json(&format!("pod/{name}"));
            let container = pod["status"]["containerStatuses"][0].clone();
            (container["restartCount"] == 1 && container["ready"] == true).then_some(pod)
        });
        assert_eq!(text(&status["metadata"]["uid"]), self.uid, "it is the same pod");
        assert_eq!(status["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 137);
        let now = processes(space.world, &self.uid).expect("it runs");
        assert!(now[2] != *container);
        let is_same = [&now[0] == shim, &now[1] == sandbox, text(&status["status"]["podIP"]) == self.ip];
        println!("  same shim, same sandbox, same address: {is_same:?}");
        match how {
            Pod::Restarted => assert_eq!(is_same, [true; 3]),
            _ => assert_eq!(is_same[..2], [false; 2]),
        }
        let is_left = |pid: &&String| !now.contains(pid) && is_alive(space.world, pid);
        let left: Vec<&String> = self.processes.iter().filter(is_left).collect();
        assert!(left.is_empty(), "orphans: {left:?}");
    }
}

/// Pids of shim, sandbox and container of a pod on node-2, as its shim wrote them down.
fn processes(world: &World, uid: &str) -> Option<[String; 3]> {
    let state = world.at("node-2", &["cat", &format!("/run/portolan/pods/{uid}/state.json")]);
    let state: Value = serde_json::from_str(&state.out).ok()?;
    let run = state["runs"].as_array()?.last()?.clone();
    let pids = [&state["shim"]["pid"], &state["sandbox"]["pid"], &run["process"]["pid"]];
    pids.iter().all(|pid| pid.is_number()).then(|| pids.map(Value::to_string))
}

/// A zombie is nobody's orphan: its parent has yet to ask how it ended.
fn is_alive(world: &World, pid: &str) -> bool {
    let stat = world.at("init", &["cat", &format!("/proc/{pid}/stat")]);
    stat.ok() && !stat.out.contains(") Z ")
}

fn unit_pid(world: &World, unit: &str) -> i32 {
    wait_for(&format!("the process of {unit}"), BACK_WITHIN_SECS, || world.lab().pid(unit).ok().flatten())
}

fn kill_unit(world: &World, unit: &str) {
    world.lab().signal(unit, libc::SIGKILL).expect("killed");
}

/// Waits until another process than `before` runs.
fn other_unit(world: &World, unit: &str, before: i32) {
    wait_for(&format!("another {unit}"), BACK_WITHIN_SECS, || {
        world.lab().pid(unit).ok().flatten().filter(|pid| *pid != before)
    });
}

/// Waits until another agent than `before` has programmed its node and answers DNS; returns what it says of itself.
fn agent_back(world: &World, node: &str, before: i32) -> Value {
    wait_for(&format!("another agent on {node}"), BACK_WITHIN_SECS, || {
        let now = world.lab().pid(&format!("agent-{node}")).ok().flatten()?;
        let status = world.node_status(node);
        let programmed = status["core"]["programmed"] == true && status["bgp"]["sessions"][0]["state"] == "Established";
        (now != before && programmed && !status["dns"].is_null()).then_some(status)
    })
}

/// Kills agents and waits for their successors, which find everything as it should be.
fn kill_agents(world: &World, nodes: &[&str]) {
    let before: Vec<i32> = nodes.iter().map(|node| unit_pid(world, &format!("agent-{node}"))).collect();
    nodes.iter().for_each(|node| kill_unit(world, &format!("agent-{node}")));
    for (node, before) in nodes.iter().zip(before) {
        let core = agent_back(world, node, before)["core"].clone();
        assert_eq!((&core["iptablesRestores"], &core["routesWritten"]), (&0.into(), &0.into()), "{node}: {core}");
    }
}

/// Kills the API server twice while objects are written and watched: nothing acknowledged is lost, the watch misses nothing.
fn kill_api_server(world: &World, space: Space) {
    let agents = NODES.map(|node| unit_pid(world, &format!("agent-{node}")));
    let writer = Writer::begin(world, space);
    for _ in 0..2 {
        writer.go_on(ENOUGH);
        let before = unit_pid(world, "apiserver");
        kill_unit(world, "apiserver");
        other_unit(world, "apiserver", before);
    }
    writer.go_on(ENOUGH);
    writer.end(space);
    assert_eq!(NODES.map(|node| unit_pid(world, &format!("agent-{node}"))), agents, "no agent ended with it");
}

/// Cluster names need no upstream; others come back with it.
fn kill_upstream(world: &World) {
    let before = unit_pid(world, "upstream");
    kill_unit(world, "upstream");
    other_unit(world, "upstream", before);
    wait_for("a name outside", BACK_WITHIN_SECS, || {
        let said = world.at("node-1", &["drill", "ns.ylzhong.top", "@10.96.0.10"]).out;
        said.contains("172.18.0.1").then_some(())
    });
}

fn kill_part(victim: &Victim, doomed: Doomed) {
    let [shim, sandbox, container] = &victim.processes;
    let pid = match doomed {
        Doomed::Shim => shim,
        Doomed::Sandbox => sandbox,
        _ => container,
    };
    victim.space.world.at("init", &["kill", "-9", pid]).done();
}

#[test]
fn what_should_survive_survives_each_death_and_what_died_comes_back() {
    let (world, _turn) = world();
    let stage = Stage::set(world, "deaths");
    let rounds = std::env::var("PORTOLAN_DEATH_ROUNDS").map_or(1, |text| text.parse().expect("a number of rounds"));
    for round in 1..=rounds {
        for row in &ROWS {
            println!("{:?}, round {round}:", row.doomed);
            survives(&stage, row, round);
        }
    }
    // And what comes next is followed: a third replica is reached from both nodes.
    stage.space.kubectl("scale deployment web --replicas=3").done();
    NODES.iter().for_each(|node| drop(stage.space.programmed("web", node, 3)));
    // The agents are the pods' own again: they answer for them, and end them.
    assert_eq!(stage.space.exec("on-1", &["echo", "here"]).done(), "here\n");
    stage.remove();
}

fn survives(stage: &Stage, row: &Row, round: usize) {
    let (world, space) = (stage.space.world, stage.space);
    let victim = (row.pod != Pod::Untouched).then(|| {
        let name = format!("{:?}-{round}", row.doomed).to_lowercase();
        Victim::make(space, &name)
    });
    let pods = stage.pods();
    let requests = stage.requests();
    let lookups = ["on-1", "on-2"].map(|pod| (pod, stage.lookups(pod)));
    let aimed_at = victim.as_ref().map(Victim::requests);
    let every = || requests.iter().chain(lookups.iter().map(|(_, load)| load)).chain(&aimed_at);
    every().for_each(|load| load.go_on(3));
    let killed = Instant::now();
    match row.doomed {
        Doomed::Agent => kill_agents(world, &NODES[..1]),
        Doomed::AllAgents => kill_agents(world, &NODES),
        Doomed::ApiServer => kill_api_server(world, space),
        Doomed::Upstream => kill_upstream(world),
        Doomed::Container | Doomed::Sandbox | Doomed::Shim => {
            let victim = victim.as_ref().expect("the row has one");
            kill_part(victim, row.doomed);
            victim.back(row.pod);
        }
    }
    println!("  all was back after {:?}", killed.elapsed());
    every().for_each(|load| load.go_on(ENOUGH));
    let requests: Vec<Seen> = requests.into_iter().map(Load::end).collect();
    requests.iter().for_each(Seen::report);
    requests.iter().for_each(Seen::all_answered);
    for (pod, seen) in lookups.map(|(pod, load)| (pod, load.end())) {
        seen.report();
        match row.deaf.contains(&pod) {
            true => assert!(seen.gap() < LONGEST_SILENCE, "{seen:?}"),
            false => seen.all_answered(),
        }
    }
    aimed_at.map(Load::end).iter().for_each(Seen::report);
    let mut after = stage.pods();
    let others: BTreeSet<&String> =
        pods.keys().filter(|name| victim.as_ref().is_none_or(|v| v.name != **name)).collect();
    after.retain(|name, _| others.contains(name));
    let before: BTreeMap<_, _> = pods.iter().filter(|(name, _)| others.contains(name)).collect();
    assert_eq!(after.iter().collect::<BTreeMap<_, _>>(), before, "pods that nothing was aimed at");
    if let Some(victim) = victim {
        space.kubectl(&format!("delete pod,svc {} --timeout=60s", victim.name)).done();
    }
}

/// Writes ConfigMaps one after another, and watches them.
struct Writer {
    runtime: tokio::runtime::Runtime,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    /// Name and uid of what the server said it had created.
    acknowledged: BTreeMap<String, String>,
    watched: BTreeSet<String>,
}

fn known(all: &Mutex<Known>) -> MutexGuard<'_, Known> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Writer {
    fn begin(world: &World, space: Space) -> Writer {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let kubeconfig = Kubeconfig::read_from(world.lab().kubeconfig()).expect("a kubeconfig");
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options);
        let api: Api<ConfigMap> = runtime.block_on(async {
            let client = Client::try_from(config.await.expect("a cluster")).expect("a client");
            Api::namespaced(client, space.name)
        });
        let all = Arc::<Mutex<Known>>::default();
        runtime.spawn(write(api.clone(), all.clone()));
        runtime.spawn(watch(api, all.clone()));
        Writer { runtime, known: all }
    }

    fn go_on(&self, more: usize) {
        let count = || known(&self.known).acknowledged.len();
        let wanted = count() + more;
        wait_for("objects to be written", BACK_WITHIN_SECS, || (count() >= wanted).then_some(()));
    }

    fn end(self, space: Space) {
        let acknowledged = known(&self.known).acknowledged.clone();
        let list = space.json("configmaps");
        let row = |object: &Value| (text(&object["metadata"]["name"]), text(&object["metadata"]["uid"]));
        let there: BTreeMap<String, String> = list["items"].as_array().expect("a list").iter().map(row).collect();
        let lost: Vec<_> = acknowledged.iter().filter(|(name, uid)| there.get(*name) != Some(*uid)).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        wait_for("the watch to tell of each", BACK_WITHIN_SECS, || {
            let watched = &known(&self.known).watched;
            acknowledged.keys().all(|name| watched.contains(name)).then_some(())
        });
        println!("  {} objects acknowledged, all there and all seen by the watch", acknowledged.len());
        drop(self.runtime);
        space.kubectl("delete configmap -l app=writer --wait=false").done();
    }
}

async fn write(api: Api<ConfigMap>, all: Arc<Mutex<Known>>) {
    for number in 0.. {
        let stamp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos();
        let metadata = ObjectMeta {
            name: Some(format!("w-{number}-{stamp}")),
            labels: Some([("app".to_owned(), "writer".to_owned())].into()),
            ..ObjectMeta::default()
        };
        let object = ConfigMap { metadata, ..ConfigMap::default() };
        // One that failed may be there or not: only what was acknowledged must be.
        if let Ok(created) = api.create(&PostParams::default(), &object).await {
            known(&all).acknowledged.insert(created.name_any(), created.uid().unwrap_or_default());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn watch(api: Api<ConfigMap>, all: Arc<Mutex<Known>>) {
    let mut objects = watcher(api, watcher::Config::default()).default_backoff().applied_objects().boxed();
    while let Some(event) = objects.next().await {
        if let Ok(object) = event {
            known(&all).watched.insert(object.name_any());
        }
    }
}

#[test]
fn an_agent_that_is_told_to_end_leaves_dns_to_the_other_node() {
    let (world, _turn) = world();
    let stage = Stage::set(world, "told");
    let (pods, before) = (stage.pods(), unit_pid(world, "agent-node-1"));
    let mirror = |world: &World| {
        world.kubectl("-n kube-system get pod portolan-node-1 --ignore-not-found -o jsonpath={.metadata.uid}").out
    };
    let uid = mirror(world);
    let lookups = stage.lookups("on-1");
    lookups.go_on(3);
    world.lab().signal("agent-node-1", libc::SIGTERM).expect("told");
    agent_back(world, "node-1", before);
    lookups.go_on(ENOUGH);
    let seen = lookups.end();
    seen.report();
    // One may be on its way while the address goes, and one while it comes back.
    assert!(seen.failed.len() <= 2 && seen.gap() < LONGEST_SILENCE, "{seen:?}");
    wait_for("the successor's DNS pod, which is another", BACK_WITHIN_SECS, || {
        let now = mirror(world);
        (!now.is_empty() && now != uid).then_some(())
    });
    let status = world.lab().status().expect("the lab answers");
    let unit = status.units.iter().find(|unit| unit.name == "agent-node-1").expect("it is there");
    assert_eq!(unit.last_end.as_deref(), Some("exit code 0"));
    assert_eq!(stage.pods(), pods);
    stage.remove();
}
