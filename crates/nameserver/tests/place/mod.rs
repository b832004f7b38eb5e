//! Where the nameserver of a test runs: a namespace with a loopback of several addresses, a cluster, an upstream.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, mpsc};
use std::time::Duration;

use portolan_kernel::{Netlink, netns};
use portolan_model::{
    Delta, EndpointFact, Fact, Facts, Family, NsName, Proto, Service, ServiceKind, ServicePortFact, Settings, Slice,
    SlicePort, Snapshot, resolve,
};
use portolan_nameserver::{Handle, Listen, Listener, Options, shipped, start};

/// Longer than any busy machine takes for one answer.
pub const GENEROUS: Duration = Duration::from_secs(30);
pub const SERVICES: usize = 100;
/// Addresses of the loopback beside its own.
const ADDRESSES: [&str; 4] = ["192.0.2.1/32", "192.0.2.2/32", "2001:db8::1/128", "2001:db8::2/128"];
/// The upstream, as resolv.conf has it.
const UPSTREAM: &str = "192.0.2.2:53";

pub fn name_of(nth: usize) -> String {
    format!("svc-{}.default.svc.cluster.local", nth % SERVICES)
}

/// A query as it stands in RFC 1035 §4.1, with RD.
pub fn query(id: u16, name: &str, rtype: u16) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        out.push(label.len() as u8);
        out.extend(label.bytes());
    }
    out.push(0);
    out.extend(rtype.to_be_bytes());
    out.extend([0, 1]);
    out
}

pub fn id_of(message: &[u8]) -> u16 {
    u16::from_be_bytes([message[0], message[1]])
}

pub fn rcode_of(message: &[u8]) -> u8 {
    assert!(message[2] & 0x80 != 0, "it is no reply");
    message[3] & 15
}

/// Memory is the process's: a test that measures it runs while no other does.
static OTHERS: RwLock<()> = RwLock::new(());

enum Turn {
    Beside { _others: RwLockReadGuard<'static, ()> },
    Alone { _nobody: RwLockWriteGuard<'static, ()> },
}

/// A namespace and a folder; gone with this.
pub struct Place {
    netns: OwnedFd,
    folder: tempfile::TempDir,
    _turn: Turn,
}

impl Place {
    pub fn new() -> Self {
        Self::with(Turn::Beside { _others: OTHERS.read().unwrap_or_else(PoisonError::into_inner) })
    }

    /// No other place is there as long as this one is.
    pub fn alone() -> Self {
        Self::with(Turn::Alone { _nobody: OTHERS.write().unwrap_or_else(PoisonError::into_inner) })
    }

    fn with(turn: Turn) -> Self {
        let netns = netns::create().expect("root");
        let folder = tempfile::Builder::new().prefix("ptl-t-wire").tempdir().expect("a folder");
        let conf = format!("nameserver {}\n", UPSTREAM.split(':').next().expect("an address"));
        std::fs::write(folder.path().join("resolv.conf"), conf).expect("a file");
        let place = Self { netns, folder, _turn: turn };
        place.within(|| {
            let mut netlink = Netlink::open().expect("netlink");
            let lo = netlink.link("lo").expect("lo").index;
            netlink.set_up(lo).expect("up");
            for address in ADDRESSES {
                netlink.add_addr(lo, address.parse().expect("an address")).expect("added");
            }
            await_ipv6();
        });
        place
    }

    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::run_in(self.netns.as_fd(), work).expect("the namespace is there")
    }

    /// Serves the cluster at these addresses, two threads. To be called within.
    pub fn serve(&self, at: &[&str]) -> Served {
        Served::start(at, &self.folder.path().join("resolv.conf"))
    }

    /// A nameserver that is silent until it is told to answer, then answers once. To be called within.
    pub fn upstream(&self) -> Upstream {
        let socket = UdpSocket::bind(UPSTREAM).expect("an address of the namespace");
        let (answer, told) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            while told.recv().is_ok() {
                let mut packet = [0; 512];
                let (length, from) = socket.recv_from(&mut packet).expect("a query");
                packet[2] |= 0x80;
                socket.send_to(&packet[..length], from).expect("a way back");
                // What was asked again meanwhile is not asked any more.
                socket.set_nonblocking(true).expect("a socket");
                while socket.recv(&mut packet).is_ok() {}
                socket.set_nonblocking(false).expect("a socket");
            }
        });
        Upstream(answer)
    }
}

pub struct Upstream(mpsc::Sender<()>);

impl Upstream {
    pub fn answer(&self) {
        self.0.send(()).expect("the upstream lives as long as this");
    }
}

/// The kernel makes a new IPv6 address good a moment after it was added, and drops what is sent before.
fn await_ipv6() {
    let (one, other) = (UdpSocket::bind("[2001:db8::1]:0"), UdpSocket::bind("[2001:db8::2]:0"));
    let (one, other) = (one.expect("an address"), other.expect("an address"));
    for (from, to) in [(&one, &other), (&other, &one)] {
        to.set_read_timeout(Some(Duration::from_millis(10))).expect("a socket");
        while from.send_to(b"?", to.local_addr().expect("bound")).is_err() || to.recv(&mut [0]).is_err() {}
    }
}

/// A nameserver at work, in a runtime of its own.
pub struct Served {
    runtime: tokio::runtime::Runtime,
    handle: Handle,
    at: Vec<SocketAddr>,
    world: Mutex<(Facts, Snapshot)>,
}

impl Served {
    fn start(at: &[&str], resolv_conf: &Path) -> Self {
        // Its threads begin in the namespace of the one that makes them.
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().expect("threads");
        let settings = settings();
        let mut facts = Facts::default();
        let touched = facts.apply_all(cluster());
        let snapshot = resolve(&facts, &Snapshot::empty(settings.clone()), &touched).0;
        let at: Vec<SocketAddr> = at.iter().map(|text| text.parse().expect("an address")).collect();
        let handle = runtime.block_on(async {
            let mut listeners = Vec::new();
            for addr in &at {
                listeners.push(Listener::bind(*addr).await.expect("a free port"));
            }
            let options = Options {
                corefile: shipped(&settings, 30, resolv_conf).expect("a name"),
                settings,
                own: Vec::new(),
                base: ".".into(),
                listen: Listen::At(listeners),
                pages: Vec::new(),
                threads: 2,
            };
            start(options).await.expect("it starts")
        });
        handle.zones(Arc::new(snapshot.clone()), Delta::all(&snapshot), true);
        let served = Self { runtime, handle, at, world: Mutex::new((facts, snapshot)) };
        served.await_changes();
        served
    }

    pub fn at(&self) -> &[SocketAddr] {
        &self.at
    }

    pub fn try_bind(&self, at: &str) -> Result<Listener, String> {
        self.runtime.block_on(Listener::bind(at.parse().expect("an address"))).map_err(|error| error.to_string())
    }

    pub fn bind(&self, at: &str) -> Listener {
        self.try_bind(at).expect("a free port")
    }

    pub fn open(&self, listener: Listener) {
        self.handle.listen(listener);
    }

    /// The Service `moving-N` comes, the one before it goes.
    pub fn change(&self, nth: usize) {
        let mut world = self.world.lock().expect("no test panicked with it");
        let (facts, before) = &mut *world;
        let gone = format!("moving-{}", nth.wrapping_sub(1));
        let touched = facts.apply_all([
            service(&format!("moving-{nth}"), [10, 96, 3, 3].into()),
            Fact::Service(NsName::new("default", gone), None),
        ]);
        let (after, delta) = resolve(facts, before, &touched);
        *before = after.clone();
        self.handle.zones(Arc::new(after), delta, true);
    }

    /// All that was told is what is answered from.
    pub fn await_changes(&self) {
        self.runtime.block_on(self.handle.records()).expect("it runs");
    }
}

fn settings() -> Arc<Settings> {
    Arc::new(Settings {
        node: "node-1".into(),
        cluster_cidrs: vec!["10.244.0.0/16".parse().expect("a range")],
        service_cidrs: vec!["10.96.0.0/12".parse().expect("a range")],
        cluster_dns: vec![[10, 96, 0, 10].into()],
        cluster_domain: "cluster.local".into(),
        proxy: Default::default(),
    })
}

fn service(name: &str, ip: IpAddr) -> Fact {
    let port = ServicePortFact { name: "http".into(), proto: Proto::Tcp, port: 80, node_port: 0 };
    let spec = Service { kind: ServiceKind::ClusterIp, cluster_ips: vec![ip], ports: vec![port], ..Service::default() };
    Fact::Service(NsName::new("default", name), Some(spec))
}

/// A hundred Services, and a headless one of a thousand addresses: 16 KB an answer.
fn cluster() -> Vec<Fact> {
    let services = (0..SERVICES).map(|nth| service(&format!("svc-{nth}"), [10, 96, 1, nth as u8].into()));
    let wide = Service { kind: ServiceKind::Headless, ..Service::default() };
    let endpoint = |nth: u32| EndpointFact::ready_at(IpAddr::from((0x0af4_0000 + nth).to_be_bytes()));
    let slice = Slice {
        service: NsName::new("default", "wide"),
        family: Family::V4,
        ports: vec![SlicePort { name: "http".into(), proto: Proto::Tcp, port: 8080 }],
        endpoints: (1..=1000).map(endpoint).collect(),
    };
    let wide = [
        Fact::Service(NsName::new("default", "wide"), Some(wide)),
        Fact::Slice(NsName::new("default", "wide-1"), Some(slice)),
    ];
    [Fact::Namespace("default".into(), Some(()))].into_iter().chain(services).chain(wide).collect()
}

/// Drawn packets, the same in each run (splitmix64).
pub struct Draw(pub u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }

    /// A packet that no honest client sends, or a query with something wrong in it.
    pub fn hostile(&mut self) -> Vec<u8> {
        let name = name_of(self.below(SERVICES));
        let mut packet = query(self.next() as u16, &name, self.next() as u16);
        match self.below(10) {
            0 => {
                let length = self.below(64);
                self.bytes(length)
            }
            // Nothing over 65,507 bytes fits into a datagram.
            1 if self.below(8) == 0 => vec![self.next() as u8; 65_507],
            1 => {
                packet.resize(512 + self.below(3000), 0);
                packet
            }
            2 => {
                packet.truncate(self.below(packet.len()));
                packet
            }
            // Counts, opcodes, flags.
            3 => {
                let at = 2 + self.below(10);
                packet[at] = self.next() as u8;
                packet
            }
            // A name that points at itself, and one of one endless label after another.
            4 => {
                packet[12..14].copy_from_slice(&[0xc0, 12]);
                packet
            }
            5 => {
                packet.truncate(12);
                packet.extend([63; 600]);
                packet
            }
            // A reply: to be answered by silence.
            6 => {
                packet[2] |= 0x80;
                packet
            }
            // Many OPT records.
            7 => {
                let count = self.below(100);
                packet[10..12].copy_from_slice(&(count as u16).to_be_bytes());
                (0..count).for_each(|_| packet.extend([0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]));
                packet
            }
            _ => {
                for _ in 0..=self.below(8) {
                    let at = self.below(packet.len());
                    packet[at] ^= 1 << self.below(8);
                }
                packet
            }
        }
    }
}
