//! Kinds that are served under two groups and stored once: Events.
//!
//! ```text
//!  v1 Event ◄────── stored ──────► events.k8s.io/v1 Event
//!  involvedObject, message          regarding, note
//! ```
//! The two differ in the names of members alone, so a view is a list of pairs.
//!
//! Source: the `json` tags of Event in k8s.io/api core/v1 and events/v1.

use bytes::Bytes;
use serde_json::Value;

use crate::registry::{self, Resource};

/// How one row shows the objects of another.
#[derive(Debug)]
pub struct View {
    /// Group of the row that stores the objects; its plural is the same.
    pub stored_group: &'static str,
    /// (member here, member as it is stored); every other member has one name.
    pub members: &'static [(&'static str, &'static str)],
}

/// `events.k8s.io/v1`, kept as core Events.
pub static EVENTS: View = View {
    stored_group: "",
    members: &[
        ("regarding", "involvedObject"),
        ("note", "message"),
        ("reportingController", "reportingComponent"),
        ("deprecatedSource", "source"),
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedCount", "count"),
    ],
};

/// Field selectors of `events.k8s.io/v1`.
pub const EVENT_FIELDS: &[(&str, &str)] = &[
    ("regarding.kind", "/involvedObject/kind"),
    ("regarding.namespace", "/involvedObject/namespace"),
    ("regarding.name", "/involvedObject/name"),
    ("regarding.uid", "/involvedObject/uid"),
    ("regarding.apiVersion", "/involvedObject/apiVersion"),
    ("regarding.resourceVersion", "/involvedObject/resourceVersion"),
    ("regarding.fieldPath", "/involvedObject/fieldPath"),
    ("reason", "/reason"),
    ("reportingController", "/reportingComponent"),
    ("type", "/type"),
];

impl Resource {
    /// The row that stores these objects: this one, unless it is a view.
    pub fn stored(&'static self) -> &'static Resource {
        let Some(view) = self.view else { return self };
        let mut rows = registry::RESOURCES.iter();
        rows.find(|row| row.group == view.stored_group && row.plural == self.plural)
            .expect("a view names a row of the registry, as the registry's test holds")
    }
}

/// The object as it is stored, from the form that `asked` takes.
pub fn to_stored(asked: &'static Resource, object: Value) -> Value {
    match asked.view {
        Some(view) => renamed(object, view.members.iter().copied(), &asked.stored().api_version()),
        None => object,
    }
}

/// The object in the form that `asked` gives, from the stored one.
pub fn shown(asked: &Resource, object: Value) -> Value {
    match asked.view {
        Some(view) => renamed(object, view.members.iter().map(|(here, stored)| (*stored, *here)), &asked.api_version()),
        None => object,
    }
}

/// The same for an object's bytes; those of a row that is no view are passed on as they are.
pub fn shown_bytes(asked: &Resource, bytes: Bytes) -> Bytes {
    if asked.view.is_none() {
        return bytes;
    }
    match serde_json::from_slice(&bytes) {
        Ok(object) => shown(asked, object).to_string().into(),
        Err(_) => bytes,
    }
}

/// The name in the index of a selectable field: that of the stored form.
pub fn stored_field(asked: &Resource, field: &str) -> String {
    let members = asked.view.map_or(&[][..], |view| view.members);
    let (first, rest) = field.split_once('.').map_or((field, None), |(first, rest)| (first, Some(rest)));
    let first = members.iter().find(|(here, _)| *here == first).map_or(first, |(_, stored)| *stored);
    match rest {
        Some(rest) => format!("{first}.{rest}"),
        None => first.to_owned(),
    }
}

fn renamed<'a>(mut object: Value, pairs: impl Iterator<Item = (&'a str, &'a str)>, api_version: &str) -> Value {
    let Some(members) = object.as_object_mut() else { return object };
    for (from, to) in pairs {
        if let Some(value) = members.remove(from) {
            members.insert(to.to_owned(), value);
        }
    }
    members.insert("apiVersion".into(), api_version.into());
    object
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_the_same_after_both_ways() {
        let asked = registry::find("events.k8s.io", "v1", "events").expect("a row");
        let event = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "regarding": { "name": "a" }, "note": "said",
            "reason": "R", "reportingController": "c", "deprecatedCount": 2,
        });
        let stored = to_stored(asked, event.clone());
        assert_eq!(
            stored,
            json!({
                "apiVersion": "v1", "kind": "Event", "involvedObject": { "name": "a" }, "message": "said",
                "reason": "R", "reportingComponent": "c", "count": 2,
            })
        );
        assert_eq!(shown(asked, stored), event);
        assert_eq!(stored_field(asked, "regarding.name"), "involvedObject.name");
        assert_eq!(stored_field(asked, "reason"), "reason");
    }
}
