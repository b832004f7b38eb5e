//! Thousands of random changes, with the proxy killed in between: after each handful the kernel says what the objects
//! ask for, as two readers that know none of the proxy's code understand it.
//!
//! `PORTOLAN_SOAK_CHANGES` sets how many changes (`make soak`: 10,000), `PORTOLAN_SOAK_SEED` which. Needs root.

#[path = "soak/iptables.rs"]
mod iptables;
#[path = "soak/nftables.rs"]
mod nftables;
#[path = "soak/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use portolan_kernel::netns;

use world::{Dice, Meaning, NODE, NODE_ADDRESSES, POD_RANGES, SERVICE_RANGES, World};

/// Changes of one run within `make test`.
const CHANGES: usize = 240;
/// Most changes at once.
const HANDFUL: usize = 20;
/// For a handful of changes to reach the kernel, on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backend {
    IptablesNft,
    IptablesLegacy,
    Nftables,
}

/// A node of its own: a namespace, objects in files, a proxy that follows them.
struct Node {
    netns: OwnedFd,
    backend: Backend,
    home: tempfile::TempDir,
    proxy: Option<Child>,
}

fn deb_bin() -> PathBuf {
    let told = std::env::var_os("PORTOLAN_DEB_BIN").map(PathBuf::from);
    let dir = told.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/deb/bin"));
    assert!(dir.join("ip").exists(), "Debian's programs are not there: run scripts/fetch-debs.sh");
    dir
}

impl Node {
    fn new(backend: Backend) -> Node {
        let home = tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder");
        let node = Node { netns: netns::create().expect("a network namespace, as root"), backend, home, proxy: None };
        for folder in ["objects", "tools"] {
            std::fs::create_dir(node.home.path().join(folder)).expect("a folder");
        }
        let kind = if backend == Backend::IptablesLegacy { "legacy" } else { "nft" };
        for (family, what) in
            ["iptables", "ip6tables"].into_iter().flat_map(|f| ["", "-save", "-restore"].map(|w| (f, w)))
        {
            let program = deb_bin().join(format!("{family}-{kind}{what}"));
            let path = node.home.path().join(format!("tools/{family}{what}"));
            std::fs::write(&path, format!("#!/bin/sh\nexec {} \"$@\"\n", program.display())).expect("a file");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("a file of ours");
        }
        node.run("ip", &["link", "add", "eth0", "type", "veth", "peer", "name", "far0"]);
        for link in ["lo", "eth0", "far0"] {
            node.run("ip", &["link", "set", link, "up"]);
        }
        for (addr, length) in NODE_ADDRESSES.into_iter().zip(["24", "64"]) {
            node.run("ip", &["addr", "add", &format!("{addr}/{length}"), "dev", "eth0"]);
        }
        let object = world::node().to_string();
        std::fs::write(node.home.path().join("objects/node.json"), object).expect("a file");
        node
    }

    /// Runs one of Debian's programs on the node.
    fn run(&self, program: &str, args: &[&str]) -> String {
        self.says(program, args).unwrap_or_else(|refusal| panic!("{refusal}"))
    }

    /// The same; what it complains of if it fails.
    fn says(&self, program: &str, args: &[&str]) -> Result<String, String> {
        let own = self.home.path().join("tools").join(program);
        let path = if own.exists() { own } else { deb_bin().join(program) };
        let mut command = Command::new(path);
        command.args(args);
        let output = netns::run_in(self.netns.as_fd(), || command.output().expect("it runs")).expect("a namespace");
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).expect("text")),
            false => Err(format!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr))),
        }
    }

    fn start(&mut self) {
        let log =
            std::fs::File::options().create(true).append(true).open(self.home.path().join("log")).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
        command.args(["proxy", "--node", NODE, "--proxy-mode", self.mode()]);
        command.args(["--cluster-cidr", &POD_RANGES.join(","), "--service-cidr", &SERVICE_RANGES.join(",")]);
        command.arg("-f").arg(self.home.path().join("objects"));
        command.env("PORTOLAN_IPTABLES_DIR", self.home.path().join("tools")).env_remove("KUBECONFIG");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = netns::run_in(self.netns.as_fd(), || command.spawn().expect("it starts")).expect("a namespace");
        self.proxy = Some(child);
    }

    fn mode(&self) -> &'static str {
        match self.backend {
            Backend::IptablesNft | Backend::IptablesLegacy => "iptables",
            Backend::Nftables => "nftables",
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.proxy.take() {
            // One that has ended by itself is noticed by what it did not do.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// One file for each Service, replaced at once.
    fn write(&self, world: &World, numbers: &BTreeSet<usize>) {
        for number in numbers {
            let path = self.home.path().join(format!("objects/svc-{number}.json"));
            match world.objects(*number) {
                Some(objects) => {
                    let next = self.home.path().join("next");
                    std::fs::write(&next, objects.to_string()).expect("a file");
                    std::fs::rename(&next, path).expect("a file of ours");
                }
                None => drop(std::fs::remove_file(path)),
            }
        }
    }

    /// What the kernel's rules come to, IPv4 and IPv6.
    fn meanings(&self) -> Result<[Meaning; 2], String> {
        match self.backend {
            Backend::IptablesNft | Backend::IptablesLegacy => {
                let read = |program| iptables::meaning(&self.run(program, &[]));
                Ok([read("iptables-save")?, read("ip6tables-save")?])
            }
            Backend::Nftables => {
                let list = |how: &str, family| self.says("nft", &[how, "list", "table", family, "portolan"]);
                let read = |family| nftables::meaning(&list("-j", family)?, &list("-y", family)?);
                Ok([read("ip")?, read("ip6")?])
            }
        }
    }

    /// Waits until the kernel says what the objects ask for.
    fn agrees(&self, world: &World, told: &str) {
        let wanted = [world.meaning(0), world.meaning(1)];
        let until = Instant::now() + PATIENCE;
        loop {
            let now = self.meanings();
            if now.as_ref() == Ok(&wanted) {
                return;
            }
            if Instant::now() > until {
                let log = std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(12).collect();
                panic!(
                    "{:?}, {told}:\n{}\nthe proxy's last words: {tail:#?}",
                    self.backend,
                    differences(&wanted, &now)
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The parts that differ, for a person to read.
fn differences(wanted: &[Meaning; 2], now: &Result<[Meaning; 2], String>) -> String {
    let now = match now {
        Ok(now) => now,
        Err(odd) => return odd.clone(),
    };
    let lines = |meaning: &Meaning| -> BTreeSet<String> {
        let sent = meaning.sent.iter().map(|one| format!("sent {one:?}"));
        let outside = meaning.sent_from_outside.iter().map(|one| format!("sent from outside {one:?}"));
        let refused = meaning.refused.iter().map(|one| format!("refused {one:?}"));
        let dropped = meaning.dropped.iter().map(|one| format!("dropped {one:?}"));
        let let_in = meaning.let_in.iter().map(|one| format!("let in {one:?}"));
        let stays = meaning.stays.iter().map(|one| format!("stays {one:?}"));
        sent.chain(outside).chain(refused).chain(dropped).chain(let_in).chain(stays).collect()
    };
    let mut told = Vec::new();
    for (wanted, now) in wanted.iter().zip(now) {
        let (wanted, now) = (lines(wanted), lines(now));
        told.extend(wanted.difference(&now).map(|line| format!("missing: {line}")));
        told.extend(now.difference(&wanted).map(|line| format!("too much: {line}")));
    }
    told.truncate(40);
    told.join("\n")
}

fn number_of(variable: &str) -> Option<usize> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}: {text} is no number")))
}

/// Changes by the handful; the proxy is killed about every sixth time, now before it has read them, now while it writes.
fn soak(backend: Backend) {
    let changes = number_of("PORTOLAN_SOAK_CHANGES").unwrap_or(CHANGES);
    let seed = number_of("PORTOLAN_SOAK_SEED").unwrap_or(20_240_817);
    let mut dice = Dice::new(seed as u64);
    let (mut world, mut node) = (World::default(), Node::new(backend));
    let (mut made, mut kills) = (0, 0);
    node.start();
    while made < changes {
        let handful = 1 + dice.below(HANDFUL);
        let numbers: BTreeSet<usize> = (0..handful).map(|_| world.change(&mut dice)).collect();
        node.write(&world, &numbers);
        made += handful;
        if dice.one_in(6) {
            // Anywhere within a look at the files and the writing that follows.
            std::thread::sleep(Duration::from_millis(dice.below(800) as u64));
            node.kill();
            kills += 1;
            node.start();
        }
        node.agrees(&world, &format!("seed {seed}, after {made} changes and {kills} kills"));
    }
    println!("{backend:?}: {made} changes, {kills} kills, {} Services at the end", world.len());
}

#[test]
fn the_kernel_follows_random_changes_and_kills_in_iptables_mode_over_nf_tables() {
    soak(Backend::IptablesNft);
}

#[test]
fn the_kernel_follows_random_changes_and_kills_in_iptables_mode_over_the_legacy_kernel_interface() {
    soak(Backend::IptablesLegacy);
}

#[test]
fn the_kernel_follows_random_changes_and_kills_in_nftables_mode() {
    soak(Backend::Nftables);
}
