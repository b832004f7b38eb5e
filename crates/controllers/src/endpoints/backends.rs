//! The pods behind a Service, grouped by the ports they really listen on.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::object::{Id, Kind};
use crate::selector::Labels;
use crate::world::World;
use crate::{pod, selector};

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            _ => None,
        }
    }

    pub fn of(address: &str) -> Option<Self> {
        match address.parse::<IpAddr>().ok()? {
            IpAddr::V4(_) => Some(Family::V4),
            IpAddr::V6(_) => Some(Family::V6),
        }
    }

    /// The slice's `addressType`.
    pub fn address_type(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }
}

/// A set of ports; slices and subsets are one per such set. Sorted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortSet(pub Vec<Port>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    pub name: String,
    pub number: i32,
    pub protocol: String,
    pub app_protocol: Option<String>,
}

impl PortSet {
    pub fn of_slice(ports: Option<&Vec<EndpointPort>>) -> Self {
        let mut ports: Vec<Port> = ports
            .into_iter()
            .flatten()
            .map(|port| Port {
                name: port.name.clone().unwrap_or_default(),
                number: port.port.unwrap_or(0),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                app_protocol: port.app_protocol.clone(),
            })
            .collect();
        ports.sort();
        PortSet(ports)
    }

    pub fn to_slice(&self) -> Vec<EndpointPort> {
        let ports = self.0.iter().map(|port| EndpointPort {
            name: Some(port.name.clone()),
            port: Some(port.number),
            protocol: Some(port.protocol.clone()),
            app_protocol: port.app_protocol.clone(),
        });
        ports.collect()
    }
}

/// One pod as an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    pub endpoint: Endpoint,
    /// Address, then the pod's uid: what makes two endpoints the same one.
    pub key: (String, String),
    /// When the pod last came or went.
    pub changed: Option<Timestamp>,
}

impl Backend {
    pub fn condition(&self, pick: impl Fn(&EndpointConditions) -> Option<bool>) -> bool {
        let conditions = self.endpoint.conditions.as_ref();
        conditions.and_then(pick).unwrap_or(false)
    }
}

pub type Backends = BTreeMap<PortSet, Vec<Backend>>;

/// All backends of one family, in the pods' order.
pub fn of(world: &World, service: &Arc<Service>, family: Family) -> Backends {
    let mut groups = Backends::new();
    let Some(spec) = &service.spec else {
        return groups;
    };
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let pairs = spec.selector.clone().unwrap_or_default();
    let ports = spec.ports.as_deref().unwrap_or_default();
    for pod in world.list::<Pod>(namespace) {
        if !selector::pairs_match(&pairs, pod.metadata.labels.as_ref()) || pod::is_finished(pod) {
            continue;
        }
        let Some(address) = pod::addresses(pod).find(|ip| Family::of(ip) == Some(family)) else {
            continue;
        };
        let found = PortSet(pod_ports(pod, ports));
        if found.0.is_empty() && !ports.is_empty() {
            continue; // none of the Service's named ports is one of the pod's
        }
        let backend = backend(world, service, pod, address);
        groups.entry(found).or_default().push(backend);
    }
    groups
}

fn backend(world: &World, service: &Service, pod: &Pod, address: &str) -> Backend {
    let spec = service.spec.as_ref();
    let publishes_all = spec.is_some_and(|spec| spec.publish_not_ready_addresses == Some(true));
    let serving = pod::is_ready(pod);
    let terminating = pod::is_terminating(pod);
    let node_name = pod::node_name(pod);
    let endpoint = Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(publishes_all || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(service, pod),
        node_name: node_name.map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        zone: node_name.and_then(|node| world.node(node)).and_then(|node| zone(node)),
        ..Endpoint::default()
    };
    let deleted = pod.metadata.deletion_timestamp.as_ref();
    Backend {
        endpoint,
        key: (address.to_owned(), pod.metadata.uid.clone().unwrap_or_default()),
        changed: deleted.map(|time| time.0).max(pod::ready_since(pod)),
    }
}

pub fn zone(node: &Node) -> Option<String> {
    let labels = node.metadata.labels.as_ref()?;
    labels.get(ZONE_LABEL).cloned()
}

/// The name the pod has under its Service in DNS, if it asked for one.
fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.clone().filter(|name| !name.is_empty())?;
    (spec.subdomain == service.metadata.name).then_some(hostname)
}

/// The Service's ports as numbers on this pod; a name the pod does not have is left out.
fn pod_ports(pod: &Pod, ports: &[ServicePort]) -> Vec<Port> {
    let mut found: Vec<Port> = ports
        .iter()
        .filter_map(|port| {
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            Some(Port {
                name: port.name.clone().unwrap_or_default(),
                number: target_number(pod, port, &protocol)?,
                protocol,
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    found.sort();
    found
}

fn target_number(pod: &Pod, port: &ServicePort, protocol: &str) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|one| one.restart_policy.as_deref() == Some("Always"));
    let containers = spec.containers.iter().chain(sidecars);
    let mut declared = containers.flat_map(|container| container.ports.iter().flatten());
    declared
        .find(|port| port.name.as_ref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol)
        .map(|port| port.container_port)
}

/// What of a pod shows in slices and Endpoints.
#[derive(PartialEq)]
pub struct Face<'a> {
    labels: Option<&'a Labels>,
    node: Option<&'a str>,
    addresses: Vec<&'a str>,
    is_finished: bool,
    is_ready: bool,
    is_terminating: bool,
}

pub fn face(pod: &Pod) -> Face<'_> {
    Face {
        labels: pod.metadata.labels.as_ref(),
        node: pod::node_name(pod),
        addresses: pod::addresses(pod).collect(),
        is_finished: pod::is_finished(pod),
        is_ready: pod::is_ready(pod),
        is_terminating: pod::is_terminating(pod),
    }
}

pub fn service_id(service: &Service) -> Id {
    Id::of(Kind::Service, &service.metadata)
}
