//! Way: what a walk through rules tells beside its outcome, in the shape in which kernels trace: rule by rule and policy by
//! policy, with the destination before and after each base chain. What both backends' `trace` rooms share.
//!
//! ```text
//!  Way: path [rule, rule, rule, …]     bases [nat PREROUTING: 2 rules, by a rule; filter FORWARD: 1 rule, by policy; …]
//!         └────────────── events: rule, rule, (next base) rule, policy, … ──────────────┘
//! ```
//!
//! Source: `nf_tables_core.c`: a jump is one event and the rules inside are others; what rewrites an address accepts; what
//! refuses drops after an answer of its own; a base chain that nobody ended ends by its policy.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use portolan_model::verdict::{Outcome, Packet};
use portolan_model::{Family, Snapshot, Text};
use serde::{Deserialize, Serialize};

use crate::iptables::DnsPath;
use crate::meaning::At;

/// A hook of netfilter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

/// What a rule or policy did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Act {
    /// To a chain and back.
    Jump {
        /// Which.
        chain: Text,
    },
    /// To a chain.
    Goto {
        /// Which.
        chain: Text,
    },
    /// On with the next rule.
    Continue,
    /// Back to the chain that called.
    Return,
    /// This base chain lets it through.
    Accept,
    /// It ends here.
    Drop,
    /// The chain's policy lets it through, or ends it.
    Policy {
        /// Lets it through.
        accepts: bool,
    },
    /// Handed to another program, such as by NFQUEUE.
    Stolen,
}

/// A base chain that a packet went through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base<C> {
    /// Which.
    pub chain: C,
    /// Where it hangs.
    pub hook: Hook,
    /// Destination as the packet came to it.
    pub before: SocketAddr,
    /// Destination as it left.
    pub after: SocketAddr,
    /// So many rules of the way's path were met when it ended.
    pub met: usize,
    /// No rule ended it: its policy did, which lets through.
    pub by_policy: bool,
}

/// One event of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Where the base chain hangs.
    pub hook: Hook,
    /// nf_tables family and name of the table: `ip nat`, `ip6 portolan`.
    pub table: Text,
    /// The chain; of a policy the base chain.
    pub chain: Text,
    /// The rule's place in its chain from 0; `None`: the policy.
    pub index: Option<usize>,
    /// What became of the packet there.
    pub act: Act,
    /// The packet as it came to the rule.
    pub at: At,
}

/// What one rule did, as a backend reads it.
pub(crate) struct Done {
    pub table: Text,
    pub chain: Text,
    pub index: usize,
    pub act: Act,
}

/// The path's rules and the bases' policies, in order; of a base chain in which no rule matched nothing is said.
/// `source_port` is the client's own, of which no rule asks.
pub(crate) fn events<C, S>(
    packet: &Packet,
    source_port: u16,
    (bases, path): (&[Base<C>], &[S]),
    done: impl Fn(&S) -> Option<Done>,
    named: impl Fn(&C) -> (Text, Text),
) -> Vec<Event> {
    let original_dst = SocketAddr::new(packet.dst, packet.dport);
    let src = SocketAddr::new(packet.src, source_port);
    let mut events = Vec::with_capacity(path.len() + bases.len());
    let mut met = 0;
    for base in bases {
        let at = At { src, dst: base.before, original_dst, proto: packet.proto, after: base.after };
        let is_met = base.met > met;
        let rules = path.get(met..base.met).unwrap_or_default().iter().filter_map(&done);
        events.extend(rules.map(|Done { table, chain, index, act }| {
            let index = Some(index);
            Event { hook: base.hook, table, chain, index, act, at }
        }));
        met = base.met;
        if base.by_policy && is_met {
            let (table, chain) = named(&base.chain);
            let act = Act::Policy { accepts: true };
            events.push(Event { hook: base.hook, table, chain, index: None, act, at });
        }
    }
    events
}

/// Outcomes with their chances.
pub(crate) fn chances(ways: impl Iterator<Item = (Outcome, f64)>) -> BTreeMap<Outcome, f64> {
    let mut sum = BTreeMap::new();
    for (outcome, chance) in ways {
        *sum.entry(outcome).or_insert(0.0) += chance;
    }
    sum
}

/// Addresses on the node of `snapshot`, that of cluster DNS among them where the node answers there.
pub(crate) fn local_addresses(snapshot: &Snapshot, family: Family, dns: DnsPath) -> Vec<IpAddr> {
    let mut local = snapshot.local_addresses(family);
    if dns == DnsPath::ThisNode {
        local.extend(&snapshot.settings.cluster_dns);
    }
    local
}

/// `addr` is one of `local`, or loopback.
pub(crate) fn is_local(local: &[IpAddr], addr: IpAddr) -> bool {
    addr.is_loopback() || local.contains(&addr)
}

/// The word for a family in names of tables.
pub(crate) fn family_word(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}
