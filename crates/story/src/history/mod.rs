//! History: what a node put in place, when, and because of what: for its last 64 generations whole, and of each fragment
//! that is in place the last change, however long ago.
//!
//! ```text
//!  saw(Cause) ──┐
//!  resolved(before, after, Delta) ──► pending ── settled(now) ──► Generation ─┬─► the last 64
//!                                                                             └─► marks: Fragment ─► Mark
//! ```
//!
//! A generation is what one write brought into the kernel: one batch of events, or several if a write failed between them.
//! Snapshots of generations share what did not change, so 64 of them cost little more than one. A fragment is what changes
//! together: a Service's part in the rules, a route, a pod's link. Knows no clock: every time comes in, in microseconds
//! since 1970.

mod cause;
mod mark;
mod step;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use ipnet::IpNet;
use portolan_model::{Delta, NsName, Snapshot};

use cause::Who;
pub use cause::{Cause, Concerns, Origin};
pub use mark::{Known, Mark, Since};
pub use step::{EndpointNote, Shift, Step};

/// Generations that are kept whole.
pub const KEPT: usize = 64;
/// Causes of no single fragment that a step is blamed on, where it has none of its own.
const GENERAL_CAUSES: usize = 4;

/// What changes together and has one age.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fragment {
    /// A Service: its rules or elements, its records.
    Service(NsName),
    /// A route of the main table.
    Route(IpNet),
    /// A pod's link on this node, and its host ports.
    Link(NsName),
}

/// What one write brought into the kernel.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Counts from 1, from the agent's start.
    pub number: u64,
    /// When its write began.
    pub began_us: i64,
    /// When the kernel had it.
    pub written_us: i64,
    /// What it did, by fragment.
    pub steps: BTreeMap<Fragment, Arc<Step>>,
    /// The cluster as this generation has it.
    pub snapshot: Arc<Snapshot>,
}

/// A write that the kernel took, or took in part.
pub struct Settled<'a> {
    /// What it was to make true.
    pub snapshot: &'a Arc<Snapshot>,
    /// When planning and writing began.
    pub began_us: i64,
    /// When the kernel had it.
    pub now_us: i64,
    /// Whether the kernel has a fragment as the snapshot wants it. What it has not stays pending: rules that wait until the
    /// cluster has been told whole, a Service or a route that was refused.
    pub is_in_place: &'a dyn Fn(&Fragment) -> bool,
    /// Whether the kernel held a fragment as wanted already, before this write, of which nothing was known here; `None`:
    /// cannot be told.
    pub was_there: &'a dyn Fn(&Fragment) -> Option<bool>,
}

/// What a node remembers of its own doings.
#[derive(Clone, Debug)]
pub struct History {
    started_us: i64,
    generations: VecDeque<Generation>,
    last_number: u64,
    /// What was told since.
    causes: BTreeMap<Who, Cause>,
    /// What differs by it from what is in place.
    pending: BTreeSet<Fragment>,
    /// As the rules have it: what the next change of a Service differs from.
    ruled: Arc<Snapshot>,
    marks: BTreeMap<Fragment, Mark>,
}

impl History {
    /// Nothing has happened yet; `empty` is what was told before anything was.
    pub fn new(started_us: i64, empty: Arc<Snapshot>) -> Self {
        Self {
            started_us,
            generations: VecDeque::new(),
            last_number: 0,
            causes: BTreeMap::new(),
            pending: BTreeSet::new(),
            ruled: empty,
            marks: BTreeMap::new(),
        }
    }

    /// When the agent was started.
    pub fn started_us(&self) -> i64 {
        self.started_us
    }

    /// The node was told something.
    pub fn saw(&mut self, cause: Cause) {
        self.causes.insert(cause.who(), cause);
    }

    /// It follows from what was seen that these entries of the snapshot changed.
    pub fn resolved(&mut self, delta: &Delta) {
        self.pending.extend(delta.services.iter().cloned().map(Fragment::Service));
        self.pending.extend(delta.routes.iter().copied().map(Fragment::Route));
        self.pending.extend(delta.attachments.iter().cloned().map(Fragment::Link));
    }

    /// A write was taken. Gives the number of the generation that it made; `None` if it changed nothing that is in place.
    pub fn settled(&mut self, settled: &Settled<'_>) -> Option<u64> {
        let steps = self.steps(settled);
        if self.pending.is_empty() {
            // What changed nothing is no cause of what comes later.
            self.causes.clear();
        }
        if steps.is_empty() {
            return None;
        }
        self.last_number += 1;
        for (fragment, step) in &steps {
            self.mark(fragment, step, settled);
        }
        if self.generations.len() == KEPT {
            self.generations.pop_front();
        }
        self.generations.push_back(Generation {
            number: self.last_number,
            began_us: settled.began_us,
            written_us: settled.now_us,
            steps,
            snapshot: settled.snapshot.clone(),
        });
        Some(self.last_number)
    }

    /// Takes out of what is pending what `settled` put in place.
    fn steps(&mut self, settled: &Settled<'_>) -> BTreeMap<Fragment, Arc<Step>> {
        let (due, kept): (BTreeSet<Fragment>, BTreeSet<Fragment>) =
            std::mem::take(&mut self.pending).into_iter().partition(settled.is_in_place);
        let causes = Causes::of(&self.causes);
        let is_service = |fragment: &Fragment| matches!(fragment, Fragment::Service(_));
        let are_rules_written = due.iter().any(is_service) || !kept.iter().any(is_service);
        let step = |fragment: Fragment| {
            let step = Step { shift: self.shift(&fragment, settled.snapshot)?, causes: causes.behind(&fragment) };
            Some((fragment, Arc::new(step)))
        };
        let steps = due.into_iter().filter_map(step).collect();
        self.pending = kept;
        if are_rules_written {
            self.ruled = settled.snapshot.clone();
        }
        steps
    }

    /// What `after` changes in a fragment; `None`: it came and went in between.
    fn shift(&self, fragment: &Fragment, after: &Snapshot) -> Option<Shift> {
        let was = self.marks.contains_key(fragment);
        let is = match fragment {
            Fragment::Service(key) => match (self.ruled.services.get(key).filter(|_| was), after.services.get(key)) {
                (Some(old), Some(new)) => return Some(Shift::between(old, new)),
                (_, new) => new.is_some(),
            },
            Fragment::Route(dst) => after.routes.contains_key(dst),
            Fragment::Link(pod) => after.attachments.contains_key(pod),
        };
        (was || is).then(|| Shift::of_presence(was, is))
    }

    fn mark(&mut self, fragment: &Fragment, step: &Arc<Step>, settled: &Settled<'_>) {
        if step.shift.is_gone {
            self.marks.remove(fragment);
            return;
        }
        let view = match fragment {
            Fragment::Service(key) => settled.snapshot.services.get(key).map(|view| &**view),
            _ => None,
        };
        let known = match (settled.was_there)(fragment) {
            Some(true) => Known::Older,
            Some(false) => Known::Exactly,
            None => Known::AtLeast,
        };
        let at = Since { at_us: settled.now_us, known };
        let before = self.marks.remove(fragment);
        let mark = Mark::after(before, self.last_number, settled.began_us, at, step.clone(), view);
        self.marks.insert(fragment.clone(), mark);
    }

    /// The last change of a fragment that is in place.
    pub fn mark_of(&self, fragment: &Fragment) -> Option<&Mark> {
        self.marks.get(fragment)
    }

    /// The newest generation's number; 0 before the first.
    pub fn last_number(&self) -> u64 {
        self.last_number
    }

    /// The generations that are kept, the newest first.
    pub fn generations(&self) -> impl Iterator<Item = &Generation> {
        self.generations.iter().rev()
    }

    /// What a packet may have met that was seen at `at_us`, up to `late_us` after it came: the generation that stood then, and
    /// those whose write was under way. Empty before the first.
    pub fn met_by(&self, at_us: i64, late_us: i64) -> Vec<&Generation> {
        let begun = self.generations.iter().filter(|generation| generation.began_us <= at_us);
        let begun: Vec<&Generation> = begun.collect();
        let stood = begun.iter().rposition(|generation| generation.written_us <= at_us - late_us).unwrap_or(0);
        begun.into_iter().skip(stood).collect()
    }

    /// What a packet at `at_us` met, the likeliest first: the generation that stood then, the next, whose write may have been
    /// under way, the one before, and so on.
    pub fn around(&self, at_us: i64) -> Vec<&Generation> {
        let stood = self.generations.iter().rposition(|generation| generation.written_us <= at_us).unwrap_or(0);
        let mut order: Vec<(usize, &Generation)> = self.generations.iter().enumerate().collect();
        order.sort_by_key(|(index, _)| (index.abs_diff(stood), *index < stood));
        order.into_iter().map(|(_, generation)| generation).collect()
    }
}

/// Causes by what they concern.
struct Causes<'a> {
    services: BTreeMap<&'a NsName, Vec<&'a Cause>>,
    links: BTreeMap<&'a NsName, Vec<&'a Cause>>,
    routes: BTreeMap<&'a IpNet, Vec<&'a Cause>>,
    general: Vec<&'a Cause>,
}

impl<'a> Causes<'a> {
    fn of(causes: &'a BTreeMap<Who, Cause>) -> Self {
        let mut sorted =
            Self { services: BTreeMap::new(), links: BTreeMap::new(), routes: BTreeMap::new(), general: Vec::new() };
        for cause in causes.values() {
            match &cause.concerns {
                Concerns::Service(key) => sorted.services.entry(key).or_default().push(cause),
                Concerns::Route(dst) => sorted.routes.entry(dst).or_default().push(cause),
                Concerns::Pod(pod, routes) => {
                    sorted.links.entry(pod).or_default().push(cause);
                    for dst in routes {
                        sorted.routes.entry(dst).or_default().push(cause);
                    }
                }
                Concerns::Anything => sorted.general.push(cause),
            }
        }
        sorted.general.sort_by_key(|cause| cause.seen_us);
        sorted
    }

    fn behind(&self, fragment: &Fragment) -> Box<[Cause]> {
        let own = match fragment {
            Fragment::Service(key) => self.services.get(key),
            Fragment::Route(dst) => self.routes.get(dst),
            Fragment::Link(pod) => self.links.get(pod),
        };
        let mut found: Vec<Cause> = match own {
            Some(own) => own.iter().copied().cloned().collect(),
            None => self.general.iter().rev().take(GENERAL_CAUSES).copied().cloned().collect(),
        };
        found.sort_by_key(|cause| cause.seen_us);
        found.into_boxed_slice()
    }
}
