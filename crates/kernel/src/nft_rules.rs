//! Rules that come and go, everybody's: who knows a rule by its number must hear of it before the number means nothing.
//!
//! The kernel tells of a transaction's rules in the order in which they stood in their chain, once the transaction is done.
//! Numbers are never given twice in a table. Spec: `nf_tables.h` (`NFT_MSG_NEWRULE`, `NFT_MSG_DELRULE`), nfnetlink group
//! `NFNLGRP_NFTABLES`.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use crate::nfnl::{self, Message};
use crate::nft::{NftError, failed, grow};

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;
const NEW_RULE: u16 = 10 << 8 | 6;
const DELETE_RULE: u16 = 10 << 8 | 8;
const NEW_GENERATION: u16 = 10 << 8 | 15;
/// `NFTA_RULE_*`.
const TABLE: u16 = 1;
const CHAIN: u16 = 2;
const HANDLE: u16 = 3;

const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
const RECEIVE_BYTES: usize = 1 << 17;

/// A rule that came, or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleChange {
    /// `NFPROTO_*` of the table.
    pub family: u8,
    pub table: String,
    pub chain: String,
    /// The kernel's number of it.
    pub handle: u64,
    /// It came; else it went.
    pub came: bool,
}

/// A non-blocking socket; readable when changes wait.
pub struct RuleWatch {
    socket: Socket,
    /// Of transactions whose end has not come yet, by netlink port.
    open: BTreeMap<u32, Vec<RuleChange>>,
}

impl RuleWatch {
    /// Listens in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel gives no such socket.
    pub fn open() -> Result<Self, NftError> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed("open"))?;
        grow(&socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER_BYTES).map_err(failed("grow"))?;
        socket.bind(&SocketAddr::new(0, 0)).map_err(failed("bind"))?;
        socket.add_membership(GROUP).map_err(failed("join the group of nf_tables"))?;
        socket.set_non_blocking(true).map_err(failed("set non-blocking"))?;
        Ok(Self { socket, open: BTreeMap::new() })
    }

    /// The transactions that wait now, each with the rules that it took out and put in, in order. What was lost
    /// (`ENOBUFS`) is not told of. Never blocks.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn read(&mut self) -> Result<Vec<Vec<RuleChange>>, NftError> {
        let mut transactions = Vec::new();
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            match self.socket.recv(&mut &mut buffer[..], 0) {
                Ok(length) => transactions.extend(nfnl::messages(&buffer[..length]).filter_map(|m| self.take(m))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(transactions),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.open.clear(),
                Err(error) => return Err(failed("receive")(error)),
            }
        }
    }

    /// A whole transaction, at its end.
    fn take(&mut self, message: Message<'_>) -> Option<Vec<RuleChange>> {
        match message.kind() {
            NEW_GENERATION => self.open.remove(&message.port()),
            NEW_RULE | DELETE_RULE => {
                let change = change_of(message)?;
                self.open.entry(message.port()).or_default().push(change);
                None
            }
            _ => None,
        }
    }
}

fn change_of(message: Message<'_>) -> Option<RuleChange> {
    let find = |wanted| message.attributes().find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    Some(RuleChange {
        family: message.family(),
        table: nfnl::text(find(TABLE)?),
        chain: nfnl::text(find(CHAIN)?),
        handle: find(HANDLE)?.try_into().ok().map(u64::from_be_bytes)?,
        came: message.kind() == NEW_RULE,
    })
}

impl AsFd for RuleWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns;
    use crate::nft::Nft;
    use crate::trap::{Trap, Watched};

    #[test]
    fn rules_that_came_are_told_in_the_order_of_their_chain() {
        let made = netns::create().unwrap();
        let (told, seen) = netns::run_in(made.as_fd(), || {
            let mut watch = RuleWatch::open().unwrap();
            let _trap = Trap::arm("ptl-t-rules", &Watched::Sequence(7)).unwrap();
            let seen = Nft::open().unwrap().rules_of(2, "ptl-t-rules", "enter-output").unwrap();
            (watch.read().unwrap().concat(), seen)
        })
        .unwrap();
        let told: Vec<u64> = told
            .iter()
            .filter(|change| change.came && change.family == 2 && change.chain == "enter-output")
            .map(|change| change.handle)
            .collect();
        assert!(!told.is_empty());
        assert_eq!(told, seen.iter().map(|rule| rule.handle).collect::<Vec<_>>());
    }
}
