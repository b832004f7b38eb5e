//! One speaker against a stranger who speaks in raw messages.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use portolan_model::Family;
use proptest::prelude::*;
use rustbgpd_wire::{
    Afi, AsPath, AsPathSegment, Capability, Message, NotificationMessage, OpenMessage, PathAttribute,
    RouteRefreshMessage, RouteRefreshSubtype, Safi, decode_message,
};

use super::network::{blocks, config, exports, net, node, peers};
use crate::advert::{Announcer, encode, refresh_mark};
use crate::{Asn, ConnId, Direction, Effect, Input, NextHops, SessionState, Speaker};

/// A speaker (node 1) with one peer (node 2) that is played by the test.
pub struct Played {
    pub speaker: Speaker,
    pub now: Instant,
}

pub const CONN: ConnId = ConnId(7);

impl Played {
    /// The peer has dialled; our OPEN is out.
    pub fn connected() -> Self {
        let mut played = Self { speaker: Speaker::new(config(1)), now: Instant::now() };
        played.speaker.set_exports(&exports(&blocks(1)), played.now);
        played.speaker.set_peers(&peers([2]), played.now);
        played.handle(Input::Connected { peer: node(2), conn: CONN, direction: Direction::Inbound });
        played
    }

    pub fn established() -> Self {
        let mut played = Self::connected();
        played.say(&open(64512, 90));
        played.say(&encode(&Message::Keepalive));
        assert_eq!(played.state(), SessionState::Established);
        played
    }

    pub fn handle(&mut self, input: Input) -> Vec<Effect> {
        self.speaker.handle(input, self.now)
    }

    pub fn say(&mut self, bytes: &[u8]) -> Vec<Effect> {
        self.handle(Input::Bytes { conn: CONN, data: bytes.to_vec() })
    }

    pub fn state(&self) -> SessionState {
        self.speaker.sessions()[0].state
    }
}

pub fn open(asn: u16, hold_time: u16) -> Vec<u8> {
    let unicast = |afi| Capability::MultiProtocol { afi, safi: Safi::Unicast };
    encode(&Message::Open(OpenMessage {
        version: 4,
        my_as: asn,
        hold_time,
        bgp_identifier: Ipv4Addr::new(192, 0, 2, 2),
        capabilities: vec![
            unicast(Afi::Ipv4),
            unicast(Afi::Ipv6),
            Capability::FourOctetAs { asn: u32::from(asn) },
            Capability::RouteRefresh,
            Capability::EnhancedRouteRefresh,
        ],
    }))
}

/// Node 2 as it announces its own.
pub fn stranger() -> Announcer {
    let next_hops = NextHops { v4: Some(Ipv4Addr::new(192, 0, 2, 2)), v6: Some(super::network::v6(2)) };
    Announcer { asn: Asn::CLUSTER, internal: true, next_hops, four_octet_as: true }
}

pub fn sent(effects: &[Effect]) -> Vec<Message> {
    let bytes = effects.iter().filter_map(|effect| match effect {
        Effect::Send { bytes, .. } => Some(bytes.clone()),
        _ => None,
    });
    bytes.map(|bytes| decode_message(&mut bytes.into(), 4096).expect("we send whole messages")).collect()
}

fn notification(effects: &[Effect]) -> Option<NotificationMessage> {
    sent(effects).into_iter().find_map(|message| match message {
        Message::Notification(notification) => Some(notification),
        _ => None,
    })
}

fn closes(effects: &[Effect]) -> bool {
    effects.contains(&Effect::Close { conn: CONN })
}

#[test]
fn a_session_opens_announces_and_ends_with_the_end_of_rib() {
    let mut played = Played::connected();
    assert!(matches!(sent(&played.say(&open(64512, 90)))[..], [Message::Keepalive]));
    let told = sent(&played.say(&encode(&Message::Keepalive)));
    assert_eq!(told.len(), 4, "an UPDATE and an End-of-RIB per family: {told:?}");
    let status = &played.speaker.sessions()[0];
    assert_eq!((status.hold_time_secs, status.prefixes_sent), (Some(9), 2), "the lower hold time counts");
    assert_eq!(status.established_at, Some(played.now));
}

#[test]
fn broken_messages_get_the_notification_of_their_error_and_end_the_session() {
    let keepalive = encode(&Message::Keepalive);
    let mut marker = keepalive.clone();
    marker[3] = 0;
    let mut length = keepalive.clone();
    length[17] = 5;
    let mut kind = keepalive.clone();
    kind[18] = 99;
    let mut nlri = stranger().announce(Family::V4, &[net("10.0.0.0/26")]).remove(0);
    let at = nlri.len() - 5;
    nlri[at] = 60;
    let rows = [
        ("marker", marker, (1, 1)),
        ("length", length, (1, 2)),
        ("type", kind, (1, 3)),
        ("prefix of 60 bits", nlri, (3, 10)),
    ];
    for (what, bytes, expected) in rows {
        let mut played = Played::established();
        let effects = played.say(&bytes);
        let told = notification(&effects).unwrap_or_else(|| panic!("no NOTIFICATION for a wrong {what}: {effects:?}"));
        assert_eq!((told.code.as_u8(), told.subcode), expected, "{what}");
        assert!(closes(&effects), "{what}");
        assert_ne!(played.state(), SessionState::Established, "{what}");
    }
}

#[test]
fn an_open_with_wrong_values_is_refused_and_dialled_again_later() {
    let rows = [("AS", open(64513, 90), (2, 2)), ("hold time", open(64512, 2), (2, 6))];
    for (what, bytes, expected) in rows {
        let mut played = Played::connected();
        played.handle(Input::ConnectFailed { peer: node(2), reason: "refused".to_owned() });
        let effects = played.say(&bytes);
        let told = notification(&effects).expect("an OPEN in error is answered");
        assert_eq!((told.code.as_u8(), told.subcode), expected, "{what}");
        assert_eq!(played.state(), SessionState::Active);
        played.now = played.speaker.next_deadline().expect("a dial is planned");
        assert_eq!(played.handle(Input::Timer), [Effect::Connect { peer: node(2) }]);
    }
}

#[test]
fn a_peer_that_never_sends_its_open_is_given_up() {
    let mut played = Played::connected();
    played.now += Duration::from_secs(26);
    assert!(played.handle(Input::Timer).is_empty());
    played.now += Duration::from_secs(2);
    let effects = played.handle(Input::Timer);
    assert_eq!(notification(&effects).map(|n| n.code.as_u8()), Some(4));
    assert!(closes(&effects));
}

#[test]
fn waits_between_dials_grow_to_their_limit_and_start_anew_after_a_session() {
    let mut speaker = Speaker::new(config(1));
    let mut now = Instant::now();
    speaker.set_peers(&peers([2]), now);
    let mut waits = Vec::new();
    for _ in 0..6 {
        speaker.handle(Input::ConnectFailed { peer: node(2), reason: "refused".to_owned() }, now);
        let next = speaker.next_deadline().expect("a dial is planned");
        waits.push((next - now).as_secs());
        now = next;
        speaker.handle(Input::Timer, now);
    }
    assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
}

#[test]
fn a_stranger_who_is_no_peer_is_closed_without_a_word() {
    let mut played = Played::connected();
    let conn = ConnId(8);
    let effects = played.handle(Input::Connected { peer: node(9), conn, direction: Direction::Inbound });
    assert_eq!(effects[0], Effect::Close { conn });
    assert!(sent(&effects).is_empty());
}

#[test]
fn a_route_refresh_is_answered_with_everything_between_two_marks() {
    let mut played = Played::established();
    let ask = encode(&Message::RouteRefresh(RouteRefreshMessage::new(Afi::Ipv4, Safi::Unicast)));
    let told = sent(&played.say(&ask));
    let [Message::RouteRefresh(begin), Message::Update(_), Message::RouteRefresh(end)] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!((begin.subtype(), end.subtype()), (RouteRefreshSubtype::BoRR, RouteRefreshSubtype::EoRR));
}

#[test]
fn what_a_peer_does_not_repeat_in_a_refresh_is_withdrawn_at_its_end() {
    let mut played = Played::established();
    let (kept, dropped) = (net("10.244.2.0/26"), net("10.244.3.0/26"));
    played.say(&stranger().announce(Family::V4, &[kept, dropped]).concat());
    played.say(&refresh_mark(Family::V4, RouteRefreshSubtype::BoRR));
    played.say(&stranger().announce(Family::V4, &[kept]).concat());
    assert_eq!(played.speaker.routes().len(), 2, "nothing goes before the end");
    let effects = played.say(&refresh_mark(Family::V4, RouteRefreshSubtype::EoRR));
    assert_eq!(effects, [Effect::Learned(vec![(dropped, None)])]);
}

#[test]
fn a_prefix_without_a_next_hop_of_its_family_is_complained_of_once_and_not_sent() {
    let mut only_v4 = config(1);
    only_v4.next_hops.v6 = None;
    let mut speaker = Speaker::new(only_v4);
    let now = Instant::now();
    let complaints = |effects: Vec<Effect>| effects.iter().filter(|e| matches!(e, Effect::Log { .. })).count();
    assert_eq!(complaints(speaker.set_exports(&exports(&blocks(1)), now)), 1);
    assert_eq!(complaints(speaker.set_exports(&exports(&blocks(1)), now)), 0);
    speaker.set_peers(&peers([2]), now);
    let mut played = Played { speaker, now };
    played.handle(Input::Connected { peer: node(2), conn: CONN, direction: Direction::Inbound });
    played.say(&open(64512, 90));
    played.say(&encode(&Message::Keepalive));
    assert_eq!(played.speaker.sessions()[0].prefixes_sent, 1);
}

#[test]
fn a_peer_of_another_as_gets_our_as_in_the_path_and_no_local_pref() {
    let fabric = Asn(64513);
    let mut played = Played { speaker: Speaker::new(config(1)), now: Instant::now() };
    played.speaker.set_exports(&exports(&[net("10.244.1.0/26")].into()), played.now);
    played.speaker.set_peers(&[(node(2), crate::PeerConfig::new(fabric))].into(), played.now);
    played.handle(Input::Connected { peer: node(2), conn: CONN, direction: Direction::Inbound });
    played.say(&open(64513, 90));
    let told = sent(&played.say(&encode(&Message::Keepalive)));
    let Message::Update(update) = &told[0] else { panic!("{told:?}") };
    let attributes = update.parse(true, false, &[]).expect("we write what can be read").attributes;
    assert_eq!(attributes.iter().map(PathAttribute::type_code).collect::<Vec<_>>(), [1, 2, 3]);
    let segments = vec![AsPathSegment::AsSequence(vec![64512])];
    assert!(attributes.contains(&PathAttribute::AsPath(AsPath { segments })));
    let theirs = Announcer { asn: fabric, internal: false, ..stranger() };
    played.say(&theirs.announce(Family::V4, &[net("0.0.0.0/0")]).concat());
    assert_eq!(played.speaker.routes().len(), 1);
}

#[test]
fn a_node_is_never_its_own_peer() {
    let mut speaker = Speaker::new(config(1));
    let effects = speaker.set_peers(&peers([1, 2]), Instant::now());
    assert_eq!(effects, [Effect::Connect { peer: node(2) }]);
}

#[test]
fn a_peer_that_stays_away_is_logged_once() {
    let mut speaker = Speaker::new(config(1));
    let mut now = Instant::now();
    speaker.set_peers(&peers([2]), now);
    let mut lines = 0;
    for _ in 0..10 {
        let failed = Input::ConnectFailed { peer: node(2), reason: "refused".to_owned() };
        let effects = speaker.handle(failed, now);
        lines += effects.iter().filter(|effect| matches!(effect, Effect::Log { .. })).count();
        now = speaker.next_deadline().expect("a dial is planned");
        speaker.handle(Input::Timer, now);
    }
    assert_eq!(lines, 1);
}

#[test]
fn no_peers_at_all_ends_every_session_with_cease() {
    let mut played = Played::established();
    let now = played.now;
    let effects = played.speaker.set_peers(&peers([]), now);
    let told = notification(&effects).expect("a peer is told");
    assert_eq!((told.code.as_u8(), told.subcode), (6, 3));
    assert!(closes(&effects) && played.speaker.next_deadline().is_none());
    assert!(played.speaker.set_exports(&BTreeMap::new(), now).is_empty());
}

/// Bytes in whatever state: no panic, and afterwards the session either goes on or was ended in order.
fn check_bytes(mut played: Played, chunks: &[Vec<u8>]) -> Result<(), TestCaseError> {
    for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
        let effects = played.say(chunk);
        if closes(&effects) {
            prop_assert_ne!(played.state(), SessionState::Established);
            prop_assert!(played.speaker.routes().is_empty(), "routes outlive their session");
        }
    }
    Ok(())
}

fn noise() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 1..80)
}

/// A message with a right header around noise.
fn framed() -> impl Strategy<Value = Vec<u8>> {
    (0..7_u8, noise()).prop_map(|(kind, body)| {
        let mut bytes = vec![0xff; 16];
        bytes.extend(u16::try_from(19 + body.len()).expect("short").to_be_bytes());
        bytes.push(kind);
        bytes.extend(body);
        bytes
    })
}

/// A right UPDATE with some bytes behind the header changed.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    (any::<bool>(), proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)).prop_map(
        |(v4, changes)| {
            let mut bytes = match v4 {
                true => stranger().announce(Family::V4, &[net("10.244.2.0/26"), net("10.244.3.0/24")]).remove(0),
                false => stranger().announce(Family::V6, &[net("fd00:2::/64"), net("fd00:3::/122")]).remove(0),
            };
            for (at, value) in changes {
                let at = 19 + at.index(bytes.len() - 19);
                bytes[at] = value;
            }
            bytes
        },
    )
}

fn any_bytes() -> impl Strategy<Value = Vec<Vec<u8>>> {
    proptest::collection::vec(prop_oneof![1 => noise(), 3 => framed(), 4 => mutated()], 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes_before_the_open_do_no_harm(chunks in any_bytes()) {
        check_bytes(Played::connected(), &chunks)?;
    }

    #[test]
    fn arbitrary_bytes_in_a_session_do_no_harm(chunks in any_bytes()) {
        check_bytes(Played::established(), &chunks)?;
    }
}
