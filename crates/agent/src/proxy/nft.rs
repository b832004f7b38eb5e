//! Rules of one family in nftables mode: our own table, by netlink alone.
//!
//! ```text
//!  Desired ─► Changes ─► chunks ─► bytes ─► kernel      start, error, another hand: dump ─► adopt ─► Repair ─► chunks
//!                 └─► clients bound to endpoints that left ─► swept after the transaction
//! ```
//!
//! A start over a kernel that is as planned writes nothing. A cold one goes in by chunks, cluster DNS and the API server's
//! Service first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use portolan_dataplane::nftables::lang::{Data, Element, Key, Step, Table};
use portolan_dataplane::nftables::names::{CLIENTS, TABLE, clients_shape};
use portolan_dataplane::nftables::{Changes, Desired, DnsPath, Options, Repair, Target, Transaction, parse, wire};
use portolan_kernel::iptables::Family as ToolFamily;
use portolan_kernel::nft::{Nft, NftError};
use portolan_kernel::nft_monitor::NftEvent;
use portolan_model::{Delta, Family, Snapshot};
use tracing::{debug, info, warn};

use crate::proxy::{Differed, Metrics, Plan, WriteError, Writer, Wrote};
use crate::status::Progress;

/// Elements in one transaction of many: some milliseconds of the kernel's time, in which nobody else changes rules. With the
/// longest comments (256 bytes an element) they are still fewer bytes than an ordinary user's socket takes, about 416 KiB.
const CHUNK_ELEMENTS: usize = 1536;

/// What carries transactions out: the kernel, or a test's.
pub(crate) trait Tables: Send {
    fn transact(&mut self, batch: &[u8]) -> Result<(), NftError>;
    fn dump(&mut self, family: ToolFamily, table: &str) -> Result<Vec<Vec<u8>>, NftError>;
    fn elements(&mut self, family: ToolFamily, table: &str, set: &str) -> Result<Vec<Vec<u8>>, NftError>;
}

impl Tables for Nft {
    fn transact(&mut self, batch: &[u8]) -> Result<(), NftError> {
        Nft::transact(self, batch)
    }

    fn dump(&mut self, family: ToolFamily, table: &str) -> Result<Vec<Vec<u8>>, NftError> {
        Nft::dump(self, family, table)
    }

    fn elements(&mut self, family: ToolFamily, table: &str, set: &str) -> Result<Vec<Vec<u8>>, NftError> {
        Nft::elements(self, family, table, set)
    }
}

/// Writes the table of one family, and remembers what the kernel took.
pub(crate) struct NftWriter {
    desired: Desired,
    family: Family,
    tables: Box<dyn Tables>,
    progress: Arc<Progress>,
    metrics: Arc<Metrics>,
    /// The planner has seen a snapshot: from then on it needs to hear only of what changed.
    begun: bool,
    /// The kernel's table is not known: it is read and compared before the next write.
    unknown: bool,
    /// Changes from outside the snapshot (who answers DNS), not yet written.
    pending: Vec<Changes>,
    /// Bindings whose clients must be let go once the kernel has the rest.
    left: BTreeSet<(u32, Target)>,
    /// What the first comparison found; `None` before it.
    differed: Option<Differed>,
}

impl NftWriter {
    pub(crate) fn new(
        family: Family,
        options: Options,
        tables: Box<dyn Tables>,
        progress: Arc<Progress>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            desired: Desired::new(family, options),
            family,
            tables,
            progress,
            metrics,
            begun: false,
            unknown: true,
            pending: Vec::new(),
            left: BTreeSet::new(),
            differed: None,
        }
    }
}

impl Writer for NftWriter {
    fn family(&self) -> Family {
        self.family
    }

    fn set_dns(&mut self, path: DnsPath) {
        let changes = self.desired.set_dns(path);
        self.pending.push(changes);
    }

    fn doubt(&mut self) {
        self.unknown = true;
    }

    fn concerns(&mut self, event: &NftEvent) -> bool {
        let number = match self.family {
            Family::V4 => libc::NFPROTO_IPV4 as u8,
            Family::V6 => libc::NFPROTO_IPV6 as u8,
        };
        match event {
            NftEvent::Lost => true,
            NftEvent::Changed(change) => change.tables.contains(&(number, TABLE.to_owned())),
        }
    }

    fn differed(&self) -> &Differed {
        self.differed.as_ref().unwrap_or(&Differed::Unknown)
    }

    fn plan(&self) -> Plan<'_> {
        Plan::Nftables(&self.desired)
    }

    fn update(&mut self, snapshot: &Snapshot, delta: &Delta) -> Result<Wrote, WriteError> {
        let kind = if self.unknown { Wrote::Compared } else { Wrote::Changes };
        let written = match std::mem::replace(&mut self.begun, true) {
            true => self.go_on(snapshot, delta, kind),
            false => self.begin(snapshot),
        };
        let written = written.and_then(|()| self.sweep(kind));
        self.unknown = written.is_err();
        if written.is_err() {
            self.progress.failed();
            self.metrics.of(self.family).nftables_failures.fetch_add(1, Ordering::Relaxed);
        }
        written.map(|()| kind)
    }
}

impl NftWriter {
    /// The first of all writes: in portions into a kernel that has nothing of ours, else only what differs.
    fn begin(&mut self, snapshot: &Snapshot) -> Result<(), WriteError> {
        // What was said before is in the plan.
        self.pending.clear();
        let found = self.read();
        if !found.as_ref().is_ok_and(|kernel| kernel.chains.is_empty() && kernel.sets.is_empty()) {
            let planned = self.desired.update(snapshot, &Delta::all(snapshot));
            complain(&planned);
            return found.and_then(|kernel| self.mend(&kernel));
        }
        self.differed.get_or_insert(Differed::Everything);
        let mut desired = std::mem::replace(&mut self.desired, Desired::new(self.family, Options::default()));
        let started = desired.start(snapshot, CHUNK_ELEMENTS, |changes| {
            complain(&changes);
            self.send(changes)
        });
        self.desired = desired;
        info!(services = snapshot.services.len(), family = ?self.family, "rules written where there were none");
        started
    }

    fn go_on(&mut self, snapshot: &Snapshot, delta: &Delta, kind: Wrote) -> Result<(), WriteError> {
        let planned = self.desired.update(snapshot, delta);
        complain(&planned);
        let mut changes = std::mem::take(&mut self.pending);
        changes.push(planned);
        self.left.extend(changes.iter().flat_map(|changes| changes.left.iter().copied()));
        match kind {
            Wrote::Compared => self.read().and_then(|kernel| self.mend(&kernel)),
            Wrote::Changes => changes.into_iter().try_for_each(|changes| self.send(changes)),
        }
    }

    /// Writes what differs from what was read: nothing, after a restart that found all as wanted.
    fn mend(&mut self, kernel: &Table) -> Result<(), WriteError> {
        self.desired.adopt(kernel);
        let Repair { transaction } = Repair::of(&self.desired, kernel);
        info!(steps = transaction.steps().len(), family = ?self.family, "rules compared with the kernel's");
        self.differed.get_or_insert_with(|| match kernel.sets.is_empty() {
            true => Differed::Everything,
            false => Differed::Of(transaction.owners().map(|owner| owner.service.clone()).collect()),
        });
        self.send(Changes { transaction, left: Vec::new(), complaints: Vec::new() })
    }

    /// Our table as the kernel holds it; an empty one if it has none, or one in which a foreign hand left what has no
    /// words here: that is made anew.
    fn read(&mut self) -> Result<Table, WriteError> {
        let empty = Table { family: self.family, name: TABLE.into(), chains: BTreeMap::new(), sets: BTreeMap::new() };
        let messages = self.tables.dump(self.tool_family(), TABLE).map_err(unreached)?;
        let read = parse::table(self.family, TABLE, messages.iter().map(Vec::as_slice));
        match read.map_err(|error| WriteError::Unreached { reason: error.to_string() })? {
            None => Ok(empty),
            Some(read) if read.unread.is_empty() => Ok(read.table),
            Some(read) => {
                for unread in &read.unread {
                    warn!(place = ?unread.place, why = %unread.why, "something foreign in our table; it is made anew");
                }
                Ok(empty)
            }
        }
    }

    fn send(&mut self, changes: Changes) -> Result<(), WriteError> {
        for chunk in changes.in_chunks(CHUNK_ELEMENTS) {
            let batch = wire::transaction(self.family, TABLE, chunk.steps());
            self.tables.transact(&batch).map_err(|error| blame(&chunk, error))?;
            debug!(steps = chunk.steps().len(), family = ?self.family, "rules written");
            self.progress.transacted(chunk.steps().len());
        }
        Ok(())
    }

    /// Lets go of clients that are bound to endpoints which left: their next connection chooses anew.
    fn sweep(&mut self, kind: Wrote) -> Result<(), WriteError> {
        if self.left.is_empty() && kind == Wrote::Changes {
            return Ok(());
        }
        let messages = self.tables.elements(self.tool_family(), TABLE, CLIENTS).map_err(unreached)?;
        let messages = messages.iter().map(Vec::as_slice);
        let (elements, _) = parse::elements(self.family, &clients_shape(), messages)
            .map_err(|error| WriteError::Unreached { reason: error.to_string() })?;
        let stale: Vec<Element> = elements.into_iter().filter(|element| self.is_stale(element)).collect();
        for some in stale.chunks(CHUNK_ELEMENTS) {
            // One that timed out meanwhile would refuse them all, so all are put in before they are taken out.
            let keys = some.iter().map(|element| element.key).collect();
            let put_in = Step::AddElements(CLIENTS.into(), some.to_vec());
            let steps = [put_in, Step::DeleteElements(CLIENTS.into(), keys)];
            let swept = self.tables.transact(&wire::transaction(self.family, TABLE, &steps));
            swept.map_err(unreached)?;
        }
        self.left.clear();
        Ok(())
    }

    fn is_stale(&self, element: &Element) -> bool {
        match (element.key, element.data) {
            (Key::Client(_, _, id), Some(Data::Endpoint(addr, port))) => !self.desired.binds(id, Target { addr, port }),
            _ => false,
        }
    }

    fn tool_family(&self) -> ToolFamily {
        match self.family {
            Family::V4 => ToolFamily::V4,
            Family::V6 => ToolFamily::V6,
        }
    }
}

/// Removes the table of a family that another mode does not need any more; nothing is written if there is none.
pub(crate) fn remove_table(nft: &mut Nft, family: Family) -> Result<bool, NftError> {
    let tool_family = match family {
        Family::V4 => ToolFamily::V4,
        Family::V6 => ToolFamily::V6,
    };
    if nft.dump(tool_family, TABLE)?.is_empty() {
        return Ok(false);
    }
    nft.transact(&wire::transaction(family, TABLE, &[Step::DeleteTable])).map(|()| true)
}

fn complain(changes: &Changes) {
    changes.complaints.iter().for_each(|c| warn!(object = %c.object, reason = %c.reason, "{}", c.message));
}

fn unreached(error: NftError) -> WriteError {
    WriteError::Unreached { reason: error.to_string() }
}

/// Whose step it was that the kernel refused.
fn blame(chunk: &Transaction, error: NftError) -> WriteError {
    let reason = error.to_string();
    let NftError::Refused(refused) = error else { return WriteError::Unreached { reason } };
    match refused.step.and_then(|step| chunk.owner(step)) {
        Some(owner) => WriteError::Culprit { service: owner.service.clone(), reason },
        None => WriteError::Refused { reason },
    }
}

#[cfg(test)]
#[path = "nft_tests.rs"]
mod tests;
