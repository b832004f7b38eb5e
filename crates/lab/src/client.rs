//! A running lab, seen from the machine: status, commands inside, the end.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use portolan_kernel::netns::{self, Entry};

use crate::cgroups::Limits;
use crate::config::{Files, LabConfig, LabFile};
use crate::control::{self, Place, Reply, Request, Status};
use crate::error::{LabError, file};
use crate::identity::Identity;
use crate::process::die_with_parent;
use crate::{ground, init, lan, lock, process};

/// A lab that is up.
#[derive(Debug, Clone)]
pub struct Lab {
    files: Files,
    config: LabConfig,
    api_port: u16,
    limits: Limits,
    identity: Identity,
    instead_because: Option<String>,
}

/// What a command in the lab printed.
#[derive(Debug, Clone)]
pub struct Captured {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Lab {
    /// The lab whose state is in this folder.
    pub fn open(state_dir: &Path) -> Result<Lab, LabError> {
        ground::check(state_dir)?;
        if !lock::is_held(state_dir) {
            let name = state_dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Err(LabError::NotUp { name });
        }
        let LabFile { config, api_port, limits, identity, instead_because } = LabFile::load(state_dir)?;
        Ok(Lab { files: Files::new(state_dir), config, api_port, limits, identity, instead_because })
    }

    pub fn config(&self) -> &LabConfig {
        &self.config
    }

    /// As whom it runs.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Why it has one id only though a range was wished for or would be better; `None` if it is as told.
    pub fn instead_because(&self) -> Option<&str> {
        self.instead_because.as_deref()
    }

    /// Where the machine reaches the API: 127.0.0.1 and this port.
    pub fn api_port(&self) -> u16 {
        self.api_port
    }

    /// Whether the lab's containers are limited.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.files.kubeconfig()
    }

    /// The log of one of the lab's processes; `init` has one too.
    pub fn log(&self, unit: &str) -> PathBuf {
        self.files.log(unit)
    }

    pub fn logs(&self) -> PathBuf {
        self.files.logs()
    }

    /// What `outside`'s resolver was asked: `TIME server=ADDRESS from=ADDRESS NAME TYPE` a line.
    pub fn upstream_queries(&self) -> PathBuf {
        self.files.upstream_queries()
    }

    pub fn status(&self) -> Result<Status, LabError> {
        match self.ask(&Request::Status)? {
            (Reply::Status(status), _) => Ok(status),
            (other, _) => Err(LabError::Refused(format!("{other:?}"))),
        }
    }

    /// A command that will run at a place, with the lab's programs on its PATH; the caller sets
    /// arguments and streams as usual. Killing the child ends the command.
    pub fn command(&self, place: &Place, program: impl AsRef<OsStr>) -> Result<Command, LabError> {
        let mut entry = match self.ask(&Request::Enter(place.clone()))? {
            (Reply::Entered, Some(entry)) => entry,
            (other, _) => return Err(LabError::Refused(format!("{other:?}"))),
        };
        if entry.user.as_ref().is_some_and(is_own_user_namespace) {
            entry.user = None; // nobody may enter where they are
        }
        let mut command = Command::new(program);
        command.envs(init::environment(&self.config)).env("PORTOLAN_LAB", &self.config.name);
        // SAFETY: setns, fork, waitpid and exit only, in a forked process with one thread.
        unsafe { command.pre_exec(move || enter(&entry)) };
        Ok(command)
    }

    /// Runs a command with this process's own streams and waits for it. Ctrl-C reaches the command only.
    pub fn run_in<S: AsRef<OsStr>>(&self, place: &Place, argv: &[S]) -> Result<ExitStatus, LabError> {
        let mut command = self.command_line(place, argv)?;
        let _quiet = IgnoreInterrupts::begin();
        command.status().map_err(cannot_run(argv))
    }

    /// Runs a command without input and returns what it printed.
    pub fn capture<S: AsRef<OsStr>>(&self, place: &Place, argv: &[S]) -> Result<Captured, LabError> {
        let mut command = self.command_line(place, argv)?;
        let output = command.stdin(Stdio::null()).output().map_err(cannot_run(argv))?;
        Ok(Captured { status: output.status, stdout: output.stdout, stderr: output.stderr })
    }

    fn command_line<S: AsRef<OsStr>>(&self, place: &Place, argv: &[S]) -> Result<Command, LabError> {
        let (program, args) = argv.split_first().ok_or_else(|| LabError::Refused("no command given".into()))?;
        let mut command = self.command(place, program)?;
        command.args(args);
        Ok(command)
    }

    /// Ends everything on a node and unplugs it, as if its power failed.
    pub fn stop_node(&self, number: usize) -> Result<(), LabError> {
        self.ask(&Request::StopNode(number)).map(drop)
    }

    pub fn start_node(&self, number: usize) -> Result<(), LabError> {
        self.ask(&Request::StartNode(number)).map(drop)
    }

    /// The number of the node of that name.
    ///
    /// # Errors
    /// The lab has no such node.
    pub fn node_number(&self, name: &str) -> Result<usize, LabError> {
        lan::node_number(name, self.config.nodes)
    }

    /// Lets no frame pass between two hosts on the LAN, neither way, until it is healed. Nodes, `outside` and
    /// `apiserver` are hosts.
    ///
    /// # Errors
    /// One of them is no host of this lab's LAN, they are one, they are cut already, or the kernel's bridge takes no rules.
    pub fn cut(&self, a: &Place, b: &Place) -> Result<(), LabError> {
        lan::ends(a, b, self.config.nodes)?;
        self.ask(&Request::Cut(a.clone(), b.clone())).map(drop)
    }

    /// Takes a cut back.
    ///
    /// # Errors
    /// As [`Lab::cut`]; also if nothing is cut there.
    pub fn heal(&self, a: &Place, b: &Place) -> Result<(), LabError> {
        lan::ends(a, b, self.config.nodes)?;
        self.ask(&Request::Heal(a.clone(), b.clone())).map(drop)
    }

    /// Takes every cut back; none is success.
    pub fn heal_all(&self) -> Result<(), LabError> {
        self.ask(&Request::HealAll).map(drop)
    }

    /// Signals one of the lab's processes (`apiserver`, `agent-node-1`); if it ends, init starts it again.
    pub fn signal(&self, unit: &str, signal: i32) -> Result<(), LabError> {
        self.ask(&Request::Signal { unit: unit.to_owned(), signal }).map(drop)
    }

    /// The pid of a process of the lab, in the lab's PID namespace.
    pub fn pid(&self, unit: &str) -> Result<Option<i32>, LabError> {
        let units = self.status()?.units;
        Ok(units.into_iter().find(|u| u.name == unit).and_then(|u| u.pid))
    }

    /// The keeper's pid on the machine.
    pub fn keeper_pid(&self) -> Result<i32, LabError> {
        let path = self.files.keeper_pid();
        let text = fs::read_to_string(&path).map_err(file("cannot read", &path))?;
        text.trim().parse().map_err(|_| LabError::Refused(format!("{text:?} is no pid")))
    }

    /// The pid of the lab's init on the machine: killing it ends the lab.
    pub fn init_pid(&self) -> Result<i32, LabError> {
        let keeper = self.keeper_pid()?;
        process::children(keeper)
            .into_iter()
            .next()
            .ok_or_else(|| LabError::Refused(format!("the keeper, process {keeper}, has no child")))
    }

    /// Ends the lab and returns when nothing of it is left.
    pub fn down(&self) -> Result<(), LabError> {
        const PATIENCE: Duration = Duration::from_secs(20);
        let pid = self.keeper_pid()?;
        // The lock is held, so its holder lives and the pid is still the keeper's.
        if lock::is_held(&self.files.dir) {
            process::signal(pid, libc::SIGTERM);
        }
        let until = Instant::now() + PATIENCE;
        while lock::is_held(&self.files.dir) {
            if Instant::now() > until {
                let name = &self.config.name;
                return Err(LabError::Refused(format!("lab {name} did not end; its keeper is process {pid}")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn ask(&self, request: &Request) -> Result<(Reply, Option<Entry>), LabError> {
        let socket = self.files.control();
        let asked = control::ask(&socket, request);
        match asked.map_err(file("cannot ask the lab's init by", &socket))? {
            (Reply::Refused(reason), _) => Err(LabError::Refused(reason)),
            answer => Ok(answer),
        }
    }
}

/// The labs that are up, by name.
pub fn list(root: &Path) -> Vec<Lab> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let mut labs: Vec<Lab> = entries.filter_map(|entry| Lab::open(&entry.path()).ok()).collect();
    labs.sort_by(|a, b| a.config.name.cmp(&b.config.name));
    labs
}

/// The lab of that name, or the only one that is up.
pub fn find(root: &Path, name: Option<&str>) -> Result<Lab, LabError> {
    if let Some(name) = name {
        return Lab::open(&root.join(name));
    }
    let mut labs = list(root);
    match labs.len() {
        1 => Ok(labs.remove(0)),
        0 => Err(LabError::NoneUp),
        _ => Err(LabError::Ambiguous {
            names: labs.iter().map(|l| l.config.name.as_str()).collect::<Vec<_>>().join(", "),
        }),
    }
}

/// Removes the files of labs whose keeper died without doing so; returns their names.
pub fn sweep(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    let mut swept = Vec::new();
    for folder in folders {
        // The lock is taken while we remove, or a lab that starts now would lose its files.
        if let Ok(Some(lock)) = lock::take(&folder) {
            LabFile::clear_cgroups(&folder);
            if fs::remove_dir_all(&folder).is_ok() {
                swept.push(folder.file_name().unwrap_or_default().to_string_lossy().into_owned());
            }
            lock::remove(&lock, &folder);
        }
    }
    swept
}

fn is_own_user_namespace(user: &OwnedFd) -> bool {
    let own = fs::metadata("/proc/self/ns/user").map(|own| own.ino()).ok();
    own.is_some() && own == netns::id(user.as_fd()).ok()
}

fn cannot_run<S: AsRef<OsStr>>(argv: &[S]) -> impl FnOnce(io::Error) -> LabError {
    let program = argv.first().map(|a| a.as_ref().to_string_lossy().into_owned()).unwrap_or_default();
    move |source| LabError::System { what: format!("cannot run {program}"), source }
}

/// In the forked child: enters the namespaces and forks again, since only a child is in the new PID
/// namespace. The process in between waits and ends as its child ended.
fn enter(entry: &Entry) -> io::Result<()> {
    entry.enter()?;
    // SAFETY: this process has one thread; what follows makes system calls only.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            die_with_parent()?;
            for signal in [libc::SIGINT, libc::SIGQUIT] {
                // SAFETY: sets the default action.
                unsafe { libc::signal(signal, libc::SIG_DFL) };
            }
            Ok(())
        }
        child => wait_and_end_alike(child),
    }
}

fn wait_and_end_alike(child: libc::pid_t) -> ! {
    // SAFETY: system calls with plain numbers and one local; never returns, so no destructor runs twice.
    unsafe {
        // The spawning process learns that exec worked when all copies of a pipe are closed.
        libc::syscall(libc::SYS_close_range, 3 as libc::c_uint, libc::c_uint::MAX, 0 as libc::c_uint);
        libc::signal(libc::SIGINT, libc::SIG_IGN);
        libc::signal(libc::SIGQUIT, libc::SIG_IGN);
        let mut status = 0;
        while libc::waitpid(child, &mut status, 0) < 0 {
            if *libc::__errno_location() != libc::EINTR {
                libc::_exit(127);
            }
        }
        if libc::WIFSIGNALED(status) {
            let signal = libc::WTERMSIG(status);
            libc::signal(signal, libc::SIG_DFL);
            libc::kill(libc::getpid(), signal);
        }
        libc::_exit(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 127 });
    }
}

/// While this lives, Ctrl-C and Ctrl-\ do not end this process.
struct IgnoreInterrupts {
    before: [(libc::c_int, libc::sighandler_t); 2],
}

impl IgnoreInterrupts {
    fn begin() -> IgnoreInterrupts {
        // SAFETY: replaces the action of two signals by "ignore".
        let ignore = |signal| (signal, unsafe { libc::signal(signal, libc::SIG_IGN) });
        IgnoreInterrupts { before: [libc::SIGINT, libc::SIGQUIT].map(ignore) }
    }
}

impl Drop for IgnoreInterrupts {
    fn drop(&mut self) {
        for (signal, action) in self.before {
            // SAFETY: puts back what was there.
            unsafe { libc::signal(signal, action) };
        }
    }
}

impl Captured {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output and then standard error as text.
    pub fn all_text(&self) -> String {
        self.text() + &String::from_utf8_lossy(&self.stderr)
    }

    /// As a shell counts it: 128 and the signal's number for one that was killed.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or_default())
    }
}
