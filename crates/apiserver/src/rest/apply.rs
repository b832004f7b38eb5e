//! Server-side apply: a PATCH with the fields that one manager wants; the rest of the object stays.
//!
//! Which fields are whose is `portolan_kinds::ownership`'s; this room finds the object, makes it if there
//! is none, and says no in Kubernetes' words.

use bytes::Bytes;
use portolan_kinds::ownership::{self, ApplyError, Conflict, Writer};
use portolan_kinds::validate::{ErrorKind, FieldError};
use serde_json::{Value, json};

use super::create::create_object;
use super::update::modify;
use super::{ATTEMPTS, Answer, Call, Owners, WriteOptions};
use crate::authz::{self, Attempt};
use crate::body;
use crate::object::{meta_mut, text};
use crate::registry::Resource;
use crate::status::{ApiError, ApiResult};
use crate::strategy::{Part, time_text};

pub async fn apply(call: &Call, body: &Bytes) -> Answer {
    let (resource, target) = (call.target.resource, &call.target);
    let part = part(call)?;
    let manager = call.query.given("fieldManager").ok_or_else(|| nameless(resource))?;
    let options = WriteOptions { owners: Owners::Given, ..call.write_options()? };
    let mut config = body::parse("application/yaml", body)?;
    let twice = body::said_twice("application/json", body);
    let form = (resource.api_version(), resource.kind);
    let warnings = body::conform_sent(&mut config, (&form.0, form.1), options.validation, &twice)?;
    name(&mut config, target.name())?;
    let now = time_text(call.now);
    let subresource = target.subresource.as_deref().unwrap_or_default();
    let writer = Writer { manager, subresource, now: &now, force: call.query.is_set("force") };
    let applied = |live: Option<&Value>| {
        ownership::apply(live, &config, &writer).map_err(|problem| refused(resource, target.name(), problem))
    };
    for _ in 0..ATTEMPTS {
        if call.api.store.get(&target.key()).is_some() || part == Part::Status {
            match modify(&call.api, target, part, &options, |live| applied(Some(live))).await {
                Err(error) if error.reason == "NotFound" && part == Part::Main => continue,
                done => return call.answer(200, done?, &warnings),
            }
        }
        let made = applied(None)?;
        may_create(call, &made)?;
        match create_object(&call.api, resource, target.namespace(), made, &options).await {
            Err(error) if error.reason == "AlreadyExists" => {}
            done => return call.answer(201, done?, &warnings),
        }
    }
    Err(ApiError::modified(resource, target.name()))
}

fn part(call: &Call) -> ApiResult<Part> {
    match call.target.subresource.as_deref() {
        None if call.asked.view.is_none() => Ok(Part::Main),
        Some("status") => Ok(Part::Status),
        other => Err(ApiError::unsupported_media_type(format!(
            "server-side apply is not served for {}{}; use another kind of patch",
            call.asked.qualified(),
            other.map(|part| format!("/{part}")).unwrap_or_default()
        ))),
    }
}

fn nameless(resource: &Resource) -> ApiError {
    let error = FieldError {
        reason: ErrorKind::Required,
        field: "fieldManager".into(),
        value: None,
        detail: "is required for apply patch".into(),
    };
    let mut refused = ApiError::invalid(resource, "", &[error]);
    refused.message =
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch".into();
    refused
}

fn name(config: &mut Value, wanted: &str) -> ApiResult<()> {
    match text(config, "/metadata/name") {
        "" => drop(meta_mut(config).insert("name".into(), wanted.into())),
        said if said == wanted => {}
        said => {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({said}) does not match the name on the URL ({wanted})"
            )));
        }
    }
    Ok(())
}

/// Whoever may patch what is there may not for that reason make what is not.
fn may_create(call: &Call, made: &Value) -> ApiResult<()> {
    let resource = call.target.resource;
    let attempt = Attempt::Object {
        verb: "create",
        resource,
        subresource: "",
        namespace: call.target.namespace(),
        name: call.target.name(),
    };
    let authorizer = &call.api.authorizer;
    match authorizer.allows(&call.user, &attempt, &*call.api) && authorizer.allows_new(&call.user, resource, made) {
        true => Ok(()),
        false => Err(authz::refusal(&call.user, &attempt)),
    }
}

fn refused(resource: &Resource, name: &str, problem: ApplyError) -> ApiError {
    let message = problem.to_string();
    match problem {
        ApplyError::Conflicts(conflicts) => {
            let causes: Vec<Value> = conflicts.iter().map(cause).collect();
            let mut error = ApiError::conflict(resource, name, "");
            error.message = message;
            error.details = Some(json!({ "causes": causes }));
            error
        }
        ApplyError::Shape(_) => {
            let kind = format!("{}, Kind={}", resource.api_version(), resource.kind);
            ApiError::bad_request(format!("failed to create typed patch object ({}; {kind}): {message}", name))
        }
        ApplyError::ManagedFieldsGiven | ApplyError::UnknownKind { .. } => ApiError::bad_request(message),
    }
}

fn cause(conflict: &Conflict) -> Value {
    json!({ "reason": "FieldManagerConflict", "message": format!("conflict with {}", conflict.manager), "field": conflict.field })
}
