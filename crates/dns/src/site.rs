//! What answers without asking anybody: zones and configuration as one value that many threads read.
//!
//! ```text
//!  packet, client ──► Site::answer_now ──► Replied   the reply is in `out`
//!                          ├──► Silent    nothing is to be sent
//!                          └──► Later     an upstream, or time, is needed: the server's business
//! ```
//!
//! Hot threads and the server take the same decision ([`Site::decide`]); the server goes on where it says that an upstream
//! must be asked. A site never changes; who changes the zones or the configuration makes the next one, which shares all
//! that is alike.

mod decide;
mod fit;
mod search;
mod setup;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::cache::{AnswerCache, Written};
use crate::client::Client;
use crate::corefile::Corefile;
use crate::corefile::config::Block;
use crate::kubernetes::{Manner, Wrote};
use crate::name::Name;
use crate::plugin::Plugin;
use crate::plugin::log::Dealt;
use crate::pods::Pods;
use crate::rdata::Rtype;
use crate::records::Records;
use crate::records::service::Service;
use crate::wire::{self, PLAIN_UDP, Query, Rcode, Rejected, Transport};
use crate::zone::{PodRecords, ZoneConfig};

pub(crate) use fit::is_under;

pub use decide::{Ask, Decision, Verdict};
pub use search::Search;
pub use setup::{Head, Setup, Surroundings};

/// Zones and configuration, ready to answer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Site {
    setup: Arc<Setup>,
    records: Records,
    pods: Pods,
}

/// What came of a packet at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Now {
    /// The reply is written.
    Replied(Served),
    /// Send nothing.
    Silent,
    /// Give the packet to the server.
    Later,
}

/// A reply, for those who count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// Its code.
    pub rcode: Rcode,
    /// The zone of a block that the query fell to, as an index into [`Setup::heads`]; `None`: to none.
    pub head: Option<u16>,
    /// The plugin that made the reply.
    pub by: Plugin,
    /// The type asked for.
    pub rtype: Rtype,
    /// The client wants DNSSEC records.
    pub dnssec_ok: bool,
    /// An upstream should be asked the same again: give the packet to [`Server::renew`](crate::Server::renew).
    pub renew: bool,
}

impl Site {
    /// A site of this configuration, these records and pods.
    pub fn new(setup: Arc<Setup>, records: Records, pods: Pods) -> Self {
        Self { setup, records, pods }
    }

    /// A site that holds nothing, as before the first word of a cluster.
    pub fn nothing() -> Self {
        let zone = ZoneConfig {
            zone: Name::root(),
            ttl_secs: 5,
            pods: PodRecords::Disabled,
            endpoint_pod_names: false,
            own_addresses: Vec::new(),
            own_ranges: Vec::new(),
        };
        Self::new(
            Arc::new(Setup::new(Corefile::default(), &Surroundings::default())),
            Records::new(zone),
            Pods::default(),
        )
    }

    /// It with other records.
    pub fn with_records(&self, records: Records) -> Self {
        Self { records, ..self.clone() }
    }

    /// It with other pods.
    pub fn with_pods(&self, pods: Pods) -> Self {
        Self { pods, ..self.clone() }
    }

    /// It with another configuration.
    pub fn with_setup(&self, setup: Arc<Setup>) -> Self {
        Self { setup, ..self.clone() }
    }

    /// The configuration, ready for use.
    pub fn setup(&self) -> &Arc<Setup> {
        &self.setup
    }

    /// The configuration.
    pub fn config(&self) -> &Corefile {
        self.setup.config()
    }

    /// The cluster's records.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// The pods that may ask.
    pub fn pods(&self) -> &Pods {
        &self.pods
    }

    /// Looks at the names in packets that will be answered next, so that memory of their Services comes near all at once
    /// instead of one after another. Changes nothing of what is answered.
    pub fn look_ahead<'p>(&self, packets: impl Iterator<Item = &'p [u8]>) {
        let likely = packets.filter_map(|packet| self.records.likely_service(wire::service_labels(packet)?));
        // All lookups before the first look at a Service: those wait for memory side by side.
        let services: SmallVec<[&Service; 64]> = likely.map(|service| &**service).collect();
        for service in services {
            black_box((service.labels.len(), service.ipv4));
        }
    }

    /// Answers `packet` into `out`, which is emptied first, if that needs nobody else. Takes no time to speak of: no lock
    /// that is held for long, no allocation for the usual query.
    pub fn answer_now(&self, packet: &[u8], client: &Client, now: Duration, out: &mut Vec<u8>) -> Now {
        out.clear();
        let query = match Query::parse(packet) {
            Ok(query) => query,
            Err(Rejected::Silence) => return Now::Silent,
            Err(Rejected::Reply(bytes)) => {
                out.extend_from_slice(&bytes);
                let served = Served::of_unread(out);
                self.setup.counts_of(None).count(client, &served, packet.len(), out.len());
                return Now::Replied(served);
            }
        };
        let said = self.answer_plainly(&query, client, now, out);
        let said = said.unwrap_or_else(|| self.answer_by_decision(&query, client, now, out));
        if let Now::Replied(served) = &said {
            self.note(&query, client, served, packet.len(), out.len());
        }
        said
    }

    /// The way of most queries: a block without plugins that change anything, a name of the cluster or one at hand in the
    /// cache, written into the packet at once. `None`: it is not of that kind.
    fn answer_plainly(&self, query: &Query<'_>, client: &Client, now: Duration, out: &mut Vec<u8>) -> Option<Now> {
        let head = self.setup.head_of(query.name, client)?;
        let at = self.setup.heads()[head].block;
        let (block, prepared) = self.setup.block(at);
        let is_plain = prepared.is_plain
            && prepared.acl.is_none()
            && block.logs.is_empty()
            && !(block.any && query.rtype == Rtype::ANY)
            && !block.local;
        if !is_plain
            || decide::refusal(query).is_some()
            || matches!(query.rtype, Rtype::AXFR | Rtype::IXFR)
            || block.autopath.is_some() && self.search_of(at, query, client).is_some()
        {
            return None;
        }
        let limit = reply_limit(query, client, Some(block));
        let served = |rcode, by| Served { head: u16::try_from(head).ok(), by, ..Served::new(query, rcode) };
        let turn = block.loadbalance.then_some(query.id);
        let wrote = prepared
            .view
            .as_ref()
            .map_or(Wrote::Next, |view| view.write(&self.records, query, Manner { limit, turn }, out));
        match wrote {
            Wrote::Reply(rcode) => Some(Now::Replied(served(rcode, Plugin::Kubernetes))),
            Wrote::Alias(_) => None,
            Wrote::Next => {
                self.group_of(at, query.name)?;
                let Some(cache) = &prepared.cache else { return Some(Now::Later) };
                match cache.write(query, limit, now, turn.map_or(0, u32::from), out) {
                    Written::Miss => Some(Now::Later),
                    Written::Hit(hit) => {
                        Some(Now::Replied(Served { renew: hit.ask_anew, ..served(hit.rcode, Plugin::Cache) }))
                    }
                }
            }
        }
    }

    fn answer_by_decision(&self, query: &Query<'_>, client: &Client, now: Duration, out: &mut Vec<u8>) -> Now {
        let block = self.block_of(query, client);
        // Whoever writes the log has time.
        if block.is_some_and(|block| !block.logs.is_empty()) {
            return Now::Later;
        }
        let decision = self.decide(query, client, now);
        match decision.verdict {
            Verdict::Reply(reply) => {
                reply.render_into(query, reply_limit(query, client, block), out);
                Now::Replied(Served { head: decision.head, by: decision.by, ..Served::new(query, reply.rcode) })
            }
            Verdict::Silence => Now::Silent,
            Verdict::Ask(_) | Verdict::Transfer(_) => Now::Later,
        }
    }

    /// The block that a query falls to.
    pub fn block_of(&self, query: &Query<'_>, client: &Client) -> Option<&Block> {
        let head = self.setup.head_of(query.name, client)?;
        Some(self.setup.block(self.setup.heads()[head].block).0)
    }

    /// The line that the block's `log` has for a query that was dealt with; whoever carried the reply writes it.
    pub fn log_line(&self, dealt: &Dealt<'_>) -> Option<String> {
        let head = self.setup.head_of(dealt.query.name, dealt.client)?;
        self.setup.block(self.setup.heads()[head].block).1.log.as_ref()?.line(dealt)
    }

    /// The cache of a block.
    pub(crate) fn cache_of(&self, block: usize) -> Option<&AnswerCache> {
        self.setup.block(block).1.cache.as_deref()
    }

    /// Counts a query and its reply.
    pub(crate) fn note(
        &self,
        query: &Query<'_>,
        client: &Client,
        served: &Served,
        request_bytes: usize,
        response_bytes: usize,
    ) {
        self.setup.counts_of(served.head).count(client, served, request_bytes, response_bytes);
        self.note_pod(query, client, served.rcode);
    }

    /// So many queries that fell to this zone (as [`Served::head`]) were answered so long after they came, each. Whoever
    /// carries replies tells it: only it knows when they came.
    pub fn took(&self, head: Option<u16>, took: Duration, queries: u64) {
        self.setup.counts_of(head).took(took, queries);
    }

    /// Counts a query of a pod, and whether it was a step of its search list that led nowhere.
    fn note_pod(&self, query: &Query<'_>, client: &Client, rcode: Rcode) {
        if self.pods.is_empty() {
            return;
        }
        if let Some(pod) = self.pods.of(client) {
            pod.count(if rcode == Rcode::NXDOMAIN { pod.searched(query.name) } else { None });
        }
    }
}

/// Most bytes of a reply: what the client takes and, by UDP, what the block allows.
pub(crate) fn reply_limit(query: &Query<'_>, client: &Client, block: Option<&Block>) -> usize {
    let limit = query.reply_limit(client.transport);
    match (client.transport, block) {
        (Transport::Udp, Some(block)) => limit.min(usize::from(block.bufsize_bytes).max(PLAIN_UDP)),
        _ => limit,
    }
}

impl Served {
    /// A reply with this code to `query`, of no block and no plugin.
    pub(crate) fn new(query: &Query<'_>, rcode: Rcode) -> Self {
        let dnssec_ok = query.edns.is_some_and(|edns| edns.dnssec_ok);
        Self { rcode, head: None, by: Plugin::None, rtype: query.rtype, dnssec_ok, renew: false }
    }

    /// A reply to what was no query.
    pub(crate) fn of_unread(reply: &[u8]) -> Self {
        let rcode = Rcode(reply.get(3).map_or(0, |flags| u16::from(flags & 15)));
        Self { rcode, head: None, by: Plugin::None, rtype: Rtype(0), dnssec_ok: false, renew: false }
    }
}
