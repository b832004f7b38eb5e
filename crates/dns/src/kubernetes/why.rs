//! Why an answer is what it is: the objects behind what was decided.

use std::sync::Arc;

use portolan_model::{NsName, ObjectKind, ObjectRef};

use crate::kubernetes::Why;
use crate::kubernetes::decide::{Decided, Outcome, Question, Told};
use crate::kubernetes::place::Place;
use crate::records::service::{Endpoint, Service};
use crate::records::service_ref;
use crate::wire::Rcode;

impl<'r> Question<'r, '_> {
    /// The objects that the answer comes from, and the reason in a few words.
    pub(crate) fn why(&self) -> Why {
        let (mut causes, note) = match self.outcome() {
            Outcome::Next => (Vec::new(), "not a name of ours"),
            Outcome::Alias(links) => {
                (services(links.iter().map(|(service, _)| *service)), "an alias of a name outside")
            }
            Outcome::Told(told) => self.why_told(&told),
        };
        causes.sort();
        causes.dedup();
        Why { causes, note }
    }

    fn why_told(&self, told: &Told<'r>) -> (Vec<ObjectRef>, &'static str) {
        let mut causes = services(told.links.iter().map(|(service, _)| *service));
        causes.extend(self.causes(&told.at));
        let note = match (&told.at, told.absent, told.links.is_empty()) {
            (_, None, false) => "an alias of a name in the cluster",
            (_, Some(_), false) => "an alias whose target has no such records",
            (Decided::Nothing, ..) => "no such name",
            (Decided::Unknown, ..) => "no such name yet: the cluster was not read in full",
            (Decided::Bare(note), ..) => note,
            (Decided::Pod(_), None, _) => "a pod record: the address in the name itself",
            (Decided::Pod(_), Some(Rcode::NOERROR), _) => "a pod record of the other family",
            (_, Some(_), _) => "the name exists, without records of this type",
            (_, None, _) => "records of the name",
        };
        (causes, note)
    }

    fn causes(&self, at: &Decided<'r>) -> Vec<ObjectRef> {
        match at {
            Decided::Service(service) | Decided::Port(service, ..) => vec![service_ref(&service.key)],
            Decided::Endpoints(service, endpoints) => {
                let pods = endpoints.iter().filter_map(|endpoint| pod_ref(service, endpoint));
                pods.chain([service_ref(&service.key)]).collect()
            }
            Decided::Reverse(_, found) => services(found.iter().copied()),
            Decided::Apex | Decided::Host => services(self.view.servers(self.records).into_iter()),
            Decided::Pod(_) | Decided::Bare(_) => self.namespace_cause(),
            Decided::Version | Decided::Nothing | Decided::Elsewhere | Decided::Unknown => Vec::new(),
        }
    }

    fn namespace_cause(&self) -> Vec<ObjectRef> {
        let label = match self.asked.place(self.left) {
            Place::Namespace(label) | Place::PodNamespace(label) | Place::Pod(_, label) => label,
            Place::Below(labels, _) => {
                return services(self.records.service(labels).into_iter());
            }
            _ => return Vec::new(),
        };
        self.records.namespace(label).map(|namespace| namespace_ref(&namespace.name)).into_iter().collect()
    }
}

fn services<'a>(all: impl Iterator<Item = &'a Arc<Service>>) -> Vec<ObjectRef> {
    all.map(|service| service_ref(&service.key)).collect()
}

/// The Pod behind an endpoint.
pub(crate) fn pod_ref(service: &Service, endpoint: &Endpoint) -> Option<ObjectRef> {
    let pod = endpoint.pod.clone()?;
    let key = NsName { namespace: service.key.namespace.clone(), name: pod };
    Some(ObjectRef { kind: ObjectKind::Pod, key })
}

/// A namespace as a cause.
pub(crate) fn namespace_ref(name: &portolan_model::Text) -> ObjectRef {
    ObjectRef { kind: ObjectKind::Namespace, key: NsName { namespace: "".into(), name: name.clone() } }
}
