//! Who asks: what a listener knows of a query beside its bytes.

use std::net::{IpAddr, SocketAddr};

use crate::wire::Transport;

/// A client, as its packet shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Source address and port.
    pub addr: SocketAddr,
    /// Where it asked: the address and port of ours.
    pub local: SocketAddr,
    /// What carried the query.
    pub transport: Transport,
    /// Index of the interface by which the query came; 0 if that is not known. A pod's veth tells the pod.
    pub link: u32,
}

impl Client {
    /// Its address.
    pub fn ip(&self) -> IpAddr {
        self.addr.ip()
    }
}
