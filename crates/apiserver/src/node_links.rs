//! Connections to nodes that have answered and wait for another request. A trace asks each node four times in a row; each new
//! connection would cost a handshake with certificates of both sides.
//!
//! They wait for seconds only, and a packet that is not acknowledged ends them: a node whose power was cut answers nothing.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;

/// How long one waits.
const WAITS_FOR: Duration = Duration::from_secs(20);
/// The most that wait, for all nodes together.
const MOST: usize = 256;

/// A connection's sending side.
pub type Sender = SendRequest<Incoming>;

/// Connections that wait. Clones share them.
#[derive(Clone, Default)]
pub struct Links(Arc<Mutex<Vec<Idle>>>);

struct Idle {
    /// The name that its certificate was checked for, and where it is.
    node: (String, SocketAddr),
    sender: Sender,
    since: Instant,
}

impl Links {
    /// One to this node at this address, if one waits.
    pub fn take(&self, node: &str, at: SocketAddr) -> Option<Sender> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(Idle::is_good);
        let place = idle.iter().rposition(|idle| idle.node.0 == node && idle.node.1 == at)?;
        Some(idle.remove(place).sender)
    }

    /// Keeps one for later, once its answer has been read to the end.
    pub fn give_back(&self, node: String, at: SocketAddr, mut sender: Sender) {
        let links = self.clone();
        tokio::spawn(async move {
            // One whose answer was left in the middle, or that the node has closed, is of no more use.
            if sender.ready().await.is_err() {
                return;
            }
            links.keep(Idle { node: (node, at), sender, since: Instant::now() });
            tokio::time::sleep(WAITS_FOR).await;
            links.0.lock().unwrap_or_else(PoisonError::into_inner).retain(Idle::is_good);
        });
    }

    fn keep(&self, idle: Idle) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < MOST {
            all.push(idle);
        }
    }
}

impl Idle {
    fn is_good(&self) -> bool {
        self.since.elapsed() < WAITS_FOR && self.sender.is_ready()
    }
}
