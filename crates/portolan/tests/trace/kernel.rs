//! Faults that another's hand makes in a node's kernel: the rule, route or entry is named, and what it did.

use portolan_story::story::{End, Stage};

use crate::support::{Space, World};
use crate::world::{address, at, delivered, ends, service, trace};

/// A foreign rule that drops what is forwarded to the server.
pub fn foreign_drop(world: &World, space: Space) {
    let rule = format!("FORWARD -d {} -p tcp --dport 80 -m comment --comment panic -j DROP", address(space, "web"));
    at(world, "node-2", &format!("iptables -I {rule}"));
    let told = ends(world, "pod/client svc/open", End::Dropped, &["FORWARD", "node-2", "panic"]);
    assert!(told.story.hops.iter().any(|hop| hop.node.as_deref() == Some("node-1")), "node-1's part is told too");
    at(world, "node-2", &format!("iptables -D {rule}"));
    delivered(world, "pod/client svc/open");
}

/// The same, that refuses.
pub fn foreign_reject(world: &World, space: Space) {
    let rule =
        format!("FORWARD -d {} -p tcp --dport 80 -j REJECT --reject-with icmp-admin-prohibited", address(space, "web"));
    at(world, "node-1", &format!("iptables -I {rule}"));
    ends(world, "pod/client svc/open", End::Refused, &["FORWARD", "node-1", "REJECT"]);
    at(world, "node-1", &format!("iptables -D {rule}"));
    delivered(world, "pod/client svc/open");
}

/// A foreign rule lets a Service's packets through before ours: it is bypassed, and the oracle says so.
pub fn bypassed(world: &World, space: Space, hook: &str, from: &str) {
    let cluster_ip = space.field("service open", ".spec.clusterIP");
    let rule = format!("{hook} -t nat -d {cluster_ip} -p tcp --dport 80 -j ACCEPT");
    at(world, "node-1", &format!("iptables -I {rule}"));
    let told = ends(world, &format!("{from} {cluster_ip}:80"), End::Unanswered, &[hook, "ACCEPT", "node-1"]);
    assert!(told.story.oracle.differs.is_some(), "by what the Service promises it goes to an endpoint");
    at(world, "node-1", &format!("iptables -D {rule}"));
    delivered(world, &format!("{from} {cluster_ip}:80"));
}

/// A conntrack entry from before sends a packet where no rule would.
pub fn stale_entry(world: &World, space: Space) {
    let cluster_ip = space.field("service open", ".spec.clusterIP");
    let rule = format!("PREROUTING -t nat -d {cluster_ip} -p tcp --dport 80 -j DNAT --to-destination 192.0.2.9:80");
    let question = format!("pod/client {cluster_ip}:80 --source-port 40123");
    at(world, "node-1", &format!("iptables -I {rule}"));
    ends(world, &question, End::Unanswered, &["DNAT"]);
    at(world, "node-1", &format!("iptables -D {rule}"));
    let told = trace(world, &question);
    assert_eq!(told.story.verdict.end, End::Unanswered, "{}", told.verdict());
    let verdict = told.verdict();
    assert!(verdict.contains("conntrack") && verdict.contains("192.0.2.9:80"), "{verdict}");
    at(world, "node-1", "conntrack -D -p tcp --sport 40123");
    delivered(world, &question);
}

/// A route to the server alone leads nowhere.
pub fn blackhole(world: &World, space: Space) {
    let server = address(space, "web");
    at(world, "node-1", &format!("ip route add blackhole {server}/32"));
    ends(world, "pod/client svc/open", End::Unroutable, &["blackhole", "node-1"]);
    at(world, "node-1", &format!("ip route del blackhole {server}/32"));
    delivered(world, "pod/client svc/open");
}

/// Nobody has the address: it was a pod's, or never was.
pub fn pod_gone(world: &World, space: Space) {
    let server: std::net::Ipv4Addr = address(space, "web").parse().expect("an address");
    let mut octets = server.octets();
    octets[3] = octets[3] / 64 * 64 + 62;
    let nobody = std::net::Ipv4Addr::from(octets);
    ends(world, &format!("pod/client {nobody}:80"), End::Unroutable, &["no pod has", "node-2"]);
}

/// The pod's own network drops what arrives.
pub fn walled_in(world: &World, space: Space) {
    let place = format!("pod/{}/walled", space.name);
    at(world, &place, "iptables -A INPUT -p tcp --dport 80 -j DROP");
    let told = ends(world, "pod/client pod/walled:80", End::Unanswered, &["walled"]);
    assert!(told.story.hops.iter().any(|hop| hop.stage == Stage::Deliver), "it arrived: {:#?}", told.story.hops);
    at(world, &place, "iptables -D INPUT -p tcp --dport 80 -j DROP");
    delivered(world, "pod/client pod/walled:80");
}

/// Nothing passes between the nodes: first in silence, then the route goes with its BGP session.
pub fn cut(world: &World) {
    let (a, b) = (portolan_lab::Place::Node(1), portolan_lab::Place::Node(2));
    world.lab().cut(&a, &b).expect("it is cut");
    ends(world, "pod/client svc/open", End::Unanswered, &["node-1 has no route to", "BGP session with node-2 is down"]);
    world.lab().heal(&a, &b).expect("it is healed");
    delivered(world, "pod/client svc/open");
}

/// The Service that all of these break.
pub fn begin(space: Space) {
    space.apply(&service("open", "{ selector: { app: web }, ports: [{ port: 80 }] }"));
}
