//! Listeners, TLS, connections.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::alloc::Ranges;
use crate::authn::user_of_certificate;
use crate::authz::Builtin;
use crate::node_links::Links;
use crate::nodes::NodeClient;
use crate::object::ObjectIndex;
use crate::pki::ServerFiles;
use crate::rest::Api;
use crate::{Config, ServeError, bootstrap, handler};

use portolan_store::{Engine, EngineOptions, Store};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// A running API server. Dropping it stops it.
pub struct Server {
    addrs: Vec<SocketAddr>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    /// The addresses it listens on, in the order of the listeners given.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Asks it to stop; [`Server::stopped`] then returns soon.
    pub fn shutdown(&self) {
        self.stop.cancel();
    }

    /// Waits until it has stopped and the store is closed.
    pub async fn stopped(self) {
        self.stop.cancelled().await;
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Opens the store, makes what every cluster has, and serves until stopped.
pub async fn serve(config: Config) -> Result<Server, ServeError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let acceptor = TlsAcceptor::from(Arc::new(server_tls(&config.pki, &provider)?));
    let nodes = NodeClient { tls: Arc::new(client_tls(&config.pki, &provider)?), links: Links::default() };
    let addrs = config.listeners.iter().map(local_addr).collect::<Result<Vec<_>, _>>()?;
    let store_dir = config.data_dir.join("store");
    std::fs::create_dir_all(&config.data_dir)
        .map_err(|source| ServeError::DataDir { path: config.data_dir.clone(), source })?;
    let opened = tokio::task::spawn_blocking(move || Engine::<ObjectIndex>::open(&store_dir, EngineOptions::default()));
    let store = opened.await.map_err(|problem| ServeError::Panicked(problem.to_string()))??;
    let store: Arc<dyn Store<ObjectIndex>> = Arc::new(store);
    let api = Arc::new(Api {
        store,
        ranges: Ranges { service_cidrs: config.service_cidrs, node_ports: config.node_port_range },
        authorizer: Box::new(Builtin),
        nodes,
    });
    let advertised_port = addrs.iter().find(|addr| addr.ip() == config.advertise).map_or(6443, SocketAddr::port);
    bootstrap::run(&api, config.advertise, advertised_port)
        .await
        .map_err(|error| ServeError::Bootstrap(error.message))?;
    let kept = bootstrap::keep(api.clone(), config.advertise, advertised_port);
    let server = Server { addrs, stop: CancellationToken::new(), tasks: TaskTracker::new() };
    let stop = server.stop.clone();
    server.tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = kept => {}
        }
    });
    for listener in config.listeners {
        let listener = tokio_listener(listener)?;
        let accepting = accept(listener, acceptor.clone(), api.clone(), server.stop.clone(), server.tasks.clone());
        server.tasks.spawn(accepting);
    }
    Ok(server)
}

fn local_addr(listener: &TcpListener) -> Result<SocketAddr, ServeError> {
    listener.local_addr().map_err(ServeError::Listen)
}

fn tokio_listener(listener: TcpListener) -> Result<tokio::net::TcpListener, ServeError> {
    listener.set_nonblocking(true).map_err(ServeError::Listen)?;
    tokio::net::TcpListener::from_std(listener).map_err(ServeError::Listen)
}

async fn accept(
    listener: tokio::net::TcpListener,
    tls: TlsAcceptor,
    api: Arc<Api>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, _)) => {
                let executor = StoppableExecutor { stop: stop.clone(), tasks: tasks.clone() };
                executor.execute(connection(socket, tls.clone(), api.clone(), executor.clone()));
            }
            Err(problem) => {
                // Out of file descriptors, most likely: give those in use time to end.
                tracing::warn!(%problem, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Runs tasks that end when the server stops, so that nothing outlives it: a request that did would
/// hold the store open.
#[derive(Clone)]
struct StoppableExecutor {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for StoppableExecutor {
    fn execute(&self, future: F) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move { stop.run_until_cancelled(future).await.map(drop) });
    }
}

async fn connection(socket: TcpStream, tls: TlsAcceptor, api: Arc<Api>, executor: StoppableExecutor) {
    // Small answers should not wait for more bytes.
    drop(socket.set_nodelay(true));
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(problem)) => return tracing::debug!(%problem, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake timed out"),
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let user = certificates.and_then(|chain| chain.first()).and_then(|leaf| user_of_certificate(leaf));
    let service = service_fn(move |request| {
        let (api, user) = (api.clone(), user.clone());
        async move { Ok::<_, std::convert::Infallible>(handler::handle(api, user, request).await) }
    });
    let mut server = auto::Builder::new(executor);
    server.http1().timer(TokioTimer::new());
    // Watches may be silent for long; a ping finds out who is gone.
    server.http2().timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE).max_concurrent_streams(1000);
    if let Err(problem) = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        tracing::debug!(%problem, "connection ended");
    }
}

type Provider = Arc<rustls::crypto::CryptoProvider>;

fn server_tls(files: &ServerFiles, provider: &Provider) -> Result<ServerConfig, ServeError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(files)?), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|problem| ServeError::Tls(problem.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(tls_error)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&files.cert)?, private_key(&files.key)?)
        .map_err(tls_error)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn client_tls(files: &ServerFiles, provider: &Provider) -> Result<ClientConfig, ServeError> {
    ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(tls_error)?
        .with_root_certificates(roots(files)?)
        .with_client_auth_cert(certificates(&files.kubelet_client_cert)?, private_key(&files.kubelet_client_key)?)
        .map_err(tls_error)
}

fn tls_error(problem: rustls::Error) -> ServeError {
    ServeError::Tls(problem.to_string())
}

fn roots(files: &ServerFiles) -> Result<RootCertStore, ServeError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.ca_cert)? {
        roots.add(certificate).map_err(tls_error)?;
    }
    Ok(roots)
}

fn certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, ServeError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    read.map_err(|problem| ServeError::Pem { path: path.to_owned(), problem: problem.to_string() })
}

fn private_key(path: &std::path::Path) -> Result<PrivateKeyDer<'static>, ServeError> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|problem| ServeError::Pem { path: path.to_owned(), problem: problem.to_string() })
}
