//! A packet's story in the words of Kubernetes: what agents saw, or planners foresee, told as hops with their causes.
//!
//! ```text
//!  agents: Evidence (what the kernel did) ──┐
//!                                           ├─► tell ─► Story ─► text, JSON
//!  plans, by a walk: Evidence (what it would)┘     ▲
//!  API objects: Objects (why an endpoint is not ready, what a selector asks) ──┘
//! ```
//!
//! One way of telling for `trace` and `explain`, so that they cannot differ in words where they agree in fact. This room
//! knows no socket, clock or Kubernetes type; what happened comes in as values, and `now` as one of them.

pub mod change;
mod diagnose;
pub mod evidence;
pub mod flows;
pub mod foresee;
pub mod history;
pub mod knows;
pub mod node;
pub mod objects;
pub mod place;
pub mod story;
pub mod tell;
pub mod text;
pub mod why;
mod words;
pub mod world;

#[cfg(test)]
mod fixture;
