//! Between core and nameserver: hides a cluster that is read piece by piece behind what was recalled.

use std::sync::Arc;
use std::time::SystemTime;

use portolan_ingest::Event;
use portolan_model::{Delta, Facts, Settings, Snapshot, resolve};

use super::latency::Latency;
use crate::dns;

/// Where the core tells DNS of each snapshot.
pub(crate) struct Feed {
    handle: dns::Handle,
    /// What DNS answers from until the cluster was told whole.
    recalled: Option<Snapshot>,
    latency: Latency,
    /// Where waiting is done; `None` in tests of the core.
    runtime: Option<tokio::runtime::Handle>,
}

impl Feed {
    /// Tells the nameserver of `recalled` at once.
    pub(crate) fn start(handle: dns::Handle, settings: &Arc<Settings>, recalled: Option<&Facts>) -> Self {
        let recalled = recalled.map(|facts| resolve(facts, &Snapshot::empty(settings.clone()), &facts.all()).0);
        if let Some(snapshot) = &recalled {
            handle.zones(Arc::new(snapshot.clone()), Delta::all(snapshot), false);
        }
        let runtime = tokio::runtime::Handle::try_current().ok();
        Self { handle, recalled, latency: Latency::new(SystemTime::now()), runtime }
    }

    /// An event came at `seen`.
    pub(crate) fn saw(&mut self, event: &Event, seen: SystemTime) {
        self.latency.saw(event, seen);
    }

    /// The cluster is now `snapshot`.
    pub(crate) fn tell(&mut self, snapshot: &Arc<Snapshot>, delta: &Delta, whole: bool) {
        if let Some(delta) = pass(&mut self.recalled, snapshot, delta, whole) {
            self.handle.zones(snapshot.clone(), delta, whole);
            self.measure(snapshot);
        }
    }

    /// What is asked for after the zones were told comes when they are answered.
    fn measure(&mut self, snapshot: &Snapshot) {
        let (changes, Some(runtime)) = (self.latency.take(snapshot), &self.runtime) else { return };
        if changes.is_empty() {
            return;
        }
        let handle = self.handle.clone();
        runtime.spawn(async move {
            handle.records().await;
            let now = SystemTime::now();
            for (kind, at) in changes {
                handle.programmed(kind, now.duration_since(at).unwrap_or_default());
            }
        });
    }
}

/// What to tell: nothing while what was recalled is better; then everything of both, for names may have gone.
pub(super) fn pass(recalled: &mut Option<Snapshot>, snapshot: &Snapshot, delta: &Delta, whole: bool) -> Option<Delta> {
    match recalled.take_if(|_| whole) {
        Some(before) => {
            let mut all = Delta::all(snapshot);
            all.services.extend(before.services.keys().cloned());
            all.namespaces.extend(before.namespaces.iter().cloned());
            Some(all)
        }
        None => recalled.is_none().then(|| delta.clone()),
    }
}
