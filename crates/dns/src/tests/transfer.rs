//! Transfers, read by a stranger: SOA first and last, everything that is listed between them, in messages that fit.

use portolan_model::{EndpointFact, Fact, ServiceKind};

use super::{ID, Seen, at, config, namespace, packet, port, records, service, slice};
use crate::Records;
use crate::transfer::{Zone, known_serial};
use crate::wire::Query;

fn world(endpoints: u8) -> Records {
    let all: Vec<EndpointFact> = (1..=endpoints).map(|n| at(&format!("10.244.1.{n}"))).collect();
    let facts: [Fact; 4] = [
        namespace("default"),
        service("web", ServiceKind::ClusterIp, &["10.96.0.20"], &[port("http", 80)]),
        service("big", ServiceKind::Headless, &[], &[]),
        slice("big", "a", &[("http", 8080)], all),
    ];
    let mut records = records(&facts);
    records.set_serial(700);
    records
}

fn messages(records: &Records, packet: &[u8]) -> Vec<Vec<u8>> {
    let query = Query::parse(packet).expect("a query");
    let zone = Zone::of_view(records.view(), records, query.name).expect("a zone of ours");
    zone.messages(&query, known_serial(packet)).collect()
}

/// An IXFR query from a client that has `serial`.
fn ixfr(serial: u32) -> Vec<u8> {
    let mut packet = packet("cluster.local", "IXFR");
    packet[9] = 1;
    packet.extend([0xc0, 12, 0, 6, 0, 1, 0, 0, 0, 0, 0, 22, 0, 0]);
    packet.extend([serial, 0, 0, 0, 0].map(u32::to_be_bytes).concat());
    packet
}

#[test]
fn a_zone_is_sent_whole_between_two_soas_in_messages_that_fit() {
    let records = world(250);
    let packet = packet("cluster.local", "AXFR");
    let sent = messages(&records, &packet);
    assert!(sent.len() > 2 && sent.iter().all(|bytes| bytes.len() <= 16_384), "{}", sent.len());
    let seen: Vec<Seen> = sent.iter().map(|bytes| Seen::read(bytes)).collect();
    assert!(seen.iter().all(|seen| seen.flags == "aa rd" && seen.rcode == "NOERROR"), "{seen:?}");
    assert!(sent.iter().all(|bytes| bytes[..2] == ID.to_be_bytes()));
    let mut lines: Vec<String> = seen.into_iter().flat_map(|seen| seen.answers).collect();
    let soa = "cluster.local 30 SOA ns.dns.cluster.local hostmaster.cluster.local 700 7200 1800 86400 30";
    assert_eq!(lines.iter().filter(|line| *line == soa).count(), 2);
    lines.retain(|line| line != soa);
    let mut listed: Vec<String> =
        records.listing().nodes().flat_map(Records::lines).filter(|line| !line.contains("arpa")).collect();
    let plain = |line: &String| line.replace(". ", " ").trim_end_matches('.').replace(" IN ", " ");
    listed = listed.iter().map(plain).collect();
    lines.sort();
    listed.sort();
    assert_eq!(lines, listed);
}

#[test]
fn a_reverse_zone_is_sent_too_and_no_other_name_has_a_transfer() {
    let records = world(3);
    let lines = Seen::read(&messages(&records, &packet("in-addr.arpa", "AXFR"))[0]).answers;
    assert!(lines.contains(&"20.0.96.10.in-addr.arpa 30 PTR web.default.svc.cluster.local".into()), "{lines:?}");
    assert_eq!(lines.iter().filter(|line| line.contains(" PTR ")).count(), 4);
    for text in ["svc.cluster.local", "local", "example.com"] {
        assert!(Zone::of_view(records.view(), &records, super::name(text).as_wire()).is_none(), "{text}");
    }
}

#[test]
fn a_client_that_has_the_serial_gets_the_soa_alone() {
    let records = world(3);
    for (serial, records_sent) in [(700, 1), (701, 1), (699, 12), (0, 12)] {
        let sent = messages(&records, &ixfr(serial));
        let answers: usize = sent.iter().map(|bytes| Seen::read(bytes).answers.len()).sum();
        assert_eq!(answers > 1, records_sent > 1, "serial {serial}: {answers} records");
    }
    assert_eq!(known_serial(&ixfr(5)), Some(5));
    assert_eq!(known_serial(&packet("cluster.local", "IXFR")), None);
}

#[test]
fn what_is_sent_changes_with_the_view() {
    let records = world(3);
    let mut other = config();
    other.ttl_secs = 7;
    let view = crate::kubernetes::View::of_cluster(other);
    let packet = packet("cluster.local", "AXFR");
    let query = Query::parse(&packet).expect("a query");
    let zone = Zone::of_view(&view, &records, query.name).expect("a zone");
    let lines = Seen::read(&zone.messages(&query, None).next().expect("a message")).answers;
    assert!(lines.contains(&"web.default.svc.cluster.local 7 A 10.96.0.20".into()), "{lines:?}");
}
