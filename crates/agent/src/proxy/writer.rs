//! What brings one family's rules into the kernel, whatever the backend.

use portolan_dataplane::iptables::DnsPath;
use portolan_model::{Delta, Snapshot};

/// Writes the rules of one family and remembers what the kernel took.
pub(crate) trait Writer: Send {
    /// Says who answers at the cluster DNS address; written with the next update.
    fn set_dns(&mut self, path: DnsPath);
    /// Writes what changed. `false` if the kernel refused: the next call compares everything and writes again.
    fn update(&mut self, snapshot: &Snapshot, delta: &Delta) -> bool;
}
