//! Bad input gets Kubernetes' own words with the field's path, or one line that says how to mend it; nothing is stored
//! and nothing is half-made. Exit codes: 1 the answer is no, 2 wrong use or bad input, 3 the machine lacks something.

mod support;

use std::path::PathBuf;
use std::process::Stdio;

use support::{Space, World, portolan, portolan_says, wait_for};

const LAB: &str = "t-bad-input";

fn world() -> &'static World {
    support::world(LAB)
}

fn service(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec: {spec}\n")
}

/// A manifest as a file, gone with the returned folder.
fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder");
    let path = dir.path().join("input.yaml");
    std::fs::write(&path, text).expect("written");
    (dir, path)
}

/// Names of what is in the namespace, and the rules of both nodes that name it.
fn stored(space: Space) -> (String, Vec<String>) {
    let names = space.kubectl("get svc,endpoints,endpointslices,deploy,rs,pods,cm,secret -o name").done();
    let rules = ["node-1", "node-2"].map(|node| space.world.at(node, &["iptables-save"]).done());
    let own = |text: &String| {
        text.lines().filter(|line| line.contains(&format!("{}/", space.name))).collect::<Vec<_>>().join("\n")
    };
    (names, rules.iter().map(own).collect())
}

/// kubectl's and our own `apply` of the same text: both refuse it with code 1 and these words.
#[track_caller]
fn both_refuse(space: Space, text: &str, expected: &str) {
    let said = space.world.kubectl_in(&format!("apply -n {} -f -", space.name), text).refused(1);
    assert!(said.contains(expected), "{text}\nexpected: {expected}\nkubectl: {said}");
    portolan_refuses(space, text, expected);
}

#[track_caller]
fn portolan_refuses(space: Space, text: &str, expected: &str) {
    let (_dir, path) = file(text);
    let said = space.world.portolan(&format!("apply -n {} -f {}", space.name, path.display())).refused(1);
    assert!(said.contains(expected), "{text}\nexpected: {expected}\nportolan: {said}");
}

#[test]
fn a_bad_service_is_refused_with_the_fields_path_and_nothing_is_stored() {
    let space = world().space("services");
    let held =
        "{ type: NodePort, clusterIP: 10.96.0.77, selector: { app: x }, ports: [{ port: 80, nodePort: 30080 }] }";
    space.apply(&service("holder", held));
    wait_for("the endpoints of the good one", 10, || space.kubectl("get endpoints holder").ok().then_some(()));
    wait_for("the rules of the good one", 10, || {
        let rules = stored(space).1;
        rules.iter().all(|rules| rules.contains("services/holder")).then_some(())
    });
    let before = stored(space);
    let rows = [
        ("{ ports: [{ port: 0 }] }", "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"),
        (
            "{ ports: [{ port: 70000 }] }",
            "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            "{ type: NodePort, ports: [{ port: 80, nodePort: 80 }] }",
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767",
        ),
        (
            "{ type: NodePort, ports: [{ port: 80, nodePort: 30080 }] }",
            "spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated",
        ),
        (
            "{ clusterIP: 10.96.0.77, ports: [{ port: 80 }] }",
            "failed to allocate IP 10.96.0.77: provided IP is already allocated",
        ),
        (
            "{ clusterIP: 10.200.0.1, ports: [{ port: 80 }] }",
            "the provided IP (10.200.0.1) is not in the valid range. The range of valid IPs is 10.96.0.0/12",
        ),
        ("{ ports: [{ port: 80, protocol: SMTP }] }", "spec.ports[0].protocol: Unsupported value: \"SMTP\""),
        ("{ type: Nothing, ports: [{ port: 80 }] }", "spec.type: Unsupported value: \"Nothing\""),
    ];
    for (spec, expected) in rows {
        both_refuse(space, &service("bad", spec), expected);
    }
    assert_eq!(stored(space), before);
    // A change that is refused leaves the good one as it was.
    both_refuse(
        space,
        &service("holder", &held.replace("30080", "70000")),
        "spec.ports[0].nodePort: Invalid value: 70000",
    );
    assert_eq!(stored(space), before);
    assert_eq!(space.field("svc/holder", ".spec.ports[0].nodePort"), "30080");
}

#[test]
fn a_field_that_does_not_exist_is_named_and_nothing_is_stored() {
    let space = world().space("fields");
    let before = stored(space);
    both_refuse(
        space,
        &service("bad", "{ ports: [{ port: 80 }], colour: red }"),
        "strict decoding error: unknown field \"spec.colour\"",
    );
    both_refuse(space, &service("bad", "{ ports: [{ port: 80, size: 1 }] }"), "unknown field \"spec.ports[0].size\"");
    assert_eq!(stored(space), before);
}

#[test]
fn names_against_the_rules_are_refused() {
    let space = world().space("names");
    let before = stored(space);
    both_refuse(
        space,
        &service("Bad_Name", "{ ports: [{ port: 80 }] }"),
        "metadata.name: Invalid value: \"Bad_Name\": a DNS-1035 label must consist of",
    );
    both_refuse(
        space,
        &service("1web", "{ ports: [{ port: 80 }] }"),
        "metadata.name: Invalid value: \"1web\": a DNS-1035 label",
    );
    let config = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: a/b }\ndata: {}\n";
    let said = space.world.kubectl_in("apply -n names -f -", config).refused(1);
    assert!(
        said.contains("may not contain '/'") || said.contains("a lowercase RFC 1123 subdomain must consist of"),
        "{said}"
    );
    let said = space.world.kubectl("create namespace Under_Score").refused(1);
    assert!(
        said.contains("metadata.name: Invalid value: \"Under_Score\": a lowercase RFC 1123 label must consist of"),
        "{said}"
    );
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: { name: ok }\nspec: { containers: [{ name: Main, image: x }] }\n";
    both_refuse(
        space,
        pod,
        "spec.containers[0].name: Invalid value: \"Main\": a lowercase RFC 1123 label must consist of",
    );
    assert_eq!(stored(space), before);
}

#[test]
fn yaml_that_does_not_parse_is_refused_by_every_command_that_reads_it() {
    let space = world().space("parsing");
    let before = stored(space);
    let (_dir, path) = file("kind: [\n");
    let path = path.display();
    let said = space.kubectl(&format!("apply -f {path}")).refused(1);
    assert!(said.contains("error converting YAML to JSON: yaml: line 1"), "{said}");
    for args in ["apply -f", "render iptables --node node-1 -f", "dns --listen 127.0.0.1:0 -f"] {
        let said = space.world.portolan(&format!("{args} {path}")).refused(2);
        let expected = format!("portolan: {path}: error converting YAML to JSON: yaml: line 1");
        assert!(said.starts_with(&expected) && said.lines().count() == 1, "{args}: {said}");
    }
    assert_eq!(stored(space), before);
}

#[test]
fn a_kind_that_does_not_exist_and_a_namespace_that_does_not_are_named() {
    let space = world().space("kinds");
    let before = stored(space);
    both_refuse(
        space,
        "apiVersion: v1\nkind: Gadget\nmetadata: { name: a }\n",
        "no matches for kind \"Gadget\" in version \"v1\"",
    );
    let nowhere = service("a", "{ ports: [{ port: 80 }] }").replace("name: a }", "name: a, namespace: nowhere }");
    let said = space.world.kubectl_in("apply -f -", &nowhere).refused(1);
    assert!(said.contains("namespaces \"nowhere\" not found"), "{said}");
    assert_eq!(stored(space), before);
}

#[test]
fn an_image_that_does_not_exist_is_told_on_the_pod_and_asks_nobody_outside() {
    let space = world().space("images");
    space.kubectl("run absent --image=no-such-image:1 --restart=Never").done();
    let state = wait_for("the back-off", 20, || {
        let state = space.field("pod/absent", ".status.containerStatuses[0].state.waiting");
        state.contains("ImagePullBackOff").then_some(state)
    });
    assert!(
        state.contains("no-such-image:1") && state.contains("portolan image import|pull|build-from-host"),
        "{state}"
    );
    assert_eq!(space.field("pod/absent", ".status.phase"), "Pending");
    wait_for("an event that says so", 5, || {
        let text = space.kubectl("describe pod absent").done();
        text.lines().any(|line| line.contains("Warning") && line.contains("no-such-image:1")).then_some(())
    });
    let said = space.kubectl("run malformed --image=A:::B").refused(1);
    assert!(said.contains("Invalid image name \"A:::B\""), "{said}");
    space.kubectl("delete pod absent --timeout=10s").done();
    let log = std::fs::read_to_string(space.world.lab().upstream_queries()).unwrap_or_default();
    assert!(!log.contains("docker.io"), "{log}");
}

/// The folders of labs, running or half-made.
fn labs() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(portolan_lab::state_root()).into_iter().flatten().flatten();
    let mut all: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    all.sort();
    all
}

#[test]
fn a_lab_that_cannot_be_is_refused_and_nothing_is_half_made() {
    let world = world();
    let before = labs();
    let said = portolan_says(&format!("up --detach --name {LAB}")).refused(1);
    assert!(said.contains("is up already") && said.contains(&format!("`portolan down --name {LAB}`")), "{said}");
    let said = portolan_says("up --detach --name Bad_Name").refused(2);
    assert!(said.contains("\"Bad_Name\" is no name for a lab: use up to 32 lower-case letters"), "{said}");
    let said = portolan_says("up --detach --name t-none --nodes 0").refused(2);
    assert!(said.contains("a lab of 0 nodes is not possible: choose 1 to 200"), "{said}");
    let said = portolan_says("down --name t-never").refused(1);
    assert!(said.contains("no lab named \"t-never\" is up"), "{said}");
    assert_eq!(labs(), before);
    assert!(world.kubectl("get nodes").ok(), "the lab whose name was asked for goes on");
}

/// `portolan up` of the lab `name` where no program is at hand.
fn up_without_programs(name: &str, flags: &[&str]) -> support::Said {
    let empty = tempfile::tempdir().expect("a folder");
    let mut command = portolan();
    command.args(["up", "--detach", "--nodes", "1", "--name", name]).args(flags);
    command.env("PATH", empty.path()).env("PORTOLAN_DEB_BIN", empty.path());
    command.env_remove("PORTOLAN_IPTABLES_DIR");
    support::Said::from(command.output().expect("it runs"))
}

#[test]
fn a_machine_without_iptables_is_told_how_to_get_it_where_that_mode_is_asked_for() {
    let _up = world();
    let before = labs();
    let said = up_without_programs("t-refused", &["--proxy-mode", "iptables"]).refused(3);
    assert!(said.contains("iptables is missing") && said.contains("scripts/fetch-debs.sh"), "{said}");
    assert_eq!(labs(), before);
}

#[test]
fn a_machine_without_iptables_gets_a_lab_in_nftables_mode() {
    let _up = world();
    up_without_programs("t-lacking", &[]).done();
    let nft = support::deb_bin().join("nft");
    let tables = portolan_says(&format!("shell --name t-lacking node-1 -- {} list tables", nft.display()));
    portolan_says("down --name t-lacking").done();
    assert!(tables.done().contains("table ip portolan"));
}

#[test]
fn wrong_use_is_code_2_and_says_what_is_right() {
    let rows = [
        ("frobnicate", "unrecognized subcommand 'frobnicate'"),
        ("up --no-des 2", "unexpected argument '--no-des'"),
        ("up --nodes many", "invalid value 'many' for '--nodes <N>'"),
        ("render iptables --node a", "--filename <FILE>"),
        ("render ipvs --node a -f x", "[possible values: iptables, nftables, dns, routes]"),
        ("render iptables --node a -f /nowhere.yaml", "cannot read /nowhere.yaml: No such file"),
        ("dns --listen 127.0.0.1:0 -f /nowhere.yaml", "cannot read /nowhere.yaml: No such file"),
        ("dns --listen here -f /nowhere.yaml", "invalid value 'here' for '--listen <ADDR:PORT>'"),
        ("apply -f /nowhere.yaml", "cannot read /nowhere.yaml: No such file"),
        ("shell --name t-bad-input moon -- true", "say node-1, outside"),
        ("walk --sabotage 9", "invalid value '9' for '--sabotage <STEP>'"),
        ("render routes --node a -f /dev/null --compare /dev/null", "--compare goes with `render iptables` only"),
    ];
    for (args, expected) in rows {
        let said = portolan_says(args).refused(2);
        assert!(said.contains(expected), "{args}\nexpected: {expected}\nsaid: {said}");
    }
}

#[test]
fn a_file_of_the_wrong_shape_is_named_and_a_port_in_use_too() {
    let (_dir, path) = file(&service("a", "{ ports: eighty }"));
    let said = portolan_says(&format!("render iptables --node a -f {}", path.display())).refused(2);
    assert!(said.starts_with("portolan: ") && said.contains("Service a: "), "{said}");
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let (_dir, path) = file(&service("a", "{ ports: [{ port: 80 }] }"));
    let mut command = portolan();
    command.args(["dns", "--listen", &taken.local_addr().expect("bound").to_string(), "-f"]).arg(&path);
    let output = command.stdout(Stdio::null()).output().expect("it ends by itself");
    let said = support::Said::from(output).refused(3);
    assert!(said.contains("cannot bind 127.0.0.1:") && said.contains("in use"), "{said}");
}
