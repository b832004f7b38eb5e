//! Flows in tables of namespaces made for each test.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use super::*;
use crate::iptables::{Family, Flush, Tool};
use crate::{Netlink, netns};

const TCP: u8 = 6;
const UDP: u8 = 17;

fn tool() -> Tool {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/deb/bin");
    if fetched.join("iptables-restore").exists() {
        return Tool { dir: Some(fetched), env: Vec::new() };
    }
    Tool::from_environment()
}

/// A UDP question to 192.0.2.1:53 that a rule turns to 127.0.0.1:`port`.
fn one_rewritten_flow() -> u16 {
    let mut netlink = Netlink::open().unwrap();
    let lo = netlink.link("lo").unwrap().index;
    netlink.set_up(lo).unwrap();
    netlink.add_addr(lo, "192.0.2.1/32".parse().unwrap()).unwrap();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let rule = format!(
        "*nat\n-A OUTPUT -d 192.0.2.1/32 -p udp --dport 53 -j DNAT --to-destination 127.0.0.1:{port}\nCOMMIT\n"
    );
    tool().restore(Family::V4, &rule, Flush::Keep).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"question", "192.0.2.1:53").unwrap();
    let mut buffer = [0; 16];
    server.recv_from(&mut buffer).unwrap();
    port
}

#[test]
fn a_rewritten_flow_shows_both_tuples_and_can_be_deleted() {
    let made = netns::create().unwrap();
    let (port, entry, deleted, left) = netns::run_in(made.as_fd(), || {
        let port = one_rewritten_flow();
        let mut table = Conntrack::open().unwrap();
        let wanted = |e: &Entry| e.original.dst_port == 53;
        let entry = table.list().unwrap().into_iter().find(wanted).expect("the flow is tracked");
        let deleted = table.delete(Which::Protocol(UDP), wanted).unwrap();
        (port, entry, deleted, table.list().unwrap().len())
    })
    .unwrap();
    assert_eq!(entry.protocol, UDP);
    assert_eq!(entry.original.dst.to_string(), "192.0.2.1");
    assert_eq!((entry.reply.src.to_string().as_str(), entry.reply.src_port), ("127.0.0.1", port));
    assert!(entry.is_destination_rewritten() && !entry.is_source_rewritten());
    assert_eq!((deleted, left), (1, 0));
}

#[test]
fn a_connection_tells_its_state_and_what_it_carried_where_that_is_counted() {
    use std::io::{Read, Write};
    let made = netns::create().unwrap();
    let (uncounted, counted, closed) = netns::run_in(made.as_fd(), || {
        let mut netlink = Netlink::open().unwrap();
        let lo = netlink.link("lo").unwrap().index;
        netlink.set_up(lo).unwrap();
        tool()
            .restore(Family::V4, "*filter\n-A OUTPUT -m conntrack --ctstate NEW -j ACCEPT\nCOMMIT\n", Flush::Keep)
            .unwrap();
        let mut table = Conntrack::open().unwrap();
        let mut of = |port: u16| {
            let listed = table.list().unwrap();
            *listed.iter().find(|e| e.original.src_port == port).expect("the connection is tracked")
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || {
            let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let port = client.local_addr().unwrap().port();
            (client, listener.accept().unwrap().0, port)
        };
        let (_client, _server, port) = connect();
        let uncounted = of(port);
        // Of this namespace alone; of new flows alone.
        for name in ["acct", "timestamp"] {
            std::fs::write(format!("/proc/sys/net/netfilter/nf_conntrack_{name}"), "1").unwrap();
        }
        let (mut client, mut server, port) = connect();
        client.write_all(&[7; 1000]).unwrap();
        server.read_exact(&mut [0; 1000]).unwrap();
        let counted = of(port);
        drop((client, server));
        (uncounted, counted, of(port))
    })
    .unwrap();
    assert_eq!((uncounted.state, uncounted.carried, uncounted.began_ns), (Some("ESTABLISHED"), None, None));
    assert_eq!(counted.state, Some("ESTABLISHED"));
    let carried = counted.carried.expect("it is counted");
    assert!(carried.original_bytes > 1000 && (1..1000).contains(&carried.reply_bytes), "{carried:?}");
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    assert!(since_1970 - u128::from(counted.began_ns.expect("it is timed")) < 600_000_000_000);
    assert_eq!(closed.state, Some("TIME_WAIT"));
}

/// Puts flows into the table as a process that restores it would: no packet is sent.
/// As [`Conntrack::create`], many in a send.
fn insert(table: &Conntrack, flows: &[(u8, Tuple, Tuple)]) {
    const CREATE: u16 = 0x400;
    for some in flows.chunks(200) {
        let mut bytes = Vec::new();
        for (protocol, original, reply) in some {
            let attributes = creation(*protocol, original, reply, 600);
            nfnl::append(&mut bytes, NEW, nfnl::REQUEST | CREATE, 0, family_of(original), &attributes);
        }
        table.socket.send(&bytes, 0).unwrap();
        let mut answer = [0; 4096];
        let quiet = table.socket.recv(&mut &mut answer[..], libc::MSG_DONTWAIT).unwrap_err();
        assert_eq!(quiet.kind(), io::ErrorKind::WouldBlock, "the kernel takes the flows");
    }
}

/// Client number `n` asks `vip`:53 and is sent to `pod`:5353.
fn flow(protocol: u8, n: u32, vip: &str, pod: &str) -> (u8, Tuple, Tuple) {
    let vip: IpAddr = vip.parse().unwrap();
    let client: IpAddr = match vip {
        IpAddr::V4(_) => Ipv4Addr::from(0x0a05_0000 + n / 50_000).into(),
        IpAddr::V6(_) => Ipv6Addr::from(0xfd00_0005_u128 << 96 | u128::from(n / 50_000)).into(),
    };
    let port = 10_000 + (n % 50_000) as u16;
    let original = Tuple { src: client, dst: vip, src_port: port, dst_port: 53 };
    let reply = Tuple { src: pod.parse().unwrap(), dst: client, src_port: 5353, dst_port: port };
    (protocol, original, reply)
}

#[test]
fn twenty_thousand_flows_of_a_dead_endpoint_are_found_among_others_and_deleted() {
    let made = netns::create().unwrap();
    let (deleted, left, others) = netns::run_in(made.as_fd(), || {
        let mut table = Conntrack::open().unwrap();
        let dead: Vec<_> = (0..20_000).map(|n| flow(UDP, n, "10.96.0.10", "10.1.0.1")).collect();
        let alive: Vec<_> = (20_000..22_000).map(|n| flow(UDP, n, "10.96.0.10", "10.1.0.2")).collect();
        let tcp: Vec<_> = (0..500).map(|n| flow(TCP, n, "10.96.0.10", "10.1.0.1")).collect();
        let v6: Vec<_> = (0..500).map(|n| flow(UDP, n, "fd00:96::10", "fd00:1::1")).collect();
        for flows in [dead, alive, tcp, v6] {
            insert(&table, &flows);
        }
        let pod: IpAddr = "10.1.0.1".parse().unwrap();
        let start = Instant::now();
        let deleted = table.delete(Which::Protocol(UDP), |entry| entry.reply.src == pod).unwrap();
        println!("20,000 stale flows found and deleted in {:?}", start.elapsed());
        let left = table.list().unwrap();
        (deleted, left.len(), left.iter().filter(|entry| entry.protocol == TCP && entry.reply.src == pod).count())
    })
    .unwrap();
    assert_eq!((deleted, left, others), (20_000, 3_000, 500));
}

#[test]
fn the_kernel_itself_leaves_other_protocols_out() {
    let made = netns::create().unwrap();
    let seen = netns::run_in(made.as_fd(), || {
        let mut table = Conntrack::open().unwrap();
        insert(&table, &[flow(UDP, 1, "10.96.0.10", "10.1.0.1"), flow(TCP, 1, "10.96.0.10", "10.1.0.1")]);
        insert(&table, &[flow(TCP, 1, "fd00:96::10", "fd00:1::1")]);
        let mut request = Vec::new();
        let family = libc::AF_INET as u8;
        nfnl::append(&mut request, GET, nfnl::REQUEST | nfnl::DUMP, 7, family, &question(Which::Protocol(TCP)));
        table.socket.send(&request, 0).unwrap();
        let mut protocols = Vec::new();
        loop {
            let length = table.receive(0, "list").unwrap().unwrap();
            for message in nfnl::messages(&table.buffer[..length]) {
                match message.kind() {
                    NEW => protocols.push(entry_of(message).unwrap().protocol),
                    _ => return protocols,
                }
            }
        }
    });
    assert_eq!(seen.unwrap(), [TCP]);
}

#[test]
fn one_flow_is_found_by_what_its_client_sent_among_others_of_both_families() {
    let made = netns::create().unwrap();
    netns::run_in(made.as_fd(), || {
        let mut table = Conntrack::open().unwrap();
        insert(&table, &(0..50).map(|n| flow(UDP, n, "10.96.0.10", "10.1.0.1")).collect::<Vec<_>>());
        insert(&table, &(0..50).map(|n| flow(UDP, n, "fd00:96::10", "fd00:1::1")).collect::<Vec<_>>());
        for (vip, pod) in [("10.96.0.10", "10.1.0.1"), ("fd00:96::10", "fd00:1::1")] {
            let (_, original, reply) = flow(UDP, 7, vip, pod);
            let found = table.get(UDP, &original).unwrap().expect("it is there");
            assert_eq!((found.protocol, found.original, found.reply), (UDP, original, reply));
            assert!(found.id != 0 && found.timeout_secs > 0 && found.state.is_none(), "{found:?}");
            let listed =
                table.list().unwrap().into_iter().find(|entry| entry.original == original).expect("listed too");
            assert_eq!(Entry { timeout_secs: found.timeout_secs, ..listed }, found);
            let nobody = Tuple { src_port: 9, ..original };
            assert_eq!(table.get(UDP, &nobody).unwrap(), None);
            assert_eq!(table.get(TCP, &original).unwrap(), None, "of another protocol");
            assert_eq!(
                table.get(UDP, &reply).unwrap().map(|entry| entry.original),
                Some(original),
                "by its answer too"
            );
        }
    })
    .unwrap();
}

#[test]
fn a_made_flow_is_there_and_a_second_one_of_its_tuple_is_refused() {
    let made = netns::create().unwrap();
    netns::run_in(made.as_fd(), || {
        let mut table = Conntrack::open().unwrap();
        let (protocol, original, reply) = flow(UDP, 1, "10.96.0.10", "10.1.0.1");
        table.create(protocol, &original, &reply, 30).unwrap();
        let entry = table.get(UDP, &original).unwrap().expect("it was made");
        assert!(entry.reply == reply && (1..=30).contains(&entry.timeout_secs), "{entry:?}");
        let error = table.create(protocol, &original, &reply, 30).unwrap_err();
        assert!(matches!(&error, ConntrackError::Refused { refused, .. } if refused.errno == libc::EEXIST), "{error}");
    })
    .unwrap();
}

#[test]
fn events_tell_of_flows_as_they_begin_are_answered_and_end() {
    let made = netns::create().unwrap();
    let (port, events) = netns::run_in(made.as_fd(), || {
        let mut news = ConntrackEvents::open().unwrap();
        assert_eq!(news.read().unwrap(), []);
        let port = one_rewritten_flow();
        let mut events = news.read().unwrap();
        Conntrack::open().unwrap().delete(Which::Protocol(UDP), |_| true).unwrap();
        events.extend(news.read().unwrap());
        (port, events)
    })
    .unwrap();
    let began = events.iter().find_map(|event| match event {
        ConntrackEvent::Began(entry) if entry.original.dst_port == 53 => Some(*entry),
        _ => None,
    });
    let began = began.unwrap_or_else(|| panic!("{events:?}"));
    assert_eq!((began.reply.src_port, began.is_destination_rewritten()), (port, true));
    let ended = events.iter().any(|event| matches!(event, ConntrackEvent::Ended(entry) if entry.id == began.id));
    assert!(ended, "{events:?}");
}

#[test]
fn events_that_came_too_fast_are_said_to_be_lost_and_later_ones_come() {
    let made = netns::create().unwrap();
    netns::run_in(made.as_fd(), || {
        let mut news = ConntrackEvents::with_buffer(4096).unwrap();
        let table = Conntrack::open().unwrap();
        insert(&table, &(0..2_000).map(|n| flow(UDP, n, "10.96.0.10", "10.1.0.1")).collect::<Vec<_>>());
        let events = news.read().unwrap();
        assert!(events.contains(&ConntrackEvent::Lost) && events.len() < 2_000, "{} events", events.len());
        insert(&table, &[flow(UDP, 2_001, "10.96.0.10", "10.1.0.2")]);
        let later = news.read().unwrap();
        assert!(
            matches!(later[..], [ConntrackEvent::Began(entry)] if entry.reply.src.to_string() == "10.1.0.2"),
            "{later:?}"
        );
    })
    .unwrap();
}

#[test]
fn an_entry_cut_anywhere_is_read_without_panic() {
    let (protocol, original, reply) = flow(TCP, 1, "10.96.0.10", "10.1.0.1");
    let mut attributes = creation(protocol, &original, &reply, 9);
    let (mut state, mut info, mut count) = (Vec::new(), Vec::new(), Vec::new());
    nfnl::append_attribute(&mut state, PROTOINFO_STATE, &[3]);
    nfnl::append_nested(&mut info, PROTOINFO_TCP, &state);
    nfnl::append_nested(&mut attributes, PROTOINFO, &info);
    nfnl::append_attribute(&mut count, COUNTERS_BYTES, &420u64.to_be_bytes());
    nfnl::append_nested(&mut attributes, COUNTERS_ORIGINAL, &count);
    nfnl::append_nested(&mut attributes, COUNTERS_REPLY, &count);
    let mut whole = Vec::new();
    nfnl::append(&mut whole, NEW, 0, 1, 2, &attributes);
    let entry = nfnl::messages(&whole).find_map(entry_of).expect("it is whole");
    let carried = Carried { original_bytes: 420, reply_bytes: 420 };
    assert_eq!((entry.state, entry.carried), (Some("ESTABLISHED"), Some(carried)));
    for end in 16..whole.len() {
        let mut cut = whole[..end].to_vec();
        cut[..4].copy_from_slice(&(end as u32).to_ne_bytes());
        nfnl::messages(&cut).filter_map(entry_of).for_each(drop);
        for at in 20..end {
            let mut bent = cut.clone();
            bent[at] ^= 0xff;
            nfnl::messages(&bent).filter_map(entry_of).for_each(drop);
        }
    }
}
