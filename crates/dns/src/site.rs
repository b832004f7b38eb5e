//! What answers without asking anybody: zones and configuration as one value that many threads read.
//!
//! ```text
//!  packet, client ──► Site::answer_now ──► Replied   the reply is in `out`
//!                          ├──► Silent    nothing is to be sent
//!                          └──► Later     an upstream, or time, is needed: the server's business
//! ```
//!
//! A site never changes; who changes the zones or the configuration makes the next one, which shares all that is alike.

use std::sync::Arc;
use std::time::Duration;

use crate::answer::{Outcome, answer};
use crate::client::Client;
use crate::corefile::Corefile;
use crate::name::Name;
use crate::pods::Pods;
use crate::records::Records;
use crate::wire::Rcode;
use crate::zone::{PodRecords, ZoneConfig};

/// Zones and configuration, ready to answer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Site {
    config: Arc<Corefile>,
    records: Records,
    pods: Pods,
}

/// What came of a packet at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Now {
    /// The reply is written.
    Replied(Served),
    /// Send nothing.
    Silent,
    /// Give the packet to the server.
    Later,
}

/// A reply, for those who count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// Its code.
    pub rcode: Rcode,
}

impl Site {
    /// A site of these zones and pods.
    pub fn new(config: Arc<Corefile>, records: Records, pods: Pods) -> Self {
        Self { config, records, pods }
    }

    /// A site that holds nothing, as before the first word of a cluster.
    pub fn nothing() -> Self {
        let zone = ZoneConfig {
            zone: Name::root(),
            ttl_secs: 5,
            pods: PodRecords::Disabled,
            endpoint_pod_names: false,
            own_addresses: Vec::new(),
            own_ranges: Vec::new(),
        };
        Self::new(Arc::default(), Records::new(zone), Pods::default())
    }

    /// The configuration.
    pub fn config(&self) -> &Corefile {
        &self.config
    }

    /// The cluster's records.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// The pods that may ask.
    pub fn pods(&self) -> &Pods {
        &self.pods
    }

    /// Answers `packet` into `out`, which is emptied first, if that needs nobody else. Takes no time to speak of: no lock
    /// that is held for long, no allocation for the usual query.
    pub fn answer_now(&self, packet: &[u8], client: &Client, _now: Duration, out: &mut Vec<u8>) -> Now {
        out.clear();
        match answer(&self.records, packet, client.transport) {
            Outcome::Reply(bytes) => {
                out.extend_from_slice(&bytes);
                Now::Replied(Served { rcode: Rcode(out.get(3).map_or(0, |flags| u16::from(flags & 15))) })
            }
            Outcome::Silence => Now::Silent,
            Outcome::Forward | Outcome::Chase(_) => Now::Later,
        }
    }
}
