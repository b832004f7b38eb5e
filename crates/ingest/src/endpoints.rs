//! EndpointSlices (KEP-0752, KEP-1672).

use std::collections::BTreeSet;

use k8s_openapi::api::discovery::v1 as discovery;
use portolan_model::{EndpointFact, Family, NsName, Proto, Slice, SlicePort, Text};

use crate::Complaints;
use crate::addresses::address;

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// The Service that a slice is of, by its label; `None` for one of no Service.
pub fn service_of(slice: &discovery::EndpointSlice) -> Option<NsName> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL).filter(|n| !n.is_empty())?;
    Some(NsName::new(namespace_of(slice), name.as_str()))
}

fn namespace_of(slice: &discovery::EndpointSlice) -> &str {
    slice.metadata.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or("default")
}

/// `None` for a slice that belongs to no Service or holds names rather than addresses: it states nothing.
pub(crate) fn slice(slice: &discovery::EndpointSlice, complaints: &mut Complaints) -> Option<Slice> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL).filter(|n| !n.is_empty())?;
    let namespace = namespace_of(slice);
    let family = match slice.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        _ => return None,
    };
    let mut words = Words::default();
    let service = NsName::new(words.text(namespace), name.as_str());
    let mut endpoints = Vec::with_capacity(slice.endpoints.len());
    endpoints.extend(slice.endpoints.iter().filter_map(|e| endpoint(e, namespace, family, &mut words, complaints)));
    Some(Slice { service, family, ports: ports(slice), endpoints })
}

/// Names of one slice that its endpoints share: nodes, zones, namespaces. A cluster of 100,000 endpoints has few of them.
#[derive(Default)]
struct Words(BTreeSet<Text>);

impl Words {
    fn text(&mut self, word: &str) -> Text {
        if let Some(known) = self.0.get(word) {
            return known.clone();
        }
        let new = Text::from(word);
        self.0.insert(new.clone());
        new
    }
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
    words: &mut Words,
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
    let hints = endpoint.hints.as_ref();
    Some(EndpointFact {
        addr,
        ready: conditions.ready.unwrap_or(true),
        serving: conditions.serving.unwrap_or(true),
        terminating: conditions.terminating.unwrap_or(false),
        node: endpoint.node_name.as_deref().map(|name| words.text(name)),
        zone: endpoint.zone.as_deref().map(|name| words.text(name)),
        hostname: endpoint.hostname.as_deref().filter(|h| !h.is_empty()).map(Into::into),
        pod: pod(endpoint, namespace, words),
        zone_hints: hints
            .and_then(|h| h.for_zones.as_ref())
            .into_iter()
            .flatten()
            .map(|z| words.text(&z.name))
            .collect(),
        node_hints: hints
            .and_then(|h| h.for_nodes.as_ref())
            .into_iter()
            .flatten()
            .map(|n| words.text(&n.name))
            .collect(),
    })
}

fn pod(endpoint: &discovery::Endpoint, namespace: &str, words: &mut Words) -> Option<NsName> {
    let target = endpoint.target_ref.as_ref().filter(|t| t.kind.as_deref() == Some("Pod"))?;
    let namespace = target.namespace.as_deref().unwrap_or(namespace);
    Some(NsName::new(words.text(namespace), target.name.as_deref()?))
}
