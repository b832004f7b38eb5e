//! Services: why one has no endpoints, why a packet for one was not sent on, and what asks for nobody's address.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use portolan_dataplane::meaning::Door;
use portolan_model::{NsName, ObjectKind, ServicePort, ServicePortKey};

use crate::diagnose::{Cause, rules};
use crate::evidence::{Act, Fate, Hook, Step};
use crate::objects::{PodNote, ServiceNote};
use crate::story::End;
use crate::tell::Case;
use crate::tell::choices::choices;
use crate::tell::forth::{self, claimed, raw};
use crate::tell::hop::{is_foreign, node_object, object};
use crate::tell::trail::Leg;
use crate::words;

/// Why no endpoint of a Service port may take a packet.
pub(super) fn empty(case: &Case<'_>, key: &ServicePortKey, leg: &Leg<'_>) -> Cause {
    let cause = empty_port(case, &key.service, Some(key));
    if cause.because.is_some() {
        let because = cause.because.map(|why| format!("Service {key} has no endpoints: {why}"));
        return Cause { because, ..cause };
    }
    let door = claimed(leg, case).map_or(Door::ClusterIp, |(_, door)| door);
    let out = rules::left_out(&choices(key, door, leg, case.knows), case);
    let why = if out.is_empty() { String::new() } else { format!(": {}", words::list(&out, 2)) };
    Cause::new(format!("Service {key} has no endpoint that is Ready{why}"))
        .of(object(ObjectKind::Service, &key.service))
        .mend(format!(
            "kubectl -n {} get endpointslices -l kubernetes.io/service-name={}",
            key.service.namespace, key.service.name
        ))
}

/// The same of a Service without regard to a port, as for a headless name. Nothing if objects say nothing.
pub(super) fn empty_service(case: &Case<'_>, key: &NsName) -> Cause {
    empty_port(case, key, None)
}

/// By selector, readiness and target port, in this order; without its objects nothing is said.
fn empty_port(case: &Case<'_>, key: &NsName, port: Option<&ServicePortKey>) -> Cause {
    let objects = &case.knows.objects;
    let Some(note) = objects.services.get(key) else { return Cause::default() };
    let service = || object(ObjectKind::Service, key);
    if note.selector.is_empty() {
        return Cause::new("it has no selector, and no EndpointSlice of it has a ready address")
            .of(service())
            .mend(format!("give Service {key} a selector, or write its EndpointSlice"));
    }
    let pods: Vec<(&NsName, &PodNote)> =
        objects.pods.iter().filter(|(pod, note)| pod.namespace == key.namespace && !is_finished(note)).collect();
    let picked: Vec<(&NsName, &PodNote)> = pods
        .iter()
        .copied()
        .filter(|(_, pod)| note.selector.iter().all(|(k, v)| pod.labels.get(k) == Some(v)))
        .collect();
    if picked.is_empty() {
        return wrong_selector(key, note, &pods);
    }
    let living: Vec<(&NsName, &PodNote)> = picked.iter().copied().filter(|(_, pod)| pod.deleted_at.is_none()).collect();
    if living.is_empty() {
        return terminating_only(case, key, &picked);
    }
    let ready: Vec<(&NsName, &PodNote)> = living.iter().copied().filter(|(_, pod)| pod.ready).collect();
    if ready.is_empty() {
        return none_ready(case, &living);
    }
    unknown_target(key, note, port, &ready).unwrap_or_else(|| {
        let because = format!("{} Ready, but no EndpointSlice lists them", count_is(ready.len(), "pod"));
        Cause::new(because).of(service()).mend("look whether the EndpointSlice controller runs: portolan status")
    })
}

fn is_finished(pod: &PodNote) -> bool {
    ["Succeeded", "Failed"].contains(&&*pod.phase)
}

/// `1 pod is`, `2 pods are`.
fn count_is(number: usize, thing: &str) -> String {
    format!("{} {}", words::count(number, thing), if number == 1 { "is" } else { "are" })
}

fn labels(of: &BTreeMap<String, String>) -> String {
    of.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// What pods of the namespace have at the selector's keys, those that are nearest to it first.
fn wrong_selector(key: &NsName, note: &ServiceNote, pods: &[(&NsName, &PodNote)]) -> Cause {
    let selector = labels(&note.selector);
    let alike = |pod: &PodNote| note.selector.iter().filter(|(k, v)| pod.labels.get(*k) == Some(*v)).count();
    let mut near: Vec<(usize, usize, String)> = Vec::new();
    for (_, pod) in pods {
        let of_keys: BTreeMap<String, String> = pod
            .labels
            .iter()
            .filter(|(k, _)| note.selector.contains_key(*k))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let slips =
            of_keys.iter().filter(|(k, v)| !words::nearest(&note.selector[*k], [v.as_str()]).is_empty()).count();
        near.push((alike(pod), slips, labels(&of_keys)));
    }
    near.retain(|(_, _, text)| !text.is_empty());
    near.sort_by(|a, b| (b.0, b.1, &a.2).cmp(&(a.0, a.1, &b.2)));
    near.dedup_by(|a, b| a.2 == b.2);
    let found: Vec<String> = near.iter().map(|(_, _, text)| text.clone()).collect();
    let service = object(ObjectKind::Service, key);
    match found.first() {
        Some(best) => {
            Cause::new(format!("its selector {selector} matches no pod; pods there have {}", words::list(&found, 3)))
                .of(service)
                .mend(format!(
                    "kubectl -n {} set selector service {} {best}, or label pods {selector}",
                    key.namespace, key.name
                ))
        }
        None => Cause::new(format!("its selector {selector} matches no pod of namespace {}", key.namespace))
            .of(service)
            .mend(format!("run pods with labels {selector} in namespace {}", key.namespace)),
    }
}

fn terminating_only(case: &Case<'_>, key: &NsName, pods: &[(&NsName, &PodNote)]) -> Cause {
    let names: Vec<String> = pods
        .iter()
        .map(|(pod, note)| {
            let since = note.deleted_at.map(|at| format!(" for {}", words::since(at, case.knows.now_secs)));
            format!("{}{}", case.short(pod), since.unwrap_or_default())
        })
        .collect();
    Cause::new(format!("all its pods are terminating: {}", words::list(&names, 2)))
        .of(object(ObjectKind::Service, key))
        .mend("run another pod of it: whose pods these are, such as a Deployment, has none to follow")
}

fn none_ready(case: &Case<'_>, pods: &[(&NsName, &PodNote)]) -> Cause {
    let (first, note) = pods[0];
    let words: Vec<String> =
        pods.iter().map(|(pod, note)| format!("{} {}", case.short(pod), unready(case, note))).collect();
    let number = if pods.len() == 1 {
        "its only pod is not Ready".to_owned()
    } else {
        format!("none of its {} pods is Ready", pods.len())
    };
    let mend = match is_crashing(note) {
        true => format!("kubectl -n {} logs {} --previous tells why it ends", first.namespace, first.name),
        false => format!("kubectl -n {} describe pod {} tells what it waits for", first.namespace, first.name),
    };
    Cause::new(format!("{number}: {}", words::list(&words, 2))).of(object(ObjectKind::Pod, first)).mend(mend)
}

/// The pod's container ends again and again.
pub(super) fn is_crashing(note: &PodNote) -> bool {
    note.unready_because.as_ref().is_some_and(|why| why.contains("CrashLoopBackOff"))
}

/// `for 12 s (reason)`, `is crash-looping (reason)`.
pub(super) fn unready(case: &Case<'_>, note: &PodNote) -> String {
    let since = note.ready_since.map(|at| format!("for {}", words::since(at, case.knows.now_secs)));
    let because = note.unready_because.as_ref().map(|why| format!("({why})"));
    let crashing = is_crashing(note).then(|| "is crash-looping".to_owned());
    let parts: Vec<String> = [crashing, since, because].into_iter().flatten().collect();
    if parts.is_empty() { "for a reason not known".to_owned() } else { parts.join(" ") }
}

/// A target port that is a name which no pod has.
fn unknown_target(
    key: &NsName,
    note: &ServiceNote,
    port: Option<&ServicePortKey>,
    ready: &[(&NsName, &PodNote)],
) -> Option<Cause> {
    let target = note.target_ports.get(&port?.port)?;
    let is_name = target.parse::<u16>().is_err();
    let has = |pod: &PodNote| pod.ports.iter().any(|(name, ..)| name == target);
    if !is_name || ready.iter().any(|(_, pod)| has(pod)) {
        return None;
    }
    let (first, pod) = ready[0];
    let declared = declared(pod);
    let because = match declared.is_empty() {
        true => format!("its targetPort {target} is a port name, and {} declares no port", first.name),
        false => format!(
            "its targetPort {target} is no port name of {}, which declares {}",
            first.name,
            words::list(&declared, 3)
        ),
    };
    let best =
        pod.ports.first().map(|(name, _, number)| if name.is_empty() { number.to_string() } else { name.clone() });
    let mend = best.unwrap_or_else(|| "a port number".to_owned());
    Some(
        Cause::new(because)
            .of(object(ObjectKind::Service, key))
            .mend(format!("set targetPort of Service {key} to {mend}")),
    )
}

/// `80 (http)`, `53/udp (dns)`.
pub(super) fn declared(pod: &PodNote) -> Vec<String> {
    let one = |(name, proto, number): &(String, portolan_model::Proto, u16)| {
        let proto = if *proto == portolan_model::Proto::Tcp { String::new() } else { format!("/{proto}") };
        let name = if name.is_empty() { String::new() } else { format!(" ({name})") };
        format!("{number}{proto}{name}")
    };
    pod.ports.iter().map(one).collect()
}

/// A packet for a Service was let by before any of its rules was asked.
pub(super) fn bypass(case: &Case<'_>) -> Option<Cause> {
    let is_for_service = |leg: &&Leg<'_>| {
        let port = case.knows.port_at(leg.passage.entered.dst, leg.passage.entered.proto);
        let usable = |port: &ServicePort| port.endpoints.iter().any(|endpoint| endpoint.ready);
        // A node port is asked for on the node that has the address.
        let is_others = case.knows.node_at(leg.passage.entered.dst.ip()).is_some_and(|node| node != *leg.node);
        let is_ours = |leg: &Leg<'_>| {
            case.knows.view(leg.node).is_some_and(|view| {
                let to = leg.passage.entered.dst.ip();
                port.is_some_and(|(service, _)| service.spec.is_proxied(&view.settings.proxy))
                    && !view.settings.cluster_dns.contains(&to)
            })
        };
        !is_others && port.is_some_and(|(_, port)| usable(port)) && is_ours(leg)
    };
    let skipped = |leg: &&Leg<'_>| claimed(leg, case).is_none() && !leg.is_older();
    // On a later node the address is looked at again only if it is still the Service's.
    let leg = case.trail.forth.iter().filter(is_for_service).find(skipped)?;
    let (view, port) = case.knows.port_at(leg.passage.entered.dst, leg.passage.entered.proto)?;
    let is_early = |step: &&Step| matches!(step.hook, Hook::Prerouting | Hook::Output) && is_foreign(step);
    let decides = |step: &&Step| matches!(step.act, Act::Accept | Act::Drop | Act::Stolen) || step.rewritten.is_some();
    let stranger = leg.passage.steps.iter().filter(is_early).find(decides);
    match stranger {
        Some(step) => Some(
            Cause::new(format!(
                "a foreign rule on {} took it before Service {} was asked: {}",
                leg.node,
                port.key,
                raw(step)
            ))
            .of(node_object(leg.node))
            .mend(rules::delete(step, leg.node)),
        ),
        None if leg.passage.steps.is_empty() && leg.passage.fate != Fate::Sent => None,
        None => Some(
            Cause::new(format!("no rule of {} asked for Service {}: they are not in place there", leg.node, port.key))
                .of(object(ObjectKind::Service, &view.key))
                .mend(format!("portolan why svc/{} --node {} tells what is in place", view.key, leg.node)),
        ),
    }
}

/// A conntrack entry from before sends the packet where no Service would.
pub(super) fn stale(case: &Case<'_>) -> Option<Cause> {
    let leg = case.trail.forth.iter().find(|leg| leg.is_older())?;
    let (entered, out) = (leg.passage.entered, leg.out());
    let (view, port) = case.knows.port_at(entered.dst, entered.proto)?;
    let is_endpoint = |to: SocketAddr| {
        port.endpoints.iter().any(|e| e.addr == to.ip() && e.port == to.port() && (e.ready || e.serving))
    };
    if is_endpoint(out.dst) {
        return None;
    }
    let where_to = match entered.dst == out.dst {
        true => "lets it be, as of a time without rules for it".to_owned(),
        false => format!("sends it to {}, which is no endpoint of Service {} any more", out.dst, port.key),
    };
    let because = format!("no rule was asked on {}: a conntrack entry from before {where_to}", leg.node);
    let to = entered.dst;
    Some(Cause::new(because).of(object(ObjectKind::Service, &view.key)).mend(format!(
        "on {}: conntrack -D -p {} -d {} --dport {}",
        leg.node,
        entered.proto,
        to.ip(),
        to.port()
    )))
}

/// A foreign rule let it go with the sender's own address, where its answer must come back by this node.
pub(super) fn unmasqueraded(case: &Case<'_>) -> Option<Cause> {
    let (leg, step) = case.trail.forth.iter().find_map(|leg| Some((leg, forth::unmasqueraded(leg)?)))?;
    let because = format!(
        "a foreign rule on {} let it leave with the address of {}, so its answer does not come back by {}: {}",
        leg.node,
        case.name(leg.passage.entered.src.ip()),
        leg.node,
        raw(step)
    );
    Some(Cause::new(because).of(node_object(leg.node)).mend(rules::delete(step, leg.node)))
}

/// It was sent to an address of a Service, or a node port, that nobody has.
pub(super) fn unclaimed(case: &Case<'_>, end: End) -> Option<Cause> {
    let to = case.probed.and_then(|probed| probed.remote);
    let first = case.trail.forth.first();
    if first.is_some_and(|leg| claimed(leg, case).is_some() || leg.is_older()) {
        return None;
    }
    let to = first.map(|leg| leg.passage.entered.dst).or(to)?;
    // A process of the node may have that port: only who is refused knows that there is none.
    wrong_port(case, to).or_else(|| wrong_node_port(case, to).filter(|_| end == End::Refused))
}

/// A Service's address without that port, or an address of the Service range that no Service has.
pub(super) fn wrong_port(case: &Case<'_>, to: SocketAddr) -> Option<Cause> {
    let proto = case.asked.proto;
    let Some(view) = case.knows.service_at(to.ip()) else {
        let ranges = &case.knows.cluster()?.settings.service_cidrs;
        let is_in_range = ranges.iter().any(|range| range.contains(&to.ip()));
        let because = format!("no Service has address {}, which is of the Services' range", to.ip());
        return is_in_range.then(|| Cause::new(because).mend("kubectl get services -A lists their addresses"));
    };
    if view.ports.iter().any(|port| port.spec.port == to.port() && port.spec.proto == proto) {
        return None;
    }
    let ports: Vec<String> = view.ports.iter().map(port_words).collect();
    let other = view.ports.iter().find(|port| port.spec.port == to.port()).map(|port| port.spec.proto);
    let because = match other {
        Some(other) => format!("port {} of Service {} is {}, not {}", to.port(), view.key, upper(other), upper(proto)),
        None => format!("Service {} has no port {}/{proto}; it has {}", view.key, to.port(), words::list(&ports, 4)),
    };
    let mend = match (other, view.ports.first()) {
        (Some(other), _) => format!("ask with --proto {other}"),
        (None, Some(first)) => format!("ask for port {}, or add {} to spec.ports", first.spec.port, to.port()),
        (None, None) => "give it a port".to_owned(),
    };
    Some(Cause::new(because).of(object(ObjectKind::Service, &view.key)).mend(mend))
}

fn upper(proto: portolan_model::Proto) -> String {
    proto.lower().to_uppercase()
}

/// `80 (http)`, `53/udp (dns)`.
fn port_words(port: &ServicePort) -> String {
    let proto =
        if port.spec.proto == portolan_model::Proto::Tcp { String::new() } else { format!("/{}", port.spec.proto) };
    let name = if port.spec.name.is_empty() { String::new() } else { format!(" ({})", port.spec.name) };
    format!("{}{proto}{name}", port.spec.port)
}

/// A node's port that no Service opened, and that no process of the node has.
fn wrong_node_port(case: &Case<'_>, to: SocketAddr) -> Option<Cause> {
    let node = case.knows.node_at(to.ip())?;
    let proto = case.asked.proto;
    if case.knows.port_at(to, proto).is_some() {
        return None;
    }
    let services = || case.knows.cluster().into_iter().flat_map(|cluster| cluster.services.values());
    let open = || services().flat_map(|view| view.ports.iter()).filter(|port| port.spec.node_port != 0);
    let other = open().find(|port| port.spec.node_port == to.port());
    let because = match other {
        Some(port) => format!(
            "node port {} of Service {} is {}, not {}",
            to.port(),
            port.key,
            upper(port.spec.proto),
            upper(proto)
        ),
        None => format!("no Service has node port {}, and nobody on {node} takes it", to.port()),
    };
    let mut known: Vec<String> = open().map(|port| format!("{} (Service {})", port.spec.node_port, port.key)).collect();
    known.sort();
    let mend = match (other, known.is_empty()) {
        (Some(port), _) => format!("ask with --proto {}", port.spec.proto),
        (None, false) => format!("node ports there are: {}", words::list(&known, 3)),
        (None, true) => "no Service has a node port: set type: NodePort".to_owned(),
    };
    Some(Cause::new(because).of(node_object(&node)).mend(mend))
}
