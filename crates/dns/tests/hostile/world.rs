//! A cluster to ask about, and a corpus of good queries and good replies. What is written here is written by the `domain`
//! crate: none of it is our own work.

use std::net::IpAddr;
use std::sync::Arc;

use domain::base::iana::{Class, Rcode, Rtype};
use domain::base::name::Name;
use domain::base::{MessageBuilder, Record, Ttl, UnknownRecordData};
use domain::rdata::{A, Aaaa, Cname, Mx, Ns, Ptr, Soa, Srv, Txt};
use portolan_dns::{Records, ZoneConfig};
use portolan_model::{
    EndpointFact, Fact, Facts, Family, NsName, Proto, Service, ServiceKind, ServicePortFact, Settings, Slice,
    SlicePort, Snapshot, resolve,
};

pub fn records() -> Records {
    let settings = Arc::new(Settings {
        node: "node-1".into(),
        cluster_cidrs: vec!["10.244.0.0/16".parse().expect("a range")],
        service_cidrs: vec!["10.96.0.0/12".parse().expect("a range")],
        cluster_dns: vec![ip("10.96.0.10")],
        cluster_domain: "cluster.local".into(),
        proxy: Default::default(),
    });
    let mut facts = Facts::default();
    let touched = facts.apply_all(objects());
    let (snapshot, _) = resolve(&facts, &Snapshot::empty(settings.clone()), &touched);
    Records::from_snapshot(ZoneConfig::from_settings(&settings).expect("cluster.local is a name"), &snapshot)
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn objects() -> Vec<Fact> {
    let port = ServicePortFact { name: "http".into(), proto: Proto::Tcp, port: 80, node_port: 0 };
    let service = |name: &str, kind: ServiceKind, ips: &[&str]| {
        let cluster_ips = ips.iter().map(|text| ip(text)).collect();
        let spec = Service { kind, cluster_ips, ports: vec![port.clone()], ..Service::default() };
        Fact::Service(NsName::new("default", name), Some(spec))
    };
    let endpoints = (1..=200u8).map(|n| EndpointFact::ready_at(ip(&format!("10.244.1.{n}")))).collect();
    let ports = vec![SlicePort { name: "http".into(), proto: Proto::Tcp, port: 8080 }];
    let slice = Slice { service: NsName::new("default", "big"), family: Family::V4, ports, endpoints };
    vec![
        Fact::Namespace("default".into(), Some(())),
        service("web", ServiceKind::ClusterIp, &["10.96.1.1", "fd00:10:96::1"]),
        service("big", ServiceKind::Headless, &[]),
        service("away", ServiceKind::ExternalName("www.example.org".into()), &[]),
        service("inner", ServiceKind::ExternalName("web.default.svc.cluster.local".into()), &[]),
        service("loop", ServiceKind::ExternalName("loop.default.svc.cluster.local".into()), &[]),
        Fact::Slice(NsName::new("default", "big-a"), Some(slice)),
    ]
}

const NAMES: [(&str, &str); 28] = [
    ("web.default.svc.cluster.local", "A"),
    ("WEB.default.svc.CLUSTER.local", "AAAA"),
    ("big.default.svc.cluster.local", "A"),
    ("_http._tcp.big.default.svc.cluster.local", "SRV"),
    ("10-244-1-7.big.default.svc.cluster.local", "A"),
    ("10-1-2-3.default.pod.cluster.local", "A"),
    ("fd00--1.default.pod.cluster.local", "AAAA"),
    ("away.default.svc.cluster.local", "A"),
    ("inner.default.svc.cluster.local", "A"),
    ("loop.default.svc.cluster.local", "A"),
    ("1.1.96.10.in-addr.arpa", "PTR"),
    ("dns-version.cluster.local", "TXT"),
    ("cluster.local", "NS"),
    ("cluster.local", "AXFR"),
    ("nothing.default.svc.cluster.local", "ANY"),
    ("www.example.org", "HTTPS"),
    // What `everything.Corefile` has plugins for.
    ("www.example.org", "A"),
    ("www.example.org", "MX"),
    ("60.2.0.192.in-addr.arpa", "PTR"),
    ("web.old.example", "A"),
    ("web.new.example", "AAAA"),
    ("ip-7-9.tpl.example", "A"),
    ("ip-7-9.tpl.example", "TXT"),
    ("web.default.ext.example", "A"),
    ("ext.example", "SOA"),
    ("www.limited.example", "A"),
    ("localhost.default.svc.cluster.local", "A"),
    ("web.default.svc.cluster.local.default.svc.cluster.local", "A"),
];

pub fn name(text: &str) -> Name<Vec<u8>> {
    text.parse().expect("a name")
}

/// Queries as clients send them, with and without EDNS.
pub fn queries() -> Vec<Vec<u8>> {
    let sizes = [None, Some(512), Some(1232), Some(4096)];
    let asked = NAMES.iter().flat_map(|(name, rtype)| sizes.map(|size| (*name, *rtype, size)));
    asked.enumerate().map(|(id, (name, rtype, size))| query(id as u16 + 1, name, rtype, size)).collect()
}

pub fn query(id: u16, text: &str, rtype: &str, size: Option<u16>) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(id);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    builder.push((name(text), rtype.parse::<Rtype>().expect("a type"), Class::IN)).expect("room");
    let mut builder = builder.additional();
    if let Some(size) = size {
        let set = |opt: &mut domain::base::message_builder::OptBuilder<'_, Vec<u8>>| {
            opt.set_udp_payload_size(size);
            Ok(())
        };
        builder.opt(set).expect("room");
    }
    builder.finish()
}

/// Replies as upstreams send them, compressed, of every type that has names in its data and some that have not.
pub fn replies() -> Vec<Vec<u8>> {
    (0..12u16).map(|kind| reply(kind + 1, kind)).collect()
}

fn reply(id: u16, kind: u16) -> Vec<u8> {
    let target = domain::base::TreeCompressor::new(Vec::new());
    let mut builder = MessageBuilder::from_target(target).expect("room");
    builder.header_mut().set_id(id);
    builder.header_mut().set_qr(true);
    builder.header_mut().set_rcode(if kind == 11 { Rcode::NXDOMAIN } else { Rcode::NOERROR });
    let asked = name("www.example.org");
    let mut builder = builder.question();
    builder.push((&asked, Rtype::A, Class::IN)).expect("room");
    let mut builder = builder.answer();
    let ttl = Ttl::from_secs(300);
    let further = name("a.very.long.alias.of.some.host.example.org");
    let done = match kind {
        0 => builder.push((&asked, ttl, A::new([192, 0, 2, 1].into()))),
        1 => (0..60u8).try_for_each(|n| builder.push((&asked, ttl, A::new([192, 0, 2, n].into())))),
        2 => builder
            .push((&asked, ttl, Cname::new(&further)))
            .and_then(|()| builder.push((&further, ttl, A::new([192, 0, 2, 2].into())))),
        3 => builder.push((&asked, ttl, Aaaa::new("2001:db8::1".parse().expect("an address")))),
        4 => builder.push((&asked, ttl, Mx::new(10, &further))),
        5 => builder.push((&asked, ttl, Srv::new(0, 1, 443, &further))),
        6 => builder.push((&asked, ttl, Txt::<Vec<u8>>::build_from_slice(&[b'x'; 700]).expect("a text"))),
        7 => builder.push((&asked, ttl, Ptr::new(&further))),
        8 => builder.push((&asked, ttl, Ns::new(&further))),
        9 => {
            let raw = UnknownRecordData::from_octets(Rtype::RRSIG, vec![7; 90]).expect("data");
            builder.push(Record::new(&asked, Class::IN, ttl, raw))
        }
        _ => Ok(()),
    };
    done.expect("room");
    let mut builder = builder.authority();
    let soa = Soa::new(name("ns.example.org"), name("host.example.org"), 7.into(), ttl, ttl, ttl, ttl);
    builder.push((name("example.org"), ttl, soa)).expect("room");
    let mut builder = builder.additional();
    builder.push((&further, ttl, A::new([192, 0, 2, 9].into()))).expect("room");
    builder
        .opt(|opt| {
            opt.set_udp_payload_size(1232);
            Ok(())
        })
        .expect("room");
    builder.finish().into_target()
}
