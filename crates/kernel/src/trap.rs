//! A trap: a throwaway nf_tables table that has the kernel trace one flow's packets, and no others.
//!
//! ```text
//!  enter-prerouting, enter-output (-350, before raw):  is it the packet, or its answer? ─► meta nftrace set 1
//!  known-prerouting, known-output (-199, behind conntrack): an answer, by the flow's original tuple ─► the same
//!  leave-input, leave-postrouting (1000, behind NAT):  no rule; the trace's last word of the packet
//! ```
//!
//! The table has an owner, this socket: it goes with it, however its process ends, and `nft flush ruleset` of others passes
//! it over. A packet that is not the one costs two or three comparisons, and nothing is written into it. NAT rewrites
//! neither sequence numbers nor payloads, so each node knows the packet whatever its addresses are by then. Spec:
//! `nf_tables.h`; Linux 5.12 for `NFT_TABLE_F_OWNER`.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::nfnl;
use crate::nft::{Nft, NftError};

mod expressions;

use expressions::{Base, Ct, Direction, Expressions, set_elements};

/// Which packets are traced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watched {
    /// TCP: the SYN with this sequence number, and the SYN-ACK or RST that acknowledges the next one.
    Sequence(u32),
    /// UDP: what begins with these bytes, and answers of its flow; of an untracked DNS query, what has its id.
    Payload([u8; 8]),
    /// First packets of others, and their answers.
    Live {
        /// IP protocol number: 6 or 17.
        protocol: u8,
        /// Empty: anyone's.
        sources: Vec<IpAddr>,
        destinations: Vec<SocketAddr>,
        /// At most so many in each family and direction.
        per_second: u32,
    },
}

/// The table, for as long as this lives.
pub struct Trap {
    name: String,
    /// Owns the table.
    _nft: Nft,
}

/// Chain in which packets of the flow are known by what they are; the first of a trace's events is of it.
pub const ENTER: &str = "enter-";
/// Chain in which answers are known by conntrack.
pub const KNOWN: &str = "known-";
/// Chain that only tells how a packet left.
pub const LEAVE: &str = "leave-";

/// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
const V4: u8 = 2;
const V6: u8 = 10;
/// `NFT_MSG_*`.
const NEW_TABLE: u16 = 0;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENTS: u16 = 12;
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `NLM_F_CREATE`, `_EXCL`, `_APPEND`.
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;
const APPEND: u16 = 0x800;
/// `NFTA_TABLE_*`, `NFT_TABLE_F_OWNER`.
const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const OWNED: u32 = 0x2;
/// `NFTA_CHAIN_*`, `NFTA_HOOK_*`.
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const ACCEPT: u32 = 1;
/// `NFTA_RULE_*`.
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
/// `NFTA_SET_*`; `NFT_SET_EVAL`: rules fill it.
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LEN: u16 = 5;
const SET_DESC: u16 = 9;
const SET_DESC_SIZE: u16 = 1;
const SET_ID: u16 = 10;
const BY_RULES: u32 = 0x20;

/// Flows whose answers are known at a time.
const MOST_FLOWS: u32 = 4096;
/// Elements in one message: far from an attribute's 64 KiB.
const ELEMENTS_AT_ONCE: usize = 512;
/// Names of its sets.
const FLOWS: &str = "flows";
const SOURCES: &str = "sources";
const DESTINATIONS: &str = "destinations";

/// Before raw's -300; behind conntrack's -200; behind all there is but conntrack's confirmation.
const BEFORE_ALL: i32 = -350;
const BEHIND_CONNTRACK: i32 = -199;
const BEHIND_NAT: i32 = 1000;
/// `NF_INET_*`.
const PREROUTING: u32 = 0;
const INPUT: u32 = 1;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;

const TCP: u8 = libc::IPPROTO_TCP as u8;
const UDP: u8 = libc::IPPROTO_UDP as u8;
const FIN_SYN_RST_ACK: u8 = 0x17;
const SYN: u8 = 0x02;
const SYN_RST: u8 = 0x06;
const SYN_ACK: u8 = 0x12;
const DNS_PORT: [u8; 2] = 53u16.to_be_bytes();

impl Trap {
    /// Arms it in the network namespace of the calling thread; `name` is the table's, in both families.
    ///
    /// # Errors
    /// The kernel refuses: it is older than 5.12, another has a table of this name, or it lacks the right.
    pub fn arm(name: &str, watched: &Watched) -> Result<Trap, NftError> {
        let mut nft = Nft::open()?;
        nft.transact(&batch(name, V4, watched))?;
        match nft.transact(&batch(name, V6, watched)) {
            // A kernel without IPv6 has no such packets.
            Err(NftError::Refused(refused)) if matches!(refused.errno, libc::EAFNOSUPPORT | libc::EOPNOTSUPP) => {}
            other => other?,
        }
        Ok(Trap { name: name.to_owned(), _nft: nft })
    }

    /// Its table's name, in families `ip` and `ip6`.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// One family's table as a batch.
fn batch(name: &str, family: u8, watched: &Watched) -> Vec<u8> {
    let mut batch = Batch { name, family, bytes: Vec::new(), sequence: 0 };
    batch.frame(BATCH_BEGIN);
    batch.table();
    for (prefix, hook, priority) in [
        (ENTER, PREROUTING, BEFORE_ALL),
        (ENTER, OUTPUT, BEFORE_ALL),
        (LEAVE, INPUT, BEHIND_NAT),
        (LEAVE, POSTROUTING, BEHIND_NAT),
    ] {
        batch.chain(prefix, hook, priority);
    }
    match watched {
        Watched::Sequence(number) => sequence_rules(&mut batch, *number),
        Watched::Payload(begins) => payload_rules(&mut batch, begins),
        Watched::Live { protocol, sources, destinations, per_second } => {
            live_rules(&mut batch, *protocol, sources, destinations, *per_second);
        }
    }
    batch.frame(BATCH_END);
    batch.bytes
}

/// The number comes first: it sends nearly all packets on after one load and one comparison.
fn sequence_rules(batch: &mut Batch<'_>, number: u32) {
    let first = Expressions::default()
        .equals(Base::Transport, 4, &number.to_be_bytes())
        .protocol(TCP)
        .masked(Base::Transport, 13, SYN_ACK, SYN)
        .trace();
    let answer = Expressions::default()
        .equals(Base::Transport, 8, &number.wrapping_add(1).to_be_bytes())
        .protocol(TCP)
        .any_of(Base::Transport, 13, SYN_RST)
        .trace();
    for hook in [PREROUTING, OUTPUT] {
        batch.rule(ENTER, hook, &first);
        batch.rule(ENTER, hook, &answer);
    }
}

fn payload_rules(batch: &mut Batch<'_>, begins: &[u8; 8]) {
    batch.known_flows(UDP);
    let tuple = batch.tuple();
    let first = Expressions::default().protocol(UDP).equals(Base::Transport, 8, begins).trace().remember(FLOWS, &tuple);
    let untracked = Expressions::default()
        .protocol(UDP)
        .equals(Base::Transport, 0, &DNS_PORT)
        .equals(Base::Transport, 8, &begins[..2])
        .trace();
    for hook in [PREROUTING, OUTPUT] {
        batch.rule(ENTER, hook, &first);
        batch.rule(ENTER, hook, &untracked);
    }
}

fn live_rules(batch: &mut Batch<'_>, protocol: u8, sources: &[IpAddr], destinations: &[SocketAddr], per_second: u32) {
    batch.known_flows(protocol);
    let sources: BTreeSet<Vec<u8>> = sources.iter().filter(|ip| batch.has(**ip)).map(|ip| bytes_of(*ip)).collect();
    let destinations: BTreeSet<Vec<u8>> =
        destinations.iter().filter(|to| batch.has(to.ip())).map(|to| destination_key(*to)).collect();
    batch.set(SOURCES, batch.address_len() as u32, 1, &sources);
    batch.set(DESTINATIONS, batch.address_len() as u32 + 4, 2, &destinations);
    let mut first = Expressions::default().protocol(protocol);
    let mut prefix = ENTER;
    if protocol == TCP {
        first = first.masked(Base::Transport, 13, FIN_SYN_RST_ACK, SYN);
    } else {
        // Only conntrack knows which of a UDP flow's packets is the first.
        (first, prefix) = (first.begins_flow(), KNOWN);
    }
    if !sources.is_empty() {
        first = first.load(0, Base::Network, batch.source_at(), batch.address_len()).belongs_to(SOURCES);
    }
    let port = batch.address_len().div_ceil(4);
    let first = first
        .load(0, Base::Network, batch.destination_at(), batch.address_len())
        .load(port, Base::Transport, 2, 2)
        .belongs_to(DESTINATIONS)
        .at_most(per_second)
        .trace()
        .remember(FLOWS, &batch.tuple());
    for hook in [PREROUTING, OUTPUT] {
        batch.rule(prefix, hook, &first);
    }
}

fn bytes_of(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

/// Address and port, the port in a word of its own.
fn destination_key(to: SocketAddr) -> Vec<u8> {
    let mut key = bytes_of(to.ip());
    key.extend(to.port().to_be_bytes());
    key.extend([0, 0]);
    key
}

/// A flow's original tuple as it stands in registers: what to load, and into which word.
struct Tuple {
    /// From the first packet: word, base, offset, length.
    of_packet: Vec<(usize, Base, u32, usize)>,
}

/// Messages of one family's table.
struct Batch<'a> {
    name: &'a str,
    family: u8,
    bytes: Vec<u8>,
    sequence: u32,
}

impl Batch<'_> {
    fn address_len(&self) -> usize {
        if self.family == V4 { 4 } else { 16 }
    }

    fn source_at(&self) -> u32 {
        if self.family == V4 { 12 } else { 8 }
    }

    fn destination_at(&self) -> u32 {
        self.source_at() + self.address_len() as u32
    }

    fn has(&self, addr: IpAddr) -> bool {
        addr.is_ipv4() == (self.family == V4)
    }

    fn tuple(&self) -> Tuple {
        let (length, words) = (self.address_len(), self.address_len() / 4);
        Tuple {
            of_packet: vec![
                (0, Base::Network, self.source_at(), length),
                (words, Base::Network, self.destination_at(), length),
                (2 * words, Base::Transport, 0, 2),
                (2 * words + 1, Base::Transport, 2, 2),
            ],
        }
    }

    /// The set of flows whose answers are traced, and the chains that look there.
    fn known_flows(&mut self, protocol: u8) {
        let words = self.address_len() / 4;
        self.set_of_rules(FLOWS, 2 * self.address_len() as u32 + 8);
        let (source, destination) = match self.family {
            V4 => (Ct::Source4, Ct::Destination4),
            _ => (Ct::Source6, Ct::Destination6),
        };
        let mut answer = Expressions::default().protocol(protocol);
        if protocol == TCP {
            answer = answer.any_of(Base::Transport, 13, SYN_RST);
        }
        let answer = answer
            .direction(Direction::Reply)
            .original(0, source)
            .original(words, destination)
            .original(2 * words, Ct::SourcePort)
            .original(2 * words + 1, Ct::DestinationPort)
            .belongs_to(FLOWS)
            .trace();
        for hook in [PREROUTING, OUTPUT] {
            self.chain(KNOWN, hook, BEHIND_CONNTRACK);
            self.rule(KNOWN, hook, &answer);
        }
    }

    fn frame(&mut self, kind: u16) {
        let start = self.bytes.len();
        let sequence = self.next();
        nfnl::append(&mut self.bytes, kind, nfnl::REQUEST, sequence, 0, &[]);
        // `res_id`, in network order: whose batch it is.
        self.bytes[start + 18..start + 20].copy_from_slice(&SUBSYSTEM.to_be_bytes());
    }

    fn message(&mut self, kind: u16, flags: u16, attributes: &[u8]) {
        let sequence = self.next();
        let flags = nfnl::REQUEST | nfnl::ACK | CREATE | flags;
        nfnl::append(&mut self.bytes, SUBSYSTEM << 8 | kind, flags, sequence, self.family, attributes);
    }

    fn next(&mut self) -> u32 {
        self.sequence += 1;
        self.sequence
    }

    fn table(&mut self) {
        let mut attributes = Vec::new();
        text(&mut attributes, TABLE_NAME, self.name);
        number(&mut attributes, TABLE_FLAGS, OWNED);
        self.message(NEW_TABLE, EXCLUSIVE, &attributes);
    }

    fn chain(&mut self, prefix: &str, hook: u32, priority: i32) {
        let (mut attributes, mut place) = (Vec::new(), Vec::new());
        number(&mut place, HOOK_NUMBER, hook);
        number(&mut place, HOOK_PRIORITY, priority.cast_unsigned());
        text(&mut attributes, CHAIN_TABLE, self.name);
        text(&mut attributes, CHAIN_NAME, &chain_name(prefix, hook));
        nfnl::append_nested(&mut attributes, CHAIN_HOOK, &place);
        number(&mut attributes, CHAIN_POLICY, ACCEPT);
        text(&mut attributes, CHAIN_TYPE, "filter");
        self.message(NEW_CHAIN, 0, &attributes);
    }

    fn rule(&mut self, prefix: &str, hook: u32, expressions: &Expressions) {
        let mut attributes = Vec::new();
        text(&mut attributes, RULE_TABLE, self.name);
        text(&mut attributes, RULE_CHAIN, &chain_name(prefix, hook));
        nfnl::append_nested(&mut attributes, RULE_EXPRESSIONS, expressions.bytes());
        self.message(NEW_RULE, APPEND, &attributes);
    }

    fn set_of_rules(&mut self, name: &str, key_len: u32) {
        let mut size = Vec::new();
        number(&mut size, SET_DESC_SIZE, MOST_FLOWS);
        self.new_set(name, key_len, 3, BY_RULES, Some(&size));
    }

    fn set(&mut self, name: &str, key_len: u32, id: u32, keys: &BTreeSet<Vec<u8>>) {
        self.new_set(name, key_len, id, 0, None);
        let keys: Vec<&Vec<u8>> = keys.iter().collect();
        for keys in keys.chunks(ELEMENTS_AT_ONCE) {
            let mut attributes = Vec::new();
            set_elements(&mut attributes, self.name, name, keys);
            self.message(NEW_ELEMENTS, 0, &attributes);
        }
    }

    fn new_set(&mut self, name: &str, key_len: u32, id: u32, flags: u32, size: Option<&[u8]>) {
        let mut attributes = Vec::new();
        text(&mut attributes, SET_TABLE, self.name);
        text(&mut attributes, SET_NAME, name);
        number(&mut attributes, SET_FLAGS, flags);
        // Of no type that nft knows: it is listed as bytes.
        number(&mut attributes, SET_KEY_TYPE, 0);
        number(&mut attributes, SET_KEY_LEN, key_len);
        number(&mut attributes, SET_ID, id);
        if let Some(size) = size {
            nfnl::append_nested(&mut attributes, SET_DESC, size);
        }
        self.message(NEW_SET, 0, &attributes);
    }
}

fn chain_name(prefix: &str, hook: u32) -> String {
    let hook = match hook {
        PREROUTING => "prerouting",
        INPUT => "input",
        OUTPUT => "output",
        _ => "postrouting",
    };
    format!("{prefix}{hook}")
}

fn text(to: &mut Vec<u8>, kind: u16, text: &str) {
    let value: Vec<u8> = text.bytes().chain([0]).collect();
    nfnl::append_attribute(to, kind, &value);
}

fn number(to: &mut Vec<u8>, kind: u16, value: u32) {
    nfnl::append_attribute(to, kind, &value.to_be_bytes());
}

#[cfg(test)]
#[path = "trap_tests.rs"]
mod tests;
