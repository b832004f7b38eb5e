//! The `kubernetes` plugin: what the cluster holds, seen as zones.
//!
//! ```text
//!  question ──► Place (where in a zone) ──► Decided (what is there) ──► told, record by record ──► Packet, or Reply
//!                                             │
//!                                             └─► why: the objects it comes from
//! ```
//!
//! A [`View`] is a zone's names, TTL and modes; [`Records`] is what the cluster holds. [`View::write`] answers into bytes
//! at once, and is what a server does for most queries; [`View::say`] gives the same answer as a value that other plugins
//! may change. No cache, no upstream, no clock here.
//!
//! Spec: Kubernetes DNS-Based Service Discovery 1.1.0; RFC 2308 (absence), RFC 8020 (names above names), RFC 8482 (ANY);
//! where they are silent, what clusters rely on: SRV at the plain Service name, weights, names of endpoints below every
//! kind of Service.

mod decide;
pub mod listing;
pub(crate) mod place;
pub(crate) mod tell;
mod why;

use std::net::IpAddr;

use ipnet::IpNet;
use portolan_model::ObjectRef;

use crate::answer::Alias;
use crate::build::{Flags, Packet, Reply, Section, Sink};
use crate::corefile::config::{Fallthrough, KubernetesConfig, PodMode};
use crate::kubernetes::decide::Question;
use crate::kubernetes::place::Asked;
use crate::name::Name;
use crate::plugin::Said;
use crate::rdata::Soa;
use crate::records::Records;
use crate::wire::{Query, Rcode};
use crate::zone::{ZoneConfig, soa};

/// Longest TTL of the SOA itself.
pub(crate) const SOA_TTL_SECS: u32 = 300;
/// The name server's name, below each zone.
pub(crate) const SERVER: &str = "ns.dns";
/// Whom to write to, below each zone.
pub(crate) const MAILBOX: &str = "hostmaster";

/// A cluster as zones: their names, TTL and modes. Made once per configuration.
#[derive(Clone, Debug)]
pub struct View {
    config: ZoneConfig,
    /// Zones of names, the longest first.
    forward: Vec<Zone>,
    /// Zones of addresses, the longest first.
    reverse: Vec<Zone>,
    /// Labels of the namespaces that are shown, sorted; `None`: all.
    namespaces: Option<Vec<Box<[u8]>>>,
    no_endpoints: bool,
    ignore_empty_service: bool,
    fallthrough: Falls,
}

/// [`Fallthrough`], with zones as they are compared: in lower case, with their counts of labels.
#[derive(Clone, Debug)]
pub(crate) enum Falls {
    Never,
    Always,
    In(Vec<(Box<[u8]>, usize)>),
}

/// One zone, with what its answers need ready.
#[derive(Clone, Debug)]
pub(crate) struct Zone {
    pub name: Name,
    /// Its name in lower case.
    lower: Box<[u8]>,
    labels: usize,
    /// With serial 0: the records know theirs.
    pub soa: Soa,
    /// `ns.dns.<zone>`.
    pub host: Name,
}

/// What came of a question put to [`View::write`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrote {
    /// The reply is written; its code.
    Reply(Rcode),
    /// As [`Said::Alias`]; nothing is written.
    Alias(Vec<Alias>),
    /// As [`Said::Next`]; nothing is written.
    Next,
}

/// How a reply is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// Most bytes of it.
    pub limit: usize,
    /// Addresses start at a place that this number picks, so that clients who take the first are spread; `None`: in order.
    pub turn: Option<u16>,
}

/// Why an answer is what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Why {
    /// Objects it comes from, sorted.
    pub causes: Vec<ObjectRef>,
    /// In a few words.
    pub note: &'static str,
}

impl View {
    /// The view that a `kubernetes` block asks for. `own_addresses` are those at which this DNS answers: a Service with
    /// one of them is the zones' name server. `own_ranges` are the cluster's: before all is read, PTR of an address in
    /// them is left to nobody else.
    pub fn new(config: &KubernetesConfig, own_addresses: &[IpAddr], own_ranges: &[IpNet]) -> Self {
        let is_reverse = |name: &&Name| is_reverse(name);
        let first = config.zones.iter().find(|name| !is_reverse(name)).or(config.zones.first());
        let zones = ZoneConfig {
            zone: first.cloned().unwrap_or_else(Name::root),
            ttl_secs: config.ttl_secs,
            pods: config.pods,
            endpoint_pod_names: config.endpoint_pod_names,
            own_addresses: own_addresses.to_vec(),
            own_ranges: own_ranges.to_vec(),
        };
        let namespaces = config.namespaces.iter().filter_map(|name| crate::records::labels_of([name.as_str()]));
        let mut namespaces: Vec<Box<[u8]>> = namespaces.map(|label| Box::from(&*label)).collect();
        namespaces.sort();
        Self {
            forward: Zone::longest_first(
                config.zones.iter().filter(|name| !is_reverse(name)),
                SERVER,
                MAILBOX,
                config.ttl_secs,
            ),
            reverse: Zone::longest_first(config.zones.iter().filter(is_reverse), SERVER, MAILBOX, config.ttl_secs),
            namespaces: (!config.namespaces.is_empty()).then_some(namespaces),
            no_endpoints: config.no_endpoints,
            ignore_empty_service: config.ignore_empty_service,
            fallthrough: Falls::of(&config.fallthrough),
            config: zones,
        }
    }

    /// The view of a cluster without a Corefile: its domain, and both reverse trees with `fallthrough`.
    pub fn of_cluster(config: ZoneConfig) -> Self {
        let trees = ["in-addr.arpa", "ip6.arpa"].map(|text| Name::parse(text).expect("two labels"));
        let [v4, v6] = trees.clone();
        let corefile = KubernetesConfig {
            zones: vec![config.zone.clone(), v4, v6],
            namespaces: Vec::new(),
            pods: config.pods,
            endpoint_pod_names: config.endpoint_pod_names,
            ttl_secs: config.ttl_secs,
            no_endpoints: false,
            ignore_empty_service: false,
            startup_timeout: std::time::Duration::from_secs(5),
            fallthrough: Fallthrough::In(trees.to_vec()),
        };
        Self::new(&corefile, &config.own_addresses, &config.own_ranges)
    }

    /// The settings that are one for all of its zones; `zone` is the first of names.
    pub fn config(&self) -> &ZoneConfig {
        &self.config
    }

    /// Its zones, forward ones first, each kind with the longest first.
    pub fn zones(&self) -> impl Iterator<Item = &Name> {
        self.forward.iter().chain(&self.reverse).map(|zone| &zone.name)
    }

    /// Says what it has to say to `query`, which is of class IN or ANY and no transfer. Addresses start at a place that
    /// `turn` picks, as in [`Manner`].
    pub fn say<'r>(&self, records: &Records, query: &Query<'_>, turn: Option<u16>) -> Said<'r> {
        let asked = Asked::new(query.name);
        let Some(question) = Question::new(self, records, &asked, query.rtype) else { return Said::Next };
        match question.outcome() {
            decide::Outcome::Told(told) => {
                let mut reply = Reply { authoritative: true, recursion_available: true, ..Reply::new(Rcode::NOERROR) };
                reply.rcode = question.tell(&told, turn, &mut reply);
                Said::Reply(reply)
            }
            decide::Outcome::Alias(links) => Said::Alias(question.aliases(&links)),
            decide::Outcome::Next => Said::Next,
        }
    }

    /// As [`Self::say`], written into `out`, which is emptied first, without allocating for the usual question.
    pub fn write(&self, records: &Records, query: &Query<'_>, manner: Manner, out: &mut Vec<u8>) -> Wrote {
        let asked = Asked::new(query.name);
        let Some(question) = Question::new(self, records, &asked, query.rtype) else { return Wrote::Next };
        match question.outcome() {
            decide::Outcome::Told(told) => {
                let mut packet = Packet::new(query, manner.limit, out);
                let rcode = question.tell(&told, manner.turn, &mut packet);
                let flags = Flags { rcode, authoritative: true, recursion_available: true, authentic_data: false };
                packet.finish(flags);
                Wrote::Reply(rcode)
            }
            decide::Outcome::Alias(links) => Wrote::Alias(question.aliases(&links)),
            decide::Outcome::Next => Wrote::Next,
        }
    }

    /// Why `query` gets what it gets.
    pub fn why(&self, records: &Records, query: &Query<'_>) -> Why {
        match Question::new(self, records, &Asked::new(query.name), query.rtype) {
            Some(question) => question.why(),
            None => Why { causes: Vec::new(), note: "not a name of ours" },
        }
    }

    /// The namespace of this label is shown.
    pub(crate) fn shows(&self, label: &[u8]) -> bool {
        let Some(namespaces) = &self.namespaces else { return true };
        namespaces.binary_search_by(|shown| (**shown).cmp(label)).is_ok()
    }

    /// TTL of SOA records.
    pub(crate) fn soa_ttl_secs(&self) -> u32 {
        self.config.ttl_secs.min(SOA_TTL_SECS)
    }

    /// The first zone of names: what PTR records point into.
    pub(crate) fn primary(&self) -> Option<&Zone> {
        self.forward.iter().find(|zone| zone.name == self.config.zone)
    }
}

impl Falls {
    pub(crate) fn of(fallthrough: &Fallthrough) -> Self {
        match fallthrough {
            Fallthrough::Never => Self::Never,
            Fallthrough::Always => Self::Always,
            Fallthrough::In(zones) => Self::In(zones.iter().map(comparable).collect()),
        }
    }

    /// What is not found at this name is asked of others.
    pub(crate) fn lets(&self, asked: &Asked<'_>) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::In(zones) => zones.iter().any(|(zone, labels)| asked.left_of(zone, *labels).is_some()),
        }
    }
}

/// A zone's name in lower case, and its count of labels.
fn comparable(name: &Name) -> (Box<[u8]>, usize) {
    (name.as_wire().to_ascii_lowercase().into(), crate::name::labels(name.as_wire()).count())
}

impl Zone {
    /// `server` and `mailbox` are what stands left of the zone in these names of its SOA.
    fn new(name: &Name, server: &str, mailbox: &str, ttl_secs: u32) -> Self {
        let soa = soa(name, server, mailbox, ttl_secs);
        let (lower, labels) = comparable(name);
        Self { name: name.clone(), lower, labels, host: soa.mname.clone(), soa }
    }

    /// How many labels of a name stand left of it; `None`: the name is not in it.
    pub(crate) fn left_of(&self, asked: &Asked<'_>) -> Option<usize> {
        asked.left_of(&self.lower, self.labels)
    }

    pub(crate) fn longest_first<'a>(
        names: impl Iterator<Item = &'a Name>,
        server: &str,
        mailbox: &str,
        ttl_secs: u32,
    ) -> Vec<Self> {
        let mut zones: Vec<Self> = names.map(|name| Self::new(name, server, mailbox, ttl_secs)).collect();
        zones.sort_by_key(|zone| std::cmp::Reverse(zone.labels));
        zones
    }
}

/// A zone of addresses: one of the two reverse trees, or below one.
pub(crate) fn is_reverse(name: &Name) -> bool {
    Asked::new(name.as_wire()).reverse().is_some()
}

/// Only whether there is anything.
struct Any(bool);

impl Sink for Any {
    fn record(&mut self, _: Section, _: &[u8], _: u32, _: crate::build::Data<'_>) -> bool {
        self.0 = true;
        false
    }
}

/// Pod records of some kind are answered.
pub(crate) fn has_pods(mode: PodMode) -> bool {
    mode != PodMode::Disabled
}
