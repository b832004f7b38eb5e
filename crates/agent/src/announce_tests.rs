//! Two nodes and a client on a LAN of namespaces: who is asked for an address, who answers, and what reaches the node.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use portolan_kernel::sysctl::{self, Key};
use portolan_kernel::{KernelRoute, Netlink, VethSpec, netns};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::Announcer;

const VIPS: [&str; 2] = ["172.18.100.1", "fd18::1"];
/// Of a listener on each node, at every address that it has.
const PORT: u16 = 9999;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn inside<T: Send>(place: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    netns::run_in(place.as_fd(), work).expect("root enters namespaces")
}

/// A node: its namespace, its link's MAC as `ip` writes it, what tells it whom to answer for.
struct Node {
    place: OwnedFd,
    mac: String,
    elected: watch::Sender<BTreeSet<IpAddr>>,
    _listener: TcpListener,
}

struct Lan {
    client: OwnedFd,
    nodes: Vec<Node>,
    _runtime: Runtime,
}

impl Lan {
    fn new() -> Lan {
        let runtime = Runtime::new().expect("a runtime");
        let client = netns::create().expect("root makes namespaces");
        inside(&client, || {
            settle_ipv6();
            let mut netlink = Netlink::open().expect("netlink");
            netlink.create_bridge("lan").expect("a bridge");
            let lan = netlink.link("lan").expect("just made").index;
            netlink.set_up(lan).expect("up");
            for address in ["172.18.0.1/24", "fd00:18::1/64"] {
                netlink.add_addr(lan, net(address)).expect("an address");
            }
            let pools = ["172.18.100.0/28", "fd18::/112"].map(|pool| KernelRoute::on_link(net(pool), lan));
            netlink.replace_routes(&pools).into_iter().for_each(|result| result.expect("a route"));
        });
        let nodes = (1..=2).map(|number| node(&client, number, &runtime)).collect();
        Lan { client, nodes, _runtime: runtime }
    }

    fn elect(&self, elected: [&[&str]; 2]) {
        for (node, addresses) in self.nodes.iter().zip(elected) {
            node.elected.send_replace(addresses.iter().map(|text| ip(text)).collect());
        }
    }

    /// What the client's kernel knows of the neighbour, after it had something to send there.
    fn neighbour(&self, address: &str) -> String {
        inside(&self.client, || {
            let socket = UdpSocket::bind(if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" }).expect("a socket");
            // Refused at once while an address is known not to answer.
            let _ = socket.send_to(b"?", (address, 7));
            self.known(address)
        })
    }

    fn known(&self, address: &str) -> String {
        let family = if address.contains(':') { "-6" } else { "-4" };
        let said = inside(&self.client, || {
            Command::new("ip").args([family, "neigh", "show", "to", address, "dev", "lan"]).output().expect("ip runs")
        });
        String::from_utf8_lossy(&said.stdout).trim().to_owned()
    }

    /// The outcome of a question that the client's kernel has to ask: an answer, or that it gave up.
    fn asked_anew(&self, address: &str) -> String {
        inside(&self.client, || {
            Command::new("ip").args(["neigh", "flush", "dev", "lan"]).status().expect("ip runs");
        });
        // Sent once: the next packet would begin a new row of questions.
        let first = self.neighbour(address);
        let is_settled = |known: &str| !known.is_empty() && !known.contains("INCOMPLETE");
        if !is_settled(&first) {
            wait(&format!("an outcome for {address}"), || self.known(address), is_settled);
        }
        self.known(address)
    }

    /// Whether the node's link hears what is sent to the group: where a switch looks at groups, nobody else does.
    #[track_caller]
    fn await_group(&self, group: &str, node: usize, is_joined: bool) {
        let listed = || {
            let ask = || Command::new("ip").args(["-6", "maddr", "show", "dev", "eth0"]).output().expect("ip runs");
            String::from_utf8_lossy(&inside(&self.nodes[node].place, ask).stdout).into_owned()
        };
        let holds = |said: &str| said.split_whitespace().any(|word| word == group) == is_joined;
        wait(&format!("{group} at node-{}, joined: {is_joined}", node + 1), listed, holds);
    }

    #[track_caller]
    fn await_at(&self, address: &str, node: usize) {
        let mac = &self.nodes[node].mac;
        let what = format!("{address} at node-{} ({mac})", node + 1);
        wait(&what, || self.neighbour(address), |known| known.contains(mac.as_str()));
    }
}

#[track_caller]
fn wait(what: &str, look: impl Fn() -> String, holds: impl Fn(&str) -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let seen = look();
        if holds(&seen) {
            return;
        }
        assert!(Instant::now() < until, "waited in vain for {what}: {seen:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A kernel without IPv6 has no such keys.
fn settle_ipv6() {
    for link in ["all", "default"] {
        let _ = sysctl::set(Key::DisableIpv6(link), 0);
        let _ = sysctl::set(Key::AcceptDad(link), 0);
    }
}

fn node(client: &OwnedFd, number: u8, runtime: &Runtime) -> Node {
    let place = netns::create().expect("root makes namespaces");
    let mac = [2, 0x18, 172, 18, 0, 10 + number];
    inside(client, || {
        let mut netlink = Netlink::open().expect("netlink");
        let port = format!("port-{number}");
        let spec = VethSpec {
            name: &port,
            peer_name: "eth0",
            peer_netns: Some(place.as_fd()),
            mac: None,
            peer_mac: Some(mac),
            mtu_bytes: 1500,
        };
        netlink.create_veth(&spec).expect("a veth");
        let (port, lan) = (netlink.link(&port).expect("made").index, netlink.link("lan").expect("made").index);
        netlink.set_master(port, lan).expect("a port");
        netlink.set_up(port).expect("up");
    });
    let (elected, hears) = watch::channel(BTreeSet::new());
    let listener = inside(&place, || {
        settle_ipv6();
        let mut netlink = Netlink::open().expect("netlink");
        for name in ["lo", "eth0"] {
            let link = netlink.link(name).expect("it is there").index;
            netlink.set_up(link).expect("up");
        }
        let eth0 = netlink.link("eth0").expect("it is there").index;
        for address in [format!("172.18.0.{}/24", 10 + number), format!("fd00:18::1{number}/64")] {
            netlink.add_addr(eth0, net(&address)).expect("an address");
        }
        sysctl::set(Key::Ipv4Forward, 1).expect("a node forwards");
        sysctl::set(Key::Ipv6Forwarding("all"), 1).expect("a node forwards");
        let _entered = runtime.enter();
        let announcer = Announcer::open("eth0").expect("root opens packet sockets");
        runtime.spawn(announcer.run(hears));
        TcpListener::bind(("::", PORT)).expect("a port of the node")
    });
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    Node { place, mac, elected, _listener: listener }
}

#[test]
fn the_elected_node_answers_takes_over_and_stops() {
    let lan = Lan::new();
    lan.elect([&VIPS, &[]]);
    VIPS.iter().for_each(|vip| lan.await_at(vip, 0));
    lan.await_group("ff02::1:ff00:1", 0, true);
    // Its announcement alone moves the client, which has no reason to ask while it knows an answer.
    lan.elect([&[], &VIPS]);
    for vip in VIPS {
        wait(vip, || lan.known(vip), |known| known.contains(&lan.nodes[1].mac));
    }
    lan.await_group("ff02::1:ff00:1", 0, false);
    // Neither answers now.
    lan.elect([&[], &[]]);
    for vip in VIPS {
        wait(&format!("nobody to answer for {vip}"), || lan.asked_anew(vip), |known| known.contains("FAILED"));
    }
}

#[test]
fn only_addresses_that_are_held_are_answered_for() {
    let lan = Lan::new();
    lan.elect([&[VIPS[0]], &[VIPS[1]]]);
    lan.await_at(VIPS[0], 0);
    lan.await_at(VIPS[1], 1);
    for other in ["172.18.100.2", "fd18::2"] {
        assert!(lan.asked_anew(other).contains("FAILED"), "{other} is nobody's");
    }
}

#[test]
fn a_port_without_a_service_reaches_no_listener_of_the_node() {
    let lan = Lan::new();
    lan.elect([&VIPS, &[]]);
    VIPS.iter().for_each(|vip| lan.await_at(vip, 0));
    let connect = |address: &str| {
        let to = (ip(address), PORT).into();
        inside(&lan.client, || TcpStream::connect_timeout(&to, Duration::from_millis(1500))).map_err(|e| e.kind())
    };
    for own in ["172.18.0.11", "fd00:18::11"] {
        assert!(connect(own).is_ok(), "the node listens at {own}");
    }
    for vip in VIPS {
        let refused = connect(vip).expect_err("nobody listens there");
        assert_ne!(refused, ErrorKind::ConnectionRefused, "{vip}: the node's own stack said so");
    }
    // As it would be with the address on an interface.
    inside(&lan.nodes[0].place, || {
        let mut netlink = Netlink::open().expect("netlink");
        let lo = netlink.link("lo").expect("it is there").index;
        VIPS.iter().for_each(|vip| netlink.add_addr(lo, ip(vip).into()).expect("an address"));
    });
    assert!(VIPS.iter().all(|vip| connect(vip).is_ok()), "this test can fail");
}
