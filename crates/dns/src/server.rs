//! The whole DNS server without its sockets: zones, cache and forwarder behind one door.
//!
//! ```text
//!  client ──► handle_query ──► zones? ──► Reply
//!                               │ no
//!                               ├─► cache? ──► Reply
//!                               └─► forwarder ──► SendUdp, SendTcp … upstream
//!  upstream ──► handle_upstream, handle_failure ──► Reply to all who asked
//!  clock ──► tick at next_deadline ──► the next upstream, or SERVFAIL
//! ```
//!
//! Every call gives the [`Effect`]s that the driver must carry out, in order.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use crate::answer::{Alias, Outcome, answer};
use crate::build::{Reply, Rr};
use crate::cache::{Aged, Asked, Cache};
use crate::forward::{Exchange, ForwardConfig, Forwarder, Ids, Question, Step};
use crate::message::Record;
use crate::name::Name;
use crate::records::Records;
use crate::wire::{CLASS_IN, Query, Rcode, Transport};

/// Answers kept at most.
const CACHE_CAPACITY: usize = 10_000;
/// Longest time an upstream's answer is kept, in seconds.
const CACHE_CAP_SECS: u32 = 30;

/// The driver's name for a client's query: it comes back with the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

/// What the driver must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send `bytes` to the client of `token`, over the transport that its query came by.
    Reply {
        /// Whose.
        token: Token,
        /// The packet, without a TCP length.
        bytes: Vec<u8>,
    },
    /// Open a UDP socket on a fresh, random port, connect it to `upstream`, send `bytes`; hand each datagram that comes
    /// to [`Server::handle_upstream`], an error to [`Server::handle_failure`].
    SendUdp {
        /// The attempt.
        exchange: Exchange,
        /// Where to.
        upstream: SocketAddr,
        /// The query.
        bytes: Vec<u8>,
    },
    /// As `SendUdp`, over a TCP connection: length before the query, one reply, handed in without its length.
    SendTcp {
        /// The attempt.
        exchange: Exchange,
        /// Where to.
        upstream: SocketAddr,
        /// The query.
        bytes: Vec<u8>,
    },
    /// Close the socket of `exchange`.
    Close(Exchange),
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets that came from clients.
    pub queries: u64,
    /// Answered from the zones (errors included).
    pub from_zones: u64,
    /// Answered from the cache.
    pub from_cache: u64,
    /// Given to the forwarder.
    pub forwarded: u64,
    /// Refused for too many at once, or for want of upstreams.
    pub refused: u64,
    /// That no upstream answered.
    pub unanswered: u64,
}

/// A client's query that waits for an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Waiter {
    token: Token,
    transport: Transport,
    packet: Vec<u8>,
    chain: Vec<Alias>,
}

/// The server.
#[derive(Debug)]
pub struct Server {
    records: Records,
    cache: Cache,
    forwarder: Forwarder<Waiter>,
    counts: Counts,
}

impl Server {
    /// A server of `records` that forwards the rest to `upstreams`.
    pub fn new(records: Records, config: ForwardConfig, upstreams: Vec<SocketAddr>) -> Self {
        let cache = Cache::new(CACHE_CAPACITY, CACHE_CAP_SECS);
        Self { records, cache, forwarder: Forwarder::new(config, upstreams), counts: Counts::default() }
    }

    /// The zones; a clone of them answers elsewhere, without this server.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// The zones, to update.
    pub fn records_mut(&mut self) -> &mut Records {
        &mut self.records
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The forwarder, to look at.
    pub fn upstreams(&self) -> &[crate::forward::Upstream] {
        self.forwarder.upstreams()
    }

    /// A client's packet. `token` is any number that the driver will know the client by.
    pub fn handle_query(
        &mut self,
        token: Token,
        packet: &[u8],
        transport: Transport,
        now: Duration,
        ids: Ids<'_>,
    ) -> Vec<Effect> {
        self.counts.queries += 1;
        let chain = match answer(&self.records, packet, transport) {
            Outcome::Reply(bytes) => {
                self.counts.from_zones += 1;
                return vec![Effect::Reply { token, bytes }];
            }
            Outcome::Silence => return Vec::new(),
            Outcome::Forward => Vec::new(),
            Outcome::Chase(chase) => chase.chain,
        };
        let waiter = Waiter { token, transport, packet: packet.to_vec(), chain };
        let Some(question) = waiter.question() else { return Vec::new() };
        if let Some(aged) = self.cache.get(&question.asked(), now) {
            self.counts.from_cache += 1;
            return vec![waiter.reply(&Upstreams::Said(&aged), self.cache.cap_secs())];
        }
        self.counts.forwarded += 1;
        let steps = self.forwarder.ask(question, waiter, now, ids);
        self.carry_out(steps, now)
    }

    /// A datagram, or a TCP reply without its length, came on the socket of `exchange`.
    pub fn handle_upstream(&mut self, exchange: Exchange, bytes: &[u8], now: Duration, ids: Ids<'_>) -> Vec<Effect> {
        let steps = self.forwarder.receive(exchange, bytes, now, ids);
        self.carry_out(steps, now)
    }

    /// The socket of `exchange` failed.
    pub fn handle_failure(&mut self, exchange: Exchange, now: Duration, ids: Ids<'_>) -> Vec<Effect> {
        let steps = self.forwarder.fail(exchange, now, ids);
        self.carry_out(steps, now)
    }

    /// The node's resolv.conf changed. The cache is emptied: others may know other things.
    pub fn set_upstreams(&mut self, upstreams: Vec<SocketAddr>, now: Duration, ids: Ids<'_>) -> Vec<Effect> {
        self.cache.clear();
        let steps = self.forwarder.set_upstreams(upstreams, now, ids);
        self.carry_out(steps, now)
    }

    /// When to call [`Server::tick`] at the latest; `None`: nothing is under way.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.forwarder.next_deadline()
    }

    /// Time went on.
    pub fn tick(&mut self, now: Duration, ids: Ids<'_>) -> Vec<Effect> {
        let steps = self.forwarder.tick(now, ids);
        self.carry_out(steps, now)
    }

    fn carry_out(&mut self, steps: Vec<Step<Waiter>>, now: Duration) -> Vec<Effect> {
        let mut effects = Vec::with_capacity(steps.len());
        for step in steps {
            match step {
                Step::SendUdp { exchange, upstream, bytes } => {
                    effects.push(Effect::SendUdp { exchange, upstream, bytes })
                }
                Step::SendTcp { exchange, upstream, bytes } => {
                    effects.push(Effect::SendTcp { exchange, upstream, bytes })
                }
                Step::Close(exchange) => effects.push(Effect::Close(exchange)),
                Step::Done { asked, waiters, answer } => {
                    let aged = answer.map(|message| Aged { message, age_secs: 0 });
                    self.finish(asked, &waiters, aged, now, &mut effects);
                }
                Step::Refused(waiter) => effects.push(self.refuse(&waiter)),
            }
        }
        effects
    }

    fn finish(
        &mut self,
        asked: Asked,
        waiters: &[Waiter],
        aged: Option<Aged>,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let said = match &aged {
            Some(aged) => {
                self.cache.put(asked, aged.message.clone(), now);
                Upstreams::Said(aged)
            }
            None => {
                self.counts.unanswered += waiters.len() as u64;
                Upstreams::Silent
            }
        };
        effects.extend(waiters.iter().map(|waiter| waiter.reply(&said, self.cache.cap_secs())));
    }

    /// Without upstreams an alias is all there is to say; a name that is not ours is refused.
    fn refuse(&mut self, waiter: &Waiter) -> Effect {
        self.counts.refused += 1;
        let said = match self.forwarder.upstreams().is_empty() {
            true => Upstreams::Absent,
            false => Upstreams::Busy,
        };
        waiter.reply(&said, self.cache.cap_secs())
    }
}

/// What came of asking.
enum Upstreams<'a> {
    Said(&'a Aged),
    /// None answered in time.
    Silent,
    /// Too many questions under way.
    Busy,
    /// There is none.
    Absent,
}

impl Waiter {
    fn question(&self) -> Option<Question> {
        let query = Query::parse(&self.packet).ok()?;
        let name = match self.chain.last() {
            Some(alias) => alias.target.clone(),
            None => Name::from_wire(query.name)?,
        };
        Some(Question {
            name,
            rtype: query.rtype,
            class: if self.chain.is_empty() { query.class } else { CLASS_IN },
            dnssec_ok: query.edns.is_some_and(|edns| edns.dnssec_ok),
            checking_disabled: query.checking_disabled,
        })
    }

    fn reply(&self, said: &Upstreams<'_>, cap_secs: u32) -> Effect {
        let is_alias = !self.chain.is_empty();
        let mut reply = match said {
            Upstreams::Said(aged) => passed_on(aged, cap_secs),
            Upstreams::Silent => Reply::new(Rcode::SERVFAIL),
            Upstreams::Absent if is_alias => Reply::new(Rcode::NOERROR),
            Upstreams::Absent | Upstreams::Busy => Reply::new(Rcode::REFUSED),
        };
        reply.recursion_available = !matches!(said, Upstreams::Absent);
        reply.authoritative = is_alias;
        reply.answers.splice(0..0, self.chain.iter().map(Alias::record));
        let query = Query::parse(&self.packet).expect("it was read when it came");
        let wants_ad = query.authentic_data || query.edns.is_some_and(|edns| edns.dnssec_ok);
        reply.authentic_data &= wants_ad && !is_alias;
        Effect::Reply { token: self.token, bytes: reply.render(&query, self.transport) }
    }
}

fn passed_on(aged: &Aged, cap_secs: u32) -> Reply<'static> {
    let message = &*aged.message;
    let section = |records: &'_ [Record]| -> Vec<Rr<'static>> {
        records.iter().map(|record| passed_record(record, cap_secs, aged.age_secs)).collect()
    };
    Reply {
        authentic_data: message.authentic_data,
        truncated: message.truncated,
        answers: section(&message.answers),
        authority: section(&message.authority),
        additional: section(&message.additional),
        ..Reply::new(message.rcode)
    }
}

fn passed_record(record: &Record, cap_secs: u32, age_secs: u32) -> Rr<'static> {
    Rr {
        owner: record.owner.clone(),
        rtype: record.rtype,
        class: record.class,
        ttl_secs: record.ttl_secs.min(cap_secs).saturating_sub(age_secs),
        data: Cow::Owned(record.data.clone()),
    }
}
