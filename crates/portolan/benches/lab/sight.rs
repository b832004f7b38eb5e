//! A log of what was seen and when: filled by threads that listen, searched by the one that measures.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::Outcome;

/// How long anything measured here may take before the bench gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Entries with the instant each was seen at.
pub struct Log<T> {
    entries: Mutex<Vec<(Instant, T)>>,
    more: Condvar,
}

impl<T> Log<T> {
    pub fn new() -> Self {
        Self { entries: Mutex::new(Vec::new()), more: Condvar::new() }
    }

    pub fn push(&self, at: Instant, entry: T) {
        self.lock().push((at, entry));
        self.more.notify_all();
    }

    /// Begins anew: what was seen so far belongs to an earlier measurement.
    pub fn forget(&self) {
        self.lock().clear();
    }

    /// When an entry that fits was first seen, and what was found in it; waits for one.
    pub fn wait<R>(&self, what: &str, find: impl Fn(&T) -> Option<R>) -> Outcome<(Instant, R)> {
        let until = Instant::now() + PATIENCE;
        let mut entries = self.lock();
        let mut looked_at = 0;
        loop {
            let found =
                entries.get(looked_at..).unwrap_or_default().iter().find_map(|(at, entry)| Some((*at, find(entry)?)));
            if let Some(found) = found {
                return Ok(found);
            }
            looked_at = entries.len();
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("not seen within {PATIENCE:?}: {what}").into());
            }
            entries = self.more.wait_timeout(entries, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Instant, T)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
