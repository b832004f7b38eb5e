//! Host ports: as the CNI plugin portmap promises them.

use super::*;

const POD: [&str; 2] = ["10.244.0.9", "fd00:10:244::9"];

fn pod(host_ports: &[HostPort]) -> Attachment {
    let link = crate::names::IfName("veth9".into());
    Attachment { link, addresses: both(POD), host_ports: host_ports.to_vec() }
}

fn host_port(host_port: u16, host_addr: Option<&str>) -> HostPort {
    HostPort { proto: Proto::Tcp, host_addr: host_addr.map(ip), host_port, pod_port: 8080 }
}

fn world(host_ports: &[HostPort]) -> World {
    let key = NsName::new("default", "pod-9");
    World::new().with(|w| w.others = vec![Fact::Attachment(key, Some(pod(host_ports)))])
}

#[test]
fn a_host_port_leads_to_its_pod_and_keeps_the_client_but_for_hairpin() {
    let world = world(&[host_port(9090, None)]);
    for from in [OUTSIDE, OTHER_POD, THERE, NODE] {
        world.check(from, NODE, 9090, &[To(POD)]);
    }
    world.check(POD, NODE, 9090, &[Masqueraded(POD)]);
    world.check(OUTSIDE, THERE, 9090, &[On]);
    world.check(OUTSIDE, NODE, 9091, &[On]);
}

#[test]
fn a_host_port_of_one_address_answers_there_alone() {
    let world = world(&[host_port(9090, Some(NODE[0]))]).with(|w| {
        w.others.extend(both(["172.19.0.11", "fd00:19::11"]).into_iter().map(|a| Fact::InterfaceAddress(a, Some(()))));
    });
    let snapshot = world.snapshot();
    let at = |dst| judge(&snapshot, &packet(&snapshot, OUTSIDE[0], dst, 9090), Mode::Iptables);
    assert_eq!(at(NODE[0]), Allowed::from([To(POD).outcome(0)]));
    assert_eq!(at("172.19.0.11"), Allowed::from([On.outcome(0)]));
}

#[test]
fn a_host_port_on_loopback_is_masqueraded_and_opens_where_node_ports_do() {
    let ask = |localhost_node_ports, mode| {
        let world = world(&[host_port(9090, None)])
            .with(|w| w.settings.proxy.localhost_node_ports = localhost_node_ports)
            .snapshot();
        ["127.0.0.1", "::1"].map(|addr| judge(&world, &packet(&world, addr, addr, 9090), mode))
    };
    let [v4, v6] = ask(true, Mode::Iptables);
    assert_eq!(v4, Allowed::from([Masqueraded(POD).outcome(0)]));
    assert_eq!(v6, Allowed::from([On.outcome(1)]));
    assert_eq!(ask(false, Mode::Iptables)[0], Allowed::from([On.outcome(0)]));
    assert!(ask(true, Mode::Nftables)[0].contains(&On.outcome(0)));
}

#[test]
fn services_go_before_host_ports() {
    let world = world(&[host_port(30080, None)]);
    world.check(OUTSIDE, NODE, 30080, &[Masqueraded(HERE), Masqueraded(THERE)]);
    let refused = world.with(|w| w.endpoints.clear());
    refused.check(OUTSIDE, NODE, 30080, &[Refused, To(POD)]);
}

#[test]
fn the_first_pod_by_name_owns_a_host_port_that_two_claim() {
    let other = Attachment { addresses: both(OTHER_POD), ..pod(&[host_port(9090, None)]) };
    let world = world(&[host_port(9090, None)])
        .with(|w| w.others.push(Fact::Attachment(NsName::new("default", "pod-7"), Some(other))));
    world.check(OUTSIDE, NODE, 9090, &[To(OTHER_POD)]);
}
