//! What people who look after Services must hear: Events on the Service in a live cluster, lines of the log elsewhere.

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::PostParams;
use kube::{Api, Client};
use portolan_model::{NsName, Text};
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::warn;

/// Something wrong with a Service on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) service: NsName,
    /// In the manner of Kubernetes: `FailedToProgram`.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// The kernel took the rules of every Service but this one.
pub(crate) const FAILED_TO_PROGRAM: &str = "FailedToProgram";
/// kube-proxy's own word for a health check port that cannot be bound.
pub(crate) const FAILED_HEALTH_CHECK: &str = "FailedToStartServiceHealthcheck";

/// Where notices go.
#[derive(Clone)]
pub enum Recorder {
    /// The log alone.
    Log,
    /// The log, and Events of type Warning in this cluster, from this node.
    Cluster(Client, Text),
}

/// Passes notices on until nobody makes any more.
pub(crate) async fn record(mut notices: UnboundedReceiver<Notice>, recorder: Recorder) {
    while let Some(notice) = notices.recv().await {
        warn!(service = %notice.service, reason = notice.reason, "{}", notice.message);
        let Recorder::Cluster(client, node) = &recorder else { continue };
        if let Err(error) = write(client, node, &notice).await {
            warn!(service = %notice.service, %error, "the Event was not written");
        }
    }
}

async fn write(client: &Client, node: &str, notice: &Notice) -> kube::Result<()> {
    let namespace = &notice.service.namespace;
    let found = Api::<Service>::namespaced(client.clone(), namespace).get_opt(&notice.service.name).await?;
    // A Service that is gone needs no Event.
    let Some(service) = found else { return Ok(()) };
    let event = event(notice, &service, node);
    Api::namespaced(client.clone(), namespace).create(&PostParams::default(), &event).await.map(drop)
}

fn event(notice: &Notice, service: &Service, node: &str) -> Event {
    let now = Time(k8s_openapi::jiff::Timestamp::now());
    let NsName { namespace, name } = &notice.service;
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}", now.0.as_nanosecond())),
            namespace: Some(namespace.to_string()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Service".into()),
            name: Some(name.to_string()),
            namespace: Some(namespace.to_string()),
            uid: service.metadata.uid.clone(),
            ..ObjectReference::default()
        },
        type_: Some("Warning".into()),
        reason: Some(notice.reason.into()),
        message: Some(notice.message.clone()),
        source: Some(EventSource { component: Some("portolan-proxy".into()), host: Some(node.into()) }),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        count: Some(1),
        ..Event::default()
    }
}
