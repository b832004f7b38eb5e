//! What kube-proxy would give the kernel for the same cluster, generated here and not by our planners.
//!
//! Only what carries the packets is generated and only its way into the kernel is timed: kube-proxy's own planning, its
//! listing of chains before each write and the flush of every chain it adds are left out, all in its favour.

pub mod iptables;
pub mod nft;
pub mod nft_text;
pub mod nft_wire;
