//! Names of addresses, by one node's snapshot: whose they are, and which Service answers there.
//!
//! A node knows its own pods and those that are endpoints; of others it says that the address is a pod's and no more. The
//! other end's node knows, or who has all pods' list: [`name_rest`](super::name_rest).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use portolan_dataplane::meaning::Door;
use portolan_model::{NsName, Proto, ServicePort, ServicePortKey, ServiceView, Snapshot, Text};

use super::{Ask, NodeFlow, SentTo, Tracked, Who};
use crate::evidence::Header;

/// Looks addresses up. Made of a snapshot, and good as long as that is.
pub struct Names<'a> {
    snapshot: &'a Snapshot,
    pods: HashMap<IpAddr, (&'a NsName, Option<&'a Text>)>,
    nodes: HashMap<IpAddr, &'a Text>,
    doors: HashMap<(IpAddr, u16, Proto), (&'a ServicePort, Door)>,
    node_ports: HashMap<(u16, Proto), &'a ServicePort>,
}

impl<'a> Names<'a> {
    /// Of everything in `snapshot`.
    pub fn of(snapshot: &'a Snapshot) -> Self {
        let mut names = Self {
            snapshot,
            pods: HashMap::new(),
            nodes: HashMap::new(),
            doors: HashMap::new(),
            node_ports: HashMap::new(),
        };
        for (name, node) in &snapshot.nodes {
            names.nodes.extend(node.addresses.iter().map(|addr| (*addr, name)));
        }
        let own = snapshot.interface_addresses.iter().filter(|addr| !addr.is_unspecified());
        for addr in own {
            names.nodes.entry(*addr).or_insert(&snapshot.settings.node);
        }
        snapshot.services.values().for_each(|service| names.add(service));
        names.add_pods();
        names
    }

    /// Endpoints first: the cluster's list and this node's own links know better who has an address now.
    fn add_pods(&mut self) {
        let snapshot = self.snapshot;
        let endpoints = snapshot.services.values().flat_map(|service| &service.ports).flat_map(|port| &port.endpoints);
        for endpoint in endpoints.filter(|endpoint| !self.nodes.contains_key(&endpoint.addr)) {
            let pod = endpoint.pod.as_ref();
            self.pods.extend(pod.map(|pod| (endpoint.addr, (pod, endpoint.node.as_ref()))));
        }
        for (key, pod) in snapshot.pods.iter().filter(|(_, pod)| !pod.host_network && !pod.finished) {
            self.pods.extend(pod.addresses.iter().map(|addr| (*addr, (key, pod.node.as_ref()))));
        }
        let here = Some(&snapshot.settings.node);
        for (key, attached) in &snapshot.attachments {
            self.pods.extend(attached.addresses.iter().map(|addr| (*addr, (key, here))));
        }
    }

    fn add(&mut self, service: &'a ServiceView) {
        let spec = &service.spec;
        let doors = [
            (Door::ClusterIp, &spec.cluster_ips),
            (Door::External, &spec.external_ips),
            (Door::LoadBalancer, &spec.load_balancer_ips),
        ];
        for port in &service.ports {
            for (door, addr) in doors.iter().flat_map(|(door, list)| list.iter().map(|addr| (*door, *addr))) {
                let at = (addr, port.spec.port, port.spec.proto);
                // Who has an address as ClusterIP owns it; others come as they are sorted.
                match door {
                    Door::ClusterIp => drop(self.doors.insert(at, (port, door))),
                    _ => drop(self.doors.entry(at).or_insert((port, door))),
                }
            }
            if port.spec.node_port != 0 {
                self.node_ports.entry((port.spec.node_port, port.spec.proto)).or_insert(port);
            }
        }
    }

    /// The node whose names these are.
    pub fn node(&self) -> &'a Text {
        &self.snapshot.settings.node
    }

    /// Who has an address.
    pub fn who(&self, addr: IpAddr) -> Who {
        if let Some((pod, node)) = self.pods.get(&addr) {
            return Who::Pod { pod: (*pod).clone(), node: node.cloned() };
        }
        if let Some(name) = self.nodes.get(&addr) {
            return Who::Node { name: (*name).clone() };
        }
        if addr.is_loopback() {
            return Who::Node { name: self.node().clone() };
        }
        match self.snapshot.settings.cluster_cidrs.iter().any(|range| range.contains(&addr)) {
            true => Who::Gone,
            false => Who::Outside,
        }
    }

    fn service_at(&self, to: SocketAddr, proto: Proto) -> Option<(&'a ServicePort, Door)> {
        let by_address = self.doors.get(&(to.ip(), to.port(), proto)).copied();
        by_address.or_else(|| {
            let is_a_nodes = self.nodes.contains_key(&to.ip()) || to.ip().is_loopback();
            let port = self.node_ports.get(&(to.port(), proto)).filter(|_| is_a_nodes)?;
            Some((*port, Door::NodePort))
        })
    }

    /// Who answers from `from`, asked as `port`: an endpoint may be a pod with its node's address.
    fn answering(&self, from: SocketAddr, port: Option<&ServicePort>) -> Who {
        let endpoints = port.into_iter().flat_map(|port| &port.endpoints);
        let listed = endpoints.into_iter().find(|e| SocketAddr::new(e.addr, e.port) == from);
        match listed.and_then(|endpoint| Some((endpoint.pod.as_ref()?, endpoint))) {
            Some((pod, endpoint)) => Who::Pod { pod: pod.clone(), node: endpoint.node.clone() },
            None => self.who(from.ip()),
        }
    }

    fn sent_to(&self, entry: &Tracked, port: Option<(&ServicePort, Door)>) -> SentTo {
        if let Some((port, door)) = port {
            return SentTo::Service { service: port.key.clone(), door };
        }
        let (to, by) = (entry.original.dst, entry.reply.src);
        let leads = |(_, attached): &(&NsName, &std::sync::Arc<portolan_model::Attachment>)| {
            attached.addresses.contains(&by.ip())
                && attached.host_ports.iter().any(|host| {
                    (host.proto, host.host_port, host.pod_port) == (entry.original.proto, to.port(), by.port())
                })
        };
        let is_rewritten = to != by;
        match self.snapshot.attachments.iter().filter(|_| is_rewritten).find(leads) {
            Some((pod, _)) => SentTo::HostPort { pod: pod.clone() },
            None => SentTo::Itself,
        }
    }

    /// An entry with names.
    pub fn tell(&self, entry: Tracked) -> NodeFlow {
        let port = self.service_at(entry.original.dst, entry.original.proto);
        NodeFlow {
            client: self.who(entry.original.src.ip()),
            sent_to: self.sent_to(&entry, port),
            endpoint: self.answering(entry.reply.src, port.map(|(port, _)| port)),
            original: entry.original,
            reply: entry.reply,
            state: entry.state,
            answered: entry.answered,
            timeout_secs: entry.timeout_secs,
            carried: entry.carried,
            age_secs: entry.age_secs,
        }
    }

    /// The entry is one of those that are asked for by name. Looked at before names are given: most are not.
    pub fn is_wanted(&self, ask: &Ask, original: &Header, reply: &Header) -> bool {
        let asked = || self.service_at(original.dst, original.proto).map(|(port, _)| port);
        let is_ends = |key: &NsName| {
            let is_its = |addr: SocketAddr| ask.addresses.contains(&addr.ip());
            [original.src, original.dst, reply.src].into_iter().any(is_its)
                || self.answering(reply.src, asked()).is_pod(key)
        };
        ask.only.service.as_ref().is_none_or(|key| asked().is_some_and(|port| port.key.service == *key))
            && ask.only.pod.as_ref().is_none_or(is_ends)
    }

    /// The service port that a packet's destination was rewritten for, and the endpoint it became. `None` where it was
    /// not rewritten here: another node did that, or will.
    pub(super) fn balanced(&self, original: &Header, reply: &Header) -> Option<(&'a ServicePort, SocketAddr)> {
        let (port, _) = self.service_at(original.dst, original.proto)?;
        (original.dst != reply.src).then_some((port, reply.src))
    }

    /// Who an endpoint of a service port is.
    pub(super) fn endpoint(&self, port: &ServicePort, at: SocketAddr) -> Who {
        self.answering(at, Some(port))
    }

    /// A service port by its name.
    pub(super) fn port(&self, key: &ServicePortKey) -> Option<&'a ServicePort> {
        self.snapshot.services.get(&key.service)?.ports.iter().find(|port| port.key == *key)
    }
}
