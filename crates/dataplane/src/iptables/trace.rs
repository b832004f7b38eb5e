//! Trace: the way of a connection's first packet through a rule set, with every branch that chance may take.
//!
//! ```text
//!  in:   raw PREROUTING → nat PREROUTING → (here?) filter INPUT
//!                                        → (on?)   filter FORWARD → nat POSTROUTING
//!  out:  raw OUTPUT → nat OUTPUT → filter OUTPUT → (here?) filter INPUT; nat POSTROUTING
//! ```
//!
//! NAT sees only the first packet of a flow; conntrack repeats its decision for the rest. Not modelled: routing beyond
//! "is it ours", the mangle table, foreign matches (they never match here).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use portolan_model::verdict::{self, Outcome, Packet};
use portolan_model::{Family, Snapshot, Text};

use crate::iptables::plan::{Desired, RuleSet};
use crate::iptables::rule::{Chain, CtState, Match, Rule, Table, Target};
use crate::way::{self, Act, Base, Done, Event, Hook};

/// What a packet meets besides rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// Addresses on the node's interfaces; loopback is always among them.
    pub local: Vec<IpAddr>,
    /// List of `recent` that remembers the packet's source, if one does.
    pub remembered_by: Option<Text>,
}

/// One way a packet may go.
#[derive(Clone, Debug, PartialEq)]
pub struct Way {
    /// How likely, 0 to 1.
    pub chance: f64,
    /// What becomes of it.
    pub outcome: Outcome,
    /// Rules that matched, in order.
    pub path: Vec<Step>,
    /// Built-in chains that it went through, in order.
    pub bases: Vec<Base<Chain>>,
}

/// A rule that matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The chain it stands in.
    pub chain: Chain,
    /// Its place there, from 0.
    pub index: usize,
}

impl World {
    /// The node of `snapshot` under the rules of `desired`, which put the DNS address on it or not.
    pub fn of(snapshot: &Snapshot, desired: &Desired) -> Self {
        let local = way::local_addresses(snapshot, desired.family(), desired.options().dns);
        Self { local, remembered_by: None }
    }

    fn holds(&self, addr: IpAddr) -> bool {
        way::is_local(&self.local, addr)
    }
}

/// Outcomes with their chances.
pub fn chances(ways: &[Way]) -> BTreeMap<Outcome, f64> {
    way::chances(ways.iter().map(|way| (way.outcome, way.chance)))
}

/// What a trace in the kernel would tell of `way`, one that [`walk`] found for `packet` in `rules`.
pub fn events(rules: &RuleSet, way: &Way, packet: &Packet, source_port: u16) -> Vec<Event> {
    let family = way::family_word(Family::of(packet.dst));
    let table = |chain: &Chain| Text::from(format!("{family} {}", chain.table.name()));
    let done = |step: &Step| {
        let rule = rules.get(&step.chain)?.get(step.index)?;
        let act = act(rule.target.as_ref());
        Some(Done { table: table(&step.chain), chain: step.chain.name.clone(), index: step.index, act })
    };
    let named = |chain: &Chain| (table(chain), chain.name.clone());
    way::events(packet, source_port, (&way.bases, &way.path), done, named)
}

fn act(target: Option<&Target>) -> Act {
    match target {
        Some(Target::Jump(chain)) => Act::Jump { chain: chain.clone() },
        Some(Target::Return) => Act::Return,
        Some(Target::Accept | Target::Dnat(_) | Target::Masquerade { .. }) => Act::Accept,
        Some(Target::Drop | Target::Reject) => Act::Drop,
        Some(Target::MarkOr(_) | Target::MarkXor(_) | Target::NoTrack | Target::Other(_)) | None => Act::Continue,
    }
}

/// All ways of `packet` through `rules` (hooks included: [`Desired::with_hooks`], or what the kernel holds).
pub fn walk(rules: &RuleSet, world: &World, packet: &verdict::Packet) -> Vec<Way> {
    let tracer = Tracer { rules, world };
    let from_here = packet.is_sent();
    let mut ended = Vec::new();
    let mut live = vec![Branch::new(packet)];
    let first = if from_here { Hook::Output } else { Hook::Prerouting };
    let tables = if from_here { [Table::Raw, Table::Nat, Table::Filter].as_slice() } else { &[Table::Raw, Table::Nat] };
    for table in tables {
        live = tracer.pass(live, *table, first, &mut ended);
    }
    let (here, on): (Vec<Branch>, Vec<Branch>) = live.into_iter().partition(|branch| world.holds(branch.to.ip()));
    live = tracer.second_half(here, on, from_here, &mut ended);
    ended.extend(live);
    ended.into_iter().map(Branch::way).collect()
}

struct Tracer<'a> {
    rules: &'a RuleSet,
    world: &'a World,
}

/// One possible state of the packet.
#[derive(Clone, Debug)]
struct Branch {
    chance: f64,
    packet: Packet,
    to: SocketAddr,
    mark: u32,
    tracked: bool,
    end: Option<End>,
    /// Some DNAT had its say, be it for the address that the packet had.
    sent_on: bool,
    masquerade: bool,
    path: Vec<Step>,
    bases: Vec<Base<Chain>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Reject,
    Drop,
}

/// What a chain makes of branches: those that fall through it, and those that ended the table.
#[derive(Default)]
struct Flow {
    fell: Vec<Branch>,
    ended: Vec<Branch>,
}

impl Branch {
    fn new(packet: &Packet) -> Self {
        Self {
            chance: 1.0,
            packet: *packet,
            to: SocketAddr::new(packet.dst, packet.dport),
            mark: 0,
            tracked: true,
            end: None,
            sent_on: false,
            masquerade: false,
            path: Vec::new(),
            bases: Vec::new(),
        }
    }

    /// Notes the built-in chain that it just went through.
    fn passed(&mut self, (chain, hook): (&Chain, Hook), before: SocketAddr, by_policy: bool) {
        let (after, met) = (self.to, self.path.len());
        self.bases.push(Base { chain: chain.clone(), hook, before, after, met, by_policy });
    }

    /// conntrack calls a flow DNAT only if its destination differs.
    fn is_redirected(&self) -> bool {
        self.to != SocketAddr::new(self.packet.dst, self.packet.dport)
    }

    fn with_chance(&self, share: f64) -> Self {
        Self { chance: self.chance * share, ..self.clone() }
    }

    fn way(self) -> Way {
        let outcome = match (self.end, self.sent_on) {
            (Some(End::Reject), _) => Outcome::Reject,
            (Some(End::Drop), _) => Outcome::Drop,
            (None, true) => Outcome::Dnat { to: self.to, masquerade: self.masquerade },
            (None, false) => Outcome::Untouched { masquerade: self.masquerade },
        };
        Way { chance: self.chance, outcome, path: self.path, bases: self.bases }
    }
}

impl Tracer<'_> {
    fn second_half(&self, here: Vec<Branch>, on: Vec<Branch>, from_here: bool, ended: &mut Vec<Branch>) -> Vec<Branch> {
        let mut here = self.pass(here, Table::Filter, Hook::Input, ended);
        let mut on = match from_here {
            true => on,
            false => self.pass(on, Table::Filter, Hook::Forward, ended),
        };
        // What comes in for the node itself never passes POSTROUTING; what it sends to itself does, on its way out.
        if from_here {
            on.append(&mut here);
        }
        let mut live = self.pass(on, Table::Nat, Hook::Postrouting, ended);
        live.append(&mut here);
        live
    }

    /// Sends branches through a built-in chain: what a verdict dropped has ended, the others go on.
    fn pass(&self, live: Vec<Branch>, table: Table, hook: Hook, ended: &mut Vec<Branch>) -> Vec<Branch> {
        let chain = Chain { table, name: built_in(hook).into() };
        if !self.rules.contains_key(&chain) {
            return live;
        }
        let mut on = Vec::new();
        for branch in live {
            if table == Table::Nat && !branch.tracked {
                on.push(branch);
                continue;
            }
            let before = branch.to;
            let mut flow = self.run(&chain, branch, 0);
            flow.fell.iter_mut().for_each(|branch| branch.passed((&chain, hook), before, true));
            flow.ended.iter_mut().for_each(|branch| branch.passed((&chain, hook), before, false));
            let all = flow.fell.into_iter().chain(flow.ended);
            let (gone, still): (Vec<Branch>, Vec<Branch>) = all.partition(|branch| branch.end.is_some());
            ended.extend(gone);
            on.extend(still);
        }
        on
    }

    fn run(&self, chain: &Chain, entry: Branch, depth: usize) -> Flow {
        let mut flow = Flow::default();
        let mut live = vec![entry];
        // The kernel refuses loops; a dump from elsewhere might hold one.
        let rules = self.rules.get(chain).filter(|_| depth < 32).map(Vec::as_slice).unwrap_or_default();
        for (index, rule) in rules.iter().enumerate() {
            let step = Step { chain: chain.clone(), index };
            live = live.into_iter().flat_map(|branch| self.rule(rule, &step, branch, depth, &mut flow)).collect();
        }
        flow.fell.append(&mut live);
        flow
    }

    /// Branches that go on to the next rule. What returns falls out of the chain, what is decided ends the table.
    fn rule(&self, rule: &Rule, step: &Step, branch: Branch, depth: usize, flow: &mut Flow) -> Vec<Branch> {
        let share: f64 = rule.matches.iter().map(|condition| self.share(condition, &branch)).product();
        let mut next = Vec::new();
        if share < 1.0 {
            next.push(branch.with_chance(1.0 - share));
        }
        if share > 0.0 {
            let mut hit = branch.with_chance(share);
            hit.path.push(step.clone());
            self.act(rule.target.as_ref(), step.chain.table, hit, depth, flow, &mut next);
        }
        next
    }

    fn act(
        &self,
        target: Option<&Target>,
        table: Table,
        mut hit: Branch,
        depth: usize,
        flow: &mut Flow,
        next: &mut Vec<Branch>,
    ) {
        match target {
            Some(Target::Jump(name)) => {
                let inner = self.run(&Chain { table, name: name.clone() }, hit, depth + 1);
                next.extend(inner.fell);
                flow.ended.extend(inner.ended);
                return;
            }
            Some(Target::Return) => return flow.fell.push(hit),
            Some(Target::MarkOr(bits)) => hit.mark |= bits,
            Some(Target::MarkXor(bits)) => hit.mark ^= bits,
            Some(Target::NoTrack) => hit.tracked = false,
            Some(Target::Other(_)) | None => {}
            Some(Target::Accept) => return flow.ended.push(hit),
            Some(Target::Drop) => hit.end = Some(End::Drop),
            Some(Target::Reject) => hit.end = Some(End::Reject),
            Some(Target::Masquerade { .. }) => hit.masquerade = true,
            Some(Target::Dnat(to)) => (hit.to, hit.sent_on) = (*to, true),
        }
        let decides =
            matches!(target, Some(Target::Drop | Target::Reject | Target::Masquerade { .. } | Target::Dnat(_)));
        match decides {
            true => flow.ended.push(hit),
            false => next.push(hit),
        }
    }

    /// The share of such packets that `condition` matches: 0, 1, or a chance.
    fn share(&self, condition: &Match, branch: &Branch) -> f64 {
        let holds = match condition {
            Match::Random(probability) => return probability.fraction(),
            Match::Comment(_) | Match::Remember(_) => true,
            Match::Proto(proto) => branch.packet.proto == *proto,
            Match::Src(sign, at) => sign.applies(at.net().contains(&branch.packet.src)),
            Match::Dst(sign, at) => sign.applies(at.net().contains(&branch.to.ip())),
            Match::In(sign, link) => {
                sign.applies(branch.packet.arrival.link().is_some_and(|name| is_named(name, link)))
            }
            Match::Dport(port) => branch.to.port() == *port,
            Match::DportIn(ports) => ports.contains(&branch.to.port()),
            // A client's own port is never a well-known one.
            Match::Sport(_) => false,
            Match::SrcLocal => self.world.holds(branch.packet.src),
            Match::DstLocal => self.world.holds(branch.to.ip()),
            Match::State(sign, states) => sign.applies(states.iter().any(|state| is_in(*state, branch))),
            Match::Marked(sign, bits) => sign.applies(branch.mark & bits == *bits),
            Match::Remembered { list, .. } => self.world.remembered_by.as_ref() == Some(list),
            Match::Other(_) => false,
        };
        if holds { 1.0 } else { 0.0 }
    }
}

/// The chain that every table of its kind has at `hook`.
fn built_in(hook: Hook) -> &'static str {
    match hook {
        Hook::Prerouting => "PREROUTING",
        Hook::Input => "INPUT",
        Hook::Forward => "FORWARD",
        Hook::Output => "OUTPUT",
        Hook::Postrouting => "POSTROUTING",
    }
}

/// `pattern` is a name, or its beginning with `+`.
fn is_named(name: &str, pattern: &str) -> bool {
    match pattern.strip_suffix('+') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    }
}

/// What conntrack says of the first packet of a flow.
fn is_in(state: CtState, branch: &Branch) -> bool {
    match state {
        CtState::New => branch.tracked,
        CtState::Untracked => !branch.tracked,
        CtState::Dnat => branch.is_redirected(),
        CtState::Invalid | CtState::Related | CtState::Established | CtState::Snat => false,
    }
}
