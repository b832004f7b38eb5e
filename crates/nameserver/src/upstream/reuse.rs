//! How often a query to an upstream found a connection open: CoreDNS's `proxy_conn_cache_hits` and `misses`.

use std::sync::atomic::{AtomicU64, Ordering};

use portolan_dns::forward::step::Way;

/// Counts of one server and one way to it.
#[derive(Debug, Default)]
pub(super) struct Reuse {
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What a [`Reuse`] came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reused {
    /// The server, as a Corefile writes it.
    pub(crate) to: String,
    /// In CoreDNS's words.
    pub(crate) proto: &'static str,
    /// Queries that went over a connection that was open.
    pub(crate) hits: u64,
    /// Queries that had a socket or connection made for them; by UDP that is each.
    pub(crate) misses: u64,
}

impl Reuse {
    /// One query more.
    pub(super) fn count(&self, was_open: bool) {
        let count = if was_open { &self.hits } else { &self.misses };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self, to: String, way: Way) -> Reused {
        let proto = match way {
            Way::Udp => "udp",
            Way::Tcp => "tcp",
            Way::Tls => "tcp-tls",
            Way::Https => "https",
        };
        Reused { to, proto, hits: self.hits.load(Ordering::Relaxed), misses: self.misses.load(Ordering::Relaxed) }
    }
}
