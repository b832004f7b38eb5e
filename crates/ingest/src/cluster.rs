//! Nodes and Pods.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1 as core;
use portolan_model as model;

use crate::Complaints;
use crate::addresses::{addresses, prefixes};

/// Any value will do.
const EXCLUDED_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
const ASN_ANNOTATION: &str = "projectcalico.org/ASNumber";
const REFLECTOR_ANNOTATION: &str = "projectcalico.org/RouteReflectorClusterID";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Set by the cluster autoscaler on a node that it is about to remove.
const AUTOSCALER_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

pub(crate) fn node(node: &core::Node, complaints: &mut Complaints) -> model::Node {
    let spec = node.spec.clone().unwrap_or_default();
    let status = node.status.as_ref();
    let labels = &node.metadata.labels;
    let internal = status
        .and_then(|s| s.addresses.as_ref())
        .into_iter()
        .flatten()
        .filter(|a| a.type_ == "InternalIP")
        .map(|a| &a.address);
    let conditions = status.and_then(|s| s.conditions.as_ref()).into_iter().flatten();
    let cidrs = spec.pod_cidrs.filter(|c| !c.is_empty()).or_else(|| spec.pod_cidr.map(|c| vec![c])).unwrap_or_default();
    model::Node {
        addresses: addresses(internal, "status.addresses", complaints),
        pod_cidrs: prefixes(&cidrs, "spec.podCIDRs", complaints),
        ready: conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True"),
        leaving: is_leaving(node),
        excluded_from_balancers: node.metadata.labels.as_ref().is_some_and(|l| l.contains_key(EXCLUDED_LABEL)),
        labels: labels.clone().into_iter().flatten().map(|(key, value)| (key.into(), value.into())).collect(),
        asn: asn(node, complaints),
        reflector_of: reflector_of(node, complaints),
        zone: node.metadata.labels.as_ref().and_then(|l| l.get(ZONE_LABEL)).map(|z| z.as_str().into()),
    }
}

/// `projectcalico.org/ASNumber`, as a number or in dotted form (RFC 5396).
fn asn(node: &core::Node, complaints: &mut Complaints) -> Option<u32> {
    let text = node.metadata.annotations.as_ref()?.get(ASN_ANNOTATION)?;
    let dotted = || {
        let (high, low) = text.split_once('.')?;
        Some(u32::from(high.parse::<u16>().ok()?) << 16 | u32::from(low.parse::<u16>().ok()?))
    };
    let asn = text.parse().ok().or_else(dotted).filter(|asn| *asn != 0);
    if asn.is_none() {
        complaints.add(
            "InvalidASNumber",
            format!("annotation {ASN_ANNOTATION} {text:?} is no AS number; say 1 to 4294967295"),
        );
    }
    asn
}

/// `projectcalico.org/RouteReflectorClusterID`, written like an IPv4 address.
fn reflector_of(node: &core::Node, complaints: &mut Complaints) -> Option<Ipv4Addr> {
    let text = node.metadata.annotations.as_ref()?.get(REFLECTOR_ANNOTATION)?;
    let id = text.parse().ok();
    if id.is_none() {
        let why = format!("annotation {REFLECTOR_ANNOTATION} {text:?} is no cluster id; say one such as 244.0.0.1");
        complaints.add("InvalidRouteReflectorClusterID", why);
    }
    id
}

fn is_leaving(node: &core::Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    node.metadata.deletion_timestamp.is_some() || taints.into_iter().any(|taint| taint.key == AUTOSCALER_TAINT)
}

pub(crate) fn pod(pod: &core::Pod, complaints: &mut Complaints) -> model::Pod {
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let listed: Vec<String> =
        status.and_then(|s| s.pod_ips.as_ref()).into_iter().flatten().map(|p| p.ip.clone()).collect();
    let single = status.and_then(|s| s.pod_ip.clone()).filter(|ip| !ip.is_empty());
    let texts = if listed.is_empty() { single.into_iter().collect() } else { listed };
    let phase = status.and_then(|s| s.phase.as_deref()).unwrap_or_default();
    model::Pod {
        uid: pod.metadata.uid.as_deref().unwrap_or_default().into(),
        node: spec.and_then(|s| s.node_name.as_deref()).filter(|n| !n.is_empty()).map(Into::into),
        addresses: addresses(&texts, "status.podIPs", complaints),
        host_network: spec.and_then(|s| s.host_network).unwrap_or(false),
        finished: matches!(phase, "Succeeded" | "Failed"),
    }
}
