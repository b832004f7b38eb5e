//! healthCheckNodePort: an HTTP server per Service, which tells balancers whether this node has endpoints of it.
//!
//! ```text
//!  Tally ─► Asked (watch) ─► serve: a listener per port ─► 200 or 503, X-Load-Balancing-Endpoint-Weight
//! ```
//!
//! A port that cannot be bound becomes a notice on its Service, once, and is tried again. Headers and body are
//! kube-proxy's (its service health server).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use portolan_model::NsName;
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::info;

use crate::proxy::events::{FAILED_HEALTH_CHECK, Notice};
use crate::proxy::health::Health;
use crate::proxy::tally::Check;

/// How long a port that could not be bound waits for another try.
const RETRY: Duration = Duration::from_secs(2);
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// What the cluster asks of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) checks: Arc<BTreeMap<NsName, Check>>,
    /// Where node ports answer; `None`: everywhere.
    pub(crate) addresses: Option<Vec<IpAddr>>,
}

/// One Service's server; it ends when this is dropped.
struct Server {
    service: NsName,
    addresses: Option<Vec<IpAddr>>,
    local: Arc<AtomicUsize>,
    _tasks: JoinSet<std::io::Result<()>>,
}

#[derive(Clone)]
struct Answer {
    service: NsName,
    local: Arc<AtomicUsize>,
    health: Arc<Health>,
}

/// Serves what is asked until nobody asks any more.
pub(crate) async fn serve(mut asked: watch::Receiver<Asked>, health: Arc<Health>, notices: UnboundedSender<Notice>) {
    let mut servers: BTreeMap<u16, Server> = BTreeMap::new();
    let mut told: BTreeMap<NsName, u16> = BTreeMap::new();
    loop {
        let wanted = asked.borrow_and_update().clone();
        let failed = reconcile(&mut servers, &wanted, &health).await;
        told.retain(|service, port| failed.iter().any(|(s, p, _)| s == service && p == port));
        for (service, port, message) in &failed {
            if told.insert(service.clone(), *port).is_none() {
                let notice = Notice { service: service.clone(), reason: FAILED_HEALTH_CHECK, message: message.clone() };
                // Without a listener the process is ending.
                let _ = notices.send(notice);
            }
        }
        let changed = match failed.is_empty() {
            true => asked.changed().await,
            false => tokio::time::timeout(RETRY, asked.changed()).await.unwrap_or(Ok(())),
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Brings the servers to what is wanted; gives those that could not be started.
async fn reconcile(
    servers: &mut BTreeMap<u16, Server>,
    wanted: &Asked,
    health: &Arc<Health>,
) -> Vec<(NsName, u16, String)> {
    let is_wanted = |port: &u16, server: &Server| {
        let check = wanted.checks.get(&server.service);
        check.is_some_and(|check| check.port == *port) && server.addresses == wanted.addresses
    };
    servers.retain(|port, server| is_wanted(port, server));
    let mut failed = Vec::new();
    for (service, check) in wanted.checks.iter() {
        if let Some(server) = servers.get(&check.port).filter(|server| server.service == *service) {
            server.local.store(check.local, Ordering::Relaxed);
            continue;
        }
        match start(service, check, &wanted.addresses, health).await {
            Ok(server) => {
                info!(%service, port = check.port, "the health check port answers");
                servers.insert(check.port, server);
            }
            Err(message) => failed.push((service.clone(), check.port, message)),
        }
    }
    failed
}

async fn start(
    service: &NsName,
    check: &Check,
    addresses: &Option<Vec<IpAddr>>,
    health: &Arc<Health>,
) -> Result<Server, String> {
    let local = Arc::new(AtomicUsize::new(check.local));
    let answer = Answer { service: service.clone(), local: local.clone(), health: health.clone() };
    let router = Router::new().fallback(answer_one).with_state(answer);
    let mut tasks = JoinSet::new();
    for listener in bind(check.port, addresses.as_deref()).await? {
        let router = router.clone();
        tasks.spawn(async move { axum::serve(listener, router).await });
    }
    Ok(Server { service: service.clone(), addresses: addresses.clone(), local, _tasks: tasks })
}

async fn bind(port: u16, addresses: Option<&[IpAddr]>) -> Result<Vec<TcpListener>, String> {
    let Some(addresses) = addresses else {
        // One socket takes both families, where there are both.
        let any = match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
            Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
                TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await
            }
            bound => bound,
        };
        return any.map(|listener| vec![listener]).map_err(|e| refusal(port, &e));
    };
    let mut listeners = Vec::new();
    for address in addresses {
        let addr = SocketAddr::new(*address, port);
        listeners.push(TcpListener::bind(addr).await.map_err(|e| format!("on {address}: {}", refusal(port, &e)))?);
    }
    Ok(listeners)
}

fn refusal(port: u16, error: &std::io::Error) -> String {
    format!("node port {port} for health checks cannot be bound: {error}; end what listens there")
}

async fn answer_one(State(answer): State<Answer>) -> Response {
    let local = answer.local.load(Ordering::Relaxed);
    let healthy = answer.health.is_healthy(SystemTime::now());
    let status = if local > 0 && healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (WEIGHT, HeaderValue::from(local)),
    ];
    (status, headers, body(&answer.service, local, healthy)).into_response()
}

/// Indented by tabs, as kube-proxy's.
fn body(NsName { namespace, name }: &NsName, local: usize, healthy: bool) -> String {
    format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\
         \t\"localEndpoints\": {local},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_what_balancers_know() {
        let text = "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\
                    \t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
        assert_eq!(body(&NsName::new("shop", "web"), 2, true), text);
    }
}
