//! No request fails while pods come and go: rollouts, scaling and deletion under new connections without a pause.
//!
//! nginx has no preStop hook here and closes its sockets at once when told to stop; what keeps the requests is what
//! docs/rollouts.md tells. `PORTOLAN_ROLLOUT_ROUNDS` repeats the changes; the machine's load only makes it slower.

mod support;

#[path = "rollout/load.rs"]
mod load;

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use load::{Load, Source};
use portolan_lab::Place;
use serde_json::Value;
use support::{Space, World, wait_for};

const NODES: [&str; 2] = ["node-1", "node-2"];
/// More than the sockets between a pod and a client hold.
const BIG_BYTES: usize = 8 << 20;
/// Requests that a change must see to show something.
const ENOUGH: usize = 20;

/// A frozen agent is the concern of its own test only.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn space(name: &'static str) -> (Space, MutexGuard<'static, ()>) {
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    (support::world("t-rollout").space(name), turn)
}

/// nginx behind a Service, three replicas with a readiness probe.
fn deploy(space: Space) {
    space.apply(&format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{ name: web }}
spec:
  replicas: 3
  selector: {{ matchLabels: {{ app: web }} }}
  template:
    metadata: {{ labels: {{ app: web }} }}
    spec:
      containers:
      - name: nginx
        image: nginx:latest
        command: [sh, -c, \"head -c {BIG_BYTES} /dev/zero > /usr/share/nginx/html/big; exec nginx -g 'daemon off;'\"]
        ports: [{{ name: http, containerPort: 80 }}]
        readinessProbe: {{ httpGet: {{ path: /, port: http }}, periodSeconds: 1 }}
---
apiVersion: v1
kind: Service
metadata: {{ name: web }}
spec: {{ type: NodePort, selector: {{ app: web }}, ports: [{{ name: http, port: 80, targetPort: http }}] }}
"
    ));
    space.kubectl("rollout status deployment/web --timeout=60s").done();
    for node in NODES {
        space.programmed("web", node, 3);
    }
}

fn sources(space: Space) -> Vec<Source> {
    let addr = |ip: String, port: String| -> SocketAddr { format!("{ip}:{port}").parse().expect("an address") };
    let cluster = addr(space.field("svc/web", ".spec.clusterIP"), "80".into());
    let node_port = addr("172.18.0.12".into(), space.field("svc/web", ".spec.ports[0].nodePort"));
    let pod = || Place::Pod { namespace: space.name.to_owned(), name: "shell".to_owned() };
    let place = |name: &str| name.parse::<Place>().expect("a place");
    let small = |name, place, node, target| Source { name, place, node, target, path: "/", slowly: false };
    vec![
        small("pod to ClusterIP", pod(), "node-1", cluster),
        small("node to ClusterIP", place("node-2"), "node-2", cluster),
        small("outside to NodePort", place("outside"), "node-2", node_port),
        Source { path: "/big", slowly: true, ..small("pod, slow download", pod(), "node-1", cluster) },
    ]
}

/// Waits until as many pods as wanted are ready, and no other is left.
fn settle(space: Space, replicas: usize) {
    space.kubectl("rollout status deployment/web --timeout=120s").done();
    wait_for(&format!("{replicas} pods and no other"), 60, || {
        let pods = space.json("pods -l app=web");
        let pods = pods["items"].as_array()?;
        let stays = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_null() && is_ready(pod);
        (pods.len() == replicas && pods.iter().all(stays)).then_some(())
    });
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn pods(space: Space) -> Vec<String> {
    let names = space.field("pods -l app=web", ".items[*].metadata.name");
    names.split_whitespace().map(str::to_owned).collect()
}

/// A change, and how many requests it saw.
fn change(load: &Load, what: &str, make: impl FnOnce()) {
    let (asked, failed, from) = (load.asked(), load.failed(), load.elapsed());
    make();
    wait_for("requests to go on", 60, || (load.asked() >= asked + ENOUGH).then_some(()));
    println!(
        "{:>7.2}s  {what}: {:.2} s, {} requests, {} failed",
        from.as_secs_f64(),
        (load.elapsed() - from).as_secs_f64(),
        load.asked() - asked,
        load.failed() - failed
    );
}

fn roll_out(space: Space, version: &str) {
    let patch =
        format!("{{\"spec\":{{\"template\":{{\"metadata\":{{\"annotations\":{{\"version\":\"{version}\"}}}}}}}}}}");
    space.kubectl_words(&["patch", "deployment", "web", "-p", &patch]).done();
    settle(space, 3);
}

fn scale(space: Space, replicas: usize) {
    space.kubectl(&format!("scale deployment web --replicas={replicas}")).done();
    settle(space, replicas);
}

fn delete(space: Space, names: &[String], replicas: usize) {
    space.kubectl(&format!("delete pod {}", names.join(" "))).done();
    settle(space, replicas);
}

fn all_changes(space: Space, load: &Load, round: usize) {
    for version in 1..=3 {
        change(load, &format!("rollout {version}"), || roll_out(space, &format!("{round}.{version}")));
    }
    for replicas in [6, 2, 3] {
        change(load, &format!("scaled to {replicas}"), || scale(space, replicas));
    }
    for name in pods(space) {
        change(load, "one pod deleted", || delete(space, &[name], 3));
    }
    change(load, "all pods but one deleted", || delete(space, &pods(space)[1..], 3));
    change(load, "all pods deleted at once", || delete(space, &pods(space), 3));
    change(load, "scaled to 1", || scale(space, 1));
    change(load, "the only pod deleted", || delete(space, &pods(space), 1));
    change(load, "scaled to 3", || scale(space, 3));
}

#[test]
fn no_request_fails_while_pods_come_and_go() {
    let (space, _turn) = space("rollout");
    deploy(space);
    space.shell("shell", "node-1");
    let rounds = std::env::var("PORTOLAN_ROLLOUT_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let load = Load::begin(space.world, sources(space));
    for round in 1..=rounds {
        all_changes(space, &load, round);
    }
    let took = load.elapsed();
    let (asked, failures) = load.end();
    println!("{asked} requests in {:.1} s, {} failed", took.as_secs_f64(), failures.len());
    failures.iter().for_each(|failure| println!("{failure}"));
    let events = space.kubectl("get events --field-selector reason=NotDrained").out;
    assert!(failures.is_empty(), "{} of {asked} requests failed, listed above; {events}", failures.len());
    assert_eq!(events, "", "every pod was free of traffic before it was told to stop");
}

/// Frozen by a signal, thawed whatever happens.
struct Frozen(&'static World, &'static str);

impl Frozen {
    fn agent(world: &'static World, unit: &'static str) -> Frozen {
        world.lab().signal(unit, libc::SIGSTOP).expect("frozen");
        Frozen(world, unit)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = self.0.lab().signal(self.1, libc::SIGCONT);
    }
}

#[test]
fn a_pod_is_held_while_the_rules_of_a_slow_node_still_send_to_it() {
    let (space, _turn) = space("slow");
    deploy(space);
    let on_1 = space.field("pods -l app=web", ".items[?(@.spec.nodeName==\"node-1\")].metadata.name");
    let pod = on_1.split_whitespace().next().expect("three pods on two nodes").to_owned();
    let cluster = format!("{}:80", space.field("svc/web", ".spec.clusterIP")).parse().expect("an address");
    let place = "node-2".parse::<Place>().expect("a place");
    let load = Load::begin(
        space.world,
        vec![Source { name: "slow node", place, node: "node-2", target: cluster, path: "/", slowly: false }],
    );
    let frozen = Frozen::agent(space.world, "agent-node-2");
    space.kubectl(&format!("delete pod {pod} --wait=false")).done();
    let seen = || space.json(&format!("pod {pod}"));
    wait_for("the pod to be shown as not ready", 30, || (!is_ready(&seen())).then_some(()));
    // A third of them goes to the pod, by rules that nobody can change now.
    let asked = load.asked();
    wait_for("requests from the slow node", 30, || (load.asked() >= asked + 2 * ENOUGH).then_some(()));
    let state = &seen()["status"]["containerStatuses"][0]["state"];
    assert!(state["running"].is_object(), "it was told to stop while node-2 sent to it: {state}");
    drop(frozen);
    settle(space, 3);
    let (asked, failures) = load.end();
    failures.iter().for_each(|failure| println!("{failure}"));
    assert!(failures.is_empty(), "{} of {asked} requests failed, listed above", failures.len());
    assert_eq!(space.kubectl("get events --field-selector reason=NotDrained").out, "");
}

#[test]
fn a_pod_that_nobody_replaces_is_not_kept_waiting() {
    let (space, _turn) = space("leaving");
    deploy(space);
    // Half of the grace time is what a pod may be held: 15 s of the default 30.
    let held = std::time::Duration::from_secs(15);
    let from = std::time::Instant::now();
    space.kubectl("scale deployment web --replicas=0").done();
    wait_for("all pods to end", 60, || pods(space).is_empty().then_some(()));
    let took = from.elapsed();
    println!("three pods ended {took:?} after the Deployment was scaled to 0");
    let events = space.kubectl("get events --field-selector reason=NotDrained").out;
    assert_eq!(events, "", "nothing was missing");
    assert!(took < held, "{took:?}");
}
