//! The table of JSON types: for each schema its fields and their shapes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::kinds::KINDS;
use crate::openapi::{Definitions, reference_name};
use crate::source::HEADER;

/// Schemas whose JSON is not an object with fixed fields.
const SPECIAL: &[(&str, &str)] = &[
    ("io.k8s.apimachinery.pkg.api.resource.Quantity", "Quantity"),
    (
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
        "IntOrString",
    ),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", "Time"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", "Time"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", "Any"),
    ("io.k8s.apimachinery.pkg.runtime.RawExtension", "Any"),
];

pub fn source(definitions: &Definitions) -> String {
    let names = reachable(definitions);
    let index: BTreeMap<&str, usize> = names
        .iter()
        .enumerate()
        .map(|(at, name)| (name.as_str(), at))
        .collect();
    let mut text = format!("{HEADER}use crate::schema::{{Field, Kind, Shape::*, Type}};\n\n");
    text += "pub(crate) static KINDS: &[Kind] = &[\n";
    for kind in KINDS {
        let at = index[kind.schema];
        text += &format!(
            "    Kind {{ api_version: {:?}, kind: {:?}, type_index: {at} }},\n",
            kind.api_version(),
            kind.kind
        );
    }
    text += "];\n\npub(crate) static TYPES: &[Type] = &[\n";
    for (at, name) in names.iter().enumerate() {
        text += &format!("    // {at}\n    Type {{ name: {name:?}, fields: &[\n");
        for (field, schema) in properties(&definitions[name]) {
            text += &format!(
                "        Field {{ name: {field:?}, shape: {} }},\n",
                shape(schema, &index)
            );
        }
        text += "    ] },\n";
    }
    text += "];\n";
    text
}

fn reachable(definitions: &Definitions) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut todo: Vec<String> = KINDS.iter().map(|kind| kind.schema.to_owned()).collect();
    while let Some(name) = todo.pop() {
        if is_special(&name).is_none() && seen.insert(name.clone()) {
            todo.extend(crate::openapi::references(&definitions[&name]));
        }
    }
    seen.into_iter().collect()
}

fn is_special(name: &str) -> Option<&'static str> {
    SPECIAL
        .iter()
        .find(|(special, _)| *special == name)
        .map(|(_, shape)| *shape)
}

pub fn properties(schema: &Value) -> BTreeMap<&String, &Value> {
    schema["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .collect()
}

pub fn required(schema: &Value) -> BTreeSet<&str> {
    schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn shape(schema: &Value, index: &BTreeMap<&str, usize>) -> String {
    if let Some(target) = reference(schema) {
        return match is_special(&target) {
            Some(special) => special.to_owned(),
            None => format!("Object({})", index[target.as_str()]),
        };
    }
    match schema["type"].as_str() {
        Some("string") if schema["format"] == "byte" => "Bytes".into(),
        Some("string") if schema["format"] == "date-time" => "Time".into(),
        Some("string") => "String".into(),
        Some("integer") if schema["format"] == "int32" => "Int32".into(),
        Some("integer") => "Int64".into(),
        Some("number") => "Number".into(),
        Some("boolean") => "Boolean".into(),
        Some("array") => format!("List(&{})", shape(&schema["items"], index)),
        Some("object") if schema["additionalProperties"].is_object() => {
            format!("Map(&{})", shape(&schema["additionalProperties"], index))
        }
        _ => "Any".into(),
    }
}

/// The schema a property refers to, directly or as the only member of `allOf`.
fn reference(schema: &Value) -> Option<String> {
    let target = schema["$ref"]
        .as_str()
        .or_else(|| schema["allOf"][0]["$ref"].as_str());
    target.map(reference_name)
}
