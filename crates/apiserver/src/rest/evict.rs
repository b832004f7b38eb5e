//! Eviction: a deletion that asks first. There are no disruption budgets here, so the answer is yes.

use bytes::Bytes;
use serde_json::Value;

use super::delete::{DeleteOptions, delete_object};
use super::{Answer, Call, json_response};
use crate::body::{self, FieldValidation};
use crate::object;
use crate::status::{self, ApiError};

/// `POST pods/NAME/eviction`, as `kubectl drain` sends it.
pub async fn evict(call: &Call, body: Bytes) -> Answer {
    let mut eviction = body::parse(body::media_type(&call.headers), &body)?;
    body::conform(&mut eviction, "policy/v1", "Eviction", FieldValidation::Ignore)?;
    let (said, name) = (object::name(&eviction), call.target.name());
    if !said.is_empty() && said != name {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    let sent = eviction.get("deleteOptions").cloned().unwrap_or(Value::Null);
    let options = DeleteOptions::said(&sent, &call.query, call.write_options()?.dry_run)?;
    delete_object(&call.api, &call.target, &options, call.now).await?;
    Ok(json_response(201, status::success(201).to_string()))
}
