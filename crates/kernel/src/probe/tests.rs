//! Probes between namespaces made for each test: client ── router ── server, in both families.

use std::io::Read;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use ipnet::IpNet;

use super::*;
use crate::iptables::{Family, Flush, Tool};
use crate::netlink::{KernelRoute, RouteKind, VethSpec};
use crate::netns;
use crate::sysctl::{self, Key};

const PATIENT: Duration = Duration::from_secs(20);
/// For tests that wait for nothing to come.
const BRIEF: Duration = Duration::from_millis(300);

fn tool() -> Tool {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/deb/bin");
    if fetched.join("iptables-restore").exists() {
        return Tool { dir: Some(fetched), env: Vec::new() };
    }
    Tool::from_environment()
}

/// The addresses of one family.
#[derive(Clone, Copy)]
struct Row {
    family: Family,
    client: &'static str,
    /// The router's, towards client and server.
    near: &'static str,
    far: &'static str,
    server: &'static str,
    /// A net that the router refuses, one that it forgets, and one that the client itself forgets.
    refused: &'static str,
    forgotten: &'static str,
    hole: &'static str,
    loopback: &'static str,
}

const ROWS: [Row; 2] = [
    Row {
        family: Family::V4,
        client: "192.0.2.2/24",
        near: "192.0.2.1/24",
        far: "198.51.100.1/24",
        server: "198.51.100.2/24",
        refused: "203.0.113.0/26",
        forgotten: "203.0.113.64/26",
        hole: "203.0.113.128/26",
        loopback: "127.0.0.1",
    },
    Row {
        family: Family::V6,
        client: "2001:db8:1::2/64",
        near: "2001:db8:1::1/64",
        far: "2001:db8:2::1/64",
        server: "2001:db8:2::2/64",
        refused: "2001:db8:3::/64",
        forgotten: "2001:db8:4::/64",
        hole: "2001:db8:5::/64",
        loopback: "::1",
    },
];

struct World {
    client: OwnedFd,
    router: OwnedFd,
    server: OwnedFd,
}

fn inside<T: Send>(netns: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    netns::run_in(netns.as_fd(), work).expect("the namespace lives")
}

fn address(net: &str) -> IpAddr {
    net.parse::<IpNet>().expect(net).addr()
}

/// A host of that net.
fn host_in(net: &str) -> IpAddr {
    net.parse::<IpNet>().expect(net).hosts().nth(4).expect(net)
}

impl World {
    fn new() -> World {
        let made = || netns::create().expect("the tests run as root");
        let world = World { client: made(), router: made(), server: made() };
        inside(&world.router, || {
            let mut n = Netlink::open().unwrap();
            for (name, peer) in [("ptl-t-near", &world.client), ("ptl-t-far", &world.server)] {
                n.create_veth(&VethSpec {
                    name,
                    peer_name: "eth0",
                    peer_netns: Some(peer.as_fd()),
                    mac: None,
                    peer_mac: None,
                    mtu_bytes: 1500,
                })
                .unwrap();
                let index = n.link(name).unwrap().index;
                n.set_up(index).unwrap();
                for row in ROWS {
                    let net = if name == "ptl-t-near" { row.near } else { row.far };
                    n.add_addr(index, net.parse().unwrap()).unwrap();
                }
            }
            for key in [Key::Ipv4Forward, Key::Ipv6Forwarding("all")] {
                sysctl::set(key, 1).unwrap();
            }
            let refusing = |net: &str| KernelRoute {
                kind: RouteKind::Unreachable,
                ..KernelRoute::blackhole(net.parse().unwrap())
            };
            let routes =
                ROWS.map(|row| [refusing(row.refused), KernelRoute::blackhole(row.forgotten.parse().unwrap())]);
            n.replace_routes(routes.as_flattened()).into_iter().for_each(Result::unwrap);
        });
        for (place, net, gateway) in [
            (&world.client, ROWS.map(|row| row.client), ROWS.map(|row| row.near)),
            (&world.server, ROWS.map(|row| row.server), ROWS.map(|row| row.far)),
        ] {
            inside(place, || furnish(net, gateway));
        }
        inside(&world.client, || {
            let holes = ROWS.map(|row| KernelRoute::blackhole(row.hole.parse().unwrap()));
            Netlink::open().unwrap().replace_routes(&holes).into_iter().for_each(Result::unwrap);
        });
        for (place, nets) in [
            (&world.client, ROWS.map(|row| row.client)),
            (&world.router, ROWS.map(|row| row.near)),
            (&world.router, ROWS.map(|row| row.far)),
            (&world.server, ROWS.map(|row| row.server)),
        ] {
            inside(place, || nets.map(await_local));
        }
        world
    }

    fn filter(&self, place: &OwnedFd, family: Family, rule: &str) {
        let text = format!("*filter\n{rule}\nCOMMIT\n");
        inside(place, || tool().restore(family, &text, Flush::All).expect(rule));
    }
}

/// A host with one link and everything else behind a gateway.
fn furnish(nets: [&str; 2], gateways: [&str; 2]) {
    let mut n = Netlink::open().unwrap();
    n.set_up(1).unwrap();
    let eth0 = n.link("eth0").unwrap().index;
    n.set_up(eth0).unwrap();
    for (net, gateway) in nets.into_iter().zip(gateways) {
        n.add_addr(eth0, net.parse().unwrap()).unwrap();
        let everything: IpNet = if address(net).is_ipv4() { "0.0.0.0/0" } else { "::/0" }.parse().unwrap();
        n.replace_routes(&[KernelRoute::via(everything, address(gateway), eth0)]).remove(0).unwrap();
    }
}

/// An IPv6 address works a moment after it is there.
fn await_local(net: &str) {
    let mut n = Netlink::open().unwrap();
    let deadline = Instant::now() + PATIENT;
    while n.route_lookup(&RouteQuestion::to(address(net))).unwrap().fate != RouteFate::Local {
        assert!(Instant::now() < deadline, "{net} does not become local");
        std::thread::yield_now();
    }
}

fn shot(to: IpAddr, port: u16, patience: Duration) -> Shot {
    Shot { to: SocketAddr::new(to, port), source_port: None, patience }
}

/// IP packets that leave or come by all links of the namespace of the thread that opened it.
struct Wire(OwnedFd);

impl Wire {
    fn open() -> Wire {
        let everything = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: no pointers.
        let raw = unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
                i32::from(everything),
            )
        };
        assert!(raw >= 0, "{}", io::Error::last_os_error());
        // SAFETY: just opened, owned by nobody else.
        Wire(unsafe { OwnedFd::from_raw_fd(raw) })
    }

    /// TCP headers that wait: flags, sequence number, acknowledged number.
    fn tcp(&self) -> Vec<(u8, u32, u32)> {
        let mut seen = Vec::new();
        let mut buffer = [0; 2048];
        loop {
            // SAFETY: the buffer is live and its length true.
            let read = unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            let Ok(read) = usize::try_from(read) else { return seen };
            let packet = &buffer[..read];
            let at = match packet[0] >> 4 {
                4 if packet[9] == 6 => usize::from(packet[0] & 15) * 4,
                6 if packet[6] == 6 => 40,
                _ => continue,
            };
            let word = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
            seen.push((packet[at + 13], word(at + 4), word(at + 8)));
        }
    }
}

const SYN: u8 = 2;
const SYN_ACK: u8 = 18;
const RST: u8 = 4;

#[test]
fn the_syn_carries_the_chosen_number_and_its_answer_acknowledges_the_next() {
    let world = World::new();
    for row in ROWS {
        let to = address(row.server);
        let listener = inside(&world.server, || TcpListener::bind((to, 80)).unwrap());
        let wire = inside(&world.server, Wire::open);
        for number in [1, 0x8000_0000, 0xdead_beef, u32::MAX] {
            let seen = inside(&world.client, || tcp(&shot(to, 80, PATIENT), number));
            assert_eq!((&seen.end, seen.local.map(|local| local.ip())), (&End::Answered, Some(address(row.client))));
            let (mut accepted, from) = listener.accept().unwrap();
            assert_eq!(Some(from), seen.local);
            assert_eq!(accepted.read(&mut [0; 8]).unwrap(), 0, "an orderly end, no reset");
            drop(accepted);
            let packets = wire.tcp();
            assert!(packets.iter().any(|(flags, sent, _)| (*flags, *sent) == (SYN, number)), "{number}: {packets:x?}");
            let next = number.wrapping_add(1);
            assert!(packets.iter().any(|(flags, _, got)| (*flags, *got) == (SYN_ACK, next)), "{number}: {packets:x?}");
            assert!(packets.iter().all(|(flags, ..)| flags & RST == 0), "{number}: {packets:x?}");
        }
    }
}

#[test]
fn a_server_that_speaks_first_is_not_reset() {
    let world = World::new();
    let to = address(ROWS[0].server);
    let listener = inside(&world.server, || TcpListener::bind((to, 22)).unwrap());
    let wire = inside(&world.server, Wire::open);
    let greeting = std::thread::spawn(move || {
        let (mut accepted, _) = listener.accept().unwrap();
        io::Write::write_all(&mut accepted, b"220 here I am\r\n").unwrap();
        assert_eq!(accepted.read(&mut [0; 8]).unwrap(), 0);
        io::Write::write_all(&mut accepted, b"221 bye\r\n").unwrap();
    });
    assert_eq!(inside(&world.client, || tcp(&shot(to, 22, PATIENT), 77)).end, End::Answered);
    greeting.join().unwrap();
    // The client's own end comes last.
    let deadline = Instant::now() + PATIENT;
    let mut packets = Vec::new();
    let ends = |packets: &[(u8, u32, u32)]| packets.iter().filter(|(flags, ..)| flags & 1 != 0).count();
    while ends(&packets) < 2 && Instant::now() < deadline {
        packets.extend(wire.tcp());
        std::thread::yield_now();
    }
    assert!(packets.iter().all(|(flags, ..)| flags & RST == 0), "{packets:x?}");
}

#[test]
fn a_closed_port_refuses_by_a_reset_and_by_icmp() {
    let world = World::new();
    for row in ROWS {
        let to = address(row.server);
        let seen = inside(&world.client, || tcp(&shot(to, 81, PATIENT), 7));
        assert_eq!(seen.end, End::Refused { by: Some(to) });
        assert!(seen.local.is_some());
        let seen = inside(&world.client, || udp(&shot(to, 81, PATIENT), b"question"));
        assert_eq!(seen.end, End::Refused { by: Some(to) });
    }
}

#[test]
fn who_rejects_on_the_way_is_told_by_its_icmp_error() {
    let world = World::new();
    for row in ROWS {
        let (to, router) = (address(row.server), address(row.near));
        let (port, prohibited) = match row.family {
            Family::V4 => ("icmp-port-unreachable", "icmp-admin-prohibited"),
            Family::V6 => ("icmp6-port-unreachable", "icmp6-adm-prohibited"),
        };
        let rows = [(port, true), (prohibited, false), ("tcp-reset", true)];
        for (with, refuses) in rows {
            world.filter(&world.router, row.family, &format!("-A FORWARD -p tcp -j REJECT --reject-with {with}"));
            let seen = inside(&world.client, || tcp(&shot(to, 80, PATIENT), 7));
            match seen.end {
                // A reset bears the address that was asked.
                End::Refused { by } => {
                    assert!(refuses && by == Some(if with == "tcp-reset" { to } else { router }), "{with}: {by:?}")
                }
                End::Unreachable { by, why } => {
                    assert!(!refuses && by == Some(router), "{with}: {by:?} {why}");
                    assert!(why.starts_with("administratively prohibited"), "{why}");
                }
                other => panic!("{with}: {other:?}"),
            }
        }
        world.filter(&world.router, row.family, &format!("-A FORWARD -p udp -j REJECT --reject-with {port}"));
        let seen = inside(&world.client, || udp(&shot(to, 53, PATIENT), b"question"));
        assert_eq!(seen.end, End::Refused { by: Some(router) });
        world.filter(&world.router, row.family, "");
    }
}

/// The kernel keeps the error for the next SYN if it comes while the first is being sent; the error queue has it at once.
#[test]
fn a_rejection_in_the_senders_own_namespace_is_told_before_the_second_syn() {
    let world = World::new();
    for row in ROWS {
        let to = address(row.server);
        let with = if row.family == Family::V4 { "icmp-port-unreachable" } else { "icmp6-port-unreachable" };
        world.filter(&world.client, row.family, &format!("-A OUTPUT -d {to} -j REJECT --reject-with {with}"));
        let wire = inside(&world.client, Wire::open);
        for seen in inside(&world.client, || [tcp(&shot(to, 80, PATIENT), 7), udp(&shot(to, 80, PATIENT), b"question")])
        {
            assert_eq!(seen.end, End::Refused { by: Some(address(row.client)) });
        }
        let left: Vec<_> = wire.tcp().into_iter().filter(|(flags, ..)| *flags == SYN).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn routes_that_refuse_or_lead_nowhere_are_told_with_their_owner() {
    let world = World::new();
    let bare = netns::create().unwrap();
    for row in ROWS {
        let both = |place: &OwnedFd, to: IpAddr, patience| {
            inside(place, || [tcp(&shot(to, 80, patience), 7), udp(&shot(to, 80, patience), b"question")])
        };
        for seen in both(&world.client, host_in(row.refused), PATIENT) {
            let End::Unreachable { by, why } = seen.end else { panic!("{seen:?}") };
            assert_eq!(by, Some(address(row.near)), "{why}");
            assert!(why.contains("ICMP"), "{why}");
        }
        for seen in both(&world.client, host_in(row.forgotten), BRIEF) {
            assert_eq!(seen.end, End::Silence);
            assert!(seen.took >= BRIEF && seen.local.is_some(), "{seen:?}");
        }
        for seen in both(&world.client, host_in(row.hole), PATIENT) {
            let End::Unreachable { by: None, why } = &seen.end else { panic!("{seen:?}") };
            assert!(why.contains("blackhole") && seen.local.is_none(), "{why}");
        }
        for seen in both(&bare, host_in(row.hole), PATIENT) {
            let End::Unreachable { by: None, why } = &seen.end else { panic!("{seen:?}") };
            assert!(why.contains("no route") && seen.local.is_none(), "{why}");
        }
    }
}

#[test]
fn a_rule_that_drops_is_silence_wherever_it_stands() {
    let world = World::new();
    for row in ROWS {
        let to = address(row.server);
        for (place, chain) in [(&world.server, "INPUT"), (&world.router, "FORWARD"), (&world.client, "OUTPUT")] {
            world.filter(place, row.family, &format!("-A {chain} -d {to} -j DROP"));
            for seen in inside(&world.client, || [tcp(&shot(to, 80, BRIEF), 7), udp(&shot(to, 80, BRIEF), b"question")])
            {
                assert_eq!(seen.end, End::Silence, "{chain}");
                assert!(seen.local.is_some(), "{chain}");
            }
            world.filter(place, row.family, "");
        }
    }
}

#[test]
fn a_datagram_arrives_as_it_was_given_and_any_answer_counts() {
    let world = World::new();
    for row in ROWS {
        let to = address(row.server);
        let server = inside(&world.server, || UdpSocket::bind((to, 7)).unwrap());
        server.set_read_timeout(Some(PATIENT)).unwrap();
        let answering = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            let (length, from) = server.recv_from(&mut buffer).unwrap();
            server.send_to(b"", from).unwrap();
            (buffer[..length].to_vec(), from)
        });
        let seen = inside(&world.client, || udp(&shot(to, 7, PATIENT), b"12345678 and more"));
        let (payload, from) = answering.join().unwrap();
        assert_eq!((seen.end, seen.local, &payload[..]), (End::Answered, Some(from), &b"12345678 and more"[..]));
    }
}

#[test]
fn a_source_port_is_taken_if_it_is_free_and_named_if_not() {
    let world = World::new();
    // Kept open, so that IPv4's connection still has its source port when IPv6 takes the same.
    let mut listeners = Vec::new();
    for row in ROWS {
        let to = address(row.server);
        listeners.push(inside(&world.server, || TcpListener::bind((to, 80)).unwrap()));
        let from = |port| Shot { source_port: Some(port), ..shot(to, 80, PATIENT) };
        let seen = inside(&world.client, || tcp(&from(40_123), 7));
        assert_eq!((seen.end, seen.local.map(|local| local.port())), (End::Answered, Some(40_123)));
        let _taken = inside(&world.client, || {
            let any: IpAddr = if to.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
            (TcpListener::bind((any, 40_124)).unwrap(), UdpSocket::bind((any, 40_124)).unwrap())
        });
        for seen in inside(&world.client, || [tcp(&from(40_124), 7), udp(&from(40_124), b"question")]) {
            let End::NotSent { why } = seen.end else { panic!("{seen:?}") };
            assert!(why.contains("source port 40124") && why.contains("in use"), "{why}");
        }
    }
}

#[test]
fn a_namespace_of_its_own_answers_itself_and_0_is_no_number() {
    let world = World::new();
    for row in ROWS {
        let to: IpAddr = row.loopback.parse().unwrap();
        let _listener = inside(&world.client, || TcpListener::bind((to, 80)).unwrap());
        let seen = inside(&world.client, || tcp(&shot(to, 80, PATIENT), 7));
        assert_eq!((seen.end, seen.local.map(|local| local.ip())), (End::Answered, Some(to)));
        let seen = inside(&world.client, || tcp(&shot(to, 80, PATIENT), 0));
        assert!(matches!(&seen.end, End::NotSent { why } if why.contains("sequence number")), "{seen:?}");
    }
}
