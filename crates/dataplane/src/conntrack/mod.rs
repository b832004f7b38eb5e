//! Conntrack: which UDP flows lead where nobody serves any more, and the settings of conntrack.
//!
//! ```text
//!  Snapshot + Delta ─► Flows (what each Service's addresses led to) ─► Stale ─► matches(&Flow)?
//! ```
//!
//! NAT decides once per flow and UDP never ends one, so a flow to an endpoint that is gone lives as long as its client
//! talks. TCP flows end by themselves, with a reset or a time-out, and are let be. A flow stays as long as its endpoint
//! serves: policy, topology and draining are no reason to cut it. Compared are protocol, address *and* port; node ports
//! count on addresses of the node only. This room must never know how flows are listed. Source: kube-proxy's behaviour
//! (`pkg/proxy/conntrack`), with what its issues 139628, 48370 and 125467 ask for.

mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use portolan_model::{Delta, Family, NsName, Proto, ServicePort, ServiceView, Snapshot};

pub use settings::{ConntrackSettings, Scope, Sysctl};

/// What matters of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// IP protocol number.
    pub protocol: u8,
    /// Where the client sent it: destination of the original tuple.
    pub to: SocketAddr,
    /// Who answers: source of the reply tuple. Equal to `to` where no rule rewrote it.
    pub answered_by: SocketAddr,
}

/// IANA's number of the only protocol whose flows go stale unseen.
pub const UDP: u8 = 17;

/// Where clients send: an address of a Service with its port, or a node port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Front {
    Address(SocketAddr),
    NodePort(Family, u16),
}

type Backends = BTreeSet<SocketAddr>;

/// Remembers what the UDP ports of Services led to, and says after each change which flows are stale.
#[derive(Clone, Debug, Default)]
pub struct Flows {
    fronts: BTreeMap<NsName, BTreeMap<Front, Backends>>,
    /// The Services that have a front: mostly one.
    owners: BTreeMap<Front, BTreeSet<NsName>>,
}

/// Which flows are stale. Not worth a look at the table if it [is empty](Stale::is_empty).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stale {
    /// Fronts that are served, and by whom: a flow to anybody else is stale.
    served: BTreeMap<Front, Backends>,
    /// Fronts that are no more: a flow that was rewritten is stale.
    gone: BTreeSet<Front>,
    /// Where node ports answer.
    node_addresses: BTreeSet<IpAddr>,
    /// Families in which they answer on every local address, so on loopback too.
    everywhere: BTreeSet<Family>,
}

impl Flows {
    /// Knows nothing yet: the first update looks at every UDP Service, so that what went stale while nobody looked goes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what changed; carried out once the rules are in the kernel, so that no new flow takes the old way.
    pub fn update(&mut self, snapshot: &Snapshot, delta: &Delta) -> Stale {
        let mut stale = Stale::default();
        let mut touched = BTreeSet::new();
        for key in &delta.services {
            let new = snapshot.services.get(key).map(|view| fronts_of(snapshot, view)).unwrap_or_default();
            let old = self.fronts.get(key).cloned().unwrap_or_default();
            if new == old {
                continue;
            }
            touched.extend(worth_a_look(&old, &new));
            self.replace(key, old, new);
        }
        for front in touched {
            match self.owners.get(&front) {
                None => _ = stale.gone.insert(front),
                Some(owners) => _ = stale.served.insert(front, self.backends(owners, front)),
            }
        }
        if !stale.is_empty() {
            stale.answer_on(snapshot);
        }
        stale
    }

    fn replace(&mut self, key: &NsName, old: BTreeMap<Front, Backends>, new: BTreeMap<Front, Backends>) {
        for front in old.keys().filter(|front| !new.contains_key(front)) {
            if let Some(owners) = self.owners.get_mut(front) {
                owners.remove(key);
                if owners.is_empty() {
                    self.owners.remove(front);
                }
            }
        }
        for front in new.keys() {
            self.owners.entry(*front).or_default().insert(key.clone());
        }
        match new.is_empty() {
            true => self.fronts.remove(key),
            false => self.fronts.insert(key.clone(), new),
        };
    }

    /// Where two Services claim one front, endpoints of either are let be.
    fn backends(&self, owners: &BTreeSet<NsName>, front: Front) -> Backends {
        let each = owners.iter().filter_map(|owner| self.fronts.get(owner)?.get(&front));
        each.flatten().copied().collect()
    }
}

impl Stale {
    /// No flow can be stale.
    pub fn is_empty(&self) -> bool {
        self.served.is_empty() && self.gone.is_empty()
    }

    /// The flow leads where nobody serves it any more, or was never rewritten though a Service has the address.
    pub fn matches(&self, flow: &Flow) -> bool {
        if flow.protocol != UDP {
            return false;
        }
        let address = Front::Address(flow.to);
        if self.served.contains_key(&address) || self.gone.contains(&address) {
            return self.is_stale(address, flow);
        }
        self.is_node_address(flow.to.ip())
            && self.is_stale(Front::NodePort(Family::of(flow.to.ip()), flow.to.port()), flow)
    }

    fn is_stale(&self, front: Front, flow: &Flow) -> bool {
        match self.served.get(&front) {
            Some(backends) => !backends.contains(&flow.answered_by),
            None => self.gone.contains(&front) && flow.answered_by != flow.to,
        }
    }

    fn is_node_address(&self, addr: IpAddr) -> bool {
        self.node_addresses.contains(&addr) || (addr.is_loopback() && self.everywhere.contains(&Family::of(addr)))
    }

    fn answer_on(&mut self, snapshot: &Snapshot) {
        for family in Family::BOTH {
            let listed = snapshot.node_port_addresses(family);
            if listed.is_none() {
                self.everywhere.insert(family);
            }
            self.node_addresses.extend(listed.unwrap_or_else(|| snapshot.local_addresses(family)));
        }
    }
}

/// Fronts that came or went, or whose last or first endpoint did, or that lost one. An endpoint more makes no flow stale.
fn worth_a_look(old: &BTreeMap<Front, Backends>, new: &BTreeMap<Front, Backends>) -> Vec<Front> {
    let all: BTreeSet<&Front> = old.keys().chain(new.keys()).collect();
    let stays_good = |front: &&Front| match (old.get(front), new.get(front)) {
        (Some(old), Some(new)) => old == new || (!old.is_empty() && old.is_subset(new)),
        _ => false,
    };
    all.into_iter().filter(|front| !stays_good(front)).copied().collect()
}

fn fronts_of(snapshot: &Snapshot, view: &ServiceView) -> BTreeMap<Front, Backends> {
    let mut fronts = BTreeMap::new();
    if !view.spec.is_proxied(&snapshot.settings.proxy) {
        return fronts;
    }
    let spec = &view.spec;
    let addresses = spec.cluster_ips.iter().chain(&spec.external_ips).chain(&spec.load_balancer_ips);
    let addresses: BTreeSet<IpAddr> = addresses.copied().collect();
    for port in view.ports.iter().filter(|port| port.spec.proto == Proto::Udp) {
        for addr in &addresses {
            fronts.insert(Front::Address(SocketAddr::new(*addr, port.spec.port)), serving(port, Family::of(*addr)));
        }
        if port.spec.node_port != 0 {
            let families: BTreeSet<Family> = spec.cluster_ips.iter().map(|addr| Family::of(*addr)).collect();
            for family in families {
                fronts.insert(Front::NodePort(family, port.spec.node_port), serving(port, family));
            }
        }
    }
    fronts
}

fn serving(port: &ServicePort, family: Family) -> Backends {
    let endpoints = port.endpoints.iter().filter(|endpoint| endpoint.ready || endpoint.serving);
    let of_family = endpoints.filter(|endpoint| Family::of(endpoint.addr) == family);
    of_family.map(|endpoint| SocketAddr::new(endpoint.addr, endpoint.port)).collect()
}

#[cfg(test)]
mod tests;
