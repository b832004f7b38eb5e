//! One supervised process: when it is started again. Decides only; [`crate::init`] acts.

use std::time::{Duration, Instant};

use crate::control::Place;
use crate::process::Ended;

const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// Who ran this long is forgiven.
const GOOD_RUN: Duration = Duration::from_secs(10);

/// What init starts and keeps running.
#[derive(Debug)]
pub(crate) struct Unit {
    /// `apiserver`, `upstream`, `agent-node-1`.
    pub name: String,
    pub place: Place,
    pub argv: Vec<String>,
    /// Gets the machine's API listener.
    pub gets_listener: bool,
    pub state: UnitState,
    pub restarts: u32,
    pub last_end: Option<Ended>,
    delay: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnitState {
    Waiting {
        until: Instant,
    },
    Running {
        pid: i32,
        since: Instant,
    },
    /// Until somebody starts it.
    Stopped,
}

impl Unit {
    pub fn new(name: String, place: Place, argv: Vec<String>, now: Instant) -> Unit {
        let state = UnitState::Waiting { until: now };
        Unit { name, place, argv, gets_listener: false, state, restarts: 0, last_end: None, delay: FIRST_DELAY }
    }

    pub fn with_listener(self) -> Unit {
        Unit { gets_listener: true, ..self }
    }

    pub fn pid(&self) -> Option<i32> {
        match self.state {
            UnitState::Running { pid, .. } => Some(pid),
            _ => None,
        }
    }

    pub fn is_due(&self, now: Instant) -> bool {
        self.next_start().is_some_and(|at| at <= now)
    }

    /// When it is to be started; `None` if it runs or is stopped.
    pub fn next_start(&self) -> Option<Instant> {
        match self.state {
            UnitState::Waiting { until } => Some(until),
            _ => None,
        }
    }

    pub fn started(&mut self, pid: i32, now: Instant) {
        self.state = UnitState::Running { pid, since: now };
    }

    /// It ended, or could not be started: starts at once after a good run, else waits twice as long as last time.
    pub fn ended(&mut self, how: Ended, now: Instant) {
        let was_good = matches!(self.state, UnitState::Running { since, .. } if now - since >= GOOD_RUN);
        let wait = if was_good { Duration::ZERO } else { self.delay };
        self.delay = if was_good { FIRST_DELAY } else { (self.delay * 2).min(LONGEST_DELAY) };
        self.last_end = Some(how);
        self.restarts += 1;
        self.state = UnitState::Waiting { until: now + wait };
    }

    pub fn stop(&mut self) {
        self.state = UnitState::Stopped;
    }

    pub fn start(&mut self, now: Instant) {
        if self.state == UnitState::Stopped {
            self.delay = FIRST_DELAY;
            self.state = UnitState::Waiting { until: now };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(now: Instant) -> Unit {
        Unit::new("agent-node-1".into(), Place::Node(1), vec!["agent".into()], now)
    }

    /// Waits between one end and the next start, for runs of the given length.
    fn delays(run: Duration, count: usize) -> Vec<u128> {
        let mut now = Instant::now();
        let mut unit = unit(now);
        let mut delays = Vec::new();
        for _ in 0..count {
            unit.started(7, now);
            now += run;
            unit.ended(Ended::Code(1), now);
            let next = unit.next_start().unwrap();
            delays.push((next - now).as_millis());
            now = next;
        }
        delays
    }

    #[test]
    fn the_wait_doubles_up_to_five_seconds() {
        assert_eq!(delays(Duration::ZERO, 7), [200, 400, 800, 1600, 3200, 5000, 5000]);
    }

    #[test]
    fn a_good_run_is_followed_by_a_start_at_once() {
        assert_eq!(delays(GOOD_RUN, 3), [0, 0, 0]);
        let short = GOOD_RUN - Duration::from_millis(1);
        assert_eq!(delays(short, 3), [200, 400, 800]);
    }

    #[test]
    fn a_stopped_unit_stays_stopped_until_started() {
        let now = Instant::now();
        let mut unit = unit(now);
        assert!(unit.is_due(now));
        unit.stop();
        assert!(!unit.is_due(now + LONGEST_DELAY));
        unit.start(now);
        assert!(unit.is_due(now));
    }

    #[test]
    fn starting_a_running_unit_changes_nothing() {
        let now = Instant::now();
        let mut unit = unit(now);
        unit.started(7, now);
        unit.start(now);
        assert_eq!(unit.pid(), Some(7));
    }
}
