//! Every namespace has a ServiceAccount `default`.

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::object::{Id, Kind};
use crate::plan::{Plan, Write};
use crate::world::World;

pub const NAME: &str = "default";

pub fn reconcile(world: &World, namespace: &str) -> Plan {
    let has_namespace = world.object(&Id::new(Kind::Namespace, "", namespace)).is_some();
    let id = Id::new(Kind::ServiceAccount, namespace, NAME);
    let is_leaving = world.is_namespace_terminating(namespace);
    if !has_namespace || is_leaving || world.object(&id).is_some() {
        return Plan::idle();
    }
    let account = ServiceAccount {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        ..ServiceAccount::default()
    };
    Plan::of(vec![Write::create(account)])
}
