//! `errors` with `consolidate`: errors that are alike are counted and told of once in a while, so that an upstream that is
//! away does not fill the log.
//!
//! ```text
//!  error ──► the first pattern that fits ──► counted ──► after its time: "7 errors like 'pattern' occurred in last 300s"
//!                 └── none: written at once
//! ```

use std::time::Duration;

use crate::corefile::config::{Consolidate, ErrorsConfig};

/// Patterns with what was counted.
#[derive(Clone, Debug)]
pub struct Errors(Vec<Counted>);

#[derive(Clone, Debug)]
struct Counted {
    config: Consolidate,
    count: u64,
    /// When what was counted is told.
    due: Option<Duration>,
}

impl Errors {
    /// Nothing counted yet.
    pub fn prepare(config: &ErrorsConfig) -> Self {
        let counted = |config: &Consolidate| Counted { config: config.clone(), count: 0, due: None };
        Self(config.consolidate.iter().map(counted).collect())
    }

    /// Whether `error`, what went wrong without the query it went wrong for, is to be written now; otherwise it is counted.
    pub fn is_written(&mut self, error: &str, now: Duration) -> bool {
        let Some(found) = self.0.iter_mut().find(|counted| counted.config.pattern.regex.is_match(error)) else {
            return true;
        };
        found.count += 1;
        found.due.get_or_insert(now + found.config.every);
        false
    }

    /// When [`due`](Self::due) has something to tell.
    pub fn next_due(&self) -> Option<Duration> {
        self.0.iter().filter_map(|counted| counted.due).min()
    }

    /// Lines about what was counted and whose time is over.
    pub fn due(&mut self, now: Duration) -> Vec<String> {
        let mut lines = Vec::new();
        for counted in &mut self.0 {
            if counted.due.is_some_and(|due| due <= now) {
                let (count, text) = (std::mem::take(&mut counted.count), &counted.config.pattern.text);
                lines.push(format!("{count} errors like '{text}' occurred in last {}", period(counted.config.every)));
                counted.due = None;
            }
        }
        lines
    }
}

/// A time as Go writes it: `5m0s`.
fn period(every: Duration) -> String {
    let secs = every.as_secs();
    match (secs / 3600, secs / 60 % 60) {
        _ if every.subsec_nanos() > 0 => format!("{every:?}"),
        (0, 0) => format!("{secs}s"),
        (0, minutes) => format!("{minutes}m{}s", secs % 60),
        (hours, minutes) => format!("{hours}h{minutes}m{}s", secs % 60),
    }
}
