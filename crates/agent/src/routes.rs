//! Routes of the main table: what the planner asks for, into netlink.
//!
//! At start the table is read. A route that a former agent left is kept until it is wanted, and then costs nothing, or until
//! BGP has settled, and then goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use portolan_dataplane::routes::{Hop, PROTO_BGP, PROTO_NODE, RouteChange, Shadow, WantedRoute};
use portolan_kernel::{KernelRoute, NetlinkError, Network, RouteKind};
use portolan_model::{Delta, IfName, Snapshot};
use tracing::{debug, warn};

use crate::status::Progress;

/// Writes routes, and remembers what the kernel has of ours.
pub(crate) struct RouteWriter {
    network: Box<dyn Network>,
    lan: String,
    shadow: Shadow,
    /// Found at start, not wanted yet.
    left_over: BTreeMap<IpNet, WantedRoute>,
    /// Found at start, and wanted as they were by the last update.
    found: BTreeSet<IpNet>,
    /// To be removed with the next write: left over to the end, or refused to go.
    unclaimed: Vec<WantedRoute>,
    progress: Arc<Progress>,
}

impl RouteWriter {
    /// Reads what a former agent left.
    ///
    /// # Errors
    /// The kernel does not list its routes or links.
    pub(crate) fn open(
        mut network: Box<dyn Network>,
        lan: &str,
        progress: Arc<Progress>,
    ) -> Result<Self, NetlinkError> {
        let names: BTreeMap<u32, String> = network.links()?.into_iter().map(|link| (link.index, link.name)).collect();
        let found = network.routes()?.into_iter().filter(|r| matches!(r.protocol, PROTO_NODE | PROTO_BGP));
        let left_over = found.filter_map(|route| Some((route.dst, read(&route, &names)?))).collect();
        let (shadow, unclaimed, found) = (Shadow::new(), Vec::new(), BTreeSet::new());
        Ok(Self { network, lan: lan.to_owned(), shadow, left_over, found, unclaimed, progress })
    }

    /// From now on a left-over route that nobody wants is taken away.
    pub(crate) fn settled(&mut self) {
        self.unclaimed.extend(std::mem::take(&mut self.left_over).into_values());
    }

    /// Writes what `delta` and earlier refusals ask for. `false` if something is still to be written.
    pub(crate) fn update(&mut self, snapshot: &Snapshot, delta: &Delta) -> bool {
        let mut changes = self.shadow.update(snapshot, delta);
        // After the update, which forgets refusals of what is no longer wanted.
        changes.extend(self.shadow.retry());
        self.found.clear();
        changes.retain(|change| match change {
            RouteChange::Replace(route) => {
                let is_there = self.left_over.remove(&route.dst).as_ref() == Some(route);
                self.found.extend(is_there.then_some(route.dst));
                !is_there
            }
            RouteChange::Remove(_) => true,
        });
        let unclaimed = std::mem::take(&mut self.unclaimed);
        let wanted = |route: &WantedRoute| self.shadow.routes().any(|other| other.dst == route.dst);
        changes.extend(unclaimed.into_iter().filter(|route| !wanted(route)).map(RouteChange::Remove));
        if !changes.is_empty() {
            self.write(&changes);
        }
        !self.shadow.has_refused() && self.unclaimed.is_empty()
    }

    /// The kernel does not take the route to `dst` for now.
    pub(crate) fn is_refused(&self, dst: &IpNet) -> bool {
        self.shadow.is_refused(dst)
    }

    /// The last update found the route to `dst` in the kernel as a former agent had left it.
    pub(crate) fn was_there(&self, dst: &IpNet) -> bool {
        self.found.contains(dst)
    }

    fn write(&mut self, changes: &[RouteChange]) {
        let links = self.links();
        let (mut replace, mut delete) = (Vec::new(), Vec::new());
        for change in changes {
            match change {
                RouteChange::Replace(route) => match kernel_route(route, &links, &self.lan) {
                    Some(route) => replace.push(route),
                    None => {
                        debug!(dst = %route.dst, "the route's link is not there yet");
                        self.shadow.refused(route.dst);
                    }
                },
                // Where the link has gone the kernel has taken the route along.
                RouteChange::Remove(route) => {
                    delete.extend(kernel_route(route, &links, &self.lan).map(|kernel| (route.clone(), kernel)));
                }
            }
        }
        self.progress.routes(replace.len() + delete.len());
        let (removed, delete): (Vec<WantedRoute>, Vec<KernelRoute>) = delete.into_iter().unzip();
        for (route, result) in removed.into_iter().zip(self.network.delete_routes(&delete)) {
            if let Err(error) = result
                && !is_gone(&error)
            {
                warn!(dst = %route.dst, %error, "cannot delete the route; it is tried again");
                self.progress.failed();
                self.unclaimed.push(route);
            }
        }
        for (route, result) in replace.iter().zip(self.network.replace_routes(&replace)) {
            if let Err(error) = result {
                warn!(dst = %route.dst, %error, "cannot set the route; it is tried again");
                self.progress.failed();
                self.shadow.refused(route.dst);
            }
        }
    }

    fn links(&mut self) -> BTreeMap<String, u32> {
        match self.network.links() {
            Ok(links) => links.into_iter().map(|link| (link.name, link.index)).collect(),
            Err(error) => {
                warn!(%error, "cannot list links; routes are tried again");
                BTreeMap::new()
            }
        }
    }
}

/// The route or its link is no longer there: what was wanted holds.
fn is_gone(error: &NetlinkError) -> bool {
    matches!(error.errno(), Some(libc::ESRCH | libc::ENODEV | libc::ENOENT))
}

/// A route of the table in the planner's words; `None` if it is of no sort that the planner makes.
fn read(route: &KernelRoute, names: &BTreeMap<u32, String>) -> Option<WantedRoute> {
    let hop = match (&route.kind, route.gateway, route.oif) {
        (RouteKind::Blackhole, ..) => Hop::Blackhole,
        (_, Some(gateway), _) => Hop::Via(gateway),
        (_, None, Some(link)) => Hop::Link(IfName(names.get(&link)?.as_str().into())),
        _ => return None,
    };
    Some(WantedRoute { dst: route.dst, hop, protocol: route.protocol })
}

fn kernel_route(route: &WantedRoute, links: &BTreeMap<String, u32>, lan: &str) -> Option<KernelRoute> {
    let mut kernel = match &route.hop {
        Hop::Blackhole => KernelRoute::blackhole(route.dst),
        Hop::Link(link) => KernelRoute::on_link(route.dst, *links.get(&*link.0)?),
        Hop::Via(gateway) => KernelRoute::via(route.dst, *gateway, *links.get(lan)?),
    };
    kernel.protocol = route.protocol;
    Some(kernel)
}
