//! Replies as packets: the question as it came, then records under a size limit, with compressed names.
//!
//! ```text
//!  Reply (records, borrowed or made) ──► Builder ──► bytes ≤ limit, or TC
//! ```
//!
//! A name that ends as the question does points into it, so an answer's owner keeps the case the client wrote.
//!
//! Spec: RFC 1035 §4.1, RFC 2181 §9 (TC), RFC 2782 (an SRV target is never compressed), RFC 6891 (OPT).

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::name::Name;
use crate::rdata::{Rdata, Rtype, Soa};
use crate::wire::{CLASS_IN, HEADER, MAX_UDP, Query, Rcode, Transport, push_opt};

/// Bytes of an OPT record without options.
const OPT_LEN: usize = 11;
/// Offsets from here on cannot be pointed at (RFC 1035 §4.1.4).
const POINTER_END: usize = 0x4000;

/// One record of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Rr<'r> {
    pub owner: Name,
    pub rtype: Rtype,
    pub class: u16,
    pub ttl_secs: u32,
    pub data: Cow<'r, Rdata>,
}

impl<'r> Rr<'r> {
    /// A record of class IN.
    pub fn internet(owner: &Name, rtype: Rtype, ttl_secs: u32, data: Cow<'r, Rdata>) -> Self {
        Self { owner: owner.clone(), rtype, class: CLASS_IN, ttl_secs, data }
    }
}

/// What a reply says, before it is bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Reply<'r> {
    pub rcode: Rcode,
    /// AA: from our zones.
    pub authoritative: bool,
    /// RA: names outside our zones can be asked too.
    pub recursion_available: bool,
    /// AD, from an upstream.
    pub authentic_data: bool,
    /// TC, from an upstream, although all of it may fit.
    pub truncated: bool,
    pub answers: Vec<Rr<'r>>,
    pub authority: Vec<Rr<'r>>,
    pub additional: Vec<Rr<'r>>,
}

impl<'r> Reply<'r> {
    /// A reply with a code and no records.
    pub fn new(rcode: Rcode) -> Self {
        Self {
            rcode,
            authoritative: false,
            recursion_available: false,
            authentic_data: false,
            truncated: false,
            answers: Vec::new(),
            authority: Vec::new(),
            additional: Vec::new(),
        }
    }

    /// The packet that answers `query`. Additional records that do not fit are left out; any other sets TC.
    pub fn render(&self, query: &Query<'_>, transport: Transport) -> Vec<u8> {
        let mut builder = Builder::new(query, query.reply_limit(transport));
        let mut counts = [0; 3];
        let mut truncated = self.truncated;
        for (section, count) in [&self.answers, &self.authority].into_iter().zip(&mut counts) {
            *count = builder.push_all(section);
            truncated |= usize::from(*count) < section.len();
        }
        if !truncated {
            counts[2] = builder.push_all(&self.additional);
        }
        builder.finish(self, query, counts, truncated)
    }
}

struct Builder<'q> {
    out: Vec<u8>,
    limit: usize,
    question: &'q [u8],
    /// Where names outside the question were written: suffix in lower case → offset.
    suffixes: BTreeMap<Vec<u8>, usize>,
}

impl<'q> Builder<'q> {
    fn new(query: &Query<'q>, limit: usize) -> Self {
        let mut out = Vec::with_capacity(PRESUMED);
        out.extend_from_slice(&[0; HEADER]);
        out.extend_from_slice(query.question);
        let reserved = if query.edns.is_some() { OPT_LEN } else { 0 };
        Self { out, limit: limit - reserved, question: query.name, suffixes: BTreeMap::new() }
    }

    /// How many of `records` fit, from the first on.
    fn push_all(&mut self, records: &[Rr<'_>]) -> u16 {
        let fits = records.iter().take(usize::from(u16::MAX)).take_while(|rr| self.push(rr));
        fits.count() as u16
    }

    /// Writes one record, or nothing if it does not fit.
    fn push(&mut self, rr: &Rr<'_>) -> bool {
        let start = self.out.len();
        self.put_name(rr.owner.as_wire());
        self.put_u16(rr.rtype.0);
        self.put_u16(rr.class);
        self.out.extend_from_slice(&rr.ttl_secs.to_be_bytes());
        self.put_u16(0);
        let data = self.out.len();
        self.put_data(&rr.data);
        let fits = self.out.len() <= self.limit && self.out.len() - data <= usize::from(u16::MAX);
        match fits {
            true => {
                let len = (self.out.len() - data) as u16;
                self.out[data - 2..data].copy_from_slice(&len.to_be_bytes());
            }
            false => self.undo(start),
        }
        fits
    }

    fn undo(&mut self, start: usize) {
        self.out.truncate(start);
        self.suffixes.retain(|_, at| *at < start);
    }

    fn put_data(&mut self, data: &Rdata) {
        match data {
            Rdata::A(addr) => self.out.extend_from_slice(&addr.octets()),
            Rdata::Aaaa(addr) => self.out.extend_from_slice(&addr.octets()),
            Rdata::Cname(name) | Rdata::Ns(name) | Rdata::Ptr(name) => self.put_name(name.as_wire()),
            Rdata::Srv { priority, weight, port, target } => {
                [*priority, *weight, *port].into_iter().for_each(|number| self.put_u16(number));
                self.put_whole_name(target.as_wire());
            }
            Rdata::Soa(soa) => self.put_soa(soa),
            Rdata::Txt(text) => {
                let text = &text.as_bytes()[..text.len().min(255)];
                self.out.push(text.len() as u8);
                self.out.extend_from_slice(text);
            }
            Rdata::Raw(bytes) => self.out.extend_from_slice(bytes),
        }
    }

    fn put_soa(&mut self, soa: &Soa) {
        self.put_name(soa.mname.as_wire());
        self.put_name(soa.rname.as_wire());
        for number in [soa.serial, soa.refresh_secs, soa.retry_secs, soa.expire_secs, soa.minimum_secs] {
            self.out.extend_from_slice(&number.to_be_bytes());
        }
    }

    fn put_u16(&mut self, number: u16) {
        self.out.extend_from_slice(&number.to_be_bytes());
    }

    /// Writes labels until the rest of the name is known to stand somewhere, then points there.
    fn put_name(&mut self, name: &[u8]) {
        let mut rest = name;
        while rest.len() > 1 {
            if let Some(at) = self.known(rest) {
                return self.put_u16(0xc000 | at as u16);
            }
            rest = self.put_label(rest);
        }
        self.out.push(0);
    }

    fn put_whole_name(&mut self, name: &[u8]) {
        let mut rest = name;
        while rest.len() > 1 {
            rest = self.put_label(rest);
        }
        self.out.push(0);
    }

    /// Writes the first label of `rest`, remembers where it stands, and gives what follows.
    fn put_label<'n>(&mut self, rest: &'n [u8]) -> &'n [u8] {
        let at = self.out.len();
        if at < POINTER_END && self.known(rest).is_none() {
            self.suffixes.insert(rest.to_ascii_lowercase(), at);
        }
        let (label, tail) = rest.split_at(usize::from(rest[0]) + 1);
        self.out.extend_from_slice(label);
        tail
    }

    fn known(&self, rest: &[u8]) -> Option<usize> {
        if let Some(skip) = self.question.len().checked_sub(rest.len())
            && self.question[skip..].eq_ignore_ascii_case(rest)
        {
            return Some(HEADER + skip);
        }
        match self.suffixes.is_empty() {
            true => None,
            false => self.suffixes.get(&rest.to_ascii_lowercase()).copied(),
        }
    }

    fn finish(mut self, reply: &Reply<'_>, query: &Query<'_>, counts: [u16; 3], truncated: bool) -> Vec<u8> {
        if let Some(edns) = query.edns {
            push_opt(&mut self.out, MAX_UDP as u16, reply.rcode, edns.dnssec_ok);
        }
        let [answers, authority, additional] = counts;
        let additional = additional + u16::from(query.edns.is_some());
        let flag = |set: bool, bit: u16| if set { bit } else { 0 };
        let flags = 0x8000
            | flag(reply.authoritative, 0x0400)
            | flag(truncated, 0x0200)
            | flag(query.recursion_desired, 0x0100)
            | flag(reply.recursion_available, 0x0080)
            | flag(reply.authentic_data, 0x0020)
            | flag(query.checking_disabled, 0x0010)
            | reply.rcode.0 & 15;
        for (at, number) in [query.id, flags, 1, answers, authority, additional].into_iter().enumerate() {
            self.out[at * 2..at * 2 + 2].copy_from_slice(&number.to_be_bytes());
        }
        self.out
    }
}

/// Room for most replies at once.
const PRESUMED: usize = 256;
