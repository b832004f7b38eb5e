//! Streams into pods, as kubelet has them: exec, attach and port-forward.
//!
//! ```text
//!  GET  /exec/NS/POD/CONTAINER?command=…   WebSocket, v5.channel.k8s.io
//!  GET  /attach/NS/POD/CONTAINER?stdin=…   WebSocket, v5.channel.k8s.io
//!  GET  /portForward/NS/POD                WebSocket, SPDY/3.1+portforward.k8s.io
//!  POST /portForward/NS/POD                bare SPDY/3.1, as kubectl before 1.31 has it
//! ```
//!
//! A refusal of exec and attach comes after the upgrade, by the protocol itself: one before it would make kubectl try SPDY,
//! and show that failure in place of this one. Port-forward has no place for one and is refused before.

use std::pin::pin;
use std::sync::Arc;

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::header::{CONNECTION, HeaderName, UPGRADE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use portolan_pods::{ExecError, ExecRequest, ExecSession};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tracing::debug;

use crate::api::NodeApi;
use crate::portforward::{self, Pod};
use crate::{exec, spdy};

/// The longest message and frame taken; kubectl's have 32 KiB.
const MAX_MESSAGE_BYTES: usize = 4 << 20;
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

type Container = Path<(String, String, String)>;

pub(crate) fn routes() -> Router<Arc<NodeApi>> {
    Router::new()
        .route("/exec/{namespace}/{pod}/{container}", get(run).post(too_old))
        .route("/attach/{namespace}/{pod}/{container}", get(attach).post(too_old))
        .route("/portForward/{namespace}/{pod}", get(forward_tunnelled).post(forward_bare))
}

async fn run(
    State(api): State<Arc<NodeApi>>,
    Path((namespace, pod, container)): Container,
    RawQuery(query): RawQuery,
    upgrade: WebSocketUpgrade,
) -> Response {
    let request = exec_request(query.as_deref().unwrap_or_default());
    serve(upgrade, api.kubelet.exec(&namespace, &pod, &container, request).await)
}

async fn attach(
    State(api): State<Arc<NodeApi>>,
    Path((namespace, pod, container)): Container,
    RawQuery(query): RawQuery,
    upgrade: WebSocketUpgrade,
) -> Response {
    let with_stdin = exec_request(query.as_deref().unwrap_or_default()).stdin;
    serve(upgrade, api.kubelet.attach(&namespace, &pod, &container, with_stdin).await)
}

fn serve(upgrade: WebSocketUpgrade, session: Result<ExecSession, ExecError>) -> Response {
    let upgrade = upgrade.protocols(exec::PROTOCOLS);
    if upgrade.selected_protocol().is_none() {
        return no_protocol(&exec::PROTOCOLS);
    }
    let upgrade = bounded(upgrade);
    match session {
        Ok(session) => upgrade.on_upgrade(move |socket| exec::serve(socket, session)),
        Err(error) => upgrade.on_upgrade(move |socket| exec::refuse(socket, error)),
    }
}

fn bounded(upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    upgrade.max_message_size(MAX_MESSAGE_BYTES).max_frame_size(MAX_MESSAGE_BYTES)
}

fn no_protocol(known: &[&str]) -> Response {
    let message = format!("none of the subprotocols asked for is spoken here; ask for {}\n", known.join(" or "));
    (StatusCode::BAD_REQUEST, message).into_response()
}

/// Old clients begin with SPDY, by POST.
async fn too_old() -> Response {
    let message = "exec and attach are served over WebSocket only; use kubectl 1.31 or newer\n";
    (StatusCode::UPGRADE_REQUIRED, message).into_response()
}

async fn forward_tunnelled(
    State(api): State<Arc<NodeApi>>,
    Path((namespace, name)): Path<(String, String)>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let upgrade = upgrade.protocols([portforward::TUNNEL_PROTOCOL]);
    if upgrade.selected_protocol().is_none() {
        return no_protocol(&[portforward::TUNNEL_PROTOCOL]);
    }
    match pod(&api, &namespace, &name) {
        Ok(pod) => bounded(upgrade).on_upgrade(move |socket| tunnel(socket, pod)),
        Err(refusal) => refusal,
    }
}

#[expect(clippy::result_large_err, reason = "made once per user")]
fn pod(api: &NodeApi, namespace: &str, name: &str) -> Result<Pod, Response> {
    match api.kubelet.netns(namespace, name) {
        Ok(netns) => Ok(Pod { name: format!("{namespace}/{name}"), netns }),
        Err(error) => Err((StatusCode::BAD_REQUEST, format!("{error}\n")).into_response()),
    }
}

/// SPDY's bytes are those of the binary messages one after the other; where messages end means nothing.
async fn tunnel(socket: WebSocket, pod: Pod) {
    let (mut sink, stream) = socket.split();
    let (outgoing, mut frames) = mpsc::channel::<Bytes>(16);
    let writer = tokio::spawn(async move {
        while let Some(frame) = frames.recv().await {
            if sink.send(Message::Binary(frame)).await.is_err() {
                return;
            }
        }
    });
    let binary = stream.filter_map(|message| {
        std::future::ready(match message {
            Ok(Message::Binary(bytes)) => Some(bytes),
            _ => None,
        })
    });
    portforward::serve(pin!(binary), outgoing, pod).await;
    writer.abort();
}

async fn forward_bare(
    State(api): State<Arc<NodeApi>>,
    Path((namespace, name)): Path<(String, String)>,
    mut request: Request,
) -> Response {
    let pod = match pod(&api, &namespace, &name) {
        Ok(pod) => pod,
        Err(refusal) => return refusal,
    };
    let asked = |headers: &HeaderMap, name: &HeaderName, value: &str| {
        let mut values = headers.get_all(name).iter().filter_map(|own| own.to_str().ok());
        values.any(|own| own.split(',').any(|part| part.trim().eq_ignore_ascii_case(value)))
    };
    let headers = request.headers();
    if !asked(headers, &UPGRADE, spdy::NAME) || !asked(headers, &STREAM_PROTOCOL, portforward::PROTOCOL) {
        let message = "port-forward wants an upgrade to WebSocket or SPDY/3.1, and the protocol portforward.k8s.io\n";
        return (StatusCode::BAD_REQUEST, message).into_response();
    }
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(bare(upgraded, pod));
    let headers = [(UPGRADE, spdy::NAME), (CONNECTION, "Upgrade"), (STREAM_PROTOCOL, portforward::PROTOCOL)];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

async fn bare(upgraded: OnUpgrade, pod: Pod) {
    let upgraded = match upgraded.await {
        Ok(upgraded) => upgraded,
        Err(error) => return debug!(%error, "an upgrade to SPDY did not complete"),
    };
    let (reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
    let (outgoing, mut frames) = mpsc::channel::<Bytes>(16);
    let writing = tokio::spawn(async move {
        while let Some(frame) = frames.recv().await {
            if writer.write_all(&frame).await.is_err() || writer.flush().await.is_err() {
                return;
            }
        }
    });
    let incoming = futures::stream::unfold(reader, |mut reader| async move {
        let mut bytes = BytesMut::with_capacity(16 * 1024);
        match reader.read_buf(&mut bytes).await {
            Ok(1..) => Some((bytes.freeze(), reader)),
            Ok(_) | Err(_) => None,
        }
    });
    portforward::serve(pin!(incoming), outgoing, pod).await;
    writing.abort();
}

/// `command=a&command=b&stdin=true&tty=true`; `command` repeats, in order.
fn exec_request(query: &str) -> ExecRequest {
    let mut request = ExecRequest::default();
    for (name, value) in form_pairs(query) {
        let yes = matches!(value.as_str(), "true" | "1");
        match name.as_str() {
            "command" => request.command.push(value),
            "stdin" | "input" => request.stdin = yes,
            "tty" => request.tty = yes,
            _ => {}
        }
    }
    request
}

/// Splits a query and undoes its percent-encoding (application/x-www-form-urlencoded).
fn form_pairs(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
        .collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail
            .get(..2)
            .and_then(|two| std::str::from_utf8(two).ok())
            .and_then(|two| u8::from_str_radix(two, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = tail;
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
#[path = "remote_tests.rs"]
mod wire_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exec_query_keeps_the_commands_words_in_order_and_whole() {
        let request =
            exec_request("command=sh&command=-c&command=echo+a%26b%3D%C3%A9&stdin=true&stdout=true&tty=false");
        assert_eq!(request.command, ["sh", "-c", "echo a&b=é"]);
        assert!(request.stdin && !request.tty);
    }

    #[test]
    fn a_broken_escape_is_taken_as_it_stands() {
        assert_eq!(decoded("100%"), "100%");
        assert_eq!(decoded("%zz%4"), "%zz%4");
    }
}
