//! From an object written to the API until the first packet takes the new way, in a lab, in both modes.
//!
//! ```text
//!  PATCH EndpointSlice ─► API, store ─► watch ─► agent ─► kernel        probe: connect, one byte, reset, again and again
//!                                                                       until the byte is the other endpoint's
//! ```
//!
//! The Service has no selector and one endpoint, which is one of two servers on addresses of the node itself; each change
//! makes it the other. The clock starts before the PATCH is sent and stops when a connection has come to the new one.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use portolan_kernel::{Netlink, netns};
use portolan_lab::{Attachment, Lab, LabConfig, ProxyMode};
use rustix::net::sockopt::set_socket_linger;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::cluster::{NAMESPACE, connect};
use crate::goals::{Asked, Goals};
use crate::procs::node_netns;
use crate::stats::{Report, Samples, millis};
use crate::{Outcome, progress};

const NAME: &str = "first-packet";
const PORT: u16 = 80;
/// TEST-NET-2: nobody else's, and outside of all ranges of the lab.
const SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 51, 100, 1), Ipv4Addr::new(198, 51, 100, 2)];
/// Between two connections: how late the new way is seen at most, one connection's time aside.
const PAUSE: Duration = Duration::from_micros(100);
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two changes: what the last one set in motion comes to its end.
const REST: Duration = Duration::from_millis(5);

/// What one mode showed.
pub struct ApiToPacket {
    mode: &'static str,
    acknowledged: Samples,
    packet: Samples,
}

pub struct Ground<'a> {
    pub exe: &'a Path,
    pub images: PathBuf,
    /// Where iptables' programs are.
    pub bin: &'a Path,
}

impl Ground<'_> {
    /// In a lab of one node.
    pub fn measure(&self, proxy_mode: ProxyMode, count: usize) -> Outcome<ApiToPacket> {
        let mode = if proxy_mode == ProxyMode::Nftables { "nftables" } else { "iptables" };
        progress(&format!("API to first packet, {mode} mode, {count} changes"));
        let name = format!("bench-{mode}-{}", std::process::id());
        let mut config = LabConfig::new(&name, 1, self.exe.to_owned(), self.images.clone());
        config.iptables_dir = Some(self.bin.to_owned());
        config.proxy_mode = proxy_mode;
        let lab = portolan_lab::up(&config, Attachment::Attached)?;
        let measured = in_lab(&lab, mode, count);
        lab.down()?;
        measured
    }
}

fn in_lab(lab: &Lab, mode: &'static str, count: usize) -> Outcome<ApiToPacket> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let client = runtime.block_on(connect(&lab.kubeconfig()))?;
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
    let to = runtime.block_on(make(Api::namespaced(client, NAMESPACE), &slices))?;
    let node = node_netns(lab, "node-1")?;
    serve(&node)?;
    let prober = Prober::start(node, to);
    prober.seen(0)?;
    let mut measured = ApiToPacket { mode, acknowledged: Samples::default(), packet: Samples::default() };
    for number in 1..=count {
        measured.change(&runtime, &slices, &prober, number % 2)?;
        std::thread::sleep(REST);
    }
    Ok(measured)
}

impl ApiToPacket {
    fn change(&mut self, runtime: &Runtime, slices: &Api<EndpointSlice>, prober: &Prober, to: usize) -> Outcome<()> {
        let patch = Patch::Merge(json!({"endpoints": [{"addresses": [SERVERS[to]], "conditions": {"ready": true}}]}));
        prober.look_for(to)?;
        let start = Instant::now();
        runtime.block_on(slices.patch(NAME, &PatchParams::default(), &patch))?;
        self.acknowledged.push(start.elapsed());
        self.packet.push(prober.found()? - start);
        Ok(())
    }

    pub fn goals(&self, goals: &mut Goals) {
        let asked = Asked::at_most(" ms", "-", 20.0, Some(5.0));
        let what =
            format!("object written to the API until the first packet takes the new way, {} mode: p99", self.mode);
        goals.add(&what, asked, millis(self.packet.percentile(99)));
    }

    pub fn say(all: &[Self], report: &mut Report) {
        report.heading("object written to the API until the first packet takes the new way (a lab of one node)");
        let names: Vec<[String; 2]> = all
            .iter()
            .map(|it| [format!("**first packet, {} mode**", it.mode), format!("PATCH acknowledged, {} mode", it.mode)])
            .collect();
        let rows: Vec<(&str, &Samples)> = all
            .iter()
            .zip(&names)
            .flat_map(|(it, [packet, write])| [(packet.as_str(), &it.packet), (write.as_str(), &it.acknowledged)])
            .collect();
        report.distributions(&rows);
    }
}

/// The Service with its slice; where clients connect to.
async fn make(services: Api<Service>, slices: &Api<EndpointSlice>) -> Outcome<SocketAddrV4> {
    let port = json!({"name": "http", "port": PORT, "protocol": "TCP"});
    let service = json!({"metadata": {"name": NAME}, "spec": {"ports": [port]}});
    let slice = json!({
        "metadata": {"name": NAME, "labels": {"kubernetes.io/service-name": NAME}},
        "addressType": "IPv4", "ports": [port],
        "endpoints": [{"addresses": [SERVERS[0]], "conditions": {"ready": true}}],
    });
    let made = services.create(&PostParams::default(), &serde_json::from_value(service)?).await?;
    slices.create(&PostParams::default(), &serde_json::from_value(slice)?).await?;
    let ip = made.spec.and_then(|spec| spec.cluster_ip).ok_or("the API gave no ClusterIP")?;
    Ok(SocketAddrV4::new(ip.parse()?, PORT))
}

/// Both servers, on addresses of the node; each answers with its number. They end with the lab's namespace.
fn serve(node: &OwnedFd) -> Outcome<()> {
    let listeners = netns::run_in(node.as_fd(), || -> Outcome<Vec<TcpListener>> {
        let mut netlink = Netlink::open()?;
        let lo = netlink.link("lo")?.index;
        SERVERS.iter().try_for_each(|address| netlink.add_addr(lo, std::net::IpAddr::from(*address).into()))?;
        Ok(SERVERS.iter().map(|address| TcpListener::bind((*address, PORT))).collect::<Result<_, _>>()?)
    })??;
    for (number, listener) in (0u8..).zip(listeners) {
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(stream, number);
            }
        });
    }
    Ok(())
}

/// A client that is gone meanwhile misses nothing.
fn answer(mut stream: TcpStream, number: u8) {
    let _ = stream.write_all(&[number]);
    let _ = stream.read(&mut [0]);
}

/// A thread in the node that connects to the Service again and again while it looks for an endpoint.
struct Prober {
    wanted: Sender<usize>,
    found: Receiver<Instant>,
}

impl Prober {
    fn start(node: OwnedFd, to: SocketAddrV4) -> Self {
        let (wanted, looking) = channel::<usize>();
        let (seen, found) = channel();
        std::thread::spawn(move || {
            // The sender's end of the channel says the end; a namespace that cannot be entered shows as no answer.
            let _ = netns::run_in(node.as_fd(), || {
                for number in looking {
                    while reached(to).ok() != Some(number as u8) {
                        std::thread::sleep(PAUSE);
                    }
                    if seen.send(Instant::now()).is_err() {
                        return;
                    }
                }
            });
        });
        Self { wanted, found }
    }

    fn look_for(&self, number: usize) -> Outcome<()> {
        Ok(self.wanted.send(number)?)
    }

    fn found(&self) -> Outcome<Instant> {
        self.found
            .recv_timeout(PATIENCE)
            .map_err(|e| format!("the new way was not seen within {PATIENCE:?}: {e}").into())
    }

    fn seen(&self, number: usize) -> Outcome<Instant> {
        self.look_for(number)?;
        self.found()
    }
}

/// Which server a new connection came to.
fn reached(to: SocketAddrV4) -> std::io::Result<u8> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::V4(to), Duration::from_millis(20))?;
    set_socket_linger(&stream, Some(Duration::ZERO))?;
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut number = [u8::MAX];
    stream.read_exact(&mut number)?;
    Ok(number[0])
}
