//! What the records weigh, counted by the allocator: bytes of a Service and of an endpoint, what a change allocates, and
//! that the usual answer allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use portolan_dns::kubernetes::{Manner, Wrote};
use portolan_dns::wire::{self, Query};
use portolan_dns::{Name, Records, Rtype, ZoneConfig};
use portolan_model::{
    Delta, EndpointFact, Fact, Facts, Family, NsName, Proto, Service, ServiceKind, ServicePortFact, Settings, Slice,
    SlicePort, Snapshot, resolve,
};

/// Counts what this thread allocates, and what of it is still there.
struct Counting;

thread_local! {
    static LIVE: Cell<i64> = const { Cell::new(0) };
    static ALLOCATED: Cell<i64> = const { Cell::new(0) };
}

// SAFETY: every call goes on to the system's allocator as it came; the counters are plain cells of this thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.set(LIVE.get() + layout.size() as i64);
        ALLOCATED.set(ALLOCATED.get() + layout.size() as i64);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get() - layout.size() as i64);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes that `work` left behind, bytes that it allocated, and what it gave.
fn counted<T>(work: impl FnOnce() -> T) -> (i64, i64, T) {
    let (live, allocated) = (LIVE.get(), ALLOCATED.get());
    let value = work();
    (LIVE.get() - live, ALLOCATED.get() - allocated, value)
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

fn config() -> ZoneConfig {
    ZoneConfig::from_settings(&settings()).expect("cluster.local is a name")
}

fn snapshot(facts: &Facts) -> (Snapshot, Delta) {
    resolve(facts, &Snapshot::empty(settings()), &facts.all())
}

fn service(kind: ServiceKind, cluster_ips: Vec<IpAddr>) -> Service {
    let port = ServicePortFact { name: "http".into(), proto: Proto::Tcp, port: 80, node_port: 0 };
    Service { kind, cluster_ips, ports: vec![port], ..Service::default() }
}

/// A Service of `count` endpoints from `first` on; without a ClusterIP it is headless.
fn put(facts: &mut Facts, key: &NsName, ip: Option<u32>, first: u32, count: u32, hostnames: bool) {
    let cluster_ips: Vec<IpAddr> = ip.map(|ip| Ipv4Addr::from(ip).into()).into_iter().collect();
    let kind = if ip.is_some() { ServiceKind::ClusterIp } else { ServiceKind::Headless };
    facts.apply(Fact::Service(key.clone(), Some(service(kind, cluster_ips))));
    let endpoint = |n: u32| EndpointFact {
        hostname: hostnames.then(|| format!("pod-{n}").into()),
        pod: Some(NsName::new(key.namespace.clone(), format!("pod-{n}"))),
        ..EndpointFact::ready_at(Ipv4Addr::from(first + n).into())
    };
    let ports = vec![SlicePort { name: "http".into(), proto: Proto::Tcp, port: 8080 }];
    let endpoints = (0..count).map(endpoint).collect();
    let slice = Slice { service: key.clone(), family: Family::V4, ports, endpoints };
    facts.apply(Fact::Slice(NsName::new(key.namespace.clone(), format!("{}-1", key.name)), Some(slice)));
}

/// Services `svc-N` in 100 namespaces, with so many endpoints each.
fn cluster(services: u32, endpoints: u32) -> Facts {
    let mut facts = Facts::default();
    for n in 0..100 {
        facts.apply(Fact::Namespace(format!("ns-{n}").into(), Some(())));
    }
    for n in 0..services {
        let key = NsName::new(format!("ns-{}", n % 100), format!("svc-{n}"));
        put(&mut facts, &key, Some(0x0a60_0000 + n), 0x0af4_0000 + n * endpoints, endpoints, false);
    }
    facts
}

fn weight(services: u32, endpoints: u32) -> i64 {
    let (snapshot, _) = snapshot(&cluster(services, endpoints));
    let (live, _, records) = counted(|| Records::from_snapshot(config(), &snapshot));
    assert_eq!(records.len(), services as usize);
    live
}

#[test]
fn ten_thousand_services_of_two_endpoints_weigh_less_than_eight_megabytes() {
    let bytes = weight(10_000, 2);
    assert!(bytes < 8_000_000, "{bytes} bytes");
    let of_endpoint = (weight(1000, 22) - weight(1000, 2)) / 20_000;
    assert!(of_endpoint < 200, "{of_endpoint} bytes an endpoint");
    let of_service = weight(10_000, 0) / 10_000;
    assert!(of_service < 600, "{of_service} bytes a Service");
    println!("{bytes} bytes; {of_service} a Service, {of_endpoint} an endpoint");
}

#[test]
fn one_endpoint_of_five_thousand_allocates_less_than_a_megabyte_with_hostnames_and_without() {
    for hostnames in [false, true] {
        let key = NsName::new("ns-0", "big");
        let world = |count: u32| {
            let mut facts = cluster(100, 2);
            put(&mut facts, &key, None, 0x0a80_0000, count, hostnames);
            snapshot(&facts).0
        };
        let (whole, less) = (world(5000), world(4999));
        let mut records = Records::from_snapshot(config(), &whole);
        let held = records.clone();
        let delta = Delta { services: [key.clone()].into(), ..Delta::default() };
        let (_, allocated, changes) = counted(|| records.update(&less, &delta));
        assert_eq!(changes.written, 2, "the Service and one endpoint");
        assert!(allocated < 100_000, "{allocated} bytes");
        println!("{allocated} bytes for one endpoint of 5,000, hostnames: {hostnames}");
        drop(held);
    }
}

#[test]
fn the_usual_answer_allocates_nothing() {
    let mut facts = cluster(100, 2);
    put(&mut facts, &NsName::new("ns-0", "small"), None, 0x0a80_0000, 5, true);
    let records = Records::from_snapshot(config(), &snapshot(&facts).0);
    let mut out = Vec::with_capacity(1232);
    for (name, rtype) in [
        ("svc-7.ns-7.svc.cluster.local", Rtype::A),
        ("svc-7.ns-7.svc.cluster.local", Rtype::AAAA),
        ("nobody.ns-7.svc.cluster.local", Rtype::A),
        ("www.example.com.ns-7.svc.cluster.local", Rtype::A),
        ("ns-7.svc.cluster.local", Rtype::A),
        ("_http._tcp.svc-7.ns-7.svc.cluster.local", Rtype::SRV),
        ("10-244-0-14.svc-7.ns-7.svc.cluster.local", Rtype::A),
        ("small.ns-0.svc.cluster.local", Rtype::A),
        ("_http._tcp.small.ns-0.svc.cluster.local", Rtype::SRV),
        ("pod-3.small.ns-0.svc.cluster.local", Rtype::A),
        ("10-1-2-3.ns-0.pod.cluster.local", Rtype::A),
        ("7.0.96.10.in-addr.arpa", Rtype::PTR),
        ("14.0.244.10.in-addr.arpa", Rtype::PTR),
    ] {
        let packet = wire::ask(7, &wire::question(&Name::parse(name).expect("a name"), rtype), false, None);
        let query = Query::parse(&packet).expect("a query");
        let manner = Manner { limit: 1232, turn: Some(3) };
        let (_, allocated, wrote) = counted(|| records.view().write(&records, &query, manner, &mut out));
        assert!(matches!(wrote, Wrote::Reply(_)), "{name}: {wrote:?}");
        assert_eq!(allocated, 0, "{name} {rtype}");
    }
}
