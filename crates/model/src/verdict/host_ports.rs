//! Host ports: a port of the node that leads to one of its pods, as the CNI plugin portmap makes them.
//!
//! The client keeps its address, unless it is the pod itself or comes from loopback, where no answer could find it.
//! Services go first. The pod whose key is smallest owns a port that two claim.

use std::net::{IpAddr, SocketAddr};

use crate::facts::Attachment;
use crate::names::Family;

use super::scene::Scene;
use super::{Allowed, Mode};

/// What becomes of the packet by a host port; empty if there is none for it.
pub(super) fn outcomes(scene: &Scene) -> Allowed {
    let dst = scene.packet.dst;
    let is_here = scene.is_for_this_node();
    let Some(to) = target(scene).filter(|_| is_here || scene.is_answered_here()) else { return Allowed::new() };
    let sent = scene.sent_to(to, scene.packet.src.is_loopback());
    let mut allowed = Allowed::from([sent]);
    if dst.is_loopback() && !scene.opens_loopback() {
        let may_open = scene.mode == Mode::Nftables && dst.is_ipv4();
        allowed.retain(|_| may_open);
        allowed.insert(scene.unowned());
    }
    if !is_here {
        allowed.insert(scene.unowned());
    }
    allowed
}

fn target(scene: &Scene) -> Option<SocketAddr> {
    scene.snapshot.attachments.values().find_map(|pod| target_at(scene, pod))
}

fn target_at(scene: &Scene, pod: &Attachment) -> Option<SocketAddr> {
    let packet = scene.packet;
    let addr = pod.addresses.iter().copied().find(|addr: &IpAddr| Family::of(*addr) == packet.family())?;
    let is_asked_for = |host_addr: Option<IpAddr>| host_addr.is_none_or(|addr| addr == packet.dst);
    let mut ports = pod.host_ports.iter().filter(|port| port.proto == packet.proto && port.host_port == packet.dport);
    ports.find(|port| is_asked_for(port.host_addr)).map(|port| SocketAddr::new(addr, port.pod_port))
}
