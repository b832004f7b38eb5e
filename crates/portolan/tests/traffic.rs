//! Packets through Services in a lab of two nodes: what answers, what is refused, and as whom a packet arrives.

mod support;

use support::{Space, wait_for};

fn space(name: &'static str) -> Space {
    support::world("t-traffic").space(name)
}

/// One request from a pod: curl's exit code and the body.
fn fetch(space: Space, pod: &str, url: &str) -> (Option<i32>, String) {
    let said = space.exec(pod, &["curl", "-s", "--max-time", "3", url]);
    (said.code, said.out)
}

fn service(space: Space, name: &str, spec: &str) -> String {
    space.apply(&format!("apiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec: {spec}\n"));
    space.field(&format!("svc/{name}"), ".spec.clusterIP")
}

/// Lines of a pod's access log that have this tag.
fn hits(space: Space, pod: &str, tag: &str) -> Vec<String> {
    let log = space.kubectl(&format!("logs {pod}")).done();
    log.lines().filter(|line| line.contains(tag)).map(str::to_owned).collect()
}

#[test]
fn a_service_without_endpoints_refuses_at_once_from_everywhere() {
    const REFUSED: Option<i32> = Some(7);
    let space = space("refused");
    space.shell("shell", "node-1");
    let cluster_ip = service(space, "nobody", "{ type: NodePort, selector: { app: nobody }, ports: [{ port: 80 }] }");
    let node_port = space.field("svc/nobody", ".spec.ports[0].nodePort");
    wait_for("the rule that refuses", 10, || {
        let saved = space.world.at("node-1", &["iptables-save", "-t", "filter"]).out;
        saved.contains("refused/nobody has no endpoints").then_some(())
    });
    // One second is no time for a connection that nobody answers: curl would end with 28.
    let from = |place: &str, url: &str| space.world.at(place, &["curl", "-s", "--max-time", "1", url]).code;
    assert_eq!(fetch(space, "shell", &format!("http://{cluster_ip}/")).0, REFUSED, "from a pod");
    for place in ["node-1", "node-2", "outside"] {
        assert_eq!(from(place, &format!("http://{cluster_ip}/")), REFUSED, "from {place} to the ClusterIP");
        assert_eq!(from(place, &format!("http://172.18.0.11:{node_port}/")), REFUSED, "from {place} to the node port");
    }
    // With an endpoint the same address answers.
    space.pod("nobody", "node-2", "", "");
    space.programmed("nobody", "node-1", 1);
    assert_eq!(fetch(space, "shell", &format!("http://{cluster_ip}/")).0, Some(0));
}

#[test]
fn a_headless_service_has_no_rule_and_names_every_pod() {
    let space = space("headless");
    space.deployment("web", 2);
    service(space, "web", "{ clusterIP: None, selector: { app: web }, ports: [{ name: http, port: 80 }] }");
    space.shell("shell", "node-1");
    let addresses = wait_for("two endpoints", 10, || Some(space.endpoints("web")).filter(|list| list.len() == 2));
    let drilled = |name: &str, kind: &str| space.exec("shell", &["drill", name, kind]).out;
    wait_for("both addresses in DNS", 10, || {
        let said = drilled("web.headless.svc.cluster.local", "A");
        addresses.iter().all(|address| said.contains(address)).then_some(())
    });
    let srv = drilled("_http._tcp.web.headless.svc.cluster.local", "SRV");
    assert!(
        addresses.iter().all(|a| srv.contains(&format!("{}.web.headless.svc.cluster.local.", a.replace('.', "-")))),
        "{srv}"
    );
    assert_eq!(fetch(space, "shell", "http://web/").0, Some(0), "a pod finds it by its short name");
    assert!(!space.world.at("node-1", &["iptables-save"]).done().contains("headless/"));
}

#[test]
fn a_pod_that_fails_its_readiness_probe_leaves_the_service_until_it_passes() {
    let space = space("ready");
    let (more, reload) = ("/etc/nginx/conf.d/more.conf", "nginx -s reload");
    let probes = [
        (
            "by-http",
            "httpGet: { path: /ready, port: 80 }",
            "touch /usr/share/nginx/html/ready",
            "rm /usr/share/nginx/html/ready",
        ),
        (
            "by-tcp",
            "tcpSocket: { port: 8080 }",
            &format!("echo 'server {{ listen 8080; }}' > {more}; {reload}"),
            &format!("rm {more}; {reload}"),
        ),
    ];
    for (name, probe, _, _) in probes {
        let container =
            format!(", readinessProbe: {{ {probe}, periodSeconds: 1, failureThreshold: 1, successThreshold: 1 }}");
        space.pod(name, "node-2", &container, "");
        service(space, name, &format!("{{ selector: {{ app: {name} }}, ports: [{{ port: 80 }}] }}"));
    }
    space.shell("shell", "node-1");
    for (name, _, pass, fail) in probes {
        wait_for("the container runs", 20, || {
            (space.field(&format!("pod/{name}"), ".status.phase") == "Running").then_some(())
        });
        assert_eq!(space.endpoints(name), [""; 0], "{name} is not ready yet");
        let ip = space.field(&format!("svc/{name}"), ".spec.clusterIP");
        assert_eq!(fetch(space, "shell", &format!("http://{ip}/")).0, Some(7), "{name}: nobody is ready");
        space.exec(name, &["sh", "-c", pass]).done();
        space.programmed(name, "node-1", 1);
        assert_eq!(fetch(space, "shell", &format!("http://{ip}/")).0, Some(0), "{name} is ready");
        space.exec(name, &["sh", "-c", fail]).done();
        space.programmed(name, "node-1", 0);
        wait_for("it is refused again", 5, || {
            (fetch(space, "shell", &format!("http://{ip}/")).0 == Some(7)).then_some(())
        });
        let restarts = space.field(&format!("pod/{name}"), ".status.containerStatuses[0].restartCount");
        assert_eq!(restarts, "0", "readiness restarts nothing");
    }
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let space = space("hairpin");
    space.pod("web", "node-1", "", "");
    let ip = service(space, "web", "{ selector: { app: web }, ports: [{ port: 80 }] }");
    space.programmed("web", "node-1", 1);
    assert_eq!(fetch(space, "web", &format!("http://{ip}/?itself")).0, Some(0));
    let seen = wait_for("the log", 5, || hits(space, "web", "?itself").pop());
    let own = space.field("pod/web", ".status.podIP");
    assert!(!seen.starts_with(&own), "masqueraded, or the answer would never pass the node again: {seen}");
}

#[test]
fn a_host_network_pod_is_an_endpoint_with_its_nodes_address() {
    let space = space("hostnet");
    // Port 80 of the node is the pod's own.
    space.pod("web", "node-2", "", ", hostNetwork: true");
    let ip = service(space, "web", "{ selector: { app: web }, ports: [{ port: 80 }] }");
    space.shell("shell", "node-1");
    assert_eq!(space.programmed("web", "node-1", 1), ["172.18.0.12"]);
    let (code, body) = fetch(space, "shell", &format!("http://{ip}/?host"));
    assert_eq!(code, Some(0));
    assert!(body.contains("Welcome to nginx!"), "{body}");
    assert_eq!(wait_for("the log", 5, || Some(hits(space, "web", "?host")).filter(|h| !h.is_empty())).len(), 1);
    // Gone before another test wants the node's port.
    space.kubectl("delete pod web").done();
}

#[test]
fn what_a_pod_sends_out_of_the_cluster_has_its_nodes_address_and_inside_its_own() {
    let space = space("egress");
    space.pod("web", "node-2", "", "");
    space.shell("shell", "node-1");
    space.ready("web");
    let (code, page) = fetch(space, "shell", "http://172.18.0.1/");
    assert_eq!(code, Some(0));
    assert!(page.contains("client=172.18.0.11"), "outside sees the node: {page}");
    let (own, web) = (space.field("pod/shell", ".status.podIP"), space.field("pod/web", ".status.podIP"));
    assert_eq!(fetch(space, "shell", &format!("http://{web}/?inside")).0, Some(0));
    let seen = wait_for("the log", 5, || hits(space, "web", "?inside").pop());
    assert!(seen.starts_with(&own), "another pod sees the pod: {seen}");
    // And through the Service too.
    let ip = service(space, "web", "{ selector: { app: web }, ports: [{ port: 80 }] }");
    space.programmed("web", "node-1", 1);
    assert_eq!(fetch(space, "shell", &format!("http://{ip}/?service")).0, Some(0));
    let seen = wait_for("the log", 5, || hits(space, "web", "?service").pop());
    assert!(seen.starts_with(&own), "{seen}");
}

#[test]
fn a_udp_service_carries_datagrams_both_ways() {
    let space = space("udp");
    // Each node's DNS answers on the node's address too: a UDP server that is no pod, behind a Service without selector.
    let ip = service(space, "names", "{ ports: [{ port: 5353, targetPort: 53, protocol: UDP }] }");
    space.apply(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: { name: names-own, labels: { kubernetes.io/service-name: names } }\naddressType: IPv4\n\
         endpoints: [{ addresses: [172.18.0.12], conditions: { ready: true } }]\nports: [{ port: 53, protocol: UDP }]\n",
    );
    space.shell("shell", "node-1");
    wait_for("its rule", 10, || {
        let saved = space.world.at("node-1", &["iptables-save", "-t", "nat"]).out;
        saved
            .lines()
            .any(|line| line.contains("udp/names") && line.contains("--to-destination 172.18.0.12:53"))
            .then_some(())
    });
    let asked = ["-p", "5353", &format!("@{ip}"), "kubernetes.default.svc.cluster.local", "A"];
    let words: Vec<&str> = ["drill"].iter().chain(&asked).copied().collect();
    let said = space.exec("shell", &words).done();
    assert!(said.contains("10.96.0.1") && said.contains(&format!("SERVER: {ip}")), "{said}");
    let tracked = space.world.at("node-1", &["conntrack", "-L", "-p", "udp", "-d", &ip]).out;
    assert!(tracked.contains("src=172.18.0.12"), "one flow, rewritten both ways: {tracked}");
}

#[test]
fn a_node_port_answers_on_each_node_also_without_a_pod_of_it() {
    let space = space("nodeport");
    space.pod("web", "node-2", "", "");
    service(space, "web", "{ type: NodePort, selector: { app: web }, ports: [{ port: 80 }] }");
    let port = space.field("svc/web", ".spec.ports[0].nodePort");
    for (node, address) in [("node-1", "172.18.0.11"), ("node-2", "172.18.0.12")] {
        space.programmed("web", node, 1);
        let url = format!("http://{address}:{port}/?{node}");
        space.world.at("outside", &["curl", "-sf", "--max-time", "3", &url]).done();
        let seen = wait_for("the log", 5, || hits(space, "web", &format!("?{node}")).pop());
        let as_whom = seen.split(' ').next().unwrap_or_default();
        assert_ne!(as_whom, "172.18.0.1", "masqueraded, so that the answer comes back through {node}: {seen}");
    }
}
