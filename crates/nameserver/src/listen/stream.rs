//! TCP clients: connections, each a task that reads queries and writes replies as they are ready (RFC 7766).
//!
//! ```text
//!  bytes ──► Frames ──► Site::answer_now ──► out ──► bytes
//!                            └──► later ──► the task ──► words ──► out
//! ```
//!
//! Everything about a connection is bounded: the query being read, the replies not yet written (no query is read while
//! they are many), the queries under way, and the time in which something must come whole.

use std::net::SocketAddr;
use std::time::Duration;

use portolan_dns::Client;
use portolan_dns::site::Now;
use portolan_dns::wire::Transport;
use portolan_kernel::arrival;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::debug;

use super::frames::Frames;
use super::seats::Seat;
use super::tally::place;
use super::turn_away;
use crate::task::{Asked, Doors};

/// A client must bring a whole query, or take all replies that wait, within this.
const PATIENCE: Duration = Duration::from_secs(10);
/// Queries of one connection that may be under way at upstreams; more are not read yet.
const MOST_UNDER_WAY: usize = 64;
/// Bytes of replies that may wait for the client before no more queries are read.
const MOST_WAITING: usize = 64 * 1024;
/// Pause after an error of accepting, such as no descriptors left.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves all clients of a listener, as long as it lives.
pub(super) async fn accept(listener: TcpListener, doors: Doors) {
    loop {
        match listener.accept().await {
            Ok((stream, addr)) => {
                let seat = doors.seats.take(addr.ip().to_canonical());
                let doors = doors.clone();
                tokio::spawn(async move {
                    // A client that breaks off is done.
                    if let Ok(connection) = Connection::new(&stream, addr, doors) {
                        let _ = connection.serve(stream, &seat).await;
                    }
                });
            }
            Err(error) => {
                debug!(%error, "accepting a DNS client");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// What the task says about a query of this connection.
enum Word {
    Reply(Vec<u8>),
    /// There will be no more about it.
    Done,
}

/// Says [`Word::Done`] when the task lets go of the query, whether it replied or not.
struct UnderWay(mpsc::UnboundedSender<Word>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        // The connection may be gone.
        let _ = self.0.send(Word::Done);
    }
}

struct Connection {
    client: Client,
    doors: Doors,
    frames: Frames,
    /// Replies with their lengths, of which so many bytes are written.
    out: Vec<u8>,
    written: usize,
    scratch: Vec<u8>,
    under_way: usize,
    words: mpsc::UnboundedSender<Word>,
    heard: mpsc::UnboundedReceiver<Word>,
    /// The client will ask no more.
    has_ended: bool,
}

impl Connection {
    fn new(stream: &TcpStream, addr: SocketAddr, doors: Doors) -> std::io::Result<Self> {
        let local = stream.local_addr()?;
        let client = Client {
            addr: canonical(addr),
            local: canonical(local),
            transport: Transport::Tcp,
            link: arrival::link(stream, local.is_ipv6()).ok().flatten().unwrap_or(0),
        };
        stream.set_nodelay(true)?;
        let (words, heard) = mpsc::unbounded_channel();
        Ok(Self {
            client,
            doors,
            frames: Frames::new(),
            out: Vec::new(),
            written: 0,
            scratch: Vec::new(),
            under_way: 0,
            words,
            heard,
            has_ended: false,
        })
    }

    async fn serve(mut self, mut stream: TcpStream, seat: &Seat) -> std::io::Result<()> {
        let (mut from, mut to) = stream.split();
        let mut deadline = Instant::now() + PATIENCE;
        loop {
            if self.answer() {
                seat.alive();
                deadline = Instant::now() + PATIENCE;
            }
            let (has_room, writes) = (self.has_room(), self.waiting() > 0);
            if self.has_ended && self.under_way == 0 && !writes {
                return Ok(());
            }
            tokio::select! {
                count = from.read(self.frames.room()), if has_room && !self.has_ended => match count? {
                    0 => self.has_ended = true,
                    count => self.frames.filled(count),
                },
                count = to.write(&self.out[self.written..]), if writes => {
                    if self.wrote(count?) {
                        deadline = Instant::now() + PATIENCE;
                    }
                }
                Some(word) = self.heard.recv(), if self.waiting() < MOST_WAITING => self.hear(word),
                () = seat.needed() => return Ok(()),
                () = tokio::time::sleep_until(deadline) => match self.under_way > 0 && !writes {
                    // It waits for us, not we for it.
                    true => deadline = Instant::now() + PATIENCE,
                    false => return Ok(()),
                },
            }
        }
    }

    /// Bytes that the client has not taken yet.
    fn waiting(&self) -> usize {
        self.out.len() - self.written
    }

    /// One more query may be read and answered.
    fn has_room(&self) -> bool {
        self.under_way < MOST_UNDER_WAY && self.waiting() < MOST_WAITING
    }

    /// Answers the whole messages that were read, as far as there is room; whether there was one.
    fn answer(&mut self) -> bool {
        let tally = &self.doors.workers.streams;
        let (site, now) = (self.doors.site.load(), self.doors.site.now());
        let mut any = false;
        while self.has_room() {
            let Some((bytes, is_cut)) = self.frames.next() else { return any };
            any = true;
            tally.came.add(1);
            tally.cut.add(usize::from(is_cut));
            match site.answer_now(bytes, &self.client, now, &mut self.scratch) {
                Now::Replied(served) => {
                    tally.replied[place(served.rcode)].add(1);
                    site.took(served.head, self.doors.site.now().saturating_sub(now), 1);
                    if served.renew {
                        // With no room left the answer is renewed when it is over.
                        let renewal = Asked { client: self.client, packet: bytes.to_vec(), reply: None };
                        let _ = self.doors.later.try_send(renewal);
                    }
                }
                Now::Silent => {
                    tally.silent.add(1);
                    continue;
                }
                Now::Later => {
                    let asked = asked(self.client, bytes, &self.words);
                    if self.doors.later.try_send(asked).is_ok() {
                        tally.later.add(1);
                        self.under_way += 1;
                        continue;
                    }
                    // The query that was not taken has said that it is done.
                    self.under_way += 1;
                    if !turn_away(bytes, Transport::Tcp, &mut self.scratch) {
                        continue;
                    }
                    tally.turned_away.add(1);
                }
            }
            put(&mut self.out, &self.scratch);
        }
        any
    }

    fn hear(&mut self, word: Word) {
        match word {
            Word::Reply(bytes) => put(&mut self.out, &bytes),
            Word::Done => self.under_way -= 1,
        }
    }

    /// The client took so many bytes more; `true`: that was all. Room that a large answer took is given back.
    fn wrote(&mut self, count: usize) -> bool {
        self.written += count;
        let is_all = self.waiting() == 0;
        if is_all || self.written >= MOST_WAITING {
            self.out.drain(..self.written);
            self.out.shrink_to(MOST_WAITING);
            self.written = 0;
        }
        is_all
    }
}

fn put(out: &mut Vec<u8>, message: &[u8]) {
    let length = u16::try_from(message.len()).expect("a DNS message is never longer than 65,535 bytes");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(message);
}

fn asked(client: Client, bytes: &[u8], words: &mpsc::UnboundedSender<Word>) -> Asked {
    let under_way = UnderWay(words.clone());
    let reply = move |bytes| {
        // The client may have hung up.
        let _ = under_way.0.send(Word::Reply(bytes));
    };
    Asked { client, packet: bytes.to_vec(), reply: Some(Box::new(reply)) }
}

/// An IPv4 client of a socket of IPv6 is an IPv4 client.
fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        ip if ip == addr.ip() => addr,
        ip => (ip, addr.port()).into(),
    }
}
