//! The Service `kube-dns` in kube-system: the address every pod asks for names.
//!
//! Only the Service is made here. Its backends are pods that each node's agent creates itself.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::object::{Id, Kind};
use crate::plan::{Plan, Write};
use crate::world::World;

pub const NAMESPACE: &str = "kube-system";
pub const NAME: &str = "kube-dns";

pub fn reconcile(world: &World, addresses: &[IpAddr]) -> Plan {
    let namespace = Id::new(Kind::Namespace, "", NAMESPACE);
    let id = Id::new(Kind::Service, NAMESPACE, NAME);
    let has_namespace = world.object(&namespace).is_some();
    let is_leaving = world.is_namespace_terminating(NAMESPACE);
    if addresses.is_empty() || !has_namespace || is_leaving || world.object(&id).is_some() {
        return Plan::idle();
    }
    Plan::of(vec![Write::create(service(addresses))])
}

fn service(addresses: &[IpAddr]) -> Service {
    let labels =
        [("k8s-app", "kube-dns"), ("kubernetes.io/cluster-service", "true"), ("kubernetes.io/name", "CoreDNS")];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let selector = [("k8s-app".to_owned(), "kube-dns".to_owned())];
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    let families = addresses.iter().map(|address| match address {
        IpAddr::V4(_) => "IPv4".to_owned(),
        IpAddr::V6(_) => "IPv6".to_owned(),
    });
    let policy = match addresses.len() {
        1 => "SingleStack",
        _ => "RequireDualStack",
    };
    Service {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            cluster_ip: texts.first().cloned(),
            cluster_ips: Some(texts),
            ip_families: Some(families.collect()),
            ip_family_policy: Some(policy.to_owned()),
            type_: Some("ClusterIP".to_owned()),
            selector: Some(selector.into()),
            ports: Some(vec![port("dns", "UDP", 53), port("dns-tcp", "TCP", 53), port("metrics", "TCP", 9153)]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn port(name: &str, protocol: &str, number: i32) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        protocol: Some(protocol.to_owned()),
        port: number,
        target_port: Some(IntOrString::Int(number)),
        ..ServicePort::default()
    }
}
