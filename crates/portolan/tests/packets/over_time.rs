//! What holds from one packet to the next: affinity of clients, flows whose endpoint leaves, what balancers ask.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use portolan_model::Proto;
use serde_json::Value;

use super::case::POD_RANGES;
use super::ground::{CROWD, OUTSIDE, crowd};
use super::objects::{self, Service, To, service};
use super::probe::{Shot, Talk};
use super::run::Field;

const PROTOCOLS: [Proto; 3] = [Proto::Tcp, Proto::Udp, Proto::Sctp];
/// Long enough for no pause of the machine to be as long.
const LONG_SECS: u32 = 600;
/// As short as a stay can be to be waited for.
const SHORT_SECS: u32 = 3;

pub fn flags(ranges: &str) -> [&str; 2] {
    ["--cluster-cidr", ranges]
}

pub fn with_nodes(services: &[Service]) -> Vec<Value> {
    objects::nodes(Some("east")).into_iter().chain(services.iter().flat_map(Service::objects)).collect()
}

/// From one of outside's many.
pub fn shot(client: u16, proto: Proto, to: To, family: usize) -> Shot {
    let source = Some(crowd(client)[family]);
    Shot { from: OUTSIDE, source, is_borrowed: false, proto, to: to.targets()[family] }
}

/// Where each client's packet goes.
fn visits(field: &Field<'_>, proto: Proto, to: To, family: usize) -> BTreeMap<u16, &'static str> {
    CROWD.map(|client| (client, field.range.shoot(&shot(client, proto, to, family)).place())).collect()
}

fn differ(visits: &BTreeMap<u16, &'static str>) -> bool {
    visits.values().any(|place| Some(place) != visits.values().next())
}

/// A client stays at its endpoint by whichever address of the Service's port it comes, and goes elsewhere when that one
/// leaves; the others stay.
pub fn clients_stay(field: &Field<'_>) {
    let ranges = POD_RANGES.join(",");
    let bound = service(10).everywhere().affinity(LONG_SECS);
    field.write(&with_nodes(&[bound.clone().endpoints("a1, b1")]));
    let _running = field.start(&flags(&ranges));
    let first = shot(*CROWD.start(), Proto::Udp, To::ClusterIp(10), 0);
    field.wait("the rules", || ["a1", "b1"].contains(&field.range.shoot(&first).place()).then_some(()));
    let ways = [To::ClusterIp(10), To::NodePort(10), To::External(10), To::Balancer(10)];
    let mut stays = Vec::new();
    for (proto, family) in PROTOCOLS.into_iter().flat_map(|proto| [(proto, 0), (proto, 1)]) {
        let stay = visits(field, proto, ways[0], family);
        assert!(differ(&stay), "{proto:?}: 16 clients all at the same of two endpoints: {stay:?}");
        for way in ways {
            assert_eq!(visits(field, proto, way, family), stay, "{proto:?}: by {way:?} they go elsewhere");
        }
        stays.push((proto, family, stay));
    }
    field.write(&with_nodes(&[bound.endpoints("b1, b2, a1 unready")]));
    field.wait("nobody at the endpoint that left", || {
        let gone = |(proto, family, _): &(Proto, usize, _)| {
            visits(field, *proto, ways[1], *family).values().all(|place| *place == "b1" || *place == "b2")
        };
        stays.iter().all(gone).then_some(())
    });
    for (proto, family, stay) in &stays {
        let now = visits(field, *proto, ways[0], *family);
        let moved = stay.iter().filter(|(client, place)| **place == "b1" && now[*client] != "b1").count();
        assert_eq!(moved, 0, "{proto:?}: clients left an endpoint that stayed: {stay:?}, then {now:?}");
        assert_eq!(visits(field, *proto, ways[3], *family), now, "{proto:?}: they stay where they went");
    }
}

/// A stay is as long as the timeout after the last visit: those who come again and again stay, those who do not may not.
pub fn stays_end(field: &Field<'_>) {
    let bound = |number| service(number).everywhere().affinity(SHORT_SECS).endpoints("a1, b1");
    let ranges = POD_RANGES.join(",");
    field.program(&with_nodes(&[bound(10), bound(11)]), &flags(&ranges));
    let timeout = Duration::from_secs(SHORT_SECS.into());
    // A round in which this machine paused for longer than a stay says nothing.
    let kept = (0..20).find_map(|_| kept_by_visits(field, timeout));
    assert!(kept.expect("twenty rounds, each with a pause of the machine"), "regular visitors are sent elsewhere");
    let mut before = visits(field, Proto::Udp, To::ClusterIp(11), 0);
    field.wait("a client that stayed away for long goes elsewhere", || {
        std::thread::sleep(timeout + Duration::from_millis(300));
        let now = visits(field, Proto::Udp, To::ClusterIp(11), 0);
        (std::mem::replace(&mut before, now.clone()) != now).then_some(())
    });
}

/// Whether all stay who visit three times in each timeout, for longer than one; `None` if a visit came too late.
fn kept_by_visits(field: &Field<'_>, timeout: Duration) -> Option<bool> {
    let begun = Instant::now();
    let mut last = Instant::now();
    let first = visits(field, Proto::Tcp, To::NodePort(10), 1);
    while begun.elapsed() < timeout * 3 / 2 {
        std::thread::sleep(timeout / 3);
        let begins = last;
        last = Instant::now();
        let again = visits(field, Proto::Tcp, To::ClusterIp(10), 1);
        if begins.elapsed() > timeout * 2 / 3 {
            return None;
        }
        if again != first {
            return Some(false);
        }
    }
    Some(true)
}

/// A client that keeps its UDP socket stays where it is while its endpoint still serves, though others go elsewhere.
pub fn datagrams_stay(field: &Field<'_>) {
    let ranges = POD_RANGES.join(",");
    let program = |endpoints: &'static str| {
        field.program(&with_nodes(&[service(10).everywhere().endpoints(endpoints)]), &flags(&ranges));
    };
    program("a1");
    let ways = [("a2", To::ClusterIp(10)), (OUTSIDE, To::NodePort(10)), (OUTSIDE, To::External(10))];
    let all = ways.into_iter().flat_map(|(from, to)| to.targets().map(|to| (from, to)));
    let shots = all.map(|(from, to)| Shot { from, source: None, is_borrowed: false, proto: Proto::Udp, to });
    let mut talks: Vec<_> = shots.map(|shot| (field.range.talk(shot), shot)).collect();
    let come_to = |talks: &mut Vec<(Talk, Shot)>, places: [&str; 2]| {
        for (talk, shot) in talks {
            assert_eq!(field.range.say(talk, places[0]).place(), places[0], "{shot:?}");
            assert_eq!(field.range.shoot(shot).place(), places[1], "{shot:?}");
        }
    };
    come_to(&mut talks, ["a1", "a1"]);
    program("a1 terminating, b1");
    come_to(&mut talks, ["a1", "b1"]);
}
