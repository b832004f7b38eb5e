//! Causes: from a meaning to the objects behind it. What both backends' `meaning` rooms share.

use std::net::SocketAddr;

use ipnet::IpNet;
use portolan_model::{NsName, ObjectKind, ObjectRef, ServicePortKey, Snapshot};

use crate::meaning::{Meaning, RuleTold};

/// A meaning, and objects that it does not name itself.
pub(crate) struct Said {
    meaning: Meaning,
    beside: Vec<ObjectRef>,
}

impl From<Meaning> for Said {
    fn from(meaning: Meaning) -> Self {
        Self { meaning, beside: Vec::new() }
    }
}

impl Meaning {
    /// With objects that it does not name itself.
    pub(crate) fn beside(self, objects: impl IntoIterator<Item = ObjectRef>) -> Said {
        Said { meaning: self, beside: objects.into_iter().collect() }
    }
}

impl Said {
    /// The rule of this text says it.
    pub(crate) fn told(self, snapshot: &Snapshot, text: String) -> RuleTold {
        let service = self.meaning.service().map(service);
        let pod = match &self.meaning {
            Meaning::Chooses { service, endpoint, .. } | Meaning::SendsTo { service, endpoint, .. } => {
                pod_behind(snapshot, service, *endpoint)
            }
            Meaning::HostPort { pod, .. } => Some(object(ObjectKind::Pod, pod)),
            _ => None,
        };
        let mut objects: Vec<ObjectRef> = Vec::new();
        for object in service.into_iter().chain(pod).chain(self.beside) {
            if !objects.contains(&object) {
                objects.push(object);
            }
        }
        RuleTold { text: text.into(), meaning: self.meaning, objects }
    }
}

/// The object of this kind and key.
pub(crate) fn object(kind: ObjectKind, key: &NsName) -> ObjectRef {
    ObjectRef { kind, key: key.clone() }
}

/// The Service of a service port.
pub(crate) fn service(key: &ServicePortKey) -> ObjectRef {
    object(ObjectKind::Service, &key.service)
}

/// The Pod behind an endpoint, as its EndpointSlice says.
pub(crate) fn pod_behind(snapshot: &Snapshot, key: &ServicePortKey, endpoint: SocketAddr) -> Option<ObjectRef> {
    let view = snapshot.services.get(&key.service)?;
    let ports = view.ports.iter().filter(|port| port.key == *key);
    let mut endpoints = ports.flat_map(|port| &port.endpoints);
    let found = endpoints.find(|it| it.addr == endpoint.ip() && it.port == endpoint.port())?;
    found.pod.as_ref().map(|pod| object(ObjectKind::Pod, pod))
}

/// The Node whose pods' range this is; `None` for the range of all.
pub(crate) fn node_of_range(snapshot: &Snapshot, range: IpNet) -> Option<ObjectRef> {
    let has_it = |cidrs: &[IpNet]| cidrs.iter().any(|cidr| cidr.trunc() == range.trunc());
    let (name, _) = snapshot.nodes.iter().find(|(_, node)| has_it(&node.pod_cidrs))?;
    Some(object(ObjectKind::Node, &NsName::new("", name.clone())))
}

/// The Services that reach a pod, by their EndpointSlices.
pub(crate) fn services_of_pod<'a>(snapshot: &'a Snapshot, pod: &'a NsName) -> impl Iterator<Item = &'a NsName> {
    let leads_there = |port: &portolan_model::ServicePort| port.endpoints.iter().any(|it| it.pod.as_ref() == Some(pod));
    snapshot.services.iter().filter(move |(_, view)| view.ports.iter().any(leads_there)).map(|(key, _)| key)
}
