//! The cache of upstream answers against a slow, obvious one, and what a client sees of it.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::name;
use crate::Rtype;
use crate::cache::{AnswerCache, Hit, Looked, Written};
use crate::corefile::config::{CacheConfig, CacheLimits, Prefetch, Stale};
use crate::forward::Question;
use crate::message::{Message, Record};
use crate::rdata::{Rdata, Soa};
use crate::wire::{CLASS_IN, Edns, Query, Rcode, ask};

const SECOND: Duration = Duration::from_secs(1);
const SEED: u64 = 0x5eed_5eed_5eed_5eed;

pub fn cache_config() -> CacheConfig {
    let limits = |max_ttl_secs| CacheLimits { entries: 9984, max_ttl_secs, min_ttl_secs: 5 };
    CacheConfig {
        zones: Vec::new(),
        success: limits(3600),
        denial: limits(1800),
        servfail: SECOND * 5,
        prefetch: None,
        stale: None,
        no_success: Vec::new(),
        no_denial: Vec::new(),
        keep_ttl: false,
    }
}

pub fn wants(text: &str, rtype: Rtype) -> Question {
    Question { name: name(text), rtype, class: CLASS_IN, dnssec_ok: false, checking_disabled: false }
}

pub fn said(question: &Question, rcode: Rcode, answers: Vec<Record>, authority: Vec<Record>) -> Message {
    Message {
        id: 0,
        rcode,
        authentic_data: false,
        truncated: false,
        question: Some((question.name.clone(), question.rtype, question.class)),
        answers,
        authority,
        additional: Vec::new(),
    }
}

pub fn address(owner: &str, ttl_secs: u32, last: u8) -> Record {
    let data = Rdata::A(Ipv4Addr::new(192, 0, 2, last));
    Record { owner: name(owner), rtype: Rtype::A, class: CLASS_IN, ttl_secs, data }
}

fn soa(ttl_secs: u32, minimum_secs: u32) -> Record {
    let (mname, rname) = (name("ns.example"), name("root.example"));
    let soa = Soa { mname, rname, serial: 1, refresh_secs: 2, retry_secs: 3, expire_secs: 4, minimum_secs };
    Record { owner: name("example"), rtype: Rtype::SOA, class: CLASS_IN, ttl_secs, data: Rdata::Soa(soa) }
}

/// What a client that asks `question` reads of the cache.
fn written(cache: &AnswerCache, question: &Question, now: Duration) -> Option<(Message, Hit)> {
    let edns = question.dnssec_ok.then_some(Edns { udp_size: 1232, version: 0, dnssec_ok: true });
    let packet = ask(7, &question.bytes(), question.checking_disabled, edns);
    let query = Query::parse(&packet).expect("a query");
    let mut out = vec![9; 3];
    match cache.write(&query, 65_535, now, 0, &mut out) {
        Written::Miss => None,
        Written::Hit(hit) => Some((Message::parse(&out).expect("a reply that can be read"), hit)),
    }
}

#[derive(Clone, Debug)]
enum Op {
    Keep(usize, bool, bool, Kind, u32, u32),
    Look(usize, bool, bool),
    Wait(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Positive,
    NoData,
    NoName,
    Failure,
    NoSoa,
}

fn op() -> impl Strategy<Value = Op> {
    let kind = prop_oneof![
        4 => Just(Kind::Positive), 2 => Just(Kind::NoData), 2 => Just(Kind::NoName), 1 => Just(Kind::Failure), 1 => Just(Kind::NoSoa)
    ];
    prop_oneof![
        3 => (0..4usize, any::<bool>(), any::<bool>(), kind, 0..60u32, 0..60u32)
            .prop_map(|(n, aaaa, secure, kind, ttl, minimum)| Op::Keep(n, aaaa, secure, kind, ttl, minimum)),
        5 => (0..4usize, any::<bool>(), any::<bool>()).prop_map(|(n, aaaa, secure)| Op::Look(n, aaaa, secure)),
        3 => (0..40u64).prop_map(Op::Wait),
    ]
}

/// A list that is searched from the newest on.
#[derive(Default)]
struct Obvious {
    kept: Vec<Line>,
}

struct Line {
    n: usize,
    aaaa: Option<bool>,
    secure: bool,
    failed: bool,
    ttl: u64,
    since: u64,
    life: u64,
    gone: u64,
}

impl Obvious {
    fn keep(&mut self, config: &CacheConfig, op: (usize, bool, bool, Kind, u32, u32), now: u64) {
        let (n, aaaa, secure, kind, ttl, minimum) = op;
        let bound = |limits: &CacheLimits, ttl: u32| ttl.max(limits.min_ttl_secs).min(limits.max_ttl_secs);
        let (life, ttl) = match kind {
            Kind::Positive => (bound(&config.success, ttl), bound(&config.success, ttl)),
            Kind::NoData | Kind::NoName => {
                (bound(&config.denial, ttl.min(minimum)), bound(&config.denial, ttl.min(minimum)))
            }
            Kind::Failure => (config.servfail.as_secs() as u32, 0),
            Kind::NoSoa => return,
        };
        let failed = kind == Kind::Failure;
        if life == 0 || failed && self.find(n, aaaa, secure, now).is_some_and(|line| !line.failed) {
            return;
        }
        let stale = config.stale.filter(|_| !failed).map_or(0, |stale| stale.for_.as_secs());
        let of_all = kind == Kind::NoName;
        self.kept.retain(|line| {
            line.n != n || line.secure != secure || !(line.aaaa == Some(aaaa) || line.aaaa.is_none() && !failed)
        });
        let life = u64::from(life);
        let aaaa = (!of_all).then_some(aaaa);
        self.kept.push(Line {
            n,
            aaaa,
            secure,
            failed,
            ttl: u64::from(ttl),
            since: now,
            life,
            gone: now + life + stale,
        });
    }

    /// An answer to this very type before one to the whole name.
    fn find(&self, n: usize, aaaa: bool, secure: bool, now: u64) -> Option<&Line> {
        let alive = |line: &&Line| line.n == n && line.secure == secure && now < line.gone;
        let whole = self.kept.iter().rev().filter(alive).find(|line| line.aaaa == Some(aaaa));
        whole.or_else(|| self.kept.iter().rev().filter(alive).find(|line| line.aaaa.is_none()))
    }
}

fn asked(n: usize, aaaa: bool, secure: bool) -> Question {
    let rtype = if aaaa { Rtype::AAAA } else { Rtype::A };
    Question { dnssec_ok: secure, ..wants(["a.example", "b.example", "x.y.z.example", "example"][n], rtype) }
}

fn upstream_said(question: &Question, kind: Kind, ttl: u32, minimum: u32) -> Message {
    let record = match question.rtype {
        Rtype::A => Rdata::A(Ipv4Addr::new(192, 0, 2, ttl as u8)),
        _ => Rdata::Aaaa("2001:db8::1".parse().expect("an address")),
    };
    let answer =
        Record { owner: question.name.clone(), rtype: question.rtype, class: CLASS_IN, ttl_secs: ttl, data: record };
    match kind {
        Kind::Positive => said(question, Rcode::NOERROR, vec![answer], vec![]),
        Kind::NoData => said(question, Rcode::NOERROR, vec![], vec![soa(ttl, minimum)]),
        Kind::NoName => said(question, Rcode::NXDOMAIN, vec![], vec![soa(ttl, minimum)]),
        Kind::Failure => said(question, Rcode::SERVFAIL, vec![], vec![]),
        Kind::NoSoa => said(question, Rcode::NXDOMAIN, vec![], vec![]),
    }
}

fn configs() -> impl Strategy<Value = CacheConfig> {
    let stale = prop_oneof![
        Just(None),
        Just(Some(Stale { for_: SECOND * 50, verify: None })),
        Just(Some(Stale { for_: SECOND * 50, verify: Some(SECOND) })),
    ];
    (stale, any::<bool>(), 0..20u32, 20..60u32, prop_oneof![Just(0u64), Just(5)]).prop_map(
        |(stale, keep_ttl, min_ttl_secs, max_ttl_secs, servfail)| CacheConfig {
            stale,
            keep_ttl,
            success: CacheLimits { entries: 100, max_ttl_secs, min_ttl_secs },
            denial: CacheLimits { entries: 100, max_ttl_secs: max_ttl_secs / 2, min_ttl_secs: min_ttl_secs / 2 },
            servfail: SECOND * servfail as u32,
            ..cache_config()
        },
    )
}

proptest! {
    #[test]
    fn the_cache_says_what_a_list_says(config in configs(), ops in proptest::collection::vec(op(), 1..80)) {
        let (cache, mut list, mut now) = (AnswerCache::new(config.clone(), SEED), Obvious::default(), 0);
        for op in ops {
            match op {
                Op::Wait(secs) => now += secs,
                Op::Keep(n, aaaa, secure, kind, ttl, minimum) => {
                    let question = asked(n, aaaa, secure);
                    let _ = cache.keep(&question, upstream_said(&question, kind, ttl, minimum), SECOND * now as u32);
                    list.keep(&config, (n, aaaa, secure, kind, ttl, minimum), now);
                }
                Op::Look(n, aaaa, secure) => {
                    let question = asked(n, aaaa, secure);
                    let expected = list.find(n, aaaa, secure, now);
                    let seen = written(&cache, &question, SECOND * now as u32);
                    match (expected, cache.look(&question, SECOND * now as u32)) {
                        (None, Looked::Miss) => prop_assert!(seen.is_none()),
                        (Some(line), Looked::Verify(..)) => {
                            prop_assert!(now >= line.since + line.life && seen.is_none());
                            prop_assert!(config.stale.is_some_and(|stale| stale.verify.is_some()));
                        }
                        (Some(line), Looked::Hit(message, hit)) => {
                            let is_stale = now >= line.since + line.life;
                            prop_assert_eq!(hit.is_stale, is_stale);
                            prop_assert_eq!(line.failed, message.rcode == Rcode::SERVFAIL);
                            let aged = if config.keep_ttl { 0 } else { now - line.since };
                            let ttl = if is_stale { 0 } else { line.ttl.saturating_sub(aged) };
                            for record in message.answers.iter().chain(&message.authority) {
                                prop_assert_eq!(u64::from(record.ttl_secs), ttl);
                            }
                            let (seen, written_hit) = seen.expect("written as well");
                            prop_assert_eq!((seen.rcode, written_hit.is_stale), (message.rcode, is_stale));
                            prop_assert_eq!((seen.answers, seen.authority), (message.answers, message.authority));
                        }
                        (line, looked) => prop_assert!(false, "{:?} against {looked:?}", line.map(|line| line.n)),
                    }
                }
            }
        }
    }
}

#[test]
fn a_client_gets_its_own_id_case_and_flags_and_the_ttl_that_is_left() {
    let cache = AnswerCache::new(cache_config(), SEED);
    let question = wants("www.example.com", Rtype::A);
    let mut message = said(&question, Rcode::NOERROR, vec![address("www.example.com", 60, 1)], vec![]);
    message.authentic_data = true;
    let kept = cache.keep(&question, message, SECOND);
    assert_eq!(kept.answers[0].ttl_secs, 60);
    let mut packet = ask(0xbeef, &wants("WWW.Example.COM", Rtype::A).bytes(), false, None);
    let mut out = Vec::new();
    let hit = |packet: &[u8], out: &mut Vec<u8>| {
        let query = Query::parse(packet).expect("a query");
        assert!(matches!(cache.write(&query, 512, SECOND * 21, 0, out), Written::Hit(_)));
        super::Seen::read(out)
    };
    let seen = hit(&packet, &mut out);
    assert_eq!(seen.answers, ["WWW.Example.COM 40 A 192.0.2.1"]);
    assert_eq!((seen.flags.as_str(), seen.has_opt, &out[..2]), ("rd ra", false, &[0xbe, 0xef][..]));
    assert_eq!(out[3] & 0x20, 0x20, "AD for who understands it");
    packet[3] &= !0x20;
    hit(&packet, &mut out);
    assert_eq!(out[3] & 0x20, 0);
    let edns = Edns { udp_size: 1232, version: 0, dnssec_ok: false };
    assert!(hit(&ask(1, &question.bytes(), false, Some(edns)), &mut out).has_opt);
    let secure = ask(1, &question.bytes(), false, Some(Edns { dnssec_ok: true, ..edns }));
    let query = Query::parse(&secure).expect("a query");
    assert_eq!(cache.write(&query, 512, SECOND * 21, 0, &mut out), Written::Miss, "DO is another question");
}

#[test]
fn a_long_answer_is_cut_with_tc_and_additional_records_without() {
    let cache = AnswerCache::new(cache_config(), SEED);
    let question = wants("many.example.com", Rtype::A);
    let answers: Vec<Record> = (0..60).map(|n| address("many.example.com", 60, n)).collect();
    let _ = cache.keep(&question, said(&question, Rcode::NOERROR, answers.clone(), vec![]), SECOND);
    let packet = ask(1, &question.bytes(), false, None);
    let query = Query::parse(&packet).expect("a query");
    let mut out = Vec::new();
    assert!(matches!(cache.write(&query, 512, SECOND, 0, &mut out), Written::Hit(_)));
    let seen = super::Seen::read(&out);
    assert!(out.len() <= 512 && seen.flags.contains("tc") && seen.answers.len() > 20);
    let mut message = said(&question, Rcode::NOERROR, answers[..2].to_vec(), vec![]);
    message.additional = answers;
    let _ = cache.keep(&question, message, SECOND);
    assert!(matches!(cache.write(&query, 512, SECOND, 0, &mut out), Written::Hit(_)));
    let seen = super::Seen::read(&out);
    assert!(out.len() <= 512 && !seen.flags.contains("tc") && seen.answers.len() == 2 && !seen.additional.is_empty());
}

#[test]
fn addresses_take_turns_and_an_alias_stays_before_them() {
    let cache = AnswerCache::new(cache_config(), SEED);
    let question = wants("www.example.com", Rtype::A);
    let alias = Record {
        owner: name("www.example.com"),
        rtype: Rtype::CNAME,
        class: CLASS_IN,
        ttl_secs: 60,
        data: Rdata::Cname(name("edge.other.example")),
    };
    let mut answers = vec![alias];
    answers.extend((1..4).map(|n| address("edge.other.example", 60, n)));
    let _ = cache.keep(&question, said(&question, Rcode::NOERROR, answers, vec![]), SECOND);
    let packet = ask(1, &question.bytes(), false, None);
    let query = Query::parse(&packet).expect("a query");
    let order = |turn: u32| {
        let mut out = Vec::new();
        assert!(matches!(cache.write(&query, 512, SECOND, turn, &mut out), Written::Hit(_)));
        let message = Message::parse(&out).expect("a reply");
        let texts = message.answers.iter().map(|record| format!("{} {}", record.owner, record.data));
        texts.collect::<Vec<String>>()
    };
    let first = ["www.example.com. edge.other.example.", "edge.other.example. 192.0.2.1"];
    assert_eq!(order(0)[..2], first);
    assert_eq!(order(1)[..2], [first[0], "edge.other.example. 192.0.2.2"]);
    assert_eq!(order(1)[3], "edge.other.example. 192.0.2.1");
    assert_eq!(order(3), order(0));
}

#[test]
fn rows_and_bytes_are_bounded_and_what_is_asked_for_stays() {
    let limits = CacheLimits { entries: 256, max_ttl_secs: 3600, min_ttl_secs: 5 };
    let cache = AnswerCache::new(CacheConfig { success: limits, denial: limits, ..cache_config() }, SEED);
    let hot = wants("hot.example", Rtype::A);
    let put = |cache: &AnswerCache, question: &Question, ttl: u32| {
        let answers = vec![address(&question.name.to_string(), ttl, 1)];
        let _ = cache.keep(question, said(question, Rcode::NOERROR, answers, vec![]), SECOND);
    };
    put(&cache, &hot, 600);
    for n in 0..3000 {
        put(&cache, &wants(&format!("n{n}.example"), Rtype::A), 600);
        let absent = wants(&format!("no{n}.example"), Rtype::A);
        let _ = cache.keep(&absent, said(&absent, Rcode::NXDOMAIN, vec![], vec![soa(60, 60)]), SECOND);
        assert!(matches!(cache.look(&hot, SECOND), Looked::Hit(..)), "asked for all the time, after {n}");
    }
    let counts = cache.counts();
    assert!(counts.entries.iter().all(|held| (200..=256).contains(held)), "{counts:?}");
    assert!(counts.evictions.iter().all(|gone| *gone >= 2700), "{counts:?}");
    assert_eq!((counts.hits, counts.misses), ([3000, 0], 0));
    let small = AnswerCache::bounded(CacheConfig { success: limits, denial: limits, ..cache_config() }, SEED, 20_000);
    (0..300).for_each(|n| put(&small, &wants(&format!("n{n}.example"), Rtype::A), 600));
    let counts = small.counts();
    assert!((5_000..=20_000).contains(&counts.bytes), "{counts:?}");
    small.clear();
    assert_eq!((small.counts().bytes, small.counts().entries), (0, [0, 0]));
}

#[test]
fn what_is_asked_for_much_is_renewed_by_one_client_before_its_time() {
    let prefetch = Prefetch { amount: 3, within: SECOND * 60, percent: 10 };
    let cache = AnswerCache::new(CacheConfig { prefetch: Some(prefetch), ..cache_config() }, SEED);
    let question = wants("www.example", Rtype::A);
    let message = said(&question, Rcode::NOERROR, vec![address("www.example", 100, 1)], vec![]);
    let _ = cache.keep(&question, message, Duration::ZERO);
    let ask_anew = |secs: u32| match cache.look(&question, SECOND * secs) {
        Looked::Hit(_, hit) => hit.ask_anew,
        other => panic!("{other:?}"),
    };
    assert_eq!([20, 50, 80].map(ask_anew), [false; 3], "not at its end yet");
    assert_eq!([90, 90, 91, 93].map(ask_anew), [true, false, false, true], "again if nothing came of it");
    assert_eq!(cache.counts().prefetches, 2);
    let seldom = wants("seldom.example", Rtype::A);
    let message = said(&seldom, Rcode::NOERROR, vec![address("seldom.example", 100, 1)], vec![]);
    let _ = cache.keep(&seldom, message, Duration::ZERO);
    assert!(matches!(cache.look(&seldom, SECOND * 95), Looked::Hit(_, Hit { ask_anew: false, .. })));
}

#[test]
fn a_stale_answer_is_served_once_its_time_is_over_and_failures_do_not_push_it_out() {
    let question = wants("www.example", Rtype::A);
    let message = said(&question, Rcode::NOERROR, vec![address("www.example", 10, 1)], vec![]);
    let stale = |verify| Some(Stale { for_: SECOND * 3600, verify });
    let cache = AnswerCache::new(CacheConfig { stale: stale(None), ..cache_config() }, SEED);
    let _ = cache.keep(&question, message.clone(), Duration::ZERO);
    let _ = cache.keep(&question, said(&question, Rcode::SERVFAIL, vec![], vec![]), SECOND * 20);
    let expected = Hit { rcode: Rcode::NOERROR, is_stale: true, ask_anew: true };
    let (seen, hit) = written(&cache, &question, SECOND * 20).expect("served");
    assert_eq!((seen.answers[0].ttl_secs, hit), (0, expected));
    let again = written(&cache, &question, SECOND * 21).expect("served").1;
    assert_eq!(again, Hit { ask_anew: false, ..expected }, "one client's question is enough");
    assert!(written(&cache, &question, SECOND * 3610).is_none());
    let careful = AnswerCache::new(CacheConfig { stale: stale(Some(SECOND)), ..cache_config() }, SEED);
    let _ = careful.keep(&question, message.clone(), Duration::ZERO);
    assert!(matches!(careful.look(&question, SECOND * 20), Looked::Verify(_, SECOND)));
    assert_eq!(careful.stale(&question, SECOND * 20).expect("for want of better").answers[0].ttl_secs, 0);
    let none = AnswerCache::new(cache_config(), SEED);
    let _ = none.keep(&question, message, Duration::ZERO);
    assert_eq!(none.stale(&question, SECOND * 20), None);
}

#[test]
fn zones_for_which_it_is_disabled_and_answers_that_are_no_answers_are_not_kept() {
    let no_success = vec![name("cluster.local")];
    let config = CacheConfig { no_success, zones: vec![name("local"), name("example")], ..cache_config() };
    let cache = AnswerCache::new(config, SEED);
    let put = |text: &str, rcode: Rcode, truncated: bool| {
        let question = wants(text, Rtype::A);
        let answers = if rcode == Rcode::NOERROR { vec![address(text, 60, 1)] } else { vec![] };
        let message = said(&question, rcode, answers, vec![soa(60, 60)]);
        let _ = cache.keep(&question, Message { truncated, ..message }, SECOND);
        matches!(cache.look(&question, SECOND), Looked::Hit(..))
    };
    assert!(put("a.example", Rcode::NOERROR, false));
    assert!(!put("cut.example", Rcode::NOERROR, true));
    assert!(!put("refused.example", Rcode::REFUSED, false));
    assert!(!put("a.svc.cluster.local", Rcode::NOERROR, false));
    assert!(put("b.svc.cluster.local", Rcode::NXDOMAIN, false));
    assert!(!put("a.elsewhere", Rcode::NOERROR, false));
}

#[test]
fn threads_that_write_and_keep_at_once_see_whole_answers() {
    let cache = Arc::new(AnswerCache::new(cache_config(), SEED));
    let threads: Vec<_> = (0..4u8)
        .map(|thread| {
            let cache = cache.clone();
            std::thread::spawn(move || {
                for round in 0..400 {
                    let text = format!("n{}.example", round % 13);
                    let question = wants(&text, Rtype::A);
                    let answers = vec![address(&text, 60, thread), address(&text, 60, thread)];
                    let _ = cache.keep(&question, said(&question, Rcode::NOERROR, answers, vec![]), SECOND);
                    let (message, _) = written(&cache, &question, SECOND * 2).expect("somebody's answer");
                    assert_eq!(message.answers[0].data, message.answers[1].data);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no thread panics"));
    assert_eq!(cache.counts().entries, [13, 0]);
}
