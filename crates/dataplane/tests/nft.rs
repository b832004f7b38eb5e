//! nf_tables as text, as bytes and in the kernel say the same.
//!
//! Each test makes network namespaces of its own, as root. `nft` is that of `PORTOLAN_DEB_BIN`, of `target/deb/bin`, or of
//! `PATH`, in this order.

#[path = "nft/planned.rs"]
mod planned;
#[path = "nft/read_back.rs"]
mod read_back;
#[path = "nft/samples.rs"]
mod samples;

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use portolan_dataplane::nftables::lang::*;
use portolan_dataplane::nftables::{render, wire};
use portolan_kernel::netns;
use portolan_kernel::nft::{Nft, NftError};
use portolan_kernel::nft_monitor::{NftEvent, NftMonitor};
use portolan_model::{Family, Proto};

use samples::{Extent, TABLE, addr, table};

fn nft() -> PathBuf {
    let told = std::env::var_os("PORTOLAN_DEB_BIN").map(PathBuf::from);
    let fetched = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/deb/bin");
    let found = told.into_iter().chain([fetched]).map(|dir| dir.join("nft")).find(|path| path.exists());
    found.unwrap_or_else(|| "nft".into())
}

fn word(family: Family) -> &'static str {
    if family == Family::V4 { "ip" } else { "ip6" }
}

/// Runs nft in the namespace; what it says, or its errors.
fn says(space: &OwnedFd, args: &[&str], input: &str) -> Result<String, String> {
    netns::run_in(space.as_fd(), || {
        let mut child = Command::new(nft())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("nft is there: scripts/fetch-debs.sh brings it");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("nft reads");
        let output = child.wait_with_output().expect("nft ends");
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).expect("text")),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    })
    .expect("the namespace is there")
}

fn listed(space: &OwnedFd, family: Family) -> String {
    says(space, &["list", "table", word(family), TABLE], "").expect("the table is there")
}

fn transact(space: &OwnedFd, family: Family, steps: &[Step]) -> Result<(), NftError> {
    let batch = wire::transaction(family, TABLE, steps);
    netns::run_in(space.as_fd(), || Nft::open()?.transact(&batch)).expect("the namespace is there")
}

fn loaded(table: &Table) -> OwnedFd {
    let space = netns::create().expect("as root");
    transact(&space, table.family, &wire::steps_of(table)).expect("the kernel takes it");
    space
}

/// Lines without order: the kernel lists elements as its hash has them.
fn sorted(text: &str) -> Vec<String> {
    let clean =
        |line: &str| line.trim().trim_start_matches("elements = {").trim_end_matches(['}', ',']).trim().to_owned();
    let mut lines: Vec<String> = text.split(['\n', ',']).map(clean).filter(|line| !line.is_empty()).collect();
    lines.sort();
    lines
}

#[test]
fn what_is_sent_as_bytes_lists_like_what_nft_loads_from_our_text() {
    for family in Family::BOTH {
        let planned = table(family, Extent::WhatNftLoads);
        let by_bytes = loaded(&planned);
        let by_text = netns::create().expect("as root");
        says(&by_text, &["-f", "-"], &render::full(&planned)).expect("nft loads our text");
        let (bytes, text) = (listed(&by_bytes, family), listed(&by_text, family));
        assert_eq!(sorted(&bytes), sorted(&text), "{family:?}\n{bytes}\n{text}");
    }
}

/// What nft 1.0.6 cannot load (`render`'s module doc) it can list: the bytes are those that later versions send.
#[test]
fn the_one_rule_that_old_nft_cannot_load_is_listed_as_we_render_it() {
    let planned = table(Family::V6, Extent::Everything);
    let text = listed(&loaded(&planned), Family::V6);
    let rule =
        "update @affinity-clients { ip6 saddr . meta l4proto . meta priority timeout 3h : ip6 daddr . th dport }";
    assert!(text.contains(rule), "{text}");
}

#[test]
fn a_transaction_as_text_does_what_its_bytes_do() {
    for family in Family::BOTH {
        let planned = table(family, Extent::WhatNftLoads);
        let (vip, pod) = (addr(family, 96, 0, 1), addr(family, 1, 0, 2));
        let steps = [
            Step::FlushChain("pick".into()),
            Step::AddRule("pick".into(), Rule { statements: vec![Statement::Return], comment: Some("later".into()) }),
            Step::DeleteElements("endpoints".into(), vec![Key::DestSlot(vip, Proto::Tcp, 80, 1)]),
            Step::AddElements("hairpin".into(), vec![Element { key: Key::Pair(pod, pod), data: None, comment: None }]),
            Step::DeleteSet("node-port-endpoints".into()),
            Step::AddChain("late".into(), None),
            Step::DeleteChain("raw".into()),
        ];
        let spaces = [loaded(&planned), loaded(&planned)];
        transact(&spaces[0], family, &[&[Step::FlushChain("raw".into())], &steps[..]].concat()).expect("as bytes");
        let is_map = |name: &str| planned.sets.get(name).is_some_and(|set| set.shape.data.is_some());
        let flush = [Step::FlushChain("raw".into())];
        let text = render::steps(family, TABLE, &[&flush[..], &steps[..]].concat(), is_map);
        says(&spaces[1], &["-f", "-"], &text).expect("as text");
        let (bytes, text) = (listed(&spaces[0], family), listed(&spaces[1], family));
        assert_eq!(sorted(&bytes), sorted(&text), "{bytes}\n{text}");
    }
}

#[test]
fn a_bad_step_refuses_all_and_is_named() {
    let family = Family::V4;
    let space = loaded(&table(family, Extent::Everything));
    let before = listed(&space, family);
    let steps = [
        Step::AddChain("new".into(), None),
        Step::AddRule("new".into(), Rule::new(vec![Statement::Goto("nowhere".into())])),
        Step::AddChain("newer".into(), None),
    ];
    let Err(NftError::Refused(refused)) = transact(&space, family, &steps) else { panic!("it was taken") };
    assert_eq!((refused.step, refused.errno), (Some(1), 2), "{refused}");
    assert_eq!(listed(&space, family), before);
    let gone = Step::DeleteElements("cluster-ips".into(), vec![Key::Addr(addr(family, 9, 9, 9))]);
    let Err(NftError::Refused(refused)) = transact(&space, family, &[steps[0].clone(), gone]) else { panic!("taken") };
    assert_eq!((refused.step, refused.errno), (Some(1), 2), "{refused}");
    assert_eq!(listed(&space, family), before);
}

#[test]
fn adding_and_deleting_the_table_work_whether_it_is_there_or_not() {
    let space = netns::create().expect("as root");
    for steps in [vec![Step::DeleteTable], vec![Step::AddTable, Step::AddTable], vec![Step::DeleteTable], vec![]] {
        transact(&space, Family::V6, &steps).unwrap_or_else(|error| panic!("{steps:?}: {error}"));
    }
    assert_eq!(says(&space, &["list", "ruleset"], "").as_deref(), Ok(""));
}

/// Lists longer than an attribute may be, and a batch longer than a socket takes by default. The kernel grows its hash
/// tables for a while after; a dump meanwhile is whole all the same.
#[test]
fn a_hundred_thousand_elements_go_in_at_once_and_are_read_back_whole() {
    let family = Family::V6;
    let comment = Some("a-namespace/a-service-with-a-long-name:http".into());
    let element = |n: u32| Element {
        key: Key::DestSlot(addr(family, 7, (n >> 16) as u8, (n >> 8) as u8), Proto::Tcp, 80, n & 0xff),
        data: Some(Data::Endpoint(addr(family, 8, 0, 1), 8080)),
        comment: if n.is_multiple_of(3) { Option::clone(&comment) } else { None },
    };
    let elements: Vec<Element> = (0..100_000).map(element).collect();
    let keys = elements[1000..].iter().map(|element| element.key).collect();
    let mut planned = table(family, Extent::Everything);
    let space = loaded(&planned);
    let held = elements.iter().map(|element| (element.key, (element.data, element.comment.clone())));
    planned.sets.get_mut("endpoints").expect("it is in the sample").elements.extend(held);
    transact(&space, family, &[Step::AddElements("endpoints".into(), elements)]).expect("all of them");
    let found = read_back::in_kernel(&space, family).expect("the table is there").table;
    let count = |table: &Table| table.sets["endpoints"].elements.len();
    assert_eq!(count(&found), count(&planned));
    assert!(found.sets["endpoints"] == planned.sets["endpoints"], "each as it was sent");
    transact(&space, family, &[Step::DeleteElements("endpoints".into(), keys)]).expect("and out again");
    let found = read_back::in_kernel(&space, family).expect("the table is there").table;
    assert_eq!(count(&found), count(&planned) - 99_000);
}

#[test]
fn the_monitor_tells_of_others_and_not_of_us() {
    let space = netns::create().expect("as root");
    let family = Family::V4;
    let planned = table(family, Extent::Everything);
    let by_ourselves = |space: &OwnedFd, text: &str| {
        netns::run_in(space.as_fd(), || {
            let mut ours = Nft::open().expect("a socket");
            let mut monitor = NftMonitor::open(&[ours.port()]).expect("a monitor");
            ours.transact(&wire::transaction(family, TABLE, &wire::steps_of(&planned))).expect("taken");
            assert_eq!(monitor.read().expect("readable"), [], "our own changes are none of its business");
            says(&space.try_clone().expect("a descriptor"), &["-f", "-"], text).expect("nft takes it");
            let events = monitor.read().expect("readable");
            (events, ours.generation().expect("a generation"))
        })
        .expect("the namespace is there")
    };
    let foreign = "add element ip portolan cluster-ips { 10.9.9.9 }\nadd table ip6 other\n";
    let (events, generation) = by_ourselves(&space, foreign);
    let [NftEvent::Changed(change)] = &events[..] else { panic!("{events:?}") };
    let tables: Vec<(u8, &str)> = change.tables.iter().map(|(family, name)| (*family, name.as_str())).collect();
    assert_eq!((tables, change.process.as_str()), (vec![(2, "portolan"), (10, "other")], "nft"));
    assert_eq!(change.generation, generation);
}

/// The tables of iptables-nft are nf_tables too: who edits them is told of.
#[test]
fn the_monitor_tells_of_iptables_and_of_what_it_could_not_keep() {
    let space = netns::create().expect("as root");
    netns::run_in(space.as_fd(), || {
        let mut monitor = NftMonitor::open(&[]).expect("a monitor");
        let iptables = nft().with_file_name("iptables-nft");
        let args = ["-t", "nat", "-A", "OUTPUT", "-d", "192.0.2.1", "-j", "ACCEPT"];
        assert!(Command::new(iptables).args(args).status().expect("iptables-nft is there").success());
        let events = monitor.read().expect("readable");
        let changed: Vec<(Vec<(u8, String)>, &str)> = events
            .iter()
            .map(|event| match event {
                NftEvent::Changed(change) => (change.tables.iter().cloned().collect(), change.process.as_str()),
                NftEvent::Lost => panic!("{events:?}"),
            })
            .collect();
        assert!(changed.contains(&(vec![(2, "nat".to_owned())], "xtables-nft-mul")), "{changed:?}");
        let mut other = Nft::open().expect("a socket");
        let planned = table(Family::V4, Extent::Everything);
        other.transact(&wire::transaction(Family::V4, TABLE, &wire::steps_of(&planned))).expect("taken");
        let many = |n: u32| Element {
            key: Key::Addr(std::net::Ipv4Addr::from(0x0a00_0000 + n).into()),
            data: None,
            comment: None,
        };
        let flood = Step::AddElements("cluster-ips".into(), (0..200_000).map(many).collect());
        other.transact(&wire::transaction(Family::V4, TABLE, &[flood])).expect("taken");
        assert!(monitor.read().expect("readable").contains(&NftEvent::Lost), "more than a socket holds");
        other.transact(&wire::transaction(Family::V4, TABLE, &[Step::AddChain("late".into(), None)])).expect("taken");
        assert!(matches!(&monitor.read().expect("readable")[..], [NftEvent::Changed(_)]), "and it goes on");
    })
    .expect("the namespace is there");
}
