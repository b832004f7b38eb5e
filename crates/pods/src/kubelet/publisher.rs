//! Writes the newest status of a pod to the cluster, again and again until it is taken; older ones are skipped.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::PodStatus;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::PodApi;
use crate::ident::PodIdent;

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

pub(super) struct Publisher {
    newest: watch::Sender<Option<PodStatus>>,
    task: JoinHandle<()>,
}

impl Publisher {
    pub(super) fn start(api: Arc<dyn PodApi>, pod: PodIdent) -> Self {
        let (newest, receiver) = watch::channel(None);
        let task = tokio::spawn(publish(api, pod, receiver));
        Self { newest, task }
    }

    pub(super) fn send(&self, status: PodStatus) {
        self.newest.send_replace(Some(status));
    }

    /// Nothing more is written after this.
    pub(super) async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

async fn publish(api: Arc<dyn PodApi>, pod: PodIdent, mut newest: watch::Receiver<Option<PodStatus>>) {
    while newest.changed().await.is_ok() {
        let mut pause = FIRST_RETRY;
        loop {
            let Some(status) = newest.borrow_and_update().clone() else { break };
            match api.patch_status(&pod, status).await {
                Ok(()) => break,
                Err(error) => tracing::debug!(%pod, error, "status not taken; it is sent again"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_RETRY);
        }
    }
}

/// Tries until the cluster has taken it.
pub(super) async fn finalize(api: &Arc<dyn PodApi>, pod: &PodIdent, status: PodStatus) {
    let _ = api.patch_status(pod, status).await;
    let mut pause = FIRST_RETRY;
    while let Err(error) = api.finalize_delete(pod).await {
        tracing::debug!(%pod, error, "deletion not taken; it is sent again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_RETRY);
    }
}
