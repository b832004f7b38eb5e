//! Whatever the kernel refuses, it gets the rest; whoever is to blame is found, told of once, and tried again.

use std::sync::{Arc, Mutex};

use portolan_dataplane::iptables::{Desired, Options};
use portolan_kernel::nft_monitor::NftEvent;
use portolan_model::{ServiceView, Settings};
use proptest::prelude::*;

use super::*;

/// A kernel in memory that refuses some Services.
#[derive(Clone, Default)]
struct Kernel(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    holds: BTreeSet<NsName>,
    refuses: BTreeSet<NsName>,
    /// It says whom it refuses.
    names: bool,
    /// It takes nothing at all.
    broken: bool,
    writes: usize,
}

/// Plans by the delta alone, as real planners do: what it is not told of, it does not notice.
struct FakeWriter {
    kernel: Kernel,
    planned: BTreeSet<NsName>,
    /// Nothing: what is planned is looked at in `planned`.
    desired: Desired,
}

impl Writer for FakeWriter {
    fn family(&self) -> Family {
        Family::V4
    }

    fn set_dns(&mut self, _: DnsPath) {}

    fn doubt(&mut self) {}

    fn concerns(&mut self, _: &NftEvent) -> bool {
        false
    }

    fn plan(&self) -> Plan<'_> {
        Plan::Iptables(&self.desired)
    }

    fn update(&mut self, snapshot: &Snapshot, delta: &Delta) -> Result<Wrote, WriteError> {
        for key in &delta.services {
            match snapshot.services.contains_key(key) {
                true => self.planned.insert(key.clone()),
                false => self.planned.remove(key),
            };
        }
        let mut state = self.kernel.0.lock().expect("no panics");
        state.writes += 1;
        let bad = self.planned.intersection(&state.refuses).next().cloned();
        let reason = "Invalid argument".to_owned();
        match bad {
            _ if state.broken => Err(WriteError::Unreached { reason }),
            Some(service) if state.names => Err(WriteError::Culprit { service, reason }),
            Some(_) => Err(WriteError::Refused { reason }),
            None => {
                state.holds = self.planned.clone();
                Ok(Wrote::Changes)
            }
        }
    }
}

const WAIT: Duration = Duration::from_secs(30);

struct World {
    kernel: Kernel,
    guarded: Guarded,
    snapshot: Snapshot,
    now: Instant,
}

impl World {
    fn new(names: bool) -> Self {
        let kernel = Kernel::default();
        kernel.0.lock().expect("no panics").names = names;
        let writer = FakeWriter {
            kernel: kernel.clone(),
            planned: BTreeSet::new(),
            desired: Desired::new(Family::V4, Options::default()),
        };
        let settings = Settings {
            node: "node-1".into(),
            cluster_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            proxy: Default::default(),
        };
        let snapshot = Snapshot::empty(Arc::new(settings));
        Self { kernel, guarded: Guarded::new(Box::new(writer), WAIT), snapshot, now: Instant::now() }
    }

    fn refuses(&self, numbers: &[usize]) {
        self.kernel.0.lock().expect("no panics").refuses = numbers.iter().map(|n| key(*n)).collect();
    }

    /// These Services come, or change; their refusals that are told.
    fn change(&mut self, numbers: impl IntoIterator<Item = usize>) -> Vec<NsName> {
        let mut delta = Delta::default();
        for key in numbers.into_iter().map(key) {
            let view = ServiceView { key: key.clone(), spec: Arc::default(), ports: Vec::new(), hosts: Vec::new() };
            self.snapshot.services.insert(key.clone(), Arc::new(view));
            delta.services.insert(key);
        }
        self.update(&delta)
    }

    fn update(&mut self, delta: &Delta) -> Vec<NsName> {
        let outcome = self.guarded.update(&self.snapshot, delta, self.now);
        assert!(outcome.wrote.is_some(), "the rest goes in");
        outcome.refusals.into_iter().map(|refusal| refusal.service).collect()
    }

    fn holds(&self) -> Vec<NsName> {
        self.kernel.0.lock().expect("no panics").holds.iter().cloned().collect()
    }
}

fn key(number: usize) -> NsName {
    NsName::new("default", format!("s{number:03}"))
}

fn keys(numbers: impl IntoIterator<Item = usize>) -> Vec<NsName> {
    numbers.into_iter().map(key).collect()
}

#[test]
fn a_refused_service_is_left_out_told_once_and_tried_again_in_a_while() {
    for names in [true, false] {
        let mut world = World::new(names);
        world.refuses(&[1]);
        assert_eq!(world.change(0..3), keys([1]), "names: {names}");
        assert_eq!(world.holds(), keys([0, 2]));
        assert_eq!(world.change([3]), keys([]), "told once");
        assert_eq!(world.holds(), keys([0, 2, 3]));
        world.now += WAIT;
        assert!(world.guarded.deadline().expect("one is left out") <= world.now);
        assert_eq!(world.update(&Delta::default()), keys([]), "tried again, refused again, and not told again");
        assert_eq!(world.holds(), keys([0, 2, 3]));
        world.refuses(&[]);
        world.now += WAIT;
        world.update(&Delta::default());
        assert_eq!(world.holds(), keys(0..4));
        assert_eq!(world.guarded.deadline(), None);
    }
}

#[test]
fn one_that_changes_is_tried_at_once_and_told_of_again_if_it_is_still_refused() {
    let mut world = World::new(true);
    world.refuses(&[1]);
    world.change(0..3);
    assert_eq!(world.change([1]), keys([1]));
    world.refuses(&[]);
    assert_eq!(world.change([1]), keys([]));
    assert_eq!(world.holds(), keys(0..3));
}

#[test]
fn a_kernel_that_cannot_be_reached_blames_nobody() {
    let mut world = World::new(true);
    world.kernel.0.lock().expect("no panics").broken = true;
    world.snapshot.services.insert(
        key(0),
        Arc::new(ServiceView { key: key(0), spec: Arc::default(), ports: Vec::new(), hosts: Vec::new() }),
    );
    let outcome = world.guarded.update(&world.snapshot, &Delta::all(&world.snapshot), world.now);
    assert_eq!(outcome, Outcome { wrote: None, failures: 1, refusals: Vec::new() });
    world.kernel.0.lock().expect("no panics").broken = false;
    world.update(&Delta::default());
    assert_eq!(world.holds(), keys([0]));
}

#[test]
fn one_culprit_among_many_is_found_in_few_writes() {
    let mut world = World::new(false);
    world.refuses(&[77]);
    assert_eq!(world.change(0..256), keys([77]));
    assert_eq!(world.holds().len(), 255);
    let writes = world.kernel.0.lock().expect("no panics").writes;
    assert!(writes <= 4 * 9, "{writes} writes");
}

proptest! {
    /// The law of isolation: whatever is refused, named or not, the kernel ends with exactly the others.
    #[test]
    fn the_kernel_ends_with_all_that_it_takes(
        steps in prop::collection::vec((prop::collection::vec(0usize..12, 0..5), prop::collection::vec(0usize..12, 0..4)), 1..8),
        names in any::<bool>(),
    ) {
        let mut world = World::new(names);
        for (changed, refused) in steps {
            world.refuses(&refused);
            // What is held and refused from now on is noticed when it is written again.
            world.change(changed.into_iter().chain(refused.iter().copied()));
        }
        world.now += WAIT;
        world.update(&Delta::default());
        let refuses = world.kernel.0.lock().expect("no panics").refuses.clone();
        let expected: Vec<NsName> = world.snapshot.services.keys().filter(|key| !refuses.contains(*key)).cloned().collect();
        prop_assert_eq!(world.holds(), expected);
    }
}
