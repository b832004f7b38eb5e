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

use crate::build::{Reply, Rr};
use crate::cache::{Aged, Asked, Cache};
use crate::client::Client;
use crate::forward::{Exchange, ForwardConfig, Forwarder, Ids, Step};
use crate::message::Record;
use crate::site::{Ask, Decision, Site, Verdict, found_as, linked};
use crate::wire::{Query, Rcode, Rejected};

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
    client: Client,
    packet: Vec<u8>,
    ask: Ask,
}

/// The server.
#[derive(Debug)]
pub struct Server {
    site: Site,
    cache: Cache,
    forwarder: Forwarder<Waiter>,
    counts: Counts,
}

impl Server {
    /// A server of `site` that forwards to `upstreams`.
    pub fn new(site: Site, config: ForwardConfig, upstreams: Vec<SocketAddr>) -> Self {
        let cache = Cache::new(CACHE_CAPACITY, CACHE_CAP_SECS);
        Self { site, cache, forwarder: Forwarder::new(config, upstreams), counts: Counts::default() }
    }

    /// What it answers from at once; a clone of it answers elsewhere, without this server.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// From now on it answers from `site`. What is under way goes on.
    pub fn set_site(&mut self, site: Site) {
        self.site = site;
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
        client: &Client,
        now: Duration,
        ids: Ids<'_>,
    ) -> Vec<Effect> {
        self.counts.queries += 1;
        let query = match Query::parse(packet) {
            Ok(query) => query,
            Err(Rejected::Silence) => return Vec::new(),
            Err(Rejected::Reply(bytes)) => return vec![Effect::Reply { token, bytes }],
        };
        match self.site.decide(&query, client, now).verdict {
            Verdict::Reply(reply) => {
                self.counts.from_zones += 1;
                self.site.note_pod(&query, client, reply.rcode);
                vec![Effect::Reply { token, bytes: reply.render(&query, client.transport) }]
            }
            Verdict::Silence => Vec::new(),
            Verdict::Ask(ask) => {
                let waiter = Waiter { token, client: *client, packet: packet.to_vec(), ask: *ask };
                self.ask(waiter, now, ids)
            }
        }
    }

    /// From the cache, or by an upstream.
    fn ask(&mut self, waiter: Waiter, now: Duration, ids: Ids<'_>) -> Vec<Effect> {
        if let Some(aged) = self.cache.get(&waiter.ask.question.asked(), now) {
            self.counts.from_cache += 1;
            return self.hear(waiter, &Upstreams::Said(&aged), now, ids);
        }
        self.counts.forwarded += 1;
        let question = waiter.ask.question.clone();
        let steps = self.forwarder.ask(question, waiter, now, ids);
        self.carry_out(steps, now, ids)
    }

    /// What upstreams said is the client's reply, or a step of its search list after which the next is taken.
    fn hear(&mut self, mut waiter: Waiter, said: &Upstreams<'_>, now: Duration, ids: Ids<'_>) -> Vec<Effect> {
        let reply = waiter.reply(said, self.cache.cap_secs());
        let Some(mut search) = waiter.ask.search.take() else { return vec![self.send(&waiter, &reply)] };
        if search.ends_with(reply.rcode) {
            let reply = found_as(&waiter.query(), search.current(), reply);
            return vec![self.send(&waiter, &reply)];
        }
        let Decision { verdict, .. } = self.site.decide_search(&waiter.query(), search, &waiter.client, now);
        let ask = match verdict {
            Verdict::Reply(reply) => return vec![self.send(&waiter, &reply)],
            Verdict::Silence => return Vec::new(),
            Verdict::Ask(ask) => *ask,
        };
        waiter.ask = ask;
        self.ask(waiter, now, ids)
    }

    fn send(&self, waiter: &Waiter, reply: &Reply<'_>) -> Effect {
        let query = waiter.query();
        self.site.note_pod(&query, &waiter.client, reply.rcode);
        Effect::Reply { token: waiter.token, bytes: reply.render(&query, waiter.client.transport) }
    }

    /// A datagram, or a TCP reply without its length, came on the socket of `exchange`.
    pub fn handle_upstream(&mut self, exchange: Exchange, bytes: &[u8], now: Duration, ids: Ids<'_>) -> Vec<Effect> {
        let steps = self.forwarder.receive(exchange, bytes, now, ids);
        self.carry_out(steps, now, ids)
    }

    /// The socket of `exchange` failed.
    pub fn handle_failure(&mut self, exchange: Exchange, now: Duration, ids: Ids<'_>) -> Vec<Effect> {
        let steps = self.forwarder.fail(exchange, now, ids);
        self.carry_out(steps, now, ids)
    }

    /// The node's resolv.conf changed. The cache is emptied: others may know other things.
    pub fn set_upstreams(&mut self, upstreams: Vec<SocketAddr>, now: Duration, ids: Ids<'_>) -> Vec<Effect> {
        self.cache.clear();
        let steps = self.forwarder.set_upstreams(upstreams, now, ids);
        self.carry_out(steps, now, ids)
    }

    /// When to call [`Server::tick`] at the latest; `None`: nothing is under way.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.forwarder.next_deadline()
    }

    /// Time went on.
    pub fn tick(&mut self, now: Duration, ids: Ids<'_>) -> Vec<Effect> {
        let steps = self.forwarder.tick(now, ids);
        self.carry_out(steps, now, ids)
    }

    fn carry_out(&mut self, steps: Vec<Step<Waiter>>, now: Duration, ids: Ids<'_>) -> Vec<Effect> {
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
                    effects.extend(self.finish(asked, waiters, aged, now, ids));
                }
                Step::Refused(waiter) => effects.extend(self.refuse(waiter, now, ids)),
            }
        }
        effects
    }

    fn finish(
        &mut self,
        asked: Asked,
        waiters: Vec<Waiter>,
        aged: Option<Aged>,
        now: Duration,
        ids: Ids<'_>,
    ) -> Vec<Effect> {
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
        waiters.into_iter().flat_map(|waiter| self.hear(waiter, &said, now, ids)).collect()
    }

    /// Without upstreams an alias is all there is to say; a name that is not ours is refused.
    fn refuse(&mut self, waiter: Waiter, now: Duration, ids: Ids<'_>) -> Vec<Effect> {
        self.counts.refused += 1;
        let said = match self.forwarder.upstreams().is_empty() {
            true => Upstreams::Absent,
            false => Upstreams::Busy,
        };
        self.hear(waiter, &said, now, ids)
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
    fn query(&self) -> Query<'_> {
        Query::parse(&self.packet).expect("it was read when it came")
    }

    fn reply(&self, said: &Upstreams<'_>, cap_secs: u32) -> Reply<'static> {
        let is_alias = !self.ask.chain.is_empty();
        let mut reply = match said {
            Upstreams::Said(aged) => passed_on(aged, cap_secs),
            Upstreams::Silent => Reply::new(Rcode::SERVFAIL),
            Upstreams::Absent if is_alias => Reply::new(Rcode::NOERROR),
            Upstreams::Absent | Upstreams::Busy => Reply::new(Rcode::REFUSED),
        };
        reply.recursion_available = !matches!(said, Upstreams::Absent);
        let query = self.query();
        reply.authentic_data &= query.authentic_data || query.edns.is_some_and(|edns| edns.dnssec_ok);
        if is_alias { linked(&self.ask.chain, reply) } else { reply }
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
