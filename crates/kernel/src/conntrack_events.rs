//! Flows as they begin, change and end: what conntrack tells of them by itself.
//!
//! The kernel makes an event only while somebody listens, and only of flows that began since then (5.19 and later, with
//! `net.netfilter.nf_conntrack_events` 2, the default): what was there before is read by [`Conntrack::list`]. Spec:
//! `nfnetlink_conntrack.h`, groups `NFNLGRP_CONNTRACK_NEW`, `_UPDATE`, `_DESTROY`.
//!
//! [`Conntrack::list`]: crate::conntrack::Conntrack::list

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use crate::conntrack::{ConntrackError, DELETE, Entry, NEW, entry_of, failed};
use crate::nfnl::{self, Message};
use crate::nft::grow;

/// `NFNLGRP_CONNTRACK_NEW`, `_UPDATE`, `_DESTROY`.
const GROUPS: [u32; 3] = [1, 2, 3];
/// `NLM_F_CREATE`: a flow's first news carry it.
const CREATED: u16 = 0x400;
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
const RECEIVE_BYTES: usize = 1 << 16;

/// What became of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConntrackEvent {
    /// Its first packet passed all rules.
    Began(Entry),
    /// It was answered, its TCP state or mark changed.
    Changed(Entry),
    /// It is forgotten; with its last counts where they are counted.
    Ended(Entry),
    /// Events were lost (`ENOBUFS`): read the table again.
    Lost,
}

/// A non-blocking socket; readable when events wait.
pub struct ConntrackEvents {
    socket: Socket,
    buffer: Vec<u8>,
}

impl ConntrackEvents {
    /// Listens in the network namespace of the calling thread.
    pub fn open() -> Result<ConntrackEvents, ConntrackError> {
        Self::with_buffer(RECEIVE_BUFFER_BYTES)
    }

    /// The same, and hears of flows that begin alone: a quarter of what a TCP connection has to tell.
    pub fn of_beginnings() -> Result<ConntrackEvents, ConntrackError> {
        Self::of_groups(&GROUPS[..1], RECEIVE_BUFFER_BYTES)
    }

    pub(crate) fn with_buffer(bytes: usize) -> Result<ConntrackEvents, ConntrackError> {
        Self::of_groups(&GROUPS, bytes)
    }

    fn of_groups(groups: &[u32], bytes: usize) -> Result<ConntrackEvents, ConntrackError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            grow(&socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, bytes)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            groups.iter().try_for_each(|group| socket.add_membership(*group))?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        let socket = open().map_err(failed("listen to flows"))?;
        Ok(ConntrackEvents { socket, buffer: vec![0; RECEIVE_BYTES] })
    }

    /// The events that wait now; empty if none do. Never blocks.
    pub fn read(&mut self) -> Result<Vec<ConntrackEvent>, ConntrackError> {
        let mut events = Vec::new();
        loop {
            match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Ok(length) => events.extend(nfnl::messages(&self.buffer[..length]).filter_map(event_of)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(events),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => events.push(ConntrackEvent::Lost),
                Err(error) => return Err(failed("hear of flows")(error)),
            }
        }
    }
}

impl AsFd for ConntrackEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for ConntrackEvents {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn event_of(message: Message<'_>) -> Option<ConntrackEvent> {
    match message.kind() {
        NEW if message.flags() & CREATED != 0 => entry_of(message).map(ConntrackEvent::Began),
        NEW => entry_of(message).map(ConntrackEvent::Changed),
        DELETE => entry_of(message).map(ConntrackEvent::Ended),
        _ => None,
    }
}
