//! Objects as the controllers see them: which kinds there are, what names one, and its typed body.
//!
//! A kind that no controller looks into (Secret) is kept as its metadata alone, for owners and namespaces still count;
//! of a ConfigMap, which is written but never looked into, the data are left out.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Event, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::Value;

/// The kinds the controllers watch. The order is the one in which a namespace is emptied:
/// owners before what they own, so that nothing is made again behind our back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Deployment,
    ReplicaSet,
    Pod,
    Service,
    Endpoints,
    EndpointSlice,
    ConfigMap,
    Secret,
    ServiceAccount,
    Lease,
    Event,
    Node,
    Namespace,
}

/// Where a kind lives in the API.
pub struct KindInfo {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub is_namespaced: bool,
}

impl Kind {
    pub const ALL: [Kind; 13] = [
        Kind::Deployment,
        Kind::ReplicaSet,
        Kind::Pod,
        Kind::Service,
        Kind::Endpoints,
        Kind::EndpointSlice,
        Kind::ConfigMap,
        Kind::Secret,
        Kind::ServiceAccount,
        Kind::Lease,
        Kind::Event,
        Kind::Node,
        Kind::Namespace,
    ];

    pub fn info(self) -> KindInfo {
        let row = |group, kind, plural, is_namespaced| KindInfo { group, version: "v1", kind, plural, is_namespaced };
        match self {
            Kind::Deployment => row("apps", "Deployment", "deployments", true),
            Kind::ReplicaSet => row("apps", "ReplicaSet", "replicasets", true),
            Kind::Pod => row("", "Pod", "pods", true),
            Kind::Service => row("", "Service", "services", true),
            Kind::Endpoints => row("", "Endpoints", "endpoints", true),
            Kind::EndpointSlice => row("discovery.k8s.io", "EndpointSlice", "endpointslices", true),
            Kind::ConfigMap => row("", "ConfigMap", "configmaps", true),
            Kind::Secret => row("", "Secret", "secrets", true),
            Kind::ServiceAccount => row("", "ServiceAccount", "serviceaccounts", true),
            Kind::Lease => row("coordination.k8s.io", "Lease", "leases", true),
            Kind::Event => row("", "Event", "events", true),
            Kind::Node => row("", "Node", "nodes", false),
            Kind::Namespace => row("", "Namespace", "namespaces", false),
        }
    }

    /// `apps/v1`, or `v1` for the core group.
    pub fn api_version(self) -> String {
        let info = self.info();
        match info.group {
            "" => info.version.to_owned(),
            group => format!("{group}/{}", info.version),
        }
    }

    /// The kind an owner reference speaks of; `None` for one that is not watched here.
    pub fn of_reference(reference: &OwnerReference) -> Option<Kind> {
        Kind::ALL
            .into_iter()
            .find(|kind| kind.info().kind == reference.kind && kind.api_version() == reference.api_version)
    }
}

/// Names one object. `namespace` is empty for kinds without one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
}

impl Id {
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Id { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The same name as another kind: a Service's Endpoints, a Node's Lease.
    pub fn with_kind(&self, kind: Kind) -> Self {
        Id { kind, ..self.clone() }
    }

    pub fn of(kind: Kind, meta: &ObjectMeta) -> Self {
        Id { kind, namespace: meta.namespace.clone().unwrap_or_default(), name: meta.name.clone().unwrap_or_default() }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.info().kind;
        match self.namespace.as_str() {
            "" => write!(f, "{kind} {}", self.name),
            namespace => write!(f, "{kind} {namespace}/{}", self.name),
        }
    }
}

/// A type the world keeps whole.
pub trait Stored: Sized {
    const KIND: Kind;
    fn of(object: &Object) -> Option<&Arc<Self>>;
    fn wrap(self) -> Object;
}

macro_rules! stored {
    ($($kind:ident),+ $(,)?) => {
        /// One object: typed where a controller reads it, metadata alone elsewhere.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Object {
            $($kind(Arc<$kind>),)+
            Plain(Kind, Arc<ObjectMeta>),
        }

        $(impl Stored for $kind {
            const KIND: Kind = Kind::$kind;
            fn of(object: &Object) -> Option<&Arc<Self>> {
                match object {
                    Object::$kind(inner) => Some(inner),
                    _ => None,
                }
            }
            fn wrap(self) -> Object {
                Object::$kind(Arc::new(self))
            }
        })+

        impl Object {
            pub fn kind(&self) -> Kind {
                match self {
                    $(Object::$kind(_) => Kind::$kind,)+
                    Object::Plain(kind, _) => *kind,
                }
            }

            pub fn meta(&self) -> &ObjectMeta {
                match self {
                    $(Object::$kind(inner) => &inner.metadata,)+
                    Object::Plain(_, meta) => meta,
                }
            }

            /// Reads the API's JSON.
            pub fn parse(kind: Kind, value: Value) -> Result<Self, serde_json::Error> {
                let value = lean(kind, value);
                match kind {
                    $(Kind::$kind => serde_json::from_value::<$kind>(value).map(Stored::wrap),)+
                    _ => plain(kind, value),
                }
            }

            /// The API's JSON; a `Plain` object has its type and metadata only.
            pub fn to_json(&self) -> Value {
                match self {
                    $(Object::$kind(inner) => to_value(&**inner),)+
                    Object::Plain(kind, meta) => serde_json::json!({
                        "apiVersion": kind.api_version(),
                        "kind": kind.info().kind,
                        "metadata": to_value(&**meta),
                    }),
                }
            }
        }
    };
}

stored!(
    Deployment,
    ReplicaSet,
    Pod,
    Service,
    Endpoints,
    EndpointSlice,
    ConfigMap,
    ServiceAccount,
    Lease,
    Event,
    Node,
    Namespace,
);

/// Without what nobody here reads and may be large.
fn lean(kind: Kind, mut value: Value) -> Value {
    if let (Kind::ConfigMap, Some(object)) = (kind, value.as_object_mut()) {
        object.remove("data");
        object.remove("binaryData");
    }
    value
}

fn plain(kind: Kind, mut value: Value) -> Result<Object, serde_json::Error> {
    let meta: ObjectMeta = serde_json::from_value(value["metadata"].take())?;
    Ok(Object::Plain(kind, Arc::new(meta)))
}

/// API types serialize into JSON whatever they hold: their maps have string keys and no
/// serializer of theirs returns an error.
pub(crate) fn to_value<T: serde::Serialize>(object: &T) -> Value {
    serde_json::to_value(object).expect("API types have string keys only")
}

impl Object {
    pub fn id(&self) -> Id {
        Id::of(self.kind(), self.meta())
    }

    pub fn uid(&self) -> &str {
        self.meta().uid.as_deref().unwrap_or_default()
    }

    /// `metadata.resourceVersion` as the number it is here; 0 when there is none.
    pub fn revision(&self) -> u64 {
        let version = self.meta().resource_version.as_deref();
        version.and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    pub fn is_terminating(&self) -> bool {
        self.meta().deletion_timestamp.is_some()
    }

    pub fn has_finalizer(&self, name: &str) -> bool {
        has_finalizer(self.meta(), name)
    }
}

pub(crate) fn has_finalizer(meta: &ObjectMeta, name: &str) -> bool {
    meta.finalizers.iter().flatten().any(|f| f == name)
}
