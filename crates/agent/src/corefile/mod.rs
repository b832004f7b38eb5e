//! The configuration of cluster DNS in a cluster: ConfigMap `coredns` in kube-system, with `coredns-custom` for what it
//! imports; ours where there is none.
//!
//! ```text
//!  watch of two ConfigMaps ──► Maps ──► read ──► nameserver ──► taken over: kept on disk for a restart
//!                                         └── refused: the old one stays; one Event on the ConfigMap, `status`
//! ```
//!
//! A change is taken over whether the file has `reload` or not: there is no pod of DNS to restart. File names below
//! `/etc/coredns` mean keys of the ConfigMaps, as CoreDNS's Deployment mounts them: `/etc/coredns/NodeHosts` a key of
//! `coredns`, `custom/…` those of `coredns-custom`.

mod event;
mod maps;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use kube::Client;
use portolan_dns::Corefile;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::dns;
pub(crate) use maps::Maps;

/// In the node's state folder: the ConfigMaps of the configuration that was taken over last.
const KEPT: &str = "dns-corefile.json";
/// In the node's state folder: keys of the ConfigMaps as files.
const FILES: &str = "coredns";

/// Where the configuration comes from and what is wrong with it, for `status`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct InForce {
    /// The cluster has a ConfigMap; otherwise it is ours.
    is_users: bool,
    /// The newest one was refused: why. An older one is in force.
    refused: Option<String>,
    refusals: u64,
}

/// The configuration of one node's DNS.
pub(crate) struct Configuration {
    pub(crate) client: Client,
    pub(crate) node: String,
    pub(crate) handle: dns::Handle,
    /// Where there is no ConfigMap.
    pub(crate) shipped: Corefile,
    pub(crate) state_dir: PathBuf,
    pub(crate) in_force: Arc<Mutex<InForce>>,
}

/// Folder that file names in the configuration are relative to.
pub(crate) fn base(state_dir: &Path) -> PathBuf {
    state_dir.join(FILES)
}

/// What was in force when a former agent ended; `None` for ours.
pub(crate) fn recall(state_dir: &Path) -> Option<(Maps, Corefile)> {
    let path = state_dir.join(KEPT);
    let text = std::fs::read_to_string(&path).ok()?;
    let kept: Maps = match serde_json::from_str(&text) {
        Ok(kept) => kept,
        Err(error) => {
            warn!("{} is left aside: {error}", path.display());
            return None;
        }
    };
    match kept.read() {
        Ok(corefile) => corefile.map(|corefile| (kept, corefile)),
        Err(problems) => {
            warn!("{} is left aside: {}", path.display(), problems.join("; "));
            None
        }
    }
}

impl Configuration {
    /// Follows the ConfigMaps until the process ends. `kept` is in force already.
    pub(crate) async fn follow(self, kept: Maps) {
        let (sender, mut told) = mpsc::unbounded_channel();
        watch::start(&self.client, &sender);
        let mut seen = watch::Seen::default();
        let mut last = kept;
        while let Some(news) = told.recv().await {
            seen.take(news);
            while let Ok(news) = told.try_recv() {
                seen.take(news);
            }
            if let Some(maps) = seen.whole()
                && *maps != last
            {
                last = maps.clone();
                self.take_over(maps, seen.uid()).await;
            }
        }
    }

    async fn take_over(&self, maps: &Maps, uid: Option<&str>) {
        let taken = match maps.read() {
            Ok(corefile) => self.configure(maps, corefile.unwrap_or_else(|| self.shipped.clone())).await,
            Err(problems) => Err(problems),
        };
        let is_users = maps.is_there();
        match taken {
            Ok(()) => {
                info!(from_config_map = is_users, "the configuration of cluster DNS is taken over");
                self.note(|state| (state.is_users, state.refused) = (is_users, None));
                self.keep(maps);
            }
            Err(problems) => {
                let why = problems.join("; ");
                warn!("ConfigMap kube-system/coredns is not taken over: {why}; the configuration before it stays");
                self.note(|state| (state.refused, state.refusals) = (Some(why.clone()), state.refusals + 1));
                self.handle.refused_configuration();
                event::write(&self.client, &self.node, uid, &why).await;
            }
        }
    }

    /// Files come first: the nameserver opens them.
    async fn configure(&self, maps: &Maps, corefile: Corefile) -> Result<(), Vec<String>> {
        let base = base(&self.state_dir);
        maps.write_files(&base).map_err(|e| vec![format!("cannot write below {}: {e}", base.display())])?;
        match self.handle.configure(corefile).await {
            Err(dns::ConfigError::Refused(problems)) => Err(problems),
            Err(ended) => Err(vec![ended.to_string()]),
            Ok(()) => Ok(()),
        }
    }

    fn note(&self, change: impl FnOnce(&mut InForce)) {
        change(&mut self.in_force.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn keep(&self, maps: &Maps) {
        let path = self.state_dir.join(KEPT);
        let fresh = path.with_extension("new");
        let text = serde_json::to_string(maps).expect("plain values have a JSON form");
        if let Err(error) = std::fs::write(&fresh, text).and_then(|()| std::fs::rename(&fresh, &path)) {
            warn!("cannot write {}: {error}; a restart begins with the configuration before this one", path.display());
        }
    }
}

impl InForce {
    pub(crate) fn json(&self) -> Value {
        let from = if self.is_users { "ConfigMap kube-system/coredns" } else { "shipped" };
        json!({ "from": from, "refused": self.refused, "refusals": self.refusals })
    }

    /// What a former agent had in force.
    pub(crate) fn recalled() -> Self {
        Self { is_users: true, ..Self::default() }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
