//! Choices: the endpoints that a Service port might have sent a packet to here, how likely, and why others may not be.

use std::net::SocketAddr;

use portolan_dataplane::choose::{Chosen, Place};
use portolan_dataplane::meaning::{Door, Meaning};
use portolan_model::verdict::in_pod_range;
use portolan_model::{Endpoint, ExternalPolicy, Family, NsName, ServicePort, ServicePortKey, ServiceView, Snapshot};

use crate::knows::Knows;
use crate::story::Choice;
use crate::tell::trail::Leg;
use crate::words;

/// Which list of endpoints a packet chooses from, and for which policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Any node's.
    Cluster,
    /// This node's alone, by `internalTrafficPolicy`.
    InternalLocal,
    /// This node's alone, by `externalTrafficPolicy`.
    ExternalLocal,
}

impl Policy {
    /// For what came by `door` from the sender of this leg. What pods and the node itself send to an external address goes
    /// anywhere, whatever the policy (KEP-1669).
    pub(crate) fn of(view: &ServiceView, door: Door, leg: &Leg<'_>, snapshot: &Snapshot) -> Self {
        let from_inside = leg.passage.came_by.is_none() || in_pod_range(snapshot, leg.passage.entered.src.ip());
        match door {
            Door::ClusterIp if view.spec.internal_local => Self::InternalLocal,
            Door::ClusterIp => Self::Cluster,
            _ if from_inside || view.spec.external_policy == ExternalPolicy::Cluster => Self::Cluster,
            _ => Self::ExternalLocal,
        }
    }

    /// The field of the Service's spec that says so.
    pub(crate) fn field(self) -> &'static str {
        match self {
            Self::Cluster => "",
            Self::InternalLocal => "internalTrafficPolicy",
            Self::ExternalLocal => "externalTrafficPolicy",
        }
    }
}

/// All endpoints of a Service port as this leg's node chooses among them: the taken one first, those left out last.
pub(crate) fn choices(key: &ServicePortKey, door: Door, leg: &Leg<'_>, knows: &Knows) -> Vec<Choice> {
    let (Some((view, port)), Some(snapshot)) = (knows.port(key), knows.view(leg.node)) else { return Vec::new() };
    let place = Place { node: leg.node.clone(), zone: snapshot.nodes.get(leg.node).and_then(|node| node.zone.clone()) };
    let family = Family::of(leg.passage.entered.dst.ip());
    let policy = Policy::of(view, door, leg, snapshot);
    let chosen = Chosen::new(view, port, family, &place);
    let list = if policy == Policy::Cluster { &chosen.cluster } else { &chosen.local };
    let (taken, is_bound) = taken(leg);
    let mut all: Vec<Choice> = of_family(port, family)
        .map(|endpoint| {
            let at = SocketAddr::new(endpoint.addr, endpoint.port);
            let is_listed = list.contains(&endpoint);
            let is_taken = taken == Some(at);
            let chance = match (is_listed, is_bound) {
                (false, _) => 0.0,
                (true, true) => f64::from(u8::from(is_taken)),
                (true, false) => 1.0 / list.len() as f64,
            };
            Choice {
                endpoint: at,
                pod: endpoint.pod.clone(),
                node: endpoint.node.clone(),
                slice: slice_of(&key.service, endpoint, knows),
                chance,
                taken: is_taken,
                left_out: (!is_listed).then(|| left_out(endpoint, policy, &place, knows)),
            }
        })
        .collect();
    all.sort_by_key(|choice| (!choice.taken, choice.left_out.is_some()));
    all
}

fn of_family(port: &ServicePort, family: Family) -> impl Iterator<Item = &Endpoint> {
    port.endpoints.iter().filter(move |endpoint| Family::of(endpoint.addr) == family)
}

/// The endpoint that was taken, and whether affinity bound the client to it.
fn taken(leg: &Leg<'_>) -> (Option<SocketAddr>, bool) {
    let mut taken = None;
    let mut is_bound = false;
    for (_, meaning) in leg.meanings() {
        match meaning {
            Meaning::Chooses { endpoint, bound, .. } => (taken, is_bound) = (Some(*endpoint), *bound),
            Meaning::SendsTo { endpoint, bound, .. } => (taken, is_bound) = (Some(*endpoint), is_bound || *bound),
            _ => {}
        }
    }
    (taken, is_bound)
}

/// The EndpointSlice that lists an endpoint of this Service.
pub(crate) fn slice_of(service: &NsName, endpoint: &Endpoint, knows: &Knows) -> Option<NsName> {
    let slices = knows.objects.slices.iter();
    let mut of_service = slices.filter(|(_, note)| note.service.as_ref() == Some(service));
    of_service.find(|(_, note)| note.addresses.contains(&endpoint.addr)).map(|(key, _)| key.clone())
}

/// Why an endpoint is none to choose, nearest reason first.
pub(crate) fn left_out(endpoint: &Endpoint, policy: Policy, place: &Place, knows: &Knows) -> String {
    let elsewhere = endpoint.node.as_ref() != Some(&place.node);
    let node = endpoint.node.as_deref().unwrap_or("no node");
    match () {
        () if endpoint.terminating => terminating(endpoint, knows),
        () if !endpoint.ready => not_ready(endpoint, knows),
        () if policy != Policy::Cluster && elsewhere => format!("on {node}, and {} is Local", policy.field()),
        () if !endpoint.node_hints.is_empty() => format!("hinted for {}", endpoint.node_hints.join(", ")),
        () if !endpoint.zone_hints.is_empty() => format!("hinted for zone {}", endpoint.zone_hints.join(", ")),
        () => "another is nearer".to_owned(),
    }
}

fn terminating(endpoint: &Endpoint, knows: &Knows) -> String {
    let note = endpoint.pod.as_ref().and_then(|pod| knows.objects.pods.get(pod));
    match note.and_then(|note| note.deleted_at) {
        Some(at) => format!("terminating for {}", words::since(at, knows.now_secs)),
        None => "terminating".to_owned(),
    }
}

fn not_ready(endpoint: &Endpoint, knows: &Knows) -> String {
    let Some(note) = endpoint.pod.as_ref().and_then(|pod| knows.objects.pods.get(pod)) else {
        return "not Ready".to_owned();
    };
    let since = note.ready_since.filter(|_| !note.ready).map(|at| words::since(at, knows.now_secs));
    let since = since.map(|age| format!(" for {age}")).unwrap_or_default();
    let because = note.unready_because.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    format!("not Ready{since}{because}")
}
