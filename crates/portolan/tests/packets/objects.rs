//! Services and their slices, short enough for a table of cases.
//!
//! Service number `n` has ClusterIP 10.96.0.n, node port 30000+n, external address 203.0.113.n and balancer address
//! 198.51.100.n, the same with IPv6, and offers port 80 by TCP, UDP and SCTP to port 8080 of its endpoints.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::ground::{self, NODE_1, addresses, pair};

/// For `--service-cidr`.
pub const SERVICE_RANGES: &str = "10.96.0.0/12,fd00:10:96::/112";
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// One Service with its endpoints.
#[derive(Clone)]
pub struct Service {
    pub number: u8,
    /// Merged into `spec`.
    spec: Value,
    labels: Value,
    has_externals: bool,
    ip_mode: Option<&'static str>,
    /// Port, then `place word word…`, with commas between.
    slices: Vec<(u16, &'static str)>,
    slice_port_prefix: &'static str,
}

pub fn service(number: u8) -> Service {
    Service {
        number,
        spec: json!({}),
        labels: json!({}),
        has_externals: false,
        ip_mode: None,
        slices: Vec::new(),
        slice_port_prefix: "",
    }
}

impl Service {
    pub fn spec(mut self, more: Value) -> Service {
        merge(&mut self.spec, more);
        self
    }

    pub fn node_port(self) -> Service {
        self.spec(json!({ "type": "NodePort" }))
    }

    /// With a node port, a balancer's address and an external one: reachable in every way.
    pub fn everywhere(mut self) -> Service {
        self.has_externals = true;
        self.spec(json!({ "type": "LoadBalancer" }))
    }

    pub fn external_local(self) -> Service {
        self.spec(json!({ "externalTrafficPolicy": "Local" }))
    }

    pub fn ranges(self, ranges: &[&str]) -> Service {
        self.spec(json!({ "loadBalancerSourceRanges": ranges }))
    }

    pub fn affinity(self, secs: u32) -> Service {
        let config = json!({ "clientIP": { "timeoutSeconds": secs } });
        self.spec(json!({ "sessionAffinity": "ClientIP", "sessionAffinityConfig": config }))
    }

    pub fn label(mut self, key: &str, value: &str) -> Service {
        merge(&mut self.labels, json!({ key: value }));
        self
    }

    pub fn ip_mode(mut self, mode: &'static str) -> Service {
        self.ip_mode = Some(mode);
        self
    }

    /// `a1, b1 terminating, a2 unready`; also `dying`, `zone=…`, `node=…` (hints).
    pub fn endpoints(self, list: &'static str) -> Service {
        self.endpoints_at(8080, list)
    }

    pub fn endpoints_at(mut self, port: u16, list: &'static str) -> Service {
        self.slices.push((port, list));
        self
    }

    /// Ports of the slices are named otherwise than those of the Service.
    pub fn misnamed(mut self) -> Service {
        self.slice_port_prefix = "other-";
        self
    }

    pub fn objects(&self) -> Vec<Value> {
        let families = [("IPv4", 0), ("IPv6", 1)];
        let slices = self.slices.iter().enumerate().flat_map(|(index, (port, list))| {
            families.map(|(name, family)| {
                self.slice(&format!("{index}-{}", name.to_lowercase()), name, family, *port, list)
            })
        });
        [self.object()].into_iter().chain(slices).collect()
    }

    fn name(&self) -> String {
        format!("svc-{}", self.number)
    }

    fn object(&self) -> Value {
        let kind = self.spec.get("type").and_then(Value::as_str).unwrap_or("ClusterIP").to_owned();
        let ports = PROTOCOLS.map(|protocol| {
            let mut port =
                json!({ "name": protocol.to_lowercase(), "protocol": protocol, "port": 80, "targetPort": 8080 });
            if kind != "ClusterIP" {
                port["nodePort"] = json!(30000 + u16::from(self.number));
            }
            port
        });
        let ips = texts(cluster_ip(self.number));
        let mut spec = json!({ "type": kind, "clusterIP": ips[0], "clusterIPs": ips, "ports": ports,
            "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack" });
        if self.has_externals {
            spec["externalIPs"] = json!(texts(external(self.number)));
        }
        merge(&mut spec, self.spec.clone());
        let mut status = json!({});
        if kind == "LoadBalancer" {
            let ingress = texts(balancer(self.number)).map(|ip| match self.ip_mode {
                Some(mode) => json!({ "ip": ip, "ipMode": mode }),
                None => json!({ "ip": ip }),
            });
            status = json!({ "loadBalancer": { "ingress": ingress } });
        }
        json!({ "apiVersion": "v1", "kind": "Service", "spec": spec, "status": status,
            "metadata": { "name": self.name(), "namespace": "default", "labels": self.labels } })
    }

    fn slice(&self, suffix: &str, address_type: &str, family: usize, port: u16, list: &str) -> Value {
        let endpoints: Vec<Value> =
            list.split(',').map(str::trim).filter(|one| !one.is_empty()).map(|one| endpoint(one, family)).collect();
        let ports = PROTOCOLS.map(|protocol| {
            let name = format!("{}{}", self.slice_port_prefix, protocol.to_lowercase());
            json!({ "name": name, "protocol": protocol, "port": port })
        });
        json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": address_type,
            "metadata": { "name": format!("{}-{suffix}", self.name()), "namespace": "default",
                "labels": { "kubernetes.io/service-name": self.name() } },
            "ports": ports, "endpoints": endpoints })
    }
}

fn endpoint(text: &str, family: usize) -> Value {
    let mut words = text.split_whitespace();
    let place = words.next().expect("an endpoint has a place");
    let (mut ready, mut serving, mut terminating) = (true, true, false);
    let (mut zones, mut nodes) = (Vec::new(), Vec::new());
    for word in words {
        match word.split_once('=') {
            Some(("zone", zone)) => zones.push(json!({ "name": zone })),
            Some(("node", node)) => nodes.push(json!({ "name": node })),
            _ if word == "unready" => (ready, serving) = (false, false),
            _ if word == "terminating" => (ready, terminating) = (false, true),
            _ if word == "dying" => (ready, serving, terminating) = (false, false, true),
            _ => panic!("an endpoint cannot be {word}"),
        }
    }
    let mut hints = json!({});
    if !zones.is_empty() {
        hints["forZones"] = json!(zones);
    }
    if !nodes.is_empty() {
        hints["forNodes"] = json!(nodes);
    }
    let node = if place.starts_with('a') { NODE_1 } else { "node-2" };
    json!({ "addresses": [addresses(place)[family].to_string()], "nodeName": node, "hints": hints,
        "conditions": { "ready": ready, "serving": serving, "terminating": terminating } })
}

/// Both Nodes; node-1 in this zone.
pub fn nodes(zone: Option<&str>) -> Vec<Value> {
    let node = |name: &str, zone: Option<&str>, number: u8| {
        let labels = zone.map_or(json!({}), |zone| json!({ "topology.kubernetes.io/zone": zone }));
        let internal = texts(addresses(name)).map(|ip| json!({ "type": "InternalIP", "address": ip }));
        let cidrs = [format!("10.244.{number}.0/24"), format!("fd00:10:244:{number}::/64")];
        json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": labels },
            "spec": { "podCIDR": cidrs[0], "podCIDRs": cidrs },
            "status": { "addresses": internal, "conditions": [{ "type": "Ready", "status": "True" }] } })
    };
    vec![node(NODE_1, zone, 1), node("node-2", Some("west"), 2)]
}

/// A Pod at a place of node-1, whose port 8080 is a port of the node too.
pub fn pod_with_host_port(place: &str, port: u16) -> Value {
    let ips = texts(addresses(place));
    let ports = PROTOCOLS.map(|protocol| json!({ "containerPort": 8080, "hostPort": port, "protocol": protocol }));
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": place, "namespace": "default", "uid": place },
        "spec": { "nodeName": NODE_1, "containers": [{ "name": "main", "image": "main", "ports": ports }] },
        "status": { "phase": "Running", "podIP": ips[0], "podIPs": ips.map(|ip| json!({ "ip": ip })) } })
}

fn merge(into: &mut Value, more: Value) {
    let more = more.as_object().expect("an object").clone();
    into.as_object_mut().expect("an object").extend(more);
}

fn texts(pair: [IpAddr; 2]) -> [String; 2] {
    pair.map(|addr| addr.to_string())
}

pub fn cluster_ip(number: u8) -> [IpAddr; 2] {
    pair("10.96.0.", "fd00:10:96::", number.into())
}

pub fn external(number: u8) -> [IpAddr; 2] {
    pair("203.0.113.", "2001:db8:e::", number.into())
}

pub fn balancer(number: u8) -> [IpAddr; 2] {
    pair("198.51.100.", "2001:db8:f::", number.into())
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    ClusterIp(u8),
    /// A port of the ClusterIP that the Service does not have.
    OtherPort(u8),
    External(u8),
    Balancer(u8),
    /// The node port, at the node's own address.
    NodePort(u8),
    /// The same, at an address of the node that its Node object does not list.
    NodePortAtSecond(u8),
    /// The same, at loopback.
    NodePortAtLoopback(u8),
    /// A port of the node.
    Node(u16),
}

impl To {
    /// IPv4 and IPv6.
    pub fn targets(self) -> [SocketAddr; 2] {
        let node_port = |number: u8| 30000 + u16::from(number);
        let loopback = ["127.0.0.1", "::1"].map(|text| text.parse().expect("a literal address"));
        let (addresses, port) = match self {
            To::ClusterIp(number) => (cluster_ip(number), 80),
            To::OtherPort(number) => (cluster_ip(number), 81),
            To::External(number) => (external(number), 80),
            To::Balancer(number) => (balancer(number), 80),
            To::NodePort(number) => (addresses(NODE_1), node_port(number)),
            To::NodePortAtSecond(number) => (ground::second_addresses(NODE_1), node_port(number)),
            To::NodePortAtLoopback(number) => (loopback, node_port(number)),
            To::Node(port) => (addresses(NODE_1), port),
        };
        addresses.map(|addr| SocketAddr::new(addr, port))
    }
}
