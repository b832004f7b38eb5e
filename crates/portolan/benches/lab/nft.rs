//! Hears of each rule that a node's kernel takes, at the moment it does.
//!
//! ```text
//!  iptables-restore ──commit──► nf_tables ──NFT_MSG_NEWRULE──► our socket in the node's namespace ──► Log
//! ```
//!
//! The kernel sends a rule's notification after the commit that made it active, so a timestamp at its arrival is late
//! by one wake-up of a thread and never early. Polling would cost a dump of the table each time. Works for iptables
//! of the nf_tables kind only. Spec: `linux/netfilter/nf_tables.h`, netlink(7).

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use crate::Outcome;
use crate::sight::Log;

/// The multicast group NFNLGRP_NFTABLES (7) as a bit of `nl_groups`.
const NFTABLES_GROUP: u32 = 1 << 6;
/// NFNL_SUBSYS_NFTABLES (10) and NFT_MSG_NEWRULE (6), as in `nlmsg_type`.
const NEW_RULE: u16 = 10 << 8 | 6;
/// Length of `struct nlmsghdr`.
const HEADER_LEN: usize = 16;
/// A thousand Services are some thousand notifications in one commit.
const RECEIVE_BUFFER_BYTES: usize = 64 << 20;
const CHECK_FOR_END: Duration = Duration::from_millis(100);

/// Listens in one network namespace until dropped.
pub struct RuleEvents {
    log: Arc<Log<Vec<u8>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl RuleEvents {
    pub fn listen(netns: &OwnedFd) -> Outcome<Self> {
        let socket = portolan_kernel::netns::run_in(netns.as_fd(), open)??;
        let (log, over) = (Arc::new(Log::new()), Arc::new(AtomicBool::new(false)));
        let (to_log, is_over) = (log.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 20];
            while !is_over.load(Ordering::Relaxed) {
                // A timeout, or notifications that were lost: whoever waits for one of those gives up by himself.
                let Ok((length, _)) = recv(&socket, &mut buffer[..], RecvFlags::empty()) else { continue };
                let at = Instant::now();
                new_rules(&buffer[..length]).for_each(|rule| to_log.push(at, rule.to_vec()));
            }
        });
        Ok(Self { log, over, thread: Some(thread) })
    }

    pub fn forget(&self) {
        self.log.forget();
    }

    /// When the first rule that holds `address` became active.
    pub fn first_with(&self, address: Ipv4Addr) -> Outcome<Instant> {
        let wanted = address.octets();
        let holds = |rule: &Vec<u8>| rule.windows(wanted.len()).any(|bytes| bytes == wanted).then_some(());
        Ok(self.log.wait(&format!("a rule with {address}"), holds)?.0)
    }
}

impl Drop for RuleEvents {
    /// The socket keeps the namespace alive, so it must be gone when the lab goes.
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn open() -> rustix::io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER))?;
    set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(CHECK_FOR_END))?;
    bind(&socket, &SocketAddrNetlink::new(0, NFTABLES_GROUP))?;
    Ok(socket)
}

/// The messages of a datagram that tell of a new rule.
fn new_rules(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        loop {
            let header = bytes.get(..HEADER_LEN)?;
            let length = u32::from_ne_bytes(header[..4].try_into().expect("four bytes")) as usize;
            let kind = u16::from_ne_bytes(header[4..6].try_into().expect("two bytes"));
            let message = bytes.get(HEADER_LEN..length)?;
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
            if kind == NEW_RULE {
                return Some(message);
            }
        }
    })
}
