//! Answers for a person. Pure.
//!
//! ```text
//!  Service default/web
//!  node-1, node-2: 12 rules, 4 records; changed 3.4 s ago
//!    10:15:04      Pod default/web-7c9 became Ready                      the API's word, in whole seconds
//!    10:15:04.113  EndpointSlice default/web-x2k, version 812, was seen
//!    10:15:04.118  in the kernel, 4.1 ms after                           + 10.244.0.7:80 (Pod default/web-7c9)
//!    ip nat KUBE-SVC-… 1, for 3.4 s: may choose 10.244.0.7:80
//!      -m comment --comment …
//! ```

use std::collections::BTreeSet;

use portolan_story::history::{Cause, EndpointNote, Origin};
use portolan_story::why::{Answer, Changed, InPlace, NodeWhy, PodSeen, Sort, Why};

use super::words;

/// The last change of each node, and what is in place once for nodes that have the same.
pub fn short(why: &Why) -> String {
    let one = |answer: &Answer| {
        let mut out = format!("{}\n", answer.asked);
        for group in alike(&answer.nodes) {
            for node in &group {
                out += &heading(node);
                out += &node.changes.first().map(|change| chain(change, &why.pods)).unwrap_or_default();
            }
            out += &in_place(&group);
        }
        out
    };
    why.answers.iter().map(one).collect::<Vec<_>>().join("\n") + &silent(why)
}

/// All changes, and what is in place on each node.
pub fn all(why: &Why) -> String {
    let one = |answer: &Answer| {
        let mut out = format!("{}\n", answer.asked);
        for node in &answer.nodes {
            out += &heading(node);
            out += &node.changes.iter().map(|change| chain(change, &why.pods)).collect::<String>();
            out += &in_place(&[node]);
        }
        out
    };
    why.answers.iter().map(one).collect::<Vec<_>>().join("\n") + &silent(why)
}

fn silent(why: &Why) -> String {
    why.silent.iter().map(|silent| format!("{}: does not answer: {}\n", silent.node, silent.why)).collect()
}

/// Nodes with the same in place, in the order of their first.
fn alike(nodes: &[NodeWhy]) -> Vec<Vec<&NodeWhy>> {
    let is_same = |a: &InPlace, b: &InPlace| (&a.place, a.number, &a.text) == (&b.place, b.number, &b.text);
    let are_same = |a: &NodeWhy, b: &NodeWhy| {
        a.in_place.len() == b.in_place.len() && a.in_place.iter().zip(&b.in_place).all(|(a, b)| is_same(a, b))
    };
    let mut groups: Vec<Vec<&NodeWhy>> = Vec::new();
    for node in nodes {
        match groups.iter_mut().find(|group| are_same(group[0], node)) {
            Some(group) => group.push(node),
            None => groups.push(vec![node]),
        }
    }
    groups
}

/// `node-1: 12 rules and 4 records of Service default/web; changed 3.4 s ago`, and why there are not more.
fn heading(node: &NodeWhy) -> String {
    let count = |sort: Sort, one: &str| {
        let found = node.in_place.iter().filter(|placed| placed.sort == sort).count();
        match found {
            0 => None,
            1 => Some(format!("1 {one}")),
            n => Some(format!("{n} {one}s")),
        }
    };
    let counts = [(Sort::Rule, "rule"), (Sort::Element, "element"), (Sort::Route, "route"), (Sort::Record, "record")];
    let counts: Vec<String> = counts.into_iter().filter_map(|(sort, one)| count(sort, one)).collect();
    let what = if counts.is_empty() { "nothing".to_owned() } else { counts.join(", ") };
    let whose: Vec<String> = node.objects.iter().map(ToString::to_string).collect();
    let whose = match (whose.is_empty(), node.in_place.is_empty()) {
        (false, _) => format!(" of {}", whose.join(", ")),
        (true, false) => ", of no object".to_owned(),
        (true, true) => String::new(),
    };
    let changed = node.changes.first().map(|change| words::span(node.now_us - change.written_us));
    let changed = changed.map(|ago| format!("; changed {ago} ago")).unwrap_or_default();
    let mut out = format!("{}: {what}{whose}{changed}\n", node.node);
    if let Some(nothing) = &node.nothing {
        out += &format!("  {}\n", nothing.says);
        if !nothing.near.is_empty() {
            out += &format!("  did you mean {}?\n", nothing.near.join(" or "));
        }
    }
    out
}

/// What led to a change, a line each, in the order of time.
fn chain(change: &Changed, pods: &[PodSeen]) -> String {
    let mut out = String::new();
    for (_, at, says) in causes(change, pods) {
        out += &format!("  {at:<13} {says}\n");
    }
    let took = words::span(change.written_us - change.began_us);
    let after = change.step.causes.last().map_or(String::new(), |cause| {
        format!(", {} after the last of this was seen", words::span(change.written_us - cause.seen_us))
    });
    out += &format!(
        "  {:<13} {}: in the kernel; writing took {took}{after}\n",
        words::clock(change.written_us),
        change.what
    );
    let shift = &change.step.shift;
    for (sign, notes) in [("+", &shift.came), ("-", &shift.went), ("~", &shift.turned)] {
        for note in notes {
            out += &format!("  {:<13} {sign} {}\n", "", endpoint(note));
        }
    }
    if shift.unlisted > 0 {
        out += &format!("  {:<13} and {} endpoints more\n", "", shift.unlisted);
    }
    out
}

/// What is known of what happened before a write: when, as it is shown, and what.
fn causes(change: &Changed, pods: &[PodSeen]) -> Vec<(i64, String, String)> {
    let mut found: Vec<(i64, String, String)> = Vec::new();
    let shift = &change.step.shift;
    let ready: BTreeSet<_> =
        shift.came.iter().chain(&shift.turned).filter(|note| note.ready).filter_map(|note| note.pod.as_ref()).collect();
    for pod in pods.iter().filter(|seen| seen.ready && ready.contains(&seen.pod)) {
        // What became Ready since then was not what led to it.
        let Some(at) = pod.ready_since_us.filter(|at| *at <= change.written_us) else { continue };
        found.push((at, words::clock_secs(at), format!("Pod {} became Ready", pod.pod)));
    }
    for cause in &change.step.causes {
        if let Some(at) = cause.triggered_us {
            found.push((at, words::clock(at), format!("what {} tells of happened", name(cause))));
        }
        found.push((cause.seen_us, words::clock(cause.seen_us), seen(cause)));
    }
    found.sort_by_key(|(at, ..)| *at);
    found
}

fn name(cause: &Cause) -> String {
    match &cause.origin {
        Origin::Object { object, .. } => object.to_string(),
        Origin::Attached { pod } | Origin::Detached { pod } => format!("Pod {pod}"),
        Origin::Learned { prefix, .. } | Origin::Withdrawn { prefix } => prefix.to_string(),
    }
}

fn seen(cause: &Cause) -> String {
    match &cause.origin {
        Origin::Object { object, gone: true, .. } => format!("{object} was seen to be gone"),
        Origin::Object { object, version: 0, .. } => format!("{object} was seen"),
        Origin::Object { object, version, .. } => format!("{object}, version {version}, was seen"),
        Origin::Attached { pod } => format!("Pod {pod} got its link"),
        Origin::Detached { pod } => format!("Pod {pod} lost its link"),
        Origin::Learned { prefix, peer } => format!("BGP peer {peer} told of {prefix}"),
        Origin::Withdrawn { prefix } => format!("no BGP peer tells of {prefix} any more"),
    }
}

fn endpoint(note: &EndpointNote) -> String {
    let pod = note.pod.as_ref().map(|pod| format!(" (Pod {pod})")).unwrap_or_default();
    let state = match (note.ready, note.serving, note.terminating) {
        (true, ..) => "",
        (_, true, true) => ", terminating, still serving",
        (_, _, true) => ", terminating",
        _ => ", not ready",
    };
    format!("{}{pod}{state}", note.at)
}

fn in_place(group: &[&NodeWhy]) -> String {
    let Some(first) = group.first() else { return String::new() };
    let mut out = String::new();
    if group.len() > 1 && !first.in_place.is_empty() {
        let names: Vec<&str> = group.iter().map(|node| &*node.node).collect();
        out += &format!("on {}, ages as on {}:\n", names.join(" and "), first.node);
    }
    for placed in &first.in_place {
        let number = placed.number.map(|number| format!(" {number}")).unwrap_or_default();
        let age = words::age(placed.since, first.now_us);
        let meaning = placed.meaning.as_ref().map(|meaning| format!("; {}", words::meaning(meaning)));
        out += &format!("  {}{number}, {age}{}\n", placed.place, meaning.unwrap_or_default());
        out += &format!("      {}\n", placed.text);
    }
    out
}
