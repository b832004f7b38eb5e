//! Why: what is in place on a node for an object, since when, and what led to it. What `portolan why --output json` prints;
//! fields are only ever added to a version.
//!
//! ```text
//!  CLI ──► GET /portolan/v1/why?object=Service/default/web     every node ──► NodeWhy ─┐
//!          …?rule=nat KUBE-SEP-…  …?route=10.244.1.0/26  …?record=NAME                 ├─► Why
//!      ──► the API: when pods became Ready ────────────────────────────────────────────┘
//! ```
//!
//! Times are microseconds since 1970: a node's by its own clock, the API's in whole seconds as the API tells them.

use portolan_dataplane::meaning::Meaning;
use portolan_model::{NsName, ObjectRef, Text};
use serde::{Deserialize, Serialize};

use crate::evidence::Backend;
use crate::history::{Since, Step};

/// Version of the shape below.
pub const SCHEMA: &str = "portolan.why/v1";

/// The answers of all nodes that were asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Why {
    /// [`SCHEMA`].
    pub schema: Text,
    /// One for each question, in their order.
    pub answers: Vec<Answer>,
    /// Pods that the answers speak of, as the API tells of them now.
    pub pods: Vec<PodSeen>,
    /// Nodes that did not answer.
    pub silent: Vec<Silent>,
}

/// One question's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// What was asked, in words: `Service default/web`, `route 10.244.1.0/26`.
    pub asked: String,
    /// What each node says.
    pub nodes: Vec<NodeWhy>,
}

impl Answer {
    /// Something is in place for it on some node.
    pub fn is_yes(&self) -> bool {
        self.nodes.iter().any(|node| !node.in_place.is_empty())
    }
}

/// A node that did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Silent {
    /// Which.
    pub node: Text,
    /// Why, in one line.
    pub why: String,
}

/// What the API says of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSeen {
    /// Which.
    pub pod: NsName,
    /// Its node, once it is scheduled.
    pub node: Option<Text>,
    /// Condition Ready is true.
    pub ready: bool,
    /// Since when that condition is what it is.
    pub ready_since_us: Option<i64>,
}

/// What one node says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeWhy {
    /// The node.
    pub node: Text,
    /// How its rules are written.
    pub backend: Backend,
    /// Its clock when it answered.
    pub now_us: i64,
    /// When its agent was started: what is older was written by a former one.
    pub started_us: i64,
    /// Writes that changed something, since then.
    pub generation: u64,
    /// Objects that it is about: the one asked for; of a rule, route or record those that caused it, nearest first.
    pub objects: Vec<ObjectRef>,
    /// What is in place for it.
    pub in_place: Vec<InPlace>,
    /// Why nothing is, or no rule where records are; `None` where there is nothing to explain.
    pub nothing: Option<Nothing>,
    /// What changed it, the newest first: of the last 64 generations, and the last change however long ago.
    pub changes: Vec<Changed>,
}

/// One thing that is in place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InPlace {
    /// What it is.
    pub sort: Sort,
    /// Where: `ip nat KUBE-SEP-…`, `ip portolan cluster-ips-2`, `main`, `cluster.local`.
    pub place: Text,
    /// Of a rule: its number in its chain, from 1, as `iptables -L --line-numbers` counts.
    pub number: Option<usize>,
    /// The rule, element, route or record in the words of its field.
    pub text: Text,
    /// What a rule or element is there for.
    pub meaning: Option<Meaning>,
    /// Objects that caused it, nearest first.
    pub objects: Vec<ObjectRef>,
    /// Since when it is so; `None`: not known.
    pub since: Option<Since>,
}

/// What is in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Sort {
    /// A rule of a chain.
    Rule,
    /// An element of a set or map of nf_tables.
    Element,
    /// A route of the main table.
    Route,
    /// A record of cluster DNS.
    Record,
}

/// Why nothing is in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Nothing {
    /// In one word, for programs.
    pub because: Because,
    /// In one line, for people.
    pub says: String,
    /// Names near to what was asked, the nearest first.
    pub near: Vec<String>,
}

/// Why nothing is in place, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Because {
    /// The node knows no such object.
    NoSuchObject,
    /// No rule, route or record of ours is this one.
    NotOurs,
    /// The Service is for another proxy, or for none.
    NotProxied,
    /// The pod is on another node, and no Service leads to it.
    Elsewhere,
    /// The kernel refused its rules.
    Refused,
    /// The agent has not programmed this node yet.
    NotYet,
}

/// One change of what is in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Changed {
    /// The node's generation, counted from its agent's start.
    pub generation: u64,
    /// When its write began.
    pub began_us: i64,
    /// When the kernel had it.
    pub written_us: i64,
    /// What changed: `Service default/web`, `route 10.244.1.0/26`, `link default/web-1`.
    pub what: Text,
    /// What it did, and why.
    #[serde(flatten)]
    pub step: Step,
}
