//! Render: changes and hooks as the input of `iptables-restore --noflush`, or a whole set as `iptables-save` orders it.
//!
//! ```text
//!  *filter                        per table: chain lines (each flushes that chain only), hooks, rules, -X of what went
//!  :KUBE-SERVICES - [0:0]
//!  -A KUBE-SERVICES …
//!  COMMIT
//! ```
//!
//! One run is atomic per table, filter before nat: a refusal stands before its DNAT goes.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use crate::iptables::hooks::{End, Hook};
use crate::iptables::plan::RuleSet;
use crate::iptables::rule::{Chain, Change, CtState, Match, Rule, Sign, Table, Target, Where};

/// The text that makes `changes`, for `iptables-restore --noflush`. Applied twice it does what it does once. Of several
/// changes to one chain the last counts. Empty if nothing changes.
pub fn restore(changes: &[Change]) -> String {
    program(changes, &[])
}

/// As [`restore`], with hooks put in front of their built-in chains after the chains they jump to exist. Hooks add up:
/// pass only those that [`hooks::missing`](crate::iptables::hooks::missing) found wanting.
pub fn program(changes: &[Change], hooks: &[Hook]) -> String {
    let last: BTreeMap<&Chain, &Change> = changes.iter().map(|change| (change.chain(), change)).collect();
    let mut text = String::new();
    for table in Table::ALL {
        let changes: Vec<&Change> = last.values().copied().filter(|change| change.chain().table == table).collect();
        let mut hooks = hooks.iter().filter(|hook| hook.chain.table == table).peekable();
        if !changes.is_empty() || hooks.peek().is_some() {
            write_table(&mut text, table, &changes, hooks).expect("writing to a String cannot fail");
        }
    }
    text
}

fn write_table<'a>(
    text: &mut String,
    table: Table,
    changes: &[&Change],
    hooks: impl Iterator<Item = &'a Hook>,
) -> fmt::Result {
    writeln!(text, "*{}", table.name())?;
    for change in changes {
        writeln!(text, ":{} - [0:0]", change.chain().name)?;
    }
    for Hook { chain, rule, end } in hooks {
        match end {
            End::Front => writeln!(text, "-I {} 1 {rule}", chain.name)?,
            End::Back => writeln!(text, "-A {} {rule}", chain.name)?,
        }
    }
    for change in changes {
        if let Change::Set { chain, rules } = change {
            write_rules(text, &chain.name, rules)?;
        }
    }
    for change in changes {
        if let Change::Remove { chain } = change {
            writeln!(text, "-X {}", chain.name)?;
        }
    }
    writeln!(text, "COMMIT")
}

/// A whole rule set with its hooks, as loaded by `iptables-restore` into empty tables (without `--noflush`).
pub fn full(rules: &RuleSet) -> String {
    let mut text = String::new();
    for table in Table::ALL {
        let chains: Vec<_> = rules.iter().filter(|(chain, _)| chain.table == table).collect();
        if chains.is_empty() {
            continue;
        }
        write_whole_table(&mut text, table, &chains).expect("writing to a String cannot fail");
    }
    text
}

fn write_whole_table(text: &mut String, table: Table, chains: &[(&Chain, &Vec<Rule>)]) -> fmt::Result {
    writeln!(text, "*{}", table.name())?;
    for (chain, _) in chains {
        let policy = if is_built_in(&chain.name) { "ACCEPT" } else { "-" };
        writeln!(text, ":{} {policy} [0:0]", chain.name)?;
    }
    for (chain, rules) in chains {
        write_rules(text, &chain.name, rules)?;
    }
    writeln!(text, "COMMIT")
}

/// A chain that every table of its kind is born with.
pub fn is_built_in(name: &str) -> bool {
    ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"].contains(&name)
}

fn write_rules(text: &mut String, chain: &str, rules: &[Rule]) -> fmt::Result {
    for rule in rules {
        match rule.matches.is_empty() && rule.target.is_none() {
            true => writeln!(text, "-A {chain}")?,
            false => writeln!(text, "-A {chain} {rule}")?,
        }
    }
    Ok(())
}

/// A rule as its arguments, without `-A CHAIN`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, condition) in self.matches.iter().enumerate() {
            let gap = if index == 0 { "" } else { " " };
            write!(f, "{gap}{condition}")?;
        }
        match &self.target {
            Some(target) if self.matches.is_empty() => write!(f, "-j {target}"),
            Some(target) => write!(f, " -j {target}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Comment(text) => write!(f, "-m comment --comment {}", Quoted(text)),
            Self::Proto(proto) => write!(f, "-m {proto} -p {proto}"),
            Self::Src(sign, at) => write!(f, "{sign}-s {at}"),
            Self::Dst(sign, at) => write!(f, "{sign}-d {at}"),
            Self::In(sign, link) => write!(f, "{sign}-i {link}"),
            Self::Dport(port) => write!(f, "--dport {port}"),
            Self::DportIn(ports) => {
                let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
                write!(f, "-m multiport --destination-ports {}", ports.join(","))
            }
            Self::Sport(port) => write!(f, "--sport {port}"),
            Self::SrcLocal => f.write_str("-m addrtype --src-type LOCAL"),
            Self::DstLocal => f.write_str("-m addrtype --dst-type LOCAL"),
            Self::State(sign, states) => write!(f, "-m conntrack {sign}--ctstate {}", States(states)),
            Self::Marked(sign, bits) => write!(f, "-m mark {sign}--mark {bits:#x}/{bits:#x}"),
            Self::Remembered { list, seconds } => {
                write!(f, "-m recent --name {list} --rcheck --seconds {seconds} --reap")
            }
            Self::Remember(list) => write!(f, "-m recent --name {list} --set"),
            Self::Random(p) => {
                let (whole, part) = (p.digits / 10_000_000_000, p.digits % 10_000_000_000);
                write!(f, "-m statistic --mode random --probability {whole}.{part:010}")
            }
            Self::Other(words) => f.write_str(words),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Jump(chain) => f.write_str(chain),
            Self::Accept => f.write_str("ACCEPT"),
            Self::Drop => f.write_str("DROP"),
            Self::Return => f.write_str("RETURN"),
            Self::Reject => f.write_str("REJECT"),
            Self::Masquerade { random_fully: true } => f.write_str("MASQUERADE --random-fully"),
            Self::Masquerade { random_fully: false } => f.write_str("MASQUERADE"),
            Self::MarkOr(bits) => write!(f, "MARK --or-mark {bits:#x}"),
            Self::MarkXor(bits) => write!(f, "MARK --xor-mark {bits:#x}"),
            Self::Dnat(to) => write!(f, "DNAT --to-destination {to}"),
            Self::NoTrack => f.write_str("CT --notrack"),
            Self::Other(words) => f.write_str(words),
        }
    }
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Not { "! " } else { "" })
    }
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(addr) => write!(f, "{addr}"),
            Self::Net(net) => write!(f, "{net}"),
        }
    }
}

impl CtState {
    /// All states with their spelling.
    pub const NAMES: [(Self, &'static str); 7] = [
        (Self::Invalid, "INVALID"),
        (Self::New, "NEW"),
        (Self::Related, "RELATED"),
        (Self::Established, "ESTABLISHED"),
        (Self::Untracked, "UNTRACKED"),
        (Self::Dnat, "DNAT"),
        (Self::Snat, "SNAT"),
    ];
}

impl fmt::Display for CtState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(state, _)| state == self).map(|(_, name)| *name);
        f.write_str(name.expect("every state stands in NAMES"))
    }
}

struct States<'a>(&'a [CtState]);

impl fmt::Display for States<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, state) in self.0.iter().enumerate() {
            let gap = if index == 0 { "" } else { "," };
            write!(f, "{gap}{state}")?;
        }
        Ok(())
    }
}

/// Quoted only where there are blanks or quotes, as kube-proxy writes comments.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_empty() && !self.0.contains([' ', '\t', '"', '\'', '\\']) {
            return f.write_str(self.0);
        }
        f.write_char('"')?;
        for c in self.0.chars() {
            if c == '"' || c == '\\' {
                f.write_char('\\')?;
            }
            f.write_char(c)?;
        }
        f.write_char('"')
    }
}
