//! What this node tells of packets and of itself, for those who follow a packet: `/portolan/v1/settings`, `…/trace`.
//!
//! ```text
//!  GET  /portolan/v1/settings         NodeSettings    what to plan with, to plan what this node plans
//! ```

mod settings;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;

use crate::api::NodeApi;

pub(crate) use settings::Fixed;

/// Paths for the API server's certificate only.
pub(crate) fn routes() -> Router<Arc<NodeApi>> {
    Router::new().route("/portolan/v1/settings", get(settings::get))
}
