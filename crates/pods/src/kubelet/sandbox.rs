//! A pod's sandbox and network: made, found again, taken down.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Shared;
use crate::cgroups;
use crate::ident::PodIdent;
use crate::shim::client::{Seed, Shim, ShimError};
use crate::shim::protocol::Request;
use crate::shim::state::{PodState, Run};

/// The agent's note of the pod's addresses in the shim's state.
const NOTE_IPS: &str = "ips";

/// The addresses noted when the network was made.
pub(super) fn noted_ips(state: &PodState) -> Option<Vec<IpAddr>> {
    let text = state.notes.get(NOTE_IPS)?;
    Some(text.split(',').filter_map(|ip| ip.parse().ok()).collect())
}

/// Finds the running shim of a pod, if there is one of our version with a sandbox.
pub(super) async fn find(dir: &Path) -> Option<(Shim, PodState)> {
    if !dir.join("state.json").exists() {
        return None;
    }
    let shim = Shim::connect(dir).await.ok()?;
    let state = shim.fresh_state().await.ok()?;
    Some((shim, state))
}

/// A shim with a sandbox and a network, and its state then; `known` is one that runs already.
pub(super) async fn make(
    shared: &Shared,
    ident: &PodIdent,
    known: &mut Option<Shim>,
    hostname: Option<String>,
    runs: Vec<Run>,
) -> Result<PodState, String> {
    let text = |error: ShimError| error.to_string();
    let dir = shared.config.state_dir.join(&ident.uid);
    if known.is_none() {
        let seed = Seed { pod: ident.clone(), runs, limits: shared.config.limits.clone() };
        *known = Some(Shim::start(&shared.config.exe, &dir, &seed).await.map_err(text)?);
    }
    let Some(shim) = known else {
        unreachable!("it was made just above");
    };
    let own_network = hostname.is_some();
    shim.call(&Request::Sandbox { hostname }).await.map_err(text)?;
    let state = shim.fresh_state().await.map_err(text)?;
    let sandbox = state.sandbox.ok_or("the sandbox ended at once")?;
    if noted_ips(&state).is_some() {
        return Ok(state);
    }
    let ips = if own_network {
        let netns = PathBuf::from(format!("/proc/{}/ns/net", sandbox.pid));
        attach(shared, ident, &netns).await?
    } else {
        shared.config.node_ips.clone()
    };
    let value = ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    shim.call(&Request::Note { key: NOTE_IPS.to_owned(), value }).await.map_err(text)?;
    shim.fresh_state().await.map_err(text)
}

async fn attach(shared: &Shared, ident: &PodIdent, netns: &Path) -> Result<Vec<IpAddr>, String> {
    match shared.network.attach(ident, netns).await {
        Ok(ips) => Ok(ips),
        Err(reason) => {
            // So that the next attempt starts clean.
            let _ = shared.network.detach(ident).await;
            Err(format!("failed to set up the network of pod {ident}: {reason}"))
        }
    }
}

/// Takes everything of a pod down: network, shim and what it ran, folder. Goes on over errors.
pub(super) async fn tear_down(shared: &Shared, ident: &PodIdent, shim: Option<Shim>) {
    if let Err(reason) = shared.network.detach(ident).await {
        tracing::warn!(pod = %ident, reason, "network not taken down cleanly");
    }
    let dir = shared.config.state_dir.join(&ident.uid);
    end_processes(&dir, shim).await;
    if let Some(limits) = shared.config.limits.clone() {
        let uid = ident.uid.clone();
        // What is left is the lab's to remove.
        let _ = tokio::task::spawn_blocking(move || cgroups::remove_pod(&limits, &uid)).await;
    }
    if let Err(error) = remove_folder(&dir).await {
        tracing::warn!(pod = %ident, %error, "the pod's folder is not deleted");
    }
}

/// Asks the shim to end, and ends by pid what it cannot.
pub(super) async fn end_processes(dir: &Path, shim: Option<Shim>) {
    let state = PodState::load(dir);
    if let Some(shim) = shim {
        let _ = shim.call(&Request::Quit).await;
    }
    let Some(state) = state else { return };
    let processes = state.runs.iter().filter(|run| run.ended.is_none()).filter_map(|run| run.process);
    for process in processes.chain(state.sandbox).chain([state.shim]) {
        process.signal(libc::SIGKILL);
    }
}

/// A process that is just dying may hold the folder for a moment.
async fn remove_folder(dir: &Path) -> std::io::Result<()> {
    for pause_ms in [0, 20, 100, 500] {
        tokio::time::sleep(std::time::Duration::from_millis(pause_ms)).await;
        match tokio::fs::remove_dir_all(dir).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound && pause_ms < 500 => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            result => return result,
        }
    }
    Ok(())
}

/// A folder whose pod the cluster does not know any more.
pub(super) async fn sweep(shared: Arc<Shared>, dir: PathBuf) {
    let shim = Shim::connect(&dir).await.ok();
    let known = PodState::load(&dir).map(|state| state.pod);
    let named = std::fs::read(dir.join("pod.json")).ok();
    let named = named.and_then(|bytes| serde_json::from_slice::<Seed>(&bytes).ok()).map(|seed| seed.pod);
    match known.or(named) {
        Some(ident) => {
            tracing::info!(pod = %ident, "a pod the cluster no longer knows is taken down");
            tear_down(&shared, &ident, shim).await;
        }
        None => drop(remove_folder(&dir).await),
    }
}
