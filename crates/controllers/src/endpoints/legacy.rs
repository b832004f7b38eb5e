//! The Endpoints object: the same backends in the older shape, for clients that still read it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::backends::{Backend, Backends, PortSet, service_id};
use super::{ENDPOINTS_MANAGED_BY, HEADLESS_LABEL, TRIGGER_TIME, is_headless, trigger_time};
use crate::object::Kind;
use crate::plan::Write;
use crate::selector::Labels;
use crate::world::World;

/// Addresses in one Endpoints object at most; ready ones stay.
const CAPACITY: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

pub fn reconcile(world: &World, service: &Arc<Service>, backends: &Backends) -> Option<Write> {
    let publishes_all = service.spec.as_ref().is_some_and(|spec| spec.publish_not_ready_addresses == Some(true));
    let (subsets, is_truncated) = subsets(backends, publishes_all);
    let subsets = Some(subsets).filter(|subsets| !subsets.is_empty());
    let latest = backends.values().flatten().map(|one| one.changed).max();
    let time = trigger_time(service, latest.flatten());
    let id = service_id(service).with_kind(Kind::Endpoints);
    let labels = labels(service);
    let Some(known) = world.get::<Endpoints>(&id) else {
        let mut metadata = ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            ..ObjectMeta::default()
        };
        annotate(&mut metadata, time, is_truncated);
        return Some(Write::create(Endpoints { metadata, subsets }));
    };
    let old = known.subsets.clone().filter(|subsets| !subsets.is_empty());
    if old == subsets && known.metadata.labels.as_ref() == Some(&labels) {
        return None;
    }
    let mut endpoints = Endpoints::clone(known);
    endpoints.metadata.labels = Some(labels);
    annotate(&mut endpoints.metadata, time, is_truncated);
    endpoints.subsets = subsets;
    Some(Write::replace(endpoints))
}

fn annotate(meta: &mut ObjectMeta, time: Option<String>, is_truncated: bool) {
    let annotations = meta.annotations.get_or_insert_default();
    if let Some(time) = time {
        annotations.insert(TRIGGER_TIME.to_owned(), time);
    }
    match is_truncated {
        true => annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned()),
        false => annotations.remove(OVER_CAPACITY),
    };
}

fn labels(service: &Service) -> Labels {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    let (key, value) = ENDPOINTS_MANAGED_BY;
    labels.insert(key.to_owned(), value.to_owned());
    labels.remove(HEADLESS_LABEL);
    if is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels
}

/// Subsets by port set, addresses sorted as numbers; and whether some had to be left out.
fn subsets(backends: &Backends, publishes_all: bool) -> (Vec<EndpointSubset>, bool) {
    let mut chosen: Vec<(&PortSet, &Backend)> = backends
        .iter()
        .flat_map(|(ports, list)| list.iter().map(move |backend| (ports, backend)))
        .filter(|(_, backend)| publishes_all || !backend.condition(|all| all.terminating))
        .collect();
    chosen.sort_by_key(|(_, backend)| {
        let is_ready = backend.condition(|all| all.ready);
        (!is_ready, order(backend), backend.key.clone())
    });
    let is_truncated = chosen.len() > CAPACITY;
    chosen.truncate(CAPACITY);
    let mut by_ports: BTreeMap<&PortSet, EndpointSubset> = BTreeMap::new();
    for (ports, backend) in chosen {
        let subset = by_ports
            .entry(ports)
            .or_insert_with(|| EndpointSubset { ports: subset_ports(ports), ..EndpointSubset::default() });
        let list = match backend.condition(|all| all.ready) {
            true => &mut subset.addresses,
            false => &mut subset.not_ready_addresses,
        };
        list.get_or_insert_default().push(address(backend));
    }
    (by_ports.into_values().collect(), is_truncated)
}

fn order(backend: &Backend) -> Option<IpAddr> {
    backend.key.0.parse().ok()
}

fn subset_ports(ports: &PortSet) -> Option<Vec<EndpointPort>> {
    let ports: Vec<EndpointPort> = ports
        .0
        .iter()
        .map(|port| EndpointPort {
            name: Some(port.name.clone()).filter(|name| !name.is_empty()),
            port: port.number,
            protocol: Some(port.protocol.clone()),
            app_protocol: port.app_protocol.clone(),
        })
        .collect();
    Some(ports).filter(|ports| !ports.is_empty())
}

fn address(backend: &Backend) -> EndpointAddress {
    EndpointAddress {
        ip: backend.key.0.clone(),
        hostname: backend.endpoint.hostname.clone(),
        node_name: backend.endpoint.node_name.clone(),
        target_ref: backend.endpoint.target_ref.clone(),
    }
}
