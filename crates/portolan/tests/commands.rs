//! The lab's own commands: what `status`, `shell`, `node status` and `apply` say and end with.

mod support;

use support::{World, portolan, wait_for, with_input};

const LAB: &str = "t-commands";

fn world() -> &'static World {
    support::world(LAB)
}

#[test]
fn shell_runs_at_each_place_and_passes_streams_and_exit_codes() {
    let space = world().space("shells");
    let shell = |rest: &str| space.world.portolan(&format!("shell --name {LAB} {rest}"));
    assert_eq!(shell("node-1 -- uname -n").done(), "node-1\n");
    assert_eq!(shell("outside -- uname -n").done(), "outside\n");
    let mut command = portolan();
    command.args(["shell", "--name", LAB, "node-2", "--", "sh", "-c", "echo to-err >&2; exit 7"]);
    assert_eq!(with_input(command, "").refused(7), "to-err\n");
    assert_eq!(shell("node-2 -- test 1 = 2").code, Some(1));
    space.shell("web", "node-2");
    let address = space.field("pod/web", ".status.podIP");
    let links = shell("pod/shells/web -- ip -o -4 address").done();
    assert!(links.contains(&address) && !links.contains("172.18.0.12"), "the pod's own network: {links}");
    let said = shell("pod/shells/nobody -- true").refused(1);
    assert!(said.contains("pod/shells/nobody"), "{said}");
    let said = shell("node-9 -- true").refused(1);
    assert!(said.contains("node-9"), "{said}");
    let mut command = portolan();
    command.args(["shell", "--name", LAB, "node-1", "--", "cat"]);
    assert_eq!(with_input(command, "from here\n").done(), "from here\n");
}

#[test]
fn node_status_shows_the_session_and_the_route_it_brought() {
    let world = world();
    let block = world.field("node/node-2", ".spec.podCIDR");
    wait_for("the session and its route", 10, || {
        let text = world.portolan("node status --node node-1").done();
        let has = |parts: &[&str]| text.lines().any(|line| parts.iter().all(|part| line.contains(part)));
        (has(&["172.18.0.12", "64512", "Established"]) && has(&[&block, "172.18.0.12"])).then_some(())
    });
    assert!(world.portolan("node status --node nobody").refused(1).contains("nobody"));
}

#[test]
fn portolan_apply_and_kubectl_apply_take_turns_on_one_object() {
    let space = world().space("turns");
    let dir = tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder");
    let manifest =
        |data: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: shared }}\ndata: {data}\n");
    let portolan = |data: &str| {
        let path = dir.path().join("object.yaml");
        std::fs::write(&path, manifest(data)).expect("written");
        space.world.portolan(&format!("apply -n turns -f {}", path.display())).done()
    };
    assert_eq!(portolan("{ a: one, b: two }"), "configmap/shared created\n");
    assert_eq!(space.apply(&manifest("{ a: one, b: two }")), "configmap/shared unchanged\n");
    assert_eq!(space.apply(&manifest("{ a: one, c: three }")), "configmap/shared configured\n");
    assert_eq!(portolan("{ a: one, c: three }"), "configmap/shared unchanged\n");
    assert_eq!(portolan("{ c: three }"), "configmap/shared configured\n");
    assert_eq!(space.json("cm shared")["data"], serde_json::json!({ "c": "three" }), "what left the manifest is gone");
    let path = dir.path().join("object.yaml");
    let said = space.world.portolan(&format!("apply -n turns -f {}", dir.path().display())).done();
    assert_eq!(said, "configmap/shared unchanged\n", "a folder is all its manifests, as {}", path.display());
}
