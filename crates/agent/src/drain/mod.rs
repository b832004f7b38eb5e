//! A pod that is to end leaves its Services before it is told: no node sends it a new connection when the signal comes.
//!
//! ```text
//!  pod deleted ─► wait_spare ──────────────► Ready=False ─► wait_silent ──────────────────────► stop signal
//!                 slices say it terminates;   (pod loop)     slices say it serves no more, and
//!                 another one is ready, or                   every Ready node has programmed that
//!                 nobody will come                           (asked of each agent, :10250)
//! ```
//!
//! Versions are resourceVersions of EndpointSlices: numbers of one store, told in order. A node that has programmed version
//! V has programmed every slice up to V. Nothing here has a limit of its own but [`UNLISTED_PATIENCE`]; the pod loop
//! gives up in time. Source: KEP-1669 (terminating endpoints), Kubernetes "Termination of Pods".

mod peers;
mod selectors;
mod standing;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, Client};
use portolan_model::{Facts, NsName, Text};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::debug;

pub(crate) use peers::{ANSWER_WITHIN, PATH as PROGRAMMED_PATH, Peers, Programmed};
pub(crate) use selectors::{Selectors, ServiceSink};
use standing::Standing;

/// How long slices may keep silent of a pod that a Service selects: longer than controllers take, and short, for a pod
/// that has none of the Service's named ports never appears.
const UNLISTED_PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at whether a successor is still wanted.
const OWNER_RECHECK: Duration = Duration::from_secs(1);

/// What this node's rules follow from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Applied {
    /// As the kernel has them.
    pub(crate) facts: Facts,
    /// Greatest resourceVersion of an EndpointSlice among them; 0 until the first write.
    pub(crate) slices: u64,
}

/// Knows when pods of this node are out of everybody's way.
pub(crate) struct Drain {
    pub(crate) client: Client,
    /// Name of this node.
    pub(crate) node: Text,
    pub(crate) applied: watch::Receiver<Applied>,
    pub(crate) selectors: Arc<Selectors>,
    pub(crate) peers: Peers,
}

impl Drain {
    /// Resolves when the pod's Services can do without it: another endpoint is ready, or none is to come.
    /// `false`: no Service has it.
    pub(crate) async fn wait_spare(&self, pod: &Pod) -> bool {
        let services = self.services(pod);
        let key = key(pod);
        let unlisted_until = Instant::now() + UNLISTED_PATIENCE;
        let mut applied = self.applied.clone();
        loop {
            let standing = standing::of(&applied.borrow_and_update().facts, &services, &key);
            let until = match standing {
                Standing::Unlisted => return false,
                Standing::Awaited if Instant::now() >= unlisted_until => return false,
                Standing::Awaited => unlisted_until,
                Standing::Leaving | Standing::Mute => return true,
                Standing::Sole if !self.has_successor(pod).await => return true,
                Standing::Sole | Standing::Listed => Instant::now() + OWNER_RECHECK,
            };
            debug!(pod = %key, ?standing, "the pod is held");
            // Late or not, it is looked at again. The sender lives as long as the process.
            let _ = tokio::time::timeout_at(until, applied.changed()).await;
        }
    }

    /// Resolves when no Ready node sends new connections to the pod; its status must say that it is not ready.
    pub(crate) async fn wait_silent(&self, pod: &Pod) {
        let services = self.services(pod);
        let key = key(pod);
        let mut applied = self.applied.clone();
        let version = loop {
            let known = applied.borrow_and_update().clone();
            if standing::of(&known.facts, &services, &key) <= Standing::Mute {
                break known.slices;
            }
            let _ = applied.changed().await;
        };
        self.wait_everywhere(version).await;
    }

    /// Until every other Ready node has programmed `version`. One that stops being Ready is not waited for.
    async fn wait_everywhere(&self, version: u64) {
        let mut applied = self.applied.clone();
        loop {
            let facts = applied.borrow_and_update().facts.clone();
            self.peers.retain(|name| facts.nodes.contains_key(name));
            let others = facts.nodes.iter().filter(|(name, node)| **name != self.node && node.ready);
            let asked =
                others.filter_map(|(name, node)| Some(self.peers.reach(name, *node.addresses.first()?, version)));
            tokio::select! {
                _ = futures::future::join_all(asked) => return,
                changed = applied.changed() => if changed.is_err() { return },
            }
        }
    }

    fn services(&self, pod: &Pod) -> Vec<NsName> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        self.selectors.selecting(namespace, pod.metadata.labels.as_ref())
    }

    /// Whether a ReplicaSet puts another pod in this one's place. A doubt counts as yes: the pod loop's limit ends it.
    async fn has_successor(&self, pod: &Pod) -> bool {
        let Some(owner) = replica_set_of(pod) else { return false };
        let space = pod.metadata.namespace.as_deref().unwrap_or_default();
        let (sets, spaces) =
            (Api::<ReplicaSet>::namespaced(self.client.clone(), space), Api::<Namespace>::all(self.client.clone()));
        let (set, space) = match tokio::try_join!(sets.get_opt(&owner.name), spaces.get_opt(space)) {
            Ok(found) => found,
            Err(error) => {
                debug!(%error, "cannot see whether the pod is replaced");
                return true;
            }
        };
        let stays = space.is_some_and(|space| space.metadata.deletion_timestamp.is_none());
        stays && set.is_some_and(|set| replaces(&set, owner))
    }
}

fn replaces(set: &ReplicaSet, owner: &OwnerReference) -> bool {
    let wanted = set.spec.as_ref().map_or(0, |spec| spec.replicas.unwrap_or(1));
    let is_same = set.metadata.uid.as_ref() == Some(&owner.uid);
    is_same && set.metadata.deletion_timestamp.is_none() && wanted > 0
}

/// Only a ReplicaSet starts the next pod before this one has ended.
fn replica_set_of(pod: &Pod) -> Option<&OwnerReference> {
    let owners = pod.metadata.owner_references.iter().flatten();
    owners.into_iter().find(|owner| owner.controller == Some(true) && owner.kind == "ReplicaSet")
}

fn key(pod: &Pod) -> NsName {
    let (namespace, name) = (pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref());
    NsName::new(namespace.unwrap_or_default(), name.unwrap_or_default())
}
