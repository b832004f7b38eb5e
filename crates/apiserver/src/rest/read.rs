//! Get and list: stored bytes, chosen by index, joined.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use bytes::Bytes;
use portolan_store::RangeError;
use serde_json::{Value, json};

use super::{Answer, Call, json_response};
use crate::object::{self, Stored};
use crate::registry::Resource;
use crate::request::{Form, Query};
use crate::selector::{FieldSelector, LabelSelector};
use crate::status::{ApiError, ApiResult};
use crate::strategy::scale;
use crate::{table, view};

/// Both selectors of a request.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    pub fn of(query: &Query, resource: &Resource) -> ApiResult<Selection> {
        Ok(Selection {
            labels: LabelSelector::parse(query.get("labelSelector").unwrap_or_default())?,
            fields: FieldSelector::parse(query.get("fieldSelector").unwrap_or_default(), resource)?,
        })
    }

    pub fn takes(&self, entry: &Stored) -> bool {
        (self.labels.is_empty() || self.labels.matches(&entry.index.labels)) && self.fields.matches(&entry.index)
    }
}

/// Entries of one list, at one revision.
pub struct Found {
    pub entries: Vec<Stored>,
    pub revision: u64,
}

pub fn get(call: &Call) -> Answer {
    let (resource, name) = (call.target.resource, call.target.name());
    let entry = call.api.store.get(&call.target.key()).ok_or_else(|| ApiError::not_found(resource, name))?;
    if call.target.subresource.as_deref() == Some("scale") {
        return Ok(json_response(200, scale::of(&object::decode(&entry)).to_string()));
    }
    call.answer(200, entry.value, &[])
}

/// All entries a request's path and selectors choose, at the revision it asks for.
pub fn select(call: &Call) -> ApiResult<Found> {
    select_at(call, None)
}

fn select_at(call: &Call, at: Option<u64>) -> ApiResult<Found> {
    let resource = call.target.resource;
    let selection = Selection::of(&call.query, call.asked)?;
    let store = &call.api.store;
    if let (Some(name), Some(namespace), None) = (selection.fields.only_name(), single_namespace(call), at) {
        // The revision is read first: the answer then holds at least at that revision.
        let revision = store.revision();
        let entry = store.get(&resource.key(namespace, name)).filter(|entry| selection.takes(entry));
        let revision = entry.as_ref().map_or(revision, |entry| revision.max(entry.revision));
        return Ok(Found { entries: entry.into_iter().collect(), revision });
    }
    let prefix = resource.prefix(call.target.namespace.as_deref());
    let range = store.range(&prefix, None, usize::MAX, at).map_err(range_error)?;
    let entries = range.entries.into_iter().filter(|entry| selection.takes(entry)).collect();
    Ok(Found { entries, revision: range.revision })
}

fn single_namespace(call: &Call) -> Option<&str> {
    if call.target.resource.namespaced { call.target.namespace.as_deref() } else { Some("") }
}

fn range_error(error: RangeError) -> ApiError {
    match error {
        RangeError::Expired { asked, oldest } => ApiError::expired(format!(
            "The provided continue parameter or resource version is too old to display a consistent list result: {asked} ({oldest}). You can start a new list without it."
        )),
        RangeError::Ahead { asked, newest } => ApiError::too_large_revision(asked, newest),
    }
}

/// Where the next page of a list begins.
struct Continue {
    revision: u64,
    after: String,
}

impl Continue {
    fn parse(text: &str) -> ApiResult<Continue> {
        let parsed = || {
            let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
            let token: Value = serde_json::from_slice(&bytes).ok()?;
            Some(Continue { revision: token.get("rv")?.as_u64()?, after: token.get("start")?.as_str()?.to_owned() })
        };
        parsed().ok_or_else(|| ApiError::bad_request("continue key is not valid: it is none that this server gave out"))
    }

    fn text(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(json!({ "rv": self.revision, "start": self.after }).to_string())
    }
}

pub fn list(call: &Call) -> Answer {
    let query = &call.query;
    let token = query.given("continue").map(Continue::parse).transpose()?;
    let at = match &token {
        Some(token) => Some(token.revision),
        None => asked_revision(call)?,
    };
    let mut found = select_at(call, at)?;
    if let Some(token) = &token {
        found.entries.retain(|entry| *entry.key > *token.after);
    }
    let limit = query.number::<usize>("limit").filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let remaining = found.entries.len().saturating_sub(limit);
    found.entries.truncate(limit);
    let next = found.entries.last().filter(|_| remaining > 0);
    let next = next.map(|last| Continue { revision: found.revision, after: last.key.to_string() }.text());
    let is_whole = query.given("labelSelector").is_none() && query.given("fieldSelector").is_none();
    let remaining = next.as_ref().filter(|_| is_whole).map(|_| remaining);
    match call.form {
        Form::Json => Ok(json_response(200, list_bytes(call.asked, &found, next, remaining))),
        Form::Table => Ok(json_response(200, table_bytes(call, &found, next, remaining))),
        Form::Partial => Ok(json_response(200, partial_bytes(&found, next, remaining))),
    }
}

/// An exact revision to read at. Anything else is answered from now, which is always new enough.
fn asked_revision(call: &Call) -> ApiResult<Option<u64>> {
    let Some(version) = call.query.given("resourceVersion").filter(|version| *version != "0") else {
        return Ok(None);
    };
    let asked = parse_revision(version)?;
    let newest = call.api.store.revision();
    if asked > newest {
        return Err(ApiError::too_large_revision(asked, newest));
    }
    Ok((call.query.get("resourceVersionMatch") == Some("Exact")).then_some(asked))
}

pub fn parse_revision(text: &str) -> ApiResult<u64> {
    text.parse()
        .map_err(|_| ApiError::bad_request(format!("invalid resource version {text:?}: it must be a whole number")))
}

fn list_meta(revision: u64, next: Option<String>, remaining: Option<usize>) -> Value {
    let mut meta = json!({ "resourceVersion": revision.to_string() });
    if let Some(next) = next {
        meta["continue"] = next.into();
    }
    if let Some(remaining) = remaining {
        meta["remainingItemCount"] = remaining.into();
    }
    meta
}

/// A list's bytes: a head, and the stored bytes joined.
pub fn list_bytes(resource: &Resource, found: &Found, next: Option<String>, remaining: Option<usize>) -> Bytes {
    let meta = list_meta(found.revision, next, remaining);
    let head = format!(
        r#"{{"kind":"{}","apiVersion":"{}","metadata":{meta},"items":["#,
        resource.list_kind(),
        resource.api_version()
    );
    let size = found.entries.iter().map(|entry| entry.value.len() + 1).sum::<usize>();
    let mut bytes = Vec::with_capacity(head.len() + size + 2);
    bytes.extend_from_slice(head.as_bytes());
    for (at, entry) in found.entries.iter().enumerate() {
        if at > 0 {
            bytes.push(b',');
        }
        bytes.extend_from_slice(&view::shown_bytes(resource, entry.value.clone()));
    }
    bytes.extend_from_slice(b"]}\n");
    bytes.into()
}

fn table_bytes(call: &Call, found: &Found, next: Option<String>, remaining: Option<usize>) -> String {
    let objects: Vec<Value> = found.entries.iter().map(object::decode).collect();
    let mut table = table::table(call.target.resource, &objects, "", &call.query, call.now);
    table["metadata"] = list_meta(found.revision, next, remaining);
    table.to_string()
}

fn partial_bytes(found: &Found, next: Option<String>, remaining: Option<usize>) -> String {
    let items: Vec<Value> = found.entries.iter().map(|entry| table::partial(&object::decode(entry))).collect();
    json!({
        "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
        "metadata": list_meta(found.revision, next, remaining), "items": items,
    })
    .to_string()
}
