//! Who answers on the LAN for the addresses of Services of type LoadBalancer.
//!
//! ```text
//!  status.loadBalancer.ingress ─┐
//!  Ready nodes ─────────────────┼─► Election: one node an address ──► ours ──► answers by `arp`, `ndp`
//!  endpoints (policy Local) ────┘
//! ```
//!
//! Every node decides by itself and all decide alike: for each address the node whose name hashes highest with it
//! (rendezvous hashing), so a node that goes moves its own addresses and no other's. Under `externalTrafficPolicy: Local`
//! only nodes with a ready endpoint stand; where there is none, those whose endpoints are ending and still serve, as the
//! service proxy falls back to them; else nobody. An address is asked of the pools alone: what another controller gave
//! from elsewhere is another's to answer for.
//!
//! Must never know sockets: packets are values here ([`arp`], [`ndp`]).

pub mod arp;
pub mod ndp;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use portolan_model::{Delta, Endpoint, ExternalPolicy, Family, Node, NsName, ServiceKind, ServiceView, Snapshot, Text};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The addresses that this node answers for, kept with each change of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Election {
    pools: Vec<IpNet>,
    /// Addresses of each Service that has some of the pools.
    addresses: BTreeMap<NsName, BTreeSet<IpAddr>>,
    /// Services that have an address; the first by name owns it.
    claims: BTreeMap<IpAddr, BTreeSet<NsName>>,
    elected: BTreeSet<IpAddr>,
}

impl Election {
    /// Nobody is elected yet. Without pools nobody ever is.
    pub fn new(pools: Vec<IpNet>) -> Self {
        Self { pools, ..Self::default() }
    }

    /// The addresses that `snapshot`'s node answers for.
    pub fn elected(&self) -> &BTreeSet<IpAddr> {
        &self.elected
    }

    /// Takes a change in; `true` if this node now answers for other addresses than before.
    ///
    /// Costs what the changed Services have; a change of a Node costs one look at each address.
    pub fn update(&mut self, snapshot: &Snapshot, delta: &Delta) -> bool {
        if self.pools.is_empty() {
            return false;
        }
        let mut touched: BTreeSet<IpAddr> = BTreeSet::new();
        for key in &delta.services {
            touched.extend(self.claim(key, snapshot.services.get(key).map(|service| &**service)));
        }
        if !delta.nodes.is_empty() {
            touched.extend(self.claims.keys().copied());
        }
        let mut changed = false;
        for address in touched {
            changed |= match self.is_elected(snapshot, address) {
                true => self.elected.insert(address),
                false => self.elected.remove(&address),
            };
        }
        changed
    }

    /// Enters what the Service has now; returns what it had and has.
    fn claim(&mut self, key: &NsName, service: Option<&ServiceView>) -> BTreeSet<IpAddr> {
        let in_pool = |address: &IpAddr| self.pools.iter().any(|pool| pool.contains(address));
        let spec = service.map(|service| &service.spec).filter(|spec| spec.kind == ServiceKind::LoadBalancer);
        let now: BTreeSet<IpAddr> =
            spec.into_iter().flat_map(|spec| &spec.load_balancer_ips).copied().filter(in_pool).collect();
        let then = match now.is_empty() {
            true => self.addresses.remove(key),
            false => self.addresses.insert(key.clone(), now.clone()),
        };
        let then = then.unwrap_or_default();
        for address in then.difference(&now) {
            if let Some(services) = self.claims.get_mut(address) {
                services.remove(key);
                if services.is_empty() {
                    self.claims.remove(address);
                }
            }
        }
        for address in &now {
            self.claims.entry(*address).or_default().insert(key.clone());
        }
        &then | &now
    }

    fn is_elected(&self, snapshot: &Snapshot, address: IpAddr) -> bool {
        let owner = self.claims.get(&address).and_then(BTreeSet::first);
        let service = owner.and_then(|key| snapshot.services.get(key));
        service.is_some_and(|service| elect(snapshot, service, address) == Some(&snapshot.settings.node))
    }
}

/// The node that answers for an address of a Service; `None`: nobody does.
pub fn elect<'a>(snapshot: &'a Snapshot, service: &ServiceView, address: IpAddr) -> Option<&'a Text> {
    let standing: Vec<&Text> =
        snapshot.nodes.iter().filter(|(_, node)| may_stand(node)).map(|(name, _)| name).collect();
    let candidates = match service.spec.external_policy {
        ExternalPolicy::Cluster => standing,
        ExternalPolicy::Local => {
            let with = |fits: fn(&Endpoint) -> bool| {
                let names = nodes_with(service, Family::of(address), fits);
                standing.iter().copied().filter(|name| names.contains(name)).collect::<Vec<_>>()
            };
            let ready = with(|endpoint| endpoint.ready);
            if ready.is_empty() { with(|endpoint| endpoint.serving && endpoint.terminating) } else { ready }
        }
    };
    // Names differ, so no two are equal.
    candidates.into_iter().max_by_key(|name| (weight(name, address), *name))
}

fn may_stand(node: &Node) -> bool {
    node.ready && !node.leaving && !node.excluded_from_balancers
}

fn nodes_with(service: &ServiceView, family: Family, fits: fn(&Endpoint) -> bool) -> BTreeSet<&Text> {
    let endpoints = service.ports.iter().flat_map(|port| &port.endpoints);
    let fitting = endpoints.filter(|endpoint| Family::of(endpoint.addr) == family && fits(endpoint));
    fitting.filter_map(|endpoint| endpoint.node.as_ref()).collect()
}

/// FNV-1a over the name and the address, then the finalizer of MurmurHash3: without it names that differ in their last
/// letter only would keep their order for every address.
fn weight(node: &Text, address: IpAddr) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let octets = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let bytes = node.bytes().chain([0]).chain(octets);
    let mut hash = bytes.fold(BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    hash ^ (hash >> 33)
}
