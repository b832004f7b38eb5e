//! Options: what may change in the rules that changes nothing for a packet's way; for that see
//! [`ProxySettings`](portolan_model::ProxySettings). Fixed while the agent runs, but for DNS.

/// Options of the iptables planner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The mark that asks for masquerade: one bit, bit 14 by default.
    pub masquerade_mark: u32,
    /// Ports of masqueraded flows chosen at random (iptables 1.6.2 and up).
    pub random_fully: bool,
    /// Drop forwarded packets that conntrack calls invalid; off where `nf_conntrack_tcp_be_liberal` is set.
    pub drop_invalid: bool,
    /// Who answers at the cluster DNS address.
    pub dns: DnsPath,
    /// Above so many endpoints, comments are left off the rules of single endpoints, as kube-proxy does.
    pub comment_limit: usize,
}

/// Who answers at the cluster DNS address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsPath {
    /// This node, on its own `lo`: port 53 stays out of conntrack.
    ThisNode,
    /// The Service's endpoints, by its rules as any other.
    Service,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            masquerade_mark: 0x4000,
            random_fully: true,
            drop_invalid: true,
            dns: DnsPath::Service,
            comment_limit: 1000,
        }
    }
}
