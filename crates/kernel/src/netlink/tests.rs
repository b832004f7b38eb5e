//! The real kernel, in namespaces made here.

use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::*;
use crate::netns;
use crate::sysctl::{self, Key};

fn namespace() -> OwnedFd {
    netns::create().expect("the tests run as root")
}

fn inside<T: Send>(netns: &OwnedFd, work: impl FnOnce(&mut Netlink) -> T + Send) -> T {
    netns::run_in(netns.as_fd(), || work(&mut Netlink::open().unwrap())).unwrap()
}

fn spec<'a>(peer: &'a OwnedFd) -> VethSpec<'a> {
    VethSpec {
        name: "ptl-t-a",
        peer_name: "eth0",
        peer_netns: Some(peer.as_fd()),
        mac: Some([0xee; 6]),
        peer_mac: Some([2, 0, 0, 0, 0, 1]),
        mtu_bytes: 1400,
    }
}

/// Two namespaces with a veth between them, both ends up.
fn pair() -> (OwnedFd, OwnedFd, u32, u32) {
    let (here, there) = (namespace(), namespace());
    let near = inside(&here, |n| {
        n.create_veth(&spec(&there)).unwrap();
        let link = n.link("ptl-t-a").unwrap().index;
        n.set_up(link).unwrap();
        link
    });
    let far = inside(&there, |n| {
        let link = n.link("eth0").unwrap().index;
        n.set_up(link).unwrap();
        link
    });
    (here, there, near, far)
}

#[test]
fn a_veth_has_the_asked_names_addresses_and_size_at_both_ends() {
    let (here, there, near, far) = pair();
    let link = inside(&here, |n| n.link("ptl-t-a").unwrap());
    assert_eq!((link.index, link.mac, link.mtu_bytes, link.up), (near, Some([0xee; 6]), 1400, true));
    assert_eq!((link.kind.clone(), link.peer_index), (LinkKind::Veth, Some(far)));
    assert!(link.peer_netns_id.is_some());
    let peer = inside(&there, |n| n.link("eth0").unwrap());
    assert_eq!((peer.mac, peer.mtu_bytes, peer.peer_index), (Some([2, 0, 0, 0, 0, 1]), 1400, Some(near)));
}

#[test]
fn a_taken_name_is_refused_with_eexist() {
    let (here, there, ..) = pair();
    let error = inside(&here, |n| n.create_veth(&spec(&there)).unwrap_err());
    assert_eq!(error.errno(), Some(libc::EEXIST), "{error}");
}

#[test]
fn deleting_one_end_takes_the_other_away() {
    let (here, there, near, _) = pair();
    inside(&here, |n| n.delete_link(near).unwrap());
    assert!(matches!(inside(&there, |n| n.link("eth0")), Err(NetlinkError::NoSuchLink { .. })));
}

#[test]
fn addresses_of_both_families_come_and_go_and_twice_is_once() {
    let (here, _there, near, _) = pair();
    for text in ["192.0.2.1/24", "2001:db8::1/64"] {
        let address: IpNet = text.parse().unwrap();
        let held = |n: &mut Netlink| n.addrs().unwrap().iter().filter(|a| a.net == address).count();
        inside(&here, |n| {
            n.add_addr(near, address).unwrap();
            n.add_addr(near, address).unwrap();
            assert_eq!(held(n), 1, "{text}");
            n.delete_addr(near, address).unwrap();
            n.delete_addr(near, address).unwrap();
            assert_eq!(held(n), 0, "{text}");
        });
    }
}

/// Masquerade asks the same question: a node's packets must not come from an address that it shares with other nodes.
#[test]
fn an_address_on_lo_is_no_source_of_packets_that_leave() {
    let (here, _there, near, _) = pair();
    let rows = [
        ("192.0.2.1/24", "10.96.0.10/32", "10.244.0.0/26", "10.244.0.5"),
        ("2001:db8::1/64", "fd00:96::a/128", "fd00:244::/122", "fd00:244::5"),
    ];
    inside(&here, |n| {
        n.set_up(1).unwrap();
        for (own, shared, block, pod) in rows {
            let own: IpNet = own.parse().unwrap();
            n.add_addr(near, own).unwrap();
            n.add_addr(1, shared.parse().unwrap()).unwrap();
            n.add_addr(1, shared.parse().unwrap()).unwrap();
            n.replace_routes(&[KernelRoute::on_link(block.parse().unwrap(), near)]).remove(0).unwrap();
            let to: IpAddr = pod.parse().unwrap();
            let patience = Instant::now() + Duration::from_secs(10);
            let mut src = n.route_get(to).unwrap().src;
            while src != Some(own.addr()) && Instant::now() < patience {
                src = n.route_get(to).unwrap().src; // an IPv6 address can be a source a moment after it is there
            }
            assert_eq!(src, Some(own.addr()), "{shared}");
        }
    });
}

#[test]
fn routes_read_back_as_written_in_both_families() {
    let (here, _there, near, _) = pair();
    inside(&here, |n| {
        n.add_addr(near, "192.0.2.1/24".parse().unwrap()).unwrap();
        n.add_addr(near, "2001:db8::1/64".parse().unwrap()).unwrap();
        let routes = [
            KernelRoute::via("10.244.1.0/26".parse().unwrap(), "192.0.2.2".parse().unwrap(), near),
            KernelRoute::on_link("10.244.0.2/32".parse().unwrap(), near),
            KernelRoute::blackhole("10.244.0.0/26".parse().unwrap()),
            KernelRoute::via("2001:db8:1::/64".parse().unwrap(), "2001:db8::2".parse().unwrap(), near),
            KernelRoute::on_link("2001:db8:2::2/128".parse().unwrap(), near),
        ];
        assert!(n.replace_routes(&routes).iter().all(Result::is_ok));
        assert!(n.replace_routes(&routes).iter().all(Result::is_ok), "twice is once");
        let mut held = ours(n);
        for route in &routes {
            let at = held.iter().position(|r| same(r, route)).unwrap_or_else(|| panic!("{route:?} in {held:?}"));
            held.remove(at);
        }
        assert!(held.is_empty(), "{held:?}");
        assert!(n.delete_routes(&routes).iter().all(Result::is_ok));
        assert!(n.delete_routes(&routes).iter().all(Result::is_ok), "absent is deleted");
        assert!(ours(n).is_empty());
    });
}

fn ours(n: &mut Netlink) -> Vec<KernelRoute> {
    n.routes(MAIN_TABLE).unwrap().into_iter().filter(|r| r.protocol == OWN_ROUTE_PROTOCOL).collect()
}

/// The kernel gives IPv6 routes a metric and puts blackholes on `lo` there.
fn same(held: &KernelRoute, wanted: &KernelRoute) -> bool {
    let held = KernelRoute { metric: wanted.metric, ..held.clone() };
    held == *wanted
}

#[test]
fn one_bad_route_in_a_batch_fails_alone_whatever_its_place() {
    let (here, _there, near, _) = pair();
    inside(&here, |n| {
        n.add_addr(near, "192.0.2.1/24".parse().unwrap()).unwrap();
        let bad = [0, 63, 64, 99, 199];
        let routes: Vec<KernelRoute> = (0..200)
            .map(|i| {
                let dst: IpNet = format!("10.{}.{}.0/26", i / 250, i).parse().unwrap();
                let gateway = if bad.contains(&i) { "198.51.100.9" } else { "192.0.2.2" };
                KernelRoute::via(dst, gateway.parse().unwrap(), near)
            })
            .collect();
        let results = n.replace_routes(&routes);
        let failed: Vec<i32> = (0..200).filter(|i| results[*i as usize].is_err()).collect();
        assert_eq!(failed, bad);
        let words = results[63].as_ref().unwrap_err().to_string();
        assert!(words.contains("10.0.63.0/26") && words.contains("gateway"), "{words}");
        assert_eq!(ours(n).len(), 195);
    });
}

#[test]
fn route_get_tells_link_gateway_and_source_or_that_there_is_none() {
    let (here, _there, near, _) = pair();
    inside(&here, |n| {
        n.add_addr(near, "192.0.2.1/24".parse().unwrap()).unwrap();
        let route = KernelRoute::via("10.244.1.0/26".parse().unwrap(), "192.0.2.2".parse().unwrap(), near);
        n.replace_routes(&[route]).remove(0).unwrap();
        let answer = n.route_get("10.244.1.5".parse().unwrap()).unwrap();
        assert_eq!(answer.gateway, Some("192.0.2.2".parse().unwrap()));
        assert_eq!((answer.oif, answer.src), (Some(near), Some("192.0.2.1".parse().unwrap())));
        let none = n.route_get("203.0.113.1".parse().unwrap()).unwrap_err();
        assert_eq!(none.errno(), Some(libc::ENETUNREACH), "{none}");
    });
}

/// Forwards between its links; per network namespace.
fn forward() {
    for key in [Key::Ipv4Forward, Key::Ipv6Forwarding("all")] {
        sysctl::set(key, 1).unwrap();
    }
}

#[test]
fn a_lookup_names_the_entry_that_matched_in_both_families() {
    let (here, _there, near, _) = pair();
    inside(&here, |n| {
        forward();
        let rows = [
            (
                "192.0.2.1/24",
                "10.244.1.0/26",
                "192.0.2.2",
                "10.244.1.5",
                "10.244.2.0/26",
                "10.244.2.9",
                "192.0.2.7",
                "192.0.2.77/32",
            ),
            (
                "2001:db8::1/64",
                "fd00:1::/122",
                "2001:db8::2",
                "fd00:1::5",
                "fd00:2::/122",
                "fd00:2::9",
                "2001:db8::7",
                "fd00:77::1/128",
            ),
        ];
        n.set_up(1).unwrap();
        for (own, block, gateway, pod, hole, lost, client, local) in rows {
            let (own, block, gateway): (IpNet, IpNet, IpAddr) =
                (own.parse().unwrap(), block.parse().unwrap(), gateway.parse().unwrap());
            let (pod, hole, lost): (IpAddr, IpNet, IpAddr) =
                (pod.parse().unwrap(), hole.parse().unwrap(), lost.parse().unwrap());
            n.add_addr(near, own).unwrap();
            let routes =
                [KernelRoute { protocol: 186, ..KernelRoute::via(block, gateway, near) }, KernelRoute::blackhole(hole)];
            assert!(n.replace_routes(&routes).iter().all(Result::is_ok));

            let found = n.route_lookup(&RouteQuestion::to(pod)).unwrap();
            assert_eq!((found.fate, found.prefix, found.protocol), (RouteFate::Forward, Some(block), Some(186)));
            assert_eq!((found.gateway, found.oif, found.link.as_deref()), (Some(gateway), Some(near), Some("ptl-t-a")));

            let forwarded =
                RouteQuestion { from: Some(client.parse().unwrap()), came_by: Some(near), ..RouteQuestion::to(pod) };
            let found = n.route_lookup(&forwarded).unwrap();
            assert_eq!((found.fate, found.prefix), (RouteFate::Forward, Some(block)), "{found:?}");

            let local: IpNet = local.parse().unwrap();
            n.add_addr(1, local).unwrap();
            // An IPv6 address gets its local route a moment after it is there.
            let ask = |n: &mut Netlink| n.route_lookup(&RouteQuestion::to(local.addr())).unwrap();
            let patience = Instant::now() + Duration::from_secs(10);
            while ask(n).fate != RouteFate::Local && Instant::now() < patience {
                std::thread::yield_now();
            }
            let here = ask(n);
            assert_eq!((here.fate, here.prefix), (RouteFate::Local, Some(local)), "{here:?}");

            for question in [RouteQuestion::to(lost), RouteQuestion { to: lost, ..forwarded }] {
                let found = n.route_lookup(&question).unwrap();
                assert_eq!((found.fate, found.prefix), (RouteFate::Blackhole, Some(hole)), "{question:?}");
                assert_eq!(found.protocol, Some(OWN_ROUTE_PROTOCOL));
            }
        }
        for nowhere in ["203.0.113.1", "2001:db8:ffff::1"] {
            let found = n.route_lookup(&RouteQuestion::to(nowhere.parse().unwrap())).unwrap();
            assert_eq!((found.fate, found.prefix, found.link), (RouteFate::NoRoute, None, None), "{nowhere}");
        }
    });
}

#[test]
fn a_lookup_tells_refusing_routes_from_packets_that_are_not_taken_in() {
    let (here, _there, near, _) = pair();
    inside(&here, |n| {
        forward();
        n.add_addr(near, "192.0.2.1/24".parse().unwrap()).unwrap();
        let refusing: IpNet = "10.9.0.0/16".parse().unwrap();
        let mut route = KernelRoute::blackhole(refusing);
        route.kind = RouteKind::Unreachable;
        n.replace_routes(&[route]).remove(0).unwrap();
        let question = RouteQuestion::to("10.9.1.1".parse().unwrap());
        let found = n.route_lookup(&question).unwrap();
        assert_eq!((found.fate, found.prefix), (RouteFate::Unreachable, Some(refusing)));
        // A neighbour that sends as ourselves.
        let forged = RouteQuestion {
            to: "192.0.2.9".parse().unwrap(),
            from: Some("192.0.2.1".parse().unwrap()),
            came_by: Some(near),
            mark: 0,
        };
        assert_eq!(n.route_lookup(&forged).unwrap().fate, RouteFate::NotTaken);
        let no_link = RouteQuestion { came_by: Some(999), ..forged };
        assert!(n.route_lookup(&no_link).is_err(), "a link that is not there is a wrong question");
    });
}

#[test]
fn a_bridge_takes_ports_and_they_name_it() {
    let (here, _there, near, _) = pair();
    inside(&here, |n| {
        n.create_bridge("ptl-t-br").unwrap();
        let bridge = n.link("ptl-t-br").unwrap();
        assert_eq!(bridge.kind, LinkKind::Bridge);
        n.set_master(near, bridge.index).unwrap();
        assert_eq!(n.link("ptl-t-a").unwrap().master, Some(bridge.index));
    });
}

#[test]
fn the_monitor_tells_links_addresses_and_routes_as_they_come_and_go() {
    let (here, _there, near, _) = pair();
    let events = netns::run_in(here.as_fd(), || {
        let mut monitor = Monitor::open().unwrap();
        let mut n = Netlink::open().unwrap();
        assert_eq!(monitor.read().unwrap(), []);
        n.add_addr(near, "192.0.2.1/24".parse().unwrap()).unwrap();
        let route = KernelRoute::on_link("10.244.0.2/32".parse().unwrap(), near);
        n.replace_routes(std::slice::from_ref(&route)).remove(0).unwrap();
        n.delete_routes(std::slice::from_ref(&route)).remove(0).unwrap();
        n.delete_link(near).unwrap();
        monitor.read().unwrap() // the kernel queues events before it answers the request
    })
    .unwrap();
    let at =
        |wanted: &dyn Fn(&NetEvent) -> bool| events.iter().position(wanted).unwrap_or_else(|| panic!("{events:?}"));
    let pod: IpNet = "10.244.0.2/32".parse().unwrap();
    let address = at(&|e| matches!(e, NetEvent::Address(a) if a.net.to_string() == "192.0.2.1/24"));
    let added = at(&|e| matches!(e, NetEvent::Route(r) if r.dst == pod));
    let gone = at(&|e| matches!(e, NetEvent::RouteGone(r) if r.dst == pod));
    let link = at(&|e| matches!(e, NetEvent::LinkGone(l) if l.name == "ptl-t-a"));
    assert!(address < added && added < gone && gone < link, "{events:?}");
}

#[test]
fn ten_thousand_routes_are_written_in_under_two_seconds() {
    let (here, _there, near, _) = pair();
    let (count, took) = inside(&here, |n| {
        n.add_addr(near, "192.0.2.1/24".parse().unwrap()).unwrap();
        let gateway: IpAddr = "192.0.2.2".parse().unwrap();
        let block = |i: u32| format!("10.{}.{}.{}/26", i >> 10, (i >> 2) & 255, (i & 3) * 64).parse().unwrap();
        let routes: Vec<_> = (0..10_000).map(|i| KernelRoute::via(block(i), gateway, near)).collect();
        let started = std::time::Instant::now();
        assert!(n.replace_routes(&routes).iter().all(Result::is_ok));
        let took = started.elapsed();
        (ours(n).len(), took)
    });
    println!("10,000 routes in {took:?}");
    assert_eq!(count, 10_000);
    assert!(took < std::time::Duration::from_secs(2), "{took:?}");
}
