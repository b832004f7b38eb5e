//! A load of new connections: threads of the test's own process in network namespaces of the lab.
//!
//! One request per connection. A failure is kept with its time, what kind it is, and what conntrack says of the flow: the
//! pod that it was sent to.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portolan_kernel::netns;
use portolan_lab::Place;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType};

use crate::support::World;

/// A machine under load is slow; a lost packet is sent again after 1 s, 3 s, 7 s.
const PATIENCE: Duration = Duration::from_secs(15);
/// Leaves the machine some time for what is tested.
const PAUSE: Duration = Duration::from_millis(4);
/// Of a slow reader: so much at once, so often.
const SIP_BYTES: usize = 128 * 1024;
const SIP_PAUSE: Duration = Duration::from_millis(40);

/// Where requests come from and go to.
pub struct Source {
    pub name: &'static str,
    pub place: Place,
    /// The node whose rules choose the endpoint.
    pub node: &'static str,
    pub target: SocketAddr,
    pub path: &'static str,
    /// Reads the answer slowly, so that it lasts beyond the end of the pod that sends it.
    pub slowly: bool,
}

/// What went wrong with one request.
#[derive(Clone, Debug)]
pub struct Failure {
    pub source: &'static str,
    /// Since the load began.
    pub at: Duration,
    pub took: Duration,
    pub kind: String,
    /// What conntrack of the node had of it.
    pub flow: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Failure { source, at, took, kind, flow } = self;
        write!(f, "{:.3}s {source}: {kind} after {took:?}; {flow}", at.as_secs_f64())
    }
}

/// A running load.
pub struct Load {
    stop: Arc<AtomicBool>,
    began: Instant,
    asked: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<Failure>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// One thread per source, each in its place's network namespace.
    pub fn begin(world: &'static World, sources: Vec<Source>) -> Load {
        let mut load = Load {
            stop: Arc::default(),
            began: Instant::now(),
            asked: Arc::default(),
            failures: Arc::default(),
            threads: Vec::new(),
        };
        for source in sources {
            let netns = network_of(world, &source.place);
            let (stop, asked, failures, began) =
                (load.stop.clone(), load.asked.clone(), load.failures.clone(), load.began);
            let run = move || {
                while !stop.load(Ordering::Relaxed) {
                    let from = Instant::now();
                    let failed = request(&source).err();
                    asked.fetch_add(1, Ordering::Relaxed);
                    if let Some((port, error)) = failed {
                        let (at, took, kind) = (from.duration_since(began), from.elapsed(), kind(&error));
                        let flow = flow(world, source.node, port);
                        let failure = Failure { source: source.name, at, took, kind, flow };
                        failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
                    }
                    std::thread::sleep(PAUSE);
                }
            };
            load.threads.push(std::thread::spawn(move || netns::run_in(netns.as_fd(), run).expect("entered")));
        }
        load
    }

    /// Requests that have ended.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    pub fn failed(&self) -> usize {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Lets the requests under way end; how many there were, and those that failed.
    pub fn end(self) -> (usize, Vec<Failure>) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        let failures = std::mem::take(&mut *self.failures.lock().unwrap_or_else(PoisonError::into_inner));
        (self.asked.load(Ordering::Relaxed), failures)
    }
}

/// A place's network namespace, by a process that is there for a moment.
fn network_of(world: &World, place: &Place) -> OwnedFd {
    let mut command = world.lab().command(place, "cat").expect("the place is there");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cat runs");
    let netns = netns::open(Path::new(&format!("/proc/{}/ns/net", child.id()))).expect("it runs");
    drop(child.stdin.take());
    child.wait().expect("cat ends with its input");
    let id = |netns: &OwnedFd| netns::id(netns.as_fd()).expect("a namespace");
    assert_ne!(id(&netns), id(&netns::current().expect("our own")), "never from the machine's own network");
    netns
}

/// The local port, for a flow is known by it, and why it failed.
type Failed = (u16, io::Error);

fn request(source: &Source) -> Result<(), Failed> {
    let (socket, port) = bound().map_err(|error| (0, error.into()))?;
    connect(&socket, source.target).map_err(|error| (port, error.into()))?;
    exchange(&mut TcpStream::from(socket), source).map_err(|error| (port, error))
}

/// A socket that has its port before it connects, so that a refusal can be looked up too.
fn bound() -> rustix::io::Result<(OwnedFd, u16)> {
    let socket = net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    net::bind(&socket, &SocketAddr::from(([0, 0, 0, 0], 0)))?;
    let own = SocketAddr::try_from(net::getsockname(&socket)?)?;
    Ok((socket, own.port()))
}

/// Blocks for [`PATIENCE`] at most: the time limit of sending is that of connecting.
fn connect(socket: &OwnedFd, target: SocketAddr) -> rustix::io::Result<()> {
    net::sockopt::set_socket_timeout(socket, net::sockopt::Timeout::Send, Some(PATIENCE))?;
    net::connect(socket, &target)
}

fn exchange(stream: &mut TcpStream, source: &Source) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {} HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n", source.path)?;
    let mut answer = Vec::new();
    let mut sip = vec![0; SIP_BYTES];
    loop {
        match stream.read(&mut sip)? {
            0 => return whole(&answer),
            got => answer.extend_from_slice(&sip[..got]),
        }
        if source.slowly {
            std::thread::sleep(SIP_PAUSE);
        }
    }
}

/// Status 200 and as many bytes as announced.
fn whole(answer: &[u8]) -> io::Result<()> {
    let bad = |what: String| Err(io::Error::new(ErrorKind::UnexpectedEof, what));
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return bad(format!("short read: {} bytes and no header", answer.len()));
    };
    let header = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    if !header.starts_with("http/1.1 200") {
        return bad(format!("status: {}", header.lines().next().unwrap_or_default()));
    }
    let announced: Option<usize> = header.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    match (announced, answer.len() - end - 4) {
        (Some(announced), got) if announced == got => Ok(()),
        (announced, got) => bad(format!("short read: {got} bytes of {announced:?}")),
    }
}

fn kind(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "refused".to_owned(),
        ErrorKind::ConnectionReset => "reset".to_owned(),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "timeout".to_owned(),
        // A connect that its time limit broke off.
        _ if error.raw_os_error() == Some(libc::EINPROGRESS) => "timeout".to_owned(),
        _ => error.to_string(),
    }
}

/// The flow from a client's port as the node's conntrack has it; the pod that it went to is the source of the reply.
fn flow(world: &World, node: &str, port: u16) -> String {
    let said = world.at(node, &["conntrack", "-L", "-p", "tcp", "--sport", &port.to_string()]).out;
    let words: Vec<&str> = said.split_whitespace().collect();
    match words.is_empty() {
        true => "no flow, so the node itself refused it".to_owned(),
        false => words.join(" "),
    }
}
