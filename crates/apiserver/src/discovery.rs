//! Discovery: what is served, in the aggregated form and in the plain lists, and OpenAPI.

use http::Response;
use portolan_kinds::openapi;
use serde_json::{Value, json};

use crate::registry::{RESOURCES, Resource, group_versions};
use crate::rest::{Body, json_response, typed_response};
use crate::status::{ApiError, ApiResult};

/// What `kubectl version` shows. Clients compare major and minor only.
pub const GIT_VERSION: &str = concat!("v1.33.5+portolan-", env!("CARGO_PKG_VERSION"));

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

pub fn version() -> Value {
    json!({
        "major": "1", "minor": "33", "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64",
    })
}

/// Whether the client asks for all groups and resources in one answer.
pub fn wants_aggregated(accept: Option<&str>) -> bool {
    let clauses = accept.unwrap_or_default().split(',');
    clauses.map(|clause| clause.replace(' ', "")).any(|clause| {
        ["application/json", "g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"]
            .iter()
            .all(|part| clause.split(';').any(|said| said == *part))
    })
}

/// `/api` and `/apis`.
pub fn groups(core: bool, aggregated: bool) -> Response<Body> {
    let wanted: Vec<_> = group_versions().into_iter().filter(|(group, _)| group.is_empty() == core).collect();
    if aggregated {
        let items: Vec<Value> = wanted.iter().map(|(group, version)| aggregated_group(group, version)).collect();
        let list = json!({ "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items });
        return typed_response(200, AGGREGATED, list.to_string());
    }
    let list = match core {
        true => json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] }),
        false => {
            let groups: Vec<Value> = wanted.iter().map(|(group, version)| plain_group(group, version)).collect();
            json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
        }
    };
    json_response(200, list.to_string())
}

/// `/apis/GROUP`.
pub fn group(name: &str) -> ApiResult<Value> {
    let found = group_versions().into_iter().find(|(group, _)| *group == name && !name.is_empty());
    let (group, version) = found.ok_or_else(ApiError::no_path)?;
    let mut value = plain_group(group, version);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Ok(value)
}

fn plain_group(group: &str, version: &str) -> Value {
    let one = json!({ "groupVersion": format!("{group}/{version}"), "version": version });
    json!({ "name": group, "versions": [one], "preferredVersion": one })
}

fn rows(group: &str, version: &str) -> impl Iterator<Item = &'static Resource> {
    RESOURCES.iter().filter(move |row| row.group == group && row.version == version)
}

/// `/api/v1` and `/apis/GROUP/VERSION`.
pub fn resources(group: &str, version: &str) -> ApiResult<Value> {
    let mut resources = Vec::new();
    for row in rows(group, version) {
        resources.push(json!({
            "name": row.plural, "singularName": row.singular, "namespaced": row.namespaced, "kind": row.kind,
            "verbs": row.verbs, "shortNames": row.short_names, "categories": row.categories,
        }));
        for part in row.subresources {
            let (part_group, part_version, kind) = part.kind;
            let mut value = json!({
                "name": format!("{}/{}", row.plural, part.name), "singularName": "", "namespaced": row.namespaced,
                "kind": kind, "verbs": part.verbs,
            });
            if part_group != row.group {
                value["group"] = part_group.into();
                value["version"] = part_version.into();
            }
            resources.push(value);
        }
    }
    if resources.is_empty() {
        return Err(ApiError::no_path());
    }
    let name = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": resources }))
}

fn aggregated_group(group: &str, version: &str) -> Value {
    let resources: Vec<Value> = rows(group, version).map(aggregated_resource).collect();
    json!({
        "metadata": { "name": group, "creationTimestamp": null },
        "versions": [{ "version": version, "resources": resources, "freshness": "Current" }],
    })
}

fn aggregated_resource(row: &Resource) -> Value {
    let kind = |(group, version, kind): (&str, &str, &str)| json!({ "group": group, "version": version, "kind": kind });
    let parts: Vec<Value> = row
        .subresources
        .iter()
        .map(|part| json!({ "subresource": part.name, "responseKind": kind(part.kind), "verbs": part.verbs }))
        .collect();
    let mut value = json!({
        "resource": row.plural, "responseKind": kind((row.group, row.version, row.kind)),
        "scope": if row.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": row.singular, "verbs": row.verbs,
        "shortNames": row.short_names, "categories": row.categories,
    });
    if !parts.is_empty() {
        value["subresources"] = parts.into();
    }
    value
}

/// `/openapi/v3`.
pub fn openapi_index() -> Value {
    let mut paths = serde_json::Map::new();
    for (path, hash) in openapi::index() {
        let url = format!("/openapi/v3/{path}?hash={hash}");
        paths.insert(path, json!({ "serverRelativeURL": url }));
    }
    json!({ "paths": paths })
}

/// `/openapi/v3/PATH`.
pub fn openapi_document(path: &str) -> ApiResult<Response<Body>> {
    let document = openapi::document(path).ok_or_else(ApiError::no_path)?;
    Ok(json_response(200, document))
}

const OPENAPI_V2: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// Clients parse the answer's type as MIME, where `@` may not stand.
const OPENAPI_V2_ANSWERED: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// `/openapi/v2`: a document that defines nothing, in the one form clients ask for. kubectl falls back
/// to it for kinds that version 3 does not have; with an error here it would stop at "failed to
/// download openapi" and never say that there is no such kind.
pub fn openapi_old(accept: Option<&str>) -> ApiResult<Response<Body>> {
    if !accept.is_some_and(|accept| accept.contains(OPENAPI_V2)) {
        return Err(ApiError::not_acceptable());
    }
    // Field 1, `swagger`, of openapi_v2.Document.
    Ok(typed_response(200, OPENAPI_V2_ANSWERED, &b"\x0a\x032.0"[..]))
}
