//! Scene: one packet at one node; who it is, who owns where it goes, and what becomes of it if nobody does.

use std::net::{IpAddr, SocketAddr};

use crate::names::Family;
use crate::proxy::DetectLocal;
use crate::snapshot::{ServicePort, ServiceView, Snapshot};

use super::case::{Case, Entry};
use super::{Allowed, Mode, Outcome, Packet, host_ports, in_pod_range, is_node_address};

/// Where a packet comes from, as policy asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A pod, as the configured detector tells.
    Pod,
    /// This node itself, or a pod on its host network: the source address is the node's.
    Node,
    /// Anything else: another node, a host on the LAN, the world.
    Outside,
}

/// How a destination is claimed: a claim of an earlier tier goes before any of a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tier {
    ClusterIp,
    External,
    NodePort,
}

/// One packet at one node, for one mode, from a client that affinity may bind.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) packet: &'a Packet,
    pub(super) mode: Mode,
    pub(super) bound: Option<SocketAddr>,
}

impl<'a> Scene<'a> {
    /// Tier by tier. One that sends the packet to an endpoint has the last word; where one refuses it, a claim of a later
    /// tier may be heard too: a refusal is no redirection, so a backend may go on looking.
    pub(super) fn judge(&self) -> Allowed {
        let mut allowed = Allowed::new();
        let later = [self.of_node_port(), host_ports::outcomes(self)];
        for found in self.of_address().into_iter().chain(later) {
            let is_sent_on = found.iter().any(|outcome| matches!(outcome, Outcome::Dnat { .. }));
            let turned_away: Vec<Outcome> = found.iter().flat_map(|outcome| self.turned_away_at(*outcome)).collect();
            allowed.extend(found);
            allowed.extend(turned_away);
            if is_sent_on {
                break;
            }
        }
        if allowed.is_empty() {
            allowed.insert(self.unowned());
        }
        if self.is_answered_here() {
            allowed.insert(Outcome::Untouched { masquerade: false });
        }
        allowed
    }

    /// A refusal looks at where a packet goes, also after it was sent on. So an endpoint whose own address and port some
    /// Service claims from outside, and refuses there, may be refused to all.
    fn turned_away_at(&self, outcome: Outcome) -> Vec<Outcome> {
        let Outcome::Dnat { to, .. } = outcome else { return Vec::new() };
        if !self.is_claimed_from_outside(to.ip()) {
            return Vec::new();
        }
        let packet = Packet { dst: to.ip(), dport: to.port(), ..*self.packet };
        let there = Scene { packet: &packet, bound: None, ..*self };
        let outcomes = there.of_address().into_iter().flatten().chain(there.of_node_port());
        let turned_away = outcomes.filter(|outcome| matches!(outcome, Outcome::Reject | Outcome::Drop));
        turned_away.chain(there.is_guarded().then_some(Outcome::Drop)).collect()
    }

    /// In iptables mode a balancer's address with source ranges is closed to whatever still bears it when rules have sent
    /// everybody on whom they let in: also to one whom they sent to an endpoint at that very address.
    fn is_guarded(&self) -> bool {
        let has_ranges = |case: &Case<'_>| {
            let ranges = &case.view.spec.source_ranges;
            ranges.iter().any(|net| Family::of(net.addr()) == self.packet.family())
        };
        let is_balancer = |entries: &[Entry]| entries.contains(&Entry::LoadBalancer);
        let claims = self.claims(|tier| tier == Tier::External);
        self.mode == Mode::Iptables && claims.iter().any(|(case, entries)| is_balancer(entries) && has_ranges(case))
    }

    fn is_claimed_from_outside(&self, addr: IpAddr) -> bool {
        let claims =
            |view: &ServiceView| view.spec.external_ips.contains(&addr) || view.spec.load_balancer_ips.contains(&addr);
        is_node_address(self.snapshot, addr) || proxied(self.snapshot, self.packet.family()).any(claims)
    }

    /// What the owner of the destination address makes of it, as its ClusterIP and as its external address. Who has it as
    /// ClusterIP owns it before all that claim it from outside.
    fn of_address(&self) -> [Allowed; 2] {
        let claims = self.claims(|tier| tier != Tier::NodePort);
        let has_cluster_ip = |entries: &[Entry]| entries.iter().any(|entry| entry.tier() == Tier::ClusterIp);
        let rank = |(case, entries): &(Case<'a>, Vec<Entry>)| (!has_cluster_ip(entries), case.port.key.clone());
        let Some((case, entries)) = claims.into_iter().min_by_key(rank) else { return Default::default() };
        [Tier::ClusterIp, Tier::External].map(|tier| {
            let of_tier = entries.iter().filter(|entry| entry.tier() == tier);
            of_tier.flat_map(|entry| case.outcomes(*entry)).collect()
        })
    }

    fn of_node_port(&self) -> Allowed {
        let claims = self.claims(|tier| tier == Tier::NodePort);
        let owner = claims.into_iter().min_by_key(|(case, _)| case.port.key.clone());
        owner.into_iter().flat_map(|(case, entries)| entries.into_iter().flat_map(move |e| case.outcomes(e))).collect()
    }

    fn claims(&self, is_asked_for: fn(Tier) -> bool) -> Vec<(Case<'a>, Vec<Entry>)> {
        let mut claims = Vec::new();
        for (view, port) in self.service_ports() {
            let case = Case { scene: *self, view, port };
            let entries: Vec<Entry> = case.entries().into_iter().filter(|entry| is_asked_for(entry.tier())).collect();
            if !entries.is_empty() {
                claims.push((case, entries));
            }
        }
        claims
    }

    /// Service ports of the packet's protocol that this proxy programs in its family.
    fn service_ports(&self) -> impl Iterator<Item = (&'a ServiceView, &'a ServicePort)> + use<'a> {
        let Self { snapshot, packet, .. } = *self;
        let views = proxied(snapshot, packet.family());
        views
            .flat_map(move |view| view.ports.iter().map(move |port| (view, port)))
            .filter(|(_, port)| port.spec.proto == packet.proto)
    }

    /// The cluster DNS address is on the node itself while the node serves DNS; when it stops, the Service takes over.
    /// Both are right for port 53; for other ports of that address a refusal may be the node's own.
    pub(super) fn is_answered_here(&self) -> bool {
        self.snapshot.settings.cluster_dns.contains(&self.packet.dst)
    }

    /// The destination is on this node.
    pub(super) fn is_for_this_node(&self) -> bool {
        is_node_address(self.snapshot, self.packet.dst)
    }

    pub(super) fn source(&self) -> Source {
        match () {
            () if self.is_detected() => Source::Pod,
            () if is_node_address(self.snapshot, self.packet.src) => Source::Node,
            () => Source::Outside,
        }
    }

    /// Some detector works, so that it means something not to be detected.
    pub(super) fn has_detector(&self) -> bool {
        match &self.snapshot.settings.proxy.detect_local {
            DetectLocal::ClusterCidr => self.snapshot.cluster_cidr(self.packet.family()).is_some(),
            DetectLocal::NodeCidr => self.snapshot.node_cidr(self.packet.family()).is_some(),
            DetectLocal::BridgeInterface(name) => !name.0.is_empty(),
            DetectLocal::InterfaceNamePrefix(prefix) => !prefix.is_empty(),
            DetectLocal::Nothing => false,
        }
    }

    /// The configured detector takes the sender for a local pod.
    pub(super) fn is_detected(&self) -> bool {
        let Packet { src, arrival, .. } = self.packet;
        let link = arrival.link().unwrap_or_default();
        let holds = match &self.snapshot.settings.proxy.detect_local {
            DetectLocal::ClusterCidr => in_pod_range(self.snapshot, *src),
            DetectLocal::NodeCidr => self.snapshot.node_cidr(self.packet.family()).is_some_and(|net| net.contains(src)),
            DetectLocal::BridgeInterface(name) => link == &*name.0,
            DetectLocal::InterfaceNamePrefix(prefix) => link.starts_with(&**prefix),
            DetectLocal::Nothing => false,
        };
        holds && self.has_detector()
    }

    /// No Service owns the destination. What leaves the pods' range is masqueraded.
    pub(super) fn unowned(&self) -> Outcome {
        match () {
            () if self.is_closed_loopback() => Outcome::Drop,
            () if self.is_strict() && self.is_cluster_ip() => Outcome::Reject,
            () if self.is_strict() && self.is_in_service_range() => Outcome::Drop,
            () => Outcome::Untouched { masquerade: self.leaves_cluster(self.packet.dst) },
        }
    }

    /// What this node takes in for itself is not looked at for addresses that only Services may have.
    fn is_strict(&self) -> bool {
        self.mode == Mode::Nftables && !self.ends_in_input(self.packet.dst)
    }

    fn is_cluster_ip(&self) -> bool {
        let mut views = proxied(self.snapshot, self.packet.family());
        views.any(|view| view.spec.cluster_ips.contains(&self.packet.dst))
    }

    fn is_in_service_range(&self) -> bool {
        self.snapshot.settings.service_cidrs.iter().any(|range| range.contains(&self.packet.dst))
    }

    /// Where node ports open 127.0.0.0/8 (`route_localnet`), it answers nobody but itself.
    pub(super) fn is_closed_loopback(&self) -> bool {
        let is_loopback = |addr: IpAddr| addr.is_loopback();
        self.opens_loopback() && is_loopback(self.packet.dst) && !is_loopback(self.packet.src)
    }

    /// Ports of the node lead on from 127.0.0.0/8 too.
    pub(super) fn opens_loopback(&self) -> bool {
        self.mode == Mode::Iptables && self.snapshot.opens_loopback(self.packet.family())
    }

    /// Node ports answer at the packet's destination, if it is on this node.
    pub(super) fn node_ports_answer(&self) -> bool {
        let dst = self.packet.dst;
        let listed = self.snapshot.node_port_addresses(self.packet.family());
        let is_listed = listed.is_none_or(|addresses| addresses.contains(&dst));
        is_listed && (!dst.is_loopback() || self.opens_loopback())
    }

    /// Sent to `to`, an endpoint or a pod. `masquerade` is what policy wants; a pod that reaches itself must not see its
    /// own address, and the world knows no way back to pods.
    pub(super) fn sent_to(&self, to: SocketAddr, masquerade: bool) -> Outcome {
        let hairpin = to.ip() == self.packet.src;
        let rewritten = masquerade || hairpin || self.leaves_cluster(to.ip());
        Outcome::Dnat { to, masquerade: rewritten && !self.ends_in_input(to.ip()) }
    }

    /// A pod's packet on its way to `to`, which is no pod and not this node.
    fn leaves_cluster(&self, to: IpAddr) -> bool {
        let leaves = in_pod_range(self.snapshot, self.packet.src) && !in_pod_range(self.snapshot, to);
        self.snapshot.settings.proxy.egress_snat && leaves && !self.ends_in_input(to)
    }

    /// Taken in by this node without passing an interface again: nobody rewrites its source then.
    fn ends_in_input(&self, to: IpAddr) -> bool {
        !self.packet.is_sent() && is_node_address(self.snapshot, to)
    }
}

/// Services of this proxy. One has rules in a family only if it has a ClusterIP there.
fn proxied(snapshot: &Snapshot, family: Family) -> impl Iterator<Item = &ServiceView> {
    let has_address = move |view: &&ServiceView| view.spec.cluster_ips.iter().any(|ip| Family::of(*ip) == family);
    let views = snapshot.services.values().map(|view| &**view);
    views.filter(has_address).filter(|view| view.spec.is_proxied(&snapshot.settings.proxy))
}
