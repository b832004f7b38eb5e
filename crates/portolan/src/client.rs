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
    let path = kubeconfig
        .or_else(|| std::env::var_os("KUBECONFIG").map(PathBuf::from))
        .or_else(crate::lab::running_kubeconfig)
        .ok_or_else(|| Failure::input("no cluster is named: run `portolan up`, or give --kubeconfig FILE"))?;
    let broken = |e: &dyn std::fmt::Display| Failure::input(format!("kubeconfig {}: {e}", path.display()));
    let file = Kubeconfig::read_from(&path).map_err(|e| broken(&e))?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(|e| broken(&e))?;
    Client::try_from(config).map_err(|e| broken(&e))
}
