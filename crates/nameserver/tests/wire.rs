//! A nameserver at real sockets, in network namespaces of its own: bursts, families, connections, hostile packets, change
//! under load. What is asked and read here is written by hand: no code of ours reads what ours wrote.

mod place;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use place::{GENEROUS, Place, id_of, name_of, query, rcode_of};

const A: u16 = 1;
const AAAA: u16 = 28;
const NOERROR: u8 = 0;
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;

fn client(from: &str) -> UdpSocket {
    let socket = UdpSocket::bind(from).expect("an address of the namespace");
    socket.set_read_timeout(Some(GENEROUS)).expect("a socket");
    // What is lost must be the server's loss: room for all replies that a test leaves unread.
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 16 << 20).expect("root");
    socket
}

/// One lookup: its code and how many answers it has.
fn looked_up(client: &UdpSocket, at: SocketAddr, name: &str, rtype: u16) -> (u8, u16) {
    client.send_to(&query(7, name, rtype), at).expect("a way");
    let mut reply = [0; 2048];
    let (length, from) = client.recv_from(&mut reply).expect("an answer in time");
    assert_eq!((from, id_of(&reply)), (at, 7), "{name}");
    assert!(length >= 12);
    (rcode_of(&reply), u16::from_be_bytes([reply[6], reply[7]]))
}

#[test]
fn a_burst_of_a_thousand_queries_is_answered_whole_in_both_families_at_several_addresses() {
    let place = Place::new();
    place.within(|| {
        let places = ["127.0.0.1:53", "192.0.2.1:53", "[::1]:53", "[2001:db8::1]:53"];
        let served = place.serve(&places);
        for at in served.at() {
            let client = client(if at.is_ipv4() { "192.0.2.2:0" } else { "[2001:db8::2]:0" });
            for id in 0..1000u16 {
                client.send_to(&query(id, &name_of(usize::from(id)), A), at).expect("a way");
            }
            let mut open: std::collections::BTreeSet<u16> = (0..1000).collect();
            while !open.is_empty() {
                let mut reply = [0; 512];
                let (_, from) =
                    client.recv_from(&mut reply).unwrap_or_else(|e| panic!("{at}: {} left: {e}", open.len()));
                assert_eq!((from, rcode_of(&reply)), (*at, NOERROR));
                assert!(open.remove(&id_of(&reply)), "answered twice");
            }
        }
    });
}

#[test]
fn a_socket_of_all_addresses_replies_from_the_one_that_was_asked() {
    let place = Place::new();
    place.within(|| {
        let served = place.serve(&["[::]:5300"]);
        let asker = client("192.0.2.2:0");
        let asker6 = client("[2001:db8::2]:0");
        for (asker, at) in [(&asker, "192.0.2.1:5300"), (&asker, "127.0.0.1:5300"), (&asker6, "[2001:db8::1]:5300")] {
            let at: SocketAddr = at.parse().expect("an address");
            assert_eq!(looked_up(asker, at, &name_of(1), A), (NOERROR, 1));
            // By the task: the name is not ours, and no upstream is there.
            assert_eq!(looked_up(asker, at, "example.org", A).1, 0);
        }
        drop(served);
    });
}

#[test]
fn a_listener_that_is_bound_keeps_what_comes_before_it_is_opened() {
    let place = Place::new();
    place.within(|| {
        let served = place.serve(&["127.0.0.1:53"]);
        let late = served.bind("192.0.2.1:53");
        let client = client("192.0.2.2:0");
        for id in 0..500u16 {
            client.send_to(&query(id, &name_of(3), A), "192.0.2.1:53").expect("a way");
        }
        let mut stream = TcpStream::connect("192.0.2.1:53").expect("a queue of connections");
        stream.write_all(&framed(&query(9, &name_of(3), A))).expect("room");
        served.open(late);
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < 500 {
            let mut reply = [0; 512];
            client.recv(&mut reply).unwrap_or_else(|e| panic!("{} of 500 came: {e}", seen.len()));
            assert_eq!(rcode_of(&reply), NOERROR);
            seen.insert(id_of(&reply));
        }
        stream.set_read_timeout(Some(GENEROUS)).expect("a socket");
        assert_eq!(id_of(&read_framed(&mut stream).expect("an answer")), 9);
    });
}

#[test]
fn an_address_that_another_server_answers_at_is_refused() {
    let place = Place::new();
    place.within(|| {
        let served = place.serve(&["127.0.0.1:53"]);
        let error = served.try_bind("127.0.0.1:53").expect_err("it is taken");
        assert!(error.contains("127.0.0.1:53") && error.contains("stop the other DNS server"), "{error}");
        let _stranger = UdpSocket::bind("192.0.2.1:53").expect("free");
        let error = served.try_bind("192.0.2.1:53").expect_err("it is taken");
        assert!(error.contains("192.0.2.1:53/udp"), "{error}");
    });
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

/// One message of a connection; `None`: the server closed it.
fn read_framed(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    match stream.read_exact(&mut length) {
        Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => return None,
        other => other.expect("a message in time"),
    }
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).expect("the rest of the message");
    Some(message)
}

fn connected(at: &SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).expect("a connection");
    stream.set_read_timeout(Some(GENEROUS)).expect("a socket");
    stream
}

#[test]
fn queries_of_one_connection_are_answered_as_they_are_ready_and_not_in_turn() {
    let place = Place::new();
    place.within(|| {
        let upstream = place.upstream();
        let served = place.serve(&["192.0.2.1:53", "[2001:db8::1]:53"]);
        for at in served.at() {
            let mut stream = connected(at);
            let mut bytes = framed(&query(0, "slow.example.org", A));
            (1..200u16).for_each(|id| {
                bytes.extend(framed(&query(id, &name_of(usize::from(id)), if id % 2 == 0 { A } else { AAAA })))
            });
            stream.write_all(&bytes).expect("room");
            let mut seen = std::collections::BTreeSet::new();
            while seen.len() < 199 {
                let reply = read_framed(&mut stream).expect("an answer");
                assert_eq!(rcode_of(&reply), NOERROR);
                assert!(seen.insert(id_of(&reply)) && id_of(&reply) != 0, "the slow one is last");
            }
            upstream.answer();
            assert_eq!(id_of(&read_framed(&mut stream).expect("the slow answer")), 0);
            // The client says that it is done; so does the server.
            stream.shutdown(std::net::Shutdown::Write).expect("open");
            assert!(read_framed(&mut stream).is_none());
        }
    });
}

#[test]
fn what_is_in_a_connection_when_the_client_ends_its_side_is_still_answered() {
    let place = Place::new();
    place.within(|| {
        let served = place.serve(&["127.0.0.1:53"]);
        let mut stream = connected(&served.at()[0]);
        for id in 0..300 {
            stream.write_all(&framed(&query(id, &name_of(1), A))).expect("room");
        }
        stream.shutdown(std::net::Shutdown::Write).expect("open");
        let mut count = 0;
        while read_framed(&mut stream).is_some() {
            count += 1;
        }
        assert_eq!(count, 300);
    });
}

#[test]
fn an_answer_that_an_upstream_has_yet_to_give_comes_to_a_client_that_ended_its_side() {
    let place = Place::new();
    place.within(|| {
        let upstream = place.upstream();
        let served = place.serve(&["127.0.0.1:53"]);
        let mut stream = connected(&served.at()[0]);
        stream.write_all(&framed(&query(3, "slow.example.org", A))).expect("room");
        stream.write_all(&framed(&query(4, &name_of(1), A))).expect("room");
        stream.shutdown(std::net::Shutdown::Write).expect("open");
        assert_eq!(id_of(&read_framed(&mut stream).expect("what needs nobody")), 4);
        // The server has read that there is no more to come: one that took it for the end has hung up by now.
        std::thread::sleep(Duration::from_millis(300));
        upstream.answer();
        assert_eq!(id_of(&read_framed(&mut stream).expect("what was waited for")), 3);
        assert!(read_framed(&mut stream).is_none(), "and then the server is done too");
    });
}

#[test]
fn a_connection_that_reads_nothing_holds_no_other_up_and_grows_nothing() {
    let place = Place::alone();
    place.within(|| {
        let served = place.serve(&["127.0.0.1:53"]);
        let at = served.at()[0];
        let before = resident_kib();
        let greedy: Vec<TcpStream> = (0..20).map(|_| connected(&at)).collect();
        let bytes: Vec<u8> = (0..2000).flat_map(|id| framed(&query(id, "wide.default.svc.cluster.local", A))).collect();
        for stream in &greedy {
            stream.set_nonblocking(true).expect("a socket");
            // As much as goes in: what does not is the server holding back.
            let mut rest = &bytes[..];
            while let Ok(count @ 1..) = (&mut &*stream).write(rest) {
                rest = &rest[count..];
            }
        }
        let asker = client("127.0.0.1:0");
        for nth in 0..200 {
            assert_eq!(looked_up(&asker, at, &name_of(nth), A), (NOERROR, 1));
            let mut stream = connected(&at);
            stream.write_all(&framed(&query(5, &name_of(nth), A))).expect("room");
            assert_eq!(id_of(&read_framed(&mut stream).expect("an answer")), 5);
        }
        let grown = resident_kib().saturating_sub(before);
        // 20 connections, each with up to 192 KiB on either side of its bounds; all replies at once would be 640 MB.
        assert!(grown < 48 * 1024, "{grown} KiB more");
        drop(greedy);
    });
}

#[test]
fn idle_connections_of_one_address_leave_room_for_the_next() {
    let place = Place::new();
    place.within(|| {
        let served = place.serve(&["127.0.0.1:53"]);
        let at = served.at()[0];
        let mut idle: Vec<TcpStream> = (0..400).map(|_| connected(&at)).collect();
        for stream in idle.iter_mut().rev().take(64) {
            stream.write_all(&framed(&query(5, &name_of(1), A))).expect("room");
            assert_eq!(id_of(&read_framed(stream).expect("an answer: it is among the youngest")), 5);
        }
        assert!(read_framed(&mut idle[0]).is_none(), "the oldest had to leave");
    });
}

#[test]
fn a_hundred_thousand_hostile_packets_grow_nothing_and_no_query_between_them_is_lost() {
    let place = Place::alone();
    place.within(|| {
        let served = place.serve(&["127.0.0.1:53"]);
        let at = served.at()[0];
        let (hostile, good) = (client("127.0.0.1:0"), client("127.0.0.1:0"));
        hostile.set_nonblocking(true).expect("a socket");
        let mut draw = place::Draw(11);
        let mut grown_at = 0;
        for round in 0..1000 {
            for _ in 0..100 {
                // The sender's own queue may be full for a moment; the next packet is as good.
                let _ = hostile.send_to(&draw.hostile(), at);
            }
            assert_eq!(looked_up(&good, at, &name_of(round), A), (NOERROR, 1), "round {round}");
            assert_eq!(looked_up(&good, at, "absent.default.svc.cluster.local", A), (NXDOMAIN, 0), "round {round}");
            while hostile.recv(&mut [0; 2048]).is_ok() {}
            if round == 99 {
                grown_at = resident_kib();
            }
        }
        let grown = resident_kib().saturating_sub(grown_at);
        assert!(grown < 16 * 1024, "{grown} KiB more after 90,000 packets");
    });
}

#[test]
fn a_thousand_changes_of_the_site_lose_no_query() {
    let place = Place::new();
    place.within(|| {
        let served = place.serve(&["127.0.0.1:53", "[::1]:53"]);
        let (ended, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for at in served.at() {
                let asker = client(if at.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" });
                let (ended, asked) = (&ended, &asked);
                scope.spawn(move || {
                    while !ended.load(Ordering::Relaxed) {
                        for nth in 0..50 {
                            assert_eq!(looked_up(&asker, *at, &name_of(nth), A), (NOERROR, 1));
                        }
                        asked.fetch_add(50, Ordering::Relaxed);
                    }
                });
            }
            for change in 0..1000 {
                served.change(change);
                if change % 10 == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            // In the end the last change is what is answered, at every socket.
            for at in served.at() {
                for _ in 0..20 {
                    let asker = client(if at.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" });
                    served.await_changes();
                    assert_eq!(looked_up(&asker, *at, "moving-999.default.svc.cluster.local", A), (NOERROR, 1));
                    assert_eq!(looked_up(&asker, *at, "moving-998.default.svc.cluster.local", A), (NXDOMAIN, 0));
                }
            }
            ended.store(true, Ordering::Relaxed);
        });
        assert!(asked.load(Ordering::Relaxed) > 0);
    });
}

#[test]
fn queries_past_what_may_wait_for_upstreams_get_an_answer_and_ours_go_on() {
    let place = Place::new();
    place.within(|| {
        let _silent = place.upstream();
        let served = place.serve(&["127.0.0.1:53"]);
        let at = served.at()[0];
        let (asker, good) = (client("127.0.0.1:0"), client("127.0.0.1:0"));
        asker.set_nonblocking(true).expect("a socket");
        for nth in 0..20_000u32 {
            let _ = asker.send_to(&query(nth as u16, &format!("n{nth}.example.org"), A), at);
            if nth % 1000 == 0 {
                assert_eq!(looked_up(&good, at, &name_of(1), A), (NOERROR, 1));
            }
        }
        // Not all can wait: those past the bound hear so.
        asker.set_nonblocking(false).expect("a socket");
        let mut reply = [0; 512];
        asker.recv(&mut reply).expect("an answer in time");
        assert!([SERVFAIL, 5].contains(&rcode_of(&reply)));
    });
}

/// Memory of this process that is in use, in KiB.
fn resident_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("procfs");
    let pages: u64 = text.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a number of pages");
    pages * 4
}
