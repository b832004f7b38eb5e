//! Listeners: the sockets of one address, UDP and TCP, and what reads them.
//!
//! ```text
//!  UDP: a socket a thread ──► worker ──► Site::answer_now ──► reply, by batches
//!  TCP: connections ─────────► stream ──► Site::answer_now ──► reply
//!                                └ both: what needs an upstream ──► the task ──► reply
//! ```
//!
//! A listener takes queries into its sockets' queues from [`Listener::bind`] on and answers them from [`Listener::open`] on.
//! Workers are threads of their own, one a core, shared by all listeners; connections are tasks of the runtime. Which answer a query
//! gets is not decided here.

mod frames;
mod seats;
mod stream;
mod tally;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use portolan_dns::Rcode;
use portolan_dns::build::Reply;
use portolan_dns::wire::{Query, Transport};
use portolan_kernel::udp;
use tracing::debug;

use crate::DnsError;
use crate::task::Doors;

pub(crate) use seats::Seats;
pub(crate) use worker::Workers;

/// How often a free port is looked for that both transports have.
const TRIES: usize = 16;

/// The sockets of one address, both transports.
#[derive(Debug)]
pub struct Listener {
    local: SocketAddr,
    udp: Vec<Arc<udp::Socket>>,
    tcp: std::net::TcpListener,
}

impl Listener {
    /// Binds UDP and TCP on `addr`; port 0 is one that the kernel chooses, the same for both.
    ///
    /// # Errors
    /// The address is taken by another program, or by another listener; it is not ours.
    pub async fn bind(addr: SocketAddr) -> Result<Self, DnsError> {
        let mut tries = 0;
        loop {
            match Self::bind_both(addr) {
                Err(DnsError::Bind { source, .. })
                    if addr.port() == 0 && source.kind() == io::ErrorKind::AddrInUse && tries < TRIES =>
                {
                    tries += 1;
                }
                other => return other,
            }
        }
    }

    /// TCP first: it is never shared, so it keeps two servers of one user from sharing UDP without knowing.
    fn bind_both(addr: SocketAddr) -> Result<Self, DnsError> {
        let failed = |transport| move |source| DnsError::Bind { addr, transport, source };
        let tcp = std::net::TcpListener::bind(addr).map_err(failed("tcp"))?;
        tcp.set_nonblocking(true).map_err(failed("tcp"))?;
        let local = tcp.local_addr().map_err(failed("tcp"))?;
        let each = (0..worker::cores()).map(|_| udp::Socket::bind(local).map(Arc::new));
        let udp = each.collect::<io::Result<_>>().map_err(failed("udp"))?;
        Ok(Self { local, udp, tcp })
    }

    /// Where it is bound.
    pub fn address(&self) -> SocketAddr {
        self.local
    }

    /// Answers from now on, until what is given back is dropped.
    pub(crate) fn open(self, doors: &Doors) -> Open {
        let udp = self.udp.into_iter().enumerate().map(|(nth, socket)| doors.workers.open(nth, socket)).collect();
        let tcp = match tokio::net::TcpListener::from_std(self.tcp) {
            Ok(listener) => Some(tokio::spawn(stream::accept(listener, doors.clone())).abort_handle()),
            Err(error) => {
                debug!(%error, "no TCP at {}", self.local);
                None
            }
        };
        Open { _udp: udp, tcp }
    }
}

/// Listeners at work. Dropped, they answer what has come already and are closed.
pub(crate) struct Open {
    _udp: Vec<worker::Opened>,
    tcp: Option<tokio::task::AbortHandle>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.tcp.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

/// What a client hears when too many others wait: an answer now is better than silence until its time is up. `false`: the
/// packet is nothing that could be answered.
fn turn_away(packet: &[u8], transport: Transport, out: &mut Vec<u8>) -> bool {
    let Ok(query) = Query::parse(packet) else { return false };
    *out = Reply::new(Rcode::SERVFAIL).render(&query, transport);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_turned_away_hears_servfail_to_its_own_question_and_garbage_hears_nothing() {
        let query = portolan_dns::wire::ask(
            77,
            &portolan_dns::wire::question(
                &portolan_dns::Name::parse("a.example").expect("a name"),
                portolan_dns::Rtype::A,
            ),
            false,
            None,
        );
        let mut out = Vec::new();
        assert!(turn_away(&query, Transport::Udp, &mut out));
        assert_eq!((&out[..2], out[2] & 0x80, out[3] & 15), (&query[..2], 0x80, 2));
        assert_eq!(out[12..], query[12..]);
        assert!(!turn_away(&query[..11], Transport::Udp, &mut out));
    }
}
