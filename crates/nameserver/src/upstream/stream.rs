//! TCP and TLS: a few connections per server, each with many queries under way (RFC 7766 §6.2.1.1, RFC 7858).
//!
//! ```text
//!  Lines ─┬─ line ── orders ──► connection ──► server      IDs on a connection are its own, so that no two are alike
//!         └─ line …              ▲    │
//!                  idle: closed ─┘    └──► replies in any order
//! ```
//!
//! A connection that had served before and is closed while a query is on its way may just have been idle for too long at
//! the server's end: such a query is sent once more on a fresh one. Anything else that breaks fails its queries at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use portolan_dns::forward::Exchange;
use portolan_dns::forward::step::Sending;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::reuse::Reuse;
use super::tls::Connector;
use super::{Heard, tell, tell_failure};

/// Connections to one server.
const MOST_LINES: usize = 4;
/// Queries on each connection that make another worth while: some servers answer one after the other.
const BUSY: usize = 8;
/// Queries on one connection.
const MOST_PENDING: usize = 4096;
/// For connecting and shaking hands.
const CONNECT: Duration = Duration::from_secs(4);

/// The connections to one server.
pub(super) struct Lines {
    addr: SocketAddr,
    tls: Option<Connector>,
    expire: Duration,
    heard: mpsc::Sender<Heard>,
    lines: Vec<Ticket>,
    reuse: Arc<Reuse>,
}

/// The near end of one connection.
#[derive(Clone)]
pub(super) struct Ticket {
    orders: mpsc::UnboundedSender<Order>,
    load: Arc<AtomicUsize>,
    is_open: Arc<AtomicBool>,
}

enum Order {
    Ask(Exchange, Vec<u8>),
    Forget(Exchange),
}

impl Lines {
    pub(super) fn new(
        addr: SocketAddr,
        tls: Option<Connector>,
        expire: Duration,
        heard: mpsc::Sender<Heard>,
        reuse: Arc<Reuse>,
    ) -> Self {
        Self { addr, tls, expire, heard, lines: Vec::new(), reuse }
    }

    /// Puts a query on the least busy connection.
    pub(super) fn send(&mut self, sending: Sending) -> Ticket {
        let least = self.lines.iter().min_by_key(|line| line.load()).cloned();
        let line = match least {
            Some(line) if line.load() < BUSY || self.lines.len() >= MOST_LINES => line,
            _ => self.open(),
        };
        line.load.fetch_add(1, Ordering::Relaxed);
        self.reuse.count(line.is_open.load(Ordering::Relaxed));
        // The far end lives as long as its tickets.
        let _ = line.orders.send(Order::Ask(sending.exchange, sending.bytes));
        line
    }

    pub(super) fn is_idle(&self) -> bool {
        self.lines.iter().all(|line| line.load() == 0)
    }

    fn open(&mut self) -> Ticket {
        let (orders, taken) = mpsc::unbounded_channel();
        let ticket = Ticket { orders, load: Arc::default(), is_open: Arc::default() };
        let line = Line {
            addr: self.addr,
            tls: self.tls.clone(),
            expire: self.expire,
            heard: self.heard.clone(),
            load: ticket.load.clone(),
            is_open: ticket.is_open.clone(),
            pending: BTreeMap::new(),
        };
        tokio::spawn(line.run(taken));
        self.lines.push(ticket.clone());
        ticket
    }
}

impl Ticket {
    fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    pub(super) fn forget(&self, exchange: Exchange) {
        // The far end lives as long as its tickets.
        let _ = self.orders.send(Order::Forget(exchange));
    }
}

/// The far end: one connection after the other.
struct Line {
    addr: SocketAddr,
    tls: Option<Connector>,
    expire: Duration,
    heard: mpsc::Sender<Heard>,
    load: Arc<AtomicUsize>,
    /// There is a connection.
    is_open: Arc<AtomicBool>,
    /// By the ID on the connection.
    pending: BTreeMap<u16, Pending>,
}

struct Pending {
    exchange: Exchange,
    query: Vec<u8>,
    /// It was on a connection that broke.
    is_second: bool,
}

/// A connection's end.
struct Broken {
    why: String,
    /// It had answered something.
    served: bool,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Line {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        loop {
            if self.pending.is_empty() {
                match orders.recv().await {
                    Some(order) => self.take(order).await,
                    None => return,
                }
                continue;
            }
            let ended = match self.connect().await {
                Ok(stream) => {
                    self.is_open.store(true, Ordering::Relaxed);
                    let ended = self.serve(stream, &mut orders).await;
                    self.is_open.store(false, Ordering::Relaxed);
                    ended
                }
                Err(why) => Some(Broken { why, served: false }),
            };
            if let Some(broken) = ended {
                self.give_up(&broken).await;
            }
        }
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, String> {
        let connecting = async {
            let tcp = TcpStream::connect(self.addr).await.map_err(|error| error.to_string())?;
            // Small messages must not wait for each other; without it they are only slower.
            let _ = tcp.set_nodelay(true);
            match &self.tls {
                None => Ok(Box::new(tcp) as Box<dyn Stream>),
                Some(tls) => tls.connect(tcp).await.map(|stream| Box::new(stream) as Box<dyn Stream>),
            }
        };
        let timed = tokio::time::timeout(CONNECT, connecting).await;
        timed.unwrap_or_else(|_| Err(format!("no connection within {} s", CONNECT.as_secs())))
    }

    /// Carries queries and replies until the connection breaks, or (`None`) was idle for long enough.
    async fn serve(
        &mut self,
        mut stream: Box<dyn Stream>,
        orders: &mut mpsc::UnboundedReceiver<Order>,
    ) -> Option<Broken> {
        let (mut input, mut output, mut served) = (BytesMut::with_capacity(4096), BytesMut::new(), false);
        self.pending.iter().for_each(|(id, pending)| put(&mut output, *id, &pending.query));
        let (mut reader, mut writer) = tokio::io::split(&mut stream);
        loop {
            tokio::select! {
                order = orders.recv() => match order? {
                    Order::Forget(exchange) => self.forget(exchange),
                    Order::Ask(exchange, query) => {
                        if let Some(id) = self.note(exchange, query).await {
                            put(&mut output, id, &self.pending[&id].query);
                        }
                    }
                },
                read = reader.read_buf(&mut input) => match read {
                    Ok(0) => return Some(Broken { why: "the server closed the connection".into(), served }),
                    Ok(_) => served |= self.read(&mut input).await,
                    Err(error) => return Some(Broken { why: error.to_string(), served }),
                },
                written = writer.write_buf(&mut output), if !output.is_empty() => {
                    let flushed = match written {
                        Ok(_) => writer.flush().await,
                        Err(error) => Err(error),
                    };
                    if let Err(error) = flushed {
                        return Some(Broken { why: error.to_string(), served });
                    }
                }
                () = tokio::time::sleep(self.expire), if self.pending.is_empty() => return None,
            }
        }
    }

    async fn take(&mut self, order: Order) {
        match order {
            Order::Ask(exchange, query) => drop(self.note(exchange, query).await),
            Order::Forget(exchange) => self.forget(exchange),
        }
    }

    /// Gives a query its ID on this connection.
    async fn note(&mut self, exchange: Exchange, query: Vec<u8>) -> Option<u16> {
        if self.pending.len() >= MOST_PENDING || query.len() < 2 {
            self.done(1);
            tell_failure(&self.heard, exchange, format!("{}: too many queries on one connection", self.addr)).await;
            return None;
        }
        let mut id = rand::random();
        while self.pending.contains_key(&id) {
            id = rand::random();
        }
        self.pending.insert(id, Pending { exchange, query, is_second: false });
        Some(id)
    }

    fn forget(&mut self, exchange: Exchange) {
        let before = self.pending.len();
        self.pending.retain(|_, pending| pending.exchange != exchange);
        self.done(before - self.pending.len());
    }

    /// Takes whole messages off `input`; `true` if one was for a query of ours.
    async fn read(&mut self, input: &mut BytesMut) -> bool {
        let mut served = false;
        while let Some(length) = input.first_chunk::<2>().map(|length| usize::from(u16::from_be_bytes(*length))) {
            if input.len() < 2 + length {
                break;
            }
            input.advance(2);
            let mut message = input.split_to(length).to_vec();
            let id = message.first_chunk::<2>().map(|id| u16::from_be_bytes(*id));
            // What nobody waits for any more is dropped.
            if let Some(pending) = id.and_then(|id| self.pending.remove(&id)) {
                message[..2].copy_from_slice(&pending.query[..2]);
                self.done(1);
                tell(&self.heard, pending.exchange, message).await;
                served = true;
            }
        }
        served
    }

    /// Keeps those that may be sent once more, and fails the others.
    async fn give_up(&mut self, broken: &Broken) {
        for (id, mut pending) in std::mem::take(&mut self.pending) {
            if broken.served && !pending.is_second {
                pending.is_second = true;
                self.pending.insert(id, pending);
                continue;
            }
            self.done(1);
            let transport = if self.tls.is_some() { "tls" } else { "tcp" };
            tell_failure(&self.heard, pending.exchange, format!("{}/{transport}: {}", self.addr, broken.why)).await;
        }
    }

    fn done(&self, count: usize) {
        self.load.fetch_sub(count, Ordering::Relaxed);
    }
}

/// A message with its length before it (RFC 1035 §4.2.2) and this ID.
fn put(output: &mut BytesMut, id: u16, query: &[u8]) {
    let Ok(length) = u16::try_from(query.len()) else { return };
    output.extend_from_slice(&length.to_be_bytes());
    output.extend_from_slice(&id.to_be_bytes());
    output.extend_from_slice(&query[2..]);
}
