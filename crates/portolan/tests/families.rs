//! A lab of both families: pods, Services and the LAN have IPv6 addresses beside IPv4's, and both carry packets.

mod support;

use portolan_lab::IpFamily;
use support::{Space, wait_for};

fn world() -> &'static support::World {
    support::world_with("families", |config| config.ip_family = IpFamily::Dual)
}

const PATIENCE_SECS: u64 = 60;

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: { name: web }\nspec:\n  type: NodePort\n  \
     ipFamilyPolicy: RequireDualStack\n  selector: { app: web }\n  ports: [{ port: 80 }]\n";

fn addresses(space: Space, what: &str, path: &str) -> Vec<String> {
    serde_json::from_str(&space.field(what, path)).expect("a list of addresses")
}

/// Both families of a Service answer from here, `place` being a node, `outside` or a pod of the space.
fn answers(space: Space, place: &str, urls: &[String]) {
    for url in urls {
        wait_for(&format!("{url} from {place}"), PATIENCE_SECS, || {
            let words = ["curl", "-g", "-s", "-m", "5", url.as_str()];
            let said = match place.strip_prefix("pod/") {
                Some(pod) => space.exec(pod, &words),
                None => space.world.at(place, &words),
            };
            said.out.contains("Welcome to nginx").then_some(())
        });
    }
}

#[test]
fn both_families_of_a_service_answer_pods_nodes_and_the_host_outside() {
    let world = world();
    let space = world.space("both");
    space.deployment("web", 2);
    space.apply(SERVICE);
    space.shell("client", "node-1");
    let ips = addresses(space, "service web", ".spec.clusterIPs");
    assert!(ips[0].starts_with("10.") && ips[1].starts_with("fd00:10:96::"), "{ips:?}");
    let cluster_ips = [format!("http://{}/", ips[0]), format!("http://[{}]/", ips[1])];
    for place in ["pod/client", "node-1", "node-2", "outside"] {
        answers(space, place, &cluster_ips);
    }
    let port = space.field("service web", ".spec.ports[0].nodePort");
    let doors = [format!("http://172.18.0.12:{port}/"), format!("http://[fd00:172:18::12]:{port}/")];
    answers(space, "outside", &doors);
    let pods = space.field("pod client", ".status.podIPs[*].ip").split_whitespace().count();
    assert_eq!(pods, 2, "one address per family");
}

#[test]
fn names_lead_to_addresses_of_both_families_and_routes_to_blocks_of_both() {
    let world = world();
    let space = world.space("names");
    space.apply(SERVICE);
    space.shell("client", "node-2");
    let ips = addresses(space, "service web", ".spec.clusterIPs");
    let asked = |server: &str, rtype: &str| {
        let server = format!("@{server}");
        space.exec("client", &["drill", "web.names.svc.cluster.local", rtype, &server]).out
    };
    for server in ["10.96.0.10", "fd00:10:96::a"] {
        for (rtype, ip) in [("A", &ips[0]), ("AAAA", &ips[1])] {
            let answer = wait_for(&format!("{rtype} from {server}"), PATIENCE_SECS, || {
                Some(asked(server, rtype)).filter(|text| text.contains("rcode: NOERROR"))
            });
            assert!(
                answer.lines().any(|line| line.starts_with("web.names") && line.ends_with(ip.as_str())),
                "{answer}"
            );
        }
    }
    for (family, gateway) in [("-4", "172.18.0.12"), ("-6", "fd00:172:18::12")] {
        let routes = world.at("node-1", &["ip", family, "route"]).done();
        let learned = routes.lines().any(|line| line.contains(&format!("via {gateway}")) && line.contains("proto bgp"));
        assert!(learned, "{routes}");
    }
}
