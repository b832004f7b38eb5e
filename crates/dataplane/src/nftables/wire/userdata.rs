//! What nft keeps beside a set, a rule and an element for itself: the kernel stores it unread.
//!
//! Entries of one byte type, one byte length, and the value, with no padding. A set's says how to print keys and data
//! (`typeof ip daddr . meta l4proto . th dport`), a rule's and an element's is the comment. Source: what nft 1.0.6 sends.

use std::borrow::Cow;

use portolan_model::Family;

use crate::nftables::lang::{SetShape, Type};
use crate::nftables::numbers::{META_L4PROTO, META_PRIORITY};

const KEY_BYTE_ORDER: u8 = 0;
const DATA_BYTE_ORDER: u8 = 1;
const KEY_TYPEOF: u8 = 3;
const DATA_TYPEOF: u8 = 4;

/// nft's byte orders: none (concatenations), host, network.
const ORDER_NONE: u32 = 0;
const ORDER_HOST: u32 = 1;
const ORDER_NETWORK: u32 = 2;

/// nft's numbers of kinds of expressions.
const PAYLOAD: u32 = 7;
const META: u32 = 9;
const CONCATENATION: u32 = 13;
const NUMGEN: u32 = 23;

/// nft's numbers of headers and of their fields.
const HEADER_TRANSPORT: u32 = 11;
const HEADER_IP: u32 = 12;
const HEADER_IP6: u32 = 13;
const FIELD_DPORT: u32 = 2;

/// nft takes comments of 128 bytes; the kernel takes as many and the zero at their end.
const COMMENT_BYTES: usize = 128;
const COMMENT: u8 = 0;

/// Which address of a packet a part of a key stands for, as `typeof` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `saddr`.
    Source,
    /// `daddr`.
    Destination,
}

/// The side of each part of a key: keys of clients begin with their source, keys of destinations may end with one.
pub fn sides(parts: &[Type]) -> Vec<Side> {
    let from_client = matches!(parts, [Type::Addr, Type::Addr] | [Type::Addr, Type::Proto, Type::Id]);
    let side = |index: usize| match (from_client, index) {
        (true, 0) => Side::Source,
        (false, 1..) => Side::Source,
        _ => Side::Destination,
    };
    (0..parts.len()).map(side).collect()
}

/// A comment as it is kept: cut to what the kernel takes, and without what nft's text cannot quote.
pub fn kept(comment: &str) -> Cow<'_, str> {
    let unfit = |c: char| c == '"' || c.is_control();
    let mut end = comment.len().min(COMMENT_BYTES);
    while !comment.is_char_boundary(end) {
        end -= 1;
    }
    let cut = &comment[..end];
    match cut.contains(unfit) {
        true => Cow::Owned(cut.replace(unfit, "_")),
        false => Cow::Borrowed(cut),
    }
}

/// A comment as user data; `into` is emptied first.
pub fn comment(comment: &str, into: &mut Vec<u8>) {
    let kept = kept(comment);
    into.clear();
    into.extend([COMMENT, kept.len() as u8 + 1]);
    into.extend_from_slice(kept.as_bytes());
    into.push(0);
}

/// The comment in user data, if there is one.
pub fn comment_in(mut bytes: &[u8]) -> Option<&str> {
    while let [kind, length, rest @ ..] = bytes {
        let (value, after) = rest.split_at_checked(usize::from(*length))?;
        if *kind == COMMENT {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return std::str::from_utf8(text).ok();
        }
        bytes = after;
    }
    None
}

/// How nft is to print a set.
pub fn of_set(family: Family, shape: &SetShape) -> Vec<u8> {
    let mut bytes = Vec::new();
    number(&mut bytes, KEY_BYTE_ORDER, byte_order(&shape.key));
    if let Some(data) = &shape.data {
        number(&mut bytes, DATA_BYTE_ORDER, byte_order(data));
    }
    entry(&mut bytes, KEY_TYPEOF, |b| type_of(b, family, &shape.key));
    if let Some(data) = &shape.data {
        entry(&mut bytes, DATA_TYPEOF, |b| type_of(b, family, data));
    }
    bytes
}

fn byte_order(parts: &[Type]) -> u32 {
    match parts {
        [Type::Slot | Type::Id] => ORDER_HOST,
        [_] => ORDER_NETWORK,
        _ => ORDER_NONE,
    }
}

fn type_of(bytes: &mut Vec<u8>, family: Family, parts: &[Type]) {
    let sides = sides(parts);
    if let [only] = parts {
        return expression(bytes, family, *only, sides[0]);
    }
    number(bytes, 0, CONCATENATION);
    entry(bytes, 1, |list| {
        for (index, (part, side)) in parts.iter().zip(sides).enumerate() {
            entry(list, index as u8, |b| expression(b, family, *part, side));
        }
    });
}

fn expression(bytes: &mut Vec<u8>, family: Family, part: Type, side: Side) {
    let header = if family == Family::V4 { HEADER_IP } else { HEADER_IP6 };
    let (kind, values): (u32, &[u32]) = match part {
        Type::Addr => (PAYLOAD, &[header, address_field(family, side)]),
        Type::Proto => (META, &[META_L4PROTO]),
        Type::Port => (PAYLOAD, &[HEADER_TRANSPORT, FIELD_DPORT]),
        Type::Slot => (NUMGEN, &[1, 2, 0]), // random, mod 2, offset 0
        Type::Id => (META, &[META_PRIORITY]),
    };
    number(bytes, 0, kind);
    entry(bytes, 1, |b| {
        for (index, value) in values.iter().enumerate() {
            number(b, index as u8, *value);
        }
    });
}

fn address_field(family: Family, side: Side) -> u32 {
    match (family, side) {
        (Family::V4, Side::Source) => 11,
        (Family::V4, Side::Destination) => 12,
        (Family::V6, Side::Source) => 8,
        (Family::V6, Side::Destination) => 9,
    }
}

/// nft writes these numbers in the machine's own order.
fn number(bytes: &mut Vec<u8>, kind: u8, value: u32) {
    bytes.extend([kind, 4]);
    bytes.extend_from_slice(&value.to_ne_bytes());
}

fn entry(bytes: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    bytes.extend([kind, 0]);
    let start = bytes.len();
    body(bytes);
    bytes[start - 1] = (bytes.len() - start) as u8; // four parts take 90 bytes, so it fits
}
