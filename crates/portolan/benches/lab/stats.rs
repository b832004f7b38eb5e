//! Samples and the tables they become: milliseconds, nearest-rank percentiles, Markdown.

use std::fmt::Write;
use std::time::Duration;

/// Durations of one thing, measured again and again.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    pub fn push(&mut self, took: Duration) {
        self.0.push(took);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The smallest sample that at least `percent` of all do not exceed (nearest rank); zero if there is none.
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    }

    pub fn median(&self) -> Duration {
        self.percentile(50)
    }
}

impl FromIterator<Duration> for Samples {
    fn from_iter<I: IntoIterator<Item = Duration>>(durations: I) -> Self {
        Self(durations.into_iter().collect())
    }
}

pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Three digits that say something: 0.123, 1.23, 12.3, 123.
pub fn three_digits(value: f64) -> String {
    match value {
        v if v < 0.9995 => format!("{v:.3}"),
        v if v < 10.0 => format!("{v:.2}"),
        v if v < 100.0 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

/// What the bench says, as Markdown.
#[derive(Default)]
pub struct Report(String);

impl Report {
    pub fn heading(&mut self, text: &str) {
        self.line(&format!("\n### {text}\n"));
    }

    pub fn line(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push('\n');
    }

    /// A table of distributions in milliseconds.
    pub fn distributions(&mut self, rows: &[(&str, &Samples)]) {
        self.line("| what (ms) | n | min | p50 | p90 | p99 | max |");
        self.line("|---|---:|---:|---:|---:|---:|---:|");
        for (what, samples) in rows {
            let mut row = format!("| {what} | {} |", samples.len());
            for percent in [0, 50, 90, 99, 100] {
                let _ = write!(row, " {} |", three_digits(millis(samples.percentile(percent))));
            }
            self.line(&row);
        }
    }

    /// Any other table.
    pub fn table(&mut self, header: &[&str], rows: &[Vec<String>]) {
        self.line(&format!("| {} |", header.join(" | ")));
        self.line(&format!("|---|{}", "---:|".repeat(header.len() - 1)));
        rows.iter().for_each(|row| self.line(&format!("| {} |", row.join(" | "))));
    }

    pub fn text(&self) -> &str {
        &self.0
    }
}
