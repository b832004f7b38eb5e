//! What a query gets, as one decision: through the block it falls to, plugin after plugin, in an order that the file's has
//! no part in.
//!
//! ```text
//!  query ──► block ──► local, acl, any ──► rewrite ──► autopath ──► template, hosts, kubernetes ──► forward ──► Verdict
//!                                            │            └── each name of the search list through the rest
//!  reply ◄── rrl ◄── minimal, loadbalance ◄──┘ turned back
//! ```

use std::sync::PoisonError;
use std::time::Duration;

use crate::answer::Alias;
use crate::build::{Reply, Rr};
use crate::client::Client;
use crate::forward::Question;
use crate::name::Name;
use crate::plugin::rewrite::{Forwarded, Rewritten};
use crate::plugin::rrl::{self, Kind};
use crate::plugin::{Plugin, Said, any, loadbalance, local, minimal};
use crate::rdata::Rtype;
use crate::site::Site;
use crate::site::fit::{Renamed, is_in};
use crate::site::search::{Search, found_as};
use crate::transfer;
use crate::wire::{CLASS_ANY, CLASS_IN, Query, Rcode, Transport};

/// Aliases that are followed from block to block: each one may lead to another.
const MAX_HOPS: usize = 10;

/// What a query gets, and by whom.
#[derive(Clone, Debug)]
pub struct Decision<'s> {
    /// What it gets.
    pub verdict: Verdict<'s>,
    /// The plugin that decided.
    pub by: Plugin,
    /// The zone that it fell to, as an index into [`Setup::heads`](super::Setup::heads).
    pub head: Option<u16>,
}

/// What a query gets.
#[derive(Clone, Debug)]
pub enum Verdict<'s> {
    /// This reply.
    Reply(Reply<'s>),
    /// No reply.
    Silence,
    /// What an upstream says.
    Ask(Box<Ask>),
    /// A whole zone.
    Transfer(Box<transfer::Zone>),
}

/// A question that only an upstream can answer, and what is to be made of the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// The `forward` line, as an index into [`Setup::groups`](super::Setup::groups).
    pub group: usize,
    /// The block that the question fell to at last; its cache keeps the answer.
    pub block: usize,
    /// What to ask.
    pub question: Question,
    /// Aliases that lead from the name that is looked for to this one, in order.
    pub chain: Vec<Alias>,
    /// The search list goes on if the name does not exist.
    pub search: Option<Search>,
    /// The client's question was rewritten to the one that is looked for.
    pub rewritten: Option<Rewritten>,
}

impl<'s> Decision<'s> {
    pub(super) fn new(verdict: Verdict<'s>, by: Plugin) -> Self {
        Self { verdict, by, head: None }
    }

    pub(super) fn error(rcode: Rcode) -> Self {
        Self::new(Verdict::Reply(Reply::new(rcode)), Plugin::None)
    }
}

/// What is answered with an error whoever asks it: EDNS of another version (RFC 6891 §6.1.3), other classes.
pub(super) fn refusal(query: &Query<'_>) -> Option<Rcode> {
    match () {
        () if query.edns.is_some_and(|edns| edns.version != 0) => Some(Rcode::BADVERS),
        () if query.class != CLASS_IN && query.class != CLASS_ANY => Some(Rcode::REFUSED),
        () => None,
    }
}

impl Site {
    /// Decides a query. Looks into no cache.
    pub fn decide(&self, query: &Query<'_>, client: &Client, now: Duration) -> Decision<'_> {
        if let Some(rcode) = refusal(query) {
            return Decision::error(rcode);
        }
        let Some(head) = self.setup.head_of(query.name, client) else { return Decision::error(Rcode::REFUSED) };
        let block = self.setup.heads()[head].block;
        let decision = match self.gate(block, query, client) {
            Some(decision) => decision,
            None => self.decide_question(block, query, client, now),
        };
        self.finished(head, decision, query, client, now)
    }

    /// What upstreams said to `ask`, which came of `query`: a reply, or what is to be asked next.
    pub fn go_on(
        &self,
        query: &Query<'_>,
        client: &Client,
        ask: Ask,
        said: Reply<'static>,
        now: Duration,
    ) -> Decision<'_> {
        let Ask { chain, search, rewritten, .. } = ask;
        let reply = if chain.is_empty() { said } else { linked(&chain, said) };
        let renamed = rewritten.as_ref().map(|to| Renamed::new(to.name.as_wire(), to.rtype, query.class));
        let looked_for = renamed.as_ref().map_or(*query, |renamed| renamed.of(query));
        let decision = match search {
            None => Decision::new(Verdict::Reply(reply), Plugin::Forward),
            Some(search) => self.search_on(&looked_for, search, reply, client, now),
        };
        let decision = turned_back(decision, rewritten);
        match self.setup.head_of(query.name, client) {
            Some(head) => self.finished(head, decision, query, client, now),
            None => decision,
        }
    }

    /// Plugins that may end it before anybody looks for the name.
    fn gate(&self, at: usize, query: &Query<'_>, client: &Client) -> Option<Decision<'static>> {
        let (block, prepared) = self.setup.block(at);
        let by = |plugin, said| match said {
            Said::Reply(reply) => Some(Decision::new(Verdict::Reply(reply), plugin)),
            Said::Silence => Some(Decision::new(Verdict::Silence, plugin)),
            Said::Alias(_) | Said::Next => None,
        };
        let local = || by(Plugin::Local, local::say(query)).filter(|_| block.local);
        let acl = || by(Plugin::Acl, prepared.acl.as_ref()?.say(client.ip(), query));
        let any = || by(Plugin::Any, any::say(query)).filter(|_| block.any);
        let transfer = || matches!(query.rtype, Rtype::AXFR | Rtype::IXFR).then(|| self.transfer(at, query, client));
        if block.local {
            local().or_else(acl).or_else(any).or_else(transfer)
        } else {
            acl().or_else(any).or_else(transfer)
        }
    }

    /// A zone of the block, whole, for who may have it.
    fn transfer(&self, at: usize, query: &Query<'_>, client: &Client) -> Decision<'static> {
        let (block, prepared) = self.setup.block(at);
        let refused = Decision { by: Plugin::Transfer, ..Decision::error(Rcode::REFUSED) };
        let may = block.transfers.iter().any(|transfer| {
            let zones = if transfer.zones.is_empty() { &block.zones } else { &transfer.zones };
            zones.iter().any(|zone| is_in(query.name, zone.as_wire()))
                && transfer.to.iter().any(|net| net.contains(&client.ip().to_canonical()))
        });
        if !may || client.transport != Transport::Tcp {
            return refused;
        }
        let outside = prepared.external.as_ref();
        let zone = outside.and_then(|external| transfer::Zone::of_external(external, &self.records, query.name));
        let zone = zone.or_else(|| transfer::Zone::of_view(prepared.view.as_ref()?, &self.records, query.name));
        match zone {
            None => refused,
            Some(_) if !self.records.is_synced() => {
                Decision { by: Plugin::Transfer, ..Decision::error(Rcode::SERVFAIL) }
            }
            Some(zone) => Decision::new(Verdict::Transfer(Box::new(zone)), Plugin::Transfer),
        }
    }

    fn decide_question(&self, block: usize, query: &Query<'_>, client: &Client, now: Duration) -> Decision<'_> {
        let Some(rewrites) = &self.setup.block(block).1.rewrites else {
            return self.decide_name(block, query, client, now);
        };
        let Some(name) = Name::from_wire(query.name) else { return Decision::error(Rcode::FORMERR) };
        match rewrites.forward(&name, query.rtype) {
            Forwarded::Same => self.decide_name(block, query, client, now),
            Forwarded::Broken => Decision { by: Plugin::Rewrite, ..Decision::error(Rcode::SERVFAIL) },
            Forwarded::Asked(rewritten) => {
                let renamed = Renamed::new(rewritten.name.as_wire(), rewritten.rtype, query.class);
                turned_back(self.decide_name(block, &renamed.of(query), client, now), Some(rewritten))
            }
        }
    }

    fn decide_name(&self, block: usize, query: &Query<'_>, client: &Client, now: Duration) -> Decision<'_> {
        match self.search_of(block, query, client) {
            Some(search) => self.decide_search(query, search, client, now),
            None => self.decide_in(block, query, client, 0),
        }
    }

    /// The part of a block below `autopath`, for one name.
    pub(super) fn decide_in(&self, at: usize, query: &Query<'_>, client: &Client, hops: usize) -> Decision<'_> {
        let (_, prepared) = self.setup.block(at);
        let plugins: [(Plugin, &dyn Fn() -> Said<'static>); 4] = [
            (Plugin::Template, &|| {
                prepared.templates.as_ref().map_or(Said::Next, |templates| templates.say(query, client.ip()))
            }),
            (Plugin::Hosts, &|| prepared.hosts.as_ref().map_or(Said::Next, |hosts| hosts.say(query))),
            (Plugin::External, &|| {
                prepared.external.as_ref().map_or(Said::Next, |external| external.say(&self.records, query, None))
            }),
            (Plugin::Kubernetes, &|| {
                prepared.view.as_ref().map_or(Said::Next, |view| view.say(&self.records, query, None))
            }),
        ];
        for (plugin, say) in plugins {
            match say() {
                Said::Reply(reply) => return Decision::new(Verdict::Reply(reply), plugin),
                Said::Silence => return Decision::new(Verdict::Silence, plugin),
                Said::Alias(chain) => return Decision { by: plugin, ..self.follow(chain, query, client, hops) },
                Said::Next => {}
            }
        }
        self.forward(at, query)
    }

    /// Resolves the end of an alias as if a client had asked for it, in the block that serves it.
    fn follow(&self, chain: Vec<Alias>, query: &Query<'_>, client: &Client, hops: usize) -> Decision<'_> {
        let Some(target) = chain.last().map(|link| link.target.clone()) else {
            return Decision::error(Rcode::SERVFAIL);
        };
        let renamed = Renamed::new(target.as_wire(), query.rtype, CLASS_IN);
        let query = renamed.of(query);
        let head = self.setup.head_of(query.name, client).filter(|_| hops < MAX_HOPS);
        let found = head.map(|head| self.decide_in(self.setup.heads()[head].block, &query, client, hops + 1));
        let verdict = match found.map(|found| found.verdict) {
            Some(Verdict::Ask(mut ask)) => {
                ask.chain.splice(0..0, chain);
                Verdict::Ask(ask)
            }
            Some(Verdict::Reply(reply)) if reply.rcode != Rcode::REFUSED => Verdict::Reply(linked(&chain, reply)),
            // Nobody serves the target: the alias is all there is to say.
            _ => Verdict::Reply(linked(&chain, Reply::new(Rcode::NOERROR))),
        };
        Decision::new(verdict, Plugin::None)
    }

    /// The `forward` line that is for `name`.
    pub(super) fn group_of(&self, block: usize, name: &[u8]) -> Option<usize> {
        let fits = |group: &usize| {
            let forward = &self.setup.groups()[*group].forward;
            is_in(name, forward.from.as_wire()) && !forward.except.iter().any(|zone| is_in(name, zone.as_wire()))
        };
        self.setup.block(block).1.forwards.iter().copied().find(fits)
    }

    fn forward(&self, block: usize, query: &Query<'_>) -> Decision<'static> {
        let Some(group) = self.group_of(block, query.name) else { return Decision::error(Rcode::REFUSED) };
        let Some(name) = Name::from_wire(query.name) else { return Decision::error(Rcode::FORMERR) };
        let question = Question {
            name,
            rtype: query.rtype,
            class: query.class,
            dnssec_ok: query.edns.is_some_and(|edns| edns.dnssec_ok),
            checking_disabled: query.checking_disabled,
        };
        let ask = Ask { group, block, question, chain: Vec::new(), search: None, rewritten: None };
        Decision::new(Verdict::Ask(Box::new(ask)), Plugin::Forward)
    }

    /// A walk through a search list goes on after what an upstream said to its current name.
    fn search_on(
        &self,
        query: &Query<'_>,
        mut search: Search,
        reply: Reply<'static>,
        client: &Client,
        now: Duration,
    ) -> Decision<'_> {
        match search.ends_with(reply.rcode) {
            true => {
                let reply = found_as(query, search.current(), reply);
                Decision::new(Verdict::Reply(reply), Plugin::Autopath)
            }
            false => self.decide_search(query, search, client, now),
        }
    }

    /// What plugins do on a reply's way out.
    fn finished<'s>(
        &'s self,
        head: usize,
        mut decision: Decision<'s>,
        query: &Query<'_>,
        client: &Client,
        now: Duration,
    ) -> Decision<'s> {
        decision.head = u16::try_from(head).ok();
        let (block, prepared) = self.setup.block(self.setup.heads()[head].block);
        let Verdict::Reply(reply) = &mut decision.verdict else { return decision };
        if block.minimal {
            minimal::strip(reply);
        }
        if block.loadbalance {
            loadbalance::turn(reply, query.id);
        }
        let Some(limits) = prepared.rrl.as_ref().filter(|_| client.transport == Transport::Udp) else {
            return decision;
        };
        if !rrl::is_judged(query.rtype) {
            return decision;
        }
        let zone = reply.authority.iter().find(|rr| rr.rtype == Rtype::SOA).map(|rr| rr.owner.clone());
        let mut limits = limits.lock().unwrap_or_else(PoisonError::into_inner);
        match limits.judge(client.ip(), query, Kind::of(reply), zone.as_ref(), now) {
            rrl::Verdict::Send => {}
            rrl::Verdict::Cut => *reply = rrl::cut_short(),
            rrl::Verdict::Drop => decision = Decision { verdict: Verdict::Silence, by: Plugin::Rrl, ..decision },
        }
        decision
    }
}

/// The reply to a rewritten question as one to the client's.
fn turned_back(mut decision: Decision<'_>, rewritten: Option<Rewritten>) -> Decision<'_> {
    match (&mut decision.verdict, rewritten) {
        (Verdict::Reply(reply), Some(rewritten)) => rewritten.back(reply),
        (Verdict::Ask(ask), rewritten) => ask.rewritten = rewritten,
        _ => {}
    }
    decision
}

/// A reply behind aliases of ours.
fn linked<'s>(chain: &[Alias], mut reply: Reply<'s>) -> Reply<'s> {
    let mut answers: Vec<Rr<'s>> = chain.iter().map(|link| -> Rr<'s> { link.record() }).collect();
    answers.append(&mut reply.answers);
    reply.answers = answers;
    reply.authoritative = true;
    reply.authentic_data = false;
    reply
}
