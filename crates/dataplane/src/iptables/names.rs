//! Names: chains, marks and the hashes inside chain names. Pure text; kube-proxy's spelling to the letter.
//!
//! A service port's hash is the first 16 characters of base32 over SHA-256 of `ns/name:port` and the lower-case
//! protocol, without a separator; an endpoint's has its `ip:port` appended. A port without a name leaves `:port` out.

use data_encoding::BASE32;
use portolan_model::{NsName, ServicePortKey};
use sha2::{Digest, Sha256, Sha512};

/// Dispatch by destination address, in nat and filter.
pub const SERVICES: &str = "KUBE-SERVICES";
/// Refusals for destinations that only the world outside uses (filter).
pub const EXTERNAL_SERVICES: &str = "KUBE-EXTERNAL-SERVICES";
/// Dispatch by node port (nat); health check ports (filter).
pub const NODE_PORTS: &str = "KUBE-NODEPORTS";
/// Masquerades what bears the mark (nat).
pub const POSTROUTING: &str = "KUBE-POSTROUTING";
/// Sets the mark (nat).
pub const MARK_MASQ: &str = "KUBE-MARK-MASQ";
/// Lets marked and known connections pass (filter).
pub const FORWARD: &str = "KUBE-FORWARD";
/// Drops what a KUBE-FW chain did not take (filter).
pub const PROXY_FIREWALL: &str = "KUBE-PROXY-FIREWALL";
/// Closes loopback to packets from elsewhere (filter). Shared with the kubelet.
pub const FIREWALL: &str = "KUBE-FIREWALL";
/// Entry to the egress chain, as Calico names it (nat).
pub const EGRESS_POSTROUTING: &str = "cali-POSTROUTING";
/// Masquerades what leaves the cluster, as Calico names it (nat).
pub const EGRESS: &str = "cali-nat-outgoing";
/// Keeps the node's own DNS traffic out of conntrack (raw) and lets it in (filter).
pub const DNS: &str = "PORTOLAN-DNS";

/// Dispatch to pods with host ports, as the CNI plugin portmap names it (nat).
pub const HOST_PORTS: &str = "CNI-HOSTPORT-DNAT";
/// Sets portmap's mark (nat).
pub const HOST_PORTS_MARK: &str = "CNI-HOSTPORT-SETMARK";
/// Masquerades what bears portmap's mark (nat).
pub const HOST_PORTS_MASQ: &str = "CNI-HOSTPORT-MASQ";
/// Prefix of the chain of one pod's host ports, portmap's.
pub const HOST_PORT_PREFIX: &str = "CNI-DN-";

/// Prefixes of the chains that belong to one service port or endpoint.
pub const OWNED_PREFIXES: [&str; 5] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-"];

/// Chains of fixed name that we fill.
pub const SHARED: [&str; 14] = [
    SERVICES,
    EXTERNAL_SERVICES,
    NODE_PORTS,
    POSTROUTING,
    MARK_MASQ,
    FORWARD,
    PROXY_FIREWALL,
    FIREWALL,
    EGRESS_POSTROUTING,
    EGRESS,
    DNS,
    HOST_PORTS,
    HOST_PORTS_MARK,
    HOST_PORTS_MASQ,
];

/// The chain of this name is one we fill.
pub fn is_ours(name: &str) -> bool {
    SHARED.contains(&name) || is_of_service(name) || name.starts_with(HOST_PORT_PREFIX)
}

/// The chain of this name belongs to one service port or endpoint: stale unless planned.
pub fn is_of_service(name: &str) -> bool {
    OWNED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The 16 characters that name a service port in its chains.
pub fn service_hash(key: &ServicePortKey) -> String {
    hash(&format!("{key}{}", key.proto))
}

/// The 16 characters that name an endpoint of a service port; `target` is `ip:port`.
pub fn endpoint_hash(key: &ServicePortKey, target: &str) -> String {
    hash(&format!("{key}{}{target}", key.proto))
}

/// `CNI-DN-…`: the chain of one pod's host ports, 28 characters. The plugin's hash of network and container, with the pod's
/// key for the container: a pod that starts anew keeps its chain.
pub fn host_port_chain(pod: &NsName) -> String {
    let digest = Sha512::digest(format!("portolan{pod}"));
    let hex: String = digest.iter().take(11).map(|byte| format!("{byte:02x}")).collect();
    format!("{HOST_PORT_PREFIX}{}", &hex[..21])
}

fn hash(text: &str) -> String {
    let mut encoded = BASE32.encode(&Sha256::digest(text.as_bytes()));
    encoded.truncate(16);
    encoded
}

/// The chains one service port may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceChains {
    /// `KUBE-SVC-…`: the cluster list.
    pub cluster: String,
    /// `KUBE-SVL-…`: the local list.
    pub local: String,
    /// `KUBE-EXT-…`: entry for external destinations.
    pub external: String,
    /// `KUBE-FW-…`: source ranges of a load balancer.
    pub firewall: String,
}

impl ServiceChains {
    /// The chains of `key`.
    pub fn of(key: &ServicePortKey) -> Self {
        let hash = service_hash(key);
        Self {
            cluster: format!("KUBE-SVC-{hash}"),
            local: format!("KUBE-SVL-{hash}"),
            external: format!("KUBE-EXT-{hash}"),
            firewall: format!("KUBE-FW-{hash}"),
        }
    }
}

/// `KUBE-SEP-…`: the chain of one endpoint; `target` is `ip:port`.
pub fn endpoint_chain(key: &ServicePortKey, target: &str) -> String {
    format!("KUBE-SEP-{}", endpoint_hash(key, target))
}
