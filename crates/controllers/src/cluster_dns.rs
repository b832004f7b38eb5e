//! The Service `kube-dns` in kube-system, the address every pod asks for names, and its configuration, ConfigMap `coredns`.
//!
//! Backends of the Service are pods that each node's agent creates itself.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ConfigMap, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::Config;
use crate::object::{Id, Kind};
use crate::plan::{Plan, Write};
use crate::world::World;

pub const NAMESPACE: &str = "kube-system";
pub const NAME: &str = "kube-dns";
pub const CONFIG_MAP: &str = "coredns";

pub fn reconcile(world: &World, config: &Config) -> Plan {
    let addresses = &config.cluster_dns;
    let has_namespace = world.object(&Id::new(Kind::Namespace, "", NAMESPACE)).is_some();
    if addresses.is_empty() || !has_namespace || world.is_namespace_terminating(NAMESPACE) {
        return Plan::idle();
    }
    let is_missing = |kind, name| world.object(&Id::new(kind, NAMESPACE, name)).is_none();
    let mut writes = Vec::new();
    if is_missing(Kind::Service, NAME) {
        writes.push(Write::create(service(addresses)));
    }
    if is_missing(Kind::ConfigMap, CONFIG_MAP) {
        writes.push(Write::create(config_map(&config.cluster_domain)));
    }
    Plan::of(writes)
}

/// What a user finds to change; nodes take it as it is. One that is there, whoever made it, is never touched.
fn config_map(domain: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(CONFIG_MAP.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some([("Corefile".to_owned(), corefile(domain))].into()),
        ..ConfigMap::default()
    }
}

/// In the shape of kubeadm's, which nearly every cluster has.
fn corefile(domain: &str) -> String {
    format!(
        ".:53 {{
    errors
    health {{
       lameduck 5s
    }}
    ready
    kubernetes {domain} in-addr.arpa ip6.arpa {{
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }}
    prometheus :9153
    forward . /etc/resolv.conf {{
       max_concurrent 1000
    }}
    cache 30 {{
       disable success {domain}
       disable denial {domain}
    }}
    loop
    reload
    loadbalance
}}
"
    )
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
