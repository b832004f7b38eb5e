//! Files that change while others ask.

use std::process::{Command, Stdio};

use crate::ground::{Ground, PATIENCE_SECS, with_programs};
use crate::support::{Said, wait_for};

const COREFILE: &str = ". {\n    kubernetes cluster.local\n    reload\n    TTL\n}\n";

fn service(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{clusterIP: {ip}, clusterIPs: [{ip}], ports: [{{name: http, port: 80}}]}}\n"
    )
}

/// A Corefile whose records live for `secs`.
fn living(secs: u32) -> String {
    COREFILE
        .replace("TTL\n", "errors\n")
        .replace("kubernetes cluster.local\n", &format!("kubernetes cluster.local {{\n        ttl {secs}\n    }}\n"))
}

#[test]
fn objects_and_corefile_are_followed_and_no_query_is_lost_meanwhile() {
    let ground = Ground::new();
    ground.write("objects/steady.yaml", &service("steady", "10.96.1.1"));
    ground.write("Corefile", &living(10));
    let dns = ground.serve_alone(&["-f", "objects", "--corefile", "Corefile", "--listen", "127.0.0.1"]);
    ground.write("queries", "steady.default.svc.cluster.local A\nsteady.default.svc.cluster.local AAAA\n");
    let mut load = Command::new("dnsperf");
    load.args(["-s", "127.0.0.1", "-p", "53", "-l", "12", "-c", "4", "-Q", "2000", "-t", "5", "-d"]);
    load.arg(ground.path("queries")).env("PATH", with_programs()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let load = ground.inside(|| load.spawn().expect("dnsperf is one of Debian's programs"));
    for round in 1..=4u32 {
        let (name, ip) = (format!("new-{round}"), format!("10.96.2.{round}"));
        ground.write(&format!("objects/{name}.yaml"), &service(&name, &ip));
        let question = format!("{name}.default.svc.cluster.local A");
        wait_for(&question, PATIENCE_SECS, || ground.dig(&question).contains(&ip).then_some(()));
        let secs = 10 + round;
        ground.write("Corefile", &living(secs));
        if round == 4 {
            dns.tell(libc::SIGHUP);
        }
        let wanted = format!("steady.default.svc.cluster.local. {secs} IN A 10.96.1.1");
        wait_for(&wanted, PATIENCE_SECS, || {
            ground.dig("steady.default.svc.cluster.local A").contains(&wanted).then_some(())
        });
    }
    let said = Said::from(load.wait_with_output().expect("dnsperf ends")).done();
    let figure = |what: &str| -> u64 {
        let line = said.lines().find(|line| line.trim().starts_with(what)).unwrap_or_else(|| panic!("{what}: {said}"));
        line.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or_else(|| panic!("{line}"))
    };
    assert!(figure("Queries sent:") > 1000, "{said}");
    assert_eq!(figure("Queries lost:"), 0, "{said}");
    assert_eq!(figure("Queries completed:"), figure("Queries sent:"), "{said}");
    assert!(said.contains("NOERROR") && !said.contains("SERVFAIL") && !said.contains("NXDOMAIN"), "{said}");
}

#[test]
fn an_object_that_leaves_its_file_is_gone() {
    let ground = Ground::new();
    ground.write("objects/a.yaml", &service("a", "10.96.1.1"));
    ground.write("objects/b.yaml", &service("b", "10.96.1.2"));
    let _dns = ground.serve_alone(&["-f", "objects", "--listen", "127.0.0.1:53"]);
    ground.answers(&[("a.default.svc.cluster.local A", "10.96.1.1"), ("b.default.svc.cluster.local A", "10.96.1.2")]);
    std::fs::remove_file(ground.path("objects/b.yaml")).expect("a file of ours");
    wait_for("b to be gone", PATIENCE_SECS, || {
        ground.dig("b.default.svc.cluster.local A").contains("status: NXDOMAIN").then_some(())
    });
    ground.answers(&[("a.default.svc.cluster.local A", "10.96.1.1")]);
}

#[test]
fn what_became_wrong_is_told_once_and_what_was_right_stays() {
    let ground = Ground::new();
    ground.write("objects/steady.yaml", &service("steady", "10.96.1.1"));
    ground.write("Corefile", &living(10));
    let _dns = ground.serve_alone(&["-f", "objects", "--corefile", "Corefile", "--listen", "127.0.0.1"]);
    let row = [("steady.default.svc.cluster.local A", "local. 10 IN A 10.96.1.1")];
    ground.write("Corefile", &living(11).replace("errors", "erorrs"));
    ground.logged("Corefile:6: ");
    ground.logged("erorrs");
    ground.answers(&row);
    ground.write("objects/steady.yaml", "kind: [\n");
    ground.logged("objects/steady.yaml: error converting YAML to JSON");
    ground.answers(&row);
    let lines = ground.log().lines().filter(|line| line.contains("erorrs")).count();
    assert_eq!(lines, 1, "{}", ground.log());
    // Right again: both are taken.
    ground.write("Corefile", &living(12));
    ground.write("objects/steady.yaml", &service("steady", "10.96.1.9"));
    wait_for("both files", PATIENCE_SECS, || {
        ground.dig("steady.default.svc.cluster.local A").contains("local. 12 IN A 10.96.1.9").then_some(())
    });
}

#[test]
fn a_port_that_comes_and_goes_with_the_corefile_is_bound_and_left() {
    let ground = Ground::new();
    let one = ". {\n    kubernetes cluster.local\n    reload\n}\n";
    ground.write("Corefile", one);
    let _dns = ground.serve(&["--corefile", "Corefile", "--listen", "127.0.0.1"]);
    let on_5300 = || ground.tried("dig +time=1 +tries=1 -p 5300 @127.0.0.1 web.default.svc.cluster.local A");
    assert!(!on_5300().out.contains("10.96.7.7"));
    ground.write("Corefile", &format!("{one}.:5300 {{\n    kubernetes cluster.local\n}}\n"));
    wait_for("port 5300", PATIENCE_SECS, || on_5300().out.contains("10.96.7.7").then_some(()));
    ground.write("Corefile", one);
    wait_for("port 5300 to be left", PATIENCE_SECS, || {
        ground.inside(|| std::net::UdpSocket::bind("127.0.0.1:5300")).ok()
    });
    ground.answers(&[("web.default.svc.cluster.local A", "10.96.7.7")]);
}
