//! The law: any order, split or doubling of events ends in the same zones as one reading from scratch; the zones answer
//! as the oracle does; and what one change costs.

use std::collections::BTreeMap;
use std::net::IpAddr;

use portolan_model::{
    Delta, EndpointFact, Fact, Facts, Family, NsName, Pod, Proto, Service, ServiceKind, ServicePortFact, Slice,
    SlicePort, Snapshot, resolve,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::oracle::{Expected, Flat, Modes, flat};
use super::{Seen, at, config, name, namespace, packet, port, reply, service, settings, slice, update};
use crate::corefile::config::{Fallthrough, KubernetesConfig, PodMode};
use crate::kubernetes::{Manner, View, Wrote};
use crate::plugin::Said;
use crate::records::{Found, Listing};
use crate::wire::Query;
use crate::{Records, Transport, answer};

const ADDRESSES: [&str; 8] = [
    "10.244.1.1",
    "10.244.1.2",
    "10.244.2.1",
    "10.96.0.10",
    "10.96.0.11",
    "fd00:10:244::1",
    "fd00:10:244::",
    "fd00:10:96::a",
];
const TARGETS: [&str; 6] = [
    "ylzhong.top",
    "web.default.svc.cluster.local",
    "db.default.svc.cluster.local.",
    "web.other.svc.cluster.local",
    "192.0.2.1",
    "10-244-1-1.other.pod.cluster.local",
];

fn addresses(most: usize) -> impl Strategy<Value = Vec<IpAddr>> {
    vec(select(&ADDRESSES[..]).prop_map(super::ip), 0..=most)
}

fn key() -> impl Strategy<Value = NsName> {
    (select(&["default", "other"][..]), select(&["web", "db"][..])).prop_map(|(ns, name)| NsName::new(ns, name))
}

fn proto() -> impl Strategy<Value = Proto> {
    select(&[Proto::Tcp, Proto::Udp][..])
}

fn kind() -> impl Strategy<Value = ServiceKind> {
    prop_oneof![
        3 => Just(ServiceKind::ClusterIp),
        3 => Just(ServiceKind::Headless),
        1 => Just(ServiceKind::NodePort),
        2 => select(&TARGETS[..]).prop_map(|target| ServiceKind::ExternalName(target.into())),
    ]
}

fn service_fact() -> impl Strategy<Value = Fact> {
    let port = (select(&["", "http", "dns"][..]), proto(), 1..4u16).prop_map(|(name, proto, port)| ServicePortFact {
        name: name.into(),
        proto,
        port,
        node_port: 0,
    });
    let spec = (kind(), addresses(2), vec(port, 0..3)).prop_map(|(kind, mut ips, ports)| {
        ips.sort();
        ips.dedup_by_key(|ip| ip.is_ipv4());
        let has_ips = !matches!(kind, ServiceKind::Headless | ServiceKind::ExternalName(_));
        Service { kind, cluster_ips: if has_ips { ips } else { Vec::new() }, ports, ..Service::default() }
    });
    (key(), prop::option::weighted(0.8, spec)).prop_map(|(key, spec)| Fact::Service(key, spec))
}

fn endpoint() -> impl Strategy<Value = EndpointFact> {
    let hostnames = select(&["", "", "h-0", "h-1", "10-244-1-1"][..]);
    let pods = select(&["", "pod-0", "pod-1", "h-0"][..]);
    let parts = (select(&ADDRESSES[..]), prop::bool::weighted(0.8), hostnames, pods);
    parts.prop_map(|(addr, ready, hostname, pod)| EndpointFact {
        ready,
        hostname: Some(hostname).filter(|text| !text.is_empty()).map(Into::into),
        pod: Some(pod).filter(|text| !text.is_empty()).map(|text| NsName::new("default", text)),
        ..at(addr)
    })
}

fn slice_fact() -> impl Strategy<Value = Fact> {
    let port = (select(&["", "http", "dns"][..]), proto(), 8000..8003u16).prop_map(|(name, proto, port)| SlicePort {
        name: name.into(),
        proto,
        port,
    });
    let slice = (key(), select(&Family::BOTH[..]), vec(port, 0..3), vec(endpoint(), 0..4)).prop_map(
        |(service, family, ports, mut endpoints)| {
            let pods = endpoints.iter_mut().filter_map(|endpoint: &mut EndpointFact| endpoint.pod.as_mut());
            pods.for_each(|pod| pod.namespace = service.namespace.clone());
            Slice { service, family, ports, endpoints }
        },
    );
    (select(&["s1", "s2", "s3"][..]), prop::option::weighted(0.8, slice))
        .prop_map(|(name, slice)| Fact::Slice(NsName::new("default", name), slice))
}

fn pod_fact() -> impl Strategy<Value = Fact> {
    let pod =
        (addresses(2), any::<bool>()).prop_map(|(addresses, finished)| Pod { addresses, finished, ..Pod::default() });
    (key(), prop::option::weighted(0.8, pod)).prop_map(|(key, pod)| Fact::Pod(key, pod))
}

const NAMESPACES: &[&[&str]] = &[&[], &["default"], &["other", "nowhere"]];

fn modes() -> impl Strategy<Value = Modes> {
    let pods = select(&[PodMode::Disabled, PodMode::Insecure, PodMode::Verified][..]);
    let namespaces = select(NAMESPACES);
    (namespaces, pods, any::<bool>(), prop::bool::weighted(0.2), prop::bool::weighted(0.3)).prop_map(
        |(namespaces, pods, pod_names, no_endpoints, ignore_empty)| Modes {
            namespaces: namespaces.to_vec(),
            pods,
            pod_names,
            no_endpoints,
            ignore_empty,
        },
    )
}

/// The view that a block with these modes asks for.
fn view(modes: &Modes) -> View {
    let config = KubernetesConfig {
        zones: ["cluster.local", "in-addr.arpa", "ip6.arpa"].map(name).to_vec(),
        namespaces: modes.namespaces.iter().map(|name| (*name).to_owned()).collect(),
        pods: modes.pods,
        endpoint_pod_names: modes.pod_names,
        ttl_secs: 5,
        no_endpoints: modes.no_endpoints,
        ignore_empty_service: modes.ignore_empty,
        startup_timeout: std::time::Duration::ZERO,
        fallthrough: Fallthrough::In(["in-addr.arpa", "ip6.arpa"].map(name).to_vec()),
    };
    View::new(&config, &settings().cluster_dns, &[])
}

fn event() -> impl Strategy<Value = Fact> {
    let namespace = (select(&["default", "other"][..]), prop::option::weighted(0.8, Just(())))
        .prop_map(|(name, value)| Fact::Namespace(name.into(), value));
    prop_oneof![1 => namespace, 4 => service_fact(), 4 => slice_fact(), 1 => pod_fact()]
}

/// The snapshot after all events, resolved at once.
fn scratch(events: &[Fact]) -> Snapshot {
    let mut facts = Facts::default();
    facts.apply_all(events.iter().cloned());
    resolve(&facts, &Snapshot::empty(settings()), &facts.all()).0
}

/// Feeds events in batches, updating after each.
fn incremental(batches: &[Vec<Fact>]) -> Records {
    let mut facts = Facts::default();
    let mut snapshot = Snapshot::empty(settings());
    let mut records = Records::new(config());
    for batch in batches {
        let touched = facts.apply_all(batch.iter().cloned());
        let (after, delta) = resolve(&facts, &snapshot, &touched);
        records.update(&after, &delta);
        snapshot = after;
    }
    records.mark_synced();
    records
}

/// The last word on each key, in reverse order of the keys.
fn last_words(events: &[Fact]) -> Vec<Fact> {
    let mut last: BTreeMap<String, Fact> = BTreeMap::new();
    for event in events {
        let key = match event {
            Fact::Namespace(key, _) => format!("namespace {key}"),
            Fact::Service(key, _) => format!("service {key}"),
            Fact::Slice(key, _) => format!("slice {key}"),
            Fact::Pod(key, _) => format!("pod {key}"),
            _ => continue,
        };
        last.insert(key, event.clone());
    }
    last.into_values().rev().collect()
}

fn state(records: &Records) -> (String, Vec<String>, Vec<String>) {
    let complaints = records.complaints().iter().map(|complaint| format!("{complaint:?}")).collect();
    let pods =
        ADDRESSES.iter().flat_map(|addr| records.pods_at(super::ip(addr)).map(move |pod| format!("{addr} {pod}")));
    (records.dump(), complaints, pods.collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_split_or_doubling_ends_in_the_same_zones(events in vec(event(), 0..24), size in 1..6usize) {
        let expected = state(&Records::from_snapshot(config(), &scratch(&events)));
        let one_by_one: Vec<Vec<Fact>> = events.iter().map(|event| vec![event.clone()]).collect();
        prop_assert_eq!(&state(&incremental(&one_by_one)), &expected);
        let doubled: Vec<Vec<Fact>> = one_by_one.iter().flat_map(|batch| [batch.clone(), Vec::new(), batch.clone()]).collect();
        prop_assert_eq!(&state(&incremental(&doubled)), &expected);
        let split: Vec<Vec<Fact>> = events.chunks(size).map(<[Fact]>::to_vec).collect();
        prop_assert_eq!(&state(&incremental(&split)), &expected);
        let last = last_words(&events);
        let reversed: Vec<Vec<Fact>> = last.iter().map(|event| vec![event.clone()]).collect();
        prop_assert_eq!(&state(&incremental(&reversed)), &expected);
        let mut late = one_by_one;
        late.reverse();
        late.extend(reversed);
        prop_assert_eq!(&state(&incremental(&late)), &expected);
    }

    #[test]
    fn the_zones_answer_as_the_oracle_does(events in vec(event(), 0..24), modes in modes()) {
        let snapshot = scratch(&events);
        let (records, flat) = (Records::from_snapshot(config(), &snapshot), flat(&snapshot, &modes));
        let view = view(&modes);
        for name in interesting(&flat) {
            for rtype in TYPES {
                judge(&view, &records, &flat, &name, rtype)?;
            }
        }
    }

    #[test]
    fn what_is_listed_is_what_is_answered(events in vec(event(), 0..24), modes in modes()) {
        let records = Records::from_snapshot(config(), &scratch(&events));
        let view = view(&modes);
        let listing = Listing::of(&view, &records);
        for node in listing.nodes() {
            let text = node.owner.to_string();
            prop_assert_eq!(view.find(&records, &node.owner), Found::Node(node.clone()));
            for rtype in TYPES.into_iter().filter(|rtype| node.set(crate::Rtype::CNAME).is_none() || *rtype == "CNAME") {
                let listed = node.set(crate::Rtype::parse(rtype).expect("a type"));
                let mut lines: Vec<String> = listed.iter().flat_map(|set| set.data.iter().map(|data| {
                    format!("{text} {} {rtype} {data}", listed.map_or(0, |set| set.ttl_secs)).replace(". ", " ").trim_end_matches('.').to_owned()
                })).collect();
                lines.sort();
                let Wrote::Reply(_) = written(&view, &records, &packet(&text, rtype), 65_535).0 else {
                    return Err(TestCaseError::fail(format!("{text} is listed and not answered")));
                };
                prop_assert_eq!(Seen::read(&written(&view, &records, &packet(&text, rtype), 65_535).1).answers, lines);
            }
        }
    }
}

const TYPES: [&str; 8] = ["A", "AAAA", "SRV", "PTR", "CNAME", "TXT", "MX", "NS"];

fn written(view: &View, records: &Records, packet: &[u8], limit: usize) -> (Wrote, Vec<u8>) {
    let query = Query::parse(packet).expect("a query");
    let mut out = Vec::new();
    (view.write(records, &query, Manner { limit, turn: Some(query.id) }, &mut out), out)
}

/// Every owner, every name above one, and a name that is not there beside each.
fn interesting(flat: &Flat) -> Vec<String> {
    let mut names: Vec<String> =
        flat.records.iter().map(|(owner, _, _)| owner.clone()).chain(flat.bare.clone()).collect();
    names.extend(
        ["10-244-1-1.default.pod.cluster.local", "fd00--1.other.pod.cluster.local", "a.b.cluster.local"]
            .map(String::from),
    );
    names.extend(["web.default.svc.cluster.local", "db.other.svc.cluster.local", "example.com"].map(String::from));
    names.extend(ADDRESSES.iter().map(|addr| super::oracle::reverse_name(super::ip(addr))));
    let above: Vec<String> =
        names.iter().filter_map(|name| name.split_once('.')).map(|(_, rest)| rest.to_string()).collect();
    let beside: Vec<String> = names.iter().map(|name| format!("_x.{name}")).collect();
    names.extend(above);
    names.extend(beside);
    names.sort();
    names.dedup();
    names
}

fn judge(view: &View, records: &Records, flat: &Flat, text: &str, rtype: &str) -> Result<(), TestCaseError> {
    let expected = flat.answer(text, rtype);
    let packet = packet(text, rtype);
    let (wrote, bytes) = written(view, records, &packet, 65_535);
    let got = match wrote {
        Wrote::Next => Expected::Forward,
        Wrote::Alias(chain) => {
            let target = chain.last().map(|alias| alias.target.to_string()).unwrap_or_default();
            Expected::Chase(target.trim_end_matches('.').into())
        }
        Wrote::Reply(rcode) => {
            let seen = Seen::read(&bytes);
            prop_assert_eq!(rcode.to_string(), seen.rcode.as_str());
            let negative = seen.answers.is_empty();
            prop_assert_eq!(
                seen.authority.len(),
                usize::from(negative),
                "SOA with an absence only: {} {}",
                text,
                rtype
            );
            let code = if seen.rcode == "NXDOMAIN" { "NXDOMAIN" } else { "NOERROR" };
            Expected::Reply(code, seen.answers.iter().map(|line| without_ttl(line)).collect())
        }
    };
    prop_assert_eq!(&got, &expected, "{} {}", text, rtype);
    said_alike(view, records, &packet)?;
    cut_right(view, records, &packet)
}

/// As a value that others may change, the answer is the same.
fn said_alike(view: &View, records: &Records, packet: &[u8]) -> Result<(), TestCaseError> {
    let query = Query::parse(packet).expect("a query");
    let (wrote, bytes) = written(view, records, packet, 65_535);
    match (view.say(records, &query, Some(query.id)), wrote) {
        (Said::Reply(reply), Wrote::Reply(_)) => {
            prop_assert_eq!(Seen::read(&reply.render(&query, Transport::Tcp)), Seen::read(&bytes));
        }
        (Said::Alias(said), Wrote::Alias(wrote)) => prop_assert_eq!(said, wrote),
        (Said::Next, Wrote::Next) => {}
        (said, wrote) => return Err(TestCaseError::fail(format!("{said:?}, but {wrote:?}"))),
    }
    Ok(())
}

/// However little room there is, a reply keeps to it, and TC says exactly whether answers or authority are missing.
fn cut_right(view: &View, records: &Records, packet: &[u8]) -> Result<(), TestCaseError> {
    let (Wrote::Reply(_), bytes) = written(view, records, packet, 65_535) else { return Ok(()) };
    let whole = Seen::read(&bytes);
    for limit in [packet.len(), packet.len() + 30, packet.len() + 100, 512, bytes.len()] {
        let bytes = written(view, records, packet, limit).1;
        prop_assert!(bytes.len() <= limit, "{} bytes of {}", bytes.len(), limit);
        let cut = Seen::read(&bytes);
        let is_whole = (cut.answers.len(), cut.authority.len()) == (whole.answers.len(), whole.authority.len());
        prop_assert_eq!(!is_whole, cut.flags.contains("tc"));
        prop_assert!(is_whole || cut.additional.is_empty());
    }
    Ok(())
}

fn without_ttl(line: &str) -> String {
    let mut words: Vec<&str> = line.split(' ').collect();
    words.remove(1);
    words.join(" ")
}

#[test]
fn one_endpoint_among_a_thousand_services_touches_that_services_names_only() {
    let mut facts = Facts::default();
    facts.apply(namespace("default"));
    for number in 0..1000u32 {
        let (web, ip) = (format!("svc-{number}"), format!("10.97.{}.{}", number / 250, number % 250 + 1));
        facts.apply(service(&web, ServiceKind::ClusterIp, &[&ip], &[port("http", 80)]));
        let endpoint = format!("10.244.{}.{}", number / 250, number % 250 + 1);
        facts.apply(slice(&web, "a", &[("http", 8080)], vec![at(&endpoint)]));
    }
    let (before, delta) = resolve(&facts, &Snapshot::empty(settings()), &facts.all());
    let mut records = Records::new(config());
    let all = records.update(&before, &delta);
    assert_eq!(all.written, 2000, "each Service and its endpoint");
    let event = slice("svc-500", "a", &[("http", 8080)], vec![at("10.244.2.1"), at("10.244.9.9")]);
    let (_, changes) = update(&mut records, &before, &mut facts, event);
    assert_eq!(changes.services, [NsName::new("default", "svc-500")]);
    assert_eq!(changes.written, 2, "the Service, one endpoint");
}

#[test]
fn a_clone_goes_on_answering_as_before_an_update() {
    let mut facts = Facts::default();
    facts.apply(namespace("default"));
    let before = Snapshot::empty(settings());
    let mut records = Records::new(config());
    let old = records.clone();
    let event = service("web", ServiceKind::ClusterIp, &["10.96.0.20"], &[]);
    update(&mut records, &before, &mut facts, event);
    assert_ne!(old.dump(), records.dump());
    assert!(!old.dump().contains("web"));
}

#[test]
fn an_update_that_changes_nothing_changes_no_name() {
    let snapshot =
        super::snapshot(&[namespace("default"), service("web", ServiceKind::ClusterIp, &["10.96.0.20"], &[])]);
    let mut records = Records::from_snapshot(config(), &snapshot);
    let changes = records.update(&snapshot, &Delta::all(&snapshot));
    assert!(changes.is_empty(), "{changes:?}");
    let bytes = reply(answer(&records, &packet("web.default.svc.cluster.local", "A"), Transport::Udp));
    assert_eq!(Seen::read(&bytes).answers.len(), 1);
}
