//! `resolve`: the facts an event touched, joined into the snapshot planners read.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::facts::{EndpointFact, Facts, Service, ServicePortFact, Slice, SlicePort, Touched};
use crate::names::{Family, NsName, ObjectKind, ObjectRef, Text};
use crate::snapshot::{
    Delta, Endpoint, Host, Route, RouteCause, RouteKind, ServicePort, ServicePortKey, ServiceView, Settings, Snapshot,
};

/// Where a node answers cluster DNS itself.
const DNS_PORT: u16 = 53;

/// The snapshot after `touched`, and which of its entries differ from `before`.
///
/// Cost follows `touched`: untouched entries are shared with `before`. From an empty snapshot and
/// [`Facts::all`] this is the resolution from scratch; both ways end in the same snapshot.
pub fn resolve(facts: &Facts, before: &Snapshot, touched: &Touched) -> (Snapshot, Delta) {
    let mut after = before.clone();
    let mut delta = Delta::default();
    for name in &touched.namespaces {
        let now = facts.namespaces.contains(name);
        if now != after.namespaces.contains(name) {
            match now {
                true => after.namespaces.insert(name.clone()),
                false => after.namespaces.remove(name),
            };
            delta.namespaces.insert(name.clone());
        }
    }
    for name in &touched.nodes {
        replace(&mut after.nodes, name, facts.nodes.get(name).cloned(), &mut delta.nodes);
    }
    for key in &touched.pods {
        replace(&mut after.pods, key, facts.pods.get(key).cloned(), &mut delta.pods);
    }
    for key in &touched.attachments {
        replace(&mut after.attachments, key, facts.attachments.get(key).cloned(), &mut delta.attachments);
    }
    for key in &touched.services {
        let view = view(facts, &before.settings, key).map(Arc::new);
        replace(&mut after.services, key, view, &mut delta.services);
    }
    for addr in &touched.interface_addresses {
        let now = facts.interface_addresses.contains(addr);
        if now != after.interface_addresses.contains(addr) {
            match now {
                true => after.interface_addresses.insert(*addr),
                false => after.interface_addresses.remove(addr),
            };
            delta.interface_addresses.insert(*addr);
        }
    }
    network(facts, &mut after, touched, &mut delta);
    for dst in route_candidates(facts, before, touched) {
        replace(&mut after.routes, &dst, route(facts, &before.settings.node, dst).map(Arc::new), &mut delta.routes);
    }
    (after, delta)
}

/// The pod network's own tables, which are taken as they are told.
fn network(facts: &Facts, after: &mut Snapshot, touched: &Touched, delta: &mut Delta) {
    for name in &touched.pools {
        replace(&mut after.pools, name, facts.pools.get(name).cloned(), &mut delta.pools);
    }
    for name in &touched.reservations {
        replace(&mut after.reservations, name, facts.reservations.get(name).cloned(), &mut delta.reservations);
    }
    for block in &touched.blocks {
        replace(&mut after.blocks, block, facts.blocks.get(block).cloned(), &mut delta.blocks);
    }
    for name in &touched.bgp_configurations {
        let now = facts.bgp_configurations.get(name).cloned();
        replace(&mut after.bgp_configurations, name, now, &mut delta.bgp_configurations);
    }
    for name in &touched.bgp_peers {
        replace(&mut after.bgp_peers, name, facts.bgp_peers.get(name).cloned(), &mut delta.bgp_peers);
    }
    for name in &touched.bgp_filters {
        replace(&mut after.bgp_filters, name, facts.bgp_filters.get(name).cloned(), &mut delta.bgp_filters);
    }
}

fn replace<K: Ord + Clone, V: PartialEq>(
    table: &mut imbl::OrdMap<K, Arc<V>>,
    key: &K,
    value: Option<Arc<V>>,
    changed: &mut BTreeSet<K>,
) {
    if table.get(key) == value.as_ref() {
        return;
    }
    match value {
        Some(value) => table.insert(key.clone(), value),
        None => table.remove(key),
    };
    changed.insert(key.clone());
}

fn view(facts: &Facts, settings: &Settings, key: &NsName) -> Option<ServiceView> {
    let spec = facts.services.get(key)?.clone();
    let slices: Vec<&Slice> = facts
        .slices_of
        .get(key)
        .into_iter()
        .flatten()
        .filter_map(|slice| facts.slices.get(slice).map(|s| &**s))
        .collect();
    let mut ports = service_ports(key, &spec, &slices);
    if spec.cluster_ips.iter().any(|addr| settings.cluster_dns.contains(addr)) {
        ports.iter_mut().filter(|port| port.spec.port == DNS_PORT).for_each(|port| leave_out_own(port, &settings.node));
    }
    let hosts = hosts(&slices);
    Some(ServiceView { key: key.clone(), spec, ports, hosts })
}

fn service_ports(key: &NsName, spec: &Service, slices: &[&Slice]) -> Vec<ServicePort> {
    spec.ports
        .iter()
        .map(|port| ServicePort {
            key: ServicePortKey { service: key.clone(), port: port.name.clone(), proto: port.proto },
            spec: port.clone(),
            endpoints: endpoints(port, slices),
        })
        .collect()
}

/// Merges by `ip:port` over all slices, in the order of that text: kube-proxy's. Of equal ones the first that runs counts,
/// else the first.
fn endpoints(port: &ServicePortFact, slices: &[&Slice]) -> Vec<Endpoint> {
    let mut found: Vec<(String, Endpoint)> = Vec::with_capacity(slices.iter().map(|slice| slice.endpoints.len()).sum());
    for slice in slices {
        let numbers = slice.ports.iter().filter(|p| p.name == port.name && p.proto == port.proto);
        for number in numbers.map(|p| p.port).filter(|n| *n != 0) {
            let facts = slice.endpoints.iter().filter(|e| Family::of(e.addr) == slice.family);
            found.extend(facts.map(|fact| endpoint(fact, number)).map(|endpoint| (endpoint.target(), endpoint)));
        }
    }
    found.sort_by(|(a, of_a), (b, of_b)| a.cmp(b).then(of_a.terminating.cmp(&of_b.terminating)));
    found.dedup_by(|(later, _), (first, _)| later == first);
    found.into_iter().map(|(_, endpoint)| endpoint).collect::<Box<[Endpoint]>>().into_vec()
}

/// Rules lead to cluster DNS only while this node does not answer it itself: its own endpoint is no help then. It stays
/// where no other node has one of its family, and always in `hosts`.
fn leave_out_own(port: &mut ServicePort, node: &Text) {
    let is_own = |endpoint: &Endpoint| endpoint.node.as_ref() == Some(node);
    let others = port.endpoints.iter().filter(|endpoint| endpoint.ready && !is_own(endpoint));
    let helped: BTreeSet<Family> = others.map(|endpoint| Family::of(endpoint.addr)).collect();
    port.endpoints.retain(|endpoint| !is_own(endpoint) || !helped.contains(&Family::of(endpoint.addr)));
}

fn endpoint(fact: &EndpointFact, port: u16) -> Endpoint {
    Endpoint {
        addr: fact.addr,
        port,
        ready: fact.ready,
        serving: fact.serving,
        terminating: fact.terminating,
        node: fact.node.clone(),
        pod: fact.pod.clone(),
        zone_hints: fact.zone_hints.clone(),
        node_hints: fact.node_hints.clone(),
    }
}

/// Endpoints by address and name. The same endpoint in two slices (they move while slices are rebalanced) is one host
/// with the ports of both, ready if either says so.
fn hosts(slices: &[&Slice]) -> Vec<Host> {
    let mut merged: BTreeMap<(IpAddr, Option<Text>), Host> = BTreeMap::new();
    for slice in slices {
        let ports = sorted(slice.ports.clone());
        for fact in slice.endpoints.iter().filter(|e| Family::of(e.addr) == slice.family) {
            let host = merged.entry((fact.addr, fact.hostname.clone())).or_insert_with(|| Host {
                addr: fact.addr,
                hostname: fact.hostname.clone(),
                ready: false,
                pod: None,
                ports: ports.clone(),
            });
            host.ready |= fact.ready;
            if host.pod.is_none() || (fact.pod.is_some() && fact.pod < host.pod) {
                host.pod = fact.pod.clone();
            }
            if host.ports != ports {
                host.ports = sorted([&host.ports[..], &ports[..]].concat());
            }
        }
    }
    merged.into_values().collect()
}

fn sorted(mut ports: Vec<SlicePort>) -> Arc<[SlicePort]> {
    ports.sort();
    ports.dedup();
    ports.into()
}

/// Destinations whose route may have changed: of touched attachments (before and now), of our own Node's blocks, of
/// touched learned prefixes.
fn route_candidates(facts: &Facts, before: &Snapshot, touched: &Touched) -> BTreeSet<IpNet> {
    let mut found: BTreeSet<IpNet> = touched.learned.iter().copied().collect();
    for key in &touched.attachments {
        let then = before.attachments.get(key);
        let now = facts.attachments.get(key);
        found.extend(then.into_iter().chain(now).flat_map(|a| a.addresses.iter().map(|addr| IpNet::from(*addr))));
    }
    found.extend(touched.blocks.iter().copied());
    if !touched.pools.is_empty() {
        found.extend(facts.blocks.keys().copied());
    }
    if touched.nodes.contains(&before.settings.node) || !touched.pools.is_empty() {
        let then = before.own_node();
        let now = facts.nodes.get(&before.settings.node);
        found.extend(then.into_iter().chain(now).flat_map(|n| n.pod_cidrs.iter().map(IpNet::trunc)));
    }
    found
}

/// The route to `dst`: a local pod wins over our own block, our own block over what a peer says.
fn route(facts: &Facts, node: &Text, dst: IpNet) -> Option<Route> {
    pod_route(facts, dst).or_else(|| block_route(facts, node, dst)).or_else(|| learned_route(facts, dst))
}

/// Two attachments that claim one address: the first by name keeps it, whatever the order of events.
fn pod_route(facts: &Facts, dst: IpNet) -> Option<Route> {
    if dst.prefix_len() != dst.max_prefix_len() {
        return None;
    }
    let (key, attachment) = facts.attachments.iter().find(|(_, a)| a.addresses.contains(&dst.addr()))?;
    let cause = RouteCause::Object(ObjectRef { kind: ObjectKind::Pod, key: key.clone() });
    Some(Route { dst, kind: RouteKind::Link { link: attachment.link.clone() }, cause })
}

fn block_route(facts: &Facts, node: &Text, dst: IpNet) -> Option<Route> {
    if !holds(facts, node, dst) {
        return None;
    }
    let cause = RouteCause::Object(ObjectRef { kind: ObjectKind::Node, key: NsName::new("", node.clone()) });
    Some(Route { dst, kind: RouteKind::Blackhole, cause })
}

/// This node has the block `dst`, by a claim or, where there are no pools, by its podCIDRs.
fn holds(facts: &Facts, node: &Text, dst: IpNet) -> bool {
    if facts.pools.is_empty() {
        let own = facts.nodes.get(node);
        return own.is_some_and(|own| own.pod_cidrs.iter().any(|block| block.trunc() == dst));
    }
    facts.blocks.get(&dst).is_some_and(|claim| claim.confirmed && claim.node == *node)
}

fn learned_route(facts: &Facts, dst: IpNet) -> Option<Route> {
    let learned = facts.learned.get(&dst)?;
    let cause = RouteCause::Bgp { peer: learned.peer };
    Some(Route { dst, kind: RouteKind::Via { gateway: learned.gateway }, cause })
}
