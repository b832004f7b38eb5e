//! Scene: a small cluster, and passages of packets through it as kernels would tell of them (iptables mode).
//!
//! client 10.244.0.5 and a 10.244.0.6 are on node-1 (172.18.0.11), b 10.244.1.6 on node-2 (172.18.0.12); web has
//! 10.96.0.11:80, node port 30001, and sends to port 8080 of a and b.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use portolan_dataplane::meaning::{Door, Masqueraded, Meaning, RuleTold};
use portolan_model::verdict::Outcome;
use portolan_model::{Fact, NsName, ObjectKind, ObjectRef, Proto, ProxySettings, Service, ServicePortKey, Text};

use crate::evidence::{
    Act, Backend, Direction, Fate, FlowEntry, Header, Hook, NodeEvidence, Passage, ProbeEnd, Probed, RouteTold,
    RouteWay, Source, Step,
};
use crate::fixture::{key, node, pod, service, slices, world};
use crate::knows::Knows;
use crate::objects::{Objects, PodNote, ServiceNote, SliceNote};
use crate::story::{Asked, Story};
use crate::tell::tell;

pub const NOW: i64 = 1_000_000;

/// Microseconds from the beginning of a watch to its packet.
const BEGAN: u64 = 2_900_000;

pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

pub fn header(from: &str, to: &str, proto: Proto) -> Header {
    Header { src: at(from), dst: at(to), proto }
}

/// The cluster's facts, web with these pods.
pub fn facts(web: Service, pods: &[&str]) -> Vec<Fact> {
    let mut facts = vec![node(1), node(2), pod("client", 1, 5), pod("a", 1, 6), pod("b", 2, 6)];
    facts.extend(slices("web", &facts.clone(), pods));
    facts.push(Fact::Service(key("web"), Some(web)));
    facts.extend(["default", "shop"].map(|name| Fact::Namespace(name.into(), Some(()))));
    facts
}

pub fn usual() -> Vec<Fact> {
    facts(service(11, 30001), &["a", "b"])
}

/// As API objects would tell of these facts: web picks app=web, pods are Ready and declare 8080 (http).
pub fn objects() -> Objects {
    let note = |app: &str| PodNote {
        labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
        ports: vec![("http".to_owned(), Proto::Tcp, 8080)],
        ready: true,
        ready_since: Some(NOW - 600),
        phase: "Running".into(),
        ..PodNote::default()
    };
    let web = ServiceNote {
        selector: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
        target_ports: BTreeMap::from([("http".into(), "8080".to_owned())]),
        version: 7,
    };
    let slice = |addresses: &[&str]| SliceNote {
        service: Some(key("web")),
        addresses: addresses.iter().map(|text| text.parse().expect("an address")).collect(),
        version: 812,
        changed_at: Some(NOW - 41),
    };
    Objects {
        pods: [("client", "client"), ("a", "web"), ("b", "web")].map(|(pod, app)| (key(pod), note(app))).into(),
        services: [(key("web"), web)].into(),
        slices: [
            (key("web-x2k"), slice(&["10.244.0.6", "10.244.1.6"])),
            (key("web-six"), slice(&["fd00:10:244:0::6", "fd00:10:244:1::6"])),
        ]
        .into(),
    }
}

/// What a teller knows of these facts.
pub fn knows(facts: &[Fact], objects: Objects) -> Knows {
    let world = world(Backend::Iptables, facts, ProxySettings::default());
    let view = |name: &Text| Arc::new(world.view(name).expect("a node of the world").snapshot.clone());
    let views = world.nodes().map(|name| (name.clone(), view(name))).collect();
    Knows { views, objects, now_secs: NOW, ..Knows::default() }
}

pub fn asked(from: &str, to: &str) -> Asked {
    Asked { from: from.to_owned(), to: to.to_owned(), proto: Proto::Tcp, live: false }
}

pub fn probed(local: &str, remote: &str, end: ProbeEnd) -> Probed {
    Probed { dns: None, local: Some(at(local)), remote: Some(at(remote)), end, took_us: 312 }
}

pub fn answered(local: &str, remote: &str) -> Probed {
    probed(local, remote, ProbeEnd::Answered)
}

pub fn evidence(node: &str, passages: Vec<Passage>) -> NodeEvidence {
    NodeEvidence { node: node.into(), source: Source::Kernel, backend: Backend::Iptables, passages, lost: false }
}

/// The story of a TCP packet in the usual cluster.
pub fn story(from: &str, to: &str, probed: &Probed, evidence: &[NodeEvidence]) -> Story {
    tell(asked(from, to), Some(probed), evidence, &knows(&usual(), objects()))
}

pub fn web() -> ServicePortKey {
    ServicePortKey { service: key("web"), port: "http".into(), proto: Proto::Tcp }
}

pub fn of(kind: ObjectKind, name: &str) -> ObjectRef {
    let namespaced = kind != ObjectKind::Node;
    ObjectRef { kind, key: NsName::new(if namespaced { "default" } else { "" }, name) }
}

/// A route by a prefix.
pub fn route(prefix: &str, gateway: Option<&str>, link: &str) -> RouteTold {
    let prefix: IpNet = prefix.parse().expect("a prefix");
    let gateway = gateway.map(|text| text.parse().expect("an address"));
    let kind = RouteWay::Forward;
    RouteTold {
        prefix: Some(prefix),
        gateway,
        link: Some(link.into()),
        kind,
        object: None,
        told_by: None,
        age_secs: None,
    }
}

/// The route to node-2's block, as BGP brought it.
pub fn to_node_2() -> RouteTold {
    let gateway = "172.18.0.12";
    let told_by = Some((gateway.parse().expect("an address"), Some("node-2".into())));
    RouteTold { told_by, age_secs: Some(41), ..route("10.244.1.0/24", Some(gateway), "eth0") }
}

/// The route to a pod of this node.
pub fn to_pod(name: &str, addr: &str) -> RouteTold {
    RouteTold { object: Some(of(ObjectKind::Pod, name)), ..route(&format!("{addr}/32"), None, &format!("cali-{name}")) }
}

pub fn no_way(kind: RouteWay, prefix: Option<&str>) -> RouteTold {
    let prefix = prefix.map(|text| text.parse().expect("a prefix"));
    RouteTold { prefix, gateway: None, link: None, kind, object: None, told_by: None, age_secs: None }
}

/// A passage that is being written down, in iptables mode.
pub struct Way {
    passage: Passage,
    now: Header,
    family: &'static str,
}

impl Way {
    /// A packet that came by an interface, or was sent by a process (`""`).
    pub fn forth(came_by: &str, entered: Header) -> Self {
        Self::new(Direction::Forth, came_by, entered)
    }

    /// An answer.
    pub fn back(came_by: &str, entered: Header) -> Self {
        Self::new(Direction::Back, came_by, entered)
    }

    fn new(direction: Direction, came_by: &str, entered: Header) -> Self {
        let passage = Passage {
            direction,
            entered,
            left: entered,
            came_by: Some(came_by).filter(|link| !link.is_empty()).map(Text::from),
            went_by: None,
            at_us: if direction == Direction::Forth { BEGAN } else { BEGAN + 300 },
            steps: Vec::new(),
            fate: Fate::Sent,
            flow: None,
            route: None,
            allowed: Vec::new(),
        };
        Self { passage, now: entered, family: if entered.dst.is_ipv6() { "ip6" } else { "ip" } }
    }

    pub fn step(mut self, hook: Hook, place: &str, text: &str, meaning: Meaning, act: Act) -> Self {
        let (table, chain) = place.split_once(' ').expect("table and chain");
        let number = self.passage.steps.len();
        let objects = meaning.service().map(|key| ObjectRef { kind: ObjectKind::Service, key: key.service.clone() });
        self.passage.steps.push(Step {
            at_us: BEGAN + 3 * number as u64 + 2,
            hook,
            table: format!("{} {table}", self.family).into(),
            chain: chain.into(),
            handle: Some(number as u64 + 10),
            index: Some(0),
            rule: Some(RuleTold { text: text.into(), meaning, objects: objects.into_iter().collect() }),
            act,
            rewritten: None,
        });
        self
    }

    pub fn policy(mut self, hook: Hook, place: &str, accepts: bool) -> Self {
        let (table, chain) = place.split_once(' ').expect("table and chain");
        let (table, chain) = (format!("{} {table}", self.family).into(), chain.into());
        let act = Act::Policy { accepts };
        self.passage.steps.push(Step {
            at_us: BEGAN + 40,
            hook,
            table,
            chain,
            handle: None,
            index: None,
            rule: None,
            act,
            rewritten: None,
        });
        self
    }

    /// A stranger's rule.
    pub fn foreign(self, hook: Hook, place: &str, text: &str, act: Act) -> Self {
        self.step(hook, place, text, Meaning::Foreign, act)
    }

    fn first_hook(&self) -> (Hook, &'static str) {
        match self.passage.came_by {
            Some(_) => (Hook::Prerouting, "nat PREROUTING"),
            None => (Hook::Output, "nat OUTPUT"),
        }
    }

    /// KUBE-SERVICES, and by the door's chains to one of web's endpoints.
    pub fn web(self, door: Door, marked: Option<Masqueraded>, to: &str) -> Self {
        let (hook, built_in) = self.first_hook();
        let jump = |chain: &str| Act::Jump { chain: chain.into() };
        let mut way = self.step(hook, built_in, "-j KUBE-SERVICES", Meaning::Leads, jump("KUBE-SERVICES"));
        let claims = Meaning::Claims { service: web(), door };
        let marks = |because| Meaning::MarksMasquerade { service: Some(web()), because };
        way = match door {
            Door::NodePort => way
                .step(
                    hook,
                    "nat KUBE-SERVICES",
                    "-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",
                    Meaning::Leads,
                    jump("KUBE-NODEPORTS"),
                )
                .step(
                    hook,
                    "nat KUBE-NODEPORTS",
                    "-p tcp -m tcp --dport 30001 -j KUBE-EXT-WEB",
                    claims,
                    jump("KUBE-EXT-WEB"),
                ),
            _ => way.step(
                hook,
                "nat KUBE-SERVICES",
                "-d 10.96.0.11/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-WEB",
                claims,
                jump("KUBE-SVC-WEB"),
            ),
        };
        if let Some(because) = marked {
            let chain = if door == Door::NodePort { "nat KUBE-EXT-WEB" } else { "nat KUBE-SVC-WEB" };
            way = way.step(hook, chain, "-j KUBE-MARK-MASQ", marks(because), jump("KUBE-MARK-MASQ")).step(
                hook,
                "nat KUBE-MARK-MASQ",
                "-j MARK --or-mark 0x4000",
                Meaning::MarksMasquerade { service: None, because: Masqueraded::Marked },
                Act::Continue,
            );
        }
        let endpoint = at(to);
        let chooses = Meaning::Chooses { service: web(), endpoint, bound: false };
        let sends = Meaning::SendsTo { service: web(), endpoint, bound: false };
        way = way.step(
            hook,
            "nat KUBE-SVC-WEB",
            "-m statistic --mode random --probability 0.5 -j KUBE-SEP-B",
            chooses,
            jump("KUBE-SEP-B"),
        );
        way = way.step(
            hook,
            "nat KUBE-SEP-B",
            &format!("-p tcp -m tcp -j DNAT --to-destination {to}"),
            sends,
            Act::Accept,
        );
        way.now.dst = endpoint;
        let now = way.now;
        way.passage.steps.last_mut().expect("a step was written above").rewritten = Some(now);
        way
    }

    /// Forwarded under the FORWARD chain's rules.
    pub fn forwarded(self) -> Self {
        let jump = Act::Jump { chain: "KUBE-FORWARD".into() };
        self.step(Hook::Forward, "filter FORWARD", "-j KUBE-FORWARD", Meaning::Leads, jump).policy(
            Hook::Forward,
            "filter FORWARD",
            true,
        )
    }

    /// Through KUBE-POSTROUTING, the source as it is.
    pub fn keeps_source(self) -> Self {
        let jump = Act::Jump { chain: "KUBE-POSTROUTING".into() };
        self.step(Hook::Postrouting, "nat POSTROUTING", "-j KUBE-POSTROUTING", Meaning::Leads, jump).step(
            Hook::Postrouting,
            "nat KUBE-POSTROUTING",
            "-m mark ! --mark 0x4000/0x4000 -j RETURN",
            Meaning::KeepsSource,
            Act::Return,
        )
    }

    /// Through KUBE-POSTROUTING, with a new source.
    pub fn masqueraded(self, source: &str) -> Self {
        let because = Masqueraded::Marked;
        let masquerades = Meaning::Masquerades { because };
        let mut way = self.step(
            Hook::Postrouting,
            "nat KUBE-POSTROUTING",
            "-j MASQUERADE --random-fully",
            masquerades,
            Act::Accept,
        );
        way.now.src = at(source);
        way
    }

    /// Out by an interface; the conntrack entry tells what NAT did.
    pub fn sent(self, link: &str, route: RouteTold) -> Passage {
        let mut passage = self.tracked(Fate::Sent);
        passage.went_by = Some(link.into());
        passage.route = Some(route);
        passage
    }

    /// To a process of the node.
    pub fn taken(self) -> Passage {
        self.tracked(Fate::Taken)
    }

    pub fn untracked(self) -> Passage {
        Passage { flow: None, ..self.tracked(Fate::Taken) }
    }

    fn tracked(mut self, fate: Fate) -> Passage {
        let (entered, out) = (self.passage.entered, self.now);
        let reversed = |header: Header| Header { src: header.dst, dst: header.src, proto: header.proto };
        let (original, reply) = match self.passage.direction {
            Direction::Forth => (entered, reversed(out)),
            Direction::Back => (reversed(out), entered),
        };
        let answered = self.passage.direction == Direction::Back;
        self.passage.flow = Some(FlowEntry { original, reply, id: 4242, timeout_secs: 120, answered, older: false });
        self.passage.fate = fate;
        // As the kernel tells: the last hook sees a packet before its source is rewritten.
        self.passage.left = Header { src: entered.src, ..out };
        self.passage
    }

    pub fn stopped(mut self) -> Passage {
        self.passage.fate = Fate::Stopped;
        self.passage.left = self.now;
        self.passage
    }

    pub fn vanished(mut self, route: RouteTold) -> Passage {
        self.passage.fate = Fate::Vanished;
        self.passage.left = self.now;
        self.passage.route = Some(route);
        self.passage
    }

    /// What conntrack makes of it, without a rule.
    pub fn becomes(mut self, now: Header) -> Self {
        self.now = now;
        self
    }
}

/// The same passage by an entry that was there before it.
pub fn older(passage: Passage) -> Passage {
    let flow = passage.flow.map(|flow| FlowEntry { older: true, ..flow });
    Passage { flow, ..passage }
}

/// The same with what the oracle allows.
pub fn allowing(passage: Passage, allowed: &[Outcome]) -> Passage {
    Passage { allowed: allowed.to_vec(), ..passage }
}
