//! Meaning: every rule says what it is there for, and whose it is.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use portolan_model::verdict::{Arrival, Packet};
use portolan_model::{Fact, Family, NsName, ObjectKind, ObjectRef, Proto, ProxySettings, Service, Snapshot};
use proptest::prelude::*;

use crate::iptables::in_place::{in_place, owner_of};
use crate::iptables::meaning::{told, told_line, told_way};
use crate::iptables::trace::{World, events, walk};
use crate::iptables::{Desired, DnsPath, Options, Table, names, saved};
use crate::meaning::{Masqueraded, Meaning, RuleTold};
use crate::tests::any_world::{any_settings, any_whole_world};
use crate::tests::packets::packets;
use crate::tests::told::Told;
use crate::tests::world::{LAN, POD_LINK, all_settings, ip, name, own_node, port, snapshot_with, whole};
use crate::way::Act;

/// Rules of ours that no packet's way depends on: they unset the mark, or only count what falls through.
fn is_plumbing(chain: &str, text: &str) -> bool {
    (chain == names::POSTROUTING && text == "-j MARK --set-xmark 0x4000/0x0")
        || text.starts_with("-m comment --comment \"other traffic to ")
}

/// Rules whose meaning is a fallback, and lines that are not told as they were said.
fn wrongly_told(desired: &Desired, snapshot: &Snapshot) -> Vec<String> {
    let mut wrong = Vec::new();
    for (chain, rules) in desired.with_hooks() {
        assert_eq!(desired.rules(&chain).as_ref(), Some(&rules), "{}", chain.name);
        for rule in &rules {
            let told = told(desired, snapshot, &chain, rule, None);
            let fits = match told.meaning {
                Meaning::Foreign => false,
                Meaning::Plumbing => is_plumbing(&chain.name, &told.text),
                _ => true,
            };
            let line = format!("-A {} {}", chain.name, saved::line(desired.family(), rule));
            let again = told_line(desired, snapshot, chain.table, &line, None);
            if !fits || again != Some((chain.clone(), told.clone())) {
                wrong.push(format!("{line}\n  told {told:?}\n  from its line {again:?}"));
            }
        }
    }
    wrong
}

#[test]
fn every_rule_of_every_chain_has_a_meaning_and_is_told_the_same_from_the_kernels_line() {
    for (setting, proxy) in all_settings() {
        let snapshot = snapshot_with(&proxy, &whole());
        for family in Family::BOTH {
            let options = Options { dns: DnsPath::ThisNode, ..Options::default() };
            let desired = Desired::of(family, options.clone(), &snapshot);
            assert_eq!(wrongly_told(&desired, &snapshot).join("\n"), "", "{setting}");
            let bare = Desired::of(family, Options { comment_limit: 0, ..options }, &snapshot);
            assert_eq!(wrongly_told(&bare, &snapshot).join("\n"), "", "{setting}, without comments of endpoints");
        }
    }
}

/// The first packet of whose way something is told wrongly.
fn objection(snapshot: &Snapshot, desired: &Desired, mut packets: impl Iterator<Item = Packet>) -> Option<String> {
    let (rules, world) = (desired.with_hooks(), World::of(snapshot, desired));
    packets.find_map(|packet| {
        walk(&rules, &world, &packet).into_iter().find_map(|way| {
            let told = told_way((desired, &rules), snapshot, &way, &packet, 40000);
            let told: Vec<RuleTold> = told.into_iter().filter_map(|(_, told)| told).collect();
            assert_eq!(told.len(), way.path.len());
            Told { snapshot, packet: &packet, outcome: way.outcome, rules: &told }.objection()
        })
    })
}

#[test]
fn the_rules_on_every_packets_way_tell_what_becomes_of_it_and_why() {
    for (turn, (setting, proxy)) in all_settings().into_iter().enumerate() {
        let snapshot = snapshot_with(&proxy, &whole());
        for family in Family::BOTH {
            let options = Options { dns: DnsPath::ThisNode, ..Options::default() };
            let desired = Desired::of(family, options, &snapshot);
            let some = packets(&snapshot, family).into_iter().skip(turn % 5).step_by(5);
            assert_eq!(objection(&snapshot, &desired, some), None, "{setting}");
        }
    }
}

/// Every rule that is told to be because of `object`, by table, chain, place and text.
fn because_of(desired: &Desired, snapshot: &Snapshot, object: &ObjectRef) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for (chain, rules) in desired.chains() {
        for (index, rule) in rules.iter().enumerate() {
            let told = told(desired, snapshot, &chain, rule, None);
            if told.objects.contains(object) {
                let place = format!("{} {} {}", chain.table.name(), chain.name, index + 1);
                found.insert((place, told.text.to_string()));
            }
        }
    }
    found
}

#[test]
fn an_object_finds_all_its_rules_and_each_of_them_leads_back_by_place_and_by_line() {
    let dns = Service {
        cluster_ips: vec![ip("10.96.0.10"), ip("fd00:10:96::a")],
        ports: vec![port("dns", Proto::Udp, 53, 0)],
        ..Service::default()
    };
    let facts = [whole(), vec![Fact::Service(name(40), Some(dns))]].concat();
    let snapshot = snapshot_with(&ProxySettings::default(), &facts);
    let services = snapshot.services.keys().map(|key| (ObjectKind::Service, key.clone()));
    let pods = ["pod-5", "pod-77", "at-10-244-1-6", "at-fd00-10-244--5"].map(|pod| NsName::new("default", pod));
    let objects = services.chain(pods.into_iter().map(|pod| (ObjectKind::Pod, pod)));
    let objects: Vec<ObjectRef> = objects.map(|(kind, key)| ObjectRef { kind, key }).collect();
    for family in Family::BOTH {
        let options = Options { dns: DnsPath::ThisNode, ..Options::default() };
        let desired = Desired::of(family, options, &snapshot);
        let mut count = 0;
        for object in &objects {
            let places = in_place(&desired, &snapshot, object);
            let told = places.iter().map(|place| (place.to_string(), place.told.text.to_string()));
            assert_eq!(told.collect::<BTreeSet<_>>(), because_of(&desired, &snapshot, object), "{object}");
            for place in &places {
                let line = format!("{} -A {} {}", place.table, place.name, place.told.text);
                assert_eq!(owner_of(&desired, &snapshot, &place.to_string()), std::slice::from_ref(place));
                assert_eq!(owner_of(&desired, &snapshot, &line), std::slice::from_ref(place));
                assert!(owner_of(&desired, &snapshot, &place.name).contains(place));
            }
            count += places.len();
        }
        assert!(count > 150, "{count} places");
        for nothing in
            ["nat KUBE-SVC-NOBODYS", "nat KUBE-SERVICES 900", "nat KUBE-SERVICES x", "", "mangle KUBE-SERVICES"]
        {
            assert_eq!(owner_of(&desired, &snapshot, nothing), [], "{nothing}");
        }
    }
}

#[test]
fn what_another_hand_put_into_our_chains_is_foreign() {
    let snapshot = snapshot_with(&ProxySettings::default(), &whole());
    let desired = Desired::of(Family::V4, Options::default(), &snapshot);
    let lines = [
        "nat -A KUBE-SERVICES -d 10.96.0.20/32 -j ACCEPT",
        "nat -A KUBE-SERVICES -d 10.96.0.20/32 -p tcp -m comment --comment \"default/svc-0:http cluster IP\" -m tcp --dport 80 -j KUBE-SVC-HKWF2T7OMCEHHWIO",
        "nat -A KUBE-SVC-X67Z27UM2GOD7DY2 -j ACCEPT",
        "nat -A KUBE-SVC-X67Z27UM2GOD7DY2 -s 10.244.0.5/32 -j KUBE-MARK-MASQ",
        "nat -A KUBE-SVC-X67Z27UM2GOD7DY2 -m comment --comment \"default/svc-0:http -> 10.244.0.5:8080\" -j KUBE-SEP-2LEA7CVNVGKCAL3W",
        "nat -A KUBE-SEP-HKWO5JQYCX3HUPQA -p tcp -m comment --comment \"default/svc-0:http\" -m tcp -j DNAT --to-destination 10.244.0.5:8081",
        "nat -A KUBE-EXT-TVZCCMOTRUOFKFR2 -j KUBE-SVC-X67Z27UM2GOD7DY2",
        "nat -A KUBE-NODEPORTS -p tcp -m comment --comment \"default/svc-1:http\" -m tcp --dport 30001 -j ACCEPT",
        "nat -A KUBE-POSTROUTING -j ACCEPT",
        "nat -A KUBE-POSTROUTING -o eth0 -j MASQUERADE",
        "nat -A POSTROUTING -o eth0 -j MASQUERADE",
        "nat -A DOCKER -j RETURN",
        "filter -A KUBE-FORWARD -s 10.244.0.0/16 -j DROP",
        "filter -A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP",
        "filter -A KUBE-SERVICES -d 10.96.0.20/32 -j REJECT --reject-with icmp-port-unreachable",
        "filter -A FORWARD -j DROP",
        "raw -A PORTOLAN-DNS -j DROP",
    ];
    for line in lines {
        let (table, line) = line.split_once(' ').expect("a table and a line");
        let table = Table::parse(table).expect("a table");
        let (chain, told) = told_line(&desired, &snapshot, table, line, None).expect("a line of iptables-save");
        assert_eq!((told.meaning, told.objects), (Meaning::Foreign, vec![]), "{line}");
        assert_eq!(format!("-A {} {}", chain.name, told.text), line);
    }
    for nothing in [":KUBE-SERVICES - [0:0]", "COMMIT", "-P INPUT ACCEPT", "-A", "", "-A X \"open"] {
        assert_eq!(told_line(&desired, &snapshot, Table::Nat, nothing, None), None, "{nothing}");
    }
}

/// A trace may show a rule that the plan has left meanwhile.
#[test]
fn a_rule_is_told_rightly_when_its_service_has_left_the_plan() {
    let snapshot = snapshot_with(&ProxySettings::default(), &whole());
    let gone = snapshot_with(&ProxySettings::default(), &[own_node()]);
    for family in Family::BOTH {
        let desired = Desired::of(family, Options::default(), &snapshot);
        let after = Desired::of(family, Options::default(), &gone);
        for (chain, rules) in desired.chains() {
            for rule in &rules {
                let before = told(&desired, &snapshot, &chain, rule, None).meaning;
                let now = told(&after, &gone, &chain, rule, None).meaning;
                let same = match &before {
                    // Whose it was is in the plan alone.
                    Meaning::MarksMasquerade { because: Masqueraded::Hairpin, .. } => {
                        now == Meaning::MarksMasquerade { service: None, because: Masqueraded::Hairpin }
                    }
                    // So are a Service's chains without a comment, and pods that are gone.
                    _ if rule.comment().is_none() || chain.name.starts_with(names::HOST_PORT_PREFIX) => true,
                    before => now == *before,
                };
                assert!(same, "{} {rule}: {before:?}, then {now:?}", chain.name);
            }
        }
    }
}

#[test]
fn a_remembered_client_is_told_to_be_bound() {
    let snapshot = snapshot_with(&ProxySettings::default(), &whole());
    let desired = Desired::of(Family::V4, Options::default(), &snapshot);
    let (rules, world) = (desired.with_hooks(), World::of(&snapshot, &desired));
    let client = Packet {
        src: ip("10.244.0.77"),
        dst: ip("10.96.0.22"),
        proto: Proto::Tcp,
        dport: 80,
        arrival: Arrival::by(POD_LINK),
    };
    let chosen = |world: &World| -> Vec<(SocketAddr, bool)> {
        let ways = walk(&rules, world, &client);
        let told = ways.iter().flat_map(|way| told_way((&desired, &rules), &snapshot, way, &client, 40000));
        let chosen = told.filter_map(|(_, told)| match told?.meaning {
            Meaning::Chooses { endpoint, bound, .. } => Some((endpoint, bound)),
            _ => None,
        });
        chosen.collect()
    };
    let [a, b] = ["10.244.0.5:8080", "10.244.1.6:8080"].map(|at| at.parse().expect("an address and a port"));
    assert_eq!(chosen(&world), [(a, false), (b, false)]);
    let bound = World { remembered_by: Some("KUBE-SEP-K3D5DJYXO7V5QJRS".into()), ..world };
    assert_eq!(chosen(&bound), [(b, true)]);
}

#[test]
fn a_way_is_told_as_the_kernel_would_trace_it() {
    let snapshot = snapshot_with(&ProxySettings::default(), &whole());
    let desired = Desired::of(Family::V4, Options::default(), &snapshot);
    let (rules, world) = (desired.with_hooks(), World::of(&snapshot, &desired));
    let arrival = Arrival::by(LAN);
    let packet = Packet { src: ip("192.0.2.7"), dst: ip("10.96.0.26"), proto: Proto::Tcp, dport: 80, arrival };
    let ways = walk(&rules, &world, &packet);
    let lines = ways.iter().flat_map(|way| events(&rules, way, &packet, 40000)).map(|event| {
        let at = format!("{} > {}", event.at.dst, event.at.after);
        let index = event.index.map_or("policy".into(), |index| index.to_string());
        let act = match &event.act {
            Act::Jump { chain } => format!("Jump {chain}"),
            other => format!("{other:?}"),
        };
        format!("{:?} {} {} {index} {act} {at}", event.hook, event.table, event.chain)
    });
    let (cluster_ip, pod) = ("10.96.0.26:80", "10.244.0.5:8080");
    let nat = format!("{cluster_ip} > {pod}");
    let after = format!("{pod} > {pod}");
    let expected = [
        format!("Prerouting ip nat PREROUTING 0 Jump KUBE-SERVICES {nat}"),
        format!("Prerouting ip nat KUBE-SERVICES 16 Jump KUBE-SVC-X5RK2DIJQ7PUXNOQ {nat}"),
        format!("Prerouting ip nat KUBE-SVC-X5RK2DIJQ7PUXNOQ 0 Jump KUBE-MARK-MASQ {nat}"),
        format!("Prerouting ip nat KUBE-MARK-MASQ 0 Continue {nat}"),
        format!("Prerouting ip nat KUBE-SVC-X5RK2DIJQ7PUXNOQ 1 Jump KUBE-SEP-BBUE77VUU36B26RU {nat}"),
        format!("Prerouting ip nat KUBE-SEP-BBUE77VUU36B26RU 1 Accept {nat}"),
        format!("Forward ip filter FORWARD 0 Jump KUBE-PROXY-FIREWALL {after}"),
        format!("Forward ip filter FORWARD 1 Jump KUBE-FORWARD {after}"),
        format!("Forward ip filter KUBE-FORWARD 1 Accept {after}"),
        format!("Postrouting ip nat POSTROUTING 0 Jump CNI-HOSTPORT-MASQ {after}"),
        format!("Postrouting ip nat POSTROUTING 1 Jump cali-POSTROUTING {after}"),
        format!("Postrouting ip nat cali-POSTROUTING 0 Jump cali-nat-outgoing {after}"),
        format!("Postrouting ip nat POSTROUTING 2 Jump KUBE-POSTROUTING {after}"),
        format!("Postrouting ip nat KUBE-POSTROUTING 1 Continue {after}"),
        format!("Postrouting ip nat KUBE-POSTROUTING 2 Accept {after}"),
    ];
    let lines: Vec<String> = lines.collect();
    // No rule of PORTOLAN-DNS took it: the policy did.
    let (raw, others) = lines.split_at(2);
    let there = format!("{cluster_ip} > {cluster_ip}");
    assert_eq!(raw[0], format!("Prerouting ip raw PREROUTING 0 Jump PORTOLAN-DNS {there}"));
    assert_eq!(raw[1], format!("Prerouting ip raw PREROUTING policy Policy {{ accepts: true }} {there}"));
    assert_eq!(others, expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_on_the_way_tell_it_rightly_in_any_world(
        facts in any_whole_world(),
        proxy in any_settings(),
        limit in prop::sample::select(vec![0, 1000]),
        turn in 0..7usize,
    ) {
        let snapshot = snapshot_with(&proxy, &facts);
        for family in Family::BOTH {
            let options = Options { comment_limit: limit, ..Options::default() };
            let desired = Desired::of(family, options, &snapshot);
            prop_assert_eq!(wrongly_told(&desired, &snapshot).join("\n"), "");
            let some = packets(&snapshot, family).into_iter().skip(turn).step_by(7);
            prop_assert_eq!(objection(&snapshot, &desired, some), None, "{:?} {:?}", family, proxy);
        }
    }
}
