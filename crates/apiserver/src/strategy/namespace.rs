//! Namespaces: Active till deleted, then Terminating till `spec.finalizers` is empty.

use serde_json::{Value, json};

use crate::object::{child_mut, text};

pub fn prepare_create(namespace: &mut Value) {
    namespace["status"] = json!({ "phase": "Active" });
    let finalizers = child_mut(namespace, "spec").entry("finalizers").or_insert_with(|| json!([]));
    let Some(list) = finalizers.as_array_mut() else { return };
    if !list.iter().any(|finalizer| finalizer == "kubernetes") {
        list.push("kubernetes".into());
    }
}

/// `spec.finalizers` changes through the finalize subresource only.
pub fn with_finalizers_of(mut namespace: Value, source: &Value) -> Value {
    let finalizers = source.pointer("/spec/finalizers").cloned();
    let spec = child_mut(&mut namespace, "spec");
    match finalizers {
        Some(list) => spec.insert("finalizers".into(), list),
        None => spec.remove("finalizers"),
    };
    namespace
}

pub fn is_held(namespace: &Value) -> bool {
    namespace.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|list| !list.is_empty())
}

pub fn is_terminating(namespace: &Value) -> bool {
    text(namespace, "/status/phase") == "Terminating"
}
