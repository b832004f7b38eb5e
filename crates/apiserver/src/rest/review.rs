//! Questions about oneself: may I, what may I, who am I. Answered from the authorizer, never stored.
//!
//! Source: k8s.io/api authorization/v1 and authentication/v1; KEP-3325 (SelfSubjectReview).

use bytes::Bytes;
use portolan_kinds::validate::{ErrorKind, FieldError};
use serde_json::{Value, json};

use super::{Answer, Call};
use crate::authz::Attempt;
use crate::body;
use crate::object::text;
use crate::registry::{RESOURCES, Resource};
use crate::status::{ApiError, ApiResult};

pub fn is_question(resource: &Resource) -> bool {
    matches!(resource.group, "authentication.k8s.io" | "authorization.k8s.io")
}

/// `POST` of a review: the same object, with its status.
pub fn create(call: &Call, body: &Bytes) -> Answer {
    let asked = call.asked;
    let options = call.write_options()?;
    let mut review = body::parse(body::media_type(&call.headers), body)?;
    let warnings = body::conform(&mut review, &asked.api_version(), asked.kind, options.validation)?;
    review["status"] = match asked.kind {
        "SelfSubjectAccessReview" => access(call, &review)?,
        "SelfSubjectRulesReview" => rules(call),
        _ => json!({ "userInfo": { "username": call.user.name, "groups": call.user.groups } }),
    };
    call.answer(201, review.to_string().into(), &warnings)
}

fn access(call: &Call, review: &Value) -> ApiResult<Value> {
    let on_object = review.pointer("/spec/resourceAttributes").filter(|asked| !asked.is_null());
    let on_path = review.pointer("/spec/nonResourceAttributes").filter(|asked| !asked.is_null());
    let allowed = match (on_object, on_path) {
        (Some(asked), None) => may_touch(call, asked),
        (None, Some(asked)) => may(call, &Attempt::Path { verb: text(asked, "/verb"), path: text(asked, "/path") }),
        _ => return Err(unclear(call.asked)),
    };
    Ok(json!({ "allowed": allowed }))
}

fn unclear(resource: &Resource) -> ApiError {
    let error = FieldError {
        reason: ErrorKind::Invalid,
        field: "spec.resourceAttributes".into(),
        value: None,
        detail: "exactly one of nonResourceAttributes or resourceAttributes must be specified".into(),
    };
    ApiError::invalid(resource, "", &[error])
}

/// A resource that is not served, or all of them, is only for those who may do everything.
fn may_touch(call: &Call, asked: &Value) -> bool {
    let (group, plural) = (text(asked, "/group"), text(asked, "/resource"));
    let verb = text(asked, "/verb");
    let Some(resource) = RESOURCES.iter().find(|row| row.group == group && row.plural == plural) else {
        return may(call, &Attempt::Path { verb, path: "*" });
    };
    may(
        call,
        &Attempt::Object {
            verb,
            resource,
            subresource: text(asked, "/subresource"),
            namespace: text(asked, "/namespace"),
            name: text(asked, "/name"),
        },
    )
}

fn may(call: &Call, attempt: &Attempt) -> bool {
    call.api.authorizer.allows(&call.user, attempt, &*call.api)
}

fn rules(call: &Call) -> Value {
    let rules = call.api.authorizer.rules(&call.user);
    let resources: Vec<Value> = rules
        .resources
        .iter()
        .map(|rule| {
            let mut value = json!({ "verbs": rule.verbs, "apiGroups": [rule.group], "resources": rule.resources });
            if let Some(name) = &rule.name {
                value["resourceNames"] = json!([name]);
            }
            value
        })
        .collect();
    let paths: Vec<Value> =
        rules.paths.iter().map(|(verb, paths)| json!({ "verbs": [verb], "nonResourceURLs": paths })).collect();
    json!({ "resourceRules": resources, "nonResourceRules": paths, "incomplete": false })
}
