//! Asking nodes' agents, through the API server: `/api/v1/nodes/NAME/proxy/portolan/v1/…`.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use kube::Client;
use portolan_model::Text;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// `GET` of one agent's path below `/portolan/v1/`.
///
/// # Errors
/// Why there is no answer, in one line: the API server's own words where it has some.
pub async fn ask<T: DeserializeOwned>(client: &Client, node: &str, path: &str, within: Duration) -> Result<T, String> {
    let request = http::Request::get(url(node, path)).body(Vec::new()).map_err(|e| e.to_string())?;
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
) -> Result<T, String> {
    let body = serde_json::to_vec(body).map_err(|e| e.to_string())?;
    let request = http::Request::post(url(node, path)).header("content-type", "application/json").body(body);
    answer(client, request.map_err(|e| e.to_string())?, within).await
}

/// The same `GET` of all these nodes at once.
pub async fn ask_all<T: DeserializeOwned>(
    client: &Client,
    nodes: &[Text],
    path: &str,
    within: Duration,
) -> BTreeMap<Text, Result<T, String>> {
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
) -> Result<T, String> {
    match tokio::time::timeout(within, client.request_text(request)).await {
        Ok(Ok(text)) => serde_json::from_str(&text).map_err(|e| format!("the answer is not as expected: {e}")),
        Ok(Err(kube::Error::Api(status))) => Err(status.message.trim().to_owned()),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("no answer within {} s", within.as_secs_f32())),
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
