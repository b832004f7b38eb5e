//! Fixture: clusters that tests ask about. Two nodes, `node-1` and `node-2`, in both families.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use portolan_model::{
    Attachment, EndpointFact, Fact, Facts, Family, IfName, LearnedRoute, Node, NodePortAddresses, NsName, Pod, Proto,
    ProxySettings, Service, ServiceKind, ServicePortFact, Settings, Slice, SlicePort, Text,
};

use crate::evidence::Backend;
use crate::world::{Cluster, Outside, World};

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

pub fn net(text: &str) -> IpNet {
    text.parse().expect("a literal prefix")
}

pub fn key(name: &str) -> NsName {
    NsName::new("default", name)
}

/// `node-N` has 172.18.0.1N and fd00:18::1N, and the pods' blocks 10.244.N-1.0/24 and fd00:10:244:N-1::/64.
pub fn node(number: usize) -> Fact {
    let addresses = vec![ip(&format!("172.18.0.1{number}")), ip(&format!("fd00:18::1{number}"))];
    let block = number - 1;
    let pod_cidrs = vec![net(&format!("10.244.{block}.0/24")), net(&format!("fd00:10:244:{block}::/64"))];
    let node = Node { addresses, pod_cidrs, ready: true, ..Node::default() };
    Fact::Node(format!("node-{number}").into(), Some(node))
}

/// A pod of `node-N` at 10.244.N-1.LAST and fd00:10:244:N-1::LAST.
pub fn pod(name: &str, number: usize, last: u8) -> Fact {
    let block = number - 1;
    let addresses = vec![ip(&format!("10.244.{block}.{last}")), ip(&format!("fd00:10:244:{block}::{last}"))];
    let node = Some(format!("node-{number}").into());
    Fact::Pod(key(name), Some(Pod { node, addresses, ..Pod::default() }))
}

pub fn port(name: &str, port: u16, node_port: u16) -> ServicePortFact {
    ServicePortFact { name: name.into(), proto: Proto::Tcp, port, node_port }
}

/// A Service at 10.96.0.LAST and fd00:10:96::LAST, port http 80, and a node port if there is one.
pub fn service(last: u8, node_port: u16) -> Service {
    let kind = if node_port == 0 { ServiceKind::ClusterIp } else { ServiceKind::NodePort };
    let cluster_ips = vec![ip(&format!("10.96.0.{last}")), ip(&format!("fd00:10:96::{last}"))];
    Service { kind, cluster_ips, ports: vec![port("http", 80, node_port)], ..Service::default() }
}

/// Slices of a Service for both families, port http 8080, with these pods of `facts`.
pub fn slices(service: &str, facts: &[Fact], pods: &[&str]) -> Vec<Fact> {
    let named = |name: &str| {
        let found = facts.iter().find_map(|fact| match fact {
            Fact::Pod(at, Some(pod)) if *at == key(name) => Some(pod.clone()),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("no pod {name}"))
    };
    let slice = |family: Family| {
        let endpoint = |name: &&str| {
            let pod = named(name);
            let addr = pod.addresses.iter().copied().find(|addr| Family::of(*addr) == family).expect("both families");
            EndpointFact { node: pod.node, pod: Some(key(name)), ..EndpointFact::ready_at(addr) }
        };
        let ports = vec![SlicePort { name: "http".into(), proto: Proto::Tcp, port: 8080 }];
        let endpoints = pods.iter().map(endpoint).collect();
        let slice = Slice { service: key(service), family, ports, endpoints };
        Fact::Slice(key(&format!("{service}-{family:?}")), Some(slice))
    };
    Family::BOTH.map(slice).to_vec()
}

/// A world of these facts, with what each node would be told by its kernel and BGP.
pub fn world(backend: Backend, told: &[Fact], proxy: ProxySettings) -> World {
    let mut facts = Facts::default();
    facts.apply_all(told.iter().cloned());
    let own = facts.nodes.keys().map(|name| (name.clone(), own(&facts, name))).collect();
    let node_ports_on = match backend {
        Backend::Nftables if proxy.node_ports_on == NodePortAddresses::Every => NodePortAddresses::Primary,
        _ => proxy.node_ports_on.clone(),
    };
    let settings = Settings {
        node: "".into(),
        cluster_cidrs: vec![net("10.244.0.0/16"), net("fd00:10:244::/56")],
        service_cidrs: vec![net("10.96.0.0/12"), net("fd00:10:96::/112")],
        cluster_dns: vec![ip("10.96.0.10"), ip("fd00:10:96::a")],
        cluster_domain: "cluster.local".into(),
        proxy: ProxySettings { node_ports_on, ..proxy },
    };
    let outside = Outside {
        addresses: vec![ip("172.18.0.1"), ip("fd00:18::1")],
        services_by: Some("node-1".into()),
        all_by: None,
    };
    let cluster = Cluster { facts, settings, backend, masquerade_mark: 0x4000, lan_link: "eth0".into(), outside };
    World::new(cluster, own)
}

/// Attachments of its pods, and routes to others' blocks.
fn own(facts: &Facts, node: &Text) -> Vec<Fact> {
    let local = facts.pods.iter().filter(|(_, pod)| pod.node.as_ref() == Some(node) && !pod.host_network);
    let attached = local.map(|(at, pod)| {
        let link = IfName(format!("cali-{}", at.name).into());
        let attachment = Attachment { link, addresses: pod.addresses.clone(), host_ports: Vec::new() };
        Fact::Attachment(at.clone(), Some(attachment))
    });
    let others: BTreeMap<_, _> = facts.nodes.iter().filter(|(name, _)| *name != node).collect();
    let learned = others.values().flat_map(|other| {
        other.pod_cidrs.iter().filter_map(|block| {
            let gateway = *other.addresses.iter().find(|addr| Family::of(**addr) == Family::of(block.addr()))?;
            Some(Fact::Learned(*block, Some(LearnedRoute::via(gateway, gateway))))
        })
    });
    attached.chain(learned).collect()
}
