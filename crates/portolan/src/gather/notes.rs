//! Notes: of each object what a story tells and no planner asks. Pure.

use portolan_ingest::Object;
use portolan_model::{NsName, Proto, Text};
use portolan_story::objects::{Objects, PodNote, ServiceNote, SliceNote};
use serde_json::Value;

/// The label that names a slice's Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// When what caused the newest change of a slice happened.
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Adds what `value`, which is `object`, says.
pub fn add(notes: &mut Objects, object: &Object, value: &Value) {
    let key = object.reference().key;
    match object {
        Object::Pod(_) => drop(notes.pods.insert(key, pod(value))),
        Object::Service(_) => drop(notes.services.insert(key, service(value))),
        Object::EndpointSlice(_) => drop(notes.slices.insert(key.clone(), slice(&key, value))),
        Object::Namespace(_) | Object::Node(_) => {}
    }
}

fn pod(pod: &Value) -> PodNote {
    let ready = condition(pod, "Ready");
    let is_ready = ready.is_some_and(|c| c["status"] == "True");
    PodNote {
        labels: texts(&pod["metadata"]["labels"]),
        ports: rows(&pod["spec"]["containers"]).flat_map(|c| rows(&c["ports"])).filter_map(container_port).collect(),
        ready: is_ready,
        ready_since: ready.and_then(|c| seconds(&c["lastTransitionTime"])),
        unready_because: if is_ready { None } else { unready_because(pod) },
        deleted_at: seconds(&pod["metadata"]["deletionTimestamp"]),
        phase: text(&pod["status"]["phase"]).into(),
        version: version(pod),
    }
}

fn container_port(port: &Value) -> Option<(String, Proto, u16)> {
    let proto = Proto::parse(port["protocol"].as_str().unwrap_or("TCP"))?;
    let number = u16::try_from(port["containerPort"].as_u64()?).ok()?;
    Some((text(&port["name"]).to_owned(), proto, number))
}

/// The nearest cause there is: what a container waits for or how it ended, its probe, what the scheduler says, and only
/// then the condition, which merely names containers.
fn unready_because(pod: &Value) -> Option<String> {
    let statuses = || rows(&pod["status"]["initContainerStatuses"]).chain(rows(&pod["status"]["containerStatuses"]));
    let of_state = |status: &Value| {
        let (name, state) = (text(&status["name"]), &status["state"]);
        if let Some(waiting) = state.get("waiting") {
            return Some(format!("container {name}: {}", reason_and_message(waiting)));
        }
        let ended = state.get("terminated").filter(|ended| ended["exitCode"].as_i64() != Some(0))?;
        Some(format!("container {name} ended: {}, exit code {}", text(&ended["reason"]), ended["exitCode"]))
    };
    let unscheduled = || condition(pod, "PodScheduled").filter(|c| c["status"] == "False").map(reason_and_message);
    let of_condition = |kind: &str| {
        let said = condition(pod, kind).map(reason_and_message)?;
        (!said.is_empty()).then_some(said)
    };
    let probes = || rows(&pod["status"]["containerStatuses"]).find_map(|status| probe_fails(pod, status));
    let waits = statuses().find_map(of_state);
    waits
        .or_else(probes)
        .or_else(unscheduled)
        .or_else(|| of_condition("Ready"))
        .or_else(|| of_condition("ContainersReady"))
}

/// A container that runs and is not ready has a readiness probe that has not passed.
fn probe_fails(pod: &Value, status: &Value) -> Option<String> {
    let runs = status["state"].get("running").is_some() && status["ready"] == false;
    let name = text(&status["name"]);
    let container = rows(&pod["spec"]["containers"]).find(|c| c["name"] == name).filter(|_| runs)?;
    let probe = container.get("readinessProbe").filter(|probe| !probe.is_null())?;
    let port = |of: &Value| of["port"].as_str().map_or_else(|| of["port"].to_string(), str::to_owned);
    let asks = if let Some(get) = probe.get("httpGet") {
        format!(" (GET {} on port {})", get["path"].as_str().unwrap_or("/"), port(get))
    } else if let Some(socket) = probe.get("tcpSocket") {
        format!(" (TCP port {})", port(socket))
    } else if let Some(exec) = probe.get("exec") {
        let words: Vec<&str> = rows(&exec["command"]).filter_map(Value::as_str).collect();
        format!(" ({})", words.join(" "))
    } else {
        String::new()
    };
    Some(format!("the readiness probe{asks} of container {name} has not passed"))
}

fn reason_and_message(of: &Value) -> String {
    match (text(&of["reason"]), text(&of["message"])) {
        (reason, "") => reason.to_owned(),
        ("", message) => message.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    }
}

fn service(service: &Value) -> ServiceNote {
    let target = |port: &Value| match &port["targetPort"] {
        Value::String(name) => name.clone(),
        Value::Null => port["port"].to_string(),
        number => number.to_string(),
    };
    let by_name = |port: &Value| (Text::from(text(&port["name"])), target(port));
    ServiceNote {
        selector: texts(&service["spec"]["selector"]),
        target_ports: rows(&service["spec"]["ports"]).map(by_name).collect(),
        version: version(service),
    }
}

fn slice(key: &NsName, slice: &Value) -> SliceNote {
    let meta = &slice["metadata"];
    let service = meta["labels"][SERVICE_LABEL].as_str().map(|name| NsName::new(key.namespace.clone(), name));
    SliceNote {
        service,
        addresses: rows(&slice["endpoints"]).filter_map(|e| e["addresses"][0].as_str()?.parse().ok()).collect(),
        version: version(slice),
        changed_at: seconds(&meta["annotations"][TRIGGER]),
    }
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    rows(&object["status"]["conditions"]).find(|c| c["type"] == kind)
}

fn version(object: &Value) -> u64 {
    text(&object["metadata"]["resourceVersion"]).parse().unwrap_or(0)
}

/// RFC 3339 as seconds since 1970.
fn seconds(time: &Value) -> Option<i64> {
    time.as_str()?.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn texts(map: &Value) -> std::collections::BTreeMap<String, String> {
    let pairs = map.as_object().into_iter().flatten();
    pairs.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

fn rows(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn because(spec: &Value, status: &Value) -> Option<String> {
        pod(&json!({ "metadata": { "name": "web" }, "spec": spec, "status": status })).unready_because
    }

    #[test]
    fn why_a_pod_is_not_ready_is_told_by_the_nearest_cause() {
        let probed = json!({ "containers": [{ "name": "main", "readinessProbe": { "httpGet": { "path": "/ok", "port": 8080 } } }] });
        let plain = json!({ "containers": [{ "name": "main" }] });
        let not_ready = json!({ "type": "Ready", "status": "False", "reason": "ContainersNotReady",
            "message": "containers with unready status: [main]" });
        let with = |state: Value| json!({ "conditions": [not_ready], "containerStatuses": [{ "name": "main", "ready": false, "state": state }] });
        let rows = [
            (
                &plain,
                with(json!({ "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 10s" } })),
                "container main: CrashLoopBackOff: back-off 10s",
            ),
            (
                &plain,
                with(json!({ "terminated": { "reason": "Error", "exitCode": 3 } })),
                "container main ended: Error, exit code 3",
            ),
            (
                &probed,
                with(json!({ "running": {} })),
                "the readiness probe (GET /ok on port 8080) of container main has not passed",
            ),
            (
                &plain,
                json!({ "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable" }] }),
                "Unschedulable",
            ),
            (&plain, with(json!({ "running": {} })), "ContainersNotReady: containers with unready status: [main]"),
        ];
        for (spec, status, expected) in rows {
            assert_eq!(because(spec, &status).as_deref(), Some(expected));
        }
        let ready = json!({ "conditions": [{ "type": "Ready", "status": "True" }] });
        assert_eq!(because(&plain, &ready), None);
    }

    #[test]
    fn times_ports_and_labels_are_read_as_the_api_writes_them() {
        let note = pod(&json!({
            "metadata": { "labels": { "app": "web" }, "resourceVersion": "12", "deletionTimestamp": "1970-01-01T00:02:00Z" },
            "spec": { "containers": [
                { "name": "a", "ports": [{ "name": "http", "containerPort": 80 }] },
                { "name": "b", "ports": [{ "containerPort": 53, "protocol": "UDP" }] } ] },
            "status": { "phase": "Running",
                "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": "1970-01-01T00:01:00Z" }] } }));
        assert_eq!(note.labels["app"], "web");
        assert_eq!(note.ports, [("http".to_owned(), Proto::Tcp, 80), (String::new(), Proto::Udp, 53)]);
        assert_eq!((note.ready, note.ready_since, note.deleted_at), (true, Some(60), Some(120)));
        assert_eq!((&*note.phase, note.version), ("Running", 12));
    }

    #[test]
    fn a_services_target_port_is_its_port_where_none_is_written_and_a_slice_names_its_service() {
        let note = service(&json!({ "spec": { "selector": { "app": "x" }, "ports": [
            { "name": "a", "port": 80 }, { "name": "b", "port": 81, "targetPort": 8081 }, { "name": "c", "port": 82, "targetPort": "web" } ] } }));
        let targets: Vec<(&str, &str)> = note.target_ports.iter().map(|(n, t)| (&**n, t.as_str())).collect();
        assert_eq!(targets, [("a", "80"), ("b", "8081"), ("c", "web")]);
        let key = NsName::new("prod", "web-abc");
        let note = slice(
            &key,
            &json!({ "metadata": { "labels": { SERVICE_LABEL: "web" }, "annotations": { TRIGGER: "1970-01-01T00:00:09.5Z" } },
                "endpoints": [{ "addresses": ["10.244.0.2", "10.244.0.3"] }, { "addresses": ["fd00::2"] }] }),
        );
        assert_eq!(note.service, Some(NsName::new("prod", "web")));
        assert_eq!(note.addresses.len(), 2);
        assert_eq!(note.changed_at, Some(9));
    }
}
