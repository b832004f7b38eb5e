//! What a user types at a cluster that runs: unmodified kubectl against a lab of two nodes with real nginx in its pods.
//!
//! Requests that need no pod (columns, conflicts, rights) are the API server's own tests.

mod support;

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use support::{Space, wait_for, with_input};

const NGINX: &str = "nginx:latest";

fn space(name: &'static str) -> Space {
    support::world("t-kubectl").space(name)
}

fn deployment(name: &str, replicas: usize) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: {name} }}\nspec:\n  replicas: {replicas}\n  \
         selector: {{ matchLabels: {{ app: {name} }} }}\n  template:\n    metadata: {{ labels: {{ app: {name} }} }}\n    \
         spec: {{ containers: [{{ name: nginx, image: \"{NGINX}\", ports: [{{ containerPort: 80 }}] }}] }}\n"
    )
}

fn pods(space: Space) -> usize {
    space.json("pods")["items"].as_array().map_or(0, Vec::len)
}

#[test]
fn apply_creates_leaves_alone_and_changes_and_the_pods_follow() {
    let space = space("applied");
    assert_eq!(space.apply(&deployment("web", 1)), "deployment.apps/web created\n");
    assert_eq!(space.apply(&deployment("web", 1)), "deployment.apps/web unchanged\n");
    space.kubectl("rollout status deployment/web --timeout=30s").done();
    assert_eq!(pods(space), 1);
    assert_eq!(space.apply(&deployment("web", 3)), "deployment.apps/web configured\n");
    let said = space.kubectl("rollout status deployment/web --timeout=30s").done();
    assert!(said.contains("deployment \"web\" successfully rolled out"), "{said}");
    assert_eq!(space.field("deploy/web", ".status.readyReplicas"), "3");
}

#[test]
fn get_shows_what_runs_in_every_form() {
    let space = space("shown");
    space.deployment("web", 2);
    let wide = space.kubectl("get pods -o wide --no-headers").done();
    for line in wide.lines() {
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(cells[1..4], ["1/1", "Running", "0"], "{line}");
        assert!(cells[5].starts_with("10.244.") && cells[6].starts_with("node-"), "{line}");
    }
    let nodes: Vec<&str> = wide.lines().filter_map(|line| line.split_whitespace().nth(6)).collect();
    assert_ne!(nodes[0], nodes[1], "two replicas are spread over two nodes");
    let yaml = space.kubectl("get deployment web -o yaml").done();
    assert!(yaml.contains("apiVersion: apps/v1") && yaml.contains("readyReplicas: 2"), "{yaml}");
    assert_eq!(space.json("deployment web")["status"]["availableReplicas"], 2);
    let all = space.kubectl("get all").done();
    for part in ["pod/web-", "deployment.apps/web   2/2", "replicaset.apps/web-"] {
        assert!(all.contains(part), "{part} in\n{all}");
    }
    let nodes = space.kubectl("get nodes -o wide --no-headers").done();
    assert_eq!(
        nodes.lines().filter(|line| line.contains(" Ready ") && line.contains("172.18.0.1")).count(),
        2,
        "{nodes}"
    );
}

#[test]
fn a_watch_tells_a_pods_way_to_running() {
    let space = space("watched");
    let mut command = space.world.kubectl_command();
    command.args(["-n", space.name, "get", "pods", "-w", "--no-headers"]);
    let mut child = command.spawn().expect("kubectl starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    space.kubectl("run one --image=nginx:latest").done();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|state| state != "Running") {
        let line = lines.next().expect("the watch goes on").expect("text");
        seen.push(line.split_whitespace().nth(2).unwrap_or_default().to_owned());
    }
    child.kill().expect("it runs");
    child.wait().expect("reaped");
    // How many states on the way are seen depends on when the watch began; that it was on its way is enough.
    assert!(["Pending", "ContainerCreating"].contains(&seen[0].as_str()), "{seen:?}");
}

#[test]
fn describe_tells_of_pods_services_deployments_and_nodes() {
    let space = space("described");
    space.deployment("web", 1);
    space.kubectl("expose deployment web --port=80").done();
    let endpoints = wait_for("an endpoint", 10, || Some(space.endpoints("web")).filter(|e| e.len() == 1));
    let has = |args: &str, parts: &[&str]| {
        let text = space.kubectl(args).done();
        for part in parts {
            let holds = text.lines().any(|line| line.split_whitespace().collect::<Vec<_>>().join(" ").contains(part));
            assert!(holds, "{part:?} in kubectl {args}:\n{text}");
        }
    };
    has(
        "describe pod -l app=web",
        &[
            "Status: Running",
            "Image: nginx:latest",
            "Ready True",
            "Restart Count: 0",
            "Normal Scheduled",
            "Started container nginx",
        ],
    );
    has("describe svc web", &[&format!("Endpoints: {}:80", endpoints[0]), "Selector: app=web", "Type: ClusterIP"]);
    has(
        "describe deployment web",
        &["1 desired | 1 updated | 1 total | 1 available | 0 unavailable", "ScalingReplicaSet"],
    );
    has(
        "describe node node-1",
        &["InternalIP: 172.18.0.11", "PodCIDR: 10.244.0.", "Ready True", "Non-terminated Pods:"],
    );
}

#[test]
fn scale_changes_the_number_of_pods_and_delete_takes_them_all() {
    let space = space("scaled");
    space.deployment("web", 1);
    let said = space.kubectl("scale deployment web --replicas=3").done();
    assert_eq!(said, "deployment.apps/web scaled\n");
    wait_for("three ready pods", 20, || (space.field("deploy/web", ".status.readyReplicas") == "3").then_some(()));
    space.kubectl("scale deployment web --replicas=1").done();
    wait_for("one pod", 20, || (pods(space) == 1).then_some(()));
    assert_eq!(space.kubectl("delete deployment web").done().trim_end(), "deployment.apps \"web\" deleted");
    wait_for("no pod and no ReplicaSet", 20, || {
        let sets = space.json("rs")["items"].as_array().map_or(0, Vec::len);
        (pods(space) + sets == 0).then_some(())
    });
}

#[test]
fn expose_and_label_make_a_service_that_answers() {
    let space = space("exposed");
    space.deployment("web", 2);
    assert_eq!(space.kubectl("expose deployment web --port=80 --type=NodePort").done(), "service/web exposed\n");
    space.programmed("web", "node-2", 2);
    let port = space.field("svc/web", ".spec.ports[0].nodePort");
    let page =
        space.world.at("outside", &["curl", "-s", "--max-time", "3", &format!("http://172.18.0.12:{port}/")]).done();
    assert!(page.contains("Welcome to nginx!"), "{page}");
    // A pod that loses its label leaves the Service, and the ReplicaSet makes another.
    let name = space.field("pods", ".items[0].metadata.name");
    let lost = space.field(&format!("pod/{name}"), ".status.podIP");
    space.kubectl(&format!("label pod {name} app=other --overwrite")).done();
    wait_for("another pod in its place", 20, || {
        let now = space.endpoints("web");
        (now.len() == 2 && !now.contains(&lost)).then_some(())
    });
    assert_eq!(pods(space), 3);
}

#[test]
fn logs_are_shown_whole_in_part_live_and_of_the_run_before() {
    let space = space("logged");
    // The shell of the image says three things, then one every tenth of a second.
    let script = r#"echo a; echo b; echo c; test -e /tmp/told || while :; do echo live; sleep 0.1; test -e /tmp/end && exit 3; done"#;
    space.pod("talker", "node-2", &format!(", command: [sh, -c, {script:?}]"), "");
    space.ready("talker");
    wait_for("the first words", 10, || space.kubectl("logs talker").done().starts_with("a\nb\nc\n").then_some(()));
    assert_eq!(space.kubectl("logs talker --tail=1").done(), "live\n");
    assert!(space.kubectl("logs talker --limit-bytes=3").done().starts_with("a\nb"));
    let stamped = space.kubectl("logs talker --timestamps --tail=1").done();
    assert!(stamped.starts_with("20") && stamped.trim_end().ends_with("Z live"), "{stamped}");
    let mut command = space.world.kubectl_command();
    let mut child = command.args(["-n", space.name, "logs", "-f", "talker"]).spawn().expect("kubectl starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let began = Instant::now();
    let live = lines.by_ref().map_while(Result::ok).filter(|line| line == "live").take(20).count();
    assert_eq!(live, 20);
    assert!(began.elapsed() > Duration::from_millis(200), "they were waited for");
    space.exec("talker", &["touch", "/tmp/end"]).done();
    lines.by_ref().map_while(Result::ok).for_each(drop);
    assert!(child.wait().expect("logs -f ends with the container").success());
    wait_for("the restart", 20, || {
        (space.field("pod/talker", ".status.containerStatuses[0].restartCount") == "1").then_some(())
    });
    let before = space.kubectl("logs talker --previous").done();
    assert!(before.starts_with("a\nb\nc\nlive\n"), "{before}");
    let code = space.field("pod/talker", ".status.containerStatuses[0].lastState.terminated.exitCode");
    assert_eq!(code, "3");
    let none = space.kubectl("logs talker -c nobody").refused(1);
    assert!(none.contains("container nobody is not valid for pod talker"), "{none}");
}

#[test]
fn exec_passes_input_both_outputs_and_the_exit_code() {
    let space = space("executed");
    space.shell("shell", "node-2");
    let said = space.exec("shell", &["sh", "-c", "echo to-out; echo to-err >&2; exit 7"]);
    assert_eq!((said.code, said.out.as_str()), (Some(7), "to-out\n"));
    assert!(said.err.starts_with("to-err\n"), "{}", said.err);
    assert_eq!(space.exec("shell", &["printf", "%s|", "a b", "c&d=e"]).done(), "a b|c&d=e|");
    assert!(said.err.contains("command terminated with exit code 7"), "{}", said.err);
    let piped = |args: &[&str], input: &str| {
        let mut command = space.world.kubectl_command();
        command.args(["-n", space.name, "exec", "-i", "shell", "--"]).args(args);
        with_input(command, input)
    };
    assert_eq!(piped(&["wc", "-c"], "12345\n").done().trim(), "6");
    let large = "0123456789abcde\n".repeat(20_000);
    assert!(piped(&["cat"], &large).done() == large, "320 kB there and back are the same bytes");
    let missing = space.exec("shell", &["no-such-program"]);
    assert!(!missing.ok() && missing.err.contains("no-such-program"), "{missing:?}");
    assert!(space.exec("nobody", &["true"]).refused(1).contains("pods \"nobody\" not found"));
}

#[test]
fn what_kubectl_sends_as_protobuf_is_stored_whole() {
    let space = space("protobuf");
    space.kubectl("create configmap settings --from-literal=colour=blue").done();
    space.kubectl("create secret generic password --from-literal=key=s3cret").done();
    space.kubectl("create serviceaccount robot").done();
    assert_eq!(space.field("cm/settings", ".data.colour"), "blue");
    assert_eq!(space.field("secret/password", ".data.key"), "czNjcmV0");
    assert_eq!(space.field("sa/robot", ".metadata.name"), "robot");
    // And a pod sees them.
    space.pod(
        "reader",
        "node-1",
        ", command: [sh, -c, \"echo $COLOUR; cat /etc/password/key; echo; sleep 3600\"], \
         env: [{ name: COLOUR, valueFrom: { configMapKeyRef: { name: settings, key: colour } } }], \
         volumeMounts: [{ name: password, mountPath: /etc/password }]",
        ", terminationGracePeriodSeconds: 0, volumes: [{ name: password, secret: { secretName: password } }]",
    );
    space.ready("reader");
    wait_for("both values", 5, || (space.kubectl("logs reader").done() == "blue\ns3cret\n").then_some(()));
}

#[test]
fn a_namespace_takes_all_that_is_in_it_along() {
    let space = space("doomed");
    space.deployment("web", 2);
    space.kubectl("expose deployment web --port=80").done();
    space.kubectl("create configmap settings --from-literal=a=b").done();
    space.programmed("web", "node-1", 2);
    let said = space.world.kubectl("delete namespace doomed --timeout=40s").done();
    assert!(said.contains("namespace \"doomed\" deleted"), "{said}");
    let left = space.world.kubectl("get pods,rs,deploy,svc,ep,endpointslices,cm -A --no-headers").done();
    assert!(!left.lines().any(|line| line.starts_with("doomed ")), "{left}");
    for node in ["node-1", "node-2"] {
        wait_for("rules without it", 10, || {
            (!space.world.at(node, &["iptables-save"]).out.contains("doomed/")).then_some(())
        });
    }
}

#[test]
fn a_pod_that_is_deleted_ends_in_its_grace_and_its_network_goes() {
    let space = space("ended");
    // The image says SIGQUIT, as nginx's does.
    space.pod(
        "slow",
        "node-1",
        ", command: [sh, -c, \"trap 'exit 0' QUIT; echo trapped; while :; do sleep 0.1; done\"]",
        "",
    );
    space.ready("slow");
    // Without a probe Ready means started; only its own word says that the shell minds the signal by now.
    wait_for("the shell's word", 10, || (space.kubectl("logs slow").out == "trapped\n").then_some(()));
    let address = space.field("pod/slow", ".status.podIP");
    let routes = |world: &support::World| world.at("node-1", &["ip", "route"]).out;
    assert!(routes(space.world).contains(&format!("{address} dev cali")));
    let began = Instant::now();
    space.kubectl("delete pod slow").done();
    assert!(began.elapsed() < Duration::from_secs(10), "it ended when asked, not when its 30 s were over");
    wait_for("its route is gone", 5, || (!routes(space.world).contains(&format!("{address} dev cali"))).then_some(()));
}

#[test]
fn a_container_that_keeps_ending_is_restarted_with_back_off_in_the_same_pod() {
    let space = space("crashing");
    space.pod("crash", "node-1", ", command: [sh, -c, \"echo run; exit 4\"]", "");
    let status = wait_for("the back-off", 20, || {
        let status = space.json("pod crash")["status"].clone();
        let container = &status["containerStatuses"][0];
        (container["state"]["waiting"]["reason"] == "CrashLoopBackOff" && container["restartCount"] == 1)
            .then_some(status)
    });
    let container = &status["containerStatuses"][0];
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 4, "{container}");
    assert_eq!(status["phase"], "Running", "a pod whose container will run again");
    let line = space.kubectl("get pod crash --no-headers").done();
    assert!(line.contains("0/1") && line.contains("CrashLoopBackOff"), "{line}");
    let address = status["podIP"].clone();
    wait_for("the next run, ten seconds later", 20, || {
        let status = space.json("pod crash")["status"].clone();
        (status["containerStatuses"][0]["restartCount"] == 2 && status["podIP"] == address).then_some(())
    });
    let text = space.kubectl("describe pod crash").done();
    assert!(text.contains("BackOff") && text.contains("Exit Code:    4"), "{text}");
}
