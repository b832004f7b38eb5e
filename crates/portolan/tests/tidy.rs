//! The house rules, read off the tree: arrows point down only, pure rooms touch nothing outside, files stay readable.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Which of our rooms each room may name. A room not in this table fails the test: give it a row.
const ARROWS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("dataplane", &["model"]),
    ("dns", &["model"]),
    ("bgp", &["model"]),
    ("cni", &["model"]),
    ("ingest", &["model"]),
    ("story", &["model", "dataplane"]),
    ("kinds", &[]),
    ("kernel", &[]),
    ("store", &[]),
    ("apiserver", &["store", "kinds"]),
    ("controllers", &["kinds"]),
    ("pods", &[]),
    ("nameserver", &["model", "kernel", "dns"]),
    ("agent", &["model", "ingest", "kernel", "dataplane", "dns", "nameserver", "bgp", "cni", "story", "pods"]),
    ("lab", &["apiserver", "kernel"]),
    (
        "portolan",
        &[
            "model",
            "dataplane",
            "dns",
            "cni",
            "story",
            "kinds",
            "ingest",
            "kernel",
            "apiserver",
            "controllers",
            "pods",
            "nameserver",
            "agent",
            "lab",
        ],
    ),
];

/// Rooms that decide and never act.
const PURE: &[&str] = &["model", "dataplane", "dns", "bgp", "cni", "story", "kinds", "ingest"];

/// What a pure room may not depend on.
const IMPURE_CRATES: &[&str] = &[
    "tokio",
    "rand",
    "getrandom",
    "rustix",
    "libc",
    "nix",
    "netlink-sys",
    "netlink-packet-route",
    "kube",
    "hyper",
    "tracing",
    "mio",
    "socket2",
];

/// What a pure room's code may not say outside its tests.
const IMPURE_WORDS: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "File::open",
];

/// The only rooms that may name the Kubernetes types, whose library takes long to read.
const NAMES_K8S_OPENAPI: &[&str] = &["kinds", "ingest", "controllers", "pods", "agent", "lab"];

/// Lines past which a file is two rooms. Tables of like entries live under `generated/`.
const LONGEST_FILE: usize = 800;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace is there")
}

/// Normal dependencies of each of our rooms, ours without the `portolan-` in front.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--locked"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: Value = serde_json::from_slice(&out.stdout).expect("cargo metadata prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let normal = package["dependencies"].as_array().expect("a list").iter().filter(|d| d["kind"].is_null());
            let names = normal.map(|d| room(d["name"].as_str().expect("a name")).to_owned()).collect();
            (room(package["name"].as_str().expect("a name")).to_owned(), names)
        })
        .collect()
}

fn room(package: &str) -> &str {
    package.strip_prefix("portolan-").unwrap_or(package)
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|x| x == "rs") {
            found.push(path);
        }
    }
}

fn sources(room: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    rust_files(&root().join("crates").join(room).join("src"), &mut found);
    found
}

fn is_test(path: &Path) -> bool {
    let name = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
    name == "tests" || name.ends_with("_tests") || path.components().any(|c| c.as_os_str() == "tests")
}

#[test]
fn arrows_point_down_only() {
    let arrows: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    for (name, uses) in dependencies() {
        let allowed = arrows.get(name.as_str()).unwrap_or_else(|| panic!("room {name} has no row in ARROWS"));
        for used in uses.iter().filter(|used| arrows.contains_key(used.as_str())) {
            assert!(allowed.contains(&used.as_str()), "{name} must not depend on {used}");
        }
    }
}

#[test]
fn pure_rooms_depend_on_nothing_that_acts() {
    let dependencies = dependencies();
    for name in PURE {
        for used in &dependencies[*name] {
            assert!(!IMPURE_CRATES.contains(&used.as_str()), "pure room {name} depends on {used}");
        }
    }
}

#[test]
fn pure_rooms_name_no_clock_file_socket_or_environment() {
    for name in PURE {
        for path in sources(name).iter().filter(|path| !is_test(path)) {
            let text = std::fs::read_to_string(path).expect("a source file");
            let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
            for (number, line) in code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
                for word in IMPURE_WORDS {
                    assert!(!line.contains(word), "{}:{}: pure room {name} says {word}", path.display(), number + 1);
                }
            }
        }
    }
}

#[test]
fn few_rooms_name_the_kubernetes_types() {
    for (name, uses) in dependencies() {
        let named = uses.contains("k8s-openapi");
        assert!(!named || NAMES_K8S_OPENAPI.contains(&name.as_str()), "{name} must not name k8s-openapi");
    }
}

#[test]
fn no_file_is_two_rooms_and_each_begins_with_what_it_is_for() {
    for (name, _) in ARROWS {
        for path in sources(name) {
            let text = std::fs::read_to_string(&path).expect("a source file");
            if !path.components().any(|c| c.as_os_str() == "generated") {
                let lines = text.lines().count();
                assert!(lines <= LONGEST_FILE, "{}: {lines} lines", path.display());
            }
            assert!(text.starts_with("//!") || is_test(&path), "{}: no module doc", path.display());
        }
    }
}

#[test]
fn nothing_is_left_unfinished_or_ignored() {
    let words = [concat!("#[", "ignore"), concat!("todo", "!("), concat!("unimplemented", "!("), concat!("FIX", "ME")];
    let mut files = Vec::new();
    rust_files(&root().join("crates"), &mut files);
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a source file");
        for word in words {
            assert!(!text.contains(word), "{}: says {word}", path.display());
        }
    }
}
