//! EndpointSlices (KEP-0752, KEP-1672).

use k8s_openapi::api::discovery::v1 as discovery;
use portolan_model::{EndpointFact, Family, NsName, Proto, Slice, SlicePort, Text};

use crate::Complaints;
use crate::addresses::address;

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// `None` for a slice that belongs to no Service or holds names rather than addresses: it states nothing.
pub(crate) fn slice(slice: &discovery::EndpointSlice, complaints: &mut Complaints) -> Option<Slice> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL).filter(|n| !n.is_empty())?;
    let namespace = slice.metadata.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
    let family = match slice.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        _ => return None,
    };
    let endpoints = slice.endpoints.iter().filter_map(|e| endpoint(e, namespace, family, complaints)).collect();
    Some(Slice { service: NsName::new(namespace, name.as_str()), family, ports: ports(slice), endpoints })
}

/// A port without a number means "all ports" to no consumer of ours: it is skipped, as kube-proxy does.
fn ports(slice: &discovery::EndpointSlice) -> Vec<SlicePort> {
    slice
        .ports
        .iter()
        .flatten()
        .filter_map(|port| {
            let number = u16::try_from(port.port?).ok().filter(|n| *n != 0)?;
            let proto = Proto::parse(port.protocol.as_deref().unwrap_or("TCP"))?;
            Some(SlicePort { name: port.name.as_deref().unwrap_or_default().into(), proto, port: number })
        })
        .collect()
}

fn endpoint(
    endpoint: &discovery::Endpoint,
    namespace: &str,
    family: Family,
    complaints: &mut Complaints,
) -> Option<EndpointFact> {
    let text = endpoint.addresses.first()?;
    let Some(addr) = address(text).filter(|addr| Family::of(*addr) == family) else {
        complaints.add(
            "InvalidAddress",
            format!("endpoints: {text:?} is not an address of the slice's type; it is left out"),
        );
        return None;
    };
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let hints = endpoint.hints.clone().unwrap_or_default();
    Some(EndpointFact {
        addr,
        ready: conditions.ready.unwrap_or(true),
        serving: conditions.serving.unwrap_or(true),
        terminating: conditions.terminating.unwrap_or(false),
        node: endpoint.node_name.as_deref().map(Into::into),
        zone: endpoint.zone.as_deref().map(Into::into),
        hostname: endpoint.hostname.as_deref().filter(|h| !h.is_empty()).map(Into::into),
        pod: pod(endpoint, namespace),
        zone_hints: texts(hints.for_zones.into_iter().flatten().map(|z| z.name)),
        node_hints: texts(hints.for_nodes.into_iter().flatten().map(|n| n.name)),
    })
}

fn pod(endpoint: &discovery::Endpoint, namespace: &str) -> Option<NsName> {
    let target = endpoint.target_ref.as_ref().filter(|t| t.kind.as_deref() == Some("Pod"))?;
    Some(NsName::new(target.namespace.as_deref().unwrap_or(namespace), target.name.as_deref()?))
}

fn texts(names: impl Iterator<Item = String>) -> Vec<Text> {
    names.map(Text::from).collect()
}
