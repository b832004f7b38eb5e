//! Another hand in our rules is noticed: at once where rules live in nf_tables, by canaries where they do not.
//!
//! ```text
//!  nf_tables ─► NftMonitor ─► Input::Edited ─► Writer::concerns ─┬─ tables of others, our own writes ─► nothing
//!                                                                └─ anybody else's ─► all is compared
//!  iptables-legacy: chain KUBE-PROXY-CANARY in three tables, looked for every few seconds, as kube-proxy does
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use portolan_kernel::iptables::{Family as ToolFamily, Flush, Tool};
use portolan_kernel::nft_monitor::{Change, NftEvent, NftMonitor};
use portolan_model::Family;
use rustix::event::{PollFd, PollFlags, poll};
use tracing::{info, warn};

use crate::proxy::ProxyError;

/// Between two looks at the canaries.
const CANARY_EVERY: Duration = Duration::from_secs(3);
const CANARY: &str = "KUBE-PROXY-CANARY";
const CANARY_TABLES: [&str; 3] = ["mangle", "nat", "filter"];
/// The kernel has told of a transaction before the program that made it ends; so long it may lie unread.
const UNREAD_FOR: Duration = Duration::from_secs(5);

/// Tells `heard` of every change of nf_tables in the calling thread's network namespace that did not come from `own`
/// netlink ports, until it says that nobody listens; on a thread of its own.
pub(crate) fn nf_tables(own: &[u32], heard: impl Fn(Vec<NftEvent>) -> bool + Send + 'static) -> Result<(), ProxyError> {
    let mut monitor = NftMonitor::open(own)?;
    let work = move || {
        loop {
            // A signal ends the wait early; then there is nothing to read and the wait begins again.
            let _ = poll(&mut [PollFd::new(&monitor, PollFlags::IN)], None);
            match monitor.read() {
                Ok(events) => {
                    if !events.is_empty() && !heard(events) {
                        return;
                    }
                }
                Err(error) => return warn!(%error, "foreign edits of the rules are not noticed any more"),
            }
        }
    };
    std::thread::Builder::new().name("rules-watch".to_owned()).spawn(work).map(drop).map_err(ProxyError::Thread)
}

/// Rules of iptables-legacy: nobody tells of changes. A chain that vanishes says that the tables were flushed.
pub(crate) fn canaries(
    tool: Tool,
    families: Vec<Family>,
    flushed: impl Fn(Family) -> bool + Send + 'static,
) -> Result<(), ProxyError> {
    let work = move || {
        for family in &families {
            missing_canaries(&tool, *family);
        }
        loop {
            std::thread::sleep(CANARY_EVERY);
            for family in &families {
                if missing_canaries(&tool, *family) {
                    info!(?family, "the rules were flushed by another hand");
                    if !flushed(*family) {
                        return;
                    }
                }
            }
        }
    };
    std::thread::Builder::new().name("canaries".to_owned()).spawn(work).map(drop).map_err(ProxyError::Thread)
}

/// Puts canaries where there are none; says whether one was missing.
fn missing_canaries(tool: &Tool, family: Family) -> bool {
    let family = match family {
        Family::V4 => ToolFamily::V4,
        Family::V6 => ToolFamily::V6,
    };
    let is_missing = |table: &&&str| tool.has_chain(family, table, CANARY).is_ok_and(|found| !found);
    let missing: Vec<&&str> = CANARY_TABLES.iter().filter(is_missing).collect();
    let text: String = missing.iter().map(|table| format!("*{table}\n:{CANARY} - [0:0]\nCOMMIT\n")).collect();
    if !missing.is_empty()
        && let Err(error) = tool.restore(family, &text, Flush::Keep)
    {
        warn!(%error, "a canary was not put into the rules");
    }
    !missing.is_empty()
}

/// Transactions that our own iptables-restore makes, so that nobody takes them for another's: it is a process of its own,
/// known by the tables that it was given, in their order.
#[derive(Debug, Default)]
pub(crate) struct OwnWrites(VecDeque<OwnWrite>);

#[derive(Debug)]
struct OwnWrite {
    tables: VecDeque<&'static str>,
    /// Known from its first transaction on.
    pid: Option<u32>,
    until: Instant,
}

impl OwnWrites {
    /// We wrote these tables.
    pub(crate) fn wrote(&mut self, tables: impl IntoIterator<Item = &'static str>, now: Instant) {
        self.0.retain(|write| write.until > now);
        let tables: VecDeque<_> = tables.into_iter().collect();
        if !tables.is_empty() {
            self.0.push_back(OwnWrite { tables, pid: None, until: now + UNREAD_FOR });
        }
    }

    /// Is this a transaction of ours? Each counts once.
    pub(crate) fn take(&mut self, change: &Change, family: u8, now: Instant) -> bool {
        self.0.retain(|write| write.until > now && !write.tables.is_empty());
        let is_next = |write: &&mut OwnWrite| {
            let same = write.pid.is_none_or(|pid| pid == change.pid);
            let next = write.tables.front().map(|table| (family, (*table).to_owned()));
            same && next.is_some_and(|next| change.tables.iter().eq([&next]))
        };
        let Some(write) = self.0.iter_mut().find(is_next) else { return false };
        write.pid = Some(change.pid);
        write.tables.pop_front();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: u8 = 2;

    fn change(pid: u32, table: &str) -> Change {
        let tables = [(V4, table.to_owned())].into();
        Change { tables, pid, process: "iptables-restor".to_owned(), generation: 0 }
    }

    #[test]
    fn our_own_writes_are_known_by_their_tables_in_order_and_others_are_not() {
        let now = Instant::now();
        let mut own = OwnWrites::default();
        own.wrote(["filter", "nat"], now);
        assert!(!own.take(&change(8, "nat"), V4, now), "another's: ours begins with filter");
        assert!(own.take(&change(7, "filter"), V4, now));
        assert!(!own.take(&change(8, "nat"), V4, now), "another's: ours is process 7");
        assert!(own.take(&change(7, "nat"), V4, now));
        assert!(!own.take(&change(7, "nat"), V4, now), "each counts once");
        own.wrote(["nat"], now);
        assert!(!own.take(&change(9, "nat"), V4, now + UNREAD_FOR), "ours was read long ago");
    }
}
