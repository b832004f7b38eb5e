//! Groups of upstreams that answer, lie, hang, slow down or go: no socket, no clock, no chance.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::kept::{address, said, wants};
use super::name;
use crate::Rtype;
use crate::build::{Reply, Rr};
use crate::corefile::config::{ForwardConfig, Place, Policy, Target, TlsConfig};
use crate::forward::step::{Ask, Done, GroupConfig, GroupId, Outcome, Sending, Step, Way};
use crate::forward::view::Health;
use crate::forward::{Question, Upstreams, is_below};
use crate::message::{Message, Record};
use crate::wire::{Query, Rcode, Transport};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

pub fn group(to: &[&str]) -> GroupConfig {
    let forward = ForwardConfig {
        place: Place::default(),
        from: name("."),
        to: to.iter().map(|text| target(text)).collect(),
        except: Vec::new(),
        force_tcp: false,
        prefer_udp: false,
        max_fails: 2,
        expire: SECOND * 10,
        health_check: SECOND / 2,
        policy: Policy::Sequential,
        max_concurrent: 0,
        next_on: Vec::new(),
        tls: TlsConfig::default(),
    };
    GroupConfig { forward, loop_zone: None, mixes_case: false }
}

/// `a` is 192.0.2.10 and so on; with a slash it is a file.
fn target(text: &str) -> Target {
    let last = text.as_bytes()[0].wrapping_sub(b'a').wrapping_add(10);
    let addr = |port| std::net::SocketAddr::from(([192, 0, 2, last], port));
    match text.split_once(':') {
        Some((_, "tls")) => Target::Tls(addr(853)),
        Some((_, "https")) => Target::Https { addr: addr(443), path: "/dns-query".into() },
        _ if text.starts_with('/') => Target::File(text.into()),
        _ => Target::Plain(addr(53)),
    }
}

/// The upstreams, what they want done, and a clock that stands still until told.
struct Bench {
    upstreams: Upstreams<u32>,
    now: Duration,
    drawn: u16,
}

#[derive(Debug, Default)]
struct Happened {
    sent: Vec<Sending>,
    closed: usize,
    done: Vec<Done<u32>>,
    loops: Vec<(String, bool)>,
}

impl Happened {
    fn one(mut self) -> Sending {
        assert_eq!((self.sent.len(), self.done.len()), (1, 0), "{self:?}");
        self.sent.remove(0)
    }

    fn end(mut self) -> Done<u32> {
        assert_eq!(self.done.len(), 1, "{self:?}");
        self.done.remove(0)
    }

    fn answer(self) -> Message {
        match self.end().outcome {
            Outcome::Answer(answer) => (*answer.message).clone(),
            other => panic!("{other:?}"),
        }
    }
}

impl Bench {
    fn new(groups: Vec<GroupConfig>) -> Self {
        let mut bench = Self { upstreams: Upstreams::default(), now: Duration::ZERO, drawn: 0x1234 };
        let started = bench.run(|up, now, ids| up.configure(groups, now, ids));
        assert!(started.sent.is_empty() && started.done.is_empty());
        bench
    }

    fn run(
        &mut self,
        call: impl FnOnce(&mut Upstreams<u32>, Duration, &mut dyn FnMut() -> u16) -> Vec<Step<u32>>,
    ) -> Happened {
        let drawn = &mut self.drawn;
        let mut ids = || {
            *drawn = drawn.wrapping_mul(0x6255).wrapping_add(0x3619);
            *drawn
        };
        let mut happened = Happened::default();
        for step in call(&mut self.upstreams, self.now, &mut ids) {
            match step {
                Step::Send(sending) => happened.sent.push(sending),
                Step::Close(_) => happened.closed += 1,
                Step::Done(done) => happened.done.push(done),
                Step::Loop { peer, stands, .. } => happened.loops.push((peer.to_string(), stands)),
            }
        }
        happened
    }

    fn ask(&mut self, waiter: u32, text: &str) -> Happened {
        self.ask_by(waiter, text, Transport::Udp, None)
    }

    fn ask_by(&mut self, waiter: u32, text: &str, transport: Transport, patience: Option<Duration>) -> Happened {
        let ask = Ask { question: wants(text, Rtype::A), waiter, transport, patience };
        self.run(|up, now, ids| up.ask(GroupId(0), ask, now, ids))
    }

    fn hear(&mut self, sending: &Sending, bytes: &[u8]) -> Happened {
        self.run(|up, now, ids| up.receive(sending.exchange, bytes, now, ids))
    }

    fn fail(&mut self, sending: &Sending) -> Happened {
        self.run(|up, now, ids| up.fail(sending.exchange, "192.0.2.1:53/udp: broken", now, ids))
    }

    fn good(&mut self, sending: &Sending) -> Happened {
        self.hear(sending, &good(sending))
    }

    /// Goes on to the next deadline.
    fn wait(&mut self) -> Happened {
        self.now = self.upstreams.next_deadline().expect("something is under way").max(self.now);
        self.run(|up, now, ids| up.tick(now, ids))
    }

    fn pass(&mut self, time: Duration) -> Happened {
        let (until, mut all) = (self.now + time, Happened::default());
        while self.upstreams.next_deadline().is_some_and(|at| at <= until) {
            let more = self.wait();
            all.sent.extend(more.sent);
            all.done.extend(more.done);
            all.loops.extend(more.loops);
        }
        self.now = until;
        all
    }

    /// The servers' health by their letters.
    fn health(&self) -> Vec<Health> {
        self.upstreams.view()[0].servers.iter().map(|server| server.health).collect()
    }

    /// Lets `a` answer quickly many times, so that its usual time is known.
    fn warm(&mut self, count: u32, took: Duration) {
        for n in 0..count {
            let sent = self.ask(900 + n, &format!("warm{n}.example")).one();
            self.now += took;
            self.good(&sent).end();
        }
    }
}

fn letter(sending: &Sending) -> char {
    let last = match &sending.peer.target {
        Target::Plain(addr) | Target::Tls(addr) | Target::Https { addr, .. } => addr.to_string(),
        Target::File(path) => path.clone(),
    };
    let octet: u8 = last.split(['.', ':']).nth(3).and_then(|text| text.parse().ok()).expect("an address of ours");
    char::from(octet - 10 + b'a')
}

fn reply(sending: &Sending, rcode: Rcode, answers: &[Record], truncated: bool) -> Vec<u8> {
    let query = Query::parse(&sending.bytes).expect("a query");
    let answers = answers.iter().map(|record| Rr {
        owner: record.owner.clone(),
        rtype: record.rtype,
        class: record.class,
        ttl_secs: record.ttl_secs,
        data: std::borrow::Cow::Owned(record.data.clone()),
    });
    Reply { answers: answers.collect(), truncated, ..Reply::new(rcode) }.render(&query, Transport::Tcp)
}

fn good(sending: &Sending) -> Vec<u8> {
    let query = Query::parse(&sending.bytes).expect("a query");
    let owner = crate::Name::from_wire(query.name).expect("a name").to_string();
    reply(sending, Rcode::NOERROR, &[address(&owner, 60, 1)], false)
}

#[test]
fn policies_say_who_is_asked_first() {
    let first = |policy: Policy| {
        let mut config = group(&["a", "b", "c"]);
        config.forward.policy = policy;
        let mut bench = Bench::new(vec![config]);
        let asked = (0..60).map(|n| {
            let sent = bench.ask(n, &format!("n{n}.example")).one();
            bench.good(&sent).end();
            letter(&sent)
        });
        asked.collect::<String>()
    };
    assert_eq!(first(Policy::Sequential), "a".repeat(60));
    assert_eq!(first(Policy::RoundRobin), "abc".repeat(20));
    let random = first(Policy::Random);
    assert!("abc".chars().all(|letter| random.matches(letter).count() > 8), "{random}");
    assert_ne!(random, first(Policy::RoundRobin));
}

#[test]
fn a_slow_server_is_helped_by_the_next_and_its_late_answer_still_counts() {
    let mut bench = Bench::new(vec![group(&["a", "b"])]);
    bench.warm(20, MILLI * 10);
    let slow = bench.ask(1, "slow.example").one();
    let before = bench.now;
    let hedge = bench.wait().one();
    assert_eq!((letter(&slow), letter(&hedge)), ('a', 'b'));
    assert!(bench.now - before <= MILLI * 25, "after what is usual: {:?}", bench.now - before);
    assert_ne!(slow.bytes[..2], hedge.bytes[..2], "an ID of its own");
    let happened = bench.good(&slow);
    assert_eq!(happened.closed, 2);
    assert_eq!(happened.end().waiters, [1]);
    let slow = bench.ask(2, "slower.example").one();
    let hedge = bench.wait().one();
    assert_eq!(bench.good(&hedge).end().waiters, [2]);
    assert!(bench.good(&slow).done.is_empty());
    let counts = bench.upstreams.view()[0].counts;
    assert_eq!((counts.hedges, counts.hedges_won), (2, 1));
    assert_eq!(bench.health(), [Health::Fit, Health::Fit], "slow is not dead");
}

#[test]
fn at_most_one_question_in_ten_goes_to_a_second_server() {
    let mut bench = Bench::new(vec![group(&["a", "b"])]);
    bench.warm(20, MILLI * 5);
    for n in 0..100 {
        let sent = bench.ask(n, &format!("n{n}.example")).one();
        let other = bench.wait().sent.into_iter().find(|sending| sending.bytes.len() > 17);
        bench.good(&other.unwrap_or(sent)).end();
    }
    let counts = bench.upstreams.view()[0].counts;
    assert!(counts.hedges >= 10 && counts.hedges * 10 <= counts.asked, "{counts:?}");
}

#[test]
fn a_silent_server_is_suspect_asked_last_and_fit_again_once_it_answers_a_probe() {
    let mut bench = Bench::new(vec![group(&["a", "b"])]);
    let first = bench.ask(1, "one.example").one();
    assert!(bench.wait().sent.is_empty(), "no hedge is saved yet");
    let happened = bench.wait();
    let sent: String = happened.sent.iter().map(letter).collect();
    assert_eq!((sent.as_str(), happened.sent[0].bytes.len()), ("ab", 17), "a probe `. NS` to a, the question to b");
    let (probe, second) = (&happened.sent[0], &happened.sent[1]);
    assert_eq!(bench.good(second).end().waiters, [1]);
    assert_eq!(bench.health(), [Health::Suspect, Health::Fit]);
    assert_eq!(letter(&bench.ask(2, "two.example").one()), 'b');
    let _ = first;
    let mut nothing = probe.bytes.clone();
    assert!(bench.hear(probe, &nothing).closed == 0, "a query is no answer");
    nothing[2] |= 0x80;
    bench.hear(probe, &nothing);
    assert_eq!(bench.health(), [Health::Fit, Health::Fit]);
    assert_eq!(letter(&bench.ask(3, "three.example").one()), 'a');
}

#[test]
fn max_fails_failures_take_a_server_down_and_with_all_down_one_is_asked_all_the_same() {
    let mut bench = Bench::new(vec![group(&["a", "b"])]);
    let first = bench.ask(1, "one.example").one();
    let happened = bench.fail(&first);
    let (probe, second) = (happened.sent[0].clone(), happened.sent[1].clone());
    assert_eq!((letter(&probe), letter(&second)), ('a', 'b'), "at once");
    bench.fail(&probe);
    assert_eq!(bench.health(), [Health::Down, Health::Fit]);
    let happened = bench.fail(&second);
    assert_eq!(happened.sent.len(), 1, "a probe; nobody is left to ask");
    let probe_b = happened.sent[0].clone();
    assert_eq!(happened.end().outcome, Outcome::Silent, "SERVFAIL at once, not after 4.5 s");
    bench.fail(&probe_b);
    assert_eq!(bench.health(), [Health::Down, Health::Down]);
    let happened = bench.ask(2, "two.example");
    assert_eq!(happened.sent.len(), 1);
    bench.good(&happened.sent[0]).end();
    assert_eq!(bench.upstreams.view()[0].counts.all_down, 1);
    assert_eq!(bench.health().iter().filter(|health| **health == Health::Fit).count(), 1);
    let probes = bench.pass(SECOND * 3).sent;
    assert!((2..=6).contains(&probes.len()) && probes.iter().all(|probe| probe.bytes.len() == 17), "{probes:?}");
    let mut never = group(&["a"]);
    never.forward.max_fails = 0;
    let mut bench = Bench::new(vec![never]);
    for n in 0..5 {
        let sent = bench.ask(n, "one.example").one();
        assert!(bench.fail(&sent).sent.is_empty());
        assert_eq!(bench.health(), [Health::Fit]);
    }
}

#[test]
fn one_lonely_silent_server_is_asked_again_and_within_the_budget_it_ends() {
    let mut bench = Bench::new(vec![group(&["a"])]);
    bench.ask(1, "one.example").one();
    let happened = bench.pass(SECOND * 5);
    let questions = happened.sent.iter().filter(|sending| sending.bytes.len() > 17).count();
    assert!((3..=5).contains(&questions), "lost datagrams: {questions}");
    assert_eq!(happened.end().outcome, Outcome::Silent);
    assert_eq!(bench.upstreams.in_flight(), 0);
}

#[test]
fn a_cut_answer_is_fetched_by_tcp_and_passed_on_if_that_fails() {
    let mut bench = Bench::new(vec![group(&["a"])]);
    let sent = bench.ask(1, "one.example").one();
    let tcp = bench.hear(&sent, &reply(&sent, Rcode::NOERROR, &[], true)).one();
    assert_eq!((sent.way, tcp.way, letter(&tcp)), (Way::Udp, Way::Tcp, 'a'));
    assert_eq!(bench.good(&tcp).answer().answers.len(), 1);
    let sent = bench.ask(2, "two.example").one();
    let tcp = bench.hear(&sent, &reply(&sent, Rcode::NOERROR, &[], true)).one();
    let message = bench.fail(&tcp).answer();
    assert!(message.truncated);
}

#[test]
fn what_carries_a_question_is_the_clients_choice_and_the_groups() {
    let way = |change: fn(&mut ForwardConfig), to: &str, transport: Transport| {
        let mut config = group(&[to]);
        change(&mut config.forward);
        Bench::new(vec![config]).ask_by(1, "one.example", transport, None).one().way
    };
    assert_eq!(way(|_| (), "a", Transport::Udp), Way::Udp);
    assert_eq!(way(|_| (), "a", Transport::Tcp), Way::Tcp);
    assert_eq!(way(|forward| forward.prefer_udp = true, "a", Transport::Tcp), Way::Udp);
    assert_eq!(way(|forward| forward.force_tcp = true, "a", Transport::Udp), Way::Tcp);
    assert_eq!(way(|_| (), "a:tls", Transport::Udp), Way::Tls);
    assert_eq!(way(|_| (), "a:https", Transport::Udp), Way::Https);
}

#[test]
fn errors_lead_to_the_next_server_and_edns_is_left_out_where_it_is_not_understood() {
    let mut bench = Bench::new(vec![group(&["a", "b"])]);
    let sent = bench.ask(1, "one.example").one();
    let next = bench.hear(&sent, &reply(&sent, Rcode::SERVFAIL, &[], false)).one();
    assert_eq!(letter(&next), 'b');
    let message = bench.hear(&next, &reply(&next, Rcode::REFUSED, &[], false)).answer();
    assert_eq!(message.rcode, Rcode::SERVFAIL, "the first error");
    for rcode in [Rcode::FORMERR, Rcode::NOTIMP] {
        let sent = bench.ask(2, "two.example").one();
        let plain = bench.hear(&sent, &reply(&sent, rcode, &[], false)).one();
        assert_eq!((letter(&plain), Query::parse(&plain.bytes).expect("a query").edns), ('a', None));
        bench.good(&plain).answer();
    }
    let mut config = group(&["a", "b"]);
    config.forward.next_on = vec![Rcode::NXDOMAIN];
    let mut bench = Bench::new(vec![config]);
    let sent = bench.ask(1, "one.example").one();
    let next = bench.hear(&sent, &reply(&sent, Rcode::NXDOMAIN, &[], false)).one();
    assert_eq!(bench.good(&next).answer().rcode, Rcode::NOERROR);
    let sent = bench.ask(1, "one.example").one();
    let next = bench.hear(&sent, &reply(&sent, Rcode::NXDOMAIN, &[], false)).one();
    let message = bench.hear(&next, &reply(&next, Rcode::SERVFAIL, &[], false)).answer();
    assert_eq!(message.rcode, Rcode::NXDOMAIN);
}

#[test]
fn who_asks_the_same_joins_and_too_many_are_turned_away() {
    let mut config = group(&["a"]);
    config.forward.max_concurrent = 3;
    let mut bench = Bench::new(vec![config]);
    let sent = bench.ask(1, "one.example").one();
    assert!(bench.ask(2, "ONE.example").sent.is_empty());
    bench.ask(3, "two.example").one();
    assert_eq!(bench.ask(4, "one.example").end().outcome, Outcome::Busy);
    assert_eq!(bench.ask(5, "three.example").end().outcome, Outcome::Busy);
    assert_eq!(bench.good(&sent).end().waiters, [1, 2]);
    assert_eq!(bench.ask(6, "one.example").sent.len(), 1);
    let counts = bench.upstreams.view()[0].counts;
    assert_eq!((counts.asked, counts.joined, counts.rejected), (3, 1, 2));
}

#[test]
fn only_the_question_the_id_and_the_exchange_make_an_answer() {
    let mut bench = Bench::new(vec![group(&["a"])]);
    let sent = bench.ask(1, "www.example.com").one();
    let good = good(&sent);
    let mut wrong = Vec::new();
    for (at, by) in [(0, 1), (1, 1), (2, 0x80), (13, 1), (12 + 17 + 1, 1), (12 + 17 + 3, 2)] {
        wrong.push(good.clone());
        wrong.last_mut().expect("just pushed")[at] ^= by;
    }
    wrong.push(good[..20].to_vec());
    for forged in &wrong {
        let happened = bench.hear(&sent, forged);
        assert!(happened.sent.is_empty() && happened.done.is_empty() && happened.closed == 0, "{forged:x?}");
    }
    let tcp = bench.hear(&sent, b"x").one();
    assert_eq!((tcp.way, bench.upstreams.view()[0].servers[0].counts.forged), (Way::Tcp, 8), "no accident any more");
    assert!(bench.hear(&sent, &good).done.is_empty(), "too late for it");
    assert_eq!(bench.good(&tcp).answer().answers.len(), 1);
}

#[test]
fn case_is_drawn_if_wanted_and_a_reply_without_it_is_not_believed_by_udp() {
    let mut config = group(&["a"]);
    config.mixes_case = true;
    let mut bench = Bench::new(vec![config]);
    let text = "a-rather-long-name.for.a.test.example.com";
    let sent = bench.ask(1, text).one();
    let query = Query::parse(&sent.bytes).expect("a query");
    assert!(query.name != name(text).as_wire() && query.name.eq_ignore_ascii_case(name(text).as_wire()));
    let mut lowered = good(&sent);
    lowered[12..12 + query.name.len()].make_ascii_lowercase();
    let tcp = bench.hear(&sent, &lowered).one();
    assert_eq!(tcp.way, Way::Tcp);
    bench.good(&tcp).answer();
    let sent = bench.ask(2, "other.example.com").one();
    assert_eq!(bench.good(&sent).answer().answers.len(), 1);
}

#[test]
fn records_that_do_not_belong_to_the_question_are_dropped() {
    let question = Question { dnssec_ok: true, ..wants("www.example.com", Rtype::A) };
    let link = |owner: &str, to: &str| Record {
        rtype: Rtype::CNAME,
        data: crate::rdata::Rdata::Cname(name(to)),
        ..address(owner, 60, 1)
    };
    let ns = |owner: &str, to: &str| Record {
        rtype: Rtype::NS,
        data: crate::rdata::Rdata::Ns(name(to)),
        ..address(owner, 60, 1)
    };
    let answers = vec![
        link("www.example.com", "edge.net"),
        address("EDGE.net", 60, 1),
        address("bank.example", 60, 2),
        link("bank.example", "evil.example"),
    ];
    let authority = vec![ns("net", "ns.edge.net"), ns("bank.example", "evil.example")];
    let mut message = said(&question, Rcode::NOERROR, answers, authority);
    message.additional = vec![address("ns.edge.net", 60, 3), address("evil.example", 60, 4)];
    let kept = crate::forward::belonging::belonging(&question, message);
    let owners = |records: &[Record]| records.iter().map(|r| r.owner.to_string()).collect::<Vec<String>>();
    assert_eq!(owners(&kept.answers), ["www.example.com.", "EDGE.net."]);
    assert_eq!(owners(&kept.authority), ["net."]);
    assert_eq!(owners(&kept.additional), ["ns.edge.net."]);
    assert!(
        is_below(name("a.B.c").as_wire(), name("b.C").as_wire())
            && !is_below(name("ab.c").as_wire(), name("b.c").as_wire())
    );
}

#[test]
fn a_waiter_with_little_patience_is_told_and_the_question_goes_on() {
    let mut bench = Bench::new(vec![group(&["a"])]);
    let sent = bench.ask_by(1, "one.example", Transport::Udp, Some(MILLI * 100)).one();
    bench.ask(2, "one.example");
    let done = bench.pass(MILLI * 150).end();
    assert_eq!((done.waiters, done.outcome), (vec![1], Outcome::Overdue));
    let done = bench.good(&sent).end();
    assert_eq!((done.waiters, done.group), (vec![2], Some(GroupId(0))));
    let sent = bench.ask_by(3, "two.example", Transport::Udp, Some(MILLI * 100)).one();
    bench.pass(MILLI * 150).end();
    assert!(bench.good(&sent).end().waiters.is_empty(), "the answer is for the cache");
    assert_eq!(bench.upstreams.view()[0].waiting, 0);
}

#[test]
fn a_reload_keeps_what_is_under_way_and_what_is_known() {
    let mut bench = Bench::new(vec![group(&["a", "b"]), group(&["c"])]);
    let failing = bench.ask(1, "one.example").one();
    let second = bench.fail(&failing).sent[1].clone();
    let at_c = Ask { question: wants("c.example", Rtype::A), waiter: 2, transport: Transport::Udp, patience: None };
    let at_c = bench.run(|up, now, ids| up.ask(GroupId(1), at_c, now, ids)).one();
    let mut next = group(&["a", "b"]);
    next.forward.policy = Policy::Random;
    let happened = bench.run(|up, now, ids| up.configure(vec![group(&["d"]), next], now, ids));
    assert!(happened.done.is_empty() && happened.sent.is_empty(), "{happened:?}");
    assert_eq!(bench.upstreams.view()[1].servers[0].health, Health::Suspect);
    assert_eq!(bench.good(&second).end().group, Some(GroupId(1)), "its place now");
    let done = bench.good(&at_c).end();
    assert_eq!((done.group, done.waiters), (None, vec![2]), "its group is gone, its answer is not");
    assert_eq!(letter(&bench.ask(3, "three.example").one()), 'd');
}

#[test]
fn servers_of_a_file_come_and_go_and_take_their_questions_with_them() {
    let mut bench = Bench::new(vec![group(&["/etc/resolv.conf"])]);
    assert_eq!(bench.ask(1, "one.example").end().outcome, Outcome::NoServer);
    let addrs = |letters: &str| -> Vec<std::net::SocketAddr> {
        letters.bytes().map(|letter| ([192, 0, 2, letter - b'a' + 10], 53).into()).collect()
    };
    let set = |bench: &mut Bench, letters: &str| {
        let list = addrs(letters);
        bench.run(|up, now, ids| up.set_servers("/etc/resolv.conf", &list, now, ids))
    };
    set(&mut bench, "ab");
    let sent = bench.ask(1, "one.example").one();
    assert_eq!(letter(&sent), 'a');
    assert!(set(&mut bench, "ba").sent.is_empty(), "it is still there");
    let happened = set(&mut bench, "c");
    assert_eq!(happened.closed, 1);
    let moved = happened.one();
    assert_eq!(letter(&moved), 'c');
    assert_eq!(bench.good(&moved).end().waiters, [1]);
    let happened = bench.run(|up, now, ids| up.configure(vec![group(&["/etc/resolv.conf"])], now, ids));
    assert!(happened.sent.is_empty());
    assert_eq!(letter(&bench.ask(2, "two.example").one()), 'c', "what the file named is still known");
    let happened = set(&mut bench, "");
    assert_eq!(happened.end().outcome, Outcome::Silent);
}

#[test]
fn a_loop_is_told_once_not_asked_through_and_lifted_when_it_is_over() {
    let mut config = group(&["a", "b"]);
    config.loop_zone = Some(name("cluster.local"));
    let mut bench = Bench::new(vec![config]);
    let probes = bench.pass(Duration::ZERO).sent;
    assert_eq!(probes.iter().map(letter).collect::<String>(), "ab");
    let query = Query::parse(&probes[0].bytes).expect("a query");
    assert!(query.rtype == Rtype::HINFO && is_below(query.name, name("cluster.local").as_wire()));
    assert!(bench.upstreams.is_loop_probe(&query));
    let other = super::packet("1.2.cluster.local", "HINFO");
    assert!(!bench.upstreams.is_loop_probe(&Query::parse(&other).expect("a query")));
    let saw = |bench: &mut Bench, probe: &Sending| {
        let query = Query::parse(&probe.bytes).expect("a query");
        bench.run(|up, now, _| up.saw_loop_probe(&query, now, &mut || 0)).loops
    };
    assert_eq!(saw(&mut bench, &probes[0]), [("192.0.2.10:53".to_string(), true)]);
    assert_eq!(saw(&mut bench, &probes[0]), [], "once");
    assert_eq!(bench.health(), [Health::Looping, Health::Fit]);
    assert_eq!(letter(&bench.ask(1, "one.example").one()), 'b', "everything goes on");
    saw(&mut bench, &probes[1]);
    assert_eq!(bench.ask(2, "two.example").end().outcome, Outcome::Looping);
    let mut lifted = Vec::new();
    for _ in 0..5 {
        let happened = bench.pass(SECOND * 5);
        let again = happened.sent.iter().rfind(|sending| letter(sending) == 'b' && sending.bytes.len() > 50);
        if let Some(again) = again.cloned() {
            saw(&mut bench, &again);
        }
        lifted.extend(happened.loops);
    }
    assert_eq!(lifted, [("192.0.2.10:53".to_string(), false)], "b still loops");
    assert_eq!(letter(&bench.ask(3, "three.example").one()), 'a');
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Ask(u8, bool),
    Good(usize),
    Bad(usize, u16),
    Cut(usize),
    Forged(usize),
    Fail(usize),
    Pass(u64),
    Configure(u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (any::<u8>(), any::<bool>()).prop_map(|(n, tcp)| Event::Ask(n % 12, tcp)),
        6 => any::<usize>().prop_map(Event::Good),
        2 => (any::<usize>(), 1..6u16).prop_map(|(at, rcode)| Event::Bad(at, rcode)),
        1 => any::<usize>().prop_map(Event::Cut),
        1 => any::<usize>().prop_map(Event::Forged),
        2 => any::<usize>().prop_map(Event::Fail),
        5 => (1..900u64).prop_map(Event::Pass),
        1 => (0..4u8).prop_map(Event::Configure),
    ]
}

fn drawn_groups(which: u8) -> Vec<GroupConfig> {
    let mut random = group(&["a", "b", "c"]);
    random.forward.policy = Policy::Random;
    random.forward.max_concurrent = 6;
    match which {
        0 => vec![group(&["a", "b", "c"])],
        1 => vec![random],
        2 => vec![group(&["b", "d:tls"])],
        _ => vec![group(&["a"]), group(&["b"])],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Whatever comes in whatever order: each who asks hears exactly once, in time; nothing stays open; hedges are few.
    #[test]
    fn every_question_ends_once_in_time_and_leaves_nothing(events in proptest::collection::vec(event(), 1..120)) {
        let mut bench = Bench::new(drawn_groups(0));
        let (mut open, mut waiting, mut next) = (Vec::<Sending>::new(), BTreeMap::<u32, Duration>::new(), 0);
        let mut counts = (0, 0);
        for event in events {
            let picked = |at: usize| open.get(at % open.len().max(1)).cloned();
            let happened = match event {
                Event::Ask(n, tcp) => {
                    next += 1;
                    waiting.insert(next, bench.now);
                    let transport = if tcp { Transport::Tcp } else { Transport::Udp };
                    bench.ask_by(next, &format!("n{n}.example"), transport, None)
                }
                Event::Good(at) => picked(at).map_or_else(Happened::default, |sending| bench.good(&sending)),
                Event::Bad(at, rcode) => picked(at).map_or_else(Happened::default, |sending| {
                    bench.hear(&sending, &reply(&sending, Rcode(rcode), &[], false))
                }),
                Event::Cut(at) => picked(at).map_or_else(Happened::default, |sending| {
                    bench.hear(&sending, &reply(&sending, Rcode::NOERROR, &[], true))
                }),
                Event::Forged(at) => picked(at).map_or_else(Happened::default, |sending| {
                    let mut bytes = good(&sending);
                    bytes[0] ^= 1;
                    bench.hear(&sending, &bytes)
                }),
                Event::Fail(at) => picked(at).map_or_else(Happened::default, |sending| bench.fail(&sending)),
                Event::Pass(millis) => bench.pass(MILLI * millis as u32),
                Event::Configure(which) => bench.run(|up, now, ids| up.configure(drawn_groups(which), now, ids)),
            };
            open.extend(happened.sent);
            for done in happened.done {
                for waiter in done.waiters {
                    let asked = waiting.remove(&waiter).expect("each hears once");
                    prop_assert!(bench.now - asked <= MILLI * 5400, "{:?}", bench.now - asked);
                }
            }
            if bench.upstreams.in_flight() == 0 {
                prop_assert!(waiting.is_empty(), "{waiting:?}");
            }
            let view = bench.upstreams.view();
            counts.0 = view.iter().map(|group| group.counts.hedges).sum::<u64>();
            counts.1 = view.iter().map(|group| group.counts.asked).sum::<u64>();
            prop_assert!(counts.0 * 10 <= counts.1, "{counts:?}");
        }
        let ended = bench.pass(SECOND * 10);
        for waiter in ended.done.into_iter().flat_map(|done| done.waiters) {
            prop_assert!(waiting.remove(&waiter).is_some());
        }
        prop_assert!(waiting.is_empty() && bench.upstreams.in_flight() == 0);
        prop_assert!(bench.upstreams.view().iter().all(|group| group.waiting == 0));
        bench.run(|up, now, ids| up.configure(Vec::new(), now, ids));
        prop_assert_eq!(bench.upstreams.next_deadline(), None);
        prop_assert_eq!(bench.upstreams.open_exchanges(), 0);
    }
}

proptest! {
    /// A reply made worse at random: never a panic, and what is believed can be kept, sent again and read.
    #[test]
    fn what_is_believed_of_a_spoiled_reply_can_be_kept_and_sent_again(
        spoils in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..12),
        cut in proptest::option::of(any::<usize>()),
    ) {
        let mut bench = Bench::new(vec![group(&["a"])]);
        let sent = bench.ask(1, "www.example.com").one();
        let answers: Vec<Record> = (0..6).map(|n| address("www.example.com", 60, n)).collect();
        let mut bytes = reply(&sent, Rcode::NOERROR, &answers, false);
        for (at, by) in spoils {
            // The head and the question stay: otherwise nothing would be believed.
            let at = 4 + at % (bytes.len() - 4);
            bytes[if (12..33).contains(&at) { at + 21 } else { at }] ^= by;
        }
        bytes.truncate(cut.map_or(bytes.len(), |cut| 12 + cut % (bytes.len() - 12)));
        for done in bench.hear(&sent, &bytes).done {
            let Outcome::Answer(answer) = done.outcome else { continue };
            let cache = crate::cache::AnswerCache::new(super::kept::cache_config(), 1);
            let seen = cache.keep(&done.question, (*answer.message).clone(), Duration::ZERO);
            let packet = crate::wire::ask(1, &done.question.bytes(), false, None);
            let query = Query::parse(&packet).expect("a query");
            let mut out = Vec::new();
            if let crate::cache::Written::Hit(_) = cache.write(&query, 65_535, Duration::ZERO, 0, &mut out) {
                let read = Message::parse(&out).expect("a reply that can be read");
                prop_assert_eq!((read.answers, read.authority), (seen.answers, seen.authority));
            }
        }
    }
}
