//! What nf_tables did with a packet, rule by rule: nfnetlink group NFTRACE, iptables-nft's rules included.
//!
//! ```text
//!  rule matched ─► Rule: handle, verdict      the packet's headers and links come with
//!  end of a base chain ─► Policy              the first event of each base chain, once
//! ```
//!
//! Events come in the order of the packet's way, within the send or the receive itself: who saw the packet's answer finds all of
//! them waiting. Nothing here panics on what it reads. Spec: `nf_tables.h` (`NFTA_TRACE_*`), `nfnetlink.h`
//! (`NFNLGRP_NFTRACE`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr as End};
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use crate::nfnl::{self, Attributes, Message};
use crate::nft::{NftError, failed, grow};

/// `NFNLGRP_NFTRACE`.
const GROUP: u32 = 9;
/// `NFT_MSG_TRACE` of subsystem nf_tables.
const TRACE: u16 = 10 << 8 | 17;

/// `NFTA_TRACE_*`; those of conntrack since Linux 6.16.
const TABLE: u16 = 1;
const CHAIN: u16 = 2;
const HANDLE: u16 = 3;
const KIND: u16 = 4;
const VERDICT: u16 = 5;
const ID: u16 = 6;
const NETWORK_HEADER: u16 = 8;
const TRANSPORT_HEADER: u16 = 9;
const IN_INDEX: u16 = 10;
const OUT_INDEX: u16 = 12;
const MARK: u16 = 14;
const POLICY: u16 = 16;
const CT_STATE: u16 = 21;
/// `NFTA_VERDICT_*`.
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
/// `NFT_TRACETYPE_*`.
const OF_POLICY: u32 = 1;
const OF_RETURN: u32 = 2;
const OF_RULE: u32 = 3;

const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
const RECEIVE_BYTES: usize = 1 << 16;

/// One event of a traced packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceEvent {
    /// Tells packets apart, for as long as they are in one network namespace.
    pub id: u32,
    /// `NFPROTO_*` of the table: 1 inet, 2 ip, 10 ip6.
    pub family: u8,
    pub table: String,
    pub chain: String,
    pub what: Traced,
    /// The packet as it was when it came to this base chain; with the base chain's first event only.
    pub packet: Option<PacketHead>,
    /// The packet's mark after it, if it has one.
    pub mark: u32,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Traced {
    /// A rule matched.
    Rule { handle: u64, verdict: TraceVerdict },
    /// The end of a chain that was called: on with the rule behind the call.
    ChainEnd,
    /// The end of a base chain.
    Policy { accepts: bool },
}

/// A rule's verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TraceVerdict {
    Drop,
    Accept,
    /// `NF_STOLEN`, `NF_QUEUE`.
    Stolen,
    Continue,
    Jump(String),
    Goto(String),
    Return,
}

/// A packet's headers, as far as a trace tells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketHead {
    /// IP protocol number.
    pub protocol: u8,
    /// Port 0 for protocols without ports.
    pub src: End,
    pub dst: End,
    /// Index of the link it came in by; `None`: it is sent here.
    pub iif: Option<u32>,
    /// Index of the link it goes out by, where that is decided.
    pub oif: Option<u32>,
    pub detail: Detail,
    /// What conntrack calls it, where the kernel says so and conntrack has seen it.
    pub state: Option<CtSeen>,
}

/// What is in a transport header beside its ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    Tcp {
        sequence: u32,
        acknowledged: u32,
        flags: u8,
    },
    /// The first 8 bytes of its payload, zeros behind its end.
    Udp {
        begins: [u8; 8],
    },
    Other,
}

/// Conntrack's state of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CtSeen {
    New,
    Known,
    Invalid,
    Untracked,
}

/// A non-blocking socket that hears of every traced packet of one network namespace.
pub struct Tracer {
    socket: Socket,
    buffer: Vec<u8>,
    lost: bool,
}

impl Tracer {
    /// Listens in the network namespace of the calling thread.
    pub fn open() -> Result<Tracer, NftError> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed("open"))?;
        grow(&socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER_BYTES).map_err(failed("grow"))?;
        socket.bind(&SocketAddr::new(0, 0)).map_err(failed("bind"))?;
        socket.add_membership(GROUP).map_err(failed("join the group of traces"))?;
        socket.set_non_blocking(true).map_err(failed("set non-blocking"))?;
        Ok(Tracer { socket, buffer: vec![0; RECEIVE_BYTES], lost: false })
    }

    /// The events that wait now; empty if none do. Never blocks.
    pub fn read(&mut self) -> Result<Vec<TraceEvent>, NftError> {
        let mut events = Vec::new();
        loop {
            match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Ok(length) => events.extend(parse(&self.buffer[..length])),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(events),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.lost = true,
                Err(error) => return Err(failed("receive")(error)),
            }
        }
    }

    /// Events were lost since it was opened: they came faster than they were read.
    pub fn has_lost(&self) -> bool {
        self.lost
    }
}

impl AsFd for Tracer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The events in a datagram; what makes no sense is left out.
fn parse(bytes: &[u8]) -> impl Iterator<Item = TraceEvent> + '_ {
    nfnl::messages(bytes).filter(|message| message.kind() == TRACE).filter_map(event_of)
}

/// Attributes of an event before they make sense.
#[derive(Default)]
struct Raw<'a> {
    id: Option<u32>,
    table: String,
    chain: String,
    handle: Option<u64>,
    kind: u32,
    verdict: Option<TraceVerdict>,
    accepts: bool,
    network: &'a [u8],
    transport: &'a [u8],
    iif: Option<u32>,
    oif: Option<u32>,
    mark: u32,
    state: Option<u32>,
}

fn event_of(message: Message<'_>) -> Option<TraceEvent> {
    let mut raw = Raw::default();
    for (kind, value) in message.attributes() {
        match kind {
            TABLE => raw.table = nfnl::text(value),
            CHAIN => raw.chain = nfnl::text(value),
            HANDLE => raw.handle = value.try_into().ok().map(u64::from_be_bytes),
            KIND => raw.kind = nfnl::number(value),
            VERDICT => raw.verdict = verdict_of(value),
            ID => raw.id = Some(nfnl::number(value)),
            NETWORK_HEADER => raw.network = value,
            TRANSPORT_HEADER => raw.transport = value,
            IN_INDEX => raw.iif = Some(nfnl::number(value)),
            OUT_INDEX => raw.oif = Some(nfnl::number(value)),
            MARK => raw.mark = nfnl::number(value),
            POLICY => raw.accepts = nfnl::number(value) == ACCEPT.cast_unsigned(),
            CT_STATE => raw.state = Some(nfnl::number(value)),
            _ => {}
        }
    }
    let what = match (raw.kind, raw.handle, raw.verdict.clone()) {
        (OF_POLICY, ..) => Traced::Policy { accepts: raw.accepts },
        (OF_RULE | OF_RETURN, Some(handle), Some(verdict)) => Traced::Rule { handle, verdict },
        (OF_RULE | OF_RETURN, None, _) => Traced::ChainEnd,
        _ => return None,
    };
    let packet = head_of(&raw);
    let Raw { id, table, chain, mark, .. } = raw;
    Some(TraceEvent { id: id?, family: message.family(), table, chain, what, packet, mark })
}

const ACCEPT: i32 = 1;

fn verdict_of(value: &[u8]) -> Option<TraceVerdict> {
    let find = |wanted| Attributes(value).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let chain = || find(VERDICT_CHAIN).map(nfnl::text);
    let code = nfnl::number(find(VERDICT_CODE)?).cast_signed();
    Some(match code {
        -1 | -2 => TraceVerdict::Continue,
        -3 => TraceVerdict::Jump(chain()?),
        -4 => TraceVerdict::Goto(chain()?),
        -5 => TraceVerdict::Return,
        ACCEPT => TraceVerdict::Accept,
        // The upper bytes say why, or which queue.
        other if other >= 0 && other & 0xff >= 2 => TraceVerdict::Stolen,
        _ => TraceVerdict::Drop,
    })
}

fn head_of(raw: &Raw<'_>) -> Option<PacketHead> {
    let (protocol, src, dst) = addresses_of(raw.network)?;
    let has_ports = matches!(i32::from(protocol), libc::IPPROTO_TCP | libc::IPPROTO_UDP | libc::IPPROTO_SCTP);
    let port = |at: usize| match raw.transport.get(at..at + 2) {
        Some(bytes) if has_ports => nfnl::short(bytes),
        _ => 0,
    };
    let detail = match i32::from(protocol) {
        libc::IPPROTO_TCP if raw.transport.len() >= 14 => Detail::Tcp {
            sequence: nfnl::number(&raw.transport[4..8]),
            acknowledged: nfnl::number(&raw.transport[8..12]),
            flags: raw.transport[13],
        },
        libc::IPPROTO_UDP if raw.transport.len() >= 8 => {
            let mut begins = [0; 8];
            let payload = &raw.transport[8..];
            let length = payload.len().min(8);
            begins[..length].copy_from_slice(&payload[..length]);
            Detail::Udp { begins }
        }
        _ => Detail::Other,
    };
    let state = raw.state.map(state_of);
    let (src, dst) = (End::new(src, port(0)), End::new(dst, port(2)));
    Some(PacketHead { protocol, src, dst, iif: raw.iif, oif: raw.oif, detail, state })
}

/// Bits as `ct state` has them.
fn state_of(bits: u32) -> CtSeen {
    match bits {
        0x8 => CtSeen::New,
        0x1 => CtSeen::Invalid,
        0x40 => CtSeen::Untracked,
        _ => CtSeen::Known,
    }
}

/// Extension headers of IPv6 are passed over only where there are none: then the protocol is not told rightly.
fn addresses_of(header: &[u8]) -> Option<(u8, IpAddr, IpAddr)> {
    match header.first()? >> 4 {
        4 => {
            let v4 = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(header.get(at..at + 4)?).ok()?));
            Some((*header.get(9)?, v4(12)?.into(), v4(16)?.into()))
        }
        6 => {
            let v6 = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(header.get(at..at + 16)?).ok()?));
            Some((*header.get(6)?, v6(8)?.into(), v6(24)?.into()))
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "nftrace_tests.rs"]
mod tests;
