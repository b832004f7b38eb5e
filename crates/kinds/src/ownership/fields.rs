//! Sets of fields: who owns what, as a tree along the object's own paths.
//!
//! ```text
//!  f:spec ─► f:ports ─► k:{"port":80,"protocol":"TCP"} ─► .        the element itself
//!                                                      └► f:name   a member of it
//! ```
//! Source: `FieldsV1` in k8s.io/apimachinery meta/v1; KEP-555, server-side apply.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Stands for the place itself among the places below it.
const ITSELF: &str = ".";

/// A place of an object, and the places below it. No place is kept that holds nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldSet {
    /// Whether the place itself is in the set.
    pub is_owned: bool,
    /// Below it, by `f:NAME`, `k:{"key":"value"}` (element of a keyed list), `v:VALUE` (element of a set).
    pub below: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// One place with nothing below.
    pub fn place() -> FieldSet {
        FieldSet { is_owned: true, below: BTreeMap::new() }
    }

    pub fn is_empty(&self) -> bool {
        !self.is_owned && self.below.is_empty()
    }

    /// Puts a set below this place, if it holds anything.
    pub fn put(&mut self, step: String, set: FieldSet) {
        if !set.is_empty() {
            self.below.insert(step, set);
        }
    }

    pub fn union(mut self, other: &FieldSet) -> FieldSet {
        self.is_owned |= other.is_owned;
        for (step, set) in &other.below {
            let own = self.below.remove(step).unwrap_or_default();
            self.below.insert(step.clone(), own.union(set));
        }
        self
    }

    /// What is here and not there.
    pub fn minus(&self, other: &FieldSet) -> FieldSet {
        let mut left = FieldSet { is_owned: self.is_owned && !other.is_owned, below: BTreeMap::new() };
        for (step, set) in &self.below {
            let kept = other.below.get(step).map_or_else(|| set.clone(), |other| set.minus(other));
            left.put(step.clone(), kept);
        }
        left
    }

    /// What is here and there.
    pub fn both(&self, other: &FieldSet) -> FieldSet {
        let mut both = FieldSet { is_owned: self.is_owned && other.is_owned, below: BTreeMap::new() };
        for (step, set) in &self.below {
            if let Some(other) = other.below.get(step) {
                both.put(step.clone(), set.both(other));
            }
        }
        both
    }

    /// Takes a place and all below it out.
    pub fn remove(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else { return };
        if rest.is_empty() {
            self.below.remove(*first);
        } else if let Some(set) = self.below.get_mut(*first) {
            set.remove(rest);
            if set.is_empty() {
                self.below.remove(*first);
            }
        }
    }

    /// The places as messages name them: `.spec.ports[port=80,protocol="TCP"].name`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect(String::new(), &mut paths);
        paths
    }

    fn collect(&self, path: String, into: &mut Vec<String>) {
        for (step, set) in &self.below {
            set.collect(format!("{path}{}", in_words(step)), into);
        }
        if self.is_owned {
            into.push(path);
        }
    }

    pub fn to_json(&self) -> Value {
        let mut members = Map::new();
        if self.is_owned && !self.below.is_empty() {
            members.insert(ITSELF.to_owned(), Value::Object(Map::new()));
        }
        members.extend(self.below.iter().map(|(step, set)| (step.clone(), set.to_json())));
        Value::Object(members)
    }

    /// The set of a `fieldsV1`; the object's own root is never in it.
    pub fn of_json(fields: &Value) -> FieldSet {
        let mut set = FieldSet::read(fields);
        set.is_owned = false;
        set
    }

    fn read(fields: &Value) -> FieldSet {
        let members = fields.as_object();
        let is_leaf = members.is_none_or(Map::is_empty);
        let mut set = FieldSet { is_owned: is_leaf, below: BTreeMap::new() };
        for (step, below) in members.into_iter().flatten() {
            match step.as_str() {
                ITSELF => set.is_owned = true,
                _ => drop(set.below.insert(step.clone(), FieldSet::read(below))),
            }
        }
        set
    }
}

fn in_words(step: &str) -> String {
    match step.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let pairs: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", pairs.join(","))
        }
        Some(("v", value)) => format!("[={value}]"),
        _ => format!("[{step}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_set_is_the_same_after_both_ways_and_names_its_places() {
        let fields = json!({
            "f:spec": { "f:ports": { "k:{\"port\":80,\"protocol\":\"TCP\"}": { ".": {}, "f:name": {} } }, "f:type": {} },
            "f:metadata": { "f:finalizers": { "v:\"a/b\"": {} } },
        });
        let set = FieldSet::of_json(&fields);
        assert_eq!(set.to_json(), fields);
        assert_eq!(
            set.paths(),
            [
                ".metadata.finalizers[=\"a/b\"]",
                ".spec.ports[port=80,protocol=\"TCP\"].name",
                ".spec.ports[port=80,protocol=\"TCP\"]",
                ".spec.type"
            ]
        );
    }

    #[test]
    fn sets_are_joined_parted_and_met() {
        let a = FieldSet::of_json(&json!({ "f:x": { "f:y": {}, "f:z": {} }, "f:only": {} }));
        let b = FieldSet::of_json(&json!({ "f:x": { "f:z": {}, ".": {} } }));
        assert_eq!(a.both(&b).to_json(), json!({ "f:x": { "f:z": {} } }));
        assert_eq!(a.minus(&b).to_json(), json!({ "f:x": { "f:y": {} }, "f:only": {} }));
        assert_eq!(b.minus(&a).to_json(), json!({ "f:x": {} }));
        assert_eq!(a.clone().union(&b).to_json(), json!({ "f:x": { ".": {}, "f:y": {}, "f:z": {} }, "f:only": {} }));
        assert!(a.minus(&a).is_empty());
        let mut c = a;
        c.remove(&["f:x", "f:y"]);
        c.remove(&["f:x", "f:z"]);
        assert_eq!(c.to_json(), json!({ "f:only": {} }));
    }
}
