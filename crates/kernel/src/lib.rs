//! The kernel's edge: everything that reads or changes the state of one network namespace.
//!
//! ```text
//!   plans (values) ──► ops::Network ──► netlink::Netlink ──► links, addresses, routes, neighbours
//!                      ops::Rules   ──► iptables::Tool   ──► iptables-restore / iptables-save
//!                                       conntrack        ──► flows, both tuples
//!                      nft::Nft      ──► nf_tables, by batches of bytes
//!                      trap::Trap    ──► a packet is traced ──► nftrace::Tracer: rule by rule
//!   probe ──► one packet of ours, known again by its number or payload, and what came of it
//!   udp     many datagrams a call, with the link each came by
//!   agent ◄── netlink::Monitor (what others changed)         sysctl, netns
//! ```
//!
//! Every call acts on the network namespace of the *calling thread*; [`netns::run_in`] gives a
//! closure a thread in another one. Nothing here decides: it carries out values and reports what
//! the kernel answered. No Kubernetes object is known below this line.

pub mod arrival;
pub mod bridge;
pub mod conntrack;
mod conntrack_events;
pub mod fake;
pub mod frames;
pub mod iptables;
pub mod netlink;
pub mod netns;
mod nfnl;
pub mod nft;
pub mod nft_look;
pub mod nft_monitor;
pub mod nft_rules;
pub mod nftrace;
pub mod nlsock;
pub mod ops;
pub mod probe;
pub mod sysctl;
pub mod trap;
pub mod udp;

pub use netlink::{
    AddressInfo, KernelRoute, LinkInfo, LinkKind, Monitor, NetEvent, Netlink, NetlinkError, RouteAnswer, RouteFate,
    RouteFound, RouteKind, RouteQuestion, VethSpec,
};
pub use ops::{Network, Rules};
