//! Rules of one family: planned chains into `iptables-restore`, changed chains only.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use portolan_dataplane::iptables::{Chain, Change, Desired, DnsPath, Options, Repair, Table, hooks, parse, render};
use portolan_kernel::Rules;
use portolan_kernel::iptables::{Family as ToolFamily, Flush, IptablesError};
use portolan_kernel::nft_monitor::NftEvent;
use portolan_model::{Complaint, Delta, Family, NsName, Snapshot};
use tracing::{debug, info, warn};

use crate::proxy::{Differed, Metrics, OwnWrites, Plan, WriteError, Writer, Wrote};
use crate::status::Progress;

/// Writes the rules of one family, and remembers what the kernel took.
pub(crate) struct RuleWriter {
    desired: Desired,
    family: Family,
    tool: Arc<dyn Rules>,
    progress: Arc<Progress>,
    metrics: Arc<Metrics>,
    /// The planner has seen a snapshot: from then on it needs to hear only of what changed.
    begun: bool,
    /// The kernel's chains are not known: they are read and compared before the next write.
    unknown: bool,
    /// Changes from outside the snapshot (who answers DNS), not yet written.
    pending: Vec<Change>,
    /// Complaints that were said, until their Services change.
    told: BTreeSet<Complaint>,
    /// How many rules each of our chains has, as far as written.
    counts: HashMap<Chain, usize>,
    own: OwnWrites,
    /// What the first comparison found; `None` before it.
    differed: Option<Differed>,
}

/// Chains that a start finds otherwise, of which it is looked up whose they are.
const LOOKED_UP: usize = 32;

impl RuleWriter {
    pub(crate) fn new(
        family: Family,
        options: Options,
        tool: Arc<dyn Rules>,
        progress: Arc<Progress>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            desired: Desired::new(family, options),
            family,
            tool,
            progress,
            metrics,
            begun: false,
            unknown: true,
            pending: Vec::new(),
            counts: HashMap::new(),
            told: BTreeSet::new(),
            own: OwnWrites::default(),
            differed: None,
        }
    }
}

impl Writer for RuleWriter {
    fn family(&self) -> Family {
        self.family
    }

    fn set_dns(&mut self, path: DnsPath) {
        let changes = self.desired.set_dns(path);
        self.pending.extend(changes);
    }

    fn doubt(&mut self) {
        self.unknown = true;
    }

    fn concerns(&mut self, event: &NftEvent) -> bool {
        let NftEvent::Changed(change) = event else { return true };
        let number = match self.family {
            Family::V4 => libc::NFPROTO_IPV4 as u8,
            Family::V6 => libc::NFPROTO_IPV6 as u8,
        };
        let is_of_iptables = |(family, name): &(u8, String)| *family == number && Table::parse(name).is_some();
        change.tables.iter().any(is_of_iptables) && !self.own.take(change, number, Instant::now())
    }

    fn plan(&self) -> Plan<'_> {
        Plan::Iptables(&self.desired)
    }

    fn differed(&self) -> &Differed {
        self.differed.as_ref().unwrap_or(&Differed::Unknown)
    }

    fn update(&mut self, snapshot: &Snapshot, delta: &Delta) -> Result<Wrote, WriteError> {
        let planned = match self.begun {
            true => self.desired.update(snapshot, delta),
            false => self.desired.update(snapshot, &Delta::all(snapshot)),
        };
        match self.begun {
            true => self.complain(&delta.services),
            false => self.complain(&snapshot.services.keys().cloned().collect()),
        }
        self.begun = true;
        let mut changes = std::mem::take(&mut self.pending);
        changes.extend(planned);
        let (kind, written) = match self.unknown {
            true => (Wrote::Compared, self.reconcile()),
            false => (Wrote::Changes, self.restore(&changes, &[], Wrote::Changes)),
        };
        self.unknown = written.is_err();
        if written.is_ok() {
            self.count(kind, &changes);
        }
        written.map(|()| kind)
    }
}

impl RuleWriter {
    /// Says once which Services do not get a destination that they claim.
    fn complain(&mut self, touched: &BTreeSet<NsName>) {
        let now = self.desired.complaints_over(touched);
        for complaint in now.iter().filter(|complaint| !self.told.contains(complaint)) {
            warn!(object = %complaint.object, reason = %complaint.reason, "{}", complaint.message);
        }
        self.told.retain(|complaint| !touched.contains(&complaint.object.key));
        self.told.extend(now);
    }

    /// Reads what the kernel has and writes what differs: nothing, after a restart that found all as wanted.
    fn reconcile(&mut self) -> Result<(), WriteError> {
        let text = self.tool.save_all(self.tool_family()).map_err(|error| {
            self.progress.failed();
            WriteError::Unreached { reason: format!("cannot read the rules: {error}") }
        })?;
        let saved = parse::parse(&text).unwrap_or_else(|error| {
            warn!(%error, "what iptables-save printed cannot be read; all chains are written");
            parse::Saved::default()
        });
        let repair = Repair::of(&self.desired, &saved);
        info!(chains = repair.changes.len(), hooks = repair.hooks.len(), family = ?self.family, "rules compared with the kernel's");
        if self.differed.is_none() {
            self.differed = Some(self.owners(&repair, &saved));
        }
        self.restore(&repair.changes, &repair.hooks, Wrote::Compared)
    }

    /// Whose rules a repair changes. A chain that Services share says of none of them that it was as wanted.
    fn owners(&self, repair: &Repair, saved: &parse::Saved) -> Differed {
        if !saved.chains.keys().any(|chain| chain.name.starts_with("KUBE-")) {
            return Differed::Everything;
        }
        if repair.changes.len() > LOOKED_UP {
            return Differed::Unknown;
        }
        let owner = |change: &Change| self.desired.owner(change.chain()).map(|key| key.service.clone());
        match repair.changes.iter().map(owner).collect() {
            Some(services) => Differed::Of(services),
            None => Differed::Unknown,
        }
    }

    fn restore(&mut self, changes: &[Change], missing: &[hooks::Hook], kind: Wrote) -> Result<(), WriteError> {
        if changes.is_empty() && missing.is_empty() {
            return Ok(());
        }
        let text = render::program(changes, missing);
        let written = |table: &Table| {
            changes.iter().any(|change| change.chain().table == *table)
                || missing.iter().any(|hook| hook.chain.table == *table)
        };
        self.own.wrote(Table::ALL.into_iter().filter(written).map(Table::name), Instant::now());
        match self.tool.restore(self.tool_family(), &text, Flush::Keep) {
            Ok(()) => {
                debug!(chains = changes.len(), family = ?self.family, "rules written");
                self.progress.restored(changes.len());
                Ok(())
            }
            Err(error) => {
                self.progress.failed();
                let failures = &self.metrics.of(self.family).iptables;
                failures.restore_failures.fetch_add(1, Ordering::Relaxed);
                if kind == Wrote::Changes {
                    failures.partial_restore_failures.fetch_add(1, Ordering::Relaxed);
                }
                Err(self.blame(&error))
            }
        }
    }

    /// Whose rule it was that iptables refused.
    fn blame(&self, error: &IptablesError) -> WriteError {
        let reason = error.to_string();
        let IptablesError::Refused { stderr, text, .. } = error else { return WriteError::Unreached { reason } };
        if stderr.contains("xtables lock") {
            return WriteError::Unreached { reason };
        }
        // iptables-nft speaks of the chain where the kernel refused a rule, and of the line where it did itself.
        let named = stderr.split_once("in chain ").map(|(_, rest)| rest.split_whitespace().next().unwrap_or_default());
        let written = text.strip_prefix("-A ").map(|rest| rest.split_whitespace().next().unwrap_or_default());
        let owner = named.into_iter().chain(written).find_map(|chain| self.owner(chain));
        match owner.or_else(|| self.named_in(text)) {
            Some(service) => WriteError::Culprit { service, reason },
            None => WriteError::Refused { reason },
        }
    }

    fn owner(&self, chain: &str) -> Option<NsName> {
        let owner = |table| self.desired.owner(&Chain { table, name: chain.into() });
        Table::ALL.into_iter().find_map(owner).map(|key| key.service.clone())
    }

    /// The Service whose name the comment of a shared chain's rule begins with: `--comment "ns/name:port …"`.
    fn named_in(&self, line: &str) -> Option<NsName> {
        let (_, comment) = line.split_once("--comment ")?;
        let comment = comment.trim_start_matches('"');
        let word = comment.split([' ', '"']).next()?;
        let (namespace, rest) = word.split_once('/')?;
        let name = rest.split(':').next()?;
        Some(NsName::new(namespace, name))
    }

    /// Counts rules for the metrics: all of ours by table, and those of the last write.
    fn count(&mut self, kind: Wrote, changes: &[Change]) {
        let all;
        let changes = match kind {
            Wrote::Changes => changes,
            Wrote::Compared => {
                self.counts.clear();
                all = self.desired.all();
                &all
            }
        };
        let mut last: BTreeMap<&'static str, u64> = BTreeMap::new();
        let metrics = &self.metrics.of(self.family).iptables;
        let mut totals = metrics.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if kind == Wrote::Compared {
            totals.clear();
        }
        for change in changes {
            let (chain, rules) = match change {
                Change::Set { chain, rules } => (chain, rules.len()),
                Change::Remove { chain } => (chain, 0),
            };
            let table = chain.table.name();
            let before = match rules {
                0 => self.counts.remove(chain),
                _ => self.counts.insert(chain.clone(), rules),
            };
            *last.entry(table).or_default() += rules as u64;
            let total = totals.entry(table).or_default();
            *total = (*total + rules as u64).saturating_sub(before.unwrap_or_default() as u64);
        }
        if !last.is_empty() {
            *metrics.last.lock().unwrap_or_else(PoisonError::into_inner) = last;
        }
    }

    fn tool_family(&self) -> ToolFamily {
        match self.family {
            Family::V4 => ToolFamily::V4,
            Family::V6 => ToolFamily::V6,
        }
    }
}
