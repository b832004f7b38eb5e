//! Seats for TCP clients: so many in all, so many for one address. A new client always gets one; if there is none left, the
//! connection that was quiet longest gives its own up, first among those of the same address (RFC 7766 §6.2.3).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The seats of all listeners.
pub(crate) struct Seats {
    in_all: usize,
    for_one: usize,
    taken: Mutex<Taken>,
    /// Grows with each sign of life.
    clock: AtomicU64,
}

#[derive(Default)]
struct Taken {
    next: u64,
    by_number: BTreeMap<u64, Arc<Sitter>>,
}

struct Sitter {
    addr: IpAddr,
    /// The clock at its last sign of life.
    alive: AtomicU64,
    leave: Notify,
}

/// A seat that is taken. Dropped, it is free.
pub(super) struct Seat {
    number: u64,
    sitter: Arc<Sitter>,
    seats: Arc<Seats>,
}

impl Seats {
    pub(crate) fn new(in_all: usize, for_one: usize) -> Arc<Self> {
        Arc::new(Self { in_all, for_one, taken: Mutex::default(), clock: AtomicU64::new(0) })
    }

    /// A seat for a client at `addr`; another may have to leave for it.
    pub(super) fn take(self: &Arc<Self>, addr: IpAddr) -> Seat {
        let sitter = Arc::new(Sitter { addr, alive: AtomicU64::new(self.tick()), leave: Notify::new() });
        let mut taken = self.lock();
        if taken.of(addr).count() >= self.for_one {
            taken.send_off(|sitter| sitter.addr == addr);
        } else if taken.by_number.len() >= self.in_all {
            taken.send_off(|_| true);
        }
        let number = taken.next;
        taken.next += 1;
        taken.by_number.insert(number, sitter.clone());
        drop(taken);
        Seat { number, sitter, seats: self.clone() }
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// A panic elsewhere leaves the map whole: each change is one step.
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn of(&self, addr: IpAddr) -> impl Iterator<Item = &Arc<Sitter>> {
        self.by_number.values().filter(move |sitter| sitter.addr == addr)
    }

    /// Has the quietest of those leave; its seat counts as free at once.
    fn send_off(&mut self, among: impl Fn(&Sitter) -> bool) {
        let those = self.by_number.iter().filter(|(_, sitter)| among(sitter));
        let quietest = those.min_by_key(|(_, sitter)| sitter.alive.load(Ordering::Relaxed)).map(|(number, _)| *number);
        if let Some(sitter) = quietest.and_then(|number| self.by_number.remove(&number)) {
            sitter.leave.notify_one();
        }
    }
}

impl Seat {
    /// The client did something that shows it wants to be here.
    pub(super) fn alive(&self) {
        self.sitter.alive.store(self.seats.tick(), Ordering::Relaxed);
    }

    /// Ends when the seat is needed for another.
    pub(super) async fn needed(&self) {
        self.sitter.leave.notified().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.lock().by_number.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    /// The last part of the addresses that sit, in the order of their seats.
    fn sitting(seats: &Seats) -> Vec<u8> {
        let octets = |sitter: &Arc<Sitter>| match sitter.addr {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(_) => panic!("IPv4 here"),
        };
        seats.lock().by_number.values().map(octets).collect()
    }

    fn is_told_to_leave(seat: &Seat) -> bool {
        let leaving = std::pin::pin!(seat.needed());
        leaving.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    #[test]
    fn the_quietest_leaves_when_all_seats_are_taken() {
        let seats = Seats::new(3, 3);
        let here = [seats.take(ip(1)), seats.take(ip(2)), seats.take(ip(3))];
        here[0].alive();
        let _new = seats.take(ip(4));
        assert_eq!(sitting(&seats), [1, 3, 4]);
        assert_eq!(here.each_ref().map(is_told_to_leave), [false, true, false]);
        drop(here);
        assert_eq!(sitting(&seats), [4]);
    }

    #[test]
    fn a_client_with_many_connections_gives_up_its_own_and_no_others() {
        let seats = Seats::new(10, 2);
        let _other = seats.take(ip(9));
        let _greedy: Vec<Seat> = (0..8).map(|_| seats.take(ip(1))).collect();
        assert_eq!(sitting(&seats), [9, 1, 1]);
    }
}
