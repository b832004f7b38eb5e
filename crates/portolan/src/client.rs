//! How commands reach a cluster: `--kubeconfig`, else `$KUBECONFIG`, else the lab that runs.

use std::path::PathBuf;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::failure::Failure;

/// A client for the cluster that a kubeconfig file describes.
///
/// # Errors
/// The file cannot be read, or does not describe a cluster.
pub async fn connect(kubeconfig: Option<PathBuf>) -> Result<Client, Failure> {
    let named = kubeconfig.or_else(|| std::env::var_os("KUBECONFIG").map(PathBuf::from));
    let path = named.map_or_else(crate::lab::running_kubeconfig, Ok)?;
    let broken = |e: &dyn std::fmt::Display| Failure::input(format!("kubeconfig {}: {e}", path.display()));
    let file = Kubeconfig::read_from(&path).map_err(|e| broken(&e))?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(|e| broken(&e))?;
    Client::try_from(config).map_err(|e| broken(&e))
}
