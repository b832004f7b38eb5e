//! `acl`, `any`, `local`, `loadbalance`, `minimal`.

use super::super::acl::Acl;
use super::super::{any, loadbalance, local, minimal};
use super::{asked, block, ip, lines, record, short};
use crate::build::Reply;
use crate::wire::Rcode;

fn reply(answers: &[&str], authority: &[&str], additional: &[&str]) -> Reply<'static> {
    let records = |texts: &[&str]| texts.iter().map(|text| record(text)).collect();
    Reply {
        answers: records(answers),
        authority: records(authority),
        additional: records(additional),
        ..Reply::new(Rcode::NOERROR)
    }
}

#[test]
fn the_first_acl_rule_that_fits_decides() {
    let say = |lines: &str, client: &str, name: &str, rtype: &str| {
        let block = block("example.org", lines);
        let acl = Acl::prepare(&block.acl, &block.zones).expect("rules");
        short(&asked(name, rtype, |query| acl.say(ip(client), query)))
    };
    let list = "acl {\nallow net 192.168.1.2\nblock net 192.168.0.0/16\n}";
    let types = "acl {\nblock type A AAAA net 10.0.0.0/8 fd00::/8\nfilter type TXT\ndrop type MX net *\n}";
    let zones = "acl a.example.org {\nblock\n}\nacl {\nfilter\n}";
    for (lines, client, name, rtype, wanted) in [
        (list, "192.168.1.2", "a.example.org.", "A", "NEXT"),
        (list, "::ffff:192.168.1.2", "a.example.org.", "A", "NEXT"),
        (list, "192.168.1.3", "a.example.org.", "A", "REFUSED"),
        (list, "::ffff:192.168.1.3", "a.example.org.", "A", "REFUSED"),
        (list, "10.0.0.1", "a.example.org.", "A", "NEXT"),
        (list, "192.168.1.3", "a.example.com.", "A", "NEXT"),
        (types, "10.1.2.3", "A.Example.ORG.", "A", "REFUSED"),
        (types, "fd00::7", "a.example.org.", "AAAA", "REFUSED"),
        (types, "fe80::7", "a.example.org.", "AAAA", "NEXT"),
        (types, "10.1.2.3", "a.example.org.", "SRV", "NEXT"),
        (types, "10.1.2.3", "a.example.org.", "TXT", "NOERROR"),
        (types, "10.1.2.3", "a.example.org.", "MX", "SILENCE"),
        (zones, "10.1.2.3", "x.a.example.org.", "A", "REFUSED"),
        (zones, "10.1.2.3", "b.example.org.", "A", "NOERROR"),
    ] {
        assert_eq!(say(lines, client, name, rtype), wanted, "{lines} {client} {name} {rtype}");
    }
    assert!(Acl::prepare(&[], &[]).is_none(), "without rules there is nothing to ask");
}

#[test]
fn any_gets_a_hinfo_and_nothing_else_does() {
    let hinfo = "\\# 27 0d 41 4e 59 20 6f 62 73 6f 6c 65 74 65 64 0c 53 65 65 20 52 46 43 20 38 34 38 32";
    assert_eq!(short(&asked("A.example.", "ANY", any::say)), format!("NOERROR; A.example. 8482 HINFO {hinfo}"));
    assert_eq!(short(&asked("a.example.", "A", any::say)), "NEXT");
}

#[test]
fn local_names_never_leave() {
    let soa = |zone: &str| format!("/{zone} 604800 SOA localhost. root.localhost. 1 0 0 0 604800");
    for (name, rtype, wanted) in [
        ("localhost.", "A", "NOERROR; localhost. 604800 A 127.0.0.1".to_owned()),
        ("LocalHost.", "AAAA", "NOERROR; LocalHost. 604800 AAAA ::1".to_owned()),
        ("localhost.", "NS", "NOERROR; localhost. 604800 NS localhost.".to_owned()),
        ("localhost.", "MX", format!("NOERROR; {}", soa("localhost."))),
        ("a.b.localhost.", "A", "NOERROR; a.b.localhost. 604800 A 127.0.0.1".to_owned()),
        (
            "localhost.default.svc.cluster.local.",
            "AAAA",
            "NOERROR; localhost.default.svc.cluster.local. 604800 AAAA ::1".to_owned(),
        ),
        ("localhost.example.", "SOA", format!("NOERROR; {}", soa("localhost.example."))),
        ("1.0.0.127.in-addr.arpa.", "PTR", "NOERROR; 1.0.0.127.in-addr.arpa. 604800 PTR localhost.".to_owned()),
        ("1.0.0.127.in-addr.arpa.", "A", format!("NOERROR; {}", soa("127.in-addr.arpa."))),
        ("2.0.0.127.in-addr.arpa.", "PTR", format!("NXDOMAIN; {}", soa("127.in-addr.arpa."))),
        ("0.in-addr.arpa.", "A", format!("NOERROR; {}", soa("0.in-addr.arpa."))),
        ("1.255.in-addr.arpa.", "PTR", format!("NXDOMAIN; {}", soa("255.in-addr.arpa."))),
        ("1.128.in-addr.arpa.", "PTR", "NEXT".to_owned()),
        ("mylocalhost.", "A", "NEXT".to_owned()),
        ("example.", "A", "NEXT".to_owned()),
        (".", "A", "NEXT".to_owned()),
    ] {
        assert_eq!(short(&asked(name, rtype, local::say)), wanted, "{name} {rtype}");
    }
}

#[test]
fn addresses_come_in_turning_order_behind_aliases_and_others() {
    let turned = |number| {
        let mut reply = reply(
            &[
                "b. A 10.0.0.1",
                "b. A 10.0.0.2",
                "b. MX 1 m1.",
                "a. CNAME x.",
                "b. A 10.0.0.3",
                "x. CNAME b.",
                "b. TXT t",
                "b. MX 1 m2.",
            ],
            &[],
            &["b. AAAA fd00::1", "b. AAAA fd00::2"],
        );
        loadbalance::turn(&mut reply, number);
        let order: Vec<String> = reply.answers.iter().chain(&reply.additional).map(|rr| rr.data.to_string()).collect();
        assert_eq!(order[..3], ["x.", "b.", "\"t\""], "aliases keep their order");
        [&order[3], &order[6], &order[8]].map(|text| text.chars().last().unwrap().to_string()).concat()
    };
    let firsts: Vec<String> = (0..6).map(turned).collect();
    // MX end in the root's label, so their first differs by another byte; the addresses tell the turn.
    let addresses: Vec<&str> = firsts.iter().map(|first| &first[..1]).collect();
    assert_eq!(addresses, ["1", "2", "3", "1", "2", "3"]);
    let sixes: Vec<&str> = firsts.iter().map(|first| &first[2..]).collect();
    assert_eq!(sixes, ["1", "2", "1", "2", "1", "2"]);
    let mut absent = Reply { rcode: Rcode::NXDOMAIN, ..reply(&["a. A 10.0.0.1", "a. A 10.0.0.2"], &[], &[]) };
    let before = absent.clone();
    loadbalance::turn(&mut absent, 1);
    assert_eq!(absent, before, "absences are left alone");
}

#[test]
fn minimal_answers_carry_no_more_than_the_answer() {
    let mut answer = reply(&["a. A 10.0.0.1"], &["a. NS n."], &["n. A 10.0.0.2"]);
    minimal::strip(&mut answer);
    assert_eq!(lines(&answer), "NOERROR; a. 3600 A 10.0.0.1");
    for mut kept in [
        reply(&[], &["a. SOA n. h. 1 2 3 4 5"], &[]),
        reply(&[], &["a. NS n."], &["n. A 10.0.0.2"]),
        Reply { rcode: Rcode::NXDOMAIN, ..reply(&["a. CNAME b."], &["a. SOA n. h. 1 2 3 4 5"], &[]) },
    ] {
        let before = kept.clone();
        minimal::strip(&mut kept);
        assert_eq!(kept, before, "absences, errors and delegations are whole");
    }
}
