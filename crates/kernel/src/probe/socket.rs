//! A socket that tells who sent an error, and whose first sequence number can be chosen.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::icmp::IcmpError;

/// `TCP_REPAIR_*` of `tcp.h`, which libc leaves out in part.
const REPAIR_ON: i32 = 1;
const REPAIR_OFF_WITHOUT_PROBE: i32 = -1;
const SEND_QUEUE: i32 = 2;
/// Room for the control messages of one error.
const CONTROL_BYTES: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    Udp,
}

/// What a wait ended with.
#[derive(Debug)]
pub(super) enum Ready {
    /// The deadline.
    Nothing,
    /// An ICMP error.
    Told(IcmpError),
    /// TCP: the connection stands. UDP: a datagram came.
    Answer,
}

/// A step that failed before anything was sent.
#[derive(Debug)]
pub(super) struct Failed {
    step: String,
    source: io::Error,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.source)
    }
}

fn failed(step: impl Into<String>) -> impl FnOnce(io::Error) -> Failed {
    let step = step.into();
    move |source| Failed { step, source }
}

/// A non-blocking socket of the network namespace of the thread that opened it.
pub(super) struct Socket {
    fd: OwnedFd,
    kind: Kind,
}

impl Socket {
    /// For a destination of this family.
    pub(super) fn open(to: SocketAddr, kind: Kind) -> Result<Socket, Failed> {
        let domain = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let sort = match kind {
            Kind::Tcp => libc::SOCK_STREAM,
            Kind::Udp => libc::SOCK_DGRAM,
        };
        // SAFETY: no pointers.
        let raw = unsafe { libc::socket(domain, sort | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
        if raw < 0 {
            return Err(failed("open a socket")(io::Error::last_os_error()));
        }
        // SAFETY: just opened, owned by nobody else.
        let socket = Socket { fd: unsafe { OwnedFd::from_raw_fd(raw) }, kind };
        hear_icmp_errors(socket.fd.as_fd(), to.is_ipv6()).map_err(failed("ask for ICMP errors"))?;
        Ok(socket)
    }

    /// The SYN will carry `sequence`. Before bind and connect.
    pub(super) fn number_from(&self, sequence: u32) -> Result<(), Failed> {
        if sequence == 0 {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "0 asks the kernel to choose");
            return Err(failed("choose the sequence number")(source));
        }
        let steps = [
            (libc::TCP_REPAIR, REPAIR_ON),
            (libc::TCP_REPAIR_QUEUE, SEND_QUEUE),
            (libc::TCP_QUEUE_SEQ, sequence.cast_signed()),
            // A socket in repair would stand connected without a word on the wire.
            (libc::TCP_REPAIR, REPAIR_OFF_WITHOUT_PROBE),
        ];
        let set = |(option, value)| self.set(libc::IPPROTO_TCP, option, value);
        steps.into_iter().try_for_each(set).map_err(failed("choose the sequence number (needs CAP_NET_ADMIN here)"))
    }

    /// Takes a source port, if one is wanted.
    pub(super) fn bind(&self, to: SocketAddr, port: Option<u16>) -> Result<(), Failed> {
        let Some(port) = port else { return Ok(()) };
        let any = match to {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let (address, length) = raw_address(SocketAddr::new(any, port));
        let bound = || {
            if to.is_ipv6() {
                // Whoever has the port for IPv4, or had it until a moment ago, is in nobody's way.
                self.set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
            }
            // SAFETY: the address is whole, of the given length, and outlives the call.
            checked(unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), length) })
        };
        bound().map_err(failed(format!("take the source port {port}")))
    }

    pub(super) fn connect(&self, to: SocketAddr) -> io::Result<()> {
        let (address, length) = raw_address(to);
        // SAFETY: the address is whole, of the given length, and outlives the call.
        checked(unsafe { libc::connect(self.fd.as_raw_fd(), (&raw const address).cast(), length) })
    }

    pub(super) fn send(&self, payload: &[u8]) -> io::Result<()> {
        // SAFETY: the payload outlives the call, with its true length.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), payload.as_ptr().cast(), payload.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The own end, once it is connected or connecting.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        TcpStream::from(self.fd.try_clone().ok()?).local_addr().ok()
    }

    /// Waits for the next thing that is told; `Err`: the socket's own error, with no ICMP behind it.
    pub(super) fn wait(&self, deadline: Instant) -> io::Result<Ready> {
        let wanted = match self.kind {
            Kind::Tcp => libc::POLLOUT,
            Kind::Udp => libc::POLLIN,
        };
        loop {
            let happened = self.poll(wanted, deadline)?;
            if happened == 0 {
                return Ok(Ready::Nothing);
            }
            // First, since the ICMP error behind it says more than the errno.
            match self.next_error()? {
                Queued::Icmp(error) => {
                    self.take_errno()?;
                    return Ok(Ready::Told(error));
                }
                Queued::Other => continue,
                Queued::None => {}
            }
            match self.take_errno()? {
                0 if happened & wanted != 0 => return Ok(Ready::Answer),
                0 => {}
                errno => return Err(io::Error::from_raw_os_error(errno)),
            }
        }
    }

    /// Ends a connection as a client that has nothing to say; what its server says meanwhile is read and forgotten, since
    /// closing over it would be a reset.
    pub(super) fn take_leave(self, within: Duration) {
        let stream = TcpStream::from(self.fd);
        let ended = stream.shutdown(Shutdown::Write).is_ok()
            && stream.set_nonblocking(false).is_ok()
            && stream.set_read_timeout(Some(within)).is_ok();
        if ended {
            // Where no thread can be had the connection just closes.
            let _ = std::thread::Builder::new().name("farewell".into()).spawn(move || drain(stream, within));
        }
    }

    fn poll(&self, wanted: i16, deadline: Instant) -> io::Result<i16> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up, so that the last part of a millisecond is waited for and not spun through.
            let millis = i32::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
            let mut entry = libc::pollfd { fd: self.fd.as_raw_fd(), events: wanted, revents: 0 };
            // SAFETY: one live entry, and the count says so.
            match unsafe { libc::poll(&raw mut entry, 1, millis) } {
                0 => return Ok(0),
                1.. => return Ok(entry.revents),
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Takes one entry off the error queue.
    fn next_error(&self) -> io::Result<Queued> {
        let mut control = Control([0; CONTROL_BYTES]);
        let mut data = [0u8; 64];
        let mut part = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
        // SAFETY: all zeroes is a valid msghdr.
        let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = CONTROL_BYTES as _;
        // SAFETY: the message points at live buffers with their true lengths.
        let read =
            unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) };
        if read < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(Queued::None) } else { Err(error) };
        }
        let length = message.msg_controllen.min(CONTROL_BYTES);
        Ok(icmp_error(&control.0[..length]).map_or(Queued::Other, Queued::Icmp))
    }

    /// `SO_ERROR`, which is cleared by this.
    fn take_errno(&self) -> io::Result<i32> {
        let (mut errno, mut length) = (0i32, size_of::<i32>() as libc::socklen_t);
        // SAFETY: an int and its length.
        let done = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ERROR,
                (&raw mut errno).cast(),
                &raw mut length,
            )
        };
        checked(done).map(|()| errno)
    }

    fn set(&self, level: i32, option: i32, value: i32) -> io::Result<()> {
        set(self.fd.as_fd(), level, option, value)
    }
}

pub(super) fn hear_icmp_errors(fd: BorrowedFd<'_>, is_v6: bool) -> io::Result<()> {
    let (level, option) = match is_v6 {
        false => (libc::IPPROTO_IP, libc::IP_RECVERR),
        true => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    };
    set(fd, level, option, 1)
}

fn set(fd: BorrowedFd<'_>, level: i32, option: i32, value: i32) -> io::Result<()> {
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the value is whole and outlives the call.
    checked(unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), length) })
}

/// An entry of the error queue.
enum Queued {
    Icmp(IcmpError),
    /// One that the kernel itself made.
    Other,
    None,
}

/// Control messages are read as `cmsghdr`, so the buffer lies as one would.
#[repr(align(8))]
struct Control([u8; CONTROL_BYTES]);

/// Finds the error among control messages: `cmsghdr` is a length with its own head, level and kind.
fn icmp_error(mut control: &[u8]) -> Option<IcmpError> {
    const HEAD: usize = size_of::<libc::cmsghdr>();
    const WORD: usize = size_of::<usize>();
    loop {
        let head = control.get(..HEAD)?;
        let length = usize::from_ne_bytes(head[..WORD].try_into().expect("a word"));
        let level = i32::from_ne_bytes(head[WORD..WORD + 4].try_into().expect("four bytes"));
        let kind = i32::from_ne_bytes(head[WORD + 4..WORD + 8].try_into().expect("four bytes"));
        let value = control.get(HEAD..length)?;
        if matches!((level, kind), (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)) {
            return IcmpError::parse(value);
        }
        control = control.get(length.next_multiple_of(WORD)..)?;
    }
}

/// Reads till the other end closes too, at most so long.
fn drain(mut stream: TcpStream, within: Duration) {
    let deadline = Instant::now() + within;
    let mut buffer = [0; 4096];
    while Instant::now() < deadline {
        match io::Read::read(&mut stream, &mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

fn checked(done: i32) -> io::Result<()> {
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Room for either family's address, and its length.
fn raw_address(of: SocketAddr) -> (libc::sockaddr_in6, libc::socklen_t) {
    // SAFETY: all zeroes is a valid sockaddr_in6, and sockaddr_in is the shorter and no more strictly aligned.
    let mut room: libc::sockaddr_in6 = unsafe { MaybeUninit::zeroed().assume_init() };
    let length = match of {
        SocketAddr::V4(address) => {
            let v4 = libc::sockaddr_in {
                sin_family: libc::AF_INET as _,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: as above; the room is larger.
            unsafe { (&raw mut room).cast::<libc::sockaddr_in>().write(v4) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(address) => {
            room.sin6_family = libc::AF_INET6 as _;
            room.sin6_port = address.port().to_be();
            room.sin6_flowinfo = address.flowinfo();
            room.sin6_addr.s6_addr = address.ip().octets();
            room.sin6_scope_id = address.scope_id();
            size_of::<libc::sockaddr_in6>()
        }
    };
    (room, length as libc::socklen_t)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_messages_cut_or_bent_anywhere_are_read_without_panic() {
        let mut error = 111u32.to_ne_bytes().to_vec();
        error.extend([2, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        error.extend((libc::AF_INET as u16).to_ne_bytes());
        error.extend([0, 0, 192, 0, 2, 9, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mut control = Vec::new();
        for (level, kind, value) in [(libc::SOL_SOCKET, 29, vec![1; 5]), (libc::IPPROTO_IP, libc::IP_RECVERR, error)] {
            control.extend((size_of::<libc::cmsghdr>() + value.len()).to_ne_bytes());
            control.extend(level.to_ne_bytes());
            control.extend(kind.to_ne_bytes());
            control.extend(value);
            control.resize(control.len().next_multiple_of(size_of::<usize>()), 0);
        }
        let read = icmp_error(&control).expect("the second message");
        assert_eq!(read.by, Some("192.0.2.9".parse().unwrap()));
        for end in 0..control.len() {
            icmp_error(&control[..end]);
            for at in 0..end {
                for byte in [0, 1, 15, 16, 0xff] {
                    let mut bent = control[..end].to_vec();
                    bent[at] = byte;
                    icmp_error(&bent);
                }
            }
        }
    }
}
