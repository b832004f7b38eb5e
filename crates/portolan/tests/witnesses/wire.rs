//! A packet socket over all links of a network namespace: which of a connection's first packets crossed which link.
//!
//! Spec: packet(7); RFC 9293 §3.1.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use portolan_kernel::{Netlink, netns};

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// One packet on one link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crossing {
    pub link: String,
    pub leaves: bool,
    pub src: SocketAddr,
    pub dst: SocketAddr,
}

/// The socket.
pub struct Wire {
    fd: OwnedFd,
    links: Vec<(i32, String)>,
}

impl Wire {
    /// Looks at every link of the namespace from now on.
    pub fn open(home: &OwnedFd) -> Wire {
        netns::run_in(home.as_fd(), || {
            let links = Netlink::open().expect("netlink").links().expect("links");
            let everything = i32::from((libc::ETH_P_ALL as u16).to_be());
            let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            // SAFETY: plain system calls; the descriptor is owned from its making on.
            let fd = unsafe {
                let fd = libc::socket(libc::AF_PACKET, kind, everything);
                assert!(fd >= 0, "{}", std::io::Error::last_os_error());
                OwnedFd::from_raw_fd(fd)
            };
            let links = links.into_iter().map(|link| (link.index.cast_signed(), link.name)).collect();
            Wire { fd, links }
        })
        .expect("in the node's namespace")
    }

    /// SYNs with this number, and what acknowledges the next one with SYN or RST, since it was opened.
    pub fn crossings(&mut self, number: u32) -> Vec<Crossing> {
        let mut all = Vec::new();
        let mut packet = [0u8; 128];
        loop {
            // SAFETY: zeros are a valid address; the kernel writes no more than the lengths given.
            let (length, from) = unsafe {
                let mut from: libc::sockaddr_ll = std::mem::zeroed();
                let mut size = size_of::<libc::sockaddr_ll>() as u32;
                let target = (&raw mut from).cast();
                let fd = self.fd.as_raw_fd();
                (libc::recvfrom(fd, packet.as_mut_ptr().cast(), packet.len(), 0, target, &raw mut size), from)
            };
            let Ok(length) = usize::try_from(length) else { return all };
            let Some((src, dst)) = first_packet(&packet[..length], number) else { continue };
            let link = self.links.iter().find(|(index, _)| *index == from.sll_ifindex);
            let link = link.map(|(_, name)| name.clone()).expect("a link of the node");
            let crossing = Crossing { link, leaves: from.sll_pkttype == libc::PACKET_OUTGOING, src, dst };
            if !all.contains(&crossing) {
                all.push(crossing);
            }
        }
    }
}

fn first_packet(packet: &[u8], number: u32) -> Option<(SocketAddr, SocketAddr)> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let (ip, tcp) = (packet.get(..header)?, packet.get(header..)?);
    if ip.first()? >> 4 != 4 || *ip.get(9)? != 6 {
        return None;
    }
    let word = |at: usize| Some(u32::from_be_bytes(tcp.get(at..at + 4)?.try_into().ok()?));
    let flags = *tcp.get(13)?;
    let is_first = flags & (SYN | ACK) == SYN && word(4)? == number;
    let is_answer = flags & (SYN | RST) != 0 && flags & ACK != 0 && word(8)? == number.wrapping_add(1);
    let end = |ip_at: usize, port_at: usize| {
        let ip: [u8; 4] = ip.get(ip_at..ip_at + 4)?.try_into().ok()?;
        let port: [u8; 2] = tcp.get(port_at..port_at + 2)?.try_into().ok()?;
        Some(SocketAddr::from((Ipv4Addr::from(ip), u16::from_be_bytes(port))))
    };
    (is_first || is_answer).then_some((end(12, 0)?, end(16, 2)?))
}
