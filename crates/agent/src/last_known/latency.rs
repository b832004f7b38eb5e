//! How long a change of endpoints takes to be answered: from the time that its controller noted, else from when it was
//! heard, until the nameserver has it.

use std::time::SystemTime;

use portolan_ingest::{Event, Object};
use portolan_model::{NsName, ServiceKind, Snapshot};

use crate::dns::ProgrammedKind;
use crate::proxy::trigger;

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const MANAGER_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// Who makes slices of Services that have a selector.
const BY_SELECTOR: &str = "endpointslice-controller.k8s.io";

/// Changes that are not answered yet.
#[derive(Debug)]
pub(super) struct Latency {
    /// What happened before was answered by a predecessor, or by nobody that is measured here.
    started: SystemTime,
    pending: Vec<Pending>,
}

#[derive(Debug)]
struct Pending {
    service: NsName,
    has_selector: bool,
    at: SystemTime,
}

impl Latency {
    pub(super) fn new(started: SystemTime) -> Self {
        Self { started, pending: Vec::new() }
    }

    /// An event came at `seen`.
    pub(super) fn saw(&mut self, event: &Event, seen: SystemTime) {
        let (Event::Value(object) | Event::Gone(object)) = event;
        let Object::EndpointSlice(slice) = object else { return };
        let label = |name: &str| slice.metadata.labels.as_ref().and_then(|labels| labels.get(name)).map(String::as_str);
        let (Some(service), at) = (label(SERVICE_LABEL), trigger(object).unwrap_or(seen)) else { return };
        if at < self.started {
            return;
        }
        let service = NsName::new(slice.metadata.namespace.as_deref().unwrap_or_default(), service);
        self.pending.push(Pending { service, has_selector: label(MANAGER_LABEL) == Some(BY_SELECTOR), at });
    }

    /// What `snapshot`, which was told, answers. A Service that is not there has no kind.
    pub(super) fn take(&mut self, snapshot: &Snapshot) -> Vec<(ProgrammedKind, SystemTime)> {
        let kind = |pending: &Pending| {
            let spec = &snapshot.services.get(&pending.service)?.spec;
            Some(match (&spec.kind, pending.has_selector) {
                (ServiceKind::Headless, true) => ProgrammedKind::HeadlessWithSelector,
                (ServiceKind::Headless, false) => ProgrammedKind::HeadlessWithoutSelector,
                _ => ProgrammedKind::ClusterIp,
            })
        };
        let all = std::mem::take(&mut self.pending);
        all.iter().filter_map(|pending| Some((kind(pending)?, pending.at))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use portolan_model::{Fact, Facts, Service, Settings, resolve};
    use serde_json::json;

    use super::*;

    fn slice(manager: &str, trigger: Option<&str>) -> Event {
        let labels = json!({SERVICE_LABEL: "db", MANAGER_LABEL: manager});
        let annotations = trigger.map(|time| json!({"endpoints.kubernetes.io/last-change-trigger-time": time}));
        let object = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": [],
            "metadata": {"name": "db-1", "namespace": "shop", "labels": labels, "annotations": annotations},
        });
        Event::Value(Object::from_value(&object).expect("well-shaped").expect("a kind with facts"))
    }

    fn snapshot(kind: ServiceKind) -> Snapshot {
        let mut facts = Facts::default();
        facts.apply(Fact::Service(NsName::new("shop", "db"), Some(Service { kind, ..Service::default() })));
        let settings = Settings {
            node: "node-1".into(),
            cluster_cidrs: vec![],
            service_cidrs: vec![],
            cluster_dns: vec![],
            cluster_domain: "cluster.local".into(),
            proxy: Default::default(),
        };
        resolve(&facts, &Snapshot::empty(Arc::new(settings)), &facts.all()).0
    }

    #[test]
    fn a_change_is_measured_from_its_trigger_or_from_when_it_was_heard_and_once() {
        let at = |secs| SystemTime::UNIX_EPOCH + Duration::from_secs(secs);
        let mut latency = Latency::new(at(100));
        latency.saw(&slice(BY_SELECTOR, Some("1970-01-01T00:03:20Z")), at(201));
        latency.saw(&slice("me", None), at(202));
        latency.saw(&slice(BY_SELECTOR, Some("1970-01-01T00:00:20Z")), at(203));
        let told = latency.take(&snapshot(ServiceKind::Headless));
        let expected =
            [(ProgrammedKind::HeadlessWithSelector, at(200)), (ProgrammedKind::HeadlessWithoutSelector, at(202))];
        assert_eq!(told, expected, "what was before the start is not ours");
        assert_eq!(latency.take(&snapshot(ServiceKind::Headless)), []);
        latency.saw(&slice(BY_SELECTOR, None), at(300));
        assert_eq!(latency.take(&snapshot(ServiceKind::ClusterIp)), [(ProgrammedKind::ClusterIp, at(300))]);
    }
}
