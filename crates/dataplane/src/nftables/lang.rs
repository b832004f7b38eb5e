//! Values: tables, chains, rules, sets and elements of nf_tables, as far as this room writes them. What a rule says,
//! without the text or the bytes it is written in.
//!
//! Every statement here can be written as text that `nft -f` of version 1.0.6 takes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use portolan_model::{Family, Proto, Text};

/// A part of a packet or of its surroundings, as keys of sets and data of maps are put together from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// `ip saddr`, `ip6 saddr`.
    Source,
    /// `ip saddr & MASK`: the source's first bits.
    SourceNet(u8),
    /// `ip daddr`, `ip6 daddr`.
    Destination,
    /// `ct original ip daddr`: where the client sent it, before DNAT.
    OriginalDestination,
    /// `meta l4proto`.
    Proto,
    /// `th dport`.
    Port,
    /// `ct original proto-dst`. Its rule must name the protocol before (`meta l4proto tcp`).
    OriginalPort,
    /// `numgen random mod N`.
    Random(u32),
    /// `meta priority`: scratch for the first packet of a flow (see `plan`).
    Priority,
}

/// Type of one part of a key or of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Type {
    Addr,
    Proto,
    Port,
    /// The number of a slot: 4 bytes in host order; in text, `numgen random mod 2`.
    Slot,
    /// An id that fits `meta priority` (type `classid`): 4 bytes in host order.
    Id,
}

/// The shape of a set or a map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SetShape {
    /// Types of the key's parts.
    pub key: Vec<Type>,
    /// Types of the data's parts; `None` for a set.
    pub data: Option<Vec<Type>>,
    /// Filled by rules, with timeouts and at most so many elements; `None`: filled by us.
    pub dynamic: Option<u32>,
}

/// Key of an element. `A` in the comments is an address of the table's family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `A`.
    Addr(IpAddr),
    /// `A . A`.
    Pair(IpAddr, IpAddr),
    /// `A . proto . port`.
    Dest(IpAddr, Proto, u16),
    /// `A . proto . port . slot`.
    DestSlot(IpAddr, Proto, u16, u32),
    /// `A . proto . port . A`: a destination and the source, or the net, that may use it.
    DestFrom(IpAddr, Proto, u16, IpAddr),
    /// `proto . port`.
    Port(Proto, u16),
    /// `proto . port . slot`.
    PortSlot(Proto, u16, u32),
    /// `id`.
    Id(u32),
    /// `A . proto . id`: a client of a Service.
    Client(IpAddr, Proto, u32),
}

/// Data of a map's element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Data {
    /// `A . port`.
    Endpoint(IpAddr, u16),
    /// `id`.
    Id(u32),
}

/// An element of a set or a map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// Its key.
    pub key: Key,
    /// Its data, in a map.
    pub data: Option<Data>,
    /// The object it stands for, such as `default/web:http`; the kernel keeps it as `comment`, at most 128 bytes.
    pub comment: Option<Text>,
}

/// Where a base chain hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Base {
    /// `type`.
    pub kind: ChainKind,
    /// `hook`.
    pub hook: HookPoint,
    /// `priority`.
    pub priority: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum ChainKind {
    Filter,
    Nat,
}

pub use crate::way::Hook as HookPoint;

/// A chain with its rules, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// `None`: one that others jump to.
    pub base: Option<Base>,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// A rule: statements in order; a match that does not hold ends it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// What it matches and does.
    pub statements: Vec<Statement>,
    /// What it is for, kept in the kernel as `comment`.
    pub comment: Option<Text>,
}

/// Whether a match is negated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Sign {
    Is,
    Not,
}

/// One statement of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Statement {
    /// `KEY @SET`, `KEY != @SET`.
    In(Sign, Vec<Field>, Text),
    /// `ip saddr NET`, `ip saddr != NET` (also `daddr`); field is `Source` or `Destination`.
    Net(Sign, Field, IpNet),
    /// `fib saddr type local`, `fib saddr type != local` (also `daddr`); field is `Source` or `Destination`.
    Local(Sign, Field),
    /// `iifname "NAME"`, `iifname "NAME*"` where the name ends in `*`.
    CameBy(Sign, Text),
    /// `meta l4proto PROTO`.
    Proto(Proto),
    /// `th dport N`.
    Dport(u16),
    /// `th sport N`.
    Sport(u16),
    /// `ct state new`.
    StateNew,
    /// `ct status dnat`.
    Redirected,
    /// `meta mark & BITS == BITS`.
    Marked(u32),
    /// `meta mark set meta mark | BITS`.
    MarkOr(u32),
    /// `meta mark set meta mark ^ BITS`.
    MarkXor(u32),
    /// `meta priority set KEY map @MAP`: where the key is not in the map the rule ends.
    PriorityFrom(Vec<Field>, Text),
    /// `meta priority set none`.
    PriorityNone,
    /// `update @MAP { KEY timeout Ns : DATA }`.
    Update {
        /// The dynamic map.
        map: Text,
        /// Key of the element.
        key: Vec<Field>,
        /// How long it lasts without another update.
        timeout_secs: u32,
        /// What a new element holds; one that exists keeps its own.
        data: Vec<Field>,
    },
    /// `dnat ip to KEY map @MAP`: where the key is not in the map the rule ends.
    DnatFrom(Vec<Field>, Text),
    /// `masquerade`, `masquerade fully-random`.
    Masquerade {
        /// Ports chosen at random.
        fully_random: bool,
    },
    /// `notrack`.
    NoTrack,
    /// `accept`.
    Accept,
    /// `drop`.
    Drop,
    /// `reject`: ICMP port unreachable.
    Reject,
    /// `return`.
    Return,
    /// `jump CHAIN`.
    Jump(Text),
    /// `goto CHAIN`.
    Goto(Text),
}

/// A whole table, as planned or as the kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// `ip` or `ip6`.
    pub family: Family,
    /// Its name.
    pub name: Text,
    /// Chains by name.
    pub chains: BTreeMap<Text, Chain>,
    /// Sets and maps by name.
    pub sets: BTreeMap<Text, Set>,
}

/// A set or a map with its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its shape.
    pub shape: SetShape,
    /// Its elements by key. Those of a dynamic set are the kernel's own affair and not kept here.
    pub elements: BTreeMap<Key, (Option<Data>, Option<Text>)>,
}

/// One step of a transaction. Steps are carried out in order, all or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Makes the table; no error if it is there.
    AddTable,
    /// Removes the table with all that is in it; no error if it is not there.
    DeleteTable,
    /// Makes a chain without rules.
    AddChain(Text, Option<Base>),
    /// Takes all rules out of a chain.
    FlushChain(Text),
    /// Removes an empty chain that nobody jumps to.
    DeleteChain(Text),
    /// Adds a rule at a chain's end.
    AddRule(Text, Rule),
    /// Makes a set or map.
    AddSet(Text, SetShape),
    /// Removes a set that no rule names.
    DeleteSet(Text),
    /// Puts elements into a set.
    AddElements(Text, Vec<Element>),
    /// Takes elements out of a set.
    DeleteElements(Text, Vec<Key>),
}

impl Rule {
    /// The sets and maps that it looks into.
    pub fn sets(&self) -> impl Iterator<Item = &Text> {
        self.statements.iter().filter_map(|statement| match statement {
            Statement::In(_, _, set) | Statement::PriorityFrom(_, set) | Statement::DnatFrom(_, set) => Some(set),
            _ => None,
        })
    }

    /// A rule of these statements.
    pub fn new(statements: Vec<Statement>) -> Self {
        Self { statements, comment: None }
    }
}
