//! What a query gets: from the zones at once, or the word that an upstream must be asked.
//!
//! ```text
//!  query ──► parse ──► decide(records, question) ──► Reply ──► bytes
//!                           ├─► Forward   the name is not ours
//!                           └─► Chase     an alias of ours leads outside
//! ```
//!
//! Deciding is apart from rendering, so that the same decision can be explained. No cache, no upstream, no clock here.
//!
//! Spec: RFC 1035 §4.3, RFC 2308 (absence), RFC 8020 (what is below an absent name), RFC 8482 (ANY); Kubernetes DNS-Based
//! Service Discovery 1.1.0.

use std::borrow::Cow;

use portolan_model::ObjectRef;

use crate::build::{Reply, Rr};
use crate::name::{Key, MAX_NAME, Name, key_into};
use crate::rdata::{Node, Rdata, RecordSet, Rtype};
use crate::records::{Found, Records};
use crate::wire::{CLASS_ANY, CLASS_IN, Query, Rcode, Rejected, Transport};

/// Longest chain of aliases that is followed.
const MAX_LINKS: usize = 10;

/// What to do with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Send this to the client.
    Reply(Vec<u8>),
    /// Ask an upstream the client's own question.
    Forward,
    /// Ask an upstream for the last target, and send the chain and what comes.
    Chase(Chase),
    /// Send nothing.
    Silence,
}

/// Aliases of ours that end at a name outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chase {
    /// The CNAMEs, from the name asked for on; at least one.
    pub chain: Vec<Alias>,
}

impl Chase {
    /// The name to ask an upstream for.
    pub fn target(&self) -> &Name {
        &self.chain.last().expect("a chase starts with an alias").target
    }
}

/// One CNAME.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Alias {
    pub owner: Name,
    pub target: Name,
    pub ttl_secs: u32,
}

impl Alias {
    /// It as a record.
    pub fn record(&self) -> Rr<'static> {
        Rr::internet(&self.owner, Rtype::CNAME, self.ttl_secs, Cow::Owned(Rdata::Cname(self.target.clone())))
    }
}

/// An outcome with its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// What was done.
    pub outcome: Outcome,
    /// The code of the reply, if there is one yet.
    pub rcode: Option<Rcode>,
    /// The objects that the answer comes from.
    pub causes: Vec<ObjectRef>,
    /// Why, in a few words.
    pub note: &'static str,
}

/// Answers one packet.
pub fn answer(records: &Records, packet: &[u8], transport: Transport) -> Outcome {
    match Query::parse(packet) {
        Ok(query) => decide(records, &query).outcome(&query, transport),
        Err(rejected) => rejected.into(),
    }
}

/// What the zones say to a query.
pub fn say<'r>(records: &'r Records, query: &Query<'_>) -> crate::plugin::Said<'r> {
    use crate::plugin::Said;
    match decide(records, query).kind {
        Kind::Reply(reply) => Said::Reply(reply),
        Kind::Forward => Said::Next,
        Kind::Chase(chase) => Said::Alias(chase.chain),
    }
}

/// As [`answer`], and says which objects the answer comes from.
pub fn explain(records: &Records, packet: &[u8], transport: Transport) -> Explained {
    let query = match Query::parse(packet) {
        Ok(query) => query,
        Err(rejected) => {
            return Explained {
                outcome: rejected.into(),
                rcode: None,
                causes: Vec::new(),
                note: "no query we can read",
            };
        }
    };
    let decision = decide(records, &query);
    let mut causes: Vec<ObjectRef> = decision.nodes.iter().flat_map(|node| node.causes.iter().cloned()).collect();
    causes.sort();
    causes.dedup();
    let rcode = match &decision.kind {
        Kind::Reply(reply) => Some(reply.rcode),
        _ => None,
    };
    let note = decision.note;
    Explained { outcome: decision.outcome(&query, transport), rcode, causes, note }
}

impl From<Rejected> for Outcome {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::Silence => Self::Silence,
            Rejected::Reply(bytes) => Self::Reply(bytes),
        }
    }
}

enum Kind<'r> {
    Reply(Reply<'r>),
    Forward,
    Chase(Chase),
}

struct Decision<'r> {
    kind: Kind<'r>,
    /// Names that the decision comes from.
    nodes: Vec<&'r Node>,
    note: &'static str,
}

impl<'r> Decision<'r> {
    fn new(kind: Kind<'r>, note: &'static str) -> Self {
        Self { kind, nodes: Vec::new(), note }
    }

    fn from(mut self, node: &'r Node) -> Self {
        self.nodes.push(node);
        self
    }

    fn outcome(self, query: &Query<'_>, transport: Transport) -> Outcome {
        match self.kind {
            Kind::Reply(reply) => Outcome::Reply(reply.render(query, transport)),
            Kind::Forward => Outcome::Forward,
            Kind::Chase(chase) => Outcome::Chase(chase),
        }
    }
}

fn decide<'r>(records: &'r Records, query: &Query<'_>) -> Decision<'r> {
    if query.edns.is_some_and(|edns| edns.version != 0) {
        return refusal(Rcode::BADVERS, "EDNS version other than 0");
    }
    if query.class != CLASS_IN && query.class != CLASS_ANY {
        return refusal(Rcode::REFUSED, "class other than IN");
    }
    if matches!(query.rtype, Rtype::AXFR | Rtype::IXFR) {
        return refusal(Rcode::REFUSED, "zone transfer");
    }
    let mut buffer = [0; MAX_NAME];
    let key = key_into(query.name, &mut buffer);
    let zone = Zone { records, query, is_reverse: !records.is_in_zone(key) };
    match zone.is_reverse {
        false => zone.decide(key),
        true => zone.decide_elsewhere(key),
    }
}

fn refusal<'r>(rcode: Rcode, note: &'static str) -> Decision<'r> {
    Decision::new(Kind::Reply(Reply::new(rcode)), note)
}

struct Zone<'r, 'q> {
    records: &'r Records,
    query: &'q Query<'q>,
    /// The name is not in the cluster domain: if it is ours, it is a PTR name.
    is_reverse: bool,
}

impl<'r> Zone<'r, '_> {
    fn decide(&self, key: &[u8]) -> Decision<'r> {
        match self.records.find(key) {
            Found::Node(node) => self.at_node(node),
            Found::Pod(addr, namespace) => self.at_pod(addr, namespace),
            Found::Below(node) => self.absent(Rcode::NOERROR, "only names below it exist").from(node),
            Found::Nothing if self.records.is_synced() => self.absent(Rcode::NXDOMAIN, "no such name"),
            Found::Nothing => self.absent(Rcode::SERVFAIL, "no such name yet: the cluster was not read in full"),
        }
    }

    /// Outside the cluster domain only PTR names of our own addresses are ours; other names of the reverse zones go on,
    /// so that outside addresses resolve. Before all is read, an address may yet become ours: a clear "not now" is better
    /// than an upstream's "no".
    fn decide_elsewhere(&self, key: &[u8]) -> Decision<'r> {
        match self.records.node(key) {
            Some(node) => self.at_node(node),
            None if !self.records.is_synced() && self.records.is_own_reverse(key) => {
                self.absent(Rcode::SERVFAIL, "no such address yet: the cluster was not read in full")
            }
            None => Decision::new(Kind::Forward, "not a name of ours"),
        }
    }

    fn at_node(&self, node: &'r Node) -> Decision<'r> {
        let rtype = self.query.rtype;
        if rtype == Rtype::SOA && node.owner == self.records.config().zone {
            return self.soa_answer().from(node);
        }
        if matches!(rtype, Rtype::A | Rtype::AAAA)
            && let Some(alias) = node.set(Rtype::CNAME)
        {
            return self.follow(node, alias);
        }
        match if rtype == Rtype::ANY { node.sets.first() } else { node.set(rtype) } {
            Some(set) => self.present(node, set),
            None => self.absent(Rcode::NOERROR, "the name exists, without records of this type").from(node),
        }
    }

    fn present(&self, node: &'r Node, set: &'r RecordSet) -> Decision<'r> {
        let mut reply = self.authoritative(Rcode::NOERROR);
        reply.answers = self.turned(node, set);
        reply.additional = self.additional(set);
        Decision::new(Kind::Reply(reply), "records of the name").from(node)
    }

    /// A pod record is the address in the name: nobody looked whether a pod has it.
    fn at_pod(&self, addr: std::net::IpAddr, namespace: &'r Node) -> Decision<'r> {
        if Rtype::of_addr(addr) != self.query.rtype && self.query.rtype != Rtype::ANY {
            return self.absent(Rcode::NOERROR, "a pod record of the other family").from(namespace);
        }
        let Some(owner) = Name::from_wire(self.query.name) else { return refusal(Rcode::FORMERR, "broken name") };
        let data = Cow::Owned(Rdata::addr(addr));
        let mut reply = self.authoritative(Rcode::NOERROR);
        reply.answers.push(Rr::internet(&owner, Rtype::of_addr(addr), self.records.config().ttl_secs, data));
        Decision::new(Kind::Reply(reply), "a pod record: the address in the name itself").from(namespace)
    }

    /// Follows aliases inside our zones. One that ends nowhere, or in a loop, is as if it had no records.
    fn follow(&self, start: &'r Node, first: &'r RecordSet) -> Decision<'r> {
        let mut chain: Vec<Alias> = Vec::new();
        let mut nodes = vec![start];
        let mut set = first;
        loop {
            let node = nodes[nodes.len() - 1];
            let Some(Rdata::Cname(target)) = set.data.first() else { break };
            chain.push(Alias { owner: node.owner.clone(), target: target.clone(), ttl_secs: set.ttl_secs });
            let key = target.key();
            if !self.records.is_in_zone(key.as_bytes()) {
                return Decision { kind: Kind::Chase(Chase { chain }), nodes, note: "an alias of a name outside" };
            }
            match self.alias_target(&key, target) {
                Target::Alias(next, aliases) if chain.len() < MAX_LINKS => {
                    nodes.push(next);
                    set = aliases;
                }
                Target::Records(next, mut answers) => {
                    nodes.push(next);
                    let mut reply = self.authoritative(Rcode::NOERROR);
                    reply.answers = chain.iter().map(Alias::record).collect();
                    reply.answers.append(&mut answers);
                    return Decision { kind: Kind::Reply(reply), nodes, note: "an alias of a name in the cluster" };
                }
                Target::Alias(..) | Target::Nothing => break,
            }
        }
        let rcode = if self.records.is_synced() { Rcode::NOERROR } else { Rcode::SERVFAIL };
        let mut decision = self.absent(rcode, "an alias whose target has no such records");
        decision.nodes = nodes;
        decision
    }

    fn alias_target(&self, key: &Key, target: &Name) -> Target<'r> {
        match self.records.find(key.as_bytes()) {
            Found::Node(node) => match (node.set(Rtype::CNAME), node.set(self.query.rtype)) {
                (Some(aliases), _) => Target::Alias(node, aliases),
                (None, Some(set)) => Target::Records(node, self.turned(node, set)),
                (None, None) => Target::Nothing,
            },
            Found::Pod(addr, namespace) if Rtype::of_addr(addr) == self.query.rtype => {
                let ttl = self.records.config().ttl_secs;
                let data = Cow::Owned(Rdata::addr(addr));
                Target::Records(namespace, vec![Rr::internet(target, self.query.rtype, ttl, data)])
            }
            _ => Target::Nothing,
        }
    }

    /// A set's records, started at a place that the query's ID picks: clients that take the first are spread.
    fn turned(&self, node: &'r Node, set: &'r RecordSet) -> Vec<Rr<'r>> {
        let start = usize::from(self.query.id) % set.data.len().max(1);
        let (tail, head) = set.data.split_at(start);
        let order = head.iter().chain(tail);
        order.map(|data| Rr::internet(&node.owner, set.rtype, set.ttl_secs, Cow::Borrowed(data))).collect()
    }

    /// Addresses of the names that the answers point to, each name once.
    fn additional(&self, set: &'r RecordSet) -> Vec<Rr<'r>> {
        let mut targets: Vec<&Name> = set.data.iter().filter_map(Rdata::additional).collect();
        targets.sort();
        targets.dedup();
        let nodes = targets.into_iter().filter_map(|target| self.records.node(target.key().as_bytes()));
        let sets = nodes.flat_map(|node| [Rtype::A, Rtype::AAAA].map(|rtype| (node, node.set(rtype))));
        sets.filter_map(|(node, set)| Some((node, set?)))
            .flat_map(|(node, set)| set.data.iter().map(move |data| (node, set, data)))
            .map(|(node, set, data)| Rr::internet(&node.owner, set.rtype, set.ttl_secs, Cow::Borrowed(data)))
            .collect()
    }

    fn soa_answer(&self) -> Decision<'r> {
        let mut reply = self.authoritative(Rcode::NOERROR);
        reply.answers.push(self.soa());
        Decision::new(Kind::Reply(reply), "the zone's SOA")
    }

    fn absent(&self, rcode: Rcode, note: &'static str) -> Decision<'r> {
        let mut reply = self.authoritative(rcode);
        reply.authority.push(self.soa());
        Decision::new(Kind::Reply(reply), note)
    }

    fn soa(&self) -> Rr<'r> {
        match self.is_reverse {
            true => {
                let zone = reverse_zone(self.query.name);
                let (ttl, data) = self.records.config().soa(&zone, self.records.serial());
                Rr::internet(&zone, Rtype::SOA, ttl, Cow::Owned(data))
            }
            false => {
                let (ttl, data) = self.records.soa();
                Rr::internet(&self.records.config().zone, Rtype::SOA, *ttl, Cow::Borrowed(data))
            }
        }
    }

    fn authoritative(&self, rcode: Rcode) -> Reply<'r> {
        Reply { authoritative: true, recursion_available: true, ..Reply::new(rcode) }
    }
}

/// The reverse zone that `name` is in: its last two labels.
fn reverse_zone(name: &[u8]) -> Name {
    let v4 = Name::parse("in-addr.arpa").expect("two labels");
    let v6 = Name::parse("ip6.arpa").expect("two labels");
    let is_v4 = Key::of(name).as_bytes().starts_with(v4.key().as_bytes());
    if is_v4 { v4 } else { v6 }
}

enum Target<'r> {
    Alias(&'r Node, &'r RecordSet),
    Records(&'r Node, Vec<Rr<'r>>),
    Nothing,
}
