//! Server-side apply: every field has owners, and who applies changes only what is his.
//!
//! ```text
//!  apply:   live + config ─► merged ─► without what this manager gave up ─► conflicts? ─► owners
//!  others:  old, new ─► what changed ─► now the writer's, and nobody else's
//! ```
//! Owners are kept from an object's first apply on; what it had before belongs to
//! `before-first-apply`. An object that nobody applies this way carries none and costs nothing.
//!
//! Pure: the time of a change comes in as text. This room must never know how a request came.
//!
//! Source: KEP-555; the behaviour of sigs.k8s.io/structured-merge-diff.

mod fields;
mod form;
mod object;

use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::schema::{self, Type};
use crate::value::{group_version_kind, text};
use fields::FieldSet;
use form::Form;
pub use object::ShapeError;

/// Owns what an object had before its first apply.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// The manager whose first apply takes over from `kubectl apply` without `--server-side`.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration";
const APPLY: &str = "Apply";
const UPDATE: &str = "Update";

/// Fields that are the server's own and nobody's.
const NOBODYS: &[&[&str]] = &[
    &["f:apiVersion"],
    &["f:kind"],
    &["f:metadata", "f:name"],
    &["f:metadata", "f:generateName"],
    &["f:metadata", "f:namespace"],
    &["f:metadata", "f:creationTimestamp"],
    &["f:metadata", "f:deletionTimestamp"],
    &["f:metadata", "f:deletionGracePeriodSeconds"],
    &["f:metadata", "f:selfLink"],
    &["f:metadata", "f:uid"],
    &["f:metadata", "f:generation"],
    &["f:metadata", "f:managedFields"],
    &["f:metadata", "f:resourceVersion"],
];

/// Who writes, and when.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// `fieldManager`, or the first word of the client's own name.
    pub manager: &'a str,
    /// `status`, `scale`; empty for the object itself.
    pub subresource: &'a str,
    /// RFC 3339, whole seconds.
    pub now: &'a str,
    /// Take fields from others who want another value.
    pub force: bool,
}

/// A field that another manager wants otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// `"kubectl-edit" using apps/v1 at 2026-11-22T12:00:00Z`
    pub manager: String,
    /// `.spec.replicas`
    pub field: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ApplyError {
    #[error("{}", conflicts_in_words(.0))]
    Conflicts(Vec<Conflict>),
    #[error(transparent)]
    Shape(#[from] ShapeError),
    #[error("metadata.managedFields must be nil")]
    ManagedFieldsGiven,
    #[error("server-side apply knows no kind \"{kind}\" in version \"{api_version}\"")]
    UnknownKind { api_version: String, kind: String },
}

/// As kube-apiserver says it.
fn conflicts_in_words(conflicts: &[Conflict]) -> String {
    if let [only] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", only.manager, only.field);
    }
    let mut managers: Vec<&str> = conflicts.iter().map(|conflict| conflict.manager.as_str()).collect();
    managers.sort_unstable();
    managers.dedup();
    let mut lines = Vec::new();
    for manager in managers {
        lines.push(format!("conflicts with {manager}:"));
        lines.extend(conflicts.iter().filter(|one| one.manager == manager).map(|one| format!("- {}", one.field)));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// One manager's fields: an element of `metadata.managedFields`.
#[derive(Clone, Debug, PartialEq)]
struct Owner {
    manager: String,
    operation: String,
    api_version: String,
    subresource: String,
    time: String,
    fields: FieldSet,
}

impl Owner {
    fn new(writer: &Writer, operation: &str, api_version: &str) -> Owner {
        Owner {
            manager: writer.manager.to_owned(),
            operation: operation.to_owned(),
            api_version: api_version.to_owned(),
            subresource: writer.subresource.to_owned(),
            time: writer.now.to_owned(),
            fields: FieldSet::default(),
        }
    }

    fn read(entry: &Value) -> Owner {
        let said = |name| text(entry, name).to_owned();
        Owner {
            manager: said("manager"),
            operation: said("operation"),
            api_version: said("apiVersion"),
            subresource: said("subresource"),
            time: said("time"),
            fields: FieldSet::of_json(entry.get("fieldsV1").unwrap_or(&Value::Null)),
        }
    }

    fn write(&self) -> Value {
        let mut entry = json!({
            "manager": self.manager, "operation": self.operation, "apiVersion": self.api_version,
            "time": self.time, "fieldsType": "FieldsV1", "fieldsV1": self.fields.to_json(),
        });
        if !self.subresource.is_empty() {
            entry["subresource"] = self.subresource.as_str().into();
        }
        entry
    }

    fn is(&self, manager: &str, operation: &str, subresource: &str) -> bool {
        self.manager == manager && self.operation == operation && self.subresource == subresource
    }

    fn in_words(&self) -> String {
        let part = match self.subresource.as_str() {
            "" => String::new(),
            name => format!(" with subresource \"{name}\""),
        };
        let at = match self.operation.as_str() {
            UPDATE if !self.time.is_empty() => format!(" at {}", self.time),
            _ => String::new(),
        };
        format!("\"{}\"{part} using {}{at}", self.manager, self.api_version)
    }
}

fn owners(object: &Value) -> Vec<Owner> {
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    entries.into_iter().flatten().map(Owner::read).filter(|owner| !owner.fields.is_empty()).collect()
}

/// Whether owners of this object's fields are kept.
pub fn is_tracked(object: &Value) -> bool {
    object.pointer("/metadata/managedFields").and_then(Value::as_array).is_some_and(|all| !all.is_empty())
}

fn set_owners(object: &mut Value, owners: &[Owner]) {
    let entries: Vec<Value> = owners.iter().filter(|owner| !owner.fields.is_empty()).map(Owner::write).collect();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        match entries.is_empty() {
            true => metadata.remove("managedFields"),
            false => metadata.insert("managedFields".into(), entries.into()),
        };
    }
}

fn type_of(object: &Value) -> Result<&'static Type, ApplyError> {
    let (api_version, kind) = group_version_kind(object);
    schema::type_of(api_version, kind)
        .ok_or_else(|| ApplyError::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() })
}

fn without_nobodys(mut set: FieldSet) -> FieldSet {
    NOBODYS.iter().for_each(|path| set.remove(path));
    if let Some(metadata) = set.below.get_mut("f:metadata") {
        metadata.is_owned = false;
    }
    set.is_owned = false;
    set
}

/// What applying `config` makes of `live` (`None`: there is no such object yet), with its owners.
/// The status is the status subresource's, and everything else the object's own.
pub fn apply(live: Option<&Value>, config: &Value, writer: &Writer) -> Result<Value, ApplyError> {
    if is_tracked(config) {
        return Err(ApplyError::ManagedFieldsGiven);
    }
    let form = Form::Struct(type_of(config)?);
    let config = &own_part(config, writer.subresource);
    object::check(form, config, "")?;
    let mut known = live.map(owners).unwrap_or_default();
    if let Some(live) = live.filter(|_| known.is_empty()) {
        known.push(before_first_apply(form, live, writer));
    }
    let (merged, owners) = match applied(form, live, config, known.clone(), writer) {
        Err(ApplyError::Conflicts(conflicts)) if writer.manager == KUBECTL => {
            let allowed = live.map(|live| last_applied(form, live)).unwrap_or_default();
            let left: Vec<Conflict> = conflicts.into_iter().filter(|one| !allowed.contains(&one.field)).collect();
            if !left.is_empty() {
                return Err(ApplyError::Conflicts(left));
            }
            applied(form, live, config, known, &Writer { force: true, ..*writer })?
        }
        done => done?,
    };
    let mut merged = merged;
    set_owners(&mut merged, &owners);
    Ok(merged)
}

/// The configuration without the part that another subresource writes, and without nulls.
fn own_part(config: &Value, subresource: &str) -> Value {
    let mut own = without_nulls(config);
    if let Some(members) = own.as_object_mut() {
        match subresource {
            "status" => {
                members.retain(|name, _| matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status"))
            }
            _ => drop(members.remove("status")),
        }
    }
    own
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.iter().filter(|(_, member)| !member.is_null());
            Value::Object(kept.map(|(name, member)| (name.clone(), without_nulls(member))).collect::<Map<_, _>>())
        }
        Value::Array(elements) => Value::Array(elements.iter().map(without_nulls).collect()),
        scalar => scalar.clone(),
    }
}

fn before_first_apply(form: Form, live: &Value, writer: &Writer) -> Owner {
    let named = Writer { manager: BEFORE_FIRST_APPLY, subresource: "", ..*writer };
    let mut owner = Owner::new(&named, UPDATE, group_version_kind(live).0);
    let mut all = without_nobodys(object::changes(form, None, Some(live)).added);
    all.remove(&["f:status"]);
    owner.fields = all;
    owner
}

fn applied(
    form: Form,
    live: Option<&Value>,
    config: &Value,
    mut owners: Vec<Owner>,
    writer: &Writer,
) -> Result<(Value, Vec<Owner>), ApplyError> {
    let mut merged = object::merge(form, live, config);
    let wanted = without_nobodys(object::fields(form, config));
    let place = owners.iter().position(|owner| owner.is(writer.manager, APPLY, writer.subresource));
    let mut own = match place {
        Some(place) => owners.remove(place),
        None => Owner::new(writer, APPLY, group_version_kind(config).0),
    };
    let last = std::mem::replace(&mut own.fields, wanted);
    let owned = owners.iter().fold(own.fields.clone(), |all, owner| all.union(&owner.fields));
    object::prune(form, &mut merged, &last, &owned);
    if let Some(live) = live {
        yield_to(&mut owners, &object::changes(form, Some(live), Some(&merged)), writer.force)?;
    }
    if own.fields != last {
        own.time = writer.now.to_owned();
    }
    owners.push(own);
    sort(&mut owners);
    Ok((merged, owners))
}

/// Others lose what changed, if they may; what is gone is nobody's.
fn yield_to(others: &mut Vec<Owner>, changes: &object::Changes, force: bool) -> Result<(), ApplyError> {
    let touched = changes.changed.clone().union(&changes.added);
    let mut conflicts = Vec::new();
    for owner in others.iter_mut() {
        let lost = owner.fields.both(&touched);
        if !force {
            let manager = owner.in_words();
            conflicts.extend(lost.paths().into_iter().map(|field| Conflict { manager: manager.clone(), field }));
        }
        owner.fields = owner.fields.minus(&lost).minus(&changes.removed);
    }
    if !conflicts.is_empty() {
        return Err(ApplyError::Conflicts(conflicts));
    }
    others.retain(|owner| !owner.fields.is_empty());
    Ok(())
}

/// Fields that are as `kubectl apply` left them: kubectl may take those over.
fn last_applied(form: Form, live: &Value) -> Vec<String> {
    let said = live.pointer(LAST_APPLIED).and_then(Value::as_str);
    let Some(last) = said.and_then(|text| serde_json::from_str::<Value>(text).ok()) else {
        return Vec::new();
    };
    let changes = object::changes(form, Some(&last), Some(live));
    let same = object::fields(form, &last).minus(&changes.changed).minus(&changes.added).minus(&changes.removed);
    same.paths()
}

/// Sets the owners of `new`, which a write that is no apply made of `old`. Nothing is done for an
/// object without owners.
pub fn update(old: &Value, new: &mut Value, writer: &Writer) {
    let Ok(ty) = type_of(new) else { return };
    let form = Form::Struct(ty);
    let before = owners(if is_tracked(new) { new } else { old });
    if before.is_empty() {
        return set_owners(new, &[]); // a client may reset them with one that owns nothing
    }
    let changes = object::changes(form, Some(old), Some(&*new));
    let touched = without_nobodys(changes.changed.clone().union(&changes.added));
    let removed = without_nobodys(changes.removed.clone());
    let mut owners = before;
    let place = owners.iter().position(|owner| owner.is(writer.manager, UPDATE, writer.subresource));
    let mut own = match place {
        Some(place) => owners.remove(place),
        None => Owner::new(writer, UPDATE, group_version_kind(new).0),
    };
    for owner in &mut owners {
        owner.fields = owner.fields.minus(&touched).minus(&removed);
    }
    let fields = own.fields.minus(&removed).union(&touched);
    if fields != own.fields {
        own.time = writer.now.to_owned();
        own.fields = fields;
    }
    owners.push(own);
    sort(&mut owners);
    set_owners(new, &owners);
}

/// One order for one set of owners, else a write that changes nothing would look like a change.
fn sort(owners: &mut [Owner]) {
    let key = |owner: &Owner| {
        (owner.operation != APPLY, owner.time.clone(), owner.manager.clone(), owner.subresource.clone())
    };
    owners.sort_by_key(key);
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
