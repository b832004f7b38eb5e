//! What the cluster holds, as DNS looks at it: namespaces, Services with their ready endpoints, who is at an address.
//!
//! ```text
//!  Snapshot + Delta ──► update ──► services   by the two labels of a query: 3web7default
//!                              ├─► namespaces by label
//!                              ├─► claims     address → Services that have it (PTR)
//!                              └─► pods       address → Pods (verified pod records)
//! ```
//!
//! No zone name, TTL or mode is in it: those are a [`View`]'s, and several views may look at one `Records`. All parts are
//! persistent: a clone copies pointers, so a writer goes on while readers answer from the clone before. Cost of an update
//! is that of the objects it names. Knows no packet and no clock: the serial is given in.

mod mixer;
pub mod service;
pub mod sorted;
mod table;

use std::net::IpAddr;
use std::sync::Arc;

use imbl::shared_ptr::DefaultSharedPtr;
use imbl::{GenericHashMap, OrdMap};
use portolan_model::{Complaint, Delta, NsName, ObjectKind, ObjectRef, Pod, Snapshot, Text};

use crate::kubernetes::View;
use crate::name::MAX_LABEL;
use crate::records::mixer::Mixer;
use crate::records::service::{Moved, Service};
use crate::records::sorted::Sorted;
use crate::records::table::Table;
use crate::zone::ZoneConfig;

pub use crate::kubernetes::listing::{Found, Listing};

type ByLabels<V> = GenericHashMap<Arc<[u8]>, V, Mixer, DefaultSharedPtr>;

/// What the cluster holds. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Records {
    view: Arc<View>,
    /// By one label in lower case, with its length before it.
    namespaces: ByLabels<Namespace>,
    /// By two labels: name, namespace.
    services: Table,
    /// Who has an address, as ClusterIP or ready endpoint: by address, then by the Service's labels.
    claims: Arc<Sorted<(IpAddr, Arc<[u8]>)>>,
    /// Who has an address outside the cluster: by address, then by the Service's labels.
    outside: Arc<Sorted<(IpAddr, Arc<[u8]>)>>,
    /// Who has an address: by address, then by the Pod.
    pods: Arc<Sorted<(IpAddr, NsName)>>,
    /// The Pods as they were told last, shared with the snapshot: which addresses to take back.
    told_pods: OrdMap<NsName, Arc<Pod>>,
    /// Services whose names make no domain name.
    unnamed: OrdMap<NsName, Complaint>,
    serial: u32,
    synced: bool,
}

/// What is known of a namespace.
#[derive(Clone, Debug)]
pub(crate) struct Namespace {
    /// Its name.
    pub name: Text,
    /// Its object is there.
    pub exists: bool,
    /// How many Services are in it.
    services: u32,
}

/// What an update did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Services that answer differently now, sorted.
    pub services: Vec<NsName>,
    /// Namespaces that came or went, sorted.
    pub namespaces: Vec<Text>,
    /// Pods whose addresses differ.
    pub pods: usize,
    /// Endpoints and Services written: what the update cost.
    pub written: usize,
}

impl Changes {
    /// Everything answers as before.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.namespaces.is_empty() && self.pods == 0
    }
}

impl Records {
    /// A cluster nobody told us anything of, not synced. `config` makes the view that [`Self::view`] gives.
    pub fn new(config: ZoneConfig) -> Self {
        Self {
            view: Arc::new(View::of_cluster(config)),
            namespaces: ByLabels::with_hasher(Mixer),
            services: Table::default(),
            claims: Arc::default(),
            outside: Arc::default(),
            pods: Arc::default(),
            told_pods: OrdMap::new(),
            unnamed: OrdMap::new(),
            serial: 0,
            synced: false,
        }
    }

    /// What `snapshot` holds from scratch, synced.
    pub fn from_snapshot(config: ZoneConfig, snapshot: &Snapshot) -> Self {
        let mut records = Self::new(config);
        records.update(snapshot, &Delta::all(snapshot));
        records.mark_synced();
        records
    }

    /// Brings it to `snapshot`, looking only at what `delta` names. One Service changes at once: who answers from a clone
    /// sees it as it was, who answers from this as it is, nobody half of it.
    pub fn update(&mut self, snapshot: &Snapshot, delta: &Delta) -> Changes {
        let mut changes = Changes::default();
        for name in &delta.namespaces {
            self.update_namespace(name, snapshot.namespaces.contains(name), &mut changes);
        }
        for key in &delta.services {
            self.update_service(key, snapshot, &mut changes);
        }
        for key in &delta.pods {
            let before = self.told_pods.get(key).map(|pod| addresses(pod).collect::<Vec<IpAddr>>()).unwrap_or_default();
            let after = snapshot.pods.get(key).map(|pod| addresses(pod).collect::<Vec<IpAddr>>()).unwrap_or_default();
            self.update_pod(key, &before, &after, &mut changes);
        }
        if !delta.pods.is_empty() {
            self.told_pods = snapshot.pods.clone();
        }
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
    }

    /// The SOA serial.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// The cluster's own view, of the configuration given to [`Self::new`]; a Corefile's are made with [`View::new`].
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// The configuration given to [`Self::new`].
    pub fn config(&self) -> &ZoneConfig {
        self.view.config()
    }

    /// How many Services there are.
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// No Service is there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is wrong with Services, sorted by Service.
    pub fn complaints(&self) -> Vec<Complaint> {
        let of_services = self.services.values().flat_map(|service| service.complaints());
        let mut all: Vec<Complaint> = self.unnamed.values().cloned().chain(of_services).collect();
        all.sort_by(|a, b| a.object.cmp(&b.object));
        all
    }

    /// The Service of two labels as they stand in a name, in lower case: `3web7default`.
    pub fn service(&self, labels: &[u8]) -> Option<&Arc<Service>> {
        self.services.get(labels)
    }

    /// The Service that these labels most likely lead to: the same, or one whose hash is alike.
    pub(crate) fn likely_service(&self, labels: &[u8]) -> Option<&Arc<Service>> {
        self.services.likely(labels)
    }

    /// All Services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// Services that have `addr`, as ClusterIP or ready endpoint, by their labels.
    pub fn claims(&self, addr: IpAddr) -> impl Iterator<Item = &Arc<Service>> {
        self.claims.equal(move |(other, _)| other.cmp(&addr)).filter_map(|(_, labels)| self.service(labels))
    }

    /// Some Service has an address from `low` to `high`.
    pub fn has_claim_within(&self, low: IpAddr, high: IpAddr) -> bool {
        let first = self.claims.count_before(|(addr, _)| *addr < low);
        self.claims.iter_from(first).next().is_some_and(|(addr, _)| *addr <= high)
    }

    /// Every address that some Service has, in order, each once.
    pub fn claimed(&self) -> impl Iterator<Item = IpAddr> {
        let mut last = None;
        self.claims.iter().map(|(addr, _)| *addr).filter(move |addr| last.replace(*addr) != Some(*addr))
    }

    /// Services that have `addr` outside the cluster, by their labels.
    pub fn outside_at(&self, addr: IpAddr) -> impl Iterator<Item = &Arc<Service>> {
        self.outside.equal(move |(other, _)| other.cmp(&addr)).filter_map(|(_, labels)| self.service(labels))
    }

    /// Every address outside the cluster that some Service has, in order, with the Services.
    pub fn outside(&self) -> impl Iterator<Item = (IpAddr, impl Iterator<Item = &Arc<Service>>)> {
        let mut last = None;
        let each = self.outside.iter().map(|(addr, _)| *addr).filter(move |addr| last.replace(*addr) != Some(*addr));
        each.map(|addr| (addr, self.outside_at(addr)))
    }

    /// Pods that have `addr`, sorted; those that are finished have none.
    pub fn pods_at(&self, addr: IpAddr) -> impl Iterator<Item = &NsName> {
        self.pods.equal(move |(other, _)| other.cmp(&addr)).map(|(_, pod)| pod)
    }

    /// A Pod as it was told last.
    pub(crate) fn pod(&self, key: &NsName) -> Option<&Pod> {
        self.told_pods.get(key).map(|pod| &**pod)
    }

    /// A namespace by its label in lower case, with its length before it.
    pub(crate) fn namespace(&self, label: &[u8]) -> Option<&Namespace> {
        self.namespaces.get(label)
    }

    /// All namespaces, in no order.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.namespaces.values()
    }

    fn update_namespace(&mut self, name: &Text, exists: bool, changes: &mut Changes) {
        let Some(label) = labels_of([&**name]) else { return };
        let before = self.namespaces.get(&*label).cloned();
        let before = before.unwrap_or(Namespace { name: name.clone(), exists: false, services: 0 });
        if before.exists != exists {
            changes.namespaces.push(name.clone());
            self.set_namespace(label, Namespace { exists, ..before });
        }
    }

    fn count_services(&mut self, name: &Text, by: i32) {
        let Some(label) = labels_of([&**name]) else { return };
        let before = self.namespaces.get(&*label).cloned();
        let before = before.unwrap_or(Namespace { name: name.clone(), exists: false, services: 0 });
        let services = before.services.wrapping_add_signed(by);
        self.set_namespace(label, Namespace { services, ..before });
    }

    fn set_namespace(&mut self, label: Arc<[u8]>, namespace: Namespace) {
        match namespace.exists || namespace.services > 0 {
            true => self.namespaces.insert(label, namespace),
            false => self.namespaces.remove(&*label),
        };
    }

    fn update_service(&mut self, key: &NsName, snapshot: &Snapshot, changes: &mut Changes) {
        let view = snapshot.services.get(key);
        let Some(labels) = labels_of([&*key.name, &*key.namespace]) else {
            match view {
                Some(_) => self.unnamed.insert(key.clone(), unnamed(key)),
                None => self.unnamed.remove(key),
            };
            return;
        };
        let before = self.services.get(&labels).cloned();
        let (after, moved) = match view {
            Some(view) => {
                let (after, moved) = Service::updated(before.as_deref(), view, &labels);
                (Some(after), moved)
            }
            None => (None, all_went(before.as_deref())),
        };
        let is_alike = match (&before, &after) {
            (Some(before), Some(after)) => before.is_alike(after) && moved.is_empty(),
            (None, None) => true,
            _ => false,
        };
        if is_alike {
            return;
        }
        changes.services.push(key.clone());
        changes.written += 1 + moved.came.len() + moved.went.len();
        self.update_claims(&labels, before.as_deref(), after.as_ref(), &moved);
        self.update_outside(&labels, before.as_deref(), after.as_ref());
        match (before.is_some(), after.is_some()) {
            (false, true) => self.count_services(&key.namespace, 1),
            (true, false) => self.count_services(&key.namespace, -1),
            _ => {}
        }
        match after {
            Some(after) => self.services.put(Arc::new(after)),
            None => self.services.take(&labels),
        }
    }

    /// An address is claimed while the Service has it in any way.
    fn update_claims(&mut self, labels: &Arc<[u8]>, before: Option<&Service>, after: Option<&Service>, moved: &Moved) {
        let ips =
            |service: Option<&Service>| service.into_iter().flat_map(Service::cluster_ips).collect::<Vec<IpAddr>>();
        let (gone, new) = (ips(before), ips(after));
        let has = |addr: IpAddr| new.contains(&addr) || after.is_some_and(|after| after.at(addr).next().is_some());
        let claims = Arc::make_mut(&mut self.claims);
        for addr in gone.iter().chain(&moved.went).filter(|addr| !has(**addr)) {
            claims.take(|(other, service)| (*other, &**service).cmp(&(*addr, &**labels)));
        }
        for addr in new.iter().filter(|addr| !gone.contains(addr)).chain(&moved.came) {
            claims.put((*addr, labels.clone()), |(other, service)| (*other, &**service).cmp(&(*addr, &**labels)));
        }
    }

    fn update_outside(&mut self, labels: &Arc<[u8]>, before: Option<&Service>, after: Option<&Service>) {
        let all = |service: Option<&Service>| service.into_iter().flat_map(Service::outside).collect::<Vec<IpAddr>>();
        let (gone, new) = (all(before), all(after));
        if gone == new {
            return;
        }
        let outside = Arc::make_mut(&mut self.outside);
        for addr in gone.iter().filter(|addr| !new.contains(addr)) {
            outside.take(|(other, service)| (*other, &**service).cmp(&(*addr, &**labels)));
        }
        for addr in new.iter().filter(|addr| !gone.contains(addr)) {
            outside.put((*addr, labels.clone()), |(other, service)| (*other, &**service).cmp(&(*addr, &**labels)));
        }
    }

    fn update_pod(&mut self, key: &NsName, before: &[IpAddr], after: &[IpAddr], changes: &mut Changes) {
        if before == after {
            return;
        }
        changes.pods += 1;
        let pods = Arc::make_mut(&mut self.pods);
        for addr in before.iter().filter(|addr| !after.contains(addr)) {
            pods.take(|(other, pod)| (*other, pod).cmp(&(*addr, key)));
        }
        for addr in after {
            pods.put((*addr, key.clone()), |(other, pod)| (*other, pod).cmp(&(*addr, key)));
        }
    }
}

/// Addresses at which a Pod is there; a finished one has given them back.
fn addresses(pod: &Pod) -> impl Iterator<Item = IpAddr> {
    pod.addresses.iter().filter(|_| !pod.finished).copied()
}

fn all_went(service: Option<&Service>) -> Moved {
    let went = service.map(|service| service.endpoints.iter().map(|endpoint| endpoint.addr).collect());
    Moved { came: Vec::new(), went: went.unwrap_or_default() }
}

/// Texts as labels of a name in wire form, in lower case; `None` if one of them is no label.
pub(crate) fn labels_of<const N: usize>(texts: [&str; N]) -> Option<Arc<[u8]>> {
    let mut wire = [0; (MAX_LABEL + 1) * 2];
    let mut at = 0;
    for text in texts {
        if !service::is_label(text) {
            return None;
        }
        wire[at] = text.len() as u8;
        wire[at + 1..at + 1 + text.len()].copy_from_slice(text.as_bytes());
        at += text.len() + 1;
    }
    wire[..at].make_ascii_lowercase();
    Some(Arc::from(&wire[..at]))
}

fn unnamed(key: &NsName) -> Complaint {
    let message = "its name and namespace make no domain name; rename it".into();
    Complaint { object: service_ref(key), reason: "InvalidName".into(), message }
}

/// A Service as a cause.
pub(crate) fn service_ref(key: &NsName) -> ObjectRef {
    ObjectRef { kind: ObjectKind::Service, key: key.clone() }
}
