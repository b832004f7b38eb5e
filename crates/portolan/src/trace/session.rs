//! A session: what is known of the cluster, one question to it, and the packets that are followed for it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::select_all;
use portolan_model::{Snapshot, Text, resolve};
use portolan_story::evidence::{Direction, Flow, Header, NodeEvidence, Probe, Probed, Target, Watch};
use portolan_story::knows::Knows;
use portolan_story::node::NodeSettings;
use portolan_story::place::find::Ground;
use portolan_story::story::{Asked, Story};
use portolan_story::tell::tell;
use tokio::sync::OnceCell;

use super::question::{self, Ends, Found, Written};
use super::reach::Reach;
use super::watch::{Ear, Watches};
use super::{TraceArgs, live, mark, send};
use crate::failure::Failure;
use crate::gather::agents::{self, Unanswered};
use crate::gather::{self, Gathered};

/// What a node says of itself is part of the telling only.
const SETTINGS_WITHIN: Duration = Duration::from_secs(2);
/// How long an answer is waited for by default, and a connection with `--live`.
const PATIENCE: Duration = Duration::from_secs(3);
const LIVE_PATIENCE: Duration = Duration::from_secs(60);
/// A name is asked of several servers in turn before a packet is sent at all.
const DNS_PATIENCE: Duration = Duration::from_secs(40);
/// How long the answer to a connection of others is waited for, once it was seen.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Connections of others that a node may see beside those that are wanted, such as its own probes of pods.
const STRAYS: u32 = 50;

/// One question to one cluster.
pub struct Session<'a> {
    args: &'a TraceArgs,
    written: &'a Written,
    reach: &'a Reach,
    cluster: Gathered,
    outside: Vec<IpAddr>,
    found: Found,
    /// What nodes say of themselves, asked once, while the first packet is under way.
    said: OnceCell<Said>,
}

/// What nodes say of themselves.
#[derive(Debug, Default)]
struct Said {
    settings: BTreeMap<Text, NodeSettings>,
    sessions: BTreeMap<Text, Vec<portolan_story::knows::SessionNote>>,
}

impl<'a> Session<'a> {
    /// Looks at the cluster, and FROM and TO up.
    ///
    /// # Errors
    /// The cluster does not answer, or has no such places.
    pub async fn begin(args: &'a TraceArgs, written: &'a Written, reach: &'a Reach) -> Result<Self, Failure> {
        let cluster = gather::from_cluster(&reach.client).await?;
        let outside = reach.outside();
        let found = question::find(written, &ground(args, &cluster, &outside))?;
        Ok(Self { args, written, reach, cluster, outside, found, said: OnceCell::new() })
    }

    /// Sends one packet and tells of it.
    ///
    /// # Errors
    /// It could not be sent or not be followed.
    pub async fn send(&self, random: u64) -> Result<Story, Failure> {
        let patience = self.patience(PATIENCE);
        let flow = mark::mark(self.written.proto, port_of(&self.found.target), random);
        let probe = Probe {
            pod: self.found.pod.clone(),
            to: self.found.target.clone(),
            proto: self.written.proto,
            flow: flow.clone(),
            source_port: self.args.source_port,
            patience_ms: millis(patience),
            families: self.args.family.map(Into::into).into_iter().collect(),
        };
        let lasts_ms = millis(patience + DNS_PATIENCE);
        let ears = self.ears(|_| Watch { flow: flow.clone(), lasts_ms, count: 1 });
        let (watches, _) = tokio::join!(Watches::begin(&self.reach.client, ears), self.said());
        let probed = self.probe(&watches, &probe, patience).await;
        // Ended whatever came of it: nothing is to listen for a packet that was never sent.
        let (evidence, silent) = watches.end().await;
        Ok(self.tell(Some(&probed?), &evidence, &silent).await)
    }

    async fn probe(&self, watches: &Watches<'_>, probe: &Probe, patience: Duration) -> Result<Probed, Failure> {
        let Some(node) = &self.found.node else {
            let why = "outside is the host outside of a lab, and this cluster is none: trace from a node or a pod, or add --live \
                       to follow a packet that comes from elsewhere";
            return send::from_outside(self.reach.lab.as_ref().ok_or_else(|| Failure::input(why))?, probe).await;
        };
        watches.must_hear(node).map_err(|why| self.deaf(node, &why))?;
        watches.probe(node, probe, patience + DNS_PATIENCE).await.map_err(|why| self.deaf(node, &why))
    }

    /// The sender's node cannot do its part.
    fn deaf(&self, node: &str, why: &Unanswered) -> Failure {
        let text = format!("cannot trace from {}: {node} says: {why}", self.args.from);
        match why.status {
            Some(501) => Failure::machine(text),
            _ => Failure::no(format!("{text}; `portolan status` shows how its agent is")),
        }
    }

    /// Follows the next `count` connections of others; fewer, and at least one that says so, if time is up.
    ///
    /// # Errors
    /// It is not clear which packets are meant, or no node listens.
    pub async fn follow(&self, count: u32) -> Result<Vec<Story>, Failure> {
        let patience = self.patience(LIVE_PATIENCE);
        let ends = question::ends(self.written, &self.found.target, &self.cluster.facts)?;
        let sources = question::sources(self.written.from.as_ref(), &self.ground());
        let ears = self.ears(|node| self.live_watch(node, &ends, &sources, count, patience));
        let (watches, _) = tokio::join!(Watches::begin(&self.reach.client, ears), self.said());
        if watches.nodes().next().is_none() {
            let why: Vec<String> = watches.silent.iter().map(|(node, why)| format!("{node}: {why}")).collect();
            return Err(Failure::no(format!("no node can listen: {}", why.join("; "))));
        }
        let wanted = |header: &Header| {
            ends.fronts.contains(&header.dst) && (sources.is_empty() || sources.contains(&header.src.ip()))
        };
        self.until_seen(&watches, wanted, count, patience).await;
        let (evidence, silent) = watches.end().await;
        let mut flows = live::by_connection(&evidence);
        flows.retain(|flow| begins(flow).is_some_and(|passage| wanted(&passage)));
        flows.truncate(usize::try_from(count).unwrap_or(usize::MAX));
        if flows.is_empty() {
            return Ok(vec![self.tell(None, &[], &silent).await]);
        }
        let mut stories = Vec::new();
        for flow in flows {
            stories.push(self.tell(None, &flow, &silent).await);
        }
        Ok(stories)
    }

    /// The sender's node hears the sender alone; the others must also hear what a node made of its packets.
    fn live_watch(&self, node: &Text, ends: &Ends, sources: &[IpAddr], count: u32, patience: Duration) -> Watch {
        let is_senders = self.found.node.as_ref() == Some(node);
        let mut heard = sources.to_vec();
        if !is_senders && !sources.is_empty() {
            heard.extend(self.cluster.facts.nodes.values().flat_map(|node| node.addresses.iter().copied()));
        }
        let destinations = ends.fronts.iter().chain(&ends.behind).copied().collect();
        Watch {
            flow: Flow::Live { proto: self.written.proto, sources: heard, destinations },
            lasts_ms: millis(patience + 2 * ANSWER_WITHIN + DNS_PATIENCE),
            count: if is_senders { count } else { count + STRAYS },
        }
    }

    /// Waits until some node has seen `count` wanted connections begin, and then a little for their answers.
    async fn until_seen(
        &self,
        watches: &Watches<'_>,
        wanted: impl Fn(&Header) -> bool,
        count: u32,
        patience: Duration,
    ) {
        let until = Instant::now() + patience;
        let hearing = watches.nodes().map(|node| hear(watches, node, &wanted, count, until).boxed_local());
        let mut hearing: Vec<_> = hearing.collect();
        while !hearing.is_empty() {
            let (heard, _, rest) = select_all(hearing).await;
            if heard {
                return;
            }
            hearing = rest;
        }
    }

    fn ears(&self, watch: impl Fn(&Text) -> Watch) -> Vec<Ear> {
        let nodes = self.cluster.facts.nodes.iter();
        nodes.map(|(name, node)| Ear { node: name.clone(), ready: node.ready, watch: watch(name) }).collect()
    }

    fn patience(&self, default: Duration) -> Duration {
        self.args.timeout.map_or(default, Duration::from_secs)
    }

    fn ground(&self) -> Ground<'_> {
        ground(self.args, &self.cluster, &self.outside)
    }

    /// What nodes say of themselves; asked the first time only.
    async fn said(&self) -> &Said {
        let ask = async {
            let nodes: Vec<Text> = self.cluster.facts.nodes.keys().cloned().collect();
            let client = &self.reach.client;
            let (settings, status) = tokio::join!(
                agents::ask_all::<NodeSettings>(client, &nodes, "settings", SETTINGS_WITHIN),
                agents::ask_all::<serde_json::Value>(client, &nodes, "status", SETTINGS_WITHIN),
            );
            let answered = |(node, answer): (Text, Result<NodeSettings, Unanswered>)| Some((node, answer.ok()?));
            let sessions = |(node, answer): (Text, Result<serde_json::Value, Unanswered>)| {
                Some((node, sessions_of(&answer.ok()?)))
            };
            Said {
                settings: settings.into_iter().filter_map(answered).collect(),
                sessions: status.into_iter().filter_map(sessions).collect(),
            }
        };
        self.said.get_or_init(|| ask).await
    }

    async fn tell(
        &self,
        probed: Option<&Probed>,
        evidence: &[NodeEvidence],
        silent: &BTreeMap<Text, Unanswered>,
    ) -> Story {
        let said = self.said().await;
        let asked = Asked {
            from: self.args.from.clone(),
            to: self.args.to.clone(),
            proto: self.written.proto,
            live: self.args.live,
        };
        let knows = Knows {
            views: self.views(said, evidence),
            objects: self.cluster.notes.clone(),
            sessions: said.sessions.clone(),
            silent: silent.iter().map(|(node, why)| (node.clone(), why.to_string())).collect(),
            now_secs: self.cluster.now.as_second(),
        };
        tell(asked, probed, evidence, &knows)
    }

    /// The cluster as each node that matters here sees it: the sender's, and those that saw the packet.
    fn views(&self, said: &Said, evidence: &[NodeEvidence]) -> BTreeMap<Text, Arc<Snapshot>> {
        let saw = evidence.iter().filter(|told| !told.passages.is_empty()).map(|told| &told.node);
        let mut matter: Vec<&Text> = saw.chain(&self.found.node).collect();
        if matter.is_empty() {
            matter.extend(self.cluster.facts.nodes.keys().next());
        }
        let view = |node: &Text| {
            // A node that does not answer plans as the others do.
            let settings = said.settings.get(node).or_else(|| said.settings.values().next())?;
            let settings = portolan_model::Settings { node: node.clone(), ..settings.settings.clone() };
            let mut facts = self.cluster.facts.clone();
            let ports = |pod: &portolan_model::NsName| self.cluster.host_ports.get(pod).cloned().unwrap_or_default();
            let derived = crate::render::derived(&facts, node, ports);
            facts.apply_all(derived);
            Some((node.clone(), Arc::new(resolve(&facts, &Snapshot::empty(Arc::new(settings)), &facts.all()).0)))
        };
        matter.into_iter().filter_map(view).collect()
    }
}

fn ground<'g>(args: &TraceArgs, cluster: &'g Gathered, outside: &'g [IpAddr]) -> Ground<'g> {
    Ground { facts: &cluster.facts, objects: &cluster.notes, outside, family: args.family.map(Into::into) }
}

/// Whether a node has seen `count` wanted connections; their answers are waited for, a little.
async fn hear(
    watches: &Watches<'_>,
    node: &str,
    wanted: &impl Fn(&Header) -> bool,
    count: u32,
    until: Instant,
) -> bool {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let (mut known, mut answers_until) = (0, None::<Instant>);
    loop {
        let left = answers_until.unwrap_or(until).saturating_duration_since(Instant::now());
        let Ok(seen) = watches.seen(node, known, left).await else { return answers_until.is_some() };
        known = seen.packets.len();
        let begun = seen.packets.iter().filter(|(way, header)| *way == Direction::Forth && wanted(header));
        let begun: std::collections::BTreeSet<_> = begun.map(|(_, header)| header.src).collect();
        let answered = seen.packets.iter().filter(|(way, _)| *way == Direction::Back).count();
        if begun.len() >= count {
            answers_until.get_or_insert(Instant::now() + ANSWER_WITHIN);
        }
        let over = answers_until.unwrap_or(until) <= Instant::now();
        if over || (answers_until.is_some() && answered >= count) {
            return answers_until.is_some();
        }
    }
}

/// How a connection's first packet came to the first node that it came to: as no node left it.
fn begins(flow: &[NodeEvidence]) -> Option<Header> {
    let forth = || flow.iter().flat_map(|told| &told.passages).filter(|passage| passage.direction == Direction::Forth);
    let is_first =
        |header: &Header| !forth().any(|passage| live::out(passage) == *header && passage.entered != *header);
    forth().map(|passage| passage.entered).find(is_first)
}

fn sessions_of(status: &serde_json::Value) -> Vec<portolan_story::knows::SessionNote> {
    let rows = status["bgp"]["sessions"].as_array().into_iter().flatten();
    let note = |row: &serde_json::Value| {
        Some(portolan_story::knows::SessionNote {
            peer: row["peer"].as_str()?.parse().ok()?,
            state: row["state"].as_str()?.into(),
            up_secs: row["uptimeSecs"].as_u64(),
            last_error: row["lastError"].as_str().map(str::to_owned),
        })
    };
    rows.filter_map(note).collect()
}

fn port_of(target: &Target) -> u16 {
    match target {
        Target::Address(at) => at.port(),
        Target::Name(_, port) => *port,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
