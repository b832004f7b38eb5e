//! nftables mode: one table per family, dispatch by sets, endpoints in maps; never a chain, rule or set per Service.
//!
//! ```text
//!  prerouting, output ─► services ─┬─ daddr . proto . dport @cluster-ips-N ─► pick-N ─► dnat to … . numgen random mod N map @endpoints
//!                                  ├─ … @external        ─► external (mark)  ─► @external-N ─► pick-external-N
//!                                  ├─ … @external-local  ─► external-local: pods, the node, others
//!                                  └─ a local address, proto . dport @node-ports ─► …
//! ```
//!
//! ```text
//!  Snapshot + Delta ──► Desired::update ──► Changes ──► in_chunks ──► Transaction: steps with their owners ──► wire
//!  kernel's dump ──► parse ──► Desired::adopt, Repair::of(&Desired, &Table) ──► the steps that are missing
//!  packet ──► trace::walk(table) ──► outcomes, judged by model::verdict
//!  rule + packet ──► meaning::told ──► what it is there for, and whose
//! ```
//!
//! This room must never know how bytes get into a kernel.

pub mod changes;
pub mod claims;
mod fixed;
pub mod in_place;
pub mod lang;
pub mod meaning;
pub mod names;
mod numbers;
pub mod options;
pub mod parse;
pub mod plan;
pub mod render;
pub mod repair;
pub mod service;
pub mod slots;
mod start;
mod stock;
pub mod trace;
pub mod wire;

#[cfg(test)]
mod tests;

pub use changes::{Changes, Transaction};
pub use options::{DnsPath, Options};
pub use plan::Desired;
pub use repair::Repair;
pub use service::Owner;
pub use slots::Target;
