//! Replies as packets: the question as it came, then records under a size limit, with compressed names.
//!
//! ```text
//!  Reply (records, borrowed or made) ──┐
//!                                      ├─► Packet ──► bytes ≤ limit, or TC
//!  a plugin that tells record by record ┘
//! ```
//!
//! What tells its records one by one writes into any [`Sink`]: into a packet at once, without a record ever being a value
//! of its own, or into a [`Reply`] that others may yet change.
//!
//! A name that ends as the question does points into it, so an answer's owner keeps the case the client wrote.
//!
//! Spec: RFC 1035 §4.1, RFC 2181 §9 (TC), RFC 2782 (an SRV target is never compressed), RFC 6891 (OPT).

use std::borrow::Cow;
use std::net::IpAddr;

use smallvec::SmallVec;

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
        let mut out = Vec::with_capacity(PRESUMED);
        self.render_into(query, query.reply_limit(transport), &mut out);
        out
    }

    /// As [`Self::render`], of `limit` bytes at most, into `out`, which is emptied first.
    pub fn render_into(&self, query: &Query<'_>, limit: usize, out: &mut Vec<u8>) {
        let mut packet = Packet::new(query, limit, out);
        packet.truncated = self.truncated;
        let sections = [(Section::Answer, &self.answers), (Section::Authority, &self.authority)];
        for (section, records) in sections.into_iter().chain([(Section::Additional, &self.additional)]) {
            let _ = records.iter().all(|record| packet.push_record(section, record));
        }
        packet.finish(Flags {
            rcode: self.rcode,
            authoritative: self.authoritative,
            recursion_available: self.recursion_available,
            authentic_data: self.authentic_data,
        });
    }
}

/// Sections of a reply after its question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Section {
    Answer,
    Authority,
    Additional,
}

/// The data of one record of class IN, borrowed; names in uncompressed wire form.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Data<'a> {
    Addr(IpAddr),
    /// CNAME, NS or PTR.
    Name(Rtype, &'a [u8]),
    Srv {
        weight: u16,
        port: u16,
        target: &'a [u8],
    },
    /// With this serial in place of its own.
    Soa(&'a Soa, u32),
    Txt(&'a str),
}

impl Data<'_> {
    /// Its type.
    pub fn rtype(&self) -> Rtype {
        match self {
            Self::Addr(addr) => Rtype::of_addr(*addr),
            Self::Name(rtype, _) => *rtype,
            Self::Srv { .. } => Rtype::SRV,
            Self::Soa(..) => Rtype::SOA,
            Self::Txt(_) => Rtype::TXT,
        }
    }

    /// It as a value of its own; `None` if a name in it is malformed.
    pub fn to_rdata(&self) -> Option<Rdata> {
        Some(match self {
            Self::Addr(addr) => Rdata::addr(*addr),
            Self::Name(Rtype::CNAME, name) => Rdata::Cname(Name::from_wire(name)?),
            Self::Name(Rtype::NS, name) => Rdata::Ns(Name::from_wire(name)?),
            Self::Name(_, name) => Rdata::Ptr(Name::from_wire(name)?),
            Self::Srv { weight, port, target } => {
                Rdata::Srv { priority: 0, weight: *weight, port: *port, target: Name::from_wire(target)? }
            }
            Self::Soa(soa, serial) => Rdata::Soa(Soa { serial: *serial, ..(*soa).clone() }),
            Self::Txt(text) => Rdata::Txt((*text).into()),
        })
    }
}

/// What takes records one by one, section after section.
pub trait Sink {
    /// Takes a record of class IN; `false`: it does not fit, and no other of its section will.
    fn record(&mut self, section: Section, owner: &[u8], ttl_secs: u32, data: Data<'_>) -> bool;
}

impl Sink for Reply<'_> {
    fn record(&mut self, section: Section, owner: &[u8], ttl_secs: u32, data: Data<'_>) -> bool {
        let (Some(owner), Some(value)) = (Name::from_wire(owner), data.to_rdata()) else { return true };
        let records = match section {
            Section::Answer => &mut self.answers,
            Section::Authority => &mut self.authority,
            Section::Additional => &mut self.additional,
        };
        records.push(Rr { owner, rtype: data.rtype(), class: CLASS_IN, ttl_secs, data: Cow::Owned(value) });
        true
    }
}

/// What a packet's header says beside what the query and the records make of it.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Flags {
    pub rcode: Rcode,
    pub authoritative: bool,
    pub recursion_available: bool,
    pub authentic_data: bool,
}

/// A reply on its way into bytes.
#[derive(Debug)]
pub struct Packet<'q, 'o> {
    out: &'o mut Vec<u8>,
    query: &'q Query<'q>,
    limit: usize,
    /// Where names outside the question stand, as they were written.
    names: SmallVec<[Mark; 16]>,
    /// The mark after the one that was found last: who lists targets and then their addresses asks in that order.
    next: usize,
    counts: [u16; 3],
    full: [bool; 3],
    truncated: bool,
}

/// A name, or the end of one, that stands at `at`.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: u16,
    /// Its length uncompressed.
    len: u16,
}

impl Sink for Packet<'_, '_> {
    fn record(&mut self, section: Section, owner: &[u8], ttl_secs: u32, data: Data<'_>) -> bool {
        self.push(section, owner, data.rtype(), CLASS_IN, ttl_secs, |packet| packet.put_data(data))
    }
}

impl<'q, 'o> Packet<'q, 'o> {
    /// Starts the reply to `query` in `out`, which is emptied first; of `limit` bytes at most, an OPT record included.
    pub fn new(query: &'q Query<'q>, limit: usize, out: &'o mut Vec<u8>) -> Self {
        out.clear();
        out.extend_from_slice(&[0; HEADER]);
        out.extend_from_slice(query.question);
        let limit = limit - if query.edns.is_some() { OPT_LEN } else { 0 };
        let names = SmallVec::new();
        Self { out, query, limit, names, next: 0, counts: [0; 3], full: [false; 3], truncated: false }
    }

    /// Writes a record, or nothing if it does not fit; then no other of its section will.
    pub fn push_record(&mut self, section: Section, record: &Rr<'_>) -> bool {
        let Rr { owner, rtype, class, ttl_secs, data } = record;
        self.push(section, owner.as_wire(), *rtype, *class, *ttl_secs, |packet| packet.put_rdata(data))
    }

    /// Writes one record, or nothing if it does not fit.
    fn push(
        &mut self,
        section: Section,
        owner: &[u8],
        rtype: Rtype,
        class: u16,
        ttl_secs: u32,
        put_data: impl FnOnce(&mut Self),
    ) -> bool {
        let place = section as usize;
        if self.full[place] || self.counts[place] == u16::MAX || self.truncated && section == Section::Additional {
            return false;
        }
        let (start, names) = (self.out.len(), self.names.len());
        self.put_name(owner);
        let mut fixed = [0; 10];
        fixed[..2].copy_from_slice(&rtype.0.to_be_bytes());
        fixed[2..4].copy_from_slice(&class.to_be_bytes());
        fixed[4..8].copy_from_slice(&ttl_secs.to_be_bytes());
        self.out.extend_from_slice(&fixed);
        let data = self.out.len();
        put_data(self);
        let len = self.out.len() - data;
        if self.out.len() > self.limit || len > usize::from(u16::MAX) {
            self.out.truncate(start);
            self.names.truncate(names);
            self.full[place] = true;
            self.truncated |= section != Section::Additional;
            return false;
        }
        self.out[data - 2..data].copy_from_slice(&(len as u16).to_be_bytes());
        self.counts[place] += 1;
        true
    }

    fn put_data(&mut self, data: Data<'_>) {
        match data {
            Data::Addr(IpAddr::V4(addr)) => self.out.extend_from_slice(&addr.octets()),
            Data::Addr(IpAddr::V6(addr)) => self.out.extend_from_slice(&addr.octets()),
            Data::Name(_, name) => self.put_name(name),
            Data::Srv { weight, port, target } => self.put_srv(0, weight, port, target),
            Data::Soa(soa, serial) => self.put_soa(soa, serial),
            Data::Txt(text) => self.put_txt(text),
        }
    }

    fn put_rdata(&mut self, data: &Rdata) {
        match data {
            Rdata::A(addr) => self.out.extend_from_slice(&addr.octets()),
            Rdata::Aaaa(addr) => self.out.extend_from_slice(&addr.octets()),
            Rdata::Cname(name) | Rdata::Ns(name) | Rdata::Ptr(name) => self.put_name(name.as_wire()),
            Rdata::Srv { priority, weight, port, target } => self.put_srv(*priority, *weight, *port, target.as_wire()),
            Rdata::Soa(soa) => self.put_soa(soa, soa.serial),
            Rdata::Txt(text) => self.put_txt(text),
            Rdata::Raw(bytes) => self.out.extend_from_slice(bytes),
        }
    }

    fn put_srv(&mut self, priority: u16, weight: u16, port: u16, target: &[u8]) {
        [priority, weight, port].into_iter().for_each(|number| self.put_u16(number));
        self.put_whole_name(target);
    }

    fn put_soa(&mut self, soa: &Soa, serial: u32) {
        self.put_name(soa.mname.as_wire());
        self.put_name(soa.rname.as_wire());
        for number in [serial, soa.refresh_secs, soa.retry_secs, soa.expire_secs, soa.minimum_secs] {
            self.out.extend_from_slice(&number.to_be_bytes());
        }
    }

    /// One character-string (RFC 1035 §3.3): what is over 255 bytes is cut off.
    fn put_txt(&mut self, text: &str) {
        let text = &text.as_bytes()[..text.len().min(255)];
        self.out.push(text.len() as u8);
        self.out.extend_from_slice(text);
    }

    fn put_u16(&mut self, number: u16) {
        self.out.extend_from_slice(&number.to_be_bytes());
    }

    /// Writes labels until the rest of the name is known to stand somewhere, then points there.
    fn put_name(&mut self, name: &[u8]) {
        let mut rest = name;
        while rest.len() > 1 {
            if let Some(at) = self.known(rest) {
                return self.put_u16(0xc000 | at);
            }
            self.mark(rest.len());
            rest = self.put_label(rest);
        }
        self.out.push(0);
    }

    /// Writes all labels; others may point to them.
    fn put_whole_name(&mut self, name: &[u8]) {
        let mut rest = name;
        let mut is_known = false;
        while rest.len() > 1 {
            // What follows a name that is known is known too.
            is_known = is_known || self.known(rest).is_some();
            if !is_known {
                self.mark(rest.len());
            }
            rest = self.put_label(rest);
        }
        self.out.push(0);
    }

    fn put_label<'n>(&mut self, rest: &'n [u8]) -> &'n [u8] {
        let (label, tail) = rest.split_at(usize::from(rest[0]) + 1);
        self.out.extend_from_slice(label);
        tail
    }

    /// Remembers that a name of `len` bytes stands at the end of what is written.
    fn mark(&mut self, len: usize) {
        if self.out.len() < POINTER_END {
            self.names.push(Mark { at: self.out.len() as u16, len: len as u16 });
        }
    }

    fn known(&mut self, rest: &[u8]) -> Option<u16> {
        let question = self.query.name;
        if let Some(skip) = question.len().checked_sub(rest.len())
            && question[skip] == rest[0]
            && (question[skip..] == *rest || question[skip..].eq_ignore_ascii_case(rest))
        {
            return Some((HEADER + skip) as u16);
        }
        let len = rest.len() as u16;
        let (before, after) = self.names.split_at(self.next.min(self.names.len()));
        let order = after.iter().chain(before).zip((before.len()..self.names.len()).chain(0..));
        let mut alike = order.filter(|(mark, _)| mark.len == len);
        let (mark, place) = alike.find(|(mark, _)| stands(self.out, usize::from(mark.at), rest))?;
        self.next = place + 1;
        Some(mark.at)
    }

    /// As [`Self::finish`], of one message of several: what did not fit comes with the next.
    pub fn finish_whole(mut self, flags: Flags) {
        self.truncated = false;
        self.finish(flags);
    }

    /// Ends the packet: OPT, header.
    pub fn finish(self, flags: Flags) {
        let Self { out, query, counts: [answers, authority, additional], truncated, .. } = self;
        if let Some(edns) = query.edns {
            push_opt(out, MAX_UDP as u16, flags.rcode, edns.dnssec_ok);
        }
        let additional = additional + u16::from(query.edns.is_some());
        let flag = |set: bool, bit: u16| if set { bit } else { 0 };
        let bits = 0x8000
            | flag(flags.authoritative, 0x0400)
            | flag(truncated, 0x0200)
            | flag(query.recursion_desired, 0x0100)
            | flag(flags.recursion_available, 0x0080)
            | flag(flags.authentic_data, 0x0020)
            | flag(query.checking_disabled, 0x0010)
            | flags.rcode.0 & 15;
        for (at, number) in [query.id, bits, 1, answers, authority, additional].into_iter().enumerate() {
            out[at * 2..at * 2 + 2].copy_from_slice(&number.to_be_bytes());
        }
    }
}

/// The name at `at`, which we wrote ourselves, is `name` in any case.
fn stands(out: &[u8], mut at: usize, name: &[u8]) -> bool {
    let mut rest = name;
    loop {
        let len = usize::from(out[at]);
        if len >= 0xc0 {
            at = (len & 0x3f) << 8 | usize::from(out[at + 1]);
            continue;
        }
        if len != usize::from(rest[0]) {
            return false;
        }
        if len == 0 {
            return true;
        }
        if !out[at + 1..=at + len].eq_ignore_ascii_case(&rest[1..=len]) {
            return false;
        }
        at += len + 1;
        rest = &rest[len + 1..];
    }
}

/// Room for most replies at once.
const PRESUMED: usize = 256;
