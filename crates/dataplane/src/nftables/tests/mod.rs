//! Tests of the nftables room: agreement with the verdict oracle, planted faults, the law, cost, repair, chunks.

mod agree;
mod kernel;
mod law;
