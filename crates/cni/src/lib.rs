//! How a pod gets its network: the addresses it is lent, and what its link, routes and sysctls shall be.
//!
//! ```text
//!  Node podCIDRs ──► ipam::Ledger ──► addresses ──► AttachmentPlan::new ──► values ──► kernel (elsewhere)
//!                        │                                │
//!                        └──► JSON for a synced file      └──► model Attachment (a fact, from which routes follow)
//! ```
//!
//! [`protocol`] reads what a runtime asks of the CNI plugin, and shapes the answer. [`ipam`] lends addresses out of this
//! node's blocks and never one twice. [`attach`] says what an attached pod looks like, in Calico's numbers.
//!
//! This room must never know the kernel, files, sockets or the clock: time is a parameter, the ledger is text. Spec: CNI
//! 1.0 and 1.1 for what an attachment is; Calico for names and addresses of links.

pub mod attach;
pub mod ipam;
pub mod protocol;

#[cfg(test)]
mod tests;

pub use attach::{
    AttachmentPlan, Encapsulation, HostEnd, Mac, PodEnd, PodRoute, Sysctl, host_link_name, pod_mtu_bytes,
};
pub use ipam::{BlockUsage, Handle, IpamError, Lease, Ledger, LedgerError, Timestamp};
