//! Errors as Kubernetes says them: a `Status` object with code, reason, message, details and causes.

use portolan_kinds::validate::FieldError;
use serde_json::{Value, json};

use crate::registry::Resource;

/// What a request failed with.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    pub code: u16,
    /// Kubernetes' `metav1.StatusReason`.
    pub reason: &'static str,
    pub message: String,
    pub details: Option<Value>,
}

pub type ApiResult<T> = Result<T, ApiError>;

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl ApiError {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { code, reason, message: message.into(), details: None }
    }

    fn about(mut self, resource: &Resource, name: &str) -> ApiError {
        self.details = Some(json!({ "name": name, "group": resource.group, "kind": resource.plural }));
        self
    }

    pub fn not_found(resource: &Resource, name: &str) -> ApiError {
        let message = format!("{} \"{name}\" not found", resource.qualified());
        ApiError::new(404, "NotFound", message).about(resource, name)
    }

    /// No such path.
    pub fn no_path() -> ApiError {
        let mut error = ApiError::new(404, "NotFound", "the server could not find the requested resource");
        error.details = Some(json!({}));
        error
    }

    pub fn already_exists(resource: &Resource, name: &str) -> ApiError {
        let message = format!("{} \"{name}\" already exists", resource.qualified());
        ApiError::new(409, "AlreadyExists", message).about(resource, name)
    }

    pub fn conflict(resource: &Resource, name: &str, why: &str) -> ApiError {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", resource.qualified());
        ApiError::new(409, "Conflict", message).about(resource, name)
    }

    pub fn modified(resource: &Resource, name: &str) -> ApiError {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        ApiError::conflict(resource, name, why)
    }

    pub fn forbidden(resource: &Resource, name: &str, why: &str) -> ApiError {
        let named = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
        let message = format!("{}{named} is forbidden: {why}", resource.qualified());
        ApiError::new(403, "Forbidden", message).about(resource, name)
    }

    pub fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(400, "BadRequest", message)
    }

    pub fn unsupported_media_type(message: impl Into<String>) -> ApiError {
        ApiError::new(415, "UnsupportedMediaType", message)
    }

    pub fn not_acceptable() -> ApiError {
        let message = "only the following media types are accepted: application/json";
        ApiError::new(406, "NotAcceptable", message)
    }

    pub fn method_not_allowed(resource: &Resource) -> ApiError {
        let message = "the server does not allow this method on the requested resource";
        ApiError::new(405, "MethodNotAllowed", message).about(resource, "")
    }

    /// The past that was asked for is forgotten.
    pub fn expired(message: impl Into<String>) -> ApiError {
        ApiError::new(410, "Expired", message)
    }

    pub fn internal(message: impl Into<String>) -> ApiError {
        ApiError::new(500, "InternalError", format!("Internal error occurred: {}", message.into()))
    }

    pub fn unavailable(message: impl Into<String>) -> ApiError {
        ApiError::new(503, "ServiceUnavailable", message)
    }

    pub fn too_large_revision(asked: u64, newest: u64) -> ApiError {
        let mut error =
            ApiError::new(504, "Timeout", format!("Too large resource version: {asked}, current: {newest}"));
        let cause = json!({ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" });
        error.details = Some(json!({ "causes": [cause], "retryAfterSeconds": 1 }));
        error
    }

    /// 422 with one cause per field.
    pub fn invalid(resource: &Resource, name: &str, errors: &[FieldError]) -> ApiError {
        let kind = match resource.group {
            "" => resource.kind.to_owned(),
            group => format!("{}.{group}", resource.kind),
        };
        let mut said: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let list = match said.len() {
            1 => said.remove(0),
            _ => format!("[{}]", said.join(", ")),
        };
        let causes: Vec<Value> = errors.iter().map(cause).collect();
        let mut error = ApiError::new(422, "Invalid", format!("{kind} \"{name}\" is invalid: {list}"));
        error.details = Some(json!({ "name": name, "group": resource.group, "kind": resource.kind, "causes": causes }));
        error
    }

    pub fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }
}

fn cause(error: &FieldError) -> Value {
    json!({ "reason": error.reason.cause(), "message": error.message(), "field": error.field })
}

/// The answer to a deletion that is done.
pub fn deleted(resource: &Resource, name: &str, uid: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": { "name": name, "group": resource.group, "kind": resource.plural, "uid": uid },
    })
}

/// A bare success, as a binding is answered.
pub fn success(code: u16) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code })
}
