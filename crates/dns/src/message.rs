//! Upstream replies, read into records of our own: every pointer resolved, so that they can be kept and sent again under
//! another question's case, with other TTLs, to other sizes.
//!
//! Also what a client of ours reads answers with: [`wire::ask`](crate::wire::ask) to make the query, [`Message::parse`] for
//! the reply.
//!
//! Trusts nothing: a pointer must lead backwards, a record must end inside the packet.
//!
//! Spec: RFC 1035 §4.1, RFC 3597 §4 (which types may hold compressed names), RFC 2308 (negative TTL).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::name::{MAX_NAME, Name};
use crate::rdata::{Rdata, Rtype, Soa};
use crate::wire::{CLASS_IN, HEADER, Rcode, counts};

/// One record of an upstream's reply.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Record {
    pub owner: Name,
    pub rtype: Rtype,
    pub class: u16,
    pub ttl_secs: u32,
    pub data: Rdata,
}

/// As a zone file writes it.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.owner, self.ttl_secs)?;
        match self.class {
            CLASS_IN => write!(f, "IN {} {}", self.rtype, self.data),
            class => write!(f, "CLASS{class} {} {}", self.rtype, self.data),
        }
    }
}

/// An upstream's reply without its OPT.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Message {
    pub id: u16,
    pub rcode: Rcode,
    pub authentic_data: bool,
    pub truncated: bool,
    /// Name, type and class it answers; `None` if it has no question (some FORMERR have none).
    pub question: Option<(Name, Rtype, u16)>,
    pub answers: Vec<Record>,
    pub authority: Vec<Record>,
    pub additional: Vec<Record>,
}

impl Message {
    /// Reads a reply; `None` if it is a query or malformed. Of one with TC, what is cut off at the end is left out.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let header = bytes.first_chunk::<HEADER>()?;
        if header[2] & 0x80 == 0 {
            return None;
        }
        let [questions, answers, authority, additional] = counts(header);
        let mut reader = Reader { bytes, at: HEADER };
        let mut message = Self {
            id: u16::from_be_bytes([header[0], header[1]]),
            rcode: Rcode(u16::from(header[3] & 15)),
            authentic_data: header[3] & 0x20 != 0,
            truncated: header[2] & 0x02 != 0,
            question: None,
            answers: Vec::new(),
            authority: Vec::new(),
            additional: Vec::new(),
        };
        message.question = match questions {
            0 => None,
            1 => Some((reader.name()?, Rtype(reader.u16()?), reader.u16()?)),
            _ => return None,
        };
        let whole = message.read_sections(&mut reader, [answers, authority, additional]);
        (whole.is_some() || message.truncated).then_some(message)
    }

    /// How long it may be kept: the least TTL in it; for an absence, what its SOA says, and `None` without one.
    pub fn ttl_secs(&self, rtype: Rtype) -> Option<u32> {
        let is_negative = self.rcode == Rcode::NXDOMAIN || !self.answers.iter().any(|record| record.rtype == rtype);
        let least = self.answers.iter().chain(&self.authority).map(|record| record.ttl_secs).min();
        if !is_negative {
            return least;
        }
        let minimum = self.authority.iter().find_map(|record| match &record.data {
            Rdata::Soa(soa) => Some(soa.minimum_secs),
            _ => None,
        })?;
        least.map(|least| least.min(minimum))
    }

    fn read_sections(&mut self, reader: &mut Reader<'_>, counts: [u16; 3]) -> Option<()> {
        let sections = [&mut self.answers, &mut self.authority, &mut self.additional];
        for (section, count) in sections.into_iter().zip(counts) {
            for _ in 0..count {
                let record = reader.record()?;
                match record.rtype {
                    Rtype::OPT => self.rcode.0 |= (record.ttl_secs >> 20) as u16 & 0xff0,
                    _ => section.push(record),
                }
            }
        }
        Some(())
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn record(&mut self) -> Option<Record> {
        let owner = self.name()?;
        let (rtype, class, ttl_secs) = (Rtype(self.u16()?), self.u16()?, self.u32()?);
        let end = usize::from(self.u16()?) + self.at;
        if end > self.bytes.len() {
            return None;
        }
        let data = self.data(rtype, end)?;
        (self.at == end).then_some(Record { owner, rtype, class, ttl_secs, data })
    }

    fn data(&mut self, rtype: Rtype, end: usize) -> Option<Rdata> {
        Some(match rtype {
            Rtype::A => Rdata::A(Ipv4Addr::from(self.array::<4>()?)),
            Rtype::AAAA => Rdata::Aaaa(Ipv6Addr::from(self.array::<16>()?)),
            Rtype::CNAME => Rdata::Cname(self.name()?),
            Rtype::NS => Rdata::Ns(self.name()?),
            Rtype::PTR => Rdata::Ptr(self.name()?),
            Rtype::SOA => Rdata::Soa(self.soa()?),
            Rtype::SRV => {
                let [priority, weight, port] = [self.u16()?, self.u16()?, self.u16()?];
                Rdata::Srv { priority, weight, port, target: self.name()? }
            }
            other => Rdata::Raw(self.raw(other, end)?),
        })
    }

    fn soa(&mut self) -> Option<Soa> {
        Some(Soa {
            mname: self.name()?,
            rname: self.name()?,
            serial: self.u32()?,
            refresh_secs: self.u32()?,
            retry_secs: self.u32()?,
            expire_secs: self.u32()?,
            minimum_secs: self.u32()?,
        })
    }

    /// Copies the data; names in the types that may compress them are written out.
    fn raw(&mut self, rtype: Rtype, end: usize) -> Option<Box<[u8]>> {
        let (before, names) = compressible(rtype);
        let mut out = self.bytes.get(self.at..self.at + before).filter(|_| self.at + before <= end)?.to_vec();
        self.at += before;
        for _ in 0..names {
            out.extend_from_slice(self.name()?.as_wire());
        }
        out.extend_from_slice(self.bytes.get(self.at..end)?);
        self.at = end;
        Some(out.into())
    }

    /// Reads a name, following pointers, each of which must lead before the place it was met at.
    fn name(&mut self) -> Option<Name> {
        let mut wire = Vec::with_capacity(64);
        let mut at = self.at;
        let mut floor = self.at;
        let mut end = None;
        loop {
            let len = *self.bytes.get(at)?;
            match len {
                0 => break,
                1..=63 => {
                    wire.extend_from_slice(self.bytes.get(at..=at + usize::from(len))?);
                    at += usize::from(len) + 1;
                }
                0xc0.. => {
                    let target = usize::from(len & 0x3f) << 8 | usize::from(*self.bytes.get(at + 1)?);
                    end.get_or_insert(at + 2);
                    if target >= floor {
                        return None;
                    }
                    (at, floor) = (target, target);
                }
                _ => return None,
            }
            if wire.len() >= MAX_NAME {
                return None;
            }
        }
        wire.push(0);
        self.at = end.unwrap_or(at + 1);
        Name::from_wire(&wire)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let found = *self.bytes.get(self.at..)?.first_chunk::<N>()?;
        self.at += N;
        Some(found)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }
}

/// Bytes before the names, and how many names, in the data of types that senders may compress (RFC 3597 §4).
fn compressible(rtype: Rtype) -> (usize, usize) {
    match rtype.0 {
        3 | 4 | 7 | 8 | 9 | 39 => (0, 1), // MD, MF, MB, MG, MR, DNAME
        14 | 17 => (0, 2),                // MINFO, RP
        15 | 18 | 21 | 36 => (2, 1),      // MX, AFSDB, RT, KX
        26 => (2, 2),                     // PX
        _ => (0, 0),
    }
}
