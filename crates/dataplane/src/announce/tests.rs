//! Elections over small clusters, the law, and packets byte for byte.

use std::net::IpAddr;
use std::sync::Arc;

use portolan_model::{
    EndpointFact, ExternalPolicy, Fact, Facts, Family, Node, NsName, Proto, Service, ServiceKind, ServicePortFact,
    Settings, Slice, SlicePort, Snapshot, Touched, resolve,
};
use proptest::prelude::*;

use super::{Election, arp, elect, ndp};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

fn snapshot_of(node: &str) -> Snapshot {
    Snapshot::empty(Arc::new(Settings {
        node: node.into(),
        cluster_cidrs: vec!["10.244.0.0/16".parse().expect("a prefix")],
        service_cidrs: vec!["10.96.0.0/12".parse().expect("a prefix")],
        cluster_dns: Vec::new(),
        cluster_domain: "cluster.local".into(),
        proxy: Default::default(),
    }))
}

fn election() -> Election {
    Election::new(vec!["172.18.100.0/24".parse().expect("a prefix"), "fd18::/112".parse().expect("a prefix")])
}

fn node(number: usize, ready: bool) -> Fact {
    Fact::Node(format!("node-{number}").as_str().into(), Some(Node { ready, ..Node::default() }))
}

fn key(name: &str) -> NsName {
    NsName::new("default", name)
}

fn balanced(addresses: &[&str], external_policy: ExternalPolicy) -> Service {
    let ports = vec![ServicePortFact { name: "http".into(), proto: Proto::Tcp, port: 80, node_port: 0 }];
    let load_balancer_ips = addresses.iter().map(|text| ip(text)).collect();
    Service { kind: ServiceKind::LoadBalancer, load_balancer_ips, external_policy, ports, ..Service::default() }
}

fn service(name: &str, addresses: &[&str], policy: ExternalPolicy) -> Fact {
    Fact::Service(key(name), Some(balanced(addresses, policy)))
}

/// Endpoints as (node, ready, still serving while it ends).
fn slice(service: &str, family: Family, endpoints: &[(usize, bool, bool)]) -> Fact {
    let row = |(index, (node, ready, draining)): (usize, &(usize, bool, bool))| EndpointFact {
        ready: *ready,
        serving: *ready || *draining,
        terminating: *draining,
        node: Some(format!("node-{node}").as_str().into()),
        ..EndpointFact::ready_at(match family {
            Family::V4 => ip(&format!("10.244.0.{}", index + 1)),
            Family::V6 => ip(&format!("fd00::{}", index + 1)),
        })
    };
    let ports = vec![SlicePort { name: "http".into(), proto: Proto::Tcp, port: 8080 }];
    let endpoints = endpoints.iter().enumerate().map(row).collect();
    Fact::Slice(key(&format!("{service}-{family:?}")), Some(Slice { service: key(service), family, ports, endpoints }))
}

fn resolved(facts: &[Fact], as_node: &str) -> Snapshot {
    let mut all = Facts::default();
    all.apply_all(facts.iter().cloned());
    resolve(&all, &snapshot_of(as_node), &all.all()).0
}

/// Who is elected, as all nodes see it: each must see the same, and itself alone.
#[track_caller]
fn elected(facts: &[Fact], address: &str) -> Option<String> {
    let mut claimants = Vec::new();
    for number in 1..=4 {
        let name = format!("node-{number}");
        let snapshot = resolved(facts, &name);
        let mut election = election();
        election.update(&snapshot, &portolan_model::Delta::all(&snapshot));
        if election.elected().contains(&ip(address)) {
            claimants.push(name);
        }
    }
    assert!(claimants.len() <= 1, "{address} is answered for by {claimants:?}");
    claimants.pop()
}

fn cluster() -> Vec<Fact> {
    (1..=4).map(|number| node(number, true)).collect()
}

#[test]
fn one_ready_node_answers_for_an_address_and_the_next_takes_over() {
    for address in ["172.18.100.1", "fd18::1"] {
        let mut facts = cluster();
        facts.push(service("web", &[address], ExternalPolicy::Cluster));
        let mut seen = Vec::new();
        for _ in 1..=4 {
            let name = elected(&facts, address).expect("a node is left");
            assert!(!seen.contains(&name), "{name} is not Ready");
            let number = name.trim_start_matches("node-").parse().expect("a number");
            facts.push(node(number, false));
            seen.push(name);
        }
        assert_eq!(elected(&facts, address), None, "no node is Ready");
        facts.push(node(3, true));
        assert_eq!(elected(&facts, address), Some("node-3".to_owned()));
    }
}

#[test]
fn a_node_that_leaves_or_is_excluded_answers_no_more() {
    let mut facts = vec![node(1, true), node(2, true), service("web", &["172.18.100.1"], ExternalPolicy::Cluster)];
    let first = elected(&facts, "172.18.100.1").expect("two are Ready");
    for unfit in [Node { leaving: true, ..Node::default() }, Node { excluded_from_balancers: true, ..Node::default() }]
    {
        facts.push(Fact::Node(first.as_str().into(), Some(Node { ready: true, ..unfit })));
        let second = elected(&facts, "172.18.100.1").expect("one is left");
        assert_ne!(first, second);
    }
}

#[test]
fn under_policy_local_only_a_node_with_an_endpoint_answers() {
    for (address, family) in [("172.18.100.1", Family::V4), ("fd18::1", Family::V6)] {
        let check = |endpoints: &[(usize, bool, bool)], expected: Option<&str>| {
            let mut facts = cluster();
            facts.push(service("web", &[address], ExternalPolicy::Local));
            facts.push(slice("web", family, endpoints));
            assert_eq!(elected(&facts, address).as_deref(), expected, "{endpoints:?}");
        };
        for number in 1..=4 {
            check(&[(number, true, false)], Some(&format!("node-{number}")));
        }
        check(&[], None);
        check(&[(2, false, false)], None);
        check(&[(2, false, true), (3, true, false)], Some("node-3"));
        check(&[(2, false, true)], Some("node-2"));
        // An endpoint of the other family is none.
        let other = if family == Family::V4 { Family::V6 } else { Family::V4 };
        let mut facts = cluster();
        facts.extend([service("web", &[address], ExternalPolicy::Local), slice("web", other, &[(1, true, false)])]);
        assert_eq!(elected(&facts, address), None);
    }
}

#[test]
fn addresses_are_spread_and_a_node_that_goes_moves_its_own_only() {
    let addresses: Vec<IpAddr> = (0..=254).map(|last| ip(&format!("172.18.100.{last}"))).collect();
    let winners = |facts: &[Fact]| -> Vec<String> {
        let mut all = facts.to_vec();
        all.push(service("web", &["172.18.100.1"], ExternalPolicy::Cluster));
        let snapshot = resolved(&all, "node-1");
        let view = snapshot.services[&key("web")].clone();
        addresses.iter().map(|one| elect(&snapshot, &view, *one).expect("nodes are Ready").to_string()).collect()
    };
    let mut facts = cluster();
    let before = winners(&facts);
    for number in 1..=4 {
        let share = before.iter().filter(|name| **name == format!("node-{number}")).count();
        assert!((40..=90).contains(&share), "node-{number} has {share} of 255");
    }
    facts.push(node(2, false));
    for (before, after) in before.iter().zip(winners(&facts)) {
        assert!(after == *before || before == "node-2", "{before} → {after}");
        assert_ne!(after, "node-2");
    }
}

#[test]
fn only_addresses_of_the_pools_and_of_balancers_are_answered_for() {
    let mut facts = vec![node(1, true)];
    facts.push(service("far", &["203.0.113.7"], ExternalPolicy::Cluster));
    let kind = ServiceKind::ClusterIp;
    let was = Service { kind, ..balanced(&["172.18.100.2"], ExternalPolicy::Cluster) };
    facts.push(Fact::Service(key("was"), Some(was)));
    for address in ["203.0.113.7", "172.18.100.2"] {
        assert_eq!(elected(&facts, address), None, "{address}");
    }
    let snapshot = resolved(&[node(1, true), service("web", &["172.18.100.1"], ExternalPolicy::Cluster)], "node-1");
    let mut nobody = Election::new(Vec::new());
    assert!(!nobody.update(&snapshot, &portolan_model::Delta::all(&snapshot)));
    assert!(nobody.elected().is_empty());
}

#[test]
fn of_two_services_with_one_address_the_first_by_name_has_it() {
    let mut facts = cluster();
    facts.push(service("a", &["172.18.100.1"], ExternalPolicy::Local));
    facts.push(service("b", &["172.18.100.1"], ExternalPolicy::Cluster));
    facts.push(slice("b", Family::V4, &[(1, true, false)]));
    assert_eq!(elected(&facts, "172.18.100.1"), None, "a has it and no endpoint");
    facts.push(Fact::Service(key("a"), None));
    assert!(elected(&facts, "172.18.100.1").is_some());
}

#[test]
fn a_change_that_concerns_nobody_elects_nobody_anew() {
    let mut facts = Facts::default();
    let mut all = cluster();
    all.push(service("web", &["172.18.100.1"], ExternalPolicy::Cluster));
    let touched = facts.apply_all(all);
    let (snapshot, delta) = resolve(&facts, &snapshot_of("node-1"), &touched);
    let mut election = election();
    election.update(&snapshot, &delta);
    let touched = facts.apply(slice("web", Family::V4, &[(1, true, false)]));
    let (snapshot, delta) = resolve(&facts, &snapshot, &touched);
    assert!(!election.update(&snapshot, &delta), "policy Cluster does not look at endpoints");
}

fn happening() -> impl Strategy<Value = Fact> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    let address = prop::sample::select(vec!["172.18.100.1", "172.18.100.2", "fd18::1", "203.0.113.7"]);
    let policy = prop::sample::select(vec![ExternalPolicy::Cluster, ExternalPolicy::Local]);
    let services = (name.clone(), prop::collection::vec(address, 0..3), policy, any::<bool>());
    let endpoints = prop::collection::vec((1..5usize, any::<bool>(), any::<bool>()), 0..4);
    prop_oneof![
        (1..5usize, any::<bool>()).prop_map(|(number, ready)| node(number, ready)),
        (1..5usize).prop_map(|number| Fact::Node(format!("node-{number}").as_str().into(), None)),
        services.prop_map(|(name, addresses, policy, is_gone)| match is_gone {
            true => Fact::Service(key(name), None),
            false => service(name, &addresses, policy),
        }),
        (name, endpoints).prop_map(|(name, endpoints)| slice(name, Family::V4, &endpoints)),
    ]
}

proptest! {
    #[test]
    fn any_order_split_and_doubling_elects_as_from_scratch(
        story in prop::collection::vec((happening(), 1..3usize), 0..40),
    ) {
        let mut facts = Facts::default();
        let mut snapshot = snapshot_of("node-2");
        let mut election = election();
        let mut touched = Touched::default();
        for (fact, times) in &story {
            touched.merge(facts.apply(fact.clone()));
            for _ in 1..*times {
                let (after, delta) = resolve(&facts, &snapshot, &std::mem::take(&mut touched));
                let before = election.elected().clone();
                let changed = election.update(&after, &delta);
                prop_assert_eq!(changed, before != *election.elected());
                snapshot = after;
            }
        }
        let (after, delta) = resolve(&facts, &snapshot, &touched);
        election.update(&after, &delta);
        let scratch = resolve(&facts, &snapshot_of("node-2"), &facts.all()).0;
        let mut fresh = self::election();
        fresh.update(&scratch, &portolan_model::Delta::all(&scratch));
        prop_assert_eq!(election.elected(), fresh.elected());
    }
}

const OWN: [u8; 6] = [2, 0x18, 172, 18, 0, 11];
const OTHER: [u8; 6] = [2, 0x18, 172, 18, 0, 1];

/// Bytes written as hex digits, blanks between them as one likes.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).expect("two digits")).collect()
}

#[test]
fn an_arp_request_is_read_and_answered() {
    let request = hex("0001 0800 06 04 0001  0218ac120001 ac120001  000000000000 ac126401");
    let question = arp::question(&request).expect("a request");
    assert_eq!((question.target.to_string().as_str(), question.sender_mac), ("172.18.100.1", OTHER));
    let reply = hex("0001 0800 06 04 0002  0218ac12000b ac126401  0218ac120001 ac120001");
    assert_eq!(arp::answer(OWN, &question).to_vec(), reply);
    // Padded to the shortest frame; a probe of one that has no address yet.
    let probe = hex(&format!("0001 0800 06 04 0001 0218ac120001 00000000 000000000000 ac126401 {}", "00".repeat(18)));
    assert!(arp::question(&probe).expect("a probe").sender.is_unspecified());
    let [first, second] = arp::announcements(OWN, "172.18.100.1".parse().expect("an address"));
    assert_eq!(first.to_vec(), hex("0001 0800 06 04 0001 0218ac12000b ac126401 000000000000 ac126401"));
    assert_eq!(second.to_vec(), hex("0001 0800 06 04 0002 0218ac12000b ac126401 0218ac12000b ac126401"));
    let announced_by_another = arp::question(&first);
    let others = [reply, Vec::new(), request[..20].to_vec(), hex("0006 0800 06 04 0001"), vec![0xff; 28]];
    assert!(announced_by_another.is_none() && others.iter().all(|bytes| arp::question(bytes).is_none()));
}

/// A solicitation of `fe80::1` for `fd18::1` with its link-layer address; [`solicitation`] puts the checksum in.
const SOLICITATION: &str = "60000000 0020 3a ff fe800000000000000000000000000001 ff0200000000000000000001ff000001 \
                            8700 CCCC 00000000 fd180000000000000000000000000001 0101 0218ac120001";

fn solicitation() -> Vec<u8> {
    // The sum over the pseudo-header and the message without a checksum, by the definition alone.
    let zeroed = hex(&SOLICITATION.replace("CCCC", "0000"));
    let pseudo = [&zeroed[8..40], &[0, 0, 0, 32, 0, 0, 0, 58], &zeroed[40..]].concat();
    let mut sum: u64 = pseudo.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    hex(&SOLICITATION.replace("CCCC", &format!("{:04x}", 0xffff - sum)))
}

#[test]
fn a_solicitation_is_read_and_answered() {
    let packet = solicitation();
    let question = ndp::question(&packet).expect("a solicitation");
    assert_eq!((question.target.to_string(), question.sender.to_string()), ("fd18::1".into(), "fe80::1".into()));
    let answer = ndp::answer(OWN, &question);
    let expected = hex("60000000 0020 3a ff fd180000000000000000000000000001 fe800000000000000000000000000001 8800");
    assert_eq!(answer[..42], expected[..]);
    assert_eq!(answer[44..], hex("60000000 fd180000000000000000000000000001 0201 0218ac12000b")[..]);
    let to_all = ndp::announcement(OWN, question.target);
    assert_eq!(to_all[24..40], hex("ff020000000000000000000000000001")[..]);
    assert_eq!(to_all[44..48], hex("20000000")[..]);
    assert_eq!(ndp::solicited_node(question.target).to_string(), "ff02::1:ff00:1");
}

#[test]
fn what_is_no_sound_solicitation_is_left_alone() {
    let sound = solicitation();
    let spoiled = |at: usize, byte: u8| {
        let mut packet = sound.clone();
        packet[at] = byte;
        packet
    };
    let rows = [
        ("another version", spoiled(0, 0x40)),
        ("a router has passed it on", spoiled(7, 254)),
        ("no ICMPv6", spoiled(6, 17)),
        ("an advertisement", spoiled(40, 136)),
        ("a wrong checksum", spoiled(43, sound[43] ^ 1)),
        ("longer than it is", spoiled(5, 200)),
        ("shorter than a solicitation", spoiled(5, 8)),
        ("cut", sound[..50].to_vec()),
        ("empty", Vec::new()),
    ];
    for (what, packet) in rows {
        assert_eq!(ndp::question(&packet), None, "{what}");
    }
}

proptest! {
    #[test]
    fn no_packet_makes_a_reader_fail(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = arp::question(&bytes);
        let _ = ndp::question(&bytes);
    }

    #[test]
    fn each_packet_we_send_has_a_right_checksum(target in any::<u128>(), sender in any::<u128>(), own in any::<[u8; 6]>()) {
        let question = ndp::Question { target: target.into(), sender: sender.into() };
        for packet in [ndp::answer(own, &question), ndp::announcement(own, question.target)] {
            let pseudo = [&packet[8..40], &[0, 0, 0, 32, 0, 0, 0, 58], &packet[40..]].concat();
            let mut sum: u64 = pseudo.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(pair[1])).sum();
            while sum > 0xffff {
                sum = (sum >> 16) + (sum & 0xffff);
            }
            prop_assert_eq!(sum, 0xffff);
        }
    }
}
