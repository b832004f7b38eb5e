//! Who is woken by a change: the watchers of prefixes that it falls under, and now and then everybody.
//!
//! A hundred watchers and a hundred heartbeats would otherwise be ten thousand wake-ups that find nothing. Everybody is
//! rung before the ring of past events can have turned over, so that a watcher of something that rarely changes moves on
//! with the rest and is not told that its past is forgotten.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch::{Receiver, Sender};

use crate::ring::RingLimits;

/// A bell for each prefix that is watched. The value is the revision it was last rung for.
#[derive(Debug)]
pub(crate) struct Bells {
    /// `None`: the store is closed.
    open: Mutex<Option<Open>>,
    limits: RingLimits,
}

#[derive(Debug, Default)]
struct Open {
    by_prefix: HashMap<String, Sender<u64>>,
    /// Since everybody was rung.
    events: usize,
    bytes: usize,
}

/// A changed key, and how many bytes the ring keeps for it.
pub(crate) struct Changed<'a> {
    pub key: &'a str,
    pub bytes: usize,
}

/// Everybody is rung when this part of the ring is new.
const PART: usize = 8;

impl Bells {
    pub fn new(limits: RingLimits) -> Bells {
        Bells { open: Mutex::new(Some(Open::default())), limits }
    }

    /// A bell that rings for changes under `prefix` from now on; `None` if the store is closed.
    pub fn listen(&self, prefix: &str) -> Option<Receiver<u64>> {
        let mut open = self.lock();
        let by_prefix = &mut open.as_mut()?.by_prefix;
        Some(by_prefix.entry(prefix.to_owned()).or_insert_with(|| Sender::new(0)).subscribe())
    }

    /// To be called when readers can see the changes.
    pub fn ring(&self, revision: u64, changed: &[Changed<'_>]) {
        let mut open = self.lock();
        let Some(open) = open.as_mut() else { return };
        open.by_prefix.retain(|_, bell| bell.receiver_count() > 0);
        open.events += changed.len();
        open.bytes += changed.iter().map(|one| one.bytes).sum::<usize>();
        let everybody = open.events > self.limits.events / PART || open.bytes > self.limits.bytes / PART;
        if everybody {
            (open.events, open.bytes) = (0, 0);
        }
        for (prefix, bell) in &open.by_prefix {
            if everybody || changed.iter().any(|one| one.key.starts_with(prefix)) {
                bell.send_replace(revision);
            }
        }
    }

    /// Tells everybody that no more will come.
    pub fn close(&self) {
        self.lock().take();
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bells(events: usize) -> Bells {
        Bells::new(RingLimits { events, bytes: 1 << 20 })
    }

    fn rung(bell: &mut Receiver<u64>) -> bool {
        let rung = bell.has_changed().expect("open");
        bell.borrow_and_update();
        rung
    }

    #[test]
    fn a_change_wakes_the_watchers_of_its_prefixes_and_no_others() {
        let bells = bells(1000);
        let mut all = bells.listen("/").expect("open");
        let mut pods = bells.listen("/pods/").expect("open");
        let mut some = bells.listen("/pods/default/").expect("open");
        let mut leases = bells.listen("/leases/").expect("open");
        bells.ring(1, &[Changed { key: "/pods/kube-system/dns", bytes: 100 }]);
        assert_eq!([&mut all, &mut pods, &mut some, &mut leases].map(rung), [true, true, false, false]);
        bells.ring(2, &[Changed { key: "/leases/x", bytes: 1 }, Changed { key: "/pods/default/a", bytes: 1 }]);
        assert_eq!([&mut all, &mut pods, &mut some, &mut leases].map(rung), [true; 4]);
    }

    #[test]
    fn everybody_is_woken_before_the_ring_turns_over() {
        let bells = bells(80);
        let mut quiet = bells.listen("/quiet/").expect("open");
        let waited = (1..100).find(|revision| {
            bells.ring(*revision, &[Changed { key: "/busy/x", bytes: 1 }]);
            rung(&mut quiet)
        });
        assert_eq!(waited, Some(11));
        bells.ring(200, &[Changed { key: "/busy/x", bytes: 1 << 19 }]);
        assert!(rung(&mut quiet), "bytes count as well");
    }

    #[test]
    fn a_closed_store_rings_no_more_and_says_so() {
        let bells = bells(80);
        let bell = bells.listen("/").expect("open");
        bells.close();
        assert!(bell.has_changed().is_err() && bells.listen("/").is_none());
    }

    #[test]
    fn a_bell_that_nobody_listens_to_is_taken_down() {
        let bells = bells(80);
        drop(bells.listen("/gone/"));
        bells.ring(1, &[]);
        assert!(bells.lock().as_ref().expect("open").by_prefix.is_empty());
    }
}
