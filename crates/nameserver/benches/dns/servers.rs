//! The servers: how each is configured and started on its core, and what it used.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::generator::{Generator, Pace};
use crate::zone::{Case, DOMAIN, Zone};
use crate::{Counts, Outcome, bare, own};

/// The core that servers answer on; the load comes from the other.
const SERVER_CORE: usize = 0;
pub const LOAD_CORE: usize = 1;
/// A zone of 10,000 Services is read in less, on a busy machine too.
const START_WITHIN: Duration = Duration::from_secs(120);

pub struct Programs {
    pub deb_bin: PathBuf,
    pub portolan: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Bare,
    Ours,
    Nsd,
    Knot,
    Unbound,
    Dnsmasq,
    /// Ours again, with nothing but a forwarder and its cache.
    OursForwarding,
}

impl Kind {
    pub const ALL: [Self; 7] =
        [Self::Bare, Self::Ours, Self::Nsd, Self::Knot, Self::Unbound, Self::Dnsmasq, Self::OursForwarding];

    /// Those that are measured: all, or those that `PORTOLAN_BENCH_ONLY` names.
    pub fn asked_for() -> Vec<Self> {
        let only = std::env::var("PORTOLAN_BENCH_ONLY").ok();
        let is_asked = |kind: &Self| only.as_ref().is_none_or(|only| only.split(',').any(|o| o == format!("{kind:?}")));
        Self::ALL.into_iter().filter(is_asked).collect()
    }

    pub fn words(self) -> &'static str {
        match self {
            Self::Bare => "bare loop (the limit)",
            Self::Ours => "**Portolan**",
            Self::Nsd => "NSD",
            Self::Knot => "Knot",
            Self::Unbound => "unbound, all from its cache",
            Self::Dnsmasq => "dnsmasq, a hosts file",
            Self::OursForwarding => "**Portolan, all from its cache**",
        }
    }

    fn port(self) -> u16 {
        5320 + self as u16
    }

    pub fn addr(self) -> SocketAddr {
        ([127, 0, 0, 1], self.port()).into()
    }

    /// What it can be asked. The bare loop has one answer; a hosts file has no SRV, and says NODATA to none.
    pub fn answers(self, case: Case) -> bool {
        match self {
            Self::Bare | Self::Dnsmasq => case == Case::Hits,
            Self::Unbound | Self::OursForwarding => matches!(case, Case::Hits | Case::Mix),
            _ => true,
        }
    }
}

/// Makes this process a network namespace with nothing but a loopback, before it has threads.
pub fn isolate() -> Outcome<()> {
    // SAFETY: no pointers; no other thread is there yet.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err("a network namespace of its own needs root: try sudo".into());
    }
    let mut netlink = portolan_kernel::Netlink::open()?;
    let lo = netlink.link("lo")?.index;
    Ok(netlink.set_up(lo)?)
}

/// Keeps the calling thread, and what it starts, on one core.
pub fn pin(core: usize) -> std::io::Result<()> {
    // SAFETY: an all-zero set is valid and outlives the call.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        match libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    }
}

/// A server at work with all its processes; killed with this.
pub struct Server {
    pub kind: Kind,
    child: Child,
}

impl Server {
    /// Starts it and waits until it answers all questions rightly once, which also fills a cache.
    pub fn start(kind: Kind, programs: &Programs, zone: &Zone, counts: Counts, folder: &Path) -> Outcome<Self> {
        let folder = folder.join(format!("{kind:?}"));
        fs::create_dir_all(&folder)?;
        let server = Self::spawn(kind, command(kind, programs, zone, counts, &folder)?, &folder)?;
        server.warm(zone, &folder)?;
        Ok(server)
    }

    /// As ours, with nothing to serve: what the program itself takes.
    pub fn idle(programs: &Programs, folder: &Path) -> Outcome<Self> {
        let (folder, counts) = (folder.join("idle"), Counts { services: 0, namespaces: 1, ..crate::QUICK });
        fs::create_dir_all(&folder)?;
        let zone = Zone::new(counts);
        let server = Self::spawn(Kind::Ours, command(Kind::Ours, programs, &zone, counts, &folder)?, &folder)?;
        std::thread::sleep(Duration::from_secs(1));
        Ok(server)
    }

    fn spawn(kind: Kind, mut command: Command, folder: &Path) -> Outcome<Self> {
        let said = fs::File::create(folder.join("said"))?;
        command.current_dir(folder).stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said).process_group(0);
        // SAFETY: one system call between fork and exec.
        unsafe { command.pre_exec(|| pin(SERVER_CORE)) };
        let child = command.spawn().map_err(|e| format!("cannot start {kind:?}: {e}"))?;
        Ok(Self { kind, child })
    }

    fn warm(&self, zone: &Zone, folder: &Path) -> Outcome<()> {
        let start = Instant::now();
        let cases: Vec<Case> = Case::ALL.into_iter().filter(|case| self.kind.answers(*case)).collect();
        for case in cases {
            let questions = zone.questions(case);
            loop {
                let once = Generator::connect(self.kind.addr())?.once(&questions);
                match &once {
                    Ok(run) if run.wrong + run.lost == 0 => break,
                    _ if start.elapsed() < START_WITHIN => std::thread::sleep(Duration::from_millis(200)),
                    other => {
                        let said = fs::read_to_string(folder.join("said")).unwrap_or_default();
                        return Err(
                            format!("{:?} does not answer {}: {other:?}\n{said}", self.kind, case.words()).into()
                        );
                    }
                }
            }
        }
        Ok(())
    }

    /// Every process of its group, itself first.
    fn pids(&self) -> Vec<u32> {
        let group = self.child.id();
        let of_group = |pid: &u32| stat(*pid).is_some_and(|fields| fields[2] == group.to_string());
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(of_group).collect()
    }

    /// CPU time of all its threads, in user and kernel: what utime and stime are made of, without their steps of 10 ms.
    pub fn cpu(&self) -> Duration {
        let tasks = |pid: u32| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let nanos = |task: fs::DirEntry| -> Option<u64> {
            fs::read_to_string(task.path().join("schedstat")).ok()?.split_whitespace().next()?.parse().ok()
        };
        Duration::from_nanos(self.pids().into_iter().flat_map(tasks).filter_map(nanos).sum())
    }

    /// Memory that is its own alone, in KiB.
    pub fn private_kib(&self) -> u64 {
        let of = |pid: u32| fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let number = |line: &str| line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        let private = |text: String| text.lines().filter(|l| l.starts_with("Private_")).map(number).sum::<u64>();
        self.pids().into_iter().map(|pid| private(of(pid))).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SAFETY: no pointers; the group is the one this server was started in.
        unsafe { libc::kill(-(self.child.id() as i32), libc::SIGKILL) };
        let _ = self.child.wait();
    }
}

/// The fields of /proc/PID/stat after the program's name: state, parent, group, … (proc(5)).
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

fn command(kind: Kind, programs: &Programs, zone: &Zone, counts: Counts, folder: &Path) -> Outcome<Command> {
    let (addr, port) = (kind.addr(), kind.port());
    let write = |name: &str, text: &str| fs::write(folder.join(name), text);
    let debian = |name: &str, args: &[&str]| {
        let mut command = Command::new(programs.deb_bin.join(name));
        command.args(args);
        command
    };
    let own = || std::env::current_exe().map(Command::new);
    Ok(match kind {
        Kind::Bare => {
            let mut command = own()?;
            command.args([bare::CHILD, &addr.to_string()]);
            command
        }
        Kind::Ours | Kind::OursForwarding => {
            write("objects.yaml", &zone.objects())?;
            let knot = Kind::Knot.addr();
            write(
                "Corefile",
                &format!(
                    ".:{port} {{\n  forward . {knot}\n  cache 3600 {{\n    success 40000 3600\n    denial 40000 3600\n  }}\n}}\n"
                ),
            )?;
            let mut command = match &programs.portolan {
                Some(portolan) => {
                    let mut command = Command::new(portolan);
                    command.args(["dns", "-f", "objects.yaml"]);
                    command
                }
                None => own()?,
            };
            match (&programs.portolan, kind) {
                (Some(_), Kind::OursForwarding) => {
                    command.args(["--corefile", "Corefile", "--listen", &addr.to_string()])
                }
                (Some(_), _) => command.args(["--listen", &addr.to_string()]),
                (None, Kind::OursForwarding) => command.args([own::FORWARDING, &addr.to_string(), &knot.to_string()]),
                (None, _) => command.args([
                    own::CHILD,
                    &addr.to_string(),
                    &counts.services.to_string(),
                    &counts.namespaces.to_string(),
                ]),
            };
            command
        }
        Kind::Nsd => {
            write("zone", &zone.zone_file())?;
            write(
                "nsd.conf",
                &format!(
                    "server:\n server-count: 1\n ip-address: 127.0.0.1@{port}\n username: \"\"\n zonesdir: \".\"\n \
                     database: \"\"\n pidfile: \"nsd.pid\"\n xfrdfile: \"xfrd\"\n zonelistfile: \"zones\"\n \
                     xfrdir: \".\"\n rrl-ratelimit: 0\nremote-control:\n control-enable: no\n\
                     zone:\n name: {DOMAIN}\n zonefile: zone\n"
                ),
            )?;
            debian("nsd", &["-d", "-c", "nsd.conf"])
        }
        Kind::Knot => {
            write("zone", &zone.zone_file())?;
            write(
                "knot.conf",
                &format!(
                    "server:\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n  rundir: .\n  \
                     listen: 127.0.0.1@{port}\ndatabase:\n  storage: .\ntemplate:\n  - id: default\n    storage: .\n    \
                     zonefile-sync: -1\nzone:\n  - domain: {DOMAIN}\n    file: zone\n"
                ),
            )?;
            debian("knotd", &["-c", "knot.conf"])
        }
        Kind::Unbound => {
            let knot = Kind::Knot.addr();
            write(
                "unbound.conf",
                &format!(
                    "server:\n  num-threads: 1\n  interface: 127.0.0.1@{port}\n  username: \"\"\n  chroot: \"\"\n  \
                     directory: \".\"\n  pidfile: \"unbound.pid\"\n  use-syslog: no\n  do-not-query-localhost: no\n  \
                     module-config: \"iterator\"\n  msg-cache-size: 64m\n  rrset-cache-size: 128m\n  \
                     cache-min-ttl: 3600\n  local-zone: \"{DOMAIN}.\" nodefault\nremote-control:\n  control-enable: no\n\
                     forward-zone:\n  name: \"{DOMAIN}.\"\n  forward-addr: {}@{}\n",
                    knot.ip(),
                    knot.port()
                ),
            )?;
            debian("unbound", &["-d", "-c", "unbound.conf"])
        }
        Kind::Dnsmasq => {
            write("hosts", &zone.hosts_file())?;
            write(
                "dnsmasq.conf",
                &format!(
                    "port={port}\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\naddn-hosts={}\n\
                     user=root\ngroup=root\ncache-size=10000\npid-file=\n",
                    // It leaves the folder it was started in.
                    folder.join("hosts").display()
                ),
            )?;
            debian("dnsmasq", &["-k", "-C", "dnsmasq.conf"])
        }
    })
}

/// What dnsperf sees, in answers per second; `None` if it did not come to an end.
pub fn dnsperf(programs: &Programs, to: SocketAddr, queries: &Path, length: Duration) -> Option<f64> {
    let (secs, port) = (length.as_secs().max(1).to_string(), to.port().to_string());
    let mut command = Command::new(programs.deb_bin.join("dnsperf"));
    command.args(["-s", "127.0.0.1", "-p", &port, "-l", &secs, "-c", "10", "-q", "100", "-d"]).arg(queries);
    // SAFETY: one system call between fork and exec.
    unsafe { command.pre_exec(|| pin(LOAD_CORE)) };
    let said = String::from_utf8(command.output().ok()?.stdout).ok()?;
    let line = said.lines().find_map(|line| line.trim().strip_prefix("Queries per second:"))?;
    line.trim().parse().ok()
}

/// Full speed with as many under way as the field's load tools keep, and a node's steady load.
pub const FULL: Pace = Pace::UnderWay(128);
pub const STEADY: Pace = Pace::PerSecond(20_000);
