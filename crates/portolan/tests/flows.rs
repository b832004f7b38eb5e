//! Who talks to whom, as the program tells it, beside what servers and conntrack themselves saw: `flows`, `top services`.

mod support;

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use support::{Space, World, portolan, wait_for};

const LAB: &str = "t-flows";
/// Of the lab's two nodes.
const NODES: [(&str, &str); 2] = [("node-1", "172.18.0.11"), ("node-2", "172.18.0.12")];
/// One test at a time: what they count is the whole lab's.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn world() -> (&'static World, MutexGuard<'static, ()>) {
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    (support::world(LAB), turn)
}

/// One pod of `web` and one client on each node, and a Service before the former.
fn stage(space: Space) -> String {
    for (node, _) in NODES {
        space.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: web-{node}, labels: {{ app: web }} }}\n\
             spec: {{ nodeName: {node}, terminationGracePeriodSeconds: 0,\n  \
             containers: [{{ name: main, image: \"nginx:latest\" }}] }}\n"
        ));
        space.shell(&format!("client-{node}"), node);
    }
    NODES.iter().for_each(|(node, _)| space.ready(&format!("web-{node}")));
    space.apply(
        "apiVersion: v1\nkind: Service\nmetadata: { name: web }\n\
         spec: { type: NodePort, selector: { app: web }, ports: [{ name: http, port: 80 }] }\n",
    );
    NODES.iter().for_each(|(node, _)| drop(space.programmed("web", node, 2)));
    space.field("svc/web", ".spec.clusterIP")
}

/// So many connections one after another from a pod.
fn ask(space: Space, pod: &str, times: usize, url: &str) {
    let script = format!("for i in $(seq {times}); do curl -sf -o /dev/null --max-time 5 '{url}' || exit 1; done");
    space.exec(pod, &["sh", "-c", &script]).done();
}

/// Requests with this tag, by the pod that served them, as nginx wrote them down.
fn served(space: Space, tag: &str, count: usize) -> BTreeMap<String, Vec<String>> {
    wait_for(&format!("{count} lines with {tag}"), 20, || {
        let of = |node: &str| {
            let log = space.kubectl(&format!("logs web-{node}")).done();
            log.lines().filter(|line| line.contains(tag)).map(str::to_owned).collect::<Vec<_>>()
        };
        let by_pod: BTreeMap<String, Vec<String>> =
            NODES.iter().map(|(node, _)| (format!("web-{node}"), of(node))).collect();
        (by_pod.values().map(Vec::len).sum::<usize>() == count).then_some(by_pod)
    })
}

fn told(world: &World, args: &str) -> Vec<Value> {
    let text = world.portolan(&format!("flows {args} --output json")).done();
    let told: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (told["schema"].as_str(), told["silent"].as_array().map(Vec::len)),
        (Some("portolan.flows/v1"), Some(0))
    );
    told["flows"].as_array().expect("a list").clone()
}

fn pod_of(who: &Value) -> String {
    who["pod"]["name"].as_str().unwrap_or_default().to_owned()
}

/// How many of these were told by client and endpoint.
fn by_ends(flows: &[Value]) -> BTreeMap<(String, String), usize> {
    let mut counts = BTreeMap::new();
    for flow in flows {
        let ends = (pod_of(&flow["client"]["who"]), pod_of(&flow["endpoint"]["who"]));
        *counts.entry(ends).or_default() += 1;
    }
    counts
}

#[test]
fn fifty_connections_are_told_once_each_with_the_names_that_the_servers_log_has() {
    let (world, _turn) = world();
    let space = world.space("fifty");
    let ip = stage(space);
    for (node, _) in NODES {
        ask(space, &format!("client-{node}"), 25, &format!("http://{ip}/?fifty"));
    }
    let log = served(space, "?fifty", 50);
    let flows = told(world, "svc/web -n fifty");
    assert_eq!(flows.len(), 50);
    let mut expected: BTreeMap<(String, String), usize> = BTreeMap::new();
    let addresses: BTreeMap<String, String> = NODES
        .iter()
        .map(|(node, _)| (space.field(&format!("pod/client-{node}"), ".status.podIP"), format!("client-{node}")))
        .collect();
    for (server, line) in log.iter().flat_map(|(server, lines)| lines.iter().map(move |line| (server, line))) {
        let client = &addresses[line.split(' ').next().unwrap_or_default()];
        *expected.entry((client.clone(), server.clone())).or_default() += 1;
    }
    assert_eq!(by_ends(&flows), expected, "as the access log has it");
    for flow in &flows {
        assert_eq!(flow["sentTo"]["service"]["service"]["name"], "web");
        assert_eq!(
            (&flow["sentTo"]["service"]["port"], &flow["sentTo"]["door"]),
            (&"http".into(), &"clusterIp".into())
        );
        let (client, server) = (&flow["client"]["who"]["node"], &flow["endpoint"]["who"]["node"]);
        assert_eq!(format!("client-{}", client.as_str().expect("a node")), pod_of(&flow["client"]["who"]));
        let nodes: Vec<&Value> = flow["nodes"].as_array().expect("nodes").iter().collect();
        let way = if client == server { vec![client] } else { vec![client, server] };
        assert_eq!(nodes, way, "the client's node first");
        // A pod's address is kept; the destination is rewritten where the client is.
        let nat = flow["nat"].as_array().expect("nat");
        assert_eq!((nat.len(), &nat[0]["node"], &nat[0]["source"]), (1, client, &Value::Null));
    }
    told_alike_from_every_side(world, space, &ip, &flows);
}

/// The same connections, asked for by pod and by node; and entry by entry beside the program `conntrack`.
fn told_alike_from_every_side(world: &World, space: Space, ip: &str, flows: &[Value]) {
    let of = |pick: &dyn Fn(&Value) -> bool| flows.iter().filter(|flow| pick(flow)).count();
    for (node, _) in NODES {
        let client = format!("client-{node}");
        let by_pod = told(world, &format!("pod/{client} -n {}", space.name));
        assert_eq!(by_pod.len(), of(&|flow| pod_of(&flow["client"]["who"]) == client), "{client}");
        let through = told(world, &format!("svc/{}/web --node {node}", space.name));
        let knows = |flow: &Value| flow["nodes"].as_array().is_some_and(|nodes| nodes.iter().any(|one| one == node));
        assert_eq!(through.len(), of(&knows), "{node}");
        assert!(
            through.iter().all(|flow| flow["sentTo"]["kind"] == "service"),
            "the other node says what it was sent to"
        );
        let listed = world.at(node, &["conntrack", "-L", "-p", "tcp", "-d", ip]).out;
        assert_eq!(listed.lines().filter(|line| line.contains("dport=80")).count(), by_pod.len(), "{listed}");
    }
    let text = world.portolan(&format!("flows svc/web -n {}", space.name)).done();
    let line = text.lines().find(|line| line.contains("client-node-1") && line.contains("web-node-2")).expect("a line");
    assert!(
        line.contains(&format!("{}/web:http {ip}:80", space.name)) && line.contains(&format!("node-1: to {ip}:80 →")),
        "{line}"
    );
}

#[test]
fn who_is_masqueraded_is_named_and_the_rewrite_is_said_on_the_node_that_did_it() {
    let (world, _turn) = world();
    let space = world.space("masqueraded");
    let ip = stage(space);
    let port = space.field("svc/web", ".spec.ports[0].nodePort");
    let until = |tag: &str, place: &str, url: &str| {
        // Chance decides where it goes: until one went to the other node.
        wait_for(&format!("{tag} to reach node-2"), 60, || {
            world.at(place, &["curl", "-sf", "-o", "/dev/null", "--max-time", "5", &format!("{url}/?{tag}")]).done();
            let flows = told(world, "svc/web -n masqueraded");
            flows.into_iter().find(|flow| {
                pod_of(&flow["endpoint"]["who"]) == "web-node-2"
                    && flow["client"]["who"]["kind"] == if place == "outside" { "outside" } else { "node" }
            })
        })
    };
    let flow = until("from-node", "node-1", &format!("http://{ip}"));
    assert_eq!(
        (&flow["client"]["who"]["name"], &flow["nodes"]),
        (&"node-1".into(), &serde_json::json!(["node-1", "node-2"]))
    );
    assert_eq!(flow["nat"][0]["node"], "node-1");
    assert!(flow["nat"][0]["source"].is_array(), "its source port is rewritten with it: {flow:#}");
    let flow = until("from-outside", "outside", &format!("http://172.18.0.11:{port}"));
    assert_eq!(flow["client"]["at"].as_str().map(|at| at.starts_with("172.18.0.1:")), Some(true), "{flow:#}");
    assert_eq!(
        (&flow["sentTo"]["door"], &flow["nodes"]),
        (&"nodePort".into(), &serde_json::json!(["node-1", "node-2"]))
    );
    let seen = flow["nat"][0]["source"][1].as_str().expect("masqueraded").to_owned();
    assert!(seen.starts_with("172.18.0.11:"), "{seen}");
    let listed = world.at("node-2", &["conntrack", "-L", "-p", "tcp"]).out;
    let (addr, port) = seen.split_once(':').expect("an address and a port");
    assert!(
        listed.lines().any(|line| line.contains(&format!("src={addr}")) && line.contains(&format!("sport={port} "))),
        "{listed}"
    );
    // Asked by the pod that answers, the client is found all the same.
    let by_pod = told(world, "pod/web-node-2 -n masqueraded");
    assert!(by_pod.iter().any(|one| one["client"] == flow["client"]), "{by_pod:#?}");
}

#[test]
fn datagrams_and_connections_without_a_service_are_told_too() {
    let (world, _turn) = world();
    let space = world.space("direct");
    space.shell("client-node-1", "node-1");
    // Headless: nobody rewrites what goes to a pod.
    space.pod("web", "node-2", "", ", terminationGracePeriodSeconds: 0");
    space.ready("web");
    space.apply("apiVersion: v1\nkind: Service\nmetadata: { name: web }\nspec: { clusterIP: None, selector: { app: web }, ports: [{ port: 80 }] }\n");
    wait_for("its name", 20, || {
        space
            .exec("client-node-1", &["curl", "-sf", "-o", "/dev/null", "--max-time", "5", "http://web/"])
            .ok()
            .then_some(())
    });
    let direct = told(world, "pod/client-node-1 -n direct");
    let flow = direct.iter().find(|flow| pod_of(&flow["endpoint"]["who"]) == "web").expect("it is told");
    assert_eq!(
        (&flow["sentTo"]["kind"], &flow["nat"], &flow["nodes"]),
        (&"itself".into(), &serde_json::json!([]), &serde_json::json!(["node-1", "node-2"]))
    );
    assert!(told(world, "svc/web -n direct").is_empty(), "nothing is sent to a headless Service itself");
    // UDP, by a Service before the nodes' own DNS.
    space.apply("apiVersion: v1\nkind: Service\nmetadata: { name: names }\nspec: { ports: [{ port: 5353, targetPort: 53, protocol: UDP }] }\n");
    space.apply(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: { name: names-own, labels: { kubernetes.io/service-name: names } }\naddressType: IPv4\n\
         endpoints: [{ addresses: [172.18.0.12], conditions: { ready: true } }]\nports: [{ port: 53, protocol: UDP }]\n",
    );
    let ip = space.field("svc/names", ".spec.clusterIP");
    wait_for("an answer", 20, || {
        space
            .exec(
                "client-node-1",
                &["drill", "-p", "5353", &format!("@{ip}"), "kubernetes.default.svc.cluster.local", "A"],
            )
            .out
            .contains("10.96.0.1")
            .then_some(())
    });
    let flows = told(world, "svc/names -n direct");
    let flow = flows.iter().find(|flow| flow["answered"] == true).expect("an answered one");
    assert_eq!(
        (&flow["proto"], &flow["state"], &flow["endpoint"]["who"]["name"]),
        (&"Udp".into(), &Value::Null, &"node-2".into())
    );
    assert_eq!(pod_of(&flow["client"]["who"]), "client-node-1");
}

/// One round of `top`, while `work` is done in the middle of it.
fn counted(world: &World, of: &str, work: impl FnOnce()) -> Value {
    let mut command = portolan();
    command.env("KUBECONFIG", world.lab().kubeconfig()).args([
        "top",
        "services",
        "--interval",
        "15s",
        "--once",
        "--output",
        "json",
    ]);
    let counting = command.args(of.split_whitespace()).stdout(Stdio::piped()).spawn().expect("it starts");
    // It counts from when every node listens.
    for (node, _) in NODES {
        wait_for("a listener", 14, || {
            let groups = world.at(node, &["cat", "/proc/net/netlink"]).out;
            groups.lines().any(is_listening).then_some(())
        });
    }
    work();
    let said = counting.wait_with_output().expect("it ends");
    serde_json::from_slice(&said.stdout).expect("JSON")
}

/// A line of /proc/net/netlink: a socket of protocol 12 (netfilter) in group 1 (new flows) alone.
fn is_listening(line: &str) -> bool {
    let fields: Vec<&str> = line.split_whitespace().collect();
    fields.get(1) == Some(&"12") && fields.get(3) == Some(&"00000001")
}

#[test]
fn new_connections_are_counted_exactly_by_service_and_endpoint() {
    let (world, _turn) = world();
    let space = world.space("counted");
    let ip = stage(space);
    let before = rules_counted(world, &ip);
    let told = counted(world, "", || {
        ask(space, "client-node-1", 12, &format!("http://{ip}/?counted"));
        ask(space, "client-node-2", 8, &format!("http://{ip}/?counted"));
    });
    let log = served(space, "?counted", 20);
    assert_eq!(rules_counted(world, &ip) - before, 20, "the rules of KUBE-SERVICES have seen as many");
    assert_eq!((&told["schema"], &told["exact"]), (&"portolan.top/v1".into(), &true.into()), "{told:#}");
    let of = |service: &Value| service["service"]["service"]["namespace"] == "counted";
    let services = told["services"].as_array().expect("a list");
    let web = services.iter().find(|service| of(service)).expect("it is told");
    assert_eq!((&web["newConnections"], &web["service"]["port"]), (&20.into(), &"http".into()), "{web:#}");
    for endpoint in web["endpoints"].as_array().expect("a list") {
        let served = log[&pod_of(&endpoint["endpoint"]["who"])].len();
        assert_eq!(endpoint["newConnections"], served, "{web:#}");
        assert!((endpoint["share"].as_f64().expect("a share") - served as f64 / 20.0).abs() < 1e-9, "{web:#}");
    }
    let seconds = told["intervalUs"].as_f64().expect("a time") / 1e6;
    let rate = web["perSecond"].as_f64().expect("a rate");
    assert!(seconds >= 15.0 && rate <= 20.0 / 15.0 + 1e-9 && rate >= 20.0 / seconds - 1e-9, "{rate}/s in {seconds} s");
    open_ones_are_open(world, space, &ip);
}

/// Packets that the rules for this ClusterIP counted on all nodes; NAT rules see a flow's first packet alone.
fn rules_counted(world: &World, ip: &str) -> u64 {
    let of = |node: &str| {
        let listed = world.at(node, &["iptables", "-t", "nat", "-nvxL", "KUBE-SERVICES"]).done();
        let rules = listed.lines().filter(|line| line.contains(&format!(" {ip} ")) && line.contains("dpt:80"));
        rules.filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok()).sum::<u64>()
    };
    NODES.iter().map(|(node, _)| of(node)).sum()
}

/// Two that are held open, among many that are over.
fn open_ones_are_open(world: &World, space: Space, ip: &str) {
    // curl's telnet sends nothing and waits; nginx closes after a minute.
    let hold = format!("for i in 1 2; do sleep 3600 | curl -s telnet://{ip}:80 & done; wait");
    let mut command = world.kubectl_command();
    command.args(["-n", space.name, "exec", "client-node-1", "--", "sh", "-c", &hold]);
    let mut holding = command.spawn().expect("kubectl starts");
    wait_for("two open connections", 30, || {
        let said =
            world.portolan(&format!("top services svc/{}/web --interval 50ms --once --output json", space.name)).done();
        let told: Value = serde_json::from_str(&said).expect("JSON");
        (told["services"][0]["open"] == 2).then_some(())
    });
    holding.kill().expect("it ran");
    holding.wait().expect("it ended");
}

#[test]
fn a_watch_shows_a_connection_come_and_questions_about_nothing_are_refused() {
    let (world, _turn) = world();
    let space = world.space("watched");
    let ip = stage(space);
    let mut command = portolan();
    command.env("KUBECONFIG", world.lab().kubeconfig()).args(["flows", "svc/watched/web", "--watch"]);
    let mut watching = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let lines = std::io::BufRead::lines(std::io::BufReader::new(watching.stdout.take().expect("piped")));
    ask(space, "client-node-1", 1, &format!("http://{ip}/"));
    let first = lines.map(|line| line.expect("text")).find(|line| line.starts_with('+')).expect("it is shown");
    assert!(
        first.starts_with("+ tcp watched/client-node-1:")
            && first.contains(&format!("→ watched/web:http {ip}:80 → watched/web-node-")),
        "{first}"
    );
    watching.kill().expect("it runs");
    watching.wait().expect("it ended");

    let missing = world.portolan("flows svc/wbe -n watched").refused(1);
    assert!(missing.contains("no Service watched/wbe; did you mean watched/web?"), "{missing}");
    assert!(world.portolan("flows pod/nobody").refused(1).contains("no Pod default/nobody"));
    let missing = world.portolan("flows --node node-9").refused(1);
    assert!(missing.contains("no node node-9; there are node-1, node-2"), "{missing}");
    assert!(world.portolan("flows svc/web:80").refused(2).contains("ports cannot be picked"));
    assert!(world.portolan("top services --interval 0s").refused(2).contains("it is a time from"));
    assert!(world.portolan("top services pod/web").refused(2).contains("only a Service can be picked"));
}

#[test]
fn a_node_whose_agent_is_gone_is_named_and_the_others_are_told() {
    let (world, _turn) = world();
    let space = world.space("silent");
    let ip = stage(space);
    let back = Back;
    support::portolan_says(&format!("node stop node-2 --name {LAB}")).done();
    wait_for("an answer", 60, || {
        let said = space
            .exec("client-node-1", &["curl", "-sf", "-o", "/dev/null", "--max-time", "3", &format!("http://{ip}/")]);
        said.ok().then_some(())
    });
    let said = world.portolan("flows svc/silent/web");
    assert_eq!(said.code, Some(0));
    assert!(said.out.contains("silent/web-node-1:80 (node-1)"), "{}", said.out);
    assert!(said.out.contains("node-2 does not answer, so its connections are missing: "), "{}", said.out);
    let told: Value =
        serde_json::from_str(&world.portolan("top services --interval 100ms --once --output json").done())
            .expect("JSON");
    assert_eq!((&told["exact"], &told["silent"][0]["node"]), (&false.into(), &"node-2".into()));
    assert!(world.portolan("flows --node node-2").refused(1).contains("node-2: "));
    drop(back);
    wait_for("node-2 to answer again", 60, || world.portolan("flows --node node-2").ok().then_some(()));
}

/// Starts node-2 again, however the test ends.
struct Back;

impl Drop for Back {
    fn drop(&mut self) {
        // The tests that come next say what they lack.
        let _ = support::portolan_says(&format!("node start node-2 --name {LAB}"));
    }
}
