//! Slices: EndpointSlices as their controller would write them, by that very controller. Pure.
//!
//! Where the slices of a Service were not as the controller writes them before a change (they are written by hand, or
//! another controller's), they are left alone, and it is said if the change would have mattered to them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use portolan_controllers::object::{Id, Kind, Object};
use portolan_controllers::plan::{Action, Task, Write};
use portolan_controllers::world::World;
use portolan_controllers::{Config, reconcile};
use serde_json::Value;

use crate::failure::Failure;

const KINDS: [Kind; 5] = [Kind::Service, Kind::Pod, Kind::Node, Kind::Namespace, Kind::EndpointSlice];
const SERVICE_LABEL: &str = "/metadata/labels/kubernetes.io~1service-name";

/// The objects, with slices for Services that have a selector and no slice at all: as a controller makes them.
///
/// # Errors
/// An object has not the shape of its kind.
pub fn complete(objects: &[Value]) -> Result<Vec<Value>, Failure> {
    let mut all: Vec<Value> = objects.iter().map(named).collect();
    let wanted = wanted(&all)?;
    for (service, writes) in wanted {
        let has_any = all.iter().any(|value| is_slice_of(value, &service));
        if !has_any {
            apply(&mut all, writes);
        }
    }
    Ok(all)
}

/// The objects after a change, with the slices that the controller would write for it.
///
/// # Errors
/// An object has not the shape of its kind.
pub fn follow(before: &[Value], mut after: Vec<Value>, notes: &mut Vec<String>) -> Result<Vec<Value>, Failure> {
    let (then, now) = (wanted(before)?, wanted(&after)?);
    for (service, writes) in now {
        let old = then.get(&service);
        match old {
            Some(old) if *old == writes => {}
            Some(old) if !old.is_empty() => notes.push(format!(
                "Service {}/{}: its EndpointSlices are not written by the cluster's controller, and stay as they are",
                service.namespace, service.name
            )),
            _ => apply(&mut after, writes),
        }
    }
    Ok(after)
}

/// What the controller would write for each Service.
fn wanted(objects: &[Value]) -> Result<BTreeMap<Id, Vec<Action>>, Failure> {
    // No plan for slices depends on the time but their annotations, which no packet follows.
    let now = Timestamp::UNIX_EPOCH;
    let mut world = World::default();
    let mut services = Vec::new();
    for value in objects {
        let Some(kind) = KINDS.into_iter().find(|kind| value["kind"] == kind.info().kind) else { continue };
        let mut value = value.clone();
        portolan_kinds::defaults::apply(&mut value);
        let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let object =
            Object::parse(kind, value).map_err(|e| Failure::input(format!("{} {name}: {e}", kind.info().kind)))?;
        services.extend((kind == Kind::Service).then(|| object.id()));
        world.set(object, now);
    }
    let plan = |id: Id| {
        let writes = reconcile(&world, &Config::default(), &Task::Endpoints(id.clone()), now).writes;
        (id, writes.into_iter().filter_map(of_slice).collect())
    };
    Ok(services.into_iter().map(plan).collect())
}

fn of_slice(write: Write) -> Option<Action> {
    let is_slice = match &write.action {
        Action::Create(object) | Action::Replace(object) => object.kind() == Kind::EndpointSlice,
        Action::Delete(deletion) => deletion.id.kind == Kind::EndpointSlice,
        _ => false,
    };
    is_slice.then_some(write.action)
}

fn apply(objects: &mut Vec<Value>, writes: Vec<Action>) {
    for (number, action) in writes.into_iter().enumerate() {
        match action {
            Action::Create(object) => {
                let mut value = object.to_json();
                let stem =
                    value.pointer("/metadata/generateName").and_then(Value::as_str).unwrap_or("slice-").to_owned();
                value["metadata"]["name"] = format!("{stem}foreseen-{number}").into();
                objects.push(whole(value));
            }
            Action::Replace(object) => {
                let id = object.id();
                objects.retain(|value| !is(value, &id));
                objects.push(whole(object.to_json()));
            }
            Action::Delete(deletion) => objects.retain(|value| !is(value, &deletion.id)),
            _ => {}
        }
    }
}

/// With what JSON of the API's lists leaves out.
fn whole(mut value: Value) -> Value {
    value["apiVersion"] = Kind::EndpointSlice.api_version().into();
    value["kind"] = Kind::EndpointSlice.info().kind.into();
    value
}

fn is(value: &Value, id: &Id) -> bool {
    let meta = &value["metadata"];
    value["kind"] == id.kind.info().kind
        && meta["namespace"] == id.namespace.as_str()
        && meta["name"] == id.name.as_str()
}

fn is_slice_of(value: &Value, service: &Id) -> bool {
    let label = value.pointer(SERVICE_LABEL).and_then(Value::as_str);
    value["kind"] == "EndpointSlice"
        && value["metadata"]["namespace"] == service.namespace.as_str()
        && label == Some(&service.name)
}

/// With the namespace that files may leave out.
fn named(value: &Value) -> Value {
    let mut value = value.clone();
    let kind = KINDS.into_iter().find(|kind| value["kind"] == kind.info().kind);
    let is_namespaced = kind.is_some_and(|kind| kind.info().is_namespaced);
    if is_namespaced && value.pointer("/metadata/namespace").is_none() {
        value["metadata"]["namespace"] = "default".into();
    }
    value
}
