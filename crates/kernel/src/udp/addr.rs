//! Socket addresses and packet information as the kernel lays them out, for both families.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::RawFd;

/// Room for an address of either family: IPv6's is the longer one, and the family stands at the same place in both.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) union RawAddr {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

pub(super) const ADDR_LEN: libc::socklen_t = size_of::<RawAddr>() as libc::socklen_t;

impl RawAddr {
    pub(super) const EMPTY: Self = Self {
        v6: libc::sockaddr_in6 {
            sin6_family: libc::AF_UNSPEC as u16,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
            sin6_scope_id: 0,
        },
    };

    pub(super) fn of(addr: SocketAddr) -> Self {
        let mut raw = Self::EMPTY;
        match addr {
            SocketAddr::V4(v4) => {
                raw.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as u16,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
            }
            SocketAddr::V6(v6) => {
                raw.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as u16,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
            }
        }
        raw
    }

    fn is_v4(&self) -> bool {
        // SAFETY: every byte was written, by `EMPTY` if by nobody else, and any bytes are valid integers.
        i32::from(unsafe { self.v6.sin6_family }) == libc::AF_INET
    }

    /// How much of it the kernel shall read.
    pub(super) fn len(&self) -> libc::socklen_t {
        let bytes = if self.is_v4() { size_of::<libc::sockaddr_in>() } else { size_of::<libc::sockaddr_in6>() };
        bytes as libc::socklen_t
    }

    pub(super) fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const *self).cast()
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut libc::sockaddr {
        (&raw mut *self).cast()
    }

    /// An IPv4 client of a socket of IPv6 is an IPv4 client.
    pub(super) fn to_addr(self) -> SocketAddr {
        // SAFETY: as in `is_v4`; both views are integers all through.
        unsafe {
            if self.is_v4() {
                let ip = Ipv4Addr::from(self.v4.sin_addr.s_addr.to_ne_bytes());
                return SocketAddrV4::new(ip, u16::from_be(self.v4.sin_port)).into();
            }
            let (ip, port) = (Ipv6Addr::from(self.v6.sin6_addr.s6_addr), u16::from_be(self.v6.sin6_port));
            match ip.to_ipv4_mapped() {
                Some(v4) => SocketAddrV4::new(v4, port).into(),
                None => SocketAddrV6::new(ip, port, 0, self.v6.sin6_scope_id).into(),
            }
        }
    }
}

/// Where `fd` is bound.
pub(super) fn local(fd: RawFd) -> io::Result<SocketAddr> {
    let mut name = RawAddr::EMPTY;
    let mut length = ADDR_LEN;
    // SAFETY: the name is ours, with its true length.
    if unsafe { libc::getsockname(fd, name.as_mut_ptr(), &raw mut length) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(name.to_addr())
}

/// Bytes of a control message's head: `cmsg_len`, `cmsg_level`, `cmsg_type`.
const HEAD: usize = size_of::<libc::cmsghdr>();
const V4_LEN: usize = HEAD + size_of::<libc::in_pktinfo>();
const V6_LEN: usize = HEAD + size_of::<libc::in6_pktinfo>();
/// Room for one packet information of either family, padded as CMSG_SPACE pads.
pub(super) const CONTROL_LEN: usize = V6_LEN.next_multiple_of(align_of::<usize>());

/// One control message with packet information: IP_PKTINFO or IPV6_PKTINFO.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Control([u8; CONTROL_LEN]);

impl Control {
    pub(super) const EMPTY: Self = Self([0; CONTROL_LEN]);

    /// Says that a datagram shall leave from `from`, by whatever link. IPv4's address stands mapped for a socket of IPv6.
    pub(super) fn source(from: IpAddr, of_ipv6: bool) -> Self {
        let mut control = Self::EMPTY;
        match (from, of_ipv6) {
            (IpAddr::V4(v4), false) => {
                control.head(V4_LEN, libc::IPPROTO_IP, libc::IP_PKTINFO);
                // in_pktinfo: link, our address, the header's address.
                control.0[HEAD + 4..HEAD + 8].copy_from_slice(&v4.octets());
            }
            (from, _) => {
                let v6 = match from {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                    IpAddr::V6(v6) => v6,
                };
                control.head(V6_LEN, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO);
                control.0[HEAD..HEAD + 16].copy_from_slice(&v6.octets());
            }
        }
        control
    }

    fn head(&mut self, len: usize, level: i32, kind: i32) {
        self.0[..8].copy_from_slice(&len.to_ne_bytes());
        self.0[8..12].copy_from_slice(&level.to_ne_bytes());
        self.0[12..16].copy_from_slice(&kind.to_ne_bytes());
    }

    fn number(&self, at: usize) -> i32 {
        i32::from_ne_bytes(self.0[at..at + 4].try_into().expect("four bytes"))
    }

    fn is_v4(&self) -> bool {
        self.number(8) == libc::IPPROTO_IP && self.number(12) == libc::IP_PKTINFO
    }

    fn is_v6(&self) -> bool {
        self.number(8) == libc::IPPROTO_IPV6 && self.number(12) == libc::IPV6_PKTINFO
    }

    /// The link by which a datagram came, and the address of ours that it came to. `written` bytes are the kernel's.
    pub(super) fn read(&self, written: usize) -> Option<(u32, IpAddr)> {
        if written >= V4_LEN && self.is_v4() {
            let ours: [u8; 4] = self.0[HEAD + 4..HEAD + 8].try_into().expect("four bytes");
            return Some((self.number(HEAD).cast_unsigned(), IpAddr::from(ours)));
        }
        if written >= V6_LEN && self.is_v6() {
            let ours: [u8; 16] = self.0[HEAD..HEAD + 16].try_into().expect("sixteen bytes");
            return Some((self.number(HEAD + 16).cast_unsigned(), Ipv6Addr::from(ours).to_canonical()));
        }
        None
    }

    pub(super) fn len(&self) -> usize {
        // IPv4's information is shorter; the kernel walks by `cmsg_len` and takes what is left for padding.
        if self.is_v4() { V4_LEN.next_multiple_of(align_of::<usize>()) } else { CONTROL_LEN }
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut libc::c_void {
        self.0.as_mut_ptr().cast()
    }
}
