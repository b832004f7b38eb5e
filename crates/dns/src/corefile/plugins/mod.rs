//! From directives to a [`Block`]: one function per plugin, grouped as they act.
//!
//! A wrong option is a problem of its own and the next is read all the same: a person mends a file once.

mod answering;
mod forwarding;
mod kubernetes;
mod rewriting;
mod serving;

use std::collections::{BTreeMap, BTreeSet};

use super::config::{AutopathBy, Block};
use super::support::{self, Support};
use super::tree::{Entry, RawBlock};
use super::{Problem, Told, heads};
use crate::name::Name;

pub(super) use serving::COMMON;

/// Plugins that may stand in a block several times.
const OFTEN: [&str; 7] = ["acl", "bind", "forward", "log", "rewrite", "template", "transfer"];

/// The blocks of one block of the file: one for each port in its heads, with the same plugins.
pub(super) fn blocks(raw: &RawBlock, told: &mut Told) -> Vec<Block> {
    let mut ports: Vec<(u16, Vec<Name>)> = Vec::new();
    let mut seen: BTreeSet<(u16, Name)> = BTreeSet::new();
    for head in &raw.heads {
        let Some((zones, port)) = told.take(heads::read(head)) else { continue };
        let at = ports.iter().position(|(other, _)| *other == port).unwrap_or_else(|| {
            ports.push((port, Vec::new()));
            ports.len() - 1
        });
        for zone in zones {
            match seen.insert((port, zone.clone())) {
                true => ports[at].1.push(zone),
                false => {
                    told.problem(&head.place(), format!("zone {zone} stands twice in this block's head; take one out"))
                }
            }
        }
    }
    // Plugins that name no zones are for all of the head's. If none could be read they are read for their problems.
    let all = ports.iter().flat_map(|(_, zones)| zones.iter().cloned()).collect();
    let mut block = Block::new(raw.place.clone(), all);
    fill(&mut block, raw, told);
    ports.into_iter().map(|(port, zones)| Block { port, zones, ..block.clone() }).collect()
}

fn fill(block: &mut Block, raw: &RawBlock, told: &mut Told) {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in &raw.entries {
        let before = seen.insert(entry.name(), entry.place().line).filter(|_| !OFTEN.contains(&entry.name()));
        if let Some(before) = before {
            let what =
                format!("`{}` stands twice in this block, before in line {before}; make one of the two", entry.name());
            told.problem(&entry.place(), what);
            continue;
        }
        let done = plugin(entry, block, told);
        told.take(done);
    }
    needs(block, raw, told);
}

/// What one plugin needs of another.
fn needs(block: &Block, raw: &RawBlock, told: &mut Told) {
    let by_pod = block.autopath.as_ref().is_some_and(|autopath| autopath.by == AutopathBy::Kubernetes);
    for (is_there, plugin) in [(block.external.is_some(), "k8s_external"), (by_pod, "autopath")] {
        let is_missing = is_there && !raw.entries.iter().any(|entry| entry.name() == "kubernetes");
        if let Some(entry) = raw.entries.iter().find(|entry| is_missing && entry.name() == plugin) {
            told.problem(&entry.place(), format!("`{plugin}` needs `kubernetes` in the same block; add it"));
        }
    }
}

fn plugin(entry: &Entry, block: &mut Block, told: &mut Told) -> Result<(), Problem> {
    match entry.name() {
        "acl" => answering::acl(entry, block, told),
        "any" => answering::switch(entry, &mut block.any),
        "autopath" => kubernetes::autopath(entry, block),
        "bind" => serving::bind(entry, block, told),
        "bufsize" => serving::bufsize(entry, block),
        "cache" => forwarding::cache(entry, block, told),
        "errors" => serving::errors(entry, block, told),
        "forward" => forwarding::forward(entry, block, told),
        "health" => serving::health(entry, block, told),
        "hosts" => answering::hosts(entry, block, told),
        "k8s_external" => kubernetes::external(entry, block, told),
        "kubernetes" => kubernetes::kubernetes(entry, block, told),
        "loadbalance" => answering::loadbalance(entry, block, told),
        "local" => answering::local(entry, block, told),
        "log" => serving::log(entry, block, told),
        "loop" => answering::switch(entry, &mut block.detects_loops),
        "minimal" => answering::switch(entry, &mut block.minimal),
        "prometheus" => serving::prometheus(entry, block, told),
        "ready" => serving::ready(entry, block, told),
        "reload" => serving::reload(entry, block),
        "rewrite" => rewriting::rewrite(entry, block),
        "rrl" => answering::rrl(entry, block, told),
        "template" => rewriting::template(entry, block, told),
        "transfer" => kubernetes::transfer(entry, block, told),
        other => stranger(other, entry, told),
    }
}

/// A plugin that we do not have.
fn stranger(name: &str, entry: &Entry, told: &mut Told) -> Result<(), Problem> {
    match support::of(name) {
        Some(row) if row.support == Support::NoEffect => {
            let note = if row.note.is_empty() { "there is nothing for it to do" } else { row.note };
            told.note(&entry.place(), format!("`{name}` has no effect here: {note}"));
            Ok(())
        }
        Some(row) => {
            let note = if row.note.is_empty() { "take it out" } else { row.note };
            Err(entry.wrong(format!(
                "`{name}` is a plugin of CoreDNS that this DNS does not have: {note}; see docs/dns-corefile.md"
            )))
        }
        None => Err(entry.wrong(format!(
            "unknown plugin `{name}`: not one that this DNS has; see docs/dns-corefile.md for the list"
        ))),
    }
}

/// Reads each option in braces; what is wrong with one does not hide the next.
fn each_option(entry: &Entry, told: &mut Told, mut read: impl FnMut(&Entry, &mut Told) -> Result<(), Problem>) {
    for option in entry.options() {
        let done = option.plain().and_then(|()| read(option, told));
        told.take(done);
    }
}
