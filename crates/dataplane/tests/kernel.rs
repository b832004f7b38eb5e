//! The rules in a real kernel: what `iptables-restore` takes, `iptables-save` gives back as planned.
//!
//! Each test makes a network namespace of its own that ends with its one process, as root. The tools are those of
//! `PORTOLAN_IPTABLES_DIR`, of `target/deb/bin`, or of `PATH`, in this order.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use portolan_dataplane::iptables::{
    Chain, Change, Desired, DnsPath, Options, Repair, Rule, Saved, compare, parse, render, saved,
};
use portolan_model::{
    Attachment, DetectLocal, EndpointFact, ExternalPolicy, Fact, Facts, Family, HostPort, IfName, Node,
    NodePortAddresses, NsName, Proto, ProxySettings, Service, ServiceKind, ServicePortFact, Settings, Slice, SlicePort,
    Snapshot, resolve,
};

/// Which kernel interface the programs use: nf_tables, or the older x_tables.
#[derive(Clone, Copy, Debug)]
enum Tools {
    Nft,
    Legacy,
}

/// Feeds `texts` to `iptables-restore --noflush` one after the other in a fresh namespace; says what is there after.
fn load(family: Family, texts: &[&str]) -> Saved {
    load_by(Tools::Nft, family, texts)
}

fn load_by(tools: Tools, family: Family, texts: &[&str]) -> Saved {
    parse(&printed_by(tools, family, texts)).expect("iptables-save prints what we can read")
}

fn printed_by(tools: Tools, family: Family, texts: &[&str]) -> String {
    let tool = match (family, tools) {
        (Family::V4, Tools::Nft) => "iptables",
        (Family::V6, Tools::Nft) => "ip6tables",
        (Family::V4, Tools::Legacy) => "iptables-legacy",
        (Family::V6, Tools::Legacy) => "ip6tables-legacy",
    };
    let mut script = String::from("set -e\n");
    let mut command = Command::new("unshare");
    for (index, text) in texts.iter().enumerate() {
        script.push_str(&format!("printf '%s' \"$TEXT{index}\" | {tool}-restore --noflush\n"));
        command.env(format!("TEXT{index}"), text);
    }
    script.push_str(&format!("{tool}-save\n"));
    command.args(["-n", "sh", "-c", &script]).env("PATH", tool_path());
    let output = command.output().expect("unshare and sh are on PATH");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "as root, with iptables by scripts/fetch-debs.sh: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn tool_path() -> std::ffi::OsString {
    let fetched = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/deb/bin");
    let told = std::env::var_os("PORTOLAN_IPTABLES_DIR").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let rest: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let all = told.into_iter().chain([fetched]).chain(rest);
    std::env::join_paths(all).expect("no folder of PATH has a colon in its name")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

fn key(index: usize) -> NsName {
    NsName::new("default", format!("svc-{index}"))
}

/// Services of every shape the planner knows, on three protocols.
fn facts() -> Vec<Fact> {
    let node = Node { addresses: vec![ip("172.18.0.11"), ip("fd00:18::11")], ready: true, ..Node::default() };
    let mut facts = vec![Fact::Node("node-1".into(), Some(node))];
    for (index, proto) in [Proto::Tcp, Proto::Udp, Proto::Sctp].into_iter().cycle().take(12).enumerate() {
        facts.push(Fact::Service(key(index), Some(service(index, proto))));
        for family in Family::BOTH {
            facts.push(slice(index, proto, family, index % 4));
        }
    }
    facts
}

fn service(index: usize, proto: Proto) -> Service {
    let name = if index.is_multiple_of(5) { "" } else { "http" };
    let port = ServicePortFact { name: name.into(), proto, port: 80, node_port: 30000 + index as u16 };
    let ranges = if index.is_multiple_of(2) { vec!["192.0.2.0/24", "172.18.0.0/24", "2001:db8::/32"] } else { vec![] };
    Service {
        kind: ServiceKind::LoadBalancer,
        cluster_ips: vec![ip(&format!("10.96.0.{}", 20 + index)), ip(&format!("fd00:10:96::{}", 20 + index))],
        external_ips: vec![ip(&format!("203.0.113.{index}")), ip(&format!("2001:db8:e::{index}"))],
        load_balancer_ips: vec![ip(&format!("198.51.100.{index}")), ip(&format!("2001:db8:f::{index}"))],
        source_ranges: ranges.iter().map(|range| range.parse().expect("a literal prefix")).collect(),
        ports: vec![port],
        internal_local: index.is_multiple_of(3),
        external_policy: if index.is_multiple_of(4) { ExternalPolicy::Local } else { ExternalPolicy::Cluster },
        affinity_secs: index.is_multiple_of(3).then_some(10800),
        health_check_node_port: if index.is_multiple_of(4) { 32000 + index as u16 } else { 0 },
        ..Service::default()
    }
}

fn slice(index: usize, proto: Proto, family: Family, endpoints: usize) -> Fact {
    let name = if index.is_multiple_of(5) { "" } else { "http" };
    let prefix = if family == Family::V4 { "10.244.0." } else { "fd00:10:244::" };
    let endpoint = |n| EndpointFact {
        node: Some(format!("node-{n}").into()),
        ..EndpointFact::ready_at(ip(&format!("{prefix}{}", n + 4)))
    };
    let ports = vec![SlicePort { name: name.into(), proto, port: 8080 }];
    let slice = Slice { service: key(index), family, ports, endpoints: (1..=endpoints).map(endpoint).collect() };
    Fact::Slice(NsName::new("default", format!("slice-{index}-{family:?}")), Some(slice))
}

/// A pod with host ports of all protocols, more of them than one rule takes, and addresses for node ports to choose from.
fn on_this_node() -> Vec<Fact> {
    let port = |proto, host_port, host_addr: Option<&str>| HostPort {
        proto,
        host_addr: host_addr.map(ip),
        host_port,
        pod_port: 8080,
    };
    let mut host_ports: Vec<HostPort> = (9000..9020).map(|n| port(Proto::Tcp, n, None)).collect();
    host_ports.push(port(Proto::Udp, 53, Some("172.18.0.11")));
    host_ports.push(port(Proto::Sctp, 7000, Some("fd00:18::11")));
    let addresses = vec![ip("10.244.0.5"), ip("fd00:10:244::5")];
    let pod = Attachment { link: IfName("veth1".into()), addresses, host_ports };
    let addresses = ["172.18.0.11", "172.19.0.11", "fd00:18::11", "fd00:19::11"].map(ip);
    let mut facts = vec![Fact::Attachment(NsName::new("default", "pod-5"), Some(pod))];
    facts.extend(addresses.map(|addr| Fact::InterfaceAddress(addr, Some(()))));
    facts
}

/// Settings whose rules are written in other words than the default's.
fn settings_of_other_words() -> Vec<ProxySettings> {
    let nets = |list: &[&str]| list.iter().map(|net| net.parse().expect("a literal prefix")).collect();
    vec![
        ProxySettings {
            detect_local: DetectLocal::BridgeInterface(IfName("br0".into())),
            node_ports_on: NodePortAddresses::Within(nets(&["172.16.0.0/12", "127.0.0.0/8", "fd00::/16"])),
            ..ProxySettings::default()
        },
        ProxySettings {
            detect_local: DetectLocal::InterfaceNamePrefix("veth".into()),
            localhost_node_ports: false,
            ..ProxySettings::default()
        },
        ProxySettings { masquerade_all: true, node_ports_on: NodePortAddresses::Primary, ..ProxySettings::default() },
    ]
}

fn empty() -> Snapshot {
    empty_with(ProxySettings::default())
}

fn empty_with(proxy: ProxySettings) -> Snapshot {
    let nets = |list: [&str; 2]| list.map(|net| net.parse().expect("a literal prefix")).to_vec();
    Snapshot::empty(Arc::new(Settings {
        node: "node-1".into(),
        cluster_cidrs: nets(["10.244.0.0/16", "fd00:10:244::/56"]),
        service_cidrs: nets(["10.96.0.0/12", "fd00:10:96::/112"]),
        cluster_dns: vec![ip("10.96.0.10"), ip("fd00:10:96::a")],
        cluster_domain: "cluster.local".into(),
        proxy,
    }))
}

fn differences(desired: &Desired, saved: &Saved) -> Vec<String> {
    compare(&desired.chains(), &saved.chains).iter().map(ToString::to_string).collect()
}

#[test]
fn the_kernel_gives_back_what_it_was_given_and_a_restart_writes_nothing() {
    let mut told = Facts::default();
    let touched = told.apply_all(facts());
    let (snapshot, _) = resolve(&told, &empty(), &touched);
    for family in Family::BOTH {
        let options = Options { dns: DnsPath::ThisNode, ..Options::default() };
        let desired = Desired::of(family, options, &snapshot);
        let first = Repair::of(&desired, &Saved::default()).render();
        let again = render::restore(&desired.all());
        let saved = load(family, &[&first, &again]);
        assert_eq!(differences(&desired, &saved), Vec::<String>::new());
        assert!(Repair::of(&desired, &saved).is_empty(), "{family:?}");
        let loaded = load(family, &[&render::full(&desired.with_hooks())]);
        assert!(Repair::of(&desired, &loaded).is_empty(), "{family:?}");
    }
}

#[test]
fn rules_of_every_setting_go_into_both_kernel_interfaces_and_a_restart_writes_nothing() {
    for proxy in settings_of_other_words() {
        let mut told = Facts::default();
        told.apply_all(facts());
        told.apply_all(on_this_node());
        let (snapshot, _) = resolve(&told, &empty_with(proxy.clone()), &told.all());
        for (family, tools) in
            Family::BOTH.into_iter().flat_map(|f| [Tools::Nft, Tools::Legacy].map(|tools| (f, tools)))
        {
            let options = Options { dns: DnsPath::ThisNode, ..Options::default() };
            let desired = Desired::of(family, options, &snapshot);
            let printed = printed_by(tools, family, &[&Repair::of(&desired, &Saved::default()).render()]);
            let saved = parse(&printed).expect("iptables-save prints what we can read");
            assert_eq!(differences(&desired, &saved), Vec::<String>::new(), "{tools:?} {proxy:?}");
            let again = Repair::of(&desired, &saved);
            assert!(again.is_empty(), "{tools:?} {family:?} {proxy:?}: {}", again.render());
            assert_eq!(lines(&printed), lines_of(&desired), "{tools:?} {family:?} {proxy:?}");
        }
    }
}

/// The rules of a dump, in the order of their text.
fn lines(printed: &str) -> Vec<String> {
    let mut lines: Vec<String> = printed.lines().filter(|line| line.starts_with("-A ")).map(str::to_owned).collect();
    lines.sort();
    lines
}

/// What a trace shows of the planned rules: it must be what a person finds in the dump, to the letter.
fn lines_of(desired: &Desired) -> Vec<String> {
    let line = |chain: &Chain, rule: &Rule| format!("-A {} {}", chain.name, saved::line(desired.family(), rule));
    let rules = desired.with_hooks();
    let mut lines: Vec<String> =
        rules.iter().flat_map(|(chain, rules)| rules.iter().map(move |rule| line(chain, rule))).collect();
    lines.sort();
    lines
}

#[test]
fn the_kernel_follows_changes_to_the_same_rules_as_from_scratch() {
    for family in Family::BOTH {
        let (texts, desired) = a_history(family);
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let saved = load(family, &texts);
        assert_eq!(differences(&desired, &saved), Vec::<String>::new());
        assert!(Repair::of(&desired, &saved).is_empty(), "{family:?}");
    }
}

/// All services at once, then some gone, some without endpoints, some with more; the texts that were written.
fn a_history(family: Family) -> (Vec<String>, Desired) {
    let mut told = Facts::default();
    let mut snapshot = empty();
    let mut desired = Desired::new(family, Options::default());
    let mut texts = Vec::new();
    let portions = [
        vec![],
        facts(),
        (0..6).map(|index| Fact::Service(key(index), None)).collect(),
        (6..9).map(|index| slice(index, [Proto::Tcp, Proto::Udp, Proto::Sctp][index % 3], family, 0)).collect(),
        (6..12).map(|index| slice(index, [Proto::Tcp, Proto::Udp, Proto::Sctp][index % 3], family, 3)).collect(),
    ];
    for (index, portion) in portions.into_iter().enumerate() {
        let touched = told.apply_all(portion);
        let (after, delta) = resolve(&told, &snapshot, &touched);
        let changes: Vec<Change> = desired.update(&after, &delta);
        let first = Repair::of(&desired, &Saved::default()).hooks;
        texts.push(render::program(&changes, if index == 0 { &first } else { &[] }));
        snapshot = after;
    }
    (texts, desired)
}
