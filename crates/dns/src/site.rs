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

use std::sync::Arc;
use std::time::Duration;

use crate::client::Client;
use crate::corefile::Corefile;
use crate::kubernetes::{Manner, View, Wrote};
use crate::name::Name;
use crate::plugin::Plugin;
use crate::pods::Pods;
use crate::rdata::Rtype;
use crate::records::Records;
use crate::wire::{CLASS_IN, Query, Rcode, Rejected};
use crate::zone::{PodRecords, ZoneConfig};

pub(crate) use decide::linked;
pub use decide::{Ask, Decision, Verdict};
pub use search::Search;
pub(crate) use search::found_as;
pub use setup::{Files, Head, Setup};

/// Zones and configuration, ready to answer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Site {
    setup: Arc<Setup>,
    records: Records,
    pods: Pods,
    /// Of each block with `kubernetes`, its view of the records.
    views: Arc<[Option<View>]>,
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
}

impl Site {
    /// A site of this configuration, these records and pods.
    pub fn new(setup: Arc<Setup>, records: Records, pods: Pods) -> Self {
        let views = views(&setup, &records);
        Self { setup, records, pods, views }
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
        Self::new(Arc::new(Setup::new(Corefile::default(), &Files::default())), Records::new(zone), Pods::default())
    }

    /// It with other records.
    pub fn with_records(&self, records: Records) -> Self {
        let is_same = records.config() == self.records.config();
        let views = if is_same { self.views.clone() } else { views(&self.setup, &records) };
        Self { records, views, ..self.clone() }
    }

    /// It with other pods.
    pub fn with_pods(&self, pods: Pods) -> Self {
        Self { pods, ..self.clone() }
    }

    /// It with another configuration.
    pub fn with_setup(&self, setup: Arc<Setup>) -> Self {
        Self { views: views(&setup, &self.records), setup, ..self.clone() }
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

    /// Answers `packet` into `out`, which is emptied first, if that needs nobody else. Takes no time to speak of: no lock
    /// that is held for long, no allocation for the usual query.
    pub fn answer_now(&self, packet: &[u8], client: &Client, now: Duration, out: &mut Vec<u8>) -> Now {
        out.clear();
        let query = match Query::parse(packet) {
            Ok(query) => query,
            Err(Rejected::Silence) => return Now::Silent,
            Err(Rejected::Reply(bytes)) => {
                out.extend_from_slice(&bytes);
                return Now::Replied(Served::of_unread(out));
            }
        };
        if let Some(served) = self.answer_plainly(&query, client, out) {
            self.note_pod(&query, client, served.rcode);
            return Now::Replied(served);
        }
        let decision = self.decide(&query, client, now);
        let mut served = Served {
            rcode: Rcode::NOERROR,
            head: decision.head,
            by: decision.by,
            rtype: query.rtype,
            dnssec_ok: query.edns.is_some_and(|edns| edns.dnssec_ok),
        };
        match decision.verdict {
            Verdict::Reply(reply) => {
                served.rcode = reply.rcode;
                out.extend_from_slice(&reply.render(&query, client.transport));
                self.note_pod(&query, client, served.rcode);
                Now::Replied(served)
            }
            Verdict::Silence => Now::Silent,
            Verdict::Ask(_) => Now::Later,
        }
    }

    /// The short way of most queries: what `kubernetes` knows, written at once, in a block where no other plugin comes
    /// before it or changes what it says. `None`: the whole pipeline decides.
    fn answer_plainly(&self, query: &Query<'_>, client: &Client, out: &mut Vec<u8>) -> Option<Served> {
        if query.class != CLASS_IN || matches!(query.rtype, Rtype::AXFR | Rtype::IXFR) {
            return None;
        }
        if query.edns.is_some_and(|edns| edns.version != 0) {
            return None;
        }
        let head = self.setup.head_of(query.name, client)?;
        let block = self.setup.heads()[head].block;
        let (config, prepared) = self.setup.block(block);
        let view = self.views[block].as_ref().filter(|_| prepared.is_plain)?;
        let turn = config.loadbalance.then_some(query.id);
        let manner = Manner { limit: query.reply_limit(client.transport), turn };
        let Wrote::Reply(rcode) = view.write(&self.records, query, manner, out) else { return None };
        Some(Served {
            rcode,
            head: u16::try_from(head).ok(),
            by: Plugin::Kubernetes,
            rtype: query.rtype,
            dnssec_ok: query.edns.is_some_and(|edns| edns.dnssec_ok),
        })
    }

    /// Counts a query of a pod, and whether it was a step of its search list that led nowhere.
    pub(crate) fn note_pod(&self, query: &Query<'_>, client: &Client, rcode: Rcode) {
        if self.pods.is_empty() {
            return;
        }
        if let Some(pod) = self.pods.of(client) {
            let is_step = || pod.search.iter().any(|domain| fit::is_under(query.name, domain.as_wire()));
            pod.count(rcode == Rcode::NXDOMAIN && is_step());
        }
    }
}

/// The views that the blocks of a configuration ask for.
fn views(setup: &Setup, records: &Records) -> Arc<[Option<View>]> {
    let of_cluster = records.config();
    let view = |config| View::new(config, &of_cluster.own_addresses, &of_cluster.own_ranges);
    setup.config().blocks.iter().map(|block| block.kubernetes.as_ref().map(view)).collect()
}

impl Served {
    /// A reply to what was no query.
    pub(crate) fn of_unread(reply: &[u8]) -> Self {
        let rcode = Rcode(reply.get(3).map_or(0, |flags| u16::from(flags & 15)));
        Self { rcode, head: None, by: Plugin::None, rtype: Rtype(0), dnssec_ok: false }
    }
}
