//! Cuts in the LAN of a lab with a toy server and toy agents, in real namespaces.

use std::path::{Path, PathBuf};

use portolan_lab::{Attachment, Lab, LabConfig, LabError, LabHandle, Place, Ready, up};

/// Cargo builds examples before it runs tests, beside the folder of the tests.
fn fixture() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.parent().unwrap().parent().unwrap().join("examples/lab_fixture")
}

fn lab(name: &str, dir: &Path) -> LabHandle {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/deb/bin");
    let config = LabConfig {
        state_dir: dir.join("labs").join(name),
        iptables_dir: fetched.canonicalize().ok(),
        ready: Ready::Started,
        ..LabConfig::new(name, 3, fixture(), dir.join("images"))
    };
    up(&config, Attachment::Attached).unwrap()
}

fn address(place: &str) -> &'static str {
    match place {
        "outside" => "172.18.0.1",
        "apiserver" => "172.18.0.2",
        "node-1" => "172.18.0.11",
        "node-2" => "172.18.0.12",
        _ => "172.18.0.13",
    }
}

/// Whether an echo comes back; where one should, a loaded machine gets time for it.
fn hears(lab: &Lab, from: &str, to: &str, patience_secs: &str) -> bool {
    let place: Place = from.parse().unwrap();
    let argv = ["busybox", "ping", "-c", "1", "-W", patience_secs, address(to)];
    lab.capture(&place, &argv).unwrap().status.success()
}

fn reach(lab: &Lab, a: &str, b: &str) -> bool {
    let both = [hears(lab, a, b, "10"), hears(lab, b, a, "10")];
    both == [true, true]
}

fn is_cut(lab: &Lab, a: &str, b: &str) -> bool {
    let both = [hears(lab, a, b, "1"), hears(lab, b, a, "1")];
    both == [false, false]
}

fn places(a: &str, b: &str) -> (Place, Place) {
    (a.parse().unwrap(), b.parse().unwrap())
}

fn cut(lab: &Lab, a: &str, b: &str) -> Result<(), LabError> {
    let (a, b) = places(a, b);
    lab.cut(&a, &b)
}

fn heal(lab: &Lab, a: &str, b: &str) -> Result<(), LabError> {
    let (a, b) = places(a, b);
    lab.heal(&a, &b)
}

#[test]
fn what_is_cut_hears_nothing_and_all_others_hear_all_until_it_is_healed() {
    let dir = tempfile::Builder::new().prefix("ptl-t-").tempdir().unwrap();
    let lab = lab("lan", dir.path());
    assert!(reach(&lab, "node-1", "node-2"));
    cut(&lab, "node-1", "node-2").unwrap();
    cut(&lab, "node-3", "apiserver").unwrap();
    cut(&lab, "outside", "node-3").unwrap();
    for (a, b) in [("node-1", "node-2"), ("node-3", "apiserver"), ("outside", "node-3")] {
        assert!(is_cut(&lab, a, b), "{a} {b}");
    }
    for (a, b) in [("node-1", "node-3"), ("node-2", "node-3"), ("node-1", "apiserver"), ("node-2", "outside")] {
        assert!(reach(&lab, a, b), "{a} {b}");
    }
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    let all = [pair("apiserver", "node-3"), pair("node-1", "node-2"), pair("node-3", "outside")];
    assert_eq!(lab.status().unwrap().cuts, all);
    // By name, not by cable: the node that comes back is cut as it was.
    lab.stop_node(2).unwrap();
    lab.start_node(2).unwrap();
    assert!(is_cut(&lab, "node-1", "node-2") && reach(&lab, "node-2", "node-3"));
    heal(&lab, "node-2", "node-1").unwrap();
    assert!(reach(&lab, "node-1", "node-2") && is_cut(&lab, "outside", "node-3"));
    lab.heal_all().unwrap();
    assert!(reach(&lab, "node-3", "apiserver") && reach(&lab, "node-3", "outside"));
    assert!(lab.status().unwrap().cuts.is_empty());
}

#[test]
fn what_cannot_be_done_is_said_and_changes_nothing() {
    let dir = tempfile::Builder::new().prefix("ptl-t-").tempdir().unwrap();
    let lab = lab("lan-errors", dir.path());
    let said = |result: Result<(), LabError>| result.unwrap_err().to_string();
    cut(&lab, "node-1", "node-2").unwrap();
    assert!(said(cut(&lab, "node-2", "node-1")).contains("cut already"));
    assert!(said(heal(&lab, "node-1", "node-3")).contains("not cut"));
    assert!(said(cut(&lab, "node-1", "node-4")).contains("no node-4 in this lab; say node-1 to node-3"));
    assert!(said(cut(&lab, "pod/web", "node-1")).contains("node-1 to node-3, outside or apiserver"));
    assert!(said(cut(&lab, "outside", "outside")).contains("outside twice"));
    assert_eq!(lab.status().unwrap().cuts.len(), 1);
    assert!(said(lab.start_node(1)).contains("on already"));
    lab.stop_node(1).unwrap();
    assert!(said(lab.stop_node(1)).contains("off already; `portolan node start node-1`"));
    assert!(lab.node_number("node-9").unwrap_err().to_string().contains("node-1 to node-3"));
}
