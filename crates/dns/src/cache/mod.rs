//! Upstream answers, kept for as long as they say, and never longer than the cap.
//!
//! [`AnswerCache`] is a server block's, for many threads. [`Cache`] is what `Server` has as long as it knows no Corefile:
//! positive and negative alike; bounded: a new answer pushes out the one that would expire first. Time is a `Duration`
//! since any fixed moment. Spec: RFC 2308 §5 for absence.

mod answers;
mod key;
mod stored;
mod table;
mod view;
mod worth;

pub use answers::{AnswerCache, Hit, Looked, Written};
pub use view::CacheCounts;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::message::Message;
use crate::name::{Key, Name};
use crate::rdata::Rtype;
use crate::wire::Rcode;

/// What an upstream is asked: the identity of an answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct Asked {
    pub key: Key,
    pub rtype: Rtype,
    pub class: u16,
    pub dnssec_ok: bool,
    pub checking_disabled: bool,
}

impl Asked {
    /// The question `name` and `rtype` in class IN, as a stub asks it.
    pub fn plain(name: &Name, rtype: Rtype) -> Self {
        let class = crate::wire::CLASS_IN;
        Self { key: name.key(), rtype, class, dnssec_ok: false, checking_disabled: false }
    }
}

/// An answer and its age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aged {
    /// The answer.
    pub message: Arc<Message>,
    /// To take off each TTL, in seconds.
    pub age_secs: u32,
}

/// The cache.
#[derive(Clone, Debug)]
pub struct Cache {
    capacity: usize,
    cap_secs: u32,
    entries: BTreeMap<Asked, Entry>,
    by_expiry: BTreeSet<(Duration, Asked)>,
}

#[derive(Clone, Debug)]
struct Entry {
    message: Arc<Message>,
    stored: Duration,
    expires: Duration,
}

impl Cache {
    /// A cache of at most `capacity` answers, each for at most `cap_secs`.
    pub fn new(capacity: usize, cap_secs: u32) -> Self {
        Self { capacity, cap_secs, entries: BTreeMap::new(), by_expiry: BTreeSet::new() }
    }

    /// Longest time anything is kept, and longest TTL sent on, in seconds.
    pub fn cap_secs(&self) -> u32 {
        self.cap_secs
    }

    /// How many answers it holds, expired ones that nobody asked for included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// It holds none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A live answer.
    pub fn get(&mut self, asked: &Asked, now: Duration) -> Option<Aged> {
        let entry = self.entries.get(asked)?;
        if entry.expires <= now {
            self.remove(asked);
            return None;
        }
        let age_secs = now.saturating_sub(entry.stored).as_secs() as u32;
        Some(Aged { message: entry.message.clone(), age_secs })
    }

    /// Keeps an answer, if it may be kept: whole, NOERROR or NXDOMAIN, with a TTL.
    pub fn put(&mut self, asked: Asked, message: Arc<Message>, now: Duration) {
        let ttl_secs = message.ttl_secs(asked.rtype).unwrap_or(0).min(self.cap_secs);
        let is_final = matches!(message.rcode, Rcode::NOERROR | Rcode::NXDOMAIN) && !message.truncated;
        if !is_final || ttl_secs == 0 || self.capacity == 0 {
            return;
        }
        self.remove(&asked);
        if self.entries.len() >= self.capacity
            && let Some((_, oldest)) = self.by_expiry.pop_first()
        {
            self.entries.remove(&oldest);
        }
        let expires = now + Duration::from_secs(u64::from(ttl_secs));
        self.by_expiry.insert((expires, asked.clone()));
        self.entries.insert(asked, Entry { message, stored: now, expires });
    }

    /// Forgets everything: the upstreams changed, and others may know other things.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.by_expiry.clear();
    }

    fn remove(&mut self, asked: &Asked) {
        if let Some(entry) = self.entries.remove(asked) {
            self.by_expiry.remove(&(entry.expires, asked.clone()));
        }
    }
}
