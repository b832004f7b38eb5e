//! Joining: what several nodes know of one connection becomes one.
//!
//! ```text
//!  node-1:  client → 10.96.0.1:80        leaves as  node-1:4000 → 10.244.1.5:80
//!  node-2:  node-1:4000 → 10.244.1.5:80  leaves as  it came                       one chain: node-1, node-2
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

use portolan_model::{Proto, Text};

use super::{Flow, Nat, NodeFlow, NodeFlows, Party, SentTo, Who, left};
use crate::evidence::Header;

/// One node's entry.
struct Piece<'a> {
    node: &'a Text,
    flow: &'a NodeFlow,
}

/// Pieces that saw the same packet one after the other: none rewrote it, but perhaps the last.
struct Run {
    pieces: Vec<usize>,
    next: Option<usize>,
    is_next: bool,
}

type Key = (Proto, SocketAddr, SocketAddr);

/// Every connection once, by client.
pub fn joined(nodes: &[NodeFlows]) -> Vec<Flow> {
    let of_node = |node: &'_ NodeFlows| node.flows.len();
    let mut pieces: Vec<Piece<'_>> = Vec::with_capacity(nodes.iter().map(of_node).sum());
    for node in nodes {
        pieces.extend(node.flows.iter().map(|flow| Piece { node: &node.node, flow }));
    }
    let mut runs = runs(&pieces);
    link(&pieces, &mut runs);
    let mut flows: Vec<Flow> = chains(&runs).into_iter().map(|chain| told(&pieces, &chain)).collect();
    flows.sort_by(|a, b| (&a.client, a.to, a.proto).cmp(&(&b.client, b.to, b.proto)));
    flows
}

/// Headers of packets between two nodes: as they came to one of these entries, or left it. Asked of all nodes, they find
/// what else is known of these connections.
pub fn ends(nodes: &[NodeFlows]) -> BTreeSet<Header> {
    let entries = nodes.iter().flat_map(|node| &node.flows);
    entries
        .flat_map(|flow| [flow.original, left(&flow.reply)])
        .filter(|header| !header.dst.ip().is_loopback())
        .collect()
}

impl Piece<'_> {
    fn entered(&self) -> Header {
        self.flow.original
    }

    fn left(&self) -> Header {
        left(&self.flow.reply)
    }

    fn rewrites(&self) -> bool {
        self.entered() != self.left()
    }
}

fn key(header: &Header) -> Key {
    (header.proto, header.src, header.dst)
}

/// Within a node nothing is joined, and what goes to loopback is on no other node.
fn runs(pieces: &[Piece<'_>]) -> Vec<Run> {
    let mut same: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
    let mut runs = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        match piece.entered().dst.ip().is_loopback() {
            true => runs.push(Run::of(vec![index])),
            false => same.entry(key(&piece.entered())).or_default().push(index),
        }
    }
    for mut group in same.into_values() {
        // Who rewrites saw it last; else the client's own node first, and the endpoint's last.
        group.sort_by_key(|index| {
            let Piece { node, flow } = &pieces[*index];
            let (is_clients, is_endpoints) = (flow.client.node() == Some(node), flow.endpoint.node() == Some(node));
            (pieces[*index].rewrites(), !is_clients, is_endpoints, (*node).clone())
        });
        let first_rewriting = group.iter().position(|index| pieces[*index].rewrites());
        // Two that rewrite the same packet are two packets.
        let rest = first_rewriting.map(|at| group.split_off(at + 1)).unwrap_or_default();
        runs.push(Run::of(group));
        runs.extend(rest.into_iter().map(|index| Run::of(vec![index])));
    }
    runs
}

impl Run {
    fn of(pieces: Vec<usize>) -> Self {
        Self { pieces, next: None, is_next: false }
    }

    fn last(&self) -> usize {
        *self.pieces.last().expect("a run begins with a piece")
    }
}

/// The run that begins with what another left.
fn link(pieces: &[Piece<'_>], runs: &mut [Run]) {
    let entered = |run: &Run| pieces[run.pieces[0]].entered();
    let mut beginning: HashMap<Key, usize> = HashMap::new();
    for (index, run) in runs.iter().enumerate().filter(|(_, run)| !entered(run).dst.ip().is_loopback()) {
        beginning.entry(key(&entered(run))).or_insert(index);
    }
    for index in 0..runs.len() {
        let last = &pieces[runs[index].last()];
        if !last.rewrites() {
            continue;
        }
        let Some(next) = beginning.get(&key(&last.left())).copied() else { continue };
        let is_elsewhere = runs[next].pieces.iter().all(|piece| pieces[*piece].node != last.node);
        if next != index && is_elsewhere && !runs[next].is_next {
            runs[index].next = Some(next);
            runs[next].is_next = true;
        }
    }
}

/// Pieces of each connection in order. A ring, which no packet goes, is cut where it is met first.
fn chains(runs: &[Run]) -> Vec<Vec<usize>> {
    let mut seen = vec![false; runs.len()];
    let heads = (0..runs.len()).filter(|index| !runs[*index].is_next);
    let mut chains = Vec::new();
    for head in heads.chain(0..runs.len()) {
        let (mut chain, mut at) = (Vec::new(), Some(head));
        while let Some(index) = at.filter(|index| !seen[*index]) {
            seen[index] = true;
            chain.extend(&runs[index].pieces);
            at = runs[index].next;
        }
        if !chain.is_empty() {
            chains.push(chain);
        }
    }
    chains
}

fn told(pieces: &[Piece<'_>], chain: &[usize]) -> Flow {
    let on_the_way = || chain.iter().map(|index| &pieces[*index]);
    let (first, last) = (&pieces[chain[0]], &pieces[chain[chain.len() - 1]]);
    // Who chose an endpoint, or has the pod, knows best whose an address is.
    let is_pod = |who: &Who| matches!(who, Who::Pod { .. });
    let at = last.flow.reply.src;
    let endpoint = on_the_way().find(|p| p.flow.reply.src == at && is_pod(&p.flow.endpoint)).unwrap_or(last);
    let from = first.flow.original.src;
    let client = on_the_way().find(|p| p.flow.original.src == from && is_pod(&p.flow.client)).unwrap_or(first);
    let claimed = on_the_way().find(|piece| piece.flow.sent_to != SentTo::Itself).unwrap_or(first);
    Flow {
        proto: first.flow.original.proto,
        client: Party { who: client.flow.client.clone(), at: from },
        sent_to: claimed.flow.sent_to.clone(),
        to: first.flow.original.dst,
        endpoint: Party { who: endpoint.flow.endpoint.clone(), at },
        state: first.flow.state.clone(),
        answered: on_the_way().all(|piece| piece.flow.answered),
        timeout_secs: on_the_way().map(|piece| piece.flow.timeout_secs).max().unwrap_or_default(),
        carried: on_the_way().find_map(|piece| piece.flow.carried),
        age_secs: on_the_way().filter_map(|piece| piece.flow.age_secs).max(),
        nat: on_the_way().filter(|piece| piece.rewrites()).map(nat).collect(),
        nodes: on_the_way().map(|piece| piece.node.clone()).collect(),
    }
}

fn nat(piece: &Piece<'_>) -> Nat {
    let (before, after) = (piece.entered(), piece.left());
    let changed = |before: SocketAddr, after: SocketAddr| (before != after).then_some((before, after));
    Nat {
        node: piece.node.clone(),
        destination: changed(before.dst, after.dst),
        source: changed(before.src, after.src),
    }
}
