//! Packets at and over the edges: sizes, EDNS, and whatever a stranger may send.

use std::borrow::Cow;
use std::sync::LazyLock;

use portolan_model::{EndpointFact, Fact, ServiceKind};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{ID, Seen, at, namespace, packet, packet_edns, port, records, reply, service, slice};
use crate::build::{Reply, Rr};
use crate::message::{Message, Record};
use crate::rdata::Rdata;
use crate::wire::{self, Query};
use crate::{Name, Outcome, Rcode, Records, Rtype, Transport, answer};

const BIG: &str = "big.default.svc.cluster.local";
const BIG_SRV: &str = "_http._tcp.big.default.svc.cluster.local";

/// Made once for all generated packets.
static SMALL: LazyLock<Records> = LazyLock::new(|| world(3));

/// One headless Service of `count` endpoints.
fn world(count: u8) -> Records {
    let endpoints: Vec<EndpointFact> = (1..=count).map(|n| at(&format!("10.244.1.{n}"))).collect();
    let facts: [Fact; 3] = [
        namespace("default"),
        service("big", ServiceKind::Headless, &[], &[port("http", 80)]),
        slice("big", "a", &[("http", 8080)], endpoints),
    ];
    records(&facts)
}

fn udp(records: &Records, packet: &[u8]) -> Vec<u8> {
    reply(answer(records, packet, Transport::Udp))
}

#[test]
fn without_edns_a_reply_has_512_bytes_at_most_and_says_what_is_missing() {
    let records = world(100);
    let bytes = udp(&records, &packet(BIG, "A"));
    let seen = Seen::read(&bytes);
    assert!(bytes.len() <= 512 && bytes.len() > 496, "{}", bytes.len());
    assert_eq!(seen.flags, "aa tc rd ra");
    assert_eq!(seen.answers.len(), (512 - 12 - BIG.len() - 2 - 4) / 16);
    let whole = Seen::read(&reply(answer(&records, &packet(BIG, "A"), Transport::Tcp)));
    assert_eq!((whole.flags.as_str(), whole.answers.len()), ("aa rd ra", 100));
}

#[test]
fn the_clients_edns_size_counts_from_512_to_1232() {
    let records = world(100);
    for (size, most) in [(0, 512), (512, 512), (900, 900), (1232, 1232), (4096, 1232), (65535, 1232)] {
        let bytes = udp(&records, &packet_edns(BIG, "A", size));
        assert!(bytes.len() <= most && bytes.len() > most - 16, "{size}: {}", bytes.len());
        assert!(Seen::read(&bytes).has_opt);
    }
    assert!(!Seen::read(&udp(&world(1), &packet(BIG, "A"))).has_opt);
}

#[test]
fn additional_records_that_do_not_fit_are_left_out_without_tc() {
    let seen = Seen::read(&udp(&world(6), &packet(BIG_SRV, "SRV")));
    assert_eq!((seen.flags.as_str(), seen.answers.len()), ("aa rd ra", 6), "{seen:?}");
    assert!(seen.additional.len() < 6, "{seen:?}");
    let whole = Seen::read(&reply(answer(&world(6), &packet(BIG_SRV, "SRV"), Transport::Tcp)));
    assert_eq!(whole.additional.len(), 6);
}

#[test]
fn srv_targets_stand_uncompressed_and_their_addresses_point_to_them() {
    let bytes = reply(answer(&world(1), &packet(BIG_SRV, "SRV"), Transport::Tcp));
    let target = super::name("10-244-1-1.big.default.svc.cluster.local");
    let stands: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(target.as_wire())).collect();
    assert_eq!(stands.len(), 1, "the whole target stands there once");
    let pointer = (0xc000 | stands[0] as u16).to_be_bytes();
    assert!(bytes.windows(2).any(|pair| pair == pointer));
}

#[test]
fn sixty_thousand_bytes_of_answers_fit_tcp() {
    let slices = (0..9u8).map(|net| {
        let endpoints = (1..=250u8).map(|n| at(&format!("10.244.{net}.{n}"))).collect();
        slice("big", &net.to_string(), &[("http", 8080)], endpoints)
    });
    let facts: Vec<Fact> =
        [namespace("default"), service("big", ServiceKind::Headless, &[], &[])].into_iter().chain(slices).collect();
    let seen = Seen::read(&reply(answer(&records(&facts), &packet(BIG, "A"), Transport::Tcp)));
    assert_eq!((seen.flags.as_str(), seen.answers.len()), ("aa rd ra", 2250));
    let cut = reply(answer(&records(&facts), &packet(BIG, "SRV"), Transport::Tcp));
    assert!(cut.len() <= 65_535);
    assert_eq!(Seen::read(&cut).flags, "aa tc rd ra");
}

#[test]
fn unreadable_queries_get_a_code_and_no_more() {
    let records = world(1);
    let good = packet(BIG, "A");
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = good.clone();
        change(&mut packet);
        answer(&records, &packet, Transport::Udp)
    };
    let code = |outcome: Outcome| -> (u16, String, usize) {
        let bytes = reply(outcome);
        (u16::from_be_bytes([bytes[0], bytes[1]]), Seen::read(&bytes).rcode, bytes.len())
    };
    let expect = |rcode: &str| (ID, rcode.to_string(), 12);
    assert_eq!(code(with(&|p| p[2] |= 5 << 3)), expect("NOTIMP"), "an update");
    assert_eq!(code(with(&|p| p[5] = 0)), expect("FORMERR"), "no question");
    assert_eq!(code(with(&|p| p[5] = 2)), expect("FORMERR"), "two questions");
    assert_eq!(code(with(&|p| p.truncate(20))), expect("FORMERR"), "cut short");
    assert_eq!(code(with(&|p| p[12] = 64)), expect("FORMERR"), "a label of 64");
    assert_eq!(code(with(&|p| p[12] = 0xc0)), expect("FORMERR"), "a pointer in the question");
    assert_eq!(code(with(&|p| p[11] = 1)), expect("FORMERR"), "an additional record that is not there");
    assert_eq!(with(&|p| p[2] |= 0x80), Outcome::Silence, "a reply");
    assert_eq!(with(&|p| p.truncate(11)), Outcome::Silence, "less than a header");
}

#[test]
fn edns_of_another_version_is_badvers_and_two_opts_are_formerr() {
    let records = world(1);
    let mut other = packet_edns(BIG, "A", 1232);
    let version = other.len() - 5;
    other[version] = 1;
    let seen = Seen::read(&udp(&records, &other));
    assert_eq!((seen.rcode.as_str(), seen.has_opt, seen.answers.len()), ("BADVERS", true, 0));
    let mut twice = packet_edns(BIG, "A", 1232);
    let opt = twice[twice.len() - 11..].to_vec();
    twice.extend(opt);
    twice[11] = 2;
    assert_eq!(Seen::read(&udp(&records, &twice)).rcode, "FORMERR");
}

#[test]
fn pointers_that_lead_forward_or_in_circles_make_a_reply_unreadable() {
    let mut bytes = packet(BIG, "A");
    bytes[2] |= 0x80;
    assert!(Message::parse(&bytes).is_some());
    for target in [12u8, 14, 200] {
        let mut looping = bytes[..12].to_vec();
        looping.extend([0xc0, target, 0xc0, 12, 0, 1, 0, 1]);
        assert_eq!(Message::parse(&looping), None, "{target}");
    }
}

#[test]
fn no_name_points_into_a_record_that_did_not_fit() {
    let packet = packet(BIG, "A");
    let query = Query::parse(&packet).expect("a query");
    let raw = |len: usize| Cow::Owned(Rdata::Raw(vec![7; len].into()));
    let of = |owner: &str, len: usize| Rr::internet(&super::name(owner), Rtype(999), 30, raw(len));
    let reply = Reply {
        answers: vec![of(BIG, 100), of("long.other.zone", 600)],
        authority: vec![of("other.zone", 100)],
        ..Reply::new(Rcode::NOERROR)
    };
    let message = Message::parse(&reply.render(&query, Transport::Udp)).expect("a reply");
    let owners = |records: &[Record]| records.iter().map(|record| record.owner.to_string()).collect::<Vec<String>>();
    assert_eq!((owners(&message.answers), message.truncated), (vec![format!("{BIG}.")], true));
    assert_eq!(owners(&message.authority), ["other.zone."]);
}

#[test]
fn a_reply_reads_back_as_zone_file_lines() {
    let bytes = reply(answer(&world(1), &packet(BIG_SRV, "SRV"), Transport::Tcp));
    let message = Message::parse(&bytes).expect("a reply");
    let lines: Vec<String> = message.answers.iter().chain(&message.additional).map(ToString::to_string).collect();
    let expected = [
        "_http._tcp.big.default.svc.cluster.local. 30 IN SRV 0 100 8080 10-244-1-1.big.default.svc.cluster.local.",
        "10-244-1-1.big.default.svc.cluster.local. 30 IN A 10.244.1.1",
    ];
    assert_eq!((message.rcode.to_string().as_str(), lines), ("NOERROR", expected.map(String::from).to_vec()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_nothing_panics_and_replies_can_be_read(bytes in vec(any::<u8>(), 0..600)) {
        check_any(&SMALL, &bytes);
    }

    #[test]
    fn a_query_with_bytes_changed_never_panics_and_replies_can_be_read(
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in 0..60usize,
        rtype in prop::sample::select(&["A", "SRV", "ANY"][..]),
    ) {
        let mut bytes = packet_edns(BIG_SRV, rtype, 1232);
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(bytes.len().max(cut) - cut / 8);
        check_any(&SMALL, &bytes);
    }

    #[test]
    fn an_upstream_reply_with_bytes_changed_never_panics(
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let mut bytes = reply(answer(&world(9), &packet_edns(BIG_SRV, "SRV", 1232), Transport::Tcp));
        prop_assert!(Message::parse(&bytes).is_some());
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        Message::parse(&bytes);
    }
}

fn check_any(records: &Records, bytes: &[u8]) {
    if let Outcome::Reply(sent) = answer(records, bytes, Transport::Udp) {
        assert_eq!(sent[..2], bytes[..2], "the ID comes back");
        Seen::read(&sent);
    }
}

#[test]
fn the_labels_of_a_service_are_found_ahead_in_any_bytes() {
    let labels = |name: &str| {
        let packet = wire::ask(1, &wire::question(&Name::parse(name).expect("a name"), Rtype::A), false, None);
        wire::service_labels(&packet).map(<[u8]>::to_vec)
    };
    let web = Some(b"\x03web\x07default".to_vec());
    assert_eq!(labels("web.default.svc.cluster.local"), web);
    assert_eq!(labels("_http._tcp.web.default.svc.cluster.local"), web);
    // Of any piece of a packet there is an answer, or none.
    let whole = wire::ask(1, &wire::question(&Name::parse("_a._b.c.d").expect("a name"), Rtype::SRV), false, None);
    let found: Vec<Option<&[u8]>> = (0..=whole.len()).map(|end| wire::service_labels(&whole[..end])).collect();
    assert_eq!(found.iter().position(Option::is_some), Some(wire::HEADER + 10));
    assert!(wire::service_labels(&[0xff; 40]).is_none());
}
