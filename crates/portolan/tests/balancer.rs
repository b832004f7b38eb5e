//! Ways in from the LAN: Services of type LoadBalancer without a cloud, with addresses of a pool that an elected node
//! answers for; host ports of pods.

mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};

use support::{Space, World, portolan_says, wait_for};

const LAB: &str = "t-balancer";
/// Two addresses beyond the LAN's own prefix, and one that it covers.
const POOLS: [&str; 2] = ["172.18.100.0/30", "172.18.0.224/32"];
const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];
/// Of the host outside, on the LAN.
const OUTSIDE: &str = "172.18.0.1";
/// A node's silence is noticed after 8 s; a loaded machine gets more.
const WITHIN_SECS: u64 = 60;
/// The pool is small: one test at a time has it.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn world() -> (&'static World, MutexGuard<'static, ()>) {
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let world = support::world_with(LAB, |config| {
        config.nodes = NODES.len();
        config.balancer_pools = POOLS.map(|pool| pool.parse().expect("a prefix")).to_vec();
    });
    (world, turn)
}

fn balancer(space: Space, name: &str, more: &str) {
    space.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}\n\
         spec: {{ type: LoadBalancer, selector: {{ app: web }}, ports: [{{ port: 80 }}]{more} }}\n"
    ));
}

fn external_ip(space: Space, name: &str) -> Option<String> {
    let said = space.field(&format!("svc/{name}"), ".status.loadBalancer.ingress[0].ip");
    Some(said).filter(|ip| !ip.is_empty())
}

fn await_ip(space: Space, name: &str) -> String {
    wait_for(&format!("an address of {name}"), 20, || external_ip(space, name))
}

fn fetch(world: &World, from: &str, address: &str) -> Option<i32> {
    world.at(from, &["curl", "-s", "-o", "/dev/null", "--max-time", "3", &format!("http://{address}/")]).code
}

fn await_answer(world: &World, from: &str, address: &str) {
    wait_for(&format!("{address} to answer {from}"), WITHIN_SECS, || {
        (fetch(world, from, address) == Some(0)).then_some(())
    });
}

/// Nodes that say that they answer for the address. One that is off says nothing.
fn answering(world: &World, address: &str) -> Vec<&'static str> {
    let says = |node: &&&str| {
        let status = world.node_status(node);
        let held = status["core"]["answersFor"].as_array().cloned().unwrap_or_default();
        held.iter().any(|one| one == address)
    };
    NODES.iter().filter(says).copied().collect()
}

fn await_answering(world: &World, address: &str, node: &str) {
    wait_for(&format!("{node} alone to answer for {address}"), WITHIN_SECS, || {
        (answering(world, address) == [node]).then_some(())
    });
}

/// The Ethernet address that `outside` sends to.
fn neighbour(world: &World, address: &str) -> String {
    let said = world.at("outside", &["ip", "neigh", "show", "to", address]).out;
    said.split_whitespace().skip_while(|word| *word != "lladdr").nth(1).unwrap_or_default().to_owned()
}

fn mac_of(world: &World, node: &str) -> String {
    let said = world.at(node, &["ip", "-o", "link", "show", "eth0"]).done();
    said.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).expect("an Ethernet link").to_owned()
}

/// One pod of `web` on each of these nodes.
fn web_on(space: Space, nodes: &[&str]) {
    for node in nodes {
        space.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: web-{node}, labels: {{ app: web }} }}\n\
             spec: {{ nodeName: {node}, terminationGracePeriodSeconds: 0,\n  \
             containers: [{{ name: main, image: \"nginx:latest\" }}] }}\n"
        ));
    }
    nodes.iter().for_each(|node| space.ready(&format!("web-{node}")));
}

/// A test's namespace, gone with all that is in it, addresses too, however the test ends.
struct Stage(Space);

impl Stage {
    fn new(world: &'static World, name: &'static str) -> Stage {
        Stage(world.space(name))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let Space { world, name } = self.0;
        // The next test says what it lacks.
        let _ = world.kubectl(&format!("delete namespace {name} --timeout=60s"));
    }
}

#[test]
fn outside_reaches_a_balancers_address_and_goes_on_when_the_node_that_answers_is_off() {
    let (world, _turn) = world();
    let stage = Stage::new(world, "failover");
    let space = stage.0;
    web_on(space, &NODES);
    balancer(space, "web", "");
    let address = await_ip(space, "web");
    assert_eq!(address, "172.18.100.1");
    let listed = space.kubectl("get svc web").done();
    assert!(listed.contains(&format!("LoadBalancer   {}", space.field("svc/web", ".spec.clusterIP"))), "{listed}");
    assert!(listed.contains(&address), "{listed}");
    await_answer(world, "outside", &address);
    NODES.iter().for_each(|node| await_answer(world, node, &address));
    let first = *answering(world, &address).first().expect("a node answers");
    assert_eq!(answering(world, &address), [first], "one node does");
    assert_eq!(neighbour(world, &address), mac_of(world, first));
    let said = world.portolan(&format!("node status --node {first}")).done();
    assert!(said.contains(&format!("answers on the LAN for {address}")), "{said}");
    ports_without_a_service_are_nobodys(world, &address);
    source_ranges_are_kept(world, space, &address);

    portolan_says(&format!("node stop {first} --name {LAB}")).done();
    let heir = wait_for("another node to take over", WITHIN_SECS, || answering(world, &address).first().copied());
    assert_ne!(heir, first);
    await_answer(world, "outside", &address);
    assert_eq!(neighbour(world, &address), mac_of(world, heir));
    for _ in 0..10 {
        assert_eq!(fetch(world, "outside", &address), Some(0), "the endpoint that is off is none any more");
    }
    portolan_says(&format!("node start {first} --name {LAB}")).done();
    await_answering(world, &address, first);
    await_answer(world, "outside", &address);
}

/// The node's own API listens at its own address and not at the balancer's.
fn ports_without_a_service_are_nobodys(world: &World, address: &str) {
    let is_refused = |to: &str| {
        let url = format!("http://{to}:10250/");
        let said = world.at("outside", &["curl", "-s", "--max-time", "4", &url]);
        matches!(said.code, Some(7 | 28)) // no connection; too long without one
    };
    assert!(!is_refused("172.18.0.11"), "the node listens");
    assert!(is_refused(address), "nobody listens at {address}");
}

fn source_ranges_are_kept(world: &World, space: Space, address: &str) {
    let allow = |range: &str| {
        let patch = format!("{{\"spec\":{{\"loadBalancerSourceRanges\":[{range}]}}}}");
        space.kubectl_words(&["patch", "svc", "web", "--type=merge", "-p", &patch]).done();
    };
    allow("\"192.0.2.0/24\"");
    wait_for("outside to be shut out", 20, || (fetch(world, "outside", address) == Some(28)).then_some(()));
    allow(&format!("\"{OUTSIDE}/32\""));
    await_answer(world, "outside", address);
    allow("");
    await_answer(world, "outside", address);
}

#[test]
fn under_policy_local_a_node_with_an_endpoint_answers_and_the_clients_address_is_kept() {
    let (world, _turn) = world();
    let stage = Stage::new(world, "local");
    let space = stage.0;
    web_on(space, &["node-2"]);
    balancer(space, "web", ", externalTrafficPolicy: Local");
    let port: u16 = space.field("svc/web", ".spec.healthCheckNodePort").parse().expect("a port");
    assert!((30000..=32767).contains(&port), "{port}");
    let address = await_ip(space, "web");
    await_answering(world, &address, "node-2");
    await_answer(world, "outside", &address);
    let log = space.kubectl("logs web-node-2").done();
    let requests: Vec<&str> = log.lines().filter(|line| line.contains("GET /")).collect();
    assert!(requests.iter().all(|line| line.starts_with(OUTSIDE)) && !requests.is_empty(), "{log}");

    // The agent dies; another one knows again what to answer for.
    world.lab().signal("agent-node-2", libc::SIGKILL).expect("it runs");
    world.at("outside", &["ip", "neigh", "flush", "dev", "eth0"]).done();
    await_answer(world, "outside", &address);

    space.kubectl("delete pod web-node-2 --now").done();
    wait_for("nobody to answer", WITHIN_SECS, || answering(world, &address).is_empty().then_some(()));
    assert_ne!(fetch(world, "outside", &address), Some(0));
    web_on(space, &["node-3"]);
    await_answering(world, &address, "node-3");
    await_answer(world, "outside", &address);
}

#[test]
fn who_finds_no_address_free_is_told_and_gets_one_when_it_frees() {
    let (world, _turn) = world();
    let stage = Stage::new(world, "exhausted");
    let space = stage.0;
    web_on(space, &["node-1"]);
    let mut given = Vec::new();
    for name in ["a", "b", "c"] {
        balancer(space, name, "");
        given.push(await_ip(space, name));
    }
    assert_eq!(given, ["172.18.100.1", "172.18.100.2", "172.18.0.224"]);
    given.iter().for_each(|address| await_answer(world, "outside", address));
    balancer(space, "d", "");
    let told = wait_for("an Event of d", 20, || {
        let said = space.kubectl("describe svc d").done();
        said.lines().find(|line| line.contains("AllocationFailed") && line.contains("Warning")).map(str::to_owned)
    });
    assert!(told.contains("no IPv4 address of the pool 172.18.100.0/30, 172.18.0.224/32 is free"), "{told}");
    assert!(space.kubectl("get svc d").done().contains("<pending>"));
    space.kubectl("delete svc b").done();
    assert_eq!(await_ip(space, "d"), "172.18.100.2");
    await_answer(world, "outside", "172.18.100.2");
    // Another type gives it back, and nobody answers for it.
    space.kubectl_words(&["patch", "svc", "a", "-p", "{\"spec\":{\"type\":\"ClusterIP\"}}"]).done();
    wait_for("the address to be given back", 20, || external_ip(space, "a").is_none().then_some(()));
    wait_for("nobody to answer", 20, || answering(world, "172.18.100.1").is_empty().then_some(()));
}

#[test]
fn a_pool_that_others_have_addresses_of_is_refused() {
    for (command, words) in [
        ("up --lb-pool 172.18.0.0/28 --name t-refused", ["--lb-pool 172.18.0.0/28", "172.18.0.1 of outside"]),
        ("up --lb-pool 10.244.1.0/24 --name t-refused", ["--lb-pool 10.244.1.0/24", "10.244.0.0/16 of pods"]),
        ("up --lb-pool fd18::/112 --name t-refused", ["--lb-pool fd18::/112", "IPv4 only"]),
        (
            "server --data-dir /nowhere --pki-dir /nowhere --advertise 127.0.0.1 --lb-pool 10.96.0.0/24",
            ["--lb-pool 10.96.0.0/24", "--service-cidr 10.96.0.0/12"],
        ),
    ] {
        let said = portolan_says(command).refused(2);
        assert!(words.iter().all(|word| said.contains(word)) && said.lines().count() == 1, "{command}: {said}");
    }
    portolan_says("up --lb-pool 172.18.100.0").refused(2);
}

#[test]
fn a_host_port_leads_to_its_pod_also_over_the_agents_death_and_no_longer_than_the_pod_lives() {
    let (world, _turn) = world();
    let stage = Stage::new(world, "hostport");
    let space = stage.0;
    space.shell("shell", "node-1");
    space.pod(
        "web",
        "node-2",
        ", ports: [{ containerPort: 80, hostPort: 8088 }]",
        ", terminationGracePeriodSeconds: 0",
    );
    space.ready("web");
    let from = |place: &str, to: &str| {
        let url = format!("http://{to}:8088/?{place}");
        world.at(place, &["curl", "-s", "-o", "/dev/null", "--max-time", "3", &url]).code
    };
    wait_for("the host port", 20, || (from("outside", "172.18.0.12") == Some(0)).then_some(()));
    let log = space.kubectl("logs web").done();
    let seen = log.lines().find(|line| line.contains("?outside")).expect("it was asked");
    assert!(seen.starts_with(OUTSIDE), "a pod sees who asked: {seen}");
    assert_eq!(from("node-1", "172.18.0.12"), Some(0), "another node");
    assert_eq!(from("node-2", "172.18.0.12"), Some(0), "its own node");
    assert_eq!(from("node-2", "127.0.0.1"), Some(0), "its own node, on loopback");
    for pod in ["shell", "web"] {
        let url = "http://172.18.0.12:8088/";
        let said = space.exec(pod, &["curl", "-s", "-o", "/dev/null", "--max-time", "3", url]);
        assert_eq!(said.code, Some(0), "a pod elsewhere, and the pod itself: {pod}");
    }
    assert_eq!(from("outside", "172.18.0.11"), Some(7), "the pod is on one node");

    let rules = || world.at("node-2", &["iptables-save", "-t", "nat"]).done().matches("CNI-DN-").count();
    let before = rules();
    assert!(before > 0);
    let pid = || world.lab().pid("agent-node-2").expect("the lab is up");
    let killed = pid();
    world.lab().signal("agent-node-2", libc::SIGKILL).expect("it runs");
    wait_for("another agent that has programmed the node", 40, || {
        assert_eq!(rules(), before, "no rule goes for a moment");
        let is_new = pid().is_some_and(|now| Some(now) != killed);
        (is_new && world.node_status("node-2")["core"]["programmed"] == true).then_some(())
    });
    assert_eq!(world.node_status("node-2")["core"]["chainsWritten"], 0, "it finds the rules as they should be");
    assert_eq!(from("outside", "172.18.0.12"), Some(0));

    space.kubectl("delete pod web").done();
    // Its process is gone before its link is.
    wait_for("the rules to go", 20, || (rules() == 0).then_some(()));
    assert_eq!(from("outside", "172.18.0.12"), Some(7), "the port is nobody's");
}
