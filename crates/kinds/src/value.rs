//! Short ways into a JSON object, shared by defaulting and validation.

use serde_json::{Map, Value};

pub(crate) type Object = Map<String, Value>;

/// `apiVersion` and `kind`, empty where they are missing.
pub(crate) fn group_version_kind(object: &Value) -> (&str, &str) {
    (text(object, "apiVersion"), text(object, "kind"))
}

/// A string member, empty if it is missing or of another type.
pub(crate) fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The elements of a list member, none if it is missing.
pub(crate) fn items<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The members of an object member, none if it is missing.
pub(crate) fn entries<'a>(object: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    object.get(key).and_then(Value::as_object).into_iter().flatten()
}

/// A member, unless it is missing or null.
pub(crate) fn member<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    object.get(key).filter(|value| !value.is_null())
}

/// Whether a scalar is missing or in Go's unset state: null, "", 0 or false.
pub(crate) fn is_unset(object: &Object, key: &str) -> bool {
    match object.get(key) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Number(number)) => number.as_i64() == Some(0),
        Some(_) => false,
    }
}
