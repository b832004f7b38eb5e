//! `kubectl get pods`: readiness, the most telling reason, restarts.

use jiff::Timestamp;
use serde_json::Value;

use super::{Printer, age, integer, items, name, narrow, or_none, since, wide};
use crate::object::text;

pub const PRINTER: Printer = Printer {
    columns: &[
        narrow("Name"),
        narrow("Ready"),
        narrow("Status"),
        narrow("Restarts"),
        narrow("Age"),
        wide("IP"),
        wide("Node"),
        wide("Nominated Node"),
        wide("Readiness Gates"),
    ],
    cells,
};

fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let total = items(pod, "/spec/containers").count();
    let ready = items(pod, "/status/containerStatuses").filter(|status| is_up(status)).count();
    vec![
        name(pod),
        format!("{ready}/{total}").into(),
        reason(pod).into(),
        restarts(pod, now).into(),
        age(pod, now),
        or_none(text(pod, "/status/podIP").to_owned()),
        or_none(text(pod, "/spec/nodeName").to_owned()),
        or_none(text(pod, "/status/nominatedNodeName").to_owned()),
        or_none(readiness_gates(pod)),
    ]
}

fn is_up(status: &Value) -> bool {
    status.get("ready") == Some(&Value::Bool(true)) && status.pointer("/state/running").is_some()
}

/// What is wrong, else the phase.
fn reason(pod: &Value) -> String {
    let phase = [text(pod, "/status/reason"), text(pod, "/status/phase")].into_iter().find(|text| !text.is_empty());
    let mut reason = phase.unwrap_or_default().to_owned();
    let initializing = init_reason(pod);
    match &initializing {
        Some(trouble) => reason = trouble.clone(),
        None => reason = container_reason(pod, reason),
    }
    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        let lost = text(pod, "/status/reason") == "NodeLost";
        return if lost { "Unknown".into() } else { "Terminating".into() };
    }
    reason
}

fn init_reason(pod: &Value) -> Option<String> {
    let total = items(pod, "/spec/initContainers").count();
    for (at, status) in items(pod, "/status/initContainerStatuses").enumerate() {
        if let Some(ended) = status.pointer("/state/terminated") {
            match integer(ended, "/exitCode") {
                0 => continue,
                _ => return Some(format!("Init:{}", ending(ended))),
            }
        }
        let waiting = text(status, "/state/waiting/reason");
        if !waiting.is_empty() && waiting != "PodInitializing" {
            return Some(format!("Init:{waiting}"));
        }
        if status.get("started") == Some(&Value::Bool(true)) && is_sidecar(pod, text(status, "/name")) {
            continue;
        }
        return Some(format!("Init:{at}/{total}"));
    }
    None
}

fn is_sidecar(pod: &Value, container: &str) -> bool {
    items(pod, "/spec/initContainers")
        .any(|spec| text(spec, "/name") == container && text(spec, "/restartPolicy") == "Always")
}

fn container_reason(pod: &Value, phase: String) -> String {
    let mut reason = phase;
    let mut any_running = false;
    for status in items(pod, "/status/containerStatuses").collect::<Vec<_>>().into_iter().rev() {
        let waiting = text(status, "/state/waiting/reason");
        if !waiting.is_empty() {
            reason = waiting.to_owned();
        } else if let Some(ended) = status.pointer("/state/terminated") {
            reason = ending(ended);
        } else if is_up(status) {
            any_running = true;
        }
    }
    if reason != "Completed" || !any_running {
        return reason;
    }
    let is_ready = items(pod, "/status/conditions")
        .any(|condition| text(condition, "/type") == "Ready" && text(condition, "/status") == "True");
    if is_ready { "Running".into() } else { "NotReady".into() }
}

fn ending(ended: &Value) -> String {
    match (text(ended, "/reason"), integer(ended, "/signal")) {
        ("", 0) => format!("ExitCode:{}", integer(ended, "/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// Restarts of the containers, and how long ago the last was.
fn restarts(pod: &Value, now: Timestamp) -> String {
    let statuses = items(pod, "/status/containerStatuses");
    let count: i64 = statuses.clone().map(|status| integer(status, "/restartCount")).sum();
    let last = statuses.map(|status| text(status, "/lastState/terminated/finishedAt")).max().unwrap_or_default();
    match (count, last) {
        (0, _) | (_, "") => count.to_string(),
        _ => format!("{count} ({} ago)", since(last, now)),
    }
}

fn readiness_gates(pod: &Value) -> String {
    let gates: Vec<&str> = items(pod, "/spec/readinessGates").map(|gate| text(gate, "/conditionType")).collect();
    let holds = |gate: &&&str| {
        items(pod, "/status/conditions")
            .any(|condition| text(condition, "/type") == **gate && text(condition, "/status") == "True")
    };
    match gates.len() {
        0 => String::new(),
        total => format!("{}/{total}", gates.iter().filter(holds).count()),
    }
}
