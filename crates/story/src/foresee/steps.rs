//! Steps: the rules that a walk met, in the shape in which kernels tell of them.

use std::net::SocketAddr;

use portolan_dataplane::iptables::{self, RuleSet, Target};
use portolan_dataplane::meaning::{At, RuleTold};
use portolan_dataplane::nftables::lang::{self, ChainKind, HookPoint, Statement};
use portolan_model::verdict::{Outcome, Packet};
use portolan_model::{Family, Snapshot, Text};

use crate::evidence::{Act, Header, Hook, Step};

/// A packet at a node, and what becomes of it there.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    snapshot: &'a Snapshot,
    entered: Header,
    outcome: Outcome,
}

impl<'a> Scene<'a> {
    /// Of a packet whose own port nobody knows.
    pub fn new(snapshot: &'a Snapshot, packet: &Packet, outcome: Outcome) -> Self {
        let src = SocketAddr::new(packet.src, 0);
        let entered = Header { src, dst: SocketAddr::new(packet.dst, packet.dport), proto: packet.proto };
        Self { snapshot, entered, outcome }
    }
}

/// The header after a node's rules. A masqueraded packet has the node's first address, and a port that the kernel
/// chooses.
pub fn after(snapshot: &Snapshot, entered: &Header, outcome: Outcome) -> Header {
    let (dst, masquerade) = match outcome {
        Outcome::Dnat { to, masquerade } => (to, masquerade),
        Outcome::Untouched { masquerade } => (entered.dst, masquerade),
        Outcome::Reject | Outcome::Drop => (entered.dst, false),
    };
    let own = snapshot.primary_address(Family::of(dst.ip())).filter(|_| masquerade);
    let src = own.map_or(entered.src, |addr| SocketAddr::new(addr, 0));
    Header { src, dst, proto: entered.proto }
}

/// A packet on its way through the chains of a node.
struct Progress<'a> {
    scene: Scene<'a>,
    header: Header,
    hook: Hook,
    is_nat: bool,
    is_untracked: bool,
}

impl<'a> Progress<'a> {
    fn new(scene: Scene<'a>) -> Self {
        Self { scene, header: scene.entered, hook: Hook::Prerouting, is_nat: false, is_untracked: false }
    }

    fn at(&self) -> At {
        let dst_after = after(self.scene.snapshot, &self.scene.entered, self.scene.outcome).dst;
        At {
            src: self.header.src,
            dst: self.header.dst,
            original_dst: self.scene.entered.dst,
            proto: self.header.proto,
            after: if self.is_nat { dst_after } else { self.header.dst },
        }
    }

    /// Rewrites what a rule rewrites, and says so if it differs.
    fn rewrite(&mut self, change: Change) -> Option<Header> {
        let end = after(self.scene.snapshot, &self.scene.entered, self.scene.outcome);
        let before = self.header;
        match change {
            Change::None => {}
            Change::Destination(to) => self.header.dst = to.unwrap_or(end.dst),
            Change::Source => self.header.src = end.src,
        }
        (self.header != before).then_some(self.header)
    }
}

enum Change {
    None,
    /// `None`: a map says where to.
    Destination(Option<SocketAddr>),
    Source,
}

/// The rules of `places`, in order; and whether conntrack was told to look away.
pub fn of_iptables(
    scene: Scene<'_>,
    places: impl Iterator<Item = (iptables::Chain, usize)>,
    rules: &RuleSet,
    told: &dyn Fn(&iptables::Chain, &iptables::Rule) -> RuleTold,
) -> (Vec<Step>, bool) {
    let mut progress = Progress::new(scene);
    let mut steps = Vec::new();
    let family = if scene.entered.dst.is_ipv6() { "ip6" } else { "ip" };
    for (chain, index) in places {
        let Some(rule) = rules.get(&chain).and_then(|all| all.get(index)) else { continue };
        progress.hook = built_in(&chain.name).unwrap_or(progress.hook);
        let told = told(&chain, rule);
        let change = match &rule.target {
            Some(Target::Dnat(to)) => Change::Destination(Some(*to)),
            Some(Target::Masquerade { .. }) => Change::Source,
            _ => Change::None,
        };
        progress.is_untracked |= rule.target == Some(Target::NoTrack);
        let rewritten = progress.rewrite(change);
        steps.push(Step {
            at_us: 0,
            hook: progress.hook,
            table: format!("{family} {}", chain.table.name()).into(),
            chain: chain.name.clone(),
            handle: None,
            index: Some(index),
            rule: Some(told),
            act: act_of_target(rule.target.as_ref()),
            rewritten,
        });
    }
    (steps, progress.is_untracked)
}

fn built_in(chain: &str) -> Option<Hook> {
    Some(match chain {
        "PREROUTING" => Hook::Prerouting,
        "INPUT" => Hook::Input,
        "FORWARD" => Hook::Forward,
        "OUTPUT" => Hook::Output,
        "POSTROUTING" => Hook::Postrouting,
        _ => return None,
    })
}

/// As the kernel reports it: what rewrites, accepts; what refuses, drops after an answer of its own.
fn act_of_target(target: Option<&Target>) -> Act {
    match target {
        Some(Target::Jump(chain)) => Act::Jump { chain: chain.clone() },
        Some(Target::Return) => Act::Return,
        Some(Target::Accept | Target::Dnat(_) | Target::Masquerade { .. }) => Act::Accept,
        Some(Target::Drop | Target::Reject) => Act::Drop,
        Some(Target::MarkOr(_) | Target::MarkXor(_) | Target::NoTrack | Target::Other(_)) | None => Act::Continue,
    }
}

/// The same in nftables mode.
pub fn of_nftables(
    scene: Scene<'_>,
    places: impl Iterator<Item = (Text, usize)>,
    table: &lang::Table,
    told: &dyn Fn(&str, &lang::Rule, &At) -> RuleTold,
) -> (Vec<Step>, bool) {
    let mut progress = Progress::new(scene);
    let mut steps = Vec::new();
    let family = if table.family == Family::V6 { "ip6" } else { "ip" };
    let table_name: Text = format!("{family} {}", table.name).into();
    for (name, index) in places {
        let Some(chain) = table.chains.get(&name) else { continue };
        let Some(rule) = chain.rules.get(index) else { continue };
        if let Some(base) = chain.base {
            progress.hook = hook_of(base.hook);
            progress.is_nat = base.kind == ChainKind::Nat;
        }
        let told = told(&name, rule, &progress.at());
        progress.is_untracked |= rule.statements.contains(&Statement::NoTrack);
        let rewritten = progress.rewrite(change_of(rule));
        steps.push(Step {
            at_us: 0,
            hook: progress.hook,
            table: table_name.clone(),
            chain: name.clone(),
            handle: None,
            index: Some(index),
            rule: Some(told),
            act: act_of_rule(rule),
            rewritten,
        });
    }
    (steps, progress.is_untracked)
}

fn hook_of(hook: HookPoint) -> Hook {
    match hook {
        HookPoint::Prerouting => Hook::Prerouting,
        HookPoint::Input => Hook::Input,
        HookPoint::Forward => Hook::Forward,
        HookPoint::Output => Hook::Output,
        HookPoint::Postrouting => Hook::Postrouting,
    }
}

fn change_of(rule: &lang::Rule) -> Change {
    let changes = rule.statements.iter().map(|statement| match statement {
        Statement::DnatFrom(..) => Change::Destination(None),
        Statement::Masquerade { .. } => Change::Source,
        _ => Change::None,
    });
    changes.into_iter().find(|change| !matches!(change, Change::None)).unwrap_or(Change::None)
}

fn act_of_rule(rule: &lang::Rule) -> Act {
    let act = |statement: &Statement| match statement {
        Statement::Jump(chain) => Some(Act::Jump { chain: chain.clone() }),
        Statement::Goto(chain) => Some(Act::Goto { chain: chain.clone() }),
        Statement::Return => Some(Act::Return),
        Statement::Accept | Statement::DnatFrom(..) | Statement::Masquerade { .. } => Some(Act::Accept),
        Statement::Drop | Statement::Reject => Some(Act::Drop),
        _ => None,
    };
    rule.statements.iter().find_map(act).unwrap_or(Act::Continue)
}
