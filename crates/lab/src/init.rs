//! Lab init, PID 1 of the lab: makes the LAN and the places, starts and restarts the lab's processes,
//! reaps, and answers the control socket. One thread, one poll loop.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use portolan_kernel::bridge;
use portolan_kernel::iptables::DIR_VARIABLE;
use portolan_kernel::netns::{self, Entry};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::commands::{self, LISTEN_FD};
use crate::config::{Files, LabConfig, LabFile};
use crate::control::{self, NodeStatus, Place, Reply, Request, Status, UnitStatus};
use crate::error::{LabError, file, system};
use crate::keeper::{INIT_LIFELINE, LISTENER, READY};
use crate::lan::{self, Cuts};
use crate::place::{self, Blueprint, Rooms};
use crate::process::{self, Ended, block_none, die_with_parent, high, inherited, pass, read_signals, signals};
use crate::topology::{HostSpec, Topology};
use crate::unit::Unit;

/// `lab-init STATE_DIR`
pub(crate) fn run(state_dir: &Path) -> ExitCode {
    let mut ready = match inherited(READY) {
        Ok(fd) => fs::File::from(fd),
        Err(error) => {
            eprintln!("init: started without its descriptors: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = Init::start(state_dir).and_then(|init| {
        ready.write_all(b"ok").map_err(system("cannot tell that the lab is up"))?;
        Ok(init)
    });
    match outcome {
        Ok(init) => {
            drop(ready);
            init.serve()
        }
        Err(error) => {
            eprintln!("init: {error}");
            let _ = write!(ready, "{error}"); // nobody left to tell otherwise
            ExitCode::FAILURE
        }
    }
}

struct Init {
    config: LabConfig,
    topology: Topology,
    files: Files,
    listener: OwnedFd,
    lifeline: OwnedFd,
    signal_fd: OwnedFd,
    control: UnixListener,
    outside: Rooms,
    api_server: Rooms,
    /// `None`: the node is stopped.
    nodes: Vec<Option<Rooms>>,
    units: Vec<Unit>,
    cuts: Cuts,
}

impl Init {
    fn start(state_dir: &Path) -> Result<Init, LabError> {
        let take = |number| inherited(number).map_err(system("init was started without its descriptors"));
        let (listener, lifeline) = (take(LISTENER)?, take(INIT_LIFELINE)?);
        let config = LabFile::load(state_dir)?.config;
        let files = Files::new(state_dir);
        let topology = config.topology();
        let signal_fd = signals(&[libc::SIGCHLD]).map_err(system("cannot take signals"))?;
        place::make_mounts_private()?;
        place::mount_proc()?;
        let host_name = format!("portolan-{}", config.name);
        rustix::system::sethostname(host_name.as_bytes()).map_err(system("cannot set the host name"))?;
        place::make_lan()?;
        let visible = visible_paths(&config);
        let make = |host: &HostSpec| make_place(host, &topology, &files, &visible);
        // These two read and write the lab's own files; below /run they would be covered by the place's own.
        let with_state: Vec<PathBuf> = visible.iter().chain([&config.state_dir]).cloned().collect();
        let outside = make_place(&topology.outside(), &topology, &files, &with_state)?;
        let api_server = make_place(&topology.api_server(), &topology, &files, &with_state)?;
        let nodes = (1..=config.nodes).map(|n| make(&topology.node(n)).map(Some)).collect::<Result<Vec<_>, _>>()?;
        let control = listen(&files)?;
        let units = units(&config, &topology, &files, Instant::now());
        Ok(Init {
            config,
            topology,
            files,
            listener,
            lifeline,
            signal_fd,
            control,
            outside,
            api_server,
            nodes,
            units,
            cuts: Cuts::default(),
        })
    }

    /// Until the keeper is gone or kills us.
    fn serve(mut self) -> ExitCode {
        loop {
            self.start_due_units();
            match self.wait() {
                Ok(true) => {}
                Ok(false) => return ExitCode::SUCCESS, // PID 1's end is everybody's
                Err(error) => eprintln!("init: cannot wait: {error}"),
            }
            read_signals(&self.signal_fd);
            self.reap();
            while let Ok((stream, _)) = self.control.accept() {
                self.serve_client(&stream);
            }
        }
    }

    /// False when the keeper is gone.
    fn wait(&self) -> io::Result<bool> {
        let mut polled = [
            PollFd::new(&self.signal_fd, PollFlags::IN),
            PollFd::new(&self.control, PollFlags::IN),
            PollFd::from_borrowed_fd(self.lifeline.as_fd(), PollFlags::empty()),
        ];
        let next = self.units.iter().filter_map(Unit::next_start).min();
        let timeout = next.map(|at| timespec(at.saturating_duration_since(Instant::now())));
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(!polled[2].revents().intersects(PollFlags::HUP | PollFlags::ERR))
    }

    fn reap(&mut self) {
        while let Some((pid, how)) = process::reap() {
            let now = Instant::now();
            if let Some(unit) = self.units.iter_mut().find(|unit| unit.pid() == Some(pid)) {
                eprintln!("init: {} (pid {pid}) ended: {how}", unit.name);
                unit.ended(how, now);
            }
        }
    }

    fn start_due_units(&mut self) {
        let now = Instant::now();
        for index in 0..self.units.len() {
            if !self.units[index].is_due(now) {
                continue;
            }
            match self.spawn(&self.units[index]) {
                Ok(pid) => self.units[index].started(pid, now),
                Err(error) => {
                    eprintln!("init: cannot start {}: {error}", self.units[index].name);
                    self.units[index].ended(Ended::Code(127), now);
                }
            }
        }
    }

    fn spawn(&self, unit: &Unit) -> Result<i32, LabError> {
        let rooms = self.rooms(&unit.place).ok_or_else(|| no_place(&unit.place))?;
        let entry = rooms.entry.try_clone().map_err(system("cannot copy descriptors"))?;
        let log = self.files.log(&unit.name);
        let open = fs::OpenOptions::new().create(true).append(true).open(&log).map_err(file("cannot open", &log))?;
        let errors = open.try_clone().map_err(file("cannot open", &log))?;
        let mut command = Command::new(self.program());
        command.arg0("portolan").args(&unit.argv).current_dir("/");
        command.stdin(Stdio::null()).stdout(open).stderr(errors);
        command.envs(environment(&self.config)).envs(self.config.env.iter().map(|(k, v)| (k, v)));
        if unit.gets_listener {
            let copy = self.listener.try_clone().and_then(high).map_err(system("cannot copy the listener"))?;
            pass(&mut command, vec![(copy, LISTEN_FD)]);
        }
        // SAFETY: setns, prctl and sigprocmask only; init has one thread.
        unsafe {
            command.pre_exec(move || {
                die_with_parent()?;
                block_none()?;
                entry.enter()
            })
        };
        let child = command.spawn().map_err(system(format!("cannot start {}", unit.name)))?;
        Ok(child.id() as i32)
    }

    /// The program by its path, so that `ps` shows its name; by /proc if that is another by now.
    fn program(&self) -> PathBuf {
        let own = fs::metadata("/proc/self/exe").map(|m| (m.dev(), m.ino())).ok();
        let there = fs::metadata(&self.config.exe).map(|m| (m.dev(), m.ino())).ok();
        let is_same = own.is_some() && own == there && !self.config.exe.starts_with("/run");
        if is_same { self.config.exe.clone() } else { PathBuf::from("/proc/self/exe") }
    }

    fn rooms(&self, place: &Place) -> Option<&Rooms> {
        match place {
            Place::Outside => Some(&self.outside),
            Place::ApiServer => Some(&self.api_server),
            Place::Node(number) => self.nodes.get(number.checked_sub(1)?)?.as_ref(),
            Place::Init | Place::Pod { .. } => None,
        }
    }

    fn serve_client(&mut self, stream: &UnixStream) {
        let outcome = control::read_request(stream).and_then(|request| {
            let (reply, entry) = self.carry_out(request);
            control::answer(stream, &reply, entry.as_ref())
        });
        if let Err(error) = outcome {
            eprintln!("init: a client of the control socket was lost: {error}");
        }
    }

    fn carry_out(&mut self, request: Request) -> (Reply, Option<Entry>) {
        let done = match request {
            Request::Status => return (Reply::Status(self.status()), None),
            Request::Enter(place) => match self.entry(&place) {
                Ok(entry) => return (Reply::Entered, Some(entry)),
                Err(error) => Err(error),
            },
            Request::StopNode(number) => self.stop_node(number),
            Request::StartNode(number) => self.start_node(number),
            Request::Cut(a, b) => {
                self.change_cuts(|nodes, cuts| lan::ends(&a, &b, nodes).and_then(|(a, b)| cuts.with(&a, &b)))
            }
            Request::Heal(a, b) => {
                self.change_cuts(|nodes, cuts| lan::ends(&a, &b, nodes).and_then(|(a, b)| cuts.without(&a, &b)))
            }
            Request::HealAll => self.change_cuts(|_, _| Ok(Cuts::default())),
            Request::Signal { unit, signal } => self.signal(&unit, signal),
        };
        (done.map_or_else(|error| Reply::Refused(error.to_string()), |()| Reply::Done), None)
    }

    fn status(&self) -> Status {
        let node = |(index, rooms): (usize, &Option<Rooms>)| {
            let host = self.topology.node(index + 1);
            NodeStatus { name: host.name, address: host.address.addr(), plugged: rooms.is_some() }
        };
        let unit = |unit: &Unit| UnitStatus {
            name: unit.name.clone(),
            pid: unit.pid(),
            restarts: unit.restarts,
            last_end: unit.last_end.map(|how| how.to_string()),
        };
        Status {
            name: self.config.name.clone(),
            nodes: self.nodes.iter().enumerate().map(node).collect(),
            units: self.units.iter().map(unit).collect(),
            cuts: self.cuts.pairs(),
        }
    }

    /// Every namespace of a place: three of its own, the lab's for the rest. The user namespace is for those outside it.
    fn entry(&self, place: &Place) -> Result<Entry, LabError> {
        let mut entry = Entry::of_process(std::process::id(), &["user", "mnt", "uts", "ipc", "net", "cgroup", "pid"])?;
        let copy = |fd: &Option<OwnedFd>| {
            fd.as_ref().map(OwnedFd::try_clone).transpose().map_err(system("cannot copy descriptors"))
        };
        let (rooms, sandbox) = match place {
            Place::Init => return Ok(entry),
            Place::Pod { namespace, name } => {
                let (number, pid) = self.find_pod(namespace, name).ok_or_else(|| no_place(place))?;
                (self.rooms(&Place::Node(number)), Some(pid))
            }
            other => (self.rooms(other), None),
        };
        let rooms = rooms.ok_or_else(|| no_place(place))?;
        entry.mount = copy(&rooms.entry.mount)?;
        entry.uts = copy(&rooms.entry.uts)?;
        entry.net = copy(&rooms.entry.net)?;
        if let Some(pid) = sandbox {
            let of_pod = Entry::of_process(pid, &["uts", "net"])?;
            (entry.uts, entry.net) = (of_pod.uts, of_pod.net);
        }
        Ok(entry)
    }

    /// The node and the sandbox's pid of a pod, from the state files in the nodes' /run.
    fn find_pod(&self, namespace: &str, name: &str) -> Option<(usize, u32)> {
        let nodes = self.nodes.iter().enumerate().filter_map(|(index, rooms)| Some((index + 1, rooms.as_ref()?)));
        nodes.into_iter().find_map(|(number, rooms)| {
            let pods = format!("/proc/self/fd/{}/portolan/pods", rooms.run.as_raw_fd());
            let states = fs::read_dir(pods).ok()?.flatten().map(|pod| pod.path().join("state.json"));
            let pid = states.filter_map(|path| fs::read(path).ok()).find_map(|s| sandbox_of(&s, namespace, name))?;
            Some((number, pid))
        })
    }

    fn signal(&self, name: &str, number: i32) -> Result<(), LabError> {
        let unit = self.units.iter().find(|unit| unit.name == name);
        let unit = unit.ok_or_else(|| LabError::NoSuchPlace {
            place: name.to_owned(),
            hint: "`portolan status` lists the lab's processes".into(),
        })?;
        let pid = unit.pid().ok_or_else(|| LabError::Refused(format!("{name} is not running now")))?;
        process::signal(pid, number);
        Ok(())
    }

    /// What the kernel refused is not remembered as cut.
    fn change_cuts(&mut self, change: impl FnOnce(usize, &Cuts) -> Result<Cuts, LabError>) -> Result<(), LabError> {
        let cuts = change(self.nodes.len(), &self.cuts)?;
        bridge::drop_between(lan::TABLE, &cuts.ports())?;
        self.cuts = cuts;
        Ok(())
    }

    fn stop_node(&mut self, number: usize) -> Result<(), LabError> {
        let place = Place::Node(number);
        if matches!(self.nodes.get(number.wrapping_sub(1)), Some(None)) {
            return Err(LabError::Refused(format!("{place} is off already; `portolan node start {place}` starts it")));
        }
        let net = self.rooms(&place).ok_or_else(|| no_place(&place))?.entry.net.as_ref();
        let id = net.and_then(|fd| netns::id(fd.as_fd()).ok()).ok_or_else(|| no_place(&place))?;
        if let Some(unit) = self.units.iter_mut().find(|unit| unit.place == place) {
            unit.stop();
        }
        end_everything_in(id);
        place::unplug(&self.topology.node(number))?;
        self.nodes[number - 1] = None;
        Ok(())
    }

    fn start_node(&mut self, number: usize) -> Result<(), LabError> {
        let place = Place::Node(number);
        if self.rooms(&place).is_some() {
            return Err(LabError::Refused(format!("{place} is on already; `portolan node stop {place}` stops it")));
        }
        if number == 0 || number > self.nodes.len() {
            return Err(no_place(&place));
        }
        let host = self.topology.node(number);
        let rooms = make_place(&host, &self.topology, &self.files, &visible_paths(&self.config))?;
        self.nodes[number - 1] = Some(rooms);
        if let Some(unit) = self.units.iter_mut().find(|unit| unit.place == place) {
            unit.start(Instant::now());
        }
        Ok(())
    }
}

fn no_place(place: &Place) -> LabError {
    let hint = match place {
        Place::Pod { .. } => "`kubectl get pods -A` lists pods; it must have been started".into(),
        _ => "`portolan status` lists the nodes and whether they run".into(),
    };
    LabError::NoSuchPlace { place: place.to_string(), hint }
}

fn make_place(host: &HostSpec, topology: &Topology, files: &Files, visible: &[PathBuf]) -> Result<Rooms, LabError> {
    let own_dir = files.place(&host.name);
    fs::create_dir_all(&own_dir).map_err(file("cannot make the folder", &own_dir))?;
    place::make(&Blueprint { host, topology, own_dir: &own_dir, visible })
}

fn visible_paths(config: &LabConfig) -> Vec<PathBuf> {
    let asked = (!config.registries.is_empty()).then(|| Files::new(&config.state_dir).image_source());
    std::iter::once(config.image_store.clone()).chain(config.iptables_dir.clone()).chain(asked).collect()
}

fn listen(files: &Files) -> Result<UnixListener, LabError> {
    let path = files.control();
    let listener = UnixListener::bind(&path).map_err(file("cannot listen on", &path))?;
    listener.set_nonblocking(true).map_err(file("cannot listen on", &path))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(file("cannot close", &path))?;
    Ok(listener)
}

fn units(config: &LabConfig, topology: &Topology, files: &Files, now: Instant) -> Vec<Unit> {
    let server = commands::server(config, files, &topology.api_server());
    let mut units = vec![
        Unit::new("upstream".into(), Place::Outside, commands::upstream(files), now),
        Unit::new("apiserver".into(), Place::ApiServer, server, now).with_listener(),
    ];
    units.extend((1..=config.nodes).map(|number| {
        let argv = commands::agent(config, &topology.node(number));
        Unit::new(commands::agent_unit(number), Place::Node(number), argv, now)
    }));
    units
}

/// PATH with the lab's own programs in front, and where iptables is.
pub(crate) fn environment(config: &LabConfig) -> Vec<(&'static str, std::ffi::OsString)> {
    let Some(dir) = &config.iptables_dir else {
        return Vec::new();
    };
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    let all = std::iter::once(dir.clone()).chain(std::env::split_paths(&path));
    let joined = std::env::join_paths(all).unwrap_or(path);
    vec![("PATH", joined), (DIR_VARIABLE, dir.clone().into_os_string())]
}

/// The sandbox's pid if this is that pod's state and it has one.
fn sandbox_of(state: &[u8], namespace: &str, name: &str) -> Option<u32> {
    let state: serde_json::Value = serde_json::from_slice(state).ok()?;
    let is = |field: &str, value: &str| state["pod"][field] == value;
    if !is("namespace", namespace) || !is("name", name) {
        return None;
    }
    u32::try_from(state["sandbox"]["pid"].as_u64()?).ok()
}

/// Kills the processes whose network namespace this is, and all their descendants.
fn end_everything_in(net_id: u64) {
    const ROUNDS: usize = 5; // one may fork while we look
    for _ in 0..ROUNDS {
        let doomed = processes_of(net_id);
        if doomed.is_empty() {
            return;
        }
        doomed.into_iter().for_each(|pid| process::signal(pid, libc::SIGKILL));
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn processes_of(net_id: u64) -> HashSet<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids: Vec<i32> = entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(|pid| *pid > 1).collect();
    let parents: HashMap<i32, i32> = pids.iter().filter_map(|pid| Some((*pid, process::parent_of(*pid)?))).collect();
    let is_inside = |pid: &i32| fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|m| m.ino() == net_id);
    let mut doomed: HashSet<i32> = pids.iter().copied().filter(is_inside).collect();
    loop {
        let more: Vec<i32> = pids
            .iter()
            .copied()
            .filter(|pid| !doomed.contains(pid) && parents.get(pid).is_some_and(|parent| doomed.contains(parent)))
            .collect();
        if more.is_empty() {
            return doomed;
        }
        doomed.extend(more);
    }
}

fn timespec(wait: Duration) -> Timespec {
    // Rounded up, or a poll that ends a little early would be repeated until the time is there.
    let wait = wait + Duration::from_millis(1);
    Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_sandbox_is_found_by_its_name_and_namespace_only() {
        let state = br#"{"version":1,"pod":{"namespace":"default","name":"web","uid":"u"},"sandbox":{"pid":42,"start_ticks":7}}"#;
        assert_eq!(sandbox_of(state, "default", "web"), Some(42));
        assert_eq!(sandbox_of(state, "other", "web"), None);
        assert_eq!(
            sandbox_of(br#"{"pod":{"namespace":"default","name":"web"},"sandbox":null}"#, "default", "web"),
            None
        );
        assert_eq!(sandbox_of(b"half a fi", "default", "web"), None);
    }

    #[test]
    fn the_labs_own_programs_come_first_on_path() {
        let mut config = LabConfig::new("lab", 1, "/exe".into(), "/images".into());
        assert!(environment(&config).is_empty());
        config.iptables_dir = Some("/deb/bin".into());
        let environment = environment(&config);
        assert!(environment[0].1.to_str().unwrap().starts_with("/deb/bin:"), "{environment:?}");
    }

    #[test]
    fn every_node_has_an_agent_and_only_the_server_gets_the_listener() {
        let config = LabConfig::new("lab", 2, "/exe".into(), "/images".into());
        let units = units(&config, &config.topology(), &Files::new(Path::new("/s")), Instant::now());
        let names: Vec<_> = units.iter().map(|u| (u.name.as_str(), u.gets_listener)).collect();
        let expected = [("upstream", false), ("apiserver", true), ("agent-node-1", false), ("agent-node-2", false)];
        assert_eq!(names, expected);
        assert_eq!(units[3].place.to_string(), "node-2");
    }
}
