//! Attachment: what a pod's link, addresses, routes and sysctls shall be, on both ends, as values.
//!
//! ```text
//!   pod's namespace                                          node's namespace
//!   ┌──────────────────────────────────────┐                ┌───────────────────────────────────────────┐
//!   │ eth0  10.244.1.5/32                  │◄──── veth ────►│ cali0a1b2c3d4e5  ee:ee:ee:ee:ee:ee        │
//!   │ 169.254.1.1 dev eth0 scope link      │                │ no address; proxy ARP answers for every   │
//!   │ default via 169.254.1.1              │                │ 10.244.1.5/32 dev cali… (model's route)   │
//!   │ default via fe80::ecee:eeff:feee:eeee│                │ link-local fe80::ecee:eeff:feee:eeee      │
//!   └──────────────────────────────────────┘                └───────────────────────────────────────────┘
//! ```
//!
//! In what order: delete a leftover link of that name; create the veth, its pod end in the pod's namespace; MAC, MTU and
//! sysctls of the host end, then up; the pod's `lo` up, its sysctls, MTU, addresses, `eth0` up, then its routes. The
//! node's route to the pod follows from [`AttachmentPlan::attachment`], a fact. Proxy ARP answers only where the node has
//! some route that covers 169.254.1.1: a default route will do.
//!
//! Must never know netlink. Numbers are Calico's, so that what books and tools say of them holds.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use portolan_model::{Attachment, Family, IfName, NsName};
use sha1::{Digest, Sha1};

/// Every pod's IPv4 gateway: a link-local address that no interface has.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The MAC of every host end; proxy ARP answers with it.
pub const HOST_MAC: Mac = Mac([0xee; 6]);

/// The name of the pod's own interface.
pub const POD_LINK: &str = "eth0";

/// What host ends' names begin with.
pub const HOST_LINK_PREFIX: &str = "cali";

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The IPv6 link-local address that the kernel derives from it (RFC 4291 appendix A: modified EUI-64).
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 0x02, b, c, 0xff, 0xfe, d, e, f])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A kernel setting of one network namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sysctl {
    /// Below `/proc/sys`, such as `net/ipv4/conf/eth0/forwarding`; with slashes, because a link's name may have dots.
    pub path: String,
    /// What to write.
    pub value: &'static str,
}

/// All of a pod's attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachmentPlan {
    /// The Pod.
    pub pod: NsName,
    /// The end in the node's namespace.
    pub host: HostEnd,
    /// The end in the pod's namespace.
    pub inside: PodEnd,
    /// MTU of both ends.
    pub mtu_bytes: u32,
}

/// The node's end of a pod's veth. It has no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostEnd {
    /// Its name.
    pub name: IfName,
    /// Its MAC.
    pub mac: Mac,
    /// Settings, to be written once it exists and before it goes up.
    pub sysctls: Vec<Sysctl>,
}

/// The pod's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEnd {
    /// Its name: `eth0`.
    pub name: IfName,
    /// Its addresses with full-length prefixes: /32, /128.
    pub addresses: Vec<IpNet>,
    /// Settings of the pod's namespace, to be written before the addresses.
    pub sysctls: Vec<Sysctl>,
    /// Routes, to be added in this order once the link is up.
    pub routes: Vec<PodRoute>,
}

/// A route in the pod's namespace, out of its `eth0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodRoute {
    /// Destination.
    pub dst: IpNet,
    /// Next hop; `None`: on the link itself (scope link).
    pub via: Option<IpAddr>,
}

impl AttachmentPlan {
    /// The plan for `pod` with `addresses` (one per family, from IPAM). A family without an address has no routes and no
    /// sysctls.
    pub fn new(pod: &NsName, addresses: &[IpAddr], mtu_bytes: u32) -> Self {
        let families = families(addresses);
        let name = host_link_name(pod);
        let sysctls = families.iter().flat_map(|family| host_sysctls(&name, *family)).collect();
        let inside = PodEnd {
            name: IfName(POD_LINK.into()),
            addresses: addresses.iter().map(|address| IpNet::from(*address)).collect(),
            sysctls: families.iter().flat_map(|family| pod_sysctls(*family)).collect(),
            routes: families.iter().flat_map(|family| pod_routes(*family)).collect(),
        };
        Self { pod: pod.clone(), host: HostEnd { name, mac: HOST_MAC, sysctls }, inside, mtu_bytes }
    }

    /// The fact to tell the model once the plan is in place; the node's routes to the pod follow from it.
    pub fn attachment(&self) -> Attachment {
        Attachment {
            link: self.host.name.clone(),
            addresses: self.inside.addresses.iter().map(IpNet::addr).collect(),
            host_ports: Vec::new(),
        }
    }
}

/// The name of the host end: `cali` and the first 11 hex digits of SHA-1 of `namespace.name`, 15 bytes in all. It follows
/// from the pod's name alone, so that a link is found again without any record.
pub fn host_link_name(pod: &NsName) -> IfName {
    let digest = Sha1::digest(format!("{}.{}", pod.namespace, pod.name));
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    IfName(format!("{HOST_LINK_PREFIX}{}", &hex[..11]).into())
}

/// What packets between nodes are wrapped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Encapsulation {
    None,
    IpIp,
    Vxlan,
    WireGuard,
}

impl Encapsulation {
    /// Bytes that it takes of each packet, over IPv4.
    pub fn overhead_bytes(self) -> u32 {
        match self {
            Self::None => 0,
            Self::IpIp => 20,
            Self::Vxlan => 50,
            Self::WireGuard => 60,
        }
    }
}

/// The MTU of pods' links: the smallest of the node's NICs less what the encapsulation takes. `None` without a NIC.
pub fn pod_mtu_bytes(nic_mtus: &[u32], encapsulation: Encapsulation) -> Option<u32> {
    nic_mtus.iter().min().map(|mtu| mtu.saturating_sub(encapsulation.overhead_bytes()))
}

fn families(addresses: &[IpAddr]) -> Vec<Family> {
    let has = |family: &Family| addresses.iter().any(|address| Family::of(*address) == *family);
    Family::BOTH.into_iter().filter(has).collect()
}

fn pod_routes(family: Family) -> Vec<PodRoute> {
    match family {
        Family::V4 => {
            let gateway = IpAddr::V4(GATEWAY_V4);
            vec![PodRoute { dst: gateway.into(), via: None }, PodRoute { dst: anywhere(family), via: Some(gateway) }]
        }
        // fe80::/64 is on the link by itself.
        Family::V6 => vec![PodRoute { dst: anywhere(family), via: Some(HOST_MAC.link_local().into()) }],
    }
}

fn anywhere(family: Family) -> IpNet {
    let any: IpAddr = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    IpNet::new(any, 0).expect("every family has the prefix of length 0")
}

/// Without `proxy_delay` 0 the first answer waits up to 0.8 s; `route_localnet` lets node ports on 127.0.0.1 reach pods.
fn host_sysctls(link: &IfName, family: Family) -> Vec<Sysctl> {
    let (conf, settings): (_, &[(&str, &'static str)]) = match family {
        Family::V4 => ("net/ipv4/conf", &[("route_localnet", "1"), ("proxy_arp", "1"), ("forwarding", "1")]),
        Family::V6 => (
            "net/ipv6/conf",
            &[("disable_ipv6", "0"), ("accept_dad", "0"), ("proxy_ndp", "1"), ("forwarding", "1"), ("accept_ra", "0")],
        ),
    };
    let mut sysctls: Vec<Sysctl> =
        settings.iter().map(|(name, value)| sysctl(format!("{conf}/{link}/{name}"), value)).collect();
    if family == Family::V4 {
        sysctls.push(sysctl(format!("net/ipv4/neigh/{link}/proxy_delay"), "0"));
    }
    sysctls
}

/// A pod forwards nothing. IPv6 may be off by default; duplicate detection is off because the address is lent once and
/// would else be unusable for a second.
fn pod_sysctls(family: Family) -> Vec<Sysctl> {
    match family {
        Family::V4 => vec![sysctl("net/ipv4/ip_forward".to_owned(), "0")],
        Family::V6 => {
            let enabled =
                ["all", "default", "lo"].map(|link| sysctl(format!("net/ipv6/conf/{link}/disable_ipv6"), "0"));
            let rest = [
                sysctl(format!("net/ipv6/conf/{POD_LINK}/accept_dad"), "0"),
                sysctl("net/ipv6/conf/all/forwarding".to_owned(), "0"),
            ];
            enabled.into_iter().chain(rest).collect()
        }
    }
}

fn sysctl(path: String, value: &'static str) -> Sysctl {
    Sysctl { path, value }
}
