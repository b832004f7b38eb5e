//! Record data, record sets and the node of a name: what the zones are made of.
//!
//! Must never know packets: `build` writes these, `message` reads them.
//!
//! Spec: RFC 1035 §3.3, RFC 3596 (AAAA), RFC 2782 (SRV).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portolan_model::ObjectRef;

use crate::name::Name;

/// A record type, as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rtype(pub u16);

#[allow(missing_docs)]
impl Rtype {
    pub const A: Self = Self(1);
    pub const NS: Self = Self(2);
    pub const CNAME: Self = Self(5);
    pub const SOA: Self = Self(6);
    pub const PTR: Self = Self(12);
    pub const HINFO: Self = Self(13);
    pub const MX: Self = Self(15);
    pub const TXT: Self = Self(16);
    pub const AAAA: Self = Self(28);
    pub const SRV: Self = Self(33);
    pub const OPT: Self = Self(41);
    pub const HTTPS: Self = Self(65);
    pub const IXFR: Self = Self(251);
    pub const AXFR: Self = Self(252);
    pub const ANY: Self = Self(255);

    const NAMED: [(Self, &'static str); 15] = [
        (Self::A, "A"),
        (Self::NS, "NS"),
        (Self::CNAME, "CNAME"),
        (Self::SOA, "SOA"),
        (Self::PTR, "PTR"),
        (Self::HINFO, "HINFO"),
        (Self::MX, "MX"),
        (Self::TXT, "TXT"),
        (Self::AAAA, "AAAA"),
        (Self::SRV, "SRV"),
        (Self::OPT, "OPT"),
        (Self::HTTPS, "HTTPS"),
        (Self::IXFR, "IXFR"),
        (Self::AXFR, "AXFR"),
        (Self::ANY, "ANY"),
    ];

    /// The type of an address record for `addr`.
    pub fn of_addr(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::A,
            IpAddr::V6(_) => Self::AAAA,
        }
    }

    /// Reads `A`, `srv`, `TYPE65`.
    pub fn parse(text: &str) -> Option<Self> {
        let upper = text.to_ascii_uppercase();
        let named = Self::NAMED.iter().find(|(_, name)| *name == upper).map(|(rtype, _)| *rtype);
        named.or_else(|| upper.strip_prefix("TYPE")?.parse().ok().map(Self))
    }
}

impl fmt::Display for Rtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMED.iter().find(|(rtype, _)| rtype == self) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "TYPE{}", self.0),
        }
    }
}

/// The data of one record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Rdata {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Cname(Name),
    Ns(Name),
    Ptr(Name),
    Srv {
        priority: u16,
        weight: u16,
        port: u16,
        target: Name,
    },
    Soa(Soa),
    /// One character-string.
    Txt(Box<str>),
    /// Any other type, as bytes that hold no compressed name.
    Raw(Box<[u8]>),
}

impl Rdata {
    /// The address record of `addr`.
    pub fn addr(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(v4) => Self::A(v4),
            IpAddr::V6(v6) => Self::Aaaa(v6),
        }
    }

    /// The name whose addresses a client will ask for next: an SRV's target, an NS's host.
    pub fn additional(&self) -> Option<&Name> {
        match self {
            Self::Srv { target, .. } => Some(target),
            Self::Ns(host) => Some(host),
            _ => None,
        }
    }
}

impl fmt::Display for Rdata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::A(addr) => write!(f, "{addr}"),
            Self::Aaaa(addr) => write!(f, "{addr}"),
            Self::Cname(name) | Self::Ns(name) | Self::Ptr(name) => write!(f, "{name}"),
            Self::Srv { priority, weight, port, target } => write!(f, "{priority} {weight} {port} {target}"),
            Self::Soa(soa) => write!(f, "{soa}"),
            Self::Txt(text) => write!(f, "\"{text}\""),
            Self::Raw(bytes) => {
                write!(f, "\\# {}", bytes.len())?;
                bytes.iter().try_for_each(|byte| write!(f, " {byte:02x}"))
            }
        }
    }
}

/// The data of an SOA record; times in seconds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct Soa {
    pub mname: Name,
    pub rname: Name,
    pub serial: u32,
    pub refresh_secs: u32,
    pub retry_secs: u32,
    pub expire_secs: u32,
    /// TTL of an absence (RFC 2308 §4).
    pub minimum_secs: u32,
}

impl fmt::Display for Soa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mname, rname, serial, refresh_secs, retry_secs, expire_secs, minimum_secs } = self;
        write!(f, "{mname} {rname} {serial} {refresh_secs} {retry_secs} {expire_secs} {minimum_secs}")
    }
}

/// All records of one type at one name. Data sorted, no two alike.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct RecordSet {
    pub rtype: Rtype,
    pub ttl_secs: u32,
    pub data: Vec<Rdata>,
}

/// A name that exists, with what it holds; without any set it is there for what is or may be below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The name.
    pub owner: Name,
    /// Its record sets, sorted by type.
    pub sets: Vec<RecordSet>,
    /// Objects it exists for, sorted.
    pub causes: Vec<ObjectRef>,
}

impl Node {
    /// A name that holds nothing.
    pub fn bare(owner: Name, causes: Vec<ObjectRef>) -> Self {
        Self { owner, sets: Vec::new(), causes }
    }

    /// Its records of one type.
    pub fn set(&self, rtype: Rtype) -> Option<&RecordSet> {
        self.sets.iter().find(|set| set.rtype == rtype)
    }

    /// Adds one record; one that is there already changes nothing.
    pub fn add(&mut self, rtype: Rtype, ttl_secs: u32, data: Rdata) {
        let at = self.sets.partition_point(|set| set.rtype < rtype);
        if self.sets.get(at).is_none_or(|set| set.rtype != rtype) {
            self.sets.insert(at, RecordSet { rtype, ttl_secs, data: Vec::new() });
        }
        let set = &mut self.sets[at];
        if let Err(place) = set.data.binary_search(&data) {
            set.data.insert(place, data);
        }
    }

    /// The same in as little memory as it needs: most nodes hold one record of each type, and there are many nodes.
    pub fn shrunk(mut self) -> Self {
        self.sets.iter_mut().for_each(|set| set.data.shrink_to_fit());
        self.sets.shrink_to_fit();
        self.causes.shrink_to_fit();
        self
    }

    /// Adds an object that it exists for.
    pub fn blame(&mut self, cause: ObjectRef) {
        if let Err(place) = self.causes.binary_search(&cause) {
            self.causes.insert(place, cause);
        }
    }
}
