//! Real datagrams on the loopback of namespaces made for each test, and over a link between two of them.

use std::net::{Ipv4Addr, UdpSocket};

use super::*;
use crate::{Netlink, VethSpec, netns};

/// In a new namespace with a loopback that has more addresses of both families.
fn alone<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let made = netns::create().unwrap();
    netns::run_in(made.as_fd(), || {
        let mut netlink = Netlink::open().unwrap();
        let lo = netlink.link("lo").unwrap().index;
        netlink.set_up(lo).unwrap();
        for address in ["192.0.2.1/32", "192.0.2.2/32", "2001:db8::1/128", "2001:db8::2/128"] {
            netlink.add_addr(lo, address.parse().unwrap()).unwrap();
        }
        await_ipv6();
        work()
    })
    .unwrap()
}

/// The kernel makes a new IPv6 address good a moment after it was added, and drops what is sent before.
fn await_ipv6() {
    let (one, other) = (UdpSocket::bind("[2001:db8::1]:0").unwrap(), UdpSocket::bind("[2001:db8::2]:0").unwrap());
    for (from, to) in [(&one, &other), (&other, &one)] {
        to.set_read_timeout(Some(std::time::Duration::from_millis(10))).unwrap();
        while from.send_to(b"?", to.local_addr().unwrap()).is_err() || to.recv(&mut [0]).is_err() {}
    }
}

fn await_readable(socket: &Socket) {
    let mut poll = libc::pollfd { fd: socket.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one whole pollfd that outlives the call.
    assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 10_000) }, 1, "nothing came within 10 s");
}

/// Sends each datagram back until so many came.
fn echo(socket: &Socket, count: usize) -> Vec<(SocketAddr, IpAddr, u32)> {
    let (mut inbox, mut outbox, mut seen) = (Inbox::new(), Outbox::new(), Vec::new());
    while seen.len() < count {
        await_readable(socket);
        let got = inbox.receive(socket).unwrap();
        for place in 0..got {
            let datagram = inbox.datagram(place);
            seen.push((datagram.from, datagram.local, datagram.link));
            outbox.buffer().clear();
            outbox.buffer().extend_from_slice(datagram.bytes);
            outbox.keep(place);
        }
        assert_eq!(outbox.send(socket, &inbox), Sent { sent: got, refused: 0 });
    }
    seen
}

fn client(at: &str) -> UdpSocket {
    let socket = UdpSocket::bind(at).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    socket
}

#[test]
fn a_thousand_datagrams_at_once_all_come_and_all_are_answered() {
    alone(|| {
        for (at, from) in [("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0")] {
            let socket = Socket::bind(at.parse().unwrap()).unwrap();
            let client = client(from);
            for number in 0..1000u32 {
                client.send_to(&number.to_be_bytes(), socket.local_addr()).unwrap();
            }
            let seen = echo(&socket, 1000);
            assert_eq!(socket.drops(), 0);
            assert!(seen.iter().all(|(who, local, link)| {
                *who == client.local_addr().unwrap() && *local == socket.local_addr().ip() && *link == 1
            }));
        }
    });
}

#[test]
fn a_reply_comes_from_the_address_that_was_asked_also_at_a_socket_of_all_addresses() {
    alone(|| {
        for everywhere in ["0.0.0.0:0", "[::]:0"] {
            let socket = Socket::bind(everywhere.parse().unwrap()).unwrap();
            let families: &[(&str, &str)] = match everywhere.starts_with('[') {
                true => &[("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")],
                false => &[("192.0.2.1", "192.0.2.2"), ("192.0.2.1", "127.0.0.1")],
            };
            for (asker, asked) in families {
                let asker = client(&SocketAddr::new(asker.parse().unwrap(), 0).to_string());
                let asked = SocketAddr::new(asked.parse().unwrap(), socket.local_addr().port());
                // By batch, then by itself.
                asker.send_to(b"one", asked).unwrap();
                assert_eq!(echo(&socket, 1), [(asker.local_addr().unwrap(), asked.ip(), 1)]);
                let mut buffer = [0; 8];
                assert_eq!(asker.recv_from(&mut buffer).unwrap(), (3, asked));
                socket.send(b"again", asker.local_addr().unwrap(), asked.ip()).unwrap();
                assert_eq!(asker.recv_from(&mut buffer).unwrap(), (5, asked));
            }
        }
    });
}

#[test]
fn a_datagram_that_is_too_long_is_cut_and_says_so() {
    alone(|| {
        let socket = Socket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let client = client("127.0.0.1:0");
        for length in [0, LONGEST, LONGEST + 1, 65_000] {
            client.send_to(&vec![7; length], socket.local_addr()).unwrap();
        }
        let mut inbox = Inbox::new();
        let mut seen = Vec::new();
        while seen.len() < 4 {
            await_readable(&socket);
            for place in 0..inbox.receive(&socket).unwrap() {
                let datagram = inbox.datagram(place);
                seen.push((datagram.bytes.len(), datagram.is_cut));
            }
        }
        assert_eq!(seen, [(0, false), (LONGEST, false), (LONGEST, true), (LONGEST, true)]);
    });
}

#[test]
fn a_reply_that_cannot_go_out_holds_no_other_up() {
    alone(|| {
        let socket = Socket::bind("192.0.2.1:0".parse().unwrap()).unwrap();
        let clients = [client("192.0.2.2:0"), client("192.0.2.2:0"), client("192.0.2.2:0")];
        for client in &clients {
            client.send_to(b"query", socket.local_addr()).unwrap();
        }
        let (mut inbox, mut outbox) = (Inbox::new(), Outbox::new());
        let mut got = 0;
        while got < 3 {
            await_readable(&socket);
            got = inbox.receive(&socket).unwrap();
            assert_eq!(got, 3, "the three were sent before");
        }
        for place in 0..3 {
            // Nothing over 65,507 bytes fits into a datagram.
            let length = if place == 1 { 70_000 } else { 2 };
            outbox.buffer().clear();
            outbox.buffer().resize(length, 0);
            outbox.keep(place);
        }
        assert_eq!(outbox.send(&socket, &inbox), Sent { sent: 2, refused: 1 });
        let mut buffer = [0; 8];
        assert_eq!(clients[0].recv(&mut buffer).unwrap(), 2);
        assert_eq!(clients[2].recv(&mut buffer).unwrap(), 2);
    });
}

#[test]
fn several_sockets_share_a_port_and_clients_are_spread_over_them() {
    alone(|| {
        let first = Socket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let second = Socket::bind(first.local_addr()).unwrap();
        let clients: Vec<_> = (0..64).map(|_| client("127.0.0.1:0")).collect();
        for client in &clients {
            client.send_to(b"x", first.local_addr()).unwrap();
        }
        let mut inbox = Inbox::new();
        let at_first = inbox.receive(&first).unwrap();
        let at_second = inbox.receive(&second).unwrap();
        assert_eq!(at_first + at_second, 64);
        assert!(at_first > 0 && at_second > 0, "{at_first} and {at_second}");
        // One that was bound without sharing keeps others out.
        let alone = UdpSocket::bind("127.0.0.1:0").unwrap();
        let error = Socket::bind(alone.local_addr().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    });
}

#[test]
fn what_the_queue_has_no_room_for_is_counted() {
    alone(|| {
        let socket = Socket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        set(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, 4096).unwrap();
        let client = client("127.0.0.1:0");
        for _ in 0..100 {
            client.send_to(&[0; 400], socket.local_addr()).unwrap();
        }
        let kept = Inbox::new().receive(&socket).unwrap();
        assert!(kept < 100);
        assert_eq!(socket.drops() as usize, 100 - kept);
    });
}

#[test]
fn the_link_is_the_one_that_the_datagram_came_by() {
    let (node, pod) = (netns::create().unwrap(), netns::create().unwrap());
    let outer = netns::run_in(node.as_fd(), || {
        let mut netlink = Netlink::open().unwrap();
        let lo = netlink.link("lo").unwrap().index;
        netlink.set_up(lo).unwrap();
        netlink.add_addr(lo, "192.0.2.1/32".parse().unwrap()).unwrap();
        let spec = VethSpec {
            name: "ptl-t-udp",
            peer_name: "eth0",
            peer_netns: Some(pod.as_fd()),
            mac: None,
            peer_mac: None,
            mtu_bytes: 1500,
        };
        netlink.create_veth(&spec).unwrap();
        let outer = netlink.link("ptl-t-udp").unwrap().index;
        netlink.add_addr(outer, "198.51.100.1/24".parse().unwrap()).unwrap();
        netlink.set_up(outer).unwrap();
        outer
    })
    .unwrap();
    let within = |work: &(dyn Fn() + Sync)| netns::run_in(pod.as_fd(), work).unwrap();
    within(&|| {
        let mut netlink = Netlink::open().unwrap();
        let link = netlink.link("eth0").unwrap().index;
        netlink.add_addr(link, "198.51.100.2/24".parse().unwrap()).unwrap();
        netlink.set_up(link).unwrap();
        let by_node =
            crate::KernelRoute::via("192.0.2.0/24".parse().unwrap(), Ipv4Addr::new(198, 51, 100, 1).into(), link);
        netlink.replace_routes(&[by_node]).pop().unwrap().unwrap();
    });
    let socket = netns::run_in(node.as_fd(), || Socket::bind("192.0.2.1:53".parse().unwrap()).unwrap()).unwrap();
    within(&|| {
        client("198.51.100.2:0").send_to(b"query", "192.0.2.1:53").unwrap();
    });
    let [(from, local, link)] = echo(&socket, 1)[..] else { panic!("one came") };
    assert_eq!((from.ip().to_string(), local.to_string(), link), ("198.51.100.2".into(), "192.0.2.1".into(), outer));
    // What does not fit the link is refused, never cut into fragments.
    let error = socket.send(&[0; 1600], from, local).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
}
