//! Flows as conntrack knows them, with both tuples, and their deletion.
//!
//! ```text
//!  list, delete ──► one dump, a protocol's or all ──► Entry, as it is read ──► pick ──► deletions, many a send
//!  get ──► one question by what the client sent ──► Entry
//!  ConntrackEvents ◄── flows as they begin, change and end
//! ```
//!
//! NAT rules see only a flow's first packet; what happens to the rest stands here: the original
//! tuple is what the client sent, the reply tuple what answers look like, and where the two are no
//! mirror images, an address was rewritten. Entries are read straight from the kernel's bytes, since tables are long.
//! Spec: `nfnetlink_conntrack.h`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use crate::nfnl::{self, Attributes, Message};
use crate::nlsock::Refused;

pub use crate::conntrack_events::{ConntrackEvent, ConntrackEvents};

/// One direction of a flow. Ports are 0 for protocols without ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub src_port: u16,
    pub dst_port: u16,
}

/// One flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// IP protocol number: 6 TCP, 17 UDP, 1 ICMP.
    pub protocol: u8,
    /// As the first packet came.
    pub original: Tuple,
    /// As answers come.
    pub reply: Tuple,
    /// `IPS_*` bits.
    pub status: u32,
    pub mark: u32,
    /// Seconds until the entry is forgotten; 0 in the news of its end.
    pub timeout_secs: u32,
    /// The kernel's number for it, as `conntrack -L -o id` prints it: of its place in memory, so a later flow may get it.
    pub id: u32,
    /// Of TCP and SCTP, in the words of `conntrack -L`: `ESTABLISHED`.
    pub state: Option<&'static str>,
    /// What was carried; `None` unless the namespace's `nf_conntrack_acct` is on.
    pub carried: Option<Carried>,
    /// Nanoseconds since 1970; `None` unless `nf_conntrack_timestamp` is on.
    pub began_ns: Option<u64>,
}

/// What a flow carried, from client to server and back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    pub original_bytes: u64,
    pub reply_bytes: u64,
}

/// `IPS_SEEN_REPLY`, `IPS_SRC_NAT`, `IPS_DST_NAT`.
const SEEN_REPLY: u32 = 1 << 1;
const SRC_NAT: u32 = 1 << 4;
const DST_NAT: u32 = 1 << 5;

impl Entry {
    pub fn is_source_rewritten(&self) -> bool {
        self.status & SRC_NAT != 0
    }

    pub fn is_destination_rewritten(&self) -> bool {
        self.status & DST_NAT != 0
    }

    pub fn has_seen_reply(&self) -> bool {
        self.status & SEEN_REPLY != 0
    }
}

impl std::fmt::Display for Entry {
    /// As `conntrack -L` prints the tuples, for people who know that.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.protocol {
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            1 => "icmp".to_owned(),
            58 => "icmpv6".to_owned(),
            132 => "sctp".to_owned(),
            other => other.to_string(),
        };
        write!(f, "{name} {} {} mark={}", self.original, self.reply, self.mark)
    }
}

impl std::fmt::Display for Tuple {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Tuple { src, dst, src_port, dst_port } = self;
        write!(f, "src={src} dst={dst} sport={src_port} dport={dst_port}")
    }
}

/// Which flows are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    All,
    /// Those of one IP protocol; new kernels (5.8) leave the others out themselves, a family at a time.
    Protocol(u8),
}

#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    #[error("conntrack: cannot {what}: {source}")]
    Socket { what: &'static str, source: io::Error },
    #[error("conntrack: the kernel refuses to {what}: {refused}")]
    Refused { what: &'static str, refused: Refused },
}

const SUBSYSTEM: u16 = 1 << 8;
pub(crate) const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;
pub(crate) const DELETE: u16 = SUBSYSTEM | 2;

/// `CTA_*`.
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOINFO: u16 = 4;
const TIMEOUT: u16 = 7;
const MARK: u16 = 8;
const COUNTERS_ORIGINAL: u16 = 9;
const COUNTERS_REPLY: u16 = 10;
const ID: u16 = 12;
const ZONE: u16 = 18;
const TIMESTAMP: u16 = 20;
const FILTER: u16 = 25;
/// `CTA_TUPLE_*`, `CTA_IP_*`, `CTA_PROTO_*`.
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const PROTO_NUMBER: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
/// `CTA_FILTER_ORIG_FLAGS`, `_REPLY_FLAGS`, and the bit for the protocol's number.
const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;
const FILTER_BY_PROTOCOL: u32 = 1 << 3;
/// `CTA_PROTOINFO_TCP`, `_SCTP`, and the state in each; `CTA_COUNTERS_BYTES`; `CTA_TIMESTAMP_START`.
const PROTOINFO_TCP: u16 = 1;
const PROTOINFO_SCTP: u16 = 3;
const PROTOINFO_STATE: u16 = 1;
const COUNTERS_BYTES: u16 = 2;
const TIMESTAMP_START: u16 = 1;
/// `enum tcp_conntrack` and `enum sctp_conntrack`, as `conntrack -L` prints them.
const TCP_STATES: [&str; 10] = [
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
];
const SCTP_STATES: [&str; 9] = [
    "NONE",
    "CLOSED",
    "COOKIE_WAIT",
    "COOKIE_ECHOED",
    "ESTABLISHED",
    "SHUTDOWN_SENT",
    "SHUTDOWN_RECD",
    "SHUTDOWN_ACK_SENT",
    "HEARTBEAT_SENT",
];

const RECEIVE_BYTES: usize = 1 << 16;
/// Deletions in one send: below the 208 KiB that any socket may send.
const SEND_BYTES: usize = 100_000;

/// A socket to the conntrack table of one network namespace.
pub struct Conntrack {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Conntrack {
    /// In the network namespace of the calling thread.
    pub fn open() -> Result<Conntrack, ConntrackError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.set_cap_ack(true)?;
            socket.set_ext_ack(true)?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket = open().map_err(failed("open the table"))?;
        Ok(Conntrack { socket, sequence: 0, buffer: vec![0; RECEIVE_BYTES] })
    }

    /// Every flow of both families.
    pub fn list(&mut self) -> Result<Vec<Entry>, ConntrackError> {
        let mut entries = Vec::new();
        self.dump(Which::All, |entry, _| entries.push(entry))?;
        Ok(entries)
    }

    /// The flow that `original` began: what its client sent, before any NAT. `None` if there is none. For protocols with
    /// ports, in the default zone. One question and one answer, however long the table is.
    pub fn get(&mut self, protocol: u8, original: &Tuple) -> Result<Option<Entry>, ConntrackError> {
        const WHAT: &str = "look a flow up";
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let mut attributes = Vec::new();
        append_tuple(&mut attributes, TUPLE_ORIGINAL, protocol, original);
        let mut request = Vec::new();
        nfnl::append(&mut request, GET, nfnl::REQUEST, self.sequence, family_of(original), &attributes);
        self.socket.send(&request, 0).map_err(failed(WHAT))?;
        loop {
            let Some(length) = self.receive(0, WHAT)? else { continue };
            for message in nfnl::messages(&self.buffer[..length]).filter(|m| m.sequence() == self.sequence) {
                match message.kind() {
                    NEW => return Ok(entry_of(message)),
                    nfnl::ERROR => match message.answer() {
                        (libc::ENOENT, _) => return Ok(None),
                        (errno, words) => return Err(refused(WHAT, errno, words)),
                    },
                    _ => {}
                }
            }
        }
    }

    /// Puts a flow into the table as a program that restores it would: no packet is sent. For protocols with ports.
    pub fn create(
        &mut self,
        protocol: u8,
        original: &Tuple,
        reply: &Tuple,
        timeout_secs: u32,
    ) -> Result<(), ConntrackError> {
        const WHAT: &str = "make a flow";
        const CREATE_EXCLUSIVE: u16 = 0x400 | 0x200;
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let flags = nfnl::REQUEST | nfnl::ACK | CREATE_EXCLUSIVE;
        let mut request = Vec::new();
        nfnl::append(
            &mut request,
            NEW,
            flags,
            self.sequence,
            family_of(original),
            &creation(protocol, original, reply, timeout_secs),
        );
        self.socket.send(&request, 0).map_err(failed(WHAT))?;
        loop {
            let Some(length) = self.receive(0, WHAT)? else { continue };
            let mut answers = nfnl::messages(&self.buffer[..length]);
            if let Some(answer) = answers.find(|m| m.sequence() == self.sequence && m.kind() == nfnl::ERROR) {
                let (errno, words) = answer.answer();
                return if errno == 0 { Ok(()) } else { Err(refused(WHAT, errno, words)) };
            }
        }
    }

    /// Deletes the flows that `pick` picks; returns how many went. One that ended meanwhile counts not.
    pub fn delete(&mut self, which: Which, mut pick: impl FnMut(&Entry) -> bool) -> Result<usize, ConntrackError> {
        let mut batches: Vec<(usize, Vec<u8>)> = Vec::new();
        self.dump(which, |entry, message| {
            if pick(&entry) {
                if batches.last().is_none_or(|(_, bytes)| bytes.len() >= SEND_BYTES) {
                    batches.push((0, Vec::with_capacity(SEND_BYTES + 512)));
                }
                let (count, bytes) = batches.last_mut().expect("one was pushed where there was none");
                *count += 1;
                append_deletion(bytes, message);
            }
        })?;
        let mut deleted = 0;
        for (count, bytes) in batches {
            deleted += count - self.send_deletions(&bytes)?;
        }
        Ok(deleted)
    }

    /// Returns how many were gone before. The kernel answers within the send, and only what fails.
    fn send_deletions(&mut self, bytes: &[u8]) -> Result<usize, ConntrackError> {
        const WHAT: &str = "delete flows";
        self.socket.send(bytes, 0).map_err(failed(WHAT))?;
        let mut gone = 0;
        while let Some(length) = self.receive(libc::MSG_DONTWAIT, WHAT)? {
            for message in nfnl::messages(&self.buffer[..length]).filter(|m| m.kind() == nfnl::ERROR) {
                match message.answer() {
                    (0, _) => {}
                    (libc::ENOENT, _) => gone += 1,
                    (errno, words) => return Err(refused(WHAT, errno, words)),
                }
            }
        }
        Ok(gone)
    }

    fn dump(&mut self, which: Which, mut see: impl FnMut(Entry, Message<'_>)) -> Result<(), ConntrackError> {
        match which {
            Which::All => self.dump_family(libc::AF_UNSPEC, which, &mut see),
            Which::Protocol(_) => {
                self.dump_family(libc::AF_INET, which, &mut see)?;
                self.dump_family(libc::AF_INET6, which, &mut see)
            }
        }
    }

    fn dump_family(
        &mut self,
        family: i32,
        which: Which,
        see: &mut impl FnMut(Entry, Message<'_>),
    ) -> Result<(), ConntrackError> {
        const WHAT: &str = "list the flows";
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let mut request = Vec::new();
        nfnl::append(&mut request, GET, nfnl::REQUEST | nfnl::DUMP, self.sequence, family as u8, &question(which));
        self.socket.send(&request, 0).map_err(failed(WHAT))?;
        loop {
            let Some(length) = self.receive(0, WHAT)? else { continue };
            for message in nfnl::messages(&self.buffer[..length]).filter(|m| m.sequence() == self.sequence) {
                match message.kind() {
                    nfnl::DONE => return Ok(()),
                    nfnl::ERROR => {
                        let (errno, words) = message.answer();
                        return Err(refused(WHAT, errno, words));
                    }
                    NEW => {
                        if let Some(entry) = entry_of(message).filter(|entry| which.has(entry)) {
                            see(entry, message);
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    fn receive(&mut self, flags: i32, what: &'static str) -> Result<Option<usize>, ConntrackError> {
        loop {
            match self.socket.recv(&mut &mut self.buffer[..], flags) {
                Ok(length) => return Ok(Some(length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ConntrackError::Socket { what, source }),
            }
        }
    }
}

impl Which {
    fn has(self, entry: &Entry) -> bool {
        match self {
            Which::All => true,
            Which::Protocol(number) => entry.protocol == number,
        }
    }
}

pub(crate) fn failed(what: &'static str) -> impl FnOnce(io::Error) -> ConntrackError {
    move |source| ConntrackError::Socket { what, source }
}

fn refused(what: &'static str, errno: i32, words: String) -> ConntrackError {
    ConntrackError::Refused { what, refused: Refused { errno, words } }
}

/// Attributes of a dump's request. Kernels that know no filter pass it over.
fn question(which: Which) -> Vec<u8> {
    let mut attributes = Vec::new();
    if let Which::Protocol(number) = which {
        let (mut proto, mut tuple, mut filter) = (Vec::new(), Vec::new(), Vec::new());
        nfnl::append_attribute(&mut proto, PROTO_NUMBER, &[number]);
        nfnl::append_nested(&mut tuple, TUPLE_PROTO, &proto);
        nfnl::append_nested(&mut attributes, TUPLE_ORIGINAL, &tuple);
        nfnl::append_attribute(&mut filter, FILTER_ORIGINAL, &FILTER_BY_PROTOCOL.to_ne_bytes());
        nfnl::append_attribute(&mut filter, FILTER_REPLY, &0u32.to_ne_bytes());
        nfnl::append_nested(&mut attributes, FILTER, &filter);
    }
    attributes
}

/// Deletes by what the kernel knows a flow by: its original tuple, its zone, and its own number, by which it mostly tells
/// a flow that took the tuple over meanwhile (the number comes of the entry's place in memory).
fn append_deletion(to: &mut Vec<u8>, message: Message<'_>) {
    let mut attributes = Vec::with_capacity(96);
    for (kind, value) in message.attributes() {
        match kind {
            TUPLE_ORIGINAL => nfnl::append_nested(&mut attributes, kind, value),
            ID | ZONE => nfnl::append_attribute(&mut attributes, kind, value),
            _ => {}
        }
    }
    nfnl::append(to, DELETE, nfnl::REQUEST, 0, message.family(), &attributes);
}

fn creation(protocol: u8, original: &Tuple, reply: &Tuple, timeout_secs: u32) -> Vec<u8> {
    let mut attributes = Vec::new();
    append_tuple(&mut attributes, TUPLE_ORIGINAL, protocol, original);
    append_tuple(&mut attributes, TUPLE_REPLY, protocol, reply);
    nfnl::append_attribute(&mut attributes, TIMEOUT, &timeout_secs.to_be_bytes());
    attributes
}

fn family_of(tuple: &Tuple) -> u8 {
    if tuple.src.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

fn append_tuple(to: &mut Vec<u8>, kind: u16, protocol: u8, tuple: &Tuple) {
    let (mut ip, mut proto, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    for (address, [v4, v6]) in [(tuple.src, [1, 3]), (tuple.dst, [2, 4])] {
        match address {
            IpAddr::V4(address) => nfnl::append_attribute(&mut ip, v4, &address.octets()),
            IpAddr::V6(address) => nfnl::append_attribute(&mut ip, v6, &address.octets()),
        }
    }
    nfnl::append_attribute(&mut proto, PROTO_NUMBER, &[protocol]);
    nfnl::append_attribute(&mut proto, PROTO_SRC_PORT, &tuple.src_port.to_be_bytes());
    nfnl::append_attribute(&mut proto, PROTO_DST_PORT, &tuple.dst_port.to_be_bytes());
    nfnl::append_nested(&mut bytes, TUPLE_IP, &ip);
    nfnl::append_nested(&mut bytes, TUPLE_PROTO, &proto);
    nfnl::append_nested(to, kind, &bytes);
}

pub(crate) fn entry_of(message: Message<'_>) -> Option<Entry> {
    let (mut original, mut reply) = (None, None);
    let (mut status, mut mark, mut timeout_secs, mut id) = (0, 0, 0, 0);
    let (mut state, mut began_ns) = (None, None);
    let (mut sent, mut answered) = (None, None);
    for (kind, value) in message.attributes() {
        match kind {
            TUPLE_ORIGINAL => original = tuple_of(value),
            TUPLE_REPLY => reply = tuple_of(value),
            STATUS => status = nfnl::number(value),
            MARK => mark = nfnl::number(value),
            TIMEOUT => timeout_secs = nfnl::number(value),
            ID => id = nfnl::number(value),
            PROTOINFO => state = state_of(value),
            COUNTERS_ORIGINAL => sent = long_in(value, COUNTERS_BYTES),
            COUNTERS_REPLY => answered = long_in(value, COUNTERS_BYTES),
            TIMESTAMP => began_ns = long_in(value, TIMESTAMP_START),
            _ => {}
        }
    }
    let (protocol, original) = original?;
    let (_, reply) = reply?;
    let carried = sent.zip(answered).map(|(original_bytes, reply_bytes)| Carried { original_bytes, reply_bytes });
    Some(Entry { protocol, original, reply, status, mark, timeout_secs, id, state, carried, began_ns })
}

fn state_of(value: &[u8]) -> Option<&'static str> {
    let (kind, info) = Attributes(value).next()?;
    let number = usize::from(*Attributes(info).find(|(kind, _)| *kind == PROTOINFO_STATE)?.1.first()?);
    match kind {
        PROTOINFO_TCP => TCP_STATES.get(number).copied(),
        PROTOINFO_SCTP => SCTP_STATES.get(number).copied(),
        _ => None,
    }
}

/// 64 bits in network order in one of these attributes.
fn long_in(value: &[u8], wanted: u16) -> Option<u64> {
    let (_, value) = Attributes(value).find(|(kind, _)| *kind == wanted)?;
    value.try_into().ok().map(u64::from_be_bytes)
}

fn tuple_of(value: &[u8]) -> Option<(u8, Tuple)> {
    let (mut src, mut dst, mut protocol, mut src_port, mut dst_port) = (None, None, 0, 0, 0);
    for (kind, part) in Attributes(value) {
        match kind {
            TUPLE_IP => {
                for (kind, address) in Attributes(part) {
                    match kind {
                        1 | 3 => src = address_of(address),
                        2 | 4 => dst = address_of(address),
                        _ => {}
                    }
                }
            }
            TUPLE_PROTO => {
                for (kind, value) in Attributes(part) {
                    match kind {
                        PROTO_NUMBER => protocol = value.first().copied().unwrap_or(0),
                        PROTO_SRC_PORT => src_port = nfnl::short(value),
                        PROTO_DST_PORT => dst_port = nfnl::short(value),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some((protocol, Tuple { src: src?, dst: dst?, src_port, dst_port }))
}

fn address_of(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(|bytes| Ipv4Addr::from(bytes).into()),
        16 => <[u8; 16]>::try_from(value).ok().map(|bytes| Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

#[cfg(test)]
#[path = "conntrack_tests.rs"]
mod tests;
