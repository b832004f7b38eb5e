//! `hosts`, by the behaviour of CoreDNS's page and tests.

use super::super::Said;
use super::super::hosts::Hosts;
use super::{asked, block, short};

const FILE: &str = "
127.0.0.1 localhost localhost.domain
::1 localhost localhost.domain
10.0.0.1 example.org # the first
::FFFF:10.0.0.2 Example.com
10.0.0.3 fallthrough-example.org
10.0.0.4 example.org two.example.org
10.0.0.4 example.org
reload::5 reload.example.org
garbage
10.0.0.9
fe80::9%eth0 link.example.org
10.0.0.5 *.wild.example.org
fd00::5 *.wild.example.org
";

fn say(zones: &str, lines: &str, name: &str, rtype: &str) -> String {
    let block = block(zones, lines);
    let hosts = Hosts::prepare(block.hosts.as_ref().expect("hosts"), &block.zones, Some(FILE));
    short(&asked(name, rtype, |query| hosts.say(query)))
}

#[test]
fn names_addresses_and_absences_are_as_corednss() {
    for (name, rtype, wanted) in [
        ("example.org.", "A", "NOERROR; example.org. 3600 A 10.0.0.1; example.org. 3600 A 10.0.0.4"),
        ("EXAMPLE.org.", "A", "NOERROR; EXAMPLE.org. 3600 A 10.0.0.1; EXAMPLE.org. 3600 A 10.0.0.4"),
        ("example.com.", "A", "NOERROR; example.com. 3600 A 10.0.0.2"),
        ("localhost.", "AAAA", "NOERROR; localhost. 3600 AAAA ::1"),
        ("localhost.", "A", "NOERROR; localhost. 3600 A 127.0.0.1"),
        ("link.example.org.", "AAAA", "NOERROR; link.example.org. 3600 AAAA fe80::9"),
        ("example.org.", "AAAA", "NOERROR"),
        ("example.org.", "MX", "NOERROR"),
        ("x.wild.example.org.", "A", "NOERROR; x.wild.example.org. 3600 A 10.0.0.5"),
        ("x.wild.example.org.", "AAAA", "NOERROR; x.wild.example.org. 3600 AAAA fd00::5"),
        ("y.x.wild.example.org.", "A", "SERVFAIL"),
        ("wild.example.org.", "A", "SERVFAIL"),
        ("none.example.org.", "A", "SERVFAIL"),
        (".", "A", "SERVFAIL"),
        (
            "1.0.0.127.in-addr.arpa.",
            "PTR",
            "NOERROR; 1.0.0.127.in-addr.arpa. 3600 PTR localhost.; 1.0.0.127.in-addr.arpa. 3600 PTR localhost.domain.",
        ),
        (
            "4.0.0.10.in-addr.arpa.",
            "PTR",
            "NOERROR; 4.0.0.10.in-addr.arpa. 3600 PTR example.org.; 4.0.0.10.in-addr.arpa. 3600 PTR two.example.org.",
        ),
        ("9.0.0.10.in-addr.arpa.", "PTR", "NEXT"),
        ("4.0.0.10.in-addr.arpa.", "A", "SERVFAIL"),
    ] {
        assert_eq!(say(".", "hosts /etc/hosts", name, rtype), wanted, "{name} {rtype}");
    }
}

#[test]
fn options_change_what_is_said() {
    let rows = [
        ("hosts /etc/hosts {\nttl 60\n}", "example.com.", "A", "NOERROR; example.com. 60 A 10.0.0.2"),
        ("hosts /etc/hosts {\nfallthrough\n}", "none.example.org.", "A", "NEXT"),
        ("hosts /etc/hosts {\nfallthrough\n}", "example.org.", "AAAA", "NOERROR"),
        ("hosts /etc/hosts {\nfallthrough example.org\n}", "none.example.org.", "A", "NEXT"),
        ("hosts /etc/hosts {\nfallthrough example.org\n}", "none.example.com.", "A", "SERVFAIL"),
        ("hosts /etc/hosts {\nno_reverse\n}", "4.0.0.10.in-addr.arpa.", "PTR", "NEXT"),
        ("hosts /etc/hosts example.com", "example.org.", "A", "NEXT"),
        ("hosts /etc/hosts example.com", "example.com.", "A", "NOERROR; example.com. 3600 A 10.0.0.2"),
        (
            "hosts /etc/hosts example.com",
            "2.0.0.10.in-addr.arpa.",
            "PTR",
            "NOERROR; 2.0.0.10.in-addr.arpa. 3600 PTR example.com.",
        ),
        ("hosts /etc/hosts example.com", "1.0.0.10.in-addr.arpa.", "PTR", "NEXT"),
        (
            "hosts /etc/hosts {\n10.0.0.8 example.com more.example.com\n}",
            "example.com.",
            "A",
            "NOERROR; example.com. 3600 A 10.0.0.2; example.com. 3600 A 10.0.0.8",
        ),
    ];
    for (lines, name, rtype, wanted) in rows {
        assert_eq!(say(".", lines, name, rtype), wanted, "{lines} {name}");
    }
    assert_eq!(say("example.com", "hosts /etc/hosts", "example.org.", "A"), "NEXT", "the block's zones bound it");
}

#[test]
fn a_file_that_is_not_there_leaves_the_lines_of_the_block() {
    let block = block(".", "hosts {\n10.0.0.8 a.example\n}");
    let config = block.hosts.as_ref().expect("hosts");
    assert_eq!(config.file, None, "lines alone name no file");
    let hosts = Hosts::prepare(config, &block.zones, None);
    assert_eq!((hosts.len(), hosts.is_empty()), (2, false));
    assert!(matches!(asked("a.example.", "A", |query| hosts.say(query)), Said::Reply(reply) if reply.authoritative));
}
