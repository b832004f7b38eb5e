//! How long clients waited, as a histogram that many threads add to and nobody locks.
//!
//! A thread that answers a batch adds once for all of it: every query of the batch waited until the batch was sent.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::forward::view::Durations;

const BUCKETS: usize = 16;

/// Times by CoreDNS's buckets.
#[derive(Debug)]
pub(super) struct Times {
    /// Not cumulative; the last has no bound.
    buckets: [AtomicU64; BUCKETS + 1],
    /// The sum of all.
    nanos: AtomicU64,
}

impl Default for Times {
    fn default() -> Self {
        Self { buckets: array::from_fn(|_| AtomicU64::new(0)), nanos: AtomicU64::new(0) }
    }
}

impl Times {
    /// So many queries took so long, each.
    pub(super) fn add(&self, took: Duration, queries: u64) {
        let place = (0..BUCKETS).find(|at| took <= Durations::bound(*at)).unwrap_or(BUCKETS);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).saturating_mul(queries);
        self.buckets[place].fetch_add(queries, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// All of them.
    pub(super) fn read(&self) -> Durations {
        let counts: [u64; BUCKETS + 1] = array::from_fn(|at| self.buckets[at].load(Ordering::Relaxed));
        Durations {
            counts: array::from_fn(|at| counts[at]),
            count: counts.iter().sum(),
            sum: Duration::from_nanos(self.nanos.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_counts_in_the_bucket_that_it_fits_for_each_query_that_took_it() {
        let times = Times::default();
        let micros = Duration::from_micros;
        for (took, queries) in [(micros(250), 3), (micros(251), 2), (Duration::from_secs(9), 1)] {
            times.add(took, queries);
        }
        let seen = times.read();
        assert_eq!((seen.counts[0], seen.counts[1], seen.counts[2..].iter().sum::<u64>()), (3, 2, 0));
        assert_eq!((seen.count, seen.sum), (6, micros(750 + 502 + 9_000_000)));
    }
}
