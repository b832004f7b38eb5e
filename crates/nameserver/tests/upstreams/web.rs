//! Web servers of our own that are no good as upstreams, and one that is: HTTPS seen from its other end.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use portolan_dns::corefile::config::{Target, TlsConfig};
use portolan_dns::forward::step::Outcome;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::driver::{Driver, group};
use crate::servers::answer;

const MESSAGE: &str = "application/dns-message";

/// What it says to a query.
type Behave = fn(&[u8]) -> (u16, &'static str, Vec<u8>);

/// Method, path and first bytes of a request.
type Seen = (String, String, Vec<u8>);

struct Web {
    addr: SocketAddr,
    ca: String,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<Seen>>>,
}

impl Web {
    async fn start(folder: &Path, behave: Behave) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["dns.test".to_string()]).expect("a certificate");
        let ca = folder.join("web.pem");
        std::fs::write(&ca, made.cert.pem()).expect("a file");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
        let chain = vec![CertificateDer::from(made.cert.der().to_vec())];
        let mut config = builder.with_single_cert(chain, key).expect("a certificate and its key");
        config.alpn_protocols = vec![b"h2".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("a bound socket");
        let web =
            Self { addr, ca: ca.to_string_lossy().into_owned(), connections: Arc::default(), requests: Arc::default() };
        tokio::spawn(web.serve(listener, TlsAcceptor::from(Arc::new(config)), behave));
        web
    }

    fn serve(&self, listener: TcpListener, acceptor: TlsAcceptor, behave: Behave) -> impl Future<Output = ()> + use<> {
        let (connections, requests) = (self.connections.clone(), self.requests.clone());
        async move {
            while let Ok((tcp, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let (acceptor, requests) = (acceptor.clone(), requests.clone());
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                        let requests = requests.clone();
                        async move {
                            let (method, path) = (request.method().to_string(), request.uri().path().to_string());
                            let query = request.into_body().collect().await?.to_bytes().to_vec();
                            let (status, kind, body) = behave(&query);
                            requests.lock().expect("no test thread panics here").push((method, path, query));
                            let mut response = http::Response::new(Full::new(Bytes::from(body)));
                            *response.status_mut() = http::StatusCode::from_u16(status).expect("a status");
                            let kind = http::HeaderValue::from_static(kind);
                            response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
                            Ok::<_, hyper::Error>(response)
                        }
                    });
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    // The client may break off.
                    let _ = server.serve_connection(TokioIo::new(tls), service).await;
                });
            }
        }
    }

    fn driver(&self) -> Driver {
        let mut config = group(vec![Target::Https { addr: self.addr, path: "/ask".into() }]);
        let (server_name, ca_file) = (Some("dns.test".into()), Some(self.ca.clone()));
        config.forward.tls = TlsConfig { server_name, ca_file, identity: None };
        Driver::new(vec![config])
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a temporary folder")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_questions_share_one_connection_posted_with_id_0() {
    let folder = folder();
    let web = Web::start(folder.path(), |query| (200, MESSAGE, answer(query))).await;
    let mut driver = web.driver();
    (0..80).for_each(|n| driver.ask(n, &format!("n{n}.example")));
    for done in driver.ended(80).await {
        let Outcome::Answer(given) = done.outcome else { panic!("{:?} {:?}", done.outcome, driver.failures) };
        assert_eq!(given.message.answers[0].owner, done.question.name);
    }
    assert_eq!(web.connections.load(Ordering::SeqCst), 1);
    let requests = web.requests.lock().expect("no test thread panics here");
    assert!(requests.iter().all(|(method, path, _)| (method.as_str(), path.as_str()) == ("POST", "/ask")));
    assert!(requests.iter().all(|(_, _, query)| query[..2] == [0, 0]), "an ID of 0, so that it can be cached");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_server_that_is_no_dns_server_is_told_as_such() {
    let rows: [(Behave, &str); 5] = [
        (|_| (500, MESSAGE, vec![]), "status 500"),
        (|_| (404, "text/html", b"<html>".to_vec()), "status 404"),
        (|query| (200, "text/html", answer(query)), "text/html"),
        (|_| (200, MESSAGE, vec![0; 70_000]), "limit"),
        (|_| (200, MESSAGE, vec![]), "empty reply"),
    ];
    for (behave, expected) in rows {
        let folder = folder();
        let web = Web::start(folder.path(), behave).await;
        let mut driver = web.driver();
        driver.ask(1, "one.example");
        assert_eq!(driver.ended(1).await.remove(0).outcome, Outcome::Silent, "{expected}");
        assert!(driver.failures[0].contains(expected), "{expected}: {:?}", driver.failures);
    }
}
