//! What the API server fills in where an object says nothing.
//!
//! `apply` is run on every write and is idempotent. Addresses, node ports and IP families are the
//! allocator's; names, times, first status and finalizers the API server's. Where Go cannot tell unset from zero (`targetPort: 0`), zero is unset here too.
//!
//! Source: the defaulting functions of Kubernetes 1.33, `k8s.io/kubernetes/pkg/apis/*/v1/defaults.go`.

mod objects;
mod pod;
mod service;
mod workload;

use serde_json::{Map, Value};

use crate::value::{Object, group_version_kind, is_unset};

/// Fills an object's defaults in, by its `apiVersion` and `kind`; others are left as they are.
pub fn apply(object: &mut Value) {
    let (api_version, kind) = group_version_kind(object);
    let fill: fn(&mut Object) = match (api_version, kind) {
        ("v1", "Endpoints") => objects::endpoints,
        ("v1", "Namespace") => objects::namespace,
        ("v1", "Node") => objects::node,
        ("v1", "Pod") => pod::pod,
        ("v1", "Secret") => objects::secret,
        ("v1", "Service") => service::service,
        ("apps/v1", "Deployment") => workload::deployment,
        ("apps/v1", "ReplicaSet") => workload::replica_set,
        ("discovery.k8s.io/v1", "EndpointSlice") => objects::endpoint_slice,
        _ => return,
    };
    if let Some(object) = object.as_object_mut() {
        fill(object);
    }
}

/// Sets a member that is missing, null or Go's zero.
fn default(object: &mut Object, key: &str, value: impl Into<Value>) {
    if is_unset(object, key) {
        object.insert(key.to_owned(), value.into());
    }
}

/// Sets a member that is missing or null: for what is a pointer in Go, where zero counts.
fn default_pointer(object: &mut Object, key: &str, value: impl Into<Value>) {
    if object.get(key).is_none_or(Value::is_null) {
        object.insert(key.to_owned(), value.into());
    }
}

/// An object member, made if it is missing; `None` if something else lies there.
fn object_at<'a>(object: &'a mut Object, key: &str) -> Option<&'a mut Object> {
    default_pointer(object, key, Map::new());
    existing(object, key)
}

/// An object member that is there.
fn existing<'a>(object: &'a mut Object, key: &str) -> Option<&'a mut Object> {
    object.get_mut(key).and_then(Value::as_object_mut)
}

/// The object elements of a list member.
fn elements<'a>(object: &'a mut Object, key: &str) -> impl Iterator<Item = &'a mut Object> {
    object.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
