//! What watching for one flow costs all others: the rate of connections from node to node through a Service.
//!
//! ```text
//!  node-1 ─► 10.96.x.y:80 ─ DNAT, masquerade ─► eth0 ─ LAN ─ eth0 ─► node-2:8080      each round: every way once
//!    └ rules of the watch at its output              at node-2's prerouting ┘
//! ```
//!
//! The watch is for a sequence number that no packet has, on both nodes: what a trace leaves armed while it waits. Beside
//! it two ways that other tools take: every packet of the Service traced (iptables' TRACE, or a rule that sets `nftrace`)
//! with a listener that throws the events away, and a packet socket that gets a copy of what every link of both nodes
//! carries.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::PostParams;
use kube::{Api, Client};
use portolan_kernel::conntrack::{Conntrack, Which};
use portolan_kernel::netns;
use portolan_story::evidence::{Flow, Watch, Watching};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketType, recv, socket};
use serde_json::json;

use crate::cluster::{self, NAMESPACE};
use crate::connect::{self, Way};
use crate::goals::{Asked, Goals};
use crate::place::Place;
use crate::procs::node_netns;
use crate::sight::PATIENCE;
use crate::stats::{Report, three_digits};
use crate::world::TARGET;
use crate::{Ground, Outcome, progress};

const NAME: &str = "others";
const PORT: u16 = 80;
const SERVER: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 12);
const NODES: [&str; 2] = ["node-1", "node-2"];
/// Longer than a run.
const WATCH_MILLIS: u64 = 600_000;
/// How often a reader of packets looks whether it is to end.
const TAP_LOOK: Duration = Duration::from_millis(20);
const ETH_P_ALL: u16 = 0x0003;
const TCP: u8 = 6;

/// What goes on beside the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    Nothing,
    Watch,
    TraceAll,
    Tap,
}

const ALL: [(Beside, &str); 4] = [
    (Beside::Nothing, "nothing"),
    (Beside::Watch, "**a watch for one flow armed on both nodes**"),
    (Beside::TraceAll, "others' way: every packet of the Service traced (`nftrace`), `nft monitor trace` listening"),
    (Beside::Tap, "others' way: a packet socket on all links of both nodes"),
];

/// Connections a second in each round, by what went on beside them.
pub struct Others {
    mode: &'static str,
    rates: [Vec<f64>; ALL.len()],
}

/// Rounds of all four, in an order that turns.
pub fn measure(ground: &Ground<'_>, rounds: usize) -> Outcome<Others> {
    let client = ground.runtime.block_on(cluster::connect(&ground.lab.kubeconfig()))?;
    let to = SocketAddrV4::new(ground.runtime.block_on(make(&client))?, PORT);
    let nodes = NODES.map(|node| node_netns(ground.lab, node));
    let [Ok(first), Ok(second)] = nodes else { return Err("the lab's nodes are not there".into()) };
    let place = Place { node: first.try_clone()?, client: first, server: second };
    let cpu = connect::last_cpu()?;
    connect::serve(&place.server, cpu)?;
    await_way(&place.client, to)?;
    let way = Way { name: ground.mode.to_owned(), place: &place, to };
    let at = At { ground, client, place: &place };
    connect::run(&way, cpu)?; // fills caches and neighbour tables
    let mut others = Others { mode: ground.mode, rates: Default::default() };
    progress(&format!("others' connections in {} mode, {rounds} rounds", ground.mode));
    for round in 0..rounds {
        for turn in 0..ALL.len() {
            let which = (round + turn) % ALL.len();
            let going = at.begin(ALL[which].0)?;
            let (times, whole) = connect::run(&way, cpu).map_err(|e| format!("beside {}: {e}", ALL[which].1))?;
            at.end(going)?;
            others.rates[which].push(times.len() as f64 / whole.as_secs_f64());
        }
    }
    Ok(others)
}

/// A Service of one endpoint, which is a process of node-2 itself; returns its ClusterIP.
async fn make(client: &Client) -> Outcome<Ipv4Addr> {
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": NAME},
        "spec": {"ports": [{"name": "http", "port": PORT, "targetPort": TARGET}]},
    }))?;
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": NAME, "labels": {"kubernetes.io/service-name": NAME}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [SERVER], "conditions": {"ready": true}, "nodeName": "node-2"}],
        "ports": [{"name": "http", "port": TARGET, "protocol": "TCP"}],
    }))?;
    let made = Api::<Service>::namespaced(client.clone(), NAMESPACE).create(&PostParams::default(), &service).await?;
    Api::<EndpointSlice>::namespaced(client.clone(), NAMESPACE).create(&PostParams::default(), &slice).await?;
    let ip = made.spec.and_then(|spec| spec.cluster_ip).ok_or("the Service got no address")?;
    Ok(ip.parse()?)
}

/// Until the first connection stands. What was tried before the rules were there goes: conntrack would keep it, and the next
/// connection from the same port, on the way past the rules.
fn await_way(from: &OwnedFd, to: SocketAddrV4) -> Outcome<()> {
    let until = Instant::now() + PATIENCE;
    let look = Duration::from_millis(20);
    let answers = || netns::run_in(from.as_fd(), || TcpStream::connect_timeout(&to.into(), look).is_ok());
    while !answers()? {
        if Instant::now() > until {
            return Err(format!("{to} does not answer").into());
        }
        std::thread::sleep(look);
    }
    netns::run_in(from.as_fd(), || {
        Conntrack::open()?.delete(Which::Protocol(TCP), |flow| flow.state == Some("SYN_SENT"))
    })??;
    Ok(())
}

/// Where something is begun beside the connections.
struct At<'a> {
    ground: &'a Ground<'a>,
    client: Client,
    place: &'a Place,
}

/// Something that goes on, on both nodes.
enum Going {
    Nothing,
    Watches(Vec<(&'static str, String)>),
    Monitors(Vec<Child>),
    Taps(Arc<AtomicBool>, Vec<std::thread::JoinHandle<()>>),
}

const TRACE_ALL: &str = "add table ip trace-all\n\
    add chain ip trace-all out { type filter hook output priority -350 ; }\n\
    add chain ip trace-all pre { type filter hook prerouting priority -350 ; }\n\
    add rule ip trace-all out tcp dport { 80, 8080 } meta nftrace set 1\n\
    add rule ip trace-all pre tcp dport { 80, 8080 } meta nftrace set 1\n\
    add rule ip trace-all pre tcp sport { 80, 8080 } meta nftrace set 1\n";

impl At<'_> {
    fn begin(&self, beside: Beside) -> Outcome<Going> {
        match beside {
            Beside::Nothing => Ok(Going::Nothing),
            Beside::Watch => self.watch(),
            Beside::TraceAll => self.trace_all(),
            Beside::Tap => self.tap(),
        }
    }

    fn end(&self, going: Going) -> Outcome<()> {
        match going {
            Going::Nothing => {}
            Going::Watches(watches) => {
                for (node, id) in watches {
                    self.say(node, &format!("trace/{id}/end"), Vec::new())?;
                }
            }
            Going::Monitors(children) => {
                for mut child in children {
                    child.kill()?;
                    child.wait()?;
                }
                self.on_both(|| self.nft("delete table ip trace-all\n"))?;
            }
            Going::Taps(ended, threads) => {
                ended.store(true, Ordering::Relaxed);
                for thread in threads {
                    thread.join().map_err(|_| "a reader of packets panicked")?;
                }
            }
        }
        Ok(())
    }

    fn both(&self) -> [&OwnedFd; 2] {
        [&self.place.client, &self.place.server]
    }

    fn on_both<T: Send>(&self, work: impl Fn() -> Outcome<T> + Sync) -> Outcome<Vec<T>> {
        self.both().into_iter().map(|node| netns::run_in(node.as_fd(), &work)?).collect()
    }

    fn say(&self, node: &str, path: &str, body: Vec<u8>) -> Outcome<String> {
        let url = format!("/api/v1/nodes/{node}/proxy/portolan/v1/{path}");
        let request = http::Request::post(url).header("content-type", "application/json").body(body)?;
        Ok(self.ground.runtime.block_on(self.client.request_text(request))?)
    }

    /// For a number that no packet of this run has but by a chance of one in millions.
    fn watch(&self) -> Outcome<Going> {
        let watch = Watch { flow: Flow::Sequence { number: 0x5eed_0000 }, lasts_ms: WATCH_MILLIS, count: 1 };
        let body = serde_json::to_vec(&watch)?;
        let begun = NODES.map(|node| -> Outcome<(&'static str, String)> {
            let watching: Watching = serde_json::from_str(&self.say(node, "trace", body.clone())?)?;
            Ok((node, watching.id))
        });
        Ok(Going::Watches(begun.into_iter().collect::<Outcome<_>>()?))
    }

    fn trace_all(&self) -> Outcome<Going> {
        let children = self.on_both(|| {
            self.nft(TRACE_ALL)?;
            let mut monitor = Command::new(self.ground.bin.join("nft"));
            Ok(monitor
                .args(["monitor", "trace"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?)
        })?;
        Ok(Going::Monitors(children))
    }

    fn nft(&self, input: &str) -> Outcome<()> {
        let mut nft = Command::new(self.ground.bin.join("nft"));
        let mut child = nft.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        child.stdin.take().ok_or("no standard input")?.write_all(input.as_bytes())?;
        let status = child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("nft: {status}").into()) }
    }

    fn tap(&self) -> Outcome<Going> {
        let ended = Arc::new(AtomicBool::new(false));
        let open = || -> Outcome<OwnedFd> {
            let all = Protocol::from_raw(u32::from(ETH_P_ALL.to_be()).try_into()?);
            let socket = socket(AddressFamily::PACKET, SocketType::RAW, Some(all))?;
            set_socket_timeout(&socket, Timeout::Recv, Some(TAP_LOOK))?;
            Ok(socket)
        };
        let read = |socket: OwnedFd| {
            let ended = ended.clone();
            std::thread::spawn(move || {
                let mut packet = vec![0u8; 1 << 16];
                while !ended.load(Ordering::Relaxed) {
                    // Nothing for a while is as good as a packet.
                    let _ = recv(&socket, packet.as_mut_slice(), RecvFlags::empty());
                }
            })
        };
        let threads = self.on_both(open)?.into_iter().map(read).collect();
        Ok(Going::Taps(ended, threads))
    }
}

impl Others {
    /// Median over the rounds of the rate against nothing beside.
    fn share(&self, which: usize) -> f64 {
        let mut ratios: Vec<f64> =
            self.rates[which].iter().zip(&self.rates[0]).map(|(with, without)| with / without).collect();
        ratios.sort_by(f64::total_cmp);
        ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN)
    }

    pub fn goals(&self, goals: &mut Goals) {
        let asked = Asked::at_least("x", "1x", 0.98, None);
        let what =
            format!("others' connection rate while one flow is watched for, {} mode: of the rate without", self.mode);
        goals.add(&what, asked, self.share(1));
    }

    pub fn say(&self, report: &mut Report) {
        report.heading(&format!("others' connections, node to node through a Service, {} mode", self.mode));
        let row = |(which, (_, name)): (usize, &(Beside, &str))| {
            let mut sorted = self.rates[which].clone();
            sorted.sort_by(f64::total_cmp);
            let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
            let best = sorted.last().copied().unwrap_or_default();
            vec![
                (*name).to_owned(),
                sorted.len().to_string(),
                format!("{median:.0}"),
                format!("{best:.0}"),
                three_digits(self.share(which)),
            ]
        };
        let rows: Vec<Vec<String>> = ALL.iter().enumerate().map(row).collect();
        let header = ["beside", "rounds", "connections/s, median", "best round", "of nothing beside, median of rounds"];
        report.table(&header, &rows);
    }
}
