//! Flags of the service proxy, named as kube-proxy names them.

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use portolan_agent::proxy::{Mode, ProxyConfig};
use portolan_model::{DetectLocal, Family, IfName, NodePortAddresses, ProxySettings, Settings};

use crate::failure::Failure;

/// What decides which rules there are.
#[derive(Args, Clone, Debug)]
pub struct ProxyFlags {
    /// Name of our Node object
    #[arg(long, visible_alias = "hostname-override", value_name = "NAME")]
    node: String,
    /// How rules are written
    #[arg(long, value_enum, default_value_t = ModeArg::Iptables)]
    proxy_mode: ModeArg,
    /// Pods' addresses, one range per family
    #[arg(long, value_name = "CIDR", default_value = "10.244.0.0/16", value_delimiter = ',')]
    cluster_cidr: Vec<IpNet>,
    /// Services' addresses, one range per family
    #[arg(
        long,
        visible_alias = "service-cluster-ip-range",
        value_name = "CIDR",
        default_value = "10.96.0.0/12",
        value_delimiter = ','
    )]
    service_cidr: Vec<IpNet>,
    /// Masquerade whatever goes to a ClusterIP, pods' packets too
    #[arg(long)]
    masquerade_all: bool,
    /// How a packet is known to come from a pod of this node
    #[arg(long, value_enum, ignore_case = true, default_value_t = DetectLocalArg::ClusterCIDR)]
    detect_local_mode: DetectLocalArg,
    /// The bridge that pods' packets come by, with --detect-local-mode BridgeInterface
    #[arg(long, value_name = "NAME")]
    pod_bridge_interface: Option<String>,
    /// How names of pods' links begin, with --detect-local-mode InterfaceNamePrefix
    #[arg(long, value_name = "PREFIX")]
    pod_interface_name_prefix: Option<String>,
    /// Where node ports answer: ranges of the node's addresses, or `primary`; unset: on every address
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    nodeport_addresses: Vec<String>,
    /// Node ports answer on 127.0.0.1 too
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    iptables_localhost_nodeports: bool,
    /// Which bit of a packet's mark asks for masquerade
    #[arg(long, value_name = "BIT", default_value_t = 14, value_parser = clap::value_parser!(u8).range(0..32))]
    iptables_masquerade_bit: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ModeArg {
    /// kube-proxy's chains, by the iptables programs
    Iptables,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
// kube-proxy's own spelling, which clap takes in any case.
#[allow(clippy::upper_case_acronyms)]
enum DetectLocalArg {
    /// Its source is in --cluster-cidr
    #[value(name = "ClusterCIDR")]
    ClusterCIDR,
    /// Its source is in our Node's spec.podCIDRs
    #[value(name = "NodeCIDR")]
    NodeCIDR,
    /// It came by --pod-bridge-interface
    #[value(name = "BridgeInterface")]
    BridgeInterface,
    /// It came by a link of --pod-interface-name-prefix
    #[value(name = "InterfaceNamePrefix")]
    InterfaceNamePrefix,
}

impl ProxyFlags {
    /// As the proxy is told.
    ///
    /// # Errors
    /// A flag whose value means nothing, or a mode without its datum.
    pub fn config(&self) -> Result<ProxyConfig, Failure> {
        let ModeArg::Iptables = self.proxy_mode;
        Ok(ProxyConfig {
            settings: Settings {
                node: self.node.as_str().into(),
                cluster_cidrs: self.cluster_cidr.clone(),
                service_cidrs: self.service_cidr.clone(),
                // DNS is another's: kube-dns is a Service as any other.
                cluster_dns: Vec::new(),
                cluster_domain: "cluster.local".into(),
                proxy: ProxySettings {
                    detect_local: self.detect_local()?,
                    masquerade_all: self.masquerade_all,
                    node_ports_on: node_ports_on(&self.nodeport_addresses)?,
                    localhost_node_ports: self.iptables_localhost_nodeports,
                    service_proxy_name: None,
                    egress_snat: false,
                },
            },
            mode: Mode::Iptables,
            families: families(&self.cluster_cidr, &self.service_cidr),
            masquerade_mark: 1 << self.iptables_masquerade_bit,
        })
    }

    fn detect_local(&self) -> Result<DetectLocal, Failure> {
        let needs = |flag: &str| Failure::input(format!("--detect-local-mode: this mode needs {flag}; add it"));
        Ok(match self.detect_local_mode {
            DetectLocalArg::ClusterCIDR => DetectLocal::ClusterCidr,
            DetectLocalArg::NodeCIDR => DetectLocal::NodeCidr,
            DetectLocalArg::BridgeInterface => {
                let name = self.pod_bridge_interface.as_deref().ok_or_else(|| needs("--pod-bridge-interface"))?;
                DetectLocal::BridgeInterface(IfName(name.into()))
            }
            DetectLocalArg::InterfaceNamePrefix => {
                let prefix = self.pod_interface_name_prefix.as_deref();
                DetectLocal::InterfaceNamePrefix(prefix.ok_or_else(|| needs("--pod-interface-name-prefix"))?.into())
            }
        })
    }
}

fn node_ports_on(texts: &[String]) -> Result<NodePortAddresses, Failure> {
    match texts {
        [] => Ok(NodePortAddresses::Every),
        [only] if only == "primary" => Ok(NodePortAddresses::Primary),
        _ => {
            let ranges: Result<Vec<IpNet>, Failure> = texts
                .iter()
                .map(|text| {
                    let bad = |e| {
                        Failure::input(format!(
                            "--nodeport-addresses: {text:?}: {e}; write ranges such as 10.0.0.0/8, or `primary` alone"
                        ))
                    };
                    text.parse().map_err(bad)
                })
                .collect();
            ranges.map(NodePortAddresses::Within)
        }
    }
}

/// Families of the cluster's ranges; both where no range says.
fn families(pods: &[IpNet], services: &[IpNet]) -> Vec<Family> {
    let mut families: Vec<Family> = pods.iter().chain(services).map(|net| Family::of(net.addr())).collect();
    families.sort();
    families.dedup();
    match families.is_empty() {
        true => Family::BOTH.to_vec(),
        false => families,
    }
}
