//! Upstreams on real sockets of the loopback: own ones that are slow, lossy, lying or broken, and Debian's unbound and
//! knot by UDP, TCP, TLS and HTTPS.

#[path = "upstreams/driver.rs"]
mod driver;
#[path = "upstreams/ports.rs"]
mod ports;
#[path = "upstreams/servers.rs"]
mod servers;
#[path = "upstreams/strangers.rs"]
mod strangers;
#[path = "upstreams/web.rs"]
mod web;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use driver::{Driver, group, plain};
use portolan_dns::forward::step::Outcome;
use portolan_dns::wire::Rcode;
use servers::{Server, Stream, answer, cut, with_other_id, with_other_name};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_datagrams_do_not_keep_the_real_one_out_and_nothing_can_be_foretold() {
    let server = Server::start(|query, _| vec![with_other_id(query), with_other_name(query), answer(query)]).await;
    let mut driver = Driver::new(vec![group(vec![plain(server.addr)])]);
    for n in 0..60 {
        driver.ask(n, &format!("n{n}.example"));
    }
    for done in driver.ended(60).await {
        let Outcome::Answer(given) = done.outcome else { panic!("{done:?}") };
        assert_eq!((given.message.rcode, given.message.answers.len()), (Rcode::NOERROR, 1));
        assert_eq!(given.message.answers[0].owner, done.question.name, "its own answer");
    }
    let seen = server.seen();
    let ports: BTreeSet<u16> = seen.iter().map(|(from, _)| from.port()).collect();
    let ids: BTreeSet<&[u8]> = seen.iter().map(|(_, query)| &query[..2]).collect();
    assert!(ports.len() > seen.len() * 9 / 10 && ids.len() > seen.len() * 9 / 10, "{} {}", ports.len(), ids.len());
    assert!(driver.forged() >= 60, "each was told from the real one: {}", driver.forged());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_datagram_is_sent_again_and_a_silent_server_is_not_waited_for() {
    // Probes come between the questions, in no order that is known: they lose nothing and are not counted.
    let lost = AtomicBool::new(false);
    let loses = move |query: &[u8]| is_question(query) && !lost.swap(true, Ordering::SeqCst);
    let lossy = Server::start(move |query, _| if loses(query) { vec![] } else { vec![answer(query)] }).await;
    let mut driver = Driver::new(vec![group(vec![plain(lossy.addr)])]);
    driver.ask(1, "lost.example");
    let done = driver.ended(1).await.remove(0);
    assert!(matches!(done.outcome, Outcome::Answer(_)), "{done:?} {:?}", driver.failures);
    assert!(lossy.seen().iter().filter(|(_, query)| is_question(query)).count() > 1, "it was lost");
    let (silent, quick) = (Server::start(|_, _| vec![]).await, Server::start(|query, _| vec![answer(query)]).await);
    let mut driver = Driver::new(vec![group(vec![plain(silent.addr), plain(quick.addr)])]);
    for n in 0..30 {
        driver.ask(n, &format!("n{n}.example"));
        let done = driver.ended(1).await.remove(0);
        assert!(matches!(done.outcome, Outcome::Answer(_)), "{done:?}");
    }
    let asked = silent.seen().iter().filter(|(_, query)| is_question(query)).count();
    assert!(asked <= 3, "{asked} questions went to who never answers");
}

/// No probe, which asks for the root.
fn is_question(query: &[u8]) -> bool {
    query.len() > 17
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_answer_comes_whole_by_tcp_from_the_same_server() {
    let server = Server::start_both(|query, _| vec![cut(query)], Stream::Answers).await;
    let mut driver = Driver::new(vec![group(vec![plain(server.addr)])]);
    driver.ask(1, "long.example");
    let Outcome::Answer(given) = driver.ended(1).await.remove(0).outcome else { panic!("no answer") };
    assert_eq!((given.message.truncated, given.message.answers.len()), (false, 1));
    assert_eq!(server.connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_questions_share_few_connections_and_replies_come_in_any_order() {
    let server = Server::start_both(|_, _| vec![], Stream::AnswersBackwards(5)).await;
    let mut config = group(vec![plain(server.addr)]);
    config.forward.force_tcp = true;
    let mut driver = Driver::new(vec![config]);
    (0..100).for_each(|n| driver.ask(n, &format!("n{n}.example")));
    for done in driver.ended(100).await {
        let Outcome::Answer(given) = done.outcome else { panic!("{:?} {:?}", done.outcome, driver.failures) };
        assert_eq!(given.message.answers[0].owner, done.question.name);
    }
    assert!((1..=4).contains(&server.connections()), "{} connections", server.connections());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_closed_for_idleness_is_made_anew_and_one_that_breaks_fails_at_once() {
    let server = Server::start_both(|_, _| vec![], Stream::AnswersOnce).await;
    let mut config = group(vec![plain(server.addr)]);
    config.forward.force_tcp = true;
    let mut driver = Driver::new(vec![config.clone()]);
    for n in 0..10 {
        driver.ask(n, &format!("n{n}.example"));
        let done = driver.ended(1).await.remove(0);
        assert!(matches!(done.outcome, Outcome::Answer(_)), "{done:?} {:?}", driver.failures);
    }
    assert_eq!(driver.failures, Vec::<String>::new());
    for broken in [Stream::Closes, Stream::Garbage] {
        let server = Server::start_both(|_, _| vec![], broken).await;
        config.forward.to = vec![plain(server.addr)];
        let mut driver = Driver::new(vec![config.clone()]);
        driver.ask(1, "one.example");
        let done = driver.ended(1).await.remove(0);
        assert_eq!(done.outcome, Outcome::Silent);
        assert!(driver.failures[0].contains("closed the connection"), "{:?}", driver.failures);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_at_the_address_is_known_at_once_and_the_next_server_answers() {
    let nobody = servers::free_port();
    let quick = Server::start(|query, _| vec![answer(query)]).await;
    let mut driver = Driver::new(vec![group(vec![plain(nobody), plain(quick.addr)])]);
    driver.ask(1, "one.example");
    assert!(matches!(driver.ended(1).await[0].outcome, Outcome::Answer(_)));
    assert!(driver.failures[0].contains(&nobody.to_string()), "{:?}", driver.failures);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_through_a_real_forwarder_is_seen_told_and_lifted() {
    // The other server forwards to us, as a node's resolver does whose resolv.conf names us.
    let loops = servers::Mirror::start().await;
    let mut config = group(vec![plain(loops.addr)]);
    config.loop_zone = portolan_dns::Name::parse("cluster.local").ok();
    let mut driver = Driver::new(vec![config]);
    driver.brought_back_by(&loops).await;
    assert_eq!(driver.loops, [(loops.addr.to_string(), true)]);
    driver.ask(1, "one.example");
    assert_eq!(driver.ended(1).await[0].outcome, Outcome::Looping);
    loops.stop_mirroring();
    driver.until(Duration::from_secs(60), |driver| driver.loops.len() == 2).await;
    assert_eq!(driver.loops[1], (loops.addr.to_string(), false));
    driver.ask(2, "two.example");
    assert!(matches!(driver.ended(1).await[0].outcome, Outcome::Answer(_)));
}
