//! iptables mode: kube-proxy's chains, names and rules to the letter, for both families.
//!
//! ```text
//!  Snapshot + Delta ──► Desired::update ──► Vec<Change> ──► render::restore ──► iptables-restore --noflush
//!  iptables-save ──► parse ──► Repair::of(&Desired, &Saved) ──► the changes and hooks that are missing
//!  packet ──► trace::walk(rules) ──► outcomes, judged by model::verdict
//!  rule ──► meaning::told ──► what it is there for, and whose
//! ```
//!
//! Beside kube-proxy's chains it holds two of its own: `cali-nat-outgoing` (what pods send out of the cluster is
//! masqueraded) and `PORTOLAN-DNS` (port 53 of the cluster DNS address stays out of conntrack while this node answers);
//! and those of the CNI plugin portmap for host ports.
//! This room must never know how rules get into a kernel. Rules for nfacct counters are left out: they fail in a fresh
//! network namespace.

pub mod cleanup;
mod fixed;
pub mod hooks;
pub mod host_ports;
pub mod in_place;
pub mod local;
pub mod meaning;
pub mod names;
pub mod options;
pub mod parse;
pub mod plan;
pub mod render;
pub mod repair;
pub mod rule;
pub mod saved;
pub mod service;
pub mod trace;

#[cfg(test)]
mod tests;

pub use cleanup::cleanup;
pub use hooks::Hook;
pub use options::{DnsPath, Options};
pub use parse::{Difference, ParseError, Saved, compare, parse};
pub use plan::{Desired, RuleSet};
pub use repair::Repair;
pub use rule::{Chain, Change, CtState, Match, Probability, Rule, Sign, Table, Target, Where};
