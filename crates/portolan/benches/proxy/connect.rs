//! How long `connect` takes through each set of rules, beside the others in the same round.
//!
//! ```text
//!  round 1: direct, ours of 1, ours of 10,000, kube-proxy's …   round 2: the same, …
//! ```
//!
//! On veth pairs SYN and SYN-ACK are handled inside the client's call, so the call's time is that of the first packet
//! there and back. Client and server share one CPU at real-time priority, a fraction of a second a run; unpinned, the
//! figures differ by a factor of a hundred at random. Compared are minima, and medians of the ratios within a round.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use portolan_kernel::netns;
use rustix::net::{AddressFamily, SocketType};

use crate::Outcome;
use crate::goals::{Asked, Goals};
use crate::place::Place;
use crate::stats::{Report, Samples, three_digits};
use crate::world::TARGET;

/// Few enough that no source port of one client comes twice while conntrack remembers it.
const CONNECTS: usize = 500;
const PRIORITY: i32 = 10;
const LIMIT: Duration = Duration::from_secs(5);

/// One way to the server.
pub struct Way<'a> {
    pub name: String,
    pub place: &'a Place,
    pub to: SocketAddrV4,
}

/// What one way took, round by round.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    pub name: String,
    /// Every connect of every round.
    pub all: Samples,
    /// Median of each round.
    pub medians: Vec<Duration>,
    /// Connections per second of the best round: connect, a byte there, a byte back, reset.
    pub best_rate: f64,
}

impl Taken {
    pub fn min(&self) -> Duration {
        self.all.percentile(0)
    }

    /// Ratio of the smallest times.
    pub fn min_to(&self, other: &Taken) -> f64 {
        self.min().as_secs_f64() / other.min().as_secs_f64()
    }

    /// Median over the rounds of the ratio of the medians.
    pub fn medians_to(&self, other: &Taken) -> f64 {
        let ratio = |(a, b): (&Duration, &Duration)| a.as_secs_f64() / b.as_secs_f64();
        let mut ratios: Vec<f64> = self.medians.iter().zip(&other.medians).map(ratio).collect();
        ratios.sort_by(f64::total_cmp);
        ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// Measures all ways in each round, in an order that turns from round to round.
pub fn measure(ways: &[Way<'_>], rounds: usize) -> Outcome<Vec<Taken>> {
    let cpu = last_cpu()?;
    for way in ways {
        serve(&way.place.server, cpu)?;
    }
    let mut taken: Vec<Taken> = ways.iter().map(|way| Taken { name: way.name.clone(), ..Taken::default() }).collect();
    for way in ways {
        run(way, cpu)?; // fills caches and neighbour tables
    }
    for round in 0..rounds {
        for turn in 0..ways.len() {
            let at = (round + turn) % ways.len();
            let (mut times, whole) = run(&ways[at], cpu)?;
            times.iter().for_each(|time| taken[at].all.push(*time));
            times.sort();
            taken[at].medians.push(times[times.len() / 2]);
            taken[at].best_rate = taken[at].best_rate.max(times.len() as f64 / whole.as_secs_f64());
        }
    }
    Ok(taken)
}

/// The time of each connect, and of the whole run.
pub fn run(way: &Way<'_>, cpu: usize) -> Outcome<(Vec<Duration>, Duration)> {
    let to = way.to;
    netns::run_in(way.place.client.as_fd(), || {
        at_priority(cpu)?;
        let begin = Instant::now();
        let times = (0..CONNECTS).map(|_| once(to)).collect::<Outcome<Vec<Duration>>>();
        let whole = begin.elapsed();
        Ok((times.map_err(|e| format!("{}: {to}: {e}", way.name))?, whole))
    })?
}

fn once(to: SocketAddrV4) -> Outcome<Duration> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Send, Some(LIMIT))?;
    let start = Instant::now();
    rustix::net::connect(&socket, &to)?;
    let took = start.elapsed();
    rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])?;
    Ok(took)
}

/// A server on the place's addresses until the bench ends; it sleeps while nobody asks.
pub fn serve(netns: &OwnedFd, cpu: usize) -> Outcome<()> {
    let bound = netns::run_in(netns.as_fd(), || TcpListener::bind((Ipv4Addr::UNSPECIFIED, TARGET)))?;
    let listener = match bound {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => return Ok(()), // two ways through one place
        other => other?,
    };
    std::thread::spawn(move || {
        if let Err(e) = at_priority(cpu) {
            eprintln!("bench: the server stays at ordinary priority: {e}");
        }
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            // A client that gave up has said so itself.
            let _ = stream.read_exact(&mut [0]).and_then(|()| stream.write_all(b"!"));
            let _ = stream.read(&mut [0]);
        }
    });
    Ok(())
}

/// Where client and server run.
pub fn last_cpu() -> Outcome<usize> {
    Ok(std::thread::available_parallelism()?.get() - 1)
}

/// The calling thread runs on this CPU alone, before all ordinary ones.
fn at_priority(cpu: usize) -> Outcome<()> {
    // SAFETY: both structures are plain data that live for the calls; 0 is the calling thread.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        let param = libc::sched_param { sched_priority: PRIORITY };
        if libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) != 0
            || libc::sched_setscheduler(0, libc::SCHED_FIFO, &param) != 0
        {
            return Err(io::Error::last_os_error().into());
        }
    }
    Ok(())
}

/// Goals and table of what `ways` took; the first is the direct one.
pub struct Connects {
    pub taken: Vec<Taken>,
}

impl Connects {
    fn named(&self, name: &str) -> Option<&Taken> {
        self.taken.iter().find(|taken| taken.name == name)
    }

    /// Adds a goal for `name` against `other`: the ratio of the minima.
    pub fn goal(&self, goals: &mut Goals, what: &str, [name, other]: [&str; 2], asked: Asked) {
        if let (Some(ours), Some(theirs)) = (self.named(name), self.named(other)) {
            goals.add(what, asked, ours.min_to(theirs));
        }
    }

    pub fn say(&self, report: &mut Report) {
        report.heading("connect, pod to pod through a node (SYN to SYN-ACK, in microseconds)");
        let header = ["way", "n", "min", "p50", "p99", "min / direct", "medians / direct", "connections/s, best round"];
        let micros = |duration: Duration| three_digits(duration.as_secs_f64() * 1e6);
        let row = |taken: &Taken| {
            vec![
                taken.name.clone(),
                taken.all.len().to_string(),
                micros(taken.min()),
                micros(taken.all.median()),
                micros(taken.all.percentile(99)),
                three_digits(taken.min_to(&self.taken[0])),
                three_digits(taken.medians_to(&self.taken[0])),
                format!("{:.0}", taken.best_rate),
            ]
        };
        report.table(&header, &self.taken.iter().map(row).collect::<Vec<_>>());
    }
}
