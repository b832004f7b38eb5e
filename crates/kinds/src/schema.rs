//! Checks an object's fields against the types of its kind: unknown fields, wrong JSON types.
//!
//! ```text
//! KINDS (apiVersion, kind) ─► TYPES[n].fields ─► Shape ─► TYPES[m] …
//! ```
//!
//! It knows types only; what a value may be is `validate`'s. The table is generated.

use std::fmt;

use serde_json::Value;

use crate::generated::types::{KINDS, TYPES};

/// One served kind, as a row.
pub(crate) struct Kind {
    pub api_version: &'static str,
    pub kind: &'static str,
    /// Index of its type in `TYPES`.
    pub type_index: usize,
}

/// One object type with fixed fields.
pub(crate) struct Type {
    /// Full name, as `io.k8s.api.core.v1.PodSpec`.
    pub name: &'static str,
    /// Sorted by name.
    pub fields: &'static [Field],
}

pub(crate) struct Field {
    pub name: &'static str,
    pub shape: Shape,
}

/// What JSON a field holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Shape {
    String,
    Int32,
    Int64,
    #[allow(dead_code, reason = "no kind that is served has one yet; the generator knows it")]
    Number,
    Boolean,
    /// Base64 text.
    Bytes,
    /// RFC 3339 text.
    Time,
    /// Text or a number.
    Quantity,
    IntOrString,
    Any,
    /// Index into `TYPES`.
    Object(usize),
    List(&'static Shape),
    Map(&'static Shape),
}

impl Type {
    pub(crate) fn field(&self, name: &str) -> Option<&'static Field> {
        let fields = self.fields;
        fields.binary_search_by(|field| field.name.cmp(name)).ok().map(|at| &fields[at])
    }

    /// `PodSpec` of `io.k8s.api.core.v1.PodSpec`.
    pub(crate) fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }
}

/// The type of a kind. `DeleteOptions` belongs to every group version.
pub(crate) fn type_of(api_version: &str, kind: &str) -> Option<&'static Type> {
    KINDS
        .iter()
        .find(|row| row.kind == kind && (row.api_version == api_version || kind == "DeleteOptions"))
        .map(|row| &TYPES[row.type_index])
}

pub(crate) fn type_at(index: usize) -> &'static Type {
    &TYPES[index]
}

/// Whether the control plane serves this kind, or takes it as a body.
pub fn is_known(api_version: &str, kind: &str) -> bool {
    type_of(api_version, kind).is_some()
}

/// A field that does not fit the kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Place in the object, as `spec.template.spec.containers[0].image`.
    pub path: String,
    pub problem: Problem,
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The kind has no such field.
    UnknownField,
    /// The field wants another JSON type; both in words (`int32`, `string`, `object`).
    WrongType { want: &'static str, got: &'static str },
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problem {
            Problem::UnknownField => write!(out, "unknown field \"{}\"", self.path),
            Problem::WrongType { want, got } => {
                write!(out, "json: cannot unmarshal {got} into field {} of type {want}", self.path)
            }
        }
    }
}

/// All findings in an object, in the order of its fields; none for a kind that is not known.
pub fn check(api_version: &str, kind: &str, object: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(ty) = type_of(api_version, kind) {
        check_object(ty, object, "", &mut findings);
    }
    findings
}

fn check_object(ty: &Type, value: &Value, path: &str, findings: &mut Vec<Finding>) {
    let Some(members) = value.as_object() else {
        return wrong(path, "object", value, findings);
    };
    for (name, member) in members {
        let at = match path {
            "" => name.clone(),
            _ => format!("{path}.{name}"),
        };
        match ty.field(name) {
            Some(field) => check_shape(&field.shape, member, &at, findings),
            None => findings.push(Finding { path: at, problem: Problem::UnknownField }),
        }
    }
}

fn check_shape(shape: &Shape, value: &Value, path: &str, findings: &mut Vec<Finding>) {
    if value.is_null() {
        return;
    }
    match shape {
        Shape::Object(index) => check_object(type_at(*index), value, path, findings),
        Shape::List(item) => match value.as_array() {
            Some(items) => {
                for (at, element) in items.iter().enumerate() {
                    check_shape(item, element, &format!("{path}[{at}]"), findings);
                }
            }
            None => wrong(path, "array", value, findings),
        },
        Shape::Map(item) => match value.as_object() {
            Some(members) => {
                for (name, member) in members {
                    check_shape(item, member, &format!("{path}.{name}"), findings);
                }
            }
            None => wrong(path, "object", value, findings),
        },
        scalar => {
            if let Some(want) = unmet(scalar, value) {
                wrong(path, want, value, findings);
            }
        }
    }
}

/// What a scalar wants, if the value is not that.
fn unmet(shape: &Shape, value: &Value) -> Option<&'static str> {
    let int32 = || value.as_i64().is_some_and(|n| i32::try_from(n).is_ok());
    let (is_met, want) = match shape {
        Shape::String => (value.is_string(), "string"),
        Shape::Int32 => (int32(), "int32"),
        Shape::Int64 => (value.as_i64().is_some(), "int64"),
        Shape::Number => (value.is_number(), "float64"),
        Shape::Boolean => (value.is_boolean(), "bool"),
        Shape::Bytes => (value.as_str().is_some_and(is_base64), "base64 string"),
        Shape::Time => (value.as_str().is_some_and(is_time), "RFC 3339 time"),
        Shape::Quantity => (value.is_string() || value.is_number(), "quantity"),
        Shape::IntOrString => (value.is_string() || int32(), "int32 or string"),
        Shape::Any | Shape::Object(_) | Shape::List(_) | Shape::Map(_) => (true, ""),
    };
    (!is_met).then_some(want)
}

fn is_base64(text: &str) -> bool {
    serde_json::from_value::<k8s_openapi::ByteString>(Value::from(text)).is_ok()
}

fn is_time(text: &str) -> bool {
    text.parse::<k8s_openapi::jiff::Timestamp>().is_ok()
}

fn wrong(path: &str, want: &'static str, value: &Value, findings: &mut Vec<Finding>) {
    let got = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    findings.push(Finding { path: path.to_owned(), problem: Problem::WrongType { want, got } });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(object: &Value) -> Vec<String> {
        check("apps/v1", "Deployment", object).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_unknown_field_is_named_by_its_path() {
        let object = json!({ "spec": { "template": { "spec": { "foo": 1, "containers": [{ "imag": "nginx" }] } } } });
        assert_eq!(
            texts(&object),
            ["unknown field \"spec.template.spec.containers[0].imag\"", "unknown field \"spec.template.spec.foo\""]
        );
    }

    #[test]
    fn a_wrong_type_says_what_was_wanted_and_what_came() {
        let object =
            json!({ "spec": { "replicas": "two", "template": { "spec": { "containers": { "name": "x" } } } } });
        assert_eq!(
            texts(&object),
            [
                "json: cannot unmarshal string into field spec.replicas of type int32",
                "json: cannot unmarshal object into field spec.template.spec.containers of type array"
            ]
        );
    }

    #[test]
    fn numbers_must_fit_and_null_fits_everywhere() {
        assert_eq!(texts(&json!({ "spec": { "replicas": 3_000_000_000_i64 } })).len(), 1);
        assert_eq!(texts(&json!({ "spec": { "replicas": 1.5 } })).len(), 1);
        assert_eq!(texts(&json!({ "spec": { "replicas": null, "selector": null } })), Vec::<String>::new());
    }

    #[test]
    fn secret_data_must_be_base64() {
        let findings = check("v1", "Secret", &json!({ "data": { "a": "aGk=", "b": "%" } }));
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].path, "data.b");
    }

    #[test]
    fn the_table_is_sorted_as_the_lookup_wants() {
        for ty in TYPES {
            assert!(ty.fields.is_sorted_by(|a, b| a.name < b.name), "{}", ty.name);
        }
    }

    #[test]
    fn deployment_lives_in_apps_only() {
        assert!(is_known("apps/v1", "Deployment"));
        assert!(!is_known("v1", "Deployment"));
        assert!(is_known("apps/v1", "DeleteOptions"));
    }
}
