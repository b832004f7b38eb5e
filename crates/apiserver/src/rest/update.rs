//! Update and patch: a change to one part of one object, tried again when somebody else was faster.

use bytes::Bytes;
use portolan_kinds::ownership::{self, Writer};
use portolan_kinds::schema::{self, Problem};
use portolan_kinds::validate::{ErrorKind, FieldError};
use portolan_kinds::{defaults, patch, validate};
use portolan_store::{Change, Expect};
use serde_json::{Value, json};

use super::{ATTEMPTS, Answer, Api, Call, Landed, Owners, WriteOptions, claim_ops, op, release_ops, unstored};
use crate::alloc::{self, Plan};
use crate::body;
use crate::object::{self, text};
use crate::registry::Resource;
use crate::request::Target;
use crate::status::{ApiError, ApiResult};
use crate::strategy::{self, Part, scale};
use crate::view;

/// `PUT`.
pub async fn replace(call: &Call, body: Bytes) -> Answer {
    let media_type = body::media_type(&call.headers);
    let sent = body::parse(media_type, &body)?;
    let twice = body::said_twice(media_type, &body);
    change(call, &twice, |_| Ok(sent.clone())).await
}

/// `PATCH`.
pub async fn patch(call: &Call, body: Bytes) -> Answer {
    let media_type = body::media_type(&call.headers).to_owned();
    if media_type == "application/apply-patch+yaml" {
        return super::apply::apply(call, &body).await;
    }
    let sent: Value = serde_json::from_slice(&body)
        .map_err(|problem| ApiError::bad_request(format!("error decoding patch: {problem}")))?;
    let resource = call.asked;
    let is_scale = call.target.subresource.as_deref() == Some("scale");
    let (api_version, kind) =
        if is_scale { ("autoscaling/v1".to_owned(), "Scale") } else { (resource.api_version(), resource.kind) };
    let twice = body::said_twice(&media_type, &body);
    change(call, &twice, |current| {
        let next = patched(&media_type, &api_version, kind, current, &sent)?;
        check_types(&api_version, kind, &next, &sent)?;
        Ok(next)
    })
    .await
}

/// A patch that puts a wrong type somewhere is the patch's fault, and the answer names it.
fn check_types(api_version: &str, kind: &str, next: &Value, sent: &Value) -> ApiResult<()> {
    let mut findings = schema::check(api_version, kind, next).into_iter();
    let Some(wrong) = findings.find(|finding| finding.problem != Problem::UnknownField) else { return Ok(()) };
    let message = format!("Invalid value: {:?}: {wrong}", sent.to_string());
    let mut error = ApiError::new(422, "Invalid", format!(" \"\" is invalid: patch: {message}"));
    error.details =
        Some(json!({ "causes": [{ "reason": "FieldValueInvalid", "message": message, "field": "patch" }] }));
    Err(error)
}

fn patched(media_type: &str, api_version: &str, kind: &str, current: &Value, sent: &Value) -> ApiResult<Value> {
    match media_type {
        "application/json-patch+json" => {
            let steps: json_patch::Patch = serde_json::from_value(sent.clone())
                .map_err(|problem| ApiError::bad_request(format!("error decoding patch: {problem}")))?;
            let mut next = current.clone();
            json_patch::patch(&mut next, &steps).map_err(|problem| {
                ApiError::new(
                    422,
                    "Invalid",
                    format!("the server rejected our request due to an error in our request: {problem}"),
                )
            })?;
            Ok(next)
        }
        "application/merge-patch+json" => {
            let mut next = current.clone();
            json_patch::merge(&mut next, sent);
            Ok(next)
        }
        "application/strategic-merge-patch+json" => patch::strategic(api_version, kind, current, sent)
            .map_err(|problem| ApiError::bad_request(problem.to_string())),
        other => Err(ApiError::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json (got {other})"
        ))),
    }
}

/// Does `wish` to the object or subresource that the call names.
async fn change(call: &Call, twice: &[String], wish: impl Fn(&Value) -> ApiResult<Value>) -> Answer {
    let options = call.write_options()?;
    let (resource, target) = (call.target.resource, &call.target);
    let part = match target.subresource.as_deref() {
        None | Some("scale") => Part::Main,
        Some("status") => Part::Status,
        Some("finalize") => Part::Finalize,
        Some(_) => return Err(ApiError::method_not_allowed(resource)),
    };
    if target.subresource.as_deref() == Some("scale") {
        return change_scale(call, &options, wish).await;
    }
    let mut warnings = Vec::new();
    let form = (call.asked.api_version(), call.asked.kind);
    let checked = |current: &Value| {
        let mut wanted = match call.asked.view {
            Some(_) => wish(&view::shown(call.asked, current.clone()))?,
            None => wish(current)?,
        };
        warnings = body::conform_sent(&mut wanted, (&form.0, form.1), options.validation, twice)?;
        Ok(view::to_stored(call.asked, wanted))
    };
    let bytes = modify(&call.api, target, part, &options, checked).await?;
    call.answer(200, bytes, &warnings)
}

async fn change_scale(call: &Call, options: &WriteOptions, wish: impl Fn(&Value) -> ApiResult<Value>) -> Answer {
    let scaled = |current: &Value| {
        let mut wanted = wish(&scale::of(current))?;
        body::conform(&mut wanted, "autoscaling/v1", "Scale", options.validation)?;
        let mut next = scale::applied(current.clone(), &wanted)?;
        // The Scale's revision guards the object it stands for.
        let version = wanted.pointer("/metadata/resourceVersion").cloned();
        object::meta_mut(&mut next).insert("resourceVersion".into(), version.unwrap_or_default());
        Ok(next)
    };
    let bytes = modify(&call.api, &call.target, Part::Main, options, scaled).await?;
    let object: Value = serde_json::from_slice(&bytes).map_err(|problem| ApiError::internal(problem.to_string()))?;
    Ok(super::json_response(200, scale::of(&object).to_string()))
}

/// The bytes of the object after the change. Nothing is written when nothing changes.
pub async fn modify(
    api: &Api,
    target: &Target,
    part: Part,
    options: &WriteOptions,
    mut wish: impl FnMut(&Value) -> ApiResult<Value>,
) -> ApiResult<Bytes> {
    let (resource, name) = (target.resource, target.name());
    for _ in 0..ATTEMPTS {
        let entry = api.store.get(&target.key()).ok_or_else(|| ApiError::not_found(resource, name))?;
        let current = object::decode(&entry);
        let wanted = wish(&current)?;
        check_identity(resource, target, &current, &wanted)?;
        let (mut next, plan) = next_state(api, resource, part, &current, &wanted)?;
        set_owners(&current, &wanted, &mut next, target, options);
        if next == current {
            return Ok(entry.value);
        }
        if options.dry_run {
            return Ok(unstored(&next));
        }
        let expect = Expect::Revision(entry.revision);
        let mut ops = Vec::new();
        if strategy::is_ready_to_go(resource, &next) {
            ops.push(op(&entry.key, expect, Change::Delete));
            ops.extend(release_ops(&held(resource, &current)));
            if let Landed::Done(_) = api.write(ops).await? {
                return Ok(unstored(&next));
            }
            continue;
        }
        ops.push(op(&entry.key, expect, Change::Put(object::encode(resource, next))));
        ops.extend(claim_ops(&plan, &format!("{}/{name}", target.namespace())));
        if let Landed::Done(entries) = api.write(ops).await? {
            return Ok(entries.into_iter().next().flatten().expect("the first operation is a put").value);
        }
    }
    Err(ApiError::modified(resource, name))
}

/// The object as it would be stored, and the claims that go with it.
fn next_state(
    api: &Api,
    resource: &'static Resource,
    part: Part,
    current: &Value,
    wanted: &Value,
) -> ApiResult<(Value, Plan)> {
    let name = object::name(current);
    let mut next = strategy::prepare_update(resource, part, current, wanted.clone());
    defaults::apply(&mut next);
    let mut errors = match part {
        Part::Main => validate::update(current, &next),
        Part::Status | Part::Finalize => Vec::new(),
    };
    errors.extend(new_finalizers_while_deleting(current, &next));
    if !errors.is_empty() {
        return Err(ApiError::invalid(resource, name, &errors));
    }
    let plan = match (resource.kind, part) {
        ("Service", Part::Main) => alloc::plan(&api.ranges, Some(current), &mut next, &mut &*api)
            .map_err(|errors| ApiError::invalid(resource, name, &errors))?,
        _ => Plan::default(),
    };
    strategy::count_generation(resource, current, &mut next);
    Ok((next, plan))
}

/// Who owns which field afterwards. An object that was never applied by the server has no owners.
fn set_owners(current: &Value, wanted: &Value, next: &mut Value, target: &Target, options: &WriteOptions) {
    let known = [wanted, current].into_iter().find(|object| ownership::is_tracked(object));
    let Some(owners) = known.and_then(|object| object.pointer("/metadata/managedFields")) else { return };
    object::meta_mut(next).insert("managedFields".into(), owners.clone());
    if options.owners == Owners::Changed {
        let subresource = target.subresource.as_deref().unwrap_or_default();
        let now = strategy::time_text(options.now);
        let writer = Writer { manager: &options.manager, subresource, now: &now, force: true };
        ownership::update(current, next, &writer);
    }
}

fn new_finalizers_while_deleting(current: &Value, next: &Value) -> Option<FieldError> {
    let before = object::finalizers(current);
    let added: Vec<&str> =
        object::finalizers(next).into_iter().filter(|finalizer| !before.contains(finalizer)).collect();
    (object::is_deleting(current) && !added.is_empty()).then(|| FieldError {
        reason: ErrorKind::Forbidden,
        field: "metadata.finalizers".into(),
        value: None,
        detail: format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
        ),
    })
}

/// What an object that goes away must give back.
pub fn held(resource: &Resource, object: &Value) -> Vec<String> {
    if resource.kind == "Service" { alloc::held_by(object) } else { Vec::new() }
}

fn check_identity(resource: &Resource, target: &Target, current: &Value, wanted: &Value) -> ApiResult<()> {
    let name = target.name();
    let said = object::name(wanted);
    if !said.is_empty() && said != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({said}) does not match the name on the URL ({name})"
        )));
    }
    let said = object::namespace(wanted);
    if !said.is_empty() && said != target.namespace() {
        return Err(ApiError::bad_request(format!(
            "the namespace of the object ({said}) does not match the namespace on the request ({})",
            target.namespace()
        )));
    }
    let (uid, own_uid) = (text(wanted, "/metadata/uid"), text(current, "/metadata/uid"));
    if !uid.is_empty() && uid != own_uid {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {own_uid}");
        return Err(ApiError::conflict(resource, name, &why));
    }
    let version = text(wanted, "/metadata/resourceVersion");
    if !version.is_empty() && version != text(current, "/metadata/resourceVersion") {
        return Err(ApiError::modified(resource, name));
    }
    Ok(())
}
