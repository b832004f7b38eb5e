//! Who changed nf_tables: the kernel tells of each transaction, nft's and iptables-nft's alike.
//!
//! A transaction comes as one message per object and, last, its generation with the process's id and name. Changes made
//! through our own sockets are dropped by a filter in the kernel, so that a cold start does not flood the monitor. They
//! cost the kernel time all the same while anybody listens: transactions of 8,192 elements took twice as long, one of
//! 100,000 five times. So a monitor is best opened after a cold start; by the generation one sees whether others wrote.
//! Spec: `nf_tables.h` (`NFTA_GEN_*`), nfnetlink group `NFNLGRP_NFTABLES`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use crate::nfnl::{self, Message};
use crate::nft::{NftError, failed, grow, set_option};

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;
const SUBSYSTEM: u16 = 10;
const NEW_GENERATION: u16 = SUBSYSTEM << 8 | 15;
const TABLE: u16 = 1;
const GENERATION_ID: u16 = 1;
const PROCESS_ID: u16 = 2;
const PROCESS_NAME: u16 = 3;

const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
const RECEIVE_BYTES: usize = 1 << 17;

/// What somebody did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NftEvent {
    /// One transaction.
    Changed(Change),
    /// Events were lost (`ENOBUFS`): something changed, nobody knows what.
    Lost,
}

/// One transaction of somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The tables it touched: `NFPROTO_*` number and name, such as (2, `nat`).
    pub tables: BTreeSet<(u8, String)>,
    /// The process, as the machine's first PID namespace numbers it.
    pub pid: u32,
    /// Its name, at most 15 bytes: `nft`; `xtables-nft-mul` is iptables-nft under any of its names.
    pub process: String,
    /// The generation it made.
    pub generation: u32,
}

/// A non-blocking socket; readable when events wait.
pub struct NftMonitor {
    socket: Socket,
    /// Tables of transactions whose end has not come yet, by netlink port.
    open: BTreeMap<u32, BTreeSet<(u8, String)>>,
}

impl NftMonitor {
    /// Listens in the network namespace of the calling thread; changes by these netlink ports ([`crate::nft::Nft::port`]) are our own.
    pub fn open(own: &[u32]) -> Result<NftMonitor, NftError> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed("open"))?;
        grow(&socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER_BYTES).map_err(failed("grow"))?;
        drop_from(&socket, own).map_err(failed("attach a filter"))?;
        socket.bind(&SocketAddr::new(0, 0)).map_err(failed("bind"))?;
        socket.add_membership(GROUP).map_err(failed("join the group of nf_tables"))?;
        socket.set_non_blocking(true).map_err(failed("set non-blocking"))?;
        Ok(NftMonitor { socket, open: BTreeMap::new() })
    }

    /// The events that wait now; empty if none do. Never blocks.
    pub fn read(&mut self) -> Result<Vec<NftEvent>, NftError> {
        let mut events = Vec::new();
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            match self.socket.recv(&mut &mut buffer[..], 0) {
                Ok(length) => events.extend(nfnl::messages(&buffer[..length]).filter_map(|m| self.event_of(m))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(events),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.open.clear();
                    events.push(NftEvent::Lost);
                }
                Err(error) => return Err(failed("receive")(error)),
            }
        }
    }

    fn event_of(&mut self, message: Message<'_>) -> Option<NftEvent> {
        if message.kind() >> 8 != SUBSYSTEM {
            return None;
        }
        if message.kind() != NEW_GENERATION {
            let table = message.attributes().find(|(kind, _)| *kind == TABLE)?.1;
            self.open.entry(message.port()).or_default().insert((message.family(), nfnl::text(table)));
            return None;
        }
        let tables = self.open.remove(&message.port()).unwrap_or_default();
        let mut change = Change { tables, pid: 0, process: String::new(), generation: 0 };
        for (kind, value) in message.attributes() {
            match kind {
                GENERATION_ID => change.generation = nfnl::number(value),
                PROCESS_ID => change.pid = nfnl::number(value),
                PROCESS_NAME => change.process = nfnl::text(value),
                _ => {}
            }
        }
        Some(NftEvent::Changed(change))
    }
}

impl AsFd for NftMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for NftMonitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// A datagram holds messages of one transaction, each with the port of its sender at byte 12: one look decides.
fn drop_from(socket: &Socket, ports: &[u32]) -> io::Result<()> {
    const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const PORT_OFFSET: u32 = 12;
    let step = |code, jt, k| libc::sock_filter { code, jt, jf: 0, k };
    let mut program = vec![step(LOAD_WORD, 0, PORT_OFFSET)];
    for (index, port) in ports.iter().enumerate() {
        // The filter loads in network order what netlink keeps in the machine's own.
        let loaded = u32::from_be_bytes(port.to_ne_bytes());
        program.push(step(JUMP_EQUAL, (ports.len() - index) as u8, loaded));
    }
    program.push(step(RETURN, 0, u32::MAX));
    program.push(step(RETURN, 0, 0));
    let attached = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    set_option(socket, libc::SO_ATTACH_FILTER, &attached)
}
