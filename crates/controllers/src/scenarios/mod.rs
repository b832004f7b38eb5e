//! What users and nodes do, and what the controllers make of it.

mod balancers;
mod clean_up;
mod nodes;
mod replica_sets;
mod scheduling;
