//! One file carried to another machine: the packaged binary in Debian 11, whose C library (2.31) is older than the one it
//! was built with, brings up a lab that serves.
//!
//! The other machine is a root folder of Debian 11's packages, entered by pivot_root in a mount namespace: its own
//! iptables, nginx and shell, and nothing of this machine but the kernel, the binary.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{Said, deb_bin, portolan, turn};

/// The binary that `scripts/package.sh --dev` made.
fn packaged() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/package/dev/portolan");
    assert!(path.is_file(), "{} is missing: run scripts/package.sh --dev", path.display());
    path
}

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: { name: web }
spec:
  replicas: 2
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec: { containers: [{ name: nginx, image: 'nginx:latest' }] }
---
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { clusterIP: 10.96.0.80, selector: { app: web }, ports: [{ port: 80 }] }
";

/// Enters the folder as a machine of its own: kernel file systems, empty /run and /tmp, and the old root gone. With the
/// script, PID 1 there, all that it started ends.
const ENTER: &str = r#"
set -e
cd "$1"
mount --bind . .
cd "$1"
mount -t proc proc proc
for dir in sys dev; do mount --rbind /$dir $dir; done
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
pivot_root . before
exec /bin/busybox env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root /bin/sh -ec "umount -l /before; $2"
"#;

/// A copy of Debian 11 with the binary and a manifest added.
fn machine() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder");
    let older = deb_bin().with_file_name("bullseye");
    let copied = Command::new("cp").arg("-a").arg(format!("{}/.", older.display())).arg(dir.path()).status();
    assert!(copied.expect("cp runs").success(), "{} is copied", older.display());
    let programs = dir.path().join("usr/local/bin");
    std::fs::copy(packaged(), programs.join("portolan")).expect("portolan is copied");
    std::fs::write(dir.path().join("web.yaml"), WEB).expect("written");
    dir
}

fn on(machine: &Path, script: &str) -> Said {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]);
    command.args(["sh", "-c", ENTER, "sh"]).arg(machine).arg(script);
    command.stdin(Stdio::null()).output().expect("unshare runs").into()
}

#[test]
fn the_packaged_binary_needs_no_library() {
    let said = Said::from(Command::new("readelf").arg("-d").arg(packaged()).output().expect("readelf runs")).done();
    assert!(!said.contains("NEEDED"), "{said}");
}

#[test]
fn a_lab_serves_on_a_machine_with_an_older_c_library() {
    let _turn = turn();
    let machine = machine();
    let dynamic = machine.path().join("usr/local/bin/linked-here");
    std::fs::copy(portolan().get_program(), dynamic).expect("the other binary is copied");
    let refused = on(machine.path(), "linked-here --version");
    assert!(!refused.ok() && refused.err.contains("GLIBC_"), "a binary linked here needs a newer one: {refused:?}");

    let said = on(
        machine.path(),
        "/lib/*/libc.so.6 | busybox head -n 1
         portolan image build-from-host nginx:latest --nginx --root /
         portolan up --name elsewhere --detach
         trap 'portolan down --name elsewhere' EXIT
         portolan apply --kubeconfig /run/portolan/labs/elsewhere/admin.kubeconfig -f /web.yaml
         for try in $(busybox seq 120); do
             portolan shell --name elsewhere node-1 -- curl -sf -m 1 http://10.96.0.80/ && break
             busybox sleep 0.5
         done
         portolan shell --name elsewhere node-1 -- iptables -t nat -nL KUBE-SERVICES",
    );
    let text = said.done();
    assert!(text.contains("stable release version 2.31."), "{text}");
    assert!(text.contains("Welcome to nginx"), "{text}");
    assert!(text.contains("default/web cluster IP"), "{text}");
}
