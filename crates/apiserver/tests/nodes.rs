//! Logs, exec and proxy, passed on to a node. The node here is a small HTTPS server of the test's own
//! that shows what it was asked and speaks `v5.channel.k8s.io` for exec.

mod common;

use std::sync::Arc;

use common::{World, world};
use futures::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, frame::coding::CloseCode};

/// A node `name` on loopback; gives its port.
fn start_node(world: &World, runtime: &tokio::runtime::Runtime, name: &str) -> u16 {
    let pair = world.pki.node(name, &["127.0.0.1".parse().expect("an address")]).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(world.pki.ca_cert_pem().as_bytes()).expect("PEM")).expect("a root");
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().expect("a verifier");
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(pair.cert.as_bytes()).expect("PEM")],
            PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("PEM"),
        )
        .expect("a server");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    runtime.spawn(async move {
        for number in 1.. {
            let (socket, _) = listener.accept().await.expect("a connection");
            let Ok(stream) = acceptor.accept(socket).await else { continue };
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(move |request| node(request, number)))
                    .with_upgrades(),
            );
        }
    });
    port
}

/// Answers what came by its connection of that number.
async fn node(mut request: Request<Incoming>, number: u32) -> Result<Response<Full<Bytes>>, http::Error> {
    let asked = request.uri().to_string();
    if asked == "/connection" {
        return Response::builder().body(Full::from(format!("{number}\n")));
    }
    if asked == "/last" {
        return Response::builder().header("connection", "close").body(Full::from(format!("{number}\n")));
    }
    let Some(key) = request.headers().get("sec-websocket-key").cloned() else {
        return Response::builder().body(Full::from(format!("{} {asked}\n", request.method())));
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let socket = TokioIo::new(upgrade.await.expect("upgraded"));
        echo(WebSocketStream::from_raw_socket(socket, Role::Server, None).await, &asked).await;
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", derive_accept_key(key.as_bytes()))
        .header("sec-websocket-protocol", "v5.channel.k8s.io")
        .body(Full::default())
}

/// Says what it was asked, gives standard input back, ends with success.
async fn echo<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(mut socket: WebSocketStream<S>, asked: &str) {
    let framed = |channel: u8, bytes: &[u8]| Message::Binary([&[channel], bytes].concat().into());
    socket.send(framed(1, format!("{asked}\n").as_bytes())).await.expect("sent");
    while let Some(Ok(message)) = socket.next().await {
        match &message.into_data()[..] {
            [0, input @ ..] => socket.send(framed(1, input)).await.expect("sent"),
            [255, 0] => break,
            _ => {}
        }
    }
    socket.send(framed(3, br#"{"metadata":{},"status":"Success"}"#)).await.expect("sent");
    let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    drop(socket.close(Some(normal)).await);
    while let Some(Ok(_)) = socket.next().await {}
}

fn register(world: &World, name: &str, port: u16) {
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name }, "status": {
        "addresses": [{ "type": "InternalIP", "address": "127.0.0.1" }],
        "daemonEndpoints": { "kubeletEndpoint": { "Port": port } } } });
    world.kubectl_in("create -f -", &node.to_string()).done();
}

fn run_pod(world: &World, name: &str, node: &str, status: serde_json::Value) {
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": { "nodeName": node, "containers": [{ "name": "a", "image": "nginx" }] } });
    world.kubectl_in("create -f -", &pod.to_string()).done();
    let mut pod = world.json(&format!("pod {name}"));
    pod["status"] = json!({ "phase": "Running", "containerStatuses": [status] });
    let path = format!("/api/v1/namespaces/default/pods/{name}/status");
    world.kubectl_in(&format!("replace --raw {path} -f -"), &pod.to_string()).done();
}

fn status(state: serde_json::Value) -> serde_json::Value {
    json!({ "name": "a", "image": "nginx", "imageID": "", "ready": true, "restartCount": 0, "state": state })
}

#[test]
fn logs_exec_and_proxy_reach_the_node_of_the_pod() {
    let world = world();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let port = start_node(&world, &runtime, "node-1");
    register(&world, "node-1", port);
    run_pod(&world, "up", "node-1", status(json!({ "running": { "startedAt": "2026-11-22T11:00:00Z" } })));

    let log = world.kubectl("logs up --tail=3").done();
    assert!(log.starts_with("GET /containerLogs/default/up/a?"), "{log}");
    assert!(log.contains("tailLines=3"), "{log}");
    let refused = world.kubectl("logs up -c nothing").refused();
    assert!(refused.contains("container nothing is not valid for pod up"), "{refused}");

    let said = world.kubectl_in("exec -i up -- cat /etc/hosts", "hello\n").done();
    assert!(said.starts_with("/exec/default/up/a?command=cat&command=%2Fetc%2Fhosts"), "{said}");
    assert!(said.ends_with("hello\n"), "{said}");

    let proxied = world.kubectl("get --raw /api/v1/nodes/node-1/proxy/portolan/v1/dns?name=x").done();
    assert_eq!(proxied, "GET /portolan/v1/dns?name=x\n");

    run_pod(&world, "waits", "node-1", status(json!({ "waiting": { "reason": "ErrImagePull" } })));
    let refused = world.kubectl("logs waits").refused();
    assert!(refused.contains("container \"a\" in pod \"waits\" is waiting to start: ErrImagePull"), "{refused}");
}

#[test]
fn requests_to_a_node_one_after_another_share_a_connection_until_the_node_closes_it() {
    let world = world();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let port = start_node(&world, &runtime, "node-s");
    register(&world, "node-s", port);
    let asked = |path: &str| world.kubectl(&format!("get --raw /api/v1/nodes/node-s/proxy/{path}")).done();
    let of_each = ["connection", "connection", "last", "connection"].map(asked);
    assert_eq!(of_each, ["1\n", "1\n", "1\n", "2\n"]);
}

#[test]
fn a_node_with_another_name_or_none_at_all_is_not_talked_to() {
    let world = world();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let port = start_node(&world, &runtime, "node-1");
    // The certificate at that address says node-1.
    register(&world, "node-2", port);
    let refused = world.kubectl("get --raw /api/v1/nodes/node-2/proxy/healthz").refused();
    assert!(refused.contains("error dialing backend") && refused.contains("node-2"), "{refused}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    register(&world, "node-3", free);
    let refused = world.kubectl("get --raw /api/v1/nodes/node-3/proxy/healthz").refused();
    assert!(refused.contains("is its agent running?"), "{refused}");
}
