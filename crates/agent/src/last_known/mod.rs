//! What the cluster was last known to be, on disk: a restarted agent answers names from it while the API server is away.
//!
//! ```text
//!  core ──► Applied ──► keep: every few seconds, if it differs ──► dns-state.gz (beside it, synced, renamed)
//!  start: dns-state.gz ──► recall ──► Feed ──► nameserver, not synced: what is not there is SERVFAIL, never NXDOMAIN
//!  cluster told whole ──► Feed ──► everything anew, synced
//! ```
//!
//! The file's time of change says until when its content was confirmed. While the cluster is read anew, piece by piece, DNS goes on
//! with what was recalled: a Service without its slices yet would have no addresses.

mod feed;
mod file;
mod freshness;
mod latency;

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use portolan_model::{Facts, Settings};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::drain::Applied;
pub(crate) use feed::Feed;
pub(crate) use freshness::{Freshness, watch_over};

/// In the node's state folder.
const NAME: &str = "dns-state.gz";
/// Between two looks at whether it is to be written.
pub(crate) const WRITE_EVERY: Duration = Duration::from_secs(2);

/// What a former agent left.
pub(crate) struct Recalled {
    pub(crate) facts: Facts,
    /// When it was confirmed last.
    pub(crate) confirmed: SystemTime,
}

/// Where the file is.
pub(crate) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(NAME)
}

/// Reads what a former agent left. What cannot be used is told of and forgotten.
pub(crate) fn recall(state_dir: &Path, settings: &Settings) -> Option<Recalled> {
    let path = path(state_dir);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            warn!("cannot open {}: {error}; names are answered once the cluster is read", path.display());
            return None;
        }
    };
    let confirmed = file.metadata().and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    match file::read(file, settings) {
        Ok(facts) => {
            info!(
                services = facts.services.len(),
                "names are answered from {} until the cluster is read",
                path.display()
            );
            Some(Recalled { facts, confirmed })
        }
        Err(reason) => {
            warn!("{} is left aside: {reason}; names are answered once the cluster is read", path.display());
            None
        }
    }
}

/// Writes what is applied whenever it differs, looking `every` so often, until the process ends.
pub(crate) async fn keep(
    path: PathBuf,
    settings: Arc<Settings>,
    mut applied: watch::Receiver<Applied>,
    freshness: Arc<Freshness>,
    every: Duration,
) {
    let mut written: Option<Facts> = None;
    loop {
        tokio::time::sleep(every).await;
        let facts = applied.borrow_and_update().facts.clone();
        // Until the cluster was told whole nothing is applied.
        if freshness.is_told() && written.as_ref().is_none_or(|known| differ(known, &facts)) {
            let (to, of, all) = (path.clone(), settings.clone(), facts.clone());
            let done = tokio::task::spawn_blocking(move || save(&to, &all, &of)).await;
            match done.unwrap_or_else(|e| Err(std::io::Error::other(e))) {
                Ok(()) => {
                    debug!(services = facts.services.len(), "the state of DNS is on disk");
                    written = Some(facts);
                }
                Err(error) => warn!("cannot write {}: {error}", path.display()),
            }
        }
        if written.is_some() {
            confirm(&path, freshness.confirmed());
        }
    }
}

/// In what makes names.
fn differ(a: &Facts, b: &Facts) -> bool {
    let same_maps = a.services.ptr_eq(&b.services) && a.slices.ptr_eq(&b.slices);
    !(same_maps && a.namespaces == b.namespaces)
        && (a.namespaces != b.namespaces || a.services != b.services || a.slices != b.slices)
}

/// Written whole beside the old one, synced, then put in its place.
fn save(path: &Path, facts: &Facts, settings: &Settings) -> std::io::Result<()> {
    let fresh = path.with_extension("new");
    let file = File::create(&fresh)?;
    file::write(facts, settings, BufWriter::new(&file))?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)
}

/// Notes on the file until when it held.
fn confirm(path: &Path, at: SystemTime) {
    let noted = File::options().write(true).open(path).and_then(|file| file.set_modified(at));
    if let Err(error) = noted {
        debug!(%error, "the time of {} was not noted", path.display());
    }
}

#[cfg(test)]
mod over_time;
#[cfg(test)]
pub(crate) use over_time::quiet_nameserver;
#[cfg(test)]
#[path = "tests.rs"]
mod tests;
