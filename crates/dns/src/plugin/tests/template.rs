//! `template`, by the examples of CoreDNS's page and its tests.

use super::super::template::Templates;
use super::{asked, block, ip, short};

fn say(lines: &str, name: &str, rtype: &str) -> String {
    let block = block(".", lines);
    let templates = Templates::prepare(&block.templates, &block.zones).expect("templates");
    short(&asked(name, rtype, |query| templates.say(query, ip("::ffff:10.1.2.3"))))
}

#[test]
fn aaaa_can_be_switched_off() {
    let lines = "template IN AAAA {\nrcode NOERROR\n}";
    assert_eq!(say(lines, "a.example.", "AAAA"), "NOERROR");
    assert_eq!(say(lines, "a.example.", "A"), "NEXT");
    assert_eq!(say(lines, "a.example.", "ANY"), "NOERROR");
    assert_eq!(say("template ANY ANY {\nrcode NXDOMAIN\n}", "a.example.", "TXT"), "NXDOMAIN");
    assert_eq!(say("template IN A {\nrcode SERVFAIL\n}", "a.example.", "A"), "SERVFAIL");
}

#[test]
fn zones_bound_a_template_and_patterns_choose_in_it() {
    let lines = "template IN ANY com.dc1.example {
  rcode NXDOMAIN
  authority \"{{ .Zone }} 60 IN SOA ns.example hostmaster.example (1 60 60 60 60)\"
}
template IN A example {
  match \"example\\.(dc2\\.example\\.)$\"
  rcode NXDOMAIN
  authority \"{{ index .Match 1 }} 60 IN SOA ns.{{ index .Match 1 }} h.{{ index .Match 1 }} (1 60 60 60 60)\"
  fallthrough
}
template IN A strict {
  match ^yes[.]
}";
    assert_eq!(
        say(lines, "a.com.dc1.example.", "A"),
        "NXDOMAIN; /com.dc1.example. 60 SOA ns.example. hostmaster.example. 1 60 60 60 60"
    );
    assert_eq!(
        say(lines, "a.example.dc2.example.", "A"),
        "NXDOMAIN; /dc2.example. 60 SOA ns.dc2.example. h.dc2.example. 1 60 60 60 60"
    );
    assert_eq!(say(lines, "a.example.", "A"), "NEXT", "no pattern fits, and it falls through");
    assert_eq!(say(lines, "no.strict.", "A"), "SERVFAIL", "no pattern fits, and it does not fall through");
    assert_eq!(say(lines, "yes.strict.", "A"), "NOERROR");
    assert_eq!(say(lines, "no.strict.", "TXT"), "NEXT", "of another type it is not asked at all");
    assert_eq!(say(lines, "elsewhere.", "A"), "NEXT");
}

#[test]
fn groups_by_name_and_number_make_records() {
    let lines = "template IN A example {
  match \"(^|[.])ip-(?P<a>[0-9]*)-(?P<b>[0-9]*)-(?P<c>[0-9]*)-(?P<d>[0-9]*)[.]example[.]$\"
  match \"^ip0a(?P<b>[a-f0-9]{2})(?P<c>[a-f0-9]{2})(?P<d>[a-f0-9]{2})[.]hex[.]example[.]$\"
  answer \"{{ .Name }} 60 IN A {{ .Group.a }}.{{ .Group.b }}.{{ .Group.c }}.{{ .Group.d }}\"
  fallthrough
}
template IN A hex2 {
  match \"^ip0a(?P<b>[a-f0-9]{2})(?P<c>[a-f0-9]{2})(?P<d>[a-f0-9]{2})[.]hex2[.]$\"
  answer \"{{ .Name }} 60 IN A 10.{{ parseInt .Group.b 16 8 }}.{{ parseInt .Group.c 16 8 }}.{{ parseInt .Group.d 16 8 }}\"
}
template IN PTR in-addr.arpa {
  match ^(?P<d>[0-9]*)[.](?P<c>[0-9]*)[.](?P<b>[0-9]*)[.](?P<a>[0-9]*)[.]in-addr[.]arpa[.]$
  answer \"{{ .Name }} 60 IN PTR ip-{{ .Group.a }}-{{ index .Match 3 }}-{{- .Group.c -}} -{{ .Group.d }}.example.\"
}";
    assert_eq!(
        say(lines, "Ip-10-1-2-3.example.", "A"),
        "NOERROR; ip-10-1-2-3.example. 60 A 10.1.2.3",
        "compared in lower case"
    );
    assert_eq!(say(lines, "a.ip-10-1-2-3.example.", "A"), "NOERROR; a.ip-10-1-2-3.example. 60 A 10.1.2.3");
    assert_eq!(say(lines, "ip-10-1-2-300.example.", "A"), "SERVFAIL", "what comes out is no address");
    assert_eq!(say(lines, "ip0a7b7b7b.hex2.", "A"), "NOERROR; ip0a7b7b7b.hex2. 60 A 10.123.123.123");
    assert_eq!(
        say(lines, "3.2.1.10.in-addr.arpa.", "PTR"),
        "NOERROR; 3.2.1.10.in-addr.arpa. 60 PTR ip-10-1-2-3.example."
    );
}

#[test]
fn records_of_all_sections_and_kinds_are_made() {
    let lines = "template IN MX example {
  match ^ip-10-(?P<b>[0-9]*)[.]example[.]$
  answer \"{{ .Name }} 60 IN MX 10 {{ .Name }}\"
  additional \"{{ .Name }} 60 IN A 10.{{ .Group.b }}.0.1\"
  authority \"example. 60 IN NS ns0.example.\" \"example. 60 IN NS ns1.example.\"
}
template IN TXT who {
  answer \"{{ .Name }} 0 {{ .Class }} {{ .Type }} \\\"from {{ .Remote }}; {{ .Zone }}\\\"\"
}
template IN CAA caa {
  answer \"{{ .Name }} CAA 0 issue \\\"ca.example\\\"\"
}
template IN SRV srv {
  answer \"{{ .Name }} 1h IN SRV 1 2 3 target.srv\"
}
template IN HTTPS web {
  answer \"{{ .Name }} 60 IN HTTPS 1 . alpn=\\\"h2,h3\\\" port=8443 ipv4hint=10.0.0.1\"
}
template IN TYPE65280 raw {
  answer \"{{ .Name }} 60 IN TYPE65280 \\# 3 01 0203\"
}";
    assert_eq!(
        say(lines, "ip-10-7.example.", "MX"),
        "NOERROR; ip-10-7.example. 60 MX \\# 20 00 0a 07 69 70 2d 31 30 2d 37 07 65 78 61 6d 70 6c 65 00; \
         /example. 60 NS ns0.example.; /example. 60 NS ns1.example.; +ip-10-7.example. 60 A 10.7.0.1"
            .replace("20 00", "19 00")
    );
    assert_eq!(say(lines, "a.who.", "TXT"), "NOERROR; a.who. 0 TXT \"from 10.1.2.3; who.\"");
    assert_eq!(
        say(lines, "caa.", "TYPE257"),
        "NOERROR; caa. 3600 TYPE257 \\# 17 00 05 69 73 73 75 65 63 61 2e 65 78 61 6d 70 6c 65"
    );
    assert_eq!(say(lines, "srv.", "SRV"), "NOERROR; srv. 3600 SRV 1 2 3 target.srv.");
    assert_eq!(
        say(lines, "web.", "HTTPS"),
        "NOERROR; web. 60 HTTPS \\# 27 00 01 00 00 01 00 06 02 68 32 02 68 33 00 03 00 02 20 fb 00 04 00 04 0a 00 00 01"
    );
    assert_eq!(say(lines, "raw.", "TYPE65280"), "NOERROR; raw. 60 TYPE65280 \\# 3 01 02 03");
}

#[test]
fn an_alias_asked_for_by_address_is_resolved_on() {
    let lines = "template IN ANY foogle.com {\nanswer \"foogle.com 60 IN CNAME google.com\"\n}";
    assert_eq!(say(lines, "foogle.com.", "A"), "ALIAS; foogle.com. 60 -> google.com.");
    assert_eq!(say(lines, "foogle.com.", "AAAA"), "ALIAS; foogle.com. 60 -> google.com.");
    assert_eq!(say(lines, "foogle.com.", "TXT"), "NOERROR; foogle.com. 60 CNAME google.com.");
}
