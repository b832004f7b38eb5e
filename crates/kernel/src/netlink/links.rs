//! Links, their addresses and neighbours.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope, CacheInfo,
};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo as LinkInfoAttribute, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, NetlinkError, net};

/// Index of `lo` in every network namespace.
const LOOPBACK: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    Loopback,
    Veth,
    Bridge,
    Dummy,
    /// Anything else; physical interfaces give no kind and are `"device"`.
    Other(String),
}

/// One network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkInfo {
    pub index: u32,
    pub name: String,
    /// `None` for links without a six-byte hardware address.
    pub mac: Option<[u8; 6]>,
    /// Set up by the administrator (`IFF_UP`).
    pub up: bool,
    /// The carrier is there (`IFF_LOWER_UP`): both ends of a veth are up.
    pub carrier: bool,
    pub mtu_bytes: u32,
    pub kind: LinkKind,
    /// A veth's other end, an index in the namespace `peer_netns_id` tells.
    pub peer_index: Option<u32>,
    /// This namespace's number for the peer's namespace; `None` if the peer is here.
    pub peer_netns_id: Option<i32>,
    /// The bridge this link is a port of.
    pub master: Option<u32>,
}

/// One address on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressInfo {
    pub link_index: u32,
    pub net: IpNet,
    /// Goes away with the link only (`IFA_F_PERMANENT`).
    pub permanent: bool,
    /// IPv6 duplicate address detection is still running.
    pub tentative: bool,
}

/// A veth pair to create: one end here, the other in `peer_netns` (here too if `None`).
#[derive(Debug, Clone)]
pub struct VethSpec<'a> {
    pub name: &'a str,
    pub peer_name: &'a str,
    pub peer_netns: Option<BorrowedFd<'a>>,
    /// `None`: the kernel's choice.
    pub mac: Option<[u8; 6]>,
    pub peer_mac: Option<[u8; 6]>,
    pub mtu_bytes: u32,
}

impl Netlink {
    pub fn links(&mut self) -> Result<Vec<LinkInfo>, NetlinkError> {
        let answer = self.dump("list links", RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(answer.iter().filter_map(LinkInfo::from_message).collect())
    }

    pub fn link(&mut self, name: &str) -> Result<LinkInfo, NetlinkError> {
        let found = self.links()?.into_iter().find(|link| link.name == name);
        found.ok_or_else(|| NetlinkError::NoSuchLink { name: name.to_owned() })
    }

    pub fn addrs(&mut self) -> Result<Vec<AddressInfo>, NetlinkError> {
        let answer = self.dump("list addresses", RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(answer.iter().filter_map(AddressInfo::from_message).collect())
    }

    /// Fails with `EEXIST` if one of the names is taken.
    pub fn create_veth(&mut self, spec: &VethSpec<'_>) -> Result<(), NetlinkError> {
        let mut peer = named(spec.peer_name, spec.peer_mac, spec.mtu_bytes);
        if let Some(netns) = spec.peer_netns {
            peer.attributes.push(LinkAttribute::NetNsFd(netns.as_raw_fd()));
        }
        let mut link = named(spec.name, spec.mac, spec.mtu_bytes);
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfoAttribute::Kind(InfoKind::Veth),
            LinkInfoAttribute::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        let what = || format!("create veth {} with its peer {}", spec.name, spec.peer_name);
        self.execute(what, NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewLink(link))
    }

    pub fn create_bridge(&mut self, name: &str) -> Result<(), NetlinkError> {
        self.create_kind(name, InfoKind::Bridge)
    }

    /// Fails where the kernel has no dummy device (some small kernels).
    pub fn create_dummy(&mut self, name: &str) -> Result<(), NetlinkError> {
        self.create_kind(name, InfoKind::Dummy)
    }

    fn create_kind(&mut self, name: &str, kind: InfoKind) -> Result<(), NetlinkError> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfoAttribute::Kind(kind)]));
        let what = || format!("create link {name}");
        self.execute(what, NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewLink(link))
    }

    pub fn delete_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        let link = change(index);
        self.execute(|| format!("delete link {index}"), 0, RouteNetlinkMessage::DelLink(link))
    }

    pub fn set_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut link = change(index);
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        self.execute(|| format!("set link {index} up"), 0, RouteNetlinkMessage::SetLink(link))
    }

    pub fn set_down(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut link = change(index);
        link.header.change_mask = LinkFlags::Up;
        self.execute(|| format!("set link {index} down"), 0, RouteNetlinkMessage::SetLink(link))
    }

    pub fn set_mac(&mut self, index: u32, mac: [u8; 6]) -> Result<(), NetlinkError> {
        let mut link = change(index);
        link.attributes.push(LinkAttribute::Address(mac.to_vec()));
        self.execute(|| format!("set the hardware address of link {index}"), 0, RouteNetlinkMessage::SetLink(link))
    }

    /// Makes `index` a port of the bridge `bridge`.
    pub fn set_master(&mut self, index: u32, bridge: u32) -> Result<(), NetlinkError> {
        let mut link = change(index);
        link.attributes.push(LinkAttribute::Controller(bridge));
        self.execute(|| format!("make link {index} a port of bridge {bridge}"), 0, RouteNetlinkMessage::SetLink(link))
    }

    /// Adding an address that is there already is success. IPv6 comes without duplicate detection.
    pub fn add_addr(&mut self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let message = address_message(index, address);
        let what = || format!("add address {address} to link {index}");
        self.execute(what, NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewAddress(message))
    }

    /// Deleting an address that is not there is success.
    pub fn delete_addr(&mut self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let message = address_message(index, address);
        let what = || format!("delete address {address} from link {index}");
        absent_is_success(
            self.execute(what, 0, RouteNetlinkMessage::DelAddress(message)),
            &[libc::EADDRNOTAVAIL, libc::ENODEV],
        )
    }

    /// A permanent neighbour entry; replaces what was there.
    pub fn add_neigh(&mut self, index: u32, address: IpAddr, mac: [u8; 6]) -> Result<(), NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::Destination(match address {
            IpAddr::V4(a) => NeighbourAddress::Inet(a),
            IpAddr::V6(a) => NeighbourAddress::Inet6(a),
        }));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        let what = || format!("add neighbour {address} on link {index}");
        self.execute(what, NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewNeighbour(message))
    }
}

impl LinkInfo {
    pub(super) fn from_message(message: &RouteNetlinkMessage) -> Option<LinkInfo> {
        let (RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link)) = message else {
            return None;
        };
        // Bridge port notifications come with AF_BRIDGE and describe the port, not the link.
        if link.header.interface_family != AddressFamily::Unspec {
            return None;
        }
        let mut info = LinkInfo {
            index: link.header.index,
            name: String::new(),
            mac: None,
            up: link.header.flags.contains(LinkFlags::Up),
            carrier: link.header.flags.contains(LinkFlags::LowerUp),
            mtu_bytes: 0,
            kind: LinkKind::Other("device".into()),
            peer_index: None,
            peer_netns_id: None,
            master: None,
        };
        if link.header.flags.contains(LinkFlags::Loopback) {
            info.kind = LinkKind::Loopback;
        }
        link.attributes.iter().for_each(|attribute| info.take(attribute));
        if info.kind != LinkKind::Veth {
            info.peer_index = None;
        }
        Some(info)
    }

    fn take(&mut self, attribute: &LinkAttribute) {
        match attribute {
            LinkAttribute::IfName(name) => self.name.clone_from(name),
            LinkAttribute::Address(bytes) => self.mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::Mtu(mtu) => self.mtu_bytes = *mtu,
            LinkAttribute::Link(index) => self.peer_index = Some(*index),
            LinkAttribute::LinkNetNsId(id) => self.peer_netns_id = Some(*id),
            LinkAttribute::Controller(index) => self.master = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfoAttribute::Kind(kind) = info {
                        self.kind = link_kind(kind);
                    }
                }
            }
            _ => {}
        }
    }
}

impl AddressInfo {
    pub(super) fn from_message(message: &RouteNetlinkMessage) -> Option<AddressInfo> {
        let (RouteNetlinkMessage::NewAddress(m) | RouteNetlinkMessage::DelAddress(m)) = message else {
            return None;
        };
        let mut address = None;
        let mut flags = AddressFlags::from_bits_retain(u32::from(m.header.flags.bits()));
        for attribute in &m.attributes {
            match attribute {
                // On a point-to-point link ADDRESS is the peer's and LOCAL ours; IPv6 sends ADDRESS only.
                AddressAttribute::Local(ip) => address = Some(*ip),
                AddressAttribute::Address(ip) => address = address.or(Some(*ip)),
                AddressAttribute::Flags(all) => flags = *all,
                _ => {}
            }
        }
        Some(AddressInfo {
            link_index: m.header.index,
            net: net(address?, m.header.prefix_len),
            permanent: flags.contains(AddressFlags::Permanent),
            tentative: flags.contains(AddressFlags::Tentative),
        })
    }
}

pub(super) fn absent_is_success(result: Result<(), NetlinkError>, absent: &[i32]) -> Result<(), NetlinkError> {
    match result {
        Err(error) if error.errno().is_some_and(|errno| absent.contains(&errno)) => Ok(()),
        other => other,
    }
}

pub(super) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn link_kind(kind: &InfoKind) -> LinkKind {
    match kind {
        InfoKind::Veth => LinkKind::Veth,
        InfoKind::Bridge => LinkKind::Bridge,
        InfoKind::Dummy => LinkKind::Dummy,
        other => LinkKind::Other(format!("{other:?}").to_lowercase()),
    }
}

fn named(name: &str, mac: Option<[u8; 6]>, mtu_bytes: u32) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    link.attributes.push(LinkAttribute::Mtu(mtu_bytes));
    if let Some(mac) = mac {
        link.attributes.push(LinkAttribute::Address(mac.to_vec()));
    }
    link
}

fn change(index: u32) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link
}

/// Valid for ever, and not preferred (`preferred_lft 0`).
fn never_preferred() -> CacheInfo {
    let mut times = CacheInfo::default();
    times.ifa_valid = u32::MAX;
    times
}

fn address_message(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.index = index;
    if address.addr().is_loopback() || index == LOOPBACK {
        // An address on `lo` is this host's own. With a wider scope masquerade would pick it as the source of packets
        // that leave by a link without an address (`inet_select_addr`, seen on Linux 6.18 with pods' veths).
        message.header.scope = AddressScope::Host;
    }
    message.attributes.push(AddressAttribute::Local(address.addr()));
    message.attributes.push(AddressAttribute::Address(address.addr()));
    match address {
        // As `ip addr add … brd +` would: some programs look for a broadcast address.
        IpNet::V4(net) if net.prefix_len() < 31 && !net.addr().is_loopback() => {
            message.attributes.push(AddressAttribute::Broadcast(net.broadcast()));
        }
        IpNet::V6(_) => {
            message.header.flags = AddressHeaderFlags::Nodad;
            // IPv6 knows no such scope for choosing a source: what is no longer preferred comes last instead.
            if index == LOOPBACK && !address.addr().is_loopback() {
                message.attributes.push(AddressAttribute::CacheInfo(never_preferred()));
            }
        }
        IpNet::V4(_) => {}
    }
    message
}
