//! `kubectl exec` over a WebSocket: the remote command protocol, v5.channel.k8s.io.
//!
//! ```text
//!  frame = channel byte + data      0 stdin ►   1 ◄ stdout   2 ◄ stderr   3 ◄ status   4 resize ►   255 close(channel) ►
//! ```
//!
//! After the command has ended its Status goes out on channel 3, then a close frame with code 1000, and the client's own
//! close is waited for: without it kubectl takes the end for a failure.
//! Spec: KEP-4006 (v5 adds the close of one channel to v4).

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use portolan_pods::{ExecError, ExecSession};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tracing::debug;

/// Subprotocols in the order we like them.
pub(crate) const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
/// How long the client may take to answer our close.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);
const CHUNK_BYTES: usize = 16 * 1024;

/// Joins a running command and its client until the command ends or the client goes.
pub(crate) async fn serve(socket: WebSocket, mut session: ExecSession) {
    let (sink, mut incoming) = socket.split();
    let (frames, outgoing) = mpsc::channel::<Message>(16);
    let writer = tokio::spawn(write_frames(sink, outgoing));
    let stdout = tokio::spawn(pump(
        STDOUT,
        Some(std::mem::replace(&mut session.stdout, Box::new(tokio::io::empty()))),
        frames.clone(),
    ));
    let stderr = tokio::spawn(pump(STDERR, session.stderr.take(), frames.clone()));
    let resize = session.resizer();
    let mut stdin = session.stdin.take();
    let ended = session.wait();
    tokio::pin!(ended);
    let outcome = loop {
        tokio::select! {
            outcome = &mut ended => break Some(outcome),
            message = incoming.next() => match message {
                Some(Ok(Message::Binary(frame))) => take_frame(&frame, &mut stdin, &resize).await,
                Some(Ok(Message::Close(_)) | Err(_)) | None => break None,
                Some(Ok(_)) => {}
            },
        }
    };
    if let Some(outcome) = outcome {
        // What the command wrote last must be out before its status.
        let _ = tokio::join!(stdout, stderr);
        finish(outcome, &frames, &mut incoming).await;
    }
    drop(frames);
    writer.abort();
}

/// Tells the client why its command did not start. A refusal before the upgrade would make kubectl try SPDY, and show
/// that failure in place of this one.
pub(crate) async fn refuse(socket: WebSocket, error: ExecError) {
    let (sink, mut incoming) = socket.split();
    let (frames, outgoing) = mpsc::channel::<Message>(2);
    let writer = tokio::spawn(write_frames(sink, outgoing));
    finish(Err(error), &frames, &mut incoming).await;
    writer.abort();
}

async fn finish(
    outcome: Result<i32, ExecError>,
    frames: &mpsc::Sender<Message>,
    incoming: &mut SplitStream<WebSocket>,
) {
    let status = framed(STATUS, status(outcome).to_string().as_bytes());
    let close = Message::Close(Some(CloseFrame { code: close_code::NORMAL, reason: "".into() }));
    // A client that has gone needs no status.
    let _ = frames.send(status).await;
    let _ = frames.send(close).await;
    let answered = async { while let Some(Ok(_)) = incoming.next().await {} };
    let _ = tokio::time::timeout(CLOSE_PATIENCE, answered).await;
}

async fn write_frames(mut sink: SplitSink<WebSocket, Message>, mut outgoing: mpsc::Receiver<Message>) {
    while let Some(message) = outgoing.recv().await {
        if sink.send(message).await.is_err() {
            return;
        }
    }
}

fn framed(channel: u8, data: &[u8]) -> Message {
    let mut frame = Vec::with_capacity(data.len() + 1);
    frame.push(channel);
    frame.extend_from_slice(data);
    Message::Binary(Bytes::from(frame))
}

async fn pump(channel: u8, from: Option<Box<dyn AsyncRead + Send + Unpin>>, frames: mpsc::Sender<Message>) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if frames.send(framed(channel, &buffer[..length])).await.is_err() {
            return;
        }
    }
}

async fn take_frame(
    frame: &[u8],
    stdin: &mut Option<Box<dyn AsyncWrite + Send + Unpin>>,
    resize: &(impl Fn(u16, u16) + Send),
) {
    match frame.split_first() {
        Some((&STDIN, data)) => {
            if let Some(writer) = stdin
                && let Err(error) = writer.write_all(data).await
            {
                debug!(%error, "the command reads no more");
                *stdin = None;
            }
        }
        Some((&CLOSE, [STDIN])) => *stdin = None,
        Some((&RESIZE, data)) => {
            if let Some((columns, rows)) = size(data) {
                resize(columns, rows);
            }
        }
        _ => {}
    }
}

/// `{"Width":80,"Height":24}`.
fn size(data: &[u8]) -> Option<(u16, u16)> {
    let value: Value = serde_json::from_slice(data).ok()?;
    let number = |name: &str| value[name].as_u64().and_then(|n| u16::try_from(n).ok());
    Some((number("Width")?, number("Height")?))
}

/// The Status that ends a session: what kubectl makes its exit code of.
fn status(outcome: Result<i32, ExecError>) -> Value {
    match outcome {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(error) => json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "message": error.to_string(), "code": 500,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_carries_the_exit_code_where_kubectl_looks_for_it() {
        assert_eq!(status(Ok(0))["status"], "Success");
        let failed = status(Ok(7));
        assert_eq!(failed["reason"], "NonZeroExitCode");
        assert_eq!(failed["details"]["causes"][0], json!({"reason": "ExitCode", "message": "7"}));
    }

    #[test]
    fn a_size_that_is_none_is_passed_over() {
        assert_eq!(size(br#"{"Width":80,"Height":24}"#), Some((80, 24)));
        for bad in [&b"{}"[..], b"nonsense", br#"{"Width":80,"Height":70000}"#] {
            assert_eq!(size(bad), None);
        }
    }
}
