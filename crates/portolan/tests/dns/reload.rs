//! Files that change while others ask.

use crate::ground::{Ground, PATIENCE_SECS};
use crate::support::wait_for;

fn service(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{clusterIP: {ip}, clusterIPs: [{ip}], ports: [{{name: http, port: 80}}]}}\n"
    )
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
