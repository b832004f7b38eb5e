//! Links, addresses, routes and neighbours of one network namespace, over rtnetlink.
//!
//! [`Netlink`] asks and changes; [`Monitor`] tells what changed. Both belong to the namespace of the
//! thread that opened them, and stay there wherever they are moved to. Spec: rtnetlink(7).

mod links;
mod lookup;
mod monitor;
mod routes;

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;

use crate::nlsock::{Refused, Socket, SocketError};

pub use links::{AddressInfo, LinkInfo, LinkKind, VethSpec};
pub use lookup::{RouteFate, RouteFound, RouteQuestion};
pub use monitor::{Monitor, NetEvent};
pub use routes::{KernelRoute, RouteAnswer, RouteKind};

/// Protocol number that marks a route as ours (unused by iproute2's `rt_protos`).
pub const OWN_ROUTE_PROTOCOL: u8 = 80;
/// The main routing table.
pub const MAIN_TABLE: u32 = 254;

#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("{what}: {refused}")]
    Refused { what: String, refused: Refused },
    #[error("{what}: {source}")]
    Socket { what: String, source: SocketError },
    #[error("there is no network interface named {name:?} in this namespace")]
    NoSuchLink { name: String },
}

impl NetlinkError {
    /// The errno of a refusal; `None` if the kernel was not asked or did not answer.
    pub fn errno(&self) -> Option<i32> {
        match self {
            NetlinkError::Refused { refused, .. } => Some(refused.errno),
            _ => None,
        }
    }
}

/// A request socket. Calls block for as long as the kernel works on them (microseconds).
pub struct Netlink {
    socket: Socket,
}

impl Netlink {
    /// A socket into the network namespace of the calling thread.
    pub fn open() -> Result<Netlink, NetlinkError> {
        let socket = Socket::open(netlink_sys::protocols::NETLINK_ROUTE)
            .map_err(|source| NetlinkError::Socket { what: "open a route netlink socket".into(), source })?;
        Ok(Netlink { socket })
    }

    fn execute(
        &mut self,
        what: impl FnOnce() -> String,
        flags: u16,
        m: RouteNetlinkMessage,
    ) -> Result<(), NetlinkError> {
        self.socket.execute_one(flags, m).map_err(|e| explain(what(), e))
    }

    fn dump(&mut self, what: &str, m: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.socket.dump(m).map_err(|e| explain(what.to_owned(), e))
    }
}

fn explain(what: String, error: SocketError) -> NetlinkError {
    match error {
        SocketError::Refused(refused) => NetlinkError::Refused { what, refused },
        source => NetlinkError::Socket { what, source },
    }
}

/// `address/length` as one value; a length the address cannot have is cut to a host's.
fn net(address: IpAddr, length: u8) -> IpNet {
    IpNet::new(address, length).unwrap_or_else(|_| IpNet::from(address))
}

#[cfg(test)]
mod tests;
