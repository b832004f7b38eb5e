//! One thing wrong with one field, in Kubernetes' words.

use std::fmt;

use serde_json::Value;

/// What kind of wrong it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    Required,
    Invalid,
    NotSupported,
    Duplicate,
    Forbidden,
    TooLong,
    TooMany,
    NotFound,
}

impl ErrorKind {
    /// The `reason` of a cause in a Status reply.
    pub fn cause(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::NotFound => "FieldValueNotFound",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::NotFound => "Not found",
        }
    }
}

/// A field that forbids an object.
///
/// Shown as `spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive`.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub reason: ErrorKind,
    /// Path in the object, as `spec.ports[0].port`.
    pub field: String,
    /// The value that is wrong; `None` where it says nothing (Required, Forbidden).
    pub value: Option<Value>,
    /// What would be right; may be empty.
    pub detail: String,
}

impl FieldError {
    /// The message of a cause in a Status reply: without the field.
    pub fn message(&self) -> String {
        let shown = match (&self.value, self.reason) {
            (
                Some(value),
                ErrorKind::Invalid | ErrorKind::NotSupported | ErrorKind::Duplicate | ErrorKind::NotFound,
            ) => {
                format!(": {value}")
            }
            (None, ErrorKind::Invalid) => ": null".to_owned(),
            _ => String::new(),
        };
        match self.detail.as_str() {
            "" => format!("{}{shown}", self.reason.words()),
            detail => format!("{}{shown}: {detail}", self.reason.words()),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.field, self.message())
    }
}
