//! Runs a case: the rules in, packets of every family and protocol through, and what became of them against the table.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use portolan_model::Proto;
use serde_json::Value;

use super::case::{As, Backend, Case, Expect, Flow};
use super::ground::{Ground, NODE_1, deb_bin, on_node};
use super::objects::SERVICE_RANGES;
use super::probe::{Range, Seen, Shot};

/// Enough for each of four endpoints to have been chosen, but for once in 10^12 flows.
const ENOUGH: usize = 100;

/// For what a proxy does after files have changed, on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// A ground with one backend on its node-1.
pub struct Field<'a> {
    pub ground: &'a Ground,
    pub range: Range<'a>,
    pub backend: Backend,
    pub home: tempfile::TempDir,
}

impl<'a> Field<'a> {
    pub fn new(ground: &'a Ground, backend: Backend) -> Field<'a> {
        Field::with(ground, backend, Range::open(ground))
    }

    /// The same, where no test listens.
    pub fn quiet(ground: &'a Ground, backend: Backend) -> Field<'a> {
        Field::with(ground, backend, Range::closed(ground))
    }

    fn with(ground: &'a Ground, backend: Backend, range: Range<'a>) -> Field<'a> {
        let home = tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder");
        let field = Field { ground, range, backend, home };
        std::fs::create_dir(field.tools()).expect("a folder");
        std::fs::create_dir(field.objects()).expect("a folder");
        for name in ["iptables", "iptables-save", "iptables-restore"] {
            for family in ["iptables", "ip6tables"] {
                field.tool(&name.replacen("iptables", family, 1), family);
            }
        }
        field
    }

    /// The programs of this backend, under the names without a suffix.
    fn tool(&self, name: &str, family: &str) {
        let kind = if self.backend == Backend::IptablesLegacy { "legacy" } else { "nft" };
        let program = deb_bin().join(name.replacen(family, &format!("{family}-{kind}"), 1));
        let path = self.tools().join(name);
        std::fs::write(&path, format!("#!/bin/sh\nexec {} \"$@\"\n", program.display())).expect("a file");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("a file of ours");
    }

    pub fn tools(&self) -> PathBuf {
        self.home.path().join("tools")
    }

    pub fn objects(&self) -> PathBuf {
        self.home.path().join("objects")
    }

    /// The file that all objects are in, replaced at once.
    pub fn write(&self, objects: &[Value]) {
        let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        let next = self.home.path().join("next");
        std::fs::write(&next, list.to_string()).expect("a file");
        std::fs::rename(&next, self.objects().join("objects.json")).expect("a file of ours");
    }

    /// `portolan proxy` for node-1.
    pub fn proxy(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
        command.args(["proxy", "--node", NODE_1, "--proxy-mode", self.backend.mode(), "-f"]).arg(self.objects());
        command.args(["--service-cidr", SERVICE_RANGES]);
        command.args(flags).env("PORTOLAN_IPTABLES_DIR", self.tools()).env_remove("KUBECONFIG");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a program on node-1.
    pub fn at_node(&self, mut command: Command) -> Output {
        self.ground.inside(NODE_1, || command.output().expect("it runs"))
    }

    /// Starts `portolan proxy`, which follows the files until it is killed.
    pub fn start(&self, flags: &[&str]) -> Running {
        let log = std::fs::File::create(self.home.path().join("log")).expect("a file");
        let mut command = self.proxy(flags);
        command.stdout(Stdio::null()).stderr(log);
        Running(self.ground.inside(NODE_1, || command.spawn().expect("it starts")))
    }

    /// What the running one has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    /// Asks until there is an answer.
    #[track_caller]
    pub fn wait<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < until, "{:?}: in vain for: {what}; the proxy says:\n{}", self.backend, self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Puts the rules for these objects in place, whatever was there before.
    #[track_caller]
    pub fn program(&self, objects: &[Value], flags: &[&str]) {
        self.write(objects);
        let mut command = self.proxy(flags);
        command.arg("--once");
        let output = self.at_node(command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "portolan proxy {flags:?}: {said}");
    }

    /// All that is wrong with a case.
    pub fn complaints(&self, case: &Case) -> Vec<String> {
        let flags: Vec<&str> =
            ["--cluster-cidr", &case.pod_ranges].into_iter().chain(case.flags.iter().copied()).collect();
        self.program(&case.objects(), &flags);
        case.flows
            .iter()
            .flat_map(|flow| self.flow_complaints(flow))
            .map(|wrong| format!("{}: {wrong}", case.name))
            .collect()
    }

    fn flow_complaints(&self, flow: &Flow) -> Vec<String> {
        let mut complaints = Vec::new();
        for shot in shots(flow) {
            if let Err(wrong) = self.check(&shot, flow.expected(self.backend)) {
                let Shot { from, source, proto, to, .. } = shot;
                let source = source.map(|source| format!(" ({source})")).unwrap_or_default();
                complaints.push(format!("{proto:?} from {from}{source} to {:?} {to}: {wrong}", flow.to));
            }
        }
        complaints
    }

    /// Sends until everything that may happen has happened, or something else did.
    pub fn check(&self, shot: &Shot, expect: &Expect) -> Result<(), String> {
        self.check_all(shot, &fates(expect)).map(|_| ())
    }

    /// The same for these fates; how many packets it took.
    pub fn check_all(&self, shot: &Shot, all: &[Fate]) -> Result<usize, String> {
        let mut missing = all.to_vec();
        for sent in 1..=ENOUGH {
            let seen = self.range.shoot(shot);
            let fitting: Vec<_> = all.iter().filter(|one| one.fits(shot, &seen)).collect();
            if fitting.is_empty() {
                return Err(format!("{seen:?}, not {all:?}"));
            }
            missing.retain(|one| !fitting.contains(&one));
            if missing.is_empty() {
                return Ok(sent);
            }
        }
        Err(format!("never {missing:?} in {ENOUGH} packets"))
    }
}

/// A proxy that runs; it is killed without warning, and its rules stay.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended by itself is noticed by what it did not do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One thing that may happen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// The place, its port if that matters, and as whom.
    At(&'static str, Option<u16>, As),
    Refused,
    Dropped,
}

impl Fate {
    fn fits(&self, shot: &Shot, seen: &Seen) -> bool {
        match (self, seen) {
            (Fate::Refused, Seen::Refused) | (Fate::Dropped, Seen::Dropped) => true,
            (Fate::At(wanted, port, who), Seen::At { place, port: at, source }) => {
                let is_itself = shot.source.map_or(super::ground::owner(*source) == shot.from, |own| own == *source);
                let is_right = if *who == As::Node { on_node(*source) } else { is_itself };
                wanted == place && port.is_none_or(|port| port == *at) && is_right
            }
            _ => false,
        }
    }
}

/// Everything that may happen.
pub fn fates(expect: &Expect) -> Vec<Fate> {
    match expect {
        Expect::Refused => vec![Fate::Refused],
        Expect::Dropped => vec![Fate::Dropped],
        Expect::Reach(places, who) => places.iter().map(|place| at(place, *who)).collect(),
    }
}

fn at(place: &'static str, who: As) -> Fate {
    let (place, port) = place.split_once(':').map_or((place, None), |(place, port)| (place, port.parse().ok()));
    Fate::At(place, port, who)
}

/// Both families, three protocols; borrowed addresses have datagrams only.
pub fn shots(flow: &Flow) -> Vec<Shot> {
    let protocols: &[Proto] = if flow.is_borrowed { &[Proto::Udp] } else { &[Proto::Tcp, Proto::Udp, Proto::Sctp] };
    let families = (0..2).filter(|family| flow.families[*family]);
    families.flat_map(|family| protocols.iter().map(move |proto| shot(flow, family, *proto))).collect()
}

fn shot(flow: &Flow, family: usize, proto: Proto) -> Shot {
    let to: SocketAddr = flow.to.targets()[family];
    let source = flow.source.map(|pair| pair[family]);
    Shot { from: flow.from, source, is_borrowed: flow.is_borrowed, proto, to }
}
