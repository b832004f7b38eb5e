//! EndpointSlices: backends packed into slices so that few are written.
//!
//! Endpoints stay in the slice they are in. New ones go first into slices that are written
//! anyway, then into room elsewhere, then into new slices. A slice left empty is filled with what
//! would have been a new slice, else deleted; the last one stays as the empty placeholder.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::backends::{Backend, Backends, Family, PortSet, service_id};
use super::{HEADLESS_LABEL, TRIGGER_TIME, is_headless, trigger_time};
use crate::object::{Id, Kind, Stored};
use crate::owner;
use crate::plan::Write;
use crate::selector::Labels;
use crate::world::{SERVICE_NAME_LABEL, Tag, World};

const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGED_BY: &str = "endpointslice-controller.k8s.io";
/// Endpoints in one slice at most.
pub const CAPACITY: usize = 100;

/// A slice as it shall be; `known` is what it is now.
struct Draft {
    known: Option<Arc<EndpointSlice>>,
    ports: PortSet,
    endpoints: Vec<Endpoint>,
    is_changed: bool,
    changed_at: Option<Timestamp>,
}

pub fn reconcile(world: &World, service: &Arc<Service>, family: Family, backends: &Backends) -> Vec<Write> {
    let known = own_slices(world, &service_id(service));
    let known = known.filter(|slice| slice.address_type == family.address_type());
    let mut by_ports: BTreeMap<PortSet, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in known {
        let ports = PortSet::of_slice(slice.ports.as_ref());
        by_ports.entry(ports).or_default().push(slice.clone());
    }
    let all_ports: BTreeSet<PortSet> = by_ports.keys().chain(backends.keys()).cloned().collect();
    let mut drafts = Vec::new();
    for ports in all_ports {
        let known = by_ports.remove(&ports).unwrap_or_default();
        let wanted = backends.get(&ports).map(Vec::as_slice).unwrap_or_default();
        drafts.extend(pack(&ports, known, wanted));
    }
    finish(service, family, drafts)
}

/// The slices of one port set.
fn pack(ports: &PortSet, known: Vec<Arc<EndpointSlice>>, wanted: &[Backend]) -> Vec<Draft> {
    let mut waiting: BTreeMap<&(String, String), &Backend> =
        wanted.iter().map(|backend| (&backend.key, backend)).collect();
    let mut drafts: Vec<Draft> = known.into_iter().map(|slice| keep(ports, slice, &mut waiting)).collect();
    let mut rest: Vec<&Backend> = wanted.iter().filter(|backend| waiting.contains_key(&backend.key)).collect();
    rest.reverse();
    for in_changed in [true, false] {
        for draft in drafts.iter_mut() {
            if draft.is_changed == in_changed || !in_changed {
                fill(draft, &mut rest);
            }
        }
    }
    while !rest.is_empty() {
        let mut draft =
            Draft { known: None, ports: ports.clone(), endpoints: Vec::new(), is_changed: true, changed_at: None };
        fill(&mut draft, &mut rest);
        drafts.push(draft);
    }
    drafts
}

/// What of a slice is still wanted, brought up to date.
fn keep(ports: &PortSet, slice: Arc<EndpointSlice>, waiting: &mut BTreeMap<&(String, String), &Backend>) -> Draft {
    let mut endpoints = Vec::new();
    let mut is_changed = false;
    let mut changed_at = None;
    for endpoint in &slice.endpoints {
        let Some(backend) = waiting.remove(&key(endpoint)) else {
            is_changed = true;
            continue;
        };
        if backend.endpoint != *endpoint {
            is_changed = true;
            changed_at = changed_at.max(backend.changed);
        }
        endpoints.push(backend.endpoint.clone());
    }
    Draft { known: Some(slice), ports: ports.clone(), endpoints, is_changed, changed_at }
}

fn fill(draft: &mut Draft, rest: &mut Vec<&Backend>) {
    while draft.endpoints.len() < CAPACITY
        && let Some(backend) = rest.pop()
    {
        draft.endpoints.push(backend.endpoint.clone());
        draft.changed_at = draft.changed_at.max(backend.changed);
        draft.is_changed = true;
    }
}

fn key(endpoint: &Endpoint) -> (String, String) {
    let address = endpoint.addresses.first().cloned().unwrap_or_default();
    let target = endpoint.target_ref.as_ref();
    let uid = target.and_then(|target| target.uid.clone());
    (address, uid.unwrap_or_default())
}

/// Turns drafts into writes: empty slices are reused or deleted, one placeholder stays.
fn finish(service: &Arc<Service>, family: Family, drafts: Vec<Draft>) -> Vec<Write> {
    let (mut kept, mut empty): (Vec<Draft>, Vec<Draft>) =
        drafts.into_iter().partition(|draft| !draft.endpoints.is_empty());
    if kept.is_empty() {
        kept.push(placeholder(&mut empty));
    }
    for draft in kept.iter_mut().filter(|draft| draft.known.is_none()) {
        let Some(free) = empty.pop() else { break };
        draft.known = free.known;
    }
    let mut writes: Vec<Write> = kept.into_iter().filter_map(|draft| write(service, family, draft)).collect();
    let deleted = empty.into_iter().filter_map(|draft| draft.known);
    writes.extend(deleted.map(|slice| Write::delete(Kind::EndpointSlice, &slice.metadata)));
    writes
}

fn placeholder(empty: &mut Vec<Draft>) -> Draft {
    let position = empty.iter().position(|draft| draft.ports.0.is_empty());
    let known = match position {
        Some(index) => empty.remove(index).known,
        None => empty.pop().and_then(|draft| draft.known),
    };
    Draft { known, ports: PortSet(Vec::new()), endpoints: Vec::new(), is_changed: false, changed_at: None }
}

fn write(service: &Arc<Service>, family: Family, draft: Draft) -> Option<Write> {
    let labels = labels(service);
    let Some(known) = draft.known else {
        let slice = new_slice(service, family, labels, draft);
        return Some(Write::create(slice));
    };
    let has_ports = PortSet::of_slice(known.ports.as_ref()) == draft.ports;
    let has_labels = known.metadata.labels.as_ref() == Some(&labels);
    let has_endpoints = known.endpoints == draft.endpoints;
    if has_ports && has_labels && has_endpoints {
        return None;
    }
    let mut slice = EndpointSlice::clone(&known);
    slice.endpoints = draft.endpoints;
    slice.ports = Some(draft.ports.to_slice());
    slice.metadata.labels = Some(labels);
    note_trigger(service, &mut slice.metadata, draft.changed_at);
    Some(Write::replace(slice))
}

fn new_slice(service: &Arc<Service>, family: Family, labels: Labels, draft: Draft) -> EndpointSlice {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let mut metadata = ObjectMeta {
        generate_name: Some(format!("{name}-")),
        namespace: service.metadata.namespace.clone(),
        labels: Some(labels),
        owner_references: Some(vec![owner::controller_reference(Kind::Service, &service.metadata)]),
        ..ObjectMeta::default()
    };
    note_trigger(service, &mut metadata, draft.changed_at);
    EndpointSlice {
        address_type: family.address_type().to_owned(),
        endpoints: draft.endpoints,
        metadata,
        ports: Some(draft.ports.to_slice()),
    }
}

/// Without a pod's time only the Service's own change can be meant, and only at first.
fn note_trigger(service: &Arc<Service>, meta: &mut ObjectMeta, changed_at: Option<Timestamp>) {
    let annotations = meta.annotations.get_or_insert_default();
    let is_first = !annotations.contains_key(TRIGGER_TIME);
    if let Some(time) = trigger_time(service, changed_at).filter(|_| is_first || changed_at.is_some()) {
        annotations.insert(TRIGGER_TIME.to_owned(), time);
    }
}

/// The Service's labels, and those that say whose slice this is.
fn labels(service: &Service) -> Labels {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    let name = service.metadata.name.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME_LABEL.to_owned(), name);
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    labels.remove(HEADLESS_LABEL);
    if is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels
}

pub fn remove_all(world: &World, service: &Id) -> Vec<Write> {
    let slices = own_slices(world, service);
    slices.map(|slice| Write::delete(Kind::EndpointSlice, &slice.metadata)).collect()
}

pub fn of_other_families(world: &World, service: &Id, families: &[Family]) -> Vec<Write> {
    let slices = own_slices(world, service);
    let foreign = slices.filter(|slice| {
        let mut families = families.iter();
        !families.any(|family| family.address_type() == slice.address_type)
    });
    foreign.map(|slice| Write::delete(Kind::EndpointSlice, &slice.metadata)).collect()
}

/// The slices of a Service that are ours and not on their way out.
fn own_slices<'a>(world: &'a World, service: &Id) -> impl Iterator<Item = &'a Arc<EndpointSlice>> + use<'a> {
    let tag = Tag::SliceOf(service.namespace.clone(), service.name.clone());
    let slices = world.tagged(tag).filter_map(EndpointSlice::of);
    slices.filter(|slice| is_own(slice))
}

fn is_own(slice: &EndpointSlice) -> bool {
    let labels = slice.metadata.labels.as_ref();
    let manager = labels.and_then(|labels| labels.get(MANAGED_BY_LABEL));
    manager.is_some_and(|manager| manager == MANAGED_BY) && slice.metadata.deletion_timestamp.is_none()
}
