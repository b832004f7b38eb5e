//! Claims: which service port owns a destination that more than one wants.
//!
//! ```text
//!  Services touched ──► Claims::replace ──► Services beside them that won or lost a destination
//! ```
//!
//! A ClusterIP goes before external addresses; of equals the smallest key owns. The others hear of it as a complaint and
//! take over when the owner goes. Each claim is kept once, so a change costs what the Service itself claims.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use portolan_model::{
    Complaint, Family, NsName, ObjectKind, ObjectRef, Proto, ProxySettings, ServicePortKey, ServiceView,
};

/// Where a packet may be bound for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    /// A ClusterIP, an external IP or a balancer's, with its port.
    Address(IpAddr, Proto, u16),
    /// A port of the node.
    NodePort(Proto, u16),
}

/// How a destination is claimed; the first goes before the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    ClusterIp,
    External,
}

type Claim = (Rank, ServicePortKey);

/// All claims of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Claims by destination, the owner first.
    by_destination: BTreeMap<Destination, Vec<Claim>>,
    by_service: BTreeMap<NsName, Vec<(Destination, Claim)>>,
}

impl Claims {
    /// Takes in what `service` claims now (`None`: it is gone, or no Service of this proxy), and adds to `disturbed` the
    /// Services that won or lost a destination by it.
    pub fn replace(
        &mut self,
        service: &NsName,
        view: Option<&ServiceView>,
        family: Family,
        proxy: &ProxySettings,
        disturbed: &mut BTreeSet<NsName>,
    ) {
        let new = view.map(|view| claims_of(view, family, proxy)).unwrap_or_default();
        let old = self.by_service.remove(service).unwrap_or_default();
        if old != new {
            old.iter()
                .filter(|claim| !new.contains(claim))
                .for_each(|(at, claim)| self.drop_claim(*at, claim, disturbed));
            new.iter()
                .filter(|claim| !old.contains(claim))
                .for_each(|(at, claim)| self.add_claim(*at, claim, disturbed));
        }
        if !new.is_empty() {
            self.by_service.insert(service.clone(), new);
        }
    }

    /// The service port `key` owns `destination`.
    pub fn owns(&self, key: &ServicePortKey, destination: Destination) -> bool {
        self.owner(destination) == Some(key)
    }

    /// Who owns `destination`.
    pub fn owner(&self, destination: Destination) -> Option<&ServicePortKey> {
        self.by_destination.get(&destination)?.first().map(|(_, key)| key)
    }

    /// A complaint for each service port that does not get what it claims.
    pub fn complaints(&self) -> Vec<Complaint> {
        let contested = self.by_destination.iter().filter(|(_, claims)| claims.len() > 1);
        contested.flat_map(|(at, claims)| complaints_about(*at, claims)).collect()
    }

    /// Those complaints that concern destinations which `services` claim.
    pub fn complaints_over(&self, services: &BTreeSet<NsName>) -> Vec<Complaint> {
        let claims = services.iter().filter_map(|service| self.by_service.get(service)).flatten();
        let destinations: BTreeSet<Destination> = claims.map(|(at, _)| *at).collect();
        let contested = destinations.iter().filter_map(|at| Some((at, self.by_destination.get(at)?)));
        contested.flat_map(|(at, claims)| complaints_about(*at, claims)).collect()
    }

    fn add_claim(&mut self, at: Destination, claim: &Claim, disturbed: &mut BTreeSet<NsName>) {
        let claims = self.by_destination.entry(at).or_default();
        let place = claims.partition_point(|other| other < claim);
        claims.insert(place, claim.clone());
        if place == 0 {
            disturbed.extend(claims.get(1).map(|(_, key)| key.service.clone()));
        }
    }

    fn drop_claim(&mut self, at: Destination, claim: &Claim, disturbed: &mut BTreeSet<NsName>) {
        let Some(claims) = self.by_destination.get_mut(&at) else { return };
        let Some(place) = claims.iter().position(|other| other == claim) else { return };
        claims.remove(place);
        if place == 0 {
            disturbed.extend(claims.first().map(|(_, key)| key.service.clone()));
        }
        if claims.is_empty() {
            self.by_destination.remove(&at);
        }
    }
}

/// What a Service claims, each claim once. One without a ClusterIP of the family claims nothing.
fn claims_of(view: &ServiceView, family: Family, proxy: &ProxySettings) -> Vec<(Destination, Claim)> {
    let spec = &view.spec;
    let of_family = |ip: &&IpAddr| Family::of(**ip) == family;
    let Some(cluster_ip) = spec.cluster_ips.iter().find(of_family).filter(|_| spec.is_proxied(proxy)) else {
        return Vec::new();
    };
    let mut found = BTreeSet::new();
    for port in &view.ports {
        let (proto, number) = (port.spec.proto, port.spec.port);
        found.insert((Destination::Address(*cluster_ip, proto, number), (Rank::ClusterIp, port.key.clone())));
        for ip in spec.external_ips.iter().chain(&spec.load_balancer_ips).filter(of_family) {
            found.insert((Destination::Address(*ip, proto, number), (Rank::External, port.key.clone())));
        }
        if port.spec.node_port != 0 {
            found.insert((Destination::NodePort(proto, port.spec.node_port), (Rank::External, port.key.clone())));
        }
    }
    found.into_iter().collect()
}

fn complaints_about(at: Destination, claims: &[Claim]) -> impl Iterator<Item = Complaint> {
    let owner = claims[0].1.clone();
    let others = claims[1..].iter().filter(|(_, key)| *key != claims[0].1);
    others.map(move |(_, key)| Complaint {
        object: ObjectRef { kind: ObjectKind::Service, key: key.service.clone() },
        reason: "DestinationTaken".into(),
        message: format!("{key} does not answer at {at}: {owner} has it; give one of them another address or port"),
    })
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(addr, proto, port) => write!(f, "{}/{proto}", std::net::SocketAddr::new(*addr, *port)),
            Self::NodePort(proto, port) => write!(f, "node port {port}/{proto}"),
        }
    }
}
