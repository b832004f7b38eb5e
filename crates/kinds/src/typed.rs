//! Values turned into k8s-openapi types.
//!
//! Deserialising a Pod compiles to much code, in whichever crate calls for it; the functions here
//! compile it once. `from_value` is for types that are not listed.

use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

use crate::value::{group_version_kind, text};

pub use k8s_openapi;
pub use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
pub use k8s_openapi::api::autoscaling::v1::Scale;
pub use k8s_openapi::api::coordination::v1::Lease;
pub use k8s_openapi::api::core::v1::{
    Binding, ConfigMap, Endpoints, Event, Namespace, Node, Pod, Secret, Service, ServiceAccount,
};
pub use k8s_openapi::api::discovery::v1::EndpointSlice;
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Status};

/// Why an object does not fit its type.
#[derive(Debug, Error)]
#[error("{kind} \"{name}\" cannot be read: {source}")]
pub struct TypedError {
    pub kind: String,
    /// `namespace/name`, or `name` for an object without namespace.
    pub name: String,
    pub source: serde_json::Error,
}

/// Any deserialisable type from an object.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, TypedError> {
    T::deserialize(&value).map_err(|source| describe(&value, source))
}

fn describe(value: &Value, source: serde_json::Error) -> TypedError {
    let metadata = &value["metadata"];
    let name = match (text(metadata, "namespace"), text(metadata, "name")) {
        ("", name) => name.to_owned(),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    TypedError { kind: group_version_kind(value).1.to_owned(), name, source }
}

macro_rules! readers {
    ($($name:ident: $type:ident),* $(,)?) => {$(
        #[doc = concat!("A ", stringify!($type), ".")]
        pub fn $name(value: &Value) -> Result<$type, TypedError> {
            <$type as serde::Deserialize>::deserialize(value).map_err(|source| describe(value, source))
        }
    )*};
}

readers! {
    config_map: ConfigMap,
    delete_options: DeleteOptions,
    deployment: Deployment,
    endpoint_slice: EndpointSlice,
    endpoints: Endpoints,
    event: Event,
    lease: Lease,
    namespace: Namespace,
    node: Node,
    pod: Pod,
    replica_set: ReplicaSet,
    secret: Secret,
    service: Service,
    service_account: ServiceAccount,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_service_is_read() {
        let value = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
            "spec": { "ports": [{ "port": 80, "targetPort": "http" }] }
        });
        let service = service(&value).expect("it fits");
        assert_eq!(service.spec.and_then(|spec| spec.ports).map(|ports| ports[0].port), Some(80));
    }

    #[test]
    fn an_error_names_the_object() {
        let value = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": "a", "name": "b" }, "spec": { "containers": 7 }
        });
        let text = pod(&value).expect_err("it does not fit").to_string();
        assert!(text.starts_with("Pod \"a/b\" cannot be read: "), "{text}");
    }
}
