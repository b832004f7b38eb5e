//! What a kind does on its way into the store, beyond what its row and `kinds` say.
//!
//! Pure: `now` comes in, values go out. Each kind that needs code has a file; the rest follow the
//! common rules here.

pub mod namespace;
pub mod pod;
pub mod scale;
pub mod service;

use jiff::Timestamp;
use rand::Rng;
use serde_json::{Map, Value, json};

use crate::object::{self, meta_mut};
use crate::registry::Resource;

/// Which part of an object a write may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything but the status, where the kind has a status of its own.
    Main,
    Status,
    /// A namespace's `spec.finalizers`.
    Finalize,
}

/// RFC 3339 in whole seconds, as `metav1.Time` is written.
pub fn time_text(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A random version 4 UUID.
pub fn new_uid() -> String {
    let bits: u128 = rand::rng().random();
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// A name for `generateName`: five characters that spell no words.
pub fn generated_name(base: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut random = rand::rng();
    let mut name: String = base.chars().take(58).collect();
    name.extend((0..5).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])));
    name
}

/// A new object, before defaulting: the server's own members are set, the user's are left.
pub fn prepare_create(resource: &Resource, object: &mut Value, now: Timestamp) {
    let meta = meta_mut(object);
    for member in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation", "resourceVersion"] {
        meta.remove(member);
    }
    meta.insert("uid".into(), new_uid().into());
    meta.insert("creationTimestamp".into(), time_text(now).into());
    if resource.counts_generation {
        meta.insert("generation".into(), 1.into());
    }
    match resource.kind {
        "Pod" => pod::prepare_create(object),
        "Namespace" => namespace::prepare_create(object),
        "Service" => object["status"] = json!({ "loadBalancer": {} }),
        "Deployment" => object["status"] = json!({}),
        "ReplicaSet" => object["status"] = json!({ "replicas": 0 }),
        _ => {}
    }
}

/// The object that a write to one part of `old` makes, before defaulting. What the client may not
/// change is put back.
pub fn prepare_update(resource: &Resource, part: Part, old: &Value, wanted: Value) -> Value {
    match part {
        Part::Status => with_member_of(old.clone(), "status", &wanted),
        Part::Finalize => namespace::with_finalizers_of(old.clone(), &wanted),
        Part::Main => prepare_main(resource, old, wanted),
    }
}

fn prepare_main(resource: &Resource, old: &Value, mut wanted: Value) -> Value {
    if resource.subresource("status").is_some() {
        wanted = with_member_of(wanted, "status", old);
    }
    if resource.kind == "Namespace" {
        wanted = namespace::with_finalizers_of(wanted, old);
    }
    keep_server_metadata(meta_mut(&mut wanted), old.get("metadata").and_then(Value::as_object));
    if resource.kind == "Service" {
        service::keep_allocated(old, &mut wanted);
    }
    wanted
}

fn keep_server_metadata(meta: &mut Map<String, Value>, old: Option<&Map<String, Value>>) {
    let kept = [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "resourceVersion",
        "generateName",
    ];
    for member in kept {
        match old.and_then(|old| old.get(member)) {
            Some(value) => meta.insert(member.to_owned(), value.clone()),
            None => meta.remove(member),
        };
    }
    meta.remove("managedFields");
    meta.remove("selfLink");
}

/// Counts a change of anything but metadata and status.
pub fn count_generation(resource: &Resource, old: &Value, new: &mut Value) {
    if !resource.counts_generation {
        return;
    }
    let beside = |object: &Value| -> Map<String, Value> {
        let members = object.as_object().cloned().unwrap_or_default();
        members.into_iter().filter(|(name, _)| name != "metadata" && name != "status").collect()
    };
    if beside(old) != beside(new) {
        let before = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
        meta_mut(new).insert("generation".into(), (before + 1).into());
    }
}

fn with_member_of(mut object: Value, member: &str, source: &Value) -> Value {
    match source.get(member) {
        Some(value) => object[member] = value.clone(),
        None => drop(object.as_object_mut().and_then(|members| members.remove(member))),
    }
    object
}

/// Whether nothing holds the object back any more once deletion was asked for.
pub fn is_ready_to_go(resource: &Resource, object: &Value) -> bool {
    let waits_gracefully =
        object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0) > 0;
    object::is_deleting(object)
        && object::finalizers(object).is_empty()
        && !(resource.kind == "Pod" && waits_gracefully)
        && !(resource.kind == "Namespace" && namespace::is_held(object))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;

    #[test]
    fn a_status_write_changes_the_status_alone_and_a_main_write_everything_else() {
        let old =
            json!({ "metadata": { "name": "a", "uid": "u" }, "spec": { "replicas": 1 }, "status": { "replicas": 1 } });
        let wanted = json!({ "metadata": { "name": "b", "uid": "v", "labels": { "x": "y" } }, "spec": { "replicas": 2 }, "status": { "replicas": 9 } });
        let row = registry::row("deployments");
        let status = prepare_update(row, Part::Status, &old, wanted.clone());
        assert_eq!(
            status,
            json!({ "metadata": { "name": "a", "uid": "u" }, "spec": { "replicas": 1 }, "status": { "replicas": 9 } })
        );
        let main = prepare_update(row, Part::Main, &old, wanted);
        assert_eq!(
            main,
            json!({ "metadata": { "name": "a", "uid": "u", "labels": { "x": "y" } }, "spec": { "replicas": 2 }, "status": { "replicas": 1 } })
        );
    }

    #[test]
    fn generation_counts_changes_of_the_spec_only() {
        let row = registry::row("deployments");
        let old = json!({ "metadata": { "generation": 3 }, "spec": { "replicas": 1 } });
        let mut labelled =
            json!({ "metadata": { "generation": 3, "labels": {} }, "spec": { "replicas": 1 }, "status": {} });
        count_generation(row, &old, &mut labelled);
        assert_eq!(labelled["metadata"]["generation"], 3);
        let mut scaled = json!({ "metadata": { "generation": 3 }, "spec": { "replicas": 2 } });
        count_generation(row, &old, &mut scaled);
        assert_eq!(scaled["metadata"]["generation"], 4);
    }

    #[test]
    fn uids_and_generated_names_have_their_shape() {
        let uid = new_uid();
        assert_eq!(uid.len(), 36);
        assert_eq!(&uid[14..15], "4");
        assert!("89ab".contains(&uid[19..20]));
        let name = generated_name(&"x".repeat(80));
        assert_eq!(name.len(), 63);
        assert_eq!(time_text("2026-11-22T11:00:00.5Z".parse().expect("a time")), "2026-11-22T11:00:00Z");
    }
}
