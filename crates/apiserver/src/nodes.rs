//! Calls to a node's own HTTPS server: logs, exec, attach, port-forward, and everything under `nodes/NAME/proxy`.
//!
//! ```text
//!  kubectl ══ WebSocket ══ API server ══ WebSocket ══ node :10250
//!              upgrade is passed on as it came; after the 101 bytes are spliced both ways
//! ```
//! The node is known by its own certificate (name = node name, our CA), we by the kubelet-client one.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HOST, HeaderName, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::node_links::{Links, Sender};
use crate::object::{self, text};
use crate::registry;
use crate::request::{Query, Target};
use crate::rest::{Answer, Api, Body, full};
use crate::status::{ApiError, ApiResult};

const KUBELET_PORT: u16 = 10250;
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// A node that acknowledges nothing for so long counts as lost.
const UNHEARD_MILLIS: u32 = 10_000;
/// How long one side of an upgraded connection goes on without the other.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// Our side of the connections to nodes.
pub struct NodeClient {
    pub tls: Arc<ClientConfig>,
    pub links: Links,
}

/// Where a node listens.
struct Endpoint {
    name: String,
    addr: IpAddr,
    port: u16,
}

/// `GET pods/NAME/log`.
pub async fn log(api: &Api, target: &Target, query: &Query, request: Request<Incoming>) -> Answer {
    let pod = pod_of(api, target)?;
    let container = container_of(&pod, target.name(), query)?;
    if query.get("previous") != Some("true") {
        refuse_if_waiting(&pod, target.name(), &container)?;
    }
    let path = pod_path("containerLogs", target, &container, request.uri().query());
    forward(api, text(&pod, "/spec/nodeName"), &path, request).await
}

/// `exec` and `attach`, over a WebSocket; `verb` is which.
pub async fn session(
    api: &Api,
    target: &Target,
    query: &Query,
    request: Request<Incoming>,
    verb: &'static str,
) -> Answer {
    let pod = pod_of(api, target)?;
    let container = container_of(&pod, target.name(), query)?;
    let phase = text(&pod, "/status/phase");
    if matches!(phase, "Succeeded" | "Failed") {
        let into = if verb == "exec" { "exec into" } else { "attach to" };
        return Err(ApiError::bad_request(format!(
            "cannot {into} a container in a completed pod; current phase is {phase}"
        )));
    }
    if !is_upgrade_to(&request, "websocket") {
        return Err(ApiError::bad_request(format!(
            "unable to upgrade: {verb} is served over WebSocket (v5.channel.k8s.io) only; use kubectl 1.30 or later",
        )));
    }
    let path = pod_path(verb, target, &container, request.uri().query());
    forward(api, text(&pod, "/spec/nodeName"), &path, request).await
}

/// `portforward`: SPDY, within a WebSocket or bare. Which of both the node sees for itself.
pub async fn port_forward(api: &Api, target: &Target, request: Request<Incoming>) -> Answer {
    let pod = pod_of(api, target)?;
    if !is_upgrade_to(&request, "websocket") && !is_upgrade_to(&request, "SPDY/3.1") {
        let message = "unable to upgrade: portforward wants a connection upgraded to WebSocket or SPDY/3.1";
        return Err(ApiError::bad_request(message));
    }
    let path = format!("/portForward/{}/{}", target.namespace(), target.name());
    forward(api, text(&pod, "/spec/nodeName"), &path, request).await
}

fn is_upgrade_to(request: &Request<Incoming>, protocol: &str) -> bool {
    let wanted = request.headers().get(UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    wanted.eq_ignore_ascii_case(protocol)
}

/// `nodes/NAME/proxy/PATH`.
pub async fn proxy(api: &Api, target: &Target, request: Request<Incoming>) -> Answer {
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let path = format!("{}{query}", target.rest);
    forward(api, target.name(), &path, request).await
}

fn pod_of(api: &Api, target: &Target) -> ApiResult<Value> {
    let entry = api.store.get(&target.key()).ok_or_else(|| ApiError::not_found(target.resource, target.name()))?;
    let pod = object::decode(&entry);
    if text(&pod, "/spec/nodeName").is_empty() {
        return Err(ApiError::bad_request(format!("pod {} does not have a host assigned", target.name())));
    }
    Ok(pod)
}

fn names<'a>(pod: &'a Value, list: &str) -> Vec<&'a str> {
    let containers = pod.pointer(&format!("/spec/{list}")).and_then(Value::as_array);
    containers.into_iter().flatten().map(|container| text(container, "/name")).collect()
}

/// The container that is meant: the one named, the default one, or the only one.
fn container_of(pod: &Value, name: &str, query: &Query) -> ApiResult<String> {
    let (init, main) = (names(pod, "initContainers"), names(pod, "containers"));
    let default = text(pod, "/metadata/annotations/kubectl.kubernetes.io~1default-container");
    match (query.given("container"), &main[..]) {
        (Some(wanted), _) if main.contains(&wanted) || init.contains(&wanted) => Ok(wanted.to_owned()),
        (Some(wanted), _) => Err(ApiError::bad_request(format!("container {wanted} is not valid for pod {name}"))),
        (None, _) if main.contains(&default) => Ok(default.to_owned()),
        (None, [only]) => Ok((*only).to_owned()),
        (None, _) => {
            let others = if init.is_empty() {
                String::new()
            } else {
                format!(" or one of the init containers: [{}]", init.join(" "))
            };
            Err(ApiError::bad_request(format!(
                "a container name must be specified for pod {name}, choose one of: [{}]{others}",
                main.join(" ")
            )))
        }
    }
}

/// A container that never ran has no log.
fn refuse_if_waiting(pod: &Value, name: &str, container: &str) -> ApiResult<()> {
    let lists = ["containerStatuses", "initContainerStatuses"];
    let statuses = lists.iter().filter_map(|list| pod.pointer(&format!("/status/{list}"))?.as_array()).flatten();
    let status = statuses.into_iter().find(|status| text(status, "/name") == container);
    let reason = match status {
        None => "ContainerCreating",
        Some(status) => {
            let has_run = status.pointer("/lastState/terminated").is_some()
                || status.get("restartCount").and_then(Value::as_i64).unwrap_or(0) > 0;
            match status.pointer("/state/waiting") {
                Some(waiting) if !has_run => text(waiting, "/reason"),
                _ => return Ok(()),
            }
        }
    };
    Err(ApiError::bad_request(format!("container \"{container}\" in pod \"{name}\" is waiting to start: {reason}")))
}

fn pod_path(verb: &str, target: &Target, container: &str, query: Option<&str>) -> String {
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("/{verb}/{}/{}/{container}{query}", target.namespace(), target.name())
}

fn endpoint(api: &Api, node: &str) -> ApiResult<Endpoint> {
    let nodes = registry::row("nodes");
    let entry = api.store.get(&nodes.key("", node)).ok_or_else(|| ApiError::not_found(nodes, node))?;
    let object = object::decode(&entry);
    let addresses = object.pointer("/status/addresses").and_then(Value::as_array);
    let internal = addresses.into_iter().flatten().filter(|address| text(address, "/type") == "InternalIP");
    let addr = internal.filter_map(|address| text(address, "/address").parse().ok()).next();
    let addr = addr.ok_or_else(|| {
        ApiError::unavailable(format!("node {node} has not said its InternalIP yet; wait until it is Ready"))
    })?;
    let port = object.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64);
    let port = port.and_then(|port| u16::try_from(port).ok()).unwrap_or(KUBELET_PORT);
    Ok(Endpoint { name: node.to_owned(), addr, port })
}

/// Passes a request on to a node and its answer back, upgrades included.
async fn forward(api: &Api, node: &str, path_and_query: &str, mut request: Request<Incoming>) -> Answer {
    let endpoint = endpoint(api, node)?;
    let failed = |what: &str, problem: String| {
        ApiError::new(
            502,
            "InternalError",
            format!(
                "error dialing backend: {what} node {node} at {}:{}: {problem}; is its agent running?",
                endpoint.addr, endpoint.port
            ),
        )
    };
    let at = SocketAddr::new(endpoint.addr, endpoint.port);
    let client_side = hyper::upgrade::on(&mut request);
    let mut onward = onward(request, &endpoint, path_and_query)?;
    let mut waiting = api.nodes.links.take(&endpoint.name, at);
    let (sender, answered) = loop {
        let was_waiting = waiting.is_some();
        let mut sender = match waiting.take() {
            Some(sender) => sender,
            None => connect(&api.nodes, &endpoint).await.map_err(|problem| failed("cannot reach", problem))?,
        };
        match sender.try_send_request(onward).await {
            Ok(answered) => break (sender, answered),
            // The node has closed it meanwhile, and nothing of this request was sent.
            Err(mut problem) => match problem.take_message().filter(|_| was_waiting) {
                Some(unsent) => onward = unsent,
                None => return Err(failed("no answer from", problem.into_error().to_string())),
            },
        }
    };
    if answered.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(splice(client_side, answered));
    }
    api.nodes.links.give_back(endpoint.name, at, sender);
    let (parts, body) = answered.into_parts();
    let mut response = Response::from_parts(parts, body.map_err(Into::into).boxed_unsync());
    for header in
        [CONNECTION, UPGRADE, HeaderName::from_static("transfer-encoding"), HeaderName::from_static("keep-alive")]
    {
        response.headers_mut().remove(header);
    }
    Ok(response)
}

/// A new connection; what drives it is a task of its own.
async fn connect(client: &NodeClient, endpoint: &Endpoint) -> Result<Sender, String> {
    let name = ServerName::try_from(endpoint.name.clone()).map_err(|problem| problem.to_string())?;
    let dial = async {
        let socket = TcpStream::connect((endpoint.addr, endpoint.port)).await.map_err(|problem| problem.to_string())?;
        drop(socket.set_nodelay(true));
        // A kernel that refuses waits longer for what is lost, as kernels do.
        let _ = rustix::net::sockopt::set_tcp_user_timeout(&socket, UNHEARD_MILLIS);
        let tls = TlsConnector::from(client.tls.clone()).connect(name, socket).await;
        let tls = tls.map_err(|problem| problem.to_string())?;
        http1::handshake(TokioIo::new(tls)).await.map_err(|problem| problem.to_string())
    };
    let dialled = tokio::time::timeout(DIAL_TIMEOUT, dial).await.unwrap_or_else(|_| Err("timed out".into()));
    let (sender, connection) = dialled?;
    tokio::spawn(async move {
        if let Err(problem) = connection.with_upgrades().await {
            tracing::debug!(%problem, "connection to a node ended");
        }
    });
    Ok(sender)
}

/// The same request, for the node. The user's own headers that name a connection or prove who they
/// are stay here; an upgrade's go along.
fn onward(request: Request<Incoming>, endpoint: &Endpoint, path_and_query: &str) -> ApiResult<Request<Incoming>> {
    let (mut parts, body) = request.into_parts();
    parts.uri = path_and_query
        .parse::<Uri>()
        .map_err(|problem| ApiError::bad_request(format!("cannot pass on the path {path_and_query:?}: {problem}")))?;
    parts.version = http::Version::HTTP_11;
    if parts.method == Method::HEAD {
        parts.method = Method::GET;
    }
    for header in
        ["authorization", "keep-alive", "te", "trailer", "transfer-encoding", "proxy-connection", "accept-encoding"]
    {
        parts.headers.remove(header);
    }
    if parts.headers.contains_key(UPGRADE) {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    } else {
        parts.headers.remove(CONNECTION);
    }
    let host = HeaderValue::from_str(&endpoint.name).map_err(|problem| ApiError::internal(problem.to_string()))?;
    parts.headers.insert(HOST, host);
    Ok(Request::from_parts(parts, body))
}

/// Copies bytes both ways. When one side has closed, the other may say what it has still to say, but not for long: one
/// that has lost its peer would else be held open for good.
async fn join(client: impl AsyncRead + AsyncWrite, node: impl AsyncRead + AsyncWrite) {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_node, mut to_node) = tokio::io::split(node);
    let onward = async {
        let copied = tokio::io::copy(&mut from_client, &mut to_node).await;
        copied.and(to_node.shutdown().await)
    };
    let back = async {
        let copied = tokio::io::copy(&mut from_node, &mut to_client).await;
        copied.and(to_client.shutdown().await)
    };
    let (mut onward, mut back) = (pin!(onward), pin!(back));
    let (first, rest) = tokio::select! {
        ended = &mut onward => (ended, tokio::time::timeout(CLOSE_PATIENCE, back).await),
        ended = &mut back => (ended, tokio::time::timeout(CLOSE_PATIENCE, onward).await),
    };
    tracing::debug!(?first, ?rest, "an upgraded connection ended");
}

/// Answers the client's upgrade as the node did, and copies bytes both ways till both are done.
fn splice(client_side: hyper::upgrade::OnUpgrade, answered: Response<Incoming>) -> Response<Body> {
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = answered.headers().clone();
    tokio::spawn(async move {
        let (client, node) = match tokio::try_join!(client_side, hyper::upgrade::on(answered)) {
            Ok(both) => both,
            Err(problem) => return tracing::debug!(%problem, "an upgrade did not complete"),
        };
        join(TokioIo::new(client), TokioIo::new(node)).await;
    });
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resolved(pod: &Value, query: &str) -> Result<String, String> {
        container_of(pod, "web", &Query::parse(query)).map_err(|error| error.message)
    }

    #[test]
    fn the_container_is_the_named_the_default_or_the_only_one() {
        let one = json!({ "spec": { "containers": [{ "name": "a" }] } });
        let mut two = json!({ "spec": { "containers": [{ "name": "a" }, { "name": "b" }], "initContainers": [{ "name": "i" }] } });
        assert_eq!(resolved(&one, ""), Ok("a".into()));
        assert_eq!(resolved(&two, "container=i"), Ok("i".into()));
        assert_eq!(resolved(&two, "container=x"), Err("container x is not valid for pod web".into()));
        assert_eq!(
            resolved(&two, ""),
            Err("a container name must be specified for pod web, choose one of: [a b] or one of the init containers: [i]".into())
        );
        two["metadata"] = json!({ "annotations": { "kubectl.kubernetes.io/default-container": "b" } });
        assert_eq!(resolved(&two, ""), Ok("b".into()));
    }

    #[test]
    fn a_container_that_never_ran_has_no_log_and_one_that_waits_to_restart_has() {
        let pod = |status: Value| json!({ "status": { "containerStatuses": [status] } });
        let fresh = pod(json!({ "name": "a", "state": { "waiting": { "reason": "ErrImagePull" } } }));
        let error = refuse_if_waiting(&fresh, "web", "a").expect_err("nothing to show");
        assert_eq!(error.message, "container \"a\" in pod \"web\" is waiting to start: ErrImagePull");
        let crashed = pod(
            json!({ "name": "a", "state": { "waiting": { "reason": "CrashLoopBackOff" } }, "lastState": { "terminated": {} } }),
        );
        assert!(refuse_if_waiting(&crashed, "web", "a").is_ok());
        assert!(refuse_if_waiting(&json!({}), "web", "a").is_err());
    }
}
