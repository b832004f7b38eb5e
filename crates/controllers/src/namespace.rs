//! A Terminating namespace is emptied, then let go.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;

use crate::object::{Id, Kind};
use crate::plan::{Plan, Write};
use crate::world::World;

/// The finalizer that keeps a namespace until it is empty.
const FINALIZER: &str = "kubernetes";

pub fn reconcile(world: &World, name: &str) -> Plan {
    let id = Id::new(Kind::Namespace, "", name);
    let Some(namespace) = world.get::<Namespace>(&id) else {
        return Plan::idle();
    };
    if namespace.metadata.deletion_timestamp.is_none() {
        return Plan::idle();
    }
    let mut is_empty = true;
    let mut writes = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| kind.info().is_namespaced) {
        for object in world.within(kind, name) {
            is_empty = false;
            if !object.is_terminating() {
                writes.push(Write::delete(kind, object.meta()));
            }
        }
    }
    match is_empty {
        true => Plan::of(finalize(namespace).into_iter().collect()),
        false => Plan::of(writes),
    }
}

fn finalize(namespace: &Arc<Namespace>) -> Option<Write> {
    let mut released = Namespace::clone(namespace);
    let finalizers = released.spec.as_mut()?.finalizers.as_mut()?;
    let before = finalizers.len();
    finalizers.retain(|finalizer| finalizer != FINALIZER);
    (finalizers.len() < before).then(|| Write::finalize(released))
}
