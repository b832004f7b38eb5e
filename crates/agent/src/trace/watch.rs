//! Watches: one thread each that holds a trap and hears what the kernel tells of it, until it is ended or its time is over.
//!
//! ```text
//!  POST …/trace ─► Watches::begin ─► thread: Trap + Tracer ─► Heard, Heard, …
//!  POST …/trace/ID/end ─► Watches::end ─► what was heard; trap and thread are gone
//! ```

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use portolan_kernel::nft::{Nft, NftError};
use portolan_kernel::nft_look::BaseChain;
use portolan_kernel::nftrace::{CtSeen, TraceEvent, Traced, Tracer};
use portolan_kernel::trap::{ENTER, KNOWN, Trap, Watched};
use portolan_model::Proto;
use portolan_story::evidence::{Direction, Flow, Header, Seen, Watch};
use rand::Rng;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tokio::sync::{oneshot, watch};
use tracing::{debug, warn};

use super::former::Former;
use super::passages::{Heard, TABLE_PREFIX, begins_tcp, header_of};
use crate::history;

/// Watches at a time.
const MOST_WATCHES: usize = 16;
/// The longest that one lasts, in milliseconds.
pub(crate) const LONGEST_MS: u64 = 600_000;
/// Events kept of one watch: some 300 connections with 60 rules each.
const MOST_EVENTS: usize = 20_000;
/// Connections of others that are traced in a second.
const LIVE_PER_SECOND: u32 = 5;

/// Why no watch begins.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    #[error("{0}")]
    Bad(String),
    #[error(
        "{MOST_WATCHES} traces are under way on this node, which is the most; end one, or wait until one ends itself"
    )]
    TooMany,
    #[error(
        "the kernel cannot trace packets here: {0}; this needs Linux 5.12 and CAP_NET_ADMIN in the node's network namespace"
    )]
    Kernel(#[from] NftError),
    #[error("cannot start a thread for the trace: {0}")]
    Thread(std::io::Error),
}

/// What a watch heard.
pub(crate) struct Recorded {
    pub(crate) watch: Watch,
    /// The trap's.
    pub(crate) table: String,
    pub(crate) heard: Vec<Heard>,
    /// Something is missing.
    pub(crate) lost: bool,
    /// As they were when it began.
    pub(crate) bases: Vec<BaseChain>,
    /// Rules that went meanwhile.
    pub(crate) former: Former,
    /// When it began, microseconds since 1970.
    pub(crate) began_us: i64,
}

/// All watches of this node.
#[derive(Default)]
pub(crate) struct Watches(Mutex<BTreeMap<String, Arc<Handle>>>);

/// How a watch is reached from outside its thread.
struct Handle {
    watch: Watch,
    wake: OwnedFd,
    asked: Mutex<Option<oneshot::Sender<Recorded>>>,
    seen: watch::Receiver<Seen>,
}

impl Watches {
    /// Begins one; it listens when this returns. Blocks for some milliseconds.
    pub(crate) fn begin(self: &Arc<Self>, watch: Watch) -> Result<String, WatchError> {
        let watched = watched_of(&watch)?;
        let id = format!("{:016x}", rand::rng().random::<u64>());
        let wake =
            eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(|e| WatchError::Thread(e.into()))?;
        let (sender, seen) = watch::channel(Seen::default());
        let handle = Arc::new(Handle { watch, wake, asked: Mutex::new(None), seen });
        self.admit(&id, &handle)?;
        let begun = Listener::open(&id, &watched, sender).and_then(|listener| {
            let (watches, id) = (self.clone(), id.clone());
            let work = move || {
                listener.run(&handle);
                watches.forget(&id);
            };
            std::thread::Builder::new().name("trace".to_owned()).spawn(work).map_err(WatchError::Thread)
        });
        match begun {
            Ok(_) => Ok(id),
            Err(error) => {
                self.forget(&id);
                Err(error)
            }
        }
    }

    /// Ends one and takes what it heard; `None` if there is no such watch, or not any more.
    pub(crate) async fn end(&self, id: &str) -> Option<Recorded> {
        let handle = self.lock().remove(id)?;
        let (sender, recorded) = oneshot::channel();
        *handle.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        wake(&handle.wake);
        recorded.await.ok()
    }

    /// Waits until more than `known` packets were seen, or for `patience`; `None` as above.
    pub(crate) async fn seen(&self, id: &str, known: usize, patience: Duration) -> Option<Seen> {
        let mut seen = self.lock().get(id)?.seen.clone();
        // In time or not, the answer says which; that the thread has ended is an answer too.
        let _ = tokio::time::timeout(patience, seen.wait_for(|seen| seen.packets.len() > known)).await.map(drop);
        let now = seen.borrow().clone();
        Some(now)
    }

    fn admit(&self, id: &str, handle: &Arc<Handle>) -> Result<(), WatchError> {
        let mut watches = self.lock();
        if watches.len() >= MOST_WATCHES {
            return Err(WatchError::TooMany);
        }
        watches.insert(id.to_owned(), handle.clone());
        Ok(())
    }

    fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Handle>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(fd: &OwnedFd) {
    // A counter that is full wakes as well.
    let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
}

/// What the kernel is to look for.
fn watched_of(watch: &Watch) -> Result<Watched, WatchError> {
    if watch.lasts_ms == 0 || watch.lasts_ms > LONGEST_MS {
        let message = format!("lastsMs is {}; a trace lasts 1 to {LONGEST_MS} ms", watch.lasts_ms);
        return Err(WatchError::Bad(message));
    }
    Ok(match &watch.flow {
        Flow::Sequence { number } => Watched::Sequence(*number),
        Flow::Payload { begins } => Watched::Payload(payload_of(begins)?),
        Flow::Live { proto, sources, destinations } => Watched::Live {
            protocol: match proto {
                Proto::Tcp => libc::IPPROTO_TCP as u8,
                Proto::Udp => libc::IPPROTO_UDP as u8,
                Proto::Sctp => {
                    return Err(WatchError::Bad("flow.proto is SCTP; TCP and UDP can be traced".to_owned()));
                }
            },
            sources: sources.clone(),
            destinations: destinations.clone(),
            per_second: LIVE_PER_SECOND,
        },
    })
}

/// Reads 16 hexadecimal digits.
pub(crate) fn payload_of(text: &str) -> Result<[u8; 8], WatchError> {
    let digits = Some(text).filter(|text| text.len() == 16 && text.bytes().all(|digit| digit.is_ascii_hexdigit()));
    let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let bad = || WatchError::Bad(format!("flow.begins is {text:?}; it takes 16 hexadecimal digits"));
    number.map(u64::to_be_bytes).ok_or_else(bad)
}

/// The thread's own.
struct Listener {
    trap: Trap,
    tracer: Tracer,
    bases: Vec<BaseChain>,
    heard: Vec<Heard>,
    began: Instant,
    began_us: i64,
    former: Former,
    overflown: bool,
    seen: watch::Sender<Seen>,
}

impl Listener {
    /// Hears before it traps: nothing is missed.
    fn open(id: &str, watched: &Watched, seen: watch::Sender<Seen>) -> Result<Self, WatchError> {
        let former = Former::open();
        let tracer = Tracer::open()?;
        let (began, began_us) = (Instant::now(), history::micros(SystemTime::now()));
        let trap = Trap::arm(&format!("{TABLE_PREFIX}{id}"), watched)?;
        let bases = Nft::open()?.base_chains()?;
        Ok(Self { trap, tracer, bases, heard: Vec::new(), began, began_us, former, overflown: false, seen })
    }

    fn run(mut self, handle: &Handle) {
        let lasts = Duration::from_millis(handle.watch.lasts_ms);
        while let Some(left) = lasts.checked_sub(self.began.elapsed()).filter(|left| !left.is_zero()) {
            // Who asked before the read gets what came before he asked.
            let asked = handle.asked.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Err(error) = self.read() {
                warn!(%error, "a trace ends");
                return;
            }
            if let Some(sender) = asked {
                // Whoever asked may have given up.
                let _ = sender.send(self.recorded(handle.watch.clone()));
                return;
            }
            self.wait(handle, left);
        }
        debug!("a trace that nobody ended has ended itself");
    }

    fn wait(&self, handle: &Handle, left: Duration) {
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let mut fds = vec![PollFd::new(&self.tracer, PollFlags::IN), PollFd::new(&handle.wake, PollFlags::IN)];
        fds.extend(self.former.watch().map(|rules| PollFd::new(rules, PollFlags::IN)));
        // An interrupted wait only looks once more.
        let _ = poll(&mut fds, Some(&left));
    }

    fn read(&mut self) -> Result<(), NftError> {
        self.former.read();
        let at_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let events = self.tracer.read()?;
        let begun: Vec<_> = events.iter().filter(|event| self.begins(event)).filter_map(first_of).collect();
        for event in events {
            match self.heard.len() < MOST_EVENTS {
                true => self.heard.push(Heard { at_us, event }),
                false => self.overflown = true,
            }
        }
        self.seen.send_if_modified(|seen| {
            let before = seen.packets.len();
            for packet in begun {
                // What a node sends to itself comes in again.
                if !seen.packets.contains(&packet) {
                    seen.packets.push(packet);
                }
            }
            seen.packets.len() > before
        });
        Ok(())
    }

    fn begins(&self, event: &TraceEvent) -> bool {
        let is_first = event.chain.starts_with(ENTER) || event.chain.starts_with(KNOWN);
        event.table == self.trap.name() && is_first && matches!(event.what, Traced::Rule { .. })
    }

    fn recorded(&mut self, watch: Watch) -> Recorded {
        let lost = self.overflown || self.tracer.has_lost();
        let (heard, bases) = (std::mem::take(&mut self.heard), std::mem::take(&mut self.bases));
        let former = std::mem::take(&mut self.former);
        let (table, began_us) = (self.trap.name().to_owned(), self.began_us);
        Recorded { watch, table, heard, lost, bases, former, began_us }
    }
}

/// A packet that was just seen: by itself it tells which way it goes, or by the chain that knew it as an answer.
fn first_of(event: &TraceEvent) -> Option<(Direction, Header)> {
    let head = event.packet.as_ref()?;
    let is_answer = match (begins_tcp(head), head.state) {
        (Some(begins), _) => !begins,
        (None, Some(state)) => state == CtSeen::Known,
        // A kernel that does not tell conntrack's word: the first of a datagram's flow is taken for an answer too.
        (None, None) => event.chain.starts_with(KNOWN),
    };
    Some((if is_answer { Direction::Back } else { Direction::Forth }, header_of(head)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_16_hexadecimal_digits() {
        assert_eq!(payload_of("00010203a0Ff7f80").ok(), Some([0, 1, 2, 3, 0xa0, 0xff, 0x7f, 0x80]));
        for bad in ["", "0001", "+0010203a0ff7f80", "00010203a0ff7f8g", "00010203a0ff7f800"] {
            let error = payload_of(bad).expect_err(bad).to_string();
            assert!(error.contains("flow.begins") && error.contains("16"), "{error}");
        }
    }

    #[test]
    fn a_watch_that_lasts_for_ever_or_not_at_all_is_refused_by_the_fields_name() {
        for lasts_ms in [0, LONGEST_MS + 1] {
            let watch = Watch { flow: Flow::Sequence { number: 1 }, lasts_ms, count: 1 };
            let error = watched_of(&watch).expect_err("out of range").to_string();
            assert!(error.contains("lastsMs"), "{error}");
        }
    }
}
