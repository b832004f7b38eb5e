//! Who is on the lab's LAN, with which addresses and routes. Values only.
//!
//! ```text
//!  172.18.0.0/24 ──┬── .1 outside (gateway; also 114.114.114.114, 8.8.8.8, 192.168.100.100)
//!                  ├── .2 apiserver
//!                  └── .11 node-1, .12 node-2, …
//! ```
//!
//! With both families each has the same last group in `fd00:172:18::/64`: node-1 is `fd00:172:18::11`.
//!
//! `outside` has a route to the Services by node-1, to load balancers' addresses on the LAN, and none to pods, and forwards nothing: a packet
//! that a node should have rewritten and did not must be lost there, not find its way all the same.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

pub const LAN: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 18, 0, 0), 24);
/// The LAN's range where a lab has both families.
const LAN_V6: [u16; 3] = [0xfd00, 0x172, 0x18];
const LAN_V6_LEN: u8 = 64;
pub(crate) const MOST_NODES: usize = 200;

/// Addresses `outside` answers on beside its LAN address: the notes' two resolvers and web server.
pub const OUTSIDE_ADDRESSES: [Ipv4Addr; 3] =
    [Ipv4Addr::new(114, 114, 114, 114), Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(192, 168, 100, 100)];

pub(crate) const OUTSIDE: &str = "outside";
pub(crate) const API_SERVER: &str = "apiserver";
pub(crate) const API_PORT: u16 = 6443;

/// The lab's LAN as a value.
#[derive(Debug, Clone)]
pub struct Topology {
    pub nodes: usize,
    /// Ranges of ClusterIPs, one per family; IPv6 comes second.
    pub service_cidrs: Vec<IpNet>,
    /// Ranges that nodes answer for on the LAN.
    pub balancer_pools: Vec<IpNet>,
}

/// One host on the LAN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSpec {
    pub name: String,
    /// On `eth0`, with the LAN's length.
    pub address: IpNet,
    /// The same in IPv6; `None` where the lab has IPv4 alone.
    pub address_v6: Option<IpNet>,
    pub mac: [u8; 6],
    /// On `lo`.
    pub own_addresses: Vec<IpNet>,
    /// Destination and gateway.
    pub routes: Vec<(IpNet, IpAddr)>,
    /// Destinations on the LAN that its own prefix does not cover.
    pub on_link: Vec<IpNet>,
    pub forwards: bool,
    /// Name of the other end of `eth0`, a port of the LAN's bridge.
    pub port: String,
}

impl Topology {
    pub fn outside(&self) -> HostSpec {
        let mut host = self.host(OUTSIDE, 1);
        host.own_addresses = OUTSIDE_ADDRESSES.map(|a| IpNet::from(IpAddr::V4(a))).to_vec();
        let by = self.node(1);
        host.routes = self.service_cidrs.iter().filter_map(|range| Some((*range, by.address_beside(range)?))).collect();
        let beyond = |pool: &&IpNet| !IpNet::from(LAN).contains(*pool);
        host.on_link = self.balancer_pools.iter().filter(beyond).copied().collect();
        host
    }

    pub fn api_server(&self) -> HostSpec {
        with_gateway(self.host(API_SERVER, 2))
    }

    /// `number` from 1.
    pub fn node(&self, number: usize) -> HostSpec {
        let last = u8::try_from(10 + number).expect("at most 200 nodes");
        HostSpec { forwards: true, ..with_gateway(self.host(&node_name(number), last)) }
    }

    /// All hosts in the order they are made.
    pub fn hosts(&self) -> Vec<HostSpec> {
        let mut hosts = vec![self.outside(), self.api_server()];
        hosts.extend((1..=self.nodes).map(|number| self.node(number)));
        hosts
    }

    pub fn node_names(&self) -> Vec<String> {
        (1..=self.nodes).map(node_name).collect()
    }
}

pub(crate) fn node_name(number: usize) -> String {
    format!("node-{number}")
}

impl Topology {
    fn host(&self, name: &str, last: u8) -> HostSpec {
        let [a, b, c, _] = LAN.network().octets();
        let address = Ipv4Addr::new(a, b, c, last);
        let has_v6 = self.service_cidrs.iter().any(|range| range.addr().is_ipv6());
        HostSpec {
            name: name.to_owned(),
            address: IpNet::new(IpAddr::V4(address), LAN.prefix_len()).expect("a LAN's length"),
            address_v6: has_v6.then(|| IpNet::new(v6(last).into(), LAN_V6_LEN).expect("a LAN's length")),
            mac: [0x02, 0x18, a, b, c, last], // locally administered, the same at every start
            own_addresses: Vec::new(),
            routes: Vec::new(),
            on_link: Vec::new(),
            forwards: false,
            port: port_of(name),
        }
    }
}

impl HostSpec {
    /// Its LAN addresses, IPv4 first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        std::iter::once(self.address).chain(self.address_v6).map(|net| net.addr()).collect()
    }

    /// Its LAN address of the family of `range`.
    fn address_beside(&self, range: &IpNet) -> Option<IpAddr> {
        self.addresses().into_iter().find(|addr| addr.is_ipv4() == range.addr().is_ipv4())
    }
}

/// The last group reads as IPv4's last byte does: 11 is `::11`.
fn v6(last: u8) -> Ipv6Addr {
    let [a, b, c] = LAN_V6;
    let group = u16::from_str_radix(&last.to_string(), 16).expect("decimal digits are hexadecimal ones");
    Ipv6Addr::new(a, b, c, 0, 0, 0, 0, group)
}

/// The bridge's port that a host of that name is plugged into.
pub(crate) fn port_of(name: &str) -> String {
    format!("lan-{name}")
}

fn with_gateway(mut host: HostSpec) -> HostSpec {
    let any: IpNet = "0.0.0.0/0".parse().expect("a CIDR");
    let [a, b, c, _] = LAN.network().octets();
    host.routes.push((any, IpAddr::V4(Ipv4Addr::new(a, b, c, 1))));
    if host.address_v6.is_some() {
        host.routes.push(("::/0".parse().expect("a CIDR"), v6(1).into()));
    }
    host
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn topology(nodes: usize) -> Topology {
        Topology { nodes, service_cidrs: vec!["10.96.0.0/12".parse().unwrap()], balancer_pools: Vec::new() }
    }

    #[test]
    fn with_both_families_every_host_has_the_same_place_in_both() {
        let mut both = topology(2);
        both.service_cidrs.push("fd00:10:96::/112".parse().unwrap());
        let addresses: Vec<_> = both.hosts().iter().map(|host| host.addresses()[1].to_string()).collect();
        assert_eq!(addresses, ["fd00:172:18::1", "fd00:172:18::2", "fd00:172:18::11", "fd00:172:18::12"]);
        let way = |host: &HostSpec| host.routes.last().map(|(dst, by)| format!("{dst} {by}")).unwrap_or_default();
        assert_eq!(way(&both.outside()), "fd00:10:96::/112 fd00:172:18::11");
        assert_eq!(way(&both.node(2)), "::/0 fd00:172:18::1");
        assert_eq!(topology(200).node(200).address_v6, None);
        both.nodes = 200;
        assert_eq!(both.node(200).addresses()[1].to_string(), "fd00:172:18::210");
    }

    #[test]
    fn hosts_have_the_notes_addresses() {
        let addresses: Vec<_> = topology(2).hosts().iter().map(|h| format!("{} {}", h.name, h.address)).collect();
        let expected =
            ["outside 172.18.0.1/24", "apiserver 172.18.0.2/24", "node-1 172.18.0.11/24", "node-2 172.18.0.12/24"];
        assert_eq!(addresses, expected);
    }

    #[test]
    fn outside_knows_services_by_node_1_and_no_pods_and_forwards_nothing() {
        let outside = topology(2).outside();
        let services = ("10.96.0.0/12".parse().unwrap(), "172.18.0.11".parse().unwrap());
        assert_eq!((outside.routes, outside.forwards), (vec![services], false));
    }

    #[test]
    fn outside_asks_the_lan_itself_for_addresses_of_pools() {
        let pools = ["172.18.100.0/28", "172.18.0.224/28"].map(|pool| pool.parse().unwrap());
        let outside = Topology { balancer_pools: pools.to_vec(), ..topology(2) }.outside();
        assert_eq!(outside.on_link, pools[..1], "the LAN's own prefix covers the other");
        assert!(topology(2).node(1).on_link.is_empty());
    }

    #[test]
    fn two_hundred_hosts_share_no_address_name_or_port_and_names_fit_an_interface() {
        let hosts = topology(MOST_NODES).hosts();
        let count = |part: &dyn Fn(&HostSpec) -> String| hosts.iter().map(part).collect::<BTreeSet<_>>().len();
        assert_eq!(count(&|h| h.address.to_string()), hosts.len());
        assert_eq!(count(&|h| format!("{:?}", h.mac)), hosts.len());
        assert_eq!(count(&|h| h.port.clone()), hosts.len());
        assert!(hosts.iter().all(|h| h.port.len() < 16 && IpNet::from(LAN).contains(&h.address.addr())));
    }
}
