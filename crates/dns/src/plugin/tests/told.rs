//! `log` and `errors`: what is written, and what is not.

use std::sync::Arc;
use std::time::Duration;

use super::super::errors::Errors;
use super::super::log::{Dealt, Log};
use super::{block, name, record};
use crate::build::Reply;
use crate::client::Client;
use crate::corefile::{Sources, read};
use crate::rdata::Rtype;
use crate::site::{Now, Setup, Site, Surroundings};
use crate::wire::{Edns, Query, Rcode, Transport, ask, question};

/// The line for `name AAAA`, answered by `reply`.
fn line(rules: &str, asked: &str, reply: Option<Reply<'_>>, remote: &str) -> Option<String> {
    let edns = Edns { udp_size: 4096, version: 0, dnssec_ok: true };
    let packet = ask(999, &question(&name(asked), Rtype::AAAA), false, Some(edns));
    let query = Query::parse(&packet).expect("a query of ours");
    let (addr, local) = (remote.parse().expect("an address"), "10.96.0.10:53".parse().expect("an address"));
    let client = Client { addr, local, transport: Transport::Udp, link: 0 };
    let rcode = reply.as_ref().map_or(Rcode::NOERROR, |reply| reply.rcode);
    let reply = reply.map_or(Vec::new(), |reply| reply.render(&query, Transport::Udp));
    let took = Duration::from_micros(1530);
    let log = Log::prepare(&block(".", rules).logs).expect("rules");
    log.line(&Dealt { client: &client, query: &query, query_len: packet.len(), reply: &reply, rcode, took })
}

fn answer() -> Reply<'static> {
    Reply {
        authoritative: true,
        recursion_available: true,
        answers: vec![record("a.example. 5 AAAA fd00::1")],
        ..Reply::new(Rcode::NOERROR)
    }
}

#[test]
fn lines_are_corednss() {
    let common = "10.0.0.7:5353 - 999 \"AAAA IN a.example. udp 38 true 4096\" NOERROR qr,aa,rd,ra 66 0.00153s";
    assert_eq!(line("log", "a.Example.", Some(answer()), "10.0.0.7:5353").as_deref(), Some(common));
    assert_eq!(line("log", "a.Example.", Some(answer()), "[::ffff:10.0.0.7]:5353").as_deref(), Some(common));
    let combined = line("log . {combined}", "a.Example.", Some(answer()), "10.0.0.7:5353");
    assert_eq!(combined.as_deref(), Some(format!("{common} \"0\"").as_str()));
    let own = "log . \"{remote} {local} {/kubernetes/service} {name} {nothing} {\"";
    assert_eq!(
        line(own, "a.example.", Some(answer()), "[fd00::7]:1").as_deref(),
        Some("[fd00::7] 10.96.0.10 - a.example. {nothing} {")
    );
    assert_eq!(
        line("log . {rcode}-{rsize}-{>rflags}", "a.example.", None, "10.0.0.7:1").as_deref(),
        Some("--0--"),
        "dropped"
    );
}

#[test]
fn the_first_rule_for_the_name_decides_by_class() {
    let rules = "log a.example \"A {rcode}\" {\nclass denial error\n}\nlog . \"root {rcode}\" {\nclass success\n}";
    let say = |asked, reply| line(rules, asked, reply, "10.0.0.7:1");
    assert_eq!(say("x.a.example.", Some(answer())), None, "its rule does not want it, and no other is asked");
    assert_eq!(say("x.a.example.", Some(Reply::new(Rcode::NXDOMAIN))).as_deref(), Some("A NXDOMAIN"));
    assert_eq!(
        say("x.a.example.", Some(Reply::new(Rcode::NOERROR))).as_deref(),
        Some("A NOERROR"),
        "no records is a denial"
    );
    assert_eq!(say("x.a.example.", Some(Reply::new(Rcode::REFUSED))).as_deref(), Some("A REFUSED"));
    assert_eq!(say("b.example.", Some(answer())).as_deref(), Some("root NOERROR"));
    assert_eq!(say("b.example.", Some(Reply::new(Rcode::SERVFAIL))), None);
}

#[test]
fn a_site_gives_the_line_of_the_block_that_a_query_falls_to_and_leaves_its_queries_to_whom_writes() {
    let corefile =
        read(". {\nany\nlog . {name}-{rcode}\n}\nquiet.example {\nany\n}\n", &Sources::none()).expect("right");
    let site = Site::nothing().with_setup(Arc::new(Setup::after(None, corefile, &Surroundings::default())));
    for (asked, wanted, now_written) in
        [("a.example.", Some("a.example.-REFUSED"), false), ("b.quiet.example.", None, true)]
    {
        let packet = ask(999, &question(&name(asked), Rtype::ANY), false, None);
        let query = Query::parse(&packet).expect("a query of ours");
        let (addr, local) = ("10.0.0.7:1".parse().expect("an address"), "10.96.0.10:53".parse().expect("an address"));
        let client = Client { addr, local, transport: Transport::Udp, link: 0 };
        let reply = Reply::new(Rcode::REFUSED).render(&query, Transport::Udp);
        let took = Duration::from_micros(1);
        let dealt = Dealt {
            client: &client,
            query: &query,
            query_len: packet.len(),
            reply: &reply,
            rcode: Rcode::REFUSED,
            took,
        };
        assert_eq!(site.log_line(&dealt).as_deref(), wanted);
        let now = site.answer_now(&packet, &client, Duration::ZERO, &mut Vec::new());
        assert_eq!(matches!(now, Now::Replied(_)), now_written, "a thread writes no lines: {now:?}");
    }
}

#[test]
fn errors_that_are_alike_are_told_of_once() {
    let block = block(".", "errors {\nconsolidate 5m \"timeout$\"\nconsolidate 10s \"^2 .*\"\n}");
    let mut errors = Errors::prepare(block.errors.as_ref().expect("errors"));
    let secs = Duration::from_secs;
    assert!(errors.is_written("something else", secs(0)));
    assert!(!errors.is_written("2 a.example. A: i/o timeout", secs(1)), "the first pattern that fits counts it");
    assert!(!errors.is_written("2 b.example. A: i/o timeout", secs(200)));
    assert!(!errors.is_written("2 c.example. A: refused", secs(200)));
    assert_eq!(errors.next_due(), Some(secs(210)));
    assert_eq!(errors.due(secs(209)), Vec::<String>::new());
    assert_eq!(errors.due(secs(211)), ["1 errors like '^2 .*' occurred in last 10s"]);
    assert_eq!(errors.due(secs(301)), ["2 errors like 'timeout$' occurred in last 5m0s"]);
    assert_eq!((errors.next_due(), errors.due(secs(900))), (None, Vec::new()), "what was told is not told again");
}
