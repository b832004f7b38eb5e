//! `portolan dns`: cluster DNS from files.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use portolan_model::Settings;

use crate::failure::Failure;
use crate::settings::ClusterArgs;

/// Serves the objects of `files` on `listen` until the process is told to end.
///
/// # Errors
/// Files that cannot be read, an address that cannot be bound.
pub async fn serve(
    files: &[PathBuf],
    listen: SocketAddr,
    resolv_conf: &Path,
    cluster: &ClusterArgs,
) -> Result<(), Failure> {
    let settings = Settings { cluster_dns: vec![listen.ip()], ..cluster.settings("files") };
    let snapshot = crate::render::snapshot(files, settings)?;
    tokio::select! {
        ended = portolan_agent::dns::serve_snapshot(snapshot, listen, resolv_conf, crate::settings::DNS_TTL_SECS) => ended.map_err(Failure::machine),
        () = crate::process::told_to_end() => Ok(()),
    }
}
