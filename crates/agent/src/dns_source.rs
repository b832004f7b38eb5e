//! A live cluster as a name server alone needs it: what CoreDNS watches, and no more.

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::runtime::watcher;
use portolan_ingest::{Event, Object};
use portolan_model::ObjectKind;
use tokio::sync::mpsc::UnboundedSender;

use crate::source::{Sink, follow};

/// What is told of the cluster.
#[derive(Clone, Debug)]
pub enum ClusterNews {
    /// One object's value, or that it is gone.
    Object(Box<Event>),
    /// All objects of this kind have been told.
    Synced(ObjectKind),
}

/// Kinds that are followed; pods only where their addresses are asked for.
pub fn followed(pods: bool) -> Vec<ObjectKind> {
    let always = [ObjectKind::Namespace, ObjectKind::Service, ObjectKind::EndpointSlice];
    always.into_iter().chain(pods.then_some(ObjectKind::Pod)).collect()
}

/// Follows the cluster until the process ends. To be called inside a runtime.
pub fn follow_cluster(client: &Client, pods: bool, news: &UnboundedSender<ClusterNews>) {
    let everything = watcher::Config::default();
    let to = ToFeed(news.clone());
    let namespaces = follow::<Namespace>;
    tokio::spawn(namespaces(client.clone(), everything.clone(), ObjectKind::Namespace, Object::Namespace, to.clone()));
    let services = follow::<Service>;
    tokio::spawn(services(client.clone(), everything.clone(), ObjectKind::Service, Object::Service, to.clone()));
    let slices = follow::<EndpointSlice>;
    let slice = Object::EndpointSlice;
    tokio::spawn(slices(client.clone(), everything.clone(), ObjectKind::EndpointSlice, slice, to.clone()));
    if pods {
        let pods = follow::<Pod>;
        // Whose time is over has an address no more.
        let alive = everything.fields("status.phase!=Succeeded,status.phase!=Failed");
        tokio::spawn(pods(client.clone(), alive, ObjectKind::Pod, Object::Pod, to));
    }
}

#[derive(Clone)]
struct ToFeed(UnboundedSender<ClusterNews>);

impl Sink for ToFeed {
    fn event(&self, event: Event) {
        // The reader ends only with the process.
        let _ = self.0.send(ClusterNews::Object(Box::new(event)));
    }

    fn synced(&self, kind: ObjectKind) {
        let _ = self.0.send(ClusterNews::Synced(kind));
    }
}
