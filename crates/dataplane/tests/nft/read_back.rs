//! What was sent is what is read: from our own bytes, from the kernel, from what nft made of our text.

use std::os::fd::{AsFd, OwnedFd};

use portolan_dataplane::nftables::lang::*;
use portolan_dataplane::nftables::parse::{self, Place, Read};
use portolan_dataplane::nftables::{render, wire};
use portolan_kernel::nft::Nft;
use portolan_kernel::{iptables, netns};
use portolan_model::{Family, Proto, Text};
use proptest::prelude::*;

use crate::samples::{DEST, ENDPOINT, Extent, TABLE, addr, net, table};
use crate::{loaded, says, transact};

fn kernel_family(family: Family) -> iptables::Family {
    if family == Family::V4 { iptables::Family::V4 } else { iptables::Family::V6 }
}

fn read(family: Family, messages: &[Vec<u8>]) -> Option<Read> {
    parse::table(family, TABLE, messages.iter().map(Vec::as_slice)).expect("whole messages")
}

pub fn in_kernel(space: &OwnedFd, family: Family) -> Option<Read> {
    let dump = || Nft::open()?.dump(kernel_family(family), TABLE);
    read(family, &netns::run_in(space.as_fd(), dump).expect("the namespace is there").expect("a dump"))
}

fn clean(table: Table) -> Read {
    Read { table, unread: Vec::new() }
}

/// The sample with the one comment that cannot be kept as it is put right.
fn kept(mut table: Table) -> Table {
    for set in table.sets.values_mut() {
        for (_, comment) in set.elements.values_mut() {
            *comment = comment.as_ref().map(|text| text.replace('"', "_").into());
        }
    }
    table
}

#[test]
fn our_own_bytes_are_read_as_what_they_were_written_from() {
    for family in Family::BOTH {
        let planned = table(family, Extent::Everything);
        let bytes = wire::transaction(family, TABLE, &wire::steps_of(&planned));
        assert_eq!(read(family, &[bytes]), Some(clean(kept(planned))));
    }
}

#[test]
fn the_kernel_gives_back_what_was_sent() {
    for family in Family::BOTH {
        let planned = table(family, Extent::Everything);
        let space = loaded(&planned);
        assert_eq!(in_kernel(&space, family), Some(clean(kept(planned))));
    }
}

#[test]
fn what_nft_loads_from_our_text_is_read_as_what_was_rendered() {
    for family in Family::BOTH {
        let planned = table(family, Extent::WhatNftLoads);
        let space = netns::create().expect("as root");
        says(&space, &["-f", "-"], &render::full(&planned)).expect("nft loads our text");
        assert_eq!(in_kernel(&space, family), Some(clean(kept(planned))));
    }
}

#[test]
fn a_table_that_is_not_there_is_none_and_others_tables_are_passed_over() {
    let space = netns::create().expect("as root");
    let others = "add table ip6 portolan\nadd table ip portolan2\nadd set ip portolan2 x { type ipv4_addr; }";
    says(&space, &["-f", "-"], others).expect("nft takes it");
    assert_eq!(in_kernel(&space, Family::V4), None);
    let empty = in_kernel(&space, Family::V6).expect("it is there");
    assert!(empty.table.sets.is_empty() && empty.table.chains.is_empty() && empty.unread.is_empty());
}

#[test]
fn what_another_hand_wrote_is_named_and_not_guessed() {
    let family = Family::V4;
    let planned = table(family, Extent::Everything);
    let space = loaded(&planned);
    for line in [
        "add rule ip portolan pick counter accept",
        "insert rule ip portolan services ip saddr 10.9.9.9 drop",
        "insert rule ip portolan remember meta mark set 1",
        "add rule ip portolan raw ip saddr { 10.0.0.1, 10.0.0.2 } drop",
        "add rule ip portolan nat-postrouting masquerade random",
        "add set ip portolan ranges { type ipv4_addr; flags interval; }",
        "add map ip portolan verdicts { type ipv4_addr : verdict; }",
        "add chain ip portolan strict { type filter hook input priority 5; policy drop; }",
        "add chain ip portolan routed { type route hook output priority 5; }",
        "add element ip portolan cluster-ips-2 { 10.96.0.9 . icmp . 0 }",
    ] {
        says(&space, &[line], "").unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    let Read { table: found, unread } = in_kernel(&space, family).expect("it is there");
    let mut places: Vec<String> = unread.iter().map(|unread| format!("{:?}", unread.place)).collect();
    places.sort();
    let rule = |chain: &str, index| format!("{:?}", Place::Rule(chain.into(), index));
    let mut expected = vec![
        rule("pick", 1),
        rule("remember", 0),
        rule("nat-postrouting", 2),
        format!("{:?}", Place::Chain("strict".into())),
        format!("{:?}", Place::Chain("routed".into())),
        format!("{:?}", Place::Element("cluster-ips-2".into())),
    ];
    expected.extend(found_sets(&unread.iter().map(|unread| unread.place.clone()).collect::<Vec<_>>()));
    expected.sort();
    assert_eq!(places, expected);
    let inserted =
        Rule::new(vec![Statement::Net(Sign::Is, Field::Source, net(family, "10.9.9.9/32", "::/0")), Statement::Drop]);
    assert_eq!(found.chains["services"].rules[0], inserted, "what has words is read, whoever wrote it");
    assert_eq!(found.chains["remember"], planned.chains["remember"], "what is not ours is left out");
}

/// The two sets above, and nft's nameless one, whose number is the kernel's.
fn found_sets(places: &[Place]) -> Vec<String> {
    let sets: Vec<&Text> =
        places.iter().filter_map(|place| if let Place::Set(name) = place { Some(name) } else { None }).collect();
    assert_eq!(sets.len(), 3, "{sets:?}");
    assert!(["ranges", "verdicts"].iter().all(|name| sets.iter().any(|set| ***set == **name)), "{sets:?}");
    places.iter().filter(|place| matches!(place, Place::Set(_))).map(|place| format!("{place:?}")).collect()
}

#[test]
fn clients_that_rules_put_in_are_read_and_taken_out_by_key() {
    for family in Family::BOTH {
        let space = loaded(&table(family, Extent::Everything));
        let (client, pod) = (addr(family, 5, 0, 1), addr(family, 1, 0, 1));
        let word = if family == Family::V4 { "ip" } else { "ip6" };
        let line = format!(
            "add element {word} portolan affinity-clients {{ {client} . tcp . 0:7 timeout 1h : {pod} . 8080 }}"
        );
        says(&space, &[&line], "").expect("nft takes it");
        let key = Key::Client(client, Proto::Tcp, 7);
        let shape =
            SetShape { key: vec![Type::Addr, Type::Proto, Type::Id], data: Some(ENDPOINT.to_vec()), dynamic: Some(1) };
        let clients = || {
            let dump = || Nft::open()?.elements(kernel_family(family), TABLE, "affinity-clients");
            let dump = netns::run_in(space.as_fd(), dump).expect("the namespace is there").expect("a dump");
            let twice = dump.iter().chain(&dump).map(Vec::as_slice); // as a dump of a set in motion may say it
            parse::elements(family, &shape, twice).expect("whole messages")
        };
        let found = Element { key, data: Some(Data::Endpoint(pod, 8080)), comment: None };
        assert_eq!(clients(), (vec![found], vec![]));
        // One that is gone meanwhile is no hindrance, if all are put in before.
        let gone = Key::Client(client, Proto::Udp, 8);
        let put = |key| Element { key, data: Some(Data::Endpoint(pod, 8080)), comment: None };
        let steps = [
            Step::AddElements("affinity-clients".into(), vec![put(key), put(gone)]),
            Step::DeleteElements("affinity-clients".into(), vec![key, gone]),
        ];
        transact(&space, family, &steps).expect("taken out");
        assert_eq!(clients(), (vec![], vec![]));
    }
}

#[test]
fn nft_lists_it_as_json_with_every_element() {
    for family in Family::BOTH {
        let planned = table(family, Extent::WhatNftLoads);
        let word = if family == Family::V4 { "ip" } else { "ip6" };
        let text = says(&loaded(&planned), &["-j", "list", "table", word, TABLE], "").expect("the table is there");
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let all = json["nftables"].as_array().expect("a list");
        let of =
            |kind: &str| all.iter().filter(|item| !item[kind].is_null()).map(|item| &item[kind]).collect::<Vec<_>>();
        let elements = |sets: Vec<&serde_json::Value>| -> usize {
            sets.iter().map(|set| set["elem"].as_array().map_or(0, Vec::len)).sum()
        };
        let expected: usize = planned.sets.values().map(|set| set.elements.len()).sum();
        assert_eq!(elements(of("set")) + elements(of("map")), expected);
        let rules: usize = planned.chains.values().map(|chain| chain.rules.len()).sum();
        assert_eq!((of("rule").len(), of("chain").len()), (rules, planned.chains.len()));
        assert!(text.contains("default/web:http"), "elements carry their Service's name");
    }
}

/// Two sets of which at any moment exactly one holds a mark: a dump of two moments would show none, or two.
#[test]
fn a_dump_is_of_one_moment() {
    const ROUNDS: usize = 100;
    const CHANGES: usize = 80; // a round; fewer than a dump has tries, and each try that fails takes a change
    let family = Family::V4;
    let space = loaded(&table(family, Extent::WhatNftLoads));
    let (pair, dest) =
        (Key::Pair(addr(family, 9, 9, 9), addr(family, 9, 9, 9)), Key::Dest(addr(family, 9, 9, 9), Proto::Tcp, 9));
    let put = |set: &str, key| Step::AddElements(set.into(), vec![Element { key, data: None, comment: None }]);
    let take = |set: &str, key| Step::DeleteElements(set.into(), vec![key]);
    let batch = |steps: [Step; 2]| wire::transaction(family, TABLE, &steps);
    let there = batch([take("hairpin", pair), put("cluster-ips-2", dest)]);
    let back = batch([take("cluster-ips-2", dest), put("hairpin", pair)]);
    transact(&space, family, &[put("hairpin", pair)]).expect("taken");
    let marks = |dump: Vec<Vec<u8>>| {
        let table = read(family, &dump).expect("it is there").table;
        let held = |set: &str, key| usize::from(table.sets[set].elements.contains_key(&key));
        held("hairpin", pair) + held("cluster-ips-2", dest)
    };
    netns::run_in(space.as_fd(), || {
        let mut reader = Nft::open().expect("a socket");
        for _ in 0..ROUNDS {
            std::thread::scope(|scope| {
                let writer = scope.spawn(|| {
                    let mut writer = Nft::open().expect("a socket");
                    for change in 0..CHANGES {
                        writer.transact(if change % 2 == 0 { &there } else { &back }).expect("taken");
                    }
                });
                while !writer.is_finished() {
                    let dump = reader.dump(kernel_family(family), TABLE).expect("a dump");
                    assert_eq!(marks(dump), 1);
                }
            });
        }
    })
    .expect("the namespace is there");
}

fn any_family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::V4), Just(Family::V6)]
}

fn any_statement(family: Family) -> impl Strategy<Value = Statement> {
    let sign = || prop_oneof![Just(Sign::Is), Just(Sign::Not)];
    let side = || prop_oneof![Just(Field::Source), Just(Field::Destination)];
    let most = if family == Family::V4 { 32u8 } else { 128 };
    let nets = (any::<u128>(), 0..=most).prop_map(move |(bits, prefix)| match family {
        Family::V4 => ipnet::Ipv4Net::new((bits as u32).into(), prefix).expect("at most 32").trunc().into(),
        Family::V6 => ipnet::Ipv6Net::new(bits.into(), prefix).expect("at most 128").trunc().into(),
    });
    let field = move || {
        prop_oneof![
            Just(Field::Source),
            (0..=most).prop_map(Field::SourceNet),
            Just(Field::Destination),
            Just(Field::OriginalDestination),
            Just(Field::Proto),
            Just(Field::Port),
            Just(Field::OriginalPort),
            (1u32..).prop_map(Field::Random),
            Just(Field::Priority),
        ]
    };
    // Sixteen words hold three addresses of IPv6 and four more parts.
    let key = move || prop::collection::vec(field(), 1..4);
    let name = || "[a-z][a-z0-9-]{0,30}".prop_map(Text::from);
    let proto = prop_oneof![Just(Proto::Tcp), Just(Proto::Udp), Just(Proto::Sctp)];
    let values = prop_oneof![
        (sign(), key(), name()).prop_map(|(sign, key, set)| Statement::In(sign, key, set)),
        (sign(), side(), nets).prop_map(|(sign, side, net)| Statement::Net(sign, side, net)),
        (sign(), side()).prop_map(|(sign, side)| Statement::Local(sign, side)),
        (sign(), "[a-z]{1,14}[*]?").prop_map(|(sign, name)| Statement::CameBy(sign, name.into())),
        proto.prop_map(Statement::Proto),
        any::<u16>().prop_map(Statement::Dport),
        any::<u16>().prop_map(Statement::Sport),
        any::<u32>().prop_map(Statement::Marked),
        (1u32..).prop_map(Statement::MarkOr),
        any::<u32>().prop_map(Statement::MarkXor),
    ];
    let acts = prop_oneof![
        (key(), name()).prop_map(|(key, map)| Statement::PriorityFrom(key, map)),
        (name(), prop::collection::vec(field(), 1..3), 1u32..1_000_000).prop_map(|(map, key, timeout_secs)| {
            Statement::Update { map, key, timeout_secs, data: vec![Field::Destination, Field::Port] }
        }),
        (key(), name()).prop_map(|(key, map)| Statement::DnatFrom(key, map)),
        any::<bool>().prop_map(|fully_random| Statement::Masquerade { fully_random }),
        name().prop_map(Statement::Jump),
        name().prop_map(Statement::Goto),
        prop::sample::select(vec![
            Statement::StateNew,
            Statement::Redirected,
            Statement::PriorityNone,
            Statement::NoTrack,
            Statement::Accept,
            Statement::Drop,
            Statement::Reject,
            Statement::Return,
        ]),
    ];
    prop_oneof![values, acts]
}

fn any_table() -> impl Strategy<Value = Table> {
    any_family().prop_flat_map(|family| {
        let rule = (prop::collection::vec(any_statement(family), 0..6), prop::option::of("[ -!#-~é]{0,60}"));
        let rules = prop::collection::vec(rule, 0..8);
        let elements = prop::collection::btree_map((any::<u8>(), any::<u16>()), "[ -!#-~]{0,40}", 0..40);
        (rules, elements).prop_map(move |(rules, elements)| {
            let rules =
                rules.into_iter().map(|(statements, comment)| Rule { statements, comment: comment.map(Text::from) });
            let chain = Chain { base: None, rules: rules.collect() };
            let element = |((last, port), comment): ((u8, u16), String)| {
                (Key::Dest(addr(family, 1, 2, last), Proto::Udp, port), (None, Some(comment.into())))
            };
            let shape = SetShape { key: DEST.to_vec(), data: None, dynamic: None };
            let set = Set { shape, elements: elements.into_iter().map(element).collect() };
            Table { family, name: TABLE.into(), chains: [("c".into(), chain)].into(), sets: [("s".into(), set)].into() }
        })
    })
}

proptest! {
    #[test]
    fn any_table_that_is_written_is_read_again(table in any_table()) {
        let bytes = wire::transaction(table.family, TABLE, &wire::steps_of(&table));
        let found = read(table.family, &[bytes]);
        prop_assert_eq!(found, Some(clean(table)));
    }

    #[test]
    fn bytes_that_are_cut_or_changed_are_read_without_panic(
        family in any_family(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        end in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let mut bytes = wire::transaction(family, TABLE, &wire::steps_of(&table(family, Extent::Everything)));
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if cuts {
            bytes.truncate(end.index(bytes.len()));
        }
        let _ = parse::table(family, TABLE, [&bytes[..]]);
        let shape = SetShape { key: DEST.to_vec(), data: Some(ENDPOINT.to_vec()), dynamic: Some(1) };
        let _ = parse::elements(family, &shape, [&bytes[..]]);
    }
}
