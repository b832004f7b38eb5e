//! `any`: ANY gets one HINFO instead of all there is (RFC 8482 §4.2), so that nobody is flooded with large answers.

use std::borrow::Cow;

use super::Said;
use crate::build::{Reply, Rr};
use crate::name::Name;
use crate::rdata::{Rdata, Rtype};
use crate::wire::{Query, Rcode};

/// CoreDNS's.
const TTL_SECS: u32 = 8482;

/// The HINFO for ANY; anything else goes on.
pub fn say(query: &Query<'_>) -> Said<'static> {
    if query.rtype != Rtype::ANY {
        return Said::Next;
    }
    let Some(owner) = Name::from_wire(query.name) else { return Said::Next };
    let mut data = Vec::new();
    for text in ["ANY obsoleted", "See RFC 8482"] {
        data.push(text.len() as u8);
        data.extend_from_slice(text.as_bytes());
    }
    let mut reply = Reply::new(Rcode::NOERROR);
    reply.answers.push(Rr::internet(&owner, Rtype::HINFO, TTL_SECS, Cow::Owned(Rdata::Raw(data.into()))));
    Said::Reply(reply)
}
