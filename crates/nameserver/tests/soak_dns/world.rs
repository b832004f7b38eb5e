//! A cluster that never rests, each of its states kept: what may be answered is what was true at some moment between the
//! question and its answer.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, RwLock};

use portolan_model::{
    Delta, EndpointFact, Fact, Facts, Family, NsName, Proto, Service, ServiceKind, ServicePortFact, Settings, Slice,
    SlicePort, Snapshot, resolve,
};

use crate::dice::Dice;

/// Services that come and go.
pub const GUESTS: usize = 8;
/// Endpoints of the headless Service that never leave, though they move from slice to slice.
pub const CORE: [Ipv4Addr; 3] = [core(1), core(2), core(3)];
/// Endpoints of it that come and go.
const DRIFTERS: usize = 40;
const SLICES: usize = 4;

const fn core(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 0, host)
}

fn drifter(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 1, number as u8 + 1)
}

/// What is true of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Addresses of `set`.
    pub set: BTreeSet<Ipv4Addr>,
    /// ClusterIPs of `guest-N`.
    pub guests: [Option<Ipv4Addr>; GUESTS],
}

/// All states since the start, the last at the end.
#[derive(Default)]
pub struct History(RwLock<Vec<Arc<State>>>);

impl History {
    /// How many states were begun.
    pub fn len(&self) -> usize {
        self.0.read().expect("nobody panicked").len()
    }

    /// States from number `from` on, up to the last begun.
    pub fn since(&self, from: usize) -> Vec<Arc<State>> {
        self.0.read().expect("nobody panicked")[from..].to_vec()
    }

    pub fn push(&self, state: State) {
        self.0.write().expect("nobody panicked").push(Arc::new(state));
    }
}

pub struct World {
    facts: Facts,
    pub snapshot: Arc<Snapshot>,
    /// Endpoints of `set` by slice; one may stand in two.
    slices: [BTreeSet<Ipv4Addr>; SLICES],
    guests: [Option<Ipv4Addr>; GUESTS],
    next_ip: u8,
}

pub fn settings() -> Arc<Settings> {
    Arc::new(Settings {
        node: "node-1".into(),
        cluster_cidrs: vec!["10.244.0.0/16".parse().expect("a range")],
        service_cidrs: vec!["10.96.0.0/12".parse().expect("a range")],
        cluster_dns: vec![Ipv4Addr::LOCALHOST.into()],
        cluster_domain: "cluster.local".into(),
        proxy: Default::default(),
    })
}

impl World {
    /// With the Services that never go: `web`, and `set` with its core.
    pub fn new() -> World {
        let mut world = World {
            facts: Facts::default(),
            snapshot: Arc::new(Snapshot::empty(settings())),
            slices: Default::default(),
            guests: [None; GUESTS],
            next_ip: 0,
        };
        world.slices[0].extend(CORE);
        let facts = [
            Fact::Namespace("default".into(), Some(())),
            service("web", Some(&[Ipv4Addr::new(10, 96, 1, 1)])),
            service("set", Some(&[])),
            world.slice(0),
        ];
        world.take(facts.into());
        world
    }

    pub fn state(&self) -> State {
        State { set: self.slices.iter().flatten().copied().collect(), guests: self.guests }
    }

    /// One change of the cluster, as its watch would tell it.
    pub fn change(&mut self, dice: &mut Dice) -> Delta {
        let facts = match dice.below(10) {
            0..3 => self.move_core(dice),
            3..7 => self.drift(dice),
            _ => self.guest(dice),
        };
        self.take(facts)
    }

    /// An endpoint that stays moves to another slice: first it is in both, as the controller writes it; both writes come
    /// as one change now and then.
    fn move_core(&mut self, dice: &mut Dice) -> Vec<Fact> {
        let who = CORE[dice.below(CORE.len())];
        let places: Vec<usize> = (0..SLICES).filter(|slice| self.slices[*slice].contains(&who)).collect();
        if places.len() > 1 {
            self.slices[places[0]].remove(&who);
            return vec![self.slice(places[0])];
        }
        let to = dice.below(SLICES);
        self.slices[to].insert(who);
        let mut facts = vec![self.slice(to)];
        if to != places[0] && dice.below(2) == 0 {
            self.slices[places[0]].remove(&who);
            facts.push(self.slice(places[0]));
        }
        facts
    }

    fn drift(&mut self, dice: &mut Dice) -> Vec<Fact> {
        let who = drifter(dice.below(DRIFTERS));
        let places: Vec<usize> = (0..SLICES).filter(|slice| self.slices[*slice].contains(&who)).collect();
        let to = dice.below(SLICES);
        match places[..] {
            [] => {
                self.slices[to].insert(who);
                vec![self.slice(to)]
            }
            _ => places
                .into_iter()
                .map(|place| {
                    self.slices[place].remove(&who);
                    self.slice(place)
                })
                .collect(),
        }
    }

    /// A Service comes, at an address that another may have had, or goes.
    fn guest(&mut self, dice: &mut Dice) -> Vec<Fact> {
        let number = dice.below(GUESTS);
        self.next_ip = self.next_ip.wrapping_add(1);
        self.guests[number] = match self.guests[number] {
            None => Some(Ipv4Addr::new(10, 96, 2, self.next_ip)),
            Some(_) => None,
        };
        let ips: Option<Vec<Ipv4Addr>> = self.guests[number].map(|ip| vec![ip]);
        vec![service(&format!("guest-{number}"), ips.as_deref())]
    }

    fn take(&mut self, facts: Vec<Fact>) -> Delta {
        let touched = self.facts.apply_all(facts);
        let (snapshot, delta) = resolve(&self.facts, &self.snapshot, &touched);
        self.snapshot = Arc::new(snapshot);
        delta
    }

    fn slice(&self, number: usize) -> Fact {
        let endpoints = self.slices[number].iter().map(|ip| EndpointFact::ready_at((*ip).into())).collect();
        let ports = vec![SlicePort { name: "http".into(), proto: Proto::Tcp, port: 8080 }];
        let slice = Slice { service: NsName::new("default", "set"), family: Family::V4, ports, endpoints };
        Fact::Slice(NsName::new("default", format!("set-{number}")), Some(slice))
    }
}

/// A Service at these addresses, headless if there are none; `None`: it is gone.
fn service(name: &str, ips: Option<&[Ipv4Addr]>) -> Fact {
    let port = ServicePortFact { name: "http".into(), proto: Proto::Tcp, port: 80, node_port: 0 };
    let spec = ips.map(|ips| Service {
        kind: if ips.is_empty() { ServiceKind::Headless } else { ServiceKind::ClusterIp },
        cluster_ips: ips.iter().map(|ip| (*ip).into()).collect(),
        ports: vec![port],
        ..Service::default()
    });
    Fact::Service(NsName::new("default", name), spec)
}
