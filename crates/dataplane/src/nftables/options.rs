//! Options: what changes the nftables rules beside the proxy's settings. Fixed while the process runs, but for DNS.

pub use crate::iptables::options::DnsPath;

/// Options of the nftables planner; the rest is in the snapshot's `settings.proxy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The mark that asks for masquerade: one bit, bit 14 by default.
    pub masquerade_mark: u32,
    /// Ports of masqueraded flows chosen at random.
    pub fully_random: bool,
    /// Who answers at the cluster DNS address.
    pub dns: DnsPath,
}

impl Default for Options {
    fn default() -> Self {
        Self { masquerade_mark: 0x4000, fully_random: true, dns: DnsPath::Service }
    }
}
