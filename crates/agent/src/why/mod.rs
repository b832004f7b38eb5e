//! Why: what is in place on this node for an object, since when, and what led to it; and whose a rule, route or record is.
//!
//! ```text
//!  GET /portolan/v1/why?object=Service/default/web&rule=nat KUBE-SEP-…&route=10.244.1.0/26&record=web.default.svc…
//!      ──► dns: records ──► core, between two writes: plan, routes, history ──► [NodeWhy], one for each question
//! ```
//!
//! Read from what the agent planned and remembers, not from the kernel: what the kernel refused is said to be so.

mod answer;
mod objects;
mod question;
mod records;
mod rules;

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use portolan_story::why::NodeWhy;

use crate::api::NodeApi;
use crate::history;
use answer::Asker;
use question::Question;

/// Questions of one request: more than a person has, fewer than a request line holds.
const MOST_QUESTIONS: usize = 512;

/// Paths for the API server's certificate only.
pub(crate) fn routes() -> Router<Arc<NodeApi>> {
    Router::new().route("/portolan/v1/why", get(answer))
}

type Refused = (StatusCode, String);

/// `GET /portolan/v1/why`.
async fn answer(
    State(api): State<Arc<NodeApi>>,
    Query(asked): Query<Vec<(String, String)>>,
) -> Result<Json<Vec<NodeWhy>>, Refused> {
    let questions: Result<Vec<Question>, String> =
        asked.iter().map(|(what, value)| Question::parse(what, value)).collect();
    let questions = questions.map_err(|why| (StatusCode::BAD_REQUEST, format!("{why}\n")))?;
    if questions.is_empty() || questions.len() > MOST_QUESTIONS {
        let why = format!("ask 1 to {MOST_QUESTIONS} questions: object=, rule=, route= or record=\n");
        return Err((StatusCode::BAD_REQUEST, why));
    }
    // A task that has ended tells no records; the rest is answered all the same.
    let records = api.dns.records().await;
    let backend = api.fixed.backend();
    let answers = api.core.ask(move |view| {
        let now_us = history::micros(SystemTime::now());
        let asker = Asker { view, records: records.as_ref(), backend, now_us };
        questions.iter().map(|question| asker.answer(question)).collect()
    });
    let ended = (StatusCode::SERVICE_UNAVAILABLE, "the node's core has ended\n".to_owned());
    Ok(Json(answers.await.ok_or(ended)?))
}

/// The answer to one question, but for records.
#[cfg(test)]
pub(crate) fn asked(view: &crate::core::View<'_>, what: &str, value: &str) -> NodeWhy {
    let question = Question::parse(what, value).expect("a question");
    let backend = portolan_story::evidence::Backend::Iptables;
    Asker { view, records: None, backend, now_us: history::micros(SystemTime::now()) }.answer(&question)
}
