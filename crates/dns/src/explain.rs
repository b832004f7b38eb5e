//! A lookup told step by step: which names a resolver asks for, who answers each and why, and what would serve better.
//!
//! ```text
//!  Inquiry (name, types, pod) ──► candidates: search list and ndots ──► each type: site ──► Step ──► Explanation ──► JSON
//! ```
//!
//! Nothing is asked of an upstream: where one would be, its servers are named. Written as `portolan.dns/v1`.

mod advice;
mod search;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use portolan_model::NsName;
use serde::{Deserialize, Serialize};

use crate::answer::{self, Outcome};
use crate::client::Client;
use crate::message::Message;
use crate::name::Name;
use crate::rdata::Rtype;
use crate::site::Site;
use crate::wire::{Rcode, Transport, ask, question};

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
    let rtypes = if inquiry.rtypes.is_empty() { vec![Rtype::A, Rtype::AAAA] } else { inquiry.rtypes.clone() };
    let client = client(&asker, inquiry, site);
    let mut steps: Vec<Step> = Vec::new();
    for candidate in search::candidates(&inquiry.name, &asker.search, asker.ndots) {
        let told = |rtype: &Rtype| tell(site, &candidate.name, *rtype, &client, now);
        let step = Step {
            name: candidate.name.to_string(),
            search: candidate.search,
            questions: rtypes.iter().map(told).collect(),
        };
        let ends = step.ends_search();
        steps.push(step);
        if ends {
            break;
        }
    }
    let resolved = steps.last().is_some_and(Step::has_records);
    let before = steps.len() - usize::from(steps.last().is_some_and(Step::ends_search));
    let wasted_queries = before * rtypes.len();
    let mut explanation = Explanation {
        schema: SCHEMA.to_owned(),
        name: inquiry.name.clone(),
        asker,
        steps,
        resolved,
        wasted_queries,
        autopath: AutopathTold { acts: false, saves_queries: wasted_queries },
        advice: Vec::new(),
    };
    explanation.advice = advice::advice(site, &explanation);
    explanation
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
    }
}

fn client(asker: &Asker, inquiry: &Inquiry, site: &Site) -> Client {
    let address = asker.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let link = inquiry.pod.as_ref().and_then(|key| site.pods().get(key)).map_or(0, |pod| pod.link);
    let local: SocketAddr = (Ipv4Addr::UNSPECIFIED, 53).into();
    Client { addr: (address, 0).into(), local, transport: Transport::Tcp, link }
}

fn tell(site: &Site, name: &Name, rtype: Rtype, client: &Client, _now: Duration) -> Told {
    let packet = ask(0, &question(name, rtype), false, None);
    let said = answer::explain(site.records(), &packet, client.transport);
    let mut told = Told {
        rtype: rtype.to_string(),
        outcome: Ending::Silence,
        rcode: said.rcode.map(|rcode| rcode.to_string()).unwrap_or_default(),
        block: String::new(),
        plugin: "kubernetes".to_owned(),
        reason: said.note.to_owned(),
        records: Vec::new(),
        objects: said.causes.iter().map(ToString::to_string).collect(),
        upstreams: Vec::new(),
    };
    match said.outcome {
        Outcome::Silence => {}
        Outcome::Forward | Outcome::Chase(_) => told.outcome = Ending::Upstream,
        Outcome::Reply(bytes) => {
            let message = Message::parse(&bytes).expect("our own replies can be read");
            told.outcome = ending(message.rcode, !message.answers.is_empty());
            told.records = message.answers.iter().map(record).collect();
        }
    }
    told
}

fn ending(rcode: Rcode, has_records: bool) -> Ending {
    match (rcode, has_records) {
        (Rcode::NOERROR, true) => Ending::Records,
        (Rcode::NOERROR, false) => Ending::NoData,
        (Rcode::NXDOMAIN, _) => Ending::NoSuchName,
        _ => Ending::Error,
    }
}

fn record(record: &crate::message::Record) -> RecordTold {
    RecordTold {
        owner: record.owner.to_string(),
        rtype: record.rtype.to_string(),
        ttl_secs: record.ttl_secs,
        data: record.data.to_string(),
    }
}
