//! DNS over HTTPS (RFC 8484): HTTP/2, POST, one connection per server and a stream for each query.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portolan_dns::corefile::config::Target;
use portolan_dns::forward::step::{Peer, Sending};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::task::AbortHandle;

use super::reuse::Reuse;
use super::tls::{Configs, Connector};
use super::{Heard, tell, tell_failure};

/// The media type of a message (RFC 8484 §6).
const MESSAGE: &str = "application/dns-message";
/// A DNS message is never longer.
const LARGEST: usize = 65_535;
/// For connecting and shaking hands.
const CONNECT: Duration = Duration::from_secs(4);

type Sender = SendRequest<Full<Bytes>>;

/// The connection to one server.
#[derive(Clone)]
pub(super) struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    peer: Arc<Peer>,
    addr: std::net::SocketAddr,
    uri: http::Uri,
    connector: Connector,
    heard: mpsc::Sender<Heard>,
    /// The connection, if there is one; held while connecting, so that all wait for the same.
    sender: Mutex<Option<Sender>>,
    load: Arc<AtomicUsize>,
    reuse: Arc<Reuse>,
}

impl Client {
    pub(super) fn new(
        peer: &Arc<Peer>,
        tls: &mut Configs,
        heard: mpsc::Sender<Heard>,
        reuse: Arc<Reuse>,
    ) -> Result<Self, String> {
        let Target::Https { addr, path } = &peer.target else { return Err("is not asked by HTTPS".into()) };
        let connector = tls.connector(&peer.tls, *addr, Some(b"h2")).map_err(|error| error.to_string())?;
        let host = peer.tls.server_name.as_deref().map_or(addr.to_string(), |name| format!("{name}:{}", addr.port()));
        let uri = format!("https://{host}{path}").parse().map_err(|error| format!("path {path:?}: {error}"))?;
        let shared = Shared {
            peer: peer.clone(),
            addr: *addr,
            uri,
            connector,
            heard,
            sender: Mutex::new(None),
            load: Arc::default(),
            reuse,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    pub(super) fn is_idle(&self) -> bool {
        self.shared.load.load(Ordering::Relaxed) == 0
    }

    /// Asks; aborting the task takes back its stream alone.
    pub(super) fn send(&self, sending: Sending) -> AbortHandle {
        let shared = self.shared.clone();
        let busy = Busy::new(&shared.load);
        let task = tokio::spawn(async move {
            let _busy = busy;
            match shared.ask(&sending.bytes).await {
                Ok(bytes) => tell(&shared.heard, sending.exchange, bytes).await,
                Err(why) => tell_failure(&shared.heard, sending.exchange, format!("{}: {why}", shared.peer)).await,
            }
        });
        task.abort_handle()
    }
}

/// One query under way.
struct Busy(Arc<AtomicUsize>);

impl Busy {
    fn new(load: &Arc<AtomicUsize>) -> Self {
        load.fetch_add(1, Ordering::Relaxed);
        Self(load.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    async fn ask(&self, query: &[u8]) -> Result<Vec<u8>, String> {
        let id = *query.first_chunk::<2>().ok_or("an empty query")?;
        let (mut sender, was_open) = self.connection().await?;
        self.reuse.count(was_open);
        let first = sender.send_request(self.request(query)).await;
        let response = match first {
            // It may have been closed for idleness just now.
            Err(error) if was_open && error.is_closed() | error.is_canceled() => {
                let (mut sender, _) = self.connection().await?;
                sender.send_request(self.request(query)).await
            }
            other => other,
        };
        let mut bytes = read(response.map_err(|error| error.to_string())?).await?;
        // Sent as 0, so that caches on the way may serve it (RFC 8484 §4.1).
        bytes.get_mut(..2).ok_or("an empty reply")?.copy_from_slice(&id);
        Ok(bytes)
    }

    fn request(&self, query: &[u8]) -> http::Request<Full<Bytes>> {
        let body = [&[0, 0], &query[2..]].concat();
        let mut request = http::Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.uri.clone();
        let kind = http::HeaderValue::from_static(MESSAGE);
        request.headers_mut().insert(http::header::ACCEPT, kind.clone());
        request.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        request
    }

    /// The connection, and whether it was there already.
    async fn connection(&self) -> Result<(Sender, bool), String> {
        let mut slot = self.sender.lock().await;
        if let Some(sender) = slot.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok((sender.clone(), true));
        }
        let timed = tokio::time::timeout(CONNECT, self.connect()).await;
        let sender = timed.map_err(|_| format!("no connection within {} s", CONNECT.as_secs()))??;
        *slot = Some(sender.clone());
        Ok((sender, false))
    }

    async fn connect(&self) -> Result<Sender, String> {
        let tcp = TcpStream::connect(self.addr).await.map_err(|error| error.to_string())?;
        // Small messages must not wait for each other; without it they are only slower.
        let _ = tcp.set_nodelay(true);
        let tls = self.connector.connect(tcp).await?;
        if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err("the server does not speak HTTP/2".into());
        }
        let shaken = handshake(TokioExecutor::new(), TokioIo::new(tls)).await;
        let (sender, connection) = shaken.map_err(|error| error.to_string())?;
        let (load, expire) = (self.load.clone(), self.peer.expire);
        tokio::spawn(async move {
            tokio::pin!(connection);
            let mut was_idle = false;
            loop {
                tokio::select! {
                    // Its end is seen by whoever sends next.
                    _ = &mut connection => return,
                    () = tokio::time::sleep(expire) => {
                        let is_idle = load.load(Ordering::Relaxed) == 0;
                        if is_idle && was_idle {
                            return;
                        }
                        was_idle = is_idle;
                    }
                }
            }
        });
        Ok(sender)
    }
}

async fn read(response: http::Response<hyper::body::Incoming>) -> Result<Vec<u8>, String> {
    if response.status() != http::StatusCode::OK {
        return Err(format!("the server answers with status {}", response.status()));
    }
    let kind = response.headers().get(http::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if !kind.is_some_and(|kind| kind.eq_ignore_ascii_case(MESSAGE)) {
        return Err(format!("the server answers with {}, not {MESSAGE}", kind.unwrap_or("no content type")));
    }
    let body = Limited::new(response.into_body(), LARGEST).collect().await;
    body.map(|body| body.to_bytes().to_vec()).map_err(|error| error.to_string())
}
