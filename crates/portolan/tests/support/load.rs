//! Constant load from places in a lab: one new connection or lookup after another, each with its time and outcome.
//!
//! Sent by threads of the test in the places' network namespaces, so that nothing that is killed in the lab ends them.

// Each test binary uses its own part of this room.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portolan_kernel::netns;
use portolan_lab::{Lab, Place};

use crate::support::wait_for;

/// Requests after which a load has shown something.
pub const ENOUGH: usize = 20;
/// Between two requests: the machine has other work too.
const PAUSE: Duration = Duration::from_millis(15);
/// A first packet that is lost is sent again after a second.
const HTTP_PATIENCE: Duration = Duration::from_secs(2);
/// Least time after which TCP sends a lost packet again; after a second if it was the first.
const SHORTEST_LOSS: Duration = Duration::from_millis(200);
/// Packets that may be lost on the way of one load. One was, while rules were written, in some hundred thousand requests; a
/// way that is broken for half a second loses a dozen and more.
const STRAY: usize = 2;
const DNS_PATIENCE: Duration = Duration::from_secs(1);
/// The cluster DNS of every lab.
const CLUSTER_DNS: &str = "10.96.0.10:53";

/// One request, from the load's start.
#[derive(Clone, Debug)]
pub struct Asked {
    pub at: Duration,
    pub took: Duration,
    pub outcome: Result<Answer, String>,
}

/// How an answer came.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answer {
    Straight,
    /// TCP had to send a packet again.
    AfterLoss,
}

/// Requests from one place, until told to end.
pub struct Load {
    what: String,
    stop: Arc<AtomicBool>,
    log: Arc<Mutex<Vec<Asked>>>,
    thread: Option<JoinHandle<()>>,
}

/// What a load saw.
#[derive(Debug)]
pub struct Seen {
    pub what: String,
    pub asked: usize,
    pub failed: Vec<Asked>,
    /// Answered, but not straight.
    pub late: Vec<Asked>,
    pub slowest: Duration,
}

impl Load {
    /// New connections to `address`, each with one request.
    pub fn http(lab: &Lab, from: &Place, address: &str) -> Load {
        let to: SocketAddr = address.parse().expect("an address and a port");
        Load::begin(lab, from, format!("{from} to {to}"), move |_| get(to))
    }

    /// Lookups of A records of `name` at the cluster DNS, one datagram each and none again.
    pub fn dns(lab: &Lab, from: &Place, name: &str) -> Load {
        let question = name.to_owned();
        Load::begin(lab, from, format!("lookups from {from}"), move |number| look_up(&question, number))
    }

    fn begin(
        lab: &Lab,
        from: &Place,
        what: String,
        ask: impl Fn(u16) -> Result<Answer, String> + Send + Sync + 'static,
    ) -> Load {
        let (stop, log) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (network, stopped, seen) = (network_of(lab, from), stop.clone(), log.clone());
        let began = Instant::now();
        let ask_once = move |number: u16| {
            let at = began.elapsed();
            let outcome = ask(number);
            locked(&seen).push(Asked { at, took: began.elapsed() - at, outcome });
        };
        // A request that waits holds up none: each has a thread, which is born into the network of this one.
        let asking = move || {
            let ask_once = &ask_once;
            std::thread::scope(|all| {
                for number in 0u16.. {
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    all.spawn(move || ask_once(number));
                    std::thread::sleep(PAUSE);
                }
            });
        };
        let thread = std::thread::spawn(move || netns::run_in(network.as_fd(), asking).expect("its network is held"));
        Load { what, stop, log, thread: Some(thread) }
    }

    /// Waits until `more` requests than by now have ended well.
    #[track_caller]
    pub fn go_on(&self, more: usize) {
        let good = || locked(&self.log).iter().filter(|asked| asked.outcome.is_ok()).count();
        let wanted = good() + more;
        wait_for(&format!("{}: {more} more answers", self.what), 60, || (good() >= wanted).then_some(()));
    }

    pub fn end(mut self) -> Seen {
        self.join();
        let mut all = std::mem::take(&mut *locked(&self.log));
        all.sort_by_key(|asked| asked.at);
        let slowest = all.iter().map(|asked| asked.took).max().unwrap_or_default();
        let asked = all.len();
        all.retain(|asked| asked.outcome != Ok(Answer::Straight));
        let (late, failed) = all.into_iter().partition(|asked| asked.outcome.is_ok());
        Seen { what: std::mem::take(&mut self.what), asked, failed, late, slowest }
    }

    fn join(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("a load does not panic");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Seen {
    /// From the first request that failed to the first after all that did.
    pub fn gap(&self) -> Duration {
        let (first, last) = (self.failed.first(), self.failed.last());
        first.zip(last).map_or(Duration::ZERO, |(first, last)| last.at - first.at + PAUSE)
    }

    pub fn report(&self) {
        let Seen { what, asked, failed, late, slowest } = self;
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        failed
            .iter()
            .filter_map(|asked| asked.outcome.as_ref().err().map(String::as_str))
            .for_each(|why| *reasons.entry(why).or_default() += 1);
        println!(
            "  {what}: {asked} asked, {} failed within {:?}, {} after a loss, slowest {slowest:?} {reasons:?}",
            failed.len(),
            self.gap(),
            late.len()
        );
    }

    /// Not one failed, of enough; and no way was broken for as long as TCP would hide it.
    #[track_caller]
    pub fn all_answered(&self) {
        assert!(self.asked >= ENOUGH, "{}: only {} requests, which shows little", self.what, self.asked);
        assert!(self.failed.is_empty(), "{}: {} of {}: {:?}", self.what, self.failed.len(), self.asked, self.failed);
        assert!(self.late.len() <= STRAY, "{}: packets were lost: {:?}", self.what, self.late);
    }
}

fn locked(log: &Mutex<Vec<Asked>>) -> MutexGuard<'_, Vec<Asked>> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The network of a place, which lives as long as the descriptor.
fn network_of(lab: &Lab, place: &Place) -> OwnedFd {
    let mut holder = lab.command(place, "sleep").expect("the place is there");
    let mut holder = holder.arg("600").stdin(Stdio::null()).spawn().expect("sleep is everywhere");
    let network = netns::open(Path::new(&format!("/proc/{}/ns/net", holder.id())));
    holder.kill().expect("it runs");
    holder.wait().expect("it ends");
    network.expect("the process was there")
}

fn get(to: SocketAddr) -> Result<Answer, String> {
    let failed = |step: &'static str| move |error: std::io::Error| format!("{step}: {error}");
    let began = Instant::now();
    let mut stream = TcpStream::connect_timeout(&to, HTTP_PATIENCE).map_err(failed("connect"))?;
    stream.set_read_timeout(Some(HTTP_PATIENCE)).map_err(failed("set up"))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: load\r\nConnection: close\r\n\r\n").map_err(failed("send"))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(failed("receive"))?;
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        return Err(format!("answered {:?}", String::from_utf8_lossy(&answer[..answer.len().min(40)])));
    }
    let is_late = began.elapsed() >= SHORTEST_LOSS && sent_again(&stream) > 0;
    Ok(if is_late { Answer::AfterLoss } else { Answer::Straight })
}

/// Packets that had to be sent again. TCP hides a loss, which the client only feels as a time of waiting; waiting alone may
/// also be a busy machine, and a packet that is sent again at once may be TCP's impatience (a tail loss probe).
fn sent_again(stream: &TcpStream) -> u32 {
    // SAFETY: the kernel writes at most `length` bytes of a plain structure that is all numbers.
    unsafe {
        let mut info: libc::tcp_info = std::mem::zeroed();
        let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
        let into = (&raw mut info).cast();
        let done = libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, into, &mut length);
        assert_eq!(done, 0, "TCP_INFO: {}", std::io::Error::last_os_error());
        info.tcpi_total_retrans
    }
}

fn look_up(name: &str, id: u16) -> Result<Answer, String> {
    let failed = |step: &'static str| move |error: std::io::Error| format!("{step}: {error}");
    let socket = UdpSocket::bind((IpAddr::from([0, 0, 0, 0]), 0)).map_err(failed("bind"))?;
    socket.connect(CLUSTER_DNS).map_err(failed("connect"))?;
    socket.set_read_timeout(Some(DNS_PATIENCE)).map_err(failed("set up"))?;
    socket.send(&question(name, id)).map_err(failed("send"))?;
    let mut answer = [0; 1500];
    let length = socket.recv(&mut answer).map_err(failed("receive"))?;
    let has_answers = length > 12 && answer[..2] == id.to_be_bytes() && answer[3] & 0x0f == 0 && answer[7] > 0;
    if has_answers { Ok(Answer::Straight) } else { Err(format!("answered code {}", answer[3] & 0x0f)) }
}

fn question(name: &str, id: u16) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        message.push(u8::try_from(label.len()).expect("labels are short"));
        message.extend(label.bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}
