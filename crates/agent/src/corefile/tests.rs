//! ConfigMaps as configuration, and the Event of a wrong one.

use k8s_openapi::jiff::Timestamp;

use super::maps::{Data, fits};
use super::*;

const KUBEADM: &str = ".:53 {\n    errors\n    kubernetes cluster.local in-addr.arpa ip6.arpa {\n        pods insecure\n        ttl 30\n    }\n    \
                       forward . /etc/resolv.conf\n    import custom/*.override\n}\nimport custom/*.server\n";

fn data(entries: &[(&str, &str)]) -> Data {
    entries.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect()
}

fn maps(main: &[(&str, &str)], custom: &[(&str, &str)]) -> Maps {
    Maps { main: Some(data(main)), custom: (!custom.is_empty()).then(|| data(custom)) }
}

#[test]
fn without_a_config_map_there_is_nothing_to_read_and_without_a_corefile_in_it_that_is_said() {
    assert_eq!(Maps::default().read(), Ok(None));
    let said = maps(&[("corefile", "x")], &[]).read().expect_err("wrong key");
    assert!(said[0].contains("no key Corefile"), "{said:?}");
}

#[test]
fn imports_mean_keys_of_the_custom_config_map() {
    let plain = maps(&[("Corefile", KUBEADM)], &[]).read().expect("kubeadm's").expect("there");
    assert_eq!((plain.blocks.len(), plain.blocks[0].loadbalance), (1, false));
    let custom = [
        ("a.override", "loadbalance\n"),
        ("b.server", "corp.example:53 {\n  forward . 192.0.2.1\n}\n"),
        ("c.txt", "?"),
    ];
    let with = maps(&[("Corefile", KUBEADM)], &custom).read().expect("both").expect("there");
    assert_eq!((with.blocks.len(), with.blocks[0].loadbalance), (2, true));
    let wrong = [("a.override", "loadbalanse\n")];
    let said = maps(&[("Corefile", KUBEADM)], &wrong).read().expect_err("a typo");
    assert!(said[0].contains("custom/a.override:1") && said[0].contains("loadbalanse"), "{said:?}");
}

#[test]
fn a_hosts_file_below_the_mount_is_a_key_and_any_other_is_the_nodes() {
    let text = |file: &str| format!(". {{\n  hosts {file} {{\n    fallthrough\n  }}\n}}\n");
    let file = |name: &str| {
        let text = text(name);
        let read =
            maps(&[("Corefile", &text), ("NodeHosts", "192.0.2.7 n")], &[]).read().expect("fine").expect("there");
        read.blocks[0].hosts.clone().and_then(|hosts| hosts.file)
    };
    assert_eq!(file("/etc/coredns/NodeHosts").as_deref(), Some("NodeHosts"));
    assert_eq!(file("/etc/coredns/Other").as_deref(), Some("/etc/coredns/Other"));
    assert_eq!(file("/etc/hosts").as_deref(), Some("/etc/hosts"));
}

#[test]
fn keys_are_files_and_no_key_leads_out_of_the_folder() {
    let dir = tempfile::tempdir().expect("a folder");
    let all = maps(&[("Corefile", KUBEADM), ("NodeHosts", "192.0.2.7 n"), ("../out", "x")], &[("a.server", "y")]);
    all.write_files(&dir.path().join("in")).expect("written");
    all.write_files(&dir.path().join("in")).expect("and again");
    let mut found: Vec<String> = Vec::new();
    for folder in ["in", "in/custom"] {
        let files = std::fs::read_dir(dir.path().join(folder)).expect("a folder");
        found.extend(files.map(|file| file.expect("a file").file_name().to_string_lossy().into_owned()));
    }
    found.sort();
    assert_eq!(found, ["NodeHosts", "a.server", "custom"]);
    assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 1);
}

#[test]
fn a_pattern_has_stars_and_nothing_else_that_is_special() {
    for (pattern, key, expected) in [
        ("*.server", "a.server", true),
        ("*.server", "a.override", false),
        ("a*b*c", "a--b-c", true),
        ("a*b*c", "a--c", false),
        ("exact", "exact", true),
        ("exact", "exactly", false),
        ("[a].x", "a.x", false),
        ("*", "", true),
    ] {
        assert_eq!(fits(pattern, key), expected, "{pattern} {key}");
    }
}

#[test]
fn what_was_taken_over_is_recalled_and_what_is_wrong_is_left_aside() {
    let dir = tempfile::tempdir().expect("a folder");
    let keep = |maps: &Maps| {
        let text = serde_json::to_string(maps).expect("JSON");
        std::fs::write(dir.path().join(KEPT), text).expect("written");
    };
    assert!(recall(dir.path()).is_none(), "a first start");
    let good = maps(&[("Corefile", KUBEADM)], &[]);
    keep(&good);
    assert_eq!(recall(dir.path()).map(|(maps, _)| maps), Some(good));
    keep(&maps(&[("Corefile", "nonsense {")], &[]));
    assert!(recall(dir.path()).is_none());
    keep(&Maps::default());
    assert!(recall(dir.path()).is_none(), "ours was in force");
    std::fs::write(dir.path().join(KEPT), "{").expect("written");
    assert!(recall(dir.path()).is_none());
}

#[test]
fn every_node_that_refuses_the_same_names_the_same_event() {
    let now = Timestamp::UNIX_EPOCH;
    let of = |node: &str, why: &str| event::event(node, "uid-1", why, now);
    let name = |event: &k8s_openapi::api::core::v1::Event| event.metadata.name.clone();
    assert_eq!(name(&of("node-1", "Corefile:3: x")), name(&of("node-2", "Corefile:3: x")));
    assert_ne!(name(&of("node-1", "Corefile:3: x")), name(&of("node-1", "Corefile:4: x")));
    let long = of("node-1", &"é".repeat(2000));
    assert_eq!(long.message.map(|text| text.len()), Some(1000));
    assert_eq!(of("node-1", "x").involved_object.kind.as_deref(), Some("ConfigMap"));
}
