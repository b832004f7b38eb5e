//! The node's resolv.conf, read.

use super::ip;
use crate::resolvconf::{ResolvConf, parse, upstreams};

#[test]
fn a_resolv_conf_gives_servers_search_and_options() {
    let text = "# the notes' servers\nnameserver 114.114.114.114\nnameserver\t8.8.8.8 ; second\n\
                domain old.example\nsearch a.example b.example\noptions ndots:2 rotate\noptions edns0\n\
                nameserver 8.8.8.8\nnameserver fd00::1\n";
    let (conf, complaints) = parse(text);
    let expected = ResolvConf {
        nameservers: vec![ip("114.114.114.114"), ip("8.8.8.8"), ip("fd00::1")],
        search: vec!["a.example".into(), "b.example".into()],
        options: vec!["ndots:2".into(), "rotate".into(), "edns0".into()],
    };
    assert_eq!((conf, complaints), (expected, vec![]));
}

#[test]
fn what_is_no_address_is_skipped_and_said() {
    let (conf, complaints) = parse("nameserver dns.example\nnameserver\nnameserver 192.0.2.1\nsortlist x\n");
    assert_eq!(conf.nameservers, [ip("192.0.2.1")]);
    let expected = [
        "resolv.conf line 1: nameserver \"dns.example\" is no IP address; skipped",
        "resolv.conf line 2: nameserver without an address; skipped",
    ];
    assert_eq!(complaints, expected);
}

#[test]
fn a_nameserver_that_is_ourselves_is_left_out_and_named() {
    let (conf, _) = parse("nameserver 10.96.0.10\nnameserver 192.0.2.1\nnameserver fd00::1\n");
    let (addrs, complaints) = upstreams(&conf, &[ip("10.96.0.10")]);
    let addrs: Vec<String> = addrs.iter().map(ToString::to_string).collect();
    assert_eq!(addrs, ["192.0.2.1:53", "[fd00::1]:53"]);
    assert_eq!(complaints.len(), 1);
    assert!(complaints[0].starts_with("nameserver 10.96.0.10 is this DNS server itself"));
}

#[test]
fn an_empty_file_gives_nothing() {
    assert_eq!(parse(""), (ResolvConf::default(), vec![]));
}
