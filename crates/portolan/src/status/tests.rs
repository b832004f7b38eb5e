//! What was found, and the words and numbers it becomes.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use portolan_lab::{NodeStatus, Role, Status, UnitStatus};
use serde_json::{Value, json};

use super::gather::{Cost, Objects, Observed};
use super::report::Report;
use super::text;

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn agent(peer: &str, state: &str, seen_at: &str, took_micros: Option<u64>) -> Value {
    let last_error = if state == "Established" { Value::Null } else { "hold timer expired".into() };
    json!({
        "core": {"lastChange": {
            "object": "EndpointSlice default/web-x7k2p", "revision": 120, "seenAt": seen_at, "programmedAfterMicros": took_micros,
        }},
        "bgp": {
            "sessions": [{"peer": peer, "state": state, "lastError": last_error}],
            "routes": if state == "Established" { json!([{"prefix": "10.244.0.64/26"}]) } else { json!([]) },
        },
        "dns": {
            "listening": ["172.18.0.11", "10.96.0.10"], "upstreams": ["114.114.114.114:53", "8.8.8.8:53"],
            "queries": 12, "replies": {"SERVFAIL": 0},
        },
    })
}

fn node(name: &str, cidr: &str, ready: &str) -> Value {
    json!({
        "metadata": {"name": name}, "spec": {"podCIDRs": [cidr]},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    })
}

fn pod(name: &str, node: &str, ready: &str) -> Value {
    json!({
        "metadata": {"namespace": "default", "name": name}, "spec": {"nodeName": node},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
    })
}

fn service(name: &str, spec: Value) -> Value {
    json!({"metadata": {"namespace": "default", "name": name}, "spec": spec})
}

fn slice(service: &str, endpoints: Value) -> Value {
    json!({
        "metadata": {"namespace": "default", "name": format!("{service}-x"), "labels": {"kubernetes.io/service-name": service}},
        "endpoints": endpoints,
    })
}

/// Two nodes, three pods, a Service: nothing is wrong.
fn well() -> Observed {
    let unit = |name: &str| UnitStatus { name: name.into(), pid: Some(7), restarts: 0, last_end: None };
    let node_status =
        |name: &str, last: u8| NodeStatus { name: name.into(), address: [172, 18, 0, last].into(), plugged: true };
    let cost = |role, pss_kib, millis| Cost { role, pss_kib: Some(pss_kib), cpu: Duration::from_millis(millis) };
    Observed {
        kubeconfig: "/run/portolan/labs/demo/admin.kubeconfig".into(),
        cluster_dns: "10.96.0.10".parse().expect("an address"),
        lab: Status {
            name: "demo".into(),
            nodes: vec![node_status("node-1", 11), node_status("node-2", 12)],
            units: ["upstream", "apiserver", "agent-node-1", "agent-node-2"].map(unit).into(),
            cuts: Vec::new(),
        },
        objects: Ok(Objects {
            nodes: vec![node("node-1", "10.244.0.0/26", "True"), node("node-2", "10.244.0.64/26", "True")],
            pods: vec![pod("a", "node-1", "True"), pod("b", "node-2", "True"), pod("c", "node-2", "True")],
            services: vec![service("web", json!({"type": "ClusterIP", "clusterIP": "10.96.7.7"}))],
            endpoint_slices: vec![slice("web", json!([{"addresses": ["10.244.0.2"]}, {"addresses": ["10.244.0.66"]}]))],
        }),
        agents: BTreeMap::from([
            ("node-1".into(), Ok(agent("172.18.0.12", "Established", "2026-11-22T10:00:00.000Z", Some(12_100)))),
            ("node-2".into(), Ok(agent("172.18.0.11", "Established", "2026-11-22T10:00:00.002Z", Some(13_400)))),
        ]),
        processes: vec![
            cost(Role::Keeper, 2_110, 10),
            cost(Role::Init, 3_130, 20),
            cost(Role::ApiServer, 13_107, 310),
            cost(Role::Agent("node-1".into()), 9_626, 120),
            cost(Role::Agent("node-2".into()), 9_554, 110),
            cost(Role::Upstream, 2_212, 0),
            cost(Role::Shim, 3_041, 20),
            cost(Role::Container("nginx: master".into()), 2_918, 10),
        ],
        up_for: Duration::from_secs(200),
        now: at("2026-11-22T10:00:42.500Z"),
    }
}

#[test]
fn a_lab_in_which_all_is_well_is_told_in_eighty_columns() {
    let report = Report::of(&well());
    assert!(report.healthy, "{:?}", report.problems);
    let said = text::of(&report);
    let expected = "\
lab demo: all is well
export KUBECONFIG=/run/portolan/labs/demo/admin.kubeconfig

NODE    STATE  ADDRESS      POD CIDR        PODS  BGP  ROUTES
node-1  Ready  172.18.0.11  10.244.0.0/26   1/1   1/1  1
node-2  Ready  172.18.0.12  10.244.0.64/26  2/2   1/1  1

DNS     SERVES  QUERIES  SERVFAIL  UPSTREAMS
node-1  yes     12       0         114.114.114.114:53, 8.8.8.8:53
node-2  yes     12       0         114.114.114.114:53, 8.8.8.8:53

pods         3, 3 ready: 3 Running
services     1: 1 ClusterIP; 2 endpoints ready
last change  42s ago: EndpointSlice default/web-x7k2p (revision 120), programmed
             on all nodes within 15.4 ms, last on node-2

PROCESSES            NUMBER  MEMORY (PSS)  CPU TIME
API server           1       12.8 MiB      0.31 s
agents               2       18.7 MiB      0.23 s
keeper               1       2.1 MiB       0.01 s
lab init             1       3.1 MiB       0.02 s
upstream of outside  1       2.2 MiB       0.00 s
shims                1       3.0 MiB       0.02 s
pods' programs       1       2.8 MiB       0.01 s
in all               8       44.6 MiB      0.60 s
up for 3m20s; CPU in all 0.3 % of one
";
    assert_eq!(said, expected);
    assert!(said.lines().all(|line| line.chars().count() <= 80));
}

#[test]
fn a_program_reads_the_same_by_names_that_stay() {
    let json = serde_json::to_value(Report::of(&well())).expect("JSON");
    assert_eq!((&json["name"], &json["healthy"], &json["problems"]), (&"demo".into(), &true.into(), &json!([])));
    let expected = json!({
        "name": "node-2", "address": "172.18.0.12", "state": "Ready", "podCidrs": ["10.244.0.64/26"],
        "pods": {"ready": 2, "total": 2}, "silentBecause": null,
        "dns": {"serving": true, "upstreams": ["114.114.114.114:53", "8.8.8.8:53"], "queries": 12, "servfail": 0},
        "bgp": {"established": 1, "expected": 1, "routes": 1, "down": []},
        "lastChange": {
            "object": "EndpointSlice default/web-x7k2p", "revision": 120, "seenAt": "2026-11-22T10:00:00.002Z",
            "programmedAfterMillis": 13.4,
        },
    });
    assert_eq!(json["nodes"][1], expected);
    assert_eq!(json["pods"], json!({"total": 3, "ready": 3, "phases": {"Running": 3}, "notReady": []}));
    let services = json!({"total": 1, "types": {"ClusterIP": 1}, "endpointsReady": 2, "withoutEndpoints": []});
    assert_eq!(json["services"], services);
    assert_eq!(json["lastChange"]["ageSeconds"], 42);
    assert_eq!(
        json["cost"]["processes"][1],
        json!({"kind": "agents", "count": 2, "memoryKib": 19180, "cpuSeconds": 0.23})
    );
}

#[test]
fn what_is_not_right_is_named_with_its_reason_first_of_all() {
    let mut seen = well();
    seen.agents.insert("node-2".into(), Err("cannot reach 172.18.0.12:10250".into()));
    seen.agents.insert("node-1".into(), Ok(agent("172.18.0.12", "Active", "2026-11-22T10:00:00Z", None)));
    seen.lab.units[3] =
        UnitStatus { name: "agent-node-2".into(), pid: None, restarts: 3, last_end: Some("signal 9".into()) };
    let objects = seen.objects.as_mut().expect("there");
    objects.nodes[1] = node("node-2", "10.244.0.64/26", "False");
    objects.pods.push(json!({
        "metadata": {"namespace": "default", "name": "crashing"}, "spec": {"nodeName": "node-1"},
        "status": {"phase": "Running", "containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]},
    }));
    objects.services.push(service("empty", json!({"type": "NodePort", "clusterIP": "10.96.8.8"})));
    let report = Report::of(&seen);
    let expected = [
        "agent-node-2 does not run; it is started again after signal 9",
        "node-1 has 0 of 1 BGP sessions: 172.18.0.12 (Active, hold timer expired)",
        "node-2 is not Ready",
        "the agent of node-2 does not answer: cannot reach 172.18.0.12:10250",
        "pod default/crashing on node-1 is not ready: CrashLoopBackOff",
        "Service default/empty has no ready endpoint",
        "node-1 has not programmed EndpointSlice default/web-x7k2p (revision 120)",
    ];
    assert_eq!(report.problems, expected);
    let said = text::of(&report);
    assert!(said.starts_with("lab demo: 7 things are not right\n  agent-node-2 does not run"), "{said}");
    assert!(said.contains("node-2  NotReady  172.18.0.12  10.244.0.64/26  2/2   -    -\n"), "{said}");
    assert!(said.contains("restarted    agent-node-2 3 times (last end: signal 9)\n"), "{said}");
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
}

#[test]
fn an_api_server_that_does_not_answer_hides_only_what_it_alone_knows() {
    let mut seen = well();
    seen.objects = Err("connection refused".into());
    let report = Report::of(&seen);
    assert_eq!(report.problems[0], "the API server does not answer: connection refused");
    let said = text::of(&report);
    assert!(said.contains("node-1  unknown  172.18.0.11  -         0/0   1/1  1\n"), "{said}");
    assert!(said.contains("in all               8") && !said.contains("\npods  "), "{said}");
}

#[test]
fn a_stopped_node_is_named_and_its_missing_agent_is_not() {
    let mut seen = well();
    seen.lab.nodes[1].plugged = false;
    seen.lab.units[3].pid = None;
    seen.agents.remove("node-2");
    let problems = Report::of(&seen).problems;
    assert_eq!(problems, ["node-2 is stopped; `portolan node start node-2` starts it"]);
}

#[test]
fn a_cut_in_the_lan_is_named_with_what_mends_it() {
    let mut seen = well();
    seen.lab.cuts.push(("node-1".into(), "outside".into()));
    let problems = Report::of(&seen).problems;
    assert_eq!(problems, ["nothing passes between node-1 and outside; `portolan lan heal node-1 outside` mends it"]);
}

#[test]
fn a_node_without_a_block_or_a_route_is_named() {
    let mut seen = well();
    seen.objects.as_mut().expect("there").nodes[0]["spec"] = json!({});
    let mut deaf = agent("172.18.0.11", "Established", "2026-11-22T10:00:00Z", Some(1));
    deaf["bgp"]["routes"] = json!([]);
    seen.agents.insert("node-2".into(), Ok(deaf));
    let problems = Report::of(&seen).problems;
    assert_eq!(problems, ["node-1 has no pod CIDR", "node-2 has routes to 0 of 1 other nodes"]);
}

/// Reason by pod status.
#[test]
fn a_pod_that_is_not_ready_has_the_reason_that_kubectl_shows() {
    let rows = [
        (
            json!({"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull"}}}]}),
            "ErrImagePull",
        ),
        (json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"reason": "Error"}}}]}), "Error"),
        (
            json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}),
            "Unschedulable",
        ),
        (json!({"phase": "Failed", "reason": "Evicted"}), "Evicted"),
        (json!({"phase": "Running"}), "its readiness is not given"),
        (json!({}), "Pending"),
    ];
    for (status, expected) in rows {
        let mut seen = well();
        let pod = json!({"metadata": {"namespace": "default", "name": "x"}, "spec": {}, "status": status});
        seen.objects.as_mut().expect("there").pods = vec![pod];
        assert_eq!(Report::of(&seen).problems, [format!("pod default/x is not ready: {expected}")], "{status}");
    }
}

#[test]
fn pods_that_ran_to_their_end_or_are_ending_are_not_wrong() {
    let mut seen = well();
    let pods = &mut seen.objects.as_mut().expect("there").pods;
    pods.push(json!({"metadata": {"namespace": "default", "name": "done"}, "spec": {"nodeName": "node-1"}, "status": {"phase": "Succeeded"}}));
    let mut ending = pod("ending", "node-1", "False");
    ending["metadata"]["deletionTimestamp"] = "2026-11-22T10:00:00Z".into();
    pods.push(ending);
    let report = Report::of(&seen);
    assert!(report.healthy, "{:?}", report.problems);
    let said = text::of(&report);
    assert!(said.contains("pods         5, 3 ready: 4 Running, 1 Succeeded, 1 Terminating\n"), "{said}");
}

#[test]
fn endpoints_count_once_and_only_when_ready() {
    let mut seen = well();
    let objects = seen.objects.as_mut().expect("there");
    objects.services = vec![
        service("web", json!({"type": "ClusterIP", "clusterIP": "10.96.7.7"})),
        service("hidden", json!({"type": "ClusterIP", "clusterIP": "None"})),
        service("far", json!({"type": "ExternalName", "externalName": "ylzhong.top"})),
    ];
    let endpoint = |address: &str, ready: bool| json!({"addresses": [address], "conditions": {"ready": ready}});
    objects.endpoint_slices = vec![
        slice("web", json!([endpoint("10.244.0.2", true), endpoint("10.244.0.3", false)])),
        slice("web", json!([endpoint("10.244.0.2", true)])),
        slice("hidden", json!([endpoint("10.244.0.9", false)])),
    ];
    let report = Report::of(&seen);
    let services = serde_json::to_value(&report.services).expect("JSON");
    let expected = json!({
        "total": 3, "types": {"ClusterIP": 1, "ExternalName": 1, "Headless": 1}, "endpointsReady": 1,
        "withoutEndpoints": ["default/hidden"],
    });
    assert_eq!(services, expected);
}

#[test]
fn the_last_change_is_the_newest_revision_and_counts_until_the_slowest_node() {
    let told = |revision: u64, seen_at: &str, took: Option<u64>| {
        let mut agent = agent("172.18.0.12", "Established", seen_at, took);
        agent["core"]["lastChange"]["revision"] = revision.into();
        Ok(agent)
    };
    let last = |one, two| {
        let mut seen = well();
        seen.agents = BTreeMap::from([("node-1".to_owned(), one), ("node-2".to_owned(), two)]);
        Report::of(&seen).last_change.expect("there is one")
    };
    let behind = last(told(9, "2026-11-22T10:00:00Z", Some(5_000)), told(7, "2026-11-22T09:00:00Z", Some(5_000)));
    assert_eq!((behind.missing, behind.programmed_after_millis), (vec!["node-2".to_owned()], None));
    // Started again since: its list no longer holds what revision 9 removed.
    let restarted = last(told(9, "2026-11-22T10:00:00Z", Some(5_000)), told(7, "2026-11-22T10:00:30Z", Some(90_000)));
    assert_eq!((restarted.missing, restarted.programmed_after_millis), (vec![], Some(5.0)));
    let unwritten = last(told(9, "2026-11-22T10:00:00Z", Some(5_000)), told(9, "2026-11-22T10:00:00Z", None));
    assert_eq!((unwritten.missing, unwritten.slowest_node), (vec!["node-2".to_owned()], None));
}

#[test]
fn a_corefile_that_a_node_refuses_is_a_problem_in_its_own_words() {
    let mut seen = well();
    let agent = seen.agents.get_mut("node-2").expect("there").as_mut().expect("it answers");
    agent["dnsConfiguration"] =
        json!({"from": "shipped", "refused": "Corefile:3: unknown plugin forwerd", "refusals": 1});
    let problems = Report::of(&seen).problems;
    assert_eq!(problems, ["DNS of node-2 goes on with its older configuration: Corefile:3: unknown plugin forwerd"]);
}
