//! Roads: where a node's routes lead to, and which node a packet from outside comes to first.

use std::net::IpAddr;

use ipnet::IpNet;
use portolan_dataplane::announce::elect;
use portolan_model::{Family, NsName, ObjectKind, ObjectRef, Route, RouteCause, RouteKind, ServiceKind, Text};

use super::no_route;
use crate::evidence::{RouteTold, RouteWay};
use crate::world::{NodeView, World};

/// Where a route leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Road {
    /// To a process on this node.
    Here,
    /// Out of a pod's link.
    Pod { link: Text, pod: NsName },
    /// Over the LAN to another node.
    Node(Text),
    /// Over the LAN to the host outside.
    Outside,
    /// Away from all that is known.
    Away,
    /// By the default route, with an address of the cluster that nobody has: no answer will come.
    Nobody,
    /// The route says no: blackhole.
    Nowhere,
}

/// The road from `node` to `to`, and the route that says so. The longest prefix wins; the LAN's own comes before the
/// default route.
pub(super) fn from_node(world: &World, node: &Text, view: &NodeView, to: IpAddr) -> (Road, RouteTold) {
    if view.holds(to) {
        let route = RouteTold { prefix: Some(IpNet::from(to)), link: Some("lo".into()), ..no_route(RouteWay::Local) };
        return (Road::Here, route);
    }
    let routes = view.snapshot.routes.values().filter(|route| route.dst.contains(&to));
    match routes.max_by_key(|route| route.dst.prefix_len()) {
        Some(route) => by_route(world, route),
        None => by_lan(world, node, to),
    }
}

fn by_route(world: &World, route: &Route) -> (Road, RouteTold) {
    let object = match &route.cause {
        RouteCause::Object(object) => Some(object.clone()),
        RouteCause::Bgp { .. } => None,
    };
    let told_by = match &route.cause {
        RouteCause::Bgp { peer } => Some((*peer, world.node_at(*peer).cloned())),
        RouteCause::Object(_) => None,
    };
    let told = RouteTold { prefix: Some(route.dst), object: object.clone(), told_by, ..no_route(RouteWay::Forward) };
    match &route.kind {
        RouteKind::Blackhole => (Road::Nowhere, RouteTold { kind: RouteWay::Blackhole, ..told }),
        RouteKind::Link { link } => {
            let pod = object.map(|object| object.key).unwrap_or_else(|| NsName::new("", ""));
            (Road::Pod { link: link.0.clone(), pod }, RouteTold { link: Some(link.0.clone()), ..told })
        }
        RouteKind::Via { gateway } => {
            let link = Some(world.cluster().lan_link.clone());
            let told = RouteTold { gateway: Some(*gateway), link, ..told };
            (world.node_at(*gateway).map_or(Road::Nobody, |next| Road::Node(next.clone())), told)
        }
    }
}

fn by_lan(world: &World, node: &Text, to: IpAddr) -> (Road, RouteTold) {
    let outside = &world.cluster().outside.addresses;
    let link = Some(world.cluster().lan_link.clone());
    let on_lan = RouteTold { link: link.clone(), ..no_route(RouteWay::Forward) };
    if let Some(next) = world.node_at(to).filter(|next| *next != node) {
        let object = Some(ObjectRef { kind: ObjectKind::Node, key: NsName::new("", next.clone()) });
        return (Road::Node(next.clone()), RouteTold { object, ..on_lan });
    }
    if outside.contains(&to) {
        return (Road::Outside, on_lan);
    }
    let family = Family::of(to);
    let gateway = outside.iter().copied().find(|addr| Family::of(*addr) == family);
    let default = RouteTold { prefix: Some(whole(family)), gateway, ..on_lan };
    (if is_of_cluster(world, to) { Road::Nobody } else { Road::Away }, default)
}

/// 0.0.0.0/0 or ::/0.
fn whole(family: Family) -> IpNet {
    let any: IpAddr = match family {
        Family::V4 => std::net::Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    IpNet::new(any, 0).expect("a prefix of length 0 has no host bits")
}

/// Only the cluster gives such addresses away: of pods, of Services.
fn is_of_cluster(world: &World, addr: IpAddr) -> bool {
    let settings = &world.cluster().settings;
    let mut ranges = settings.cluster_cidrs.iter().chain(&settings.service_cidrs);
    let mut services = world.cluster().facts.services.values();
    let has = |list: &[IpAddr]| list.contains(&addr);
    ranges.any(|range| range.contains(&addr))
        || addr.is_loopback()
        || services.any(|service| has(&service.external_ips) || has(&service.load_balancer_ips))
}

/// The node that a packet of the host outside comes to first; `None`: it has no route, or nobody answers for the address.
pub(super) fn from_outside(world: &World, to: IpAddr) -> Option<Text> {
    let cluster = world.cluster();
    if let Some(node) = world.node_at(to) {
        return Some(node.clone());
    }
    if let Some(node) = cluster.outside.all_by.clone().or_else(|| elected(world, to)) {
        return Some(node);
    }
    let to_services = cluster.settings.service_cidrs.iter().any(|range| range.contains(&to));
    cluster.outside.services_by.clone().filter(|_| to_services)
}

/// The node that answers on the LAN for a balancer's address.
fn elected(world: &World, to: IpAddr) -> Option<Text> {
    let facts = &world.cluster().facts;
    let mut services = facts.services.iter();
    let is_owner = |service: &portolan_model::Service| {
        service.kind == ServiceKind::LoadBalancer && service.load_balancer_ips.contains(&to)
    };
    let (key, _) = services.find(|(_, service)| is_owner(service))?;
    let view = world.view(world.nodes().next()?)?;
    elect(&view.snapshot, view.snapshot.services.get(key)?, to).cloned()
}
