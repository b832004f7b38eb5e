//! UDP for a server: many datagrams a call, by which link each came and at which address, several sockets on one port.
//!
//! ```text
//!  Socket::bind ──► Inbox::receive (recvmmsg) ──► bytes, from, local, link
//!                        │ place in the inbox
//!                        ▼
//!                   Outbox: reply ──► send (sendmmsg), from the address that was asked
//! ```
//!
//! Buffers are made once; no call allocates. Sockets never block: who waits, polls. Knows nothing of what it carries.
//!
//! Spec: recvmmsg(2), sendmmsg(2), ip(7) for IP_PKTINFO, RFC 3542 §4.2 for IPv6's, socket(7) for SO_REUSEPORT.

mod addr;
mod batch;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use addr::{Control, RawAddr};

pub use batch::{BATCH, Datagram, Inbox, LONGEST, Outbox, Sent};

/// Bytes of queue asked for in each direction: the default of 208 KiB holds a burst of some 280 small datagrams.
const BUFFER_BYTES: i32 = 4 * 1024 * 1024;

/// A UDP socket at a fixed address; it never blocks.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    local: SocketAddr,
}

impl Socket {
    /// Binds `addr` in the network namespace of the calling thread. Other sockets of this user may share the port if they
    /// were bound by this function too: the kernel spreads clients over them. `[::]` takes IPv4 as well.
    ///
    /// # Errors
    /// The kernel's answer; `AddrInUse` if a socket is there that does not share.
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        let family = if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers.
        let raw = unsafe { libc::socket(family, kind, 0) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        set(raw, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        // What a server of small datagrams sends passes every path whole: no fragments, whatever an ICMP message claims of
        // the path, which anybody can forge. It spares the kernel the numbering of fragments and its notes on paths, 2 % of
        // the time of a reply.
        set(raw, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
        match addr {
            SocketAddr::V4(_) => set(raw, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?,
            SocketAddr::V6(_) => {
                set(raw, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
                set(raw, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)?;
                set(raw, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
            }
        }
        enlarge(raw);
        let name = RawAddr::of(addr);
        // SAFETY: the name is whole, with its true length, and outlives the call.
        if unsafe { libc::bind(raw, name.as_ptr(), name.len()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let local = addr::local(raw)?;
        Ok(Self { fd, local })
    }

    /// Where it is bound, with the port that the kernel chose if none was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Sends one datagram. `from` is the address of ours that it shall come from: it matters where the socket is bound to
    /// all addresses, and must then be the one that the client asked.
    ///
    /// # Errors
    /// The kernel's answer; `WouldBlock` if its queue is full.
    pub fn send(&self, bytes: &[u8], to: SocketAddr, from: IpAddr) -> io::Result<()> {
        let mut name = RawAddr::of(self.as_spoken(to));
        let mut control = Control::source(from, self.local.is_ipv6());
        let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        // SAFETY: all zeroes is a valid msghdr.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_name = name.as_mut_ptr().cast();
        header.msg_namelen = name.len();
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        if self.is_everywhere() {
            header.msg_control = control.as_mut_ptr();
            header.msg_controllen = control.len() as _;
        }
        // SAFETY: the header's pointers are to locals and to `bytes`, which the call only reads.
        match unsafe { libc::sendmsg(self.fd.as_raw_fd(), &raw const header, 0) } {
            sent if sent < 0 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// Datagrams that the kernel threw away since the socket was made, because its queue was full.
    pub fn drops(&self) -> u32 {
        let mut figures = [0u32; libc::SK_MEMINFO_DROPS as usize + 1];
        let mut length = size_of_val(&figures) as libc::socklen_t;
        // SAFETY: the array is ours, with its true length.
        let got = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                figures.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        // Only a kernel before 4.12 does not know it.
        if got == 0 { figures[libc::SK_MEMINFO_DROPS as usize] } else { 0 }
    }

    /// Bound to all addresses: the kernel must be told which of ours a reply is from.
    fn is_everywhere(&self) -> bool {
        self.local.ip().is_unspecified()
    }

    /// An IPv4 address as a socket of IPv6 writes it.
    fn as_spoken(&self, addr: SocketAddr) -> SocketAddr {
        match (self.local, addr) {
            (SocketAddr::V6(_), SocketAddr::V4(v4)) => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
            _ => addr,
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Asks for large queues, past the machine's limit where we may. What is refused leaves the queue smaller.
fn enlarge(fd: RawFd) {
    for (forced, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
        if set(fd, libc::SOL_SOCKET, forced, BUFFER_BYTES).is_err() {
            let _ = set(fd, libc::SOL_SOCKET, plain, BUFFER_BYTES);
        }
    }
}

fn set(fd: RawFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the value outlives the call, with its true length.
    let done = unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), size_of::<i32>() as u32) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
