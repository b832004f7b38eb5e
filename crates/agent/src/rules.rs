//! Rules of one family: planned chains into `iptables-restore`, changed chains only.

use std::sync::Arc;

use portolan_dataplane::iptables::{Change, Desired, DnsPath, Options, Repair, hooks, parse, render};
use portolan_kernel::Rules;
use portolan_kernel::iptables::{Family as ToolFamily, Flush};
use portolan_model::{Delta, Family, Snapshot};
use tracing::{debug, info, warn};

use crate::proxy::Writer;
use crate::status::Progress;

/// Writes the rules of one family, and remembers what the kernel took.
pub(crate) struct RuleWriter {
    desired: Desired,
    family: Family,
    tool: Arc<dyn Rules>,
    progress: Arc<Progress>,
    /// The planner has seen a snapshot: from then on it needs to hear only of what changed.
    begun: bool,
    /// The kernel's chains are not known: they are read and compared before the next write.
    unknown: bool,
    /// Changes from outside the snapshot (who answers DNS), not yet written.
    pending: Vec<Change>,
}

impl RuleWriter {
    pub(crate) fn new(family: Family, options: Options, tool: Arc<dyn Rules>, progress: Arc<Progress>) -> Self {
        Self {
            desired: Desired::new(family, options),
            family,
            tool,
            progress,
            begun: false,
            unknown: true,
            pending: Vec::new(),
        }
    }
}

impl Writer for RuleWriter {
    fn set_dns(&mut self, path: DnsPath) {
        let changes = self.desired.set_dns(path);
        self.pending.extend(changes);
    }

    fn update(&mut self, snapshot: &Snapshot, delta: &Delta) -> bool {
        let planned = match self.begun {
            true => self.desired.update(snapshot, delta),
            false => self.desired.update(snapshot, &Delta::all(snapshot)),
        };
        self.begun = true;
        let mut changes = std::mem::take(&mut self.pending);
        changes.extend(planned);
        let written = match self.unknown {
            true => self.reconcile(),
            false => self.restore(&changes, &[]),
        };
        self.unknown = !written;
        written
    }
}

impl RuleWriter {
    /// Reads what the kernel has and writes what differs: nothing, after a restart that found all as wanted.
    fn reconcile(&mut self) -> bool {
        let text = match self.tool.save_all(self.tool_family()) {
            Ok(text) => text,
            Err(error) => {
                warn!(%error, "cannot read the rules; they are tried again");
                self.progress.failed();
                return false;
            }
        };
        let saved = match parse::parse(&text) {
            Ok(saved) => saved,
            Err(error) => {
                warn!(%error, "what iptables-save printed cannot be read; all chains are written");
                parse::Saved::default()
            }
        };
        let repair = Repair::of(&self.desired, &saved);
        info!(chains = repair.changes.len(), hooks = repair.hooks.len(), family = ?self.family, "rules compared with the kernel's");
        self.restore(&repair.changes, &repair.hooks)
    }

    fn restore(&mut self, changes: &[Change], missing: &[hooks::Hook]) -> bool {
        if changes.is_empty() && missing.is_empty() {
            return true;
        }
        let text = render::program(changes, missing);
        match self.tool.restore(self.tool_family(), &text, Flush::Keep) {
            Ok(()) => {
                debug!(chains = changes.len(), family = ?self.family, "rules written");
                self.progress.restored(changes.len());
                true
            }
            Err(error) => {
                warn!(%error, family = ?self.family, "the rules were refused; all are compared and written again");
                self.progress.failed();
                false
            }
        }
    }

    fn tool_family(&self) -> ToolFamily {
        match self.family {
            Family::V4 => ToolFamily::V4,
            Family::V6 => ToolFamily::V6,
        }
    }
}
