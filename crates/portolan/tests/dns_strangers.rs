//! Cluster DNS among strangers: all but `portolan dns` is somebody else's. Debian's dig, kdig and drill read its answers;
//! unbound and dnsmasq stand in front of it; knot behind it, with a zone that it signs; glibc and busybox go through search
//! lists; dnsperf loads it; upstreams that have gone mad answer it. As root, in network namespaces with loopback alone.

mod dns_table;
#[path = "../../dns/tests/hostile/mutate.rs"]
mod mutate;
mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use dns_table::place::{Place, Running, SERVER};
use dns_table::wire::{Question, Seen, try_udp};
use domain::base::iana::{Class, Rcode, Rtype};
use domain::base::name::Name;
use domain::base::{Message, MessageBuilder, ToName, Ttl};
use domain::rdata::{A, Cname, Txt};
use mutate::{Dice, mutated};
use support::{deb_bin, wait_for};

const PATIENCE_SECS: u64 = 60;

const OBJECTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: { name: shop }
---
apiVersion: v1
kind: Service
metadata: { name: web, namespace: shop }
spec: { clusterIP: 10.96.1.1, clusterIPs: [10.96.1.1, "fd00:10:96::11"], ports: [{ name: http, port: 80 }] }
---
apiVersion: v1
kind: Service
metadata: { name: away, namespace: shop }
spec: { type: ExternalName, externalName: www.example.org }
---
apiVersion: v1
kind: Service
metadata: { name: set, namespace: shop }
spec: { clusterIP: None, clusterIPs: [None], ports: [{ name: sql, port: 5432 }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: set-a, namespace: shop, labels: { kubernetes.io/service-name: set } }
addressType: IPv4
ports: [{ name: sql, port: 5432, protocol: TCP }]
endpoints:
- { addresses: [10.244.1.1], hostname: set-0, conditions: { ready: true } }
- { addresses: [10.244.1.2], hostname: set-1, conditions: { ready: true } }
"#;

/// A place with the objects served, and what runs there.
fn served() -> (Place, Running) {
    let place = Place::new();
    place.write("objects.yaml", OBJECTS);
    let running = place.serve(&[]);
    (place, running)
}

#[test]
fn the_fields_tools_read_our_answers() {
    let (place, _dns) = served();
    let web = "web.shop.svc.cluster.local";
    for (asked, want) in [
        (format!("{web} A"), "10.96.1.1"),
        (format!("{web} AAAA"), "fd00:10:96::11"),
        (format!("_http._tcp.{web} SRV"), "0 50 80 web.shop.svc.cluster.local."),
        ("set.shop.svc.cluster.local A".into(), "10.244.1.1 10.244.1.2"),
        ("set-1.set.shop.svc.cluster.local A".into(), "10.244.1.2"),
        ("1.1.96.10.in-addr.arpa PTR".into(), "web.shop.svc.cluster.local."),
        ("dns-version.cluster.local TXT".into(), "\"1.1.0\""),
        ("nothing.shop.svc.cluster.local A".into(), ""),
    ] {
        for tool in ["dig +short", "dig +tcp +short", "dig +noedns +short", "kdig +short", "kdig +tcp +short"] {
            let said = place.sh(&format!("{tool} @127.0.0.1 {asked} | sort"));
            assert_eq!(said.split('\n').collect::<Vec<_>>().join(" ").trim(), want, "{tool} {asked}");
        }
    }
    let said = place.sh(&format!("drill {web} A @127.0.0.1; drill -t {web} AAAA @127.0.0.1"));
    assert!(said.contains("10.96.1.1") && said.contains("fd00:10:96::11"), "{said}");
    let whole = place.sh("dig @127.0.0.1 no.shop.svc.cluster.local A");
    assert!(
        whole.contains("status: NXDOMAIN") && whole.contains("flags: qr aa rd") && !whole.contains("WARNING: M"),
        "{whole}"
    );
}

/// Starts unbound at 127.0.0.2 in front of us.
fn unbound(place: &Place, more: &str) -> Running {
    let home = place.home.path().display().to_string();
    place.write(
        "unbound.conf",
        &format!(
            r#"server:
  interface: 127.0.0.2
  do-not-query-localhost: no
  username: ""
  chroot: ""
  directory: "{home}"
  pidfile: ""
  use-syslog: no
  do-daemonize: no
  module-config: "validator iterator"
  local-zone: "10.in-addr.arpa." nodefault
  domain-insecure: "local"
  domain-insecure: "arpa"
  domain-insecure: "."
  access-control: 127.0.0.0/8 allow
{more}forward-zone:
  name: "."
  forward-addr: 127.0.0.1
remote-control:
  control-enable: no
"#
        ),
    );
    let mut running = place.start_sh("unbound", "exec unbound -c unbound.conf");
    place.wait_answer(SocketAddr::from(([127, 0, 0, 2], 53)), &mut running);
    running
}

#[test]
fn resolvers_in_front_of_us_give_what_we_give() {
    let (place, _dns) = served();
    let _unbound = unbound(&place, "");
    let mut masq = place.start_sh(
        "dnsmasq",
        "exec dnsmasq -k -C /dev/null --no-hosts --no-resolv --bind-interfaces -a 127.0.0.3 --server=127.0.0.1 -u root -x ''",
    );
    place.wait_answer(SocketAddr::from(([127, 0, 0, 3], 53)), &mut masq);
    let _upstream = knot(&place);
    for resolver in ["127.0.0.2", "127.0.0.3"] {
        for (asked, status, want) in [
            ("web.shop.svc.cluster.local A", "NOERROR", "10.96.1.1"),
            ("web.shop.svc.cluster.local AAAA", "NOERROR", "fd00:10:96::11"),
            ("web.shop.svc.cluster.local TXT", "NOERROR", ""),
            ("away.shop.svc.cluster.local A", "NOERROR", "www.example.org. 192.0.2.1"),
            ("set.shop.svc.cluster.local A", "NOERROR", "10.244.1.1 10.244.1.2"),
            (
                "_sql._tcp.set.shop.svc.cluster.local SRV",
                "NOERROR",
                "0 50 5432 set-0.set.shop.svc.cluster.local. 0 50 5432 set-1.set.shop.svc.cluster.local.",
            ),
            ("1.1.96.10.in-addr.arpa PTR", "NOERROR", "web.shop.svc.cluster.local."),
            ("no.shop.svc.cluster.local A", "NXDOMAIN", ""),
            ("_tcp.set.shop.svc.cluster.local A", "NOERROR", ""),
            ("nothing.example.org A", "NXDOMAIN", ""),
        ] {
            // Twice: from us, and from its cache.
            for _ in 0..2 {
                let whole = place.sh(&format!("dig @{resolver} {asked}"));
                assert!(whole.contains(&format!("status: {status}")), "{resolver} {asked}: {whole}");
                let mut short: Vec<String> =
                    place.sh(&format!("dig +short @{resolver} {asked}")).lines().map(str::to_owned).collect();
                short.sort_by_key(|line| (line.parse::<Ipv4Addr>().is_ok(), line.clone()));
                assert_eq!(short.join(" "), want, "{resolver} {asked}");
            }
        }
    }
}

/// Starts knot at 127.0.0.53 with a zone that it signs.
fn knot(place: &Place) -> Running {
    let long: Vec<String> = "uvwxyz".chars().map(|c| format!("\"{}\"", c.to_string().repeat(250))).collect();
    place.write(
        "example.org.zone",
        &format!(
            "$ORIGIN example.org.\n$TTL 300\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.53\n\
             www A 192.0.2.1\nwww AAAA 2001:db8::1\nalias CNAME www\nbig TXT {}\n",
            long.join(" ")
        ),
    );
    let home = place.home.path().display().to_string();
    place.write(
        "knot.conf",
        &format!(
            "server:\n    rundir: {home}\n    listen: 127.0.0.53@53\ndatabase:\n    storage: {home}\nzone:\n  - domain: example.org\n    \
             storage: {home}\n    file: example.org.zone\n    zonefile-sync: -1\n    zonefile-load: difference-no-serial\n    \
             journal-content: all\n    dnssec-signing: on\nlog:\n  - target: stderr\n    any: info\n"
        ),
    );
    let running = place.start_sh("knot", "exec knotd -c knot.conf");
    wait_for(&format!("knot's key: {}", running.log()), PATIENCE_SECS, || {
        place.try_sh("dig +tries=1 +time=1 @127.0.0.53 example.org DNSKEY | grep -w 257 > key").ok().then_some(())
    });
    running
}

/// `delv` of the answer that we forward, with the key of `anchor`.
fn delv(place: &Place, anchor: &str, asked: &str) -> String {
    let root = deb_bin().join("../root");
    let script = format!(
        "LD_LIBRARY_PATH={root}/usr/lib/x86_64-linux-gnu {root}/usr/bin/delv @127.0.0.1 -a {anchor} +root=example.org {asked}",
        root = root.display()
    );
    place.sh(&format!("{script} 2>&1 || true"))
}

#[test]
fn a_signed_zone_behind_us_is_validated_by_strangers() {
    let (place, _dns) = served();
    let _knot = knot(&place);
    place.sh(r#"awk '{ printf "trust-anchors { \"example.org.\" static-key %s %s %s \"", $5, $6, $7; for (i = 8; i <= NF; i++) printf "%s", $i; print "\"; };" }' key > anchor
        sed 's/"; };/AAAA&/; s/257 3 13 "..../257 3 13 "AAAA/' anchor > wrong"#);
    for _ in 0..2 {
        // From knot, then from our cache.
        for asked in ["www.example.org A", "www.example.org AAAA", "alias.example.org A", "big.example.org TXT"] {
            let said = delv(&place, "anchor", asked);
            assert!(said.contains("; fully validated") && said.contains("RRSIG"), "{asked}: {said}");
        }
        for asked in ["nothing.example.org A", "www.example.org MX"] {
            let said = delv(&place, "anchor", asked);
            assert!(said.contains("; negative response, fully validated"), "{asked}: {said}");
        }
    }
    let said = delv(&place, "wrong", "www.example.org A");
    assert!(!said.contains("fully validated"), "a wrong key validates nothing: {said}");
    let _unbound = unbound(&place, "  trust-anchor-file: key\n");
    let whole = place.sh("dig @127.0.0.2 +dnssec www.example.org A; dig @127.0.0.2 +dnssec nothing.example.org A");
    assert_eq!(whole.matches("flags: qr rd ra ad;").count(), 2, "{whole}");
    let plain = place.sh("dig @127.0.0.1 www.example.org A");
    assert!(!plain.contains("RRSIG"), "nobody asked for signatures: {plain}");
}

/// Records of the zone as somebody else gives them by transfer: owner, type and data, without the SOA.
fn transferred(place: &Place, server: &str) -> Vec<String> {
    let said = place.sh(&format!("dig @{server} +noall +answer +onesoa cluster.local AXFR"));
    let mut lines: Vec<String> = said
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.len() > 4 && words[3] != "SOA")
        .map(|words| words.join(" "))
        .collect();
    lines.sort();
    lines
}

#[test]
fn a_secondary_pulls_our_zone_and_serves_it_as_we_do() {
    let place = Place::new();
    place.write("objects.yaml", OBJECTS);
    let corefile = place.write(
        "Corefile",
        ".:53 {\n    kubernetes cluster.local {\n        ttl 30\n    }\n    transfer {\n        to 127.0.0.1 127.0.0.53\n    }\n}\n",
    );
    let _dns = place.serve(&["--corefile".into(), corefile.display().to_string()]);
    let home = place.home.path().display().to_string();
    place.write(
        "secondary.conf",
        &format!(
            "server:\n    rundir: {home}\n    listen: 127.0.0.53@53\ndatabase:\n    storage: {home}\nremote:\n  - id: ours\n    \
             address: 127.0.0.1@53\n    via: 127.0.0.53\nacl:\n  - id: all\n    address: 127.0.0.0/8\n    action: transfer\nzone:\n  \
             - domain: cluster.local\n    storage: {home}\n    master: ours\n    acl: all\nlog:\n  - target: stderr\n    any: debug\n"
        ),
    );
    let secondary = place.start_sh("secondary", "exec knotd -c secondary.conf");
    wait_for("the zone at knot", PATIENCE_SECS, || {
        let said = place.try_sh("dig +tries=1 +time=1 +short @127.0.0.53 cluster.local SOA");
        (said.ok() && said.out.contains("hostmaster.cluster.local")).then_some(())
    });
    let (ours, theirs) = (transferred(&place, "127.0.0.1"), transferred(&place, "127.0.0.53"));
    assert!(ours.len() > 15, "{ours:#?}");
    assert_eq!(ours, theirs, "{}", secondary.log());
    // What the secondary answers with authority is what we answer.
    for asked in [
        "web.shop.svc.cluster.local A",
        "web.shop.svc.cluster.local AAAA",
        "set.shop.svc.cluster.local A",
        "set-1.set.shop.svc.cluster.local A",
        "_sql._tcp.set.shop.svc.cluster.local SRV",
        "away.shop.svc.cluster.local CNAME",
        "dns-version.cluster.local TXT",
        "cluster.local NS",
    ] {
        let of = |server: &str| place.sh(&format!("dig +noall +answer @{server} {asked} | sort"));
        assert_eq!(of("127.0.0.1"), of("127.0.0.53"), "{asked}");
        assert!(!of("127.0.0.1").is_empty(), "{asked}");
    }
    for absent in ["no.shop.svc.cluster.local A", "web.shop.svc.cluster.local MX", "shop.svc.cluster.local A"] {
        let status = |server: &str| place.sh(&format!("dig @{server} {absent} | grep -o 'status: [A-Z]*'"));
        assert_eq!(status("127.0.0.1"), status("127.0.0.53"), "{absent}");
    }
    // The serial that it has is the one there is: nothing is sent twice.
    let serial = place.sh("dig +short @127.0.0.1 cluster.local SOA | cut -d' ' -f3");
    let again = place.sh(&format!("dig @127.0.0.1 +noall +answer cluster.local IXFR={}", serial.trim()));
    assert_eq!(again.lines().count(), 1, "{again}");
    let refused = place.sh("dig -b 127.0.0.9 @127.0.0.1 cluster.local AXFR");
    assert!(refused.contains("Transfer failed"), "{refused}");
}

/// Messages of a transfer that is asked for over a connection of which we end our side at once.
fn transferred_to_one_that_ended_its_side() -> Vec<Vec<u8>> {
    let mut stream = TcpStream::connect(SERVER).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(PATIENCE_SECS))).expect("a time");
    let query = Question::new("cluster.local.", "AXFR").packet(5);
    stream.write_all(&[&(query.len() as u16).to_be_bytes()[..], &query].concat()).expect("room");
    stream.shutdown(Shutdown::Write).expect("open");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("until the server is done");
    let (mut messages, mut rest) = (Vec::new(), &bytes[..]);
    while let Some((length, more)) = rest.split_first_chunk() {
        let (message, more) = more.split_at(usize::from(u16::from_be_bytes(*length)));
        messages.push(message.to_vec());
        rest = more;
    }
    messages
}

#[test]
fn a_transfer_comes_whole_to_who_ended_its_side_of_the_connection() {
    let place = Place::new();
    place.write("objects.yaml", OBJECTS);
    let corefile = place.write(
        "Corefile",
        ".:53 {\n    kubernetes cluster.local {\n        ttl 30\n    }\n    transfer {\n        to *\n    }\n}\n",
    );
    let _dns = place.serve(&["--corefile".into(), corefile.display().to_string()]);
    let messages = place.inside(transferred_to_one_that_ended_its_side);
    let mut types = Vec::new();
    for message in &messages {
        let message = Message::from_octets(&message[..]).expect("a header");
        for record in message.answer().expect("a section") {
            types.push(record.expect("a record").rtype());
        }
    }
    assert!(types.len() > 15, "{types:?}");
    assert_eq!((types.first(), types.last()), (Some(&Rtype::SOA), Some(&Rtype::SOA)), "from its begin to its end");
    assert_eq!(types.len() - 1, transferred(&place, "127.0.0.1").len() + 1, "one SOA is left out there");
}

/// Whoever guesses a question but not its ID must not be believed, though it answers first and from the right place.
#[test]
fn a_forger_that_knows_all_but_the_id_is_not_believed() {
    let (place, _dns) = served();
    let done = AtomicBool::new(false);
    let socket = place.inside(|| UdpSocket::bind("127.0.0.53:53")).expect("a free port");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 4096];
            while !done.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                for flipped in [0x0001u16, 0x8000, 0xffff] {
                    let mut forged = with_address(&buffer[..length], Ipv4Addr::new(203, 0, 113, 66));
                    let id = u16::from_be_bytes([forged[0], forged[1]]) ^ flipped;
                    forged[..2].copy_from_slice(&id.to_be_bytes());
                    socket.send_to(&forged, from).expect("loopback");
                }
                let honest = with_address(&buffer[..length], Ipv4Addr::new(192, 0, 2, 1));
                // Whoever asked may have closed its socket: another attempt of its was answered.
                let _ = socket.send_to(&honest, from);
            }
        });
        let script = "for n in 1 2 3 4 5 6 7 8; do dig +tries=3 +time=10 +short @127.0.0.1 n$n.example.org A; done";
        let said = place.try_sh(script);
        done.store(true, Ordering::Relaxed);
        assert_eq!(said.done(), "192.0.2.1\n".repeat(8));
    });
}

fn with_address(query: &[u8], address: Ipv4Addr) -> Vec<u8> {
    let query = Message::from_octets(query).expect("our own query");
    let question = query.sole_question().expect("one question");
    let owner: Name<Vec<u8>> = question.qname().to_vec();
    let mut builder = MessageBuilder::new_vec().start_answer(&query, Rcode::NOERROR).expect("room");
    if question.qtype() == Rtype::A {
        builder.push((&owner, Ttl::from_secs(60), A::new(address))).expect("room");
    }
    builder.finish()
}

/// Nobody is at the API server's address. What may be in the cluster is not denied; whose name is not the cluster's is
/// answered as ever.
#[test]
fn while_the_cluster_cannot_be_read_no_name_of_it_is_denied() {
    let place = Place::new();
    let _knot = knot(&place);
    let kubeconfig = place.write(
        "kubeconfig",
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{ name: c, cluster: { server: 'http://127.0.0.1:6443' } }]\n\
         users: [{ name: u, user: {} }]\ncontexts: [{ name: c, context: { cluster: c, user: u } }]\n",
    );
    let mut command = support::portolan();
    command.arg("dns").arg("--kubeconfig").arg(kubeconfig).args(["--listen", &SERVER.to_string()]);
    let mut dns = place.start("dns", &mut command);
    place.wait_answer(SERVER, &mut dns);
    for name in ["web.shop.svc.cluster.local", "no.shop.svc.cluster.local", "10-1-2-3.shop.pod.cluster.local"] {
        for _ in 0..3 {
            let whole = place.sh(&format!("dig +tries=3 +time=10 @127.0.0.1 {name} A"));
            assert!(whole.contains("status: SERVFAIL"), "{name}: {whole}");
        }
    }
    let outside = place.sh("dig +tries=3 +time=10 +short @127.0.0.1 www.example.org A");
    assert_eq!(outside.trim(), "192.0.2.1", "{}", dns.log());
    assert!(!dns.has_ended(), "{}", dns.log());
}

/// The answers of C libraries with a pod's resolv.conf.
fn in_pod(place: &Place, script: &str) -> support::Said {
    place.write(
        "pod.conf",
        "search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 127.0.0.1\noptions ndots:5\n",
    );
    let script = script.replace('\'', r"'\''");
    place.try_sh(&format!("unshare -m sh -c 'mount --bind pod.conf /etc/resolv.conf; {script}'"))
}

#[test]
fn resolvers_of_c_libraries_find_names_by_their_search_lists() {
    let (place, _dns) = served();
    let _knot = knot(&place);
    for (asked, want) in [
        ("web", "10.96.1.1 fd00:10:96::11"),
        ("web.shop", "10.96.1.1 fd00:10:96::11"),
        ("web.shop.svc", "10.96.1.1 fd00:10:96::11"),
        ("web.shop.svc.cluster.local.", "10.96.1.1 fd00:10:96::11"),
        ("away", "192.0.2.1 2001:db8::1"),
        ("www.example.org", "192.0.2.1 2001:db8::1"),
        ("set-1.set", "10.244.1.2"),
    ] {
        let said = in_pod(&place, &format!("getent ahosts {asked}")).done();
        let mut addresses: Vec<&str> = said.lines().filter_map(|line| line.split_whitespace().next()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.join(" "), want, "getent ahosts {asked}");
    }
    assert_eq!(in_pod(&place, "getent ahosts nobody").code, Some(2), "a name that is nowhere");
    let said = in_pod(&place, "getent hosts 10.96.1.1").done();
    assert!(said.contains("web.shop.svc.cluster.local"), "{said}");
    let said = in_pod(&place, "busybox nslookup web.shop.svc.cluster.local").done();
    assert!(said.contains("Address: 10.96.1.1") && said.contains("Address: fd00:10:96::11"), "{said}");
}

#[test]
fn a_load_generator_loses_no_query() {
    let (place, _dns) = served();
    let _knot = knot(&place);
    let lines = [
        "web.shop.svc.cluster.local A",
        "web.shop.svc.cluster.local AAAA",
        "no.shop.svc.cluster.local A",
        "www.example.org A",
    ];
    place.write("queries", &(lines.join("\n") + "\n"));
    for by in ["udp", "tcp"] {
        let said = place.sh(&format!("dnsperf -m {by} -s 127.0.0.1 -d queries -n 2500 -c 8 -q 100 -t 20"));
        assert!(said.contains("Queries lost:         0"), "{by}: {said}");
        assert!(said.contains("NOERROR 7500 (75.00%), NXDOMAIN 2500 (25.00%)"), "{by}: {said}");
    }
}

/// Names asked while the upstream is mad.
const MAD_NAMES: usize = 3000;

/// Each answer of the upstream is a good one made worse. What reaches the client is silence, SERVFAIL, or something that it
/// can read, for its question; and the server goes on as if nothing had been.
#[test]
fn upstreams_that_have_gone_mad_harm_nobody() {
    let (place, mut dns) = served();
    let (done, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let upstream: SocketAddr = ([127, 0, 0, 53], 53).into();
    let socket = place.inside(|| UdpSocket::bind(upstream)).expect("a free port");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut dice = Dice::new(53);
            let mut buffer = [0; 4096];
            while !done.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                let good = good_reply(&buffer[..length]);
                for _ in 0..1 + dice.below(3) {
                    let bad = mutated(&mut dice, std::slice::from_ref(&good));
                    // Too long for a datagram, or whoever asked is gone: as good as sent.
                    let _ = socket.send_to(&bad, from);
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let asked = scope.spawn(|| place.inside(ask_of_the_mad)).join();
        done.store(true, Ordering::Relaxed);
        asked.expect("the client");
    });
    assert!(sent.load(Ordering::Relaxed) > MAD_NAMES / 2, "the upstream was hardly asked");
    assert!(!dns.has_ended(), "{}", dns.log());
    assert!(!dns.log().contains("panicked"), "{}", dns.log());
    assert_eq!(place.sh("dig +short @127.0.0.1 web.shop.svc.cluster.local A").trim(), "10.96.1.1");
    let status = std::fs::read_to_string(format!("/proc/{}/status", dns.id())).expect("it runs");
    let resident = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line").to_owned();
    let kib: usize = resident.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number");
    assert!(kib < 200 * 1024, "{resident}");
}

/// What a server in its right mind would say.
fn good_reply(query: &[u8]) -> Vec<u8> {
    let query = Message::from_octets(query).expect("our own query");
    let question = query.sole_question().expect("one question");
    let owner: Name<Vec<u8>> = question.qname().to_vec();
    let target: Name<Vec<u8>> = "target.example.org".parse().expect("a name");
    let mut builder = MessageBuilder::new_vec().start_answer(&query, Rcode::NOERROR).expect("room");
    let ttl = Ttl::from_secs(60);
    builder.push((&owner, ttl, Cname::new(&target))).expect("room");
    builder.push((&target, ttl, A::new(Ipv4Addr::new(192, 0, 2, 1)))).expect("room");
    builder.push((&target, ttl, Txt::<Vec<u8>>::build_from_slice(&[b'x'; 300]).expect("a text"))).expect("room");
    builder.finish()
}

fn ask_of_the_mad() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
    socket.connect(SERVER).expect("loopback");
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a time");
    let mut buffer = [0; 65_535];
    let mut read = |socket: &UdpSocket| {
        let Ok(length) = socket.recv(&mut buffer) else { return false };
        let reply = Message::from_octets(&buffer[..length]).expect("a header");
        let question = reply.sole_question().expect("one question");
        let asked = format!("n{}.example.org", reply.header().id());
        assert!(question.qname().to_string() == asked && question.qtype() == Rtype::A, "to what nobody asked");
        assert!(question.qclass() == Class::IN && reply.header().qr() && length <= 1232, "{:?}", reply.header());
        // Data of types that nobody needs to understand go through as they came.
        assert!(reply.iter().all(|record| record.is_ok()), "a record that cannot be read");
        true
    };
    for number in 0..MAD_NAMES {
        let question = Question { edns: Some(1232), ..Question::new(&format!("n{number}.example.org."), "A") };
        socket.send(&question.packet(number as u16)).expect("loopback");
        if number % 100 == 99 {
            while read(&socket) {}
            let web = Question::new("web.shop.svc.cluster.local.", "A").packet(1);
            let own =
                try_udp(SERVER, Ipv4Addr::LOCALHOST, &web, Duration::from_secs(20)).expect("the cluster's own names");
            assert_eq!(Seen::read(&own).rcode, "NOERROR");
        }
    }
}
