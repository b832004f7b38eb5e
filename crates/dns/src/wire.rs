//! Queries as packets: the header and the one question, with strict bounds, and the answers to what cannot be read.
//!
//! ```text
//!  bytes ──► parse ──► Query (borrows the packet)
//!              └─────► Rejected: silence, or a header with a code
//! ```
//!
//! Whatever comes in, nothing here panics and nothing allocates for a query that can be read.
//!
//! Spec: RFC 1035 §4, RFC 6891 (EDNS).

use std::fmt;

use crate::name::{Name, wire_len};
use crate::rdata::Rtype;

/// Length of the header (RFC 1035 §4.1.1).
pub const HEADER: usize = 12;
/// Largest UDP message to a client without EDNS (RFC 1035 §4.2.1).
pub const PLAIN_UDP: usize = 512;
/// Largest UDP message we send, and the size we announce: passes any path without fragments.
pub const MAX_UDP: usize = 1232;
/// Class IN.
pub const CLASS_IN: u16 = 1;
/// Class ANY.
pub const CLASS_ANY: u16 = 255;

const QR: u8 = 0x80;
const RD: u8 = 0x01;
const AD: u8 = 0x20;
const CD: u8 = 0x10;
const OPCODE: u8 = 0x78;

/// A response code, extended ones included (RFC 6891 §6.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rcode(pub u16);

#[allow(missing_docs)]
impl Rcode {
    pub const NOERROR: Self = Self(0);
    pub const FORMERR: Self = Self(1);
    pub const SERVFAIL: Self = Self(2);
    pub const NXDOMAIN: Self = Self(3);
    pub const NOTIMP: Self = Self(4);
    pub const REFUSED: Self = Self(5);
    pub const BADVERS: Self = Self(16);
}

/// As `dig` writes it.
impl fmt::Display for Rcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];
        match (names.get(usize::from(self.0)), *self) {
            (Some(name), _) => f.write_str(name),
            (None, Self::BADVERS) => f.write_str("BADVERS"),
            (None, other) => write!(f, "RCODE{}", other.0),
        }
    }
}

/// What carried the query: it bounds the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Transport {
    Udp,
    Tcp,
}

/// What the client's OPT record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// Largest UDP message the client takes, in bytes.
    pub udp_size: u16,
    /// EDNS version; only 0 exists.
    pub version: u8,
    /// Wants DNSSEC records.
    pub dnssec_ok: bool,
}

/// A query that can be answered: one question, opcode QUERY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// Message ID.
    pub id: u16,
    /// RD.
    pub recursion_desired: bool,
    /// AD: the client understands AD in the reply (RFC 6840 §5.7).
    pub authentic_data: bool,
    /// CD.
    pub checking_disabled: bool,
    /// The question section as it came: name, type, class.
    pub question: &'a [u8],
    /// The name asked for, uncompressed, case as it came.
    pub name: &'a [u8],
    /// The type asked for.
    pub rtype: Rtype,
    /// The class asked for.
    pub class: u16,
    /// The OPT record, if any.
    pub edns: Option<Edns>,
}

/// What to do with a packet that is no query we can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// Nothing: it is no query, or too short to have an ID.
    Silence,
    /// Send these bytes: a header with FORMERR or NOTIMP.
    Reply(Vec<u8>),
}

impl<'a> Query<'a> {
    /// Reads a packet.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Rejected> {
        let Some(header) = bytes.first_chunk::<HEADER>() else { return Err(Rejected::Silence) };
        if header[2] & QR != 0 {
            return Err(Rejected::Silence);
        }
        if header[2] & OPCODE != 0 {
            return Err(Rejected::Reply(bare_error(header, Rcode::NOTIMP)));
        }
        Self::parse_question(header, bytes).ok_or_else(|| Rejected::Reply(bare_error(header, Rcode::FORMERR)))
    }

    /// Most bytes that a reply by `transport` may have.
    pub fn reply_limit(&self, transport: Transport) -> usize {
        match (transport, self.edns) {
            (Transport::Tcp, _) => usize::from(u16::MAX),
            (Transport::Udp, None) => PLAIN_UDP,
            (Transport::Udp, Some(edns)) => usize::from(edns.udp_size).clamp(PLAIN_UDP, MAX_UDP),
        }
    }

    fn parse_question(header: &[u8; HEADER], bytes: &'a [u8]) -> Option<Self> {
        let [questions, answers, authority, additional] = counts(header);
        if questions != 1 {
            return None;
        }
        let name_end = HEADER + wire_len(&bytes[HEADER..])?;
        let tail = bytes.get(name_end..name_end + 4)?;
        let records = usize::from(answers) + usize::from(authority) + usize::from(additional);
        Some(Self {
            id: u16::from_be_bytes([header[0], header[1]]),
            recursion_desired: header[2] & RD != 0,
            authentic_data: header[3] & AD != 0,
            checking_disabled: header[3] & CD != 0,
            question: &bytes[HEADER..name_end + 4],
            name: &bytes[HEADER..name_end],
            rtype: Rtype(u16::from_be_bytes([tail[0], tail[1]])),
            class: u16::from_be_bytes([tail[2], tail[3]]),
            edns: find_opt(bytes, name_end + 4, records)?,
        })
    }
}

/// The two labels of a packet's name that would be a Service's, if it is a query for one: the first two, or those after
/// `_port._transport`. A guess: nothing but the bounds is looked at.
pub(crate) fn service_labels(packet: &[u8]) -> Option<&[u8]> {
    let name = packet.get(HEADER..)?;
    let after = |at: usize| Some(at + usize::from(*name.get(at)?) + 1);
    let start = match name.get(1)? {
        b'_' => after(after(0)?)?,
        _ => 0,
    };
    name.get(start..after(after(start)?)?)
}

/// A question section of one question, class IN.
pub fn question(name: &Name, rtype: Rtype) -> Vec<u8> {
    let mut out = name.as_wire().to_vec();
    out.extend_from_slice(&rtype.0.to_be_bytes());
    out.extend_from_slice(&CLASS_IN.to_be_bytes());
    out
}

/// A query of our own, as a client or to an upstream: recursion desired, AD understood. `question` is a question section.
pub fn ask(id: u16, question: &[u8], checking_disabled: bool, edns: Option<Edns>) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + question.len() + 11);
    out.extend_from_slice(&id.to_be_bytes());
    out.push(RD);
    out.push(if checking_disabled { AD | CD } else { AD });
    out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())]);
    out.extend_from_slice(question);
    if let Some(edns) = edns {
        push_opt(&mut out, edns.udp_size, Rcode::NOERROR, edns.dnssec_ok);
    }
    out
}

/// The four counts of a header: questions, answers, authority, additional.
pub fn counts(header: &[u8; HEADER]) -> [u16; 4] {
    [4, 6, 8, 10].map(|at| u16::from_be_bytes([header[at], header[at + 1]]))
}

/// An OPT record without options. The upper bits of `rcode` go here.
pub(crate) fn push_opt(out: &mut Vec<u8>, udp_size: u16, rcode: Rcode, dnssec_ok: bool) {
    out.push(0);
    out.extend_from_slice(&Rtype::OPT.0.to_be_bytes());
    out.extend_from_slice(&udp_size.to_be_bytes());
    out.push((rcode.0 >> 4) as u8);
    out.push(0);
    out.push(if dnssec_ok { 0x80 } else { 0 });
    out.extend_from_slice(&[0, 0, 0]);
}

/// Walks the records after the question. Outer `None`: malformed, or more than one OPT (RFC 6891 §6.1.1).
fn find_opt(bytes: &[u8], start: usize, records: usize) -> Option<Option<Edns>> {
    let mut at = start;
    let mut found = None;
    for _ in 0..records {
        let name_end = skip_name(bytes, at)?;
        let fixed = bytes.get(name_end..name_end + 10)?;
        let len = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        bytes.get(name_end + 10..name_end + 10 + len)?;
        if Rtype(u16::from_be_bytes([fixed[0], fixed[1]])) == Rtype::OPT {
            let edns = Edns {
                udp_size: u16::from_be_bytes([fixed[2], fixed[3]]),
                version: fixed[5],
                dnssec_ok: fixed[6] & 0x80 != 0,
            };
            // An OPT's owner is the root and there is one at most.
            if name_end != at + 1 || found.replace(edns).is_some() {
                return None;
            }
        }
        at = name_end + 10 + len;
    }
    Some(found)
}

/// Where the name at `at`, which may end in a compression pointer, ends.
fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let len = *bytes.get(at)?;
        match len {
            0 => return Some(at + 1),
            1..=63 => at += usize::from(len) + 1,
            0xc0.. => return bytes.get(at + 1).map(|_| at + 2),
            _ => return None,
        }
    }
}

/// A reply with nothing but a header.
fn bare_error(header: &[u8; HEADER], rcode: Rcode) -> Vec<u8> {
    let mut out = vec![0; HEADER];
    out[..2].copy_from_slice(&header[..2]);
    out[2] = QR | header[2] & (OPCODE | RD);
    out[3] = header[3] & CD | rcode.0 as u8;
    out
}
