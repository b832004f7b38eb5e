//! Numbers of nf_tables' netlink messages, as this room writes and reads them. Source: `linux/netfilter/nf_tables.h`,
//! `nfnetlink.h`; of the user data, what nft 1.0.6 writes there (libnftnl's `udata.h`).

/// `NFNL_MSG_BATCH_BEGIN`, `_END`.
pub const BATCH_BEGIN: u16 = 0x10;
pub const BATCH_END: u16 = 0x11;
/// `NFNL_SUBSYS_NFTABLES`: the upper byte of a message's type.
pub const SUBSYSTEM: u16 = 10;

pub const NEW_TABLE: u8 = 0;
pub const DEL_TABLE: u8 = 2;
pub const NEW_CHAIN: u8 = 3;
pub const DEL_CHAIN: u8 = 5;
pub const NEW_RULE: u8 = 6;
pub const DEL_RULE: u8 = 8;
pub const NEW_SET: u8 = 9;
pub const DEL_SET: u8 = 11;
pub const NEW_SETELEM: u8 = 12;
pub const DEL_SETELEM: u8 = 14;

/// `NLM_F_REQUEST`, `_ACK`, `_CREATE`, `_APPEND`.
pub const REQUEST: u16 = 0x1;
pub const ACK: u16 = 0x4;
pub const CREATE: u16 = 0x400;
pub const APPEND: u16 = 0x800;

/// Bits of an attribute's type that are flags: nested, and byte order of the network.
pub const NESTED: u16 = 0x8000;
pub const TYPE_MASK: u16 = 0x3fff;
/// Length of `struct nlmsghdr`, of `struct nfgenmsg`, and of an attribute's head.
pub const HEADER_LEN: usize = 16;
pub const FAMILY_LEN: usize = 4;
pub const ATTRIBUTE_LEN: usize = 4;

/// `NFTA_TABLE_*`.
pub const TABLE_NAME: u16 = 1;

/// `NFTA_CHAIN_*` and `NFTA_HOOK_*`.
pub const CHAIN_TABLE: u16 = 1;
pub const CHAIN_NAME: u16 = 3;
pub const CHAIN_HOOK: u16 = 4;
pub const CHAIN_POLICY: u16 = 5;
pub const CHAIN_TYPE: u16 = 7;
pub const HOOK_NUMBER: u16 = 1;
pub const HOOK_PRIORITY: u16 = 2;

/// `NFTA_RULE_*`.
pub const RULE_TABLE: u16 = 1;
pub const RULE_CHAIN: u16 = 2;
pub const RULE_EXPRESSIONS: u16 = 4;
pub const RULE_USERDATA: u16 = 7;

/// `NFTA_SET_*`.
pub const SET_TABLE: u16 = 1;
pub const SET_NAME: u16 = 2;
pub const SET_FLAGS: u16 = 3;
pub const SET_KEY_TYPE: u16 = 4;
pub const SET_KEY_LEN: u16 = 5;
pub const SET_DATA_TYPE: u16 = 6;
pub const SET_DATA_LEN: u16 = 7;
pub const SET_DESC: u16 = 9;
pub const SET_DESC_SIZE: u16 = 1;
pub const SET_ID: u16 = 10;
pub const SET_USERDATA: u16 = 13;
/// `NFT_SET_MAP`, `_TIMEOUT`, `_EVAL`.
pub const SET_IS_MAP: u32 = 0x8;
pub const SET_HAS_TIMEOUT: u32 = 0x10;
pub const SET_BY_RULES: u32 = 0x20;

/// `NFTA_SET_ELEM_LIST_*`, `NFTA_LIST_ELEM`, `NFTA_SET_ELEM_*`.
pub const ELEMENTS_TABLE: u16 = 1;
pub const ELEMENTS_SET: u16 = 2;
pub const ELEMENTS_LIST: u16 = 3;
pub const LIST_ITEM: u16 = 1;
pub const ELEMENT_KEY: u16 = 1;
pub const ELEMENT_DATA: u16 = 2;
pub const ELEMENT_USERDATA: u16 = 6;

/// `NFTA_DATA_*`, `NFTA_VERDICT_*`.
pub const DATA_VALUE: u16 = 1;
pub const DATA_VERDICT: u16 = 2;
pub const VERDICT_CODE: u16 = 1;
pub const VERDICT_CHAIN: u16 = 2;
/// `NF_DROP`, `NF_ACCEPT`, `NFT_JUMP`, `NFT_GOTO`, `NFT_RETURN`.
pub const DROP: i32 = 0;
pub const ACCEPT: i32 = 1;
pub const JUMP: i32 = -3;
pub const GOTO: i32 = -4;
pub const RETURN: i32 = -5;

/// `NFTA_EXPR_*`.
pub const EXPRESSION_NAME: u16 = 1;
pub const EXPRESSION_DATA: u16 = 2;

/// `NFTA_PAYLOAD_*`; bases `NFT_PAYLOAD_NETWORK_HEADER`, `_TRANSPORT_HEADER`.
pub const PAYLOAD_DREG: u16 = 1;
pub const PAYLOAD_BASE: u16 = 2;
pub const PAYLOAD_OFFSET: u16 = 3;
pub const PAYLOAD_LEN: u16 = 4;
pub const NETWORK_HEADER: u32 = 1;
pub const TRANSPORT_HEADER: u32 = 2;

/// `NFTA_META_*`; keys `NFT_META_PRIORITY`, `_MARK`, `_IIFNAME`, `_L4PROTO`.
pub const META_DREG: u16 = 1;
pub const META_KEY: u16 = 2;
pub const META_SREG: u16 = 3;
pub const META_PRIORITY: u32 = 2;
pub const META_MARK: u32 = 3;
pub const META_IIFNAME: u32 = 6;
pub const META_L4PROTO: u32 = 16;

/// `NFTA_CT_*`; keys `NFT_CT_STATE`, `_STATUS`, `_PROTO_DST`, `_DST_IP`, `_DST_IP6`; bits of state and status.
pub const CT_DREG: u16 = 1;
pub const CT_KEY: u16 = 2;
pub const CT_DIRECTION: u16 = 3;
pub const CT_STATE: u32 = 0;
pub const CT_STATUS: u32 = 2;
pub const CT_PROTO_DST: u32 = 12;
pub const CT_DST_IP: u32 = 20;
pub const CT_DST_IP6: u32 = 22;
pub const STATE_NEW: u32 = 8;
pub const STATUS_DNAT: u32 = 0x20;

/// `NFTA_FIB_*`; `NFT_FIB_RESULT_ADDRTYPE`; `NFTA_FIB_F_SADDR`, `_DADDR`; `RTN_LOCAL`.
pub const FIB_DREG: u16 = 1;
pub const FIB_RESULT: u16 = 2;
pub const FIB_FLAGS: u16 = 3;
pub const FIB_ADDRTYPE: u32 = 3;
pub const FIB_SADDR: u32 = 1;
pub const FIB_DADDR: u32 = 2;
pub const RTN_LOCAL: u32 = 2;

/// `NFTA_NG_*`; `NFT_NG_RANDOM`.
pub const NUMGEN_DREG: u16 = 1;
pub const NUMGEN_MODULUS: u16 = 2;
pub const NUMGEN_TYPE: u16 = 3;
pub const NUMGEN_OFFSET: u16 = 4;
pub const NUMGEN_RANDOM: u32 = 1;

/// `NFTA_LOOKUP_*`; `NFT_LOOKUP_F_INV`.
pub const LOOKUP_SET: u16 = 1;
pub const LOOKUP_SREG: u16 = 2;
pub const LOOKUP_DREG: u16 = 3;
pub const LOOKUP_FLAGS: u16 = 5;
pub const LOOKUP_INVERTED: u32 = 1;

/// `NFTA_BITWISE_*`.
pub const BITWISE_SREG: u16 = 1;
pub const BITWISE_DREG: u16 = 2;
pub const BITWISE_LEN: u16 = 3;
pub const BITWISE_MASK: u16 = 4;
pub const BITWISE_XOR: u16 = 5;
pub const BITWISE_OP: u16 = 6;

/// `NFTA_CMP_*`; `NFT_CMP_EQ`, `_NEQ`.
pub const CMP_SREG: u16 = 1;
pub const CMP_OP: u16 = 2;
pub const CMP_DATA: u16 = 3;
pub const CMP_EQ: u32 = 0;
pub const CMP_NEQ: u32 = 1;

/// `NFTA_IMMEDIATE_*`; `NFT_REG_VERDICT`.
pub const IMMEDIATE_DREG: u16 = 1;
pub const IMMEDIATE_DATA: u16 = 2;
pub const REG_VERDICT: u32 = 0;

/// `NFTA_NAT_*`; `NFT_NAT_DNAT`.
pub const NAT_TYPE: u16 = 1;
pub const NAT_FAMILY: u16 = 2;
pub const NAT_REG_ADDR: u16 = 3;
pub const NAT_REG_PORT: u16 = 5;
pub const NAT_DNAT: u32 = 1;

/// `NFTA_MASQ_FLAGS`; `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
pub const MASQ_FLAGS: u16 = 1;
pub const FULLY_RANDOM: u32 = 0x10;

/// `NFTA_REJECT_*`; `NFT_REJECT_ICMP_UNREACH`; code port unreachable of ICMP and of ICMPv6.
pub const REJECT_TYPE: u16 = 1;
pub const REJECT_CODE: u16 = 2;
pub const REJECT_ICMP: u32 = 0;
pub const PORT_UNREACHABLE_V4: u8 = 3;
pub const PORT_UNREACHABLE_V6: u8 = 4;

/// `NFTA_DYNSET_*`; `NFT_DYNSET_OP_UPDATE`.
pub const DYNSET_SET: u16 = 1;
pub const DYNSET_OP: u16 = 3;
pub const DYNSET_KEY: u16 = 4;
pub const DYNSET_DATA: u16 = 5;
pub const DYNSET_TIMEOUT: u16 = 6;
pub const DYNSET_UPDATE: u32 = 1;

/// nft's numbers of data types, six bits each in a concatenation.
pub const TYPE_INTEGER: u32 = 4;
pub const TYPE_IPV4: u32 = 7;
pub const TYPE_IPV6: u32 = 8;
pub const TYPE_INET_PROTO: u32 = 12;
pub const TYPE_INET_SERVICE: u32 = 13;
pub const TYPE_CLASSID: u32 = 23;
pub const TYPE_BITS: u32 = 6;

/// Bytes of names of links, as they are compared.
pub const IFNAME_LEN: usize = 16;

use portolan_model::{Family, Proto};

use super::lang::Type;

/// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
pub fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

/// Bytes of an address.
pub fn address_len(family: Family) -> usize {
    match family {
        Family::V4 => 4,
        Family::V6 => 16,
    }
}

/// Where source and destination stand in the network header.
pub fn address_offsets(family: Family) -> (u32, u32) {
    match family {
        Family::V4 => (12, 16),
        Family::V6 => (8, 24),
    }
}

/// IANA's number.
pub fn proto_number(proto: Proto) -> u8 {
    match proto {
        Proto::Tcp => 6,
        Proto::Udp => 17,
        Proto::Sctp => 132,
    }
}

/// nft's number of a type, and the bytes that a part of it takes in a key, padding aside.
pub fn type_number(family: Family, part: Type) -> (u32, usize) {
    match part {
        Type::Addr if family == Family::V4 => (TYPE_IPV4, 4),
        Type::Addr => (TYPE_IPV6, 16),
        Type::Proto => (TYPE_INET_PROTO, 1),
        Type::Port => (TYPE_INET_SERVICE, 2),
        Type::Slot => (TYPE_INTEGER, 4),
        Type::Id => (TYPE_CLASSID, 4),
    }
}

/// Type and length of a set's key or data. A part of a concatenation fills whole words.
pub fn concatenated(family: Family, parts: &[Type]) -> (u32, u32) {
    let single = parts.len() == 1;
    parts.iter().fold((0, 0), |(number, length), part| {
        let (own, bytes) = type_number(family, *part);
        let padded = if single { bytes } else { bytes.next_multiple_of(4) };
        (number << TYPE_BITS | own, length + padded as u32)
    })
}

/// The netlink number of a register: 16-byte areas have the old numbers 1 to 4, other words 8 and up.
pub fn register(word: usize) -> u32 {
    match word.is_multiple_of(4) {
        true => 1 + (word / 4) as u32,
        false => 8 + word as u32,
    }
}

/// The protocol of an IANA number, of the three that Services have.
pub fn proto_of(number: u8) -> Option<Proto> {
    [Proto::Tcp, Proto::Udp, Proto::Sctp].into_iter().find(|proto| proto_number(*proto) == number)
}

/// The parts that a concatenation's number names; `None` if one of them is unknown here.
pub fn parts_of(family: Family, number: u32) -> Option<Vec<Type>> {
    let address = type_number(family, Type::Addr).0;
    let mut parts = Vec::new();
    let mut left = number;
    while left != 0 {
        parts.push(match left & ((1 << TYPE_BITS) - 1) {
            own if own == address => Type::Addr,
            TYPE_INET_PROTO => Type::Proto,
            TYPE_INET_SERVICE => Type::Port,
            TYPE_INTEGER => Type::Slot,
            TYPE_CLASSID => Type::Id,
            _ => return None,
        });
        left >>= TYPE_BITS;
    }
    parts.reverse();
    (!parts.is_empty()).then_some(parts)
}

/// The word that a register's number means; `None` for the verdict and what is no register.
pub fn word_of(register: u32) -> Option<usize> {
    match register {
        1..=4 => Some((register as usize - 1) * 4),
        8..=23 => Some(register as usize - 8),
        _ => None,
    }
}
