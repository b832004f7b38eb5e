//! Machines and cables: a node whose power is cut and comes back, a LAN that is cut and healed, as users do both.
//!
//! What follows is what Kubernetes and BGP say: silence is noticed by time alone, so each step has its window.

mod support;

#[path = "support/load.rs"]
mod load;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use load::{ENOUGH, Load, Seen};
use portolan_lab::Place;
use serde_json::Value;
use support::{Said, Space, World, portolan_says, wait_for};

const LAB: &str = "t-outages";
/// One lab, and one thing at a time that is broken in it.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn world() -> (&'static World, MutexGuard<'static, ()>) {
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    (support::world_of(LAB, 3), turn)
}

/// Windows are 8 s for a node's silence, 9 s for a BGP session's, 8 s more for its routes; a loaded machine gets more.
const WITHIN_SECS: u64 = 60;

fn lab_command(args: &str) -> Said {
    portolan_says(&format!("{args} --name {LAB}"))
}

fn pod(space: Space, name: &str) -> Place {
    Place::Pod { namespace: space.name.to_owned(), name: name.to_owned() }
}

/// A Deployment with a pod on each node, a Service, and a shell on each node.
fn stage(world: &'static World, name: &'static str) -> Space {
    let space = world.space(name);
    // Tolerated for less than Kubernetes' default of 300 s, so that a test sees the eviction.
    let toleration =
        "{ key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 3 }";
    space.apply(&format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: web }}\nspec:\n  replicas: 3\n  \
         selector: {{ matchLabels: {{ app: web }} }}\n  template:\n    metadata: {{ labels: {{ app: web }} }}\n    \
         spec: {{ tolerations: [{toleration}], containers: [{{ name: web, image: \"nginx:latest\" }}] }}\n"
    ));
    space.kubectl("rollout status deployment/web --timeout=60s").done();
    space.kubectl("expose deployment web --port=80").done();
    for number in 1..=3 {
        space.shell(&format!("on-{number}"), &format!("node-{number}"));
        space.programmed("web", &format!("node-{number}"), 3);
    }
    space
}

fn cluster_ip(space: Space) -> String {
    format!("{}:80", space.field("svc/web", ".spec.clusterIP"))
}

/// Pods of the Deployment: node, name and address; those that are being deleted too.
fn web_pods(space: Space) -> Vec<(String, String, String, bool)> {
    let list = space.json("pods -l app=web");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let row = |pod: &Value| {
        let (meta, node, ip) = (&pod["metadata"], &pod["spec"]["nodeName"], &pod["status"]["podIP"]);
        (text(node), text(&meta["name"]), text(ip), meta["deletionTimestamp"].is_string())
    };
    list["items"].as_array().into_iter().flatten().map(row).collect()
}

fn web_on(space: Space, node: &str) -> (String, String) {
    let found = web_pods(space).into_iter().find(|(on, _, _, is_going)| on == node && !is_going);
    let (_, name, ip, _) = found.unwrap_or_else(|| panic!("a pod of web on {node}"));
    (name, ip)
}

fn is_ready(world: &World, node: &str) -> String {
    world.field(&format!("node/{node}"), ".status.conditions[?(@.type==\"Ready\")].status")
}

fn await_node(world: &World, node: &str, status: &str) {
    wait_for(&format!("{node} to be {status}"), WITHIN_SECS, || (is_ready(world, node) == status).then_some(()));
}

fn has_route(world: &World, on: &str, to: &str) -> bool {
    let block = world.field(&format!("node/{to}"), ".spec.podCIDR");
    world.at(on, &["ip", "route"]).done().lines().any(|line| line.starts_with(&format!("{block} via ")))
}

fn await_route(world: &World, on: &str, to: &str, there: bool) {
    let what = format!("{on}'s route to {to}, there: {there}");
    wait_for(&what, WITHIN_SECS, || (has_route(world, on, to) == there).then_some(()));
}

/// The state of `on`'s session with the node of that address.
fn session(world: &World, on: &str, peer: &str) -> String {
    let status = world.node_status(on);
    let sessions = status["bgp"]["sessions"].as_array().cloned().unwrap_or_default();
    let found = sessions.iter().find(|session| session["peer"] == peer);
    found.map_or_else(|| "none".to_owned(), |session| session["state"].as_str().unwrap_or_default().to_owned())
}

/// uid, restarts and address of each pod: what an outage of the LAN must not change.
fn pods(space: Space) -> Vec<String> {
    let list = space.json("pods");
    let row = |pod: &Value| {
        let status = &pod["status"];
        let restarts = &status["containerStatuses"][0]["restartCount"];
        format!("{} {} {restarts} {}", pod["metadata"]["name"], pod["metadata"]["uid"], status["podIP"])
    };
    let mut all: Vec<String> = list["items"].as_array().expect("pods").iter().map(row).collect();
    all.sort();
    all
}

/// One request with little patience.
fn answers(space: Space, from: &str, ip: &str) -> bool {
    let place = format!("pod/{}/{from}", space.name);
    space.world.at(&place, &["curl", "-sf", "-o", "/dev/null", "--max-time", "2", &format!("http://{ip}/")]).ok()
}

#[test]
fn two_nodes_that_are_cut_from_each_other_lose_their_routes_and_no_more_and_get_them_back() {
    let (world, _turn) = world();
    let space = stage(world, "cut");
    let before = pods(space);
    let [(_, here), (_, there), (_, third)] = ["node-1", "node-2", "node-3"].map(|node| web_on(space, node));
    let lab = world.lab();
    let local = Load::http(lab, &pod(space, "on-1"), &format!("{here}:80"));
    let other = Load::http(lab, &pod(space, "on-1"), &format!("{third}:80"));
    let names = Load::dns(lab, &pod(space, "on-1"), "web.cut.svc.cluster.local");
    assert_eq!(session(world, "node-1", "172.18.0.12"), "Established");
    let cut = Instant::now();
    let said = lab_command("lan cut node-1 node-2").done();
    assert!(said.contains("portolan lan heal node-1 node-2"), "{said}");
    assert!(!answers(space, "on-1", &there), "nothing passes at once");
    wait_for("the session to break", WITHIN_SECS, || {
        (session(world, "node-1", "172.18.0.12") != "Established").then_some(())
    });
    println!("the session was given up after {:?}", cut.elapsed());
    for (on, to) in [("node-1", "node-2"), ("node-2", "node-1")] {
        await_route(world, on, to, false);
    }
    let gone = cut.elapsed();
    println!("both routes had gone after {gone:?}");
    assert!(gone > Duration::from_secs(12), "a session that breaks without a word is given its grace: {gone:?}");
    for (on, to) in [("node-1", "node-3"), ("node-3", "node-1"), ("node-2", "node-3")] {
        assert!(has_route(world, on, to), "{on} to {to} is not cut");
    }
    assert_eq!(
        ["node-1", "node-2", "node-3"].map(|node| is_ready(world, node)),
        ["True"; 3],
        "both reach the API server"
    );
    assert_eq!(space.endpoints("web").len(), 3, "so nobody leaves the endpoints");
    let status = lab_command("status");
    assert!(status.out.contains("nothing passes between node-1 and node-2"), "{status:?}");
    assert_eq!(status.code, Some(1), "not all is well");
    let healed = Instant::now();
    lab_command("lan heal node-2 node-1").done();
    for (on, to) in [("node-1", "node-2"), ("node-2", "node-1")] {
        await_route(world, on, to, true);
    }
    println!("both routes were back {:?} after the heal", healed.elapsed());
    wait_for("the pod beyond", WITHIN_SECS, || answers(space, "on-1", &there).then_some(()));
    for load in [local, other, names] {
        load.go_on(ENOUGH);
        let seen = load.end();
        seen.report();
        seen.all_answered();
    }
    assert_eq!(pods(space), before);
    world.kubectl("delete namespace cut --timeout=60s").done();
}

#[test]
fn a_node_that_is_cut_from_the_api_server_is_not_ready_its_pods_go_on_and_all_returns() {
    let (world, _turn) = world();
    let space = world.space("away");
    space.deployment("web", 3);
    space.kubectl("expose deployment web --port=80").done();
    (1..=3).for_each(|number| space.shell(&format!("on-{number}"), &format!("node-{number}")));
    (1..=3).for_each(|number| drop(space.programmed("web", &format!("node-{number}"), 3)));
    let (before, (_, away)) = (pods(space), web_on(space, "node-3"));
    let lab = world.lab();
    let to_the_pod = ["on-3", "on-1"].map(|from| Load::http(lab, &pod(space, from), &format!("{away}:80")));
    let loads = [
        Load::http(lab, &pod(space, "on-3"), &cluster_ip(space)),
        Load::dns(lab, &pod(space, "on-3"), "web.away.svc.cluster.local"),
    ];
    let cut = Instant::now();
    lab_command("lan cut node-3 apiserver").done();
    await_node(world, "node-3", "Unknown");
    println!("NotReady after {:?}", cut.elapsed());
    wait_for("its pod to leave the endpoints", WITHIN_SECS, || (!space.endpoints("web").contains(&away)).then_some(()));
    println!("out of the endpoints after {:?}", cut.elapsed());
    let nodes = world.kubectl("get nodes --no-headers").done();
    assert!(nodes.lines().any(|line| line.starts_with("node-3") && line.contains("NotReady")), "{nodes}");
    assert!(has_route(world, "node-1", "node-3"), "BGP is between the nodes, which reach each other");
    to_the_pod.iter().chain(&loads).for_each(|load| load.go_on(5 * ENOUGH));
    let healed = Instant::now();
    lab_command("lan heal --all").done();
    await_node(world, "node-3", "True");
    println!("Ready {:?} after the heal", healed.elapsed());
    wait_for("its pod to be an endpoint again", WITHIN_SECS, || space.endpoints("web").contains(&away).then_some(()));
    for load in to_the_pod {
        load.go_on(ENOUGH);
        let seen = load.end();
        seen.report();
        seen.all_answered();
    }
    // It hears the cluster again, and is heard.
    space.kubectl("scale deployment web --replicas=4").done();
    (1..=3).for_each(|number| drop(space.programmed("web", &format!("node-{number}"), 4)));
    println!("a change had reached its rules {:?} after the heal", healed.elapsed());
    assert_eq!(space.exec("on-3", &["echo", "here"]).done(), "here\n");
    let seen = loads.map(Load::end);
    seen.iter().for_each(Seen::report);
    seen.iter().for_each(Seen::all_answered);
    let after = pods(space);
    assert!(before.iter().all(|row| after.contains(row)), "no pod noticed: {before:?} {after:?}");
    world.kubectl("delete namespace away --timeout=60s").done();
}

#[test]
fn a_node_whose_power_is_cut_is_left_by_its_pods_and_comes_back_empty() {
    let (world, _turn) = world();
    let space = stage(world, "power");
    let (name, lost) = web_on(space, "node-3");
    let refused = lab_command("node stop node-9").refused(2);
    assert!(refused.contains("no node node-9 in this lab; say node-1 to node-3"), "{refused}");
    let refused = lab_command("node start node-3").refused(1);
    assert!(refused.contains("node-3 is on already"), "{refused}");
    let off = Instant::now();
    lab_command("node stop node-3").done();
    let refused = lab_command("node stop node-3").refused(1);
    assert!(refused.contains("node-3 is off already; `portolan node start node-3` starts it"), "{refused}");
    await_node(world, "node-3", "Unknown");
    println!("NotReady after {:?}", off.elapsed());
    let nodes = world.kubectl("get nodes --no-headers").done();
    assert!(nodes.lines().any(|line| line.starts_with("node-3") && line.contains("NotReady")), "{nodes}");
    wait_for("its pod to leave the endpoints", WITHIN_SECS, || (!space.endpoints("web").contains(&lost)).then_some(()));
    println!("out of the endpoints after {:?}", off.elapsed());
    // Evicted, replaced elsewhere, and its object stays: nobody is there to say that it has ended.
    wait_for("a replacement", WITHIN_SECS, || (space.endpoints("web").len() == 3).then_some(()));
    println!("replaced after {:?}", off.elapsed());
    let going: Vec<_> = web_pods(space).into_iter().filter(|(_, _, _, is_going)| *is_going).map(|row| row.1).collect();
    assert_eq!(going, [name.as_str()]);
    assert_eq!(
        space.kubectl("get pod on-3 -o jsonpath={.metadata.deletionTimestamp}").done(),
        "",
        "300 s are tolerated"
    );
    for on in ["node-1", "node-2"] {
        space.programmed("web", on, 3);
        await_route(world, on, "node-3", false);
    }
    println!("its routes had gone after {:?}", off.elapsed());
    let requests = Load::http(world.lab(), &pod(space, "on-1"), &cluster_ip(space));
    requests.go_on(ENOUGH);
    let on = Instant::now();
    lab_command("node start node-3").done();
    await_node(world, "node-3", "True");
    println!("Ready {:?} after the start", on.elapsed());
    for from in ["node-1", "node-2"] {
        await_route(world, from, "node-3", true);
    }
    println!("its routes were back {:?} after the start", on.elapsed());
    wait_for("the end of the pod that was evicted", WITHIN_SECS, || {
        web_pods(space).iter().all(|(_, other, _, _)| *other != name).then_some(())
    });
    // What was not evicted is the same pod, run anew.
    wait_for("on-3 to run again", WITHIN_SECS, || space.exec("on-3", &["echo", "here"]).ok().then_some(()));
    println!("on-3: {}", space.kubectl("get pod on-3 --no-headers").done().trim());
    space.programmed("web", "node-3", 3);
    requests.go_on(ENOUGH);
    let seen = requests.end();
    seen.report();
    seen.all_answered();
    world.kubectl("delete namespace power --timeout=60s").done();
}
