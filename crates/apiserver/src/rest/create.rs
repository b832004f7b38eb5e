//! Create: new objects, and the binding of pods.

use bytes::Bytes;
use http::Response;
use portolan_kinds::{defaults, validate};
use portolan_store::{Change, Expect, Op};
use serde_json::Value;

use super::{ATTEMPTS, Answer, Api, Body, Call, Landed, WriteOptions, claim_ops, op, unstored};
use crate::alloc::{self, Plan};
use crate::body::{self, FieldValidation};
use crate::object::{self, ObjectIndex, meta_mut, text};
use crate::registry::{self, Resource};
use crate::status::{self, ApiError, ApiResult};
use crate::strategy::{self, namespace, pod};
use crate::view;

pub async fn create(call: &Call, body: Bytes) -> Answer {
    let resource = call.target.resource;
    if resource.namespaced && call.target.namespace.is_none() {
        return Err(ApiError::method_not_allowed(resource));
    }
    let options = call.write_options()?;
    let media_type = body::media_type(&call.headers);
    let mut object = body::parse(media_type, &body)?;
    let twice = body::said_twice(media_type, &body);
    let form = (call.asked.api_version(), call.asked.kind);
    let warnings = body::conform_sent(&mut object, (&form.0, form.1), options.validation, &twice)?;
    let mut object = stored_form(call, object)?;
    object::meta_mut(&mut object).remove("managedFields");
    if !call.api.authorizer.allows_new(&call.user, resource, &object) {
        let why = format!("User \"{}\" may create only what belongs to it", call.user.name);
        return Err(ApiError::forbidden(resource, object::name(&object), &why));
    }
    let made = create_object(&call.api, resource, call.target.namespace(), object, &options).await?;
    call.answer(201, made, &warnings)
}

/// The object as it is stored. One that comes in another form is checked by the rules of that form.
fn stored_form(call: &Call, object: Value) -> ApiResult<Value> {
    if call.asked.view.is_none() {
        return Ok(object);
    }
    let errors = validate::create(&object);
    match errors.is_empty() {
        true => Ok(view::to_stored(call.asked, object)),
        false => Err(ApiError::invalid(call.asked, object::name(&object), &errors)),
    }
}

/// Stores a new object of a known shape; gives back its bytes.
pub async fn create_object(
    api: &Api,
    resource: &'static Resource,
    namespace: &str,
    mut object: Value,
    options: &WriteOptions,
) -> ApiResult<Bytes> {
    check_metadata(namespace, &object)?;
    strategy::prepare_create(resource, &mut object, options.now);
    match resource.namespaced {
        true => drop(meta_mut(&mut object).insert("namespace".into(), namespace.into())),
        false => drop(meta_mut(&mut object).remove("namespace")),
    }
    let base = match object::name(&object) {
        "" => Some(text(&object, "/metadata/generateName").to_owned()).filter(|base| !base.is_empty()),
        _ => None,
    };
    for _ in 0..ATTEMPTS {
        let mut attempt = object.clone();
        if let Some(base) = &base {
            meta_mut(&mut attempt).insert("name".into(), strategy::generated_name(base).into());
        }
        match try_create(api, resource, namespace, attempt, options).await? {
            Tried::Made(bytes) => return Ok(bytes),
            Tried::NameTaken(name) if base.is_none() => return Err(ApiError::already_exists(resource, &name)),
            Tried::NameTaken(_) | Tried::Again => {}
        }
    }
    Err(ApiError::conflict(resource, object::name(&object), "too many others write at the same time; please try again"))
}

enum Tried {
    Made(Bytes),
    NameTaken(String),
    Again,
}

async fn try_create(
    api: &Api,
    resource: &'static Resource,
    namespace: &str,
    mut object: Value,
    options: &WriteOptions,
) -> ApiResult<Tried> {
    let name = object::name(&object).to_owned();
    let key = resource.key(namespace, &name);
    defaults::apply(&mut object);
    let errors = validate::create(&object);
    if !errors.is_empty() {
        return Err(ApiError::invalid(resource, &name, &errors));
    }
    if api.store.get(&key).is_some() {
        return Ok(Tried::NameTaken(name));
    }
    let mut checks = namespace_check(api, resource, namespace, &name)?;
    let plan = match resource.kind {
        "Service" => alloc::plan(&api.ranges, None, &mut object, &mut &*api)
            .map_err(|errors| ApiError::invalid(resource, &name, &errors))?,
        _ => Plan::default(),
    };
    if options.dry_run {
        return Ok(Tried::Made(unstored(&object)));
    }
    let mut ops = vec![op(&key, Expect::Absent, Change::Put(object::encode(resource, object)))];
    ops.append(&mut checks);
    ops.extend(claim_ops(&plan, &format!("{namespace}/{name}")));
    match api.write(ops).await? {
        Landed::Done(entries) => {
            let made = entries.into_iter().next().flatten();
            Ok(Tried::Made(made.expect("the first operation is a put").value))
        }
        Landed::Lost { op: 0 } => Ok(Tried::NameTaken(name)),
        Landed::Lost { .. } => Ok(Tried::Again),
    }
}

fn check_metadata(namespace: &str, object: &Value) -> ApiResult<()> {
    if !text(object, "/metadata/resourceVersion").is_empty() {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let said = object::namespace(object);
    if !said.is_empty() && said != namespace && !namespace.is_empty() {
        return Err(ApiError::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the request: {said} is not {namespace}"
        )));
    }
    Ok(())
}

/// The namespace must be there and not on its way out, at the moment of the write.
fn namespace_check(api: &Api, resource: &Resource, namespace: &str, name: &str) -> ApiResult<Vec<Op<ObjectIndex>>> {
    if !resource.namespaced {
        return Ok(Vec::new());
    }
    let namespaces = registry::row("namespaces");
    let key = namespaces.key("", namespace);
    let entry = api.store.get(&key).ok_or_else(|| ApiError::not_found(namespaces, namespace))?;
    if namespace::is_terminating(&object::decode(&entry)) {
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut error = ApiError::forbidden(resource, name, &why);
        let cause = serde_json::json!({ "reason": "NamespaceTerminating", "message": format!("namespace {namespace} is being terminated"), "field": "metadata.namespace" });
        if let Some(details) = &mut error.details {
            details["causes"] = serde_json::json!([cause]);
        }
        return Err(error);
    }
    Ok(vec![op(&key, Expect::Revision(entry.revision), Change::Check)])
}

/// `POST pods/NAME/binding`.
pub async fn bind(call: &Call, body: Bytes) -> ApiResult<Response<Body>> {
    let (pods, name) = (call.target.resource, call.target.name());
    let mut binding = body::parse(body::media_type(&call.headers), &body)?;
    body::conform(&mut binding, "v1", "Binding", FieldValidation::Ignore)?;
    let node = text(&binding, "/target/name");
    if node.is_empty() {
        return Err(ApiError::bad_request("binding.target.name is required: the node to bind the pod to"));
    }
    let dry_run = call.write_options()?.dry_run;
    for _ in 0..ATTEMPTS {
        let entry = call.api.store.get(&call.target.key()).ok_or_else(|| ApiError::not_found(pods, name))?;
        let current = object::decode(&entry);
        let taken = text(&current, "/spec/nodeName");
        if !taken.is_empty() {
            return Err(ApiError::conflict(pods, name, &format!("pod {name} is already assigned to node \"{taken}\"")));
        }
        if object::is_deleting(&current) {
            return Err(ApiError::conflict(
                pods,
                name,
                &format!("pod {name} is being deleted, cannot be assigned to a host"),
            ));
        }
        let bound = pod::bound(current, node, call.now);
        if dry_run {
            break;
        }
        let put = Change::Put(object::encode(pods, bound));
        if let Landed::Done(_) = call.api.write(vec![op(&entry.key, Expect::Revision(entry.revision), put)]).await? {
            break;
        }
    }
    Ok(super::json_response(201, status::success(201).to_string()))
}
