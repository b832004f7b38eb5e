//! The least driver that [`Upstreams`] and [`Dialer`] need: what the DNS task does, without a server behind it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use portolan_dns::corefile::config::{ForwardConfig, Place, Policy, Target, TlsConfig};
use portolan_dns::forward::step::{Ask, Done, GroupConfig, GroupId, Step};
use portolan_dns::forward::{Question, Upstreams};
use portolan_dns::wire::{CLASS_IN, Query, Transport};
use portolan_dns::{Name, Rtype};
use portolan_nameserver::upstream::{Dialer, Heard};
use tokio::sync::mpsc;

use crate::servers::Mirror;

/// Far beyond what a loaded machine needs; a question ends by itself after 4.5 s.
const LIMIT: Duration = Duration::from_secs(60);

pub struct Driver {
    pub upstreams: Upstreams<u32>,
    dialer: Dialer,
    heard: mpsc::Receiver<Heard>,
    started: Instant,
    done: Vec<Done<u32>>,
    pub failures: Vec<String>,
    pub loops: Vec<(String, bool)>,
}

pub fn plain(addr: SocketAddr) -> Target {
    Target::Plain(addr)
}

pub fn group(to: Vec<Target>) -> GroupConfig {
    let forward = ForwardConfig {
        place: Place::default(),
        from: Name::root(),
        to,
        except: Vec::new(),
        force_tcp: false,
        prefer_udp: false,
        max_fails: 2,
        expire: Duration::from_secs(10),
        health_check: Duration::from_millis(500),
        policy: Policy::Sequential,
        max_concurrent: 0,
        next_on: Vec::new(),
        tls: TlsConfig::default(),
    };
    GroupConfig { forward, loop_zone: None, mixes_case: false }
}

pub fn question(text: &str, rtype: Rtype) -> Question {
    let name = Name::parse(text).expect("a name in a test");
    Question { name, rtype, class: CLASS_IN, dnssec_ok: false, checking_disabled: false }
}

fn draw() -> u16 {
    rand::random()
}

impl Driver {
    pub fn new(groups: Vec<GroupConfig>) -> Self {
        let (tell, heard) = mpsc::channel(256);
        let mut driver = Self {
            upstreams: Upstreams::default(),
            dialer: Dialer::new(tell),
            heard,
            started: Instant::now(),
            done: Vec::new(),
            failures: Vec::new(),
            loops: Vec::new(),
        };
        let steps = driver.upstreams.configure(groups, driver.started.elapsed(), &mut draw);
        driver.carry_out(steps);
        driver
    }

    pub fn ask(&mut self, waiter: u32, text: &str) {
        self.put(waiter, question(text, Rtype::A));
    }

    pub fn put(&mut self, waiter: u32, question: Question) {
        let ask = Ask { question, waiter, transport: Transport::Udp, patience: None };
        let steps = self.upstreams.ask(GroupId(0), ask, self.started.elapsed(), &mut draw);
        self.carry_out(steps);
    }

    /// Datagrams and messages that were not for what was asked.
    pub fn forged(&self) -> u64 {
        self.upstreams.view().iter().flat_map(|group| &group.servers).map(|server| server.counts.forged).sum()
    }

    /// The next `count` questions that end.
    pub async fn ended(&mut self, count: usize) -> Vec<Done<u32>> {
        self.until(LIMIT, |driver| driver.done.len() >= count).await;
        self.done.drain(..count).collect()
    }

    pub async fn until(&mut self, limit: Duration, holds: impl Fn(&Self) -> bool) {
        let end = Instant::now() + limit;
        while !holds(self) {
            assert!(Instant::now() < end, "not within {limit:?}; failures: {:?}", self.failures);
            self.step(end).await;
        }
    }

    /// Takes what the mirror sends back until a loop was told of.
    pub async fn brought_back_by(&mut self, mirror: &Mirror) {
        let end = Instant::now() + LIMIT;
        while self.loops.is_empty() {
            assert!(Instant::now() < end, "no loop was seen");
            self.step(Instant::now() + Duration::from_millis(100)).await;
            self.look_at(mirror);
        }
    }

    fn look_at(&mut self, mirror: &Mirror) {
        for packet in mirror.came_back() {
            let query = Query::parse(&packet).expect("a query comes back");
            if self.upstreams.is_loop_probe(&query) {
                let steps = self.upstreams.saw_loop_probe(&query, self.started.elapsed(), &mut draw);
                self.carry_out(steps);
            }
        }
    }

    async fn step(&mut self, end: Instant) {
        let due = self.upstreams.next_deadline().map_or(end, |at| (self.started + at).min(end));
        let heard = tokio::time::timeout_at(due.into(), self.heard.recv()).await;
        let now = self.started.elapsed();
        let steps = match heard {
            Ok(Some(Heard::Reply { exchange, bytes })) => self.upstreams.receive(exchange, &bytes, now, &mut draw),
            Ok(Some(Heard::Failed { exchange, why })) => {
                let steps = self.upstreams.fail(exchange, &why, now, &mut draw);
                self.failures.push(why);
                steps
            }
            Ok(None) => unreachable!("the dialer holds a sender"),
            Err(_) => self.upstreams.tick(now, &mut draw),
        };
        self.carry_out(steps);
    }

    fn carry_out(&mut self, steps: Vec<Step<u32>>) {
        for step in steps {
            match step {
                Step::Send(sending) => self.dialer.send(sending),
                Step::Close(exchange) => self.dialer.close(exchange),
                Step::Done(done) => self.done.push(done),
                Step::Loop { peer, stands, .. } => self.loops.push((peer.to_string(), stands)),
            }
        }
    }
}
