//! The table of cluster DNS: queries from the Kubernetes specification of DNS-based service discovery 1.1.0 and from what
//! clusters rely on beyond it, put to the real `portolan dns` over UDP and TCP, and read with somebody else's reader.
//!
//! One file a group in `dns_table/`; how to read one stands in `dns_table/group.rs`. As root: each group has a network
//! namespace of its own.

mod dns_table;
mod support;

use std::collections::BTreeSet;

use dns_table::group::{By, Case, Group, Want};
use dns_table::place::{Place, SERVER};
use dns_table::upstream::Upstream;
use dns_table::wire::{Rr, Seen, mixed_case, tcp, try_udp, udp, undotted};

macro_rules! groups {
    ($($name:ident)*) => {
        const GROUPS: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() { check(stringify!($name)); })*
    };
}

groups! {
    a_query_goes_to_the_longest_zone
    absence_is_told_in_the_right_way
    addresses_lead_back_to_names
    aliases_are_followed
    cluster_ips_answer_for_both_families
    empty_services_may_be_ignored
    endpoints_have_names
    endpoints_may_be_left_out
    endpoints_may_be_named_after_pods
    external_names_lead_to_external_addresses
    headless_services_answer_with_their_endpoints
    kubeadms_file_is_read_as_it_is
    namespaces_may_be_hidden
    packets_have_their_limits
    plugins_stand_in_their_order
    pods_are_named_by_their_addresses
    pods_may_be_disabled_and_ttl_is_five
    pods_may_be_verified
    reverse_zones_may_be_ranges
    service_records_name_ports
    the_apex_speaks_for_the_zone
    the_search_list_is_walked_for_the_client
    ttl_is_as_written
    what_is_not_found_may_go_on
    zones_may_be_transferred
}

/// No reply within this is silence.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(2);

#[test]
fn every_group_is_run() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dns_table");
    let files = std::fs::read_dir(dir).expect("a folder").filter_map(|entry| {
        let name = entry.expect("an entry").file_name().into_string().expect("text");
        name.strip_suffix(".group").map(str::to_owned)
    });
    let files: BTreeSet<String> = files.collect();
    assert_eq!(files, GROUPS.iter().map(|name| (*name).to_owned()).collect());
}

/// Runs one group; tells of all queries that got another answer.
fn check(name: &str) {
    let path = format!("{}/tests/dns_table/{name}.group", env!("CARGO_MANIFEST_DIR"));
    let group = Group::parse(&std::fs::read_to_string(&path).expect("the group's file"));
    let place = Place::new();
    for addr in &group.addresses {
        place.sh(&format!("ip addr add {addr} dev lo"));
    }
    place.write("objects.yaml", &group.objects);
    group.files.iter().for_each(|(name, text)| drop(place.write(name, text)));
    let mut flags = group.flags.clone();
    if let Some(corefile) = &group.corefile {
        flags.extend(["--corefile".into(), place.write("Corefile", corefile).display().to_string()]);
    }
    let _upstream = Upstream::start(&place, &group.upstream);
    let mut server = place.serve(&flags);
    let wrong: Vec<String> = group.cases.iter().flat_map(|case| place.inside(|| ask(case))).collect();
    assert!(!server.has_ended(), "{name}: the server ended: {}", server.log());
    assert!(wrong.is_empty(), "{name}: {} queries failed:\n{}", wrong.len(), wrong.join("\n"));
}

/// Asks as the case says; what is wrong with the answers.
fn ask(case: &Case) -> Vec<String> {
    let id = 0x4100 + case.line as u16;
    let mut wrong = Vec::new();
    if case.want.silence {
        let heard = try_udp(SERVER, case.from, &case.question.packet(id), SILENCE);
        wrong.extend(heard.map(|_| complaint(case, "UDP", "there is an answer", None)));
        return wrong;
    }
    if case.by != By::Tcp {
        let bytes = udp(SERVER, case.from, &case.question.packet(id));
        let seen = Seen::read(&bytes);
        let limit = usize::from(case.question.edns.unwrap_or(512).max(512));
        if seen.bytes > limit {
            wrong.push(complaint(case, "UDP", &format!("{} bytes, the client takes {limit}", seen.bytes), None));
        }
        wrong.extend(judge(case, &case.question.name, id, &seen).map(|why| complaint(case, "UDP", &why, Some(&seen))));
    }
    if case.by != By::Udp && !case.want.truncated {
        let name = mixed_case(&case.question.name);
        let edns = if case.by == By::Tcp { case.question.edns } else { None };
        let question = dns_table::wire::Question { name: name.clone(), edns, ..case.question.clone() };
        let seen = match question.rtype.to_string().as_str() {
            "AXFR" | "IXFR" => joined(tcp(SERVER, case.from, &question.packet(id), ends_transfer())),
            _ => joined(tcp(SERVER, case.from, &question.packet(id), |_| true)),
        };
        let asked = Case { question, ..case.clone() };
        wrong.extend(judge(&asked, &name, id, &seen).map(|why| complaint(case, "TCP", &why, Some(&seen))));
    }
    wrong
}

fn complaint(case: &Case, by: &str, why: &str, seen: Option<&Seen>) -> String {
    format!("  line {}, {by}: {why}\n    {}\n    {seen:?}", case.line, case.text.trim())
}

/// A transfer ends with its second SOA, or with a message that holds no record or one SOA alone.
fn ends_transfer() -> impl FnMut(&Seen) -> bool {
    let mut seen_soa = 0;
    move |message: &Seen| {
        seen_soa += message.answers.iter().filter(|rr| rr.rtype == "SOA").count();
        let alone = message.answers.len() == 1 && seen_soa == 1;
        message.answers.is_empty() || seen_soa > 1 || alone
    }
}

fn joined(messages: Vec<Seen>) -> Seen {
    let mut messages = messages.into_iter();
    let mut first = messages.next().expect("one message at least");
    first.answers.extend(messages.flat_map(|message| message.answers));
    first
}

/// What is wrong with a reply; `None`: nothing.
fn judge(case: &Case, name: &str, id: u16, seen: &Seen) -> Option<String> {
    let want = &case.want;
    let question = (undotted(name), case.question.rtype, case.question.class);
    let checks = [
        (seen.id == id && seen.is_reply, "the header is not a reply to this query"),
        (seen.question.len() == 1 && seen.question[0] == question, "the question came back changed"),
        (seen.rcode == want.rcode, "another code"),
        (want.loose || seen.truncated == want.truncated, "TC is not as it should be"),
        (
            want.loose || want.any_aa || seen.authoritative != (want.elsewhere || want.rcode == "REFUSED"),
            "AA is not as it should be",
        ),
        (seen.has_opt == case.question.edns.is_some(), "an OPT record is for those who sent one"),
        (case_is_kept(name, seen), "the owner is not written as it was asked"),
        (aliases_come_first(&seen.answers), "an alias stands behind what it leads to"),
        (want.loose || same_answers(want, seen), "other answers"),
        (want.loose || same(&want.additional, &seen.additional), "other additional records"),
    ];
    checks.into_iter().find(|(holds, _)| !holds).map(|(_, why)| why.to_owned()).or_else(|| judge_authority(want, seen))
}

fn same_answers(want: &Want, seen: &Seen) -> bool {
    let ttl = |mut records: Vec<Rr>| {
        records.iter_mut().filter(|_| want.any_ttl).for_each(|rr| rr.ttl = 0);
        records
    };
    let is_soa = |rr: &Rr| rr.rtype == "SOA";
    let (all, mut got) = (ttl(folded(&want.answers)), ttl(folded(&seen.answers)));
    if want.more {
        // A transfer: between two SOAs, each record once.
        let framed = seen.answers.len() > 1 && is_soa(&seen.answers[0]) && seen.answers.last().is_some_and(is_soa);
        got.retain(|rr| !is_soa(rr));
        let once = got.windows(2).all(|pair| pair[0] != pair[1]);
        return framed && once && all.iter().all(|rr| got.contains(rr));
    }
    match (want.truncated, want.any_one) {
        (true, _) => got.len() < all.len() && got.iter().all(|rr| all.contains(rr)),
        (_, true) => got.len() == 1 && all.contains(&got[0]),
        _ => all == got,
    }
}

/// Sorted, names without case: data may keep the case of the object or of the question.
fn folded(records: &[Rr]) -> Vec<Rr> {
    let fold = |rr: &Rr| {
        let data = if rr.rtype == "TXT" { rr.data.clone() } else { rr.data.to_ascii_lowercase() };
        Rr { owner: rr.owner.to_ascii_lowercase(), data, ..rr.clone() }
    };
    let mut records: Vec<Rr> = records.iter().map(fold).collect();
    records.sort();
    records
}

fn same(want: &[Rr], got: &[Rr]) -> bool {
    folded(want) == folded(got)
}

/// Clients that hide a nonce in the case of their question throw other answers away.
fn case_is_kept(name: &str, seen: &Seen) -> bool {
    let asked = undotted(name);
    seen.answers.iter().filter(|rr| rr.owner.eq_ignore_ascii_case(&asked)).all(|rr| rr.owner == asked)
}

fn aliases_come_first(answers: &[Rr]) -> bool {
    let place_of = |owner: &str| answers.iter().position(|rr| rr.owner.eq_ignore_ascii_case(owner));
    answers
        .iter()
        .enumerate()
        .filter(|(_, rr)| rr.rtype == "CNAME")
        .all(|(at, rr)| place_of(&rr.data).is_none_or(|place| place > at))
}

fn judge_authority(want: &Want, seen: &Seen) -> Option<String> {
    let Some((zone, mname)) = &want.soa else {
        let expected = want.loose || want.elsewhere || same(&want.authority, &seen.authority);
        return (!expected).then(|| "other records of authority".into());
    };
    let [soa] = &seen.authority[..] else { return Some("one SOA belongs to an absence".into()) };
    let words: Vec<&str> = soa.data.split(' ').collect();
    // An external zone's mailbox stands beside its name server, below `dns`.
    let home = if mname.starts_with("ns1.") { mname.trim_start_matches("ns1.") } else { zone };
    let right = soa.rtype == "SOA"
        && soa.owner.eq_ignore_ascii_case(zone)
        && soa.ttl == want.ttl.min(300)
        && words.len() == 7
        && words[0].eq_ignore_ascii_case(mname)
        && words[1].eq_ignore_ascii_case(&format!("hostmaster.{home}"))
        && words[3..6] == ["7200", "1800", "86400"]
        && words[6] == want.ttl.to_string();
    (!right).then(|| format!("another SOA than that of {zone}"))
}
