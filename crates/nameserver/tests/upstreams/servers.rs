//! Small upstreams of our own, each bad in its way.

use std::borrow::Cow;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use portolan_dns::build::{Reply, Rr};
use portolan_dns::rdata::Rdata;
use portolan_dns::wire::{Query, Rcode, Transport};
use portolan_dns::{Name, Rtype};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::ports;

/// What came by UDP, and from where.
type Seen = Arc<Mutex<Vec<(SocketAddr, Vec<u8>)>>>;

pub struct Server {
    pub addr: SocketAddr,
    seen: Seen,
    connections: Arc<AtomicUsize>,
}

/// How it behaves by TCP.
#[derive(Clone, Copy, Debug)]
pub enum Stream {
    Answers,
    /// So many at a time, the last first.
    AnswersBackwards(usize),
    /// One, then it closes.
    AnswersOnce,
    Closes,
    /// A message for nobody, then it closes.
    Garbage,
}

impl Server {
    /// One that answers each datagram with those that `behave` makes of it; it is told how many came before.
    pub async fn start(behave: impl Fn(&[u8], usize) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        Self::start_both(behave, Stream::Closes).await
    }

    pub async fn start_both(behave: impl Fn(&[u8], usize) -> Vec<Vec<u8>> + Send + 'static, stream: Stream) -> Self {
        let (udp, tcp) = bind_both().await;
        let addr = udp.local_addr().expect("a bound socket");
        let server = Self { addr, seen: Seen::default(), connections: Arc::default() };
        let seen = server.seen.clone();
        tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
                let nth = {
                    let mut seen = seen.lock().expect("no test thread panics here");
                    seen.push((from, buffer[..length].to_vec()));
                    seen.len() - 1
                };
                for datagram in behave(&buffer[..length], nth) {
                    // The client may have closed its socket.
                    let _ = udp.send_to(&datagram, from).await;
                }
            }
        });
        let connections = server.connections.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = tcp.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(connection, stream));
            }
        });
        server
    }

    pub fn seen(&self) -> Vec<(SocketAddr, Vec<u8>)> {
        self.seen.lock().expect("no test thread panics here").clone()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn serve(mut connection: TcpStream, how: Stream) -> std::io::Result<()> {
    let mut held = Vec::new();
    loop {
        let length = connection.read_u16().await?;
        let mut query = vec![0; usize::from(length)];
        connection.read_exact(&mut query).await?;
        match how {
            Stream::Answers => write(&mut connection, &answer(&query)).await?,
            Stream::AnswersBackwards(count) => {
                held.push(query);
                if held.len() == count {
                    for query in held.drain(..).rev() {
                        write(&mut connection, &answer(&query)).await?;
                    }
                }
            }
            Stream::AnswersOnce => return write(&mut connection, &answer(&query)).await,
            Stream::Closes => return Ok(()),
            Stream::Garbage => return write(&mut connection, b"\0").await,
        }
    }
}

async fn write(connection: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(message.len()).map_err(std::io::Error::other)?;
    connection.write_all(&[&length.to_be_bytes()[..], message].concat()).await
}

async fn bind_both() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let addr = udp.local_addr().expect("a bound socket");
        if let Ok(tcp) = TcpListener::bind(addr).await {
            return (udp, tcp);
        }
    }
}

/// An address of the loopback that nobody has.
pub fn free_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, ports::free()).into()
}

pub fn answer(query: &[u8]) -> Vec<u8> {
    let parsed = Query::parse(query).expect("upstreams get queries that can be read");
    let owner = Name::from_wire(parsed.name).expect("a name");
    let data = Cow::Owned(Rdata::A(Ipv4Addr::new(192, 0, 2, 1)));
    let answers = vec![Rr::internet(&owner, Rtype::A, 60, data)];
    Reply { answers, ..Reply::new(Rcode::NOERROR) }.render(&parsed, Transport::Tcp)
}

pub fn cut(query: &[u8]) -> Vec<u8> {
    let parsed = Query::parse(query).expect("upstreams get queries that can be read");
    Reply { truncated: true, ..Reply::new(Rcode::NOERROR) }.render(&parsed, Transport::Tcp)
}

pub fn with_other_id(query: &[u8]) -> Vec<u8> {
    let mut reply = answer(query);
    reply[1] ^= 0x55;
    reply
}

pub fn with_other_name(query: &[u8]) -> Vec<u8> {
    let mut reply = answer(query);
    reply[13] = if reply[13] == b'x' { b'y' } else { b'x' };
    reply
}

/// A forwarder that sends what it gets back to where it is taken from: a loop.
pub struct Mirror {
    pub addr: SocketAddr,
    back: Arc<Mutex<Vec<Vec<u8>>>>,
    mirrors: Arc<AtomicBool>,
}

impl Mirror {
    pub async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let addr = socket.local_addr().expect("a bound socket");
        let mirror = Self { addr, back: Arc::default(), mirrors: Arc::new(AtomicBool::new(true)) };
        let (back, mirrors) = (mirror.back.clone(), mirror.mirrors.clone());
        tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                match mirrors.load(Ordering::SeqCst) {
                    true => back.lock().expect("no test thread panics here").push(buffer[..length].to_vec()),
                    // The client may have closed its socket.
                    false => drop(socket.send_to(&answer(&buffer[..length]), from).await),
                }
            }
        });
        mirror
    }

    pub fn came_back(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut *self.back.lock().expect("no test thread panics here"))
    }

    pub fn stop_mirroring(&self) {
        self.mirrors.store(false, Ordering::SeqCst);
    }
}
