//! Settings away from their defaults, and rules that stand for one row of the documents each.

use std::sync::Arc;

use portolan_model::verdict::{Allowed, Arrival, Mode, Outcome, Packet, judge};
use portolan_model::{
    Delta, DetectLocal, Fact, Family, IfName, NodePortAddresses, Proto, ProxySettings, Service, ServiceKind, Settings,
    Snapshot, resolve,
};

use crate::iptables::trace::{World, chances, walk};
use crate::iptables::{Chain, Desired, DnsPath, Options, hooks, names};
use crate::tests::world::{
    attachment, draining, empty, endpoint, host_port, ip, name, net, on_interface, own_node, port, rich, slice,
    snapshot, snapshot_with, whole,
};

fn text(desired: &Desired, chain: &Chain) -> Vec<String> {
    desired.chains()[chain].iter().map(ToString::to_string).collect()
}

fn of(options: Options) -> Desired {
    Desired::of(Family::V4, options, &snapshot(&rich()))
}

fn under(family: Family, proxy: &ProxySettings, facts: &[Fact]) -> Desired {
    Desired::of(family, Options::default(), &snapshot_with(proxy, facts))
}

fn node_port_jumps(family: Family, proxy: ProxySettings) -> Vec<String> {
    let addresses = ["172.18.0.11", "172.19.0.11", "fd00:18::11", "fd00:19::11"].map(on_interface);
    text(&under(family, &proxy, &addresses), &Chain::nat(names::SERVICES))
}

const NODE_PORTS: &str =
    "-m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\"";

#[test]
fn node_ports_on_every_address_leave_loopback_out_where_it_cannot_work() {
    let rows = [
        (Family::V4, true, " -m addrtype --dst-type LOCAL"),
        (Family::V4, false, " -m addrtype --dst-type LOCAL ! -d 127.0.0.0/8"),
        (Family::V6, true, " -m addrtype --dst-type LOCAL ! -d ::1/128"),
        (Family::V6, false, " -m addrtype --dst-type LOCAL ! -d ::1/128"),
    ];
    for (family, localhost_node_ports, words) in rows {
        let proxy = ProxySettings { localhost_node_ports, ..ProxySettings::default() };
        assert_eq!(node_port_jumps(family, proxy), [format!("{NODE_PORTS}{words} -j KUBE-NODEPORTS")]);
    }
}

#[test]
fn node_ports_on_listed_addresses_jump_once_for_each_of_the_family() {
    let within = |ranges: &[&str]| NodePortAddresses::Within(ranges.iter().map(|range| net(range)).collect());
    let listed = within(&["172.18.0.0/24", "127.0.0.0/8", "fd00:18::/64", "::1/128"]);
    let proxy = |node_ports_on: &NodePortAddresses, localhost_node_ports| ProxySettings {
        node_ports_on: node_ports_on.clone(),
        localhost_node_ports,
        ..ProxySettings::default()
    };
    let jump = |addr: &str| format!("{NODE_PORTS} -d {addr} -j KUBE-NODEPORTS");
    assert_eq!(node_port_jumps(Family::V4, proxy(&listed, true)), [jump("127.0.0.1"), jump("172.18.0.11")]);
    assert_eq!(node_port_jumps(Family::V4, proxy(&listed, false)), [jump("172.18.0.11")]);
    assert_eq!(node_port_jumps(Family::V6, proxy(&listed, true)), [jump("fd00:18::11")]);
    let all = within(&["172.16.0.0/12", "fd00::/16"]);
    assert_eq!(node_port_jumps(Family::V4, proxy(&all, true)), [jump("172.18.0.11"), jump("172.19.0.11")]);
    assert_eq!(node_port_jumps(Family::V6, proxy(&all, true)), [jump("fd00:18::11"), jump("fd00:19::11")]);
    let none = within(&["192.0.2.0/24", "2001:db8::/32"]);
    assert_eq!(node_port_jumps(Family::V4, proxy(&none, true)), Vec::<String>::new());
    let every = vec![format!("{NODE_PORTS} -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS")];
    assert_eq!(node_port_jumps(Family::V4, proxy(&within(&["fd00:18::/64"]), true)), every);
    assert_eq!(node_port_jumps(Family::V4, proxy(&within(&["0.0.0.0/0"]), true)), every);
}

#[test]
fn loopback_is_closed_to_strangers_only_where_node_ports_open_it() {
    let rule = "-m comment --comment \"block incoming localnet connections\" -d 127.0.0.0/8 ! -s 127.0.0.0/8 \
                -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP";
    assert_eq!(text(&of(Options::default()), &Chain::filter(names::FIREWALL)), [rule]);
    let without = ProxySettings { localhost_node_ports: false, ..ProxySettings::default() };
    let primary = ProxySettings { node_ports_on: NodePortAddresses::Primary, ..ProxySettings::default() };
    for (family, proxy) in [(Family::V4, without), (Family::V4, primary), (Family::V6, ProxySettings::default())] {
        let desired = under(family, &proxy, &rich());
        assert!(!desired.opens_loopback());
        assert!(!desired.chains().contains_key(&Chain::filter(names::FIREWALL)));
        let hooks = hooks::wanted(&desired);
        assert!(hooks.iter().all(|hook| hook.rule.jumps_to() != Some(names::FIREWALL)));
    }
}

#[test]
fn masquerade_all_marks_pods_too() {
    let heads = |desired: &Desired| -> Vec<String> {
        let chains = desired.chains();
        let lists = chains.iter().filter(|(chain, _)| chain.name.starts_with("KUBE-SVC-"));
        let firsts = lists.filter_map(|(_, rules)| rules.iter().find(|rule| rule.jumps_to() == Some(names::MARK_MASQ)));
        firsts.map(ToString::to_string).collect()
    };
    let default = heads(&of(Options::default()));
    let proxy = ProxySettings { masquerade_all: true, ..ProxySettings::default() };
    let all = heads(&under(Family::V4, &proxy, &rich()));
    assert_eq!(default.len(), all.len());
    assert!(default.iter().all(|rule| rule.contains("! -s 10.244.0.0/16")));
    assert!(all.iter().all(|rule| !rule.contains("-s ")));
}

#[test]
fn without_a_pod_range_nothing_tells_pods_from_others() {
    let settings = Settings { cluster_cidrs: vec![], ..(*empty().settings).clone() };
    let snapshot = Snapshot { settings: Arc::new(settings), ..snapshot(&rich()) };
    let desired = Desired::of(Family::V4, Options::default(), &snapshot);
    let all: Vec<String> = desired.chains().values().flatten().map(ToString::to_string).collect();
    assert!(all.iter().all(|rule| !rule.contains("10.244.0.0/16") && !rule.contains("pod traffic for")));
    assert!(all.iter().any(|rule| rule.contains("route LOCAL traffic for")));
    assert_eq!(text(&desired, &Chain::nat(names::EGRESS)), Vec::<String>::new());
}

#[test]
fn each_detector_is_written_as_its_own_match_and_its_negation() {
    let rows = [
        (DetectLocal::ClusterCidr, "-s 10.244.0.0/16"),
        (DetectLocal::NodeCidr, "-s 10.244.0.0/24"),
        (DetectLocal::BridgeInterface(IfName("br0".into())), "-i br0"),
        (DetectLocal::InterfaceNamePrefix("veth".into()), "-i veth+"),
    ];
    for (detect_local, words) in rows {
        let desired = under(Family::V4, &ProxySettings { detect_local, ..ProxySettings::default() }, &rich());
        let all: Vec<String> = desired.chains().values().flatten().map(ToString::to_string).collect();
        let head = format!(
            "-m comment --comment \"default/svc-0:http cluster IP\" -m tcp -p tcp -d 10.96.0.20 --dport 80 ! {words} -j KUBE-MARK-MASQ"
        );
        assert!(all.contains(&head), "{words}");
        let short_cut =
            format!("-m comment --comment \"pod traffic for default/svc-2:http external destinations\" {words} -j");
        assert!(all.iter().any(|rule| rule.starts_with(&short_cut)), "{words}");
    }
}

#[test]
fn a_health_check_port_is_let_in_whether_there_are_endpoints_or_not() {
    let service = Service {
        kind: ServiceKind::LoadBalancer,
        cluster_ips: vec![ip("10.96.0.20"), ip("fd00:10:96::20")],
        ports: vec![port("http", Proto::Tcp, 80, 30000), port("dns", Proto::Udp, 53, 30001)],
        health_check_node_port: 32000,
        ..Service::default()
    };
    let rule = |name: &str| {
        let comment = format!("-m comment --comment \"default/svc-0:{name} health check node port\"");
        format!("{comment} -m tcp -p tcp --dport 32000 -j ACCEPT")
    };
    for endpoints in [vec![], vec![endpoint("10.244.0.5", "node-1")]] {
        let facts = [own_node(), Fact::Service(name(0), Some(service.clone())), slice(&name(0), Family::V4, endpoints)];
        let desired = under(Family::V4, &ProxySettings::default(), &facts);
        assert_eq!(text(&desired, &Chain::filter(names::NODE_PORTS)), [rule("dns"), rule("http")]);
    }
    let without = Service { health_check_node_port: 0, ..service };
    let desired = under(Family::V4, &ProxySettings::default(), &[Fact::Service(name(0), Some(without))]);
    assert_eq!(text(&desired, &Chain::filter(names::NODE_PORTS)), Vec::<String>::new());
}

#[test]
fn host_ports_are_written_as_portmap_does() {
    let pod = attachment(5, vec![host_port(Proto::Tcp, 9090, None), host_port(Proto::Udp, 53, Some("172.18.0.11"))]);
    let desired = under(Family::V4, &ProxySettings::default(), std::slice::from_ref(&pod));
    let entries = text(&desired, &Chain::nat(names::HOST_PORTS));
    let chain = names::host_port_chain(&portolan_model::NsName::new("default", "pod-5"));
    assert_eq!((chain.len(), &chain[..7]), (28, "CNI-DN-"));
    let comment = "-m comment --comment \"dnat name: \\\"portolan\\\" id: \\\"default/pod-5\\\"\"";
    let entry =
        |proto: &str, n| format!("{comment} -m {proto} -p {proto} -m multiport --destination-ports {n} -j {chain}");
    assert_eq!(entries, [entry("tcp", 9090), entry("udp", 53)]);
    let expected = [
        "-m tcp -p tcp --dport 9090 -s 10.244.0.5 -j CNI-HOSTPORT-SETMARK",
        "-m tcp -p tcp --dport 9090 -s 127.0.0.1 -j CNI-HOSTPORT-SETMARK",
        "-m tcp -p tcp --dport 9090 -j DNAT --to-destination 10.244.0.5:8080",
        "-m udp -p udp -d 172.18.0.11 --dport 53 -s 10.244.0.5 -j CNI-HOSTPORT-SETMARK",
        "-m udp -p udp -d 172.18.0.11 --dport 53 -s 127.0.0.1 -j CNI-HOSTPORT-SETMARK",
        "-m udp -p udp -d 172.18.0.11 --dport 53 -j DNAT --to-destination 10.244.0.5:8080",
    ];
    assert_eq!(text(&desired, &Chain::nat(chain)), expected);
    let v6 = under(Family::V6, &ProxySettings::default(), &[pod]);
    assert_eq!(text(&v6, &Chain::nat(names::HOST_PORTS)).len(), 1, "the other port is of an IPv4 address");
}

#[test]
fn a_pod_with_many_host_ports_takes_a_rule_for_every_fifteen() {
    let ports = (0..31).map(|n| host_port(Proto::Tcp, 9000 + n, None)).collect();
    let desired = under(Family::V4, &ProxySettings::default(), &[attachment(5, ports)]);
    assert_eq!(text(&desired, &Chain::nat(names::HOST_PORTS)).len(), 3);
}

#[test]
fn who_does_not_get_a_destination_is_complained_of_with_its_owner() {
    let desired = under(Family::V4, &ProxySettings::default(), &whole());
    let said: Vec<String> = desired.complaints().into_iter().map(|c| format!("{}: {}", c.object, c.message)).collect();
    let end = "give one of them another address or port";
    let expected = [
        format!(
            "Service default/svc-12: default/svc-12:http does not answer at 10.96.0.22:80/tcp: default/svc-2:http has it; {end}"
        ),
        format!(
            "Service default/svc-12: default/svc-12:http does not answer at 203.0.113.1:80/tcp: default/svc-1:http has it; {end}"
        ),
        format!(
            "Service default/svc-14: default/svc-14:http does not answer at 203.0.113.13:80/tcp: default/svc-13:http has it; {end}"
        ),
    ];
    assert_eq!(said, expected);
}

#[test]
fn a_destination_goes_to_the_next_when_its_owner_goes() {
    let mut facts = portolan_model::Facts::default();
    facts.apply_all(whole());
    let before = resolve(&facts, &empty(), &facts.all()).0;
    let mut desired = Desired::of(Family::V4, Options::default(), &before);
    let owner = |desired: &Desired| {
        let rules = text(desired, &Chain::nat(names::SERVICES));
        rules.into_iter().find(|rule| rule.contains("203.0.113.1 ")).expect("somebody has it")
    };
    assert!(owner(&desired).contains("default/svc-1:http external IP"));
    let touched = facts.apply(Fact::Service(name(1), None));
    let (after, delta) = resolve(&facts, &before, &touched);
    let changes = desired.update(&after, &delta);
    assert!(owner(&desired).contains("default/svc-12:http external IP"));
    assert!(changes.iter().any(|change| *change.chain() == Chain::nat(names::SERVICES)));
    assert_eq!(desired, Desired::of(Family::V4, Options::default(), &after));
}

#[test]
fn an_address_that_comes_to_an_interface_touches_the_jump_to_node_ports_alone() {
    let node_ports_on = NodePortAddresses::Within(vec![net("172.16.0.0/12")]);
    let proxy = ProxySettings { node_ports_on, ..ProxySettings::default() };
    let before = snapshot_with(&proxy, &rich());
    let mut desired = Desired::of(Family::V4, Options::default(), &before);
    let mut after = before.clone();
    after.interface_addresses.insert(ip("172.19.0.11"));
    let delta = Delta { interface_addresses: [ip("172.19.0.11")].into(), ..Delta::default() };
    let written: Vec<Chain> = desired.update(&after, &delta).iter().map(|change| change.chain().clone()).collect();
    assert_eq!(written, [Chain::nat(names::SERVICES)]);
    assert_eq!(desired, Desired::of(Family::V4, Options::default(), &after));
}

#[test]
fn invalid_packets_pass_where_conntrack_is_liberal() {
    let forward =
        |drop_invalid| text(&of(Options { drop_invalid, ..Options::default() }), &Chain::filter(names::FORWARD));
    assert_eq!(forward(true)[0], "-m conntrack --ctstate INVALID -j DROP");
    assert_eq!(forward(false), forward(true)[1..]);
}

#[test]
fn dns_of_this_node_is_kept_out_of_conntrack_until_it_stops() {
    let rules = [
        "-m comment --comment \"cluster DNS on this node\" -m udp -p udp -d 10.96.0.10 --dport 53 -j CT --notrack",
        "-m comment --comment \"cluster DNS on this node\" -m udp -p udp -s 10.96.0.10 --sport 53 -j CT --notrack",
        "-m comment --comment \"cluster DNS on this node\" -m tcp -p tcp -d 10.96.0.10 --dport 53 -j CT --notrack",
        "-m comment --comment \"cluster DNS on this node\" -m tcp -p tcp -s 10.96.0.10 --sport 53 -j CT --notrack",
    ];
    let mut desired = of(Options::default());
    let before = desired.chains();
    let on: Vec<Chain> = desired.set_dns(DnsPath::ThisNode).iter().map(|change| change.chain().clone()).collect();
    assert_eq!(on, [Chain::filter(names::DNS), Chain::raw(names::DNS)]);
    assert_eq!(text(&desired, &Chain::raw(names::DNS)), rules);
    assert_eq!(desired.set_dns(DnsPath::ThisNode), vec![]);
    assert_eq!(desired.set_dns(DnsPath::Service).len(), 2);
    assert_eq!(desired.chains(), before);
}

#[test]
fn a_query_for_cluster_dns_stays_here_or_goes_to_another_node_as_told() {
    let service = Service {
        cluster_ips: vec![ip("10.96.0.10")],
        ports: vec![port("http", Proto::Udp, 53, 0), port("http", Proto::Tcp, 53, 0)],
        ..Service::default()
    };
    let there = slice(&name(0), Family::V4, vec![endpoint("172.18.0.12", "node-2")]);
    let snapshot = snapshot(&[own_node(), Fact::Service(name(0), Some(service)), there]);
    let outcomes = |dns, src: &str| {
        let desired = Desired::of(Family::V4, Options { dns, ..Options::default() }, &snapshot);
        let arrival = if src == "172.18.0.11" { Arrival::Sent } else { Arrival::by("eth0") };
        let packet = Packet { src: ip(src), dst: ip("10.96.0.10"), proto: Proto::Tcp, dport: 53, arrival };
        chances(&walk(&desired.with_hooks(), &World::of(&snapshot, &desired), &packet))
    };
    let other_node = Outcome::Dnat { to: "172.18.0.12:8080".parse().expect("a literal address"), masquerade: true };
    for src in ["10.244.0.5", "172.18.0.11", "192.0.2.7"] {
        let here = Outcome::Untouched { masquerade: false };
        assert_eq!(outcomes(DnsPath::ThisNode, src), [(here, 1.0)].into(), "{src}");
        assert_eq!(outcomes(DnsPath::Service, src), [(other_node, 1.0)].into(), "{src}");
    }
}

/// As where a node's own address is the external IP of what listens there on the host network.
#[test]
fn a_destination_that_is_its_own_endpoint_is_sent_there_all_the_same() {
    let service = Service {
        cluster_ips: vec![ip("10.96.0.20")],
        external_ips: vec![ip("172.18.0.11")],
        ports: vec![port("http", Proto::Tcp, 8080, 0)],
        ..Service::default()
    };
    let here = slice(&name(0), Family::V4, vec![endpoint("172.18.0.11", "node-1")]);
    let snapshot = snapshot(&[own_node(), Fact::Service(name(0), Some(service)), here]);
    let desired = Desired::of(Family::V4, Options::default(), &snapshot);
    let arrival = Arrival::by("eth0");
    let packet = Packet { src: ip("192.0.2.7"), dst: ip("172.18.0.11"), proto: Proto::Tcp, dport: 8080, arrival };
    let found = chances(&walk(&desired.with_hooks(), &World::of(&snapshot, &desired), &packet));
    let allowed = judge(&snapshot, &packet, Mode::Iptables);
    assert_eq!(found.into_keys().collect::<Allowed>(), allowed);
}

#[test]
fn dns_told_before_the_first_update_is_not_forgotten() {
    let mut desired = Desired::new(Family::V4, Options::default());
    assert_eq!(desired.set_dns(DnsPath::ThisNode), vec![]);
    let snapshot = snapshot(&rich());
    desired.update(&snapshot, &portolan_model::Delta::all(&snapshot));
    assert_eq!(desired, of(Options { dns: DnsPath::ThisNode, ..Options::default() }));
}

#[test]
fn comments_of_single_endpoints_vanish_above_the_limit_and_come_back_below_it() {
    let endpoints: usize = rich().len();
    let written = |limit| {
        let desired = of(Options { comment_limit: limit, ..Options::default() });
        let all: Vec<String> = desired.chains().values().flatten().map(ToString::to_string).collect();
        all.iter().filter(|rule| rule.contains(" -> ")).count()
    };
    assert!(endpoints > 0 && written(1000) > 10);
    assert_eq!(written(3), 0);
}

#[test]
fn a_new_zone_of_our_node_plans_every_service_again() {
    let near = |zone: &str, addr: &str| {
        let mut near = endpoint(addr, "node-2");
        near.zone_hints = vec![zone.into()];
        near
    };
    let service = Service {
        cluster_ips: vec![ip("10.96.0.20")],
        ports: vec![port("http", Proto::Tcp, 80, 0)],
        ..Service::default()
    };
    let endpoints = vec![near("z1", "10.244.1.6"), near("z2", "10.244.1.7")];
    let facts = [own_node(), Fact::Service(name(0), Some(service)), slice(&name(0), Family::V4, endpoints)];
    let before = snapshot(&facts);
    let mut desired = Desired::of(Family::V4, Options::default(), &before);
    let targets = |desired: &Desired| -> Vec<String> {
        let rules = desired.chains().into_values().flatten().map(|rule| rule.to_string());
        rules.filter_map(|rule| rule.split_once("--to-destination ").map(|(_, to)| to.to_string())).collect()
    };
    assert_eq!(targets(&desired), ["10.244.1.6:8080"]);
    let mut all = portolan_model::Facts::default();
    all.apply_all(facts);
    let Fact::Node(key, Some(mut node)) = own_node() else { unreachable!("own_node is a Node") };
    node.zone = Some("z2".into());
    let touched = all.apply(Fact::Node(key, Some(node)));
    let (after, delta) = resolve(&all, &before, &touched);
    desired.update(&after, &delta);
    assert_eq!(targets(&desired), ["10.244.1.7:8080"]);
    assert_eq!(desired, Desired::of(Family::V4, Options::default(), &after));
}

#[test]
fn a_headless_service_leaves_no_trace_in_the_rules() {
    let service =
        Service { kind: ServiceKind::Headless, ports: vec![port("http", Proto::Tcp, 80, 0)], ..Service::default() };
    let headless =
        [Fact::Service(name(0), Some(service)), slice(&name(0), Family::V4, vec![endpoint("10.244.0.5", "node-1")])];
    let desired = Desired::of(Family::V4, Options::default(), &snapshot(&headless));
    assert_eq!(desired.chains(), Desired::of(Family::V4, Options::default(), &snapshot(&[])).chains());
}

#[test]
fn draining_endpoints_serve_while_nobody_else_does() {
    let service = |endpoints| {
        let service = Service {
            cluster_ips: vec![ip("10.96.0.20")],
            ports: vec![port("http", Proto::Tcp, 80, 0)],
            ..Service::default()
        };
        let facts = [own_node(), Fact::Service(name(0), Some(service)), slice(&name(0), Family::V4, endpoints)];
        let desired = Desired::of(Family::V4, Options::default(), &snapshot(&facts));
        desired.chains().keys().filter(|chain| chain.name.starts_with("KUBE-SEP-")).count()
    };
    let (a, b) = (endpoint("10.244.0.5", "node-1"), endpoint("10.244.1.6", "node-2"));
    assert_eq!(service(vec![draining(a.clone()), b.clone()]), 1);
    assert_eq!(service(vec![draining(a), draining(b)]), 2);
}

#[test]
fn a_chain_knows_the_service_port_it_stands_for() {
    let desired = of(Options::default());
    for chain in desired.chains().keys().filter(|chain| names::is_of_service(&chain.name)) {
        let owner = desired.owner(chain).expect("every such chain belongs to a service port");
        let rules = &desired.chains()[chain];
        assert!(rules.iter().any(|rule| rule.to_string().contains(&owner.to_string())), "{}: {owner}", chain.name);
    }
    assert_eq!(desired.owner(&Chain::nat(names::SERVICES)), None);
}
