//! The verdict oracle: what may become of a connection's first packet at one node. Slow, plain, and written from the
//! documents before the planners that it judges.
//!
//! ```text
//!  Snapshot + Packet ──► which service ports own (dst, dport)? ──► endpoints by policy ──► Allowed (a set of outcomes)
//! ```
//!
//! It must never know rules, chains, sets or marks: only what Services promise. Where two backends may rightly differ
//! (an iptables node lets some packets pass that an nftables node refuses), the set holds both.
//!
//! Sources: Kubernetes "Virtual IPs and Service Proxies"; KEP-1669 (terminating endpoints), KEP-2086 (internal policy),
//! KEP-2433 and KEP-4444 (topology), KEP-3866 (which source addresses are rewritten).

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::facts::ExternalPolicy;
use crate::names::{Family, Proto};
use crate::snapshot::{Endpoint, ServicePort, ServiceView, Snapshot};

/// The first packet of a connection, as it comes to this node or leaves a process on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Packet {
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// Transport.
    pub proto: Proto,
    /// Destination port.
    pub dport: u16,
}

/// Where a packet comes from, as a node can tell by its source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A pod: the address lies in the cluster's pod range.
    Pod,
    /// This node itself, or a pod on its host network.
    Node,
    /// Anything else: another node, a host on the LAN, the world.
    Outside,
}

/// What may become of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Sent to an endpoint.
    Dnat {
        /// The endpoint.
        to: SocketAddr,
        /// It sees this node's address instead of the client's.
        masquerade: bool,
    },
    /// Refused, and the sender is told.
    Reject,
    /// Dropped in silence.
    Drop,
    /// Goes on to the destination it names.
    Untouched {
        /// The destination sees this node's address instead of the pod's.
        masquerade: bool,
    },
}

/// All outcomes that are right for one packet. A backend may pick any, and must be able to pick every `Dnat`.
pub type Allowed = BTreeSet<Outcome>;

/// What may become of `packet` at the node whose snapshot this is.
pub fn judge(snapshot: &Snapshot, packet: &Packet) -> Allowed {
    let mut allowed = Allowed::new();
    for view in snapshot.services.values().filter(|view| is_proxied(snapshot, view, packet.family())) {
        for port in view.ports.iter().filter(|port| port.spec.proto == packet.proto) {
            let case = Case::new(snapshot, packet, view, port);
            for entry in case.entries() {
                allowed.extend(case.outcomes(entry));
            }
        }
    }
    if allowed.is_empty() {
        allowed.insert(unowned(snapshot, packet));
    }
    if is_answered_here(snapshot, packet) {
        allowed.insert(Outcome::Untouched { masquerade: false });
    }
    allowed
}

impl Packet {
    /// The family of its addresses.
    pub fn family(&self) -> Family {
        Family::of(self.dst)
    }

    /// Where it comes from.
    pub fn source(&self, snapshot: &Snapshot) -> Source {
        match () {
            () if is_node_address(snapshot, self.src) => Source::Node,
            () if in_pod_range(snapshot, self.src) => Source::Pod,
            () => Source::Outside,
        }
    }
}

/// `addr` is on an interface of this node: an address of its Node object, or loopback.
pub fn is_node_address(snapshot: &Snapshot, addr: IpAddr) -> bool {
    addr.is_loopback() || snapshot.own_node().is_some_and(|node| node.addresses.contains(&addr))
}

/// `addr` is a pod's, as far as one can tell by its range.
pub fn in_pod_range(snapshot: &Snapshot, addr: IpAddr) -> bool {
    snapshot.cluster_cidr(Family::of(addr)).is_some_and(|range| range.contains(&addr))
}

/// A Service has rules in a family only if it has a ClusterIP there, and no other proxy was named for it.
fn is_proxied(snapshot: &Snapshot, view: &ServiceView, family: Family) -> bool {
    let has_address = view.spec.cluster_ips.iter().any(|ip| Family::of(*ip) == family);
    has_address && view.spec.is_proxied(&snapshot.settings.proxy)
}

/// The cluster DNS address is on the node itself while the node serves DNS; when it stops, the Service takes over. Both
/// are right for port 53; for other ports of that address a refusal may be the node's own.
fn is_answered_here(snapshot: &Snapshot, packet: &Packet) -> bool {
    snapshot.settings.cluster_dns.contains(&packet.dst)
}

/// No Service owns the destination. Loopback is closed to other sources; what leaves the pods' range is masqueraded.
fn unowned(snapshot: &Snapshot, packet: &Packet) -> Outcome {
    if is_closed_loopback(packet) {
        return Outcome::Drop;
    }
    Outcome::Untouched { masquerade: leaves_cluster(snapshot, packet, packet.dst) }
}

/// 127.0.0.0/8 answers nobody but itself, even where `route_localnet` opens it for node ports.
fn is_closed_loopback(packet: &Packet) -> bool {
    let loopback_v4 = |addr: IpAddr| addr.is_ipv4() && addr.is_loopback();
    loopback_v4(packet.dst) && !loopback_v4(packet.src)
}

/// A pod's packet on its way to `to`, which is no pod and not this node: the world knows no way back to pods.
fn leaves_cluster(snapshot: &Snapshot, packet: &Packet, to: IpAddr) -> bool {
    in_pod_range(snapshot, packet.src) && !in_pod_range(snapshot, to) && !ends_in_input(snapshot, packet, to)
}

/// Taken in by this node without passing an interface again: nobody rewrites its source then.
fn ends_in_input(snapshot: &Snapshot, packet: &Packet, to: IpAddr) -> bool {
    packet.source(snapshot) != Source::Node && is_node_address(snapshot, to)
}

/// The ways a service port can own a destination.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Entry {
    ClusterIp,
    ExternalIp,
    LoadBalancer,
    NodePort,
    /// A node port on ::1, where none is ever open.
    ClosedNodePort,
}

/// One service port judged for one packet.
struct Case<'a> {
    snapshot: &'a Snapshot,
    packet: &'a Packet,
    view: &'a ServiceView,
    port: &'a ServicePort,
    source: Source,
}

impl<'a> Case<'a> {
    fn new(snapshot: &'a Snapshot, packet: &'a Packet, view: &'a ServiceView, port: &'a ServicePort) -> Self {
        Self { snapshot, packet, view, port, source: packet.source(snapshot) }
    }

    fn entries(&self) -> Vec<Entry> {
        let spec = &self.view.spec;
        let dst = self.packet.dst;
        let on_port = self.packet.dport == self.port.spec.port;
        let on_node_port = self.port.spec.node_port != 0 && self.packet.dport == self.port.spec.node_port;
        let at_node = is_node_address(self.snapshot, dst) || is_answered_here(self.snapshot, self.packet);
        let closed = dst.is_ipv6() && dst.is_loopback();
        [
            (on_port && spec.cluster_ips.contains(&dst), Entry::ClusterIp),
            (on_port && spec.external_ips.contains(&dst), Entry::ExternalIp),
            (on_port && spec.load_balancer_ips.contains(&dst), Entry::LoadBalancer),
            (on_node_port && at_node && !closed, Entry::NodePort),
            (on_node_port && at_node && closed, Entry::ClosedNodePort),
        ]
        .into_iter()
        .filter_map(|(owned, entry)| owned.then_some(entry))
        .collect()
    }

    /// The DNS address has node ports only while it is on the node.
    fn outcomes(&self, entry: Entry) -> Allowed {
        let mut allowed = self.outcomes_if_owned(entry);
        if entry == Entry::NodePort && !is_node_address(self.snapshot, self.packet.dst) {
            allowed.insert(unowned(self.snapshot, self.packet));
        }
        allowed
    }

    fn outcomes_if_owned(&self, entry: Entry) -> Allowed {
        if !self.has_endpoints() {
            return self.refused(entry, Outcome::Reject);
        }
        match entry {
            Entry::ClusterIp => self.internal(),
            Entry::ClosedNodePort => self.closed(),
            Entry::LoadBalancer if !self.passes_source_ranges() => Allowed::from([Outcome::Drop]),
            Entry::LoadBalancer | Entry::ExternalIp | Entry::NodePort => self.external(entry),
        }
    }

    /// Nobody is sent on from ::1; what would be dropped on the node's other addresses may be dropped here too.
    fn closed(&self) -> Allowed {
        let mut allowed = Allowed::from([unowned(self.snapshot, self.packet)]);
        if self.view.spec.external_policy == ExternalPolicy::Local && self.local_list().is_empty() {
            allowed.insert(Outcome::Drop);
        }
        allowed
    }

    fn internal(&self) -> Allowed {
        let list = match self.view.spec.internal_local {
            true => self.local_list(),
            false => self.cluster_list(),
        };
        let masquerade = self.has_detector() && !in_pod_range(self.snapshot, self.packet.src);
        self.sent(Entry::ClusterIp, &list, masquerade)
    }

    /// With policy Local, what comes from inside (pods, the node) may go anywhere, as if it had gone out to a balancer
    /// and come back; what comes from outside stays on this node and keeps its address.
    fn external(&self, entry: Entry) -> Allowed {
        let local_policy = self.view.spec.external_policy == ExternalPolicy::Local;
        match (local_policy, self.source) {
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
        list.iter().map(|endpoint| self.sent_to(endpoint, masquerade)).collect()
    }

    fn sent_to(&self, endpoint: &Endpoint, masquerade: bool) -> Outcome {
        let hairpin = endpoint.addr == self.packet.src;
        let leaves = leaves_cluster(self.snapshot, self.packet, endpoint.addr);
        let rewritten = (masquerade || hairpin || leaves) && !ends_in_input(self.snapshot, self.packet, endpoint.addr);
        Outcome::Dnat { to: SocketAddr::new(endpoint.addr, endpoint.port), masquerade: rewritten }
    }

    /// kube-proxy's iptables mode checks external destinations on input and forward only: what the node itself sends to
    /// a foreign external address leaves it unrefused. A backend may do better.
    fn refused(&self, entry: Entry, outcome: Outcome) -> Allowed {
        let mut allowed = Allowed::from([outcome]);
        let external = matches!(entry, Entry::ExternalIp | Entry::LoadBalancer);
        let leaves = external && self.source == Source::Node && !is_node_address(self.snapshot, self.packet.dst);
        if leaves || entry == Entry::ClosedNodePort || is_closed_loopback(self.packet) {
            allowed.insert(unowned(self.snapshot, self.packet));
        }
        allowed
    }

    fn has_detector(&self) -> bool {
        self.snapshot.cluster_cidr(self.packet.family()).is_some()
    }

    /// Ranges of the packet's family count; none of them means everyone. If the node's own address lies in a range, the
    /// balancer's address is let in as a source too: a node that holds it as its own would use it.
    fn passes_source_ranges(&self) -> bool {
        let family = self.packet.family();
        let ranges: Vec<&IpNet> =
            self.view.spec.source_ranges.iter().filter(|net| Family::of(net.addr()) == family).collect();
        let node_ip = self.node_ip();
        let node_listed = node_ip.is_some_and(|ip| ranges.iter().any(|net| net.contains(&ip)));
        ranges.is_empty()
            || ranges.iter().any(|net| net.contains(&self.packet.src))
            || (node_listed && self.view.spec.load_balancer_ips.contains(&self.packet.src))
    }

    fn node_ip(&self) -> Option<IpAddr> {
        let family = self.packet.family();
        self.snapshot.own_node()?.addresses.iter().copied().find(|ip| Family::of(*ip) == family)
    }

    fn endpoints(&self) -> impl Iterator<Item = &'a Endpoint> + use<'a> {
        let family = self.packet.family();
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
        endpoint.node.as_ref() == Some(&self.snapshot.settings.node)
    }

    /// Hints count only if every ready endpoint has one; node before zone.
    fn near(&self, ready: Vec<&'a Endpoint>) -> Vec<&'a Endpoint> {
        let node = &self.snapshot.settings.node;
        let zone = self.snapshot.own_node().and_then(|node| node.zone.clone());
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

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
