//! One question under way: who waits, who was asked, what was heard.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::forward::step::{Answer, Ask, Peer, Tried, Way};
use crate::forward::{Exchange, Ids, Question};
use crate::message::Message;
use crate::wire::{Edns, HEADER, MAX_UDP, Rcode, Transport, ask};

/// Wait for any answer; stubs give up at 5 s.
pub(super) const BUDGET: Duration = Duration::from_millis(4500);
/// Servers tried one after the other for one question, the same ones again included.
pub(super) const TRIES: usize = 6;
/// So many wrong replies to one UDP query are no accident: TCP then, which nobody can guess into.
pub(super) const FORGED: u32 = 8;

#[derive(Debug)]
pub(super) struct Flight<W> {
    /// The group's uid.
    pub(super) group: u64,
    pub(super) question: Question,
    pub(super) transport: Transport,
    pub(super) waiters: Vec<Waiting<W>>,
    /// Servers still to be asked in this round.
    pub(super) plan: VecDeque<Arc<Peer>>,
    /// Servers that gave an error or failed: not asked again.
    pub(super) over: Vec<Arc<Peer>>,
    /// Queries that may still be answered.
    pub(super) attempts: Vec<Attempt>,
    pub(super) tries: usize,
    /// What to give if nothing better comes: an error's reply, or one with TC.
    pub(super) best: Option<Answer>,
    /// Of those asked in vain, the last.
    pub(super) tried: Option<Tried>,
    pub(super) act: Act,
    pub(super) act_at: Duration,
    pub(super) give_up: Duration,
    /// As it stands among the timers.
    pub(super) timer: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct Waiting<W> {
    pub(super) waiter: W,
    pub(super) until: Duration,
}

/// What is done at `act_at` if nothing came by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// The next server is asked as well.
    Hedge,
    /// Who was asked counts as silent; the next is asked.
    Silence,
    /// Nobody is left to be asked.
    Wait,
}

#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) exchange: Exchange,
    pub(super) peer: Arc<Peer>,
    pub(super) way: Way,
    pub(super) id: u16,
    pub(super) edns: bool,
    /// The name as it was sent.
    pub(super) name: Vec<u8>,
    pub(super) sent: Duration,
    pub(super) is_hedge: bool,
    /// It was told of as silent.
    pub(super) blamed: bool,
    pub(super) forged: u32,
}

/// What a packet is to an attempt.
#[derive(Debug)]
pub(super) enum Heard {
    /// Not for this query.
    Other,
    /// The answer, but the case of the name was lost: either a server that does not keep it, or a guess.
    Unmixed,
    /// The answer.
    Answer(Message),
}

/// How a query is put, beside what it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Manner {
    pub(super) way: Way,
    pub(super) edns: bool,
    pub(super) mixes_case: bool,
    pub(super) is_hedge: bool,
}

impl<W> Flight<W> {
    pub(super) fn new(group: u64, put: Ask<W>, plan: VecDeque<Arc<Peer>>, now: Duration) -> Self {
        let give_up = now + BUDGET;
        let mut flight = Self {
            group,
            question: put.question,
            transport: put.transport,
            waiters: Vec::new(),
            plan,
            over: Vec::new(),
            attempts: Vec::new(),
            tries: 0,
            best: None,
            tried: None,
            act: Act::Wait,
            act_at: give_up,
            give_up,
            timer: None,
        };
        flight.join(put.waiter, put.patience, now);
        flight
    }

    pub(super) fn join(&mut self, waiter: W, patience: Option<Duration>, now: Duration) {
        let until = patience.map_or(self.give_up, |patience| now + patience);
        self.waiters.push(Waiting { waiter, until });
    }

    /// Those whose patience is over, taken out.
    pub(super) fn overdue(&mut self, now: Duration) -> Vec<W> {
        let (over, waiting) = std::mem::take(&mut self.waiters).into_iter().partition(|waiting| waiting.until <= now);
        self.waiters = waiting;
        let over: Vec<Waiting<W>> = over;
        over.into_iter().map(|waiting| waiting.waiter).collect()
    }

    /// When something must be done at the latest.
    pub(super) fn due(&self) -> Duration {
        let waiters = self.waiters.iter().map(|waiting| waiting.until);
        waiters.chain([self.act_at, self.give_up]).min().unwrap_or(self.give_up)
    }

    /// Keeps a reply for want of a better one: an absence is better than a cut answer, that better than an error.
    pub(super) fn consider(&mut self, answer: Answer) {
        let worth = |answer: &Answer| match answer.message.rcode {
            Rcode::NOERROR | Rcode::NXDOMAIN if !answer.message.truncated => 2,
            Rcode::NOERROR | Rcode::NXDOMAIN => 1,
            _ => 0,
        };
        if self.best.as_ref().is_none_or(|best| worth(best) < worth(&answer)) {
            self.best = Some(answer);
        }
    }

    pub(super) fn land(&mut self, exchange: Exchange) -> Option<Attempt> {
        let at = self.attempts.iter().position(|attempt| attempt.exchange == exchange)?;
        Some(self.attempts.remove(at))
    }
}

impl Attempt {
    pub(super) fn new(
        exchange: Exchange,
        peer: Arc<Peer>,
        question: &Question,
        manner: Manner,
        now: Duration,
        ids: Ids<'_>,
    ) -> Self {
        let id = ids();
        let name = match manner.mixes_case {
            true => mixed(question.name.as_wire(), ids),
            false => question.name.as_wire().to_vec(),
        };
        let Manner { way, edns, is_hedge, .. } = manner;
        Self { exchange, peer, way, id, edns, name, sent: now, is_hedge, blamed: false, forged: 0 }
    }

    /// The query.
    pub(super) fn bytes(&self, question: &Question) -> Vec<u8> {
        let edns = Edns { udp_size: MAX_UDP as u16, version: 0, dnssec_ok: question.dnssec_ok };
        ask(self.id, &question.bytes_as(&self.name), question.checking_disabled, self.edns.then_some(edns))
    }

    /// Reads what came. The ID first: a flood of guesses must be cheap.
    pub(super) fn hear(&self, question: &Question, bytes: &[u8]) -> Heard {
        let header = bytes.first_chunk::<HEADER>().filter(|header| header[..2] == self.id.to_be_bytes());
        let Some(message) = header.and_then(|_| Message::parse(bytes)) else { return Heard::Other };
        let Some((name, rtype, class)) = &message.question else {
            // Servers that cannot read a query may leave its question out.
            let is_error = !matches!(message.rcode, Rcode::NOERROR | Rcode::NXDOMAIN);
            return if is_error { Heard::Answer(message) } else { Heard::Other };
        };
        let asks_this = *rtype == question.rtype && *class == question.class;
        match name.as_wire() {
            same if asks_this && same == self.name => Heard::Answer(message),
            alike if asks_this && alike.eq_ignore_ascii_case(&self.name) => match self.must_keep_case(question) {
                true => Heard::Unmixed,
                false => Heard::Answer(message),
            },
            _ => Heard::Other,
        }
    }

    fn must_keep_case(&self, question: &Question) -> bool {
        self.way == Way::Udp && self.name != question.name.as_wire()
    }
}

/// `name` with each letter in a case drawn by chance (draft-vixie-dnsext-dns0x20).
fn mixed(name: &[u8], ids: Ids<'_>) -> Vec<u8> {
    let mut bits = 0;
    let turned = name.iter().enumerate().map(|(at, byte)| {
        if at % 16 == 0 {
            bits = ids();
        }
        // Lengths are below the letters.
        match byte.is_ascii_alphabetic() && bits >> (at % 16) & 1 == 1 {
            true => byte ^ 0x20,
            false => *byte,
        }
    });
    turned.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;

    #[test]
    fn mixing_changes_letters_only_and_not_twice_alike() {
        let name = Name::parse("www.a-1_example.com").expect("a name");
        let mut drawn = 0x5a5a_u16;
        let mut ids = || {
            drawn = drawn.wrapping_mul(0x6255).wrapping_add(1);
            drawn
        };
        let (one, other) = (mixed(name.as_wire(), &mut ids), mixed(name.as_wire(), &mut ids));
        assert!(one.eq_ignore_ascii_case(name.as_wire()) && other.eq_ignore_ascii_case(name.as_wire()));
        assert_ne!(one, other);
        assert!(Name::from_wire(&one).is_some());
    }
}
