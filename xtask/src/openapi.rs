//! OpenAPI v3 documents, one per group version, from k8s-openapi's own schemas.
//!
//! What those lack and kubectl wants is added here: `x-kubernetes-group-version-kind` on the root
//! schemas, list kinds, and `paths` whose operations name their kind and take `fieldValidation`.
//! The patch operations do not list the strategic content type: kubectl would then take merge
//! keys from these schemas, which do not carry them, and not from what it has compiled in.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use k8s_openapi::schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::kinds::{KINDS, Kind};
use crate::source::HEADER;

/// Every schema by its full name.
pub type Definitions = BTreeMap<String, Value>;

const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

pub fn definitions() -> Definitions {
    use k8s_openapi::api::{apps::v1 as apps, autoscaling::v1 as scaling};
    use k8s_openapi::api::{
        authentication::v1 as authentication, authorization::v1 as authorization,
        coordination::v1 as coordination, core::v1 as core, discovery::v1 as discovery,
        events::v1 as events, policy::v1 as policy,
    };
    use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

    let mut generator: SchemaGenerator = SchemaSettings::openapi3().into_generator();
    generator.subschema_for::<core::Binding>();
    generator.subschema_for::<core::ConfigMap>();
    generator.subschema_for::<core::Endpoints>();
    generator.subschema_for::<core::Event>();
    generator.subschema_for::<core::Namespace>();
    generator.subschema_for::<core::Node>();
    generator.subschema_for::<core::Pod>();
    generator.subschema_for::<core::Secret>();
    generator.subschema_for::<core::Service>();
    generator.subschema_for::<core::ServiceAccount>();
    generator.subschema_for::<apps::Deployment>();
    generator.subschema_for::<apps::ReplicaSet>();
    generator.subschema_for::<scaling::Scale>();
    generator.subschema_for::<coordination::Lease>();
    generator.subschema_for::<discovery::EndpointSlice>();
    generator.subschema_for::<events::Event>();
    generator.subschema_for::<authentication::SelfSubjectReview>();
    generator.subschema_for::<authorization::SelfSubjectAccessReview>();
    generator.subschema_for::<authorization::SelfSubjectRulesReview>();
    generator.subschema_for::<policy::Eviction>();
    generator.subschema_for::<meta::DeleteOptions>();
    generator.subschema_for::<meta::Status>();
    generator.subschema_for::<meta::ListMeta>();
    let mut definitions: Definitions = generator.take_definitions(true).into_iter().collect();
    // k8s-openapi's metadata is no Option; to Kubernetes it is optional in every kind.
    for kind in KINDS {
        if let Some(required) = definitions
            .get_mut(kind.schema)
            .and_then(|s| s["required"].as_array_mut())
        {
            required.retain(|field| field != "metadata");
        }
    }
    definitions
}

/// The compressed documents and the Rust table that includes them.
pub fn files(definitions: &Definitions) -> crate::Files {
    let mut files = crate::Files::new();
    let mut rows = String::new();
    let paths: BTreeSet<String> = KINDS.iter().map(Kind::group_version_path).collect();
    for path in paths {
        let text =
            serde_json::to_vec(&document(&path, definitions)).expect("a Value is valid JSON");
        let file = format!("{}.json.gz", path.replace('/', "_"));
        rows += &format!(
            "    Document {{ path: \"{path}\", hash: \"{:016X}\", json_gz: include_bytes!(\"../../data/openapi/{file}\") }},\n",
            fnv1a(&text)
        );
        files.insert(format!("data/openapi/{file}").into(), compress(&text));
    }
    let table = format!(
        "{HEADER}use crate::openapi::Document;\n\npub(crate) static DOCUMENTS: &[Document] = &[\n{rows}];\n"
    );
    files.insert("src/generated/documents.rs".into(), table.into_bytes());
    files
}

fn document(group_version_path: &str, definitions: &Definitions) -> Value {
    let kinds: Vec<&Kind> = KINDS
        .iter()
        .filter(|k| k.group_version_path() == group_version_path)
        .collect();
    let mut schemas = Map::new();
    let mut paths = Map::new();
    for kind in &kinds {
        reach(kind.schema, definitions, &mut schemas);
        mark(&mut schemas, kind.schema, kind, kind.kind);
        if !kind.plural.is_empty() {
            let name = format!("{}List", kind.schema);
            schemas.insert(name.clone(), list_schema(kind));
            mark(&mut schemas, &name, kind, &format!("{}List", kind.kind));
            add_paths(&mut paths, kind);
        }
    }
    reach(LIST_META, definitions, &mut schemas);
    json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": "v1.33.0" },
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

/// Adds a schema and all it refers to.
fn reach(name: &str, definitions: &Definitions, into: &mut Map<String, Value>) {
    if into.contains_key(name) {
        return;
    }
    let schema = definitions
        .get(name)
        .unwrap_or_else(|| panic!("no schema {name}"));
    into.insert(name.to_owned(), schema.clone());
    for reference in references(schema) {
        reach(&reference, definitions, into);
    }
}

/// Names of the schemas a schema refers to.
pub fn references(schema: &Value) -> Vec<String> {
    match schema {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| match (key.as_str(), value) {
                ("$ref", Value::String(target)) => vec![reference_name(target)],
                _ => references(value),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

pub fn reference_name(target: &str) -> String {
    target
        .trim_start_matches("#/components/schemas/")
        .to_owned()
}

fn mark(schemas: &mut Map<String, Value>, name: &str, kind: &Kind, kind_name: &str) {
    let gvk = json!([{ "group": kind.group, "kind": kind_name, "version": kind.version }]);
    schemas[name]["x-kubernetes-group-version-kind"] = gvk;
}

fn list_schema(kind: &Kind) -> Value {
    json!({
        "description": format!("{0}List is a list of {0} objects.", kind.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": { "type": "string", "description": "The group and version of this list." },
            "kind": { "type": "string", "description": "The kind of this list." },
            "metadata": { "allOf": [{ "$ref": format!("#/components/schemas/{LIST_META}") }] },
            "items": { "type": "array", "items": { "$ref": format!("#/components/schemas/{}", kind.schema) } },
        },
    })
}

fn add_paths(paths: &mut Map<String, Value>, kind: &Kind) {
    let base = kind.group_version_path();
    let collection = match kind.is_namespaced {
        true => format!("/{base}/namespaces/{{namespace}}/{}", kind.plural),
        false => format!("/{base}/{}", kind.plural),
    };
    let list = format!("{}List", kind.schema);
    if kind.is_namespaced {
        paths.insert(
            format!("/{base}/{}", kind.plural),
            json!({ "get": operation(kind, "list", &list, None, &LIST_PARAMETERS) }),
        );
    }
    let json_body = Some(["application/json"].as_slice());
    let patches = Some(
        [
            "application/json-patch+json",
            "application/merge-patch+json",
        ]
        .as_slice(),
    );
    let mut many = json!({
        "get": operation(kind, "list", &list, None, &LIST_PARAMETERS),
        "post": operation(kind, "post", kind.schema, json_body, &WRITE_PARAMETERS),
        "delete": operation(kind, "deletecollection", kind.schema, None, &LIST_PARAMETERS),
    });
    let mut one = json!({
        "get": operation(kind, "get", kind.schema, None, &[]),
        "put": operation(kind, "put", kind.schema, json_body, &WRITE_PARAMETERS),
        "patch": operation(kind, "patch", kind.schema, patches, &WRITE_PARAMETERS),
        "delete": operation(kind, "delete", kind.schema, None, &DELETE_PARAMETERS),
    });
    let namespace = kind.is_namespaced.then(|| path_parameter("namespace"));
    many["parameters"] = namespace.iter().cloned().collect();
    one["parameters"] = namespace
        .into_iter()
        .chain([path_parameter("name")])
        .collect();
    paths.insert(format!("{collection}/{{name}}"), one);
    paths.insert(collection, many);
}

const LIST_PARAMETERS: [&str; 7] = [
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "watch",
];
const WRITE_PARAMETERS: [&str; 3] = ["dryRun", "fieldManager", "fieldValidation"];
const DELETE_PARAMETERS: [&str; 3] = ["dryRun", "gracePeriodSeconds", "propagationPolicy"];

fn operation(
    kind: &Kind,
    action: &str,
    reply: &str,
    body: Option<&[&str]>,
    parameters: &[&str],
) -> Value {
    let schema = json!({ "schema": { "$ref": format!("#/components/schemas/{reply}") } });
    let mut operation = json!({
        "parameters": parameters.iter().map(|name| query_parameter(name)).collect::<Vec<_>>(),
        "responses": { "200": { "description": "OK", "content": { "application/json": schema } } },
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": { "group": kind.group, "kind": kind.kind, "version": kind.version },
    });
    if let Some(types) = body {
        let content: Map<String, Value> = types
            .iter()
            .map(|t| ((*t).to_owned(), schema.clone()))
            .collect();
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    operation
}

fn query_parameter(name: &str) -> Value {
    let kind = match name {
        "limit" | "gracePeriodSeconds" => "integer",
        "watch" | "allowWatchBookmarks" => "boolean",
        _ => "string",
    };
    json!({ "name": name, "in": "query", "schema": { "type": kind, "uniqueItems": true } })
}

fn path_parameter(name: &str) -> Value {
    json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "uniqueItems": true } })
}

fn compress(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(text).expect("a Vec takes every byte");
    encoder.finish().expect("a Vec takes every byte")
}

/// FNV-1a, 64 bits: a cache key for kubectl, not a seal.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}
