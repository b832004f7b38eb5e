//! Tests of the nftables room: agreement with the verdict oracle, planted faults, the law, cost, repair, chunks.

mod agree;
mod faults;
mod golden;
mod kernel;
mod law;
mod meaning;
mod repair;
mod special;
