//! The whole server against upstreams that answer, lie, hang or go: no socket, no clock, no chance.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use portolan_model::ServiceKind;

use super::{Seen, client, external, ip, name, namespace, packet, packet_edns, records, service, site};
use crate::build::{Reply, Rr};
use crate::cache::{Asked, Cache};
use crate::message::Message;
use crate::rdata::{Rdata, Soa};
use crate::wire::{Query, Rcode};
use crate::{Effect, Exchange, ForwardConfig, Rtype, Server, Token, Transport};

const SECOND: Duration = Duration::from_secs(1);

/// A server and what it wants done, with a clock that stands still until told.
struct Bench {
    server: Server,
    now: Duration,
    next_id: u16,
}

/// A query on its way to an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sent {
    exchange: Exchange,
    to: String,
    bytes: Vec<u8>,
    tcp: bool,
}

impl Sent {
    fn id(&self) -> u16 {
        u16::from_be_bytes([self.bytes[0], self.bytes[1]])
    }
}

#[derive(Debug, Default)]
struct Done {
    sent: Vec<Sent>,
    replies: Vec<(u64, Vec<u8>)>,
    closed: Vec<Exchange>,
}

impl Done {
    /// The only query that was sent, and nothing else but closed sockets.
    fn query(self) -> Sent {
        assert_eq!((self.sent.len(), self.replies.len()), (1, 0), "{:?} {:?}", self.sent, self.replies);
        self.sent.into_iter().next().expect("one was counted")
    }

    fn reply(self) -> Seen {
        assert_eq!((self.sent.len(), self.replies.len()), (0, 1), "{:?} {:?}", self.sent, self.replies);
        Seen::read(&self.replies[0].1)
    }
}

fn addr(text: &str) -> SocketAddr {
    SocketAddr::new(ip(text), 53)
}

impl Bench {
    fn new(upstreams: &[&str]) -> Self {
        Self::with(ForwardConfig::default(), upstreams)
    }

    fn with(config: ForwardConfig, upstreams: &[&str]) -> Self {
        let facts = [
            namespace("default"),
            service("web", ServiceKind::ClusterIp, &["10.96.0.20"], &[]),
            external("outside", "ylzhong.top"),
        ];
        let upstreams = upstreams.iter().map(|text| addr(text)).collect();
        Self { server: Server::new(site(records(&facts)), config, upstreams), now: Duration::ZERO, next_id: 0x7000 }
    }

    fn run(&mut self, call: impl FnOnce(&mut Server, Duration, &mut dyn FnMut() -> u16) -> Vec<Effect>) -> Done {
        let next_id = &mut self.next_id;
        let mut ids = || {
            *next_id += 1;
            *next_id
        };
        let mut done = Done::default();
        for effect in call(&mut self.server, self.now, &mut ids) {
            match effect {
                Effect::Reply { token, bytes } => done.replies.push((token.0, bytes)),
                Effect::SendUdp { exchange, upstream, bytes } => {
                    done.sent.push(Sent { exchange, to: upstream.ip().to_string(), bytes, tcp: false });
                }
                Effect::SendTcp { exchange, upstream, bytes } => {
                    done.sent.push(Sent { exchange, to: upstream.ip().to_string(), bytes, tcp: true });
                }
                Effect::Close(exchange) => done.closed.push(exchange),
            }
        }
        done
    }

    fn ask(&mut self, token: u64, packet: &[u8]) -> Done {
        self.run(|server, now, ids| server.handle_query(Token(token), packet, &client(Transport::Udp), now, ids))
    }

    fn upstream(&mut self, sent: &Sent, bytes: &[u8]) -> Done {
        self.run(|server, now, ids| server.handle_upstream(sent.exchange, bytes, now, ids))
    }

    /// Lets the clock go to the next deadline and past it.
    fn wait(&mut self) -> Done {
        self.now = self.server.next_deadline().expect("something is under way");
        self.run(|server, now, ids| server.tick(now, ids))
    }
}

fn a(owner: &str, ttl_secs: u32, text: &str) -> Rr<'static> {
    let addr = ip(text);
    Rr::internet(&name(owner), Rtype::of_addr(addr), ttl_secs, Cow::Owned(Rdata::addr(addr)))
}

fn soa(owner: &str, ttl_secs: u32, minimum_secs: u32) -> Rr<'static> {
    let (mname, rname) = (name("ns.example"), name("root.example"));
    let soa = Soa { mname, rname, serial: 1, refresh_secs: 2, retry_secs: 3, expire_secs: 4, minimum_secs };
    Rr::internet(&name(owner), Rtype::SOA, ttl_secs, Cow::Owned(Rdata::Soa(soa)))
}

/// An upstream's reply to what we sent.
fn respond(sent: &Sent, reply: Reply<'_>) -> Vec<u8> {
    let query = Query::parse(&sent.bytes).expect("we send queries that can be read");
    Reply { recursion_available: true, ..reply }.render(&query, Transport::Tcp)
}

fn answered(sent: &Sent, answers: Vec<Rr<'_>>) -> Vec<u8> {
    respond(sent, Reply { answers, ..Reply::new(Rcode::NOERROR) })
}

fn failed(sent: &Sent, rcode: Rcode) -> Vec<u8> {
    respond(sent, Reply::new(rcode))
}

#[test]
fn names_of_the_cluster_are_answered_at_once() {
    let seen = Bench::new(&["192.0.2.1"]).ask(1, &packet("web.default.svc.cluster.local", "A")).reply();
    assert_eq!(seen.answers, ["web.default.svc.cluster.local 30 A 10.96.0.20"]);
}

#[test]
fn a_name_outside_is_asked_upstream_and_kept_until_its_ttl_is_over() {
    let mut bench = Bench::new(&["192.0.2.1", "192.0.2.2"]);
    let sent = bench.ask(1, &packet("WWW.example.com", "A")).query();
    assert_eq!((sent.to.as_str(), sent.tcp, sent.id()), ("192.0.2.1", false, 0x7001));
    let done = bench.upstream(&sent, &answered(&sent, vec![a("www.example.com", 20, "198.51.100.1")]));
    assert_eq!(done.closed, [sent.exchange]);
    assert_eq!(done.replies[0].0, 1);
    let seen = done.reply();
    assert_eq!(seen.answers, ["WWW.example.com 20 A 198.51.100.1"], "owner in the client's case");
    assert_eq!((seen.flags.as_str(), seen.has_opt), ("rd ra", false));
    bench.now += SECOND * 15;
    assert_eq!(bench.ask(2, &packet("www.EXAMPLE.com", "A")).reply().answers, ["www.EXAMPLE.com 5 A 198.51.100.1"]);
    bench.now += SECOND * 5;
    bench.ask(3, &packet("www.example.com", "A")).query();
    assert_eq!(bench.server.counts().from_cache, 1);
}

#[test]
fn nothing_is_kept_longer_than_thirty_seconds() {
    let mut bench = Bench::new(&["192.0.2.1"]);
    let sent = bench.ask(1, &packet("www.example.com", "A")).query();
    let bytes = answered(&sent, vec![a("www.example.com", 3600, "198.51.100.1")]);
    assert_eq!(bench.upstream(&sent, &bytes).reply().answers, ["www.example.com 30 A 198.51.100.1"]);
    bench.now += SECOND * 30;
    bench.ask(2, &packet("www.example.com", "A")).query();
}

#[test]
fn absence_is_kept_as_its_soa_says_and_not_without_one() {
    let mut bench = Bench::new(&["192.0.2.1"]);
    let sent = bench.ask(1, &packet("no.example.com", "A")).query();
    let absent = Reply { authority: vec![soa("example.com", 900, 7)], ..Reply::new(Rcode::NXDOMAIN) };
    assert_eq!(bench.upstream(&sent, &respond(&sent, absent)).reply().rcode, "NXDOMAIN");
    bench.now += SECOND * 6;
    assert_eq!(bench.ask(2, &packet("no.example.com", "A")).reply().rcode, "NXDOMAIN");
    bench.now += SECOND;
    let sent = bench.ask(3, &packet("no.example.com", "A")).query();
    bench.upstream(&sent, &failed(&sent, Rcode::NXDOMAIN)).reply();
    bench.ask(4, &packet("no.example.com", "A")).query();
}

#[test]
fn a_silent_upstream_is_followed_by_the_next_and_at_the_end_by_servfail() {
    let mut bench = Bench::new(&["192.0.2.1", "192.0.2.2"]);
    let mut asked = vec![bench.ask(1, &packet("www.example.com", "A")).query().to];
    for _ in 0..3 {
        asked.push(bench.wait().query().to);
    }
    assert_eq!(asked, ["192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.2"]);
    assert_eq!(bench.wait().reply().rcode, "SERVFAIL");
    assert!(bench.now < SECOND * 5, "before a stub gives up: {:?}", bench.now);
    assert_eq!(bench.server.next_deadline(), None);
}

#[test]
fn with_many_silent_upstreams_the_budget_ends_it() {
    let mut bench = Bench::new(&["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5", "192.0.2.6"]);
    bench.ask(1, &packet("www.example.com", "A")).query();
    (0..4).for_each(|_| drop(bench.wait().query()));
    assert_eq!(bench.wait().reply().rcode, "SERVFAIL");
    assert_eq!(bench.now, Duration::from_millis(4500));
}

#[test]
fn an_upstream_that_failed_twice_is_asked_last_for_a_while() {
    let mut bench = Bench::new(&["192.0.2.1", "192.0.2.2"]);
    for token in 0..2 {
        let sent = bench.ask(token, &packet(&format!("n{token}.example.com"), "A")).query();
        assert_eq!(sent.to, "192.0.2.1");
        let next = bench.run(|server, now, ids| server.handle_failure(sent.exchange, now, ids)).query();
        assert_eq!(next.to, "192.0.2.2");
        bench.upstream(&next, &answered(&next, vec![])).reply();
    }
    assert_eq!(bench.ask(3, &packet("n3.example.com", "A")).query().to, "192.0.2.2");
    bench.now += SECOND * 10;
    assert_eq!(bench.ask(4, &packet("n4.example.com", "A")).query().to, "192.0.2.1");
}

#[test]
fn a_cut_answer_is_fetched_by_tcp_from_the_same_upstream() {
    let mut bench = Bench::new(&["192.0.2.1", "192.0.2.2"]);
    let sent = bench.ask(1, &packet("www.example.com", "A")).query();
    let cut = respond(&sent, Reply { truncated: true, ..Reply::new(Rcode::NOERROR) });
    let again = bench.upstream(&sent, &cut).query();
    assert_eq!((again.to.as_str(), again.tcp), ("192.0.2.1", true));
    let whole = answered(&again, vec![a("www.example.com", 9, "198.51.100.1")]);
    assert_eq!(bench.upstream(&again, &whole).reply().answers.len(), 1);
}

#[test]
fn a_cut_answer_is_passed_on_with_tc_if_nobody_gives_the_whole() {
    let mut bench = Bench::new(&["192.0.2.1"]);
    let sent = bench.ask(1, &packet("www.example.com", "A")).query();
    let cut =
        Reply { truncated: true, answers: vec![a("www.example.com", 9, "198.51.100.1")], ..Reply::new(Rcode::NOERROR) };
    let tcp = bench.upstream(&sent, &respond(&sent, cut)).query();
    let again = bench.run(|server, now, ids| server.handle_failure(tcp.exchange, now, ids)).query();
    assert!(!again.tcp);
    let seen = bench.wait().reply();
    assert_eq!((seen.flags.as_str(), seen.answers.len()), ("tc rd ra", 1));
    bench.ask(2, &packet("www.example.com", "A")).query();
}

#[test]
fn clients_who_ask_the_same_share_one_question_and_get_their_own_replies() {
    let mut bench = Bench::new(&["192.0.2.1"]);
    let sent = bench.ask(1, &packet("www.example.com", "A")).query();
    let mut other = packet_edns("www.EXAMPLE.com", "A", 1232);
    other[..2].copy_from_slice(&[0xbe, 0xef]);
    let joined = bench.ask(2, &other);
    assert!(joined.sent.is_empty() && joined.replies.is_empty());
    let done = bench.upstream(&sent, &answered(&sent, vec![a("www.example.com", 9, "198.51.100.1")]));
    let seen: Vec<(u64, Seen)> = done.replies.iter().map(|(token, bytes)| (*token, Seen::read(bytes))).collect();
    assert_eq!(seen.len(), 2);
    assert_eq!((seen[0].0, seen[0].1.answers[0].as_str()), (1, "www.example.com 9 A 198.51.100.1"));
    assert_eq!((seen[1].0, seen[1].1.answers[0].as_str()), (2, "www.EXAMPLE.com 9 A 198.51.100.1"));
    assert_eq!((seen[0].1.has_opt, seen[1].1.has_opt), (false, true));
    assert_eq!(done.replies[1].1[..2], [0xbe, 0xef]);
}

#[test]
fn datagrams_with_another_id_or_question_or_for_a_closed_exchange_are_ignored() {
    let mut bench = Bench::new(&["192.0.2.1"]);
    let sent = bench.ask(1, &packet("www.example.com", "A")).query();
    let good = answered(&sent, vec![a("www.example.com", 9, "198.51.100.1")]);
    let mut other_id = good.clone();
    other_id[1] ^= 1;
    let mut other_name = good.clone();
    other_name[13] = b'x';
    let mut other_type = good.clone();
    other_type[12 + 17 + 1] = 28;
    for forged in [&other_id[..], &other_name, &other_type, &good[..20], &sent.bytes, b"x"] {
        let done = bench.upstream(&sent, forged);
        assert!(done.replies.is_empty() && done.sent.is_empty() && done.closed.is_empty());
    }
    assert_eq!(bench.upstream(&sent, &good).reply().answers.len(), 1);
    let late = bench.upstream(&sent, &good);
    assert!(late.replies.is_empty() && late.closed.is_empty());
}

#[test]
fn an_upstreams_error_is_followed_by_the_next_and_passed_on_if_all_fail() {
    let mut bench = Bench::new(&["192.0.2.1", "192.0.2.2"]);
    let first = bench.ask(1, &packet("www.example.com", "A")).query();
    let second = bench.upstream(&first, &failed(&first, Rcode::REFUSED)).query();
    assert_eq!(second.to, "192.0.2.2");
    assert_eq!(bench.upstream(&second, &failed(&second, Rcode::SERVFAIL)).reply().rcode, "REFUSED");
    bench.ask(2, &packet("www.example.com", "A")).query();
}

#[test]
fn an_upstream_that_cannot_read_edns_is_asked_again_without() {
    let mut bench = Bench::new(&["192.0.2.1"]);
    let sent = bench.ask(1, &packet("www.example.com", "A")).query();
    assert!(Query::parse(&sent.bytes).expect("a query").edns.is_some());
    let mut bare = failed(&sent, Rcode::FORMERR);
    bare.truncate(12);
    bare[4..].fill(0);
    let again = bench.upstream(&sent, &bare).query();
    assert_eq!(Query::parse(&again.bytes).expect("a query").edns, None);
    assert_eq!(again.to, "192.0.2.1");
    assert_eq!(bench.upstream(&again, &answered(&again, vec![])).reply().rcode, "NOERROR");
}

#[test]
fn ad_reaches_clients_that_understand_it_only() {
    let mut bench = Bench::new(&["192.0.2.1"]);
    let sent = bench.ask(1, &packet("www.example.com", "A")).query();
    let answers = vec![a("www.example.com", 30, "198.51.100.1")];
    let secure = Reply { authentic_data: true, answers, ..Reply::new(Rcode::NOERROR) };
    let has_ad = |done: Done| Message::parse(&done.replies[0].1).expect("a reply").authentic_data;
    assert!(has_ad(bench.upstream(&sent, &respond(&sent, secure))));
    let mut old = packet("www.example.com", "A");
    old[3] &= !0x20;
    assert!(!has_ad(bench.ask(2, &old)));
}

#[test]
fn new_upstreams_take_over_what_is_under_way_and_what_was_kept() {
    let mut bench = Bench::new(&["192.0.2.1"]);
    let kept = bench.ask(1, &packet("kept.example.com", "A")).query();
    bench.upstream(&kept, &answered(&kept, vec![a("kept.example.com", 30, "198.51.100.1")])).reply();
    let stranded = bench.ask(2, &packet("www.example.com", "A")).query();
    let next = vec![addr("114.114.114.114"), addr("8.8.8.8")];
    let done = bench.run(|server, now, ids| server.set_upstreams(next, now, ids));
    assert_eq!(done.closed, [stranded.exchange]);
    assert_eq!(done.query().to, "114.114.114.114");
    assert_eq!(bench.ask(3, &packet("kept.example.com", "A")).query().to, "114.114.114.114");
}

#[test]
fn an_upstream_that_stays_keeps_its_exchange() {
    let mut bench = Bench::new(&["192.0.2.1"]);
    let sent = bench.ask(1, &packet("www.example.com", "A")).query();
    let next = vec![addr("192.0.2.2"), addr("192.0.2.1")];
    let done = bench.run(|server, now, ids| server.set_upstreams(next, now, ids));
    assert!(done.sent.is_empty() && done.closed.is_empty());
    assert_eq!(bench.upstream(&sent, &answered(&sent, vec![])).reply().rcode, "NOERROR");
}

#[test]
fn an_alias_of_a_name_outside_gets_the_targets_records_after_the_alias() {
    let mut bench = Bench::new(&["192.0.2.1"]);
    let sent = bench.ask(1, &packet("Outside.default.svc.cluster.local", "A")).query();
    let query = Query::parse(&sent.bytes).expect("a query");
    assert_eq!((query.name, query.rtype), (name("ylzhong.top").as_wire(), Rtype::A));
    let bytes = answered(&sent, vec![a("ylzhong.top", 10, "192.168.100.100")]);
    let done = bench.upstream(&sent, &bytes);
    let message = Message::parse(&done.replies[0].1).expect("a reply");
    let order: Vec<Rtype> = message.answers.iter().map(|record| record.rtype).collect();
    assert_eq!(order, [Rtype::CNAME, Rtype::A]);
    let seen = done.reply();
    let alias = "Outside.default.svc.cluster.local 30 CNAME ylzhong.top";
    assert_eq!(seen.answers, [alias, "ylzhong.top 10 A 192.168.100.100"]);
    assert_eq!(seen.flags, "aa rd ra");
    assert_eq!(bench.ask(2, &packet("ylzhong.top", "A")).reply().answers.len(), 1, "kept for who asks the target");
    assert_eq!(bench.ask(3, &packet("outside.default.svc.cluster.local", "A")).reply().answers.len(), 2);
}

#[test]
fn an_alias_whose_target_fails_keeps_the_alias_and_the_upstreams_code() {
    let alias = ["outside.default.svc.cluster.local 30 CNAME ylzhong.top"];
    let mut bench = Bench::new(&["192.0.2.1"]);
    let sent = bench.ask(1, &packet("outside.default.svc.cluster.local", "A")).query();
    let seen = bench.upstream(&sent, &failed(&sent, Rcode::NXDOMAIN)).reply();
    assert_eq!((seen.rcode.as_str(), &seen.answers[..]), ("NXDOMAIN", &alias.map(String::from)[..]));
    let sent = bench.ask(2, &packet("outside.default.svc.cluster.local", "A")).query();
    bench.run(|server, now, ids| server.handle_failure(sent.exchange, now, ids)).query();
    let seen = bench.wait().reply();
    assert_eq!((seen.rcode.as_str(), &seen.answers[..]), ("SERVFAIL", &alias.map(String::from)[..]));
    let seen = Bench::new(&[]).ask(3, &packet("outside.default.svc.cluster.local", "A")).reply();
    assert_eq!((seen.rcode.as_str(), &seen.answers[..]), ("NOERROR", &alias.map(String::from)[..]));
}

#[test]
fn without_upstreams_or_with_too_many_questions_a_name_outside_is_refused() {
    let seen = Bench::new(&[]).ask(1, &packet("www.example.com", "A")).reply();
    assert_eq!((seen.rcode.as_str(), seen.flags.as_str()), ("REFUSED", "rd"));
    let config = ForwardConfig { max_flights: 1, ..ForwardConfig::default() };
    let mut bench = Bench::with(config, &["192.0.2.1"]);
    bench.ask(1, &packet("a.example.com", "A")).query();
    assert_eq!(bench.ask(2, &packet("b.example.com", "A")).reply().rcode, "REFUSED");
    assert_eq!(bench.ask(3, &packet("a.example.com", "A")).reply().rcode, "REFUSED");
    assert_eq!(bench.server.counts().refused, 2);
}

#[test]
fn a_long_answer_is_cut_to_the_clients_size_but_kept_whole() {
    let mut bench = Bench::new(&["192.0.2.1"]);
    let sent = bench.ask(1, &packet("www.example.com", "A")).query();
    let many = (1..=60).map(|n| a("www.example.com", 30, &format!("198.51.100.{n}"))).collect();
    let done = bench.upstream(&sent, &answered(&sent, many));
    assert!(done.replies[0].1.len() <= 512);
    assert_eq!(done.reply().flags, "tc rd ra");
    let tcp = bench.run(|server, now, ids| {
        server.handle_query(Token(2), &packet("www.example.com", "A"), &client(Transport::Tcp), now, ids)
    });
    assert_eq!(tcp.reply().answers.len(), 60);
}

#[test]
fn the_cache_is_bounded_and_drops_what_would_expire_first() {
    let message = |ttl: u32| {
        let sent = Sent { exchange: Exchange(0), to: String::new(), bytes: packet("x.example", "A"), tcp: false };
        std::sync::Arc::new(Message::parse(&answered(&sent, vec![a("x.example", ttl, "192.0.2.9")])).expect("a reply"))
    };
    let asked = |n: u32| Asked::plain(&name(&format!("n{n}.example")), Rtype::A);
    let mut cache = Cache::new(2, 30);
    cache.put(asked(1), message(20), Duration::ZERO);
    cache.put(asked(2), message(10), Duration::ZERO);
    cache.put(asked(1), message(25), Duration::ZERO);
    cache.put(asked(3), message(15), Duration::ZERO);
    assert_eq!(cache.len(), 2);
    assert_eq!((1..=3).map(|n| cache.get(&asked(n), SECOND).is_some()).collect::<Vec<bool>>(), [true, false, true]);
    assert!(cache.get(&asked(3), SECOND * 15).is_none());
    assert_eq!(cache.len(), 1);
}
