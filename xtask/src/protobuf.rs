//! The table of protobuf messages: tag, wire type and JSON name of each field.
//!
//! Tags come from the prost attributes in the source of the `k8s-pb` crate, which cargo has
//! fetched but never builds; JSON names come from the schemas. A message field without a JSON
//! name of its own is one whose fields Go embeds in the parent (`Probe.handler`): it is inlined.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::kinds::KINDS;
use crate::openapi::Definitions;
use crate::source::HEADER;
use crate::types::{properties, required};
use crate::zeroes;

/// Messages by full name.
pub type Messages = BTreeMap<String, Vec<PbField>>;

/// One prost field.
#[derive(Clone, Debug)]
pub struct PbField {
    name: String,
    tag: u32,
    label: Label,
    wire: PbType,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Label {
    Single,
    Repeated,
    Map,
}

#[derive(Clone, Debug, PartialEq)]
enum PbType {
    Scalar(String),
    Message(String),
}

/// Messages whose JSON form is not an object with one member per field.
const SPECIAL: &[(&str, &str)] = &[
    ("io.k8s.apimachinery.pkg.api.resource.Quantity", "Quantity"),
    (
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
        "IntOrString",
    ),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", "Time"),
    (
        "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime",
        "MicroTime",
    ),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", "RawJson"),
    ("io.k8s.apimachinery.pkg.runtime.RawExtension", "RawJson"),
];

/// Reads the messages, under the names that the schemas give them: prost writes `HttpGetAction`
/// where Kubernetes has `HTTPGetAction`.
pub fn read(definitions: &Definitions) -> Result<Messages, String> {
    let spelled: BTreeMap<String, &String> =
        definitions.keys().map(|name| (plain(name), name)).collect();
    let spell = |name: String| {
        spelled
            .get(&plain(&name))
            .map_or(name, |name| (*name).clone())
    };
    let root = crate_source()?;
    let mut messages = Messages::new();
    for file in rust_files(&root)? {
        let text =
            std::fs::read_to_string(&file).map_err(|e| format!("read {}: {e}", file.display()))?;
        let parsed =
            syn::parse_file(&text).map_err(|e| format!("parse {}: {e}", file.display()))?;
        let module = module_path(&root, &file);
        for item in parsed.items {
            if let syn::Item::Struct(item) = item {
                let mut fields = fields(&item, &module);
                for field in &mut fields {
                    if let PbType::Message(name) = &mut field.wire {
                        *name = spell(std::mem::take(name));
                    }
                }
                messages.insert(spell(full_name(&module, &item.ident.to_string())), fields);
            }
        }
    }
    Ok(messages)
}

/// Where cargo has put the source of k8s-pb.
fn crate_source() -> Result<PathBuf, String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version=1",
            "--all-features",
            "--locked",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .map_err(|e| format!("run cargo metadata: {e}"))?;
    let metadata: Value = serde_json::from_slice(&output.stdout).map_err(|e| {
        format!(
            "cargo metadata: {e}: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    })?;
    let package = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|p| p["name"] == "k8s-pb");
    let manifest = package
        .and_then(|p| p["manifest_path"].as_str())
        .ok_or("cargo metadata lists no k8s-pb")?;
    Ok(Path::new(manifest).with_file_name("src"))
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| format!("list {}: {e}", folder.display()))? {
        let path = entry
            .map_err(|e| format!("list {}: {e}", folder.display()))?
            .path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// `src/api/core/v1/mod.rs` is module `[api, core, v1]`.
fn module_path(root: &Path, file: &Path) -> Vec<String> {
    let relative = file
        .strip_prefix(root)
        .expect("the file was found below the root")
        .with_extension("");
    let mut parts: Vec<String> = relative
        .iter()
        .map(|p| p.to_string_lossy().into_owned())
        .collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib")) {
        parts.pop();
    }
    parts
}

fn full_name(module: &[String], name: &str) -> String {
    format!("io.k8s.{}.{name}", module.join("."))
}

fn fields(item: &syn::ItemStruct, module: &[String]) -> Vec<PbField> {
    item.fields
        .iter()
        .filter_map(|field| prost_field(field, module))
        .collect()
}

fn prost_field(field: &syn::Field, module: &[String]) -> Option<PbField> {
    let attribute = field.attrs.iter().find(|a| a.path().is_ident("prost"))?;
    let words = attribute.meta.require_list().ok()?.tokens.to_string();
    let tag = words
        .split("tag = \"")
        .nth(1)?
        .split('"')
        .next()?
        .parse()
        .ok()?;
    let name = field
        .ident
        .as_ref()?
        .to_string()
        .trim_start_matches("r#")
        .to_owned();
    let first = words.split([',', ' ']).next()?.to_owned();
    let (label, scalar) = match first.as_str() {
        "btree_map" | "hash_map" => {
            let value = words
                .split('"')
                .nth(1)?
                .split(',')
                .nth(1)?
                .trim()
                .to_owned();
            (Label::Map, value)
        }
        _ if words.contains("repeated") => (Label::Repeated, first),
        _ => (Label::Single, first),
    };
    let wire = match scalar.as_str() {
        "message" => PbType::Message(message_name(&field.ty, module)?),
        other => PbType::Scalar(other.to_owned()),
    };
    Some(PbField {
        name,
        tag,
        label,
        wire,
    })
}

/// Full name of the message type inside `Option<…>`, `Vec<…>`, `Box<…>` or a map's value.
fn message_name(ty: &syn::Type, module: &[String]) -> Option<String> {
    let syn::Type::Path(path) = ty else {
        return None;
    };
    let last = path.path.segments.last()?;
    if let syn::PathArguments::AngleBracketed(arguments) = &last.arguments {
        let inner = arguments.args.iter().rev().find_map(|a| match a {
            syn::GenericArgument::Type(inner) => Some(inner),
            _ => None,
        });
        return message_name(inner?, module);
    }
    let mut base = module.to_vec();
    let mut segments = path
        .path
        .segments
        .iter()
        .map(|s| s.ident.to_string())
        .peekable();
    match segments.peek().map(String::as_str) {
        Some("crate") => {
            base.clear();
            segments.next();
        }
        _ => {
            while segments.next_if_eq("super").is_some() {
                base.pop();
            }
        }
    }
    base.extend(segments);
    let name = base.pop()?;
    Some(full_name(&base, &name))
}

pub fn source(definitions: &Definitions, messages: &Messages) -> Result<String, String> {
    let mut table = Table {
        definitions,
        messages,
        rows: BTreeMap::new(),
        unclassified: Vec::new(),
    };
    for kind in KINDS {
        table.add(kind.schema, kind.schema);
    }
    if !table.unclassified.is_empty() {
        return Err(format!(
            "say in zeroes.rs what zero means in:\n{}",
            table.unclassified.join("\n")
        ));
    }
    let index: BTreeMap<&String, usize> = table
        .rows
        .keys()
        .enumerate()
        .map(|(at, key)| (key, at))
        .collect();
    let mut text = format!("{HEADER}use crate::protobuf::{{Field, Message, Wire::*}};\n\n");
    text += "pub(crate) static MESSAGES: &[Message] = &[\n";
    for (at, (key, rows)) in table.rows.iter().enumerate() {
        let name = key
            .split('|')
            .next()
            .expect("split gives at least one part");
        text += &format!("    // {at}\n    Message {{ name: {name:?}, fields: &[\n");
        for row in rows {
            let wire = match &row.target {
                Some(target) => row.wire.replace('@', &index[target].to_string()),
                None => row.wire.clone(),
            };
            text += &format!(
                "        Field {{ tag: {}, name: {:?}, omit_zero: {}, wire: {wire} }},\n",
                row.tag, row.json, row.omit_zero
            );
        }
        text += "    ] },\n";
    }
    text += "];\n";
    Ok(text)
}

struct Row {
    tag: u32,
    json: String,
    omit_zero: bool,
    /// Rust expression of the wire type; `@` stands for the target's index.
    wire: String,
    target: Option<String>,
}

struct Table<'a> {
    definitions: &'a Definitions,
    messages: &'a Messages,
    /// Key: message name, and for an inlined message without a schema `|` and its parent's.
    rows: BTreeMap<String, Vec<Row>>,
    unclassified: Vec<String>,
}

impl Table<'_> {
    /// Adds a message whose JSON names are the properties of `schema`.
    fn add(&mut self, message: &str, schema: &str) -> String {
        let key = match message == schema {
            true => message.to_owned(),
            false => format!("{message}|{schema}"),
        };
        if self.rows.contains_key(&key) {
            return key;
        }
        self.rows.insert(key.clone(), Vec::new());
        let fields = self
            .messages
            .get(message)
            .unwrap_or_else(|| panic!("no message {message}"))
            .clone();
        let mut rows: Vec<Row> = fields
            .iter()
            .filter_map(|field| self.row(field, message, schema))
            .collect();
        rows.sort_by_key(|row| row.tag);
        self.rows.insert(key.clone(), rows);
        key
    }

    fn row(&mut self, field: &PbField, message: &str, schema: &str) -> Option<Row> {
        let definitions = self.definitions;
        let Some(known) = definitions.get(schema) else {
            panic!("no schema {schema} for {message}")
        };
        let names = properties(known);
        let json = names
            .keys()
            .find(|json| plain(json) == plain(&field.name))
            .map(|json| (*json).clone());
        let Some(json) = json else {
            return self.inlined(field, schema);
        };
        if self.is_bare_list(&field.wire) {
            return None;
        }
        let (wire, target) = self.wire(&field.wire);
        let is_required = required(&definitions[schema]).contains(json.as_str());
        let omit_zero = match &field.wire {
            PbType::Scalar(scalar) if field.label == Label::Single && !is_required => {
                self.omits_zero(message, &json, scalar)
            }
            _ => false,
        };
        let wire = match field.label {
            Label::Single => wire,
            Label::Repeated => format!("List(&{wire})"),
            Label::Map => format!("Map(&{wire})"),
        };
        Some(Row {
            tag: field.tag,
            json,
            omit_zero,
            wire,
            target,
        })
    }

    /// A message that is a plain list in JSON (`ExtraValue`): it stands in what servers answer, not in
    /// what clients send, and is skipped.
    fn is_bare_list(&self, wire: &PbType) -> bool {
        match wire {
            PbType::Scalar(_) => false,
            PbType::Message(name) => {
                let is_special = SPECIAL.iter().any(|(special, _)| special == name);
                !is_special && !self.definitions.contains_key(name)
            }
        }
    }

    fn wire(&mut self, wire: &PbType) -> (String, Option<String>) {
        match wire {
            PbType::Scalar(scalar) => (scalar_wire(scalar).to_owned(), None),
            PbType::Message(name) => match SPECIAL.iter().find(|(special, _)| special == name) {
                Some((_, special)) => ((*special).to_owned(), None),
                None => ("Object(@)".to_owned(), Some(self.add(name, name))),
            },
        }
    }

    /// A field that the JSON form does not name: embedded in its parent, or newer than the schemas.
    fn inlined(&mut self, field: &PbField, schema: &str) -> Option<Row> {
        let PbType::Message(name) = &field.wire else {
            return None;
        };
        let parent: BTreeSet<String> = properties(&self.definitions[schema])
            .keys()
            .map(|k| plain(k))
            .collect();
        let fields = self.messages.get(name)?;
        let shared = fields
            .iter()
            .filter(|f| parent.contains(&plain(&f.name)))
            .count();
        if field.label != Label::Single || shared * 2 <= fields.len() {
            return None;
        }
        let key = self.add(&name.clone(), schema);
        Some(Row {
            tag: field.tag,
            json: String::new(),
            omit_zero: false,
            wire: "Inline(@)".into(),
            target: Some(key),
        })
    }

    fn omits_zero(&mut self, message: &str, json: &str, scalar: &str) -> bool {
        let short = message
            .rsplit('.')
            .next()
            .expect("rsplit gives at least one part");
        let field = format!("{short}.{json}");
        match (scalar, zeroes::meaning(&field)) {
            (_, Some(zeroes::Meaning::Value)) => false,
            (_, Some(zeroes::Meaning::Absent)) | ("string" | "bytes", None) => true,
            (_, None) => {
                self.unclassified.push(format!("{field} ({scalar})"));
                false
            }
        }
    }
}

fn scalar_wire(scalar: &str) -> &'static str {
    match scalar {
        "string" => "String",
        "int32" => "Int32",
        "int64" => "Int64",
        "bool" => "Bool",
        "double" => "Double",
        "bytes" => "Bytes",
        other => panic!("unknown protobuf scalar {other}"),
    }
}

/// A name without case and underscores: `cluster_i_ps` and `clusterIPs` meet in `clusterips`.
fn plain(name: &str) -> String {
    name.chars()
        .filter(|c| *c != '_')
        .flat_map(char::to_lowercase)
        .collect()
}
