//! Forth: the packet's way there as hops, node by node.
//!
//! ```text
//!  a node's steps:  prerouting, output ─► Arrive or Service + Dnat   (Conntrack where no rule was asked)
//!                   routing            ─► Route, or Deliver on the last node
//!                   input, forward     ─► Filter (quiet if nothing foreign was met)
//!                   postrouting        ─► Snat
//! ```

use portolan_dataplane::meaning::{Door, Masqueraded, Meaning};
use portolan_model::{ObjectKind, ServicePortKey};

use crate::evidence::{Act, DnsTold, Fate, Hook, RouteWay, Step};
use crate::knows::Who;
use crate::story::{Choice, End, Hop, Stage};
use crate::tell::hop::{is_foreign, node_object, object, rule_line};
use crate::tell::trail::Leg;
use crate::tell::{Case, choices, route};
use crate::words;

/// A name's way to an address, in one line.
pub(super) fn dns(dns: &DnsTold, case: &Case<'_>) -> Hop {
    let found = dns.queries.iter().rev().find(|query| !query.addresses.is_empty());
    let mut way = vec![dns.name.clone()];
    if let Some(query) = found {
        way.extend([&query.name].into_iter().chain(&query.aliases).filter(|name| **name != dns.name).cloned());
    }
    // The name as typed goes first where there is room; whatever the address, so that one Service's lines are alike.
    let is_long = way.iter().map(|name| name.chars().count() + 3).sum::<usize>() > ROOM_FOR_NAMES;
    way.extend(dns.addresses.first().map(ToString::to_string));
    let mut servers: Vec<String> = dns.queries.iter().map(|query| query.server.to_string()).collect();
    servers.dedup();
    let queries = match dns.hosts {
        true => "by the sender's /etc/hosts".to_owned(),
        false => format!("{} to {}", queries(dns.queries.len()), words::list(&servers, 2)),
    };
    let ttl = found.and_then(|query| query.ttl_secs).map(|ttl| format!(", ttl {ttl}")).unwrap_or_default();
    let end = match (dns.addresses.is_empty(), dns.queries.last()) {
        (true, Some(last)) => format!(": {}", last.answer),
        _ => String::new(),
    };
    if is_long && way.len() > 2 && way[1].starts_with(&way[0]) {
        way.remove(0);
    }
    let rest = dns.addresses.len().saturating_sub(1);
    let rest = if rest > 0 { format!(" (and {rest} more)") } else { String::new() };
    let mut hop = Hop::new(Stage::Dns, format!("{}{rest}{end}, {queries}{ttl}", way.join(" → ")));
    if let Some(Who::Service(key)) = dns.addresses.first().map(|addr| case.knows.who(*addr)) {
        hop = hop.because_of([object(ObjectKind::Service, &key)]);
    }
    hop
}

fn queries(number: usize) -> String {
    format!("{number} {}", if number == 1 { "query" } else { "queries" })
}

/// Every hop of the way there.
pub(super) fn hops(case: &Case<'_>, end: End) -> Vec<Hop> {
    let mut hops = Vec::new();
    for (at, leg) in case.trail.forth.iter().enumerate() {
        let is_last = at + 1 == case.trail.forth.len();
        Teller { case, leg: *leg, is_first: at == 0 }.hops(is_last.then_some(end), &mut hops);
    }
    hops
}

/// Columns of a line about DNAT that leave room for the name of an endpoint's chain, at the usual width.
const ROOM_FOR_SLICE: usize = 70;
/// Columns of names in a line about DNS that leave room for an address and who was asked.
const ROOM_FOR_NAMES: usize = 44;

struct Teller<'a> {
    case: &'a Case<'a>,
    leg: Leg<'a>,
    is_first: bool,
}

/// A node's steps by what they decide.
struct Parts<'a> {
    /// Before routing: Services, host ports, what is not tracked.
    early: Vec<&'a Step>,
    /// Whether it may pass.
    filter: Vec<&'a Step>,
    /// After routing: the source.
    late: Vec<&'a Step>,
}

impl<'a> Parts<'a> {
    fn of(leg: &Leg<'a>) -> Self {
        let mut parts = Self { early: Vec::new(), filter: Vec::new(), late: Vec::new() };
        for step in &leg.passage.steps {
            match step.hook {
                Hook::Postrouting => parts.late.push(step),
                Hook::Forward | Hook::Input => parts.filter.push(step),
                Hook::Output if decides_passing(step) => parts.filter.push(step),
                Hook::Prerouting | Hook::Output => parts.early.push(step),
            }
        }
        parts
    }
}

/// At the output hook both sorts of chain stand: iptables tells them by table, our own table by name and by meaning.
fn decides_passing(step: &Step) -> bool {
    let meaning = step.rule.as_ref().map(|rule| &rule.meaning);
    let by_meaning = matches!(meaning, Some(Meaning::Refuses { .. } | Meaning::Drops { .. } | Meaning::Lets));
    by_meaning || step.table.ends_with(" filter") || step.chain.starts_with("filter-")
}

impl<'a> Teller<'a> {
    fn hops(&self, end: Option<End>, hops: &mut Vec<Hop>) {
        let parts = Parts::of(&self.leg);
        let claimed = claimed(&self.leg, self.case);
        hops.push(self.arrive());
        match claimed {
            Some((key, door)) => hops.extend(self.service(&key, door, &parts.early)),
            None => hops.extend(self.unclaimed(&parts.early)),
        }
        let is_stopped = self.leg.passage.fate == Fate::Stopped;
        if !is_stopped {
            hops.extend(self.way_on(end));
        }
        hops.extend(self.filter(&parts.filter));
        if !is_stopped && self.leg.passage.fate != Fate::Vanished {
            hops.extend(self.snat(&parts));
        }
        self.settle_order(hops);
        hops.extend(self.end(end));
    }

    /// What delivers stands last, as it is where the packet ends.
    fn settle_order(&self, hops: &mut [Hop]) {
        let own = |hop: &Hop| hop.node.as_ref() == Some(self.leg.node);
        if let Some(at) = hops.iter().rposition(|hop| hop.stage == Stage::Deliver && own(hop)) {
            hops[at..].rotate_left(1);
        }
    }

    fn arrive(&self) -> Hop {
        let passage = self.leg.passage;
        let header = words::header(&passage.entered);
        let by = passage.came_by.as_ref().map(|link| format!("by {link}"));
        let node = self.leg.node;
        let src = passage.entered.src.ip();
        if !self.is_first {
            let hop = Hop::new(Stage::Arrive, format!("in {}: {header}", by.unwrap_or_else(|| "by itself".to_owned())));
            return hop.on(&self.leg, &[]).because_of([node_object(node)]);
        }
        let who = self.case.knows.who(src);
        let is_local = by.is_none();
        let (says, object) = match (&who, by) {
            (Who::Pod(key), by) => {
                let by = by.map(|by| format!(" {by}")).unwrap_or_default();
                let at = if is_local { format!("on {node}") } else { format!("to {node}{by}") };
                (format!("{} {at}: {header}", self.case.short(key)), Some(object(ObjectKind::Pod, key)))
            }
            (_, None) => (format!("a process on {node}: {header}"), Some(node_object(node))),
            (Who::Node(from), Some(by)) => (format!("{from} to {node} {by}: {header}"), Some(node_object(from))),
            (_, Some(by)) => (format!("{src} to {node} {by}: {header}"), None),
        };
        Hop::new(Stage::Arrive, says).on(&self.leg, &[]).because_of(object)
    }

    fn service(&self, key: &ServicePortKey, door: Door, early: &[&'a Step]) -> Vec<Hop> {
        let choices = choices::choices(key, door, &self.leg, self.case.knows);
        let name = self.port_name(key);
        let says = format!("{name} by its {}: {}", door_word(door), self.chosen(&choices));
        let (rewrites, asks): (Vec<&Step>, Vec<&Step>) = early.iter().partition(|step| is_dnat(step));
        let mut hop = Hop::new(Stage::Service, says).on(&self.leg, &asks);
        hop.objects.retain(|object| object.kind == ObjectKind::Service && object.key == key.service);
        hop = hop.because_of([object(ObjectKind::Service, &key.service)]);
        let dnat = self.dnat(&rewrites, &choices);
        hop.choices = choices;
        [Some(hop), dnat].into_iter().flatten().collect()
    }

    /// `web:http`, with its namespace where that is not the sender's.
    fn port_name(&self, key: &ServicePortKey) -> String {
        let name = self.case.short(&key.service);
        if key.port.is_empty() { name } else { format!("{name}:{}", key.port) }
    }

    /// How many might have been taken, and who not and why.
    fn chosen(&self, choices: &[Choice]) -> String {
        let usable = choices.iter().filter(|choice| choice.left_out.is_none()).count();
        let is_bound = usable > 1 && choices.iter().any(|choice| choice.taken && choice.chance == 1.0);
        let of = match usable {
            0 => "no endpoint may take it".to_owned(),
            1 => "its only endpoint".to_owned(),
            _ if is_bound => format!("of {usable} endpoints the one that the client had before"),
            _ => format!("1 of {usable} endpoints"),
        };
        let left_out: Vec<String> = choices
            .iter()
            .filter_map(|choice| choice.left_out.as_ref().map(|why| format!("{} {why}", self.endpoint_name(choice))))
            .collect();
        match (usable, left_out.is_empty()) {
            (_, true) => of,
            (1, false) => format!("its only endpoint of {}; left out: {}", choices.len(), words::list(&left_out, 2)),
            (_, false) => format!("{of}; left out: {}", words::list(&left_out, 2)),
        }
    }

    fn endpoint_name(&self, choice: &Choice) -> String {
        choice.pod.as_ref().map_or_else(|| choice.endpoint.to_string(), |pod| self.case.short(pod))
    }

    fn dnat(&self, steps: &[&'a Step], choices: &[Choice]) -> Option<Hop> {
        let step = steps.last()?;
        let (from, to) = (self.leg.passage.entered, step.rewritten.unwrap_or_else(|| self.leg.out()));
        let taken = choices.iter().find(|choice| choice.taken);
        let pod = taken.and_then(|choice| choice.pod.clone()).or_else(|| host_port_pod(step));
        let whose = pod.as_ref().map(|pod| format!(": {}", self.case.short(pod))).unwrap_or_default();
        let slice = taken.and_then(|choice| choice.slice.as_ref());
        let foreign = if is_foreign(step) { format!(" by a foreign rule: {}", raw(step)) } else { String::new() };
        let mut says = format!("{} → {}{whose}{foreign}", words::socket(from.dst), words::socket(to.dst));
        // Beside long names there is no room for the slice's; it is among the objects all the same.
        let by_slice = slice.map(|slice| format!(", slice {}", slice.name)).unwrap_or_default();
        if says.chars().count() + by_slice.len() <= ROOM_FOR_SLICE {
            says.push_str(&by_slice);
        }
        let mut hop = Hop::new(Stage::Dnat, says).on(&self.leg, steps);
        hop.change = Some((from, to));
        let objects = slice.map(|slice| object(ObjectKind::EndpointSlice, slice)).into_iter();
        Some(hop.because_of(objects.chain(pod.map(|pod| object(ObjectKind::Pod, &pod)))))
    }

    /// No Service was asked for: a host port, a foreign DNAT, an entry from before, what conntrack does not see.
    fn unclaimed(&self, early: &[&'a Step]) -> Vec<Hop> {
        let (rewrites, asks): (Vec<&Step>, Vec<&Step>) = early.iter().partition(|step| is_dnat(step));
        let mut hops: Vec<Hop> = self.untracked(&asks).or_else(|| self.older(&asks)).into_iter().collect();
        if hops.is_empty() && !asks.is_empty() {
            let entered = self.leg.passage.entered;
            let says = match self.case.knows.port_at(entered.dst, entered.proto) {
                Some((_, port)) => {
                    format!("{} has this address and port, but no rule asked for it", self.port_name(&port.key))
                }
                None => "no Service has this address and port".to_owned(),
            };
            let mut hop = Hop::new(Stage::Service, says).on(&self.leg, &asks);
            hop.quiet = !asks.iter().any(|step| rule_line(step).foreign);
            hop.objects.clear();
            hops.push(hop);
        }
        hops.extend(self.dnat(&rewrites, &[]));
        hops
    }

    fn untracked(&self, asks: &[&'a Step]) -> Option<Hop> {
        let is_untracked = self.leg.meanings().any(|(_, meaning)| *meaning == Meaning::KeepsUntracked);
        let to = self.leg.passage.entered.dst.ip();
        let service = self.case.knows.service_at(to).map(|view| view.key.clone());
        let name = service.as_ref().map_or_else(|| to.to_string(), |key| self.case.short(key));
        let says = format!("{name}: {} answers it by itself; no NAT, no conntrack entry", self.leg.node);
        let hop = Hop::new(Stage::Service, says).on(&self.leg, asks);
        is_untracked.then(|| hop.because_of(service.map(|key| object(ObjectKind::Service, &key))))
    }

    fn older(&self, asks: &[&'a Step]) -> Option<Hop> {
        let flow = self.leg.passage.flow.as_ref().filter(|flow| flow.older)?;
        let (from, to) = (self.leg.passage.entered, self.leg.out());
        let sends = if from == to { "lets it be".to_owned() } else { format!("makes it {}", words::header(&to)) };
        let says = format!("no rule was asked: a conntrack entry from before {sends}");
        let mut hop = Hop::new(Stage::Conntrack, says).on(&self.leg, asks);
        hop.flow = Some(flow.clone());
        hop.change = (from != to).then_some((from, to));
        Some(hop)
    }

    /// Where routing sends it: on to another node, or to whom it is for.
    fn way_on(&self, end: Option<End>) -> Option<Hop> {
        let passage = self.leg.passage;
        let hop = match (passage.fate == Fate::Vanished, self.receiver(end)) {
            (false, Some(hop)) => hop,
            _ => {
                let says = passage.route.as_ref().map(route::says).unwrap_or_else(|| self.link_words());
                Hop::new(Stage::Route, says).on(&self.leg, &[])
            }
        };
        let told = passage.route.as_ref().and_then(|route| route.object.clone());
        let mut hop = hop.because_of(told);
        hop.route = passage.route.clone();
        Some(hop)
    }

    fn link_words(&self) -> String {
        match &self.leg.passage.went_by {
            Some(link) => format!("out by {link}"),
            None => "nowhere".to_owned(),
        }
    }

    /// Who gets it, if it gets no further than this node or was answered from beyond the last.
    fn receiver(&self, end: Option<End>) -> Option<Hop> {
        let passage = self.leg.passage;
        let out = self.leg.out();
        let header = words::header(&out);
        let hop = |says: String| Hop::new(Stage::Deliver, says).on(&self.leg, &[]);
        if passage.fate == Fate::Taken {
            return Some(hop(format!("{}: {header}", self.process())).because_of([node_object(self.leg.node)]));
        }
        let by = passage.went_by.as_ref().map(|link| format!(" by {link}")).unwrap_or_default();
        match self.case.knows.who(out.dst.ip()) {
            Who::Pod(key) if is_here(self.case, &self.leg) => Some(
                hop(format!("{}{by}: {header}", self.case.short(&key))).because_of([object(ObjectKind::Pod, &key)]),
            ),
            _ if end != Some(End::Delivered) || self.is_told_by_route() => None,
            who => {
                let name = self.case.name(out.dst.ip());
                let says = format!("{name}{by}: {header}");
                let object = match who {
                    Who::Pod(key) => Some(object(ObjectKind::Pod, &key)),
                    Who::Node(node) => Some(node_object(&node)),
                    _ => None,
                };
                Some(hop(says).because_of(object))
            }
        }
    }

    /// A route with a next hop is worth a line of its own.
    fn is_told_by_route(&self) -> bool {
        self.leg.passage.route.as_ref().is_some_and(|route| route.gateway.is_some())
    }

    /// Who on this node takes what is for it.
    fn process(&self) -> String {
        let to = self.leg.out().dst.ip();
        let is_dns = self.case.knows.view(self.leg.node).is_some_and(|view| view.settings.cluster_dns.contains(&to));
        match is_dns {
            true => format!("the DNS server of {}", self.leg.node),
            false => format!("a process on {}", self.leg.node),
        }
    }

    fn filter(&self, steps: &[&'a Step]) -> Option<Hop> {
        let decided = self.leg.decided();
        let steps: Vec<&Step> =
            steps.iter().copied().filter(|step| !decided.is_some_and(|last| std::ptr::eq(last, *step))).collect();
        let foreign = steps.iter().filter(|step| rule_line(step).foreign).count();
        let says = match foreign {
            0 => "let through".to_owned(),
            _ => format!("let through; {} met", words::count(foreign, "foreign rule")),
        };
        let mut hop = Hop::new(Stage::Filter, says).on(&self.leg, &steps);
        hop.quiet = foreign == 0;
        (!steps.is_empty()).then_some(hop)
    }

    fn snat(&self, parts: &Parts<'a>) -> Option<Hop> {
        let (entered, out) = (self.leg.passage.entered, self.leg.out());
        let steps = &parts.late;
        let is_done = steps.iter().any(|step| matches!(meaning(step), Some(Meaning::Masquerades { .. })));
        let is_changed = entered.src != out.src;
        let is_sent_on = entered.dst != out.dst;
        let says = match (is_changed, is_done) {
            (true, _) => {
                format!("yes, {} → {}: {}", words::socket(entered.src), words::socket(out.src), self.why(parts))
            }
            (false, true) => format!("yes, by the address it had: {}", self.why(parts)),
            (false, false) => match unmasqueraded(&self.leg) {
                Some(step) => format!("no, though it was marked: a foreign rule took it: {}", raw(step)),
                None => format!("no: {}", self.why_not(is_sent_on)),
            },
        };
        let mut hop = Hop::new(Stage::Snat, says).on(&self.leg, steps);
        hop.change = is_changed.then_some((entered, out));
        hop.quiet = !(is_changed || is_done || is_sent_on || self.is_from_pod() && self.is_first);
        // Loopback and what a process here gets meets no rule of this sort; nothing is to be said of it.
        (is_changed || !steps.is_empty() || is_sent_on).then_some(hop)
    }

    fn is_from_pod(&self) -> bool {
        self.case.knows.pod_at(self.leg.passage.entered.src.ip()).is_some()
    }

    /// The reason that the rule which marked it knows, else that of the one which rewrote it.
    fn why(&self, parts: &Parts<'a>) -> String {
        let marked = parts.early.iter().rev().find_map(|step| match meaning(step) {
            // The mark's own chain serves all: who sent the packet there knows why.
            Some(Meaning::MarksMasquerade { because, .. }) if *because != Masqueraded::Marked => Some(*because),
            _ => None,
        });
        let done = parts.late.iter().rev().find_map(|step| match meaning(step) {
            Some(Meaning::Masquerades { because }) => Some(*because),
            _ => None,
        });
        let foreign = || parts.late.iter().rev().find(|step| is_foreign(step));
        match (marked, done) {
            (Some(because), Some(Masqueraded::Marked) | None) => because_word(because).to_owned(),
            (_, Some(because)) => because_word(because).to_owned(),
            (None, None) if self.leg.is_older() => "by a conntrack entry from before".to_owned(),
            (None, None) => foreign()
                .map_or_else(|| "by no rule seen".to_owned(), |step| format!("by a foreign rule: {}", raw(step))),
        }
    }

    fn why_not(&self, is_sent_on: bool) -> &'static str {
        let door = self.leg.claim().and_then(|meaning| match meaning {
            Meaning::Claims { door, .. } => Some(*door),
            _ => None,
        });
        match (door, self.is_from_pod()) {
            (Some(Door::ClusterIp), true) => "the sender is a pod",
            (Some(Door::ClusterIp), false) => "nothing marked it",
            (Some(_), true) => "the sender is a pod, and the policy is Local",
            (Some(_), false) => "externalTrafficPolicy Local keeps the client's address",
            (None, _) if is_sent_on => "nothing marked it",
            (None, true) => "it stays among pods",
            (None, false) => "nothing marked it",
        }
    }

    fn end(&self, end: Option<End>) -> Option<Hop> {
        let passage = self.leg.passage;
        let hop = |says: String, steps: &[&Step]| Some(Hop::new(Stage::End, says).on(&self.leg, steps));
        if let Some(step) = self.leg.decided() {
            return hop(stopped_words(step), &[step]);
        }
        match (&passage.fate, end) {
            (Fate::Stopped, _) => hop("stopped by a rule that is not known".to_owned(), &[]),
            (Fate::Vanished, _) => hop(format!("{} dropped it: {}", self.leg.node, self.vanished()), &[]),
            (_, Some(End::Refused)) => {
                let by = self.case.name(self.leg.out().dst.ip());
                hop(format!("{by} refused it: nobody listens there"), &[])
            }
            _ => None,
        }
    }

    fn vanished(&self) -> &'static str {
        match self.leg.passage.route.as_ref().map(|route| route.kind) {
            Some(RouteWay::Blackhole) => "its route is a blackhole",
            Some(RouteWay::Unreachable) | None => "no route leads there",
            Some(RouteWay::Forward | RouteWay::Local) => "no rule did, and its route leads on",
        }
    }
}

/// The node of this leg is the one of the pod that the packet is for, as it leaves.
pub(crate) fn is_here(case: &Case<'_>, leg: &Leg<'_>) -> bool {
    let to = leg.out().dst.ip();
    case.knows.pod_at(to).is_some_and(|(_, pod)| pod.node.as_ref() == Some(leg.node))
}

/// The Service port that a packet asked for on this node, by a rule that claims it or that turns it away for its sake.
pub(crate) fn claimed(leg: &Leg<'_>, case: &Case<'_>) -> Option<(ServicePortKey, Door)> {
    if let Some(Meaning::Claims { service, door }) = leg.claim() {
        return Some((service.clone(), *door));
    }
    let service = leg.meanings().find_map(|(_, meaning)| meaning.service().cloned())?;
    let door = door_of(leg, &service, case);
    Some((service, door))
}

/// By which of its addresses a packet asks for a Service.
fn door_of(leg: &Leg<'_>, key: &ServicePortKey, case: &Case<'_>) -> Door {
    let to = leg.passage.entered.dst.ip();
    let Some((view, _)) = case.knows.port(key) else { return Door::ClusterIp };
    match () {
        () if view.spec.cluster_ips.contains(&to) => Door::ClusterIp,
        () if view.spec.external_ips.contains(&to) => Door::External,
        () if view.spec.load_balancer_ips.contains(&to) => Door::LoadBalancer,
        () => Door::NodePort,
    }
}

/// The foreign rule that let a marked packet go before its source was rewritten.
pub(crate) fn unmasqueraded<'a>(leg: &Leg<'a>) -> Option<&'a Step> {
    let is_marked = leg.meanings().any(|(_, meaning)| matches!(meaning, Meaning::MarksMasquerade { .. }));
    let is_done = leg.meanings().any(|(_, meaning)| matches!(meaning, Meaning::Masquerades { .. }));
    let took = |step: &&Step| step.hook == Hook::Postrouting && is_foreign(step) && step.act == Act::Accept;
    leg.passage.steps.iter().find(took).filter(|_| is_marked && !is_done)
}

fn meaning(step: &Step) -> Option<&Meaning> {
    step.rule.as_ref().map(|rule| &rule.meaning)
}

fn is_dnat(step: &Step) -> bool {
    let ours = matches!(meaning(step), Some(Meaning::SendsTo { .. } | Meaning::HostPort { .. }));
    ours || (step.rewritten.is_some() && step.hook != Hook::Postrouting)
}

fn host_port_pod(step: &Step) -> Option<portolan_model::NsName> {
    match meaning(step) {
        Some(Meaning::HostPort { pod, .. }) => Some(pod.clone()),
        _ => None,
    }
}

/// Table, chain and text of a rule, as a reader finds it on the node.
pub(crate) fn raw(step: &Step) -> String {
    format!("{} {}: {}", step.table, step.chain, rule_line(step).text)
}

/// `REJECT in ip filter KUBE-SERVICES: …`.
pub(crate) fn stopped_words(step: &Step) -> String {
    let foreign = if is_foreign(step) { " by a foreign rule" } else { "" };
    format!("{}{foreign} in {}", stop_word(step), raw(step))
}

/// REJECT tells the sender, DROP does not. The kernel calls both a drop; the rule's own words say which it is.
pub(crate) fn stop_word(step: &Step) -> &'static str {
    let text = rule_line(step).text.to_lowercase();
    let refuses = match meaning(step) {
        Some(Meaning::Refuses { .. }) => true,
        Some(Meaning::Foreign) => text.contains("reject"),
        _ => false,
    };
    if refuses { "REJECT" } else { "DROP" }
}

pub(crate) fn door_word(door: Door) -> &'static str {
    match door {
        Door::ClusterIp => "ClusterIP",
        Door::External => "external IP",
        Door::LoadBalancer => "load balancer's address",
        Door::NodePort => "node port",
    }
}

fn because_word(because: Masqueraded) -> &'static str {
    match because {
        Masqueraded::NotFromPod => "the sender is no pod",
        Masqueraded::External => "its answer must pass this node again",
        Masqueraded::Hairpin => "the pod reaches itself",
        Masqueraded::All => "--masquerade-all",
        Masqueraded::FromNode => "a process of the node sent it",
        Masqueraded::LeavesCluster => "it leaves the cluster",
        Masqueraded::HostPort => "a host port reached from its own node",
        Masqueraded::Marked => "it was marked before",
    }
}
