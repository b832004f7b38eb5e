//! Probes: one first packet from a place to an address, and what became of it.
//!
//! Every place listens on the ports that the table of cases knows, by sockets that this one thread holds and asks. A
//! packet's way is over when the call that sent it returns, or soon after on a machine with much to do; that it was
//! dropped is known when another packet, sent later and with a longer way, has come back.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use portolan_model::Proto;

use super::ground::{Ground, NODE_1, OUTSIDE, WORLD, addresses};
use super::raw;

/// Ports at which pods listen.
pub const POD_PORTS: [u16; 2] = [8080, 8081];
/// Ports at which whoever has all other addresses listens: a Service's own, and one that no Service has.
pub const WORLD_PORTS: [u16; 2] = [80, 81];
/// Ports at which node-1 has programs of its own.
pub const NODE_PORTS: [u16; 3] = [30001, 30002, 9001];
/// Beyond node ports and all that is listened to.
const CLIENT_PORTS: std::ops::Range<u16> = 33_000..65_000;
const FENCE_PORT: u16 = 4999;
/// Way there and back, often enough to be longer than any way through the rules.
const FENCE_ROUNDS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(20);
const PLACES: [&str; 8] = ["a1", "a2", "a3", "b1", "b2", NODE_1, OUTSIDE, WORLD];

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// It came to this place, which saw this source.
    At { place: &'static str, port: u16, source: IpAddr },
    /// The sender was told that nobody wants it.
    Refused,
    /// Nothing more was heard of it.
    Dropped,
}

/// Who sends what where.
#[derive(Clone, Copy, Debug)]
pub struct Shot {
    pub from: &'static str,
    /// Source address; `None`: the kernel's choice.
    pub source: Option<IpAddr>,
    /// The source is no address of the place: no answer will find it.
    pub is_borrowed: bool,
    pub proto: Proto,
    pub to: SocketAddr,
}

struct Listeners {
    udp: BTreeMap<u16, UdpSocket>,
    tcp: BTreeMap<u16, TcpListener>,
    /// IPv4 and IPv6.
    sctp: [OwnedFd; 2],
    fence: UdpSocket,
}

/// All listeners of a ground.
pub struct Range<'a> {
    ground: &'a Ground,
    at: BTreeMap<&'static str, Listeners>,
    next_port: Cell<u16>,
}

impl<'a> Range<'a> {
    pub fn open(ground: &'a Ground) -> Range<'a> {
        let at = PLACES.map(|place| (place, ground.inside(place, || listen(place)))).into();
        Range { ground, at, next_port: Cell::new(CLIENT_PORTS.start) }
    }

    /// Nobody listens.
    pub fn closed(ground: &'a Ground) -> Range<'a> {
        Range { ground, at: BTreeMap::new(), next_port: Cell::new(CLIENT_PORTS.start) }
    }

    /// A client's port, used by nobody for long: the kernel remembers flows for a while, and where they went.
    fn fresh_port(&self) -> u16 {
        let port = self.next_port.get();
        let next = port + 1;
        self.next_port.set(if CLIENT_PORTS.contains(&next) { next } else { CLIENT_PORTS.start });
        port
    }

    /// Sends one packet and waits until its fate is known. `source` in what is returned is as the receiver saw it.
    pub fn shoot(&self, shot: &Shot) -> Seen {
        self.forget_strays();
        let port = self.fresh_port();
        let (notes, client) = self.ground.inside(shot.from, || (raw::Notes::open(), Client::send(shot, port)));
        self.follow(shot, port, &notes, client, |_| true).0
    }

    /// A datagram socket to send from again and again.
    pub fn talk(&self, shot: Shot) -> Talk {
        assert_eq!(shot.proto, Proto::Udp, "only datagrams need no connection");
        let port = self.fresh_port();
        let (notes, socket) = self.ground.inside(shot.from, || (raw::Notes::open(), Client::udp(&shot, port)));
        Talk { shot, port, notes, socket: Some(socket) }
    }

    /// One more packet of that socket, and what became of it. Only who is `awaited` must be heard too: under anybody else
    /// the flow may be cut while the answer is on its way.
    pub fn say(&self, talk: &mut Talk, awaited: &str) -> Seen {
        self.forget_strays();
        let socket = talk.socket.take().expect("it is put back below");
        while socket.recv(&mut [0; 64]).is_ok() {}
        // A packet that a rule stops on its way out is an error at once; its fate is told by what follows.
        let _ = socket.send(b"who is there?");
        let (seen, client) =
            self.follow(&talk.shot, talk.port, &talk.notes, Client::Udp(socket, false), |place| place == awaited);
        talk.socket = client.into_udp();
        seen
    }

    fn follow(
        &self,
        shot: &Shot,
        port: u16,
        notes: &raw::Notes,
        mut client: Client,
        is_to_be_heard: impl Fn(&str) -> bool,
    ) -> (Seen, Client) {
        let mut fence = Fence::start(self, shot.from, shot.to.is_ipv6());
        let until = Instant::now() + PATIENCE;
        loop {
            let over = fence.is_over();
            if let Some(seen) = self.arrived(shot) {
                if is_to_be_heard(seen.place()) {
                    self.answered(shot, &mut client, seen.place());
                }
                return (seen, client);
            }
            if client.is_refused() || notes.refuses(shot, port) {
                return (Seen::Refused, client);
            }
            if over {
                return (Seen::Dropped, client);
            }
            assert!(Instant::now() < until, "the fence of {} does not come back", shot.from);
            std::thread::yield_now();
        }
    }

    /// Whatever an earlier packet left.
    fn forget_strays(&self) {
        for at in self.at.values() {
            at.udp.values().for_each(|socket| while socket.recv(&mut [0; 64]).is_ok() {});
            at.tcp.values().for_each(|listener| while listener.accept().is_ok() {});
            at.sctp.iter().for_each(|socket| while raw::receive(socket.as_fd()).is_some() {});
        }
    }

    fn arrived(&self, shot: &Shot) -> Option<Seen> {
        self.at.iter().find_map(|(place, at)| {
            let (port, source) = match shot.proto {
                Proto::Udp => at.udp.iter().find_map(|(port, socket)| {
                    let (_, source) = socket.recv_from(&mut [0; 64]).ok()?;
                    // What cannot go back is missed by the client, who is asked below.
                    let _ = socket.send_to(place.as_bytes(), source);
                    Some((*port, source.ip()))
                }),
                Proto::Tcp => at.tcp.iter().find_map(|(port, socket)| Some((*port, socket.accept().ok()?.1.ip()))),
                Proto::Sctp => at.sctp.iter().find_map(|socket| raw::init(socket.as_fd(), shot.to.is_ipv6())),
            }?;
            Some(Seen::At { place, port, source: source.to_canonical() })
        })
    }

    /// The client has its answer: from the address that it asked, which its connected socket insists on.
    fn answered(&self, shot: &Shot, client: &mut Client, place: &str) {
        // Hosts that answer for many addresses answer from their own; a borrowed source has nobody to answer.
        if shot.proto == Proto::Udp && (place == WORLD || place == NODE_1) || shot.is_one_way() {
            return;
        }
        let until = Instant::now() + PATIENCE;
        while !client.has_answer() {
            assert!(Instant::now() < until, "{shot:?} came to {place}, whose answer did not come back");
            std::thread::yield_now();
        }
    }
}

impl Seen {
    /// The place's name, or `refused`, or `dropped`.
    pub fn place(&self) -> &'static str {
        match self {
            Self::At { place, .. } => place,
            Self::Refused => "refused",
            Self::Dropped => "dropped",
        }
    }
}

impl Shot {
    /// Nobody answers a crafted packet, or one whose source is borrowed.
    fn is_one_way(&self) -> bool {
        self.proto == Proto::Sctp || self.is_borrowed
    }
}

fn any(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

fn listen(place: &str) -> Listeners {
    let ports: &[u16] = match place {
        NODE_1 => &NODE_PORTS,
        WORLD | OUTSIDE => &WORLD_PORTS,
        _ => &POD_PORTS,
    };
    let udp = |port: u16| {
        let socket = UdpSocket::bind(any(port)).expect("a port of a new namespace");
        socket.set_nonblocking(true).expect("a socket");
        socket
    };
    let tcp = |port: u16| {
        let socket = TcpListener::bind(any(port)).expect("a port of a new namespace");
        socket.set_nonblocking(true).expect("a socket");
        socket
    };
    Listeners {
        udp: ports.iter().map(|port| (*port, udp(*port))).collect(),
        tcp: ports.iter().map(|port| (*port, tcp(*port))).collect(),
        sctp: [raw::sctp(false), raw::sctp(true)],
        fence: udp(FENCE_PORT),
    }
}

impl std::fmt::Debug for Talk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.shot.fmt(f)
    }
}

/// A client that keeps its socket.
pub struct Talk {
    shot: Shot,
    port: u16,
    notes: raw::Notes,
    socket: Option<UdpSocket>,
}

/// The sender's end.
enum Client {
    Udp(UdpSocket, bool),
    Tcp(OwnedFd),
    Sctp(OwnedFd),
}

impl Client {
    fn send(shot: &Shot, port: u16) -> Client {
        let six = shot.to.is_ipv6();
        match shot.proto {
            Proto::Udp => {
                let socket = Client::udp(shot, port);
                // A packet that a rule stops on its way out is an error at once; its fate is told by what follows.
                let _ = socket.send(b"who is there?");
                Client::Udp(socket, false)
            }
            Proto::Tcp => {
                let socket = raw::bound(libc::SOCK_STREAM, six, shot.source, port);
                raw::connect(socket.as_fd(), shot.to);
                Client::Tcp(socket)
            }
            Proto::Sctp => Client::Sctp(raw::send_init(shot.source, port, shot.to)),
        }
    }

    fn udp(shot: &Shot, port: u16) -> UdpSocket {
        let socket = UdpSocket::from(raw::bound(libc::SOCK_DGRAM, shot.to.is_ipv6(), shot.source, port));
        socket.connect(shot.to).expect("there is a route");
        socket
    }

    fn into_udp(mut self) -> Option<UdpSocket> {
        match &mut self {
            Client::Udp(socket, _) => socket.try_clone().ok(),
            _ => None,
        }
    }

    fn has_answer(&mut self) -> bool {
        match self {
            Client::Udp(socket, answered) => {
                *answered |= socket.recv(&mut [0; 64]).is_ok();
                *answered
            }
            Client::Tcp(socket) => raw::is_connected(socket.as_fd()),
            Client::Sctp(..) => true,
        }
    }

    fn is_refused(&mut self) -> bool {
        match self {
            Client::Udp(socket, answered) => match socket.recv(&mut [0; 64]) {
                Ok(_) => {
                    *answered = true;
                    false
                }
                Err(error) => error.kind() == ErrorKind::ConnectionRefused,
            },
            Client::Tcp(socket) => raw::error(socket.as_fd()) == libc::ECONNREFUSED,
            Client::Sctp(socket) => raw::error(socket.as_fd()) == libc::ECONNREFUSED,
        }
    }
}

/// Packets that follow, one after the other, on a way that no Service has to do with.
struct Fence<'r> {
    from: &'r UdpSocket,
    to: &'r UdpSocket,
    target: SocketAddr,
    rounds: usize,
    is_back: bool,
    sent: Instant,
}

impl<'r> Fence<'r> {
    fn start(range: &'r Range<'_>, from: &'static str, six: bool) -> Self {
        let far = if from.starts_with('b') { "a1" } else { "b2" };
        let (from, to) = (&range.at[from].fence, &range.at[far].fence);
        for socket in [from, to] {
            while socket.recv(&mut [0; 64]).is_ok() {}
        }
        let target = SocketAddr::new(mapped(addresses(far)[usize::from(six)]), FENCE_PORT);
        let mut fence = Self { from, to, target, rounds: 0, is_back: true, sent: Instant::now() };
        fence.is_over();
        fence
    }

    /// Takes the next step that can be taken.
    fn is_over(&mut self) -> bool {
        // Lost only where a queue was full: it is sent again.
        let is_lost = !self.is_back && self.sent.elapsed() > Duration::from_secs(2);
        if self.is_back && self.rounds < FENCE_ROUNDS || is_lost {
            let _ = self.from.send_to(b"there", self.target);
            (self.is_back, self.sent) = (false, Instant::now());
        }
        if let Ok((_, back)) = self.to.recv_from(&mut [0; 64]) {
            let _ = self.to.send_to(b"back", back);
        }
        if self.from.recv(&mut [0; 64]).is_ok() {
            self.is_back = true;
            self.rounds += 1;
        }
        self.is_back && self.rounds >= FENCE_ROUNDS
    }
}

/// As a socket of both families names it.
fn mapped(addr: IpAddr) -> IpAddr {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        v6 @ IpAddr::V6(_) => v6,
    }
}

impl Drop for Client {
    /// A connection ends at once and leaves no half of itself to the next probe.
    fn drop(&mut self) {
        if let Client::Tcp(socket) = self {
            raw::reset_on_close(socket.as_raw_fd());
        }
    }
}
