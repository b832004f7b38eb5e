//! `--kubeconfig` of a cluster that does not answer: what is not known is SERVFAIL, and people are told.

use std::net::TcpListener;

use crate::KUBEADM;
use crate::ground::Ground;

/// Where the API server of the kubeconfig would be.
const API: &str = "127.0.0.3:6443";

fn kubeconfig(ground: &Ground) {
    ground.write(
        "kubeconfig",
        &format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             clusters: [{{name: c, cluster: {{server: \"http://{API}\"}}}}]\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\nusers: [{{name: u, user: {{}}}}]\n"
        ),
    );
}

/// What holds for as long as nothing is known of the cluster.
#[track_caller]
fn knows_nothing_and_says_so(ground: &Ground) {
    for question in [
        "web.default.svc.cluster.local A",
        "nobody.default.svc.cluster.local AAAA",
        "_http._tcp.web.default.svc.cluster.local SRV",
        "default.svc.cluster.local A",
        "+tcp web.default.svc.cluster.local A",
    ] {
        let said = ground.dig(question);
        assert!(said.contains("status: SERVFAIL"), "{question}: {said}\nlog: {}", ground.log());
    }
    ground.answers(&[
        // What the zone itself has, and names outside, need no cluster.
        ("cluster.local SOA", "IN SOA ns.dns.cluster.local."),
        ("www.example.org A", "IN A 192.0.2.80"),
    ]);
    assert_eq!(ground.curl("http://127.0.0.1:8181/ready"), "503 kubernetes");
    assert_eq!(ground.curl("http://127.0.0.1:8080/health"), "200 OK");
    assert!(ground.curl("http://127.0.0.1:9153/metrics").contains("portolan_dns_synced 0"));
}

#[test]
fn a_cluster_that_is_silent_makes_no_name_absent() {
    let ground = Ground::new();
    ground.upstream();
    ground.write("Corefile", KUBEADM);
    kubeconfig(&ground);
    // Connections are made and nothing is ever said on them.
    let _silent = ground.inside(|| TcpListener::bind(API).expect("the namespace is ours"));
    let _dns = ground.serve_alone(&["--kubeconfig", "kubeconfig", "--corefile", "Corefile", "--listen", "127.0.0.1"]);
    knows_nothing_and_says_so(&ground);
    ground.logged("the cluster of kubeconfig has not told its ");
    let log = ground.log();
    let told = log.lines().find(|line| line.contains("has not told its")).expect("it is there by now");
    for kind in ["Namespaces", "Services", "EndpointSlices"] {
        assert!(told.contains(kind), "{kind}: {told}");
    }
    assert!(!told.contains("Pods"), "they are not asked for: {told}");
    ground.logged("is SERVFAIL until then, and /ready is 503; see that the API server answers there");
    knows_nothing_and_says_so(&ground);
}

#[test]
fn a_cluster_that_nobody_serves_makes_no_name_absent() {
    let ground = Ground::new();
    ground.upstream();
    ground.write("Corefile", KUBEADM);
    kubeconfig(&ground);
    let _dns = ground.serve_alone(&["--kubeconfig", "kubeconfig", "--corefile", "Corefile", "--listen", "127.0.0.1"]);
    ground.logged("the watch broke; it starts again");
    ground.logged("has not told its");
    knows_nothing_and_says_so(&ground);
}
