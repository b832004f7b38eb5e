//! Tests of the iptables room: names, text, golden, law, cost, and agreement with the verdict oracle.

mod agree;
mod faults;
mod golden;
mod law;
mod meaning;
mod names;
mod special;
mod text;
