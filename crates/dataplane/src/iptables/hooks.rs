//! Hooks: the jumps from built-in chains into ours. They live in chains that others fill too, so they are never set as a
//! whole: the missing ones are found in what `iptables-save` says, and put at one end.

use crate::iptables::fixed::loopback;
use crate::iptables::names;
use crate::iptables::parse::{Saved, canonical};
use crate::iptables::plan::Desired;
use crate::iptables::rule::{Chain, CtState, Match, Rule, Sign, Table, Where};

/// One jump from a built-in chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The built-in chain.
    pub chain: Chain,
    /// The jump.
    pub rule: Rule,
    /// Where it is put.
    pub end: End,
}

/// The end of a built-in chain at which a hook is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Before all others.
    Front,
    /// After all others: host ports come after Services, whoever was there first.
    Back,
}

/// All hooks of `desired`, in the order they are put: the last that goes to the front ends on top of its chain. They do
/// not change while the settings do not.
pub fn wanted(desired: &Desired) -> Vec<Hook> {
    let mut hooks = Vec::new();
    let mut hook = |table, chain: &str, rule| {
        hooks.push(Hook { chain: Chain { table, name: chain.into() }, rule, end: End::Front });
    };
    for (chain, to, is_new, comment) in FILTER {
        hook(Table::Filter, chain, jump(to, is_new, comment));
    }
    for (chain, to, comment) in NAT {
        hook(Table::Nat, chain, jump(to, Start::Any, comment));
    }
    if desired.opens_loopback() {
        for chain in ["INPUT", "OUTPUT"] {
            hook(Table::Filter, chain, Rule::new().jump(names::FIREWALL));
        }
    }
    hook(Table::Nat, "POSTROUTING", jump(names::EGRESS_POSTROUTING, Start::Any, "cluster egress"));
    for table in [Table::Raw, Table::Filter] {
        let entry = if table == Table::Raw { "PREROUTING" } else { "INPUT" };
        for chain in [entry, "OUTPUT"] {
            hook(table, chain, jump(names::DNS, Start::Any, "cluster DNS on this node"));
        }
    }
    let masquerade = jump(names::HOST_PORTS_MASQ, Start::Any, "CNI portfwd requiring masquerade");
    hook(Table::Nat, "POSTROUTING", masquerade);
    hooks.extend(["PREROUTING", "OUTPUT"].map(|chain| host_ports(chain, desired)));
    hooks
}

/// Host ports answer on the node's addresses; on loopback where node ports do.
fn host_ports(chain: &str, desired: &Desired) -> Hook {
    let rule = Rule::new().and(Match::DstLocal);
    let rule = match desired.opens_loopback() {
        true => rule,
        false => rule.and(Match::Dst(Sign::Not, Where::Net(loopback(desired.family())))),
    };
    Hook { chain: Chain::nat(chain), rule: rule.jump(names::HOST_PORTS), end: End::Back }
}

/// The hooks that `saved` lacks, in the order to put them. Nothing is said of their place among others' rules.
pub fn missing(saved: &Saved, desired: &Desired) -> Vec<Hook> {
    let is_missing = |hook: &Hook| {
        let wanted = canonical(&hook.rule);
        saved.rules(&hook.chain).is_none_or(|rules| rules.iter().all(|rule| canonical(rule) != wanted))
    };
    wanted(desired).into_iter().filter(is_missing).collect()
}

/// Which packets a hook takes.
#[derive(Clone, Copy, PartialEq)]
enum Start {
    Any,
    New,
}

fn jump(to: &str, start: Start, comment: &str) -> Rule {
    let rule = match start {
        Start::Any => Rule::new(),
        Start::New => Rule::new().and(Match::State(Sign::Is, vec![CtState::New])),
    };
    rule.and(Match::Comment(comment.into())).jump(to)
}

const FILTER: [(&str, &str, Start, &str); 9] = [
    ("INPUT", names::EXTERNAL_SERVICES, Start::New, "kubernetes externally-visible service portals"),
    ("FORWARD", names::EXTERNAL_SERVICES, Start::New, "kubernetes externally-visible service portals"),
    ("INPUT", names::NODE_PORTS, Start::Any, "kubernetes health check service ports"),
    ("FORWARD", names::SERVICES, Start::New, "kubernetes service portals"),
    ("OUTPUT", names::SERVICES, Start::New, "kubernetes service portals"),
    ("FORWARD", names::FORWARD, Start::Any, "kubernetes forwarding rules"),
    ("INPUT", names::PROXY_FIREWALL, Start::New, "kubernetes load balancer firewall"),
    ("OUTPUT", names::PROXY_FIREWALL, Start::New, "kubernetes load balancer firewall"),
    ("FORWARD", names::PROXY_FIREWALL, Start::New, "kubernetes load balancer firewall"),
];

const NAT: [(&str, &str, &str); 3] = [
    ("OUTPUT", names::SERVICES, "kubernetes service portals"),
    ("PREROUTING", names::SERVICES, "kubernetes service portals"),
    ("POSTROUTING", names::POSTROUTING, "kubernetes postrouting rules"),
];
