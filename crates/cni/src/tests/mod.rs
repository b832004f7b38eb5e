//! Leases against their law, plans against what a pod must look like.

mod attach;
mod ipam;
