//! What people type, and what becomes of it.

use std::net::{IpAddr, SocketAddr};

use portolan_model::{
    EndpointFact, Fact, Facts, Family, Node, NsName, Pod, Proto, Service, ServiceKind, ServicePortFact, Slice,
    SlicePort,
};
use proptest::prelude::*;

use super::find::{Ground, NotFound, resolve};
use super::{Goal, Port, Sender};
use crate::evidence::Target;
use crate::objects::{Objects, PodNote};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

fn from(text: &str) -> Sender {
    Sender::parse(text, "shop").expect(text)
}

fn to(text: &str) -> Goal {
    Goal::parse(text, "shop").expect(text)
}

#[test]
fn every_form_is_read() {
    let key = |namespace: &str| NsName::new(namespace, "web");
    assert_eq!(from("pod/web"), Sender::Pod(key("shop")));
    assert_eq!(from("pod/other/web"), Sender::Pod(key("other")));
    assert_eq!(from("other/web"), Sender::Pod(key("other")));
    assert_eq!(from("node/node-1"), Sender::Node("node-1".into()));
    assert_eq!(from("outside"), Sender::Outside);
    let number = |n| Some(Port::Number(n));
    let rows = [
        ("svc/web", Goal::Service(key("shop"), None)),
        ("svc/web:80", Goal::Service(key("shop"), number(80))),
        ("svc/other/web:http", Goal::Service(key("other"), Some(Port::Name("http".into())))),
        ("service/web", Goal::Service(key("shop"), None)),
        ("pod/other/web:8080", Goal::Pod(key("other"), number(8080))),
        ("node/node-1:30080", Goal::Node("node-1".into(), 30080)),
        ("outside:80", Goal::Outside(80)),
        ("10.96.0.1:443", Goal::Address("10.96.0.1:443".parse().expect("literal"))),
        ("[fd00::1]:53", Goal::Address("[fd00::1]:53".parse().expect("literal"))),
        ("web", Goal::Name("web".into(), None)),
        ("web.default:80", Goal::Name("web.default".into(), number(80))),
        ("ylzhong.top.:443", Goal::Name("ylzhong.top.".into(), number(443))),
    ];
    for (text, goal) in rows {
        assert_eq!(to(text), goal, "{text}");
    }
}

#[test]
fn what_is_no_place_is_refused_in_one_line_that_names_the_forms() {
    let senders = ["", "web", "svc/web", "pod/", "pod/A", "pod/a/b/c", "node/a/b", "a/b/c/d", "nose/a/b", "node/", "/"];
    for text in senders {
        let error = Sender::parse(text, "default").expect_err(text).to_string();
        assert!(error.starts_with(&format!("FROM {text:?}: ")) && error.contains("say pod/NAME"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    let rows = [
        ("", "empty"),
        ("10.0.0.1", "such as 10.0.0.1:80"),
        ("fd00::1", "such as [fd00::1]:80"),
        ("[fd00::1]", "such as [fd00::1]:80"),
        ("10.0.0.1:0", "port 0"),
        ("svc/web:0", "port 0"),
        ("svc/web:65536", "port 65536"),
        ("svc/web:", "neither a port number"),
        ("svc/web:80:90", "neither a port number"),
        ("svc/web:HTTP", "neither a port number"),
        ("svc/", "not a name"),
        ("svc/a/b/c", "too many slashes"),
        ("default/web", "does not say what default/web is"),
        ("node/node-1", "node/node-1:80"),
        ("node/node-1:http", "no number"),
        ("outside", "outside:80"),
        ("we b", "no DNS name"),
        ("-web", "no DNS name"),
        ("http://web", "neither a port number"),
        ("a/b/c", "no such form"),
    ];
    for (text, why) in rows {
        let error = Goal::parse(text, "default").err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.starts_with(&format!("TO {text:?}: ")) && error.contains(why), "{text}: {error}");
        assert!(error.contains("say svc/NAME[:PORT]") && !error.contains('\n'), "{error}");
    }
}

fn any_name() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?"
}

fn any_port() -> impl Strategy<Value = Port> {
    prop_oneof![(1..=u16::MAX).prop_map(Port::Number), "[a-z][a-z0-9]{0,14}".prop_map(|name| Port::Name(name.into()))]
}

fn any_sender() -> impl Strategy<Value = Sender> {
    prop_oneof![
        (any_name(), any_name()).prop_map(|(namespace, name)| Sender::Pod(NsName::new(namespace, name))),
        any_name().prop_map(|name| Sender::Node(name.into())),
        Just(Sender::Outside),
    ]
}

fn any_goal() -> impl Strategy<Value = Goal> {
    let key = || (any_name(), any_name()).prop_map(|(namespace, name)| NsName::new(namespace, name));
    let port = || proptest::option::of(any_port());
    let number = || 1..=u16::MAX;
    // `outside` with a number is a place of its own, and digits with dots may be an address.
    let name = "[a-z]{1,6}[.][a-z_]{1,5}[.]?";
    prop_oneof![
        (key(), port()).prop_map(|(key, port)| Goal::Service(key, port)),
        (key(), port()).prop_map(|(key, port)| Goal::Pod(key, port)),
        (any_name(), number()).prop_map(|(name, port)| Goal::Node(name.into(), port)),
        number().prop_map(Goal::Outside),
        (any::<IpAddr>(), number()).prop_map(|(addr, port)| Goal::Address(SocketAddr::new(addr, port))),
        (name, port()).prop_map(|(name, port)| Goal::Name(name, port)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_again(sender in any_sender(), goal in any_goal(), namespace in any_name()) {
        prop_assert_eq!(Sender::parse(&sender.to_string(), &namespace), Ok(sender));
        prop_assert_eq!(Goal::parse(&goal.to_string(), &namespace), Ok(goal));
    }

    /// Whatever is typed is read or refused, and what is read can be written and read again.
    #[test]
    fn anything_may_be_typed(text in "(pod|svc|node|outside|[a-z0-9.\\[\\]]){0,3}[/:a-z0-9.\\[\\]\\PC]{0,24}") {
        if let Ok(sender) = Sender::parse(&text, "default") {
            prop_assert_eq!(Sender::parse(&sender.to_string(), "x"), Ok(sender));
        }
        if let Ok(goal) = Goal::parse(&text, "default") {
            prop_assert_eq!(Goal::parse(&goal.to_string(), "x"), Ok(goal));
        }
    }
}

fn service(kind: ServiceKind, ips: &[&str], ports: &[(&str, u16, u16)]) -> Service {
    let port = |(name, port, node_port): &(&str, u16, u16)| ServicePortFact {
        name: (*name).into(),
        proto: Proto::Tcp,
        port: *port,
        node_port: *node_port,
    };
    let ports = ports.iter().map(port).collect();
    Service { kind, cluster_ips: ips.iter().map(|text| ip(text)).collect(), ports, ..Service::default() }
}

/// Namespace shop has web (two families), ports (two ports), db (headless), far (ExternalName), lb; other has web.
fn cluster() -> (Facts, Objects) {
    let key = |name: &str| NsName::new("shop", name);
    let pod = |node: &str, addresses: &[&str], host_network| Pod {
        node: (!node.is_empty()).then(|| node.into()),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        host_network,
        ..Pod::default()
    };
    let node = |addr: &str| Node { addresses: vec![ip(addr), ip("fd00:18::11")], ready: true, ..Node::default() };
    let lb = Service {
        load_balancer_ips: vec![ip("172.18.0.100")],
        ..service(ServiceKind::LoadBalancer, &["10.96.0.9"], &[("http", 80, 30090)])
    };
    let db = Slice {
        service: key("db"),
        family: Family::V4,
        ports: vec![SlicePort { name: "sql".into(), proto: Proto::Tcp, port: 5432 }],
        endpoints: vec![EndpointFact::ready_at(ip("10.244.0.7"))],
    };
    let mut facts = Facts::default();
    let services = [
        (key("web"), service(ServiceKind::NodePort, &["10.96.0.5", "fd00:10:96::5"], &[("http", 80, 30080)])),
        (key("ports"), service(ServiceKind::ClusterIp, &["10.96.0.6"], &[("http", 80, 0), ("metrics", 90, 0)])),
        (key("db"), service(ServiceKind::Headless, &[], &[("sql", 80, 0)])),
        (key("far"), service(ServiceKind::ExternalName("far.example".into()), &[], &[("http", 80, 0)])),
        (key("lb"), lb),
        (NsName::new("other", "shop"), service(ServiceKind::ClusterIp, &["10.96.0.8"], &[("", 80, 0)])),
    ];
    facts.apply_all(services.map(|(key, service)| Fact::Service(key, Some(service))));
    facts.apply(Fact::Slice(key("db-1"), Some(db)));
    facts.apply(Fact::Node("node-1".into(), Some(node("172.18.0.11"))));
    facts.apply(Fact::Pod(key("client"), Some(pod("node-1", &["10.244.0.5", "fd00:10:244::5"], false))));
    facts.apply(Fact::Pod(key("host"), Some(pod("node-1", &["172.18.0.11"], true))));
    facts.apply(Fact::Pod(key("new"), Some(pod("", &[], false))));
    let note = PodNote {
        ports: vec![("dns".into(), Proto::Udp, 53), ("http".into(), Proto::Tcp, 8080)],
        ..PodNote::default()
    };
    let objects = Objects { pods: [(key("client"), note)].into(), ..Objects::default() };
    (facts, objects)
}

fn ask(sender: &str, goal: &str, family: Option<Family>) -> Result<Target, NotFound> {
    let (facts, objects) = cluster();
    let outside = [ip("172.18.0.1")];
    let ground = Ground { facts: &facts, objects: &objects, outside: &outside, family };
    resolve(&from(sender), &to(goal), &ground, Proto::Tcp)
}

#[test]
fn each_sender_asks_for_a_service_in_its_own_way() {
    let rows = [
        ("pod/client", "svc/web", "web 80"),
        ("pod/client", "svc/web:http", "web 80"),
        ("pod/client", "svc/other/shop", "shop.other 80"),
        ("pod/client", "svc/web:81", "web 81"),
        ("pod/client", "web", "web 80"),
        ("pod/client", "web.shop:8", "web.shop 8"),
        ("pod/client", "svc/db", "db 5432"),
        ("pod/client", "svc/far", "far 80"),
        ("pod/host", "svc/web", "10.96.0.5:80"),
        ("node/node-1", "svc/web", "10.96.0.5:80"),
        ("node/node-1", "svc/db", "10.244.0.7:5432"),
        ("node/node-1", "svc/far", "far.example 80"),
        ("outside", "svc/lb", "172.18.0.100:80"),
        ("outside", "svc/web", "172.18.0.11:30080"),
        ("outside", "svc/web:81", "10.96.0.5:81"),
        ("outside", "svc/ports:http", "10.96.0.6:80"),
        ("outside", "pod/client", "10.244.0.5:8080"),
        ("outside", "pod/client:http", "10.244.0.5:8080"),
        ("outside", "node/node-1:22", "172.18.0.11:22"),
        ("pod/client", "outside:80", "172.18.0.1:80"),
    ];
    for (sender, goal, expected) in rows {
        let found = match ask(sender, goal, None) {
            Ok(Target::Address(addr)) => addr.to_string(),
            Ok(Target::Name(name, port)) => format!("{name} {port}"),
            Err(error) => error.to_string(),
        };
        assert_eq!(found, expected, "{sender} {goal}");
    }
    let v6 = ask("pod/client", "svc/web", Some(Family::V6));
    assert_eq!(v6, Ok(Target::Address("[fd00:10:96::5]:80".parse().expect("literal"))));
}

#[test]
fn what_is_not_there_is_named_with_what_is() {
    let rows = [
        ("pod/client", "svc/wbe", "no Service shop/wbe; did you mean shop/web?"),
        ("pod/client", "svc/shop/shop", "no Service shop/shop; did you mean other/shop?"),
        ("pod/client", "svc/void/zzz", "no Service void/zzz; there are none"),
        ("pod/cleint", "svc/web", "no Pod shop/cleint; did you mean shop/client?"),
        ("node/node-9", "svc/web", "no Node node-9; did you mean node-1?"),
        ("pod/new", "svc/web", "pod shop/new has no address: no node runs it yet; see `kubectl describe pod`"),
        ("pod/client", "svc/ports", "Service shop/ports: which port? it has http 80/tcp, metrics 90/tcp; add :PORT"),
        ("pod/client", "svc/web:sql", "Service shop/web has no tcp port \"sql\"; it has http 80/tcp"),
        ("pod/client", "nobody", "nobody: which port? no Service shop/nobody says it; add :PORT as a number"),
        (
            "pod/client",
            "wbe",
            "wbe: which port? no Service shop/wbe (did you mean web?) says it; add :PORT as a number",
        ),
        ("outside", "pod/host", "pod shop/host: which port? the pod declares none; add :PORT as a number"),
    ];
    for (sender, goal, expected) in rows {
        let found = ask(sender, goal, None).err().map(|error| error.to_string());
        assert_eq!(found.as_deref(), Some(expected), "{sender} {goal}");
    }
    let error = ask("node/node-1", "svc/ports:80", Some(Family::V6)).expect_err("IPv4 only").to_string();
    assert!(error.starts_with("Service shop/ports has no IPv6 address"), "{error}");
}
