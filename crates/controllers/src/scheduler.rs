//! Scheduler: places a pod on the node with the fewest pods of the same owner, then the fewest
//! pods, then the first name.
//!
//! Filters: Ready, schedulable, taints, nodeSelector, required node affinity, host ports, number
//! of pods, resource requests. Not looked at: pod affinity, topology spread constraints.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodCondition, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::node::pods::tolerates;
use crate::object::{Id, Kind, Object};
use crate::plan::{Note, Plan, Write};
use crate::world::World;
use crate::{node, owner, pod, resources};

const COMPONENT: &str = "default-scheduler";
/// What a node takes that does not say.
const DEFAULT_MAX_PODS: usize = 110;

pub fn reconcile(world: &World, id: &Id, now: Timestamp) -> Plan {
    let Some(pod) = world.get::<Pod>(id).filter(|pod| is_waiting(pod)) else {
        return Plan::idle();
    };
    let mut refused: BTreeMap<String, usize> = BTreeMap::new();
    let mut fitting = Vec::new();
    for node in world.nodes() {
        let reasons = match refusal(world, pod, node) {
            Some(reason) => vec![reason],
            None => resources::lacks(pod, node, world.pods_on(name_of(node))),
        };
        if reasons.is_empty() {
            fitting.push(node);
        }
        for reason in reasons {
            *refused.entry(reason).or_default() += 1;
        }
    }
    let crowd = owner_crowd(world, pod);
    let chosen = fitting.into_iter().min_by_key(|node| {
        let name = name_of(node);
        let siblings = crowd.get(name).copied().unwrap_or(0);
        (siblings, world.count_on(name), name.to_owned())
    });
    let write = match chosen {
        Some(node) => Some(bind(pod, name_of(node))),
        None => unschedulable(pod, refusal_message(world.nodes().count(), &refused), now),
    };
    Plan::of(write.into_iter().collect())
}

fn is_waiting(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let scheduler = spec.and_then(|spec| spec.scheduler_name.as_deref());
    let is_ours = scheduler.is_none_or(|name| name.is_empty() || name == COMPONENT);
    let gates = spec.and_then(|spec| spec.scheduling_gates.as_ref());
    let is_open = gates.is_none_or(Vec::is_empty);
    let is_placed = pod::node_name(pod).is_some();
    is_ours && is_open && !is_placed && pod::is_active(pod)
}

fn name_of(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}

/// Why the pod cannot go there, in the scheduler's words.
fn refusal(world: &World, pod: &Pod, node: &Node) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if node::is_unschedulable(node) {
        return Some("node(s) were unschedulable".to_owned());
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let mut taints = node::taints(node).iter();
    let untolerated =
        taints.find(|taint| taint.effect != "PreferNoSchedule" && !tolerations.iter().any(|one| tolerates(one, taint)));
    if let Some(taint) = untolerated {
        let value = taint.value.as_deref().unwrap_or_default();
        return Some(format!("node(s) had untolerated taint {{{}: {value}}}", taint.key));
    }
    if !node::is_ready(node) {
        return Some("node(s) were not ready".to_owned());
    }
    if !selects(spec, node) {
        return Some("node(s) didn't match Pod's node affinity/selector".to_owned());
    }
    if world.count_on(name_of(node)) >= max_pods(node) {
        return Some("Too many pods".to_owned());
    }
    let is_taken = |taken: &Arc<Pod>| !pod::is_finished(taken) && ports_clash(pod, taken);
    world
        .pods_on(name_of(node))
        .any(is_taken)
        .then(|| "node(s) didn't have free ports for the requested pod ports".to_owned())
}

fn max_pods(node: &Node) -> usize {
    let status = node.status.as_ref();
    let allocatable = status.and_then(|status| status.allocatable.as_ref());
    let pods = allocatable.and_then(|all| all.get("pods"));
    pods.and_then(|quantity| quantity.0.parse().ok()).unwrap_or(DEFAULT_MAX_PODS)
}

fn selects(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let mut pairs = spec.node_selector.iter().flatten();
    if !pairs.all(|(key, value)| labels.get(key) == Some(value)) {
        return false;
    }
    let affinity = spec.affinity.as_ref();
    let affinity = affinity.and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|required| {
        let mut terms = required.node_selector_terms.iter();
        terms.any(|term| term_matches(term, node))
    })
}

/// All expressions and fields of a term hold; a term without any takes nothing.
fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let by_label = |one: &NodeSelectorRequirement| requirement(one, labels.and_then(|labels| labels.get(&one.key)));
    let by_name =
        |one: &NodeSelectorRequirement| one.key == "metadata.name" && requirement(one, node.metadata.name.as_ref());
    let is_empty = expressions.is_empty() && fields.is_empty();
    !is_empty && expressions.iter().all(by_label) && fields.iter().all(by_name)
}

fn requirement(one: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let values = one.values.as_deref().unwrap_or_default();
    let numbers = || {
        let own: i64 = value?.parse().ok()?;
        let bound: i64 = values.first()?.parse().ok()?;
        Some((own, bound))
    };
    match one.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(own, bound)| own > bound),
        "Lt" => numbers().is_some_and(|(own, bound)| own < bound),
        _ => false,
    }
}

/// Host ports of two pods clash when port and protocol are the same and an address of both is, or
/// one is every address.
fn ports_clash(a: &Pod, b: &Pod) -> bool {
    let taken = host_ports(b);
    host_ports(a).iter().any(|(port, protocol, address)| {
        taken.iter().any(|other| {
            let is_same_port = other.0 == *port && other.1 == *protocol;
            is_same_port && (other.2 == *address || is_any(&other.2) || is_any(address))
        })
    })
}

fn is_any(address: &str) -> bool {
    matches!(address, "" | "0.0.0.0" | "::")
}

fn host_ports(pod: &Pod) -> Vec<(i32, String, String)> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let on_host = spec.host_network == Some(true);
    let ports = spec.containers.iter();
    let ports = ports.flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let default = on_host.then_some(port.container_port);
            let number = port.host_port.filter(|port| *port > 0).or(default)?;
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            Some((number, protocol, port.host_ip.clone().unwrap_or_default()))
        })
        .collect()
}

/// Active pods of the same owner by node.
fn owner_crowd(world: &World, pod: &Pod) -> BTreeMap<String, usize> {
    let mut crowd = BTreeMap::new();
    let Some(owner) = owner::controller_of(&pod.metadata) else {
        return crowd;
    };
    for sibling in world.owned::<Pod>(&owner.uid) {
        if let Some(node) = pod::node_name(sibling).filter(|_| pod::is_active(sibling)) {
            *crowd.entry(node.to_owned()).or_default() += 1;
        }
    }
    crowd
}

fn bind(pod: &Arc<Pod>, node: &str) -> Write {
    let id = Id::of(Kind::Pod, &pod.metadata);
    let message = format!("Successfully assigned {}/{} to {node}", id.namespace, id.name);
    let subject = Object::Pod(pod.clone());
    let note = Note::normal(COMPONENT, &subject, "Scheduled", message);
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    Write::bind(id, uid, node).telling(note)
}

/// Says once why no node fits; the same words are not said again.
fn unschedulable(pod: &Arc<Pod>, message: String, now: Timestamp) -> Option<Write> {
    let known = pod::condition(pod, "PodScheduled");
    if known.is_some_and(|known| known.status == "False" && known.message.as_deref() == Some(message.as_str())) {
        return None;
    }
    let since = known.filter(|known| known.status == "False").and_then(|known| known.last_transition_time.clone());
    let mut updated = Pod::clone(pod);
    let status = updated.status.get_or_insert_default();
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|one| one.type_ != "PodScheduled");
    conditions.push(PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("Unschedulable".to_owned()),
        message: Some(message.clone()),
        last_transition_time: since.or(Some(Time(now))),
        ..PodCondition::default()
    });
    let subject = Object::Pod(pod.clone());
    let note = Note::warning(COMPONENT, &subject, "FailedScheduling", message);
    Some(Write::replace_status(updated).telling(note))
}

/// `total` nodes were looked at; one may have several reasons.
fn refusal_message(total: usize, refused: &BTreeMap<String, usize>) -> String {
    if refused.is_empty() {
        return "no nodes available to schedule pods".to_owned();
    }
    let mut reasons: Vec<String> = refused.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    reasons.sort();
    format!("0/{total} nodes are available: {}.", reasons.join(", "))
}
