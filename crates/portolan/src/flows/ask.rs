//! Asking agents for their connections: first for those that are named, then for what joins to them, until nothing does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use kube::Client;
use portolan_model::Text;
use portolan_story::evidence::Header;
use portolan_story::flows::{Ask, NodeFlows, Only, Silent, add, ends};
use serde_json::Value;

use crate::failure::Failure;
use crate::gather::agents;

/// A table of a hundred thousand connections is told within a second or two.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many headers are a question; whoever has more asks for everything.
const MOST_HEADERS: usize = 20_000;

/// What nodes told, and which did not.
pub struct Seen {
    pub known: Vec<NodeFlows>,
    pub silent: Vec<Silent>,
}

/// The cluster's nodes.
///
/// # Errors
/// The API server does not answer, or `wanted` is none of them.
pub async fn nodes(client: &Client, wanted: Option<&Text>) -> Result<Vec<Text>, Failure> {
    let request = http::Request::get("/api/v1/nodes").body(Vec::new()).map_err(Failure::input)?;
    let failed = |why: String| Failure::no(format!("cannot list the nodes: {why}"));
    let list = match tokio::time::timeout(PATIENCE, client.request::<Value>(request)).await {
        Ok(answer) => answer.map_err(|e| failed(agents::chain(&e)))?,
        Err(_) => return Err(failed(format!("no answer within {} s", PATIENCE.as_secs()))),
    };
    let items = list["items"].as_array().into_iter().flatten();
    let names: Vec<Text> = items.filter_map(|node| node["metadata"]["name"].as_str()).map(Text::from).collect();
    match wanted.filter(|wanted| !names.contains(wanted)) {
        Some(wanted) => {
            let known: Vec<&str> = names.iter().map(|name| &**name).collect();
            Err(Failure::no(format!("no node {wanted}; there are {}", known.join(", "))))
        }
        None => Ok(names),
    }
}

/// Looks once at all nodes' connections, as far as `first` asks.
///
/// # Errors
/// No node answers.
pub async fn look(client: &Client, nodes: &[Text], first: &Ask) -> Result<Seen, Failure> {
    let mut looking = Looking { client, nodes, known: Vec::new(), silent: BTreeMap::new() };
    let named: Vec<Text> = nodes.iter().filter(|name| first.only.asks_first(name)).cloned().collect();
    looking.ask(&named, first).await;
    if looking.known.is_empty() {
        return Err(looking.nobody_answers());
    }
    if first.only != Only::default() {
        looking.join().await;
    }
    let silent = looking.silent.into_iter().map(|(node, why)| Silent { node, why }).collect();
    Ok(Seen { known: looking.known, silent })
}

struct Looking<'a> {
    client: &'a Client,
    nodes: &'a [Text],
    known: Vec<NodeFlows>,
    silent: BTreeMap<Text, String>,
}

impl Looking<'_> {
    async fn ask(&mut self, nodes: &[Text], ask: &Ask) {
        let client = self.client;
        let one = |node: &Text| {
            let node = node.clone();
            async move { (agents::say::<NodeFlows>(client, &node, "flows", ask, PATIENCE).await, node) }
        };
        let heard = nodes.iter().filter(|node| !self.silent.contains_key(*node)).map(one);
        for (answer, node) in join_all(heard).await {
            match answer {
                Ok(answer) => add(&mut self.known, answer),
                Err(no) => drop(self.silent.insert(node, no.why)),
            }
        }
    }

    /// What other nodes know of the connections that are known. Each header is asked for once, so this ends.
    async fn join(&mut self) {
        let mut asked: BTreeSet<Header> = BTreeSet::new();
        loop {
            let joining: Vec<Header> = ends(&self.known).difference(&asked).copied().collect();
            if joining.is_empty() {
                return;
            }
            let everything = joining.len() > MOST_HEADERS;
            asked.extend(joining.iter().copied());
            let joining = if everything { Vec::new() } else { joining };
            self.ask(self.nodes, &Ask { joining, ..Ask::default() }).await;
            if everything {
                return;
            }
        }
    }

    fn nobody_answers(&self) -> Failure {
        let why: Vec<String> = self.silent.iter().map(|(node, why)| format!("{node}: {why}")).collect();
        Failure::no(format!("no node's agent tells of its connections: {}", why.join("; ")))
    }
}
