//! What is refused, with the line and the words that say why.

use super::super::*;
use super::{problems, told};

/// Lines in a block and how what is told of them begins, behind `Corefile:2: `.
const LINES: &[(&str, &str)] = &[
    ("foo", "unknown plugin `foo`: not one that this DNS has; see docs/dns-corefile.md for the list"),
    ("route53 example.org", "`route53` is a plugin of CoreDNS that this DNS does not have"),
    ("dnssec", "`dnssec` is a plugin of CoreDNS that this DNS does not have: records that upstreams signed pass"),
    ("acl {\n permit net *\n}", "`permit` is no option of `acl`; those are allow, block, filter, drop"),
    ("acl {\n block net 300.0.0.0/8\n}", "\"300.0.0.0/8\" is no network"),
    ("acl {\n block type FOO\n}", "`FOO` is no type of records"),
    ("acl {\n block type\n}", "`type` needs something behind it"),
    ("acl {\n block ip 10.0.0.1\n}", "`ip`: what may stand there is type TYPES… or net NETWORKS…"),
    ("any thing", "`thing` behind `any`: what may stand there is nothing"),
    ("any {\n}", "`any` takes no braces"),
    ("autopath", "`autopath` needs @kubernetes or a file"),
    ("autopath @erratic", "`autopath @erratic`"),
    ("autopath @kubernetes", "`autopath` needs `kubernetes` in the same block"),
    ("k8s_external example.org", "`k8s_external` needs `kubernetes` in the same block"),
    ("bind", "`bind` needs addresses"),
    ("bind eth0", "`bind eth0`: an IP address may stand there; names of interfaces are not done here"),
    ("bufsize 511", "`bufsize 511`: a whole number from 512 to 4096"),
    ("bufsize 4097", "`bufsize 4097`: a whole number from 512 to 4096"),
    ("bufsize 1232 1", "`1` behind `bufsize`"),
    ("cache 0", "`cache 0`: a whole number from 1"),
    ("cache -1", "`cache -1`: a whole number from 1"),
    ("cache {\n success\n}", "`success` needs a number of answers"),
    ("cache {\n success many\n}", "`success many`: a whole number"),
    ("cache {\n denial 10 0\n}", "`denial 0`: a whole number from 1"),
    ("cache {\n prefetch -1\n}", "`prefetch -1`: a whole number"),
    ("cache {\n prefetch 1 1m 95%\n}", "`prefetch … 95%`: 10% to 90% may stand there"),
    ("cache {\n prefetch 1 1m 50\n}", "`prefetch … 50`: 10% to 90% may stand there"),
    ("cache {\n serve_stale -5s\n}", "`serve_stale -5s`: a duration that is not negative"),
    ("cache {\n serve_stale 1h later\n}", "`serve_stale … later`: what may stand there is immediate or verify"),
    ("cache {\n servfail 6m\n}", "`servfail`: a failure is kept for 5m at most"),
    ("cache {\n disable everything\n}", "`disable everything`: what may stand there is success or denial"),
    ("cache {\n keepttl yes\n}", "`yes` behind `keepttl`"),
    ("cache {\n serve_stale_policy prefer_positive\n}", "`serve_stale_policy` of `cache` is not done here"),
    ("cache {\n foo\n}", "`foo` is no option of `cache`; those are success, denial"),
    ("errors stderr", "`errors stderr`: what may stand there is stdout"),
    ("errors {\n consolidate 5m\n}", "`consolidate` needs a duration and a pattern"),
    ("errors {\n consolidate 5m (\n}", "the pattern `(` cannot be read: unclosed group"),
    ("forward", "`forward` needs a zone and servers"),
    ("forward .", "`forward .` needs servers"),
    ("forward . dns.example.org", "`dns.example.org`: a server is an IP address or a file"),
    ("forward . 10.0.0.1:99999", "`10.0.0.1:99999`: a server is an IP address"),
    ("forward . tls://dns.example.org", "`tls://dns.example.org`: an IP address may stand there"),
    ("forward . grpc://10.0.0.1", "`grpc://10.0.0.1`: servers are asked by UDP, TCP, tls:// and https://"),
    ("forward . ftp://10.0.0.1", "`ftp://10.0.0.1`: what may stand before :// is dns, tls or https"),
    (
        "forward . 10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6 10.0.0.7 10.0.0.8 10.0.0.9 10.0.0.10 10.0.0.11 \
         10.0.0.12 10.0.0.13 10.0.0.14 10.0.0.15 10.0.0.16",
        "`forward` takes 15 servers at most; 16 are written",
    ),
    (
        "forward . tls://9.9.9.9%a.example tls://9.9.9.8%b.example",
        "`tls://9.9.9.8%b.example`: a `forward` has one name",
    ),
    (
        "forward . 10.0.0.1 {\n policy best\n}",
        "`policy best`: what may stand there is random, round_robin or sequential",
    ),
    ("forward . 10.0.0.1 {\n max_fails few\n}", "`max_fails few`: a whole number"),
    ("forward . 10.0.0.1 {\n force_tcp now\n}", "`now` behind `force_tcp`"),
    ("forward . 10.0.0.1 {\n failover NOERROR\n}", "`failover NOERROR`: an answer is no failure"),
    ("forward . 10.0.0.1 {\n failover NONE\n}", "`NONE` is no code"),
    ("forward . 10.0.0.1 {\n next NXDOMAIN\n}", "`next` of `forward` is not done here"),
    ("forward . 10.0.0.1 {\n tls a b c d\n}", "`d` behind `tls`"),
    ("forward . 10.0.0.1 {\n expire soon\n}", "`expire soon`: a duration"),
    ("health 8080", "`health 8080`: an address with a port may stand there"),
    ("health {\n lameduck\n}", "`lameduck` needs a duration"),
    ("hosts {\n example.org 10.0.0.1\n}", "`example.org` is no option of `hosts`"),
    ("hosts {\n 10.0.0.1\n}", "`10.0.0.1` needs a name"),
    ("hosts {\n fallthrough\n 10.0.0.1 a\n}", "`hosts`: lines with addresses stand before `fallthrough`"),
    ("hosts {\n ttl 0\n}", "`ttl 0`: a whole number from 1 to 65535"),
    ("hosts {\n ttl 65536\n}", "`ttl 65536`: a whole number from 1 to 65535"),
    ("kubernetes in-addr.arpa", "`kubernetes` needs a zone for names"),
    ("kubernetes cluster.local {\n ttl 3601\n}", "`ttl 3601`: a whole number from 0 to 3600 may stand there"),
    ("kubernetes cluster.local {\n ttl -1\n}", "`ttl -1`: a whole number from 0 to 3600"),
    ("kubernetes cluster.local {\n pods all\n}", "`pods all`: what may stand there is disabled, insecure or verified"),
    ("kubernetes cluster.local {\n pods\n}", "`pods` needs disabled, insecure or verified, and nothing else"),
    ("kubernetes cluster.local {\n labels a=b\n}", "`labels` of `kubernetes` is not done here"),
    ("kubernetes cluster.local {\n multicluster a\n}", "`multicluster` of `kubernetes` is not done here"),
    ("kubernetes cluster.local {\n ignore all\n}", "`ignore all`: what may stand there is empty_service"),
    ("kubernetes cluster.local {\n noendpoints x\n}", "`x` behind `noendpoints`"),
    ("kubernetes cluster.local {\n foo\n}", "`foo` is no option of `kubernetes`; those are pods, ttl"),
    ("kubernetes a..b", "\"a..b\" is not a domain name"),
    ("loadbalance weighted f", "`loadbalance weighted` is not done here"),
    ("loadbalance best", "`loadbalance best`: what may stand there is round_robin"),
    ("log {\n class most\n}", "`class most`: what may stand there is all, success, denial, error"),
    ("loop 1", "`1` behind `loop`"),
    ("loop\nloop", "`loop` stands twice in this block, before in line 2"),
    ("prometheus 9153", "`prometheus 9153`: an address with a port"),
    ("prometheus :9153 {\n tls f\n}", "`tls` of `prometheus` is not done here"),
    ("ready {\n monitor once\n}", "`monitor once`: what may stand there is until-ready or continuously"),
    ("reload 1s", "`reload`: an interval of 2s or more"),
    ("reload 10s 100ms", "`reload`: a jitter of 0 or of 1s or more"),
    ("rewrite", "`rewrite` needs a rule"),
    ("rewrite name a.example", "`rewrite name` needs a name and what to ask instead"),
    ("rewrite name a..example b", "\"a..example\" is not a domain name"),
    ("rewrite name a.example b..example", "\"b..example.\" is not a domain name"),
    ("rewrite name likely a b", "`likely`: what may stand there is exact, prefix, suffix, substring, regex"),
    ("rewrite name regex (.*)\\.a {1}.{2}.b", "`{1}.{2}.b`: there is no group 2; the pattern has 1"),
    ("rewrite name regex ( b", "the pattern `(` cannot be read"),
    ("rewrite name regex a b answer", "`answer` needs auto, name or value behind it"),
    ("rewrite name regex a b answer name x", "`answer name` needs a pattern and what to put"),
    ("rewrite name regex a b answer auto name x y", "`answer auto` beside other `answer` rules"),
    ("rewrite name regex a b and more", "`and`: what may stand there is answer auto"),
    ("rewrite type A", "`rewrite type` needs two types"),
    ("rewrite type A B", "`B` is no type of records"),
    ("rewrite ttl a.example 30-20", "`30-20`: seconds may stand there"),
    ("rewrite ttl a.example -", "`-`: seconds may stand there"),
    ("rewrite rcode a.example NXDOMAIN", "`rewrite rcode` needs a name and two codes"),
    ("rewrite class IN CH", "`rewrite class` is not done here"),
    ("rewrite edns0 local set 0xffee abc", "`rewrite edns0` is not done here"),
    ("rewrite answer name a b", "`rewrite answer`: what changes answers stands behind a `name` rule"),
    ("rewrite colour a b", "`rewrite colour`: what may stand there is name, type, ttl, rcode"),
    ("rrl {\n window 0\n}", "`window 0`: a whole number from 1"),
    ("rrl {\n ipv4-prefix-length 33\n}", "`ipv4-prefix-length 33`: a whole number from 1 to 32"),
    ("rrl {\n slip-ratio 11\n}", "`slip-ratio 11`: a whole number from 0 to 10"),
    ("template IN", "`template` needs a class and a type"),
    ("template CH TXT", "`template CH`: what may stand there is IN or ANY"),
    ("template IN FOO", "`FOO` is no type of records"),
    ("template IN A {\n match (\n}", "the pattern `(` cannot be read"),
    ("template IN A {\n rcode MAYBE\n}", "`MAYBE` is no code"),
    (
        "template IN A {\n answer \"{{ .Name }} 60 IN A ten\"\n}",
        "`answer \"{{ .Name }} 60 IN A ten\"`: `ten` is no data of a record of type A",
    ),
    ("template IN A {\n answer \"{{ .Name }} 60 IN\"\n}", "`answer \"{{ .Name }} 60 IN\"`: there is no type"),
    (
        "template IN A {\n answer \"{{ .Nmae }} 60 IN A 10.0.0.1\"\n}",
        "`answer \"{{ .Nmae }} 60 IN A 10.0.0.1\"`: `{{ .Nmae }}` is not done here",
    ),
    (
        "template IN A {\n answer \"{{ .Name 60 IN A 10.0.0.1\"\n}",
        "`answer \"{{ .Name 60 IN A 10.0.0.1\"`: `{{` is never closed",
    ),
    (
        "template IN A {\n match ^(?P<a>x)\n answer \"{{ .Name }} 60 IN A 10.0.0.{{ .Group.b }}\"\n}",
        "`answer \"{{ .Name }} 60 IN A 10.0.0.{{ .Group.b }}\"`: there is no group b",
    ),
    ("template IN A {\n ederror 21\n}", "`ederror` of `template` is not done here"),
    ("transfer {\n}", "`transfer` needs `to`"),
    ("transfer {\n to\n}", "`to` needs addresses"),
    ("transfer {\n to friends\n}", "\"friends\" is no network"),
];

#[test]
fn each_wrong_line_is_told_of_with_its_place_its_word_and_the_way_out() {
    for (lines, wanted) in LINES {
        let found = problems(&format!(".:53 {{\n{lines}\n}}\n"));
        let (place, what) = found.split_once(": ").expect("a place");
        assert!(what.starts_with(wanted), "{lines}\n  told: {found}\n  not:  {wanted}");
        let lines_of_it = 2..=lines.lines().count() + 1;
        let line = place.strip_prefix("Corefile:").and_then(|line| line.parse().ok()).expect("a line");
        assert!(lines_of_it.contains(&line), "{lines}: {found}");
        assert_eq!(found.lines().count(), 1, "{lines}: one mistake is told of once: {found}");
    }
}

#[test]
fn all_problems_of_a_file_are_told_at_once_in_its_order() {
    let found = problems(".:53 {\n  foo\n  cache 0\n  forward . a.example {\n    policy best\n  }\n}\n.:53 {\n}\n");
    let lines: Vec<&str> = found.lines().map(|line| line.split(": ").next().unwrap_or_default()).collect();
    assert_eq!(lines, ["Corefile:2", "Corefile:3", "Corefile:4", "Corefile:5", "Corefile:8"], "{found}");
}

#[test]
fn braces_quotes_and_heads_that_do_not_fit_are_told_of() {
    for (text, wanted) in [
        ("", "Corefile:1: there is no server block"),
        ("# nothing", "Corefile:1: there is no server block"),
        (".:53 {\n  loop\n", "Corefile:1: `{` is opened here and never closed"),
        (".:53 {\n  loop\n}\n}\n", "Corefile:4: `}` closes nothing"),
        (
            ".:53 {\n  forward . 10.0.0.1\n  {\n    force_tcp\n  }\n}\n",
            "Corefile:3: `{` must stand at the end of the line",
        ),
        (".:53 {\n  log . \"{name}\n}\n", "Corefile:1: `{` is opened here and never closed"),
        ("{\n  loop\n}", "Corefile:1: a server block needs a zone before its `{`"),
        ("a.example, {\n}", "Corefile:1: a zone is missing behind `a.example,`"),
        (".:0 {\n}", "Corefile:1: `.:0`: a port from 1 to 65535"),
        (".:99999 {\n}", "Corefile:1: `.:99999`: a port from 1 to 65535"),
        ("tls://.:853 {\n}", "Corefile:1: `tls://.:853`: this DNS listens by UDP and TCP only"),
        ("https://. {\n}", "Corefile:1: `https://.`: this DNS listens by UDP and TCP only"),
        ("grpc://. {\n}", "Corefile:1: `grpc://.`: this DNS listens by UDP and TCP only"),
        ("quic://. {\n}", "Corefile:1: `quic://.`: this DNS listens by UDP and TCP only"),
        ("udp://. {\n}", "Corefile:1: `udp://.`: `udp://` is no transport of DNS"),
        ("10.0.0.0/33 {\n}", "Corefile:1: \"10.0.0.0/33\" is no network"),
        ("a..b {\n}", "Corefile:1: \"a..b\" is not a domain name"),
        ("a b a {\n}", "Corefile:1: zone a. stands twice in this block's head"),
        ("(s) {\n loop\n}\n(s) {\n}\n. {\n}", "Corefile:4: snippet `(s)` was declared before"),
        ("(s) {\n loop\n", "Corefile:1: snippet `(s)` is never closed"),
        (". {\n import\n}", "Corefile:2: `import` needs the name of a snippet or of a file"),
        (". {\n import nothing\n}", "Corefile:2: cannot import `nothing`"),
        ("(s) {\n log {args[1]}\n}\n. {\n import s a\n}", "Corefile:5: `{args[1]}`: the import gives 1 arguments"),
    ] {
        let found = problems(text);
        assert!(found.lines().any(|line| line.starts_with(wanted)), "{text}\n  told: {found}\n  not:  {wanted}");
    }
}

#[test]
fn two_blocks_for_one_zone_and_port_are_refused_unless_they_listen_elsewhere() {
    let found = problems("a.example b.example {\n}\nb.example {\n}\n");
    assert!(found.starts_with("Corefile:3: zone b.example. at port 53 has a block already, at Corefile:1"), "{found}");
    problems(". {\n  bind 10.0.0.1\n}\n. {\n}\n");
    problems(". {\n  bind 10.0.0.1\n}\n. {\n  bind 10.0.0.2 10.0.0.1\n}\n");
    super::whole(". {\n  bind 10.0.0.1\n}\n. {\n  bind 10.0.0.2\n}\n");
    super::whole(". {\n}\n.:54 {\n}\na.example {\n}\n");
}

#[test]
fn what_has_no_effect_here_is_read_and_noted() {
    let text = ". {
  debug
  metadata
  kubernetes cluster.local {
    endpoint https://10.0.0.1:6443
    tls cert key ca
    kubeconfig /etc/kubernetes/dns.conf admin
    apiserver_qps 100
  }
  forward . 10.0.0.1 {
    max_idle_conns 4
    health_check 1s no_rec domain example.org
  }
}";
    let (corefile, notes) = read_with_notes(text, &Sources::none()).expect("right");
    let notes = told(&notes);
    let lines: Vec<&str> = notes.lines().map(|line| line.split(": ").next().unwrap_or_default()).collect();
    assert_eq!(lines, [2, 3, 5, 6, 7, 8, 11, 12, 12].map(|line| format!("Corefile:{line}")), "{notes}");
    assert!(notes.lines().all(|line| line.contains(" no effect here")), "{notes}");
    assert!(corefile.blocks[0].kubernetes.is_some());
}
