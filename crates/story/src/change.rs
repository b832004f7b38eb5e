//! Change: which flows a change of the cluster would change, told before it is made.
//!
//! ```text
//!  World before ─┐   doors of touched Services and pods      outcomes before, after
//!                ├─► × sources: pods of a node, a node, ────► that differ ──► gathered: "from any pod", "every node"
//!  World after  ─┘     the host outside
//! ```
//!
//! A flow class is a source and a door. Its outcome is a set with chances: where packets come to, as whom they are seen
//! there, and why not where they do not. Pods of a node stand for one that is nobody's endpoint.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use portolan_dataplane::meaning::{Meaning, TurnedAway};
use portolan_model::{Family, NsName, Proto, Service, ServicePortFact, Text};
use serde::Serialize;

use crate::evidence::{Direction, Passage};
use crate::foresee::{Landing, Origin, Question, Way, foresee};
use crate::place::Sender;
use crate::story::End;
use crate::world::World;

/// Flows that the change changes alike.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// `default/web:http`, or `pod default/web-1`.
    pub subject: String,
    /// By which door: `ClusterIP 10.96.0.5:80/tcp`.
    pub door: String,
    /// Node ports: on which nodes; empty for other doors.
    pub nodes: Vec<Text>,
    /// Who sends: `any pod`, `pods of node-1`, `node-1`, `outside`.
    pub from: Vec<String>,
    /// What becomes of such flows now; empty: there is no such door.
    pub before: Vec<Fate>,
    /// What would become of them.
    pub after: Vec<Fate>,
}

/// One thing that may become of a flow.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fate {
    /// How likely, 0 to 1.
    pub chance: f64,
    /// How it ends.
    pub end: End,
    /// Where it arrives.
    pub at: Option<SocketAddr>,
    /// The Pod there.
    pub pod: Option<NsName>,
    /// The receiver sees a node's address, not the client's; `None`: so it is for some of these senders.
    pub seen_as_node: Option<bool>,
    /// Why a rule turned it away.
    pub because: Option<TurnedAway>,
}

/// An address and port that somebody can send to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Door {
    subject: String,
    kind: Kind,
    to: SocketAddr,
    proto: Proto,
    /// Of a node port.
    node: Option<Text>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    ClusterIp,
    External,
    Balancer,
    NodePort,
    Pod,
}

/// Every flow class whose outcome differs, in the order of subjects and doors.
pub fn differences(before: &World, after: &World) -> Vec<Difference> {
    let mut doors = touched_doors(before, after);
    doors.sort();
    doors.dedup();
    let sources = sources(before, after);
    let (then, now) = (Look::of(before), Look::of(after));
    let mut found = Vec::new();
    for door in &doors {
        for from in &sources {
            let (was, will) = (then.fates(from, door), now.fates(from, door));
            // Pods' own addresses have no way in from outside; how that ends is no news.
            let is_news = door.kind != Kind::Pod || was.iter().chain(&will).any(|fate| fate.end == End::Delivered);
            if is_news && !alike(&was, &will) {
                found.push(Single { door: door.clone(), from: from.clone(), before: was, after: will });
            }
        }
    }
    let nodes: BTreeSet<Text> = before.nodes().chain(after.nodes()).cloned().collect();
    gathered(found, &nodes)
}

/// One world, and the doors that there are in it.
struct Look<'a> {
    world: &'a World,
    doors: BTreeSet<(SocketAddr, Proto)>,
}

impl<'a> Look<'a> {
    fn of(world: &'a World) -> Self {
        let facts = &world.cluster().facts;
        let services = facts.services.iter().flat_map(|(key, service)| doors_of_service(world, key, service));
        let pods = facts.pods.iter().flat_map(|(key, pod)| doors_of_pod(key, &pod.addresses));
        let doors = services.chain(pods).map(|door| (door.to, door.proto)).collect();
        Self { world, doors }
    }

    /// Sorted by what they are, so that two of them can be compared. Empty if there is no such door.
    fn fates(&self, from: &Origin, door: &Door) -> Vec<Fate> {
        if !self.doors.contains(&(door.to, door.proto)) {
            return Vec::new();
        }
        let question = Question { from: from.clone(), to: door.to, proto: door.proto, source_port: 0 };
        // A sender that is not there, or has no address of the family, sends nothing.
        let ways = foresee(self.world, &question).unwrap_or_default();
        let mut fates: Vec<Fate> = Vec::new();
        for fate in ways.iter().map(|way| self.fate(way)) {
            match fates.iter_mut().find(|known| known.is_like(&fate)) {
                Some(known) => known.chance += fate.chance,
                None => fates.push(fate),
            }
        }
        fates.sort_by_key(Fate::order);
        fates
    }

    fn fate(&self, way: &Way) -> Fate {
        let forth = || way.evidence.iter().flat_map(|e| &e.passages).filter(|p| p.direction == Direction::Forth);
        let seen = forth().next_back().map(|passage| passage.left.src.ip());
        let sent = forth().next().map(|passage| passage.entered.src.ip());
        let pod = match &way.landing {
            Landing::Pod { pod, .. } => pod.clone(),
            _ => None,
        };
        let at = way.landing.at();
        let is_node = || seen.is_some_and(|addr| self.world.node_at(addr).is_some());
        let seen_as_node = Some(at.is_some() && seen != sent && is_node());
        let because = forth().filter_map(turned_away).next_back();
        Fate { chance: way.chance, end: way.end, at, pod, seen_as_node, because }
    }
}

fn turned_away(passage: &Passage) -> Option<TurnedAway> {
    passage.steps.iter().rev().find_map(|step| match &step.rule.as_ref()?.meaning {
        Meaning::Refuses { because, .. } | Meaning::Drops { because, .. } => Some(*because),
        _ => None,
    })
}

impl Fate {
    fn is_like(&self, other: &Self) -> bool {
        Self { chance: 0.0, ..self.clone() } == Self { chance: 0.0, ..other.clone() }
    }

    fn order(&self) -> (End, Option<SocketAddr>, Option<bool>, String) {
        (self.end, self.at, self.seen_as_node, format!("{:?}", self.because))
    }
}

fn alike(a: &[Fate], b: &[Fate]) -> bool {
    let same = |(a, b): (&Fate, &Fate)| a.is_like(b) && (a.chance - b.chance).abs() < 1e-6;
    a.len() == b.len() && a.iter().zip(b).all(same)
}

/// Doors of what differs. A Node that differs may move any flow.
fn touched_doors(before: &World, after: &World) -> Vec<Door> {
    let (then, now) = (&before.cluster().facts, &after.cluster().facts);
    let mut services: BTreeSet<NsName> = differing(&then.services, &now.services);
    let slices = differing(&then.slices, &now.slices);
    let owner = |key: &NsName| [then.slices.get(key), now.slices.get(key)];
    services.extend(slices.iter().flat_map(owner).flatten().map(|slice| slice.service.clone()));
    let mut pods: BTreeSet<NsName> = differing(&then.pods, &now.pods);
    if then.nodes != now.nodes {
        services.extend(then.services.keys().chain(now.services.keys()).cloned());
        pods.extend(then.pods.keys().chain(now.pods.keys()).cloned());
    }
    let mut doors = Vec::new();
    for (world, facts) in [(before, then), (after, now)] {
        let touched = services.iter().filter_map(|key| facts.services.get(key).map(|service| (key, service)));
        doors.extend(touched.flat_map(|(key, service)| doors_of_service(world, key, service)));
        let touched = pods.iter().filter_map(|key| facts.pods.get(key).map(|pod| (key, pod)));
        let own = touched.filter(|(_, pod)| !pod.host_network && !pod.finished);
        doors.extend(own.flat_map(|(key, pod)| doors_of_pod(key, &pod.addresses)));
    }
    doors
}

/// Keys whose values differ, or that are in one of them only.
fn differing<'a, V: PartialEq + 'a>(
    a: impl IntoIterator<Item = (&'a NsName, &'a V)>,
    b: impl IntoIterator<Item = (&'a NsName, &'a V)>,
) -> BTreeSet<NsName> {
    let (a, b): (BTreeMap<_, _>, BTreeMap<_, _>) = (a.into_iter().collect(), b.into_iter().collect());
    a.keys().chain(b.keys()).filter(|key| a.get(*key) != b.get(*key)).map(|key| (*key).clone()).collect()
}

fn doors_of_service(world: &World, key: &NsName, service: &Service) -> Vec<Door> {
    let mut doors = Vec::new();
    for port in &service.ports {
        let subject = if port.name.is_empty() { key.to_string() } else { format!("{key}:{}", port.name) };
        let door = |kind, addr: &IpAddr, number, node| Door {
            subject: subject.clone(),
            kind,
            to: SocketAddr::new(*addr, number),
            proto: port.proto,
            node,
        };
        doors.extend(service.cluster_ips.iter().map(|addr| door(Kind::ClusterIp, addr, port.port, None)));
        doors.extend(service.external_ips.iter().map(|addr| door(Kind::External, addr, port.port, None)));
        doors.extend(service.load_balancer_ips.iter().map(|addr| door(Kind::Balancer, addr, port.port, None)));
        doors.extend(
            node_port_addresses(world, service, port)
                .into_iter()
                .map(|(node, addr)| door(Kind::NodePort, &addr, port.node_port, Some(node))),
        );
    }
    doors
}

/// Each node's first address of each family that the Service has.
fn node_port_addresses(world: &World, service: &Service, port: &ServicePortFact) -> Vec<(Text, IpAddr)> {
    let families = service.cluster_ips.iter().map(|addr| Family::of(*addr));
    let families: Vec<Family> = if port.node_port == 0 { Vec::new() } else { families.collect() };
    let nodes = world.cluster().facts.nodes.iter();
    let of_node = |(name, node): (&Text, &std::sync::Arc<portolan_model::Node>)| {
        let first = |family: &Family| node.addresses.iter().copied().find(|addr| Family::of(*addr) == *family);
        families.iter().filter_map(first).map(|addr| (name.clone(), addr)).collect::<Vec<_>>()
    };
    nodes.flat_map(of_node).collect()
}

/// A pod's own address; the port does not matter to routes.
fn doors_of_pod(key: &NsName, addresses: &[IpAddr]) -> Vec<Door> {
    let door = |addr: &IpAddr| Door {
        subject: format!("pod {key}"),
        kind: Kind::Pod,
        to: SocketAddr::new(*addr, 1),
        proto: Proto::Tcp,
        node: None,
    };
    addresses.iter().map(door).collect()
}

fn sources(before: &World, after: &World) -> Vec<Origin> {
    let nodes: BTreeSet<Text> = before.nodes().chain(after.nodes()).cloned().collect();
    let pods = nodes.iter().map(|node| Origin::AnyPodOf(node.clone()));
    let own = nodes.iter().map(|node| Origin::Place(Sender::Node(node.clone())));
    pods.chain(own).chain([Origin::Place(Sender::Outside)]).collect()
}

/// One class that differs.
struct Single {
    door: Door,
    from: Origin,
    before: Vec<Fate>,
    after: Vec<Fate>,
}

/// What is said of a class, without source and node: what is said alike is said once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Said {
    subject: String,
    door: (Kind, String),
    fates: String,
}

fn gathered(found: Vec<Single>, nodes: &BTreeSet<Text>) -> Vec<Difference> {
    let mut by_node: BTreeMap<(Said, Option<Text>), (BTreeSet<Origin>, Single)> = BTreeMap::new();
    for single in found {
        let said = Said {
            subject: single.door.subject.clone(),
            door: (single.door.kind, single.door.named()),
            fates: arrow(&single.before, &single.after),
        };
        match by_node.entry((said, single.door.node.clone())) {
            Entry::Vacant(place) => drop(place.insert((BTreeSet::from([single.from.clone()]), single))),
            Entry::Occupied(mut place) => {
                let (sources, known) = place.get_mut();
                sources.insert(single.from);
                blur(&mut known.before, &single.before);
                blur(&mut known.after, &single.after);
            }
        }
    }
    let mut all: BTreeMap<(Said, Vec<String>), Difference> = BTreeMap::new();
    for ((said, node), (sources, single)) in by_node {
        let from = named_sources(&sources, nodes);
        let entry = all.entry((said.clone(), from.clone())).or_insert_with(|| Difference {
            subject: said.subject,
            door: said.door.1,
            nodes: Vec::new(),
            from,
            before: single.before,
            after: single.after,
        });
        entry.nodes.extend(node);
    }
    all.into_values().collect()
}

/// Senders that are told of together may be seen as different ones.
fn blur(fates: &mut [Fate], others: &[Fate]) {
    let unlike = fates.iter_mut().zip(others).filter(|(fate, other)| fate.seen_as_node != other.seen_as_node);
    unlike.for_each(|(fate, _)| fate.seen_as_node = None);
}

impl Door {
    fn named(&self) -> String {
        let Self { to, proto, .. } = self;
        match self.kind {
            Kind::ClusterIp => format!("ClusterIP {to}/{proto}"),
            Kind::External => format!("external address {to}/{proto}"),
            Kind::Balancer => format!("load balancer {to}/{proto}"),
            Kind::NodePort => {
                let family = if to.is_ipv6() { " over IPv6" } else { "" };
                format!("node port {}/{proto}{family}", to.port())
            }
            Kind::Pod => format!("its address {}", to.ip()),
        }
    }
}

fn named_sources(sources: &BTreeSet<Origin>, nodes: &BTreeSet<Text>) -> Vec<String> {
    let mut names = Vec::new();
    let pods: Vec<&Text> =
        sources.iter().filter_map(|s| if let Origin::AnyPodOf(node) = s { Some(node) } else { None }).collect();
    let own: Vec<&Text> = sources
        .iter()
        .filter_map(|s| if let Origin::Place(Sender::Node(node)) = s { Some(node) } else { None })
        .collect();
    match pods.len() == nodes.len() {
        true => names.push("any pod".to_owned()),
        false => names.extend(pods.iter().map(|node| format!("pods of {node}"))),
    }
    match own.len() == nodes.len() {
        true => names.push("any node".to_owned()),
        false => names.extend(own.iter().map(|node| node.to_string())),
    }
    names.extend(sources.contains(&Origin::Place(Sender::Outside)).then(|| "outside".to_owned()));
    names
}

/// `default/web:http  ClusterIP 10.96.0.5:80/tcp  from any pod: 2 endpoints → refused: no endpoint is ready`
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {}", self.subject, self.door)?;
        if !self.nodes.is_empty() {
            write!(f, " of {}", self.nodes.join(", "))?;
        }
        write!(f, "  from {}: {}", self.from.join(", "), arrow(&self.before, &self.after))
    }
}

fn arrow(before: &[Fate], after: &[Fate]) -> String {
    format!("{} → {}", in_words(before, after), in_words(after, before))
}

/// What becomes of flows; `other` is what it is compared with: two that would read alike are told in full.
fn in_words(fates: &[Fate], other: &[Fate]) -> String {
    let short = shortly(fates);
    if short != shortly(other) {
        return short;
    }
    let all: Vec<String> = fates.iter().map(Fate::in_full).collect();
    all.join(", ")
}

fn shortly(fates: &[Fate]) -> String {
    let arriving: Vec<&Fate> = fates.iter().filter(|fate| fate.end == End::Delivered).collect();
    let mut parts = Vec::new();
    match arriving.as_slice() {
        [] if fates.is_empty() => return "not there".to_owned(),
        [] => {}
        [one] => parts.push(one.arrival()),
        [a, b] => parts.push(format!("{} or {}", a.arrival(), b.arrival())),
        many => parts.push(format!("{} endpoints", many.len())),
    }
    let ends: BTreeSet<String> = fates.iter().filter(|fate| fate.end != End::Delivered).map(Fate::ending).collect();
    parts.extend(ends);
    parts.join(", or ")
}

impl Fate {
    fn arrival(&self) -> String {
        match (&self.pod, self.at) {
            (Some(pod), _) => pod.to_string(),
            (None, Some(at)) => at.to_string(),
            (None, None) => "nowhere".to_owned(),
        }
    }

    fn in_full(&self) -> String {
        if self.end != End::Delivered {
            return self.ending();
        }
        let at = self.at.map(|at| format!(" at {at}")).unwrap_or_default();
        let seen = match self.seen_as_node {
            Some(true) => "the node's",
            Some(false) => "the client's",
            None => "the client's or the node's",
        };
        format!("{}{at} sees {seen} address ({:.0} %)", self.arrival(), self.chance * 100.0)
    }

    fn ending(&self) -> String {
        let end = match self.end {
            End::Delivered => "delivered",
            End::Refused => "refused",
            End::Dropped => "dropped",
            End::Unroutable => "no route",
            End::Unanswered => "no answer",
            End::NoSuchName => "no such name",
            End::NotSent | End::NotSeen => "not sent",
        };
        match self.because {
            Some(because) => format!("{end}: {}", reason(because)),
            None => end.to_owned(),
        }
    }
}

fn reason(because: TurnedAway) -> &'static str {
    match because {
        TurnedAway::NoEndpoints => "no endpoint is ready",
        TurnedAway::NoLocalEndpoints => "no endpoint on that node, and the policy is Local",
        TurnedAway::SourceRange => "not in loadBalancerSourceRanges",
        TurnedAway::NoSuchPort => "no such port",
        TurnedAway::Loopback => "loopback is closed to strangers",
        TurnedAway::Invalid => "conntrack calls it invalid",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::Backend;
    use crate::fixture::{ip, key, node, pod, service, slices, world};
    use portolan_model::{ExternalPolicy, Fact, ProxySettings};

    fn facts(endpoints: &[&str], change: impl Fn(&mut Service)) -> Vec<Fact> {
        let mut facts = vec![node(1), node(2), pod("client", 1, 5), pod("a", 1, 6), pod("b", 2, 6)];
        let mut web = Service { cluster_ips: vec![ip("10.96.0.11")], ..service(11, 30001) };
        change(&mut web);
        facts.push(Fact::Service(key("web"), Some(web)));
        let slices = slices("web", &facts, endpoints);
        facts.extend(slices);
        // Another Service, which no change here touches.
        let slices = self::slices("other", &facts, &["a"]);
        facts.push(Fact::Service(key("other"), Some(service(12, 0))));
        facts.extend(slices);
        facts
    }

    fn told(before: &[Fact], after: &[Fact]) -> Vec<String> {
        let both = [Backend::Iptables, Backend::Nftables].map(|backend| {
            let of = |facts| world(backend, facts, ProxySettings::default());
            differences(&of(before), &of(after)).iter().map(Difference::to_string).collect::<Vec<_>>()
        });
        assert_eq!(both[0], both[1], "both modes change the same flows");
        both[0].clone()
    }

    #[test]
    fn a_cluster_that_stays_changes_no_flow() {
        let same = facts(&["a", "b"], |_| ());
        assert_eq!(told(&same, &same), Vec::<String>::new());
    }

    #[test]
    fn endpoints_that_go_are_told_for_every_door_and_source_at_once() {
        let before = facts(&["a", "b"], |_| ());
        let found = told(&before, &facts(&[], |_| ()));
        assert_eq!(
            found,
            [
                "default/web:http  ClusterIP 10.96.0.11:80/tcp  from any pod, any node, outside: default/a or default/b → refused: no endpoint is ready",
                "default/web:http  node port 30001/tcp of node-1, node-2  from any pod, any node, outside: default/a or default/b → refused: no endpoint is ready",
            ]
        );
        let found = told(&before, &facts(&["a"], |_| ()));
        assert!(found[0].ends_with("default/a or default/b → default/a"), "{found:?}");
    }

    #[test]
    fn a_policy_changes_flows_from_outside_and_from_other_nodes_only() {
        let local = |service: &mut Service| service.external_policy = ExternalPolicy::Local;
        let found = told(&facts(&["b"], |_| ()), &facts(&["b"], local));
        let on_node_1 = found
            .iter()
            .find(|line| line.contains("tcp of node-1 ") && line.contains("outside"))
            .expect("node-1 has no endpoint");
        assert!(
            on_node_1.contains("from pods of node-2, node-2, outside: ")
                && on_node_1.ends_with("default/b → dropped: no endpoint on that node, and the policy is Local"),
            "{found:?}"
        );
        assert!(found.iter().all(|line| !line.contains("ClusterIP")), "{found:?}");
        let kept = found
            .iter()
            .find(|line| line.contains("tcp of node-2 ") && line.contains("outside"))
            .expect("it keeps the client's address");
        assert!(
            kept.contains("sees the node's address (100 %) → default/b at 10.244.1.6:8080 sees the client's"),
            "{kept}"
        );
    }

    #[test]
    fn what_comes_and_what_goes_was_or_will_not_be_there() {
        let before = facts(&["a"], |_| ());
        let mut after = before.clone();
        after.retain(|fact| !matches!(fact, Fact::Service(at, _) if *at == key("web")));
        let found = told(&before, &after);
        assert!(found.len() == 2 && found.iter().all(|line| line.ends_with("default/a → not there")), "{found:?}");
        let mut more = before.clone();
        more.push(pod("new", 2, 9));
        let found = told(&before, &more);
        assert_eq!(
            found[0],
            "pod default/new  its address 10.244.1.9  from any pod, any node: not there → default/new"
        );
    }
}
