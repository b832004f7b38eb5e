use std::net::IpAddr;

use portolan_model::NsName;

use crate::attach::{AttachmentPlan, Encapsulation, HOST_MAC, host_link_name, pod_mtu_bytes};

fn addr(text: &str) -> IpAddr {
    text.parse().expect("tests write addresses right")
}

fn plan(addresses: &[&str]) -> AttachmentPlan {
    let addresses: Vec<IpAddr> = addresses.iter().map(|text| addr(text)).collect();
    AttachmentPlan::new(&NsName::new("default", "nginx"), &addresses, 1500)
}

fn routes(plan: &AttachmentPlan) -> Vec<String> {
    let text = |via: Option<IpAddr>| via.map_or("scope link".to_owned(), |via| format!("via {via}"));
    plan.inside.routes.iter().map(|route| format!("{} {}", route.dst, text(route.via))).collect()
}

fn sysctls(list: &[crate::Sysctl]) -> Vec<String> {
    list.iter().map(|sysctl| format!("{}={}", sysctl.path, sysctl.value)).collect()
}

#[test]
fn the_host_link_is_named_by_the_pods_namespace_and_name() {
    // printf default.nginx | sha1sum: c440f455693b69cd…
    let name = host_link_name(&NsName::new("default", "nginx"));
    assert_eq!(name.0.as_ref(), "calic440f455693");
    assert_eq!(name.0.len(), 15, "IFNAMSIZ less the terminator");
    assert_ne!(host_link_name(&NsName::new("other", "nginx")), name);
}

#[test]
fn an_ipv4_pod_has_one_address_and_the_link_local_gateway() {
    let plan = plan(&["10.244.1.5"]);
    assert_eq!(plan.inside.addresses[0].to_string(), "10.244.1.5/32");
    assert_eq!(routes(&plan), ["169.254.1.1/32 scope link", "0.0.0.0/0 via 169.254.1.1"]);
    let expected = [
        "net/ipv4/conf/calic440f455693/route_localnet=1",
        "net/ipv4/conf/calic440f455693/proxy_arp=1",
        "net/ipv4/conf/calic440f455693/forwarding=1",
        "net/ipv4/neigh/calic440f455693/proxy_delay=0",
    ];
    assert_eq!(sysctls(&plan.host.sysctls), expected);
    assert_eq!(sysctls(&plan.inside.sysctls), ["net/ipv4/ip_forward=0"]);
    assert_eq!(plan.host.mac.to_string(), "ee:ee:ee:ee:ee:ee");
}

#[test]
fn an_ipv6_pod_goes_by_the_host_ends_link_local_address() {
    assert_eq!(HOST_MAC.link_local(), addr("fe80::ecee:eeff:feee:eeee"));
    let plan = plan(&["fd00:10:244:1::5"]);
    assert_eq!(plan.inside.addresses[0].to_string(), "fd00:10:244:1::5/128");
    assert_eq!(routes(&plan), ["::/0 via fe80::ecee:eeff:feee:eeee"]);
    assert!(sysctls(&plan.host.sysctls).contains(&"net/ipv6/conf/calic440f455693/proxy_ndp=1".to_owned()));
    assert!(sysctls(&plan.inside.sysctls).contains(&"net/ipv6/conf/lo/disable_ipv6=0".to_owned()));
    assert!(plan.host.sysctls.iter().all(|sysctl| !sysctl.path.starts_with("net/ipv4")));
}

#[test]
fn a_pod_of_both_families_has_the_parts_of_each() {
    let both = plan(&["10.244.1.5", "fd00:10:244:1::5"]);
    let (v4, v6) = (plan(&["10.244.1.5"]), plan(&["fd00:10:244:1::5"]));
    assert_eq!(both.inside.routes, [v4.inside.routes, v6.inside.routes].concat());
    assert_eq!(both.host.sysctls, [v4.host.sysctls, v6.host.sysctls].concat());
    assert_eq!(both.attachment().addresses, [addr("10.244.1.5"), addr("fd00:10:244:1::5")]);
    assert_eq!(both.attachment().link, both.host.name);
}

#[test]
fn pod_mtu_is_the_smallest_nics_less_the_wrapping() {
    let rows = [
        (Encapsulation::None, 1400),
        (Encapsulation::IpIp, 1380),
        (Encapsulation::Vxlan, 1350),
        (Encapsulation::WireGuard, 1340),
    ];
    for (encapsulation, expected) in rows {
        assert_eq!(pod_mtu_bytes(&[9000, 1400], encapsulation), Some(expected));
    }
    assert_eq!(pod_mtu_bytes(&[], Encapsulation::None), None);
}
