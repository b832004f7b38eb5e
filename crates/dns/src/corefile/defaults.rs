//! What a plugin is when nothing but its name is written; CoreDNS's values.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::config::*;
use crate::name::Name;

impl ExternalConfig {
    /// `k8s_external ZONES…`.
    pub fn new(zones: Vec<Name>) -> Self {
        Self { zones, apex: "dns".into(), ttl_secs: 5, headless: false, fallthrough: Fallthrough::Never }
    }
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self::new(3600)
    }
}

impl Default for HostsConfig {
    fn default() -> Self {
        Self {
            file: Some("/etc/hosts".into()),
            zones: Vec::new(),
            inline: Vec::new(),
            ttl_secs: 3600,
            no_reverse: false,
            reload: Some(Duration::from_secs(5)),
            fallthrough: Fallthrough::Never,
        }
    }
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self { listen: everywhere(8080), lameduck: Duration::ZERO }
    }
}

impl Default for ReadyConfig {
    fn default() -> Self {
        Self { listen: everywhere(8181), continuously: false }
    }
}

impl Default for RrlConfig {
    fn default() -> Self {
        Self {
            zones: Vec::new(),
            window: Duration::from_secs(15),
            ipv4_prefix: 24,
            ipv6_prefix: 56,
            responses_per_second: 0,
            nodata_per_second: 0,
            nxdomains_per_second: 0,
            errors_per_second: 0,
            requests_per_second: 0,
            max_accounts: 100_000,
            slip: 2,
            report_only: false,
        }
    }
}

fn everywhere(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)
}
