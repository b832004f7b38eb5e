//! Rows of the specification and of what clusters rely on, as text: a question and what it gets, in a view of its own.
//!
//! `~` stands for `.svc.cluster.local`. On the right: data of the answers, then after `+` the additional records; or
//! NODATA, NXDOMAIN, SERVFAIL (each with the zone's SOA), `next`, `alias NAME`.

use portolan_model::{EndpointFact, Fact, NsName, Pod, Proto, Service, ServiceKind, SlicePort};

use super::{Seen, at, external, ip, name, named, namespace, packet, port, records, service, settings, slice};
use crate::Records;
use crate::corefile::config::{ExternalConfig, Fallthrough, KubernetesConfig, PodMode};
use crate::external::External;
use crate::kubernetes::View;
use crate::plugin::Said;
use crate::site::{Now, Verdict};
use crate::wire::{Query, Transport};

fn config() -> KubernetesConfig {
    KubernetesConfig {
        zones: ["cluster.local", "in-addr.arpa", "ip6.arpa"].map(name).to_vec(),
        namespaces: Vec::new(),
        pods: PodMode::Insecure,
        endpoint_pod_names: false,
        ttl_secs: 5,
        no_endpoints: false,
        ignore_empty_service: false,
        startup_timeout: std::time::Duration::from_secs(5),
        fallthrough: Fallthrough::In(["in-addr.arpa", "ip6.arpa"].map(name).to_vec()),
    }
}

fn view(config: &KubernetesConfig) -> View {
    View::new(config, &[ip("10.96.0.10")], &settings().cluster_cidrs)
}

fn pod(namespace: &str, name: &str, addr: &str, finished: bool) -> Fact {
    let pod = Pod { addresses: vec![ip(addr)], finished, ..Pod::default() };
    Fact::Pod(NsName::new(namespace, name), Some(pod))
}

fn of_pod(addr: &str, pod: &str) -> EndpointFact {
    EndpointFact { pod: Some(NsName::new("default", pod)), ..at(addr) }
}

fn world() -> Vec<Fact> {
    let not_ready = EndpointFact { ready: false, ..at("10.244.9.9") };
    let terminating = EndpointFact { ready: false, serving: true, terminating: true, ..at("10.244.9.8") };
    vec![
        namespace("default"),
        namespace("other"),
        service("web", ServiceKind::ClusterIp, &["10.96.0.20"], &[port("http", 80), port("", 81)]),
        slice("web", "a", &[("http", 8080)], vec![of_pod("10.244.1.5", "web-abc"), not_ready.clone(), terminating]),
        service("dual", ServiceKind::LoadBalancer, &["10.96.0.21", "fd00:10:96::21"], &[port("http", 80)]),
        service("bare", ServiceKind::ClusterIp, &["10.96.0.22"], &[]),
        service("peers", ServiceKind::Headless, &[], &[port("db", 5432)]),
        slice("peers", "a", &[("db", 5433)], vec![named("10.244.1.6", "p-0"), named("10.244.2.6", "p-1")]),
        slice("peers", "b", &[("db", 5433)], vec![named("fd00:10:244::6", "p-0")]),
        // The same endpoint in a second slice, as while slices are rebalanced.
        slice("peers", "c", &[("db", 5433)], vec![named("10.244.1.6", "p-0")]),
        service("plain", ServiceKind::Headless, &[], &[]),
        slice("plain", "a", &[], vec![at("10.244.1.7")]),
        slice("plain", "b", &[], vec![at("fd00:10:244::")]),
        service("idle", ServiceKind::Headless, &[], &[port("db", 1)]),
        slice("idle", "a", &[("db", 1)], vec![not_ready]),
        external("inside", "web.default.svc.cluster.local"),
        external("gone", "nobody.default.svc.cluster.local"),
        external("out", "example.com"),
        external("literal", "192.0.2.7"),
        pod("default", "web-abc", "10.244.1.5", false),
        pod("other", "done", "10.244.1.66", true),
    ]
}

/// What a plugin said, in the table's words.
fn told(said: Said<'_>, packet: &[u8], context: &str) -> String {
    let query = Query::parse(packet).expect("a query");
    let reply = match said {
        Said::Next => return "next".into(),
        Said::Silence => return "silence".into(),
        Said::Alias(links) => return format!("alias {}", links.last().map_or(name("."), |link| link.target.clone())),
        Said::Reply(reply) => reply,
    };
    let seen = Seen::read(&reply.render(&query, Transport::Tcp));
    let is_negative = seen.answers.is_empty();
    assert_eq!(seen.authority.len(), usize::from(is_negative), "{context}: an SOA with an absence only");
    assert!(seen.authority.iter().all(|line| line.contains(" SOA ")), "{context}: {seen:?}");
    if is_negative {
        assert_eq!(seen.additional, Vec::<String>::new(), "{context}");
        return if seen.rcode == "NOERROR" { "NODATA".into() } else { seen.rcode };
    }
    let data = |line: &String| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned();
    let mut text = seen.answers.iter().map(data).collect::<Vec<_>>().join(", ");
    if !seen.additional.is_empty() {
        let record = |line: &String| {
            let words: Vec<&str> = line.split(' ').collect();
            format!("{} {} {}", words[0], words[2], words[3..].join(" "))
        };
        text += &format!(" + {}", seen.additional.iter().map(record).collect::<Vec<_>>().join(", "));
    }
    text.replace(".svc.cluster.local", "~")
}

fn check(config: &KubernetesConfig, records: &Records, rows: &str) {
    let view = view(config);
    check_with(rows, |packet| view.say(records, &Query::parse(packet).expect("a query"), None));
}

fn check_with<'s>(rows: &str, say: impl Fn(&[u8]) -> Said<'s>) {
    for row in rows.lines().map(str::trim).filter(|row| !row.is_empty()) {
        let (question, expected) = row.split_once("=>").expect("a row has an arrow");
        let (text, rtype) = question.trim().rsplit_once(' ').expect("a name and a type");
        let packet = packet(&text.trim().replace('~', ".svc.cluster.local"), rtype);
        assert_eq!(told(say(&packet), &packet, row), expected.trim(), "{row}");
    }
}

#[test]
fn services_endpoints_and_their_ports() {
    check(
        &config(),
        &records(&world()),
        "
        web.default~ A                 => 10.96.0.20
        web.default~ AAAA              => NODATA
        web.default~ HTTPS             => NODATA
        dual.default~ A                => 10.96.0.21
        dual.default~ AAAA             => fd00:10:96::21
        bare.default~ A                => 10.96.0.22
        bare.default~ SRV              => NODATA
        _http._tcp.web.default~ SRV    => 0 100 80 web.default~ + web.default~ A 10.96.0.20
        _HTTP._TCP.web.default~ SRV    => 0 100 80 web.default~ + web.default~ A 10.96.0.20
        _http._tcp.web.default~ A      => NODATA
        _http._tcp.dual.default~ SRV   => 0 50 80 dual.default~ + dual.default~ A 10.96.0.21, dual.default~ AAAA fd00:10:96::21
        web.default~ SRV               => 0 50 80 web.default~, 0 50 81 web.default~ + web.default~ A 10.96.0.20
        _http._udp.web.default~ SRV    => NXDOMAIN
        _https._tcp.web.default~ SRV   => NXDOMAIN
        _tcp.web.default~ SRV          => NODATA
        _tcp.web.default~ A            => NODATA
        _udp.web.default~ A            => NXDOMAIN
        _tcp.bare.default~ A           => NXDOMAIN
        10-244-1-5.web.default~ A      => 10.244.1.5
        10-244-1-5.web.default~ SRV    => 0 100 8080 10-244-1-5.web.default~ + 10-244-1-5.web.default~ A 10.244.1.5
        10-244-9-9.web.default~ A      => NXDOMAIN
        10-244-9-8.web.default~ A      => NXDOMAIN
        peers.default~ A               => 10.244.1.6, 10.244.2.6
        peers.default~ AAAA            => fd00:10:244::6
        p-0.peers.default~ A           => 10.244.1.6
        P-0.peers.default~ AAAA        => fd00:10:244::6
        p-0.peers.default~ SRV         => 0 50 5433 p-0.peers.default~ + p-0.peers.default~ A 10.244.1.6, p-0.peers.default~ AAAA fd00:10:244::6
        10-244-1-6.peers.default~ A    => NXDOMAIN
        _db._tcp.peers.default~ SRV    => 0 33 5433 p-0.peers.default~, 0 33 5433 p-1.peers.default~ + p-0.peers.default~ A 10.244.1.6, p-0.peers.default~ AAAA fd00:10:244::6, p-1.peers.default~ A 10.244.2.6
        _tcp.peers.default~ TXT        => NODATA
        plain.default~ A               => 10.244.1.7
        plain.default~ SRV             => NODATA
        fd00-10-244--0.plain.default~ AAAA => fd00:10:244::
        _tcp.plain.default~ A          => NXDOMAIN
        idle.default~ A                => NXDOMAIN
        _tcp.idle.default~ A           => NXDOMAIN
        ",
    );
}

#[test]
fn aliases_names_above_and_names_that_are_not() {
    check(
        &config(),
        &records(&world()),
        "
        inside.default~ A              => web.default~, 10.96.0.20
        inside.default~ AAAA           => NODATA
        inside.default~ CNAME          => web.default~
        inside.default~ SRV            => NODATA
        x.inside.default~ A            => NXDOMAIN
        gone.default~ A                => NODATA
        out.default~ A                 => alias example.com.
        out.default~ CNAME             => example.com
        out.default~ MX                => NODATA
        literal.default~ A             => NXDOMAIN
        cluster.local A                => NODATA
        svc.cluster.local A            => NODATA
        pod.cluster.local TXT          => NODATA
        dns.cluster.local A            => NODATA
        default~ A                     => NODATA
        default~ SOA                   => NODATA
        nowhere~ A                     => NXDOMAIN
        default.pod.cluster.local A    => NODATA
        nowhere.pod.cluster.local A    => NXDOMAIN
        web.default.foo.cluster.local A => NXDOMAIN
        a.b.c.web.default~ A           => NXDOMAIN
        *.default~ A                   => NXDOMAIN
        any.default~ A                 => NXDOMAIN
        dns-version.cluster.local TXT  => \"1.1.0\"
        dns-version.cluster.local A    => NODATA
        cluster.local NS               => ns.dns.cluster.local + ns.dns.cluster.local A 10.96.0.10
        ns.dns.cluster.local A         => 10.96.0.10
        ns.dns.cluster.local AAAA      => NODATA
        web.default~ NS                => NODATA
        example.com A                  => next
        ",
    );
}

#[test]
fn pods_by_mode() {
    let rows = |verified: &str, other: &str| {
        format!(
            "
            10-244-1-5.default.pod.cluster.local A    => {verified}
            10-244-1-5.other.pod.cluster.local A      => {other}
            10-244-1-66.other.pod.cluster.local A     => {}
            10-244-1-256.default.pod.cluster.local A  => NXDOMAIN
            x.10-244-1-5.default.pod.cluster.local A  => NXDOMAIN
            10-244-1-5.nowhere.pod.cluster.local A    => NXDOMAIN
            ",
            if other == "NXDOMAIN" { "NXDOMAIN" } else { "10.244.1.66" }
        )
    };
    let records = records(&world());
    let of = |pods| KubernetesConfig { pods, ..config() };
    check(&of(PodMode::Insecure), &records, &rows("10.244.1.5", "10.244.1.5"));
    check(&of(PodMode::Verified), &records, &rows("10.244.1.5", "NXDOMAIN"));
    // A Pod says that its namespace is there, told or not.
    let alone = super::records(&[pod("early", "one", "10.244.1.70", false)]);
    check(&of(PodMode::Verified), &alone, "10-244-1-70.early.pod.cluster.local A => 10.244.1.70");
    check(&of(PodMode::Insecure), &alone, "10-244-1-70.early.pod.cluster.local A => NXDOMAIN");
    check(&of(PodMode::Disabled), &records, &rows("NXDOMAIN", "NXDOMAIN"));
    check(
        &config(),
        &records,
        "
        10-244-1-5.default.pod.cluster.local AAAA => NODATA
        fd00--5.default.pod.cluster.local AAAA    => fd00::5
        ",
    );
}

#[test]
fn addresses_backwards_in_the_zones_that_are_listed() {
    let records = records(&world());
    check(
        &config(),
        &records,
        "
        20.0.96.10.in-addr.arpa PTR    => web.default~
        20.0.96.10.in-addr.arpa A      => NODATA
        5.1.244.10.in-addr.arpa PTR    => 10-244-1-5.web.default~
        6.1.244.10.in-addr.arpa PTR    => p-0.peers.default~
        6.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.4.4.2.0.0.1.0.0.0.0.d.f.ip6.arpa PTR => p-0.peers.default~
        9.9.244.10.in-addr.arpa PTR    => next
        05.1.244.10.in-addr.arpa PTR   => next
        1.244.10.in-addr.arpa PTR      => next
        in-addr.arpa SOA               => ns.dns.in-addr.arpa hostmaster.in-addr.arpa 0 7200 1800 86400 5
        ",
    );
    let zones = ["cluster.local", "1.244.10.in-addr.arpa"].map(name).to_vec();
    let narrow = KubernetesConfig { zones, fallthrough: Fallthrough::Never, ..config() };
    check(
        &narrow,
        &records,
        "
        5.1.244.10.in-addr.arpa PTR    => 10-244-1-5.web.default~
        99.1.244.10.in-addr.arpa PTR   => NXDOMAIN
        20.0.96.10.in-addr.arpa PTR    => next
        ",
    );
    let zones = ["cluster.local", "10.in-addr.arpa"].map(name).to_vec();
    let strict = KubernetesConfig { zones, fallthrough: Fallthrough::Never, ..config() };
    check(
        &strict,
        &records,
        "
        1.244.10.in-addr.arpa A        => NODATA
        77.10.in-addr.arpa A           => NXDOMAIN
        ",
    );
}

#[test]
fn what_a_block_hides_is_hidden_forwards_and_backwards() {
    let records = records(&world());
    let only_other = KubernetesConfig { namespaces: vec!["other".into()], ..config() };
    check(
        &only_other,
        &records,
        "
        other~ A                       => NODATA
        default~ A                     => NXDOMAIN
        web.default~ A                 => NXDOMAIN
        10-1-1-1.default.pod.cluster.local A => NXDOMAIN
        20.0.96.10.in-addr.arpa PTR    => next
        ",
    );
    let no_endpoints = KubernetesConfig { no_endpoints: true, ..config() };
    check(
        &no_endpoints,
        &records,
        "
        web.default~ A                 => 10.96.0.20
        peers.default~ A               => NXDOMAIN
        10-244-1-5.web.default~ A      => NXDOMAIN
        5.1.244.10.in-addr.arpa PTR    => next
        20.0.96.10.in-addr.arpa PTR    => web.default~
        ",
    );
    let ignore_empty = KubernetesConfig { ignore_empty_service: true, ..config() };
    check(
        &ignore_empty,
        &records,
        "
        web.default~ A                 => 10.96.0.20
        bare.default~ A                => NXDOMAIN
        out.default~ A                 => alias example.com.
        ",
    );
    let pod_names = KubernetesConfig { endpoint_pod_names: true, ..config() };
    check(
        &pod_names,
        &records,
        "
        web-abc.web.default~ A         => 10.244.1.5
        10-244-1-5.web.default~ A      => NXDOMAIN
        p-0.peers.default~ A           => 10.244.1.6
        10-244-1-7.plain.default~ A    => 10.244.1.7
        5.1.244.10.in-addr.arpa PTR    => web-abc.web.default~
        ",
    );
}

#[test]
fn several_zones_and_what_falls_through() {
    let records = records(&world());
    let two = KubernetesConfig { zones: ["cluster.local", "corp.example"].map(name).to_vec(), ..config() };
    check(
        &two,
        &records,
        "
        web.default.svc.corp.example A             => 10.96.0.20
        _http._tcp.web.default.svc.corp.example SRV => 0 100 80 web.default.svc.corp.example + web.default.svc.corp.example A 10.96.0.20
        inside.default.svc.corp.example A          => web.default~, 10.96.0.20
        nobody.default.svc.corp.example A          => NXDOMAIN
        corp.example NS                            => ns.dns.corp.example + ns.dns.corp.example A 10.96.0.10
        ",
    );
    let falls = KubernetesConfig { fallthrough: Fallthrough::Always, ..config() };
    check(
        &falls,
        &records,
        "
        nobody.default~ A              => next
        web.default~ AAAA              => NODATA
        gone.default~ A                => alias nobody.default.svc.cluster.local.
        ",
    );
}

#[test]
fn a_service_in_front_of_us_is_known_by_its_endpoints_only_where_they_are_looked_at() {
    let records = records(&[
        namespace("default"),
        service("kube-dns", ServiceKind::ClusterIp, &["10.96.0.99"], &[]),
        slice("kube-dns", "a", &[("dns", 53)], vec![at("10.96.0.10")]),
    ]);
    check(&config(), &records, "cluster.local NS => kube-dns.default~ + kube-dns.default~ A 10.96.0.99");
    let no_endpoints = KubernetesConfig { no_endpoints: true, ..config() };
    check(&no_endpoints, &records, "cluster.local NS => ns.dns.cluster.local + ns.dns.cluster.local A 10.96.0.10");
}

#[test]
fn before_all_is_read_nothing_is_denied() {
    let snapshot = super::snapshot(&world());
    let mut records = Records::new(super::config());
    records.update(&snapshot, &portolan_model::Delta::all(&snapshot));
    for fallthrough in [config().fallthrough, Fallthrough::Always] {
        check(
            &KubernetesConfig { fallthrough, ..config() },
            &records,
            "
            web.default~ A                 => 10.96.0.20
            web.default~ AAAA              => NODATA
            nobody.default~ A              => SERVFAIL
            nowhere.pod.cluster.local A    => SERVFAIL
            gone.default~ A                => SERVFAIL
            9.9.244.10.in-addr.arpa PTR    => SERVFAIL
            1.2.0.192.in-addr.arpa PTR     => next
            ",
        );
    }
}

#[test]
fn addresses_outside_have_zones_of_their_own() {
    let balanced = Service {
        kind: ServiceKind::LoadBalancer,
        cluster_ips: vec![ip("10.96.0.30")],
        external_ips: vec![ip("198.51.100.3")],
        load_balancer_ips: vec![ip("203.0.113.9"), ip("2001:db8::9"), ip("198.51.100.3")],
        ports: vec![port("http", 80), port("", 81)],
        ..Service::default()
    };
    let mut facts = world();
    facts.push(Fact::Service(NsName::new("default", "shop"), Some(balanced)));
    let records = records(&facts);
    let config = |headless, fallthrough| ExternalConfig {
        zones: ["example.org", "in-addr.arpa"].map(name).to_vec(),
        apex: "dns".into(),
        ttl_secs: 5,
        headless,
        fallthrough,
    };
    let rows = "
        shop.default.example.org A                 => 198.51.100.3, 203.0.113.9
        SHOP.default.example.org AAAA              => 2001:db8::9
        shop.default.example.org TXT               => NODATA
        _http._tcp.shop.default.example.org SRV    => 0 100 80 shop.default.example.org + shop.default.example.org A 198.51.100.3, shop.default.example.org A 203.0.113.9, shop.default.example.org AAAA 2001:db8::9
        _tcp.shop.default.example.org A            => NODATA
        _https._tcp.shop.default.example.org SRV   => NXDOMAIN
        web.default.example.org A                  => NXDOMAIN
        default.example.org A                      => NODATA
        nowhere.example.org A                      => NXDOMAIN
        dns.example.org A                          => NODATA
        ns1.dns.example.org A                      => 172.18.0.11
        example.org NS                             => ns1.dns.example.org + ns1.dns.example.org A 172.18.0.11
        example.org SOA                            => ns1.dns.example.org hostmaster.dns.example.org 0 7200 1800 86400 5
        9.113.0.203.in-addr.arpa PTR               => shop.default.example.org
        9.9.9.9.in-addr.arpa PTR                   => NXDOMAIN
        elsewhere.net A                            => next
        ";
    let external = External::new(&config(false, Fallthrough::Never), &[ip("172.18.0.11")]);
    let say =
        |external: &External, packet: &[u8]| external.say(&records, &Query::parse(packet).expect("a query"), None);
    check_with(rows, |packet| say(&external, packet));
    check_with("peers.default.example.org A => NXDOMAIN", |packet| say(&external, packet));
    let headless = External::new(&config(true, Fallthrough::Always), &[]);
    let rows = "
        peers.default.example.org A                => 10.244.1.6, 10.244.2.6
        p-0.peers.default.example.org AAAA         => fd00:10:244::6
        _db._tcp.peers.default.example.org SRV     => 0 100 5433 peers.default.example.org + peers.default.example.org A 10.244.1.6, peers.default.example.org A 10.244.2.6, peers.default.example.org AAAA fd00:10:244::6
        nobody.default.example.org A               => next
        ";
    check_with(rows, |packet| say(&headless, packet));
}

#[test]
fn a_port_of_two_transports_is_one_srv_and_one_of_two_names_is_found_by_both() {
    let udp = |name: &str, number| SlicePort { name: name.into(), proto: Proto::Udp, port: number };
    let mut dns = service("dns", ServiceKind::Headless, &[], &[]);
    let mut ports = slice("dns", "a", &[("dns-tcp", 53)], vec![at("10.244.3.3")]);
    if let (Fact::Service(..), Fact::Slice(_, Some(slice))) = (&mut dns, &mut ports) {
        slice.ports.push(udp("dns", 53));
    }
    check(
        &config(),
        &records(&[namespace("default"), dns, ports]),
        "
        dns.default~ SRV               => 0 50 53 10-244-3-3.dns.default~ + 10-244-3-3.dns.default~ A 10.244.3.3
        _dns._udp.dns.default~ SRV     => 0 100 53 10-244-3-3.dns.default~ + 10-244-3-3.dns.default~ A 10.244.3.3
        _dns-tcp._tcp.dns.default~ SRV => 0 100 53 10-244-3-3.dns.default~ + 10-244-3-3.dns.default~ A 10.244.3.3
        ",
    );
}

#[test]
fn the_short_way_says_what_the_whole_pipeline_says() {
    let site = super::site(records(&world()));
    let client = super::client(Transport::Udp);
    let mut out = Vec::new();
    for text in [
        "web.default~",
        "dual.default~",
        "peers.default~",
        "p-0.peers.default~",
        "_db._tcp.peers.default~",
        "inside.default~",
        "gone.default~",
        "nobody.default~",
        "default~",
        "cluster.local",
        "10-1-2-3.default.pod.cluster.local",
        "5.1.244.10.in-addr.arpa",
        "20.0.96.10.in-addr.arpa",
    ] {
        for rtype in ["A", "AAAA", "SRV", "PTR", "SOA", "NS", "TXT", "ANY"] {
            let packet = packet(&text.replace('~', ".svc.cluster.local"), rtype);
            let query = Query::parse(&packet).expect("a query");
            let decision = site.decide(&query, &client, std::time::Duration::ZERO);
            let Verdict::Reply(reply) = decision.verdict else { panic!("{text} {rtype} is the zones' to answer") };
            let now = site.answer_now(&packet, &client, std::time::Duration::ZERO, &mut out);
            assert_eq!(Seen::read(&out), Seen::read(&reply.render(&query, Transport::Udp)), "{text} {rtype}");
            let Now::Replied(served) = now else { panic!("{text} {rtype}: {now:?}") };
            assert_eq!(
                (served.rcode, served.head, served.by),
                (reply.rcode, decision.head, decision.by),
                "{text} {rtype}"
            );
        }
    }
}

#[test]
fn an_address_as_a_label_reads_back_as_itself() {
    for (addr, label) in [
        ("0.0.0.0", "0-0-0-0"),
        ("10.244.1.5", "10-244-1-5"),
        ("255.100.99.109", "255-100-99-109"),
        ("fd00:10:244::6", "fd00-10-244--6"),
        ("fd00:10:244::", "fd00-10-244--0"),
        ("::1", "--1"),
    ] {
        assert_eq!(crate::name::dashed(ip(addr)), label);
        assert_eq!(crate::name::undashed(label), Some(ip(addr)));
    }
    for label in ["10-244-1", "10-244-1-256", "010-1-1-1", "10.244.1.5", "p-0", ""] {
        assert_eq!(crate::name::undashed(label), None, "{label}");
    }
}
