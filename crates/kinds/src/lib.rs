//! Kubernetes object types: reading, checking, defaulting, validating and patching them.
//!
//! ```text
//! YAML, JSON ─► yaml ─► manifest ─┐
//! protobuf ───► protobuf ─────────┴─► Value ─► schema::check ─► defaults::apply ─► validate ─► stored
//!                                      ▲                                             │
//!                     patch::strategic ┘                                             └─► typed: Pod, Service…
//! ```
//!
//! Everything works on `serde_json::Value`, keyed by `apiVersion` and `kind`; `typed` turns a
//! checked value into a k8s-openapi type. This room is pure: no clock, no randomness, no files,
//! no network. It must never know which addresses, ports or names are already taken: that is the
//! API server's.
//!
//! Source: Kubernetes 1.33 API, by way of k8s-openapi 0.29 and k8s-pb 0.9 (see `xtask`).

pub mod defaults;
pub mod duplicates;
mod generated;
pub mod manifest;
pub mod merge_keys;
pub mod names;
pub mod openapi;
pub mod ownership;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod schema;
pub mod typed;
pub mod validate;
mod value;
pub mod yaml;

#[cfg(test)]
mod pipeline_tests;
