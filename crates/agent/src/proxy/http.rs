//! The proxy's HTTP servers: `/healthz` and `/livez` for balancers and supervisors, `/metrics`, `/proxyMode` and
//! `/configz` for people and their tools.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use portolan_model::Family;
use serde_json::Value;
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::proxy::health::Health;
use crate::proxy::metrics::Metrics;

/// How long an address that could not be bound waits for another try.
const RETRY: Duration = Duration::from_secs(2);

/// What the health server answers from.
#[derive(Clone)]
pub(crate) struct HealthPage {
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
}

/// What the metrics server answers from.
#[derive(Clone)]
pub(crate) struct MetricsPage {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) families: Vec<Family>,
    /// `iptables` or `nftables`.
    pub(crate) mode: &'static str,
    /// The configuration in force, by its group.
    pub(crate) config: Arc<Value>,
}

/// `/healthz` and `/livez`.
pub(crate) fn health_router(page: HealthPage) -> Router {
    Router::new().route("/healthz", get(healthz)).route("/livez", get(livez)).with_state(page)
}

/// `/metrics`, `/proxyMode`, `/configz`.
pub(crate) fn metrics_router(page: MetricsPage) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/proxyMode", get(|State(page): State<MetricsPage>| async move { page.mode }))
        .route(
            "/configz",
            get(|State(page): State<MetricsPage>| async move { axum::Json(page.config.as_ref().clone()) }),
        )
        .with_state(page)
}

/// Binds and serves in the background; where the address is taken, it is tried again.
pub(crate) fn serve_patiently(what: &'static str, addr: SocketAddr, router: Router) {
    tokio::spawn(async move {
        let mut told = false;
        loop {
            match bind(what, addr).await {
                Ok(listener) => return run(listener, router).await,
                Err(error) if !told => {
                    told = true;
                    warn!("{error}; it is tried again");
                }
                Err(_) => {}
            }
            tokio::time::sleep(RETRY).await;
        }
    });
}

/// Binds; the error says what to do.
pub(crate) async fn bind(what: &str, addr: SocketAddr) -> Result<TcpListener, String> {
    let listener = TcpListener::bind(addr).await;
    let listener = listener
        .map_err(|e| format!("cannot bind {addr}/tcp for {what}: {e}; end what listens there, or choose another"))?;
    info!(%addr, "{what} answers");
    Ok(listener)
}

/// Serves until the process ends.
pub(crate) async fn run(listener: TcpListener, router: Router) {
    if let Err(error) = axum::serve(listener, router).await {
        warn!(%error, "an HTTP server ended");
    }
}

async fn healthz(State(page): State<HealthPage>) -> Response {
    let report = page.health.report(SystemTime::now());
    let well = report.healthy && report.eligible;
    page.metrics.healthz_answered(well);
    answer(well, &report.json())
}

async fn livez(State(page): State<HealthPage>) -> Response {
    let report = page.health.report(SystemTime::now());
    page.metrics.livez_answered(report.healthy);
    answer(report.healthy, &report.json_without_node())
}

fn answer(well: bool, body: &Value) -> Response {
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (status, headers, body.to_string()).into_response()
}

async fn metrics(State(page): State<MetricsPage>) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], page.metrics.text(&page.families)).into_response()
}
