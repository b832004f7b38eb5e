//! Journeys: from everyone to everywhere, in both families. Each is traced, and its story held against what is known here
//! by other means: addresses of pods, Services and nodes as the API has them, and the test's own idea of who rewrites what.
//!
//! ```text
//!  node-1: client, near     node-2: far     outside        Services door-near, door-far, spare (no pods behind it)
//!          hostly (the node's network)                     bare (headless: far), alias (a name for door-far)
//! ```

use std::net::IpAddr;

use serde_json::Value;

use super::support::{self, Said, Space, World, wait_for};

const PATIENCE_SECS: u64 = 60;

/// Two pods of nginx, one on each node, and a Service with a port on every node for each.
fn objects() -> String {
    let mut text = String::new();
    for (name, node) in [("near", "node-1"), ("far", "node-2")] {
        text += &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name}, labels: {{ app: {name} }} }}\n\
             spec: {{ nodeName: {node}, containers: [{{ name: main, image: \"nginx:latest\" }}] }}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{ name: door-{name} }}\n\
             spec: {{ type: NodePort, ipFamilyPolicy: RequireDualStack, selector: {{ app: {name} }}, \
             ports: [{{ name: http, port: 80 }}] }}\n---\n"
        );
    }
    text + "apiVersion: v1\nkind: Service\nmetadata: { name: spare }\n\
            spec: { ipFamilyPolicy: RequireDualStack, selector: { app: spare }, ports: [{ port: 80 }] }\n---\n\
            apiVersion: v1\nkind: Service\nmetadata: { name: bare }\n\
            spec: { clusterIP: None, ipFamilyPolicy: RequireDualStack, selector: { app: far }, ports: [{ port: 80 }] }\n---\n\
            apiVersion: v1\nkind: Service\nmetadata: { name: alias }\n\
            spec: { type: ExternalName, externalName: door-far.trip.svc.cluster.local }\n"
}

/// Where packets go, as the API and the lab tell.
pub struct Ground {
    space: Space,
}

/// One family's addresses.
struct Addresses {
    family: &'static str,
    client: IpAddr,
    near: IpAddr,
    far: IpAddr,
    near_ip: IpAddr,
    far_ip: IpAddr,
    dns_ip: IpAddr,
    nodes: [IpAddr; 2],
    outside: IpAddr,
}

/// One packet, and what its story must say.
struct Journey {
    from: &'static str,
    to: String,
    proto: &'static str,
    end: &'static str,
    /// Nodes that saw it, in order.
    nodes: &'static str,
    /// Whom it was for in the end; `None`: nobody.
    reaches: Option<String>,
    /// As whom it comes there.
    as_source: Option<IpAddr>,
    /// Stages that must be told, in this order; others may stand between.
    stages: &'static str,
}

impl Ground {
    pub fn new(world: &'static World) -> Ground {
        let space = world.space("trip");
        space.apply(&objects());
        space.shell("client", "node-1");
        let waits = ", command: [sleep, \"3600\"]";
        space.pod("hostly", "node-1", waits, ", hostNetwork: true, terminationGracePeriodSeconds: 0");
        space.ready("hostly");
        space.ready("near");
        space.ready("far");
        let ground = Ground { space };
        ground.await_ways();
        ground
    }

    /// Rules and routes of both families are in place.
    fn await_ways(&self) {
        for addresses in self.families() {
            for ip in [addresses.near_ip, addresses.far_ip] {
                let url = format!("http://{}/", host(ip));
                for place in ["node-1", "node-2"] {
                    wait_for(&format!("{url} from {place}"), PATIENCE_SECS, || {
                        let said = self.space.world.at(place, &["curl", "-g", "-s", "-m", "5", &url]);
                        said.out.contains("Welcome to nginx").then_some(())
                    });
                }
            }
        }
    }

    fn families(&self) -> [Addresses; 2] {
        let list = |what: &str, path: &str| -> [IpAddr; 2] {
            let words = self.space.field(what, path);
            let found: Vec<IpAddr> = words.split_whitespace().map(|word| word.parse().expect(word)).collect();
            found.try_into().expect("one address a family")
        };
        let pod = |name: &str| list(&format!("pod {name}"), ".status.podIPs[*].ip");
        let service = |name: &str| list(&format!("service {name}"), ".spec.clusterIPs[*]");
        let (client, near, far) = (pod("client"), pod("near"), pod("far"));
        let (near_ip, far_ip) = (service("door-near"), service("door-far"));
        let dns_ip: [IpAddr; 2] = ["10.96.0.10", "fd00:10:96::a"].map(|ip| ip.parse().expect(ip));
        let lan = |host: &str| {
            [format!("172.18.0.{host}"), format!("fd00:172:18::{host}")].map(|ip| ip.parse().expect("an address"))
        };
        let (one, two, outside): ([IpAddr; 2], [IpAddr; 2], [IpAddr; 2]) = (lan("11"), lan("12"), lan("1"));
        [("ipv4", 0), ("ipv6", 1)].map(|(family, i)| Addresses {
            family,
            client: client[i],
            near: near[i],
            far: far[i],
            near_ip: near_ip[i],
            far_ip: far_ip[i],
            dns_ip: dns_ip[i],
            nodes: [one[i], two[i]],
            outside: outside[i],
        })
    }

    fn node_port(&self, service: &str) -> String {
        self.space.field(&format!("service {service}"), ".spec.ports[0].nodePort")
    }

    fn trace(&self, family: &str, journey: &Journey) -> (Said, Value) {
        let args = format!(
            "trace {} {} --proto {} --family {family} -n {} --output json",
            journey.from, journey.to, journey.proto, self.space.name
        );
        let said = self.space.world.portolan(&args);
        let story =
            serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{args}: {error}: {}{}", said.out, said.err));
        (said, story)
    }

    /// Traces each journey, and complains of all that differ at once.
    pub fn travel(&self) {
        let mut wrong = Vec::new();
        for addresses in self.families() {
            for journey in self.journeys(&addresses) {
                let (said, story) = self.trace(addresses.family, &journey);
                let title = format!("{} {} -> {} {}", addresses.family, journey.from, journey.to, journey.proto);
                let complaints = journey.complaints(&said, &story);
                if !complaints.is_empty() {
                    wrong.push(format!("{title}: {}\n{}", complaints.join("; "), told(&story)));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    }

    /// An agent sends for pods of its own alone, and only what it can know again.
    pub fn is_refused(&self) {
        let probe = |pod: &str, flow: &str| {
            format!(
                "{{\"pod\":{{\"namespace\":\"trip\",\"name\":\"{pod}\"}},\"to\":{{\"address\":\"10.96.0.10:53\"}},\
                 \"proto\":\"Tcp\",\"flow\":{flow},\"sourcePort\":null,\"patienceMs\":1000}}"
            )
        };
        let (sequence, payload) =
            (r#"{"by":"sequence","number":7}"#, r#"{"by":"payload","begins":"0011223344556677"}"#);
        let rows = [
            ("node-2", "client", sequence, "pod trip/client is not on this node"),
            ("node-1", "nobody", sequence, "pod trip/nobody is not on this node"),
            ("node-1", "client", payload, "a TCP probe is marked by a sequence number"),
        ];
        for (node, pod, flow, why) in rows {
            // At this level kubectl shows the words of an answer that is no Status.
            let path = format!("-v 8 create --raw /api/v1/nodes/{node}/proxy/portolan/v1/trace/none/probe -f -");
            let said = self.space.world.kubectl_in(&path, &probe(pod, flow));
            assert!(!said.ok() && said.err.contains(why), "{node} {pod}: {}{}", said.out, said.err);
        }
    }

    fn journeys(&self, of: &Addresses) -> Vec<Journey> {
        let near_port = format!("{}:{}", host(of.nodes[0]), self.node_port("door-near"));
        let far_port = format!("{}:{}", host(of.nodes[0]), self.node_port("door-far"));
        let row = |from, to: &str, end, nodes, reaches: Option<IpAddr>, as_source, stages| Journey {
            from,
            to: to.to_owned(),
            proto: "tcp",
            end,
            nodes,
            reaches: reaches.map(|ip| at(ip, 80)),
            as_source,
            stages,
        };
        let (client, [one, _]) = (Some(of.client), of.nodes);
        let mut rows = vec![
            row(
                "pod/client",
                "svc/door-near",
                "delivered",
                "node-1",
                Some(of.near),
                client,
                "arrive service dnat deliver",
            ),
            row(
                "pod/client",
                "svc/door-far:http",
                "delivered",
                "node-1 node-2",
                Some(of.far),
                client,
                "arrive service dnat route arrive deliver",
            ),
            row(
                "pod/client",
                "door-near.trip",
                "delivered",
                "node-1",
                Some(of.near),
                client,
                "dns arrive service dnat deliver",
            ),
            row(
                "pod/client",
                "pod/far:80",
                "delivered",
                "node-1 node-2",
                Some(of.far),
                client,
                "arrive route arrive deliver",
            ),
            row("pod/client", "pod/near:80", "delivered", "node-1", Some(of.near), client, "arrive deliver"),
            row("pod/client", "pod/near:81", "refused", "node-1", None, None, "arrive end"),
            row("pod/client", "svc/spare", "refused", "node-1", None, None, "arrive end"),
            row("pod/client", "bare.trip:80", "delivered", "node-1 node-2", Some(of.far), client, "dns arrive deliver"),
            row(
                "pod/client",
                "alias.trip:80",
                "delivered",
                "node-1 node-2",
                Some(of.far),
                client,
                "dns arrive service dnat arrive deliver",
            ),
            row(
                "pod/hostly",
                "svc/door-far",
                "delivered",
                "node-1 node-2",
                Some(of.far),
                Some(one),
                "arrive service dnat arrive deliver",
            ),
            row(
                "node/node-1",
                "svc/door-far",
                "delivered",
                "node-1 node-2",
                Some(of.far),
                Some(one),
                "arrive service dnat arrive deliver",
            ),
            row(
                "node/node-1",
                "svc/door-near",
                "delivered",
                "node-1",
                Some(of.near),
                Some(one),
                "arrive service dnat deliver",
            ),
            row(
                "node/node-2",
                "pod/near:80",
                "delivered",
                "node-2 node-1",
                Some(of.near),
                Some(of.nodes[1]),
                "arrive route arrive deliver",
            ),
            row(
                "pod/near",
                "svc/door-near",
                "delivered",
                "node-1",
                Some(of.near),
                None,
                "arrive service dnat snat deliver",
            ),
            row("outside", &near_port, "delivered", "node-1", Some(of.near), None, "arrive service dnat snat deliver"),
            row(
                "outside",
                &far_port,
                "delivered",
                "node-1 node-2",
                Some(of.far),
                Some(one),
                "arrive service dnat snat arrive deliver",
            ),
        ];
        // The host outside serves IPv4 alone, and refuses IPv6.
        let outside = format!("{}:80", host(of.outside));
        rows.push(match of.family {
            "ipv4" => {
                row("pod/client", &outside, "delivered", "node-1", Some(of.outside), Some(one), "arrive snat deliver")
            }
            _ => row("pod/client", &outside, "refused", "node-1", None, None, "arrive snat end"),
        });
        let dns = at(of.dns_ip, 53);
        for (from, nodes, source) in [("pod/client", "node-1", client), ("node/node-1", "node-1", None)] {
            rows.push(Journey {
                proto: "udp",
                reaches: Some(dns.clone()),
                ..row(from, "svc/kube-system/kube-dns:53", "delivered", nodes, None, source, "arrive deliver")
            });
        }
        rows.push(Journey {
            proto: "udp",
            ..row("pod/client", "pod/near:9", "refused", "node-1", None, None, "arrive end")
        });
        rows
    }
}

impl Journey {
    fn complaints(&self, said: &Said, story: &Value) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut expect = |what: &str, is: String, wanted: String| {
            if is != wanted {
                wrong.push(format!("{what} is {is}, not {wanted}"));
            }
        };
        let end = story["verdict"]["end"].as_str().unwrap_or_default();
        expect("the end", end.to_owned(), self.end.to_owned());
        let code = if self.end == "delivered" { 0 } else { 1 };
        expect("the exit code", format!("{:?}", said.code), format!("{:?}", Some(code)));
        expect("what differs from the oracle", story["oracle"]["differs"].to_string(), "null".to_owned());
        expect("the way of nodes", nodes(story), self.nodes.to_owned());
        let stages = stages(story);
        let mut left = stages.split(' ');
        if !self.stages.split(' ').all(|stage| left.any(|told| told == stage)) {
            expect("the way of stages", stages, self.stages.to_owned());
        }
        let (source, destination) = last_header(story);
        if let Some(reaches) = &self.reaches {
            expect("its last destination", destination, reaches.clone());
        }
        if let Some(as_source) = self.as_source {
            let is = source.rsplit_once(':').map(|(ip, _)| ip.trim_matches(['[', ']']).to_owned()).unwrap_or_default();
            expect("its last source", is, as_source.to_string());
        }
        if self.end == "delivered" {
            let back = story["back"].as_array().map_or(0, Vec::len);
            expect("that an answer came back", (back > 0).to_string(), "true".to_owned());
        }
        wrong
    }
}

fn hops(story: &Value) -> impl Iterator<Item = &Value> {
    story["hops"].as_array().into_iter().flatten()
}

fn nodes(story: &Value) -> String {
    let mut nodes: Vec<&str> = hops(story).filter_map(|hop| hop["node"].as_str()).collect();
    nodes.dedup();
    nodes.join(" ")
}

fn stages(story: &Value) -> String {
    hops(story).filter_map(|hop| hop["stage"].as_str()).collect::<Vec<_>>().join(" ")
}

/// Source and destination as the last hop that names both tells them, `… SOURCE → DESTINATION`.
fn last_header(story: &Value) -> (String, String) {
    let ends = |hop: &Value| matches!(hop["stage"].as_str(), Some("arrive" | "deliver"));
    let says = hops(story).filter(|hop| ends(hop)).filter_map(|hop| hop["says"].as_str()).last().unwrap_or_default();
    let (before, destination) = says.split_once(" → ").unwrap_or_default();
    (before.rsplit(' ').next().unwrap_or_default().to_owned(), destination.to_owned())
}

/// The story in short, for who reads a failure.
fn told(story: &Value) -> String {
    let mut lines = vec![format!("  {} | {}", story["verdict"]["says"], story["verdict"]["because"])];
    for way in ["hops", "back"] {
        for hop in story[way].as_array().into_iter().flatten() {
            lines.push(format!("  {way} {} {} {} {}", hop["stage"], hop["node"], hop["says"], hop["change"]));
        }
    }
    lines.join("\n")
}

fn host(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

fn at(ip: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(ip, port).to_string()
}

/// The lab of one mode.
pub fn world(name: &'static str, mode: portolan_lab::ProxyMode) -> &'static World {
    support::world_with(name, |config| {
        config.ip_family = portolan_lab::IpFamily::Dual;
        config.proxy_mode = mode;
    })
}
