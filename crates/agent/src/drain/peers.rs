//! What the other nodes have programmed: one question at a time to each agent, shared by all who wait for it.
//!
//! ```text
//!  reach(node, version) ─► wanted ─► converse: GET /portolan/v1/programmed?slices=V ─► said ─► who waited
//! ```
//!
//! The agent asked answers when it has got there, or after [`ANSWER_WITHIN`] with what it has. Each side knows the other
//! by its node's certificate. One that runs no such agent cannot say: then [`MUTE_DELAY`] has to do.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use portolan_model::Text;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tracing::{debug, warn};

use crate::node::NODE_API_PORT;
use crate::{AgentError, Config};

/// Where agents answer.
pub(crate) const PATH: &str = "/portolan/v1/programmed";
/// How long an agent that is asked waits before it says what it has.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(2);
const DIAL_WITHIN: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(50);
/// As long as the field's usual preStop sleep is at least.
const MUTE_DELAY: Duration = Duration::from_secs(2);

/// The answer of an agent: the greatest version it has programmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Programmed {
    pub(crate) slices: u64,
}

/// Connections to the other agents, made when first needed.
pub(crate) struct Peers {
    tls: Arc<ClientConfig>,
    known: Mutex<HashMap<Text, Peer>>,
}

struct Peer {
    addr: IpAddr,
    wanted: watch::Sender<u64>,
    said: watch::Receiver<Said>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Said {
    slices: u64,
    /// It answers, but not this question.
    is_mute: bool,
}

impl Peers {
    /// With the node's own certificate.
    ///
    /// # Errors
    /// A certificate or key file cannot be read.
    pub(crate) fn open(config: &Config) -> Result<Self, AgentError> {
        Ok(Self { tls: Arc::new(tls(config)?), known: Mutex::default() })
    }

    /// Forgets the peers that are nodes no more.
    pub(crate) fn retain(&self, is_node: impl Fn(&Text) -> bool) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| is_node(name));
    }

    /// Resolves when the node has programmed `version`.
    pub(crate) async fn reach(&self, name: &Text, addr: IpAddr, version: u64) {
        let mut said = self.ask(name, addr, version);
        let heard = said.wait_for(|said| said.slices >= version || said.is_mute).await.map(|said| *said);
        // An error: the node was forgotten, its rules with it.
        if heard.is_ok_and(|said| said.slices < version) {
            tokio::time::sleep(MUTE_DELAY).await;
        }
    }

    fn ask(&self, name: &Text, addr: IpAddr, version: u64) -> watch::Receiver<Said> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let peer = match known.remove(name).filter(|peer| peer.addr == addr) {
            Some(peer) => peer,
            None => self.meet(name, addr),
        };
        // Listening before asking: a question that nobody waits for is dropped.
        let said = peer.said.clone();
        peer.wanted.send_modify(|wanted| *wanted = version.max(*wanted));
        known.insert(name.clone(), peer);
        said
    }

    fn meet(&self, name: &Text, addr: IpAddr) -> Peer {
        let (wanted, asked) = watch::channel(0);
        let (answers, said) = watch::channel(Said::default());
        let dialled = Dialled { tls: self.tls.clone(), name: name.to_string(), addr };
        tokio::spawn(converse(dialled, asked, answers));
        Peer { addr, wanted, said }
    }
}

struct Dialled {
    tls: Arc<ClientConfig>,
    name: String,
    addr: IpAddr,
}

type Line = http1::SendRequest<Empty<Bytes>>;

/// Asks as long as somebody waits; ends with the [`Peer`].
async fn converse(to: Dialled, mut wanted: watch::Receiver<u64>, said: watch::Sender<Said>) {
    let mut line: Option<Line> = None;
    let mut failures = 0_u32;
    loop {
        let version = *wanted.borrow_and_update();
        // The peer itself listens too.
        let nobody_waits = said.receiver_count() <= 1;
        if nobody_waits || said.borrow().slices >= version {
            match wanted.changed().await {
                Ok(()) => continue,
                Err(_) => return,
            }
        }
        match ask(&to, &mut line, version).await {
            Ok(answer) => {
                failures = 0;
                said.send_modify(|said| *said = answer);
                if answer.is_mute {
                    tokio::time::sleep(MUTE_DELAY).await;
                }
            }
            Err(problem) => {
                line = None;
                failures += 1;
                // An agent that is being restarted answers again within a second.
                match failures {
                    40 => warn!(node = to.name, problem, "the node does not say what it has programmed"),
                    _ => debug!(node = to.name, problem, "the node was not reached; it is asked again"),
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn ask(to: &Dialled, line: &mut Option<Line>, version: u64) -> Result<Said, String> {
    let mut sender = match line.take().filter(|line| !line.is_closed()) {
        Some(sender) => sender,
        None => tokio::time::timeout(DIAL_WITHIN, dial(to)).await.map_err(|_| "cannot connect in time")??,
    };
    let request = http::Request::get(format!("{PATH}?slices={version}")).header("host", &to.name);
    let request = request.body(Empty::new()).map_err(|e| e.to_string())?;
    let asking = async {
        sender.ready().await.map_err(|e| e.to_string())?;
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
        if !status.is_success() {
            debug!(node = to.name, %status, "the node cannot say what it has programmed");
            return Ok(Said { slices: 0, is_mute: true });
        }
        let programmed: Programmed = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
        Ok(Said { slices: programmed.slices, is_mute: false })
    };
    let answer = tokio::time::timeout(ANSWER_WITHIN * 2, asking).await.map_err(|_| "no answer in time")?;
    *line = Some(sender);
    answer
}

async fn dial(to: &Dialled) -> Result<Line, String> {
    let name = ServerName::try_from(to.name.clone()).map_err(|e| e.to_string())?;
    let socket = TcpStream::connect((to.addr, NODE_API_PORT)).await.map_err(|e| e.to_string())?;
    socket.set_nodelay(true).map_err(|e| e.to_string())?;
    let secured = TlsConnector::from(to.tls.clone()).connect(name, socket).await.map_err(|e| e.to_string())?;
    let (sender, connection) = http1::handshake(TokioIo::new(secured)).await.map_err(|e| e.to_string())?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!(%error, "a connection to another node's API ended");
        }
    });
    Ok(sender)
}

fn tls(config: &Config) -> Result<ClientConfig, AgentError> {
    let bad = |path: &std::path::Path| {
        let path = path.to_owned();
        move |error: String| AgentError::Api(format!("{}: {error}", path.display()))
    };
    let mut roots = rustls::RootCertStore::empty();
    let authorities = CertificateDer::pem_file_iter(&config.client_ca);
    for authority in authorities.map_err(|e| bad(&config.client_ca)(e.to_string()))? {
        let authority = authority.map_err(|e| bad(&config.client_ca)(e.to_string()))?;
        roots.add(authority).map_err(|e| bad(&config.client_ca)(e.to_string()))?;
    }
    let chain = CertificateDer::pem_file_iter(&config.tls_cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|e| bad(&config.tls_cert)(e.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(&config.tls_key).map_err(|e| bad(&config.tls_key)(e.to_string()))?;
    let builder = ClientConfig::builder().with_root_certificates(roots);
    builder.with_client_auth_cert(chain, key).map_err(|e| AgentError::Api(e.to_string()))
}
