//! Received UPDATEs: what is taken, what counts as withdrawn, what ends the session.

use portolan_model::Family;
use rustbgpd_wire::{
    AsPath, AsPathSegment, Ipv4NlriEntry, Ipv4Prefix, Ipv4UnicastMode, Message, Origin, PathAttribute, UpdateMessage,
};

use super::network::{net, node, v6};
use super::session::{Played, stranger};
use crate::advert::encode;
use crate::{Effect, LearnedRoute, SessionState};

const PREFIX: &str = "10.244.2.0/26";

/// An announcement of [`PREFIX`] with these attributes.
fn announce(attributes: &[PathAttribute]) -> Vec<u8> {
    let prefix = Ipv4Prefix::new("10.244.2.0".parse().expect("an address"), 26);
    let entry = Ipv4NlriEntry { path_id: 0, prefix };
    encode(&Message::Update(UpdateMessage::build(&[entry], &[], attributes, true, false, Ipv4UnicastMode::Body)))
}

fn good() -> Vec<PathAttribute> {
    vec![
        PathAttribute::Origin(Origin::Igp),
        PathAttribute::AsPath(AsPath { segments: Vec::new() }),
        PathAttribute::NextHop("192.0.2.2".parse().expect("an address")),
        PathAttribute::LocalPref(100),
    ]
}

fn with(changed: PathAttribute) -> Vec<PathAttribute> {
    let mut attributes = good();
    attributes.retain(|attribute| attribute.type_code() != changed.type_code());
    attributes.push(changed);
    attributes
}

fn without(type_code: u8) -> Vec<PathAttribute> {
    good().into_iter().filter(|attribute| attribute.type_code() != type_code).collect()
}

#[test]
fn both_families_are_learned_with_their_next_hops_and_withdrawn() {
    let rows = [(Family::V4, PREFIX, node(2)), (Family::V6, "fd00:10:244:2::/122", v6(2).into())];
    for (family, prefix, gateway) in rows {
        let mut played = Played::established();
        let effects = played.say(&stranger().announce(family, &[net(prefix)]).concat());
        assert_eq!(effects, [Effect::Learned(vec![(net(prefix), Some(LearnedRoute::via(gateway, node(2))))])]);
        let effects = played.say(&stranger().withdraw(family, &[net(prefix)]).concat());
        assert_eq!(effects, [Effect::Learned(vec![(net(prefix), None)])]);
    }
}

#[test]
fn routes_that_must_not_be_used_replace_the_earlier_one_and_the_session_lives() {
    let own_as = AsPath { segments: vec![AsPathSegment::AsSequence(vec![65001, 64512])] };
    let rows = [
        ("our AS in AS_PATH", with(PathAttribute::AsPath(own_as))),
        ("our address as next hop", with(PathAttribute::NextHop("192.0.2.1".parse().expect("an address")))),
        ("ourselves as originator", with(PathAttribute::OriginatorId("192.0.2.1".parse().expect("an address")))),
        ("no ORIGIN", without(1)),
        ("no AS_PATH", without(2)),
        ("no NEXT_HOP", without(3)),
        ("a next hop of class E", with(PathAttribute::NextHop("255.255.255.255".parse().expect("an address")))),
    ];
    for (what, attributes) in rows {
        let mut played = Played::established();
        played.say(&announce(&good()));
        assert_eq!(played.speaker.routes().len(), 1);
        let effects = played.say(&announce(&attributes));
        assert!(effects.contains(&Effect::Learned(vec![(net(PREFIX), None)])), "{what}: {effects:?}");
        assert_eq!(played.state(), SessionState::Established, "{what}");
    }
}

#[test]
fn a_malformed_attribute_counts_as_withdrawal_and_the_session_lives() {
    let mut bytes = announce(&good());
    // Header 19, two lengths 4, then ORIGIN: flags, type, length 1, value. No such origin as 7.
    bytes[26] = 7;
    let mut played = Played::established();
    played.say(&announce(&good()));
    let effects = played.say(&bytes);
    assert!(effects.contains(&Effect::Learned(vec![(net(PREFIX), None)])), "{effects:?}");
    assert_eq!(played.state(), SessionState::Established);
}

#[test]
fn prefixes_outside_the_ranges_taken_from_peers_are_left_out() {
    let mut played = Played::established();
    let mut limited = super::network::config(1);
    limited.accept_within = vec![net("10.244.0.0/16")];
    played.speaker = crate::Speaker::new(limited);
    played.speaker.set_peers(&super::network::peers([2]), played.now);
    let conn = super::session::CONN;
    played.handle(crate::Input::Connected { peer: node(2), conn, direction: crate::Direction::Inbound });
    played.say(&super::session::open(64512, 90));
    played.say(&encode(&Message::Keepalive));
    played.say(&stranger().announce(Family::V4, &[net(PREFIX), net("0.0.0.0/0"), net("192.0.2.0/24")]).concat());
    assert_eq!(played.speaker.routes().keys().copied().collect::<Vec<_>>(), [net(PREFIX)]);
}
