//! Zone transfer out: the contents of a zone as messages, one after the other.
//!
//! ```text
//!  AXFR  SOA, every record of the zone, SOA      in messages of 16 KB at most
//!  IXFR  the same; SOA alone to a client that has this serial already
//! ```
//!
//! Who may ask, and that it is by TCP, is not decided here. Pod records are answered, never listed, so they are in no
//! transfer. Spec: RFC 5936 (AXFR), RFC 1995 (IXFR).

use std::borrow::Cow;

use crate::build::{Flags, Packet, Rr, Section};
use crate::external::External;
use crate::kubernetes::View;
use crate::kubernetes::listing::Listing;
use crate::message::Message;
use crate::name::Name;
use crate::rdata::{Node, Rdata, Rtype};
use crate::records::Records;
use crate::wire::{Query, Rcode};

/// Most bytes of one message: up to here names can be pointed at (RFC 1035 §4.1.4).
const MESSAGE_BYTES: usize = 16_384;

/// A zone to send, made once.
#[derive(Clone, Debug)]
pub struct Zone {
    /// The SOA record, first and last.
    soa: Rr<'static>,
    rest: Vec<Rr<'static>>,
}

/// The serial that an IXFR query says its client has: that of the SOA in its authority section.
pub fn known_serial(packet: &[u8]) -> Option<u32> {
    let mut reply = packet.to_vec();
    *reply.get_mut(2)? |= 0x80;
    let message = Message::parse(&reply)?;
    message.authority.iter().find_map(|record| match &record.data {
        Rdata::Soa(soa) => Some(soa.serial),
        _ => None,
    })
}

impl Zone {
    /// The zone whose apex `name` is, as `view` shows it; `None`: it has no such zone.
    pub fn of_view(view: &View, records: &Records, name: &[u8]) -> Option<Self> {
        let zone = view.zones().find(|zone| zone.as_wire().eq_ignore_ascii_case(name))?;
        let (ttl_secs, soa) = view.config().soa(zone, records.serial());
        let listing = Listing::of(view, records);
        Some(Self::new(zone, ttl_secs, soa, &listing, view.zones()))
    }

    /// As [`Self::of_view`], of a zone of external addresses.
    pub fn of_external(external: &External, records: &Records, name: &[u8]) -> Option<Self> {
        let zone = external.zones().find(|zone| zone.as_wire().eq_ignore_ascii_case(name))?;
        let (ttl_secs, soa) = external.soa(zone, records.serial())?;
        let listing = external.listing(records);
        Some(Self::new(zone, ttl_secs, soa, &listing, external.zones()))
    }

    /// Names in a longer zone among `zones` are that zone's.
    fn new<'a>(
        zone: &Name,
        ttl_secs: u32,
        soa: Rdata,
        listing: &Listing,
        zones: impl Iterator<Item = &'a Name>,
    ) -> Self {
        let own = zone.key();
        let longer: Vec<_> =
            zones.map(Name::key).filter(|key| *key != own && key.as_bytes().starts_with(own.as_bytes())).collect();
        let is_own = |node: &&Node| {
            let key = node.owner.key();
            key.as_bytes().starts_with(own.as_bytes())
                && !longer.iter().any(|longer| key.as_bytes().starts_with(longer.as_bytes()))
        };
        let rest = listing.nodes().filter(is_own).flat_map(records_of).collect();
        Self { soa: Rr::internet(zone, Rtype::SOA, ttl_secs, Cow::Owned(soa)), rest }
    }

    /// The messages that answer `query`; `known` is the serial that an IXFR client has.
    pub fn messages<'a>(&'a self, query: &'a Query<'a>, known: Option<u32>) -> impl Iterator<Item = Vec<u8>> + 'a {
        let is_known = query.rtype == Rtype::IXFR && known.is_some_and(|known| is_up_to_date(known, self.serial()));
        let all = [&self.soa].into_iter().chain(&self.rest).chain([&self.soa]);
        let mut left = all.take(if is_known { 1 } else { usize::MAX }).peekable();
        std::iter::from_fn(move || {
            left.peek()?;
            let mut out = Vec::with_capacity(MESSAGE_BYTES);
            let mut packet = Packet::new(query, MESSAGE_BYTES, &mut out);
            let mut is_first = true;
            // A record that fills a whole message alone is no cluster's; it would never fit, so it is left out.
            while left.next_if(|record| packet.push_record(Section::Answer, record) || is_first).is_some() {
                is_first = false;
            }
            let flags =
                Flags { rcode: Rcode::NOERROR, authoritative: true, recursion_available: false, authentic_data: false };
            packet.finish_whole(flags);
            Some(out)
        })
    }

    fn serial(&self) -> u32 {
        match &*self.soa.data {
            Rdata::Soa(soa) => soa.serial,
            _ => 0,
        }
    }
}

/// In serial arithmetic (RFC 1982) `known` is `serial`, or later.
fn is_up_to_date(known: u32, serial: u32) -> bool {
    known.wrapping_sub(serial) < 1 << 31
}

fn records_of(node: &Node) -> impl Iterator<Item = Rr<'static>> {
    let of_set = |set: &crate::rdata::RecordSet| {
        let (rtype, ttl_secs) = (set.rtype, set.ttl_secs);
        set.data.iter().map(move |data| (rtype, ttl_secs, data.clone())).collect::<Vec<_>>()
    };
    let owner = node.owner.clone();
    let all = node.sets.iter().flat_map(of_set).collect::<Vec<_>>();
    all.into_iter().map(move |(rtype, ttl_secs, data)| Rr::internet(&owner, rtype, ttl_secs, Cow::Owned(data)))
}
