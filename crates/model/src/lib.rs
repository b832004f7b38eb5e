//! What the cluster is, in values: facts as told, a snapshot as resolved, the delta between two snapshots.
//!
//! ```text
//!  Fact ──► Facts::apply ──► Touched ──► resolve ──► Snapshot + Delta ──► (planners: dataplane, dns, cni)
//! ```
//!
//! [`Facts`] holds what three sources said: the cluster's objects, the node's own attachments, the routes our RIB
//! learned. [`resolve()`] turns the facts one event touched into a [`Snapshot`] that planners read, and a [`Delta`] that
//! says which of its entries changed. [`verdict`] is the slow, obvious oracle that judges the planners.
//!
//! This room must never know Kubernetes JSON, sockets, clocks or the kernel. Both address families are in every type.

pub mod facts;
pub mod names;
pub mod network;
pub mod proxy;
pub mod resolve;
pub mod selector;
pub mod snapshot;
pub mod verdict;

#[cfg(test)]
mod tests;

pub use facts::{
    Attachment, EndpointFact, ExternalPolicy, Fact, Facts, HostPort, LearnedRoute, Node, Pod, Service, ServiceKind,
    ServicePortFact, Slice, SlicePort, Touched,
};
pub use names::{Complaint, Family, IfName, NsName, ObjectKind, ObjectRef, Proto, Text};
pub use network::{BgpConfiguration, BgpFilter, BgpPeer, BlockClaim, IpPool};
pub use proxy::{DetectLocal, NodePortAddresses, ProxySettings};
pub use resolve::resolve;
pub use selector::{Labels, Selector};
pub use snapshot::{
    Delta, Endpoint, Host, Route, RouteCause, RouteKind, ServicePort, ServicePortKey, ServiceView, Settings, Snapshot,
};
