//! Kill -9 of the server: what it acknowledged is there when it is back, and its revisions go on.
//!
//! The test runs itself again as the server's process.

mod common;

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{config, kubectl_with};
use portolan_apiserver::{pki, serve};

const CHILD_DIR: &str = "PTL_APISERVER_CHILD_DIR";
const ROUNDS: usize = 3;

#[test]
fn child_serves_until_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let dir = Path::new(&dir);
    let pki = pki::ensure(&dir.join("pki"), &["127.0.0.1".into()]).expect("certificates");
    let port = std::fs::read_to_string(dir.join("port")).unwrap_or_else(|_| "0".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).expect("a port");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let server = runtime.block_on(serve(config(dir, listener, &pki))).expect("it serves");
    let port = server.local_addrs()[0].port();
    let admin = pki.client("admin", &["system:masters"]).expect("a certificate");
    let kubeconfig = pki.kubeconfig(&format!("https://127.0.0.1:{port}"), &admin);
    std::fs::write(dir.join("admin.conf.new"), kubeconfig).expect("written");
    std::fs::rename(dir.join("admin.conf.new"), dir.join("admin.conf")).expect("renamed");
    println!("READY");
    runtime.block_on(server.stopped());
}

fn start(dir: &Path) -> Child {
    use std::io::{BufRead, BufReader};
    let mut child = Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", "child_serves_until_killed", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the child starts");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let ready = lines.map_while(Result::ok).any(|line| line.contains("READY"));
    assert!(ready, "the server came up");
    child
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().expect("a folder");
    let kubeconfig = dir.path().join("admin.conf");
    let kubectl = |args: &str| kubectl_with(&kubeconfig, dir.path(), args, None);
    let mut names = Vec::new();
    let mut newest = 0;
    for round in 0..ROUNDS {
        let mut child = start(dir.path());
        if round > 0 {
            // Whoever watched from before the kill is told to list again.
            let watch = kubectl("get --raw /api/v1/configmaps?watch=true&resourceVersion=1").done();
            assert!(watch.contains(r#""code":410"#) && watch.contains("Expired"), "{watch}");
        }
        for earlier in &names {
            kubectl(&format!("get configmap {earlier}")).done();
        }
        for count in 0..3 {
            let name = format!("c-{round}-{count}");
            kubectl(&format!("create configmap {name} --from-literal=a=b")).done();
            let version = kubectl(&format!("get configmap {name} -o jsonpath={{.metadata.resourceVersion}}")).done();
            let version: u64 = version.parse().expect("a number");
            assert!(version > newest, "revisions go on where they were");
            newest = version;
            names.push(name);
        }
        child.kill().expect("SIGKILL");
        child.wait().expect("reaped");
    }
}
