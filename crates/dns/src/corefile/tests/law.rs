//! What is read, printed and read again is the same.

use proptest::prelude::*;

use super::super::*;
use super::kubeadm::KUBEADM;
use super::{told, whole, without_places};

/// Lines of a block; any of them in any order make a block that is right.
const LINES: &[&str] = &[
    "acl {\nblock type A AAAA net 10.0.0.0/8 fd00::/8\n}",
    "acl a.example 10.0.0.0/8 {\nfilter type *\ndrop net *\nallow\n}",
    "any",
    "autopath a.example /etc/resolv.conf",
    "bind 10.0.0.1 ::1",
    "bufsize 512",
    "cache",
    "cache 30 a.example {\nsuccess 10 20 3\nprefetch 3 10s 15%\nserve_stale 10m verify\nservfail 1s\ndisable success a.example\nkeepttl\n}",
    "cache 7200 {\nserve_stale\n}",
    "errors {\nconsolidate 5m \"^read .* \\\"x\\\" #1$\"\n}",
    "forward . 10.0.0.1 10.0.0.2:54 [fd00::1]:54 {\nforce_tcp\nexcept b.example\nmax_concurrent 7\n}",
    "forward 10.0.0.0/15 tls://10.0.0.1%dns.example:8853 https://10.0.0.1/x {\nfailover SERVFAIL\ntls a b\npolicy round_robin\n}",
    "forward . /etc/resolv.conf {\nprefer_udp\nexpire 1m30s\nhealth_check 0.25s\nmax_fails 0\n}",
    "health 127.0.0.1:80 {\nlameduck 1h\n}",
    "hosts {\n10.0.0.1 a.example b.example\nfd00::1 *.c.example\nttl 5\nfallthrough a.example\n}",
    "hosts /etc/hosts a.example {\n10.0.0.1 a.example\nno_reverse\nreload 0\nfallthrough\n}",
    "k8s_external x.example {\nttl 0\nheadless\n}\nkubernetes",
    "kubernetes {\npods verified\nnamespaces a b\nfallthrough\n}",
    "loadbalance round_robin",
    "local",
    "log a.example {\nclass denial\n}",
    "log . \"{remote} # {type}\"",
    "loop",
    "minimal",
    "prometheus",
    "ready {\nmonitor continuously\n}",
    "reload 2s",
    "rewrite name a.example b.example",
    "rewrite continue name exact a.example b.example answer name (.*)\\.c {1}.d value x y",
    "rewrite name regex ^(.*)\\.a\\.example\\.$ {1}.b.example answer auto",
    "rewrite name suffix .a.example .b.example answer auto",
    "rewrite name prefix a b",
    "rewrite {\nname substring a \"b c\"\n}",
    "rewrite type ANY TYPE65534",
    "rewrite ttl suffix a.example -30",
    "rewrite rcode regex .* NXDOMAIN NOTIMP",
    "rrl a.example {\nresponses-per-second 5\nreport-only\n}",
    "template IN AAAA",
    "template ANY CAA a.example {\nmatch ^(?P<x>.)\\. \" \"\nanswer \"{{ .Name }} 1 IN CAA 0 issue \\\"{{ .Group.x }}\\\"\"\nrcode NXDOMAIN\nfallthrough 10.0.0.0/9\n}",
    "transfer a.example {\nto * 10.0.0.1\n}",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_is_printed_reads_back_as_the_same(picks in prop::collection::vec(0..LINES.len(), 0..12), port in 1_u16..) {
        let mut seen: Vec<&str> = Vec::new();
        let names = |line: &'static str| line.lines().filter(|line| !line.starts_with('}')).map(|line| line.split(' ').next().unwrap());
        let mut text = format!("a.example:{port} 10.9.0.0/16 {{\n");
        for line in picks.into_iter().map(|pick| LINES[pick]) {
            // Most plugins may stand once; the names of options that look like plugins do no harm.
            if names(line).all(|name| !seen.contains(&name)) {
                seen.extend(names(line));
                text += line;
                text.push('\n');
            }
        }
        text += "}\n";
        let first = read(&text, &Sources::none()).map_err(|found| TestCaseError::fail(format!("{text}\n{}", told(&found))))?;
        let printed = first.to_string();
        let second = read(&printed, &Sources::none()).map_err(|found| TestCaseError::fail(format!("{printed}\n{}", told(&found))))?;
        prop_assert_eq!(without_places(first), without_places(second.clone()), "{}", &printed);
        prop_assert_eq!(second.to_string(), printed, "the normal form is its own");
    }
}

#[test]
fn each_line_alone_is_right_and_prints_as_itself() {
    for line in LINES {
        let first = whole(&format!("a.example {{\n{line}\n}}\n"));
        assert!(!first.to_string().ends_with("{\n}\n"), "{line}: printed as nothing");
        assert_eq!(without_places(first.clone()), without_places(whole(&first.to_string())), "{line}");
    }
}

#[test]
fn the_normal_form_of_kubeadms_file() {
    let wanted = ".:53 {
    errors
    log . {
        class all
    }
    health :8080 {
        lameduck 5s
    }
    ready :8181
    prometheus :9153
    reload 30s
    loadbalance
    loop
    kubernetes cluster.local. in-addr.arpa. ip6.arpa. {
        pods insecure
        ttl 30
        fallthrough in-addr.arpa. ip6.arpa.
    }
    cache {
        success 9984 30 5
        denial 9984 30 5
        disable success cluster.local.
        disable denial cluster.local.
    }
    forward . /etc/resolv.conf {
        max_concurrent 1000
    }
}
";
    let file = KUBEADM.replacen("errors\n", "errors\n    log\n", 1);
    assert_eq!(whole(&file).to_string(), wanted);
}
