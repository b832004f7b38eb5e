//! Flows: every source to every kind of address under every policy, with and without a detector, with and without
//! masquerading all. Which endpoints answer, and whose address they see.

use super::*;
use crate::proxy::{DetectLocal, ProxySettings};

/// A detector or none, masquerading all or not: the columns of the tables.
fn columns() -> [ProxySettings; 4] {
    let default = ProxySettings::default;
    let blind = ProxySettings { detect_local: DetectLocal::Nothing, ..default() };
    [
        default(),
        blind.clone(),
        ProxySettings { masquerade_all: true, ..default() },
        ProxySettings { masquerade_all: true, ..blind },
    ]
}

/// One row: who asks, where, and what is right in each column: `all` endpoints or the `here`, a `+` if masqueraded.
type Row = (&'static str, &'static str, [&'static str; 4]);

/// Policy Cluster both ways.
const PLAIN: [Row; 12] = [
    ("pod", "cluster", ["all", "all", "all+", "all+"]),
    ("node", "cluster", ["all+", "all", "all+", "all+"]),
    ("outside", "cluster", ["all+", "all", "all+", "all+"]),
    ("pod", "node port", ["all+", "all+", "all+", "all+"]),
    ("node", "node port", ["all+", "all+", "all+", "all+"]),
    ("outside", "node port", ["all+", "all+", "all+", "all+"]),
    ("pod", "balancer", ["all+", "all+", "all+", "all+"]),
    ("node", "balancer", ["all+", "all+", "all+", "all+"]),
    ("outside", "balancer", ["all+", "all+", "all+", "all+"]),
    ("pod", "external", ["all+", "all+", "all+", "all+"]),
    ("node", "external", ["all+", "all+", "all+", "all+"]),
    ("outside", "external", ["all+", "all+", "all+", "all+"]),
];

/// External policy Local: insiders as if they came back from a balancer; a pod that nobody detects is an outsider.
const EXTERNAL_LOCAL: [Row; 12] = [
    ("pod", "cluster", ["all", "all", "all+", "all+"]),
    ("node", "cluster", ["all+", "all", "all+", "all+"]),
    ("outside", "cluster", ["all+", "all", "all+", "all+"]),
    ("pod", "node port", ["all", "here", "all", "here"]),
    ("node", "node port", ["all+", "all+", "all+", "all+"]),
    ("outside", "node port", ["here", "here", "here", "here"]),
    ("pod", "balancer", ["all", "here", "all", "here"]),
    ("node", "balancer", ["all+", "all+", "all+", "all+"]),
    ("outside", "balancer", ["here", "here", "here", "here"]),
    ("pod", "external", ["all", "here", "all", "here"]),
    ("node", "external", ["all+", "all+", "all+", "all+"]),
    ("outside", "external", ["here", "here", "here", "here"]),
];

/// Internal policy Local touches the ClusterIP and nothing else.
const INTERNAL_LOCAL: [Row; 12] = [
    ("pod", "cluster", ["here", "here", "here+", "here+"]),
    ("node", "cluster", ["here+", "here", "here+", "here+"]),
    ("outside", "cluster", ["here+", "here", "here+", "here+"]),
    ("pod", "node port", ["all+", "all+", "all+", "all+"]),
    ("node", "node port", ["all+", "all+", "all+", "all+"]),
    ("outside", "node port", ["all+", "all+", "all+", "all+"]),
    ("pod", "balancer", ["all+", "all+", "all+", "all+"]),
    ("node", "balancer", ["all+", "all+", "all+", "all+"]),
    ("outside", "balancer", ["all+", "all+", "all+", "all+"]),
    ("pod", "external", ["all+", "all+", "all+", "all+"]),
    ("node", "external", ["all+", "all+", "all+", "all+"]),
    ("outside", "external", ["all+", "all+", "all+", "all+"]),
];

fn wanted(word: &str) -> &'static [Wanted] {
    match word {
        "all" => &[To(HERE), To(THERE)],
        "all+" => &[Masqueraded(HERE), Masqueraded(THERE)],
        "here" => &[To(HERE)],
        "here+" => &[Masqueraded(HERE)],
        other => panic!("{other} is no word of the tables"),
    }
}

fn check(rows: &[Row], change: fn(&mut Service)) {
    for (column, proxy) in columns().into_iter().enumerate() {
        let world = World::new().with(|w| {
            change(&mut w.service);
            w.settings.proxy = proxy;
        });
        for (from, to, cells) in rows {
            let source = match *from {
                "pod" => OTHER_POD,
                "node" => NODE,
                _ => OUTSIDE,
            };
            let (destination, port) = match *to {
                "cluster" => (CLUSTER_IP, 80),
                "node port" => (NODE, 30080),
                "balancer" => (BALANCER_IP, 80),
                _ => (EXTERNAL_IP, 80),
            };
            world.check(source, destination, port, wanted(cells[column]));
        }
    }
}

#[test]
fn thirty_six_flows_under_four_settings_reach_whom_policy_says_under_the_right_address() {
    check(&PLAIN, |_| {});
    check(&EXTERNAL_LOCAL, |service| service.external_policy = ExternalPolicy::Local);
    check(&INTERNAL_LOCAL, |service| service.internal_local = true);
}

#[test]
fn both_policies_local_each_touch_their_own_addresses() {
    let world = World::new().with(|w| {
        w.service.external_policy = ExternalPolicy::Local;
        w.service.internal_local = true;
    });
    world.check(OTHER_POD, CLUSTER_IP, 80, wanted("here"));
    world.check(OTHER_POD, NODE, 30080, wanted("all"));
    world.check(OUTSIDE, NODE, 30080, wanted("here"));
}

#[test]
fn each_protocol_of_one_number_has_endpoints_of_its_own() {
    let snapshot = {
        let key = NsName::new("default", "web");
        let protos = [Proto::Tcp, Proto::Udp, Proto::Sctp];
        let port = |proto: Proto| ServicePortFact { name: proto.lower().into(), proto, port: 80, node_port: 0 };
        let service = Service { cluster_ips: both(CLUSTER_IP), ports: protos.map(port).to_vec(), ..Service::default() };
        let mut facts = Facts::default();
        facts.apply(Fact::Service(key.clone(), Some(service)));
        for (number, proto) in protos.into_iter().enumerate() {
            let ports = vec![SlicePort { name: proto.lower().into(), proto, port: 8080 + number as u16 }];
            let endpoints = vec![EndpointFact::ready_at(ip(THERE[0]))];
            let slice = Slice { service: key.clone(), family: Family::V4, ports, endpoints };
            facts.apply(Fact::Slice(NsName::new("default", proto.lower()), Some(slice)));
        }
        resolve(&facts, &Snapshot::empty(Arc::new(World::new().settings)), &facts.all()).0
    };
    for (proto, port) in [(Proto::Tcp, 8080), (Proto::Udp, 8081), (Proto::Sctp, 8082)] {
        let packet = Packet { proto, ..packet(&snapshot, OTHER_POD[0], CLUSTER_IP[0], 80) };
        let to = SocketAddr::new(ip(THERE[0]), port);
        assert_eq!(judge(&snapshot, &packet, Mode::Iptables), [Outcome::Dnat { to, masquerade: false }].into());
    }
}
