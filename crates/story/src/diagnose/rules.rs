//! Rules: a rule or policy ended the packet, or its answer.

use portolan_dataplane::choose::Place;
use portolan_dataplane::meaning::{Meaning, TurnedAway};
use portolan_model::{Family, ObjectKind, ServicePortKey};

use crate::diagnose::{Cause, services};
use crate::evidence::Step;
use crate::story::Choice;
use crate::tell::Case;
use crate::tell::choices::{self, Policy};
use crate::tell::forth::{claimed, raw, stop_word};
use crate::tell::hop::{is_foreign, node_object, object, rule_line};
use crate::tell::trail::Leg;
use crate::words;

/// The rule that ended it says why, if it is one of ours; a stranger's is shown as it is.
pub(super) fn cause(case: &Case<'_>) -> Option<Cause> {
    let leg = case.trail.stopped()?;
    let Some(step) = leg.decided() else {
        let because = format!("a rule on {} stopped it, and it is not known which", leg.node);
        return Some(Cause::new(because).of(node_object(leg.node)));
    };
    let meaning = step.rule.as_ref().map(|rule| &rule.meaning);
    Some(match meaning {
        Some(Meaning::Refuses { service, because } | Meaning::Drops { service, because }) => {
            turned_away(case, leg, service.as_ref(), *because)
        }
        _ => stranger(leg, step),
    })
}

fn stranger(leg: &Leg<'_>, step: &Step) -> Cause {
    let node = leg.node;
    let word = stop_word(step);
    let cause = match &step.rule {
        None if step.handle.is_none() => {
            let because = format!(
                "the policy of chain {} {} on {node} is {word}, and no rule there let it pass",
                step.table, step.chain
            );
            return Cause::new(because).of(node_object(node)).mend(format!(
                "let such packets pass in {} {} on {node}, or ask who set that policy",
                step.table, step.chain
            ));
        }
        Some(_) if is_foreign(step) => Cause::new(format!("a foreign rule on {node} says {word}: {}", raw(step))),
        _ => Cause::new(format!("a rule on {node} says {word}: {}", raw(step))),
    };
    cause.of(node_object(node)).mend(delete(step, node))
}

/// How to take a foreign rule away.
pub(super) fn delete(step: &Step, node: &str) -> String {
    let program = match step.table.split_once(' ') {
        Some(("ip", table @ ("filter" | "nat" | "mangle" | "raw"))) => Some(("iptables", table)),
        Some(("ip6", table @ ("filter" | "nat" | "mangle" | "raw"))) => Some(("ip6tables", table)),
        _ => None,
    };
    match (program, step.handle) {
        (Some((program, table)), _) if rule_line(step).text.starts_with('-') => {
            format!("on {node}: {program} -t {table} -D {} {}", step.chain, rule_line(step).text)
        }
        (_, Some(handle)) => format!("on {node}: nft delete rule {} {} handle {handle}", step.table, step.chain),
        _ => format!("on {node}: take it away, or ask who wrote it"),
    }
}

fn turned_away(case: &Case<'_>, leg: &Leg<'_>, key: Option<&ServicePortKey>, because: TurnedAway) -> Cause {
    let sender = leg.passage.entered.src.ip();
    let service = key.map(|key| object(ObjectKind::Service, &key.service));
    match (because, key) {
        (TurnedAway::NoEndpoints, Some(key)) => services::empty(case, key, leg),
        (TurnedAway::NoLocalEndpoints, Some(key)) => no_local(case, leg, key),
        (TurnedAway::SourceRange, Some(key)) => {
            let ranges = case.knows.port(key).map(|(view, _)| view.spec.source_ranges.clone()).unwrap_or_default();
            let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
            let because = format!(
                "{sender} is in none of spec.loadBalancerSourceRanges of Service {} ({})",
                key.service,
                words::list(&ranges, 3)
            );
            Cause::new(because).of(service).mend(format!("add {sender} to the ranges, or ask from one of them"))
        }
        (TurnedAway::NoSuchPort, _) => services::wrong_port(case, leg.passage.entered.dst)
            .unwrap_or_else(|| Cause::new(format!("no Service answers at {}", leg.passage.entered.dst)).of(service)),
        (TurnedAway::Loopback, _) => {
            let because = format!("{} of {} answers on the node itself only", leg.passage.entered.dst, leg.node);
            Cause::new(because).of(node_object(leg.node)).mend("use one of the node's own addresses")
        }
        (TurnedAway::Invalid, _) => {
            let because =
                format!("conntrack on {} calls it invalid: it belongs to no connection that it knows", leg.node);
            Cause::new(because)
                .of(node_object(leg.node))
                .mend("begin a new connection; look whether answers take another way than questions")
        }
        (_, None) => Cause::new(format!("no Service that takes it is known for {}", leg.passage.entered.dst)),
    }
}

/// The policy is Local and nobody of this node may take it: who is elsewhere, or why those here may not.
fn no_local(case: &Case<'_>, leg: &Leg<'_>, key: &ServicePortKey) -> Cause {
    let service = object(ObjectKind::Service, &key.service);
    let node = leg.node;
    let found = case.knows.port(key).zip(case.knows.view(node)).zip(claimed(leg, case));
    let policy = found.map(|(((view, _), snapshot), (_, door))| Policy::of(view, door, leg, snapshot));
    let field = policy.filter(|policy| *policy != Policy::Cluster).unwrap_or(Policy::ExternalLocal).field();
    let place = Place { node: node.clone(), zone: None };
    let family = Family::of(leg.passage.entered.dst.ip());
    let endpoints = case.knows.port(key).map(|(_, port)| port.endpoints.clone()).unwrap_or_default();
    let endpoints = || endpoints.iter().filter(|endpoint| Family::of(endpoint.addr) == family);
    let here = endpoints().find(|endpoint| endpoint.node.as_ref() == Some(node));
    if let Some(endpoint) = here {
        let why = choices::left_out(endpoint, Policy::Cluster, &place, case.knows);
        let name = endpoint.pod.as_ref().map_or_else(|| endpoint.target(), |pod| case.short(pod));
        let because =
            format!("{field} of Service {} is Local, and its only pod on {node}, {name}, is {why}", key.service);
        let pod = endpoint.pod.as_ref().map(|pod| object(ObjectKind::Pod, pod)).unwrap_or(service);
        return Cause::new(because).of(pod).mend(format!("get {name} Ready, or set {field}: Cluster"));
    }
    let mut nodes: Vec<String> = endpoints()
        .filter(|endpoint| endpoint.ready)
        .filter_map(|endpoint| endpoint.node.as_ref())
        .map(ToString::to_string)
        .collect();
    nodes.sort();
    nodes.dedup();
    let elsewhere = if nodes.is_empty() { String::new() } else { format!(", only on {}", words::list(&nodes, 3)) };
    let because = format!("{field} of Service {} is Local, and no pod of it is on {node}{elsewhere}", key.service);
    let there = match (field, nodes.first()) {
        ("externalTrafficPolicy", Some(there)) => format!("send to {there}, or "),
        _ => String::new(),
    };
    Cause::new(because).of(service).mend(format!("{there}set {field}: Cluster, or run a pod of it on {node}"))
}

/// The endpoints as a Choice tells them: for whoever lists why each is left out.
pub(super) fn left_out(choices: &[Choice], case: &Case<'_>) -> Vec<String> {
    let name = |choice: &Choice| choice.pod.as_ref().map_or_else(|| choice.endpoint.to_string(), |pod| case.short(pod));
    choices.iter().filter_map(|choice| Some(format!("{} is {}", name(choice), choice.left_out.as_ref()?))).collect()
}
