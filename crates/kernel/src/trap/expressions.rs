//! Expressions of a trap's rules, as nf_tables takes them. Data moves through 16 registers of 32 bits.
//!
//! Spec: `nf_tables.h` (`NFTA_EXPR_*` and each expression's own).

use super::{Tuple, number, text};
use crate::nfnl;

/// `NFT_REG32_00`.
const FIRST_REGISTER: u32 = 8;
/// `NFTA_LIST_ELEM`, `NFTA_EXPR_*`, `NFTA_DATA_VALUE`.
const ITEM: u16 = 1;
const NAME: u16 = 1;
const DATA: u16 = 2;
const VALUE: u16 = 1;
/// `NFTA_META_*`; keys `NFT_META_NFTRACE`, `NFT_META_L4PROTO`.
const META_DREG: u16 = 1;
const META_KEY: u16 = 2;
const META_SREG: u16 = 3;
const META_TRACE: u32 = 12;
const META_PROTOCOL: u32 = 16;
/// `NFTA_CMP_*`; `NFT_CMP_EQ`, `_NEQ`.
const CMP_SREG: u16 = 1;
const CMP_OP: u16 = 2;
const CMP_DATA: u16 = 3;
const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;
/// `NFTA_PAYLOAD_*`.
const PAYLOAD_DREG: u16 = 1;
const PAYLOAD_BASE: u16 = 2;
const PAYLOAD_OFFSET: u16 = 3;
const PAYLOAD_LEN: u16 = 4;
/// `NFTA_BITWISE_*`.
const BITWISE_SREG: u16 = 1;
const BITWISE_DREG: u16 = 2;
const BITWISE_LEN: u16 = 3;
const BITWISE_MASK: u16 = 4;
const BITWISE_XOR: u16 = 5;
/// `NFTA_IMMEDIATE_*`.
const IMMEDIATE_DREG: u16 = 1;
const IMMEDIATE_DATA: u16 = 2;
/// `NFTA_CT_*`; `NFT_CT_STATE`, `_DIRECTION`.
const CT_DREG: u16 = 1;
const CT_KEY: u16 = 2;
const CT_OF: u16 = 3;
const CT_STATE: u32 = 0;
const CT_DIRECTION: u32 = 1;
/// States `new` and `untracked`, as bits in the machine's order.
const NEW_OR_UNTRACKED: u32 = 0x8 | 0x40;
/// `NFTA_LOOKUP_*`, `NFTA_DYNSET_*`, `NFTA_LIMIT_*`.
const LOOKUP_SET: u16 = 1;
const LOOKUP_SREG: u16 = 2;
const DYNSET_SET: u16 = 1;
const DYNSET_OP: u16 = 3;
const DYNSET_KEY: u16 = 4;
const ADD: u32 = 0;
const LIMIT_RATE: u16 = 1;
const LIMIT_UNIT: u16 = 2;
const LIMIT_BURST: u16 = 3;
/// `NFTA_SET_ELEM_LIST_*`, `NFTA_SET_ELEM_KEY`.
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS_LIST: u16 = 3;
const ELEMENT_KEY: u16 = 1;

/// Where a payload's offset counts from: `NFT_PAYLOAD_*`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Base {
    Network = 1,
    Transport = 2,
}

/// What conntrack knows of a flow's original direction: `NFT_CT_*`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ct {
    SourcePort = 11,
    DestinationPort = 12,
    Source4 = 19,
    Destination4 = 20,
    Source6 = 21,
    Destination6 = 22,
}

/// `IP_CT_DIR_*`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Direction {
    Original = 0,
    Reply = 1,
}

/// A rule in the making. The packet goes on to the next expression while each holds.
#[derive(Debug, Default)]
pub(super) struct Expressions(Vec<u8>);

impl Expressions {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// `meta l4proto N`.
    pub(super) fn protocol(mut self, protocol: u8) -> Self {
        self.push("meta", |data| {
            register(data, META_DREG, 0);
            number(data, META_KEY, META_PROTOCOL);
        });
        self.compare(EQUAL, &[protocol])
    }

    /// The bytes at an offset are these; at most 8 of them.
    pub(super) fn equals(self, base: Base, offset: u32, bytes: &[u8]) -> Self {
        self.load(0, base, offset, bytes.len()).compare(EQUAL, bytes)
    }

    /// Of the byte at an offset, these bits of `mask` are set and its others are not.
    pub(super) fn masked(self, base: Base, offset: u32, mask: u8, bits: u8) -> Self {
        self.load(0, base, offset, 1).and(mask).compare(EQUAL, &[bits])
    }

    /// Of the byte at an offset, any bit of `mask` is set.
    pub(super) fn any_of(self, base: Base, offset: u32, mask: u8) -> Self {
        self.load(0, base, offset, 1).and(mask).compare(UNEQUAL, &[0])
    }

    /// Conntrack sees the packet go this way; never true of one that it does not know.
    pub(super) fn direction(mut self, direction: Direction) -> Self {
        self.push("ct", |data| {
            register(data, CT_DREG, 0);
            number(data, CT_KEY, CT_DIRECTION);
        });
        self.compare(EQUAL, &[direction as u8])
    }

    /// `ct state new,untracked`.
    pub(super) fn begins_flow(mut self) -> Self {
        self.push("ct", |data| {
            register(data, CT_DREG, 0);
            number(data, CT_KEY, CT_STATE);
        });
        self.push("bitwise", |data| {
            bitwise(data, &NEW_OR_UNTRACKED.to_ne_bytes());
        });
        self.compare(UNEQUAL, &[0; 4])
    }

    /// Loads a part of the flow's original tuple into a word.
    pub(super) fn original(mut self, word: usize, what: Ct) -> Self {
        self.push("ct", |data| {
            register(data, CT_DREG, word);
            number(data, CT_KEY, what as u32);
            nfnl::append_attribute(data, CT_OF, &[Direction::Original as u8]);
        });
        self
    }

    /// Loads bytes of the packet into registers from a word on.
    pub(super) fn load(mut self, word: usize, base: Base, offset: u32, length: usize) -> Self {
        self.push("payload", |data| {
            register(data, PAYLOAD_DREG, word);
            number(data, PAYLOAD_BASE, base as u32);
            number(data, PAYLOAD_OFFSET, offset);
            number(data, PAYLOAD_LEN, length as u32);
        });
        self
    }

    /// What the registers hold from the first on is in the set.
    pub(super) fn belongs_to(mut self, set: &str) -> Self {
        self.push("lookup", |data| {
            text(data, LOOKUP_SET, set);
            register(data, LOOKUP_SREG, 0);
        });
        self
    }

    /// At most so many a second; the first few may come at once.
    pub(super) fn at_most(mut self, per_second: u32) -> Self {
        self.push("limit", |data| {
            nfnl::append_attribute(data, LIMIT_RATE, &u64::from(per_second).to_be_bytes());
            nfnl::append_attribute(data, LIMIT_UNIT, &1u64.to_be_bytes());
            number(data, LIMIT_BURST, per_second);
        });
        self
    }

    /// `meta nftrace set 1`.
    pub(super) fn trace(mut self) -> Self {
        self.push("immediate", |data| {
            register(data, IMMEDIATE_DREG, 0);
            value(data, IMMEDIATE_DATA, &[1]);
        });
        self.push("meta", |data| {
            number(data, META_KEY, META_TRACE);
            register(data, META_SREG, 0);
        });
        self
    }

    /// Adds the packet's tuple to a set.
    pub(super) fn remember(mut self, set: &str, tuple: &Tuple) -> Self {
        for (word, base, offset, length) in &tuple.of_packet {
            self = self.load(*word, *base, *offset, *length);
        }
        self.push("dynset", |data| {
            text(data, DYNSET_SET, set);
            number(data, DYNSET_OP, ADD);
            register(data, DYNSET_KEY, 0);
        });
        self
    }

    fn and(mut self, mask: u8) -> Self {
        self.push("bitwise", |data| bitwise(data, &[mask]));
        self
    }

    fn compare(mut self, op: u32, with: &[u8]) -> Self {
        self.push("cmp", |data| {
            register(data, CMP_SREG, 0);
            number(data, CMP_OP, op);
            value(data, CMP_DATA, with);
        });
        self
    }

    fn push(&mut self, name: &str, fill: impl FnOnce(&mut Vec<u8>)) {
        let (mut data, mut item) = (Vec::new(), Vec::new());
        fill(&mut data);
        text(&mut item, NAME, name);
        nfnl::append_nested(&mut item, DATA, &data);
        nfnl::append_nested(&mut self.0, ITEM, &item);
    }
}

fn bitwise(data: &mut Vec<u8>, mask: &[u8]) {
    register(data, BITWISE_SREG, 0);
    register(data, BITWISE_DREG, 0);
    number(data, BITWISE_LEN, mask.len() as u32);
    value(data, BITWISE_MASK, mask);
    value(data, BITWISE_XOR, &vec![0; mask.len()]);
}

fn register(data: &mut Vec<u8>, kind: u16, word: usize) {
    number(data, kind, FIRST_REGISTER + word as u32);
}

fn value(data: &mut Vec<u8>, kind: u16, bytes: &[u8]) {
    let mut inner = Vec::new();
    nfnl::append_attribute(&mut inner, VALUE, bytes);
    nfnl::append_nested(data, kind, &inner);
}

/// Attributes of a message that adds elements to a set.
pub(super) fn set_elements(to: &mut Vec<u8>, table: &str, set: &str, keys: &[&Vec<u8>]) {
    text(to, ELEMENTS_TABLE, table);
    text(to, ELEMENTS_SET, set);
    let mut list = Vec::new();
    for key in keys {
        let mut element = Vec::new();
        value(&mut element, ELEMENT_KEY, key);
        nfnl::append_nested(&mut list, ITEM, &element);
    }
    nfnl::append_nested(to, ELEMENTS_LIST, &list);
}
