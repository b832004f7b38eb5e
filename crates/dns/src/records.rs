//! The zones: every name of the cluster with its records, kept up to date by deltas.
//!
//! ```text
//!  Snapshot + Delta ──► update ──► names (tree order) ──► answer
//!                          │
//!                          └─ addresses: which Services claim one ──► its PTR name
//! ```
//!
//! Maps are persistent: a clone is a pointer copy, so a writer can go on while readers answer from the clone before.
//! Cost of an update is that of the objects it names. Knows no packet and no clock: the serial is given in.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::IpNet;
use portolan_model::{Complaint, Delta, NsName, Snapshot, Text};

use crate::name::{Key, Name, undashed};
use crate::rdata::{Node, Rdata, RecordSet, Rtype};
use crate::zone::{
    Claim, PodRecords, ServiceRecords, ZoneConfig, apex_nodes, namespace_nodes, service_records, service_ref,
};

/// All names we answer for. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Records {
    config: Arc<ZoneConfig>,
    zone_key: Key,
    pod_key: Option<Key>,
    names: OrdMap<Key, Arc<Node>>,
    services: OrdMap<NsName, Arc<Told>>,
    /// Who claims an address, sorted by Service. Few do, so these are no maps.
    addresses: OrdMap<IpAddr, Vec<(NsName, Claim)>>,
    /// Services in front of us, with their ClusterIPs.
    servers: OrdMap<NsName, Vec<IpAddr>>,
    serial: u32,
    /// The cluster domain's SOA and its TTL, as each absence needs it.
    soa: Arc<(u32, Rdata)>,
    synced: bool,
}

/// What a Service put into the zones, as it is needed to take it away again. Its nodes are those of `names`.
#[derive(Debug, Default, PartialEq)]
struct Told {
    names: Vec<(Key, Arc<Node>)>,
    claims: Vec<(IpAddr, Claim)>,
    complaints: Vec<Complaint>,
}

/// What an update did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Names whose records differ, in tree order.
    pub names: Vec<Name>,
    /// Names looked at: what the update cost.
    pub visited: usize,
}

/// What is at a name of our zone.
#[derive(Clone, Debug, PartialEq)]
pub enum Found<'r> {
    /// A name with or without records.
    Node(&'r Node),
    /// A pod record, made of the name itself; the node is its namespace's.
    Pod(IpAddr, &'r Node),
    /// No records, but names below: an empty non-terminal.
    Below(&'r Node),
    /// No such name.
    Nothing,
}

impl Records {
    /// Zones of a cluster nobody told us anything of, and not synced.
    pub fn new(config: ZoneConfig) -> Self {
        let mut records = Self {
            zone_key: config.zone.key(),
            pod_key: config.zone.child("pod").map(|name| name.key()),
            names: OrdMap::new(),
            services: OrdMap::new(),
            addresses: OrdMap::new(),
            servers: OrdMap::new(),
            serial: 0,
            soa: Arc::new(config.soa(&config.zone, 0)),
            synced: false,
            config: Arc::new(config),
        };
        records.rebuild_apex(&mut Changes::default());
        records
    }

    /// The zones of `snapshot` from scratch, synced.
    pub fn from_snapshot(config: ZoneConfig, snapshot: &Snapshot) -> Self {
        let mut records = Self::new(config);
        records.update(snapshot, &Delta::all(snapshot));
        records.mark_synced();
        records
    }

    /// Brings the zones to `snapshot`, looking only at what `delta` names.
    pub fn update(&mut self, snapshot: &Snapshot, delta: &Delta) -> Changes {
        let mut changes = Changes::default();
        for namespace in &delta.namespaces {
            self.update_namespace(namespace, snapshot.namespaces.contains(namespace), &mut changes);
        }
        let mut reverse = BTreeSet::new();
        let servers = self.servers.clone();
        for key in &delta.services {
            let after = snapshot.services.get(key).map(|view| service_records(&self.config, view));
            self.update_service(key, after.unwrap_or_default(), &mut reverse, &mut changes);
        }
        for addr in reverse {
            self.rebuild_reverse(addr, &mut changes);
        }
        if servers != self.servers {
            self.rebuild_apex(&mut changes);
        }
        changes.names.sort_by_cached_key(Name::key);
        changes.names.dedup();
        changes
    }

    /// From now on what is not found does not exist. Before, it is unknown (SERVFAIL).
    pub fn mark_synced(&mut self) {
        self.synced = true;
    }

    /// Everything the cluster holds was seen once.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Sets the SOA serial: seconds since 1970 of the last change, by custom.
    pub fn set_serial(&mut self, serial: u32) {
        self.serial = serial;
        self.soa = Arc::new(self.config.soa(&self.config.zone, serial));
    }

    /// The SOA serial.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// The SOA of the cluster domain, and the TTL to send it with.
    pub fn soa(&self) -> &(u32, Rdata) {
        &self.soa
    }

    /// The operator's settings.
    pub fn config(&self) -> &ZoneConfig {
        &self.config
    }

    /// How many names hold records or stand for a namespace.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Never: the apex is always there.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// What is wrong with Services, sorted by Service.
    pub fn complaints(&self) -> Vec<Complaint> {
        self.services.values().flat_map(|service| service.complaints.iter().cloned()).collect()
    }

    /// `key` is the cluster domain or below it.
    pub fn is_in_zone(&self, key: &[u8]) -> bool {
        key.starts_with(self.zone_key.as_bytes())
    }

    /// `key` asks for an address of the cluster's own ranges backwards.
    pub fn is_own_reverse(&self, key: &[u8]) -> bool {
        self.config.own_ranges.iter().any(|range| key.starts_with(reverse_root(*range).as_bytes()))
    }

    /// The name at `key`, in whichever zone.
    pub fn node(&self, key: &[u8]) -> Option<&Node> {
        self.names.get(key).map(|node| &**node)
    }

    /// All names, in tree order.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.names.values().map(|node| &**node)
    }

    /// What stands at one name, in the lines of a zone file; none for a name that only exists.
    pub fn lines(node: &Node) -> Vec<String> {
        let of_set = |set: &RecordSet| {
            let (ttl_secs, rtype) = (set.ttl_secs, set.rtype);
            let line = move |data: &Rdata| format!("{} {ttl_secs} IN {rtype} {data}", node.owner);
            set.data.iter().map(line).collect::<Vec<_>>()
        };
        node.sets.iter().flat_map(of_set).collect()
    }

    /// What is at `key`, which must be in our zone.
    pub fn find(&self, key: &[u8]) -> Found<'_> {
        let next = self.names.get_next(key);
        match next {
            Some((found, node)) if found.as_bytes() == key => Found::Node(node),
            Some((found, node)) if found.as_bytes().starts_with(key) => Found::Below(node),
            _ => self.find_pod(key).unwrap_or(Found::Nothing),
        }
    }

    /// Zone file text, in tree order: `name TTL IN TYPE data ; causes`. Names that hold nothing are comments.
    pub fn dump(&self) -> String {
        let mut out = String::new();
        let zone = &self.config.zone;
        let (ttl, soa) = &*self.soa;
        let _ = writeln!(out, "{zone} {ttl} IN SOA {soa}");
        for node in self.names.values() {
            dump_node(&mut out, node);
        }
        if self.config.pods == PodRecords::Insecure {
            let _ = writeln!(
                out,
                "; ADDRESS-WITH-DASHES.NAMESPACE.pod.{zone} answers its own address, in each namespace that exists"
            );
        }
        out
    }

    fn find_pod(&self, key: &[u8]) -> Option<Found<'_>> {
        let root = self.pod_key.as_ref().filter(|_| self.config.pods == PodRecords::Insecure)?;
        let below = key.strip_prefix(root.as_bytes())?;
        let mut labels = crate::name::labels(below);
        let (namespace, label) = (labels.next()?, labels.next()?);
        if labels.next().is_some() {
            return None;
        }
        let namespace = self.node(&key[..root.as_bytes().len() + namespace.len() + 1])?;
        let addr = undashed(std::str::from_utf8(label).ok()?)?;
        Some(Found::Pod(addr, namespace))
    }

    fn update_namespace(&mut self, namespace: &Text, exists: bool, changes: &mut Changes) {
        for node in namespace_nodes(&self.config, namespace) {
            self.replace(node.owner.key(), exists.then_some(node), changes);
        }
    }

    /// Puts what a Service is now in place of what it was; one that is gone is empty.
    fn update_service(
        &mut self,
        key: &NsName,
        after: ServiceRecords,
        reverse: &mut BTreeSet<IpAddr>,
        changes: &mut Changes,
    ) {
        let before = self.services.get(key).cloned().unwrap_or_default();
        for (name, _) in before.names.iter().filter(|(name, _)| !after.names.contains_key(name)) {
            self.replace(name.clone(), None, changes);
        }
        let mut told =
            Told { claims: after.claims.into_iter().collect(), complaints: after.complaints, ..Told::default() };
        for (name, node) in after.names {
            let node = self.replace(name.clone(), Some(node), changes);
            told.names.extend(node.map(|node| (name, node)));
        }
        self.update_claims(key, &before.claims, &told.claims, reverse);
        match after.server_ips.is_empty() {
            true => self.servers.remove(key),
            false => self.servers.insert(key.clone(), after.server_ips),
        };
        match told == Told::default() {
            true => self.services.remove(key),
            false => self.services.insert(key.clone(), Arc::new(told)),
        };
    }

    fn update_claims(
        &mut self,
        key: &NsName,
        before: &[(IpAddr, Claim)],
        after: &[(IpAddr, Claim)],
        reverse: &mut BTreeSet<IpAddr>,
    ) {
        let of = |claims: &[(IpAddr, Claim)], addr: IpAddr| {
            claims.binary_search_by_key(&addr, |(addr, _)| *addr).ok().map(|place| claims[place].1.clone())
        };
        for (addr, _) in before.iter().chain(after) {
            let claim = of(after, *addr);
            if of(before, *addr) != claim {
                reverse.insert(*addr);
                self.set_claim(key, *addr, claim);
            }
        }
    }

    fn set_claim(&mut self, key: &NsName, addr: IpAddr, claim: Option<Claim>) {
        let claims = self.addresses.entry(addr).or_default();
        match (claims.binary_search_by(|(service, _)| service.cmp(key)), claim) {
            (Ok(place), Some(claim)) => claims[place].1 = claim,
            (Ok(place), None) => drop(claims.remove(place)),
            (Err(place), Some(claim)) => {
                claims.reserve_exact(1);
                claims.insert(place, (key.clone(), claim));
            }
            (Err(_), None) => {}
        }
        if claims.is_empty() {
            self.addresses.remove(&addr);
        }
    }

    fn rebuild_reverse(&mut self, addr: IpAddr, changes: &mut Changes) {
        let owner = Name::reverse(addr);
        let key = owner.key();
        let claims = self.addresses.get(&addr).cloned().unwrap_or_default();
        let by_cluster_ip = claims.iter().any(|(_, claim)| claim.cluster_ip);
        let mut node = Node::bare(owner, Vec::new());
        for (service, claim) in claims.iter().filter(|(_, claim)| claim.cluster_ip == by_cluster_ip) {
            for target in &claim.targets {
                node.add(Rtype::PTR, self.config.ttl_secs, Rdata::Ptr(target.clone()));
            }
            node.blame(service_ref(service));
        }
        self.replace(key, (!claims.is_empty()).then_some(node), changes);
    }

    fn rebuild_apex(&mut self, changes: &mut Changes) {
        let servers: Vec<(NsName, Vec<IpAddr>)> = self.servers.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        for node in apex_nodes(&self.config, &servers) {
            self.replace(node.owner.key(), Some(node), changes);
        }
    }

    /// Gives what is there now, shared.
    fn replace(&mut self, key: Key, node: Option<Node>, changes: &mut Changes) -> Option<Arc<Node>> {
        changes.visited += 1;
        let old = self.names.get(&key);
        if old.map(|old| &**old) == node.as_ref() {
            return old.cloned();
        }
        changes.names.extend(node.as_ref().or(old.map(|old| &**old)).map(|node| node.owner.clone()));
        let Some(node) = node else {
            self.names.remove(&key);
            return None;
        };
        let node = Arc::new(node.shrunk());
        self.names.insert(key, node.clone());
        Some(node)
    }
}

/// The name above all reverse names of `range`, at the label border at or above its prefix.
fn reverse_root(range: IpNet) -> Key {
    let labels = usize::from(range.prefix_len()) / if range.addr().is_ipv4() { 8 } else { 4 } + 2;
    let whole = Name::reverse(range.addr()).key();
    let len = crate::name::labels(whole.as_bytes()).take(labels).map(|label| label.len() + 1).sum();
    Key::from_prefix(&whole, len)
}

fn dump_node(out: &mut String, node: &Node) {
    let causes: Vec<String> = node.causes.iter().map(ToString::to_string).collect();
    let comment = match causes.is_empty() {
        true => String::new(),
        false => format!(" ; {}", causes.join(", ")),
    };
    if node.sets.is_empty() {
        let _ = writeln!(out, "; {} exists{comment}", node.owner);
    }
    for line in Records::lines(node) {
        let _ = writeln!(out, "{line}{comment}");
    }
}
