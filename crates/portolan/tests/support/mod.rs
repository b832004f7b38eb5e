//! One lab per test binary, the real kubectl to drive it, and places in it to send packets from.
//!
//! The lab is shared by the tests of a binary, each in a Kubernetes namespace of its own, and ends with the binary's
//! process however that ends. One lab at a time on a machine: a file lock holds that across test binaries.

// Each test binary uses its own part of this room.
#![allow(dead_code)]

#[path = "../../../nameserver/tests/upstreams/ports.rs"]
pub mod ports;
pub mod registry;
pub mod user;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use portolan_lab::{Attachment, Lab, LabConfig, LabHandle, Place};
use serde_json::Value;

/// The workspace's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace is there")
}

/// Debian's programs, as `make deps` fetched them.
pub fn deb_bin() -> PathBuf {
    let dir = root().join("target/deb/bin");
    assert!(dir.join("iptables").exists(), "Debian's programs are not there: run scripts/fetch-debs.sh");
    dir
}

pub fn images() -> PathBuf {
    root().join("target/images")
}

/// Waits for the machine's one turn to run a lab; it ends when the file is closed.
pub fn turn() -> File {
    let file = File::create(std::env::temp_dir().join("portolan-tests.lock")).expect("a lock file");
    file.lock().expect("the turn");
    file
}

/// This program, with the tests' image store and Debian's programs.
pub fn portolan() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
    command.env("PORTOLAN_DEB_BIN", deb_bin()).env("PORTOLAN_IMAGES", images()).env_remove("KUBECONFIG");
    command.current_dir(root()).stdin(Stdio::null());
    command
}

/// Runs this program with arguments split at spaces.
pub fn portolan_says(args: &str) -> Said {
    portolan().args(args.split_whitespace()).output().expect("portolan runs").into()
}

/// The kubectl to drive: the fetched one.
pub fn kubectl() -> PathBuf {
    deb_bin().join("kubectl")
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

impl Said {
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// Standard output of a command that had to succeed.
    #[track_caller]
    pub fn done(self) -> String {
        assert!(self.ok(), "it failed with {:?}: {}{}", self.code, self.out, self.err);
        self.out
    }

    /// The complaint of a command that had to end with this code.
    #[track_caller]
    pub fn refused(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        self.err
    }
}

/// Asks until there is an answer; fails after `secs`.
#[track_caller]
pub fn wait_for<T>(what: &str, secs: u64, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(secs);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited {secs} s in vain for: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A lab that is up.
pub struct World {
    handle: LabHandle,
    home: tempfile::TempDir,
    _turn: File,
}

static WORLD: OnceLock<World> = OnceLock::new();

/// The binary's lab, of two nodes, brought up by the first who asks.
pub fn world(name: &'static str) -> &'static World {
    world_of(name, 2)
}

/// The same, with that many nodes.
pub fn world_of(name: &'static str, nodes: usize) -> &'static World {
    world_with(name, |config| config.nodes = nodes)
}

/// The same, with a configuration of the test's own.
pub fn world_with(name: &'static str, configure: impl FnOnce(&mut LabConfig)) -> &'static World {
    WORLD.get_or_init(|| {
        // SAFETY: the handler makes no use of thread-locals; statics live until the process has ended.
        unsafe { libc::atexit(down_at_exit) };
        World::up(name, configure)
    })
}

/// A lab goes with its test, and its logs with it: whoever looks for why a test failed finds their ends beside its words.
fn show_logs_on_panic(folder: PathBuf) {
    const LINES: usize = 25;
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        usual(info);
        for file in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let text = std::fs::read_to_string(file.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let end = lines[lines.len().saturating_sub(LINES)..].join("\n  ");
            eprintln!("the end of {}:\n  {end}", file.file_name().display());
        }
    }));
}

/// A test binary ends by `exit`, which drops no static.
extern "C" fn down_at_exit() {
    if let Some(world) = WORLD.get() {
        // What stands in the way of an orderly end does not keep the lab: it is attached to this process.
        let _ = world.lab().down();
    }
}

/// The nginx image, packed once from Debian's nginx.
pub fn ensure_nginx() {
    if portolan_says("image ls").done().contains("nginx:latest") {
        return;
    }
    let root = deb_bin().with_file_name("root");
    portolan_says(&format!("image build-from-host nginx:latest --nginx --root {}", root.display())).done();
}

impl World {
    fn up(name: &str, configure: impl FnOnce(&mut LabConfig)) -> World {
        let turn = turn();
        ensure_nginx();
        let mut config = LabConfig::new(name, 2, env!("CARGO_BIN_EXE_portolan").into(), images());
        config.iptables_dir = Some(deb_bin());
        configure(&mut config);
        let handle = portolan_lab::up(&config, Attachment::Attached).expect("the lab comes up");
        show_logs_on_panic(handle.logs());
        let home = tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder");
        World { handle, home, _turn: turn }
    }

    pub fn lab(&self) -> &Lab {
        &self.handle
    }

    /// kubectl for this lab, its discovery cache in a folder of its own.
    pub fn kubectl_command(&self) -> Command {
        let mut command = Command::new(kubectl());
        command.env("HOME", self.home.path()).env("KUBECONFIG", self.handle.kubeconfig());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs kubectl; arguments are split at spaces.
    pub fn kubectl(&self, args: &str) -> Said {
        self.kubectl_words(&args.split_whitespace().collect::<Vec<_>>())
    }

    pub fn kubectl_words(&self, args: &[&str]) -> Said {
        self.kubectl_command().args(args).output().expect("kubectl runs").into()
    }

    /// The same with standard input.
    pub fn kubectl_in(&self, args: &str, input: &str) -> Said {
        let mut command = self.kubectl_command();
        command.args(args.split_whitespace());
        with_input(command, input)
    }

    /// `kubectl get … -o jsonpath`.
    #[track_caller]
    pub fn field(&self, what: &str, path: &str) -> String {
        self.kubectl(&format!("get {what} -o jsonpath={{{path}}}")).done()
    }

    /// `kubectl get … -o json`; `Null` if there is none.
    pub fn json(&self, what: &str) -> Value {
        let said = self.kubectl(&format!("get {what} -o json"));
        serde_json::from_str(&said.out).unwrap_or(Value::Null)
    }

    /// This program, told to write to this lab.
    pub fn portolan(&self, args: &str) -> Said {
        let mut command = portolan();
        command.env("KUBECONFIG", self.handle.kubeconfig()).args(args.split_whitespace());
        command.output().expect("portolan runs").into()
    }

    /// Runs a command at a place in the lab (`node-1`, `outside`).
    pub fn at(&self, place: &str, argv: &[&str]) -> Said {
        let place: Place = place.parse().expect("a place");
        let captured = self.handle.capture(&place, argv).expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said { code: captured.status.code(), out: text(&captured.stdout), err: text(&captured.stderr) }
    }

    /// What a node's agent says of itself.
    pub fn node_status(&self, node: &str) -> Value {
        let said = self.kubectl(&format!("get --raw /api/v1/nodes/{node}/proxy/portolan/v1/status"));
        serde_json::from_str(&said.out).unwrap_or(Value::Null)
    }

    /// A Kubernetes namespace for one test.
    #[track_caller]
    pub fn space(&'static self, name: &'static str) -> Space {
        self.kubectl(&format!("create namespace {name}")).done();
        Space { world: self, name }
    }
}

/// Runs a command with this standard input.
pub fn with_input(mut command: Command, input: &str) -> Said {
    use std::io::Write;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    // A command that refuses early does not read to the end.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("it ends").into()
}

/// One test's namespace.
#[derive(Clone, Copy)]
pub struct Space {
    pub world: &'static World,
    pub name: &'static str,
}

impl Space {
    pub fn kubectl(&self, args: &str) -> Said {
        self.kubectl_words(&args.split_whitespace().collect::<Vec<_>>())
    }

    pub fn kubectl_words(&self, args: &[&str]) -> Said {
        let words: Vec<&str> = ["-n", self.name].iter().chain(args).copied().collect();
        self.world.kubectl_words(&words)
    }

    #[track_caller]
    pub fn apply(&self, manifest: &str) -> String {
        self.world.kubectl_in(&format!("apply -n {} -f -", self.name), manifest).done()
    }

    #[track_caller]
    pub fn field(&self, what: &str, path: &str) -> String {
        self.world.field(&format!("-n {} {what}", self.name), path)
    }

    pub fn json(&self, what: &str) -> Value {
        self.world.json(&format!("-n {} {what}", self.name))
    }

    /// A pod of the nginx image; `spec` is more of its spec, in flow style, with a comma in front.
    #[track_caller]
    pub fn pod(&self, name: &str, node: &str, container: &str, spec: &str) {
        self.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name}, labels: {{ app: {name} }} }}\n\
             spec: {{ nodeName: {node}, containers: [{{ name: main, image: \"nginx:latest\"{container} }}]{spec} }}\n"
        ));
    }

    /// A pod on a node that only waits to be told something.
    #[track_caller]
    pub fn shell(&self, name: &str, node: &str) {
        self.pod(name, node, ", command: [sleep, \"3600\"]", ", terminationGracePeriodSeconds: 0");
        self.ready(name);
    }

    #[track_caller]
    pub fn ready(&self, pod: &str) {
        self.kubectl(&format!("wait --for=condition=Ready pod/{pod} --timeout=30s")).done();
    }

    /// A Deployment of nginx that has rolled out.
    #[track_caller]
    pub fn deployment(&self, name: &str, replicas: usize) {
        self.kubectl(&format!("create deployment {name} --image=nginx:latest --port=80 --replicas={replicas}")).done();
        self.kubectl(&format!("rollout status deployment/{name} --timeout=40s")).done();
    }

    /// Runs a command in a pod.
    pub fn exec(&self, pod: &str, argv: &[&str]) -> Said {
        let words: Vec<&str> = ["exec", pod, "--"].iter().chain(argv).copied().collect();
        self.kubectl_words(&words)
    }

    /// The ready addresses that the Service's Endpoints object lists, sorted.
    pub fn endpoints(&self, service: &str) -> Vec<String> {
        let object = self.json(&format!("endpoints {service}"));
        let subsets = object["subsets"].as_array().into_iter().flatten();
        let addresses = subsets.flat_map(|s| s["addresses"].as_array().into_iter().flatten());
        let mut all: Vec<String> = addresses.filter_map(|a| a["ip"].as_str().map(str::to_owned)).collect();
        all.sort();
        all
    }

    /// Waits until node `node` has a rule for each of the Service's `count` endpoints; returns them.
    #[track_caller]
    pub fn programmed(&self, service: &str, node: &str, count: usize) -> Vec<String> {
        let tag = format!("{}/{service}", self.name);
        wait_for(&format!("{count} endpoints of {tag} in the rules of {node}"), 20, || {
            let listed = self.endpoints(service);
            let saved = self.world.at(node, &["iptables-save", "-t", "nat"]).out;
            let rules = saved.lines().filter(|line| line.contains(&tag) && line.contains("--to-destination")).count();
            (listed.len() == count && rules == count).then_some(listed)
        })
    }
}
