//! Strategic merge patch: Kubernetes' patch that knows the lists of its types.
//!
//! ```text
//! patch member        effect on the original
//! ──────────────────  ──────────────────────────────────────────────
//! null                the member goes
//! object              merged, member by member
//! list                replaced, or merged by key (`merge_keys`)
//! $patch              replace | delete | merge this object or element
//! $retainKeys         all other members go first
//! $deleteFromPrimitiveList/X   these elements leave list X
//! $setElementOrder/X           list X is put in this order
//! ```
//!
//! Source: k8s.io/apimachinery strategicpatch; the community's document on strategic merge patch.

use serde_json::{Map, Value};
use thiserror::Error;

use crate::merge_keys::{ListStrategy, list_strategy};
use crate::schema::{self, Shape, Type, type_at};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// Why a patch could not be applied.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PatchError {
    #[error("strategic merge patch knows no kind \"{kind}\" in version \"{api_version}\"; use a JSON merge patch")]
    UnknownKind { api_version: String, kind: String },
    #[error("patch of {path}: is not an object")]
    NotAnObject { path: String },
    #[error("patch of {path}: element does not contain declared merge key: {key}")]
    MissingMergeKey { path: String, key: &'static str },
    #[error("patch of {path}: invalid value of {directive}: {value}")]
    BadDirective { path: String, directive: &'static str, value: String },
}

type Object = Map<String, Value>;

/// The patched object. The original is of the given kind and is left as it is.
pub fn strategic(api_version: &str, kind: &str, original: &Value, patch: &Value) -> Result<Value, PatchError> {
    let ty = schema::type_of(api_version, kind)
        .ok_or_else(|| PatchError::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() })?;
    let (Value::Object(original), Value::Object(patch)) = (original, patch) else {
        return Err(PatchError::NotAnObject { path: kind.to_owned() });
    };
    let merged = merge_object(Some(ty), original.clone(), patch, kind)?;
    Ok(Value::Object(merged))
}

fn merge_object(
    ty: Option<&'static Type>,
    mut original: Object,
    patch: &Object,
    path: &str,
) -> Result<Object, PatchError> {
    match patch.get(PATCH).map(|directive| directive.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("replace") => return Ok(plain_object(patch)),
        Some("delete") => return Ok(Object::new()),
        Some(other) => return Err(bad(path, PATCH, other)),
    }
    if let Some(keys) = patch.get(RETAIN_KEYS) {
        let keys = keys.as_array().ok_or_else(|| bad(path, RETAIN_KEYS, keys))?;
        original.retain(|name, _| keys.iter().any(|key| key == name));
    }
    let server_order = original.clone();
    for (name, value) in patch {
        if let Some(list) = name.strip_prefix(DELETE_FROM) {
            delete_from(&mut original, list, value, path)?;
        }
    }
    for (name, value) in patch.iter().filter(|(name, _)| !name.starts_with('$')) {
        let at = format!("{path}.{name}");
        match merge_member(ty, name, original.get(name), value, &at)? {
            Some(merged) => original.insert(name.clone(), merged),
            None => original.remove(name),
        };
    }
    for (name, order) in patch {
        if let Some(list) = name.strip_prefix(SET_ORDER) {
            let before = server_order.get(list).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            set_order(ty, &mut original, list, order, before, path)?;
        }
    }
    Ok(original)
}

/// The merged member, `None` if it goes.
fn merge_member(
    ty: Option<&'static Type>,
    name: &str,
    original: Option<&Value>,
    patch: &Value,
    path: &str,
) -> Result<Option<Value>, PatchError> {
    let shape = ty.and_then(|ty| ty.field(name)).map(|field| field.shape);
    match (original, patch) {
        (_, Value::Null) => Ok(None),
        (Some(Value::Object(original)), Value::Object(patch)) => {
            merge_object(shape.and_then(object_type), original.clone(), patch, path).map(|o| Some(Value::Object(o)))
        }
        (Some(Value::Array(original)), Value::Array(patch)) => {
            let strategy = ty.map_or(ListStrategy::Replace, |ty| list_strategy(ty.short_name(), name));
            merge_list(strategy, shape, original, patch, path).map(|list| Some(Value::Array(list)))
        }
        (_, patch) => Ok(Some(plain(patch))),
    }
}

fn object_type(shape: Shape) -> Option<&'static Type> {
    match shape {
        Shape::Object(index) => Some(type_at(index)),
        _ => None,
    }
}

fn element_type(shape: Option<Shape>) -> Option<&'static Type> {
    match shape {
        Some(Shape::List(element)) => object_type(*element),
        _ => None,
    }
}

fn merge_list(
    strategy: ListStrategy,
    shape: Option<Shape>,
    original: &[Value],
    patch: &[Value],
    path: &str,
) -> Result<Vec<Value>, PatchError> {
    match strategy {
        ListStrategy::Replace => Ok(patch.iter().filter(|v| !is_list_directive(v)).map(plain).collect()),
        ListStrategy::MergeSet => {
            let mut merged = original.to_vec();
            merged.extend(patch.iter().filter(|value| !original.contains(value)).cloned());
            Ok(order(merged, patch, original, None))
        }
        ListStrategy::MergeBy(key) => merge_keyed(key, element_type(shape), original, patch, path),
    }
}

fn is_list_directive(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.len() == 1 && object.contains_key(PATCH))
}

fn merge_keyed(
    key: &'static str,
    ty: Option<&'static Type>,
    original: &[Value],
    patch: &[Value],
    path: &str,
) -> Result<Vec<Value>, PatchError> {
    if patch.iter().any(|value| is_list_directive(value) && value[PATCH] == "replace") {
        return Ok(patch.iter().filter(|value| !is_list_directive(value)).map(plain).collect());
    }
    let mut merged = original.to_vec();
    let mut kept = Vec::new();
    for element in patch {
        let Value::Object(object) = element else {
            return Err(PatchError::NotAnObject { path: path.to_owned() });
        };
        let id = object.get(key).ok_or_else(|| PatchError::MissingMergeKey { path: path.to_owned(), key })?;
        if object.get(PATCH).is_some_and(|directive| directive == "delete") {
            merged.retain(|old| old.get(key) != Some(id));
            continue;
        }
        kept.push(element.clone());
        match merged.iter_mut().find(|old| old.get(key) == Some(id)) {
            Some(Value::Object(old)) => {
                *old = merge_object(ty, std::mem::take(old), object, &format!("{path}[{key}={id}]"))?;
            }
            _ => merged.push(Value::Object(plain_object(object))),
        }
    }
    Ok(order(merged, &kept, original, Some(key)))
}

fn delete_from(original: &mut Object, list: &str, gone: &Value, path: &str) -> Result<(), PatchError> {
    let gone = gone.as_array().ok_or_else(|| bad(path, "$deleteFromPrimitiveList", gone))?;
    if let Some(Value::Array(elements)) = original.get_mut(list) {
        elements.retain(|element| !gone.contains(element));
    }
    Ok(())
}

/// Orders a list as the patch wants; what it does not name stays where the server had it.
fn set_order(
    ty: Option<&'static Type>,
    original: &mut Object,
    list: &str,
    wanted: &Value,
    before: &[Value],
    path: &str,
) -> Result<(), PatchError> {
    let wanted = wanted.as_array().ok_or_else(|| bad(path, "$setElementOrder", wanted))?;
    let key = match ty.map(|ty| list_strategy(ty.short_name(), list)) {
        Some(ListStrategy::MergeBy(key)) => Some(key),
        _ => None,
    };
    if let Some(Value::Array(elements)) = original.get_mut(list) {
        *elements = order(std::mem::take(elements), wanted, before, key);
    }
    Ok(())
}

/// Puts the elements named in `wanted` in that order, and between them the others where the
/// server's own order had them.
fn order(all: Vec<Value>, wanted: &[Value], server: &[Value], key: Option<&str>) -> Vec<Value> {
    let place = |list: &[Value], value: &Value| list.iter().position(|other| is_same(other, value, key));
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        all.into_iter().partition(|value| place(wanted, value).is_some());
    named.sort_by_key(|value| place(wanted, value));
    others.sort_by_key(|value| place(server, value).unwrap_or(usize::MAX));
    let mut ordered = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    for value in named {
        let here = place(server, &value);
        while let Some(other) = others.next_if(|other| match (place(server, other), here) {
            (Some(other), Some(here)) => other < here,
            _ => false,
        }) {
            ordered.push(other);
        }
        ordered.push(value);
    }
    ordered.extend(others);
    ordered
}

fn is_same(a: &Value, b: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) => a.get(key).is_some() && a.get(key) == b.get(key),
        None => a == b,
    }
}

/// A patch value as it is stored where nothing was: without directives and nulls.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(object) => Value::Object(plain_object(object)),
        Value::Array(elements) => Value::Array(elements.iter().filter(|v| !is_list_directive(v)).map(plain).collect()),
        scalar => scalar.clone(),
    }
}

fn plain_object(object: &Object) -> Object {
    object
        .iter()
        .filter(|(name, value)| !name.starts_with('$') && !value.is_null())
        .map(|(name, value)| (name.clone(), plain(value)))
        .collect()
}

fn bad(path: &str, directive: &'static str, value: impl ToString) -> PatchError {
    PatchError::BadDirective { path: path.to_owned(), directive, value: value.to_string() }
}

#[cfg(test)]
#[path = "patch_tests.rs"]
mod tests;
