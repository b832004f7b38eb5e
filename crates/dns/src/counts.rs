//! What was served, in numbers, by the zone of a block: counted where it is decided, read by whoever writes metrics.
//!
//! Every thread counts into a shard of its own, so that cores do not wait for each other and an addition is a load and a
//! store. Numbers only grow, and go on over a change of the configuration as long as the zone stays.

mod times;

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::client::Client;
use crate::counts::times::Times;
use crate::forward::view::Durations;
use crate::plugin::Plugin;
use crate::rdata::Rtype;
use crate::site::Served;
use crate::wire::{Rcode, Transport};

/// Threads that have a shard of their own at a time; those beyond share one.
const OWNED: usize = 32;
/// Codes that are counted apart, NOERROR to REFUSED; then all others.
pub const CODES: usize = 7;
/// Types that are counted apart; then all others. CoreDNS's.
pub const TYPES: [Rtype; 15] = [
    Rtype::A,
    Rtype::AAAA,
    Rtype::CNAME,
    Rtype(48),
    Rtype(43),
    Rtype::HTTPS,
    Rtype::MX,
    Rtype(47),
    Rtype(50),
    Rtype::NS,
    Rtype::PTR,
    Rtype(46),
    Rtype::SOA,
    Rtype::SRV,
    Rtype::TXT,
];
/// Upper bounds of the buckets of sizes, in bytes. CoreDNS's.
pub const SIZES: [usize; 14] = [0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16_000, 32_000, 48_000, 64_000];

/// Numbers of one zone of a block.
#[derive(Debug)]
pub struct Counts {
    /// One for each seat, made when its thread counts first, and the last for those without a seat.
    shards: [OnceLock<Box<Shard>>; OWNED + 1],
    times: Times,
}

/// One thread's numbers, on cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Shard {
    /// By transport, family, type.
    requests: [AtomicU64; 4 * (TYPES.len() + 1)],
    /// By code, plugin.
    responses: [AtomicU64; CODES * Plugin::COUNT],
    /// By transport: buckets, the rest, the sum.
    request_sizes: [AtomicU64; 2 * (SIZES.len() + 2)],
    response_sizes: [AtomicU64; 2 * (SIZES.len() + 2)],
    dnssec_ok: AtomicU64,
}

/// A histogram of sizes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// How many are at most as large as each of [`SIZES`], and larger than the one before.
    pub buckets: [u64; SIZES.len()],
    /// All, larger ones included.
    pub count: u64,
    /// Their sum in bytes.
    pub sum_bytes: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Self { shards: array::from_fn(|_| OnceLock::new()), times: Times::default() }
    }
}

impl Counts {
    /// Counts one query of `request_bytes` and its reply.
    pub fn count(&self, client: &Client, served: &Served, request_bytes: usize, response_bytes: usize) {
        let seat = seat();
        let shard = self.shards[seat.unwrap_or(OWNED)].get_or_init(Box::default);
        match seat {
            Some(_) => shard.count(client, served, request_bytes, response_bytes, add_alone),
            None => shard.count(client, served, request_bytes, response_bytes, add),
        }
    }

    /// So many queries were answered so long after they came, each.
    pub fn took(&self, took: Duration, queries: u64) {
        self.times.add(took, queries);
    }

    /// How long queries took.
    pub fn times(&self) -> Durations {
        self.times.read()
    }

    /// Requests by transport, family (of the client: is it IPv6?) and type (`None`: any other), none that are zero.
    pub fn requests(&self) -> Vec<(Transport, bool, Option<Rtype>, u64)> {
        let all = (0..4 * (TYPES.len() + 1)).map(|at| {
            let (carried, place) = (at / (TYPES.len() + 1), at % (TYPES.len() + 1));
            let count = self.sum(|shard| &shard.requests[at]);
            (transport(carried / 2), carried % 2 == 1, TYPES.get(place).copied(), count)
        });
        all.filter(|(.., count)| *count > 0).collect()
    }

    /// Responses by code (`None`: any other) and plugin, none that are zero.
    pub fn responses(&self) -> Vec<(Option<Rcode>, Plugin, u64)> {
        let all = (0..CODES * Plugin::COUNT).map(|at| {
            let (code, plugin) = (at / Plugin::COUNT, at % Plugin::COUNT);
            let rcode = (code + 1 < CODES).then_some(Rcode(code as u16));
            (rcode, Plugin::ALL[plugin], self.sum(|shard| &shard.responses[at]))
        });
        all.filter(|(.., count)| *count > 0).collect()
    }

    /// Sizes of queries that came by this transport.
    pub fn request_sizes(&self, by: Transport) -> Sizes {
        self.sizes(by, |shard| &shard.request_sizes)
    }

    /// Sizes of replies that went by this transport.
    pub fn response_sizes(&self, by: Transport) -> Sizes {
        self.sizes(by, |shard| &shard.response_sizes)
    }

    /// Queries of clients who want DNSSEC records.
    pub fn dnssec_ok(&self) -> u64 {
        self.sum(|shard| &shard.dnssec_ok)
    }

    fn sizes(&self, by: Transport, of: impl Fn(&Shard) -> &[AtomicU64; 2 * (SIZES.len() + 2)]) -> Sizes {
        let at = usize::from(by == Transport::Tcp) * (SIZES.len() + 2);
        let sum = |place: usize| self.made().map(|shard| of(shard)[at + place].load(Ordering::Relaxed)).sum();
        let buckets: [u64; SIZES.len()] = array::from_fn(sum);
        let larger: u64 = sum(SIZES.len());
        Sizes { buckets, count: buckets.iter().sum::<u64>() + larger, sum_bytes: sum(SIZES.len() + 1) }
    }

    fn sum(&self, of: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        self.made().map(|shard| of(shard).load(Ordering::Relaxed)).sum()
    }

    fn made(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter().filter_map(|shard| shard.get().map(|shard| &**shard))
    }
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            requests: array::from_fn(|_| AtomicU64::new(0)),
            responses: array::from_fn(|_| AtomicU64::new(0)),
            request_sizes: array::from_fn(|_| AtomicU64::new(0)),
            response_sizes: array::from_fn(|_| AtomicU64::new(0)),
            dnssec_ok: AtomicU64::new(0),
        }
    }
}

impl Shard {
    fn count(
        &self,
        client: &Client,
        served: &Served,
        request_bytes: usize,
        response_bytes: usize,
        add: impl Fn(&AtomicU64, u64),
    ) {
        let tcp = usize::from(client.transport == Transport::Tcp);
        let v6 = usize::from(client.ip().to_canonical().is_ipv6());
        add(&self.requests[(tcp * 2 + v6) * (TYPES.len() + 1) + type_place(served.rtype)], 1);
        add(&self.responses[code_place(served.rcode) * Plugin::COUNT + served.by as usize], 1);
        for (sizes, bytes) in [(&self.request_sizes, request_bytes), (&self.response_sizes, response_bytes)] {
            let at = tcp * (SIZES.len() + 2);
            add(&sizes[at + size_place(bytes)], 1);
            add(&sizes[at + SIZES.len() + 1], bytes as u64);
        }
        if served.dnssec_ok {
            add(&self.dnssec_ok, 1);
        }
    }
}

/// Adds where others may too.
fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

/// Adds where nobody else does: without the lock on the cache line that an atomic addition takes.
fn add_alone(count: &AtomicU64, more: u64) {
    count.store(count.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}

fn transport(place: usize) -> Transport {
    if place == 0 { Transport::Udp } else { Transport::Tcp }
}

fn type_place(rtype: Rtype) -> usize {
    TYPES.iter().position(|known| *known == rtype).unwrap_or(TYPES.len())
}

fn code_place(rcode: Rcode) -> usize {
    usize::from(rcode.0).min(CODES - 1)
}

fn size_place(bytes: usize) -> usize {
    SIZES.iter().position(|bound| bytes <= *bound).unwrap_or(SIZES.len())
}

/// Seats that no thread has. The lock hands what was counted at a seat on to whoever takes it next.
static FREE: Mutex<[bool; OWNED]> = Mutex::new([true; OWNED]);

/// A thread's place among the shards, while the thread lives.
struct Seat(Option<usize>);

impl Seat {
    fn take() -> Self {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let seat = free.iter().position(|is_free| *is_free);
        if let Some(seat) = seat {
            free[seat] = false;
        }
        Self(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(seat) = self.0 {
            FREE.lock().unwrap_or_else(PoisonError::into_inner)[seat] = true;
        }
    }
}

/// This thread's seat; `None`: all are taken, or the thread is ending.
fn seat() -> Option<usize> {
    thread_local! {
        static OWN: Seat = Seat::take();
    }
    OWN.try_with(|own| own.0).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_by_several_threads_is_read_as_one() {
        let counts = Counts::default();
        let client = |addr: &str, transport| Client {
            addr: (addr.parse::<std::net::IpAddr>().expect("an address"), 4000).into(),
            local: ([127, 0, 0, 1], 53).into(),
            transport,
            link: 0,
        };
        let served = |rcode, by, rtype| Served { rcode, head: Some(0), by, rtype, dnssec_ok: true, renew: false };
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let served = served(Rcode::NOERROR, Plugin::Kubernetes, Rtype::A);
                    counts.count(&client("10.0.0.1", Transport::Udp), &served, 60, 100);
                });
            }
        });
        let odd = served(Rcode::BADVERS, Plugin::None, Rtype(300));
        counts.count(&client("fd00::1", Transport::Tcp), &odd, 20, 70_000);
        assert_eq!(counts.requests(), [(Transport::Udp, false, Some(Rtype::A), 3), (Transport::Tcp, true, None, 1)]);
        assert_eq!(counts.responses(), [(Some(Rcode::NOERROR), Plugin::Kubernetes, 3), (None, Plugin::None, 1)]);
        let udp = counts.response_sizes(Transport::Udp);
        assert_eq!((udp.buckets[1], udp.count, udp.sum_bytes), (3, 3, 300));
        let tcp = counts.response_sizes(Transport::Tcp);
        assert_eq!((tcp.buckets.iter().sum::<u64>(), tcp.count, tcp.sum_bytes), (0, 1, 70_000));
        assert_eq!((counts.request_sizes(Transport::Udp).sum_bytes, counts.dnssec_ok()), (180, 4));
    }

    #[test]
    fn nothing_is_lost_where_threads_are_more_than_seats_or_take_a_seat_after_another() {
        const EACH: u64 = 4000;
        let (counts, waves, threads) = (Counts::default(), 2, OWNED * 2);
        let client = Client {
            addr: ([10, 0, 0, 1], 4000).into(),
            local: ([127, 0, 0, 1], 53).into(),
            transport: Transport::Udp,
            link: 0,
        };
        let served = Served {
            rcode: Rcode::NOERROR,
            head: Some(0),
            by: Plugin::Kubernetes,
            rtype: Rtype::A,
            dnssec_ok: true,
            renew: false,
        };
        for _ in 0..waves {
            // All are there at once, so that some must share.
            let all = std::sync::Barrier::new(threads);
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        counts.count(&client, &served, 10, 20);
                        all.wait();
                        (1..EACH).for_each(|_| counts.count(&client, &served, 10, 20));
                    });
                }
            });
        }
        let wanted = waves * threads as u64 * EACH;
        assert_eq!((counts.dnssec_ok(), counts.request_sizes(Transport::Udp).sum_bytes), (wanted, wanted * 10));
    }

    #[test]
    fn every_plugin_has_the_place_of_its_number() {
        for (at, plugin) in Plugin::ALL.iter().enumerate() {
            assert_eq!(*plugin as usize, at);
        }
    }
}
