//! What the tests of cluster DNS share: a place for a server, a stranger's reader, the table's files.

// Each test binary uses its own part of this room.
#![allow(dead_code)]

pub mod group;
pub mod place;
pub mod upstream;
pub mod wire;
