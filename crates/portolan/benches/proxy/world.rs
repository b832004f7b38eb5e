//! The cluster that is programmed: so many Services of so many endpoints, as Kubernetes objects in memory.
//!
//! Every endpoint is a pod of its own, on another node. Only the last Service's endpoints answer: they are the addresses
//! of the server that the connect times are taken with.

use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use portolan_ingest::{Event, Object, ingest};
use portolan_model::{Delta, Facts, Settings, Snapshot, Touched, resolve};
use serde_json::{Value, json};

use crate::Outcome;

/// All pods', so that a client in it is not masqueraded.
pub const CLUSTER_CIDR: &str = "10.128.0.0/9";
pub const SERVICE_CIDR: &str = "10.96.0.0/12";
pub const NODE_IP: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 11);
/// Where the last Service's endpoints are: one after the other from here on.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
/// Port of the Services.
pub const PORT: u16 = 80;
/// Port of the endpoints.
pub const TARGET: u16 = 8080;
pub const NAMESPACE: &str = "bench";
pub const PORT_NAME: &str = "http";

/// So many Services, each of so many endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub services: u32,
    pub endpoints: u32,
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} x {}", thousands(self.services), self.endpoints)
    }
}

/// 30000 as `30,000`.
pub fn thousands(number: u32) -> String {
    match number {
        0..1000 => number.to_string(),
        _ => format!("{},{:03}", number / 1000, number % 1000),
    }
}

impl Size {
    pub const fn new(services: u32, endpoints: u32) -> Self {
        Self { services, endpoints }
    }

    pub fn last(self) -> u32 {
        self.services - 1
    }

    /// Addresses of one Service's endpoints.
    pub fn addresses(self, service: u32) -> Vec<Ipv4Addr> {
        let first = match service == self.last() {
            true => u32::from(SERVER),
            false => u32::from(Ipv4Addr::new(10, 128, 0, 1)) + service * self.endpoints,
        };
        (first..first + self.endpoints).map(Ipv4Addr::from).collect()
    }

    pub fn node(self) -> Outcome<Object> {
        let addresses = json!([{"type": "InternalIP", "address": NODE_IP}]);
        let node = json!({"metadata": {"name": "node-1"}, "status": {"addresses": addresses}});
        Ok(Object::Node(Box::new(serde_json::from_value::<Node>(node)?)))
    }

    /// The objects, as a watch's first list gives them: the Node, then each Service and its slice.
    pub fn objects(self) -> Outcome<Vec<Object>> {
        let mut objects = vec![self.node()?];
        for service in 0..self.services {
            objects.push(service_object(service)?);
            objects.push(slice_object(service, &self.addresses(service))?);
        }
        Ok(objects)
    }
}

pub fn name(service: u32) -> String {
    format!("svc-{service:05}")
}

pub fn cluster_ip(service: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 1, 0)) + service)
}

/// An address that no endpoint had before, `n` counting the changes.
pub fn fresh_address(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 192, 0, 1)) + n)
}

pub fn service_object(service: u32) -> Outcome<Object> {
    let port = json!({"name": PORT_NAME, "port": PORT, "protocol": "TCP", "targetPort": TARGET});
    let ip = cluster_ip(service);
    let spec =
        json!({"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": [port], "sessionAffinity": "None"});
    let object = json!({"metadata": {"name": name(service), "namespace": NAMESPACE}, "spec": spec});
    Ok(Object::Service(Box::new(serde_json::from_value::<Service>(object)?)))
}

pub fn slice_object(service: u32, addresses: &[Ipv4Addr]) -> Outcome<Object> {
    let endpoint = |address: &Ipv4Addr| {
        let pod = format!("{}-7d4b9c6f5d-{:08x}", name(service), u32::from(*address));
        json!({"addresses": [address], "nodeName": "node-2",
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": pod}})
    };
    let labels = json!({"kubernetes.io/service-name": name(service)});
    let object = json!({
        "metadata": {"name": format!("{}-x7k2p", name(service)), "namespace": NAMESPACE, "labels": labels},
        "addressType": "IPv4",
        "ports": [{"name": PORT_NAME, "port": TARGET, "protocol": "TCP"}],
        "endpoints": addresses.iter().map(endpoint).collect::<Vec<Value>>(),
    });
    Ok(Object::EndpointSlice(Box::new(serde_json::from_value::<EndpointSlice>(object)?)))
}

pub fn settings() -> Outcome<Arc<Settings>> {
    Ok(Arc::new(Settings {
        node: "node-1".into(),
        cluster_cidrs: vec![CLUSTER_CIDR.parse()?],
        service_cidrs: vec![SERVICE_CIDR.parse()?],
        cluster_dns: Vec::new(),
        cluster_domain: "cluster.local".into(),
        proxy: portolan_model::ProxySettings { egress_snat: false, ..Default::default() },
    }))
}

/// What the node knows of the cluster.
pub struct Known {
    facts: Facts,
    /// Heard of and not yet in the snapshot.
    heard: Touched,
    pub snapshot: Snapshot,
}

impl Known {
    pub fn nothing() -> Outcome<Self> {
        Ok(Self { facts: Facts::default(), heard: Touched::default(), snapshot: Snapshot::empty(settings()?) })
    }

    /// Takes objects in as the agent does; the snapshot follows with [`Known::resolve`].
    pub fn take(&mut self, objects: Vec<Object>) {
        let (touched, _) = ingest(&mut self.facts, objects.into_iter().map(Event::Value));
        self.heard.merge(touched);
    }

    /// Brings the snapshot up to what was heard, and says what changed in it.
    pub fn resolve(&mut self) -> Delta {
        let touched = std::mem::take(&mut self.heard);
        let (snapshot, delta) = resolve(&self.facts, &self.snapshot, &touched);
        self.snapshot = snapshot;
        delta
    }
}
