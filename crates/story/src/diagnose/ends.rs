//! Ends: who it came to refused it or keeps silent, or it was lost between two places that were seen.

use std::net::{IpAddr, SocketAddr};

use portolan_model::{NsName, ObjectKind, Proto};

use crate::diagnose::{Cause, services};
use crate::evidence::{Fate, ProbeEnd};
use crate::knows::Who;
use crate::objects::PodNote;
use crate::story::End;
use crate::tell::Case;
use crate::tell::forth::{claimed, is_here};
use crate::tell::hop::{node_object, object};
use crate::tell::trail::Leg;
use crate::words;

/// It could not be sent; the kernel's or the agent's words say why.
pub(super) fn not_sent(case: &Case<'_>, why: &str) -> Cause {
    let from = case.asked.from.trim_start_matches("pod/");
    let key = match from.split_once('/') {
        Some((namespace, name)) => NsName::new(namespace, name),
        None => NsName::new(case.home.as_str(), from),
    };
    let note = case.knows.objects.pods.get(&key);
    match note.filter(|note| !note.ready) {
        Some(note) => Cause::new(format!("{why}; {} is not Ready {}", case.short(&key), services::unready(case, note)))
            .of(object(ObjectKind::Pod, &key)),
        None => Cause::new(why),
    }
}

/// Nobody sent such a packet while we watched.
pub(super) fn not_seen(case: &Case<'_>) -> Cause {
    let silent: Vec<String> = case.knows.silent.iter().map(|(node, why)| format!("{node} ({why})")).collect();
    let but = if silent.is_empty() { String::new() } else { format!("; not watched: {}", words::list(&silent, 3)) };
    Cause::new(format!("no such packet came to a node while it was watched for{but}"))
        .mend("without --live a packet is sent and followed at once")
}

/// Whom it was for said no.
pub(super) fn refused(case: &Case<'_>, end: End) -> Option<Cause> {
    let (End::Refused, Some(leg)) = (end, case.trail.last()) else { return refused_unseen(case, end) };
    let to = leg.out().dst;
    if let (Some((key, _)), true) = (case.knows.pod_at(to.ip()), leg.is_through()) {
        return Some(refused_by_pod(case, leg, &key, to));
    }
    if leg.passage.fate == Fate::Taken {
        let because = format!("nobody on {} listens on {}/{}", leg.node, to.port(), leg.passage.entered.proto);
        return Some(Cause::new(because).of(node_object(leg.node)).mend("start it, or ask for another port"));
    }
    refused_unseen(case, end)
}

/// It was refused somewhere that no evidence is of.
fn refused_unseen(case: &Case<'_>, end: End) -> Option<Cause> {
    let ProbeEnd::Refused { by } = &case.probed?.end else { return None };
    let by = by.or_else(|| case.probed?.remote.map(|remote| remote.ip())).filter(|_| end == End::Refused)?;
    let seen = case.trail.last().map(|leg| format!(", seen last on {}", leg.node)).unwrap_or_default();
    Some(Cause::new(format!("{} refused it{seen}: nobody listens there, or a firewall says no", case.name(by))))
}

fn refused_by_pod(case: &Case<'_>, leg: &Leg<'_>, key: &NsName, to: SocketAddr) -> Cause {
    let name = case.short(key);
    let proto = leg.passage.entered.proto;
    let note = case.knows.objects.pods.get(key);
    let service = case.trail.forth.iter().find_map(|leg| claimed(leg, case)).map(|(key, _)| key);
    if let Some(note) = note.filter(|note| services::is_crashing(note)) {
        let because = format!("{name} {} and does not listen on {}", services::unready(case, note), to.port());
        let mend = format!("kubectl -n {} logs {} --previous tells why it ends", key.namespace, key.name);
        return Cause::new(because).of(object(ObjectKind::Pod, key)).mend(mend);
    }
    let listens = format!("{name} refused it: nobody listens on {}/{proto} there", to.port());
    let declared = note.map(services::declared).unwrap_or_default();
    let is_declared = |note: &PodNote| note.ports.iter().any(|(_, p, number)| *p == proto && *number == to.port());
    let other = note.and_then(|note| note.ports.iter().find(|(_, p, number)| *p != proto && *number == to.port()));
    match (note, &service) {
        (Some(_), _) if other.is_some() => Cause::new(format!("{listens}; it declares {}", words::list(&declared, 3)))
            .of(object(ObjectKind::Pod, key))
            .mend(format!("ask with --proto {}", other.map_or(Proto::Tcp, |(_, p, _)| *p))),
        (Some(note), Some(service)) if !declared.is_empty() && !is_declared(note) => {
            let port = if service.port.is_empty() { String::new() } else { format!(" of port {}", service.port) };
            let best = note.ports.first().map_or(0, |(_, _, number)| *number);
            Cause::new(format!("{listens}; its containers declare {}", words::list(&declared, 3)))
                .of(object(ObjectKind::Service, &service.service))
                .mend(format!("set targetPort{port} of Service {} to {best}", service.service))
        }
        (Some(note), None) if !declared.is_empty() && !is_declared(note) => {
            Cause::new(format!("{listens}; its containers declare {}", words::list(&declared, 3)))
                .of(object(ObjectKind::Pod, key))
                .mend("ask for a port that it has")
        }
        (Some(note), _) if !note.ready => {
            Cause::new(format!("{listens}; it is not Ready {}", services::unready(case, note)))
                .of(object(ObjectKind::Pod, key))
                .mend(format!("kubectl -n {} describe pod {}", key.namespace, key.name))
        }
        _ => Cause::new(listens).of(object(ObjectKind::Pod, key)).mend(format!(
            "start a program that listens on {}, or on all addresses rather than on 127.0.0.1",
            to.port()
        )),
    }
}

/// Nothing came back, and no rule or route is to blame.
pub(super) fn silent(case: &Case<'_>) -> Cause {
    let Some(last) = case.trail.last() else { return never_seen(case) };
    if !case.trail.back.is_empty() {
        return answer_lost(case);
    }
    let to = last.out().dst.ip();
    if is_here(case, last) {
        return silent_pod(case, last, to);
    }
    if last.passage.fate == Fate::Taken {
        let because = format!("a process on {} got it and nothing came back", last.node);
        return Cause::new(because)
            .of(node_object(last.node))
            .mend("look at that program: it hangs, or its queue is full");
    }
    lost_after(case, last, to)
}

fn never_seen(case: &Case<'_>) -> Cause {
    if let Some(ProbeEnd::Unreachable { why, by }) = case.probed.map(|probed| &probed.end) {
        let by = by.map(|by| format!("{} says: ", case.name(by))).unwrap_or_default();
        return Cause::new(format!("{by}{why}")).mend("look at the sender's own routes: ip route");
    }
    let silent: Vec<String> = case.knows.silent.iter().map(|(node, why)| format!("{node} ({why})")).collect();
    match silent.is_empty() {
        true => {
            Cause::new(format!("it was sent, and no node ever saw it: something inside {} drops it", case.asked.from))
                .mend("look at the rules in the sender's own network namespace, such as a sidecar's")
        }
        false => Cause::new(format!("it was sent, and of {} nothing is known", words::list(&silent, 3))),
    }
}

fn silent_pod(case: &Case<'_>, leg: &Leg<'_>, to: IpAddr) -> Cause {
    let Some((key, _)) = case.knows.pod_at(to) else { return last_seen(case, leg) };
    let name = case.short(&key);
    let note = case.knows.objects.pods.get(&key).filter(|note| !note.ready);
    let unready = note.map(|note| format!("; it is not Ready {}", services::unready(case, note))).unwrap_or_default();
    let link = leg.passage.went_by.as_ref().map(|link| format!(" by {link}")).unwrap_or_default();
    Cause::new(format!(
        "{name} on {} got it{link} and nothing came back: what is inside the pod keeps silent{unready}",
        leg.node
    ))
    .of(object(ObjectKind::Pod, &key))
    .mend(format!("look inside {name}: a firewall of its own or a sidecar's, a program that hangs, a full queue"))
}

/// It left a node well, and was seen nowhere after.
fn lost_after(case: &Case<'_>, leg: &Leg<'_>, to: IpAddr) -> Cause {
    let link = leg.passage.went_by.as_ref().map(|link| format!(" by {link}")).unwrap_or_default();
    let gateway = leg.passage.route.as_ref().and_then(|route| route.gateway);
    let next = gateway.and_then(|gateway| case.knows.node_at(gateway)).or_else(|| case.knows.home(to));
    let Some(next) = next.filter(|next| next != leg.node) else {
        let via = gateway.map(|gateway| format!(" for {gateway}")).unwrap_or_default();
        return Cause::new(format!("it left {}{link}{via} and nothing came back", leg.node))
            .mend(format!("look at {}: whether it is up and knows the way back", gateway.unwrap_or(to)));
    };
    let node = case.knows.cluster().and_then(|cluster| cluster.nodes.get(&next));
    let is_down = node.is_some_and(|node| !node.ready);
    let silent = case.knows.silent.get(&next);
    let left = format!("it left {}{link} for {next}", leg.node);
    let (because, mend) = match (is_down, silent) {
        (true, _) => (
            format!("{next} is not Ready: {left}, and nothing came back"),
            format!("bring {next} back: kubectl describe node {next}"),
        ),
        (false, Some(why)) => (
            format!("{left}, and {next} does not say what came: {why}"),
            format!("look whether the agent of {next} runs"),
        ),
        (false, None) => (
            format!("{left} and never came there: the network between them loses it"),
            format!(
                "look at the network between {} and {next}: cables, switches, firewalls of machines between",
                leg.node
            ),
        ),
    };
    Cause::new(because).of(node_object(&next)).mend(mend)
}

/// The packet arrived; its answer did not.
fn answer_lost(case: &Case<'_>) -> Cause {
    let Some(last) = case.trail.back.last() else { return never_seen(case) };
    let to = last.out().dst.ip();
    if last.is_through() && (is_here(case, last) || last.passage.fate == Fate::Taken) {
        let name = case.name(to);
        return Cause::new(format!("the answer came to {name} on {}, and the sender did not hear it", last.node))
            .mend(format!("look inside {name}: a firewall of its own or a sidecar's"));
    }
    let home = case.knows.home(to).filter(|home| home != last.node);
    let towards = match (&home, case.knows.who(to)) {
        (Some(home), _) => format!(" for {home}"),
        (None, Who::Stranger(addr)) => format!(" for {addr}"),
        _ => String::new(),
    };
    let because = match last.passage.fate {
        Fate::Vanished => format!("the answer got no further than {}: no rule stopped it", last.node),
        _ => format!("the answer left {}{towards} and was seen nowhere after", last.node),
    };
    Cause::new(because)
        .of(node_object(last.node))
        .mend(format!("look at the way from {}{towards}: routes there, and the network between", last.node))
}

fn last_seen(case: &Case<'_>, leg: &Leg<'_>) -> Cause {
    let header = words::header(&leg.out());
    Cause::new(format!("it was last seen on {} as {header}, and nothing came back to {}", leg.node, case.asked.from))
}
