//! Packets that arrive: whole texts.

use portolan_dataplane::meaning::{Door, Masqueraded, Meaning};
use portolan_model::verdict::Outcome;
use portolan_model::{EndpointFact, Fact, ObjectKind, Proto};

use super::scene::{
    Way, allowing, answered, asked, at, evidence, facts, header, knows, objects, of, older, probed, route, story,
    to_node_2, to_pod, usual,
};
use crate::evidence::{Act, DnsQuery, DnsTold, Hook, NodeEvidence, ProbeEnd, Probed, Source};
use crate::fixture::{key, service};
use crate::objects::Objects;
use crate::story::{End, Stage, Story};
use crate::tell::tell;
use crate::text::{Style, render};

/// Compares with `goldens/NAME`, or writes it.
fn golden(name: &str, text: &str, golden: &str) {
    if std::env::var_os("PORTOLAN_BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tell/tests/goldens/");
        return std::fs::write(format!("{path}{name}"), text).expect("the folder is there");
    }
    assert_eq!(text, golden, "{name}: PORTOLAN_BLESS=1 writes it anew");
}

macro_rules! golden {
    ($name:literal, $text:expr) => {
        golden($name, &$text, include_str!(concat!("goldens/", $name)))
    };
}

fn plain(story: &Story) -> String {
    let text = render(story, Style::default());
    let lines = text.lines().count();
    assert!(lines <= 10, "a healthy packet's story is ten lines or fewer, not {lines}:\n{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 110), "{text}");
    assert_eq!(story.verdict.end, End::Delivered, "{text}");
    assert_eq!((&story.verdict.because, &story.oracle.differs), (&None, &None), "{text}");
    text
}

const CLIENT: &str = "10.244.0.5:37266";

fn dns() -> DnsTold {
    let query = DnsQuery {
        name: "web.default.svc.cluster.local".to_owned(),
        record: "A".to_owned(),
        server: at("10.96.0.10:53").ip(),
        answer: "NOERROR".to_owned(),
        aliases: Vec::new(),
        addresses: vec![at("10.96.0.11:80").ip()],
        ttl_secs: Some(5),
        took_us: 180,
    };
    DnsTold { name: "web".to_owned(), hosts: false, queries: vec![query], addresses: vec![at("10.96.0.11:80").ip()] }
}

/// client → web → b on the other node, and its answer; nodes in the wrong order, as agents may answer.
fn other_node() -> (Probed, Vec<NodeEvidence>) {
    let (cluster, endpoint) = ("10.96.0.11:80", "10.244.1.6:8080");
    let tcp = |from, to| header(from, to, Proto::Tcp);
    let first = Way::forth("cali-client", tcp(CLIENT, cluster)).web(Door::ClusterIp, None, endpoint);
    let first = first.forwarded().keeps_source().sent("eth0", to_node_2());
    let both = ["10.244.0.6:8080", endpoint].map(|to| Outcome::Dnat { to: at(to), masquerade: false });
    let first = allowing(first, &both);
    let back = Way::back("eth0", tcp(endpoint, CLIENT)).becomes(tcp(cluster, CLIENT));
    let back = back.sent("cali-client", to_pod("client", "10.244.0.5"));
    let second = Way::forth("eth0", tcp(CLIENT, endpoint)).forwarded().keeps_source();
    let second =
        allowing(second.sent("cali-b", to_pod("b", "10.244.1.6")), &[Outcome::Untouched { masquerade: false }]);
    let answer =
        Way::back("cali-b", tcp(endpoint, CLIENT)).sent("eth0", route("10.244.0.0/24", Some("172.18.0.11"), "eth0"));
    let probed = Probed { dns: Some(dns()), ..answered(CLIENT, cluster) };
    (probed, vec![evidence("node-2", vec![answer, second]), evidence("node-1", vec![first, back])])
}

#[test]
fn a_pod_reaches_a_service_on_another_node() {
    let (probed, evidence) = other_node();
    let told = story("pod/client", "svc/web:80", &probed, &evidence);
    golden!("other-node.txt", plain(&told));
    golden!("other-node-verbose.txt", render(&told, Style { verbose: true, ..Style::default() }));
    golden!("other-node.json", serde_json::to_string_pretty(&told).expect("it is JSON") + "\n");
    let stages: Vec<Stage> = told.hops.iter().filter(|hop| !hop.quiet).map(|hop| hop.stage).collect();
    use Stage::{Arrive, Deliver, Dnat, Dns, Route, Service, Snat};
    assert_eq!(stages, [Dns, Arrive, Service, Dnat, Route, Snat, Arrive, Deliver]);
    let again: Story = serde_json::from_str(&serde_json::to_string(&told).expect("it is JSON")).expect("and is read");
    assert_eq!(again, told);
}

#[test]
fn the_order_of_evidence_and_packets_sent_twice_change_nothing() {
    let (probed, mut nodes) = other_node();
    let told = story("pod/client", "svc/web:80", &probed, &nodes);
    for node in &mut nodes {
        let mut again = node.passages.clone();
        again.iter_mut().for_each(|passage| passage.at_us += 1_000_000);
        node.passages.extend(again);
        node.passages.reverse();
    }
    nodes.reverse();
    assert_eq!(story("pod/client", "svc/web:80", &probed, &nodes), told);
}

#[test]
fn colours_stand_in_nothing_but_a_terminals_text() {
    let (probed, evidence) = other_node();
    let told = story("pod/client", "svc/web:80", &probed, &evidence);
    let coloured = render(&told, Style { colours: true, ..Style::default() });
    assert!(coloured.starts_with("\x1b[32m✔ delivered\x1b[0m"), "{coloured}");
    let mut bare = coloured;
    for code in ["\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m"] {
        bare = bare.replace(code, "");
    }
    assert_eq!(bare, render(&told, Style::default()));
}

#[test]
fn a_narrow_terminal_folds_lines_and_loses_no_word() {
    let (probed, evidence) = other_node();
    let told = story("pod/client", "svc/web:80", &probed, &evidence);
    let narrow = render(&told, Style { width: 50, ..Style::default() });
    assert!(narrow.lines().all(|line| line.chars().count() <= 50), "{narrow}");
    for word in told.hops.iter().filter(|hop| !hop.quiet).flat_map(|hop| hop.says.split_whitespace()) {
        assert!(narrow.contains(word), "{word} is not in\n{narrow}");
    }
}

#[test]
fn a_pod_reaches_a_service_on_its_own_node() {
    let (cluster, endpoint) = ("10.96.0.11:80", "10.244.0.6:8080");
    let tcp = |from, to| header(from, to, Proto::Tcp);
    let forth = Way::forth("cali-client", tcp(CLIENT, cluster)).web(Door::ClusterIp, None, endpoint);
    let forth = forth.forwarded().keeps_source().sent("cali-a", to_pod("a", "10.244.0.6"));
    let back = Way::back("cali-a", tcp(endpoint, CLIENT)).becomes(tcp(cluster, CLIENT));
    let back = back.sent("cali-client", to_pod("client", "10.244.0.5"));
    let told =
        story("pod/client", "10.96.0.11:80", &answered(CLIENT, cluster), &[evidence("node-1", vec![forth, back])]);
    golden!("same-node.txt", plain(&told));
}

#[test]
fn a_pod_that_reaches_itself_is_masqueraded() {
    let (me, cluster, endpoint) = ("10.244.0.6:40000", "10.96.0.11:80", "10.244.0.6:8080");
    let tcp = |from, to| header(from, to, Proto::Tcp);
    let forth = Way::forth("cali-a", tcp(me, cluster)).web(Door::ClusterIp, Some(Masqueraded::Hairpin), endpoint);
    let forth = forth.forwarded().masqueraded("172.18.0.11:61001").sent("cali-a", to_pod("a", "10.244.0.6"));
    let back = Way::back("cali-a", tcp(endpoint, "172.18.0.11:61001")).becomes(tcp(cluster, me));
    let back = back.sent("cali-a", to_pod("a", "10.244.0.6"));
    let told = story("pod/a", "svc/web", &answered(me, cluster), &[evidence("node-1", vec![forth, back])]);
    golden!("hairpin.txt", plain(&told));
}

#[test]
fn a_node_reaches_a_service_and_is_masqueraded() {
    let (me, cluster, endpoint) = ("172.18.0.11:50000", "10.96.0.11:80", "10.244.1.6:8080");
    let tcp = |from, to| header(from, to, Proto::Tcp);
    let forth = Way::forth("", tcp(me, cluster)).web(Door::ClusterIp, Some(Masqueraded::NotFromPod), endpoint);
    let forth = forth.masqueraded("172.18.0.11:61001").sent("eth0", to_node_2());
    let new = "172.18.0.11:61001";
    let second =
        Way::forth("eth0", tcp(new, endpoint)).forwarded().keeps_source().sent("cali-b", to_pod("b", "10.244.1.6"));
    let back = Way::back("eth0", tcp(endpoint, new)).becomes(tcp(cluster, me)).taken();
    let nodes = [evidence("node-1", vec![forth, back]), evidence("node-2", vec![second])];
    let told = story("node/node-1", "svc/web", &answered(me, cluster), &nodes);
    golden!("from-node.txt", plain(&told));
    // MASQUERADE may keep the port too: then only the rule tells that it was done, and the oracle agrees.
    let cluster_masqueraded = Outcome::Dnat { to: at(endpoint), masquerade: true };
    let same = Way::forth("", tcp(me, cluster)).web(Door::ClusterIp, Some(Masqueraded::NotFromPod), endpoint);
    let same = allowing(same.masqueraded(me).sent("eth0", to_node_2()), &[cluster_masqueraded]);
    let told = story("node/node-1", "svc/web", &answered(me, cluster), &[evidence("node-1", vec![same])]);
    let snat = told.hops.iter().find(|hop| hop.stage == Stage::Snat).expect("a hop about the source");
    assert_eq!(snat.says, "yes, by the address it had: the sender is no pod");
    assert_eq!(told.oracle.differs, None);
}

#[test]
fn an_outside_host_reaches_a_node_port_of_the_other_node() {
    let (me, node_port, endpoint) = ("172.18.0.1:44444", "172.18.0.11:30001", "10.244.1.6:8080");
    let new = "172.18.0.11:61001";
    let tcp = |from, to| header(from, to, Proto::Tcp);
    let forth = Way::forth("eth0", tcp(me, node_port)).web(Door::NodePort, Some(Masqueraded::External), endpoint);
    let forth = forth.forwarded().masqueraded(new).sent("eth0", to_node_2());
    let second =
        Way::forth("eth0", tcp(new, endpoint)).forwarded().keeps_source().sent("cali-b", to_pod("b", "10.244.1.6"));
    let answer = Way::back("cali-b", tcp(endpoint, new)).sent("eth0", route("172.18.0.0/24", None, "eth0"));
    let back = Way::back("eth0", tcp(endpoint, new))
        .becomes(tcp(node_port, me))
        .sent("eth0", route("172.18.0.0/24", None, "eth0"));
    let nodes = [evidence("node-1", vec![forth, back]), evidence("node-2", vec![second, answer])];
    let told = story("outside", "svc/web", &answered(me, node_port), &nodes);
    golden!("node-port.txt", plain(&told));
}

#[test]
fn ipv6_is_told_as_ipv4_is() {
    let (me, cluster, endpoint) = ("[fd00:10:244::5]:37266", "[fd00:10:96::11]:80", "[fd00:10:244:1::6]:8080");
    let tcp = |from, to| header(from, to, Proto::Tcp);
    let forth = Way::forth("cali-client", tcp(me, cluster)).web(Door::ClusterIp, None, endpoint);
    let way = route("fd00:10:244:1::/64", Some("fd00:18::12"), "eth0");
    let forth = forth.forwarded().keeps_source().sent("eth0", way);
    let second = Way::forth("eth0", tcp(me, endpoint)).forwarded().keeps_source().sent("cali-b", to_pod6());
    let nodes = [evidence("node-1", vec![forth]), evidence("node-2", vec![second])];
    let told = story("pod/client", "svc/web", &answered(me, cluster), &nodes);
    golden!("ipv6.txt", plain(&told));
}

fn to_pod6() -> crate::evidence::RouteTold {
    crate::evidence::RouteTold {
        object: Some(of(ObjectKind::Pod, "b")),
        ..route("fd00:10:244:1::6/128", None, "cali-b")
    }
}

#[test]
fn a_dns_query_that_the_node_answers_is_not_tracked() {
    let query = header(CLIENT, "10.96.0.10:53", Proto::Udp);
    let untracked = |way: Way| {
        way.step(
            Hook::Prerouting,
            "raw PORTOLAN-DNS",
            "-d 10.96.0.10/32 -p udp -m udp --dport 53 -j NOTRACK",
            Meaning::KeepsUntracked,
            Act::Continue,
        )
    };
    let forth = untracked(Way::forth("cali-client", query)).untracked();
    let answer = header("10.96.0.10:53", CLIENT, Proto::Udp);
    let mut back = Way::back("", answer).sent("cali-client", to_pod("client", "10.244.0.5"));
    back.flow = None;
    let mut facts = usual();
    let dns = portolan_model::Service { ports: Vec::new(), ..service(10, 0) };
    let dns = portolan_model::Service { cluster_ips: vec![at("10.96.0.10:53").ip()], ..dns };
    facts.push(Fact::Service(portolan_model::NsName::new("kube-system", "kube-dns"), Some(dns)));
    let asked = crate::story::Asked { proto: Proto::Udp, ..asked("pod/client", "10.96.0.10:53") };
    let probed = answered(CLIENT, "10.96.0.10:53");
    let told = tell(asked, Some(&probed), &[evidence("node-1", vec![forth, back])], &knows(&facts, objects()));
    golden!("dns-query.txt", plain(&told));
}

#[test]
fn a_udp_packet_that_arrives_needs_no_answer() {
    let (from, to) = (CLIENT, "10.244.1.6:9999");
    let first =
        Way::forth("cali-client", header(from, to, Proto::Udp)).forwarded().keeps_source().sent("eth0", to_node_2());
    let second = Way::forth("eth0", header(from, to, Proto::Udp))
        .forwarded()
        .keeps_source()
        .sent("cali-b", to_pod("b", "10.244.1.6"));
    let asked = crate::story::Asked { proto: Proto::Udp, ..asked("pod/client", "pod/b:9999") };
    // Nothing but the sender's own node tells which was first.
    let nodes = [evidence("node-2", vec![second]), evidence("node-1", vec![first])];
    let silence = probed(from, to, ProbeEnd::Silence);
    let told = tell(asked.clone(), Some(&silence), &nodes, &knows(&usual(), objects()));
    golden!("udp-pod.txt", plain(&told));
    let lost = tell(asked, Some(&silence), &nodes[1..], &knows(&usual(), objects()));
    assert_eq!(lost.verdict.end, End::Unanswered, "it never came to node-2");
}

#[test]
fn endpoints_that_may_not_be_chosen_are_named_with_the_reason() {
    let mut facts = facts(service(11, 30001), &["a", "b"]);
    for fact in &mut facts {
        if let Fact::Slice(_, Some(slice)) = fact {
            let is_a = |endpoint: &&mut EndpointFact| endpoint.pod.as_ref() == Some(&key("a"));
            slice.endpoints.iter_mut().filter(is_a).for_each(|a| (a.ready, a.serving) = (false, false));
        }
    }
    let mut notes = objects();
    let a = notes.pods.get_mut(&key("a")).expect("a is there");
    (a.ready, a.ready_since) = (false, Some(super::scene::NOW - 12));
    let (probed, nodes) = other_node();
    let told = tell(asked("pod/client", "svc/web"), Some(&probed), &nodes, &knows(&facts, notes));
    let service = told.hops.iter().find(|hop| hop.stage == Stage::Service).expect("a hop about the Service");
    assert_eq!(service.says, "web:http by its ClusterIP: its only endpoint of 2; left out: a not Ready for 12 s");
    let chances: Vec<(bool, f64, Option<&str>)> =
        service.choices.iter().map(|choice| (choice.taken, choice.chance, choice.left_out.as_deref())).collect();
    assert_eq!(chances, [(true, 1.0, None), (false, 0.0, Some("not Ready for 12 s"))]);
}

#[test]
fn a_plan_is_told_as_what_would_be() {
    let (_, mut nodes) = other_node();
    for node in &mut nodes {
        node.source = Source::Plan;
        for passage in &mut node.passages {
            passage.flow = None;
            passage.left = match (passage.direction, &*node.node) {
                (crate::evidence::Direction::Forth, _) => header(CLIENT, "10.244.1.6:8080", Proto::Tcp),
                (crate::evidence::Direction::Back, "node-1") => header("10.96.0.11:80", CLIENT, Proto::Tcp),
                _ => passage.left,
            };
        }
    }
    let told = tell(asked("pod/client", "svc/web"), None, &nodes, &knows(&usual(), objects()));
    golden!("plan.txt", plain(&told));
    assert!(told.hops.iter().chain(&told.back).all(|hop| hop.at_us.is_none()), "a plan has no times");
}

#[test]
fn an_entry_from_before_says_that_no_rule_was_asked() {
    let (cluster, endpoint) = ("10.96.0.11:80", "10.244.1.6:8080");
    let tcp = |from, to| header(from, to, Proto::Tcp);
    let first =
        older(Way::forth("cali-client", tcp(CLIENT, cluster)).becomes(tcp(CLIENT, endpoint)).sent("eth0", to_node_2()));
    let second = Way::forth("eth0", tcp(CLIENT, endpoint)).sent("cali-b", to_pod("b", "10.244.1.6"));
    let nodes = [evidence("node-1", vec![first]), evidence("node-2", vec![second])];
    let told = story("pod/client", "svc/web", &answered(CLIENT, cluster), &nodes);
    let flow = told.hops.iter().find(|hop| hop.stage == Stage::Conntrack).expect("a hop about conntrack");
    assert_eq!(
        flow.says,
        "no rule was asked: a conntrack entry from before makes it 10.244.0.5:37266 → 10.244.1.6:8080"
    );
    plain(&told);
}

#[test]
fn what_kernel_and_oracle_say_differently_is_said() {
    let (probed, mut nodes) = other_node();
    let allowed = [Outcome::Dnat { to: at("10.244.0.6:8080"), masquerade: false }];
    for passage in nodes.iter_mut().flat_map(|node| &mut node.passages).filter(|passage| passage.allowed.len() == 2) {
        passage.allowed = allowed.to_vec();
    }
    let told = story("pod/client", "svc/web", &probed, &nodes);
    let text = render(&told, Style::default());
    let line = "✘ kernel and oracle differ: node-1 sends it to 10.244.1.6:8080, but Services promise: sends it to\n  10.244.0.6:8080";
    assert!(text.contains(line), "{text}");
    let coloured = render(&told, Style { colours: true, ..Style::default() });
    assert!(coloured.contains("\x1b[31m✘ kernel and oracle differ"), "{coloured}");
}

#[test]
fn nobody_knows_anything_and_nothing_breaks() {
    let told = tell(asked("pod/client", "svc/web"), None, &[], &crate::knows::Knows::default());
    assert_eq!(told.verdict.end, End::NotSeen);
    let (probed, nodes) = other_node();
    let told = tell(asked("pod/client", "svc/web"), Some(&probed), &nodes, &crate::knows::Knows::default());
    assert_eq!(told.verdict.end, End::Delivered);
    let told = tell(asked("pod/client", "svc/web"), Some(&probed), &nodes, &knows(&usual(), Objects::default()));
    assert_eq!(told.verdict.end, End::Delivered);
}

/// Every field that JSON has, in the page that documents it.
#[test]
fn the_page_about_traces_names_every_field() {
    let page = include_str!("../../../../../docs/trace.md");
    let json: serde_json::Value =
        serde_json::from_str(include_str!("goldens/other-node.json")).expect("a golden is JSON");
    let mut left = vec![&json];
    let mut names = std::collections::BTreeSet::new();
    while let Some(value) = left.pop() {
        match value {
            serde_json::Value::Object(fields) => {
                names.extend(fields.keys().cloned());
                left.extend(fields.values());
            }
            serde_json::Value::Array(values) => left.extend(values),
            _ => {}
        }
    }
    let is_named = |name: &String| {
        [format!("`{name}`"), format!(".{name}`"), format!("`{name}."), format!("\"{name}\"")]
            .iter()
            .any(|word| page.contains(word))
    };
    let missing: Vec<&String> = names.iter().filter(|name| !is_named(name)).collect();
    assert!(missing.is_empty(), "docs/trace.md does not name {missing:?}");
    assert!(names.len() > 40 && page.contains(crate::story::SCHEMA), "{names:?}");
}
