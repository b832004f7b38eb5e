//! The queue: each task waits once, runs once at a time, and comes back when told to.
//!
//! A task called while it runs runs again afterwards. A failed one comes back later and later,
//! until it succeeds. Pure: `now` is a parameter.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use jiff::Timestamp;

use crate::plan::Task;

const FIRST_RETRY: Duration = Duration::from_millis(10);
const LAST_RETRY: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub struct Queue {
    waiting: VecDeque<Task>,
    is_waiting: HashSet<Task>,
    running: HashSet<Task>,
    again: HashSet<Task>,
    timers: BTreeSet<(Timestamp, Task)>,
    timer_of: HashMap<Task, Timestamp>,
    failures: BTreeMap<Task, u32>,
}

impl Queue {
    pub fn call(&mut self, task: Task) {
        if self.running.contains(&task) {
            self.again.insert(task);
        } else if self.is_waiting.insert(task.clone()) {
            self.waiting.push_back(task);
        }
    }

    /// The next task to run; it counts as running until `done` or `failed`.
    pub fn next(&mut self) -> Option<Task> {
        let task = self.waiting.pop_front()?;
        self.is_waiting.remove(&task);
        self.clear_timer(&task);
        self.running.insert(task.clone());
        Some(task)
    }

    /// The task ran; it wants to be looked at again at `wake_at`.
    pub fn done(&mut self, task: Task, wake_at: Option<Timestamp>) {
        self.failures.remove(&task);
        self.stop(task, wake_at);
    }

    /// The task's writes failed; it comes back after a pause that doubles each time.
    pub fn failed(&mut self, task: Task, now: Timestamp) {
        let failures = self.failures.entry(task.clone()).or_insert(0);
        let pause = FIRST_RETRY.saturating_mul(1 << (*failures).min(20));
        *failures += 1;
        let at = now + pause.min(LAST_RETRY);
        self.again.remove(&task); // what called it is in the world; the pause holds all the same
        self.stop(task, Some(at));
    }

    fn stop(&mut self, task: Task, wake_at: Option<Timestamp>) {
        self.running.remove(&task);
        if self.again.remove(&task) {
            self.call(task);
            return;
        }
        if let Some(at) = wake_at {
            self.timers.insert((at, task.clone()));
            self.timer_of.insert(task, at);
        }
    }

    fn clear_timer(&mut self, task: &Task) {
        if let Some(at) = self.timer_of.remove(task) {
            self.timers.remove(&(at, task.clone()));
        }
    }

    /// When the first timer goes off.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Calls what is due.
    pub fn tick(&mut self, now: Timestamp) {
        while self.next_deadline().is_some_and(|at| at <= now) {
            if let Some((_, task)) = self.timers.pop_first() {
                self.timer_of.remove(&task);
                self.call(task);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
    }

    #[test]
    fn a_task_waits_once_and_runs_again_if_called_while_it_runs() {
        let mut queue = Queue::default();
        queue.call(Task::PodCidrs);
        queue.call(Task::PodCidrs);
        assert_eq!(queue.next(), Some(Task::PodCidrs));
        assert_eq!(queue.next(), None);
        queue.call(Task::PodCidrs);
        assert_eq!(queue.next(), None, "it still runs");
        queue.done(Task::PodCidrs, None);
        assert_eq!(queue.next(), Some(Task::PodCidrs));
    }

    #[test]
    fn failures_come_back_later_each_time_and_success_forgets_them() {
        let mut queue = Queue::default();
        for pause in [10, 20, 40] {
            queue.call(Task::ClusterDns);
            queue.next();
            queue.failed(Task::ClusterDns, at(0));
            assert_eq!(queue.next_deadline(), Some(at(pause)));
            queue.tick(at(pause - 1));
            assert_eq!(queue.next(), None);
            queue.tick(at(pause));
        }
        queue.next();
        queue.done(Task::ClusterDns, None);
        assert_eq!(queue.next_deadline(), None);
        queue.call(Task::ClusterDns);
        queue.next();
        queue.failed(Task::ClusterDns, at(0));
        assert_eq!(queue.next_deadline(), Some(at(10)));
    }

    #[test]
    fn a_timer_is_dropped_when_the_task_runs_before() {
        let mut queue = Queue::default();
        queue.call(Task::PodCidrs);
        queue.next();
        queue.done(Task::PodCidrs, Some(at(50)));
        queue.call(Task::PodCidrs);
        queue.next();
        assert_eq!(queue.next_deadline(), None);
    }
}
