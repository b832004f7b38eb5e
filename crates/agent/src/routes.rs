//! Routes of the main table: the difference between the snapshot's routes and what the kernel acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use portolan_kernel::{KernelRoute, Network, RouteKind as KernelKind};
use portolan_model::{Delta, Route, RouteKind, Snapshot};
use tracing::{debug, warn};

use crate::status::Progress;

/// Routes to pods and own blocks, as Calico's agent numbers them.
pub(crate) const PROTO_LOCAL: u8 = 80;
/// Routes learned by BGP: RTPROT_BGP, shown by `ip route` as `proto bgp`.
pub(crate) const PROTO_BGP: u8 = 186;

/// Writes routes, and remembers what the kernel has of ours.
pub(crate) struct RouteWriter {
    network: Box<dyn Network>,
    lan: String,
    shadow: BTreeMap<IpNet, KernelRoute>,
    /// Found at start, claimed by nobody yet; they go when BGP has settled.
    left_over: BTreeSet<IpNet>,
    pending: BTreeSet<IpNet>,
    settled: bool,
    progress: Arc<Progress>,
}

impl RouteWriter {
    /// Reads what a former agent left.
    ///
    /// # Errors
    /// The kernel does not list its routes.
    pub(crate) fn open(
        mut network: Box<dyn Network>,
        lan: &str,
        progress: Arc<Progress>,
    ) -> Result<Self, portolan_kernel::NetlinkError> {
        let ours = |r: &KernelRoute| matches!(r.protocol, PROTO_LOCAL | PROTO_BGP);
        let shadow: BTreeMap<IpNet, KernelRoute> =
            network.routes()?.into_iter().filter(ours).map(|r| (r.dst, r)).collect();
        let left_over = shadow.keys().copied().collect();
        Ok(Self {
            network, shadow, left_over, progress,
            lan: lan.to_owned(),
            pending: BTreeSet::new(),
            settled: false,
        })
    }

    /// From now on a left-over route that nobody claims is taken away.
    pub(crate) fn settled(&mut self) {
        self.settled = true;
        self.pending.append(&mut self.left_over);
    }

    /// Writes what `delta` and earlier failures ask for. `false` if something is still to be written.
    pub(crate) fn update(&mut self, snapshot: &Snapshot, delta: &Delta) -> bool {
        self.pending.extend(delta.routes.iter().copied());
        if self.pending.is_empty() {
            return true;
        }
        let links = self.links();
        let (mut replace, mut delete) = (Vec::new(), Vec::new());
        for dst in std::mem::take(&mut self.pending) {
            match snapshot.routes.get(&dst) {
                Some(route) => {
                    self.left_over.remove(&dst);
                    match kernel_route(route, &links, &self.lan) {
                        Some(wanted) if self.shadow.get(&dst).is_some_and(|has| same(has, &wanted)) => {}
                        Some(wanted) => replace.push(wanted),
                        None => {
                            debug!(%dst, "the route's link is not there yet");
                            self.pending.insert(dst);
                        }
                    }
                }
                None if self.left_over.contains(&dst) && !self.settled => {}
                None => delete.extend(self.shadow.get(&dst).cloned()),
            }
        }
        self.write(replace, delete);
        self.pending.is_empty()
    }

    fn links(&mut self) -> BTreeMap<String, u32> {
        match self.network.links() {
            Ok(links) => links.into_iter().map(|l| (l.name, l.index)).collect(),
            Err(error) => {
                warn!(%error, "cannot list links; routes are tried again");
                BTreeMap::new()
            }
        }
    }

    fn write(&mut self, replace: Vec<KernelRoute>, delete: Vec<KernelRoute>) {
        self.progress.routes(replace.len() + delete.len());
        for (route, result) in replace.iter().zip(self.network.replace_routes(&replace)) {
            match result {
                Ok(()) => drop(self.shadow.insert(route.dst, route.clone())),
                Err(error) => self.refused(route, "set", &error),
            }
        }
        for (route, result) in delete.iter().zip(self.network.delete_routes(&delete)) {
            match result {
                Ok(()) => drop(self.shadow.remove(&route.dst)),
                Err(error) if is_gone(&error) => drop(self.shadow.remove(&route.dst)),
                Err(error) => self.refused(route, "delete", &error),
            }
        }
    }

    fn refused(&mut self, route: &KernelRoute, verb: &str, error: &portolan_kernel::NetlinkError) {
        warn!(dst = %route.dst, %error, "cannot {verb} the route; it is tried again");
        self.progress.failed();
        self.pending.insert(route.dst);
    }
}

/// The route or its link is no longer there: what was wanted holds.
fn is_gone(error: &portolan_kernel::NetlinkError) -> bool {
    matches!(error.errno(), Some(libc::ESRCH | libc::ENODEV | libc::ENOENT))
}

fn kernel_route(route: &Route, links: &BTreeMap<String, u32>, lan: &str) -> Option<KernelRoute> {
    let (mut wanted, protocol) = match &route.kind {
        RouteKind::Blackhole => (KernelRoute::blackhole(route.dst), PROTO_LOCAL),
        RouteKind::Link { link } => (KernelRoute::on_link(route.dst, *links.get(&*link.0)?), PROTO_LOCAL),
        RouteKind::Via { gateway } => (KernelRoute::via(route.dst, *gateway, *links.get(lan)?), PROTO_BGP),
    };
    wanted.protocol = protocol;
    Some(wanted)
}

/// Do both say the same in what we set? The kernel adds its own to what it lists: a blackhole's device, scopes.
fn same(has: &KernelRoute, wanted: &KernelRoute) -> bool {
    let device = |r: &KernelRoute| if r.kind == KernelKind::Blackhole { None } else { r.oif };
    (has.kind, has.gateway, device(has), has.protocol) == (wanted.kind, wanted.gateway, device(wanted), wanted.protocol)
}
