//! A machine for one server: a network namespace with loopback alone, a folder, a resolv.conf of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use portolan_kernel::netns;

use super::wire::{Question, Seen, try_udp};
use crate::support::{Said, deb_bin, portolan, wait_for};

/// Where the server under test answers.
pub const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 53);
/// For whatever a program does on a machine with much else to do.
const PATIENCE_SECS: u64 = 60;

pub struct Place {
    netns: OwnedFd,
    pub home: tempfile::TempDir,
}

/// A program that runs; it ends with the value.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)) | Err(_))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended by itself is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Place {
    pub fn new() -> Place {
        let home = tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder");
        let place = Place { netns: netns::create().expect("a network namespace, as root"), home };
        place.write("resolv.conf", "nameserver 127.0.0.53\n");
        place.sh("ip link set lo up");
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.path(name), text).expect("a file of ours");
        self.path(name)
    }

    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::run_in(self.netns.as_fd(), work).expect("the namespace can be entered")
    }

    /// What a script says here, with Debian's programs at hand.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.try_sh(script).done()
    }

    pub fn try_sh(&self, script: &str) -> Said {
        let mut command = Command::new("sh");
        command.args(["-ec", script]).env("PATH", path()).current_dir(self.home.path()).stdin(Stdio::null());
        own_resolv_conf(&mut command, &self.path("resolv.conf"));
        Said::from(self.inside(|| command.output().expect("sh runs")))
    }

    /// Starts a program here; its words go to the file `NAME.log`.
    pub fn start(&self, name: &str, command: &mut Command) -> Running {
        let log = self.path(&format!("{name}.log"));
        let file = fs::File::create(&log).expect("a file");
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a file")).stderr(file);
        own_resolv_conf(command, &self.path("resolv.conf"));
        Running { child: self.inside(|| command.spawn().expect("it starts")), log }
    }

    /// Starts a script's last program.
    pub fn start_sh(&self, name: &str, script: &str) -> Running {
        self.start(name, Command::new("sh").args(["-ec", script]).env("PATH", path()).current_dir(self.home.path()))
    }

    /// `portolan dns` of the file `objects.yaml` at [`SERVER`], once it answers from them.
    pub fn serve(&self, flags: &[String]) -> Running {
        let mut command = portolan();
        command.arg("dns").arg("-f").arg(self.path("objects.yaml")).args(["--listen", &SERVER.to_string()]).args(flags);
        let mut running = self.start("dns", &mut command);
        self.wait_answer(SERVER, &mut running);
        // Before it has read its files, what it does not know is SERVFAIL.
        let packet = Question::new("nobody.nowhere.svc.cluster.local.", "A").packet(2);
        wait_for("the objects to be served", PATIENCE_SECS, || {
            let bytes = self.inside(|| try_udp(SERVER, Ipv4Addr::LOCALHOST, &packet, Duration::from_secs(5)))?;
            (Seen::read(&bytes).rcode == "NXDOMAIN").then_some(())
        });
        running
    }

    /// Waits until anything is answered there.
    pub fn wait_answer(&self, server: SocketAddr, running: &mut Running) {
        let packet = Question::new("cluster.local.", "SOA").packet(1);
        wait_for(&format!("an answer of {server}"), PATIENCE_SECS, || {
            assert!(!running.has_ended(), "it ended: {}", running.log());
            self.inside(|| try_udp(server, Ipv4Addr::LOCALHOST, &packet, Duration::from_millis(300)))
        });
    }
}

/// Debian's programs first: what they write and read is the same on each machine.
fn path() -> String {
    format!("{}:{}", deb_bin().display(), std::env::var("PATH").unwrap_or_default())
}

/// Gives the program a mount namespace in which /etc/resolv.conf is `file`.
fn own_resolv_conf(command: &mut Command, file: &Path) {
    let file = std::ffi::CString::new(file.as_os_str().as_bytes()).expect("a path without NUL");
    let done = |code: i32| if code == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) };
    // SAFETY: unshare and mount are system calls on values made before the fork; nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            done(libc::unshare(libc::CLONE_NEWNS))?;
            let none = std::ptr::null();
            done(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()))?;
            done(libc::mount(file.as_ptr(), c"/etc/resolv.conf".as_ptr(), none, libc::MS_BIND, none.cast()))
        });
    }
}
