//! Routes: the main table's entries that are ours, as values a netlink socket can send, and what changes them.
//!
//! ```text
//!  Snapshot.routes + Delta ──► Shadow::update ──► Vec<RouteChange> ──► (netlink) ──► refused(dst) … retry()
//!  dump of the table ──► Shadow::repair ──► Vec<RouteChange>
//! ```
//!
//! Ours are told from others' by their protocol number: 80 for what the node itself has (pods, its own blocks), 186,
//! which `ip route` calls `bgp`, for what a peer announced. Routes of other protocols are never touched.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use portolan_model::{Delta, IfName, Route, RouteKind, Snapshot};

/// Protocol of a node's own routes: pods and blocks. The number Calico's agent uses.
pub const PROTO_NODE: u8 = 80;
/// Protocol of routes learned by BGP (`RTPROT_BGP`).
pub const PROTO_BGP: u8 = 186;

/// A route of ours as the kernel is to hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedRoute {
    /// Destination, host bits zero.
    pub dst: IpNet,
    /// Where to.
    pub hop: Hop,
    /// Who made it: [`PROTO_NODE`] or [`PROTO_BGP`].
    pub protocol: u8,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hop {
    /// Out of a link, scope link.
    Link(IfName),
    /// To a next hop, scope universe; the kernel finds the link.
    Via(IpAddr),
    /// Nowhere.
    Blackhole,
}

/// One step from what the kernel holds to what it must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteChange {
    /// Put the route in, in place of any other of ours to the same destination.
    Replace(WantedRoute),
    /// Take it out, as it was; not being there is no error.
    Remove(WantedRoute),
}

impl RouteChange {
    /// The destination it changes.
    pub fn dst(&self) -> IpNet {
        match self {
            Self::Replace(route) | Self::Remove(route) => route.dst,
        }
    }
}

/// The kernel's form of `route`.
pub fn wanted(route: &Route) -> WantedRoute {
    let (hop, protocol) = match &route.kind {
        RouteKind::Link { link } => (Hop::Link(link.clone()), PROTO_NODE),
        RouteKind::Via { gateway } => (Hop::Via(*gateway), PROTO_BGP),
        RouteKind::Blackhole => (Hop::Blackhole, PROTO_NODE),
    };
    WantedRoute { dst: route.dst.trunc(), hop, protocol }
}

/// What the kernel must hold, and what of it it refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shadow {
    routes: BTreeMap<IpNet, WantedRoute>,
    refused: BTreeSet<IpNet>,
}

impl Shadow {
    /// No routes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what changed. Changes come by destination, a block before what lies inside it.
    pub fn update(&mut self, snapshot: &Snapshot, delta: &Delta) -> Vec<RouteChange> {
        let mut changes = Vec::new();
        for dst in &delta.routes {
            let new = snapshot.routes.get(dst).map(|route| wanted(route.as_ref()));
            changes.extend(self.put(dst.trunc(), new));
        }
        changes
    }

    /// The kernel refused the route to `dst`: a link or a next hop may not be there yet.
    pub fn refused(&mut self, dst: IpNet) {
        if self.routes.contains_key(&dst) {
            self.refused.insert(dst);
        }
    }

    /// Some route waits for another try.
    pub fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// The route to `dst` waits for another try.
    pub fn is_refused(&self, dst: &IpNet) -> bool {
        self.refused.contains(dst)
    }

    /// All refused routes once more. They count as taken until [`Self::refused`] is called again.
    pub fn retry(&mut self) -> Vec<RouteChange> {
        let again = std::mem::take(&mut self.refused);
        again.iter().filter_map(|dst| self.routes.get(dst)).cloned().map(RouteChange::Replace).collect()
    }

    /// What `found`, the main table, needs to be as wanted. Entries of other protocols are passed over.
    pub fn repair(&self, found: &[WantedRoute]) -> Vec<RouteChange> {
        let ours = found.iter().filter(|route| [PROTO_NODE, PROTO_BGP].contains(&route.protocol));
        let (kept, stray): (Vec<_>, Vec<_>) = ours.partition(|route| self.routes.get(&route.dst) == Some(*route));
        let kept: BTreeSet<IpNet> = kept.into_iter().map(|route| route.dst).collect();
        let remove = stray.into_iter().cloned().map(RouteChange::Remove);
        let replace = self.routes.values().filter(|route| !kept.contains(&route.dst));
        remove.chain(replace.cloned().map(RouteChange::Replace)).collect()
    }

    /// All routes that must be there, by destination.
    pub fn routes(&self) -> impl Iterator<Item = &WantedRoute> {
        self.routes.values()
    }

    fn put(&mut self, dst: IpNet, new: Option<WantedRoute>) -> Option<RouteChange> {
        if self.routes.get(&dst) == new.as_ref() {
            return None;
        }
        self.refused.remove(&dst);
        match new {
            Some(route) => {
                self.routes.insert(dst, route.clone());
                Some(RouteChange::Replace(route))
            }
            None => self.routes.remove(&dst).map(RouteChange::Remove),
        }
    }
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
