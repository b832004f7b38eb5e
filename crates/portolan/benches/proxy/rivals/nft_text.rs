//! A rival's table as the text that `nft -f` takes: a command a line, as kube-proxy gives it.

use std::fmt::{self, Write};

use crate::rivals::nft::{Item, Part, Say, TABLE, Verdict};

/// The table's commands, in one transaction.
pub fn write(items: &[Item]) -> String {
    let mut text = format!("add table ip {TABLE}\n");
    items.iter().try_for_each(|item| write_item(&mut text, item)).expect("writing to a String cannot fail");
    text
}

fn write_item(text: &mut String, item: &Item) -> fmt::Result {
    match item {
        Item::Chain(name, None) => writeln!(text, "add chain ip {TABLE} {name}"),
        Item::Chain(name, Some((kind, hook, priority))) => {
            writeln!(text, "add chain ip {TABLE} {name} {{ type {kind} hook {hook} priority {priority} ; }}")
        }
        Item::Flush(name) => writeln!(text, "flush chain ip {TABLE} {name}"),
        Item::Set(name, key, verdicts) => {
            let types: Vec<&str> = key.iter().map(type_of).collect();
            let (kind, data) = if *verdicts { ("map", " : verdict") } else { ("set", "") };
            writeln!(text, "add {kind} ip {TABLE} {name} {{ type {}{data} ; }}", types.join(" . "))
        }
        Item::Rule(chain, says) => {
            write!(text, "add rule ip {TABLE} {chain}")?;
            says.iter().try_for_each(|say| write!(text, " {say}"))?;
            writeln!(text)
        }
        Item::Goto(map, address, port, chain) => {
            writeln!(text, "add element ip {TABLE} {map} {{ {address} . tcp . {port} : goto {chain} }}")
        }
        Item::Address(set, address) => writeln!(text, "add element ip {TABLE} {set} {{ {address} }}"),
        Item::Hairpin(address, port) => {
            writeln!(text, "add element ip {TABLE} hairpin-connections {{ {address} . {address} . tcp . {port} }}")
        }
    }
}

fn type_of(part: &Part) -> &'static str {
    match part {
        Part::Source | Part::Destination => "ipv4_addr",
        Part::Proto => "inet_proto",
        Part::Port => "inet_service",
    }
}

impl fmt::Display for Say {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StateNew => f.write_str("ct state new"),
            Self::Redirected => f.write_str("ct status dnat"),
            Self::From(address) => write!(f, "ip saddr {address}"),
            Self::NotFrom(net) => write!(f, "ip saddr != {net}"),
            Self::To(address) => write!(f, "ip daddr {address}"),
            Self::ToNet(net) => write!(f, "ip daddr {net}"),
            Self::Tcp => f.write_str("meta l4proto tcp"),
            Self::Dport(port) => write!(f, "th dport {port}"),
            Self::In(key, set) => write!(f, "{} @{set}", parts(key)),
            Self::Vmap(key, map) => write!(f, "{} vmap @{map}", parts(key)),
            Self::Unmarked(bits) => write!(f, "meta mark & {bits:#x} == 0"),
            Self::Marked(bits) => write!(f, "meta mark & {bits:#x} != 0"),
            Self::MarkOr(bits) => write!(f, "meta mark set meta mark | {bits:#x}"),
            Self::MarkXor(bits) => write!(f, "meta mark set meta mark ^ {bits:#x}"),
            Self::RandomGoto(chains) => {
                write!(f, "numgen random mod {} vmap {{", chains.len())?;
                chains.iter().enumerate().try_for_each(|(at, chain)| write!(f, "{}{at} : goto {chain}", comma(at)))?;
                f.write_str(" }")
            }
            Self::Dnat(address, port) => write!(f, "dnat to {address}:{port}"),
            Self::RandomDnat(to) => {
                write!(f, "dnat ip to numgen random mod {} map {{", to.len())?;
                let mut all = to.iter().enumerate();
                all.try_for_each(|(at, (address, port))| write!(f, "{}{at} : {address} . {port}", comma(at)))?;
                f.write_str(" }")
            }
            Self::Masquerade => f.write_str("masquerade fully-random"),
            Self::Reject => f.write_str("reject"),
            Self::Do(Verdict::Drop) => f.write_str("drop"),
            Self::Do(Verdict::Return) => f.write_str("return"),
            Self::Do(Verdict::Jump(chain)) => write!(f, "jump {chain}"),
            Self::Do(Verdict::Goto(chain)) => write!(f, "goto {chain}"),
        }
    }
}

fn comma(at: usize) -> &'static str {
    if at == 0 { " " } else { ", " }
}

fn parts(key: &[Part]) -> String {
    let word = |part: &Part| match part {
        Part::Source => "ip saddr",
        Part::Destination => "ip daddr",
        Part::Proto => "meta l4proto",
        Part::Port => "th dport",
    };
    key.iter().map(word).collect::<Vec<_>>().join(" . ")
}
