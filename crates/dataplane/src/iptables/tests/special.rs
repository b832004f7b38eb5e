//! Settings away from their defaults, and rules that stand for one row of the documents each.

use std::sync::Arc;

use portolan_model::verdict::{Arrival, Outcome, Packet};
use portolan_model::{Fact, Family, Proto, ProxySettings, Service, ServiceKind, Settings, Snapshot, resolve};

use crate::iptables::trace::{World, chances, walk};
use crate::iptables::{Chain, Desired, DnsPath, NodePortsOn, Options, hooks, names};
use crate::tests::world::{draining, empty, endpoint, ip, name, own_node, port, rich, slice, snapshot, snapshot_with};

fn text(desired: &Desired, chain: &Chain) -> Vec<String> {
    desired.chains()[chain].iter().map(ToString::to_string).collect()
}

fn of(options: Options) -> Desired {
    Desired::of(Family::V4, options, &snapshot(&rich()))
}

fn node_port_jumps(family: Family, options: Options) -> Vec<String> {
    let desired = Desired::of(family, options, &empty());
    text(&desired, &Chain::nat(names::SERVICES))
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
        let options = Options { localhost_node_ports, ..Options::default() };
        assert_eq!(node_port_jumps(family, options), [format!("{NODE_PORTS}{words} -j KUBE-NODEPORTS")]);
    }
}

#[test]
fn node_ports_on_listed_addresses_jump_once_for_each_of_the_family() {
    let listed = vec![ip("172.18.0.11"), ip("127.0.0.1"), ip("fd00:18::11"), ip("::1")];
    let options = |localhost_node_ports| Options {
        node_ports_on: NodePortsOn::Addresses(listed.clone()),
        localhost_node_ports,
        ..Options::default()
    };
    let jump = |addr: &str| format!("{NODE_PORTS} -d {addr} -j KUBE-NODEPORTS");
    assert_eq!(node_port_jumps(Family::V4, options(true)), [jump("172.18.0.11"), jump("127.0.0.1")]);
    assert_eq!(node_port_jumps(Family::V4, options(false)), [jump("172.18.0.11")]);
    assert_eq!(node_port_jumps(Family::V6, options(true)), [jump("fd00:18::11")]);
}

#[test]
fn loopback_is_closed_to_strangers_only_where_node_ports_open_it() {
    let rule = "-m comment --comment \"block incoming localnet connections\" -d 127.0.0.0/8 ! -s 127.0.0.0/8 \
                -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP";
    assert_eq!(text(&of(Options::default()), &Chain::filter(names::FIREWALL)), [rule]);
    let without = Options { localhost_node_ports: false, ..Options::default() };
    for (family, options) in [(Family::V4, without), (Family::V6, Options::default())] {
        let desired = Desired::of(family, options, &empty());
        assert!(!desired.chains().contains_key(&Chain::filter(names::FIREWALL)));
        let hooks = hooks::wanted(family, desired.options());
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
    let all = heads(&Desired::of(Family::V4, Options::default(), &snapshot_with(&proxy, &rich())));
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
