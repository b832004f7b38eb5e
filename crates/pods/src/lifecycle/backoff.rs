//! CrashLoopBackOff: the first restart at once, then 10 s doubling to 300 s; ten good minutes clear it.

use jiff::SignedDuration;

const FIRST: SignedDuration = SignedDuration::from_secs(10);
const LONGEST: SignedDuration = SignedDuration::from_secs(300);
const CLEARED_AFTER: SignedDuration = SignedDuration::from_secs(600);

/// How long to wait after the end of a run that `streak` quick restarts led to and that lasted `ran`.
pub fn restart_delay(streak: u32, ran: SignedDuration) -> SignedDuration {
    if streak == 0 || ran >= CLEARED_AFTER {
        return SignedDuration::ZERO;
    }
    delay_of(streak)
}

/// The streak of the run that follows.
pub fn next_streak(streak: u32, ran: SignedDuration) -> u32 {
    if ran >= CLEARED_AFTER { 1 } else { streak.saturating_add(1) }
}

/// 10, 20, 40 … 300.
pub fn delay_of(step: u32) -> SignedDuration {
    let doublings = step.saturating_sub(1).min(8);
    (FIRST * 2_i32.pow(doublings)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_loop_waits_longer_each_time_up_to_five_minutes() {
        let mut streak = 0;
        let mut waits = Vec::new();
        for _ in 0..9 {
            let ran = SignedDuration::from_secs(1);
            waits.push(restart_delay(streak, ran).as_secs());
            streak = next_streak(streak, ran);
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn ten_good_minutes_clear_the_back_off() {
        let long = SignedDuration::from_secs(600);
        assert_eq!(restart_delay(7, long), SignedDuration::ZERO);
        assert_eq!(next_streak(7, long), 1);
    }
}
