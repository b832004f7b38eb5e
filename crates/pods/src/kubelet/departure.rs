//! How a pod that is deleted leaves its Services before its containers are told to stop.
//!
//! ```text
//!  Stop ─► wait_spare ─► Leaving (the status says: not ready) ─► wait_silent ─► accept queues empty ─► stop signal
//!                              … containers end …        ─► what they sent is taken ─► network goes
//! ```
//!
//! All of it within half of the grace time; then the signal comes all the same, and an event says what was missing.
//! preStop hooks run beside it. A pod of no Service is told at once.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Shared;
use super::worker::Message;
use crate::ident::PodIdent;
use crate::sockets;

/// Between two looks at the pod's sockets.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// After the last node changed its rules: what it sent on before that is on the way no longer than this.
const IN_FLIGHT: Duration = Duration::from_millis(100);
/// How long the network outlives the containers at most, for data that was sent and not yet taken.
const FLUSH_PATIENCE: Duration = Duration::from_secs(5);

/// A departure that several containers wait for.
pub(super) type Pending = futures::future::Shared<BoxFuture<'static, ()>>;

/// What a departure needs.
pub(super) struct Departure {
    pub(super) shared: Arc<Shared>,
    pub(super) ident: PodIdent,
    pub(super) pod: Pod,
    /// A process in the pod's network namespace.
    pub(super) sandbox_pid: Option<i32>,
    pub(super) inbox: mpsc::UnboundedSender<Message>,
    pub(super) grace_secs: i64,
}

impl Departure {
    /// Resolves when the containers may be told.
    pub(super) async fn take(self) {
        let patience = Duration::from_millis(self.grace_secs.max(0).unsigned_abs().saturating_mul(500));
        let deadline = Instant::now() + patience;
        let (network, from) = (&self.shared.network, Instant::now());
        let missing = match tokio::time::timeout_at(deadline, network.wait_spare(&self.pod)).await {
            Ok(false) => return,
            Ok(true) => None,
            Err(_) => Some("no other endpoint of its Services became ready"),
        };
        let spare_after = from.elapsed();
        // The worker is gone only when the pod is.
        let _ = self.inbox.send(Message::Leaving);
        let missing = match (missing, tokio::time::timeout_at(deadline, self.silence()).await) {
            (None, Err(_)) => Some("not every node has taken it out of its rules"),
            (missing, _) => missing,
        };
        // Nobody is to be told of a pod that ended in the meantime.
        tracing::debug!(pod = %self.ident, ?spare_after, silent_after = ?from.elapsed(), "the pod has left its Services");
        if let Some(missing) = missing.filter(|_| !self.inbox.is_closed()) {
            let message = format!("Stopped before it was free of traffic: {missing} within {patience:?}");
            self.shared.event(&self.ident, "Warning", "NotDrained", &message);
        }
    }

    async fn silence(&self) {
        self.shared.network.wait_silent(&self.pod).await;
        tokio::time::sleep(IN_FLIGHT).await;
        until(self.sandbox_pid, |sockets| !sockets.iter().any(sockets::Socket::waits_for_accept)).await;
    }
}

/// Resolves when everything that ended processes of the pod have sent was taken, or cannot be.
pub(super) async fn flush(sandbox_pid: i32) {
    let taken = until(Some(sandbox_pid), |sockets| !sockets.iter().any(sockets::Socket::is_orphan_with_data));
    // A client that takes nothing must not keep the pod.
    let _ = tokio::time::timeout(FLUSH_PATIENCE, taken).await;
}

/// Looks at the sockets of the namespace until they are as wanted or can be seen no more.
async fn until(pid: Option<i32>, is_fine: impl Fn(&[sockets::Socket]) -> bool) {
    let Some(pid) = pid else { return };
    loop {
        let seen = tokio::task::spawn_blocking(move || sockets::of_process(pid)).await;
        match seen {
            Ok(Ok(sockets)) if !is_fine(&sockets) => tokio::time::sleep(LOOK_AGAIN).await,
            _ => return,
        }
    }
}
