//! Owner references: who controls an object, how one is adopted and let go.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;

use crate::object::{Id, Kind, to_value};
use crate::plan::Write;

/// The one owner marked as controller.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    let owners = meta.owner_references.iter().flatten();
    owners.into_iter().find(|owner| owner.controller == Some(true))
}

pub fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|owner| owner.uid == uid)
}

/// The name of the controller if it is of this kind.
pub fn controller_id(meta: &ObjectMeta, kind: Kind) -> Option<Id> {
    let owner = controller_of(meta)?;
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    (Kind::of_reference(owner) == Some(kind)).then(|| Id::new(kind, namespace, &owner.name))
}

/// A reference to `owner` as controller, with its deletion waiting for the dependent.
pub fn controller_reference(kind: Kind, owner: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: kind.api_version(),
        kind: kind.info().kind.to_owned(),
        name: owner.name.clone().unwrap_or_default(),
        uid: owner.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Adds an owner to an object that has no controller.
pub fn adopt(kind: Kind, meta: &ObjectMeta, owner: OwnerReference) -> Write {
    let mut owners = meta.owner_references.clone().unwrap_or_default();
    owners.push(owner);
    set_owners(kind, meta, &owners)
}

/// Takes one owner off an object.
pub fn release(kind: Kind, meta: &ObjectMeta, owner_uid: &str) -> Write {
    let owners = meta.owner_references.iter().flatten();
    let kept: Vec<OwnerReference> = owners.filter(|one| one.uid != owner_uid).cloned().collect();
    set_owners(kind, meta, &kept)
}

/// The list is replaced whole, so the patch holds only for the version it was read from.
fn set_owners(kind: Kind, meta: &ObjectMeta, owners: &[OwnerReference]) -> Write {
    let body = json!({"metadata": {
        "uid": meta.uid,
        "resourceVersion": meta.resource_version,
        "ownerReferences": to_value(&owners),
    }});
    Write::patch(Id::of(kind, meta), body)
}
