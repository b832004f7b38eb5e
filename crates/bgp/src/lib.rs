//! BGP between nodes: every session of one node as a state machine, its RIBs, and what it tells each peer.
//!
//! ```text
//!   Input (connected, bytes, closed, timer)                       set_peers / set_exports
//!        │                                                                 │
//!        ▼                                                                 ▼
//!   link: framing, RFC 4271 §8 FSM ──► update: routes ──► rib ──► Effect::Learned     advert: UPDATEs ──► Effect::Send
//! ```
//!
//! [`Speaker`] is sans-I/O: the caller owns sockets and the clock, hands in what happened with the time it happened, and
//! carries out the [`Effect`]s. One session is one TCP connection; while two connections to a peer race (RFC 4271 §6.8)
//! both have a state machine, and the peer decides which one lives.
//!
//! This room must never know Kubernetes, the kernel's routes, sockets or the clock; `rustbgpd-wire` and `rustbgpd-fsm`
//! must not show in its public types.
//!
//! Spec: RFC 4271 (BGP-4), 4760 (IPv6 by MP attributes), 6793 (4-octet AS), 7606 (revised UPDATE errors), 2918 and 7313
//! (route refresh), 4456 §8 (ORIGINATOR_ID on receipt), 4724 §2 (End-of-RIB). Graceful restart and reflecting are not here.

mod advert;
mod config;
mod link;
mod peer;
mod rib;
mod speaker;
mod update;

#[cfg(test)]
mod tests;

pub use config::{Asn, Export, Families, NextHops, PeerConfig, Policy, Restarted, SpeakerConfig};
pub use portolan_model::LearnedRoute;
pub use speaker::{ConnId, Direction, Effect, Input, LogLevel, SessionState, SessionStatus, Speaker};
