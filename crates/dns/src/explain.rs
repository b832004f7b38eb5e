//! A lookup told step by step: which names a resolver asks for, who answers each and why, and what would serve better.
//!
//! ```text
//!  Inquiry (name, types, pod) ──► candidates: search list and ndots ──► each type: site ──► Step ──► Explanation ──► JSON
//! ```
//!
//! Nothing is asked of an upstream: where one would be, its servers are named, or what a cache keeps of them is told. Written as `portolan.dns/v1`.

mod advice;
mod kept;
mod search;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use portolan_model::NsName;
use serde::{Deserialize, Serialize};

use crate::build::Rr;
use crate::client::Client;
use crate::corefile::config::Target;
use crate::explain::search::Candidate;
use crate::kubernetes::Why;
use crate::name::Name;
use crate::plugin::Plugin;
use crate::pods::Pods;
use crate::rdata::Rtype;
use crate::site::{Head, Site, Verdict};
use crate::wire::{Query, Rcode, Transport, ask, question};

/// Name of the form that an [`Explanation`] is written in.
pub const SCHEMA: &str = "portolan.dns/v1";

/// What is to be explained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inquiry {
    /// The name as a program would give it to its resolver: a final dot makes it absolute.
    pub name: String,
    /// Types to ask for; empty: A and AAAA, as resolvers do.
    pub rtypes: Vec<Rtype>,
    /// The pod that asks: gives address, search list and ndots if this server knows it.
    pub pod: Option<NsName>,
    /// Where the query comes from, in place of the pod's own address.
    pub address: Option<IpAddr>,
    /// The search list, in place of the pod's own.
    pub search: Option<Vec<Name>>,
    /// ndots, in place of the pod's own.
    pub ndots: Option<u8>,
}

/// A lookup as it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// [`SCHEMA`].
    pub schema: String,
    /// The name as it was given.
    pub name: String,
    /// Who asks.
    pub asker: Asker,
    /// What a resolver asks for, in order, up to the one that ends the search.
    pub steps: Vec<Step>,
    /// Some step brought records.
    pub resolved: bool,
    /// Queries that brought nothing before the one that did; all of them, if none did.
    pub wasted_queries: usize,
    /// Search help.
    pub autopath: AutopathTold,
    /// What to change, the most telling first.
    pub advice: Vec<Advice>,
}

/// Who asks, as its resolver is set up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asker {
    /// `namespace/name` of the pod, if there is one.
    pub pod: Option<String>,
    /// Address that the queries come from.
    pub address: Option<IpAddr>,
    /// Search list.
    pub search: Vec<String>,
    /// A name with fewer dots goes through the search list first.
    pub ndots: u8,
    /// What this server counted of the pod's queries; `None`: it does not know the pod, or nothing is counted here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<AskedSoFar>,
}

/// Queries of a pod since it is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AskedSoFar {
    /// All of them.
    pub queries: u64,
    /// Steps of its search list that ended in "no such name".
    pub wasted: u64,
}

/// One name that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// The name, absolute.
    pub name: String,
    /// The domain of the search list that it was made with; `None`: the name itself.
    pub search: Option<String>,
    /// One for each type.
    pub questions: Vec<Told>,
}

/// One question and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// `A`, `AAAA`, `SRV`…
    pub rtype: String,
    /// How it ends.
    pub outcome: Ending,
    /// Code of the reply as `dig` writes it; empty if there is none here.
    pub rcode: String,
    /// The server block that it falls to: `.:53 (Corefile:1)`; empty: none.
    pub block: String,
    /// The plugin that decided; empty: none.
    pub plugin: String,
    /// Why, in a few words.
    pub reason: String,
    /// Answer records.
    pub records: Vec<RecordTold>,
    /// Objects that they come from, `Service default/web`.
    pub objects: Vec<String>,
    /// Servers that are asked, if it is passed on.
    pub upstreams: Vec<String>,
}

/// How a question ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub enum Ending {
    Records,
    /// The name exists, without records of the type.
    NoData,
    NoSuchName,
    /// SERVFAIL, REFUSED and the like.
    Error,
    /// Nothing is sent.
    Silence,
    /// An upstream is asked; what it says is not known here.
    Upstream,
}

/// A record of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct RecordTold {
    pub owner: String,
    pub rtype: String,
    pub ttl_secs: u32,
    pub data: String,
}

/// Search help: whether it acts, and what it would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AutopathTold {
    /// The block that serves the first name has `autopath`, and it knows the client.
    pub acts: bool,
    /// Queries that it saves, or would save if it acted.
    pub saves_queries: usize,
}

/// Something to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Advice {
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub mend: String,
}

/// Tells the lookup of `inquiry`.
pub fn explain(site: &Site, inquiry: &Inquiry, now: Duration) -> Explanation {
    let asker = asker(site, inquiry);
    let client = client(&asker, inquiry, site);
    let rtypes = if inquiry.rtypes.is_empty() { vec![Rtype::A, Rtype::AAAA] } else { inquiry.rtypes.clone() };
    let candidates = search::candidates(&inquiry.name, &asker.search, asker.ndots);
    let steps = walk(site, &candidates, &rtypes, &client, now);
    // Without pods nobody's search list is known here, and each name is answered for itself.
    let alone = walk(&site.with_pods(Pods::default()), &candidates, &rtypes, &client, now);
    let wasted = wasted(&steps);
    let acts = steps.len() < alone.len();
    let saved = if acts { alone.len() - steps.len() } else { searched(&alone, &asker) };
    let helped = rtypes.iter().filter(|rtype| matches!(**rtype, Rtype::A | Rtype::AAAA)).count();
    let mut explanation = Explanation {
        schema: SCHEMA.to_owned(),
        name: inquiry.name.clone(),
        asker,
        resolved: steps.last().is_some_and(Step::has_records),
        wasted_queries: wasted * rtypes.len(),
        autopath: AutopathTold { acts, saves_queries: saved * helped },
        steps,
        advice: Vec::new(),
    };
    explanation.advice = advice::advice(site, &explanation);
    explanation
}

/// Name after name, up to the one that ends the search.
fn walk(site: &Site, candidates: &[Candidate], rtypes: &[Rtype], client: &Client, now: Duration) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for candidate in candidates {
        let told = |rtype: &Rtype| tell(site, &candidate.name, *rtype, client, now);
        steps.push(Step {
            name: candidate.name.to_string(),
            search: candidate.search.clone(),
            questions: rtypes.iter().map(told).collect(),
        });
        if steps.last().is_some_and(Step::ends_search) {
            break;
        }
    }
    steps
}

/// Steps between the first name of the search list and the one that ends the search: what a walk by the server saves. A
/// search that finds nothing is walked to its end by the resolver itself.
fn searched(steps: &[Step], asker: &Asker) -> usize {
    let is_found = steps.last().is_some_and(Step::ends_search);
    let is_first = |step: &Step| step.search.is_some() && step.search.as_ref() == asker.search.first();
    match steps.iter().position(is_first).filter(|_| is_found) {
        Some(first) => steps.len() - 1 - first,
        None => 0,
    }
}

/// Steps that brought nothing.
fn wasted(steps: &[Step]) -> usize {
    steps.len() - usize::from(steps.last().is_some_and(Step::ends_search))
}

impl Step {
    /// Some type has records.
    pub fn has_records(&self) -> bool {
        self.questions.iter().any(|told| told.outcome == Ending::Records)
    }

    /// A resolver stops here: there are records, or only an upstream knows.
    fn ends_search(&self) -> bool {
        self.questions.iter().any(|told| matches!(told.outcome, Ending::Records | Ending::Upstream))
    }
}

fn asker(site: &Site, inquiry: &Inquiry) -> Asker {
    let pod = inquiry.pod.as_ref().and_then(|key| site.pods().get(key));
    let search = inquiry.search.clone().or_else(|| pod.map(|pod| pod.search.clone())).unwrap_or_default();
    Asker {
        pod: inquiry.pod.as_ref().map(ToString::to_string),
        address: inquiry.address.or_else(|| pod.and_then(|pod| pod.addresses.first().copied())),
        search: search.iter().map(ToString::to_string).collect(),
        ndots: inquiry.ndots.or(pod.map(|pod| pod.ndots)).unwrap_or(1),
        asked: pod.map(|pod| pod.counts()).filter(|(queries, _)| *queries > 0).map(AskedSoFar::of),
    }
}

impl AskedSoFar {
    fn of((queries, wasted): (u64, u64)) -> Self {
        Self { queries, wasted }
    }
}

fn client(asker: &Asker, inquiry: &Inquiry, site: &Site) -> Client {
    let address = asker.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let link = inquiry.pod.as_ref().and_then(|key| site.pods().get(key)).map_or(0, |pod| pod.link);
    let local: SocketAddr = (Ipv4Addr::UNSPECIFIED, 53).into();
    Client { addr: (address, 0).into(), local, transport: Transport::Tcp, link }
}

fn tell(site: &Site, name: &Name, rtype: Rtype, client: &Client, now: Duration) -> Told {
    let packet = ask(0, &question(name, rtype), false, None);
    let query = Query::parse(&packet).expect("we make queries that can be read");
    let (decision, kept) = kept::follow(site, &query, client, now);
    let head = decision.head.map(|head| &site.setup().heads()[usize::from(head)]);
    let why = head.filter(|_| kept.is_none()).and_then(|head| why(site, head.block, &query, decision.by));
    let mut told = Told {
        rtype: rtype.to_string(),
        outcome: Ending::Silence,
        rcode: String::new(),
        block: head.map(|head| block(site, head)).unwrap_or_default(),
        plugin: decision.by.name().to_owned(),
        reason: why.as_ref().map_or_else(|| reason(decision.by, head.is_some()), |why| why.note.to_owned()),
        records: Vec::new(),
        objects: why.iter().flat_map(|why| &why.causes).map(ToString::to_string).collect(),
        upstreams: Vec::new(),
    };
    match decision.verdict {
        Verdict::Silence => {}
        Verdict::Transfer(_) => told.outcome = Ending::Records,
        Verdict::Ask(ask) => {
            told.outcome = Ending::Upstream;
            told.records = ask.chain.iter().map(|link| record(&link.record())).collect();
            told.upstreams = servers(site, ask.group);
            if let Some(link) = ask.chain.last() {
                told.reason = format!("an alias of {}, which an upstream is asked for", link.target);
            }
        }
        Verdict::Reply(reply) => {
            told.rcode = reply.rcode.to_string();
            told.outcome = ending(reply.rcode, !reply.answers.is_empty());
            told.records = reply.answers.iter().map(record).collect();
        }
    }
    if let Some(kept) = kept.filter(|_| told.outcome != Ending::Upstream) {
        told.plugin = Plugin::Cache.name().to_owned();
        told.reason = kept.words(site);
        told.upstreams = servers(site, kept.group);
    }
    told
}

/// Which objects of the cluster an answer comes from, if it comes from there.
fn why(site: &Site, block: usize, query: &Query<'_>, by: Plugin) -> Option<Why> {
    let view = site.setup().views().find(|(at, _)| *at == block).map(|(_, view)| view)?;
    matches!(by, Plugin::Kubernetes | Plugin::Autopath).then(|| view.why(site.records(), query))
}

/// What a plugin's decision means where no object says more.
fn reason(by: Plugin, has_block: bool) -> String {
    let text = match by {
        Plugin::None if !has_block => "no block is for this name",
        Plugin::None => "no plugin of the block answers it, and no forward is for it",
        Plugin::Acl => "an acl rule is for this client and name",
        Plugin::Forward => "not a name of ours: an upstream is asked",
        Plugin::Hosts => "a line of the hosts file",
        Plugin::Template => "a template fits",
        Plugin::Rewrite => "it is rewritten to what is no name",
        Plugin::Local => "a name that means the client's own machine",
        Plugin::External => "a Service's address outside the cluster",
        Plugin::Any => "ANY gets one record that says so",
        Plugin::Transfer => "a zone transfer",
        Plugin::Rrl => "too many like it came from this network",
        Plugin::Kubernetes | Plugin::Autopath => "a name of the cluster",
        Plugin::Cache | Plugin::Loop => "",
    };
    text.to_owned()
}

/// A block as people find it: its zone, port and place.
fn block(site: &Site, head: &Head) -> String {
    let place = &site.config().blocks[head.block].place;
    format!("{}:{} ({}:{})", head.zone, head.port, place.file, place.line)
}

/// The servers of a `forward` line, as a Corefile writes them.
fn servers(site: &Site, group: usize) -> Vec<String> {
    site.setup().groups()[group].forward.to.iter().map(target).collect()
}

fn target(target: &Target) -> String {
    match target {
        Target::Plain(addr) => addr.to_string(),
        Target::Tls(addr) => format!("tls://{addr}"),
        Target::Https { addr, path } => format!("https://{addr}{path}"),
        Target::File(file) => file.clone(),
    }
}

fn ending(rcode: Rcode, has_records: bool) -> Ending {
    match (rcode, has_records) {
        (Rcode::NOERROR, true) => Ending::Records,
        (Rcode::NOERROR, false) => Ending::NoData,
        (Rcode::NXDOMAIN, _) => Ending::NoSuchName,
        _ => Ending::Error,
    }
}

fn record(rr: &Rr<'_>) -> RecordTold {
    RecordTold {
        owner: rr.owner.to_string(),
        rtype: rr.rtype.to_string(),
        ttl_secs: rr.ttl_secs,
        data: rr.data.to_string(),
    }
}
