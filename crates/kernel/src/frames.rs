//! Frames of one link, of one protocol: read and sent as they are, past the kernel's own stack.
//!
//! ```text
//!  link ──► Frames::receive: payload, sender's MAC       Groups: multicast that the link is to hear
//!  link ◄── Frames::send: payload, to a MAC
//! ```
//!
//! Neighbour questions are heard here also when they ask for an address that no interface has. The kernel goes on doing
//! with each frame what it does without us. Spec: packet(7), socket(7) for the filter, RFC 3493 §5.2 for groups.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// More than an Ethernet frame of ours holds; what is longer is cut, and is no neighbour question.
const LONGEST: usize = 1600;

/// Which frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// ARP.
    Arp,
    /// IPv6 packets whose first header is a Neighbour Solicitation; others never leave the kernel.
    NeighbourSolicitation,
}

#[derive(Debug, thiserror::Error)]
#[error("packet socket: {step}: {source}")]
pub struct FramesError {
    pub step: &'static str,
    pub source: io::Error,
}

fn failed(step: &'static str) -> FramesError {
    FramesError { step, source: io::Error::last_os_error() }
}

/// A non-blocking packet socket on one link of the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Frames {
    fd: OwnedFd,
    index: u32,
    protocol: Protocol,
}

impl Protocol {
    fn ethertype(self) -> u16 {
        let number = match self {
            Protocol::Arp => libc::ETH_P_ARP,
            Protocol::NeighbourSolicitation => libc::ETH_P_IPV6,
        };
        u16::try_from(number).expect("an EtherType has two bytes")
    }
}

impl Frames {
    /// Needs CAP_NET_RAW.
    pub fn open(index: u32, protocol: Protocol) -> Result<Frames, FramesError> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers. Protocol 0: nothing is received until the filter stands and the link is bound.
        let raw = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if raw < 0 {
            return Err(failed("open"));
        }
        // SAFETY: just opened, owned by nobody else.
        let frames = Frames { fd: unsafe { OwnedFd::from_raw_fd(raw) }, index, protocol };
        if protocol == Protocol::NeighbourSolicitation {
            frames.attach(&solicitations())?;
        }
        let address = frames.address([0; 6], 0);
        // SAFETY: the address is a whole sockaddr_ll and outlives the call.
        let bound = unsafe { libc::bind(raw, (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32) };
        if bound == 0 { Ok(frames) } else { Err(failed("bind")) }
    }

    /// The next frame's payload and its sender's MAC; `None` if none waits. Frames of this host itself are left out.
    pub fn receive(&self) -> io::Result<Option<(Vec<u8>, [u8; 6])>> {
        let mut payload = vec![0; LONGEST];
        loop {
            // SAFETY: all zeroes is a valid sockaddr_ll.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            // SAFETY: buffer and address are ours, with their true lengths.
            let read = unsafe {
                libc::recvfrom(
                    self.fd.as_raw_fd(),
                    payload.as_mut_ptr().cast(),
                    payload.len(),
                    0,
                    (&raw mut from).cast(),
                    &raw mut length,
                )
            };
            match usize::try_from(read) {
                Err(_) => {
                    let error = io::Error::last_os_error();
                    return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
                }
                Ok(_) if from.sll_pkttype == libc::PACKET_OUTGOING => {}
                Ok(read) => {
                    payload.truncate(read);
                    let [a, b, c, d, e, f, ..] = from.sll_addr;
                    return Ok(Some((payload, [a, b, c, d, e, f])));
                }
            }
        }
    }

    pub fn send(&self, to: [u8; 6], payload: &[u8]) -> io::Result<()> {
        let address = self.address(to, 6);
        // SAFETY: payload and address outlive the call, with their true lengths.
        let sent = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                payload.as_ptr().cast(),
                payload.len(),
                0,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn address(&self, mac: [u8; 6], length: u8) -> libc::sockaddr_ll {
        // SAFETY: all zeroes is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = self.protocol.ethertype().to_be();
        address.sll_ifindex = self.index.cast_signed();
        address.sll_halen = length;
        address.sll_addr[..6].copy_from_slice(&mac);
        address
    }

    fn attach(&self, code: &[libc::sock_filter]) -> Result<(), FramesError> {
        let program = libc::sock_fprog {
            len: u16::try_from(code.len()).expect("a few instructions"),
            // The kernel copies it and writes nothing.
            filter: code.as_ptr().cast_mut(),
        };
        set(self.fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program, "attach the filter")
    }
}

impl AsFd for Frames {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Frames {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Classic BPF over an IPv6 packet: next header 58 at byte 6, ICMPv6 type 135 at byte 40.
fn solicitations() -> [libc::sock_filter; 6] {
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    [
        step(LOAD_BYTE, 0, 0, 6),
        step(JUMP_EQUAL, 0, 3, 58),
        step(LOAD_BYTE, 0, 0, 40),
        step(JUMP_EQUAL, 0, 1, 135),
        step(RETURN, 0, 0, u32::MAX),
        step(RETURN, 0, 0, 0),
    ]
}

/// Multicast groups of IPv6 that a link listens to; they end with this.
#[derive(Debug)]
pub struct Groups {
    fd: OwnedFd,
    index: u32,
    joined: BTreeSet<Ipv6Addr>,
}

impl Groups {
    /// Fails where the kernel has no IPv6.
    pub fn open(index: u32) -> Result<Groups, FramesError> {
        // SAFETY: no pointers.
        let raw = unsafe { libc::socket(libc::AF_INET6, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if raw < 0 {
            return Err(failed("open a socket for groups"));
        }
        // SAFETY: just opened, owned by nobody else.
        Ok(Groups { fd: unsafe { OwnedFd::from_raw_fd(raw) }, index, joined: BTreeSet::new() })
    }

    /// Listens to exactly these from now on; switches hear of it by MLD. What fails is tried again at the next call.
    pub fn listen_to(&mut self, wanted: &BTreeSet<Ipv6Addr>) -> Result<(), FramesError> {
        for group in self.joined.difference(wanted).copied().collect::<Vec<_>>() {
            self.joined.remove(&group);
            self.change(libc::IPV6_DROP_MEMBERSHIP, group, "leave a group")?;
        }
        for group in wanted.difference(&self.joined).copied().collect::<Vec<_>>() {
            self.change(libc::IPV6_ADD_MEMBERSHIP, group, "join a group")?;
            self.joined.insert(group);
        }
        Ok(())
    }

    fn change(&self, option: i32, group: Ipv6Addr, step: &'static str) -> Result<(), FramesError> {
        let request = libc::ipv6_mreq {
            ipv6mr_multiaddr: libc::in6_addr { s6_addr: group.octets() },
            ipv6mr_interface: self.index,
        };
        set(self.fd.as_raw_fd(), libc::IPPROTO_IPV6, option, &request, step)
    }
}

fn set<T>(fd: RawFd, level: i32, option: i32, value: &T, step: &'static str) -> Result<(), FramesError> {
    // SAFETY: the value is whole and outlives the call.
    let done = unsafe { libc::setsockopt(fd, level, option, (&raw const *value).cast(), size_of::<T>() as u32) };
    if done == 0 { Ok(()) } else { Err(failed(step)) }
}
