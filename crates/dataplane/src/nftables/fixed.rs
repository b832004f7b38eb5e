//! Fixed: chains, their rules and the declarations of sets. They follow settings and which sets are in use, never single
//! Services: a cluster of any size has the same few chains, and two more for each count of endpoints in use.
//!
//! ```text
//!  nat   prerouting, output ► services ─┬ cluster-ips-N ───────────────────────────► pick-cluster-ips-N (mark) ► dnat
//!                                       ├ external ► external (mark) ► external-N ─► pick-external-N
//!                                       ├ external-local ► external-local ─┬ a pod ► external-local-to-cluster
//!                                       │                                  ├ the node (mark) ► the same
//!                                       │                                  └ external-local-to-local-N ► pick-…
//!                                       └ a node address, node-ports ► …
//!        postrouting ► mark, hairpin, what leaves the cluster ► masquerade
//!  filter  input, forward, output ► affinity: remember; no-endpoints ► reject; no-local-endpoints ► drop
//!          prerouting, output before DNAT ► guarded ► firewall
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use portolan_model::{DetectLocal, Family, Proto, Snapshot, Text};

use crate::nftables::changes::{Transaction, Writing};
use crate::nftables::lang::{
    Base, Chain, ChainKind, Data, Field, HookPoint, Key, Rule, SetShape, Sign, Statement, Step,
};
use crate::nftables::names::{self, CLIENTS, Door, LAYOUT, SetId};
use crate::nftables::options::{DnsPath, Options};
use crate::nftables::service::Elem;

/// How many elements each set holds; sets without any are not in it.
pub type InUse = BTreeMap<SetId, u32>;

/// Chains with their rules, and what sets there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skeleton {
    /// By name.
    pub chains: BTreeMap<Text, Chain>,
    /// By name.
    pub sets: BTreeMap<Text, SetShape>,
}

/// What rules depend on beside Services and options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ground {
    family: Family,
    /// Range of all pods.
    pods: Option<IpNet>,
    /// What tells a local pod.
    local_pod: Option<LocalPod>,
    /// Addresses on which node ports answer; `None`: every local one.
    node_port_addresses: Option<Vec<IpAddr>>,
    service_cidrs: Vec<IpNet>,
    dns: Vec<IpAddr>,
    masquerade_all: bool,
    egress_snat: bool,
    /// With the names of their pods.
    host_ports: BTreeMap<Elem, Text>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum LocalPod {
    From(IpNet),
    /// An interface's name, or the beginning of one with `*` after it.
    By(Text),
}

impl Ground {
    /// What `snapshot` says of it.
    pub fn of(family: Family, snapshot: &Snapshot) -> Self {
        let settings = &snapshot.settings;
        let proxy = &settings.proxy;
        let pods = snapshot.cluster_cidr(family);
        let named = |name: &str, end: &str| (!name.is_empty()).then(|| LocalPod::By(format!("{name}{end}").into()));
        let local_pod = match &proxy.detect_local {
            DetectLocal::ClusterCidr => pods.map(LocalPod::From),
            DetectLocal::NodeCidr => snapshot.node_cidr(family).map(|block| LocalPod::From(block.trunc())),
            DetectLocal::BridgeInterface(bridge) => named(&bridge.0, ""),
            DetectLocal::InterfaceNamePrefix(prefix) => named(prefix, "*"),
            DetectLocal::Nothing => None,
        };
        let of_family = |addrs: &[IpAddr]| -> Vec<IpAddr> {
            addrs.iter().copied().filter(|addr| Family::of(*addr) == family).collect()
        };
        let open_on = snapshot.node_port_addresses(family);
        Self {
            family,
            pods,
            local_pod,
            node_port_addresses: open_on.map(|addrs| addrs.into_iter().filter(|addr| !addr.is_loopback()).collect()),
            service_cidrs: settings.service_cidrs.iter().copied().filter(|n| Family::of(n.addr()) == family).collect(),
            dns: of_family(&settings.cluster_dns),
            masquerade_all: proxy.masquerade_all,
            egress_snat: proxy.egress_snat,
            host_ports: host_ports(family, snapshot),
        }
    }

    /// Elements that no Service asks for, sorted.
    pub fn elements(&self) -> Vec<Elem> {
        let addrs = self.node_port_addresses.iter().flatten();
        let addrs = addrs.map(|addr| Elem { set: SetId::NodePortAddresses, key: Key::Addr(*addr), data: None });
        let mut all: Vec<Elem> = addrs.chain(self.host_ports.keys().copied()).collect();
        // A pod that reaches itself by its own host port.
        all.extend(self.host_ports.keys().filter_map(|elem| match elem.data {
            Some(Data::Endpoint(addr, _)) => Some(Elem { set: SetId::Hairpin, key: Key::Pair(addr, addr), data: None }),
            _ => None,
        }));
        all.sort_unstable();
        all.dedup();
        all
    }

    /// What stands beside one of them.
    pub fn comment(&self, elem: &Elem) -> Option<Text> {
        self.host_ports.get(elem).cloned()
    }

    fn is_local_pod(&self, sign: Sign) -> Option<Statement> {
        self.local_pod.as_ref().map(|detector| match detector {
            LocalPod::From(net) => Statement::Net(sign, Field::Source, *net),
            LocalPod::By(name) => Statement::CameBy(sign, name.clone()),
        })
    }

    /// The packet is for an address on which node ports answer: never loopback, and no ClusterIP, be it on the node as
    /// that of cluster DNS is.
    fn at_node(&self) -> Vec<Statement> {
        match &self.node_port_addresses {
            Some(_) => vec![is_in(&[Field::Destination], SetId::NodePortAddresses)],
            None => self.at_any_address(),
        }
    }

    fn at_any_address(&self) -> Vec<Statement> {
        vec![
            Statement::Local(Sign::Is, Field::Destination),
            Statement::Net(Sign::Not, Field::Destination, loopback(self.family)),
            Statement::In(Sign::Not, vec![Field::Destination], SetId::ClusterIps.name()),
        ]
    }
}

/// Host ports of this node's pods, each with its pod's name: the first pod by name has a port that two claim.
fn host_ports(family: Family, snapshot: &Snapshot) -> BTreeMap<Elem, Text> {
    let mut taken: BTreeMap<Key, (Elem, Text)> = BTreeMap::new();
    for (name, pod) in snapshot.attachments.iter().filter(|(_, pod)| !pod.host_ports.is_empty()) {
        let Some(addr) = pod.addresses.iter().copied().find(|addr| Family::of(*addr) == family) else { continue };
        for port in &pod.host_ports {
            let anywhere = Key::Port(port.proto, port.host_port);
            let (set, key) = match port.host_addr {
                None => (SetId::HostPorts, anywhere),
                Some(at) if Family::of(at) != family || taken.contains_key(&anywhere) => continue,
                Some(at) => (SetId::HostPortsAt, Key::Dest(at, port.proto, port.host_port)),
            };
            let elem = Elem { set, key, data: Some(Data::Endpoint(addr, port.pod_port)) };
            taken.entry(key).or_insert_with(|| (elem, names::comment(&name.to_string())));
        }
    }
    taken.into_values().collect()
}

/// Chains and sets while these sets are in use.
pub fn skeleton(options: &Options, ground: &Ground, in_use: &InUse) -> Skeleton {
    let mut drawing = Drawing { options, ground, in_use, skeleton: Skeleton::default() };
    drawing.sets();
    drawing.dispatch();
    for door in Door::ALL {
        drawing.picks(door);
    }
    drawing.postrouting();
    drawing.refusals();
    drawing.firewall();
    drawing.remembering();
    drawing.dns();
    drawing.skeleton
}

impl Skeleton {
    /// Steps from this to `new`, with those of elements where they belong: after new sets, before old ones go.
    pub(super) fn becomes(&self, new: &Self, elements: Writing, transaction: &mut Transaction) {
        let mut push = |step| transaction.push(step, None);
        for (name, shape) in new.sets.iter().filter(|(name, _)| !self.sets.contains_key(*name)) {
            push(Step::AddSet(name.clone(), shape.clone()));
        }
        for (name, chain) in new.chains.iter().filter(|(name, _)| !self.chains.contains_key(*name)) {
            push(Step::AddChain(name.clone(), chain.base));
        }
        elements.finish(transaction);
        let mut push = |step| transaction.push(step, None);
        for (name, chain) in &new.chains {
            let old = self.chains.get(name);
            if old.is_some_and(|old| old.rules == chain.rules) {
                continue;
            }
            if old.is_some_and(|old| !old.rules.is_empty()) {
                push(Step::FlushChain(name.clone()));
            }
            chain.rules.iter().for_each(|rule| push(Step::AddRule(name.clone(), rule.clone())));
        }
        let gone: Vec<&Text> = self.chains.keys().filter(|name| !new.chains.contains_key(*name)).collect();
        gone.iter().for_each(|name| push(Step::FlushChain((*name).clone())));
        gone.iter().for_each(|name| push(Step::DeleteChain((*name).clone())));
        for name in self.sets.keys().filter(|name| !new.sets.contains_key(*name)) {
            push(Step::DeleteSet(name.clone()));
        }
    }
}

struct Drawing<'a> {
    options: &'a Options,
    ground: &'a Ground,
    in_use: &'a InUse,
    skeleton: Skeleton,
}

impl Drawing<'_> {
    fn sets(&mut self) {
        let mut sets: Vec<SetId> = SetId::ALWAYS.to_vec();
        sets.extend(self.in_use.keys().filter(|set| set.comes_and_goes()));
        if self.ground.node_port_addresses.is_some() {
            sets.push(SetId::NodePortAddresses);
        }
        let mut declared: BTreeMap<Text, SetShape> = sets.into_iter().map(|set| (set.name(), set.shape())).collect();
        declared.insert(LAYOUT.into(), names::layout_shape());
        if self.has_affinity() {
            declared.insert(CLIENTS.into(), names::clients_shape());
        }
        self.skeleton.sets = declared;
    }

    fn has(&self, set: SetId) -> bool {
        self.in_use.contains_key(&set)
    }

    fn has_affinity(&self) -> bool {
        Door::ALL.into_iter().any(|door| self.has(SetId::Affinity(door)))
    }

    fn base(&mut self, name: &str, kind: ChainKind, hook: HookPoint, priority: i32, rules: Vec<Rule>) {
        let base = Some(Base { kind, hook, priority });
        self.skeleton.chains.insert(name.into(), Chain { base, rules });
    }

    fn chain(&mut self, name: impl Into<Text>, rules: Vec<Rule>) {
        self.skeleton.chains.insert(name.into(), Chain { base: None, rules });
    }

    fn dispatch(&mut self) {
        for (name, hook) in [("nat-prerouting", HookPoint::Prerouting), ("nat-output", HookPoint::Output)] {
            self.base(name, ChainKind::Nat, hook, -100, vec![rule([Statement::Jump("services".into())])]);
        }
        let mut services = self.door_rules(Door::ClusterIps);
        for (class, chain) in [(SetId::External, "external"), (SetId::ExternalLocal, "external-local")] {
            services.push(rule([is_in(&Door::External.key(), class), Statement::Goto(chain.into())]));
        }
        for (class, chain) in [(SetId::NodePorts, "node-ports"), (SetId::NodePortsLocal, "node-ports-local")] {
            let mut statements = vec![is_in(&Door::NodePorts.key(), class)];
            statements.extend(self.ground.at_node());
            statements.push(Statement::Goto(chain.into()));
            services.push(Rule::new(statements));
        }
        services.extend(self.host_ports());
        self.chain("services", services);
        for door in [Door::External, Door::NodePorts] {
            let mut rules = vec![commented("from anyone", [self.mark()])];
            rules.extend(self.door_rules(door));
            self.chain(door.name(), rules);
        }
        self.local_policy("external-local", Door::ExternalLocalToCluster, Door::ExternalLocalToLocal);
        self.local_policy("node-ports-local", Door::NodePortsLocalToCluster, Door::NodePortsLocalToLocal);
    }

    /// Ports of the node that lead to its pods: who comes keeps its address. Loopback, where no answer would find it, is
    /// let be.
    fn host_ports(&self) -> Vec<Rule> {
        let at_node = self.ground.at_any_address();
        let maps = [(SetId::HostPortsAt, Door::External.key()), (SetId::HostPorts, Door::NodePorts.key())];
        let in_use = maps.into_iter().filter(|(map, _)| self.has(*map));
        in_use.map(|(map, key)| rule(at_node.iter().cloned().chain([Statement::DnatFrom(key, map.name())]))).collect()
    }

    fn mark(&self) -> Statement {
        Statement::MarkOr(self.options.masquerade_mark)
    }

    /// Who is masqueraded on the way to a ClusterIP: everyone, or who is no pod. `None`: nobody.
    fn cluster_ip_mark(&self) -> Option<Vec<Statement>> {
        match self.ground.masquerade_all {
            true => Some(vec![self.mark()]),
            false => self.ground.is_local_pod(Sign::Not).map(|stranger| vec![stranger, self.mark()]),
        }
    }

    /// What pods and the node itself send there goes anywhere, as if it had gone out to a balancer and come back; the
    /// rest stays on this node and keeps its source.
    fn local_policy(&mut self, name: &str, to_cluster: Door, to_local: Door) {
        let there = Statement::Goto(to_cluster.name().into());
        let mut rules = Vec::new();
        if let Some(local_pod) = self.ground.is_local_pod(Sign::Is) {
            rules.push(commented("from a pod", [local_pod, there.clone()]));
        }
        let from_here = Statement::Local(Sign::Is, Field::Source);
        rules.push(commented("from the node", [from_here, self.mark(), there]));
        rules.extend(self.door_rules(to_local));
        self.chain(name, rules);
        let rules = self.door_rules(to_cluster);
        self.chain(to_cluster.name(), rules);
    }

    /// First where remembered clients were sent before, then by the number of endpoints.
    fn door_rules(&self, door: Door) -> Vec<Rule> {
        let mut rules = Vec::new();
        if self.has(SetId::Affinity(door)) {
            let client = vec![Field::Source, Field::Proto, Field::Priority];
            let known = Statement::PriorityFrom(door.key(), SetId::Affinity(door).name());
            if let Some(mark) = self.cluster_ip_mark().filter(|_| door == Door::ClusterIps) {
                rules.push(rule([known.clone()].into_iter().chain(mark)));
            }
            rules.push(rule([known, Statement::DnatFrom(client, CLIENTS.into())]));
        }
        for set in self.in_use.keys() {
            let chain = match *set {
                SetId::Count(of, count) if of == door && count <= names::MOST_DIRECT => door.pick_chain(count),
                SetId::Group(of, last) if of == door => door.group_chain(last),
                _ => continue,
            };
            rules.push(rule([is_in(&door.key(), *set), Statement::Goto(chain)]));
        }
        rules
    }

    fn picks(&mut self, door: Door) {
        let counts: Vec<u32> = self.in_use.keys().filter_map(|set| count_of(*set, door)).collect();
        let mut groups: BTreeMap<Text, Vec<Rule>> = BTreeMap::new();
        for count in counts {
            let mut key = door.key();
            key.push(Field::Random(count));
            let mark = self.cluster_ip_mark().filter(|_| door == Door::ClusterIps);
            let pick = rule([Statement::DnatFrom(key, door.endpoints().name())]);
            self.chain(door.pick_chain(count), mark.map(rule).into_iter().chain([pick]).collect());
            if count > names::MOST_DIRECT {
                let go = rule([is_in(&door.key(), SetId::Count(door, count)), Statement::Goto(door.pick_chain(count))]);
                groups.entry(door.group_chain(count)).or_default().push(go);
            }
        }
        for (name, rules) in groups {
            self.chain(name, rules);
        }
    }

    fn postrouting(&mut self) {
        let masquerade = || Statement::Masquerade { fully_random: self.options.fully_random };
        let mark = self.options.masquerade_mark;
        let mut rules = vec![
            commented("marked on the way in", [Statement::Marked(mark), Statement::MarkXor(mark), masquerade()]),
            commented(
                "an endpoint that came back to itself",
                [Statement::Redirected, is_in(&[Field::Source, Field::Destination], SetId::Hairpin), masquerade()],
            ),
        ];
        if let Some(pods) = self.ground.pods.filter(|_| self.ground.egress_snat) {
            let leaves = [
                Statement::Net(Sign::Is, Field::Source, pods),
                Statement::Net(Sign::Not, Field::Destination, pods),
                masquerade(),
            ];
            rules.push(commented("pod traffic that leaves the cluster", leaves));
        }
        self.base("nat-postrouting", ChainKind::Nat, HookPoint::Postrouting, 100, rules);
    }

    /// DNAT came before: whoever is still addressed to a Service found no endpoint. Who found one is not looked at again:
    /// the endpoint may be another Service's external address.
    fn refusals(&mut self) {
        let mut common = Vec::new();
        if self.has_affinity() {
            common.push(rule([Statement::StateNew, Statement::Jump("remember".into())]));
        }
        common.push(rule([Statement::Redirected, Statement::Accept]));
        for (set, verdict) in [(SetId::NoEndpoints, Statement::Reject), (SetId::NoLocalEndpoints, Statement::Drop)] {
            common.push(rule([Statement::StateNew, is_in(&Door::External.key(), set), verdict]));
        }
        let mut input = common.clone();
        let ports =
            [(SetId::NodePortsNoEndpoints, Statement::Reject), (SetId::NodePortsNoLocalEndpoints, Statement::Drop)];
        for (set, verdict) in ports {
            let mut statements = vec![Statement::StateNew, is_in(&Door::NodePorts.key(), set)];
            statements.extend(self.ground.at_node());
            statements.push(verdict);
            input.push(Rule::new(statements));
        }
        self.base("filter-input", ChainKind::Filter, HookPoint::Input, 0, input);
        let mut through = common;
        let wrong_port = [Statement::StateNew, is_in(&[Field::Destination], SetId::ClusterIps), Statement::Reject];
        through.push(commented("a port that the Service does not have", wrong_port));
        for range in &self.ground.service_cidrs {
            let nobody = [Statement::StateNew, Statement::Net(Sign::Is, Field::Destination, *range), Statement::Drop];
            through.push(commented("an address that no Service has", nobody));
        }
        self.base("filter-forward", ChainKind::Filter, HookPoint::Forward, 0, through.clone());
        self.base("filter-output", ChainKind::Filter, HookPoint::Output, 0, through);
    }

    fn firewall(&mut self) {
        if !self.has(SetId::Guarded) {
            return;
        }
        let hooks =
            [("filter-prerouting-pre-dnat", HookPoint::Prerouting), ("filter-output-pre-dnat", HookPoint::Output)];
        for (name, hook) in hooks {
            let guarded = is_in(&Door::External.key(), SetId::Guarded);
            let enter = rule([Statement::StateNew, guarded, Statement::Jump("firewall".into())]);
            self.base(name, ChainKind::Filter, hook, -110, vec![enter]);
        }
        let mut rules = Vec::new();
        for set in self.in_use.keys() {
            let SetId::Allowed(bits) = *set else { continue };
            let source = match bits == names::address_bits(self.ground.family) {
                true => Field::Source,
                false => Field::SourceNet(bits),
            };
            let key = [Field::Destination, Field::Proto, Field::Port, source];
            rules.push(rule([is_in(&key, *set), Statement::Return]));
        }
        rules.push(commented("source outside the Service's ranges", [Statement::Drop]));
        self.chain("firewall", rules);
    }

    fn dns(&mut self) {
        if self.options.dns != DnsPath::ThisNode || self.ground.dns.is_empty() {
            return;
        }
        let mut rules = Vec::new();
        for addr in &self.ground.dns {
            let net = IpNet::from(*addr);
            for proto in [Proto::Udp, Proto::Tcp] {
                let there = [Statement::Net(Sign::Is, Field::Destination, net), Statement::Proto(proto)];
                let back = [Statement::Net(Sign::Is, Field::Source, net), Statement::Proto(proto)];
                let (query, answer) = (Statement::Dport(53), Statement::Sport(53));
                for (way, port) in [(there, query), (back, answer)] {
                    let statements = way.into_iter().chain([port, Statement::NoTrack]);
                    rules.push(commented("cluster DNS on this node", statements));
                }
            }
        }
        for (name, hook) in names::DNS_CHAINS.into_iter().zip([HookPoint::Prerouting, HookPoint::Output]) {
            self.base(name, ChainKind::Filter, hook, -300, rules.clone());
        }
    }

    /// After DNAT: the client stays with the endpoint it came to. A node port of another node goes by here too, so those
    /// count only where DNAT was done; an address may be sent on to itself, which the kernel does not call DNAT.
    fn remembering(&mut self) {
        if !self.has_affinity() {
            return;
        }
        let protos = [Proto::Tcp, Proto::Udp, Proto::Sctp];
        let (mut by_address, mut by_port) = (Vec::new(), Vec::new());
        for (door, from) in REMEMBERED {
            if !self.has(SetId::Affinity(door)) {
                continue;
            }
            let Some(from) = self.is_from(from) else { continue };
            let list = if door.is_by_address() { &mut by_address } else { &mut by_port };
            for proto in protos {
                let id = Statement::PriorityFrom(door.original_key(), SetId::Affinity(door).name());
                let redirected = (!door.is_by_address()).then_some(Statement::Redirected);
                let statements =
                    redirected.into_iter().chain(from.iter().cloned()).chain([Statement::Proto(proto), id]);
                list.push(rule(statements.chain([Statement::Goto("remember-client".into())])));
            }
        }
        let mut rules = by_address;
        if !by_port.is_empty() {
            rules.extend(self.no_node_port(&protos));
            rules.extend(by_port);
        }
        self.chain("remember", rules);
        let rules = self.remember_client();
        self.chain("remember-client", rules);
    }

    /// Who takes the way that a door is for, where the destination does not say: those who come first in [`REMEMBERED`]
    /// are taken first. `None`: nobody.
    fn is_from(&self, from: From) -> Option<Vec<Statement>> {
        match from {
            From::Anyone => Some(Vec::new()),
            From::Pod => self.ground.is_local_pod(Sign::Is).map(|statement| vec![statement]),
            From::Node => Some(vec![Statement::Local(Sign::Is, Field::Source)]),
            From::Outside => {
                let mut statements = vec![Statement::Local(Sign::Not, Field::Source)];
                statements.extend(self.ground.is_local_pod(Sign::Not));
                Some(statements)
            }
        }
    }

    /// A Service's address may have a port that is also a node port of another: what came to an address is no node port.
    fn no_node_port(&self, protos: &[Proto]) -> Vec<Rule> {
        let mut rules = vec![rule([is_in(&[Field::OriginalDestination], SetId::ClusterIps), Statement::Return])];
        for (proto, class) in
            protos.iter().flat_map(|proto| [SetId::External, SetId::ExternalLocal].map(|class| (*proto, class)))
        {
            let known = is_in(&Door::External.original_key(), class);
            rules.push(rule([Statement::Proto(proto), known, Statement::Return]));
        }
        rules
    }

    fn remember_client(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        for set in self.in_use.keys() {
            let SetId::Timeout(seconds) = *set else { continue };
            let update = Statement::Update {
                map: CLIENTS.into(),
                key: vec![Field::Source, Field::Proto, Field::Priority],
                timeout_secs: seconds,
                data: vec![Field::Destination, Field::Port],
            };
            rules.push(rule([is_in(&[Field::Priority], *set), update]));
        }
        rules.push(rule([Statement::PriorityNone]));
        rules
    }
}

/// Whose packets take a door.
#[derive(Clone, Copy)]
enum From {
    Anyone,
    Pod,
    Node,
    Outside,
}

const REMEMBERED: [(Door, From); 9] = [
    (Door::ClusterIps, From::Anyone),
    (Door::External, From::Anyone),
    (Door::ExternalLocalToCluster, From::Pod),
    (Door::ExternalLocalToCluster, From::Node),
    (Door::ExternalLocalToLocal, From::Outside),
    (Door::NodePorts, From::Anyone),
    (Door::NodePortsLocalToCluster, From::Pod),
    (Door::NodePortsLocalToCluster, From::Node),
    (Door::NodePortsLocalToLocal, From::Outside),
];

fn count_of(set: SetId, door: Door) -> Option<u32> {
    match set {
        SetId::Count(of, count) if of == door => Some(count),
        _ => None,
    }
}

fn is_in(key: &[Field], set: SetId) -> Statement {
    Statement::In(Sign::Is, key.to_vec(), set.name())
}

fn rule(statements: impl IntoIterator<Item = Statement>) -> Rule {
    Rule::new(statements.into_iter().collect())
}

fn commented(comment: &str, statements: impl IntoIterator<Item = Statement>) -> Rule {
    Rule { comment: Some(comment.into()), ..rule(statements) }
}

/// 127.0.0.0/8 or ::1/128.
fn loopback(family: Family) -> IpNet {
    let addr: IpAddr = match family {
        Family::V4 => std::net::Ipv4Addr::new(127, 0, 0, 0).into(),
        Family::V6 => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    let bits = if family == Family::V4 { 8 } else { 128 };
    IpNet::new_assert(addr, bits)
}
