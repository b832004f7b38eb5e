//! How long a server takes: a histogram in steps of a quarter of a doubling, in which older replies fade.
//!
//! From it come two patiences: after which a second server is asked as well, and after which the first counts as silent.

use std::time::Duration;

/// Width of the finest step.
const UNIT_MICROS: u64 = 125;
/// Sixteen doublings: 125 µs to 8 s.
const STEPS: usize = 64;
/// Fewer replies than these say nothing.
const ENOUGH: u32 = 8;
/// At so many, all counts are halved.
const FULL: u32 = 512;

/// Before anything is known.
const FIRST_HEDGE: Duration = Duration::from_millis(200);
/// Quicker than this nobody is called slow.
const LEAST_HEDGE: Duration = Duration::from_millis(20);
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LEAST_WAIT: Duration = Duration::from_millis(400);
const LONGEST_WAIT: Duration = Duration::from_millis(1500);

/// Times of one server's replies.
#[derive(Clone, Debug)]
pub(super) struct Latency {
    counts: [u16; STEPS],
    total: u32,
}

impl Default for Latency {
    fn default() -> Self {
        Self { counts: [0; STEPS], total: 0 }
    }
}

impl Latency {
    /// A reply took this long, or (one that nobody waited for any more) at least this long.
    pub(super) fn record(&mut self, took: Duration) {
        self.counts[step_of(took)] += 1;
        self.total += 1;
        if self.total >= FULL {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().map(|count| u32::from(*count)).sum();
        }
    }

    /// Within which 95 of 100 replies came; `None` while there were too few.
    pub(super) fn p95(&self) -> Option<Duration> {
        if self.total < ENOUGH {
            return None;
        }
        let mut slower = 0;
        let step = self.counts.iter().enumerate().rev().find(|(_, count)| {
            slower += u32::from(**count);
            slower * 20 > self.total
        });
        step.map(|(step, _)| upper_end(step))
    }

    /// When to ask somebody else too.
    pub(super) fn hedge_after(&self) -> Duration {
        self.p95().unwrap_or(FIRST_HEDGE).max(LEAST_HEDGE)
    }

    /// When to count it as silent.
    pub(super) fn silent_after(&self) -> Duration {
        self.p95().map_or(FIRST_WAIT, |p95| (p95 * 4).clamp(LEAST_WAIT, LONGEST_WAIT))
    }
}

fn step_of(took: Duration) -> usize {
    let units = u64::try_from(took.as_micros()).unwrap_or(u64::MAX) / UNIT_MICROS;
    if units == 0 {
        return 0;
    }
    let doublings = units.ilog2();
    let quarter = if doublings >= 2 { units >> (doublings - 2) & 3 } else { units << (2 - doublings) & 3 };
    (doublings as usize * 4 + quarter as usize).min(STEPS - 1)
}

fn upper_end(step: usize) -> Duration {
    let doublings = step / 4;
    // Below four units a quarter is less than one unit.
    let units = ((step as u64 % 4 + 5) << doublings) / 4 + u64::from(doublings < 2);
    Duration::from_micros(units * UNIT_MICROS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_within_a_quarter_above_the_true_quantile() {
        for millis in [1, 3, 10, 47, 300, 2000] {
            let mut latency = Latency::default();
            (0..94).for_each(|_| latency.record(Duration::from_millis(millis)));
            (0..6).for_each(|_| latency.record(Duration::from_secs(4)));
            assert!(latency.p95().expect("100 replies") >= Duration::from_secs(4), "six of 100 are slower");
            (0..100).for_each(|_| latency.record(Duration::from_millis(millis)));
            let p95 = latency.p95().expect("200 replies");
            assert!(
                p95 >= Duration::from_millis(millis) && p95 <= Duration::from_millis(millis) * 5 / 4 + UNIT,
                "{p95:?}"
            );
        }
    }

    const UNIT: Duration = Duration::from_micros(UNIT_MICROS);

    #[test]
    fn steps_are_in_order_and_hold_what_falls_into_them() {
        let mut before = 0;
        for micros in (0..8_000_000).step_by(97) {
            let step = step_of(Duration::from_micros(micros));
            assert!(step >= before);
            assert!(upper_end(step) >= Duration::from_micros(micros) || step == STEPS - 1, "{micros} in {step}");
            before = step;
        }
    }

    #[test]
    fn older_replies_fade_and_bounds_hold() {
        let mut latency = Latency::default();
        assert_eq!((latency.hedge_after(), latency.silent_after()), (FIRST_HEDGE, FIRST_WAIT));
        (0..1000).for_each(|_| latency.record(Duration::from_secs(3)));
        assert_eq!(latency.silent_after(), LONGEST_WAIT);
        (0..10_000).for_each(|_| latency.record(Duration::from_micros(300)));
        assert_eq!((latency.hedge_after(), latency.silent_after()), (LEAST_HEDGE, LEAST_WAIT));
    }
}
