//! Knows: what a teller knows of the cluster beside the evidence. `trace` fills it from the API and from agents, `explain`
//! from files; both tell with the same words.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use portolan_model::{Attachment, Endpoint, NsName, Pod, Proto, ServicePort, ServiceView, Snapshot, Text};
use serde::{Deserialize, Serialize};

use crate::objects::Objects;

/// What a teller knows beside the evidence. Every part may be empty; then less is said, and nothing wrong.
#[derive(Clone, Debug, Default)]
pub struct Knows {
    /// The cluster as each node sees it, by the node's name. Nodes, pods and Services are the same in all; routes,
    /// attachments and interface addresses are a node's own and may be empty.
    pub views: BTreeMap<Text, Arc<Snapshot>>,
    /// What rules do not need of Kubernetes' objects.
    pub objects: Objects,
    /// BGP sessions as each node's agent tells of them, by the node's name.
    pub sessions: BTreeMap<Text, Vec<SessionNote>>,
    /// Nodes that were asked for evidence and gave none: why, in words.
    pub silent: BTreeMap<Text, String>,
    /// Now, in seconds since 1970.
    pub now_secs: i64,
}

/// A BGP session, as the node at one end of it tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionNote {
    /// The other end.
    pub peer: IpAddr,
    /// `Established`, `Active`, `Idle` …, as RFC 4271 §8.2.2 names them.
    pub state: Text,
    /// For how many seconds it is up.
    pub up_secs: Option<u64>,
    /// Why the last session or attempt ended.
    pub last_error: Option<String>,
}

impl SessionNote {
    /// Routes are exchanged.
    pub fn is_up(&self) -> bool {
        &*self.state == "Established"
    }
}

/// Who has an address, in the words of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// A pod with a network of its own.
    Pod(NsName),
    /// A node, by its InternalIP or an address on its interfaces.
    Node(Text),
    /// A Service, by its ClusterIP, an external or a balancer's address.
    Service(NsName),
    /// Nobody of the cluster.
    Stranger(IpAddr),
}

impl Knows {
    /// The cluster, as `node` sees it; as anybody does if that is not known.
    pub fn view(&self, node: &str) -> Option<&Snapshot> {
        self.views.get(node).or_else(|| self.views.values().next()).map(Arc::as_ref)
    }

    /// The cluster, by what all nodes see alike.
    pub fn cluster(&self) -> Option<&Snapshot> {
        self.views.values().next().map(Arc::as_ref)
    }

    /// Who has `addr`. A pod goes before a node, as one on the host network has its node's address and is left out.
    pub fn who(&self, addr: IpAddr) -> Who {
        if let Some((key, _)) = self.pod_at(addr) {
            return Who::Pod(key);
        }
        if let Some(node) = self.node_at(addr) {
            return Who::Node(node);
        }
        self.service_at(addr).map_or(Who::Stranger(addr), |view| Who::Service(view.key.clone()))
    }

    /// The node that `addr` is on: a pod's, or its own.
    pub fn home(&self, addr: IpAddr) -> Option<Text> {
        self.pod_at(addr).map_or_else(|| self.node_at(addr), |(_, pod)| pod.node.clone())
    }

    /// The pod with a network of its own that has `addr` and has not finished.
    pub fn pod_at(&self, addr: IpAddr) -> Option<(NsName, &Pod)> {
        let is_it = |pod: &Pod| !pod.host_network && !pod.finished && pod.addresses.contains(&addr);
        let found = self.cluster()?.pods.iter().find(|(_, pod)| is_it(pod))?;
        Some((found.0.clone(), found.1.as_ref()))
    }

    /// The node that has `addr`; none for loopback, which all have.
    pub fn node_at(&self, addr: IpAddr) -> Option<Text> {
        let told = self.cluster()?.nodes.iter().find(|(_, node)| node.addresses.contains(&addr));
        let on_link = || {
            let dns = |view: &Snapshot| view.settings.cluster_dns.contains(&addr);
            let has = |view: &Snapshot| view.interface_addresses.contains(&addr) && !dns(view) && !addr.is_loopback();
            self.views.iter().find(|(_, view)| has(view)).map(|(name, _)| name.clone())
        };
        told.map(|(name, _)| name.clone()).or_else(on_link)
    }

    /// The Service that has `addr`, as ClusterIP before others.
    pub fn service_at(&self, addr: IpAddr) -> Option<&ServiceView> {
        let services = || self.cluster().into_iter().flat_map(|view| view.services.values());
        let outer = |view: &&Arc<ServiceView>| {
            view.spec.external_ips.contains(&addr) || view.spec.load_balancer_ips.contains(&addr)
        };
        let found = services().find(|view| view.spec.cluster_ips.contains(&addr)).or_else(|| services().find(outer));
        found.map(Arc::as_ref)
    }

    /// The Service port that answers at `to`: by an address and a port of its own, or by a node port.
    pub fn port_at(&self, to: SocketAddr, proto: Proto) -> Option<(&ServiceView, &ServicePort)> {
        if let Some(view) = self.service_at(to.ip()) {
            let is_it = |port: &&ServicePort| port.spec.port == to.port() && port.spec.proto == proto;
            return view.ports.iter().find(is_it).map(|port| (view, port));
        }
        self.node_at(to.ip())?;
        let services = self.cluster()?.services.values();
        let mut ports = services.flat_map(|view| view.ports.iter().map(move |port| (view.as_ref(), port)));
        ports.find(|(_, port)| port.spec.node_port == to.port() && port.spec.proto == proto)
    }

    /// The port of this key.
    pub fn port(&self, key: &portolan_model::ServicePortKey) -> Option<(&ServiceView, &ServicePort)> {
        let view = self.cluster()?.services.get(&key.service)?;
        view.ports.iter().find(|port| port.key == *key).map(|port| (view.as_ref(), port))
    }

    /// Every endpoint at `at`, with its Service port.
    pub fn endpoints_at(&self, at: SocketAddr) -> Vec<(&ServicePort, &Endpoint)> {
        let services = self.cluster().into_iter().flat_map(|view| view.services.values());
        let ports = services.flat_map(|view| view.ports.iter());
        let all = ports.flat_map(|port| port.endpoints.iter().map(move |endpoint| (port, endpoint)));
        all.filter(|(_, endpoint)| endpoint.addr == at.ip() && endpoint.port == at.port()).collect()
    }

    /// The node whose block of pod addresses holds `addr`.
    pub fn block_of(&self, addr: IpAddr) -> Option<(Text, ipnet::IpNet)> {
        let nodes = self.cluster()?.nodes.iter();
        let mut blocks = nodes.flat_map(|(name, node)| node.pod_cidrs.iter().map(move |net| (name.clone(), *net)));
        blocks.find(|(_, net)| net.contains(&addr))
    }

    /// The pod that is behind an interface of `node`.
    pub fn pod_behind(&self, node: &str, link: &str) -> Option<NsName> {
        let is_it = |attachment: &Attachment| &*attachment.link.0 == link;
        let mut attachments = self.views.get(node)?.attachments.iter();
        attachments.find(|(_, attachment)| is_it(attachment)).map(|(key, _)| key.clone())
    }
}

#[cfg(test)]
mod tests {
    use portolan_model::{Node, Service, Settings};

    use super::*;

    fn knows() -> Knows {
        let mut view = Snapshot::empty(Arc::new(Settings {
            node: "node-1".into(),
            cluster_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            cluster_dns: vec!["10.96.0.10".parse().expect("an address")],
            cluster_domain: "cluster.local".into(),
            proxy: portolan_model::ProxySettings::default(),
        }));
        let addr = |text: &str| -> IpAddr { text.parse().expect("an address") };
        let node = Node { addresses: vec![addr("172.18.0.11")], ..Node::default() };
        view.nodes.insert("node-1".into(), Arc::new(node));
        let pod = |addrs: &str, host_network: bool, finished: bool| {
            Arc::new(Pod { addresses: vec![addr(addrs)], host_network, finished, ..Pod::default() })
        };
        view.pods.insert(NsName::new("default", "agent"), pod("172.18.0.11", true, false));
        view.pods.insert(NsName::new("default", "done"), pod("10.244.0.5", false, true));
        view.pods.insert(NsName::new("default", "web"), pod("10.244.0.5", false, false));
        view.pods.insert(NsName::new("default", "six"), pod("fd00::5", false, false));
        let key = NsName::new("default", "web");
        let spec = Arc::new(Service { cluster_ips: vec![addr("10.96.7.7")], ..Service::default() });
        view.services.insert(key.clone(), Arc::new(ServiceView { key, spec, ports: Vec::new(), hosts: Vec::new() }));
        view.interface_addresses = ["127.0.0.1", "192.168.1.5", "10.96.0.10"].map(addr).into_iter().collect();
        Knows { views: BTreeMap::from([("node-1".into(), Arc::new(view))]), ..Knows::default() }
    }

    #[test]
    fn an_address_is_a_pods_a_nodes_a_services_or_a_strangers() {
        let knows = knows();
        let rows = [
            ("10.244.0.5", Who::Pod(NsName::new("default", "web"))),
            ("fd00::5", Who::Pod(NsName::new("default", "six"))),
            ("172.18.0.11", Who::Node("node-1".into())),
            ("192.168.1.5", Who::Node("node-1".into())),
            ("10.96.7.7", Who::Service(NsName::new("default", "web"))),
            ("10.96.0.10", Who::Stranger("10.96.0.10".parse().expect("an address"))),
            ("127.0.0.1", Who::Stranger("127.0.0.1".parse().expect("an address"))),
        ];
        for (addr, who) in rows {
            assert_eq!(knows.who(addr.parse().expect("an address")), who, "{addr}");
        }
    }
}
