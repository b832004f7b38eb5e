//! Tables written by xtask; see `xtask/src/main.rs` for where each comes from.

#[rustfmt::skip]
pub(crate) mod documents;
#[rustfmt::skip]
pub(crate) mod messages;
#[rustfmt::skip]
pub(crate) mod types;
