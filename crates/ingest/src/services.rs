//! Services.

use k8s_openapi::api::core::v1 as core;
use portolan_model::{ExternalPolicy, Proto, Service, ServiceKind, ServicePortFact};

use crate::Complaints;
use crate::addresses::{addresses, prefixes};

const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// `sessionAffinityConfig.clientIP.timeoutSeconds` when unset.
const DEFAULT_AFFINITY_SECS: u32 = 10_800;

/// `None` when the object has no spec, which only a broken file can bring.
pub(crate) fn service(service: &core::Service, complaints: &mut Complaints) -> Option<Service> {
    let spec = service.spec.as_ref()?;
    let label = |name| service.metadata.labels.as_ref().and_then(|labels| labels.get(name));
    let kind = kind(spec);
    let affinity = spec.session_affinity.as_deref() == Some("ClientIP");
    Some(Service {
        cluster_ips: cluster_ips(spec, &kind, complaints),
        external_ips: addresses(spec.external_ips.iter().flatten(), "spec.externalIPs", complaints),
        load_balancer_ips: load_balancer_ips(service, complaints),
        source_ranges: prefixes(
            spec.load_balancer_source_ranges.iter().flatten(),
            "spec.loadBalancerSourceRanges",
            complaints,
        ),
        ports: ports(spec, complaints),
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_policy: match spec.external_traffic_policy.as_deref() {
            Some("Local") => ExternalPolicy::Local,
            _ => ExternalPolicy::Cluster,
        },
        affinity_secs: affinity.then(|| affinity_secs(spec)),
        health_check_node_port: health_check_node_port(spec),
        proxy_name: label(PROXY_NAME_LABEL).map(|name| name.as_str().into()),
        labelled_headless: label(HEADLESS_LABEL).is_some(),
        kind,
    })
}

/// Written only where it means something: type LoadBalancer with external policy Local.
fn health_check_node_port(spec: &core::ServiceSpec) -> u16 {
    let is_asked =
        spec.type_.as_deref() == Some("LoadBalancer") && spec.external_traffic_policy.as_deref() == Some("Local");
    spec.health_check_node_port.filter(|_| is_asked).and_then(|port| u16::try_from(port).ok()).unwrap_or_default()
}

fn kind(spec: &core::ServiceSpec) -> ServiceKind {
    match spec.type_.as_deref() {
        Some("ExternalName") => ServiceKind::ExternalName(spec.external_name.as_deref().unwrap_or_default().into()),
        _ if spec.cluster_ip.as_deref() == Some("None") => ServiceKind::Headless,
        Some("NodePort") => ServiceKind::NodePort,
        Some("LoadBalancer") => ServiceKind::LoadBalancer,
        _ => ServiceKind::ClusterIp,
    }
}

fn cluster_ips(spec: &core::ServiceSpec, kind: &ServiceKind, complaints: &mut Complaints) -> Vec<std::net::IpAddr> {
    if matches!(kind, ServiceKind::Headless | ServiceKind::ExternalName(_)) {
        return Vec::new();
    }
    let listed = spec.cluster_ips.clone().filter(|ips| !ips.is_empty());
    let texts = listed.or_else(|| spec.cluster_ip.clone().map(|ip| vec![ip])).unwrap_or_default();
    addresses(texts.iter().filter(|ip| !ip.is_empty()), "spec.clusterIPs", complaints)
}

/// Only addresses the proxy must answer: ipMode VIP or unset.
fn load_balancer_ips(service: &core::Service, complaints: &mut Complaints) -> Vec<std::net::IpAddr> {
    let status = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let vips = status
        .and_then(|lb| lb.ingress.as_ref())
        .into_iter()
        .flatten()
        .filter(|i| i.ip_mode.as_deref().unwrap_or("VIP") == "VIP")
        .filter_map(|i| i.ip.as_ref());
    addresses(vips, "status.loadBalancer.ingress", complaints)
}

fn ports(spec: &core::ServiceSpec, complaints: &mut Complaints) -> Vec<ServicePortFact> {
    let mut ports = Vec::new();
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let proto = Proto::parse(port.protocol.as_deref().unwrap_or("TCP"));
        let (number, node_port) = (u16::try_from(port.port), u16::try_from(port.node_port.unwrap_or(0)));
        let (Some(proto), Ok(number @ 1..), Ok(node_port)) = (proto, number, node_port) else {
            let message = format!("spec.ports[{index}]: protocol or number is out of range; the port is left out");
            complaints.add("InvalidPort", message);
            continue;
        };
        ports.push(ServicePortFact {
            name: port.name.as_deref().unwrap_or_default().into(),
            proto,
            port: number,
            node_port,
        });
    }
    ports
}

fn affinity_secs(spec: &core::ServiceSpec) -> u32 {
    let client_ip = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    client_ip
        .and_then(|c| c.timeout_seconds)
        .and_then(|secs| u32::try_from(secs).ok())
        .filter(|secs| (1..=86_400).contains(secs))
        .unwrap_or(DEFAULT_AFFINITY_SECS)
}
