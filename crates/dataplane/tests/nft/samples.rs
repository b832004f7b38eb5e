//! A table in which every statement and every kind of key stands, in both families.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use portolan_dataplane::nftables::lang::*;
use portolan_model::{Family, Proto as L4, Text};

pub const TABLE: &str = "portolan";

/// An address of the family: 10.A.B.C or fd00:A:B::C.
pub fn addr(family: Family, a: u8, b: u8, c: u8) -> IpAddr {
    match family {
        Family::V4 => format!("10.{a}.{b}.{c}"),
        Family::V6 => format!("fd00:{a}:{b}::{c:x}"),
    }
    .parse()
    .expect("an address")
}

pub fn net(family: Family, v4: &str, v6: &str) -> IpNet {
    if family == Family::V4 { v4 } else { v6 }.parse().expect("a prefix")
}

fn shape(key: &[Type], data: Option<&[Type]>) -> SetShape {
    SetShape { key: key.to_vec(), data: data.map(<[Type]>::to_vec), dynamic: None }
}

fn set(shape: SetShape, elements: Vec<(Key, Option<Data>, Option<&str>)>) -> Set {
    let elements = elements.into_iter().map(|(key, data, comment)| (key, (data, comment.map(Text::from))));
    Set { shape, elements: elements.collect() }
}

pub const ENDPOINT: &[Type] = &[Type::Addr, Type::Port];
pub const DEST: &[Type] = &[Type::Addr, Type::Proto, Type::Port];

pub fn sets(family: Family) -> BTreeMap<Text, Set> {
    use Type::*;
    let a = |a, b, c| addr(family, a, b, c);
    let (vip, other, pod) = (a(96, 0, 1), a(96, 0, 2), a(1, 0, 1));
    let slot_key = [Addr, Proto, Port, Slot];
    let id = 0x1234_5678;
    let endpoints = vec![
        (Key::DestSlot(vip, L4::Tcp, 80, 0), Some(Data::Endpoint(pod, 8080)), Some("default/web:http")),
        (Key::DestSlot(vip, L4::Tcp, 80, 1), Some(Data::Endpoint(a(1, 0, 2), 8080)), None),
    ];
    let node_ports = vec![(Key::PortSlot(L4::Sctp, 30000, 513), Some(Data::Endpoint(pod, 9)), Some("x/\"y"))];
    let affinity = vec![
        (Key::Dest(vip, L4::Tcp, 80), Some(Data::Id(id)), None),
        (Key::Dest(vip, L4::Tcp, 81), Some(Data::Id(7)), None),
        (Key::Dest(vip, L4::Tcp, 82), Some(Data::Id(0x70000)), None),
    ];
    let mut clients = shape(&[Addr, Proto, Id], Some(ENDPOINT));
    clients.dynamic = Some(65536);
    let all = [
        ("endpoints", set(shape(&slot_key, Some(ENDPOINT)), endpoints)),
        ("node-port-endpoints", set(shape(&[Proto, Port, Slot], Some(ENDPOINT)), node_ports)),
        (
            "cluster-ips-2",
            set(
                shape(DEST, None),
                vec![
                    (Key::Dest(vip, L4::Tcp, 80), None, Some("default/web:http")),
                    (Key::Dest(other, L4::Udp, 53), None, None),
                ],
            ),
        ),
        (
            "cluster-ips",
            set(shape(&[Addr], None), vec![(Key::Addr(vip), None, Some("x")), (Key::Addr(other), None, None)]),
        ),
        ("hairpin", set(shape(&[Addr, Addr], None), vec![(Key::Pair(pod, pod), None, None)])),
        (
            "allowed-24",
            set(
                shape(&[Addr, Proto, Port, Addr], None),
                vec![(Key::DestFrom(vip, L4::Tcp, 80, a(2, 3, 0)), None, None)],
            ),
        ),
        ("node-ports", set(shape(&[Proto, Port], None), vec![(Key::Port(L4::Tcp, 30000), None, None)])),
        ("affinity-cluster-ips", set(shape(DEST, Some(&[Id])), affinity)),
        ("affinity-10800", set(shape(&[Id], None), vec![(Key::Id(id), None, None), (Key::Id(7), None, None)])),
        ("affinity-clients", set(clients, vec![])),
    ];
    all.into_iter().map(|(name, set)| (name.into(), set)).collect()
}

fn chain(base: Option<(ChainKind, HookPoint, i32)>, rules: Vec<Vec<Statement>>) -> Chain {
    let base = base.map(|(kind, hook, priority)| Base { kind, hook, priority });
    Chain { base, rules: rules.into_iter().map(Rule::new).collect() }
}

/// Whether the rule that no nft before 1.1.0 can load is in it.
#[derive(Clone, Copy, PartialEq)]
pub enum Extent {
    Everything,
    WhatNftLoads,
}

fn services(family: Family) -> Vec<Vec<Statement>> {
    use Statement::*;
    let dest = || vec![Field::Destination, Field::Proto, Field::Port];
    let client = || vec![Field::Source, Field::Proto, Field::Priority];
    let original = || vec![Field::OriginalDestination, Field::Proto, Field::OriginalPort];
    let prefix = if family == Family::V4 { 24 } else { 48 };
    let mut allowed = dest();
    allowed.push(Field::SourceNet(prefix));
    let from = |sign, v4, v6| Net(sign, Field::Source, net(family, v4, v6));
    vec![
        vec![
            from(Sign::Not, "10.0.0.0/8", "fd00::/8"),
            In(Sign::Is, vec![Field::Destination], "cluster-ips".into()),
            MarkOr(0x4000),
        ],
        vec![PriorityFrom(dest(), "affinity-cluster-ips".into()), DnatFrom(client(), "affinity-clients".into())],
        vec![In(Sign::Is, dest(), "cluster-ips-2".into()), Goto("pick".into())],
        vec![In(Sign::Not, dest(), "cluster-ips-2".into()), Return],
        vec![
            Local(Sign::Is, Field::Destination),
            In(Sign::Is, vec![Field::Proto, Field::Port], "node-ports".into()),
            Goto("pick".into()),
        ],
        vec![Local(Sign::Not, Field::Source), Accept],
        vec![CameBy(Sign::Is, "cali*".into()), Accept],
        vec![CameBy(Sign::Is, "eth0".into()), Accept],
        vec![CameBy(Sign::Not, "eth1*".into()), Accept],
        vec![Proto(L4::Tcp), Dport(53), StateNew, Redirected, Accept],
        vec![Proto(L4::Udp), Sport(53), NoTrack],
        vec![from(Sign::Is, "10.2.3.0/24", "fd00:2:3::/48"), Accept],
        vec![from(Sign::Is, "10.2.0.0/22", "fd00:8::/29"), Accept],
        vec![from(Sign::Not, "10.2.0.0/15", "fd00:2::/35"), Accept],
        vec![Net(Sign::Is, Field::Destination, net(family, "10.2.3.1/32", "fd00:2:3::1/128")), Accept],
        vec![In(Sign::Is, allowed, "allowed-24".into()), Return],
        vec![Proto(L4::Tcp), PriorityFrom(original(), "affinity-cluster-ips".into()), Jump("remember".into())],
    ]
}

/// The table.
pub fn table(family: Family, extent: Extent) -> Table {
    use Statement::*;
    let remember = vec![
        In(Sign::Is, vec![Field::Priority], "affinity-10800".into()),
        Update {
            map: "affinity-clients".into(),
            key: vec![Field::Source, Field::Proto, Field::Priority],
            timeout_secs: 10800,
            data: vec![Field::Destination, Field::Port],
        },
    ];
    let remembered = (family == Family::V4 || extent == Extent::Everything).then_some(remember);
    let slots = vec![Field::Destination, Field::Proto, Field::Port, Field::Random(2)];
    let hairpin = vec![Field::Source, Field::Destination];
    let post = vec![
        vec![Marked(0x4000), MarkXor(0x4000), Masquerade { fully_random: true }],
        vec![Redirected, In(Sign::Is, hairpin, "hairpin".into()), Masquerade { fully_random: false }],
    ];
    let hook = |kind, hook, priority| Some((kind, hook, priority));
    let mut chains = BTreeMap::from([
        (
            "nat-prerouting".into(),
            chain(hook(ChainKind::Nat, HookPoint::Prerouting, -100), vec![vec![Jump("services".into())]]),
        ),
        (
            "nat-output".into(),
            chain(hook(ChainKind::Nat, HookPoint::Output, -100), vec![vec![Jump("services".into())]]),
        ),
        ("nat-postrouting".into(), chain(hook(ChainKind::Nat, HookPoint::Postrouting, 100), post)),
        ("raw".into(), chain(hook(ChainKind::Filter, HookPoint::Prerouting, -300), vec![vec![NoTrack]])),
        ("filter-input".into(), chain(hook(ChainKind::Filter, HookPoint::Input, 0), vec![vec![Drop]])),
        ("filter-forward".into(), chain(hook(ChainKind::Filter, HookPoint::Forward, -110), vec![vec![Reject]])),
        ("pick".into(), chain(None, vec![vec![DnatFrom(slots, "endpoints".into())]])),
        ("remember".into(), chain(None, remembered.into_iter().chain([vec![PriorityNone]]).collect())),
        (Text::from("services"), chain(None, services(family))),
    ]);
    let first = &mut chains.get_mut("services").expect("just made").rules[0];
    first.comment = Some("masquerade what comes from outside".into());
    Table { family, name: TABLE.into(), chains, sets: sets(family) }
}
