//! Service → EndpointSlices and Endpoints: the pods behind a Service, for each address family.
//!
//! ```text
//! Service + pods of its selector + Nodes' zones ─► backends ─┬─► slices    (100 endpoints each, per port set)
//!                                                            └─► Endpoints (first family, 1000 addresses)
//! ```
//!
//! A change of one pod writes one slice and the Endpoints; what is right is not written.
//! Behaviour: KEP-752, discovery.k8s.io/v1.

mod backends;
mod legacy;
mod slices;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Endpoints, Service};

use crate::object::{Id, Kind, Object};
use crate::plan::{Plan, Write};
use crate::world::World;
use backends::Family;
pub(crate) use backends::zone;

/// Marks the Endpoints and slices of a Service without a cluster address.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// When the change happened that a slice tells: latency is measured from it.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Marks Endpoints written here.
pub(crate) const ENDPOINTS_MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");

pub fn reconcile(world: &World, id: &Id) -> Plan {
    let Some(service) = world.get::<Service>(id) else {
        return Plan::idle();
    };
    let is_leaving = service.metadata.deletion_timestamp.is_some();
    if is_leaving || world.is_namespace_terminating(&id.namespace) {
        return Plan::idle();
    }
    let spec = service.spec.clone().unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        return Plan::of(slices::remove_all(world, id));
    }
    if spec.selector.is_none_or(|selector| selector.is_empty()) {
        return Plan::idle(); // its endpoints are the user's own
    }
    let families = families(service);
    let mut writes = slices::of_other_families(world, id, &families);
    for (index, family) in families.iter().enumerate() {
        let backends = backends::of(world, service, *family);
        writes.extend(slices::reconcile(world, service, *family, &backends));
        if index == 0 {
            writes.extend(legacy::reconcile(world, service, &backends));
        }
    }
    Plan::of(writes)
}

/// Endpoints live and die with their Service; slices go by their owner reference.
pub fn reconcile_gone(world: &World, service: &Id) -> Plan {
    let id = service.with_kind(Kind::Endpoints);
    match (world.object(service), world.get::<Endpoints>(&id)) {
        (None, Some(endpoints)) => {
            let write = Write::delete(Kind::Endpoints, &endpoints.metadata);
            let alive = crate::plan::Alive { id: service.clone(), uid: None };
            Plan::of(vec![write.unless_alive(vec![alive])])
        }
        _ => Plan::idle(),
    }
}

/// The families of a Service: what it says, else those of its addresses, else IPv4.
fn families(service: &Service) -> Vec<Family> {
    let spec = service.spec.clone().unwrap_or_default();
    let said = spec.ip_families.unwrap_or_default();
    let said: Vec<Family> = said.iter().filter_map(|name| Family::named(name)).collect();
    if !said.is_empty() {
        return said;
    }
    let addresses = spec.cluster_ips.or(spec.cluster_ip.map(|ip| vec![ip]));
    let addresses = addresses.unwrap_or_default();
    let found: Vec<Family> = addresses.iter().filter_map(|ip| Family::of(ip)).collect();
    match found.is_empty() {
        true => vec![Family::V4],
        false => found,
    }
}

fn is_headless(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

fn trigger_time(service: &Arc<Service>, latest: Option<Timestamp>) -> Option<String> {
    let created = service.metadata.creation_timestamp.as_ref();
    let created = created.map(|time| time.0);
    created.max(latest).map(|time| time.to_string())
}

/// Whether a pod's change can show in the endpoints of a Service.
pub(crate) fn is_seen(old: &Object, new: &Object) -> bool {
    let (Object::Pod(old), Object::Pod(new)) = (old, new) else {
        return true;
    };
    backends::face(old) != backends::face(new)
}

#[cfg(test)]
mod tests;
