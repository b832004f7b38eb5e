//! `portolan explain` over files: what is told of a packet and of a change, which exit code, and what is refused.
//!
//! No packet is sent: that it tells the truth is for `packets.rs`.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

/// Two nodes, client and web-1 on node-1, web-2 on node-2, Service web with a node port. No EndpointSlices: they are made.
const CLUSTER: &str = r#"
{apiVersion: v1, kind: Node, metadata: {name: node-1}, spec: {podCIDRs: [10.244.0.0/26]},
 status: {addresses: [{type: InternalIP, address: 172.18.0.11}], conditions: [{type: Ready, status: "True"}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: node-2}, spec: {podCIDRs: [10.244.0.64/26]},
 status: {addresses: [{type: InternalIP, address: 172.18.0.12}], conditions: [{type: Ready, status: "True"}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {type: NodePort, clusterIP: 10.96.0.20, selector: {app: web},
 ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: client, labels: {app: client}}, spec: {nodeName: node-1,
 containers: [{name: main, image: nginx}]}, status: {phase: Running, podIPs: [{ip: 10.244.0.2}],
 conditions: [{type: Ready, status: "True"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web-1, labels: {app: web}}, spec: {nodeName: node-1,
 containers: [{name: main, image: nginx, ports: [{containerPort: 8080}]}]}, status: {phase: Running,
 podIPs: [{ip: 10.244.0.3}], conditions: [{type: Ready, status: "True"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web-2, labels: {app: web}}, spec: {nodeName: node-2,
 containers: [{name: main, image: nginx, ports: [{containerPort: 8080}]}]}, status: {phase: Running,
 podIPs: [{ip: 10.244.0.66}], conditions: [{type: Ready, status: "True"}]}}
"#;

/// A folder with the cluster's file, gone when it is dropped.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self { folder: tempfile::Builder::new().prefix("ptl-t-explain-").tempdir().expect("a folder") };
        files.write("cluster.yaml", CLUSTER);
        files
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("a file in a folder of our own");
        path
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
        command.arg("explain").args(args).args(["-f", "cluster.yaml"]).current_dir(self.folder.path());
        command.env_remove("KUBECONFIG").output().expect("the program runs")
    }

    /// Exit code, standard output and error.
    fn said(&self, args: &[&str]) -> (i32, String, String) {
        let output = self.run(args);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    fn json(&self, args: &[&str]) -> (i32, Value) {
        let (code, out, err) = self.said(&[args, &["--output", "json"]].concat());
        (code, serde_json::from_str(&out).unwrap_or_else(|e| panic!("{args:?}: {e}: {out}{err}")))
    }
}

/// Where each way of a packet arrives, with its chance in per cent.
fn arrivals(answer: &Value) -> Vec<String> {
    let ways = answer["ways"].as_array().expect("ways");
    let one = |way: &Value| {
        let chance = way["chance"].as_f64().unwrap_or_default() * 100.0;
        format!("{chance:.0} {} {}", way["end"].as_str().unwrap_or_default(), way["at"].as_str().unwrap_or("-"))
    };
    let mut all: Vec<String> = ways.iter().map(one).collect();
    all.sort();
    all
}

#[test]
fn every_way_of_a_packet_is_told_in_both_modes() {
    let files = Files::new();
    let two = ["50 delivered 10.244.0.3:8080", "50 delivered 10.244.0.66:8080"];
    let rows: &[(&[&str], i32, &[&str])] = &[
        (&["pod/client", "svc/web"], 0, &two),
        (&["pod/client", "web.default:http"], 0, &two),
        (&["node/node-2", "svc/web"], 0, &two),
        (&["outside", "svc/web"], 0, &two),
        (&["pod/client", "pod/web-2"], 0, &["100 delivered 10.244.0.66:8080"]),
        (&["pod/client", "outside:80"], 0, &["100 delivered 172.18.0.1:80"]),
        (&["outside", "pod/web-2"], 1, &["100 unroutable -"]),
        (&["outside", "pod/web-1", "--via", "node-1"], 0, &["100 delivered 10.244.0.3:8080"]),
        (&["outside", "pod/web-2", "--via", "node-1"], 0, &["100 delivered 10.244.0.66:8080"]),
        (&["pod/client", "10.244.0.99:80"], 1, &["100 unroutable -"]),
        (&["pod/client", "wbe:80"], 1, &["100 noSuchName -"]),
    ];
    for mode in ["iptables", "nftables"] {
        for (args, code, expected) in rows {
            let (found, answer) = files.json(&[args, &["--proxy-mode", mode][..]].concat());
            assert_eq!(arrivals(&answer), *expected, "{mode} {args:?}");
            assert_eq!(found, *code, "{mode} {args:?}");
            assert_eq!(answer["schema"], "portolan.explain/v1");
            assert_eq!(answer["ways"][0]["story"]["source"], "plan", "{mode} {args:?}");
        }
    }
}

#[test]
fn the_story_is_a_traces_with_the_endpoints_that_chance_may_take() {
    let files = Files::new();
    let (code, text, _) = files.said(&["pod/client", "svc/web"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("✔ would be delivered  client → web → web-"), "{text}");
    for said in
        [" 0 dns     web → web.default.svc.cluster.local → 10.96.0.20", "1 of 2 endpoints", "KUBE-SVC", " ↩ back"]
    {
        assert!(text.contains(said), "no {said:?} in\n{text}");
    }
    assert!(text.lines().count() <= 12, "{text}");
    let (_, text, _) = files.said(&["pod/client", "svc/web", "-v"]);
    let ways: Vec<&str> =
        text.lines().filter(|line| line.trim_start().starts_with("50 %  delivered pod default/web-")).collect();
    assert_eq!(ways.len(), 2, "{text}");
}

#[test]
fn a_change_is_followed_to_its_endpoints_and_flows() {
    let files = Files::new();
    files
        .write("selector.yaml", "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: wbe}}}");
    let (code, text, err) = files.said(&["--with", "selector.yaml"]);
    assert_eq!(code, 0, "{err}");
    let expected = "default/web:http  ClusterIP 10.96.0.20:80/tcp  from any pod, any node: \
                    default/web-1 or default/web-2 → refused: no endpoint is ready";
    assert!(text.lines().any(|line| line == expected), "{text}");
    assert!(text.contains("node port 30080/tcp of node-1, node-2  from any pod, any node, outside: "), "{text}");
    assert!(!text.contains("Note:"), "{text}");

    let (code, answer) = files.json(&["pod/client", "svc/web", "--with", "selector.yaml"]);
    assert_eq!(code, 1, "after the change it is refused");
    assert_eq!(arrivals(&answer["before"]), ["50 delivered 10.244.0.3:8080", "50 delivered 10.244.0.66:8080"]);
    assert_eq!(arrivals(&answer["after"]), ["100 refused -"]);
    assert!(
        answer["changes"].as_array().is_some_and(|lines| lines.iter().any(|line| line == "+ 100 %  refused on node-1"))
    );

    let (code, text, _) = files.said(&["--without", "pod/web-1"]);
    assert_eq!(code, 0);
    assert!(text.contains("default/web-1 or default/web-2 → default/web-2"), "{text}");
    assert!(
        text.contains("pod default/web-1  its address 10.244.0.3  from any pod, any node: default/web-1 → not there"),
        "{text}"
    );

    let (_, text, _) = files.said(&["--without", "svc/web"]);
    assert!(text.contains("name gone  web.default.svc.cluster.local."), "{text}");
    files.write("gone.yaml", "{apiVersion: v1, kind: Service, metadata: {name: web}, $patch: delete}");
    assert_eq!(files.said(&["--with", "gone.yaml"]).1, text, "a deletion may stand in a file");
    assert!(text.lines().filter(|line| line.ends_with("→ not there")).count() >= 2, "{text}");
}

#[test]
fn what_is_not_followed_or_assumed_is_said() {
    let files = Files::new();
    let new = "{apiVersion: v1, kind: Service, metadata: {name: new}, spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}";
    let maker = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 0}}";
    files.write("new.yaml", &format!("{new}\n---\n{maker}\n"));
    let (code, text, err) = files.said(&["--with", "new.yaml"]);
    assert_eq!(code, 0, "{err}");
    assert!(text.contains("default/new  ClusterIP 10.111.255.254:80/tcp  from any pod, any node: not there → default/web-1 or default/web-2"), "{text}");
    for note in [
        "Note: Service default/new: the server will give it a ClusterIP; 10.111.255.254 stands for it here",
        "Note: Service default/new: the server will give it a node port; 32767 stands for it here",
        "Note: Service default/new: the address that a load balancer will give it is not followed",
        "Note: Deployment default/web: the Pods that it would make or end are not followed; give them as Pods, or --without them",
    ] {
        assert!(text.lines().any(|line| line == note), "no {note:?} in\n{text}");
    }
    // Slices that another hand wrote stay as they are.
    let slice = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: web-x, labels: {kubernetes.io/service-name: web}}, \
                 addressType: IPv4, ports: [{name: http, port: 8080}], endpoints: [{addresses: [10.244.0.3], nodeName: node-1}]}";
    files.write("slice.yaml", slice);
    let (_, text, _) = files.said(&["--without", "pod/web-1", "-f", "slice.yaml"]);
    assert!(
        text.contains("Note: Service default/web: its EndpointSlices are not written by the cluster's controller"),
        "{text}"
    );
}

#[test]
fn slips_are_refused_in_one_line() {
    let files = Files::new();
    files.write("nobody.yaml", "{apiVersion: v1, kind: Pod, metadata: {}}");
    files.write("broken.yaml", "a: [");
    let rows: &[(&[&str], &str)] = &[
        (&[], "say FROM and TO, or --with FILE"),
        (&["client", "svc/web"], "FROM \"client\": it does not say whether it is a pod or a node"),
        (&["pod/client", "10.0.0.1"], "TO \"10.0.0.1\": an address needs a port, such as 10.0.0.1:80"),
        (&["pod/cleint", "svc/web"], "no Pod default/cleint; did you mean default/client?"),
        (&["pod/client", "svc/wbe"], "no Service default/wbe; did you mean default/web?"),
        (&["pod/client", "svc/web:sql"], "Service default/web has no tcp port \"sql\"; it has http 80/tcp"),
        (&["node/node-9", "svc/web"], "no Node node-9; did you mean node-1 or node-2?"),
        (&["node/node-1", "web:80"], "which DNS servers node/node-1 asks"),
        (&["pod/client", "svc/web", "--family", "ipv6"], "Service default/web has no IPv6 address"),
        (&["pod/client", "svc/web", "--via", "node-9"], "--via node-9: the files have no Node of that name"),
        (&["--with", "missing.yaml"], "cannot read missing.yaml"),
        (&["--with", "broken.yaml"], "broken.yaml: "),
        (&["--with", "nobody.yaml"], "--with: Pod has no kind or no metadata.name"),
        (&["--without", "svc/wbe"], "--without: there is no Service default/wbe"),
        (&["--without", "deployment/web"], "--without deployment/web: no packet's way depends on such an object"),
        (&["--without", "svc"], "--without svc: that is not how it is named"),
    ];
    for (args, why) in rows {
        let (code, out, err) = files.said(args);
        assert_eq!(code, 2, "{args:?}: {out}{err}");
        assert!(err.starts_with("portolan: ") && err.contains(why), "{args:?}: {err}");
        assert!(err.trim_end().lines().count() <= 1 || err.contains("broken"), "{args:?}: {err}");
        assert_eq!(out, "", "{args:?}");
    }
    let (code, _, err) = files.said(&["pod/client", "example.org:443"]);
    assert_eq!(code, 1, "what upstream says is not known");
    assert!(err.contains("example.org is no name of the cluster"), "{err}");
    let (code, _, _) = files.said(&["pod/client"]);
    assert_eq!(code, 2, "FROM without TO");
}
