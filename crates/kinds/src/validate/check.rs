//! Collects errors; the checks that many kinds share.

use std::net::IpAddr;

use serde_json::Value;

use super::error::{ErrorKind, FieldError};
use crate::names;
use crate::value::{entries, member, text};

/// The errors found so far. Each method adds at most what its name says.
#[derive(Default)]
pub(super) struct Check {
    pub errors: Vec<FieldError>,
}

impl Check {
    fn add(&mut self, reason: ErrorKind, field: String, value: Option<Value>, detail: impl Into<String>) {
        self.errors.push(FieldError { reason, field, value, detail: detail.into() });
    }

    pub fn required(&mut self, field: impl Into<String>, detail: impl Into<String>) {
        self.add(ErrorKind::Required, field.into(), None, detail);
    }

    pub fn invalid(&mut self, field: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) {
        self.add(ErrorKind::Invalid, field.into(), Some(value.into()), detail);
    }

    pub fn duplicate(&mut self, field: impl Into<String>, value: impl Into<Value>) {
        self.add(ErrorKind::Duplicate, field.into(), Some(value.into()), "");
    }

    pub fn forbidden(&mut self, field: impl Into<String>, detail: impl Into<String>) {
        self.add(ErrorKind::Forbidden, field.into(), None, detail);
    }

    pub fn not_found(&mut self, field: impl Into<String>, value: impl Into<Value>) {
        self.add(ErrorKind::NotFound, field.into(), Some(value.into()), "");
    }

    pub fn too_long(&mut self, field: impl Into<String>, max: usize) {
        self.add(ErrorKind::TooLong, field.into(), None, format!("may not be more than {max} bytes"));
    }

    pub fn too_many(&mut self, field: impl Into<String>, count: usize, max: usize) {
        self.add(ErrorKind::TooMany, field.into(), None, format!("{count}: must have at most {max} items"));
    }

    pub fn not_supported(&mut self, field: impl Into<String>, value: &str, supported: &[&str]) {
        let list: Vec<String> = supported.iter().map(|one| format!("{one:?}")).collect();
        let detail = format!("supported values: {}", list.join(", "));
        self.add(ErrorKind::NotSupported, field.into(), Some(value.into()), detail);
    }

    /// One Invalid error for each message of a naming rule.
    pub fn named(&mut self, field: &str, value: &str, wrong: Vec<String>) {
        for detail in wrong {
            self.invalid(field, value, detail);
        }
    }

    /// A string that must be one of a few; unset is required to be set.
    pub fn one_of(&mut self, object: &Value, key: &str, path: &str, supported: &[&str]) {
        match text(object, key) {
            "" => self.required(format!("{path}.{key}"), ""),
            value if supported.contains(&value) => {}
            value => self.not_supported(format!("{path}.{key}"), value, supported),
        }
    }

    /// As `one_of`, for a field that may be unset.
    pub fn one_of_if_set(&mut self, object: &Value, key: &str, path: &str, supported: &[&str]) {
        if !text(object, key).is_empty() {
            self.one_of(object, key, path, supported);
        }
    }

    /// A whole number that may be unset but not negative.
    pub fn not_negative(&mut self, object: &Value, key: &str, path: &str) {
        match object.get(key).and_then(Value::as_i64) {
            Some(number) if number < 0 => {
                self.invalid(format!("{path}.{key}"), number, "must be greater than or equal to 0");
            }
            _ => {}
        }
    }

    /// A port number that must be there.
    pub fn port(&mut self, object: &Value, key: &str, path: &str) {
        let number = object.get(key).and_then(Value::as_i64).unwrap_or(0);
        for detail in names::port_number(number) {
            self.invalid(format!("{path}.{key}"), number, detail);
        }
    }

    /// A port by number or by name.
    pub fn port_or_name(&mut self, port: &Value, path: &str) {
        let wrong = match port {
            Value::String(name) => names::port_name(name),
            other => names::port_number(other.as_i64().unwrap_or(0)),
        };
        for detail in wrong {
            self.invalid(path, port.clone(), detail);
        }
    }

    /// An address in either family; `None` if it is none.
    pub fn ip(&mut self, path: &str, value: &str) -> Option<IpAddr> {
        match value.parse() {
            Ok(ip) => Some(ip),
            Err(_) => {
                self.invalid(path, value, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
                None
            }
        }
    }

    /// Keys and values of a set of labels.
    pub fn labels(&mut self, object: &Value, key: &str, path: &str) {
        let field = format!("{path}.{key}");
        for (name, value) in entries(object, key) {
            self.named(&field, name, names::qualified_name(name));
            let value = value.as_str().unwrap_or_default();
            self.named(&field, value, names::label_value(value));
        }
    }

    /// A field that must not change once the object is there.
    pub fn immutable(&mut self, old: &Value, new: &Value, pointer: &str) {
        let (before, after) = (old.pointer(pointer), new.pointer(pointer));
        if before != after {
            let field = pointer.trim_start_matches('/').replace('/', ".");
            self.invalid(field, after.cloned().unwrap_or_default(), "field is immutable");
        }
    }
}

/// Whether labels have all that a selector's `matchLabels` and `matchExpressions` ask for.
pub(super) fn selects(selector: &Value, labels: &Value) -> bool {
    let by_labels = entries(selector, "matchLabels").all(|(key, value)| labels.get(key) == Some(value));
    let by_expressions = crate::value::items(selector, "matchExpressions").iter().all(|expression| {
        let label = labels.get(text(expression, "key"));
        let is_listed = label.is_some_and(|label| crate::value::items(expression, "values").contains(label));
        match text(expression, "operator") {
            "In" => is_listed,
            "NotIn" => !is_listed,
            "Exists" => label.is_some(),
            "DoesNotExist" => label.is_none(),
            _ => false,
        }
    });
    by_labels && by_expressions
}

/// Whether a selector asks for nothing.
pub(super) fn is_empty_selector(selector: &Value) -> bool {
    entries(selector, "matchLabels").next().is_none() && crate::value::items(selector, "matchExpressions").is_empty()
}

/// Checks a label selector's own form.
pub(super) fn selector_form(check: &mut Check, selector: &Value, path: &str) {
    check.labels(selector, "matchLabels", path);
    for (at, expression) in crate::value::items(selector, "matchExpressions").iter().enumerate() {
        let path = format!("{path}.matchExpressions[{at}]");
        let has_values = !crate::value::items(expression, "values").is_empty();
        match (text(expression, "operator"), has_values) {
            ("In" | "NotIn", false) => {
                check.required(format!("{path}.values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            ("Exists" | "DoesNotExist", true) => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                check.forbidden(format!("{path}.values"), detail);
            }
            ("In" | "NotIn" | "Exists" | "DoesNotExist", _) => {}
            (other, _) => check.invalid(format!("{path}.operator"), other, "not a valid selector operator"),
        }
        let key = text(expression, "key");
        check.named(&format!("{path}.key"), key, names::qualified_name(key));
    }
}

/// A member, or null where it is missing.
pub(super) fn at<'a>(object: &'a Value, key: &str) -> &'a Value {
    member(object, key).unwrap_or(&Value::Null)
}
