//! Passages: a trace's events, as they came, into each packet's way through this node.
//!
//! ```text
//!  enter- (its first event) ─► base chains: rules, policies ─► leave- (how it left)     by the kernel's id of the packet
//! ```
//!
//! Pure. Headers come with the first event of each base chain: where they differ from the last ones, a nat rule of the base
//! chain before was carried out behind it, or conntrack repeated an old one. What a node sends to itself comes in again by
//! its loopback and is told as one passage.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use portolan_kernel::nft_look::BaseChain;
use portolan_kernel::nftrace::{CtSeen, Detail, PacketHead, TraceEvent, TraceVerdict, Traced};
use portolan_kernel::trap::{ENTER, KNOWN, LEAVE};
use portolan_model::Proto;
use portolan_story::evidence::{Act, Fate, Header, Hook};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Tables of all watches begin so: they tell nothing of a packet's way.
pub(crate) const TABLE_PREFIX: &str = "portolan-trace-";

/// An event, and when it was read: microseconds since the watch began.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) at_us: u64,
    pub(crate) event: TraceEvent,
}

/// A passage whose rules have no names yet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Way {
    pub(crate) at_us: u64,
    /// As it came in or was sent.
    pub(crate) first: PacketHead,
    pub(crate) entered: Header,
    /// As last seen.
    pub(crate) left: Header,
    pub(crate) came_by: Option<u32>,
    pub(crate) went_by: Option<u32>,
    pub(crate) steps: Vec<Met>,
    pub(crate) fate: Fate,
    /// It was known by its flow, not by what it is: an answer, or the first of a datagram's flow.
    pub(crate) by_flow: bool,
    /// What conntrack called it first, where the kernel says so.
    pub(crate) state: Option<CtSeen>,
    /// A base chain for NAT saw it: it began its flow.
    pub(crate) asked_nat: bool,
    /// The last mark that it had.
    pub(crate) mark: u32,
}

/// A rule or policy that a packet met.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Met {
    pub(crate) at_us: u64,
    pub(crate) hook: Hook,
    /// `NFPROTO_*` of the table.
    pub(crate) family: u8,
    pub(crate) table: String,
    pub(crate) chain: String,
    pub(crate) handle: Option<u64>,
    pub(crate) act: Act,
    /// The packet when it came to the base chain.
    pub(crate) before: Header,
    /// Its destination behind the base chain.
    pub(crate) after: SocketAddr,
    pub(crate) rewritten: Option<Header>,
}

/// The ways of all packets that the trap `table` took, in the order they came.
pub(crate) fn ways(heard: &[Heard], table: &str, bases: &[BaseChain], loopback: u32) -> Vec<Way> {
    let mut walks: Vec<Walk<'_>> = Vec::new();
    let mut open: BTreeMap<u32, usize> = BTreeMap::new();
    for Heard { at_us, event } in heard {
        if event.table == table && begins(event, open.contains_key(&event.id)) {
            if let Some(walk) = event.packet.and_then(|head| Walk::begin(head, event, *at_us, bases)) {
                open.insert(event.id, walks.len());
                walks.push(walk);
            }
            continue;
        }
        let Some(walk) = open.get(&event.id).and_then(|at| walks.get_mut(*at)) else { continue };
        match event.table.starts_with(TABLE_PREFIX) {
            true if event.table == table && event.chain.starts_with(LEAVE) => walk.leave(event),
            true => {}
            false => walk.take(event, *at_us),
        }
        if walk.ended.is_some() {
            open.remove(&event.id);
        }
    }
    joined(walks.into_iter().map(Walk::finish).collect(), loopback)
}

/// The trap's rule that set the trace going. Its chains tell of packets that others trace too, but no rule of it matches those.
fn begins(event: &TraceEvent, is_open: bool) -> bool {
    let is_rule = matches!(event.what, Traced::Rule { .. });
    is_rule && (event.chain.starts_with(ENTER) || event.chain.starts_with(KNOWN) && !is_open)
}

/// A way in the making.
struct Walk<'a> {
    way: Way,
    bases: &'a [BaseChain],
    base: Option<&'a BaseChain>,
    hook: Hook,
    /// Steps from here on are of the current base chain.
    since: usize,
    /// Rules that matched in it.
    matched: bool,
    ended: Option<Fate>,
}

impl<'a> Walk<'a> {
    fn begin(head: PacketHead, event: &TraceEvent, at_us: u64, bases: &'a [BaseChain]) -> Option<Self> {
        let entered = header_of(&head)?;
        let way = Way {
            at_us,
            first: head,
            entered,
            left: entered,
            came_by: head.iif,
            went_by: None,
            steps: Vec::new(),
            fate: Fate::Vanished,
            by_flow: event.chain.starts_with(KNOWN),
            state: head.state,
            asked_nat: false,
            mark: event.mark,
        };
        let hook = if head.iif.is_some() { Hook::Prerouting } else { Hook::Output };
        Some(Self { way, bases, base: None, hook, since: 0, matched: false, ended: None })
    }

    /// How it is behind all rules.
    fn leave(&mut self, event: &TraceEvent) {
        let Some(head) = event.packet else { return };
        self.now_is(&head);
        self.ended = Some(if event.chain.ends_with("input") { Fate::Taken } else { Fate::Sent });
    }

    fn take(&mut self, event: &TraceEvent, at_us: u64) {
        self.enter_base(event);
        if let Some(head) = &event.packet {
            self.now_is(head);
        }
        self.way.mark = event.mark;
        let (handle, act) = match &event.what {
            Traced::ChainEnd => return,
            Traced::Policy { accepts: true } if !self.matched => return,
            Traced::Policy { accepts } => (None, Act::Policy { accepts: *accepts }),
            Traced::Rule { handle, verdict } => (Some(*handle), act_of(verdict)),
        };
        self.matched = true;
        if matches!(act, Act::Drop | Act::Policy { accepts: false }) {
            self.ended = Some(Fate::Stopped);
        }
        let (table, chain) = (event.table.clone(), event.chain.clone());
        let (before, after) = (self.way.left, self.way.left.dst);
        let hook = self.hook;
        let family = event.family;
        self.way.steps.push(Met { at_us, hook, family, table, chain, handle, act, before, after, rewritten: None });
    }

    /// Base chains come one after another; other chains belong to the last one.
    fn enter_base(&mut self, event: &TraceEvent) {
        let is_it =
            |base: &&BaseChain| base.family == event.family && base.table == event.table && base.name == event.chain;
        let Some(base) = self.bases.iter().find(is_it) else { return };
        // A return to the base chain that one is in carries no headers.
        if self.base != Some(base) || event.packet.is_some() {
            (self.base, self.matched) = (Some(base), false);
            self.hook = hook_of(base.hook).unwrap_or(self.hook);
            self.way.asked_nat |= base.kind == "nat";
        }
    }

    /// The packet at the beginning of a base chain, or behind all.
    fn now_is(&mut self, head: &PacketHead) {
        self.way.state = self.way.state.or(head.state);
        self.way.went_by = head.oif.or(self.way.went_by);
        let Some(now) = header_of(head) else { return };
        let passed = &mut self.way.steps[self.since..];
        passed.iter_mut().for_each(|step| step.after = now.dst);
        if now != self.way.left
            && let Some(step) = passed.iter_mut().rev().find(|step| step.table_is_nat(self.bases))
        {
            step.rewritten = Some(now);
        }
        self.way.left = now;
        self.since = self.way.steps.len();
    }

    fn finish(self) -> Way {
        let Self { mut way, hook, ended, .. } = self;
        let is_stolen = way.steps.last().is_some_and(|step| step.act == Act::Stolen);
        way.fate = match ended {
            Some(fate) => fate,
            None if is_stolen => Fate::Stopped,
            None if hook == Hook::Postrouting => Fate::Sent,
            None if hook == Hook::Input => Fate::Taken,
            None => Fate::Vanished,
        };
        way.went_by = way.went_by.filter(|_| way.fate == Fate::Sent);
        way
    }
}

impl Met {
    /// The base chain that it was in, or one of the table, does NAT.
    fn table_is_nat(&self, bases: &[BaseChain]) -> bool {
        let number = number_of(self.hook);
        let of_table = |base: &&BaseChain| base.family == self.family && base.table == self.table;
        bases.iter().filter(of_table).any(|base| base.kind == "nat" && base.hook == number)
    }
}

fn joined(ways: Vec<Way>, loopback: u32) -> Vec<Way> {
    let mut joined: Vec<Way> = Vec::new();
    for way in ways {
        let sent_here = |before: &&mut Way| {
            before.went_by == Some(loopback) && before.fate == Fate::Sent && before.left == way.entered
        };
        match joined.iter_mut().rev().find(sent_here).filter(|_| way.came_by == Some(loopback)) {
            Some(before) => {
                before.steps.extend(way.steps);
                (before.left, before.went_by, before.fate) = (way.left, way.went_by, way.fate);
            }
            None => joined.push(way),
        }
    }
    joined
}

fn act_of(verdict: &TraceVerdict) -> Act {
    match verdict {
        TraceVerdict::Drop => Act::Drop,
        TraceVerdict::Accept => Act::Accept,
        TraceVerdict::Stolen => Act::Stolen,
        TraceVerdict::Continue => Act::Continue,
        TraceVerdict::Jump(chain) => Act::Jump { chain: chain.as_str().into() },
        TraceVerdict::Goto(chain) => Act::Goto { chain: chain.as_str().into() },
        TraceVerdict::Return => Act::Return,
    }
}

/// A TCP packet that begins a connection, or does not; `None`: it is no TCP packet.
pub(crate) fn begins_tcp(head: &PacketHead) -> Option<bool> {
    let Detail::Tcp { flags, .. } = head.detail else { return None };
    Some(flags & (SYN | ACK) == SYN)
}

/// `None`: no transport that Services know.
pub(crate) fn header_of(head: &PacketHead) -> Option<Header> {
    let proto = match i32::from(head.protocol) {
        libc::IPPROTO_TCP => Proto::Tcp,
        libc::IPPROTO_UDP => Proto::Udp,
        libc::IPPROTO_SCTP => Proto::Sctp,
        _ => return None,
    };
    Some(Header { src: head.src, dst: head.dst, proto })
}

const HOOKS: [Hook; 5] = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];

/// By `NF_INET_*`.
fn hook_of(number: u32) -> Option<Hook> {
    HOOKS.get(number as usize).copied()
}

fn number_of(hook: Hook) -> u32 {
    HOOKS.iter().position(|other| *other == hook).expect("all five are listed") as u32
}

#[cfg(test)]
#[path = "passages_tests.rs"]
mod tests;
