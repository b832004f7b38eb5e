//! Answers of upstreams, for many threads: kept in shards, written straight into a reply.
//!
//! ```text
//!  hot thread ──► write ──► the reply, TTLs counted down      (no allocation; a lock of one shard for the copy)
//!  server     ──► look  ──► a message, for who changes it first
//!             ◄── keep  ◄── what an upstream said, its TTLs bounded
//! ```
//!
//! A name that does not exist is kept once, for all its types. An answer whose time is over may go on being served, as
//! `serve_stale` says (RFC 8767), and one that is asked for much is renewed before its time (`prefetch`).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::key::{Hashes, Wanted};
use super::stored::{Stored, Ttls, seconds};
use super::table::{Bounds, Entry, Place, Row, Table};
use super::view::CacheCounts;
use super::worth::worth;
use crate::corefile::config::CacheConfig;
use crate::forward::Question;
use crate::message::Message;
use crate::wire::{Query, Rcode};

/// Most memory of one cache, in bytes.
const MOST_BYTES: usize = 32 << 20;
/// Entries of one row that make another shard worth while.
const SHARD_ENTRIES: usize = 128;
const MOST_SHARDS: usize = 64;
/// Who was told to ask anew has so long before another is.
const RENEW_AGAIN: Duration = Duration::from_secs(2);

/// The cache of one server block. Every method takes `&self`.
#[derive(Debug)]
pub struct AnswerCache {
    config: CacheConfig,
    seed: u64,
    bounds: Bounds,
    shards: Box<[Mutex<Table>]>,
}

/// An answer that was at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Its code.
    pub rcode: Rcode,
    /// Its time is over.
    pub is_stale: bool,
    /// Ask an upstream the same now, and [`AnswerCache::keep`] what it says; told to one client only for a while.
    pub ask_anew: bool,
}

/// What came of [`AnswerCache::write`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Written {
    /// Nothing is at hand, or it must be verified first: it is the server's business. `out` is untouched.
    Miss,
    /// The reply is in `out`.
    Hit(Hit),
}

/// What came of [`AnswerCache::look`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Looked {
    /// Nothing is at hand.
    Miss,
    /// This is.
    Hit(Message, Hit),
    /// This is, but its time is over: an upstream is asked first, for so long.
    Verify(Message, Duration),
}

/// What a lookup found, before it is given a form.
enum Found<'t> {
    Nothing,
    Live(&'t Entry, Ttls, Hit),
    Verify(&'t Entry, Duration),
}

impl AnswerCache {
    /// An empty cache. `seed` must be unpredictable: clients choose the names.
    pub fn new(config: CacheConfig, seed: u64) -> Self {
        Self::bounded(config, seed, MOST_BYTES)
    }

    /// One that holds at most so many bytes.
    pub fn bounded(config: CacheConfig, seed: u64, most_bytes: usize) -> Self {
        let entries = [config.success.entries, config.denial.entries];
        let smaller = entries.into_iter().filter(|count| *count > 0).min().unwrap_or_default();
        let shards = (smaller / SHARD_ENTRIES).clamp(1, MOST_SHARDS);
        let bounds = Bounds { entries: entries.map(|count| count / shards), bytes: most_bytes / shards };
        let shards = (0..shards).map(|_| Mutex::new(Table::default())).collect();
        Self { config, seed, bounds, shards }
    }

    /// Its configuration. A block whose configuration stays keeps its cache over a reload.
    pub fn config(&self) -> &CacheConfig {
        &self.config
    }

    /// Writes the answer to `query`, of `limit` bytes at most, into `out`. `turn` puts its addresses in another order (0:
    /// as they came). Counts hits only: who misses here looks again.
    pub fn write(&self, query: &Query<'_>, limit: usize, now: Duration, turn: u32, out: &mut Vec<u8>) -> Written {
        let wanted = Wanted {
            name: query.name,
            rtype: query.rtype,
            class: query.class,
            dnssec_ok: query.edns.is_some_and(|edns| edns.dnssec_ok),
            checking_disabled: query.checking_disabled,
        };
        let hashes = wanted.hashes(self.seed);
        match self.find(&mut self.shard(hashes), hashes, &wanted, now) {
            Found::Nothing | Found::Verify(..) => Written::Miss,
            Found::Live(entry, ttls, hit) => {
                entry.stored.write(query, limit, ttls, turn, out);
                Written::Hit(hit)
            }
        }
    }

    /// The answer to `question` as a message.
    pub fn look(&self, question: &Question, now: Duration) -> Looked {
        let wanted = wanted(question);
        let hashes = wanted.hashes(self.seed);
        let mut shard = self.shard(hashes);
        let looked = match self.find(&mut shard, hashes, &wanted, now) {
            Found::Nothing => None,
            Found::Live(entry, ttls, hit) => entry.stored.message(ttls).map(|message| Looked::Hit(message, hit)),
            Found::Verify(entry, wait) => entry.stored.message(Ttls::Over).map(|message| Looked::Verify(message, wait)),
        };
        shard.counts.misses += u64::from(!matches!(looked, Some(Looked::Hit(..))));
        looked.unwrap_or(Looked::Miss)
    }

    /// What may be said although its time is over, now that no upstream says better; `None` without `serve_stale`.
    pub fn stale(&self, question: &Question, now: Duration) -> Option<Message> {
        let wanted = wanted(question);
        let hashes = wanted.hashes(self.seed);
        let mut shard = self.shard(hashes);
        let place = better(&shard, hashes, &wanted, now)?;
        let entry = shard.entry(place);
        let ttls = if now < entry.expires { Ttls::Aged(seconds(entry.since, now)) } else { Ttls::Over };
        let message = entry.stored.message(ttls);
        shard.counts.stale += u64::from(ttls == Ttls::Over);
        message
    }

    /// Keeps what an upstream said, if that may be kept, and gives it back with its TTLs bounded, as clients shall see it.
    pub fn keep(&self, question: &Question, mut message: Message, now: Duration) -> Message {
        let Some(worth) = worth(&self.config, question, &mut message) else { return message };
        let Some(stored) = Stored::new(question, &message) else { return message };
        let wanted = wanted(question);
        let hashes = wanted.hashes(self.seed);
        let mut shard = self.shard(hashes);
        let is_failure = message.rcode == Rcode::SERVFAIL;
        if is_failure && better(&shard, hashes, &wanted, now).is_some() {
            return message;
        }
        let expires = now + worth.life;
        let stale_for = self.config.stale.filter(|_| !is_failure).map_or(Duration::ZERO, |stale| stale.for_);
        if !worth.whole_name && !is_failure {
            shard.remove(hashes.name);
        } else if worth.whole_name {
            shard.remove(hashes.whole);
        }
        let entry = Entry {
            hash: if worth.whole_name { hashes.name } else { hashes.whole },
            stored,
            whole_name: worth.whole_name,
            dnssec_ok: question.dnssec_ok,
            checking_disabled: question.checking_disabled,
            since: now,
            expires,
            gone: expires + stale_for,
            used: false,
            hits: 0,
            last_hit: now,
            renewed: None,
        };
        shard.put(worth.row, entry, &self.bounds, now);
        message
    }

    /// What is kept for `question`, to be looked at: nothing is counted, and nobody is told to ask anew. With it, how long
    /// it has left; `None`: its time is over.
    pub fn peek(&self, question: &Question, now: Duration) -> Option<(Message, Option<Duration>)> {
        let wanted = wanted(question);
        let hashes = wanted.hashes(self.seed);
        let shard = self.shard(hashes);
        let place = [hashes.whole, hashes.name].into_iter().find_map(|hash| shard.find(hash, &wanted, now))?;
        let entry = shard.entry(place);
        let left = entry.expires.checked_sub(now).filter(|left| !left.is_zero());
        let ttls = if left.is_some() { Ttls::Aged(seconds(entry.since, now)) } else { Ttls::Over };
        Some((entry.stored.message(ttls)?, left))
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.shards.iter().for_each(|shard| lock(shard).clear());
    }

    /// Counts, of all shards together.
    pub fn counts(&self) -> CacheCounts {
        let mut sum = CacheCounts::default();
        for shard in &self.shards {
            let shard = lock(shard);
            sum.add(&shard.counts);
            sum.entries[0] += shard.len(Row::Success) as u64;
            sum.entries[1] += shard.len(Row::Denial) as u64;
            sum.bytes += shard.bytes as u64;
        }
        sum
    }

    fn shard(&self, hashes: Hashes) -> MutexGuard<'_, Table> {
        // The table's own places use the low bits.
        lock(&self.shards[(hashes.name >> 40) as usize % self.shards.len()])
    }

    fn find<'t>(&self, shard: &'t mut Table, hashes: Hashes, wanted: &Wanted<'_>, now: Duration) -> Found<'t> {
        let whole = shard.find(hashes.whole, wanted, now);
        let Some(place) = whole.or_else(|| shard.find(hashes.name, wanted, now)) else { return Found::Nothing };
        let entry = shard.entry_mut(place);
        let is_stale = now >= entry.expires;
        entry.used = true;
        if let Some(wait) = self.config.stale.and_then(|stale| stale.verify).filter(|_| is_stale) {
            return Found::Verify(shard.entry(place), wait);
        }
        let ask_anew = entry.wants_renewal(&self.config, now);
        let hit = Hit { rcode: entry.stored.rcode, is_stale, ask_anew };
        let ttls = match (is_stale, self.config.keep_ttl) {
            (true, _) => Ttls::Over,
            (false, true) => Ttls::Aged(0),
            (false, false) => Ttls::Aged(seconds(entry.since, now)),
        };
        shard.counts.hits[place.row as usize] += 1;
        shard.counts.stale += u64::from(is_stale);
        shard.counts.prefetches += u64::from(ask_anew && !is_stale);
        Found::Live(shard.entry(place), ttls, hit)
    }
}

impl Entry {
    /// One client more asks: is it the one to ask an upstream again?
    fn wants_renewal(&mut self, config: &CacheConfig, now: Duration) -> bool {
        let is_asked_much = config.prefetch.is_some_and(|prefetch| {
            let paused = now.saturating_sub(self.last_hit) > prefetch.within;
            self.hits = if paused { 1 } else { self.hits.saturating_add(1) };
            self.last_hit = now;
            let whole = self.expires.saturating_sub(self.since);
            let left = self.expires.saturating_sub(now);
            self.hits >= prefetch.amount && left * 100 <= whole * u32::from(prefetch.percent)
        });
        let is_due = now >= self.expires || is_asked_much && self.stored.rcode != Rcode::SERVFAIL;
        let may = self.renewed.is_none_or(|renewed| now >= renewed + RENEW_AGAIN);
        if is_due && may {
            self.renewed = Some(now);
        }
        is_due && may
    }
}

/// What is better than a failure: a failure must not push it out (RFC 8767 §4).
fn better(shard: &Table, hashes: Hashes, wanted: &Wanted<'_>, now: Duration) -> Option<Place> {
    let places = [hashes.whole, hashes.name].map(|hash| shard.find(hash, wanted, now));
    places.into_iter().flatten().find(|place| shard.entry(*place).stored.rcode != Rcode::SERVFAIL)
}

fn wanted(question: &Question) -> Wanted<'_> {
    Wanted {
        name: question.name.as_wire(),
        rtype: question.rtype,
        class: question.class,
        dnssec_ok: question.dnssec_ok,
        checking_disabled: question.checking_disabled,
    }
}

/// A thread that panicked left the table whole: nothing in it is half done between two statements that can panic.
fn lock(shard: &Mutex<Table>) -> MutexGuard<'_, Table> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
