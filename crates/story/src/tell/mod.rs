//! Tell: evidence into a story. The same for what kernels saw and for what plans foresee.
//!
//! ```text
//!  NodeEvidence of each node ─► Trail (in the packet's order) ─┬─► forth, back: hops      ─┐
//!                                                               ├─► oracle: what differs    ├─► Story
//!  Probed (what the sender saw) ────────────────────────────────┴─► verdict ─► diagnose     ─┘
//! ```

mod back;
pub(crate) mod choices;
pub(crate) mod forth;
pub(crate) mod hop;
mod oracle;
pub(crate) mod route;
pub(crate) mod trail;
mod verdict;

use std::net::IpAddr;

use portolan_model::NsName;

use crate::evidence::{NodeEvidence, Probed, Source};
use crate::knows::{Knows, Who};
use crate::story::{Asked, End, Hop, SCHEMA, Stage, Story};
use crate::words;
use trail::Trail;

/// Everything that a story is told from.
pub(crate) struct Case<'a> {
    pub(crate) asked: &'a Asked,
    pub(crate) probed: Option<&'a Probed>,
    pub(crate) evidence: &'a [NodeEvidence],
    pub(crate) knows: &'a Knows,
    pub(crate) trail: Trail<'a>,
    /// Namespace of the sender: names in it are written without.
    pub(crate) home: String,
}

/// The story of a packet: `probed` is what its sender saw, `None` where nothing was sent or another sent it. Evidence of
/// nodes may come in any order, also of nodes that never saw the packet.
pub fn tell(asked: Asked, probed: Option<&Probed>, evidence: &[NodeEvidence], knows: &Knows) -> Story {
    let case = Case::new(&asked, probed, evidence, knows);
    let oracle = oracle::beside(&case);
    let verdict = verdict::of(&case, &oracle);
    let dns = probed.and_then(|probed| probed.dns.clone());
    let mut hops: Vec<Hop> = dns.iter().map(|dns| forth::dns(dns, &case)).collect();
    hops.extend(forth::hops(&case, verdict.end));
    let back = back::hops(&case, verdict.end);
    let source = case.source();
    Story { schema: SCHEMA.into(), asked, source, verdict, dns, hops, back, oracle }
}

impl<'a> Case<'a> {
    fn new(asked: &'a Asked, probed: Option<&'a Probed>, evidence: &'a [NodeEvidence], knows: &'a Knows) -> Self {
        let trail = Trail::of(evidence, probed, asked.live, knows);
        let src = trail.forth.first().map(|leg| leg.passage.entered.src.ip());
        let src = src.or_else(|| probed.and_then(|probed| probed.local).map(|local| local.ip()));
        let pod = src.and_then(|src| knows.pod_at(src)).map(|(key, _)| key.namespace.to_string());
        let home = pod.unwrap_or_else(|| namespace_of(&asked.from));
        Self { asked, probed, evidence, knows, trail, home }
    }

    /// Nothing was sent: it is a plan's story.
    pub(crate) fn is_foreseen(&self) -> bool {
        self.source() == Source::Plan
    }

    /// The least certain of all sources that the story is of.
    fn source(&self) -> Source {
        let told = || self.evidence.iter().map(|node| node.source);
        let has = |source: Source| told().any(|told| told == source);
        match (has(Source::Plan), has(Source::KernelWithoutRules)) {
            (true, _) => Source::Plan,
            (false, true) => Source::KernelWithoutRules,
            (false, false) => Source::Kernel,
        }
    }

    /// Who has an address, in words.
    pub(crate) fn name(&self, addr: IpAddr) -> String {
        match self.knows.who(addr) {
            Who::Pod(key) | Who::Service(key) => self.short(&key),
            Who::Node(name) => name.to_string(),
            Who::Stranger(addr) => addr.to_string(),
        }
    }

    /// An object's name, without the sender's own namespace.
    pub(crate) fn short(&self, key: &NsName) -> String {
        words::short(key, &self.home)
    }
}

/// The namespace in `pod/NAMESPACE/NAME` or `NAMESPACE/NAME`; `default` in all else.
fn namespace_of(from: &str) -> String {
    let parts: Vec<&str> = from.split('/').collect();
    match parts[..] {
        ["pod", namespace, _] => namespace,
        [first, _] if !["pod", "node", "svc"].contains(&first) => first,
        _ => "default",
    }
    .to_owned()
}

impl Hop {
    /// A hop that says this, and nothing more.
    pub(crate) fn new(stage: Stage, says: impl Into<String>) -> Self {
        Self {
            stage,
            node: None,
            at_us: None,
            says: says.into(),
            quiet: false,
            chains: Vec::new(),
            objects: Vec::new(),
            change: None,
            rules: Vec::new(),
            choices: Vec::new(),
            flow: None,
            route: None,
        }
    }
}

impl End {
    /// In a word or two, as a verdict begins.
    pub fn word(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
            Self::Unroutable => "no route",
            Self::Unanswered => "no answer",
            Self::NoSuchName => "no such name",
            Self::NotSent => "not sent",
            Self::NotSeen => "not seen",
        }
    }
}

#[cfg(test)]
#[path = "tests/mod.rs"]
mod tests;
