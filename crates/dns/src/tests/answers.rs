//! Each record and each absence that the specification and clusters ask for, by name.

use portolan_model::{EndpointFact, Fact, NsName, ServiceKind};

use super::{
    Seen, asked, at, config, external, ip, name, named, namespace, packet, port, records, service, slice, snapshot,
};
use crate::{Outcome, PodRecords, Records, Transport, answer, explain};

const SOA: &str = "cluster.local 30 SOA ns.dns.cluster.local hostmaster.cluster.local 0 7200 1800 86400 30";

/// One Service of each kind, in both families.
fn world() -> Vec<Fact> {
    let named_pod = EndpointFact { pod: Some(NsName::new("default", "web-abc")), ..at("10.244.1.5") };
    let not_ready = EndpointFact { ready: false, ..at("10.244.1.9") };
    vec![
        namespace("default"),
        namespace("empty"),
        service("web", ServiceKind::ClusterIp, &["10.96.0.20"], &[port("http", 80)]),
        slice("web", "a", &[("http", 8080)], vec![named_pod, at("10.244.2.5"), not_ready.clone()]),
        service("dual", ServiceKind::NodePort, &["10.96.0.21", "fd00:10:96::21"], &[port("http", 80), port("", 81)]),
        service("peers", ServiceKind::Headless, &[], &[port("db", 5432)]),
        slice(
            "peers",
            "a",
            &[("db", 5433)],
            vec![named("10.244.1.6", "p-0"), named("10.244.2.6", "p-1"), at("10.244.2.7")],
        ),
        slice("peers", "b", &[("db", 5433)], vec![named("fd00:10:244::6", "p-0")]),
        service("v4only", ServiceKind::Headless, &[], &[]),
        slice("v4only", "a", &[], vec![at("10.244.1.8")]),
        service("idle", ServiceKind::Headless, &[], &[port("x", 1)]),
        slice("idle", "a", &[("x", 1)], vec![not_ready]),
        external("alias", "web.default.svc.cluster.local"),
        external("alias2", "alias.default.svc.cluster.local."),
        external("dangling", "nobody.default.svc.cluster.local"),
        external("loop-a", "loop-b.default.svc.cluster.local"),
        external("loop-b", "loop-a.default.svc.cluster.local"),
        external("to-pod", "10-244-1-5.default.pod.cluster.local"),
        external("outside", "ylzhong.top"),
        external("literal", "192.0.2.1"),
    ]
}

fn answers(text: &str, rtype: &str) -> Vec<String> {
    let seen = asked(&records(&world()), text, rtype);
    assert_eq!(seen.rcode, "NOERROR", "{text} {rtype}: {seen:?}");
    assert_eq!(seen.flags, "aa rd ra", "{text} {rtype}");
    seen.answers
}

/// `owner` without the zone, expected lines without the zone of the owner.
fn check(rows: &[(&str, &str, &[&str])]) {
    for (text, rtype, expected) in rows {
        assert_eq!(answers(text, rtype), *expected, "{text} {rtype}");
    }
}

fn check_absent(rows: &[(&str, &str)], rcode: &str) {
    let records = records(&world());
    for (text, rtype) in rows {
        let seen = asked(&records, text, rtype);
        assert_eq!((seen.rcode.as_str(), seen.answers.len()), (rcode, 0), "{text} {rtype}");
        assert_eq!(seen.authority, [SOA], "{text} {rtype}");
        assert_eq!(seen.flags, "aa rd ra", "{text} {rtype}");
    }
}

#[test]
fn cluster_ips_are_addresses_of_their_family() {
    check(&[
        ("web.default.svc.cluster.local", "A", &["web.default.svc.cluster.local 30 A 10.96.0.20"]),
        ("dual.default.svc.cluster.local", "A", &["dual.default.svc.cluster.local 30 A 10.96.0.21"]),
        ("dual.default.svc.cluster.local", "AAAA", &["dual.default.svc.cluster.local 30 AAAA fd00:10:96::21"]),
    ]);
}

#[test]
fn srv_of_a_cluster_ip_has_the_service_port_and_shares_100_among_families() {
    check(&[
        (
            "_http._tcp.web.default.svc.cluster.local",
            "SRV",
            &["_http._tcp.web.default.svc.cluster.local 30 SRV 0 100 80 web.default.svc.cluster.local"],
        ),
        (
            "_HTTP._TCP.dual.default.svc.cluster.local",
            "SRV",
            &["_HTTP._TCP.dual.default.svc.cluster.local 30 SRV 0 50 80 dual.default.svc.cluster.local"],
        ),
    ]);
    let seen = asked(&records(&world()), "_http._tcp.dual.default.svc.cluster.local", "SRV");
    let expected =
        ["dual.default.svc.cluster.local 30 A 10.96.0.21", "dual.default.svc.cluster.local 30 AAAA fd00:10:96::21"];
    assert_eq!(seen.additional, expected);
}

#[test]
fn srv_at_the_plain_service_name_lists_all_ports_unnamed_ones_too() {
    let srv = |port| format!("dual.default.svc.cluster.local 30 SRV 0 25 {port} dual.default.svc.cluster.local");
    assert_eq!(answers("dual.default.svc.cluster.local", "SRV"), [srv(80), srv(81)]);
}

#[test]
fn headless_answers_ready_endpoints_of_the_family() {
    let a = |addr: &str| format!("peers.default.svc.cluster.local 30 A {addr}");
    assert_eq!(answers("peers.default.svc.cluster.local", "A"), [a("10.244.1.6"), a("10.244.2.6"), a("10.244.2.7")]);
    check(&[("peers.default.svc.cluster.local", "AAAA", &["peers.default.svc.cluster.local 30 AAAA fd00:10:244::6"])]);
}

#[test]
fn endpoints_have_names_by_hostname_else_by_address_under_every_kind_of_service() {
    check(&[
        ("p-0.peers.default.svc.cluster.local", "A", &["p-0.peers.default.svc.cluster.local 30 A 10.244.1.6"]),
        (
            "p-0.peers.default.svc.cluster.local",
            "AAAA",
            &["p-0.peers.default.svc.cluster.local 30 AAAA fd00:10:244::6"],
        ),
        (
            "10-244-2-7.peers.default.svc.cluster.local",
            "A",
            &["10-244-2-7.peers.default.svc.cluster.local 30 A 10.244.2.7"],
        ),
        (
            "10-244-1-5.web.default.svc.cluster.local",
            "A",
            &["10-244-1-5.web.default.svc.cluster.local 30 A 10.244.1.5"],
        ),
    ]);
}

#[test]
fn endpoints_are_named_after_their_pods_when_told_so() {
    let config = crate::ZoneConfig { endpoint_pod_names: true, ..config() };
    let records = Records::from_snapshot(config, &snapshot(&world()));
    assert_eq!(asked(&records, "web-abc.web.default.svc.cluster.local", "A").answers.len(), 1);
    assert_eq!(asked(&records, "10-244-1-5.web.default.svc.cluster.local", "A").rcode, "NXDOMAIN");
}

#[test]
fn headless_srv_is_one_per_endpoint_name_with_the_endpoints_port() {
    let owner = "_db._tcp.peers.default.svc.cluster.local";
    let srv = |host: &str| format!("{owner} 30 SRV 0 25 5433 {host}.peers.default.svc.cluster.local");
    assert_eq!(answers(owner, "SRV"), [srv("10-244-2-7"), srv("p-0"), srv("p-1")]);
    let additional = asked(&records(&world()), owner, "SRV").additional;
    assert_eq!(additional.len(), 4, "{additional:?}");
    assert!(additional.contains(&"p-0.peers.default.svc.cluster.local 30 AAAA fd00:10:244::6".into()));
}

#[test]
fn ptr_of_a_cluster_ip_is_the_service_and_of_an_endpoint_its_name_under_each_service() {
    let mut facts = world();
    facts.push(service("twin", ServiceKind::Headless, &[], &[]));
    facts.push(slice("twin", "a", &[], vec![named("10.244.1.6", "t-0"), at("10.96.0.20")]));
    let records = records(&facts);
    let ptr = |text: &str| -> Vec<String> {
        let owner = crate::Name::reverse(ip(text)).to_string();
        let lines = asked(&records, &owner, "PTR").answers;
        lines.iter().map(|line| line.rsplit(' ').next().expect("a target").to_string()).collect()
    };
    assert_eq!(ptr("10.96.0.20"), ["web.default.svc.cluster.local"]);
    assert_eq!(ptr("fd00:10:96::21"), ["dual.default.svc.cluster.local"]);
    assert_eq!(ptr("10.244.1.6"), ["p-0.peers.default.svc.cluster.local", "t-0.twin.default.svc.cluster.local"]);
    assert_eq!(ptr("10.244.1.5"), ["10-244-1-5.web.default.svc.cluster.local"]);
    assert_eq!(ptr("fd00:10:244::6"), ["p-0.peers.default.svc.cluster.local"]);
}

#[test]
fn ptr_names_we_do_not_know_go_upstream_and_known_ones_of_another_type_are_nodata() {
    let records = records(&world());
    for text in ["192.0.2.1", "10.244.9.9", "10.244.1.9", "2001:db8::1"] {
        let packet = packet(&crate::Name::reverse(ip(text)).to_string(), "PTR");
        assert_eq!(answer(&records, &packet, Transport::Udp), Outcome::Forward, "{text}");
    }
    let seen = asked(&records, "20.0.96.10.in-addr.arpa", "A");
    assert_eq!((seen.rcode.as_str(), seen.answers.len()), ("NOERROR", 0));
    assert!(seen.authority[0].starts_with("in-addr.arpa 30 SOA ns.dns.in-addr.arpa"), "{seen:?}");
}

#[test]
fn an_external_name_is_followed_inside_and_chased_outside() {
    check(&[
        (
            "alias2.default.svc.cluster.local",
            "A",
            &[
                "alias.default.svc.cluster.local 30 CNAME web.default.svc.cluster.local",
                "alias2.default.svc.cluster.local 30 CNAME alias.default.svc.cluster.local",
                "web.default.svc.cluster.local 30 A 10.96.0.20",
            ],
        ),
        ("outside.default.svc.cluster.local", "CNAME", &["outside.default.svc.cluster.local 30 CNAME ylzhong.top"]),
        (
            "to-pod.default.svc.cluster.local",
            "A",
            &[
                "10-244-1-5.default.pod.cluster.local 30 A 10.244.1.5",
                "to-pod.default.svc.cluster.local 30 CNAME 10-244-1-5.default.pod.cluster.local",
            ],
        ),
    ]);
    match answer(&records(&world()), &packet("outside.default.svc.cluster.local", "A"), Transport::Udp) {
        Outcome::Chase(chase) => assert_eq!((chase.target(), chase.chain.len()), (&name("ylzhong.top"), 1)),
        other => panic!("expected a chase, got {other:?}"),
    }
}

#[test]
fn ten_aliases_in_a_row_are_followed_and_eleven_are_not() {
    let next = |n: u8| if n == 10 { "web".to_string() } else { format!("link-{}", n + 1) };
    let mut facts = world();
    facts.extend((0..=10u8).map(|n| external(&format!("link-{n}"), &format!("{}.default.svc.cluster.local", next(n)))));
    let records = records(&facts);
    assert_eq!(asked(&records, "link-1.default.svc.cluster.local", "A").answers.len(), 11);
    assert_eq!(asked(&records, "link-0.default.svc.cluster.local", "A").answers.len(), 0);
}

#[test]
fn a_chain_starts_with_its_first_alias_on_the_wire() {
    let bytes =
        super::reply(answer(&records(&world()), &packet("alias.default.svc.cluster.local", "A"), Transport::Udp));
    let message = domain::base::Message::from_slice(&bytes).expect("a message");
    let types: Vec<String> =
        message.answer().expect("answers").map(|record| record.expect("a record").rtype().to_string()).collect();
    assert_eq!(types, ["CNAME", "A"]);
}

#[test]
fn names_that_exist_without_the_type_are_nodata_with_soa() {
    check_absent(
        &[
            ("svc.cluster.local", "A"),
            ("pod.cluster.local", "A"),
            ("cluster.local", "A"),
            ("default.svc.cluster.local", "A"),
            ("default.pod.cluster.local", "AAAA"),
            ("empty.svc.cluster.local", "A"),
            ("web.default.svc.cluster.local", "AAAA"),
            ("web.default.svc.cluster.local", "TXT"),
            ("web.default.svc.cluster.local", "MX"),
            ("web.default.svc.cluster.local", "TYPE65"),
            ("web.default.svc.cluster.local", "SOA"),
            ("web.default.svc.cluster.local", "NS"),
            ("web.default.svc.cluster.local", "CNAME"),
            ("_tcp.web.default.svc.cluster.local", "SRV"),
            ("_http._tcp.web.default.svc.cluster.local", "A"),
            ("v4only.default.svc.cluster.local", "AAAA"),
            ("v4only.default.svc.cluster.local", "SRV"),
            ("alias.default.svc.cluster.local", "AAAA"),
            ("alias.default.svc.cluster.local", "SRV"),
            ("dangling.default.svc.cluster.local", "A"),
            ("loop-a.default.svc.cluster.local", "A"),
            ("10-244-1-5.default.pod.cluster.local", "AAAA"),
            ("10-244-1-5.default.pod.cluster.local", "TXT"),
            ("dns-version.cluster.local", "A"),
            ("dns.cluster.local", "A"),
        ],
        "NOERROR",
    );
}

#[test]
fn names_that_do_not_exist_are_nxdomain_with_soa() {
    check_absent(
        &[
            ("nobody.default.svc.cluster.local", "A"),
            ("web.nowhere.svc.cluster.local", "A"),
            ("nowhere.svc.cluster.local", "A"),
            ("nowhere.pod.cluster.local", "A"),
            ("10-244-1-5.nowhere.pod.cluster.local", "A"),
            ("not-an-ip.default.pod.cluster.local", "A"),
            ("10-244-1-256.default.pod.cluster.local", "A"),
            ("x.10-244-1-5.default.pod.cluster.local", "A"),
            ("_https._tcp.web.default.svc.cluster.local", "SRV"),
            ("_http._udp.web.default.svc.cluster.local", "SRV"),
            ("x._http._tcp.web.default.svc.cluster.local", "SRV"),
            ("x.y.web.default.svc.cluster.local", "A"),
            ("10-244-1-9.web.default.svc.cluster.local", "A"),
            ("idle.default.svc.cluster.local", "A"),
            ("idle.default.svc.cluster.local", "SRV"),
            ("x.outside.default.svc.cluster.local", "A"),
            ("literal.default.svc.cluster.local", "A"),
            ("web.default.other.cluster.local", "A"),
            ("*.default.svc.cluster.local", "A"),
            ("web.default.svc.cluster.local.cluster.local", "A"),
        ],
        "NXDOMAIN",
    );
}

#[test]
fn pod_names_echo_their_address_in_namespaces_that_exist() {
    check(&[
        ("10-244-1-5.default.pod.cluster.local", "A", &["10-244-1-5.default.pod.cluster.local 30 A 10.244.1.5"]),
        ("1-2-3-4.empty.pod.cluster.local", "A", &["1-2-3-4.empty.pod.cluster.local 30 A 1.2.3.4"]),
        ("fd00--5.default.pod.cluster.local", "AAAA", &["fd00--5.default.pod.cluster.local 30 AAAA fd00::5"]),
    ]);
    let config = crate::ZoneConfig { pods: PodRecords::Disabled, ..config() };
    let records = Records::from_snapshot(config, &snapshot(&world()));
    assert_eq!(asked(&records, "10-244-1-5.default.pod.cluster.local", "A").rcode, "NXDOMAIN");
}

#[test]
fn the_apex_has_soa_and_ns_and_the_version_is_a_text() {
    check(&[
        ("cluster.local", "SOA", &[SOA]),
        ("cluster.local", "NS", &["cluster.local 30 NS ns.dns.cluster.local"]),
        ("ns.dns.cluster.local", "A", &["ns.dns.cluster.local 30 A 10.96.0.10"]),
        ("dns-version.cluster.local", "TXT", &["dns-version.cluster.local 28800 TXT \"1.1.0\""]),
    ]);
}

#[test]
fn the_service_in_front_of_us_is_the_zones_ns() {
    let mut facts = world();
    facts.push(service("kube-dns", ServiceKind::ClusterIp, &["10.96.0.10"], &[port("dns", 53)]));
    let seen = asked(&records(&facts), "cluster.local", "NS");
    assert_eq!(seen.answers, ["cluster.local 30 NS kube-dns.default.svc.cluster.local"]);
    assert_eq!(seen.additional, ["kube-dns.default.svc.cluster.local 30 A 10.96.0.10"]);
}

#[test]
fn the_owner_keeps_the_case_of_the_question() {
    check(&[("wEb.DEFAULT.svc.Cluster.LOCAL", "A", &["wEb.DEFAULT.svc.Cluster.LOCAL 30 A 10.96.0.20"])]);
}

#[test]
fn before_the_cluster_is_read_what_is_not_found_is_servfail_and_what_is_found_is_served() {
    let before = snapshot(&world());
    let mut records = Records::new(config());
    records.update(&before, &portolan_model::Delta::all(&before));
    assert_eq!(asked(&records, "nobody.default.svc.cluster.local", "A").rcode, "SERVFAIL");
    assert_eq!(asked(&records, "nobody.default.svc.cluster.local", "A").authority, [SOA]);
    assert_eq!(asked(&records, "dangling.default.svc.cluster.local", "A").rcode, "SERVFAIL");
    assert_eq!(asked(&records, "9.9.244.10.in-addr.arpa", "PTR").rcode, "SERVFAIL");
    assert_eq!(asked(&records, "web.default.svc.cluster.local", "A").rcode, "NOERROR");
    let outside = packet("1.2.0.192.in-addr.arpa", "PTR");
    assert_eq!(answer(&records, &outside, Transport::Udp), Outcome::Forward);
    records.mark_synced();
    assert_eq!(asked(&records, "nobody.default.svc.cluster.local", "A").rcode, "NXDOMAIN");
}

#[test]
fn names_outside_go_upstream() {
    let records = records(&world());
    for text in ["example.com", "local", "xcluster.local", "web.default.svc", "cluster.local.example.com", "."] {
        assert_eq!(answer(&records, &packet(text, "A"), Transport::Udp), Outcome::Forward, "{text}");
    }
}

#[test]
fn transfers_and_other_classes_are_refused() {
    let records = records(&world());
    for rtype in ["AXFR", "IXFR"] {
        let seen = asked(&records, "cluster.local", rtype);
        assert_eq!(seen, Seen { rcode: "REFUSED".into(), flags: "rd".into(), ..Seen::default() });
    }
    let mut chaos = packet("cluster.local", "A");
    *chaos.last_mut().expect("a class") = 3;
    assert_eq!(Seen::read(&super::reply(answer(&records, &chaos, Transport::Udp))).rcode, "REFUSED");
}

#[test]
fn the_serial_is_the_one_that_was_set() {
    let mut records = records(&world());
    records.set_serial(1_790_000_000);
    let words = |seen: Seen| seen.authority[0].split(' ').nth(5).map(String::from);
    assert_eq!(words(asked(&records, "nobody.default.svc.cluster.local", "A")), Some("1790000000".into()));
    assert_eq!(words(asked(&records, "20.0.96.10.in-addr.arpa", "A")), Some("1790000000".into()));
    assert!(
        records
            .dump()
            .starts_with("cluster.local. 30 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1790000000 ")
    );
}

#[test]
fn any_gets_one_set() {
    check(&[("web.default.svc.cluster.local", "ANY", &["web.default.svc.cluster.local 30 A 10.96.0.20"])]);
}

#[test]
fn which_address_comes_first_follows_the_query_id() {
    let records = records(&world());
    let firsts: std::collections::BTreeSet<Vec<u8>> = (0..3u16)
        .map(|id| {
            let mut packet = packet("peers.default.svc.cluster.local", "A");
            packet[..2].copy_from_slice(&id.to_be_bytes());
            let bytes = super::reply(answer(&records, &packet, Transport::Udp));
            bytes[packet.len() + 12..packet.len() + 16].to_vec()
        })
        .collect();
    assert_eq!(firsts.len(), 3, "each of the three addresses came first once");
}

#[test]
fn an_answer_names_the_objects_it_comes_from() {
    let records = records(&world());
    let causes = |text: &str, rtype: &str| -> String {
        let explained = explain(&records, &packet(text, rtype), Transport::Udp);
        let causes: Vec<String> = explained.causes.iter().map(ToString::to_string).collect();
        format!("{}: {}", causes.join(", "), explained.note)
    };
    assert_eq!(causes("web.default.svc.cluster.local", "A"), "Service default/web: records of the name");
    assert_eq!(
        causes("10-244-1-5.web.default.svc.cluster.local", "A"),
        "Pod default/web-abc, Service default/web: records of the name"
    );
    assert_eq!(causes("outside.default.svc.cluster.local", "A"), "Service default/outside: an alias of a name outside");
    assert_eq!(
        causes("10-244-1-5.default.pod.cluster.local", "A"),
        "Namespace default: a pod record: the address in the name itself"
    );
    assert_eq!(causes("nobody.default.svc.cluster.local", "A"), ": no such name");
    assert_eq!(causes("example.com", "A"), ": not a name of ours");
}

#[test]
fn a_broken_service_hurts_itself_only_and_is_complained_of() {
    let mut facts = world();
    facts.push(external("broken", "a..b"));
    let records = records(&facts);
    let reasons: Vec<String> = records.complaints().iter().map(|c| format!("{} {}", c.object, c.reason)).collect();
    assert_eq!(
        reasons,
        ["Service default/broken InvalidExternalName", "Service default/literal ExternalNameIsAddress"]
    );
    assert_eq!(asked(&records, "web.default.svc.cluster.local", "A").answers.len(), 1);
}

#[test]
fn the_dump_is_zone_file_text_with_causes() {
    let facts = [
        namespace("default"),
        service("web", ServiceKind::ClusterIp, &["10.96.0.20"], &[port("http", 80)]),
        slice("web", "a", &[("http", 8080)], vec![at("10.244.1.5")]),
        external("ext", "ylzhong.top"),
    ];
    let expected = "\
cluster.local. 30 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 0 7200 1800 86400 30
20.0.96.10.in-addr.arpa. 30 IN PTR web.default.svc.cluster.local. ; Service default/web
5.1.244.10.in-addr.arpa. 30 IN PTR 10-244-1-5.web.default.svc.cluster.local. ; Service default/web
cluster.local. 30 IN NS ns.dns.cluster.local.
ns.dns.cluster.local. 30 IN A 10.96.0.10
; pod.cluster.local. exists
; default.pod.cluster.local. exists ; Namespace default
; svc.cluster.local. exists
; default.svc.cluster.local. exists ; Namespace default
ext.default.svc.cluster.local. 30 IN CNAME ylzhong.top. ; Service default/ext
web.default.svc.cluster.local. 30 IN A 10.96.0.20 ; Service default/web
web.default.svc.cluster.local. 30 IN SRV 0 100 80 web.default.svc.cluster.local. ; Service default/web
_http._tcp.web.default.svc.cluster.local. 30 IN SRV 0 100 80 web.default.svc.cluster.local. ; Service default/web
10-244-1-5.web.default.svc.cluster.local. 30 IN A 10.244.1.5 ; Service default/web
10-244-1-5.web.default.svc.cluster.local. 30 IN SRV 0 100 8080 10-244-1-5.web.default.svc.cluster.local. ; Service default/web
dns-version.cluster.local. 28800 IN TXT \"1.1.0\"
; ADDRESS-WITH-DASHES.NAMESPACE.pod.cluster.local. answers its own address, in each namespace that exists
";
    assert_eq!(records(&facts).dump(), expected);
}
