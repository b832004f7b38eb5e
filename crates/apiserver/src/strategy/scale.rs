//! `autoscaling/v1 Scale`: the size of a Deployment or ReplicaSet, without the rest.

use serde_json::{Value, json};

use crate::object::{child_mut, text};
use crate::status::{ApiError, ApiResult};

/// The Scale of an object.
pub fn of(object: &Value) -> Value {
    let mut meta = json!({});
    for name in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        meta[name] = object["metadata"][name].clone();
    }
    let number = |pointer| object.pointer(pointer).and_then(Value::as_i64);
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta,
        "spec": { "replicas": number("/spec/replicas").unwrap_or(0) },
        "status": { "replicas": number("/status/replicas").unwrap_or(0), "selector": selector_text(object.pointer("/spec/selector")) },
    })
}

/// The object, scaled as `scale` says.
pub fn applied(mut object: Value, scale: &Value) -> ApiResult<Value> {
    let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
    if replicas < 0 {
        return Err(ApiError::new(
            422,
            "Invalid",
            format!(
                "Scale.autoscaling \"{}\" is invalid: spec.replicas: Invalid value: {replicas}: must be greater than or equal to 0",
                text(scale, "/metadata/name")
            ),
        ));
    }
    child_mut(&mut object, "spec").insert("replicas".into(), replicas.into());
    Ok(object)
}

/// A label selector as text, the way `-l` takes it.
pub fn selector_text(selector: Option<&Value>) -> String {
    let mut terms = Vec::new();
    let labels = selector.and_then(|selector| selector.get("matchLabels")).and_then(Value::as_object);
    for (key, value) in labels.into_iter().flatten() {
        terms.push(format!("{key}={}", value.as_str().unwrap_or_default()));
    }
    let expressions = selector.and_then(|selector| selector.get("matchExpressions")).and_then(Value::as_array);
    terms.extend(expressions.into_iter().flatten().map(expression_text));
    terms.join(",")
}

fn expression_text(expression: &Value) -> String {
    let values = expression.get("values").and_then(Value::as_array);
    let values: Vec<&str> = values.into_iter().flatten().filter_map(Value::as_str).collect();
    let (key, values) = (text(expression, "/key"), values.join(","));
    match text(expression, "/operator") {
        "In" => format!("{key} in ({values})"),
        "NotIn" => format!("{key} notin ({values})"),
        "DoesNotExist" => format!("!{key}"),
        _ => key.to_owned(),
    }
}
