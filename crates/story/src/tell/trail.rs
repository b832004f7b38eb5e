//! Trail: the passages of one packet, and of its answer, in the order in which it went from node to node.
//!
//! Clocks of nodes are not compared: the passage that comes next is the one that a packet entered as it left the last.

use std::collections::HashSet;
use std::net::SocketAddr;

use portolan_dataplane::meaning::Meaning;
use portolan_model::Text;

use crate::evidence::{Act, Direction, Fate, Header, NodeEvidence, Passage, Probed, Source, Step};
use crate::knows::Knows;

/// A packet's way there and its answer's way back.
pub struct Trail<'a> {
    /// Nodes that it passed, in order.
    pub forth: Vec<Leg<'a>>,
    /// Nodes that the answer passed, in order.
    pub back: Vec<Leg<'a>>,
}

/// One passage, on its node.
#[derive(Clone, Copy, Debug)]
pub struct Leg<'a> {
    /// Where.
    pub node: &'a Text,
    /// How that node knows.
    pub source: Source,
    /// When the packet was first seen on that node, by its clock.
    pub since_us: u64,
    /// What happened.
    pub passage: &'a Passage,
}

impl<'a> Trail<'a> {
    /// Puts what nodes saw in order. What does not fit on to anything comes last, but is not left out.
    pub fn of(evidence: &'a [NodeEvidence], probed: Option<&Probed>, live: bool, knows: &Knows) -> Self {
        let sent = probed.and_then(|probed| Some((probed.local?, probed.remote?)));
        let forth = ordered(legs(evidence, Direction::Forth), sent, live, knows);
        let answer = forth.last().map(|leg| leg.out()).map(|out| (out.dst, out.src));
        let back = ordered(legs(evidence, Direction::Back), answer, live, knows);
        Self { forth, back }
    }

    /// Where the packet was seen last.
    pub fn last(&self) -> Option<&Leg<'a>> {
        self.forth.last()
    }

    /// The passage that ended in a rule or policy: the packet's, or its answer's.
    pub fn stopped(&self) -> Option<&Leg<'a>> {
        self.forth.iter().chain(&self.back).find(|leg| leg.passage.fate == Fate::Stopped)
    }
}

impl<'a> Leg<'a> {
    /// The packet as it left the node: what NAT made of it, by its conntrack entry, as no hook sees the last rewriting.
    pub fn out(&self) -> Header {
        let passage = self.passage;
        let Some(flow) = passage.flow.as_ref().filter(|_| self.is_through()) else { return passage.left };
        let like = match passage.direction {
            Direction::Forth => flow.reply,
            Direction::Back => flow.original,
        };
        Header { src: like.dst, dst: like.src, proto: passage.entered.proto }
    }

    /// Nothing on this node stopped it.
    pub fn is_through(&self) -> bool {
        matches!(self.passage.fate, Fate::Sent | Fate::Taken)
    }

    /// The rule or policy that ended it.
    pub fn decided(&self) -> Option<&'a Step> {
        let ends = |step: &&Step| matches!(step.act, Act::Drop | Act::Stolen | Act::Policy { accepts: false });
        let steps = &self.passage.steps;
        let stopped = self.passage.fate == Fate::Stopped;
        steps.iter().rev().find(ends).or_else(|| steps.last().filter(|_| stopped)).filter(|_| stopped)
    }

    /// Steps with the rules that they were.
    pub fn meanings(&self) -> impl Iterator<Item = (&'a Step, &'a Meaning)> + use<'a> {
        self.passage.steps.iter().filter_map(|step| step.rule.as_ref().map(|rule| (step, &rule.meaning)))
    }

    /// A Service was asked for here.
    pub fn claim(&self) -> Option<&'a Meaning> {
        self.meanings().map(|(_, meaning)| meaning).find(|meaning| matches!(meaning, Meaning::Claims { .. }))
    }

    /// Its conntrack entry was there before it.
    pub fn is_older(&self) -> bool {
        self.passage.flow.as_ref().is_some_and(|flow| flow.older)
    }
}

fn legs(evidence: &[NodeEvidence], direction: Direction) -> Vec<Leg<'_>> {
    let mut all = Vec::new();
    for told in evidence {
        let since_us = told.passages.iter().map(|passage| passage.at_us).min().unwrap_or(0);
        // A packet that was sent again looks as before: once is enough.
        let mut seen = HashSet::new();
        let mut passages: Vec<&Passage> = told.passages.iter().filter(|p| p.direction == direction).collect();
        passages.sort_by_key(|passage| passage.at_us);
        for passage in passages {
            if seen.insert((passage.entered, &passage.came_by)) {
                all.push(Leg { node: &told.node, source: told.source, since_us, passage });
            }
        }
    }
    all
}

/// Of a live flow only what hangs together is one packet's; the rest are other connections.
fn ordered<'a>(
    mut rest: Vec<Leg<'a>>,
    sent: Option<(SocketAddr, SocketAddr)>,
    live: bool,
    knows: &Knows,
) -> Vec<Leg<'a>> {
    let mut trail = Vec::new();
    let Some(first) = first(&rest, sent, knows) else { return trail };
    trail.push(rest.remove(first));
    while let Some(next) = next(&rest, &trail[trail.len() - 1], knows) {
        trail.push(rest.remove(next));
    }
    if !live {
        trail.append(&mut rest);
    }
    trail
}

fn first(legs: &[Leg<'_>], sent: Option<(SocketAddr, SocketAddr)>, knows: &Knows) -> Option<usize> {
    let as_sent =
        |leg: &Leg<'_>| sent.is_some_and(|(src, dst)| leg.passage.entered.src == src && leg.passage.entered.dst == dst);
    let from_process = |leg: &Leg<'_>| leg.passage.came_by.is_none();
    let follows_nobody = |leg: &Leg<'_>| {
        let others = || legs.iter().filter(|other| !std::ptr::eq(other.passage, leg.passage));
        !others().any(|other| other.out() == leg.passage.entered)
    };
    let at_home = |leg: &Leg<'_>| knows.home(leg.passage.entered.src.ip()).as_ref() == Some(leg.node);
    let rank = |leg: &Leg<'_>| (!as_sent(leg), !at_home(leg), !follows_nobody(leg), !from_process(leg));
    (0..legs.len()).min_by_key(|at| rank(&legs[*at]))
}

fn next(rest: &[Leg<'_>], last: &Leg<'_>, knows: &Knows) -> Option<usize> {
    let gateway = last.passage.route.as_ref().and_then(|route| route.gateway);
    let towards = gateway.and_then(|gateway| knows.node_at(gateway));
    let rank = |leg: &Leg<'_>| (towards.as_ref() != Some(leg.node), leg.node == last.node);
    let fits = (0..rest.len()).filter(|at| rest[*at].passage.entered == last.out());
    fits.min_by_key(|at| rank(&rest[*at]))
}
