//! Whether an object may be stored: Kubernetes' rules, paths and words.
//!
//! Objects come here after `schema::check` and `defaults::apply`. What depends on other objects
//! (a taken ClusterIP, a node port out of range, a namespace that is not there) is the API
//! server's; so are `resourceVersion` and the separation of status from spec.
//!
//! Source: the validation functions of Kubernetes 1.33, `k8s.io/kubernetes/pkg/apis/*/validation`.

mod check;
mod error;
mod metadata;
mod network;
mod objects;
mod pod;
mod probe;
mod service;
mod workload;

use serde_json::Value;

use crate::value::group_version_kind;
use check::Check;

pub use error::{ErrorKind, FieldError};

/// What forbids creating this object; an empty list if nothing does.
pub fn create(object: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    metadata::create(object, &mut check);
    content(object, &mut check);
    check.errors
}

/// What forbids putting `new` in the place of `old`; an empty list if nothing does.
pub fn update(old: &Value, new: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    metadata::update(old, new, &mut check);
    match group_version_kind(new) {
        ("v1", "Pod") => pod::update(old, new, &mut check),
        ("v1", "Service") => service::update(old, new, &mut check),
        ("v1", "Node") => objects::node_update(old, new, &mut check),
        ("v1", "Secret") => objects::secret_update(old, new, &mut check),
        ("v1", "ConfigMap") => objects::config_map_update(old, new, &mut check),
        ("apps/v1", "Deployment" | "ReplicaSet") => workload::update(old, new, &mut check),
        ("discovery.k8s.io/v1", "EndpointSlice") => network::endpoint_slice_update(old, new, &mut check),
        _ => {}
    }
    content(new, &mut check);
    check.errors
}

fn content(object: &Value, check: &mut Check) {
    match group_version_kind(object) {
        ("v1", "Binding") => objects::binding(object, check),
        ("v1", "ConfigMap") => objects::config_map(object, check),
        ("v1", "Endpoints") => network::endpoints(object, check),
        ("v1", "Event") => objects::event(object, check),
        ("v1", "Node") => objects::node(object, check),
        ("v1", "Pod") => pod::pod(object, check),
        ("v1", "Secret") => objects::secret(object, check),
        ("v1", "Service") => service::service(object, check),
        ("apps/v1", "Deployment") => workload::deployment(object, check),
        ("apps/v1", "ReplicaSet") => workload::replica_set(object, check),
        ("autoscaling/v1", "Scale") => workload::scale(object, check),
        ("coordination.k8s.io/v1", "Lease") => objects::lease(object, check),
        ("discovery.k8s.io/v1", "EndpointSlice") => network::endpoint_slice(object, check),
        ("events.k8s.io/v1", "Event") => objects::new_event(object, check),
        _ => {}
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
