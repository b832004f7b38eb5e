//! Saved: a rule in the kernel's spelling, as `iptables-save` prints it: what a person compares with, to the letter.
//!
//! ```text
//!  ours:         -m comment --comment "a/b:c cluster IP" -m tcp -p tcp -d 10.96.0.1 --dport 80 -j KUBE-SVC-H
//!  the kernel's: -d 10.96.0.1/32 -p tcp -m comment --comment "a/b:c cluster IP" -m tcp --dport 80 -j KUBE-SVC-H
//! ```
//!
//! Source, destination, interface and protocol come first, then matches in their order, then the target. Source: what
//! iptables 1.8.9 prints, over nf_tables and over the older interface.

use std::fmt::Write;

use portolan_model::{Family, Proto};

use crate::iptables::rule::{CtState, Match, Rule, Sign, Target, Where};

/// `rule` without `-A CHAIN`; empty for one that matches everything and does nothing.
pub fn line(family: Family, rule: &Rule) -> String {
    let mut parts = header(rule);
    let modules = rule.matches.iter().filter_map(|condition| module(family, rule, condition));
    parts.extend(modules);
    parts.extend(rule.target.as_ref().map(|target| format!("-j {}", target_words(family, target))));
    parts.join(" ")
}

/// What the kernel keeps in a rule's head, in the order it is printed.
fn header(rule: &Rule) -> Vec<String> {
    let of = |pick: fn(&Match) -> Option<String>| rule.matches.iter().filter_map(pick);
    let source = of(|m| if let Match::Src(sign, at) = m { place(*sign, "-s", *at) } else { None });
    let destination = of(|m| if let Match::Dst(sign, at) = m { place(*sign, "-d", *at) } else { None });
    let link = of(|m| if let Match::In(sign, link) = m { Some(format!("{sign}-i {link}")) } else { None });
    let proto = of(|m| if let Match::Proto(proto) = m { Some(format!("-p {proto}")) } else { None });
    source.chain(destination).chain(link).chain(proto).collect()
}

/// A range of everything is not printed: it is what no condition at all says.
fn place(sign: Sign, flag: &str, at: Where) -> Option<String> {
    let net = at.net().trunc();
    (net.prefix_len() > 0 || sign == Sign::Not).then(|| format!("{sign}{flag} {net}"))
}

/// A match that is a module of its own; ports belong to their protocol's.
fn module(family: Family, rule: &Rule, condition: &Match) -> Option<String> {
    Some(match condition {
        Match::Src(..) | Match::Dst(..) | Match::In(..) | Match::Dport(_) | Match::Sport(_) => return None,
        Match::Proto(proto) => ports(*proto, rule),
        Match::Comment(text) => format!("-m comment --comment {}", quoted(text)),
        Match::DportIn(numbers) => {
            let numbers: Vec<String> = numbers.iter().map(u16::to_string).collect();
            format!("-m multiport --dports {}", numbers.join(","))
        }
        Match::SrcLocal => "-m addrtype --src-type LOCAL".into(),
        Match::DstLocal => "-m addrtype --dst-type LOCAL".into(),
        Match::State(sign, states) => format!("-m conntrack {sign}--ctstate {}", in_order(states)),
        Match::Marked(sign, bits) => format!("-m mark {sign}--mark {bits:#x}/{bits:#x}"),
        Match::Remembered { list, seconds } => {
            format!("-m recent --rcheck --seconds {seconds} --reap --name {list} --mask {} --rsource", mask(family))
        }
        Match::Remember(list) => format!("-m recent --set --name {list} --mask {} --rsource", mask(family)),
        Match::Random(chance) => {
            let fraction = chance.kernel_units() as f64 / 2_147_483_648.0;
            format!("-m statistic --mode random --probability {fraction:.11}")
        }
        Match::Other(words) => words.to_string(),
    })
}

fn ports(proto: Proto, rule: &Rule) -> String {
    let mut text = format!("-m {proto}");
    for condition in &rule.matches {
        let written = match condition {
            Match::Sport(port) => write!(text, " --sport {port}"),
            Match::Dport(port) => write!(text, " --dport {port}"),
            _ => Ok(()),
        };
        written.expect("writing to a String cannot fail");
    }
    text
}

/// The kernel keeps states as bits.
fn in_order(states: &[CtState]) -> String {
    use CtState::{Dnat, Established, Invalid, New, Related, Snat, Untracked};
    let all = [Invalid, New, Related, Established, Untracked, Snat, Dnat];
    let words: Vec<String> = all.iter().filter(|state| states.contains(state)).map(ToString::to_string).collect();
    words.join(",")
}

fn mask(family: Family) -> &'static str {
    match family {
        Family::V4 => "255.255.255.255",
        Family::V6 => "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    }
}

fn target_words(family: Family, target: &Target) -> String {
    match target {
        Target::Reject if family == Family::V4 => "REJECT --reject-with icmp-port-unreachable".into(),
        Target::Reject => "REJECT --reject-with icmp6-port-unreachable".into(),
        Target::MarkOr(bits) => format!("MARK --set-xmark {bits:#x}/{bits:#x}"),
        Target::MarkXor(bits) => format!("MARK --set-xmark {bits:#x}/0x0"),
        other => other.to_string(),
    }
}

/// Bare only if it is of letters, digits, `-` and `_`.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.into();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        if matches!(c, '"' | '\\' | '\'') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}
