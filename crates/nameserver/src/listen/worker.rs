//! Workers: threads that answer datagrams, a batch at a time, from the site in force.
//!
//! ```text
//!  poll ──► one batch a socket and turn ──► Site::answer_now ──► one sendmmsg
//!    ▲                                           └──► later ──► the task
//!  bell: sockets come and go
//! ```
//!
//! A worker waits for nothing but its sockets: no lock is held while it answers, and the site is looked at once a batch.
//! Each socket gets one batch a turn, so that a busy one holds no other up.
//!
//! It is poll(2) and not epoll(7) on purpose: a socket in an epoll set has a waiter all the time, and the kernel wakes it
//! for each reply that has left (`sock_wfree`, 3 to 4 % of all time under load). poll waits while it waits. Sockets of a
//! worker are few.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portolan_dns::site::Now;
use portolan_dns::wire::Transport;
use portolan_dns::{Client, Site};
use portolan_kernel::udp::{Datagram, Inbox, Outbox, Socket};
use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::tally::{CODES, Tallied, Tally, place as place_of};
use super::turn_away;
use crate::handle::SiteCell;
use crate::task::Asked;

/// Of a message that is longer than any query only the header is read: the answer is FORMERR.
const HEADER: usize = 12;
/// Batches that are answered of a socket that is being closed: its whole queue, if that is not filled all the while.
const LAST_BATCHES: usize = 128;
/// What is held against each poll's answer; errors and ends are told without asking (poll(2)).
const READABLE: PollFlags = PollFlags::IN;

/// One worker for each core.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The workers. Dropped, they end.
pub(crate) struct Workers {
    each: Vec<Arc<Desk>>,
    next_key: Mutex<u64>,
    /// What connections count.
    pub(super) streams: Tally,
    /// Datagrams thrown away at sockets that are closed.
    gone: Mutex<u64>,
}

/// Where a worker finds what others want of it.
struct Desk {
    orders: Mutex<Vec<Order>>,
    bell: OwnedFd,
    tally: Tally,
    sockets: Mutex<BTreeMap<u64, Arc<Socket>>>,
}

enum Order {
    Open(u64, Arc<Socket>),
    Close(u64),
    End,
}

/// A socket in a worker's care. Dropped, it is closed.
pub(crate) struct Opened {
    key: u64,
    nth: usize,
    workers: Arc<Workers>,
}

impl Workers {
    /// Starts `count` threads; 0 is one for each core.
    ///
    /// # Errors
    /// The machine lacks descriptors or threads.
    pub(crate) fn start(count: usize, site: &Arc<SiteCell>, later: &mpsc::Sender<Asked>) -> io::Result<Arc<Self>> {
        let count = if count == 0 { cores() } else { count };
        let mut each = Vec::new();
        for nth in 0..count {
            let desk = Arc::new(Desk::new()?);
            let worker = Worker::new(desk.clone(), site.clone(), later.clone());
            std::thread::Builder::new().name(format!("dns-{nth}")).spawn(move || worker.run())?;
            each.push(desk);
        }
        Ok(Arc::new(Self { each, next_key: Mutex::default(), streams: Tally::default(), gone: Mutex::new(0) }))
    }

    /// Has the `nth` worker, or the one that is it when counted round, answer at `socket`.
    pub(crate) fn open(self: &Arc<Self>, nth: usize, socket: Arc<Socket>) -> Opened {
        let key = {
            let mut next = held(&self.next_key);
            *next += 1;
            *next
        };
        let nth = nth % self.each.len();
        held(&self.each[nth].sockets).insert(key, socket.clone());
        self.each[nth].order(Order::Open(key, socket));
        Opened { key, nth, workers: self.clone() }
    }

    /// What all workers and connections counted.
    pub(crate) fn tallied(&self) -> Tallied {
        let mut sum = Tallied { dropped: *held(&self.gone), ..Tallied::default() };
        sum.plus(&self.streams);
        for desk in &self.each {
            sum.plus(&desk.tally);
            sum.dropped += held(&desk.sockets).values().map(|socket| u64::from(socket.drops())).sum::<u64>();
        }
        sum
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.each.iter().for_each(|desk| desk.order(Order::End));
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let desk = &self.workers.each[self.nth];
        if let Some(socket) = held(&desk.sockets).remove(&self.key) {
            *held(&self.workers.gone) += u64::from(socket.drops());
        }
        desk.order(Order::Close(self.key));
    }
}

impl Desk {
    fn new() -> io::Result<Self> {
        let bell =
            rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK)?;
        Ok(Self { orders: Mutex::default(), bell, tally: Tally::default(), sockets: Mutex::default() })
    }

    fn order(&self, order: Order) {
        held(&self.orders).push(order);
        // A bell that cannot be rung is ringing: its number is at the top.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
}

/// A panic elsewhere leaves these values whole: each is changed in one step.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Worker {
    desk: Arc<Desk>,
    sockets: BTreeMap<u64, Arc<Socket>>,
    cell: Arc<SiteCell>,
    site: Arc<Site>,
    generation: u64,
    later: mpsc::Sender<Asked>,
    inbox: Inbox,
    outbox: Outbox,
}

/// What a batch came to.
#[derive(Default)]
struct Batch {
    replied: [usize; CODES],
    silent: usize,
    later: usize,
    turned_away: usize,
    cut: usize,
    /// Replies by the zone that the query fell to, in runs.
    heads: Vec<(Option<u16>, u64)>,
}

impl Batch {
    fn count_head(&mut self, head: Option<u16>) {
        match self.heads.last_mut() {
            Some((last, queries)) if *last == head => *queries += 1,
            _ => self.heads.push((head, 1)),
        }
    }
}

impl Worker {
    fn new(desk: Arc<Desk>, cell: Arc<SiteCell>, later: mpsc::Sender<Asked>) -> Self {
        let generation = cell.generation();
        Self {
            desk,
            sockets: BTreeMap::new(),
            site: cell.load(),
            cell,
            generation,
            later,
            inbox: Inbox::new(),
            outbox: Outbox::new(),
        }
    }

    fn run(mut self) {
        while self.serve() {}
    }

    /// Answers at the sockets that are there until the bell rings. `false`: it is to end.
    fn serve(&mut self) -> bool {
        let (sockets, desk): (Vec<Arc<Socket>>, _) = (self.sockets.values().cloned().collect(), self.desk.clone());
        let all = sockets.iter().map(|socket| PollFd::new(&**socket, READABLE));
        // The bell last: the kernel stops looking for a place to wait once one is readable.
        let mut watched: Vec<PollFd<'_>> = all.chain([PollFd::new(&desk.bell, READABLE)]).collect();
        loop {
            match poll(&mut watched, None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => {
                    warn!(%error, "a DNS thread cannot wait for queries; it ends");
                    return false;
                }
            }
            for (socket, _) in sockets.iter().zip(&watched).filter(|(_, told)| !told.revents().is_empty()) {
                self.batch(socket);
            }
            if watched.last().is_some_and(|bell| !bell.revents().is_empty()) {
                return self.obey();
            }
        }
    }

    /// `false`: it is to end.
    fn obey(&mut self) -> bool {
        // Read before the orders are taken: one that comes in between rings again.
        let _ = rustix::io::read(&self.desk.bell, &mut [0u8; 8]);
        let orders = std::mem::take(&mut *held(&self.desk.orders));
        for order in orders {
            match order {
                Order::Open(key, socket) => drop(self.sockets.insert(key, socket)),
                Order::Close(key) => self.close(key),
                Order::End => return false,
            }
        }
        true
    }

    fn close(&mut self, key: u64) {
        let Some(socket) = self.sockets.remove(&key) else { return };
        for _ in 0..LAST_BATCHES {
            if self.batch(&socket) == 0 {
                return;
            }
        }
    }

    /// Answers up to one batch; how many came.
    fn batch(&mut self, socket: &Arc<Socket>) -> usize {
        let came = match self.inbox.receive(socket) {
            Ok(came) => came,
            // An ICMP error about an earlier reply; the socket goes on.
            Err(error) => {
                debug!(%error, "receiving queries at {}", socket.local_addr());
                return 0;
            }
        };
        self.look_at_site();
        let now = self.cell.now();
        let mut batch = Batch::default();
        if came > 1 {
            self.site.look_ahead((0..came).map(|place| self.inbox.bytes(place)));
        }
        for place in 0..came {
            self.answer(socket, place, now, &mut batch);
        }
        let sent = self.outbox.send(socket, &self.inbox);
        let took = self.cell.now().saturating_sub(now);
        batch.heads.iter().for_each(|(head, queries)| self.site.took(*head, took, *queries));
        self.count(came, &batch, sent.refused);
        came
    }

    fn look_at_site(&mut self) {
        let generation = self.cell.generation();
        if generation != self.generation {
            self.generation = generation;
            self.site = self.cell.load();
        }
    }

    fn answer(&mut self, socket: &Arc<Socket>, place: usize, now: Duration, batch: &mut Batch) {
        let datagram = self.inbox.datagram(place);
        let client = client(socket, &datagram);
        let bytes = match datagram.is_cut {
            false => datagram.bytes,
            true => {
                batch.cut += 1;
                &datagram.bytes[..HEADER]
            }
        };
        let out = self.outbox.buffer();
        let reply = match self.site.answer_now(bytes, &client, now, out) {
            Now::Replied(served) => {
                if served.renew {
                    // With no room left the answer is renewed when it is over.
                    let _ = self.later.try_send(Asked { client, packet: bytes.to_vec(), reply: None });
                }
                batch.count_head(served.head);
                &mut batch.replied[place_of(served.rcode)]
            }
            Now::Silent => return batch.silent += 1,
            Now::Later => match self.later.try_send(asked(socket, client, bytes)) {
                Ok(()) => return batch.later += 1,
                Err(_) if turn_away(bytes, Transport::Udp, out) => &mut batch.turned_away,
                Err(_) => return batch.silent += 1,
            },
        };
        *reply += 1;
        self.outbox.keep(place);
    }

    fn count(&self, came: usize, batch: &Batch, unsent: usize) {
        let tally = &self.desk.tally;
        tally.came.add_alone(came);
        for (count, more) in tally.replied.iter().zip(batch.replied) {
            count.add_alone(more);
        }
        tally.silent.add_alone(batch.silent);
        tally.later.add_alone(batch.later);
        tally.turned_away.add_alone(batch.turned_away);
        tally.cut.add_alone(batch.cut);
        tally.unsent.add_alone(unsent);
    }
}

fn client(socket: &Socket, datagram: &Datagram<'_>) -> Client {
    let port = socket.local_addr().port();
    Client { addr: datagram.from, local: (datagram.local, port).into(), transport: Transport::Udp, link: datagram.link }
}

/// The query for the task; its reply leaves by the socket it came to.
fn asked(socket: &Arc<Socket>, client: Client, bytes: &[u8]) -> Asked {
    let socket = socket.clone();
    let reply = move |bytes: Vec<u8>| {
        if let Err(error) = socket.send(&bytes, client.addr, client.local.ip()) {
            debug!(to = %client.addr, %error, "a reply could not be sent");
        }
    };
    Asked { client, packet: bytes.to_vec(), reply: Some(Box::new(reply)) }
}
