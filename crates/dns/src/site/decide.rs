//! What a query gets, as one decision: through the block it falls to, plugin after plugin, in an order that the file's has
//! no part in.
//!
//! ```text
//!  query ──► block ──► autopath ──► kubernetes ──► forward ──► Verdict
//!                          └── each name of the search list through the rest
//! ```

use std::time::Duration;

use crate::answer::Alias;
use crate::build::{Reply, Rr};
use crate::client::Client;
use crate::forward::Question;
use crate::name::Name;
use crate::plugin::{Plugin, Said};
use crate::rdata::Rtype;
use crate::site::Site;
use crate::site::fit::{Renamed, is_in};
use crate::site::search::Search;
use crate::site::setup::Prepared;
use crate::wire::{CLASS_ANY, CLASS_IN, Query, Rcode};

/// Aliases that are followed from block to block: each one may lead to another.
const MAX_HOPS: usize = 10;

/// What a query gets, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision<'s> {
    /// What it gets.
    pub verdict: Verdict<'s>,
    /// The plugin that decided.
    pub by: Plugin,
    /// The zone that it fell to, as an index into [`Setup::heads`](super::Setup::heads).
    pub head: Option<u16>,
}

/// What a query gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<'s> {
    /// This reply.
    Reply(Reply<'s>),
    /// No reply.
    Silence,
    /// What an upstream says.
    Ask(Box<Ask>),
}

/// A question that only an upstream can answer, and what is to be made of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The `forward` line, as an index into [`Setup::groups`](super::Setup::groups).
    pub group: usize,
    /// The block that the question fell to at last; its cache keeps the answer.
    pub block: usize,
    /// What to ask.
    pub question: Question,
    /// Aliases that lead from the client's question to this one, in order.
    pub chain: Vec<Alias>,
    /// The search list goes on if the name does not exist.
    pub search: Option<Search>,
}

impl<'s> Decision<'s> {
    pub(super) fn new(verdict: Verdict<'s>, by: Plugin) -> Self {
        Self { verdict, by, head: None }
    }

    pub(super) fn error(rcode: Rcode) -> Self {
        Self::new(Verdict::Reply(Reply::new(rcode)), Plugin::None)
    }
}

impl Site {
    /// Decides a query. Looks into no cache.
    pub fn decide(&self, query: &Query<'_>, client: &Client, now: Duration) -> Decision<'_> {
        if query.edns.is_some_and(|edns| edns.version != 0) {
            return Decision::error(Rcode::BADVERS);
        }
        if query.class != CLASS_IN && query.class != CLASS_ANY || matches!(query.rtype, Rtype::AXFR | Rtype::IXFR) {
            return Decision::error(Rcode::REFUSED);
        }
        let Some(head) = self.setup.head_of(query.name, client) else { return Decision::error(Rcode::REFUSED) };
        let block = self.setup.heads()[head].block;
        let decision = match self.search_of(block, query, client) {
            Some(search) => self.decide_search(query, search, client, now),
            None => self.decide_in(block, query, client, now, 0),
        };
        Decision { head: u16::try_from(head).ok(), ..decision }
    }

    /// The part of a block below `autopath`, for one name.
    pub(super) fn decide_in(
        &self,
        at: usize,
        query: &Query<'_>,
        client: &Client,
        now: Duration,
        hops: usize,
    ) -> Decision<'_> {
        let (_, prepared) = self.setup.block(at);
        match self.kubernetes(at, query) {
            Said::Reply(reply) => Decision::new(Verdict::Reply(reply), Plugin::Kubernetes),
            Said::Silence => Decision::new(Verdict::Silence, Plugin::Kubernetes),
            Said::Alias(chain) => self.follow(chain, query, client, now, hops),
            Said::Next => self.forward(at, prepared, query),
        }
    }

    fn kubernetes(&self, block: usize, query: &Query<'_>) -> Said<'_> {
        match &self.views[block] {
            Some(view) => {
                let turn = self.setup.block(block).0.loadbalance.then_some(query.id);
                view.say(&self.records, query, turn)
            }
            None => Said::Next,
        }
    }

    /// Resolves the end of an alias as if a client had asked for it, in the block that serves it.
    fn follow(
        &self,
        chain: Vec<Alias>,
        query: &Query<'_>,
        client: &Client,
        now: Duration,
        hops: usize,
    ) -> Decision<'_> {
        let target = chain.last().expect("a plugin that says alias gives one").target.clone();
        let renamed = Renamed::new(target.as_wire(), query.rtype, CLASS_IN);
        let query = renamed.of(query);
        let head = self.setup.head_of(query.name, client).filter(|_| hops < MAX_HOPS);
        let found = head.map(|head| self.decide_in(self.setup.heads()[head].block, &query, client, now, hops + 1));
        let verdict = match found.map(|found| found.verdict) {
            Some(Verdict::Ask(mut ask)) => {
                ask.chain.splice(0..0, chain);
                Verdict::Ask(ask)
            }
            Some(Verdict::Reply(reply)) if reply.rcode != Rcode::REFUSED => Verdict::Reply(linked(&chain, reply)),
            // Nobody serves the target: the alias is all there is to say.
            _ => Verdict::Reply(linked(&chain, Reply { recursion_available: false, ..Reply::new(Rcode::NOERROR) })),
        };
        Decision::new(verdict, Plugin::Kubernetes)
    }

    fn forward(&self, block: usize, prepared: &Prepared, query: &Query<'_>) -> Decision<'_> {
        let fits = |group: &usize| {
            let forward = &self.setup.groups()[*group].forward;
            is_in(query.name, forward.from.as_wire())
                && !forward.except.iter().any(|zone| is_in(query.name, zone.as_wire()))
        };
        let Some(group) = prepared.forwards.iter().copied().find(fits) else { return Decision::error(Rcode::REFUSED) };
        let Some(name) = Name::from_wire(query.name) else { return Decision::error(Rcode::FORMERR) };
        let question = Question {
            name,
            rtype: query.rtype,
            class: query.class,
            dnssec_ok: query.edns.is_some_and(|edns| edns.dnssec_ok),
            checking_disabled: query.checking_disabled,
        };
        let ask = Ask { group, block, question, chain: Vec::new(), search: None };
        Decision::new(Verdict::Ask(Box::new(ask)), Plugin::Forward)
    }
}

/// A reply behind aliases of ours.
pub(crate) fn linked<'s>(chain: &[Alias], mut reply: Reply<'s>) -> Reply<'s> {
    let mut answers: Vec<Rr<'s>> = chain.iter().map(|link| -> Rr<'s> { link.record() }).collect();
    answers.append(&mut reply.answers);
    reply.answers = answers;
    reply.authoritative = true;
    reply.authentic_data = false;
    reply
}
