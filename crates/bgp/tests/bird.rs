//! Our speaker against BIRD 2, over real TCP between two network namespaces. Everything but the speaker is a stranger's.
//!
//! ```text
//!   namespace of the test thread                         namespace held by a file descriptor
//!   Driver (sockets, clock) ── ptl-t-a 192.0.2.1 ◄─veth─► 192.0.2.2 ptl-t-b ── bird, asked by birdc
//! ```
//!
//! Needs root and BIRD from `scripts/fetch-debs.sh`. The namespaces have no name: they go with the test.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use portolan_bgp::{
    Asn, ConnId, Direction, Effect, Export, Input, NextHops, PeerConfig, SessionState, Speaker, SpeakerConfig,
};

const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const BIRDS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const PATIENCE: Duration = Duration::from_secs(40);

const BIRD_CONF: &str = "
log stderr all;
router id 192.0.2.2;
protocol device {}
protocol static blocks4 { ipv4; route 10.244.2.0/26 blackhole; route 10.244.2.64/26 blackhole; }
protocol static blocks6 { ipv6; route fd00:10:244:2::/122 blackhole; }
protocol bgp portolan {
  local 192.0.2.2 as 64512;
  neighbor 192.0.2.1 as 64512;
  direct;
  hold time 9;
  connect delay time 1;
  connect retry time 1;
  error wait time 1, 2;
  ipv4 { import all; export where source = RTS_STATIC; next hop self; };
  ipv6 { import all; export where source = RTS_STATIC; next hop address 2001:db8::2; };
}
";

#[test]
fn bird_and_we_exchange_and_withdraw_routes_of_both_families() {
    let bird = Bird::start();
    let mut ours = Driver::start();
    let shared = blocks(1);
    ours.export(&shared);
    ours.peer_with_bird();
    ours.drive("the session and BIRD's three routes", |ours| ours.speaker.routes().len() == 3);
    assert_eq!(ours.gateway("10.244.2.0/26"), Some("192.0.2.2".to_owned()));
    assert_eq!(ours.gateway("fd00:10:244:2::/122"), Some("2001:db8::2".to_owned()));
    ours.drive("BIRD's End-of-RIB", |ours| ours.speaker.sessions()[0].complete);

    ours.drive("BIRD has both our blocks", |_| bird.has("10.244.1.0/26") && bird.has("fd00:10:244:1::/122"));
    let told = bird.ask("show route all 10.244.1.0/26");
    for line in [
        "via 192.0.2.1 on ptl-t-b",
        "BGP.origin: IGP",
        "BGP.as_path: \n",
        "BGP.next_hop: 192.0.2.1",
        "BGP.local_pref: 100",
    ] {
        assert!(told.contains(line), "no line {line:?} in\n{told}");
    }
    let told = bird.ask("show route all fd00:10:244:1::/122");
    assert!(told.contains("BGP.next_hop: 2001:db8::1"), "{told}");

    let fewer: BTreeSet<IpNet> = shared.iter().copied().filter(|prefix| prefix.addr().is_ipv6()).collect();
    ours.export(&fewer);
    ours.drive("BIRD hears the withdrawal", |_| !bird.has("10.244.1.0/26"));
    assert!(bird.has("fd00:10:244:1::/122"), "the other family stays");

    bird.ask("disable blocks4");
    ours.drive("BIRD's withdrawal", |ours| ours.speaker.routes().len() == 1);
    bird.ask("enable blocks4");
    ours.drive("the routes again", |ours| ours.speaker.routes().len() == 3);

    ours.export(&shared);
    ours.drive("BIRD has our block again", |_| bird.has("10.244.1.0/26"));
    bird.ask("reload in portolan");
    bird.ask("reload out portolan");
    ours.drive("a KEEPALIVE after the refreshes", |ours| ours.keepalives_heard > 1);
    assert!(bird.has("10.244.1.0/26") && bird.has("fd00:10:244:1::/122") && ours.speaker.routes().len() == 3);
    assert_eq!(ours.ups, 1, "one session all the time; BIRD's log:\n{}", bird.log());
}

#[test]
fn bird_takes_two_thousand_prefixes_and_a_session_comes_back_after_restarts_on_either_side() {
    let mut bird = Bird::start();
    let mut ours = Driver::start();
    ours.export(&(0..2000_u32).map(|i| net(&format!("10.{}.{}.{}/26", i / 1024, i / 4 % 256, i % 4 * 64))).collect());
    ours.peer_with_bird();
    ours.drive("2,000 routes at BIRD", |_| bird.ask("show route protocol portolan count").starts_with("2000 of "));
    ours.drive("BIRD's routes", |ours| ours.speaker.routes().len() == 3);

    bird.ask("restart portolan");
    ours.drive("the session after BIRD's restart", |ours| ours.ups == 2 && ours.speaker.routes().len() == 3);

    ours.set_peers(&BTreeMap::new());
    assert!(ours.speaker.routes().is_empty());
    ours.drive("BIRD drops all it had from us", |_| !bird.has("10.0.0.0/26"));
    ours.peer_with_bird();
    ours.drive("the session after ours", |ours| ours.ups == 3 && ours.speaker.routes().len() == 3);
    ours.drive("2,000 routes again", |_| bird.ask("show route protocol portolan count").starts_with("2000 of "));

    bird.kill();
    ours.drive("BIRD's routes go with its process", |ours| ours.speaker.routes().is_empty());
    assert_ne!(ours.speaker.sessions()[0].state, SessionState::Established);
}

fn net(text: &str) -> IpNet {
    text.parse().expect("tests write prefixes right")
}

fn blocks(i: u8) -> BTreeSet<IpNet> {
    [net(&format!("10.244.{i}.0/26")), net(&format!("fd00:10:244:{i}::/122"))].into()
}

/// What happens around the speaker.
enum Event {
    Dialed(IpAddr, Result<TcpStream, String>),
    Accepted(TcpStream),
    Input(Input),
}

/// The edge of a speaker: blocking sockets, a thread for each.
struct Driver {
    speaker: Speaker,
    conns: BTreeMap<ConnId, TcpStream>,
    next_conn: u64,
    events: Receiver<Event>,
    sender: Sender<Event>,
    ups: usize,
    keepalives_heard: usize,
}

impl Driver {
    fn start() -> Self {
        let mut config =
            SpeakerConfig::new(OURS, NextHops::of(&[OURS.into(), "2001:db8::1".parse().expect("an address")]));
        config.hold_time_secs = 9;
        let (sender, events) = channel();
        let listener = TcpListener::bind((OURS, 179)).expect("port 179 of a new namespace is free");
        let accepted = sender.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if accepted.send(Event::Accepted(stream)).is_err() {
                    return;
                }
            }
        });
        let (conns, speaker) = (BTreeMap::new(), Speaker::new(config));
        Self { speaker, conns, next_conn: 0, events, sender, ups: 0, keepalives_heard: 0 }
    }

    fn peer_with_bird(&mut self) {
        self.set_peers(&[(BIRDS.into(), PeerConfig::new(Asn::CLUSTER))].into());
    }

    fn set_peers(&mut self, peers: &BTreeMap<IpAddr, PeerConfig>) {
        let effects = self.speaker.set_peers(peers, Instant::now());
        self.carry_out(effects);
    }

    fn export(&mut self, prefixes: &BTreeSet<IpNet>) {
        let exports = prefixes.iter().map(|prefix| (*prefix, Export::default())).collect();
        let effects = self.speaker.set_exports(&exports, Instant::now());
        self.carry_out(effects);
    }

    fn gateway(&self, prefix: &str) -> Option<String> {
        self.speaker.routes().get(&net(prefix)).map(|route| route.gateway.to_string())
    }

    /// Serves sockets and timers until `reached`, which is asked after each event and at least ten times a second.
    fn drive(&mut self, what: &str, reached: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !reached(self) {
            let now = Instant::now();
            assert!(now < end, "waited in vain for: {what}; sessions: {:?}", self.speaker.sessions());
            let tick = now + Duration::from_millis(100);
            let until = self.speaker.next_deadline().map_or(tick, |at| at.min(tick));
            match self.events.recv_timeout(until.saturating_duration_since(now)) {
                Ok(event) => self.event(event),
                Err(RecvTimeoutError::Timeout) => self.hand_in(Input::Timer),
                Err(RecvTimeoutError::Disconnected) => unreachable!("we hold a sender ourselves"),
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Input(input) => self.hand_in(input),
            Event::Dialed(peer, Err(reason)) => self.hand_in(Input::ConnectFailed { peer, reason }),
            Event::Dialed(peer, Ok(stream)) => self.connected(peer, stream, Direction::Outbound),
            Event::Accepted(stream) => {
                let peer = stream.peer_addr().expect("just accepted").ip();
                self.connected(peer, stream, Direction::Inbound);
            }
        }
    }

    fn connected(&mut self, peer: IpAddr, stream: TcpStream, direction: Direction) {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        let reading = stream.try_clone().expect("a descriptor is left");
        let sender = self.sender.clone();
        thread::spawn(move || read_all(conn, reading, &sender));
        self.conns.insert(conn, stream);
        self.hand_in(Input::Connected { peer, conn, direction });
    }

    fn hand_in(&mut self, input: Input) {
        if let Input::Bytes { data, .. } = &input {
            self.keepalives_heard += usize::from(data.ends_with(&[0, 19, 4]));
        }
        let effects = self.speaker.handle(input, Instant::now());
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Connect { peer } => self.dial(peer),
                Effect::Send { conn, bytes } => {
                    let stream = self.conns.get_mut(&conn).expect("a speaker sends on open connections only");
                    // A failed write shows as the end of reading.
                    let _ = stream.write_all(&bytes);
                }
                Effect::Close { conn } => {
                    if let Some(stream) = self.conns.remove(&conn) {
                        let _ = stream.shutdown(Shutdown::Both);
                    }
                }
                Effect::Learned(..) => {}
                Effect::Log { message, .. } => self.ups += usize::from(message.contains("session established")),
            }
        }
    }

    fn dial(&self, peer: IpAddr) {
        let sender = self.sender.clone();
        thread::spawn(move || {
            let result = TcpStream::connect_timeout(&SocketAddr::new(peer, 179), Duration::from_secs(3));
            let _ = sender.send(Event::Dialed(peer, result.map_err(|error| error.to_string())));
        });
    }
}

fn read_all(conn: ConnId, mut stream: TcpStream, sender: &Sender<Event>) {
    let mut buffer = vec![0; 65536];
    loop {
        let input = match stream.read(&mut buffer) {
            Ok(0) | Err(_) => Input::Closed { conn },
            Ok(len) => Input::Bytes { conn, data: buffer[..len].to_vec() },
        };
        let is_last = matches!(input, Input::Closed { .. });
        if sender.send(Event::Input(input)).is_err() || is_last {
            return;
        }
    }
}

/// BIRD in a namespace of its own, linked to that of the calling thread, which becomes a new one too.
struct Bird {
    child: Child,
    folder: tempfile::TempDir,
}

impl Bird {
    fn start() -> Self {
        let theirs = thread::spawn(|| {
            leave_machine();
            File::open("/proc/thread-self/ns/net").expect("a thread has a namespace")
        });
        let theirs = theirs.join().expect("the namespace was made");
        leave_machine();
        link_to(&theirs);
        let folder = tempfile::tempdir().expect("a folder for BIRD's files");
        std::fs::write(folder.path().join("conf"), BIRD_CONF).expect("the folder is ours");
        let log = File::create(folder.path().join("log")).expect("the folder is ours");
        let mut command = Command::new(tool("bird"));
        command.arg("-f").args(["-c", "conf", "-s", "ctl", "-P", "pid"]).current_dir(folder.path());
        let child = inside(&theirs, &mut command).stdin(Stdio::null()).stderr(log).spawn().expect("bird starts");
        let mut bird = Self { child, folder };
        bird.wait_until_it_answers();
        bird
    }

    /// What birdc answers, without its greeting.
    fn ask(&self, question: &str) -> String {
        self.try_ask(question).unwrap_or_else(|why| panic!("birdc {question}: {why}; BIRD's log:\n{}", self.log()))
    }

    fn try_ask(&self, question: &str) -> Result<String, String> {
        let mut command = Command::new(tool("birdc"));
        let output = command.args(["-s", "ctl"]).args(question.split(' ')).current_dir(self.folder.path()).output();
        let output = output.map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        match text.split_once("ready.\n") {
            Some((_, answer)) => Ok(answer.to_owned()),
            None => Err(text + &String::from_utf8_lossy(&output.stderr)),
        }
    }

    fn has(&self, prefix: &str) -> bool {
        self.ask(&format!("show route protocol portolan {prefix}")).contains(&format!("{prefix} "))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn wait_until_it_answers(&mut self) {
        let end = Instant::now() + PATIENCE;
        while self.try_ask("show status").is_err() {
            let died = self.child.try_wait().expect("it is our child");
            assert!(died.is_none() && Instant::now() < end, "bird does not run; its log:\n{}", self.log());
            thread::yield_now();
        }
    }

    fn kill(&mut self) {
        // An error means that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Puts the calling thread into a new network namespace.
fn leave_machine() {
    // SAFETY: changes the namespace of this thread only; no memory is involved.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(
        result,
        0,
        "cannot make a network namespace: {}; run the tests as root",
        std::io::Error::last_os_error()
    );
}

/// Has `command` run in `namespace`, and die with the thread that starts it.
fn inside<'a>(namespace: &File, command: &'a mut Command) -> &'a mut Command {
    let fd = namespace.as_raw_fd();
    let enter = move || {
        // SAFETY: two system calls on integers; async-signal-safe.
        let result =
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) | libc::setns(fd, libc::CLONE_NEWNET) };
        if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: `enter` does system calls only, and `namespace` outlives the start of the command.
    unsafe { command.pre_exec(enter) }
}

fn link_to(theirs: &File) {
    let path = format!("/proc/{}/fd/{}", std::process::id(), theirs.as_raw_fd());
    ip(None, &["link", "add", "ptl-t-a", "type", "veth", "peer", "name", "ptl-t-b", "netns", &path]);
    for (side, name, v4, v6) in
        [(None, "ptl-t-a", OURS, "2001:db8::1/64"), (Some(theirs), "ptl-t-b", BIRDS, "2001:db8::2/64")]
    {
        ip(side, &["addr", "add", &format!("{v4}/24"), "dev", name]);
        ip(side, &["addr", "add", v6, "dev", name, "nodad"]);
        ip(side, &["link", "set", name, "up"]);
    }
}

fn ip(side: Option<&File>, args: &[&str]) {
    let mut command = Command::new(tool("ip"));
    command.args(args);
    if let Some(namespace) = side {
        inside(namespace, &mut command);
    }
    let output = command.output().expect("ip starts");
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A program that `scripts/fetch-debs.sh` fetched.
fn tool(name: &str) -> PathBuf {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/deb/bin");
    let folder = std::env::var_os("PORTOLAN_DEB_BIN").map_or(fetched, PathBuf::from);
    let path = folder.join(name);
    assert!(path.exists(), "{} is not there: run scripts/fetch-debs.sh", path.display());
    path
}
