//! What an operator may change in the service proxy: the settings that decide what becomes of a packet, whichever
//! backend carries them out. Source: kube-proxy's `KubeProxyConfiguration` (`kubeproxy.config.k8s.io/v1alpha1`).

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::names::{IfName, Text};

/// Settings of the service proxy; fixed while the process runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxySettings {
    /// What tells a pod of this node's cluster from others.
    pub detect_local: DetectLocal,
    /// Masquerade whatever goes to a ClusterIP, pods' packets too.
    pub masquerade_all: bool,
    /// Where node ports answer.
    pub node_ports_on: NodePortAddresses,
    /// Node ports answer on 127.0.0.1 too (IPv4, iptables mode).
    pub localhost_node_ports: bool,
    /// Take exactly the Services whose label `service.kubernetes.io/service-proxy-name` has this value; `None` takes
    /// those without the label.
    pub service_proxy_name: Option<Text>,
    /// Masquerade what pods send out of the cluster: the pod network's business, none of kube-proxy's.
    pub egress_snat: bool,
}

/// `detectLocalMode`: how a packet is known to come from a local pod. A mode whose datum is missing detects nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DetectLocal {
    /// Its source lies in the cluster's pod range of its family.
    ClusterCidr,
    /// Its source lies in one of this Node's own `spec.podCIDRs`.
    NodeCidr,
    /// It came in by this bridge.
    BridgeInterface(IfName),
    /// It came in by a link whose name begins so.
    InterfaceNamePrefix(Text),
    /// Nothing is known to be local.
    Nothing,
}

/// `nodePortAddresses`: the node's addresses on which node ports answer; [`crate::Snapshot::node_port_addresses`] says which
/// these are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodePortAddresses {
    /// Every local address: kube-proxy's default in iptables mode.
    Every,
    /// The Node's own address of the family (`primary`): its default in nftables mode.
    Primary,
    /// Those among the addresses on interfaces that lie in one of these ranges.
    Within(Vec<IpNet>),
}

impl Default for ProxySettings {
    fn default() -> Self {
        Self {
            detect_local: DetectLocal::ClusterCidr,
            masquerade_all: false,
            node_ports_on: NodePortAddresses::Every,
            localhost_node_ports: true,
            service_proxy_name: None,
            egress_snat: true,
        }
    }
}
