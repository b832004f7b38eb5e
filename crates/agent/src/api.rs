//! The node's own HTTPS API on :10250: kubelet's paths for the API server, ours below `/portolan/v1`.
//!
//! Everything but `/healthz` wants the API server's client certificate: one of our authority whose organisation is
//! `system:masters`. Other certificates of that authority (other nodes') get 403, but for what the node has programmed.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use portolan_pods::{Kubelet, LogOptions};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::core::ToCore;
use crate::corefile::InForce;
use crate::drain::{self, Programmed};
use crate::last_known::Freshness;
use crate::node::NODE_API_PORT;
use crate::proxy::ServiceMetrics;
use crate::status::Progress;
use crate::{AgentError, Config, bgp, dns, dns_explain, flows, remote, trace, why};

/// Organisation of the certificates that may ask for everything.
const ADMIN_GROUP: &str = "system:masters";
/// Organisation of nodes' certificates.
const NODE_GROUP: &str = "system:nodes";

/// What the API shows and reaches.
pub(crate) struct NodeApi {
    pub(crate) kubelet: Arc<Kubelet>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) services: ServiceMetrics,
    pub(crate) dns: dns::Handle,
    pub(crate) freshness: Arc<Freshness>,
    pub(crate) in_force: Arc<Mutex<InForce>>,
    pub(crate) to_bgp: mpsc::UnboundedSender<bgp::Command>,
    pub(crate) core: ToCore,
    pub(crate) fixed: Arc<trace::Fixed>,
    pub(crate) traces: Arc<trace::Watches>,
}

/// Whether the caller showed the API server's certificate; put into each request by its connection.
#[derive(Clone, Copy)]
struct Caller {
    is_admin: bool,
    is_node: bool,
}

/// Serves on every address of the node until the process ends.
pub(crate) async fn serve(api: NodeApi, config: &Config) -> Result<(), AgentError> {
    let acceptor = TlsAcceptor::from(Arc::new(tls(config)?));
    let router = router(Arc::new(api));
    let mut serving = Vec::new();
    for addr in &config.addresses {
        let addr = SocketAddr::new(*addr, NODE_API_PORT);
        let listener =
            TcpListener::bind(addr).await.map_err(|e| AgentError::Api(format!("cannot bind {addr}/tcp: {e}")))?;
        info!(%addr, "the node's API answers");
        serving.push(tokio::spawn(accept(listener, acceptor.clone(), router.clone())));
    }
    let (ended, ..) = futures::future::select_all(serving).await;
    ended.map_err(|e| AgentError::Api(e.to_string()))
}

fn router(api: Arc<NodeApi>) -> Router {
    Router::new()
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs))
        .route("/metrics", get(metrics))
        .route("/portolan/v1/status", get(status))
        .merge(remote::routes())
        .merge(trace::routes())
        .merge(why::routes())
        .merge(flows::routes())
        .merge(dns_explain::routes())
        .layer(from_fn(admins_only))
        .merge(Router::new().route(drain::PROGRAMMED_PATH, get(programmed)).layer(from_fn(nodes_too)))
        .route("/healthz", get(|| async { "ok" }))
        .with_state(api)
}

fn tls(config: &Config) -> Result<rustls::ServerConfig, AgentError> {
    let bad = |path: &std::path::Path| {
        let path = path.to_owned();
        move |e: rustls::pki_types::pem::Error| AgentError::Api(format!("{}: {e}", path.display()))
    };
    let mut roots = rustls::RootCertStore::empty();
    for authority in CertificateDer::pem_file_iter(&config.client_ca).map_err(bad(&config.client_ca))? {
        let authority = authority.map_err(bad(&config.client_ca))?;
        roots.add(authority).map_err(|e| AgentError::Api(format!("{}: {e}", config.client_ca.display())))?;
    }
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(&config.tls_cert).map_err(bad(&config.tls_cert))?.collect();
    let key = PrivateKeyDer::from_pem_file(&config.tls_key).map_err(bad(&config.tls_key))?;
    let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots))
        .allow_unauthenticated()
        .build()
        .map_err(|e| AgentError::Api(e.to_string()))?;
    rustls::ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.map_err(bad(&config.tls_cert))?, key)
        .map_err(|e| AgentError::Api(e.to_string()))
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, router: Router) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let (acceptor, router) = (acceptor.clone(), router.clone());
                tokio::spawn(async move {
                    if let Err(error) = serve_one(stream, acceptor, router).await {
                        debug!(%from, %error, "a connection to the node's API ended");
                    }
                });
            }
            Err(error) => {
                debug!(%error, "accepting on the node's API");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve_one(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    router: Router,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let stream = acceptor.accept(stream).await?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let is_in = |group| certificate.is_some_and(|certificate| is_in_group(certificate, group));
    let caller = Caller { is_admin: is_in(ADMIN_GROUP), is_node: is_in(NODE_GROUP) };
    let router = router.layer(axum::Extension(caller));
    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(router)).await
}

fn is_in_group(certificate: &CertificateDer<'_>, group: &str) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
    parsed.subject().iter_organization().any(|o| o.as_str().is_ok_and(|name| name == group))
}

async fn admins_only(request: Request, next: Next) -> Response {
    match request.extensions().get::<Caller>() {
        Some(Caller { is_admin: true, .. }) => next.run(request).await,
        _ => (StatusCode::FORBIDDEN, "this path is for the API server's client certificate only\n").into_response(),
    }
}

/// What a node has programmed is no secret among nodes.
async fn nodes_too(request: Request, next: Next) -> Response {
    match request.extensions().get::<Caller>() {
        Some(caller) if caller.is_admin || caller.is_node => next.run(request).await,
        _ => (StatusCode::FORBIDDEN, "this path is for nodes and the API server\n").into_response(),
    }
}

/// Query of kubelet's containerLogs.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LogQuery {
    follow: bool,
    previous: bool,
    timestamps: bool,
    tail_lines: Option<u64>,
    since_seconds: Option<i64>,
    since_time: Option<jiff::Timestamp>,
    limit_bytes: Option<u64>,
}

async fn logs(
    State(api): State<Arc<NodeApi>>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Query<LogQuery>,
) -> Response {
    let since = since(&query, jiff::Timestamp::now());
    let options = LogOptions {
        follow: query.follow,
        previous: query.previous,
        timestamps: query.timestamps,
        tail_lines: query.tail_lines,
        since,
        limit_bytes: query.limit_bytes,
    };
    match api.kubelet.logs(&namespace, &pod, &container, options).await {
        Ok(lines) => ([("content-type", "text/plain")], Body::from_stream(lines)).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}

/// From when on lines are wanted; further back than time can be told means from the beginning.
fn since(query: &LogQuery, now: jiff::Timestamp) -> Option<jiff::Timestamp> {
    let back = |secs| now.checked_sub(jiff::SignedDuration::from_secs(secs)).unwrap_or(jiff::Timestamp::MIN);
    query.since_seconds.map(back).or(query.since_time)
}

/// What another node's agent asks before it ends a pod.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ProgrammedQuery {
    /// A resourceVersion; 0 asks for what there is now.
    slices: u64,
}

/// Answers once the rules of this node follow from the EndpointSlices up to a version, or in a while with what they do.
async fn programmed(State(api): State<Arc<NodeApi>>, Query(query): Query<ProgrammedQuery>) -> axum::Json<Programmed> {
    let mut applied = api.progress.watch_applied();
    let there = applied.wait_for(|applied| applied.slices >= query.slices);
    // In time or not, the answer says how far it is.
    let _ = tokio::time::timeout(drain::ANSWER_WITHIN, there).await.map(|found| found.map(drop));
    let slices = applied.borrow().slices;
    axum::Json(Programmed { slices })
}

async fn metrics(State(api): State<Arc<NodeApi>>) -> String {
    api.progress.metrics() + &api.freshness.metrics() + &api.services.text()
}

async fn status(State(api): State<Arc<NodeApi>>) -> axum::Json<Value> {
    let (bgp_reply, bgp) = oneshot::channel();
    // A task that has ended answers nothing; its part is null then.
    let _ = api.to_bgp.send(bgp::Command::Status(bgp_reply));
    axum::Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "core": api.progress.json(),
        "bgp": bgp.await.unwrap_or(Value::Null),
        "dns": api.dns.status().await,
        "dnsState": api.freshness.json(),
        "dnsConfiguration": api.in_force.lock().unwrap_or_else(PoisonError::into_inner).json(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_wanted_from_some_seconds_ago_or_from_a_time_on() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let asked = |query: &str| {
            let uri = format!("http://node/?{query}").parse().expect("a URI");
            let query = Query::<LogQuery>::try_from_uri(&uri).expect("a query").0;
            since(&query, now).map(|time| time.as_second())
        };
        assert_eq!(asked("follow=true"), None);
        assert_eq!(asked("sinceSeconds=5"), Some(-5));
        assert_eq!(asked("sinceTime=1970-01-01T00:01:00Z"), Some(60));
        assert_eq!(asked("sinceSeconds=9223372036854775807"), Some(jiff::Timestamp::MIN.as_second()));
    }
}
