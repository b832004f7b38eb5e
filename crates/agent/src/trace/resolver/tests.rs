//! Searches over made-up servers.

use super::*;

const POD: &str = "search default.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\nnameserver 10.96.0.11\noptions ndots:5\n";
const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost\n10.244.0.5\tclient\n";

fn files() -> Files {
    Files { hosts: HOSTS.to_owned(), conf: Conf::parse(POD) }
}

/// What a server answers to each family's question for a name.
type Server = fn(IpAddr, &str, Family) -> (&'static str, Vec<&'static str>);

fn search(name: &str, families: &[Family], server: Server) -> DnsTold {
    find(name, families, &files(), |at, asked, families| {
        let asked = asked.to_string();
        let asked = asked.trim_end_matches('.');
        let query = |family: &Family| {
            let (answer, addresses) = server(at, asked, *family);
            DnsQuery {
                name: asked.to_owned(),
                record: if *family == Family::V4 { "A" } else { "AAAA" }.to_owned(),
                server: at,
                answer: answer.to_owned(),
                aliases: Vec::new(),
                addresses: addresses.iter().map(|address| address.parse().expect("address")).collect(),
                ttl_secs: None,
                took_us: 1,
            }
        };
        families.iter().map(query).collect()
    })
}

fn asked(told: &DnsTold) -> Vec<String> {
    told.queries.iter().map(|query| format!("{} {} @{}", query.name, query.record, query.server)).collect()
}

fn addresses(told: &DnsTold) -> Vec<String> {
    told.addresses.iter().map(IpAddr::to_string).collect()
}

#[test]
fn the_search_goes_on_until_a_domain_has_the_name() {
    let told = search("web.shop", &[], |_, name, family| match (name, family) {
        ("web.shop.svc.cluster.local", Family::V4) => ("NOERROR", vec!["10.96.0.7"]),
        ("web.shop.svc.cluster.local", Family::V6) => ("NOERROR", vec!["fd00:96::7"]),
        _ => ("NXDOMAIN", vec![]),
    });
    assert_eq!(
        asked(&told),
        [
            "web.shop.default.svc.cluster.local A @10.96.0.10",
            "web.shop.default.svc.cluster.local AAAA @10.96.0.10",
            "web.shop.svc.cluster.local A @10.96.0.10",
            "web.shop.svc.cluster.local AAAA @10.96.0.10",
        ]
    );
    assert_eq!((addresses(&told), told.hosts), (vec!["10.96.0.7".to_owned(), "fd00:96::7".to_owned()], false));
}

#[test]
fn families_choose_what_is_asked_and_which_address_comes_first() {
    let both: Server = |_, _, family| match family {
        Family::V4 => ("NOERROR", vec!["10.96.0.7"]),
        Family::V6 => ("NOERROR", vec!["fd00:96::7"]),
    };
    let first_v6 = search("web", &[Family::V6, Family::V4], both);
    assert_eq!(addresses(&first_v6), ["fd00:96::7", "10.96.0.7"]);
    let only_v6 = search("web", &[Family::V6], both);
    assert_eq!((asked(&only_v6).len(), addresses(&only_v6)), (1, vec!["fd00:96::7".to_owned()]));
}

#[test]
fn a_name_in_the_hosts_file_is_asked_of_nobody() {
    let told = search("Client", &[], |_, _, _| panic!("nobody is asked"));
    assert_eq!((told.hosts, addresses(&told), told.queries.len()), (true, vec!["10.244.0.5".to_owned()], 0));
    let v6 = search("localhost", &[Family::V6], |_, _, _| panic!("nobody is asked"));
    assert_eq!(addresses(&v6), ["::1"]);
}

#[test]
fn a_name_that_no_domain_has_was_tried_in_all_and_as_it_is() {
    let told = search("wbe", &[Family::V4], |_, _, _| ("NXDOMAIN", vec![]));
    let names: Vec<&str> = told.queries.iter().map(|query| query.name.as_str()).collect();
    assert_eq!(names, ["wbe.default.svc.cluster.local", "wbe.svc.cluster.local", "wbe"]);
    assert!(told.addresses.is_empty());
}

#[test]
fn a_silent_server_hands_on_to_the_next_and_all_silent_end_the_list_but_not_the_bare_name() {
    let second = search("web", &[Family::V4], |at, _, _| match at.to_string().as_str() {
        "10.96.0.10" => ("timeout", vec![]),
        _ => ("NOERROR", vec!["10.96.0.7"]),
    });
    assert_eq!(
        asked(&second),
        ["web.default.svc.cluster.local A @10.96.0.10", "web.default.svc.cluster.local A @10.96.0.11"]
    );
    assert_eq!(addresses(&second), ["10.96.0.7"]);
    let none = search("web", &[Family::V4], |_, _, _| ("timeout", vec![]));
    assert_eq!(
        asked(&none),
        [
            "web.default.svc.cluster.local A @10.96.0.10",
            "web.default.svc.cluster.local A @10.96.0.11",
            "web A @10.96.0.10",
            "web A @10.96.0.11",
        ]
    );
}

#[test]
fn servers_in_trouble_end_no_search_and_refusing_ones_do() {
    let trouble = search("web", &[Family::V4], |_, _, _| ("SERVFAIL", vec![]));
    assert_eq!(trouble.queries.len(), 6, "three names, two servers each: {:?}", asked(&trouble));
    let refused = search("web", &[Family::V4], |_, _, _| ("REFUSED", vec![]));
    assert_eq!(refused.queries.len(), 4, "{:?}", asked(&refused));
}

#[test]
fn one_family_that_is_silent_takes_nothing_from_the_other() {
    let told = search("web", &[], |_, _, family| match family {
        Family::V4 => ("NOERROR", vec!["10.96.0.7"]),
        Family::V6 => ("timeout", vec![]),
    });
    assert_eq!((addresses(&told), told.queries.len()), (vec!["10.96.0.7".to_owned()], 2));
}

#[test]
fn what_is_no_domain_name_is_asked_of_nobody() {
    for name in ["a..b", "", &"x".repeat(64)] {
        let told = search(name, &[], |_, asked, _| panic!("{asked} is asked"));
        assert!(told.queries.is_empty() && told.addresses.is_empty(), "{name:?}");
    }
}
