//! Objects as JSON values on their way in, and as bytes with a small index once stored.
//!
//! A stored object is its JSON with one hole: the writer puts the revision's digits into
//! `metadata.resourceVersion`. Parsed objects cost ten times their bytes, so readers work on the index
//! and the bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use portolan_store::{Entry, Index, Put};
use serde_json::{Map, Value};

use crate::registry::{self, Resource};

/// What is known of a stored object without parsing it.
#[derive(Debug, Default, PartialEq)]
pub struct ObjectIndex {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub labels: BTreeMap<String, String>,
    /// UIDs of the owners.
    pub owners: Vec<String>,
    /// Selectable fields that are set, by their selector name.
    pub fields: Vec<(&'static str, String)>,
}

pub type Stored = Entry<ObjectIndex>;

impl Index for ObjectIndex {
    fn of(key: &str, value: &[u8]) -> Self {
        let Some(resource) = registry::of_key(key) else {
            return ObjectIndex::default();
        };
        match serde_json::from_slice(value) {
            Ok(object) => index(resource, &object),
            Err(_) => ObjectIndex::default(),
        }
    }
}

pub fn index(resource: &Resource, object: &Value) -> ObjectIndex {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    ObjectIndex {
        namespace: text("/metadata/namespace"),
        name: text("/metadata/name"),
        uid: text("/metadata/uid"),
        labels: labels(object),
        owners: owners.into_iter().flatten().filter_map(|owner| Some(owner.get("uid")?.as_str()?.to_owned())).collect(),
        fields: resource.selectable(object),
    }
}

pub fn labels(object: &Value) -> BTreeMap<String, String> {
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
    let pairs = labels.into_iter().flatten();
    pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// Stands where the revision goes while an object is turned into bytes.
const HOLE: &str = "\u{1}rv\u{1}";
const HOLE_ESCAPED: &[u8] = br#""\u0001rv\u0001""#;

/// The object as it is stored.
pub fn encode(resource: &Resource, mut object: Value) -> Put<ObjectIndex> {
    let index = Arc::new(index(resource, &object));
    meta_mut(&mut object).insert("resourceVersion".into(), HOLE.into());
    let mut value = serde_json::to_vec(&object).expect("a JSON value always has bytes");
    let start = value
        .windows(HOLE_ESCAPED.len())
        .position(|window| window == HOLE_ESCAPED)
        .expect("the hole was put in just above");
    value.splice(start..start + HOLE_ESCAPED.len(), *b"\"\"");
    let revision_at = u32::try_from(start + 1).ok();
    Put { value, revision_at, index }
}

/// The parsed object behind stored bytes.
pub fn decode(entry: &Stored) -> Value {
    serde_json::from_slice(&entry.value).expect("only JSON objects are ever stored")
}

/// `metadata`, made if missing or of another type.
pub fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    child_mut(object, "metadata")
}

/// A member that is an object, made if missing or of another type.
pub fn child_mut<'a>(object: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let members = object.as_object_mut().expect("made an object above");
    let child = members.entry(name).or_insert_with(|| Value::Object(Map::new()));
    if !child.is_object() {
        *child = Value::Object(Map::new());
    }
    child.as_object_mut().expect("made an object above")
}

/// Text at a JSON pointer; empty when there is none.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

pub fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

pub fn is_deleting(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null())
}

/// Finalizers in `metadata`.
pub fn finalizers(object: &Value) -> Vec<&str> {
    let list = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Removes the value at a path such as `spec.ports[0].foo`; a name may itself hold dots.
pub fn remove_path(object: &mut Value, path: &str) {
    let Some(members) = object.as_object_mut() else { return };
    if members.remove(path).is_some() {
        return;
    }
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (first, mut rest) = path.split_at(end);
    let Some(mut child) = members.get_mut(first) else { return };
    while let Some(after) = rest.strip_prefix('[') {
        let Some((at, tail)) = after.split_once(']') else { return };
        let Some(item) = at.parse::<usize>().ok().and_then(|at| child.get_mut(at)) else { return };
        (child, rest) = (item, tail);
    }
    if let Some(rest) = rest.strip_prefix('.') {
        remove_path(child, rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn stored_bytes_have_room_for_the_revision_and_nothing_else_changed() {
        let object = json!({ "kind": "Pod", "metadata": { "name": "a", "labels": { "resourceVersion": "" } } });
        let put = encode(registry::row("pods"), object.clone());
        let at = put.revision_at.expect("an offset") as usize;
        let mut bytes = put.value.clone();
        bytes.splice(at..at, *b"42");
        let mut expected = object;
        expected["metadata"]["resourceVersion"] = "42".into();
        assert_eq!(serde_json::from_slice::<Value>(&bytes).expect("JSON"), expected);
    }

    #[test]
    fn unknown_fields_are_removed_by_their_path() {
        let mut object = json!({ "spec": { "ports": [{ "port": 1, "foo": 2 }], "a.b": 1, "keep": 1 } });
        for path in ["spec.ports[0].foo", "spec.a.b", "spec.ports[7].x", "nowhere.at.all"] {
            remove_path(&mut object, path);
        }
        assert_eq!(object, json!({ "spec": { "ports": [{ "port": 1 }], "keep": 1 } }));
    }
}
