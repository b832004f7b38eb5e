//! Nodes: what the cluster says of each, and what its agent says of itself. Pure.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::gather::{Objects, Observed};
use super::objects::{self, Count};

/// One node of the lab.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    pub name: String,
    /// On the lab's LAN.
    pub address: IpAddr,
    pub state: State,
    pub pod_cidrs: Vec<String>,
    pub pods: Count,
    /// Why the agent was not heard; `None` if it was, or if the node is stopped.
    pub silent_because: Option<String>,
    /// `None`: the agent was not heard.
    pub dns: Option<Dns>,
    /// `None`: the agent was not heard.
    pub bgp: Option<Bgp>,
    /// The newest change that its agent was told of.
    pub last_change: Option<NodeChange>,
}

/// What a node is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum State {
    Ready,
    NotReady,
    /// Its power was cut by `portolan node stop`.
    Stopped,
    /// The API server did not answer, or has no such Node.
    Unknown,
}

/// A node's DNS, counted since its agent was started.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Dns {
    /// It answers at the cluster DNS address.
    pub serving: bool,
    pub upstreams: Vec<String>,
    pub queries: u64,
    pub servfail: u64,
    /// Why the newest ConfigMap `coredns` is not in force; an older one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// A node's BGP sessions.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bgp {
    pub established: usize,
    /// One to each other node.
    pub expected: usize,
    /// Blocks of other nodes that it has routes to.
    pub routes: usize,
    /// Those that are not established: peer, state, last error.
    pub down: Vec<String>,
}

/// A change as one node took it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeChange {
    /// `Service default/web`
    pub object: String,
    /// Its resourceVersion.
    pub revision: u64,
    pub seen_at: Timestamp,
    /// Until the node's kernel had it; `None`: it has not.
    pub programmed_after_millis: Option<f64>,
}

/// The newest change of all nodes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LastChange {
    pub object: String,
    pub revision: u64,
    /// When the first node saw it.
    pub seen_at: Timestamp,
    pub age_seconds: u64,
    /// From then until the slowest node had programmed it; `None`: not all have.
    pub programmed_after_millis: Option<f64>,
    pub slowest_node: Option<String>,
    /// Nodes that have not programmed it.
    pub missing: Vec<String>,
}

pub fn nodes(seen: &Observed) -> Vec<Node> {
    seen.lab.nodes.iter().map(|node| one(node, seen)).collect()
}

fn one(node: &portolan_lab::NodeStatus, seen: &Observed) -> Node {
    let objects = seen.objects.as_ref().ok();
    let object = objects.and_then(|all| all.nodes.iter().find(|n| n["metadata"]["name"] == *node.name));
    let answer = seen.agents.get(&node.name);
    let agent = answer.and_then(|answer| answer.as_ref().ok());
    Node {
        name: node.name.clone(),
        address: node.address,
        state: if node.plugged { state(object) } else { State::Stopped },
        pod_cidrs: object.map(|o| texts(&o["spec"]["podCIDRs"])).unwrap_or_default(),
        pods: objects.map(|all| objects::on_node(&all.pods, &node.name)).unwrap_or_default(),
        silent_because: answer.and_then(|answer| answer.as_ref().err()).cloned(),
        dns: agent.map(|agent| dns(agent, seen.cluster_dns)),
        bgp: agent.map(|agent| bgp(&agent["bgp"], objects)),
        last_change: agent.and_then(|agent| change(&agent["core"]["lastChange"])),
    }
}

fn state(object: Option<&Value>) -> State {
    let Some(object) = object else { return State::Unknown };
    let is_ready = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
    let ready = rows(&object["status"]["conditions"]).any(is_ready);
    if ready { State::Ready } else { State::NotReady }
}

fn dns(agent: &Value, cluster_dns: IpAddr) -> Dns {
    let dns = &agent["dns"];
    Dns {
        serving: texts(&dns["listening"]).contains(&cluster_dns.to_string()),
        upstreams: texts(&dns["upstreams"]),
        queries: dns["queries"].as_u64().unwrap_or_default(),
        servfail: dns["replies"]["SERVFAIL"].as_u64().unwrap_or_default(),
        refused: agent["dnsConfiguration"]["refused"].as_str().map(str::to_owned),
    }
}

fn bgp(bgp: &Value, objects: Option<&Objects>) -> Bgp {
    let is_up = |session: &&Value| session["state"] == "Established";
    let sessions: Vec<&Value> = rows(&bgp["sessions"]).collect();
    let down = |session: &&Value| {
        let text = |field: &str| session[field].as_str().unwrap_or_default().to_owned();
        let why = session["lastError"].as_str().map_or(String::new(), |why| format!(", {why}"));
        format!("{} ({}{why})", text("peer"), text("state"))
    };
    Bgp {
        established: sessions.iter().copied().filter(|s| is_up(s)).count(),
        expected: objects.map_or(sessions.len(), |all| all.nodes.len().saturating_sub(1)),
        routes: rows(&bgp["routes"]).count(),
        down: sessions.iter().filter(|s| !is_up(s)).map(down).collect(),
    }
}

fn change(change: &Value) -> Option<NodeChange> {
    Some(NodeChange {
        object: change["object"].as_str()?.to_owned(),
        revision: change["revision"].as_u64()?,
        seen_at: change["seenAt"].as_str()?.parse().ok()?,
        programmed_after_millis: change["programmedAfterMicros"].as_f64().map(|micros| micros / 1000.0),
    })
}

/// The newest change by revision, and how long it took to reach every node that was heard.
pub fn last_change(nodes: &[Node], now: Timestamp) -> Option<LastChange> {
    let told: Vec<(&str, &NodeChange)> =
        nodes.iter().filter_map(|node| Some((node.name.as_str(), node.last_change.as_ref()?))).collect();
    let newest = told.iter().map(|(_, change)| *change).max_by_key(|change| change.revision)?;
    let have = || told.iter().filter(|(_, change)| change.revision == newest.revision);
    let seen_at = have().map(|(_, change)| change.seen_at).min()?;
    // A node that was told an older one later has listed everything since: the newest was a removal.
    let is_missing = |change: &NodeChange| match change.revision == newest.revision {
        true => change.programmed_after_millis.is_none(),
        false => change.seen_at < seen_at,
    };
    let done = |change: &NodeChange| {
        let waited = change.seen_at.duration_since(seen_at).as_secs_f64() * 1000.0;
        change.programmed_after_millis.map(|took| waited + took)
    };
    let slowest = have().filter_map(|(name, change)| Some((*name, done(change)?))).max_by(|a, b| a.1.total_cmp(&b.1));
    let missing: Vec<String> =
        told.iter().filter(|(_, change)| is_missing(change)).map(|(name, _)| (*name).to_owned()).collect();
    Some(LastChange {
        object: newest.object.clone(),
        revision: newest.revision,
        seen_at,
        age_seconds: u64::try_from(now.duration_since(seen_at).as_secs()).unwrap_or_default(),
        programmed_after_millis: slowest.filter(|_| missing.is_empty()).map(|(_, millis)| millis),
        slowest_node: slowest.filter(|_| missing.is_empty()).map(|(name, _)| name.to_owned()),
        missing,
    })
}

impl Node {
    pub fn problems(&self) -> Vec<String> {
        let name = &self.name;
        let mut problems = Vec::new();
        match self.state {
            State::Ready => {}
            State::NotReady => problems.push(format!("{name} is not Ready")),
            State::Stopped => problems.push(format!("{name} is stopped; `portolan node start {name}` starts it")),
            State::Unknown => problems.push(format!("{name} is not known to the API server")),
        }
        problems.extend(self.silent_because.iter().map(|why| format!("the agent of {name} does not answer: {why}")));
        if self.dns.as_ref().is_some_and(|dns| !dns.serving) {
            problems.push(format!("DNS of {name} does not answer at the cluster DNS address"));
        }
        if let Some(why) = self.dns.as_ref().and_then(|dns| dns.refused.as_ref()) {
            problems.push(format!("DNS of {name} goes on with its older configuration: {why}"));
        }
        if self.state == State::Ready && self.pod_cidrs.is_empty() {
            problems.push(format!("{name} has no pod CIDR"));
        }
        problems.extend(self.bgp.as_ref().and_then(|bgp| bgp.problem(name)));
        problems
    }
}

impl Bgp {
    fn problem(&self, node: &str) -> Option<String> {
        let Self { established, expected, routes, down } = self;
        if established < expected {
            let down = if down.is_empty() { String::new() } else { format!(": {}", down.join(", ")) };
            return Some(format!("{node} has {established} of {expected} BGP sessions{down}"));
        }
        (routes < expected).then(|| format!("{node} has routes to {routes} of {expected} other nodes"))
    }
}

impl LastChange {
    pub fn problems(&self) -> Vec<String> {
        let behind = |name: &String| format!("{name} has not programmed {} (revision {})", self.object, self.revision);
        self.missing.iter().map(behind).collect()
    }
}

fn rows(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn texts(value: &Value) -> Vec<String> {
    rows(value).filter_map(Value::as_str).map(str::to_owned).collect()
}
