//! nf_tables of one network namespace: a batch goes in whole or not at all, a table comes out as messages.
//!
//! ```text
//!  bytes of a batch ──► Nft::transact ──► kernel      dump ◄── tables, chains, sets, rules, elements
//!  nft_monitor::NftMonitor ◄── what anybody changed
//! ```
//!
//! What the bytes say is the planners' affair. The kernel works through a batch within the send itself, so all answers
//! wait when it returns. Spec: `nfnetlink.h` (batches), `nf_tables.h`.

use std::collections::HashSet;
use std::io;
use std::os::fd::AsRawFd;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use crate::iptables::Family;
use crate::nfnl::{self, Attributes, Message};
pub use crate::nlsock::Refused as Answer;

const SUBSYSTEM: u16 = 10;
const GET_TABLE: u8 = 1;
pub(crate) const GET_CHAIN: u8 = 4;
pub(crate) const GET_RULE: u8 = 7;
const NEW_SET: u8 = 9;
const GET_SET: u8 = 10;
const GET_SETELEM: u8 = 13;
const GET_GENERATION: u8 = 16;

/// The table's name is the first attribute of every kind of object; the second is a set's own name.
const TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS_LIST: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const GENERATION_ID: u16 = 1;
/// `NFT_SET_EVAL`: rules fill it.
const SET_BY_RULES: u32 = 0x20;

/// Longest datagram of a dump, and then some.
const RECEIVE_BYTES: usize = 1 << 17;
/// Room for the answers to a batch in which every message is wrong, and for what a dump sends ahead.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
/// Dumps that others' changes broke into, before it is said.
const TRIES: usize = 100;
const TRIES_WHILE_RULES_FILL: usize = 4;

/// The kernel refused a batch: nothing of it was carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Sequence number of the first message that was refused, less one: the step. `None`: the batch as a whole.
    pub step: Option<usize>,
    /// Positive errno.
    pub errno: i32,
    /// The kernel's own words (extended acknowledgement), empty if it gave none.
    pub words: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.step {
            Some(step) => write!(f, "step {step} of the transaction: ")?,
            None => write!(f, "the transaction: ")?,
        }
        write!(f, "{}", Answer { errno: self.errno, words: self.words.clone() })
    }
}

impl std::error::Error for Refused {}

#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("nf_tables socket: {step}: {source}")]
    Socket { step: &'static str, source: io::Error },
    #[error("nf_tables refuses {0}")]
    Refused(Refused),
    #[error("nf_tables: cannot read {what}: {answer}")]
    Read { what: String, answer: Answer },
    #[error("a transaction of {bytes} bytes does not fit the socket's {room}: send it in parts, or as root")]
    TooLong { bytes: usize, room: usize },
    #[error("nf_tables: the rules changed each of {TRIES} times that they were read")]
    Changing,
}

/// A socket to nf_tables of one network namespace.
pub struct Nft {
    socket: Socket,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
    /// Longest batch that the socket takes so far.
    room: usize,
}

impl Nft {
    /// In the network namespace of the calling thread.
    pub fn open() -> Result<Nft, NftError> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed("open"))?;
        let port = socket.bind_auto().map_err(failed("bind"))?.port_number();
        socket.set_cap_ack(true).map_err(failed("set NETLINK_CAP_ACK"))?;
        socket.set_ext_ack(true).map_err(failed("set NETLINK_EXT_ACK"))?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed("connect"))?;
        grow(&socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER_BYTES).map_err(failed("grow"))?;
        let room = send_room(&socket).map_err(failed("ask for its size"))?;
        Ok(Nft { socket, port, sequence: 0, buffer: vec![0; RECEIVE_BYTES], room })
    }

    /// Its netlink port: by it a monitor knows our own changes.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Carries out a batch (begin, messages, end): all of it or nothing. No bytes are nothing to do.
    ///
    /// The batch's last message must ask for an acknowledgement. An `Err` other than `Refused` leaves unknown what
    /// happened only if it comes from receiving; then the table is to be read again.
    pub fn transact(&mut self, batch: &[u8]) -> Result<(), NftError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.make_room(batch.len())?;
        let sent = self.socket.send(batch, 0).map_err(failed("send"))?;
        if sent != batch.len() {
            return Err(failed("send")(io::ErrorKind::WriteZero.into()));
        }
        let mut first: Option<(u32, i32, String)> = None;
        let mut acknowledged = false;
        while let Some(length) = self.receive(libc::MSG_DONTWAIT)? {
            for message in nfnl::messages(&self.buffer[..length]).filter(|m| m.kind() == nfnl::ERROR) {
                match message.answer() {
                    (0, _) => acknowledged = true,
                    (errno, words) if first.as_ref().is_none_or(|(seq, ..)| message.sequence() < *seq) => {
                        first = Some((message.sequence(), errno, words));
                    }
                    _ => {}
                }
            }
        }
        match first {
            Some((sequence, errno, words)) => {
                Err(NftError::Refused(Refused { step: (sequence as usize).checked_sub(1), errno, words }))
            }
            None if acknowledged => Ok(()),
            None => Err(failed("receive the answer")(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// A table with all that is in it, as the kernel's messages: table, chains, sets, rules, elements. Empty if there is no such table.
    ///
    /// All of one moment: where somebody changes something meanwhile, or the kernel moves elements, it is read again. Elements of sets that rules
    /// fill are left out ([`Nft::elements`]).
    pub fn dump(&mut self, family: Family, table: &str) -> Result<Vec<Vec<u8>>, NftError> {
        for _ in 0..TRIES {
            let before = self.generation()?;
            let Some(all) = self.try_dump(family, table)? else { continue };
            if self.generation()? == before {
                return Ok(all);
            }
        }
        Err(NftError::Changing)
    }

    /// The elements of one set, as the kernel's messages; empty if there is no such set.
    ///
    /// Of a set that rules fill all the time no dump is of one moment: after a few tries what came is taken, with some
    /// elements told twice and some not told.
    pub fn elements(&mut self, family: Family, table: &str, set: &str) -> Result<Vec<Vec<u8>>, NftError> {
        for _ in 1..TRIES_WHILE_RULES_FILL {
            if let Some(messages) = self.try_elements(family, table, set)? {
                return Ok(messages);
            }
        }
        Ok(self.ask_elements(family, table, set)?.unwrap_or_default())
    }

    /// Counts transactions of the namespace, everybody's.
    pub fn generation(&mut self) -> Result<u32, NftError> {
        let messages = self.ask(GET_GENERATION, nfnl::ACK, 0, &[], "the generation")?.unwrap_or_default();
        let id = messages.iter().flat_map(|bytes| nfnl::messages(bytes)).find_map(|message| {
            message.attributes().find(|(kind, _)| *kind == GENERATION_ID).map(|(_, value)| nfnl::number(value))
        });
        Ok(id.unwrap_or(0))
    }

    /// `None`: a change broke into it.
    fn try_dump(&mut self, family: Family, table: &str) -> Result<Option<Vec<Vec<u8>>>, NftError> {
        let named = attribute(TABLE, table);
        let number = family_number(family);
        let mut all = self.ask(GET_TABLE, nfnl::ACK, number, &named, table)?.unwrap_or_default();
        if all.is_empty() {
            return Ok(Some(all));
        }
        for kind in [GET_CHAIN, GET_SET, GET_RULE] {
            let Some(mut messages) = self.ask(kind, nfnl::DUMP, number, &named, table)? else { return Ok(None) };
            messages.retain(|bytes| nfnl::messages(bytes).any(|message| names(message, table)));
            all.append(&mut messages);
        }
        for set in filled_by_us(&all) {
            let Some(mut messages) = self.try_elements(family, table, &set)? else { return Ok(None) };
            all.append(&mut messages);
        }
        Ok(Some(all))
    }

    fn try_elements(&mut self, family: Family, table: &str, set: &str) -> Result<Option<Vec<Vec<u8>>>, NftError> {
        let messages = self.ask_elements(family, table, set)?;
        Ok(messages.filter(|messages| each_is_once(messages)))
    }

    fn ask_elements(&mut self, family: Family, table: &str, set: &str) -> Result<Option<Vec<Vec<u8>>>, NftError> {
        let mut named = attribute(TABLE, table);
        named.extend(attribute(ELEMENTS_SET, set));
        self.ask(GET_SETELEM, nfnl::DUMP, family_number(family), &named, set)
    }

    /// A dump of one moment.
    pub(crate) fn ask_until_whole(
        &mut self,
        kind: u8,
        family: u8,
        attributes: &[u8],
        what: &str,
    ) -> Result<Vec<Vec<u8>>, NftError> {
        for _ in 0..TRIES {
            if let Some(found) = self.ask(kind, nfnl::DUMP, family, attributes, what)? {
                return Ok(found);
            }
        }
        Err(NftError::Changing)
    }

    /// One question. `None`: a change broke into the answer. What is not there is an empty answer.
    fn ask(
        &mut self,
        kind: u8,
        flags: u16,
        family: u8,
        attributes: &[u8],
        what: &str,
    ) -> Result<Option<Vec<Vec<u8>>>, NftError> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let mut request = Vec::new();
        let kind = SUBSYSTEM << 8 | u16::from(kind);
        nfnl::append(&mut request, kind, nfnl::REQUEST | flags, self.sequence, family, attributes);
        self.socket.send(&request, 0).map_err(failed("send"))?;
        let mut found = Vec::new();
        let mut interrupted = false;
        loop {
            let Some(length) = self.receive(0)? else { continue };
            for message in nfnl::messages(&self.buffer[..length]).filter(|m| m.sequence() == self.sequence) {
                interrupted |= message.flags() & nfnl::DUMP_INTERRUPTED != 0;
                match message.kind() {
                    nfnl::DONE => return Ok((!interrupted).then_some(found)),
                    nfnl::ERROR => return ended(message, what, found),
                    _ => found.push(message.bytes().to_vec()),
                }
            }
        }
    }

    fn receive(&mut self, flags: i32) -> Result<Option<usize>, NftError> {
        loop {
            let mut room = &mut self.buffer[..];
            match self.socket.recv(&mut room, flags) {
                Ok(length) => return Ok(Some(length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("receive")(error)),
            }
        }
    }

    fn make_room(&mut self, bytes: usize) -> Result<(), NftError> {
        if bytes <= self.room {
            return Ok(());
        }
        let wanted = bytes + bytes / 8;
        grow(&self.socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, wanted).map_err(failed("grow"))?;
        self.room = send_room(&self.socket).map_err(failed("ask for its size"))?;
        match bytes <= self.room {
            true => Ok(()),
            false => Err(NftError::TooLong { bytes, room: self.room }),
        }
    }
}

/// An error ends an answer: with code 0 a good one, and what is not there is an empty one.
fn ended(message: Message<'_>, what: &str, found: Vec<Vec<u8>>) -> Result<Option<Vec<Vec<u8>>>, NftError> {
    match message.answer() {
        (0, _) => Ok(Some(found)),
        (libc::ENOENT, _) => Ok(Some(Vec::new())),
        (libc::EINTR, _) => Ok(None),
        (errno, words) => Err(NftError::Read { what: what.to_owned(), answer: Answer { errno, words } }),
    }
}

fn names(message: Message<'_>, table: &str) -> bool {
    message.attributes().any(|(kind, value)| kind == TABLE && nfnl::text(value) == table)
}

/// Names of the sets in a dump, without those that rules fill.
fn filled_by_us(dump: &[Vec<u8>]) -> Vec<String> {
    let sets = dump.iter().flat_map(|bytes| nfnl::messages(bytes));
    let sets = sets.filter(|message| message.kind() == SUBSYSTEM << 8 | u16::from(NEW_SET));
    let ours = sets.filter(|message| {
        !message.attributes().any(|(kind, value)| kind == SET_FLAGS && nfnl::number(value) & SET_BY_RULES != 0)
    });
    ours.filter_map(|message| message.attributes().find(|(kind, _)| *kind == SET_NAME))
        .map(|(_, name)| nfnl::text(name))
        .collect()
}

/// The kernel goes through a set's hash table anew for each message of a dump and passes over as many elements as it
/// has told already. Where it grows the table meanwhile, which it does for a while after many came in, the order is
/// another: as many elements are told twice as are left out, and no flag says so (seen with Linux 6.18).
fn each_is_once(messages: &[Vec<u8>]) -> bool {
    let lists = messages.iter().flat_map(|bytes| nfnl::messages(bytes)).flat_map(|message| message.attributes());
    let items = lists.filter(|(kind, _)| *kind == ELEMENTS_LIST).flat_map(|(_, list)| Attributes(list));
    let mut keys = items.filter_map(|(_, item)| Attributes(item).find(|(kind, _)| *kind == ELEMENT_KEY));
    let mut seen = HashSet::new();
    keys.all(|(_, key)| seen.insert(key))
}

fn attribute(kind: u16, text: &str) -> Vec<u8> {
    let mut value = text.as_bytes().to_vec();
    value.push(0);
    let mut bytes = Vec::new();
    nfnl::append_attribute(&mut bytes, kind, &value);
    bytes
}

fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => libc::NFPROTO_IPV4 as u8,
        Family::V6 => libc::NFPROTO_IPV6 as u8,
    }
}

/// Sets a buffer's size, past the machine's limit where that is allowed.
pub(crate) fn grow(socket: &Socket, force: i32, ordinary: i32, bytes: usize) -> io::Result<()> {
    let bytes = i32::try_from(bytes).unwrap_or(i32::MAX / 2);
    set_option(socket, force, &bytes).or_else(|_| set_option(socket, ordinary, &bytes))
}

/// Sets a `SOL_SOCKET` option.
pub(crate) fn set_option<T>(socket: &Socket, option: i32, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and the length are those of one live value, which the kernel only reads.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const *value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The longest datagram that the kernel takes: its own bookkeeping aside.
fn send_room(socket: &Socket) -> io::Result<usize> {
    const KEPT_BY_KERNEL: usize = 32;
    let mut bytes: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    let target = (&raw mut bytes).cast();
    // SAFETY: both pointers are to live values of the sizes given.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, target, &raw mut length) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(bytes).unwrap_or(0).saturating_sub(KEPT_BY_KERNEL))
}

pub(crate) fn failed(step: &'static str) -> impl FnOnce(io::Error) -> NftError {
    move |source| NftError::Socket { step, source }
}
