//! Whether an upstream's answer is kept, in which row, for how long, and which TTLs its clients see.
//!
//! Spec: RFC 2308 §5 (absence), §7 (failure), RFC 2181 §8 (TTLs).

use std::time::Duration;

use super::table::Row;
use crate::corefile::config::CacheConfig;
use crate::forward::{Question, is_below};
use crate::message::Message;
use crate::name::Name;
use crate::rdata::{Rdata, Rtype};
use crate::wire::Rcode;

/// How an answer is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Worth {
    pub(super) row: Row,
    pub(super) life: Duration,
    /// The name does not exist, whatever the type.
    pub(super) whole_name: bool,
}

/// A TTL with its highest bit set is 0 (RFC 2181 §8).
const MOST_TTL: u32 = 0x7fff_ffff;

/// Bounds the TTLs of `message` as `config` wants them, and says how it is to be kept; `None`: not at all.
pub(super) fn worth(config: &CacheConfig, question: &Question, message: &mut Message) -> Option<Worth> {
    let is_denial = is_denial(question, message);
    let limits = if is_denial { &config.denial } else { &config.success };
    let bounded = |ttl: u32| {
        let ttl = if ttl > MOST_TTL { 0 } else { ttl };
        ttl.max(limits.min_ttl_secs).min(limits.max_ttl_secs)
    };
    let sections = [&mut message.answers, &mut message.authority, &mut message.additional];
    sections.into_iter().flatten().for_each(|record| record.ttl_secs = bounded(record.ttl_secs));
    let soa = soa_secs(message).map(bounded);
    if let Some(soa) = soa.filter(|_| is_denial) {
        // What a client may keep the absence for, it reads from the SOA's own TTL.
        let soas = message.authority.iter_mut().filter(|record| record.rtype == Rtype::SOA);
        soas.for_each(|record| record.ttl_secs = record.ttl_secs.min(soa));
    }
    if message.truncated || !applies(config, question, is_denial) {
        return None;
    }
    let whole_name = message.rcode == Rcode::NXDOMAIN && message.answers.is_empty();
    let life = match message.rcode {
        Rcode::SERVFAIL => config.servfail,
        Rcode::NOERROR | Rcode::NXDOMAIN if is_denial => seconds(soa?.min(least(message)?)),
        Rcode::NOERROR => seconds(least(message)?),
        _ => return None,
    };
    let row = if is_denial { Row::Denial } else { Row::Success };
    (life > Duration::ZERO).then_some(Worth { row, life, whole_name })
}

/// No answer of the type asked for, an alias at most.
fn is_denial(question: &Question, message: &Message) -> bool {
    let is_asked = |rtype: Rtype| rtype == question.rtype || question.rtype == Rtype::ANY;
    message.rcode != Rcode::NOERROR || !message.answers.iter().any(|record| is_asked(record.rtype))
}

/// How long the absence may be kept: the SOA's TTL, and its minimum.
fn soa_secs(message: &Message) -> Option<u32> {
    message.authority.iter().find_map(|record| match &record.data {
        Rdata::Soa(soa) => Some(record.ttl_secs.min(soa.minimum_secs)),
        _ => None,
    })
}

/// The least TTL of what the answer consists of.
fn least(message: &Message) -> Option<u32> {
    message.answers.iter().chain(&message.authority).map(|record| record.ttl_secs).min()
}

fn applies(config: &CacheConfig, question: &Question, is_denial: bool) -> bool {
    let among = |zones: &[Name]| zones.iter().any(|zone| is_below(question.name.as_wire(), zone.as_wire()));
    let disabled = if is_denial { &config.no_denial } else { &config.no_success };
    (config.zones.is_empty() || among(&config.zones)) && !among(disabled)
}

fn seconds(secs: u32) -> Duration {
    Duration::from_secs(u64::from(secs))
}
