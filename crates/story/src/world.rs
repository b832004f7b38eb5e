//! World: the cluster as each of its nodes sees it, with the rules that each would write.
//!
//! ```text
//!  Cluster { facts, settings, mode } + what only node N knows ──► Node N: Snapshot ──► Plan of each family
//! ```
//!
//! Made node by node when a packet comes there: a question about two nodes of a hundred resolves two. What a node's own
//! kernel and BGP tell it comes in as facts, so this room names neither.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use portolan_dataplane::iptables::{self, DnsPath, RuleSet};
use portolan_dataplane::meaning::{Meaning, RuleTold};
use portolan_dataplane::nftables;
use portolan_dataplane::way::Event;
use portolan_model::verdict::{Mode, Outcome, Packet};
use portolan_model::{Fact, Facts, Family, NsName, Settings, Snapshot, Text, resolve};

use crate::evidence::{Backend, Step};
use crate::foresee::steps;

/// What is said of a cluster before any packet is sent.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its objects.
    pub facts: Facts,
    /// As every node has them; `node` is filled in for each.
    pub settings: Settings,
    /// How nodes write their rules.
    pub backend: Backend,
    /// The mark that asks for masquerade.
    pub masquerade_mark: u32,
    /// Name of the nodes' interface on the LAN.
    pub lan_link: Text,
    /// The host outside.
    pub outside: Outside,
}

/// A host on the nodes' LAN that is no node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outside {
    /// Its addresses; the first of a family is what it sends from.
    pub addresses: Vec<IpAddr>,
    /// The node by which it reaches the Service ranges; `None`: it has no route to them.
    pub services_by: Option<Text>,
    /// The node by which it reaches everything that is no node's; `None`: balancers' addresses by who answers for them on
    /// the LAN, and the rest not at all.
    pub all_by: Option<Text>,
}

/// The cluster with a view from each node.
#[derive(Debug)]
pub struct World {
    cluster: Cluster,
    own: BTreeMap<Text, Vec<Fact>>,
    nodes: BTreeMap<Text, OnceLock<NodeView>>,
}

/// The cluster as one node sees it.
#[derive(Debug)]
pub struct NodeView {
    /// What the node's planners read.
    pub snapshot: Snapshot,
    settings: PlanSettings,
    plans: [OnceLock<Plan>; 2],
}

#[derive(Clone, Copy, Debug)]
struct PlanSettings {
    backend: Backend,
    masquerade_mark: u32,
}

/// The rules of one family.
#[derive(Debug)]
enum Plan {
    Iptables { desired: Box<iptables::Desired>, rules: RuleSet, world: iptables::trace::World },
    Nftables { desired: Box<nftables::Desired>, table: nftables::lang::Table, world: nftables::trace::World },
}

/// One way of a packet through a node's rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Passed {
    /// How likely, 0 to 1.
    pub chance: f64,
    /// What becomes of it.
    pub outcome: Outcome,
    /// Rules that matched, in order.
    pub steps: Vec<Step>,
    /// Conntrack does not see it.
    pub is_untracked: bool,
}

impl World {
    /// The cluster, with what only each node knows: its attachments, what BGP told it, addresses on its interfaces. Nodes
    /// that have no entry there know what the cluster knows.
    pub fn new(cluster: Cluster, own: BTreeMap<Text, Vec<Fact>>) -> Self {
        let nodes = cluster.facts.nodes.keys().map(|name| (name.clone(), OnceLock::new())).collect();
        Self { cluster, own, nodes }
    }

    /// What is said of the cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Names of all nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Text> {
        self.nodes.keys()
    }

    /// The cluster as `node` sees it; `None` if there is no such node.
    pub fn view(&self, node: &Text) -> Option<&NodeView> {
        let cell = self.nodes.get(node)?;
        Some(cell.get_or_init(|| self.look(node)))
    }

    /// The node that has `addr` as its own.
    pub fn node_at(&self, addr: IpAddr) -> Option<&Text> {
        let named = self.cluster.facts.nodes.iter().find(|(_, node)| node.addresses.contains(&addr));
        let is_dns = self.cluster.settings.cluster_dns.contains(&addr);
        let has = |facts: &[Fact]| !is_dns && facts.iter().any(|fact| is_interface(fact, addr));
        let on_interface = || self.own.iter().find(|(_, facts)| has(facts));
        named.map(|(name, _)| name).or_else(|| on_interface().map(|(name, _)| name))
    }

    /// The pod in the pods' network that has `addr`.
    pub fn pod_at(&self, addr: IpAddr) -> Option<&NsName> {
        let mut pods = self.cluster.facts.pods.iter();
        let found = pods.find(|(_, pod)| !pod.host_network && !pod.finished && pod.addresses.contains(&addr));
        found.map(|(key, _)| key)
    }

    /// Whose promise is asked for beside the rules.
    pub fn mode(&self) -> Mode {
        match self.cluster.backend {
            Backend::Iptables => Mode::Iptables,
            Backend::Nftables => Mode::Nftables,
        }
    }

    fn look(&self, node: &Text) -> NodeView {
        let mut facts = self.cluster.facts.clone();
        facts.apply_all(self.own.get(node).cloned().unwrap_or_default());
        let settings = Settings { node: node.clone(), ..self.cluster.settings.clone() };
        let (snapshot, _) = resolve(&facts, &Snapshot::empty(Arc::new(settings)), &facts.all());
        let settings = PlanSettings { backend: self.cluster.backend, masquerade_mark: self.cluster.masquerade_mark };
        NodeView { snapshot, settings, plans: Default::default() }
    }
}

fn is_interface(fact: &Fact, addr: IpAddr) -> bool {
    matches!(fact, Fact::InterfaceAddress(own, Some(())) if *own == addr && !addr.is_loopback())
}

impl NodeView {
    /// All ways of `packet` through the node's rules; they add up to 1.
    pub fn pass(&self, packet: &Packet) -> Vec<Passed> {
        match self.plan(packet.family()) {
            Plan::Iptables { desired, rules, world } => {
                let ways = iptables::trace::walk(rules, world, packet);
                let passed = |way: iptables::trace::Way| {
                    let told = iptables::meaning::told_way((desired, rules), &self.snapshot, &way, packet, 0);
                    self.passed(packet, (way.chance, way.outcome), told)
                };
                ways.into_iter().map(passed).collect()
            }
            Plan::Nftables { desired, table, world } => {
                let ways = nftables::trace::walk(table, world, packet);
                let passed = |way: nftables::trace::Way| {
                    let told = nftables::meaning::told_way((desired, table), &self.snapshot, &way, packet, 0);
                    self.passed(packet, (way.chance, way.outcome), told)
                };
                ways.into_iter().map(passed).collect()
            }
        }
    }

    fn passed(
        &self,
        packet: &Packet,
        (chance, outcome): (f64, Outcome),
        told: Vec<(Event, Option<RuleTold>)>,
    ) -> Passed {
        let is_untracked =
            told.iter().any(|(_, rule)| rule.as_ref().is_some_and(|rule| rule.meaning == Meaning::KeepsUntracked));
        Passed { chance, outcome, steps: steps::of(&self.snapshot, packet, outcome, told), is_untracked }
    }

    /// The node has `addr` itself: a process on it gets what goes there.
    pub fn holds(&self, addr: IpAddr) -> bool {
        let local = match self.plan(Family::of(addr)) {
            Plan::Iptables { world, .. } => &world.local,
            Plan::Nftables { world, .. } => &world.local,
        };
        addr.is_loopback() || local.contains(&addr)
    }

    fn plan(&self, family: Family) -> &Plan {
        self.plans[usize::from(family == Family::V6)].get_or_init(|| self.make_plan(family))
    }

    fn make_plan(&self, family: Family) -> Plan {
        let snapshot = &self.snapshot;
        let dns = if snapshot.settings.cluster_dns.is_empty() { DnsPath::Service } else { DnsPath::ThisNode };
        let masquerade_mark = self.settings.masquerade_mark;
        match self.settings.backend {
            Backend::Iptables => {
                let options = iptables::Options { dns, masquerade_mark, ..iptables::Options::default() };
                let desired = iptables::Desired::of(family, options, snapshot);
                let (rules, world) = (desired.with_hooks(), iptables::trace::World::of(snapshot, &desired));
                Plan::Iptables { desired: Box::new(desired), rules, world }
            }
            Backend::Nftables => {
                let options = nftables::Options { dns, masquerade_mark, ..nftables::Options::default() };
                let desired = nftables::Desired::of(family, options, snapshot);
                let (table, world) = (desired.table(), nftables::trace::World::of(snapshot, &desired));
                Plan::Nftables { desired: Box::new(desired), table, world }
            }
        }
    }
}
