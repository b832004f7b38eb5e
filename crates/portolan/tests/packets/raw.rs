//! Sockets below the standard library's: any source address, crafted SCTP, and ICMP's word that a packet was refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use portolan_model::Proto;

use super::probe::Shot;

/// No constant of this name in the C library: `<linux/in6.h>`.
const IPV6_TRANSPARENT: libc::c_int = 75;
const SCTP_INIT: u8 = 1;
/// Common header (12), chunk header (4), INIT (16): RFC 9260 §3.1, §3.3.2.
const INIT_LEN: usize = 32;

fn check(result: libc::c_int, what: &str) -> libc::c_int {
    assert!(result >= 0, "{what}: {}", std::io::Error::last_os_error());
    result
}

fn open(six: bool, kind: libc::c_int, protocol: libc::c_int) -> OwnedFd {
    let family = if six { libc::AF_INET6 } else { libc::AF_INET };
    // SAFETY: socket takes no pointers, and the descriptor it returns is ours alone.
    unsafe {
        let socket = check(libc::socket(family, kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, protocol), "socket");
        OwnedFd::from_raw_fd(socket)
    }
}

fn set(socket: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int, value: libc::c_int) {
    let size = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the pointer is to a live integer of the size that is told.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), size) };
    check(result, "setsockopt");
}

/// A C address and its length.
fn sockaddr(addr: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all zeroes are a valid sockaddr_storage, which is large enough and aligned for both families.
    unsafe {
        let mut storage: libc::sockaddr_storage = std::mem::zeroed();
        let size = match addr {
            SocketAddr::V4(v4) => {
                let raw = (&raw mut storage).cast::<libc::sockaddr_in>();
                (*raw).sin_family = libc::AF_INET as libc::sa_family_t;
                (*raw).sin_port = v4.port().to_be();
                (*raw).sin_addr.s_addr = u32::from(*v4.ip()).to_be();
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                let raw = (&raw mut storage).cast::<libc::sockaddr_in6>();
                (*raw).sin6_family = libc::AF_INET6 as libc::sa_family_t;
                (*raw).sin6_port = v6.port().to_be();
                (*raw).sin6_addr.s6_addr = v6.ip().octets();
                size_of::<libc::sockaddr_in6>()
            }
        };
        (storage, size as libc::socklen_t)
    }
}

/// A socket bound to this port of `source`, which need not be an address of the place; `None`: the kernel's choice.
pub fn bound(kind: libc::c_int, six: bool, source: Option<IpAddr>, port: u16) -> OwnedFd {
    let socket = open(six, kind, 0);
    let any = if six { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    bind(socket.as_fd(), source.unwrap_or(any), port);
    socket
}

fn bind(socket: BorrowedFd<'_>, source: IpAddr, port: u16) {
    match source {
        IpAddr::V4(_) => set(socket, libc::IPPROTO_IP, libc::IP_TRANSPARENT, 1),
        IpAddr::V6(_) => set(socket, libc::IPPROTO_IPV6, IPV6_TRANSPARENT, 1),
    }
    let (addr, size) = sockaddr(SocketAddr::new(source, port));
    // SAFETY: the pointer is to a live address of the size that is told.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const addr).cast(), size) };
    check(result, "bind");
}

/// Begins to connect; what becomes of it is asked later.
pub fn connect(socket: BorrowedFd<'_>, to: SocketAddr) {
    let (addr, size) = sockaddr(to);
    // SAFETY: the pointer is to a live address of the size that is told.
    unsafe { libc::connect(socket.as_raw_fd(), (&raw const addr).cast(), size) };
}

/// The error that waits at a socket, 0 if there is none.
pub fn error(socket: BorrowedFd<'_>) -> libc::c_int {
    let mut value: libc::c_int = 0;
    let mut size = size_of_val(&value) as libc::socklen_t;
    let out = (&raw mut value).cast();
    // SAFETY: both pointers are to live integers, whose sizes are told.
    unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ERROR, out, &raw mut size) };
    value
}

pub fn is_connected(socket: BorrowedFd<'_>) -> bool {
    rustix::net::getpeername(socket).is_ok()
}

pub fn reset_on_close(socket: RawFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let size = size_of_val(&linger) as libc::socklen_t;
    // SAFETY: the pointer is to a live value of the size that is told; a failure costs nothing but an orderly end.
    unsafe { libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), size) };
}

/// Hears every SCTP packet that comes to a place.
pub fn sctp(six: bool) -> OwnedFd {
    open(six, libc::SOCK_RAW, libc::IPPROTO_SCTP)
}

/// One packet, from where it came.
pub fn receive(socket: BorrowedFd<'_>) -> Option<(Vec<u8>, IpAddr)> {
    let mut bytes = [0; 2048];
    // SAFETY: all zeroes are a valid sockaddr_storage.
    let mut addr: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut size = size_of_val(&addr) as libc::socklen_t;
    let (buffer, from) = (bytes.as_mut_ptr().cast(), (&raw mut addr).cast());
    // SAFETY: buffer and address are live and of the sizes that are told.
    let got = unsafe { libc::recvfrom(socket.as_raw_fd(), buffer, bytes.len(), 0, from, &raw mut size) };
    let got = usize::try_from(got).ok()?;
    let source = match libc::c_int::from(addr.ss_family) {
        // SAFETY: the kernel wrote an address of the family that it names.
        libc::AF_INET => {
            Ipv4Addr::from(u32::from_be(unsafe { *from.cast::<libc::sockaddr_in>() }.sin_addr.s_addr)).into()
        }
        // SAFETY: as above.
        _ => Ipv6Addr::from(unsafe { *from.cast::<libc::sockaddr_in6>() }.sin6_addr.s6_addr).into(),
    };
    Some((bytes[..got].to_vec(), source))
}

/// The next INIT at a place: its destination port and where it came from. Its checksum must be right.
pub fn init(socket: BorrowedFd<'_>, six: bool) -> Option<(u16, IpAddr)> {
    let (bytes, source) = receive(socket)?;
    let packet = without_header(&bytes, six);
    assert!(packet.len() >= INIT_LEN && packet[12] == SCTP_INIT, "an INIT comes whole: {packet:?}");
    let mut unsigned = packet.to_vec();
    unsigned[8..12].fill(0);
    assert_eq!(crc32c(&unsigned).to_le_bytes(), packet[8..12], "the checksum of an INIT from {source}");
    Some((u16::from_be_bytes([packet[2], packet[3]]), source))
}

/// Raw sockets of IPv4 show the IP header, those of IPv6 do not.
fn without_header(bytes: &[u8], six: bool) -> &[u8] {
    let skip = if six { 0 } else { usize::from(bytes[0] & 0x0f) * 4 };
    &bytes[skip..]
}

/// Sends an INIT from a port.
pub fn send_init(source: Option<IpAddr>, port: u16, to: SocketAddr) -> OwnedFd {
    let socket = open(to.is_ipv6(), libc::SOCK_RAW, libc::IPPROTO_SCTP);
    if let Some(source) = source {
        bind(socket.as_fd(), source, 0);
    }
    connect(socket.as_fd(), SocketAddr::new(to.ip(), 0));
    let mut packet = Vec::with_capacity(INIT_LEN);
    packet.extend([port.to_be_bytes(), to.port().to_be_bytes()].concat());
    packet.extend([0; 8]);
    packet.extend([SCTP_INIT, 0, 0, 20]);
    packet.extend(0x5eed_0001_u32.to_be_bytes());
    packet.extend(65535_u32.to_be_bytes());
    packet.extend([0, 1, 0, 1, 0, 0, 0, 1]);
    let sum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&sum);
    // A packet that a rule stops on its way out is an error at once; its fate is told by what follows.
    let _ = rustix::net::send(&socket, &packet, rustix::net::SendFlags::empty());
    socket
}

/// CRC32c as RFC 9260 appendix A has it.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    let whole = bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)));
    !whole
}

/// What ICMP tells a place.
///
/// A connecting TCP socket may miss it: the word comes back while the socket is still busy sending.
pub struct Notes {
    sockets: [OwnedFd; 2],
}

impl Notes {
    pub fn open() -> Notes {
        let icmp = open(false, libc::SOCK_RAW, libc::IPPROTO_ICMP);
        let icmp_v6 = open(true, libc::SOCK_RAW, libc::IPPROTO_ICMPV6);
        Notes { sockets: [icmp, icmp_v6] }
    }

    /// A port unreachable about this packet has come.
    pub fn refuses(&self, shot: &Shot, port: u16) -> bool {
        let six = shot.to.is_ipv6();
        let socket = self.sockets[usize::from(six)].as_fd();
        std::iter::from_fn(|| receive(socket)).any(|(bytes, _)| is_about(without_header(&bytes, six), shot, port))
    }
}

/// Port unreachable: type 3 code 3 (RFC 792), type 1 code 4 (RFC 4443); then the packet that it is about.
fn is_about(icmp: &[u8], shot: &Shot, port: u16) -> bool {
    let six = shot.to.is_ipv6();
    let kind = if six { [1, 4] } else { [3, 3] };
    let Some(about) = icmp.get(8..).filter(|about| icmp[..2] == kind && about.len() >= 24) else { return false };
    let (protocol, ports) = match six {
        true => (about[6], about.get(40..44)),
        false => (about[9], without_header(about, false).get(..4)),
    };
    let wanted = match shot.proto {
        Proto::Tcp => libc::IPPROTO_TCP,
        Proto::Udp => libc::IPPROTO_UDP,
        Proto::Sctp => libc::IPPROTO_SCTP,
    };
    libc::c_int::from(protocol) == wanted && ports == Some(&[port.to_be_bytes(), shot.to.port().to_be_bytes()].concat())
}
