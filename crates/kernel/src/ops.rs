//! The two traits through which the agent changes the kernel, so that tests can give it a fake.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::iptables::{Family, Flush, IptablesError, Tool};
use crate::netlink::{AddressInfo, KernelRoute, LinkInfo, MAIN_TABLE, Netlink, NetlinkError, RouteAnswer, VethSpec};

/// Links, addresses and the main routing table of one network namespace.
pub trait Network: Send {
    fn links(&mut self) -> Result<Vec<LinkInfo>, NetlinkError>;
    fn addrs(&mut self) -> Result<Vec<AddressInfo>, NetlinkError>;
    /// Table main.
    fn routes(&mut self) -> Result<Vec<KernelRoute>, NetlinkError>;
    fn route_get(&mut self, to: IpAddr) -> Result<RouteAnswer, NetlinkError>;
    fn create_veth(&mut self, spec: &VethSpec<'_>) -> Result<(), NetlinkError>;
    fn delete_link(&mut self, index: u32) -> Result<(), NetlinkError>;
    fn set_up(&mut self, index: u32) -> Result<(), NetlinkError>;
    fn add_addr(&mut self, index: u32, address: IpNet) -> Result<(), NetlinkError>;
    fn delete_addr(&mut self, index: u32, address: IpNet) -> Result<(), NetlinkError>;
    fn add_neigh(&mut self, index: u32, address: IpAddr, mac: [u8; 6]) -> Result<(), NetlinkError>;
    /// One result a route, in their order.
    fn replace_routes(&mut self, routes: &[KernelRoute]) -> Vec<Result<(), NetlinkError>>;
    fn delete_routes(&mut self, routes: &[KernelRoute]) -> Vec<Result<(), NetlinkError>>;
}

/// The iptables rules of one network namespace.
pub trait Rules: Send + Sync {
    fn restore(&self, family: Family, text: &str, flush: Flush) -> Result<(), IptablesError>;
    fn save(&self, family: Family, table: &str) -> Result<String, IptablesError>;
    fn save_all(&self, family: Family) -> Result<String, IptablesError>;
}

impl Network for Netlink {
    fn links(&mut self) -> Result<Vec<LinkInfo>, NetlinkError> {
        Netlink::links(self)
    }

    fn addrs(&mut self) -> Result<Vec<AddressInfo>, NetlinkError> {
        Netlink::addrs(self)
    }

    fn routes(&mut self) -> Result<Vec<KernelRoute>, NetlinkError> {
        Netlink::routes(self, MAIN_TABLE)
    }

    fn route_get(&mut self, to: IpAddr) -> Result<RouteAnswer, NetlinkError> {
        Netlink::route_get(self, to)
    }

    fn create_veth(&mut self, spec: &VethSpec<'_>) -> Result<(), NetlinkError> {
        Netlink::create_veth(self, spec)
    }

    fn delete_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        Netlink::delete_link(self, index)
    }

    fn set_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        Netlink::set_up(self, index)
    }

    fn add_addr(&mut self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        Netlink::add_addr(self, index, address)
    }

    fn delete_addr(&mut self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        Netlink::delete_addr(self, index, address)
    }

    fn add_neigh(&mut self, index: u32, address: IpAddr, mac: [u8; 6]) -> Result<(), NetlinkError> {
        Netlink::add_neigh(self, index, address, mac)
    }

    fn replace_routes(&mut self, routes: &[KernelRoute]) -> Vec<Result<(), NetlinkError>> {
        Netlink::replace_routes(self, routes)
    }

    fn delete_routes(&mut self, routes: &[KernelRoute]) -> Vec<Result<(), NetlinkError>> {
        Netlink::delete_routes(self, routes)
    }
}

impl Rules for Tool {
    fn restore(&self, family: Family, text: &str, flush: Flush) -> Result<(), IptablesError> {
        Tool::restore(self, family, text, flush)
    }

    fn save(&self, family: Family, table: &str) -> Result<String, IptablesError> {
        Tool::save(self, family, table)
    }

    fn save_all(&self, family: Family) -> Result<String, IptablesError> {
        Tool::save_all(self, family)
    }
}
