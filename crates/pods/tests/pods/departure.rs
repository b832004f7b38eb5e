//! A pod that Services have is told to stop when they let go of it, and not before.

use std::sync::atomic::Ordering;

use crate::world::{Node, deleted, script};

/// Writes its marks into its own output, so that the log has the order of things.
const MINDFUL: &str = "trap 'echo term; exit 0' TERM; echo trapped; while :; do sleep 0.05; done";

async fn running(node: &Node, name: &str) -> k8s_openapi::api::core::v1::Pod {
    node.cluster.is_endpoint.store(true, Ordering::SeqCst);
    let pod = node.run(name, script(MINDFUL));
    node.until_running(name).await;
    let log = node.pod_dir(&pod).join("logs/c/0.log");
    let trapped = |_: &Node| std::fs::read_to_string(&log).unwrap_or_default().contains("trapped");
    node.until("it minds the signal", trapped).await;
    pod
}

async fn mark(node: &Node, name: &str, word: &str) {
    let written = node.exec(name, &["sh", "-c", &format!("echo {word} > /proc/1/fd/1")]).await;
    assert_eq!(written.1, 0, "the container runs");
}

fn is_ready(node: &Node, name: &str) -> bool {
    let conditions = node.status(name).conditions.unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn has_event(node: &Node, text: &str) -> bool {
    node.cluster.events.lock().expect("whole").iter().any(|event| event.contains(text))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_serves_until_it_is_spare_and_runs_until_nobody_sends() {
    use futures::StreamExt;
    let node = Node::new();
    let pod = running(&node, "held").await;
    let options = portolan_pods::LogOptions { follow: true, ..Default::default() };
    let stream = node.kubelet.logs("default", "held", "c", options).await.expect("has a log");
    let reading = tokio::spawn(stream.map(|part| part.expect("readable")).collect::<Vec<_>>());
    node.kubelet.set_pod(deleted(pod.clone(), 60));
    node.until("it is being stopped", |node| has_event(node, "held Normal Killing")).await;
    mark(&node, "held", "needed").await;
    assert!(is_ready(&node, "held"), "nobody else serves yet");
    node.cluster.services_let_go.send_replace(1);
    node.until("it is shown as not ready", |node| !is_ready(node, "held")).await;
    mark(&node, "held", "spare").await;
    node.cluster.services_let_go.send_replace(2);
    node.until("it is gone", |node| node.cluster.finalized.lock().expect("whole").contains(&"held".to_owned())).await;
    let log = String::from_utf8(reading.await.expect("ends with the container").concat()).expect("text");
    assert_eq!(log, "trapped\nneeded\nspare\nterm\n");
    assert!(!has_event(&node, "NotDrained"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_services_never_let_go_of_is_told_in_half_of_its_grace_time() {
    let node = Node::new();
    for (name, let_go, missing) in [
        ("needed", 0, "no other endpoint of its Services became ready"),
        ("chosen", 1, "not every node has taken it out of its rules"),
    ] {
        node.cluster.services_let_go.send_replace(let_go);
        let pod = running(&node, name).await;
        let begun = std::time::Instant::now();
        node.delete(pod, 8).await;
        assert!(begun.elapsed() >= std::time::Duration::from_secs(4), "{:?}", begun.elapsed());
        assert!(has_event(
            &node,
            &format!("{name} Warning NotDrained Stopped before it was free of traffic: {missing}")
        ));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_deleted_without_grace_waits_for_nobody() {
    let node = Node::new();
    let pod = running(&node, "forced").await;
    node.delete(pod, 0).await;
    assert!(!has_event(&node, "NotDrained"));
}
