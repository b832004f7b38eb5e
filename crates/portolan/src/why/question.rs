//! Questions as a command line writes them, and as agents are asked. Pure.

use std::fmt::Write;
use std::net::IpAddr;

use ipnet::IpNet;
use portolan_model::{Facts, NsName};
use portolan_story::place::find;

use super::WhyArgs;
use crate::failure::Failure;

/// One thing that is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    Service(NsName),
    Pod(NsName),
    Node(String),
    /// As written.
    Rule(String),
    Route(IpNet),
    /// As written.
    Record(String),
}

/// All that a command line asks: objects, then rules, routes, records.
///
/// # Errors
/// One cannot be read; the message names it and says what can.
pub fn read(args: &WhyArgs) -> Result<Vec<Question>, Failure> {
    let objects = args.objects.iter().map(|text| object(text, &args.namespace));
    let rules = args.rule.iter().map(|text| match text.trim().is_empty() {
        true => Err("--rule is empty; say \"nat KUBE-SVC-…\", or a line of iptables-save".to_owned()),
        false => Ok(Question::Rule(text.trim().to_owned())),
    });
    let routes = args.route.iter().map(|text| route(text));
    let records = args.record.iter().map(|text| match text.trim_matches('.').is_empty() {
        true => Err(format!("--record {text:?} is no name; say web.default.svc.cluster.local")),
        false => Ok(Question::Record(text.clone())),
    });
    objects.chain(rules).chain(routes).chain(records).collect::<Result<_, String>>().map_err(Failure::input)
}

fn object(text: &str, namespace: &str) -> Result<Question, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let key = |rest: &[&str]| match rest {
        [name] if !name.is_empty() => Some(NsName::new(namespace, *name)),
        [namespace, name] if !namespace.is_empty() && !name.is_empty() => Some(NsName::new(*namespace, *name)),
        _ => None,
    };
    let read = match parts.as_slice() {
        ["svc" | "service" | "services", rest @ ..] => key(rest).map(Question::Service),
        ["po" | "pod" | "pods", rest @ ..] => key(rest).map(Question::Pod),
        ["no" | "node" | "nodes", name] if !name.is_empty() => Some(Question::Node((*name).to_owned())),
        _ => None,
    };
    read.ok_or_else(|| {
        format!("OBJECT {text:?}: say svc/NAME, svc/NAMESPACE/NAME, pod/NAME, pod/NAMESPACE/NAME or node/NAME")
    })
}

fn route(text: &str) -> Result<Question, String> {
    let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    net.map(|net| Question::Route(net.trunc()))
        .map_err(|_| format!("--route {text:?}: say a prefix or an address, such as 10.244.1.0/26"))
}

impl Question {
    /// The object is there.
    ///
    /// # Errors
    /// It is not; the message names those whose names are near.
    pub fn check(&self, facts: &Facts) -> Result<(), find::NotFound> {
        match self {
            Self::Service(key) if !facts.services.contains_key(key) => {
                Err(find::unknown_key("Service", key, facts.services.keys()))
            }
            Self::Pod(key) if !facts.pods.contains_key(key) => Err(find::unknown_key("Pod", key, facts.pods.keys())),
            Self::Node(name) if !facts.nodes.contains_key(name.as_str()) => {
                Err(find::unknown("Node", name, facts.nodes.keys().map(ToString::to_string)))
            }
            _ => Ok(()),
        }
    }

    /// As an agent is asked: `object=Service/default/web`, encoded.
    pub fn parameter(&self) -> String {
        match self {
            Self::Service(key) => format!("object=Service/{}", encoded(&key.to_string())),
            Self::Pod(key) => format!("object=Pod/{}", encoded(&key.to_string())),
            Self::Node(name) => format!("object=Node/{}", encoded(name)),
            Self::Rule(text) => format!("rule={}", encoded(text)),
            Self::Route(net) => format!("route={}", encoded(&net.to_string())),
            Self::Record(name) => format!("record={}", encoded(name)),
        }
    }
}

/// In words.
impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Service(key) => write!(f, "Service {key}"),
            Self::Pod(key) => write!(f, "Pod {key}"),
            Self::Node(name) => write!(f, "Node {name}"),
            Self::Rule(text) => write!(f, "rule {text}"),
            Self::Route(net) => write!(f, "route {net}"),
            Self::Record(name) => write!(f, "record {name}"),
        }
    }
}

/// For a URI's query: everything but letters, digits and `-._~/` by its bytes (RFC 3986 §2.1).
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => out.push(byte as char),
            other => write!(out, "%{other:02X}").expect("writing to a String cannot fail"),
        }
    }
    out
}
