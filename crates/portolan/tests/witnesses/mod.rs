//! A packet of ours through a lab, what agents tell of it, and the witnesses that hear of it by other means.

// Each test binary uses its own part of this room.
#![allow(dead_code)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Stdio};
use std::time::Duration;

use portolan_kernel::conntrack::{Conntrack, Entry, Tuple};
use portolan_kernel::netns;
use portolan_kernel::probe::{self, End, Shot};
use portolan_lab::Place;
use portolan_story::evidence::{
    Backend, Direction, Fate, Flow, Header, NodeEvidence, Passage, Source, Watch, Watching,
};
use rand::Rng;
use serde_json::Value;

use crate::support::{Space, World, wait_for};

mod wire;

pub use wire::{Crossing, Wire};

/// What a test sends, and who must have seen it.
pub struct Case {
    pub name: &'static str,
    pub to: SocketAddr,
    /// `client` and `web` are pods; else a node or `outside`.
    pub from: &'static str,
    /// The nodes that the packet touches, in order.
    pub nodes: &'static [&'static str],
}

/// A client on node-1 and a server on node-2 behind a Service.
pub struct Scene {
    space: Space,
    pub client_ip: String,
    web_ip: String,
    service_ip: String,
    node_port: u16,
}

/// A rule's witness: its chain's rules as another program prints them.
pub struct Rules {
    /// World, node, table with family, chain.
    pub lines: fn(&World, &str, &str, &str) -> Vec<String>,
    /// What was told and what is printed at its place.
    pub reads_alike: fn(&str, &str) -> bool,
}

/// What one node told, and what its witnesses have.
#[derive(Debug)]
pub struct Told {
    pub node: String,
    pub evidence: NodeEvidence,
    pub crossings: Vec<Crossing>,
    pub flows: Vec<Entry>,
}

pub fn scene(world: &'static World, name: &'static str) -> Scene {
    let space = world.space(name);
    space.pod("web", "node-2", "", "");
    space.shell("client", "node-1");
    space.ready("web");
    let manifest = "apiVersion: v1\nkind: Service\nmetadata: { name: web }\n\
                    spec: { type: NodePort, selector: { app: web }, ports: [{ port: 80 }] }\n";
    space.apply(manifest);
    let scene = Scene {
        space,
        client_ip: space.field("pod/client", ".status.podIP"),
        web_ip: space.field("pod/web", ".status.podIP"),
        service_ip: space.field("svc/web", ".spec.clusterIP"),
        node_port: space.field("svc/web", ".spec.ports[0].nodePort").parse().expect("a port"),
    };
    for (place, host, port) in [("node-1", &scene.service_ip, 80), ("node-2", &scene.service_ip, 80)] {
        let url = format!("http://{host}:{port}/");
        wait_for(&format!("{url} from {place}"), 60, || {
            world.at(place, &["curl", "-s", "-m", "1", &url]).ok().then_some(())
        });
    }
    scene
}

impl Scene {
    pub fn service(&self) -> SocketAddr {
        format!("{}:80", self.service_ip).parse().expect("an address")
    }

    pub fn cases(&self) -> Vec<Case> {
        let to = |host: &str, port: u16| format!("{host}:{port}").parse().expect("an address");
        vec![
            Case {
                name: "pod to Service, other node",
                to: self.service(),
                from: "client",
                nodes: &["node-1", "node-2"],
            },
            Case {
                name: "pod to pod, other node",
                to: to(&self.web_ip, 80),
                from: "client",
                nodes: &["node-1", "node-2"],
            },
            Case { name: "closed port", to: to(&self.web_ip, 81), from: "client", nodes: &["node-1", "node-2"] },
            Case { name: "node to Service", to: self.service(), from: "node-1", nodes: &["node-1", "node-2"] },
            Case { name: "hairpin", to: self.service(), from: "web", nodes: &["node-2"] },
            Case {
                name: "outside to node port, other node",
                to: to("172.18.0.11", self.node_port),
                from: "outside",
                nodes: &["node-1", "node-2"],
            },
            Case {
                name: "outside to node port, same node",
                to: to("172.18.0.12", self.node_port),
                from: "outside",
                nodes: &["node-2"],
            },
        ]
    }

    /// The network namespace that a sender is in.
    fn netns(&self, world: &World, from: &str) -> OwnedFd {
        match from {
            "client" | "web" => netns_of_pod(self.space, from),
            place => netns_of_place(world, place),
        }
    }
}

/// A program at the place, asked for its namespace as long as it lives.
fn netns_of_place(world: &World, place: &str) -> OwnedFd {
    let place: Place = place.parse().expect("a place");
    let mut command = world.lab().command(&place, "cat").expect("the place is there");
    let mut child: Child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
    // What it echoes says that it has come there.
    use std::io::{Read, Write};
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(b"x").expect("it reads");
    child.stdout.as_mut().expect("piped").read_exact(&mut [0]).expect("it answers");
    let path = format!("/proc/{}/ns/net", child.id());
    let fd = netns::open(path.as_ref()).expect("its namespace");
    drop(stdin);
    child.wait().expect("it ends");
    fd
}

/// A process of the machine that is in the pod's namespace has it.
fn netns_of_pod(space: Space, pod: &str) -> OwnedFd {
    let named = space.exec(pod, &["readlink", "/proc/self/ns/net"]).done();
    let inode: u64 = named.trim().trim_start_matches("net:[").trim_end_matches(']').parse().expect("net:[N]");
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let mut files = processes.map(|process| process.path().join("ns/net"));
    let file = files.find(|file| std::fs::metadata(file).is_ok_and(|data| data.ino() == inode));
    netns::open(&file.expect("a process is in it")).expect("its namespace")
}

pub fn path(node: &str) -> String {
    format!("/api/v1/nodes/{node}/proxy/portolan/v1/trace")
}

pub fn try_begin(world: &World, node: &str, flow: &Flow, lasts_ms: u64) -> Option<String> {
    let watch = Watch { flow: flow.clone(), lasts_ms, count: 1 };
    let body = serde_json::to_string(&watch).expect("JSON");
    let said = world.kubectl_in(&format!("create --raw {} -f -", path(node)), &body);
    serde_json::from_str::<Watching>(&said.out).ok().map(|watching| watching.id)
}

#[track_caller]
pub fn begin(world: &World, node: &str, flow: &Flow, lasts_ms: u64) -> String {
    wait_for(&format!("{node} listens"), 60, || try_begin(world, node, flow, lasts_ms))
}

#[track_caller]
pub fn end(world: &World, node: &str, id: &str) -> NodeEvidence {
    let said = world.kubectl_in(&format!("create --raw {}/{id}/end -f -", path(node)), "").done();
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// Sends one packet while both nodes listen, and their links are looked at.
pub fn watch_and_send(world: &World, scene: &Scene, case: &Case, patience_ms: u64) -> Vec<Told> {
    let number = rand::rng().random_range(1..u32::MAX - 1);
    let flow = Flow::Sequence { number };
    let nodes = ["node-1", "node-2"];
    let homes: Vec<OwnedFd> = nodes.iter().map(|node| netns_of_place(world, node)).collect();
    let mut wires: Vec<Wire> = homes.iter().map(Wire::open).collect();
    let ids: Vec<String> = nodes.iter().map(|node| begin(world, node, &flow, 60_000)).collect();
    let shot = Shot { to: case.to, source_port: None, patience: Duration::from_millis(patience_ms) };
    let from = scene.netns(world, case.from);
    use std::os::fd::AsFd;
    let seen = netns::run_in(from.as_fd(), || probe::tcp(&shot, number)).expect("in the sender's namespace");
    assert!(!matches!(seen.end, End::NotSent { .. }), "{}: {seen:?}", case.name);
    assert!(seen.local.is_some(), "{}: {seen:?}", case.name);
    let mut told = Vec::new();
    for (at, node) in nodes.iter().enumerate() {
        let evidence = end(world, node, &ids[at]);
        let crossings = wires[at].crossings(number);
        let list = netns::run_in(homes[at].as_fd(), || Conntrack::open().expect("conntrack").list().expect("flows"));
        let flows = list.expect("in the node's namespace");
        told.push(Told { node: (*node).to_owned(), evidence, crossings, flows });
    }
    told
}

/// Sends the case's packet, and holds what every node tells against its witnesses.
pub fn hold(world: &World, scene: &Scene, case: &Case, backend: Backend, rules: &Rules) {
    let told = watch_and_send(world, scene, case, 10_000);
    let touched: Vec<&str> =
        told.iter().filter(|told| !told.evidence.passages.is_empty()).map(|told| told.node.as_str()).collect();
    assert_eq!(touched, case.nodes, "{}: {told:#?}", case.name);
    for told in told.iter().filter(|told| case.nodes.contains(&told.node.as_str())) {
        let what = format!("{} at {}: {told:#?}", case.name, told.node);
        let NodeEvidence { node, source, backend: by, passages, lost } = &told.evidence;
        assert_eq!((&**node, *source, *by, *lost), (told.node.as_str(), Source::Kernel, backend, false), "{what}");
        assert!(passages.iter().any(|passage| passage.direction == Direction::Forth), "{what}");
        assert!(passages.iter().any(|passage| passage.direction == Direction::Back), "{what}");
        links_bear_out(told, &what);
        for passage in passages {
            conntrack_bears_out(told, passage, &what);
            route_bears_out(world, told, passage, &what);
            rules_bear_out(world, told, passage, rules, &what);
        }
    }
    oracle_allows(told.iter().find(|told| told.node == case.nodes[0]).expect("it was touched"), case);
}

/// Every crossing of a link is told, and every one that is told was seen there.
fn links_bear_out(told: &Told, what: &str) {
    let claimed = told.evidence.passages.iter().flat_map(|passage| {
        let crossing = |link: &portolan_model::Text, leaves, header: Header| Crossing {
            link: link.to_string(),
            leaves,
            src: header.src,
            dst: header.dst,
        };
        let came = passage.came_by.as_ref().map(|link| crossing(link, false, passage.entered));
        let went = passage.went_by.as_ref().map(|link| crossing(link, true, passage.left));
        came.into_iter().chain(went)
    });
    let claimed: BTreeSet<Crossing> = claimed.collect();
    let seen: BTreeSet<Crossing> = told.crossings.iter().filter(|crossing| crossing.link != "lo").cloned().collect();
    assert_eq!(claimed, seen, "{what}");
}

fn conntrack_bears_out(told: &Told, passage: &Passage, what: &str) {
    let ends = |tuple: &Tuple| (SocketAddr::new(tuple.src, tuple.src_port), SocketAddr::new(tuple.dst, tuple.dst_port));
    let entered = (passage.entered.src, passage.entered.dst);
    let has = |entry: &&Entry| ends(&entry.original) == entered || ends(&entry.reply) == entered;
    // A reset takes the flow away.
    let Some(flow) = &passage.flow else { return assert_eq!(told.flows.iter().find(has), None, "{what}") };
    let entry = told.flows.iter().find(|entry| {
        ends(&entry.original) == (flow.original.src, flow.original.dst)
            && ends(&entry.reply) == (flow.reply.src, flow.reply.dst)
    });
    let entry = entry.unwrap_or_else(|| panic!("conntrack has {flow:?}: {what}"));
    assert_eq!((entry.id, entry.has_seen_reply(), flow.older), (flow.id, flow.answered, false), "{what}");
    let begins = match passage.direction {
        Direction::Forth => (flow.original.src, flow.original.dst),
        Direction::Back => (flow.reply.src, flow.reply.dst),
    };
    assert_eq!(entered, begins, "{what}");
}

/// `ip route get` from where the packet came, in the words of iproute2.
fn route_bears_out(world: &World, told: &Told, passage: &Passage, what: &str) {
    let route = passage.route.as_ref().unwrap_or_else(|| panic!("a route led on: {what}"));
    let (to, from) = (passage.left.dst.ip().to_string(), passage.entered.src.ip().to_string());
    let mut question = vec!["ip", "-j", "route", "get", &to];
    if let Some(link) = &passage.came_by {
        question.extend(["from", &from, "iif", link]);
    }
    let said = world.at(&told.node, &question).done();
    let answer: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    let answer = &answer[0];
    assert_eq!(route.gateway.map(|ip| ip.to_string()).as_deref(), answer["gateway"].as_str(), "{said} {what}");
    if passage.fate == Fate::Sent {
        assert_eq!(route.link.as_deref(), answer["dev"].as_str(), "{said} {what}");
        assert_eq!(route.link, passage.went_by, "{what}");
        question.insert(4, "fibmatch");
        let matched: Value = serde_json::from_str(&world.at(&told.node, &question).done()).expect("JSON");
        let prefix = route.prefix.expect("the kernel says it").to_string();
        let matched = matched[0]["dst"].as_str().expect("a destination").to_owned();
        let matched = if matched.contains('/') { matched } else { format!("{matched}/32") };
        assert_eq!(prefix, matched, "{what}");
    }
}

/// Each rule stands where it is told to, and reads as it is told to.
fn rules_bear_out(world: &World, told: &Told, passage: &Passage, rules: &Rules, what: &str) {
    for step in passage.steps.iter().filter(|step| step.handle.is_some()) {
        let rule = step.rule.as_ref().unwrap_or_else(|| panic!("{step:?} has no name: {what}"));
        let lines = (rules.lines)(world, &told.node, &step.table, &step.chain);
        let line = step.index.and_then(|index| lines.get(index)).unwrap_or_else(|| panic!("{step:?} of {lines:#?}"));
        assert!((rules.reads_alike)(&rule.text, line), "told {:?}, is {line:?}: {what}", rule.text);
        if let portolan_dataplane::meaning::Meaning::SendsTo { endpoint, .. } = &rule.meaning {
            assert_eq!(step.rewritten.map(|header| header.dst), Some(*endpoint), "{what}");
        }
    }
}

/// What happened is among what Services promise.
fn oracle_allows(told: &Told, case: &Case) {
    use portolan_model::verdict::Outcome;
    let forth = told.evidence.passages.iter().find(|passage| passage.direction == Direction::Forth).expect("it went");
    let masquerade = forth.left.src != forth.entered.src;
    let outcome = match forth.left.dst == forth.entered.dst {
        true => Outcome::Untouched { masquerade },
        false => Outcome::Dnat { to: forth.left.dst, masquerade },
    };
    assert!(forth.allowed.contains(&outcome), "{}: {outcome:?} is none of {:?}", case.name, forth.allowed);
}
