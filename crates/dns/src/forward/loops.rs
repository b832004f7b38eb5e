//! Loops of forwarding: a name that nobody else can know is asked through each server; if it comes to us, that server
//! brings our queries back.
//!
//! A loop is told of and not asked through while it stands; it is looked for again, and what is mended serves again
//! without a restart. Names are `<number>.<number>.<zone>` of type HINFO, as CoreDNS's plugin `loop` asks.

use std::time::Duration;

use crate::forward::{Exchange, Ids};
use crate::name::{Key, Name};

/// While a loop stands.
const LOOPING: Duration = Duration::from_secs(10);
/// After the first probes.
const NOW_AND_THEN: Duration = Duration::from_secs(300);

/// What is known of one server.
#[derive(Debug, Default)]
pub(super) struct LoopWatch {
    /// It brought the name of the last probe, or of one before, back.
    pub(super) loops: bool,
    /// The last probe came back.
    seen: bool,
    sent: u32,
    /// The last name and the one before: the last may still be on its way when the next is sent.
    names: [Option<Key>; 2],
    pub(super) exchange: Option<Exchange>,
    pub(super) act_at: Duration,
}

impl LoopWatch {
    /// A watch that acts at once.
    pub(super) fn new(now: Duration) -> Self {
        Self { act_at: now, ..Self::default() }
    }

    /// The next name to ask for. A loop that was not seen since the last one no longer stands: `true`, told once.
    pub(super) fn next(&mut self, zone: &Name, now: Duration, ids: Ids<'_>) -> (Option<Name>, bool) {
        let is_over = self.loops && !self.seen;
        self.loops &= !is_over;
        let mut number = || format!("{}", u64::from(ids()) << 32 | u64::from(ids()) << 16 | u64::from(ids()));
        let (first, second) = (number(), number());
        let name = zone.under([&first, &second]);
        self.names = [name.as_ref().map(Name::key), self.names[0].take()];
        self.seen = false;
        self.sent += 1;
        // The first may be sent before anybody listens: soon again, then rarely.
        self.act_at = now
            + match self.sent {
                _ if self.loops => LOOPING,
                1 => Duration::from_secs(2),
                2 => Duration::from_secs(8),
                _ => NOW_AND_THEN,
            };
        (name, is_over)
    }

    /// The name is one that this server was asked for.
    pub(super) fn knows(&self, key: &Key) -> bool {
        self.names.iter().flatten().any(|name| name == key)
    }

    /// It came back; `true` if that is news.
    pub(super) fn came_back(&mut self, now: Duration) -> bool {
        self.seen = true;
        self.act_at = self.act_at.min(now + LOOPING);
        !std::mem::replace(&mut self.loops, true)
    }
}
