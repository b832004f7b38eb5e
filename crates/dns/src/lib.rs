//! Cluster DNS: the zones a cluster's Services make, answers from them, and everything else by upstreams.
//!
//! ```text
//!  Corefile ──► Setup ──┐
//!  Snapshot ──► Records ┼─► Site ──► answer_now ──► a client's reply, on any thread
//!  pods ──► Pods ───────┘     └──► Server: what upstreams must be asked, and all who wait
//! ```
//!
//! # Driving it
//!
//! A [`Site`] is configuration, records and pods as one value; threads answer from it with [`Site::answer_now`] and bring
//! what comes back as `Later` to the one [`Server`], which does no I/O. Its driver owns sockets and clock:
//!
//! - keep one `Instant` from the start; `now` is what passed since;
//! - `ids` is a closure that draws unpredictable numbers;
//! - each packet for it: [`Server::handle_query`] with a [`Token`] that finds the client again;
//! - carry out the [`Effect`]s in order; what upstreams say goes to [`Server::handle_upstream`], errors to
//!   [`Server::handle_failure`];
//! - sleep until [`Server::next_deadline`], then [`Server::tick`];
//! - when a file as resolv.conf(5) changes: [`resolvconf::parse`], [`resolvconf::upstreams`], [`Server::set_servers`];
//! - when the cluster, pods or the configuration change: the next [`Site`] by its `with_…` methods, then
//!   [`Server::set_site`], and [`Server::configure_upstreams`] after a configuration. Before [`Records::mark_synced`] what
//!   is not found is SERVFAIL.
//!
//! `render` uses [`Records::from_snapshot`] and [`Records::dump`]; [`explain()`] tells which objects an answer came from,
//! [`explain::explain`] how a whole lookup goes.
//!
//! This room must never know Kubernetes JSON, sockets, clocks or randomness. Not here: DNSSEC of our own zones.
//!
//! Spec: RFC 1034, 1035, 2308, 2782, 3596, 6891, 8020; Kubernetes DNS-Based Service Discovery 1.1.0.

pub mod answer;
pub mod build;
pub mod cache;
pub mod client;
pub mod corefile;
pub mod counts;
pub mod explain;
pub mod external;
pub mod forward;
pub mod kubernetes;
pub mod master;
pub mod message;
pub mod name;
pub mod plugin;
pub mod pods;
pub mod rdata;
pub mod records;
pub mod resolvconf;
pub mod server;
pub mod site;
pub mod transfer;
pub mod wire;
pub mod zone;

#[cfg(test)]
mod tests;

pub use answer::{Explained, Outcome, answer, explain};
pub use client::Client;
pub use corefile::Corefile;
pub use forward::Exchange;
pub use name::Name;
pub use plugin::Plugin;
pub use pods::{ClientPod, Pods, PodsChange};
pub use rdata::Rtype;
pub use records::{Changes, Records};
pub use resolvconf::ResolvConf;
pub use server::{Counts, Effect, Server, Token};
pub use site::{Setup, Site};
pub use wire::{Rcode, Transport};
pub use zone::{PodRecords, ZoneConfig};
