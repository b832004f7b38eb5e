//! How commands reach a cluster: `--kubeconfig`, else `$KUBECONFIG`, else the lab that runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tower::Layer;

use crate::failure::Failure;

/// A client for the cluster that a kubeconfig file describes.
///
/// # Errors
/// The file cannot be read, or does not describe a cluster.
pub async fn connect(kubeconfig: Option<PathBuf>) -> Result<Client, Failure> {
    let path = self::kubeconfig(kubeconfig)?;
    Client::try_from(config(&path).await?).map_err(|e| broken(&path, &e))
}

/// The file that describes the cluster: as told, else as `$KUBECONFIG` says, else of the lab that is up.
///
/// # Errors
/// Nothing is told, and no lab is up or more than one.
pub fn kubeconfig(told: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let named = told.or_else(|| std::env::var_os("KUBECONFIG").map(PathBuf::from));
    named.map_or_else(crate::lab::running_kubeconfig, Ok)
}

/// How long the server may be silent on a connection that is in use before it counts as lost.
const SILENCE: Duration = Duration::from_secs(8);
/// A packet that asks whether the server is there goes out after this much silence, and then as often.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const LOOKS: u32 = 3;
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// The same for a node: a server that is out of reach is noticed within seconds, watches included, and found again
/// within seconds of being back.
///
/// A client without this hears of a cut only when the kernel gives up sending, after a quarter of an hour; and a watch,
/// which sends nothing, never. It speaks HTTPS straight to the server: no proxy, no plugins for credentials.
///
/// # Errors
/// As [`connect`].
pub async fn connect_from_afar(kubeconfig: PathBuf) -> Result<Client, Failure> {
    let config = config(&kubeconfig).await?;
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_WITHIN));
    tcp.set_keepalive(Some(LOOK_EVERY));
    tcp.set_keepalive_interval(Some(LOOK_EVERY));
    tcp.set_keepalive_retries(Some(LOOKS));
    tcp.set_tcp_user_timeout(Some(SILENCE));
    let https = config.rustls_https_connector_with_connector(tcp).map_err(|e| broken(&kubeconfig, &e))?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(https);
    Ok(Client::new(config.base_uri_layer().layer(http), config.default_namespace))
}

async fn config(path: &Path) -> Result<Config, Failure> {
    let file = Kubeconfig::read_from(path).map_err(|error| match error {
        KubeconfigError::ReadConfig(error, _) => {
            Failure::input(format!("cannot read kubeconfig {}: {error}", path.display()))
        }
        other => broken(path, &other),
    })?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(|e| broken(path, &e))
}

fn broken(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    // What follows the first line draws the place of the fault, over several.
    let error = error.to_string();
    Failure::input(format!("kubeconfig {}: {}", path.display(), error.lines().next().unwrap_or_default()))
}
