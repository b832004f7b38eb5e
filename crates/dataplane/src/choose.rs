//! Choose: which endpoints a service port may use, by policy, readiness and topology.
//!
//! Cluster list: ready endpoints, near ones if hints say so; else those that serve while terminating. Local list: the
//! same among this node's, hints aside. Each falls back on its own (KEP-1669).

use portolan_model::{Endpoint, ExternalPolicy, Family, ServicePort, ServiceView, Text};

/// Where this node stands: what topology compares with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The node's name.
    pub node: Text,
    /// Its zone, if its Node has the label.
    pub zone: Option<Text>,
}

/// The lists of one service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen<'a> {
    /// For policy Cluster and for what pods and the node send to external addresses. Empty if nobody asks.
    pub cluster: Vec<&'a Endpoint>,
    /// For policy Local. Empty if nobody asks.
    pub local: Vec<&'a Endpoint>,
    /// Some endpoint is ready or draining, wherever it is: the difference between DROP and REJECT.
    pub any: bool,
    /// All endpoints of the family, usable or not.
    pub total: usize,
}

impl<'a> Chosen<'a> {
    /// The lists that `port` of `view` needs at `place`.
    pub fn new(view: &ServiceView, port: &'a ServicePort, family: Family, place: &Place) -> Self {
        let all: Vec<&Endpoint> = port.endpoints.iter().filter(|e| Family::of(e.addr) == family).collect();
        let spec = &view.spec;
        let external = is_external(view, port, family);
        let needs_cluster = !spec.internal_local || external;
        let needs_local = spec.internal_local || (external && spec.external_policy == ExternalPolicy::Local);
        Self {
            cluster: if needs_cluster { cluster_list(&all, place) } else { Vec::new() },
            local: if needs_local { local_list(&all, place) } else { Vec::new() },
            any: all.iter().any(|e| e.ready || is_draining(e)),
            total: all.len(),
        }
    }

    /// Every endpoint of either list, once.
    pub fn reachable(&self) -> impl Iterator<Item = &'a Endpoint> {
        let elsewhere = self.local.iter().filter(|e| !self.cluster.contains(e));
        self.cluster.iter().chain(elsewhere).copied()
    }
}

/// The port can be reached from outside the cluster: by node port, external IP or load balancer.
pub fn is_external(view: &ServiceView, port: &ServicePort, family: Family) -> bool {
    let spec = &view.spec;
    let addresses = spec.external_ips.iter().chain(&spec.load_balancer_ips);
    port.spec.node_port != 0 || addresses.into_iter().any(|ip| Family::of(*ip) == family)
}

fn cluster_list<'a>(all: &[&'a Endpoint], place: &Place) -> Vec<&'a Endpoint> {
    let ready: Vec<&Endpoint> = all.iter().copied().filter(|e| e.ready).collect();
    match ready.is_empty() {
        true => all.iter().copied().filter(|e| is_draining(e)).collect(),
        false => near(ready, place),
    }
}

fn local_list<'a>(all: &[&'a Endpoint], place: &Place) -> Vec<&'a Endpoint> {
    let here: Vec<&Endpoint> = all.iter().copied().filter(|e| e.node.as_ref() == Some(&place.node)).collect();
    let ready: Vec<&Endpoint> = here.iter().copied().filter(|e| e.ready).collect();
    match ready.is_empty() {
        true => here.into_iter().filter(|e| is_draining(e)).collect(),
        false => ready,
    }
}

fn is_draining(endpoint: &Endpoint) -> bool {
    endpoint.serving && endpoint.terminating
}

/// Topology hints count only when every ready endpoint has them and one names us: node hints first, then zone hints.
fn near<'a>(ready: Vec<&'a Endpoint>, place: &Place) -> Vec<&'a Endpoint> {
    let by_node = hinted(&ready, Some(&place.node), |e| &e.node_hints);
    let by_zone = || hinted(&ready, place.zone.as_ref(), |e| &e.zone_hints);
    by_node.or_else(by_zone).unwrap_or(ready)
}

fn hinted<'a>(
    ready: &[&'a Endpoint],
    here: Option<&Text>,
    hints: impl Fn(&Endpoint) -> &[Text],
) -> Option<Vec<&'a Endpoint>> {
    let here = here?;
    if ready.iter().any(|e| hints(e).is_empty()) {
        return None;
    }
    let near: Vec<&Endpoint> = ready.iter().copied().filter(|e| hints(e).contains(here)).collect();
    (!near.is_empty()).then_some(near)
}
