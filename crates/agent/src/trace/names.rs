//! Names: which rule of whose a handle is, and what it is there for.
//!
//! ```text
//!  handle ─► place in its chain (netlink) ─┬─ a chain of ours, as planned ─► the plan's rule ─► RuleTold
//!                                          └─ else: its line by `iptables -S`, or read from nf_tables ─► RuleTold, raw
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use portolan_dataplane::iptables::{self, Chain, Rule, Table, Target, hooks};
use portolan_dataplane::meaning::{At, Meaning, RuleTold};
use portolan_dataplane::nftables::lang::Statement;
use portolan_dataplane::nftables::{self, names::TABLE, parse, render};
use portolan_kernel::iptables::{Family as ToolFamily, Tool};
use portolan_kernel::nft::Nft;
use portolan_model::{Family, ObjectKind, Snapshot};
use portolan_story::evidence::Act;

use crate::core::View;
use crate::proxy::Plan;

/// A rule that a packet met, as the kernel names it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// `NFPROTO_*` of the table.
    pub(crate) family: u8,
    pub(crate) table: String,
    pub(crate) chain: String,
    pub(crate) handle: u64,
    /// Its place in the chain from 0; `None` if it is gone meanwhile and nobody heard of it.
    pub(crate) index: Option<usize>,
    /// It is gone meanwhile: it stood there when the packet came.
    pub(crate) is_former: bool,
    /// How many rules the chain has, or had.
    pub(crate) count: usize,
    /// When the packet met it, microseconds since 1970.
    pub(crate) at_us: i64,
    /// As nft keeps it.
    pub(crate) comment: Option<String>,
    pub(crate) act: Act,
    /// The packet as it came there.
    pub(crate) at: At,
}

/// Generations that are planned again for a rule which has gone: the one that stood when the packet came, and its neighbours.
const PLANS_TRIED: usize = 4;

/// Names rules by what this node plans, or planned when the packet came. Rules of one chain are looked up once.
#[derive(Default)]
pub(crate) struct Namer {
    chains: BTreeMap<(Family, Chain), Option<Vec<Rule>>>,
    /// Plans of former generations, by their numbers.
    chains_then: BTreeMap<(Family, u64), iptables::Desired>,
    tables_then: BTreeMap<(Family, u64), nftables::Desired>,
}

impl Namer {
    /// What a rule of ours is there for; `None` if it is none of ours, or stands elsewhere than planned.
    pub(crate) fn name_rule(&mut self, view: &View<'_>, place: &Place) -> Option<RuleTold> {
        match view.proxy.plan(family_of(place.family)?)? {
            Plan::Iptables(desired) => self.name_in_chain(view, desired, place),
            Plan::Nftables(desired) if place.table == TABLE => self.name_in_table(view, desired, place),
            Plan::Nftables(_) => None,
        }
    }

    fn name_in_chain(&mut self, view: &View<'_>, desired: &iptables::Desired, place: &Place) -> Option<RuleTold> {
        let chain = Chain { table: Table::parse(&place.table)?, name: place.chain.as_str().into() };
        if let Some(rule) = hook_of(desired, &chain, &place.act) {
            return Some(iptables::meaning::told(desired, view.snapshot, &chain, &rule, Some(&place.at)));
        }
        // Others have rules there too: what is none of our jumps is theirs.
        if iptables::render::is_built_in(&place.chain) {
            return None;
        }
        let family = desired.family();
        let planned = self.chains.entry((family, chain.clone())).or_insert_with(|| desired.rules(&chain));
        let planned = planned.as_ref().filter(|_| !place.is_former).and_then(|rules| rule_at(rules, place));
        if let Some(rule) = planned {
            return Some(iptables::meaning::told(desired, view.snapshot, &chain, rule, Some(&place.at)));
        }
        view.history.around(place.at_us).into_iter().take(PLANS_TRIED).find_map(|then| {
            let plan = || iptables::Desired::of(family, desired.options().clone(), &then.snapshot);
            let plan = self.chains_then.entry((family, then.number)).or_insert_with(plan);
            let rules = plan.rules(&chain)?;
            let rule = rule_at(&rules, place)?;
            Some(iptables::meaning::told(plan, &then.snapshot, &chain, rule, Some(&place.at)))
        })
    }

    /// Elements change where no rule does: they are asked for as they were when the packet came.
    fn name_in_table(&mut self, view: &View<'_>, desired: &nftables::Desired, place: &Place) -> Option<RuleTold> {
        let now = if place.is_former { None } else { told_in_table(desired, view.snapshot, place) };
        let around = view.history.around(place.at_us);
        let stands = around.first().is_none_or(|then| then.number == view.history.last_number());
        if stands && now.as_ref().is_some_and(|told| agrees(told, place)) {
            return now;
        }
        let family = desired.family();
        let then = around.into_iter().take(PLANS_TRIED).find_map(|then| {
            let plan = || nftables::Desired::of(family, desired.options().clone(), &then.snapshot);
            let plan = self.tables_then.entry((family, then.number)).or_insert_with(plan);
            told_in_table(plan, &then.snapshot, place).filter(|told| agrees(told, place))
        });
        then.or(now)
    }
}

/// The rule at a place, if the chain is as long as it was and the rule does what was seen.
fn rule_at<'a>(rules: &'a [Rule], place: &Place) -> Option<&'a Rule> {
    let rule = rules.get(place.index?).filter(|_| rules.len() == place.count)?;
    let did = match (&place.act, &rule.target) {
        (Act::Jump { chain } | Act::Goto { chain }, _) => rule.jumps_to() == Some(&**chain),
        (_, Some(Target::Jump(_))) => false,
        (_, Some(Target::Dnat(to))) => is_sent_to(*to, place),
        _ => true,
    };
    did.then_some(rule)
}

fn told_in_table(desired: &nftables::Desired, snapshot: &Snapshot, place: &Place) -> Option<RuleTold> {
    let rules = &desired.chain(&place.chain)?.rules;
    let rule = rules.get(place.index?).filter(|_| rules.len() == place.count)?;
    let leads_to = |statement: &Statement, chain: &str| match statement {
        Statement::Jump(to) | Statement::Goto(to) => **to == *chain,
        _ => false,
    };
    let did = match &place.act {
        Act::Jump { chain } | Act::Goto { chain } => rule.statements.iter().any(|it| leads_to(it, chain)),
        _ => true,
    };
    did.then(|| nftables::meaning::told(desired, snapshot, &place.chain, rule, Some(&place.at)))
}

/// Where the packet was seen to go; of one that came to no later chain nothing was seen.
fn is_sent_to(endpoint: SocketAddr, place: &Place) -> bool {
    endpoint == place.at.after || place.at.after == place.at.dst
}

/// What is said of a rule is what was seen of the packet, and known of the endpoint: its Pod, if it has one, is in the plan of
/// the time alone.
fn agrees(told: &RuleTold, place: &Place) -> bool {
    let names_pod = || told.objects.iter().any(|object| object.kind == ObjectKind::Pod);
    match &told.meaning {
        Meaning::SendsTo { endpoint, .. } => is_sent_to(*endpoint, place) && names_pod(),
        Meaning::Foreign | Meaning::Plumbing => false,
        _ => true,
    }
}

/// The same for a line of `iptables -S`: ours or not, by what it says.
pub(crate) fn name_line(view: &View<'_>, place: &Place, line: &str) -> Option<RuleTold> {
    let table = Table::parse(&place.table)?;
    match view.proxy.plan(family_of(place.family)?)? {
        Plan::Iptables(desired) => {
            Some(iptables::meaning::told_line(desired, view.snapshot, table, line, Some(&place.at))?.1)
        }
        Plan::Nftables(_) => None,
    }
}

/// The jump of ours in a built-in chain that leads where the packet went.
fn hook_of(desired: &iptables::Desired, chain: &Chain, act: &Act) -> Option<Rule> {
    let (Act::Jump { chain: to } | Act::Goto { chain: to }) = act else { return None };
    let leads_there = |hook: &hooks::Hook| hook.chain == *chain && hook.rule.jumps_to() == Some(&**to);
    hooks::wanted(desired).into_iter().find(leads_there).map(|hook| hook.rule)
}

/// Reads rules that are none of ours, or not where they were planned: as raw as they are. Blocks.
#[derive(Default)]
pub(crate) struct Stranger {
    tables: BTreeMap<(u8, String), Option<parse::Read>>,
    refused: BTreeSet<(u8, String)>,
}

/// What was read of a stranger's rule.
pub(crate) enum Raw {
    /// `-A CHAIN …`.
    Line(String),
    /// As nft prints it, or what is known of it.
    Text(String),
}

impl Stranger {
    /// The rule as its own tool prints it.
    pub(crate) fn read(&mut self, nft: &mut Nft, place: &Place) -> Raw {
        if place.is_former {
            // Another rule has its place now.
            return Raw::Text(barely(place));
        }
        let line = || {
            let family = tool_family(family_of(place.family)?);
            Table::parse(&place.table)?;
            Tool::from_environment().rule(family, &place.table, &place.chain, place.index? + 1).ok()?
        };
        let of_iptables = (place.family, place.table.clone());
        if !self.refused.contains(&of_iptables)
            && let Some(line) = line()
        {
            return Raw::Line(line);
        }
        self.refused.insert(of_iptables);
        Raw::Text(self.text(nft, place).unwrap_or_else(|| barely(place)))
    }

    fn text(&mut self, nft: &mut Nft, place: &Place) -> Option<String> {
        let family = family_of(place.family)?;
        let index = place.index?;
        let key = (place.family, place.table.clone());
        let read = self.tables.entry(key).or_insert_with(|| {
            let messages = nft.dump(tool_family(family), &place.table).ok()?;
            parse::table(family, &place.table, messages.iter().map(Vec::as_slice)).ok()?
        });
        let read = read.as_ref()?;
        let in_chain = read.unread.iter().filter_map(|unread| match &unread.place {
            parse::Place::Rule(chain, at) if **chain == place.chain => Some(*at),
            _ => None,
        });
        let unread: Vec<usize> = in_chain.collect();
        if unread.contains(&index) {
            return None;
        }
        let before = unread.iter().filter(|at| **at < index).count();
        let rule = read.table.chains.get(place.chain.as_str())?.rules.get(index - before)?;
        Some(render::rule(family, rule))
    }
}

/// What can be said of a rule in words that are not read here.
fn barely(place: &Place) -> String {
    let comment = place.comment.as_ref().map(|comment| format!(" comment {comment:?}")).unwrap_or_default();
    let verdict = match &place.act {
        Act::Jump { chain } => format!("jump {chain}"),
        Act::Goto { chain } => format!("goto {chain}"),
        Act::Continue => "continue".to_owned(),
        Act::Return => "return".to_owned(),
        Act::Accept | Act::Policy { accepts: true } => "accept".to_owned(),
        Act::Drop | Act::Policy { accepts: false } => "drop".to_owned(),
        Act::Stolen => "queue".to_owned(),
    };
    format!("… {verdict}{comment} # handle {}", place.handle)
}

/// A rule that is told raw.
pub(crate) fn foreign(place: &Place, raw: &Raw) -> RuleTold {
    let text = match raw {
        Raw::Line(line) => {
            let behind = line.strip_prefix("-A ").and_then(|rest| rest.strip_prefix(place.chain.as_str()));
            behind.unwrap_or(line).trim()
        }
        Raw::Text(text) => text,
    };
    RuleTold { text: text.into(), meaning: Meaning::Foreign, objects: Vec::new() }
}

/// By `NFPROTO_*`; `None` for tables of both families.
pub(crate) fn family_of(number: u8) -> Option<Family> {
    match i32::from(number) {
        libc::NFPROTO_IPV4 => Some(Family::V4),
        libc::NFPROTO_IPV6 => Some(Family::V6),
        _ => None,
    }
}

fn tool_family(family: Family) -> ToolFamily {
    match family {
        Family::V4 => ToolFamily::V4,
        Family::V6 => ToolFamily::V6,
    }
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
