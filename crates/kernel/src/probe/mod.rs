//! One real packet, marked so that every hop can know it again, and what came of it.
//!
//! ```text
//!  tcp: SYN with a sequence number of the caller's ──► connection, reset, ICMP error, or silence
//!  udp: datagram with a payload of the caller's    ──► datagram,          ICMP error, or silence
//! ```
//!
//! NAT rewrites addresses and ports but leaves both marks alone. The connection is an ordinary one of an ordinary socket:
//! the number is preset as a program that restores a socket would (`TCP_REPAIR`, needs CAP_NET_ADMIN in the network
//! namespace), and nothing is sent on it. Blocks; sends from the network namespace of the calling thread. Kubernetes is
//! unknown here. Spec: tcp(7), ip(7) `IP_RECVERR`, ipv6(7); `TCP_QUEUE_SEQ` in `tcp.h`.

mod icmp;
mod socket;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::netlink::{Netlink, RouteFate, RouteQuestion};
use icmp::IcmpError;
use socket::{Failed, Kind, Ready, Socket};

/// How long a connection is kept after its end was sent, for what its server has to say.
const FAREWELL: Duration = Duration::from_secs(5);
/// After the kernel refused to send: an ICMP error that a rule made is there by then.
const REJECTION: Duration = Duration::from_millis(200);

/// Where one packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shot {
    pub to: SocketAddr,
    /// `None`: the kernel chooses.
    pub source_port: Option<u16>,
    /// How long an answer is waited for. A SYN is sent again after a second, with the same number.
    pub patience: Duration,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The own end; `None` if nothing was sent.
    pub local: Option<SocketAddr>,
    pub end: End,
    /// From sending to the answer, or till patience ran out.
    pub took: Duration,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The connection stood, or a datagram came back.
    Answered,
    /// A reset, or ICMP port unreachable.
    Refused {
        /// Who sent that. Of a reset it is the address that was connected to, whoever wrote it.
        by: Option<IpAddr>,
    },
    /// Any other ICMP error, or the own kernel has no way to send it.
    Unreachable {
        /// Who sent the ICMP error; `None`: the own kernel.
        by: Option<IpAddr>,
        why: String,
    },
    /// Nothing came back in time.
    Silence,
    /// It could not be sent; which step failed, and the kernel's words.
    NotSent { why: String },
}

/// Connects with this initial sequence number, and ends the connection if it stood. 0 is none that can be chosen.
pub fn tcp(shot: &Shot, sequence: u32) -> Seen {
    let open = || {
        let socket = Socket::open(shot.to, Kind::Tcp)?;
        socket.number_from(sequence)?;
        socket.bind(shot.to, shot.source_port)?;
        Ok(socket)
    };
    let socket = match open() {
        Ok(socket) => socket,
        Err(failed) => return Seen::not_sent(&failed),
    };
    let sent = Instant::now();
    if let Err(error) = socket.connect(shot.to)
        && error.raw_os_error() != Some(libc::EINPROGRESS)
    {
        return Seen { local: None, end: no_way(shot.to, &error), took: sent.elapsed() };
    }
    let local = socket.local();
    let end = await_end(&socket, shot, sent + shot.patience);
    let took = sent.elapsed();
    if end == End::Answered {
        socket.take_leave(FAREWELL);
    }
    Seen { local, end, took }
}

/// Sends one datagram and waits for one.
pub fn udp(shot: &Shot, payload: &[u8]) -> Seen {
    let open = || {
        let socket = Socket::open(shot.to, Kind::Udp)?;
        socket.bind(shot.to, shot.source_port)?;
        Ok(socket)
    };
    let socket = match open() {
        Ok(socket) => socket,
        Err(failed) => return Seen::not_sent(&failed),
    };
    let sent = Instant::now();
    if let Err(error) = socket.connect(shot.to) {
        return Seen { local: None, end: no_way(shot.to, &error), took: sent.elapsed() };
    }
    let local = socket.local();
    let mut deadline = sent + shot.patience;
    match socket.send(payload) {
        Ok(()) => {}
        // A rule of the own namespace dropped it, as it drops a SYN in silence; or refused it, and said so by ICMP.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => deadline = deadline.min(sent + REJECTION),
        Err(error) => return Seen { local: None, end: no_way(shot.to, &error), took: sent.elapsed() },
    }
    let end = await_end(&socket, shot, deadline);
    Seen { local, end, took: sent.elapsed() }
}

/// Has an ordinary socket to a host of this family end its calls with every ICMP error, also those that might pass.
pub fn hear_icmp_errors(socket: &impl AsFd, of: IpAddr) -> io::Result<()> {
    socket::hear_icmp_errors(socket.as_fd(), of.is_ipv6())
}

impl Seen {
    fn not_sent(failed: &Failed) -> Seen {
        Seen { local: None, end: End::NotSent { why: failed.to_string() }, took: Duration::ZERO }
    }
}

/// The first thing that says how it ended; ICMP errors that end nothing (`fragmentation needed`) are passed over.
fn await_end(socket: &Socket, shot: &Shot, deadline: Instant) -> End {
    loop {
        match socket.wait(deadline) {
            Ok(Ready::Nothing) => return End::Silence,
            Ok(Ready::Told(error)) => {
                if let Some(end) = end_of(&error) {
                    return end;
                }
            }
            Ok(Ready::Answer) => return End::Answered,
            Err(error) => return answered_by_errno(shot.to, &error),
        }
    }
}

/// What an ICMP error means; `None` if it is none that ends a flow.
fn end_of(error: &IcmpError) -> Option<End> {
    if error.is_port_unreachable() {
        return Some(End::Refused { by: error.by });
    }
    error.is_final().then(|| End::Unreachable { by: error.by, why: error.to_string() })
}

/// What a socket's own error means, where no ICMP error stands behind it.
fn answered_by_errno(to: SocketAddr, error: &io::Error) -> End {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED | libc::ECONNRESET) => End::Refused { by: Some(to.ip()) },
        Some(libc::ETIMEDOUT) => End::Silence,
        _ => End::Unreachable { by: None, why: error.to_string() },
    }
}

/// Why the own kernel did not even send.
fn no_way(to: SocketAddr, error: &io::Error) -> End {
    let unreachable = |why: String| End::Unreachable { by: None, why };
    match error.raw_os_error() {
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH) => unreachable("no route of the sender's leads there".to_owned()),
        // What these mean depends on the route: a blackhole gives EINVAL, `prohibit` EACCES; without any route and address
        // of IPv6 no source can be chosen, which is EADDRNOTAVAIL.
        Some(libc::EINVAL | libc::EACCES | libc::EADDRNOTAVAIL) => match fate(to.ip()) {
            Some(RouteFate::Blackhole) => unreachable("the sender's route there is a blackhole".to_owned()),
            Some(RouteFate::Unreachable) => unreachable("the sender's route there forbids it".to_owned()),
            Some(RouteFate::NoRoute) => unreachable("no route of the sender's leads there".to_owned()),
            _ => End::NotSent { why: format!("connect to {to}: {error}") },
        },
        _ => End::NotSent { why: format!("connect to {to}: {error}") },
    }
}

fn fate(to: IpAddr) -> Option<RouteFate> {
    Netlink::open().ok()?.route_lookup(&RouteQuestion::to(to)).ok().map(|found| found.fate)
}

#[cfg(test)]
mod tests;
