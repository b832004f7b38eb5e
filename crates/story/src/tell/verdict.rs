//! Verdict: how it ended, who had a hand in it, and why.

use portolan_dataplane::meaning::Meaning;
use portolan_model::Proto;

use crate::diagnose::{self, Cause};
use crate::evidence::{Fate, ProbeEnd, RouteWay};
use crate::knows::Who;
use crate::story::{End, Oracle, Verdict};
use crate::tell::Case;
use crate::tell::forth::{self, claimed, stop_word};
use crate::tell::trail::Leg;

/// The answer, in short.
pub(super) fn of(case: &Case<'_>, oracle: &Oracle) -> Verdict {
    let end = end(case);
    let took_us = case.probed.filter(|_| end != End::NotSent).map(|probed| probed.took_us);
    let is_odd = end != End::Delivered || oracle.differs.is_some();
    let cause = if is_odd { diagnose::cause(case, end) } else { Cause::default() };
    let Cause { because, object, mend } = cause;
    Verdict { end, says: says(case, end), because, object, mend, took_us }
}

fn end(case: &Case<'_>) -> End {
    match case.probed {
        Some(probed) => as_sender_saw(case, &probed.end),
        None => as_nodes_saw(case),
    }
}

fn as_sender_saw(case: &Case<'_>, end: &ProbeEnd) -> End {
    let stopped = case.trail.stopped().map(stopped_end);
    match end {
        ProbeEnd::Answered => End::Delivered,
        ProbeEnd::NoName => End::NoSuchName,
        // UDP to a rule that drops at the output hook: the kernel tells the sender at once.
        ProbeEnd::NotSent { .. } => stopped.unwrap_or(End::NotSent),
        ProbeEnd::Refused { .. } => End::Refused,
        ProbeEnd::Unreachable { .. } => stopped.unwrap_or(End::Unroutable),
        ProbeEnd::Silence => stopped.unwrap_or_else(|| silent(case)),
    }
}

/// Nobody answered, and no rule stopped it.
fn silent(case: &Case<'_>) -> End {
    match case.trail.last() {
        Some(leg) if leg.passage.fate == Fate::Vanished => End::Unroutable,
        Some(leg) if case.asked.proto != Proto::Tcp && reached(case, leg) => End::Delivered,
        _ => End::Unanswered,
    }
}

fn as_nodes_saw(case: &Case<'_>) -> End {
    let Some(last) = case.trail.last() else { return if case.is_foreseen() { End::NotSent } else { End::NotSeen } };
    if let Some(leg) = case.trail.stopped() {
        return stopped_end(leg);
    }
    let is_answered = came_back(case) || last.passage.flow.as_ref().is_some_and(|flow| flow.answered);
    let needs_answer = case.asked.proto == Proto::Tcp && !case.is_foreseen();
    match last.passage.fate {
        Fate::Vanished => End::Unroutable,
        _ if is_answered => End::Delivered,
        _ if needs_answer || !case.trail.back.is_empty() => End::Unanswered,
        _ if reached(case, last) || leaves_cluster(case, last) => End::Delivered,
        _ => End::Unanswered,
    }
}

/// The answer came to the sender's node, with the address that the sender waits for; or left another node for a sender out
/// there, who has more roads than one.
fn came_back(case: &Case<'_>) -> bool {
    let (Some(first), Some(last)) = (case.trail.forth.first(), case.trail.back.last()) else { return false };
    let (sent, back) = (first.passage.entered, last.out());
    let is_home = last.node == first.node || (case.knows.home(sent.src.ip()).is_none() && back.src == sent.dst);
    last.is_through() && is_home && back.dst == sent.src
}

/// It came to whom it is for: a process of the node, or a pod there.
fn reached(case: &Case<'_>, leg: &Leg<'_>) -> bool {
    leg.passage.fate == Fate::Taken || forth::is_here(case, leg)
}

/// It is for nobody of the cluster, and goes there.
fn leaves_cluster(case: &Case<'_>, leg: &Leg<'_>) -> bool {
    let leads_on = leg.passage.route.as_ref().is_none_or(|route| route.kind == RouteWay::Forward);
    let to = leg.out().dst.ip();
    leads_on && case.knows.home(to).is_none() && case.knows.service_at(to).is_none()
}

fn stopped_end(leg: &Leg<'_>) -> End {
    match leg.decided().map(stop_word) {
        Some("REJECT") => End::Refused,
        _ => End::Dropped,
    }
}

/// Who sent it to whom, and where it ended: `client → web → web-7c9 on node-2`.
fn says(case: &Case<'_>, end: End) -> String {
    let mut way = vec![sender(case)];
    way.extend(asked_for(case));
    let last = case.trail.last();
    let target = last.filter(|leg| leg.is_through()).map(|leg| leg.out().dst.ip());
    // A Service's own address, where no rule sent the packet on, is no target: it stands there already.
    let target = target.filter(|to| !matches!(case.knows.who(*to), Who::Service(_)));
    let target = target.map(|to| (case.name(to), case.knows.pod_at(to).and_then(|(_, pod)| pod.node.clone())));
    if let Some((name, node)) = target {
        // A Service and its pod may have the same name; a pod that was asked for by its name is told of once.
        if way.last() != Some(&name) || case.trail.forth.iter().any(|leg| claimed(leg, case).is_some()) {
            way.push(name);
        }
        if let (Some(node), Some(name)) = (node, way.last_mut()) {
            name.push_str(&format!(" on {node}"));
        }
    }
    let way = way.join(" → ");
    match (end, case.trail.stopped()) {
        (End::Delivered | End::NotSeen | End::NotSent | End::NoSuchName, _) => way,
        (_, Some(leg)) => {
            let what = if case.trail.forth.iter().any(|forth| std::ptr::eq(forth.passage, leg.passage)) {
                ""
            } else {
                "the answer, "
            };
            format!("{way}: {what}by a rule of {}", leg.node)
        }
        (End::Refused, None) => format!("{way}: by {}", refuser(case)),
        (_, None) => match last {
            Some(leg) => format!("{way}: last seen on {}", leg.node),
            None => format!("{way}: never seen on a node"),
        },
    }
}

fn refuser(case: &Case<'_>) -> String {
    let by = match case.probed.map(|probed| &probed.end) {
        Some(ProbeEnd::Refused { by: Some(by) }) => Some(*by),
        _ => None,
    };
    // The kernel tells the sender of a reset as NAT shows it: the Service's address is the endpoint's.
    let shown = case.probed.and_then(|probed| probed.remote).map(|remote| remote.ip());
    let target = case.trail.last().map(|leg| leg.out().dst.ip());
    let by = match (by, target) {
        (Some(by), Some(target)) if Some(by) == shown => Some(target),
        (by, target) => by.or(target),
    };
    by.map_or_else(|| "somebody".to_owned(), |by| case.name(by))
}

fn sender(case: &Case<'_>) -> String {
    let src = case.trail.forth.first().map(|leg| leg.passage.entered.src.ip());
    let src = src.or_else(|| case.probed.and_then(|probed| probed.local).map(|local| local.ip()));
    let asked = || case.asked.from.trim_start_matches("pod/").trim_start_matches("node/").to_owned();
    match src.filter(|_| case.asked.live) {
        Some(src) => case.name(src),
        None => asked(),
    }
}

/// The Service that it was sent to, else what was asked for as it was written.
fn asked_for(case: &Case<'_>) -> Option<String> {
    let first = case.trail.forth.first();
    let service = case.trail.forth.iter().find_map(|leg| claimed(leg, case)).map(|(key, _)| key.service);
    let remote = case.probed.and_then(|probed| probed.remote).or_else(|| first.map(|leg| leg.passage.entered.dst));
    let by_address =
        || remote.and_then(|remote| case.knows.port_at(remote, case.asked.proto)).map(|(view, _)| view.key.clone());
    if let Some(key) = service.or_else(by_address) {
        return Some(case.short(&key));
    }
    if case.trail.forth.iter().flat_map(|leg| leg.meanings()).any(|(_, meaning)| *meaning == Meaning::KeepsUntracked) {
        return remote.map(|remote| case.name(remote.ip()));
    }
    match case.asked.live {
        true => None,
        false => Some(written(&case.asked.to, &case.home)),
    }
}

/// A goal as it was written, a pod or node without its port: `pod/default/b:80` is `b`.
fn written(to: &str, home: &str) -> String {
    let own = format!("{home}/");
    let bare = |rest: &str| rest.split(':').next().unwrap_or(rest).trim_start_matches(&own).to_owned();
    match to.strip_prefix("pod/").or_else(|| to.strip_prefix("node/")) {
        Some(rest) => bare(rest),
        None => to.trim_start_matches("svc/").trim_start_matches(&own).to_owned(),
    }
}
