//! Which Services select a pod: their selectors, kept beside the facts, which do not need them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Service;
use portolan_ingest::{Event, Object};
use portolan_model::{NsName, ObjectKind};

use crate::core::ToCore;
use crate::source::Sink;

type Labels = BTreeMap<String, String>;

/// Selectors by Service. Services without one, and ExternalNames, select nothing.
#[derive(Debug, Default)]
pub(crate) struct Selectors(Mutex<BTreeMap<NsName, Labels>>);

impl Selectors {
    /// The Services of the namespace whose selector these labels meet.
    pub(crate) fn selecting(&self, namespace: &str, labels: Option<&Labels>) -> Vec<NsName> {
        let Some(labels) = labels else { return Vec::new() };
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = known.iter().filter(|(service, _)| *service.namespace == *namespace);
        let takes = |selector: &Labels| selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        own.filter(|(_, selector)| takes(selector)).map(|(service, _)| service.clone()).collect()
    }

    fn set(&self, service: &Service) {
        let spec = service.spec.as_ref().filter(|spec| spec.type_.as_deref() != Some("ExternalName"));
        let selector = spec.and_then(|spec| spec.selector.clone()).filter(|selector| !selector.is_empty());
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match selector {
            Some(selector) => known.insert(key(service), selector),
            None => known.remove(&key(service)),
        };
    }

    fn remove(&self, service: &Service) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&key(service));
    }
}

fn key(service: &Service) -> NsName {
    let (namespace, name) = (service.metadata.namespace.as_deref(), service.metadata.name.as_deref());
    NsName::new(namespace.unwrap_or_default(), name.unwrap_or_default())
}

/// Services on their way to the core; their selectors stay here.
pub(crate) struct ServiceSink {
    pub(crate) core: ToCore,
    pub(crate) selectors: Arc<Selectors>,
}

impl Sink for ServiceSink {
    fn event(&self, event: Event) {
        match &event {
            Event::Value(Object::Service(service)) => self.selectors.set(service),
            Event::Gone(Object::Service(service)) => self.selectors.remove(service),
            _ => {}
        }
        self.core.event(event);
    }

    fn synced(&self, kind: ObjectKind) {
        self.core.synced(kind);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ServiceSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn labels(text: &str) -> Labels {
        let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    fn service(name: &str, selector: &str) -> Service {
        let metadata = ObjectMeta { namespace: Some("a".into()), name: Some(name.into()), ..ObjectMeta::default() };
        let spec = ServiceSpec { selector: Some(labels(selector)), ..ServiceSpec::default() };
        Service { metadata, spec: Some(spec), status: None }
    }

    #[test]
    fn a_service_selects_pods_of_its_namespace_that_have_all_its_labels() {
        let selectors = Selectors::default();
        let found = |namespace: &str, text: &str| -> Vec<String> {
            let found = selectors.selecting(namespace, Some(&labels(text)));
            found.iter().map(|service| service.name.to_string()).collect()
        };
        selectors.set(&service("one", "app=web"));
        selectors.set(&service("two", "app=web tier=front"));
        selectors.set(&service("none", ""));
        assert_eq!(found("a", "app=web more=yes"), ["one"]);
        assert_eq!(found("a", "app=web tier=front"), ["one", "two"]);
        assert_eq!(found("b", "app=web"), [""; 0]);
        selectors.set(&service("one", "app=other"));
        selectors.remove(&service("two", ""));
        assert_eq!(found("a", "app=web tier=front"), [""; 0]);
    }
}
