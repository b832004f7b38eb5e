//! `portolan apply -f`: kubectl's three-way apply, which also takes the notes' `apiVersion: v1` Deployment.
//!
//! ```text
//!  file ──► manifest::objects (+ warnings) ──► GET ─┬─ 404: POST
//!                                                   └─ 200: strategic PATCH = the manifest + nulls for what left it
//! ```
//!
//! The last applied manifest is kept in kubectl's own annotation, so that kubectl and this command take turns freely.

use std::io::Read;
use std::path::{Path, PathBuf};

use kube::api::{DynamicObject, Patch, PatchParams, ValidationDirective};
use kube::core::GroupVersionKind;
use kube::discovery::{self, Scope};
use kube::{Api, Client};
use portolan_kinds::{manifest, yaml};
use serde_json::{Value, json};

use crate::failure::Failure;

pub(crate) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Reads every object of the files, folders and `-` in `paths`, printing warnings.
///
/// # Errors
/// A file that cannot be read or does not parse; the message names it.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Value>, Failure> {
    let mut objects = Vec::new();
    for path in files(paths)? {
        objects.extend(read_file(&path)?);
    }
    Ok(objects)
}

/// Reads every object of one file, or of `-`, printing warnings.
///
/// # Errors
/// It cannot be read or does not parse; the message names it.
pub fn read_file(path: &Path) -> Result<Vec<Value>, Failure> {
    let mut objects = Vec::new();
    let bytes = read_bytes(path)?;
    let name = path.display();
    let documents = yaml::documents(&bytes).map_err(|e| Failure::input(format!("{name}: {e}")))?;
    for found in manifest::objects(documents).map_err(|e| Failure::input(format!("{name}: {e}")))? {
        found.warnings.iter().for_each(|warning| eprintln!("Warning: {warning}"));
        objects.push(found.value);
    }
    Ok(objects)
}

/// The files that `paths` stand for: a folder stands for the manifests in it, in the order of their names.
///
/// # Errors
/// A folder that cannot be read.
pub fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path)
            .map_err(|e| Failure::input(format!("cannot read folder {}: {e}", path.display())))?;
        let manifest =
            |p: &PathBuf| p.extension().is_some_and(|x| ["yaml", "yml", "json"].iter().any(|known| x == *known));
        let mut inside: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(manifest).collect();
        inside.sort();
        files.extend(inside);
    }
    Ok(files)
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin()
            .read_to_end(&mut bytes)
            .map_err(|e| Failure::input(format!("cannot read standard input: {e}")))?;
        return Ok(bytes);
    }
    std::fs::read(path).map_err(|e| Failure::input(format!("cannot read {}: {e}", path.display())))
}

/// Applies all objects; prints one line for each, as kubectl does. Goes on after an object that failed.
///
/// # Errors
/// At least one object was refused.
pub async fn apply(client: Client, objects: Vec<Value>, namespace: &str) -> Result<(), Failure> {
    let mut refused = 0;
    for object in &objects {
        match apply_one(&client, object, namespace).await {
            Ok(line) => println!("{line}"),
            Err(message) => {
                eprintln!("{message}");
                refused += 1;
            }
        }
    }
    match refused {
        0 => Ok(()),
        _ => Err(Failure::no(format!("{refused} of {} objects were not applied", objects.len()))),
    }
}

async fn apply_one(client: &Client, object: &Value, namespace: &str) -> Result<String, String> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
    let gvk = gvk(api_version, kind).ok_or_else(|| "the object has no apiVersion and kind; add both".to_owned())?;
    if name.is_empty() {
        return Err(format!("{kind}: metadata.name: Required value: apply needs a name"));
    }
    let (resource, capabilities) = discovery::pinned_kind(client, &gvk).await.map_err(|_| {
        format!(
            "resource mapping not found for name: {name:?}: no matches for kind {kind:?} in version {api_version:?}"
        )
    })?;
    let own = text("/metadata/namespace");
    let namespace = match capabilities.scope {
        Scope::Cluster => None,
        Scope::Namespaced => Some(if own.is_empty() { namespace } else { own }),
    };
    let api: Api<DynamicObject> = match namespace {
        None => Api::all_with(client.clone(), &resource),
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
    };
    let group = if gvk.group.is_empty() { String::new() } else { format!(".{}", gvk.group) };
    let manifest = with_last_applied(object, namespace);
    let outcome = write(client, &api, &manifest, name).await.map_err(|error| match error {
        kube::Error::Api(status) => format!("Error from server ({}): {}", status.reason, status.message),
        other => format!("cannot apply {kind} {name}: {other}"),
    })?;
    Ok(format!("{}{group}/{name} {outcome}", kind.to_lowercase()))
}

fn gvk(api_version: &str, kind: &str) -> Option<GroupVersionKind> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    (!version.is_empty() && !kind.is_empty()).then(|| GroupVersionKind::gvk(group, version, kind))
}

/// Unknown fields are refused, as kubectl asks for by default: what is misspelt would be lost without a word.
async fn write(
    client: &Client,
    api: &Api<DynamicObject>,
    manifest: &Value,
    name: &str,
) -> Result<&'static str, kube::Error> {
    let Some(live) = api.get_opt(name).await? else {
        create(client, api, manifest).await?;
        return Ok("created");
    };
    let last = live.metadata.annotations.as_ref().and_then(|a| a.get(LAST_APPLIED));
    let last: Value = last.and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
    let patch = three_way(&last, manifest);
    let params = PatchParams { field_validation: Some(ValidationDirective::Strict), ..PatchParams::default() };
    let patched = api.patch(name, &params, &Patch::Strategic(&patch)).await?;
    Ok(if patched.metadata.resource_version == live.metadata.resource_version { "unchanged" } else { "configured" })
}

/// A POST by hand: the client's own has no place for `fieldValidation`.
async fn create(client: &Client, api: &Api<DynamicObject>, manifest: &Value) -> Result<DynamicObject, kube::Error> {
    let uri = format!("{}?fieldValidation=Strict", api.resource_url());
    let body = serde_json::to_vec(manifest).map_err(kube::Error::SerdeError)?;
    let request = http::Request::post(uri).header("content-type", "application/json").body(body);
    client.request(request.map_err(kube::Error::HttpError)?).await
}

/// The manifest with itself in kubectl's annotation, to the byte as kubectl writes it, so that neither finds a change
/// where the other was last: keys sorted, the namespace named, an empty map for the annotation itself.
fn with_last_applied(object: &Value, namespace: Option<&str>) -> Value {
    let mut manifest = object.clone();
    if let Some(namespace) = namespace {
        manifest["metadata"]["namespace"] = Value::String(namespace.to_owned());
    }
    if manifest["metadata"]["annotations"].is_null() {
        manifest["metadata"]["annotations"] = json!({});
    }
    if let Some(annotations) = manifest.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
    let text = format!("{}\n", escaped(&manifest.to_string()));
    manifest["metadata"]["annotations"][LAST_APPLIED] = Value::String(text);
    manifest
}

/// Go's JSON encoder escapes what HTML would read; outside strings JSON has none of these.
fn escaped(json: &str) -> String {
    let escape = |c: char| match c {
        '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    };
    json.chars().map(escape).collect()
}

/// A strategic merge patch: all of `manifest`, and a null or `$patch: delete` for what was in `last` and is not in it.
pub(crate) fn three_way(last: &Value, manifest: &Value) -> Value {
    match (last, manifest) {
        (Value::Object(last), Value::Object(manifest)) => {
            let mut patch = serde_json::Map::new();
            for (key, value) in manifest {
                patch.insert(key.clone(), last.get(key).map_or_else(|| value.clone(), |then| three_way(then, value)));
            }
            for key in last.keys().filter(|key| !manifest.contains_key(*key)) {
                patch.insert(key.clone(), Value::Null);
            }
            Value::Object(patch)
        }
        (Value::Array(last), Value::Array(manifest)) => three_way_list(last, manifest),
        (_, manifest) => manifest.clone(),
    }
}

/// Lists of named things merge by name on the server: entries that left are named in a deletion. Other lists are
/// replaced whole by the server, so they are sent as they are.
fn three_way_list(last: &[Value], manifest: &[Value]) -> Value {
    let name = |entry: &Value| entry.get("name").and_then(Value::as_str).map(str::to_owned);
    let named = !manifest.is_empty() && manifest.iter().chain(last).all(|entry| name(entry).is_some());
    if !named {
        return Value::Array(manifest.to_vec());
    }
    let then = |entry: &Value| last.iter().find(|old| name(old) == name(entry));
    let mut patch: Vec<Value> =
        manifest.iter().map(|entry| then(entry).map_or_else(|| entry.clone(), |old| three_way(old, entry))).collect();
    let gone = last.iter().filter(|old| !manifest.iter().any(|entry| name(entry) == name(old)));
    patch.extend(gone.map(|old| json!({ "name": name(old), "$patch": "delete" })));
    Value::Array(patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_left_the_manifest_is_removed_and_the_rest_is_sent_whole() {
        let last = json!({"spec": {"replicas": 2, "paused": true, "template": {"spec": {"containers": [
            {"name": "a", "image": "x", "env": [{"name": "K", "value": "1"}]}, {"name": "b", "image": "y"}]}}}});
        let manifest =
            json!({"spec": {"replicas": 3, "template": {"spec": {"containers": [{"name": "a", "image": "z"}]}}}});
        let patch = three_way(&last, &manifest);
        assert_eq!(
            patch,
            json!({"spec": {"replicas": 3, "paused": null, "template": {"spec": {"containers": [
                {"name": "a", "image": "z", "env": null}, {"name": "b", "$patch": "delete"}]}}}})
        );
    }

    #[test]
    fn without_a_last_manifest_nothing_is_removed() {
        let manifest = json!({"spec": {"replicas": 3}});
        assert_eq!(three_way(&Value::Null, &manifest), manifest);
    }

    #[test]
    fn the_annotation_holds_the_manifest_as_kubectl_would_keep_it() {
        let object =
            json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}, "data": {"k": "a<b&c"}});
        let kept = with_last_applied(&object, Some("default"))["metadata"]["annotations"][LAST_APPLIED].clone();
        let expected = r#"{"apiVersion":"v1","data":{"k":"a\u003cb\u0026c"},"kind":"ConfigMap","metadata":{"annotations":{},"name":"a","namespace":"default"}}"#;
        assert_eq!(kept.as_str(), Some(format!("{expected}\n").as_str()));
        let back: Value = serde_json::from_str(expected).expect("JSON");
        assert_eq!(back["data"], object["data"]);
    }
}
