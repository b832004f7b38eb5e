//! Command lines read, and answers told: goldens of both forms.

use clap::Parser;
use portolan_dataplane::meaning::{Door, Meaning};
use portolan_model::{NsName, ObjectKind, ObjectRef, Proto, ServicePortKey};
use portolan_story::evidence::Backend;
use portolan_story::history::{Cause, Concerns, EndpointNote, Known, Origin, Shift, Since, Step};
use portolan_story::why::{Answer, Because, Changed, InPlace, NodeWhy, Nothing, PodSeen, SCHEMA, Silent, Sort, Why};

use super::question::{self, Question};
use super::{WhyArgs, text};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: WhyArgs,
}

fn read(words: &[&str]) -> Result<Vec<Question>, String> {
    let line = Line::try_parse_from(["why"].iter().chain(words)).map_err(|error| error.to_string())?;
    question::read(&line.args).map_err(|failure| failure.to_string())
}

fn key(name: &str) -> NsName {
    NsName::new("default", name)
}

#[test]
fn objects_rules_routes_and_records_are_read_and_asked() {
    let asked = [
        ("svc/web", "object=Service/default/web"),
        ("service/shop/web", "object=Service/shop/web"),
        ("pod/web-1", "object=Pod/default/web-1"),
        ("node/node-1", "object=Node/node-1"),
        ("--rule=nat KUBE-SVC-X 2", "rule=nat%20KUBE-SVC-X%202"),
        ("--route=10.244.1.7/26", "route=10.244.1.0/26"),
        ("--route=fd00::7", "route=fd00%3A%3A7/128"),
        ("--record=web.default.svc.cluster.local", "record=web.default.svc.cluster.local"),
    ];
    for (word, parameter) in asked {
        let questions = read(&[word]).expect(word);
        assert_eq!(questions.iter().map(Question::parameter).collect::<Vec<_>>(), [parameter]);
    }
    assert_eq!(read(&["svc/a", "pod/b", "--record", "c"]).map(|all| all.len()), Ok(3));
    assert_eq!(read(&["-n", "shop", "svc/web"]), Ok(vec![Question::Service(NsName::new("shop", "web"))]));
}

#[test]
fn what_cannot_be_read_says_what_can() {
    for (words, says) in [
        (&["deploy/web"][..], "OBJECT \"deploy/web\": say svc/NAME"),
        (&["web"], "OBJECT \"web\": say svc/NAME"),
        (&["svc/a/b/c"], "say svc/NAME"),
        (&["--route", "10.244.1.0/33"], "--route \"10.244.1.0/33\": say a prefix"),
        (&["--rule", " "], "--rule is empty"),
        (&["--record", "."], "--record \".\" is no name"),
        (&[], "required"),
    ] {
        let error = read(words).expect_err(says);
        assert!(error.contains(says), "{error}");
    }
}

const SECOND: i64 = 1_000_000;
/// 2026-01-01T10:15:00Z.
const TEN: i64 = 1_767_262_500 * SECOND;

fn object(kind: ObjectKind, name: &str) -> ObjectRef {
    ObjectRef { kind, key: key(name) }
}

fn replaced() -> Changed {
    let object = object(ObjectKind::EndpointSlice, "web-x2k");
    let cause = Cause {
        origin: Origin::Object { object, version: 812, gone: false },
        seen_us: TEN + 4_113_000,
        triggered_us: Some(TEN + 4 * SECOND),
        concerns: Concerns::Service(key("web")),
    };
    let note = |last: u8, pod: &str, ready: bool| EndpointNote {
        at: format!("10.244.0.{last}:80").parse().expect("an address"),
        pod: Some(key(pod)),
        ready,
        serving: ready,
        terminating: !ready,
    };
    let shift =
        Shift { came: [note(7, "web-new", true)].into(), went: [note(5, "web-old", false)].into(), ..Shift::default() };
    Changed {
        generation: 12,
        began_us: TEN + 4_114_000,
        written_us: TEN + 4_118_100,
        what: "Service default/web".into(),
        step: Step { causes: [cause].into(), shift },
    }
}

fn node(name: &str, known: Known) -> NodeWhy {
    let service = ServicePortKey { service: key("web"), port: "http".into(), proto: Proto::Tcp };
    let placed = |number: usize, at: i64, text: &str, meaning: Meaning| InPlace {
        sort: Sort::Rule,
        place: "ip nat KUBE-SERVICES".into(),
        number: Some(number),
        text: text.into(),
        meaning: Some(meaning),
        objects: vec![object(ObjectKind::Service, "web")],
        since: Some(Since { at_us: at, known }),
    };
    let endpoint = "10.244.0.7:80".parse().expect("an address");
    NodeWhy {
        node: name.into(),
        backend: Backend::Iptables,
        now_us: TEN + 7_518_100,
        started_us: TEN - 90 * SECOND,
        generation: 12,
        objects: vec![object(ObjectKind::Service, "web")],
        in_place: vec![
            placed(
                3,
                TEN - 60 * SECOND,
                "-d 10.96.0.20/32 -j KUBE-SVC-X",
                Meaning::Claims { service: service.clone(), door: Door::ClusterIp },
            ),
            placed(1, TEN + 4_118_100, "-j DNAT", Meaning::SendsTo { service, endpoint, bound: false }),
        ],
        nothing: None,
        changes: vec![replaced()],
    }
}

fn why(nodes: Vec<NodeWhy>) -> Why {
    let pod = PodSeen {
        pod: key("web-new"),
        node: Some("node-1".into()),
        ready: true,
        ready_since_us: Some(TEN + 4 * SECOND),
    };
    Why {
        schema: SCHEMA.into(),
        answers: vec![Answer { asked: "Service default/web".into(), nodes }],
        pods: vec![pod],
        silent: Vec::new(),
    }
}

#[test]
fn a_replaced_pod_is_told_as_a_chain_of_causes_and_nodes_with_the_same_rules_together() {
    let said = text::short(&why(vec![node("node-1", Known::Exactly), node("node-2", Known::Exactly)]));
    let chain = "  10:15:04      Pod default/web-new became Ready
  10:15:04.000  what EndpointSlice default/web-x2k tells of happened
  10:15:04.113  EndpointSlice default/web-x2k, version 812, was seen
  10:15:04.118  Service default/web: in the kernel; writing took 4.1 ms, 5.1 ms after the last of this was seen
                + 10.244.0.7:80 (Pod default/web-new)
                - 10.244.0.5:80 (Pod default/web-old), terminating
";
    let expected = format!(
        "Service default/web
node-1: 2 rules of Service default/web; changed 3.4 s ago
{chain}node-2: 2 rules of Service default/web; changed 3.4 s ago
{chain}on node-1 and node-2, ages as on node-1:
  ip nat KUBE-SERVICES 3, for 67 s; what is sent to the ClusterIP of default/web:http
      -d 10.96.0.20/32 -j KUBE-SVC-X
  ip nat KUBE-SERVICES 1, for 3.4 s; sends to 10.244.0.7:80
      -j DNAT
"
    );
    assert_eq!(said, expected);
}

#[test]
fn what_an_agent_found_at_its_start_is_said_to_be_older() {
    let said = text::all(&why(vec![node("node-1", Known::Older), node("node-2", Known::AtLeast)]));
    assert!(said.contains(", for more than 67 s: it was there when the agent started; what is sent"), "{said}");
    assert!(said.contains(", for 67 s or more: since the agent's start; what is sent"), "{said}");
}

#[test]
fn nothing_in_place_says_why_and_a_silent_node_is_named() {
    let mut bare = node("node-1", Known::Exactly);
    (bare.in_place, bare.changes, bare.objects) = (Vec::new(), Vec::new(), Vec::new());
    let says = "cluster DNS has no record of wbe.default.svc.cluster.local.".to_owned();
    bare.nothing =
        Some(Nothing { because: Because::NotOurs, says, near: vec!["web.default.svc.cluster.local.".into()] });
    let mut why = why(vec![bare]);
    why.silent.push(Silent { node: "node-2".into(), why: "no answer within 10 s".into() });
    let expected = "Service default/web
node-1: nothing
  cluster DNS has no record of wbe.default.svc.cluster.local.
  did you mean web.default.svc.cluster.local.?
node-2: does not answer: no answer within 10 s
";
    assert_eq!(text::short(&why), expected);
    assert!(!why.answers[0].is_yes());
}

#[test]
fn json_is_named_as_documented() {
    let value = serde_json::to_value(why(vec![node("node-1", Known::Exactly)])).expect("plain values");
    for (path, expected) in [
        ("/schema", "portolan.why/v1"),
        ("/answers/0/nodes/0/backend", "iptables"),
        ("/answers/0/nodes/0/inPlace/0/since/known", "exactly"),
        ("/answers/0/nodes/0/inPlace/0/meaning/role", "claims"),
        ("/answers/0/nodes/0/changes/0/causes/0/origin/kind", "object"),
        ("/answers/0/nodes/0/changes/0/causes/0/origin/object/kind", "EndpointSlice"),
        ("/answers/0/nodes/0/changes/0/came/0/at", "10.244.0.7:80"),
        ("/pods/0/pod/name", "web-new"),
    ] {
        assert_eq!(value.pointer(path).and_then(|v| v.as_str()), Some(expected), "{path}: {value:#}");
    }
    assert_eq!(
        value.pointer("/answers/0/nodes/0/changes/0/causes/0/seenUs").and_then(|v| v.as_i64()),
        Some(TEN + 4_113_000)
    );
    let back: Why = serde_json::from_value(value).expect("the same");
    assert_eq!(back.answers[0].nodes[0].changes[0].written_us, replaced().written_us);
}
