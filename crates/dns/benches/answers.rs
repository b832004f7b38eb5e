//! How long an answer takes, by kind of question, with 10,000 Services; and what one changed endpoint among 5,000 costs.
//!
//! `cargo bench -p portolan-dns --bench answers`. Prints the best of many passes in nanoseconds a query: neighbours on the
//! machine make a pass slower, never faster.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use portolan_dns::kubernetes::{Manner, Wrote};
use portolan_dns::site::{Now, Surroundings};
use portolan_dns::wire::{self, Query};
use portolan_dns::{Client, Corefile, Name, Pods, Records, Rtype, Setup, Site, Transport, ZoneConfig};
use portolan_model::{
    EndpointFact, Fact, Facts, Family, NsName, Proto, Service, ServiceKind, ServicePortFact, Settings, Slice,
    SlicePort, Snapshot, resolve,
};

const SERVICES: u32 = 10_000;
const PASSES: usize = 40;

fn main() {
    let facts = cluster();
    let snapshot = resolve(&facts, &Snapshot::empty(settings()), &facts.all()).0;
    let config = ZoneConfig::from_settings(&settings()).expect("cluster.local is a name");
    let started = Instant::now();
    let records = Records::from_snapshot(config.clone(), &snapshot);
    println!("{SERVICES} Services with 2 endpoints each taken in {:?}", started.elapsed());
    let zone = Name::parse("cluster.local").expect("two labels");
    let corefile = Corefile::shipped(&zone, 30, "/etc/resolv.conf");
    let site = Site::new(Arc::new(Setup::new(corefile, &Surroundings::default())), records.clone(), Pods::default());
    /// What it is called, its n-th name, its type.
    type Kind<'a> = (&'static str, &'a dyn Fn(u32) -> String, Rtype);
    let questions: [Kind<'_>; 9] = [
        ("A of a ClusterIP", &|n| format!("svc-{n}.ns-{}.svc.cluster.local", n % 100), Rtype::A),
        ("AAAA of it: NODATA", &|n| format!("svc-{n}.ns-{}.svc.cluster.local", n % 100), Rtype::AAAA),
        ("no such Service", &|n| format!("nobody-{n}.ns-{}.svc.cluster.local", n % 100), Rtype::A),
        ("a search list's step", &|n| format!("www.example-{n}.com.ns-1.svc.cluster.local"), Rtype::A),
        ("SRV of a port", &|n| format!("_http._tcp.svc-{n}.ns-{}.svc.cluster.local", n % 100), Rtype::SRV),
        ("A of an endpoint", &|n| format!("{}.svc-{n}.ns-{}.svc.cluster.local", dashed(n), n % 100), Rtype::A),
        ("A of 5 endpoints", &|n| format!("small-{}.ns-0.svc.cluster.local", n % 100), Rtype::A),
        ("SRV of 5 endpoints", &|n| format!("_http._tcp.small-{}.ns-0.svc.cluster.local", n % 100), Rtype::SRV),
        ("PTR", &|n| Name::reverse(endpoint(n, 0)).to_string(), Rtype::PTR),
    ];
    for (what, name, rtype) in questions {
        let packets: Vec<Vec<u8>> = (0..SERVICES).map(|n| packet(&name(n * 7 % SERVICES), rtype)).collect();
        let (view, whole) = (answer_all(&records, &packets), answer_site(&site, &packets));
        println!("{what:24} {view:>6.0} ns by the view, {whole:>6.0} ns by the site");
    }
    change_one(&config);
}

/// Best of all passes, in nanoseconds a query.
fn answer_all(records: &Records, packets: &[Vec<u8>]) -> f64 {
    let mut out = Vec::with_capacity(512);
    let mut best = Duration::MAX;
    for _ in 0..PASSES {
        let started = Instant::now();
        for packet in packets {
            let query = Query::parse(black_box(packet)).expect("a query");
            let manner = Manner { limit: 512, turn: Some(query.id) };
            let wrote = records.view().write(records, &query, manner, &mut out);
            assert!(matches!(black_box(wrote), Wrote::Reply(_)));
        }
        best = best.min(started.elapsed());
    }
    best.as_nanos() as f64 / packets.len() as f64
}

/// As [`answer_all`], of the whole path of a packet through the configuration that Portolan comes with.
fn answer_site(site: &Site, packets: &[Vec<u8>]) -> f64 {
    let client = Client {
        addr: "10.244.0.9:40000".parse().expect("an address"),
        local: "10.96.0.10:53".parse().expect("an address"),
        transport: Transport::Udp,
        link: 0,
    };
    let mut out = Vec::with_capacity(512);
    let mut best = Duration::MAX;
    for _ in 0..PASSES {
        let started = Instant::now();
        for packet in packets {
            let now = site.answer_now(black_box(packet), &client, Duration::ZERO, &mut out);
            assert!(matches!(black_box(now), Now::Replied(_)));
        }
        best = best.min(started.elapsed());
    }
    best.as_nanos() as f64 / packets.len() as f64
}

/// One endpoint of 5,000 goes and comes, while another clone of the records is held, as a server that answers does.
fn change_one(config: &ZoneConfig) {
    let key = NsName::new("ns-0", "big");
    let world = |count: u32| {
        let mut facts = Facts::default();
        facts.apply(Fact::Service(key.clone(), Some(service(ServiceKind::Headless, &[]))));
        let endpoints = (0..count).map(|n| EndpointFact::ready_at(Ipv4Addr::from(0x0a80_0000 + n).into())).collect();
        facts.apply(Fact::Slice(NsName::new("ns-0", "big-1"), Some(slice(&key, endpoints))));
        facts
    };
    let (facts, fewer) = (world(5000), world(4999));
    let whole = resolve(&facts, &Snapshot::empty(settings()), &facts.all());
    let less = resolve(&fewer, &Snapshot::empty(settings()), &fewer.all());
    let mut records = Records::from_snapshot(config.clone(), &whole.0);
    let mut best = Duration::MAX;
    for pass in 0..400 {
        let held = records.clone();
        let (snapshot, delta) = if pass % 2 == 0 { &less } else { &whole };
        let started = Instant::now();
        let changes = records.update(snapshot, delta);
        best = best.min(started.elapsed());
        assert_eq!(changes.written, 2);
        drop(black_box(held));
    }
    println!("one endpoint of 5,000 changed in {best:?}");
}

fn settings() -> Arc<Settings> {
    Arc::new(Settings {
        node: "node-1".into(),
        cluster_cidrs: Vec::new(),
        service_cidrs: Vec::new(),
        cluster_dns: Vec::new(),
        cluster_domain: "cluster.local".into(),
        proxy: Default::default(),
    })
}

fn cluster() -> Facts {
    let mut facts = Facts::default();
    for n in 0..100 {
        facts.apply(Fact::Namespace(format!("ns-{n}").into(), Some(())));
        let key = NsName::new("ns-0", format!("small-{n}"));
        facts.apply(Fact::Service(key.clone(), Some(service(ServiceKind::Headless, &[]))));
        let endpoints = (0..5).map(|place| EndpointFact::ready_at(endpoint(SERVICES + n, place))).collect();
        facts.apply(Fact::Slice(NsName::new("ns-0", format!("small-{n}-1")), Some(slice(&key, endpoints))));
    }
    for n in 0..SERVICES {
        let key = NsName::new(format!("ns-{}", n % 100), format!("svc-{n}"));
        let ip = Ipv4Addr::from(0x0a60_0000 + n).into();
        facts.apply(Fact::Service(key.clone(), Some(service(ServiceKind::ClusterIp, &[ip]))));
        let endpoints = (0..2).map(|place| EndpointFact::ready_at(endpoint(n, place))).collect();
        facts.apply(Fact::Slice(
            NsName::new(key.namespace.clone(), format!("{}-1", key.name)),
            Some(slice(&key, endpoints)),
        ));
    }
    facts
}

fn service(kind: ServiceKind, cluster_ips: &[IpAddr]) -> Service {
    let port = ServicePortFact { name: "http".into(), proto: Proto::Tcp, port: 80, node_port: 0 };
    Service { kind, cluster_ips: cluster_ips.to_vec(), ports: vec![port], ..Service::default() }
}

fn slice(service: &NsName, endpoints: Vec<EndpointFact>) -> Slice {
    let ports = vec![SlicePort { name: "http".into(), proto: Proto::Tcp, port: 8080 }];
    Slice { service: service.clone(), family: Family::V4, ports, endpoints }
}

fn endpoint(service: u32, place: u32) -> IpAddr {
    Ipv4Addr::from(0x0af4_0000 + service * 5 + place).into()
}

fn dashed(service: u32) -> String {
    portolan_dns::name::dashed(endpoint(service, 0))
}

fn packet(name: &str, rtype: Rtype) -> Vec<u8> {
    wire::ask(7, &wire::question(&Name::parse(name).expect("a name"), rtype), false, None)
}
