//! Connections of a written world of three nodes, as its kernels would list them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use portolan_model::{
    Attachment, EndpointFact, Fact, Facts, Family, HostPort, IfName, Node, Pod, Service, ServicePortFact, Settings,
    Slice, SlicePort, resolve,
};
use portolan_model::{ProxySettings, Snapshot};
use proptest::prelude::*;

use super::*;

const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];
/// Name, node, last octets.
const PODS: [(&str, &str, u8); 4] =
    [("client", "node-1", 5), ("web-a", "node-1", 6), ("web-b", "node-2", 7), ("tool", "node-2", 8)];
const WEB_PORT: u16 = 8080;
const NODE_PORT: u16 = 30080;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn node_address(family: Family, node: &str) -> IpAddr {
    let number = node.trim_start_matches("node-");
    match family {
        Family::V4 => ip(&format!("172.18.0.1{number}")),
        Family::V6 => ip(&format!("fd00:18::1{number}")),
    }
}

fn pod_address(family: Family, name: &str) -> IpAddr {
    let (_, node, last) = *PODS.iter().find(|(pod, ..)| *pod == name).expect("a pod of the world");
    let number = node.trim_start_matches("node-");
    match family {
        Family::V4 => ip(&format!("10.244.{number}.{last}")),
        Family::V6 => ip(&format!("fd00:244:{number}::{last}")),
    }
}

fn cluster_ip(family: Family) -> IpAddr {
    match family {
        Family::V4 => ip("10.96.0.80"),
        Family::V6 => ip("fd00:96::80"),
    }
}

fn outside(family: Family) -> IpAddr {
    match family {
        Family::V4 => ip("172.18.0.1"),
        Family::V6 => ip("fd00:18::1"),
    }
}

fn key(name: &str) -> NsName {
    NsName::new("default", name)
}

/// Service `web` has endpoints `web-a`, `web-b` and `web-host`, which has node-3's address.
fn snapshot(node: &str) -> Snapshot {
    let settings = Settings {
        node: node.into(),
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap(), "fd00:244::/32".parse().unwrap()],
        service_cidrs: vec!["10.96.0.0/12".parse().unwrap(), "fd00:96::/112".parse().unwrap()],
        cluster_dns: Vec::new(),
        cluster_domain: "cluster.local".into(),
        proxy: ProxySettings::default(),
    };
    let mut facts = Facts::default();
    for name in NODES {
        let addresses = Family::BOTH.map(|family| node_address(family, name)).to_vec();
        facts.apply(Fact::Node(name.into(), Some(Node { addresses, ready: true, ..Node::default() })));
    }
    // A node knows its own pods, and of others' those that are endpoints.
    for (name, ..) in PODS.iter().filter(|(_, of, _)| *of == node) {
        let addresses = Family::BOTH.map(|family| pod_address(family, name)).to_vec();
        let host_port = HostPort { proto: Proto::Tcp, host_addr: None, host_port: 8443, pod_port: 443 };
        let host_ports = if *name == "tool" { vec![host_port] } else { Vec::new() };
        let attachment = Attachment { link: IfName(format!("cali-{name}").into()), addresses, host_ports };
        facts.apply(Fact::Attachment(key(name), Some(attachment)));
    }
    let port = ServicePortFact { name: "http".into(), proto: Proto::Tcp, port: 80, node_port: NODE_PORT };
    let cluster_ips = Family::BOTH.map(cluster_ip).to_vec();
    facts.apply(Fact::Service(key("web"), Some(Service { cluster_ips, ports: vec![port], ..Service::default() })));
    for family in Family::BOTH {
        let endpoint = |(name, addr): (&str, IpAddr)| EndpointFact {
            pod: Some(key(name)),
            node: Some(runs_on(name).into()),
            ..EndpointFact::ready_at(addr)
        };
        let of_pods = ["web-a", "web-b"].map(|name| (name, pod_address(family, name)));
        let endpoints =
            of_pods.into_iter().chain([("web-host", node_address(family, "node-3"))]).map(endpoint).collect();
        let ports = vec![SlicePort { name: "http".into(), proto: Proto::Tcp, port: WEB_PORT }];
        let slice = Slice { service: key("web"), family, ports, endpoints };
        facts.apply(Fact::Slice(key(&format!("web-{family:?}")), Some(slice)));
    }
    let touched = facts.all();
    resolve(&facts, &Snapshot::empty(Arc::new(settings)), &touched).0
}

fn runs_on(pod: &str) -> &'static str {
    PODS.iter().find(|(name, ..)| *name == pod).map_or("node-3", |(_, node, _)| node)
}

/// As the API lists them.
fn all_pods() -> BTreeMap<NsName, Arc<Pod>> {
    let pod = |name: &str| Pod {
        node: Some(runs_on(name).into()),
        addresses: Family::BOTH.map(|family| pod_address(family, name)).to_vec(),
        ..Pod::default()
    };
    PODS.iter().map(|(name, ..)| (key(name), Arc::new(pod(name)))).collect()
}

/// As the command tells them.
fn told(known: &[NodeFlows]) -> Vec<Flow> {
    let mut flows = joined(known);
    name_rest(&mut flows, &all_pods());
    flows
}

fn header(src: SocketAddr, dst: SocketAddr) -> Header {
    Header { src, dst, proto: Proto::Tcp }
}

fn entry(from: Header, became: Header) -> Tracked {
    Tracked {
        original: from,
        reply: Header { src: became.dst, dst: became.src, proto: from.proto },
        state: Some("ESTABLISHED".into()),
        answered: true,
        timeout_secs: 60,
        carried: None,
        age_secs: None,
    }
}

/// A connection as it is made, before anybody tells of it.
#[derive(Clone, Debug)]
struct Made {
    family: Family,
    client: Client,
    port: u16,
    to: To,
    /// Of the Service's.
    endpoint: usize,
    /// The client's node masquerades what leaves the cluster.
    snat_out: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Client {
    Pod(&'static str),
    Node(&'static str),
    /// By way of this node.
    Outside(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum To {
    ClusterIp,
    NodePort(&'static str),
    Pod(&'static str),
}

const ENDPOINTS: [&str; 3] = ["web-a", "web-b", "web-host"];

impl Made {
    fn endpoint_address(&self) -> IpAddr {
        match ENDPOINTS[self.endpoint] {
            "web-host" => node_address(self.family, "node-3"),
            pod => pod_address(self.family, pod),
        }
    }

    fn client_at(&self) -> SocketAddr {
        let addr = match self.client {
            Client::Pod(name) => pod_address(self.family, name),
            Client::Node(name) => node_address(self.family, name),
            Client::Outside(_) => outside(self.family),
        };
        SocketAddr::new(addr, self.port)
    }

    fn to(&self) -> SocketAddr {
        match self.to {
            To::ClusterIp => SocketAddr::new(cluster_ip(self.family), 80),
            To::NodePort(node) => SocketAddr::new(node_address(self.family, node), NODE_PORT),
            To::Pod(pod) => SocketAddr::new(pod_address(self.family, pod), WEB_PORT),
        }
    }

    fn ends_at(&self) -> SocketAddr {
        match self.to {
            To::Pod(_) => self.to(),
            _ => SocketAddr::new(self.endpoint_address(), WEB_PORT),
        }
    }

    fn first_node(&self) -> &'static str {
        match self.client {
            Client::Pod(name) => PODS.iter().find(|(pod, ..)| *pod == name).expect("a pod").1,
            Client::Node(name) | Client::Outside(name) => name,
        }
    }

    /// The entries of each node that it passes, in order: DNAT where the destination is the Service's there, and
    /// masquerade where the answer must come back through the node.
    fn entries(&self) -> Vec<(&'static str, Tracked)> {
        let mut entries = Vec::new();
        let (mut at, mut packet) = (self.first_node(), header(self.client_at(), self.to()));
        loop {
            let mut after = packet;
            let own = node_address(self.family, at);
            let is_ours = packet.dst == SocketAddr::new(cluster_ip(self.family), 80)
                || packet.dst == SocketAddr::new(own, NODE_PORT);
            let is_from_pod = matches!(owner(self.family, packet.src.ip()), Some((_, true)));
            if is_ours {
                after.dst = self.ends_at();
                let hairpin = after.dst.ip() == packet.src.ip();
                if !is_from_pod || packet.dst.port() == NODE_PORT || hairpin {
                    after.src = SocketAddr::new(own, self.port ^ 0x2000);
                }
            } else if is_from_pod && packet.dst.port() == NODE_PORT && self.snat_out {
                after.src = SocketAddr::new(own, self.port ^ 0x1000);
            }
            entries.push((at, entry(packet, after)));
            packet = after;
            match owner(self.family, packet.dst.ip()) {
                Some((next, _)) if next != at => at = next,
                _ => return entries,
            }
        }
    }

    fn client_is(&self) -> Who {
        match self.client {
            Client::Pod(name) => Who::Pod { pod: key(name), node: Some(self.first_node().into()) },
            Client::Node(name) => Who::Node { name: name.into() },
            Client::Outside(_) => Who::Outside,
        }
    }

    fn endpoint_is(&self) -> Who {
        let name = match self.to {
            To::Pod(name) => name,
            _ => ENDPOINTS[self.endpoint],
        };
        let node = PODS.iter().find(|(pod, ..)| *pod == name).map_or("node-3", |(_, node, _)| node);
        Who::Pod { pod: key(name), node: Some(node.into()) }
    }
}

/// The node of an address, and whether it is a pod's.
fn owner(family: Family, addr: IpAddr) -> Option<(&'static str, bool)> {
    let pod = PODS.iter().find(|(name, ..)| pod_address(family, name) == addr).map(|(_, node, _)| (*node, true));
    pod.or_else(|| NODES.iter().find(|name| node_address(family, name) == addr).map(|name| (*name, false)))
}

/// What the nodes would answer.
struct Nodes {
    tables: BTreeMap<&'static str, Vec<Tracked>>,
    snapshots: BTreeMap<&'static str, Snapshot>,
}

impl Nodes {
    fn with(made: &[Made]) -> Self {
        let mut tables: BTreeMap<&'static str, Vec<Tracked>> = NODES.map(|name| (name, Vec::new())).into();
        for (node, entry) in made.iter().flat_map(Made::entries) {
            tables.get_mut(node).expect("a node").push(entry);
        }
        Self { tables, snapshots: NODES.map(|name| (name, snapshot(name))).into() }
    }

    fn ask(&self, node: &'static str, ask: &Ask) -> NodeFlows {
        answer(&Names::of(&self.snapshots[node]), &self.tables[node], ask)
    }

    fn all(&self) -> Vec<NodeFlows> {
        NODES.map(|node| self.ask(node, &Ask::default())).to_vec()
    }

    /// As the command asks.
    fn only(&self, only: &Only) -> Vec<Flow> {
        let first = |name: &&&'static str| only.asks_first(&(**name).into());
        let pod = only.pod.as_ref().filter(|pod| &*pod.name != "web-host");
        let addresses = pod.map(|pod| Family::BOTH.map(|family| pod_address(family, &pod.name)).to_vec());
        let ask = Ask { only: only.clone(), addresses: addresses.unwrap_or_default(), joining: Vec::new() };
        let mut known: Vec<NodeFlows> = NODES.iter().filter(first).map(|node| self.ask(node, &ask)).collect();
        let mut asked = BTreeSet::new();
        loop {
            let joining: Vec<Header> = ends(&known).difference(&asked).copied().collect();
            if joining.is_empty() {
                let mut flows = told(&known);
                flows.retain(|flow| only.keeps(flow));
                return flows;
            }
            asked.extend(joining.iter().copied());
            let ask = Ask { joining, ..Ask::default() };
            for node in NODES {
                add(&mut known, self.ask(node, &ask));
            }
        }
    }
}

fn any_made() -> impl Strategy<Value = Made> {
    let node = prop::sample::select(NODES.to_vec());
    let pod = prop::sample::select(PODS.map(|(name, ..)| name).to_vec());
    let client = prop_oneof![
        pod.clone().prop_map(Client::Pod),
        node.clone().prop_map(Client::Node),
        node.clone().prop_map(Client::Outside)
    ];
    let to = prop_oneof![Just(To::ClusterIp), node.prop_map(To::NodePort), pod.prop_map(To::Pod)];
    let family = prop::sample::select(Family::BOTH.to_vec());
    (family, client, to, 0..ENDPOINTS.len(), any::<bool>())
        .prop_map(|(family, client, to, endpoint, snat_out)| Made { family, client, port: 0, to, endpoint, snat_out })
        // What leaves one address of outside comes in by the node that has the port.
        .prop_map(|mut made| {
            if let (Client::Outside(_), To::NodePort(node)) = (made.client, made.to) {
                made.client = Client::Outside(node);
            }
            made
        })
}

/// Each from a port of its own.
fn any_connections() -> impl Strategy<Value = Vec<Made>> {
    prop::collection::vec(any_made(), 1..40).prop_map(|mut all| {
        for (made, port) in all.iter_mut().zip(40_000..) {
            made.port = port;
        }
        all
    })
}

fn check(made: &[Made], flows: &[Flow]) {
    assert_eq!(flows.len(), made.len(), "each once");
    for one in made {
        let of = |flow: &&Flow| flow.client.at == one.client_at() && flow.to == one.to();
        let found: Vec<&Flow> = flows.iter().filter(of).collect();
        let [flow] = found[..] else { panic!("{one:?} is told {} times", found.len()) };
        assert_eq!(flow.client.who, one.client_is(), "{one:?}");
        assert_eq!((flow.endpoint.at, &flow.endpoint.who), (one.ends_at(), &one.endpoint_is()), "{one:?}");
        assert_eq!(flow.sent_to.is_service(&key("web")), !matches!(one.to, To::Pod(_)), "{one:?}");
        let entries = one.entries();
        let passed: Vec<&str> = entries.iter().map(|(node, _)| *node).collect();
        assert_eq!(flow.nodes.iter().map(|n| &**n).collect::<Vec<_>>(), passed, "{one:?}");
        let rewriting = entries.iter().filter(|(_, e)| e.original != left(&e.reply)).count();
        assert_eq!(flow.nat.len(), rewriting, "{one:?}");
    }
}

proptest! {
    #[test]
    fn every_connection_is_told_once_with_the_right_names_in_whatever_order_nodes_answer(
        made in any_connections(),
        turn in 0..3usize,
        reversed in any::<bool>(),
    ) {
        let mut answers = Nodes::with(&made).all();
        answers.rotate_left(turn);
        if reversed {
            answers.iter_mut().for_each(|node| node.flows.reverse());
        }
        let flows = told(&answers);
        check(&made, &flows);
        prop_assert_eq!(flows, told(&Nodes::with(&made).all()));
    }

    #[test]
    fn asking_for_some_is_asking_for_all_and_keeping_some(made in any_connections()) {
        let nodes = Nodes::with(&made);
        let all = told(&nodes.all());
        let service = Only { service: Some(key("web")), ..Only::default() };
        let pods = ["client", "web-b", "web-host"].map(|name| Only { pod: Some(key(name)), ..Only::default() });
        let here = NODES.map(|name| Only { node: Some(name.into()), ..Only::default() });
        let at = |only: &Only| Only { node: Some("node-2".into()), ..only.clone() };
        let both = [at(&service), at(&pods[0]), Only { service: Some(key("web")), ..at(&pods[1]) }];
        for only in [service].into_iter().chain(both).chain(pods).chain(here) {
            let kept: Vec<Flow> = all.iter().filter(|flow| only.keeps(flow)).cloned().collect();
            prop_assert_eq!(nodes.only(&only), kept, "{:?}", only);
        }
    }
}

fn pod_client(to: To, endpoint: usize) -> Made {
    Made { family: Family::V4, client: Client::Pod("client"), port: 40_000, to, endpoint, snat_out: false }
}

fn said(made: &[Made]) -> String {
    table(&told(&Nodes::with(made).all()), &[])
}

#[test]
fn nat_is_said_out_loud_and_by_whom() {
    let from_node = Made { client: Client::Node("node-1"), port: 40_001, ..pod_client(To::ClusterIp, 1) };
    let through = Made { port: 40_002, snat_out: true, ..pod_client(To::NodePort("node-3"), 1) };
    let direct = Made { port: 40_003, ..pod_client(To::Pod("tool"), 0) };
    let expected = "\
PROTO  CLIENT                         SENT TO                             ENDPOINT                     STATE        EXPIRES  NAT
tcp    default/client:40000 (node-1)  default/web:http 10.96.0.80:80      default/web-b:8080 (node-2)  ESTABLISHED  1m0s     node-1: to 10.96.0.80:80 → 10.244.2.7:8080
tcp    default/client:40002 (node-1)  default/web:http 172.18.0.13:30080  default/web-b:8080 (node-2)  ESTABLISHED  1m0s     node-1: from 10.244.1.5:40002 → 172.18.0.11:35906; node-3: to 172.18.0.13:30080 → 10.244.2.7:8080, from 172.18.0.11:35906 → 172.18.0.13:48194
tcp    default/client:40003 (node-1)  -                                   default/tool:8080 (node-2)   ESTABLISHED  1m0s     -
tcp    node-1:40001                   default/web:http 10.96.0.80:80      default/web-b:8080 (node-2)  ESTABLISHED  1m0s     node-1: to 10.96.0.80:80 → 10.244.2.7:8080, from 172.18.0.11:40001 → 172.18.0.11:48193
";
    assert_eq!(said(&[from_node, through, pod_client(To::ClusterIp, 1), direct]), expected);
}

#[test]
fn what_goes_to_loopback_is_each_nodes_own() {
    let packet = header("127.0.0.1:5000".parse().unwrap(), "127.0.0.1:6000".parse().unwrap());
    let mut nodes = Nodes::with(&[]);
    for node in ["node-1", "node-2"] {
        nodes.tables.get_mut(node).unwrap().push(entry(packet, packet));
    }
    let flows = told(&nodes.all());
    let of: Vec<&Who> = flows.iter().map(|flow| &flow.client.who).collect();
    assert_eq!(of, [&Who::Node { name: "node-1".into() }, &Who::Node { name: "node-2".into() }]);
}

#[test]
fn a_host_port_an_address_that_is_gone_and_anothers_rewrite_are_called_what_they_are() {
    let mut nodes = Nodes::with(&[]);
    let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
    let rewritten = |dst: &str, became: &str| {
        let packet = header(at("172.18.0.1:50000"), at(dst));
        entry(packet, Header { dst: at(became), ..packet })
    };
    let table = nodes.tables.get_mut("node-2").unwrap();
    table.push(rewritten("172.18.0.12:8443", "10.244.2.8:443"));
    table.push(rewritten("172.18.0.12:99", "10.244.9.9:99"));
    // An address of the Service that no rule rewrote: a bypass.
    table.push(rewritten("10.96.0.80:80", "10.96.0.80:80"));
    let flows = told(&nodes.all());
    let told: Vec<(&SentTo, &Who)> = flows.iter().map(|flow| (&flow.sent_to, &flow.endpoint.who)).collect();
    let service = ServicePortKey { service: key("web"), port: "http".into(), proto: Proto::Tcp };
    let tool = Who::Pod { pod: key("tool"), node: Some("node-2".into()) };
    assert_eq!(
        told,
        [
            (&SentTo::Service { service, door: Door::ClusterIp }, &Who::Outside),
            (&SentTo::Itself, &Who::Gone),
            (&SentTo::HostPort { pod: key("tool") }, &tool),
        ]
    );
}

#[test]
fn a_watch_says_what_came_what_changed_and_what_went() {
    let first =
        joined(&Nodes::with(&[pod_client(To::ClusterIp, 0), Made { port: 7, ..pod_client(To::Pod("tool"), 0) }]).all());
    let mut second =
        joined(&Nodes::with(&[pod_client(To::ClusterIp, 0), Made { port: 8, ..pod_client(To::Pod("tool"), 0) }]).all());
    assert_eq!(changes(&first, &first), []);
    second
        .iter_mut()
        .filter(|flow| flow.client.at.port() == 40_000)
        .for_each(|flow| flow.state = Some("TIME_WAIT".into()));
    let expected = "\
- tcp default/client:7 (node-1) → default/tool:8080 (node-2)  ESTABLISHED
~ tcp default/client:40000 (node-1) → default/web:http 10.96.0.80:80 → default/web-a:8080 (node-1)  TIME_WAIT  [node-1: to 10.96.0.80:80 → 10.244.1.6:8080]
+ tcp default/client:8 (node-1) → default/tool:8080 (node-2)  ESTABLISHED
";
    let said: String = changes(&first, &second).iter().map(change_line).collect();
    assert_eq!(said, expected);
}

/// What every node counts, if all of these began in its interval and are open still.
fn rates(made: &[Made], interval_us: u64) -> Rates {
    let nodes = Nodes::with(made);
    let count = |node: &'static str| {
        let mut opened = Opened::default();
        nodes.tables[node].iter().for_each(|entry| opened.saw(&entry.original, &entry.reply));
        let rates = Names::of(&nodes.snapshots[node]).rates(&opened, &nodes.tables[node], None);
        NodeRates { node: node.into(), interval_us, lost: false, rates }
    };
    merged(&NODES.map(count), Vec::new())
}

#[test]
fn a_connection_counts_once_where_its_endpoint_was_chosen() {
    let mut made = vec![pod_client(To::ClusterIp, 0); 3];
    made.push(Made { snat_out: true, ..pod_client(To::NodePort("node-3"), 1) });
    made.push(pod_client(To::Pod("tool"), 0));
    let rates = rates(&made, 2_000_000);
    let expected = "\
SERVICE           ENDPOINT                        NEW/S  SHARE  OPEN
default/web:http                                  2.0           4
                  default/web-a:8080 (node-1)     1.5    75%    3
                  default/web-b:8080 (node-2)     0.5    25%    1
                  default/web-host:8080 (node-3)  0.0    0%     0
new connections counted for 2.0 s
";
    assert_eq!(rates_text(&rates), expected);
}

proptest! {
    #[test]
    fn counts_of_all_nodes_sum_to_the_connections_that_were_made(made in any_connections()) {
        let told = rates(&made, 1_000_000);
        let through: Vec<&Made> = made.iter().filter(|one| !matches!(one.to, To::Pod(_))).collect();
        let total: u64 = told.services.iter().map(|service| service.new_connections).sum();
        prop_assert_eq!(total, through.len() as u64);
        for endpoint in told.services.iter().flat_map(|service| &service.endpoints) {
            let got = through.iter().filter(|one| one.ends_at() == endpoint.endpoint.at).count() as u64;
            prop_assert_eq!((endpoint.new_connections, endpoint.open), (got, got));
        }
    }
}

#[test]
fn lost_events_and_silent_nodes_make_a_count_a_least_one() {
    let mut node = NodeRates { node: "node-1".into(), interval_us: 1_000_000, lost: false, rates: Vec::new() };
    assert!(merged(std::slice::from_ref(&node), Vec::new()).exact);
    let silent = Silent { node: "node-2".into(), why: "no answer within 5 s".to_owned() };
    let text = rates_text(&merged(std::slice::from_ref(&node), vec![silent]));
    assert!(text.contains("at least") && text.contains("node-2 does not answer"), "{text}");
    node.lost = true;
    assert!(!merged(&[node], Vec::new()).exact);
}

#[test]
fn connections_that_are_over_are_not_open() {
    let mut one = entry(
        header("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap()),
        header("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap()),
    );
    for (state, open) in [
        ("SYN_SENT", true),
        ("ESTABLISHED", true),
        ("FIN_WAIT", true),
        ("CLOSE_WAIT", true),
        ("LAST_ACK", false),
        ("TIME_WAIT", false),
        ("CLOSE", false),
    ] {
        one.state = Some(state.into());
        assert_eq!(one.is_open(), open, "{state}");
    }
    one.state = None;
    assert!(one.is_open());
}
