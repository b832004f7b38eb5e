//! Cluster DNS: the zones a cluster's Services make, answers from them, and everything else by upstreams.
//!
//! ```text
//!  Snapshot + Delta ──► Records::update ──► names ─┐
//!                                                  ▼
//!  client's packet ──► Server::handle_query ──► answer ──► Reply
//!                          │ not ours, or an alias of a name outside
//!                          └─► Cache, Forwarder ──► SendUdp, SendTcp ──► handle_upstream ──► Reply
//! ```
//!
//! # Driving it
//!
//! [`Server`] holds it all and does no I/O. The driver owns sockets and clock:
//!
//! - keep one `Instant` from the start; `now` is what passed since;
//! - `ids` is a closure that draws unpredictable numbers;
//! - each packet from a client: [`Server::handle_query`] with a [`Token`] that finds the client again;
//! - carry out the [`Effect`]s in order. A `SendUdp` wants a socket of its own (connected, on a fresh port), read until
//!   its `Close` comes; datagrams go to [`Server::handle_upstream`], errors to [`Server::handle_failure`];
//! - sleep until [`Server::next_deadline`], then [`Server::tick`];
//! - when the node's resolv.conf changes: [`resolvconf::parse`], [`resolvconf::upstreams`], [`Server::set_upstreams`];
//! - when the cluster changes: [`Records::update`] by [`Server::records_mut`], then [`Records::set_serial`] with the time;
//!   after the first full read, [`Records::mark_synced`]. Before that, what is not found is SERVFAIL.
//!
//! A driver with several threads lets each answer from a clone of the [`Records`] with [`answer()`] and brings only
//! [`Outcome::Forward`] and [`Outcome::Chase`] to the one [`Server`], by `handle_query`.
//!
//! A file-only server (`dns -f`) and `render` use [`Records::from_snapshot`] and [`Records::dump`]; [`explain()`] tells
//! which objects an answer came from.
//!
//! This room must never know Kubernetes JSON, sockets, clocks or randomness. Not here: DNSSEC.
//!
//! Spec: RFC 1034, 1035, 2308, 2782, 3596, 6891, 8020; Kubernetes DNS-Based Service Discovery 1.1.0.

pub mod answer;
pub mod build;
pub mod cache;
pub mod client;
pub mod corefile;
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
pub use forward::{Exchange, ForwardConfig};
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
