//! What is counted over all Services, kept up to date by what changed: who asks on which health check port, and which
//! service ports of policy Local have endpoints elsewhere only. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use portolan_dataplane::choose::is_external;
use portolan_model::{Delta, Endpoint, ExternalPolicy, Family, NsName, ServicePort, ServiceView, Snapshot, Text};

/// A Service whose balancer asks each node whether it has endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    /// `spec.healthCheckNodePort`.
    pub(crate) port: u16,
    /// Ready endpoints on this node. Those that terminate do not count, though they may still get traffic: that tells the
    /// balancer to drain.
    pub(crate) local: usize,
}

/// Service ports without an endpoint on this node, while others have some.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NoLocal {
    /// Under `internalTrafficPolicy: Local`.
    pub(crate) internal: u64,
    /// Under `externalTrafficPolicy: Local`.
    pub(crate) external: u64,
}

/// The sums.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) checks: BTreeMap<NsName, Check>,
    no_local: BTreeMap<(Family, NsName), NoLocal>,
    sums: BTreeMap<Family, NoLocal>,
}

impl Tally {
    /// Takes in what changed.
    pub(crate) fn update(&mut self, snapshot: &Snapshot, delta: &Delta) {
        for key in &delta.services {
            let view = snapshot.services.get(key).filter(|view| view.spec.is_proxied(&snapshot.settings.proxy));
            let node = &snapshot.settings.node;
            match view.and_then(|view| check(view, node)) {
                Some(check) => drop(self.checks.insert(key.clone(), check)),
                None => drop(self.checks.remove(key)),
            }
            for family in Family::BOTH {
                let counted = view.map(|view| no_local(view, family, node)).unwrap_or_default();
                self.count(family, key, counted);
            }
        }
    }

    /// The sum over all Services.
    pub(crate) fn no_local(&self, family: Family) -> NoLocal {
        self.sums.get(&family).copied().unwrap_or_default()
    }

    fn count(&mut self, family: Family, key: &NsName, counted: NoLocal) {
        let entry = (family, key.clone());
        let before = match counted == NoLocal::default() {
            true => self.no_local.remove(&entry),
            false => self.no_local.insert(entry, counted),
        };
        let (before, sum) = (before.unwrap_or_default(), self.sums.entry(family).or_default());
        sum.internal = sum.internal + counted.internal - before.internal;
        sum.external = sum.external + counted.external - before.external;
    }
}

/// Endpoints are counted in the family of the Service's first address: a dual-stack pod is one place to send to, not two.
fn check(view: &ServiceView, node: &Text) -> Option<Check> {
    let port = Some(view.spec.health_check_node_port).filter(|port| *port != 0)?;
    let family = Family::of(*view.spec.cluster_ips.first()?);
    let endpoints = view.ports.iter().flat_map(|port| &port.endpoints);
    let local: BTreeSet<IpAddr> = endpoints
        .filter(|e| e.ready && e.node.as_ref() == Some(node) && Family::of(e.addr) == family)
        .map(|e| e.addr)
        .collect();
    Some(Check { port, local: local.len() })
}

fn no_local(view: &ServiceView, family: Family, node: &Text) -> NoLocal {
    let spec = &view.spec;
    if !spec.cluster_ips.iter().any(|ip| Family::of(*ip) == family) {
        return NoLocal::default();
    }
    let usable = |e: &&Endpoint| Family::of(e.addr) == family && (e.ready || (e.serving && e.terminating));
    let is_elsewhere_only = |port: &&ServicePort| {
        let mut usable = port.endpoints.iter().filter(usable).peekable();
        usable.peek().is_some() && usable.all(|e| e.node.as_ref() != Some(node))
    };
    let bare: Vec<&ServicePort> = view.ports.iter().filter(is_elsewhere_only).collect();
    let external = bare.iter().filter(|port| is_external(view, port, family)).count();
    NoLocal {
        internal: if spec.internal_local { bare.len() as u64 } else { 0 },
        external: if spec.external_policy == ExternalPolicy::Local { external as u64 } else { 0 },
    }
}

#[cfg(test)]
#[path = "tally_tests.rs"]
mod tests;
