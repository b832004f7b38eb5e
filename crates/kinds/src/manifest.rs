//! From documents to objects: lists are flattened, a well-known slip is mended with a warning.
//!
//! Older notes and books write `apiVersion: v1` for kinds that live in `apps/v1`. Those are taken
//! as meant; nothing else in an object is changed.

use serde_json::Value;
use thiserror::Error;

use crate::value::{group_version_kind, text};

/// Kinds of `apps/v1` that are written with `apiVersion: v1`.
const APPS_KINDS: [&str; 4] = ["Deployment", "ReplicaSet", "DaemonSet", "StatefulSet"];

/// One object of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The object, with `apiVersion` and `kind`.
    pub value: Value,
    /// What the user should know, one line each.
    pub warnings: Vec<String>,
}

/// Why a document is no object.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ManifestError {
    #[error("document {number} is not an object; a manifest begins with apiVersion and kind")]
    NotAnObject { number: usize },
    #[error("document {number} has no {field}: Object '{field}' is missing")]
    Missing { number: usize, field: &'static str },
}

/// The objects of all documents, in order; documents are counted from 1 in errors.
pub fn objects(docs: Vec<Value>) -> Result<Vec<Manifest>, ManifestError> {
    let mut manifests = Vec::new();
    for (at, document) in docs.into_iter().enumerate() {
        flatten(document, at + 1, &mut manifests)?;
    }
    Ok(manifests)
}

fn flatten(mut document: Value, number: usize, into: &mut Vec<Manifest>) -> Result<(), ManifestError> {
    if !document.is_object() {
        return Err(ManifestError::NotAnObject { number });
    }
    if group_version_kind(&document) == ("v1", "List") {
        let items = document.get_mut("items").map(Value::take);
        for item in items.as_ref().and_then(Value::as_array).into_iter().flatten() {
            flatten(item.clone(), number, into)?;
        }
        return Ok(());
    }
    for field in ["apiVersion", "kind"] {
        if text(&document, field).is_empty() {
            return Err(ManifestError::Missing { number, field });
        }
    }
    into.push(mend(document));
    Ok(())
}

fn mend(mut value: Value) -> Manifest {
    let (api_version, kind) = group_version_kind(&value);
    if api_version != "v1" || !APPS_KINDS.contains(&kind) {
        return Manifest { value, warnings: Vec::new() };
    }
    let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let warning =
        format!("{kind} \"{name}\": apiVersion v1 has no {kind}, taken as apps/v1; write apiVersion: apps/v1");
    value["apiVersion"] = "apps/v1".into();
    Manifest { value, warnings: vec![warning] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_v1_deployment_becomes_apps_v1_with_a_warning_that_names_it() {
        let spec = json!({ "replicas": 2, "anything": [1, "two"] });
        let document = json!({ "apiVersion": "v1", "kind": "Deployment", "metadata": { "name": "ngx" }, "spec": spec });
        let manifests = objects(vec![document]).expect("it is an object");
        assert_eq!(
            manifests[0].value,
            json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "ngx" }, "spec": spec })
        );
        assert_eq!(
            manifests[0].warnings,
            ["Deployment \"ngx\": apiVersion v1 has no Deployment, taken as apps/v1; write apiVersion: apps/v1"]
        );
    }

    #[test]
    fn what_is_right_is_left_alone() {
        for document in [
            json!({ "apiVersion": "apps/v1", "kind": "Deployment" }),
            json!({ "apiVersion": "v1", "kind": "Service", "spec": {} }),
            json!({ "apiVersion": "extensions/v1beta1", "kind": "Deployment" }),
        ] {
            let manifests = objects(vec![document.clone()]).expect("it is an object");
            assert_eq!(manifests, [Manifest { value: document, warnings: vec![] }]);
        }
    }

    #[test]
    fn lists_are_flattened_in_order() {
        let pod = |name: &str| json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name } });
        let list = |items: Vec<Value>| json!({ "apiVersion": "v1", "kind": "List", "items": items });
        let nested = list(vec![pod("a"), list(vec![pod("b")]), pod("c")]);
        let values: Vec<Value> =
            objects(vec![nested, pod("d")]).expect("objects").into_iter().map(|m| m.value).collect();
        assert_eq!(values, [pod("a"), pod("b"), pod("c"), pod("d")]);
    }

    #[test]
    fn a_document_without_kind_or_of_another_type_is_refused() {
        assert_eq!(
            objects(vec![json!({ "apiVersion": "v1" })]),
            Err(ManifestError::Missing { number: 1, field: "kind" })
        );
        assert_eq!(objects(vec![json!("text")]), Err(ManifestError::NotAnObject { number: 1 }));
    }
}
