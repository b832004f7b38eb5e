//! A network namespace with a folder: `portolan dns` inside, strangers that ask it, a knotd for names outside.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use portolan_kernel::netns;

use crate::support::{Said, deb_bin, portolan, root, wait_for};

/// For what a server does after something has changed, on a machine with much else to do.
pub const PATIENCE_SECS: u64 = 60;

pub struct Ground {
    netns: OwnedFd,
    home: tempfile::TempDir,
    /// Servers of ours that end with it.
    running: std::sync::Mutex<Vec<Running>>,
}

/// A server that runs.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended by itself is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    pub fn tell(&self, signal: i32) {
        // SAFETY: the process is our child, not yet waited for.
        unsafe { libc::kill(self.0.id() as i32, signal) };
    }

    /// Waits for its end; its exit code.
    pub fn ended(mut self) -> Option<i32> {
        self.0.wait().expect("it was started").code()
    }

    pub fn is_alive(&mut self) -> bool {
        self.0.try_wait().expect("it was started").is_none()
    }
}

impl Ground {
    pub fn new() -> Ground {
        let home = tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder");
        let netns = netns::create().expect("a network namespace, as root");
        let ground = Ground { netns, home, running: std::sync::Mutex::default() };
        ground.sh("ip link set lo up");
        // What a server would find in /etc/resolv.conf.
        ground.write("resolv.conf", "nameserver 127.0.0.2\n");
        ground
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Replaces a file at once.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("below home")).expect("a folder");
        let next = self.path(".next");
        fs::write(&next, text).expect("a file");
        fs::rename(next, path).expect("a file of ours");
    }

    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::run_in(self.netns.as_fd(), work).expect("the namespace can be entered")
    }

    /// A command with Debian's programs on PATH, in the namespace.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.tried(script).done()
    }

    pub fn tried(&self, script: &str) -> Said {
        let mut command = Command::new("sh");
        command.args(["-ec", script]).env("PATH", with_programs()).current_dir(self.home.path());
        Said::from(self.inside(|| command.output().expect("sh runs")))
    }

    /// Authority for what is outside, at 127.0.0.2: example.org and its reverse zone.
    pub fn upstream(&self) {
        let soa = "@ 300 IN SOA ns.example.org. root.example.org. 1 7200 1800 86400 60\n@ 300 IN NS ns.example.org.\n";
        let forward = "ns A 192.0.2.1\nwww 300 A 192.0.2.80\ndocs 300 A 192.0.2.7\n";
        self.write("knot/example.org.zone", &format!("$ORIGIN example.org.\n$TTL 300\n{soa}{forward}"));
        let reverse = "7 300 PTR seven.example.org.\n";
        self.write("knot/reverse.zone", &format!("$ORIGIN 2.0.192.in-addr.arpa.\n$TTL 300\n{soa}{reverse}"));
        let home = self.path("knot");
        let home = home.display();
        self.write(
            "knot/knot.conf",
            &format!(
                "server:\n  listen: 127.0.0.2@53\n  rundir: {home}\n  user: root\n\
                 log:\n  - target: stderr\n    any: warning\n\
                 database:\n  storage: {home}\n\
                 zone:\n  - domain: example.org\n    file: {home}/example.org.zone\n\
                 \x20 - domain: 2.0.192.in-addr.arpa\n    file: {home}/reverse.zone\n"
            ),
        );
        let mut command = Command::new(deb_bin().join("knotd"));
        command.arg("-c").arg(self.path("knot/knot.conf")).env("PATH", with_programs());
        let running = self.spawn(command, "knot.log");
        self.running.lock().expect("nobody panics while holding it").push(running);
        wait_for("knotd to answer", PATIENCE_SECS, || {
            self.tried("dig +time=1 +tries=1 @127.0.0.2 www.example.org A").out.contains("192.0.2.80").then_some(())
        });
    }

    pub fn spawn(&self, mut command: Command, log: &str) -> Running {
        let log = fs::File::options().create(true).append(true).open(self.path(log)).expect("a file");
        command.stdout(Stdio::null()).stderr(log).stdin(Stdio::null());
        Running(self.inside(|| command.spawn().expect("it starts")))
    }

    /// `portolan dns -f examples/files` with these flags, at 127.0.0.1:53 or where they say, once it listens there.
    pub fn serve(&self, flags: &[&str]) -> Running {
        self.serve_at("127.0.0.1", "53", flags)
    }

    pub fn serve_at(&self, ip: &str, port: &str, flags: &[&str]) -> Running {
        let files = root().join("examples/files");
        let files = files.display().to_string();
        self.started(ip, port, &[&["-f", &files], flags].concat())
    }

    /// The same without objects.
    pub fn serve_alone(&self, flags: &[&str]) -> Running {
        self.started("127.0.0.1", "53", flags)
    }

    fn started(&self, ip: &str, port: &str, flags: &[&str]) -> Running {
        let mut running = self.spawn(self.command(flags), "log");
        let place: SocketAddr = format!("{ip}:{port}").parse().expect("an address");
        wait_for(&format!("{place} to listen; it says {}", self.log()), PATIENCE_SECS, || {
            assert!(running.is_alive(), "it ended: {}", self.log());
            self.inside(|| std::net::TcpStream::connect(place)).ok()
        });
        running
    }

    /// In a mount namespace of its own, with our resolv.conf in the machine's place.
    fn command(&self, flags: &[&str]) -> Command {
        let program = portolan().get_program().to_owned();
        let resolv_conf = self.path("resolv.conf");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", "mount --bind \"$0\" /etc/resolv.conf; exec \"$@\""]);
        command.arg(resolv_conf).arg(program).arg("dns").args(flags);
        command.current_dir(self.home.path()).env("ZONE", "cluster.local").env_remove("KUBECONFIG");
        command
    }

    /// Runs `portolan dns -f examples/files` with these flags to its end.
    pub fn portolan(&self, flags: &[&str]) -> Said {
        let files = root().join("examples/files");
        let files = files.display().to_string();
        self.alone(&[&["-f", &files], flags].concat())
    }

    /// The same without objects.
    pub fn alone(&self, flags: &[&str]) -> Said {
        let mut command = self.command(flags);
        Said::from(self.inside(|| command.stdin(Stdio::null()).output().expect("it runs")))
    }

    /// Runs `portolan` at the repository's root with a file of ours as last argument.
    pub fn raw(&self, args: &[&str], file: &str) -> Said {
        let mut command = portolan();
        command.args(args).arg(self.path(file));
        Said::from(self.inside(|| command.output().expect("it runs")))
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// What dig prints, blanks made one.
    pub fn dig(&self, question: &str) -> String {
        let said = self.sh(&format!("dig +time=5 +tries=2 @127.0.0.1 {question}"));
        said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect()
    }

    #[track_caller]
    pub fn answers(&self, rows: &[(&str, &str)]) {
        for (question, expected) in rows {
            let said = self.dig(question);
            assert!(said.contains(expected), "{question}\nexpected: {expected}\n{said}\nlog: {}", self.log());
        }
    }

    /// A page's status and body, or its body alone if that is long.
    #[track_caller]
    pub fn curl(&self, url: &str) -> String {
        let said = self.sh(&format!("curl -s -w '\\n%{{http_code}}' {url}"));
        let (body, code) = said.rsplit_once('\n').expect("a code follows");
        if body.len() > 200 { body.to_owned() } else { format!("{code} {}", body.trim()) }
    }

    /// Waits until the log says this.
    #[track_caller]
    pub fn logged(&self, words: &str) {
        wait_for(&format!("{words:?} in the log, which is {}", self.log()), PATIENCE_SECS, || {
            self.log().contains(words).then_some(())
        });
    }
}

pub fn with_programs() -> String {
    format!("{}:{}", deb_bin().display(), std::env::var("PATH").unwrap_or_default())
}
