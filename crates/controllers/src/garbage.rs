//! Owner clean-up: what no living owner holds goes; deletion policies Foreground and Orphan.
//!
//! | the object | what happens |
//! |---|---|
//! | all its owners have gone | it is deleted, its own dependents follow |
//! | an owner waits in the foreground, none else lives | it is deleted first |
//! | is leaving with `foregroundDeletion` | let go when no dependent blocks it |
//! | is leaving with `orphan` | its dependents lose the reference, then it is let go |
//!
//! An owner of a kind that is not watched here counts as living.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;

use crate::object::{Id, Kind, Object};
use crate::owner;
use crate::plan::{Alive, Plan, Write};
use crate::world::World;

pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";

pub fn reconcile(world: &World, id: &Id) -> Plan {
    let Some(object) = world.object(id) else {
        return Plan::idle();
    };
    if object.is_terminating() {
        return Plan::of(finalizers(world, object));
    }
    Plan::of(orphaned(world, object).into_iter().collect())
}

/// What is known of one owner.
enum Owner<'a> {
    Living,
    Leaving(&'a OwnerReference),
    /// We saw it go, or do not see it: then the server is asked before anything is deleted.
    Gone(Option<Alive>),
}

fn look_up<'a>(world: &World, object: &Object, reference: &'a OwnerReference) -> Owner<'a> {
    let Some(kind) = Kind::of_reference(reference) else {
        return Owner::Living;
    };
    match world.by_uid(&reference.uid) {
        Some(owner) if owner.is_terminating() && owner.has_finalizer(FOREGROUND) => Owner::Leaving(reference),
        Some(_) => Owner::Living,
        None if world.is_departed(&reference.uid) => Owner::Gone(None),
        None => {
            let namespace = match kind.info().is_namespaced {
                true => object.meta().namespace.as_deref().unwrap_or_default(),
                false => "",
            };
            Owner::Gone(Some(Alive { id: Id::new(kind, namespace, &reference.name), uid: Some(reference.uid.clone()) }))
        }
    }
}

fn orphaned(world: &World, object: &Object) -> Option<Write> {
    let references = object.meta().owner_references.as_deref()?;
    if references.is_empty() {
        return None;
    }
    let mut unsure = Vec::new();
    let mut is_awaited = false;
    for reference in references {
        match look_up(world, object, reference) {
            Owner::Living => return None,
            Owner::Leaving(reference) => {
                // A foreground deletion waits only for those that block it, but takes all.
                is_awaited |= reference.block_owner_deletion == Some(true);
            }
            Owner::Gone(alive) => unsure.extend(alive),
        }
    }
    let has_dependents = world.dependents(object.uid()).next().is_some();
    let policy = match is_awaited && has_dependents {
        true => "Foreground",
        false => "Background",
    };
    let write = Write::delete(object.kind(), object.meta());
    Some(write.propagation(Some(policy)).unless_alive(unsure))
}

fn finalizers(world: &World, object: &Object) -> Vec<Write> {
    if object.has_finalizer(ORPHAN) {
        let dependents: Vec<&Object> = world.dependents(object.uid()).collect();
        if dependents.is_empty() {
            return vec![without_finalizer(object, ORPHAN)];
        }
        let released = dependents.into_iter();
        return released.map(|one| owner::release(one.kind(), one.meta(), object.uid())).collect();
    }
    let is_waited_for = world.dependents(object.uid()).any(|dependent| blocks(dependent, object.uid()));
    match object.has_finalizer(FOREGROUND) && !is_waited_for {
        true => vec![without_finalizer(object, FOREGROUND)],
        false => Vec::new(),
    }
}

fn blocks(dependent: &Object, owner_uid: &str) -> bool {
    let owners = dependent.meta().owner_references.iter().flatten();
    let mut owners = owners.filter(|owner| owner.uid == owner_uid);
    owners.any(|owner| owner.block_owner_deletion == Some(true))
}

fn without_finalizer(object: &Object, name: &str) -> Write {
    let finalizers = object.meta().finalizers.iter().flatten();
    let kept: Vec<&String> = finalizers.filter(|finalizer| *finalizer != name).collect();
    let body = json!({"metadata": {
        "uid": object.uid(),
        "resourceVersion": object.meta().resource_version,
        "finalizers": kept,
    }});
    Write::patch(object.id(), body)
}
