//! A server on a loopback port, and the real kubectl to drive it.

// Each test binary uses its own part of this room.
#![allow(dead_code)]

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use portolan_apiserver::pki::{self, Pki};
use portolan_apiserver::{Config, Server, serve};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// A cluster of one API server, gone when dropped.
pub struct World {
    pub dir: tempfile::TempDir,
    pub port: u16,
    pub pki: Pki,
    /// An administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    runtime: tokio::runtime::Runtime,
    server: Option<Server>,
}

pub fn config(dir: &Path, listener: TcpListener, pki: &Pki) -> Config {
    Config {
        listeners: vec![listener],
        data_dir: dir.join("data"),
        pki: pki.server_files(),
        service_cidrs: vec!["10.96.0.0/12".parse().expect("a range")],
        node_port_range: 30000..=32767,
        cluster_domain: "cluster.local".into(),
        // An address of the documentation range: it stands in the objects, nothing is sent there.
        advertise: "192.0.2.10".parse().expect("an address"),
    }
}

pub fn world() -> World {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = pki::ensure(&dir.path().join("pki"), &["127.0.0.1".into(), "localhost".into()]).expect("certificates");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let port = listener.local_addr().expect("bound").port();
    let admin = pki.client("admin", &["system:masters"]).expect("a certificate");
    let kubeconfig = dir.path().join("admin.conf");
    std::fs::write(&kubeconfig, pki.kubeconfig(&format!("https://127.0.0.1:{port}"), &admin)).expect("written");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let server = runtime.block_on(serve(config(dir.path(), listener, &pki))).expect("it serves");
    World { dir, port, pki, kubeconfig, runtime, server: Some(server) }
}

/// What a command said.
pub struct Said {
    pub ok: bool,
    pub out: String,
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said { ok: output.status.success(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

impl Said {
    /// Standard output of a command that had to succeed.
    #[track_caller]
    pub fn done(self) -> String {
        assert!(self.ok, "it failed: {}{}", self.out, self.err);
        self.out
    }

    /// The complaint of a command that had to fail.
    #[track_caller]
    pub fn refused(self) -> String {
        assert!(!self.ok, "it did not fail: {}{}", self.out, self.err);
        self.err
    }
}

/// A Deployment of two replicas, as users write it.
pub const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: { name: web, labels: { app: web } }
spec:
  replicas: 2
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      containers:
      - { name: nginx, image: "nginx:latest", ports: [{ containerPort: 80 }] }
"#;

/// The fetched kubectl for a kubeconfig, its discovery cache inside `home`.
pub fn command(kubeconfig: &Path, home: &Path) -> Command {
    let fetched = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/deb/bin/kubectl");
    let dir = std::env::var_os("PORTOLAN_DEB_BIN");
    let mut command = Command::new(dir.map_or_else(|| fetched.into(), |dir| Path::new(&dir).join("kubectl")));
    command.env("HOME", home).env("KUBECONFIG", kubeconfig).env_remove("HTTPS_PROXY").env_remove("https_proxy");
    command
}

pub fn kubectl_with(kubeconfig: &Path, home: &Path, args: &str, input: Option<&str>) -> Said {
    let mut command = command(kubeconfig, home);
    command.args(args.split_whitespace()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.spawn().expect("kubectl starts (make deps)");
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        use std::io::Write;
        stdin.write_all(text.as_bytes()).expect("kubectl reads its input");
    }
    child.wait_with_output().expect("kubectl ends").into()
}

impl World {
    /// Runs kubectl as administrator; arguments are split at spaces.
    pub fn kubectl(&self, args: &str) -> Said {
        kubectl_with(&self.kubeconfig, self.dir.path(), args, None)
    }

    /// The same with standard input, for `-f -`.
    pub fn kubectl_in(&self, args: &str, input: &str) -> Said {
        kubectl_with(&self.kubeconfig, self.dir.path(), args, Some(input))
    }

    /// `kubectl get … -o json`, parsed.
    #[track_caller]
    pub fn json(&self, what: &str) -> serde_json::Value {
        serde_json::from_str(&self.kubectl(&format!("get {what} -o json")).done()).expect("JSON")
    }

    /// `kubectl get … -o jsonpath`.
    #[track_caller]
    pub fn field(&self, what: &str, path: &str) -> String {
        self.kubectl(&format!("get {what} -o jsonpath={{{path}}}")).done()
    }

    /// A GET without a client certificate: code and body.
    pub fn get_as_nobody(&self, path: &str, authorization: Option<&str>) -> (u16, String) {
        use std::io::{Read, Write};
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pki.ca_cert_pem().as_bytes()).expect("PEM")).expect("a root");
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = "localhost".try_into().expect("a name");
        let connection = ClientConnection::new(Arc::new(config), name).expect("a connection");
        let socket = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        let mut stream = StreamOwned::new(connection, socket);
        let credentials = authorization.map(|text| format!("Authorization: {text}\r\n")).unwrap_or_default();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{credentials}\r\n")
            .expect("sent");
        let mut answer = String::new();
        // A peer that closes without TLS's farewell is an error after the whole answer.
        drop(stream.read_to_string(&mut answer));
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        let code = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
        (code.expect("a code"), body.to_owned())
    }

    /// A kubeconfig for somebody else.
    pub fn user(&self, name: &str, groups: &[&str]) -> PathBuf {
        let pair = self.pki.client(name, groups).expect("a certificate");
        let path = self.dir.path().join(format!("{}.conf", name.replace(':', "-")));
        std::fs::write(&path, self.pki.kubeconfig(&format!("https://127.0.0.1:{}", self.port), &pair))
            .expect("written");
        path
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown();
            self.runtime.block_on(server.stopped());
        }
    }
}
