//! The verbs, the same for every kind: get, list, watch, create, update, patch, delete.
//!
//! ```text
//!  request ─► route ─► authorize ─► decode, conform ─► strategy, defaults, validate, allocate ─► txn ─► bytes
//!                         reads: index and stored bytes ───────────────────────────────────────────────┘
//! ```
//! A reply's bytes are the stored bytes; only tables and partial metadata are built anew.

pub mod apply;
pub mod create;
pub mod delete;
pub mod evict;
pub mod read;
pub mod review;
pub mod update;
pub mod watch;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use jiff::Timestamp;
use portolan_store::{Change, Expect, Key, Op, Put, Store, TxnError};
use rand::Rng;
use serde_json::Value;

use crate::alloc::{Claims, Ranges};
use crate::authn::User;
use crate::authz::{Authorizer, Facts};
use crate::body::FieldValidation;
use crate::nodes::NodeClient;
use crate::object::{ObjectIndex, Stored};
use crate::registry::{self, Resource};
use crate::request::{Form, Query, Target};
use crate::status::{ApiError, ApiResult};
use crate::{table, view};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub type Body = UnsyncBoxBody<Bytes, BoxError>;
pub type Answer = ApiResult<Response<Body>>;

/// Everything a request may need.
pub struct Api {
    pub store: Arc<dyn Store<ObjectIndex>>,
    pub ranges: Ranges,
    pub authorizer: Box<dyn Authorizer>,
    pub nodes: NodeClient,
}

/// One request for an object or a collection.
pub struct Call {
    pub api: Arc<Api>,
    pub user: User,
    /// Its resource is the row that stores the objects.
    pub target: Target,
    /// The row that was asked for: what goes in and out is of this form.
    pub asked: &'static Resource,
    pub query: Query,
    pub form: Form,
    pub headers: HeaderMap,
    pub now: Timestamp,
}

/// What a client may ask of any write.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    pub dry_run: bool,
    /// `fieldManager`, else the first word of the client's User-Agent, else the user's name.
    pub manager: Arc<str>,
    pub owners: Owners,
    pub validation: FieldValidation,
    pub now: Timestamp,
}

/// Where the owners of fields come from, once an object has any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// From what the write changes.
    Changed,
    /// They stand in the object to be written: it was made by an apply.
    Given,
}

/// Times a write is tried again when others write the same objects meanwhile.
pub const ATTEMPTS: usize = 16;

impl Call {
    pub fn write_options(&self) -> ApiResult<WriteOptions> {
        let dry_run = match self.query.given("dryRun") {
            None => false,
            Some("All") => true,
            Some(other) => {
                let message = format!("invalid dryRun: Unsupported value: \"{other}\": supported values: \"All\"");
                return Err(ApiError::bad_request(message));
            }
        };
        let validation = FieldValidation::of(&self.query)?;
        Ok(WriteOptions { dry_run, manager: self.manager().into(), owners: Owners::Changed, validation, now: self.now })
    }

    fn manager(&self) -> &str {
        let agent = self.headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok());
        let agent = agent.map(|agent| agent.split('/').next().unwrap_or_default());
        self.query
            .given("fieldManager")
            .or(agent.filter(|agent| !agent.is_empty()))
            .unwrap_or(self.user.name.trim_start_matches("system:"))
    }

    /// One object, in the form the client asked for.
    pub fn answer(&self, code: u16, object: Bytes, warnings: &[String]) -> Answer {
        let bytes = match self.form {
            Form::Json => view::shown_bytes(self.asked, object),
            Form::Table | Form::Partial => {
                let value: Value =
                    serde_json::from_slice(&object).map_err(|problem| ApiError::internal(problem.to_string()))?;
                let shaped = match self.form {
                    Form::Table => {
                        let rows = std::slice::from_ref(&value);
                        let version = crate::object::text(&value, "/metadata/resourceVersion");
                        table::table(self.target.resource, rows, version, &self.query, self.now)
                    }
                    _ => table::partial(&value),
                };
                shaped.to_string().into()
            }
        };
        Ok(with_warnings(json_response(code, bytes), warnings))
    }
}

pub fn json_response(code: u16, body: impl Into<Bytes>) -> Response<Body> {
    typed_response(code, "application/json", body)
}

pub fn typed_response(code: u16, media_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

pub fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()
}

pub fn error_response(error: &ApiError) -> Response<Body> {
    let mut response = json_response(error.code, error.to_value().to_string());
    if error.code == 503 || error.code == 504 {
        response.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// `Warning: 299 - "text"`, which kubectl shows to its user.
fn with_warnings(mut response: Response<Body>, warnings: &[String]) -> Response<Body> {
    for warning in warnings {
        let text = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(http::header::WARNING, value);
        }
    }
    response
}

impl Facts for Api {
    fn node_of_pod(&self, namespace: &str, name: &str) -> Option<String> {
        let entry = self.store.get(&registry::row("pods").key(namespace, name))?;
        let node = entry.index.fields.iter().find(|(field, _)| *field == "spec.nodeName");
        Some(node.map(|(_, node)| node.clone()).unwrap_or_default())
    }
}

impl Claims for &Api {
    fn is_held(&self, key: &str) -> bool {
        self.store.get(key).is_some()
    }

    fn pick(&mut self, bound: u64) -> u64 {
        rand::rng().random_range(0..bound)
    }
}

/// What became of a transaction that may meet others.
pub enum Landed {
    Done(Vec<Option<Stored>>),
    /// Somebody else changed what this operation expected.
    Lost {
        op: usize,
    },
}

impl Api {
    pub async fn write(&self, ops: Vec<Op<ObjectIndex>>) -> ApiResult<Landed> {
        match self.store.txn(ops).await {
            Ok(committed) => Ok(Landed::Done(committed.entries)),
            Err(TxnError::Unexpected { op, .. }) => Ok(Landed::Lost { op }),
            Err(problem) => Err(ApiError::internal(problem.to_string())),
        }
    }
}

/// Operations that make and give back claims of the Service `owner` (`namespace/name`).
pub fn claim_ops(plan: &crate::alloc::Plan, owner: &str) -> Vec<Op<ObjectIndex>> {
    let claim = plan.claim.iter().map(|key| {
        let put = Put { value: owner.as_bytes().to_vec(), revision_at: None, index: Arc::default() };
        op(key, Expect::Absent, Change::Put(put))
    });
    claim.chain(release_ops(&plan.release)).collect()
}

pub fn release_ops(keys: &[String]) -> Vec<Op<ObjectIndex>> {
    keys.iter().map(|key| op(key, Expect::Any, Change::Delete)).collect()
}

pub fn op(key: &str, expect: Expect, change: Change<ObjectIndex>) -> Op<ObjectIndex> {
    Op { key: Key::from(key), expect, change }
}

/// The bytes of an object that is not stored: dry runs and objects made on the fly.
pub fn unstored(object: &Value) -> Bytes {
    object.to_string().into()
}
