//! Case: one service port judged for one packet.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::facts::ExternalPolicy;
use crate::names::Family;
use crate::snapshot::{Endpoint, ServicePort, ServiceView};

use super::scene::{Scene, Source, Tier};
use super::{Allowed, Mode, Outcome};

/// The ways a service port can own a destination.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    ClusterIp,
    ExternalIp,
    LoadBalancer,
    NodePort,
    /// A node port on an address of the node where none is open.
    ClosedNodePort,
}

impl Entry {
    pub(super) fn tier(self) -> Tier {
        match self {
            Self::ClusterIp => Tier::ClusterIp,
            Self::ExternalIp | Self::LoadBalancer => Tier::External,
            Self::NodePort | Self::ClosedNodePort => Tier::NodePort,
        }
    }
}

/// One service port judged for one packet.
pub(super) struct Case<'a> {
    pub(super) scene: Scene<'a>,
    pub(super) view: &'a ServiceView,
    pub(super) port: &'a ServicePort,
}

impl<'a> Case<'a> {
    pub(super) fn entries(&self) -> Vec<Entry> {
        let (scene, spec, packet) = (&self.scene, &self.view.spec, self.scene.packet);
        let dst = packet.dst;
        let on_port = packet.dport == self.port.spec.port;
        let at_node = scene.is_for_this_node() || scene.is_answered_here();
        let on_node_port = self.port.spec.node_port != 0 && packet.dport == self.port.spec.node_port && at_node;
        let is_open = scene.node_ports_answer();
        [
            (on_port && spec.cluster_ips.contains(&dst), Entry::ClusterIp),
            (on_port && spec.external_ips.contains(&dst), Entry::ExternalIp),
            (on_port && spec.load_balancer_ips.contains(&dst), Entry::LoadBalancer),
            (on_node_port && is_open, Entry::NodePort),
            (on_node_port && !is_open, Entry::ClosedNodePort),
        ]
        .into_iter()
        .filter_map(|(owned, entry)| owned.then_some(entry))
        .collect()
    }

    /// The DNS address has node ports only while it is on the node.
    pub(super) fn outcomes(&self, entry: Entry) -> Allowed {
        let mut allowed = self.outcomes_if_owned(entry);
        if entry == Entry::NodePort && !self.scene.is_for_this_node() {
            allowed.insert(self.scene.unowned());
        }
        allowed
    }

    fn outcomes_if_owned(&self, entry: Entry) -> Allowed {
        if entry == Entry::ClosedNodePort {
            return self.closed();
        }
        let is_barred = entry == Entry::LoadBalancer && !self.passes_source_ranges();
        if !self.has_endpoints() {
            let mut allowed = self.refused(entry, Outcome::Reject);
            // One refuses whom the ranges bar; the other does not let them come so far.
            if is_barred && self.scene.mode == Mode::Nftables {
                allowed.insert(Outcome::Drop);
            }
            return allowed;
        }
        match entry {
            Entry::ClusterIp => self.internal(),
            _ if is_barred => Allowed::from([Outcome::Drop]),
            _ => self.external(entry),
        }
    }

    /// Nobody is sent on from there. In iptables mode what would be refused or dropped on the node's other addresses may
    /// be so here too.
    fn closed(&self) -> Allowed {
        let mut allowed = Allowed::from([self.scene.unowned()]);
        let is_local = self.view.spec.external_policy == ExternalPolicy::Local;
        match self.scene.mode {
            Mode::Nftables => {}
            Mode::Iptables if !self.has_endpoints() => allowed.extend([Outcome::Reject]),
            Mode::Iptables if is_local && self.local_list().is_empty() => allowed.extend([Outcome::Drop]),
            Mode::Iptables => {}
        }
        allowed
    }

    fn internal(&self) -> Allowed {
        let list = match self.view.spec.internal_local {
            true => self.local_list(),
            false => self.cluster_list(),
        };
        let comes_from_elsewhere = self.scene.has_detector() && !self.scene.is_detected();
        let masquerade = self.scene.snapshot.settings.proxy.masquerade_all || comes_from_elsewhere;
        self.sent(Entry::ClusterIp, &list, masquerade)
    }

    /// With policy Local, what comes from inside (pods, the node) may go anywhere, as if it had gone out to a balancer
    /// and come back; what comes from outside stays on this node and keeps its address.
    fn external(&self, entry: Entry) -> Allowed {
        let local_policy = self.view.spec.external_policy == ExternalPolicy::Local;
        match (local_policy, self.scene.source()) {
            (false, _) => self.sent(entry, &self.cluster_list(), true),
            (true, Source::Pod) => self.sent(entry, &self.cluster_list(), false),
            (true, Source::Node) => self.sent(entry, &self.cluster_list(), true),
            (true, Source::Outside) => self.sent(entry, &self.local_list(), false),
        }
    }

    fn sent(&self, entry: Entry, list: &[&Endpoint], masquerade: bool) -> Allowed {
        if list.is_empty() {
            return self.refused(entry, Outcome::Drop);
        }
        let at = |endpoint: &Endpoint| SocketAddr::new(endpoint.addr, endpoint.port);
        let bound = self.scene.bound.filter(|_| self.view.spec.affinity_secs.is_some());
        let usable = bound.filter(|bound| list.iter().any(|endpoint| at(endpoint) == *bound));
        match usable {
            Some(to) => Allowed::from([self.scene.sent_to(to, masquerade)]),
            None => list.iter().map(|endpoint| self.scene.sent_to(at(endpoint), masquerade)).collect(),
        }
    }

    /// kube-proxy's iptables mode checks external destinations on input and forward only: what the node itself sends to
    /// a foreign external address leaves it unrefused.
    fn refused(&self, entry: Entry, outcome: Outcome) -> Allowed {
        let scene = &self.scene;
        let mut allowed = Allowed::from([outcome]);
        let external = entry.tier() == Tier::External;
        let leaves = external && scene.packet.is_sent() && !scene.is_for_this_node();
        if scene.mode == Mode::Iptables && (leaves || scene.is_closed_loopback()) {
            allowed.insert(scene.unowned());
        }
        allowed
    }

    /// Ranges of the packet's family count; none of them means everyone. If the node's own address lies in a range, the
    /// balancer's address is let in as a source too: a node that holds it as its own would use it.
    fn passes_source_ranges(&self) -> bool {
        let packet = self.scene.packet;
        let family = packet.family();
        let ranges: Vec<&IpNet> =
            self.view.spec.source_ranges.iter().filter(|net| Family::of(net.addr()) == family).collect();
        let node_listed = self.node_ip().is_some_and(|ip| ranges.iter().any(|net| net.contains(&ip)));
        ranges.is_empty()
            || ranges.iter().any(|net| net.contains(&packet.src))
            || (node_listed && self.view.spec.load_balancer_ips.contains(&packet.src))
    }

    fn node_ip(&self) -> Option<IpAddr> {
        let family = self.scene.packet.family();
        self.scene.snapshot.own_node()?.addresses.iter().copied().find(|ip| Family::of(*ip) == family)
    }

    fn endpoints(&self) -> impl Iterator<Item = &'a Endpoint> + use<'a> {
        let family = self.scene.packet.family();
        self.port.endpoints.iter().filter(move |endpoint| Family::of(endpoint.addr) == family)
    }

    fn has_endpoints(&self) -> bool {
        self.endpoints().any(|endpoint| endpoint.ready || is_draining(endpoint))
    }

    fn cluster_list(&self) -> Vec<&'a Endpoint> {
        let ready = self.near(self.endpoints().filter(|e| e.ready).collect());
        match ready.is_empty() {
            true => self.endpoints().filter(|e| is_draining(e)).collect(),
            false => ready,
        }
    }

    fn local_list(&self) -> Vec<&'a Endpoint> {
        let ready: Vec<_> = self.endpoints().filter(|e| e.ready && self.is_local(e)).collect();
        match ready.is_empty() {
            true => self.endpoints().filter(|e| is_draining(e) && self.is_local(e)).collect(),
            false => ready,
        }
    }

    fn is_local(&self, endpoint: &Endpoint) -> bool {
        endpoint.node.as_ref() == Some(&self.scene.snapshot.settings.node)
    }

    /// Hints count only if every ready endpoint has one; node before zone.
    fn near(&self, ready: Vec<&'a Endpoint>) -> Vec<&'a Endpoint> {
        let snapshot = self.scene.snapshot;
        let node = &snapshot.settings.node;
        let zone = snapshot.own_node().and_then(|node| node.zone.clone());
        let on_node: Vec<_> = ready.iter().copied().filter(|e| e.node_hints.contains(node)).collect();
        if ready.iter().all(|e| !e.node_hints.is_empty()) && !on_node.is_empty() {
            return on_node;
        }
        let in_zone: Vec<_> =
            ready.iter().copied().filter(|e| zone.as_ref().is_some_and(|zone| e.zone_hints.contains(zone))).collect();
        if ready.iter().all(|e| !e.zone_hints.is_empty()) && !in_zone.is_empty() {
            return in_zone;
        }
        ready
    }
}

fn is_draining(endpoint: &Endpoint) -> bool {
    endpoint.serving && endpoint.terminating
}
