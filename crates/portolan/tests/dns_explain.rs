//! A pod's lookup in a live lab: its node's agent tells it, upstreams are asked; and cluster DNS by itself beside the cluster,
//! which follows the API as CoreDNS does.

mod support;

use std::process::{Child, Command, Stdio};

use serde_json::Value;
use support::{Said, World, deb_bin, portolan, wait_for};

const PATIENCE_SECS: u64 = 60;

fn world() -> &'static World {
    support::world("t-dns-explain")
}

fn service(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}\n\
         spec: {{ clusterIP: {ip}, selector: {{ app: {name} }}, ports: [{{ name: http, port: 80 }}] }}\n"
    )
}

fn told(args: &str) -> (Option<i32>, Value) {
    let said = world().portolan(&format!("dns explain {args} --output json"));
    (said.code, serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}")))
}

#[test]
fn the_agent_of_a_pods_node_tells_its_lookup() {
    let space = world().space("lookups");
    space.shell("client", "node-2");
    space.apply(&service("web", "10.96.40.1"));
    let found = wait_for("the Service in DNS", PATIENCE_SECS, || {
        let (code, told) = told("web --from pod/lookups/client");
        (code == Some(0)).then_some(told)
    });
    assert_eq!(found["node"], "node-2");
    assert_eq!(found["asker"]["pod"], "lookups/client");
    assert_eq!(found["asker"]["search"][0], "lookups.svc.cluster.local.");
    assert_eq!(found["wastedQueries"], 0, "{found:#}");
    let question = &found["steps"][0]["questions"][0];
    assert_eq!(question["records"][0]["data"], "10.96.40.1", "{found:#}");
    assert_eq!(question["objects"][0], "Service lookups/web", "{found:#}");
    let (code, none) = told("webb.lookups.svc.cluster.local. --from pod/lookups/client");
    assert_eq!((code, &none["resolved"]), (Some(1), &Value::Bool(false)));
    assert_eq!(none["advice"][0]["mend"], "say web if that is meant", "{none:#}");
}

#[test]
fn an_upstream_has_the_last_word_and_is_asked_for_it() {
    let space = world().space("outward");
    space.shell("client", "node-1");
    // A name that the host outside of the lab knows.
    let (code, found) = told("ylzhong.top --from pod/outward/client --type A");
    assert_eq!(code, Some(0), "{found:#}");
    assert_eq!(found["resolved"], true, "{found:#}");
    let last = found["steps"].as_array().and_then(|steps| steps.last()).expect("steps");
    assert_eq!(last["name"], "ylzhong.top.");
    assert_eq!(last["questions"][0]["records"][0]["data"], "192.168.100.100", "{found:#}");
    let waste = found["wastedQueries"].as_u64().expect("a number");
    assert_eq!(waste as usize + 1, found["steps"].as_array().expect("steps").len(), "{found:#}");
    let (code, none) = told("nobody.ylzhong.top. --from pod/outward/client --type A");
    assert_eq!(code, Some(1), "{none:#}");
    assert_eq!(none["steps"][0]["questions"][0]["outcome"], "noSuchName", "{none:#}");
    assert_eq!(none["autopath"]["savesQueries"], 0, "nothing is at the list's end: {none:#}");
    let asked: usize = none["steps"].as_array().expect("steps").len();
    assert_eq!(none["wastedQueries"], asked, "all of them were in vain: {none:#}");
}

#[test]
fn a_pod_that_is_nowhere_and_one_that_nobody_knows_are_told_of() {
    let space = world().space("nowhere");
    space.apply("apiVersion: v1\nkind: Pod\nmetadata: { name: waits }\nspec: { nodeSelector: { no: such }, containers: [{ name: a, image: \"nginx:latest\" }] }\n");
    let said = world().portolan("dns explain web --from pod/nowhere/waits").refused(1);
    assert!(said.contains("Pod nowhere/waits is on no node yet"), "{said}");
    let said = world().portolan("dns explain web --from pod/nowhere/wait").refused(2);
    assert!(said.contains("no Pod nowhere/wait; did you mean nowhere/waits?"), "{said}");
}

/// `portolan dns` on a loopback port, ended when dropped; nobody else is asked.
struct Beside {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Beside {
    fn the_cluster() -> Beside {
        let port = support::ports::free();
        let dir = tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder");
        std::fs::write(dir.path().join("resolv.conf"), "").expect("written");
        let mut command = portolan();
        command.args(["dns", "--listen", &format!("127.0.0.1:{port}"), "--kubeconfig"]);
        command.arg(world().lab().kubeconfig()).arg("--resolv-conf").arg(dir.path().join("resolv.conf"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        Beside { child, port, _dir: dir }
    }

    fn dig(&self, question: &str) -> String {
        let mut command = Command::new(deb_bin().join("dig"));
        command.args(["+time=2", "+tries=1", "-p", &self.port.to_string(), "@127.0.0.1"]);
        Said::from(command.args(question.split_whitespace()).output().expect("dig runs")).out
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn cluster_dns_by_itself_follows_a_live_cluster() {
    let space = world().space("followed");
    space.apply(&service("first", "10.96.40.2"));
    let dns = Beside::the_cluster();
    let question = "first.followed.svc.cluster.local A";
    wait_for(question, PATIENCE_SECS, || dns.dig(question).contains("10.96.40.2").then_some(()));
    // Until every kind is told whole nothing is denied.
    wait_for("a cluster that is told whole", PATIENCE_SECS, || {
        let absent = dns.dig("second.followed.svc.cluster.local A");
        let is_denied = absent.contains("status: NXDOMAIN");
        assert!(is_denied || absent.contains("status: SERVFAIL"), "{absent}");
        is_denied.then_some(())
    });
    space.apply(&service("second", "10.96.40.3"));
    let question = "second.followed.svc.cluster.local A";
    wait_for(question, PATIENCE_SECS, || dns.dig(question).contains("10.96.40.3").then_some(()));
    space.kubectl("delete svc first").done();
    let question = "first.followed.svc.cluster.local A";
    wait_for("its end", PATIENCE_SECS, || dns.dig(question).contains("status: NXDOMAIN").then_some(()));
    let empty = dns.dig("followed.svc.cluster.local A");
    assert!(empty.contains("status: NOERROR"), "the namespace exists: {empty}");
}

#[test]
fn top_dns_tells_which_pod_wastes_its_queries() {
    let space = world().space("wasteful");
    space.shell("client", "node-1");
    // As a resolver does: each domain of the search list before the name itself.
    for domain in [".wasteful.svc.cluster.local", ".svc.cluster.local", ".cluster.local", ""] {
        space.exec("client", &["drill", &format!("www.ylzhong.top{domain}"), "A", "@10.96.0.10"]).done();
    }
    let counted = wait_for("the pod's queries", PATIENCE_SECS, || {
        let top: Value = serde_json::from_str(&world().portolan("top dns --once --output json").done()).expect("JSON");
        assert_eq!(top["schema"], "portolan.top-dns/v1");
        let pods = top["pods"].as_array().cloned().unwrap_or_default();
        pods.into_iter().find(|pod| pod["pod"]["namespace"] == "wasteful" && pod["wasted"].as_u64() >= Some(3))
    });
    assert_eq!((&counted["pod"]["name"], &counted["node"]), (&"client".into(), &"node-1".into()), "{counted:#}");
    assert!(counted["queries"].as_u64() > counted["wasted"].as_u64(), "{counted:#}");
    assert_eq!(counted["names"][0]["name"], "www.ylzhong.top", "{counted:#}");
    assert!(counted["names"][0]["queries"].as_u64() >= Some(3), "{counted:#}");
    let text = world().portolan("top dns --once").done();
    assert!(
        text.starts_with("POD ") && text.contains("wasteful/client") && text.contains("www.ylzhong.top ("),
        "{text}"
    );
}
