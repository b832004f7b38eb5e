//! Hooks: the jumps from built-in chains into ours. They live in chains that others fill too, so they are never set as a
//! whole: the missing ones are found in what `iptables-save` says, and put in front.

use portolan_model::Family;

use crate::iptables::names;
use crate::iptables::options::Options;
use crate::iptables::parse::{Saved, canonical};
use crate::iptables::rule::{Chain, CtState, Match, Rule, Sign, Table};

/// One jump from a built-in chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The built-in chain.
    pub chain: Chain,
    /// The jump.
    pub rule: Rule,
}

/// All hooks of a family in the order they are *prepended*: the last ends on top of its chain.
pub fn wanted(family: Family, options: &Options) -> Vec<Hook> {
    let mut hooks = Vec::new();
    let mut hook = |table, chain: &str, rule| hooks.push(Hook { chain: Chain { table, name: chain.into() }, rule });
    for (chain, to, is_new, comment) in FILTER {
        hook(Table::Filter, chain, jump(to, is_new, comment));
    }
    for (chain, to, comment) in NAT {
        hook(Table::Nat, chain, jump(to, Start::Any, comment));
    }
    if options.closes_loopback(family) {
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
    hooks
}

/// The hooks that `saved` lacks, in the order to prepend them. Nothing is said of their place among others' rules.
pub fn missing(saved: &Saved, family: Family, options: &Options) -> Vec<Hook> {
    let is_missing = |hook: &Hook| {
        let wanted = canonical(&hook.rule);
        saved.rules(&hook.chain).is_none_or(|rules| rules.iter().all(|rule| canonical(rule) != wanted))
    };
    wanted(family, options).into_iter().filter(is_missing).collect()
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
