//! The order of plugins in a block, whatever the file's: for each pair that could change places a query that tells.

use portolan_model::{Fact, NsName, Pod};

use super::pipeline::site_of;
use super::play::{Outside, Play};
use super::{Seen, client, ip, namespace, packet, records, surroundings};
use crate::corefile::config::Block;
use crate::corefile::{Sources, read};
use crate::explain::{Ending, Inquiry, explain};
use crate::site::Now;
use crate::{Client, Pods, Site, Transport};

const WEB: &str = "web.default.svc.cluster.local";
const POD: &str = "10.244.1.9";
/// A node's: pods there are in its network.
const NODE: &str = "192.0.2.10";

/// A block of the root with the cluster, an upstream and these lines, which come last in the file.
fn blocks(lines: &str) -> Vec<Block> {
    let text = format!(". {{\nforward . 192.0.2.1\nkubernetes cluster.local\n{lines}\n}}\n");
    read(&text, &Sources::none()).unwrap_or_else(|problems| panic!("{text}{problems:?}")).blocks
}

fn play(lines: &str) -> Play {
    let outside = Outside::with(&[("example.com", "198.51.100.1"), ("db.corp.example", "198.51.100.2")]);
    Play::new(site_of(blocks(lines), &surroundings()), outside)
}

/// What comes first, lines of the block, what the pod asks for, the code, and words that the answer has.
const ROWS: &[(&str, &str, &str, &str, &str, &str)] = &[
    ("local before acl", "local\nacl {\nblock\n}", "localhost", "A", "NOERROR", "127.0.0.1"),
    ("acl before any", "acl {\nblock\n}\nany", WEB, "ANY", "REFUSED", ""),
    (
        "acl before rewrite: it judges the client's name",
        "acl old.example {\nblock\n}\nrewrite name old.example web.default.svc.cluster.local",
        "old.example",
        "A",
        "REFUSED",
        "",
    ),
    (
        "acl before rewrite: it does not judge what that makes of it",
        "acl cluster.local {\nblock\n}\nrewrite name old.example web.default.svc.cluster.local",
        "old.example",
        "A",
        "NOERROR",
        "10.96.0.20",
    ),
    (
        "acl before autopath",
        "acl default.svc.cluster.local {\nblock\n}\nautopath @kubernetes",
        "example.com.default.svc.cluster.local",
        "A",
        "REFUSED",
        "",
    ),
    (
        "acl before template",
        "acl {\nblock\n}\ntemplate IN A {\nanswer \"{{ .Name }} 7 IN A 192.0.2.8\"\n}",
        "a.example",
        "A",
        "REFUSED",
        "",
    ),
    ("any before rewrite", "any\nrewrite type ANY A", WEB, "ANY", "NOERROR", "HINFO"),
    ("any before template", "any\ntemplate IN ANY {\nrcode NXDOMAIN\n}", WEB, "ANY", "NOERROR", "HINFO"),
    ("any before kubernetes", "any", WEB, "ANY", "NOERROR", "HINFO"),
    (
        "rewrite before autopath",
        "rewrite name example.com.default.svc.cluster.local db.default.svc.cluster.local\nautopath @kubernetes",
        "example.com.default.svc.cluster.local",
        "A",
        "NOERROR",
        "198.51.100.2",
    ),
    (
        "rewrite before template",
        "rewrite name a.example b.example\ntemplate IN A a.example {\nanswer \"{{ .Name }} 7 IN A 192.0.2.8\"\n}\n\
         template IN A b.example {\nanswer \"{{ .Name }} 7 IN A 192.0.2.9\"\n}",
        "a.example",
        "A",
        "NOERROR",
        "192.0.2.9",
    ),
    (
        "rewrite before hosts",
        "rewrite name a.example b.example\nhosts {\n192.0.2.8 a.example\n192.0.2.9 b.example\n}",
        "a.example",
        "A",
        "NOERROR",
        "192.0.2.9",
    ),
    (
        "rewrite before kubernetes",
        "rewrite name web.default.svc.cluster.local gone.default.svc.cluster.local",
        WEB,
        "A",
        "NXDOMAIN",
        "",
    ),
    (
        "autopath before template",
        "autopath @kubernetes\ntemplate IN A cluster.local {\nrcode NXDOMAIN\n}",
        "example.com.default.svc.cluster.local",
        "A",
        "NOERROR",
        "198.51.100.1",
    ),
    (
        "autopath before hosts",
        "autopath @kubernetes\nhosts {\n192.0.2.8 x.cluster.local\nfallthrough example.com\n}",
        "example.com.default.svc.cluster.local",
        "A",
        "NOERROR",
        "198.51.100.1",
    ),
    (
        "autopath before kubernetes",
        "autopath @kubernetes",
        "example.com.default.svc.cluster.local",
        "A",
        "NOERROR",
        "198.51.100.1",
    ),
    (
        "template before hosts",
        "hosts {\n192.0.2.8 a.example\n}\ntemplate IN A {\nanswer \"{{ .Name }} 7 IN A 192.0.2.9\"\n}",
        "a.example",
        "A",
        "NOERROR",
        "192.0.2.9",
    ),
    (
        "template before kubernetes",
        "template IN A cluster.local {\nanswer \"{{ .Name }} 7 IN A 192.0.2.9\"\n}",
        WEB,
        "A",
        "NOERROR",
        "192.0.2.9",
    ),
    (
        "hosts before kubernetes",
        "hosts {\n192.0.2.8 web.default.svc.cluster.local\n}",
        WEB,
        "A",
        "NOERROR",
        "192.0.2.8",
    ),
    ("hosts before forward", "hosts {\n192.0.2.8 example.com\n}", "example.com", "A", "NOERROR", "192.0.2.8"),
];

#[test]
fn each_plugin_has_its_place() {
    for (what, lines, asked, rtype, rcode, words) in ROWS {
        let seen = play(lines).ask(asked, rtype, POD, 7).expect("a reply");
        let answers = seen.answers.join("; ");
        assert_eq!(seen.rcode, *rcode, "{what}: {answers}");
        assert!(answers.contains(words) && words.is_empty() == answers.is_empty(), "{what}: {answers:?}");
        assert!(!answers.contains("192.0.2.8") || words.contains("192.0.2.8"), "{what}: {answers}");
    }
}

#[test]
fn minimal_comes_after_all_that_answer_and_rrl_last_of_all() {
    let additional = |lines: &str| play(lines).ask("cluster.local", "NS", POD, 7).expect("a reply").additional.len();
    assert_eq!((additional(""), additional("minimal")), (1, 0));

    let said = |lines: &str, asked: &[&str]| -> Vec<String> {
        let site = site_of(blocks(lines), &surroundings());
        let client = Client { addr: (ip("192.0.2.77"), 4000).into(), ..client(Transport::Udp) };
        let mut out = Vec::new();
        let say =
            |asked: &&str| match site.answer_now(&packet(asked, "A"), &client, std::time::Duration::ZERO, &mut out) {
                Now::Replied(_) => Seen::read(&out).rcode,
                other => format!("{other:?}"),
            };
        asked.iter().map(say).collect()
    };
    let refused = "acl {\nblock\n}\nrrl . {\nerrors-per-second 1\nslip-ratio 0\n}";
    assert_eq!(said(refused, &["a.example", "a.example"]), ["REFUSED", "Silent"], "what acl said is counted");
    let absent = "rrl . {\nresponses-per-second 1\nslip-ratio 0\n}\nrewrite name regex (.*)\\.example web.default.svc.cluster.local";
    assert_eq!(
        said(absent, &["a.example", "b.example", "a.example"]),
        ["NOERROR", "NOERROR", "Silent"],
        "an account is the client's name's, not the rewritten one's"
    );
}

/// Pods that the cluster has, but nobody told of as clients.
fn far(pods: &[(&str, &str)], files: &[(&str, &str)], lines: &str) -> Play {
    let pod = |(namespace, addr): &(&str, &str)| {
        let addresses = vec![ip(addr)];
        let host_network = *addr == NODE;
        let pod = Pod { uid: "u".into(), node: None, addresses, host_network, finished: false };
        Fact::Pod(NsName::new(*namespace, "p"), Some(pod))
    };
    let facts: Vec<Fact> = [namespace("shop")].into_iter().chain(pods.iter().map(pod)).collect();
    let mut with = surroundings();
    with.files = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    let site: Site = site_of(blocks(lines), &with).with_records(records(&facts)).with_pods(Pods::default());
    let outside = Outside::with(&[("example.com", "198.51.100.1"), ("db.corp.example", "198.51.100.2")]);
    Play::new(site, outside)
}

#[test]
fn autopath_helps_a_pod_that_is_known_by_its_address_in_the_cluster_alone() {
    let asked = "example.com.shop.svc.cluster.local";
    let lines = "autopath @kubernetes";
    // What is shown, pods by namespace and address, who asks, what comes of it.
    type Row = (&'static str, &'static [(&'static str, &'static str)], &'static str, &'static str);
    let rows: [Row; 5] = [
        ("a node's network", &[("shop", NODE)], NODE, "NXDOMAIN"),
        ("its namespace's list", &[("shop", "10.244.7.7")], "10.244.7.7", "NOERROR"),
        ("nobody's address", &[("shop", "10.244.7.7")], "10.244.7.8", "NXDOMAIN"),
        ("another namespace's pod", &[("default", "10.244.7.7")], "10.244.7.7", "NXDOMAIN"),
        ("whose?", &[("shop", "10.244.7.7"), ("zoo", "10.244.7.7")], "10.244.7.7", "NXDOMAIN"),
    ];
    for (what, pods, from, rcode) in rows {
        let seen = far(pods, &[], lines).ask(asked, "A", from, 0).expect("a reply");
        assert_eq!(seen.rcode, rcode, "{what}");
        let found = ["example.com 20 A 198.51.100.1", "example.com.shop.svc.cluster.local 20 CNAME example.com"];
        assert_eq!(seen.answers, if rcode == "NOERROR" { &found[..] } else { &[] }, "{what}");
    }
    assert_eq!(far(rows[1].1, &[], "").ask(asked, "A", rows[1].2, 0).expect("a reply").rcode, "NXDOMAIN");
}

#[test]
fn such_a_pods_list_goes_on_with_that_of_the_file_that_upstreams_are_read_from() {
    let lines = "forward b.example /etc/resolv.conf\nautopath @kubernetes";
    let files = [("/etc/resolv.conf", "nameserver 192.0.2.1\nsearch corp.example\n")];
    let mut play = far(&[("shop", "10.244.7.7")], &files, lines);
    let seen = play.ask("db.shop.svc.cluster.local", "A", "10.244.7.7", 0).expect("a reply");
    assert_eq!(
        seen.answers,
        ["db.corp.example 20 A 198.51.100.2", "db.shop.svc.cluster.local 20 CNAME db.corp.example"]
    );
}

#[test]
fn a_lookup_is_told_from_what_caches_keep_and_with_what_the_pod_asked_so_far() {
    let mut play = play("cache 30");
    play.ask("example.com", "A", POD, 7);
    play.ask("gone.default.svc.cluster.local", "A", POD, 7);
    play.now += std::time::Duration::from_secs(4);
    let hits = |play: &Play| -> u64 {
        play.server.site().setup().caches().map(|(_, cache)| cache.counts().hits.iter().sum::<u64>()).sum()
    };
    let before = hits(&play);
    let tell = |name: &str, rtype| {
        let pod = Some(NsName::new("default", "app"));
        let inquiry = Inquiry { name: name.to_owned(), pod, rtypes: vec![rtype], ..Inquiry::default() };
        explain(play.server.site(), &inquiry, play.now)
    };
    let told = tell("example.com.", crate::Rtype::A);
    let first = &told.steps[0].questions[0];
    assert_eq!((first.outcome, first.plugin.as_str(), first.rcode.as_str()), (Ending::Records, "cache", "NOERROR"));
    assert_eq!(first.reason, "kept for 17 s more, asked of 192.0.2.1:53");
    assert_eq!((first.records[0].ttl_secs, first.records[0].data.as_str()), (16, "198.51.100.1"));
    let other = tell("example.com.", crate::Rtype::AAAA);
    assert_eq!((other.steps[0].questions[0].outcome, other.resolved), (Ending::Upstream, false), "that is not kept");
    assert_eq!(hits(&play), before, "looking is no hit");
    let asked = told.asker.asked.expect("the pod asked");
    let known = play.server.site().pods().get(&NsName::new("default", "app")).expect("it is known").counts();
    assert_eq!((asked.queries, asked.wasted), known);
    assert!(asked.wasted > 0 && asked.wasted < asked.queries, "{asked:?}");
    play.now += std::time::Duration::from_secs(60);
    let told = explain(
        play.server.site(),
        &Inquiry { name: "example.com.".to_owned(), rtypes: vec![crate::Rtype::A], ..Inquiry::default() },
        play.now,
    );
    assert_eq!(told.steps[0].questions[0].outcome, Ending::Upstream, "its time is over");
    assert_eq!(told.asker.asked, None);
}
