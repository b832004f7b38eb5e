//! Packets: every one worth asking about in a world, with every way it may arrive.

use std::collections::BTreeSet;
use std::net::IpAddr;

use portolan_model::verdict::{Arrival, Packet, is_node_address};
use portolan_model::{Family, Proto, Snapshot};

use super::world::{BRIDGE, LAN, POD_LINK, ip, net};

/// Every packet worth asking about: all sources to all destinations there are, on all their ports.
pub(crate) fn packets(snapshot: &Snapshot, family: Family) -> Vec<Packet> {
    let (destinations, ports) = (destinations(snapshot, family), ports(snapshot));
    let mut packets = Vec::new();
    for (src, arrival) in sources(snapshot, family) {
        for dst in &destinations {
            let packet = |&(proto, dport): &(Proto, u16)| Packet { src, dst: *dst, proto, dport, arrival };
            packets.extend(ports.iter().map(packet));
        }
    }
    let lo = if family == Family::V4 { ip("127.0.0.1") } else { ip("::1") };
    let at_home = |&(proto, dport): &(Proto, u16)| Packet { src: lo, dst: lo, proto, dport, arrival: Arrival::Sent };
    packets.extend(ports.iter().map(at_home));
    packets
}

/// Every third packet, beginning at another for each `turn`: three turns ask about all.
pub(crate) fn every_third(snapshot: &Snapshot, family: Family, turn: usize) -> Vec<Packet> {
    packets(snapshot, family).into_iter().skip(turn % 3).step_by(3).collect()
}

/// Sources with the ways they come: the node's own addresses are sent, a local pod's come by its link or a bridge, others
/// from the LAN; and one stranger comes by a pod's link.
fn sources(snapshot: &Snapshot, family: Family) -> BTreeSet<(IpAddr, Arrival)> {
    let mut sources = vec!["10.244.0.5", "10.244.0.77", "10.244.1.6", "172.18.0.11", "172.18.0.12", "192.0.2.7"];
    sources.extend(["198.51.100.1", "fd00:10:244::5", "fd00:10:244::4d", "fd00:10:244:1::6"]);
    sources.extend(["10.244.0.1", "fd00:10:244::1"]);
    sources.extend(["fd00:18::11", "fd00:18::12", "2001:db8:1::7"]);
    let mut sources: Vec<IpAddr> = sources.into_iter().map(ip).collect();
    sources.extend(snapshot.services.values().flat_map(|view| view.spec.load_balancer_ips.clone()));
    let local_pods = [net("10.244.0.0/24"), net("fd00:10:244::/64")];
    let is_pod = |addr: &IpAddr| local_pods.iter().any(|range| range.contains(addr));
    let ways = |addr: IpAddr| match () {
        () if is_node_address(snapshot, addr) => vec![Arrival::Sent],
        () if is_pod(&addr) => vec![Arrival::by(POD_LINK), Arrival::by(BRIDGE)],
        () if addr == ip("192.0.2.7") || addr == ip("2001:db8:1::7") => vec![Arrival::by(LAN), Arrival::by(POD_LINK)],
        () => vec![Arrival::by(LAN)],
    };
    let all = sources.into_iter().filter(|addr| Family::of(*addr) == family);
    all.flat_map(|addr| ways(addr).into_iter().map(move |way| (addr, way))).collect()
}

fn destinations(snapshot: &Snapshot, family: Family) -> BTreeSet<IpAddr> {
    let mut all = vec!["10.244.0.5", "10.96.0.99", "198.18.0.9", "172.18.0.11", "172.19.0.11", "172.18.0.12"];
    all.extend(["127.0.0.1", "fd00:10:244::5", "fd00:10:96::99", "2001:db8::9", "fd00:18::11", "fd00:19::11"]);
    all.extend(["fd00:18::12", "::1"]);
    let mut all: BTreeSet<IpAddr> = all.into_iter().map(ip).collect();
    for view in snapshot.services.values() {
        let spec = &view.spec;
        all.extend(spec.cluster_ips.iter().chain(&spec.external_ips).chain(&spec.load_balancer_ips));
    }
    all.into_iter().filter(|addr| Family::of(*addr) == family).collect()
}

/// Ports that somebody has, each with its protocol, and some that nobody has.
fn ports(snapshot: &Snapshot) -> BTreeSet<(Proto, u16)> {
    let mut ports = BTreeSet::from([(Proto::Tcp, 53), (Proto::Udp, 53), (Proto::Tcp, 9999), (Proto::Sctp, 80)]);
    for port in snapshot.services.values().flat_map(|view| &view.ports) {
        let spec = &port.spec;
        ports.extend([spec.port, spec.node_port].into_iter().filter(|n| *n != 0).map(|n| (spec.proto, n)));
    }
    for port in snapshot.attachments.values().flat_map(|pod| &pod.host_ports) {
        ports.insert((port.proto, port.host_port));
    }
    ports
}
