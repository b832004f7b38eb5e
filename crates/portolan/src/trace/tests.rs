//! A trace against a cluster that is written here: what is asked of whom, in which order, and what comes of answers that
//! do not come.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use clap::Parser;
use http::{Request, Response};
use kube::client::Body;
use portolan_model::{Family, Proto, ProxySettings, Settings};
use portolan_story::evidence::{
    Backend, Direction, Fate, Flow, Header, NodeEvidence, Passage, Probe, ProbeEnd, Probed, Seen, Source, Watch,
    Watching,
};
use portolan_story::node::{DnsAnswered, NodeSettings};
use portolan_story::story::{End, Story};
use serde_json::{Value, json};

use super::question::Written;
use super::reach::Reach;
use super::session::Session;
use super::{TraceArgs, question};
use crate::failure::Failure;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: TraceArgs,
}

fn args(line: &str) -> TraceArgs {
    Command::parse_from(std::iter::once("trace").chain(line.split_whitespace())).args
}

/// What was asked, in order: `POST node-1 trace`, and its body.
type Log = Arc<Mutex<Vec<(String, String)>>>;

fn lists(path: &str) -> Option<Value> {
    let node = |n: u8| {
        json!({ "metadata": { "name": format!("node-{n}") }, "spec": { "podCIDRs": [format!("10.244.{n}.0/26")] },
        "status": { "addresses": [{ "type": "InternalIP", "address": format!("172.18.0.1{n}") }],
                    "conditions": [{ "type": "Ready", "status": "True" }] } })
    };
    let pod = |name: &str, n: u8, addr: &str| {
        json!({ "metadata": { "name": name, "namespace": "default" },
                "spec": { "nodeName": format!("node-{n}"), "containers": [{ "name": "main", "image": "x" }] },
                "status": { "phase": "Running", "podIPs": [{ "ip": addr }] } })
    };
    let items = match path {
        "/api/v1/namespaces" => json!([{ "metadata": { "name": "default" } }]),
        "/api/v1/nodes" => json!([node(1), node(2)]),
        "/api/v1/services" => json!([{ "metadata": { "name": "web", "namespace": "default" },
            "spec": { "clusterIPs": ["10.96.0.5"], "type": "NodePort", "ports": [{ "port": 80, "nodePort": 30080 }] } }]),
        "/api/v1/pods" => json!([pod("client", 1, "10.244.1.9"), pod("web", 2, "10.244.2.2")]),
        "/apis/discovery.k8s.io/v1/endpointslices" => json!([{
            "metadata": { "name": "web-a", "namespace": "default", "labels": { "kubernetes.io/service-name": "web" } },
            "addressType": "IPv4", "ports": [{ "port": 8080, "name": "" }], "endpoints": [{ "addresses": ["10.244.2.2"] }] }]),
        _ => return None,
    };
    Some(json!({ "metadata": {}, "items": items }))
}

fn settings(node: &str) -> NodeSettings {
    let range = |text: &str| text.parse().expect("a range");
    NodeSettings {
        settings: Settings {
            node: node.into(),
            cluster_cidrs: vec![range("10.244.0.0/16")],
            service_cidrs: vec![range("10.96.0.0/12")],
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            proxy: ProxySettings::default(),
        },
        backend: Backend::Iptables,
        legacy: false,
        families: vec![Family::V4],
        masquerade_mark: 0x4000,
        random_ports: false,
        drop_invalid: false,
        comment_limit: 1000,
        dns: DnsAnswered::Service,
        lan_interface: "eth0".into(),
        addresses: Vec::new(),
    }
}

fn header(src: &str, dst: &str) -> Header {
    let address = |text: &str| text.parse().expect("an address");
    Header { src: address(src), dst: address(dst), proto: Proto::Tcp }
}

const CLIENT: &str = "10.244.1.9:40001";

fn evidence(node: &str) -> NodeEvidence {
    let passage = |direction, entered, left| Passage {
        direction,
        entered,
        left,
        came_by: None,
        went_by: None,
        at_us: 1,
        steps: Vec::new(),
        fate: Fate::Sent,
        flow: None,
        route: None,
        allowed: Vec::new(),
    };
    let (front, back) = (header(CLIENT, "10.96.0.5:80"), header(CLIENT, "10.244.2.2:8080"));
    let stray = header("172.18.0.11:999", "10.244.2.2:8080");
    let passages = match node {
        "node-1" => vec![
            passage(Direction::Forth, front, back),
            passage(Direction::Back, header("10.244.2.2:8080", CLIENT), header("10.96.0.5:80", CLIENT)),
        ],
        _ => vec![passage(Direction::Forth, stray, stray), passage(Direction::Forth, back, back)],
    };
    NodeEvidence { node: node.into(), source: Source::Kernel, backend: Backend::Iptables, passages, lost: false }
}

/// An agent's answers; `rest` is the path below `/portolan/v1/`.
fn agent(node: &str, rest: &str) -> Option<Value> {
    let address = |text: &str| Some(text.parse().expect("an address"));
    let value = match rest.split('?').next().unwrap_or_default() {
        "settings" => serde_json::to_value(settings(node)),
        "status" => {
            Ok(json!({ "bgp": { "sessions": [{ "peer": "172.18.0.12", "state": "Established", "uptimeSecs": 9 }] } }))
        }
        "trace" => serde_json::to_value(Watching { id: format!("w-{node}") }),
        "trace/w-node-1/probe" => serde_json::to_value(Probed {
            dns: None,
            local: address(CLIENT),
            remote: address("10.96.0.5:80"),
            end: ProbeEnd::Answered,
            took_us: 300,
        }),
        "trace/w-node-1" => serde_json::to_value(Seen {
            packets: vec![
                (Direction::Forth, header(CLIENT, "10.96.0.5:80")),
                (Direction::Back, header("10.244.2.2:8080", CLIENT)),
            ],
        }),
        "trace/w-node-2" => serde_json::to_value(Seen::default()),
        "trace/w-node-1/end" | "trace/w-node-2/end" => serde_json::to_value(evidence(node)),
        _ => return None,
    };
    Some(value.expect("JSON"))
}

/// A cluster whose agents of `dead` nodes answer 502.
fn cluster(dead: &'static [&'static str]) -> (Reach, Log) {
    let log = Log::default();
    let seen = log.clone();
    let answer = move |request: Request<Body>| {
        let log = log.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.expect("a body");
            let path = parts.uri.path_and_query().map(|path| path.to_string()).unwrap_or_default();
            let proxied = path.strip_prefix("/api/v1/nodes/").and_then(|rest| rest.split_once("/proxy/portolan/v1/"));
            let said = |code: u16, value: Value| {
                let response = Response::builder().status(code).body(Body::from(value.to_string().into_bytes()));
                Ok::<_, Infallible>(response.expect("a response"))
            };
            let Some((node, rest)) = proxied else {
                return said(200, lists(&path).unwrap_or_else(|| panic!("{path} is asked for")));
            };
            let line = format!("{} {node} {}", parts.method, rest.split('?').next().unwrap_or_default());
            log.lock().expect("the log").push((line, String::from_utf8_lossy(&body).into_owned()));
            if dead.contains(&node) {
                return said(
                    502,
                    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "code": 502, "reason": "InternalError", "message": format!("cannot reach node {node}; is its agent running?") }),
                );
            }
            said(200, agent(node, rest).unwrap_or_else(|| panic!("{node} is asked for {rest}")))
        }
    };
    let client = kube::Client::new(tower::service_fn(answer), "default");
    (Reach { client, lab: None }, seen)
}

async fn session_of(line: &str, reach: &Reach) -> Result<Vec<Story>, Failure> {
    let args = args(line);
    let written = Written::read(&args)?;
    let session = Session::begin(&args, &written, reach).await?;
    if args.live { session.follow(args.count).await } else { session.send(7).await.map(|story| vec![story]) }
}

fn asked(log: &Log) -> Vec<String> {
    let all = log.lock().expect("the log");
    all.iter().map(|(line, _)| line.clone()).filter(|line| line.contains(" trace")).collect()
}

fn body<T: serde::de::DeserializeOwned>(log: &Log, line: &str) -> T {
    let all = log.lock().expect("the log");
    let (_, body) = all.iter().find(|(of, _)| of == line).unwrap_or_else(|| panic!("{line} was not asked"));
    serde_json::from_str(body).expect("its body")
}

#[tokio::test]
async fn every_node_listens_before_one_sends_and_every_node_is_asked_what_it_saw() {
    let (reach, log) = cluster(&[]);
    let stories = session_of("pod/client svc/web", &reach).await.expect("a story");
    assert_eq!(stories[0].verdict.end, End::Delivered);
    assert_eq!((stories[0].asked.from.as_str(), stories[0].asked.to.as_str()), ("pod/client", "svc/web"));
    let mut lines = asked(&log);
    lines[..2].sort();
    lines[3..].sort();
    let expected = [
        "POST node-1 trace",
        "POST node-2 trace",
        "POST node-1 trace/w-node-1/probe",
        "POST node-1 trace/w-node-1/end",
        "POST node-2 trace/w-node-2/end",
    ];
    assert_eq!(lines, expected);
    let (watch, probe): (Watch, Probe) =
        (body(&log, "POST node-2 trace"), body(&log, "POST node-1 trace/w-node-1/probe"));
    assert_eq!(watch.flow, probe.flow);
    assert!(matches!(probe.flow, Flow::Sequence { .. }), "{:?}", probe.flow);
    assert_eq!(probe.pod.map(|pod| pod.to_string()).as_deref(), Some("default/client"));
    assert!(watch.lasts_ms > probe.patience_ms, "a watch outlives the wait for an answer");
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_left_out_and_the_senders_is_not() {
    let (reach, log) = cluster(&["node-2"]);
    let stories = session_of("pod/client svc/web", &reach).await.expect("node-2 is not needed");
    assert_eq!(stories[0].verdict.end, End::Delivered);
    assert!(!asked(&log).contains(&"POST node-2 trace/w-node-2/end".to_owned()));
    let (reach, log) = cluster(&["node-1"]);
    let why = session_of("pod/client svc/web", &reach).await.expect_err("node-1 sends").to_string();
    assert!(
        why.starts_with("cannot trace from pod/client: node-1 says: cannot reach node node-1; is its agent running?"),
        "{why}"
    );
    assert!(asked(&log).contains(&"POST node-2 trace/w-node-2/end".to_owned()), "nothing listens on");
}

#[tokio::test]
async fn outside_is_a_labs_and_unknown_places_are_named() {
    let (reach, _) = cluster(&[]);
    for (line, expected) in [
        ("outside svc/web", "outside is the host outside of a lab, and this cluster is none"),
        ("pod/cleint svc/web", "no Pod default/cleint; did you mean default/client?"),
        ("pod/client svc/wbe", "no Service default/wbe; did you mean default/web?"),
        ("any svc/web", "FROM any: nobody in particular can send"),
        ("node/node-3 svc/web", "no Node node-3"),
    ] {
        let why = session_of(line, &reach).await.expect_err(line).to_string();
        assert!(why.starts_with(expected), "{line}: {why}");
    }
}

#[tokio::test]
async fn a_connection_of_others_is_known_by_its_ends_and_strays_are_left_out() {
    let (reach, log) = cluster(&[]);
    let stories = session_of("pod/client svc/web --live --timeout 5", &reach).await.expect("a story");
    assert_eq!(stories.iter().map(|story| story.verdict.end).collect::<Vec<_>>(), [End::Delivered]);
    assert!(stories[0].asked.live);
    let flow = |node: u8| body::<Watch>(&log, &format!("POST node-{node} trace")).flow;
    let Flow::Live { sources, destinations, .. } = flow(1) else { panic!("{:?}", flow(1)) };
    assert_eq!(sources.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.244.1.9"]);
    let all: Vec<String> = destinations.iter().map(ToString::to_string).collect();
    assert_eq!(all, ["10.96.0.5:80", "172.18.0.11:30080", "172.18.0.12:30080", "10.244.2.2:8080"]);
    let Flow::Live { sources, .. } = flow(2) else { panic!("{:?}", flow(2)) };
    assert_eq!(sources.len(), 3, "another node may see a source that was rewritten: {sources:?}");
    let nobody = session_of("node/node-2 svc/web --live --timeout 1", &reach).await.expect("a story");
    assert_eq!(nobody[0].verdict.end, End::NotSeen, "the packet was another's");
}

#[test]
fn a_name_that_is_no_services_cannot_be_followed_live() {
    let args = args("pod/client example.com:80 --live");
    let written = Written::read(&args).expect("places");
    let target = portolan_story::evidence::Target::Name("example.com".to_owned(), 80);
    let why =
        question::ends(&written, &target, &portolan_model::Facts::default()).expect_err("nobody knows").to_string();
    assert!(why.contains("example.com: no Service of the cluster has that name"), "{why}");
}
