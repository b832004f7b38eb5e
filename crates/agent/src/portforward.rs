//! `kubectl port-forward`: connections into a pod's own network namespace, many over one connection to the user.
//!
//! ```text
//!  kubectl ══ SPDY/3.1 frames (in WebSocket messages, or bare) ══ serve ─┬─ 127.0.0.1:80 in the pod
//!     per connection: an error stream (port, requestID)                  ├─ 127.0.0.1:80 in the pod
//!                     a data stream (same port, same requestID)          └─ …
//! ```
//!
//! A connection that cannot be made is told of on its error stream; kubectl 1.23 and newer end then, older ones go on.
//! What a pod reads too slowly is kept up to [`KEPT_BYTES`] per user; beyond that all of this user's connections wait.
//! Spec: kubelet's portforward.k8s.io; KEP-4006 for SPDY within a WebSocket.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use portolan_kernel::netns;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::debug;

use crate::spdy::{self, Decoder, Encoder, Frame, Headers, Reset};

/// What SPDY within a WebSocket is asked for by.
pub(crate) const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
/// What is spoken on the streams.
pub(crate) const PROTOCOL: &str = "portforward.k8s.io";

/// Bytes of one user that wait for pods to read them.
const KEPT_BYTES: usize = 4 << 20;
/// Connections of one user that are open or begun; more are refused one by one.
const MAX_CONNECTIONS: usize = 512;
const CHUNK_BYTES: usize = 16 * 1024;
/// Loopback answers at once, unless a listener's queue is full.
const CONNECT_PATIENCE: Duration = Duration::from_secs(20);

/// The pod that is forwarded to.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    /// `namespace/name`, for messages.
    pub(crate) name: String,
    /// `/proc/PID/ns/net` of its sandbox.
    pub(crate) netns: PathBuf,
}

/// Serves one user until they go or `incoming` ends. Dropping it closes every connection into the pod.
pub(crate) async fn serve(incoming: impl Stream<Item = Bytes> + Unpin, outgoing: mpsc::Sender<Bytes>, pod: Pod) {
    let mut session = Session {
        pod,
        outgoing,
        encoder: Encoder::default(),
        halves: HashMap::new(),
        open: HashMap::new(),
        tasks: JoinSet::new(),
        room: Arc::new(Semaphore::new(KEPT_BYTES)),
    };
    if let Err(end) = session.run(incoming).await {
        debug!(pod = session.pod.name, reason = %end, "a port-forward ended");
    }
}

/// Why a session does not go on.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the client went")]
    Gone,
    #[error("the client sent {0}")]
    Spdy(#[from] spdy::SpdyError),
}

struct Session {
    pod: Pod,
    outgoing: mpsc::Sender<Bytes>,
    encoder: Encoder,
    /// Requests of which one stream is there, by request id.
    halves: HashMap<String, Half>,
    /// Connections by the number of their data stream.
    open: HashMap<u32, Open>,
    tasks: JoinSet<u32>,
    room: Arc<Semaphore>,
}

/// The first stream of a request.
#[derive(Clone, Copy)]
enum Half {
    Error(u32),
    Data(u32),
}

/// The session's side of a connection.
struct Open {
    to_pod: mpsc::UnboundedSender<Piece>,
    /// Dropped when the client resets the stream.
    _alive: oneshot::Sender<()>,
}

/// Bytes for the pod, and their part of [`KEPT_BYTES`]; none: the client sends no more.
struct Piece(Option<(Bytes, OwnedSemaphorePermit)>);

impl Session {
    async fn run(&mut self, mut incoming: impl Stream<Item = Bytes> + Unpin) -> Result<(), End> {
        let mut decoder = Decoder::new();
        loop {
            tokio::select! {
                bytes = incoming.next() => {
                    decoder.feed(&bytes.ok_or(End::Gone)?);
                    while let Some(frame) = decoder.next()? {
                        self.take(frame).await?;
                    }
                }
                Some(Ok(stream)) = self.tasks.join_next() => drop(self.open.remove(&stream)),
            }
        }
    }

    async fn take(&mut self, frame: Frame) -> Result<(), End> {
        match frame {
            Frame::SynStream { stream, headers, .. } => match self.opened(stream, &headers) {
                Ok(()) => {
                    let reply = self.encoder.syn_reply(stream);
                    self.send(reply).await?;
                    self.begin(stream, &headers);
                    Ok(())
                }
                Err(status) => self.send(spdy::reset(stream, status)).await,
            },
            Frame::Data { stream, bytes, fin } => {
                self.pass_on(stream, bytes, fin).await;
                Ok(())
            }
            Frame::Reset { stream } => {
                self.open.remove(&stream);
                self.halves.retain(|_, half| !matches!(half, Half::Error(own) | Half::Data(own) if *own == stream));
                Ok(())
            }
            Frame::Ping { id } if id % 2 == 1 => self.send(spdy::pong(id)).await,
            Frame::Ping { .. } | Frame::GoAway | Frame::Other(_) => Ok(()),
        }
    }

    async fn send(&self, frame: Bytes) -> Result<(), End> {
        self.outgoing.send(frame).await.map_err(|_| End::Gone)
    }

    /// Whether a new stream is one that can be taken.
    fn opened(&self, stream: u32, headers: &Headers) -> Result<(), Reset> {
        let kind = headers.get("streamType").unwrap_or_default();
        if !matches!(kind, "error" | "data") || port(headers).is_none() || self.open.contains_key(&stream) {
            return Err(Reset::Protocol);
        }
        if self.halves.len() + self.open.len() >= MAX_CONNECTIONS {
            return Err(Reset::Refused);
        }
        Ok(())
    }

    /// Keeps the first stream of a request; with the second the connection begins.
    fn begin(&mut self, stream: u32, headers: &Headers) {
        let is_error = headers.get("streamType") == Some("error");
        let id = request_id(stream, is_error, headers);
        match (self.halves.remove(&id), is_error) {
            (Some(Half::Error(error)), false) => self.connect(error, stream, headers),
            (Some(Half::Data(data)), true) => self.connect(stream, data, headers),
            (_, true) => drop(self.halves.insert(id, Half::Error(stream))),
            (_, false) => drop(self.halves.insert(id, Half::Data(stream))),
        }
    }

    fn connect(&mut self, error: u32, data: u32, headers: &Headers) {
        let Some(port) = port(headers) else { return };
        let (to_pod, from_client) = mpsc::unbounded_channel();
        let (alive, client_gone) = oneshot::channel();
        self.open.insert(data, Open { to_pod, _alive: alive });
        let connection = Connection { error, data, outgoing: self.outgoing.clone() };
        let pod = self.pod.clone();
        self.tasks.spawn(async move {
            connection.run(pod, port, from_client, client_gone).await;
            data
        });
    }

    async fn pass_on(&mut self, stream: u32, bytes: Bytes, fin: bool) {
        let Some(open) = self.open.get(&stream) else { return };
        // A closed channel means that the connection is over, and what comes for it is of no use to anyone.
        if !bytes.is_empty() {
            let share = u32::try_from(bytes.len().min(KEPT_BYTES)).expect("far below 4 GiB");
            let room = self.room.clone().acquire_many_owned(share);
            tokio::select! {
                Ok(room) = room => drop(open.to_pod.send(Piece(Some((bytes, room))))),
                () = open.to_pod.closed() => {}
            }
        }
        if fin && let Some(open) = self.open.get(&stream) {
            let _ = open.to_pod.send(Piece(None));
        }
    }
}

/// The port's header, if it is a port.
fn port(headers: &Headers) -> Option<u16> {
    headers.get("port")?.parse().ok().filter(|port| *port != 0)
}

/// What names both streams of one request. Clients from before the header open the data stream right after the other.
fn request_id(stream: u32, is_error: bool, headers: &Headers) -> String {
    match headers.get("requestID") {
        Some(id) => id.to_owned(),
        None if is_error => format!("stream {stream}"),
        None => format!("stream {}", stream.saturating_sub(2)),
    }
}

/// One connection into the pod and its two streams.
struct Connection {
    error: u32,
    data: u32,
    outgoing: mpsc::Sender<Bytes>,
}

impl Connection {
    /// Until the pod closes it or the client resets it. Both streams are ended then.
    async fn run(
        self,
        pod: Pod,
        port: u16,
        from_client: mpsc::UnboundedReceiver<Piece>,
        client_gone: oneshot::Receiver<()>,
    ) {
        let forwarded = async {
            match dial(pod.netns, port).await {
                Ok(socket) => self.join(socket, from_client).await,
                Err(reason) => {
                    let text = format!("error forwarding port {port} to pod {}: {reason}", pod.name);
                    self.send(spdy::data(self.error, text.as_bytes(), false)).await;
                }
            }
        };
        tokio::select! {
            () = forwarded => {}
            _ = client_gone => {}
        }
        self.send(spdy::data(self.data, b"", true)).await;
        self.send(spdy::data(self.error, b"", true)).await;
    }

    /// A client that is gone is noticed by the session.
    async fn send(&self, frame: Bytes) {
        let _ = self.outgoing.send(frame).await;
    }

    /// The client may be done with sending long before the pod is.
    async fn join(&self, socket: TcpStream, from_client: mpsc::UnboundedReceiver<Piece>) {
        let _ = socket.set_nodelay(true);
        let (mut reader, writer) = socket.into_split();
        let from_pod = async {
            let mut buffer = vec![0; CHUNK_BYTES];
            // A connection that the pod resets ends like one that it closes.
            while let Ok(length @ 1..) = reader.read(&mut buffer).await {
                self.send(spdy::data(self.data, &buffer[..length], false)).await;
            }
        };
        let to_pod = async {
            write(writer, from_client).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = from_pod => {}
            () = to_pod => {}
        }
    }
}

async fn write(mut writer: tokio::net::tcp::OwnedWriteHalf, mut from_client: mpsc::UnboundedReceiver<Piece>) {
    while let Some(Piece(Some((bytes, room)))) = from_client.recv().await {
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
        drop(room);
    }
    let _ = writer.shutdown().await;
}

/// Connects to the pod's own loopback: 127.0.0.1, and ::1 if nothing listens there. The sockets are made in the pod's
/// network namespace and stay of it wherever they are used.
async fn dial(netns: PathBuf, port: u16) -> Result<TcpStream, String> {
    let made = tokio::task::spawn_blocking(move || {
        let namespace = netns::open(&netns)?;
        netns::run_in(namespace.as_fd(), || (TcpSocket::new_v4(), TcpSocket::new_v6()))
    });
    let made = made.await.expect("opening sockets does not panic");
    let (v4, v6) = made.map_err(|error| format!("{error}; the pod may just have ended"))?;
    let refused = match connect(v4, Ipv4Addr::LOCALHOST.into(), port).await {
        Ok(stream) => return Ok(stream),
        Err(reason) => reason,
    };
    connect(v6, Ipv6Addr::LOCALHOST.into(), port).await.map_err(|reason| format!("{refused}; {reason}"))
}

async fn connect(socket: std::io::Result<TcpSocket>, host: IpAddr, port: u16) -> Result<TcpStream, String> {
    let target = SocketAddr::new(host, port);
    let failed = |error: std::io::Error| format!("cannot connect to {target} in the pod: {error}");
    let connecting = socket.map_err(failed)?.connect(target);
    match tokio::time::timeout(CONNECT_PATIENCE, connecting).await {
        Ok(result) => result.map_err(failed),
        Err(_) => Err(format!("cannot connect to {target} in the pod: no answer")),
    }
}

#[cfg(test)]
#[path = "portforward_tests.rs"]
mod tests;
