//! Search help (`autopath`): the whole search list of the client's resolver, walked here in answer to its first query.
//!
//! ```text
//!  example.com.default.svc.cluster.local ──► …default.svc…, …svc…, …cluster.local: no such name ──► example.com: found
//!  reply: example.com.default.svc.cluster.local CNAME example.com, and what example.com has
//! ```
//!
//! A walk starts at the first name of the list only: a resolver that asks for a later one has had "no such name" for the
//! first, and is not helped any more. It ends at the first name that exists; if none does, the first name's reply goes out,
//! and the resolver goes on by itself. What failed is not taken for absent.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::answer::Alias;
use crate::build::{Reply, Rr};
use crate::client::Client;
use crate::corefile::config::AutopathBy;
use crate::name::Name;
use crate::plugin::Plugin;
use crate::rdata::{Rdata, Rtype};
use crate::site::Site;
use crate::site::decide::{Decision, Verdict};
use crate::site::fit::{Renamed, is_in, is_in_any, is_under};
use crate::wire::{Query, Rcode};

/// The label above all Services.
const SVC: &[u8] = b"\x03svc";

/// A walk through a search list, as far as it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    /// The names, in order: with each domain of the list, and bare.
    names: Arc<[Name]>,
    /// The next to try.
    next: usize,
    /// What went wrong on the way, if anything did: then the walk must not end in "no such name".
    failed: Option<Rcode>,
}

impl Search {
    /// The name that is tried at the moment, or was tried last.
    pub fn current(&self) -> &Name {
        &self.names[self.next.saturating_sub(1)]
    }

    /// An answer for [`Search::current`] ends the walk, or its code is remembered and the next name's turn comes.
    pub fn ends_with(&mut self, rcode: Rcode) -> bool {
        match rcode {
            Rcode::NOERROR => return true,
            Rcode::NXDOMAIN => {}
            other => self.failed = self.failed.or(Some(other)),
        }
        false
    }
}

impl Site {
    /// The walk that helps this query, if its block and its client make it one to be helped.
    pub(super) fn search_of(&self, block: usize, query: &Query<'_>, client: &Client) -> Option<Search> {
        let (config, prepared) = self.setup().block(block);
        let autopath = config.autopath.as_ref()?;
        let zones = if autopath.zones.is_empty() { &config.zones } else { &autopath.zones };
        if !matches!(query.rtype, Rtype::A | Rtype::AAAA) || !is_in_any(query.name, zones) {
            return None;
        }
        let list = match autopath.by {
            AutopathBy::Kubernetes => match self.pods().of(client) {
                Some(pod) => Cow::Borrowed(&pod.search[..]),
                None => Cow::Owned(self.search_by_address(block, query, client)?),
            },
            AutopathBy::File(_) => Cow::Borrowed(&prepared.search[..]),
        };
        let first = list.first()?;
        if !is_under(query.name, first.as_wire()) {
            return None;
        }
        let base = &query.name[..query.name.len() - first.as_wire().len()];
        let below = |domain: &[u8]| Name::from_wire(&[base, domain].concat());
        let names = list.iter().map(Name::as_wire).chain([&[0][..]]).filter_map(below).collect();
        Some(Search { names, next: 0, failed: None })
    }

    /// The search list of a pod that is known by its address in the cluster alone, as CoreDNS makes it: of its namespace,
    /// then of the file that upstreams are read from. `None`: no pod has the address, or it is a node's, or pods of several
    /// namespaces have it.
    fn search_by_address(&self, block: usize, query: &Query<'_>, client: &Client) -> Option<Vec<Name>> {
        let (config, prepared) = self.setup().block(block);
        let zones = config.kubernetes.as_ref()?.zones.iter();
        let holding = zones.filter(|zone| is_in(query.name, zone.as_wire()));
        let zone = holding.max_by_key(|zone| zone.as_wire().len())?.as_wire();
        let mut pods = self.records().pods_at(client.ip());
        let first = pods.next()?;
        let namespace = &first.namespace;
        let is_of_node = |key| self.records().pod(key).is_none_or(|pod| pod.host_network);
        if is_of_node(first) || pods.any(|other| other.namespace != *namespace || is_of_node(other)) {
            return None;
        }
        let label = [&[u8::try_from(namespace.len()).ok()?][..], namespace.as_bytes()].concat();
        let own = [&[&label[..], SVC, zone].concat()[..], &[SVC, zone].concat(), zone];
        Some(own.into_iter().filter_map(Name::from_wire).chain(prepared.search.iter().cloned()).collect())
    }

    /// Walks on until a name exists, an upstream must be asked, or the list is at its end.
    pub(crate) fn decide_search(
        &self,
        query: &Query<'_>,
        mut search: Search,
        client: &Client,
        _now: Duration,
    ) -> Decision<'_> {
        while let Some(name) = search.names.get(search.next).cloned() {
            search.next += 1;
            let found = self.decide_step(&name, query, client);
            match found.verdict {
                Verdict::Reply(reply) if search.ends_with(reply.rcode) => {
                    return Decision { verdict: Verdict::Reply(found_as(query, &name, reply)), ..found };
                }
                Verdict::Reply(_) => {}
                Verdict::Silence | Verdict::Transfer(_) => return found,
                Verdict::Ask(mut ask) => {
                    ask.search = Some(search);
                    return Decision { verdict: Verdict::Ask(ask), ..found };
                }
            }
        }
        self.decide_failed(query, &search, client)
    }

    /// No name of the list exists, or it cannot be told.
    fn decide_failed(&self, query: &Query<'_>, search: &Search, client: &Client) -> Decision<'_> {
        if let Some(rcode) = search.failed {
            return Decision::new(
                Verdict::Reply(Reply { recursion_available: true, ..Reply::new(rcode) }),
                Plugin::Autopath,
            );
        }
        let first = self.decide_step(&search.names[0], query, client);
        match first.verdict {
            Verdict::Reply(_) => first,
            _ => Decision::error(Rcode::NXDOMAIN),
        }
    }

    fn decide_step(&self, name: &Name, query: &Query<'_>, client: &Client) -> Decision<'_> {
        let renamed = Renamed::new(name.as_wire(), query.rtype, query.class);
        let query = renamed.of(query);
        match self.setup().head_of(query.name, client) {
            Some(head) => self.decide_in(self.setup().heads()[head].block, &query, client, 0),
            None => Decision::error(Rcode::REFUSED),
        }
    }
}

/// The reply for `name` as an answer to `query`: an alias from the name asked for comes first, with the TTL of what it
/// leads to.
pub(crate) fn found_as<'s>(query: &Query<'_>, name: &Name, mut reply: Reply<'s>) -> Reply<'s> {
    let is_same = query.name.eq_ignore_ascii_case(name.as_wire());
    let Some(ttl_secs) = reply.answers.first().map(|rr| rr.ttl_secs).filter(|_| !is_same) else { return reply };
    let Some(owner) = Name::from_wire(query.name) else { return reply };
    let link = Alias { owner, target: name.clone(), ttl_secs };
    let data = Cow::Owned(Rdata::Cname(link.target.clone()));
    reply.answers.insert(0, Rr::internet(&link.owner, Rtype::CNAME, ttl_secs, data));
    reply
}
