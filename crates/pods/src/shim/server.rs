//! The shim's loop: one `poll` over the socket, its clients, SIGCHLD (signalfd) and the containers' output.
//!
//! SIGCHLD and not a pidfd per child: libcontainer leaves processes of its own behind when a start fails, and a
//! container's init does not end before every process in its PID namespace was waited for.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags};
use rustix::mount::{MountFlags, UnmountFlags};

use super::attach::{Attachments, Place};
use super::client::Seed;
use super::logfile::{LogFile, Output};
use super::protocol::{PROTOCOL_VERSION, Reply, Request, StartContainer};
use super::runtime::{self, Stdio};
use super::state::{Ended, PodState, ProcessId, Run, STATE_VERSION};
use super::wire::{self, Inbox, Received};
use super::{isolate, sandbox, stdio};
use crate::cgroups::PodCgroups;
use crate::ids::IdSpace;
use crate::image::InUse;
use crate::image::owners::{self, Owners};
use crate::limits::Limits;

/// Runs of a container that are kept in the state: the last and the one before.
const KEPT_RUNS: usize = 2;
/// Exit code of a container that could not be started, as containerd has it.
const START_ERROR: i32 = 128;

/// `pod-shim DIR`: answers on `DIR/shim.sock` for the pod in `DIR/pod.json`.
pub fn main(dir: PathBuf) -> ExitCode {
    match daemonize().and_then(|is_shim| if is_shim { Server::open(dir)?.run() } else { Ok(()) }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portolan pod-shim: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Leaves the agent: of two processes the second goes on, child of PID 1. `false` in the first.
fn daemonize() -> io::Result<bool> {
    // SAFETY: the hidden subcommand runs before any thread exists.
    match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => {}
        _ => return Ok(false),
    }
    rustix::process::setsid()?;
    // Orphans of an exec'd process come to us to be reaped.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    // Whatever the agent had open and forgot to close is none of a pod's business.
    // SAFETY: this process has opened nothing above its standard files yet.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    Ok(true)
}

/// SIGCHLD as something to poll. Blocked from here on; `Payload` and std unblock it in children.
fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: plain system calls on a set of our own; the new fd is ours alone.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        match libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

struct Server {
    dir: PathBuf,
    listener: UnixListener,
    state: PodState,
    clients: Vec<Client>,
    next_client: u64,
    signals: OwnedFd,
    /// Unreaped children by pid.
    children: HashMap<i32, ChildKind>,
    pumps: Vec<Pump>,
    logs: HashMap<String, LogFile>,
    /// The images that running containers have below them, by run.
    in_use: HashMap<String, InUse>,
    /// `None` where containers are not limited.
    cgroups: Option<PodCgroups>,
    attachments: Attachments,
    quitting: bool,
}

struct Client {
    id: u64,
    stream: UnixStream,
    inbox: Inbox,
    watches: bool,
    gone: bool,
}

enum ChildKind {
    Sandbox,
    Container(String),
    Exec(u64),
}

/// Moves one output of one container into its log.
struct Pump {
    run: String,
    output: Output,
    source: File,
}

/// What a poll entry stands for.
enum Source {
    Listener,
    Client(u64),
    Child,
    Pump(usize),
    Attached(Place),
}

impl Server {
    fn open(dir: PathBuf) -> io::Result<Self> {
        std::env::set_current_dir(&dir)?;
        let seed: Seed = serde_json::from_slice(&fs::read("pod.json")?)?;
        let cgroups = seed.limits.as_ref().map(|limits| PodCgroups::make(limits, &seed.pod.uid)).transpose()?;
        isolate::enter(seed.limits.as_ref())?;
        fs::create_dir_all(runtime::notes_dir(&dir))?;
        let _ = fs::remove_file("shim.sock");
        let listener = UnixListener::bind("shim.sock")?;
        let pid = std::process::id() as i32;
        let state = PodState {
            version: STATE_VERSION,
            pod: seed.pod,
            shim: ProcessId::of(pid).ok_or_else(|| io::Error::other("/proc does not show this process"))?,
            sandbox: None,
            generation: 0,
            notes: Default::default(),
            runs: seed.runs,
        };
        state.save(&dir)?;
        Ok(Self {
            dir,
            listener,
            state,
            clients: Vec::new(),
            next_client: 0,
            signals: child_signals()?,
            children: HashMap::new(),
            pumps: Vec::new(),
            logs: HashMap::new(),
            in_use: HashMap::new(),
            cgroups,
            attachments: Attachments::default(),
            quitting: false,
        })
    }

    fn run(mut self) -> io::Result<()> {
        while !self.quitting {
            for source in self.wait()? {
                match source {
                    Source::Listener => self.accept(),
                    Source::Client(id) => self.read_client(id),
                    Source::Child => self.reap(),
                    Source::Pump(index) => self.pump(index),
                    Source::Attached(place) => self.attachments.ready(place),
                }
            }
            self.pumps.retain(|pump| !pump.run.is_empty());
            self.let_go();
        }
        Ok(())
    }

    /// Blocks until something can be read.
    fn wait(&self) -> io::Result<Vec<Source>> {
        let mut sources = vec![Source::Listener];
        let mut fds: Vec<PollFd<'_>> = vec![PollFd::new(&self.listener, PollFlags::IN)];
        for client in &self.clients {
            sources.push(Source::Client(client.id));
            fds.push(PollFd::new(&client.stream, PollFlags::IN));
        }
        sources.push(Source::Child);
        fds.push(PollFd::new(&self.signals, PollFlags::IN));
        for (index, pump) in self.pumps.iter().enumerate().filter(|(_, pump)| !self.attachments.is_held(&pump.run)) {
            sources.push(Source::Pump(index));
            fds.push(PollFd::new(&pump.source, PollFlags::IN));
        }
        for (place, file, wanted) in self.attachments.watched() {
            sources.push(Source::Attached(place));
            fds.push(PollFd::from_borrowed_fd(file, wanted));
        }
        let patience = self.attachments.patience(Instant::now());
        let patience = patience.and_then(|patience| rustix::event::Timespec::try_from(patience).ok());
        match rustix::event::poll(&mut fds, patience.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        Ok(sources.into_iter().zip(ready).filter_map(|(source, ready)| ready.then_some(source)).collect())
    }

    fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else {
            return;
        };
        // A client that does not read must not stop the pod.
        let _ = stream.set_write_timeout(Some(std::time::Duration::from_secs(1)));
        self.next_client += 1;
        self.clients.push(Client {
            id: self.next_client,
            stream,
            inbox: Inbox::default(),
            watches: false,
            gone: false,
        });
    }

    fn read_client(&mut self, id: u64) {
        let Some(client) = self.clients.iter_mut().find(|client| client.id == id) else {
            return;
        };
        match client.inbox.fill(&client.stream) {
            Ok(Received::Bytes) => {}
            Ok(Received::Closed) | Err(_) => return client.gone = true,
        }
        loop {
            let Some(client) = self.clients.iter_mut().find(|client| client.id == id) else {
                return;
            };
            match client.inbox.next_frame::<Request>() {
                Ok(Some(request)) => {
                    let fds = client.inbox.take_fds();
                    self.answer(id, request, fds);
                }
                Ok(None) => return,
                Err(_) => return client.gone = true,
            }
        }
    }

    fn answer(&mut self, id: u64, request: Request, fds: Vec<OwnedFd>) {
        let reply = match request {
            Request::Hello { version } if version != PROTOCOL_VERSION => {
                Reply::Failed { message: format!("this shim speaks version {PROTOCOL_VERSION}, not {version}") }
            }
            Request::Hello { .. } => self.state_reply(),
            Request::Watch => {
                if let Some(client) = self.clients.iter_mut().find(|client| client.id == id) {
                    client.watches = true;
                }
                self.state_reply()
            }
            Request::Note { key, value } => {
                self.state.notes.insert(key, value);
                self.changed();
                Reply::Done
            }
            Request::Sandbox { hostname } => self.start_sandbox(hostname.as_deref()),
            Request::Start(start) => self.start_container(*start),
            Request::Signal { name, signal } => self.signal(&name, signal),
            Request::Exec { name, process, tty } => self.exec(id, &name, &process, tty, fds),
            Request::Attach { name, stdin } => self.attach(id, &name, stdin, fds),
            Request::Resize { columns, rows } => {
                self.attachments.resize(id, columns, rows);
                Reply::Done
            }
            Request::Quit => self.quit(),
        };
        self.send(id, &reply);
    }

    fn send(&mut self, id: u64, reply: &Reply) {
        let client = self.clients.iter_mut().find(|client| client.id == id);
        if let Some(client) = client.filter(|client| !client.gone) {
            client.gone = wire::send(&client.stream, reply, &[]).is_err();
        }
    }

    fn state_reply(&self) -> Reply {
        Reply::State { state: Box::new(self.state.clone()) }
    }

    /// Writes the state down, then tells those who watch.
    fn changed(&mut self) {
        self.state.generation += 1;
        if let Err(error) = self.state.save(&self.dir) {
            eprintln!("portolan pod-shim: cannot write state.json: {error}");
        }
        let reply = self.state_reply();
        let watching: Vec<u64> = self.clients.iter().filter(|client| client.watches).map(|client| client.id).collect();
        for id in watching {
            self.send(id, &reply);
        }
    }

    fn start_sandbox(&mut self, hostname: Option<&str>) -> Reply {
        if self.state.sandbox.is_some() {
            return Reply::Done;
        }
        let started =
            sandbox::start(&self.state.pod.to_string(), hostname).map(|pid| self.adopt(pid, ChildKind::Sandbox));
        match started {
            Ok(process) => {
                self.state.sandbox = Some(process);
                self.changed();
                Reply::Done
            }
            Err(error) => {
                Reply::Failed { message: format!("cannot start the sandbox of pod {}: {error}", self.state.pod) }
            }
        }
    }

    fn adopt(&mut self, pid: i32, kind: ChildKind) -> ProcessId {
        self.children.insert(pid, kind);
        // One that ended already still has its pid, for only we reap it.
        ProcessId::of(pid).unwrap_or(ProcessId { pid, start_ticks: 0 })
    }

    fn start_container(&mut self, start: StartContainer) -> Reply {
        let newest = self.state.last_run(&start.name);
        if newest.is_some_and(|run| run.ended.is_none() || run.attempt >= start.attempt) {
            return Reply::Failed {
                message: format!("container {} has run attempt {} already", start.name, start.attempt),
            };
        }
        let id = format!("{}-{}", start.name, start.attempt);
        let bundle = self.dir.join("bundles").join(&id);
        let mut run = Run {
            name: start.name.clone(),
            attempt: start.attempt,
            streak: start.streak,
            id: id.clone(),
            process: None,
            started_at: Timestamp::now(),
            ended: None,
            image: start.image.clone(),
            image_id: start.image_id.clone(),
            stop_signal: start.stop_signal,
            log: start.log.clone(),
        };
        let started = self.launch(&start, &id, &bundle);
        let reply = match started {
            Ok(process) => {
                run.process = Some(process);
                Reply::Done
            }
            Err(message) => {
                self.discard(&id);
                run.ended = Some(Ended {
                    at: Timestamp::now(),
                    exit_code: START_ERROR,
                    signal: None,
                    reason: "StartError".to_owned(),
                    message: Some(message.clone()),
                });
                Reply::Failed { message }
            }
        };
        self.state.runs.push(run);
        self.forget_old_runs(&start.name);
        self.changed();
        reply
    }

    fn launch(&mut self, start: &StartContainer, id: &str, bundle: &Path) -> Result<ProcessId, String> {
        let sandbox = self.state.sandbox.ok_or("the pod has no sandbox")?;
        let text = |what: &'static str| move |error: io::Error| format!("cannot {what}: {error}");
        let image = InUse::mark(&start.lower).map_err(text("find the unpacked image"))?;
        self.in_use.insert(id.to_owned(), image);
        let rootfs = mount_root(bundle, &start.lower).map_err(text("mount the root filesystem"))?;
        let spec = complete_spec(start.spec.clone(), &rootfs, sandbox.pid)?;
        fs::write(bundle.join("config.json"), spec.to_string()).map_err(text("write config.json"))?;
        let log = LogFile::open(&start.log).map_err(text("open the log"))?;
        let (far, near) = stdio::make(start.stdio).map_err(text("open standard files"))?;
        let doors = self.cgroup_of(id, Some(&start.limits)).map_err(text("limit it"))?;
        let pid = runtime::start(&self.dir, id, bundle, far, &doors)?;
        self.logs.insert(id.to_owned(), log);
        if let Some(input) = near.input {
            self.attachments.keep_input(id, input, start.stdio);
        }
        for (output, source) in near.outputs {
            self.pumps.push(Pump { run: id.to_owned(), output, source });
        }
        Ok(self.adopt(pid, ChildKind::Container(id.to_owned())))
    }

    /// The doors of a run's cgroup, which is made if limits are given; none where containers are not limited.
    fn cgroup_of(&self, id: &str, limits: Option<&Limits>) -> io::Result<Vec<File>> {
        let Some(cgroups) = &self.cgroups else { return Ok(Vec::new()) };
        if let Some(limits) = limits {
            cgroups.make_run(id, limits)?;
        }
        cgroups.doors(id)
    }

    /// Only the newest runs stay; what older ones left is deleted, their logs too.
    fn forget_old_runs(&mut self, name: &str) {
        let places: Vec<usize> = (0..self.state.runs.len()).filter(|at| self.state.runs[*at].name == name).collect();
        for at in places[..places.len().saturating_sub(KEPT_RUNS)].iter().rev() {
            let old = self.state.runs.remove(*at);
            let _ = fs::remove_file(&old.log);
            for number in 1.. {
                if fs::remove_file(super::logfile::rotated(&old.log, number)).is_err() {
                    break;
                }
            }
        }
    }

    fn signal(&mut self, name: &str, signal: i32) -> Reply {
        let process = self.state.last_run(name).and_then(|run| run.ended.is_none().then_some(run.process).flatten());
        if let Some(process) = process {
            process.signal(signal);
        }
        Reply::Done
    }

    fn exec(&mut self, id: u64, name: &str, process: &serde_json::Value, tty: bool, fds: Vec<OwnedFd>) -> Reply {
        let running = self.state.last_run(name).filter(|run| run.ended.is_none());
        let Some(run) = running.map(|run| run.id.clone()) else {
            return Reply::Failed { message: format!("container {name} is not running") };
        };
        let Ok([stdin, stdout, stderr]) = <[OwnedFd; 3]>::try_from(fds) else {
            return Reply::Failed { message: "an exec needs three open files".to_owned() };
        };
        let path = self.dir.join(format!("exec-{id}.json"));
        let stdio = Stdio { stdin, stdout, stderr, is_terminal: tty };
        let mut process = process.clone();
        IdSpace::current().fit_process(&mut process);
        let began = fs::write(&path, process.to_string())
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
            .and_then(|()| self.cgroup_of(&run, None).map_err(|error| format!("cannot join its limits: {error}")))
            .and_then(|doors| runtime::exec(&self.dir, &run, &path, stdio, &doors))
            .map(|pid| self.adopt(pid, ChildKind::Exec(id)));
        let _ = fs::remove_file(path);
        match began {
            Ok(_) => Reply::Began,
            Err(message) => Reply::Failed { message },
        }
    }

    fn attach(&mut self, id: u64, name: &str, stdin: bool, fds: Vec<OwnedFd>) -> Reply {
        let running = self.state.last_run(name).filter(|run| run.ended.is_none());
        let Some(run) = running.map(|run| run.id.clone()) else {
            return Reply::Failed { message: format!("container {name} is not running") };
        };
        let Ok(fds) = <[OwnedFd; 3]>::try_from(fds) else {
            return Reply::Failed { message: "an attach needs three open files".to_owned() };
        };
        match self.attachments.attach(id, &run, fds, stdin) {
            Ok(()) => Reply::Began,
            Err(error) => Reply::Failed { message: format!("cannot attach to container {name}: {error}") },
        }
    }

    /// Ends what is done: attached users for whom nothing more comes, and connections that closed.
    fn let_go(&mut self) {
        for id in self.attachments.finished(Instant::now()) {
            self.send(id, &Reply::Ended { code: 0 });
        }
        for client in self.clients.iter().filter(|client| client.gone) {
            self.attachments.forget(client.id);
        }
        self.clients.retain(|client| !client.gone);
    }

    /// Collects every child that ended; also those that libcontainer left behind when it failed.
    fn reap(&mut self) {
        let mut seen = [0; 1024];
        while rustix::io::read(&self.signals, &mut seen).is_ok() {}
        let mut changed = false;
        loop {
            let mut status = 0;
            // SAFETY: waitpid writes to the integer only.
            let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
            if pid <= 0 {
                break;
            }
            let Some(kind) = self.children.remove(&pid) else {
                continue;
            };
            let (exit_code, signal) = outcome(status);
            match kind {
                ChildKind::Exec(client) => self.send(client, &Reply::Ended { code: exit_code }),
                ChildKind::Sandbox => {
                    self.state.sandbox = None;
                    changed = true;
                }
                ChildKind::Container(id) => {
                    self.container_ended(&id, exit_code, signal);
                    changed = true;
                }
            }
        }
        if changed {
            self.changed();
        }
    }

    fn container_ended(&mut self, id: &str, exit_code: i32, signal: Option<i32>) {
        let own: Vec<usize> = (0..self.pumps.len()).filter(|at| self.pumps[*at].run == id).collect();
        for index in own {
            while self.pump_once(index) {}
            self.pumps[index].run.clear();
        }
        self.attachments.end(id);
        let now = Timestamp::now();
        if let Some(mut log) = self.logs.remove(id) {
            let _ = log.finish(now);
        }
        let was_oom_killed = self.cgroups.as_ref().is_some_and(|cgroups| cgroups.was_oom_killed(id));
        self.discard(id);
        if let Some(run) = self.state.runs.iter_mut().find(|run| run.id == id) {
            let reason = match exit_code {
                0 => "Completed",
                _ if was_oom_killed => "OOMKilled",
                _ => "Error",
            };
            run.ended = Some(Ended { at: now, exit_code, signal, reason: reason.to_owned(), message: None });
        }
    }

    /// Unmounts and deletes a container's root; its log stays.
    fn discard(&mut self, id: &str) {
        let bundle = self.dir.join("bundles").join(id);
        let _ = rustix::mount::unmount(bundle.join("rootfs"), UnmountFlags::DETACH);
        let _ = fs::remove_dir_all(bundle);
        let _ = fs::remove_dir_all(runtime::notes_dir(&self.dir).join(id));
        self.in_use.remove(id);
        if let Some(cgroups) = &self.cgroups {
            cgroups.remove_run(id);
        }
    }

    /// Reads what there is now, unless a user has to take some of it first.
    fn pump(&mut self, index: usize) {
        while self.pump_once(index) && !self.attachments.is_held(&self.pumps[index].run) {}
    }

    /// Reads once; `false`: there is nothing more now. A pump whose source has ended names no run.
    fn pump_once(&mut self, index: usize) -> bool {
        let pump = &mut self.pumps[index];
        let mut buffer = [0; 16 * 1024];
        match pump.source.read(&mut buffer) {
            Ok(count @ 1..) => {
                if let Some(log) = self.logs.get_mut(&pump.run) {
                    let _ = log.write(pump.output, &buffer[..count], Timestamp::now());
                }
                self.attachments.output(&pump.run, pump.output, &buffer[..count]);
                true
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            // A terminal that nobody has open any more says EIO.
            Ok(_) | Err(_) => {
                pump.run.clear();
                false
            }
        }
    }

    /// Kills all children and waits for them; the caller deletes the folder.
    fn quit(&mut self) -> Reply {
        for (pid, _) in self.children.drain() {
            // SAFETY: kill and waitpid take plain numbers; these are unreaped children of ours.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, std::ptr::null_mut(), 0);
            }
        }
        self.quitting = true;
        Reply::Done
    }
}

/// Exit code as a shell has it, and the signal if there was one.
fn outcome(status: i32) -> (i32, Option<i32>) {
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        (128 + signal, Some(signal))
    } else {
        (libc::WEXITSTATUS(status), None)
    }
}

/// The image below, the container's own changes above.
fn mount_root(bundle: &Path, lower: &Path) -> io::Result<PathBuf> {
    let _ = fs::remove_dir_all(bundle);
    let rootfs = bundle.join("rootfs");
    for folder in ["rootfs", "upper", "work"] {
        fs::create_dir_all(bundle.join(folder))?;
    }
    let ids = IdSpace::current();
    let notes = if ids == IdSpace::Whole { "" } else { ",userxattr" }; // `trusted.` attributes are the machine's root's
    let options = format!(
        "lowerdir={},upperdir={},workdir={}{notes}",
        escaped(lower),
        escaped(&bundle.join("upper")),
        escaped(&bundle.join("work"))
    );
    let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
    rustix::mount::mount("overlay", &rootfs, "overlay", MountFlags::empty(), options.as_c_str())?;
    if ids == IdSpace::Some {
        owners::apply(&Owners::load(lower)?, &rootfs)?;
    }
    Ok(rootfs)
}

/// Colons and commas part overlay's options.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,")
}

/// Fills in what only the shim knows: the root and the sandbox's namespaces (`sandbox` in the spec's paths).
fn complete_spec(mut spec: serde_json::Value, rootfs: &Path, sandbox: i32) -> Result<serde_json::Value, String> {
    let root = spec.get_mut("root").and_then(|root| root.get_mut("path")).ok_or("the spec has no root")?;
    *root = rootfs.display().to_string().into();
    let ids = IdSpace::current();
    ids.fit_process(&mut spec["process"]);
    ids.fit_mounts(&mut spec);
    let namespaces = spec
        .pointer_mut("/linux/namespaces")
        .and_then(|list| list.as_array_mut())
        .ok_or("the spec has no namespaces")?;
    for namespace in namespaces {
        if let Some(path) = namespace.get_mut("path") {
            let kind = path.as_str().unwrap_or_default().trim_start_matches("sandbox/");
            *path = format!("/proc/{sandbox}/ns/{kind}").into();
        }
    }
    Ok(spec)
}
