//! Lookups while the cluster changes a hundred times a second: none is lost, no name that stays is denied, and no answer
//! says what was not true at some moment between its question and itself. And what upstreams see of our ports and IDs.
//!
//! 100,000 lookups; `PORTOLAN_DNS_LOOKUPS` and `PORTOLAN_DNS_SEED` make another run of it (`make soak`: a million). As root,
//! in a network namespace with loopback alone.

#[path = "soak_dns/dice.rs"]
mod dice;
#[path = "soak_dns/wire.rs"]
mod wire;
#[path = "soak_dns/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use dice::Dice;
use domain::base::iana::{Rcode, Rtype};
use domain::base::{Message, MessageBuilder};
use portolan_dns::{Corefile, Name};
use portolan_kernel::netns;
use portolan_nameserver::{Handle, Listen, Listener, Options, start};
use wire::{Client, Said};
use world::{CORE, GUESTS, History, State, World};

const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 53);
const UPSTREAM: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), 53);
const CLIENTS: usize = 4;
/// Time between two changes of the cluster.
const PAUSE: Duration = Duration::from_millis(10);

fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).unwrap_or_default();
    if text.is_empty() { default } else { text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")) }
}

/// Runs `work` where loopback is all there is, with a nameserver that asks [`UPSTREAM`].
fn with_nameserver(work: impl FnOnce(&tokio::runtime::Runtime, Handle) + Send) {
    let netns = netns::create().expect("a network namespace, as root");
    let mut resolv_conf = tempfile::NamedTempFile::with_prefix("ptl-t-").expect("a file");
    writeln!(resolv_conf, "nameserver {}", UPSTREAM.ip()).expect("a file");
    let inside = || {
        let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip runs");
        assert!(up.success(), "loopback is up");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let handle = runtime.block_on(nameserver(resolv_conf.path()));
        work(&runtime, handle);
    };
    netns::run_in(netns.as_fd(), inside).expect("the namespace can be entered");
}

async fn nameserver(resolv_conf: &Path) -> Handle {
    let zone = Name::parse("cluster.local").expect("a name");
    let mut corefile = Corefile::shipped(&zone, 30, &resolv_conf.to_string_lossy());
    let block = &mut corefile.blocks[0];
    (block.health, block.ready, block.metrics, block.detects_loops) = (None, None, None, false);
    let listener = Listener::bind(SERVER).await.expect("a free port");
    let listen = Listen::At(vec![listener]);
    let (own, pages) = (vec![SERVER.ip()], vec![SERVER.ip()]);
    let options = Options { settings: world::settings(), own, corefile, base: ".".into(), listen, pages, threads: 2 };
    start(options).await.expect("it starts")
}

#[test]
fn lookups_under_change_are_all_answered_with_what_was_true() {
    let lookups = setting("PORTOLAN_DNS_LOOKUPS", 100_000) as usize;
    let seed = setting("PORTOLAN_DNS_SEED", 7);
    with_nameserver(|runtime, handle| {
        let mut world = World::new();
        let (history, applied, done) = (History::default(), AtomicUsize::new(0), AtomicBool::new(false));
        history.push(world.state());
        let all = portolan_model::Delta::all(&world.snapshot);
        handle.zones(world.snapshot.clone(), all, true);
        runtime.block_on(handle.records()).expect("it runs");
        let wrong: Vec<String> = std::thread::scope(|scope| {
            let changer = scope.spawn(|| {
                let mut dice = Dice::new(seed);
                while !done.load(Ordering::Relaxed) {
                    let delta = world.change(&mut dice);
                    history.push(world.state());
                    handle.zones(world.snapshot.clone(), delta, true);
                    runtime.block_on(handle.records()).expect("it runs");
                    applied.store(history.len() - 1, Ordering::SeqCst);
                    std::thread::sleep(PAUSE);
                }
                history.len()
            });
            let ask = |seed| look_up(&history, &applied, seed, lookups / CLIENTS);
            let clients: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(move || ask(seed + 1 + n as u64))).collect();
            let wrong = clients.into_iter().flat_map(|client| client.join().expect("a client")).collect();
            done.store(true, Ordering::Relaxed);
            let changes = changer.join().expect("the changer");
            assert!(changes > 50, "the cluster hardly changed: {changes} states");
            wrong
        });
        assert!(wrong.is_empty(), "seed {seed}, {} wrong:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
    });
}

/// Asks so often; what was wrong.
fn look_up(history: &History, applied: &AtomicUsize, seed: u64, lookups: usize) -> Vec<String> {
    let mut client = Client::new(SERVER);
    let mut dice = Dice::new(seed);
    let mut wrong = Vec::new();
    for _ in 0..lookups {
        let question = Asked::draw(&mut dice);
        let from = applied.load(Ordering::SeqCst);
        let said = client.ask(&question.name(), question.rtype());
        let states = history.since(from);
        let complaint = match &said {
            Err(why) => Some(why.clone()),
            Ok(said) if states.iter().any(|state| question.is_true(said, state)) => None,
            Ok(_) => Some(format!("was never true in {} states, such as {:?}", states.len(), states[0])),
        };
        wrong.extend(complaint.map(|why| format!("{}: {why}: {said:?}", question.name())));
    }
    wrong
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    Web,
    WebSix,
    Set,
    /// An endpoint that stays, by its own name.
    Core(usize),
    Guest(usize),
    /// The name of the address that a guest has, asked backwards.
    Back(u8),
    Nobody,
}

impl Asked {
    fn draw(dice: &mut Dice) -> Asked {
        match dice.below(8) {
            0 => Asked::Web,
            1 => Asked::WebSix,
            2 | 3 => Asked::Set,
            4 => Asked::Core(dice.below(CORE.len())),
            5 => Asked::Guest(dice.below(GUESTS)),
            6 => Asked::Back(dice.below(256) as u8),
            _ => Asked::Nobody,
        }
    }

    fn name(self) -> String {
        match self {
            Asked::Web | Asked::WebSix => "web.default.svc.cluster.local".into(),
            Asked::Set => "set.default.svc.cluster.local".into(),
            Asked::Core(number) => {
                format!("{}.set.default.svc.cluster.local", CORE[number].to_string().replace('.', "-"))
            }
            Asked::Guest(number) => format!("guest-{number}.default.svc.cluster.local"),
            Asked::Back(host) => format!("{host}.2.96.10.in-addr.arpa"),
            Asked::Nobody => "nobody.default.svc.cluster.local".into(),
        }
    }

    fn rtype(self) -> Rtype {
        match self {
            Asked::WebSix => Rtype::AAAA,
            Asked::Back(_) => Rtype::PTR,
            _ => Rtype::A,
        }
    }

    fn is_true(self, said: &Said, state: &State) -> bool {
        let got: BTreeSet<Ipv4Addr> = said.addresses.iter().copied().collect();
        let once = got.len() == said.addresses.len() && !said.truncated;
        let is = |rcode, addresses: &BTreeSet<Ipv4Addr>| once && said.rcode == rcode && got == *addresses;
        match self {
            Asked::Web => is(Rcode::NOERROR, &[Ipv4Addr::new(10, 96, 1, 1)].into()),
            Asked::WebSix => is(Rcode::NOERROR, &BTreeSet::new()),
            Asked::Set => is(Rcode::NOERROR, &state.set),
            Asked::Core(number) => is(Rcode::NOERROR, &[CORE[number]].into()),
            Asked::Nobody => is(Rcode::NXDOMAIN, &BTreeSet::new()),
            Asked::Guest(number) => match state.guests[number] {
                Some(ip) => is(Rcode::NOERROR, &[ip].into()),
                None => is(Rcode::NXDOMAIN, &BTreeSet::new()),
            },
            Asked::Back(host) => {
                let ip = Ipv4Addr::new(10, 96, 2, host);
                let owner = state.guests.iter().position(|guest| *guest == Some(ip));
                let name = owner.map(|number| format!("guest-{number}.default.svc.cluster.local"));
                // What is nobody's goes to the upstream, which is not there.
                name.map_or(said.names.is_empty() && said.rcode != Rcode::NOERROR, |name| said.names == [name])
            }
        }
    }
}

/// Queries seen by the upstream.
const SEEN: usize = 10_000;
/// Sent before their answers are waited for.
const WINDOW: usize = 20;

#[test]
fn upstreams_see_ports_and_ids_that_nobody_can_foretell() {
    with_nameserver(|_, _handle| {
        let socket = UdpSocket::bind(UPSTREAM).expect("a free port");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a time");
        let done = AtomicBool::new(false);
        let seen = std::thread::scope(|scope| {
            let watching = scope.spawn(|| watch(&socket, &done));
            ask_new_names(SEEN);
            done.store(true, Ordering::Relaxed);
            watching.join().expect("the upstream")
        });
        judge_ids(&seen.iter().map(|(_, id)| *id).collect::<Vec<_>>());
        judge_ports(&seen.iter().map(|(port, _)| *port).collect::<Vec<_>>());
    });
}

/// Ports and IDs of the first so many queries. Each is answered, until `done`: on a busy machine some are asked twice.
fn watch(socket: &UdpSocket, done: &AtomicBool) -> Vec<(u16, u16)> {
    let mut seen = Vec::with_capacity(SEEN);
    let mut buffer = [0; 2048];
    while !done.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let query = Message::from_slice(&buffer[..length]).expect("a query");
        seen.push((from.port(), query.header().id()));
        let reply = MessageBuilder::new_vec().start_answer(query, Rcode::NXDOMAIN).expect("room").finish();
        // Who asked may have closed its socket since: the answer to another attempt was quicker.
        let _ = socket.send_to(&reply, from);
    }
    seen.truncate(SEEN);
    seen
}

/// A client whose own IDs count up from one port: nothing of that may show.
fn ask_new_names(count: usize) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
    socket.connect(SERVER).expect("loopback");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a time");
    let mut buffer = [0; 2048];
    for start in (0..count).step_by(WINDOW) {
        for number in start..start + WINDOW {
            let query = wire::query(number as u16, &format!("n{number}.example.org"), Rtype::A);
            socket.send(&query).expect("loopback");
        }
        for _ in 0..WINDOW {
            let length = socket.recv(&mut buffer).expect("an answer");
            let reply = Message::from_slice(&buffer[..length]).expect("a reply");
            assert_eq!(reply.header().rcode(), Rcode::NXDOMAIN, "not what the upstream says");
        }
    }
}

/// Each bit is set in half of 10,000 IDs, give or take seven standard deviations of 50: chance goes beyond that once in
/// 10^11 runs. 10,000 of 65,536 drawn give 9,272 different ones, give or take 24. Of neighbours, 5 lie within 16.
fn judge_ids(ids: &[u16]) {
    for bit in 0..16 {
        let set = ids.iter().filter(|id| *id >> bit & 1 == 1).count();
        assert!((4650..=5350).contains(&set), "bit {bit} of the ID is set in {set} of {}", ids.len());
    }
    let different: BTreeSet<u16> = ids.iter().copied().collect();
    assert!((9000..=9550).contains(&different.len()), "{} different IDs", different.len());
    let near = ids.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) <= 16).count();
    assert!(near < 60, "{near} IDs lie next to the one before");
}

/// The kernel has 28,232 ports to give: 10,000 drawn are 8,420 different ones; of neighbours, 12 lie within 16.
fn judge_ports(ports: &[u16]) {
    let different: BTreeSet<u16> = ports.iter().copied().collect();
    assert!(different.len() > 4000, "{} different ports", different.len());
    let near = ports.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) <= 16).count();
    assert!(near < 400, "{near} ports lie next to the one before");
    let most = different.iter().map(|port| ports.iter().filter(|other| *other == port).count()).max();
    assert!(most < Some(60), "one port was used {most:?} times");
}
