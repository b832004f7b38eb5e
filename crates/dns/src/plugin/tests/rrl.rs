//! `rrl`: what a client network gets of equal answers.

use std::time::Duration;

use super::super::rrl::{Kind, Rrl, Verdict};
use super::{asked, block, ip, name};

const MILLI: Duration = Duration::from_millis(1);

fn rrl(options: &str) -> Rrl {
    let block = block("example.org", &format!("rrl {{\n{options}\n}}"));
    Rrl::prepare(block.rrl.as_ref().expect("rrl"), &block.zones, 0x5eed)
}

/// Verdicts on `times` equal answers from `client`, each a millisecond after the last.
fn verdicts(rrl: &mut Rrl, client: &str, name: &str, kind: Kind, from: Duration, times: u32) -> Vec<Verdict> {
    let one = |n| asked(name, "A", |query| rrl.judge(ip(client), query, kind, None, from + n * MILLI));
    (0..times).map(one).collect()
}

fn sent(verdicts: &[Verdict]) -> usize {
    verdicts.iter().filter(|verdict| **verdict == Verdict::Send).count()
}

#[test]
fn a_seconds_worth_goes_out_and_then_what_the_rate_allows() {
    let mut rrl = rrl("responses-per-second 10");
    let first = verdicts(&mut rrl, "10.0.0.1", "a.example.org.", Kind::Response, Duration::ZERO, 60);
    assert_eq!(sent(&first), 10);
    assert_eq!(first[10..14], [Verdict::Drop, Verdict::Cut, Verdict::Drop, Verdict::Cut], "each second one is cut");
    // The debt is no deeper than the window, and is paid off by keeping quiet.
    let later = verdicts(&mut rrl, "10.0.0.1", "a.example.org.", Kind::Response, Duration::from_secs(30), 20);
    assert_eq!(sent(&later), 10);
}

#[test]
fn a_client_that_does_not_stop_stays_over_the_limit_for_the_window() {
    let mut rrl = rrl("responses-per-second 1\nwindow 5");
    let flood = verdicts(&mut rrl, "10.0.0.1", "a.example.org.", Kind::Response, Duration::ZERO, 1000);
    assert_eq!(sent(&flood), 1);
    let at =
        |rrl: &mut Rrl, secs| verdicts(rrl, "10.0.0.1", "a.example.org.", Kind::Response, Duration::from_secs(secs), 1);
    assert_eq!(sent(&at(&mut rrl, 4)), 0, "a window's worth of debt");
    assert_eq!(sent(&at(&mut rrl, 20)), 1);
}

#[test]
fn networks_kinds_and_names_have_accounts_of_their_own() {
    let mut rrl = rrl("responses-per-second 1\nerrors-per-second 0");
    let mut one =
        |client: &str, name: &str, kind| sent(&verdicts(&mut rrl, client, name, kind, Duration::from_secs(1), 1));
    assert_eq!(one("10.0.0.1", "a.example.org.", Kind::Response), 1);
    assert_eq!(one("10.0.0.200", "A.example.org.", Kind::Response), 0, "one /24 is one client, and case is no name");
    assert_eq!(one("10.0.1.1", "a.example.org.", Kind::Response), 1);
    assert_eq!(one("::ffff:10.0.1.9", "a.example.org.", Kind::Response), 0);
    assert_eq!(one("fd00:0:0:100::1", "a.example.org.", Kind::Response), 1);
    assert_eq!(one("fd00:0:0:1ff::2", "a.example.org.", Kind::Response), 0, "one /56 is one client");
    assert_eq!(one("fd00:0:0:200::1", "a.example.org.", Kind::Response), 1);
    assert_eq!(one("10.0.0.1", "b.example.org.", Kind::Response), 1);
    assert_eq!(one("10.0.0.1", "a.example.org.", Kind::Nodata), 1);
    assert_eq!(one("10.0.0.1", "a.example.com.", Kind::Response), 1, "not its zone");
    assert_eq!((0..50).map(|_| one("10.0.0.1", "a.example.org.", Kind::Error)).sum::<usize>(), 50, "no limit");
}

#[test]
fn names_that_do_not_exist_share_their_zones_account() {
    let mut rrl = rrl("nxdomains-per-second 5");
    let zone = name("example.org.");
    let one = |n: u32| {
        let asked_for = format!("random{n}.example.org.");
        asked(&asked_for, "A", |query| rrl.judge(ip("10.0.0.1"), query, Kind::Nxdomain, Some(&zone), n * MILLI))
    };
    assert_eq!(sent(&(0..100).map(one).collect::<Vec<_>>()), 5);
}

#[test]
fn options_say_what_happens_over_the_limit() {
    let mut none = rrl("responses-per-second 1\nslip-ratio 0");
    let found = verdicts(&mut none, "10.0.0.1", "a.example.org.", Kind::Response, Duration::ZERO, 10);
    assert!(found[1..].iter().all(|verdict| *verdict == Verdict::Drop), "{found:?}");
    let mut all = rrl("responses-per-second 1\nslip-ratio 1");
    let found = verdicts(&mut all, "10.0.0.1", "a.example.org.", Kind::Response, Duration::ZERO, 10);
    assert!(found[1..].iter().all(|verdict| *verdict == Verdict::Cut), "{found:?}");
    let mut told = rrl("responses-per-second 1\nreport-only");
    assert_eq!(sent(&verdicts(&mut told, "10.0.0.1", "a.example.org.", Kind::Response, Duration::ZERO, 10)), 10);
    let mut requests = rrl("requests-per-second 2");
    let found: Vec<Verdict> = (0..5)
        .map(|n| asked("a.example.org.", "A", |query| requests.judge_request(ip("10.0.0.1"), query, n * MILLI)))
        .collect();
    assert_eq!(found, [Verdict::Send, Verdict::Send, Verdict::Drop, Verdict::Drop, Verdict::Drop]);
}

#[test]
fn a_flood_of_clients_takes_no_more_accounts_than_were_allowed() {
    let mut rrl = rrl("responses-per-second 1\nmax-table-size 64");
    for n in 0..50_000_u32 {
        let client = std::net::IpAddr::from(std::net::Ipv4Addr::from(n << 8));
        asked("a.example.org.", "A", |query| rrl.judge(client, query, Kind::Response, None, n * MILLI / 1000));
    }
    assert_eq!(rrl.capacity(), 64);
    // Of clients in thousands a small table forgets most; the one that floods by itself is still held.
    let found = verdicts(&mut rrl, "192.0.2.1", "a.example.org.", Kind::Response, Duration::from_secs(60), 100);
    assert_eq!(sent(&found), 1);
}
