//! A cluster that changes at random, and what its objects ask of one node, said plainly and by nobody else's code.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

pub const NODE: &str = "node-1";
pub const NODE_ADDRESSES: [&str; 2] = ["172.18.0.11", "fd00:18::11"];
pub const POD_RANGES: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/48"];
pub const SERVICE_RANGES: [&str; 2] = ["10.96.0.0/12", "fd00:10:96::/112"];
/// Services there may be at most; number `n` has its own addresses and ports.
const SERVICES: usize = 60;
const ENDPOINTS: u16 = 40;
const SOURCE_RANGES: [&str; 4] = ["192.0.2.0/24", "198.18.0.0/15", "2001:db8:1::/48", "2001:db8:2::/47"];

/// Numbers that look random and come again with the same seed (xorshift64*).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    pub fn one_in(&mut self, sides: usize) -> bool {
        self.below(sides) == 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    ClusterIp,
    NodePort,
    LoadBalancer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    Unready,
    /// Ending, and still serving.
    Draining,
    Dead,
}

#[derive(Clone, Debug)]
struct Service {
    kind: Kind,
    has_externals: bool,
    has_ranges: bool,
    internal_local: bool,
    external_local: bool,
    affinity: bool,
    /// Which of the protocols it offers.
    protocols: BTreeSet<usize>,
    /// By the last part of the address; even ones are on this node.
    endpoints: BTreeMap<u16, State>,
}

const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// All Services, by number.
#[derive(Default)]
pub struct World {
    services: BTreeMap<usize, Service>,
}

/// Where packets are sent: protocol in lower case, port, and the address, or any address of the node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Destination {
    pub addr: Option<IpAddr>,
    pub proto: String,
    pub port: u16,
}

/// What one family's rules come to, whatever they look like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meaning {
    /// Endpoints for whoever asks; with external policy Local for pods and the node.
    pub sent: BTreeMap<Destination, BTreeSet<SocketAddr>>,
    /// Endpoints for whoever comes from outside, where that is another list.
    pub sent_from_outside: BTreeMap<Destination, BTreeSet<SocketAddr>>,
    pub refused: BTreeSet<Destination>,
    /// Nobody here for who comes from outside; for a ClusterIP nobody here at all.
    pub dropped: BTreeSet<Destination>,
    /// Let in to a balancer's address.
    pub let_in: BTreeMap<Destination, BTreeSet<String>>,
    /// Destinations whose clients stay, in seconds.
    pub stays: BTreeMap<Destination, u32>,
}

impl World {
    /// One change of one Service or of one of its endpoints; says whose.
    pub fn change(&mut self, dice: &mut Dice) -> usize {
        let number = dice.below(SERVICES);
        let Some(service) = self.services.get_mut(&number) else {
            self.services.insert(number, Service::any(dice));
            return number;
        };
        match dice.below(24) {
            0 => drop(self.services.remove(&number)),
            1 => service.kind = [Kind::ClusterIp, Kind::NodePort, Kind::LoadBalancer][dice.below(3)],
            2 => service.has_externals ^= true,
            3 => service.has_ranges ^= true,
            4 => service.internal_local ^= true,
            5 => service.external_local ^= true,
            6 => service.affinity ^= true,
            7 => service.flip_protocol(dice.below(3)),
            8 => service.endpoints.clear(),
            9..=14 => drop(service.endpoints.insert(2 + dice.below(usize::from(ENDPOINTS)) as u16, any_state(dice))),
            15..=19 => service.lose_endpoint(dice),
            _ => service.change_endpoint(dice),
        }
        number
    }

    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// The objects of one Service; `None` if it is gone.
    pub fn objects(&self, number: usize) -> Option<Value> {
        let service = self.services.get(&number)?;
        let slices = [0, 1].map(|family| service.slice(number, family));
        let items: Vec<Value> = [service.object(number)].into_iter().chain(slices).collect();
        Some(json!({ "apiVersion": "v1", "kind": "List", "items": items }))
    }

    /// What all of it asks of this node, IPv4 (0) or IPv6 (1).
    pub fn meaning(&self, family: usize) -> Meaning {
        let mut meaning = Meaning::default();
        for (number, service) in &self.services {
            for protocol in &service.protocols {
                service.mean(*number, *protocol, family, &mut meaning);
            }
        }
        meaning
    }
}

impl Service {
    fn any(dice: &mut Dice) -> Service {
        let most = if dice.one_in(5) { 40 } else { 6 };
        let endpoints = (0..dice.below(most)).map(|_| (2 + dice.below(usize::from(ENDPOINTS)) as u16, any_state(dice)));
        Service {
            endpoints: endpoints.collect(),
            kind: [Kind::ClusterIp, Kind::NodePort, Kind::LoadBalancer][dice.below(3)],
            has_externals: dice.one_in(4),
            has_ranges: dice.one_in(4),
            internal_local: dice.one_in(4),
            external_local: dice.one_in(3),
            affinity: dice.one_in(4),
            protocols: [dice.below(3), dice.below(3)].into(),
        }
    }

    /// A Service has one port at least.
    fn flip_protocol(&mut self, protocol: usize) {
        if !self.protocols.remove(&protocol) || self.protocols.is_empty() {
            self.protocols.insert(protocol);
        }
    }

    fn any_endpoint(&self, dice: &mut Dice) -> Option<u16> {
        let all: Vec<u16> = self.endpoints.keys().copied().collect();
        (!all.is_empty()).then(|| all[dice.below(all.len())])
    }

    fn lose_endpoint(&mut self, dice: &mut Dice) {
        if let Some(number) = self.any_endpoint(dice) {
            self.endpoints.remove(&number);
        }
    }

    fn change_endpoint(&mut self, dice: &mut Dice) {
        if let Some(number) = self.any_endpoint(dice) {
            self.endpoints.insert(number, any_state(dice));
        }
    }

    fn stay_secs(number: usize) -> u32 {
        [600, 10_800][number % 2]
    }

    fn object(&self, number: usize) -> Value {
        let has_node_ports = self.kind != Kind::ClusterIp;
        let ports: Vec<Value> = self
            .protocols
            .iter()
            .map(|protocol| {
                let name = PROTOCOLS[*protocol];
                let mut port = json!({ "name": name.to_lowercase(), "protocol": name, "port": 80 });
                if has_node_ports {
                    port["nodePort"] = json!(node_port(number));
                }
                port
            })
            .collect();
        let policy = |local: bool| if local { "Local" } else { "Cluster" };
        let ips = both(|family| cluster_ip(number, family).to_string());
        let mut spec = json!({ "clusterIP": ips[0], "clusterIPs": ips, "ports": ports, "type": format!("{:?}", self.kind),
            "internalTrafficPolicy": policy(self.internal_local) });
        if self.kind == Kind::ClusterIp {
            spec["type"] = json!("ClusterIP");
        }
        if has_node_ports || self.has_externals {
            spec["externalTrafficPolicy"] = json!(policy(self.external_local));
        }
        if self.has_externals {
            spec["externalIPs"] = json!(both(|family| external(number, family).to_string()));
        }
        if self.has_ranges {
            spec["loadBalancerSourceRanges"] = json!(SOURCE_RANGES);
        }
        if self.affinity {
            spec["sessionAffinity"] = json!("ClientIP");
            spec["sessionAffinityConfig"] = json!({ "clientIP": { "timeoutSeconds": Self::stay_secs(number) } });
        }
        let mut status = json!({});
        if self.kind == Kind::LoadBalancer {
            let ingress = both(|family| json!({ "ip": balancer(number, family).to_string() }));
            status = json!({ "loadBalancer": { "ingress": ingress } });
        }
        json!({ "apiVersion": "v1", "kind": "Service", "spec": spec, "status": status,
            "metadata": { "name": format!("svc-{number}"), "namespace": "default" } })
    }

    fn slice(&self, number: usize, family: usize) -> Value {
        let endpoints: Vec<Value> =
            self.endpoints.iter().map(|(last, state)| endpoint(*last, *state, family)).collect();
        let ports: Vec<Value> = PROTOCOLS
            .iter()
            .map(|name| json!({ "name": name.to_lowercase(), "protocol": name, "port": 8080 }))
            .collect();
        let address_type = ["IPv4", "IPv6"][family];
        json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "ports": ports, "endpoints": endpoints,
            "addressType": address_type,
            "metadata": { "name": format!("svc-{number}-{family}"), "namespace": "default",
                "labels": { "kubernetes.io/service-name": format!("svc-{number}") } } })
    }

    /// Ready ones, else draining ones; of this node only, or of all.
    fn list(&self, family: usize, only_here: bool) -> BTreeSet<SocketAddr> {
        let of = |wanted: State| -> BTreeSet<SocketAddr> {
            let fits = |(last, state): &(&u16, &State)| **state == wanted && (!only_here || is_here(**last));
            let chosen = self.endpoints.iter().filter(fits);
            chosen.map(|(last, _)| SocketAddr::new(pod(*last, family), 8080)).collect()
        };
        let ready = of(State::Ready);
        if ready.is_empty() { of(State::Draining) } else { ready }
    }

    fn mean(&self, number: usize, protocol: usize, family: usize, meaning: &mut Meaning) {
        let at =
            |addr: Option<IpAddr>, port: u16| Destination { addr, proto: PROTOCOLS[protocol].to_lowercase(), port };
        let (all, here) = (self.list(family, false), self.list(family, true));
        let internal = at(Some(cluster_ip(number, family)), 80);
        let mut externals = Vec::new();
        if self.has_externals {
            externals.push(at(Some(external(number, family)), 80));
        }
        if self.kind == Kind::LoadBalancer {
            externals.push(at(Some(balancer(number, family)), 80));
        }
        if self.kind != Kind::ClusterIp {
            externals.push(at(None, node_port(number)));
        }
        if all.is_empty() {
            meaning.refused.extend(externals.into_iter().chain([internal]));
            return;
        }
        if self.kind == Kind::LoadBalancer && self.has_ranges {
            let ranges = SOURCE_RANGES.iter().filter(|range| range.contains(':') == (family == 1));
            let ranges = ranges.map(|range| (*range).to_owned()).collect();
            meaning.let_in.insert(at(Some(balancer(number, family)), 80), ranges);
        }
        let internal_list = if self.internal_local { here.clone() } else { all.clone() };
        self.send(internal, internal_list, number, meaning);
        for external in externals {
            self.send(external.clone(), all.clone(), number, meaning);
            if self.external_local && here.is_empty() {
                meaning.dropped.insert(external);
            } else if self.external_local {
                meaning.sent_from_outside.insert(external, here.clone());
            }
        }
    }

    fn send(&self, to: Destination, list: BTreeSet<SocketAddr>, number: usize, meaning: &mut Meaning) {
        if list.is_empty() {
            meaning.dropped.insert(to);
            return;
        }
        if self.affinity {
            meaning.stays.insert(to.clone(), Self::stay_secs(number));
        }
        meaning.sent.insert(to, list);
    }
}

fn any_state(dice: &mut Dice) -> State {
    [State::Ready, State::Ready, State::Ready, State::Unready, State::Draining, State::Dead][dice.below(6)]
}

fn endpoint(last: u16, state: State, family: usize) -> Value {
    let conditions = match state {
        State::Ready => json!({ "ready": true, "serving": true, "terminating": false }),
        State::Unready => json!({ "ready": false, "serving": false, "terminating": false }),
        State::Draining => json!({ "ready": false, "serving": true, "terminating": true }),
        State::Dead => json!({ "ready": false, "serving": false, "terminating": true }),
    };
    let node = if is_here(last) { NODE } else { "node-2" };
    json!({ "addresses": [pod(last, family).to_string()], "nodeName": node, "conditions": conditions })
}

fn is_here(last: u16) -> bool {
    last.is_multiple_of(2)
}

fn both<T>(mut of: impl FnMut(usize) -> T) -> [T; 2] {
    [of(0), of(1)]
}

fn addr(heads: [&str; 2], family: usize, last: usize) -> IpAddr {
    format!("{}{last}", heads[family]).parse().expect("a literal address")
}

fn cluster_ip(number: usize, family: usize) -> IpAddr {
    addr(["10.96.1.", "fd00:10:96::"], family, 10 + number)
}

fn external(number: usize, family: usize) -> IpAddr {
    addr(["203.0.113.", "2001:db8:e::"], family, 10 + number)
}

fn balancer(number: usize, family: usize) -> IpAddr {
    addr(["198.51.100.", "2001:db8:f::"], family, 10 + number)
}

fn pod(last: u16, family: usize) -> IpAddr {
    addr(["10.244.1.", "fd00:10:244:1::"], family, last.into())
}

fn node_port(number: usize) -> u16 {
    30000 + number as u16
}

/// The Node that the proxy runs on.
pub fn node() -> Value {
    let addresses: Vec<Value> =
        NODE_ADDRESSES.iter().map(|ip| json!({ "type": "InternalIP", "address": ip })).collect();
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": NODE },
        "spec": { "podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"] },
        "status": { "addresses": addresses, "conditions": [{ "type": "Ready", "status": "True" }] } })
}
