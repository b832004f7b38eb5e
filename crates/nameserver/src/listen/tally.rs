//! What happened at the listeners, in numbers: each worker counts for itself, readers add up.

use std::sync::atomic::{AtomicU64, Ordering};

use portolan_dns::Rcode;

/// Codes that are counted apart: NOERROR to REFUSED, and one for all others.
pub(crate) const CODES: usize = 7;

/// The place of a code among [`CODES`].
pub(super) fn place(rcode: Rcode) -> usize {
    usize::from(rcode.0).min(CODES - 1)
}

/// Numbers of one worker, or of all connections. Each field grows only.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Messages that came.
    pub(super) came: Count,
    /// Replies that a listener gave by itself, by their code.
    pub(super) replied: [Count; CODES],
    /// Messages that get no reply: no query, or one that the configuration wants no word to.
    pub(super) silent: Count,
    /// Queries handed on, to be answered when an upstream has.
    pub(super) later: Count,
    /// Queries answered with SERVFAIL, because too many waited already.
    pub(super) turned_away: Count,
    /// Messages longer than any query.
    pub(super) cut: Count,
    /// Replies that the kernel did not take.
    pub(super) unsent: Count,
}

/// A number that one thread at a time adds to.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    /// Adds by load and store, which costs less than an atomic addition; so only the owner may.
    pub(super) fn add_alone(&self, more: usize) {
        self.0.store(self.0.load(Ordering::Relaxed) + more as u64, Ordering::Relaxed);
    }

    /// Adds, whoever else does.
    pub(super) fn add(&self, more: usize) {
        self.0.fetch_add(more as u64, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A [`Tally`] as it stands, or the sum of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tallied {
    /// Messages that came.
    pub(crate) came: u64,
    /// Replies that a listener gave by itself, by their code; all codes above the last in its place.
    pub(crate) replied: [u64; CODES],
    /// Messages that get no reply.
    pub(crate) silent: u64,
    /// Queries handed on.
    pub(crate) later: u64,
    /// Queries answered with SERVFAIL, because too many waited already.
    pub(crate) turned_away: u64,
    /// Messages longer than any query.
    pub(crate) cut: u64,
    /// Replies that the kernel did not take.
    pub(crate) unsent: u64,
    /// Datagrams that the kernel threw away before anybody read them.
    pub(crate) dropped: u64,
}

impl Tallied {
    /// Adds what `tally` says now.
    pub(super) fn plus(&mut self, tally: &Tally) {
        self.came += tally.came.get();
        for (sum, count) in self.replied.iter_mut().zip(&tally.replied) {
            *sum += count.get();
        }
        self.silent += tally.silent.get();
        self.later += tally.later.get();
        self.turned_away += tally.turned_away.get();
        self.cut += tally.cut.get();
        self.unsent += tally.unsent.get();
    }
}
