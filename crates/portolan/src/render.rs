//! `portolan render`: what would be put in place on a node, from objects in files, without a cluster.
//!
//! The same planners as the agent's, fed from files: same input, same bytes out. What the node's own kernel and BGP
//! would tell is derived from the objects: a pod of this node has its `cali…` link, another node's block is reached by
//! that node's address.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use portolan_dataplane::iptables::{Desired, DnsPath, Options, compare, parse, render};
use portolan_dataplane::nftables;
use portolan_dns::records::Records;
use portolan_dns::zone::ZoneConfig;
use portolan_ingest::{Event, Object, host_ports, ingest};
use portolan_model::{
    Attachment, Fact, Facts, Family, HostPort, LearnedRoute, NsName, Route, RouteCause, RouteKind, Settings, Snapshot,
    Text, resolve,
};
use serde_json::Value;

use crate::failure::Failure;

/// The objects of `files` as a node would resolve them.
///
/// # Errors
/// A file that cannot be read, does not parse, or holds an object of the wrong shape.
pub fn snapshot(files: &[PathBuf], settings: Settings) -> Result<Snapshot, Failure> {
    let mut events = Vec::new();
    for value in crate::apply::read(files)? {
        events.extend(object(value)?.map(Event::Value));
    }
    let mut facts = Facts::default();
    let ports = host_ports_of(&events);
    let (_, complaints) = ingest(&mut facts, events);
    complaints.iter().for_each(|c| eprintln!("Warning: {}: {}", c.object, c.message));
    let derived = derived(&facts, &settings.node, |pod| ports.get(pod).cloned().unwrap_or_default());
    facts.apply_all(derived);
    Ok(resolve(&facts, &Snapshot::empty(Arc::new(settings)), &facts.all()).0)
}

/// An object of a file with its defaults; `None` for kinds that carry no facts.
///
/// # Errors
/// It has not the shape of its kind.
pub fn object(mut value: Value) -> Result<Option<Object>, Failure> {
    portolan_kinds::defaults::apply(&mut value);
    let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    Object::from_value(&value)
        .map_err(|e| Failure::input(format!("{} {name}: {e}", value["kind"].as_str().unwrap_or("object"))))
}

/// A node that the objects do not know is most likely a slip.
pub fn warn_of_unknown_node(snapshot: &Snapshot) {
    if !snapshot.nodes.is_empty() && snapshot.own_node().is_none() {
        let names: Vec<&str> = snapshot.nodes.keys().map(|name| &**name).collect();
        eprintln!("Warning: no Node is named {}; the objects have {}", snapshot.settings.node, names.join(", "));
    }
}

/// Of each pod among the objects; a Pod's fact has no word of them.
fn host_ports_of(events: &[Event]) -> BTreeMap<NsName, Vec<HostPort>> {
    let pods = events.iter().filter_map(|event| match event {
        Event::Value(object @ Object::Pod(pod)) => Some((object.reference().key, host_ports(pod))),
        _ => None,
    });
    pods.collect()
}

/// What CNI and BGP would tell this node if the cluster were as the objects say.
pub fn derived(facts: &Facts, node: &Text, host_ports: impl Fn(&NsName) -> Vec<HostPort>) -> Vec<Fact> {
    let local = facts.pods.iter().filter(|(_, p)| p.node.as_ref() == Some(node) && !p.host_network && !p.finished);
    let attachments = local.filter(|(_, p)| !p.addresses.is_empty()).map(|(key, pod)| {
        let link = portolan_cni::host_link_name(key);
        let attachment = Attachment { link, addresses: pod.addresses.clone(), host_ports: host_ports(key) };
        Fact::Attachment(key.clone(), Some(attachment))
    });
    let others = facts.nodes.iter().filter(|(name, _)| *name != node);
    let learned = others.flat_map(|(_, other)| {
        other.pod_cidrs.iter().filter_map(|block| {
            let same_family = |a: &&std::net::IpAddr| Family::of(**a) == Family::of(block.addr());
            let gateway = *other.addresses.iter().find(same_family)?;
            Some(Fact::Learned(*block, Some(LearnedRoute::via(gateway, gateway))))
        })
    });
    // Files seldom name the namespaces that their objects are in.
    let used =
        facts.services.keys().chain(facts.slices.keys()).chain(facts.pods.keys()).map(|key| key.namespace.clone());
    let namespaces = used.map(|name| Fact::Namespace(name, Some(())));
    attachments.chain(learned).chain(namespaces).collect()
}

/// The rules of `snapshot`'s node in iptables mode, in the families of the cluster's ranges.
pub fn iptables(snapshot: &Snapshot, masquerade_mark: u32) -> String {
    let one = |family: Family| render::full(&desired(snapshot, family, masquerade_mark).with_hooks());
    families(snapshot).into_iter().map(one).collect()
}

/// The same in nftables mode, for `nft -f`.
pub fn nftables(snapshot: &Snapshot, masquerade_mark: u32) -> String {
    let one = |family: Family| {
        let options = nftables::Options { dns: dns_path(snapshot), masquerade_mark, ..nftables::Options::default() };
        nftables::render::full(&nftables::Desired::of(family, options, snapshot).table())
    };
    families(snapshot).into_iter().map(one).collect()
}

fn families(snapshot: &Snapshot) -> Vec<Family> {
    crate::proxy::families(&snapshot.settings.cluster_cidrs, &snapshot.settings.service_cidrs)
}

fn dns_path(snapshot: &Snapshot) -> DnsPath {
    if snapshot.settings.cluster_dns.is_empty() { DnsPath::Service } else { DnsPath::ThisNode }
}

fn desired(snapshot: &Snapshot, family: Family, masquerade_mark: u32) -> Desired {
    let options = Options { dns: dns_path(snapshot), masquerade_mark, ..Options::default() };
    Desired::of(family, options, snapshot)
}

/// Compares what would be put in place with what `iptables-save` printed. Prints each difference.
///
/// # Errors
/// They differ (exit code 1), or the file is not the output of `iptables-save`.
pub fn compare_with(snapshot: &Snapshot, masquerade_mark: u32, saved: &str) -> Result<(), Failure> {
    let saved =
        parse::parse(saved).map_err(|e| Failure::input(format!("--compare: not the output of iptables-save: {e}")))?;
    let planned = desired(snapshot, Family::V4, masquerade_mark).chains();
    let differences = compare(&planned, &saved.chains);
    differences.iter().for_each(|d| println!("{d}"));
    match differences.len() {
        0 => {
            let rules: usize = planned.values().map(Vec::len).sum();
            println!("{} chains, {rules} rules: the same", planned.len());
            Ok(())
        }
        n => Err(Failure::no(format!("{n} chains differ"))),
    }
}

/// The node's records as a zone file.
///
/// # Errors
/// The cluster domain is no DNS name.
pub fn dns(snapshot: &Snapshot, ttl_secs: u32) -> Result<String, Failure> {
    let mut zones =
        ZoneConfig::from_settings(&snapshot.settings).map_err(|e| Failure::input(format!("--cluster-domain: {e}")))?;
    zones.ttl_secs = ttl_secs;
    Ok(Records::from_snapshot(zones, snapshot).dump())
}

/// The node's routes, a line each, in the manner of `ip route`, with their cause.
pub fn routes(snapshot: &Snapshot) -> String {
    snapshot.routes.values().map(|route| format!("{}\n", route_line(route))).collect()
}

fn route_line(route: &Route) -> String {
    let host = route.dst.prefix_len() == route.dst.max_prefix_len();
    let dst = if host { route.dst.addr().to_string() } else { route.dst.to_string() };
    let way = match &route.kind {
        RouteKind::Link { link } => format!("{dst} dev {link} scope link"),
        RouteKind::Via { gateway } => format!("{dst} via {gateway}"),
        RouteKind::Blackhole => format!("blackhole {dst}"),
    };
    match &route.cause {
        RouteCause::Object(object) => format!("{way}  # {object}"),
        RouteCause::Bgp { peer } => format!("{way}  # BGP from {peer}"),
    }
}
