//! Request bodies: JSON, YAML or Kubernetes protobuf in, one JSON value out, checked against the kind.

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use portolan_kinds::schema::{self, Problem};
use portolan_kinds::{duplicates, protobuf, yaml};
use serde_json::Value;

use crate::object;
use crate::request::Query;
use crate::status::{ApiError, ApiResult};

/// As kube-apiserver's limit.
const BODY_BYTES_MAX: usize = 3 << 20;

pub async fn read(body: Incoming) -> ApiResult<Bytes> {
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(problem) if problem.is::<http_body_util::LengthLimitError>() => {
            let message = format!("Request entity too large: limit is {BODY_BYTES_MAX}");
            Err(ApiError::new(413, "RequestEntityTooLarge", message))
        }
        Err(problem) => Err(ApiError::bad_request(format!("cannot read the request's body: {problem}"))),
    }
}

/// The media type without its parameters; JSON when none is said.
pub fn media_type(headers: &HeaderMap) -> &str {
    let said = headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    said.map_or("application/json", |said| said.split(';').next().unwrap_or_default().trim())
}

/// One object from a body of a known media type.
pub fn parse(media_type: &str, body: &[u8]) -> ApiResult<Value> {
    match media_type {
        "application/json" => serde_json::from_slice(body).map_err(|problem| {
            ApiError::bad_request(format!("couldn't get version/kind; json parse error: {problem}"))
        }),
        "application/yaml" | "text/yaml" | "application/x-yaml" => parse_yaml(body),
        "application/vnd.kubernetes.protobuf" => protobuf::decode(body)
            .map_err(|problem| ApiError::bad_request(format!("cannot decode the protobuf body: {problem}"))),
        other => Err(ApiError::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf (got {other})"
        ))),
    }
}

fn parse_yaml(body: &[u8]) -> ApiResult<Value> {
    let documents = yaml::documents(body)
        .map_err(|problem| ApiError::bad_request(format!("error converting YAML to JSON: {problem}")))?;
    let mut documents = documents.into_iter();
    match (documents.next(), documents.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(ApiError::bad_request("the body holds no object")),
        (Some(_), Some(_)) => Err(ApiError::bad_request("the body holds more than one object; send one request each")),
    }
}

/// How unknown fields are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    Strict,
    Warn,
    Ignore,
}

impl FieldValidation {
    pub fn of(query: &Query) -> ApiResult<FieldValidation> {
        match query.given("fieldValidation") {
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some(other) => Err(ApiError::bad_request(format!(
                "fieldValidation: Unsupported value: \"{other}\": supported values: \"Ignore\", \"Warn\", \"Strict\""
            ))),
        }
    }
}

/// Members that a body says twice, for [`conform`]; only JSON can: the other forms are refused, or have none.
pub fn said_twice(media_type: &str, body: &[u8]) -> Vec<String> {
    if !media_type.ends_with("json") {
        return Vec::new();
    }
    duplicates::of_json(body).iter().map(|path| format!("duplicate field \"{path}\"")).collect()
}

/// Makes the object one of `api_version` and `kind`: fills both in if absent, refuses others, refuses
/// wrong types, and refuses or removes unknown fields. Gives back the warnings to send along.
pub fn conform(
    object: &mut Value,
    api_version: &str,
    kind: &str,
    validation: FieldValidation,
) -> ApiResult<Vec<String>> {
    conform_sent(object, (api_version, kind), validation, &[])
}

/// The same for an object whose body said some members twice.
pub fn conform_sent(
    object: &mut Value,
    (api_version, kind): (&str, &str),
    validation: FieldValidation,
    twice: &[String],
) -> ApiResult<Vec<String>> {
    if !object.is_object() {
        return Err(ApiError::bad_request("the body is no object"));
    }
    for (member, wanted) in [("apiVersion", api_version), ("kind", kind)] {
        if object::text(object, &format!("/{member}")).is_empty() {
            object[member] = wanted.into();
        }
    }
    let (got_version, got_kind) = (object::text(object, "/apiVersion"), object::text(object, "/kind"));
    if got_kind != kind {
        return Err(ApiError::bad_request(format!(
            "{got_kind} in version \"{got_version}\" cannot be handled as a {kind}: the kind in the data does not match the expected kind"
        )));
    }
    if got_version != api_version {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({got_version}) does not match the expected API version ({api_version})"
        )));
    }
    check_fields(object, (api_version, kind), validation, twice)
}

fn check_fields(
    object: &mut Value,
    (api_version, kind): (&str, &str),
    validation: FieldValidation,
    twice: &[String],
) -> ApiResult<Vec<String>> {
    let version = api_version.rsplit('/').next().unwrap_or(api_version);
    let (mut wrong, mut unknown) = (Vec::new(), Vec::new());
    for finding in schema::check(api_version, kind, object) {
        match finding.problem {
            Problem::UnknownField => unknown.push(finding),
            Problem::WrongType { .. } => wrong.push(finding),
        }
    }
    let refused = |what: String| {
        ApiError::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {what}"))
    };
    if let Some(first) = wrong.first() {
        return Err(refused(first.to_string()));
    }
    let said: Vec<String> = twice.iter().cloned().chain(unknown.iter().map(ToString::to_string)).collect();
    if validation == FieldValidation::Strict && !said.is_empty() {
        return Err(refused(format!("strict decoding error: {}", said.join(", "))));
    }
    // From the end, so that positions in lists stay right.
    unknown.iter().rev().for_each(|finding| object::remove_path(object, &finding.path));
    Ok(if validation == FieldValidation::Warn { said } else { Vec::new() })
}
