//! Real packets on the loopback of namespaces made for each test: which are traced, and what is told of them.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::path::Path;

use super::*;
use crate::iptables::{Family, Flush, Tool};
use crate::nftrace::{Detail, TraceEvent, TraceVerdict, Traced, Tracer};
use crate::{Netlink, netns};

const NUMBER: u32 = 0xfeed_0001;
const SERVICE: &str = "192.0.2.1";

fn tool() -> Tool {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/deb/bin");
    if fetched.join("iptables-restore").exists() {
        return Tool { dir: Some(fetched), env: Vec::new() };
    }
    Tool::from_environment()
}

/// In a new namespace with a loopback that has the Service's address too.
fn alone<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let made = netns::create().unwrap();
    netns::run_in(made.as_fd(), || {
        let mut netlink = Netlink::open().unwrap();
        let lo = netlink.link("lo").unwrap().index;
        netlink.set_up(lo).unwrap();
        netlink.add_addr(lo, format!("{SERVICE}/32").parse().unwrap()).unwrap();
        work()
    })
    .unwrap()
}

/// Connects to 127.0.0.1 or [`SERVICE`] with this sequence number in its SYN.
fn connect(to: SocketAddr, number: u32) -> std::io::Result<TcpStream> {
    // SAFETY: plain system calls on a descriptor that is owned from its making on; pointers are to live values.
    unsafe {
        let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let fd = libc::socket(family, libc::SOCK_STREAM, 0);
        let stream = TcpStream::from_raw_fd(fd);
        for (option, value) in [(19, 1), (20, 2), (21, number.cast_signed()), (19, -1)] {
            let value: libc::c_int = value;
            let length = size_of::<libc::c_int>() as u32;
            let set =
                libc::setsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, option, (&raw const value).cast(), length);
            assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
        }
        let SocketAddr::V4(to) = to else { panic!("IPv4 here") };
        let addr = libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_port: to.port().to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
            sin_zero: [0; 8],
        };
        match libc::connect(fd, (&raw const addr).cast(), size_of::<libc::sockaddr_in>() as u32) {
            0 => Ok(stream),
            _ => Err(std::io::Error::last_os_error()),
        }
    }
}

/// A connection to SERVICE:80 that a rule turns to a listener, with data both ways; what the tracer heard.
fn one_connection(watched: &Watched, number: u32) -> (Vec<TraceEvent>, u16) {
    alone(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let rules = format!(
            "*nat\n-A OUTPUT -d {SERVICE} -p tcp --dport 80 -j DNAT --to-destination 127.0.0.1:{port}\nCOMMIT\n"
        );
        tool().restore(Family::V4, &rules, Flush::Keep).unwrap();
        let mut tracer = Tracer::open().unwrap();
        let _trap = Trap::arm("ptl-t-trap", watched).unwrap();
        let mut stream = connect(format!("{SERVICE}:80").parse().unwrap(), number).unwrap();
        let (mut served, _) = listener.accept().unwrap();
        served.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
        (tracer.read().unwrap(), port)
    })
}

/// Packets that entered, as `source > destination`, in order, each once.
fn entered(events: &[TraceEvent], prefix: &str) -> Vec<(u16, u16)> {
    let heads = events.iter().filter(|event| event.chain.starts_with(prefix)).filter_map(|event| event.packet);
    heads.map(|head| (head.src.port(), head.dst.port())).collect()
}

#[test]
fn a_syn_with_the_number_and_its_answer_are_traced_from_entry_to_exit_and_nothing_else_is() {
    let (events, port) = one_connection(&Watched::Sequence(NUMBER), NUMBER);
    let out = entered(&events, "enter-output");
    assert_eq!(out.len(), 2, "{events:#?}");
    let client = out[0].0;
    assert_eq!(out, [(client, 80), (port, client)]);
    assert_eq!(entered(&events, "leave-postrouting"), [(client, port), (80, client)]);
    assert_eq!(entered(&events, "leave-input"), [(client, port), (80, client)]);
    let dnat = events.iter().find(|e| e.table == "nat" && matches!(e.what, Traced::Rule { .. })).unwrap();
    assert!(matches!(dnat.what, Traced::Rule { verdict: TraceVerdict::Accept, .. }), "{dnat:?}");
    let head = dnat.packet.unwrap();
    assert_eq!((head.protocol, head.dst.to_string(), head.iif), (6, format!("{SERVICE}:80"), None));
    assert!(matches!(head.detail, Detail::Tcp { sequence: NUMBER, .. }), "{head:?}");
}

#[test]
fn a_connection_with_another_number_is_not_traced() {
    assert_eq!(one_connection(&Watched::Sequence(NUMBER), NUMBER.wrapping_add(7)).0, []);
}

#[test]
fn the_next_connection_of_others_is_traced_with_its_answer_by_what_it_is_sent_to() {
    let to = |addr: &str| vec![addr.parse().unwrap()];
    let live = |sources: Vec<IpAddr>, destinations| Watched::Live { protocol: 6, sources, destinations, per_second: 5 };
    let (events, port) = one_connection(&live(Vec::new(), to("192.0.2.1:80")), 1);
    let out = entered(&events, "enter-output");
    assert_eq!((out.len(), out[0].1), (1, 80), "{events:#?}");
    // The answer is known once conntrack has seen it.
    assert_eq!(entered(&events, "known-output"), [(out[0].0, 80), (port, out[0].0)]);
    let from_itself = vec![SERVICE.parse().unwrap()];
    assert!(!one_connection(&live(from_itself, to("192.0.2.1:80")), 1).0.is_empty());
    let from_another = vec!["192.0.2.7".parse().unwrap()];
    assert_eq!(one_connection(&live(from_another, to("192.0.2.1:80")), 1).0, []);
    assert_eq!(one_connection(&live(Vec::new(), to("192.0.2.1:81")), 1).0, []);
}

/// A question and an answer that shares nothing with it, between two sockets of the host `ip`; what the tracer heard.
fn one_exchange(watched: &Watched, ip: IpAddr) -> (Vec<TraceEvent>, u16, u16) {
    alone(|| {
        let server = UdpSocket::bind((ip, 0)).unwrap();
        let client = UdpSocket::bind((ip, 0)).unwrap();
        // Without a rule that needs it, conntrack sleeps.
        let family = if ip.is_ipv4() { Family::V4 } else { Family::V6 };
        tool().restore(family, "*nat\n-A OUTPUT -p tcp --dport 9 -j RETURN\nCOMMIT\n", Flush::Keep).unwrap();
        let (asked, asking) = (server.local_addr().unwrap(), client.local_addr().unwrap());
        let mut tracer = Tracer::open().unwrap();
        let _trap = Trap::arm("ptl-t-trap", watched).unwrap();
        let mut buffer = [0; 64];
        for question in [&b"another question"[..], b"question of ours"] {
            client.send_to(question, asked).unwrap();
            server.recv_from(&mut buffer).unwrap();
        }
        server.send_to(b"something else", asking).unwrap();
        client.recv_from(&mut buffer).unwrap();
        (tracer.read().unwrap(), asking.port(), asked.port())
    })
}

#[test]
fn a_datagram_is_known_by_its_first_bytes_and_its_answer_by_its_flow_in_both_families() {
    for ip in [IpAddr::from([127, 0, 0, 1]), IpAddr::from(Ipv6Addr::LOCALHOST)] {
        let (events, client, server) = one_exchange(&Watched::Payload(*b"question"), ip);
        assert_eq!(entered(&events, "enter-output"), [(client, server)], "{events:#?}");
        assert_eq!(entered(&events, "known-output"), [(client, server), (server, client)], "{events:#?}");
        let begins = events[0].packet.unwrap().detail;
        assert_eq!(begins, Detail::Udp { begins: *b"question" });
    }
}

#[test]
fn the_first_datagram_of_a_flow_of_others_is_traced_and_later_ones_are_not() {
    let ip = IpAddr::from([127, 0, 0, 1]);
    let anywhere =
        |port| Watched::Live { protocol: 17, sources: vec![ip], destinations: vec![(ip, port).into()], per_second: 5 };
    let (events, ..) = one_exchange(&anywhere(1), ip);
    assert_eq!(events, []);
    let (events, client, server) = alone(|| {
        let server = UdpSocket::bind((ip, 0)).unwrap();
        let client = UdpSocket::bind((ip, 0)).unwrap();
        let (asked, asking) = (server.local_addr().unwrap(), client.local_addr().unwrap());
        let mut tracer = Tracer::open().unwrap();
        let _trap = Trap::arm("ptl-t-trap", &anywhere(asked.port())).unwrap();
        let mut buffer = [0; 64];
        for _ in 0..3 {
            client.send_to(b"question", asked).unwrap();
            server.recv_from(&mut buffer).unwrap();
            server.send_to(b"answer", asking).unwrap();
            client.recv_from(&mut buffer).unwrap();
        }
        (tracer.read().unwrap(), asking.port(), asked.port())
    });
    let known = entered(&events, "known-output");
    assert_eq!(known.first(), Some(&(client, server)), "{events:#?}");
    assert_eq!(known.iter().filter(|ports| **ports == (client, server)).count(), 1, "{known:?}");
}

#[test]
fn nothing_is_left_when_the_trap_goes_and_others_cannot_take_it_away() {
    let (during, flushed, after) = alone(|| {
        let mut look = Nft::open().unwrap();
        let mut count = || look.base_chains().unwrap().iter().filter(|c| c.table == "ptl-t-trap").count();
        let trap = Trap::arm("ptl-t-trap", &Watched::Payload([1; 8])).unwrap();
        let during = count();
        assert!(Trap::arm("ptl-t-trap", &Watched::Sequence(1)).is_err(), "a name is taken once");
        let flush = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/deb/bin/nft");
        if flush.exists() {
            std::process::Command::new(flush).args(["flush", "ruleset"]).status().unwrap();
        }
        let flushed = count();
        drop(trap);
        (during, flushed, count())
    });
    assert_eq!((during, flushed, after), (12, 12, 0));
}
