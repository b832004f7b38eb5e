//! Asking upstreams, as state machines without sockets, clock or randomness.
//!
//! ```text
//!  ask ──► Flight ──► Send to a server that is fit, in the policy's order
//!             ├─ answer ───────────────► Done (all who asked the same meanwhile)
//!             ├─ slower than 95 of 100 ► the next server too, while the first may still answer (a bounded share)
//!             ├─ TC ───► TCP to the same
//!             ├─ FORMERR, NOTIMP to EDNS ──► again without
//!             └─ silence, failure, SERVFAIL, REFUSED ──► the next ──► Done (the best seen, or none) within 4.5 s
//!  a server that failed or kept silent ──► `. NS` until it answers ──► fit again
//!  a group with `loop` ──► a name that nobody else can know, now and then; who brings it back to us is not asked
//! ```
//!
//! [`Upstreams`] holds all groups of a Corefile; what it wants done comes back as [`step::Step`]s, carried out in order.
//! A reply counts only if it came for an exchange that is open, with its ID and its question (RFC 5452 §9); anything else
//! is ignored and the exchange goes on. Times are a `Duration` since any fixed moment. IDs are drawn from `ids`, which the
//! driver makes unpredictable, as it does the source ports.
//!
//! Must never know sockets, TLS or HTTP: a [`step::Way`] is a word here.

pub mod belonging;
mod flight;
mod group;
mod latency;
mod loops;
mod probes;
pub mod step;
pub mod upstreams;
pub mod view;

use crate::cache::Asked;
use crate::name::Name;
use crate::rdata::Rtype;

pub use upstreams::Upstreams;

/// Source of message IDs; must be unpredictable.
pub type Ids<'a> = &'a mut dyn FnMut() -> u16;

/// One attempt at one upstream, over a socket or in a stream of its own. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exchange(pub u64);

/// A question for upstreams.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Question {
    pub name: Name,
    pub rtype: Rtype,
    pub class: u16,
    pub dnssec_ok: bool,
    pub checking_disabled: bool,
}

impl Question {
    /// Its identity: the same whatever the case of the name.
    pub fn asked(&self) -> Asked {
        Asked {
            key: self.name.key(),
            rtype: self.rtype,
            class: self.class,
            dnssec_ok: self.dnssec_ok,
            checking_disabled: self.checking_disabled,
        }
    }

    /// The question section that asks it, with this case of its name.
    fn bytes_as(&self, name: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(name.len() + 4);
        out.extend_from_slice(name);
        out.extend_from_slice(&self.rtype.0.to_be_bytes());
        out.extend_from_slice(&self.class.to_be_bytes());
        out
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes_as(self.name.as_wire())
    }
}

/// `name`, an uncompressed wire name, is `zone` or below it, whatever the case.
pub fn is_below(name: &[u8], zone: &[u8]) -> bool {
    let mut rest = name;
    while rest.len() > zone.len() {
        rest = rest.get(usize::from(rest[0]) + 1..).unwrap_or_default();
    }
    rest.eq_ignore_ascii_case(zone)
}
