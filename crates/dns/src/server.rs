//! The whole DNS server without its sockets: what a site cannot answer at once, and all who wait for it.
//!
//! ```text
//!  client ──► handle_query ──► site: decided? ──► Reply
//!                               │ an upstream must be asked
//!                               ├─► cache? ──► Reply
//!                               └─► Upstreams ──► Send … upstream
//!  upstream ──► handle_upstream, handle_failure ──► site: what now? ──► Reply, or the next question
//!  clock ──► tick at next_deadline
//! ```
//!
//! Every call gives the [`Effect`]s that the driver must carry out, in order. Whoever waits keeps his query: a site or a
//! configuration that changes meanwhile loses nobody.

mod complaints;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::build::{Reply, Rr};
use crate::cache::Looked;
use crate::client::Client;
use crate::forward::step::{self, Done, GroupId, Outcome, Peer, Sending, Step, Tried};
use crate::forward::view::GroupView;
use crate::forward::{Exchange, Ids, Question, Upstreams};
use crate::message::{Message, Record};
use crate::name::Name;
use crate::plugin::Plugin;
use crate::server::complaints::{Complaints, in_vain};
use crate::site::{Ask, Decision, Served, Site, Verdict, reply_limit};
use crate::transfer;
use crate::wire::{HEADER, Query, Rcode, Rejected, Transport};

/// Clients who wait at once; more are refused, so that memory has a bound.
const MOST_WAITING: usize = 65_536;

/// The driver's name for a client's query: it comes back with the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

/// What the driver must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send `bytes` to the client of `token`, over the transport that its query came by. It is the only reply.
    Reply {
        /// Whose.
        token: Token,
        /// The packet, without a TCP length.
        bytes: Vec<u8>,
        /// What it is, for those who count and log.
        served: Served,
    },
    /// As a reply, and more of it follow.
    Part {
        /// Whose.
        token: Token,
        /// The packet, without a TCP length.
        bytes: Vec<u8>,
    },
    /// The client of `token` gets no reply, or no more of it.
    Forget(Token),
    /// Send a query; what comes for it goes to [`Server::handle_upstream`], a failure to [`Server::handle_failure`].
    Send(Sending),
    /// What comes for this exchange is of no use any more.
    Close(Exchange),
    /// A line for the log, as the block's `errors` words it.
    Error(String),
    /// A server was found to bring our queries back to us, or no longer does: a person should know.
    Loop {
        /// The `forward` line's base.
        from: Name,
        /// The server.
        peer: Arc<Peer>,
        /// It does; `false`: no longer.
        stands: bool,
    },
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets that came from clients.
    pub queries: u64,
    /// Answered without asking (errors included).
    pub from_zones: u64,
    /// Answered from the cache.
    pub from_cache: u64,
    /// Given to upstreams.
    pub forwarded: u64,
    /// Refused for too many at once, or for want of upstreams.
    pub refused: u64,
    /// That no upstream answered.
    pub unanswered: u64,
    /// First steps of a search list that were answered for all of it.
    pub searches: u64,
}

/// Who waits for an upstream.
#[derive(Clone, Debug)]
enum Waiter {
    Client(Box<Pending>),
    /// Nobody: the answer is for the cache of this block.
    Cache(usize),
}

/// A client's query that waits.
#[derive(Clone, Debug)]
struct Pending {
    token: Token,
    client: Client,
    packet: Vec<u8>,
    ask: Ask,
}

/// The server.
#[derive(Debug)]
pub struct Server {
    site: Site,
    upstreams: Upstreams<Waiter>,
    waiting: usize,
    counts: Counts,
    complaints: Complaints,
}

impl Server {
    /// A server of `site`. Its upstreams are those of the site's configuration from [`Server::set_site`] on.
    pub fn new(site: Site) -> Self {
        let mut complaints = Complaints::default();
        complaints.configure(site.config());
        Self { site, upstreams: Upstreams::default(), waiting: 0, counts: Counts::default(), complaints }
    }

    /// What it answers from at once; a clone of it answers elsewhere, without this server.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// From now on it answers from `site`. What is under way goes on.
    pub fn set_site(&mut self, site: Site) {
        if !Arc::ptr_eq(site.setup(), self.site.setup()) {
            self.complaints.configure(site.config());
        }
        self.site = site;
    }

    /// Takes the upstreams of the site's configuration over; those that stay keep their health and what is under way.
    pub fn configure_upstreams(&mut self, now: Duration, ids: Ids<'_>) -> Vec<Effect> {
        let groups = self.site.setup().groups().to_vec();
        let steps = self.upstreams.configure(groups, now, ids);
        self.carry_out(steps, now, ids)
    }

    /// A file as resolv.conf(5) names these servers now. `file` is its name as the configuration writes it.
    pub fn set_servers(&mut self, file: &str, addrs: &[SocketAddr], now: Duration, ids: Ids<'_>) -> Vec<Effect> {
        let steps = self.upstreams.set_servers(file, addrs, now, ids);
        self.carry_out(steps, now, ids)
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Clients who wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The upstreams, to look at.
    pub fn upstreams(&self) -> Vec<GroupView<'_>> {
        self.upstreams.view()
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
            Err(Rejected::Silence) => return vec![Effect::Forget(token)],
            Err(Rejected::Reply(bytes)) => {
                let served = Served::of_unread(&bytes);
                return vec![Effect::Reply { token, bytes, served }];
            }
        };
        if self.upstreams.is_loop_probe(&query) {
            let steps = self.upstreams.saw_loop_probe(&query, now, ids);
            let mut effects = self.carry_out(steps, now, ids);
            let served = Served { by: Plugin::Loop, ..Served::new(&query, Rcode::REFUSED) };
            effects.push(self.rendered(token, &query, client, &Reply::new(Rcode::REFUSED), served));
            return effects;
        }
        let decision = self.site.decide(&query, client, now);
        let head = decision.head;
        match decision.verdict {
            Verdict::Reply(reply) => {
                self.counts.from_zones += 1;
                let served = Served { head, by: decision.by, ..Served::new(&query, reply.rcode) };
                vec![self.rendered(token, &query, client, &reply, served)]
            }
            Verdict::Silence => vec![Effect::Forget(token)],
            Verdict::Transfer(zone) => {
                let messages = zone.messages(&query, transfer::known_serial(packet));
                let parts = messages.map(|bytes| Effect::Part { token, bytes });
                parts.chain([Effect::Forget(token)]).collect()
            }
            Verdict::Ask(ask) => {
                let pending = Pending { token, client: *client, packet: packet.to_vec(), ask: *ask };
                self.ask(Box::new(pending), now, ids)
            }
        }
    }

    /// Asks an upstream what a client was told from the cache already, for the cache.
    pub fn renew(&mut self, packet: &[u8], client: &Client, now: Duration, ids: Ids<'_>) -> Vec<Effect> {
        let Ok(query) = Query::parse(packet) else { return Vec::new() };
        match self.site.decide(&query, client, now).verdict {
            Verdict::Ask(ask) => {
                let Ask { group, block, question, .. } = *ask;
                self.ask_for_cache(group, block, question, client.transport, now, ids)
            }
            _ => Vec::new(),
        }
    }

    /// A datagram, or a reply in a stream without its length, came for `exchange`.
    pub fn handle_upstream(&mut self, exchange: Exchange, bytes: &[u8], now: Duration, ids: Ids<'_>) -> Vec<Effect> {
        let steps = self.upstreams.receive(exchange, bytes, now, ids);
        self.carry_out(steps, now, ids)
    }

    /// The socket or stream of `exchange` failed; `why` says it to people.
    pub fn handle_failure(&mut self, exchange: Exchange, why: &str, now: Duration, ids: Ids<'_>) -> Vec<Effect> {
        let steps = self.upstreams.fail(exchange, why, now, ids);
        self.carry_out(steps, now, ids)
    }

    /// When to call [`Server::tick`] at the latest; `None`: nothing is under way.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.upstreams.next_deadline().into_iter().chain(self.complaints.next_due()).min()
    }

    /// Time went on.
    pub fn tick(&mut self, now: Duration, ids: Ids<'_>) -> Vec<Effect> {
        let steps = self.upstreams.tick(now, ids);
        let mut effects = self.carry_out(steps, now, ids);
        effects.extend(self.complaints.due(now).into_iter().map(Effect::Error));
        effects
    }

    /// From the cache, or by an upstream.
    fn ask(&mut self, pending: Box<Pending>, now: Duration, ids: Ids<'_>) -> Vec<Effect> {
        let Ask { group, block, question, .. } = pending.ask.clone();
        let looked = self.site.cache_of(block).map_or(Looked::Miss, |cache| cache.look(&question, now));
        let patience = match looked {
            Looked::Miss => None,
            Looked::Verify(_, patience) => Some(patience),
            Looked::Hit(message, hit) => {
                self.counts.from_cache += 1;
                let transport = pending.client.transport;
                let mut effects = self.hear(pending, &Heard::Said(message), now, ids);
                if hit.ask_anew {
                    effects.extend(self.ask_for_cache(group, block, question, transport, now, ids));
                }
                return effects;
            }
        };
        if self.waiting >= MOST_WAITING {
            self.counts.refused += 1;
            return self.hear(pending, &Heard::Busy(MOST_WAITING), now, ids);
        }
        self.counts.forwarded += 1;
        self.waiting += 1;
        let transport = pending.client.transport;
        let ask = step::Ask { question, waiter: Waiter::Client(pending), transport, patience };
        let steps = self.upstreams.ask(GroupId(group), ask, now, ids);
        self.carry_out(steps, now, ids)
    }

    fn ask_for_cache(
        &mut self,
        group: usize,
        block: usize,
        question: Question,
        transport: Transport,
        now: Duration,
        ids: Ids<'_>,
    ) -> Vec<Effect> {
        let ask = step::Ask { question, waiter: Waiter::Cache(block), transport, patience: None };
        let steps = self.upstreams.ask(GroupId(group), ask, now, ids);
        self.carry_out(steps, now, ids)
    }

    fn carry_out(&mut self, steps: Vec<Step<Waiter>>, now: Duration, ids: Ids<'_>) -> Vec<Effect> {
        let mut effects = Vec::with_capacity(steps.len());
        for step in steps {
            match step {
                Step::Send(sending) => effects.push(Effect::Send(sending)),
                Step::Close(exchange) => effects.push(Effect::Close(exchange)),
                Step::Loop { from, peer, stands } => effects.push(Effect::Loop { from, peer, stands }),
                Step::Done(done) => effects.extend(self.finish(done, now, ids)),
            }
        }
        effects
    }

    /// A question is at its end: its answer goes to the caches of all who asked, and to them.
    fn finish(&mut self, done: Done<Waiter>, now: Duration, ids: Ids<'_>) -> Vec<Effect> {
        let Done { question, waiters, outcome, tried, .. } = done;
        let mut effects = Vec::new();
        let mut kept = Vec::new();
        for waiter in waiters {
            let block = waiter.block();
            if let Outcome::Answer(answer) = &outcome
                && !kept.iter().any(|(known, _)| *known == block)
            {
                kept.push((block, self.keep(block, &question, &answer.message, now)));
            }
            let Waiter::Client(pending) = waiter else { continue };
            self.waiting -= 1;
            let said = kept.iter().find(|(known, _)| *known == block).map(|(_, message)| message.clone());
            let heard = self.heard(&outcome, tried.as_ref(), said, &pending.ask, now);
            effects.extend(self.hear(pending, &heard, now, ids));
        }
        effects
    }

    /// The message as clients of `block` shall see it.
    fn keep(&self, block: usize, question: &Question, message: &Message, now: Duration) -> Message {
        match self.site.cache_of(block) {
            Some(cache) => cache.keep(question, message.clone(), now),
            None => message.clone(),
        }
    }

    fn heard(
        &mut self,
        outcome: &Outcome,
        tried: Option<&Tried>,
        said: Option<Message>,
        ask: &Ask,
        now: Duration,
    ) -> Heard {
        let is_failure = !matches!(&said, Some(message) if matches!(message.rcode, Rcode::NOERROR | Rcode::NXDOMAIN));
        let cache = self.site.cache_of(ask.block).filter(|_| is_failure);
        let stale = cache.and_then(|cache| cache.stale(&ask.question, now));
        match (stale.or(said), outcome) {
            (Some(message), _) => Heard::Said(message),
            (None, Outcome::Busy) => {
                self.counts.refused += 1;
                let group = self.site.setup().groups().get(ask.group);
                Heard::Busy(group.map_or(MOST_WAITING, |group| group.forward.max_concurrent))
            }
            (None, Outcome::NoServer) => {
                self.counts.refused += 1;
                Heard::Nobody
            }
            (None, _) => {
                self.counts.unanswered += 1;
                Heard::Silence(match outcome {
                    Outcome::Looping => "every upstream brings our queries back: a loop".to_owned(),
                    _ => in_vain(tried),
                })
            }
        }
    }

    /// What upstreams said is the client's reply, or a step after which the site wants another asked.
    fn hear(&mut self, mut pending: Box<Pending>, heard: &Heard, now: Duration, ids: Ids<'_>) -> Vec<Effect> {
        let query = Query::parse(&pending.packet).expect("it was read when it came");
        let reply = heard.reply(&query, !pending.ask.chain.is_empty());
        let is_search = pending.ask.search.is_some();
        let decision = self.site.go_on(&query, &pending.client, pending.ask.clone(), reply, now);
        let Decision { verdict, by, head } = decision;
        let block = head.map(|head| self.site.setup().heads()[usize::from(head)].block);
        let complaint = heard.complaint().zip(block);
        let complaint = complaint
            .and_then(|((rcode, why), block)| self.complaints.line(block, &query, rcode, &why, now))
            .map(Effect::Error);
        let mut effects: Vec<Effect> = complaint.into_iter().collect();
        let ask = match verdict {
            Verdict::Reply(reply) => {
                self.counts.searches += u64::from(is_search && reply.rcode == Rcode::NOERROR);
                let served = Served { head, by, ..Served::new(&query, reply.rcode) };
                effects.push(self.rendered(pending.token, &query, &pending.client, &reply, served));
                return effects;
            }
            Verdict::Silence | Verdict::Transfer(_) => {
                effects.push(Effect::Forget(pending.token));
                return effects;
            }
            Verdict::Ask(ask) => *ask,
        };
        pending.ask = ask;
        effects.extend(self.ask(pending, now, ids));
        effects
    }

    fn rendered(&self, token: Token, query: &Query<'_>, client: &Client, reply: &Reply<'_>, served: Served) -> Effect {
        let mut bytes = Vec::new();
        reply.render_into(query, reply_limit(query, client, self.site.block_of(query, client)), &mut bytes);
        self.site.note(query, client, &served, HEADER + query.question.len(), bytes.len());
        Effect::Reply { token, bytes, served }
    }
}

impl Waiter {
    fn block(&self) -> usize {
        match self {
            Self::Client(pending) => pending.ask.block,
            Self::Cache(block) => *block,
        }
    }
}

/// What came of asking.
enum Heard {
    Said(Message),
    /// None answered in time; why.
    Silence(String),
    /// So many questions are under way, and no more are taken.
    Busy(usize),
    /// There is none to ask.
    Nobody,
}

impl Heard {
    /// What `errors` says of it, and the code that came of it.
    fn complaint(&self) -> Option<(Rcode, String)> {
        match self {
            Self::Said(_) => None,
            Self::Silence(why) => Some((Rcode::SERVFAIL, why.clone())),
            Self::Busy(most) => Some((Rcode::REFUSED, format!("concurrent queries exceeded maximum {most}"))),
            Self::Nobody => Some((Rcode::REFUSED, "no forwarder defined".to_owned())),
        }
    }

    /// Without anybody to ask an alias is all there is to say; a name that is not ours is refused.
    fn reply(&self, query: &Query<'_>, is_alias: bool) -> Reply<'static> {
        let mut reply = match self {
            Self::Said(message) => passed_on(message),
            Self::Silence(_) => Reply::new(Rcode::SERVFAIL),
            Self::Nobody if is_alias => Reply::new(Rcode::NOERROR),
            Self::Nobody | Self::Busy(_) => Reply::new(Rcode::REFUSED),
        };
        reply.recursion_available = !matches!(self, Self::Nobody);
        reply.authentic_data &= query.authentic_data || query.edns.is_some_and(|edns| edns.dnssec_ok);
        reply
    }
}

/// What an upstream said, as a reply of ours.
pub(crate) fn passed_on(message: &Message) -> Reply<'static> {
    let section = |records: &'_ [Record]| -> Vec<Rr<'static>> { records.iter().map(passed_record).collect() };
    Reply {
        authentic_data: message.authentic_data,
        truncated: message.truncated,
        answers: section(&message.answers),
        authority: section(&message.authority),
        additional: section(&message.additional),
        ..Reply::new(message.rcode)
    }
}

fn passed_record(record: &Record) -> Rr<'static> {
    Rr {
        owner: record.owner.clone(),
        rtype: record.rtype,
        class: record.class,
        ttl_secs: record.ttl_secs,
        data: Cow::Owned(record.data.clone()),
    }
}
