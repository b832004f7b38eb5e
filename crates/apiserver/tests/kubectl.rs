//! What a user types, against a real server: the walk's commands and the bad input.

mod common;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use common::{command, kubectl_with, world};

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: { name: web, labels: { app: web } }
spec:
  replicas: 2
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      containers:
      - name: nginx
        image: nginx:latest
        ports: [{ name: http, containerPort: 80 }]
---
apiVersion: v1
kind: Service
metadata: { name: web }
spec:
  selector: { app: web }
  ports: [{ name: http, port: 80 }]
"#;

#[test]
fn discovery_and_version_satisfy_kubectl() {
    let world = world();
    let version = world.kubectl("version");
    assert!(version.err.is_empty(), "no warning about the versions' distance: {}", version.err);
    assert!(version.done().contains("Server Version: v1.33."));
    let resources = world.kubectl("api-resources").done();
    for line in ["pods po v1 true Pod", "deployments deploy apps/v1 true Deployment", "nodes no v1 false Node"] {
        let found = resources.lines().any(|said| said.split_whitespace().collect::<Vec<_>>().join(" ") == line);
        assert!(found, "{line} in\n{resources}");
    }
    assert!(world.kubectl("explain deployment.spec.strategy").done().contains("rollingUpdate"));
    assert_eq!(world.kubectl("get --raw /readyz").done(), "ok");
}

#[test]
fn every_cluster_has_its_namespaces_and_the_kubernetes_service() {
    let world = world();
    let names = world.field("namespaces", ".items[*].metadata.name");
    assert_eq!(names, "default kube-node-lease kube-public kube-system");
    assert_eq!(world.field("service/kubernetes", ".spec.clusterIP"), "10.96.0.1");
    assert_eq!(world.field("endpoints/kubernetes", ".subsets[0].ports[0].port"), "6443");
    assert_eq!(world.field("endpointslice/kubernetes", ".endpoints[0].addresses[0]"), "192.0.2.10");
}

#[test]
fn apply_creates_changes_and_leaves_alone() {
    let world = world();
    let first = world.kubectl_in("apply -f -", WEB).done();
    assert_eq!(first, "deployment.apps/web created\nservice/web created\n");
    let again = world.kubectl_in("apply -f -", WEB).done();
    assert_eq!(again, "deployment.apps/web unchanged\nservice/web unchanged\n");
    let generation = world.field("deploy/web", ".metadata.generation");
    assert_eq!(generation, "1");
    let changed = WEB.replace("replicas: 2", "replicas: 3").replace("containerPort: 80", "containerPort: 8080");
    assert_eq!(
        world.kubectl_in("apply -f -", &changed).done(),
        "deployment.apps/web configured\nservice/web unchanged\n"
    );
    assert_eq!(world.field("deploy/web", ".spec.replicas"), "3");
    assert_eq!(world.field("deploy/web", ".spec.template.spec.containers[0].ports[*].containerPort"), "8080");
    assert_eq!(world.field("deploy/web", ".metadata.generation"), "2");
    // What the server filled in stays through an apply.
    let ip = world.field("svc/web", ".spec.clusterIP");
    assert!(ip.starts_with("10."), "{ip}");
    let dry = world.kubectl_in("apply --dry-run=server -f -", &WEB.replace("replicas: 2", "replicas: 9")).done();
    assert!(dry.contains("configured (server dry run)"), "{dry}");
    assert_eq!(world.field("deploy/web", ".spec.replicas"), "3");
}

#[test]
fn get_shows_the_columns_users_know() {
    let world = world();
    world.kubectl_in("apply -f -", WEB).done();
    let columns = |args: &str| {
        let out = world.kubectl(args).done();
        out.lines()
            .next()
            .unwrap_or_default()
            .split("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .collect::<Vec<_>>()
            .join("|")
    };
    assert_eq!(columns("get svc"), "NAME|TYPE|CLUSTER-IP|EXTERNAL-IP|PORT(S)|AGE");
    assert_eq!(columns("get deploy -o wide"), "NAME|READY|UP-TO-DATE|AVAILABLE|AGE|CONTAINERS|IMAGES|SELECTOR");
    let line = world.kubectl("get deploy web --no-headers").done();
    assert!(line.starts_with("web   0/2   0     0     "), "{line}");
    let wide = world.kubectl("get svc web -o wide --no-headers").done();
    assert!(wide.contains("ClusterIP") && wide.contains("80/TCP") && wide.contains("app=web"), "{wide}");
    assert!(world.kubectl("get all").done().contains("deployment.apps/web"));
    assert!(world.kubectl("get deploy web -o yaml").done().contains("image: nginx:latest"));
    assert!(world.kubectl("get pods").err.contains("No resources found in default namespace."));
    assert!(
        world.kubectl("get pod nothing").refused().contains("Error from server (NotFound): pods \"nothing\" not found")
    );
}

#[test]
fn describe_label_scale_expose_and_create_work() {
    let world = world();
    world.kubectl("create deployment web --image=nginx:latest --port=80 --replicas=2").done();
    assert_eq!(world.field("deploy/web", ".spec.template.spec.containers[0].ports[0].containerPort"), "80");
    world.kubectl("scale deployment web --replicas=5").done();
    assert_eq!(world.field("deploy/web", ".spec.replicas"), "5");
    world.kubectl("label deployment web tier=front").done();
    assert_eq!(world.kubectl("get deploy -l tier=front,app!=db -o name").done(), "deployment.apps/web\n");
    assert_eq!(world.kubectl("get deploy -l tier=back -o name").done(), "");
    world.kubectl("expose deployment web --type=NodePort").done();
    assert_eq!(world.field("svc/web", ".spec.selector.app"), "web");
    let port: u16 = world.field("svc/web", ".spec.ports[0].nodePort").parse().expect("a port");
    assert!((30000..=32767).contains(&port));
    let text = world.kubectl("describe svc web").done();
    assert!(text.contains("NodePort:") && text.contains("10."), "{text}");
    assert!(world.kubectl("describe deploy web").done().contains("Image:"));
    world.kubectl("create namespace other").done();
    world.kubectl("create configmap c --from-literal=a=b -n other").done();
    assert_eq!(world.field("cm/c -n other", ".data.a"), "b");
    world.kubectl("create secret generic s --from-literal=a=b -n other").done();
    assert_eq!(world.field("secret/s -n other", ".data.a"), "Yg==");
    world.kubectl("create serviceaccount robot -n other").done();
    world.kubectl("create service clusterip direct --tcp=80:8080").done();
    assert_eq!(world.field("svc/direct", ".spec.ports[0].targetPort"), "8080");
    world.kubectl("annotate svc direct note=x").done();
    world.kubectl("set image deploy/web nginx=nginx:1").done();
    assert_eq!(world.field("deploy/web", ".spec.template.spec.containers[*].image"), "nginx:1");
    world.kubectl("rollout restart deploy/web").done();
    assert!(world.field("deploy/web", ".spec.template.metadata.annotations").contains("restartedAt"));
}

#[test]
fn bad_input_is_refused_in_kubernetes_words_and_nothing_is_stored() {
    let world = world();
    let service = |spec: &str| format!("apiVersion: v1\nkind: Service\nmetadata: {{ name: bad }}\nspec: {spec}\n");
    let held = "{ type: NodePort, clusterIP: 10.96.0.77, ports: [{ port: 80, nodePort: 30080 }] }";
    world.kubectl_in("create -f -", &service(held).replace("bad", "holder")).done();
    let before = world.json("svc,deploy,pod -A")["items"].as_array().map(Vec::len);
    for (input, expected) in [
        ("kind: [".to_owned(), "error converting YAML to JSON"),
        (
            service("{ ports: [{ port: 0 }] }"),
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            service("{ ports: [{ port: 70000 }] }"),
            "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (service("{ ports: [{ port: 80 }], colour: red }"), "unknown field \"spec.colour\""),
        (
            service("{ type: NodePort, ports: [{ port: 80, nodePort: 80 }] }"),
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767",
        ),
        (
            service("{ type: NodePort, ports: [{ port: 80, nodePort: 30080 }] }"),
            "spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated",
        ),
        (
            service("{ clusterIP: 10.96.0.77, ports: [{ port: 80 }] }"),
            "failed to allocate IP 10.96.0.77: provided IP is already allocated",
        ),
        (
            service("{ clusterIP: 10.200.0.1, ports: [{ port: 80 }] }"),
            "the provided IP (10.200.0.1) is not in the valid range. The range of valid IPs is 10.96.0.0/12",
        ),
        (service("{ ports: [{ port: 80 }] }").replace("bad", "Bad_Name"), "metadata.name: Invalid value: \"Bad_Name\""),
        (service("{ type: ExternalName }"), "spec.externalName: Required value"),
        (
            service("{ ports: [{ port: 80 }] }").replace("{ name: bad }", "{ name: bad, namespace: nowhere }"),
            "namespaces \"nowhere\" not found",
        ),
        (
            WEB.replace("matchLabels: { app: web }", "matchLabels: { app: other }").replace("name: web", "name: bad"),
            "`selector` does not match template `labels`",
        ),
        (
            "apiVersion: v1\nkind: Deployment\nmetadata: { name: bad }\n".to_owned(),
            "no matches for kind \"Deployment\" in version \"v1\"",
        ),
    ] {
        let said = world.kubectl_in("create -f -", &input).refused();
        assert!(said.contains(expected), "{input}\nexpected: {expected}\nsaid: {said}");
        // The second document of WEB is good and is stored by the same command.
        drop(world.kubectl("delete svc bad --ignore-not-found"));
    }
    assert_eq!(world.json("svc,deploy,pod -A")["items"].as_array().map(Vec::len), before, "nothing is stored");
}

#[test]
fn an_unknown_field_is_dropped_with_a_warning_where_the_user_wants_no_more() {
    let world = world();
    let input =
        "apiVersion: v1\nkind: Service\nmetadata: { name: a }\nspec: { ports: [{ port: 80, size: 1 }], colour: red }\n";
    let said = world.kubectl_in("create --validate=warn -f -", input);
    assert!(said.err.contains("Warning: unknown field \"spec.colour\""), "{}", said.err);
    assert!(said.err.contains("Warning: unknown field \"spec.ports[0].size\""), "{}", said.err);
    said.done();
    let stored = world.kubectl("get svc a -o json").done();
    assert!(!stored.contains("colour") && !stored.contains("size"), "{stored}");
}

#[test]
fn of_many_who_want_the_same_port_one_gets_it_and_free_choices_never_meet() {
    let world = world();
    let service =
        |name: &str, spec: &str| format!("apiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec: {spec}\n");
    let same = "{ type: NodePort, ports: [{ port: 80, nodePort: 30080 }] }";
    let taken = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..6)
            .map(|at| {
                let (world, text) = (&world, service(&format!("same-{at}"), same));
                scope.spawn(move || world.kubectl_in("create --validate=ignore -f -", &text).ok)
            })
            .collect();
        tries.into_iter().filter_map(|one| one.join().ok()).filter(|made| *made).count()
    });
    assert_eq!(taken, 1);
    let many: String = (0..40)
        .map(|at| service(&format!("free-{at}"), "{ type: NodePort, ports: [{ port: 80 }] }") + "---\n")
        .collect();
    world.kubectl_in("create -f -", &many).done();
    let mut ips: Vec<String> = world.field("svc", ".items[*].spec.clusterIP").split(' ').map(str::to_owned).collect();
    ips.sort();
    let all = ips.len();
    ips.dedup();
    assert_eq!((all, ips.len()), (42, 42), "forty, the winner, kubernetes");
}

#[test]
fn addresses_and_ports_come_back_when_a_service_goes_or_changes() {
    let world = world();
    let service =
        |name: &str, spec: &str| format!("apiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec: {spec}\n");
    let held = "{ type: NodePort, clusterIP: 10.96.0.77, ports: [{ port: 80, nodePort: 30080 }] }";
    world.kubectl_in("create -f -", &service("a", held)).done();
    world.kubectl_in("create -f -", &service("b", held)).refused();
    world.kubectl("delete svc a").done();
    world.kubectl_in("create -f -", &service("b", held)).done();
    // ClusterIP gives the NodePort back, ExternalName the address too.
    world
        .kubectl_in("apply -f -", &service("b", "{ type: ClusterIP, clusterIP: 10.96.0.77, ports: [{ port: 80 }] }"))
        .done();
    world.kubectl("patch svc b --type=merge -p {\"spec\":{\"type\":\"ClusterIP\"}}").done();
    world.kubectl_in("create -f -", &service("c", "{ type: NodePort, ports: [{ port: 80, nodePort: 30080 }] }")).done();
    world.kubectl("patch svc b -p {\"spec\":{\"type\":\"ExternalName\",\"externalName\":\"ylzhong.top\"}}").done();
    assert_eq!(world.field("svc/b", ".spec.clusterIP"), "");
    world.kubectl_in("create -f -", &service("d", "{ clusterIP: 10.96.0.77, ports: [{ port: 80 }] }")).done();
    let headless = world.kubectl_in("create -f -", &service("e", "{ clusterIP: None, ports: [{ port: 80 }] }"));
    headless.done();
    assert_eq!(world.field("svc/e", ".spec.clusterIPs"), "[\"None\"]");
    let changed = world
        .kubectl("patch svc d -p {\"spec\":{\"clusterIP\":\"10.96.0.78\",\"clusterIPs\":[\"10.96.0.78\"]}}")
        .refused();
    assert!(changed.contains("field is immutable") || changed.contains("may not change once set"), "{changed}");
}

#[test]
fn a_watch_follows_create_change_and_delete_in_table_form() {
    let world = world();
    let mut child = command(&world.kubeconfig, world.dir.path())
        .args(["get", "configmap", "-w", "--no-headers"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    world.kubectl("create configmap before --from-literal=a=1").done();
    world.kubectl("create configmap c --from-literal=a=1 --from-literal=b=2").done();
    world.kubectl("label configmap c x=y").done();
    world.kubectl("delete configmap c").done();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let line = lines.next().expect("the watch goes on").expect("text");
        let cells: Vec<_> = line.split_whitespace().take(2).map(str::to_owned).collect();
        if cells[0] == "c" {
            seen.push(cells.join(" "));
        }
    }
    child.kill().expect("it runs");
    child.wait().expect("reaped");
    assert_eq!(seen, ["c 2", "c 2", "c 2"]);
}

#[test]
fn deletion_waits_for_finalizers_and_for_the_grace_of_bound_pods() {
    let world = world();
    world.kubectl("create configmap held --from-literal=a=1").done();
    world.kubectl("patch configmap held --type=merge -p {\"metadata\":{\"finalizers\":[\"test/hold\"]}}").done();
    world.kubectl("delete configmap held --wait=false").done();
    assert_ne!(world.field("cm/held", ".metadata.deletionTimestamp"), "");
    world.kubectl("patch configmap held --type=json -p [{\"op\":\"remove\",\"path\":\"/metadata/finalizers\"}]").done();
    assert!(world.kubectl("get cm held").refused().contains("not found"));

    world.kubectl("run free --image=nginx").done();
    assert_eq!(world.field("pod/free", ".status.phase"), "Pending");
    world.kubectl("delete pod free --wait=false").done();
    world.kubectl("get pod free").refused();

    let pod = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"bound"},"spec":{"nodeName":"node-1","containers":[{"name":"a","image":"nginx"}]}}"#;
    world.kubectl_in("create -f -", pod).done();
    world.kubectl("delete pod bound --wait=false --grace-period=7").done();
    assert_eq!(world.field("pod/bound", ".metadata.deletionGracePeriodSeconds"), "7");
    assert!(world.kubectl("get pod bound --no-headers").done().contains("Terminating"));
    world.kubectl("delete pod bound --force --grace-period=0").done();
    world.kubectl("get pod bound").refused();
}

#[test]
fn a_namespace_is_terminating_until_it_is_finalized() {
    let world = world();
    world.kubectl("create namespace gone").done();
    world.kubectl("delete namespace gone --wait=false").done();
    assert_eq!(world.field("ns/gone", ".status.phase"), "Terminating");
    let refused = world.kubectl("create configmap c --from-literal=a=1 -n gone").refused();
    assert!(refused.contains("because it is being terminated"), "{refused}");
    let mut namespace = world.json("ns gone");
    namespace["spec"]["finalizers"] = serde_json::json!([]);
    world.kubectl_in("replace --raw /api/v1/namespaces/gone/finalize -f -", &namespace.to_string()).done();
    world.kubectl("get ns gone").refused();
}

#[test]
fn a_stale_replace_is_a_conflict() {
    let world = world();
    world.kubectl("create configmap c --from-literal=a=1").done();
    let stale = world.json("cm c");
    world.kubectl("label cm c x=y").done();
    let refused = world.kubectl_in("replace -f -", &stale.to_string()).refused();
    assert!(
        refused.contains("the object has been modified; please apply your changes to the latest version"),
        "{refused}"
    );
}

#[test]
fn users_may_do_what_their_certificate_says() {
    let world = world();
    let node = world.user("system:node:node-1", &["system:nodes"]);
    let as_node = |args: &str, input: Option<&str>| kubectl_with(&node, world.dir.path(), args, input);
    as_node("get svc -A", None).done();
    let refused = as_node("create configmap c --from-literal=a=1", None).refused();
    let expected = "User \"system:node:node-1\" cannot create resource \"configmaps\" in API group \"\" in the namespace \"default\"";
    assert!(refused.contains(expected), "{refused}");
    let own = |name: &str| format!(r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"name":"{name}"}}}}"#);
    as_node("create -f -", Some(&own("node-1"))).done();
    as_node("create -f -", Some(&own("node-2"))).refused();
    let stranger = world.user("ann", &["dev"]);
    kubectl_with(&stranger, world.dir.path(), "get pods", None).refused();
    kubectl_with(&stranger, world.dir.path(), "get --raw /version", None).done();
}

#[test]
fn whoever_has_no_certificate_sees_health_and_version_only() {
    let world = world();
    assert_eq!(world.get_as_nobody("/livez", None), (200, "ok".into()));
    assert!(world.get_as_nobody("/version", None).1.contains("v1.33"));
    let (code, body) = world.get_as_nobody("/api/v1/pods", None);
    let said = "pods is forbidden: User \\\"system:anonymous\\\" cannot list resource \\\"pods\\\" in API group \\\"\\\" at the cluster scope";
    assert!(code == 403 && body.contains(said), "{code} {body}");
    assert_eq!(world.get_as_nobody("/api", None).0, 403);
    assert_eq!(
        world.get_as_nobody("/livez", Some("Bearer made-up")).0,
        401,
        "credentials that are not known are not ignored"
    );
}
