//! Story: what became of a packet, hop by hop, and why. What `--output json` prints; fields are only ever added to a version.

use portolan_model::verdict::Outcome;
use portolan_model::{ObjectRef, Proto, Text};
use serde::{Deserialize, Serialize};

use crate::evidence::{DnsTold, FlowEntry, Header, Hook, RouteTold, Source};

/// Version of the shape below.
pub const SCHEMA: &str = "portolan.story/v1";

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Story {
    /// [`SCHEMA`].
    pub schema: Text,
    /// What was asked.
    pub asked: Asked,
    /// Seen, or foreseen.
    pub source: Source,
    /// The answer, in short.
    pub verdict: Verdict,
    /// The name's way through DNS, if a name was asked for.
    pub dns: Option<DnsTold>,
    /// Towards the destination.
    pub hops: Vec<Hop>,
    /// The answer's way back.
    pub back: Vec<Hop>,
    /// What the oracle says beside it.
    pub oracle: Oracle,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// As written, `pod/client`.
    pub from: String,
    /// As written, `svc/web:80`.
    pub to: String,
    /// Transport.
    pub proto: Proto,
    /// The next packet of others, not one of ours.
    pub live: bool,
}

/// What became of it, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// In one word.
    pub end: End,
    /// One line for people: what happened, where, by whom.
    pub says: String,
    /// Why, if it was not delivered, in one line.
    pub because: Option<String>,
    /// The object at fault.
    pub object: Option<ObjectRef>,
    /// What to do about it, in one line.
    pub mend: Option<String>,
    /// There and back, as the sender saw it; microseconds. `None`: nothing was sent.
    pub took_us: Option<u64>,
}

/// How it ended, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum End {
    /// It arrived and was answered. Of a UDP packet: it arrived, and nobody refused it.
    Delivered,
    /// Somebody refused it, and said so.
    Refused,
    /// A rule dropped it.
    Dropped,
    /// No route led on.
    Unroutable,
    /// It arrived, or seemed to leave well, and nothing came back.
    Unanswered,
    /// The name leads nowhere.
    NoSuchName,
    /// It could not be sent.
    NotSent,
    /// `--live`: nothing came in time.
    NotSeen,
}

impl End {
    /// The exit code is 0.
    pub fn is_yes(self) -> bool {
        self == Self::Delivered
    }
}

/// One hop: a line by default, all of it with `-v`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hop {
    /// What sort of hop.
    pub stage: Stage,
    /// On which node; `None` outside of all.
    pub node: Option<Text>,
    /// Microseconds since the packet was first seen on this node; `None` where it is foreseen.
    pub at_us: Option<u64>,
    /// In the words of Kubernetes, one line.
    pub says: String,
    /// Nothing of note: in text it is shown with `-v` only.
    #[serde(default)]
    pub quiet: bool,
    /// kube-proxy's own words for it: chains, in order.
    pub chains: Vec<Text>,
    /// What caused it, nearest first.
    pub objects: Vec<ObjectRef>,
    /// Before and after, where something was rewritten.
    pub change: Option<(Header, Header)>,
    /// Rules, in order, for `-v`.
    pub rules: Vec<RuleLine>,
    /// Endpoints that might have been taken, the taken one first, and those that may not.
    pub choices: Vec<Choice>,
    /// The conntrack entry, at the hop that tells of it.
    pub flow: Option<FlowEntry>,
    /// The route, at the hop that tells of it.
    pub route: Option<RouteTold>,
}

/// What sort of hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// A name is asked for.
    Dns,
    /// It leaves the sender, or comes to a node.
    Arrive,
    /// A Service claims it, and an endpoint is chosen.
    Service,
    /// The destination is rewritten.
    Dnat,
    /// A rule decides whether it may pass.
    Filter,
    /// The node's routes decide where it goes.
    Route,
    /// The source is rewritten, or not.
    Snat,
    /// Conntrack knows the flow.
    Conntrack,
    /// A pod, a process of a node, or a host gets it.
    Deliver,
    /// It ends here.
    End,
}

/// One rule that the packet met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleLine {
    /// Hook of the kernel's.
    pub hook: Hook,
    /// Such as `ip nat`.
    pub table: Text,
    /// Chain.
    pub chain: Text,
    /// The rule, or `policy accept`.
    pub text: String,
    /// Not one of ours.
    pub foreign: bool,
    /// Objects behind it.
    pub objects: Vec<ObjectRef>,
}

/// An endpoint that was chosen, might have been, or may not be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Choice {
    /// Address and port.
    pub endpoint: std::net::SocketAddr,
    /// The Pod behind it.
    pub pod: Option<portolan_model::NsName>,
    /// Its node.
    pub node: Option<Text>,
    /// Its EndpointSlice.
    pub slice: Option<portolan_model::NsName>,
    /// How likely it was, 0 to 1.
    pub chance: f64,
    /// It was the one.
    pub taken: bool,
    /// Why it may not be chosen, in one line.
    pub left_out: Option<String>,
}

/// The oracle beside the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Oracle {
    /// What may become of such a packet, by what Services promise; by node, in the order of the hops.
    pub allowed: Vec<(Text, Vec<Outcome>)>,
    /// What differs, in one line; `None`: kernel and oracle agree.
    pub differs: Option<String>,
}
