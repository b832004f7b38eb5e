//! The ground: one node with pods, another node with pods, a client and the rest of the world, in namespaces that have
//! no name and end with the test.
//!
//! ```text
//!   a1 ─┐            172.18.0.11 ┌─────┐ .12             ┌─ b1
//!   a2 ─┼─ node-1 ───────────────┤ LAN ├───────── node-2 ─┤
//!   a3 ─┘ (cbr0)     172.19.0.11 └┬───┬┘                  └─ b2
//!                       outside .1┘   └.254 world: the default route; answers for every address that is nobody's
//! ```
//!
//! Neighbours are permanent, duplicate addresses are not looked for and nothing is routed around node-1, so that a
//! packet's way is over within the call that sent it and answers come back by the node that rewrote them.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use portolan_kernel::netns;

pub const NODE_1: &str = "node-1";
const NODE_2: &str = "node-2";
pub const OUTSIDE: &str = "outside";
pub const WORLD: &str = "world";

/// Hosts on the LAN, with the last part of their addresses, decimal in both families.
const LAN: [(&str, u16); 4] = [(NODE_1, 11), (NODE_2, 12), (OUTSIDE, 1), (WORLD, 254)];
/// Pods: the node, the pod, the last part of its address, and the bridge that it hangs on.
const PODS: [(&str, &str, u16, Option<&str>); 5] = [
    (NODE_1, "a1", 2, None),
    (NODE_1, "a2", 3, None),
    (NODE_1, "a3", 4, Some("cbr0")),
    (NODE_2, "b1", 2, None),
    (NODE_2, "b2", 3, None),
];
/// More addresses of `outside`: many clients.
pub const CROWD: std::ops::RangeInclusive<u16> = 33..=48;
/// A balancer's addresses that are addresses of node-1 as well.
pub const OWN_VIP: u8 = 200;

pub struct Ground {
    places: BTreeMap<&'static str, OwnedFd>,
}

/// Debian's programs, as `make deps` fetched them.
pub fn deb_bin() -> PathBuf {
    let told = std::env::var_os("PORTOLAN_DEB_BIN").map(PathBuf::from);
    let dir = told.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/deb/bin"));
    assert!(dir.join("ip").exists(), "Debian's programs are not there: run scripts/fetch-debs.sh");
    dir
}

/// A place's first address of each family, IPv4 first.
pub fn addresses(place: &str) -> [IpAddr; 2] {
    if let Some((node, _, number, _)) = PODS.iter().find(|pod| pod.1 == place) {
        return pair(pod_net(node).0, pod_net(node).1, *number);
    }
    let number = LAN.iter().find(|host| host.0 == place).map(|host| host.1);
    pair("172.18.0.", "fd00:18::", number.unwrap_or_else(|| panic!("no place {place}")))
}

/// The second addresses of node-1 and outside, in nets of their own.
pub fn second_addresses(place: &str) -> [IpAddr; 2] {
    let number = LAN.iter().find(|host| host.0 == place).map(|host| host.1);
    pair("172.19.0.", "fd00:19::", number.unwrap_or_else(|| panic!("{place} is not on the LAN")))
}

pub fn own_vip() -> [IpAddr; 2] {
    pair("198.51.100.", "2001:db8:f::", OWN_VIP.into())
}

/// One of outside's many.
pub fn crowd(number: u16) -> [IpAddr; 2] {
    pair("172.18.0.", "fd00:18::", number)
}

/// Addresses of both families that end in the same digits.
pub fn pair(v4: &str, v6: &str, number: u16) -> [IpAddr; 2] {
    [format!("{v4}{number}"), format!("{v6}{number}")].map(|text| text.parse().expect("a literal address"))
}

/// Who has this address. Every address that no host has is the world's.
pub fn owner(addr: IpAddr) -> &'static str {
    if on_node(addr) {
        return NODE_1;
    }
    if second_addresses(OUTSIDE).contains(&addr) {
        return OUTSIDE;
    }
    let pods = PODS.iter().map(|pod| pod.1);
    let mut places = pods.chain(LAN.iter().map(|host| host.0));
    places.find(|place| addresses(place).contains(&addr)).unwrap_or(WORLD)
}

/// An address of node-1.
pub fn on_node(addr: IpAddr) -> bool {
    let all = [addresses(NODE_1), second_addresses(NODE_1), own_vip()];
    addr.is_loopback() || all.iter().flatten().any(|own| *own == addr)
}

fn pod_net(node: &str) -> (&'static str, &'static str) {
    match node {
        NODE_1 => ("10.244.1.", "fd00:10:244:1::"),
        _ => ("10.244.2.", "fd00:10:244:2::"),
    }
}

fn mac(kind: u16, node: &str, number: u16) -> String {
    let node = LAN.iter().find(|host| host.0 == node).map_or(0, |host| host.1);
    format!("02:00:00:{kind:02x}:{node:02x}:{number:02x}")
}

impl Ground {
    /// Makes the namespaces and what is in them.
    pub fn lay() -> Ground {
        let names = PODS.iter().map(|pod| pod.1).chain(LAN.iter().map(|host| host.0)).chain(["lan"]);
        let made = names.map(|name| (name, netns::create().expect("a network namespace, as root")));
        let ground = Ground { places: made.collect() };
        for place in ground.places.keys() {
            ground.quiet(place);
        }
        ground.ip("lan", "link add lan0 type bridge\nlink set lan0 up\n");
        LAN.iter().for_each(|(name, number)| ground.join_lan(name, *number));
        PODS.iter().for_each(|(node, pod, number, bridge)| ground.hang(node, pod, *number, *bridge));
        ground.route();
        ground
    }

    /// Runs `work` inside a place.
    pub fn inside<T: Send>(&self, place: &str, work: impl FnOnce() -> T + Send) -> T {
        netns::run_in(self.places[place].as_fd(), work).expect("the namespace can be entered")
    }

    fn path(&self, place: &str) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.places[place].as_raw_fd())
    }

    /// Settings of one namespace: it forwards, asks no questions and says no more than it must.
    fn quiet(&self, place: &str) {
        let all = [("ipv4", "rp_filter", "0"), ("ipv4", "send_redirects", "0"), ("ipv4", "accept_redirects", "0")];
        let six = [("ipv6", "accept_dad", "0"), ("ipv6", "accept_ra", "0"), ("ipv6", "accept_redirects", "0")];
        self.inside(place, || {
            for (family, key, value) in all.into_iter().chain(six) {
                for link in ["all", "default"] {
                    write_setting(&format!("{family}/conf/{link}/{key}"), value);
                }
            }
            // Every refusal is told, not one a second.
            write_setting("ipv4/icmp_ratelimit", "0");
            write_setting("ipv6/icmp/ratelimit", "0");
            if Path::new("/proc/sys/net/ipv4/icmp_msgs_per_sec").exists() {
                write_setting("ipv4/icmp_msgs_per_sec", "1000000");
                write_setting("ipv4/icmp_msgs_burst", "1000000");
            }
            if place.starts_with("node") {
                write_setting("ipv4/ip_forward", "1");
                write_setting("ipv6/conf/all/forwarding", "1");
            }
        });
        self.ip(place, "link set lo up\n");
    }

    /// `ip -batch` in a place.
    pub fn ip(&self, place: &str, batch: &str) {
        let output = self.inside(place, || {
            let mut command = Command::new(deb_bin().join("ip"));
            command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().expect("ip starts");
            let mut stdin = child.stdin.take().expect("stdin is piped");
            stdin.write_all(batch.as_bytes()).expect("ip reads");
            drop(stdin);
            child.wait_with_output().expect("ip ends")
        });
        assert!(output.status.success(), "at {place}: {}\n{batch}", String::from_utf8_lossy(&output.stderr));
    }

    fn join_lan(&self, name: &str, number: u16) {
        let port = format!("to-{name}");
        let mut here = format!(
            "link add {port} type veth peer name eth0 netns {}\nlink set {port} master lan0\nlink set {port} up\n",
            self.path(name)
        );
        self.ip("lan", &here);
        here = format!("link set eth0 address {}\nlink set eth0 up\n", mac(0, name, number));
        here.push_str(&format!(
            "addr add 172.18.0.{number}/24 dev eth0\naddr add fd00:18::{number}/64 dev eth0 nodad\n"
        ));
        if [NODE_1, OUTSIDE].contains(&name) {
            here.push_str(&format!(
                "addr add 172.19.0.{number}/24 dev eth0\naddr add fd00:19::{number}/64 dev eth0 nodad preferred_lft 0\n"
            ));
        }
        for (other, number) in LAN.iter().filter(|host| host.0 != name) {
            let mac = mac(0, other, *number);
            let mut all: Vec<IpAddr> = addresses(other).into();
            if *other == OUTSIDE {
                all.extend(CROWD.flat_map(crowd));
            }
            if [NODE_1, OUTSIDE].contains(other) {
                all.extend(second_addresses(other));
            }
            for addr in all {
                here.push_str(&format!("neigh replace {addr} lladdr {mac} dev eth0 nud permanent\n"));
            }
        }
        if name == OUTSIDE {
            for [v4, v6] in CROWD.map(crowd) {
                here.push_str(&format!("addr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad preferred_lft 0\n"));
            }
        }
        self.ip(name, &here);
    }

    /// A pod: its default route leads to its node by an address that only its neighbour table knows.
    fn hang(&self, node: &str, pod: &str, number: u16, bridge: Option<&str>) {
        let [v4, v6] = addresses(pod);
        let (near, far) = (mac(1, node, number), mac(2, node, number));
        let link = format!("cali-{pod}");
        let mut at_node = format!(
            "link add {link} address {near} type veth peer name eth0 address {far} netns {}\nlink set {link} up\n",
            self.path(pod)
        );
        let to_pod = bridge.unwrap_or(&link);
        if let Some(bridge) = bridge {
            at_node.push_str(&format!("link add {bridge} address {} type bridge\n", mac(3, node, number)));
            at_node.push_str(&format!("link set {link} master {bridge}\nlink set {bridge} up\n"));
        }
        for addr in [v4, v6] {
            at_node.push_str(&format!("route add {addr} dev {to_pod} scope link\n"));
            at_node.push_str(&format!("neigh replace {addr} lladdr {far} dev {to_pod} nud permanent\n"));
        }
        self.ip(node, &at_node);
        let gateway = bridge.map_or(near, |_| mac(3, node, number));
        self.ip(
            pod,
            &format!(
                "link set eth0 up\naddr add {v4}/32 dev eth0\naddr add {v6}/128 dev eth0 nodad\n\
                 route add 169.254.1.1 dev eth0 scope link\nroute add default via 169.254.1.1 dev eth0\n\
                 route add default via fe80::1 dev eth0\n\
                 neigh replace 169.254.1.1 lladdr {gateway} dev eth0 nud permanent\n\
                 neigh replace fe80::1 lladdr {gateway} dev eth0 nud permanent\n"
            ),
        );
    }

    fn route(&self) {
        let vips = own_vip().map(|addr| format!("addr add {addr} dev lo\n")).concat();
        self.ip(
            NODE_1,
            &format!(
                "{vips}route add default via 172.18.0.254\nroute add default via fd00:18::254\n\
                 route add 10.244.2.0/24 via 172.18.0.12\nroute add fd00:10:244:2::/64 via fd00:18::12\n"
            ),
        );
        // What pods of node-2 answer goes back by node-1, the only node with rules here.
        let clients: Vec<String> = addresses(OUTSIDE)
            .into_iter()
            .chain(addresses(WORLD))
            .chain(CROWD.flat_map(crowd))
            .map(|addr| addr.to_string())
            .collect();
        let by_node_1 = |addr: &str| match addr.contains(':') {
            true => format!("route add {addr} via fd00:18::11\n"),
            false => format!("route add {addr} via 172.18.0.11\n"),
        };
        let back: String = clients.iter().map(|addr| by_node_1(addr)).collect();
        let defaults = by_node_1("default") + "route add default via fd00:18::11\n";
        self.ip(NODE_2, &(back.clone() + &defaults));
        let services = ["10.96.0.0/12", "203.0.113.0/24", "198.51.100.0/24"];
        let services_v6 = ["fd00:10:96::/112", "2001:db8:e::/64", "2001:db8:f::/64"];
        let pods = ["10.244.0.0/16", "fd00:10:244::/48"];
        let all = || services.into_iter().chain(services_v6);
        self.ip(OUTSIDE, &all().chain(pods).map(by_node_1).collect::<String>());
        let nobodys: String = all().map(|net| format!("route add local {net} dev lo\n")).collect();
        let of_outside: Vec<String> = addresses(OUTSIDE)
            .into_iter()
            .chain(CROWD.flat_map(crowd))
            .map(|addr| by_node_1(&addr.to_string()))
            .collect();
        self.ip(WORLD, &(nobodys + &pods.map(by_node_1).concat() + &of_outside.concat()));
    }
}

fn write_setting(key: &str, value: &str) {
    let path = format!("/proc/sys/net/{key}");
    std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
}
