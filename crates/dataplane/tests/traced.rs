//! A way that a walk foresees, and what the kernel tells of the real packet: the same rules with the same verdicts.
//!
//! The node sends to itself by a Service, in a network namespace of the test's own; as root.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use portolan_dataplane::way::{Act, Event, Hook};
use portolan_dataplane::{iptables, nftables};
use portolan_kernel::iptables::{Family as ToolFamily, Flush, Tool};
use portolan_kernel::netlink::{KernelRoute, VethSpec};
use portolan_kernel::nft::Nft;
use portolan_kernel::nftrace::{TraceEvent, TraceVerdict, Traced, Tracer};
use portolan_kernel::trap::{Trap, Watched};
use portolan_kernel::{Netlink, netns};
use portolan_model::verdict::{Arrival, Packet};
use portolan_model::{
    EndpointFact, Fact, Facts, Family, Node, NsName, Proto, ProxySettings, Service, ServicePortFact, Settings, Slice,
    SlicePort, Snapshot, resolve,
};

const NODE: &str = "172.18.0.11";
const PAYLOAD: [u8; 8] = *b"ptl-t-01";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a literal prefix")
}

/// svc-0 leads back to the node itself, with affinity; svc-1 to nobody.
fn snapshot() -> Snapshot {
    let settings = Settings {
        node: "node-1".into(),
        cluster_cidrs: vec![net("10.244.0.0/16")],
        service_cidrs: vec![net("10.96.0.0/12")],
        cluster_dns: Vec::new(),
        cluster_domain: "cluster.local".into(),
        proxy: ProxySettings { localhost_node_ports: false, ..ProxySettings::default() },
    };
    let node = Node { addresses: vec![ip(NODE)], ready: true, ..Node::default() };
    let mut facts = vec![Fact::Node("node-1".into(), Some(node))];
    for (index, endpoints) in [(0, vec![EndpointFact::ready_at(ip(NODE))]), (1, Vec::new())] {
        let key = NsName::new("default", format!("svc-{index}"));
        let service = Service {
            cluster_ips: vec![ip(&format!("10.96.0.2{index}"))],
            ports: vec![ServicePortFact { name: "echo".into(), proto: Proto::Udp, port: 7, node_port: 0 }],
            affinity_secs: (index == 0).then_some(60),
            ..Service::default()
        };
        let ports = vec![SlicePort { name: "echo".into(), proto: Proto::Udp, port: 7007 }];
        let slice = Slice { service: key.clone(), family: Family::V4, ports, endpoints };
        facts.push(Fact::Slice(key.clone(), Some(slice)));
        facts.push(Fact::Service(key, Some(service)));
    }
    let mut all = Facts::default();
    all.apply_all(facts);
    resolve(&all, &Snapshot::empty(Arc::new(settings)), &all.all()).0
}

fn tool() -> Tool {
    let fetched = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/deb/bin");
    let told = std::env::var_os("PORTOLAN_IPTABLES_DIR").map(PathBuf::from);
    Tool { dir: told.or_else(|| fetched.join("iptables-restore").exists().then_some(fetched)), env: Vec::new() }
}

/// What the kernel tells of one packet that the node sends to `to`, once `load` wrote the rules.
fn traced(to: SocketAddr, load: impl FnOnce() + Send) -> Vec<TraceEvent> {
    let space = netns::create().expect("as root");
    netns::run_in(space.as_fd(), || {
        let mut netlink = Netlink::open().expect("netlink");
        let lo = netlink.link("lo").expect("every namespace has it").index;
        netlink.set_up(lo).expect("it comes up");
        // An address of `lo` is none that masquerade would take.
        let pair =
            VethSpec { name: "eth0", peer_name: "peer", peer_netns: None, mac: None, peer_mac: None, mtu_bytes: 1500 };
        netlink.create_veth(&pair).expect("a pair of links");
        let eth0 = netlink.link("eth0").expect("just made").index;
        netlink.set_up(eth0).expect("it comes up");
        netlink.add_addr(eth0, net(&format!("{NODE}/24"))).expect("an address");
        // Somewhere to be sent to before rules have their say; nothing leaves the namespace.
        let services = KernelRoute::on_link(net("10.96.0.0/12"), lo);
        netlink.replace_routes(&[services]).into_iter().for_each(|result| result.expect("a route"));
        load();
        let mut tracer = Tracer::open().expect("traces are heard");
        let _trap = Trap::arm("ptl-t-traced", &Watched::Payload(PAYLOAD)).expect("a trap");
        let socket = UdpSocket::bind((NODE, 0)).expect("a port");
        // A refusal is an answer too.
        let _ = socket.send_to(&PAYLOAD, to);
        tracer.read().expect("what was heard")
    })
    .expect("the namespace is there")
}

/// `ip nat KUBE-SERVICES jump KUBE-SVC-…` of the packet, sorted: postrouting comes before input on the way to
/// oneself. Policies and ends of chains are left out, the trap's own chains, and the packet's second way in.
fn by_kernel(events: &[TraceEvent]) -> Vec<String> {
    // It has a new number as it comes back in; the refusal that answers it is ICMP.
    let is_udp = |event: &&TraceEvent| event.packet.is_some_and(|head| head.protocol == 17);
    let ids: BTreeSet<u32> = events.iter().filter(is_udp).map(|event| event.id).collect();
    let is_second = |chain: &str| chain == "PREROUTING" || chain.contains("prerouting");
    let own = events
        .iter()
        .filter(|event| ids.contains(&event.id) && event.table != "ptl-t-traced" && !is_second(&event.chain));
    let rules = own.filter_map(|event| match &event.what {
        Traced::Rule { verdict, .. } => Some(format!("ip {} {} {}", event.table, event.chain, verdict_word(verdict)?)),
        _ => None,
    });
    sorted(rules)
}

fn verdict_word(verdict: &TraceVerdict) -> Option<String> {
    Some(match verdict {
        TraceVerdict::Jump(chain) => format!("jump {chain}"),
        TraceVerdict::Goto(chain) => format!("goto {chain}"),
        TraceVerdict::Accept => "accept".into(),
        TraceVerdict::Drop => "drop".into(),
        TraceVerdict::Continue => "continue".into(),
        TraceVerdict::Stolen => "stolen".into(),
        TraceVerdict::Return => return None,
    })
}

fn by_walk(events: Vec<Event>) -> Vec<String> {
    let word = |act: &Act| {
        Some(match act {
            Act::Jump { chain } => format!("jump {chain}"),
            Act::Goto { chain } => format!("goto {chain}"),
            Act::Accept => "accept".into(),
            Act::Drop => "drop".into(),
            Act::Continue => "continue".into(),
            Act::Stolen => "stolen".into(),
            Act::Return | Act::Policy { .. } => return None,
        })
    };
    let of_hook = events.into_iter().filter(|event| event.hook != Hook::Prerouting);
    sorted(of_hook.filter_map(|event| Some(format!("{} {} {}", event.table, event.chain, word(&event.act)?))))
}

fn sorted(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<String> = lines.collect();
    lines.sort();
    lines
}

fn packet(to: SocketAddr) -> Packet {
    Packet { src: ip(NODE), dst: to.ip(), proto: Proto::Udp, dport: to.port(), arrival: Arrival::Sent }
}

/// Served, refused, and let be.
const DESTINATIONS: [&str; 3] = ["10.96.0.20:7", "10.96.0.21:7", "172.18.0.11:7007"];

#[test]
fn the_kernel_traces_what_the_walk_of_iptables_foresees() {
    let snapshot = snapshot();
    let desired = iptables::Desired::of(Family::V4, iptables::Options::default(), &snapshot);
    let (rules, world) = (desired.with_hooks(), iptables::trace::World::of(&snapshot, &desired));
    for to in DESTINATIONS.map(|to| to.parse::<SocketAddr>().expect("an address and a port")) {
        let ways = iptables::trace::walk(&rules, &world, &packet(to));
        let [way] = ways.as_slice() else { panic!("one way: {ways:?}") };
        let text = iptables::render::full(&rules);
        let heard = traced(to, || tool().restore(ToolFamily::V4, &text, Flush::Keep).expect("the kernel takes it"));
        let walked = by_walk(iptables::trace::events(&rules, way, &packet(to), 0));
        assert!(walked.len() > 5, "{walked:?}");
        assert_eq!(by_kernel(&heard), walked, "{to}");
    }
}

#[test]
fn the_kernel_traces_what_the_walk_of_nftables_foresees() {
    let snapshot = snapshot();
    let desired = nftables::Desired::of(Family::V4, nftables::Options::default(), &snapshot);
    let (table, world) = (desired.table(), nftables::trace::World::of(&snapshot, &desired));
    for to in DESTINATIONS.map(|to| to.parse::<SocketAddr>().expect("an address and a port")) {
        let ways = nftables::trace::walk(&table, &world, &packet(to));
        let [way] = ways.as_slice() else { panic!("one way: {ways:?}") };
        let batch = nftables::wire::transaction(Family::V4, &table.name, &nftables::wire::steps_of(&table));
        let heard = traced(to, || Nft::open().and_then(|mut nft| nft.transact(&batch)).expect("the kernel takes it"));
        let walked = by_walk(nftables::trace::events(&table, way, &packet(to), 0));
        assert!(walked.len() > 2, "{walked:?}");
        assert_eq!(by_kernel(&heard), walked, "{to}");
    }
}
