//! What changed in this network namespace, as the kernel tells it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{AddressInfo, KernelRoute, LinkInfo, NetlinkError};
use crate::nlsock::{SocketError, failed, split};

/// RTNLGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE of `linux/rtnetlink.h`.
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetEvent {
    Link(LinkInfo),
    LinkGone(LinkInfo),
    Address(AddressInfo),
    AddressGone(AddressInfo),
    Route(KernelRoute),
    RouteGone(KernelRoute),
    /// Events were lost (`ENOBUFS`): read everything again.
    Lost,
}

/// A non-blocking socket in the link, address and route groups; readable when events wait.
pub struct Monitor {
    socket: Socket,
}

impl Monitor {
    /// Listens in the network namespace of the calling thread.
    pub fn open() -> Result<Monitor, NetlinkError> {
        Self::try_open().map_err(|source| NetlinkError::Socket { what: "listen for network changes".into(), source })
    }

    fn try_open() -> Result<Monitor, SocketError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed("open"))?;
        socket.set_rx_buf_sz(RECEIVE_BUFFER_BYTES).map_err(failed("set receive buffer"))?;
        socket.bind(&SocketAddr::new(0, 0)).map_err(failed("bind"))?;
        for group in GROUPS {
            socket.add_membership(group).map_err(failed("join a group"))?;
        }
        socket.set_non_blocking(true).map_err(failed("set non-blocking"))?;
        Ok(Monitor { socket })
    }

    /// The events that wait now; empty if none do. Never blocks.
    pub fn read(&mut self) -> Result<Vec<NetEvent>, NetlinkError> {
        let mut events = Vec::new();
        loop {
            match self.socket.recv_from_full() {
                Ok((bytes, _)) => events.extend(events_of(&bytes)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(events),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => events.push(NetEvent::Lost),
                Err(error) => {
                    let source = SocketError::Io { step: "receive", source: error };
                    return Err(NetlinkError::Socket { what: "read network changes".into(), source });
                }
            }
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// A datagram that cannot be read counts as lost events: the reader must look for itself.
fn events_of(bytes: &[u8]) -> Vec<NetEvent> {
    let Ok(messages) = split::<RouteNetlinkMessage>(bytes) else {
        return vec![NetEvent::Lost];
    };
    let inner = messages.into_iter().filter_map(|m| match m.payload {
        NetlinkPayload::InnerMessage(message) => Some(message),
        _ => None,
    });
    inner.filter_map(|message| event_of(&message)).collect()
}

fn event_of(message: &RouteNetlinkMessage) -> Option<NetEvent> {
    use RouteNetlinkMessage as M;
    match message {
        M::NewLink(_) => LinkInfo::from_message(message).map(NetEvent::Link),
        M::DelLink(_) => LinkInfo::from_message(message).map(NetEvent::LinkGone),
        M::NewAddress(_) => AddressInfo::from_message(message).map(NetEvent::Address),
        M::DelAddress(_) => AddressInfo::from_message(message).map(NetEvent::AddressGone),
        M::NewRoute(_) => KernelRoute::from_message(message).map(NetEvent::Route),
        M::DelRoute(_) => KernelRoute::from_message(message).map(NetEvent::RouteGone),
        _ => None,
    }
}
