//! Kubernetes objects into facts.
//!
//! ```text
//!  Namespace, Node, Pod, Service, EndpointSlice ──► fact() ──► model::Fact + complaints
//! ```
//!
//! The only room where the cluster's JSON meets the model: no Kubernetes type passes below this line. An object that
//! is wrong in one field loses that field and gains a complaint; it never hurts another object. Old objects may hold
//! IPv4 addresses with leading zeros (KEP-1860 of client-go's parsers); they are read as decimal.

mod addresses;
mod cluster;
mod endpoints;
mod host_ports;
mod services;

#[cfg(test)]
mod tests;

pub use endpoints::service_of;
pub use host_ports::host_ports;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use portolan_model::{Complaint, Fact, Facts, NsName, ObjectKind, ObjectRef, Touched};

/// One object of the kinds the node agent reads.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Object {
    Namespace(Box<Namespace>),
    Node(Box<Node>),
    Pod(Box<Pod>),
    Service(Box<Service>),
    EndpointSlice(Box<EndpointSlice>),
}

/// What a watch says: this is its value now, or it is gone.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Event {
    Value(Object),
    Gone(Object),
}

impl Object {
    /// Reads a JSON object by its `apiVersion` and `kind`. `Ok(None)` for kinds that carry no facts.
    ///
    /// # Errors
    /// The object does not have the shape of its kind; the message names the field.
    pub fn from_value(value: &serde_json::Value) -> Result<Option<Self>, serde_json::Error> {
        fn read<T: serde::de::DeserializeOwned>(value: &serde_json::Value) -> Result<Box<T>, serde_json::Error> {
            serde_json::from_value(value.clone()).map(Box::new)
        }
        let text = |field: &str| value.get(field).and_then(serde_json::Value::as_str).unwrap_or_default();
        Ok(Some(match (text("apiVersion"), text("kind")) {
            ("v1", "Namespace") => Self::Namespace(read(value)?),
            ("v1", "Node") => Self::Node(read(value)?),
            ("v1", "Pod") => Self::Pod(read(value)?),
            ("v1", "Service") => Self::Service(read(value)?),
            ("discovery.k8s.io/v1", "EndpointSlice") => Self::EndpointSlice(read(value)?),
            _ => return Ok(None),
        }))
    }

    /// Enough of a Service or EndpointSlice to say that it is gone; `None` for other kinds.
    pub fn named(reference: &ObjectRef) -> Option<Self> {
        let metadata = ObjectMeta {
            name: Some(reference.key.name.to_string()),
            namespace: Some(reference.key.namespace.to_string()),
            ..ObjectMeta::default()
        };
        match reference.kind {
            ObjectKind::Service => Some(Self::Service(Box::new(Service { metadata, ..Service::default() }))),
            ObjectKind::EndpointSlice => {
                Some(Self::EndpointSlice(Box::new(EndpointSlice { metadata, ..EndpointSlice::default() })))
            }
            _ => None,
        }
    }

    /// Kind and key of this object.
    pub fn reference(&self) -> ObjectRef {
        let (kind, meta) = self.kind_and_meta();
        ObjectRef { kind, key: key(kind, meta) }
    }

    /// `metadata.resourceVersion`: which write of the cluster this is.
    pub fn revision(&self) -> Option<&str> {
        self.kind_and_meta().1.resource_version.as_deref()
    }

    fn kind_and_meta(&self) -> (ObjectKind, &ObjectMeta) {
        match self {
            Self::Namespace(o) => (ObjectKind::Namespace, &o.metadata),
            Self::Node(o) => (ObjectKind::Node, &o.metadata),
            Self::Pod(o) => (ObjectKind::Pod, &o.metadata),
            Self::Service(o) => (ObjectKind::Service, &o.metadata),
            Self::EndpointSlice(o) => (ObjectKind::EndpointSlice, &o.metadata),
        }
    }
}

fn key(kind: ObjectKind, meta: &ObjectMeta) -> NsName {
    let name = meta.name.as_deref().unwrap_or_default();
    let namespace = match kind {
        ObjectKind::Namespace | ObjectKind::Node => "",
        _ => meta.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or("default"),
    };
    NsName::new(namespace, name)
}

/// The fact an object states, and what is wrong with it.
pub fn fact(object: &Object) -> (Fact, Vec<Complaint>) {
    let about = object.reference();
    let mut complaints = Complaints { about: about.clone(), found: Vec::new() };
    let key = about.key;
    let fact = match object {
        Object::Namespace(_) => Fact::Namespace(key.name, Some(())),
        Object::Node(node) => Fact::Node(key.name, Some(cluster::node(node, &mut complaints))),
        Object::Pod(pod) => Fact::Pod(key, Some(cluster::pod(pod, &mut complaints))),
        Object::Service(service) => Fact::Service(key, services::service(service, &mut complaints)),
        Object::EndpointSlice(slice) => Fact::Slice(key, endpoints::slice(slice, &mut complaints)),
    };
    (fact, complaints.found)
}

/// The fact that an object is gone.
pub fn gone(object: &Object) -> Fact {
    let key = object.reference().key;
    match object {
        Object::Namespace(_) => Fact::Namespace(key.name, None),
        Object::Node(_) => Fact::Node(key.name, None),
        Object::Pod(_) => Fact::Pod(key, None),
        Object::Service(_) => Fact::Service(key, None),
        Object::EndpointSlice(_) => Fact::Slice(key, None),
    }
}

/// Takes a batch of watch events into `facts`.
pub fn ingest(facts: &mut Facts, events: impl IntoIterator<Item = Event>) -> (Touched, Vec<Complaint>) {
    let mut touched = Touched::default();
    let mut complaints = Vec::new();
    for event in events {
        let fact = match &event {
            Event::Gone(object) => gone(object),
            Event::Value(object) => {
                let (fact, found) = fact(object);
                complaints.extend(found);
                fact
            }
        };
        touched.merge(facts.apply(fact));
    }
    (touched, complaints)
}

/// Collects what is wrong with one object.
pub(crate) struct Complaints {
    about: ObjectRef,
    found: Vec<Complaint>,
}

impl Complaints {
    fn add(&mut self, reason: &str, message: String) {
        self.found.push(Complaint { object: self.about.clone(), reason: reason.into(), message });
    }
}
