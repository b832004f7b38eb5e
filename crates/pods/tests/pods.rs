//! Real pods on this machine, as root, in namespaces of the test's own.

mod world;

#[path = "pods/departure.rs"]
mod departure;

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use world::{Node, processes_with, script};

/// One runtime per test; its own temporary folder, store and kubelet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_runs_answers_exec_keeps_its_log_and_leaves_nothing() {
    let cgroups_before = cgroup_folders();
    let mounts_before = std::fs::read_to_string("/proc/self/mounts").expect("readable");
    let node = Node::new();
    let text = "trap 'echo bye; exit 0' TERM; echo hello; echo oops >&2; echo of $WHO; while :; do sleep 0.05; done";
    let mut spec = script(text);
    spec["containers"][0]["env"] = json!([{"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]);
    let pod = node.run("one", spec);
    node.until_running("one").await;
    let status = node.status("one");
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!((status.pod_ip.as_deref(), status.host_ip.as_deref()), (Some("10.244.0.1"), Some("172.18.0.11")));
    assert!(node.container("one").ready);

    node.until("the log is written", |node| {
        let log = node.pod_dir(&pod).join("logs/c/0.log");
        std::fs::read_to_string(log).unwrap_or_default().lines().count() >= 3
    })
    .await;
    // The two streams keep their own order, not one between them.
    let log = node.log("one").await;
    let (errors, output): (Vec<&str>, Vec<&str>) = log.lines().partition(|line| *line == "oops");
    assert_eq!((output, errors), (vec!["hello", "of 10.244.0.1"], vec!["oops"]));

    assert_eq!(node.exec("one", &["sh", "-c", "echo out; exit 7"]).await, ("out\n".to_owned(), 7));
    assert_eq!(node.exec("one", &["hostname"]).await.0, "one\n");
    let (resolv, _) = node.exec("one", &["cat", "/etc/resolv.conf"]).await;
    assert!(resolv.starts_with("search default.svc.cluster.local svc.cluster.local cluster.local"), "{resolv}");
    let (hosts, _) = node.exec("one", &["cat", "/etc/hosts"]).await;
    assert!(hosts.contains("10.244.0.1\tone\n"), "{hosts}");
    let (links, _) = node.exec("one", &["cat", "/proc/net/dev"]).await;
    assert!(links.contains("lo:") && !links.contains("eth0"), "a network of its own: {links}");

    node.delete(pod.clone(), 30).await;
    assert_eq!(*node.cluster.detached.lock().expect("whole"), ["one"]);
    let dir = node.pod_dir(&pod).display().to_string();
    assert_eq!(processes_with(&dir), Vec::<i32>::new(), "no shim remains");
    assert_eq!(cgroup_folders(), cgroups_before, "no cgroup was made");
    assert_eq!(std::fs::read_to_string("/proc/self/mounts").expect("readable"), mounts_before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_container_restarts_once_in_the_same_pod_with_the_same_address() {
    let node = Node::new();
    let pod = node.run("again", script("exec sleep 1000"));
    node.until_running("again").await;
    let before = node.status("again");
    // PID 1 of the container, as seen from the node.
    kill_container(&node, &pod, "c");
    node.until("it runs again", |node| {
        let container = node.container("again");
        container.restart_count == 1 && container.state.is_some_and(|state| state.running.is_some())
    })
    .await;
    let after = node.status("again");
    assert_eq!(before.pod_ip, after.pod_ip);
    let last = node.container("again").last_state.and_then(|state| state.terminated).expect("is told");
    assert_eq!((last.exit_code, last.signal), (137, Some(9)));
    kill_container(&node, &pod, "c");
    node.until("it backs off", |node| {
        let waiting = node.container("again").state.and_then(|state| state.waiting);
        waiting.and_then(|waiting| waiting.reason).as_deref() == Some("CrashLoopBackOff")
    })
    .await;
    node.delete(pod, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_comes_back_finds_its_pods_as_they_were() {
    let mut node = Node::new();
    let pod = node.run("stays", script("echo begun; exec sleep 1000"));
    node.until_running("stays").await;
    let before = init_of(&node, &pod);
    let mut shown = pod.clone();
    shown.status = Some(node.status("stays"));
    node.until("what was decided is written", |node| {
        node.cluster.statuses.lock().expect("whole")["stays"].last() == Some(&node.status("stays"))
    })
    .await;
    let written = node.cluster.statuses.lock().expect("whole")["stays"].len();
    node.restart_agent();
    node.kubelet.set_pod(shown);
    node.kubelet.synced();
    node.until_running("stays").await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(init_of(&node, &pod), before, "nothing was restarted");
    assert_eq!(node.container("stays").restart_count, 0);
    let events = node.cluster.events.lock().expect("whole").join("\n");
    assert_eq!(node.cluster.attached.lock().expect("whole").len(), 1, "the network was not made again: {events}");
    assert_eq!(node.cluster.statuses.lock().expect("whole")["stays"].len(), written, "there was nothing to write");
    assert_eq!(node.log("stays").await, "begun\n");
    node.delete(pod, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_whose_object_went_while_no_agent_ran_is_taken_down_after_the_first_sync() {
    let mut node = Node::new();
    let pod = node.run("orphan", script("exec sleep 1000"));
    node.until_running("orphan").await;
    let init = init_of(&node, &pod);
    node.restart_agent();
    assert!(std::path::Path::new(&format!("/proc/{init}")).exists(), "the agent's death touched nothing");
    node.kubelet.synced();
    let dir = node.pod_dir(&pod);
    node.until("its folder is gone", |_| !dir.exists()).await;
    node.until("its process is gone", |_| !std::path::Path::new(&format!("/proc/{init}")).exists()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_shim_takes_its_containers_along_and_the_pod_is_made_anew() {
    let node = Node::new();
    let pod = node.run("anew", script("exec sleep 1000"));
    node.until_running("anew").await;
    let init = init_of(&node, &pod);
    let shim = state_of(&node, &pod).shim.pid;
    signal(shim, libc::SIGKILL);
    node.until("the old container is gone", |_| !std::path::Path::new(&format!("/proc/{init}")).exists()).await;
    node.until("it runs again", |node| {
        let container = node.container("anew");
        container.restart_count == 1 && container.state.is_some_and(|state| state.running.is_some())
    })
    .await;
    assert_eq!(node.exec("anew", &["sh", "-c", "echo hi"]).await.0, "hi\n");
    node.delete(pod, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_ignores_sigterm_is_killed_when_its_grace_is_over() {
    let node = Node::new();
    let pod = node.run("deaf", script("trap '' TERM; while :; do sleep 0.1; done"));
    node.until_running("deaf").await;
    let begun = Instant::now();
    node.delete(pod, 1).await;
    let took = begun.elapsed().as_secs_f64();
    assert!((1.0..10.0).contains(&took), "took {took} s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_like_pod_ends_succeeded_or_failed_and_init_containers_go_first() {
    let node = Node::new();
    let spec = |code: u8| {
        json!({"restartPolicy": "Never",
            "volumes": [{"name": "v", "emptyDir": {}}],
            "initContainers": [{"name": "i", "image": "tools:1", "command": ["sh", "-c", "echo from init > /v/f"],
                                "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "containers": [{"name": "c", "image": "tools:1", "command": ["sh", "-c", format!("cat /v/f; exit {code}")],
                            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]})
    };
    let good = node.run("good", spec(0));
    let bad = node.run("bad", spec(3));
    for (name, phase, code) in [("good", "Succeeded", 0), ("bad", "Failed", 3)] {
        node.until(phase, |node| node.status(name).phase.as_deref() == Some(phase)).await;
        let end = node.container(name).state.and_then(|state| state.terminated).expect("ended");
        assert_eq!(end.exit_code, code);
        assert_eq!(node.log(name).await, "from init\n");
    }
    node.delete(good, 0).await;
    node.delete(bad, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_image_and_a_missing_program_say_so() {
    let node = Node::new();
    let no_image = node.run("noimage", json!({"containers": [{"name": "c", "image": "nope:1"}]}));
    let no_program =
        node.run("noprogram", json!({"containers": [{"name": "c", "image": "tools:1", "command": ["/no/such"]}]}));
    node.until("the image is missed", |node| {
        let waiting = node.container("noimage").state.and_then(|state| state.waiting);
        waiting.is_some_and(|waiting| {
            let message = waiting.message.unwrap_or_default();
            matches!(waiting.reason.as_deref(), Some("ErrImagePull" | "ImagePullBackOff"))
                && message.contains("image \"nope:1\" is not in the store, and docker.io is no registry")
        })
    })
    .await;
    node.until("the program is missed", |node| {
        let last = node.container("noprogram").last_state.and_then(|state| state.terminated);
        last.is_some_and(|last| {
            last.exit_code == 128
                && last.reason.as_deref() == Some("StartError")
                && last.message.unwrap_or_default().contains("no such file in the image")
        })
    })
    .await;
    node.delete(no_image, 0).await;
    node.delete(no_program, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_follows_its_probe_and_a_failed_liveness_probe_restarts() {
    let node = Node::new();
    let mut spec = script("touch /alive; exec sleep 1000");
    spec["terminationGracePeriodSeconds"] = json!(0);
    spec["containers"][0]["readinessProbe"] = json!({"exec": {"command": ["cat", "/ready"]}, "periodSeconds": 1});
    spec["containers"][0]["livenessProbe"] = json!({"exec": {"command": ["cat", "/alive"]}, "periodSeconds": 1, "failureThreshold": 1,
        "initialDelaySeconds": 1});
    let pod = node.run("probed", spec);
    node.until_running("probed").await;
    assert!(!node.container("probed").ready);
    node.exec("probed", &["touch", "/ready"]).await;
    node.until("it is ready", |node| node.container("probed").ready).await;
    let is_ready = |node: &Node| {
        let conditions = node.status("probed").conditions.unwrap_or_default();
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    assert!(is_ready(&node));
    kill_alive_file(&node, &pod);
    node.until("it was restarted", |node| node.container("probed").restart_count == 1).await;
    node.delete(pod, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_passes_standard_input_and_gives_a_terminal() {
    let node = Node::new();
    let pod = node.run("talk", script("exec sleep 1000"));
    node.until_running("talk").await;
    let request = |tty: bool, command: &[&str]| portolan_pods::ExecRequest {
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        tty,
        stdin: true,
    };
    let mut session = node.kubelet.exec("default", "talk", "c", request(false, &["cat"])).await.expect("begins");
    let mut stdin = session.stdin.take().expect("asked for");
    stdin.write_all(b"through cat").await.expect("written");
    drop(stdin);
    let mut output = String::new();
    session.stdout.read_to_string(&mut output).await.expect("text");
    assert_eq!((output.as_str(), session.wait().await.expect("ends")), ("through cat", 0));

    let script = "stty size; test -t 0 && test -t 1 && echo terminal; exit 4";
    let mut session = node
        .kubelet
        .exec("default", "talk", "c", request(true, &["sh", "-c", &format!("read x; {script}")]))
        .await
        .expect("begins");
    session.resize(91, 33);
    session.stdin.as_mut().expect("asked for").write_all(b"go\n").await.expect("written");
    let mut output = String::new();
    session.stdout.read_to_string(&mut output).await.expect("text");
    assert!(output.contains("33 91") && output.contains("terminal"), "{output:?}");
    assert_eq!(session.wait().await.expect("ends"), 4);

    let error =
        node.kubelet.exec("default", "talk", "c", request(false, &["no-such-program"])).await.err().expect("refused");
    assert!(error.to_string().contains("executable file not found in $PATH"), "{error}");
    node.delete(pod, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_network_pod_has_the_nodes_network_and_name() {
    let node = Node::new();
    let mut spec = script("exec sleep 1000");
    spec["hostNetwork"] = json!(true);
    let pod = node.run("onhost", spec);
    node.until_running("onhost").await;
    assert_eq!(node.status("onhost").pod_ip.as_deref(), Some("172.18.0.11"));
    assert_eq!(node.exec("onhost", &["hostname"]).await.0, "ptl-t-node\n");
    let own = std::fs::read_link("/proc/self/ns/net").expect("there");
    let its = std::fs::read_link(format!("/proc/{}/ns/net", init_of(&node, &pod))).expect("there");
    assert_eq!(own, its);
    assert!(node.cluster.attached.lock().expect("whole").is_empty());
    node.delete(pod, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config_maps_become_files_and_users_are_taken_over() {
    let node = Node::new();
    let map = serde_json::from_value(json!({"data": {"k": "v"}})).expect("a map");
    node.cluster.config_maps.lock().expect("whole").insert("m".to_owned(), map);
    let mut spec = script("cat /cfg/k; id -u; id -g; exec sleep 1000");
    spec["volumes"] = json!([{"name": "cfg", "configMap": {"name": "m"}}]);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "cfg", "mountPath": "/cfg", "readOnly": true}]);
    spec["containers"][0]["securityContext"] = json!({"runAsUser": 33, "runAsGroup": 34});
    let pod = node.run("cfg", spec);
    node.until_running("cfg").await;
    node.until("the log is written", |node| {
        std::fs::read_to_string(node.pod_dir(&pod).join("logs/c/0.log")).unwrap_or_default().lines().count() >= 2
    })
    .await;
    assert_eq!(node.log("cfg").await, "v33\n34\n");
    node.delete(pod, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn debians_nginx_serves_from_a_real_image_and_comes_back_when_killed() {
    let node = Node::new().with_nginx();
    let pod = node
        .run("web", json!({"containers": [{"name": "c", "image": "nginx:latest", "ports": [{"containerPort": 80}]}]}));
    let begun = Instant::now();
    node.until_running("web").await;
    let page = |node: &Node| {
        let command = ["wget", "-q", "-O", "-", "http://127.0.0.1/"].map(str::to_owned).into();
        let kubelet = node.kubelet.clone();
        async move {
            let request = portolan_pods::ExecRequest { command, ..Default::default() };
            let mut session = kubelet.exec("default", "web", "c", request).await.ok()?;
            let mut text = String::new();
            session.stdout.read_to_string(&mut text).await.ok()?;
            (session.wait().await.ok()? == 0).then_some(text)
        }
    };
    let first = loop {
        if let Some(text) = page(&node).await {
            break text;
        }
        assert!(begun.elapsed() < world::WAIT, "nginx does not answer: {}", node.log("web").await);
    };
    assert!(first.contains("Welcome to nginx!"), "{first}");
    println!("from the pod's object to nginx's first page: {:?}", begun.elapsed());
    node.until("the access log shows the request", |node| {
        let log = node.pod_dir(&pod).join("logs/c/0.log");
        std::fs::read_to_string(log).unwrap_or_default().contains("\"GET / HTTP/1.1\" 200")
    })
    .await;
    let (users, _) = node.exec("web", &["ps"]).await;
    assert!(users.contains("nginx: master") && users.contains("nginx: worker"), "{users}");
    kill_container(&node, &pod, "c");
    node.until("it runs again", |node| {
        let container = node.container("web");
        container.restart_count == 1 && container.state.is_some_and(|state| state.running.is_some())
    })
    .await;
    let begun = Instant::now();
    while page(&node).await.is_none() {
        assert!(begun.elapsed() < world::WAIT, "nginx does not answer again");
    }
    let stopped = Instant::now();
    node.delete(pod, 30).await;
    assert!(stopped.elapsed().as_secs() < 10, "SIGQUIT ends it long before its grace is over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_and_tcp_probes_reach_nginx_from_the_node() {
    let node = Node::new().with_nginx();
    let http = json!({"httpGet": {"path": "/", "port": "web", "host": "127.0.0.1"}, "periodSeconds": 1});
    let tcp = json!({"tcpSocket": {"port": 80, "host": "127.0.0.1"}, "periodSeconds": 1});
    let pod = node.run("probed-web", json!({"hostNetwork": true, "containers": [{"name": "c", "image": "nginx",
        "ports": [{"name": "web", "containerPort": 80}], "startupProbe": tcp, "readinessProbe": http, "livenessProbe": tcp}]}));
    node.until("it is ready", |node| node.container("probed-web").ready).await;
    let (page, _) = node.exec("probed-web", &["mv", "/usr/share/nginx/html/index.html", "/tmp/"]).await;
    assert_eq!(page, "");
    node.until("it is not ready", |node| !node.container("probed-web").ready).await;
    assert_eq!(node.container("probed-web").restart_count, 0);
    let events = node.cluster.events.lock().expect("whole").join("\n");
    assert!(events.contains("Readiness probe failed: HTTP probe failed with statuscode: 403"), "{events}");
    node.delete(pod, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_fails_is_told_and_tried_again() {
    let node = Node::new();
    node.cluster.failing_attachments.store(1, std::sync::atomic::Ordering::SeqCst);
    let pod = node.run("late", script("exec sleep 1000"));
    node.until("the failure is told", |node| {
        let events = node.cluster.events.lock().expect("whole");
        events.iter().any(|event| event.contains("FailedCreatePodSandBox") && event.contains("no address is free"))
    })
    .await;
    assert_eq!(node.status("late").phase.as_deref(), Some("Pending"));
    node.until_running("late").await;
    node.delete(pod, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_sandbox_is_made_anew_with_its_containers() {
    let node = Node::new();
    let pod = node.run("boxed", script("exec sleep 1000"));
    node.until_running("boxed").await;
    signal(state_of(&node, &pod).sandbox.expect("has one").pid, libc::SIGKILL);
    node.until("it runs again", |node| {
        let container = node.container("boxed");
        container.restart_count == 1 && container.state.is_some_and(|state| state.running.is_some())
    })
    .await;
    assert_eq!(node.cluster.attached.lock().expect("whole").len(), 2, "the new namespace was attached");
    node.delete(pod, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pre_stop_command_runs_before_the_signal() {
    use futures::StreamExt;
    let node = Node::new();
    let mut spec = script("trap 'echo term; exit 0' TERM; echo trapped; while :; do sleep 0.05; done");
    spec["containers"][0]["lifecycle"] =
        json!({"preStop": {"exec": {"command": ["sh", "-c", "echo hook > /proc/1/fd/1"]}}});
    spec["volumes"] = json!([]);
    let pod = node.run("hooked", spec);
    node.until_running("hooked").await;
    let options = portolan_pods::LogOptions { follow: true, ..Default::default() };
    let stream = node.kubelet.logs("default", "hooked", "c", options).await.expect("has a log");
    let mut parts = Box::pin(stream.map(|part| part.expect("readable")));
    // Running means started; only its own word says that the shell minds the signal by now.
    assert_eq!(&parts.next().await.expect("a line")[..], b"trapped\n");
    let reading =
        tokio::spawn(async move { String::from_utf8(parts.collect::<Vec<_>>().await.concat()).expect("text") });
    node.delete(pod, 20).await;
    let log = reading.await.expect("ends with the container");
    assert!(log.starts_with("hook\n"), "{log:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_that_whoever_started_the_node_ignores_reaches_a_container() {
    // SAFETY: no other test minds this signal.
    unsafe { libc::signal(libc::SIGUSR1, libc::SIG_IGN) };
    let node = Node::new();
    let script = script("trap 'echo minded' USR1; kill -USR1 1; while :; do sleep 0.05; done");
    let pod = node.run("minding", script);
    node.until_running("minding").await;
    let log = node.pod_dir(&pod).join("logs/c/0.log");
    node.until("it minds the signal", |_| std::fs::read_to_string(&log).unwrap_or_default().contains("minded")).await;
    node.delete(pod, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_pods_start_and_end_together() {
    let node = Node::new();
    let pods: Vec<_> = (0..10).map(|number| node.run(&format!("many-{number}"), script("exec sleep 1000"))).collect();
    let begun = Instant::now();
    node.until("all run", |node| (0..10).all(|number| node.container(&format!("many-{number}")).ready)).await;
    println!("ten pods ready after {:?}", begun.elapsed());
    let addresses: BTreeSet<_> = (0..10).map(|number| node.status(&format!("many-{number}")).pod_ip).collect();
    assert_eq!(addresses.len(), 10);
    for pod in pods {
        node.delete(pod, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_that_end_together_each_restart_once() {
    let node = Node::new();
    let container =
        |number: usize| json!({"name": format!("c{number}"), "image": "tools:1", "command": ["sleep", "1000"]});
    let spec = json!({"containers": (0..6).map(container).collect::<Vec<_>>()});
    let pod = node.run("six", spec);
    node.until("all are ready", |node| node.status("six").phase.as_deref() == Some("Running")).await;
    for run in state_of(&node, &pod).runs {
        signal(run.process.expect("runs").pid, libc::SIGKILL);
    }
    node.until("each runs again", |node| {
        let statuses = node.status("six").container_statuses.unwrap_or_default();
        let again = statuses.iter().filter(|status| status.restart_count == 1 && status.ready);
        again.count() == 6
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let runs = state_of(&node, &pod).runs;
    let running: Vec<u32> = runs.iter().filter(|run| run.ended.is_none()).map(|run| run.attempt).collect();
    assert_eq!(running, [1; 6]);
    node.delete(pod, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_comes_twice_is_refused_and_harms_nothing() {
    use portolan_pods::shim::client::Shim;
    use portolan_pods::shim::protocol::{Request, StartContainer};
    let node = Node::new();
    let pod = node.run("twice", script("exec sleep 1000"));
    node.until_running("twice").await;
    let before = init_of(&node, &pod);
    let shim = Shim::connect(&node.pod_dir(&pod)).await.expect("answers");
    let start = StartContainer {
        name: "c".into(),
        attempt: 0,
        streak: 0,
        spec: json!({}),
        lower: "/".into(),
        log: "/dev/null".into(),
        image: String::new(),
        image_id: String::new(),
        stop_signal: libc::SIGTERM,
        limits: Default::default(),
        stdio: Default::default(),
    };
    let error = shim.call(&Request::Start(Box::new(start))).await.expect_err("refused").to_string();
    assert!(error.contains("already"), "{error}");
    assert_eq!(node.exec("twice", &["hostname"]).await, ("twice\n".to_owned(), 0));
    assert_eq!(init_of(&node, &pod), before);
    node.delete(pod, 0).await;
}

fn state_of(node: &Node, pod: &k8s_openapi::api::core::v1::Pod) -> portolan_pods::shim::state::PodState {
    portolan_pods::shim::state::PodState::load(&node.pod_dir(pod)).expect("has a state")
}

fn init_of(node: &Node, pod: &k8s_openapi::api::core::v1::Pod) -> i32 {
    state_of(node, pod).last_run("c").and_then(|run| run.process).expect("runs").pid
}

fn kill_container(node: &Node, pod: &k8s_openapi::api::core::v1::Pod, _name: &str) {
    signal(init_of(node, pod), libc::SIGKILL);
}

/// Takes `/alive` away by the container's working directory, its root, as the node sees it.
fn kill_alive_file(node: &Node, pod: &k8s_openapi::api::core::v1::Pod) {
    let _ = std::fs::remove_file(format!("/proc/{}/cwd/alive", init_of(node, pod)));
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: kill takes plain numbers; the pid is a child of our own shim.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

/// All cgroup folders of the machine that could be a container's.
fn cgroup_folders() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = open.pop() {
        let Ok(listing) = std::fs::read_dir(&folder) else { continue };
        for child in listing.filter_map(Result::ok).filter(|child| child.path().is_dir()) {
            let name = child.path().display().to_string();
            if name.contains("youki") || name.contains("portolan") {
                found.insert(name);
            }
            open.push(child.path());
        }
    }
    found
}
