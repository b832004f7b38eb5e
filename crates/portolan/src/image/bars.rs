//! A pull's progress on a terminal: one bar for each part. Nothing where there is no terminal.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use portolan_pods::image::Progress;

/// Bars by digest.
pub struct Bars {
    all: MultiProgress,
    bars: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    /// On standard error, if that is a terminal.
    pub fn on_stderr() -> Bars {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Bars { all: MultiProgress::with_draw_target(target), bars: Mutex::default() }
    }

    /// Takes the bars away; what comes next is printed where they were.
    pub fn clear(&self) {
        // A terminal that cannot be written to shows nothing either way.
        let _ = self.all.clear();
    }

    fn with(&self, digest: &str, act: impl FnOnce(&ProgressBar)) {
        let bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = bars.get(digest) {
            act(bar);
        }
    }
}

impl Progress for Bars {
    fn begins(&self, digest: &str, size_bytes: u64) {
        let bar = ProgressBar::new(size_bytes).with_style(style());
        let short: String = digest.trim_start_matches("sha256:").chars().take(12).collect();
        let bar = self.all.add(bar.with_message(short));
        bar.tick();
        self.bars.lock().unwrap_or_else(PoisonError::into_inner).insert(digest.to_owned(), bar);
    }

    fn arrived(&self, digest: &str, bytes: u64) {
        self.with(digest, |bar| bar.inc(bytes));
    }

    fn done(&self, digest: &str) {
        self.with(digest, |bar| {
            bar.set_position(bar.length().unwrap_or_default());
            bar.finish();
        });
    }
}

/// Fits 80 columns.
fn style() -> ProgressStyle {
    let style = ProgressStyle::with_template("{msg} {bar:30} {bytes:>10} of {total_bytes:<10} {bytes_per_sec}");
    style.expect("the template is well formed")
}
