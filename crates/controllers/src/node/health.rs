//! Node lifecycle: a node that is silent for longer than the grace becomes Unknown and tainted.
//!
//! ```text
//! Lease renewed / status reported ─► heard ─► silent > grace ─► Ready Unknown, unreachable taints
//!                                        └──► heard again    ─► Ready as before, taints off
//! ```
//!
//! Silence is measured on our own clock from the moment a renewal was seen, so the clocks of nodes
//! do not matter, and a restarted control plane gives every node a full grace.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::{COMPONENT, NOT_READY, UNREACHABLE, condition, taints};
use crate::object::{Id, Kind, Object, to_value};
use crate::plan::{Note, Plan, Write};
use crate::world::World;

/// Reason on conditions set here; what bears it is undone when the node is heard again.
const SILENT_REASON: &str = "NodeStatusUnknown";
const SILENT_MESSAGE: &str = "Kubelet stopped posting node status.";
/// Conditions a node reports; all are unknown when it is silent.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

pub fn reconcile(world: &World, name: &str, grace: Duration, now: Timestamp) -> Plan {
    let Some(node) = world.node(name) else {
        return Plan::idle();
    };
    if node.metadata.deletion_timestamp.is_some() {
        return Plan::idle();
    }
    let heard = world.last_heard(name).unwrap_or(now);
    let silent_from = heard + grace;
    let is_silent = silent_from <= now;
    let conditions = match is_silent {
        true => silence(node, now),
        false => recover(node, now),
    };
    let wake_at = (!is_silent).then_some(silent_from);
    let writes = match conditions {
        Some(write) => vec![write], // the taints follow from the conditions, in the next round
        None => taint(node, now).into_iter().collect(),
    };
    Plan::of(writes).wake(wake_at)
}

fn silence(node: &Arc<Node>, now: Timestamp) -> Option<Write> {
    let is_known = |type_: &&str| match condition(node, type_) {
        Some(known) => known.status != "Unknown",
        None => *type_ == "Ready",
    };
    if !REPORTED.iter().any(is_known) {
        return None;
    }
    let mut updated = Node::clone(node);
    let status = updated.status.get_or_insert_default();
    let conditions = status.conditions.get_or_insert_default();
    if !conditions.iter().any(|one| one.type_ == "Ready") {
        conditions.push(k8s_openapi::api::core::v1::NodeCondition { type_: "Ready".to_owned(), ..Default::default() });
    }
    for condition in conditions.iter_mut() {
        let is_reported = REPORTED.contains(&condition.type_.as_str());
        if is_reported && condition.status != "Unknown" {
            condition.status = "Unknown".to_owned();
            condition.reason = Some(SILENT_REASON.to_owned());
            condition.message = Some(SILENT_MESSAGE.to_owned());
            condition.last_transition_time = Some(Time(now));
        }
    }
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let message = format!("Node {name} status is now: NodeNotReady");
    let subject = Object::Node(node.clone());
    let note = Note::normal(COMPONENT, &subject, "NodeNotReady", message);
    Some(Write::replace_status(updated).telling(note))
}

/// Takes back what silence had said. The node itself may have reported in the meantime: then
/// nothing bears our reason any more.
fn recover(node: &Arc<Node>, now: Timestamp) -> Option<Write> {
    let mut updated = Node::clone(node);
    let conditions = updated.status.as_mut()?.conditions.as_mut()?;
    let silenced =
        conditions.iter_mut().filter(|one| one.status == "Unknown" && one.reason.as_deref() == Some(SILENT_REASON));
    let mut is_changed = false;
    for condition in silenced {
        let is_ready = condition.type_ == "Ready";
        condition.status = if is_ready { "True" } else { "False" }.to_owned();
        condition.reason = Some(if is_ready { "KubeletReady" } else { "KubeletHeard" }.to_owned());
        condition.message = Some("node is heard again".to_owned());
        condition.last_transition_time = Some(Time(now));
        is_changed = true;
    }
    is_changed.then(|| Write::replace_status(updated))
}

/// The taints that go with the Ready condition: not to be placed on, and to be left.
fn taint(node: &Arc<Node>, now: Timestamp) -> Option<Write> {
    let ready = condition(node, "Ready").map(|ready| ready.status.as_str());
    let key = match ready {
        Some("True") => None,
        Some("Unknown") => Some(UNREACHABLE),
        _ => Some(NOT_READY),
    };
    let mut wanted: Vec<Taint> =
        taints(node).iter().filter(|taint| !is_ours(taint) || Some(taint.key.as_str()) == key).cloned().collect();
    for effect in ["NoSchedule", "NoExecute"] {
        let Some(key) = key else { break };
        let has = |taint: &Taint| taint.key == key && taint.effect == effect;
        if !wanted.iter().any(has) {
            wanted.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                time_added: Some(Time(now)),
                value: None,
            });
        }
    }
    if wanted == taints(node) {
        return None;
    }
    let taints = (!wanted.is_empty()).then(|| to_value(&wanted));
    let body = json!({
        "metadata": {"resourceVersion": node.metadata.resource_version},
        "spec": {"taints": taints},
    });
    Some(Write::patch(Id::of(Kind::Node, &node.metadata), body))
}

fn is_ours(taint: &Taint) -> bool {
    let is_effect = matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    is_effect && matches!(taint.key.as_str(), NOT_READY | UNREACHABLE)
}
