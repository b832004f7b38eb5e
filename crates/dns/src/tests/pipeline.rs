//! Blocks and the order of plugins in them: which block a name falls to, what is forwarded where, search help.

use std::sync::Arc;
use std::time::Duration;

use portolan_model::{NsName, ServiceKind};

use super::play::{Outside, Play, names};
use super::{Seen, external, name, namespace, records, service, surroundings};
use crate::corefile::Corefile;
use crate::corefile::config::{
    Autopath, AutopathBy, Block, CacheConfig, ForwardConfig, KubernetesConfig, Place, Target,
};
use crate::explain::{Ending, Inquiry, explain};
use crate::site::Surroundings;
use crate::{ClientPod, Pods, PodsChange, Rtype, Setup, Site};

const POD: &str = "10.244.1.9";
const STRANGER: &str = "192.0.2.77";

fn block(zones: &[&str]) -> Block {
    Block::new(Place::default(), names(zones))
}

fn forwarding(from: &str) -> ForwardConfig {
    ForwardConfig::new(Place::default(), name(from), vec![Target::Plain(([192, 0, 2, 1], 53).into())])
}

fn in_cluster() -> Block {
    let zones = names(&["cluster.local", "in-addr.arpa", "ip6.arpa"]);
    let kubernetes = KubernetesConfig { ttl_secs: 30, ..KubernetesConfig::new(zones) };
    Block { kubernetes: Some(kubernetes), forwards: vec![forwarding(".")], ..block(&["."]) }
}

pub(super) fn site_of(blocks: Vec<Block>, with: &Surroundings) -> Site {
    let facts = [
        namespace("default"),
        service("web", ServiceKind::ClusterIp, &["10.96.0.20"], &[]),
        external("outside", "ylzhong.top"),
        external("stub", "db.corp.example"),
        external("dead", "nobody.corp.example"),
    ];
    let mut pods = Pods::default();
    let search = names(&["default.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"]);
    let pod = ClientPod {
        key: NsName::new("default", "app"),
        link: 7,
        addresses: vec![POD.parse().expect("an address")],
        search,
        ndots: 5,
    };
    pods.apply(PodsChange { set: vec![pod], gone: vec![] });
    Site::new(Arc::new(Setup::new(Corefile { blocks }, with)), records(&facts), pods)
}

fn play(blocks: Vec<Block>, outside: &[(&str, &str)]) -> Play {
    Play::new(site_of(blocks, &surroundings()), Outside::with(outside))
}

fn told(seen: &Seen) -> (&str, Vec<&str>) {
    (&seen.rcode, seen.answers.iter().map(String::as_str).collect())
}

#[test]
fn a_name_falls_to_the_block_with_the_longest_zone_above_it() {
    let stub = Block { forwards: vec![forwarding(".")], ..block(&["corp.example"]) };
    let closed = block(&["closed.corp.example"]);
    let mut play = play(vec![in_cluster(), closed, stub], &[("db.corp.example", "198.51.100.7")]);
    let rows = [
        ("web.default.svc.cluster.local", "NOERROR", "web.default.svc.cluster.local 30 A 10.96.0.20"),
        ("db.corp.example", "NOERROR", "db.corp.example 20 A 198.51.100.7"),
        ("DB.corp.EXAMPLE", "NOERROR", "DB.corp.EXAMPLE 20 A 198.51.100.7"),
        ("x.closed.corp.example", "REFUSED", ""),
        ("xclosed.corp.example", "NXDOMAIN", ""),
    ];
    for (asked, rcode, answer) in rows {
        let seen = play.ask(asked, "A", STRANGER, 0).expect("a reply");
        let expected: Vec<&str> = [answer].into_iter().filter(|line| !line.is_empty()).collect();
        assert_eq!(told(&seen), (rcode, expected), "{asked}");
    }
}

#[test]
fn a_block_bound_to_a_port_serves_that_port_alone() {
    let elsewhere = Block { port: 5300, ..in_cluster() };
    // Without a block at the port that was asked at, any other serves: whoever listens there wants it so.
    let mut alone = play(vec![elsewhere.clone()], &[]);
    assert_eq!(alone.ask("web.default.svc.cluster.local", "A", POD, 0).expect("a reply").rcode, "NOERROR");
    let mut both = play(vec![elsewhere, block(&["."])], &[]);
    assert_eq!(both.ask("web.default.svc.cluster.local", "A", POD, 0).expect("a reply").rcode, "REFUSED");
    for (bind, rcode) in [("192.0.2.5", "REFUSED"), ("0.0.0.0", "NOERROR")] {
        let bound = Block { bind: vec![bind.parse().expect("an address")], ..in_cluster() };
        let seen = play(vec![bound], &[]).ask("web.default.svc.cluster.local", "A", POD, 0).expect("a reply");
        assert_eq!(seen.rcode, rcode, "bound to {bind}");
    }
}

#[test]
fn forward_takes_the_longest_base_and_leaves_out_what_it_excepts() {
    let except = ForwardConfig { except: names(&["secret.example"]), ..forwarding("example") };
    let mut play = play(
        vec![Block { forwards: vec![except], ..block(&["."]) }],
        &[("a.example", "198.51.100.1"), ("b.secret.example", "198.51.100.2"), ("c.test", "198.51.100.3")],
    );
    let codes = ["a.example", "b.secret.example", "c.test"]
        .map(|asked| play.ask(asked, "A", STRANGER, 0).expect("a reply").rcode);
    assert_eq!(codes, ["NOERROR", "REFUSED", "REFUSED"]);
    assert_eq!(play.asked, ["a.example."]);
}

#[test]
fn an_alias_is_resolved_in_the_block_that_serves_its_target() {
    let stub = Block { forwards: vec![forwarding(".")], ..block(&["corp.example"]) };
    let cluster = Block { forwards: Vec::new(), ..in_cluster() };
    let mut play = play(vec![cluster, stub], &[("db.corp.example", "198.51.100.7")]);
    let rows: [(&str, &str, &[&str]); 3] = [
        (
            "stub.default.svc.cluster.local",
            "NOERROR",
            &["db.corp.example 20 A 198.51.100.7", "stub.default.svc.cluster.local 30 CNAME db.corp.example"],
        ),
        (
            "dead.default.svc.cluster.local",
            "NXDOMAIN",
            &["dead.default.svc.cluster.local 30 CNAME nobody.corp.example"],
        ),
        ("outside.default.svc.cluster.local", "NOERROR", &["outside.default.svc.cluster.local 30 CNAME ylzhong.top"]),
    ];
    for (asked, rcode, answers) in rows {
        let seen = play.ask(asked, "A", STRANGER, 0).expect("a reply");
        assert_eq!(told(&seen), (rcode, answers.to_vec()), "{asked}");
    }
}

fn helping(by: AutopathBy) -> Block {
    Block { autopath: Some(Autopath { zones: names(&["cluster.local"]), by }), ..in_cluster() }
}

#[test]
fn a_known_pods_first_step_is_answered_for_the_whole_search_list() {
    let outside =
        [("example.com", "198.51.100.1"), ("db.corp.example", "198.51.100.2"), ("six.example", "2001:db8::6")];
    let mut play = play(vec![helping(AutopathBy::Kubernetes)], &outside);
    let rows: [(&str, &str, &str, &[&str]); 5] = [
        (
            "example.com.default.svc.cluster.local",
            "A",
            "NOERROR",
            &["example.com 20 A 198.51.100.1", "example.com.default.svc.cluster.local 20 CNAME example.com"],
        ),
        (
            "db.default.svc.cluster.local",
            "A",
            "NOERROR",
            &["db.corp.example 20 A 198.51.100.2", "db.default.svc.cluster.local 20 CNAME db.corp.example"],
        ),
        // The first name of the list exists: no alias.
        ("web.default.svc.cluster.local", "A", "NOERROR", &["web.default.svc.cluster.local 30 A 10.96.0.20"]),
        (
            "web.default.default.svc.cluster.local",
            "A",
            "NOERROR",
            &[
                "web.default.default.svc.cluster.local 30 CNAME web.default.svc.cluster.local",
                "web.default.svc.cluster.local 30 A 10.96.0.20",
            ],
        ),
        // It exists without the type: the walk ends there.
        ("six.example.default.svc.cluster.local", "A", "NOERROR", &[]),
    ];
    for (asked, rtype, rcode, answers) in rows {
        let seen = play.ask(asked, rtype, STRANGER, 7).expect("a reply");
        assert_eq!(told(&seen), (rcode, answers.to_vec()), "{asked} {rtype}");
        let by_address = play.ask(asked, rtype, POD, 0).expect("a reply");
        assert_eq!(told(&by_address), told(&seen), "{asked} {rtype} by address");
    }
}

#[test]
fn nobody_else_and_nothing_else_is_helped() {
    let mut play = play(vec![helping(AutopathBy::Kubernetes)], &[("example.com", "198.51.100.1")]);
    let rows = [
        ("example.com.default.svc.cluster.local", "A", STRANGER, 0),
        ("example.com.default.svc.cluster.local", "TXT", STRANGER, 7),
        ("example.com.svc.cluster.local", "A", STRANGER, 7),
        ("nothing.default.svc.cluster.local", "A", STRANGER, 7),
    ];
    for (asked, rtype, from, link) in rows {
        let seen = play.ask(asked, rtype, from, link).expect("a reply");
        assert_eq!(told(&seen), ("NXDOMAIN", vec![]), "{asked} {rtype} from {from} by link {link}");
        assert!(seen.authority.iter().any(|line| line.contains(" SOA ")), "{asked}: {:?}", seen.authority);
    }
    let mut plain = self::play(vec![in_cluster()], &[("example.com", "198.51.100.1")]);
    assert_eq!(
        plain.ask("example.com.default.svc.cluster.local", "A", STRANGER, 7).expect("a reply").rcode,
        "NXDOMAIN"
    );
    assert_eq!(plain.asked, [] as [&str; 0]);
}

#[test]
fn a_search_that_cannot_be_told_is_not_called_absent() {
    let mut play = play(vec![helping(AutopathBy::Kubernetes)], &[]);
    play.outside.failing = vec!["x.corp.example.".to_owned()];
    let seen = play.ask("x.default.svc.cluster.local", "A", STRANGER, 7).expect("a reply");
    assert_eq!(told(&seen), ("SERVFAIL", vec![]));
    assert_eq!(play.asked, ["x.corp.example.", "x."], "the rest of the list was tried all the same");
}

#[test]
fn a_search_list_may_come_from_a_file() {
    let mut with = surroundings();
    with.files.insert("/etc/search".to_owned(), "search svc.cluster.local corp.example\n".to_owned());
    let site = site_of(vec![helping(AutopathBy::File("/etc/search".to_owned()))], &with);
    let mut play = Play::new(site, Outside::with(&[("db.corp.example", "198.51.100.2")]));
    let seen = play.ask("db.svc.cluster.local", "A", STRANGER, 0).expect("a reply");
    assert_eq!(told(&seen).1, ["db.corp.example 20 A 198.51.100.2", "db.svc.cluster.local 20 CNAME db.corp.example"]);
}

#[test]
fn steps_that_led_nowhere_are_counted_for_their_pod() {
    let mut play = play(vec![in_cluster()], &[("example.com", "198.51.100.1")]);
    let before = counts(&play);
    for asked in ["example.com.default.svc.cluster.local", "example.com", "no.such.name"] {
        play.ask(asked, "A", STRANGER, 7);
    }
    let after = counts(&play);
    // The play asks the server and, where it answers at once, the hot path too.
    assert_eq!((after.0 - before.0, after.1 - before.1), (4, 2), "the step counts, the name that nobody has does not");
}

fn counts(play: &Play) -> (u64, u64) {
    play.server.site().pods().get(&NsName::new("default", "app")).expect("it is known").counts()
}

#[test]
fn a_lookup_is_told_step_by_step_with_block_plugin_object_and_what_help_would_save() {
    let told = |block: Block, name: &str| {
        let site = site_of(vec![block], &surroundings());
        let pod = Some(NsName::new("default", "app"));
        explain(&site, &Inquiry { name: name.to_owned(), pod, ..Inquiry::default() }, Duration::ZERO)
    };
    let plain = told(in_cluster(), "example.com");
    let names: Vec<&str> = plain.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "example.com.default.svc.cluster.local.",
            "example.com.svc.cluster.local.",
            "example.com.cluster.local.",
            "example.com.corp.example.",
        ]
    );
    let last = &plain.steps[3].questions[0];
    assert_eq!((last.outcome, last.plugin.as_str(), last.block.as_str()), (Ending::Upstream, "forward", ".:53 (:0)"));
    assert_eq!(last.upstreams, ["192.0.2.1:53"]);
    assert_eq!((plain.wasted_queries, plain.autopath.acts, plain.autopath.saves_queries), (6, false, 6));
    let helped = told(helping(AutopathBy::Kubernetes), "example.com");
    assert_eq!((helped.steps.len(), helped.autopath.acts, helped.autopath.saves_queries), (1, true, 6));
    let web = told(in_cluster(), "web");
    let first = &web.steps[0].questions[0];
    assert_eq!(
        (web.resolved, first.plugin.as_str(), &first.objects[..]),
        (true, "kubernetes", &["Service default/web".to_owned()][..])
    );
    let closed = told(block(&["."]), "web");
    assert_eq!((closed.resolved, closed.steps[0].questions[0].rcode.as_str()), (false, "REFUSED"));
}

#[test]
fn help_is_told_to_save_what_a_walk_by_the_server_would_and_no_more() {
    let told = |name: &str, rtypes: &[Rtype], ndots: Option<u8>| {
        let site = site_of(vec![in_cluster()], &surroundings());
        let (name, rtypes, pod) = (name.to_owned(), rtypes.to_vec(), Some(NsName::new("default", "app")));
        let told = explain(&site, &Inquiry { name, rtypes, pod, ndots, ..Inquiry::default() }, Duration::ZERO);
        (told.resolved, told.wasted_queries, told.autopath.saves_queries)
    };
    // An absolute name is in no search list, found or not.
    assert_eq!(told("web.default.svc.cluster.local.", &[], None), (true, 0, 0));
    assert_eq!(told("nobody.default.svc.cluster.local.", &[], None), (false, 2, 0));
    // A walk helps with addresses only.
    assert_eq!(told("example.com", &[Rtype::MX], None), (false, 3, 0));
    assert_eq!(told("example.com", &[Rtype::A, Rtype::MX], None), (false, 6, 3));
    // The bare name comes before the list, and is no step of the walk; `web` is the list's first.
    assert_eq!(told("example.com", &[], Some(1)), (false, 0, 0));
    assert_eq!(told("web.default", &[], None), (true, 2, 2));
}

#[test]
fn the_names_that_a_pod_asks_for_in_vain_are_told_as_its_programs_gave_them() {
    let mut play = play(vec![in_cluster()], &[]);
    for asked in ["example.com.default.svc.cluster.local", "example.com.svc.cluster.local", "a.b.cluster.local"] {
        play.ask(asked, "A", STRANGER, 7);
    }
    play.ask("web.default.svc.cluster.local", "A", STRANGER, 7);
    let site = play.server.site();
    let names = site.pods().get(&NsName::new("default", "app")).expect("it is known").wasted_names();
    let names: Vec<String> = names.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names, ["example.com.", "a.b."]);
}

#[test]
fn a_configuration_that_stays_keeps_its_cache_and_its_numbers() {
    let cached = || Block { cache: Some(CacheConfig::default()), ..in_cluster() };
    let mut play = play(vec![cached()], &[("example.com", "198.51.100.1")]);
    let ask = |play: &mut Play| play.ask("example.com", "A", STRANGER, 0).expect("a reply").answers;
    assert_eq!(ask(&mut play), ask(&mut play));
    assert_eq!(play.asked, ["example.com."], "the second is from the cache");
    let reload = |play: &mut Play, blocks: Vec<Block>| {
        let setup = Setup::after(Some(play.server.site().setup()), Corefile { blocks }, &surroundings());
        let site = play.server.site().with_setup(Arc::new(setup));
        play.server.set_site(site);
        play.server.configure_upstreams(play.now, &mut || 0);
    };
    let counted = |play: &Play| -> u64 {
        let counts = play.server.site().setup().counts();
        counts.flat_map(|(_, counts)| counts.requests()).map(|(.., count)| count).sum()
    };
    let before = counted(&play);
    reload(&mut play, vec![Block { minimal: true, ..cached() }, block(&["other.example"])]);
    ask(&mut play);
    assert_eq!((play.asked.len(), counted(&play) > before), (1, true), "kept over a reload");
    reload(&mut play, vec![Block { forwards: vec![ForwardConfig { max_fails: 7, ..forwarding(".") }], ..cached() }]);
    ask(&mut play);
    assert_eq!(play.asked.len(), 2, "other upstreams may know other things");
}

#[test]
fn a_site_by_many_small_changes_answers_as_one_from_scratch() {
    let blocks =
        || vec![helping(AutopathBy::Kubernetes), Block { forwards: vec![forwarding(".")], ..block(&["corp.example"]) }];
    let target = site_of(blocks(), &surroundings());
    let mut site = Site::nothing();
    for at in 0..3 {
        let partly = Corefile { blocks: blocks().into_iter().take(at).collect() };
        site = site.with_setup(Arc::new(Setup::after(Some(site.setup()), partly, &surroundings())));
        site = site.with_pods(Pods::default()).with_records(target.records().clone()).with_pods(target.pods().clone());
    }
    let outside = || Outside::with(&[("example.com", "198.51.100.1"), ("db.corp.example", "198.51.100.7")]);
    let (mut one, mut other) = (Play::new(target, outside()), Play::new(site, outside()));
    for name in [
        "web.default.svc.cluster.local",
        "example.com.default.svc.cluster.local",
        "stub.default.svc.cluster.local",
        "nothing.corp.example",
        "x.default.svc.cluster.local",
        "20.0.96.10.in-addr.arpa",
    ] {
        for rtype in ["A", "AAAA", "PTR", "TXT"] {
            for (from, link) in [(POD, 0), (STRANGER, 7), (STRANGER, 0)] {
                assert_eq!(
                    one.ask(name, rtype, from, link),
                    other.ask(name, rtype, from, link),
                    "{name} {rtype} {from}"
                );
            }
        }
    }
}
