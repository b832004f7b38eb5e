//! Answers: which of a node's entries are told, and how the answers of several questions become one.

use std::collections::HashSet;

use super::{Ask, Names, NodeFlow, NodeFlows, Tracked, left};
use crate::evidence::Header;

/// Those of a table's entries with ports that are asked for, with names.
pub fn answer(names: &Names<'_>, table: &[Tracked], ask: &Ask) -> NodeFlows {
    let joining: HashSet<&Header> = ask.joining.iter().collect();
    let is_wanted = |entry: &&Tracked| match joining.is_empty() {
        true => names.is_wanted(ask, &entry.original, &entry.reply),
        false => joining.contains(&entry.original) || joining.contains(&left(&entry.reply)),
    };
    let flows = table.iter().filter(is_wanted).map(|entry| names.tell(entry.clone())).collect();
    NodeFlows { node: names.node().clone(), tracked: table.len(), flows }
}

/// Adds what a node answered later to what is known; an entry that it told before stays as it was.
pub fn add(known: &mut Vec<NodeFlows>, answer: NodeFlows) {
    let Some(of_node) = known.iter_mut().find(|node| node.node == answer.node) else {
        known.push(answer);
        return;
    };
    let told: HashSet<Header> = of_node.flows.iter().map(|flow| flow.original).collect();
    let is_new = |flow: &NodeFlow| !told.contains(&flow.original);
    of_node.flows.extend(answer.flows.into_iter().filter(is_new));
}
