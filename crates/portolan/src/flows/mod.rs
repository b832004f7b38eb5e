//! `portolan flows` and `portolan top services`: what passes through a cluster now, with names.
//!
//! ```text
//!  agents: POST …/flows (each its own table) ─► ask ─► story::flows: joined ─► table, JSON, changes
//!  agents: GET …/rates (each counts a while) ────────► story::flows: merged ─► table, JSON
//! ```

mod ask;
mod top;
mod top_dns;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kube::Client;
use portolan_model::{Facts, NsName, Text};
use portolan_story::flows::{
    Ask, Change, Flow, Flows, Nameless, NodeFlows, Only, SCHEMA, Silent, Who, change_line, changes, joined, name_rest,
    table,
};
use portolan_story::place::Goal;
use portolan_story::place::find::Ground;
use serde_json::Value;

use crate::failure::Failure;
use crate::lab::LabName;
use crate::settings::OutputFormat;

pub use top::{TopCommand, top};

/// Between two looks of `--watch`: conntrack remembers what ended meanwhile.
const LOOK: Duration = Duration::from_secs(1);

/// Which cluster is asked.
#[derive(Args, Clone, Debug)]
pub struct ClusterOf {
    #[command(flatten)]
    lab: LabName,
    /// The cluster to ask, if it is no lab
    #[arg(long, value_name = "FILE", conflicts_with = "name")]
    kubeconfig: Option<PathBuf>,
}

/// Command line of `flows`.
#[derive(Args, Clone, Debug)]
pub struct FlowsArgs {
    /// Only those made to svc/NAME, or from and to pod/NAME (either with NAMESPACE/ before NAME)
    of: Option<String>,
    /// Namespace of a name without one
    #[arg(short = 'n', long, default_value = "default")]
    namespace: String,
    /// Only those that this node knows
    #[arg(long)]
    node: Option<String>,
    /// Go on, and print what begins (+), changes (~) and is forgotten (-)
    #[arg(long)]
    watch: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    output: OutputFormat,
    #[command(flatten)]
    cluster: ClusterOf,
}

/// Prints the connections of a cluster.
///
/// # Errors
/// There is no such Service, pod or node, or no node answers.
pub async fn flows(args: FlowsArgs) -> Result<(), Failure> {
    let mut only = read_of(args.of.as_deref(), &args.namespace)?;
    only.node = args.node.as_deref().map(Text::from);
    let client = args.cluster.client().await?;
    let nodes = ask::nodes(&client, only.node.as_ref()).await?;
    let addresses = must_be_there(&client, &only).await?;
    let ask = Ask { only, addresses, joining: Vec::new() };
    match args.watch {
        true => watch(&client, &nodes, &ask, args.output).await,
        false => {
            let seen = ask::look(&client, &nodes, &ask).await?;
            let flows = kept(&seen.known, &ask.only, &mut Rest::new(&client)).await?;
            say(&once(&flows, seen.silent, args.output)?)
        }
    }
}

impl ClusterOf {
    async fn client(&self) -> Result<Client, Failure> {
        match self.lab.is_given() {
            true => crate::client::connect(Some(crate::lab::open(&self.lab)?.kubeconfig())).await,
            false => crate::client::connect(self.kubeconfig.clone()).await,
        }
    }
}

/// `svc/NAME` or `pod/NAME`; `None` is everything.
fn read_of(text: Option<&str>, namespace: &str) -> Result<Only, Failure> {
    let wrong = |why: &str| {
        let text = text.unwrap_or_default();
        Failure::input(format!("{text:?}: {why}; say svc/NAME or pod/NAME (either with NAMESPACE/ before NAME)"))
    };
    let Some(written) = text else { return Ok(Only::default()) };
    match Goal::parse(written, namespace) {
        Ok(Goal::Service(key, None)) => Ok(Only { service: Some(key), ..Only::default() }),
        Ok(Goal::Pod(key, None)) => Ok(Only { pod: Some(key), ..Only::default() }),
        Ok(Goal::Service(_, Some(_)) | Goal::Pod(_, Some(_))) => Err(wrong("ports cannot be picked")),
        _ => Err(wrong("it is neither a Service nor a pod")),
    }
}

/// A name that nobody has is told at once, with those much like it. Of a pod: its own addresses.
async fn must_be_there(client: &Client, only: &Only) -> Result<Vec<IpAddr>, Failure> {
    let mut addresses = Vec::new();
    let asked = [("services", &only.service), ("pods", &only.pod)];
    for (kind, key) in asked.into_iter().filter_map(|(kind, key)| Some((kind, key.as_ref()?))) {
        match object(client, kind, key).await? {
            Some(object) => addresses.extend(own_addresses(&object)),
            None => missing(client, kind, key).await?,
        }
    }
    Ok(addresses)
}

async fn object(client: &Client, kind: &str, key: &NsName) -> Result<Option<Value>, Failure> {
    let path = format!("/api/v1/namespaces/{}/{kind}/{}", key.namespace, key.name);
    let request = http::Request::get(path).body(Vec::new()).map_err(Failure::input)?;
    match client.request(request).await {
        Ok(object) => Ok(Some(object)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(Failure::no(format!("cannot ask for {key}: {}", crate::gather::agents::chain(&error)))),
    }
}

async fn missing(client: &Client, kind: &str, key: &NsName) -> Result<(), Failure> {
    let gathered = crate::gather::from_cluster(client).await?;
    let ground = Ground { facts: &gathered.facts, objects: &gathered.notes, outside: &[], family: None };
    // One that came meanwhile is there.
    match kind {
        "services" => ground.service(key).map(drop).map_err(Failure::no),
        _ => ground.pod(key).map(drop).map_err(Failure::no),
    }
}

/// A pod's; none of one that has its node's, nor of a Service.
fn own_addresses(object: &Value) -> Vec<IpAddr> {
    let ips = object["status"]["podIPs"].as_array().into_iter().flatten();
    let is_own = object["spec"]["hostNetwork"] != true;
    ips.filter(|_| is_own).filter_map(|ip| ip["ip"].as_str()?.parse().ok()).collect()
}

async fn kept(known: &[NodeFlows], only: &Only, rest: &mut Rest<'_>) -> Result<Vec<Flow>, Failure> {
    let mut flows = joined(known);
    rest.name(&mut flows).await?;
    flows.retain(|flow| only.keeps(flow));
    Ok(flows)
}

/// All pods, listed only where an agent knew no name.
struct Rest<'a> {
    client: &'a Client,
    pods: Option<Facts>,
    /// Addresses that no pod had when they were listed last.
    gone: BTreeSet<IpAddr>,
}

impl<'a> Rest<'a> {
    fn new(client: &'a Client) -> Self {
        Self { client, pods: None, gone: BTreeSet::new() }
    }

    async fn name(&mut self, told: &mut impl Nameless) -> Result<(), Failure> {
        let nameless = |told: &mut dyn Nameless| -> BTreeSet<IpAddr> {
            let parties = told.parties().into_iter().filter(|party| party.who == Who::Gone);
            parties.map(|party| party.at.ip()).collect()
        };
        if let Some(facts) = &self.pods {
            name_rest(told, &facts.pods);
        }
        if nameless(told).is_subset(&self.gone) {
            return Ok(());
        }
        let facts = crate::gather::from_cluster(self.client).await?.facts;
        name_rest(told, &facts.pods);
        self.pods = Some(facts);
        self.gone = nameless(told);
        Ok(())
    }
}

fn once(flows: &[Flow], silent: Vec<Silent>, output: OutputFormat) -> Result<String, Failure> {
    match output {
        OutputFormat::Text => Ok(table(flows, &silent)),
        OutputFormat::Json => {
            let answer = Flows { schema: SCHEMA.into(), flows: flows.to_vec(), silent };
            serde_json::to_string_pretty(&answer).map(|text| text + "\n").map_err(Failure::no)
        }
    }
}

/// Prints changes until it is told to end. What a node told last stands while it is silent.
async fn watch(client: &Client, nodes: &[Text], ask: &Ask, output: OutputFormat) -> Result<(), Failure> {
    let (mut before, mut last, mut silent) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
    let mut rest = Rest::new(client);
    loop {
        let seen = ask::look(client, nodes, ask).await?;
        tell_silence(&mut silent, &seen.silent);
        last.extend(seen.known.into_iter().map(|node| (node.node.clone(), node)));
        let known: Vec<NodeFlows> = last.values().cloned().collect();
        let after = kept(&known, &ask.only, &mut rest).await?;
        let said: Result<String, Failure> = changes(&before, &after).iter().map(|change| one(change, output)).collect();
        say(&said?)?;
        before = after;
        tokio::time::sleep(LOOK).await;
    }
}

fn one(change: &Change, output: OutputFormat) -> Result<String, Failure> {
    match output {
        OutputFormat::Text => Ok(change_line(change)),
        OutputFormat::Json => serde_json::to_string(change).map(|text| text + "\n").map_err(Failure::no),
    }
}

/// On standard error, once for each time that a node falls silent.
fn tell_silence(known: &mut BTreeSet<Text>, now: &[Silent]) {
    for Silent { node, why } in now.iter().filter(|silent| !known.contains(&silent.node)) {
        eprintln!("portolan: {node} does not answer, so its connections stand as they were: {why}");
    }
    *known = now.iter().map(|silent| silent.node.clone()).collect();
}

/// A reader that has seen enough (`| head`) ends the command.
fn say(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|_| Failure::silent(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_and_pods_are_read_and_nothing_else() {
        let key = |namespace: &str| Some(NsName::new(namespace, "web"));
        let read = |text: &str| read_of(Some(text), "default").map_err(|e| e.to_string());
        assert_eq!(read("svc/web"), Ok(Only { service: key("default"), ..Only::default() }));
        assert_eq!(read("svc/shop/web"), Ok(Only { service: key("shop"), ..Only::default() }));
        assert_eq!(read("pod/web"), Ok(Only { pod: key("default"), ..Only::default() }));
        assert_eq!(read_of(None, "default").ok(), Some(Only::default()));
        for (text, why) in [
            ("svc/web:80", "ports cannot be picked"),
            ("web", "neither a Service nor a pod"),
            ("outside:80", "neither a Service nor a pod"),
            ("svc/", "neither a Service nor a pod"),
            ("10.0.0.1:80", "neither a Service nor a pod"),
        ] {
            let said = read(text).expect_err(text);
            assert!(said.starts_with(&format!("{text:?}: ")) && said.contains(why), "{said}");
            assert!(said.contains("svc/NAME or pod/NAME"), "{said}");
        }
    }

    #[test]
    fn a_node_that_falls_silent_is_told_of_once() {
        let silent = [Silent { node: "node-2".into(), why: "no answer".to_owned() }];
        let mut known = BTreeSet::new();
        tell_silence(&mut known, &silent);
        assert!(known.contains("node-2"));
        tell_silence(&mut known, &[]);
        assert!(known.is_empty());
    }
}
