//! nftables mode: one table per family, dispatch by sets, endpoints in maps; never a chain, rule or set per Service.
//!
//! ```text
//!  prerouting, output ─► services ─┬─ daddr . proto . dport @cluster-ips-N ─► pick-N ─► dnat to … . numgen random mod N map @endpoints
//!                                  ├─ … @external        ─► external (mark)  ─► @external-N ─► pick-external-N
//!                                  ├─ … @external-local  ─► external-local: pods, the node, others
//!                                  └─ a local address, proto . dport @node-ports ─► …
//! ```
//!
//! This room must never know how bytes get into a kernel.

pub mod lang;
mod numbers;
pub mod parse;
pub mod render;
pub mod wire;
