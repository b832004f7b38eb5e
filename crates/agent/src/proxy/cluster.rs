//! A live cluster as inputs: what kube-proxy watches, with its selectors.

use std::sync::mpsc::Sender;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::runtime::watcher;
use portolan_ingest::{Event, Object};
use portolan_model::{ObjectKind, Settings};

use crate::proxy::Input;
use crate::source::{self, Sink};

const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Follows our own Node, the Services that are this proxy's, and their slices, until the process ends.
pub(crate) fn follow(client: &Client, settings: &Settings, inputs: &Sender<Input>) {
    let everything = watcher::Config::default();
    let to = ToKeeper(inputs.clone());
    let own = everything.clone().fields(&format!("metadata.name={}", settings.node));
    let nodes = source::follow::<Node>;
    tokio::spawn(nodes(client.clone(), own, ObjectKind::Node, Object::Node, to.clone()));
    let ours = match &settings.proxy.service_proxy_name {
        Some(name) => format!("{PROXY_NAME}={name},!{HEADLESS}"),
        None => format!("!{PROXY_NAME},!{HEADLESS}"),
    };
    let services = source::follow::<Service>;
    let watched = everything.clone().labels(&ours);
    tokio::spawn(services(client.clone(), watched, ObjectKind::Service, Object::Service, to.clone()));
    let slices = source::follow::<EndpointSlice>;
    let watched = everything.labels(&ours);
    tokio::spawn(slices(client.clone(), watched, ObjectKind::EndpointSlice, Object::EndpointSlice, to));
}

#[derive(Clone)]
struct ToKeeper(Sender<Input>);

impl Sink for ToKeeper {
    fn event(&self, event: Event) {
        // The keeper ends only with the process.
        let _ = self.0.send(Input::Cluster(event, SystemTime::now()));
    }

    fn synced(&self, kind: ObjectKind) {
        let _ = self.0.send(Input::Synced(kind));
    }
}
