//! Hop: what hops share: the lines of their rules, the chains that they name, when they were.

use portolan_dataplane::meaning::Meaning;
use portolan_model::{ObjectKind, ObjectRef, Text};

use crate::evidence::{Act, Hook, Source, Step};
use crate::story::{Hop, RuleLine};
use crate::tell::trail::Leg;

/// The kernel's own chains, and kube-proxy's for the mark: named in rules, not beside a hop.
const UNNAMED: [&str; 6] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING", "KUBE-MARK-MASQ"];

impl Hop {
    /// On this node, caused by these steps.
    pub(super) fn on(mut self, leg: &Leg<'_>, steps: &[&Step]) -> Self {
        self.node = Some(leg.node.clone());
        let at_us = steps.first().map_or(leg.passage.at_us, |step| step.at_us);
        self.at_us = (leg.source != Source::Plan).then(|| at_us.saturating_sub(leg.since_us));
        self.chains = chains(steps);
        self.rules = steps.iter().map(|step| rule_line(step)).collect();
        for object in steps.iter().filter_map(|step| step.rule.as_ref()).flat_map(|rule| &rule.objects) {
            self.add_object(object.clone());
        }
        self
    }

    pub(super) fn because_of(mut self, objects: impl IntoIterator<Item = ObjectRef>) -> Self {
        objects.into_iter().for_each(|object| self.add_object(object));
        self
    }

    fn add_object(&mut self, object: ObjectRef) {
        if !self.objects.contains(&object) {
            self.objects.push(object);
        }
    }
}

/// A Kubernetes object by kind and key.
pub(crate) fn object(kind: ObjectKind, key: &portolan_model::NsName) -> ObjectRef {
    ObjectRef { kind, key: key.clone() }
}

/// A Node.
pub(crate) fn node_object(name: &str) -> ObjectRef {
    ObjectRef { kind: ObjectKind::Node, key: portolan_model::NsName::new("", name) }
}

/// A rule as people read it, or the policy of a chain.
pub(crate) fn rule_line(step: &Step) -> RuleLine {
    let policy = |accepts: bool| format!("policy {}", if accepts { "accept" } else { "drop" });
    let (text, foreign, objects) = match (&step.rule, &step.act) {
        (Some(rule), _) => (rule.text.to_string(), is_foreign(step), rule.objects.clone()),
        (None, Act::Policy { accepts }) => (policy(*accepts), !accepts, Vec::new()),
        // The rule is gone since, or was never known.
        (None, act) => (format!("rule {} ({})", number(step), act_word(act)), true, Vec::new()),
    };
    RuleLine { hook: step.hook, table: step.table.clone(), chain: step.chain.clone(), text, foreign, objects }
}

/// Not one of ours.
pub(crate) fn is_foreign(step: &Step) -> bool {
    matches!(step.rule.as_ref().map(|rule| &rule.meaning), Some(Meaning::Foreign))
}

fn number(step: &Step) -> String {
    match (step.index, step.handle) {
        (Some(index), _) => (index + 1).to_string(),
        (None, Some(handle)) => format!("with handle {handle}"),
        (None, None) => "that nobody knows".to_owned(),
    }
}

fn act_word(act: &Act) -> String {
    match act {
        Act::Jump { chain } => format!("jump {chain}"),
        Act::Goto { chain } => format!("goto {chain}"),
        Act::Continue => "continue".to_owned(),
        Act::Return => "return".to_owned(),
        Act::Accept | Act::Policy { accepts: true } => "accept".to_owned(),
        Act::Drop | Act::Policy { accepts: false } => "drop".to_owned(),
        Act::Stolen => "stolen".to_owned(),
    }
}

/// The chains of our rules among these, each once, in order.
fn chains(steps: &[&Step]) -> Vec<Text> {
    let mut named: Vec<Text> = Vec::new();
    // After routing many chains are gone through that have nothing to say of the packet.
    let decides = |step: &Step| match step.rule.as_ref().map(|rule| &rule.meaning) {
        None | Some(Meaning::Foreign) => false,
        Some(Meaning::Leads) => step.hook != Hook::Postrouting,
        Some(_) => true,
    };
    for step in steps.iter().filter(|step| decides(step)) {
        let is_new = !named.contains(&step.chain);
        if is_new && !UNNAMED.contains(&&*step.chain) {
            named.push(step.chain.clone());
        }
    }
    named
}
