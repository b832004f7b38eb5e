//! Worlds, packets and a reader for this room's tests: the one place that calls the API under test. Replies are read
//! with `domain`, so that what we write is judged by somebody else's reader.

mod answers;
mod asking;
mod kept;
mod law;
mod many;
mod oracle;
mod order;
mod packets;
mod pipeline;
mod play;
mod table;
mod transfer;
mod upstream_files;

use std::net::IpAddr;
use std::sync::Arc;

use domain::base::{Message, ParsedName, RecordSection};
use domain::rdata::AllRecordData;
use portolan_model::{
    Delta, EndpointFact, Fact, Facts, Family, NsName, Proto, Service, ServiceKind, ServicePortFact, Settings, Slice,
    SlicePort, Snapshot, resolve,
};

use crate::site::Surroundings;
use crate::wire::{Edns, ask};
use crate::{Client, Corefile, Name, Outcome, Pods, Records, Rtype, Setup, Site, Transport, ZoneConfig, answer};

pub const ID: u16 = 0x0a00;

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address in a test")
}

pub fn name(text: &str) -> Name {
    Name::parse(text).expect("a name in a test")
}

pub fn settings() -> Arc<Settings> {
    Arc::new(Settings {
        node: "node-1".into(),
        cluster_cidrs: vec!["10.244.0.0/16".parse().expect("a range"), "fd00:10:244::/56".parse().expect("a range")],
        service_cidrs: vec!["10.96.0.0/12".parse().expect("a range"), "fd00:10:96::/112".parse().expect("a range")],
        cluster_dns: vec![ip("10.96.0.10")],
        cluster_domain: "cluster.local".into(),
        proxy: Default::default(),
    })
}

pub fn config() -> ZoneConfig {
    ZoneConfig::from_settings(&settings()).expect("cluster.local is a name")
}

pub fn snapshot(facts: &[Fact]) -> Snapshot {
    let mut all = Facts::default();
    let touched = all.apply_all(facts.iter().cloned());
    resolve(&all, &Snapshot::empty(settings()), &touched).0
}

pub fn records(facts: &[Fact]) -> Records {
    Records::from_snapshot(config(), &snapshot(facts))
}

/// What a node of [`settings`] prepares a configuration with.
pub fn surroundings() -> Surroundings {
    let settings = settings();
    let ranges = settings.cluster_cidrs.iter().chain(&settings.service_cidrs).copied().collect();
    Surroundings { own: settings.cluster_dns.clone(), ranges, seed: 7, ..Surroundings::default() }
}

/// A site of `records` with the configuration that Portolan comes with.
pub fn site(records: Records) -> Site {
    let corefile = Corefile::shipped(&name("cluster.local"), 30, "/etc/resolv.conf");
    Site::new(Arc::new(Setup::new(corefile, &surroundings())), records, Pods::default())
}

pub fn client(transport: Transport) -> Client {
    Client { addr: (ip("10.244.1.5"), 40_000).into(), local: (ip("10.96.0.10"), 53).into(), transport, link: 0 }
}

pub fn namespace(name: &str) -> Fact {
    Fact::Namespace(name.into(), Some(()))
}

pub fn port(name: &str, port: u16) -> ServicePortFact {
    ServicePortFact { name: name.into(), proto: Proto::Tcp, port, node_port: 0 }
}

pub fn service(name: &str, kind: ServiceKind, ips: &[&str], ports: &[ServicePortFact]) -> Fact {
    let cluster_ips = ips.iter().map(|text| ip(text)).collect();
    let spec = Service { kind, cluster_ips, ports: ports.to_vec(), ..Service::default() };
    Fact::Service(NsName::new("default", name), Some(spec))
}

pub fn external(name: &str, target: &str) -> Fact {
    service(name, ServiceKind::ExternalName(target.into()), &[], &[])
}

/// A slice `<service>-<suffix>` with TCP ports, of ready endpoints.
pub fn slice(service: &str, suffix: &str, ports: &[(&str, u16)], endpoints: Vec<EndpointFact>) -> Fact {
    let family = endpoints.first().map_or(Family::V4, |endpoint| Family::of(endpoint.addr));
    let ports = ports.iter().map(|(name, port)| SlicePort { name: (*name).into(), proto: Proto::Tcp, port: *port });
    let slice = Slice { service: NsName::new("default", service), family, ports: ports.collect(), endpoints };
    Fact::Slice(NsName::new("default", format!("{service}-{suffix}")), Some(slice))
}

pub fn at(addr: &str) -> EndpointFact {
    EndpointFact::ready_at(ip(addr))
}

pub fn named(addr: &str, hostname: &str) -> EndpointFact {
    EndpointFact { hostname: Some(hostname.into()), ..at(addr) }
}

pub fn question(text: &str, rtype: Rtype) -> Vec<u8> {
    crate::wire::question(&name(text), rtype)
}

pub fn packet(text: &str, rtype: &str) -> Vec<u8> {
    ask(ID, &question(text, Rtype::parse(rtype).expect("a type in a test")), false, None)
}

pub fn packet_edns(text: &str, rtype: &str, udp_size: u16) -> Vec<u8> {
    let edns = Edns { udp_size, version: 0, dnssec_ok: false };
    ask(ID, &question(text, Rtype::parse(rtype).expect("a type in a test")), false, Some(edns))
}

/// A reply as a stranger reads it. Records are `owner ttl TYPE data`, sorted, the OPT left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub rcode: String,
    pub flags: String,
    pub answers: Vec<String>,
    pub authority: Vec<String>,
    pub additional: Vec<String>,
    pub has_opt: bool,
}

impl Seen {
    pub fn read(bytes: &[u8]) -> Self {
        let message = Message::from_slice(bytes).expect("a header");
        let header = message.header();
        let flags = [(header.aa(), "aa "), (header.tc(), "tc "), (header.rd(), "rd "), (header.ra(), "ra ")];
        let additional = message.additional().expect("an additional section");
        let (additional, opts): (Vec<String>, Vec<String>) =
            lines(additional).into_iter().partition(|line| !line.contains(" OPT "));
        Self {
            rcode: message.opt_rcode().to_string(),
            flags: flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect::<String>().trim().into(),
            answers: lines(message.answer().expect("an answer section")),
            authority: lines(message.authority().expect("an authority section")),
            additional,
            has_opt: !opts.is_empty(),
        }
    }
}

fn lines(section: RecordSection<'_, [u8]>) -> Vec<String> {
    let mut lines: Vec<String> = section.map(|record| line(record.expect("a record"))).collect();
    lines.sort();
    lines
}

fn line(record: domain::base::ParsedRecord<'_, [u8]>) -> String {
    let record = record.into_any_record::<AllRecordData<_, ParsedName<_>>>().expect("record data");
    let line = format!("{} {} {} {}", record.owner(), record.ttl().as_secs(), record.rtype(), record.data());
    // Names in data end in a dot for some types only; ours to compare have none.
    line.replace(". ", " ").trim_end_matches('.').to_string()
}

pub fn reply(outcome: Outcome) -> Vec<u8> {
    match outcome {
        Outcome::Reply(bytes) => bytes,
        other => panic!("expected a reply, got {other:?}"),
    }
}

/// What the zones answer over TCP, where nothing is cut.
pub fn asked(records: &Records, text: &str, rtype: &str) -> Seen {
    Seen::read(&reply(answer(records, &packet(text, rtype), Transport::Tcp)))
}

pub fn update(records: &mut Records, before: &Snapshot, facts: &mut Facts, event: Fact) -> (Snapshot, crate::Changes) {
    let touched = facts.apply(event);
    let (after, delta): (Snapshot, Delta) = resolve(facts, before, &touched);
    let changes = records.update(&after, &delta);
    (after, changes)
}
