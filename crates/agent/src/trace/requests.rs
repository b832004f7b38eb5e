//! Requests about traces, as the node's API takes them.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use bytes::Bytes;
use portolan_story::evidence::{NodeEvidence, Seen, Watch, Watching};
use serde::Deserialize;

use super::evidence;
use super::watch::WatchError;
use crate::api::NodeApi;

/// How long an answer to `GET …/trace/ID` waits for news, in milliseconds.
const NEWS_WITHIN_MS: u64 = 5_000;
const LONGEST_NEWS_MS: u64 = 60_000;

type Refusal = (StatusCode, String);

/// `POST /portolan/v1/trace`: listens, and answers once it does. A body of any media type is read as JSON: `kubectl create
/// --raw` names none.
pub(crate) async fn begin(State(api): State<Arc<NodeApi>>, body: Bytes) -> Result<Json<Watching>, Refusal> {
    let bad = |error| (StatusCode::BAD_REQUEST, format!("the body is no Watch: {error}\n"));
    let watch: Watch = serde_json::from_slice(&body).map_err(bad)?;
    let watches = api.traces.clone();
    let begun = tokio::task::spawn_blocking(move || watches.begin(watch)).await;
    match begun {
        Ok(Ok(id)) => Ok(Json(Watching { id })),
        Ok(Err(error)) => Err((status_of(&error), format!("{error}\n"))),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, format!("the trace did not begin: {error}\n"))),
    }
}

/// `POST /portolan/v1/trace/ID/end`: stops listening and tells what was seen.
pub(crate) async fn end(
    State(api): State<Arc<NodeApi>>,
    Path(id): Path<String>,
) -> Result<Json<NodeEvidence>, Refusal> {
    let recorded = api.traces.end(&id).await.ok_or_else(|| gone(&id))?;
    Ok(Json(evidence::tell(&api.core, &api.fixed, recorded).await))
}

/// Query of `GET …/trace/ID`.
#[derive(Debug, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct SeenQuery {
    /// Packets that the caller knows of: the answer waits a while for one more.
    known: usize,
    /// For so long, in milliseconds; for a minute at most.
    within_ms: u64,
}

impl Default for SeenQuery {
    fn default() -> Self {
        Self { known: 0, within_ms: NEWS_WITHIN_MS }
    }
}

/// `GET /portolan/v1/trace/ID?known=N&withinMs=M`: the packets that were seen, as soon as they are more than N.
pub(crate) async fn seen(
    State(api): State<Arc<NodeApi>>,
    Path(id): Path<String>,
    Query(query): Query<SeenQuery>,
) -> Result<Json<Seen>, Refusal> {
    let patience = Duration::from_millis(query.within_ms.min(LONGEST_NEWS_MS));
    api.traces.seen(&id, query.known, patience).await.map(Json).ok_or_else(|| gone(&id))
}

fn gone(id: &str) -> Refusal {
    let message = format!("there is no trace {id} on this node: it has ended, by itself at its time, or never began\n");
    (StatusCode::NOT_FOUND, message)
}

fn status_of(error: &WatchError) -> StatusCode {
    match error {
        WatchError::Bad(_) => StatusCode::BAD_REQUEST,
        WatchError::TooMany => StatusCode::TOO_MANY_REQUESTS,
        WatchError::Kernel(_) => StatusCode::NOT_IMPLEMENTED,
        WatchError::Thread(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}
