//! Render: a table, or steps, as text for `nft -f`. The same input gives the same bytes.
//!
//! Everything here loads with nft 1.0.6 but one statement: an `update` whose key or data is longer than 16 bytes (so
//! affinity of IPv6 clients) ends nft before 1.1.0 with a failed assertion of its own. The kernel takes it
//! ([`super::wire`]), and nft 1.0.6 lists it.

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use portolan_model::{Family, Text};

use super::lang::*;
use super::wire::userdata::{Side, kept, sides};
use super::wire::{hook_name, kind_name};

/// The whole table, as one block that makes it.
pub fn full(table: &Table) -> String {
    let words = Words { family: table.family };
    let mut text = format!("table {} {} {{\n", words.family(), table.name);
    for (name, set) in &table.sets {
        words.set(&mut text, name, set);
    }
    for (name, chain) in &table.chains {
        words.chain(&mut text, name, chain);
    }
    text.push_str("}\n");
    text
}

/// A transaction, one command a line.
///
/// Deleting takes a map for what it is only if `is_map` says so: nft tells them apart by the word.
pub fn steps(family: Family, table: &str, steps: &[Step], is_map: impl Fn(&str) -> bool) -> String {
    let words = Words { family };
    let owner = format!("{} {table}", words.family());
    let mut text = String::new();
    for step in steps {
        text.push_str(&words.step(&owner, step, &is_map));
        text.push('\n');
    }
    text
}

/// A rule as text, without its chain.
pub fn rule(family: Family, rule: &Rule) -> String {
    Words { family }.rule(rule)
}

/// An element as text, as it stands among its set's.
pub fn element_text(it: &Element) -> String {
    element(&it.key, it.data.as_ref(), it.comment.as_deref())
}

struct Words {
    family: Family,
}

impl Words {
    fn family(&self) -> &'static str {
        match self.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        }
    }

    fn set(&self, text: &mut String, name: &str, set: &Set) {
        let kind = kind_of(&set.shape);
        text.push_str(&format!("\t{kind} {name} {{\n"));
        for line in self.shape(&set.shape) {
            text.push_str(&format!("\t\t{line}\n"));
        }
        let element = |(key, (data, comment)): (&Key, &(Option<Data>, Option<Text>))| {
            element(key, data.as_ref(), comment.as_deref())
        };
        let elements: Vec<String> = set.elements.iter().map(element).collect();
        if !elements.is_empty() {
            text.push_str(&format!("\t\telements = {{ {} }}\n", elements.join(",\n\t\t\t     ")));
        }
        text.push_str("\t}\n\n");
    }

    fn shape(&self, shape: &SetShape) -> Vec<String> {
        let key = self.type_of(&shape.key);
        let mut lines = vec![match &shape.data {
            Some(data) => format!("typeof {key} : {}", self.type_of(data)),
            None => format!("typeof {key}"),
        }];
        if let Some(size) = shape.dynamic {
            lines.push(format!("size {size}"));
            lines.push("flags dynamic,timeout".to_owned());
        }
        lines
    }

    fn type_of(&self, parts: &[Type]) -> String {
        let family = self.family();
        let word = |(part, side): (&Type, Side)| match (part, side) {
            (Type::Addr, Side::Source) => format!("{family} saddr"),
            (Type::Addr, Side::Destination) => format!("{family} daddr"),
            (Type::Proto, _) => "meta l4proto".to_owned(),
            (Type::Port, _) => "th dport".to_owned(),
            (Type::Slot, _) => "numgen random mod 2".to_owned(),
            (Type::Id, _) => "meta priority".to_owned(),
        };
        let words: Vec<String> = parts.iter().zip(sides(parts)).map(word).collect();
        words.join(" . ")
    }

    fn chain(&self, text: &mut String, name: &str, chain: &Chain) {
        text.push_str(&format!("\tchain {name} {{\n"));
        if let Some(base) = &chain.base {
            text.push_str(&format!("\t\t{}\n", base_line(base)));
        }
        for rule in &chain.rules {
            text.push_str(&format!("\t\t{}\n", self.rule(rule)));
        }
        text.push_str("\t}\n\n");
    }

    fn rule(&self, rule: &Rule) -> String {
        let mut words: Vec<String> = rule.statements.iter().map(|statement| self.statement(statement)).collect();
        if let Some(comment) = &rule.comment {
            words.push(format!("comment \"{}\"", kept(comment)));
        }
        words.join(" ")
    }

    fn step(&self, owner: &str, step: &Step, is_map: &impl Fn(&str) -> bool) -> String {
        let kind = |name: &str| if is_map(name) { "map" } else { "set" };
        match step {
            Step::AddTable => format!("add table {owner}"),
            Step::DeleteTable => format!("add table {owner}\ndelete table {owner}"),
            Step::AddChain(name, None) => format!("add chain {owner} {name}"),
            Step::AddChain(name, Some(base)) => format!("add chain {owner} {name} {{ {} }}", base_line(base)),
            Step::FlushChain(name) => format!("flush chain {owner} {name}"),
            Step::DeleteChain(name) => format!("delete chain {owner} {name}"),
            Step::AddRule(chain, rule) => format!("add rule {owner} {chain} {}", self.rule(rule)),
            Step::AddSet(name, shape) => {
                format!("add {} {owner} {name} {{ {}; }}", kind_of(shape), self.shape(shape).join("; "))
            }
            Step::DeleteSet(name) => format!("delete {} {owner} {name}", kind(name)),
            Step::AddElements(set, elements) => {
                let list = elements.iter().map(|e| element(&e.key, e.data.as_ref(), e.comment.as_deref()));
                format!("add element {owner} {set} {{ {} }}", list.collect::<Vec<_>>().join(", "))
            }
            Step::DeleteElements(set, keys) => {
                let list: Vec<String> = keys.iter().map(Key::to_string).collect();
                format!("delete element {owner} {set} {{ {} }}", list.join(", "))
            }
        }
    }

    fn statement(&self, statement: &Statement) -> String {
        match statement {
            Statement::In(sign, key, set) => format!("{} {}@{set}", self.key(key), not(*sign)),
            Statement::Net(sign, field, net) => format!("{} {}{}", self.field(*field), not(*sign), net_text(*net)),
            Statement::Local(sign, field) => {
                let side = if *field == Field::Source { "saddr" } else { "daddr" };
                format!("fib {side} type {}local", not(*sign))
            }
            Statement::CameBy(sign, name) => format!("iifname {}\"{name}\"", not(*sign)),
            Statement::Proto(proto) => format!("meta l4proto {proto}"),
            Statement::Dport(port) => format!("th dport {port}"),
            Statement::Sport(port) => format!("th sport {port}"),
            Statement::StateNew => "ct state new".to_owned(),
            Statement::Redirected => "ct status dnat".to_owned(),
            Statement::Marked(bits) => format!("meta mark & {bits:#010x} == {bits:#010x}"),
            Statement::MarkOr(bits) => format!("meta mark set meta mark | {bits:#010x}"),
            Statement::MarkXor(bits) => format!("meta mark set meta mark ^ {bits:#010x}"),
            Statement::PriorityFrom(key, map) => format!("meta priority set {} map @{map}", self.key(key)),
            Statement::PriorityNone => "meta priority set none".to_owned(),
            Statement::Update { map, key, timeout_secs, data } => {
                format!("update @{map} {{ {} timeout {timeout_secs}s : {} }}", self.key(key), self.key(data))
            }
            Statement::DnatFrom(key, map) => format!("dnat {} to {} map @{map}", self.family(), self.key(key)),
            Statement::Masquerade { fully_random: false } => "masquerade".to_owned(),
            Statement::Masquerade { fully_random: true } => "masquerade fully-random".to_owned(),
            Statement::NoTrack => "notrack".to_owned(),
            Statement::Accept => "accept".to_owned(),
            Statement::Drop => "drop".to_owned(),
            Statement::Reject => "reject".to_owned(),
            Statement::Return => "return".to_owned(),
            Statement::Jump(chain) => format!("jump {chain}"),
            Statement::Goto(chain) => format!("goto {chain}"),
        }
    }

    fn key(&self, fields: &[Field]) -> String {
        let words: Vec<String> = fields.iter().map(|field| self.field(*field)).collect();
        words.join(" . ")
    }

    fn field(&self, field: Field) -> String {
        let family = self.family();
        match field {
            Field::Source => format!("{family} saddr"),
            Field::SourceNet(prefix) => format!("{family} saddr & {}", self.mask(prefix)),
            Field::Destination => format!("{family} daddr"),
            Field::OriginalDestination => format!("ct original {family} daddr"),
            Field::Proto => "meta l4proto".to_owned(),
            Field::Port => "th dport".to_owned(),
            Field::OriginalPort => "ct original proto-dst".to_owned(),
            Field::Random(modulus) => format!("numgen random mod {modulus}"),
            Field::Priority => "meta priority".to_owned(),
        }
    }

    fn mask(&self, prefix: u8) -> IpAddr {
        match self.family {
            Family::V4 => {
                let bits = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
                Ipv4Addr::from_bits(bits).into()
            }
            Family::V6 => {
                let bits = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
                Ipv6Addr::from_bits(bits).into()
            }
        }
    }
}

fn kind_of(shape: &SetShape) -> &'static str {
    if shape.data.is_some() { "map" } else { "set" }
}

fn base_line(base: &Base) -> String {
    let Base { kind, hook, priority } = base;
    format!("type {} hook {} priority {priority}; policy accept;", kind_name(*kind), hook_name(*hook))
}

fn not(sign: Sign) -> &'static str {
    match sign {
        Sign::Is => "",
        Sign::Not => "!= ",
    }
}

fn net_text(net: IpNet) -> String {
    match net.prefix_len() == net.max_prefix_len() {
        true => net.addr().to_string(),
        false => net.trunc().to_string(),
    }
}

fn element(key: &Key, data: Option<&Data>, comment: Option<&str>) -> String {
    let mut text = key.to_string();
    if let Some(comment) = comment {
        text.push_str(&format!(" comment \"{}\"", kept(comment)));
    }
    if let Some(data) = data {
        text.push_str(&format!(" : {data}"));
    }
    text
}

/// The handle of a traffic class, the form of `meta priority` that nft reads without doubt: two halves in hex.
fn id(number: u32) -> String {
    format!("{:x}:{:x}", number >> 16, number & 0xffff)
}

/// As in an element: `10.96.0.1 . tcp . 80`.
impl Display for Key {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Key::Addr(addr) => write!(f, "{addr}"),
            Key::Pair(from, to) => write!(f, "{from} . {to}"),
            Key::Dest(addr, proto, port) => write!(f, "{addr} . {proto} . {port}"),
            Key::DestSlot(addr, proto, port, slot) => write!(f, "{addr} . {proto} . {port} . {slot}"),
            Key::DestFrom(addr, proto, port, from) => write!(f, "{addr} . {proto} . {port} . {from}"),
            Key::Port(proto, port) => write!(f, "{proto} . {port}"),
            Key::PortSlot(proto, port, slot) => write!(f, "{proto} . {port} . {slot}"),
            Key::Id(number) => f.write_str(&id(*number)),
            Key::Client(addr, proto, number) => write!(f, "{addr} . {proto} . {}", id(*number)),
        }
    }
}

/// As in an element, behind the colon: `10.1.0.1 . 8080`.
impl Display for Data {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Data::Endpoint(addr, port) => write!(f, "{addr} . {port}"),
            Data::Id(number) => f.write_str(&id(*number)),
        }
    }
}
