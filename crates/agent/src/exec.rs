//! `kubectl exec` and `kubectl attach` over a WebSocket: the remote command protocol, v5.channel.k8s.io.
//!
//! ```text
//!  frame = channel byte + data      0 stdin ►   1 ◄ stdout   2 ◄ stderr   3 ◄ status   4 resize ►   255 close(channel) ►
//! ```
//!
//! After the command has ended its Status goes out on channel 3, then a close frame with code 1000, and the client's own
//! close is waited for: without it kubectl takes the end for a failure.
//! Spec: KEP-4006 (v5 adds the close of one channel to v4).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use portolan_pods::{ExecError, ExecSession};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinHandle};
use tracing::debug;

/// Subprotocols in the order we like them.
pub(crate) const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
/// How long the client may take to answer our ping.
const PONG_PATIENCE: Duration = Duration::from_secs(2);
/// kubectl may answer a moment before it has made the streams that output goes to.
const SETTLING: Duration = Duration::from_millis(10);
/// How long the client may take to answer our close.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);
const CHUNK_BYTES: usize = 16 * 1024;

/// Joins a running command, or a container, and its client until the one ends or the other goes.
pub(crate) async fn serve(socket: WebSocket, mut session: ExecSession) {
    let (sink, mut incoming) = socket.split();
    let (frames, outgoing) = mpsc::channel::<Message>(16);
    let reads = Arc::<Notify>::default();
    let writer = tokio::spawn(write_frames(sink, outgoing, reads.clone()));
    let stdout = std::mem::replace(&mut session.stdout, Box::new(tokio::io::empty()));
    let outputs = [(STDOUT, Some(stdout)), (STDERR, session.stderr.take())];
    let outputs = outputs.map(|(channel, from)| tokio::spawn(pump(channel, from, frames.clone())));
    let aborts: Vec<_> = outputs.iter().map(JoinHandle::abort_handle).collect();
    let mut input = Input::new(session.stdin.take(), session.resizer(), reads.clone());
    let ended = async {
        let outcome = session.wait().await;
        // What was written last must be out before the status.
        futures::future::join_all(outputs).await;
        outcome
    };
    let outcome = {
        let mut ended = std::pin::pin!(ended);
        loop {
            tokio::select! {
                outcome = &mut ended => break Some(outcome),
                heard = input.hear(&mut incoming) => if heard == Heard::End { break None },
            }
        }
    };
    input.close();
    if let Some(outcome) = outcome {
        finish(outcome, &frames, &mut incoming, &reads).await;
    }
    // Of a client that went nothing of the command's is kept open: its terminal hangs up.
    aborts.iter().for_each(AbortHandle::abort);
    writer.abort();
}

#[derive(PartialEq, Eq)]
enum Heard {
    Something,
    /// The client closed, or broke, the connection.
    End,
}

/// What goes from the client to the command.
struct Input<R> {
    /// To the task that writes; `None`: closed, or not asked for.
    stdin: Option<mpsc::Sender<Bytes>>,
    task: JoinHandle<()>,
    resize: R,
    /// Told that the client reads.
    reads: Arc<Notify>,
}

impl<R: Fn(u16, u16)> Input<R> {
    fn new(stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>, resize: R, reads: Arc<Notify>) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        let is_wanted = stdin.is_some();
        let task = tokio::spawn(feed(stdin, receiver));
        Self { stdin: is_wanted.then_some(sender), task, resize, reads }
    }

    /// Takes one message, when there is room for what it may hold: a client that sends more than the command reads waits.
    /// Nothing is lost when this is dropped half way.
    async fn hear(&mut self, incoming: &mut SplitStream<WebSocket>) -> Heard {
        let room = match self.stdin.clone() {
            Some(stdin) => stdin.reserve_owned().await.ok(),
            None => None,
        };
        match incoming.next().await {
            Some(Ok(Message::Binary(frame))) => match parse(&frame) {
                Some(FromClient::Stdin(data)) => drop(room.map(|room| room.send(frame.slice_ref(data)))),
                Some(FromClient::CloseStdin) => self.stdin = None,
                Some(FromClient::Resize { columns, rows }) => (self.resize)(columns, rows),
                None => {}
            },
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Heard::End,
            Some(Ok(Message::Pong(_))) => self.reads.notify_one(),
            Some(Ok(_)) => {}
        }
        Heard::Something
    }

    /// The command's input is of no use any more.
    fn close(&mut self) {
        self.stdin = None;
        self.task.abort();
    }
}

/// Writes input until it ends or nobody reads it; at a terminal its end is what a user types for it.
async fn feed(stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>, mut from_client: mpsc::Receiver<Bytes>) {
    let Some(mut stdin) = stdin else { return };
    while let Some(bytes) = from_client.recv().await {
        if let Err(error) = stdin.write_all(&bytes).await {
            return debug!(%error, "the command reads no more");
        }
    }
    let _ = stdin.shutdown().await;
}

/// Tells the client why its command did not start. A refusal before the upgrade would make kubectl try SPDY, and show
/// that failure in place of this one.
pub(crate) async fn refuse(socket: WebSocket, error: ExecError) {
    let (sink, mut incoming) = socket.split();
    let (frames, outgoing) = mpsc::channel::<Message>(2);
    let reads = Arc::<Notify>::default();
    let writer = tokio::spawn(write_frames(sink, outgoing, reads.clone()));
    finish(Err(error), &frames, &mut incoming, &reads).await;
    writer.abort();
}

async fn finish(
    outcome: Result<i32, ExecError>,
    frames: &mpsc::Sender<Message>,
    incoming: &mut SplitStream<WebSocket>,
    reads: &Notify,
) {
    let status = framed(STATUS, status(outcome).to_string().as_bytes());
    let close = Message::Close(Some(CloseFrame { code: close_code::NORMAL, reason: "".into() }));
    let told = async {
        // A client that has gone needs no status.
        let _ = frames.send(status).await;
        let _ = frames.send(close).await;
    };
    let mut answered = std::pin::pin!(async {
        while let Some(Ok(message)) = incoming.next().await {
            if matches!(message, Message::Pong(_)) {
                reads.notify_one();
            }
        }
    });
    tokio::select! {
        () = told => {}
        () = &mut answered => return,
    }
    let _ = tokio::time::timeout(CLOSE_PATIENCE, answered).await;
}

/// Sends nothing but a ping until the client has answered it: kubectl drops what comes before it has made its streams,
/// and a command may have said all by then.
async fn write_frames(
    mut sink: SplitSink<WebSocket, Message>,
    mut outgoing: mpsc::Receiver<Message>,
    reads: Arc<Notify>,
) {
    if sink.send(Message::Ping(Bytes::new())).await.is_err() {
        return;
    }
    // A client that answers no ping gets its frames all the same, later.
    let _ = tokio::time::timeout(PONG_PATIENCE, reads.notified()).await;
    tokio::time::sleep(SETTLING).await;
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

/// What a frame from the client asks for.
#[derive(Debug, PartialEq, Eq)]
enum FromClient<'a> {
    Stdin(&'a [u8]),
    CloseStdin,
    Resize { columns: u16, rows: u16 },
}

/// `None`: a channel that is not the client's, or a frame that makes no sense; such are passed over, as kubelet does.
fn parse(frame: &[u8]) -> Option<FromClient<'_>> {
    match frame.split_first()? {
        (&STDIN, data) => Some(FromClient::Stdin(data)),
        (&CLOSE, [STDIN]) => Some(FromClient::CloseStdin),
        (&RESIZE, data) => size(data).map(|(columns, rows)| FromClient::Resize { columns, rows }),
        _ => None,
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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_status_carries_the_exit_code_where_kubectl_looks_for_it() {
        assert_eq!(status(Ok(0))["status"], "Success");
        let failed = status(Ok(7));
        assert_eq!(failed["reason"], "NonZeroExitCode");
        assert_eq!(failed["details"]["causes"][0], json!({"reason": "ExitCode", "message": "7"}));
    }

    proptest! {
        #[test]
        fn any_frame_is_understood_or_passed_over(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
            let understood = parse(&frame);
            if let Some(FromClient::Stdin(data)) = understood {
                prop_assert_eq!(data, &frame[1..]);
            }
        }
    }

    #[test]
    fn frames_of_the_clients_channels_are_understood_and_others_are_passed_over() {
        assert_eq!(parse(b"\0ls\n"), Some(FromClient::Stdin(b"ls\n")));
        assert_eq!(parse(b"\xff\0"), Some(FromClient::CloseStdin));
        let resize = parse(b"\x04{\"Width\":80,\"Height\":24}");
        assert_eq!(resize, Some(FromClient::Resize { columns: 80, rows: 24 }));
        for other in [&b""[..], b"\x01x", b"\x02x", b"\x03x", b"\x04x", b"\xff\x01", b"\xff", b"\x09"] {
            assert_eq!(parse(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_size_that_is_none_is_passed_over() {
        assert_eq!(size(br#"{"Width":80,"Height":24}"#), Some((80, 24)));
        for bad in [&b"{}"[..], b"nonsense", br#"{"Width":80,"Height":70000}"#] {
            assert_eq!(size(bad), None);
        }
    }
}
