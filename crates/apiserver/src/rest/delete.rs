//! Delete and deletecollection: at once, or marked and left to whoever holds the object back.

use bytes::Bytes;
use portolan_store::{Change, Expect};
use serde_json::{Value, json};

use super::{ATTEMPTS, Answer, Api, Call, Landed, json_response, op, read, release_ops, unstored};
use crate::body;
use crate::object::{self, child_mut, meta_mut, text};
use crate::registry::{self, Resource};
use crate::request::{Query, Target};
use crate::status::{self, ApiError, ApiResult};
use crate::strategy::{self, pod, time_text};

/// `metav1.DeleteOptions`, from the body and the query; the body counts first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeleteOptions {
    pub grace_secs: Option<i64>,
    /// Orphan, Background or Foreground; background when unset.
    pub propagation: Option<String>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub dry_run: bool,
}

pub enum Deleted {
    Gone {
        uid: String,
    },
    /// Still there, marked; its bytes.
    Pending(Bytes),
}

impl DeleteOptions {
    fn of(call: &Call, body: &[u8]) -> ApiResult<DeleteOptions> {
        let sent = match body.is_empty() {
            true => json!({}),
            false => body::parse(body::media_type(&call.headers), body)?,
        };
        DeleteOptions::said(&sent, &call.query, call.write_options()?.dry_run)
    }

    /// From options as they were sent, and the query where those say nothing.
    pub fn said(sent: &Value, query: &Query, dry_run: bool) -> ApiResult<DeleteOptions> {
        let said = |pointer| Some(text(sent, pointer).to_owned()).filter(|text| !text.is_empty());
        let orphans = sent.get("orphanDependents").and_then(Value::as_bool);
        let propagation = said("/propagationPolicy")
            .or_else(|| query.given("propagationPolicy").map(str::to_owned))
            .or_else(|| orphans.filter(|orphans| *orphans).map(|_| "Orphan".to_owned()));
        if let Some(other) =
            propagation.as_deref().filter(|policy| !matches!(*policy, "Orphan" | "Background" | "Foreground"))
        {
            return Err(ApiError::bad_request(format!(
                "propagationPolicy: Unsupported value: \"{other}\": supported values: \"Background\", \"Foreground\", \"Orphan\""
            )));
        }
        Ok(DeleteOptions {
            grace_secs: sent
                .get("gracePeriodSeconds")
                .and_then(Value::as_i64)
                .or_else(|| query.number("gracePeriodSeconds")),
            propagation,
            uid: said("/preconditions/uid"),
            resource_version: said("/preconditions/resourceVersion"),
            dry_run: sent.pointer("/dryRun/0").is_some() || dry_run,
        })
    }
}

pub async fn delete(call: &Call, body: Bytes) -> Answer {
    let options = DeleteOptions::of(call, &body)?;
    let (resource, name) = (call.target.resource, call.target.name());
    match delete_object(&call.api, &call.target, &options, call.now).await? {
        Deleted::Gone { uid } => Ok(json_response(200, status::deleted(resource, name, &uid).to_string())),
        Deleted::Pending(bytes) => call.answer(200, bytes, &[]),
    }
}

pub async fn delete_collection(call: &Call, body: Bytes) -> Answer {
    let options = DeleteOptions::of(call, &body)?;
    let found = read::select(call)?;
    for entry in &found.entries {
        let target = Target {
            namespace: call.target.resource.namespaced.then(|| entry.index.namespace.clone()),
            name: Some(entry.index.name.clone()),
            ..call.target.clone()
        };
        match delete_object(&call.api, &target, &options, call.now).await {
            Ok(_) => {}
            Err(error) if error.reason == "NotFound" => {}
            Err(error) => return Err(error),
        }
    }
    Ok(json_response(200, read::list_bytes(call.asked, &found, None, None)))
}

pub async fn delete_object(
    api: &Api,
    target: &Target,
    options: &DeleteOptions,
    now: jiff::Timestamp,
) -> ApiResult<Deleted> {
    let (resource, name) = (target.resource, target.name());
    if resource.kind == "Namespace" && matches!(name, "default" | "kube-system" | "kube-public") {
        return Err(ApiError::forbidden(resource, name, "this namespace may not be deleted"));
    }
    for _ in 0..ATTEMPTS {
        let entry = api.store.get(&target.key()).ok_or_else(|| ApiError::not_found(resource, name))?;
        let current = object::decode(&entry);
        check_preconditions(resource, &current, options)?;
        let next = marked(resource, &current, options, now);
        let gone = strategy::is_ready_to_go(resource, &next);
        let uid = entry.index.uid.clone();
        if options.dry_run {
            return Ok(if gone { Deleted::Gone { uid } } else { Deleted::Pending(unstored(&next)) });
        }
        if !gone && next == current {
            return Ok(Deleted::Pending(entry.value));
        }
        let expect = Expect::Revision(entry.revision);
        let mut ops = Vec::new();
        if gone {
            ops.push(op(&entry.key, expect, Change::Delete));
            ops.extend(release_ops(&super::update::held(resource, &current)));
        } else {
            ops.push(op(&entry.key, expect, Change::Put(object::encode(resource, next))));
        }
        match api.write(ops).await? {
            Landed::Done(_) if gone => return Ok(Deleted::Gone { uid }),
            Landed::Done(entries) => {
                let stored = entries.into_iter().next().flatten().expect("the first operation is a put");
                return Ok(Deleted::Pending(stored.value));
            }
            Landed::Lost { .. } => {}
        }
    }
    Err(ApiError::modified(resource, name))
}

fn check_preconditions(resource: &Resource, current: &Value, options: &DeleteOptions) -> ApiResult<()> {
    let name = object::name(current);
    let checks = [
        ("UID", "/metadata/uid", &options.uid),
        ("ResourceVersion", "/metadata/resourceVersion", &options.resource_version),
    ];
    for (what, pointer, wanted) in checks {
        let found = text(current, pointer);
        if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != found) {
            let why = format!(
                "the {what} in the precondition ({wanted}) does not match the {what} in record ({found}). The object might have been deleted and then recreated"
            );
            return Err(ApiError::conflict(resource, name, &why));
        }
    }
    Ok(())
}

/// The object with deletion asked for.
fn marked(resource: &Resource, current: &Value, options: &DeleteOptions, now: jiff::Timestamp) -> Value {
    let mut next = current.clone();
    if !object::is_deleting(current) {
        let finalizer = match options.propagation.as_deref() {
            Some("Orphan") => Some("orphan"),
            Some("Foreground") => Some("foregroundDeletion"),
            _ => None,
        };
        if let Some(finalizer) = finalizer {
            add_finalizer(&mut next, finalizer);
        }
    }
    if resource.kind == "Pod" {
        let grace = pod::grace_secs(current, options.grace_secs);
        pod::mark_deleting(&mut next, grace, now);
        return next;
    }
    let meta = meta_mut(&mut next);
    if !meta.contains_key("deletionTimestamp") {
        meta.insert("deletionTimestamp".into(), time_text(now).into());
        meta.insert("deletionGracePeriodSeconds".into(), 0.into());
    }
    if resource.kind == registry::row("namespaces").kind {
        child_mut(&mut next, "status").insert("phase".into(), "Terminating".into());
    }
    next
}

fn add_finalizer(object: &mut Value, finalizer: &str) {
    let list = meta_mut(object).entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = list.as_array_mut().filter(|list| !list.iter().any(|held| held == finalizer)) {
        list.push(finalizer.into());
    }
}
