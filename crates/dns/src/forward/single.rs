//! One list of upstreams by UDP and TCP: what `Server` forwards with as long as it knows no Corefile.
//!
//! ```text
//!  ask ──► Flight ──► SendUdp to the first healthy upstream
//!             ├─ answer ───────────────► Done (all who asked the same meanwhile)
//!             ├─ TC ───► SendTcp to the same
//!             ├─ FORMERR to EDNS ──► again without
//!             └─ timeout, failure, SERVFAIL, REFUSED ──► the next, until none or no time is left ──► Done (the best seen, or none)
//! ```
//!
//! A reply counts only if it came for the exchange that is open, with its ID and its question (RFC 5452 §9); anything else
//! is ignored and the exchange goes on. Times are a `Duration` since any fixed moment. IDs are drawn from `ids`, which the
//! driver makes unpredictable, as it does the source ports.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Exchange, Ids, Question};
use crate::cache::Asked;
use crate::message::Message;
use crate::wire::{Edns, MAX_UDP, Rcode, ask};

/// How patient the forwarder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardConfig {
    /// Wait for a UDP answer; TCP gets twice that.
    pub attempt: Duration,
    /// Wait for any answer; stubs give up at 5 s.
    pub budget: Duration,
    /// Times that the list of upstreams is gone through.
    pub rounds: usize,
    /// Failures in a row after which an upstream is asked last.
    pub max_fails: u32,
    /// How long it is asked last.
    pub bench: Duration,
    /// Questions under way at once, and clients that wait for one of them; more are refused.
    pub max_flights: usize,
}

impl Default for ForwardConfig {
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(1),
            budget: Duration::from_millis(4500),
            rounds: 2,
            max_fails: 2,
            bench: Duration::from_secs(10),
            max_flights: 1000,
        }
    }
}

/// What the driver must do, or the end of a question. `W` is whoever waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<W> {
    /// Open a UDP socket on a fresh port, send, and hand in each datagram from `upstream`.
    SendUdp {
        /// The attempt.
        exchange: Exchange,
        /// Where to.
        upstream: SocketAddr,
        /// The query.
        bytes: Vec<u8>,
    },
    /// Connect, send with the two-byte length, hand in one reply without it.
    SendTcp {
        /// The attempt.
        exchange: Exchange,
        /// Where to.
        upstream: SocketAddr,
        /// The query.
        bytes: Vec<u8>,
    },
    /// Close the attempt's socket; what comes for it is of no use.
    Close(Exchange),
    /// The question is answered, or (`None`) nobody answered.
    Done {
        /// The question's identity.
        asked: Asked,
        /// Who asked.
        waiters: Vec<W>,
        /// The answer.
        answer: Option<Arc<Message>>,
    },
    /// Too many questions under way.
    Refused(W),
}

/// What the upstreams look like from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Its address.
    pub addr: SocketAddr,
    /// Failures in a row.
    pub fails: u32,
    /// Asked last until then.
    pub benched_until: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Udp,
    Tcp,
}

#[derive(Debug)]
struct Attempt {
    upstream: SocketAddr,
    id: u16,
    way: Way,
    deadline: Duration,
}

#[derive(Debug)]
struct Flight<W> {
    question: Question,
    waiters: Vec<W>,
    /// Upstreams still to try, in order.
    plan: VecDeque<SocketAddr>,
    edns: bool,
    /// What to give if nothing better comes: an error's reply, or one with TC.
    fallback: Option<Message>,
    give_up: Duration,
    attempt: Attempt,
}

/// The forwarder.
#[derive(Debug)]
pub struct Forwarder<W> {
    config: ForwardConfig,
    upstreams: Vec<Upstream>,
    flights: BTreeMap<Exchange, Flight<W>>,
    by_question: BTreeMap<Asked, Exchange>,
    deadlines: BTreeSet<(Duration, Exchange)>,
    next_exchange: u64,
}

impl<W> Forwarder<W> {
    /// A forwarder to `upstreams`, tried in this order.
    pub fn new(config: ForwardConfig, upstreams: Vec<SocketAddr>) -> Self {
        let mut forwarder = Self {
            config,
            upstreams: Vec::new(),
            flights: BTreeMap::new(),
            by_question: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            next_exchange: 0,
        };
        forwarder.upstreams = forwarder.merged(upstreams);
        forwarder
    }

    /// The upstreams, in the operator's order.
    pub fn upstreams(&self) -> &[Upstream] {
        &self.upstreams
    }

    /// Questions under way.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// When [`Forwarder::tick`] must be called at the latest.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Asks, or joins whoever asks the same already.
    pub fn ask(&mut self, question: Question, waiter: W, now: Duration, ids: Ids<'_>) -> Vec<Step<W>> {
        let asked = question.asked();
        if let Some(flight) = self.by_question.get(&asked).and_then(|exchange| self.flights.get_mut(exchange)) {
            if flight.waiters.len() >= self.config.max_flights {
                return vec![Step::Refused(waiter)];
            }
            flight.waiters.push(waiter);
            return Vec::new();
        }
        if self.flights.len() >= self.config.max_flights || self.upstreams.is_empty() {
            return vec![Step::Refused(waiter)];
        }
        let mut flight = Flight {
            question,
            waiters: vec![waiter],
            plan: self.plan(now),
            edns: true,
            fallback: None,
            give_up: now + self.config.budget,
            attempt: Attempt { upstream: self.upstreams[0].addr, id: 0, way: Way::Udp, deadline: now },
        };
        flight.attempt.upstream = flight.plan.pop_front().unwrap_or(flight.attempt.upstream);
        vec![self.launch(flight, Way::Udp, now, ids)]
    }

    /// A datagram or a TCP reply came for `exchange`.
    pub fn receive(&mut self, exchange: Exchange, bytes: &[u8], now: Duration, ids: Ids<'_>) -> Vec<Step<W>> {
        let Some(flight) = self.flights.get(&exchange) else { return Vec::new() };
        let Some(message) = Message::parse(bytes).filter(|message| flight.is_answered_by(message)) else {
            return match flight.attempt.way {
                Way::Udp => Vec::new(),
                Way::Tcp => self.fail(exchange, now, ids),
            };
        };
        self.take_answer(exchange, message, now, ids)
    }

    /// The socket of `exchange` failed: refused, unreachable, closed.
    pub fn fail(&mut self, exchange: Exchange, now: Duration, ids: Ids<'_>) -> Vec<Step<W>> {
        let Some(flight) = self.land(exchange) else { return Vec::new() };
        self.blame(flight.attempt.upstream, now);
        self.next_upstream(exchange, flight, now, ids)
    }

    /// Lets attempts whose time is over fail.
    pub fn tick(&mut self, now: Duration, ids: Ids<'_>) -> Vec<Step<W>> {
        let mut steps = Vec::new();
        while let Some((deadline, exchange)) = self.deadlines.first().copied()
            && deadline <= now
        {
            steps.extend(self.fail(exchange, now, ids));
        }
        steps
    }

    /// Replaces the upstreams. What is under way at one that is no longer there is asked again at once; one that stays
    /// keeps its record of failures.
    pub fn set_upstreams(&mut self, upstreams: Vec<SocketAddr>, now: Duration, ids: Ids<'_>) -> Vec<Step<W>> {
        self.upstreams = self.merged(upstreams);
        let plan = self.plan(now);
        let mut stranded = Vec::new();
        for (exchange, flight) in &mut self.flights {
            flight.plan = plan.clone();
            if !plan.contains(&flight.attempt.upstream) {
                stranded.push(*exchange);
            }
        }
        let mut steps = Vec::new();
        for exchange in stranded {
            if let Some(flight) = self.land(exchange) {
                steps.extend(self.next_upstream(exchange, flight, now, ids));
            }
        }
        steps
    }

    fn take_answer(&mut self, exchange: Exchange, message: Message, now: Duration, ids: Ids<'_>) -> Vec<Step<W>> {
        let Some(mut flight) = self.land(exchange) else { return Vec::new() };
        let close = Step::Close(exchange);
        if message.truncated && flight.attempt.way == Way::Udp {
            flight.fallback = Some(message);
            return vec![close, self.launch(flight, Way::Tcp, now, ids)];
        }
        if message.rcode == Rcode::FORMERR && flight.edns {
            flight.edns = false;
            return vec![close, self.launch(flight, Way::Udp, now, ids)];
        }
        let upstream = flight.attempt.upstream;
        if !matches!(message.rcode, Rcode::NOERROR | Rcode::NXDOMAIN) {
            flight.plan.retain(|other| *other != upstream);
            flight.fallback.get_or_insert(message);
            return self.next_upstream(exchange, flight, now, ids);
        }
        self.praise(upstream);
        vec![close, done(flight, Some(message))]
    }

    /// Tries the next upstream of the plan, or ends with the best that was seen.
    fn next_upstream(
        &mut self,
        exchange: Exchange,
        mut flight: Flight<W>,
        now: Duration,
        ids: Ids<'_>,
    ) -> Vec<Step<W>> {
        let close = Step::Close(exchange);
        match flight.plan.pop_front().filter(|_| now < flight.give_up) {
            Some(upstream) => {
                flight.attempt.upstream = upstream;
                vec![close, self.launch(flight, Way::Udp, now, ids)]
            }
            None => {
                let fallback = flight.fallback.take();
                vec![close, done(flight, fallback)]
            }
        }
    }

    fn launch(&mut self, mut flight: Flight<W>, way: Way, now: Duration, ids: Ids<'_>) -> Step<W> {
        let exchange = Exchange(self.next_exchange);
        self.next_exchange += 1;
        let (upstream, id) = (flight.attempt.upstream, ids());
        let patience = if way == Way::Tcp { self.config.attempt * 2 } else { self.config.attempt };
        let deadline = (now + patience).min(flight.give_up);
        flight.attempt = Attempt { upstream, id, way, deadline };
        let edns = Edns { udp_size: MAX_UDP as u16, version: 0, dnssec_ok: flight.question.dnssec_ok };
        let edns = flight.edns.then_some(edns);
        let bytes = ask(id, &flight.question.bytes(), flight.question.checking_disabled, edns);
        self.by_question.insert(flight.question.asked(), exchange);
        self.deadlines.insert((deadline, exchange));
        self.flights.insert(exchange, flight);
        match way {
            Way::Udp => Step::SendUdp { exchange, upstream, bytes },
            Way::Tcp => Step::SendTcp { exchange, upstream, bytes },
        }
    }

    /// Takes a flight out of the tables.
    fn land(&mut self, exchange: Exchange) -> Option<Flight<W>> {
        let flight = self.flights.remove(&exchange)?;
        self.deadlines.remove(&(flight.attempt.deadline, exchange));
        self.by_question.remove(&flight.question.asked());
        Some(flight)
    }

    /// Upstreams to try: those in good standing first, each as often as there are rounds.
    fn plan(&self, now: Duration) -> VecDeque<SocketAddr> {
        let (benched, fit): (Vec<&Upstream>, Vec<&Upstream>) =
            self.upstreams.iter().partition(|upstream| upstream.benched_until > now);
        let round: Vec<SocketAddr> = fit.into_iter().chain(benched).map(|upstream| upstream.addr).collect();
        round.iter().cycle().take(round.len() * self.config.rounds).copied().collect()
    }

    fn merged(&self, addrs: Vec<SocketAddr>) -> Vec<Upstream> {
        let mut merged: Vec<Upstream> = Vec::new();
        for addr in addrs {
            let known = self.upstreams.iter().find(|upstream| upstream.addr == addr).cloned();
            if merged.iter().all(|upstream| upstream.addr != addr) {
                merged.push(known.unwrap_or(Upstream { addr, fails: 0, benched_until: Duration::ZERO }));
            }
        }
        merged
    }

    fn blame(&mut self, addr: SocketAddr, now: Duration) {
        let (max_fails, bench) = (self.config.max_fails, self.config.bench);
        if let Some(upstream) = self.upstreams.iter_mut().find(|upstream| upstream.addr == addr) {
            upstream.fails = upstream.fails.saturating_add(1);
            if upstream.fails >= max_fails {
                upstream.benched_until = now + bench;
            }
        }
    }

    fn praise(&mut self, addr: SocketAddr) {
        if let Some(upstream) = self.upstreams.iter_mut().find(|upstream| upstream.addr == addr) {
            (upstream.fails, upstream.benched_until) = (0, Duration::ZERO);
        }
    }
}

impl<W> Flight<W> {
    fn is_answered_by(&self, message: &Message) -> bool {
        let asks_this = match &message.question {
            Some((name, rtype, class)) => {
                *rtype == self.question.rtype
                    && *class == self.question.class
                    && name.as_wire().eq_ignore_ascii_case(self.question.name.as_wire())
            }
            // Servers that cannot read a query may leave its question out.
            None => !matches!(message.rcode, Rcode::NOERROR | Rcode::NXDOMAIN),
        };
        asks_this && message.id == self.attempt.id
    }
}

fn done<W>(flight: Flight<W>, answer: Option<Message>) -> Step<W> {
    Step::Done { asked: flight.question.asked(), waiters: flight.waiters, answer: answer.map(Arc::new) }
}
