//! Kernel settings of one network namespace, from a fixed list.
//!
//! Real root that unshares can still write the machine's global settings; so only keys known to be
//! per network namespace exist here, and no other can be named. (`nf_conntrack_max`, `fs.inotify.*`
//! and `rmem_max` are global and must never be added.) Values go to /proc/sys/net, which shows the
//! namespace of the reading thread.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// A setting that is per network namespace. `&str` is an interface name, or `all` or `default`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key<'a> {
    /// Forward IPv4 packets: 0 or 1. Writing it resets the other per-interface IPv4 settings.
    Ipv4Forward,
    Ipv4Forwarding(&'a str),
    Ipv6Forwarding(&'a str),
    /// Reverse path check: 0 off, 1 strict, 2 loose.
    RpFilter(&'a str),
    /// Allow 127/8 as a source or destination on a link (NodePort on localhost).
    RouteLocalnet(&'a str),
    ProxyArp(&'a str),
    /// Jiffies to wait before a proxy ARP answer; 0, or the first packet waits up to 0.8 s.
    ProxyDelay(&'a str),
    ProxyNdp(&'a str),
    DisableIpv6(&'a str),
    AcceptDad(&'a str),
    AcceptRa(&'a str),
    ArpIgnore(&'a str),
    ArpAnnounce(&'a str),
    SendRedirects(&'a str),
    AcceptRedirects(&'a str),
    /// Lowest port an ordinary user may bind.
    UnprivilegedPortStart,
    IpNonlocalBind,
    LocalPortRange,
    PingGroupRange,
    Somaxconn,
    /// Accept packets outside the TCP window as belonging to the flow.
    ConntrackTcpBeLiberal,
    ConntrackUdpTimeout,
    /// Of a UDP flow that was answered more than once.
    ConntrackUdpTimeoutStream,
    ConntrackTcpTimeoutEstablished,
    ConntrackTcpTimeoutCloseWait,
    /// Count packets and bytes per flow.
    ConntrackAcct,
    /// Bridged frames pass iptables; per namespace since Linux 5.3.
    BridgeNfCallIptables,
}

#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    #[error("{name:?} is no interface name, so there is no setting for it")]
    InterfaceName { name: String },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {value:?} to {}: {source}", path.display())]
    Write { path: PathBuf, value: String, source: io::Error },
}

/// Reads a setting in the calling thread's network namespace, without the newline.
pub fn get(key: Key<'_>) -> Result<String, SysctlError> {
    let path = key.path()?;
    match std::fs::read_to_string(&path) {
        Ok(value) => Ok(value.trim_end().to_owned()),
        Err(source) => Err(SysctlError::Read { path, source }),
    }
}

/// Writes a setting in the calling thread's network namespace, unless it is so already.
pub fn set(key: Key<'_>, value: impl fmt::Display) -> Result<(), SysctlError> {
    let value = value.to_string();
    if get(key).is_ok_and(|now| now == value) {
        return Ok(());
    }
    let path = key.path()?;
    std::fs::write(&path, &value).map_err(|source| SysctlError::Write { path, value, source })
}

impl Key<'_> {
    /// The file below /proc/sys/net.
    pub fn path(&self) -> Result<PathBuf, SysctlError> {
        let name = match *self {
            Key::Ipv4Forward => "ipv4/ip_forward".to_owned(),
            Key::Ipv4Forwarding(link) => per_link("ipv4/conf", link, "forwarding")?,
            Key::Ipv6Forwarding(link) => per_link("ipv6/conf", link, "forwarding")?,
            Key::RpFilter(link) => per_link("ipv4/conf", link, "rp_filter")?,
            Key::RouteLocalnet(link) => per_link("ipv4/conf", link, "route_localnet")?,
            Key::ProxyArp(link) => per_link("ipv4/conf", link, "proxy_arp")?,
            Key::ProxyDelay(link) => per_link("ipv4/neigh", link, "proxy_delay")?,
            Key::ProxyNdp(link) => per_link("ipv6/conf", link, "proxy_ndp")?,
            Key::DisableIpv6(link) => per_link("ipv6/conf", link, "disable_ipv6")?,
            Key::AcceptDad(link) => per_link("ipv6/conf", link, "accept_dad")?,
            Key::AcceptRa(link) => per_link("ipv6/conf", link, "accept_ra")?,
            Key::ArpIgnore(link) => per_link("ipv4/conf", link, "arp_ignore")?,
            Key::ArpAnnounce(link) => per_link("ipv4/conf", link, "arp_announce")?,
            Key::SendRedirects(link) => per_link("ipv4/conf", link, "send_redirects")?,
            Key::AcceptRedirects(link) => per_link("ipv4/conf", link, "accept_redirects")?,
            Key::UnprivilegedPortStart => "ipv4/ip_unprivileged_port_start".to_owned(),
            Key::IpNonlocalBind => "ipv4/ip_nonlocal_bind".to_owned(),
            Key::LocalPortRange => "ipv4/ip_local_port_range".to_owned(),
            Key::PingGroupRange => "ipv4/ping_group_range".to_owned(),
            Key::Somaxconn => "core/somaxconn".to_owned(),
            Key::ConntrackTcpBeLiberal => "netfilter/nf_conntrack_tcp_be_liberal".to_owned(),
            Key::ConntrackUdpTimeout => "netfilter/nf_conntrack_udp_timeout".to_owned(),
            Key::ConntrackUdpTimeoutStream => "netfilter/nf_conntrack_udp_timeout_stream".to_owned(),
            Key::ConntrackTcpTimeoutEstablished => "netfilter/nf_conntrack_tcp_timeout_established".to_owned(),
            Key::ConntrackTcpTimeoutCloseWait => "netfilter/nf_conntrack_tcp_timeout_close_wait".to_owned(),
            Key::ConntrackAcct => "netfilter/nf_conntrack_acct".to_owned(),
            Key::BridgeNfCallIptables => "bridge/bridge-nf-call-iptables".to_owned(),
        };
        Ok(PathBuf::from("/proc/sys/net").join(name))
    }
}

fn per_link(folder: &str, link: &str, setting: &str) -> Result<String, SysctlError> {
    // IFNAMSIZ is 16 with the zero; a slash or a dot-dot would leave the folder.
    let fits = !link.is_empty() && link.len() < 16 && link != "." && link != "..";
    if !fits || link.contains(['/', ' ', '\0']) {
        return Err(SysctlError::InterfaceName { name: link.to_owned() });
    }
    Ok(format!("{folder}/{link}/{setting}"))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::netns;

    #[test]
    fn a_setting_written_in_a_namespace_stays_in_it() {
        let outside = get(Key::Ipv4Forward).unwrap();
        let made = netns::create().unwrap();
        let flipped = if outside == "1" { "0" } else { "1" };
        let inside = netns::run_in(made.as_fd(), || {
            set(Key::Ipv4Forward, flipped).unwrap();
            set(Key::RpFilter("lo"), 0).unwrap();
            (get(Key::Ipv4Forward).unwrap(), get(Key::RpFilter("lo")).unwrap())
        });
        assert_eq!(inside.unwrap(), (flipped.to_owned(), "0".to_owned()));
        assert_eq!(get(Key::Ipv4Forward).unwrap(), outside);
    }

    #[test]
    fn a_name_that_would_leave_the_folder_is_refused() {
        for name in ["", "..", "../../kernel", "a/b", "a-name-too-long-for-a-link"] {
            let refused = matches!(Key::ProxyArp(name).path(), Err(SysctlError::InterfaceName { .. }));
            assert!(refused, "{name:?} was taken");
        }
    }
}
