//! What 64 generations cost at 1,000 Services with steady churn, in bytes of this process's heap. Alone in its program:
//! the counter counts everybody's bytes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use portolan_model::{
    EndpointFact, Fact, Facts, Family, NsName, ObjectKind, ObjectRef, Proto, Service, ServicePortFact, Settings, Slice,
    SlicePort, Snapshot, resolve,
};
use portolan_story::history::{Cause, Concerns, History, KEPT, Origin, Settled};

const SERVICES: u32 = 1000;
const ENDPOINTS: u32 = 10;
/// The goal.
const MOST_BYTES: usize = 10_000_000;

static LIVE: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes on to the system's allocator unchanged; beside that only a counter is touched.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn live() -> usize {
    LIVE.load(Ordering::Relaxed)
}

pub struct Node {
    facts: Facts,
    snapshot: Arc<Snapshot>,
    history: Option<History>,
    now_us: i64,
}

fn key(n: u32) -> NsName {
    NsName::new("default", format!("service-{n}"))
}

fn service(n: u32) -> Service {
    let port = ServicePortFact { name: "http".into(), proto: Proto::Tcp, port: 80, node_port: 0 };
    let ip = IpAddr::from((0x0a60_0000 + n).to_be_bytes());
    Service { cluster_ips: vec![ip], ports: vec![port], ..Service::default() }
}

/// A slice whose first endpoint is the `turn`-th.
fn slice(n: u32, turn: u32) -> Slice {
    let endpoint = |of: u32| {
        let addr = IpAddr::from((0x0af4_0000 + (n * ENDPOINTS + of) * 64 + turn % 64).to_be_bytes());
        EndpointFact {
            pod: Some(NsName::new("default", format!("service-{n}-7c9d-{of}-{turn}"))),
            node: Some("node-1".into()),
            ..EndpointFact::ready_at(addr)
        }
    };
    Slice {
        service: key(n),
        family: Family::V4,
        ports: vec![SlicePort { name: "http".into(), proto: Proto::Tcp, port: 80 }],
        endpoints: (0..ENDPOINTS).map(endpoint).collect(),
    }
}

fn cause(kind: ObjectKind, n: u32, now_us: i64) -> Cause {
    let object = ObjectRef { kind, key: key(n) };
    let origin = Origin::Object { object, version: now_us as u64, gone: false };
    Cause { origin, seen_us: now_us, triggered_us: Some(now_us), concerns: Concerns::Service(key(n)) }
}

impl Node {
    fn new(remembers: bool) -> Self {
        let settings = Settings {
            node: "node-1".into(),
            cluster_cidrs: vec!["10.244.0.0/14".parse().expect("a prefix")],
            service_cidrs: vec!["10.96.0.0/12".parse().expect("a prefix")],
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            proxy: Default::default(),
        };
        let snapshot = Arc::new(Snapshot::empty(Arc::new(settings)));
        let history = remembers.then(|| History::new(0, snapshot.clone()));
        Self { facts: Facts::default(), snapshot, history, now_us: 0 }
    }

    fn take(&mut self, facts: Vec<Fact>, causes: Vec<Cause>) {
        self.now_us += 10_000;
        let touched = self.facts.apply_all(facts);
        let (after, delta) = resolve(&self.facts, &self.snapshot, &touched);
        self.snapshot = Arc::new(after);
        let Some(history) = &mut self.history else { return };
        causes.into_iter().for_each(|cause| history.saw(cause));
        history.resolved(&delta);
        history.settled(&Settled {
            snapshot: &self.snapshot,
            began_us: self.now_us,
            now_us: self.now_us + 4000,
            is_in_place: &|_| true,
            was_there: &|_| Some(false),
        });
    }

    fn start(&mut self) {
        let facts = (0..SERVICES)
            .flat_map(|n| [Fact::Service(key(n), Some(service(n))), Fact::Slice(key(n), Some(slice(n, 0)))])
            .collect();
        let kinds = [ObjectKind::Service, ObjectKind::EndpointSlice];
        let causes = (0..SERVICES).flat_map(|n| kinds.map(|kind| cause(kind, n, 0))).collect();
        self.take(facts, causes);
    }

    /// All ten pods of a Service are replaced, in as many batches as there are rounds: each time another Service.
    fn churn(&mut self, rounds: u32) {
        for round in 0..rounds {
            let n = round * 7 % SERVICES;
            let now_us = self.now_us;
            self.take(
                vec![Fact::Slice(key(n), Some(slice(n, round + 1)))],
                vec![cause(ObjectKind::EndpointSlice, n, now_us)],
            );
        }
    }
}

/// Bytes that are live with a node after `rounds`, and the node.
pub fn cost(remembers: bool, rounds: u32) -> (usize, Node) {
    let before = live();
    let mut node = Node::new(remembers);
    node.start();
    node.churn(rounds);
    (live() - before, node)
}

/// One test: bytes of others would be counted too.
#[test]
fn sixty_four_generations_at_1000_services_stay_below_ten_megabytes_however_long_the_churn() {
    let mut costs = Vec::new();
    for rounds in [100, 1000, 3000] {
        let (bare, _) = cost(false, rounds);
        let (with, node) = cost(true, rounds);
        let history = node.history.as_ref().expect("it remembers");
        assert_eq!(history.generations().count(), KEPT);
        let bytes = with - bare;
        println!("after {rounds} generations: {bytes} bytes for {KEPT} generations and {SERVICES} ages");
        assert!(bytes < MOST_BYTES, "{bytes} bytes after {rounds} generations");
        costs.push(bytes);
    }
    // Where everything has changed once, nothing grows any more.
    assert!(costs[2] < costs[1] + costs[1] / 10, "it grows: {costs:?}");
}
