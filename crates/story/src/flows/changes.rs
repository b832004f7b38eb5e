//! Changes between two looks at all nodes' connections. Conntrack remembers a connection for a while after its end, so
//! looks a second apart miss none but those that are reset.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use portolan_model::Proto;
use serde::{Deserialize, Serialize};

use super::Flow;

/// One connection that is not as it was at the last look. A line of `portolan flows --watch --output json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// What became of it.
    pub what: What,
    /// As it is now; as it was, if it ended.
    pub flow: Flow,
}

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum What {
    /// It was not there.
    Began,
    /// Its state is another, or it was answered.
    Changed,
    /// Every node has forgotten it.
    Ended,
}

/// What differs between two looks: what ended first, then what changed, then what began.
pub fn changes(before: &[Flow], after: &[Flow]) -> Vec<Change> {
    let (old, new) = (by_key(before), by_key(after));
    let of = |what, flow: &Flow| Change { what, flow: flow.clone() };
    let ended = old.iter().filter(|(key, _)| !new.contains_key(*key)).map(|(_, flow)| of(What::Ended, flow));
    let is_other = |key: &Key, flow: &Flow| old.get(key).is_some_and(|was| state(was) != state(flow));
    let changed = new.iter().filter(|(key, flow)| is_other(key, flow)).map(|(_, flow)| of(What::Changed, flow));
    let began = new.iter().filter(|(key, _)| !old.contains_key(*key)).map(|(_, flow)| of(What::Began, flow));
    ended.chain(changed).chain(began).collect()
}

type Key = (Proto, SocketAddr, SocketAddr);

fn by_key(flows: &[Flow]) -> BTreeMap<Key, &Flow> {
    flows.iter().map(|flow| (flow.key(), flow)).collect()
}

fn state(flow: &Flow) -> (Option<&str>, bool) {
    (flow.state.as_deref(), flow.answered)
}
