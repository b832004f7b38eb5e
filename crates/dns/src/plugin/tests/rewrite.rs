//! `rewrite`, by the behaviour of CoreDNS's page and tests; beyond it a reply's owner is always the client's name.

use super::super::rewrite::{Forwarded, Rewrites};
use super::{block, lines, name, record};
use crate::build::Reply;
use crate::rdata::Rtype;
use crate::wire::Rcode;

fn rewrites(rules: &str) -> Rewrites {
    Rewrites::prepare(&block(".", rules).rewrites).expect("rules")
}

/// What is asked instead of `name A`.
fn forward(rules: &str, asked: &str) -> String {
    match rewrites(rules).forward(&name(asked), Rtype::A) {
        Forwarded::Same => "same".into(),
        Forwarded::Asked(asked) if asked.rtype == Rtype::A => asked.name.to_string(),
        Forwarded::Asked(asked) => format!("{} {}", asked.name, asked.rtype),
        Forwarded::Broken => "broken".into(),
    }
}

/// A reply of these answers, turned back to what a client that asked for `name A` gets.
fn back(rules: &str, asked: &str, answers: &[&str]) -> String {
    let Forwarded::Asked(asked) = rewrites(rules).forward(&name(asked), Rtype::A) else {
        panic!("{rules} fits {asked}")
    };
    let mut reply = Reply::new(Rcode::NOERROR);
    reply.answers = answers.iter().map(|text| record(text)).collect();
    asked.back(&mut reply);
    lines(&reply)
}

#[test]
fn names_are_changed_as_coredns_changes_them() {
    for (rule, asked, wanted) in [
        ("name a.example b.example", "a.example.", "b.example."),
        ("name a.example b.example", "A.Example.", "b.example."),
        ("name a.example b.example", "x.a.example.", "same"),
        ("name exact a.example. B.example.", "a.example.", "b.example."),
        ("name prefix foo bar", "foo.example.com.", "bar.example.com."),
        ("name prefix foo. bar.", "foo.example.com.", "bar.example.com."),
        ("name prefix foo bar", "food.example.com.", "same"),
        ("name prefix foo bar", "coredns.foo.", "same"),
        ("name suffix com org", "foo.example.com.", "foo.example.org."),
        ("name suffix .com .org", "foo.example.com.", "foo.example.org."),
        ("name suffix com org", "com.coredns.", "same"),
        (
            "name suffix .ingress.coredns.rocks nginx.coredns.rocks",
            "coredns.ingress.coredns.rocks.",
            "corednsnginx.coredns.rocks.",
        ),
        ("name substring service svc", "a.service.b.service.c.", "a.svc.b.svc.c."),
        ("name substring service svc", "com.coredns.", "same"),
        ("name regex (.*).coredns.rocks {1}.coredns.maps", "foo.coredns.rocks.", "foo.coredns.maps."),
        (r"name regex ^(.*)\.(a|b)\.$ {2}.{1}.{2}", "x.y.b.", "b.x.y.b."),
        (
            r"name regex ^(.*)\.shop\.example\.$ {1}.default.svc.cluster.local",
            "web.shop.example.",
            "web.default.svc.cluster.local.",
        ),
        ("type A AAAA", "a.example.", "a.example. AAAA"),
        ("type MX AAAA", "a.example.", "same"),
    ] {
        assert_eq!(forward(&format!("rewrite {rule}"), asked), wanted, "{rule} {asked}");
    }
}

#[test]
fn the_first_rule_that_fits_ends_it_unless_it_continues() {
    let stop = "rewrite name a.example b.example\nrewrite name b.example c.example";
    assert_eq!(forward(stop, "a.example."), "b.example.");
    assert_eq!(forward(stop, "b.example."), "c.example.");
    let goes_on = "rewrite continue name a.example b.example\nrewrite continue type A AAAA\nrewrite name b.example c.example\nrewrite name c.example d.example";
    assert_eq!(forward(goes_on, "a.example."), "c.example. AAAA");
    let passed = "rewrite ttl a.example 5\nrewrite name a.example b.example";
    assert_eq!(forward(passed, "a.example."), "a.example.", "a rule for TTLs that fits ends it too");
}

#[test]
fn rules_that_would_go_round_end_as_each_is_tried_once() {
    let round = "rewrite continue name a.example b.example\nrewrite continue name b.example a.example";
    assert_eq!(forward(round, "a.example."), "a.example.");
    let grows = r"rewrite continue name regex ^(.*)\.$ x.{1}";
    assert_eq!(forward(grows, "a.example."), "x.a.example.", "once");
}

#[test]
fn what_is_no_name_afterwards_is_broken() {
    for (rule, asked) in [
        ("name regex (.*)a\\.example\\. {1}.b", "a.example."),
        ("name suffix .example ..example", "a.example."),
        (&format!("name prefix a {}", "x".repeat(64)), "a.example."),
        (&format!("name regex (.*) {}{{1}}", "abcdefgh.".repeat(28)), "a.example."),
    ] {
        assert_eq!(forward(&format!("rewrite {rule}"), asked), "broken", "{rule}");
    }
}

#[test]
fn a_whole_name_is_changed_back_in_owners_and_data() {
    let rule = "rewrite name shop.example web.default.svc.cluster.local";
    let answers = ["web.default.svc.cluster.local. 5 IN A 10.96.0.7"];
    assert_eq!(
        back(rule, "Shop.Example.", &answers),
        "NOERROR; Shop.Example. 5 A 10.96.0.7",
        "the case is the client's"
    );
    let chain = [
        "web.default.svc.cluster.local. 5 IN CNAME x.web.default.svc.cluster.local.",
        "x.web.default.svc.cluster.local. 5 IN CNAME other.example.",
        "other.example. 5 IN A 10.0.0.1",
    ];
    let wanted = "NOERROR; shop.example. 5 CNAME x.shop.example.; x.shop.example. 5 CNAME other.example.; other.example. 5 A 10.0.0.1";
    assert_eq!(back(rule, "shop.example.", &chain), wanted);
}

#[test]
fn without_answer_rules_the_owner_is_the_clients_and_data_stays() {
    for rule in [
        r"rewrite name regex ^(.*)\.a\.example\.$ {1}.b.example",
        "rewrite name suffix .a.example .b.example",
        "rewrite name substring a.example b.example",
    ] {
        let answers = ["x.b.example. 5 IN CNAME y.b.example.", "y.b.example. 5 IN A 10.0.0.1"];
        let wanted = "NOERROR; x.a.example. 5 CNAME y.b.example.; y.b.example. 5 A 10.0.0.1";
        assert_eq!(back(rule, "x.a.example.", &answers), wanted, "{rule}");
    }
}

#[test]
fn answers_are_changed_back_as_the_rule_says() {
    for (rule, asked, answer, wanted) in [
        (
            "name prefix foo bar answer auto",
            "foo.example.com.",
            "bar.example.com. 5 A 10.0.0.1",
            "foo.example.com. 5 A 10.0.0.1",
        ),
        (
            "name suffix com org answer auto",
            "foo.example.com.",
            "foo.example.org. 5 A 10.0.0.1",
            "foo.example.com. 5 A 10.0.0.1",
        ),
        (
            "name suffix .ingress.coredns.rocks nginx.coredns.rocks answer auto",
            "a.ingress.coredns.rocks.",
            "anginx.coredns.rocks. 5 CNAME bnginx.coredns.rocks.",
            "a.ingress.coredns.rocks. 5 CNAME b.ingress.coredns.rocks.",
        ),
        (
            "name regex (.*).coredns.rocks {1}.coredns.maps answer auto",
            "foo.coredns.rocks.",
            "foo.coredns.maps. 5 A 10.0.0.1",
            "foo.coredns.rocks. 5 A 10.0.0.1",
        ),
        (
            "name regex (.*).coredns.rocks {1}.coredns.maps answer name (.*).coredns.maps {1}.coredns.works",
            "foo.coredns.rocks.",
            "foo.coredns.maps. 5 A 10.0.0.1",
            "foo.coredns.works. 5 A 10.0.0.1",
        ),
        (
            r"name regex (.*)\.a\.example\. {1}.b.example answer name (.*)\.b\.example\. {1}.a.example value (.*)\.b\.example\. {1}.a.example",
            "foo.a.example.",
            "foo.b.example. 5 SRV 0 100 80 pod.b.example.",
            "foo.a.example. 5 SRV 0 100 80 pod.a.example.",
        ),
        (
            r"name regex (.*)\.a\.example\. {1}.b.example answer value (.*)\.b\.example\. {1}.a.example",
            "foo.a.example.",
            "foo.b.example. 5 MX 10 mail.b.example.",
            "foo.a.example. 5 MX 10 mail.a.example.",
        ),
    ] {
        let wanted = format!("NOERROR; {}", super::lines(&one(wanted)).split_once("; ").expect("a record").1);
        assert_eq!(back(&format!("rewrite {rule}"), asked, &[answer]), wanted, "{rule}");
    }
}

fn one(text: &str) -> Reply<'static> {
    Reply { answers: vec![record(text)], ..Reply::new(Rcode::NOERROR) }
}

#[test]
fn ttls_and_codes_of_replies_to_names_that_fit_are_changed() {
    let answers = ["a.example. 5 A 10.0.0.1", "a.example. 500 A 10.0.0.2"];
    assert_eq!(
        back("rewrite ttl suffix example 30-300", "a.example.", &answers),
        "NOERROR; a.example. 30 A 10.0.0.1; a.example. 300 A 10.0.0.2"
    );
    assert_eq!(forward("rewrite ttl b.example 30-300", "a.example."), "same");
    let Forwarded::Asked(asked) = rewrites("rewrite rcode regex .* SERVFAIL NXDOMAIN").forward(&name("a."), Rtype::A)
    else {
        panic!("it fits")
    };
    for (code, wanted) in [(Rcode::SERVFAIL, Rcode::NXDOMAIN), (Rcode::REFUSED, Rcode::REFUSED)] {
        let mut reply = Reply::new(code);
        asked.back(&mut reply);
        assert_eq!(reply.rcode, wanted);
    }
}
