//! What this node tells of packets and of itself, for those who follow a packet: `/portolan/v1/settings`, `…/trace`.
//!
//! ```text
//!  GET  /portolan/v1/settings         NodeSettings    what to plan with, to plan what this node plans
//!  POST /portolan/v1/trace            Watch ─► Watching      a thread: trap and tracer
//!  GET  /portolan/v1/trace/ID         Seen: packets so far, waited for
//!  POST /portolan/v1/trace/ID/end     NodeEvidence           passages, rules with their names, flows, routes
//!  POST /portolan/v1/trace/ID/probe   Probe ─► Probed           one packet of ours, from a pod or the node
//! ```
//!
//! A watch leaves nothing: its rules go with its socket. It never touches another's rules, and other traffic costs the kernel two or
//! three comparisons a packet meanwhile.

mod evidence;
mod former;
mod names;
mod passages;
mod probe;
mod requests;
mod resolver;
mod settings;
mod watch;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};

use crate::api::NodeApi;

pub use probe::send_here;
pub(crate) use settings::Fixed;
pub(crate) use watch::Watches;

/// Paths for the API server's certificate only.
pub(crate) fn routes() -> Router<Arc<NodeApi>> {
    Router::new()
        .route("/portolan/v1/settings", get(settings::get))
        .route("/portolan/v1/trace", post(requests::begin))
        .route("/portolan/v1/trace/{id}", get(requests::seen))
        .route("/portolan/v1/trace/{id}/end", post(requests::end))
        .route("/portolan/v1/trace/{id}/probe", post(probe::post))
}
