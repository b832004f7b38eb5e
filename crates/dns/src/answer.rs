//! What a query gets from the cluster's own view at once, or the word that an upstream must be asked.
//!
//! ```text
//!  query ──► parse ──► View::write ──► Reply: bytes
//!                           ├─► Forward   the name is not ours
//!                           └─► Chase     an alias of ours leads outside
//! ```
//!
//! No cache, no upstream, no clock here; plugins beside the cluster's zones are `site`'s.

use std::borrow::Cow;

use portolan_model::ObjectRef;

use crate::build::{Reply, Rr};
use crate::kubernetes::{Manner, Wrote};
use crate::name::Name;
use crate::rdata::{Rdata, Rtype};
use crate::records::Records;
use crate::wire::{CLASS_ANY, CLASS_IN, Query, Rcode, Rejected, Transport};

/// What to do with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Send this to the client.
    Reply(Vec<u8>),
    /// Ask an upstream the client's own question.
    Forward,
    /// Ask an upstream for the last target, and send the chain and what comes.
    Chase(Chase),
    /// Send nothing.
    Silence,
}

/// Aliases of ours that end at a name outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chase {
    /// The CNAMEs, from the name asked for on; at least one.
    pub chain: Vec<Alias>,
}

impl Chase {
    /// The name to ask an upstream for.
    pub fn target(&self) -> &Name {
        &self.chain.last().expect("a chase starts with an alias").target
    }
}

/// One CNAME.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Alias {
    pub owner: Name,
    pub target: Name,
    pub ttl_secs: u32,
}

impl Alias {
    /// It as a record.
    pub fn record(&self) -> Rr<'static> {
        Rr::internet(&self.owner, Rtype::CNAME, self.ttl_secs, Cow::Owned(Rdata::Cname(self.target.clone())))
    }
}

/// An outcome with its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// What was done.
    pub outcome: Outcome,
    /// The code of the reply, if there is one yet.
    pub rcode: Option<Rcode>,
    /// The objects that the answer comes from.
    pub causes: Vec<ObjectRef>,
    /// Why, in a few words.
    pub note: &'static str,
}

/// Answers one packet.
pub fn answer(records: &Records, packet: &[u8], transport: Transport) -> Outcome {
    match Query::parse(packet) {
        Ok(query) => outcome(records, &query, transport).0,
        Err(rejected) => rejected.into(),
    }
}

/// What the cluster's own view says to a query, addresses turned by its ID.
pub fn say<'r>(records: &Records, query: &Query<'_>) -> crate::plugin::Said<'r> {
    records.view().say(records, query, Some(query.id))
}

/// As [`answer`], and says which objects the answer comes from.
pub fn explain(records: &Records, packet: &[u8], transport: Transport) -> Explained {
    let query = match Query::parse(packet) {
        Ok(query) => query,
        Err(rejected) => {
            let note = "no query we can read";
            return Explained { outcome: rejected.into(), rcode: None, causes: Vec::new(), note };
        }
    };
    let (outcome, rcode) = outcome(records, &query, transport);
    if let Some((_, note)) = refusal(&query) {
        return Explained { outcome, rcode, causes: Vec::new(), note };
    }
    let why = records.view().why(records, &query);
    Explained { outcome, rcode, causes: why.causes, note: why.note }
}

impl From<Rejected> for Outcome {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::Silence => Self::Silence,
            Rejected::Reply(bytes) => Self::Reply(bytes),
        }
    }
}

/// What nobody answers here, with the code to say so and the reason.
fn refusal(query: &Query<'_>) -> Option<(Rcode, &'static str)> {
    if query.edns.is_some_and(|edns| edns.version != 0) {
        return Some((Rcode::BADVERS, "EDNS version other than 0"));
    }
    if query.class != CLASS_IN && query.class != CLASS_ANY {
        return Some((Rcode::REFUSED, "class other than IN"));
    }
    matches!(query.rtype, Rtype::AXFR | Rtype::IXFR).then_some((Rcode::REFUSED, "zone transfer"))
}

fn outcome(records: &Records, query: &Query<'_>, transport: Transport) -> (Outcome, Option<Rcode>) {
    if let Some((rcode, _)) = refusal(query) {
        return (Outcome::Reply(Reply::new(rcode).render(query, transport)), Some(rcode));
    }
    let manner = Manner { limit: query.reply_limit(transport), turn: Some(query.id) };
    let mut out = Vec::with_capacity(256);
    match records.view().write(records, query, manner, &mut out) {
        Wrote::Reply(rcode) => (Outcome::Reply(out), Some(rcode)),
        Wrote::Alias(chain) => (Outcome::Chase(Chase { chain }), None),
        Wrote::Next => (Outcome::Forward, None),
    }
}
