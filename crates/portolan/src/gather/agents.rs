//! Asking nodes' agents, through the API server: `/api/v1/nodes/NAME/proxy/portolan/v1/…`.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use kube::Client;
use portolan_model::Text;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why an agent gave no answer that is of use, in one line: its own words or the API server's where they have some.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Unanswered {
    /// HTTP status; `None`: no answer came.
    pub status: Option<u16>,
    /// What is wrong.
    pub why: String,
}

impl Unanswered {
    fn new(why: impl ToString) -> Self {
        Self { status: None, why: why.to_string() }
    }
}

/// `GET` of one agent's path below `/portolan/v1/`.
///
/// # Errors
/// It does not answer in time, or answers no.
pub async fn ask<T: DeserializeOwned>(
    client: &Client,
    node: &str,
    path: &str,
    within: Duration,
) -> Result<T, Unanswered> {
    let request = http::Request::get(url(node, path)).body(Vec::new()).map_err(Unanswered::new)?;
    answer(client, request, within).await
}

/// `POST` of a value to one agent's path below `/portolan/v1/`.
///
/// # Errors
/// As [`ask`].
pub async fn say<T: DeserializeOwned>(
    client: &Client,
    node: &str,
    path: &str,
    body: &impl Serialize,
    within: Duration,
) -> Result<T, Unanswered> {
    let body = serde_json::to_vec(body).map_err(Unanswered::new)?;
    let request = http::Request::post(url(node, path)).header("content-type", "application/json").body(body);
    answer(client, request.map_err(Unanswered::new)?, within).await
}

/// The same `GET` of all these nodes at once.
pub async fn ask_all<T: DeserializeOwned>(
    client: &Client,
    nodes: &[Text],
    path: &str,
    within: Duration,
) -> BTreeMap<Text, Result<T, Unanswered>> {
    let one = |node: &Text| {
        let node = node.clone();
        async move { (node.clone(), ask(client, &node, path, within).await) }
    };
    join_all(nodes.iter().map(one)).await.into_iter().collect()
}

fn url(node: &str, path: &str) -> String {
    format!("/api/v1/nodes/{node}/proxy/portolan/v1/{path}")
}

async fn answer<T: DeserializeOwned>(
    client: &Client,
    request: http::Request<Vec<u8>>,
    within: Duration,
) -> Result<T, Unanswered> {
    match tokio::time::timeout(within, client.request_text(request)).await {
        Ok(Ok(text)) => {
            serde_json::from_str(&text).map_err(|e| Unanswered::new(format!("the answer is not as expected: {e}")))
        }
        Ok(Err(kube::Error::Api(status))) => {
            let why = match status.message.trim() {
                "" if status.code == 404 => "it knows no such path; is its agent of another version?".to_owned(),
                "" => format!("HTTP status {}", status.code),
                message => message.to_owned(),
            };
            Err(Unanswered { status: Some(status.code), why })
        }
        Ok(Err(error)) => Err(Unanswered::new(chain(&error))),
        Err(_) => Err(Unanswered::new(format!("no answer within {} s", within.as_secs_f32()))),
    }
}

/// An error with what is below it: a client's "client error (Connect)" says nothing by itself.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        below = cause.source();
    }
    text
}
